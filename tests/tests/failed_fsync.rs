//! A disk whose fsync fails: the process must stop, never try again.
//!
//! The loss this prevents is fsyncgate: an image that promises more than the
//! tmpfs behind it holds makes fsync fail once, then report success with the
//! data gone. Only what was acknowledged before counts, and all of it is there.

use quorate_node::store::StoreKind;
use quorate_node::wal::fatal::EXIT_DISK_FAILED;
use quorate_tests::powercut::{Image, Tmpfs, skipped};
use quorate_tests::storage_load::{read_acks, verify};
use std::process::Command;

#[test]
fn a_failed_fsync_stops_the_node_and_keeps_what_was_acknowledged() {
    if skipped("failed fsync") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let thin = Tmpfs::mount(&dir.path().join("thin"), 24).unwrap();
    let mut image = Image::create(&dir.path().join("thin"), "node", 128, true).unwrap();
    let acks = dir.path().join("acks");
    let data = image.dir().join("data");
    let out = Command::new(env!("CARGO_BIN_EXE_storage-writer"))
        .args([&data, &acks])
        .args(["redb", "2", "8", "0"])
        .output()
        .unwrap();
    let says = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(EXIT_DISK_FAILED), "{says}");
    assert!(
        says.contains("stopping") && says.contains("replace the node"),
        "{says}"
    );
    let known = read_acks(&acks).unwrap();
    assert!(
        known.len() > 100,
        "only {} acknowledgements before the disk failed",
        known.len()
    );
    // The process is gone; its disk gets room, and what it acknowledged is there.
    let _ = image.cut();
    image.unmount().unwrap();
    thin.grow(256).unwrap();
    image.check().unwrap();
    image.mount().unwrap();
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    rt.block_on(verify(&data, StoreKind::Redb, 2, &known))
        .unwrap();
    image.unmount().unwrap();
}
