//! Statements about chats and accounts, passed on to every custodian.
//!
//! A chat's statements are numbered by its shard first, so that an honest home never passes two
//! of one number on. Beyond that the home is a messenger: what it passes on was signed by others, and what
//! it brings back is signed by the custodians. The client counts.

use super::api::HomeError;
use super::core::{Core, Fail};
use super::shard::Shard;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_engine::api::registry::Statement;
use quorate_engine::api::{AccountChain, StatementAck, StatementAcks};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::custody::protocol::{
    ChainId, ChainRequest, ChainTold, CustodianReply, CustodianRequest, SignedHead,
    StatementRefused, StatementRequest,
};
use quorate_engine::home::command::{Reply, UndoStatement};
use quorate_engine::home::{Command, read};
use quorate_engine::policy::Policy;
use quorate_engine::types::{AccountId, ChatId, CustodianId, StatementHash};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What a custodian says that lacks earlier statements.
const BEHIND: &str = "behind";
/// Chats whose statements are kept in order here at most, beside those in use.
const CHAINS_MAX: usize = 4_096;
/// Wait for those that are late when enough others took a statement, in milliseconds.
const LATE_MS: u64 = 400;
/// Wait for a custodian to take a statement, in milliseconds.
const STATEMENT_MS_MAX: u64 = 5_000;

/// One statement of a chat at a time, and the newest that a custodian is known to have taken:
/// that one will never be taken back.
#[derive(Default)]
pub struct Chains(Mutex<HashMap<ChatId, Arc<tokio::sync::Mutex<Option<u64>>>>>);

impl Chains {
    /// Forgets what custodians took: another leader may have taken it back since.
    pub(super) fn clear(&self) {
        let mut chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        chains.clear();
    }

    /// Waits for its turn.
    pub(super) async fn lock(&self, chat: &ChatId) -> tokio::sync::OwnedMutexGuard<Option<u64>> {
        let chain = {
            let mut chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if chains.len() >= CHAINS_MAX {
                chains.retain(|_, chain| Arc::strong_count(chain) > 1);
            }
            chains.entry(*chat).or_default().clone()
        };
        chain.lock_owned().await
    }
}

/// Whether a chat's newest statement may be built on. One that every custodian refuses is taken
/// back; one of which it is not known is an error, and may be tried again.
pub(super) async fn settle(
    core: &Core,
    shard: &Shard,
    chat: &ChatId,
    settled: &mut Option<u64>,
) -> Result<(), Fail> {
    let row = shard.view(|kv| read::chat(kv, chat))?;
    let Some(head) = row.map(|r| r.head.head) else {
        return Ok(());
    };
    // Custodians took the genesis before this home did.
    if *settled == Some(head.number) || head.number == 0 {
        return Ok(());
    }
    let newest = shard.view(|kv| read::statements(kv, chat, head.number))?;
    let Some(newest) = newest.first() else {
        return Err(Fail::NotDone(
            "a chat's newest statement is not here".into(),
        ));
    };
    let said = tell(core, ChainId::Chat(*chat), newest).await;
    conclude(core, shard, chat, head.number, head.hash, &said, settled).await?;
    match (&settled, said.refused_by_all()) {
        (Some(number), _) if *number == head.number => Ok(()),
        (_, Some(_)) => Ok(()),
        _ => Err(Fail::Home(core.too_few(said.took(), said.silent.clone()))),
    }
}

/// Notes what became of a chat's newest statement, and takes it back when it stands nowhere.
pub(super) async fn conclude(
    core: &Core,
    shard: &Shard,
    chat: &ChatId,
    number: u64,
    hash: StatementHash,
    said: &Said,
    settled: &mut Option<u64>,
) -> Result<(), Fail> {
    if !said.acks.is_empty() {
        *settled = Some(number);
    } else if let Some(why) = said.refused_by_all() {
        tracing::info!(%chat, number, "every custodian refuses a statement; it is taken back: {why}");
        let undo = UndoStatement {
            chat: *chat,
            number,
            hash,
        };
        let undo = Command::UndoStatement(undo);
        let (_, reply) = shard.propose(core.clock.wall(), undo).await?;
        if reply != Reply::Done {
            tracing::warn!(%chat, number, "it is not taken back: {reply:?}");
        }
    }
    Ok(())
}

