//! [`HomeApi`] on any node: does it here, or asks the shard's leader.
//!
//! Every operation may be repeated (writes carry idempotency keys), so what got
//! lost on the way is sent again until the deadline. Only then is the caller
//! told *unknown*.

use super::admission::Admitted;
use super::api::{At, Caller, HomeApi, HomeError, HomeResult};
use super::cookies::{Session, TokenHash, place_of};
use super::core::{Core, Fail, HomeConfig, RETRY_MS};
use super::custodians::Transport;
use super::local::{self, Done, Op};
use super::shard::{Shard, ShardGroup, shard_of};
use super::{admission, journal, release, statements, status, tasks};
use crate::config::ClusterRole;
use crate::peer::{CallError, PeerIdentity, PeerTarget, Service, ServiceError, services};
use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_engine::api::disclosure::{ExecuteOrder, Part};
use quorate_engine::api::registry::Statement;
use quorate_engine::api::{
    AccountChain, Append, Appended, Chat, ChatHead, ChatList, CreateChat, Deletion, Edit, Members,
    Message, Page, PostDeletion, StatementAcks, Status, Written,
};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{Action, GrantRefusal};
use quorate_engine::authz::identity::{AccountPayload, account_id};
use quorate_engine::custody::protocol::ChainId;
use quorate_engine::home::command::ServiceChange;
use quorate_engine::home::rows::ServiceRow;
use quorate_engine::types::{AccountId, ChatId, MessageId, NodeId, Outcome, PublicKey, Revision};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Longest an operation is tried, in milliseconds.
pub const OPERATION_MS_MAX: u64 = 20_000;
/// Pause before an operation is tried again, in milliseconds.
const AGAIN_MS: u64 = 50;
/// Wait for another node's word about itself, in milliseconds.
const PEER_STATUS_MS: u64 = 700;
/// Wait for another node's word about a browser's session that it made, in milliseconds.
const SESSION_MS_MAX: u64 = 2_000;

/// A home on this node.
pub struct Home {
    pub(super) core: Arc<Core>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What home nodes ask each other.
#[derive(Serialize, Deserialize)]
enum Request {
    Op(Op),
    Node,
    Forget(ChainId),
    Session(TokenHash),
}

const TAG_OK: u8 = 0;
const TAG_NOT_LEADER: u8 = 1;
const TAG_NOT_DONE: u8 = 2;
const TAG_UNKNOWN: u8 = 3;
const TAG_ERROR: u8 = 4;

macro_rules! unpack {
    ($variant:ident) => {
        |done| match done {
            Done::$variant(at) => Some(at),
            _ => None,
        }
    };
}

impl Home {
    /// Starts a home node's tasks over its groups (shard 0 first) and a transport to peers.
    ///
    /// # Errors
    /// When there is no memory for leased keys.
    pub fn start(
        config: HomeConfig,
        groups: Vec<Arc<dyn ShardGroup>>,
        transport: Arc<dyn Transport>,
    ) -> std::io::Result<Arc<Self>> {
        let shards = (0..)
            .zip(groups)
            .map(|(number, group)| Shard::new(number, group));
        let (wants, waiting) = mpsc::channel(release::WANTS_MAX);
        let core = Arc::new(Core::new(config, shards.collect(), transport, wants)?);
        let mut tasks = vec![
            tokio::spawn(release::run(core.clone(), waiting)),
            tokio::spawn(journal::run(core.clone())),
            tokio::spawn(tasks::feeds(core.clone())),
            tokio::spawn(tasks::sweep_leases(core.clone())),
        ];
        for shard in &core.shards {
            tasks.push(tokio::spawn(tasks::lead(core.clone(), shard.clone())));
        }
        Ok(Arc::new(Self {
            core,
            tasks: Mutex::new(tasks),
        }))
    }

    /// Ends the tasks and wipes all leases. Call it before the groups stop.
    pub async fn shutdown(&self) {
        self.core.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            let _ = task.await;
        }
        self.core.leases.remove_if(|_| true);
    }

