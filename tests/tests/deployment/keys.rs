//! Who opens a custodian's nodes: holders' shares, passphrases, and nobody alone.

use super::world::{HOME, Ran, World, eventually, node, topology};
use quorate_tests::deployment::{NodeName, binary, http_get};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Exit codes: too few custodians; in conflict with what is there.
const NO_QUORUM: Option<i32> = Some(4);
const CONFLICT: Option<i32> = Some(5);
const WAIT: Duration = Duration::from_secs(40);
/// Peers prove every 20 s that they hold the keys.
const PROVED: Duration = Duration::from_secs(25);

/// Runs `quorate` with a passphrase on its standard input.
pub fn with_passphrase(world: &World, args: &[&str], passphrase: &str) -> Ran {
    let mut child = Command::new(binary("quorate").unwrap())
        .arg("--deployment")
        .arg(world.dir())
        .args(args)
        .arg("--passphrase-stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{passphrase}").unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    Ran {
        code: out.status.code(),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

fn restart(world: &mut World, name: &NodeName) {
    world.d.stop(name).unwrap();
    world.d.start_node(name).unwrap();
}

/// A home that holds no lease reads again.
fn restart_home(world: &mut World) {
    restart(world, &node(HOME, 1));
}

pub fn set_provider(world: &World, name: &NodeName, provider: &str) {
    let path = world.d.node(name).config.clone();
    let text = std::fs::read_to_string(&path).unwrap();
    let set = text.replace(
        "provider = \"key-file\"",
        &format!("provider = \"{provider}\""),
    );
    assert_ne!(text, set);
    std::fs::write(&path, set).unwrap();
}

/// What `/readyz` says; `None` while nothing answers.
fn readiness(world: &World, name: &NodeName) -> Option<(u16, String)> {
    http_get(&world.d.node(name).health.to_string(), "/readyz").ok()
}

fn wait_locked(world: &World, name: &NodeName) {
    let locked = eventually(WAIT, || {
        let said = readiness(world, name);
        anyhow::ensure!(
            matches!(&said, Some((503, text)) if text.contains("locked")),
            "{said:?}"
        );
        anyhow::ensure!(
            world.metric(name, "quorate_custodian_unlocked") == 0.0,
            "the metric"
        );
        Ok(())
    });
    locked.unwrap();
}

fn holds_nothing_of(vault: &Path, texts: &[&str]) {
    let bytes = std::fs::read(vault).unwrap();
    for t in texts {
        assert!(!bytes.windows(t.len()).any(|w| w == t.as_bytes()));
    }
}

#[test]
fn holders_open_a_custodian_together_and_a_locked_one_serves_nothing() {
    let mut world = World::start(&topology(1, [3, 1, 1], ""));
    let chat = world.chat("behind shares");
    world.send(&chat, &["kept".into()]);
    let get = ["message", "get", chat.as_str(), "1"];
    let ch: Vec<NodeName> = (1..=3).map(|n| node("ch", n)).collect();
    let scratch = world.scratch().to_owned();
    let file = |holder: &str| -> PathBuf { scratch.join(format!("{holder}.share")) };
    let text = |p: &Path| p.to_str().unwrap().to_owned();

    // The ceremony: nobody can change it, and it counts only with the last proof.
    let begin = [
        "custodian",
        "keys",
        "rekey",
        "ch",
        "--reason",
        "no key files",
        "--holders",
    ];
    world.quorate_ok(&[&begin[..], &["2 of (anna, bo, cy)"]].concat());
    let other = world.quorate(&[&begin[..], &["2 of (eve, mallory)"]].concat());
    assert_ne!(other.code, Some(0), "{other:?}");
    assert!(other.err.contains("cancel it first"), "{other:?}");
    let collect = |holder: &str, to: &Path| {
        world.quorate(&[
            "custodian",
            "keys",
            "collect",
            "ch",
            "--holder",
            holder,
            "--out",
            &text(to),
        ])
    };
    for holder in ["anna", "bo", "cy"] {
        assert_eq!(collect(holder, &file(holder)).code, Some(0));
    }
    let again = collect("anna", &scratch.join("twice"));
    assert_eq!(again.code, CONFLICT, "{again:?}");
    assert!(again.err.contains("handed out already"), "{again:?}");
    let confirm = |holder: &str| {
        world.quorate(&[
            "custodian",
            "keys",
            "confirm",
            "ch",
            "--share",
            &text(&file(holder)),
        ])
    };
    for holder in ["anna", "bo"] {
        assert_eq!(confirm(holder).code, Some(0));
        let shown = world.quorate_ok(&["custodian", "keys", "show", "ch"]);
        assert!(
            shown.contains("confirmed by anna") && !shown.contains("slot main: shares"),
            "{shown}"
        );
    }
    let last = confirm("cy");
    assert_eq!(last.code, Some(0), "{last:?}");
    let shown = world.quorate_ok(&["custodian", "keys", "show", "ch"]);
    assert_eq!(
        shown
            .matches("slot main: shares, 2 of (anna, bo, cy)")
            .count(),
        3,
        "{shown}"
    );
    assert!(
        shown.contains("for development only"),
        "the key file is called what it is"
    );

    // Each provider would open; then the key file goes.
    let check = |holder: &str| {
        world.quorate(&[
            "custodian",
            "keys",
            "check",
            "ch",
            "--share",
            &text(&file(holder)),
        ])
    };
    assert!(check("bo").out.contains("here are bo"));
    assert_eq!(check("cy").out.matches("would open").count(), 3);
    let own = world.quorate_ok(&["custodian", "keys", "check", "ch", "--own"]);
    assert_eq!(own.matches("slot key-file would open").count(), 3, "{own}");
    world.quorate_ok(&[
        "custodian",
        "keys",
        "remove",
        "ch",
        "--slot",
        "key-file",
        "--reason",
        "done",
    ]);
    for name in &ch {
        set_provider(&world, name, "shares");
    }

    // One node that restarts gets its keys from a peer that saw it prove them: once.
    std::thread::sleep(PROVED);
    let again = ch[1].clone();
    let second = &again;
    world.d.kill(second);
    world.d.start_node(second).unwrap();
    let back = eventually(WAIT, || {
        let said = readiness(&world, second);
        anyhow::ensure!(matches!(said, Some((200, _))), "{said:?}");
        Ok(())
    });
    back.unwrap();
    let log = world.d.node(second).config.with_file_name("process.log");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("handed them over; this node is unlocked"));
    world.d.kill(second);
    world.d.start_node(second).unwrap();
    wait_locked(&world, second);
    std::thread::sleep(Duration::from_secs(5));
    wait_locked(&world, second);

    // From here on reading needs this custodian; all its nodes start locked.
    world.d.stop(&node("sg", 1)).unwrap();
    for name in &ch {
        world.d.stop(name).unwrap();
    }
    for name in &ch {
        world.d.start_node(name).unwrap();
    }
    for name in &ch {
        wait_locked(&world, name);
    }
    let status = world.quorate(&["custodian", "status", "ch"]);
    assert_eq!(status.out.matches("LOCKED").count(), 3, "{status:?}");
    restart_home(&mut world);
    let refused = eventually(WAIT, || {
        let ran = world.quorate(&get);
        anyhow::ensure!(ran.code == NO_QUORUM, "{ran:?}");
        Ok(ran)
    });
    assert!(!refused.unwrap().out.contains("kept"));

    // One holder is not enough, an altered share is named, two are.
    let unlock =
        |path: &Path| world.quorate(&["custodian", "unlock", "ch", "--share", &text(path)]);
    let first = unlock(&file("anna"));
    assert_eq!(
        first.out.matches("here are anna of 2 of").count(),
        3,
        "{first:?}"
    );
    let twice = unlock(&file("anna"));
    assert!(
        !twice.out.contains("unlocked"),
        "one holder twice is one: {twice:?}"
    );
    let mine = std::fs::read_to_string(file("anna")).unwrap();
    let altered = scratch.join("altered");
    std::fs::copy(file("anna"), &altered).unwrap();
    std::fs::write(&altered, mine.replace("holder anna", "holder bo")).unwrap();
    let ran = unlock(&altered);
    assert!(
        ran.code != Some(0) && ran.err.contains("check does not hold"),
        "{ran:?}"
    );
    wait_locked(&world, &ch[0]);
    let second = unlock(&file("cy"));
    assert_eq!(
        second.out.matches("this node is unlocked").count(),
        3,
        "{second:?}"
    );
    let read = eventually(WAIT, || {
        let ran = world.quorate(&get);
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        Ok(ran)
    });
    assert!(read.unwrap().out.contains("kept"));

    // Locking drops the keys at once; an unlocked node takes the lead where there is one.
    let lead = world.leader("ch");
    let args = [
        "custodian",
        "lock",
        "ch",
        "--node",
        &lead.to_string(),
        "--reason",
        "a drill",
    ];
    world.quorate_ok(&args);
    wait_locked(&world, &node("ch", lead));
    let moved = eventually(WAIT, || {
        let now = world.leader("ch");
        anyhow::ensure!(now != lead, "node {now} still leads");
        Ok(())
    });
    moved.unwrap();
    restart_home(&mut world);
    eventually(WAIT, || {
        let ran = world.quorate(&get);
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        Ok(())
    })
    .unwrap();
    world.quorate_ok(&["custodian", "lock", "ch", "--reason", "a drill"]);
    restart_home(&mut world);
    eventually(WAIT, || {
        let ran = world.quorate(&get);
        anyhow::ensure!(ran.code == NO_QUORUM, "{ran:?}");
        Ok(())
    })
    .unwrap();
    let share = mine.lines().find_map(|l| l.strip_prefix("share ")).unwrap();
    for name in &ch {
        let dir = world.d.node(name).config.parent().unwrap().to_owned();
        holds_nothing_of(&dir.join("data/keys.vault"), &[share]);
        let log = std::fs::read_to_string(dir.join("process.log")).unwrap();
        assert!(!log.contains(share), "a share stands in {}'s log", name.1);
    }
}

#[test]
fn a_passphrase_opens_a_node_and_replacing_it_leaves_the_old_one_nothing() {
    let mut world = World::start(&topology(1, [1; 3], ""));
    let chat = world.chat("behind a passphrase");
    world.send(&chat, &["kept".into()]);
    let is = node("is", 1);
    let rekey = ["custodian", "keys", "rekey", "is", "--reason", "setup"];
    let short = with_passphrase(&world, &rekey, "short");
    assert!(
        short.code == Some(2) && short.err.contains("12"),
        "{short:?}"
    );
    let old = "six random words are good here";
    assert_eq!(with_passphrase(&world, &rekey, old).code, Some(0));
    let removed = [
        "custodian",
        "keys",
        "remove",
        "is",
        "--slot",
        "key-file",
        "--reason",
        "x",
    ];
    world.quorate_ok(&removed);
    set_provider(&world, &is, "passphrase");
    restart(&mut world, &is);
    wait_locked(&world, &is);
    let unlock = ["custodian", "unlock", "is"];
    let wrong = with_passphrase(&world, &unlock, "six random words are bad here");
    assert!(
        wrong.code == CONFLICT && wrong.out.contains("does not open"),
        "{wrong:?}"
    );
    wait_locked(&world, &is);
    let right = with_passphrase(&world, &unlock, old);
    assert!(
        right.code == Some(0) && right.out.contains("is unlocked"),
        "{right:?}"
    );
    world.wait_ready();

    // A new passphrase draws a new root: the old one opens nothing of the new file.
    let new = "quite another six random words";
    assert_eq!(with_passphrase(&world, &rekey, new).code, Some(0));
    let check = ["custodian", "keys", "check", "is"];
    assert_eq!(with_passphrase(&world, &check, old).code, CONFLICT);
    let good = with_passphrase(&world, &check, new);
    assert!(good.out.contains("slot main would open"), "{good:?}");
    restart(&mut world, &is);
    wait_locked(&world, &is);
    assert_eq!(with_passphrase(&world, &unlock, old).code, CONFLICT);
    assert_eq!(with_passphrase(&world, &unlock, new).code, Some(0));
    world.wait_ready();
    world.d.stop(&node("sg", 1)).unwrap();
    restart_home(&mut world);
    let read = eventually(WAIT, || {
        let ran = world.quorate(&["message", "get", &chat, "1"]);
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        Ok(ran)
    });
    assert!(read.unwrap().out.contains("kept"));
}

/// Debian's place of the SoftHSM2 library.
const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// A fresh token in `dir` and the environment that shows it; `None` when SoftHSM2 is not here.
fn soft_token(dir: &Path) -> Option<PathBuf> {
    if !Path::new(SOFTHSM).exists() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI installs softhsm2, and {SOFTHSM} is not there"
        );
        println!("skipped: no {SOFTHSM}; install the package softhsm2");
        return None;
    }
    let tokens = dir.join("tokens");
    std::fs::create_dir_all(&tokens).unwrap();
    let conf = dir.join("softhsm2.conf");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\n",
        tokens.display()
    );
    std::fs::write(&conf, text).unwrap();
    let made = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", &conf)
        .args([
            "--init-token",
            "--free",
            "--label",
            "quorate",
            "--pin",
            "123456",
            "--so-pin",
            "654321",
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    Some(conf)
}

#[test]
fn a_token_opens_a_node_by_itself_and_without_it_the_node_stays_locked() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(conf) = soft_token(scratch.path()) else {
        return;
    };
    let mut world = World::lay_out(&topology(1, [1; 3], ""));
    // The library reads its configuration from the environment of the node.
    world
        .d
        .env
        .push(("SOFTHSM2_CONF".into(), conf.to_str().unwrap().into()));
    let is = node("is", 1);
    let pin = scratch.path().join("pin");
    std::fs::write(&pin, "123456\n").unwrap();
    std::fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let config = world.d.node(&is).config.clone();
    let text = std::fs::read_to_string(&config).unwrap();
    let table = format!(
        "[keys.pkcs11]\nmodule = \"{SOFTHSM}\"\ntoken = \"quorate\"\nkey = \"root\"\npin_file = \"{}\"\n\n[trust]",
        pin.display()
    );
    let text = text
        .replace("provider = \"key-file\"", "provider = \"pkcs11\"")
        .replace("[trust]", &table);
    std::fs::write(&config, text).unwrap();
    world.d.start_all().unwrap();
    world.wait_ready();
    let chat = world.chat("behind a token");
    world.send(&chat, &["kept".into()]);
    let shown = world.quorate_ok(&["custodian", "keys", "show", "is"]);
    assert!(shown.contains("slot pkcs11: pkcs11"), "{shown}");
    let check = world.quorate_ok(&["custodian", "keys", "check", "is", "--own"]);
    assert!(check.contains("would open"), "{check}");
    restart(&mut world, &is);
    world.wait_ready();
    world.d.stop(&node("sg", 1)).unwrap();
    restart_home(&mut world);
    let read = eventually(WAIT, || {
        let ran = world.quorate(&["message", "get", &chat, "1"]);
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        Ok(ran)
    });
    assert!(read.unwrap().out.contains("kept"));

    // A lock drops the keys; the token opens again; without its PIN nothing does.
    world.quorate_ok(&["custodian", "lock", "is", "--reason", "a drill"]);
    wait_locked(&world, &is);
    std::fs::rename(&pin, scratch.path().join("away")).unwrap();
    let refused = world.quorate(&["custodian", "unlock", "is", "--own"]);
    assert!(
        refused.code == CONFLICT && refused.out.contains("pin"),
        "{refused:?}"
    );
    wait_locked(&world, &is);
    std::fs::rename(scratch.path().join("away"), &pin).unwrap();
    world.quorate_ok(&["custodian", "unlock", "is", "--own"]);
    let vault = config.parent().unwrap().join("data/keys.vault");
    assert!(std::fs::read(vault).unwrap().len() > 1000);
    let log = std::fs::read_to_string(config.parent().unwrap().join("process.log")).unwrap();
    assert!(!log.contains("123456"), "the PIN stands in the log");
}
