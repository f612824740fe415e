//! Between the nodes of one custodian: clocks, and key versions on their way
//! from the node that drew them to the others. Mutual TLS inside the cluster;
//! a key is in memory at both ends and on disk nowhere but in the vaults.

use super::ring::fingerprint_of;
use super::vault::VaultProblem;
use super::{Custodian, Peers, Ring};
use crate::peer::{PeerIdentity, Service, ServiceError};
use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_engine::custody::{AttestKey, Command, KeyEvent, KeyKind};
use quorate_engine::types::{NodeId, Secret, WallMs, codec};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use zeroize::{Zeroize, Zeroizing};

const FORMAT: u8 = 1;

/// 32 key bytes on the wire; wiped when dropped, printed by nobody.
#[derive(Serialize, Deserialize)]
pub(super) struct KeyBytes([u8; 32]);

impl KeyBytes {
    pub(super) fn of(key: &Secret<32>) -> Self {
        Self(*key.expose())
    }
    pub(super) fn take(mut self) -> Secret<32> {
        Secret::take(&mut self.0)
    }
}
impl Drop for KeyBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What one node asks another.
#[derive(Serialize, Deserialize)]
pub(super) enum Ask {
    /// What time is it?
    Clock,
    /// Make this key version durable.
    Keep {
        kind: KeyKind,
        version: u32,
        key: KeyBytes,
    },
    /// Give me this key version.
    Fetch { kind: KeyKind, version: u32 },
    /// I made this key version durable: record it (to the leader).
    Attested {
        kind: KeyKind,
        version: u32,
        fingerprint: [u8; 32],
    },
    /// Are your keys loaded?
    Standing,
    /// This happened to my keys: record it (to the leader).
    Event { event: KeyEvent },
    /// Prove that you hold this key version.
    Prove {
        kind: KeyKind,
        version: u32,
        challenge: [u8; 32],
    },
    /// I restarted and am locked: hand me the keys.
    HandOver,
    /// My operators locked me: forget what I proved.
    Forget,
    /// I hand keys to a restarted node: record it first (to the leader).
    HandingOver { node: NodeId },
}

/// One key version on the wire.
#[derive(Serialize, Deserialize)]
pub(super) struct Handed {
    pub(super) kind: KeyKind,
    pub(super) version: u32,
    pub(super) key: KeyBytes,
}

/// What it answers.
#[derive(Serialize, Deserialize)]
pub(super) enum Told {
    Clock {
        now_ms: WallMs,
    },
    /// Durable here, under this fingerprint.
    Kept {
        fingerprint: [u8; 32],
    },
    Key {
        key: Option<KeyBytes>,
    },
    Recorded,
    No {
        reason: String,
    },
    Standing {
        open: bool,
    },
    Proof {
        proof: [u8; 32],
    },
    /// Every key version, and the key slots that the giver has.
    HandedOver {
        keys: Vec<Handed>,
        slots: Vec<serde_bytes::ByteBuf>,
    },
}

/// Asks `node` and reads its answer.
pub(super) async fn ask(peers: &dyn Peers, node: NodeId, what: &Ask) -> Result<Told, String> {
    let body = codec::encode(FORMAT, what);
    let answer = Zeroizing::new(peers.call(node, body).await?);
    let told = codec::decode("answer of a custodian's node", FORMAT, &answer);
    match told.map_err(|e| e.to_string())? {
        Told::No { reason } => Err(format!("node {node}: {reason}")),
        told => Ok(told),
    }
}

/// The service other nodes of this custodian call. Register it for
/// [`Allow::SameCluster`](crate::peer::Allow::SameCluster) only.
pub struct InternalService(pub(super) Custodian);

impl Service for InternalService {
    fn call(
        &self,
        from: PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        Box::pin(async move {
            let what = codec::decode("question of a custodian's node", FORMAT, &body)
                .map_err(|e| ServiceError::Invalid(e.to_string()))?;
            let told = self.0.tell(&from, what).await;
            Ok(codec::encode(FORMAT, &told))
        })
    }
}

