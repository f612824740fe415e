//! Accounts: the devices that act for a person, and who may add one.
//!
//! ```text
//!  authority ─┐                      ┌─ genesis ──▶ AccountId, AccountState
//!  device ────┼─ sign ─▶ Envelope ───┤
//!  secret ────┘                      └─ advance ──▶ AccountState, one number on
//! ```
//!
//! An authority alone adds nothing: a further device needs one that is there
//! already, and the way back without one takes two authorities of different
//! entities, a wait in which any device may veto, and the account secret where
//! one is set. Taking a device away is easy on purpose: any live device or any
//! one authority of the account.
//!
//! Every custodian decides this alone, on what it holds. Nothing here reads a
//! clock or a store: `ctx` brings entry time and the authorities.

mod authority;
mod statement;
#[cfg(test)]
mod tests;

pub use authority::{
    AUTHORITY_KEY_LIFE_MS_MAX, AUTHORITY_KEYS_MAX, AuthorityKey, AuthorityKeys, AuthorityRecord,
    AuthorityRefusal, ENTITY_BYTES_MAX,
};
pub use statement::{
    AccountChange, AccountGenesis, AccountPayload, AccountStatement, account_id, device_id,
};

use super::chain::{Head, Misplaced, Source, Untimely, place, timely};
use super::envelope::{Envelope, EnvelopeError};
use super::standing::DeviceStanding;
use crate::crypto::labels::SIGN_ACCOUNT;
use crate::types::{
    AccountId, AuthorityId, DeploymentId, DeviceId, PublicKey, StatementHash, WallMs,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Longest life of a device record, in milliseconds.
pub const DEVICE_LIFE_MS_MAX: u64 = 30 * DAY_MS;
/// Most devices of an account at one time.
pub const DEVICES_MAX: usize = 32;
/// Most devices of an account ever. Revoked ones are kept, so that none comes
/// back; room for every revocation is kept free.
pub const DEVICES_EVER_MAX: usize = 128;
/// Most authorities of an account.
pub const AUTHORITIES_MAX: usize = 8;
/// The wait of a recovery, in milliseconds, unless set longer.
pub const RECOVERY_WAIT_MS: u64 = 7 * DAY_MS;
/// The shortest wait that can be set.
pub const RECOVERY_WAIT_MS_MIN: u64 = 3 * DAY_MS;
/// How long after its wait a recovery may still be finished, in milliseconds.
pub const RECOVERY_OPEN_MS: u64 = 30 * DAY_MS;

/// What decisions about accounts depend on besides the account.
#[derive(Clone, Copy)]
pub struct IdentityContext<'a> {
    /// Signatures cover it.
    pub deployment: &'a DeploymentId,
    /// Entry time.
    pub now_ms: WallMs,
    /// How the statement came here.
    pub source: Source,
    /// The authorities this custodian's officers registered.
    pub authorities: &'a BTreeMap<AuthorityId, AuthorityRecord>,
    /// Legal entities that run homes: their authorities never count for a recovery.
    pub home_entities: &'a BTreeSet<String>,
    /// See [`RECOVERY_WAIT_MS`]; a shorter one than [`RECOVERY_WAIT_MS_MIN`] counts as that.
    pub recovery_wait_ms: u64,
    /// The hash of the statement that has the sent one's number here, if one has.
    pub standing: Option<StatementHash>,
}

/// A device of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Its key.
    pub public: PublicKey,
    /// It may act before this time.
    pub expires_ms: WallMs,
    /// When the statement that added it was made.
    pub added_ms: WallMs,
}

/// A device that was taken out for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedDevice {
    /// As it last stood.
    pub record: DeviceRecord,
    /// When the revocation was made.
    pub revoked_ms: WallMs,
}

/// A recovery in its wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The device that is to be added.
    pub public: PublicKey,
    /// Entry time of its beginning at this custodian.
    pub begun_ms: WallMs,
    /// The wait in force then, in milliseconds: a setting that changes meanwhile does not shorten it.
    pub wait_ms: u64,
}

/// What a custodian keeps of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// Its id.
    pub account: AccountId,
    /// The newest statement.
    pub head: Head,
    /// Who attests this person.
    pub authorities: BTreeSet<AuthorityId>,
    /// Devices that were not revoked.
    pub devices: BTreeMap<DeviceId, DeviceRecord>,
    /// Devices that were.
    pub revoked: BTreeMap<DeviceId, RevokedDevice>,
    /// The public key of the account secret, where one is set.
    pub secret: Option<PublicKey>,
    /// The recovery in its wait, if there is one.
    pub recovery: Option<Recovery>,
}

