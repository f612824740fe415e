//! Commands: what a leader proposes. Nothing in them is secret in the clear.

use super::protocol::{FreezeScope, KEYS_PER_REQUEST_MAX, KeyRef, Reason, SealingKeyStatement};
use crate::audit::{Blinds, EntryKind, HexBytes, OperatorMark};
use crate::authz::chain::Source;
use crate::authz::envelope::{Envelope, PAYLOAD_BYTES_MAX, SIGNATURES_MAX};
use crate::authz::grant::GRANT_BYTES_MAX;
use crate::authz::identity::{AuthorityRecord, ENTITY_BYTES_MAX};
use crate::authz::officers::Statement;
use crate::crypto::wrap::WRAPPED_LEN;
use crate::policy::POLICY_BYTES_MAX;
use crate::types::codec::{self, CodecError};
use crate::types::{ChatId, EpochNo, HomeId, KeyId, NodeId, OrderId, PolicyId, RequestId, WallMs};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Format version of proposals.
const PROPOSAL_VERSION: u8 = 1;
/// Most commands in one raft entry.
pub const COMMANDS_PER_PROPOSAL_MAX: usize = 256;
/// Longest reason an operator may state, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;
/// Longest operator name, in bytes.
pub const OPERATOR_NAME_BYTES_MAX: usize = 128;
/// Most voters of one custodian.
pub const VOTERS_MAX: usize = 64;

/// One raft entry: several commands, one clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The leader's clock when it proposed. Entry time is never earlier than the entry before.
    pub clock_ms: WallMs,
    /// 1 to [`COMMANDS_PER_PROPOSAL_MAX`], applied in this order.
    pub commands: Vec<Stamped>,
}

/// A command and the random bytes of its log entry, drawn before proposing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// Blinding and salts of the log entry.
    pub blinds: Blinds,
    /// What to do.
    pub command: Command,
}

impl Proposal {
    /// Stamps `commands`.
    pub fn new<R: CryptoRng + ?Sized>(
        clock_ms: WallMs,
        commands: Vec<Command>,
        rng: &mut R,
    ) -> Self {
        let stamp = |command| Stamped {
            blinds: Blinds::draw(rng),
            command,
        };
        Self {
            clock_ms,
            commands: commands.into_iter().map(stamp).collect(),
        }
    }

    /// The bytes to propose.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(PROPOSAL_VERSION, self)
    }

    /// Reads a committed proposal.
    ///
    /// # Errors
    /// [`CodecError`]; also when there is no command or too many.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let what = "custodian proposal";
        let out: Self = codec::decode(what, PROPOSAL_VERSION, bytes)?;
        let n = out.commands.len();
        if n == 0 || n > COMMANDS_PER_PROPOSAL_MAX {
            return Err(CodecError::Malformed {
                what,
                reason: format!("{n} commands, 1 to {COMMANDS_PER_PROPOSAL_MAX} are allowed"),
            });
        }
        Ok(out)
    }
}

/// Everything that changes a custodian's replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Take wrapped shares in.
    StoreShares(StoreShares),
    /// Decide and record which shares go out.
    Release(Release),
    /// Forget dealings that were never opened.
    Abandon(Abandon),
    /// Destroy shares for ever.
    Shred(Shred),
    /// Stop releases.
    Freeze(Freeze),
    /// Resume releases.
    Thaw(Thaw),
    /// Allow dealings under a policy.
    ApprovePolicy(ApprovePolicy),
    /// A node holds a key version durably.
    AttestKey(AttestKey),
    /// Put a key version into use.
    UseVersion(UseVersion),
    /// Take a key version out of use for ever.
    DropVersion(DropVersion),
    /// The cluster's voters, as its leader saw them change.
    Voters(Voters),
    /// Destroy shares whose time, fixed when they were dealt, has come.
    ExpireShares(ExpireShares),
    /// Erase salts and values behind former entries.
    EraseOpenings(EraseOpenings),
    /// Let an identity authority attest people.
    RegisterAuthority(RegisterAuthority),
    /// A new statement key of an authority, announced by its identity key.
    RotateAuthority(Envelope),
    /// Which legal entity runs a home.
    RegisterHome(RegisterHome),
    /// The next statement about an account.
    AccountStatement(Chained),
    /// The next statement about a chat's members.
    ChatStatement(Chained),
    /// Record what happened to a node's own keys.
    KeyEvent(KeyEvent),
    /// Take a signed statement of officers or an order in.
    Officers(Officers),
    /// Decide and record which shares go out under an order.
    OrderRelease(OrderRelease),
    /// Put shares under the wrapping version in use.
    Rewrap(Rewrap),
    /// Decide and record which shares go out under a deletion's mandate.
    MandateRelease(MandateRelease),
}

