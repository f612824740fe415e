//! Wrapping keys follow each other, whoever dies, and what old images of a node's disk are worth then.

use super::failpoints::died_there;
use super::keys::{set_provider, with_passphrase};
use super::world::{CUSTODIANS, HOME, World, eventually, node, offline, run_node, topology};
use anyhow::Context;
use quorate_cli::demo::attacker;
use quorate_engine::api::operator::OperatorStatus;
use quorate_engine::crypto::wrap::unwrap;
use quorate_engine::custody::{Place, ShareRow, WrappingKeys, under_other_versions};
use quorate_engine::types::{CustodianId, KeyId, Secret, Share};
use quorate_node::custodian::{GROUP, Ring, VAULT_FILE, Vault, VaultProblem};
use quorate_node::pki::files;
use quorate_tests::deployment::NodeName;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

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
    node: u64,
}

impl Disk {
    fn of(world: &World, name: &NodeName) -> Self {
        Self {
            dir: dir_of(world, name),
            place: Place {
                deployment: world.d.layout.deployment,
                custodian: CustodianId::new(&name.0).unwrap(),
            },
            node: name.1,
        }
    }

    /// A copy of it, as whoever takes the disk away has it.
    fn image(&self, to: &Path) -> Self {
        copy(&self.dir, to);
        Self {
            dir: to.to_owned(),
            place: self.place.clone(),
            node: self.node,
        }
    }

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

    fn open(&self, root: Secret<32>) -> Result<Vault, VaultProblem> {
        Vault::open(&self.dir.join("data"), &self.place, self.node, root)
    }

    fn vault(&self) -> Vault {
        self.open(self.root()).unwrap()
    }

    /// What its state holds, opened with the keys of `vault`.
    fn shares(&self, vault: &Vault) -> BTreeMap<KeyId, Share> {
        let ring = Ring::of(vault);
        let open = |(key_id, row): (KeyId, ShareRow)| {
            let key = ring.wrapping_key(row.version)?;
            let binding = self.place.binding(row.chat, key_id, row.policy);
            let share = unwrap(key, row.version, &binding, &row.wrapped.0).ok()?;
            Some((key_id, share))
        };
        self.rows().into_iter().filter_map(open).collect()
    }
}

/// One share for each chat: what its metric says, once it has.
fn holds(world: &World, name: &NodeName, chats: usize) -> f64 {
    let seen = eventually(WAIT, || {
        let held = world.metric(name, "quorate_custodian_shares");
        anyhow::ensure!(held as usize == chats, "{held} shares of {chats} chats");
        Ok(held)
    });
    seen.unwrap()
}

fn dir_of(world: &World, name: &NodeName) -> PathBuf {
    world.d.node(name).config.parent().unwrap().to_owned()
}

/// Asks until a version comes into use: one that has just come is not followed at once.
fn rotate(world: &World, custodian: &str) -> String {
    let ask = [
        "custodian",
        "keys",
        "rotate",
        custodian,
        "--reason",
        "a drill",
    ];
    let rotated = eventually(WAIT, || {
        let ran = world.quorate(&ask);
        let said = ran.out.contains("is in use");
        anyhow::ensure!(ran.code == Some(0) && said, "{ran:?}");
        Ok(ran.out)
    });
    rotated.unwrap()
}

