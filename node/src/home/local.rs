//! What a shard's leader does itself, one operation each.

use super::admission::{self, Admitted, Author};
use super::api::{At, Caller, HomeError};
use super::core::{Core, Fail};
use super::directory::Who;
use super::shard::Shard;
use super::{deletions, disclose, reader, shard, statements, writer};
use crate::mutants::mutant;
use quorate_engine::api::disclosure::{ExecuteOrder, Part};
use quorate_engine::api::registry::Statement;
use quorate_engine::api::{
    Append, Appended, Chat, ChatHead, CreateChat, Deletion, Edit, Member, Members, Message, Page,
    PostDeletion, StatementAcks, Written,
};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::grant::{Action, decide_key};
use quorate_engine::authz::membership::{self, ChatGenesis, ChatPayload};
use quorate_engine::authz::standing::{MemberStanding, Role};
use quorate_engine::custody::protocol::{ChainId, StatementRefused};
use quorate_engine::home::command::{ChatStatement, Reply, ServiceChange};
use quorate_engine::home::rows::{ChatRow, ServiceRow};
use quorate_engine::home::{Command, read};
use quorate_engine::types::{AccountId, ChatId, MessageId, PublicKey, Revision};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Marks idempotency keys that are not a client's: clients' are printable.
const PROFILE_KEY: &str = "\u{1}profile/";

/// One operation as it travels from the node it arrived at to the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Op {
    /// `create_chat`
    CreateChat(Caller, CreateChat),
    /// The account's chats in one shard.
    ListChats {
        /// Who asks.
        caller: Caller,
        /// The shard.
        shard: u32,
        /// Only greater ids.
        after: Option<ChatId>,
        /// Most of them.
        limit: usize,
        /// With profiles.
        profile: bool,
    },
    /// `chat`
    Chat(Caller, ChatId, bool),
    /// `append`
    Append(Caller, ChatId, Append),
    /// `edit`
    Edit(Caller, ChatId, MessageId, Revision, Edit),
    /// `message`
    Message(Caller, ChatId, MessageId),
    /// `page`
    Page(Caller, ChatId, MessageId, usize),
    /// `chat_statement`
    Statement(Caller, ChatId, Statement),
    /// `members`
    Members(Caller, ChatId, Option<AccountId>, usize),
    /// `head`
    Head(Caller, ChatId, Option<PublicKey>),
    /// A part of a disclosure order's result.
    Disclose(ExecuteOrder),
    /// `delete`
    Delete(Caller, ChatId, PostDeletion),
    /// A change of service credentials in one shard.
    Service(u32, ServiceChange),
    /// The service credentials, as a shard has them.
    Services(u32),
}

/// What an operation gives.
pub enum Done {
    /// To `CreateChat`, `Chat`.
    Chat(At<Chat>),
    /// To `ListChats`.
    Chats(At<Vec<Chat>>),
    /// To `Append`.
    Appended(At<Appended>),
    /// To `Edit`.
    Written(At<Written>),
    /// To `Message`.
    Message(At<Message>),
    /// To `Page`.
    Page(At<Page>),
    /// To `Statement`.
    Statement(At<StatementAcks>),
    /// To `Members`.
    Members(At<Members>),
    /// To `Head`.
    Head(At<ChatHead>),
    /// To `Disclose`.
    Disclosed(At<Part>),
    /// To `Delete`.
    Deletion(At<Deletion>),
    /// To `Service`.
    Changed(At<()>),
    /// To `Services`.
    Services(At<Vec<ServiceRow>>),
}

impl Op {
    /// The shard whose leader does it.
    pub fn shard(&self, core: &Core) -> u32 {
        let shards = u32::try_from(core.shards.len()).unwrap_or(u32::MAX);
        let chat = match self {
            Op::CreateChat(_, request) => &chat_id(&request.genesis),
            Op::ListChats { shard, .. } | Op::Service(shard, _) | Op::Services(shard) => {
                return *shard;
            }
            Op::Disclose(request) => match &request.chat {
                Some(chat) => chat,
                None => return 0,
            },
            Op::Chat(_, chat, _)
            | Op::Append(_, chat, _)
            | Op::Edit(_, chat, ..)
            | Op::Message(_, chat, _)
            | Op::Page(_, chat, ..)
            | Op::Statement(_, chat, _)
            | Op::Delete(_, chat, _)
            | Op::Members(_, chat, ..)
            | Op::Head(_, chat, _) => chat,
        };
        shard::shard_of(chat, shards)
    }

