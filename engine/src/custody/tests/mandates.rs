//! Every reason to refuse a deletion's mandate, decided in `apply`, with a log
//! entry of its own; and what is counted of one that holds.

use super::*;
use crate::audit::{EntryKind, OpeningKind};
use crate::authz::deletion::{Deletion, MANDATE_LIFE_MS, MandateRefusal, Whose};
use crate::authz::envelope::Envelope;
use crate::crypto::labels::SIGN_DELETION;

fn good() -> Deletion {
    Deletion {
        deployment: DEPLOYMENT,
        home: home("ae"),
        chat: chat(1),
        account: person(),
        device: phone(),
        whose: Whose::Own,
        messages: vec![7],
        epochs: vec![EPOCH],
        at_ms: T0,
        nonce: Nonce([1; 16]),
    }
}

fn sign(d: &Deletion) -> Envelope {
    d.sign(&device_key()).unwrap()
}

fn under(statement: &Envelope, request: u8, lease: u8, keys: Vec<KeyRef>) -> MandateRelease {
    MandateRelease {
        statement: statement.clone(),
        request: RequestId([request; 16]),
        home: home("ae"),
        node: 4,
        lease_key: [lease; 32],
        keys,
    }
}

fn ask(b: &mut Bench, c: MandateRelease) -> Vec<Result<u8, Refusal>> {
    results(&b.effect(Command::MandateRelease(c)))
}

fn no<T>(why: MandateRefusal) -> Result<T, Refusal> {
    Err(Refusal::Mandate(why))
}

/// Epoch 5 of chat 1 under keys 1 and 2, epoch 6 under key 4; epoch 5 of chat 2 under key 3.
fn stored() -> Bench {
    let mut b = Bench::ready();
    let later = StoreItem {
        epoch: EPOCH + 1,
        ..item(1, 4, 4)
    };
    let items = vec![item(1, 1, 1), item(1, 2, 2), item(2, 3, 3), later];
    b.effect(store(1, items));
    b
}

/// The one key asked for was refused, for this reason and no other, and the log says so.
fn refused(b: &mut Bench, c: MandateRelease, why: MandateRefusal, what: &str) {
    let asked = c.keys[0].key_id;
    assert_eq!(ask(b, c), [no(why)], "{what}");
    let entry = b.last_entry();
    assert_eq!(entry.kind, EntryKind::MandateRelease);
    let outcome = serde_json::to_value(entry.keys[0].outcome).unwrap();
    assert_eq!(outcome, format!("mandate_{}", why.code()), "{what}");
    let Held::Share(row) = share(&b.kv, &asked).unwrap() else {
        panic!("held")
    };
    assert!(!row.released, "{what}");
    let rows =
        b.kv.0
            .range(vec![rows::MANDATE]..vec![rows::MANDATE_AGE + 1]);
    assert_eq!(rows.count(), 0, "{what}: nothing is counted");
}

