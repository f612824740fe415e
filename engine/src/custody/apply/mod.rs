//! `apply`: what a committed command does. Deterministic, total, one log entry
//! a command, refused ones included.

mod decisions;
mod destroy;
mod disclose;
mod keys;
mod mandate;
mod officers;
mod release;
mod statements;
mod store;

use super::command::{Command, Proposal, Stamped};
use super::protocol::FreezeScope;
use super::reply::{Applied, ApplyReply, Effect};
use super::rows::{self, FREEZE, Tombstone, TombstoneCause};
use super::standings::{Rows, Standings};
use crate::audit::{Blinds, Entry, HexBytes, KeyLine, KeyOutcome, Log, Opening, OpeningKind};
use crate::authz::grant::{Afresh, KnownGrants};
use crate::authz::identity::RECOVERY_WAIT_MS;
use crate::authz::officers::Floor;
use crate::authz::orders::COOL_OFF_MS_MIN;
use crate::types::kv::{Kv, KvError, Machine, Position};
use crate::types::{ChatId, CustodianId, DeploymentId, KeyId, WallMs};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A custodian's replicated state machine.
#[derive(Clone, Debug)]
pub struct Custody {
    custodian: CustodianId,
    identity: [u8; 32],
    deployment: Option<DeploymentId>,
    recovery_wait_ms: u64,
    floor: Floor,
    cool_off_ms: u64,
    standings: Arc<dyn Standings>,
    known: Arc<dyn KnownGrants>,
}

impl Custody {
    /// The machine of `custodian`, whose identity key hashes to `identity` as
    /// policies name it. Both must be equal on all nodes of the cluster.
    pub fn new(custodian: CustodianId, identity: [u8; 32]) -> Self {
        Self {
            custodian,
            identity,
            deployment: None,
            recovery_wait_ms: RECOVERY_WAIT_MS,
            floor: Floor::default(),
            cool_off_ms: COOL_OFF_MS_MIN,
            standings: Arc::new(Rows),
            known: Arc::new(Afresh),
        }
    }

    /// For statements and grants signed in `deployment`; without it, all are refused.
    /// Must be equal on all nodes of the cluster.
    #[must_use]
    pub fn serving(mut self, deployment: DeploymentId) -> Self {
        self.deployment = Some(deployment);
        self
    }

    /// With a stricter local floor and a longer cool-off of orders; numbers
    /// below the defaults change nothing. Must be equal on all nodes of the cluster.
    #[must_use]
    pub fn with_floor(mut self, floor: Floor, cool_off_ms: u64) -> Self {
        self.floor = self.floor.higher(&floor);
        self.cool_off_ms = self.cool_off_ms.max(cool_off_ms);
        self
    }

    /// The floor it was built with; officers can raise it further.
    pub fn floor(&self) -> Floor {
        self.floor
    }

    /// How long an approved order waits at least, in milliseconds.
    pub fn cool_off_ms(&self) -> u64 {
        self.cool_off_ms
    }

    /// With a memory of grants that were read before. It spares reading them again and changes
    /// nothing that is decided, so nodes need not remember alike.
    #[must_use]
    pub fn with_known_grants(mut self, known: Arc<dyn KnownGrants>) -> Self {
        self.known = known;
        self
    }

    /// With standings read from elsewhere than the rows of accounts and chats.
    #[cfg(test)]
    #[must_use]
    pub fn with_standings(mut self, standings: Arc<dyn Standings>) -> Self {
        self.standings = standings;
        self
    }

    /// With another wait before a recovery ends; its floor holds whatever is
    /// set. Must be equal on all nodes of the cluster.
    #[must_use]
    pub fn with_recovery_wait(mut self, wait_ms: u64) -> Self {
        self.recovery_wait_ms = wait_ms;
        self
    }
}

