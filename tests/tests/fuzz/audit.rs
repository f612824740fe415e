//! What an auditor is handed: entries and proofs.

use super::codec::name;
use super::mutate::{Dice, Kind};
use super::run::Target;
use quorate_engine::audit::*;

/// An entry that is read is written the same way again: one form to hash.
pub(crate) fn log_entry() -> Target {
    let mut store = Entry::new(
        name("ch"),
        7,
        1_800_000_000_000,
        EntryKind::Release,
        [3; 16],
    );
    store.refused = Some("why \"quoted\"".into());
    store.voters = vec![1, 2, 3];
    store.chats = vec![HexBytes([9; 32])];
    let plain = Entry::new(name("is"), 0, 1, EntryKind::Freeze, [0; 16]);
    let corpus = [store, plain]
        .iter()
        .map(|e| e.to_json().expect("small"))
        .collect();
    Target {
        corpus,
        kind: Kind::Text,
        iterations: 80_000,
        allocation_bytes_max: 8 << 20,
        check: Box::new(|bytes| {
            let Ok(entry) = Entry::from_json(bytes) else {
                return false;
            };
            let Ok(json) = entry.to_json() else {
                return true;
            };
            assert_eq!(
                Entry::from_json(&json).expect("what is written is read"),
                entry
            );
            true
        }),
    }
}

/// Proofs are numbers and hashes: `kind a b hash…`. None but the true ones hold.
pub(crate) fn log_proofs() -> Target {
    let hashes: Vec<Hash> = (0..40u8).map(|n| leaf_hash(&[n])).collect();
    let root = |size: usize| {
        let mut range = CompactRange::default();
        for h in &hashes[..size] {
            range.append(*h, |_, _, _| {});
        }
        range.root()
    };
    let roots: Vec<Hash> = (0..=hashes.len()).map(root).collect();
    let encode = |kind: u8, a: u64, b: u64, proof: &[Hash]| {
        let mut out = vec![kind];
        out.extend(a.to_le_bytes());
        out.extend(b.to_le_bytes());
        out.extend(proof.iter().flat_map(|h| h.to_vec()));
        out
    };
    let source = Leaves(hashes.clone());
    let mut corpus = vec![];
    let mut dice = Dice::new(0, "proofs", 0);
    for _ in 0..40 {
        let size = 1 + dice.below(hashes.len()) as u64;
        let index = dice.below(size as usize) as u64;
        let path = inclusion_proof(&source, index, size).expect("within the tree");
        corpus.push(encode(0, index, size, &path));
        let path = consistency_proof(&source, index, size).expect("within the tree");
        corpus.push(encode(1, index, size, &path));
    }
    let check = move |bytes: &[u8]| {
        let Some((head, rest)) = bytes.split_first_chunk::<17>() else {
            return false;
        };
        let a = u64::from_le_bytes(head[1..9].try_into().expect("eight bytes"));
        let b = u64::from_le_bytes(head[9..17].try_into().expect("eight bytes"));
        let proof: Vec<Hash> = rest.as_chunks::<32>().0.to_vec();
        let of = |n: u64| usize::try_from(n).ok().and_then(|n| roots.get(n)).copied();
        // Sizes nobody has a root for are checked against a root all the same.
        let root_b = of(b).unwrap_or([0; 32]);
        if head[0] == 0 {
            let leaf = usize::try_from(a)
                .ok()
                .and_then(|n| hashes.get(n))
                .copied()
                .unwrap_or([0; 32]);
            let held = verify_inclusion(&leaf, a, b, &proof, &root_b).is_ok();
            if held {
                assert_eq!(
                    proof,
                    inclusion_proof(&source, a, b).expect("it held"),
                    "a second proof holds"
                );
            }
            held
        } else {
            let root_a = of(a).unwrap_or([0; 32]);
            let held = verify_consistency(a, &root_a, b, &root_b, &proof).is_ok();
            if held && of(a).is_some() && of(b).is_some() {
                assert_eq!(
                    proof,
                    consistency_proof(&source, a, b).expect("it held"),
                    "a second proof holds"
                );
            }
            held
        }
    };
    Target {
        corpus,
        kind: Kind::Binary,
        iterations: 120_000,
        allocation_bytes_max: 4 << 20,
        check: Box::new(check),
    }
}

/// All nodes of a small tree, computed on demand.
struct Leaves(Vec<Hash>);

impl NodeSource for Leaves {
    fn node(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        if level == 0 {
            let at = usize::try_from(index).expect("a small tree");
            return Ok(self.0[at]);
        }
        Ok(node_hash(
            &self.node(level - 1, index * 2)?,
            &self.node(level - 1, index * 2 + 1)?,
        ))
    }
}
