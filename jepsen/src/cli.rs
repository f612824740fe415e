//! The command line.

use crate::analyze::{Analysis, analyze};
use crate::machine::inside;
use crate::run::{Spec, run, say};
use crate::verdict::{EXIT_HARNESS_FAILED, Verdict};
use crate::{cluster, doctor, nemesis, store, workload};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "Exit codes:\n  \
    0  every checker says true\n  \
    1  at least one says false\n  \
    2  none says false, at least one cannot tell\n  \
    3  the harness failed, or a fault that was asked for is not available here";

/// Hurts a deployment of real processes, and checks what its clients saw
#[derive(Debug, Parser)]
#[command(name = "quorate-jepsen", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what this machine can do to a deployment
    Doctor(Doctor),
    /// List workloads, nemeses and topologies
    List,
    /// One run: a cluster, clients, faults, a verdict
    Run(Run),
    /// Several runs, one after the other
    Suite(Suite),
    /// Run with one seed after the other until something is false
    Soak(Soak),
    /// Ask whether planted bugs are found; needs a quorate-node built with the feature `mutants`
    SelfTest(SelfTest),
    /// Check a recorded run again; needs no cluster
    Analyze {
        /// The run's directory, such as store/latest
        dir: PathBuf,
        /// Print results.json
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Fail with exit code 3 unless these work (comma-separated names)
    #[arg(long, value_delimiter = ',')]
    need: Vec<String>,
}

#[derive(Clone, Debug, Args)]
struct Common {
    /// Topology: a name from `list`, or a file
    #[arg(long, default_value = "small")]
    topology: String,
    /// Operations a second, all processes together
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Processes at a time
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=200))]
    concurrency: u64,
    /// Where runs are kept
    #[arg(long, default_value = "store")]
    store: PathBuf,
    /// Links are as long as between the jurisdictions
    #[arg(long)]
    distances: bool,
    /// More in the environment of every node, NAME=VALUE
    #[arg(long, value_parser = pair)]
    env: Vec<(String, String)>,
    /// Keep disk images whatever the verdict
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Debug, Args)]
struct Run {
    /// What clients do
    #[arg(long, default_value = "append")]
    workload: String,
    /// What is done to the deployment, comma-separated; none: a control
    #[arg(long, value_delimiter = ',')]
    nemesis: Vec<String>,
    /// Seconds of load
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    time: u64,
    /// Seed of the schedule, the switch and the clients; drawn unless told
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Suite {
    /// Which
    #[arg(value_parser = ["smoke", "nightly"])]
    name: String,
    /// Seed of the first run; each later run has the next
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Soak {
    #[command(flatten)]
    run: Run,
    /// Stop after so many runs
    #[arg(long, default_value_t = u64::MAX)]
    runs: u64,
}

#[derive(Debug, Args)]
struct SelfTest {
    /// Only these, comma-separated; `none` is the control [default: all, and the control]
    #[arg(long, value_delimiter = ',')]
    mutant: Vec<String>,
    /// Only the three that are found fastest, and the control
    #[arg(long, conflicts_with = "mutant")]
    fast: bool,
    /// Runs with different seeds until a bug is found
    #[arg(long, default_value_t = 3)]
    tries: u64,
    /// Where runs are kept
    #[arg(long, default_value = "store")]
    store: PathBuf,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is wanted")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Run {
    fn spec(&self, seed: u64) -> Spec {
        Spec {
            workload: self.workload.clone(),
            nemesis: self
                .nemesis
                .iter()
                .filter(|n| *n != "none")
                .cloned()
                .collect(),
            topology: self.common.topology.clone(),
            seed,
            rate: self.common.rate,
            time_s: self.time,
            concurrency: self.common.concurrency,
            distances: self.common.distances,
            env: self.common.env.clone(),
            store: self.common.store.clone(),
            keep: self.common.keep,
        }
    }
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let code = match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(command(cli.command));
            runtime.shutdown_background();
            code
        }
        Err(e) => Err(e.into()),
    };
    ExitCode::from(code.unwrap_or_else(|e| {
        say(&format!("quorate-jepsen: {e:#}"));
        EXIT_HARNESS_FAILED
    }))
}

