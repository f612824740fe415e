//! Time and order as an attack: a freeze between check and commit, a leader that slept through a
//! revocation, clocks that are wrong by a minute and by ten years.

use super::super::world::{World, eventually, node, offline, topology};
use super::taken::{Dealt, Hostile, Person, draw, now_ms, public, share, signing_key};
use quorate_engine::audit::{self, Entry};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::GrantRefusal;
use quorate_engine::authz::identity::{
    AccountChange, AccountPayload, AccountStatement, RECOVERY_WAIT_MS, device_id,
};
use quorate_engine::authz::membership::chat_id;
use quorate_engine::crypto::labels::SIGN_ACCOUNT;
use quorate_engine::crypto::seal::RecipientKey;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::custody::protocol::*;
use quorate_engine::types::{ChatId, KeyId, Secret, StatementHash, codec};
use quorate_node::custodian::GROUP;
use quorate_node::peer::services;
use quorate_node::pki::Entity;
use std::time::Duration;

const TEN_YEARS_MS: i64 = 10 * 365 * 24 * 60 * 60 * 1000;
/// Elections and a comparison of clocks lie in between.
const SETTLED_MAX: Duration = Duration::from_secs(60);

/// One key dealt to `ch`, in a chat of a person's own.
fn dealt(h: &Hostile<'_>) -> (Person, Dealt, ChatId, KeyId) {
    let person = h.enrolled();
    let (ch, chat, key_id) = dealt_to(h, &person);
    (person, ch, chat, key_id)
}

fn dealt_to(h: &Hostile<'_>, person: &Person) -> (Dealt, ChatId, KeyId) {
    let chat = chat_id(&h.chat(person));
    let ch = Dealt::meet(h, "ch");
    let key_id = KeyId(draw());
    let stored = ch.store(h, chat, &[(key_id, 0, share(&key_id))]);
    assert_eq!(stored, [StoreOutcome::Stored]);
    (ch, chat, key_id)
}

/// Who leads `ch`, as its node 2 has it.
fn leader_of(world: &World) -> u64 {
    world.metric(&node("ch", 2), "quorate_raft_leader") as u64
}

fn lead(world: &World, id: u64) {
    let led = eventually(SETTLED_MAX, || {
        if leader_of(world) != id {
            let to = id.to_string();
            world.quorate(&["cluster", "transfer-leader", "ch", "--to", &to]);
            anyhow::bail!("node {} leads", leader_of(world));
        }
        Ok(())
    });
    led.unwrap();
}

#[test]
fn a_freeze_between_check_and_commit_wins() {
    let mut world = World::start(&topology(1, [1; 3], ""));
    let at = node("ch", 1);
    world.d.stop(&at).unwrap();
    // The first release waits when everything was looked at and nothing is proposed yet.
    let slow = (
        "FAILPOINTS",
        "custodian-release-before-propose=1*sleep(4000)",
    );
    world.d.start_node_with(&at, &[slow]).unwrap();
    world.wait_ready();
    let h = Hostile::new(&world);
    let (person, ch, chat, key_id) = dealt(&h);
    let good = h.grant(&person, h.claims(&person, chat));
    let officers = |what: &str| {
        world.quorate_ok(&["custodian", what, "ch", "--reason", "a court asks"]);
    };
    let told = std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_secs(1));
            officers("freeze");
        });
        ch.release(&h, &good, chat, key_id).map(|_| ())
    });
    assert_eq!(told, Err(Refusal::Frozen));
    officers("thaw");
    let opened = ch.release(&h, &good, chat, key_id).unwrap();
    assert_eq!(opened.expose(), share(&key_id).expose());
}