/// Why a statement about an account is refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityRefusal {
    /// Malformed, or a signature does not hold.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Not the next of its chain.
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
    /// Made at a time that does not count.
    #[error(transparent)]
    Untimely(#[from] Untimely),
    /// A genesis where a statement belongs, or the other way round.
    #[error("expected {0}")]
    Expected(&'static str),
    /// For another deployment.
    #[error("the account belongs to deployment {0}")]
    Deployment(DeploymentId),
    /// About another account.
    #[error("the statement is about account {0}")]
    OtherAccount(AccountId),
    /// Signed by nobody this account knows.
    #[error("no device and no authority of the account signed the statement")]
    Stranger,
    /// Someone who has to sign did not.
    #[error("the statement also needs the signature of {0}")]
    Unsigned(&'static str),
    /// An authority that this custodian's officers did not register.
    #[error("authority {0} is not registered here; its officers decide that")]
    UnknownAuthority(AuthorityId),
    /// No authorities, or too many.
    #[error("an account has 1 to {AUTHORITIES_MAX} authorities, not {0}")]
    Authorities(usize),
    /// A record that ends at once or lives too long.
    #[error("a device record ends within 30 days after the statement; renew it before")]
    Life,
    /// The device is there already.
    #[error("device {0} is a device of this account already")]
    AlreadyThere(DeviceId),
    /// The device was revoked.
    #[error("device {0} was revoked, and revoked devices never come back; make a new key")]
    Revoked(DeviceId),
    /// No such device.
    #[error("device {0} is not a device of this account")]
    NoDevice(DeviceId),
    /// Too many devices.
    #[error(
        "the account has {DEVICES_MAX} devices or had {DEVICES_EVER_MAX}; revoke one, or found a new account"
    )]
    TooMany,
    /// Two authorities are there, but they do not count as two.
    #[error(
        "recovery needs two authorities of different entities, neither of an entity that runs a home"
    )]
    NotIndependent,
    /// This custodian was not told who runs the home.
    #[error(
        "no home is registered here, so nobody can tell which authorities are independent of it; register it first"
    )]
    HomeUnknown,
    /// No recovery is waiting, or for another device.
    #[error("no recovery of this device is waiting")]
    NoRecovery,
    /// The wait is not over.
    #[error("the wait is not over; finish in {retry_ms} ms")]
    TooEarly {
        /// When it will be.
        retry_ms: u64,
    },
    /// The wait was over too long ago.
    #[error("the recovery was left unfinished for 30 days after its wait; begin anew")]
    TooLate,
}

impl IdentityRefusal {
    /// A name that does not change, for metrics, log entries and clients.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Envelope(_) => "envelope",
            Self::Misplaced(Misplaced::Fork { .. }) => "fork",
            Self::Misplaced(Misplaced::Behind { .. }) => "behind",
            Self::Misplaced(Misplaced::AlreadyApplied { .. }) => "already_applied",
            Self::Untimely(_) => "untimely",
            Self::Expected(_) => "wrong_kind",
            Self::Deployment(_) => "other_deployment",
            Self::OtherAccount(_) => "other_account",
            Self::Stranger => "stranger",
            Self::Unsigned(_) => "unsigned",
            Self::UnknownAuthority(_) => "unknown_authority",
            Self::Authorities(_) => "authorities",
            Self::Life => "life",
            Self::AlreadyThere(_) => "already_there",
            Self::Revoked(_) => "revoked",
            Self::NoDevice(_) => "no_device",
            Self::TooMany => "too_many",
            Self::NotIndependent => "not_independent",
            Self::HomeUnknown => "home_unknown",
            Self::NoRecovery => "no_recovery",
            Self::TooEarly { .. } => "too_early",
            Self::TooLate => "too_late",
        }
    }
}

type Signers = BTreeSet<[u8; 32]>;

fn life(expires_ms: WallMs, at_ms: WallMs) -> Result<(), IdentityRefusal> {
    match expires_ms.checked_sub(at_ms) {
        Some(1..=DEVICE_LIFE_MS_MAX) => Ok(()),
        _ => Err(IdentityRefusal::Life),
    }
}