/// What the custodians said to one statement.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Took it; the acknowledgement verifies.
    pub acks: BTreeMap<CustodianId, SignedHead>,
    /// Refused it.
    pub refused: BTreeMap<CustodianId, StatementRefused>,
    /// Did not answer in time, or with something that does not verify.
    pub silent: BTreeSet<CustodianId>,
}

impl Said {
    /// Who took it.
    pub(super) fn took(&self) -> BTreeSet<CustodianId> {
        self.acks.keys().cloned().collect()
    }

    /// No set that suffices is without someone who took it, and those who did suffice.
    fn stands(&self, policy: &Policy) -> bool {
        let mut others = policy.custodians();
        others.retain(|c| !self.acks.contains_key(c));
        policy.satisfied_by(&self.took()) && !policy.satisfied_by(&others)
    }

    /// Every custodian refused it for good: it stands nowhere. One that lacks earlier
    /// statements may take it yet.
    pub(super) fn refused_by_all(&self) -> Option<&StatementRefused> {
        let refused = self.acks.is_empty() && self.silent.is_empty();
        let for_good = self.refused.values().all(|why| why.code != BEHIND);
        self.refused.values().next().filter(|_| refused && for_good)
    }

    /// As the client plane shows it.
    pub(super) fn shown(&self) -> StatementAcks {
        let ack = |head: &SignedHead| StatementAck {
            custodian: head.custodian.to_string(),
            number: head.number,
            hash: hex::encode(head.hash),
            entry: head.entry,
            time_ms: head.time_ms,
            signature: hex::encode(&head.signature),
        };
        let refused = |(c, why): (&CustodianId, &StatementRefused)| {
            (c.to_string(), why.code.clone(), why.reason.clone())
        };
        StatementAcks {
            acks: self.acks.values().map(ack).collect(),
            refused: self.refused.iter().map(refused).collect(),
            unreachable: self.silent.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Tells every custodian of the policy. Waits for all of them, a slow one at most
/// [`STATEMENT_MS_MAX`], and [`LATE_MS`] once the others are enough: it learns of the statement
/// from them. What this home remembers of the chain is forgotten before and after.
pub(super) async fn tell(core: &Core, chain: ChainId, statement: &Envelope) -> Said {
    core.directory.forget(&chain);
    let policy = &core.config.policy;
    let mut said = Said {
        silent: policy.custodians(),
        ..Said::default()
    };
    let mut asked: FuturesUnordered<_> = policy
        .custodians()
        .into_iter()
        .map(|custodian| async move {
            let reply = tell_one(core, &custodian, &chain, statement).await;
            (custodian, reply)
        })
        .collect();
    let mut late: Option<Instant> = None;
    loop {
        let next = match late {
            None => asked.next().await,
            Some(until) => timeout_at(until, asked.next()).await.unwrap_or(None),
        };
        let Some((custodian, word)) = next else { break };
        if let Some(word) = word {
            said.silent.remove(&custodian);
            match word {
                Ok(head) => drop(said.acks.insert(custodian, head)),
                Err(why) => drop(said.refused.insert(custodian, why)),
            }
        }
        if late.is_none() && said.stands(policy) {
            late = Some(Instant::now() + Duration::from_millis(LATE_MS));
        }
    }
    core.directory.forget(&chain);
    said
}

/// An account's statements from number `from` on, as the custodian with the longest chain shows
/// them, and every custodian's signed word about where its chain ends.
pub(super) async fn account_chain(
    core: &Core,
    account: AccountId,
    from: u64,
) -> Result<AccountChain, HomeError> {
    let chain = ChainId::Account(account);
    let request = CustodianRequest::AccountChain(ChainRequest {
        home: core.config.home.clone(),
        deployment: core.config.deployment,
        account,
        from,
    });
    let request = &request;
    let mut silent = core.config.policy.custodians();
    let asked = silent.clone().into_iter().map(|custodian| async move {
        let told = core.custodians.ask(&custodian, request, STATEMENT_MS_MAX);
        let told = told.await;
        (custodian, told)
    });
    let (mut said, mut longest) = (Said::default(), None::<ChainTold>);
    for (custodian, told) in futures::future::join_all(asked).await {
        let Ok(CustodianReply::AccountChain(told)) = told else {
            continue;
        };
        silent.remove(&custodian);
        let Some(told) = told else { continue };
        if !holds(core, &custodian, &chain, &told.head) {
            tracing::warn!(%custodian, "its word on an account's chain does not verify");
            continue;
        }
        said.acks.insert(custodian, told.head.clone());
        if longest
            .as_ref()
            .is_none_or(|l| l.head.number < told.head.number)
        {
            longest = Some(told);
        }
    }
    said.silent = silent;
    let Some(longest) = longest else {
        return Err(match said.silent.is_empty() {
            true => HomeError::NotFound {
                what: format!("account {account}"),
            },
            false => core.too_few(said.took(), said.silent),
        });
    };
    let shown = said.shown();
    Ok(AccountChain {
        number: longest.head.number,
        hash: hex::encode(longest.head.hash),
        statements: longest.statements.iter().map(Statement::from).collect(),
        acks: shown.acks,
        unreachable: shown.unreachable,
    })
}

type Word = Result<SignedHead, StatementRefused>;

/// One custodian's word. One that lacks earlier statements of a chat is sent those first.
async fn tell_one(
    core: &Core,
    custodian: &CustodianId,
    chain: &ChainId,
    statement: &Envelope,
) -> Option<Word> {
    let deadline = core.clock.mono() + STATEMENT_MS_MAX;
    let mut word = send(core, custodian, chain, statement, deadline).await?;
    let ChainId::Chat(chat) = chain else {
        return Some(word);
    };
    // Each round begins further on, or the word is not `behind` again.
    let mut from = None;
    while let Err(why) = &word
        && why.code == BEHIND
        && from < Some(why.have.map_or(0, |have| have + 1))
    {
        let next = why.have.map_or(0, |have| have + 1);
        from = Some(next);
        let missing = core.shard(chat).view(|kv| read::statements(kv, chat, next));
        for missing in missing.unwrap_or_default() {
            word = send(core, custodian, chain, &missing, deadline).await?;
            if word.is_err() {
                break;
            }
        }
    }
    Some(word)
}

async fn send(
    core: &Core,
    custodian: &CustodianId,
    chain: &ChainId,
    statement: &Envelope,
    deadline: u64,
) -> Option<Word> {
    let body = StatementRequest {
        home: core.config.home.clone(),
        deployment: core.config.deployment,
        statement: statement.clone(),
    };
    let request = match chain {
        ChainId::Chat(_) => CustodianRequest::ChatStatement(body),
        ChainId::Account(_) => CustodianRequest::AccountStatement(body),
    };
    let left = deadline.saturating_sub(core.clock.mono());
    match core.custodians.ask(custodian, &request, left).await {
        Ok(CustodianReply::Statement(Ok(head))) if holds(core, custodian, chain, &head) => {
            Some(Ok(head))
        }
        Ok(CustodianReply::Statement(Err(why))) => Some(Err(why)),
        Ok(_) => {
            tracing::warn!(%custodian, "its word on a statement does not verify");
            None
        }
        Err(e) => {
            tracing::debug!("no word on a statement: {e}");
            None
        }
    }
}

fn holds(core: &Core, custodian: &CustodianId, chain: &ChainId, head: &SignedHead) -> bool {
    let known = core.custodians.get(custodian).ok();
    let log_key = known.and_then(|(_, descriptor)| descriptor.log_key);
    log_key.is_some_and(|key| {
        head.verify(&core.config.deployment, custodian, chain, &key.0)
            .is_ok()
    })
}
