//! Plaintext is nowhere on a disk, and no share left without a record.
//!
//! The canary is 32 random bytes. It goes into message bodies in hex, and is
//! then searched for in every file of the deployment: raw, in hex, in base64 of
//! either. Reading through a quorum is the control that finds it; a file with
//! the canary planted is the control of the search.

use super::world::{CUSTODIANS, HOME, World, node, offline, run, topology};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use quorate_engine::audit::{self, EntryKind, KeyOutcome};
use quorate_engine::custody;
use quorate_engine::custody::protocol::Receipt;
use quorate_engine::home::read;
use quorate_node::config::Config;
use quorate_node::storage;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Messages that carry the canary; with the small snapshot interval, several snapshots.
const MESSAGES: usize = 60;

/// Whatever the canary could look like in a file.
fn patterns(canary: &[u8; 32]) -> Vec<Vec<u8>> {
    let hex = hex::encode(canary);
    let mut out = vec![
        canary.to_vec(),
        hex.clone().into_bytes(),
        hex.to_uppercase().into_bytes(),
    ];
    for bytes in [&canary[..], hex.as_bytes()] {
        // The canary may start at any of three offsets within a base64 group.
        for skip in 0..3 {
            let whole = &bytes[skip..skip + (bytes.len() - skip) / 3 * 3];
            out.push(STANDARD_NO_PAD.encode(whole).into_bytes());
            out.push(URL_SAFE_NO_PAD.encode(whole).into_bytes());
        }
    }
    out
}

fn files_below(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files_below(&path, out),
            false => out.push(path),
        }
    }
}

/// Files below `dir` that hold one of `patterns`, and how many bytes were searched.
fn search(dir: &Path, patterns: &[Vec<u8>]) -> (Vec<PathBuf>, u64) {
    let mut first = [false; 256];
    patterns.iter().for_each(|p| first[p[0] as usize] = true);
    let (mut files, mut found, mut total) = (Vec::new(), Vec::new(), 0);
    files_below(dir, &mut files);
    for path in files {
        let bytes = std::fs::read(&path).unwrap();
        total += bytes.len() as u64;
        let holds = (0..bytes.len()).any(|at| {
            first[bytes[at] as usize] && patterns.iter().any(|p| bytes[at..].starts_with(p))
        });
        if holds {
            found.push(path);
        }
    }
    (found, total)
}

/// Every log index at which a stopped custodian recorded released keys, with how many.
fn releases(world: &World, custodian: &str) -> Vec<(u64, usize)> {
    let config = world.d.node(&node(custodian, 1)).config.clone();
    offline(&config, 0, |kv| {
        let size = custody::overview(kv).unwrap().log_size;
        let mut out = Vec::new();
        for index in 0..size {
            let bytes = audit::entry_bytes(kv, index).unwrap().unwrap();
            let entry: quorate_engine::audit::Entry = serde_json::from_slice(&bytes).unwrap();
            let keys = &entry.keys;
            let released = keys.iter().filter(|k| k.outcome == KeyOutcome::Released);
            match (entry.kind, released.count()) {
                (_, 0) => {}
                (EntryKind::Release, n) => out.push((index, n)),
                (kind, n) => panic!("entry {index} is a {kind:?} and releases {n}"),
            }
        }
        out
    })
}

fn receipts(world: &World) -> Vec<Receipt> {
    let config = world.d.node(&node(HOME, 1)).config.clone();
    let shards = storage::groups_in(&Config::load(&config).unwrap().data_dir).unwrap();
    let of = |shard| offline(&config, shard, |kv| read::receipts(kv, 10_000).unwrap());
    shards.into_iter().flat_map(of).collect()
}

