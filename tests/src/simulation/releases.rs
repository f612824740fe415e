//! What leaves a custodian once its release is committed, and under what.

use super::custodian::Lie;
use super::facts::{Fact, Mandated, Shown};
use super::people::{People, window};
use super::world::{DEPLOYMENT, World, home};
use quorate_engine::audit::{Entry, KeyOutcome, entry_bytes};
use quorate_engine::authz::deletion::{Mandate, Whose};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::Grant;
use quorate_engine::crypto::labels::SIGN_DELETION;
use quorate_engine::crypto::seal::{
    RecipientPublic, ReleaseBinding, Sender, ShareBinding, release_info,
};
use quorate_engine::custody::protocol::*;
use quorate_engine::custody::*;
use quorate_engine::home::read;
use quorate_engine::types::kv::Position;
use quorate_engine::types::{KeyId, OrderId, RequestId, Share};
use rand_chacha::ChaCha20Rng;

/// A request for shares, under whatever it came.
pub struct Asked {
    /// Binds it.
    pub request: RequestId,
    /// What shares are sealed to.
    pub lease_key: RecipientPublic,
    /// Which.
    pub keys: Vec<KeyRef>,
    /// Why they may go.
    pub under: Under,
}

/// What shares are asked for under.
pub enum Under {
    /// A reader's grant.
    Grant(String),
    /// An order that officers approved.
    Order(OrderId),
    /// A deletion statement.
    Mandate(Box<Envelope>),
}

impl World {
    /// The shares of a committed release leave, and what they left under is told.
    pub fn release(
        &mut self,
        number: usize,
        leader: u64,
        call: u64,
        request: &Asked,
        at: Position,
        reply: &[u8],
    ) {
        let (c, rng) = (&mut self.custodians[number], &mut self.rng);
        let done = committed(at, reply).expect("replies decode").remove(0);
        let granted = done.granted().expect("a release is answered as one");
        for (key, result) in request.keys.iter().zip(&granted.value().results) {
            if let Err(why) = result {
                let custodian = &c.place.custodian;
                let said = format!("{custodian} refuses {}: {why:?}", key.key_id);
                self.recorder.did(said);
            }
        }
        let hash = request.lease_key.hash();
        if !c.senders.contains_key(&hash) {
            let sender =
                LeaseSender::new(&c.place, &request.lease_key, rng).expect("the key was validated");
            c.senders.insert(hash, sender);
        }
        let mut answer = finish_release(
            &c.place,
            &c.vault,
            &granted,
            &c.senders[&hash],
            &c.log_key,
            rng,
        );
        let mut lie = false;
        if c.lie == Some(Lie::FalseShares)
            && answer
                .shares
                .iter()
                .any(|s| matches!(s, ShareResult::Share { .. }))
        {
            lie = true;
            falsify(&c.place, request, &granted, &mut answer, rng);
        }
        let entry =
            entry_bytes(c.cluster.kv(), answer.receipt.entry).expect("memory does not fail");
        let entry = entry.and_then(|json| Entry::from_json(&json).ok());
        let recorded = |key: &KeyId| {
            entry.as_ref().is_some_and(|e| {
                let line = e
                    .keys
                    .iter()
                    .any(|l| l.key == *key && l.outcome == KeyOutcome::Released);
                line && e.request == Some(request.request)
            })
        };
        for (key, share) in request.keys.iter().zip(&answer.shares) {
            if matches!(share, ShareResult::Share { .. }) {
                let custodian = c.place.custodian.clone();
                let recorded = recorded(&key.key_id);
                let number = answer.receipt.entry;
                self.recorder.fact(Fact::Left {
                    custodian: custodian.clone(),
                    key: *key,
                    entry: number,
                    recorded,
                });
                let shard = &self.shards[usize::from(key.chat.0[0]) % self.shards.len()];
                let dealt = read::epoch_of(shard.kv(), key).expect("memory does not fail");
                if let (Some(entry), Some((epoch, _))) = (&entry, dealt) {
                    let (key, entry, time_ms) = (*key, number, entry.time_ms);
                    self.recorder.fact(match &request.under {
                        Under::Grant(grant) => Fact::Granted {
                            custodian,
                            key,
                            epoch,
                            entry,
                            time_ms,
                            request: request.request,
                            shown: shown(&self.people, grant, &key),
                        },
                        Under::Order(order) => Fact::Disclosed {
                            custodian,
                            key,
                            epoch,
                            entry,
                            time_ms,
                            order: *order,
                        },
                        Under::Mandate(statement) => Fact::Rewritten {
                            custodian,
                            key,
                            epoch,
                            entry,
                            time_ms,
                            lease_key: request.lease_key.hash(),
                            mandated: mandated(&self.people, statement),
                        },
                    });
                }
            }
        }
        self.answer(number, leader, call, CustodianReply::Release(answer), lie);
    }
}

/// What a deletion statement says, read by whoever looks on.
fn mandated(people: &People, statement: &Envelope) -> Option<Mandated> {
    let mandate = Mandate::read(statement).ok()?;
    let d = mandate.deletion();
    let ours = d.home == home() && d.deployment == DEPLOYMENT;
    let signers = statement.signers(SIGN_DELETION, &DEPLOYMENT).ok();
    let public = people.public_of(&d.device);
    Some(Mandated {
        hash: statement.hash(),
        account: d.account,
        device: d.device,
        signed: ours && public.is_some_and(|p| signers.is_some_and(|s| s.contains(&p))),
        at_ms: d.at_ms,
        chat: d.chat,
        epochs: d.epochs.iter().copied().collect(),
        of_anyone: d.whose == Whose::Anyone,
    })
}

/// What a grant says of a key, read by whoever looks on.
fn shown(people: &People, grant: &str, key: &KeyRef) -> Option<Shown> {
    let grant = Grant::parse(grant).ok()?;
    let claims = grant.claims();
    let ours = claims.home == home() && claims.deployment == DEPLOYMENT;
    let public = people.public_of(grant.device());
    let (from_ms, until_ms) = window(claims);
    let range = claims.chats.iter().find(|c| c.chat == key.chat);
    Some(Shown {
        hash: grant.hash().0,
        account: claims.account,
        device: *grant.device(),
        signed: ours && public.is_some_and(|public| grant.verify(&public).is_ok()),
        from_ms,
        until_ms,
        range: range.map(|r| (r.from, r.to)),
        ceiling: claims.ceiling,
    })
}

/// Puts random shares, well sealed, in place of the true ones.
fn falsify(
    place: &Place,
    request: &Asked,
    granted: &Committed<ReleaseGranted>,
    answer: &mut ReleaseReply,
    rng: &mut ChaCha20Rng,
) {
    let info = release_info(&place.deployment, &place.custodian);
    let (sender, encapsulated) =
        Sender::new(&request.lease_key, &info, rng).expect("the key was validated");
    let g = granted.value();
    let context = ReleaseBinding {
        authority: g.authority,
        node: g.node,
        lease_key: g.lease_key,
    };
    answer.encapsulated = encapsulated;
    for (result, share) in g.results.iter().zip(&mut answer.shares) {
        if let Ok(granted) = result {
            let binding = ShareBinding {
                deployment: place.deployment,
                custodian: place.custodian.clone(),
                chat: granted.chat,
                key_id: granted.key_id,
                policy: granted.policy,
            };
            let sealed = sender.seal(&binding, Some(&context), [7; 24], &Share::generate(rng));
            *share = ShareResult::Share { sealed };
        }
    }
}
