//! Whether this leader's clock may stamp commands: entry time is what budgets,
//! expiries and abandon windows are reckoned by, and it never goes back, so one
//! leader an hour ahead would age everything at once.

use super::Custodian;
use super::internal::{Ask, Told, ask};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A leader whose clock is further than this from its peers' median proposes
/// no timed command, in milliseconds.
pub const CLOCK_OFF_MS_MAX: u64 = 5_000;
/// How often a leader compares clocks.
const EVERY: Duration = Duration::from_secs(2);
/// Longest wait for a peer's clock.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Leadership is offered at most so often because of the clock.
const HAND_OVER_EVERY: Duration = Duration::from_secs(30);

/// What the last comparison showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockState {
    /// Distance of this clock from the median of its peers', in milliseconds.
    pub off_ms: u64,
    /// How many peers told their time.
    pub peers: usize,
    /// There is nobody to ask: a one-node cluster cannot check its clock.
    pub alone: bool,
}

impl ClockState {
    /// Whether timed commands may not be proposed.
    pub fn out(&self) -> bool {
        self.off_ms > CLOCK_OFF_MS_MAX
    }
}

/// Distance of 0 from the median of `offsets`; between the two middle ones it is 0.
fn off(offsets: &mut [i64]) -> u64 {
    if offsets.is_empty() {
        return 0;
    }
    offsets.sort_unstable();
    let n = offsets.len();
    let (low, high) = (offsets[(n - 1) / 2], offsets[n / 2]);
    if low <= 0 && high >= 0 {
        return 0;
    }
    low.unsigned_abs().min(high.unsigned_abs())
}

impl Custodian {
    /// What is known about this node's clock while it leads in `term`. Nothing is taken over from
    /// before: a node with a wrong clock must not stamp even its first command.
    pub(super) async fn clock_in(&self, term: u64) -> ClockState {
        match self.clock_known(term) {
            Some(state) => state,
            None => self.compare_clocks().await,
        }
    }

    /// The same, unless clocks have not been compared in `term`.
    pub(super) fn clock_known(&self, term: u64) -> Option<ClockState> {
        let compared = self.0.clock_term.load(Ordering::Acquire) == term;
        compared.then(|| self.clock_state())
    }

    /// What is known about this node's clock.
    pub fn clock_state(&self) -> ClockState {
        *self.0.clock_state.read().expect("no writer panics")
    }

    /// Compares clocks once.
    pub(super) async fn compare_clocks(&self) -> ClockState {
        let own = self.0.consensus.node();
        let term = self.0.consensus.lead().term;
        let peers: Vec<_> = self.0.consensus.members().into_iter().collect();
        let others: Vec<_> = peers.into_iter().filter(|n| *n != own).collect();
        let alone = others.is_empty();
        let told = futures::future::join_all(others.into_iter().map(|n| self.offset_of(n))).await;
        let mut offsets: Vec<i64> = told.into_iter().flatten().collect();
        let state = ClockState {
            off_ms: off(&mut offsets),
            peers: offsets.len(),
            alone,
        };
        self.0.figures.clock_off(state.off_ms);
        *self.0.clock_state.write().expect("no writer panics") = state;
        self.0.clock_term.store(term, Ordering::Release);
        state
    }

    async fn offset_of(&self, node: u64) -> Option<i64> {
        let began = Instant::now();
        let before = self.now();
        let call = ask(&*self.0.peers, node, &Ask::Clock);
        let told = tokio::time::timeout(WAIT_MAX, call).await.ok()?.ok()?;
        let Told::Clock { now_ms } = told else {
            return None;
        };
        let half = u64::try_from(began.elapsed().as_millis() / 2).unwrap_or(0);
        let own = i64::try_from(before.saturating_add(half)).ok()?;
        Some(i64::try_from(now_ms).ok()?.saturating_sub(own))
    }
}

/// Compares clocks as long as this node leads.
pub(super) async fn run(custodian: Custodian, stop: CancellationToken) {
    let mut warned_alone = false;
    let mut handed_over: Option<Instant> = None;
    loop {
        if custodian.0.consensus.lead().is_leader {
            let state = custodian.compare_clocks().await;
            if state.alone && !warned_alone {
                warned_alone = true;
                tracing::warn!("one node only: nobody to compare this clock with");
            }
            if state.out() && handed_over.is_none_or(|at| at.elapsed() > HAND_OVER_EVERY) {
                handed_over = Some(Instant::now());
                tracing::error!(
                    off_ms = state.off_ms,
                    "this clock is off its peers' median: no timed command is proposed; set the clock"
                );
                custodian.0.consensus.hand_over().await;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::off;

    #[test]
    fn the_median_decides_and_the_middle_is_a_range() {
        assert_eq!(off(&mut []), 0);
        assert_eq!(off(&mut [-7_000]), 7_000);
        assert_eq!(off(&mut [9_000, 1]), 1);
        assert_eq!(off(&mut [9_000, -1]), 0, "between its peers");
        assert_eq!(off(&mut [9_000, 8_000]), 8_000);
        assert_eq!(off(&mut [9_000, 10, 20]), 20);
        assert_eq!(off(&mut [-6_000, -9_000, 7_000]), 6_000);
    }
}
