//! A restart without people: a peer hands the keys to a node that had them a
//! short while ago.
//!
//! ```text
//!  giver, every 20 s: Prove{challenge} ─▶ node: MAC under a key version both hold
//!  node restarts, locked: HandOver ─▶ giver: proved within 15 minutes? ─▶ log entry, committed ─▶ keys
//! ```
//!
//! Both sides are nodes of this cluster by their certificates, and the giver
//! itself saw the node prove that it held the keys. It happens once: the giver
//! forgets the proof as it hands over, and `apply` refuses a second handover to
//! the node within fifteen minutes, whoever gives. A node that was locked by an
//! operator does not ask. Whoever steals a running node's disk and certificate
//! and takes its place within the window gets its keys: the threat model says so.
//!
//! The same proof guards key versions that are fetched or sent one by one: a
//! node that once held keys and cannot prove one now gets no other.

use super::Custodian;
use super::internal::{Ask, Handed, KeyBytes, Told, ask, no};
use super::vault::draw;
use quorate_engine::crypto::keyslot;
use quorate_engine::custody::keys::SlotPublic;
use quorate_engine::custody::{
    self, Command, Effect, KeyEvent, KeyEventKind, KeyKind, VersionState,
};
use quorate_engine::types::NodeId;
use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;

/// How often each peer is asked to prove that it holds the keys.
const PROVE_EVERY: Duration = Duration::from_secs(20);
/// Longest wait for a peer's word.
const PEER_WAIT_MAX: Duration = Duration::from_secs(2);
/// Key versions that a node may be asked about until one is proved.
const TRIES_MAX: usize = 8;
/// How often a restarted node asks for its keys.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Who proved what when, and whether this node asks for its own keys.
pub(super) struct Restart {
    proved: BTreeMap<NodeId, Instant>,
    looked: Option<Instant>,
    asked: Option<Instant>,
    /// Until when this node asks its peers; `None`: it does not.
    asks_until: Option<Instant>,
    may_ask: bool,
}

impl Restart {
    /// `open`: the node opened by itself and needs nobody.
    pub(super) fn new(open: bool) -> Self {
        Self {
            proved: BTreeMap::new(),
            looked: None,
            asked: None,
            asks_until: None,
            may_ask: !open,
        }
    }
}

impl Custodian {
    fn restart(&self) -> MutexGuard<'_, Restart> {
        let lock = self.0.restart.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node says to a challenge of `to`.
    pub(super) fn prove(
        &self,
        to: NodeId,
        kind: KeyKind,
        version: u32,
        challenge: &[u8; 32],
    ) -> Told {
        let own = self.0.consensus.node();
        let vault = self.0.vault.lock().expect("no holder panics");
        match vault.get(kind, version) {
            Some(key) => Told::Proof {
                proof: keyslot::key_held(key, own, to, kind.as_str(), version, challenge),
            },
            None => no("this version is not loaded here"),
        }
    }

    /// Whether `node` proves that it holds a key version that it once attested. `None`: it never
    /// attested one, it is new here.
    async fn proves(&self, node: NodeId) -> Option<bool> {
        let own = self.0.consensus.node();
        let mut attested = Vec::new();
        for kind in [KeyKind::Wrapping, KeyKind::Sealing] {
            let rows = super::consensus::view(&*self.0.consensus, |kv| custody::versions(kv, kind));
            // What cannot be read proves nothing.
            let Ok(rows) = rows else { return Some(false) };
            let of = rows
                .into_iter()
                .rev()
                .filter(|(_, r)| r.attested.contains(&node));
            attested.extend(of.map(|(v, r)| (kind, v, r.state)));
        }
        if attested.is_empty() {
            return None;
        }
        attested.retain(|(_, _, state)| *state != VersionState::Dropped);
        for (kind, version, _) in attested.into_iter().take(TRIES_MAX) {
            let expected = {
                let Ok(challenge) = draw() else {
                    return Some(false);
                };
                let challenge = *challenge.expose();
                let vault = self.0.vault.lock().expect("no holder panics");
                let Some(key) = vault.get(kind, version) else {
                    continue;
                };
                let name = kind.as_str();
                (
                    challenge,
                    keyslot::key_held(key, node, own, name, version, &challenge),
                )
            };
            let what = Ask::Prove {
                kind,
                version,
                challenge: expected.0,
            };
            let call = ask(&*self.0.peers, node, &what);
            // A node that does not answer is not asked about its other versions.
            let Ok(told) = tokio::time::timeout(PEER_WAIT_MAX, call).await else {
                return Some(false);
            };
            if let Ok(Told::Proof { proof }) = told
                && bool::from(proof.ct_eq(&expected.1))
            {
                self.restart().proved.insert(node, Instant::now());
                return Some(true);
            }
        }
        Some(false)
    }

    /// Whether key versions may go to `node`: it is new, it proves one, or (with `window`) it
    /// proved one a short while ago; that is recorded first, and counts once.
    pub(super) async fn may_have_keys(&self, node: NodeId, window: bool) -> bool {
        match self.proves(node).await {
            None | Some(true) => true,
            Some(false) if window => self.handover(node).await.is_ok(),
            Some(false) => false,
        }
    }