    /// One part of a disclosure order's result, not yet signed. Custodians release the keys under
    /// the order or not at all; whoever calls this only carries the paper.
    ///
    /// # Errors
    /// [`HomeError`]; of a part that is not whole, nothing is given out.
    pub async fn disclose(&self, request: ExecuteOrder) -> HomeResult<Part> {
        self.run(Op::Disclose(request), |done| match done {
            Done::Disclosed(at) => Some(at),
            _ => None,
        })
        .await
    }

    /// Enrols or ends a service credential in every shard. What was done of it stays when it
    /// fails; repeating it does the rest.
    ///
    /// # Errors
    /// [`HomeError`].
    pub async fn change_service(&self, change: ServiceChange) -> Result<(), HomeError> {
        let shards = u32::try_from(self.core.shards.len()).unwrap_or(u32::MAX);
        let done =
            (0..shards).map(|shard| self.run(Op::Service(shard, change.clone()), unpack!(Changed)));
        // One that cannot be reached must not keep the others from ending it.
        let done = futures::future::join_all(done).await;
        done.into_iter().try_for_each(|done| done.map(drop))
    }

    /// The service credentials, ended ones too.
    ///
    /// # Errors
    /// [`HomeError`].
    pub async fn services(&self) -> HomeResult<Vec<ServiceRow>> {
        self.run(Op::Services(0), unpack!(Services)).await
    }

    /// Tries an operation here and at whoever leads, until it is done, refused or too late.
    async fn run<T: DeserializeOwned>(
        &self,
        op: Op,
        unpack: fn(Done) -> Option<At<T>>,
    ) -> HomeResult<T> {
        let core = &self.core;
        let deadline = core.clock.mono() + OPERATION_MS_MAX;
        let shard = core.shards.get(op.shard(core) as usize);
        let Some(shard) = shard else {
            return Err(HomeError::Invalid {
                detail: format!("there is no shard {}", op.shard(core)),
            });
        };
        let mut unknown = false;
        let mut hint = None;
        loop {
            let leading = shard.leading();
            let fail = match (leading.here, leading.leader.or(hint)) {
                (true, _) => match local::perform(core, op.clone()).await {
                    Ok(done) => match unpack(done) {
                        Some(at) => return Ok(at),
                        None => Fail::NotDone("an operation gave another's result".into()),
                    },
                    Err(e) => e,
                },
                (false, Some(node)) if node != core.config.node => {
                    match self.ask_leader(node, &op, deadline).await {
                        Ok(at) => return Ok(at),
                        Err(e) => e,
                    }
                }
                _ => Fail::NotDone("the shard has no leader now".into()),
            };
            let why = match fail {
                Fail::Home(e) => return Err(colour(e, unknown)),
                Fail::NotLeader(leader) => {
                    hint = leader.filter(|l| *l != core.config.node);
                    "the shard's leader is changing".to_owned()
                }
                Fail::NotDone(why) => why,
                Fail::Unknown(why) => {
                    unknown |= op.writes();
                    why
                }
            };
            if core.clock.mono() + AGAIN_MS >= deadline {
                return Err(HomeError::Unavailable {
                    detail: why,
                    retry_ms: RETRY_MS,
                    outcome: if unknown {
                        Outcome::Unknown
                    } else {
                        Outcome::NotDone
                    },
                });
            }
            tokio::select! {
                () = shard.changed(leading) => {}
                () = tokio::time::sleep(Duration::from_millis(AGAIN_MS)) => {}
            }
        }
    }

    async fn ask_leader<T: DeserializeOwned>(
        &self,
        node: NodeId,
        op: &Op,
        deadline: u64,
    ) -> Result<At<T>, Fail> {
        let body = serde_json::to_vec(&Request::Op(op.clone()))
            .map_err(|e| Fail::NotDone(e.to_string()))?;
        let left = deadline.saturating_sub(self.core.clock.mono()).max(1);
        let answer = self.call(node, body, left).await.map_err(|e| {
            if e.nothing_was_done() {
                Fail::NotDone(e.to_string())
            } else {
                Fail::Unknown(e.to_string())
            }
        })?;
        let (tag, rest) = answer
            .split_first()
            .ok_or_else(|| Fail::Unknown("the leader's answer is empty".into()))?;
        let garbled = |e: serde_json::Error| Fail::Unknown(format!("the leader's answer: {e}"));
        match *tag {
            TAG_OK => serde_json::from_slice(rest).map_err(garbled),
            TAG_NOT_LEADER => {
                let leader: Option<NodeId> = serde_json::from_slice(rest).map_err(garbled)?;
                Err(Fail::NotLeader(leader))
            }
            TAG_NOT_DONE => Err(Fail::NotDone(String::from_utf8_lossy(rest).into_owned())),
            TAG_ERROR => {
                let error: HomeError = serde_json::from_slice(rest).map_err(garbled)?;
                Err(Fail::Home(error))
            }
            _ => Err(Fail::Unknown(String::from_utf8_lossy(rest).into_owned())),
        }
    }

