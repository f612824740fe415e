//! Auditing: published logs, read and checked from outside.
//!
//! ```text
//!  Logs (who publishes where, under which keys) ─▶ LogClient ─HTTPS─▶ audit planes
//!                                                      │
//!                                       Shelf: tiles as files ─▶ engine::audit::publish
//! ```
//!
//! What is believed comes from descriptors and log policies, never from a node
//! that is asked.

pub mod client;
pub mod key;
pub mod logs;
pub mod shelf;

pub use client::LogClient;
pub use key::AuditorKey;
pub use logs::{LogPlace, Logs};
pub use shelf::Shelf;
