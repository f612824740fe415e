//! Orders that name accounts: which chats they lead to, that these are fixed when
//! the order is submitted, and that there is a limit to them.

use super::super::memberships::{self, chats_of};
use super::chains::{World, of_chat};
use super::officers::{DAY, hand_in, order_release, refused, say};
use super::*;
use crate::audit::OpeningKind;
use crate::authz::chain::Source;
use crate::authz::envelope::Envelope;
use crate::authz::membership::ChatChange;
use crate::authz::officers::testkit as kit;
use crate::authz::officers::*;
use crate::authz::orders::*;

fn scope(accounts: &[AccountId], from_ms: u64, to_ms: u64) -> OrderScope {
    OrderScope {
        chats: BTreeSet::new(),
        accounts: accounts.iter().copied().collect(),
        from_ms,
        to_ms,
    }
}

fn paper(scope: OrderScope) -> Envelope {
    let order = Order {
        issuer: "a court".into(),
        legal_basis: "file 1".into(),
        document_hash: DocumentHash([1; 32]),
        scope,
        reason: "served".into(),
        submitted_by: OfficerKey(kit::key(3).public()),
        expires_ms: T0 + 30 * DAY,
        recipient: "ab".repeat(32),
    };
    kit::sign(&Statement::Order(order), &[3])
}

fn with_officers(b: &mut Bench) {
    let first = b.effect(hand_in(kit::sign(&kit::bootstrap(3, 2), &[1, 2, 3])));
    assert!(matches!(first, Effect::Decided { .. }), "{first:?}");
}

/// Submits, approves and waits; the order's id.
fn in_force(b: &mut Bench, paper: &Envelope) -> OrderId {
    let taken = b.effect(hand_in(paper.clone()));
    assert!(matches!(taken, Effect::Decided { .. }), "{taken:?}");
    let id = order_id(paper);
    for n in [1, 2] {
        b.effect(say(Subject::Order(id), Verdict::Approve, n));
    }
    b.clock += COOL_OFF_MS_MIN;
    id
}

fn stored(b: &mut Bench, chat: ChatId, k: u8) -> KeyRef {
    let key = |k| StoreItem {
        chat,
        epoch: k,
        ..item(1, k as u8, k as u8)
    };
    b.effect(store(1, vec![key(k.into())]));
    KeyRef {
        chat,
        key_id: super::key(k),
    }
}

/// Every order of coming, going and coming back against every range of dates:
/// in scope is a chat when any moment of the dates lies between the first
/// coming and the last going.
#[test]
fn a_chat_is_in_scope_when_the_dates_touch_the_time_between_first_coming_and_last_going() {
    const END: u64 = 6;
    let who = AccountId([7; 32]);
    let mut seen = [0; 2];
    for moves in 0u32..1 << END {
        // Bit t: whether the account is in the chat from t on.
        let is_in = |t: u64| moves >> t & 1 == 1;
        let mut kv = MemKv::default();
        let (mut first, mut last) = (None, None);
        for t in 0..END {
            let before = t > 0 && is_in(t - 1);
            if is_in(t) != before {
                memberships::moved(&mut kv, (&who, &chat(1)), is_in(t), (t, t)).unwrap();
                first = first.or(Some(t));
                last = (!is_in(t)).then_some(t);
            }
        }
        for from in 0..END {
            for to in from + 1..=END {
                let found = chats_of(&kv, &scope(&[who], from, to)).unwrap().unwrap();
                let touches = |t: u64| {
                    first.is_some_and(|first| t >= first) && last.is_none_or(|last| t <= last)
                };
                let want = (from..to).any(touches);
                assert_eq!(!found.is_empty(), want, "{moves:b} {from}..{to}");
                seen[usize::from(want)] += 1;
            }
        }
    }
    assert!(seen.iter().all(|n| *n > 100), "{seen:?}");
}

