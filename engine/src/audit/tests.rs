//! The published Certificate Transparency vectors, and a naive tree as judge.

use super::*;
use crate::types::kv::MemKv;
use crate::types::{ChatId, CustodianId, KeyId};
use proptest::prelude::*;

fn h(text: &str) -> Hash {
    let mut out = [0; 32];
    hex::decode_to_slice(text, &mut out).unwrap();
    out
}

/// RFC 6962 section 2.1, word for word.
pub(crate) fn naive(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [one] => *one,
        _ => {
            let mut k = 1;
            while k * 2 < leaves.len() {
                k *= 2;
            }
            node_hash(&naive(&leaves[..k]), &naive(&leaves[k..]))
        }
    }
}

/// Hashes computed from the leaves each time.
struct Naive<'a>(&'a [Hash]);
impl NodeSource for Naive<'_> {
    fn node(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        let (lo, hi) = ((index << level) as usize, ((index + 1) << level) as usize);
        Ok(naive(&self.0[lo..hi]))
    }
}

fn ct_leaves() -> Vec<Hash> {
    [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    .iter()
    .map(|d| leaf_hash(&hex::decode(d).unwrap()))
    .collect()
}

const CT_ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

const N01: &str = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7";
const N23: &str = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e";
const N47: &str = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4";
const L4: &str = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b";
const N67: &str = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0";
const N45: &str = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a";

#[test]
fn certificate_transparency_roots() {
    let mut range = CompactRange::default();
    assert_eq!(range.root(), h(CT_ROOTS[0]));
    for (n, leaf) in ct_leaves().into_iter().enumerate() {
        range.append(leaf, |_, _, _| {});
        assert_eq!(range.root(), h(CT_ROOTS[n + 1]), "size {}", n + 1);
    }
}

#[test]
fn certificate_transparency_proofs() {
    let leaves = ct_leaves();
    let src = Naive(&leaves);
    let inclusion: [(u64, u64, &[&str]); 3] = [
        (0, 1, &[]),
        (0, 8, &[N01, N23, N47]),
        (5, 8, &[L4, N67, CT_ROOTS[4]]),
    ];
    for (index, size, want) in inclusion {
        let want: Vec<Hash> = want.iter().map(|t| h(t)).collect();
        assert_eq!(inclusion_proof(&src, index, size).unwrap(), want);
        let root = h(CT_ROOTS[size as usize]);
        verify_inclusion(&leaves[index as usize], index, size, &want, &root).unwrap();
    }
    let consistency: [(u64, u64, &[&str]); 4] = [
        (1, 1, &[]),
        (1, 8, &[N01, N23, N47]),
        (6, 8, &[N45, N67, CT_ROOTS[4]]),
        (2, 5, &[N23, L4]),
    ];
    for (old, new, want) in consistency {
        let want: Vec<Hash> = want.iter().map(|t| h(t)).collect();
        assert_eq!(consistency_proof(&src, old, new).unwrap(), want);
        let (a, b) = (h(CT_ROOTS[old as usize]), h(CT_ROOTS[new as usize]));
        verify_consistency(old, &a, new, &b, &want).unwrap();
    }
}

fn custodian() -> CustodianId {
    CustodianId::new("ch").unwrap()
}

fn filled(n: u64) -> (MemKv, Vec<Hash>) {
    let mut kv = MemKv::default();
    let mut leaves = Vec::new();
    for i in 0..n {
        let mut log = Log::load(&kv).unwrap();
        let mut entry = Entry::new(custodian(), i, log.time_for(i), EntryKind::Voters, [7; 16]);
        entry.voters = vec![i];
        leaves.push(log.append(&mut kv, &entry, &[]).unwrap().leaf);
        log.save(&mut kv).unwrap();
    }
    (kv, leaves)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn stored_log_agrees_with_the_naive_tree(n in 0u64..80, a in 0u64..80, b in 0u64..80) {
        let (kv, leaves) = filled(n);
        let log = Log::load(&kv).unwrap();
        prop_assert_eq!(log.size(), n);
        prop_assert_eq!(log.root(), naive(&leaves));
        let rows = NodeRows(&kv);
        let (size, index) = (a.max(b).min(n), a.min(b));
        prop_assert_eq!(root_at(&rows, size).unwrap(), naive(&leaves[..size as usize]));
        if index < size {
            let path = inclusion_proof(&rows, index, size).unwrap();
            prop_assert_eq!(&path, &inclusion_proof(&Naive(&leaves), index, size).unwrap());
            let root = naive(&leaves[..size as usize]);
            verify_inclusion(&leaves[index as usize], index, size, &path, &root).unwrap();
        }
        let old = index.min(size);
        let proof = consistency_proof(&rows, old, size).unwrap();
        let (r1, r2) = (naive(&leaves[..old as usize]), naive(&leaves[..size as usize]));
        verify_consistency(old, &r1, size, &r2, &proof).unwrap();
    }

    #[test]
    fn altered_proofs_fail(n in 2u64..40, i in 0u64..40, flip in 0usize..2048, cut in any::<bool>()) {
        let (_, leaves) = filled(n);
        let index = i % n;
        let src = Naive(&leaves);
        let root = naive(&leaves);
        let leaf = &leaves[index as usize];
        let mut path = inclusion_proof(&src, index, n).unwrap();
        verify_inclusion(leaf, index, n, &path, &root).unwrap();
        let other = (index + 1) % n;
        prop_assert!(verify_inclusion(leaf, other, n, &path, &root).is_err());
        let at = flip % (path.len() * 256);
        if cut {
            path.pop();
            prop_assert_eq!(verify_inclusion(leaf, index, n, &path, &root), Err(ProofError::Length));
            path.push([0; 32]);
            path.push([0; 32]);
            prop_assert!(verify_inclusion(leaf, index, n, &path, &root).is_err());
        } else {
            path[at / 256][at % 256 / 8] ^= 1 << (at % 8);
            prop_assert_eq!(verify_inclusion(leaf, index, n, &path, &root), Err(ProofError::Mismatch));
        }

        let old = index + 1;
        let old_root = naive(&leaves[..old as usize]);
        let mut proof = consistency_proof(&src, old, n).unwrap();
        let mut wrong = old_root;
        wrong[0] ^= 1;
        prop_assert!(verify_consistency(old, &wrong, n, &root, &proof).is_err());
        if !proof.is_empty() {
            let at = flip % (proof.len() * 256);
            proof[at / 256][at % 256 / 8] ^= 1 << (at % 8);
            prop_assert!(verify_consistency(old, &old_root, n, &root, &proof).is_err());
        }
    }

    #[test]
    fn hostile_proofs_never_panic(
        index in any::<u64>(), old in any::<u64>(), size in any::<u64>(), len in 0usize..70,
    ) {
        let path = vec![[3; 32]; len];
        prop_assert!(verify_inclusion(&[1; 32], index, size, &path, &[2; 32]).is_err());
        prop_assert!(verify_consistency(old, &[1; 32], size, &[2; 32], &path).is_err());
    }
}

#[test]
fn entry_json_is_frozen() {
    let mut entry = Entry::new(custodian(), 5, 1000, EntryKind::Release, [0xab; 16]);
    entry.reason = Some("read".into());
    entry.node = Some(2);
    let blinds = Blinds {
        blinding: [0xab; 16],
        salt_seed: [1; 32],
    };
    let opening = blinds.chat(0, &ChatId([9; 32]));
    entry.chats = vec![HexBytes(opening.commitment())];
    entry.keys = vec![KeyLine {
        key: KeyId([4; 16]),
        chat: 0,
        outcome: KeyOutcome::Released,
        version: Some(3),
    }];
    let json = entry.to_json().unwrap();
    let text = String::from_utf8(json.clone()).unwrap();
    assert_eq!(
        text,
        format!(
            concat!(
                r#"{{"format":1,"custodian":"ch","index":5,"time_ms":1000,"kind":"release","done":true,"#,
                r#""node":2,"reason":"read","chats":["{}"],"#,
                r#""keys":[{{"key":"04040404040404040404040404040404","chat":0,"outcome":"released","version":3}}],"#,
                r#""blinding":"abababababababababababababababab"}}"#
            ),
            hex::encode(opening.commitment())
        )
    );
    assert_eq!(Entry::from_json(&json).unwrap(), entry);
    assert!(Entry::from_json(br#"{"format":1,"extra":0}"#).is_err());
}

#[test]
fn openings_open_and_are_erased_without_touching_the_hash() {
    let (chat_a, chat_b) = (ChatId([1; 32]), ChatId([2; 32]));
    let blinds = Blinds {
        blinding: [0; 16],
        salt_seed: [5; 32],
    };
    let open = vec![blinds.chat(0, &chat_a), blinds.chat(1, &chat_b)];
    assert_ne!(open[0].salt, open[1].salt);
    let mut kv = MemKv::default();
    let mut log = Log::default();
    let mut entry = Entry::new(custodian(), 0, 1, EntryKind::Store, [0; 16]);
    entry.chats = open.iter().map(|o| HexBytes(o.commitment())).collect();
    log.append(&mut kv, &entry, &open).unwrap();
    let root = log.root();
    assert_eq!(openings(&kv, 0).unwrap(), open);
    assert_eq!(erase_openings(&mut kv, 0, Some(&chat_a)).unwrap(), 1);
    assert_eq!(openings(&kv, 0).unwrap(), open[1..]);
    assert_eq!(erase_openings(&mut kv, 0, None).unwrap(), 1);
    assert_eq!(erase_openings(&mut kv, 0, None).unwrap(), 0);
    assert_eq!(openings(&kv, 0).unwrap(), []);
    let bytes = entry_bytes(&kv, 0).unwrap().unwrap();
    assert_eq!(leaf_hash(&bytes), root);
    let text = String::from_utf8(bytes).unwrap();
    assert!(!text.contains(&chat_a.to_string()) && !text.contains(&hex::encode([5u8; 32])));
}

#[test]
fn a_range_with_the_wrong_number_of_roots_does_not_exist() {
    use crate::types::codec;
    let bytes = codec::encode(1, &(3u64, vec![[0u8; 32]]));
    assert!(codec::decode::<CompactRange>("range", 1, &bytes).is_err());
    let bytes = codec::encode(1, &(3u64, vec![[0u8; 32]; 2]));
    assert_eq!(
        codec::decode::<CompactRange>("range", 1, &bytes)
            .unwrap()
            .size(),
        3
    );
}
