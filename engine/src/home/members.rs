//! `apply` of statements about a chat's members.
//!
//! `authz::membership` decides; here are its rows. A statement writes a few
//! rows whatever the size of the chat: its own, the chat's, at most one member
//! and one invite, and what these were before.

use super::command::{ChatStatement, Reply, UndoStatement};
use super::machine::Ctx;
use super::rows::{self, ChatRow, UndoRow};
use crate::authz::chain::{Misplaced, Source};
use crate::authz::envelope::Envelope;
use crate::authz::identity::device_id;
use crate::authz::membership::{
    self, ChatPayload, Invite, Member, MembershipContext, MembershipDelta, MembershipReads,
    MembershipRefusal,
};
use crate::authz::standing::DeviceStanding;
use crate::custody::protocol::StatementRefused;
use crate::types::kv::{Kv, KvError};
use crate::types::{AccountId, ChatId, DeviceId, PublicKey, StatementHash, WallMs};

/// What decisions read: rows, and of devices what the command says.
struct Reads<'a> {
    kv: &'a dyn Kv,
    chat: ChatId,
    by: &'a ChatStatement,
}

impl MembershipReads for Reads<'_> {
    fn member(&self, account: &AccountId) -> Result<Option<Member>, KvError> {
        rows::get(self.kv, &rows::member_key(&self.chat, account))
    }
    fn invite(&self, key: &PublicKey) -> Result<Option<Invite>, KvError> {
        rows::get(self.kv, &rows::invite_key(&self.chat, key))
    }
    fn device(
        &self,
        account: &AccountId,
        device: &DeviceId,
        _at_ms: WallMs,
        _then: bool,
    ) -> Result<DeviceStanding, KvError> {
        let asked = *account == self.by.account && *device == device_id(&self.by.device);
        Ok(if asked {
            let public = self.by.device.0;
            DeviceStanding::Live { public }
        } else {
            DeviceStanding::Unknown
        })
    }
    fn standing(&self, number: u64) -> Result<Option<StatementHash>, KvError> {
        let row: Option<Envelope> = rows::get(self.kv, &rows::statement_key(&self.chat, number))?;
        Ok(row.map(|e| StatementHash(e.hash())))
    }
}

pub(super) fn found(cx: &mut Ctx<'_>, c: &ChatStatement) -> Result<Reply, KvError> {
    let chat = c.chat();
    // The id is the hash of the genesis: it can only be the same one.
    if let Some(row) = cx.chat(&chat)? {
        return Ok(Reply::Chat {
            chat,
            created_ms: row.created_ms,
            repeated: true,
        });
    }
    // Custodians took it before, and judged its age then.
    let decided = {
        let reads = reads(cx, chat, c);
        membership::genesis(&c.statement, &context(cx, c, Source::Vouched, &reads))?
    };
    let delta = match decided {
        Ok(delta) => delta,
        Err(e) => return Ok(refused(&e)),
    };
    let row = ChatRow {
        head: delta.head,
        created_ms: cx.now,
        next: 0,
        open: None,
        last: None,
        intent: None,
    };
    keep(cx, &chat, &c.statement, &delta)?;
    cx.put_chat(&chat, &row)?;
    cx.meta.chats += 1;
    Ok(Reply::Chat {
        chat,
        created_ms: cx.now,
        repeated: false,
    })
}

