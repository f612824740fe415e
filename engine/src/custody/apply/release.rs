//! `Release`: which shares go out. Decided here and nowhere else, so that the
//! decision and its record are one committed entry.

use super::super::budget::{ACCOUNT_BUDGET, HOME_NODE_BUDGET, Purse};
use super::super::command::Release;
use super::super::protocol::{KeyRef, Reason, Refusal};
use super::super::reply::{Effect, Granted, ReleaseGranted};
use super::super::rows::{self, GRANT, GRANT_AGE, GrantRow, REQUEST_AGE, RequestRow, ShareRow};
use super::super::{GRANTS_PRUNED_MAX, REQUEST_KEEP_MS, REQUESTS_PRUNED_MAX};
use super::{Draft, Frozen, Run};
use crate::audit::{EntryRef, HexBytes, KeyOutcome, OpeningKind};
use crate::authz::deletion::MandateRefusal;
use crate::authz::grant::{self, Action, Grant, GrantHash, GrantRefusal, Shown};
use crate::authz::standing::MemberStanding;
use crate::crypto::labels;
use crate::types::codec;
use crate::types::kv::{Kv, KvError};
use crate::types::{ChatId, HomeId, NodeId, RequestId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
        let authority = GrantHash::of(&c.grant);
        draft.entry.authority = Some(HexBytes(authority.0));
        draft.entry.lease_key = Some(HexBytes(c.lease_key));
        let bound = binding(&c.keys, &authority.0, &c.lease_key, (&c.home, c.node));
        let request = self.bind_request(draft, &c.request, bound)?;
        let mut shown = self.show(draft, c, &authority)?;
        let chats: BTreeSet<_> = c.keys.iter().map(|k| k.chat).collect();
        let frozen = self.frozen(&chats)?;
        let mut results = Vec::with_capacity(c.keys.len());
        let mut charged = request.as_ref().map(|r| r.charged.clone());
        for (n, key) in (0u16..).zip(&c.keys) {
            let result = match (&mut charged, &mut shown) {
                (None, _) => Err(Refusal::RequestMismatch),
                (Some(_), Err(why)) => Err(Refusal::Grant(*why)),
                (Some(charged), Ok(allowance)) => {
                    let paid = charged.contains(&n);
                    let result = self.release_one(draft, c, key, &frozen, allowance, paid)?;
                    if result.is_ok() {
                        charged.insert(n);
                    }
                    result
                }
            };
            note(draft, key, &result);
            results.push(result);
        }
        match (&request, &shown) {
            (None, _) => {
                draft.refuse("the request id is bound to another request");
            }
            (Some(_), Err(why)) => {
                draft.refuse(format!("grant: {}: {why}", why.code()));
            }
            (Some(_), Ok(allowance)) => allowance.save(self.kv)?,
        }
        if let (Some(row), Some(charged)) = (request, charged)
            && row.charged != charged
        {
            let row = RequestRow { charged, ..row };
            rows::put(self.kv, &rows::request_key(&c.request), &row)?;
        }
        let by = (authority.0, c.lease_key);
        Ok(released(draft, c.request, c.node, by, results))
    }

    /// Decides about the grant as a whole, and opens what its keys are charged to.
    fn show(
        &mut self,
        draft: &mut Draft<'_>,
        c: &Release,
        hash: &GrantHash,
    ) -> Result<Result<Allowance, GrantRefusal>, KvError> {
        let grant = match self.custody.known.read(&c.grant, hash) {
            Ok(grant) => grant,
            Err(why) => return Ok(Err(why)),
        };
        let (account, device) = (grant.claims().account, *grant.device());
        draft.open(OpeningKind::Account, account.0);
        draft.open(OpeningKind::Device, device.0);
        let Some(deployment) = &self.custody.deployment else {
            return Ok(Err(GrantRefusal::OtherDeployment));
        };
        let now_ms = draft.time_ms();
        let standings = &self.custody.standings;
        let shown = Shown {
            deployment,
            home: &c.home,
            device: standings.device(&*self.kv, &account, &device, now_ms)?,
            signature_holds: c.signature_holds,
            action: match c.reason {
                Reason::Read | Reason::Drill => Action::Read,
                Reason::Write => Action::Write,
            },
            now_ms,
        };
        if let Err(why) = grant::decide_grant(&grant, &shown) {
            return Ok(Err(why));
        }
        let row: Option<GrantRow> =
            rows::get(self.kv, &rows::grant_key(&device, &grant.claims().id))?;
        if row.is_some_and(|r| r.hash != hash.0) {
            return Ok(Err(GrantRefusal::IdReused));
        }
        if row.is_none() {
            self.prune_grants(now_ms)?;
        }
        self.custody.known.keep(&grant, None);
        let mut members = BTreeMap::new();
        for range in &grant.claims().chats {
            if c.keys.iter().any(|k| k.chat == range.chat) {
                let standing = standings.member(&*self.kv, &range.chat, &account)?;
                members.insert(range.chat, standing);
            }
        }
        let purse = Purse::open(&*self.kv, now_ms, &account, &c.home, c.node)?;
        Ok(Ok(Allowance {
            spent: row.map_or(0, |r| r.spent),
            known: row.is_some(),
            grant,
            members,
            purse,
        }))
    }

    fn prune_grants(&mut self, now_ms: u64) -> Result<(), KvError> {
        let end = [&[GRANT_AGE], now_ms.to_be_bytes().as_slice()].concat();
        let old = self.kv.scan(&[GRANT_AGE], &end, GRANTS_PRUNED_MAX, false)?;
        for (age, _) in old {
            let id = age
                .get(9..)
                .ok_or_else(|| KvError("grant age row with a key of another shape".into()))?;
            self.kv.delete(&[&[GRANT], id].concat())?;
            self.kv.delete(&age)?;
        }
        Ok(())
    }

    /// The request's row, new or bound to this very request; `None`: to another.
    pub(super) fn bind_request(
        &mut self,
        draft: &Draft<'_>,
        request: &RequestId,
        binding: [u8; 32],
    ) -> Result<Option<RequestRow>, KvError> {
        let key = rows::request_key(request);
        if let Some(row) = rows::get::<RequestRow, _>(self.kv, &key)? {
            return Ok((row.binding == binding).then_some(row));
        }
        let row = RequestRow {
            binding,
            time_ms: draft.time_ms(),
            charged: BTreeSet::new(),
        };
        rows::put(self.kv, &key, &row)?;
        self.kv
            .put(&rows::request_age_key(row.time_ms, request), &[])?;
        self.prune_requests(row.time_ms)?;
        Ok(Some(row))
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
        allowance: &mut Allowance,
        paid: bool,
    ) -> Result<Result<Granted, Refusal>, KvError> {
        // Before anything is said of the key: a home learns only of chats it was granted.
        let Some(member) = allowance.members.get(&key.chat).copied() else {
            return Ok(Err(Refusal::Grant(GrantRefusal::ChatNotGranted)));
        };
        let row = match self.held(draft, &c.home, key, frozen)? {
            Ok(row) => row,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(why) = grant::decide_key(&allowance.grant, member, &row.chat, row.epoch) {
            return Ok(Err(Refusal::Grant(why)));
        }
        if let Err(refusal) = allowance.charge(paid) {
            return Ok(Err(refusal));
        }
        self.let_go(key, row).map(Ok)
    }

    /// The share under `key`, unless a rule that holds for every release keeps it here.
    pub(super) fn held(
        &self,
        draft: &Draft<'_>,
        home: &HomeId,
        key: &KeyRef,
        frozen: &Frozen,
    ) -> Result<Result<ShareRow, Refusal>, KvError> {
        let Some(row) = rows::get::<ShareRow, _>(self.kv, &rows::share_key(&key.key_id))? else {
            let stone = self.kv.get(&rows::tombstone_key(&key.key_id))?;
            return Ok(Err(if stone.is_some() {
                Refusal::Tombstoned
            } else {
                Refusal::NotHeld
            }));
        };
        if row.home != *home {
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
        Ok(Ok(row))
    }

    /// Marks the share as released and hands it out.
    pub(super) fn let_go(&mut self, key: &KeyRef, row: ShareRow) -> Result<Granted, KvError> {
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
            rows::put(self.kv, &rows::share_key(&key.key_id), &row)?;
        }
        Ok(granted)
    }
}

