//! One epoch's opening, run by the shard's leader (DESIGN 6).
//!
//! ```text
//!  prepare ─▶ Prepared ── command() ──▶ raft ── Reply::Intent ──▶ committed() ─▶ Opening
//!                │ no share can be reached from here                 │ sends, acks, thin, abandon
//!                ▼ dropped: as if it had never been                  ▼
//! ```
//!
//! Persist before send is held by the types: the sealed shares of a
//! [`Prepared`] can only be sent by consuming it with the reply that says its
//! intent is committed. A new leader makes an [`Opening`] from a
//! [`PendingIntent`], which exists only as read from applied state; it never
//! learns the data key, so it delivers what the old leader sealed, or abandons.
//! Neither can mix the shares of two dealings: both carry one key id's shares only.
//!
//! The habit of protocol state machines with all storage and network outside
//! is learnt from Oxide's trust-quorum.

use super::command::{
    Command, Conflict, DealingState, DealtLeaf, EpochAck, EpochIntent, Reply, SealedLeaf,
};
use super::read::PendingIntent;
use super::rows::{LeafRow, LeafState};
use super::{OPENING_MS_MAX, RESEND_MS_MIN, SESSION_MS_MAX, THIN_WAIT_MS};
use crate::crypto::seal::{self, SealError, Sender, ShareBinding};
use crate::crypto::subkeys;
use crate::custody::protocol::{
    KeyRef, SealSession, SealedItem, SealingKeyStatement, StoreOutcome,
};
use crate::policy::{Margins, Policy};
use crate::sharing::{self, SharingError};
use crate::types::{
    ChatId, CustodianId, DataKey, DeploymentId, EpochNo, KeyId, Mono, SessionId, WallMs,
};
use rand_core::CryptoRng;
use std::collections::{BTreeMap, BTreeSet};
use subtle::ConstantTimeEq;