pub(super) fn advance(cx: &mut Ctx<'_>, c: &ChatStatement) -> Result<Reply, KvError> {
    let (chat, number) = match c.statement.read("chat statement") {
        Ok(ChatPayload::Statement(s)) => (s.chat, s.number),
        Ok(ChatPayload::Genesis(_)) => {
            let what = "a later statement of a chat; a genesis comes with the chat";
            return Ok(refused(&MembershipRefusal::Expected(what)));
        }
        Err(e) => return Ok(refused(&e.into())),
    };
    let Some(mut row) = cx.chat(&chat)? else {
        return Ok(Reply::NotFound);
    };
    let decided = {
        let reads = reads(cx, chat, c);
        membership::advance(
            &row.head,
            &c.statement,
            &context(cx, c, Source::Client, &reads),
        )?
    };
    let hash = StatementHash(c.statement.hash());
    let delta = match decided {
        Ok(delta) => delta,
        Err(MembershipRefusal::Misplaced(Misplaced::AlreadyApplied { .. })) => {
            return Ok(Reply::Chained {
                number,
                hash,
                repeated: true,
            });
        }
        Err(e) => return Ok(refused(&e)),
    };
    let undo = UndoRow {
        head: row.head,
        member: match &delta.member {
            Some((who, _)) => Some((*who, rows::get(&*cx.kv, &rows::member_key(&chat, who))?)),
            None => None,
        },
        invite: match &delta.invite {
            Some((key, _)) => Some((*key, rows::get(&*cx.kv, &rows::invite_key(&chat, key))?)),
            None => None,
        },
    };
    rows::put(cx.kv, &rows::undo_key(&chat), &undo)?;
    keep(cx, &chat, &c.statement, &delta)?;
    row.head = delta.head;
    cx.put_chat(&chat, &row)?;
    Ok(Reply::Chained {
        number,
        hash,
        repeated: false,
    })
}

/// Takes the newest statement back. One only: what it was before its predecessor is not kept.
pub(super) fn undo(cx: &mut Ctx<'_>, c: &UndoStatement) -> Result<Reply, KvError> {
    let Some(mut row) = cx.chat(&c.chat)? else {
        return Ok(Reply::NotFound);
    };
    let undo_key = rows::undo_key(&c.chat);
    let undo: Option<UndoRow> = rows::get(&*cx.kv, &undo_key)?;
    let newest = row.head.head.number == c.number && row.head.head.hash == c.hash;
    let Some(undo) = undo.filter(|_| newest) else {
        return Ok(Reply::invalid(format!(
            "statement {} of chat {} is not its newest, or was taken back before",
            c.number, c.chat
        )));
    };
    write(cx, &c.chat, &undo.member, &undo.invite)?;
    cx.kv.delete(&rows::statement_key(&c.chat, c.number))?;
    cx.kv.delete(&undo_key)?;
    row.head = undo.head;
    cx.put_chat(&c.chat, &row)?;
    Ok(Reply::Done)
}

fn reads<'a>(cx: &'a Ctx<'_>, chat: ChatId, by: &'a ChatStatement) -> Reads<'a> {
    Reads {
        kv: &*cx.kv,
        chat,
        by,
    }
}

fn context<'a>(
    cx: &Ctx<'_>,
    c: &'a ChatStatement,
    source: Source,
    reads: &'a Reads<'a>,
) -> MembershipContext<'a> {
    MembershipContext {
        deployment: &c.deployment,
        now_ms: cx.now,
        source,
        reads,
    }
}

fn keep(
    cx: &mut Ctx<'_>,
    chat: &ChatId,
    statement: &Envelope,
    delta: &MembershipDelta,
) -> Result<(), KvError> {
    write(cx, chat, &delta.member, &delta.invite)?;
    let key = rows::statement_key(chat, delta.head.head.number);
    rows::put(cx.kv, &key, statement)
}

fn write(
    cx: &mut Ctx<'_>,
    chat: &ChatId,
    member: &Option<(AccountId, Option<Member>)>,
    invite: &Option<(PublicKey, Option<Invite>)>,
) -> Result<(), KvError> {
    match member {
        Some((who, Some(m))) => {
            rows::put(cx.kv, &rows::member_key(chat, who), m)?;
            cx.kv.put(&rows::account_key(who, chat), &[])?;
        }
        Some((who, None)) => {
            cx.kv.delete(&rows::member_key(chat, who))?;
            cx.kv.delete(&rows::account_key(who, chat))?;
        }
        None => {}
    }
    match invite {
        Some((key, Some(i))) => rows::put(cx.kv, &rows::invite_key(chat, key), i),
        Some((key, None)) => cx.kv.delete(&rows::invite_key(chat, key)),
        None => Ok(()),
    }
}

fn refused(e: &MembershipRefusal) -> Reply {
    let have = match e {
        MembershipRefusal::Misplaced(Misplaced::Behind { have, .. }) => Some(*have),
        _ => None,
    };
    Reply::Refused(StatementRefused {
        code: e.code().to_owned(),
        reason: e.to_string(),
        have,
    })
}
