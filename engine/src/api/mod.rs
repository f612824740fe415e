//! The JSON of client, operator and registry plane: what goes over HTTP.
//!
//! These types convert at the border; nothing below imports them. The OpenAPI
//! document at `/v1/openapi.json` is generated from them.

pub mod audit;
pub mod disclosure;
pub mod keys;
pub mod officers;
pub mod operator;
pub mod registry;
pub mod services;

use crate::types::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Largest message content, in bytes of its JSON.
pub const CONTENT_BYTES_MAX: usize = 1 << 20;
/// Most messages in one append or one page.
pub const MESSAGES_PER_CALL_MAX: usize = 256;
/// Largest request body of an append, in bytes.
pub const APPEND_BODY_BYTES_MAX: usize = 4 << 20;
/// Header with the request id, echoed in every reply.
pub const REQUEST_HEADER: &str = "quorate-request";
/// Header with the log position a reply is true at, as `shard:index`.
pub const POSITION_HEADER: &str = "quorate-position";

/// A message's or profile's content: a JSON object, kept verbatim, unknown fields included.
pub type Content = Map<String, Value>;

/// `POST /v1/chats`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateChat {
    /// 1 to 64 printable characters, fresh per intended chat; repeating it returns the same chat.
    pub idempotency_key: String,
    /// The chat's profile: title and whatever else. Sealed like a message, as message 0.
    #[schema(value_type = Object)]
    pub profile: Content,
    /// The chat's genesis, signed by the creating device. The chat's id is the hash of its payload.
    pub genesis: registry::Statement,
}

/// `POST /v1/chats/{chat}/statements` and `POST /v1/accounts/{account}/statements`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PostStatement {
    /// The next statement of the chain.
    pub statement: registry::Statement,
}

/// What the custodians say to a statement. The client counts: it took effect where
/// the acknowledgements that verify are from a blocking set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StatementAcks {
    /// Custodians that took it.
    pub acks: Vec<StatementAck>,
    /// Custodians that refused it, each with code and reason.
    pub refused: Vec<(String, String, String)>,
    /// Custodians that did not answer in time; they catch up from the others.
    pub unreachable: Vec<String>,
}

/// `GET /v1/accounts/{account}/statements?from=N`: what custodians hold of the account's chain. The caller
/// checks the links and counts the heads.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AccountChain {
    /// Number of the last statement at the custodian with the longest chain; the genesis is 0.
    pub number: u64,
    /// Its hash, hex.
    pub hash: String,
    /// That custodian's statements from `from` on, in order, as many as fit an answer.
    pub statements: Vec<registry::Statement>,
    /// Every custodian's signed word about where its own chain ends.
    pub acks: Vec<StatementAck>,
    /// Custodians that did not answer in time.
    pub unreachable: Vec<String>,
}

/// One custodian's signed word that its chain ends with the statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatementAck {
    /// Who.
    pub custodian: String,
    /// Number of the chain's last statement.
    pub number: u64,
    /// Its hash, hex.
    pub hash: String,
    /// Entry of the custodian's log at which it stood so.
    pub entry: u64,
    /// Unix milliseconds of that entry.
    pub time_ms: u64,
    /// Ed25519 by the custodian's log key, hex.
    pub signature: String,
}

/// `GET /v1/chats/{chat}/members?after=ACCOUNT&limit=N`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Members {
    /// Number of the chat's last statement at this home.
    pub number: u64,
    /// Its hash, hex: the next statement's `previous`.
    pub hash: String,
    /// In order of account.
    pub members: Vec<Member>,
    /// Pass as `after` for the next page; absent at the end.
    pub next: Option<String>,
}

/// `GET /v1/chats/{chat}/head?invite=KEY`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChatHead {
    /// Number of the chat's last statement at this home.
    pub number: u64,
    /// Its hash, hex: the next statement's `previous`.
    pub hash: String,
}

