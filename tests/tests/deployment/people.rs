//! People on real processes: who is logged in, who is let in, who is put out.

use super::world::{CUSTODIANS, HOME, Ran, World, eventually, node, run, topology};
use quorate_cli::people::Wallet;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A node that was not told of a change itself believes what it heard before for so long.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// `quorate`'s exit code where who asks may not.
const DENIED: Option<i32> = Some(7);

fn one_home_node() -> World {
    World::start(&topology(1, [1, 1, 1], ""))
}

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

fn error(ran: &Ran) -> Value {
    assert_ne!(ran.code, Some(0), "{ran:?}");
    let value: Value = serde_json::from_str(ran.err.trim()).unwrap_or_default();
    value["error"].clone()
}

/// Logs `name` in with the program itself; the account.
fn log_in(world: &World, name: &str) -> String {
    let done = json(&world.quorate(&["--json", "login", "--name", name]));
    assert_eq!(done["enrolled"], true, "{done}");
    done["account"].as_str().unwrap().to_owned()
}

fn wallet_dir(world: &World, name: &str) -> PathBuf {
    world.dir().join("wallets").join(name)
}

fn history(world: &World, name: &str, chat: &str) -> Ran {
    world.quorate_as(name, &["--json", "message", "history", chat])
}

#[test]
fn a_login_makes_a_wallet_that_custodians_vouch_for() {
    let world = one_home_node();
    let nobody = run(
        "quorate",
        &[
            "--deployment",
            world.dir().to_str().unwrap(),
            "chat",
            "list",
        ],
    );
    assert_eq!(nobody.code, Some(2), "{nobody:?}");
    assert!(nobody.err.contains("nobody is logged in"), "{nobody:?}");
    assert!(
        nobody.err.contains("quorate login --name NAME"),
        "{nobody:?}"
    );
    // Who is not logged in may look at the deployment all the same.
    world.quorate_ok(&["status"]);

    let done = json(&world.quorate(&["--json", "login", "--name", "anna"]));
    let known = done["custodians"].as_array().unwrap();
    assert!(known.len() >= 2, "any two open a key, so two vouch: {done}");
    let file = wallet_dir(&world, "anna").join("device.json");
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    let again = world.quorate(&["--json", "login", "--name", "anna"]);
    assert_eq!(again.code, Some(5), "{again:?}");
    assert_eq!(error(&again)["code"], "already_logged_in");

    let chat = json(&world.quorate_as("anna", &["--json", "chat", "create", "tea"]));
    let chat = chat["id"].as_str().unwrap();
    world.quorate_as("anna", &["message", "send", chat, "green or black?"]);
    let read = history(&world, "anna", chat);
    assert!(read.out.contains("green or black?"), "{read:?}");

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let refused = history(&world, "anna", chat);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let next = error(&refused)["next_step"].to_string();
    assert!(next.contains("chmod 600"), "{refused:?}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(history(&world, "anna", chat).code, Some(0));
}

#[test]
fn who_is_added_reads_and_who_is_removed_reads_nothing_even_under_a_lease() {
    let world = one_home_node();
    log_in(&world, "anna");
    let boris = log_in(&world, "boris");
    let chat = json(&world.quorate_as("anna", &["--json", "chat", "create", "tea"]));
    let chat = chat["id"].as_str().unwrap();
    let sent = world.quorate_as("anna", &["message", "send", chat, "green or black?"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let stranger = history(&world, "boris", chat);
    assert_eq!(stranger.code, DENIED, "{stranger:?}");

    let added = json(&world.quorate_as("anna", &["--json", "chat", "add", chat, &boris]));
    assert_eq!(added["done"], true, "{added}");
    assert!(added["custodians"].as_array().unwrap().len() >= 2);
    let members = json(&world.quorate_as("boris", &["--json", "chat", "members", chat]));
    let roles: Vec<_> = members["members"].as_array().unwrap().iter().collect();
    assert_eq!(roles.len(), 2, "{members}");
    let read = history(&world, "boris", chat);
    assert!(read.out.contains("green or black?"), "{read:?}");
    let sent = world.quorate_as("boris", &["message", "send", chat, "black"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    // A member is no admin.
    let not_his = world.quorate_as("boris", &["chat", "remove", chat, "anna"]);
    assert_ne!(not_his.code, Some(0), "{not_his:?}");

    let removed = json(&world.quorate_as("anna", &["--json", "chat", "remove", chat, "boris"]));
    assert_eq!(removed["done"], true, "{removed}");
    // The home has the key leased: anna reads on, and only the membership keeps boris out.
    let leases = json(&world.quorate(&["--json", "status"]))["leases"]["live"].clone();
    assert!(leases.as_u64().unwrap() > 0, "nothing is leased: {leases}");
    let out = history(&world, "boris", chat);
    assert_eq!(out.code, DENIED, "{out:?}");
    assert!(!out.out.contains("green"), "{out:?}");
    let out = world.quorate_as("boris", &["message", "send", chat, "let me in"]);
    assert_eq!(out.code, DENIED, "{out:?}");
    let read = history(&world, "anna", chat);
    assert!(read.out.contains("black"), "{read:?}");
}

#[test]
fn a_revoked_device_is_refused_and_the_other_goes_on() {
    let world = one_home_node();
    log_in(&world, "anna");
    let chat = json(&world.quorate_as("anna", &["--json", "chat", "create", "tea"]));
    let chat = chat["id"].as_str().unwrap();
    let phone = world.scratch().join("phone");
    let phone_text = phone.to_str().unwrap();
    let added = world.quorate_as("anna", &["--json", "device", "add", "--to", phone_text]);
    assert_eq!(json(&added)["done"], true);
    let with_phone = |args: &[&str]| {
        let dir = world.dir().to_str().unwrap();
        let all = [&["--deployment", dir, "--wallet", phone_text], args].concat();
        run("quorate", &all)
    };
    let sent = with_phone(&["message", "send", chat, "from the phone"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");

    let device = Wallet::load(&phone).unwrap().device().unwrap().to_string();
    let revoked = world.quorate_as("anna", &["--json", "device", "revoke", &device]);
    assert_eq!(json(&revoked)["done"], true);
    let refused = with_phone(&["--json", "message", "history", chat]);
    assert_eq!(refused.code, DENIED, "{refused:?}");
    assert!(!refused.out.contains("from the phone"), "{refused:?}");
    let read = history(&world, "anna", chat);
    assert!(read.out.contains("from the phone"), "{read:?}");
    let list = json(&world.quorate_as("anna", &["--json", "device", "list"]));
    let rows = list["devices"].as_array().unwrap();
    let row = rows.iter().find(|r| r["id"] == device.as_str()).unwrap();
    assert_eq!(row["revoked"], true, "{list}");
    assert_eq!(rows.len(), 2, "{list}");
}

#[test]
fn a_link_lets_as_many_in_as_it_says() {
    let world = one_home_node();
    for name in ["anna", "boris", "cy", "dora"] {
        log_in(&world, name);
    }
    let chat = json(&world.quorate_as("anna", &["--json", "chat", "create", "tea"]));
    let chat = chat["id"].as_str().unwrap();
    world.quorate_as("anna", &["message", "send", chat, "welcome"]);
    let made = json(&world.quorate_as("anna", &["--json", "chat", "invite", chat]));
    let link = made["link"].as_str().unwrap();
    // Others come and go before the link is used.
    let member = |what: &str| {
        let ran = world.quorate_as("anna", &["--json", "chat", what, chat, "dora"]);
        assert_eq!(json(&ran)["done"], true, "{ran:?}");
    };
    member("add");
    member("remove");
    let joined = json(&world.quorate_as("boris", &["--json", "chat", "join", link]));
    assert_eq!(joined["done"], true, "{joined}");
    let read = history(&world, "boris", chat);
    assert!(read.out.contains("welcome"), "{read:?}");
    let used_up = world.quorate_as("cy", &["chat", "join", link]);
    assert_ne!(used_up.code, Some(0), "{used_up:?}");
    assert_eq!(history(&world, "cy", chat).code, DENIED);
    let left = json(&world.quorate_as("boris", &["--json", "chat", "leave", chat]));
    assert_eq!(left["done"], true, "{left}");
    assert_eq!(history(&world, "boris", chat).code, DENIED);
}

#[test]
fn a_removal_is_done_at_every_node_and_never_without_a_blocking_set() {
    let mut world = World::start(&topology(3, [1, 1, 1], ""));
    for name in ["anna", "boris"] {
        log_in(&world, name);
    }
    let chat = json(&world.quorate_as("anna", &["--json", "chat", "create", "tea"]));
    let chat = chat["id"].as_str().unwrap().to_owned();
    world.quorate_as("anna", &["message", "send", &chat, "green or black?"]);
    world.quorate_ok(&["--json", "status"]);
    let added = world.quorate_as("anna", &["--json", "chat", "add", &chat, "boris"]);
    assert_eq!(json(&added)["done"], true);
    let read = history(&world, "boris", &chat);
    assert!(read.out.contains("green or black?"), "{read:?}");

    // Any two of three open a key: one custodian's word leaves two that could.
    for custodian in &CUSTODIANS[1..] {
        world.d.stop(&node(custodian, 1)).unwrap();
    }
    let undone = world.quorate_as("anna", &["--json", "chat", "remove", &chat, "boris"]);
    assert_ne!(
        undone.code,
        Some(0),
        "one custodian is no blocking set: {undone:?}"
    );
    for custodian in &CUSTODIANS[1..] {
        world.d.start_node(&node(custodian, 1)).unwrap();
    }
    world.wait_ready();
    // The same command posts the same statement again, until it is done.
    let removed = eventually(Duration::from_secs(60), || {
        let ran = world.quorate_as("anna", &["--json", "chat", "remove", &chat, "boris"]);
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        Ok(json(&ran))
    });
    let removed = removed.unwrap();
    assert_eq!(
        (&removed["done"], &removed["number"]),
        (&true.into(), &2.into())
    );
    // Each home node is asked in turn by a client of its own.
    let endpoints = world.d.layout.client_endpoints();
    assert_eq!(endpoints.len(), 3, "{HOME} has three nodes");
    eventually(FORGOTTEN, || {
        for _ in 0..2 * endpoints.len() {
            let ran = history(&world, "boris", &chat);
            anyhow::ensure!(ran.code == DENIED, "{ran:?}");
        }
        Ok(())
    })
    .unwrap();
    let read = history(&world, "anna", &chat);
    assert!(read.out.contains("green or black?"), "{read:?}");
}
