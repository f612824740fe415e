//! What custodians said about freezes, and how long ago.
//!
//! A home holds a feed with each custodian. A custodian that was not heard for
//! [`FEED_GRACE_MS`] counts as unknown: neither live nor unfrozen.

use super::FEED_GRACE_MS;
use crate::custody::protocol::{Feed, FreezeScope};
use crate::types::{ChatId, CustodianId, Mono};
use std::collections::{BTreeMap, BTreeSet};

/// Most per-chat freezes remembered for one custodian after they were lifted;
/// beyond it they are remembered as one that covers everything.
pub const FLOORS_MAX: usize = 16_384;

#[derive(Debug, Default)]
struct State {
    heard: Option<Mono>,
    position: u64,
    freezes: BTreeMap<FreezeScope, u64>,
    /// Highest position at which a freeze of this scope was ever seen to begin.
    floors: BTreeMap<FreezeScope, u64>,
}

/// The freezes in force, as far as this node was told.
#[derive(Debug, Default)]
pub struct FreezeView {
    custodians: BTreeMap<CustodianId, State>,
}

impl FreezeView {
    /// A custodian's feed arrived. Returns whether anything changed that may end leases.
    pub fn on_feed(&mut self, now: Mono, custodian: &CustodianId, feed: &Feed) -> bool {
        let state = self.custodians.entry(custodian.clone()).or_default();
        // A lagging replica's feed says nothing new, not even that it is alive now.
        if feed.position < state.position {
            return false;
        }
        state.heard = Some(now);
        state.position = feed.position;
        let freezes: BTreeMap<FreezeScope, u64> = feed.freezes.iter().copied().collect();
        for (scope, position) in &freezes {
            let floor = state.floors.entry(*scope).or_default();
            *floor = (*floor).max(*position);
        }
        if state.floors.len() > FLOORS_MAX {
            let highest = state.floors.values().copied().max().unwrap_or(0);
            state.floors = BTreeMap::from([(FreezeScope::All, highest)]);
        }
        let changed = freezes != state.freezes;
        state.freezes = freezes;
        changed
    }

    /// Whether it was heard within the grace.
    pub fn live(&self, now: Mono, custodian: &CustodianId) -> bool {
        let heard = self.custodians.get(custodian).and_then(|s| s.heard);
        heard.is_some_and(|at| now.saturating_sub(at) <= FEED_GRACE_MS)
    }

    /// Whether it said that it releases nothing of this chat now.
    pub fn frozen(&self, custodian: &CustodianId, chat: &ChatId) -> bool {
        self.custodians.get(custodian).is_some_and(|s| {
            s.freezes.contains_key(&FreezeScope::All)
                || s.freezes.contains_key(&FreezeScope::Chat(*chat))
        })
    }

    /// The freezes a custodian has in force, as last told.
    pub fn freezes(&self, custodian: &CustodianId) -> Vec<FreezeScope> {
        let state = self.custodians.get(custodian);
        state.map_or_else(Vec::new, |s| s.freezes.keys().copied().collect())
    }

    /// Custodians that are live and have not frozen this chat.
    pub fn usable(&self, now: Mono, chat: &ChatId) -> BTreeSet<CustodianId> {
        let ids = self.custodians.keys();
        ids.filter(|id| self.live(now, id) && !self.frozen(id, chat))
            .cloned()
            .collect()
    }

    /// Whether a release recorded at `entry` came before a freeze of its chat
    /// that this node has seen, lifted since or not: it must not be leased.
    pub fn before_freeze(&self, custodian: &CustodianId, chat: &ChatId, entry: u64) -> bool {
        self.custodians.get(custodian).is_some_and(|s| {
            [FreezeScope::All, FreezeScope::Chat(*chat)]
                .iter()
                .any(|scope| s.floors.get(scope).is_some_and(|begin| entry < *begin))
        })
    }

    /// The next moment at which some custodian becomes unknown, if nothing is heard.
    pub fn next_timeout(&self, now: Mono) -> Option<Mono> {
        let heard = self.custodians.values().filter_map(|s| s.heard);
        heard
            .map(|at| at + FEED_GRACE_MS + 1)
            .filter(|at| *at > now)
            .min()
    }
}