#[test]
fn canaries_are_nowhere_on_disk_and_every_share_that_left_has_its_record() {
    let canary: [u8; 32] = rand::random();
    let patterns = patterns(&canary);
    let mut world = World::start(&topology(3, [1; 3], "snapshot_entries = 20\n"));
    let planted = world.scratch().join("planted");
    for (i, pattern) in patterns.iter().enumerate() {
        std::fs::create_dir_all(&planted).unwrap();
        let text = [b"before ", &pattern[..], b" after"].concat();
        std::fs::write(planted.join(i.to_string()), text).unwrap();
    }
    assert_eq!(search(&planted, &patterns).0.len(), patterns.len());

    let chats: Vec<String> = (0..4)
        .map(|i| world.chat(&format!("{i} {}", hex::encode(canary))))
        .collect();
    let texts: Vec<String> = (0..MESSAGES / chats.len())
        .map(|i| format!("{} number {i}", hex::encode(canary)))
        .collect();
    for chat in &chats {
        world.send(chat, &texts);
    }
    // One node is killed, the others stop in order; then nothing is leased and reading asks the custodians.
    world.d.kill(&node(HOME, 1));
    for id in [2, 3] {
        world.d.stop(&node(HOME, id)).unwrap();
    }
    world.d.start_all().unwrap();
    world.wait_ready();
    for chat in &chats {
        assert_eq!(world.texts(chat), texts, "the control does not find them");
    }
    std::thread::sleep(std::time::Duration::from_secs(1)); // Receipts are journalled five times a second.
    let counted: Vec<f64> = CUSTODIANS
        .iter()
        .map(|c| world.metric(&node(c, 1), "quorate_custodian_releases_total"))
        .collect();
    world.wait_equal_states(HOME, std::time::Duration::from_secs(30));
    for name in world.d.names() {
        match name == node(HOME, 2) {
            true => world.d.kill(&name),
            false => world.d.stop(&name).unwrap(),
        }
    }

    let (found, searched) = search(world.dir(), &patterns);
    assert!(found.is_empty(), "plaintext in {found:?}");
    assert!(searched > 1 << 20, "only {searched} bytes were searched");
    dumps_show_structure_and_no_canary(&world, &patterns);

    let receipts = receipts(&world);
    assert!(receipts.len() >= 2, "{receipts:?}");
    for (custodian, counted) in CUSTODIANS.iter().zip(counted) {
        let recorded = releases(&world, custodian);
        let keys: usize = recorded.iter().map(|(_, n)| n).sum();
        assert_eq!(keys as f64, counted, "{custodian}: {recorded:?}");
        let entries: BTreeSet<u64> = recorded.iter().map(|(i, _)| *i).collect();
        let named = receipts
            .iter()
            .filter(|r| r.custodian.as_str() == *custodian);
        for receipt in named {
            assert!(entries.contains(&receipt.entry), "{receipt:?}: {entries:?}");
        }
    }
}

fn dumps_show_structure_and_no_canary(world: &World, patterns: &[Vec<u8>]) {
    let mut snapshots = 0;
    for name in world.d.names() {
        let data = world.d.node(&name).config.with_file_name("data");
        let ran = run(
            "quorate-node",
            &["dump", "--records", data.to_str().unwrap()],
        );
        assert_eq!(ran.code, Some(0), "{name:?}: {ran:?}");
        for part in ["format: ", "segment ", "group 0 in the log: "] {
            assert!(
                ran.out.contains(part),
                "{name:?}: no {part:?} in {}",
                ran.out
            );
        }
        snapshots += ran.out.matches(": whole, ").count();
        let text = ran.out.as_bytes();
        let holds = |p: &Vec<u8>| text.windows(p.len()).any(|w| w == &p[..]);
        assert!(!patterns.iter().any(holds), "{name:?}: the dump tells");
    }
    assert!(snapshots > 0, "no snapshot was built, so none was searched");
}

/// Leaves a core file with `canary` in it, on purpose; whether the system wrote one.
fn plant_core(dir: &Path, canary: &[u8; 32]) -> bool {
    let status = std::process::Command::new("prlimit")
        .args(["--core=unlimited", "sh", "-c", "kill -ABRT $$"])
        .env("CANARY", hex::encode(canary))
        .current_dir(dir)
        .status();
    status.is_ok() && std::fs::read_dir(dir).unwrap().next().is_some()
}

#[test]
fn a_node_that_aborts_leaves_no_core_with_messages_or_keys() {
    let canary: [u8; 32] = rand::random();
    let patterns = patterns(&canary);
    let mut world = World::lay_out(&topology(1, [1; 3], ""));
    let dir = |name: &str| {
        let dir = world.scratch().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    };
    let (control, cores) = (dir("control"), dir("cores"));
    if !plant_core(&control, &canary) {
        let why = "the system writes no core file to the working directory";
        return quorate_tests::shared::skip("core files", why);
    }
    assert_eq!(search(&control, &patterns).0.len(), 1);

    world.d.cores = Some(cores.clone());
    world.d.start_all().unwrap();
    world.wait_ready();
    let chat = world.chat(&hex::encode(canary));
    let texts: Vec<String> = (0..10)
        .map(|i| format!("{} number {i}", hex::encode(canary)))
        .collect();
    world.send(&chat, &texts);
    // Read through a quorum, so that custodians release and the home leases.
    world.d.stop(&node(HOME, 1)).unwrap();
    world.d.start_node(&node(HOME, 1)).unwrap();
    world.wait_ready();
    assert_eq!(world.texts(&chat), texts);
    let released = |c: &&str| world.metric(&node(c, 1), "quorate_custodian_releases_total") > 0.0;
    let custodian = CUSTODIANS.into_iter().find(released).unwrap();
    for name in [node(HOME, 1), node(custodian, 1)] {
        let mut process = world.d.running.remove(&name).unwrap();
        process.signal("ABRT").unwrap();
        let code = process.wait(std::time::Duration::from_secs(20)).unwrap();
        assert_eq!(code, None, "{name:?} did not abort");
    }
    let mut files = Vec::new();
    files_below(&cores, &mut files);
    assert!(files.is_empty(), "core files: {files:?}");
    assert!(search(world.dir(), &patterns).0.is_empty());
}
