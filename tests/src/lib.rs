//! Support for whole-deployment tests: real processes, real disks, real data.

pub mod deployment;
pub mod powercut;
pub mod shared;
pub mod simulation;
pub mod source;
pub mod storage_load;
