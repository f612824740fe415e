//! What must hold after every step, one judge an invariant.
//!
//! A judge sees the facts in order, keeps what it needs of them and refuses the
//! first one that cannot be. Each has a planted history that it must refuse
//! (`planted.rs`): a judge that never refuses anything proves nothing.
//! Those marked *no rollback* let a custodian be once its disks were set back:
//! nothing detects that yet, and it may forget shares, tombstones and freezes.

use super::facts::{Fact, Said, Subject};
use quorate_engine::authz::chain::STATEMENT_AHEAD_MS_MAX;
use quorate_engine::authz::deletion::{MANDATE_LIFE_MS, MANDATE_RELEASES_MAX};
use quorate_engine::authz::orders::{COOL_OFF_MS_MIN, EPOCH_RUN_MS_MAX};
use quorate_engine::types::{
    AccountId, ChatId, CustodianId, DeviceId, EpochNo, KeyId, MessageId, OfficerId, OrderId,
    RequestId, Revision, WallMs,
};
use std::collections::{BTreeMap, BTreeSet};

/// A judge.
pub trait Invariant {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Sees the next fact; `Err` says why it cannot be.
    fn see(&mut self, fact: &Fact) -> Result<(), String>;
}

/// The newest confirmed restriction's log entry, by custodian and chat or key (neither: all).
type Restrictions = BTreeMap<(CustodianId, Option<ChatId>, Option<KeyId>), u64>;

/// All of them, fresh.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<ReplicasAgree>::default(),
        Box::<OneEntryPerCommand>::default(),
        Box::<RootsAreTrue>::default(),
        Box::<IntentBeforeSend>::default(),
        Box::<OneDealingPerKey>::default(),
        Box::<OpensWithEnough>::default(),
        Box::<AbandonedStaysShut>::default(),
        Box::<RecordedFirst>::default(),
        Box::<NothingWithoutGrant>::default(),
        Box::<NothingWithoutOrder>::default(),
        Box::<NothingWithoutMandate>::default(),
        Box::<RevokedReadsNothing>::default(),
        Box::<TombstonesStand>::default(),
        Box::<ConfirmedIsFinal>::default(),
        Box::<IdsHaveNoGaps>::default(),
        Box::<AtMostOnce>::default(),
        Box::<NothingAcknowledgedIsLost>::default(),
        Box::<ReadsAreTrue>::default(),
        Box::<LeasesEnd>::default(),
        Box::<LiarsAreBlamed>::default(),
        Box::<OnlySealed>::default(),
        Box::<ComesToRest>::default(),
    ]
}

macro_rules! judge {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? } |$me:ident, $fact:ident| $body:block) => {
        $(#[$doc])*
        #[derive(Default)]
        pub struct $name { $($field: $ty),* }
        impl Invariant for $name {
            fn name(&self) -> &'static str { stringify!($name) }
            fn see(&mut self, $fact: &Fact) -> Result<(), String> {
                #[allow(unused_variables)]
                let $me = self;
                $body
                Ok(())
            }
        }
    };
}

