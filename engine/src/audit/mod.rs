//! The custodian's log: what was done with keys, in an order nobody can rewrite.
//!
//! ```text
//!  command ──apply──▶ Entry (JSON) ──leaf hash──▶ CompactRange ──▶ root, size
//!                        │                            │
//!                     ENTRY row                  NODE rows ──▶ inclusion, consistency proofs
//!                     OPENING row (salts and values, erasable, never hashed)
//! ```
//!
//! Hashes are those of RFC 6962 section 2.1 (leaf 0x00, node 0x01, SHA-256), so
//! that any Certificate Transparency verifier can check them; the form in which
//! a log is published and checked by others (C2SP tlog-tiles, checkpoints,
//! cosignatures) is [`publish`]. The compact range ("right edge") is the idea of
//! Trillian's and Tessera's append path: the perfect subtrees' roots suffice to
//! append and to state the root, so appending costs O(1) reads whatever the size.
//!
//! An entry is the very bytes that were hashed. Sixteen random bytes in it,
//! drawn by the leader before proposing, keep anyone from guessing a withheld
//! entry through its leaf hash.

mod entry;
mod log;
mod merkle;
mod proof;
pub mod publish;

pub use entry::{
    Blinds, Entry, EntryKind, EntryTooLarge, FORMAT, HexBytes, KeyLine, KeyOutcome, Opening,
    OpeningKind, OperatorMark, Subject,
};
pub use log::{
    EntryRef, Log, NodeRows, TABLE_ENTRY, TABLE_HEAD, TABLE_NODE, TABLE_OPENING, TIME_MS_MAX,
    entry_bytes, erase_openings, openings,
};
pub use merkle::{CompactRange, Hash, empty_root, leaf_hash, node_hash};
pub use proof::{
    NodeSource, ProofError, consistency_proof, inclusion_proof, root_at, verify_consistency,
    verify_inclusion,
};

/// Largest entry, in bytes of its JSON.
pub const ENTRY_BYTES_MAX: usize = 60 << 10;

#[cfg(test)]
pub(crate) mod tests;
