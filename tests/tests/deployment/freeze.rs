//! A freeze stops shares at once, and the home drops what it has leased.

use super::world::{CUSTODIANS, World, eventually, topology};
use std::time::{Duration, Instant};

/// From the freeze's confirmation to the first refused read, process starts included.
const DARK_MAX: Duration = Duration::from_secs(2);
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
