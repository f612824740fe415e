//! One entry of the log: the UTF-8 JSON that is hashed, and nothing secret in it.
//!
//! Fields stand in declaration order and absent ones are left out, so the same
//! entry gives the same bytes on every node. People and chats stand in it as
//! HMAC-SHA-256 under a salt of their own; the salts and values are *openings*,
//! kept in another table, shown to auditors and erasable without touching a hash.

use super::ENTRY_BYTES_MAX;
use super::merkle::Hash;
use crate::crypto::labels;
use crate::types::{
    AuthorityId, ChatId, CustodianId, HomeId, KeyId, NodeId, OfficerId, OrderId, PolicyId,
    RequestId, WallMs,
};
use hmac::{Hmac, KeyInit, Mac};
use rand_core::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use std::fmt;

/// Format of entries written by this build; stands in each as `"format"`.
pub const FORMAT: u8 = 1;

/// `N` public bytes that print as lowercase hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HexBytes<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Debug for HexBytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl<const N: usize> Serialize for HexBytes<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(self.0))
    }
}
impl<'de, const N: usize> Deserialize<'de> for HexBytes<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let mut out = [0; N];
        hex::decode_to_slice(&text, &mut out).map_err(serde::de::Error::custom)?;
        Ok(Self(out))
    }
}

/// What an entry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Shares taken in.
    Store,
    /// Shares asked for; granted or refused key by key.
    Release,
    /// Dealings that were never opened, forgotten.
    Abandon,
    /// Shares destroyed by officers.
    Shred,
    /// Shares destroyed at the time fixed when they were dealt.
    Expire,
    /// Releases stopped.
    Freeze,
    /// Releases resumed.
    Thaw,
    /// A policy that may be dealt under from now on.
    ApprovePolicy,
    /// A node holds a key version durably.
    AttestKey,
    /// A key version comes into use.
    UseVersion,
    /// A key version is out of use for ever.
    DropVersion,
    /// The cluster's voters changed.
    Voters,
    /// Openings of former entries were erased.
    EraseOpenings,
    /// An identity authority counts from now on.
    RegisterAuthority,
    /// An authority has a new statement key.
    RotateAuthority,
    /// Which entity runs a home.
    RegisterHome,
    /// A statement about an account.
    AccountStatement,
    /// A statement about a chat's members.
    ChatStatement,
    /// A node's root was opened.
    NodeUnlocked,
    /// A node dropped its keys.
    NodeLocked,
    /// What opens a node's root changed.
    KeySlots,
    /// An operator asked for the next key version.
    KeyRotation,
    /// Shares were wrapped anew under the version in use.
    Rewrap,
    /// A peer hands key versions to a node that restarted without them.
    KeyHandover,
    /// The first officers.
    OfficerBootstrap,
    /// Something for officers to decide on.
    OfficerProposal,
    /// An officer's decision, and what it led to.
    OfficerDecision,
    /// A disclosure order came in.
    Order,
    /// Shares asked for under an order; granted or refused key by key.
    OrderRelease,
    /// Shares asked for under a deletion's mandate; granted or refused key by key.
    MandateRelease,
}

