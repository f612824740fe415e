//! The lease table: which data keys one node may hold, and until when.
//!
//! Bounded in number and age, on the monotonic clock alone, so that a jump of
//! the wall clock prolongs nothing. What holds the key is the caller's type
//! `K`: the node puts keys into locked memory, tests use plain values. Whatever
//! the table lets go of is returned, to be wiped by its drop.

use super::LEASE_MS_MAX;
use super::feed::FreezeView;
use crate::custody::protocol::{Feed, KeyRef};
use crate::policy::Policy;
use crate::types::{CustodianId, EpochNo, KeyId, Mono, PolicyId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How many leases, and how old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLimits {
    /// Most that live at once; the least recently used goes first.
    pub max: usize,
    /// Longest life, in milliseconds; never more than [`LEASE_MS_MAX`].
    pub age_ms_max: u64,
}

impl Default for LeaseLimits {
    fn default() -> Self {
        Self {
            max: 8192,
            age_ms_max: LEASE_MS_MAX,
        }
    }
}

/// A lease to be.
#[derive(Debug)]
pub struct Grantee<K> {
    /// Chat and dealing.
    pub key: KeyRef,
    /// Epoch.
    pub epoch: EpochNo,
    /// Policy it was dealt under.
    pub policy: Arc<Policy>,
    /// Whose release it comes from, with the log position of each; empty when
    /// this node dealt the key itself.
    pub releases: Vec<(CustodianId, u64)>,
    /// When the custodians were asked, or the key was drawn: age counts from here.
    pub asked: Mono,
    /// The key.
    pub holder: K,
}

/// Why a key was not leased. It must be dropped, and may be asked for again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A release was recorded before a freeze that this node has seen.
    #[error("the release by {custodian} came before a freeze already seen")]
    BeforeFreeze {
        /// Whose.
        custodian: CustodianId,
    },
    /// Too few custodians are live and unfrozen for this chat.
    #[error("live and unfrozen custodians do not satisfy the policy")]
    Dark,
    /// It was asked for longer ago than a lease may last.
    #[error("the release took longer than a lease may last")]
    TooOld,
}

struct Lease<K> {
    key: KeyRef,
    epoch: EpochNo,
    policy: Arc<Policy>,
    since: Mono,
    used: u64,
    holder: K,
}

/// The leases of one node.
pub struct LeaseTable<K> {
    limits: LeaseLimits,
    leases: BTreeMap<KeyId, Lease<K>>,
    /// By last use, for eviction.
    order: BTreeMap<u64, KeyId>,
    /// By start, for expiry.
    ages: BTreeSet<(Mono, KeyId)>,
    uses: u64,
    view: FreezeView,
}

impl<K> LeaseTable<K> {
    /// Empty.
    pub fn new(limits: LeaseLimits) -> Self {
        Self {
            limits: LeaseLimits {
                max: limits.max.max(1),
                age_ms_max: limits.age_ms_max.min(LEASE_MS_MAX),
            },
            leases: BTreeMap::new(),
            order: BTreeMap::new(),
            ages: BTreeSet::new(),
            uses: 0,
            view: FreezeView::default(),
        }
    }

    /// Its limits.
    pub fn limits(&self) -> LeaseLimits {
        self.limits
    }
    /// What custodians said about freezes.
    pub fn view(&self) -> &FreezeView {
        &self.view
    }
    /// How many live, expired ones not yet swept included.
    pub fn len(&self) -> usize {
        self.leases.len()
    }
    /// Whether none lives.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }
    /// Age of the oldest, in milliseconds.
    pub fn oldest_ms(&self, now: Mono) -> u64 {
        self.ages
            .first()
            .map_or(0, |(since, _)| now.saturating_sub(*since))
    }

    /// Leases a key. Returns what had to go for it.
    ///
    /// # Errors
    /// [`Refused`], with the key handed back to be dropped.
    pub fn insert(&mut self, now: Mono, grantee: Grantee<K>) -> Result<Vec<K>, (Refused, K)> {
        let refused = self.why_not(now, &grantee);
        let Grantee {
            key,
            epoch,
            policy,
            asked,
            holder,
            ..
        } = grantee;
        if let Some(refused) = refused {
            return Err((refused, holder));
        }
        let mut gone = Vec::new();
        // The same key again (two readers asked): the younger release counts from its own time.
        gone.extend(self.remove(&key.key_id));
        while self.leases.len() >= self.limits.max {
            let Some((_, oldest)) = self.order.first_key_value() else {
                break;
            };
            let oldest = *oldest;
            gone.extend(self.remove(&oldest));
        }
        self.uses += 1;
        self.order.insert(self.uses, key.key_id);
        self.ages.insert((asked, key.key_id));
        let lease = Lease {
            key,
            epoch,
            policy,
            since: asked,
            used: self.uses,
            holder,
        };
        self.leases.insert(key.key_id, lease);
        Ok(gone)
    }

