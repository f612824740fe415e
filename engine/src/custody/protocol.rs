//! What a home asks a custodian over the peer plane, and what it answers.
//!
//! These are wire types: encoded by [`codec`](crate::types::codec), decoded
//! with limits, and checked by the custodian before anything is proposed.

pub use crate::authz::chain::ChainId;
use crate::authz::deletion::MandateRefusal;
use crate::authz::envelope::Envelope;
use crate::authz::grant::GrantRefusal;
use crate::authz::standing::{DeviceStanding, MemberStanding};
use crate::crypto::labels;
use crate::crypto::seal::RecipientPublic;
use crate::types::{
    AccountId, ChatId, CustodianId, DeploymentId, DeviceId, EpochNo, HomeId, KeyId, Mono, NodeId,
    OrderId, PolicyId, RequestId, SessionId, WallMs,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Format version of requests and replies.
pub const PROTOCOL_VERSION: u8 = 1;
/// Most chats one lookup may name.
pub const CHATS_PER_LOOKUP_MAX: usize = 64;
/// Most keys one request may name: bounds a `Release` log entry below 60 KiB.
pub const KEYS_PER_REQUEST_MAX: usize = 256;

/// One request of a home node to a custodian's leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CustodianRequest {
    /// The current sealing key statement, see [`SealingKeyStatement`].
    SealingKey,
    /// Take these shares.
    Store(StoreRequest),
    /// Release shares of these keys to a lease key.
    Release(ReleaseRequest),
    /// Forget dealings that were never opened; refuse them for ever after.
    Abandon(AbandonRequest),
    /// What changed that may end leases (freezes now; revocations later).
    Feed {
        /// Position of the feed the home has: the answer may be held back for
        /// [`FEED_HOLD_MS`] while there is no news. 0: answered at once.
        since: u64,
    },
    /// A signed statement about a chat, passed on by the home.
    ChatStatement(StatementRequest),
    /// A signed statement about an account, passed on by the home.
    AccountStatement(StatementRequest),
    /// Where a device and its account stand.
    Lookup(LookupRequest),
    /// Release shares of these keys under a disclosure order.
    OrderRelease(OrderReleaseRequest),
    /// Release shares of these keys under a deletion's mandate.
    MandateRelease(MandateReleaseRequest),
    /// An account's chain, for one of its devices.
    AccountChain(ChainRequest),
    /// What a disclosure order's accounts are.
    OrderAccounts(OrderAccountsRequest),
}

/// The answer to a [`CustodianRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CustodianReply {
    /// To `SealingKey`.
    SealingKey(SealingKeyStatement),
    /// To `Store`: one outcome per item, in order.
    Store(Vec<StoreOutcome>),
    /// To `Release`, `OrderRelease` and `MandateRelease`.
    Release(ReleaseReply),
    /// To `Abandon`: one outcome per key, in order.
    Abandon(Vec<AbandonOutcome>),
    /// To `Feed`.
    Feed(Feed),
    /// To `ChatStatement` and `AccountStatement`.
    Statement(Result<SignedHead, StatementRefused>),
    /// To `Lookup`.
    Lookup(LookupReply),
    /// This node is not the leader. Ask `leader`, if it is known.
    NotLeader {
        /// The leader's node id.
        leader: Option<NodeId>,
        /// Where that is, for homes whose descriptor of this custodian does not name it yet.
        address: Option<String>,
    },
    /// Nothing was done; asking again later may help.
    Busy {
        /// Why, in words for a log.
        reason: String,
        /// Suggested wait, in milliseconds.
        retry_ms: u64,
    },
    /// It is not known whether it was done (for example, leadership was lost after proposing).
    Unknown {
        /// Why, in words for a log.
        reason: String,
    },
    /// The request itself is wrong and will never succeed.
    Invalid {
        /// Why, in words for a log.
        reason: String,
    },
    /// To `AccountChain`; `None`: no such account is known here.
    AccountChain(Option<ChainTold>),
    /// To `OrderAccounts`; `None`: nothing is released under the order here.
    OrderAccounts(Option<OrderTold>),
}

/// A custodian's statement of the sealing key to use, signed by its log key (the descriptor, signed by the identity key, names it).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealingKeyStatement {
    /// Who.
    pub custodian: CustodianId,
    /// Which version of its sealing key.
    pub version: u32,
    /// The public key shares are sealed to.
    pub public: RecipientPublic,
    /// Not to be used from this time on (at most 7 days after the statement).
    pub expires_ms: WallMs,
    /// Ed25519 over [`SealingKeyStatement::signed_bytes`], 64 bytes.
    #[serde(with = "serde_bytes")]
    pub signature: Vec<u8>,
}

