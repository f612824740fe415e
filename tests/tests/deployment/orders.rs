//! A disclosure order from its approval to what the court reads, all through
//! the `quorate` binary and real nodes.
//!
//! The cool-off of an hour is passed by the custodians' own clocks: they start
//! again with the failpoint `custodian-clock`, two hours ahead.

use super::officers::{Officers, done, refused};
use super::world::{CUSTODIANS, HOME, World, eventually, message, node, offline, topology};
use quorate_engine::audit::{self, Entry, EntryKind};
use quorate_engine::home::EPOCH_RECORDS_MAX;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const AHEAD: (&str, &str) = ("FAILPOINTS", "custodian-clock=return(7200000)");
const NO_QUORUM: Option<i32> = Some(4);
const BATCH: usize = 256;
/// A custodian that started again is found by the home within.
const BACK_MAX: Duration = Duration::from_secs(20);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A moment between what was written before and what is written after.
fn moment() -> String {
    let pause = Duration::from_millis(30);
    std::thread::sleep(pause);
    let now = quorate_node::custodian::system_clock()();
    std::thread::sleep(pause);
    now.to_string()
}

/// Fills the chat's first epoch, so that another begins and the first is over.
fn fill(world: &World, chat: &str) {
    let client = world.client();
    for _ in 0..=EPOCH_RECORDS_MAX as usize / BATCH {
        let batch = (0..BATCH).map(|_| message("later")).collect();
        world.wait(client.append(chat, batch)).unwrap();
    }
}

pub(super) fn appoint(world: &World, o: &Officers<'_>, custodian: &str, public: &[String]) {
    let paper = world.scratch().join(format!("first-{custodian}.json"));
    let paper = text(&paper);
    let mut first = vec!["officer", "bootstrap", custodian, "--quorum", "2"];
    first.extend(["--out", paper]);
    for one in public {
        first.extend(["--officer", one]);
    }
    world.quorate_ok(&first);
    for name in ["anna", "bo", "cy"] {
        let key = o.file(name);
        world.quorate_ok(&["officer", "sign", paper, "--key", key, "--yes"]);
    }
    world.quorate_ok(&["officer", "submit", custodian, paper]);
}

/// Two officers approve, and the cool-off passes.
pub(super) fn approve(world: &mut World, keys: &[(&str, PathBuf)], custodian: &str, order: &str) {
    for (_, key) in keys {
        let yes = ["--key", text(key), "--reason", "lawful here", "--yes"];
        let args = [&["order", "approve", custodian, order][..], &yes].concat();
        world.quorate_ok(&args);
    }
    let at = node(custodian, 1);
    world.d.stop(&at).unwrap();
    world.d.start_node_with(&at, &[AHEAD]).unwrap();
    world.wait_ready();
}

