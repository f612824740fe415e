//! What a shard's leader does itself, one operation each.

use super::api::{At, Caller, HomeError};
use super::core::{Core, Fail};
use super::writer;
use super::{reader, shard};
use quorate_engine::api::{Append, Appended, Chat, CreateChat, Edit, Message, Page, Written};
use quorate_engine::home::command::{Genesis, Reply};
use quorate_engine::home::rows::ChatRow;
use quorate_engine::home::{Command, read};
use quorate_engine::types::{ChatId, MessageId, Revision};
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
    /// Chats of one shard.
    ListChats {
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
    Chat(ChatId, bool),
    /// `append`
    Append(Caller, ChatId, Append),
    /// `edit`
    Edit(Caller, ChatId, MessageId, Revision, Edit),
    /// `message`
    Message(ChatId, MessageId),
    /// `page`
    Page(ChatId, MessageId, usize),
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
}

impl Op {
    /// The shard whose leader does it.
    pub fn shard(&self, core: &Core) -> u32 {
        let shards = u32::try_from(core.shards.len()).unwrap_or(u32::MAX);
        let chat = match self {
            Op::CreateChat(caller, request) => &genesis(core, caller, request).chat(),
            Op::ListChats { shard, .. } => return *shard,
            Op::Chat(chat, _)
            | Op::Append(_, chat, _)
            | Op::Edit(_, chat, ..)
            | Op::Message(chat, _)
            | Op::Page(chat, ..) => chat,
        };
        shard::shard_of(chat, shards)
    }

    /// Whether repeating it can have an effect at all.
    pub fn writes(&self) -> bool {
        matches!(self, Op::CreateChat(..) | Op::Append(..) | Op::Edit(..))
    }
}

fn genesis(core: &Core, caller: &Caller, request: &CreateChat) -> Genesis {
    Genesis {
        deployment: core.config.deployment,
        home: core.config.home.clone(),
        device: caller.device.clone(),
        nonce: request.idempotency_key.clone(),
    }
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
            after,
            limit,
            profile,
            ..
        } => {
            let index = shard.read_index().await?;
            let chats = list(core, &shard, after, limit, profile).await?;
            Ok(Done::Chats(at(number, index, chats)))
        }
        Op::Chat(chat, profile) => {
            let index = shard.read_index().await?;
            let chat = one_chat(core, &chat, profile).await?;
            Ok(Done::Chat(at(number, index, chat)))
        }
        Op::Append(caller, chat, request) => {
            let append = writer::Append {
                device: caller.device,
                profile: false,
                messages: contents(request)?,
            };
            let (index, messages) = core.writers.append(core, chat, append).await?;
            let index = if index == 0 {
                shard.read_index().await?
            } else {
                index
            };
            Ok(Done::Appended(at(number, index, Appended { messages })))
        }
        Op::Edit(caller, chat, message, revision, request) => {
            let edit = writer::Edit {
                device: caller.device,
                idempotency: request.idempotency_key,
                message,
                revision,
                content: bytes(&request.content)?,
            };
            let (index, written) = writer::edit(core, chat, &edit).await?;
            let index = if index == 0 {
                shard.read_index().await?
            } else {
                index
            };
            Ok(Done::Written(at(number, index, written)))
        }
        Op::Message(chat, id) => {
            let index = shard.read_index().await?;
            let message = reader::message(core, chat, id).await?;
            Ok(Done::Message(at(number, index, message)))
        }
        Op::Page(chat, from, limit) => {
            let index = shard.read_index().await?;
            let page = reader::page(core, chat, from, limit).await?;
            let page = Page {
                messages: page.messages,
                next: page.next,
            };
            Ok(Done::Page(at(number, index, page)))
        }
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
    let genesis = genesis(core, &caller, &request);
    let id = genesis.chat();
    let shard = core.shard(&id).clone();
    let profile = bytes(&request.profile)?;
    let created = Command::CreateChat(genesis);
    let (index, reply) = shard.propose(core.clock.wall(), created).await?;
    match reply {
        Reply::Chat { .. } => {}
        Reply::Invalid { reason } => return Err(invalid(reason)),
        other => {
            return Err(Fail::NotDone(format!(
                "the shard refused the chat: {other:?}"
            )));
        }
    }
    let append = writer::Append {
        device: caller.device,
        profile: true,
        messages: vec![(format!("{PROFILE_KEY}{}", request.idempotency_key), profile)],
    };
    let (written, _) = core.writers.append(core, id, append).await?;
    let mut chat = one_chat(core, &id, false).await?;
    chat.profile = Some(request.profile);
    Ok(At {
        shard: number,
        index: index.max(written),
        value: chat,
    })
}

async fn one_chat(core: &Arc<Core>, id: &ChatId, profile: bool) -> Result<Chat, Fail> {
    let row = core
        .shard(id)
        .view(|kv| read::chat(kv, id))?
        .filter(|r| r.next > 0);
    let row = row.ok_or_else(|| {
        let what = format!("chat {id}");
        Fail::Home(HomeError::NotFound { what })
    })?;
    let mut chat = shown(id, &row);
    if profile {
        chat.profile = Some(reader::message(core, *id, 0).await?.content);
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

async fn list(
    core: &Arc<Core>,
    shard: &shard::Shard,
    after: Option<ChatId>,
    limit: usize,
    profile: bool,
) -> Result<Vec<Chat>, Fail> {
    let mut rows: Vec<(ChatId, ChatRow)> = Vec::new();
    let mut after = after;
    // Chats whose profile is not written yet are passed over.
    while rows.len() < limit {
        let step = limit - rows.len();
        let more = shard.view(|kv| read::chats(kv, after.as_ref(), step))?;
        let ended = more.len() < step;
        after = more.last().map(|(id, _)| *id).or(after);
        rows.extend(more.into_iter().filter(|(_, r)| r.next > 0));
        if ended {
            break;
        }
    }
    let mut profiles = if profile {
        reader::profiles(core, &rows).await
    } else {
        std::collections::BTreeMap::new()
    };
    let chats = rows.iter().map(|(id, row)| {
        let mut chat = shown(id, row);
        chat.profile = profiles.remove(id);
        chat
    });
    Ok(chats.collect())
}
