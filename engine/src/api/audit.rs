//! The audit plane's JSON. Checkpoints, tiles and bundles are as their standards say.

use crate::audit::Opening;
use serde::{Deserialize, Serialize};

/// `GET /openings/{bundle}`: what remains of the openings of 256 entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleOpenings {
    /// Entries that have some, by index.
    pub entries: Vec<EntryOpenings>,
}

/// Salts and values behind an entry's commitments, in its order. Erased ones are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryOpenings {
    /// The entry.
    pub entry: u64,
    /// Its openings.
    pub openings: Vec<Opening>,
}
