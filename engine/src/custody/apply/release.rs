//! `Release`: which shares go out. Decided here and nowhere else, so that the
//! decision and its record are one committed entry.

use super::super::command::Release;
use super::super::protocol::{KeyRef, Reason, Refusal};
use super::super::reply::{Effect, Granted, ReleaseGranted};
use super::super::rows::{self, REQUEST_AGE, RequestRow, ShareRow};
use super::super::{REQUEST_KEEP_MS, REQUESTS_PRUNED_MAX};
use super::{Draft, Frozen, Run};
use crate::audit::{EntryRef, HexBytes, KeyOutcome};
use crate::crypto::labels;
use crate::types::RequestId;
use crate::types::codec;
use crate::types::kv::KvError;
use std::collections::BTreeSet;

impl Run<'_> {
    pub(super) fn release(
        &mut self,
        draft: &mut Draft<'_>,
        c: &Release,
    ) -> Result<Effect, KvError> {
        draft.entry.request = Some(c.request);
        draft.entry.home = Some(c.home.clone());
        draft.entry.node = Some(c.node);
        draft.entry.reason = Some(reason_text(c.reason).to_owned());
        draft.entry.authority = Some(HexBytes(c.authority));
        draft.entry.lease_key = Some(HexBytes(c.lease_key));
        let bound = self.bind_request(draft, c)?;
        let chats: BTreeSet<_> = c.keys.iter().map(|k| k.chat).collect();
        let frozen = self.frozen(&chats)?;
        let mut results = Vec::with_capacity(c.keys.len());
        for key in &c.keys {
            let result = if bound {
                self.release_one(draft, c, key, &frozen)?
            } else {
                Err(Refusal::RequestMismatch)
            };
            let (outcome, version) = match &result {
                Ok(g) => (KeyOutcome::Released, Some(g.version)),
                Err(refusal) => (line(*refusal), None),
            };
            draft.key(&key.chat, key.key_id, outcome, version);
            results.push(result);
        }
        if !bound {
            draft.refuse("the request id is bound to another request");
        }
        Ok(Effect::Released(ReleaseGranted {
            request: c.request,
            node: c.node,
            authority: c.authority,
            lease_key: c.lease_key,
            results,
            // Known once the entry is hashed; filled in by the caller.
            entry: EntryRef {
                index: draft.entry.index,
                leaf: [0; 32],
                time_ms: draft.time_ms(),
            },
        }))
    }

    /// Whether the request id is free or bound to this very request.
    fn bind_request(&mut self, draft: &Draft<'_>, c: &Release) -> Result<bool, KvError> {
        let binding = binding(c);
        let key = rows::request_key(&c.request);
        if let Some(row) = rows::get::<RequestRow, _>(self.kv, &key)? {
            return Ok(row.binding == binding);
        }
        let time_ms = draft.time_ms();
        rows::put(self.kv, &key, &RequestRow { binding, time_ms })?;
        self.kv
            .put(&rows::request_age_key(time_ms, &c.request), &[])?;
        self.prune_requests(time_ms)?;
        Ok(true)
    }

    fn prune_requests(&mut self, time_ms: u64) -> Result<(), KvError> {
        let Some(horizon) = time_ms.checked_sub(REQUEST_KEEP_MS) else {
            return Ok(());
        };
        let end = rows::request_age_key(horizon, &RequestId([0; 16]));
        for (old, _) in self
            .kv
            .scan(&[REQUEST_AGE], &end, REQUESTS_PRUNED_MAX, false)?
        {
            let id = <[u8; 16]>::try_from(&old[9..])
                .map_err(|_| KvError("request age row with a key of another shape".into()))?;
            self.kv.delete(&rows::request_key(&RequestId(id)))?;
            self.kv.delete(&old)?;
        }
        Ok(())
    }

    fn release_one(
        &mut self,
        draft: &Draft<'_>,
        c: &Release,
        key: &KeyRef,
        frozen: &Frozen,
    ) -> Result<Result<Granted, Refusal>, KvError> {
        let share_key = rows::share_key(&key.key_id);
        let Some(row) = rows::get::<ShareRow, _>(self.kv, &share_key)? else {
            let stone = self.kv.get(&rows::tombstone_key(&key.key_id))?;
            return Ok(Err(if stone.is_some() {
                Refusal::Tombstoned
            } else {
                Refusal::NotHeld
            }));
        };
        if row.home != c.home {
            return Ok(Err(Refusal::NotAuthorised));
        }
        if row.chat != key.chat {
            return Ok(Err(Refusal::WrongChat));
        }
        // Due and not yet swept counts as destroyed: the time was fixed when dealt.
        if row.expires_ms.is_some_and(|at| at <= draft.time_ms()) {
            return Ok(Err(Refusal::Tombstoned));
        }
        if frozen.holds(&key.chat) {
            return Ok(Err(Refusal::Frozen));
        }
        let granted = Granted {
            chat: row.chat,
            key_id: key.key_id,
            policy: row.policy,
            commitment: row.commitment,
            version: row.version,
            wrapped: row.wrapped.clone(),
        };
        if !row.released {
            let row = ShareRow {
                released: true,
                ..row
            };
            rows::put(self.kv, &share_key, &row)?;
        }
        Ok(Ok(granted))
    }
}

/// What a request id is bound to: keys, authority, lease key, and who asks.
fn binding(c: &Release) -> [u8; 32] {
    let fields = (&c.keys, &c.authority, &c.lease_key, &c.home, c.node);
    blake3::derive_key(labels::REQUEST_BINDING, &codec::encode(1, &fields))
}

fn reason_text(reason: Reason) -> &'static str {
    match reason {
        Reason::Read => "read",
        Reason::Write => "write",
        Reason::Drill => "drill",
    }
}

fn line(refusal: Refusal) -> KeyOutcome {
    match refusal {
        // Damage is found after commit, when the share is opened.
        Refusal::NotHeld | Refusal::Damaged => KeyOutcome::NotHeld,
        Refusal::Tombstoned => KeyOutcome::Tombstoned,
        Refusal::Frozen => KeyOutcome::Frozen,
        Refusal::WrongChat => KeyOutcome::WrongChat,
        Refusal::RequestMismatch => KeyOutcome::RequestMismatch,
        Refusal::NotAuthorised => KeyOutcome::NotAuthorised,
    }
}
