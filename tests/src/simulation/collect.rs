//! A leader collects shares of keys it has no lease of.

use super::Mutant;
use super::facts::Fact;
use super::leader::{Call, Leader};
use super::world::{DEPLOYMENT, World, home};
use quorate_engine::authz::grant::GrantHash;
use quorate_engine::crypto::seal::{Receiver, ReleaseBinding, ShareBinding, release_info};
use quorate_engine::crypto::subkeys;
use quorate_engine::custody::protocol::*;
use quorate_engine::home::read;
use quorate_engine::policy::Policy;
use quorate_engine::quorum::{Answer, Ask, Collector, CollectorConfig, Wanted};
use quorate_engine::sharing;
use quorate_engine::types::{ChatId, CustodianId, EpochNo, KeyId, Mono, RequestId};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A running collection.
pub struct Collect {
    chat: ChatId,
    grant: String,
    collector: Collector,
    keys: Vec<(KeyRef, EpochNo, Arc<Policy>, [u8; 32])>,
    entries: BTreeMap<(CustodianId, KeyId), u64>,
    asked: Mono,
    timed: Mono,
    lied: BTreeSet<CustodianId>,
}

impl Collect {
    fn wants(&self, key: &KeyRef) -> bool {
        self.keys.iter().any(|(k, ..)| k == key)
    }
}

impl World {
    /// Asks for keys, unless they are asked for already. False: none of them can be.
    pub fn collect(&mut self, l: &mut Leader, keys: &[KeyRef], grant: &str) -> bool {
        let mut all = Vec::new();
        let mut wanted = Vec::new();
        for key in keys {
            if l.collects.values().any(|c| c.wants(key)) {
                return true;
            }
            let Some((epoch, row)) =
                read::epoch_of(self.view(l), key).expect("memory does not fail")
            else {
                continue;
            };
            let commitments = row
                .leaves
                .iter()
                .map(|l| (l.custodian.clone(), l.commitment))
                .collect();
            wanted.push(Wanted {
                key: *key,
                policy: self.policy.clone(),
                commitments,
            });
            all.push((*key, epoch, self.policy.clone(), row.check));
        }
        let Some((first, ..)) = all.first() else {
            return false;
        };
        let id = self.next_id();
        let now = self.now;
        let collect = Collect {
            chat: first.chat,
            grant: grant.to_owned(),
            collector: Collector::new(now, CollectorConfig::default(), wanted, BTreeMap::new()),
            keys: all,
            entries: BTreeMap::new(),
            asked: now,
            timed: now,
            lied: BTreeSet::new(),
        };
        l.collects.insert(id, collect);
        self.advance(l, id);
        true
    }

    /// Sends what the collector asks for; ends it when it is over.
    fn advance(&mut self, l: &mut Leader, id: u64) {
        let Some(collect) = l.collects.get_mut(&id) else {
            return;
        };
        let grant = collect.grant.clone();
        for ask in collect.collector.take_asks() {
            let mut request = [0; RequestId::LEN];
            self.rng.fill_bytes(&mut request);
            let request = RequestId(request);
            let body = ReleaseRequest {
                request,
                home: home(),
                node: l.node as u64 + 1,
                deployment: DEPLOYMENT,
                lease_key: l.lease_key.public(),
                reason: Reason::Read,
                grant: grant.clone(),
                keys: ask.keys.clone(),
            };
            let custodian = ask.custodian.clone();
            self.call(
                l,
                &custodian,
                Call::Release {
                    collect: id,
                    ask,
                    request,
                },
                CustodianRequest::Release(body),
            );
        }
        if l.collects.get(&id).is_some_and(|c| c.collector.is_over())
            && let Some(collect) = l.collects.remove(&id)
        {
            self.collected(l, collect);
        }
    }