    /// Whether repeating it can have an effect at all.
    pub fn writes(&self) -> bool {
        matches!(
            self,
            Op::CreateChat(..)
                | Op::Append(..)
                | Op::Edit(..)
                | Op::Statement(..)
                | Op::Delete(..)
                | Op::Service(..)
        )
    }
}

/// The id of the chat that a genesis makes.
fn chat_id(genesis: &Statement) -> ChatId {
    membership::chat_id(&Envelope::from(genesis))
}

/// Does an operation here, at the leader of its shard.
///
/// # Errors
/// [`Fail`]; [`Fail::NotLeader`] when this node does not lead it.
pub async fn perform(core: &Arc<Core>, op: Op) -> Result<Done, Fail> {
    let number = op.shard(core);
    let shard = core
        .shards
        .get(number as usize)
        .ok_or_else(|| Fail::NotDone(format!("there is no shard {number}")))?
        .clone();
    let leading = shard.leading();
    if !leading.here {
        return Err(Fail::NotLeader(leading.leader));
    }
    match op {
        Op::CreateChat(caller, request) => create_chat(core, number, caller, request)
            .await
            .map(Done::Chat),
        Op::ListChats {
            caller,
            after,
            limit,
            profile,
            ..
        } => {
            let index = shard.read_index().await?;
            let who = admission::admit(core, &caller, Action::Read, None).await?;
            let chats = list(&shard, &who, after, limit)?;
            let chats = if profile {
                with_profiles(core, &caller, &who, chats).await
            } else {
                chats
            };
            let chats = chats.into_iter().map(|(_, chat)| chat).collect();
            Ok(Done::Chats(at(number, index, chats)))
        }
        Op::Chat(caller, chat, profile) => {
            let index = shard.read_index().await?;
            let who = admission::admit(core, &caller, Action::Read, Some(chat)).await?;
            let chat = one_chat(core, &who, &chat, profile).await?;
            Ok(Done::Chat(at(number, index, chat)))
        }
        Op::Append(caller, chat, request) => {
            let append = writer::Append {
                who: admission::author(core, &shard, &caller, chat).await?,
                profile: false,
                messages: contents(request)?,
            };
            let (index, messages) = core.writers.append(core, chat, append).await?;
            let index = position(&shard, index).await?;
            Ok(Done::Appended(at(number, index, Appended { messages })))
        }
        Op::Edit(caller, chat, message, revision, request) => {
            let revision = match mutant("revision-ignored") {
                true => shard
                    .view(|kv| read::record(kv, &chat, message))?
                    .map_or(revision, |row| row.revision),
                false => revision,
            };
            let edit = writer::Edit {
                who: Author::Person(
                    admission::admit(core, &caller, Action::Write, Some(chat)).await?,
                ),
                idempotency: request.idempotency_key,
                message,
                revision,
                content: bytes(&request.content)?,
            };
            let (index, written) = writer::edit(core, chat, &edit).await?;
            let index = position(&shard, index).await?;
            Ok(Done::Written(at(number, index, written)))
        }
        Op::Message(caller, chat, id) => {
            let index = shard.read_index().await?;
            let who = admission::admit(core, &caller, Action::Read, Some(chat)).await?;
            let message = reader::message(core, &who, chat, id).await?;
            Ok(Done::Message(at(number, index, message)))
        }
        Op::Page(caller, chat, from, limit) => {
            let index = shard.read_index().await?;
            let who = admission::admit(core, &caller, Action::Read, Some(chat)).await?;
            let page = reader::page(core, &who, chat, from, limit).await?;
            let page = Page {
                messages: page.messages,
                next: page.next,
            };
            Ok(Done::Page(at(number, index, page)))
        }
        Op::Statement(caller, chat, statement) => {
            let (index, acks) = statement_on(core, &shard, &caller, chat, statement).await?;
            let index = position(&shard, index).await?;
            Ok(Done::Statement(at(number, index, acks)))
        }
        Op::Members(caller, chat, after, limit) => {
            let index = shard.read_index().await?;
            admission::admit(core, &caller, Action::Read, Some(chat)).await?;
            let members = members(&shard, &chat, after, limit)?;
            Ok(Done::Members(at(number, index, members)))
        }
        Op::Delete(caller, chat, request) => {
            let (index, deletion) = deletions::record(core, &shard, &caller, chat, request).await?;
            Ok(Done::Deletion(at(number, index, deletion)))
        }
        Op::Head(caller, chat, invite) => {
            let index = shard.read_index().await?;
            let who = admission::admit(core, &caller, Action::Read, None).await?;
            let head = head(core, &shard, &who, &chat, invite)?;
            Ok(Done::Head(at(number, index, head)))
        }
        // No grant: custodians release under the order or not at all.
        Op::Disclose(request) => {
            let index = shard.read_index().await?;
            let part = match request.chat {
                Some(chat) => disclose::part(core, &shard, &request, chat).await?,
                None => disclose::listing(core, &request).await?,
            };
            Ok(Done::Disclosed(at(number, index, part)))
        }
        Op::Service(_, change) => {
            let index = change_service(core, &shard, change).await?;
            Ok(Done::Changed(at(number, index, ())))
        }
        Op::Services(_) => {
            let index = shard.read_index().await?;
            let rows = shard.view(|kv| read::services(kv))?;
            Ok(Done::Services(at(number, index, rows)))
        }
    }
}

