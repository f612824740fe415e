//! After a rotation: shares are put under the wrapping version in use, a bounded
//! number each tick, and the old version is dropped when nothing lives under it.
//!
//! Nothing of this is kept on disk: how far it has come stands in the shares
//! themselves, so that a new leader or a restarted one goes on by looking.

use super::Custodian;
use super::consensus::view;
use super::keeper::KINDS;
use super::vault::seeded;
use fail::fail_point;
use quorate_engine::custody::protocol::KEYS_PER_REQUEST_MAX;
use quorate_engine::custody::{
    self, Command, DropVersion, Effect, KeyKind, Overview, Rewrap, VersionRow, VersionState,
};
use quorate_engine::types::KeyId;
use quorate_engine::types::kv::KvRead;
use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Rows looked at in one tick; a share each.
const ROWS_MAX: usize = 2_048;
/// Shares that do not open are tried again so long after a pass that found some.
const REST: Duration = Duration::from_secs(600);

/// How far one leader has come with one rotation.
#[derive(Default)]
pub(super) struct Progress {
    /// Its term, and the version shares go to.
    of: (u64, Option<u32>),
    /// The share that this pass came to; `None`: it begins.
    at: Option<KeyId>,
    /// Shares of this pass that did not open, so far.
    damaged: usize,
    /// The same of the last whole pass.
    damaged_last: usize,
    rest_until: Option<Instant>,
    /// Since when nothing is seen to live under an old version.
    empty_since: BTreeMap<u32, Instant>,
}

impl Custodian {
    fn rewrapping(&self, overview: &Overview) -> MutexGuard<'_, Progress> {
        let of = (self.0.consensus.lead().term, overview.wrapping);
        let lock = self.0.rewrapping.lock();
        let mut progress = lock.unwrap_or_else(PoisonError::into_inner);
        if progress.of != of {
            *progress = Progress {
                of,
                ..Progress::default()
            };
        }
        progress
    }

    /// What people should know of a rotation that is not over.
    pub(super) fn rewrap_warnings(&self, overview: &Overview) -> Vec<String> {
        let mut out = Vec::new();
        let left = overview.under_former_versions();
        if left > 0 {
            out.push(format!(
                "re-wrapping: {left} shares are still under former wrapping versions"
            ));
        }
        let damaged = self.rewrapping(overview).damaged_last;
        if damaged > 0 {
            out.push(format!(
                "{damaged} shares do not open under their wrapping version; they are left as they are, and so is their version"
            ));
        }
        let old = overview.live.iter().map(|(v, _)| *v);
        let old: Vec<u32> = old.filter(|v| Some(*v) < overview.wrapping).collect();
        if !old.is_empty() && !overview.wrapping_lacking.is_empty() {
            out.push(format!(
                "wrapping versions {old:?} are kept until nodes {:?} have the one in use: start or unlock them, or remove them from the cluster",
                overview.wrapping_lacking
            ));
        }
        out
    }

    /// One tick of re-wrapping, on the leader.
    pub(super) async fn rewrap_some(&self, overview: &Overview) -> Result<(), String> {
        let (Some(to), true) = (overview.wrapping, overview.under_former_versions() > 0) else {
            return Ok(());
        };
        let at = {
            let progress = self.rewrapping(overview);
            if progress.rest_until.is_some_and(|at| at > Instant::now()) {
                return Ok(());
            }
            progress.at
        };
        let look = |kv: &dyn KvRead| custody::under_other_versions(kv, to, at, ROWS_MAX);
        let (mut shares, mut next) = view(&*self.0.consensus, look).map_err(|e| e.to_string())?;
        let most = self.0.options.rewraps_per_tick;
        let most = most.clamp(1, KEYS_PER_REQUEST_MAX);
        if shares.len() > most {
            shares.truncate(most);
            next = shares.last().map(|(id, _)| *id);
        }
        let (ring, place) = (self.ring(), self.0.place.clone());
        let work = move || {
            let mut rng = seeded().map_err(|e| e.to_string())?;
            let done = custody::wrap_anew(&place, &*ring, to, &shares, &mut rng);
            Ok::<_, String>(done)
        };
        let done = tokio::task::spawn_blocking(work).await;
        let (items, damaged) = done.map_err(|e| e.to_string())??;
        if !items.is_empty() {
            fail_point!("custodian-rewrap-before-propose");
            let moved = self.done(Command::Rewrap(Rewrap { to, items })).await?;
            fail_point!("custodian-rewrap-after-commit");
            match moved {
                Effect::Rewrapped(n) => self.0.figures.rewrapped(n),
                other => return Err(format!("a re-wrap was answered by {other:?}")),
            }
        }
        self.came_to(overview, next, damaged);
        Ok(())
    }

    fn came_to(&self, overview: &Overview, next: Option<KeyId>, damaged: usize) {
        let mut progress = self.rewrapping(overview);
        progress.at = next;
        progress.damaged += damaged;
        if next.is_some() {
            return;
        }
        progress.damaged_last = std::mem::take(&mut progress.damaged);
        if progress.damaged_last > 0 {
            progress.rest_until = Some(Instant::now() + REST);
            tracing::error!(
                damaged = progress.damaged_last,
                "shares do not open under their wrapping version and are left as they are"
            );
        }
    }

    /// Drops wrapping versions that nothing lives under any more, and draws of either kind that a
    /// later one overtook before they came into use.
    pub(super) async fn drop_unused(
        &self,
        overview: &Overview,
        rows: [&[(u32, VersionRow)]; 2],
    ) -> Result<(), String> {
        for (kind, rows) in KINDS.into_iter().zip(rows) {
            let current = match kind {
                KeyKind::Wrapping => overview.wrapping,
                KeyKind::Sealing => overview.sealing,
            };
            for (version, row) in rows {
                let version = *version;
                let drop = Some(version) < current
                    && match row.state {
                        VersionState::Attesting => true,
                        VersionState::InUse if kind == KeyKind::Wrapping => {
                            self.is_left(overview, version)
                        }
                        VersionState::InUse | VersionState::Dropped => false,
                    };
                if drop {
                    let command = DropVersion { kind, version };
                    self.done(Command::DropVersion(command)).await?;
                    tracing::info!(version, "{} key dropped", kind.as_str());
                }
            }
        }
        Ok(())
    }

    /// Whether nothing lives under a wrapping version, for a while already, and no voter depends on it.
    fn is_left(&self, overview: &Overview, version: u32) -> bool {
        let mut progress = self.rewrapping(overview);
        if overview.live.iter().any(|(v, n)| *v == version && *n > 0) {
            progress.empty_since.remove(&version);
            return false;
        }
        let since = progress.empty_since.entry(version);
        let since = *since.or_insert_with(Instant::now);
        since.elapsed() >= self.0.options.drop_after && overview.wrapping_lacking.is_empty()
    }
}