fn authorities(
    ids: &BTreeSet<AuthorityId>,
    ctx: &IdentityContext<'_>,
) -> Result<(), IdentityRefusal> {
    if !(1..=AUTHORITIES_MAX).contains(&ids.len()) {
        return Err(IdentityRefusal::Authorities(ids.len()));
    }
    match ids.iter().find(|id| !ctx.authorities.contains_key(id)) {
        Some(id) => Err(IdentityRefusal::UnknownAuthority(id.clone())),
        None => Ok(()),
    }
}

/// Those of `ids` that signed with a key that counted at `at_ms`.
fn signing<'a>(
    ids: &BTreeSet<AuthorityId>,
    signers: &Signers,
    at_ms: WallMs,
    ctx: &IdentityContext<'a>,
) -> Vec<&'a AuthorityRecord> {
    let records = ids.iter().filter_map(|id| ctx.authorities.get(id));
    records
        .filter(|a| signers.iter().any(|key| a.signs_with(key, at_ms)))
        .collect()
}

fn need(holds: bool, whose: &'static str) -> Result<(), IdentityRefusal> {
    if holds {
        Ok(())
    } else {
        Err(IdentityRefusal::Unsigned(whose))
    }
}

/// Founds an account.
///
/// # Errors
/// [`IdentityRefusal`].
pub fn genesis(
    envelope: &Envelope,
    ctx: &IdentityContext<'_>,
) -> Result<(AccountId, AccountState), IdentityRefusal> {
    let AccountPayload::Genesis(g) = envelope.read("account statement")? else {
        return Err(IdentityRefusal::Expected("the genesis of an account"));
    };
    let signers = envelope.signers(SIGN_ACCOUNT, ctx.deployment)?;
    if g.deployment != *ctx.deployment {
        return Err(IdentityRefusal::Deployment(g.deployment));
    }
    timely(g.created_ms, 0, ctx.now_ms, ctx.source, false)?;
    authorities(&g.authorities, ctx)?;
    let by = signing(&g.authorities, &signers, g.created_ms, ctx);
    need(!by.is_empty(), "one of the account's authorities")?;
    need(signers.contains(&g.device.0), "the device")?;
    need(
        g.secret.is_none_or(|s| signers.contains(&s.0)),
        "the account secret",
    )?;
    life(g.expires_ms, g.created_ms)?;
    let account = account_id(envelope);
    let record = DeviceRecord {
        public: g.device,
        expires_ms: g.expires_ms,
        added_ms: g.created_ms,
    };
    let state = AccountState {
        account,
        head: Head {
            number: 0,
            hash: StatementHash(envelope.hash()),
            at_ms: g.created_ms,
        },
        authorities: g.authorities,
        devices: BTreeMap::from([(device_id(&g.device), record)]),
        revoked: BTreeMap::new(),
        secret: g.secret,
        recovery: None,
    };
    Ok((account, state))
}

/// The account after the next statement of its chain.
///
/// # Errors
/// [`IdentityRefusal`]; `state` holds as it was.
pub fn advance(
    state: &AccountState,
    envelope: &Envelope,
    ctx: &IdentityContext<'_>,
) -> Result<AccountState, IdentityRefusal> {
    let AccountPayload::Statement(s) = envelope.read("account statement")? else {
        return Err(IdentityRefusal::Expected("a later statement of an account"));
    };
    let signers = envelope.signers(SIGN_ACCOUNT, ctx.deployment)?;
    if s.account != state.account {
        return Err(IdentityRefusal::OtherAccount(s.account));
    }
    // Before the place: a contradiction signed by a stranger proves nothing.
    if !state.knows_any(&signers, ctx) {
        // A recovery's device is no device yet, and its authority has signed, too.
        return Err(IdentityRefusal::Stranger);
    }
    let hash = StatementHash(envelope.hash());
    place(&state.head, s.number, s.previous, hash, ctx.standing)?;
    let restricts = s.change.restricts();
    timely(s.at_ms, state.head.at_ms, ctx.now_ms, ctx.source, restricts)?;
    let mut next = state.clone();
    let step = Step {
        state,
        signers: &signers,
        at_ms: s.at_ms,
        ctx,
    };
    step.change(&mut next, &s.change)?;
    next.head = Head {
        number: s.number,
        hash,
        at_ms: s.at_ms,
    };
    Ok(next)
}

/// One statement against the state before it.
struct Step<'a> {
    state: &'a AccountState,
    signers: &'a Signers,
    at_ms: WallMs,
    ctx: &'a IdentityContext<'a>,
}

