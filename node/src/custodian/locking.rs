//! A node's own keys: locked and unlocked, by whom, and ceremonies about it.
//!
//! A locked node votes and follows, so that its cluster stays whole; it does
//! not stand for election, serves no home, takes and gives no key. A leader
//! that is locked hands leadership to a node that is not; when all are locked
//! the last leader may stay in office, and answers homes that it is locked.
//!
//! What happens to keys stands in the custodian's log. It is recorded after the
//! fact: unlocking must work before there is a leader, and locking must never
//! wait for one. Until it is recorded it waits here, a bounded number of events.

use super::consensus::Lead;
use super::internal::{Ask, Told, ask};
use super::operator::OperatorProblem;
use super::vault::{VaultProblem, seeded};
use super::{Custodian, Ring};
use quorate_engine::api::keys::{
    CollectRequest, ConfirmRequest, GatheringView, KeysDone, KeysStep, KeysView, NamedRequest,
    OpenRequest, Purpose, RekeyRequest, RekeyView, SecretText, SlotView,
};
use quorate_engine::api::operator::REASON_CHARS_MAX;
use quorate_engine::custody::keys::{
    CeremonyError, Gathered, Gathering, HeldShare, HolderTree, Provider, Rekey, SlotPublic,
};
use quorate_engine::custody::{Command, KeyEvent, KeyEventKind, KeyKind, Operator};
use quorate_engine::types::{CustodianId, Secret};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use zeroize::Zeroize;

/// Most events that wait for a leader to record them.
const EVENTS_MAX: usize = 64;
/// A rotation that is asked for so soon after the last is taken for its repetition.
const ROTATED_AGAIN_MS_MIN: u64 = 20_000;
/// Longest wait for requests that are still using keys being dropped.
const DROP_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest wait for another node's word.
const PEER_WAIT_MAX: Duration = Duration::from_secs(2);

/// What people are in the middle of, and what is not recorded yet.
#[derive(Default)]
pub(super) struct Ceremonies {
    gathering: Option<(Purpose, Gathering)>,
    rekey: Option<Rekey>,
    events: VecDeque<KeyEvent>,
}

type Step<T> = Result<T, OperatorProblem>;

fn refused(e: impl std::fmt::Display) -> OperatorProblem {
    OperatorProblem::Refused(e.to_string())
}

fn bytes<const N: usize>(what: &str, text: &str) -> Step<[u8; N]> {
    let mut out = [0; N];
    hex::decode_to_slice(text.trim(), &mut out)
        .map_err(|_| refused(format!("{what} must be {} hex characters", N * 2)))?;
    Ok(out)
}

fn name(what: &str, text: &str) -> Step<CustodianId> {
    CustodianId::new(text).map_err(|e| refused(format!("{what}: {e}")))
}

fn names<'a>(all: impl IntoIterator<Item = &'a CustodianId>) -> Vec<String> {
    all.into_iter().map(ToString::to_string).collect()
}

