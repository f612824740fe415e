//! What goes on in the background: feeds, outboxes, intents that were left, sweeping.

use super::core::Core;
use super::opener;
use super::shard::Shard;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_engine::custody::protocol::{
    AbandonRequest, CustodianReply, CustodianRequest, KEYS_PER_REQUEST_MAX, KeyRef,
    PROTOCOL_VERSION, StoreOutcome,
};
use quorate_engine::home::command::{EpochAck, SetPolicy};
use quorate_engine::home::{Command, read};
use quorate_engine::types::{ChatId, CustodianId, KeyId, SessionId, codec};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Shortest time from one question for a custodian's feed to the next, in milliseconds: a freeze is
/// told within a second even by a custodian that holds no answer back until there is news.
const FEED_MS: u64 = 400;
/// Wait for a feed, in milliseconds.
const FEED_WAIT_MS: u64 = 2_000;
/// Every so many feeds the round trip is measured: that answer is not held back.
const PROMPT_EVERY: u64 = 4;
/// Every so many feeds all nodes of a custodian are asked whether they are up.
const NODES_EVERY: u64 = 8;
/// Wait for one node's sign of life, in milliseconds.
const NODE_WAIT_MS: u64 = 1_000;
/// Pause between two sweeps of the lease table, in milliseconds.
const SWEEP_MS: u64 = 250;
/// Pause between two rounds of delivery, in milliseconds.
const DELIVER_MS: u64 = 1_000;
/// Longest pause towards a custodian that does not take its shares, in milliseconds.
const DELIVER_MS_MAX: u64 = 15_000;
/// Intents of other leaders completed at once, and shares delivered in one round.
const INTENTS_MAX: usize = 16;
const DELIVER_MAX: usize = 1_024;
/// Pause between two `Sweep` commands of a leader, in milliseconds.
const TIDY_MS: u64 = 60_000;
/// Pause before trying again what a new leader does first, in milliseconds.
const TAKE_OVER_MS: u64 = 200;

/// Follows every custodian's feed.
pub async fn feeds(core: Arc<Core>) {
    let mut following: BTreeMap<CustodianId, tokio::task::JoinHandle<()>> = BTreeMap::new();
    loop {
        for custodian in core.custodians.descriptors().into_keys() {
            following
                .entry(custodian.clone())
                .or_insert_with(|| tokio::spawn(follow(core.clone(), custodian)));
        }
        tokio::select! {
            () = core.stop.cancelled() => break,
            () = tokio::time::sleep(Duration::from_millis(5 * FEED_MS)) => {}
        }
    }
    for task in following.into_values() {
        let _ = task.await;
    }
}

async fn follow(core: Arc<Core>, custodian: CustodianId) {
    let mut turn: u64 = 0;
    let mut seen: u64 = 0;
    loop {
        let since = if turn.is_multiple_of(PROMPT_EVERY) {
            0
        } else {
            seen
        };
        let request = CustodianRequest::Feed { since };
        let next = tokio::time::Instant::now() + Duration::from_millis(FEED_MS);
        let reply = tokio::select! {
            () = core.stop.cancelled() => return,
            reply = core.custodians.ask(&custodian, &request, FEED_WAIT_MS) => reply,
        };
        seen = 0;
        match reply {
            Ok(CustodianReply::Feed(feed)) => {
                core.leases.on_feed(&custodian, &feed);
                seen = feed.position;
            }
            Ok(_) => tracing::warn!(%custodian, "its feed is something else"),
            Err(e) => tracing::debug!("no feed: {e}"),
        }
        if turn.is_multiple_of(NODES_EVERY) {
            look_around(&core, &custodian).await;
        }
        turn += 1;
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = core.poll_feeds.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Asks the nodes that do not lead too: whether they are up.
async fn look_around(core: &Arc<Core>, custodian: &CustodianId) {
    let Ok((_, descriptor)) = core.custodians.get(custodian) else {
        return;
    };
    let leader = core.custodians.standing(custodian).leader;
    let body = codec::encode(PROTOCOL_VERSION, &CustodianRequest::Feed { since: 0 });
    let others = descriptor.endpoints.keys().filter(|n| Some(**n) != leader);
    let mut asked: FuturesUnordered<_> = others
        .map(|n| {
            core.custodians
                .attempt(custodian, *n, body.clone(), NODE_WAIT_MS)
        })
        .collect();
    while asked.next().await.is_some() {}
}

/// Ends leases in time.
pub async fn sweep_leases(core: Arc<Core>) {
    loop {
        core.leases.sweep();
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(SWEEP_MS)) => {}
        }
    }
}

/// What the leader of a shard does beside serving; idle on other nodes.
pub async fn lead(core: Arc<Core>, shard: Shard) {
    loop {
        let leading = shard.leading();
        if leading.here {
            core.directory.clear();
            core.chains.clear();
            tokio::select! {
                () = core.stop.cancelled() => return,
                () = shard.changed(leading) => {}
                () = lead_term(&core, &shard) => {}
            }
            core.sessions.clear(shard.number).await;
            let number = shard.number;
            if !shard.leading().here {
                core.leases
                    .remove_if(|key| core.shard(&key.chat).number == number);
            }
        } else {
            tokio::select! {
                () = core.stop.cancelled() => return,
                () = shard.changed(leading) => {}
            }
        }
    }
}

