//! What a node reads from its peers and from its own disk.

use super::mutate::{Dice, Kind};
use super::run::Target;
use bytes::BytesMut;
use quorate_node::peer::frame;
use quorate_node::wal::{EntryKind, LogPos, Wal, WalOptions};
use std::path::{Path, PathBuf};

/// A stream of frames: what is read was sent, and written again gives the same bytes.
pub(crate) fn frames() -> Target {
    let mut dice = Dice::new(0, "frames", 0);
    let mut stream = BytesMut::new();
    frame::put(&mut stream, frame::Kind::Request, 3, 7, &dice.bytes(40));
    frame::put(&mut stream, frame::Kind::Reply, 0, 7, &dice.bytes(300));
    frame::put(&mut stream, frame::Kind::Ping, 0, 8, &[]);
    let mut error = BytesMut::new();
    frame::put(&mut error, frame::Kind::Error, 0, 9, b"busy");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let check = move |bytes: &[u8]| {
        let mut from = bytes;
        let (mut any, mut again) = (false, BytesMut::new());
        while let Ok(f) = runtime.block_on(frame::read(&mut from)) {
            frame::put(&mut again, f.kind, f.service, f.id, &f.body);
            any = true;
        }
        assert!(
            bytes.starts_with(&again),
            "a frame was read that was not sent"
        );
        any
    };
    Target {
        corpus: vec![stream.to_vec(), error.to_vec()],
        kind: Kind::Binary,
        iterations: 60_000,
        // Memory is taken as bytes arrive: a step beyond what is there.
        allocation_bytes_max: 1 << 20,
        check: Box::new(check),
    }
}

const GROUPS: u32 = 3;
const ENTRIES: u64 = 30;

fn payload(group: u32, index: u64) -> Vec<u8> {
    let len = 20 + (index as usize * 37 + group as usize * 11) % 200;
    Dice::new(u64::from(group), "payload", index).bytes(len)
}

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 4096,
        ..WalOptions::default()
    }
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).expect("readable");
    let mut out: Vec<_> = entries
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.is_file())
        .map(|p| {
            (
                PathBuf::from(p.file_name().expect("a name")),
                std::fs::read(&p).expect("readable"),
            )
        })
        .collect();
    out.sort();
    out
}

/// A folder in memory where there is one: recovery syncs.
fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let here = if shm.is_dir() {
        tempfile::tempdir_in(shm)
    } else {
        tempfile::tempdir()
    };
    here.expect("a temporary directory")
}

/// A log of three groups that was closed cleanly.
fn closed_log() -> Vec<(PathBuf, Vec<u8>)> {
    let dir = scratch();
    let wal = Wal::open(&dir.path().join("wal"), options()).expect("a new log");
    for index in 1..=ENTRIES {
        for group in 0..GROUPS {
            let pos = LogPos {
                term: 1,
                node: 1,
                index,
            };
            let (tell, told) = std::sync::mpsc::channel();
            let done = Box::new(move |r: Result<(), _>| tell.send(r.is_ok()).expect("waited for"));
            let entry = (pos, EntryKind::Command, payload(group, index));
            wal.group(group)
                .append(vec![entry], done)
                .expect("in order");
            assert!(told.recv().expect("told"), "durable");
        }
    }
    wal.close();
    drop(wal);
    files(&dir.path().join("wal"))
}

/// One damaged file of a log: either a refusal, or for every group an exact
/// prefix of what was appended, short of the torn tail at most.
pub(crate) fn wal_recovery() -> Target {
    let pristine = closed_log();
    assert!(pristine.len() >= 2, "a segment and a ledger");
    let corpus: Vec<Vec<u8>> = pristine
        .iter()
        .enumerate()
        .map(|(i, (_, bytes))| [&[i as u8][..], bytes].concat())
        .collect();
    let check = move |bytes: &[u8]| {
        let Some((which, damaged)) = bytes.split_first() else {
            return false;
        };
        let which = usize::from(*which) % pristine.len();
        let scratch = scratch();
        let dir = scratch.path().join("wal");
        std::fs::create_dir(&dir).expect("new");
        for (i, (name, bytes)) in pristine.iter().enumerate() {
            let bytes = if i == which { damaged } else { bytes };
            std::fs::write(dir.join(name), bytes).expect("writable");
        }
        let unchanged = damaged == pristine[which].1;
        let wal = match Wal::open(&dir, options()) {
            Ok(wal) => wal,
            Err(e) => {
                assert!(!unchanged, "an undamaged log is refused: {e}");
                return false;
            }
        };
        for group in 0..GROUPS {
            let entries = match wal.group(group).read(0, u64::MAX, usize::MAX) {
                Ok(entries) => entries,
                Err(e) => {
                    assert!(!unchanged, "an undamaged log cannot be read: {e}");
                    continue;
                }
            };
            for (i, (head, body)) in entries.iter().enumerate() {
                let index = i as u64 + 1;
                assert_eq!((head.pos.index, head.pos.term), (index, 1), "not a prefix");
                assert!(
                    body[..] == payload(group, index)[..],
                    "group {group}, {index}: other bytes"
                );
            }
            // Each append was acknowledged, one after the other: nothing but the very last
            // record, which nothing after it vouches for, may be taken for a torn tail.
            let lost = ENTRIES as usize - entries.len();
            assert!(
                lost <= 1,
                "group {group}: {lost} acknowledged entries lost in silence"
            );
            assert!(!unchanged || lost == 0, "an undamaged log lost entries");
        }
        wal.close();
        true
    };
    Target {
        corpus,
        kind: Kind::Binary,
        iterations: 1_000,
        allocation_bytes_max: 32 << 20,
        check: Box::new(check),
    }
}
