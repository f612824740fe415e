//! The client plane's calls, one function for each.

use super::{Call, Client, ClientError, malformed};
use crate::people::Wants;
use bytes::Bytes;
use hyper::Method;
use quorate_engine::api::registry::Statement;
use quorate_engine::api::{
    AccountChain, Appended, Chat, ChatHead, ChatList, Content, CreateChat, Deletion, Edit, Members,
    Message, NewMessage, Page, PostDeletion, PostStatement, StatementAcks, Status, Written,
};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::types::{AccountId, ChatId, PublicKey};
use std::fmt::Write as _;

/// A chat to be made.
#[derive(Clone, Debug)]
pub struct NewChat {
    /// 1 to 64 printable characters; repeating it gives the same chat.
    pub idempotency_key: String,
    /// Its profile.
    pub profile: Content,
    /// Anyone may join.
    pub public: bool,
    /// Somebody may repeat the key after this process: what it takes is written down first.
    pub keep: bool,
}

impl NewChat {
    /// By invitation, and its key is not repeated after this process.
    pub fn new(idempotency_key: String, profile: Content) -> Self {
        Self {
            idempotency_key,
            profile,
            public: false,
            keep: false,
        }
    }
}

fn id(chat: &str) -> Result<ChatId, ClientError> {
    chat.parse().map_err(|e| malformed("/v1/chats", &e))
}

