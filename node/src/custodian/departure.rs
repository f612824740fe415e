//! The clock and the waiting around [`Departures`]: releases leave in time or
//! never, and restrictions are confirmed when none is left that they forbid.

use crate::peer::Departing;
use quorate_engine::custody::{Departure, Departures};
use quorate_engine::types::Mono;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

struct Inner {
    began: Instant,
    state: Mutex<Departures>,
    ended: Notify,
}

/// One node's gate. Cheap to clone.
#[derive(Clone)]
pub(super) struct Gate(Arc<Inner>);

/// A release on its way; dropped when it is out or given up.
pub(super) struct Leaving {
    gate: Gate,
    departure: Departure,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            state: Mutex::default(),
            ended: Notify::new(),
        }))
    }

    fn now(&self) -> Mono {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
    fn state(&self) -> MutexGuard<'_, Departures> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node was seen to lead in `term`.
    pub(super) fn leads(&self, term: u64) {
        self.state().leads(term, self.now());
    }

    /// To be called before a release is proposed.
    pub(super) fn begin(&self) -> Leaving {
        let departure = self.state().begin(self.now());
        Leaving {
            gate: self.clone(),
            departure,
        }
    }

    /// Waits until a restriction that was committed in `term` may be confirmed.
    pub(super) async fn confirmed(&self, term: u64) {
        let restricted = self.state().restricted(term, self.now());
        loop {
            // Before looking, so that no end in between is missed.
            let ended = self.0.ended.notified();
            let now = self.now();
            let Some(at) = self.state().confirmable_at(&restricted, now) else {
                return;
            };
            let _ = tokio::time::timeout(Duration::from_millis(at - now), ended).await;
        }
    }
}

impl Leaving {
    pub(super) fn may_leave(&self) -> bool {
        self.departure.may_leave(self.gate.now())
    }

    /// For the connection that sends the answer.
    pub(super) fn departing(self) -> Departing {
        Departing {
            until: self.gate.0.began + Duration::from_millis(self.departure.until()),
            guard: Box::new(self),
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.gate.state().end(&self.departure);
        self.gate.0.ended.notify_waiters();
    }
}
