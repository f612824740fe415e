//! Consensus as a black box: one committed log, replicas that apply it each at
//! their own pace, one leader whose proposals commit, and former leaders whose do not.

use super::Mutant;
use super::facts::Fact;
use super::overlay::{self, Blind};
use super::record::Recorder;
use super::watch::{Side, Watched};
use quorate_engine::types::kv::{Kv, KvRead, Machine, MemKv, Position};

/// One replica's applied state.
#[derive(Clone)]
pub struct Replica {
    /// The state.
    pub kv: MemKv,
    /// How many entries of the log it holds.
    pub applied: usize,
    digest: [u8; 32],
}

/// One raft group.
pub struct Cluster {
    /// Its number.
    pub number: usize,
    side: Side,
    machine: Box<dyn Machine>,
    /// Term and bytes of each committed entry.
    pub log: Vec<(u64, Vec<u8>)>,
    /// Its replicas.
    pub replicas: Vec<Replica>,
    /// Current term.
    pub term: u64,
    /// Replica that leads.
    pub leader: usize,
    watched: usize,
}

impl Cluster {
    /// An empty one; replica 0 leads.
    pub fn new(number: usize, side: Side, machine: Box<dyn Machine>, replicas: usize) -> Self {
        let empty = Replica {
            kv: MemKv::default(),
            applied: 0,
            digest: [0; 32],
        };
        Self {
            number,
            side,
            machine,
            log: Vec::new(),
            replicas: vec![empty; replicas],
            term: 1,
            leader: 0,
            watched: 0,
        }
    }

    /// The leader's applied state.
    pub fn kv(&self) -> &MemKv {
        &self.replicas[self.leader].kv
    }

    /// Commits an entry; the leader applies it at once and has the reply.
    pub fn commit(
        &mut self,
        bytes: Vec<u8>,
        recorder: &mut Recorder,
        mutant: Option<Mutant>,
    ) -> (Position, Vec<u8>) {
        self.log.push((self.term, bytes));
        let reply = self.catch_up(self.leader, recorder, mutant);
        let index = self.log.len() as u64;
        (
            Position {
                term: self.term,
                index,
            },
            reply,
        )
    }

    /// A replica applies everything committed; returns the last reply.
    pub fn catch_up(
        &mut self,
        replica: usize,
        recorder: &mut Recorder,
        mutant: Option<Mutant>,
    ) -> Vec<u8> {
        let mut reply = Vec::new();
        while self.replicas[replica].applied < self.log.len() {
            reply = self.apply_one(replica, recorder, mutant);
        }
        reply
    }

    /// A replica applies its next entry, if there is one.
    pub fn apply_one(
        &mut self,
        number: usize,
        recorder: &mut Recorder,
        mutant: Option<Mutant>,
    ) -> Vec<u8> {
        let replica = &mut self.replicas[number];
        let Some((term, bytes)) = self.log.get(replica.applied) else {
            return Vec::new();
        };
        let before = replica.applied.checked_sub(1).map(|i| self.log[i].0);
        replica.applied += 1;
        let first = replica.applied > self.watched;
        self.watched = self.watched.max(replica.applied);
        let at = Position {
            term: *term,
            index: replica.applied as u64,
        };
        let drift = mutant == Some(Mutant::ReplicaDrifts) && number == 1 && at.index == 9;
        let mut kv = Watched::new(&mut replica.kv, &mut replica.digest, first);
        if before.is_some_and(|b| b != *term) {
            forget(&mut kv, self.side.is_home(), mutant);
        }
        if mutant == Some(Mutant::StoresInTheClear)
            && let Some(secret) = recorder.any_secret()
        {
            kv.put(&[0x7f], &secret).expect("memory does not fail");
        }
        let reply = if drift {
            Vec::new()
        } else {
            let wide = (mutant == Some(Mutant::SkipsEpochs)).then(|| overlay::all_epochs(bytes));
            let bytes = wide.as_ref().unwrap_or(bytes);
            self.machine
                .apply(&mut Blind::new(&mut kv, mutant, bytes), at, bytes)
                .expect("memory does not fail")
        };
        let changes = kv.finish();
        let digest = replica.digest;
        let index = replica.applied;
        if first {
            self.side
                .facts(self.number, bytes, &replica.kv, &changes, recorder);
        }
        recorder.fact(Fact::Applied {
            cluster: self.number,
            replica: number,
            index,
            digest,
        });
        reply
    }

    /// The whole cluster is set back to what it had after `length` entries.
    pub fn roll_back(&mut self, length: usize, recorder: &mut Recorder) {
        self.log.truncate(length);
        let what = format!("cut log of cluster {}", self.number);
        recorder.fact(Fact::Did { what, policy: None });
        // Facts of the replay are history already; later entries are new ones.
        for replica in &mut self.replicas {
            *replica = Replica {
                kv: MemKv::default(),
                applied: 0,
                digest: [0; 32],
            };
        }
        self.watched = length;
        self.catch_up(self.leader, recorder, None);
    }
}

/// Planted bugs: a new leader begins without a table that it must keep.
fn forget(kv: &mut Watched<'_>, home: bool, mutant: Option<Mutant>) {
    let table = match (mutant, home) {
        (Some(Mutant::ForgetsIdempotency), true) => quorate_engine::home::rows::table::IDEMPOTENCY,
        (Some(Mutant::ForgetsTombstones), false) => super::watch::custody_table("tombstone"),
        _ => return,
    };
    for (key, _) in kv
        .scan(&[table], &[table + 1], usize::MAX, false)
        .expect("memory does not fail")
    {
        kv.delete(&key).expect("memory does not fail");
    }
}
