//! Faults of the network. Clients are at the home's place, and their links stay
//! whole in partitions: a node that its peers have lost still answers them.

use super::{Nemesis, Outcome, home_node, installed, led, one};
use crate::cluster::Cluster;
use crate::net::{Rule, Traffic};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// How a network is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One home node from everyone.
    One,
    /// Two halves.
    Half,
    /// One direction of one home node.
    OneWay,
    /// Each home node hears one neighbour.
    Ring,
    /// Two home nodes from each other.
    Bridge,
    /// A custodian from everyone.
    Jurisdiction,
    /// The home from custodians.
    Custodians,
}

const SHAPES: [Shape; 7] = [
    Shape::One,
    Shape::Half,
    Shape::OneWay,
    Shape::Ring,
    Shape::Bridge,
    Shape::Jurisdiction,
    Shape::Custodians,
];

/// Directed links, by ports.
type Cuts = Vec<(Vec<usize>, Vec<usize>)>;

/// A partition.
pub struct Partition {
    shape: Option<Shape>,
    cuts: Cuts,
    before: u64,
}

impl Partition {
    /// Of that shape.
    pub fn of(shape: Shape) -> Self {
        Self {
            shape: Some(shape),
            cuts: Vec::new(),
            before: 0,
        }
    }

    /// Of a shape that the dice choose.
    pub fn any() -> Self {
        Self {
            shape: None,
            cuts: Vec::new(),
            before: 0,
        }
    }

    fn dropped(&self, cluster: &Cluster) -> u64 {
        let of = |(from, to): &(Vec<usize>, Vec<usize>)| cluster.switch.traffic(from, to).dropped;
        self.cuts.iter().map(of).sum()
    }
}

/// Both directions between two sets.
fn both(a: Vec<usize>, b: Vec<usize>) -> Cuts {
    vec![(a.clone(), b.clone()), (b, a)]
}

impl Nemesis for Partition {
    fn strike(&mut self, cluster: &mut Cluster, dice: &mut ChaCha8Rng) -> anyhow::Result<Outcome> {
        let shape = self
            .shape
            .unwrap_or(SHAPES[dice.random_range(0..SHAPES.len())]);
        let all: Vec<usize> = (0..cluster.nodes.len()).collect();
        let mut home = cluster.home();
        let others = |of: &[usize]| -> Vec<usize> {
            all.iter().copied().filter(|i| !of.contains(i)).collect()
        };
        let ports = |nodes: &[usize]| cluster.ports(nodes);
        if home.len() < 3 && matches!(shape, Shape::Ring | Shape::Bridge) {
            return Ok(Outcome::Skipped {
                why: "the home has fewer than three nodes".into(),
            });
        }
        let (what, nodes, cuts) = match shape {
            Shape::One => {
                let node: Vec<usize> = home_node(cluster, dice).into_iter().collect();
                (
                    "cut from all nodes",
                    node.clone(),
                    both(ports(&node), ports(&others(&node))),
                )
            }
            Shape::Half => {
                let mut mixed = all.clone();
                mixed.shuffle(dice);
                let half = mixed[..mixed.len() / 2].to_vec();
                (
                    "cut from the other half",
                    half.clone(),
                    both(ports(&half), ports(&others(&half))),
                )
            }
            Shape::OneWay => {
                let node: Vec<usize> = home_node(cluster, dice).into_iter().collect();
                let (a, b) = (ports(&node), ports(&others(&node)));
                match dice.random_bool(0.5) {
                    true => ("heard by no node", node, vec![(a, b)]),
                    false => ("hears no node", node, vec![(b, a)]),
                }
            }
            Shape::Ring => {
                home.shuffle(dice);
                // Only i → i+1 is left.
                let mut cuts: Cuts = Vec::new();
                for (i, from) in home.iter().enumerate() {
                    let next = home[(i + 1) % home.len()];
                    let deaf = home.iter().filter(|n| *n != from && **n != next);
                    cuts.extend(deaf.map(|n| (ports(&[*from]), ports(&[*n]))));
                }
                ("hear one neighbour each", home.clone(), cuts)
            }
            Shape::Bridge => {
                home.shuffle(dice);
                let pair = home[..2].to_vec();
                (
                    "cut from each other",
                    pair.clone(),
                    both(ports(&pair[..1]), ports(&pair[1..])),
                )
            }
            Shape::Jurisdiction => {
                let node = one(&others(&home), dice);
                let node = node.map(|n| cluster.members(&cluster.nodes[n].cluster));
                let nodes = node.unwrap_or_default();
                (
                    "cut off with their jurisdiction",
                    nodes.clone(),
                    both(ports(&nodes), ports(&others(&nodes))),
                )
            }
            Shape::Custodians => {
                let mut clusters: Vec<&str> = cluster.layout.clusters[1..]
                    .iter()
                    .map(|c| c.name.as_str())
                    .collect();
                clusters.shuffle(dice);
                let count = dice.random_range(1..=clusters.len());
                let nodes: Vec<usize> = clusters[..count]
                    .iter()
                    .flat_map(|c| cluster.members(c))
                    .collect();
                (
                    "cut from the home",
                    nodes.clone(),
                    both(ports(&nodes), ports(&home)),
                )
            }
        };
        self.cuts = cuts;
        self.before = self.dropped(cluster);
        let led = led(&nodes, cluster);
        for (from, to) in &self.cuts {
            cluster.switch.change(from, to, |rule| rule.cut = true);
        }
        Ok(installed(what, &nodes, led, cluster))
    }

