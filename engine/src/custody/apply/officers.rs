//! What operators do (freeze, erase openings) and what a quorum of officers
//! does (thaw, shred, approve a policy, change the roster). As long as a
//! custodian has no officers, its operators do both.

use super::super::FREEZES_MAX;
use super::super::command::{ApprovePolicy, EraseOpenings, Freeze, Operator, Thaw};
use super::super::protocol::{FreezeScope, KeyRef};
use super::super::reply::Effect;
use super::super::rows::{self, FREEZE, FreezeRow, PolicyRow, ROSTER};
use super::super::view;
use super::{Draft, Run};
use crate::audit::{self, Subject};
use crate::authz::auditor::AUDITORS_MAX;
use crate::authz::officers::{Act, Roster, ShredKey, ThawScope};
use crate::policy::Policy;
use crate::types::CustodianId;
use crate::types::kv::KvError;
use std::collections::BTreeSet;

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
        match self.needs_quorum(draft)? {
            Some(refused) => Ok(refused),
            None => self.thaw_scope(&c.scope),
        }
    }

    /// Ends a freeze; who may was decided before.
    fn thaw_scope(&mut self, scope: &FreezeScope) -> Result<Effect, KvError> {
        let key = rows::freeze_key(scope);
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
        if let Some(refused) = self.needs_quorum(draft)? {
            return Ok(refused);
        }
        let policy = match self.policy(draft, &c.canonical) {
            Ok(policy) => policy,
            Err(why) => return Ok(draft.refuse(why)),
        };
        // Entities and blocs are stated by officers; before there are any, only this can be held.
        let satisfied = |set: &BTreeSet<CustodianId>| policy.satisfied_by(set);
        let floor = self.custody.floor;
        if let Err(e) = floor.admits_threshold(&policy.custodians(), &satisfied) {
            return Ok(draft.refuse(e.to_string()));
        }
        self.keep_policy(draft, &policy)
    }

    /// The policy in `canonical`, if this very custodian is in it.
    fn policy(&self, draft: &mut Draft<'_>, canonical: &[u8]) -> Result<Policy, String> {
        let policy = Policy::from_canonical(canonical).map_err(|e| format!("not a policy: {e}"))?;
        draft.entry.policy = Some(policy.id());
        match policy.identities().get(&self.custody.custodian) {
            None => Err("this custodian is not in the policy".into()),
            Some(hash) if *hash != self.custody.identity => {
                Err("the policy names another identity key for this custodian".into())
            }
            Some(_) => Ok(policy),
        }
    }

    fn keep_policy(&mut self, draft: &Draft<'_>, policy: &Policy) -> Result<Effect, KvError> {
        let key = rows::policy_key(&policy.id());
        if self.kv.get(&key)?.is_some() {
            return Ok(Effect::Unchanged);
        }
        let row = PolicyRow {
            entry: draft.entry.index,
            canonical: policy.canonical(),
        };
        rows::put(self.kv, &key, &row)?;
        Ok(Effect::Done)
    }

    /// Once there are officers, an operator alone no longer does what a quorum must.
    pub(super) fn needs_quorum(&self, draft: &mut Draft<'_>) -> Result<Option<Effect>, KvError> {
        if self.kv.get(&[ROSTER])?.is_none() {
            return Ok(None);
        }
        let why = "this custodian has officers: it takes their quorum (`quorate approve`)";
        Ok(Some(draft.refuse(why)))
    }

    /// Whether `act` could be carried out now, as far as that can be said before.
    pub(super) fn possible(
        &self,
        draft: &mut Draft<'_>,
        roster: &Roster,
        act: &Act,
    ) -> Result<(), String> {
        roster.after(act).map_err(|e| e.to_string())?;
        let (canonical, members) = match act {
            Act::ApprovePolicy { canonical, members } => (canonical, members),
            Act::AdmitAuditor { auditor } => return auditor.check(draft.time_ms()),
            _ => return Ok(()),
        };
        let bytes = hex::decode(canonical).map_err(|e| format!("the policy is not hex: {e}"))?;
        let policy = self.policy(draft, &bytes)?;
        let own = self.custody.floor;
        let floor = roster.floor().map_or(own, |f| f.higher(&own));
        let satisfied = |set: &BTreeSet<CustodianId>| policy.satisfied_by(set);
        floor
            .admits(&policy.custodians(), members, &satisfied)
            .map_err(|e| e.to_string())
    }

    /// Carries out what a quorum decided.
    pub(super) fn carry_out(
        &mut self,
        draft: &mut Draft<'_>,
        roster: &Roster,
        act: &Act,
    ) -> Result<Effect, KvError> {
        if let Err(why) = self.possible(draft, roster, act) {
            return Ok(draft.refuse(why));
        }
        if let Ok(Some(next)) = roster.after(act) {
            rows::put(self.kv, &[ROSTER], &next)?;
            return Ok(Effect::Done);
        }
        match act {
            Act::ApprovePolicy { canonical, .. } => {
                let bytes = hex::decode(canonical).unwrap_or_default();
                match self.policy(draft, &bytes) {
                    Ok(policy) => self.keep_policy(draft, &policy),
                    Err(why) => Ok(draft.refuse(why)),
                }
            }
            Act::Thaw { scope } => {
                let scope = match scope {
                    ThawScope::All => FreezeScope::All,
                    ThawScope::Chat(chat) => FreezeScope::Chat(*chat),
                };
                about(draft, &scope);
                self.thaw_scope(&scope)
            }
            Act::Shred { keys } => {
                let key = |k: &ShredKey| KeyRef {
                    chat: k.chat,
                    key_id: k.key,
                };
                let keys: Vec<_> = keys.iter().map(key).collect();
                self.shred_keys(draft, &keys)
            }
            Act::AdmitAuditor { auditor } => {
                let known = view::auditors(self.kv)?;
                let again = known.iter().any(|a| a.id() == auditor.id());
                if known.len() >= AUDITORS_MAX && !again {
                    return Ok(draft.refuse(format!(
                        "{AUDITORS_MAX} auditors are admitted already; dismiss one first"
                    )));
                }
                rows::put(self.kv, &rows::auditor_key(&auditor.id()), auditor)?;
                Ok(Effect::Done)
            }
            Act::DismissAuditor { auditor } => {
                let key = rows::auditor_key(auditor);
                if self.kv.get(&key)?.is_none() {
                    return Ok(draft.refuse(format!("no auditor {auditor} is admitted here")));
                }
                self.kv.delete(&key)?;
                Ok(Effect::Done)
            }
            // Changes of the roster were made above.
            _ => Ok(Effect::Unchanged),
        }
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
