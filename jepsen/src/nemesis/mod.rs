//! What is done to a deployment, and when.
//!
//! A nemesis strikes and heals; between the two its fault holds. An own one is
//! a type with [`Nemesis`] and a line in [`NEMESES`], or a program named as
//! `script:PATH`, which is run with `strike` and with `heal`.
//!
//! The schedule follows from the seed alone: times, faults, and the dice each
//! strike gets. Where a nemesis looks for a leader, the node it finds is not in
//! the seed; the history has it.

mod disk;
mod links;
mod nodes;
mod script;

use crate::cluster::Cluster;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::time::Duration;

/// What a strike came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The fault is there.
    Installed {
        /// What was done to what, in words.
        what: String,
        /// Nodes that it is about, by name.
        nodes: Vec<String>,
        /// Raft groups that those nodes led right before.
        led: Vec<String>,
    },
    /// It was not tried.
    Skipped {
        /// Why.
        why: String,
    },
    /// It was tried, and nobody knows how far it came.
    Indeterminate {
        /// Why.
        why: String,
    },
}

/// A fault.
pub trait Nemesis: Send {
    /// Makes it.
    ///
    /// # Errors
    /// When it is not known how far it came; [`Nemesis::heal`] is called all the same.
    fn strike(&mut self, cluster: &mut Cluster, dice: &mut ChaCha8Rng) -> anyhow::Result<Outcome>;

    /// Whether it hit: asked right before [`Nemesis::heal`]. `Err` has what was not seen.
    fn hit(&mut self, cluster: &mut Cluster) -> Result<String, String> {
        let _ = cluster;
        Ok("nothing to be seen".into())
    }

    /// Takes it away.
    ///
    /// # Errors
    /// When it could not be: the run fails.
    fn heal(&mut self, cluster: &mut Cluster) -> anyhow::Result<()>;
}

/// A nemesis that can be asked for.
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// What it does, in words.
    pub what: &'static str,
    /// What the machine must be able to do, by the names of `doctor`.
    pub needs: &'static [&'static str],
    make: fn() -> Box<dyn Nemesis>,
}

/// Every built-in one.
pub const NEMESES: &[Known] = &[
    Known {
        name: "kill",
        what: "kill -9 of one node, the leader's, a whole cluster or everything",
        needs: &[],
        make: || Box::new(nodes::Kill::default()),
    },
    Known {
        name: "kill-home",
        what: "kill -9 of every home node at once",
        needs: &[],
        make: || Box::new(nodes::Kill::of(Victims::Home)),
    },
    Known {
        name: "pause",
        what: "SIGSTOP of nodes, a leader first; SIGCONT later",
        needs: &[],
        make: || Box::new(nodes::Pause::default()),
    },
    Known {
        name: "clock",
        what: "wall clocks of a minority of a cluster jump by seconds to an hour",
        needs: &["faketime"],
        make: || Box::new(nodes::Clock::default()),
    },
    Known {
        name: "freeze",
        what: "a custodian's operator freezes everything, and thaws it",
        needs: &[],
        make: || Box::new(nodes::Freeze::default()),
    },
    Known {
        name: "partition",
        what: "any of the partitions below",
        needs: &["tun"],
        make: || Box::new(links::Partition::any()),
    },
    Known {
        name: "partition-one",
        what: "one home node is cut from all others; clients still reach it",
        needs: &["tun"],
        make: || Box::new(links::Partition::of(links::Shape::One)),
    },
    Known {
        name: "partition-half",
        what: "all nodes in two halves",
        needs: &["tun"],
        make: || Box::new(links::Partition::of(links::Shape::Half)),
    },
    Known {
        name: "partition-one-way",
        what: "what one home node sends does not arrive, or nothing arrives at it",
        needs: &["tun"],
        make: || Box::new(links::Partition::of(links::Shape::OneWay)),
    },
    Known {
        name: "partition-ring",
        what: "each home node hears only its neighbour on one side",
        needs: &["tun"],
        make: || Box::new(links::Partition::of(links::Shape::Ring)),
    },
    Known {
        name: "partition-bridge",
        what: "two home nodes do not hear each other, both hear the third",
        needs: &["tun"],
        make: || Box::new(links::Partition::of(links::Shape::Bridge)),
    },
    Known {
        name: "partition-jurisdiction",
        what: "everything in one custodian's jurisdiction is cut off",
        needs: &["tun"],
        make: || Box::new(links::Partition::of(links::Shape::Jurisdiction)),
    },
    Known {
        name: "partition-custodians",
        what: "the home is cut from some of its custodians, or from all",
        needs: &["tun"],
        make: || Box::new(links::Partition::of(links::Shape::Custodians)),
    },
    Known {
        name: "slow",
        what: "some hundred milliseconds with jitter on links, or a few hundred kilobytes a second",
        needs: &["tun"],
        make: || Box::new(links::Links::slow()),
    },
    Known {
        name: "lossy",
        what: "packets are lost, doubled and reordered",
        needs: &["tun"],
        make: || Box::new(links::Links::lossy()),
    },
    Known {
        name: "power",
        what: "power cuts of one node, the home, a custodian or everything",
        needs: &["loop", "ext4-shutdown"],
        make: || Box::new(disk::Power::default()),
    },
    Known {
        name: "power-home",
        what: "a power cut of every home node at once",
        needs: &["loop", "ext4-shutdown"],
        make: || Box::new(disk::Power::of(Victims::Home)),
    },
    Known {
        name: "power-all",
        what: "a power cut of everything at once",
        needs: &["loop", "ext4-shutdown"],
        make: || Box::new(disk::Power::of(Victims::All)),
    },
    Known {
        name: "disk-full",
        what: "one home node's disk is full",
        needs: &["loop"],
        make: || Box::new(disk::Full::default()),
    },
    Known {
        name: "fsync",
        what: "one home node's writes are accepted and then fail to become durable",
        needs: &["loop", "tmpfs-resize"],
        make: || Box::new(disk::Fsync::default()),
    },
    Known {
        name: "bitflip",
        what: "one bit of one home node's data flips while it is stopped; once a run",
        needs: &["loop"],
        make: || Box::new(disk::Bitflip::default()),
    },
];

