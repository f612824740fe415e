//! A disk that fills up: the node stops and says so, the cluster goes on, and
//! with room made the node comes back with nothing lost.

use super::load::{Load, check};
use super::world::{HOME, World, node, topology};
use quorate_node::wal::fatal::EXIT_DISK_FAILED;
use quorate_tests::deployment::tail;
use quorate_tests::powercut::{Image, run, skipped};
use std::time::Duration;

const IMAGE_MIB: u64 = 256;

#[test]
fn a_node_whose_disk_is_full_stops_and_comes_back_when_there_is_room() {
    if skipped("full disk") {
        return;
    }
    for (cluster, id) in [(HOME, 2), ("ch", 3)] {
        let mut world = World::lay_out(&topology(3, [3, 1, 1], "snapshot_entries = 100\n"));
        let logs = world.scratch().join("logs");
        std::fs::create_dir_all(&logs).unwrap();
        world.d.logs = Some(logs);
        let victim = node(cluster, id);
        let place = world.d.node(&victim).config.clone();
        let place = place.parent().unwrap();
        let mut image = Image::over(place, world.scratch(), "small", IMAGE_MIB, true).unwrap();
        world.d.start_all().unwrap();
        world.wait_ready();
        let chats: Vec<String> = (0..2).map(|i| world.chat(&format!("{i}"))).collect();
        let load = Load::start(&world, &chats);
        load.wait_for(10, Duration::from_secs(60));

        // Something else fills the disk to the last block.
        let filler = place.join("filler");
        let of = format!("of={}", filler.display());
        let full = run("dd", &["if=/dev/zero", &of, "bs=64K"]);
        assert!(full.is_err(), "the disk did not fill up");
        // Everyone goes on while the victim finds out; new chats have custodians write as well.
        let mut process = world.d.running.remove(&victim).unwrap();
        let mut code = None;
        for i in 0..60 {
            load.wait_for(10, Duration::from_secs(60));
            world.chat(&format!("made on a full disk {i}"));
            code = process.wait(Duration::from_millis(300)).ok();
            if code.is_some() {
                break;
            }
        }
        let log = tail(&process.log);
        assert_eq!(code, Some(Some(EXIT_DISK_FAILED)), "{victim:?}:\n{log}");
        assert!(log.contains("No space left on device"), "{log}");
        assert!(log.contains("free space"), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        load.wait_for(20, Duration::from_secs(60));

        // Started again without room it says so, and does not come up half.
        world.d.start_node(&victim).unwrap();
        let process = world.d.running.get_mut(&victim).unwrap();
        if let Ok(code) = process.wait(Duration::from_secs(10)) {
            let log = tail(&process.log);
            assert!(code.is_some_and(|c| c != 0), "{code:?}:\n{log}");
            assert!(log.contains("No space left on device"), "{log}");
        }
        world.d.kill(&victim);

        std::fs::remove_file(&filler).unwrap();
        world.d.start_node(&victim).unwrap();
        world.wait_ready();
        load.wait_for(20, Duration::from_secs(60));
        let ledgers = load.stop(&world);
        assert!(check(&world, &ledgers) >= 50);
        world.wait_equal_states(cluster, Duration::from_secs(60));
        drop(world);
        image.unmount().unwrap();
    }
}
