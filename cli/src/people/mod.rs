//! People: their wallets, what their devices sign, and whom they believe.
//!
//! ```text
//!  login ─▶ Wallet (device.json) ─▶ Person ─ grants ─────▶ client ─▶ home
//!             │                       └──── statements ──▶ client ─▶ home ─▶ custodians
//!             └ account statements ─▶ Registry (an authority's certificate) ─▶ custodians
//!                                            signed heads ─▶ Known::judge: done, or what is missing
//! ```
//!
//! Deliberately not here: what a statement means or who may sign it; that is
//! decided in `quorate_engine::authz`, at every custodian.

pub mod account;
pub mod card;
pub mod known;
pub mod person;
pub mod place;
pub mod registry;
pub mod service;
pub mod wallet;

pub use card::Card;
pub use known::{Judged, Known};
pub use person::{Person, Wants, now_ms};
pub use registry::Registry;
pub use service::Service;
pub use wallet::Wallet;
