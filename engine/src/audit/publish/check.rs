//! Checking a published log, and saying which entries are wrong.
//!
//! Hashes are compared from the leaves up: an entry with its leaf, a full tile
//! with its hash one level above, and the edge of the tree with the root that a
//! checkpoint states. So a single change is found where it was made; one that
//! was carried up to the root is found by its root, and by
//! [`first_difference`] from an earlier copy of the tiles.

use super::checkpoint::Checkpoint;
use super::tile::{
    Tile, TileError, TileKind, TileSource, WIDTH, decode_bundle, hashes, perfect_root, tiles_of,
};
use crate::audit::entry::Entry;
use crate::audit::merkle::{Hash, leaf_hash};
use crate::audit::proof::{NodeSource, ProofError, root_at};
use crate::types::{CustodianId, WallMs};
use std::ops::Range;

/// Most findings of one check: past these a log is simply another one.
const FOUND_MAX: usize = 1_000;

/// Where a log's tiles are had from.
pub trait Published {
    /// The bytes of a tile.
    ///
    /// # Errors
    /// In words, when they are not to be had.
    fn tile(&self, tile: &Tile) -> Result<Vec<u8>, String>;
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not to be had: nothing can be said of its entries.
    #[error("{tile} cannot be read: {why}")]
    Missing {
        /// Which.
        tile: Tile,
        /// Why.
        why: String,
    },
    /// Not a tile.
    #[error(transparent)]
    Malformed(#[from] TileError),
    /// The tiles do not lead to the root.
    #[error("the tiles do not give the root that the checkpoint states")]
    Root,
    /// A tile is not the one that the level above was made of.
    #[error("{tile} does not give the hash that stands one level above it")]
    Tile {
        /// Which.
        tile: Tile,
    },
    /// The entry is not the one whose hash is published.
    #[error("the entry does not give its published hash: it was changed, or stands elsewhere")]
    Leaf,
    /// Not an entry of the form known here.
    #[error("the entry cannot be read: {0}")]
    Unreadable(String),
    /// It says it stands elsewhere.
    #[error("the entry says that it is number {0}")]
    Index(u64),
    /// It says it is another custodian's.
    #[error("the entry says that it is of custodian {0}")]
    Custodian(CustodianId),
    /// Its time lies before its predecessor's.
    #[error("the entry's time is {time_ms}, its predecessor's {previous_ms}: back-dated")]
    Backdated {
        /// Its time.
        time_ms: WallMs,
        /// The time before.
        previous_ms: WallMs,
    },
}

/// A fault, and the entries it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// From the first up to, not including, the last.
    pub entries: Range<u64>,
    /// What.
    pub fault: Fault,
}

#[derive(Default)]
struct Findings(Vec<Found>);

impl Findings {
    fn add(&mut self, entries: Range<u64>, fault: impl Into<Fault>) {
        if self.0.len() < FOUND_MAX {
            let fault = fault.into();
            self.0.push(Found { entries, fault });
        }
    }
}

/// The entries under `count` hashes from `first` on, of tiles of `level`.
fn under(level: u8, first: u64, count: u64, size: u64) -> Range<u64> {
    let shift = u32::from(level) * 8;
    let at = |n: u64| {
        n.checked_mul(1 << shift.min(63))
            .map_or(size, |n| n.min(size))
    };
    at(first)..at(first + count)
}

fn read(log: &dyn Published, tile: &Tile) -> Result<Vec<Hash>, Fault> {
    let bytes = log
        .tile(tile)
        .map_err(|why| Fault::Missing { tile: *tile, why })?;
    Ok(hashes(tile, &bytes)?)
}

/// Checks all tiles of hashes of the tree that `head` states. Empty: its root is that of the leaf hashes in
/// the tiles of level 0.
pub fn check_log(head: &Checkpoint, log: &dyn Published) -> Vec<Found> {
    let size = head.size;
    let mut found = Findings::default();
    let mut edge = TileSource::new(size);
    let mut parent: Option<(Tile, Vec<Hash>)> = None;
    let mut whole = true;
    for tile in tiles_of(size) {
        let TileKind::Hashes(level) = tile.kind else {
            continue;
        };
        let own = under(level, tile.start(), u64::from(tile.width), size);
        let row = match read(log, &tile) {
            Ok(row) => row,
            Err(fault) => {
                whole = false;
                found.add(own, fault);
                continue;
            }
        };
        if tile.width < WIDTH {
            let bytes: Vec<u8> = row.concat();
            edge.add(tile, &bytes)
                .expect("it is of this tree and of this length");
            continue;
        }
        let above = tile_above(&tile, size);
        if parent.as_ref().is_none_or(|(t, _)| *t != above) {
            // When it cannot be read, its own turn says so.
            parent = read(log, &above).ok().map(|row| (above, row));
        }
        let position = usize::try_from(tile.index % u64::from(WIDTH)).unwrap_or(usize::MAX);
        let stated = parent.as_ref().and_then(|(_, row)| row.get(position));
        if stated.is_some_and(|h| *h != perfect_root(&row)) {
            found.add(own, Fault::Tile { tile });
        }
    }
    match root_at(&edge, size) {
        Ok(root) if root == head.root => {}
        Err(_) if !whole => {}
        _ => found.add(0..size, Fault::Root),
    }
    found.0
}