/// One member of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Account, 64 hex characters.
    pub account: String,
    /// `creator`, `admin` or `member`.
    pub role: String,
    /// First key epoch the account may read.
    pub from_epoch: u32,
}

/// A chat's visible metadata, and its profile when it was asked for and could be opened.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Chat {
    /// Hex id.
    pub id: String,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Messages, without the profile record.
    pub messages: u64,
    /// Key epochs opened so far.
    pub epochs: u32,
    /// The open epoch runs with less than its policy's write margin.
    pub thin: bool,
    /// The profile, when asked for with `?profile=true`.
    #[schema(value_type = Option<Object>)]
    pub profile: Option<Content>,
}

/// `GET /v1/chats?after=ID&limit=N&profile=BOOL`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChatList {
    /// In order of id.
    pub chats: Vec<Chat>,
    /// Pass as `after` for the next page; absent at the end.
    pub next: Option<String>,
}

/// `POST /v1/chats/{chat}/messages`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// 1 to 256 messages, appended in this order, all or none.
    pub messages: Vec<NewMessage>,
}

/// One message to append.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMessage {
    /// 1 to 64 printable characters, unique per device and chat for seven days.
    pub idempotency_key: String,
    /// The content.
    #[schema(value_type = Object)]
    pub content: Content,
}

/// The answer to [`Append`].
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Appended {
    /// One per message, in order.
    pub messages: Vec<Written>,
}

/// Where a message stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// Message id.
    pub id: u64,
    /// Revision; also its `ETag`.
    pub revision: u32,
    /// Unix milliseconds of the committed entry.
    pub at_ms: u64,
    /// True when an earlier request with this idempotency key had written it.
    pub repeated: bool,
}

/// `PUT /v1/chats/{chat}/messages/{id}` with `If-Match: "REVISION"`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// 1 to 64 printable characters.
    pub idempotency_key: String,
    /// The whole new content.
    #[schema(value_type = Object)]
    pub content: Content,
}

/// A message, opened.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// Message id; 0 is the profile.
    pub id: u64,
    /// Revision; also its `ETag`.
    pub revision: u32,
    /// Unix milliseconds when first written.
    pub sent_ms: u64,
    /// Unix milliseconds of the last edit.
    pub edited_ms: Option<u64>,
    /// Device that wrote it first.
    pub device: String,
    /// Key epoch it is sealed under now.
    pub epoch: u32,
    /// The content.
    #[schema(value_type = Object)]
    pub content: Content,
}

/// `POST /v1/chats/{chat}/deletions`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PostDeletion {
    /// The deletion statement (`docs/grants.md`).
    pub statement: registry::Statement,
    /// Also ask custodians for the keys under its mandate, open the messages, and forget both: whether
    /// they honour it. Costs one of the eight releases that each custodian allows.
    #[serde(default)]
    pub check: bool,
}

/// The answer to [`PostDeletion`]: the statement is kept. Nothing is erased by that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deletion {
    /// The hash of the statement, 64 hex characters.
    pub id: String,
    /// How many messages it names.
    pub messages: u64,
    /// Their key epochs.
    pub epochs: Vec<u32>,
    /// Unix milliseconds of its recording.
    pub recorded_ms: u64,
    /// Custodians release nothing under it from then on, Unix milliseconds.
    pub mandate_ends_ms: u64,
    /// It was recorded before.
    pub repeated: bool,
    /// What `check` found, when it was asked for.
    pub checked: Option<Vec<CheckedEpoch>>,
}

/// One epoch whose key custodians gave under a deletion's mandate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckedEpoch {
    /// The epoch.
    pub epoch: u32,
    /// How many of the messages named opened under it.
    pub messages: u64,
    /// The custodians whose shares opened it.
    pub custodians: Vec<String>,
}

/// `GET /v1/chats/{chat}/messages?from=ID&limit=N`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page {
    /// In order of id, from `from` (default 1) on.
    pub messages: Vec<Message>,
    /// Pass as `from` for the next page; absent at the end.
    pub next: Option<u64>,
}

