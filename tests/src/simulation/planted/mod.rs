//! For each invariant a history that it must refuse, and refuse only at its end.

mod papers;

use super::facts::{Fact, Shown, Subject};
use super::invariants::all;
use quorate_engine::custody::protocol::KeyRef;
use quorate_engine::types::{AccountId, ChatId, CustodianId, DeviceId, KeyId, RequestId};
use std::collections::BTreeSet;

const KEY: KeyRef = KeyRef {
    chat: ChatId([1; 32]),
    key_id: KeyId([2; 16]),
};

fn id(name: &str) -> CustodianId {
    CustodianId::new(name).unwrap()
}
fn applied(replica: usize, digest: u8) -> Fact {
    Fact::Applied {
        cluster: 0,
        replica,
        index: 1,
        digest: [digest; 32],
    }
}
fn dealt(commitment: u8) -> Fact {
    Fact::Dealt {
        key: KEY,
        leaves: vec![(id("ch"), [commitment; 32])],
    }
}
fn held(commitment: u8) -> Fact {
    Fact::Held {
        custodian: id("ch"),
        key: KEY,
        commitment: [commitment; 32],
        epoch: 5,
        stored_ms: 50,
    }
}
fn opened(margin: Option<usize>, thin: bool) -> Fact {
    let acked = BTreeSet::from([id("ch")]);
    Fact::Opened {
        key: KEY,
        acked,
        margin,
        wanted: 1,
        required: false,
        thin,
    }
}
fn left(recorded: bool) -> Fact {
    left_at(5, recorded)
}
fn left_at(entry: u64, recorded: bool) -> Fact {
    Fact::Left {
        custodian: id("ch"),
        key: KEY,
        entry,
        recorded,
    }
}
const WHO: AccountId = AccountId([3; 32]);
const PHONE: DeviceId = DeviceId([4; 32]);

/// Under a grant of epoch 5 alone, for one key, good from 10 until 20.
fn shown() -> Shown {
    Shown {
        hash: [5; 32],
        account: WHO,
        device: PHONE,
        signed: true,
        from_ms: 10,
        until_ms: 20,
        range: Some((5, Some(5))),
        ceiling: 1,
    }
}
fn granted_at(custodian: &str, entry: u64, epoch: u32, shown: Option<Shown>) -> Fact {
    Fact::Granted {
        custodian: id(custodian),
        key: KEY,
        epoch,
        entry,
        time_ms: 15,
        request: RequestId([entry as u8; 16]),
        shown,
    }
}
/// Another such grant.
fn other() -> Shown {
    let hash = [6; 32];
    Shown { hash, ..shown() }
}
fn granted(shown: Shown) -> Fact {
    granted_at("ch", 9, 5, Some(shown))
}
fn stands(entry: u64, subject: Subject, value: Option<u64>) -> Fact {
    Fact::Stands {
        custodian: id("ch"),
        entry,
        subject,
        value,
    }
}
const DEVICE: Subject = Subject::Device(WHO, PHONE);
const MEMBER: Subject = Subject::Member(KEY.chat, WHO);

/// Everything a release needs, by entries 1 and 2, and one that is fine.
fn known() -> Vec<Fact> {
    vec![
        stands(1, DEVICE, Some(100)),
        stands(2, MEMBER, Some(5)),
        granted(shown()),
    ]
}
fn and(mut before: Vec<Fact>, last: Vec<Fact>) -> Vec<Fact> {
    before.extend(last);
    before
}
fn barred(chat: Option<ChatId>, device: Option<DeviceId>) -> Fact {
    Fact::Barred {
        chat,
        account: WHO,
        device,
        would: vec![[id("ch"), id("is")].into(), [id("br"), id("is")].into()],
    }
}
fn stone() -> Fact {
    Fact::Stone {
        custodian: id("ch"),
        key_id: KEY.key_id,
        entry: 4,
    }
}
fn confirmed(chat: Option<ChatId>, key_id: Option<KeyId>) -> Fact {
    Fact::Confirmed {
        custodian: id("ch"),
        chat,
        key_id,
        entry: 4,
    }
}
fn record(id: u64, revision: u32) -> Fact {
    Fact::Record {
        chat: KEY.chat,
        id,
        revision,
    }
}
fn remembered(id: u64) -> Fact {
    Fact::Remembered {
        chat: KEY.chat,
        idempotency: "a".into(),
        id,
        revision: 0,
    }
}
fn acknowledged(id: u64) -> Fact {
    Fact::Acknowledged {
        chat: KEY.chat,
        idempotency: "a".into(),
        id,
        revision: 0,
    }
}
fn meant(content: u8) -> Fact {
    Fact::Meant {
        chat: KEY.chat,
        idempotency: "a".into(),
        content: vec![content],
    }
}
fn read(content: u8) -> Fact {
    Fact::Read {
        chat: KEY.chat,
        key_id: KEY.key_id,
        id: 0,
        revision: 0,
        content: vec![content],
    }
}
fn leased(age_ms: u64, usable: bool) -> Fact {
    Fact::Leased {
        key_id: KEY.key_id,
        age_ms,
        usable,
    }
}
fn collected(blamed: &str) -> Fact {
    Fact::Collected {
        blamed: BTreeSet::from([id(blamed)]),
        lied: BTreeSet::from([id("is")]),
    }
}
fn grew(after: u64) -> Fact {
    Fact::LogGrew {
        custodian: id("ch"),
        commands: 2,
        before: 3,
        after,
    }
}
fn root(naive: u8) -> Fact {
    Fact::Root {
        custodian: id("ch"),
        stated: [1; 32],
        naive: [naive; 32],
    }
}