    fn collected(&mut self, l: &mut Leader, mut collect: Collect) {
        let (blamed, lied) = (collect.collector.liars(), collect.lied);
        self.recorder.fact(Fact::Collected { blamed, lied });
        for (index, (key, epoch, policy, check)) in collect.keys.into_iter().enumerate() {
            let Some(Ok(quorum)) = collect.collector.take(index) else {
                continue;
            };
            let shares: Vec<_> = quorum.shares.iter().map(|(c, s)| (c.clone(), s)).collect();
            let Ok(data_key) = sharing::combine(policy.structure(), &shares) else {
                self.recorder.fact(Fact::Unfinished {
                    what: format!("a quorum for {} does not combine", key.key_id),
                });
                continue;
            };
            if !subkeys::key_check_holds(&data_key, &check) {
                self.recorder.fact(Fact::Unfinished {
                    what: format!("a quorum for {} gives another key", key.key_id),
                });
                continue;
            }
            let entry = |c: &CustodianId| collect.entries.get(&(c.clone(), key.key_id)).copied();
            let releases = shares
                .iter()
                .filter_map(|(c, _)| Some((c.clone(), entry(c)?)))
                .collect();
            self.lease(l, key, epoch, &policy, (releases, collect.asked), data_key);
        }
        self.wake(l, &collect.chat);
    }

    /// A custodian answered a release.
    pub fn released(
        &mut self,
        l: &mut Leader,
        id: u64,
        ask: &Ask,
        request: RequestId,
        reply: CustodianReply,
        lie: bool,
    ) {
        let now = self.now;
        let number = self.number_of(&ask.custodian);
        let Some(collect) = l.collects.get_mut(&id) else {
            return;
        };
        let CustodianReply::Release(reply) = reply else {
            collect.collector.on_unreachable(now, ask.id);
            return self.advance(l, id);
        };
        let log_key = self.custodians[number].log_key.public();
        reply
            .receipt
            .verify(&DEPLOYMENT, &ask.custodian, &request, &log_key)
            .expect("receipts are signed");
        if !reply.encapsulated.is_empty() && !l.receivers.contains_key(&reply.encapsulated) {
            let info = release_info(&DEPLOYMENT, &ask.custodian);
            let receiver =
                Receiver::new(&l.lease_key, &reply.encapsulated, &info).expect("an encapsulation");
            l.receivers.insert(reply.encapsulated.clone(), receiver);
        }
        let node = l.node as u64 + 1;
        let context = ReleaseBinding {
            authority: GrantHash::of(&collect.grant).0,
            node,
            lease_key: l.lease_key.public().hash(),
        };
        let mut answers = Vec::new();
        for (key, share) in ask.keys.iter().zip(reply.shares) {
            collect
                .entries
                .insert((ask.custodian.clone(), key.key_id), reply.receipt.entry);
            answers.push(match share {
                ShareResult::Refused(why) => Answer::Refused(why),
                ShareResult::Share { sealed } => {
                    let binding = ShareBinding {
                        deployment: DEPLOYMENT,
                        custodian: ask.custodian.clone(),
                        chat: key.chat,
                        key_id: key.key_id,
                        policy: self.policy.id(),
                    };
                    let receiver = l.receivers.get(&reply.encapsulated);
                    let share =
                        receiver.and_then(|r| r.open(&binding, Some(&context), &sealed).ok());
                    share.map_or(Answer::Garbled, Answer::Share)
                }
            });
        }
        // A request that timed out is over: what it brings is not looked at.
        if lie && ask.deadline > collect.timed {
            collect.lied.insert(ask.custodian.clone());
            if self.mutant == Some(Mutant::HidesLiars) {
                answers = ask
                    .keys
                    .iter()
                    .map(|_| Answer::Refused(Refusal::NotHeld))
                    .collect();
            }
        }
        collect.collector.on_answer(now, ask.id, answers);
        self.advance(l, id);
    }

    /// Time has passed for collections.
    pub fn tick_collects(&mut self, l: &mut Leader) {
        for id in l.collects.keys().copied().collect::<Vec<_>>() {
            let now = self.now;
            if let Some(collect) = l.collects.get_mut(&id) {
                collect.timed = now;
                collect.collector.on_timeout(now);
            }
            self.advance(l, id);
        }
    }
}