/// Waits until every share of a node is under the version in use and no other key is left there.
fn rotated(world: &World, name: &NodeName) {
    let done = eventually(WAIT, || {
        let ran = world.quorate(&["--json", "custodian", "status", &name.0]);
        let nodes: Vec<OperatorStatus> = serde_json::from_str(&ran.out)?;
        let of = nodes.into_iter().find(|s| s.node == name.1);
        let v = of.and_then(|s| s.versions).context("no versions")?;
        let only = v.wrapping_here.len() == 1 && v.wrapping.as_slice() == v.wrapping_here;
        anyhow::ensure!(v.shares_left == 0 && v.lacking.is_empty() && only, "{v:?}");
        Ok(())
    });
    done.unwrap_or_else(|e| panic!("{name:?} is not rotated: {e}"));
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
    let today = Disk::of(&world, &is);
    let dir = today.dir.clone();
    let held = holds(&world, &is, 5);
    // Stopped, not killed: what a killed node has applied is in its log only.
    world.d.stop(&is).unwrap();
    let image = today.image(&world.scratch().join("image"));
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
    rotated(&world, &is);
    let status = world.quorate_ok(&["custodian", "status", "is"]);
    let said = format!("wrapping version 2, sealing version 1; 0 of {held} shares under");
    assert!(
        status.contains(&said) && !status.contains("re-wrapping"),
        "{status}"
    );
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
    let (then, now) = (image.rows(), today.rows());
    assert_eq!((then.len() as f64, now.len()), (held, then.len()));
    assert!(then.iter().all(|(_, r)| r.version == 1));
    assert!(now.iter().all(|(_, r)| r.version == 2));
    let (old, new) = (image.vault(), today.vault());
    assert_eq!(today.shares(&new).len(), now.len());
    assert_eq!(image.shares(&new).len(), 0, "an old image, today's keys");
    assert_eq!(today.shares(&old).len(), 0, "today's state, old keys");
    assert_eq!(image.shares(&old).len(), then.len(), "not destroyed");
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
    // With other people at today's node the old root opens nothing of today's, and they do.
    world.d.stop(&is).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(world.scratch().join("today"), &dir).unwrap();
    world.d.start_node(&is).unwrap();
    world.wait_ready();
    let words = "six random words are good here";
    let rekey = [
        "custodian",
        "keys",
        "rekey",
        "is",
        "--reason",
        "an image went astray",
    ];
    assert_eq!(with_passphrase(&world, &rekey, words).code, Some(0));
    let remove = ["custodian", "keys", "remove", "is", "--slot", "key-file"];
    world.quorate_ok(&[&remove[..], &["--reason", "an image went astray"]].concat());
    set_provider(&world, &is, "passphrase");
    world.d.stop(&is).unwrap();
    let by_old_root = today.open(image.root());
    assert!(by_old_root.is_ok_and(|v| !v.is_open()), "today's vault");
    let old = image.vault();
    assert_eq!(today.shares(&old).len(), 0, "today's state");
    drop(old);
    assert_eq!(image.shares(&image.vault()).len(), then.len());
    world.d.start_node(&is).unwrap();
    restart_home(&mut world);
    let unlock = ["custodian", "unlock", "is"];
    eventually(WAIT, || {
        let ran = with_passphrase(&world, &unlock, words);
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        Ok(())
    })
    .unwrap();
    eventually(WAIT, || reads(&world, &chat)).unwrap();
}

/// The numbers of P6, for 2 of 3: a key whose shares all three destroyed opens with two old images
/// and their roots, not with one and all that there is today.
#[test]
fn old_images_count_as_custodians_that_destroyed_nothing() {
    let mut world = World::start(&topology(1, [1; 3], ""));
    let (gone, stays) = (world.chat("to be shredded"), world.chat("stays"));
    world.send(&gone, &["secret".into(), "and more".into()]);
    world.send(&stays, &["kept".into()]);
    let names: Vec<NodeName> = CUSTODIANS.iter().map(|c| node(c, 1)).collect();
    let home = dir_of(&world, &node(HOME, 1));
    let then = world.scratch().join("then");
    std::fs::create_dir_all(&then).unwrap();
    for name in world.d.names() {
        world.d.stop(&name).unwrap();
    }
    let today: Vec<Disk> = names.iter().map(|n| Disk::of(&world, n)).collect();
    let images: Vec<Disk> = today
        .iter()
        .map(|d| d.image(&then.join(d.place.custodian.as_str())))
        .collect();
    copy(&home, &then.join("home"));
    world.d.start_all().unwrap();
    world.wait_ready();

    let home_then = attacker::Disk::read(&then.join("home/config.toml")).unwrap();
    let id = |chat: &str| chat.parse().unwrap();
    let [of_gone, of_stays] = [&gone, &stays].map(|c| home_then.dealing_of(&id(c)).unwrap());
    for name in &names {
        rotate(&world, &name.0);
    }
    let key = format!("{gone}:{}", of_gone.key.key_id);
    for custodian in CUSTODIANS {
        let shred = ["custodian", "shred", custodian, "--key", &key];
        world.quorate_ok(&[&shred[..], &["--reason", "asked", "--yes"]].concat());
    }
    for name in &names {
        rotated(&world, name);
    }
    restart_home(&mut world);
    eventually(WAIT, || reads(&world, &stays)).unwrap();
    let ran = world.quorate(&["message", "get", &gone, "1"]);
    assert_eq!(ran.code, NO_QUORUM, "{ran:?}");

    for name in world.d.names() {
        world.d.stop(&name).unwrap();
    }
    let home_now = attacker::Disk::read(&home.join("config.toml")).unwrap();
    let have = |disks: &[Disk], vaults: &[Disk]| -> Vec<BTreeMap<KeyId, Share>> {
        let open = |(d, v): (&Disk, &Disk)| d.shares(&v.vault());
        disks.iter().zip(vaults).map(open).collect()
    };
    let imaged = have(&images, &images);
    let stolen = have(&images, &today);
    let kept = have(&today, &today);
    assert!(
        stolen.iter().all(BTreeMap::is_empty),
        "images without their roots"
    );
    let open = |dealing: &attacker::Dealing, from: &[(usize, &BTreeMap<KeyId, Share>)]| {
        let share = |(n, of): &(usize, &BTreeMap<KeyId, Share>)| {
            let share = of.get(&dealing.key.key_id)?;
            Some((images[*n].place.custodian.clone(), share.duplicate()))
        };
        let shares: Vec<_> = from.iter().filter_map(share).collect();
        let now = home_now.open(dealing, &shares);
        assert_eq!(
            now,
            home_then.open(dealing, &shares),
            "the home's image adds nothing"
        );
        now
    };
    let all = |dealing: &attacker::Dealing| {
        let of = home_now.records.iter();
        of.filter(|(_, _, r)| r.key_id == dealing.key.key_id)
            .count()
    };
    assert!(all(of_gone) >= 2 && all(of_stays) >= 1);
    for i in 0..3 {
        let others: Vec<usize> = (0..3).filter(|n| *n != i).collect();
        let [a, b] = others[..] else { unreachable!() };
        let rest = [(a, &kept[a]), (b, &kept[b])];
        // (n - d) + r: one image and two that destroyed it, then one that did not.
        let one = [&rest[..], &[(i, &imaged[i])]].concat();
        assert_eq!(open(of_gone, &one), 0, "destroyed, image {i}");
        assert_eq!(open(of_stays, &[(i, &imaged[i])]), 0, "alone");
        assert_eq!(open(of_stays, &[(i, &imaged[i]), rest[0]]), all(of_stays));
        let two = [(i, &imaged[i]), (a, &imaged[a])];
        assert_eq!(
            open(of_gone, &two),
            all(of_gone),
            "images {i} and {a} destroyed nothing"
        );
        let without_roots = [(i, &imaged[i]), (a, &stolen[a]), (b, &stolen[b])];
        assert_eq!(open(of_gone, &without_roots), 0);
    }
}

