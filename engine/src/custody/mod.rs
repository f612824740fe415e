//! A custodian: what it stores, when it releases, what it refuses for ever.
pub mod protocol;
