//! `MandateRelease`: which shares go out so that a home can write anew what a
//! deletion leaves. The person's device is not there any more: its signed
//! statement is, and what it allows is counted here, epoch by epoch.

use super::super::MANDATES_PRUNED_MAX;
use super::super::budget::Purse;
use super::super::command::MandateRelease;
use super::super::protocol::{KeyRef, Refusal};
use super::super::reply::{Effect, Granted};
use super::super::rows::{self, MANDATE, MANDATE_AGE, MandateRow};
use super::release::{binding, note, pay, released};
use super::{Draft, Frozen, Run};
use crate::audit::{HexBytes, OpeningKind};
use crate::authz::deletion::{MANDATE_RELEASES_MAX, Mandate, MandateRefusal, Shown};
use crate::authz::standing::MemberStanding;
use crate::types::kv::{Kv, KvError};
use crate::types::{EpochNo, StatementHash};
use std::collections::BTreeSet;

impl Run<'_> {
    pub(super) fn mandate_release(
        &mut self,
        draft: &mut Draft<'_>,
        c: &MandateRelease,
    ) -> Result<Effect, KvError> {
        draft.entry.request = Some(c.request);
        draft.entry.home = Some(c.home.clone());
        draft.entry.node = Some(c.node);
        draft.entry.reason = Some("deletion".to_owned());
        let authority = c.statement.hash();
        draft.entry.authority = Some(HexBytes(authority));
        draft.entry.lease_key = Some(HexBytes(c.lease_key));
        let bound = binding(&c.keys, &authority, &c.lease_key, (&c.home, c.node));
        let bound = self.bind_request(draft, &c.request, bound)?.is_some();
        let mut shown = self.show_mandate(draft, c)?;
        let chats: BTreeSet<_> = c.keys.iter().map(|k| k.chat).collect();
        let frozen = self.frozen(&chats)?;
        let mut results = Vec::with_capacity(c.keys.len());
        for key in &c.keys {
            let result = match &mut shown {
                _ if !bound => Err(Refusal::RequestMismatch),
                Err(why) => Err(Refusal::Mandate(*why)),
                Ok(held) => self.rewrite_one(draft, c, key, &frozen, held)?,
            };
            note(draft, key, &result);
            results.push(result);
        }
        match &shown {
            _ if !bound => {
                draft.refuse("the request id is bound to another request");
            }
            Err(why) => {
                draft.refuse(format!("mandate: {}: {why}", why.code()));
            }
            Ok(held) => held.save(self.kv)?,
        }
        let by = (authority, c.lease_key);
        Ok(released(draft, c.request, c.node, by, results))
    }

    /// Decides about the mandate as a whole, and opens what its epochs are counted in.
    fn show_mandate(
        &mut self,
        draft: &mut Draft<'_>,
        c: &MandateRelease,
    ) -> Result<Result<Held, MandateRefusal>, KvError> {
        let mandate = match Mandate::read(&c.statement) {
            Ok(mandate) => mandate,
            Err(why) => return Ok(Err(why)),
        };
        let d = mandate.deletion();
        draft.open(OpeningKind::Account, d.account.0);
        draft.open(OpeningKind::Device, d.device.0);
        let Some(deployment) = &self.custody.deployment else {
            return Ok(Err(MandateRefusal::OtherDeployment));
        };
        let now_ms = draft.time_ms();
        let standings = &self.custody.standings;
        let shown = Shown {
            deployment,
            home: &c.home,
            device: standings.device(&*self.kv, &d.account, &d.device, now_ms)?,
            now_ms,
        };
        if let Err(why) = mandate.decide(&shown) {
            return Ok(Err(why));
        }
        let member = standings.member(&*self.kv, &d.chat, &d.account)?;
        let purse = Purse::open(&*self.kv, now_ms, &d.account, &c.home, c.node)?;
        let row: Option<MandateRow> = rows::get(self.kv, &rows::mandate_key(&mandate.id()))?;
        if row.is_none() {
            self.prune_mandates(now_ms)?;
        }
        Ok(Ok(Held {
            known: row.is_some(),
            row: row.unwrap_or_default(),
            mandate,
            member,
            purse,
        }))
    }

    fn prune_mandates(&mut self, now_ms: u64) -> Result<(), KvError> {
        let end = rows::mandate_age_key(now_ms, &StatementHash([0; 32]));
        let old = self
            .kv
            .scan(&[MANDATE_AGE], &end, MANDATES_PRUNED_MAX, false)?;
        for (age, _) in old {
            let id = age
                .get(9..)
                .ok_or_else(|| KvError("mandate age row with a key of another shape".into()))?;
            self.kv.delete(&[&[MANDATE], id].concat())?;
            self.kv.delete(&age)?;
        }
        Ok(())
    }

    fn rewrite_one(
        &mut self,
        draft: &Draft<'_>,
        c: &MandateRelease,
        key: &KeyRef,
        frozen: &Frozen,
        held: &mut Held,
    ) -> Result<Result<Granted, Refusal>, KvError> {
        // Before anything is said of the key: a mandate tells of its own chat only.
        if held.mandate.deletion().chat != key.chat {
            return Ok(Err(Refusal::Mandate(MandateRefusal::ChatNotNamed)));
        }
        let row = match self.held(draft, &c.home, key, frozen)? {
            Ok(row) => row,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let decided = held
            .mandate
            .decide_key(held.member, &row.chat, row.epoch)
            .and_then(|()| held.counts(row.epoch, &c.lease_key));
        if let Err(why) = decided {
            return Ok(Err(Refusal::Mandate(why)));
        }
        if let Err(refusal) = pay(&mut held.purse) {
            return Ok(Err(refusal));
        }
        held.row
            .served
            .entry(row.epoch)
            .or_default()
            .insert(c.lease_key);
        self.let_go(key, row).map(Ok)
    }
}

/// A mandate that holds, and what its epochs are counted in.
struct Held {
    mandate: Mandate,
    member: MemberStanding,
    row: MandateRow,
    /// Whether the mandate has a row.
    known: bool,
    purse: Purse,
}

impl Held {
    /// Whether the epoch may go out to this lease key. By epoch and not by key id: a home that
    /// stored several keys under one number gets no more of them.
    fn counts(&self, epoch: EpochNo, lease_key: &[u8; 32]) -> Result<(), MandateRefusal> {
        let Some(served) = self.row.served.get(&epoch) else {
            return Ok(());
        };
        if served.contains(lease_key) {
            return Err(MandateRefusal::LeaseKeyUsed);
        }
        if served.len() >= MANDATE_RELEASES_MAX {
            return Err(MandateRefusal::ReleasesSpent);
        }
        Ok(())
    }

    fn save(&self, kv: &mut dyn Kv) -> Result<(), KvError> {
        self.purse.save(kv)?;
        if self.row.served.is_empty() {
            return Ok(());
        }
        let id = self.mandate.id();
        if !self.known {
            let ends_ms = self.mandate.deletion().ends_ms();
            kv.put(&rows::mandate_age_key(ends_ms, &id), &[])?;
        }
        rows::put(kv, &rows::mandate_key(&id), &self.row)
    }
}
