//! Who may do what, as the custodians say.
//!
//! Good standing is believed when a set of custodians that satisfies the policy
//! says the same: together they could release the chat's keys to whom they
//! like, so nothing is trusted that was not before. What was believed is
//! remembered for [`STANDING_MS`] and forgotten at once when a statement about
//! it passes through this home. An operation is done by its shard's leader, and
//! so are statements about its chat; a node that begins to lead forgets all.

use super::api::HomeError;
use super::core::{Core, Fail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_engine::authz::grant::GrantRefusal;
use quorate_engine::authz::standing::{DeviceStanding, MemberStanding};
use quorate_engine::custody::protocol::{
    CHATS_PER_LOOKUP_MAX, ChainId, CustodianReply, CustodianRequest, LookupReply, LookupRequest,
};
use quorate_engine::home::FEED_GRACE_MS;
use quorate_engine::policy::Policy;
use quorate_engine::types::{AccountId, ChatId, CustodianId, DeviceId, EpochNo};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How long good standing is believed without asking again, in milliseconds on
/// the monotonic clock. A removal told to custodians past this home is obeyed
/// here after so long: well within the feed grace of 30 s.
pub const STANDING_MS: u64 = 5_000;
/// Wait for custodians' answers, in milliseconds: each may have lost its leader just now, and
/// needs an election and a second attempt.
const LOOKUP_MS_MAX: u64 = 6_000;
/// The same where there is something to go on with: whoever waits is not held up for long.
const RENEWAL_MS_MAX: u64 = 1_000;
/// That too few custodians answer is told to others who ask for so long, so that they do not
/// wait for it one after the other.
const FAILURE_MS: u64 = 500;
/// Standings remembered at most.
const REMEMBERED_MAX: usize = 65_536;

/// Whose standing, and in which chat if in any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    /// The account.
    pub account: AccountId,
    /// The device that signs for it.
    pub device: DeviceId,
    /// The chat it wants something of.
    pub chat: Option<ChatId>,
}

/// Good standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The device's public key.
    pub public: [u8; 32],
    /// In the chat asked for: the first epoch that the account may read as a member.
    pub from_epoch: Option<EpochNo>,
}

/// What is remembered, on the monotonic clock.
#[derive(Clone, Copy)]
struct Held {
    standing: Standing,
    /// When the question was put that it answers: an answer is no younger.
    told: u64,
    /// When custodians were asked last, in vain or not.
    asked: u64,
}

/// What is known of one [`Who`].
#[derive(Default)]
struct Entry {
    held: Option<Held>,
    /// When too few custodians answered, and who did.
    failed: Option<(u64, HomeError)>,
}

type Slot = Arc<tokio::sync::Mutex<Entry>>;

/// What this node believes of devices and members.
#[derive(Default)]
pub struct Directory(Mutex<HashMap<Who, Slot>>);

impl Directory {
    fn slots(&self) -> MutexGuard<'_, HashMap<Who, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, who: Who) -> Slot {
        let mut slots = self.slots();
        if slots.len() >= REMEMBERED_MAX {
            // Those in use are kept by whoever waits on them.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        slots.entry(who).or_default().clone()
    }

    /// Forgets everything about an account or a chat.
    pub fn forget(&self, chain: &ChainId) {
        self.slots().retain(|who, _| match chain {
            ChainId::Account(account) => who.account != *account,
            ChainId::Chat(chat) => who.chat != Some(*chat),
        });
    }

    /// Forgets everything. What passed through another leader while this node did not lead is
    /// not known here.
    pub fn clear(&self) {
        self.slots().clear();
    }

    /// Asks custodians, unless it is remembered. Callers that ask the same wait for one answer.
    ///
    /// # Errors
    /// [`HomeError::Denied`] when custodians say that it may not, [`HomeError::Quorum`]
    /// when too few say anything.
    pub(super) async fn standing(&self, core: &Core, who: Who) -> Result<Standing, Fail> {
        let slot = self.slot(who);
        let mut entry = slot.lock().await;
        let now = core.clock.mono();
        if let Some(held) = &entry.held
            && now.saturating_sub(held.asked) < STANDING_MS
        {
            return Ok(held.standing);
        }
        if let Some((at, e)) = &entry.failed
            && now.saturating_sub(*at) < FAILURE_MS
        {
            return Err(Fail::Home(e.clone()));
        }
        // Cut off from custodians, what they said last is believed for the grace of their feeds,
        // as leases are.
        let spare = entry
            .held
            .filter(|held| now.saturating_sub(held.told) < FEED_GRACE_MS);
        let wait_ms = spare.map_or(LOOKUP_MS_MAX, |_| RENEWAL_MS_MAX);
        let chats: Vec<ChatId> = who.chat.into_iter().collect();
        let said = ask(core, who.account, who.device, &chats, wait_ms, |said| {
            decided(&core.config.policy, said, 0)
        });
        let judged = judge(core, &said.await, 0);
        *entry = Entry::default();
        match (judged, spare) {
            (Ok(standing), _) => {
                entry.held = Some(Held {
                    standing,
                    told: now,
                    asked: now,
                });
                Ok(standing)
            }
            (Err(HomeError::Quorum { .. }), Some(spare)) => {
                entry.held = Some(Held {
                    asked: core.clock.mono(),
                    ..spare
                });
                Ok(spare.standing)
            }
            (Err(e @ HomeError::Quorum { .. }), None) => {
                entry.failed = Some((core.clock.mono(), e.clone()));
                Err(Fail::Home(e))
            }
            (Err(e), _) => Err(Fail::Home(e)),
        }
    }

