//! A home shard's replicated state machine.
//!
//! `apply` is a function of state and command: it reads no clock, draws
//! nothing, and decides every compare-and-set before its first write, so that
//! a command is all or nothing. A refusal is a [`Reply`], never an `Err`: it was committed
//! and every node must pass it alike. `Err` is a failed or damaged store only.
//!
//! Entry time is the greater of the shard's last entry time and the proposing
//! leader's clock, so it never runs backwards across leaders (DESIGN 7, 8).

use super::command::{Command, Conflict, ConflictWhy, Proposal, Reply, SetPolicy};
use super::rows::{self, ChatRow, Meta, PolicyRow, table};
use super::{BATCH_ITEMS_MAX, POLICY_BYTES_MAX};
use super::{deletions, epochs, members, messages, services, sweep};
use crate::custody::protocol::{Receipt, SealSession};
use crate::policy::Policy;
use crate::types::kv::{Kv, KvError, Machine, Position};
use crate::types::{ChatId, WallMs};

/// Longest encapsulation a session may carry, in bytes (X-Wing's is 1,120).
const ENCAPSULATED_BYTES_MAX: usize = 4096;
/// Every so many log entries, by index, a command clears away some expired things beside its own work,
const SWEEP_EVERY: u64 = 16;
/// and this many of each kind.
const SWEEP_PER_COMMAND: usize = 32;
/// Expired things one `Sweep` clears away.
const SWEEP_PER_SWEEP: usize = 512;

/// The state machine of one home shard. It holds nothing: all state is in the `Kv`.
#[derive(Clone, Copy, Debug, Default)]
pub struct HomeMachine;

impl Machine for HomeMachine {
    fn apply(&self, kv: &mut dyn Kv, at: Position, command: &[u8]) -> Result<Vec<u8>, KvError> {
        let proposal = match Proposal::decode(command) {
            Ok(proposal) => proposal,
            Err(e) => return Ok(Reply::invalid(e.to_string()).encode()),
        };
        Ok(apply(kv, at, proposal)?.encode())
    }
}

/// What the parts of `apply` work with.
pub(super) struct Ctx<'a> {
    pub kv: &'a mut dyn Kv,
    pub at: Position,
    pub now: WallMs,
    pub meta: Meta,
}

/// Applies one decoded proposal.
///
/// # Errors
/// [`KvError`] when the store failed or is damaged.
pub fn apply(kv: &mut dyn Kv, at: Position, proposal: Proposal) -> Result<Reply, KvError> {
    let meta_key = [table::META];
    let before: Meta = rows::get(kv, &meta_key)?.unwrap_or_default();
    let now = before.time_ms.max(proposal.now_ms);
    let mut meta = before.clone();
    meta.time_ms = now;
    let mut cx = Ctx { kv, at, now, meta };
    let reply = match proposal.command {
        Command::SetPolicy(c) => set_policy(&mut cx, c)?,
        Command::CreateChat(c) => members::found(&mut cx, &c)?,
        Command::ChatStatement(c) => members::advance(&mut cx, &c)?,
        Command::UndoStatement(c) => members::undo(&mut cx, &c)?,
        Command::SealSessions(c) => seal_sessions(&mut cx, c)?,
        Command::EpochIntent(c) => epochs::intent(&mut cx, c)?,
        Command::EpochAcks(c) => epochs::acks(&mut cx, c)?,
        Command::Abandon(c) => epochs::abandon(&mut cx, c)?,
        Command::AbandonAcks(c) => epochs::abandon_acks(&mut cx, &c)?,
        Command::CloseEpoch(c) => epochs::close(&mut cx, c)?,
        Command::WriteMessages(c) => messages::write(&mut cx, c)?,
        Command::EditMessage(c) => messages::edit(&mut cx, c)?,
        Command::RecordDeletion(c) => deletions::record(&mut cx, &c)?,
        Command::Journal(c) => journal(&mut cx, &c)?,
        Command::Sweep => {
            sweep::sweep(&mut cx, SWEEP_PER_SWEEP)?;
            Reply::Done
        }
        Command::Service(c) => services::change(&mut cx, c)?,
    };
    if at.index.is_multiple_of(SWEEP_EVERY) {
        sweep::sweep(&mut cx, SWEEP_PER_COMMAND)?;
    }
    if cx.meta != before {
        let meta = cx.meta.clone();
        rows::put(cx.kv, &meta_key, &meta)?;
    }
    Ok(reply)
}

