//! Everything that turns secrets into ciphertext and back.
//!
//! ```text
//!   data key ─┬─ subkeys ──▶ message   records of a chat
//!             │         └──▶ blob      large objects, chunk by chunk
//!             └─ sharing ──▶ share ──▶ seal   on its way (HPKE, hybrid)
//!                                  └─▶ wrap   at rest at its custodian
//!   unlock key ─▶ keyslot ─▶ root key ─▶ vault   a custodian's own keys at rest
//!   record ──▶ disclosure               to whom a disclosure order names
//!   identity and log keys ─▶ sign      statements and receipts
//! ```
//!
//! Rules: one label per purpose ([`labels`]); one cipher behind one module
//! ([`aead`]); nonces are random and come in as arguments, since the engine
//! draws no randomness itself; what a seal is bound to is length-prefixed; a
//! secret lives in a type that wipes itself, prints nothing and cannot be
//! serialised. Byte tables and vectors: `docs/format.md`. Deliberately not here:
//! key storage, files, locked memory (`node`), and the arithmetic of shares
//! ([`sharing`](crate::sharing)).

pub mod account_secret;
pub mod aead;
pub mod blob;
pub mod disclosure;
pub(crate) mod fields;
pub mod keyslot;
pub mod labels;
pub mod message;
pub mod seal;
pub mod sign;
pub mod subkeys;
pub mod vault;
pub mod wrap;

#[cfg(test)]
mod secrecy_tests;