/// A grant that holds, and what its keys are charged to.
struct Allowance {
    grant: Arc<Grant>,
    /// The account, in each chat that is granted and asked for.
    members: BTreeMap<ChatId, MemberStanding>,
    spent: u32,
    /// Whether the grant has a row.
    known: bool,
    purse: Purse,
}

impl Allowance {
    /// A key more. `paid`: the ceiling was charged for it by the request that this one repeats.
    fn charge(&mut self, paid: bool) -> Result<(), Refusal> {
        if !paid && self.spent >= self.grant.claims().ceiling {
            return Err(Refusal::Grant(GrantRefusal::CeilingSpent));
        }
        pay(&mut self.purse)?;
        self.spent += u32::from(!paid);
        Ok(())
    }

    fn save(&self, kv: &mut dyn Kv) -> Result<(), KvError> {
        self.purse.save(kv)?;
        if self.spent == 0 {
            return Ok(());
        }
        let (device, id) = (self.grant.device(), &self.grant.claims().id);
        if !self.known {
            let age = rows::grant_age_key(self.grant.expires_ms(), device, id);
            kv.put(&age, &[])?;
        }
        let row = GrantRow {
            hash: self.grant.hash().0,
            spent: self.spent,
        };
        rows::put(kv, &rows::grant_key(device, id), &row)
    }
}