/// See [`Command::RegisterAuthority`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterAuthority {
    /// Who.
    pub operator: Operator,
    /// Why, at most [`REASON_BYTES_MAX`].
    pub reason: String,
    /// The authority.
    pub record: AuthorityRecord,
}

/// See [`Command::RegisterHome`]. Authorities of this entity never count for a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterHome {
    /// Who.
    pub operator: Operator,
    /// Why, at most [`REASON_BYTES_MAX`].
    pub reason: String,
    /// The home.
    pub home: HomeId,
    /// The legal entity that runs it, as authorities name theirs.
    pub entity: String,
}

/// A signed statement and how it came here. Whether it is [`Source::Vouched`]
/// was checked before proposing; everything else `apply` checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chained {
    /// How it came here.
    pub source: Source,
    /// The statement.
    pub envelope: Envelope,
}

/// A share under the custodian's wrapping key: 72 bytes, prints nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrapped(#[serde(with = "serde_bytes")] pub Vec<u8>);

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wrapped({} bytes)", self.0.len())
    }
}

/// See [`Command::StoreShares`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreShares {
    /// The home that deals.
    pub home: HomeId,
    /// Wrapping version of all items.
    pub version: u32,
    /// At most [`KEYS_PER_REQUEST_MAX`].
    pub items: Vec<StoreItem>,
}

/// One wrapped share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreItem {
    /// The chat.
    pub chat: ChatId,
    /// The key epoch of the chat.
    pub epoch: EpochNo,
    /// The dealing.
    pub key_id: KeyId,
    /// The policy it was dealt under.
    pub policy: PolicyId,
    /// Commitment to the share; checked by the leader before wrapping.
    pub commitment: [u8; 32],
    /// The wrapped share.
    pub wrapped: Wrapped,
    /// Destroyed at this time; `None`: kept until shredded.
    pub expires_ms: Option<WallMs>,
}

/// See [`Command::Release`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The caller's request id.
    pub request: RequestId,
    /// The home that asks.
    pub home: HomeId,
    /// Its node.
    pub node: NodeId,
    /// The grant shown, in compact form, at most [`GRANT_BYTES_MAX`].
    pub grant: String,
    /// Whether the leader found that the grant's device signed it. A release
    /// under a grant that it did not sign is proposed all the same: its refusal
    /// stands in the log.
    pub signature_holds: bool,
    /// Hash of the lease key.
    pub lease_key: [u8; 32],
    /// What for.
    pub reason: Reason,
    /// At most [`KEYS_PER_REQUEST_MAX`].
    pub keys: Vec<KeyRef>,
}

/// See [`Command::Abandon`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abandon {
    /// The home that asks.
    pub home: HomeId,
    /// At most [`KEYS_PER_REQUEST_MAX`].
    pub keys: Vec<KeyRef>,
}

/// An operator of this custodian, as its certificate names one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Operator {
    /// The name in the certificate, at most [`OPERATOR_NAME_BYTES_MAX`].
    pub name: String,
    /// Hash of the certificate.
    pub certificate: [u8; 32],
}

impl Operator {
    pub(in crate::custody) fn mark(&self) -> OperatorMark {
        OperatorMark {
            name: self.name.clone(),
            certificate: HexBytes(self.certificate),
        }
    }
}

