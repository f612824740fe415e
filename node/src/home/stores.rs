//! Sealed shares on their way to custodians: one queue a custodian, many shares a request.

use super::core::Core;
use quorate_engine::custody::protocol::{
    CustodianReply, CustodianRequest, KEYS_PER_REQUEST_MAX, SealSession, SealedItem, StoreOutcome,
    StoreRequest,
};
use quorate_engine::types::{CustodianId, SessionId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Shares waiting for one custodian; more fail at once and stay in the outbox.
const WAITING_MAX: usize = 8_192;
/// Requests in flight to one custodian.
const IN_FLIGHT_MAX: usize = 8;
/// Wait for one request, in milliseconds.
const STORE_MS_MAX: u64 = 3_000;

/// What became of a share; `None` when it is not known.
pub type Sent = Option<StoreOutcome>;

struct Parcel {
    shard: u32,
    session: Arc<SealSession>,
    item: SealedItem,
    done: oneshot::Sender<Sent>,
}

/// The queues, made when first used.
#[derive(Default)]
pub struct Stores(Mutex<BTreeMap<CustodianId, mpsc::Sender<Parcel>>>);

impl Stores {
    /// Sends one share and waits for its outcome. The caller holds the proof that its intent is committed.
    pub(super) async fn send(
        &self,
        core: &Arc<Core>,
        shard: u32,
        session: Arc<SealSession>,
        item: SealedItem,
    ) -> Sent {
        let custodian = session.custodian.clone();
        let (done, wait) = oneshot::channel();
        let parcel = Parcel {
            shard,
            session,
            item,
            done,
        };
        let queue = {
            let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let queue = queues.entry(custodian.clone()).or_insert_with(|| {
                let (tx, rx) = mpsc::channel(WAITING_MAX);
                tokio::spawn(deliver(core.clone(), custodian, rx));
                tx
            });
            queue.clone()
        };
        queue.try_send(parcel).ok()?;
        wait.await.ok().flatten()
    }
}

async fn deliver(core: Arc<Core>, custodian: CustodianId, mut queue: mpsc::Receiver<Parcel>) {
    let slots = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut batch = Vec::new();
    loop {
        // First a slot, then the batch: what arrives while all are busy goes together.
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let count = tokio::select! {
            () = core.stop.cancelled() => return,
            count = queue.recv_many(&mut batch, KEYS_PER_REQUEST_MAX) => count,
        };
        if count == 0 {
            return;
        }
        let mut by_session: BTreeMap<SessionId, Vec<Parcel>> = BTreeMap::new();
        for parcel in batch.drain(..) {
            by_session
                .entry(parcel.session.id)
                .or_default()
                .push(parcel);
        }
        let (core, custodian) = (core.clone(), custodian.clone());
        tokio::spawn(async move {
            for parcels in by_session.into_values() {
                request(&core, &custodian, parcels).await;
            }
            drop(slot);
        });
    }
}

async fn request(core: &Core, custodian: &CustodianId, parcels: Vec<Parcel>) {
    let Some(first) = parcels.first() else { return };
    let (session, shard) = (first.session.clone(), first.shard);
    let request = CustodianRequest::Store(StoreRequest {
        home: core.config.home.clone(),
        deployment: core.config.deployment,
        session: (*session).clone(),
        items: parcels.iter().map(|p| p.item.clone()).collect(),
    });
    let reply = core.custodians.ask(custodian, &request, STORE_MS_MAX).await;
    let outcomes = match reply {
        Ok(CustodianReply::Store(outcomes)) if outcomes.len() == parcels.len() => outcomes,
        Ok(_) => {
            tracing::warn!(%custodian, "a store was answered by something else");
            return;
        }
        Err(e) => {
            tracing::debug!("a share was not delivered: {e}");
            return;
        }
    };
    if outcomes.contains(&StoreOutcome::SealingKeyGone) {
        core.custodians.forget_sealing_key(custodian);
        core.sessions.forget(shard, custodian, &session.id).await;
    }
    for (parcel, outcome) in parcels.into_iter().zip(outcomes) {
        if !matches!(outcome, StoreOutcome::Stored | StoreOutcome::AlreadyStored) {
            tracing::warn!(%custodian, key = %parcel.item.key_id, ?outcome, "a share was not taken");
        }
        let _ = parcel.done.send(Some(outcome));
    }
}
