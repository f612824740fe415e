//! Grants: a user's device lets one home fetch named keys for a few minutes.
//!
//! A grant is a JWS in compact serialization (RFC 7515) with JWT claims
//! (RFC 7519) and an Ed25519 signature (RFC 8037). The parser accepts less than
//! those allow; `docs/grants.md` says what, with vectors for other clients.
//!
//! ```text
//!  Grant::parse ──▶ Grant ──▶ verify(device key) ──▶ decide(standing, time, key) ──▶ one key
//!   refuses form              before proposing          inside `apply`
//! ```
//!
//! Not here: what was spent of a grant's ceiling and of budgets, which is
//! counted in the custodian's state.

mod known;
mod refusal;

pub use known::{Afresh, KnownGrants};
pub use refusal::GrantRefusal;

use super::jws::{self, Object};
use super::standing::{DeviceStanding, MemberStanding};
use crate::crypto::labels;
use crate::crypto::sign::{self, SIGNATURE_LEN, SigningKey};
use crate::types::{AccountId, ChatId, DeploymentId, DeviceId, EpochNo, GrantId, HomeId, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Longest grant, in bytes of its compact form.
pub const GRANT_BYTES_MAX: usize = 8 << 10;
/// Most chats in one grant.
pub const GRANT_CHATS_MAX: usize = 64;
/// Longest life of a grant, in seconds.
pub const GRANT_LIFE_S_MAX: u64 = 900;
/// The only `alg`.
pub const GRANT_ALG: &str = "EdDSA";
/// The only `typ`.
pub const GRANT_TYP: &str = "quorate-grant+jwt";

/// What a home may do with the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Read.
    Read,
    /// Write, and with it read: whoever holds a data key can do both.
    Write,
}

/// One chat of a grant, and which of its key epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatRange {
    /// The chat.
    #[serde(deserialize_with = "jws::canonical")]
    pub chat: ChatId,
    /// The first epoch.
    pub from: EpochNo,
    /// The last one; absent: later ones too, also those not opened yet.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "jws::there"
    )]
    pub to: Option<EpochNo>,
}

/// What a grant says, field by field as its payload has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Whose device signs.
    #[serde(rename = "iss", deserialize_with = "jws::canonical")]
    pub account: AccountId,
    /// The deployment it is good for.
    #[serde(rename = "dep", deserialize_with = "jws::canonical")]
    pub deployment: DeploymentId,
    /// The only home that may show it.
    pub home: HomeId,
    /// What for; each once.
    #[serde(rename = "act")]
    pub actions: Vec<Action>,
    /// At most [`GRANT_CHATS_MAX`], each chat once. None: it opens nothing.
    #[serde(deserialize_with = "ranges")]
    pub chats: Vec<ChatRange>,
    /// Keys that each custodian releases under it at most; 1 or more.
    pub ceiling: u32,
    /// Not before, Unix seconds.
    #[serde(rename = "nbf")]
    pub not_before_s: u64,
    /// Not from this time on, Unix seconds; at most [`GRANT_LIFE_S_MAX`] later.
    #[serde(rename = "exp")]
    pub expires_s: u64,
    /// Fresh random bytes.
    #[serde(rename = "jti", deserialize_with = "jws::canonical")]
    pub id: GrantId,
}

fn ranges<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<ChatRange>, D::Error> {
    let all = Vec::<Object<ChatRange>>::deserialize(d)?;
    Ok(all.into_iter().map(|Object(range)| range).collect())
}

impl Claims {
    fn check(&self) -> Result<(), GrantRefusal> {
        let distinct: BTreeSet<_> = self.actions.iter().collect();
        if self.actions.is_empty() || distinct.len() != self.actions.len() {
            return Err(GrantRefusal::Actions);
        }
        let chats: BTreeSet<_> = self.chats.iter().map(|c| &c.chat).collect();
        let counted = self.chats.len() <= GRANT_CHATS_MAX;
        let in_order = |c: &ChatRange| c.to.is_none_or(|to| c.from <= to);
        if !counted || chats.len() != self.chats.len() || !self.chats.iter().all(in_order) {
            return Err(GrantRefusal::Chats);
        }
        if self.ceiling == 0 {
            return Err(GrantRefusal::Ceiling);
        }
        let life_s = self.expires_s.checked_sub(self.not_before_s);
        if !life_s.is_some_and(|s| (1..=GRANT_LIFE_S_MAX).contains(&s)) {
            return Err(GrantRefusal::Lifetime);
        }
        Ok(())
    }
}

/// A grant of valid form, with the very text that was signed. Whether its
/// device signed it, [`Grant::verify`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    device: DeviceId,
    claims: Claims,
    compact: String,
    hash: GrantHash,
    signature: [u8; SIGNATURE_LEN],
}

/// Names a grant in log entries, receipts and sealed shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantHash(pub [u8; 32]);

impl GrantHash {
    /// Of any text shown as a grant, readable or not.
    pub fn of(compact: &str) -> Self {
        Self(blake3::derive_key(
            labels::AUTHORITY_GRANT,
            compact.as_bytes(),
        ))
    }
}

impl Grant {
    /// Signs `claims` with the key of `device`.
    ///
    /// # Errors
    /// [`GrantRefusal`] when nobody would accept the claims.
    ///
    /// # Panics
    /// Never: claims serialise.
    pub fn sign(device: DeviceId, key: &SigningKey, claims: Claims) -> Result<Self, GrantRefusal> {
        claims.check()?;
        let (compact, signature) = jws::sign(key, GRANT_TYP, &device, &claims);
        if compact.len() > GRANT_BYTES_MAX {
            return Err(GrantRefusal::TooLong);
        }
        Ok(Self {
            device,
            claims,
            hash: GrantHash::of(&compact),
            compact,
            signature,
        })
    }

