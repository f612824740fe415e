//! How a custodian's node gets at its root key: slots, providers, ceremonies.
//!
//! ```text
//!  passphrase ─ Argon2id ─┐
//!  shares ── combine ─────┤                 ┌─ slot "main"      ─┐
//!  key file ──────────────┼─▶ unlock key ─▶ │  root, sealed      ├─▶ root ─▶ key versions
//!  token ── unwrap ───────┘                 └─ slot "emergency" ─┘
//! ```
//!
//! A [`SlotTable`] is what a node stores of it: for each slot the provider's
//! parameters, the public half of its unlock key, and the root sealed to it.
//! [`Gathering`] collects holders' shares to open or check a slot; [`Rekey`]
//! deals new ones and counts only when every holder has proved possession.
//!
//! Deliberately not here: files, prompts, tokens, timers (`node::custodian`,
//! `cli`); time and randomness come in as arguments.

mod ceremony;
mod share;
mod slot;
mod tree;

pub use ceremony::{CEREMONY_IDLE_MS_MAX, CeremonyError, Gathered, Gathering, REKEY_MS_MAX, Rekey};
pub use share::{HeldShare, ShareTextError};
pub use slot::{
    PASSPHRASE_BYTES_MAX, PASSPHRASE_BYTES_MIN, PassphraseParams, Provider, SLOTS_MAX, ShareParams,
    Slot, SlotError, SlotPublic, SlotTable, TABLE_BYTES_MAX, TOKEN_WRAPPED_BYTES_MAX, TokenParams,
};
pub use tree::{HOLDERS_MAX, HolderTree, TreeError};

use crate::types::Secret;

/// Where the unlock key of a slot comes from. The node's providers do I/O
/// (files, tokens); [`Passphrase`] and a finished [`Gathering`] do none.
pub trait KeyProvider {
    /// The unlock key of `slot`.
    ///
    /// # Errors
    /// In words: what, where, and what to do. Never a secret.
    fn unlock_key(&self, slot: &SlotPublic) -> Result<Secret<32>, String>;
}

/// A passphrase that a person typed.
pub struct Passphrase(pub zeroize::Zeroizing<Vec<u8>>);

impl KeyProvider for Passphrase {
    fn unlock_key(&self, slot: &SlotPublic) -> Result<Secret<32>, String> {
        let Provider::Passphrase(params) = &slot.provider else {
            return Err(format!(
                "slot {} is opened by {}, not by a passphrase",
                slot.name,
                slot.provider.as_str()
            ));
        };
        params.derive(&self.0).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests;
