//! One run: a cluster, clients, a nemesis, a history, a verdict.
//!
//! ```text
//!  start ─▶ log in ─▶ clients ∥ nemesis ─▶ heal ─▶ wait ─▶ read everything ─▶ check
//! ```

mod clients;
mod faults;
mod judge;
mod record;
mod stalls;

use crate::analyze::{Analysis, analyze};
use crate::client::{Reach, Wallet};
use crate::cluster::{Cluster, Options, READY_MAX, topology};
use crate::doctor;
use crate::history::History;
use crate::verdict::{HarnessFailure, Verdict};
use crate::{nemesis, store, workload};
use anyhow::Context;
use clients::Team;
use judge::Seen;
use record::Recorder;
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One operation may take so long.
const OP_MAX: Duration = Duration::from_secs(5);
/// People whose accounts share the load: an account's budget of keys is finite.
const PEOPLE: usize = 8;
/// After everything is healed, every read succeeds within this.
const LAST_READS_MAX: Duration = Duration::from_secs(90);
/// Replicas are level within this.
const CONVERGE_MAX: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Spec {
    /// Workload.
    pub workload: String,
    /// Nemeses; none: a control.
    pub nemesis: Vec<String>,
    /// Topology: a name or a file.
    pub topology: String,
    /// Seed of schedule, switch and clients.
    pub seed: u64,
    /// Operations a second.
    pub rate: f64,
    /// Seconds of load.
    pub time_s: u64,
    /// Processes at a time.
    pub concurrency: u64,
    /// Links are as long as between the jurisdictions.
    pub distances: bool,
    /// More in the environment of every node.
    pub env: Vec<(String, String)>,
    /// The store.
    #[serde(skip)]
    pub store: PathBuf,
    /// Images are kept whatever the verdict.
    #[serde(skip)]
    pub keep: bool,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its directory.
    pub dir: PathBuf,
    /// What was found.
    pub results: Analysis,
}

/// A line about what goes on, on standard error.
pub fn say(what: &str) {
    use std::io::Write;
    // Nobody is there to be told that nobody listens.
    let _ = writeln!(std::io::stderr(), "{what}");
}

impl Spec {
    /// The name of the test in the store.
    pub fn test(&self) -> String {
        let faults = match self.nemesis.as_slice() {
            [] => "none".to_owned(),
            few if few.len() <= 3 => few.join("+"),
            many => format!("{}-faults", many.len()),
        };
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || "+-_".contains(c) {
                c
            } else {
                '_'
            }
        };
        format!("{}-{faults}", self.workload)
            .chars()
            .map(plain)
            .collect()
    }

    /// The command that repeats it.
    pub fn command(&self) -> String {
        let mut out = format!(
            "quorate-jepsen run --workload {} --topology {} --seed {} --rate {} --time {} --concurrency {}",
            self.workload, self.topology, self.seed, self.rate, self.time_s, self.concurrency
        );
        if !self.nemesis.is_empty() {
            out.push_str(&format!(" --nemesis {}", self.nemesis.join(",")));
        }
        if self.distances {
            out.push_str(" --distances");
        }
        for (name, value) in &self.env {
            out.push_str(&format!(" --env {name}={value}"));
        }
        out
    }
}

fn failed(during: &str) -> impl FnOnce(anyhow::Error) -> HarnessFailure + '_ {
    move |e| HarnessFailure {
        during: during.to_owned(),
        reason: format!("{e:#}"),
    }
}

/// Runs it. Must be called inside (see [`crate::machine::inside`]).
///
/// # Errors
/// [`HarnessFailure`]: nothing is said about the system.
pub async fn run(spec: &Spec, doctor: &doctor::Report) -> Result<Finished, HarnessFailure> {
    let needed = [
        &["root", "namespaces", "netns", "tun", "loop"][..],
        &nemesis::needs(&spec.nemesis),
    ]
    .concat();
    let missing = doctor.missing(&needed);
    if !missing.is_empty() {
        return Err(HarnessFailure {
            during: "looking what this machine can do (quorate-jepsen doctor)".into(),
            reason: missing.join("; "),
        });
    }
    for name in &spec.nemesis {
        nemesis::find(name).map_err(failed("choosing the nemesis"))?;
    }
    let dir =
        store::new_run(&spec.store, &spec.test()).map_err(failed("making the run's directory"))?;
    say(&format!("run in {}", dir.display()));
    let steps = nemesis::schedule(spec.seed, &spec.nemesis, Duration::from_secs(spec.time_s));
    let written = write_spec(&dir, spec, &steps, doctor);
    written.map_err(failed("writing the spec"))?;
    let seen = in_cluster(spec, &dir, &steps).await;
    let (seen, history) = match seen {
        Ok(both) => both,
        Err(e) => {
            say(&format!("images and logs are in {}", dir.display()));
            return Err(failed("running")(e));
        }
    };
    let own = judge::own_findings(&seen, steps.len(), &history);
    let written = store::write_json(&dir.join(judge::SEEN), &seen)
        .and_then(|()| store::write_json(&dir.join(judge::OWN), &own));
    written.map_err(failed("writing what the harness saw"))?;
    let results = analyze(&dir)?;
    if results.verdict != Verdict::False && !spec.keep {
        // Nothing mounts them any more that would be missed.
        let _ = std::fs::remove_dir_all(dir.join("disks"));
    }
    Ok(Finished { dir, results })
}

