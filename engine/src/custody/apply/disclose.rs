//! `OrderRelease`: which shares go out under a disclosure order. The order was
//! approved by officers; no account's grant, ceiling or budget has a part in it.

use super::super::command::OrderRelease;
use super::super::protocol::{KeyRef, Refusal};
use super::super::reply::{Effect, Granted};
use super::super::rows::{self, ShareRow};
use super::super::view;
use super::release::{binding, note, released};
use super::{Draft, Frozen, Run};
use crate::audit::HexBytes;
use crate::authz::orders::{Order, OrderState, StoredEpoch, in_scope};
use crate::types::kv::KvError;
use std::collections::BTreeSet;

impl Run<'_> {
    pub(super) fn order_release(
        &mut self,
        draft: &mut Draft<'_>,
        c: &OrderRelease,
    ) -> Result<Effect, KvError> {
        draft.entry.order = Some(c.order);
        draft.entry.request = Some(c.request);
        draft.entry.home = Some(c.home.clone());
        draft.entry.node = Some(c.node);
        draft.entry.reason = Some("order".to_owned());
        draft.entry.lease_key = Some(HexBytes(c.lease_key));
        let bound = binding(&c.keys, &c.order.0, &c.lease_key, (&c.home, c.node));
        let standing = if self.bind_request(draft, &c.request, bound)?.is_some() {
            self.releasable(draft, c)?.map_err(|why| {
                draft.refuse(why);
                Refusal::Order
            })
        } else {
            draft.refuse("the request id is bound to another request");
            Err(Refusal::RequestMismatch)
        };
        let chats: BTreeSet<_> = c.keys.iter().map(|k| k.chat).collect();
        let frozen = self.frozen(&chats)?;
        let mut results = Vec::with_capacity(c.keys.len());
        for key in &c.keys {
            let result = match &standing {
                Ok((_, order)) => self.disclose_one(draft, c, order, key, &frozen)?,
                Err(refusal) => Err(*refusal),
            };
            note(draft, key, &result);
            results.push(result);
        }
        if let Ok((mut state, _)) = standing
            && state.executed.is_none()
            && results.iter().any(Result::is_ok)
        {
            state.executed = Some(draft.entry.index);
            rows::put(self.kv, &rows::order_key(&c.order), &state)?;
        }
        let by = (c.order.0, c.lease_key);
        Ok(released(draft, c.request, c.node, by, results))
    }

    /// The order, if shares may go out under it now; else why not.
    fn releasable(
        &self,
        draft: &Draft<'_>,
        c: &OrderRelease,
    ) -> Result<Result<(OrderState, Order), String>, KvError> {
        let (state, roster) = (view::order(self.kv, &c.order)?, view::roster(self.kv)?);
        let (Some(state), Some(roster)) = (state, roster) else {
            return Ok(Err(format!("order {} was never submitted here", c.order)));
        };
        let status = state.status(&roster, self.custody.cool_off_ms, draft.time_ms());
        if !status.releases() {
            return Ok(Err(format!("the order is {} here", status.name())));
        }
        let order = state.order().map_err(|e| KvError(e.to_string()))?;
        Ok(Ok((state, order)))
    }

    fn disclose_one(
        &mut self,
        draft: &Draft<'_>,
        c: &OrderRelease,
        order: &Order,
        key: &KeyRef,
        frozen: &Frozen,
    ) -> Result<Result<Granted, Refusal>, KvError> {
        // Before anything is said of the key: an order tells of its own chats only.
        let named = order.scope.chats.contains(&key.chat);
        if !named
            && self
                .kv
                .get(&rows::order_chat_key(&c.order, &key.chat))?
                .is_none()
        {
            return Ok(Err(Refusal::NotAuthorised));
        }
        let row = match self.held(draft, &c.home, key, frozen)? {
            Ok(row) => row,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !self.covered(order, key, &row)? {
            return Ok(Err(Refusal::NotAuthorised));
        }
        self.let_go(key, row).map(Ok)
    }

    /// Whether the epoch is over and overlaps the order's dates.
    fn covered(&self, order: &Order, key: &KeyRef, row: &ShareRow) -> Result<bool, KvError> {
        let stored = StoredEpoch {
            epoch: row.epoch,
            stored_ms: row.stored_ms,
            key: key.key_id,
        };
        let next = view::next_store_ms(self.kv, &row.chat, row.epoch)?;
        Ok(in_scope(&stored, next, &order.scope).is_some_and(|e| e.closed))
    }
}
