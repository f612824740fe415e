//! Published vectors of other implementations, and logs that are tampered with at random.

use super::*;
use crate::audit::proof::{NodeSource, ProofError};
use crate::audit::*;
use crate::crypto::sign::SigningKey;
use crate::types::kv::MemKv;
use crate::types::{CustodianId, DeploymentId, Secret};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The example of C2SP signed-note.
const NOTE_KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

/// A checkpoint of a log in operation, cosigned by four witnesses in operation. The first line is of a
/// signature type that is not known here.
const REAL: &str = "arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

\u{2014} arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
\u{2014} arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
\u{2014} transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
\u{2014} witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
\u{2014} remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
\u{2014} witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==
";
const REAL_LOG: &str =
    "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f";
const REAL_WITNESSES: [&str; 4] = [
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
];
const REAL_TIME_S: u64 = 0x6a12_2120;

fn vkey(text: &str) -> VerifierKey {
    text.parse().unwrap()
}

fn key(byte: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[byte; 32]).unwrap())
}

#[test]
fn the_example_of_the_note_standard_holds() {
    let known = vkey(NOTE_KEY);
    assert_eq!(known.to_string(), NOTE_KEY);
    let note = Note::parse(NOTE.as_bytes()).unwrap();
    assert_eq!(note.text(), "This is an example message.\n");
    assert_eq!(note.to_string(), NOTE);
    let keys = [vkey(REAL_LOG), known];
    let found = note.verify(&keys).unwrap();
    assert_eq!((found.len(), found[0].key, found[0].time_s), (1, 1, None));
    assert_eq!(note.verify(&keys[..1]), Ok(vec![]));
    let changed = NOTE.replace("example message", "example massage");
    let changed = Note::parse(changed.as_bytes()).unwrap();
    assert!(
        matches!(changed.verify(&keys), Err(NoteError::Signature(name)) if name.as_str() == "example.com/foo")
    );
}

/// The key pair and note of the tests of Go's `sumdb/note`.
#[test]
fn a_note_is_signed_as_gos_checksum_database_does() {
    let seed = STANDARD.decode("gQoUAtUUbI2E8kQzMPVAgOv5juF9nHT2JS/F1ccoMXM=");
    let seed = Secret::from_slice(&seed.unwrap()).unwrap();
    let key = SigningKey::from_seed(&seed);
    let name = KeyName::new("PeterNeumann").unwrap();
    let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    let mut note = Note::unsigned(text.into()).unwrap();
    note.add(note.sign(&name, &key)).unwrap();
    let want = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    assert_eq!(note.to_string(), format!("{text}\n{want}"));
    let of = VerifierKey::new(name, SignatureKind::Ed25519, key.public());
    assert_eq!(
        of.to_string(),
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    );
}

#[test]
fn keys_that_are_mistyped_do_not_exist() {
    for bad in [
        "",
        "a+b",
        "example.com/foo+530d903a",
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/fop+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ] {
        assert!(bad.parse::<VerifierKey>().is_err(), "{bad}");
    }
}

