//! Tiles: a log as immutable files (C2SP tlog-tiles).
//!
//! Tile `n` of level `l` holds up to 256 hashes, each the root of `256^l`
//! entries. So any proof is computed from a few files, and full ones never change.

use crate::audit::ENTRY_BYTES_MAX;
use crate::audit::merkle::{Hash, node_hash};
use crate::audit::proof::{NodeSource, ProofError};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Hashes or entries in a full tile.
pub const WIDTH: u16 = 256;
/// Levels of the tree that a tile spans.
const HEIGHT: u8 = 8;
/// The highest level that a path may name.
const LEVEL_MAX: u8 = 63;
/// Longest path, in bytes: the largest index takes seven elements.
const PATH_BYTES_MAX: usize = 64;

/// What is wrong with a path or with a tile's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// Not a path of a tile.
    #[error("{0:?} is not the path of a tile")]
    Path(String),
    /// Not as many hashes as the path says.
    #[error("{tile}: {bytes} bytes, expected {expected}")]
    Length {
        /// Which.
        tile: Tile,
        /// Got.
        bytes: usize,
        /// Should be.
        expected: usize,
    },
    /// Not as many entries as the path says, each behind its length.
    #[error("{tile}: the bundle breaks off or goes on at its entry {at}")]
    Bundle {
        /// Which.
        tile: Tile,
        /// Counted from the bundle's start.
        at: usize,
    },
}

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TileKind {
    /// Hashes of this level; 0 for leaf hashes.
    Hashes(u8),
    /// Entries as they were hashed.
    Entries,
}

/// One tile's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    /// What it holds.
    pub kind: TileKind,
    /// Its number within the level.
    pub index: u64,
    /// How many hashes or entries, 1 to 256.
    pub width: u16,
}

impl Tile {
    /// The leaf or hash that it starts with.
    pub fn start(&self) -> u64 {
        self.index.saturating_mul(u64::from(WIDTH))
    }
    /// Whether a tree of `size` has it in just this width.
    pub fn is_in(&self, size: u64) -> bool {
        let level = match self.kind {
            TileKind::Hashes(level) => level,
            TileKind::Entries => 0,
        };
        Self::at(self.kind, level, self.index, size) == Some(*self)
    }
    /// Whether a tree of `size` has at least this much of it.
    pub fn fits(&self, size: u64) -> bool {
        let level = match self.kind {
            TileKind::Hashes(level) => level,
            TileKind::Entries => 0,
        };
        Self::at(self.kind, level, self.index, size).is_some_and(|t| t.width >= self.width)
    }

    fn at(kind: TileKind, level: u8, index: u64, size: u64) -> Option<Self> {
        let hashes = size.checked_shr(u32::from(level) * u32::from(HEIGHT))?;
        let start = index.checked_mul(u64::from(WIDTH))?;
        let left = hashes.checked_sub(start).filter(|n| *n > 0)?;
        let width = u16::try_from(left).map_or(WIDTH, |n| n.min(WIDTH));
        Some(Self { kind, index, width })
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes(level) => write!(f, "tile/{level}")?,
            TileKind::Entries => f.write_str("tile/entries")?,
        }
        let (mut n, mut parts) = (self.index, Vec::new());
        loop {
            parts.push(n % 1000);
            n /= 1000;
            if n == 0 {
                break;
            }
        }
        while let Some(part) = parts.pop() {
            let more = if parts.is_empty() { "" } else { "x" };
            write!(f, "/{more}{part:03}")?;
        }
        if self.width < WIDTH {
            write!(f, ".p/{}", self.width)?;
        }
        Ok(())
    }
}

impl FromStr for Tile {
    type Err = TileError;
    fn from_str(text: &str) -> Result<Self, TileError> {
        let wrong = || TileError::Path(text.chars().take(PATH_BYTES_MAX).collect());
        if text.len() > PATH_BYTES_MAX {
            return Err(wrong());
        }
        let number = |t: &str| super::checkpoint::decimal(t).ok_or_else(wrong);
        let rest = text.strip_prefix("tile/").ok_or_else(wrong)?;
        let (kind, rest) = rest.split_once('/').ok_or_else(wrong)?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => {
                let level = u8::try_from(number(level)?).map_err(|_| wrong())?;
                if level > LEVEL_MAX {
                    return Err(wrong());
                }
                TileKind::Hashes(level)
            }
        };
        let (path, width) = match rest.split_once(".p/") {
            None => (rest, WIDTH),
            Some((path, width)) => {
                let width = u16::try_from(number(width)?).map_err(|_| wrong())?;
                if !(1..WIDTH).contains(&width) {
                    return Err(wrong());
                }
                (path, width)
            }
        };
        let mut index = 0u64;
        let mut elements = path.split('/').peekable();
        while let Some(element) = elements.next() {
            let digits = match elements.peek() {
                Some(_) => element.strip_prefix('x').ok_or_else(wrong)?,
                None => element,
            };
            if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(wrong());
            }
            let part: u64 = digits.parse().map_err(|_| wrong())?;
            index = index
                .checked_mul(1000)
                .and_then(|n| n.checked_add(part))
                .ok_or_else(wrong)?;
        }
        let out = Self { kind, index, width };
        // One path for one tile: no leading elements of zeros.
        if out.to_string() == text {
            Ok(out)
        } else {
            Err(wrong())
        }
    }
}

/// All tiles of hashes of a tree, lowest level first; entry bundles are as those of level 0.
pub fn tiles_of(size: u64) -> impl Iterator<Item = Tile> {
    (0..HEIGHT).flat_map(move |level| {
        let kind = TileKind::Hashes(level);
        (0..).map_while(move |index| Tile::at(kind, level, index, size))
    })
}

