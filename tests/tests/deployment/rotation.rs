//! Wrapping keys follow each other, and what old images of a node's disk are worth then.

use super::world::{HOME, World, eventually, node, offline, run_node, topology};
use quorate_engine::custody::{KeyKind, Place, ShareRow, under_other_versions, wrap_anew};
use quorate_engine::types::{CustodianId, KeyId, Secret};
use quorate_node::custodian::{GROUP, Ring, VAULT_FILE, Vault};
use quorate_node::pki::files;
use quorate_tests::deployment::NodeName;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Exit code: too few custodians.
const NO_QUORUM: Option<i32> = Some(4);
const WAIT: Duration = Duration::from_secs(60);
/// More than a test stores.
const SHARES_MAX: usize = 10_000;

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// A home that holds no lease must ask custodians again.
fn restart_home(world: &mut World) {
    let home = node(HOME, 1);
    world.d.stop(&home).unwrap();
    world.d.start_node(&home).unwrap();
}

fn reads(world: &World, chat: &str) -> anyhow::Result<()> {
    let ran = world.quorate(&["message", "get", chat, "1"]);
    anyhow::ensure!(ran.code == Some(0) && ran.out.contains("kept"), "{ran:?}");
    Ok(())
}

fn log_of(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("process.log")).unwrap_or_default()
}

/// A stopped node's directory: its vault and root, or another's.
struct Disk {
    dir: PathBuf,
    place: Place,
}

impl Disk {
    fn rows(&self) -> Vec<(KeyId, ShareRow)> {
        offline(&self.dir.join("config.toml"), GROUP, |kv| {
            let (rows, more) = under_other_versions(kv, u32::MAX, None, SHARES_MAX).unwrap();
            assert_eq!(more, None);
            rows
        })
    }

    fn root(&self) -> Secret<32> {
        files::read_secret32(&self.dir.join("root.key")).unwrap()
    }

    fn vault(&self, root: Secret<32>) -> Vault {
        Vault::open(&self.dir.join("data"), &self.place, 1, root).unwrap()
    }
}

/// How many of `rows` open with the keys of `vault`, checked against their commitments.
fn opened(vault: &Vault, place: &Place, rows: &[(KeyId, ShareRow)]) -> usize {
    let held = vault.keys().filter(|(kind, ..)| *kind == KeyKind::Wrapping);
    let newest = held.map(|(_, version, _)| version).max().unwrap();
    let (items, damaged) = wrap_anew(place, &Ring::of(vault), newest, rows, &mut rand::rng());
    assert_eq!(items.len() + damaged, rows.len());
    items.len()
}

fn rotate(world: &World, custodian: &str) -> String {
    let rotate = [
        "custodian",
        "keys",
        "rotate",
        custodian,
        "--reason",
        "a drill",
    ];
    let rotated = eventually(WAIT, || {
        // A version that has just come into use is not followed at once.
        let ran = world.quorate(&rotate);
        let said = ran.out.contains("is in use");
        anyhow::ensure!(ran.code == Some(0) && said, "{ran:?}");
        Ok(ran.out)
    });
    rotated.unwrap()
}

