//! Looks after key versions and the house.
//!
//! On every node: fetch live key versions it lacks, say which it holds,
//! destroy those that are dropped or expired. On the leader besides: keep the
//! replicated voters equal to raft's, draw and spread new versions and put them
//! into use, have shares wrapped anew, drop old versions, sweep expired shares, approve
//! configured policies.
//!
//! A new leader answers homes only after one round found every live version
//! here; without them it asks the others, and gives leadership away when that
//! does not help.

use super::consensus::{Lead, view};
use super::internal::{Ask, KeyBytes, Told, ask};
use super::ring::fingerprint_of;
use super::{Custodian, vault};
use fail::fail_point;
use quorate_engine::authz::identity::AuthorityKeys;
use quorate_engine::custody::protocol::SealingKeyStatement;
use quorate_engine::custody::{
    self, ApprovePolicy, AttestKey, Command, DropVersion, Effect, ExpireShares, KeyKind, Operator,
    Overview, RegisterAuthority, RegisterHome, SEALING_LIFE_MS_MAX, UseVersion, VersionRow,
    VersionState, Voters,
};
use quorate_engine::policy::Policy;
use quorate_engine::types::NodeId;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often a change of leadership is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A leader that still lacks keys after this gives leadership away.
const LACKING_MAX: Duration = Duration::from_secs(5);
/// Longest wait for another node to keep or give a key.
const PEER_WAIT_MAX: Duration = Duration::from_secs(3);
/// Sweeps of expired shares in one round.
const SWEEPS_MAX: usize = 64;
/// A private sealing key outlives its expiry by this, for requests on their way.
const SEALING_GRACE_MS: u64 = 60_000;

pub(super) const KINDS: [KeyKind; 2] = [KeyKind::Wrapping, KeyKind::Sealing];

type Rows = Vec<(u32, VersionRow)>;

/// Replicated key versions, as applied here.
struct Seen {
    wrapping: Rows,
    sealing: Rows,
    overview: Overview,
    due: bool,
}

impl Seen {
    fn rows(&self, kind: KeyKind) -> &Rows {
        match kind {
            KeyKind::Wrapping => &self.wrapping,
            KeyKind::Sealing => &self.sealing,
        }
    }
    fn in_use(&self, kind: KeyKind) -> Option<u32> {
        match kind {
            KeyKind::Wrapping => self.overview.wrapping,
            KeyKind::Sealing => self.overview.sealing,
        }
    }
    fn row(&self, kind: KeyKind, version: u32) -> Option<&VersionRow> {
        let rows = self.rows(kind);
        rows.iter().find(|(v, _)| *v == version).map(|(_, r)| r)
    }
}

fn expired(row: &VersionRow, now_ms: u64, grace_ms: u64) -> bool {
    let statement = row.statement.as_ref();
    statement.is_some_and(|s| s.expires_ms.saturating_add(grace_ms) <= now_ms)
}

