//! A freeze stops shares at once, and the home drops what it has leased.

use super::world::{CUSTODIANS, World, eventually, run_within, topology, topology_text, turn};
use serde_json::Value;
use std::time::{Duration, Instant};

/// From the freeze's confirmation to the first refused read, process starts included.
const DARK_MAX: Duration = Duration::from_secs(2);
/// Three cases, one of which waits for the feed grace, and a deployment's start and stop.
const DRILL_MAX: Duration = Duration::from_secs(180);
/// Exit code for too few custodians.
const NO_QUORUM: Option<i32> = Some(4);

#[test]
fn a_frozen_blocking_set_stops_reads_under_a_lease_and_names_who_until_thawed() {
    let world = World::start(&topology(3, [1; 3], ""));
    let chat = world.chat("to be frozen");
    world.send(&chat, &["before".into()]);
    let get = ["message", "get", &chat, "1"];
    assert!(world.quorate_ok(&get).contains("before"));

    // One of three does not block.
    let reason = ["--reason", "a court asks"];
    let freeze = |c: &str| {
        let args = [&["custodian", "freeze", c][..], &reason].concat();
        world.quorate_ok(&args);
    };
    freeze(CUSTODIANS[0]);
    std::thread::sleep(DARK_MAX);
    assert!(world.quorate_ok(&get).contains("before"));

    // Two of three do.
    freeze(CUSTODIANS[1]);
    let began = Instant::now();
    let refused = eventually(Duration::from_secs(20), || {
        let ran = world.quorate(&get);
        anyhow::ensure!(ran.code != Some(0), "still read: {ran:?}");
        Ok(ran)
    });
    let (refused, took) = (refused.unwrap(), began.elapsed());
    assert_eq!(refused.code, NO_QUORUM, "{refused:?}");
    assert!(took < DARK_MAX, "still read {took:?} after the freeze");
    for custodian in &CUSTODIANS[..2] {
        let said = format!("{custodian} refused");
        assert!(refused.err.contains(&said), "{refused:?}");
    }
    assert!(!refused.err.contains(&format!("{} refused", CUSTODIANS[2])));
    assert!(!refused.out.contains("before"));
    let status = world.quorate_ok(&["custodian", "status", CUSTODIANS[0]]);
    assert!(status.contains("FROZEN all") && status.contains("a court asks"));

    let thaw = ["custodian", "thaw", CUSTODIANS[1]];
    world.quorate_ok(&[&thaw[..], &reason].concat());
    let back = eventually(Duration::from_secs(10), || {
        let ran = world.quorate(&get);
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        Ok(ran)
    });
    assert!(back.unwrap().out.contains("before"));
}

#[test]
fn a_drill_measures_time_to_dark_told_cut_off_and_through_a_restart() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("small.toml");
    std::fs::write(&file, topology_text(3, [1; 3], "")).unwrap();
    let deployment = dir.path().join("d");
    let args = ["--json", "freeze", "drill", "--topology"];
    let places = [
        file.to_str().unwrap(),
        "--dir",
        deployment.to_str().unwrap(),
    ];
    let ran = run_within(DRILL_MAX, "quorate", &[&args[..], &places].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let cases: Vec<Value> = ran
        .out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let names: Vec<&str> = cases.iter().filter_map(|c| c["case"].as_str()).collect();
    assert_eq!(names, ["told", "cut_off", "restarted"], "{ran:?}");
    for case in &cases {
        assert_eq!(case["held"], true, "{case}");
        assert_eq!(case["frozen"].as_array().unwrap().len(), 2, "{case}");
        assert!(case["dark_ms"].as_u64() <= case["limit_ms"].as_u64());
    }
    // Who was told nothing goes on until the grace is over: the measure can tell the cases apart.
    assert!(cases[1]["dark_ms"].as_u64() > cases[0]["limit_ms"].as_u64());
    assert!(cases[1]["reads_after"].as_u64() > Some(50), "{ran:?}");
}

#[test]
fn a_drill_on_a_running_deployment_fails_when_those_who_freeze_do_not_block() {
    let world = World::start(&topology(1, [1; 3], ""));
    let chat = world.chat("canary");
    world.send(&chat, &["sung".into()]);
    let why = ["--chat", &chat, "--reason", "drill"];
    let drill = |custodians: &[&str]| {
        let mut args = [&["freeze", "drill"][..], &why].concat();
        for c in custodians {
            args.extend(["--at", c]);
        }
        world.quorate(&args)
    };
    let good = drill(&CUSTODIANS[..2]);
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(good.out.contains("ok   told: ch, is froze in"), "{good:?}");
    let bad = drill(&CUSTODIANS[..1]);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert!(bad.err.contains("did not stay dark"), "{bad:?}");
    // Nothing stays frozen after it, unless it is said.
    let status = world.quorate_ok(&["custodian", "status", CUSTODIANS[0]]);
    assert!(!status.contains("FROZEN"), "{status}");
    let mut last = [&["freeze", "drill", "--leave-frozen"][..], &why].concat();
    last.extend(["--at", CUSTODIANS[0], "--at", CUSTODIANS[1]]);
    let left = world.quorate(&last);
    assert_eq!(left.code, Some(0), "{left:?}");
    let status = world.quorate_ok(&["custodian", "status", CUSTODIANS[0]]);
    assert!(status.contains(&format!("FROZEN {chat}")), "{status}");
}