#[test]
fn a_leader_that_slept_through_a_revocation_releases_nothing() {
    let world = World::start(&topology(1, [3, 1, 1], ""));
    lead(&world, 1);
    let h = Hostile::new(&world);
    let (person, ch, chat, key_id) = dealt(&h);
    let good = h.grant(&person, h.claims(&person, chat));
    ch.release(&h, &good, chat, key_id).unwrap();

    let sleeper = &world.d.running[&node("ch", 1)];
    sleeper.signal("STOP").unwrap();
    let leader = eventually(SETTLED_MAX, || {
        let seen = leader_of(&world);
        anyhow::ensure!([2, 3].contains(&seen), "node {seen} leads");
        Ok(seen)
    });
    let leader = leader.unwrap();
    h.speaks_to(leader);
    let change = AccountChange::Revoke {
        device: device_id(&public(&person.device)),
    };
    let genesis = StatementHash(person.genesis.hash());
    let revoked = (now_ms(), change);
    let revoked = account_statement(&h, &person, (1, genesis), revoked, &[&person.device]);
    h.account_statement("ch", &revoked).unwrap();

    // A request waits at the sleeper when it wakes up, as a leader in its own mind.
    h.speaks_to(1);
    let lease = RecipientKey::generate(&mut rand::rng());
    let request = ch.request(&h, &lease, &good, &[(chat, key_id)]);
    let body = codec::encode(PROTOCOL_VERSION, &CustodianRequest::Release(request));
    let woken = std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_secs(1));
            sleeper.signal("CONT").unwrap();
        });
        h.call("ch", services::CUSTODIAN, body)
    });
    if let Ok(reply) = woken {
        match codec::decode("reply", PROTOCOL_VERSION, &reply).unwrap() {
            CustodianReply::Release(reply) => {
                assert_eq!(reply.shares, [revoked_device()], "a share left");
            }
            CustodianReply::NotLeader { .. }
            | CustodianReply::Busy { .. }
            | CustodianReply::Unknown { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    // Whoever leads says why not; and the control, somebody else's device, goes on.
    h.speaks_to(leader_of(&world));
    let told = ch.release(&h, &good, chat, key_id).map(|_| ());
    assert_eq!(told, Err(Refusal::Grant(GrantRefusal::DeviceRevoked)));
    let (person, ch, chat, key_id) = dealt(&h);
    let good = h.grant(&person, h.claims(&person, chat));
    ch.release(&h, &good, chat, key_id).unwrap();
}

fn revoked_device() -> ShareResult {
    ShareResult::Refused(Refusal::Grant(GrantRefusal::DeviceRevoked))
}

#[test]
fn one_wrong_clock_of_three_moves_no_time_and_opens_nothing() {
    let mut world = World::start(&topology(1, [3, 1, 1], ""));
    let began = now_ms();
    for off_ms in [60_000, -60_000, TEN_YEARS_MS] {
        let at = node("ch", 1);
        world.d.stop(&at).unwrap();
        let failpoint = format!("custodian-clock=return({off_ms})");
        let env = [("FAILPOINTS", failpoint.as_str())];
        world.d.start_node_with(&at, &env).unwrap();
        world.wait_ready();
        // It is given the lead, and gives it away when it has looked at the others' clocks.
        let seen = eventually(SETTLED_MAX, || {
            let off = world.metric(&at, "quorate_custodian_clock_off_seconds");
            if off < 50.0 {
                world.quorate(&["cluster", "transfer-leader", "ch", "--to", "1"]);
                anyhow::bail!("it says it is {off} s off");
            }
            Ok(())
        });
        seen.unwrap();
        let h = Hostile::new(&world);
        // The control: who may, does.
        let (person, ch, chat, key_id) = dealt(&h);
        let good = h.grant(&person, h.claims(&person, chat));
        ch.release(&h, &good, chat, key_id).unwrap();
        // A grant that only the wrong clock finds good.
        let mut claims = h.claims(&person, chat);
        let there = (now_ms() / 1000).saturating_add_signed(off_ms / 1000);
        (claims.not_before_s, claims.expires_s) = (there - 5, there + 20);
        let told = ch.release(&h, &h.grant(&person, claims), chat, key_id);
        let why = match off_ms > 0 {
            true => GrantRefusal::NotYetValid,
            false => GrantRefusal::Expired,
        };
        let told = told.map(|_| ());
        assert_eq!(told, Err(Refusal::Grant(why)), "{off_ms} ms off");
    }
    // Nobody's time was moved: what the log says lies between then and now.
    let at = node("ch", 2);
    world.d.stop(&at).unwrap();
    let config = world.d.node(&at).config.clone();
    let until = now_ms() + 5_000;
    offline(&config, GROUP, |kv| {
        let mut looked_at = 0;
        while let Some(json) = audit::entry_bytes(kv, looked_at).unwrap() {
            let time_ms = Entry::from_json(&json).unwrap().time_ms;
            assert!(
                (began - 120_000..until).contains(&time_ms),
                "entry {looked_at}"
            );
            looked_at += 1;
        }
        assert!(looked_at > 20);
    });
}

/// The statement `number` of an account, signed by these keys.
fn account_statement(
    h: &Hostile<'_>,
    person: &Person,
    (number, previous): (u64, StatementHash),
    (at_ms, change): (u64, AccountChange),
    by: &[&SigningKey],
) -> Envelope {
    let s = AccountStatement {
        account: person.account,
        number,
        previous,
        at_ms,
        change,
    };
    Envelope::sign(
        SIGN_ACCOUNT,
        &h.deployment,
        &AccountPayload::Statement(s),
        by,
    )
}

#[test]
fn a_recovery_counts_after_its_wait_and_opens_nothing_before() {
    const WAIT_MS: u64 = RECOVERY_WAIT_MS + 60_000;
    let mut world = World::start(&topology(1, [1; 3], ""));
    let at = node("ch", 1);
    let second = Entity::open(&world.dir().join("id-jp")).unwrap();
    let second = SigningKey::from_seed(&Secret::take(
        &mut second.statement_key().unwrap().to_bytes(),
    ));
    let new = signing_key();
    let (person, ch, chat, key_id, finish) = {
        let h = Hostile::new(&world);
        let person = h.enrolled_by(&["id-ee", "id-jp"]);
        let (ch, chat, key_id) = dealt_to(&h, &person);
        // Control: the device that will be lost.
        let good = h.grant(&person, h.claims(&person, chat));
        ch.release(&h, &good, chat, key_id).unwrap();
        let change = AccountChange::RecoverBegin {
            public: public(&new),
        };
        let by = [&new, &h.authority, &second];
        let genesis = StatementHash(person.genesis.hash());
        let begun = account_statement(&h, &person, (1, genesis), (now_ms(), change), &by);
        h.account_statement("ch", &begun).unwrap();
        let head = (2, StatementHash(begun.hash()));
        let finish = |h: &Hostile<'_>, at_ms| {
            let change = AccountChange::RecoverFinish {
                public: public(&new),
                expires_ms: at_ms + 24 * 60 * 60 * 1000,
            };
            account_statement(h, &person, head, (at_ms, change), &[&new, &h.authority])
        };
        let told = h
            .account_statement("ch", &finish(&h, now_ms()))
            .unwrap_err();
        assert_eq!(told.code, "too_early", "{told:?}");
        let finish = finish(&h, now_ms() + WAIT_MS);
        (person, ch, chat, key_id, finish)
    };

    world.d.stop(&at).unwrap();
    let failpoint = format!("custodian-clock=return({WAIT_MS})");
    let env = [("FAILPOINTS", failpoint.as_str())];
    world.d.start_node_with(&at, &env).unwrap();
    world.wait_ready();
    let h = Hostile::new(&world);
    let recovered = Person {
        device: new,
        genesis: person.genesis.clone(),
        account: person.account,
    };
    let grant = |who: &Person| {
        let mut claims = h.claims(who, chat);
        claims.not_before_s += WAIT_MS / 1000;
        claims.expires_s += WAIT_MS / 1000;
        h.grant(who, claims)
    };
    // The wait alone lets nobody in.
    let told = ch.release(&h, &grant(&recovered), chat, key_id).map(|_| ());
    assert_eq!(told, Err(Refusal::Grant(GrantRefusal::DeviceUnknown)));
    h.account_statement("ch", &finish).unwrap();
    let opened = ch.release(&h, &grant(&recovered), chat, key_id).unwrap();
    assert_eq!(opened.expose(), share(&key_id).expose());
    let told = ch.release(&h, &grant(&person), chat, key_id).map(|_| ());
    assert!(told.is_err(), "the lost device reads on: {told:?}");
}
