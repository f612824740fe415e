//! Tests of the log: damage at every offset, order of sync and acknowledgement,
//! many acknowledgements a sync. Power cuts at every operation are in [`power`].

mod power;

use super::testdisk::{Event, TestDisk};
use super::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

const DIR: &str = "/wal";

fn options(disk: &TestDisk, segment_bytes: u64) -> WalOptions {
    WalOptions {
        segment_bytes,
        ahead_bytes: 150,
        cache_bytes: 256,
        fatal: Fatal::new(|_| {}),
        disk: Arc::new(disk.clone()),
    }
}

fn open(disk: &TestDisk) -> Result<Wal, WalError> {
    Wal::open(Path::new(DIR), options(disk, 400))
}

fn pos(term: u64, index: u64) -> LogPos {
    LogPos {
        term,
        node: 1,
        index,
    }
}

fn entry(term: u64, index: u64, payload: &[u8]) -> NewEntry {
    (pos(term, index), EntryKind::Command, payload.to_vec())
}

/// A callback and whether it was called with success.
fn waiting() -> (Done, mpsc::Receiver<bool>) {
    let (tx, rx) = mpsc::channel();
    (
        Box::new(move |r: Result<(), WalError>| tx.send(r.is_ok()).unwrap_or(())),
        rx,
    )
}

fn append(g: &GroupWal, entries: Vec<NewEntry>) {
    let (done, rx) = waiting();
    g.append(entries, done).unwrap();
    assert!(rx.recv().unwrap());
}

fn vote(g: &GroupWal, v: &[u8]) {
    let (done, rx) = waiting();
    g.set_vote(v.to_vec(), done).unwrap();
    assert!(rx.recv().unwrap());
}

fn truncate(g: &GroupWal, keep: Option<LogPos>) {
    let (done, rx) = waiting();
    g.truncate_after(keep, done).unwrap();
    assert!(rx.recv().unwrap());
}

/// One group's state as a reader sees it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    entries: Vec<(LogPos, Vec<u8>)>,
    vote: Option<Vec<u8>>,
    purged: Option<LogPos>,
}

fn seen(wal: &Wal, group: GroupId) -> Seen {
    let g = wal.group(group);
    let entries = g.read(0, u64::MAX, usize::MAX).unwrap();
    Seen {
        entries: entries
            .into_iter()
            .map(|(h, b)| (h.pos, b.to_vec()))
            .collect(),
        vote: g.vote(),
        purged: g.bounds().0,
    }
}

fn all_seen(wal: &Wal) -> Vec<Seen> {
    (0..3).map(|g| seen(wal, g)).collect()
}

/// A log of several segments, and the state after each acknowledged step.
fn sample(disk: &TestDisk) -> Vec<Vec<Seen>> {
    let wal = open(disk).unwrap();
    let g: Vec<_> = (0..3).map(|i| wal.group(i)).collect();
    let mut states = vec![all_seen(&wal)];
    let mut step = |f: &dyn Fn()| {
        f();
        states.push(all_seen(&wal));
    };
    step(&|| vote(&g[0], b"v1"));
    step(&|| {
        append(
            &g[0],
            (1..=3).map(|i| entry(1, i, &[i as u8; 20])).collect(),
        )
    });
    step(&|| append(&g[1], vec![entry(1, 1, b"one")]));
    step(&|| append(&g[0], vec![entry(1, 4, &[4; 90]), entry(1, 5, &[5; 90])]));
    step(&|| vote(&g[2], b"v2"));
    step(&|| truncate(&g[0], Some(pos(1, 3))));
    step(&|| append(&g[0], vec![entry(2, 4, &[44; 60])]));
    step(&|| {
        append(
            &g[1],
            (2..=6).map(|i| entry(2, i, &[i as u8; 30])).collect(),
        )
    });
    step(&|| vote(&g[1], b"v3"));
    step(&|| append(&g[0], vec![entry(2, 5, b"five")]));
    wal.close();
    states
}

#[test]
fn a_clean_stop_and_start_keeps_everything() {
    let disk = TestDisk::default();
    let states = sample(&disk);
    let wal = open(&disk).unwrap();
    assert!(wal.segments() > 1, "the sample must span segments");
    assert_eq!(&all_seen(&wal), states.last().unwrap());
    assert_eq!(wal.report().cut_bytes, 0);
}