    /// Asks about many chats of one account at once, and remembers good standing in them.
    pub(super) async fn warm(
        &self,
        core: &Core,
        account: AccountId,
        device: DeviceId,
        chats: &[ChatId],
    ) {
        for chats in chats.chunks(CHATS_PER_LOOKUP_MAX) {
            // Taken before asking: what is forgotten meanwhile stays forgotten.
            let slots: Vec<Slot> = chats
                .iter()
                .map(|chat| {
                    let chat = Some(*chat);
                    self.slot(Who {
                        account,
                        device,
                        chat,
                    })
                })
                .collect();
            let now = core.clock.mono();
            let said = ask(core, account, device, chats, LOOKUP_MS_MAX, |said| {
                (0..chats.len()).all(|n| decided(&core.config.policy, said, n))
            });
            let said = said.await;
            for (n, slot) in slots.iter().enumerate() {
                // Whoever holds it asks just now.
                if let Ok(standing) = judge(core, &said, n)
                    && let Ok(mut entry) = slot.try_lock()
                {
                    entry.held = Some(Held {
                        standing,
                        told: now,
                        asked: now,
                    });
                }
            }
        }
    }
}

type Told = BTreeMap<CustodianId, LookupReply>;

/// What custodians say, until `enough` or all were heard or waited for.
async fn ask(
    core: &Core,
    account: AccountId,
    device: DeviceId,
    chats: &[ChatId],
    wait_ms: u64,
    enough: impl Fn(&Told) -> bool,
) -> Told {
    let request = CustodianRequest::Lookup(LookupRequest {
        home: core.config.home.clone(),
        deployment: core.config.deployment,
        account,
        device,
        chats: chats.to_vec(),
    });
    let request = &request;
    let leaves = core.config.policy.custodians();
    let mut asked: FuturesUnordered<_> = leaves
        .into_iter()
        .map(|custodian| async move {
            let asked = core.custodians.ask(&custodian, request, wait_ms);
            let reply = asked.await;
            (custodian, reply)
        })
        .collect();
    let mut said = Told::new();
    while let Some((custodian, reply)) = asked.next().await {
        match reply {
            Ok(CustodianReply::Lookup(reply)) if reply.chats.len() == chats.len() => {
                said.insert(custodian, reply);
                if enough(&said) {
                    break;
                }
            }
            Ok(_) => tracing::warn!(%custodian, "its word about a device is something else"),
            Err(e) => tracing::debug!("no word about a device: {e}"),
        }
    }
    said
}

/// Whether those who were not heard could still change what is found.
fn decided(policy: &Policy, said: &Told, nth: usize) -> bool {
    believed(policy, said, nth).is_some() || against(policy, said, nth).is_some()
}

/// What was said of the `nth` chat asked about, or of the device where none was.
fn judge(core: &Core, said: &Told, nth: usize) -> Result<Standing, HomeError> {
    let policy = &core.config.policy;
    if let Some(standing) = believed(policy, said, nth) {
        return Ok(standing);
    }
    Err(against(policy, said, nth).unwrap_or_else(|| {
        let answered: BTreeSet<CustodianId> = said.keys().cloned().collect();
        let mut silent = policy.custodians();
        silent.retain(|c| !answered.contains(c));
        core.too_few(answered, silent)
    }))
}

/// The good standing that a satisfying set agrees on.
fn believed(policy: &Policy, said: &Told, nth: usize) -> Option<Standing> {
    let mut good = said.values().filter_map(|reply| standing_of(reply, nth));
    good.find(|standing| {
        let agree = said
            .iter()
            .filter(|(_, reply)| standing_of(reply, nth).as_ref() == Some(standing))
            .map(|(c, _)| c.clone())
            .collect();
        policy.satisfied_by(&agree)
    })
}

fn standing_of(reply: &LookupReply, nth: usize) -> Option<Standing> {
    let public = *reply.device.live()?;
    let from_epoch = match reply.chats.get(nth) {
        None => None,
        Some(MemberStanding::Member { from_epoch, .. }) => Some(*from_epoch),
        Some(_) => return None,
    };
    Some(Standing { public, from_epoch })
}

