//! Leased keys in locked memory, behind the engine's lease table.

use super::shard::Clock;
use crate::locked::{LockedKey, LockedSlab};
use quorate_engine::crypto::subkeys::Subkeys;
use quorate_engine::custody::protocol::{Feed, FreezeScope, KeyRef};
use quorate_engine::home::lease::{Grantee, LeaseLimits, LeaseTable, Refused};
use quorate_engine::policy::Policy;
use quorate_engine::types::{ChatId, CustodianId, DataKey, EpochNo};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Slots beyond the table's limit, for keys that are just being used or replaced.
const SPARE_SLOTS: usize = 1024;

/// A leased key; wiped when the last user lets go.
#[derive(Clone, Debug)]
pub struct LeasedKey {
    key: Arc<LockedKey>,
    dealt: bool,
}

impl LeasedKey {
    /// Its subkeys, for a moment's use.
    pub fn subkeys(&self) -> Subkeys {
        Subkeys::derive(&self.key.key())
    }
}

/// Why a key was not leased.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LeaseError {
    /// The table refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Every slot of locked memory is in use.
    #[error("all slots for keys are in use")]
    Full,
}

/// What is known of a key to be leased.
pub struct NewLease {
    /// Chat and dealing.
    pub key: KeyRef,
    /// Epoch.
    pub epoch: EpochNo,
    /// Policy it was dealt under.
    pub policy: Arc<Policy>,
    /// Whose releases it comes from.
    pub releases: Vec<(CustodianId, u64)>,
    /// When it was asked for, on the monotonic clock.
    pub asked: u64,
}

/// The leases of this node.
pub struct Leases {
    slab: Arc<LockedSlab>,
    table: Mutex<LeaseTable<LeasedKey>>,
    clock: Clock,
}

impl Leases {
    /// Empty.
    ///
    /// # Errors
    /// When there is no memory for the slab.
    pub fn new(limits: LeaseLimits, clock: Clock) -> std::io::Result<Self> {
        let slab = LockedSlab::new(limits.max + SPARE_SLOTS)?;
        if !slab.is_locked() {
            tracing::warn!(
                "key memory is not locked: raise RLIMIT_MEMLOCK (`ulimit -l`, LimitMEMLOCK=)"
            );
        }
        Ok(Self {
            slab,
            table: Mutex::new(LeaseTable::new(limits)),
            clock,
        })
    }

    fn table(&self) -> MutexGuard<'_, LeaseTable<LeasedKey>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether key memory is locked.
    pub fn is_locked(&self) -> bool {
        self.slab.is_locked()
    }

    /// The key of a dealing, if leased.
    pub fn get(&self, key: &KeyRef) -> Option<LeasedKey> {
        let now = self.clock.mono();
        self.table().get(now, key).map(|(holder, _)| holder.clone())
    }

    /// The key of a dealing, if this node dealt it itself in the lease that lives: no custodian
    /// released anything for it.
    pub fn dealt(&self, key: &KeyRef) -> Option<LeasedKey> {
        self.get(key).filter(|lease| lease.dealt)
    }

    /// Takes a key over.
    ///
    /// # Errors
    /// [`LeaseError`]; the key is wiped.
    pub fn insert(&self, lease: NewLease, key: DataKey) -> Result<LeasedKey, LeaseError> {
        let holder = self.slab.store(key).ok_or(LeaseError::Full)?;
        let holder = LeasedKey {
            key: Arc::new(holder),
            dealt: lease.releases.is_empty(),
        };
        let grantee = Grantee {
            key: lease.key,
            epoch: lease.epoch,
            policy: lease.policy,
            releases: lease.releases,
            asked: lease.asked,
            holder: holder.clone(),
        };
        let inserted = self.table().insert(self.clock.mono(), grantee);
        match inserted {
            Ok(gone) => {
                drop(gone);
                Ok(holder)
            }
            Err((refused, _)) => Err(refused.into()),
        }
    }

    /// A custodian's feed arrived.
    pub fn on_feed(&self, custodian: &CustodianId, feed: &Feed) {
        let gone = self.table().on_feed(self.clock.mono(), custodian, feed);
        count_dropped("freeze", gone.len());
    }

    /// Time has passed.
    pub fn sweep(&self) {
        let now = self.clock.mono();
        let mut table = self.table();
        let gone = table.sweep(now);
        let (live, oldest) = (table.len(), table.oldest_ms(now));
        drop(table);
        count_dropped("age", gone.len());
        metrics::gauge!("quorate_home_leases_live").set(live as f64);
        metrics::gauge!("quorate_home_leases_oldest_seconds").set(oldest as f64 / 1000.0);
    }

    /// Drops the leases whose key `which` names.
    pub fn remove_if(&self, which: impl FnMut(&KeyRef) -> bool) {
        let gone = self.table().remove_if(which);
        count_dropped("leadership", gone.len());
    }

    /// Live leases, age of the oldest in milliseconds, limits.
    pub fn figures(&self) -> (usize, u64, LeaseLimits) {
        let table = self.table();
        (
            table.len(),
            table.oldest_ms(self.clock.mono()),
            table.limits(),
        )
    }

    /// Custodians that are live and have not frozen this chat.
    pub fn usable(&self, chat: &ChatId) -> BTreeSet<CustodianId> {
        self.table().view().usable(self.clock.mono(), chat)
    }

    /// Whether a custodian said that it releases nothing of this chat.
    pub fn frozen(&self, custodian: &CustodianId, chat: &ChatId) -> bool {
        self.table().view().frozen(custodian, chat)
    }

    /// Whether a custodian was heard within the grace.
    pub fn heard(&self, custodian: &CustodianId) -> bool {
        self.table().view().live(self.clock.mono(), custodian)
    }

    /// A custodian's freezes in force, as last told.
    pub fn freezes(&self, custodian: &CustodianId) -> Vec<FreezeScope> {
        self.table().view().freezes(custodian)
    }
}

fn count_dropped(why: &'static str, count: usize) {
    if count > 0 {
        metrics::counter!("quorate_home_leases_dropped_total", "why" => why)
            .increment(count as u64);
    }
}