/// Why no dealing could be made. Nothing was proposed.
#[derive(Debug, thiserror::Error)]
pub enum DealError {
    /// Too few custodians have a live sealing key that this leader knows.
    #[error("no live sealing key is known for enough custodians; missing: {missing:?}")]
    TooFewSessions {
        /// Custodians without one.
        missing: Vec<CustodianId>,
    },
    /// Splitting failed.
    #[error("the data key could not be split: {0}")]
    Sharing(#[from] SharingError),
    /// The shares do not give the key back: a bug or broken hardware. Nothing of it left this function.
    #[error("the split shares do not recombine to the key; this node must not deal")]
    SelfCheck,
}

/// A seal session not yet committed: nothing can be sealed under it.
pub struct UncommittedSession {
    session: SealSession,
    sender: Sender,
}

/// A committed seal session with the means to seal under it.
pub struct DealSession {
    session: SealSession,
    sender: Sender,
    made: Mono,
}

impl UncommittedSession {
    /// Encapsulates to a custodian's sealing key. The caller has verified the statement.
    ///
    /// # Errors
    /// [`SealError`] when the statement's key is none.
    pub fn new<R: CryptoRng + ?Sized>(
        deployment: &DeploymentId,
        statement: &SealingKeyStatement,
        rng: &mut R,
    ) -> Result<Self, SealError> {
        let info = seal::deal_info(deployment, &statement.custodian, statement.version);
        let (sender, encapsulated) = Sender::new(&statement.public, &info, rng)?;
        let mut id = [0; SessionId::LEN];
        rng.fill_bytes(&mut id);
        let session = SealSession {
            id: SessionId(id),
            custodian: statement.custodian.clone(),
            version: statement.version,
            expires_ms: statement.expires_ms,
            encapsulated,
        };
        Ok(Self { session, sender })
    }
    /// What must commit before it is used.
    pub fn session(&self) -> &SealSession {
        &self.session
    }
    /// Usable, when `reply` is the one to a `SealSessions` that held it.
    pub fn committed(self, reply: &Reply, now: Mono) -> Option<DealSession> {
        (reply == &Reply::Done).then_some(DealSession {
            session: self.session,
            sender: self.sender,
            made: now,
        })
    }
}

impl DealSession {
    /// Its public part.
    pub fn session(&self) -> &SealSession {
        &self.session
    }
    /// Whether it may still be sealed under.
    pub fn live(&self, now: Mono, wall: WallMs) -> bool {
        now.saturating_sub(self.made) < SESSION_MS_MAX && wall < self.session.expires_ms
    }
}

/// What is being dealt.
#[derive(Clone, Copy, Debug)]
pub struct DealContext {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The chat.
    pub chat: ChatId,
    /// The epoch to open.
    pub epoch: EpochNo,
    /// The chat's last opened dealing.
    pub previous: Option<KeyId>,
    /// When custodians destroy the shares, if ever.
    pub expires_ms: Option<WallMs>,
}

/// A dealing whose intent is not committed. Its shares cannot be reached.
pub struct Prepared {
    intent: EpochIntent,
    key: DataKey,
}

/// Draws a data key and key id, splits, recombines as a check, seals each share.
///
/// Custodians without a session in `sessions` get no share: a lost margin from
/// the start, refused when the others could not open it.
///
/// # Errors
/// [`DealError`].
pub fn prepare<R: CryptoRng + ?Sized>(
    cx: &DealContext,
    policy: &Policy,
    sessions: &BTreeMap<CustodianId, &DealSession>,
    rng: &mut R,
) -> Result<Prepared, DealError> {
    let all: BTreeSet<CustodianId> = policy.structure().leaves().into_iter().cloned().collect();
    let sealable: BTreeSet<CustodianId> = sessions.keys().cloned().collect();
    if !policy.satisfied_by(&all.intersection(&sealable).cloned().collect()) {
        let missing = all.difference(&sealable).cloned().collect();
        return Err(DealError::TooFewSessions { missing });
    }
    let key = DataKey::generate(rng);
    let mut key_id = [0; KeyId::LEN];
    rng.fill_bytes(&mut key_id);
    let key_id = KeyId(key_id);
    let shares = sharing::split(policy.structure(), &key, rng)?;
    let given: Vec<_> = shares
        .iter()
        .map(|(id, share)| (id.clone(), share))
        .collect();
    let again = sharing::combine(policy.structure(), &given)?;
    if !bool::from(again.ct_eq(&key)) {
        return Err(DealError::SelfCheck);
    }
    let mut leaves = Vec::with_capacity(shares.len());
    for (custodian, share) in &shares {
        let commitment = sharing::commitment(&key_id, custodian, share);
        let sealed = sessions.get(custodian).map(|s| {
            let binding = ShareBinding {
                deployment: cx.deployment,
                custodian: custodian.clone(),
                chat: cx.chat,
                key_id,
                policy: policy.id(),
            };
            let mut nonce = [0; 24];
            rng.fill_bytes(&mut nonce);
            SealedLeaf {
                session: s.session.id,
                bytes: s.sender.seal(&binding, None, nonce, share),
            }
        });
        leaves.push(DealtLeaf {
            custodian: custodian.clone(),
            commitment,
            sealed,
        });
    }
    let intent = EpochIntent {
        chat: cx.chat,
        epoch: cx.epoch,
        previous: cx.previous,
        key_id,
        policy: policy.id(),
        check: subkeys::key_check(&key),
        leaves,
        expires_ms: cx.expires_ms,
    };
    Ok(Prepared { intent, key })
}

impl Prepared {
    /// The dealing.
    pub fn key(&self) -> KeyRef {
        KeyRef {
            chat: self.intent.chat,
            key_id: self.intent.key_id,
        }
    }
    /// What must commit first.
    pub fn command(&self) -> Command {
        Command::EpochIntent(self.intent.clone())
    }
    /// The opening, when `reply` says that exactly this intent is committed.
    ///
    /// # Errors
    /// [`NotCommitted`]; the data key is gone with `self`.
    pub fn committed(
        self,
        reply: &Reply,
        policy: Policy,
        margins: Margins,
        now: Mono,
    ) -> Result<Opening, NotCommitted> {
        match reply {
            Reply::Intent(key) if *key == self.key() && policy.id() == self.intent.policy => {}
            Reply::Conflict(c) => return Err(NotCommitted::Conflict(*c)),
            other => return Err(NotCommitted::Refused(other.clone())),
        }
        let key = self.key();
        let pending = self.intent.leaves.into_iter().map(|leaf| {
            let (session, item) = leaf.sealed.map_or((None, None), |s| {
                let item = SealedItem {
                    chat: key.chat,
                    epoch: self.intent.epoch,
                    key_id: key.key_id,
                    policy: self.intent.policy,
                    commitment: leaf.commitment,
                    sealed: s.bytes,
                    expires_ms: self.intent.expires_ms,
                };
                (Some(s.session), Some(item))
            });
            (leaf.custodian, Leaf::new(session, item, now))
        });
        Ok(Opening::new(
            key,
            self.intent.epoch,
            pending.collect(),
            policy,
            margins,
            Some(self.key),
            now,
        ))
    }
}

/// Why an intent was not committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCommitted {
    /// Another dealing stands there.
    #[error("the chat's epoch has moved on: {0:?}")]
    Conflict(Conflict),
    /// Refused for good.
    #[error("the shard refused the intent: {0:?}")]
    Refused(Reply),
}