async fn change_service(core: &Core, shard: &Shard, change: ServiceChange) -> Result<u64, Fail> {
    let (index, reply) = shard
        .propose(core.clock.wall(), Command::Service(change))
        .await?;
    match reply {
        Reply::Done => Ok(index),
        Reply::Invalid { reason } => Err(invalid(reason)),
        Reply::NotFound => {
            let what = "this service credential was".to_owned();
            Err(Fail::Home(HomeError::NotFound { what }))
        }
        other => Err(Fail::NotDone(format!(
            "the shard refused the service credential: {other:?}"
        ))),
    }
}

/// The index a write was committed at; a repetition is true as of now.
async fn position(shard: &Shard, index: u64) -> Result<u64, Fail> {
    if index == 0 {
        Ok(shard.read_index().await?)
    } else {
        Ok(index)
    }
}

fn at<T>(shard: u32, index: u64, value: T) -> At<T> {
    At {
        shard,
        index,
        value,
    }
}

fn bytes(content: &quorate_engine::api::Content) -> Result<Arc<[u8]>, Fail> {
    let bytes = serde_json::to_vec(content).map_err(|e| invalid(e.to_string()))?;
    if bytes.len() > quorate_engine::api::CONTENT_BYTES_MAX {
        let max = quorate_engine::api::CONTENT_BYTES_MAX;
        return Err(invalid(format!(
            "a content of {} bytes; at most {max}",
            bytes.len()
        )));
    }
    Ok(bytes.into())
}

fn invalid(detail: String) -> Fail {
    Fail::Home(HomeError::Invalid { detail })
}

fn contents(request: Append) -> Result<Vec<(String, Arc<[u8]>)>, Fail> {
    let max = quorate_engine::api::MESSAGES_PER_CALL_MAX;
    if request.messages.is_empty() || request.messages.len() > max {
        return Err(invalid(format!(
            "{} messages; 1 to {max} are allowed",
            request.messages.len()
        )));
    }
    let mut keys = BTreeSet::new();
    let mut out = Vec::with_capacity(request.messages.len());
    for m in request.messages {
        if !keys.insert(m.idempotency_key.clone()) {
            return Err(invalid(format!(
                "idempotency key {:?} stands twice",
                m.idempotency_key
            )));
        }
        out.push((m.idempotency_key, bytes(&m.content)?));
    }
    Ok(out)
}

async fn create_chat(
    core: &Arc<Core>,
    number: u32,
    caller: Caller,
    request: CreateChat,
) -> Result<At<Chat>, Fail> {
    let statement = Envelope::from(&request.genesis);
    let id = membership::chat_id(&statement);
    let shard = core.shard(&id).clone();
    let profile = bytes(&request.profile)?;
    let creator = admission::admit(core, &caller, Action::Write, None).await?;
    may_found(core, &creator, &id, &statement)?;
    if shard.view(|kv| read::chat(kv, &id))?.is_none() {
        found(core, &shard, id, &creator, statement).await?;
    }
    let who = admission::admit(core, &caller, Action::Write, Some(id)).await?;
    let append = writer::Append {
        who: Author::Person(who.clone()),
        profile: true,
        messages: vec![(format!("{PROFILE_KEY}{}", request.idempotency_key), profile)],
    };
    let (written, _) = core.writers.append(core, id, append).await?;
    let mut chat = one_chat(core, &who, &id, false).await?;
    chat.profile = Some(request.profile);
    Ok(At {
        shard: number,
        index: position(&shard, written).await?,
        value: chat,
    })
}