/// Opens damaged files: `Some(k)` when the state is the one after step `k`, `None` when refused.
fn outcome(files: BTreeMap<PathBuf, Vec<u8>>, states: &[Vec<Seen>], what: &str) -> Option<usize> {
    match open(&TestDisk::with(files)) {
        Ok(wal) => {
            let got = all_seen(&wal);
            let k = states.iter().rposition(|s| *s == got);
            Some(k.unwrap_or_else(|| panic!("{what}: a state that never was: {got:?}")))
        }
        Err(e) => {
            assert!(!e.to_string().is_empty());
            None
        }
    }
}

#[test]
fn with_the_ledger_any_damaged_byte_of_a_segment_is_refused() {
    let disk = TestDisk::default();
    let states = sample(&disk);
    let files = disk.files();
    for (path, bytes) in files.iter().filter(|(p, _)| p.extension().is_some()) {
        for at in 0..bytes.len() {
            let mut damaged = files.clone();
            damaged.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
            let what = format!("{} byte {at}", path.display());
            assert_eq!(outcome(damaged, &states, &what), None, "{what}");
        }
        for len in 0..bytes.len() {
            let mut damaged = files.clone();
            damaged.get_mut(path).unwrap().truncate(len);
            let what = format!("{} cut to {len}", path.display());
            assert_eq!(outcome(damaged, &states, &what), None, "{what}");
        }
        for at in (0..bytes.len()).step_by(64) {
            let mut damaged = files.clone();
            let b = damaged.get_mut(path).unwrap();
            let end = (at + 64).min(b.len());
            b[at..end].fill(0);
            let what = format!("{} zeroed at {at}", path.display());
            assert_eq!(outcome(damaged, &states, &what), None, "{what}");
        }
    }
}

/// The ledger as it was before the last batches: what a power cut may leave of it.
#[test]
fn above_what_is_known_durable_the_result_is_an_exact_prefix_or_a_refusal() {
    let disk = TestDisk::default();
    drop(open(&disk).unwrap());
    let young = disk.files()[&PathBuf::from("/wal/ledger")].clone();
    let disk = TestDisk::with(disk.files());
    let states = sample(&disk);
    let mut files = disk.files();
    files.insert("/wal/ledger".into(), young);
    let (mut cuts, mut refusals) = (0, 0);
    for (path, bytes) in files.iter().filter(|(p, _)| p.extension().is_some()) {
        for at in 0..bytes.len() {
            for damage in 0..3 {
                let mut damaged = files.clone();
                let b = damaged.get_mut(path).unwrap();
                match damage {
                    0 => b[at] ^= 0x10,
                    1 => b.truncate(at),
                    _ => {
                        let end = (at + 64).min(b.len());
                        b[at..end].fill(0);
                    }
                }
                let what = format!("{} damage {damage} at {at}", path.display());
                match outcome(damaged, &states, &what) {
                    None => refusals += 1,
                    Some(_) => cuts += 1,
                }
            }
        }
    }
    assert!(
        cuts > 0 && refusals > 0,
        "both must happen: {cuts} cuts, {refusals} refusals"
    );
}

/// Only the last batch may be cut when every later header says what was durable.
#[test]
fn headers_behind_the_damage_are_believed() {
    let disk = TestDisk::default();
    let wal = Wal::open(Path::new(DIR), options(&disk, 1 << 20)).unwrap();
    let young = disk.files()[&PathBuf::from("/wal/ledger")].clone();
    let g = wal.group(0);
    let mut states = vec![all_seen(&wal)];
    for i in 1..=5 {
        append(&g, vec![entry(1, i, &[i as u8; 8])]);
        states.push(all_seen(&wal));
    }
    wal.close();
    let mut files = disk.files();
    files.insert("/wal/ledger".into(), young);
    let segment = PathBuf::from("/wal/0000000000000001.wal");
    let record = 40 + 4 + 36 + 8;
    assert_eq!(files[&segment].len(), 64 + 5 * record);
    for at in 64..files[&segment].len() {
        let mut damaged = files.clone();
        damaged.get_mut(&segment).unwrap()[at] ^= 0x80;
        let number = (at - 64) / record + 1;
        // Record 5 says 4 was durable; nothing says so of 5.
        let expected = (number == 5).then_some(4);
        assert_eq!(
            outcome(damaged, &states, "flip"),
            expected,
            "record {number}, byte {at}"
        );
    }
}

