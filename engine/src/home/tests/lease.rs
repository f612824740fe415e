//! The lease table.

use super::fixtures::*;
use crate::custody::protocol::{Feed, FreezeScope, KeyRef};
use crate::home::lease::*;
use crate::home::{FEED_GRACE_MS, LEASE_MS_MAX};
use crate::types::{ChatId, KeyId, Mono};
use proptest::prelude::*;
use std::sync::Arc;

const NONE: [u8; 0] = [];

fn key(n: u8) -> KeyRef {
    KeyRef {
        chat: ChatId([n % 4; 32]),
        key_id: KeyId([n; 16]),
    }
}

fn grantee(n: u8, asked: Mono, releases: &[(&str, u64)]) -> Grantee<u8> {
    Grantee {
        key: key(n),
        epoch: 0,
        policy: Arc::new(policy()),
        releases: releases.iter().map(|(c, at)| (id(c), *at)).collect(),
        asked,
        holder: n,
    }
}

fn feed(position: u64, freezes: &[(FreezeScope, u64)]) -> Feed {
    Feed {
        position,
        freezes: freezes.to_vec(),
    }
}

fn table(max: usize) -> LeaseTable<u8> {
    let mut table = LeaseTable::new(LeaseLimits {
        max,
        age_ms_max: LEASE_MS_MAX,
    });
    all_heard(&mut table, 0, 1);
    table
}

fn all_heard(table: &mut LeaseTable<u8>, now: Mono, position: u64) {
    for c in policy().custodians() {
        assert_eq!(table.on_feed(now, &c, &feed(position, &[])), NONE);
    }
}

#[test]
fn it_is_bounded_in_number_least_recently_used_first() {
    let mut t = table(2);
    assert_eq!(t.insert(1, grantee(1, 1, &[])).unwrap(), NONE);
    assert_eq!(t.insert(1, grantee(2, 1, &[])).unwrap(), NONE);
    assert_eq!(t.get(2, &key(1)).unwrap(), (&1, 0));
    assert_eq!(t.insert(3, grantee(3, 3, &[])).unwrap(), vec![2]);
    assert!(t.get(3, &key(2)).is_none());
    assert_eq!(t.len(), 2);
    // The same key again takes its own place, not another's.
    assert_eq!(t.insert(4, grantee(3, 4, &[])).unwrap(), vec![3]);
    assert_eq!(t.len(), 2);
}

#[test]
fn it_is_bounded_in_age_from_the_moment_of_asking() {
    let mut t = table(9);
    t.insert(500, grantee(1, 100, &[])).unwrap();
    for now in (0..LEASE_MS_MAX).step_by(20_000) {
        all_heard(&mut t, now, 1);
    }
    assert!(t.get(99 + LEASE_MS_MAX, &key(1)).is_some());
    assert!(t.get(100 + LEASE_MS_MAX, &key(1)).is_none());
    assert_eq!(t.sweep(100 + LEASE_MS_MAX), vec![1]);
    let late = t.insert(LEASE_MS_MAX, grantee(2, 0, &[]));
    assert_eq!(late, Err((Refused::TooOld, 2)));
}

#[test]
fn a_key_is_leased_for_its_own_chat_only() {
    let mut t = table(9);
    t.insert(1, grantee(1, 1, &[])).unwrap();
    let mut other = key(1);
    other.chat = ChatId([9; 32]);
    assert!(t.get(1, &other).is_none());
}

#[test]
fn freezes_that_block_the_policy_drop_leases_of_their_scope() {
    let mut t = table(9);
    t.insert(1, grantee(1, 1, &[])).unwrap();
    t.insert(1, grantee(2, 1, &[])).unwrap();
    let chat = FreezeScope::Chat(key(1).chat);
    // Two of five branches frozen for chat 1, the third finishes it.
    assert_eq!(t.on_feed(2, &id("ch"), &feed(5, &[(chat, 5)])), NONE);
    assert_eq!(
        t.on_feed(2, &id("is"), &feed(5, &[(FreezeScope::All, 5)])),
        NONE
    );
    assert_eq!(t.on_feed(2, &id("sg"), &feed(5, &[(chat, 5)])), vec![1]);
    assert!(t.get(3, &key(2)).is_some());
    assert_eq!(t.insert(3, grantee(1, 3, &[])), Err((Refused::Dark, 1)));
    // One half of the bloc is not the bloc.
    assert_eq!(
        t.on_feed(4, &id("de"), &feed(6, &[(FreezeScope::All, 6)])),
        NONE
    );
    assert_eq!(
        t.on_feed(4, &id("br"), &feed(6, &[(FreezeScope::All, 6)])),
        NONE
    );
    assert_eq!(
        t.on_feed(4, &id("sg"), &feed(7, &[(FreezeScope::All, 7)])),
        vec![2]
    );
}