/// A nemesis by name.
///
/// # Errors
/// When there is none.
pub fn find(name: &str) -> anyhow::Result<Box<dyn Nemesis>> {
    if let Some(path) = name.strip_prefix("script:") {
        return Ok(Box::new(script::Script::new(path)?));
    }
    let known = NEMESES.iter().find(|n| n.name == name);
    known.map(|n| (n.make)()).ok_or_else(|| {
        let names: Vec<_> = NEMESES.iter().map(|n| n.name).collect();
        anyhow::anyhow!(
            "no nemesis {name:?}: choose of {}, or script:PATH",
            names.join(", ")
        )
    })
}

/// What `names` need of the machine.
pub fn needs(names: &[String]) -> Vec<&'static str> {
    let of = |n: &String| NEMESES.iter().find(|k| k.name == n).map(|k| k.needs);
    let mut all: Vec<_> = names.iter().filter_map(of).flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// One strike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Milliseconds after the begin.
    pub at_ms: u64,
    /// Milliseconds that it holds.
    pub hold_ms: u64,
    /// Which.
    pub nemesis: String,
    /// The seed of its dice.
    pub dice: u64,
}

/// Nothing happens before.
const QUIET_MS: u64 = 3_000;
/// A fault holds so long.
const HOLD_MS: std::ops::Range<u64> = 3_000..12_000;
/// Between two faults.
const GAP_MS: std::ops::Range<u64> = 2_000..6_000;

/// When what strikes, in a run of that length.
pub fn schedule(seed: u64, names: &[String], time: Duration) -> Vec<Step> {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let mut steps = Vec::new();
    let end_ms = time.as_millis() as u64;
    let mut at_ms = QUIET_MS.min(end_ms / 4);
    let mut round: Vec<&String> = Vec::new();
    while !names.is_empty() {
        // Each once before any is twice.
        if round.is_empty() {
            round = names.iter().collect();
            round.shuffle(&mut dice);
        }
        let hold_ms = dice.random_range(HOLD_MS);
        let (gap_ms, seed) = (dice.random_range(GAP_MS), dice.next_u64());
        if at_ms + hold_ms > end_ms && !steps.is_empty() {
            break;
        }
        let Some(name) = round.pop() else { break };
        steps.push(Step {
            at_ms,
            hold_ms,
            nemesis: name.clone(),
            dice: seed,
        });
        at_ms += hold_ms + gap_ms;
    }
    steps
}

/// The dice of a strike.
pub fn dice(step: &Step) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(step.dice)
}

/// A fault that is there, about these nodes.
fn installed(
    what: impl Into<String>,
    nodes: &[usize],
    led: Vec<String>,
    cluster: &Cluster,
) -> Outcome {
    Outcome::Installed {
        what: what.into(),
        nodes: names(nodes, cluster),
        led,
    }
}

fn names(nodes: &[usize], cluster: &Cluster) -> Vec<String> {
    nodes
        .iter()
        .map(|i| cluster.nodes[*i].name.clone())
        .collect()
}

