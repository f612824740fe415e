//! Members of a chat: `quorate chat members|add|remove|role|leave|invite|join`.
//!
//! Each change is signed here by the device, passed on by the home to every
//! custodian, and done once a blocking set of them has signed that it knows it.

use super::{Context, check_chat};
use crate::client::{Client, ClientError};
use crate::deployment::{Deployment, read_limited};
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::remark;
use crate::people::place::{self, wallets};
use crate::people::{Judged, Known, Wallet, now_ms};
use quorate_engine::api::registry::Statement;
use quorate_engine::api::{Member, Members};
use quorate_engine::authz::chain::ChainId;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::membership::{ChatChange, ChatPayload, INVITE_LIFE_MS_MAX, Invite};
use quorate_engine::authz::standing::Role;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::{
    AccountId, ChatId, EpochNo, Outcome, PublicKey, Secret, StatementHash,
};
use quorate_node::pki::files::{self, Access};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, Zeroizing};

/// Members asked for in one page.
const MEMBERS_PER_PAGE: usize = 200;
/// How often a change is signed anew because somebody else's came first.
const RACES_MAX: usize = 3;
/// What an invite's link begins with.
const LINK: &str = "quorate-join";

/// What to do with a chat's members.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// List a chat's members
    Members {
        /// The chat
        chat: String,
    },
    /// Add somebody to a chat; takes the creator or an admin
    Add {
        /// The chat
        chat: String,
        /// An account, or a name in an embedded deployment
        account: String,
        /// Make them an admin
        #[arg(long)]
        admin: bool,
        /// The first key epoch they may read; 0 is the beginning
        #[arg(long, value_name = "EPOCH", default_value_t = 0)]
        from_epoch: EpochNo,
    },
    /// Remove somebody from a chat: no custodian releases a key to them after it is done
    Remove {
        /// The chat
        chat: String,
        /// An account, or a name in an embedded deployment
        account: String,
    },
    /// Make a member an admin, or an admin a member
    Role {
        /// The chat
        chat: String,
        /// An account, or a name in an embedded deployment
        account: String,
        /// Which
        #[arg(value_enum)]
        role: RoleArg,
    },
    /// Leave a chat
    Leave {
        /// The chat
        chat: String,
    },
    /// Make a link with which others may join; whoever has it may
    Invite {
        /// The chat
        chat: String,
        /// How many may join with it
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// Days it counts, at most 90
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=90))]
        days: u64,
        /// The first key epoch they may read; 0 is the beginning
        #[arg(long, value_name = "EPOCH", default_value_t = 0)]
        from_epoch: EpochNo,
        /// End this invite instead: the key that it was shown with
        #[arg(long, value_name = "KEY", conflicts_with_all = ["uses", "days", "from_epoch"])]
        revoke: Option<PublicKey>,
    },
    /// Join a chat by an invite's link (- for standard input), or a public chat by its id
    Join {
        /// The link, or the chat
        link: String,
    },
}

/// A role that can be given.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum RoleArg {
    /// Reads and writes
    Member,
    /// Also adds, removes and invites
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Member => Self::Member,
            RoleArg::Admin => Self::Admin,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; a change is *done* only when a blocking set of custodians signed that it is.
pub async fn run(what: What, context: &Context) -> CommandResult {
    let deployment = context.deployment()?;
    let wallet = context.wallet(&deployment)?;
    let client = deployment.client(Some(deployment.person(&wallet)?))?;
    let acting = Acting {
        known: deployment.known(context.global.trust.as_deref())?,
        pending: wallet.dir.join("pending"),
        client,
        context,
    };
    let account = |text: &str| account(text, &deployment);
    match what {
        What::Members { chat } => {
            let chat = chat_id(&chat)?;
            let all = everyone(&acting.client, &chat).await?;
            context.output.show(&all, || table(&all))?;
            Ok(Exit::Ok)
        }
        What::Add {
            chat,
            account: who,
            admin,
            from_epoch,
        } => {
            let change = ChatChange::Add {
                account: account(&who)?,
                role: if admin { Role::Admin } else { Role::Member },
                from_epoch,
            };
            let text = format!("{who} is in the chat");
            acting.change(&chat, change, true, &text).await
        }
        What::Remove { chat, account: who } => {
            let change = ChatChange::Remove {
                account: account(&who)?,
            };
            let text = format!("{who} is out of the chat");
            acting.change(&chat, change, false, &text).await
        }
        What::Role {
            chat,
            account: who,
            role,
        } => {
            let change = ChatChange::SetRole {
                account: account(&who)?,
                role: role.into(),
            };
            let text = format!("{who} has that role");
            acting.change(&chat, change, false, &text).await
        }
        What::Leave { chat } => {
            let change = ChatChange::Leave;
            acting.change(&chat, change, false, "left the chat").await
        }
        What::Invite {
            chat,
            revoke: Some(key),
            ..
        } => {
            let change = ChatChange::RevokeInvite { key };
            let text = "the invite counts no longer";
            acting.change(&chat, change, false, text).await
        }
        What::Invite {
            chat,
            uses,
            days,
            from_epoch,
            revoke: None,
        } => acting.invite(&chat, uses, days, from_epoch).await,
        What::Join { link } => acting.join(&link).await,
    }
}