/// Shares for one custodian, all sealed in one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRequest {
    /// The home that deals; must be the peer whose certificate carried this.
    pub home: HomeId,
    /// The deployment.
    pub deployment: DeploymentId,
    /// The encapsulation the items are sealed under.
    pub session: SealSession,
    /// At most [`KEYS_PER_REQUEST_MAX`].
    pub items: Vec<SealedItem>,
}

/// One HPKE encapsulation, committed by the home as `SealSession` so that any
/// later leader can deliver what was sealed under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealSession {
    /// Its id.
    pub id: SessionId,
    /// Whose sealing key.
    pub custodian: CustodianId,
    /// Which version of it.
    pub version: u32,
    /// When that version expires: an undelivered share is a lost margin from then on.
    pub expires_ms: WallMs,
    /// The encapsulation, 1,120 bytes.
    #[serde(with = "serde_bytes")]
    pub encapsulated: Vec<u8>,
}

/// One sealed share on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedItem {
    /// The chat, bound into the seal.
    pub chat: ChatId,
    /// The key epoch of the chat. Write-once with the share, and what grants' ranges count.
    pub epoch: EpochNo,
    /// The dealing.
    pub key_id: KeyId,
    /// The policy it was dealt under.
    pub policy: PolicyId,
    /// Commitment to this leaf's share.
    pub commitment: [u8; 32],
    /// The sealed share.
    #[serde(with = "serde_bytes")]
    pub sealed: Vec<u8>,
    /// Fixed when dealt: the custodian destroys the share at this time. `None`: kept until shredded.
    pub expires_ms: Option<WallMs>,
}

/// What became of one share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreOutcome {
    /// Stored now, durably, by a majority.
    Stored,
    /// Was stored before with the same commitment.
    AlreadyStored,
    /// Another share stands under this key id. Never overwritten.
    Conflict,
    /// The key id is tombstoned: shredded or abandoned. Refused for ever.
    Tombstoned,
    /// The share does not open, or does not match its commitment.
    BadShare,
    /// The policy is not one this custodian deals under.
    PolicyNotApproved,
    /// The sealing version is expired or destroyed here; deal anew.
    SealingKeyGone,
}

/// Why a release is asked for. Stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A user reads.
    Read,
    /// A user writes and the home has no lease.
    Write,
    /// A drill or test deployment.
    Drill,
}

/// A request to release shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// Bound to the hash of keys, authority and lease key; a repetition is a new entry.
    pub request: RequestId,
    /// The home that asks; must be the peer whose certificate carried this.
    pub home: HomeId,
    /// Its node.
    pub node: NodeId,
    /// The deployment.
    pub deployment: DeploymentId,
    /// In-memory key that shares are sealed to.
    pub lease_key: RecipientPublic,
    /// What for.
    pub reason: Reason,
    /// The grant that allows it, in compact form.
    pub grant: String,
    /// At most [`KEYS_PER_REQUEST_MAX`].
    pub keys: Vec<KeyRef>,
}

/// A request to release shares under a disclosure order that this custodian's officers approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderReleaseRequest {
    /// Bound to the hash of keys, order and lease key; a repetition is a new entry.
    pub request: RequestId,
    /// The home that asks; must be the peer whose certificate carried this.
    pub home: HomeId,
    /// Its node.
    pub node: NodeId,
    /// The deployment.
    pub deployment: DeploymentId,
    /// In-memory key that shares are sealed to.
    pub lease_key: RecipientPublic,
    /// The order; also the authority that the seals are bound to.
    pub order: OrderId,
    /// At most [`KEYS_PER_REQUEST_MAX`].
    pub keys: Vec<KeyRef>,
}

/// A question for the chats and devices of a disclosure order's accounts. What is released is
/// decided without the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderAccountsRequest {
    /// The home that asks.
    pub home: HomeId,
    /// The deployment.
    pub deployment: DeploymentId,
    /// The order.
    pub order: OrderId,
}

/// The answer to an [`OrderAccountsRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderTold {
    /// Chats that the accounts led to when the order was submitted there.
    pub chats: BTreeSet<ChatId>,
    /// The accounts' devices, revoked ones too.
    pub devices: BTreeSet<DeviceId>,
}