    /// Records a handover to `node`, if it proved its keys to this very node within the window.
    async fn handover(&self, node: NodeId) -> Result<(), String> {
        if !self.unlocked() {
            return Err("this node is locked itself".into());
        }
        let at = self.restart().proved.remove(&node);
        let fresh = at.is_some_and(|at| at.elapsed() < self.0.options.handover_max);
        if !fresh {
            return Err("it did not prove its keys here within the window".into());
        }
        let lead = self.0.consensus.lead();
        let own = self.0.consensus.node();
        let recorded = if lead.is_leader {
            self.record_handover(node, own).await
        } else if let Some(leader) = lead.leader {
            let told = ask(&*self.0.peers, leader, &Ask::HandingOver { node }).await;
            told.map(drop)
        } else {
            Err("no leader records it".into())
        };
        if recorded.is_err()
            && let Some(at) = at
        {
            // Nothing was handed over. The window still ends when it did.
            self.restart().proved.entry(node).or_insert(at);
        }
        recorded
    }

    /// Has the handover of `giver`'s keys to `node` committed.
    pub(super) async fn record_handover(&self, node: NodeId, giver: NodeId) -> Result<(), String> {
        let event = KeyEvent {
            node,
            operator: None,
            what: KeyEventKind::HandedOver,
            reason: format!("node {giver} hands its keys to node {node}, which restarted"),
        };
        tracing::warn!("keys: {}", event.reason);
        let done = self.submit(Command::KeyEvent(event)).await;
        match done.map_err(|e| e.to_string())?.into_value().effect {
            Effect::Done => Ok(()),
            Effect::Refused { reason } => Err(reason),
            other => Err(format!("the handover was answered by {other:?}")),
        }
    }

    /// Answers a restarted node: everything, once, or why not.
    pub(super) async fn hand_keys_to(&self, node: NodeId) -> Told {
        if let Err(why) = self.handover(node).await {
            return no(why);
        }
        let vault = self.0.vault.lock().expect("no holder panics");
        if !vault.is_open() {
            return no("this node is locked itself");
        }
        let keys = vault.keys().map(|(kind, version, key)| Handed {
            kind,
            version,
            key: KeyBytes::of(key),
        });
        let slots = vault
            .slots()
            .map(|s| serde_bytes::ByteBuf::from(s.encode()));
        Told::HandedOver {
            keys: keys.collect(),
            slots: slots.collect(),
        }
    }

    /// Has every peer prove now and then that it holds the keys.
    pub(super) async fn watch_peers(&self) {
        if !self.unlocked() {
            return;
        }
        {
            let mut r = self.restart();
            if r.looked.is_some_and(|at| at.elapsed() < PROVE_EVERY) {
                return;
            }
            r.looked = Some(Instant::now());
            let max = self.0.options.handover_max;
            r.proved.retain(|_, at| at.elapsed() < max);
        }
        let own = self.0.consensus.node();
        let others = self.0.consensus.members().into_iter().filter(|n| *n != own);
        futures::future::join_all(others.map(|n| self.proves(n))).await;
    }

    /// A restarted node asks its peers for its keys; whether it is open now.
    pub(super) async fn restart_without_people(&self) -> bool {
        {
            let mut r = self.restart();
            let max = self.0.options.handover_max;
            let until = *r.asks_until.get_or_insert_with(|| Instant::now() + max);
            let early = r.asked.is_some_and(|at| at.elapsed() < ASK_EVERY);
            if !r.may_ask || early || Instant::now() > until {
                return false;
            }
            r.asked = Some(Instant::now());
        }
        {
            let vault = self.0.vault.lock().expect("no holder panics");
            if vault.is_new() || vault.is_locked_by_operator() {
                return false;
            }
        }
        let own = self.0.consensus.node();
        for node in self.0.consensus.members() {
            if node == own {
                continue;
            }
            let call = ask(&*self.0.peers, node, &Ask::HandOver);
            let told = tokio::time::timeout(PEER_WAIT_MAX * 2, call).await;
            let Ok(Ok(Told::HandedOver { keys, slots })) = told else {
                continue;
            };
            let slots: Result<Vec<_>, _> = slots.iter().map(|s| SlotPublic::decode(s)).collect();
            let keys = keys
                .into_iter()
                .map(|h| (h.kind, h.version, h.key.take()))
                .collect();
            let restored = match slots {
                // An operator may have locked the node meanwhile: then it stays so.
                Ok(slots) if self.restart().may_ask => {
                    let work = self.with_vault(move |vault| vault.restore(&slots, keys));
                    work.await.map_err(|e| e.to_string())
                }
                Ok(_) => return false,
                Err(e) => Err(e.to_string()),
            };
            match restored {
                Ok(()) => {
                    self.restart().may_ask = false;
                    self.0.consensus.may_lead(true);
                    tracing::warn!("keys: node {node} handed them over; this node is unlocked");
                    return true;
                }
                Err(e) => tracing::error!("keys from node {node} could not be kept: {e}"),
            }
        }
        false
    }

    /// An operator locked this node: it asks nobody, and its peers are to forget its proof.
    pub(super) async fn stay_locked(&self) {
        {
            let mut r = self.restart();
            r.may_ask = false;
            r.proved.clear();
        }
        let own = self.0.consensus.node();
        let others = self.0.consensus.members().into_iter().filter(|n| *n != own);
        let tell = others.map(|n| async move {
            // Who is not reached forgets by itself when the window ends.
            let _ = tokio::time::timeout(PEER_WAIT_MAX, ask(&*self.0.peers, n, &Ask::Forget)).await;
        });
        futures::future::join_all(tell).await;
    }

    /// `node` was locked by its operators.
    pub(super) fn forget_proof(&self, node: NodeId) {
        self.restart().proved.remove(&node);
    }
}