/// What the leader must do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this share. At-least-once: stores are write-once per key id.
    Send {
        /// To whom.
        custodian: CustodianId,
        /// The committed session it is sealed under.
        session: SessionId,
        /// What.
        item: SealedItem,
    },
    /// Propose this to the shard and hand the reply to [`Opening::on_reply`].
    Propose(Command),
    /// It is over.
    Finished(End),
}

/// How an opening ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Records may be written under it. [`Opening::into_key`] has the key for a lease, if this leader dealt it.
    Opened {
        /// With less than the write margin.
        thin: bool,
    },
    /// It will never open.
    Abandoned {
        /// Who had acknowledged when it was given up.
        acked: Vec<CustodianId>,
        /// Who refused, and what it said.
        refused: Vec<(CustodianId, StoreOutcome)>,
        /// Who did not answer.
        silent: Vec<CustodianId>,
    },
    /// Someone else decided it, or this node leads no more: look at the state.
    Superseded,
}

struct Leaf {
    session: Option<SessionId>,
    item: Option<SealedItem>,
    state: LeafState,
    resend_at: Option<Mono>,
    wait: Mono,
    sent: bool,
}

impl Leaf {
    fn new(session: Option<SessionId>, item: Option<SealedItem>, now: Mono) -> Self {
        let pending = item.is_some();
        Self {
            session,
            state: if pending {
                LeafState::Pending
            } else {
                LeafState::Expired
            },
            resend_at: pending.then_some(now),
            item,
            wait: RESEND_MS_MIN,
            sent: false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Collecting,
    /// An `EpochAcks` is proposed that should open it.
    Deciding,
    /// An `Abandon` is proposed.
    Abandoning,
    Over,
}

/// A running opening. Handlers note what happened; [`Opening::take_effects`] drains what follows.
pub struct Opening {
    key_ref: KeyRef,
    epoch: EpochNo,
    leaves: BTreeMap<CustodianId, Leaf>,
    policy: Policy,
    margins: Margins,
    key: Option<DataKey>,
    started: Mono,
    thin_wait_ms: Mono,
    phase: Phase,
    effects: Vec<Effect>,
}

impl Opening {
    fn new(
        key_ref: KeyRef,
        epoch: EpochNo,
        leaves: BTreeMap<CustodianId, Leaf>,
        policy: Policy,
        margins: Margins,
        key: Option<DataKey>,
        now: Mono,
    ) -> Self {
        let mut opening = Self {
            key_ref,
            epoch,
            leaves,
            policy,
            margins,
            key,
            started: now,
            thin_wait_ms: THIN_WAIT_MS,
            phase: Phase::Collecting,
            effects: Vec::new(),
        };
        opening.step(now);
        opening
    }

    /// A new leader takes over an intent it found. It delivers what is in the
    /// outbox; the data key stays unknown to it.
    ///
    /// `None` when `policy` is not the one the intent was dealt under.
    pub fn resume(
        intent: PendingIntent,
        policy: Policy,
        margins: Margins,
        now: Mono,
    ) -> Option<Self> {
        if policy.id() != intent.row.policy {
            return None;
        }
        let mut undelivered: BTreeMap<CustodianId, SealedItem> = intent
            .undelivered
            .into_iter()
            .map(|(custodian, _, item)| (custodian, item))
            .collect();
        let leaf = |l: LeafRow| {
            let mut leaf = Leaf::new(l.session, undelivered.remove(&l.custodian), now);
            if leaf.item.is_none() {
                leaf.state = l.state;
            }
            (l.custodian, leaf)
        };
        let leaves = intent.row.leaves.into_iter().map(leaf).collect();
        Some(Self::new(
            intent.key,
            intent.epoch,
            leaves,
            policy,
            margins,
            None,
            now,
        ))
    }

    /// Waits another time for the margin than [`THIN_WAIT_MS`]; at most [`OPENING_MS_MAX`].
    pub fn set_thin_wait(&mut self, ms: Mono) {
        self.thin_wait_ms = ms.min(OPENING_MS_MAX);
    }

    /// The dealing.
    pub fn key(&self) -> KeyRef {
        self.key_ref
    }
    /// The epoch it opens.
    pub fn epoch(&self) -> EpochNo {
        self.epoch
    }
    /// The policy it is dealt under.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
    /// The data key, for a lease, if this leader dealt it. Only sensible after [`End::Opened`].
    pub fn into_key(self) -> Option<DataKey> {
        self.key
    }
    /// What to do now; empty when there is nothing but to wait for [`Opening::next_timeout`].
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }
    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// When [`Opening::on_timeout`] wants to be called at the latest.
    pub fn next_timeout(&self) -> Option<Mono> {
        if self.phase != Phase::Collecting {
            return None;
        }
        let resend = self.leaves.values().filter_map(|l| l.resend_at).min();
        let give_up = self.started + OPENING_MS_MAX;
        let thin = self.started + self.thin_wait_ms;
        let thin = (self.can_wait_for_thin()).then_some(thin);
        [resend, thin, Some(give_up)].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Mono) {
        self.step(now);
    }

    /// A custodian answered about its share.
    pub fn on_outcome(&mut self, now: Mono, custodian: &CustodianId, outcome: StoreOutcome) {
        let Some(leaf) = self.leaves.get_mut(custodian) else {
            return;
        };
        if leaf.state == LeafState::Acked {
            return;
        }
        leaf.resend_at = None;
        leaf.state = match outcome {
            StoreOutcome::Stored | StoreOutcome::AlreadyStored => LeafState::Acked,
            refused => LeafState::Refused(refused),
        };
        self.step(now);
    }

    /// A send came back without an answer, or the custodian was busy: try again later.
    pub fn on_failed(&mut self, now: Mono, custodian: &CustodianId) {
        if let Some(leaf) = self.leaves.get_mut(custodian)
            && leaf.state == LeafState::Pending
        {
            leaf.resend_at = Some(now + leaf.wait);
            leaf.wait *= 2;
        }
        self.step(now);
    }

    /// The shard answered what was proposed.
    pub fn on_reply(&mut self, now: Mono, reply: &Reply) {
        let state = match (self.phase, reply) {
            (Phase::Deciding, Reply::Acks(states)) => states.first().copied(),
            (Phase::Abandoning, Reply::Done) => Some(DealingState::Abandoned),
            (Phase::Collecting | Phase::Over, _) => return,
            // Conflict on abandoning: it was opened after all, by whom the state tells.
            _ => None,
        };
        match state {
            Some(DealingState::Open { thin }) => self.finish(End::Opened { thin }),
            Some(DealingState::Abandoned) if self.phase == Phase::Abandoning => {
                let end = self.abandoned();
                self.finish(end);
            }
            Some(DealingState::Intent) => {
                self.phase = Phase::Collecting;
                self.step(now);
            }
            _ => self.finish(End::Superseded),
        }
    }

    /// A proposal was not answered, or this node leads no more. The next leader
    /// finds the intent, whatever became of the proposal.
    pub fn on_deposed(&mut self) {
        if self.phase != Phase::Over {
            self.finish(End::Superseded);
        }
    }

    /// What is known so far, as an acknowledgement command; for delivery that
    /// goes on after the opening ended.
    fn ack(&self, waited: bool) -> EpochAck {
        let mut ack = EpochAck {
            key: self.key_ref,
            acked: self.acked().into_iter().collect(),
            lost: Vec::new(),
            waited,
        };
        for (custodian, leaf) in &self.leaves {
            if let LeafState::Refused(outcome) = leaf.state {
                ack.lost.push((custodian.clone(), outcome));
            }
        }
        ack
    }

    fn acked(&self) -> BTreeSet<CustodianId> {
        let acked = self
            .leaves
            .iter()
            .filter(|(_, l)| l.state == LeafState::Acked);
        acked.map(|(id, _)| id.clone()).collect()
    }

    fn settled(&self) -> bool {
        self.leaves.values().all(|l| l.state != LeafState::Pending)
    }

    fn can_wait_for_thin(&self) -> bool {
        !self.margins.require_margin && self.policy.satisfied_by(&self.acked())
    }

    /// Decides what follows from the present state.
    fn step(&mut self, now: Mono) {
        if self.phase != Phase::Collecting {
            return;
        }
        let margin = self.policy.margin_of(&self.acked());
        let full = margin.is_some_and(|m| m >= usize::from(self.margins.write_margin));
        let waited = self.settled() || now >= self.started + self.thin_wait_ms;
        if full || (waited && self.can_wait_for_thin()) {
            self.phase = Phase::Deciding;
            let acks = vec![self.ack(waited)];
            self.effects.push(Effect::Propose(Command::EpochAcks(acks)));
            return;
        }
        if now >= self.started + OPENING_MS_MAX || self.settled() {
            self.phase = Phase::Abandoning;
            self.effects
                .push(Effect::Propose(Command::Abandon(self.key_ref)));
            return;
        }
        for (custodian, leaf) in &mut self.leaves {
            let (Some(session), Some(item)) = (leaf.session, &leaf.item) else {
                continue;
            };
            if leaf.resend_at.is_some_and(|at| at <= now) {
                leaf.resend_at = None;
                leaf.sent = true;
                self.effects.push(Effect::Send {
                    custodian: custodian.clone(),
                    session,
                    item: item.clone(),
                });
            }
        }
    }

    fn abandoned(&self) -> End {
        let mut refused = Vec::new();
        let mut silent = Vec::new();
        for (custodian, leaf) in &self.leaves {
            match leaf.state {
                LeafState::Acked => {}
                LeafState::Refused(outcome) => refused.push((custodian.clone(), outcome)),
                LeafState::Pending | LeafState::Expired => silent.push(custodian.clone()),
            }
        }
        End::Abandoned {
            acked: self.acked().into_iter().collect(),
            refused,
            silent,
        }
    }

    fn finish(&mut self, end: End) {
        self.phase = Phase::Over;
        if !matches!(end, End::Opened { .. }) {
            self.key = None;
        }
        self.effects.push(Effect::Finished(end));
    }
}
