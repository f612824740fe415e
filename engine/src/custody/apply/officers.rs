//! What operators do: freeze, thaw, approve a policy, erase openings.
//! Their certificates were checked before proposing; officers' quorum comes
//! with its own issue and goes in here.

use super::super::FREEZES_MAX;
use super::super::command::{ApprovePolicy, EraseOpenings, Freeze, Operator, Thaw};
use super::super::protocol::FreezeScope;
use super::super::reply::Effect;
use super::super::rows::{self, FREEZE, FreezeRow, PolicyRow};
use super::{Draft, Run};
use crate::audit::{self, Subject};
use crate::policy::Policy;
use crate::types::kv::KvError;

fn by(draft: &mut Draft<'_>, operator: &Operator, reason: &str) {
    draft.entry.operator = Some(operator.mark());
    draft.entry.reason = Some(reason.to_owned());
}

fn about(draft: &mut Draft<'_>, scope: &FreezeScope) {
    draft.entry.scope = Some(match scope {
        FreezeScope::All => Subject::All,
        FreezeScope::Chat(chat) => {
            draft.chat(chat);
            Subject::Chats
        }
    });
}

impl Run<'_> {
    pub(super) fn freeze(&mut self, draft: &mut Draft<'_>, c: &Freeze) -> Result<Effect, KvError> {
        by(draft, &c.operator, &c.reason);
        about(draft, &c.scope);
        let key = rows::freeze_key(&c.scope);
        if self.kv.get(&key)?.is_some() {
            return Ok(Effect::Unchanged);
        }
        // Freezing everything is never refused: its place is kept free.
        let full = self
            .kv
            .scan(&[FREEZE, 1], &[FREEZE + 1], FREEZES_MAX - 1, false)?;
        if c.scope != FreezeScope::All && full.len() == FREEZES_MAX - 1 {
            return Ok(draft.refuse(format!(
                "{} chats are frozen already; thaw some or freeze everything",
                full.len()
            )));
        }
        let row = FreezeRow {
            entry: draft.entry.index,
            time_ms: draft.time_ms(),
            operator: c.operator.clone(),
            reason: c.reason.clone(),
        };
        rows::put(self.kv, &key, &row)?;
        Ok(Effect::Done)
    }

    pub(super) fn thaw(&mut self, draft: &mut Draft<'_>, c: &Thaw) -> Result<Effect, KvError> {
        by(draft, &c.operator, &c.reason);
        about(draft, &c.scope);
        let key = rows::freeze_key(&c.scope);
        if self.kv.get(&key)?.is_none() {
            return Ok(Effect::Unchanged);
        }
        self.kv.delete(&key)?;
        Ok(Effect::Done)
    }

    pub(super) fn approve_policy(
        &mut self,
        draft: &mut Draft<'_>,
        c: &ApprovePolicy,
    ) -> Result<Effect, KvError> {
        by(draft, &c.operator, &c.reason);
        let policy = match Policy::from_canonical(&c.canonical) {
            Ok(policy) => policy,
            Err(e) => return Ok(draft.refuse(format!("not a policy: {e}"))),
        };
        draft.entry.policy = Some(policy.id());
        match policy.identities().get(&self.custody.custodian) {
            None => return Ok(draft.refuse("this custodian is not in the policy")),
            Some(hash) if *hash != self.custody.identity => {
                return Ok(draft.refuse("the policy names another identity key for this custodian"));
            }
            Some(_) => {}
        }
        let key = rows::policy_key(&policy.id());
        if self.kv.get(&key)?.is_some() {
            return Ok(Effect::Unchanged);
        }
        let row = PolicyRow {
            entry: draft.entry.index,
            canonical: c.canonical.clone(),
        };
        rows::put(self.kv, &key, &row)?;
        Ok(Effect::Done)
    }

    pub(super) fn erase_openings(
        &mut self,
        draft: &mut Draft<'_>,
        c: &EraseOpenings,
    ) -> Result<Effect, KvError> {
        by(draft, &c.operator, &c.reason);
        draft.entry.entries = c.entries.clone();
        draft.entry.scope = Some(match &c.chat {
            None => Subject::All,
            // The chat is not committed to here: its opening would stand in this entry.
            Some(_) => Subject::Chats,
        });
        let mut erased = 0;
        for index in &c.entries {
            erased += audit::erase_openings(self.kv, *index, c.chat.as_ref())?;
        }
        Ok(Effect::Erased(u32::try_from(erased).unwrap_or(u32::MAX)))
    }
}