/// What happened to one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyOutcome {
    /// Stored now.
    Stored,
    /// Was stored before, unchanged.
    AlreadyStored,
    /// Something else stands under this key id.
    Conflict,
    /// Destroyed before, or destroyed already when this arrived.
    Tombstoned,
    /// The policy is not approved here.
    PolicyNotApproved,
    /// Stored under no key version that is in use.
    VersionGone,
    /// The share goes out.
    Released,
    /// Refused: frozen.
    Frozen,
    /// Refused: no share of this key here.
    NotHeld,
    /// Refused: held for another chat.
    WrongChat,
    /// Refused: the request id was used for another request.
    RequestMismatch,
    /// Refused: not this home's key.
    NotAuthorised,
    /// Destroyed now.
    Destroyed,
    /// Refused by the rules of `Abandon`.
    Refused,
    /// Refused: the account's budget is spent.
    AccountBudget,
    /// Refused: the home node's budget is spent.
    HomeNodeBudget,
    /// Refused: the custodian's budget is spent.
    OverallBudget,
    /// Refused: the grant is longer than 8192 bytes; name fewer chats.
    GrantTooLong,
    /// Refused: the grant is not three base64url parts joined by two dots.
    GrantNotCompact,
    /// Refused: a part of the grant is not canonical base64url without padding.
    GrantNotBase64url,
    /// Refused: the grant's header has not exactly alg, typ and kid in the form documented.
    GrantHeader,
    /// Refused: the grant's header has crit, and no extension is understood here.
    GrantCritical,
    /// Refused: the grant's alg is not EdDSA; no other is accepted, none least of all.
    GrantAlgorithm,
    /// Refused: the grant's typ is not quorate-grant+jwt.
    GrantType,
    /// Refused: the grant's payload has not exactly the documented claims in the form documented.
    GrantPayload,
    /// Refused: the grant's act must name read, write or both, each once.
    GrantActions,
    /// Refused: the grant must name at most 64 chats, each once, with from no greater than to.
    GrantChats,
    /// Refused: the grant's ceiling is 0; it must allow a key at least.
    GrantCeiling,
    /// Refused: the grant's exp must be 1 to 900 seconds after its nbf.
    GrantLifetime,
    /// Refused: the grant's signature is not 64 bytes.
    GrantSignatureForm,
    /// Refused: the grant is for another deployment.
    GrantOtherDeployment,
    /// Refused: the grant is for another home than the one that shows it.
    GrantOtherHome,
    /// Refused: the device is not one of the account, as far as this custodian was told.
    GrantDeviceUnknown,
    /// Refused: the device's record ran out; renew it with its account.
    GrantDeviceExpired,
    /// Refused: the device was revoked, for ever.
    GrantDeviceRevoked,
    /// Refused: the grant's signature does not hold for its device.
    GrantSignature,
    /// Refused: the grant's nbf lies ahead of the custodian's clock; check the device's clock.
    GrantNotYetValid,
    /// Refused: the grant's time is over; sign a new one.
    GrantExpired,
    /// Refused: the device signed another grant under this jti; draw a fresh one.
    GrantIdReused,
    /// Refused: the grant does not allow what the keys are asked for.
    GrantActionNotGranted,
    /// Refused: the grant does not name the key's chat.
    GrantChatNotGranted,
    /// Refused: the key's epoch lies before the range granted for its chat.
    GrantEpochBeforeRange,
    /// Refused: the key's epoch lies after the range granted for its chat.
    GrantEpochAfterRange,
    /// Refused: this custodian was not told of the chat's genesis.
    GrantChatUnknown,
    /// Refused: two histories of the chat's membership were signed; nothing is released until that is settled.
    GrantChatForked,
    /// Refused: the account is no member of the chat.
    GrantNotMember,
    /// Refused: the account's membership begins with a later epoch.
    GrantEpochBeforeMembership,
    /// Refused: the grant's ceiling of keys is spent at this custodian; sign a new grant.
    GrantCeilingSpent,
    /// Refused: the deletion statement has not exactly the documented fields in the form documented.
    MandateForm,
    /// Refused: the deletion statement is for another deployment.
    MandateOtherDeployment,
    /// Refused: the deletion statement is for another home than the one that shows it.
    MandateOtherHome,
    /// Refused: the device is not one of the account, as far as this custodian was told.
    MandateDeviceUnknown,
    /// Refused: the device's record ran out; renew it, or sign the deletion with another device.
    MandateDeviceExpired,
    /// Refused: the device was revoked; sign the deletion with another device.
    MandateDeviceRevoked,
    /// Refused: the deletion statement is not signed by its device, and by it alone.
    MandateSignature,
    /// Refused: the deletion statement was made ahead of the custodian's clock; check the device's clock.
    MandateNotYetValid,
    /// Refused: the mandate is over, 24 hours after its statement was made; sign the deletion anew.
    MandateHorizonOver,
    /// Refused: the deletion statement is about another chat than the key's.
    MandateChatNotNamed,
    /// Refused: the deletion statement does not name the key's epoch.
    MandateEpochNotNamed,
    /// Refused: this custodian was not told of the chat's genesis.
    MandateChatUnknown,
    /// Refused: two histories of the chat's membership were signed; nothing is released until that is settled.
    MandateChatForked,
    /// Refused: the account is no member of the chat.
    MandateNotMember,
    /// Refused: the deletion names others' messages; an admin of the chat must sign it.
    MandateRoleMissing,
    /// Refused: the account's membership begins with a later epoch.
    MandateEpochBeforeMembership,
    /// Refused: the epoch was released to this lease key before; ask with a fresh one.
    MandateLeaseKeyUsed,
    /// Refused: the epoch was released eight times under this mandate; sign the deletion anew.
    MandateReleasesSpent,
    /// Refused: this is a service credential's token and no grant; it opens nothing.
    GrantServiceCredential,
}