#[test]
fn what_is_no_note_is_refused() {
    let sig = NOTE.split_once("\n\n").unwrap().1;
    let all = [
        String::new(),
        "text\n".into(),
        "text\n\n".into(),
        format!("text\n{sig}"),
        format!("text\n\n{}", sig.trim_end()),
        format!("te\u{1}xt\n\n{sig}"),
        format!("te\rxt\n\n{sig}"),
        format!("text\n\n{}", sig.replace('\u{2014}', "-")),
        format!("text\n\n{}", sig.replace("/foo", "/f+o")),
        format!("text\n\n{}", sig.replace("aQM=", "aQM")),
        format!("text\n\n{}", sig.replace("aQM=", "aQN=")),
        format!("text\n\n{sig}more\n"),
        "text\n\n\u{2014} a AAAA\n".into(),
        "text\n\n\u{2014}  AAAAAAA=\n".into(),
    ];
    for bad in all {
        assert!(Note::parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
    assert!(Note::parse(b"\xff\n\n").is_err());
    let mut many = String::from("text\n\n");
    for n in 0..=NOTE_SIGNATURES_MAX {
        let blob = STANDARD.encode([n as u8; 68]);
        many += &format!("\u{2014} k{n} {blob}\n");
    }
    assert!(Note::parse(many.as_bytes()).is_err());
    // The text may hold empty lines; the last one parts.
    let note = Note::parse(format!("a\n\nb\n\n{sig}").as_bytes()).unwrap();
    assert_eq!(note.text(), "a\n\nb\n");
    assert!(Note::unsigned("no newline".into()).is_err());
}

#[test]
fn a_checkpoint_in_operation_and_its_witnesses_hold() {
    let note = Note::parse(REAL.as_bytes()).unwrap();
    let head = Checkpoint::parse(note.text()).unwrap();
    assert_eq!((head.size, head.extensions.len()), (1_432_088_532, 0));
    assert_eq!(head.to_string(), note.text());
    let keys: Vec<_> = REAL_WITNESSES.iter().map(|k| vkey(k)).collect();
    let found = note.verify(&keys).unwrap();
    assert_eq!(found.len(), 4);
    assert!(found.iter().all(|s| s.time_s == Some(REAL_TIME_S)));
    // A cosignature of another time, or of another size, is none.
    for (from, to) in [
        ("2net5wAAAABqEiEg", "2net5wAAAABqEiEh"),
        ("\n1432088532\n", "\n1432088533\n"),
    ] {
        let changed = Note::parse(REAL.replace(from, to).as_bytes()).unwrap();
        assert!(changed.verify(&keys[..1]).is_err(), "{to}");
    }
}

fn policy_text(quorum: &str) -> String {
    let [a, b, c, d] = REAL_WITNESSES;
    format!(
        "# ours\nlog {REAL_LOG} https://log.example/\n\n witness a\t{a}\nwitness b {b} https://b.example/\nwitness c {c}\nwitness d {d}\n{quorum}"
    )
}

fn policy(quorum: &str) -> TlogPolicy {
    TlogPolicy::parse(policy_text(quorum).as_bytes()).unwrap()
}

#[test]
fn a_policy_believes_what_its_quorum_saw() {
    let note = Note::parse(REAL.as_bytes()).unwrap();
    let all = policy("group g all a b c d\nquorum g\n");
    let head = all.verify(&note, Some((REAL_TIME_S, 60))).unwrap();
    assert_eq!((head.log, head.cosigned.len()), (vkey(REAL_LOG), 4));
    assert_eq!(all.url(&vkey(REAL_LOG)), Some("https://log.example/"));
    assert_eq!(all.url(&vkey(REAL_WITNESSES[0])), None);
    let early = all.verify(&note, Some((REAL_TIME_S - 61, 60)));
    assert!(
        matches!(early, Err(TrustError::Future { ahead_s: 61, .. })),
        "{early:?}"
    );
    // Without the lines of c and d.
    let kept = |l: &&str| !l.contains("smartit") && !l.contains("stagemole");
    let fewer: String = REAL.split_inclusive('\n').filter(kept).collect();
    let fewer = Note::parse(fewer.as_bytes()).unwrap();
    assert_eq!(
        all.verify(&fewer, None),
        Err(TrustError::Quorum { have: 2 })
    );
    for (quorum, holds) in [
        ("quorum none\n", true),
        ("quorum a\n", true),
        ("quorum d\n", false),
        ("group g 2 a b c d\nquorum g\n", true),
        ("group g 3 a b c d\nquorum g\n", false),
        (
            "group x any a c\ngroup y 1 b d\ngroup z all x y\nquorum z\n",
            true,
        ),
        (
            "group x all a c\ngroup y any b d\ngroup z all x y\nquorum z\n",
            false,
        ),
        (
            "group x all a c\ngroup y any b d\ngroup z any x y\nquorum z\n",
            true,
        ),
    ] {
        assert_eq!(
            policy(quorum).verify(&fewer, None).is_ok(),
            holds,
            "{quorum}"
        );
    }
    // A log that is not named, or one under another's name, is not believed.
    let other = policy_text("quorum none\n").replace(REAL_LOG, NOTE_KEY);
    let other = TlogPolicy::parse(other.as_bytes()).unwrap();
    assert!(matches!(
        other.verify(&note, None),
        Err(TrustError::Log { .. })
    ));
    let name = KeyName::new("example.com/mine").unwrap();
    let mine = VerifierKey::new(name.clone(), SignatureKind::Ed25519, key(1).public());
    let text = policy_text("quorum none\n").replace(REAL_LOG, &mine.to_string());
    let mine = TlogPolicy::parse(text.as_bytes()).unwrap();
    let mut note = note;
    note.add(note.sign(&name, &key(1))).unwrap();
    assert!(matches!(
        mine.verify(&note, None),
        Err(TrustError::Log { .. })
    ));
}

#[test]
fn policies_with_a_mistake_name_its_line() {
    let [a, b, ..] = REAL_WITNESSES;
    let renamed = VerifierKey::new(
        KeyName::new("other.name").unwrap(),
        SignatureKind::CosignatureV1,
        *vkey(a).public(),
    );
    for (line, text) in [
        (0, String::new()),
        (0, "quorum none".into()),
        (0, format!("log {REAL_LOG}\n")),
        (2, "quorum none\nquorum none\n".into()),
        (1, "quorum a\n".into()),
        (2, format!("quorum none\nlog {a}\n")),
        (1, format!("witness a {REAL_LOG}\nquorum a\n")),
        (2, format!("log {REAL_LOG}\nlog {REAL_LOG}\nquorum none\n")),
        (
            2,
            format!("witness a {a}\nwitness b {renamed}\nquorum none\n"),
        ),
        (2, format!("witness a {a}\nwitness a {b}\nquorum none\n")),
        (1, format!("witness none {a}\nquorum none\n")),
        (2, format!("witness a {a}\ngroup g 0 a\nquorum g\n")),
        (2, format!("witness a {a}\ngroup g 2 a\nquorum g\n")),
        (2, format!("witness a {a}\ngroup g 01 a\nquorum g\n")),
        (2, format!("witness a {a}\ngroup g any\nquorum g\n")),
        (2, format!("witness a {a}\ngroup g any g\nquorum g\n")),
        (2, format!("witness a {a}\ngroup g any a a\nquorum g\n")),
        (
            3,
            format!("witness a {a}\ngroup g any a\ngroup h any a\nquorum g\n"),
        ),
        (1, format!("group g any a\nwitness a {a}\nquorum g\n")),
        (2, format!("witness a {a}\nfriend b {b}\nquorum a\n")),
        (2, format!("witness a {a}\nquorum a \u{7f}\n")),
        (
            2,
            format!("witness a {a}\r\nquorum a\n").replacen("witness", "#\nwitness", 1),
        ),
        (1, format!("log {REAL_LOG} a b\nquorum none\n")),
    ] {
        let got = TlogPolicy::parse(text.as_bytes()).map_err(|e| e.line);
        assert_eq!(got.as_ref().err(), Some(&line), "{text:?} {got:?}");
    }
    // Names are bytes.
    let mut bytes = b"witness \xff\xfe ".to_vec();
    bytes.extend(format!("{a}\nquorum ").bytes());
    bytes.extend(b"\xff\xfe\n");
    assert!(TlogPolicy::parse(&bytes).unwrap().suffices(&[0]));
    assert!(!TlogPolicy::parse(&bytes).unwrap().suffices(&[]));
}

#[test]
fn checkpoints_that_could_be_read_twice_are_refused() {
    let root = STANDARD.encode([7; 32]);
    let empty = STANDARD.encode(empty_root());
    for bad in [
        format!("o\n1\n{root}"),
        format!("\n1\n{root}\n"),
        format!("o\n01\n{root}\n"),
        format!("o\n+1\n{root}\n"),
        format!("o\n\n{root}\n"),
        format!("o\n18446744073709551616\n{root}\n"),
        format!("o\n1\n{}\n", &root[..40]),
        format!("o\n1\n{}\n", root.replace('=', "")),
        format!("o\n0\n{root}\n"),
        format!("o\n1\n{root}\n\n"),
        "o\n1\n".into(),
    ] {
        assert!(Checkpoint::parse(&bad).is_err(), "{bad:?}");
    }
    assert!(Checkpoint::parse(&format!("o\n0\n{empty}\n")).is_ok());
    let more = Checkpoint::parse(&format!("o\n1\n{root}\nmore\n")).unwrap();
    assert_eq!(more.extensions, ["more"]);
    let mut odd = more;
    odd.origin = "a\nb".into();
    assert!(odd.to_note().is_err());
}

#[test]
fn own_checkpoints_are_frozen() {
    let (d, ch) = (DeploymentId([0x11; 16]), CustodianId::new("ch").unwrap());
    let log = log_name(&d, &ch);
    let mut note = Checkpoint::new(&log, 5, [9; 32]).to_note().unwrap();
    note.add(note.sign(&log, &key(1))).unwrap();
    note.add(note.cosign(&witness_name(&d, &ch), &key(2), 1_700_000_000))
        .unwrap();
    assert_eq!(
        note.text(),
        "quorate.log/11111111111111111111111111111111/ch\n5\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n"
    );
    let again = Note::parse(note.to_string().as_bytes()).unwrap();
    assert_eq!(again, note);
    let keys = [
        log_vkey(&d, &ch, key(1).public()),
        witness_vkey(&d, &ch, key(2).public()),
    ];
    let got = again.verify(&keys).unwrap();
    assert_eq!(
        got[0],
        Signed {
            key: 0,
            time_s: None
        }
    );
    assert_eq!(
        got[1],
        Signed {
            key: 1,
            time_s: Some(1_700_000_000)
        }
    );
    // A log's signature is not a cosignature of the same key, nor the other way round.
    let swapped = [
        VerifierKey::new(log.clone(), SignatureKind::CosignatureV1, key(1).public()),
        VerifierKey::new(
            witness_name(&d, &ch),
            SignatureKind::Ed25519,
            key(2).public(),
        ),
    ];
    assert_eq!(again.verify(&swapped), Ok(vec![]));
}

/// Paths and widths that C2SP tlog-tiles gives as examples.
#[test]
fn tiles_are_named_as_the_standard_names_them() {
    let tile = |kind, index, width| Tile { kind, index, width };
    let known = [
        (
            tile(TileKind::Hashes(0), 1_234_067, 256),
            "tile/0/x001/x234/067",
        ),
        (tile(TileKind::Hashes(1), 0, 17), "tile/1/000.p/17"),
        (tile(TileKind::Entries, 273, 112), "tile/entries/273.p/112"),
        (tile(TileKind::Hashes(63), 999, 1), "tile/63/999.p/1"),
        (tile(TileKind::Entries, 1000, 256), "tile/entries/x001/000"),
    ];
    for (tile, path) in known {
        assert_eq!(tile.to_string(), path);
        assert_eq!(path.parse(), Ok(tile));
    }
    let widest = tile(TileKind::Hashes(0), u64::MAX, 256).to_string();
    assert_eq!(widest.parse(), Ok(tile(TileKind::Hashes(0), u64::MAX, 256)));
    for bad in [
        "tile/0/0",
        "tile/00/000",
        "tile/64/000",
        "tile/0/x000/001",
        "tile/0/001/001",
        "tile/0/x001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/data/000",
        "tile/entries/../000",
        "tile/0/+00",
        "tile/8/0/000",
        "/tile/0/000",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
    ] {
        assert!(bad.parse::<Tile>().is_err(), "{bad}");
    }
    let of_70k: Vec<Tile> = tiles_of(70_000).collect();
    let full = |level| {
        of_70k
            .iter()
            .filter(|t| t.kind == TileKind::Hashes(level) && t.width == 256)
            .count()
    };
    let partial: Vec<_> = of_70k
        .iter()
        .filter(|t| t.width < 256)
        .map(ToString::to_string)
        .collect();
    assert_eq!((full(0), full(1), full(2)), (273, 1, 0));
    assert_eq!(
        partial,
        ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]
    );
    let of_256: Vec<_> = tiles_of(256).map(|t| t.to_string()).collect();
    assert_eq!(of_256, ["tile/0/000", "tile/1/000.p/1"]);
    assert_eq!(tiles_of(0).count(), 0);
    assert!(tile(TileKind::Hashes(0), 273, 112).is_in(70_000));
    assert!(!tile(TileKind::Hashes(0), 273, 111).is_in(70_000));
    assert!(tile(TileKind::Hashes(0), 273, 111).fits(70_000));
    assert!(!tile(TileKind::Hashes(0), 273, 113).fits(70_000));
    assert!(!tile(TileKind::Hashes(9), u64::MAX, 1).fits(u64::MAX));
}

/// A published log in memory.
#[derive(Clone, Default)]
struct Shelf(BTreeMap<Tile, Vec<u8>>);

impl Published for Shelf {
    fn tile(&self, tile: &Tile) -> Result<Vec<u8>, String> {
        self.0.get(tile).cloned().ok_or_else(|| "not there".into())
    }
}

struct Leaves<'a>(&'a [Hash]);
impl NodeSource for Leaves<'_> {
    fn node(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        let (lo, hi) = ((index << level) as usize, ((index + 1) << level) as usize);
        Ok(crate::audit::tests::naive(&self.0[lo..hi]))
    }
}

