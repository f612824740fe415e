//! The nemesis at work: a thread that follows the schedule.

use super::record::Recorder;
use crate::cluster::Cluster;
use crate::history::{Kind, Process, Value};
use crate::nemesis::{self, Outcome, Step};
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What became of a step.
#[derive(Clone, Debug, Serialize)]
pub struct Struck {
    /// The step.
    pub step: Step,
    /// What the strike came to.
    pub outcome: Outcome,
    /// Whether it hit, and what was seen or not seen.
    pub hit: bool,
    /// In words.
    pub seen: String,
}

/// What the nemesis saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Every step that was reached.
    pub struck: Vec<Struck>,
    /// Nodes that ended though nothing was done to them, with the ends of their logs.
    pub ended: Vec<String>,
}

/// Follows `steps`; ends early when `stop` is set. Whatever holds is healed.
///
/// # Errors
/// When a fault could not be healed, with the report so far lost: the run fails.
pub fn follow(
    cluster: &mut Cluster,
    steps: &[Step],
    recorder: &Arc<Recorder>,
    stop: &AtomicBool,
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for step in steps {
        wait(recorder, step.at_ms, stop);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        look(cluster, &mut report)?;
        report.struck.push(one(cluster, step, recorder, stop)?);
    }
    look(cluster, &mut report)?;
    Ok(report)
}

fn one(
    cluster: &mut Cluster,
    step: &Step,
    recorder: &Recorder,
    stop: &AtomicBool,
) -> anyhow::Result<Struck> {
    let name = step.nemesis.split(':').next().unwrap_or("script");
    let mut nemesis = nemesis::find(&step.nemesis)?;
    let say = |f: &str, value: Value| recorder.push(Process::Nemesis, Kind::Info, f, value, None);
    say(name, Value::Nil);
    let outcome = nemesis.strike(cluster, &mut nemesis::dice(step));
    let outcome = outcome.unwrap_or_else(|e| Outcome::Indeterminate {
        why: format!("{e:#}"),
    });
    say(name, value(&outcome));
    crate::run::say(&format!("{name}: {}", words(&outcome)));
    if !matches!(outcome, Outcome::Skipped { .. }) {
        let held = recorder.start().elapsed().as_millis() as u64 + step.hold_ms;
        wait(recorder, held, stop);
    }
    let seen = nemesis.hit(cluster);
    let heal = format!("heal-{name}");
    say(&heal, Value::Nil);
    nemesis
        .heal(cluster)
        .with_context(|| format!("heal {name} ({})", words(&outcome)))?;
    let hit = seen.is_ok() && matches!(outcome, Outcome::Installed { .. });
    let seen = seen.unwrap_or_else(|not| not);
    say(&heal, Value::Text(seen.clone()));
    crate::run::say(&format!("healed {name}: {seen}"));
    Ok(Struck {
        step: step.clone(),
        outcome,
        hit,
        seen,
    })
}

fn wait(recorder: &Recorder, until_ms: u64, stop: &AtomicBool) {
    let until = recorder.start() + Duration::from_millis(until_ms);
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(
            Duration::from_millis(20).min(until.saturating_duration_since(Instant::now())),
        );
    }
}

/// Notes nodes that ended by themselves, and starts them again.
fn look(cluster: &mut Cluster, report: &mut Report) -> anyhow::Result<()> {
    for at in 0..cluster.nodes.len() {
        let node = &mut cluster.nodes[at];
        let Some(code) = node.process.as_mut().and_then(|p| p.ended()) else {
            continue;
        };
        if node.scarred {
            continue;
        }
        let end = crate::machine::process::tail(&node.log, 15);
        report
            .ended
            .push(format!("{} ended with {code:?}:\n{end}", node.name));
        cluster.kill_node(at);
        cluster.start_node(at)?;
    }
    Ok(())
}

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Installed { what, nodes, .. } => format!("{what}: {}", nodes.join(", ")),
        Outcome::Skipped { why } => format!("skipped: {why}"),
        Outcome::Indeterminate { why } => format!("indeterminate: {why}"),
    }
}

fn value(outcome: &Outcome) -> Value {
    let text = |s: &String| Value::Text(s.clone());
    let list = |all: &[String]| Value::List(all.iter().map(text).collect());
    let (name, rest) = match outcome {
        Outcome::Installed { what, nodes, led } => (
            "installed",
            vec![
                ("what", text(what)),
                ("nodes", list(nodes)),
                ("led", list(led)),
            ],
        ),
        Outcome::Skipped { why } => ("skipped", vec![("why", text(why))]),
        Outcome::Indeterminate { why } => ("indeterminate", vec![("why", text(why))]),
    };
    let mut map = BTreeMap::from([("outcome".to_owned(), Value::Keyword(name.into()))]);
    map.extend(rest.into_iter().map(|(k, v)| (k.to_owned(), v)));
    Value::Map(map)
}