    async fn call(&self, node: NodeId, body: Vec<u8>, wait_ms: u64) -> Result<Vec<u8>, CallError> {
        let target = PeerTarget {
            role: ClusterRole::Home,
            cluster: self.core.config.home.to_string(),
            node,
        };
        let wait = Duration::from_millis(wait_ms);
        self.core
            .custodians
            .transport()
            .call(&target, services::HOME, body, wait)
            .await
    }

    /// Lets a caller in that wants nothing of a chat.
    async fn admitted(&self, caller: &Caller) -> Result<Admitted, HomeError> {
        let admitted = admission::admit(&self.core, caller, Action::Read, None).await;
        admitted.map_err(not_admitted)
    }

    /// Every node of this home forgets what it remembers of an account, so that a revocation is
    /// obeyed when its caller is told of it. A node that cannot be told forgets by itself within
    /// [`STANDING_MS`](super::directory::STANDING_MS), which is waited for.
    async fn forget_everywhere(&self, chain: ChainId) {
        let core = &self.core;
        core.directory.forget(&chain);
        let Ok(body) = serde_json::to_vec(&Request::Forget(chain)) else {
            return;
        };
        let others = core.config.nodes.iter().filter(|n| **n != core.config.node);
        let told = others.map(|n| self.call(*n, body.clone(), PEER_STATUS_MS));
        let answers = futures::future::join_all(told).await;
        if answers.iter().any(Result::is_err) {
            tokio::time::sleep(Duration::from_millis(super::directory::STANDING_MS)).await;
        }
    }

    /// What another node of this home says about itself.
    pub(super) async fn node_status(&self, node: NodeId) -> Option<status::NodeWord> {
        if node == self.core.config.node {
            return Some(status::own_word(&self.core));
        }
        let body = serde_json::to_vec(&Request::Node).ok()?;
        let answer = self.call(node, body, PEER_STATUS_MS).await.ok()?;
        serde_json::from_slice(answer.get(1..)?).ok()
    }
}

/// An earlier attempt may have been done: nothing later can say that it was not.
fn colour(e: HomeError, unknown: bool) -> HomeError {
    match e {
        HomeError::Quorum {
            detail, problem, ..
        } if unknown => HomeError::Quorum {
            detail,
            problem,
            outcome: Outcome::Unknown,
        },
        other => other,
    }
}

/// Why a caller was not let in, where no shard's leader is asked.
fn not_admitted(e: Fail) -> HomeError {
    match e {
        Fail::Home(e) => e,
        other => HomeError::Unavailable {
            detail: other.to_string(),
            retry_ms: RETRY_MS,
            outcome: Outcome::NotDone,
        },
    }
}

fn packed<T: Serialize>(tag: u8, value: &T) -> Result<Vec<u8>, ServiceError> {
    let mut out = vec![tag];
    serde_json::to_writer(&mut out, value).map_err(|e| ServiceError::Failed(e.to_string()))?;
    Ok(out)
}

fn worded(tag: u8, why: &str) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(why.as_bytes());
    out
}