impl Step<'_> {
    fn live_device_but(&self, but: Option<DeviceId>) -> Result<(), IdentityRefusal> {
        let live = self.state.devices.iter().any(|(id, d)| {
            Some(*id) != but && self.at_ms < d.expires_ms && self.signers.contains(&d.public.0)
        });
        need(live, "a live device of the account")
    }
    fn by_authorities(&self) -> Vec<&AuthorityRecord> {
        let ids = &self.state.authorities;
        signing(ids, self.signers, self.at_ms, self.ctx)
    }
    fn authority(&self) -> Result<(), IdentityRefusal> {
        need(
            !self.by_authorities().is_empty(),
            "one of the account's authorities",
        )
    }
    fn by(&self, key: &PublicKey, whose: &'static str) -> Result<(), IdentityRefusal> {
        need(self.signers.contains(&key.0), whose)
    }
    fn secret(&self) -> Result<(), IdentityRefusal> {
        match &self.state.secret {
            Some(secret) => self.by(secret, "the account secret"),
            None => Ok(()),
        }
    }

    /// Refuses a key that is or was a device, or for which there is no room.
    fn room(&self, public: &PublicKey) -> Result<DeviceId, IdentityRefusal> {
        let id = device_id(public);
        if self.state.revoked.contains_key(&id) {
            return Err(IdentityRefusal::Revoked(id));
        }
        if self.state.devices.contains_key(&id) {
            return Err(IdentityRefusal::AlreadyThere(id));
        }
        let ever = self.state.devices.len() + self.state.revoked.len();
        if self.state.devices.len() >= DEVICES_MAX || ever >= DEVICES_EVER_MAX {
            return Err(IdentityRefusal::TooMany);
        }
        Ok(id)
    }

    fn record(&self, public: PublicKey, expires_ms: WallMs) -> DeviceRecord {
        DeviceRecord {
            public,
            expires_ms,
            added_ms: self.at_ms,
        }
    }

    fn change(
        &self,
        next: &mut AccountState,
        change: &AccountChange,
    ) -> Result<(), IdentityRefusal> {
        match change {
            AccountChange::AddDevice { public, expires_ms } => {
                let id = self.room(public)?;
                self.authority()?;
                self.live_device_but(Some(id))?;
                self.by(public, "the new device")?;
                life(*expires_ms, self.at_ms)?;
                next.devices.insert(id, self.record(*public, *expires_ms));
            }
            AccountChange::Renew { device, expires_ms } => {
                let record = self.held(device)?;
                self.authority()?;
                self.by(&record.public, "the device")?;
                life(*expires_ms, self.at_ms)?;
                let renewed = DeviceRecord {
                    expires_ms: *expires_ms,
                    ..record
                };
                next.devices.insert(*device, renewed);
            }
            AccountChange::Revoke { device } => {
                let record = self.held(device)?;
                if self.by_authorities().is_empty() {
                    self.live_device_but(None)?;
                }
                next.devices.remove(device);
                let revoked_ms = self.at_ms;
                let row = RevokedDevice { record, revoked_ms };
                next.revoked.insert(*device, row);
            }
            AccountChange::RecoverBegin { public } => self.recover_begin(next, public)?,
            AccountChange::Veto => {
                self.live_device_but(None)?;
                if self.state.recovery.is_none() {
                    return Err(IdentityRefusal::NoRecovery);
                }
                next.recovery = None;
            }
            AccountChange::RecoverFinish { public, expires_ms } => {
                self.recover_finish(next, public, *expires_ms)?;
            }
            AccountChange::SetSecret { public } => {
                self.live_device_but(None)?;
                self.authority()?;
                self.secret()?;
                if let Some(public) = public {
                    self.by(public, "the new account secret")?;
                }
                next.secret = *public;
                // A device is there after all, and what the recovery was signed with changed.
                next.recovery = None;
            }
            AccountChange::SetAuthorities { authorities: ids } => {
                authorities(ids, self.ctx)?;
                self.live_device_but(None)?;
                self.authority()?;
                let new: BTreeSet<_> = ids.difference(&self.state.authorities).cloned().collect();
                let signed = signing(&new, self.signers, self.at_ms, self.ctx).len();
                need(signed == new.len(), "every authority that is new")?;
                next.authorities = ids.clone();
                next.recovery = None;
            }
        }
        Ok(())
    }

    fn held(&self, device: &DeviceId) -> Result<DeviceRecord, IdentityRefusal> {
        if self.state.revoked.contains_key(device) {
            return Err(IdentityRefusal::Revoked(*device));
        }
        let held = self.state.devices.get(device).copied();
        held.ok_or(IdentityRefusal::NoDevice(*device))
    }

    fn recover_begin(
        &self,
        next: &mut AccountState,
        public: &PublicKey,
    ) -> Result<(), IdentityRefusal> {
        self.room(public)?;
        if self.ctx.home_entities.is_empty() {
            return Err(IdentityRefusal::HomeUnknown);
        }
        let by = self.by_authorities();
        need(by.len() >= 2, "two of the account's authorities")?;
        // One signature never counts for two, even if both were to hold one key.
        let independent: Vec<(&str, &[u8; 32])> = by
            .iter()
            .filter(|a| !self.ctx.home_entities.contains(&a.entity))
            .flat_map(|a| {
                let keys = self.signers.iter();
                keys.filter(|key| a.signs_with(key, self.at_ms))
                    .map(|key| (a.entity.as_str(), key))
            })
            .collect();
        let apart = |a: &(&str, _), b: &(&str, _)| a.0 != b.0 && a.1 != b.1;
        if !independent
            .iter()
            .any(|a| independent.iter().any(|b| apart(a, b)))
        {
            return Err(IdentityRefusal::NotIndependent);
        }
        self.by(public, "the new device")?;
        self.secret()?;
        next.recovery = Some(Recovery {
            public: *public,
            begun_ms: self.ctx.now_ms,
            wait_ms: self.ctx.recovery_wait_ms,
        });
        Ok(())
    }

    fn recover_finish(
        &self,
        next: &mut AccountState,
        public: &PublicKey,
        expires_ms: WallMs,
    ) -> Result<(), IdentityRefusal> {
        let recovery = self.state.recovery.filter(|r| r.public == *public);
        let recovery = recovery.ok_or(IdentityRefusal::NoRecovery)?;
        let id = self.room(public)?;
        self.authority()?;
        self.by(public, "the new device")?;
        let wait = recovery.wait_ms.max(RECOVERY_WAIT_MS_MIN);
        let ready = recovery.begun_ms.saturating_add(wait);
        if self.ctx.now_ms < ready {
            let retry_ms = ready - self.ctx.now_ms;
            return Err(IdentityRefusal::TooEarly { retry_ms });
        }
        if self.ctx.now_ms > ready.saturating_add(RECOVERY_OPEN_MS) {
            return Err(IdentityRefusal::TooLate);
        }
        life(expires_ms, self.at_ms)?;
        next.devices.insert(id, self.record(*public, expires_ms));
        next.recovery = None;
        Ok(())
    }
}

