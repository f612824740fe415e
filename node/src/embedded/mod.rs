//! The embedded deployment: every node of every entity in one process, for trying out.
//!
//! Real TLS over loopback, real raft, real files; only the separation of
//! entities is missing, because one hand made all the keys. It says so.

pub mod layout;
pub mod liar;
pub mod topology;