pub(super) fn chat_id(text: &str) -> Result<ChatId, Failure> {
    check_chat(text)?;
    text.parse()
        .map_err(|e| Failure::usage(format!("{e}"), "give a chat's id"))
}

/// An account's id, or whose it is in an embedded deployment.
fn account(text: &str, deployment: &Deployment) -> Result<AccountId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let next = "give the 64 hex characters that `quorate login` showed them";
    let Some(all) = wallets(deployment) else {
        let text: String = text.chars().take(80).collect();
        return Err(Failure::usage(format!("{text:?} is no account's id"), next));
    };
    place::check_name(text)?;
    match Wallet::exists(&all.join(text)) {
        true => Ok(Wallet::load(&all.join(text))?.account),
        false => Err(Failure::usage(
            format!("nobody called {text} is logged in to this deployment"),
            next,
        )),
    }
}

async fn everyone(client: &Client, chat: &ChatId) -> Result<Members, Failure> {
    let chat = chat.to_string();
    let mut all = client.members(&chat, None, MEMBERS_PER_PAGE).await?;
    while let Some(next) = all.next.take() {
        let page = client.members(&chat, Some(&next), MEMBERS_PER_PAGE).await?;
        all.members.extend(page.members);
        all.next = page.next.filter(|n| *n > next);
    }
    Ok(all)
}

fn table(all: &Members) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_NO_BORDERS);
    table.set_header(["account", "role", "reads from epoch"]);
    for Member {
        account,
        role,
        from_epoch,
    } in &all.members
    {
        table.add_row([account.clone(), role.clone(), from_epoch.to_string()]);
    }
    table.to_string()
}

/// Number and hash of the chat's newest statement, as the home says. A lie makes
/// the next statement one that no custodian takes.
async fn head(
    client: &Client,
    chat: &ChatId,
    joins: Option<&Joins<'_>>,
) -> Result<(u64, StatementHash), Failure> {
    let (number, hash) = match joins {
        None => {
            let page = client.members(&chat.to_string(), None, 1).await?;
            (page.number, page.hash)
        }
        // Who is no member yet cannot list them.
        Some(joins) => {
            let key = joins.invite.map(|key| PublicKey(key.public()));
            let head = client.chat_head(chat, key.as_ref()).await?;
            (head.number, head.hash)
        }
    };
    let hash = hash.parse().map_err(|e| {
        Failure::new(
            Exit::Failed,
            "bad_answer",
            format!("the home's head of the chat: {e}"),
            "check that client and home are of the same version",
        )
    })?;
    Ok((number, hash))
}

/// That the one who signs is about to join, and with which invite's key.
struct Joins<'a> {
    invite: Option<&'a SigningKey>,
}

/// A change that was posted.
struct Posted {
    head: (u64, StatementHash),
    judged: Option<Judged>,
    refused: Vec<(String, String, String)>,
}

/// Who acts, and whom to believe.
struct Acting<'a> {
    client: Client,
    known: Option<Known>,
    /// Where statements are kept that were posted and are not done.
    pending: PathBuf,
    context: &'a Context,
}