/// Groups that these nodes lead, as `node: labels`.
fn led(nodes: &[usize], cluster: &Cluster) -> Vec<String> {
    let of = |i: &usize| {
        let name = cluster.nodes[*i].name.clone();
        let one = move |group: String| format!("{name}: {group}");
        cluster.leads(*i).into_iter().map(one).collect::<Vec<_>>()
    };
    nodes.iter().flat_map(of).collect()
}

/// One of `all`.
fn one(all: &[usize], dice: &mut ChaCha8Rng) -> Option<usize> {
    (!all.is_empty()).then(|| all[dice.random_range(0..all.len())])
}

/// A home node; with even chance one that leads, where one says so.
fn home_node(cluster: &Cluster, dice: &mut ChaCha8Rng) -> Option<usize> {
    let home = cluster.home();
    let (any, leading) = (one(&home, dice)?, dice.random_bool(0.5));
    if !leading {
        return Some(any);
    }
    let leads = home.iter().copied().find(|i| !cluster.leads(*i).is_empty());
    Some(leads.unwrap_or(any))
}

/// Which nodes are hurt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Victims {
    /// Mostly one, sometimes a whole cluster or everything.
    #[default]
    Dice,
    /// The home.
    Home,
    /// Everything.
    All,
}

fn victims(which: Victims, cluster: &Cluster, dice: &mut ChaCha8Rng) -> Vec<usize> {
    match which {
        Victims::Home => return cluster.home(),
        Victims::All => return (0..cluster.nodes.len()).collect(),
        Victims::Dice => {}
    }
    let custodians: Vec<usize> = (0..cluster.nodes.len())
        .filter(|i| !cluster.nodes[*i].home)
        .collect();
    match dice.random_range(0..10) {
        0..5 => home_node(cluster, dice).into_iter().collect(),
        5..7 => one(&custodians, dice).into_iter().collect(),
        7 => cluster.home(),
        8 => match one(&custodians, dice) {
            Some(i) => cluster.members(&cluster.nodes[i].cluster.clone()),
            None => Vec::new(),
        },
        _ => (0..cluster.nodes.len()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_gives_another() {
        let what = names(&["kill", "partition", "power"]);
        let time = Duration::from_secs(300);
        let first = schedule(7, &what, time);
        assert_eq!(first, schedule(7, &what, time));
        assert_ne!(first, schedule(8, &what, time));
        assert!(first.len() >= 12, "{}", first.len());
        // A longer run begins like the shorter one.
        let longer = schedule(7, &what, time * 2);
        assert_eq!(longer[..first.len()], first[..]);
        let draws = |step: &Step| dice(step).next_u64();
        assert_eq!(draws(&first[0]), draws(&longer[0]));
    }

    #[test]
    fn a_schedule_is_frozen() {
        let steps = schedule(1, &names(&["kill", "pause"]), Duration::from_secs(30));
        let told: Vec<_> = steps
            .iter()
            .map(|s| (s.at_ms, s.hold_ms, s.nemesis.as_str()))
            .collect();
        assert_eq!(
            told, FROZEN,
            "a seed that failed must fail again with later builds"
        );
    }
    const FROZEN: &[(u64, u64, &str)] = &[(3_000, 11_861, "kill"), (17_705, 10_492, "pause")];

    #[test]
    fn faults_do_not_overlap_and_end_in_time_and_each_comes_before_any_comes_twice() {
        let what = names(&["kill", "partition", "power", "slow"]);
        for seed in 0..50 {
            let steps = schedule(seed, &what, Duration::from_secs(120));
            for pair in steps.windows(2) {
                assert!(pair[0].at_ms + pair[0].hold_ms + GAP_MS.start <= pair[1].at_ms);
            }
            let last = steps.last().unwrap();
            assert!(last.at_ms + last.hold_ms <= 120_000);
            let first: std::collections::BTreeSet<_> =
                steps[..4].iter().map(|s| &s.nemesis).collect();
            assert_eq!(first.len(), 4);
        }
        assert!(schedule(1, &[], Duration::from_secs(60)).is_empty());
        // A run that is too short still has one.
        assert_eq!(schedule(1, &what, Duration::from_secs(4)).len(), 1);
    }

    #[test]
    fn names_are_found_or_refused() {
        for known in NEMESES {
            assert!(find(known.name).is_ok());
        }
        let Err(e) = find("earthquake") else {
            panic!("found")
        };
        assert!(e.to_string().contains("partition-ring"), "{e}");
        assert!(find("script:/nowhere").is_err());
        assert_eq!(
            needs(&names(&["power", "kill", "disk-full"])),
            ["ext4-shutdown", "loop"]
        );
    }
}