impl Machine for Custody {
    fn apply(&self, kv: &mut dyn Kv, _at: Position, command: &[u8]) -> Result<Vec<u8>, KvError> {
        let proposal = match Proposal::decode(command) {
            Ok(proposal) => proposal,
            // Every node passes it alike: a build that reads it would have to
            // carry another format version, and the cluster be upgraded first.
            Err(e) => {
                let reason = e.to_string();
                return Ok(ApplyReply::Undecodable { reason }.encode());
            }
        };
        let mut run = Run {
            custody: self,
            log: Log::load(kv)?,
            kv,
            clock_ms: proposal.clock_ms,
            live: BTreeMap::new(),
        };
        let mut applied = Vec::with_capacity(proposal.commands.len());
        for stamped in &proposal.commands {
            applied.push(run.one(stamped)?);
            run.flush_live()?;
        }
        let Run { log, kv, .. } = run;
        log.save(kv)?;
        Ok(ApplyReply::Applied(applied).encode())
    }
}

/// One raft entry being applied.
struct Run<'a> {
    custody: &'a Custody,
    kv: &'a mut dyn Kv,
    log: Log,
    clock_ms: WallMs,
    /// Changes in the number of live shares by wrapping version.
    live: BTreeMap<u32, i64>,
}

/// The log entry of the command being applied, growing.
struct Draft<'a> {
    entry: Entry,
    blinds: &'a Blinds,
    chats: BTreeMap<ChatId, u16>,
    openings: Vec<Opening>,
}

impl Draft<'_> {
    /// The place of `chat` in the entry's list of commitments.
    fn chat(&mut self, chat: &ChatId) -> u16 {
        if let Some(n) = self.chats.get(chat) {
            return *n;
        }
        let n = u16::try_from(self.entry.chats.len()).expect("commands name at most 256 chats");
        self.open(OpeningKind::Chat, chat.0);
        self.chats.insert(*chat, n);
        n
    }

    /// Commits to `value` under a salt of its own.
    fn open(&mut self, kind: OpeningKind, value: [u8; 32]) {
        let n =
            u16::try_from(self.openings.len()).expect("commands name some hundreds of subjects");
        let opening = self.blinds.opening(n, kind, value);
        let commitment = HexBytes(opening.commitment());
        match kind {
            OpeningKind::Account => self.entry.accounts.push(commitment),
            OpeningKind::Device => self.entry.devices.push(commitment),
            OpeningKind::Chat => self.entry.chats.push(commitment),
        }
        self.openings.push(opening);
    }

    fn link(&mut self, number: u64, change: &str) {
        self.entry.number = Some(number);
        self.entry.change = Some(change.to_owned());
    }

    fn key(&mut self, chat: &ChatId, key: KeyId, outcome: KeyOutcome, version: Option<u32>) {
        let chat = self.chat(chat);
        self.entry.keys.push(KeyLine {
            key,
            chat,
            outcome,
            version,
        });
    }

    fn refuse(&mut self, reason: impl Into<String>) -> Effect {
        let reason = reason.into();
        self.entry.done = false;
        self.entry.refused = Some(reason.clone());
        Effect::Refused { reason }
    }

    fn time_ms(&self) -> WallMs {
        self.entry.time_ms
    }
}

