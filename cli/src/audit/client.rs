//! Reading one custodian's audit plane.

use super::key::AuditorKey;
use super::logs::LogPlace;
use super::shelf::Shelf;
use crate::client::transport::{SendError, Wire};
use crate::exit::{Exit, Failure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use quorate_engine::api::audit::BundleOpenings;
use quorate_engine::audit::publish::{Note, Tile, TileKind, tiles_of};
use quorate_engine::types::DeploymentId;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for a connection, in milliseconds.
const CONNECT_MS_MAX: u64 = 5_000;
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Tiles asked for at once.
const AT_ONCE: usize = 8;
/// How often a tile that is not there yet is asked for again, of nodes that lag behind.
const AGAIN_MAX: usize = 20;
/// How often a node is connected to before it counts as silent.
const CONNECTIONS_MAX: usize = 4;
/// Wait in between.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// A custodian's audit plane.
pub struct LogClient {
    wire: Wire,
    place: LogPlace,
    deployment: DeploymentId,
    key: Option<Arc<AuditorKey>>,
}

impl LogClient {
    /// Of a place; with an auditor's key it reads entries as well.
    ///
    /// # Errors
    /// When its endpoints are not known or are wrong.
    pub fn new(
        place: &LogPlace,
        deployment: DeploymentId,
        key: Option<Arc<AuditorKey>>,
    ) -> Result<Self, Failure> {
        let name = &place.custodian;
        let ca = place.ca_pem.as_bytes();
        let wire = Wire::new(&place.endpoints, ca, None, CONNECT_MS_MAX).map_err(|e| {
            Failure::usage(
                format!("audit plane of {name}: {e}"),
                format!("name it in client.toml as audit.{name} = [\"https://HOST:PORT\"]"),
            )
        })?;
        let place = place.clone();
        Ok(Self {
            wire,
            place,
            deployment,
            key,
        })
    }

    /// Whose log.
    pub fn place(&self) -> &LogPlace {
        &self.place
    }

    /// Whether it shows an auditor's token.
    pub fn reads_entries(&self) -> bool {
        self.key.is_some()
    }

    fn failure(&self, what: impl std::fmt::Display) -> Failure {
        let next = "see whether its nodes run; the log is the same on all of them";
        let what = format!("log of {}: {what}", self.place.custodian);
        Failure::new(Exit::Unavailable, "unavailable", what, next)
    }

    /// Asks one node, which changes nothing there: a connection that fails is tried again.
    async fn ask(
        &self,
        node: usize,
        path: &str,
        token: bool,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let mut asked = self.ask_once(node, path, token).await;
        for _ in 1..CONNECTIONS_MAX {
            if asked.is_ok() {
                break;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
            asked = self.ask_once(node, path, token).await;
        }
        asked
    }

    async fn ask_once(
        &self,
        node: usize,
        path: &str,
        token: bool,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let mut request = Request::builder()
            .uri(format!("/{path}"))
            .header(HOST, self.wire.name(node));
        if let (true, Some(key)) = (token, &self.key) {
            let text = key.token(self.deployment, &self.place.custodian)?;
            let value = HeaderValue::from_str(&format!("Bearer {text}"));
            let mut value = value.map_err(|e| self.failure(e))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .body(Full::new(Bytes::new()))
            .map_err(|e| e.to_string());
        let send = tokio::time::timeout(ANSWER_MAX, self.wire.send(node, request)).await;
        match send {
            Ok(Ok(reply)) => Ok((reply.status, reply.body)),
            Ok(Err(SendError::NotSent(e) | SendError::Unknown(e))) => Err(self.failure(e)),
            Ok(Err(SendError::TooLarge)) => Err(self.failure("an answer over 32 MiB")),
            Err(_) => Err(self.failure(format!("{} does not answer", self.wire.name(node)))),
        }
    }

    /// Asks the nodes in turn until one has it.
    async fn get(&self, path: &str, token: bool) -> Result<Bytes, Failure> {
        let mut last = None;
        for again in 0..AGAIN_MAX {
            let mut missing = false;
            for node in 0..self.wire.nodes() {
                let (status, body) = match self.ask(node, path, token).await {
                    Ok(answer) => answer,
                    Err(e) => {
                        last.get_or_insert(e);
                        continue;
                    }
                };
                if status == StatusCode::OK {
                    return Ok(body);
                }
                let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
                let what = format!(
                    "log of {}: {path}: {} {}",
                    self.place.custodian,
                    status.as_u16(),
                    text("detail")
                );
                let exit = match status.as_u16() {
                    401 | 403 => Exit::Denied,
                    404 => Exit::Conflict,
                    _ => Exit::Unavailable,
                };
                missing |= exit == Exit::Conflict;
                let failure = Failure::new(exit, &text("code"), what, text("next_step"));
                if exit == Exit::Denied {
                    return Err(failure);
                }
                last = Some(failure);
            }
            if !missing || again + 1 == AGAIN_MAX {
                break;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        Err(last.unwrap_or_else(|| self.failure("it has no nodes")))
    }

    /// The newest checkpoint of any of its nodes, as it came. Nothing of it is verified.
    ///
    /// # Errors
    /// When no node answers with a note.
    pub async fn checkpoint(&self) -> Result<Note, Failure> {
        let all: Vec<usize> = (0..self.wire.nodes()).collect();
        let asked = all.iter().map(|n| self.ask(*n, "checkpoint", false));
        let mut best: Option<(u64, usize, Note)> = None;
        let mut last = None;
        for answer in futures::future::join_all(asked).await {
            let read = answer.and_then(|(status, body)| {
                if status != StatusCode::OK {
                    return Err(self.failure(format!("checkpoint: {status}")));
                }
                let note = Note::parse(&body).map_err(|e| self.failure(e))?;
                let size = quorate_engine::audit::publish::Checkpoint::parse(note.text());
                Ok((size.map_err(|e| self.failure(e))?.size, note))
            });
            match read {
                Ok((size, note)) => {
                    let rank = (size, note.signatures().len());
                    if best.as_ref().is_none_or(|(s, n, _)| (*s, *n) < rank) {
                        best = Some((rank.0, rank.1, note));
                    }
                }
                Err(e) => last = Some(e),
            }
        }
        let nobody = || last.unwrap_or_else(|| self.failure("it has no nodes"));
        Ok(best.ok_or_else(nobody)?.2)
    }

    /// Fetches the tiles of a tree that are not on the shelf, and the bundles of entries from `from` on where
    /// it has an auditor's key.
    ///
    /// # Errors
    /// When one cannot be had, or the disk fails.
    pub async fn fill(&self, shelf: &Shelf, size: u64, from: u64) -> Result<(), Failure> {
        let mut wanted: Vec<Tile> = Vec::new();
        for tile in tiles_of(size) {
            if tile.kind == TileKind::Hashes(0) && self.reads_entries() {
                let kind = TileKind::Entries;
                if tile.start() + u64::from(tile.width) > from {
                    wanted.push(Tile { kind, ..tile });
                }
            }
            wanted.push(tile);
        }
        wanted.retain(|t| !shelf.has(t));
        let mut asked = stream::iter(wanted.into_iter().map(|tile| async move {
            let entries = tile.kind == TileKind::Entries;
            let bytes = self.get(&tile.to_string(), entries).await?;
            shelf.put(&tile, &bytes)
        }))
        .buffer_unordered(AT_ONCE);
        while let Some(done) = asked.next().await {
            done?;
        }
        Ok(())
    }

    /// What remains of the openings of a bundle's entries.
    ///
    /// # Errors
    /// When they cannot be had or read.
    pub async fn openings(&self, bundle: u64) -> Result<BundleOpenings, Failure> {
        let bytes = self.get(&format!("openings/{bundle}"), true).await?;
        serde_json::from_slice(&bytes).map_err(|e| self.failure(format!("openings: {e}")))
    }
}
