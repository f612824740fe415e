//! Officers with keys in files: first ones, a freeze that two of them end, an
//! order up to its approval, all through the `quorate` binary.

use super::world::{Ran, World, topology};
use serde_json::Value;
use std::path::PathBuf;

const CH: &str = "ch";

/// People with keys in files.
pub struct Officers<'a> {
    world: &'a World,
    keys: Vec<(String, PathBuf)>,
}

impl<'a> Officers<'a> {
    /// Nobody yet.
    pub fn new(world: &'a World) -> Self {
        let keys = Vec::new();
        Self { world, keys }
    }
    /// Anna, Bo and Cy, two of whom must agree, as `custodian`'s first officers.
    pub fn installed(world: &'a World, custodian: &str) -> Self {
        let mut out = Self::new(world);
        let paper = world.scratch().join(format!("first-{custodian}.json"));
        let paper = paper.to_str().unwrap();
        let names = ["anna", "bo", "cy"];
        let named = names.map(|n| format!("{n}={}", out.key(n)));
        let mut first = vec![
            "officer",
            "bootstrap",
            custodian,
            "--quorum",
            "2",
            "--out",
            paper,
        ];
        for one in &named {
            first.extend(["--officer", one]);
        }
        world.quorate_ok(&first);
        for name in names {
            world.quorate_ok(&["officer", "sign", paper, "--key", out.file(name), "--yes"]);
        }
        world.quorate_ok(&["officer", "submit", custodian, paper]);
        out
    }
    /// Draws a key; its public half.
    pub fn key(&mut self, name: &str) -> String {
        let path = self.world.scratch().join(format!("{name}.key"));
        let made = self.json(&["officer", "init-key", "--out", path.to_str().unwrap()]);
        self.keys.push((name.to_owned(), path));
        made["public"].as_str().unwrap().to_owned()
    }
    /// The key file of `name`.
    pub fn file(&self, name: &str) -> &str {
        let found = self.keys.iter().find(|(n, _)| n == name);
        found.unwrap().1.to_str().unwrap()
    }
    /// What a command prints with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.world.quorate_ok(&[&["--json"], args].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
    /// With the officer's key and a reason.
    pub fn as_officer(&self, name: &str, args: &[&str]) -> Ran {
        let key = ["--key", self.file(name), "--reason", "read it", "--yes"];
        self.world.quorate(&[args, &key].concat())
    }
}

/// What a command printed that did its job.
pub fn done(ran: Ran) -> String {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.out
}

/// A command failed and said why.
pub fn refused(ran: Ran, why: &str) {
    assert_ne!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains(why), "{why} is not in {ran:?}");
}