/// See [`Command::Shred`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shred {
    /// Who; officers' quorum and deletion statements come with the next issues.
    pub operator: Operator,
    /// Why, at most [`REASON_BYTES_MAX`].
    pub reason: String,
    /// At most [`KEYS_PER_REQUEST_MAX`].
    pub keys: Vec<KeyRef>,
}

/// See [`Command::Freeze`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Who.
    pub operator: Operator,
    /// Why, at most [`REASON_BYTES_MAX`].
    pub reason: String,
    /// What.
    pub scope: FreezeScope,
}

/// See [`Command::Thaw`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thaw {
    /// Who.
    pub operator: Operator,
    /// Why, at most [`REASON_BYTES_MAX`].
    pub reason: String,
    /// What; must be a freeze in force, scope for scope.
    pub scope: FreezeScope,
}

/// See [`Command::ApprovePolicy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovePolicy {
    /// Who.
    pub operator: Operator,
    /// Why, at most [`REASON_BYTES_MAX`].
    pub reason: String,
    /// The policy's canonical form, at most [`POLICY_BYTES_MAX`].
    #[serde(with = "serde_bytes")]
    pub canonical: Vec<u8>,
}

/// Which key of a custodian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// Shares on their way are sealed to it.
    Sealing,
    /// Shares at rest are wrapped under it.
    Wrapping,
}

impl KeyKind {
    /// Its name in log entries, vault labels and status.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyKind::Sealing => "sealing",
            KeyKind::Wrapping => "wrapping",
        }
    }
}

/// See [`Command::AttestKey`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestKey {
    /// Which key.
    pub kind: KeyKind,
    /// Which version.
    pub version: u32,
    /// Names the key itself, so that two leaders' draws under one number never pass for one.
    pub fingerprint: [u8; 32],
    /// The node that made it durable.
    pub node: NodeId,
}

/// See [`Command::UseVersion`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseVersion {
    /// Which key.
    pub kind: KeyKind,
    /// Which version; higher than the one in use.
    pub version: u32,
    /// Names the key itself.
    pub fingerprint: [u8; 32],
    /// For sealing versions: the signed statement homes will be given. Its
    /// signature was checked before proposing.
    pub statement: Option<SealingKeyStatement>,
}

/// See [`Command::DropVersion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropVersion {
    /// Which key.
    pub kind: KeyKind,
    /// Which version.
    pub version: u32,
}

/// See [`Command::Voters`].
///
/// `UseVersion` counts attestations against this set and not against anything
/// that travels with it: a leader that is wrong about one command cannot
/// shrink a majority. The set is proposed by the leader after every membership
/// change it sees committed, and by each new leader when it differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voters {
    /// 1 to [`VOTERS_MAX`].
    pub voters: BTreeSet<NodeId>,
}

/// See [`Command::ExpireShares`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpireShares {
    /// Shares that expire up to here; never beyond entry time.
    pub up_to_ms: WallMs,
}

/// See [`Command::EraseOpenings`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraseOpenings {
    /// Who.
    pub operator: Operator,
    /// Why, at most [`REASON_BYTES_MAX`].
    pub reason: String,
    /// Of these entries, at most [`KEYS_PER_REQUEST_MAX`].
    pub entries: Vec<u64>,
    /// This chat's only; `None`: all.
    pub chat: Option<ChatId>,
}

/// See [`Command::Rewrap`]. The leader opened each share under the old version, checked its
/// commitment, and wrapped it under the new one before proposing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrap {
    /// The version in use, under which the items are.
    pub to: u32,
    /// At most [`KEYS_PER_REQUEST_MAX`].
    pub items: Vec<RewrapItem>,
}

/// One share wrapped anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewrapItem {
    /// The dealing.
    pub key_id: KeyId,
    /// The version it was under.
    pub from: u32,
    /// The wrapped share.
    pub wrapped: Wrapped,
}