pub(super) fn no(reason: impl Into<String>) -> Told {
    Told::No {
        reason: reason.into(),
    }
}

impl Custodian {
    async fn tell(&self, from: &PeerIdentity, what: Ask) -> Told {
        // A node that was removed keeps a valid certificate for a while, and gets no key with it.
        let member = self.0.consensus.members().contains(&from.node);
        if !member && !matches!(what, Ask::Clock) {
            return no(format!("node {} is no member of this cluster", from.node));
        }
        match what {
            Ask::Clock => Told::Clock { now_ms: self.now() },
            Ask::Prove {
                kind,
                version,
                challenge,
            } => self.prove(from.node, kind, version, &challenge),
            Ask::Forget => {
                self.forget_proof(from.node);
                Told::Recorded
            }
            Ask::HandOver => self.hand_keys_to(from.node).await,
            Ask::HandingOver { node } => match self.record_handover(node, from.node).await {
                Ok(()) => Told::Recorded,
                Err(e) => no(e),
            },
            Ask::Standing => Told::Standing {
                open: self.unlocked(),
            },
            Ask::Event { event } if event.node != from.node => no("a node speaks for itself only"),
            Ask::Event { event } => match self.submit(Command::KeyEvent(event)).await {
                Ok(_) => Told::Recorded,
                Err(e) => no(e.to_string()),
            },
            Ask::Keep { kind, version, key } => {
                let key = key.take();
                let fingerprint = fingerprint_of(kind, &key);
                match self.keep_key(kind, version, key).await {
                    Ok(()) => Told::Kept { fingerprint },
                    Err(e) => no(e.to_string()),
                }
            }
            Ask::Fetch { .. } if !self.may_have_keys(from.node, true).await => {
                no("it does not hold the keys that it held; its people must unlock it")
            }
            Ask::Fetch { kind, version } => {
                let vault = self.0.vault.lock().expect("no holder panics");
                let key = vault.get(kind, version).map(KeyBytes::of);
                Told::Key { key }
            }
            Ask::Attested {
                kind,
                version,
                fingerprint,
            } => {
                let command = Command::AttestKey(AttestKey {
                    kind,
                    version,
                    fingerprint,
                    node: from.node,
                });
                match self.submit(command).await {
                    Ok(_) => Told::Recorded,
                    Err(e) => no(e.to_string()),
                }
            }
        }
    }

    /// Makes a key version durable here and loads it.
    pub(super) async fn keep_key(
        &self,
        kind: KeyKind,
        version: u32,
        key: Secret<32>,
    ) -> Result<(), VaultProblem> {
        self.with_vault(move |vault| vault.keep(kind, version, key))
            .await
    }

    /// Destroys a key version here and unloads it.
    pub(super) async fn destroy_key(
        &self,
        kind: KeyKind,
        version: u32,
    ) -> Result<(), VaultProblem> {
        self.with_vault(move |vault| vault.destroy(kind, version))
            .await?;
        if kind == KeyKind::Sealing {
            self.0.cache.forget_sealing(version);
        }
        Ok(())
    }

    /// Changes the vault off the async threads (it syncs files), then the ring.
    pub(super) async fn with_vault<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut super::Vault) -> Result<T, VaultProblem> + Send + 'static,
    ) -> Result<T, VaultProblem> {
        let inner = self.0.clone();
        let work = move || {
            let mut vault = inner.vault.lock().expect("no holder panics");
            let done = change(&mut vault)?;
            *inner.ring.write().expect("no writer panics") = Arc::new(Ring::of(&vault));
            inner.open.store(vault.is_open(), Ordering::Release);
            Ok(done)
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(VaultProblem::Random(format!("the vault's task ended: {e}"))))
    }
}