impl Acting<'_> {
    /// Posts `statement` and counts what the custodians say to it. Until it is done it is
    /// kept, and the same command posts it again.
    async fn send(&self, chat: ChatId, statement: &Envelope) -> Result<Posted, ClientError> {
        let said = self.client.chat_statement(&chat, statement).await?;
        let number = match statement.read("statement about a chat") {
            Ok(ChatPayload::Statement(s)) => s.number,
            _ => 0,
        };
        let head = (number, StatementHash(statement.hash()));
        let known = self.known.as_ref();
        let judged = known.map(|k| k.judge(ChainId::Chat(chat), head, &said));
        Ok(Posted {
            head,
            judged,
            refused: said.refused,
        })
    }

    fn kept(&self, chat: &ChatId) -> PathBuf {
        self.pending.join(format!("{chat}.json"))
    }

    /// The change to `chat` that was posted and is not done, if it is this one.
    fn undone(&self, chat: &ChatId, change: &ChatChange) -> Option<Envelope> {
        let bytes = read_limited(&self.kept(chat)).ok()?;
        let statement = Envelope::from(&serde_json::from_slice::<Statement>(&bytes).ok()?);
        match statement.read("statement about a chat") {
            Ok(ChatPayload::Statement(s)) if s.chat == *chat && s.change == *change => {
                Some(statement)
            }
            _ => None,
        }
    }

    fn keep(&self, chat: &ChatId, statement: &Envelope) -> Result<(), Failure> {
        let path = self.kept(chat);
        let failed = |e: &dyn std::fmt::Display| {
            let e = std::io::Error::other(e.to_string());
            Failure::file("keep the statement in", &path, &e)
        };
        let text = serde_json::to_vec(&Statement::from(statement)).map_err(|e| failed(&e))?;
        files::make_dir(&self.pending)
            .and_then(|()| files::replace(&path, &text, Access::Public))
            .map_err(|e| failed(&e))
    }

    fn settled(&self, chat: &ChatId) {
        // A file that stays is compared with the next change, and posted again at worst.
        let _ = std::fs::remove_file(self.kept(chat));
    }

    /// Signs `change` on top of the chat's head and posts it; anew when somebody else's came first.
    async fn post(
        &self,
        chat: ChatId,
        change: &ChatChange,
        joins: Option<Joins<'_>>,
    ) -> Result<Posted, Failure> {
        if let Some(statement) = self.undone(&chat, change) {
            // When it is refused now (too old, overtaken), a fresh one may do.
            if let Ok(posted) = self.send(chat, &statement).await
                && posted
                    .judged
                    .as_ref()
                    .is_some_and(|j| !j.believed.is_empty())
            {
                return Ok(posted);
            }
            self.settled(&chat);
        }
        let person = self.client.person().cloned().ok_or(ClientError::NoWallet)?;
        let invite = joins.as_ref().and_then(|j| j.invite);
        let mut races = 0;
        loop {
            let at = head(&self.client, &chat, joins.as_ref()).await?;
            let statement = person.chat_statement(chat, at, change.clone(), invite);
            self.keep(&chat, &statement)?;
            match self.send(chat, &statement).await {
                Err(ClientError::Problem(p)) if raced(&p.code) && races < RACES_MAX => races += 1,
                Err(e) if e.outcome() == Outcome::Unknown => return Err(e.into()),
                Err(e) => {
                    self.settled(&chat);
                    return Err(e.into());
                }
                Ok(posted) => return Ok(posted),
            }
        }
    }

    async fn change(
        &self,
        chat: &str,
        change: ChatChange,
        lets_in: bool,
        text: &str,
    ) -> CommandResult {
        let chat = chat_id(chat)?;
        let posted = self.post(chat, &change, None).await?;
        self.told(&chat, &posted, change.name(), lets_in, text, json!({}))
    }

    fn told(
        &self,
        chat: &ChatId,
        posted: &Posted,
        what: &str,
        lets_in: bool,
        text: &str,
        mut value: Value,
    ) -> CommandResult {
        let Some(judged) = &posted.judged else {
            let mut seen = format!(
                "{what} was passed on, and the custodians' signatures could not be verified here"
            );
            for (custodian, code, reason) in &posted.refused {
                let _ = write!(seen, "\n  {custodian} refused ({code}): {reason}");
            }
            return Err(Failure::new(
                Exit::Unavailable,
                "unverified",
                seen,
                "run it again with --trust DIR, a directory with the custodians' descriptors and policy.toml",
            ));
        };
        judged.must_be_done(what, lets_in)?;
        self.settled(chat);
        value["chat"] = json!(chat);
        value["change"] = json!(what);
        value["number"] = json!(posted.head.0);
        value["done"] = json!(true);
        value["custodians"] = json!(judged.believed);
        self.context.output.show(&value, || {
            format!(
                "done: {text}\nverified: {} have signed that they know it",
                judged.believed.join(", ")
            )
        })?;
        if !judged.unreachable.is_empty() {
            remark(&format!(
                "not reached: {}; they take it from the others",
                judged.unreachable.join(", ")
            ));
        }
        Ok(Exit::Ok)
    }

    async fn invite(&self, chat: &str, uses: u32, days: u64, from_epoch: EpochNo) -> CommandResult {
        let chat = chat_id(chat)?;
        let key = SigningKey::generate(&mut rand::rng());
        let public = PublicKey(key.public());
        let life_ms = (days * 24 * 60 * 60 * 1000).min(INVITE_LIFE_MS_MAX);
        let change = ChatChange::Invite {
            key: public,
            invite: Invite {
                from_epoch,
                expires_ms: now_ms() + life_ms,
                uses,
            },
        };
        let posted = self.post(chat, &change, None).await?;
        // The link is the secret itself: it is shown once, on purpose, and kept nowhere.
        let seed = Zeroizing::new(hex::encode(key.seed().expose()));
        let link = format!("{LINK}:{chat}:{from_epoch}:{}", *seed);
        let text =
            format!("whoever has this link may join:\n{link}\nend it with --revoke {public}");
        let value = json!({"link": link, "key": public});
        self.told(&chat, &posted, change.name(), true, &text, value)
    }

    async fn join(&self, given: &str) -> CommandResult {
        let mut text = Zeroizing::new(given.to_owned());
        if given == "-" {
            text.clear();
            let read = std::io::stdin().take(1_024).read_to_string(&mut text);
            read.map_err(|e| Failure::file("read", Path::new("standard input"), &e))?;
        }
        let link = parse_link(&text);
        if link.is_none() && text.starts_with(LINK) {
            return Err(Failure::usage(
                "the link is not whole",
                "copy all of it, as `quorate chat invite` showed it",
            ));
        }
        let chat = match &link {
            Some(link) => link.chat,
            None => chat_id(text.trim())?,
        };
        let change = ChatChange::Join {
            invite: link.as_ref().map(|l| PublicKey(l.key.public())),
            from_epoch: link.as_ref().map_or(0, |l| l.from_epoch),
        };
        let joins = Joins {
            invite: link.as_ref().map(|l| &l.key),
        };
        let posted = self.post(chat, &change, Some(joins)).await?;
        let done = "joined the chat";
        self.told(&chat, &posted, change.name(), true, done, json!({}))
    }
}

