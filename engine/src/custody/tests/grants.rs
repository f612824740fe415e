//! Every reason to refuse a grant, decided in `apply`, with a log entry of its own.

use super::*;
use crate::audit::{KeyOutcome, OpeningKind};
use crate::authz::service::SERVICE_TYP;
use crate::types::kv::Kv;
use std::sync::Mutex;

/// A release under exactly this text.
fn under(grant: &str, request: u8, signature_holds: bool, keys: Vec<KeyRef>) -> Release {
    let Command::Release(c) = release(request, keys) else {
        panic!("a release")
    };
    Release {
        grant: grant.to_owned(),
        signature_holds,
        ..c
    }
}

fn stored() -> Bench {
    let mut b = Bench::ready();
    b.effect(store(1, vec![item(1, 1, 1), item(1, 2, 2), item(2, 3, 3)]));
    b
}

fn good() -> Claims {
    claims(&home("ae"), &[key_ref(1, 1)], T0)
}

fn sign(claims: Claims) -> String {
    let grant = Grant::sign(phone(), &device_key(), claims).unwrap();
    grant.compact().to_owned()
}

/// A grant with another header or payload, of which nothing but form is checked.
fn bent(part: usize, from: &str, to: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
    let compact = sign(good());
    let mut parts: Vec<String> = compact.split('.').map(str::to_owned).collect();
    let text = String::from_utf8(B64.decode(&parts[part]).unwrap()).unwrap();
    assert!(text.contains(from), "{text}");
    parts[part] = B64.encode(text.replacen(from, to, 1));
    parts.join(".")
}

/// The one key asked for was refused, for this reason and no other, and the log says so.
fn refused(b: &mut Bench, c: Release, why: GrantRefusal, what: &str) {
    let effect = b.effect(Command::Release(c));
    assert_eq!(results(&effect), [Err(Refusal::Grant(why))], "{what}");
    let entry = b.last_entry();
    let outcome = serde_json::to_value(entry.keys[0].outcome).unwrap();
    assert_eq!(outcome, format!("grant_{}", why.code()), "{what}");
    let Held::Share(row) = share(&b.kv, &key(1)).unwrap() else {
        panic!("held")
    };
    assert!(!row.released, "{what}");
}