fn must(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

judge! {
    /// Replicas that applied the same entries have the same state.
    ReplicasAgree { digests: BTreeMap<(usize, usize), [u8; 32]> } |me, fact| {
        if let Fact::Applied { cluster, replica, index, digest } = fact {
            let first = *me.digests.entry((*cluster, *index)).or_insert(*digest);
            must(first == *digest, || format!("replica {replica} of cluster {cluster} differs at entry {index}"))?;
        }
        if let Fact::Did { what, .. } = fact
            && let Some(cluster) = what.strip_prefix("cut log of cluster ")
        {
            let cluster: usize = cluster.parse().map_err(|_| "a fact that does not parse".to_owned())?;
            me.digests.retain(|(c, _), _| *c != cluster);
        }
    }
}
judge! {
    /// Every custodian command leaves exactly one log entry, refused ones too.
    OneEntryPerCommand {} |me, fact| {
        if let Fact::LogGrew { custodian, commands, before, after } = fact {
            must(before + commands == *after, || {
                format!("{commands} commands took the log of {custodian} from {before} to {after} entries")
            })?;
        }
    }
}
judge! {
    /// The Merkle root a custodian states is the root of its entries.
    RootsAreTrue {} |me, fact| {
        if let Fact::Root { custodian, stated, naive } = fact {
            must(stated == naive, || format!("{custodian} states another root than its entries have"))?;
        }
    }
}
judge! {
    /// No share leaves the home before its dealing's intent is committed.
    IntentBeforeSend { dealt: BTreeSet<KeyId> } |me, fact| {
        match fact {
            Fact::Dealt { key, .. } => drop(me.dealt.insert(key.key_id)),
            Fact::Sent { key } => must(me.dealt.contains(&key.key_id), || format!("a share of {} was sent before its intent", key.key_id))?,
            _ => {}
        }
    }
}
judge! {
    /// A key id stands for one dealing everywhere: no custodian holds a share of it
    /// that the committed intent does not commit to.
    OneDealingPerKey { dealt: BTreeMap<KeyId, Vec<(CustodianId, [u8; 32])>> } |me, fact| {
        match fact {
            Fact::Dealt { key, leaves } => {
                let first = me.dealt.entry(key.key_id).or_insert_with(|| leaves.clone());
                must(first == leaves, || format!("two dealings under {}", key.key_id))?;
            }
            Fact::Held { custodian, key, commitment, .. } => {
                let leaf = (custodian.clone(), *commitment);
                let dealt = me.dealt.get(&key.key_id);
                must(dealt.is_some_and(|d| d.contains(&leaf)), || format!("{custodian} holds a share of {} that was never dealt", key.key_id))?;
            }
            _ => {}
        }
    }
}
judge! {
    /// An epoch opens only if those who acknowledged satisfy the policy, with the
    /// margin or marked thin where thin is allowed, and truly hold their shares
    /// (*no rollback*, and liars excepted).
    OpensWithEnough { held: BTreeSet<(CustodianId, KeyId)>, excused: BTreeSet<CustodianId> } |me, fact| {
        match fact {
            Fact::Held { custodian, key, .. } => drop(me.held.insert((custodian.clone(), key.key_id))),
            Fact::Liar { custodian } | Fact::RolledBack { custodian } => drop(me.excused.insert(custodian.clone())),
            Fact::Opened { key, acked, margin, wanted, required, thin } => {
                let Some(margin) = margin else {
                    return Err(format!("{} is open with an unauthorised set", key.key_id));
                };
                must(*thin == (margin < wanted), || format!("{} has margin {margin} of {wanted} and thin is {thin}", key.key_id))?;
                must(!(*thin && *required), || format!("{} is thin and the margin was required", key.key_id))?;
                for custodian in acked {
                    let there = me.held.contains(&(custodian.clone(), key.key_id)) || me.excused.contains(custodian);
                    must(there, || format!("{custodian} counts for {} and never held its share", key.key_id))?;
                }
            }
            _ => {}
        }
    }
}
judge! {
    /// An abandoned dealing never opens, and nothing is read under it.
    AbandonedStaysShut { gone: BTreeSet<KeyId>, open: BTreeSet<KeyId> } |me, fact| {
        match fact {
            Fact::Abandoned { key_id } => {
                must(!me.open.contains(key_id), || format!("{key_id} was open and is abandoned"))?;
                me.gone.insert(*key_id);
            }
            Fact::Opened { key, .. } => {
                must(!me.gone.contains(&key.key_id), || format!("{} was abandoned and is open", key.key_id))?;
                me.open.insert(key.key_id);
            }
            Fact::Read { key_id, .. } => must(!me.gone.contains(key_id), || format!("{key_id} was abandoned and is read"))?,
            _ => {}
        }
    }
}
judge! {
    /// A share leaves a custodian only with its release committed in the log (P4).
    RecordedFirst {} |me, fact| {
        if let Fact::Left { custodian, key, recorded, .. } = fact {
            must(*recorded, || format!("{custodian} let a share of {} go without a committed record", key.key_id))?;
        }
    }
}
/// Log entries of one custodian that say where a subject stands, oldest first.
type Stood = Vec<(u64, Option<u64>)>;

judge! {
    /// No share leaves a custodian unless a grant covers its chat and epoch, signed by a
    /// device that was live, of an account that was a member, before the release in that
    /// custodian's own log; in time, and within the grant's ceiling.
    NothingWithoutGrant {
        stood: BTreeMap<(CustodianId, Subject), Stood>,
        spent: BTreeMap<(CustodianId, [u8; 32]), BTreeSet<(u64, RequestId, KeyId)>>,
    } |me, fact| {
        match fact {
            Fact::Stands { custodian, entry, subject, value } => {
                me.stood.entry((custodian.clone(), *subject)).or_default().push((*entry, *value));
            }
            Fact::Cut { custodian, entries } => {
                for (_, stood) in me.stood.iter_mut().filter(|((c, _), _)| c == custodian) {
                    stood.retain(|(entry, _)| entry < entries);
                }
                for (_, spent) in me.spent.iter_mut().filter(|((c, _), _)| c == custodian) {
                    spent.retain(|(entry, ..)| entry < entries);
                }
            }
            Fact::Granted { custodian, key, epoch, entry, time_ms, request, shown } => {
                let what = format!("{custodian} released {} at entry {entry}", key.key_id);
                let Some(shown) = shown else {
                    return Err(format!("{what} and nobody can read its grant"));
                };
                must(shown.signed, || format!("{what} under a grant that its device did not sign for this home"))?;
                must((shown.from_ms..shown.until_ms).contains(time_ms), || format!("{what} at {time_ms}, when its grant was not good"))?;
                let covered = shown.range.is_some_and(|(from, to)| from <= *epoch && to.is_none_or(|to| *epoch <= to));
                must(covered, || format!("{what}, and epoch {epoch} is not granted"))?;
                let before = |subject| {
                    let stood = me.stood.get(&(custodian.clone(), subject))?;
                    stood.iter().rev().find(|(at, _)| at < entry)?.1
                };
                let live = before(Subject::Device(shown.account, shown.device)).is_some_and(|until| *time_ms < until);
                must(live, || format!("{what} by a device that was not live there"))?;
                let member = before(Subject::Member(key.chat, shown.account)).is_some_and(|from| from <= u64::from(*epoch));
                must(member, || format!("{what} for an account that may not read epoch {epoch} there"))?;
                let spent = me.spent.entry((custodian.clone(), shown.hash)).or_default();
                let again = spent.iter().any(|(_, r, k)| (r, k) == (request, &key.key_id));
                if !again {
                    spent.insert((*entry, *request, key.key_id));
                }
                must(spent.len() <= shown.ceiling as usize, || format!("{what}, which is more than the ceiling of {}", shown.ceiling))?;
            }
            _ => {}
        }
    }
}

/// What a custodian's log says of one order: who said what, when, in which entry.
type Papers = BTreeMap<(CustodianId, OrderId), Vec<(u64, WallMs, Said)>>;
/// Epochs of one chat that a custodian stored: number and time.
type Epochs = BTreeMap<(CustodianId, ChatId), Vec<(EpochNo, WallMs)>>;

/// Whether `papers` (before entry `entry`, at `now_ms`) let shares of `chat` out, and for which dates.
fn approved(
    papers: &[(u64, WallMs, Said)],
    officers: &BTreeSet<OfficerId>,
    (entry, now_ms, chat): (u64, WallMs, &ChatId),
) -> Result<(WallMs, WallMs), &'static str> {
    let mut asked = None;
    let mut approvals: BTreeMap<OfficerId, WallMs> = BTreeMap::new();
    let mut against = BTreeSet::new();
    for (_, time_ms, said) in papers.iter().filter(|(at, ..)| *at < entry) {
        let Some((by, _, from_ms, to_ms, expires_ms)) = asked else {
            if let Said::Asked {
                by,
                chats,
                from_ms,
                to_ms,
                expires_ms,
            } = said
            {
                asked = Some((*by, chats, *from_ms, *to_ms, *expires_ms));
            }
            continue;
        };
        let _ = (from_ms, to_ms, expires_ms);
        match said {
            Said::Asked { .. } => {}
            Said::TakenBack(who) if *who == by => return Err("it was taken back"),
            Said::For(who) if *who != by && officers.contains(who) && !against.contains(who) => {
                approvals.entry(*who).or_insert(*time_ms);
            }
            Said::Against(who) if *who != by && officers.contains(who) => {
                approvals.remove(who);
                against.insert(*who);
            }
            _ => {}
        }
    }
    let Some((_, chats, from_ms, to_ms, expires_ms)) = asked else {
        return Err("nobody asked for it there");
    };
    let mut times: Vec<_> = approvals.into_values().collect();
    times.sort_unstable();
    match times.get(1) {
        None => Err("two of its officers did not approve"),
        Some(at) if now_ms < at + COOL_OFF_MS_MIN => Err("it had not cooled off"),
        Some(_) if now_ms >= expires_ms => Err("it had expired"),
        Some(_) if !chats.contains(chat) => Err("it does not name that chat"),
        Some(_) => Ok((from_ms, to_ms)),
    }
}

