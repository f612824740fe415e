//! The log as others read it: the public standards, byte for byte.
//!
//! ```text
//!  Log ──▶ Checkpoint ──▶ Note (signed by the log, cosigned by witnesses) ──▶ TlogPolicy ──▶ TrustedHead
//!   │                                                                                            │
//!   └──▶ tiles of hashes, bundles of entries ──────────────────────────▶ check, proofs ◀─────────┘
//! ```
//!
//! C2SP signed-note, tlog-checkpoint, tlog-cosignature (Ed25519), tlog-tiles and
//! tlog-policy, over the hashes of RFC 6962. Deliberately not here: fetching,
//! caching, clocks, and ML-DSA signatures, whose lines are passed over as those
//! of unknown keys.

mod check;
mod checkpoint;
mod note;
mod policy;
mod tile;

pub use check::{Fault, Found, LogRange, Published, check_entries, check_log, first_difference};
pub use checkpoint::{
    CHECKPOINT_BYTES_MAX, Checkpoint, log_name, log_vkey, witness_name, witness_vkey,
};
pub use note::{
    KEY_NAME_BYTES_MAX, KeyName, NOTE_BYTES_MAX, NOTE_SIGNATURES_MAX, Note, NoteError,
    SignatureKind, SignatureLine, Signed, VerifierKey, signature_lines,
};
pub use policy::{
    POLICY_BYTES_MAX, POLICY_LINES_MAX, PolicyError, TlogPolicy, TrustError, TrustedHead,
};
pub use tile::{
    Tile, TileError, TileKind, TileSource, WIDTH, Wanted, decode_bundle, encode_bundle,
    tile_hashes, tiles_of,
};

#[cfg(test)]
mod tests;