/// An error, as RFC 9457 `application/problem+json`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:quorate:problem:CODE`
    #[serde(rename = "type")]
    pub kind: String,
    /// Short and the same for every occurrence.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// Stable code, for programs (`quorum_unreachable`, `revision_mismatch`, …).
    pub code: String,
    /// What happened, to what.
    pub detail: String,
    /// What to do next.
    pub next_step: String,
    /// Whether repeating the same request may succeed, and after how many milliseconds.
    pub retry_ms: Option<u64>,
    /// What may be concluded about the effect.
    #[schema(value_type = String)]
    pub outcome: Outcome,
    /// Echo of the request id.
    pub request: String,
    /// For a failed opening: who refused and why, who is unreachable, and what would suffice.
    pub quorum: Option<QuorumProblem>,
}

/// Why a quorum could not be had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuorumProblem {
    /// Custodians that answered with a good share.
    pub answered: Vec<String>,
    /// Custodians that refused, with the reason.
    pub refused: Vec<(String, String)>,
    /// Custodians whose share did not match its commitment: blamed by name.
    pub lied: Vec<String>,
    /// Custodians that could not be reached in time.
    pub unreachable: Vec<String>,
    /// Each entry is a set of custodians that would suffice together with those that answered.
    pub would_suffice: Vec<Vec<String>>,
}

/// `GET /v1/status`: what a home node knows of its deployment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Deployment id.
    pub deployment: String,
    /// This node, `home/node`.
    pub node: String,
    /// How releases are authorised in this build; says so as long as it is less than signed grants.
    pub release_authority: String,
    /// Each cluster as seen from here.
    pub clusters: Vec<ClusterStatus>,
    /// The policy new epochs are dealt under.
    pub policy: PolicyStatus,
    /// Key leases on this node.
    pub leases: LeaseStatus,
    /// Open epochs with less than their margin, most urgent first (at most 100), and how many in all.
    pub thin_epochs: u64,
    /// Sealed shares waiting to be delivered.
    pub outbox: u64,
    /// Things an operator should act on.
    pub warnings: Vec<String>,
}

/// One cluster.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    /// `home` or `custodian`.
    pub role: String,
    /// Its name.
    pub name: String,
    /// Jurisdiction, as its descriptor declares.
    pub jurisdiction: String,
    /// Legal entity, as its descriptor declares.
    pub entity: String,
    /// Reachable, and has a leader.
    pub available: bool,
    /// Freezes in force, in words.
    pub freezes: Vec<String>,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
    /// Round trip from here, in milliseconds, when known.
    pub latency_ms: Option<f64>,
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Node id.
    pub id: u64,
    /// Reachable from here.
    pub up: bool,
    /// Raft groups it leads.
    pub leads: Vec<u32>,
    /// Entries its most lagging group is behind its leader, when known.
    pub lag: Option<u64>,
    /// When its peer certificate expires, Unix milliseconds.
    pub certificate_expires_ms: Option<u64>,
}

/// The policy in force and what is left of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PolicyStatus {
    /// Its id.
    pub id: String,
    /// In words: `any 3 of br, ch, eu(any 1 of de, nl), is, sg`.
    pub text: String,
    /// Custodians available now.
    pub available: Vec<String>,
    /// How many more may be lost, whichever they are; absent when nothing can be opened.
    pub margin: Option<u64>,
    /// Margin below the policy's write margin.
    pub thin: bool,
    /// When nothing can be opened: sets that would suffice.
    pub would_suffice: Vec<Vec<String>>,
}

/// Key leases in a node's locked memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LeaseStatus {
    /// How many live.
    pub live: u64,
    /// Age of the oldest, in milliseconds.
    pub oldest_ms: u64,
    /// Most that may live at once.
    pub max: u64,
    /// Longest a lease may live, in milliseconds.
    pub age_ms_max: u64,
    /// Whether their memory is locked; false when RLIMIT_MEMLOCK is too low.
    pub memory_locked: bool,
}