pub(super) async fn run(custodian: Custodian, stop: CancellationToken) {
    let mut looked: Option<Instant> = None;
    let mut lacking: Option<Instant> = None;
    let mut said = String::new();
    loop {
        let lead = custodian.0.consensus.lead();
        if lead.is_leader {
            custodian.0.gate.leads(lead.term);
        }
        let fresh = lead.is_leader && custodian.0.ready_term.load(Ordering::Acquire) != lead.term;
        let tick = custodian.0.options.tick;
        let fresh_open = fresh && custodian.unlocked();
        if fresh_open || looked.is_none_or(|at| at.elapsed() >= tick) {
            looked = Some(Instant::now());
            match custodian.look_after(lead, fresh).await {
                Ok(()) => {
                    lacking = None;
                    said.clear();
                }
                Err(why) => {
                    // Said once, until it changes.
                    if why != said {
                        tracing::warn!(node = custodian.0.consensus.node(), "keys: {why}");
                        said = why;
                    }
                    let since = *lacking.get_or_insert_with(Instant::now);
                    if fresh && custodian.unlocked() && since.elapsed() > LACKING_MAX {
                        lacking = None;
                        custodian.0.consensus.hand_over().await;
                    }
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

impl Custodian {
    async fn look_after(&self, lead: Lead, fresh: bool) -> Result<(), String> {
        if fresh {
            // What earlier leaders committed counts before anything is decided on it.
            let index = self.0.consensus.read_index().await;
            index.map_err(|e| e.to_string())?;
            self.compare_clocks().await;
        }
        let seen = self.see()?;
        self.0.figures.state(&seen.overview);
        self.0.figures.unlocked(self.unlocked());
        self.record_events(lead).await;
        // Peers that do not answer must not hold up anything here.
        let watch = self.clone();
        tokio::spawn(async move { watch.watch_peers().await });
        if !self.unlocked() {
            if self.restart_without_people().await {
                return Ok(());
            }
            if lead.is_leader {
                self.lead_elsewhere().await;
            }
            return Err("this node is locked; it follows, and serves nothing".into());
        }
        self.destroy_dead(&seen).await?;
        let lacking = self.fetch_missing(&seen, lead).await;
        self.attest_held(&seen, lead).await;
        if !lead.is_leader {
            return lacking;
        }
        lacking?;
        if fresh {
            self.0.ready_term.store(lead.term, Ordering::Release);
        }
        self.lead_house().await
    }

    fn see(&self) -> Result<Seen, String> {
        let now = self.now();
        view(&*self.0.consensus, |kv| {
            Ok(Seen {
                wrapping: custody::versions(kv, KeyKind::Wrapping)?,
                sealing: custody::versions(kv, KeyKind::Sealing)?,
                overview: custody::overview(kv)?,
                due: custody::due(kv, now)?,
            })
        })
        .map_err(|e| e.to_string())
    }

    /// Destroys key versions that are dropped, expired, or lost a draw.
    async fn destroy_dead(&self, seen: &Seen) -> Result<(), String> {
        let (ring, now) = (self.ring(), self.now());
        for kind in KINDS {
            for version in ring.versions(kind) {
                let Some(row) = seen.row(kind, version) else {
                    continue; // Drawn, and not attested yet.
                };
                let dead = row.state == VersionState::Dropped
                    || ring.fingerprint(kind, version) != Some(row.fingerprint)
                    || expired(row, now, SEALING_GRACE_MS);
                if dead {
                    fail_point!("custodian-key-before-destroy");
                    let destroyed = self.destroy_key(kind, version).await;
                    destroyed.map_err(|e| e.to_string())?;
                    tracing::info!(version, "{} key destroyed", kind.as_str());
                }
            }
        }
        Ok(())
    }

    /// Asks the other nodes for live versions that are not here.
    async fn fetch_missing(&self, seen: &Seen, lead: Lead) -> Result<(), String> {
        let (ring, now) = (self.ring(), self.now());
        let own = self.0.consensus.node();
        let mut lacking = Vec::new();
        for kind in KINDS {
            for (version, row) in seen.rows(kind) {
                let live = row.state != VersionState::Dropped && !expired(row, now, 0);
                if !live || ring.fingerprint(kind, *version).is_some() {
                    continue;
                }
                // Those who attested it first, the leader before all.
                let mut from: Vec<NodeId> = row.attested.iter().copied().collect();
                from.extend(self.0.consensus.members());
                from.retain(|n| *n != own);
                from.sort_by_key(|n| (lead.leader != Some(*n), !row.attested.contains(n)));
                from.dedup();
                let got = self.fetch(kind, *version, row, &from).await;
                if !got && row.state == VersionState::InUse {
                    lacking.push(format!("{} version {version}", kind.as_str()));
                }
            }
        }
        if lacking.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "this node lacks {}; it does not serve until a peer sends them",
                lacking.join(", ")
            ))
        }
    }

    async fn fetch(&self, kind: KeyKind, version: u32, row: &VersionRow, from: &[NodeId]) -> bool {
        for node in from {
            let what = Ask::Fetch { kind, version };
            let call = ask(&*self.0.peers, *node, &what);
            let told = tokio::time::timeout(PEER_WAIT_MAX, call).await;
            let Ok(Ok(Told::Key { key: Some(key) })) = told else {
                continue;
            };
            let key = key.take();
            if fingerprint_of(kind, &key) != row.fingerprint {
                continue;
            }
            match self.keep_key(kind, version, key).await {
                Ok(()) => return true,
                Err(e) => tracing::error!("a key version could not be kept: {e}"),
            }
        }
        false
    }

    /// Has every version that is durable here, and not recorded as such, recorded.
    async fn attest_held(&self, seen: &Seen, lead: Lead) {
        let (ring, own) = (self.ring(), self.0.consensus.node());
        for kind in KINDS {
            for version in ring.versions(kind) {
                let fingerprint = ring.fingerprint(kind, version);
                let open = seen.row(kind, version).filter(|r| {
                    r.state != VersionState::Dropped
                        && Some(r.fingerprint) == fingerprint
                        && !r.attested.contains(&own)
                });
                let Some(row) = open else { continue };
                let told = if lead.is_leader {
                    let command = attest(kind, version, row.fingerprint, own);
                    self.submit(command)
                        .await
                        .map(drop)
                        .map_err(|e| e.to_string())
                } else if let Some(leader) = lead.leader {
                    let what = Ask::Attested {
                        kind,
                        version,
                        fingerprint: row.fingerprint,
                    };
                    ask(&*self.0.peers, leader, &what).await.map(drop)
                } else {
                    continue;
                };
                if let Err(e) = told {
                    tracing::debug!("an attestation was not recorded yet: {e}");
                }
            }
        }
    }

    async fn lead_house(&self) -> Result<(), String> {
        let voters = self.0.consensus.voters();
        if !voters.is_empty() && self.see()?.overview.voters != voters {
            self.done(Command::Voters(Voters { voters })).await?;
        }
        let seen = self.see()?;
        // A rotation that lacks nodes must not keep shares from being destroyed at their time.
        let duties = [
            self.rotate_due(&seen).await,
            self.drop_expired(&seen).await,
            self.approve_configured(&seen).await,
            self.register_trusted().await,
            if seen.due { self.sweep().await } else { Ok(()) },
            self.rewrap_some(&seen.overview).await,
            self.drop_unused(&seen.overview, [&seen.wrapping, &seen.sealing])
                .await,
        ];
        let failed: Vec<String> = duties.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed.join("; "))
        }
    }

    async fn rotate_due(&self, seen: &Seen) -> Result<(), String> {
        let sealing = match self.sealing_is_due(seen) {
            true => self.roll(KeyKind::Sealing, seen).await.map(drop),
            false => Ok(()),
        };
        if self.wrapping_is_due(seen) {
            self.roll(KeyKind::Wrapping, seen).await?;
        }
        sealing
    }

    async fn drop_expired(&self, seen: &Seen) -> Result<(), String> {
        let now = self.now();
        for (version, row) in &seen.sealing {
            if row.state == VersionState::InUse && expired(row, now, SEALING_GRACE_MS) {
                let (kind, version) = (KeyKind::Sealing, *version);
                self.done(Command::DropVersion(DropVersion { kind, version }))
                    .await?;
            }
        }
        Ok(())
    }

    fn wrapping_is_due(&self, seen: &Seen) -> bool {
        let current = seen
            .in_use(KeyKind::Wrapping)
            .and_then(|v| seen.row(KeyKind::Wrapping, v));
        let rotate = ms(self.0.options.wrapping_rotate);
        current.is_none_or(|row| row.since_ms.saturating_add(rotate) <= self.now())
    }

    fn sealing_is_due(&self, seen: &Seen) -> bool {
        let current = seen
            .in_use(KeyKind::Sealing)
            .and_then(|v| seen.row(KeyKind::Sealing, v));
        let rotate = ms(self.0.options.sealing_rotate);
        let now = self.now();
        current.is_none_or(|row| row.since_ms.saturating_add(rotate) <= now || expired(row, now, 0))
    }

    /// Submits a command that must not be refused.
    pub(super) async fn done(&self, command: Command) -> Result<Effect, String> {
        let kind = command.kind();
        let effect = self.submit(command).await.map_err(|e| e.to_string())?;
        match effect.into_value().effect {
            Effect::Refused { reason } => Err(format!("{kind:?} was refused: {reason}")),
            effect => Ok(effect),
        }
    }

    /// Brings the next version of `kind` into use: draws it, or goes on with
    /// one that is drawn and attested in part.
    pub(super) async fn next_version(&self, kind: KeyKind) -> Result<u32, String> {
        let seen = self.see()?;
        self.roll(kind, &seen).await
    }

    async fn roll(&self, kind: KeyKind, seen: &Seen) -> Result<u32, String> {
        let ring = self.ring();
        let own = self.0.consensus.node();
        let current = seen.in_use(kind);
        let pending = seen.rows(kind).iter().rev().find(|(v, r)| {
            r.state == VersionState::Attesting
                && current.is_none_or(|c| c < *v)
                && ring.fingerprint(kind, *v) == Some(r.fingerprint)
        });
        // Drawn here, or by a leader that did not get as far as attesting it.
        let mut held = ring.versions(kind).into_iter().rev();
        let drawn = held.find(|v| current.is_none_or(|c| c < *v) && seen.row(kind, *v).is_none());
        let (version, attested) = match (pending, drawn) {
            (Some((version, row)), _) => (*version, row.attested.clone()),
            (None, Some(version)) => (version, BTreeSet::new()),
            (None, None) => {
                let known = seen.rows(kind).iter().map(|(v, _)| *v);
                let highest = known.chain(ring.versions(kind)).max().unwrap_or(0);
                let version = highest + 1;
                let key = vault::draw().map_err(|e| e.to_string())?;
                let kept = self.keep_key(kind, version, key).await;
                kept.map_err(|e| e.to_string())?;
                fail_point!("custodian-key-drawn");
                (version, BTreeSet::new())
            }
        };
        let fingerprint = self
            .ring()
            .fingerprint(kind, version)
            .ok_or("the version was destroyed meanwhile")?;
        let mut others = self.0.consensus.members();
        others.remove(&own);
        others.retain(|n| !attested.contains(n));
        let sends = others
            .into_iter()
            .map(|n| self.send_key(n, kind, version, fingerprint));
        let mut have: BTreeSet<NodeId> = futures::future::join_all(sends)
            .await
            .into_iter()
            .flatten()
            .collect();
        fail_point!("custodian-key-handed-over");
        if !attested.contains(&own) {
            have.insert(own);
        }
        let voters = &seen.overview.voters;
        let held = attested.union(&have).filter(|n| voters.contains(n)).count();
        let attests = have
            .into_iter()
            .map(|n| self.done(attest(kind, version, fingerprint, n)));
        for done in futures::future::join_all(attests).await {
            done?;
        }
        // `apply` would refuse it, too; a refusal in every round would fill the log.
        if held * 2 <= voters.len() {
            return Err(format!(
                "{} version {version} is held by {held} of {} voters, a majority is needed",
                kind.as_str(),
                voters.len()
            ));
        }
        fail_point!("custodian-key-attested");
        let statement = self.statement(kind, version)?;
        self.done(Command::UseVersion(UseVersion {
            kind,
            version,
            fingerprint,
            statement,
        }))
        .await?;
        tracing::info!(version, "{} key in use", kind.as_str());
        Ok(version)
    }

    async fn send_key(
        &self,
        node: NodeId,
        kind: KeyKind,
        version: u32,
        fingerprint: [u8; 32],
    ) -> Option<NodeId> {
        let what = {
            let vault = self.0.vault.lock().expect("no holder panics");
            let key = KeyBytes::of(vault.get(kind, version)?);
            Ask::Keep { kind, version, key }
        };
        if !self.may_have_keys(node, false).await {
            tracing::warn!(
                node,
                version,
                "{} key not sent: the node is locked",
                kind.as_str()
            );
            return None;
        }
        let call = ask(&*self.0.peers, node, &what);
        match tokio::time::timeout(PEER_WAIT_MAX, call).await {
            Ok(Ok(Told::Kept { fingerprint: f })) if f == fingerprint => Some(node),
            Ok(Err(e)) => {
                tracing::warn!(node, version, "{} key not kept: {e}", kind.as_str());
                None
            }
            _ => None,
        }
    }

    fn statement(
        &self,
        kind: KeyKind,
        version: u32,
    ) -> Result<Option<SealingKeyStatement>, String> {
        if kind == KeyKind::Wrapping {
            return Ok(None);
        }
        let ring = self.ring();
        let key = ring.sealing(version).ok_or("the version is not loaded")?;
        let life = ms(self.0.options.sealing_life).min(SEALING_LIFE_MS_MAX);
        Ok(Some(SealingKeyStatement::sign(
            &self.0.place.deployment,
            self.0.place.custodian.clone(),
            version,
            key.public(),
            self.now().saturating_add(life),
            &self.0.signing.log,
        )))
    }

    async fn approve_configured(&self, seen: &Seen) -> Result<(), String> {
        for canonical in &self.0.options.policies {
            let policy = Policy::from_canonical(canonical).map_err(|e| e.to_string())?;
            if seen.overview.policies.contains(&policy.id()) {
                continue;
            }
            // From then on policies are theirs to approve; asking would only fill the log.
            let officers = view(&*self.0.consensus, |kv| custody::roster(kv));
            if officers.map_err(|e| e.to_string())?.is_some() {
                return Ok(());
            }
            self.done(Command::ApprovePolicy(ApprovePolicy {
                operator: Operator {
                    name: "configuration".into(),
                    certificate: [0; 32],
                },
                reason: "in the configuration of the leading node".into(),
                canonical: canonical.clone(),
            }))
            .await?;
        }
        Ok(())
    }

    /// Homes' entities and identity authorities of this node's trust directory. Its own officers
    /// put the descriptors there after comparing fingerprints.
    async fn register_trusted(&self) -> Result<(), String> {
        let (authorities, homes) = view(&*self.0.consensus, |kv| {
            Ok((custody::authorities(kv)?, custody::homes(kv)?))
        })
        .map_err(|e| e.to_string())?;
        let operator = || Operator {
            name: "trust".into(),
            certificate: [0; 32],
        };
        let reason = || "in the trust directory of the leading node".to_owned();
        for (home, entity) in self.0.neighbours.homes() {
            if homes.get(&home) != Some(&entity) {
                let what = format!("home {home} of {entity}");
                let command = Command::RegisterHome(RegisterHome {
                    operator: operator(),
                    reason: reason(),
                    home,
                    entity,
                });
                self.register_once(what, command).await?;
            }
        }
        for (record, rotations) in self.0.neighbours.authorities() {
            let Some(known) = authorities.get(&record.id) else {
                let what = format!("identity authority {}", record.id);
                let command = Command::RegisterAuthority(RegisterAuthority {
                    operator: operator(),
                    reason: reason(),
                    record,
                });
                self.register_once(what, command).await?;
                continue;
            };
            // One key a round: the next round sees what this one led to.
            let newest = known.keys.last().map_or(0, |k| k.version);
            let next = rotations.into_iter().find(|r| {
                let says = r.read::<AuthorityKeys>("statement of an authority's keys");
                says.is_ok_and(|s| s.authority == known.id && s.key.version > newest)
            });
            if let Some(statement) = next {
                // Not the payload's hash: the same words rightly signed are another statement.
                let signed = statement.signatures.iter().map(|s| s.signature.as_str());
                let signed = signed.collect::<Vec<_>>().join(" ");
                let what = format!("a statement key of {}, signed {signed}", known.id);
                self.register_once(what, Command::RotateAuthority(statement))
                    .await?;
            }
        }
        Ok(())
    }

    /// Registers once: what `apply` refuses is said, and not proposed again by this process.
    async fn register_once(&self, what: String, command: Command) -> Result<(), String> {
        if self.0.exchange.was_refused(&what) {
            return Ok(());
        }
        let committed = self.submit(command).await.map_err(|e| e.to_string())?;
        match committed.into_value().effect {
            Effect::Refused { reason } => {
                tracing::error!("{what} is in the trust directory and not registered: {reason}");
                self.0.exchange.refuse(what);
            }
            _ => tracing::info!("registered: {what}"),
        }
        Ok(())
    }

    async fn sweep(&self) -> Result<(), String> {
        for _ in 0..SWEEPS_MAX {
            let up_to_ms = self.now();
            let effect = self
                .done(Command::ExpireShares(ExpireShares { up_to_ms }))
                .await?;
            if !matches!(effect, Effect::Expired { more: true, .. }) {
                break;
            }
        }
        Ok(())
    }
}

fn attest(kind: KeyKind, version: u32, fingerprint: [u8; 32], node: NodeId) -> Command {
    Command::AttestKey(AttestKey {
        kind,
        version,
        fingerprint,
        node,
    })
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
