//! `StoreShares`: write-once per key id. `Rewrap`: the same share under the next version.

use super::super::command::{Rewrap, StoreItem, StoreShares};
use super::super::protocol::StoreOutcome;
use super::super::reply::Effect;
use super::super::rows::{self, ShareRow, Tombstone, VersionRow, VersionState};
use super::super::{KeyKind, view};
use super::{Draft, Run};
use crate::audit::KeyOutcome;
use crate::types::kv::KvError;
use crate::types::{HomeId, PolicyId};
use std::collections::BTreeMap;

impl Run<'_> {
    /// Replaces wrapped shares that still stand under the version the leader saw them under:
    /// what a key id holds never changes, so that is the row it saw. Destroyed ones stay destroyed.
    pub(super) fn rewrap(&mut self, draft: &mut Draft<'_>, c: &Rewrap) -> Result<Effect, KvError> {
        draft.entry.key_kind = Some(KeyKind::Wrapping.as_str().to_owned());
        draft.entry.version = Some(c.to);
        if view::version_in_use(self.kv, KeyKind::Wrapping)? != Some(c.to) {
            return Ok(draft.refuse("the wrapping version is not the one in use"));
        }
        let mut done = 0;
        for item in &c.items {
            let key = rows::share_key(&item.key_id);
            let Some(mut row) = rows::get::<ShareRow, _>(self.kv, &key)? else {
                continue;
            };
            if row.version != item.from || item.from == c.to {
                continue;
            }
            row.version = c.to;
            row.wrapped = item.wrapped.clone();
            rows::put(self.kv, &key, &row)?;
            *self.live.entry(item.from).or_default() -= 1;
            *self.live.entry(c.to).or_default() += 1;
            done += 1;
        }
        draft.entry.rewrapped = Some(done);
        Ok(Effect::Rewrapped(done))
    }

    pub(super) fn store(
        &mut self,
        draft: &mut Draft<'_>,
        c: &StoreShares,
    ) -> Result<Effect, KvError> {
        draft.entry.home = Some(c.home.clone());
        draft.entry.version = Some(c.version);
        let version: Option<VersionRow> =
            rows::get(self.kv, &rows::version_key(KeyKind::Wrapping, c.version))?;
        if !version.is_some_and(|v| v.state == VersionState::InUse) {
            for i in &c.items {
                draft.key(&i.chat, i.key_id, KeyOutcome::VersionGone, None);
            }
            draft.refuse("the wrapping version is not in use");
            let current = view::version_in_use(self.kv, KeyKind::Wrapping)?;
            return Ok(Effect::WrapAgain { current });
        }
        let mut approved = BTreeMap::new();
        let mut outcomes = Vec::with_capacity(c.items.len());
        for item in &c.items {
            let outcome = self.store_one(draft, c, item, &mut approved)?;
            let (line, version) = match outcome {
                StoreOutcome::Stored => (KeyOutcome::Stored, Some(c.version)),
                StoreOutcome::AlreadyStored => (KeyOutcome::AlreadyStored, None),
                StoreOutcome::Conflict => (KeyOutcome::Conflict, None),
                StoreOutcome::Tombstoned => (KeyOutcome::Tombstoned, None),
                // The two others are decided before proposing.
                StoreOutcome::PolicyNotApproved
                | StoreOutcome::BadShare
                | StoreOutcome::SealingKeyGone => (KeyOutcome::PolicyNotApproved, None),
            };
            draft.key(&item.chat, item.key_id, line, version);
            outcomes.push(outcome);
        }
        Ok(Effect::Stored(outcomes))
    }

    fn store_one(
        &mut self,
        draft: &Draft<'_>,
        c: &StoreShares,
        item: &StoreItem,
        approved: &mut BTreeMap<PolicyId, bool>,
    ) -> Result<StoreOutcome, KvError> {
        let stone: Option<Tombstone> = rows::get(self.kv, &rows::tombstone_key(&item.key_id))?;
        if stone.is_some() {
            return Ok(StoreOutcome::Tombstoned);
        }
        let key = rows::share_key(&item.key_id);
        if let Some(row) = rows::get::<ShareRow, _>(self.kv, &key)? {
            return Ok(if same(&row, &c.home, item) {
                StoreOutcome::AlreadyStored
            } else {
                StoreOutcome::Conflict
            });
        }
        // Its time has come already: entry time never goes back, so it is refused for ever.
        if item.expires_ms.is_some_and(|at| at <= draft.time_ms()) {
            return Ok(StoreOutcome::Tombstoned);
        }
        let known = match approved.get(&item.policy) {
            Some(known) => *known,
            None => {
                let known = self.kv.get(&rows::policy_key(&item.policy))?.is_some();
                approved.insert(item.policy, known);
                known
            }
        };
        if !known {
            return Ok(StoreOutcome::PolicyNotApproved);
        }
        let row = ShareRow {
            home: c.home.clone(),
            chat: item.chat,
            epoch: item.epoch,
            policy: item.policy,
            commitment: item.commitment,
            version: c.version,
            wrapped: item.wrapped.clone(),
            stored_ms: draft.time_ms(),
            expires_ms: item.expires_ms,
            released: false,
        };
        rows::put(self.kv, &key, &row)?;
        if let Some(at) = item.expires_ms {
            self.kv.put(&rows::expiry_key(at, &item.key_id), &[])?;
        }
        let epoch = rows::chat_epoch_key(&row.chat, row.epoch, &item.key_id);
        rows::put(self.kv, &epoch, &row.stored_ms)?;
        *self.live.entry(c.version).or_default() += 1;
        Ok(StoreOutcome::Stored)
    }
}

/// Whether `item` is what stands there. An equal commitment is an equal share;
/// chat, epoch, policy, home and expiry must be equal too, or a repetition could be
/// told "stored" while the share is bound to something else.
fn same(row: &ShareRow, home: &HomeId, item: &StoreItem) -> bool {
    row.commitment == item.commitment
        && row.home == *home
        && row.chat == item.chat
        && row.epoch == item.epoch
        && row.policy == item.policy
        && row.expires_ms == item.expires_ms
}