impl Ctx<'_> {
    pub fn chat(&self, chat: &ChatId) -> Result<Option<ChatRow>, KvError> {
        rows::get(&*self.kv, &rows::chat_key(chat))
    }
    pub fn put_chat(&mut self, chat: &ChatId, row: &ChatRow) -> Result<(), KvError> {
        rows::put(self.kv, &rows::chat_key(chat), row)
    }
    /// The policy behind an id and its row; policies were parsed when they were set.
    pub fn policy(
        &self,
        id: &crate::types::PolicyId,
    ) -> Result<Option<(Policy, PolicyRow)>, KvError> {
        let key = rows::key(table::POLICY, &[&id.0]);
        let Some(row) = rows::get::<PolicyRow>(&*self.kv, &key)? else {
            return Ok(None);
        };
        let policy = Policy::from_canonical(&row.canonical)
            .map_err(|e| KvError(format!("policy {id} does not parse: {e}")))?;
        Ok(Some((policy, row)))
    }
}

pub(super) fn conflict(chat: &ChatRow, why: ConflictWhy) -> Reply {
    Reply::Conflict(Conflict {
        why,
        next: chat.next,
        open: chat.open.as_ref().map(|o| (o.epoch, o.key_id)),
        intent: chat.intent,
        last: chat.last,
    })
}

fn set_policy(cx: &mut Ctx<'_>, c: SetPolicy) -> Result<Reply, KvError> {
    if c.canonical.len() > POLICY_BYTES_MAX {
        return Ok(Reply::invalid("the policy is too large"));
    }
    let policy = match Policy::from_canonical(&c.canonical) {
        Ok(policy) => policy,
        Err(e) => return Ok(Reply::invalid(format!("the policy is refused: {e}"))),
    };
    let id = policy.id();
    let row = PolicyRow {
        canonical: c.canonical,
        margins: c.margins,
    };
    rows::put(cx.kv, &rows::key(table::POLICY, &[&id.0]), &row)?;
    cx.meta.policy = Some(id);
    Ok(Reply::Done)
}

fn seal_sessions(cx: &mut Ctx<'_>, sessions: Vec<SealSession>) -> Result<Reply, KvError> {
    if sessions.len() > BATCH_ITEMS_MAX {
        return Ok(Reply::invalid("too many sessions in one command"));
    }
    let mut fresh = Vec::new();
    for session in sessions {
        if session.encapsulated.len() > ENCAPSULATED_BYTES_MAX {
            return Ok(Reply::invalid("an encapsulation is too long"));
        }
        if session.expires_ms <= cx.now {
            return Ok(Reply::invalid(format!(
                "the sealing key of {} is expired",
                session.custodian
            )));
        }
        let key = rows::key(table::SESSION, &[&session.id.0]);
        match rows::get::<SealSession>(&*cx.kv, &key)? {
            Some(there) if there == session => {}
            Some(_) => return Ok(Reply::invalid("the session id is used for another session")),
            None => fresh.push((key, session)),
        }
    }
    for (key, session) in fresh {
        rows::put(cx.kv, &key, &session)?;
        let time = rows::key(
            table::SESSION_TIME,
            &[&session.expires_ms.to_be_bytes(), &session.id.0],
        );
        cx.kv.put(&time, &[])?;
    }
    Ok(Reply::Done)
}

fn journal(cx: &mut Ctx<'_>, receipts: &[Receipt]) -> Result<Reply, KvError> {
    if receipts.len() > BATCH_ITEMS_MAX {
        return Ok(Reply::invalid("too many receipts in one command"));
    }
    for receipt in receipts {
        let name = receipt.custodian.as_str().as_bytes();
        let key = rows::key(
            table::RECEIPT,
            // Our entry time: retention must not follow a custodian's clock.
            &[
                &cx.now.to_be_bytes(),
                name,
                &[0],
                &receipt.entry.to_be_bytes(),
            ],
        );
        rows::put(cx.kv, &key, receipt)?;
    }
    Ok(Reply::Done)
}

pub(super) fn text_ok(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && text.len() <= bytes_max
}
