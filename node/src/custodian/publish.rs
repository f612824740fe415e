//! The log as this node publishes it: signed checkpoints, tiles, and openings.
//!
//! Everything comes out of applied rows, at the side of consensus: a release
//! never waits for it. Every node publishes what it has applied itself. All
//! nodes apply the same log and Ed25519 is deterministic, so two of them never
//! sign different things; one that lags publishes a smaller tree for a while.

use super::Custodian;
use super::consensus::view;
use crate::http::audit::{AuditApi, AuditError, AuditResult};
use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_engine::api::audit::{BundleOpenings, EntryOpenings};
use quorate_engine::audit::publish::{
    Checkpoint, Note, Tile, TileKind, WIDTH, encode_bundle, log_name, tile_hashes,
};
use quorate_engine::audit::{Log, NodeRows, entry_bytes, openings};
use quorate_engine::authz::auditor::{AuditorRefusal, AuditorShown, AuditorToken, decide_auditor};
use quorate_engine::custody;
use quorate_engine::types::kv::{KvError, KvRead};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What was applied is published within this.
pub const PUBLISH_EVERY: Duration = Duration::from_millis(250);
/// Full tiles kept in memory, 8 KiB each.
const TILES_KEPT_MAX: usize = 1_024;

/// A checkpoint of this node's.
pub(super) struct Head {
    pub(super) checkpoint: Checkpoint,
    /// Signed by the log key.
    pub(super) note: Note,
}

#[derive(Default)]
pub(super) struct Publisher {
    head: RwLock<Option<Arc<Head>>>,
    full: Mutex<BTreeMap<Tile, Bytes>>,
}

/// Publishes what was applied, until `stop`.
pub(super) async fn run(custodian: Custodian, stop: CancellationToken) {
    let mut said = String::new();
    loop {
        match custodian.publish() {
            Ok(_) => said.clear(),
            Err(e) if e.0 != said => {
                tracing::error!("the log is not published: {e}");
                said = e.0;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PUBLISH_EVERY) => {}
        }
    }
}

impl Custodian {
    /// Signs what was applied since the last time.
    pub(super) fn publish(&self) -> Result<Arc<Head>, KvError> {
        let log = view(&*self.0.consensus, |kv| Log::load(kv))?;
        let known = self.published();
        if let Some(known) = known.filter(|h| h.checkpoint.size >= log.size()) {
            return Ok(known);
        }
        let name = log_name(&self.0.place.deployment, &self.0.place.custodian);
        let checkpoint = Checkpoint::new(&name, log.size(), log.root());
        let mut note = checkpoint.to_note().map_err(|e| KvError(e.to_string()))?;
        let line = note.sign(&name, &self.0.signing.log);
        note.add(line).map_err(|e| KvError(e.to_string()))?;
        let head = Arc::new(Head { checkpoint, note });
        let mut newest = self
            .0
            .publisher
            .head
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let size = |h: &Arc<Head>| h.checkpoint.size;
        if newest.as_ref().is_none_or(|h| size(h) < size(&head)) {
            *newest = Some(head.clone());
        }
        Ok(newest.clone().unwrap_or(head))
    }

    /// The newest checkpoint that was signed here.
    pub(super) fn published(&self) -> Option<Arc<Head>> {
        let head = self.0.publisher.head.read();
        head.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A tile of the published tree.
    async fn tile_bytes(&self, tile: Tile) -> AuditResult<Bytes> {
        let published = self.publish().map_err(unread)?;
        if !tile.fits(published.checkpoint.size) {
            let size = published.checkpoint.size;
            return Err(AuditError::Unknown(format!(
                "{tile} is not in the tree of {size} entries"
            )));
        }
        let kept = |publisher: &Publisher| {
            let full = publisher
                .full
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            full.get(&tile).cloned()
        };
        if let Some(bytes) = kept(&self.0.publisher) {
            return Ok(bytes);
        }
        let bytes = self.blocking(move |kv| read_tile(kv, &tile)).await?;
        // Bundles are large and asked for by few.
        if tile.width == WIDTH && tile.kind != TileKind::Entries {
            let publisher = &self.0.publisher;
            let mut full = publisher
                .full
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if full.len() >= TILES_KEPT_MAX {
                // The lowest: level 0, and of it the oldest.
                full.pop_first();
            }
            full.insert(tile, bytes.clone());
        }
        Ok(bytes)
    }

    /// Reads applied state where it may take a while.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn KvRead) -> Result<T, KvError> + Send + 'static,
    ) -> AuditResult<T> {
        let consensus = self.0.consensus.clone();
        let work = tokio::task::spawn_blocking(move || view(&*consensus, read));
        let done = work
            .await
            .map_err(|e| AuditError::Unavailable(e.to_string()))?;
        done.map_err(unread)
    }
}

fn unread(e: KvError) -> AuditError {
    AuditError::Unavailable(e.to_string())
}

fn read_tile(kv: &dyn KvRead, tile: &Tile) -> Result<Bytes, KvError> {
    if tile.kind != TileKind::Entries {
        let hashes = tile_hashes(&NodeRows(kv), tile).map_err(|e| KvError(e.to_string()))?;
        return Ok(hashes.into());
    }
    let one = |index: u64| {
        entry_bytes(kv, index)?.ok_or_else(|| KvError(format!("entry {index} is not there")))
    };
    let range = tile.start()..tile.start() + u64::from(tile.width);
    let entries = range.map(one).collect::<Result<Vec<_>, _>>()?;
    Ok(encode_bundle(entries.iter().map(Vec::as_slice)).into())
}

impl AuditApi for Custodian {
    fn checkpoint(&self) -> AuditResult<String> {
        let head = self.publish().map_err(unread)?;
        Ok(head.note.to_string())
    }

    fn admits(&self, token: &str) -> AuditResult<Result<(), AuditorRefusal>> {
        let token = match AuditorToken::parse(token) {
            Ok(token) => token,
            Err(why) => return Ok(Err(why)),
        };
        let (admitted, now_ms) = view(&*self.0.consensus, |kv| {
            let now_ms = Log::load(kv)?.time_for(self.now());
            Ok((custody::auditor(kv, token.auditor())?, now_ms))
        })
        .map_err(unread)?;
        let shown = AuditorShown {
            deployment: &self.0.place.deployment,
            custodian: &self.0.place.custodian,
            admitted: admitted.as_ref(),
            now_ms,
        };
        Ok(decide_auditor(&token, &shown))
    }

    fn tile(&self, tile: Tile) -> BoxFuture<'_, AuditResult<Bytes>> {
        Box::pin(self.tile_bytes(tile))
    }

    fn openings(&self, bundle: u64) -> BoxFuture<'_, AuditResult<BundleOpenings>> {
        Box::pin(async move {
            let size = self.publish().map_err(unread)?.checkpoint.size;
            let from = bundle.saturating_mul(WIDTH.into());
            if from >= size {
                return Err(AuditError::Unknown(format!(
                    "bundle {bundle} is not in the tree of {size} entries"
                )));
            }
            let to = size.min(from + u64::from(WIDTH));
            let read = move |kv: &dyn KvRead| {
                let mut out = Vec::new();
                for entry in from..to {
                    let openings = openings(kv, entry)?;
                    if !openings.is_empty() {
                        out.push(EntryOpenings { entry, openings });
                    }
                }
                Ok(out)
            };
            let entries = self.blocking(read).await?;
            Ok(BundleOpenings { entries })
        })
    }
}