/// Zeros ahead of the records, as every stop without warning leaves them.
#[test]
fn zeros_behind_the_records_end_the_log_and_hide_no_loss() {
    let disk = TestDisk::default();
    let states = sample(&disk);
    let files = disk.files();
    let last = states.len() - 1;
    let segments: Vec<_> = files
        .keys()
        .filter(|p| p.extension().is_some())
        .cloned()
        .collect();
    assert!(segments.len() >= 3);
    let mut all = files.clone();
    for path in &segments {
        let mut padded = files.clone();
        padded.get_mut(path).unwrap().extend([0; 500]);
        assert_eq!(outcome(padded, &states, "padded"), Some(last));
        all.get_mut(path).unwrap().extend([0; 500]);
        // One byte among the zeros is no padding: cut at the end, refused before it.
        let mut marked = files.clone();
        marked.get_mut(path).unwrap().extend([0; 500]);
        *marked.get_mut(path).unwrap().last_mut().unwrap() = 1;
        let newest = path == segments.last().unwrap();
        let expected = newest.then_some(last);
        assert_eq!(outcome(marked, &states, "marked"), expected);
        // Zeros in place of records: from any offset to the end, and beyond it.
        for from in 0..files[path].len() {
            let mut lost = files.clone();
            let bytes = lost.get_mut(path).unwrap();
            let len = bytes.len();
            bytes.truncate(from);
            bytes.resize(len + 500, 0);
            let what = format!("{} zeros from {from}", path.display());
            if files[path][from..].iter().all(|b| *b == 0) {
                continue;
            }
            assert_eq!(outcome(lost, &states, &what), None, "{what}");
        }
    }
    let wal = open(&TestDisk::with(all)).unwrap();
    assert_eq!(&all_seen(&wal), states.last().unwrap());
    assert_eq!(wal.report().cut_bytes, 0, "zeros are not a cut");
}

#[test]
fn records_take_the_place_of_zeros_that_are_durable() {
    let disk = TestDisk::default();
    let wal = Wal::open(Path::new(DIR), options(&disk, 1 << 20)).unwrap();
    let path = PathBuf::from("/wal/0000000000000001.wal");
    let g = wal.group(0);
    let (mut grew, mut durable_len) = (0, 64);
    for i in 1..=60 {
        append(&g, vec![entry(1, i, b"payload")]);
        // What a power cut that loses everything unsynced would leave.
        let durable = disk.cut(|| false).files()[&path].clone();
        grew += u64::from(durable.len() != durable_len);
        durable_len = durable.len();
        let left = Wal::open(Path::new(DIR), options(&disk.cut(|| false), 1 << 20)).unwrap();
        assert_eq!(left.group(0).bounds().1, Some(pos(1, i)));
        assert_eq!(left.report().cut_bytes, 0);
    }
    let record = 40 + 4 + 36 + 7;
    assert!(
        (10..=40).contains(&grew),
        "60 records of {record} bytes with 150 ahead lengthened the file {grew} times"
    );
    wal.close();
    assert_eq!(disk.files()[&path].len(), 64 + 60 * record);
}

#[test]
fn missing_moved_and_duplicated_segments_are_refused() {
    let disk = TestDisk::default();
    let states = sample(&disk);
    let files = disk.files();
    let segments: Vec<_> = files
        .keys()
        .filter(|p| p.extension().is_some())
        .cloned()
        .collect();
    assert!(segments.len() >= 3);
    for (i, path) in segments.iter().enumerate() {
        let mut damaged = files.clone();
        damaged.remove(path);
        assert_eq!(
            outcome(damaged, &states, "missing"),
            None,
            "missing {}",
            path.display()
        );
        for (j, other) in segments.iter().enumerate().filter(|(j, _)| *j != i) {
            let mut damaged = files.clone();
            damaged.insert(path.clone(), files[other].clone());
            assert_eq!(outcome(damaged, &states, "copied"), None, "{j} over {i}");
        }
        let mut damaged = files.clone();
        let next = recovery::segment_path(Path::new(DIR), segments.len() as u64 + 1);
        damaged.insert(next, files[path].clone());
        assert_eq!(
            outcome(damaged, &states, "appended"),
            None,
            "{i} once more at the end"
        );
        // The last record once more behind itself.
        let mut damaged = files.clone();
        let again = files[path][64..].to_vec();
        damaged.get_mut(path).unwrap().extend(again);
        let got = outcome(damaged, &states, "doubled");
        assert!(
            got.is_none() || got == Some(states.len() - 1),
            "doubled content in {i}"
        );
    }
    let mut all_gone = files.clone();
    all_gone.retain(|p, _| p.extension().is_none());
    assert_eq!(outcome(all_gone, &states, "all gone"), None);
    let mut no_ledger = files;
    no_ledger.retain(|p, _| p.extension().is_some());
    assert_eq!(outcome(no_ledger, &states, "no ledger"), None);
}