/// Invariant and a history whose last fact, and no other, it refuses.
fn histories() -> Vec<(&'static str, Vec<Fact>)> {
    let abandoned = || Fact::Abandoned { key_id: KEY.key_id };
    vec![
        (
            "ReplicasAgree",
            vec![applied(0, 1), applied(1, 1), applied(2, 2)],
        ),
        ("OneEntryPerCommand", vec![grew(5), grew(4)]),
        ("RootsAreTrue", vec![root(1), root(2)]),
        ("IntentBeforeSend", vec![Fact::Sent { key: KEY }]),
        ("OneDealingPerKey", vec![dealt(1), held(1), held(2)]),
        ("OneDealingPerKey", vec![dealt(1), dealt(1), dealt(2)]),
        ("OpensWithEnough", vec![held(1), opened(None, true)]),
        (
            "OpensWithEnough",
            vec![held(1), opened(Some(0), true), opened(Some(0), false)],
        ),
        ("OpensWithEnough", vec![opened(Some(1), false)]),
        (
            "AbandonedStaysShut",
            vec![abandoned(), opened(Some(1), false)],
        ),
        ("AbandonedStaysShut", vec![abandoned(), read(1)]),
        ("RecordedFirst", vec![left(true), left(false)]),
        (
            "NothingWithoutGrant",
            vec![stands(1, DEVICE, Some(100)), granted(shown())],
        ),
        (
            "NothingWithoutGrant",
            vec![stands(2, MEMBER, Some(5)), granted(shown())],
        ),
        // The statements count from their own entry on, and from there on only.
        (
            "NothingWithoutGrant",
            and(
                known(),
                vec![
                    stands(10, MEMBER, None),
                    granted(shown()),
                    granted_at("ch", 11, 5, Some(other())),
                ],
            ),
        ),
        (
            "NothingWithoutGrant",
            and(known(), vec![stands(8, DEVICE, None), granted(shown())]),
        ),
        (
            "NothingWithoutGrant",
            and(known(), vec![stands(3, DEVICE, Some(15)), granted(shown())]),
        ),
        (
            "NothingWithoutGrant",
            and(known(), vec![stands(3, MEMBER, Some(6)), granted(shown())]),
        ),
        (
            "NothingWithoutGrant",
            and(known(), vec![granted_at("ch", 9, 5, None)]),
        ),
        (
            "NothingWithoutGrant",
            and(
                known(),
                vec![granted(Shown {
                    signed: false,
                    ..shown()
                })],
            ),
        ),
        (
            "NothingWithoutGrant",
            and(
                known(),
                vec![granted(Shown {
                    from_ms: 16,
                    ..shown()
                })],
            ),
        ),
        (
            "NothingWithoutGrant",
            and(
                known(),
                vec![granted(Shown {
                    until_ms: 15,
                    ..shown()
                })],
            ),
        ),
        (
            "NothingWithoutGrant",
            and(
                known(),
                vec![granted(Shown {
                    range: None,
                    ..shown()
                })],
            ),
        ),
        (
            "NothingWithoutGrant",
            and(known(), vec![granted_at("ch", 9, 6, Some(shown()))]),
        ),
        // Repeated it counts once; asked for anew it counts again, unless that was cut off.
        (
            "NothingWithoutGrant",
            and(
                known(),
                vec![
                    granted(shown()),
                    Fact::Cut {
                        custodian: id("ch"),
                        entries: 9,
                    },
                    granted_at("ch", 10, 5, Some(shown())),
                    granted_at("ch", 11, 5, Some(shown())),
                ],
            ),
        ),
        (
            "NothingWithoutGrant",
            and(
                known(),
                vec![
                    Fact::Cut {
                        custodian: id("ch"),
                        entries: 2,
                    },
                    granted(shown()),
                ],
            ),
        ),
        (
            "RevokedReadsNothing",
            vec![
                granted_at("ch", 1, 5, Some(shown())),
                barred(Some(KEY.chat), None),
                granted_at("br", 2, 5, Some(shown())),
                granted_at("ch", 3, 5, Some(shown())),
                granted_at("is", 4, 5, Some(shown())),
            ],
        ),
        (
            "RevokedReadsNothing",
            vec![
                barred(Some(KEY.chat), None),
                barred(None, Some(DeviceId([9; 32]))),
                Fact::Welcomed {
                    chat: KEY.chat,
                    account: WHO,
                },
                granted_at("ch", 3, 5, Some(shown())),
                granted_at("is", 4, 5, Some(shown())),
                barred(None, Some(PHONE)),
                granted_at("ch", 5, 5, Some(shown())),
                granted_at("is", 6, 5, Some(shown())),
            ],
        ),
        (
            "TombstonesStand",
            vec![left(true), stone(), left_at(3, true), left(true)],
        ),
        ("TombstonesStand", vec![held(1), stone(), held(1)]),
        (
            "TombstonesStand",
            vec![
                stone(),
                Fact::StoneGone {
                    custodian: id("ch"),
                    key_id: KEY.key_id,
                },
            ],
        ),
        // Before the confirmation it may leave; a release after a thaw may, too.
        (
            "ConfirmedIsFinal",
            vec![
                left_at(3, true),
                confirmed(None, Some(KEY.key_id)),
                left_at(5, true),
                left_at(3, true),
            ],
        ),
        (
            "ConfirmedIsFinal",
            vec![
                confirmed(Some(ChatId([9; 32])), None),
                left_at(3, true),
                confirmed(Some(KEY.chat), None),
                left_at(3, true),
            ],
        ),
        (
            "ConfirmedIsFinal",
            vec![confirmed(None, None), left_at(3, true)],
        ),
        (
            "IdsHaveNoGaps",
            vec![record(0, 0), record(1, 0), record(3, 0)],
        ),
        (
            "IdsHaveNoGaps",
            vec![record(0, 0), record(0, 1), record(0, 3)],
        ),
        (
            "AtMostOnce",
            vec![remembered(1), remembered(1), remembered(2)],
        ),
        (
            "NothingAcknowledgedIsLost",
            vec![remembered(1), acknowledged(1), acknowledged(2)],
        ),
        ("NothingAcknowledgedIsLost", vec![acknowledged(1)]),
        (
            "NothingAcknowledgedIsLost",
            vec![record(0, 0), record(0, 1), record(0, 0)],
        ),
        (
            "NothingAcknowledgedIsLost",
            vec![
                record(0, 0),
                Fact::RecordGone {
                    chat: KEY.chat,
                    id: 0,
                },
            ],
        ),
        (
            "ReadsAreTrue",
            vec![meant(1), remembered(0), read(1), read(2)],
        ),
        ("ReadsAreTrue", vec![meant(1), read(1)]),
        ("LeasesEnd", vec![leased(1, true), leased(1, false)]),
        (
            "LeasesEnd",
            vec![leased(599_999, true), leased(600_000, true)],
        ),
        ("LiarsAreBlamed", vec![collected("is"), collected("ch")]),
        (
            "OnlySealed",
            vec![Fact::Secret {
                cluster: 0,
                what: "a key".into(),
            }],
        ),
        (
            "ComesToRest",
            vec![Fact::Unfinished {
                what: "an intent".into(),
            }],
        ),
    ]
}