async fn command(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Doctor(args) => look(&args),
        Command::List => {
            list();
            Ok(0)
        }
        Command::Analyze { dir, json } => {
            let results = analyze(&dir)?;
            if json {
                print(std::fs::read_to_string(dir.join(store::RESULTS))?.trim_end());
            }
            tell(&results, &dir);
            Ok(results.verdict.exit_code())
        }
        Command::Run(args) => match outside().await? {
            Some(code) => Ok(code),
            None => {
                let seed = args
                    .seed
                    .unwrap_or_else(|| u64::from(rand::random::<u32>()));
                one(&args.spec(seed)).await
            }
        },
        Command::Soak(args) => soak(&args).await,
        Command::Suite(args) => suite(&args).await,
        Command::SelfTest(args) => self_test(&args).await,
    }
}

/// Inside: prepares, and nothing to return. Outside: runs everything inside; its code.
async fn outside() -> anyhow::Result<Option<u8>> {
    if inside::is_inside() {
        inside::settle()?;
        return Ok(None);
    }
    inside::run_inside().await.map(Some)
}

async fn one(spec: &Spec) -> anyhow::Result<u8> {
    let doctor = doctor::probe(&std::env::temp_dir())?;
    let finished = run(spec, &doctor).await?;
    tell(&finished.results, &finished.dir);
    if finished.results.verdict != Verdict::True {
        say(&format!(
            "repeat it with (the same faults at the same times; the clients' timing differs):\n  {}",
            spec.command()
        ));
    }
    Ok(finished.results.verdict.exit_code())
}

/// Runs this program again, for a run in namespaces of its own.
async fn child(spec: &Spec) -> anyhow::Result<u8> {
    let mut words: Vec<String> = spec
        .command()
        .split(' ')
        .skip(1)
        .map(str::to_owned)
        .collect();
    words.extend(["--store".into(), spec.store.display().to_string()]);
    if spec.keep {
        words.push("--keep".into());
    }
    let status = tokio::process::Command::new(std::env::current_exe()?)
        .args(words)
        .status()
        .await?;
    let code = status.code().and_then(|c| u8::try_from(c).ok());
    Ok(code.unwrap_or(EXIT_HARNESS_FAILED))
}

async fn soak(args: &Soak) -> anyhow::Result<u8> {
    let first = args
        .run
        .seed
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mut worst = 0;
    for n in 0..args.runs {
        let spec = args.run.spec(first.wrapping_add(n));
        let code = child(&spec).await?;
        say(&format!(
            "run {} with seed {}: exit code {code}",
            n + 1,
            spec.seed
        ));
        if code == Verdict::False.exit_code() || code == EXIT_HARNESS_FAILED {
            return Ok(code);
        }
        worst = worst.max(code);
    }
    Ok(worst)
}

