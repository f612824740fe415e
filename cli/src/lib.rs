//! Quorate for people.
pub mod sample;
