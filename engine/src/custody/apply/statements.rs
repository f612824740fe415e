//! Signed statements about authorities, accounts and chats: checked by `authz`,
//! kept as rows, recorded as commitments.

use super::super::command::{Chained, RegisterAuthority, RegisterHome};
use super::super::memberships;
use super::super::reply::Effect;
use super::super::rows::{self, AccountRow, ChatRow, ForkRow, LinkRow};
use super::super::view;
use super::{Draft, Run};
use crate::audit::OpeningKind;
use crate::authz::chain::{ChainId, Misplaced, Source};
use crate::authz::envelope::Envelope;
use crate::authz::identity::{
    self, AccountPayload, AuthorityKeys, AuthorityRecord, IdentityContext, IdentityRefusal,
    account_id,
};
use crate::authz::membership::{
    self, ChatPayload, Invite, Member, MembershipContext, MembershipReads, MembershipRefusal,
    chat_id,
};
use crate::authz::standing::DeviceStanding;
use crate::types::kv::{Kv, KvError, KvRead};
use crate::types::{AccountId, ChatId, DeviceId, PublicKey, StatementHash, WallMs};
use std::collections::BTreeSet;

/// Most authorities and homes registered at a custodian.
const REGISTERED_MAX: usize = 64;
const NO_DEPLOYMENT: &str =
    "this custodian's state machine was not told its deployment, and can verify no statement";

/// What membership decisions read, from rows.
struct Reads<'a> {
    kv: &'a dyn Kv,
    chat: ChatId,
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
        at_ms: WallMs,
        then: bool,
    ) -> Result<DeviceStanding, KvError> {
        let row: Option<AccountRow> = rows::get(self.kv, &rows::account_key(account))?;
        Ok(row.map_or(DeviceStanding::Unknown, |r| {
            if then {
                r.state.device_then(device, at_ms)
            } else {
                r.state.device(device, at_ms)
            }
        }))
    }
    fn standing(&self, number: u64) -> Result<Option<StatementHash>, KvError> {
        standing(self.kv, &ChainId::Chat(self.chat), number)
    }
}

fn standing<K: KvRead + ?Sized>(
    kv: &K,
    chain: &ChainId,
    number: u64,
) -> Result<Option<StatementHash>, KvError> {
    let row: Option<LinkRow> = rows::get(kv, &rows::link_key(chain, number))?;
    Ok(row.map(|r| StatementHash(r.envelope.hash())))
}

/// A refusal by either kind of chain.
struct Refused {
    code: &'static str,
    words: String,
    misplaced: Option<Misplaced>,
}

impl From<IdentityRefusal> for Refused {
    fn from(e: IdentityRefusal) -> Self {
        Self {
            code: e.code(),
            words: e.to_string(),
            misplaced: match e {
                IdentityRefusal::Misplaced(m) => Some(m),
                _ => None,
            },
        }
    }
}
impl From<MembershipRefusal> for Refused {
    fn from(e: MembershipRefusal) -> Self {
        Self {
            code: e.code(),
            words: e.to_string(),
            misplaced: match e {
                MembershipRefusal::Misplaced(m) => Some(m),
                _ => None,
            },
        }
    }
}