judge! {
    /// No share leaves a custodian under an order unless two of its own officers, and not who
    /// asked, approved it before the release in that custodian's own log, it cooled off and had
    /// not expired, and it names the chat and a time of the epoch, which was over.
    NothingWithoutOrder {
        officers: BTreeMap<CustodianId, BTreeSet<OfficerId>>,
        papers: Papers,
        epochs: Epochs,
    } |me, fact| {
        match fact {
            Fact::Officers { custodian, officers } => {
                me.officers.entry(custodian.clone()).or_insert_with(|| officers.clone());
            }
            Fact::Ordered { custodian, entry, time_ms, order, said } => {
                let papers = me.papers.entry((custodian.clone(), *order)).or_default();
                papers.push((*entry, *time_ms, said.clone()));
            }
            Fact::Held { custodian, key, epoch, stored_ms, .. } => {
                let epochs = me.epochs.entry((custodian.clone(), key.chat)).or_default();
                epochs.push((*epoch, *stored_ms));
            }
            Fact::Cut { custodian, entries } => {
                for (_, papers) in me.papers.iter_mut().filter(|((c, _), _)| c == custodian) {
                    papers.retain(|(entry, ..)| entry < entries);
                }
            }
            Fact::Disclosed { custodian, key, epoch, entry, time_ms, order } => {
                let what = format!("{custodian} released {} at entry {entry} under order {order}", key.key_id);
                let none = BTreeSet::new();
                let officers = me.officers.get(custodian).unwrap_or(&none);
                let papers = me.papers.get(&(custodian.clone(), *order));
                let papers = papers.map_or(&[][..], Vec::as_slice);
                let (from_ms, to_ms) = approved(papers, officers, (*entry, *time_ms, &key.chat))
                    .map_err(|why| format!("{what}, and {why}"))?;
                let epochs = me.epochs.get(&(custodian.clone(), key.chat));
                let epochs = epochs.map_or(&[][..], Vec::as_slice);
                let own = epochs.iter().filter(|(e, _)| e == epoch);
                let over = own.flat_map(|(_, at)| epochs.iter().filter(|(e, _)| e > epoch).map(move |(_, next)| {
                    match next < at {
                        true => (next.saturating_sub(EPOCH_RUN_MS_MAX), *next),
                        false => (*at, (*next).max(at + 1)),
                    }
                }));
                let mut over = over.peekable();
                must(over.peek().is_some(), || format!("{what}, and epoch {epoch} was not over"))?;
                let meets = |(began, ended): (WallMs, WallMs)| began < to_ms && ended > from_ms;
                must(over.any(meets), || format!("{what}, and epoch {epoch} is of another time"))?;
            }
            _ => {}
        }
    }
}
judge! {
    /// No share leaves a custodian under a deletion statement unless it names the chat and the
    /// epoch and was signed, within the last day, by a device that was live, of an account that
    /// was a member, before the release in that custodian's own log; to each lease key once, and
    /// to a few only.
    NothingWithoutMandate {
        stood: BTreeMap<(CustodianId, Subject), Stood>,
        creators: BTreeSet<(ChatId, AccountId)>,
        served: BTreeMap<(CustodianId, [u8; 32], EpochNo), BTreeMap<[u8; 32], u64>>,
    } |me, fact| {
        match fact {
            Fact::Stands { custodian, entry, subject, value } => {
                // The only ones here who may delete what others wrote: who founded the chat.
                if let Subject::Member(chat, account) = subject
                    && !me.stood.keys().any(|(_, s)| matches!(s, Subject::Member(c, _) if c == chat))
                {
                    me.creators.insert((*chat, *account));
                }
                me.stood.entry((custodian.clone(), *subject)).or_default().push((*entry, *value));
            }
            Fact::Cut { custodian, entries } => {
                for (_, stood) in me.stood.iter_mut().filter(|((c, _), _)| c == custodian) {
                    stood.retain(|(entry, _)| entry < entries);
                }
                for (_, served) in me.served.iter_mut().filter(|((c, ..), _)| c == custodian) {
                    served.retain(|_, entry| *entry < *entries);
                }
            }
            Fact::Rewritten { custodian, key, epoch, entry, time_ms, lease_key, mandated } => {
                let what = format!("{custodian} released {} at entry {entry} under a deletion", key.key_id);
                let Some(m) = mandated else {
                    return Err(format!("{what} that nobody can read"));
                };
                must(m.signed, || format!("{what} that its device did not sign for this home"))?;
                let good = m.at_ms.saturating_sub(STATEMENT_AHEAD_MS_MAX)..m.at_ms + MANDATE_LIFE_MS;
                must(good.contains(time_ms), || format!("{what} at {time_ms}, when it was not good"))?;
                must(m.chat == key.chat && m.epochs.contains(epoch), || format!("{what}, which does not name epoch {epoch}"))?;
                let before = |subject| {
                    let stood = me.stood.get(&(custodian.clone(), subject))?;
                    stood.iter().rev().find(|(at, _)| at < entry)?.1
                };
                let live = before(Subject::Device(m.account, m.device)).is_some_and(|until| *time_ms < until);
                must(live, || format!("{what} by a device that was not live there"))?;
                let member = before(Subject::Member(key.chat, m.account)).is_some_and(|from| from <= u64::from(*epoch));
                must(member, || format!("{what} for an account that may not read epoch {epoch} there"))?;
                must(!m.of_anyone || me.creators.contains(&(key.chat, m.account)), || format!("{what} of others' messages by a mere member"))?;
                let served = me.served.entry((custodian.clone(), m.hash, *epoch)).or_default();
                let first = served.entry(*lease_key).or_insert(*entry);
                must(first == entry, || format!("{what} to the lease key of entry {first}"))?;
                must(served.len() <= MANDATE_RELEASES_MAX, || format!("{what} for the {}th time", served.len()))?;
            }
            _ => {}
        }
    }
}