impl Service for Home {
    fn call(
        &self,
        _from: PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        Box::pin(async move {
            let request: Request =
                serde_json::from_slice(&body).map_err(|e| ServiceError::Invalid(e.to_string()))?;
            let op = match request {
                Request::Node => return packed(TAG_OK, &status::own_word(&self.core)),
                Request::Forget(chain) => {
                    self.core.directory.forget(&chain);
                    return packed(TAG_OK, &());
                }
                Request::Session(hash) => {
                    let core = &self.core;
                    return packed(TAG_OK, &core.browsers.grant(&hash, core.clock.wall()));
                }
                Request::Op(op) => op,
            };
            match local::perform(&self.core, op).await {
                Ok(Done::Chat(at)) => packed(TAG_OK, &at),
                Ok(Done::Chats(at)) => packed(TAG_OK, &at),
                Ok(Done::Appended(at)) => packed(TAG_OK, &at),
                Ok(Done::Written(at)) => packed(TAG_OK, &at),
                Ok(Done::Message(at)) => packed(TAG_OK, &at),
                Ok(Done::Page(at)) => packed(TAG_OK, &at),
                Ok(Done::Statement(at)) => packed(TAG_OK, &at),
                Ok(Done::Members(at)) => packed(TAG_OK, &at),
                Ok(Done::Head(at)) => packed(TAG_OK, &at),
                Ok(Done::Disclosed(at)) => packed(TAG_OK, &at),
                Ok(Done::Deletion(at)) => packed(TAG_OK, &at),
                Ok(Done::Changed(at)) => packed(TAG_OK, &at),
                Ok(Done::Services(at)) => packed(TAG_OK, &at),
                Err(Fail::NotLeader(leader)) => packed(TAG_NOT_LEADER, &leader),
                Err(Fail::NotDone(why)) => Ok(worded(TAG_NOT_DONE, &why)),
                Err(Fail::Unknown(why)) => Ok(worded(TAG_UNKNOWN, &why)),
                Err(Fail::Home(e)) => packed(TAG_ERROR, &e),
            }
        })
    }
}