/// Whether the caller signed the genesis itself, and its grant covers the chat's first epoch.
fn may_found(
    core: &Core,
    who: &Admitted,
    id: &ChatId,
    statement: &Envelope,
) -> Result<ChatGenesis, Fail> {
    let genesis = match statement.read("genesis of a chat") {
        Ok(ChatPayload::Genesis(genesis)) => genesis,
        Ok(ChatPayload::Statement(_)) => {
            return Err(invalid("the genesis is a later statement of a chat".into()));
        }
        Err(e) => return Err(invalid(format!("the genesis: {e}"))),
    };
    if genesis.deployment != core.config.deployment {
        let of = genesis.deployment;
        return Err(invalid(format!("the genesis is for deployment {of}")));
    }
    let by = (genesis.creator, genesis.device);
    if by != (who.account(), *who.grant().device()) {
        let detail = "the genesis is signed by another device than the grant";
        return Err(invalid(detail.into()));
    }
    let creator = MemberStanding::Member {
        role: Role::Creator,
        from_epoch: 0,
    };
    decide_key(who.grant(), creator, id, 0).map_err(admission::denied)?;
    Ok(genesis)
}

/// The custodians come first: of a chat they do not know, no grant opens anything.
async fn found(
    core: &Arc<Core>,
    shard: &Shard,
    id: ChatId,
    who: &Admitted,
    statement: Envelope,
) -> Result<(), Fail> {
    let said = statements::tell(core, ChainId::Chat(id), &statement).await;
    let took = said.took();
    if !core.config.policy.satisfied_by(&took) {
        return Err(match said.refused.values().next() {
            Some(why) => refused(why),
            None => Fail::Home(core.too_few(took, said.silent)),
        });
    }
    let created = Command::CreateChat(ChatStatement {
        deployment: core.config.deployment,
        statement,
        account: who.account(),
        device: who.public(),
    });
    match shard.propose(core.clock.wall(), created).await?.1 {
        Reply::Chat { .. } => Ok(()),
        Reply::Refused(why) => Err(refused(&why)),
        other => Err(Fail::NotDone(format!(
            "the shard refused the chat: {other:?}"
        ))),
    }
}

fn refused(why: &StatementRefused) -> Fail {
    Fail::Home(HomeError::Statement {
        code: why.code.clone(),
        reason: why.reason.clone(),
    })
}

/// Numbers a statement here, then passes it on.
async fn statement_on(
    core: &Arc<Core>,
    shard: &Shard,
    caller: &Caller,
    chat: ChatId,
    statement: Statement,
) -> Result<(u64, StatementAcks), Fail> {
    // A newcomer who joins is no member yet: the device is proven, the statement proves the rest.
    admission::admit(core, caller, Action::Read, None).await?;
    let statement = Envelope::from(&statement);
    let s = match statement.read("chat statement") {
        Ok(ChatPayload::Statement(s)) if s.chat == chat => s,
        Ok(ChatPayload::Statement(s)) => {
            return Err(invalid(format!("the statement is about chat {}", s.chat)));
        }
        Ok(ChatPayload::Genesis(_)) => {
            return Err(invalid(
                "a genesis comes with the chat, at /v1/chats".into(),
            ));
        }
        Err(e) => return Err(invalid(format!("the statement: {e}"))),
    };
    let mut settled = core.chains.lock(&chat).await;
    let head = shard.view(|kv| read::chat(kv, &chat))?.map(|r| r.head.head);
    let head = head.ok_or_else(|| not_found(&chat))?;
    // Only one statement at a time may turn out to stand nowhere.
    if s.number > head.number {
        statements::settle(core, shard, &chat, &mut settled).await?;
    }
    // What custodians say of the signer now: a stale word would number what they then refuse.
    core.directory.forget(&ChainId::Account(s.account));
    let signer = Who {
        account: s.account,
        device: s.device,
        chat: None,
    };
    let signer = core.directory.standing(core, signer).await?;
    let command = Command::ChatStatement(ChatStatement {
        deployment: core.config.deployment,
        statement: statement.clone(),
        account: s.account,
        device: PublicKey(signer.public),
    });
    let (index, reply) = shard.propose(core.clock.wall(), command).await?;
    let (hash, repeated) = match reply {
        Reply::Chained { hash, repeated, .. } => (hash, repeated),
        Reply::Refused(why) => return Err(refused(&why)),
        Reply::NotFound => return Err(not_found(&chat)),
        other => {
            return Err(Fail::NotDone(format!(
                "the shard refused the statement: {other:?}"
            )));
        }
    };
    let said = statements::tell(core, ChainId::Chat(chat), &statement).await;
    if !repeated || s.number == head.number {
        statements::conclude(core, shard, &chat, s.number, hash, &said, &mut settled).await?;
    }
    match said.refused_by_all() {
        Some(why) => Err(refused(why)),
        None => Ok((index, said.shown())),
    }
}