/// Never ends by itself while this node leads.
async fn lead_term(core: &Arc<Core>, shard: &Shard) {
    // Reads of the applied state below must not be of a time before this term.
    while shard.read_index().await.is_err() {
        tokio::time::sleep(Duration::from_millis(TAKE_OVER_MS)).await;
    }
    set_policy(core, shard).await;
    let tidy = async {
        loop {
            tokio::time::sleep(Duration::from_millis(TIDY_MS)).await;
            if let Err(e) = shard.propose(core.clock.wall(), Command::Sweep).await {
                tracing::debug!("sweeping waits: {e}");
            }
        }
    };
    let custodians = core.custodians.descriptors().into_keys();
    let outboxes = futures::future::join_all(custodians.map(|c| outbox(core, shard, c)));
    tokio::join!(tidy, outboxes, intents(core, shard));
}

async fn set_policy(core: &Arc<Core>, shard: &Shard) {
    loop {
        let current = shard.view(|kv| read::current_policy(kv));
        let wanted = (core.config.policy.id(), core.config.margins);
        match current {
            Ok(Some((policy, margins))) if (policy.id(), margins) == wanted => return,
            Ok(_) => {
                let command = Command::SetPolicy(SetPolicy {
                    canonical: core.config.policy.canonical(),
                    margins: core.config.margins,
                });
                match shard.propose(core.clock.wall(), command).await {
                    Ok(_) => tracing::info!(shard = shard.number, policy = %wanted.0, "policy set"),
                    Err(e) => {
                        tracing::warn!(shard = shard.number, "the policy is not set yet: {e}")
                    }
                }
            }
            Err(e) => tracing::warn!(shard = shard.number, "the policy cannot be read: {e}"),
        }
        tokio::time::sleep(Duration::from_millis(TAKE_OVER_MS)).await;
    }
}

/// Completes or abandons intents that no opening of this node runs.
async fn intents(core: &Arc<Core>, shard: &Shard) {
    loop {
        let found = shard.view(|kv| read::pending_intents(kv, None, INTENTS_MAX));
        let left: Vec<ChatId> = found
            .unwrap_or_default()
            .iter()
            .map(|p| p.key())
            .filter(|k| !core.openings.is_running(&k.key_id))
            .map(|k| k.chat)
            .collect();
        let mut running: FuturesUnordered<_> = left
            .iter()
            .map(|chat| opener::resume_locked(core, shard, chat))
            .collect();
        while running.next().await.is_some() {}
        tokio::time::sleep(Duration::from_millis(DELIVER_MS)).await;
    }
}

/// Delivers what one custodian has not acknowledged, slower while it does not answer.
async fn outbox(core: &Arc<Core>, shard: &Shard, custodian: CustodianId) {
    let mut wait = DELIVER_MS;
    loop {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let stores = deliver_shares(core, shard, &custodian).await;
        let abandons = deliver_abandonments(core, shard, &custodian).await;
        wait = if stores && abandons {
            DELIVER_MS
        } else {
            (wait * 2).min(DELIVER_MS_MAX)
        };
    }
}

/// False when the custodian did not answer.
async fn deliver_shares(core: &Arc<Core>, shard: &Shard, custodian: &CustodianId) -> bool {
    let mut answered = true;
    let mut after: Option<(SessionId, KeyId)> = None;
    for _ in 0..DELIVER_MAX / KEYS_PER_REQUEST_MAX {
        let found = shard.view(|kv| read::outbox(kv, custodian, after, KEYS_PER_REQUEST_MAX));
        let items = found.unwrap_or_default();
        let Some(last) = items.last() else { break };
        after = Some((last.session, last.item.key_id));
        let mut sends = FuturesUnordered::new();
        for item in items {
            if core.openings.is_running(&item.item.key_id) {
                continue;
            }
            let session = shard.view(|kv| read::session(kv, &item.session));
            let Ok(Some(session)) = session else { continue };
            let (core, number) = (core.clone(), shard.number);
            sends.push(async move {
                let key = KeyRef {
                    chat: item.item.chat,
                    key_id: item.item.key_id,
                };
                (
                    key,
                    core.stores
                        .send(&core, number, Arc::new(session), item.item)
                        .await,
                )
            });
        }
        let mut acks = Vec::new();
        while let Some((key, sent)) = sends.next().await {
            let mut ack = EpochAck {
                key,
                acked: Vec::new(),
                lost: Vec::new(),
                waited: false,
            };
            match sent {
                Some(StoreOutcome::Stored | StoreOutcome::AlreadyStored) => {
                    ack.acked.push(custodian.clone())
                }
                Some(refused) => ack.lost.push((custodian.clone(), refused)),
                None => {
                    answered = false;
                    continue;
                }
            }
            acks.push(ack);
        }
        if !acks.is_empty()
            && shard
                .propose(core.clock.wall(), Command::EpochAcks(acks))
                .await
                .is_err()
        {
            return answered;
        }
        if !answered {
            break;
        }
    }
    answered
}

async fn deliver_abandonments(core: &Arc<Core>, shard: &Shard, custodian: &CustodianId) -> bool {
    let found = shard.view(|kv| read::abandoned(kv, custodian, KEYS_PER_REQUEST_MAX));
    let keys = found.unwrap_or_default();
    if keys.is_empty() {
        return true;
    }
    let request = CustodianRequest::Abandon(AbandonRequest {
        home: core.config.home.clone(),
        deployment: core.config.deployment,
        keys: keys.clone(),
    });
    match core.custodians.ask(custodian, &request, FEED_WAIT_MS).await {
        // Refused for ever is an answer too: the rules of `Shred` hold for that share.
        Ok(CustodianReply::Abandon(outcomes)) if outcomes.len() == keys.len() => {
            let acks = keys.iter().map(|k| (custodian.clone(), k.key_id)).collect();
            let _ = shard
                .propose(core.clock.wall(), Command::AbandonAcks(acks))
                .await;
            true
        }
        Ok(_) => false,
        Err(e) => {
            tracing::debug!("abandonments wait: {e}");
            false
        }
    }
}
