//! When a restriction may be confirmed: once no share that it forbids can leave any more.
//!
//! A release committed before a shred or a freeze may still be on its way out
//! when that commits. So every release leaves within [`DEPARTURE_MS_MAX`] of
//! being *proposed*, or never, and a restriction is confirmed only when
//!
//! - the releases this leader had proposed before are out, or too old to leave;
//! - it has led for [`SETTLED_MS`]. What a former leader proposed and what is
//!   committed before the restriction was proposed before this leader was
//!   elected: a majority took it before it voted. So that is too old to leave, too.
//!
//! Releases committed after the restriction are refused by `apply`. Times are
//! each node's own monotonic clock; only their rates are compared.

use crate::types::Mono;
use std::collections::BTreeMap;

/// Longest time from proposing a release to its share leaving, in
/// milliseconds. Homes wait no longer for one answer.
pub const DEPARTURE_MS_MAX: u64 = 2_000;
/// How long a leader has led before a release of a former one is surely too
/// old to leave, in milliseconds: the longest departure, and room for clocks
/// that do not run equally fast.
pub const SETTLED_MS: u64 = DEPARTURE_MS_MAX + 500;

/// The releases of one node that may still leave, and since when it leads.
#[derive(Clone, Debug, Default)]
pub struct Departures {
    begun: u64,
    open: BTreeMap<u64, Mono>,
    led: Option<(u64, Mono)>,
}

/// A release between its proposal and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    number: u64,
    until: Mono,
}

impl Departure {
    /// It may leave before this moment, not at it.
    pub fn until(&self) -> Mono {
        self.until
    }
    /// Whether it may leave now.
    pub fn may_leave(&self, now: Mono) -> bool {
        now < self.until
    }
}

/// What a committed restriction waits for before it is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restricted {
    below: u64,
    settled: Mono,
}

impl Departures {
    /// This node leads in `term`. The first call of a term counts, so it should come soon after the election.
    pub fn leads(&mut self, term: u64, now: Mono) {
        if self.led.is_none_or(|(t, _)| t != term) {
            self.led = Some((term, now));
        }
    }

    /// A release is about to be proposed.
    pub fn begin(&mut self, now: Mono) -> Departure {
        let number = self.begun;
        self.begun += 1;
        self.open.insert(number, now);
        Departure {
            number,
            until: now + DEPARTURE_MS_MAX,
        }
    }

    /// Its answer left, or never will.
    pub fn end(&mut self, departure: &Departure) {
        self.open.remove(&departure.number);
    }

    /// A restriction that this node proposed was committed in `term`.
    pub fn restricted(&mut self, term: u64, now: Mono) -> Restricted {
        self.leads(term, now);
        let since = self.led.map_or(now, |(_, at)| at);
        Restricted {
            below: self.begun,
            settled: since + SETTLED_MS,
        }
    }

    /// When it may be confirmed if nothing else ends before; `None`: now.
    pub fn confirmable_at(&self, restricted: &Restricted, now: Mono) -> Option<Mono> {
        let mut before = self.open.range(..restricted.below);
        let open = before.next_back().map(|(_, at)| at + SETTLED_MS);
        open.into_iter()
            .chain([restricted.settled])
            .max()
            .filter(|at| *at > now)
    }
}
