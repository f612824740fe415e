//! Sealing (contract stub; bodies follow).
pub mod labels;
pub mod message;
pub mod seal;
pub mod subkeys;
pub mod vault;
pub mod wrap;