/// A request to release shares so that what a deletion leaves can be written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MandateReleaseRequest {
    /// Bound to the hash of keys, statement and lease key; a repetition is a new entry, and gets nothing
    /// that the first one got: ask with another lease key.
    pub request: RequestId,
    /// The home that asks; must be the peer whose certificate carried this.
    pub home: HomeId,
    /// Its node.
    pub node: NodeId,
    /// The deployment.
    pub deployment: DeploymentId,
    /// In-memory key that shares are sealed to.
    pub lease_key: RecipientPublic,
    /// The deletion statement; the hash of its payload is the authority that the seals are bound to.
    pub statement: Envelope,
    /// At most [`KEYS_PER_REQUEST_MAX`].
    pub keys: Vec<KeyRef>,
}

/// One dealing of one chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyRef {
    /// The chat.
    pub chat: ChatId,
    /// The dealing.
    pub key_id: KeyId,
}

/// What was released and where it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseReply {
    /// The signed promise of the entry's place in the log.
    pub receipt: Receipt,
    /// Encapsulation to the lease key; empty when nothing was released.
    #[serde(with = "serde_bytes")]
    pub encapsulated: Vec<u8>,
    /// One result per key asked for, in order.
    pub shares: Vec<ShareResult>,
}

/// A share, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareResult {
    /// Sealed to the lease key.
    Share {
        /// The sealed share.
        #[serde(with = "serde_bytes")]
        sealed: Vec<u8>,
    },
    /// Decided in `apply`, and recorded.
    Refused(Refusal),
}

/// Why a custodian refuses to release one key.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error,
)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It holds no share under this key id.
    #[error("holds no share of this key")]
    NotHeld,
    /// Shredded or abandoned, for ever.
    #[error("the share was destroyed")]
    Tombstoned,
    /// The chat, or everything, is frozen here.
    #[error("frozen by its officers")]
    Frozen,
    /// The key id is held for another chat.
    #[error("the key belongs to another chat")]
    WrongChat,
    /// The request id was used before for something else.
    #[error("the request id was used for another request")]
    RequestMismatch,
    /// Another home dealt the key; or the order asked under does not cover it, or not yet.
    #[error("another home's key, or outside the order")]
    NotAuthorised,
    /// The grant does not allow it.
    #[error("grant refused: {0}")]
    Grant(GrantRefusal),
    /// The account had its share of keys for now.
    #[error("the account's budget is spent; come back in {retry_ms} ms")]
    AccountBudget {
        /// When a key may be had again.
        retry_ms: u64,
    },
    /// The home's node had its share of keys for now.
    #[error("the home node's budget is spent; come back in {retry_ms} ms")]
    HomeNodeBudget {
        /// When a key may be had again.
        retry_ms: u64,
    },
    /// The custodian released all it releases for now.
    #[error("the custodian's budget is spent; come back in {retry_ms} ms")]
    OverallBudget {
        /// When a key may be had again.
        retry_ms: u64,
    },
    /// The wrapped share does not open on this node; the custodian must repair it.
    #[error("the stored share is damaged")]
    Damaged,
    /// Nothing is released under this order here: not submitted, not approved, in its
    /// cool-off, withdrawn, rejected or expired. The custodian's log says which.
    #[error("the order is not in force there")]
    Order,
    /// The deletion's mandate does not allow it.
    #[error("mandate refused: {0}")]
    Mandate(MandateRefusal),
}

/// A custodian's signed promise of a release's place in its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Who.
    pub custodian: CustodianId,
    /// Index of the entry in its log.
    pub entry: u64,
    /// RFC 6962 leaf hash of the entry.
    pub leaf: [u8; 32],
    /// Entry time.
    pub time_ms: WallMs,
    /// The request it answers.
    pub request: RequestId,
    /// Ed25519 by the custodian's log key over [`Receipt::signed_bytes`], 64 bytes.
    #[serde(with = "serde_bytes")]
    pub signature: Vec<u8>,
}

/// A statement on its way to a custodian. Whoever carries it is not believed:
/// the signatures in it decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementRequest {
    /// The home that passes it on.
    pub home: HomeId,
    /// The deployment.
    pub deployment: DeploymentId,
    /// What was signed.
    pub statement: Envelope,
}

