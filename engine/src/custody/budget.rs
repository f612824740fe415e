//! Token buckets in replicated state, refilled by entry time.

use super::rows::{BUDGET, get, put};
use crate::types::kv::{Kv, KvError, KvRead};
use crate::types::{AccountId, HomeId, NodeId, WallMs};
use serde::{Deserialize, Serialize};

/// A token bucket's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Its name in status.
    pub name: &'static str,
    /// Tokens it holds when full.
    pub capacity: u64,
    /// Tokens it regains in an hour.
    pub per_hour: u64,
    id: u8,
}

/// Keys that may be abandoned: a home that opens epochs at full speed and
/// loses its leader abandons some hundreds at once, never tens of thousands.
pub const ABANDON_BUDGET: Budget = Budget {
    name: "abandon",
    capacity: 8192,
    per_hour: 8192,
    id: 1,
};
/// Keys that may be shredded by operators.
pub const SHRED_BUDGET: Budget = Budget {
    name: "shred",
    capacity: 4096,
    per_hour: 4096,
    id: 2,
};
/// Orders that may be submitted, so that they cannot fill the store.
pub const ORDER_BUDGET: Budget = Budget {
    name: "orders",
    capacity: 64,
    per_hour: 64,
    id: 9,
};
/// Keys released for one account: two epochs in a thousand chats at once, then
/// one key in four seconds. A stolen device that reads everything runs dry.
pub const ACCOUNT_BUDGET: Budget = Budget {
    name: "account",
    capacity: 2048,
    per_hour: 1024,
    id: 3,
};
/// Keys released to one node of a home.
pub const HOME_NODE_BUDGET: Budget = Budget {
    name: "home node",
    capacity: 1 << 22,
    per_hour: 1 << 23,
    id: 4,
};
/// Keys released at all.
pub const OVERALL_BUDGET: Budget = Budget {
    name: "overall",
    capacity: 1 << 24,
    per_hour: 1 << 25,
    id: 5,
};

const HOUR_MS: u64 = 60 * 60 * 1000;

#[derive(Serialize, Deserialize)]
struct BucketRow {
    /// Tokens times [`HOUR_MS`], so that refilling by the millisecond loses nothing.
    level: u64,
    time_ms: WallMs,
}

impl Budget {
    fn key(&self, subject: &[u8]) -> Vec<u8> {
        [&[BUDGET, self.id], subject].concat()
    }

    fn level<K: KvRead + ?Sized>(
        &self,
        kv: &K,
        subject: &[u8],
        time_ms: WallMs,
    ) -> Result<u64, KvError> {
        let full = self.capacity * HOUR_MS;
        let row = get::<BucketRow, _>(kv, &self.key(subject))?;
        Ok(row.map_or(full, |r| {
            let back = time_ms
                .saturating_sub(r.time_ms)
                .saturating_mul(self.per_hour);
            r.level.saturating_add(back).min(full)
        }))
    }

    /// Takes `n` tokens at `time_ms`, or says how long to wait for them.
    pub(super) fn spend<K: Kv + ?Sized>(
        &self,
        kv: &mut K,
        time_ms: WallMs,
        n: u64,
    ) -> Result<Result<(), u64>, KvError> {
        if n == 0 {
            return Ok(Ok(()));
        }
        let level = self.level(kv, &[], time_ms)?;
        let cost = n * HOUR_MS;
        if level < cost {
            return Ok(Err((cost - level).div_ceil(self.per_hour)));
        }
        let level = level - cost;
        put(kv, &self.key(&[]), &BucketRow { level, time_ms })?;
        Ok(Ok(()))
    }
}

/// A budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) of: Budget,
    /// When a token will be back.
    pub(super) retry_ms: u64,
}

/// The three buckets that one release draws on, held while its keys are
/// decided: a key takes a token of each, or of none.
pub(super) struct Purse {
    time_ms: WallMs,
    buckets: [(Budget, Vec<u8>, u64); 3],
    taken: bool,
}

