//! RFC 6962 hashes and the compact range of a growing tree.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 hash in the tree.
pub type Hash = [u8; 32];

/// The root of the tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The hash of a leaf: SHA-256(0x00 ‖ entry).
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new()
        .chain_update([0])
        .chain_update(entry)
        .finalize()
        .into()
}

/// The hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new()
        .chain_update([1])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// The roots of the perfect subtrees that a tree of `size` leaves falls into,
/// largest (leftmost) first: one for each bit set in `size`.
///
/// Exists only if the number of roots fits the size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct CompactRange {
    size: u64,
    edge: Vec<Hash>,
}

#[derive(Serialize, Deserialize)]
struct Parts(u64, Vec<Hash>);

impl From<CompactRange> for Parts {
    fn from(r: CompactRange) -> Self {
        Parts(r.size, r.edge)
    }
}

impl TryFrom<Parts> for CompactRange {
    type Error = String;
    fn try_from(Parts(size, edge): Parts) -> Result<Self, String> {
        if edge.len() != size.count_ones() as usize {
            return Err(format!(
                "a tree of {size} leaves has {} subtree roots, got {}",
                size.count_ones(),
                edge.len()
            ));
        }
        Ok(Self { size, edge })
    }
}

impl CompactRange {
    /// How many leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf. `completed` sees every inner node that this leaf
    /// completes, as (level, index within the level, hash), lowest first.
    pub fn append(&mut self, leaf: Hash, mut completed: impl FnMut(u8, u64, &Hash)) {
        let index = self.size;
        let mut hash = leaf;
        let mut level = 0u8;
        while index >> level & 1 == 1 {
            let left = self
                .edge
                .pop()
                .expect("one root per bit set in the size, and this bit is set");
            hash = node_hash(&left, &hash);
            level += 1;
            completed(level, index >> level, &hash);
        }
        self.edge.push(hash);
        self.size += 1;
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        let mut right_to_left = self.edge.iter().rev();
        match right_to_left.next() {
            None => empty_root(),
            Some(last) => right_to_left.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}
