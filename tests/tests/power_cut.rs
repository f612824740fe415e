//! Power cuts of one node's storage, on ext4 with and without a journal.
//!
//! The loss this prevents: an acknowledgement before the data was durable. 20
//! cuts a store by default; `QUORATE_POWER_CUTS=200` for a long run, whose
//! table of results is printed (`-- --nocapture`).
//!
//! Only what was said before the cut counts. The cut is made under a running
//! kernel, and a machine without power says nothing; this one still does. In a
//! few of 200 cuts, all on ext4 with a journal and none without, an fdatasync
//! that was under way returned success and its data was gone: likely it found
//! its transaction ended, not that the aborted journal threw it away. Those late
//! words are counted and shown, not judged.

use quorate_node::store::StoreKind;
use quorate_node::wal::fatal::EXIT_DISK_FAILED;
use quorate_tests::powercut::{Image, skipped};
use quorate_tests::storage_load::{read_acks, verify};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const GROUPS: u32 = 8;
const IN_FLIGHT: u32 = 4;
/// Cuts on one image before a new one is made.
const CUTS_PER_IMAGE: u32 = 10;
const IMAGE_MIB: u64 = 512;
/// Longest that the child may take to notice that its disk is gone.
const EXIT_WAIT_MAX: Duration = Duration::from_secs(20);

fn cuts() -> u32 {
    std::env::var("QUORATE_POWER_CUTS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(20)
}

fn writer(image: &Image, acks: &std::path::Path, store: StoreKind) -> Child {
    Command::new(env!("CARGO_BIN_EXE_storage-writer"))
        .arg(image.dir().join("data"))
        .arg(acks)
        .args([
            store.as_str(),
            &GROUPS.to_string(),
            &IN_FLIGHT.to_string(),
            "0",
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ended(child: &mut Child) -> i32 {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if start.elapsed() > EXIT_WAIT_MAX {
            let _ = child.kill();
            let _ = child.wait();
            return -2;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn cut_many(store: StoreKind) {
    if skipped("power cuts") {
        return;
    }
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (mut total, mut bad) = (0u32, Vec::new());
    let (mut acknowledged, mut late, mut lost_late) = (0, 0, Vec::new());
    'images: for n in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let journal = n % 2 == 0;
        let mut image = Image::create(dir.path(), "node", IMAGE_MIB, journal).unwrap();
        let acks = dir.path().join("acks");
        for _ in 0..CUTS_PER_IMAGE {
            if total == cuts() {
                break 'images;
            }
            total += 1;
            let before = std::fs::metadata(&acks).map_or(0, |m| m.len());
            let mut child = writer(&image, &acks, store);
            let wait = Duration::from_millis(rand::random_range(0..300));
            let start = Instant::now();
            while std::fs::metadata(&acks).map_or(0, |m| m.len()) == before {
                assert!(start.elapsed() < EXIT_WAIT_MAX, "nothing was acknowledged");
                assert!(
                    child.try_wait().unwrap().is_none(),
                    "the writer ended by itself"
                );
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(wait);
            // What a machine says after its power is gone does not count: see
            // `late` below. Everything said before does, to the last line.
            let said = std::fs::metadata(&acks).unwrap().len();
            image.cut().unwrap();
            let code = ended(&mut child);
            let says = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
            assert_eq!(
                code, EXIT_DISK_FAILED,
                "a failed disk ends the process with a reason: {says}"
            );
            assert!(says.contains("stopping"), "{says}");
            image.restart().unwrap();
            let all = read_acks(&acks).unwrap();
            std::fs::OpenOptions::new()
                .write(true)
                .open(&acks)
                .unwrap()
                .set_len(said)
                .unwrap();
            let known = read_acks(&acks).unwrap();
            late += all.len() - known.len();
            let data = image.dir().join("data");
            if let Err(e) = rt.block_on(verify(&data, store, GROUPS, &known)) {
                bad.push(format!("cut {total} (journal {journal}): {e:#}"));
                acknowledged += known.len();
                continue 'images;
            }
            if let Err(e) = rt.block_on(verify(&data, store, GROUPS, &all)) {
                lost_late.push(format!("cut {total} (journal {journal}): {e:#}"));
            }
            if total % CUTS_PER_IMAGE == 0 || total == cuts() {
                acknowledged += known.len();
            }
        }
    }
    let (store, bad_count, lost) = (store.as_str(), bad.len(), lost_late.len());
    println!(
        "| store | cuts | acknowledged | bad recoveries | said after the cut | cuts that lost of those |"
    );
    println!("|---|---|---|---|---|---|");
    println!("| {store} | {total} | {acknowledged} | {bad_count} | {late} | {lost} |");
    println!("{lost_late:#?}");
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn nothing_acknowledged_is_lost_with_redb() {
    cut_many(StoreKind::Redb);
}

#[test]
fn nothing_acknowledged_is_lost_with_sled() {
    cut_many(StoreKind::Sled);
}
