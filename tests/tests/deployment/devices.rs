//! Devices that make their own keys, and accounts whose devices are lost: every
//! step on the machine it belongs to, through the `quorate` binary.

use super::world::{CUSTODIANS, Ran, World, node, run, topology};
use quorate_tests::deployment::binary;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const CONFLICT: Option<i32> = Some(5);

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

fn error(ran: &Ran) -> Value {
    assert_ne!(ran.code, Some(0), "{ran:?}");
    let value: Value = serde_json::from_str(ran.err.trim()).unwrap_or_default();
    value["error"].clone()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn of<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap()
}

/// A machine with one wallet, and nothing of the deployment but what is given.
struct Machine<'a> {
    world: &'a World,
    wallet: PathBuf,
}

impl Machine<'_> {
    /// Without the deployment's directory: what a person has who was told nothing.
    fn alone(&self, args: &[&str]) -> Ran {
        let all = [&["--json", "--wallet", text(&self.wallet)], args].concat();
        run("quorate", &all)
    }

    fn with_home(&self, args: &[&str]) -> Ran {
        let dir = text(self.world.dir());
        let all = [
            &["--json", "--deployment", dir, "--wallet"][..],
            &[text(&self.wallet)],
            args,
        ];
        run("quorate", &all.concat())
    }
}