fn copied(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn an_approved_order_gives_its_recipient_what_it_names_and_nobody_anything_else() {
    let mut world = World::start(&topology(1, [1; 3], ""));
    let (chat, other) = (world.chat("asked for"), world.chat("not asked for"));
    world.send(&other, &["of somebody else".into()]);
    world.send(&chat, &["before the dates".into()]);
    let from = moment();
    world.send(&chat, &["one in scope".into(), "two in scope".into()]);
    let to = moment();
    fill(&world, &chat);

    let scratch = world.scratch().to_owned();
    let key = scratch.join("court.key");
    let (paper, dir) = (scratch.join("order.json"), scratch.join("result"));
    world.quorate_ok(&["order", "recipient-key", "--out", text(&key)]);
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ruling = scratch.join("ruling.pdf");
    std::fs::write(&ruling, b"the ruling").unwrap();
    let (id, officers) = {
        let mut o = Officers::new(&world);
        let public = ["anna", "bo", "cy"].map(|n| format!("{n}={}", o.key(n)));
        o.key("clerk");
        for custodian in ["ch", "is"] {
            appoint(&world, &o, custodian, &public);
        }
        let recipient = format!("{}.pub", text(&key));
        let mut open = vec!["order", "open", "ch", "is", "--key", o.file("clerk")];
        open.extend(["--issuer", "a court", "--legal-basis", "file 7"]);
        open.extend(["--document", text(&ruling), "--reason", "served"]);
        open.extend(["--chat", &chat, "--from", &from, "--to", &to]);
        open.extend(["--recipient", &recipient, "--out", text(&paper)]);
        let told = o.json(&open);
        let officers = ["anna", "bo"].map(|n| (n, PathBuf::from(o.file(n))));
        (told["order"].as_str().unwrap().to_owned(), officers)
    };

    // One custodian of the two that it takes: nothing, and who is missing.
    let execute = ["order", "execute", text(&paper), "--out", text(&dir)];
    approve(&mut world, &officers, "ch", &id);
    // The home may still be looking for the custodian that started again.
    let alone = eventually(BACK_MAX, || {
        let ran = world.quorate(&execute);
        assert_eq!(ran.code, NO_QUORUM, "{ran:?}");
        anyhow::ensure!(!ran.err.contains("not reached"), "{ran:?}");
        Ok(ran)
    });
    let alone = alone.unwrap();
    for said in [
        "1 more legal system must release",
        "is (the order is not in force there)",
        "sg (the order is not in force there)",
        "{is} or {sg}",
    ] {
        assert!(alone.err.contains(said), "{said} is not in {alone:?}");
    }
    assert!(!dir.exists() && !scratch.join("result.partial").exists());

    approve(&mut world, &officers, "is", &id);
    let told = eventually(BACK_MAX, || {
        let ran = world.quorate(&execute);
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        Ok(ran.out)
    });
    let told = told.unwrap();
    assert!(told.contains("2 records"), "{told}");
    refused(world.quorate(&execute), "is there already");
    let sealed = std::fs::read_to_string(dir.join("part-000001.json")).unwrap();
    assert!(!sealed.contains("in scope"), "the home's operator reads it");

    // What the recipient reads: the records of the chat and the dates, and no other.
    let home = world.dir().join(HOME).join("descriptor.json");
    let open = |dir: &Path| {
        let with = ["--key", text(&key), "--home", text(&home)];
        world.quorate(&[&["order", "open-result", text(dir)][..], &with].concat())
    };
    let told = done(open(&dir));
    assert!(told.contains("fingerprint"), "{told}");
    let read = std::fs::read(dir.join("records.json")).unwrap();
    let read: Value = serde_json::from_slice(&read).unwrap();
    let records = read["records"].as_array().unwrap();
    let found: Vec<_> = records.iter().map(|r| &r["content"]["text"]).collect();
    assert_eq!(found, ["one in scope", "two in scope"]);
    let opened = read["manifests"][0]["opened"].as_array().unwrap();
    assert_eq!((opened.len(), &opened[0]["epoch"]), (1, &Value::from(0)));
    assert_eq!(read["manifests"][0]["withheld"], Value::Array(Vec::new()));

    // Whatever is changed, nothing is opened.
    std::fs::remove_file(dir.join("records.json")).unwrap();
    let change = |name: &str, change: &dyn Fn(&Path), why: &str| {
        let altered = scratch.join(name);
        copied(&dir, &altered);
        change(&altered);
        refused(open(&altered), why);
        assert!(!altered.join("records.json").exists());
    };
    let rewritten = |dir: &Path, from: &str, to: &str| {
        let part = dir.join("part-000001.json");
        let text = std::fs::read_to_string(&part).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(&part, text.replacen(from, to, 1)).unwrap();
    };
    let signature = "the signature is not by";
    let dates = |d: &Path| rewritten(d, "\\\"epoch\\\":0", "\\\"epoch\\\":1");
    change("another-epoch", &dates, signature);
    let gone = |d: &Path| std::fs::remove_file(d.join("part-000001.json")).unwrap();
    change("a-part-less", &gone, "not whole");
    let part: Value = serde_json::from_str(&sealed).unwrap();
    let record = part["part"]["records"][0].as_str().unwrap();
    let flipped = if record.starts_with('A') { "B" } else { "A" };
    let flipped = format!("{flipped}{}", &record[1..]);
    let bits = |d: &Path| rewritten(d, record, &flipped);
    change("another-record", &bits, "not the record that was signed");
    let custodian = world.dir().join("ch").join("descriptor.json");
    let with = ["--key", text(&key), "--home", text(&custodian)];
    let args = [&["order", "open-result", text(&dir)][..], &with].concat();
    refused(world.quorate(&args), "the result is refused");

    // The custodians' logs name the order, released or refused.
    for custodian in ["ch", "is"] {
        let at = node(custodian, 1);
        world.d.stop(&at).unwrap();
        let config = world.d.node(&at).config.clone();
        let under = offline(&config, 0, |kv| {
            let size = audit::Log::load(kv).unwrap().size();
            let entry = |i| {
                let bytes = audit::entry_bytes(kv, i).unwrap().unwrap();
                serde_json::from_slice::<Entry>(&bytes).unwrap()
            };
            let all = (0..size).map(entry);
            all.filter(|e| e.kind == EntryKind::OrderRelease)
                .collect::<Vec<_>>()
        });
        assert!(under.iter().all(|e| e.order.unwrap().to_string() == id));
        let (released, refused): (Vec<_>, Vec<_>) = under.iter().partition(|e| e.refused.is_none());
        assert!(!released.is_empty(), "{custodian} did not release");
        assert_eq!(refused.is_empty(), custodian == "ch", "{under:?}");
    }
}

/// An account: what it wrote, wherever it was a member in the dates, and not a word of anybody else.
#[test]
fn an_order_of_an_account_gives_what_it_wrote_and_nobody_elses_words() {
    let mut world = World::start(&topology(1, [1; 3], ""));
    let own = world.chat("his own");
    let json = |ran: super::world::Ran| -> Value {
        assert_eq!(ran.code, Some(0), "{ran:?}");
        serde_json::from_str(&ran.out).unwrap()
    };
    let anna = json(world.quorate(&["--json", "login", "--name", "anna"]));
    let anna = anna["account"].as_str().unwrap();
    let as_anna = |args: &[&str]| json(world.quorate_as("anna", &[&["--json"], args].concat()));
    let chat_of = |title: &str| {
        let made = as_anna(&["chat", "create", title]);
        made["id"].as_str().unwrap().to_owned()
    };
    let (hers, alone) = (chat_of("hers"), chat_of("hers alone"));
    let account = world.person().account().to_string();
    as_anna(&["chat", "add", &hers, &account]);
    world.quorate_ok(&["chat", "add", &own, anna]);
    world.send(&own, &["his, before".into()]);
    let from = moment();
    world.send(&own, &["his, at home".into()]);
    world.send(&hers, &["his, at hers".into()]);
    for chat in [&own, &hers, &alone] {
        as_anna(&["message", "send", chat, "hers"]);
    }
    let to = moment();
    // A former member is one all the same.
    fill(&world, &hers);
    fill(&world, &own);
    as_anna(&["chat", "remove", &hers, &account]);

    let scratch = world.scratch().to_owned();
    let key = scratch.join("court.key");
    let (paper, dir) = (scratch.join("order.json"), scratch.join("result"));
    world.quorate_ok(&["order", "recipient-key", "--out", text(&key)]);
    let ruling = scratch.join("ruling.pdf");
    std::fs::write(&ruling, b"the ruling").unwrap();
    let (id, officers) = {
        let mut o = Officers::new(&world);
        let public = ["anna", "bo", "cy"].map(|n| format!("{n}={}", o.key(n)));
        o.key("clerk");
        for custodian in CUSTODIANS {
            appoint(&world, &o, custodian, &public);
        }
        let recipient = format!("{}.pub", text(&key));
        let mut open = vec!["order", "open", "ch", "is", "sg", "--key", o.file("clerk")];
        open.extend(["--issuer", "a court", "--legal-basis", "file 7"]);
        open.extend(["--document", text(&ruling), "--reason", "served"]);
        open.extend(["--account", &account, "--from", &from, "--to", &to]);
        open.extend(["--recipient", &recipient, "--out", text(&paper)]);
        let told = o.json(&open);
        let id = told["order"].as_str().unwrap().to_owned();
        // Before anybody signs: every chat and epoch that would open, and for whose records.
        let shown = o.json(&["order", "show", "ch", &id]);
        let chats = shown["scope"].as_array().unwrap();
        let mut found: Vec<_> = chats.iter().map(|c| c["chat"].as_str().unwrap()).collect();
        let mut want = [own.as_str(), hers.as_str()];
        found.sort_unstable();
        want.sort_unstable();
        assert_eq!(found, want, "{shown}");
        for chat in chats {
            assert_eq!(chat["named"], false, "{chat}");
            assert_eq!(chat["epochs"][0]["closed"], true, "{chat}");
        }
        let words = world.quorate_ok(&["order", "show", "ch", &id]);
        assert!(words.contains("its records only"), "{words}");
        let officers = ["anna", "bo"].map(|n| (n, PathBuf::from(o.file(n))));
        (id, officers)
    };

    let execute = ["order", "execute", text(&paper), "--out", text(&dir)];
    approve(&mut world, &officers, "ch", &id);
    let alone_told = eventually(BACK_MAX, || {
        let ran = world.quorate(&execute);
        assert_eq!(ran.code, NO_QUORUM, "{ran:?}");
        anyhow::ensure!(!ran.err.contains("not reached"), "{ran:?}");
        Ok(ran)
    });
    let alone_told = alone_told.unwrap();
    assert!(
        alone_told.err.contains("1 more legal system must release"),
        "{alone_told:?}"
    );
    assert!(!dir.exists());
    for custodian in ["is", "sg"] {
        approve(&mut world, &officers, custodian, &id);
    }
    let told = eventually(BACK_MAX, || {
        let ran = world.quorate(&execute);
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        Ok(ran.out)
    });
    assert!(told.unwrap().contains("2 records"));

    let home = world.dir().join(HOME).join("descriptor.json");
    let open = |dir: &Path| {
        let with = ["--key", text(&key), "--home", text(&home)];
        world.quorate(&[&["order", "open-result", text(dir)][..], &with].concat())
    };
    done(open(&dir));
    let read = std::fs::read(dir.join("records.json")).unwrap();
    let read: Value = serde_json::from_slice(&read).unwrap();
    let records = read["records"].as_array().unwrap();
    let mut found: Vec<_> = records
        .iter()
        .map(|r| {
            (
                r["chat"].as_str().unwrap(),
                r["content"]["text"].as_str().unwrap(),
            )
        })
        .collect();
    found.sort_unstable();
    let mut want = [(own.as_str(), "his, at home"), (&hers, "his, at hers")];
    want.sort_unstable();
    assert_eq!(found, want);
    for manifest in read["manifests"].as_array().unwrap() {
        assert_eq!(manifest["records_of"], "accounts", "{manifest}");
        assert_eq!(manifest["withheld"], Value::Array(Vec::new()), "{manifest}");
    }

    // The list of chats is a part like the others: without it, or without one of its chats, nothing opens.
    std::fs::remove_file(dir.join("records.json")).unwrap();
    for (name, gone) in [("no-list", 1), ("a-chat-less", 3)] {
        let altered = scratch.join(name);
        copied(&dir, &altered);
        std::fs::remove_file(altered.join(format!("part-{gone:06}.json"))).unwrap();
        refused(open(&altered), "the result is refused");
        assert!(!altered.join("records.json").exists());
    }
}
