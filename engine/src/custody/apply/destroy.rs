//! `Abandon`, `Shred`, `ExpireShares`: three ways to a tombstone.

use super::super::budget::{ABANDON_BUDGET, SHRED_BUDGET};
use super::super::command::{Abandon, ExpireShares, Shred};
use super::super::protocol::{AbandonOutcome, KeyRef};
use super::super::reply::{Effect, ShredOutcome};
use super::super::rows::{self, EXPIRY, ShareRow, Tombstone, TombstoneCause};
use super::super::{ABANDON_MS_MAX, EXPIRED_PER_SWEEP_MAX};
use super::{Draft, Run};
use crate::audit::KeyOutcome;
use crate::types::KeyId;
use crate::types::kv::KvError;
use std::collections::BTreeSet;

enum Found {
    Stone,
    Share(Box<ShareRow>),
    Nothing,
}

impl Run<'_> {
    fn find(&self, id: &KeyId) -> Result<Found, KvError> {
        if let Some(row) = rows::get(self.kv, &rows::share_key(id))? {
            return Ok(Found::Share(row));
        }
        let stone: Option<Tombstone> = rows::get(self.kv, &rows::tombstone_key(id))?;
        Ok(stone.map_or(Found::Nothing, |_| Found::Stone))
    }

    /// How many of `keys` have no tombstone yet: what a destruction costs.
    fn without_stone(&self, keys: &[KeyRef]) -> Result<u64, KvError> {
        let mut seen = BTreeSet::new();
        let mut n = 0;
        for key in keys {
            let stone = rows::tombstone_key(&key.key_id);
            if seen.insert(key.key_id) && self.kv.get(&stone)?.is_none() {
                n += 1;
            }
        }
        Ok(n)
    }

    pub(super) fn abandon(
        &mut self,
        draft: &mut Draft<'_>,
        c: &Abandon,
    ) -> Result<Effect, KvError> {
        draft.entry.home = Some(c.home.clone());
        let cost = self.without_stone(&c.keys)?;
        let spent = ABANDON_BUDGET.spend(self.kv, draft.time_ms(), cost)?;
        if let Err(retry_ms) = spent {
            for key in &c.keys {
                draft.key(&key.chat, key.key_id, KeyOutcome::Refused, None);
            }
            draft.refuse("the budget for abandoned keys is spent");
            return Ok(Effect::OverBudget { retry_ms });
        }
        let mut outcomes = Vec::with_capacity(c.keys.len());
        for key in &c.keys {
            let (outcome, line) = match self.find(&key.key_id)? {
                Found::Stone => (AbandonOutcome::Tombstoned, KeyOutcome::Tombstoned),
                Found::Share(row) if !may_abandon(&row, c, key, draft.time_ms()) => {
                    (AbandonOutcome::Refused, KeyOutcome::Refused)
                }
                Found::Share(row) => {
                    self.destroy(draft, &key.key_id, Some(&row), TombstoneCause::Abandoned)?;
                    (AbandonOutcome::Tombstoned, KeyOutcome::Destroyed)
                }
                // Never arrived: the tombstone refuses it when it comes late.
                Found::Nothing => {
                    self.destroy(draft, &key.key_id, None, TombstoneCause::Abandoned)?;
                    (AbandonOutcome::Tombstoned, KeyOutcome::NotHeld)
                }
            };
            draft.key(&key.chat, key.key_id, line, None);
            outcomes.push(outcome);
        }
        Ok(Effect::Abandoned(outcomes))
    }

    pub(super) fn shred(&mut self, draft: &mut Draft<'_>, c: &Shred) -> Result<Effect, KvError> {
        draft.entry.operator = Some(c.operator.mark());
        draft.entry.reason = Some(c.reason.clone());
        if let Some(refused) = self.needs_quorum(draft)? {
            for key in &c.keys {
                draft.key(&key.chat, key.key_id, KeyOutcome::Refused, None);
            }
            return Ok(refused);
        }
        self.shred_keys(draft, &c.keys)
    }

    /// Destroys shares; who may ask was decided before.
    pub(super) fn shred_keys(
        &mut self,
        draft: &mut Draft<'_>,
        keys: &[KeyRef],
    ) -> Result<Effect, KvError> {
        let cost = self.without_stone(keys)?;
        let spent = SHRED_BUDGET.spend(self.kv, draft.time_ms(), cost)?;
        if let Err(retry_ms) = spent {
            for key in keys {
                draft.key(&key.chat, key.key_id, KeyOutcome::Refused, None);
            }
            draft.refuse("the budget for shredded keys is spent");
            return Ok(Effect::OverBudget { retry_ms });
        }
        let mut outcomes = Vec::with_capacity(keys.len());
        for key in keys {
            let (outcome, line) = match self.find(&key.key_id)? {
                Found::Stone => (ShredOutcome::AlreadyTombstoned, KeyOutcome::Tombstoned),
                Found::Share(row) if row.chat != key.chat => {
                    (ShredOutcome::WrongChat, KeyOutcome::WrongChat)
                }
                Found::Share(row) => {
                    self.destroy(draft, &key.key_id, Some(&row), TombstoneCause::Shredded)?;
                    (ShredOutcome::Destroyed, KeyOutcome::Destroyed)
                }
                Found::Nothing => {
                    self.destroy(draft, &key.key_id, None, TombstoneCause::Shredded)?;
                    (ShredOutcome::NotHeld, KeyOutcome::NotHeld)
                }
            };
            draft.key(&key.chat, key.key_id, line, None);
            outcomes.push(outcome);
        }
        Ok(Effect::Shredded(outcomes))
    }

    pub(super) fn expire(
        &mut self,
        draft: &mut Draft<'_>,
        c: ExpireShares,
    ) -> Result<Effect, KvError> {
        let up_to = c.up_to_ms.min(draft.time_ms()).saturating_add(1);
        let end = rows::expiry_key(up_to, &KeyId([0; 16]));
        let mut due = self
            .kv
            .scan(&[EXPIRY], &end, EXPIRED_PER_SWEEP_MAX + 1, false)?;
        let more = due.len() > EXPIRED_PER_SWEEP_MAX;
        due.truncate(EXPIRED_PER_SWEEP_MAX);
        for (row_key, _) in &due {
            let id = <[u8; 16]>::try_from(&row_key[9..])
                .map(KeyId)
                .map_err(|_| KvError("expiry row with a key of another shape".into()))?;
            let Found::Share(row) = self.find(&id)? else {
                return Err(KvError(format!(
                    "an expiry row names key {id}, which is not held"
                )));
            };
            self.destroy(draft, &id, Some(&row), TombstoneCause::Expired)?;
            draft.key(&row.chat, id, KeyOutcome::Destroyed, None);
        }
        let destroyed = u32::try_from(due.len()).expect("at most EXPIRED_PER_SWEEP_MAX");
        Ok(Effect::Expired { destroyed, more })
    }
}

fn may_abandon(row: &ShareRow, c: &Abandon, key: &KeyRef, now_ms: u64) -> bool {
    row.home == c.home
        && row.chat == key.chat
        && !row.released
        && now_ms.saturating_sub(row.stored_ms) <= ABANDON_MS_MAX
}