impl HomeApi for Home {
    fn create_chat(&self, caller: Caller, request: CreateChat) -> BoxFuture<'_, HomeResult<Chat>> {
        Box::pin(self.run(Op::CreateChat(caller, request), unpack!(Chat)))
    }

    fn list_chats(
        &self,
        caller: Caller,
        after: Option<ChatId>,
        limit: usize,
        profile: bool,
    ) -> BoxFuture<'_, HomeResult<ChatList>> {
        Box::pin(async move {
            let shards = u32::try_from(self.core.shards.len()).unwrap_or(u32::MAX);
            let first = after.as_ref().map_or(0, |id| shard_of(id, shards));
            let mut out = At {
                shard: first,
                index: 0,
                value: ChatList {
                    chats: Vec::new(),
                    next: None,
                },
            };
            for shard in first..shards {
                let left = limit.saturating_sub(out.value.chats.len());
                if left == 0 {
                    break;
                }
                let op = Op::ListChats {
                    caller: caller.clone(),
                    shard,
                    after: after.filter(|_| shard == first),
                    limit: left,
                    profile,
                };
                let more = self.run(op, unpack!(Chats)).await?;
                (out.shard, out.index) = (more.shard, more.index);
                out.value.chats.extend(more.value);
            }
            if out.value.chats.len() >= limit {
                out.value.next = out.value.chats.last().map(|c| c.id.clone());
            }
            Ok(out)
        })
    }

    fn chat(&self, caller: Caller, chat: ChatId, profile: bool) -> BoxFuture<'_, HomeResult<Chat>> {
        Box::pin(self.run(Op::Chat(caller, chat, profile), unpack!(Chat)))
    }

    fn append(
        &self,
        caller: Caller,
        chat: ChatId,
        request: Append,
    ) -> BoxFuture<'_, HomeResult<Appended>> {
        Box::pin(self.run(Op::Append(caller, chat, request), unpack!(Appended)))
    }

    fn edit(
        &self,
        caller: Caller,
        chat: ChatId,
        message: MessageId,
        revision: Revision,
        request: Edit,
    ) -> BoxFuture<'_, HomeResult<Written>> {
        let op = Op::Edit(caller, chat, message, revision, request);
        Box::pin(self.run(op, unpack!(Written)))
    }

    fn message(
        &self,
        caller: Caller,
        chat: ChatId,
        message: MessageId,
    ) -> BoxFuture<'_, HomeResult<Message>> {
        Box::pin(self.run(Op::Message(caller, chat, message), unpack!(Message)))
    }

    fn page(
        &self,
        caller: Caller,
        chat: ChatId,
        from: MessageId,
        limit: usize,
    ) -> BoxFuture<'_, HomeResult<Page>> {
        Box::pin(self.run(Op::Page(caller, chat, from, limit), unpack!(Page)))
    }

    fn chat_statement(
        &self,
        caller: Caller,
        chat: ChatId,
        statement: Statement,
    ) -> BoxFuture<'_, HomeResult<StatementAcks>> {
        let op = Op::Statement(caller, chat, statement);
        Box::pin(self.run(op, unpack!(Statement)))
    }

    fn delete(
        &self,
        caller: Caller,
        chat: ChatId,
        request: PostDeletion,
    ) -> BoxFuture<'_, HomeResult<Deletion>> {
        let op = Op::Delete(caller, chat, request);
        Box::pin(self.run(op, unpack!(Deletion)))
    }

    fn account_statement(
        &self,
        caller: Caller,
        account: AccountId,
        statement: Statement,
    ) -> BoxFuture<'_, Result<StatementAcks, HomeError>> {
        Box::pin(async move {
            let core = &self.core;
            self.admitted(&caller).await?;
            let statement = Envelope::from(&statement);
            let about = match statement.read("account statement") {
                Ok(AccountPayload::Genesis(_)) => Ok(account_id(&statement)),
                Ok(AccountPayload::Statement(s)) => Ok(s.account),
                Err(e) => Err(format!("the statement: {e}")),
            };
            let wrong = about
                .map(|a| (a != account).then(|| format!("the statement is about account {a}")));
            if let Some(detail) = wrong.unwrap_or_else(Some) {
                return Err(HomeError::Invalid { detail });
            }
            let chain = ChainId::Account(account);
            let said = statements::tell(core, chain, &statement).await;
            self.forget_everywhere(chain).await;
            Ok(said.shown())
        })
    }

    fn account_chain(
        &self,
        caller: Caller,
        account: AccountId,
        from: u64,
    ) -> BoxFuture<'_, Result<AccountChain, HomeError>> {
        Box::pin(async move {
            let who = self.admitted(&caller).await?;
            // Others' devices and authorities are nobody else's business.
            if who.account() != account {
                let why = GrantRefusal::DeviceUnknown;
                return Err(HomeError::Denied {
                    why,
                    detail: format!("the grant is of another account than {account}"),
                });
            }
            statements::account_chain(&self.core, account, from).await
        })
    }

    fn members(
        &self,
        caller: Caller,
        chat: ChatId,
        after: Option<AccountId>,
        limit: usize,
    ) -> BoxFuture<'_, HomeResult<Members>> {
        Box::pin(self.run(Op::Members(caller, chat, after, limit), unpack!(Members)))
    }

    fn head(
        &self,
        caller: Caller,
        chat: ChatId,
        invite: Option<PublicKey>,
    ) -> BoxFuture<'_, HomeResult<ChatHead>> {
        Box::pin(self.run(Op::Head(caller, chat, invite), unpack!(Head)))
    }

    fn open_session(&self, caller: Caller) -> BoxFuture<'_, Result<Session, HomeError>> {
        Box::pin(async move {
            let core = &self.core;
            let who = self.admitted(&caller).await?;
            let made = core
                .browsers
                .open(core.config.node, who.grant(), core.clock.wall());
            made.ok_or_else(|| HomeError::Unavailable {
                detail: "as many sessions of browsers as this node keeps".into(),
                retry_ms: RETRY_MS,
                outcome: Outcome::NotDone,
            })
        })
    }

    fn session(&self, token: String) -> BoxFuture<'_, Option<String>> {
        Box::pin(async move {
            let core = &self.core;
            let (node, hash) = place_of(&token)?;
            if node == core.config.node {
                return core.browsers.grant(&hash, core.clock.wall());
            }
            if !core.config.nodes.contains(&node) {
                return None;
            }
            let body = serde_json::to_vec(&Request::Session(hash)).ok()?;
            let answer = self.call(node, body, SESSION_MS_MAX).await.ok()?;
            serde_json::from_slice(answer.get(1..)?).ok()?
        })
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(status::status(self))
    }
}