impl Purse {
    pub(super) fn open<K: KvRead + ?Sized>(
        kv: &K,
        time_ms: WallMs,
        account: &AccountId,
        home: &HomeId,
        node: NodeId,
    ) -> Result<Self, KvError> {
        let node = [&node.to_be_bytes(), home.as_str().as_bytes()].concat();
        let bucket = |budget: Budget, subject: Vec<u8>| {
            let level = budget.level(kv, &subject, time_ms)?;
            Ok((budget, subject, level))
        };
        Ok(Self {
            time_ms,
            buckets: [
                bucket(ACCOUNT_BUDGET, account.0.to_vec())?,
                bucket(HOME_NODE_BUDGET, node)?,
                bucket(OVERALL_BUDGET, Vec::new())?,
            ],
            taken: false,
        })
    }

    pub(super) fn take(&mut self) -> Result<(), Spent> {
        for (of, _, level) in &self.buckets {
            if *level < HOUR_MS {
                let retry_ms = (HOUR_MS - level).div_ceil(of.per_hour);
                return Err(Spent { of: *of, retry_ms });
            }
        }
        for (_, _, level) in &mut self.buckets {
            *level -= HOUR_MS;
        }
        self.taken = true;
        Ok(())
    }

    pub(super) fn save<K: Kv + ?Sized>(&self, kv: &mut K) -> Result<(), KvError> {
        if !self.taken {
            return Ok(());
        }
        for (budget, subject, level) in &self.buckets {
            let row = BucketRow {
                level: *level,
                time_ms: self.time_ms,
            };
            put(kv, &budget.key(subject), &row)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::kv::MemKv;

    fn open(kv: &MemKv, time_ms: WallMs, account: u8, node: NodeId) -> Purse {
        let home = HomeId::new("ae").unwrap();
        Purse::open(kv, time_ms, &AccountId([account; 32]), &home, node).unwrap()
    }

    #[test]
    fn an_account_runs_dry_alone_and_is_told_when_to_come_back() {
        let mut kv = MemKv::default();
        let mut purse = open(&kv, 1000, 1, 1);
        for _ in 0..ACCOUNT_BUDGET.capacity {
            purse.take().unwrap();
        }
        let retry_ms = HOUR_MS.div_ceil(ACCOUNT_BUDGET.per_hour);
        let of = ACCOUNT_BUDGET;
        assert_eq!(purse.take(), Err(Spent { of, retry_ms }));
        purse.save(&mut kv).unwrap();
        assert_eq!(open(&kv, 1000, 2, 1).take(), Ok(()));
        let early = open(&kv, 1000 + retry_ms - 1, 1, 1).take();
        assert_eq!(early, Err(Spent { of, retry_ms: 1 }));
        assert_eq!(open(&kv, 1000 + retry_ms, 1, 1).take(), Ok(()));
        // A clock that goes back refills nothing.
        assert!(open(&kv, 0, 1, 1).take().is_err());
    }

    #[test]
    fn a_node_and_all_together_run_dry_whoever_asks() {
        let mut kv = MemKv::default();
        let dry = |budget: Budget, subject: &[u8], kv: &mut MemKv| {
            let (level, time_ms) = (0, 1000);
            put(kv, &budget.key(subject), &BucketRow { level, time_ms }).unwrap();
        };
        let node = [&1u64.to_be_bytes(), b"ae".as_slice()].concat();
        dry(HOME_NODE_BUDGET, &node, &mut kv);
        let name = |r: Result<(), Spent>| r.map_err(|s| s.of.name);
        assert_eq!(name(open(&kv, 1000, 1, 1).take()), Err("home node"));
        assert_eq!(name(open(&kv, 1000, 1, 2).take()), Ok(()));
        dry(OVERALL_BUDGET, &[], &mut kv);
        assert_eq!(name(open(&kv, 1000, 1, 2).take()), Err("overall"));
        // What was not taken is not saved.
        let before = kv.clone();
        open(&kv, 9000, 1, 2).save(&mut kv).unwrap();
        assert!(kv == before);
    }
}