#[test]
fn a_damaged_ledger_is_refused_or_harmless() {
    let disk = TestDisk::default();
    let states = sample(&disk);
    let files = disk.files();
    let path = PathBuf::from("/wal/ledger");
    for at in 0..files[&path].len() {
        let mut damaged = files.clone();
        damaged.get_mut(&path).unwrap()[at] ^= 4;
        let got = outcome(damaged, &states, "ledger");
        assert!(
            got.is_none() || got == Some(states.len() - 1),
            "byte {at}: {got:?}"
        );
    }
}

#[test]
fn a_newer_format_is_named() {
    let disk = TestDisk::default();
    sample(&disk);
    let mut files = disk.files();
    let first = files
        .keys()
        .find(|p| p.extension().is_some())
        .unwrap()
        .clone();
    let b = files.get_mut(&first).unwrap();
    b[8] = 7;
    let crc = crc32fast::hash(&b[..60]).to_le_bytes();
    b[60..64].copy_from_slice(&crc);
    let e = open(&TestDisk::with(files)).unwrap_err();
    assert!(matches!(e, WalError::Newer { version: 7, .. }), "{e}");
}

#[test]
fn a_failed_sync_reports_once_and_acknowledges_nothing() {
    let disk = TestDisk::default();
    let why = Arc::new(Mutex::new(Vec::new()));
    let seen = why.clone();
    let fatal = Fatal::new(move |r| seen.lock().unwrap().push(r.to_owned()));
    let wal = Wal::open(
        Path::new(DIR),
        WalOptions {
            fatal,
            ..options(&disk, 1 << 20)
        },
    )
    .unwrap();
    let g = wal.group(0);
    append(&g, vec![entry(1, 1, b"a")]);
    disk.fail_syncs();
    let (done, rx) = waiting();
    g.append(vec![entry(1, 2, b"b")], done).unwrap();
    assert!(!rx.recv().unwrap(), "must not be acknowledged");
    // The next one is refused, or failed: never acknowledged.
    let (done, rx) = waiting();
    if g.append(vec![entry(1, 3, b"c")], done).is_ok() {
        assert!(!rx.recv().unwrap_or(false));
    }
    wal.close();
    let why = why.lock().unwrap();
    assert_eq!(why.len(), 1, "{why:?}");
    assert!(why[0].contains("injected EIO"), "{why:?}");
}

#[test]
fn no_acknowledgement_without_a_sync_between_it_and_its_write() {
    let disk = TestDisk::default();
    let wal = Wal::open(Path::new(DIR), options(&disk, 4096)).unwrap();
    let next = Arc::new(AtomicU64::new(0));
    std::thread::scope(|s| {
        for w in 0..8u32 {
            let (wal, disk, next) = (wal.clone(), disk.clone(), next.clone());
            s.spawn(move || {
                let g = wal.group(w);
                for i in 1..=40 {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    let marker = format!("<marker {id:08}>");
                    let (tx, rx) = mpsc::channel();
                    let d = disk.clone();
                    let done: Done = Box::new(move |r| {
                        assert!(r.is_ok());
                        d.ack(id);
                        tx.send(()).unwrap();
                    });
                    g.append(vec![entry(1, i, marker.as_bytes())], done)
                        .unwrap();
                    rx.recv().unwrap();
                }
            });
        }
    });
    let events = disk.events();
    let mut written = BTreeMap::new();
    let mut synced = BTreeMap::new();
    let mut acks = 0;
    for (n, e) in events.iter().enumerate() {
        match e {
            Event::Write(path, _, bytes) => {
                for at in bytes
                    .windows(8)
                    .enumerate()
                    .filter(|(_, w)| *w == b"<marker ")
                    .map(|x| x.0)
                {
                    let id: u64 = std::str::from_utf8(&bytes[at + 8..at + 16])
                        .unwrap()
                        .parse()
                        .unwrap();
                    written.insert(id, (n, path.clone()));
                }
            }
            Event::Sync(path) => {
                synced.insert(path.clone(), n);
            }
            Event::Ack(id) => {
                acks += 1;
                let (at, path) = &written[id];
                assert!(
                    synced.get(path).is_some_and(|s| s > at),
                    "ack {id} before its sync"
                );
            }
            _ => {}
        }
    }
    assert_eq!(acks, 320);
}