    /// Reads a compact serialization of at most [`GRANT_BYTES_MAX`].
    ///
    /// # Errors
    /// [`GrantRefusal`], of the kinds that concern form.
    pub fn parse(compact: &str) -> Result<Self, GrantRefusal> {
        let (device, claims, signature) =
            jws::read::<DeviceId, Claims>(compact, GRANT_BYTES_MAX, GRANT_TYP)?;
        claims.check()?;
        let signature = jws::signature(&signature)?;
        Ok(Self {
            device,
            claims,
            hash: GrantHash::of(compact),
            compact: compact.to_owned(),
            signature,
        })
    }

    /// Whether `public` signed it; strictly, see [`sign::verify`].
    ///
    /// # Errors
    /// [`GrantRefusal::Signature`].
    pub fn verify(&self, public: &[u8; sign::PUBLIC_LEN]) -> Result<(), GrantRefusal> {
        match jws::holds(&self.compact, &self.signature, public) {
            true => Ok(()),
            false => Err(GrantRefusal::Signature),
        }
    }

    /// The device that says it signed.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }
    /// What it says.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }
    /// The text to send.
    pub fn compact(&self) -> &str {
        &self.compact
    }
    /// Its hash.
    pub fn hash(&self) -> &GrantHash {
        &self.hash
    }
    /// When it ends, in milliseconds.
    pub fn expires_ms(&self) -> WallMs {
        self.claims.expires_s.saturating_mul(1000)
    }

    /// Whether it lets a home do `action`.
    pub fn allows(&self, action: Action) -> bool {
        // `Write` implies `Read` and is the greater of the two.
        self.claims.actions.iter().any(|granted| *granted >= action)
    }
}

/// Where a grant is shown: what does not depend on the key asked for.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The deployment this custodian serves.
    pub deployment: &'a DeploymentId,
    /// The home whose certificate the request came under.
    pub home: &'a HomeId,
    /// The grant's device, as a device of the grant's account.
    pub device: DeviceStanding,
    /// Whether [`Grant::verify`] held for the device's key.
    pub signature_holds: bool,
    /// What the keys are asked for.
    pub action: Action,
    /// Entry time.
    pub now_ms: WallMs,
}

/// Decides about the grant as a whole.
///
/// # Errors
/// [`GrantRefusal`], the first that holds in the order of [`GrantRefusal::ALL`].
pub fn decide_grant(grant: &Grant, shown: &Shown<'_>) -> Result<(), GrantRefusal> {
    let claims = grant.claims();
    let refuse = |hit: bool, why| if hit { Err(why) } else { Ok(()) };
    refuse(
        claims.deployment != *shown.deployment,
        GrantRefusal::OtherDeployment,
    )?;
    refuse(claims.home != *shown.home, GrantRefusal::OtherHome)?;
    match shown.device {
        DeviceStanding::Live { .. } => {}
        DeviceStanding::Unknown => return Err(GrantRefusal::DeviceUnknown),
        DeviceStanding::Expired => return Err(GrantRefusal::DeviceExpired),
        DeviceStanding::Revoked => return Err(GrantRefusal::DeviceRevoked),
    }
    refuse(!shown.signature_holds, GrantRefusal::Signature)?;
    let begins_ms = claims.not_before_s.saturating_mul(1000);
    refuse(shown.now_ms < begins_ms, GrantRefusal::NotYetValid)?;
    refuse(shown.now_ms >= grant.expires_ms(), GrantRefusal::Expired)?;
    refuse(!grant.allows(shown.action), GrantRefusal::ActionNotGranted)
}

/// Decides about one key epoch of one chat, after [`decide_grant`].
///
/// # Errors
/// [`GrantRefusal`], the first that holds in the order of [`GrantRefusal::ALL`].
pub fn decide_key(
    grant: &Grant,
    member: MemberStanding,
    chat: &ChatId,
    epoch: EpochNo,
) -> Result<(), GrantRefusal> {
    let named = grant.claims().chats.iter().find(|c| c.chat == *chat);
    let range = named.ok_or(GrantRefusal::ChatNotGranted)?;
    if epoch < range.from {
        return Err(GrantRefusal::EpochBeforeRange);
    }
    if range.to.is_some_and(|to| epoch > to) {
        return Err(GrantRefusal::EpochAfterRange);
    }
    match member {
        MemberStanding::UnknownChat => Err(GrantRefusal::ChatUnknown),
        MemberStanding::Forked => Err(GrantRefusal::ChatForked),
        MemberStanding::NotMember => Err(GrantRefusal::NotMember),
        MemberStanding::Member { from_epoch, .. } if epoch < from_epoch => {
            Err(GrantRefusal::EpochBeforeMembership)
        }
        MemberStanding::Member { .. } => Ok(()),
    }
}

/// Decides about one key under a grant: [`decide_grant`], then [`decide_key`].
///
/// # Errors
/// [`GrantRefusal`].
pub fn decide(
    grant: &Grant,
    shown: &Shown<'_>,
    member: MemberStanding,
    chat: &ChatId,
    epoch: EpochNo,
) -> Result<(), GrantRefusal> {
    decide_grant(grant, shown)?;
    decide_key(grant, member, chat, epoch)
}

#[cfg(test)]
mod tests;