impl Run<'_> {
    pub(super) fn register_authority(
        &mut self,
        draft: &mut Draft<'_>,
        c: &RegisterAuthority,
    ) -> Result<Effect, KvError> {
        draft.entry.operator = Some(c.operator.mark());
        draft.entry.reason = Some(c.reason.clone());
        draft.entry.identity_authority = Some(c.record.id.clone());
        if let Err(e) = c.record.check() {
            return Ok(draft.refuse(e.to_string()));
        }
        let known = rows::authorities(self.kv)?;
        match known.get(&c.record.id) {
            Some(row) if *row == c.record => return Ok(Effect::Unchanged),
            // Its own statements rotate its keys; a registration never replaces them.
            Some(_) => return Ok(draft.refuse("the authority is registered with other keys")),
            None => {}
        }
        if known.len() >= REGISTERED_MAX {
            return Ok(draft.refuse(format!("{REGISTERED_MAX} authorities are registered")));
        }
        if let Some(other) = known.values().find(|o| shares_a_key(o, &c.record)) {
            return Ok(draft.refuse(format!("authority {} has one of these keys", other.id)));
        }
        rows::put(self.kv, &rows::authority_key(&c.record.id), &c.record)?;
        Ok(Effect::Done)
    }

    pub(super) fn rotate_authority(
        &mut self,
        draft: &mut Draft<'_>,
        envelope: &Envelope,
    ) -> Result<Effect, KvError> {
        let Some(deployment) = self.custody.deployment else {
            return Ok(draft.refuse(NO_DEPLOYMENT));
        };
        let s: AuthorityKeys = match envelope.read("statement of an authority's keys") {
            Ok(s) => s,
            Err(e) => return Ok(draft.refuse(e.to_string())),
        };
        draft.entry.identity_authority = Some(s.authority.clone());
        let known = rows::authorities(self.kv)?;
        let Some(record) = known.get(&s.authority) else {
            return Ok(draft.refuse(format!("authority {} is not registered here", s.authority)));
        };
        if record.keys.last() == Some(&s.key) {
            return Ok(Effect::Unchanged);
        }
        let next = match record.rotate(envelope, &deployment) {
            Ok(next) => next,
            Err(e) => return Ok(draft.refuse(e.to_string())),
        };
        let mut others = known.values().filter(|o| o.id != next.id);
        if let Some(other) = others.find(|o| shares_a_key(o, &next)) {
            return Ok(draft.refuse(format!("authority {} has this key", other.id)));
        }
        rows::put(self.kv, &rows::authority_key(&next.id), &next)?;
        Ok(Effect::Done)
    }

    pub(super) fn register_home(
        &mut self,
        draft: &mut Draft<'_>,
        c: &RegisterHome,
    ) -> Result<Effect, KvError> {
        draft.entry.operator = Some(c.operator.mark());
        draft.entry.reason = Some(c.reason.clone());
        draft.entry.home = Some(c.home.clone());
        let known = rows::home_entities(self.kv)?;
        if known.get(&c.home) == Some(&c.entity) {
            return Ok(Effect::Unchanged);
        }
        if known.len() >= REGISTERED_MAX && !known.contains_key(&c.home) {
            return Ok(draft.refuse(format!("{REGISTERED_MAX} homes are registered")));
        }
        rows::put(self.kv, &rows::home_key(&c.home), &c.entity)?;
        Ok(Effect::Done)
    }

    pub(super) fn account_statement(
        &mut self,
        draft: &mut Draft<'_>,
        c: &Chained,
    ) -> Result<Effect, KvError> {
        let Some(deployment) = self.custody.deployment else {
            return Ok(draft.refuse(NO_DEPLOYMENT));
        };
        let payload: AccountPayload = match c.envelope.read("account statement") {
            Ok(payload) => payload,
            Err(e) => return Ok(draft.refuse(e.to_string())),
        };
        let (account, number, change, device) = match &payload {
            AccountPayload::Genesis(g) => {
                let device = identity::device_id(&g.device);
                (account_id(&c.envelope), 0, "genesis", Some(device))
            }
            AccountPayload::Statement(s) => {
                (s.account, s.number, s.change.name(), s.change.device())
            }
        };
        let chain = ChainId::Account(account);
        draft.link(number, change);
        draft.open(OpeningKind::Account, account.0);
        if let Some(device) = device {
            draft.open(OpeningKind::Device, device.0);
        }
        if self.forked(&chain)? {
            return Ok(forked(draft));
        }
        let row: Option<AccountRow> = rows::get(self.kv, &rows::account_key(&account))?;
        let authorities = rows::authorities(self.kv)?;
        let home_entities: BTreeSet<String> = rows::home_entities(self.kv)?.into_values().collect();
        let ctx = IdentityContext {
            deployment: &deployment,
            now_ms: draft.time_ms(),
            source: c.source,
            authorities: &authorities,
            home_entities: &home_entities,
            recovery_wait_ms: view::roster(self.kv)?
                .and_then(|roster| roster.waits().recovery_ms)
                .unwrap_or(self.custody.recovery_wait_ms),
            standing: standing(self.kv, &chain, number)?,
        };
        let next = match (&row, number) {
            // The id is the hash of the genesis: it can only be the same one.
            (Some(_), 0) => return Ok(Effect::Unchanged),
            (None, 0) => identity::genesis(&c.envelope, &ctx).map(|(_, state)| state),
            (None, got) => return Ok(behind(draft, None, got)),
            (Some(row), _) => identity::advance(&row.state, &c.envelope, &ctx),
        };
        let state = match next {
            Ok(state) => state,
            Err(e) => return self.chain_refused(draft, &chain, c, e.into()),
        };
        let entry = draft.entry.index;
        let hash = state.head.hash;
        let row = AccountRow { state, entry };
        rows::put(self.kv, &rows::account_key(&account), &row)?;
        self.linked(draft, &chain, number, &c.envelope)?;
        Ok(Effect::Chained {
            chain,
            number,
            hash,
        })
    }

    pub(super) fn chat_statement(
        &mut self,
        draft: &mut Draft<'_>,
        c: &Chained,
    ) -> Result<Effect, KvError> {
        let Some(deployment) = self.custody.deployment else {
            return Ok(draft.refuse(NO_DEPLOYMENT));
        };
        let payload: ChatPayload = match c.envelope.read("chat statement") {
            Ok(payload) => payload,
            Err(e) => return Ok(draft.refuse(e.to_string())),
        };
        let (chat, number, change) = match &payload {
            ChatPayload::Genesis(_) => (chat_id(&c.envelope), 0, "genesis"),
            ChatPayload::Statement(s) => (s.chat, s.number, s.change.name()),
        };
        let (account, device, subject) = match &payload {
            ChatPayload::Genesis(g) => (g.creator, g.device, None),
            ChatPayload::Statement(s) => (s.account, s.device, s.change.subject()),
        };
        let chain = ChainId::Chat(chat);
        draft.link(number, change);
        draft.chat(&chat);
        draft.open(OpeningKind::Account, account.0);
        draft.open(OpeningKind::Device, device.0);
        if let Some(subject) = subject {
            draft.open(OpeningKind::Account, subject.0);
        }
        if self.forked(&chain)? {
            return Ok(forked(draft));
        }
        let row: Option<ChatRow> = rows::get(self.kv, &rows::chat_key(&chat))?;
        let reads = Reads {
            kv: &*self.kv,
            chat,
        };
        let ctx = MembershipContext {
            deployment: &deployment,
            now_ms: draft.time_ms(),
            source: c.source,
            reads: &reads,
        };
        let next = match (&row, number) {
            (Some(_), 0) => return Ok(Effect::Unchanged),
            (None, 0) => membership::genesis(&c.envelope, &ctx)?,
            (None, got) => return Ok(behind(draft, None, got)),
            (Some(row), _) => membership::advance(&row.head, &c.envelope, &ctx)?,
        };
        let delta = match next {
            Ok(delta) => delta,
            Err(e) => return self.chain_refused(draft, &chain, c, e.into()),
        };
        match &delta.member {
            Some((who, Some(m))) => rows::put(self.kv, &rows::member_key(&chat, who), m)?,
            Some((who, None)) => self.kv.delete(&rows::member_key(&chat, who))?,
            None => {}
        }
        if number == 0 {
            memberships::founded(self.kv)?;
        }
        if let Some((who, member)) = &delta.member {
            let times = (delta.head.head.at_ms, draft.time_ms());
            memberships::moved(self.kv, (who, &chat), member.is_some(), times)?;
        }
        match &delta.invite {
            Some((key, Some(i))) => rows::put(self.kv, &rows::invite_key(&chat, key), i)?,
            Some((key, None)) => self.kv.delete(&rows::invite_key(&chat, key))?,
            None => {}
        }
        let row = ChatRow {
            head: delta.head,
            entry: draft.entry.index,
        };
        rows::put(self.kv, &rows::chat_key(&chat), &row)?;
        self.linked(draft, &chain, number, &c.envelope)?;
        Ok(Effect::Chained {
            chain,
            number,
            hash: delta.head.head.hash,
        })
    }

    fn forked(&self, chain: &ChainId) -> Result<bool, KvError> {
        Ok(self.kv.get(&rows::fork_key(chain))?.is_some())
    }

    /// Keeps the statement for peers, and moves the chain to the end of what they ask for.
    fn linked(
        &mut self,
        draft: &Draft<'_>,
        chain: &ChainId,
        number: u64,
        envelope: &Envelope,
    ) -> Result<(), KvError> {
        let entry = draft.entry.index;
        let before: Option<LinkRow> = match number.checked_sub(1) {
            Some(n) => rows::get(self.kv, &rows::link_key(chain, n))?,
            None => None,
        };
        if let Some(before) = before {
            self.kv.delete(&rows::changed_key(before.entry))?;
        }
        let row = LinkRow {
            entry,
            time_ms: draft.time_ms(),
            envelope: envelope.clone(),
        };
        rows::put(self.kv, &rows::link_key(chain, number), &row)?;
        rows::put(self.kv, &rows::changed_key(entry), chain)
    }

    /// A fork is marked when another custodian committed the contradiction:
    /// two people who sign at the same moment only race here, and one repeats.
    fn chain_refused(
        &mut self,
        draft: &mut Draft<'_>,
        chain: &ChainId,
        c: &Chained,
        e: Refused,
    ) -> Result<Effect, KvError> {
        match e.misplaced {
            Some(Misplaced::AlreadyApplied { .. }) => Ok(Effect::Unchanged),
            Some(Misplaced::Behind { have, got }) => Ok(behind(draft, Some(have), got)),
            Some(Misplaced::Fork { number, ours, .. }) if c.source != Source::Client => {
                let row = ForkRow {
                    number,
                    ours,
                    entry: draft.entry.index,
                    time_ms: draft.time_ms(),
                    theirs: c.envelope.clone(),
                };
                rows::put(self.kv, &rows::fork_key(chain), &row)?;
                draft.refuse(format!("{}: {}; marked", e.code, e.words));
                Ok(Effect::Forked { marked: true })
            }
            Some(Misplaced::Fork { .. }) => {
                draft.refuse(format!("{}: {}", e.code, e.words));
                Ok(Effect::Forked { marked: false })
            }
            None => Ok(draft.refuse(format!("{}: {}", e.code, e.words))),
        }
    }
}

fn forked(draft: &mut Draft<'_>) -> Effect {
    draft.refuse("forked: this chain forked, and changes only once officers settled it");
    Effect::Forked { marked: true }
}

fn behind(draft: &mut Draft<'_>, have: Option<u64>, got: u64) -> Effect {
    draft.refuse("behind: statements before this one are missing here");
    Effect::Behind { have, got }
}

/// Two authorities never share a key: one signature would stand for both.
fn shares_a_key(a: &AuthorityRecord, b: &AuthorityRecord) -> bool {
    let keys = |r: &AuthorityRecord| -> BTreeSet<PublicKey> {
        let statement = r.keys.iter().map(|k| k.public);
        statement.chain([r.identity_key]).collect()
    };
    !keys(a).is_disjoint(&keys(b))
}