/// Whom a statement shut out, and who released to them since.
struct Bar {
    chat: Option<ChatId>,
    account: AccountId,
    device: Option<DeviceId>,
    would: Vec<BTreeSet<CustodianId>>,
    released: BTreeMap<KeyId, BTreeSet<CustodianId>>,
}

judge! {
    /// Once a blocking set has acknowledged that an account was removed from a chat, or a
    /// device revoked, no key leaves for it at a set that satisfies the policy (*no rollback*).
    RevokedReadsNothing { bars: Vec<Bar>, excused: BTreeSet<CustodianId> } |me, fact| {
        match fact {
            Fact::RolledBack { custodian } => {
                me.excused.insert(custodian.clone());
            }
            Fact::Barred { chat, account, device, would } => me.bars.push(Bar {
                chat: *chat,
                account: *account,
                device: *device,
                would: would.clone(),
                released: BTreeMap::new(),
            }),
            Fact::Welcomed { chat, account } => me.bars.retain(|b| (b.chat, b.account) != (Some(*chat), *account)),
            Fact::Granted { custodian, key, shown: Some(shown), .. } if !me.excused.contains(custodian) => {
                let concerned = |b: &&mut Bar| {
                    b.account == shown.account
                        && b.chat.is_none_or(|c| c == key.chat)
                        && b.device.is_none_or(|d| d == shown.device)
                };
                for bar in me.bars.iter_mut().filter(concerned) {
                    let released = bar.released.entry(key.key_id).or_default();
                    released.insert(custodian.clone());
                    let enough = bar.would.iter().any(|set| set.is_subset(released));
                    must(!enough, || format!("{} left at {released:?} for someone who was out by then", key.key_id))?;
                }
            }
            _ => {}
        }
    }
}
judge! {
    /// What is tombstoned is not stored again, nor released by any later log
    /// entry, and the tombstone stays (*no rollback*). The log's order decides: a
    /// release committed before the tombstone may still be on its way when that
    /// commits, but not when it is confirmed: `ConfirmedIsFinal`.
    TombstonesStand { stones: BTreeMap<(CustodianId, KeyId), u64>, excused: BTreeSet<CustodianId> } |me, fact| {
        let (custodian, key_id, at, what) = match fact {
            Fact::RolledBack { custodian } => {
                me.excused.insert(custodian.clone());
                return Ok(());
            }
            Fact::Stone { custodian, key_id, entry } => {
                me.stones.insert((custodian.clone(), *key_id), *entry);
                return Ok(());
            }
            Fact::Held { custodian, key, .. } => (custodian, key.key_id, u64::MAX, "stored"),
            Fact::Left { custodian, key, entry, .. } => (custodian, key.key_id, *entry, "released"),
            Fact::StoneGone { custodian, key_id } => (custodian, *key_id, u64::MAX, "forgotten"),
            _ => return Ok(()),
        };
        let stone = me.stones.get(&(custodian.clone(), key_id));
        let broken = stone.is_some_and(|s| *s < at) && !me.excused.contains(custodian);
        must(!broken, || format!("{key_id} is tombstoned at {custodian} and was {what}"))?;
    }
}
judge! {
    /// Once a shred or freeze is confirmed, no share that it forbids leaves any
    /// more, not even by a release committed before it (*no rollback*).
    ConfirmedIsFinal { confirmed: Restrictions, excused: BTreeSet<CustodianId> } |me, fact| {
        match fact {
            Fact::RolledBack { custodian } => {
                me.excused.insert(custodian.clone());
            }
            Fact::Confirmed { custodian, chat, key_id, entry } => {
                let last = me.confirmed.entry((custodian.clone(), *chat, *key_id)).or_default();
                *last = (*last).max(*entry);
            }
            Fact::Left { custodian, key, entry, .. } if !me.excused.contains(custodian) => {
                let scopes = [(None, None), (Some(key.chat), None), (None, Some(key.key_id))];
                for (chat, key_id) in scopes {
                    let last = me.confirmed.get(&(custodian.clone(), chat, key_id));
                    must(last.is_none_or(|last| last < entry), || {
                        format!("{custodian} released {} at entry {entry}, and it left after entry {last:?} forbade it and was confirmed", key.key_id)
                    })?;
                }
            }
            _ => {}
        }
    }
}
judge! {
    /// A chat's ids are 0, 1, 2, … and revisions go up by one.
    IdsHaveNoGaps { revisions: BTreeMap<ChatId, Vec<Revision>> } |me, fact| {
        if let Fact::Record { chat, id, revision } = fact {
            let all = me.revisions.entry(*chat).or_default();
            let place = usize::try_from(*id).map_err(|e| e.to_string())?;
            if *revision == 0 {
                must(place == all.len(), || format!("record {id} of {chat} comes after {} records", all.len()))?;
                all.push(0);
            } else {
                must(all.get(place).is_some_and(|r| r + 1 == *revision), || format!("record {id} of {chat} jumps to revision {revision}"))?;
                all[place] = *revision;
            }
        }
    }
}
judge! {
    /// What a client meant once is there at most once.
    AtMostOnce { first: BTreeMap<(ChatId, String), (MessageId, Revision)> } |me, fact| {
        if let Fact::Remembered { chat, idempotency, id, revision } = fact {
            let first = me.first.entry((*chat, idempotency.clone())).or_insert((*id, *revision));
            must(*first == (*id, *revision), || format!("{idempotency} is {first:?} and {:?}", (id, revision)))?;
        }
    }
}
judge! {
    /// An acknowledged write stands in the shard's state where the client was told, and stays.
    NothingAcknowledgedIsLost { there: BTreeMap<(ChatId, String), (MessageId, Revision)>, rows: BTreeMap<(ChatId, MessageId), Revision> } |me, fact| {
        match fact {
            Fact::Remembered { chat, idempotency, id, revision } => {
                me.there.insert((*chat, idempotency.clone()), (*id, *revision));
            }
            Fact::Record { chat, id, revision } => {
                let old = me.rows.insert((*chat, *id), *revision);
                must(old.is_none_or(|o| o < *revision), || format!("record {id} of {chat} went back from revision {old:?} to {revision}"))?;
            }
            Fact::RecordGone { chat, id } => return Err(format!("record {id} of {chat} is gone")),
            Fact::Acknowledged { chat, idempotency, id, revision } => {
                let told = (*id, *revision);
                let there = me.there.get(&(*chat, idempotency.clone()));
                must(there == Some(&told), || format!("{idempotency} was acknowledged as {told:?} and stands as {there:?}"))?;
            }
            _ => {}
        }
    }
}
judge! {
    /// A reader gets, byte for byte, what a client meant for that record and revision.
    ReadsAreTrue { meant: BTreeMap<(ChatId, String), Vec<u8>>, by: BTreeMap<(ChatId, MessageId, Revision), String> } |me, fact| {
        match fact {
            Fact::Meant { chat, idempotency, content } => drop(me.meant.insert((*chat, idempotency.clone()), content.clone())),
            Fact::Remembered { chat, idempotency, id, revision } => drop(me.by.insert((*chat, *id, *revision), idempotency.clone())),
            Fact::Read { chat, id, revision, content, .. } => {
                let by = me.by.get(&(*chat, *id, *revision));
                let meant = by.and_then(|b| me.meant.get(&(*chat, b.clone())));
                must(meant == Some(content), || format!("record {id}.{revision} of {chat} reads as nobody wrote it"))?;
            }
            _ => {}
        }
    }
}
judge! {
    /// No key is used from a lease beyond its age, or when the custodians heard and unfrozen do not suffice.
    LeasesEnd {} |me, fact| {
        if let Fact::Leased { key_id, age_ms, usable } = fact {
            must(*age_ms < quorate_engine::home::LEASE_MS_MAX, || format!("{key_id} was leased {age_ms} ms ago"))?;
            must(*usable, || format!("{key_id} was used though its custodians are frozen or silent"))?;
        }
    }
}
judge! {
    /// Whoever gave a false share is blamed by name, and nobody else is.
    LiarsAreBlamed {} |me, fact| {
        if let Fact::Collected { blamed, lied } = fact {
            must(blamed == lied, || format!("{lied:?} lied and {blamed:?} are blamed"))?;
        }
    }
}
judge! {
    /// Data keys and raw shares never reach a replica's state.
    OnlySealed {} |me, fact| {
        if let Fact::Secret { cluster, what } = fact {
            return Err(format!("{what} stands in the clear in cluster {cluster}"));
        }
    }
}
judge! {
    /// After everything is healed, everything is finished.
    ComesToRest {} |me, fact| {
        if let Fact::Unfinished { what } = fact {
            return Err(what.clone());
        }
    }
}
