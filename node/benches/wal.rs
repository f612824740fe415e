//! Durable appends through the log against raw append + fdatasync, in one run
//! on one disk: `cargo bench -p quorate-node --bench wal [-- DIRECTORY]`.
//!
//! Raw is what one thread gets from the disk, 256 bytes and an fdatasync at a
//! time; it is measured before and after, because shared disks are noisy.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use quorate_node::wal::{Done, EntryKind, LogPos, Wal, WalOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

const PAYLOAD_BYTES: usize = 256;
const GROUPS: u32 = 8;
const RUN: Duration = Duration::from_secs(2);

fn raw(dir: &Path) -> f64 {
    let mut f = std::fs::File::create(dir.join("raw")).unwrap();
    let (start, mut n) = (Instant::now(), 0u32);
    while start.elapsed() < RUN {
        f.write_all(&[7; PAYLOAD_BYTES]).unwrap();
        f.sync_data().unwrap();
        n += 1;
    }
    f64::from(n) / start.elapsed().as_secs_f64()
}

/// Acknowledged appends a second, and fdatasyncs per acknowledgement.
fn log(dir: &Path, writers: u32) -> (f64, f64) {
    let wal = Wal::open(&dir.join(format!("wal-{writers}")), WalOptions::default()).unwrap();
    let next: Vec<_> = (0..GROUPS).map(|_| Arc::new(Mutex::new(1u64))).collect();
    let start = Instant::now();
    std::thread::scope(|s| {
        for w in 0..writers {
            let (g, next) = (wal.group(w % GROUPS), next[(w % GROUPS) as usize].clone());
            s.spawn(move || {
                while start.elapsed() < RUN {
                    let (tx, rx) = mpsc::channel();
                    let done: Done = Box::new(move |r| tx.send(r.is_ok()).unwrap());
                    {
                        let mut index = next.lock().unwrap();
                        let pos = LogPos {
                            term: 1,
                            node: 1,
                            index: *index,
                        };
                        let payload = vec![7; PAYLOAD_BYTES];
                        g.append(vec![(pos, EntryKind::Command, payload)], done)
                            .unwrap();
                        *index += 1;
                    }
                    assert!(rx.recv().unwrap());
                }
            });
        }
    });
    let (s, t) = (wal.stats(), start.elapsed().as_secs_f64());
    wal.close();
    (s.acks as f64 / t, s.syncs as f64 / s.acks as f64)
}

fn main() {
    let base = std::env::args().nth(1).filter(|a| !a.starts_with('-'));
    let dir = match base {
        Some(d) => tempfile::tempdir_in(d),
        None => tempfile::tempdir(),
    }
    .unwrap();
    let before = raw(dir.path());
    let runs: Vec<_> = [1, 16, 64].map(|w| (w, log(dir.path(), w))).to_vec();
    let after = raw(dir.path());
    let rival = f64::midpoint(before, after);
    println!(
        "raw append + fdatasync, {PAYLOAD_BYTES} bytes: {before:.0}/s before, {after:.0}/s after"
    );
    println!("| writers | durable appends/s | against raw | fdatasyncs per acknowledgement |");
    println!("|---|---|---|---|");
    for (w, (rate, syncs)) in runs {
        println!("| {w} | {rate:.0} | {:.2}x | {syncs:.3} |", rate / rival);
    }
}
