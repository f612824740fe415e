//! `apply` of deletion statements: that they were made. Nothing is erased by it;
//! the rewriting that erases reads them from here.

use super::command::{RecordDeletion, Reply};
use super::machine::Ctx;
use super::read;
use super::rows::{self, DeletionRow};
use crate::authz::deletion::{Deletion, Mandate, MandateRefusal, Shown, Whose};
use crate::authz::membership::Member;
use crate::authz::standing::{DeviceStanding, MemberStanding};
use crate::custody::protocol::StatementRefused;
use crate::types::EpochNo;
use crate::types::kv::KvError;
use std::collections::BTreeSet;

/// Most deletion statements of one chat that wait to be carried out.
pub const DELETIONS_MAX: u32 = 1024;

pub(super) fn record(cx: &mut Ctx<'_>, c: &RecordDeletion) -> Result<Reply, KvError> {
    let mandate = match Mandate::read(&c.statement) {
        Ok(mandate) => mandate,
        Err(why) => return Ok(refused(why.code(), why.text())),
    };
    let d = mandate.deletion();
    if cx.chat(&d.chat)?.is_none() {
        return Ok(Reply::NotFound);
    }
    let key = rows::deletion_key(&d.chat, &mandate.id());
    if let Some(row) = rows::get::<DeletionRow>(&*cx.kv, &key)? {
        let at_ms = row.at_ms;
        return Ok(Reply::DeletionStands {
            at_ms,
            repeated: true,
        });
    }
    let asked = d.account == c.account && d.device == crate::authz::identity::device_id(&c.device);
    let shown = Shown {
        deployment: &c.deployment,
        home: &c.home,
        device: if asked {
            let public = c.device.0;
            DeviceStanding::Live { public }
        } else {
            DeviceStanding::Unknown
        },
        now_ms: cx.now,
    };
    if let Err(why) = mandate.decide(&shown) {
        return Ok(refused(why.code(), why.text()));
    }
    let member: Option<Member> = rows::get(&*cx.kv, &rows::member_key(&d.chat, &d.account))?;
    let standing = member.map_or(MemberStanding::NotMember, |m| MemberStanding::Member {
        role: m.role,
        from_epoch: m.from_epoch,
    });
    for epoch in &d.epochs {
        if let Err(why) = mandate.decide_key(standing, &d.chat, *epoch) {
            return Ok(refused(why.code(), why.text()));
        }
    }
    if let Some(reply) = unlike_records(cx, d, &c.own)? {
        return Ok(reply);
    }
    let count_key = rows::deletions_key(&d.chat);
    let count: u32 = rows::get(&*cx.kv, &count_key)?.unwrap_or(0);
    if count >= DELETIONS_MAX {
        return Ok(refused(
            "deletions",
            "1024 deletions of this chat wait to be carried out; sign this one later",
        ));
    }
    let row = DeletionRow {
        statement: c.statement.clone(),
        at_ms: cx.now,
    };
    rows::put(cx.kv, &key, &row)?;
    rows::put(cx.kv, &count_key, &(count + 1))?;
    Ok(Reply::DeletionStands {
        at_ms: row.at_ms,
        repeated: false,
    })
}

/// Why the statement does not fit the records it names, if it does not: each is there, the epochs
/// named are theirs and no others, and they are the account's own where that is said.
fn unlike_records(
    cx: &Ctx<'_>,
    d: &Deletion,
    own: &BTreeSet<String>,
) -> Result<Option<Reply>, KvError> {
    let mut epochs: BTreeSet<EpochNo> = BTreeSet::new();
    for message in &d.messages {
        let Some(row) = read::record(&*cx.kv, &d.chat, *message)? else {
            return Ok(Some(Reply::NotFound));
        };
        if d.whose == Whose::Own && !own.contains(&row.device) {
            let why = format!(
                "message {message} is not the account's own; an admin may delete it with `whose` anyone"
            );
            return Ok(Some(refused(MandateRefusal::RoleMissing.code(), &why)));
        }
        epochs.insert(row.epoch);
    }
    if !epochs.iter().eq(&d.epochs) {
        let why = format!(
            "the messages lie in key epochs {epochs:?}, the statement names {:?}; sign it anew",
            d.epochs
        );
        return Ok(Some(refused("epochs", &why)));
    }
    Ok(None)
}

fn refused(code: &str, reason: &str) -> Reply {
    Reply::Refused(StatementRefused {
        code: code.to_owned(),
        reason: reason.to_owned(),
        have: None,
    })
}