    fn why_not(&self, now: Mono, grantee: &Grantee<K>) -> Option<Refused> {
        let chat = &grantee.key.chat;
        if now.saturating_sub(grantee.asked) >= self.limits.age_ms_max {
            return Some(Refused::TooOld);
        }
        for (custodian, entry) in &grantee.releases {
            if self.view.before_freeze(custodian, chat, *entry) {
                let custodian = custodian.clone();
                return Some(Refused::BeforeFreeze { custodian });
            }
        }
        if !grantee.policy.satisfied_by(&self.view.usable(now, chat)) {
            return Some(Refused::Dark);
        }
        None
    }

    /// The key of a dealing, if it is leased and young enough.
    pub fn get(&mut self, now: Mono, key: &KeyRef) -> Option<(&K, EpochNo)> {
        let age_max = self.limits.age_ms_max;
        let lease = self.leases.get_mut(&key.key_id)?;
        if lease.key != *key || now.saturating_sub(lease.since) >= age_max {
            return None;
        }
        self.order.remove(&lease.used);
        self.uses += 1;
        lease.used = self.uses;
        self.order.insert(lease.used, key.key_id);
        Some((&lease.holder, lease.epoch))
    }

    /// A custodian's feed arrived; returns the keys that must go now.
    pub fn on_feed(&mut self, now: Mono, custodian: &CustodianId, feed: &Feed) -> Vec<K> {
        if self.view.on_feed(now, custodian, feed) {
            return self.drop_dark(now);
        }
        Vec::new()
    }

    /// Time has passed; returns the keys that are too old, or whose custodians
    /// have been silent too long.
    pub fn sweep(&mut self, now: Mono) -> Vec<K> {
        let mut gone = Vec::new();
        while let Some((since, key_id)) = self.ages.first().copied() {
            if now.saturating_sub(since) < self.limits.age_ms_max {
                break;
            }
            gone.extend(self.remove(&key_id));
        }
        gone.extend(self.drop_dark(now));
        gone
    }

    /// When [`LeaseTable::sweep`] wants to be called at the latest.
    pub fn next_timeout(&self, now: Mono) -> Option<Mono> {
        let age = self
            .ages
            .first()
            .map(|(since, _)| since + self.limits.age_ms_max);
        let silence = self.view.next_timeout(now);
        [age, silence].into_iter().flatten().min()
    }

    /// Drops one lease: its epoch is shredded, or the shard moved away.
    pub fn remove(&mut self, key_id: &KeyId) -> Option<K> {
        let lease = self.leases.remove(key_id)?;
        self.order.remove(&lease.used);
        self.ages.remove(&(lease.since, *key_id));
        Some(lease.holder)
    }

    /// Drops all leases whose key the predicate names.
    pub fn remove_if(&mut self, mut which: impl FnMut(&KeyRef) -> bool) -> Vec<K> {
        let leases = self.leases.values();
        let keys: Vec<KeyId> = leases
            .map(|l| l.key)
            .filter(|k| which(k))
            .map(|k| k.key_id)
            .collect();
        keys.iter().filter_map(|id| self.remove(id)).collect()
    }

    fn drop_dark(&mut self, now: Mono) -> Vec<K> {
        // Leases of one chat and policy share the verdict; most share the set.
        let mut verdicts: BTreeMap<(PolicyId, BTreeSet<CustodianId>), bool> = BTreeMap::new();
        let mut dark = Vec::new();
        for lease in self.leases.values() {
            let usable = self.view.usable(now, &lease.key.chat);
            let verdict = verdicts
                .entry((lease.policy.id(), usable))
                .or_insert_with_key(|(_, usable)| lease.policy.satisfied_by(usable));
            if !*verdict {
                dark.push(lease.key.key_id);
            }
        }
        dark.iter().filter_map(|id| self.remove(id)).collect()
    }
}