/// One key of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyLine {
    /// The dealing.
    pub key: KeyId,
    /// Its chat: an index into the entry's `chats`.
    pub chat: u16,
    /// What happened.
    pub outcome: KeyOutcome,
    /// The wrapping version of the share concerned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<u32>,
}

/// An officer or operator, as an entry names one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorMark {
    /// The name in the certificate.
    pub name: String,
    /// Hash of the certificate.
    pub certificate: HexBytes<32>,
}

/// The subject of a freeze, thaw or erasure, without naming a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Everything the custodian holds.
    All,
    /// The chats of the entry.
    Chats,
}

/// One entry. Its JSON is what is hashed, published and kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// [`FORMAT`].
    pub format: u8,
    /// Whose log.
    pub custodian: CustodianId,
    /// Place in the log, from 0.
    pub index: u64,
    /// Entry time: never earlier than the entry before.
    pub time_ms: WallMs,
    /// What it records.
    pub kind: EntryKind,
    /// Whether the command as a whole took effect.
    pub done: bool,
    /// Why it did not, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused: Option<String>,
    /// The caller's request id.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request: Option<RequestId>,
    /// The home that asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub home: Option<HomeId>,
    /// The node: of the home that asked, or of this custodian in key entries.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<NodeId>,
    /// The operator who acted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operator: Option<OperatorMark>,
    /// Why, as stated by whoever asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Hash of the authority shown.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub authority: Option<HexBytes<32>>,
    /// Hash of the lease key shares are sealed to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lease_key: Option<HexBytes<32>>,
    /// The policy approved.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy: Option<PolicyId>,
    /// `sealing` or `wrapping`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key_kind: Option<String>,
    /// The key version concerned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<u32>,
    /// Hash of the public statement of a sealing version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub statement: Option<HexBytes<32>>,
    /// The voters from now on.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub voters: Vec<NodeId>,
    /// What a freeze or thaw covers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scope: Option<Subject>,
    /// Former entries whose openings were erased.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub entries: Vec<u64>,
    /// The hash of the officers' statement.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub officer_statement: Option<HexBytes<32>>,
    /// The officer who signed it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub officer: Option<OfficerId>,
    /// The proposal concerned: the hash of its bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub proposal: Option<HexBytes<32>>,
    /// The order concerned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub order: Option<OrderId>,
    /// What is proposed, decided, or was done, in one word each.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub acts: Vec<String>,
    /// Chats, each as HMAC-SHA-256 under a salt of its own.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub chats: Vec<HexBytes<32>>,
    /// Keys and what happened to each.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub keys: Vec<KeyLine>,
    /// The identity authority concerned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub identity_authority: Option<AuthorityId>,
    /// The number of a statement in its chain.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub number: Option<u64>,
    /// What the statement changes, by name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub change: Option<String>,
    /// Accounts, each as HMAC-SHA-256 under a salt of its own.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub accounts: Vec<HexBytes<32>>,
    /// Devices, in the same way.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub devices: Vec<HexBytes<32>>,
    /// How many shares were wrapped anew. Which is not said: a rotation concerns them all, and
    /// their names would outgrow everything else in the log.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rewrapped: Option<u32>,
    /// Random bytes that blind the leaf hash.
    pub blinding: HexBytes<16>,
}

/// The entry does not fit its limit. Commands are limited so that this cannot happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log entry of {bytes} bytes; at most {ENTRY_BYTES_MAX} fit")]
pub struct EntryTooLarge {
    /// Its size.
    pub bytes: usize,
}