/// A custodian's signed acknowledgement: its chain ends here. A client that has
/// them from a blocking set knows that no authorised set believes less.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHead {
    /// Who.
    pub custodian: CustodianId,
    /// Which chain.
    pub chain: ChainId,
    /// Number of its last statement; the genesis is 0.
    pub number: u64,
    /// Hash of that statement.
    pub hash: [u8; 32],
    /// Entry of the custodian's log at which it stood so.
    pub entry: u64,
    /// Entry time.
    pub time_ms: WallMs,
    /// Ed25519 by the custodian's log key over [`SignedHead::signed_bytes`], 64 bytes.
    #[serde(with = "serde_bytes")]
    pub signature: Vec<u8>,
}

/// A question for the statements of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRequest {
    /// The home that asks.
    pub home: HomeId,
    /// The deployment.
    pub deployment: DeploymentId,
    /// The account.
    pub account: AccountId,
    /// The first statement's number.
    pub from: u64,
}

/// The answer to a [`ChainRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainTold {
    /// Where the chain ends here.
    pub head: SignedHead,
    /// Statements from the number asked for on, in order, as many as fit a message.
    pub statements: Vec<Envelope>,
}

/// Why a custodian does not take a statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct StatementRefused {
    /// For programs.
    pub code: String,
    /// For people.
    pub reason: String,
    /// Number of the chain's last statement here, when that is why.
    pub have: Option<u64>,
}

/// A question for the standing of a device and its account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupRequest {
    /// The home that asks.
    pub home: HomeId,
    /// The deployment.
    pub deployment: DeploymentId,
    /// The account.
    pub account: AccountId,
    /// The device.
    pub device: DeviceId,
    /// At most [`CHATS_PER_LOOKUP_MAX`].
    pub chats: Vec<ChatId>,
}

/// The answer to a [`LookupRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupReply {
    /// Log position it is true at.
    pub position: u64,
    /// The device.
    pub device: DeviceStanding,
    /// The account in each chat asked for, in order.
    pub chats: Vec<MemberStanding>,
}

/// Dealings to forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbandonRequest {
    /// The home that asks.
    pub home: HomeId,
    /// The deployment.
    pub deployment: DeploymentId,
    /// At most [`KEYS_PER_REQUEST_MAX`].
    pub keys: Vec<KeyRef>,
}

/// What became of one abandoned dealing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AbandonOutcome {
    /// Tombstoned now or before.
    Tombstoned,
    /// Refused: the key was released, or stored over an hour ago. The rules of `Shred` hold.
    Refused,
}

/// A freeze's extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FreezeScope {
    /// Everything this custodian holds.
    All,
    /// One chat.
    Chat(ChatId),
}

/// A custodian's restrictions in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// Log position this feed is true at. A release positioned before a freeze already seen is discarded.
    pub position: u64,
    /// Freezes in force, with the log position each began at.
    pub freezes: Vec<(FreezeScope, u64)>,
}

/// Longest time a custodian holds an answer to `Feed` back, in milliseconds. Short
/// enough that a home which hears nothing for seconds knows that something is wrong.
pub const FEED_HOLD_MS: u64 = 1_000;

impl Feed {
    /// Whether a home that has the feed of position `since` should be told at once.
    /// Thaws are no news: they are told with the next answer.
    pub fn news_since(&self, since: u64) -> bool {
        since == 0 || since > self.position || self.freezes.iter().any(|(_, at)| *at >= since)
    }
}

impl SealingKeyStatement {
    /// What the log key signs.
    pub fn signed_bytes(&self, deployment: &DeploymentId) -> Vec<u8> {
        signed(
            labels::SIGN_SEALING_KEY,
            &(
                deployment,
                &self.custodian,
                self.version,
                &self.public,
                self.expires_ms,
            ),
        )
    }
}

impl SignedHead {
    /// What the log key signs.
    pub fn signed_bytes(&self, deployment: &DeploymentId) -> Vec<u8> {
        signed(
            labels::SIGN_HEAD,
            &(
                deployment,
                &self.custodian,
                self.chain,
                self.number,
                self.hash,
                self.entry,
                self.time_ms,
            ),
        )
    }
}

impl Receipt {
    /// What the log key signs.
    pub fn signed_bytes(&self, deployment: &DeploymentId) -> Vec<u8> {
        signed(
            labels::SIGN_RECEIPT,
            &(
                deployment,
                &self.custodian,
                self.entry,
                self.leaf,
                self.time_ms,
                self.request,
            ),
        )
    }
}

fn signed<T: Serialize>(label: &str, value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(label.as_bytes());
    out.push(0);
    out.extend_from_slice(&crate::types::codec::encode(PROTOCOL_VERSION, value));
    out
}

/// A round trip measured by the asker, for choosing the nearest set.
pub type LatencyMs = Mono;
