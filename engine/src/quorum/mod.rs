//! Collecting the shares of an authorised set: whom to ask, whom to blame, when to give up.
//!
//! ```text
//!   Wanted (policy, commitments) ─▶ Collector ─▶ Ask { custodian, keys }
//!                                      ▲              │ the node sends it
//!                                      └── Answer ────┘
//!                              take(key) ─▶ shares of an authorised set, or NoQuorum
//! ```
//!
//! A state machine without I/O or clock: `now` comes in, [`Collector::next_timeout`]
//! goes out. It asks a minimal satisfying set, lowest latency first, in
//! parallel; hedges by asking the next custodians when one is late; replaces a
//! refusal, a silence or a share that does not match its commitment at once.
//! Each custodian is asked at most once for each key, so it ends.
//!
//! The idea of hedged requests is from Dean and Barroso, "The Tail at Scale" (CACM 2013).

mod collector;
#[cfg(test)]
mod tests;

pub use collector::{Answer, Ask, AskId, Collector, CollectorConfig, Hint, Wanted};

use crate::custody::protocol::Refusal;
use crate::policy::Policy;
use crate::types::{CustodianId, Share};
use std::collections::BTreeSet;

/// Most keys one collector collects; also the most one request may name.
pub const KEYS_MAX: usize = crate::custody::protocol::KEYS_PER_REQUEST_MAX;

/// The shares of an authorised set, each checked against its commitment.
#[derive(Debug)]
pub struct Quorum {
    /// Enough for [`sharing::combine`](crate::sharing::combine).
    pub shares: Vec<(CustodianId, Share)>,
    /// Whose share did not match its commitment: blamed by name, though the read succeeded.
    pub lied: BTreeSet<CustodianId>,
}

/// Why there is no quorum for a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct NoQuorum {
    /// Gave a good share.
    pub answered: BTreeSet<CustodianId>,
    /// Refused, and why.
    pub refused: Vec<(CustodianId, Refusal)>,
    /// Gave a share that does not match its commitment.
    pub lied: BTreeSet<CustodianId>,
    /// Did not answer in time, or could not be reached.
    pub unreachable: BTreeSet<CustodianId>,
    /// Asked, and not yet answered when it became certain that it would not help.
    pub pending: BTreeSet<CustodianId>,
    /// Each would suffice together with those that answered. Empty: nothing ever will.
    pub would_suffice: Vec<BTreeSet<CustodianId>>,
}

impl NoQuorum {
    fn text(&self) -> String {
        let names = |set: &BTreeSet<CustodianId>| {
            let names: Vec<&str> = set.iter().map(CustodianId::as_str).collect();
            names.join(", ")
        };
        let mut parts = Vec::new();
        if !self.answered.is_empty() {
            parts.push(format!("answered: {}", names(&self.answered)));
        }
        let refused: Vec<String> = self
            .refused
            .iter()
            .map(|(c, why)| format!("{c} ({why})"))
            .collect();
        if !refused.is_empty() {
            parts.push(format!("refused: {}", refused.join(", ")));
        }
        if !self.lied.is_empty() {
            parts.push(format!("gave a false share: {}", names(&self.lied)));
        }
        if !self.unreachable.is_empty() {
            parts.push(format!("unreachable: {}", names(&self.unreachable)));
        }
        let sets: Vec<String> = self
            .would_suffice
            .iter()
            .map(|s| format!("{{{}}}", names(s)))
            .collect();
        parts.push(match sets.len() {
            0 => "no set of custodians would suffice any more".to_owned(),
            _ => format!("would suffice in addition: {}", sets.join(" or ")),
        });
        parts.join("; ")
    }
}

/// Whether a refusal can end without anything being repaired or restored.
pub(crate) fn may_end(refusal: Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Frozen
            | Refusal::RequestMismatch
            | Refusal::NotAuthorised
            | Refusal::Order
            | Refusal::Damaged
            | Refusal::Grant(_)
            | Refusal::Mandate(_)
            | Refusal::AccountBudget { .. }
            | Refusal::HomeNodeBudget { .. }
            | Refusal::OverallBudget { .. }
    )
}

/// What would suffice beside `have`, when `never` can not help.
pub(crate) fn sufficient(
    policy: &Policy,
    have: &BTreeSet<CustodianId>,
    never: &BTreeSet<CustodianId>,
) -> Vec<BTreeSet<CustodianId>> {
    policy.what_would_suffice(have, never)
}