impl Entry {
    /// An entry with nothing but what every entry has.
    pub fn new(
        custodian: CustodianId,
        index: u64,
        time_ms: WallMs,
        kind: EntryKind,
        blinding: [u8; 16],
    ) -> Self {
        Self {
            format: FORMAT,
            custodian,
            index,
            time_ms,
            kind,
            done: true,
            refused: None,
            request: None,
            home: None,
            node: None,
            operator: None,
            reason: None,
            authority: None,
            lease_key: None,
            policy: None,
            key_kind: None,
            version: None,
            statement: None,
            voters: Vec::new(),
            scope: None,
            entries: Vec::new(),
            officer_statement: None,
            officer: None,
            proposal: None,
            order: None,
            acts: Vec::new(),
            chats: Vec::new(),
            keys: Vec::new(),
            identity_authority: None,
            number: None,
            change: None,
            accounts: Vec::new(),
            devices: Vec::new(),
            rewrapped: None,
            blinding: HexBytes(blinding),
        }
    }

    /// The bytes that are hashed and kept.
    ///
    /// # Errors
    /// [`EntryTooLarge`] above [`ENTRY_BYTES_MAX`].
    pub fn to_json(&self) -> Result<Vec<u8>, EntryTooLarge> {
        let bytes = serde_json::to_vec(self).expect("no map keys and no failing Serialize in here");
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryTooLarge { bytes: bytes.len() });
        }
        Ok(bytes)
    }

    /// Reads an entry back, as an auditor does.
    ///
    /// # Errors
    /// What `serde_json` says; unknown fields are refused.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// What an opening opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpeningKind {
    /// An account.
    Account,
    /// A device.
    Device,
    /// A chat.
    Chat,
}

impl OpeningKind {
    fn label(self) -> &'static str {
        match self {
            OpeningKind::Account => labels::LOG_ACCOUNT,
            OpeningKind::Device => labels::LOG_DEVICE,
            OpeningKind::Chat => labels::LOG_CHAT,
        }
    }
}

/// HMAC-SHA-256 over label, a zero byte, value.
fn mac(key: &[u8; 32], label: &str, value: &[u8]) -> Hash {
    let mut mac = <Hmac<Sha256>>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(label.as_bytes());
    mac.update(&[0]);
    mac.update(value);
    mac.finalize().into_bytes().into()
}

/// Salt and value behind one commitment of an entry. Erasable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// What it opens.
    pub kind: OpeningKind,
    /// The salt.
    pub salt: HexBytes<32>,
    /// The value.
    pub value: HexBytes<32>,
}

impl Opening {
    /// The commitment this opens: HMAC-SHA-256 with the salt as key.
    pub fn commitment(&self) -> Hash {
        mac(&self.salt.0, self.kind.label(), &self.value.0)
    }
}

/// The random bytes of one entry, drawn by the leader before it proposes.
///
/// The salts of an entry come from one fresh seed by HMAC: as independent as
/// drawn ones to whoever lacks the seed, at 32 bytes a command instead of 32 a
/// chat. The seed itself is kept nowhere but in the raft log, until it is purged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blinds {
    /// Stands in the entry.
    pub blinding: [u8; 16],
    /// Salts derive from it.
    pub salt_seed: [u8; 32],
}

impl Blinds {
    /// Fresh ones.
    pub fn draw<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut out = Self {
            blinding: [0; 16],
            salt_seed: [0; 32],
        };
        rng.fill_bytes(&mut out.blinding);
        rng.fill_bytes(&mut out.salt_seed);
        out
    }

    /// The opening of the entry's `n`-th chat.
    pub fn chat(&self, n: u16, chat: &ChatId) -> Opening {
        self.opening(n, OpeningKind::Chat, chat.0)
    }

    /// The `n`-th opening of the entry, of whatever kind: no two share a salt.
    pub fn opening(&self, n: u16, kind: OpeningKind, value: [u8; 32]) -> Opening {
        Opening {
            kind,
            salt: HexBytes(mac(&self.salt_seed, labels::LOG_SALT, &n.to_be_bytes())),
            value: HexBytes(value),
        }
    }
}