fn write_spec(
    dir: &Path,
    spec: &Spec,
    steps: &[nemesis::Step],
    doctor: &doctor::Report,
) -> anyhow::Result<()> {
    let mut value = serde_json::to_value(spec)?;
    value["command"] = json!(spec.command());
    value["schedule"] = json!(steps);
    value["doctor"] = json!(doctor);
    store::write_json(&dir.join(store::SPEC), &value)
}

async fn in_cluster(
    spec: &Spec,
    dir: &Path,
    steps: &[nemesis::Step],
) -> anyhow::Result<(Seen, History)> {
    let asked = |name: &str| spec.nemesis.iter().any(|n| n == name);
    let options = Options {
        topology: topology::find(&spec.topology)?,
        seed: spec.seed,
        distances: spec.distances,
        thin: asked("fsync"),
        clocks: asked("clock"),
        env: spec.env.clone(),
    };
    say("starting the cluster");
    let at = dir.to_owned();
    let (mut cluster, people) = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let cluster = Cluster::start(options, &at)?;
        let home = cluster.layout.clusters[0].name.clone();
        let log_in = |i| -> anyhow::Result<Arc<Wallet>> {
            let wallet = cluster.log_in(&format!("p{i}"))?;
            Ok(Arc::new(Wallet::load(&wallet, &home)?))
        };
        let people = (0..PEOPLE)
            .map(log_in)
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok((cluster, people))
    })
    .await??;
    let home = &cluster.layout.clusters[0];
    let ca = std::fs::read(&home.ca).with_context(|| format!("read {}", home.ca.display()))?;
    let start = Instant::now();
    let recorder = Arc::new(Recorder::new(start));
    let watch = stalls::Watch::begin(start);
    let team = Arc::new(Team {
        recorder: recorder.clone(),
        workload: workload::find(&spec.workload, people)?,
        reach: Reach::new(&ca, OP_MAX)?,
        nodes: home.nodes.iter().filter_map(|n| n.client).collect(),
        concurrency: spec.concurrency,
        rate: spec.rate,
        seed: spec.seed,
        late: AtomicU64::new(spec.concurrency),
    });
    say(&format!(
        "{} for {} s with {} processes; {} strikes",
        spec.workload,
        spec.time_s,
        spec.concurrency,
        steps.len()
    ));
    let until = start + Duration::from_secs(spec.time_s);
    let workers: Vec<_> = (0..spec.concurrency)
        .map(|w| tokio::spawn(team.clone().work(w, until)))
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let nemesis = {
        let (steps, recorder, stop) = (steps.to_vec(), recorder.clone(), stop.clone());
        tokio::task::spawn_blocking(move || {
            let report = faults::follow(&mut cluster, &steps, &recorder, &stop);
            (cluster, report)
        })
    };
    let interrupted = tokio::select! {
        _ = futures_all(workers) => false,
        _ = tokio::signal::ctrl_c() => true,
    };
    stop.store(true, Ordering::Relaxed);
    let (mut cluster, report) = nemesis.await?;
    let report = report?;
    anyhow::ensure!(!interrupted, "interrupted");
    say("healed; waiting until every node is ready");
    let healed = Instant::now();
    let mut recovery = Vec::new();
    let waited = tokio::task::spawn_blocking(move || {
        let ready = cluster.wait_ready(READY_MAX);
        (cluster, ready)
    });
    let (cluster, ready) = waited.await?;
    let ready_ms = ready.is_ok().then(|| healed.elapsed().as_millis() as u64);
    recovery.extend(ready.err().map(|e| format!("{e:#}")));
    if recovery.is_empty() {
        let missing = team.clone().read_all(LAST_READS_MAX).await;
        recovery.extend(
            missing
                .into_iter()
                .map(|m| format!("never read after the end: {m}")),
        );
        let level = tokio::task::spawn_blocking(move || {
            let scarred = cluster.nodes.iter().any(|n| n.scarred);
            let level = if scarred {
                Ok(())
            } else {
                cluster.converged(CONVERGE_MAX)
            };
            (cluster, level)
        });
        let (cluster, level) = level.await?;
        recovery.extend(level.err().map(|e| format!("{e:#}")));
        drop(cluster);
    }
    say(&format!("{} lines of history", recorder.lines()));
    let history = recorder
        .history()
        .context("the harness recorded what is no history")?;
    store::write_history(dir, &history)?;
    let seen = Seen {
        faults: report,
        recovery,
        ready_ms,
        stalls: watch.seen(),
    };
    Ok((seen, history))
}

async fn futures_all(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        // A worker that panicked is seen in the history: its operation never ends.
        let _ = task.await;
    }
}