/// The content of a tile of hashes, from the stored ones.
///
/// # Errors
/// [`ProofError::Source`] when one is missing.
pub fn tile_hashes(src: &dyn NodeSource, tile: &Tile) -> Result<Vec<u8>, ProofError> {
    let level = match tile.kind {
        TileKind::Hashes(level) => level,
        TileKind::Entries => 0,
    };
    let mut out = Vec::with_capacity(usize::from(tile.width) * 32);
    for n in 0..u64::from(tile.width) {
        out.extend(src.node(level.saturating_mul(HEIGHT), tile.start() + n)?);
    }
    Ok(out)
}

/// Entries, each behind its length.
///
/// # Panics
/// When one is over [`ENTRY_BYTES_MAX`]: none such was ever appended.
pub fn encode_bundle<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let len = u16::try_from(entry.len()).expect("an entry has at most 60 KiB");
        out.extend(len.to_be_bytes());
        out.extend(entry);
    }
    out
}

const _: () = assert!(ENTRY_BYTES_MAX <= u16::MAX as usize);

/// Takes a bundle apart: exactly as many entries as `tile` says.
///
/// # Errors
/// [`TileError::Bundle`].
pub fn decode_bundle<'a>(tile: &Tile, bytes: &'a [u8]) -> Result<Vec<&'a [u8]>, TileError> {
    let mut rest = bytes;
    let mut out = Vec::with_capacity(usize::from(tile.width));
    let broken = |at: usize| TileError::Bundle { tile: *tile, at };
    while out.len() < usize::from(tile.width) {
        let at = out.len();
        let (len, after) = rest.split_first_chunk::<2>().ok_or_else(|| broken(at))?;
        let len = usize::from(u16::from_be_bytes(*len));
        let (entry, after) = after.split_at_checked(len).ok_or_else(|| broken(at))?;
        out.push(entry);
        rest = after;
    }
    if rest.is_empty() {
        Ok(out)
    } else {
        Err(broken(out.len()))
    }
}

/// Reads a tile's hashes.
///
/// # Errors
/// [`TileError::Length`].
pub(super) fn hashes(tile: &Tile, bytes: &[u8]) -> Result<Vec<Hash>, TileError> {
    let expected = usize::from(tile.width) * 32;
    if bytes.len() != expected {
        return Err(TileError::Length {
            tile: *tile,
            bytes: bytes.len(),
            expected,
        });
    }
    Ok(bytes.as_chunks::<32>().0.to_vec())
}

/// The root of a perfect subtree, from its lowest hashes: a power of two of them.
pub(super) fn perfect_root(hashes: &[Hash]) -> Hash {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        let pairs = row.as_chunks::<2>().0;
        row = pairs.iter().map(|[l, r]| node_hash(l, r)).collect();
    }
    row[0]
}

/// Where in the tiles of a tree of `size` the root of a perfect subtree is found: the tile, and which of
/// its hashes.
fn place(level: u8, index: u64, size: u64) -> Option<(Tile, std::ops::Range<usize>)> {
    let (tile_level, up) = (level / HEIGHT, level % HEIGHT);
    let first = index.checked_mul(1 << up)?;
    let number = first / u64::from(WIDTH);
    let tile = Tile::at(TileKind::Hashes(tile_level), tile_level, number, size)?;
    let from = usize::try_from(first % u64::from(WIDTH)).ok()?;
    let to = from + (1 << up);
    (to <= usize::from(tile.width)).then_some((tile, from..to))
}

/// Hashes of a tree out of its tiles. What is proved from them is checked against a root afterwards:
/// a wrong tile makes a proof that does not hold.
pub struct TileSource {
    size: u64,
    tiles: BTreeMap<Tile, Vec<Hash>>,
}

impl TileSource {
    /// Of a tree of `size`, without tiles yet.
    pub fn new(size: u64) -> Self {
        let tiles = BTreeMap::new();
        Self { size, tiles }
    }
    /// Adds a tile of that tree.
    ///
    /// # Errors
    /// [`TileError`] when it is not one, or has another length.
    pub fn add(&mut self, tile: Tile, bytes: &[u8]) -> Result<(), TileError> {
        if !tile.is_in(self.size) {
            return Err(TileError::Path(tile.to_string()));
        }
        self.tiles.insert(tile, hashes(&tile, bytes)?);
        Ok(())
    }
    /// The hashes of one tile.
    pub fn tile(&self, tile: &Tile) -> Option<&[Hash]> {
        self.tiles.get(tile).map(Vec::as_slice)
    }
}

impl NodeSource for TileSource {
    fn node(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        let missing = |reason: &str| ProofError::Source {
            level,
            index,
            reason: reason.into(),
        };
        let (tile, range) =
            place(level, index, self.size).ok_or_else(|| missing("outside the tree"))?;
        let hashes = self.tiles.get(&tile).and_then(|t| t.get(range));
        let hashes = hashes.ok_or_else(|| missing(&format!("{tile} was not read")))?;
        Ok(perfect_root(hashes))
    }
}

/// Collects which tiles a proof needs: make the proof from this first, and throw it away.
pub struct Wanted {
    size: u64,
    tiles: RefCell<BTreeSet<Tile>>,
}

impl Wanted {
    /// Of a tree of `size`.
    pub fn new(size: u64) -> Self {
        let tiles = RefCell::default();
        Self { size, tiles }
    }
    /// What was asked for.
    pub fn into_tiles(self) -> BTreeSet<Tile> {
        self.tiles.into_inner()
    }
}

impl NodeSource for Wanted {
    fn node(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        let found = place(level, index, self.size).ok_or_else(|| ProofError::Source {
            level,
            index,
            reason: "outside the tree".into(),
        })?;
        self.tiles.borrow_mut().insert(found.0);
        Ok([0; 32])
    }
}