/// What most of those say who stand in the way, if they do.
fn against(policy: &Policy, said: &Told, nth: usize) -> Option<HomeError> {
    let mut reasons: BTreeMap<GrantRefusal, BTreeSet<CustodianId>> = BTreeMap::new();
    for (custodian, reply) in said {
        if let Some(why) = denial(reply, nth) {
            reasons.entry(why).or_default().insert(custodian.clone());
        }
    }
    let against: BTreeSet<&CustodianId> = reasons.values().flatten().collect();
    let hopeful: BTreeSet<CustodianId> = policy
        .custodians()
        .into_iter()
        .filter(|c| !against.contains(c))
        .collect();
    let silent = policy.custodians().len() - said.len();
    let (why, who) = reasons.iter().max_by_key(|(_, who)| who.len())?;
    if silent > 0 && policy.satisfied_by(&hopeful) {
        return None;
    }
    let names: Vec<String> = who.iter().map(ToString::to_string).collect();
    Some(HomeError::Denied {
        why: *why,
        detail: format!("{why} (says {})", names.join(", ")),
    })
}

fn denial(reply: &LookupReply, nth: usize) -> Option<GrantRefusal> {
    match reply.device {
        DeviceStanding::Live { .. } => {}
        DeviceStanding::Expired => return Some(GrantRefusal::DeviceExpired),
        DeviceStanding::Revoked => return Some(GrantRefusal::DeviceRevoked),
        DeviceStanding::Unknown => return Some(GrantRefusal::DeviceUnknown),
    }
    match reply.chats.get(nth)? {
        MemberStanding::Member { .. } => None,
        MemberStanding::NotMember => Some(GrantRefusal::NotMember),
        MemberStanding::UnknownChat => Some(GrantRefusal::ChatUnknown),
        MemberStanding::Forked => Some(GrantRefusal::ChatForked),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::world::policy;
    use super::*;
    use quorate_engine::authz::standing::Role;

    fn custodian(name: &str) -> CustodianId {
        CustodianId::new(name).unwrap()
    }

    fn says(device: DeviceStanding, chat: Option<MemberStanding>) -> LookupReply {
        LookupReply {
            position: 1,
            device,
            chats: chat.into_iter().collect(),
        }
    }

    fn member(key: u8, from_epoch: EpochNo) -> LookupReply {
        let public = [key; 32];
        let role = Role::Member;
        says(
            DeviceStanding::Live { public },
            Some(MemberStanding::Member { role, from_epoch }),
        )
    }

    /// Every way in which the custodians of the test policy can agree with a liar or not.
    #[test]
    fn only_what_a_satisfying_set_says_alike_is_believed() {
        let policy = policy();
        let all: Vec<CustodianId> = policy.custodians().into_iter().collect();
        let answers = [
            None,
            Some(member(1, 0)),
            Some(member(2, 0)),
            Some(says(
                DeviceStanding::Live { public: [1; 32] },
                Some(MemberStanding::NotMember),
            )),
        ];
        let mut seen = BTreeSet::new();
        for n in 0..answers.len().pow(all.len() as u32) {
            let pick = |i: usize| answers[n / answers.len().pow(i as u32) % answers.len()].clone();
            let said: BTreeMap<_, _> = all
                .iter()
                .enumerate()
                .filter_map(|(i, c)| Some((c.clone(), pick(i)?)))
                .collect();
            let of = |wanted: &LookupReply| -> BTreeSet<CustodianId> {
                let of = said.iter().filter(|(_, r)| *r == wanted);
                of.map(|(c, _)| c.clone()).collect()
            };
            let found = believed(&policy, &said, 0);
            for (key, reply) in [(1, member(1, 0)), (2, member(2, 0))] {
                let believes = found.is_some_and(|s| s.public == [key; 32]);
                seen.insert((key, believes));
                if believes {
                    assert!(policy.satisfied_by(&of(&reply)), "{said:?}");
                }
            }
            let any = [member(1, 0), member(2, 0)];
            let should = any.iter().any(|r| policy.satisfied_by(&of(r)));
            assert_eq!(found.is_some(), should, "{said:?}");
        }
        assert_eq!(seen.len(), 4, "both keys were believed and not believed");
    }

    #[test]
    fn a_refusal_needs_those_who_stand_in_the_way() {
        let policy = policy();
        let all = policy.custodians();
        let revoked = || says(DeviceStanding::Revoked, Some(MemberStanding::NotMember));
        let everyone: BTreeMap<_, _> = all.iter().map(|c| (c.clone(), revoked())).collect();
        let Some(HomeError::Denied { why, detail }) = against(&policy, &everyone, 0) else {
            panic!("everyone refuses");
        };
        assert_eq!(why, GrantRefusal::DeviceRevoked);
        assert!(all.iter().all(|c| detail.contains(c.as_str())), "{detail}");
        let one = BTreeMap::from([(custodian(all.first().unwrap().as_str()), revoked())]);
        assert!(
            against(&policy, &one, 0).is_none(),
            "one custodian alone denies nothing while the others are silent"
        );
    }
}
