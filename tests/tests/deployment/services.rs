//! A program with a service credential: it imports, and reads nothing.

use super::world::{CUSTODIANS, Ran, World, node, run, topology};
use quorate_cli::client::ClientError;
use quorate_cli::deployment::Deployment as Reach;
use quorate_cli::people::service::ServiceFile;
use quorate_cli::sample::sample_export;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// `quorate`'s exit code where something else is found than what is needed.
const CONFLICT: Option<i32> = Some(5);

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

/// `quorate` without any wallet at hand.
fn without_wallet(world: &World, args: &[&str]) -> Ran {
    let (dir, none) = (world.dir().to_str().unwrap(), world.scratch().join("none"));
    let all = [
        &[
            "--json",
            "--deployment",
            dir,
            "--wallet",
            none.to_str().unwrap(),
        ],
        args,
    ]
    .concat();
    run("quorate", &all)
}

fn export(world: &World, archive: &str, to: &Path) -> Value {
    let to_text = to.to_str().unwrap();
    world.quorate_ok(&["export", "telegram", archive, "--out", to_text, "--quiet"]);
    serde_json::from_slice(&std::fs::read(to).unwrap()).unwrap()
}

fn released(world: &World) -> f64 {
    let of = |c: &&str| world.metric(&node(c, 1), "quorate_custodian_releases_total");
    CUSTODIANS.iter().map(of).sum()
}

#[test]
fn a_service_credential_imports_and_is_shown_nothing() {
    let world = World::start(&topology(1, [1, 1, 1], ""));
    let account = world.person().account().to_string();
    let (source, file) = (sample_export(), world.scratch().join("result.json"));
    std::fs::write(&file, source.to_string()).unwrap();
    let file = file.to_str().unwrap();

    let credential = world.scratch().join("import.json");
    let out = credential.to_str().unwrap();
    let issue = |account: &str, out: &str| {
        let args = [
            "home",
            "service-credential",
            "issue",
            "--name",
            "nightly import",
        ];
        let of = ["--account", account, "--out", out];
        world.quorate(&[&["--json"], &args[..], &of[..]].concat())
    };
    let issued = json(&issue(&account, out));
    let id = issued["service"].as_str().unwrap().to_owned();
    let over = issue(&account, out);
    assert_ne!(over.code, Some(0), "the file is there: {over:?}");

    // It makes no chat: that takes a member's device.
    let import = ["import", "telegram", file, "--service", out, "--quiet"];
    let early = without_wallet(&world, &import);
    assert_eq!(early.code, CONFLICT, "{early:?}");
    assert!(early.err.contains("import_not_prepared"), "{early:?}");
    let prepared =
        json(&world.quorate(&["--json", "import", "telegram", file, "--prepare", "--quiet"]));
    assert_eq!(prepared["messages"], 0, "{prepared}");
    let archive = prepared["archive"].as_str().unwrap().to_owned();

    let before = released(&world);
    let done = json(&without_wallet(&world, &import));
    assert_eq!(done["complete"], true, "{done}");
    assert_eq!(done["archive"], archive.as_str());
    assert_eq!(released(&world), before, "no share was released for it");
    // Its person reads what it wrote.
    let back = export(&world, &archive, &world.scratch().join("back.json"));
    assert_eq!(back, source);

    // With the same file nothing can be read, from the client or by hand.
    let reach = Reach::find(Some(world.dir())).unwrap();
    let service = || ServiceFile::load(&credential).unwrap();
    let person = world.person().account();
    let client = world.wait(async { reach.client_of_service(service(), person).unwrap() });
    let chat: quorate_engine::types::ChatId = archive.parse().unwrap();
    let refused = [
        world.wait(client.message(&archive, 0)).map(drop),
        world.wait(client.page(&archive, 1, 9)).map(drop),
        world.wait(client.chat(&archive, true)).map(drop),
        world.wait(client.members(&archive, None, 9)).map(drop),
    ];
    for result in refused {
        let Err(ClientError::Problem(p)) = result else {
            panic!("{result:?}");
        };
        assert_eq!((p.status, p.code.as_str()), (403, "service_credential"));
    }
    assert!(service().at_work(person).token(&[chat]).is_ok());

    // Once it is ended it writes nothing.
    let list = json(&world.quorate(&["--json", "home", "service-credential", "list"]));
    assert_eq!(list["services"][0]["id"], id.as_str(), "{list}");
    world.quorate_ok(&["home", "service-credential", "revoke", &id]);
    let text = vec![super::world::message("late")];
    let Err(ClientError::Problem(p)) = world.wait(client.append(&archive, text)) else {
        panic!("it writes on");
    };
    assert_eq!((p.status, p.code.as_str()), (403, "service_ended"));
    let again = ["import", "telegram", file, "--service", out, "--copy", "1"];
    assert_eq!(without_wallet(&world, &again).code, CONFLICT);
    let mine = world.quorate(&["home", "service-credential", "revoke", &"0".repeat(64)]);
    assert_eq!(mine.code, CONFLICT, "{mine:?}");
}

/// Grants that hold two seconds, under an import whose writes are slow, an export whose reader
/// sleeps, and a client that follows a chat.
#[test]
fn long_transfers_go_on_under_fresh_grants() {
    let mut world = World::lay_out(&topology(1, [1, 1, 1], ""));
    world.d.env.push((
        "FAILPOINTS".to_owned(),
        "home::before_write=sleep(1200)".to_owned(),
    ));
    world.d.start_all().unwrap();
    world.wait_ready();
    world.person();
    let (source, file) = (sample_export(), world.scratch().join("result.json"));
    std::fs::write(&file, source.to_string()).unwrap();
    let began = Instant::now();
    let short = ["--json", "--grant-life", "2"];
    let import = ["import", "telegram", file.to_str().unwrap(), "--quiet"];
    let done = json(&world.quorate(&[&short[..], &import[..]].concat()));
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(4),
        "no grant ended meanwhile: {took:?}"
    );
    assert_eq!(done["complete"], true, "{done}");
    let archive = done["archive"].as_str().unwrap();

    let mut reader = Command::new(quorate_tests::deployment::binary("quorate").unwrap())
        .args(["--deployment", world.dir().to_str().unwrap()])
        .args(["--as", super::world::TESTER, "--grant-life", "2"])
        .args(["export", "telegram", archive, "--out", "-"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(5));
    let waits = reader.try_wait().unwrap();
    assert_eq!(waits, None, "it did not wait for its reader");
    let out = reader.wait_with_output().unwrap();
    assert!(out.status.success(), "{:?}", out.status);
    let back: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(back, source);
    // A client that follows a chat for long.
    let person = world.person().with_grant_life(2);
    let client = world.client();
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let page = world.wait(client.page(archive, 1, 1)).unwrap();
        assert_eq!(page.messages.len(), 1);
        std::thread::sleep(Duration::from_millis(250));
    }
    drop(person);
}