#[test]
fn each_bad_form_has_its_own_reason_and_entry() {
    use GrantRefusal as R;
    let text = sign(good());
    let cut = text.rsplit_once('.').unwrap().0;
    let with = |from: &str, to: &str| bent(1, from, to);
    for (what, grant, why) in [
        ("two parts", cut.to_owned(), R::NotCompact),
        ("padding", format!("{text}="), R::NotBase64url),
        ("alg none", bent(0, "EdDSA", "none"), R::Algorithm),
        ("alg HS256", bent(0, "EdDSA", "HS256"), R::Algorithm),
        ("crit", bent(0, "{", r#"{"crit":["exp"],"#), R::Critical),
        ("typ", bent(0, "quorate-grant+jwt", "JWT"), R::Type),
        (
            "a service's typ",
            bent(0, "quorate-grant+jwt", SERVICE_TYP),
            R::ServiceCredential,
        ),
        ("a key of its own", bent(0, "{", r#"{"jwk":{},"#), R::Header),
        (
            "a claim nobody knows",
            with("{", r#"{"sub":1,"#),
            R::Payload,
        ),
        (
            "exp as 1e3",
            with(r#""exp":"#, r#""exp":1e3,"x":"#),
            R::Payload,
        ),
        ("no action", with(r#"["write"]"#, "[]"), R::Actions),
        (
            "a range backwards",
            with(r#""from":0"#, r#""from":2,"to":1"#),
            R::Chats,
        ),
        (
            "ceiling 0",
            with(r#""ceiling":1000"#, r#""ceiling":0"#),
            R::Ceiling,
        ),
        ("stretched", with(r#""exp":1"#, r#""exp":2"#), R::Lifetime),
        ("no signature", format!("{cut}."), R::SignatureForm),
    ] {
        let mut b = stored();
        refused(
            &mut b,
            under(&grant, 1, true, vec![key_ref(1, 1)]),
            why,
            what,
        );
        let entry = b.last_entry();
        assert!(!entry.done);
        let reason = entry.refused.unwrap();
        assert_eq!(reason, format!("grant: {}: {why}", why.code()));
        assert!(
            entry.accounts.is_empty(),
            "nobody is named by what cannot be read"
        );
    }
    // Too long never gets as far as being read.
    let mut b = stored();
    let long = under(&"a".repeat(8193), 1, true, vec![key_ref(1, 1)]);
    assert!(matches!(
        b.effect(Command::Release(long)),
        Effect::Refused { .. }
    ));
}

#[test]
fn each_grant_that_does_not_hold_has_its_own_reason_and_entry() {
    use GrantRefusal as R;
    type Change = fn(&mut Claims);
    type Said = Option<(Vec<u8>, &'static [u8])>;
    let none: Change = |_| {};
    let rows: Vec<(&str, Change, Said, bool, R)> = vec![
        (
            "another deployment",
            |c| c.deployment = DeploymentId([2; 16]),
            None,
            true,
            R::OtherDeployment,
        ),
        (
            "another home",
            |c| c.home = home("zz"),
            None,
            true,
            R::OtherHome,
        ),
        (
            "another account",
            |c| c.account = AccountId([1; 32]),
            None,
            true,
            R::DeviceUnknown,
        ),
        (
            "an expired device",
            none,
            Some((said_device(&phone()), b"expired")),
            true,
            R::DeviceExpired,
        ),
        (
            "a revoked device",
            none,
            Some((said_device(&phone()), b"revoked")),
            true,
            R::DeviceRevoked,
        ),
        ("forged", none, None, false, R::Signature),
        (
            "not yet valid",
            |c| (c.not_before_s, c.expires_s) = (T0 / 1000 + 1, T0 / 1000 + 60),
            None,
            true,
            R::NotYetValid,
        ),
        (
            "expired",
            |c| (c.not_before_s, c.expires_s) = (T0 / 1000 - 60, T0 / 1000),
            None,
            true,
            R::Expired,
        ),
        (
            "another chat",
            |c| c.chats[0].chat = chat(2),
            None,
            true,
            R::ChatNotGranted,
        ),
        (
            "epochs before",
            |c| c.chats[0].from = EPOCH + 1,
            None,
            true,
            R::EpochBeforeRange,
        ),
        (
            "epochs after",
            |c| c.chats[0].to = Some(EPOCH - 1),
            None,
            true,
            R::EpochAfterRange,
        ),
        (
            "an unknown chat",
            none,
            Some((said_member(&chat(1)), b"unknown")),
            true,
            R::ChatUnknown,
        ),
        (
            "a forked chat",
            none,
            Some((said_member(&chat(1)), b"forked")),
            true,
            R::ChatForked,
        ),
        (
            "removed",
            none,
            Some((said_member(&chat(1)), b"removed")),
            true,
            R::NotMember,
        ),
        (
            "a newcomer",
            none,
            Some((said_member(&chat(1)), b"later")),
            true,
            R::EpochBeforeMembership,
        ),
    ];
    for (what, change, said, holds, why) in rows {
        let mut b = stored();
        let mut c = good();
        change(&mut c);
        if let Some((row, value)) = said {
            b.kv.put(&row, value).unwrap();
        }
        refused(
            &mut b,
            under(&sign(c), 1, holds, vec![key_ref(1, 1)]),
            why,
            what,
        );
    }
    // The control: nothing changed, and it goes out.
    let mut b = stored();
    let ok = under(&sign(good()), 1, true, vec![key_ref(1, 1)]);
    assert_eq!(results(&b.effect(Command::Release(ok))), [Ok(1)]);
}

#[test]
fn a_reading_grant_does_not_serve_a_write() {
    let mut b = stored();
    let mut c = good();
    c.actions = vec![Action::Read];
    let ask = |request, reason| Release {
        reason,
        ..under(&sign(c.clone()), request, true, vec![key_ref(1, 1)])
    };
    refused(
        &mut b,
        ask(1, Reason::Write),
        GrantRefusal::ActionNotGranted,
        "write",
    );
    let effect = b.effect(Command::Release(ask(2, Reason::Read)));
    assert_eq!(results(&effect), [Ok(1)]);
}

#[test]
fn another_home_cannot_show_a_grant() {
    let mut b = stored();
    let c = Release {
        home: home("zz"),
        ..under(&sign(good()), 1, true, vec![key_ref(1, 1)])
    };
    refused(
        &mut b,
        c,
        GrantRefusal::OtherHome,
        "replayed by another home",
    );
}

#[test]
fn the_ceiling_counts_keys_once_a_request_and_never_forgets_before_the_end() {
    let mut b = stored();
    let grant = sign(Claims {
        ceiling: 2,
        ..good()
    });
    let ask =
        |request, keys: &[KeyRef]| Command::Release(under(&grant, request, true, keys.to_vec()));
    let (one, two) = (key_ref(1, 1), key_ref(1, 2));
    let spent = Err(Refusal::Grant(GrantRefusal::CeilingSpent));
    assert_eq!(results(&b.effect(ask(1, &[one]))), [Ok(1)]);
    // Repeated: decided anew, not charged anew.
    for _ in 0..3 {
        assert_eq!(results(&b.effect(ask(1, &[one]))), [Ok(1)]);
    }
    // What was refused was not charged; repeated after the thaw it is.
    b.effect(freeze(FreezeScope::All));
    let frozen = Err(Refusal::Frozen);
    assert_eq!(results(&b.effect(ask(2, &[two, one]))), [frozen, frozen]);
    assert_eq!(results(&b.effect(ask(1, &[one]))), [frozen]);
    b.effect(thaw(FreezeScope::All));
    assert_eq!(results(&b.effect(ask(2, &[two, one]))), [Ok(2), spent]);
    assert_eq!(
        b.last_entry().keys[1].outcome,
        KeyOutcome::GrantCeilingSpent
    );
    assert_eq!(results(&b.effect(ask(3, &[one]))), [spent]);
    assert_eq!(results(&b.effect(ask(1, &[one]))), [Ok(1)], "paid for");
    // Another grant under the same id does not begin anew.
    let other = sign(Claims {
        ceiling: 3,
        ..good()
    });
    refused_again(&mut b, &other);
    // Its row goes once it has expired, and then time refuses it.
    let rows = |b: &Bench| {
        b.kv.0
            .range(vec![rows::GRANT]..vec![rows::GRANT_AGE + 1])
            .count()
    };
    assert_eq!(rows(&b), 2);
    b.clock += 900_000;
    assert_eq!(results(&b.effect(release(5, vec![one]))), [Ok(1)]);
    assert_eq!(rows(&b), 2, "the old one is gone, the new one stands");
    let late = Err(Refusal::Grant(GrantRefusal::Expired));
    assert_eq!(results(&b.effect(ask(1, &[one]))), [late]);
}

fn refused_again(b: &mut Bench, other: &str) {
    let c = under(other, 4, true, vec![key_ref(1, 1)]);
    let why = Err(Refusal::Grant(GrantRefusal::IdReused));
    assert_eq!(results(&b.effect(Command::Release(c))), [why]);
    assert_eq!(b.last_entry().keys[0].outcome, KeyOutcome::GrantIdReused);
}

#[test]
fn a_stolen_device_runs_dry_and_is_told_when_to_come_back() {
    let mut b = stored();
    let one = vec![key_ref(1, 1)];
    for n in 0..ACCOUNT_BUDGET.capacity / 256 {
        let grant = sign(Claims {
            id: GrantId([n as u8; 16]),
            ..good()
        });
        let all = under(&grant, n as u8, true, vec![key_ref(1, 1); 256]);
        assert_eq!(results(&b.effect(Command::Release(all))), [Ok(1); 256]);
    }
    let retry_ms = HOUR.div_ceil(ACCOUNT_BUDGET.per_hour);
    let dry = Err(Refusal::AccountBudget { retry_ms });
    assert_eq!(results(&b.effect(release(200, one.clone()))), [dry]);
    assert_eq!(b.last_entry().keys[0].outcome, KeyOutcome::AccountBudget);
    b.clock += retry_ms;
    assert_eq!(results(&b.effect(release(200, one))), [Ok(1)]);
}

#[test]
fn the_log_names_people_by_commitments_that_openings_open() {
    let mut b = stored();
    let Command::Release(c) = release(9, vec![key_ref(1, 1), key_ref(2, 3)]) else {
        panic!("a release")
    };
    b.effect(Command::Release(Release {
        lease_key: [0x1e; 32],
        ..c
    }));
    let entry = b.last_entry();
    let json = audit::entry_bytes(&b.kv, entry.index).unwrap().unwrap();
    let json = String::from_utf8(json).unwrap();
    for secret in [
        person().to_string(),
        phone().to_string(),
        chat(1).to_string(),
    ] {
        assert!(!json.contains(&secret), "{secret} in {json}");
    }
    let openings = audit::openings(&b.kv, entry.index).unwrap();
    let kinds: Vec<_> = openings.iter().map(|o| (o.kind, o.value.0)).collect();
    assert_eq!(
        kinds,
        [
            (OpeningKind::Account, person().0),
            (OpeningKind::Device, phone().0),
            (OpeningKind::Chat, chat(1).0),
            (OpeningKind::Chat, chat(2).0)
        ]
    );
    let commitments: Vec<_> = openings.iter().map(|o| o.commitment()).collect();
    assert_eq!(commitments[..2], [entry.accounts[0].0, entry.devices[0].0]);
    assert_eq!(commitments[2..], [entry.chats[0].0, entry.chats[1].0]);
}

/// Remembers every grant, and counts what was asked of it.
#[derive(Debug, Default)]
struct Remembered(Mutex<(BTreeMap<GrantHash, Arc<Grant>>, usize)>);

impl KnownGrants for Remembered {
    fn recall(&self, hash: &GrantHash) -> Option<Arc<Grant>> {
        let (kept, recalled) = &mut *self.0.lock().unwrap();
        let found = kept.get(hash).cloned();
        *recalled += usize::from(found.is_some());
        found
    }
    fn signer(&self, _: &GrantHash) -> Option<[u8; 32]> {
        None
    }
    fn keep(&self, grant: &Arc<Grant>, _: Option<[u8; 32]>) {
        let (kept, _) = &mut *self.0.lock().unwrap();
        kept.insert(*grant.hash(), grant.clone());
    }
}

#[test]
fn what_a_node_remembers_of_grants_changes_nothing_that_it_decides() {
    let memory = Arc::new(Remembered::default());
    let mut nodes = [stored(), stored()];
    nodes[1].machine = machine("ch", [2; 32]).with_known_grants(memory.clone());
    let text = sign(good());
    let other = sign(Claims {
        ceiling: 1,
        ..good()
    });
    let again = |n: u8, grant: &str, holds| under(grant, n, holds, vec![key_ref(1, n % 2 + 1)]);
    let mut decided = [vec![], vec![]];
    for (b, decided) in nodes.iter_mut().zip(&mut decided) {
        let say = |b: &mut Bench, what: &[u8]| b.kv.put(&said_device(&phone()), what).unwrap();
        decided.push(b.effect(Command::Release(again(1, &text, true))));
        decided.push(b.effect(Command::Release(again(2, &text, true))));
        // The leader says of the very same text that its signature does not hold.
        decided.push(b.effect(Command::Release(again(3, &text, false))));
        decided.push(b.effect(Command::Release(again(4, &other, true))));
        decided.push(b.effect(Command::Release(again(5, &format!("{text}="), true))));
        say(b, b"revoked");
        decided.push(b.effect(Command::Release(again(6, &text, true))));
        b.kv.delete(&said_device(&phone())).unwrap();
        b.clock += 900_000;
        decided.push(b.effect(Command::Release(again(7, &text, true))));
    }
    assert!(memory.0.lock().unwrap().1 >= 4, "it was asked and knew");
    assert_eq!(decided[0], decided[1]);
    assert!(nodes[0].kv == nodes[1].kv);
    use GrantRefusal as R;
    let refusals = [
        R::Signature,
        R::IdReused,
        R::NotBase64url,
        R::DeviceRevoked,
        R::Expired,
    ];
    for (effect, why) in decided[1][2..].iter().zip(refusals) {
        assert_eq!(results(effect), [Err(Refusal::Grant(why))]);
    }
}