fn custodian() -> CustodianId {
    CustodianId::new("ch").unwrap()
}

fn entry(index: u64, time_ms: u64) -> Vec<u8> {
    let mut entry = Entry::new(custodian(), index, time_ms, EntryKind::Voters, [3; 16]);
    entry.voters = vec![index % 5];
    entry.to_json().unwrap()
}

/// Publishes entries as they are, right or wrong, and gives the checkpoint they lead to.
fn publish(entries: &[Vec<u8>]) -> (Checkpoint, Shelf) {
    let leaves: Vec<Hash> = entries.iter().map(|e| leaf_hash(e)).collect();
    let mut range = CompactRange::default();
    let mut nodes = BTreeMap::new();
    for (n, leaf) in leaves.iter().enumerate() {
        nodes.insert((0, n as u64), *leaf);
        range.append(*leaf, |level, index, hash| {
            nodes.insert((level, index), *hash);
        });
    }
    struct Map(BTreeMap<(u8, u64), Hash>);
    impl NodeSource for Map {
        fn node(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
            Ok(self.0[&(level, index)])
        }
    }
    let source = Map(nodes);
    let size = entries.len() as u64;
    let mut shelf = Shelf::default();
    for tile in tiles_of(size) {
        shelf.0.insert(tile, tile_hashes(&source, &tile).unwrap());
        if tile.kind == TileKind::Hashes(0) {
            let kind = TileKind::Entries;
            let (from, to) = (
                tile.start() as usize,
                tile.start() as usize + usize::from(tile.width),
            );
            let bytes = encode_bundle(entries[from..to].iter().map(Vec::as_slice));
            shelf.0.insert(Tile { kind, ..tile }, bytes);
        }
    }
    let name = log_name(&DeploymentId([1; 16]), &custodian());
    (Checkpoint::new(&name, size, range.root()), shelf)
}

