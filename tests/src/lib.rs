//! Support for whole-deployment tests: real processes, real disks, real data.

pub mod deployment;
pub mod shared;
pub mod source;