/// What P6 says of old images: the keys of today open nothing in them, nor theirs what is there
/// today; an image with its own root opens as it did, and counts as not destroyed.
#[test]
fn after_a_rotation_an_old_image_opens_with_its_own_root_only() {
    let mut world = World::start(&topology(1, [1; 3], ""));
    for n in 0..4 {
        let chat = world.chat(&format!("chat {n}"));
        world.send(&chat, &["kept".into()]);
    }
    let chat = world.chat("the last");
    world.send(&chat, &["kept, too".into()]);
    let is: NodeName = node("is", 1);
    let place = Place {
        deployment: world.d.layout.deployment,
        custodian: CustodianId::new("is").unwrap(),
    };
    let dir = world.d.node(&is).config.parent().unwrap().to_owned();
    let held = world.metric(&is, "quorate_custodian_shares");
    assert!(held >= 5.0, "{held}");
    world.d.stop(&is).unwrap();
    let image = Disk {
        dir: world.scratch().join("image"),
        place: place.clone(),
    };
    copy(&dir, &image.dir);
    world.d.start_node(&is).unwrap();
    world.wait_ready();

    assert!(rotate(&world, "is").contains("wrapping version 2"));
    eventually(WAIT, || {
        let done = world.metric(&is, "quorate_custodian_rewrapped_total");
        let left = world.metric(&is, "quorate_custodian_shares_under_old_versions");
        anyhow::ensure!(done >= held && left == 0.0, "{done} of {held}, {left} left");
        let destroyed = log_of(&dir).contains("wrapping key destroyed");
        anyhow::ensure!(destroyed, "the old key is still there");
        Ok(())
    })
    .unwrap();
    let status = world.quorate_ok(&["custodian", "status", "is"]);
    assert!(!status.contains("wrapping version"), "{status}");
    let check = world.quorate_ok(&["custodian", "keys", "check", "is", "--own"]);
    assert!(
        check.contains("2 key versions"),
        "one wrapping, one sealing: {check}"
    );
    world.d.stop(&node("sg", 1)).unwrap();
    restart_home(&mut world);
    eventually(WAIT, || reads(&world, &chat)).unwrap();

    // Every share, the state of then and of now, under the keys of then and of now.
    world.d.stop(&is).unwrap();
    let today = Disk {
        dir: dir.clone(),
        place: place.clone(),
    };
    let (then, now) = (image.rows(), today.rows());
    assert_eq!((then.len() as f64, now.len()), (held, then.len()));
    assert!(then.iter().all(|(_, r)| r.version == 1));
    assert!(now.iter().all(|(_, r)| r.version == 2));
    let old = image.vault(image.root());
    let new = today.vault(today.root());
    assert_eq!(opened(&new, &place, &now), now.len());
    assert_eq!(
        opened(&new, &place, &then),
        0,
        "an old image under today's keys"
    );
    assert_eq!(
        opened(&old, &place, &now),
        0,
        "today's state under old keys"
    );
    assert_eq!(opened(&old, &place, &then), then.len(), "not destroyed");
    drop((old, new));

    // The same with the real process. Without its key file, or with another's, it does not start.
    let key = image.dir.join("root.key");
    let away = world.scratch().join("root.key");
    std::fs::rename(&key, &away).unwrap();
    let config = image.dir.join("config.toml");
    let ran = run_node(&config);
    assert!(
        ran.code == Some(1) && ran.err.contains("root.key"),
        "{ran:?}"
    );
    std::fs::copy(world.dir().join("sg/node-1/root.key"), &key).unwrap();
    let ran = run_node(&config);
    assert!(
        ran.code == Some(1) && ran.err.contains("does not open"),
        "{ran:?}"
    );
    std::fs::copy(&away, &key).unwrap();

    // With today's vault it runs, finds its key gone, and releases nothing.
    std::fs::rename(&dir, world.scratch().join("today")).unwrap();
    copy(&image.dir, &dir);
    let vault = Path::new("data").join(VAULT_FILE);
    let of_today = world.scratch().join("today").join(&vault);
    std::fs::copy(of_today, dir.join(&vault)).unwrap();
    world.d.start_node(&is).unwrap();
    restart_home(&mut world);
    eventually(WAIT, || {
        let lacks = log_of(&dir).contains("lacks wrapping version 1");
        anyhow::ensure!(lacks, "{}", log_of(&dir));
        let ran = world.quorate(&["message", "get", &chat, "1"]);
        anyhow::ensure!(ran.code == NO_QUORUM, "{ran:?}");
        Ok(())
    })
    .unwrap();
    world.d.stop(&is).unwrap();

    // With its own vault and root it opens as on the day it was made.
    std::fs::remove_dir_all(&dir).unwrap();
    copy(&image.dir, &dir);
    world.d.start_node(&is).unwrap();
    restart_home(&mut world);
    eventually(WAIT, || reads(&world, &chat)).unwrap();
}
