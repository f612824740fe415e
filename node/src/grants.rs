//! A node's memory of grants it read before: the engine's [`KnownGrants`] with a bound.
//!
//! Two halves, as a clock with one bit: what is asked for moves to the young
//! half, and when that is full the old one is forgotten whole.

use quorate_engine::authz::grant::{Grant, GrantHash, KnownGrants};
use quorate_engine::crypto::sign::PUBLIC_LEN;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of one half, by [`cost`]: some thousand grants of a chat each, a few hundred of the longest.
const HALF_BYTES_MAX: usize = 4 << 20;
/// What a grant takes beside its text and its parsed claims, about as long again, in bytes.
const ENTRY_BYTES: usize = 512;

fn cost(grant: &Grant) -> usize {
    2 * grant.compact().len() + ENTRY_BYTES
}

#[derive(Clone)]
struct Row {
    grant: Arc<Grant>,
    signer: Option<[u8; PUBLIC_LEN]>,
}

#[derive(Default)]
struct Halves {
    young: HashMap<[u8; 32], Row>,
    old: HashMap<[u8; 32], Row>,
    young_bytes: usize,
}

impl Halves {
    fn get(&mut self, hash: &GrantHash) -> Option<Row> {
        if let Some(row) = self.young.get(&hash.0) {
            return Some(row.clone());
        }
        let row = self.old.remove(&hash.0)?;
        self.put(row.clone());
        Some(row)
    }

    fn put(&mut self, row: Row) {
        let (hash, cost) = (row.grant.hash().0, cost(&row.grant));
        if self.young_bytes + cost > HALF_BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(hash, row).is_none() {
            self.young_bytes += cost;
        }
    }
}

/// Grants read before, at most some megabytes of them.
#[derive(Default)]
pub struct GrantMemory(Mutex<Halves>);

impl GrantMemory {
    fn halves(&self) -> MutexGuard<'_, Halves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for GrantMemory {
    /// Without the grants: who holds one can act under it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GrantMemory")
    }
}

impl KnownGrants for GrantMemory {
    fn recall(&self, hash: &GrantHash) -> Option<Arc<Grant>> {
        self.halves().get(hash).map(|row| row.grant)
    }

    fn signer(&self, hash: &GrantHash) -> Option<[u8; PUBLIC_LEN]> {
        self.halves().get(hash)?.signer
    }

    fn keep(&self, grant: &Arc<Grant>, signer: Option<[u8; PUBLIC_LEN]>) {
        let mut halves = self.halves();
        let held = halves.get(grant.hash());
        let signer = match &held {
            Some(held) if signer.is_none() || held.signer == signer => return,
            _ => signer,
        };
        halves.put(Row {
            grant: grant.clone(),
            signer,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_engine::authz::grant::{Action, ChatRange, Claims, GrantRefusal};
    use quorate_engine::crypto::sign::SigningKey;
    use quorate_engine::types::{
        AccountId, ChatId, DeploymentId, DeviceId, GrantId, HomeId, Secret,
    };

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
    }

    fn grant(id: u32, chats: u8) -> Arc<Grant> {
        let mut jti = [0; 16];
        jti[..4].copy_from_slice(&id.to_be_bytes());
        let range = |n| ChatRange {
            chat: ChatId([n; 32]),
            from: 0,
            to: None,
        };
        let claims = Claims {
            account: AccountId([1; 32]),
            deployment: DeploymentId([2; 16]),
            home: HomeId::new("ae").unwrap(),
            actions: vec![Action::Read],
            chats: (0..chats).map(range).collect(),
            ceiling: 1,
            not_before_s: 1_700_000_000,
            expires_s: 1_700_000_900,
            id: GrantId(jti),
        };
        Arc::new(Grant::sign(DeviceId([3; 32]), &key(1), claims).unwrap())
    }

    #[test]
    fn a_remembered_signature_holds_for_its_key_alone() {
        let (memory, g) = (GrantMemory::default(), grant(1, 1));
        assert!(memory.recall(g.hash()).is_none());
        let wrong = Err(GrantRefusal::Signature);
        assert_eq!(memory.verify(&g, &key(2).public()), wrong);
        assert!(
            memory.recall(g.hash()).is_none(),
            "what does not hold is not kept"
        );
        // Read and not verified: it is known, and nobody is known to have signed it.
        memory.keep(&g, None);
        assert_eq!(memory.signer(g.hash()), None);
        memory.verify(&g, &key(1).public()).unwrap();
        assert_eq!(memory.signer(g.hash()), Some(key(1).public()));
        memory.keep(&g, None);
        assert_eq!(memory.signer(g.hash()), Some(key(1).public()));
        assert_eq!(memory.verify(&g, &key(2).public()), wrong);
        // One byte more is another text, and read as what it is.
        let bent = format!("{}.", g.compact());
        let read = memory.read(&bent, &GrantHash::of(&bent));
        assert_eq!(read.err(), Some(GrantRefusal::NotCompact));
        let read = memory.read(g.compact(), g.hash()).unwrap();
        assert!(Arc::ptr_eq(&read, &g), "not parsed again");
        assert_eq!(format!("{memory:?}"), "GrantMemory");
    }

    #[test]
    fn it_stays_small_and_keeps_what_is_used() {
        let (memory, used) = (GrantMemory::default(), grant(0, 1));
        memory.keep(&used, None);
        let big = cost(&grant(1, 40));
        let many = u32::try_from(3 * HALF_BYTES_MAX / big).unwrap();
        for id in 1..many {
            let g = grant(id, 40);
            memory.keep(&g, Some(key(1).public()));
            assert!(memory.recall(g.hash()).is_some());
            assert!(memory.recall(used.hash()).is_some(), "after {id}");
        }
        assert!(memory.recall(grant(1, 40).hash()).is_none());
        let halves = memory.halves();
        let held = |half: &HashMap<_, Row>| half.values().map(|r| cost(&r.grant)).sum::<usize>();
        assert!(held(&halves.young) <= HALF_BYTES_MAX && held(&halves.old) <= HALF_BYTES_MAX);
        assert_eq!(held(&halves.young), halves.young_bytes);
    }
}