fn raced(code: &str) -> bool {
    matches!(code, "statement_fork" | "statement_behind")
}

/// What a link says.
struct Link {
    chat: ChatId,
    key: SigningKey,
    from_epoch: EpochNo,
}

fn parse_link(text: &str) -> Option<Link> {
    let mut parts = text.trim().split(':');
    if parts.next() != Some(LINK) {
        return None;
    }
    let chat = parts.next()?.parse().ok()?;
    let from_epoch = parts.next()?.parse().ok()?;
    let mut seed = [0u8; 32];
    let read = hex::decode_to_slice(parts.next()?, &mut seed);
    let key = SigningKey::from_seed(&Secret::take(&mut seed));
    seed.zeroize();
    read.ok()?;
    parts.next().is_none().then_some(Link {
        chat,
        key,
        from_epoch,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_whole_or_none() {
        let (chat, seed) = ("ab".repeat(32), "01".repeat(32));
        let link = format!("{LINK}:{chat}:3:{seed}");
        let l = parse_link(&format!(" {link}\n")).unwrap();
        assert_eq!((l.from_epoch, l.chat.to_string()), (3, chat));
        let seed = Secret::take(&mut [1; 32]);
        assert_eq!(l.key.public(), SigningKey::from_seed(&seed).public());
        for n in 0..link.len() {
            assert!(parse_link(&link[..n]).is_none(), "{n}");
        }
        assert!(parse_link(&format!("{link}:x")).is_none());
    }
}