/// Takes a key of the budgets.
pub(super) fn pay(purse: &mut Purse) -> Result<(), Refusal> {
    purse.take().map_err(|spent| {
        let retry_ms = spent.retry_ms;
        match spent.of {
            ACCOUNT_BUDGET => Refusal::AccountBudget { retry_ms },
            HOME_NODE_BUDGET => Refusal::HomeNodeBudget { retry_ms },
            _ => Refusal::OverallBudget { retry_ms },
        }
    })
}

/// What a request id is bound to: keys, authority, lease key, and who asks.
pub(super) fn binding(
    keys: &[KeyRef],
    authority: &[u8; 32],
    lease_key: &[u8; 32],
    (home, node): (&HomeId, NodeId),
) -> [u8; 32] {
    let fields = (keys, authority, lease_key, home, node);
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
        Refusal::NotAuthorised | Refusal::Order => KeyOutcome::NotAuthorised,
        Refusal::AccountBudget { .. } => KeyOutcome::AccountBudget,
        Refusal::HomeNodeBudget { .. } => KeyOutcome::HomeNodeBudget,
        Refusal::OverallBudget { .. } => KeyOutcome::OverallBudget,
        Refusal::Grant(why) => grant_line(why),
        Refusal::Mandate(why) => mandate_line(why),
    }
}

fn mandate_line(why: MandateRefusal) -> KeyOutcome {
    use MandateRefusal as M;
    match why {
        M::Form => KeyOutcome::MandateForm,
        M::OtherDeployment => KeyOutcome::MandateOtherDeployment,
        M::OtherHome => KeyOutcome::MandateOtherHome,
        M::DeviceUnknown => KeyOutcome::MandateDeviceUnknown,
        M::DeviceExpired => KeyOutcome::MandateDeviceExpired,
        M::DeviceRevoked => KeyOutcome::MandateDeviceRevoked,
        M::Signature => KeyOutcome::MandateSignature,
        M::NotYetValid => KeyOutcome::MandateNotYetValid,
        M::HorizonOver => KeyOutcome::MandateHorizonOver,
        M::ChatNotNamed => KeyOutcome::MandateChatNotNamed,
        M::EpochNotNamed => KeyOutcome::MandateEpochNotNamed,
        M::ChatUnknown => KeyOutcome::MandateChatUnknown,
        M::ChatForked => KeyOutcome::MandateChatForked,
        M::NotMember => KeyOutcome::MandateNotMember,
        M::RoleMissing => KeyOutcome::MandateRoleMissing,
        M::EpochBeforeMembership => KeyOutcome::MandateEpochBeforeMembership,
        M::LeaseKeyUsed => KeyOutcome::MandateLeaseKeyUsed,
        M::ReleasesSpent => KeyOutcome::MandateReleasesSpent,
    }
}