#[test]
fn who_dates_a_leave_back_is_in_scope_until_it_was_taken_in() {
    let who = AccountId([7; 32]);
    let mut kv = MemKv::default();
    memberships::moved(&mut kv, (&who, &chat(1)), true, (10, 12)).unwrap();
    memberships::moved(&mut kv, (&who, &chat(1)), false, (20, 90)).unwrap();
    let found = |from, to| {
        let found = chats_of(&kv, &scope(&[who], from, to)).unwrap().unwrap();
        !found.is_empty()
    };
    assert!(found(50, 60) && found(11, 12) && !found(1, 10) && !found(91, 99));
}

#[test]
fn an_account_leads_to_its_chats_of_the_dates_and_to_no_other() {
    let mut w = World::new();
    let (hers, his) = (w.accounts[0], w.accounts[1]);
    let shared = w.chat();
    w.b.clock += DAY;
    let add = w.add(shared);
    w.b.effect(of_chat(add, Source::Client));
    w.b.clock += DAY;
    let gone = w.next(shared, ChatChange::Remove { account: his });
    w.b.effect(of_chat(gone, Source::Client));
    let b = &mut w.b;
    with_officers(b);
    let keys = [1, 2].map(|k| stored(b, shared, k));
    let other = stored(b, chat(9), 9);
    stored(b, chat(9), 10);
    let (from, to) = (T0 + DAY, T0 + 4 * DAY);

    // Before he came, after he left: nowhere.
    for (from, to) in [(T0, T0 + DAY), (T0 + 2 * DAY + 1, T0 + 9 * DAY)] {
        let found = chats_of(&b.kv, &scope(&[his], from, to)).unwrap();
        assert_eq!(found, Ok(BTreeSet::new()), "{from} {to}");
    }
    let paper = paper(scope(&[his], from, to));
    let id = in_force(b, &paper);
    let Statement::Order(order) = Statement::read(&paper).unwrap() else {
        unreachable!()
    };
    let shown = order_scope(&b.kv, &id, &order).unwrap();
    let shown: Vec<_> = shown
        .iter()
        .map(|c| (c.chat, c.named, c.epochs.len()))
        .collect();
    assert_eq!(shown, [(shared, false, 2)], "all that would open is shown");
    let told = order_told(&b.kv, &id, COOL_OFF_MS_MIN, b.clock).unwrap();
    let told = told.unwrap();
    assert_eq!((told.chats, told.devices.len()), ([shared].into(), 1));
    let early = order_told(&b.kv, &id, COOL_OFF_MS_MIN, b.clock - 1).unwrap();
    assert_eq!(early, None, "not before shares go out");
    let asked = vec![keys[0], keys[1], other];
    let closed = b.effect(order_release(1, id, asked));
    let no = Err(Refusal::NotAuthorised);
    assert_eq!(results(&closed), [Ok(1), no, no]);

    // A chat that an account comes into later is not the order's: nobody saw it.
    let both = super::order(&w.b.kv, &id).unwrap().unwrap();
    assert_eq!(both.order().unwrap().scope.accounts, [his].into());
    assert!(!order_chats(&w.b.kv, &id).unwrap().contains(&chat(9)));
    memberships::moved(&mut w.b.kv, (&his, &chat(9)), true, (from, from)).unwrap();
    let asked = w.b.effect(order_release(2, id, vec![other]));
    assert_eq!(results(&asked), [no]);

    // The entry commits to the account and to every chat that it led to.
    let size = Log::load(&w.b.kv).unwrap().size();
    let entry = (0..size)
        .map(|i| (i, audit::openings(&w.b.kv, i).unwrap()))
        .find(|(i, _)| {
            let bytes = audit::entry_bytes(&w.b.kv, *i).unwrap().unwrap();
            let entry: Entry = serde_json::from_slice(&bytes).unwrap();
            entry.order == Some(id)
        });
    let found: Vec<_> = entry
        .unwrap()
        .1
        .iter()
        .map(|o| (o.kind, o.value.0))
        .collect();
    let want = [(OpeningKind::Account, his.0), (OpeningKind::Chat, shared.0)];
    assert_eq!(found, want);
    assert_ne!(hers, his);
}

