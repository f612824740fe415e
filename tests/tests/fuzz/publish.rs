//! What a log publishes, and the policy file that says what of it is believed.

use super::mutate::Kind;
use super::run::Target;
use quorate_engine::audit::publish::*;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{CustodianId, DeploymentId, Secret};

fn key(byte: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[byte; 32]).expect("32 bytes"))
}

fn name(text: &str) -> CustodianId {
    text.parse().expect("a name")
}

const DEPLOYMENT: DeploymentId = DeploymentId([0x11; 16]);

fn note() -> Note {
    let of = log_name(&DEPLOYMENT, &name("ch"));
    let mut note = Checkpoint::new(&of, 70_000, [7; 32])
        .to_note()
        .expect("one of ours");
    let lines = [
        note.sign(&of, &key(1)),
        note.cosign(
            &witness_name(&DEPLOYMENT, &name("is")),
            &key(2),
            1_700_000_000,
        ),
    ];
    for line in lines {
        note.add(line).expect("two lines");
    }
    note
}

/// A note that is read is written the same way again, and no other text bears its signatures.
pub(crate) fn published_notes() -> Target {
    let true_note = note();
    let keys = [
        log_vkey(&DEPLOYMENT, &name("ch"), key(1).public()),
        witness_vkey(&DEPLOYMENT, &name("is"), key(2).public()),
    ];
    let plain = "text\n\nmore\n\n\u{2014} a/b AAAAAAAAAAA=\n";
    let corpus = vec![true_note.to_string().into_bytes(), plain.into()];
    Target {
        corpus,
        kind: Kind::Text,
        iterations: 60_000,
        allocation_bytes_max: 4 << 20,
        check: Box::new(move |bytes| {
            let Ok(note) = Note::parse(bytes) else {
                return false;
            };
            let again = Note::parse(note.to_string().as_bytes()).expect("what is written is read");
            assert_eq!(again, note);
            if let Ok(head) = Checkpoint::parse(note.text()) {
                assert_eq!(head.to_string(), note.text(), "a checkpoint has one form");
            }
            if note.text() != true_note.text() {
                assert!(
                    note.verify(&keys).is_ok_and(|s| s.is_empty()) || note.verify(&keys).is_err(),
                    "a signature holds for another text"
                );
            }
            true
        }),
    }
}

/// A policy is read or refused; what it believes, its quorum saw.
pub(crate) fn log_policies() -> Target {
    let log = log_vkey(&DEPLOYMENT, &name("ch"), key(1).public());
    let [a, b, c] = ["is", "sg", "br"].map(|n| {
        let byte = n.as_bytes()[0];
        witness_vkey(&DEPLOYMENT, &name(n), key(byte).public())
    });
    let text = format!(
        "# comment\nlog {log} https://a.example/\nwitness x {a}\nwitness y {b}\nwitness z {c}\n\
         group g 2 x y\ngroup h any g z\nquorum h\n"
    );
    let corpus = vec![
        text.clone().into_bytes(),
        text.replace("quorum h", "quorum none").into_bytes(),
    ];
    let signed = note();
    Target {
        corpus,
        kind: Kind::Text,
        iterations: 60_000,
        allocation_bytes_max: 8 << 20,
        check: Box::new(move |bytes| {
            let Ok(policy) = TlogPolicy::parse(bytes) else {
                return false;
            };
            let all: Vec<usize> = (0..policy.witnesses().len()).collect();
            assert!(policy.suffices(&all), "all witnesses always suffice");
            if let Ok(head) = policy.verify(&signed, None) {
                assert!(policy.logs().contains(&head.log));
                assert!(
                    policy.suffices(&[]),
                    "none of its witnesses cosigned this one"
                );
            }
            true
        }),
    }
}

/// Tile paths have one form; bundles and tiles are as long as their paths say.
pub(crate) fn log_tiles() -> Target {
    let entries: [&[u8]; 3] = [b"{}", b"", b"longer than the others"];
    let mut corpus = vec![];
    for path in [
        "tile/entries/x001/234.p/3",
        "tile/0/000.p/2",
        "tile/7/001.p/3",
    ] {
        let mut input = path.as_bytes().to_vec();
        input.push(b'\n');
        input.extend(match path.starts_with("tile/e") {
            true => encode_bundle(entries),
            false => vec![5; 64],
        });
        corpus.push(input);
    }
    Target {
        corpus,
        kind: Kind::Binary,
        iterations: 120_000,
        allocation_bytes_max: 4 << 20,
        check: Box::new(|bytes| {
            let Some(at) = bytes.iter().position(|b| *b == b'\n') else {
                return false;
            };
            let (path, rest) = (&bytes[..at], &bytes[at + 1..]);
            let Some(tile) = std::str::from_utf8(path)
                .ok()
                .and_then(|p| p.parse::<Tile>().ok())
            else {
                return false;
            };
            assert_eq!(tile.to_string().as_bytes(), path, "a tile has one path");
            if let Ok(got) = decode_bundle(&tile, rest) {
                assert_eq!(got.len(), usize::from(tile.width));
                assert_eq!(encode_bundle(got), rest);
            }
            let size = tile.start().saturating_add(u64::from(tile.width));
            let mut source = TileSource::new(size);
            if source.add(tile, rest).is_ok() {
                assert!(tile.is_in(size));
                assert_eq!(rest.len(), usize::from(tile.width) * 32);
            }
            true
        }),
    }
}