/// Puts what became of a key into the entry, whatever it was asked for under.
pub(super) fn note(draft: &mut Draft<'_>, key: &KeyRef, result: &Result<Granted, Refusal>) {
    let (outcome, version) = match result {
        Ok(granted) => (KeyOutcome::Released, Some(granted.version)),
        Err(refusal) => (line(*refusal), None),
    };
    draft.key(&key.chat, key.key_id, outcome, version);
}

/// The answer to a request for shares, under `authority` and for a lease key.
pub(super) fn released(
    draft: &Draft<'_>,
    request: RequestId,
    node: NodeId,
    (authority, lease_key): ([u8; 32], [u8; 32]),
    results: Vec<Result<Granted, Refusal>>,
) -> Effect {
    Effect::Released(ReleaseGranted {
        request,
        node,
        authority,
        lease_key,
        results,
        // Known once the entry is hashed; filled in by the caller.
        entry: EntryRef {
            index: draft.entry.index,
            leaf: [0; 32],
            time_ms: draft.time_ms(),
        },
    })
}

fn grant_line(why: GrantRefusal) -> KeyOutcome {
    use GrantRefusal as G;
    match why {
        G::TooLong => KeyOutcome::GrantTooLong,
        G::NotCompact => KeyOutcome::GrantNotCompact,
        G::NotBase64url => KeyOutcome::GrantNotBase64url,
        G::Header => KeyOutcome::GrantHeader,
        G::Critical => KeyOutcome::GrantCritical,
        G::Algorithm => KeyOutcome::GrantAlgorithm,
        G::Type => KeyOutcome::GrantType,
        G::Payload => KeyOutcome::GrantPayload,
        G::Actions => KeyOutcome::GrantActions,
        G::Chats => KeyOutcome::GrantChats,
        G::Ceiling => KeyOutcome::GrantCeiling,
        G::Lifetime => KeyOutcome::GrantLifetime,
        G::SignatureForm => KeyOutcome::GrantSignatureForm,
        G::OtherDeployment => KeyOutcome::GrantOtherDeployment,
        G::OtherHome => KeyOutcome::GrantOtherHome,
        G::DeviceUnknown => KeyOutcome::GrantDeviceUnknown,
        G::DeviceExpired => KeyOutcome::GrantDeviceExpired,
        G::DeviceRevoked => KeyOutcome::GrantDeviceRevoked,
        G::Signature => KeyOutcome::GrantSignature,
        G::NotYetValid => KeyOutcome::GrantNotYetValid,
        G::Expired => KeyOutcome::GrantExpired,
        G::IdReused => KeyOutcome::GrantIdReused,
        G::ActionNotGranted => KeyOutcome::GrantActionNotGranted,
        G::ChatNotGranted => KeyOutcome::GrantChatNotGranted,
        G::EpochBeforeRange => KeyOutcome::GrantEpochBeforeRange,
        G::EpochAfterRange => KeyOutcome::GrantEpochAfterRange,
        G::ChatUnknown => KeyOutcome::GrantChatUnknown,
        G::ChatForked => KeyOutcome::GrantChatForked,
        G::NotMember => KeyOutcome::GrantNotMember,
        G::EpochBeforeMembership => KeyOutcome::GrantEpochBeforeMembership,
        G::CeilingSpent => KeyOutcome::GrantCeilingSpent,
        G::ServiceCredential => KeyOutcome::GrantServiceCredential,
    }
}