    fn hit(&mut self, cluster: &mut Cluster) -> Result<String, String> {
        match self.dropped(cluster) - self.before {
            0 => Err("no packet met the cut".into()),
            n => Ok(format!("{n} packets were dropped")),
        }
    }

    fn heal(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        self.cuts.clear();
        cluster.heal_links();
        Ok(())
    }
}

/// Links that are slow or lose packets.
pub struct Links {
    lossy: bool,
    ports: (Vec<usize>, Vec<usize>),
    before: Traffic,
}

impl Links {
    /// Slow ones.
    pub fn slow() -> Self {
        Self {
            lossy: false,
            ports: Default::default(),
            before: Traffic::default(),
        }
    }
    /// Lossy ones.
    pub fn lossy() -> Self {
        Self {
            lossy: true,
            ..Self::slow()
        }
    }

    fn traffic(&self, cluster: &Cluster) -> Traffic {
        let (a, b) = (
            cluster.switch.traffic(&self.ports.0, &self.ports.1),
            cluster.switch.traffic(&self.ports.1, &self.ports.0),
        );
        Traffic {
            passed: a.passed + b.passed,
            dropped: a.dropped + b.dropped,
        }
    }
}

impl Nemesis for Links {
    fn strike(&mut self, cluster: &mut Cluster, dice: &mut ChaCha8Rng) -> anyhow::Result<Outcome> {
        let all: Vec<usize> = (0..cluster.nodes.len()).collect();
        let nodes = match dice.random_range(0..3) {
            0 => home_node(cluster, dice).into_iter().collect(),
            1 => cluster.home(),
            _ => all,
        };
        let everyone: Vec<usize> = (0..cluster.switch.ports().len()).collect();
        self.ports = (cluster.ports(&nodes), everyone);
        self.before = self.traffic(cluster);
        let rule = match self.lossy {
            true => Rule {
                loss_ppm: dice.random_range(20_000..150_000),
                dup_ppm: dice.random_range(0..50_000),
                reorder_ppm: dice.random_range(0..200_000),
                ..Rule::default()
            },
            false if dice.random_bool(0.25) => Rule {
                rate_bps: dice.random_range(100_000..1_000_000),
                ..Rule::default()
            },
            false => Rule {
                delay_us: dice.random_range(20_000..300_000),
                jitter_us: dice.random_range(0..100_000),
                ..Rule::default()
            },
        };
        let change = |old: &mut Rule| {
            *old = Rule {
                delay_us: old.delay_us + rule.delay_us,
                ..rule
            };
        };
        cluster.switch.change(&self.ports.0, &self.ports.1, change);
        // The other direction; within the set it has been done.
        let outside: Vec<usize> = self
            .ports
            .1
            .iter()
            .copied()
            .filter(|p| !self.ports.0.contains(p))
            .collect();
        cluster.switch.change(&outside, &self.ports.0, change);
        let led = led(&nodes, cluster);
        Ok(installed(format!("{rule:?}"), &nodes, led, cluster))
    }

    fn hit(&mut self, cluster: &mut Cluster) -> Result<String, String> {
        let now = self.traffic(cluster);
        let (passed, dropped) = (
            now.passed - self.before.passed,
            now.dropped - self.before.dropped,
        );
        match self.lossy {
            true if dropped == 0 => Err("no packet was lost".into()),
            false if passed == 0 => Err("no packet went over the links".into()),
            _ => Ok(format!("{passed} packets passed, {dropped} were dropped")),
        }
    }

    fn heal(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        cluster.heal_links();
        Ok(())
    }
}