/// Runs `quorate` as `name` with `secrets` on file descriptors 3 and 4.
fn with_secrets(world: &World, wallet: &[&str], args: &[&str], secrets: &[&str]) -> Ran {
    let mut script = "exec \"$0\" \"$@\"".to_owned();
    for (n, secret) in secrets.iter().enumerate() {
        let path = world.scratch().join(format!("secret-{n}"));
        std::fs::write(&path, secret).unwrap();
        script += &format!(" {}<'{}'", n + 3, text(&path));
    }
    let output = Command::new("bash")
        .args(["-c", &script])
        .arg(binary("quorate").unwrap())
        .args(["--json", "--deployment", text(world.dir())])
        .args(wallet)
        .args(args)
        .output()
        .unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_device_that_made_its_own_key_is_let_in_by_another_and_by_nothing_less() {
    let world = World::start(&topology(1, [1, 1, 1], ""));
    json(&world.quorate(&["--json", "login", "--name", "anna"]));
    let chat = json(&world.quorate_as("anna", &["--json", "chat", "create", "tea"]));
    let chat = of(&chat, "id");
    let scratch = world.scratch().to_owned();
    let (card, paper) = (scratch.join("card.json"), scratch.join("request.json"));
    let anna = |args: &[&str]| world.quorate_as("anna", &[&["--json"], args].concat());
    let written = |out: &Path| json(&anna(&["device", "card", "--out", text(out)]));
    assert_eq!(written(&card)["number"], 0);

    let phone = Machine {
        world: &world,
        wallet: scratch.join("phone"),
    };
    let ask = |m: &Machine<'_>| {
        let args = ["device", "request", "--card", text(&card), "--name", "anna"];
        json(&m.alone(&[&args[..], &["--out", text(&paper)]].concat()))
    };
    let asked = ask(&phone);
    let device = of(&asked, "device").to_owned();
    let again = phone.alone(&["device", "request", "--card", text(&card), "--name", "anna"]);
    assert_eq!(
        again.code, CONFLICT,
        "a wallet is never overwritten: {again:?}"
    );
    // The key never left the new machine, and nobody let it in yet.
    let key = std::fs::read_to_string(phone.wallet.join("device.json")).unwrap();
    let key: Value = serde_json::from_str(&key).unwrap();
    let seed = key["device"]["seed"].as_str().unwrap();
    assert!(!std::fs::read_to_string(&paper).unwrap().contains(seed));
    let early = phone.with_home(&["message", "history", chat]);
    assert_ne!(early.code, Some(0), "{early:?}");

    let let_in = |device: &str| {
        anna(&[
            "device",
            "add",
            "--request",
            text(&paper),
            "--device",
            device,
        ])
    };
    let other = "ab".repeat(32);
    assert_eq!(
        error(&let_in(&other))["code"],
        "device",
        "another id was compared"
    );
    let done = json(&let_in(&device));
    assert_eq!(done["done"], true);
    let back = json(&phone.with_home(&["login", "--complete", text(&paper)]));
    assert_eq!(back["enrolled"], true);
    let sent = phone.with_home(&["message", "send", chat, "from the phone"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");

    // A request on an old card is not signed: the account went on since.
    let tablet = Machine {
        world: &world,
        wallet: scratch.join("tablet"),
    };
    let asked = ask(&tablet);
    let old = error(&let_in(of(&asked, "device")));
    assert!(old["next_step"].to_string().contains("fresh card"), "{old}");
    assert_eq!(written(&card)["number"], 1);
    let laptop = Machine {
        world: &world,
        wallet: scratch.join("laptop"),
    };
    let asked = ask(&laptop);
    assert_eq!(json(&let_in(of(&asked, "device")))["done"], true);
    let list = json(&anna(&["device", "list"]));
    assert_eq!(list["devices"].as_array().unwrap().len(), 3, "{list}");
    // What other devices did, one learns from the custodians through the home.
    let fetch = || json(&phone.with_home(&["device", "fetch"]));
    for news in [1, 0] {
        let fetched = fetch();
        assert_eq!(
            (&fetched["number"], &fetched["new"]),
            (&2.into(), &news.into())
        );
    }
}

#[test]
fn a_recovery_takes_two_authorities_each_in_its_place_and_the_secret() {
    const SECRET: &str = "six random words are good enough";
    let mut world = World::start(&topology(1, [1, 1, 1], ""));
    let account = json(&world.quorate(&["--json", "login", "--name", "anna"]));
    let account = of(&account, "account").to_owned();
    let set = |more: &[&str], secrets: &[&str]| {
        let args = [&["recover", "set-secret"], more].concat();
        with_secrets(&world, &["--as", "anna"], &args, secrets)
    };
    let short = set(&["--secret-fd", "3"], &["short"]);
    assert_ne!(short.code, Some(0), "{short:?}");
    let done = json(&set(&["--secret-fd", "3"], &["another secret than later"]));
    assert_eq!(done["done"], true);
    // Another one takes the old one; a wrong old one changes nothing.
    let fds = ["--secret-fd", "3", "--old-secret-fd", "4"];
    let wrong = set(&fds, &[SECRET, "not the one that is set"]);
    assert_ne!(wrong.code, Some(0), "{wrong:?}");
    assert!(wrong.err.contains("account secret"), "{wrong:?}");
    json(&set(&fds, &[SECRET, "another secret than later"]));

    let scratch = world.scratch().to_owned();
    let (card, paper) = (scratch.join("card.json"), scratch.join("recovery.json"));
    let places: Vec<PathBuf> = world
        .d
        .layout
        .authorities
        .iter()
        .map(|a| a.dir.clone())
        .collect();
    let [ee, jp] = [0, 1].map(|n| text(&places[n]));
    let identity = |args: &[&str]| world.quorate(&[&["--json", "identity"], args].concat());
    let shown = identity(&[
        "card",
        "--authority",
        ee,
        "--account",
        &account,
        "--out",
        text(&card),
    ]);
    assert_eq!(json(&shown)["number"], 2);
    let begin = |name: &str, secret: &str| {
        let wallet = scratch.join(name);
        let args = [
            "recover",
            "begin",
            "--name",
            "anna",
            "--card",
            text(&card),
            "--secret-fd",
            "3",
        ];
        let args = [&args[..], &["--out", text(&paper)]].concat();
        let told = with_secrets(&world, &["--wallet", text(&wallet)], &args, &[secret]);
        of(&json(&told), "device").to_owned()
    };
    let enrol = |authority: &str, device: &str| {
        identity(&[
            "enrol",
            text(&paper),
            "--authority",
            authority,
            "--device",
            device,
        ])
    };
    let attest = |authority: &str, device: &str| {
        identity(&[
            "attest",
            text(&paper),
            "--authority",
            authority,
            "--device",
            device,
        ])
    };
    // Without the right secret both authorities are not enough.
    let device = begin("guessed", "a guess at the secret");
    json(&attest(ee, &device));
    let refused = enrol(jp, &device);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.err.contains("account secret"), "{refused:?}");

    let device = begin("new", SECRET);
    // One authority alone, in whatever role, and one twice, are not two.
    let alone = enrol(ee, &device);
    assert!(
        alone.err.contains("two of the account's authorities"),
        "{alone:?}"
    );
    json(&attest(ee, &device));
    let twice = enrol(ee, &device);
    assert!(
        twice.err.contains("two of the account's authorities"),
        "{twice:?}"
    );
    let another = error(&attest(jp, &"cd".repeat(32)));
    assert_eq!(another["code"], "device", "{another}");
    assert_eq!(json(&enrol(jp, &device))["change"], "recover_begin");

    let new = Machine {
        world: &world,
        wallet: scratch.join("new"),
    };
    let back = json(&new.with_home(&["login", "--complete", text(&paper)]));
    assert_eq!(back["enrolled"], false, "it counts after the wait: {back}");
    let early = new.with_home(&["recover", "finish"]);
    assert_ne!(early.code, Some(0), "{early:?}");
    assert!(early.err.contains("too_early"), "{early:?}");
    // A device is there after all, and ends it.
    let vetoed = world.quorate_as("anna", &["--json", "recover", "veto"]);
    assert_eq!(json(&vetoed)["done"], true);
    let ended = new.with_home(&["recover", "finish"]);
    assert!(ended.err.contains("no_recovery"), "{ended:?}");
    let revoked = world.quorate_as("anna", &["--json", "device", "list"]);
    assert_eq!(json(&revoked)["devices"].as_array().unwrap().len(), 1);
    for custodian in CUSTODIANS {
        world.d.stop(&node(custodian, 1)).unwrap();
    }
}
