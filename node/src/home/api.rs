//! The border between the client plane and the home.
//!
//! `http::client` speaks HTTP and knows only this trait; `home::service`
//! implements it, on whichever node a request arrives, and forwards to the
//! shard's leader over the peer plane.

pub use super::cookies::Session;
use futures::future::BoxFuture;
use quorate_engine::api::registry::Statement;
use quorate_engine::api::{
    AccountChain, Append, Appended, Chat, ChatHead, ChatList, CreateChat, Deletion, Edit, Members,
    Message, Page, PostDeletion, QuorumProblem, StatementAcks, Status, Written,
};
use quorate_engine::authz::grant::GrantRefusal;
use quorate_engine::authz::service::ServiceRefusal;
use quorate_engine::types::{
    AccountId, ChatId, MessageId, Outcome, PublicKey, RequestId, Revision,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Who calls, and under which request id.
#[derive(Clone, Serialize, Deserialize)]
pub struct Caller {
    /// The grant shown, or a service's token, as it came: whoever does the operation reads and
    /// checks it.
    pub grant: String,
    /// The request id, echoed in the reply and carried to custodians' logs.
    pub request: RequestId,
}

impl fmt::Debug for Caller {
    /// Without the grant: who holds it can act under it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Caller({})", self.request)
    }
}

/// A reply and the log position it is true at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct At<T> {
    /// Shard (raft group).
    pub shard: u32,
    /// Raft index that was applied when it was read or written.
    pub index: u64,
    /// The reply.
    pub value: T,
}

/// Why the home did not do what was asked. Mapped to problem+json by `http`.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum HomeError {
    /// No such chat or message.
    #[error("{what} not found")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The caller may not.
    #[error("{detail}")]
    Denied {
        /// Why, for programs.
        why: GrantRefusal,
        /// Why, in words.
        detail: String,
    },
    /// A service credential does not let the caller append.
    #[error("{detail}")]
    Service {
        /// Why, for programs.
        why: ServiceRefusal,
        /// Why, in words.
        detail: String,
    },
    /// A signed statement was not taken, here or by any custodian.
    #[error("{reason}")]
    Statement {
        /// For programs: why, as `authz` names it.
        code: String,
        /// For people.
        reason: String,
    },
    /// A budget of keys is spent at the custodians that are needed.
    #[error("{detail}")]
    Spent {
        /// In words: whose, and where.
        detail: String,
        /// When a key may be had again.
        retry_ms: u64,
        /// The account's own; else the home's or the custodians'.
        account: bool,
    },
    /// `If-Match` named another revision.
    #[error("the message is at revision {current}")]
    RevisionMismatch {
        /// The revision it is at.
        current: Revision,
    },
    /// The request itself is wrong; nothing was done.
    #[error("{detail}")]
    Invalid {
        /// What is wrong with it.
        detail: String,
    },
    /// The idempotency key was used before for something else.
    #[error("the idempotency key was used for another request")]
    IdempotencyMismatch,
    /// No quorum of custodians for the key that is needed.
    #[error("no quorum of custodians: {detail}")]
    Quorum {
        /// In words: who is missing and what would suffice.
        detail: String,
        /// The same for programs.
        problem: QuorumProblem,
        /// `NotDone` for reads and for writes that were never proposed.
        outcome: Outcome,
    },
    /// The shard has no leader that can be reached, or its queue is full. Repeating is safe.
    #[error("unavailable: {detail}")]
    Unavailable {
        /// Why.
        detail: String,
        /// Suggested wait.
        retry_ms: u64,
        /// `NotDone` when nothing was proposed, else `Unknown`.
        outcome: Outcome,
    },
    /// A record does not open under its key: damaged, moved or forged. Never returned as data.
    #[error("record {message} of chat {chat} does not open: {detail}")]
    Corrupt {
        /// The chat.
        chat: ChatId,
        /// The message.
        message: MessageId,
        /// Why.
        detail: String,
    },
}

/// Result of a home operation.
pub type HomeResult<T> = Result<At<T>, HomeError>;

/// What the client plane can ask of a home.
pub trait HomeApi: Send + Sync + 'static {
    /// Creates a chat with its sealed profile.
    fn create_chat(&self, caller: Caller, request: CreateChat) -> BoxFuture<'_, HomeResult<Chat>>;
    /// Chats in order of id, over all shards.
    fn list_chats(
        &self,
        caller: Caller,
        after: Option<ChatId>,
        limit: usize,
        profile: bool,
    ) -> BoxFuture<'_, HomeResult<ChatList>>;
    /// One chat.
    fn chat(&self, caller: Caller, chat: ChatId, profile: bool) -> BoxFuture<'_, HomeResult<Chat>>;
    /// Appends messages, all or none.
    fn append(
        &self,
        caller: Caller,
        chat: ChatId,
        request: Append,
    ) -> BoxFuture<'_, HomeResult<Appended>>;
    /// Replaces a message's content if it is at `revision`.
    fn edit(
        &self,
        caller: Caller,
        chat: ChatId,
        message: MessageId,
        revision: Revision,
        request: Edit,
    ) -> BoxFuture<'_, HomeResult<Written>>;
    /// One message.
    fn message(
        &self,
        caller: Caller,
        chat: ChatId,
        message: MessageId,
    ) -> BoxFuture<'_, HomeResult<Message>>;
    /// A page of messages from `from` on.
    fn page(
        &self,
        caller: Caller,
        chat: ChatId,
        from: MessageId,
        limit: usize,
    ) -> BoxFuture<'_, HomeResult<Page>>;
    /// Passes a statement about a chat on to the custodians, and keeps it.
    fn chat_statement(
        &self,
        caller: Caller,
        chat: ChatId,
        statement: Statement,
    ) -> BoxFuture<'_, HomeResult<StatementAcks>>;
    /// Keeps a deletion statement about messages of a chat. Erases nothing.
    fn delete(
        &self,
        caller: Caller,
        chat: ChatId,
        request: PostDeletion,
    ) -> BoxFuture<'_, HomeResult<Deletion>>;
    /// Passes a statement about an account on to the custodians.
    fn account_statement(
        &self,
        caller: Caller,
        account: AccountId,
        statement: Statement,
    ) -> BoxFuture<'_, Result<StatementAcks, HomeError>>;
    /// Statements of the caller's own account, as custodians hold them, from a number on.
    fn account_chain(
        &self,
        caller: Caller,
        account: AccountId,
        from: u64,
    ) -> BoxFuture<'_, Result<AccountChain, HomeError>>;
    /// Members of a chat in order of account.
    fn members(
        &self,
        caller: Caller,
        chat: ChatId,
        after: Option<AccountId>,
        limit: usize,
    ) -> BoxFuture<'_, HomeResult<Members>>;
    /// Where a chat's chain of statements ends, for whoever may join or is a member.
    fn head(
        &self,
        caller: Caller,
        chat: ChatId,
        invite: Option<PublicKey>,
    ) -> BoxFuture<'_, HomeResult<ChatHead>>;
    /// Trades a grant for a session of a browser's.
    fn open_session(&self, caller: Caller) -> BoxFuture<'_, Result<Session, HomeError>>;
    /// The grant behind a browser's session, if it was made at this home and still holds.
    fn session(&self, token: String) -> BoxFuture<'_, Option<String>>;
    /// The deployment as seen from this node.
    fn status(&self) -> BoxFuture<'_, Status>;
}