impl Custodian {
    fn ceremonies(&self) -> MutexGuard<'_, Ceremonies> {
        let lock = self.0.ceremonies.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, operator: Option<Operator>, what: KeyEventKind, reason: String) {
        let node = self.0.consensus.node();
        tracing::warn!(node, "keys: {reason}");
        let mut c = self.ceremonies();
        if c.events.len() == EVENTS_MAX {
            tracing::error!("too many events of keys wait for a leader; the oldest is given up");
            c.events.pop_front();
        }
        c.events.push_back(KeyEvent {
            node,
            operator,
            what,
            reason,
        });
    }

    /// Has waiting events recorded, oldest first, as far as there is a leader.
    pub(super) async fn record_events(&self, lead: Lead) {
        loop {
            let Some(event) = self.ceremonies().events.front().cloned() else {
                return;
            };
            let told = if lead.is_leader {
                let done = self.submit(Command::KeyEvent(event)).await;
                done.map(drop).map_err(|e| e.to_string())
            } else if let Some(leader) = lead.leader {
                ask(&*self.0.peers, leader, &Ask::Event { event })
                    .await
                    .map(drop)
            } else {
                return;
            };
            match told {
                Ok(()) => {
                    self.ceremonies().events.pop_front();
                }
                Err(e) => return tracing::debug!("an event of keys was not recorded yet: {e}"),
            }
        }
    }

    /// Gives leadership to a voter whose keys are loaded, if there is one.
    pub(super) async fn lead_elsewhere(&self) {
        let own = self.0.consensus.node();
        for node in self.0.consensus.voters() {
            if node == own {
                continue;
            }
            let call = ask(&*self.0.peers, node, &Ask::Standing);
            if let Ok(Ok(Told::Standing { open: true })) =
                tokio::time::timeout(PEER_WAIT_MAX, call).await
            {
                return self.0.consensus.hand_over_to(node).await;
            }
        }
    }

    /// What operators should act on.
    pub(super) fn key_warnings(&self) -> Vec<String> {
        let vault = self.0.vault.lock().expect("no holder panics");
        let mut out = Vec::new();
        if vault.is_new() {
            out.push("locked: no key slot is set up; `quorate custodian keys rekey`".into());
        } else if !vault.is_open() {
            out.push("locked: this node's keys are not loaded; `quorate custodian unlock`".into());
        }
        if vault.slots().any(|s| s.provider == Provider::KeyFile) {
            out.push("a key file opens this node's keys: for development only".into());
        }
        if !vault.memory_locked() {
            out.push("the root key's memory is not locked: raise RLIMIT_MEMLOCK".into());
        }
        out
    }

    /// This node's key slots and ceremonies.
    pub fn keys_view(&self) -> KeysView {
        let now = self.now();
        let mut c = self.ceremonies();
        c.gathering = c.gathering.take().filter(|(_, g)| !g.idle(now));
        c.rekey = c.rekey.take().filter(|r| !r.expired(now));
        let gathering = c.gathering.as_ref().map(|(purpose, g)| GatheringView {
            ceremony: hex::encode(g.nonce()),
            slot: g.slot().name.to_string(),
            purpose: *purpose,
            holders: g.tree().to_string(),
            have: names(g.have()),
        });
        let rekey = c.rekey.as_ref().map(|r| RekeyView {
            ceremony: hex::encode(r.ceremony()),
            challenge: hex::encode(r.challenge()),
            slot: r.slot().to_string(),
            holders: r.tree().to_string(),
            confirmed: names(r.confirmed()),
        });
        drop(c);
        let slot = |s: &SlotPublic| {
            let shares = match &s.provider {
                Provider::Shares(p) => Some(p),
                _ => None,
            };
            SlotView {
                name: s.name.to_string(),
                provider: s.provider.as_str().into(),
                holders: shares.map(|p| p.tree.to_string()),
                ceremony: shares.map(|p| hex::encode(p.ceremony)),
                public: hex::encode(s.encode()),
            }
        };
        let vault = self.0.vault.lock().expect("no holder panics");
        KeysView {
            node: self.0.consensus.node(),
            open: vault.is_open(),
            new: vault.is_new(),
            provider: match &self.0.provider {
                Some(own) => own.slot_name().into(),
                None => "people".into(),
            },
            memory_locked: vault.memory_locked(),
            slots: vault.slots().map(slot).collect(),
            gathering,
            rekey,
        }
    }

    /// One step of an operator about this node's keys.
    ///
    /// # Errors
    /// [`OperatorProblem::Refused`] in words; then nothing changed.
    pub async fn keys_step(&self, by: Operator, step: KeysStep) -> Step<KeysDone> {
        // Forget what ran out before anybody joins it.
        let _ = self.keys_view();
        let mut share = None;
        let detail = match step {
            KeysStep::Open(r) => self.open_slot(by, r).await?,
            KeysStep::Lock(r) => self.lock(by, &r.reason).await,
            KeysStep::Rekey(r) => self.rekey(by, r).await?,
            KeysStep::Collect(r) => {
                let held = self.collect(&r)?;
                share = Some(SecretText(held.to_text().to_string()));
                format!("the share of {}; confirm it once it is stored", held.holder)
            }
            KeysStep::Confirm(r) => self.confirm(by, &r).await?,
            KeysStep::Cancel(r) => self.cancel(by, &r)?,
            KeysStep::Rotate(r) => {
                let kind = match r.kind.as_str() {
                    "wrapping" => KeyKind::Wrapping,
                    "sealing" => KeyKind::Sealing,
                    _ => return Err(refused("kind is `wrapping` or `sealing`")),
                };
                if !(1..=REASON_CHARS_MAX).contains(&r.reason.chars().count()) {
                    let chars = format!("reason must be 1 to {REASON_CHARS_MAX} characters");
                    return Err(refused(chars));
                }
                self.rotate_for(by, kind, &r.reason).await?
            }
            KeysStep::Remove(r) => {
                let slot = r.name.clone();
                self.with_vault(move |v| v.remove_slot(&slot))
                    .await
                    .map_err(refused)?;
                self.ceremonies().gathering = None;
                let said = format!("slot {} was removed: {}", r.name, r.reason);
                self.event(Some(by), KeyEventKind::Slots, said);
                format!("slot {} is gone; a new root is in use", r.name)
            }
        };
        Ok(KeysDone {
            detail,
            view: self.keys_view(),
            share,
        })
    }

    /// The next version of a key, unless the one in use is so new that this must be a repetition.
    async fn rotate_for(&self, by: Operator, kind: KeyKind, reason: &str) -> Step<String> {
        let name = kind.as_str();
        if let Some((version, age_ms)) = self.version_age(kind).map_err(refused)?
            && age_ms < ROTATED_AGAIN_MS_MIN
        {
            let s = age_ms / 1_000;
            return Ok(format!(
                "{name} version {version} came into use {s} s ago; nothing to do"
            ));
        }
        let version = self.rotate_key(kind).await?;
        let said = format!("{name} version {version} is in use: {reason}");
        self.event(Some(by), KeyEventKind::Rotation, said);
        Ok(format!("{name} version {version} is in use"))
    }

    async fn open_slot(&self, by: Operator, r: OpenRequest) -> Step<String> {
        if r.purpose == Purpose::Unlock && self.unlocked() {
            return Ok("this node is unlocked already".into());
        }
        let given = |slot: Option<String>| slot.ok_or_else(|| refused("name the slot"));
        let (slot, key) = match (r.share, r.unlock_key) {
            (Some(share), None) => match self.gather(r.purpose, r.ceremony.as_deref(), &share)? {
                Ok((slot, key)) => (slot, key),
                Err(waiting) => return Ok(waiting),
            },
            (None, Some(text)) => {
                let mut raw = bytes::<32>("unlock_key", &text.0)?;
                (given(r.slot)?, Secret::take(&mut raw))
            }
            (None, None) => self.own_key(r.slot).await?,
            (Some(_), Some(_)) => return Err(refused("give a share or an unlock key, not both")),
        };
        let (name, purpose) = (slot.clone(), r.purpose);
        let opened = self.with_vault(move |vault| match purpose {
            Purpose::Unlock => vault.unlock(&name, &key).map(|()| 0),
            Purpose::Check => vault.check(&name, &key),
        });
        let keys = opened.await.map_err(refused)?;
        if r.purpose == Purpose::Check {
            return Ok(format!("slot {slot} would open: {keys} key versions"));
        }
        self.0.consensus.may_lead(true);
        let said = format!("unlocked through slot {slot}: {}", r.reason);
        self.event(Some(by), KeyEventKind::Unlocked, said);
        Ok(format!("this node is unlocked, through slot {slot}"))
    }

    /// The unlock key of the configured provider.
    async fn own_key(&self, slot: Option<String>) -> Step<(String, Secret<32>)> {
        let none = || refused("no provider of this node opens without people");
        let own = self.0.provider.clone().ok_or_else(none)?;
        let found = {
            let vault = self.0.vault.lock().expect("no holder panics");
            let fits = |s: &&SlotPublic| {
                own.opens(&s.provider) && slot.as_ref().is_none_or(|n| s.name.as_str() == n)
            };
            vault.slots().find(fits).cloned()
        };
        let found = found.ok_or_else(|| refused("this node's provider opens no such slot"))?;
        let name = found.name.to_string();
        let asked = tokio::task::spawn_blocking(move || own.unlock_key(&found)).await;
        let key = asked.map_err(refused)?.map_err(refused)?;
        Ok((name, key))
    }

    /// Adds a share. Outer error: refused; inner: more are needed.
    #[allow(clippy::type_complexity)]
    fn gather(
        &self,
        purpose: Purpose,
        ceremony: Option<&str>,
        share: &SecretText,
    ) -> Step<Result<(String, Secret<32>), String>> {
        let held = HeldShare::parse(&share.0).map_err(refused)?;
        let holder = held.holder.clone();
        let now = self.now();
        let slot = {
            let vault = self.0.vault.lock().expect("no holder panics");
            vault.slot(held.slot.as_str()).cloned().map_err(refused)?
        };
        let mut c = self.ceremonies();
        let nonce = match (&c.gathering, ceremony) {
            (Some((p, g)), _) if *p != purpose || *g.slot() != slot => {
                return Err(refused(format!(
                    "another gathering is under way, for slot {}; wait for it, or cancel {}",
                    g.slot().name,
                    hex::encode(g.nonce())
                )));
            }
            (Some(_), None) => return Err(refused("a gathering is under way; name it")),
            (None, Some(_)) => return Err(refused("that gathering is over; begin a new one")),
            (_, Some(text)) => bytes("ceremony", text)?,
            (None, None) => {
                let mut rng = seeded().map_err(refused)?;
                let fresh = Gathering::begin(&slot, now, &mut rng).map_err(refused)?;
                let nonce = *fresh.nonce();
                c.gathering = Some((purpose, fresh));
                nonce
            }
        };
        let Some((_, g)) = &mut c.gathering else {
            return Err(refused("the gathering is over; begin a new one"));
        };
        let added = g.add(&self.0.place, &nonce, held, now);
        let have = names(g.have()).join(", ");
        match added {
            Ok(Gathered::Complete(key)) => {
                c.gathering = None;
                Ok(Ok((slot.name.to_string(), key)))
            }
            Ok(Gathered::Waiting) => Ok(Err(format!(
                "the share of {holder} is right; here are {have} of {}",
                g.tree()
            ))),
            Err(e) => {
                // A gathering that nobody has joined is not worth keeping.
                if g.have().is_empty() {
                    c.gathering = None;
                }
                Err(refused(e))
            }
        }
    }

    /// Drops root and keys at once.
    pub(super) async fn lock(&self, by: Operator, reason: &str) -> String {
        // From here on nothing is answered, whatever still runs.
        self.0.open.store(false, Ordering::Release);
        self.0.ready_term.store(0, Ordering::Release);
        self.0.consensus.may_lead(false);
        let old = {
            let mut vault = self.0.vault.lock().expect("no holder panics");
            vault.lock();
            // Across a restart, too: without this a peer might hand the keys back.
            if let Err(e) = vault.mark_locked(true) {
                tracing::error!("the lock does not outlive a restart: {e}");
            }
            let mut ring = self.0.ring.write().expect("no writer panics");
            self.0.open.store(false, Ordering::Release);
            std::mem::replace(&mut *ring, Arc::new(Ring::default()))
        };
        self.0.cache.forget_all();
        {
            let mut c = self.ceremonies();
            c.gathering = None;
            c.rekey = None;
        }
        self.stay_locked().await;
        // Requests past the door hold the ring for a moment longer.
        let until = Instant::now() + DROP_WAIT_MAX;
        while Arc::strong_count(&old) > 1 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drop(old);
        self.event(Some(by), KeyEventKind::Locked, format!("locked: {reason}"));
        "this node is locked: its keys are dropped".into()
    }

    async fn rekey(&self, by: Operator, r: RekeyRequest) -> Step<String> {
        let ready = {
            let vault = self.0.vault.lock().expect("no holder panics");
            vault.is_open() || vault.is_new()
        };
        if !ready {
            return Err(refused(VaultProblem::Locked));
        }
        let slot = |given: Option<String>| match given {
            Some(text) => name("slot", &text),
            None => Err(refused("name the slot")),
        };
        let public = match (r.holders, r.public, r.own) {
            (Some(holders), None, false) => {
                let slot = slot(r.slot)?;
                let tree: HolderTree = holders.parse().map_err(refused)?;
                return self.begin_rekey(by, slot, tree, &r.reason);
            }
            (None, Some(mut text), false) => {
                let raw = hex::decode(&text).map_err(|_| refused("public must be hex"));
                text.zeroize();
                SlotPublic::decode(&raw?).map_err(refused)?
            }
            (None, None, true) => {
                let slot = slot(r.slot)?;
                let none = || refused("this node has no provider of its own in its configuration");
                let own = self.0.provider.clone().ok_or_else(none)?;
                let made = tokio::task::spawn_blocking(move || own.new_slot(slot)).await;
                made.map_err(refused)?.map_err(refused)?
            }
            _ => return Err(refused("give exactly one of holders, public and own")),
        };
        self.install(by, public, &r.reason).await
    }

    fn begin_rekey(
        &self,
        by: Operator,
        slot: CustodianId,
        tree: HolderTree,
        reason: &str,
    ) -> Step<String> {
        let mut rng = seeded().map_err(refused)?;
        let now = self.now();
        let said = {
            let mut c = self.ceremonies();
            if let Some(r) = &c.rekey {
                return Err(refused(format!(
                    "ceremony {} for slot {} ({}) is under way and cannot be changed; cancel it first",
                    hex::encode(r.ceremony()),
                    r.slot(),
                    r.tree()
                )));
            }
            let fresh = Rekey::begin(slot, tree, now, &mut rng).map_err(refused)?;
            let said = format!(
                "ceremony {} deals slot {} to {}",
                hex::encode(fresh.ceremony()),
                fresh.slot(),
                fresh.tree()
            );
            c.rekey = Some(fresh);
            said
        };
        self.event(Some(by), KeyEventKind::Slots, format!("{said}: {reason}"));
        Ok(format!(
            "{said}; each holder collects and confirms, and nothing counts before all have"
        ))
    }

    fn collect(&self, r: &CollectRequest) -> Step<HeldShare> {
        let (ceremony, holder) = (bytes("ceremony", &r.ceremony)?, name("holder", &r.holder)?);
        let mut c = self.ceremonies();
        let rekey = c.rekey.as_mut().ok_or_else(no_rekey)?;
        rekey
            .collect(&self.0.place, &ceremony, &holder)
            .map_err(refused)
    }

    async fn confirm(&self, by: Operator, r: &ConfirmRequest) -> Step<String> {
        let (ceremony, holder) = (bytes("ceremony", &r.ceremony)?, name("holder", &r.holder)?);
        let proof = bytes("proof", &r.proof)?;
        let slot = {
            let mut c = self.ceremonies();
            let rekey = c.rekey.as_mut().ok_or_else(no_rekey)?;
            let all = rekey.confirm(&ceremony, &holder, &proof).map_err(refused)?;
            if !all {
                let (have, of) = (rekey.confirmed().len(), rekey.tree().holders().len());
                return Ok(format!(
                    "{holder} holds a share; {have} of {of} have confirmed"
                ));
            }
            rekey.finished().map_err(|e: CeremonyError| refused(e))?
        };
        let done = self
            .install(by, slot, &format!("ceremony {}", r.ceremony))
            .await?;
        self.ceremonies().rekey = None;
        Ok(done)
    }

    fn cancel(&self, by: Operator, r: &NamedRequest) -> Step<String> {
        let ceremony: [u8; 16] = bytes("ceremony", &r.name)?;
        {
            let mut c = self.ceremonies();
            if c.gathering
                .as_ref()
                .is_some_and(|(_, g)| *g.nonce() == ceremony)
            {
                c.gathering = None;
            } else if c.rekey.as_ref().is_some_and(|k| *k.ceremony() == ceremony) {
                c.rekey = None;
            } else {
                return Err(refused("no such ceremony is under way here"));
            }
        }
        let said = format!("ceremony {} was given up: {}", r.name, r.reason);
        self.event(Some(by), KeyEventKind::Slots, said);
        Ok(format!("ceremony {} is given up; nothing changed", r.name))
    }

    /// Puts a slot in under a new root. A node that was new is open then.
    async fn install(&self, by: Operator, slot: SlotPublic, reason: &str) -> Step<String> {
        let said = format!("slot {} ({})", slot.name, slot.provider.as_str());
        let same = {
            let vault = self.0.vault.lock().expect("no holder panics");
            vault.slot(slot.name.as_str()).is_ok_and(|s| *s == slot)
        };
        if same {
            return Ok(format!("{said} is in use already"));
        }
        self.with_vault(move |vault| vault.put_slot(slot))
            .await
            .map_err(refused)?;
        self.0.consensus.may_lead(true);
        self.ceremonies().gathering = None;
        self.event(
            Some(by),
            KeyEventKind::Slots,
            format!("{said} is in use, under a new root: {reason}"),
        );
        Ok(format!(
            "{said} is in use, under a new root; what opened it before does not"
        ))
    }
}

fn no_rekey() -> OperatorProblem {
    refused("no new shares are being dealt here; `custodian keys rekey` begins")
}