impl AccountState {
    /// Where `device` stands at `now_ms`.
    pub fn device(&self, device: &DeviceId, now_ms: WallMs) -> DeviceStanding {
        if self.revoked.contains_key(device) {
            return DeviceStanding::Revoked;
        }
        self.devices
            .get(device)
            .map_or(DeviceStanding::Unknown, |d| stands(d, now_ms))
    }

    /// Where `device` stood at `at_ms`: also true of one that was revoked
    /// since. Only for statements that a blocking set took in at the time.
    pub fn device_then(&self, device: &DeviceId, at_ms: WallMs) -> DeviceStanding {
        match self.revoked.get(device) {
            Some(r) if at_ms < r.revoked_ms => stands(&r.record, at_ms),
            _ => self.device(device, at_ms),
        }
    }

    /// Whether a device that is or was one of the account's, or one of its authorities, is among `signers`.
    fn knows_any(&self, signers: &Signers, ctx: &IdentityContext<'_>) -> bool {
        let device = |key: &[u8; 32]| {
            let id = device_id(&PublicKey(*key));
            self.devices.contains_key(&id) || self.revoked.contains_key(&id)
        };
        let authority = |key: &[u8; 32]| {
            let mut records = self
                .authorities
                .iter()
                .filter_map(|id| ctx.authorities.get(id));
            records.any(|a| a.keys.iter().any(|k| k.public.0 == *key))
        };
        signers.iter().any(|key| device(key) || authority(key))
    }
}

fn stands(record: &DeviceRecord, at_ms: WallMs) -> DeviceStanding {
    if at_ms < record.expires_ms {
        DeviceStanding::Live {
            public: record.public.0,
        }
    } else {
        DeviceStanding::Expired
    }
}