#[test]
fn silence_beyond_the_grace_counts_as_unknown() {
    let mut t = table(9);
    t.insert(1, grantee(1, 1, &[])).unwrap();
    for name in ["ch", "is"] {
        t.on_feed(10_000, &id(name), &feed(1, &[]));
    }
    assert_eq!(t.next_timeout(1), Some(FEED_GRACE_MS + 1));
    assert_eq!(t.sweep(FEED_GRACE_MS), NONE);
    assert_eq!(t.sweep(FEED_GRACE_MS + 1), vec![1]);
}

#[test]
fn a_release_before_a_freeze_already_seen_is_never_leased() {
    let mut t = table(9);
    t.on_feed(
        2,
        &id("ch"),
        &feed(8, &[(FreezeScope::Chat(key(1).chat), 6)]),
    );
    let early = t.insert(3, grantee(1, 3, &[("is", 2), ("ch", 5)]));
    let custodian = id("ch");
    assert_eq!(
        early,
        Err((
            Refused::BeforeFreeze {
                custodian: custodian.clone()
            },
            1
        ))
    );
    // Also after the thaw; a release after it is leased.
    t.on_feed(4, &id("ch"), &feed(9, &[]));
    let early = t.insert(5, grantee(1, 5, &[("is", 2), ("ch", 5)]));
    assert_eq!(early, Err((Refused::BeforeFreeze { custodian }, 1)));
    assert!(
        t.insert(5, grantee(2, 5, &[("ch", 5)])).is_ok(),
        "another chat"
    );
    assert!(t.insert(5, grantee(1, 5, &[("is", 2), ("ch", 9)])).is_ok());
}

#[test]
fn a_lagging_feed_does_not_undo_a_freeze() {
    let mut t = table(9);
    for name in ["ch", "is", "sg"] {
        t.on_feed(2, &id(name), &feed(8, &[(FreezeScope::All, 8)]));
    }
    t.on_feed(3, &id("ch"), &feed(7, &[]));
    assert!(t.view().frozen(&id("ch"), &key(1).chat));
    assert_eq!(t.insert(3, grantee(1, 3, &[])), Err((Refused::Dark, 1)));
}

proptest! {
    /// Against a list that is searched from end to end.
    #[test]
    fn it_behaves_like_a_plain_list(
        ops in prop::collection::vec((0u8..4, 0u8..12, 0u64..200_000), 1..120),
    ) {
        let max = 5;
        let mut t = table(max);
        let mut model: Vec<(u8, Mono, u64)> = Vec::new(); // key, since, last use
        let (mut now, mut uses) = (0, 0);
        for (op, n, wait) in ops {
            now += wait;
            all_heard(&mut t, now, 1);
            uses += 1;
            match op {
                0 | 1 => {
                    t.insert(now, grantee(n, now, &[])).unwrap();
                    model.retain(|m| m.0 != n);
                    if model.len() == max {
                        let lru = *model.iter().min_by_key(|m| m.2).unwrap();
                        model.retain(|m| m.0 != lru.0);
                    }
                    model.push((n, now, uses));
                }
                2 => {
                    let there = model.iter_mut().find(|m| m.0 == n && now - m.1 < LEASE_MS_MAX);
                    prop_assert_eq!(t.get(now, &key(n)).is_some(), there.is_some());
                    if let Some(m) = there { m.2 = uses; }
                }
                _ => {
                    let mut gone = t.sweep(now);
                    gone.sort_unstable();
                    let mut old: Vec<u8> = model.iter().filter(|m| now - m.1 >= LEASE_MS_MAX).map(|m| m.0).collect();
                    old.sort_unstable();
                    prop_assert_eq!(gone, old);
                    model.retain(|m| now - m.1 < LEASE_MS_MAX);
                }
            }
            prop_assert_eq!(t.len(), model.len());
            prop_assert!(t.len() <= max);
        }
    }
}