/// Workload, nemeses, topology, seconds.
type Line = (&'static str, &'static [&'static str], &'static str, u64);

const SMOKE: &[Line] = &[
    ("append", &[], "tiny", 20),
    ("append", &["kill", "partition"], "small", 60),
    ("set", &["power", "pause"], "small", 60),
    ("register", &["partition", "kill"], "tiny", 60),
    ("append", &["slow", "lossy"], "clustered", 60),
];

const NIGHTLY: &[Line] = &[
    (
        "append",
        &["kill", "pause", "partition", "power", "slow", "lossy"],
        "small",
        300,
    ),
    (
        "append",
        &["kill", "pause", "partition", "power", "clock"],
        "clustered",
        300,
    ),
    (
        "register",
        &["kill", "pause", "partition", "power"],
        "small",
        300,
    ),
    (
        "register",
        &["partition", "slow", "lossy", "pause"],
        "clustered",
        300,
    ),
    ("set", &["power", "disk-full", "kill"], "small", 300),
    ("set", &["fsync", "partition", "bitflip"], "small", 300),
    (
        "append",
        &["freeze", "partition-custodians", "partition-jurisdiction"],
        "wide",
        300,
    ),
];

async fn suite(args: &Suite) -> anyhow::Result<u8> {
    let lines = if args.name == "smoke" { SMOKE } else { NIGHTLY };
    let mut summary = Vec::new();
    for (n, (workload, nemesis, topology, time)) in lines.iter().enumerate() {
        let mut common = args.common.clone();
        common.topology = (*topology).to_owned();
        let run = Run {
            workload: (*workload).to_owned(),
            nemesis: nemesis.iter().map(|n| (*n).to_owned()).collect(),
            time: *time,
            seed: None,
            common,
        };
        let spec = run.spec(args.seed + n as u64);
        let code = child(&spec).await?;
        let what = match code {
            0 => "true",
            1 => "false",
            2 => "unknown",
            _ => "HARNESS FAILED",
        };
        summary.push((code, format!("{what:<8} {}", spec.command())));
    }
    for (_, line) in &summary {
        print(line);
    }
    // Worst first: false over a failed harness over unknown over true.
    let codes: Vec<u8> = summary.iter().map(|(code, _)| *code).collect();
    Ok([1, 3, 2]
        .into_iter()
        .find(|c| codes.contains(c))
        .unwrap_or(0))
}

/// Planted bug, workload, nemeses, seconds, operations a second. The first three are the fastest.
const MUTANTS: &[(&str, &str, &[&str], u64, u64)] = &[
    ("acknowledge-before-commit", "append", &[], 20, 40),
    ("write-dropped", "append", &[], 20, 40),
    ("page-repeats", "append", &[], 20, 40),
    ("page-reversed", "append", &[], 20, 40),
    ("page-cuts-last", "append", &[], 20, 40),
    ("revision-ignored", "register", &[], 30, 60),
    ("apply-skips", "append", &["kill"], 40, 40),
    (
        "stale-read",
        "register",
        &["partition-one", "pause"],
        60,
        40,
    ),
    (
        "timeout-as-failure",
        "append",
        &["partition-one", "partition-bridge", "kill"],
        90,
        40,
    ),
    ("skip-fsync", "set", &["power-all"], 60, 60),
    (
        "flush-not-awaited",
        "set",
        &["power-all", "power-home"],
        90,
        80,
    ),
    (
        "vote-not-kept",
        "append",
        &["kill-home", "partition-one"],
        120,
        40,
    ),
];
/// How many of them `--fast` takes.
const FAST: usize = 3;

/// Each planted bug must be found: a verdict of false. Without any, the same runs must not be false.
async fn self_test(args: &SelfTest) -> anyhow::Result<u8> {
    let count = if args.fast { FAST } else { MUTANTS.len() };
    let asked = |name: &str| args.mutant.is_empty() || args.mutant.iter().any(|m| m == name);
    for name in &args.mutant {
        anyhow::ensure!(
            name == "none" || MUTANTS.iter().any(|m| m.0 == name),
            "no planted bug {name:?}: choose of {}",
            MUTANTS.iter().map(|m| m.0).collect::<Vec<_>>().join(", ")
        );
    }
    let mut bad = 0;
    let mut lines = Vec::new();
    for (name, workload, nemesis, time, rate) in MUTANTS[..count].iter().filter(|m| asked(m.0)) {
        let spec = |seed, env| Spec {
            workload: (*workload).to_owned(),
            nemesis: nemesis.iter().map(|n| (*n).to_owned()).collect(),
            topology: "tiny".into(),
            seed,
            rate: *rate as f64,
            time_s: *time,
            concurrency: 6,
            distances: false,
            env,
            store: args.store.clone(),
            keep: false,
        };
        let (mut found, mut tried, mut codes) = (false, 0, Vec::new());
        while tried < args.tries && !found {
            tried += 1;
            let code = child(&spec(
                tried,
                vec![("QUORATE_MUTANT".to_owned(), (*name).to_owned())],
            ))
            .await?;
            codes.push(code.to_string());
            found = code == Verdict::False.exit_code();
        }
        bad += u32::from(!found);
        lines.push(match found {
            true => format!(
                "found      {name} (run {tried}; exit codes {})",
                codes.join(", ")
            ),
            false => format!("NOT FOUND  {name} (exit codes {})", codes.join(", ")),
        });
    }
    if asked("none") {
        let run = Run {
            workload: "append".into(),
            nemesis: vec!["kill".into(), "partition".into()],
            time: 40,
            seed: None,
            common: Common {
                topology: "tiny".into(),
                rate: 40.0,
                concurrency: 6,
                store: args.store.clone(),
                distances: false,
                env: Vec::new(),
                keep: false,
            },
        };
        let code = child(&run.spec(1)).await?;
        let clean = code == Verdict::True.exit_code();
        bad += u32::from(!clean);
        lines.push(format!(
            "{} none (exit code {code})",
            if clean { "clean     " } else { "NOT CLEAN " }
        ));
    }
    lines.iter().for_each(|line| print(line));
    Ok(if bad == 0 {
        0
    } else {
        Verdict::False.exit_code()
    })
}

fn look(args: &Doctor) -> anyhow::Result<u8> {
    let report = doctor::probe(&std::env::temp_dir())?;
    match args.json {
        true => print(&serde_json::to_string_pretty(&report)?),
        false => print(report.table().trim_end()),
    }
    let need: Vec<&str> = args.need.iter().map(String::as_str).collect();
    let missing = report.missing(&need);
    if missing.is_empty() {
        return Ok(0);
    }
    for what in missing {
        say(&format!("missing: {what}"));
    }
    Ok(EXIT_HARNESS_FAILED)
}

fn list() {
    let mut out = String::from("workloads:\n");
    let mut section = |name: &str, what: &str| out.push_str(&format!("  {name:<22} {what}\n"));
    for (name, what) in workload::WORKLOADS {
        section(name, what);
    }
    section("", "");
    for known in nemesis::NEMESES {
        section(known.name, known.what);
    }
    section(
        "script:PATH",
        "your own program, run with `strike` and with `heal`",
    );
    section("", "");
    for (name, what) in cluster::topology::BUILT_IN {
        section(name, what);
    }
    print(out.trim_end());
}

/// The shortest evidence first, then one line for each other checker that is not satisfied.
fn tell(results: &Analysis, dir: &std::path::Path) {
    if let Some((checker, evidence)) = results.shortest() {
        let lines: Vec<String> = evidence.ops.iter().map(u64::to_string).collect();
        let at = match lines.is_empty() {
            true => String::new(),
            false => format!("\n  lines of the history: {}", lines.join(", ")),
        };
        say(&format!("{checker}: {}{at}", evidence.what));
    }
    let unhappy = results
        .results
        .iter()
        .filter(|(_, r)| r.verdict != Verdict::True);
    for (name, result) in unhappy {
        let why = result
            .evidence
            .first()
            .map_or("", |e| e.what.lines().next().unwrap_or(""));
        say(&format!("{} {name}: {why}", shown(result.verdict)));
    }
    let at = dir.join(store::RESULTS);
    print(&format!(
        "valid? {}  {}",
        shown(results.verdict),
        at.display()
    ));
}

fn shown(verdict: Verdict) -> String {
    serde_json::to_string(&verdict).unwrap_or_default()
}

fn print(text: &str) {
    use std::io::Write;
    // A reader that went away has had enough.
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_that_repeats_a_run_asks_for_the_same_run() {
        let words = "quorate-jepsen run --workload set --nemesis kill,power --topology tiny --seed 9 --rate 5 --time 30 --concurrency 4 --distances --env A=b";
        let Command::Run(run) = Cli::parse_from(words.split(' ')).command else {
            panic!("run")
        };
        let spec = run.spec(run.seed.unwrap());
        let Command::Run(again) = Cli::parse_from(spec.command().split(' ')).command else {
            panic!("run")
        };
        let again = again.spec(again.seed.unwrap());
        assert_eq!(
            serde_json::to_value(&spec).unwrap(),
            serde_json::to_value(&again).unwrap()
        );
    }

    #[test]
    fn suites_name_what_exists() {
        for (workload, nemeses, topology, _) in SMOKE.iter().chain(NIGHTLY) {
            assert!(workload::WORKLOADS.iter().any(|(n, _)| n == workload));
            assert!(nemeses.iter().all(|n| nemesis::find(n).is_ok()));
            assert!(cluster::topology::find(topology).is_ok());
        }
    }
}
