//! Planted histories for what opens without a reader's grant: orders and deletions.

use super::super::facts::{Fact, Mandated, Said, Subject};
use super::{DEVICE, KEY, MEMBER, PHONE, WHO, and, id, stands};
use quorate_engine::authz::chain::STATEMENT_AHEAD_MS_MAX;
use quorate_engine::authz::deletion::MANDATE_LIFE_MS;
use quorate_engine::authz::orders::COOL_OFF_MS_MIN;
use quorate_engine::types::{AccountId, ChatId, OfficerId, OrderId};
use std::collections::BTreeSet;

const COURT: OrderId = OrderId([8; 32]);
fn officer(n: u8) -> OfficerId {
    OfficerId([n; 32])
}
fn ordered(entry: u64, time_ms: u64, said: Said) -> Fact {
    Fact::Ordered {
        custodian: id("ch"),
        entry,
        time_ms,
        order: COURT,
        said,
    }
}
fn stored(epoch: u32, stored_ms: u64) -> Fact {
    Fact::Held {
        custodian: id("ch"),
        key: KEY,
        commitment: [1; 32],
        epoch,
        stored_ms,
    }
}
fn disclosed(time_ms: u64, epoch: u32) -> Fact {
    Fact::Disclosed {
        custodian: id("ch"),
        key: KEY,
        epoch,
        entry: 9,
        time_ms,
        order: COURT,
    }
}
/// When the second approval has cooled off.
const COOL_MS: u64 = 30 + COOL_OFF_MS_MIN;

/// Officers 1, 2 and 3, an order of the first for what ran from 40 until 60, approved by the
/// others, and two epochs: 5 ran from 50 until 70, 6 runs. `said` is in entry 5.
fn court(said: Said) -> Vec<Fact> {
    let by = officer(1);
    let (chats, from_ms, to_ms) = (BTreeSet::from([KEY.chat]), 40, 60);
    let expires_ms = COOL_MS + 10;
    vec![
        Fact::Officers {
            custodian: id("ch"),
            officers: [officer(1), officer(2), officer(3)].into(),
        },
        ordered(2, 10, Said::For(officer(2))),
        ordered(
            3,
            10,
            Said::Asked {
                by,
                chats,
                from_ms,
                to_ms,
                expires_ms,
            },
        ),
        ordered(4, 20, Said::For(officer(2))),
        ordered(5, 30, said),
        stored(5, 50),
        stored(6, 70),
    ]
}
/// One that is fine, and then `last`.
fn in_court(last: Vec<Fact>) -> Vec<Fact> {
    let mut all = court(Said::For(officer(3)));
    all.push(disclosed(COOL_MS, 5));
    and(all, last)
}

/// Names epoch 5, was made at 10.
fn mandated() -> Mandated {
    Mandated {
        hash: [7; 32],
        account: WHO,
        device: PHONE,
        signed: true,
        at_ms: 10,
        chat: KEY.chat,
        epochs: [5].into(),
        of_anyone: false,
    }
}
fn rewritten_at(entry: u64, time_ms: u64, lease_key: u8, epoch: u32, m: Option<Mandated>) -> Fact {
    Fact::Rewritten {
        custodian: id("ch"),
        key: KEY,
        epoch,
        entry,
        time_ms,
        lease_key: [lease_key; 32],
        mandated: m,
    }
}
fn rewritten(m: Mandated) -> Fact {
    rewritten_at(9, 15, 1, 5, Some(m))
}
/// Everything a deletion needs, by entries 1 and 2, and one that is fine.
fn deleted(last: Vec<Fact>) -> Vec<Fact> {
    let mut all = vec![
        stands(1, DEVICE, Some(u64::MAX)),
        stands(2, MEMBER, Some(5)),
        rewritten(mandated()),
    ];
    all.extend(last);
    all
}

/// Invariant and a history whose last fact, and no other, it refuses.
pub(super) fn histories() -> Vec<(&'static str, Vec<Fact>)> {
    let order = "NothingWithoutOrder";
    let mandate = "NothingWithoutMandate";
    let short = |said| {
        let mut all = court(said);
        all.push(disclosed(COOL_MS, 5));
        (order, all)
    };
    let seven = (2..=8).map(|n| rewritten_at(9 + u64::from(n), 15, n, 5, Some(mandated())));
    vec![
        (order, vec![disclosed(COOL_MS, 5)]),
        // The submitter, a stranger, the same one again; a refusal, and a withdrawal.
        short(Said::For(officer(1))),
        short(Said::For(officer(4))),
        short(Said::For(officer(2))),
        short(Said::Against(officer(2))),
        (
            order,
            in_court(vec![
                ordered(10, 40, Said::TakenBack(officer(1))),
                disclosed(COOL_MS, 5),
                ordered(6, 40, Said::TakenBack(officer(1))),
                disclosed(COOL_MS, 5),
            ]),
        ),
        // Too early, too late; an epoch that is not over, or of another time.
        (order, in_court(vec![disclosed(COOL_MS - 1, 5)])),
        (order, in_court(vec![disclosed(COOL_MS + 10, 5)])),
        (order, in_court(vec![disclosed(COOL_MS, 6)])),
        (order, in_court(vec![stored(7, 90), disclosed(COOL_MS, 6)])),
        // What was cut off counts no more.
        (
            order,
            in_court(vec![
                Fact::Cut {
                    custodian: id("ch"),
                    entries: 5,
                },
                disclosed(COOL_MS, 5),
            ]),
        ),
        (mandate, deleted(vec![rewritten_at(9, 15, 1, 5, None)])),
        (
            mandate,
            deleted(vec![rewritten(Mandated {
                signed: false,
                ..mandated()
            })]),
        ),
        (
            mandate,
            deleted(vec![rewritten_at(
                9,
                10 + MANDATE_LIFE_MS,
                2,
                5,
                Some(mandated()),
            )]),
        ),
        (
            mandate,
            deleted(vec![rewritten(Mandated {
                at_ms: 16 + STATEMENT_AHEAD_MS_MAX,
                ..mandated()
            })]),
        ),
        (
            mandate,
            deleted(vec![rewritten_at(9, 15, 2, 6, Some(mandated()))]),
        ),
        (
            mandate,
            deleted(vec![rewritten(Mandated {
                chat: ChatId([9; 32]),
                ..mandated()
            })]),
        ),
        (
            mandate,
            deleted(vec![stands(8, DEVICE, None), rewritten(mandated())]),
        ),
        (
            mandate,
            deleted(vec![stands(8, MEMBER, Some(6)), rewritten(mandated())]),
        ),
        // Not the one who founded the chat: its first member here did.
        (
            mandate,
            vec![
                stands(0, Subject::Member(KEY.chat, AccountId([9; 32])), Some(0)),
                stands(1, DEVICE, Some(100)),
                stands(2, MEMBER, Some(5)),
                rewritten(mandated()),
                rewritten_at(
                    10,
                    15,
                    2,
                    5,
                    Some(Mandated {
                        of_anyone: true,
                        ..mandated()
                    }),
                ),
            ],
        ),
        // To one lease key twice; to a ninth.
        (
            mandate,
            deleted(vec![
                rewritten_at(10, 15, 2, 5, Some(mandated())),
                rewritten_at(11, 15, 2, 5, Some(mandated())),
            ]),
        ),
        (
            mandate,
            and(
                deleted(seven.collect()),
                vec![rewritten_at(18, 15, 9, 5, Some(mandated()))],
            ),
        ),
    ]
}