#[test]
fn sixty_four_writers_over_eight_groups_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::open(dir.path(), WalOptions::default()).unwrap();
    // Writers of one group queue behind each other in raft, too: eight in flight each.
    std::thread::scope(|s| {
        for group in 0..8u32 {
            let order = Arc::new(Mutex::new(1u64));
            for _ in 0..8 {
                let (wal, order) = (wal.clone(), order.clone());
                s.spawn(move || {
                    let g = wal.group(group);
                    for _ in 0..25 {
                        let (done, rx) = waiting();
                        {
                            let mut next = order.lock().unwrap();
                            g.append(vec![entry(1, *next, &[7; 256])], done).unwrap();
                            *next += 1;
                        }
                        assert!(rx.recv().unwrap());
                    }
                });
            }
        }
    });
    let stats = wal.stats();
    assert_eq!(stats.acks, 1600);
    let per_sync = stats.acks as f64 / stats.syncs as f64;
    assert!(
        per_sync >= 4.0,
        "{per_sync:.1} acknowledgements an fdatasync: {stats:?}"
    );
}

#[test]
fn a_lagging_group_does_not_pin_the_log() {
    let disk = TestDisk::default();
    let wal = open(&disk).unwrap();
    let (busy, lagging) = (wal.group(0), wal.group(1));
    vote(&lagging, b"lagging vote");
    append(&lagging, (1..=3).map(|i| entry(1, i, b"old")).collect());
    vote(&wal.group(2), b"only a vote");
    for i in 1..=400 {
        append(&busy, vec![entry(1, i, &[1; 60])]);
        if i % 10 == 0 {
            busy.purge(pos(1, i - 5)).unwrap();
        }
    }
    assert!(
        wal.segments() <= 12,
        "{} segments of about 110 written",
        wal.segments()
    );
    assert!(wal.stats().segments_removed > 50, "{:?}", wal.stats());
    let before = all_seen(&wal);
    assert_eq!(before[1].entries.len(), 3);
    assert_eq!(before[2].vote.as_deref(), Some(&b"only a vote"[..]));
    drop((busy, lagging));
    wal.close();
    drop(wal);
    assert_eq!(all_seen(&open(&disk).unwrap()), before);
}

#[test]
fn the_disk_forgets_only_up_to_the_floor() {
    let disk = TestDisk::default();
    let wal = open(&disk).unwrap();
    let g = wal.group(0);
    g.set_floor(Floor::Applied(Some(3))).unwrap();
    append(&g, (1..=6).map(|i| entry(1, i, b"x")).collect());
    g.purge(pos(1, 5)).unwrap();
    assert_eq!(
        g.bounds(),
        (Some(pos(1, 5)), Some(pos(1, 6))),
        "readers see it purged"
    );
    append(&g, vec![entry(1, 7, b"x")]);
    let reopened = open(&disk.cut(|| true)).unwrap();
    assert_eq!(
        seen(&reopened, 0).entries.len(),
        7,
        "nothing is durable up to 5 yet"
    );
    g.set_floor(Floor::Applied(Some(5))).unwrap();
    append(&g, vec![entry(1, 8, b"x")]);
    let reopened = open(&disk.cut(|| true)).unwrap();
    assert_eq!(
        reopened.group(0).bounds(),
        (Some(pos(1, 5)), Some(pos(1, 8)))
    );
}

#[test]
fn appends_with_a_gap_are_refused() {
    let wal = open(&TestDisk::default()).unwrap();
    let g = wal.group(0);
    append(&g, vec![entry(1, 1, b"x")]);
    let e = g
        .append(vec![entry(1, 3, b"x")], Box::new(|_| {}))
        .unwrap_err();
    assert!(matches!(e, WalError::Order(_)), "{e}");
}
