//! Key agreements worth keeping: one decapsulation per seal session, one
//! encapsulation per lease key. Both bounded; the latter also aged, so that a
//! home's lease key never sees one encapsulation for longer than a lease.

use quorate_engine::crypto::seal::Receiver;
use quorate_engine::custody::LeaseSender;
use quorate_engine::custody::protocol::SealSession;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Most seal sessions kept.
const SESSIONS_MAX: usize = 4_096;
/// Most lease keys kept.
const LEASES_MAX: usize = 1_024;
/// Oldest encapsulation to a lease key that is used again.
const LEASE_AGE_MAX: Duration = Duration::from_secs(600);

type Digest = [u8; 32];

/// Names a session by all that its receiver depends on, never by the id alone:
/// an id is the home's to choose.
pub(super) fn session_digest(session: &SealSession) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&session.version.to_le_bytes());
    hasher.update(&session.encapsulated);
    *hasher.finalize().as_bytes()
}

#[derive(Default)]
struct Sessions {
    by: BTreeMap<Digest, (u32, Arc<Receiver>)>,
    order: VecDeque<Digest>,
}

#[derive(Default)]
struct Leases {
    by: BTreeMap<Digest, (Instant, Arc<LeaseSender>)>,
    order: VecDeque<(Instant, Digest)>,
}

#[derive(Default)]
pub(super) struct Cache {
    sessions: Mutex<Sessions>,
    leases: Mutex<Leases>,
}

impl Cache {
    pub(super) fn session(&self, digest: &Digest) -> Option<Arc<Receiver>> {
        let s = self.sessions.lock().expect("no holder panics");
        s.by.get(digest).map(|(_, r)| r.clone())
    }

    pub(super) fn put_session(&self, digest: Digest, version: u32, receiver: Arc<Receiver>) {
        let mut s = self.sessions.lock().expect("no holder panics");
        if s.by.insert(digest, (version, receiver)).is_none() {
            s.order.push_back(digest);
        }
        while s.order.len() > SESSIONS_MAX {
            if let Some(old) = s.order.pop_front() {
                s.by.remove(&old);
            }
        }
    }

    /// Forgets all sessions of a sealing version: its private part is being destroyed.
    pub(super) fn forget_sealing(&self, version: u32) {
        let mut s = self.sessions.lock().expect("no holder panics");
        s.by.retain(|_, (v, _)| *v != version);
        let Sessions { by, order } = &mut *s;
        order.retain(|d| by.contains_key(d));
    }

    /// Forgets everything: the node's keys are being dropped.
    pub(super) fn forget_all(&self) {
        *self.sessions.lock().expect("no holder panics") = Sessions::default();
        *self.leases.lock().expect("no holder panics") = Leases::default();
    }

    pub(super) fn lease(&self, lease_key: &Digest, now: Instant) -> Option<Arc<LeaseSender>> {
        let l = self.leases.lock().expect("no holder panics");
        let (made, sender) = l.by.get(lease_key)?;
        (now.duration_since(*made) < LEASE_AGE_MAX).then(|| sender.clone())
    }

    pub(super) fn put_lease(&self, sender: Arc<LeaseSender>, now: Instant) {
        let mut l = self.leases.lock().expect("no holder panics");
        let digest = *sender.lease_key();
        l.by.insert(digest, (now, sender));
        l.order.push_back((now, digest));
        while l
            .order
            .front()
            .is_some_and(|(made, _)| now.duration_since(*made) >= LEASE_AGE_MAX)
            || l.order.len() > LEASES_MAX
        {
            let Some((made, old)) = l.order.pop_front() else {
                break;
            };
            // A newer encapsulation may stand under the same key.
            if l.by.get(&old).is_some_and(|(at, _)| *at == made) {
                l.by.remove(&old);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_engine::crypto::seal::{RecipientKey, Sender};
    use quorate_engine::custody::Place;
    use quorate_engine::types::{CustodianId, DeploymentId};

    #[test]
    fn leases_age_and_sessions_go_with_their_version() {
        let place = Place {
            deployment: DeploymentId([1; 16]),
            custodian: CustodianId::new("ch").unwrap(),
        };
        let mut rng = rand::rng();
        let key = RecipientKey::generate(&mut rng);
        let lease = Arc::new(LeaseSender::new(&place, &key.public(), &mut rng).unwrap());
        let (cache, t) = (Cache::default(), Instant::now());
        cache.put_lease(lease.clone(), t);
        let digest = *lease.lease_key();
        assert!(cache.lease(&digest, t + LEASE_AGE_MAX / 2).is_some());
        assert!(cache.lease(&digest, t + LEASE_AGE_MAX).is_none());
        cache.put_lease(lease, t + LEASE_AGE_MAX);
        assert!(cache.lease(&digest, t + LEASE_AGE_MAX).is_some());
        assert_eq!(cache.leases.lock().unwrap().order.len(), 1);

        let (_, encapsulated) = Sender::new(&key.public(), b"x", &mut rng).unwrap();
        let receiver = Arc::new(Receiver::new(&key, &encapsulated, b"x").unwrap());
        for n in 0..=SESSIONS_MAX {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&(n as u64).to_be_bytes());
            cache.put_session(digest, (n % 2) as u32, receiver.clone());
        }
        assert!(cache.session(&[0; 32]).is_none(), "the oldest made room");
        assert_eq!(cache.sessions.lock().unwrap().by.len(), SESSIONS_MAX);
        cache.forget_sealing(1);
        let s = cache.sessions.lock().unwrap();
        assert!(s.by.values().all(|(v, _)| *v == 0));
        assert_eq!(s.order.len(), s.by.len());
    }
}