impl Client {
    /// Makes a chat: `POST /v1/chats` with a genesis signed here. The same key gives the same chat.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_chat(&self, new: &NewChat) -> Result<Chat, ClientError> {
        let person = self.person.as_ref().ok_or(ClientError::NoWallet)?;
        let key = &new.idempotency_key;
        let mut again = true;
        loop {
            let genesis = person.genesis_for(key, new.public, new.keep);
            let (chat, genesis) = genesis.map_err(|e| ClientError::NotSent {
                detail: e.to_string(),
            })?;
            let request = CreateChat {
                idempotency_key: key.clone(),
                profile: new.profile.clone(),
                genesis: Statement::from(&genesis),
            };
            let wants = Wants::write(vec![chat]);
            let call = Call::new(Method::POST, "/v1/chats", Some(wants));
            match self.json(call.with(&request)?).await {
                // Nobody took it while it was fresh enough.
                Err(ClientError::Problem(p)) if again && p.code == "statement_untimely" => {
                    again = false;
                    person.forget_genesis(key);
                }
                other => return other,
            }
        }
    }

    /// `GET /v1/chats`, one page of the account's chats.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_chats(
        &self,
        after: Option<&str>,
        limit: usize,
        profile: bool,
    ) -> Result<ChatList, ClientError> {
        let page = async |profile: bool, chats: Vec<ChatId>| {
            let mut path = format!("/v1/chats?limit={limit}&profile={profile}");
            if let Some(after) = after {
                let _ = write!(path, "&after={after}");
            }
            self.json::<ChatList>(Call::get(&path, Wants::read(chats)))
                .await
        };
        let bare = page(false, Vec::new()).await?;
        if !profile || bare.chats.is_empty() {
            return Ok(bare);
        }
        // A grant names the chats whose profiles are to be opened.
        let chats = bare.chats.iter().map(|c| id(&c.id));
        page(true, chats.collect::<Result<_, _>>()?).await
    }

    /// `GET /v1/chats/{chat}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn chat(&self, chat: &str, profile: bool) -> Result<Chat, ClientError> {
        let path = format!("/v1/chats/{chat}?profile={profile}");
        self.json(Call::get(&path, Wants::read(vec![id(chat)?])))
            .await
    }

    /// `POST /v1/chats/{chat}/messages`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn append(
        &self,
        chat: &str,
        messages: Vec<NewMessage>,
    ) -> Result<Appended, ClientError> {
        let path = format!("/v1/chats/{chat}/messages");
        let wants = Wants::write(vec![id(chat)?]);
        let call = Call::new(Method::POST, &path, Some(wants));
        self.json(call.with(&quorate_engine::api::Append { messages })?)
            .await
    }

    /// The same with the body of an [`quorate_engine::api::Append`] already written.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn append_raw(&self, chat: &str, body: Bytes) -> Result<Appended, ClientError> {
        let path = format!("/v1/chats/{chat}/messages");
        let wants = Wants::write(vec![id(chat)?]);
        let mut call = Call::new(Method::POST, &path, Some(wants));
        call.body = Some(body);
        self.json(call).await
    }

    /// `PUT /v1/chats/{chat}/messages/{id}`; replaces a message that is at `revision`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn edit(
        &self,
        chat: &str,
        message: u64,
        revision: u32,
        key: String,
        content: Content,
    ) -> Result<Written, ClientError> {
        let path = format!("/v1/chats/{chat}/messages/{message}");
        let wants = Wants::write(vec![id(chat)?]);
        let mut call = Call::new(Method::PUT, &path, Some(wants)).with(&Edit {
            idempotency_key: key,
            content,
        })?;
        call.if_match = Some(revision);
        self.json(call).await
    }

    /// `GET /v1/chats/{chat}/messages/{id}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn message(&self, chat: &str, message: u64) -> Result<Message, ClientError> {
        self.message_of(chat, message, &[chat.to_owned()]).await
    }

    /// As [`Client::message`], under a grant that names `chats`: whoever opens several at once
    /// grants them at once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn message_of(
        &self,
        chat: &str,
        message: u64,
        chats: &[String],
    ) -> Result<Message, ClientError> {
        let path = format!("/v1/chats/{chat}/messages/{message}");
        let chats = chats.iter().map(|c| id(c)).collect::<Result<_, _>>()?;
        self.json(Call::get(&path, Wants::read(chats))).await
    }

    /// `GET /v1/chats/{chat}/messages`, one page; asks for less when the answer would be too large.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn page(&self, chat: &str, from: u64, limit: usize) -> Result<Page, ClientError> {
        let mut limit = limit;
        loop {
            let path = format!("/v1/chats/{chat}/messages?from={from}&limit={limit}");
            let call = Call::get(&path, Wants::read(vec![id(chat)?]));
            match self.json(call).await {
                Err(ClientError::TooLarge { .. }) if limit > 1 => limit /= 2,
                other => return other,
            }
        }
    }

    /// `GET /v1/chats/{chat}/members`, one page.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn members(
        &self,
        chat: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Members, ClientError> {
        let mut path = format!("/v1/chats/{chat}/members?limit={limit}");
        if let Some(after) = after {
            let _ = write!(path, "&after={after}");
        }
        self.json(Call::get(&path, Wants::read(vec![id(chat)?])))
            .await
    }

    /// `GET /v1/chats/{chat}/head`: what a newcomer signs its joining on, by an invite's key or to
    /// a public chat.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn chat_head(
        &self,
        chat: &ChatId,
        invite: Option<&PublicKey>,
    ) -> Result<ChatHead, ClientError> {
        let mut path = format!("/v1/chats/{chat}/head");
        if let Some(invite) = invite {
            let _ = write!(path, "?invite={invite}");
        }
        // It opens nothing, so the grant names no chat.
        self.json(Call::get(&path, Wants::read(Vec::new()))).await
    }

    /// `POST /v1/chats/{chat}/statements`: what the custodians say to it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn chat_statement(
        &self,
        chat: &ChatId,
        statement: &Envelope,
    ) -> Result<StatementAcks, ClientError> {
        self.statement(&format!("/v1/chats/{chat}/statements"), statement)
            .await
    }

    /// `POST /v1/accounts/{account}/statements`: what the custodians say to it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn account_statement(
        &self,
        account: &AccountId,
        statement: &Envelope,
    ) -> Result<StatementAcks, ClientError> {
        self.statement(&format!("/v1/accounts/{account}/statements"), statement)
            .await
    }

    /// `GET /v1/accounts/{account}/statements`: the caller's own account, as custodians hold it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn account_chain(
        &self,
        account: &AccountId,
        from: u64,
    ) -> Result<AccountChain, ClientError> {
        let path = format!("/v1/accounts/{account}/statements?from={from}");
        self.json(Call::get(&path, Wants::read(Vec::new()))).await
    }

    /// `POST /v1/chats/{chat}/deletions`: that it is recorded. Nothing is erased by it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(
        &self,
        chat: &ChatId,
        statement: &Envelope,
        check: bool,
    ) -> Result<Deletion, ClientError> {
        let body = PostDeletion {
            statement: Statement::from(statement),
            check,
        };
        let wants = Wants::write(vec![*chat]);
        let path = format!("/v1/chats/{chat}/deletions");
        let call = Call::new(Method::POST, &path, Some(wants));
        self.json(call.with(&body)?).await
    }

    async fn statement(
        &self,
        path: &str,
        statement: &Envelope,
    ) -> Result<StatementAcks, ClientError> {
        let body = PostStatement {
            statement: Statement::from(statement),
        };
        // It opens nothing, so the grant names no chat.
        let call = Call::new(Method::POST, path, Some(Wants::write(Vec::new())));
        self.json(call.with(&body)?).await
    }

    /// `GET /v1/status` of the preferred node; takes no grant.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.json(Call::new(Method::GET, "/v1/status", None)).await
    }
}