/// Steps of a rotation at which its leader ends as under `kill -9`.
const POINTS: [&str; 7] = [
    "custodian-key-drawn",
    "custodian-key-handed-over",
    "custodian-key-attested",
    "custodian-rewrap-before-propose",
    "custodian-rewrap-after-commit",
    "custodian-key-before-destroy",
    "custodian-key-drawn",
];

#[test]
fn a_leader_that_dies_at_any_step_of_a_rotation_loses_no_share() {
    let mut world = World::start(&topology(1, [3, 1, 1], ""));
    let chats: Vec<String> = (0..6).map(|n| world.chat(&format!("chat {n}"))).collect();
    for chat in &chats {
        world.send(chat, &["kept".into()]);
    }
    let ch: Vec<NodeName> = (1..=3).map(|n| node("ch", n)).collect();
    let held = holds(&world, &ch[0], chats.len());
    // Reading needs ch from here on.
    world.d.stop(&node("sg", 1)).unwrap();
    for (i, point) in POINTS.into_iter().enumerate() {
        let victim = &ch[i % 3];
        world.d.stop(victim).unwrap();
        let armed = format!("{point}=panic");
        world
            .d
            .start_node_with(victim, &[("FAILPOINTS", &armed)])
            .unwrap();
        world.wait_ready();
        let until = Instant::now() + WAIT;
        while !died_there(&mut world, victim, point) {
            assert!(Instant::now() < until, "{point} was never hit");
            let id = victim.1.to_string();
            if world.leader("ch") != victim.1 {
                // Refused when it leads by now; the hit decides.
                world.quorate(&[
                    "cluster",
                    "transfer-leader",
                    "ch",
                    "--group",
                    "0",
                    "--to",
                    &id,
                ]);
                continue;
            }
            world.quorate(&["custodian", "keys", "rotate", "ch", "--reason", "a drill"]);
        }
        // The two that are left serve what was stored, and rotate without it.
        restart_home(&mut world);
        for chat in &chats {
            eventually(WAIT, || reads(&world, chat)).unwrap();
        }
        if point != "custodian-key-before-destroy" {
            rotate(&world, "ch");
        }
        world.d.start_node(victim).unwrap();
        world.wait_ready();
        for name in &ch {
            rotated(&world, name);
        }
        let now = world.metric(victim, "quorate_custodian_shares");
        assert_eq!(now, held, "{point}");
    }
    world.wait_equal_states("ch", WAIT);
    for name in &ch {
        world.d.stop(name).unwrap();
    }
    for name in &ch {
        let disk = Disk::of(&world, name);
        assert_eq!(disk.shares(&disk.vault()).len() as f64, held, "{name:?}");
    }
}