/// The tile one level up that a full tile's hash stands in.
fn tile_above(tile: &Tile, size: u64) -> Tile {
    let level = match tile.kind {
        TileKind::Hashes(level) => level + 1,
        TileKind::Entries => 0,
    };
    let index = tile.index / u64::from(WIDTH);
    let hashes = size >> (u32::from(level) * 8).min(63);
    let left = hashes.saturating_sub(index * u64::from(WIDTH));
    let width = u16::try_from(left).map_or(WIDTH, |n| n.min(WIDTH));
    let kind = TileKind::Hashes(level);
    Tile { kind, index, width }
}

/// What [`check_entries`] is told of the log.
pub struct LogRange<'a> {
    /// Whose.
    pub custodian: &'a CustodianId,
    /// Up to here.
    pub size: u64,
    /// From here on; the ones before were checked earlier.
    pub from: u64,
    /// The time of the one before `from`.
    pub previous_ms: WallMs,
}

/// Reads entries, compares them with their published hashes and with each other, and shows each one that
/// could be read to `each`.
pub fn check_entries(
    log: &LogRange<'_>,
    published: &dyn Published,
    mut each: impl FnMut(u64, &Entry, &Hash),
) -> Vec<Found> {
    let mut found = Findings::default();
    let mut previous_ms = log.previous_ms;
    let leaves = tiles_of(log.size).take_while(|t| t.kind == TileKind::Hashes(0));
    for tile in leaves {
        let (start, width) = (tile.start(), u64::from(tile.width));
        if start + width <= log.from {
            continue;
        }
        let all = start.max(log.from)..start + width;
        let kind = TileKind::Entries;
        let bundle = Tile { kind, ..tile };
        let got = read(published, &tile).and_then(|row| {
            let why = |why| Fault::Missing { tile: bundle, why };
            Ok((row, published.tile(&bundle).map_err(why)?))
        });
        let (row, bytes) = match got {
            Ok(got) => got,
            Err(fault) => {
                found.add(all, fault);
                continue;
            }
        };
        let entries = match decode_bundle(&bundle, &bytes) {
            Ok(entries) => entries,
            Err(fault) => {
                found.add(all, fault);
                continue;
            }
        };
        for (n, (entry, leaf)) in entries.iter().zip(&row).enumerate() {
            let index = start + n as u64;
            if index < log.from {
                continue;
            }
            let one = index..index + 1;
            let own = leaf_hash(entry);
            if own != *leaf {
                found.add(one.clone(), Fault::Leaf);
            }
            let entry = match Entry::from_json(entry) {
                Ok(entry) => entry,
                Err(e) => {
                    found.add(one, Fault::Unreadable(e.to_string()));
                    continue;
                }
            };
            if entry.index != index {
                found.add(one.clone(), Fault::Index(entry.index));
            }
            if entry.custodian != *log.custodian {
                found.add(one.clone(), Fault::Custodian(entry.custodian.clone()));
            }
            if entry.time_ms < previous_ms {
                let time_ms = entry.time_ms;
                found.add(
                    one,
                    Fault::Backdated {
                        time_ms,
                        previous_ms,
                    },
                );
            }
            previous_ms = previous_ms.max(entry.time_ms);
            each(index, &entry, &own);
        }
    }
    found.0
}

/// The first of `size` leaves in which two trees differ; `None` when they are the same.
///
/// # Errors
/// [`ProofError::Source`] when a hash is missing.
pub fn first_difference(
    a: &dyn NodeSource,
    b: &dyn NodeSource,
    size: u64,
) -> Result<Option<u64>, ProofError> {
    let differ = |level, index| Ok::<_, ProofError>(a.node(level, index)? != b.node(level, index)?);
    let mut start = 0;
    for level in (0..64u8).rev().filter(|l| size >> l & 1 == 1) {
        let index = start >> level;
        start += 1 << level;
        if !differ(level, index)? {
            continue;
        }
        let (mut level, mut index) = (level, index);
        while level > 0 {
            level -= 1;
            index *= 2;
            if !differ(level, index)? {
                index += 1;
            }
        }
        return Ok(Some(index));
    }
    Ok(None)
}