#[test]
fn every_invariant_refuses_what_was_planted_for_it() {
    let mut tried = BTreeSet::new();
    for (name, history) in histories().into_iter().chain(papers::histories()) {
        let mut judge = all().into_iter().find(|j| j.name() == name).unwrap();
        let (last, before) = history.split_last().unwrap();
        for fact in before {
            assert_eq!(judge.see(fact), Ok(()), "{name}: {fact:?}");
        }
        assert!(judge.see(last).is_err(), "{name} let {last:?} pass");
        tried.insert(name);
    }
    let names: BTreeSet<&str> = all().iter().map(|j| j.name()).collect();
    assert_eq!(tried, names, "each invariant has a planted history");
}

#[test]
fn what_was_set_back_is_excused_where_that_is_said() {
    let back = Fact::RolledBack {
        custodian: id("ch"),
    };
    for (name, history) in [
        (
            "TombstonesStand",
            vec![stone(), back.clone(), left(true), held(1)],
        ),
        (
            "ConfirmedIsFinal",
            vec![confirmed(None, None), back.clone(), left_at(3, true)],
        ),
        (
            "RevokedReadsNothing",
            vec![
                barred(None, Some(PHONE)),
                back.clone(),
                granted_at("ch", 3, 5, Some(shown())),
                granted_at("is", 4, 5, Some(shown())),
            ],
        ),
        ("OpensWithEnough", vec![back, opened(Some(1), false)]),
    ] {
        let mut judge = all().into_iter().find(|j| j.name() == name).unwrap();
        assert!(history.iter().all(|fact| judge.see(fact).is_ok()), "{name}");
    }
}