fn members(
    shard: &Shard,
    chat: &ChatId,
    after: Option<AccountId>,
    limit: usize,
) -> Result<Members, Fail> {
    let (row, rows) = shard.view(|kv| {
        let rows = read::members(kv, chat, after.as_ref(), limit)?;
        Ok((read::chat(kv, chat)?, rows))
    })?;
    let head = row.ok_or_else(|| not_found(chat))?.head.head;
    let next = (rows.len() == limit)
        .then(|| rows.last().map(|(account, _)| account.to_string()))
        .flatten();
    let member = |(account, row): (AccountId, membership::Member)| Member {
        account: account.to_string(),
        role: match row.role {
            Role::Creator => "creator",
            Role::Admin => "admin",
            Role::Member => "member",
        }
        .to_owned(),
        from_epoch: row.from_epoch,
    };
    Ok(Members {
        number: head.number,
        hash: head.hash.to_string(),
        members: rows.into_iter().map(member).collect(),
        next,
    })
}

/// Where the next statement goes. Told to members, to whoever may join a public chat, and to
/// whoever has an invite that counts; to others the chat is not there.
fn head(
    core: &Core,
    shard: &Shard,
    who: &Admitted,
    chat: &ChatId,
    invite: Option<PublicKey>,
) -> Result<ChatHead, Fail> {
    let (row, member, invite) = shard.view(|kv| {
        let invite = match &invite {
            Some(key) => read::invite(kv, chat, key)?,
            None => None,
        };
        let member = read::member(kv, chat, &who.account())?;
        Ok((read::chat(kv, chat)?, member, invite))
    })?;
    let counts = invite.is_some_and(|i| core.clock.wall() < i.expires_ms);
    let told = row.filter(|row| member.is_some() || row.head.public || counts);
    let head = told.ok_or_else(|| {
        let what = format!("chat {chat}, or an invite to it that counts,");
        Fail::Home(HomeError::NotFound { what })
    })?;
    Ok(ChatHead {
        number: head.head.head.number,
        hash: head.head.head.hash.to_string(),
    })
}

fn not_found(chat: &ChatId) -> Fail {
    let what = format!("chat {chat}");
    Fail::Home(HomeError::NotFound { what })
}

async fn one_chat(
    core: &Arc<Core>,
    who: &Admitted,
    id: &ChatId,
    profile: bool,
) -> Result<Chat, Fail> {
    let row = core
        .shard(id)
        .view(|kv| read::chat(kv, id))?
        .filter(|r| r.next > 0)
        .ok_or_else(|| not_found(id))?;
    let mut chat = shown(id, &row);
    if profile {
        chat.profile = Some(reader::message(core, who, *id, 0).await?.content);
    }
    Ok(chat)
}

fn shown(id: &ChatId, row: &ChatRow) -> Chat {
    Chat {
        id: id.to_string(),
        created_ms: row.created_ms,
        messages: row.next.saturating_sub(1),
        epochs: row.last.map_or(0, |(epoch, _)| epoch.saturating_add(1)),
        thin: row.open.as_ref().is_some_and(|o| o.thin),
        profile: None,
    }
}

fn list(
    shard: &Shard,
    who: &Admitted,
    after: Option<ChatId>,
    limit: usize,
) -> Result<Vec<(ChatId, Chat)>, Fail> {
    let account = who.account();
    let mut chats = Vec::new();
    let mut after = after;
    // Chats whose profile is not written yet are passed over.
    while chats.len() < limit {
        let step = limit - chats.len();
        let more = shard.view(|kv| read::chats_of(kv, &account, after.as_ref(), step))?;
        let ended = more.len() < step;
        after = more.last().map(|(id, _)| *id).or(after);
        let written = more.iter().filter(|(_, row)| row.next > 0);
        chats.extend(written.map(|(id, row)| (*id, shown(id, row))));
        if ended {
            break;
        }
    }
    Ok(chats)
}

/// Adds the profiles that the grant covers and that can be opened.
async fn with_profiles(
    core: &Arc<Core>,
    caller: &Caller,
    who: &Admitted,
    chats: Vec<(ChatId, Chat)>,
) -> Vec<(ChatId, Chat)> {
    let granted = chats.iter().map(|(id, _)| *id);
    let granted: Vec<ChatId> = granted
        .filter(|id| admission::names(who.grant(), id).is_ok())
        .collect();
    let device = *who.grant().device();
    core.directory
        .warm(core, who.account(), device, &granted)
        .await;
    let opened = chats.into_iter().map(|(id, mut chat)| async move {
        let who = admission::admit(core, caller, Action::Read, Some(id)).await;
        if let Ok(who) = who
            && let Ok(message) = reader::message(core, &who, id, 0).await
        {
            chat.profile = Some(message.content);
        }
        (id, chat)
    });
    futures::future::join_all(opened).await
}