/// What happened to a node's own keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KeyEventKind {
    /// Its root was opened.
    Unlocked,
    /// It dropped its keys.
    Locked,
    /// What opens its root changed, or a ceremony to change it began or was given up.
    Slots,
    /// A peer hands it key versions that it lost with its restart. Refused when the last time
    /// is less than [`HANDOVER_MS_MIN`](super::HANDOVER_MS_MIN) ago.
    HandedOver,
    /// An operator asked it for the next version of a key.
    Rotation,
}

/// See [`Command::KeyEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEvent {
    /// The node.
    pub node: NodeId,
    /// Who; `None` when the node did it by itself at its start.
    pub operator: Option<Operator>,
    /// What.
    pub what: KeyEventKind,
    /// How and why, at most [`REASON_BYTES_MAX`].
    pub reason: String,
}

/// See [`Command::Officers`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Officers {
    /// Who handed it in.
    pub operator: Operator,
    /// What officers signed; decides on its own.
    pub statement: Envelope,
}

impl Officers {
    fn kind(&self) -> EntryKind {
        match Statement::read(&self.statement) {
            Ok(Statement::Bootstrap(_)) => EntryKind::OfficerBootstrap,
            Ok(Statement::Proposal(_)) => EntryKind::OfficerProposal,
            Ok(Statement::Order(_)) => EntryKind::Order,
            // What cannot be read is refused as a decision on nothing.
            Ok(Statement::Decision(_)) | Err(_) => EntryKind::OfficerDecision,
        }
    }
}

/// See [`Command::OrderRelease`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRelease {
    /// The order.
    pub order: OrderId,
    /// The caller's request id.
    pub request: RequestId,
    /// The home that asks.
    pub home: HomeId,
    /// Its node.
    pub node: NodeId,
    /// Hash of the lease key.
    pub lease_key: [u8; 32],
    /// At most [`KEYS_PER_REQUEST_MAX`].
    pub keys: Vec<KeyRef>,
}

/// See [`Command::MandateRelease`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MandateRelease {
    /// The deletion statement; decides on its own.
    pub statement: Envelope,
    /// The caller's request id.
    pub request: RequestId,
    /// The home that asks.
    pub home: HomeId,
    /// Its node.
    pub node: NodeId,
    /// Hash of the lease key.
    pub lease_key: [u8; 32],
    /// At most [`KEYS_PER_REQUEST_MAX`].
    pub keys: Vec<KeyRef>,
}

impl Command {
    /// What its log entry is called.
    pub fn kind(&self) -> EntryKind {
        match self {
            Command::StoreShares(_) => EntryKind::Store,
            Command::Release(_) => EntryKind::Release,
            Command::Abandon(_) => EntryKind::Abandon,
            Command::Shred(_) => EntryKind::Shred,
            Command::Freeze(_) => EntryKind::Freeze,
            Command::Thaw(_) => EntryKind::Thaw,
            Command::ApprovePolicy(_) => EntryKind::ApprovePolicy,
            Command::AttestKey(_) => EntryKind::AttestKey,
            Command::UseVersion(_) => EntryKind::UseVersion,
            Command::DropVersion(_) => EntryKind::DropVersion,
            Command::Voters(_) => EntryKind::Voters,
            Command::ExpireShares(_) => EntryKind::Expire,
            Command::EraseOpenings(_) => EntryKind::EraseOpenings,
            Command::RegisterAuthority(_) => EntryKind::RegisterAuthority,
            Command::RotateAuthority(_) => EntryKind::RotateAuthority,
            Command::RegisterHome(_) => EntryKind::RegisterHome,
            Command::AccountStatement(_) => EntryKind::AccountStatement,
            Command::ChatStatement(_) => EntryKind::ChatStatement,
            Command::Rewrap(_) => EntryKind::Rewrap,
            Command::KeyEvent(c) => match c.what {
                KeyEventKind::Unlocked => EntryKind::NodeUnlocked,
                KeyEventKind::Locked => EntryKind::NodeLocked,
                KeyEventKind::Slots => EntryKind::KeySlots,
                KeyEventKind::Rotation => EntryKind::KeyRotation,
                KeyEventKind::HandedOver => EntryKind::KeyHandover,
            },
            Command::Officers(c) => c.kind(),
            Command::OrderRelease(_) => EntryKind::OrderRelease,
            Command::MandateRelease(_) => EntryKind::MandateRelease,
        }
    }