#[test]
fn two_officers_end_a_freeze_and_approve_an_order_and_nobody_does_alone() {
    let world = World::start(&topology(1, [1; 3], ""));
    let chat = world.chat("asked for");
    world.send(&chat, &["a record".into()]);
    let mut o = Officers::new(&world);
    let names = ["anna", "bo", "cy"];
    let public = names.map(|n| o.key(n));
    o.key("clerk");

    // First officers: all of them sign one paper.
    let paper = world.scratch().join("first.json");
    let paper = paper.to_str().unwrap();
    let named: Vec<String> = names
        .iter()
        .zip(&public)
        .map(|(n, k)| format!("{n}={k}"))
        .collect();
    let mut first = vec!["officer", "bootstrap", CH, "--quorum", "2", "--out", paper];
    for one in &named {
        first.extend(["--officer", one]);
    }
    world.quorate_ok(&first);
    let sign = |name: &str| {
        let yes = ["officer", "sign", paper, "--key", o.file(name), "--yes"];
        world.quorate(&yes)
    };
    let unread = world.quorate(&["officer", "sign", paper, "--key", o.file("anna")]);
    refused(unread, "nothing was signed");
    done(sign("anna"));
    done(sign("bo"));
    refused(
        world.quorate(&["officer", "submit", CH, paper]),
        "did not sign",
    );
    done(sign("cy"));
    refused(sign("cy"), "signed this already");
    done(world.quorate(&["officer", "submit", CH, paper]));
    refused(
        world.quorate(&["officer", "submit", CH, paper]),
        "has officers already",
    );
    let shown = world.quorate_ok(&["officer", "list", CH]);
    assert!(
        shown.contains("2 of 3 officers must agree") && shown.contains("anna"),
        "{shown}"
    );

    // An operator stops everything alone and starts nothing again.
    let why = ["--reason", "drill"];
    world.quorate_ok(&[&["custodian", "freeze", CH][..], &why].concat());
    refused(
        world.quorate(&[&["custodian", "thaw", CH][..], &why].concat()),
        "takes their quorum",
    );
    let propose = [
        "officer",
        "propose",
        CH,
        "--key",
        o.file("anna"),
        "--reason",
        "over",
        "thaw",
    ];
    world.quorate_ok(&propose);
    let open = o.json(&["officer", "list", CH]);
    let id = open["proposals"][0]["id"].as_str().unwrap().to_owned();
    refused(o.as_officer("anna", &["approve", CH, &id]), "counts once");
    refused(o.as_officer("clerk", &["approve", CH, &id]), "no officer");
    let carried = done(o.as_officer("bo", &["approve", CH, &id]));
    assert!(carried.contains("carried out: thaw"), "{carried}");
    let status = world.quorate_ok(&["custodian", "status", CH]);
    assert!(!status.contains("FROZEN"), "{status}");

    // An order: submitted by somebody who decides on it nowhere.
    let ruling = world.scratch().join("ruling.pdf");
    std::fs::write(&ruling, b"the ruling").unwrap();
    let recipient = world.scratch().join("court.key");
    let recipient = recipient.to_str().unwrap();
    world.quorate_ok(&["order", "recipient-key", "--out", recipient]);
    let recipient = format!("{recipient}.pub");
    let mut order = vec![
        "order",
        "open",
        CH,
        "is",
        "--key",
        o.file("clerk"),
        "--issuer",
        "a court",
    ];
    order.extend([
        "--legal-basis",
        "file 7",
        "--document",
        ruling.to_str().unwrap(),
    ]);
    order.extend([
        "--chat",
        &chat,
        "--from",
        "2020-01-01",
        "--to",
        "2100-01-01",
    ]);
    order.extend(["--reason", "served", "--recipient", &recipient]);
    let told = world.quorate(&[&["--json"], &order[..]].concat());
    // The other custodian has no officers: it takes no order.
    assert_eq!(told.code, Some(6), "{told:?}");
    let told: Value = serde_json::from_str(&told.out).unwrap();
    let id = told["order"].as_str().unwrap().to_owned();
    assert!(
        told["submitted"][1]["detail"]
            .as_str()
            .unwrap()
            .contains("no officers yet"),
        "{told}"
    );
    let pending = o.json(&["order", "list", CH, "--pending"]);
    assert_eq!(pending[0]["id"], id);
    let shown = o.json(&["order", "show", CH, &id]);
    assert_eq!(shown["scope"][0]["chat"], chat);
    assert_eq!(shown["scope"][0]["epochs"][0]["closed"], false);
    refused(
        o.as_officer("clerk", &["order", "approve", CH, &id]),
        "may not decide",
    );
    done(o.as_officer("cy", &["order", "approve", CH, &id]));
    let second = done(o.as_officer("anna", &["order", "approve", CH, &id]));
    assert!(second.contains("cooling_off"), "{second}");
    assert_eq!(
        o.json(&["order", "list", CH, "--pending"]),
        Value::Array(Vec::new())
    );
    let shown = world.quorate_ok(&["order", "show", CH, &id]);
    assert!(
        shown.contains("approved by anna") && shown.contains("still being written"),
        "{shown}"
    );
    done(o.as_officer("clerk", &["order", "withdraw", CH, &id]));
    refused(
        o.as_officer("bo", &["order", "approve", CH, &id]),
        "withdrawn",
    );

    // What the order is about is still read by nobody else than before.
    assert!(
        world
            .quorate_ok(&["message", "get", &chat, "1"])
            .contains("a record")
    );
}