fn honest(n: u64) -> Vec<Vec<u8>> {
    (0..n).map(|i| entry(i, 1_000 + i / 3)).collect()
}

fn all_faults(head: &Checkpoint, shelf: &Shelf) -> Vec<Found> {
    let mut found = check_log(head, shelf);
    let of = custodian();
    let range = LogRange {
        custodian: &of,
        size: head.size,
        from: 0,
        previous_ms: 0,
    };
    found.extend(check_entries(&range, shelf, |_, _, _| {}));
    found
}

fn source_of(head: &Checkpoint, shelf: &Shelf) -> TileSource {
    let mut out = TileSource::new(head.size);
    for tile in tiles_of(head.size) {
        out.add(tile, &shelf.0[&tile]).unwrap();
    }
    out
}

#[test]
fn large_trees_check_out_and_prove() {
    // Over a level boundary: 256 full tiles and more.
    let entries = honest(65_536 + 700);
    let (head, shelf) = publish(&entries);
    let mut seen = 0;
    let of = custodian();
    let range = LogRange {
        custodian: &of,
        size: head.size,
        from: 65_000,
        previous_ms: 0,
    };
    assert_eq!(check_log(&head, &shelf), []);
    assert_eq!(
        check_entries(&range, &shelf, |i, e, _| {
            assert_eq!(e.index, i);
            seen += 1;
        }),
        []
    );
    assert_eq!(seen, head.size - 65_000);
    let source = source_of(&head, &shelf);
    for index in [0, 255, 256, 65_535, 65_536, head.size - 1] {
        let wanted = Wanted::new(head.size);
        inclusion_proof(&wanted, index, head.size).unwrap();
        let tiles = wanted.into_tiles();
        assert!(tiles.len() <= 5, "{index}: {tiles:?}");
        let mut few = TileSource::new(head.size);
        for tile in &tiles {
            few.add(*tile, &shelf.0[tile]).unwrap();
        }
        let path = inclusion_proof(&few, index, head.size).unwrap();
        assert_eq!(path, inclusion_proof(&source, index, head.size).unwrap());
        let leaf = leaf_hash(&entries[index as usize]);
        verify_inclusion(&leaf, index, head.size, &path, &head.root).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn honest_logs_have_no_findings_and_prove_everything(n in 0u64..700, a in 0u64..700, b in 0u64..700) {
        let entries = honest(n);
        let (head, shelf) = publish(&entries);
        prop_assert_eq!(all_faults(&head, &shelf), vec![]);
        let source = source_of(&head, &shelf);
        let leaves: Vec<Hash> = entries.iter().map(|e| leaf_hash(e)).collect();
        let (old, index) = (a.min(n), b % n.max(1));
        let proof = consistency_proof(&source, old, n).unwrap();
        prop_assert_eq!(&proof, &consistency_proof(&Leaves(&leaves), old, n).unwrap());
        let old_root = crate::audit::tests::naive(&leaves[..old as usize]);
        verify_consistency(old, &old_root, n, &head.root, &proof).unwrap();
        if n > 0 {
            let path = inclusion_proof(&source, index, n).unwrap();
            verify_inclusion(&leaves[index as usize], index, n, &path, &head.root).unwrap();
        }
    }

    /// One bit of one published file is changed: the entries it concerns are named.
    #[test]
    fn a_changed_byte_is_found_where_it_is(n in 1u64..700, at in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (head, mut shelf) = publish(&honest(n));
        let files: Vec<Tile> = shelf.0.keys().copied().collect();
        let tile = files[at.index(files.len())];
        let bytes = shelf.0.get_mut(&tile).unwrap();
        let byte = byte.index(bytes.len());
        bytes[byte] ^= 1 << bit;
        let found = all_faults(&head, &shelf);
        prop_assert!(!found.is_empty());
        let (level, at) = match tile.kind {
            TileKind::Hashes(level) => (u32::from(level), byte as u64 / 32),
            TileKind::Entries => (0, {
                // Which entry of the bundle holds the byte.
                let mut end = 0;
                let lens = (tile.start()..).map(|i| 2 + entry(i, 1_000 + i / 3).len());
                lens.take_while(|len| { end += len; end <= byte }).count() as u64
            }),
        };
        let first = (tile.start() + at) << (8 * level);
        prop_assert!(found.iter().any(|f| f.entries.contains(&first)), "{tile} {first} {found:?}");
        // And narrowly: some finding concerns the one tile at most.
        let narrowest = found.iter().map(|f| f.entries.end - f.entries.start).min().unwrap();
        prop_assert!(narrowest <= 256.max(1 << (8 * level)), "{found:?}");
    }

    /// A log that was rewritten with all its hashes: the earlier copy tells where.
    #[test]
    fn a_rewritten_log_differs_from_the_entry_on(n in 2u64..700, at in any::<prop::sample::Index>(), how in 0u8..4) {
        let good = honest(n);
        let (old_head, old_shelf) = publish(&good);
        let i = at.index(good.len() - 1);
        let mut bad = good.clone();
        match how {
            0 => bad[i] = { let mut e = Entry::from_json(&bad[i]).unwrap(); e.voters = vec![99]; e.to_json().unwrap() },
            1 => { bad.remove(i); bad.push(entry(n - 1, 9_000)); }
            2 => bad.swap(i, i + 1),
            _ => bad[i] = entry(i as u64, 1),
        }
        let (head, shelf) = publish(&bad);
        prop_assert_ne!(head.root, old_head.root);
        prop_assert_eq!(check_log(&head, &shelf), vec![]);
        let (old, new) = (source_of(&old_head, &old_shelf), source_of(&head, &shelf));
        prop_assert_eq!(first_difference(&old, &new, n), Ok(Some(i as u64)));
        prop_assert_eq!(first_difference(&old, &old, n), Ok(None));
        let proof = consistency_proof(&new, n - 1, n).unwrap();
        let before = crate::audit::tests::naive(&good[..n as usize - 1].iter().map(|e| leaf_hash(e)).collect::<Vec<_>>());
        prop_assert_eq!(verify_consistency(n - 1, &before, n, &head.root, &proof).is_ok(), false);
        let found = all_faults(&head, &shelf);
        let names = |index: u64, is: fn(&Fault) -> bool| found.iter().any(|f| f.entries == (index..index + 1) && is(&f.fault));
        let named = match how {
            // The new entries are consistent in themselves: only the earlier copy tells.
            0 => found.is_empty(),
            1 => i as u64 == n - 1 || names(i as u64, |f| matches!(f, Fault::Index(_))),
            2 => names(i as u64, |f| matches!(f, Fault::Index(_))),
            _ => i == 0 || names(i as u64, |f| matches!(f, Fault::Backdated { time_ms: 1, .. })),
        };
        prop_assert!(named, "{how} {i} {found:?}");
    }
}

#[test]
fn the_rows_of_a_stored_log_give_the_same_tiles() {
    let mut kv = MemKv::default();
    let mut log = Log::default();
    let mut entries = Vec::new();
    for i in 0..600 {
        let mut e = Entry::new(custodian(), i, 1_000 + i / 3, EntryKind::Voters, [3; 16]);
        e.voters = vec![i % 5];
        log.append(&mut kv, &e, &[]).unwrap();
        entries.push(e.to_json().unwrap());
    }
    let (head, shelf) = publish(&entries);
    assert_eq!((head.size, head.root), (log.size(), log.root()));
    for tile in tiles_of(600) {
        assert_eq!(
            tile_hashes(&NodeRows(&kv), &tile).unwrap(),
            shelf.0[&tile],
            "{tile}"
        );
    }
}

#[test]
fn a_missing_tile_is_a_finding_of_its_own() {
    let (head, mut shelf) = publish(&honest(300));
    let gone: Tile = "tile/0/000".parse().unwrap();
    shelf.0.remove(&gone);
    let found = check_log(&head, &shelf);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].entries, 0..256);
    assert!(matches!(&found[0].fault, Fault::Missing { tile, .. } if *tile == gone));
    let bundle: Tile = "tile/entries/001.p/44".parse().unwrap();
    shelf.0.get_mut(&bundle).unwrap().pop();
    let of = custodian();
    let range = LogRange {
        custodian: &of,
        size: 300,
        from: 0,
        previous_ms: 0,
    };
    let found = check_entries(&range, &shelf, |_, _, _| {});
    assert_eq!(
        found.iter().map(|f| f.entries.clone()).collect::<Vec<_>>(),
        [0..256, 256..300]
    );
}