    /// Whether the command is within its limits. Leaders check before they
    /// propose; `apply` checks again, because what was committed must be
    /// passed by every node alike.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn within_limits(&self) -> Result<(), String> {
        match self {
            Command::StoreShares(c) => wrapped(c.items.iter().map(|i| &i.wrapped)),
            Command::Release(c) => {
                at_most("bytes of grant", c.grant.len(), GRANT_BYTES_MAX)?;
                count("keys", c.keys.len())
            }
            Command::Abandon(c) => count("keys", c.keys.len()),
            Command::Shred(c) => {
                signed_off(&c.operator, &c.reason)?;
                count("keys", c.keys.len())
            }
            Command::Freeze(c) => signed_off(&c.operator, &c.reason),
            Command::Thaw(c) => signed_off(&c.operator, &c.reason),
            Command::ApprovePolicy(c) => {
                signed_off(&c.operator, &c.reason)?;
                at_most("policy bytes", c.canonical.len(), POLICY_BYTES_MAX)
            }
            Command::AttestKey(_) | Command::UseVersion(_) | Command::DropVersion(_) => Ok(()),
            Command::Voters(c) => at_most("voters", c.voters.len(), VOTERS_MAX),
            Command::ExpireShares(_) => Ok(()),
            Command::EraseOpenings(c) => {
                signed_off(&c.operator, &c.reason)?;
                count("entries", c.entries.len())
            }
            Command::RegisterAuthority(c) => signed_off(&c.operator, &c.reason),
            Command::RegisterHome(c) => {
                signed_off(&c.operator, &c.reason)?;
                at_most("bytes of entity", c.entity.len(), ENTITY_BYTES_MAX)
            }
            Command::RotateAuthority(e) => enveloped(e),
            Command::AccountStatement(c) | Command::ChatStatement(c) => enveloped(&c.envelope),
            Command::Rewrap(c) => wrapped(c.items.iter().map(|i| &i.wrapped)),
            Command::KeyEvent(c) => {
                if let Some(by) = &c.operator {
                    named(by)?;
                }
                at_most("bytes of reason", c.reason.len(), REASON_BYTES_MAX)
            }
            Command::Officers(c) => {
                named(&c.operator)?;
                enveloped(&c.statement)
            }
            Command::OrderRelease(c) => count("keys", c.keys.len()),
            Command::MandateRelease(c) => {
                enveloped(&c.statement)?;
                count("keys", c.keys.len())
            }
        }
    }
}

fn at_most(what: &str, n: usize, max: usize) -> Result<(), String> {
    if (1..=max).contains(&n) {
        Ok(())
    } else {
        Err(format!("{n} {what}, 1 to {max} are allowed"))
    }
}

fn count(what: &str, n: usize) -> Result<(), String> {
    at_most(what, n, KEYS_PER_REQUEST_MAX)
}

fn wrapped<'a>(mut shares: impl ExactSizeIterator<Item = &'a Wrapped>) -> Result<(), String> {
    count("items", shares.len())?;
    let bad = shares.find(|w| w.0.len() != WRAPPED_LEN);
    bad.map_or(Ok(()), |w| {
        let len = w.0.len();
        Err(format!(
            "wrapped share of {len} bytes, {WRAPPED_LEN} expected"
        ))
    })
}

fn enveloped(e: &Envelope) -> Result<(), String> {
    at_most("bytes of statement", e.payload.len(), PAYLOAD_BYTES_MAX)?;
    at_most("signatures", e.signatures.len(), SIGNATURES_MAX)
}

fn named(operator: &Operator) -> Result<(), String> {
    at_most(
        "bytes of operator name",
        operator.name.len(),
        OPERATOR_NAME_BYTES_MAX,
    )
}

fn signed_off(operator: &Operator, reason: &str) -> Result<(), String> {
    named(operator)?;
    at_most("bytes of reason", reason.len(), REASON_BYTES_MAX)
}