#[test]
fn each_mandate_that_does_not_hold_has_its_own_reason_and_entry() {
    use MandateRefusal as M;
    type Said = Option<(Vec<u8>, &'static [u8])>;
    type Change = fn(&mut Deletion);
    let none: Change = |_| {};
    let told = |text: &'static [u8]| Some((said_member(&chat(1)), text));
    let rows: Vec<(&str, Change, Said, M)> = vec![
        (
            "another deployment",
            |d| d.deployment = DeploymentId([2; 16]),
            None,
            M::OtherDeployment,
        ),
        ("another home", |d| d.home = home("zz"), None, M::OtherHome),
        (
            "another account",
            |d| d.account = AccountId([1; 32]),
            None,
            M::DeviceUnknown,
        ),
        (
            "an invented device",
            |d| d.device = DeviceId([1; 32]),
            None,
            M::DeviceUnknown,
        ),
        (
            "an expired device",
            none,
            Some((said_device(&phone()), b"expired")),
            M::DeviceExpired,
        ),
        (
            "a revoked device",
            none,
            Some((said_device(&phone()), b"revoked")),
            M::DeviceRevoked,
        ),
        (
            "of tomorrow",
            |d| d.at_ms += MANDATE_LIFE_MS,
            None,
            M::NotYetValid,
        ),
        (
            "of yesterday",
            |d| d.at_ms -= MANDATE_LIFE_MS,
            None,
            M::HorizonOver,
        ),
        ("another chat", |d| d.chat = chat(2), None, M::ChatNotNamed),
        (
            "other epochs",
            |d| d.epochs = vec![EPOCH - 1, EPOCH + 1],
            None,
            M::EpochNotNamed,
        ),
        ("an unknown chat", none, told(b"unknown"), M::ChatUnknown),
        ("a forked chat", none, told(b"forked"), M::ChatForked),
        ("removed", none, told(b"removed"), M::NotMember),
        (
            "others' messages",
            |d| d.whose = Whose::Anyone,
            None,
            M::RoleMissing,
        ),
        ("a newcomer", none, told(b"later"), M::EpochBeforeMembership),
    ];
    for (what, change, said, why) in rows {
        let mut b = stored();
        let mut d = good();
        change(&mut d);
        if let Some((row, value)) = said {
            b.kv.put(&row, value).unwrap();
        }
        refused(
            &mut b,
            under(&sign(&d), 1, 1, vec![key_ref(1, 1)]),
            why,
            what,
        );
    }
    let other = SigningKey::from_seed(&Secret::from_slice(&[9; 32]).unwrap());
    let mut stretched = sign(&good());
    stretched.payload = stretched.payload.replace("[5]", "[5,6]");
    let both = Envelope::sign(
        SIGN_DELETION,
        &DEPLOYMENT,
        &good(),
        &[&device_key(), &other],
    );
    for (what, statement) in [
        ("forged", good().sign(&other).unwrap()),
        ("stretched", stretched),
        ("signed by somebody else too", both),
    ] {
        let c = under(&statement, 1, 1, vec![key_ref(1, 1)]);
        refused(&mut stored(), c, M::Signature, what);
    }
    let mut bent = sign(&good());
    bent.payload = bent.payload.replace("[7]", "[0]");
    let mut b = stored();
    refused(
        &mut b,
        under(&bent, 1, 1, vec![key_ref(1, 1)]),
        M::Form,
        "form",
    );
    let entry = b.last_entry();
    assert!(!entry.done && entry.accounts.is_empty() && entry.devices.is_empty());
    assert_eq!(entry.refused, Some(format!("mandate: form: {}", M::Form)));

    // The controls: nothing changed, and an admin for others' messages.
    let mut b = stored();
    assert_eq!(
        ask(&mut b, under(&sign(&good()), 1, 1, vec![key_ref(1, 1)])),
        [Ok(1)]
    );
    let mut b = stored();
    b.kv.put(&said_member(&chat(1)), b"admin").unwrap();
    let whose = Whose::Anyone;
    let d = Deletion { whose, ..good() };
    assert_eq!(
        ask(&mut b, under(&sign(&d), 1, 1, vec![key_ref(1, 1)])),
        [Ok(1)]
    );
}

#[test]
fn rules_that_hold_for_every_release_hold_under_a_mandate() {
    let mut b = stored();
    let statement = sign(&good());
    // A key of a chat it does not name is not even looked for; another home's stays there.
    let keys = vec![key_ref(2, 3), key_ref(1, 9), key_ref(1, 3)];
    let told = ask(&mut b, under(&statement, 1, 1, keys));
    let elsewhere = no(MandateRefusal::ChatNotNamed);
    assert_eq!(
        told,
        [elsewhere, Err(Refusal::NotHeld), Err(Refusal::WrongChat)]
    );
    let mut anothers = under(&statement, 2, 1, vec![key_ref(1, 1)]);
    anothers.home = home("zz");
    assert_eq!(ask(&mut b, anothers), [no(MandateRefusal::OtherHome)]);
    // A hold stops it, and costs nothing.
    b.effect(freeze(FreezeScope::Chat(chat(1))));
    let c = under(&statement, 3, 1, vec![key_ref(1, 1)]);
    assert_eq!(ask(&mut b, c.clone()), [Err(Refusal::Frozen)]);
    b.effect(thaw(FreezeScope::Chat(chat(1))));
    assert_eq!(ask(&mut b, c.clone()), [Ok(1)]);
    // The request id is bound to keys, statement and lease key.
    let mismatch = [Err(Refusal::RequestMismatch)];
    let other = |change: fn(&mut MandateRelease)| {
        let mut c = c.clone();
        change(&mut c);
        c
    };
    assert_eq!(ask(&mut b, other(|c| c.lease_key = [9; 32])), mismatch);
    assert_eq!(
        ask(&mut b, other(|c| c.keys = vec![key_ref(1, 2)])),
        mismatch
    );
    assert_eq!(ask(&mut b, other(|c| c.node = 5)), mismatch);
    let again = sign(&Deletion {
        nonce: Nonce([2; 16]),
        ..good()
    });
    let mut c = under(&again, 3, 1, vec![key_ref(1, 1)]);
    assert_eq!(ask(&mut b, c.clone()), mismatch);
    assert!(!b.last_entry().done);
    // A destroyed share is gone for a mandate, too.
    b.effect(shred(vec![key_ref(1, 1)]));
    c.request = RequestId([4; 16]);
    assert_eq!(ask(&mut b, c), [Err(Refusal::Tombstoned)]);
}

#[test]
fn an_epoch_goes_out_to_eight_lease_keys_and_to_none_twice() {
    let mut b = stored();
    let statement = sign(&Deletion {
        epochs: vec![EPOCH, EPOCH + 1],
        ..good()
    });
    let used = no(MandateRefusal::LeaseKeyUsed);
    let spent = no(MandateRefusal::ReleasesSpent);
    for n in 1..=8 {
        let one = vec![key_ref(1, 1)];
        assert_eq!(
            ask(&mut b, under(&statement, n, n, one.clone())),
            [Ok(1)],
            "{n}"
        );
        // The very request again, and another for the same lease key.
        assert_eq!(
            ask(&mut b, under(&statement, n, n, one.clone())),
            [used],
            "{n}"
        );
        assert_eq!(
            ask(&mut b, under(&statement, 100 + n, n, one)),
            [used],
            "{n}"
        );
    }
    let ask_for = |b: &mut Bench, request, lease, key| {
        ask(b, under(&statement, request, lease, vec![key_ref(1, key)]))
    };
    assert_eq!(ask_for(&mut b, 20, 20, 1), [spent]);
    let outcome = serde_json::to_value(b.last_entry().keys[0].outcome).unwrap();
    assert_eq!(outcome, "mandate_releases_spent");
    // A key more under the same number is the same epoch; another epoch is counted apart.
    assert_eq!(ask_for(&mut b, 21, 21, 2), [spent]);
    assert_eq!(ask_for(&mut b, 22, 1, 4), [Ok(4)]);
    let keys = vec![key_ref(1, 4), key_ref(1, 2)];
    assert_eq!(ask(&mut b, under(&statement, 23, 23, keys)), [Ok(4), spent]);
    // Signed anew, it is a mandate of its own: what bounds those is the account's budget.
    let again = sign(&Deletion {
        nonce: Nonce([2; 16]),
        ..good()
    });
    // Two keys under one number: one of them, whichever comes first.
    let keys = vec![key_ref(1, 1), key_ref(1, 2)];
    assert_eq!(ask(&mut b, under(&again, 24, 24, keys)), [Ok(1), used]);
}

#[test]
fn a_mandate_ends_with_the_horizon_with_its_device_and_with_the_membership() {
    let mut b = stored();
    let statement = sign(&good());
    let one = |request| under(&statement, request, request, vec![key_ref(1, 1)]);
    assert_eq!(ask(&mut b, one(1)), [Ok(1)]);
    b.kv.put(&said_device(&phone()), b"revoked").unwrap();
    assert_eq!(ask(&mut b, one(2)), [no(MandateRefusal::DeviceRevoked)]);
    b.kv.delete(&said_device(&phone())).unwrap();
    b.kv.put(&said_member(&chat(1)), b"removed").unwrap();
    assert_eq!(ask(&mut b, one(3)), [no(MandateRefusal::NotMember)]);
    b.kv.delete(&said_member(&chat(1))).unwrap();
    b.clock = T0 + MANDATE_LIFE_MS - 1;
    assert_eq!(ask(&mut b, one(4)), [Ok(1)]);
    b.clock += 1;
    assert_eq!(ask(&mut b, one(5)), [no(MandateRefusal::HorizonOver)]);
    // Its row is forgotten when others come after its end; then time refuses it.
    let rows = |b: &Bench| {
        let rows =
            b.kv.0
                .range(vec![rows::MANDATE]..vec![rows::MANDATE_AGE + 1]);
        rows.count()
    };
    assert_eq!(rows(&b), 2);
    b.clock += 1;
    let later = sign(&Deletion {
        at_ms: b.clock,
        ..good()
    });
    assert_eq!(
        ask(&mut b, under(&later, 6, 6, vec![key_ref(1, 1)])),
        [Ok(1)]
    );
    assert_eq!(rows(&b), 2, "the old one is gone, the new one stands");
    assert_eq!(ask(&mut b, one(7)), [no(MandateRefusal::HorizonOver)]);
}

#[test]
fn its_row_is_as_documented() {
    let mut b = stored();
    let statement = sign(&good());
    for lease in [2, 1] {
        ask(&mut b, under(&statement, lease, lease, vec![key_ref(1, 1)]));
    }
    let id = StatementHash(statement.hash());
    let row = b.kv.get(&rows::mandate_key(&id)).unwrap().unwrap();
    let page = include_str!("../../../../docs/format.md");
    let row = hex::encode(row);
    assert!(page.contains(&row), "docs/format.md lacks {row}");
}

#[test]
fn the_account_pays_for_what_its_mandates_fetch() {
    let mut b = stored();
    let mut left = ACCOUNT_BUDGET.capacity;
    let mut n = 0u32;
    while left > 0 {
        n += 1;
        let mut nonce = [0; 16];
        nonce[..4].copy_from_slice(&n.to_be_bytes());
        let statement = sign(&Deletion {
            nonce: Nonce(nonce),
            ..good()
        });
        let mut c = under(&statement, 0, 0, vec![key_ref(1, 1)]);
        let eight = (0..8u8).map(|lease| {
            c.request.0[..4].copy_from_slice(&n.to_be_bytes());
            c.request.0[4] = lease;
            c.lease_key = [lease; 32];
            Command::MandateRelease(c.clone())
        });
        let eight = eight.collect();
        for effect in b.effects(eight) {
            assert_eq!(results(&effect), [Ok(1)], "{n}");
            left -= 1;
        }
    }
    let retry_ms = HOUR.div_ceil(ACCOUNT_BUDGET.per_hour);
    let dry = Err(Refusal::AccountBudget { retry_ms });
    let last = under(&sign(&good()), 200, 200, vec![key_ref(1, 1)]);
    assert_eq!(ask(&mut b, last.clone()), [dry]);
    // The same budget as its reads': neither is a way around the other.
    assert_eq!(results(&b.effect(release(201, vec![key_ref(1, 1)]))), [dry]);
    b.clock += retry_ms;
    assert_eq!(
        ask(&mut b, last),
        [Ok(1)],
        "what was refused was not counted"
    );
}

#[test]
fn the_log_names_people_by_commitments_and_the_mandate_by_its_hash() {
    let mut b = stored();
    let statement = sign(&good());
    // Another number than the chat's.
    ask(&mut b, under(&statement, 1, 0x1e, vec![key_ref(1, 1)]));
    let entry = b.last_entry();
    assert_eq!(entry.authority.unwrap().0, statement.hash());
    assert_eq!(entry.reason.as_deref(), Some("deletion"));
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
    let account = (OpeningKind::Account, person().0);
    let device = (OpeningKind::Device, phone().0);
    assert_eq!(kinds, [account, device, (OpeningKind::Chat, chat(1).0)]);
}