impl Run<'_> {
    fn one(&mut self, stamped: &Stamped) -> Result<Applied, KvError> {
        let time_ms = self.log.time_for(self.clock_ms);
        let command = &stamped.command;
        let mut draft = Draft {
            entry: Entry::new(
                self.custody.custodian.clone(),
                self.log.size(),
                time_ms,
                command.kind(),
                stamped.blinds.blinding,
            ),
            blinds: &stamped.blinds,
            chats: BTreeMap::new(),
            openings: Vec::new(),
        };
        let effect = match command.within_limits() {
            Err(reason) => draft.refuse(format!("over a limit: {reason}")),
            Ok(()) => self.decide(&mut draft, command)?,
        };
        let entry = self.log.append(self.kv, &draft.entry, &draft.openings)?;
        let effect = match effect {
            Effect::Released(mut granted) => {
                granted.entry = entry;
                Effect::Released(granted)
            }
            other => other,
        };
        Ok(Applied { entry, effect })
    }

    fn decide(&mut self, draft: &mut Draft<'_>, command: &Command) -> Result<Effect, KvError> {
        match command {
            Command::StoreShares(c) => self.store(draft, c),
            Command::Release(c) => self.release(draft, c),
            Command::Abandon(c) => self.abandon(draft, c),
            Command::Shred(c) => self.shred(draft, c),
            Command::ExpireShares(c) => self.expire(draft, *c),
            Command::Freeze(c) => self.freeze(draft, c),
            Command::Thaw(c) => self.thaw(draft, c),
            Command::ApprovePolicy(c) => self.approve_policy(draft, c),
            Command::EraseOpenings(c) => self.erase_openings(draft, c),
            Command::AttestKey(c) => self.attest_key(draft, c),
            Command::UseVersion(c) => self.use_version(draft, c),
            Command::DropVersion(c) => self.drop_version(draft, *c),
            Command::Voters(c) => self.voters(draft, c),
            Command::RegisterAuthority(c) => self.register_authority(draft, c),
            Command::RotateAuthority(e) => self.rotate_authority(draft, e),
            Command::RegisterHome(c) => self.register_home(draft, c),
            Command::AccountStatement(c) => self.account_statement(draft, c),
            Command::ChatStatement(c) => self.chat_statement(draft, c),
            Command::KeyEvent(c) => self.key_event(draft, c),
            Command::Officers(c) => self.officers(draft, c),
            Command::OrderRelease(c) => self.order_release(draft, c),
            Command::Rewrap(c) => self.rewrap(draft, c),
            Command::MandateRelease(c) => self.mandate_release(draft, c),
        }
    }

    /// Destroys the share under `key_id`, if there is one, and leaves a tombstone.
    fn destroy(
        &mut self,
        draft: &Draft<'_>,
        key_id: &KeyId,
        held: Option<&rows::ShareRow>,
        cause: TombstoneCause,
    ) -> Result<(), KvError> {
        if let Some(row) = held {
            self.kv.delete(&rows::share_key(key_id))?;
            if let Some(at) = row.expires_ms {
                self.kv.delete(&rows::expiry_key(at, key_id))?;
            }
            // An abandoned dealing was no epoch. Others ended their predecessor's run for good.
            if cause == TombstoneCause::Abandoned {
                self.kv
                    .delete(&rows::chat_epoch_key(&row.chat, row.epoch, key_id))?;
            }
            *self.live.entry(row.version).or_default() -= 1;
        }
        let stone = Tombstone {
            cause,
            entry: draft.entry.index,
            time_ms: draft.time_ms(),
            held: held.is_some(),
        };
        rows::put(self.kv, &rows::tombstone_key(key_id), &stone)
    }

    fn flush_live(&mut self) -> Result<(), KvError> {
        for (version, change) in std::mem::take(&mut self.live) {
            let key = rows::live_key(version);
            let before: u64 = rows::get(self.kv, &key)?.unwrap_or(0);
            let after = before.checked_add_signed(change).ok_or_else(|| {
                KvError(format!(
                    "fewer live shares under wrapping version {version} than are being destroyed"
                ))
            })?;
            rows::put(self.kv, &key, &after)?;
        }
        Ok(())
    }

    /// The scopes in force that concern `chats`.
    fn frozen(&self, chats: &BTreeSet<ChatId>) -> Result<Frozen, KvError> {
        let any = self.kv.scan(&[FREEZE], &[FREEZE + 1], 1, false)?;
        let mut out = Frozen::default();
        if any.is_empty() {
            return Ok(out);
        }
        let all = rows::freeze_key(&FreezeScope::All);
        out.all = self.kv.get(&all)?.is_some();
        for chat in chats {
            let key = rows::freeze_key(&FreezeScope::Chat(*chat));
            if self.kv.get(&key)?.is_some() {
                out.chats.insert(*chat);
            }
        }
        Ok(out)
    }
}

/// Freezes that concern a command.
#[derive(Default)]
struct Frozen {
    all: bool,
    chats: BTreeSet<ChatId>,
}

impl Frozen {
    fn holds(&self, chat: &ChatId) -> bool {
        self.all || self.chats.contains(chat)
    }
}