#[test]
fn accounts_of_too_many_chats_are_refused_and_named() {
    let mut w = World::new();
    with_officers(&mut w.b);
    let who = AccountId([7; 32]);
    let other = |n: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        ChatId(id)
    };
    let join = |w: &mut World, range: std::ops::Range<usize>, at| {
        for n in range {
            memberships::moved(&mut w.b.kv, (&who, &other(n)), true, (at, at)).unwrap();
            memberships::moved(&mut w.b.kv, (&who, &other(n)), false, (at + 1, at + 1)).unwrap();
        }
    };
    join(&mut w, 0..ORDER_CHATS_MAX, T0);
    let most = paper(scope(&[who], T0, T0 + 2));
    assert!(matches!(
        w.b.effect(hand_in(most.clone())),
        Effect::Decided { .. }
    ));
    assert_eq!(
        order_chats(&w.b.kv, &order_id(&most)).unwrap().len(),
        ORDER_CHATS_MAX
    );
    join(&mut w, ORDER_CHATS_MAX..ORDER_CHATS_MAX + 1, T0);
    let over = paper(scope(&[who], T0, T0 + 3));
    let why = refused(&w.b.effect(hand_in(over.clone())));
    assert!(
        why.contains("more than 256 chats") && why.contains("split it by dates"),
        "{why}"
    );
    assert!(order_chats(&w.b.kv, &order_id(&over)).unwrap().is_empty());
    // Of other dates it is none of them; but what has to be looked at has a limit too.
    let elsewhere = paper(scope(&[who], T0 + DAY, T0 + 2 * DAY));
    assert!(matches!(
        w.b.effect(hand_in(elsewhere)),
        Effect::Decided { .. }
    ));
    join(&mut w, 0..MEMBERSHIPS_READ_MAX + 1, T0);
    let why = refused(&w.b.effect(hand_in(paper(scope(&[who], T0 + DAY, T0 + 3 * DAY)))));
    assert!(why.contains("more than 16384 chats"), "{why}");
}

/// State that an earlier build left behind: statements, and no index.
#[test]
fn statements_from_before_there_was_an_index_are_gathered_and_give_the_same() {
    let mut w = World::new();
    let his = w.accounts[1];
    let shared = w.chat();
    w.b.clock += HOUR;
    let add = w.add(shared);
    w.b.effect(of_chat(add, Source::Client));
    w.b.clock += HOUR;
    let gone = w.next(shared, ChatChange::Remove { account: his });
    w.b.effect(of_chat(gone, Source::Client));
    let index = |kv: &MemKv| -> Vec<_> {
        let rows = kv.0.iter().filter(|(k, _)| matches!(k[0], 0x3a | 0x3c));
        rows.map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let whole = index(&w.b.kv);
    assert_eq!(
        whole.len(),
        3,
        "two memberships, and that nothing is missing"
    );
    w.b.kv.0.retain(|k, _| !matches!(k[0], 0x3a | 0x3c));
    with_officers(&mut w.b);
    let id = in_force(&mut w.b, &paper(scope(&[his], T0, T0 + DAY)));
    assert_eq!(order_chats(&w.b.kv, &id).unwrap(), [shared].into());
    assert_eq!(index(&w.b.kv), whole);
}

/// Rows as they lie on disks.
#[test]
fn a_membership_keeps_its_bytes() {
    let who = AccountId([7; 32]);
    let mut kv = MemKv::default();
    memberships::moved(&mut kv, (&who, &chat(1)), true, (1_000, 1_000)).unwrap();
    memberships::moved(&mut kv, (&who, &chat(2)), true, (1_000, 1_000)).unwrap();
    memberships::moved(&mut kv, (&who, &chat(1)), false, (2_000, 2_000)).unwrap();
    let row = |c: u8| {
        let key = [&[0x3a], who.0.as_slice(), &chat(c).0].concat();
        hex::encode(&kv.0[&key])
    };
    assert_eq!(row(1), "01fbe80301fbd007");
    assert_eq!(row(2), "01fbe80300");
}
