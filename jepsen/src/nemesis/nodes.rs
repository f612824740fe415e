//! Faults of processes: killed, stopped, told a wrong time; and a custodian that freezes.

use super::{Nemesis, Outcome, Victims, installed, led, one, victims};
use crate::cluster::Cluster;
use crate::machine::process::binary;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// `kill -9`, started again when it heals.
#[derive(Default)]
pub struct Kill(Vec<usize>, Victims);

impl Kill {
    /// Of these nodes.
    pub fn of(which: Victims) -> Self {
        Self(Vec::new(), which)
    }
}

impl Nemesis for Kill {
    fn strike(&mut self, cluster: &mut Cluster, dice: &mut ChaCha8Rng) -> anyhow::Result<Outcome> {
        let nodes = victims(self.1, cluster, dice);
        let led = led(&nodes, cluster);
        self.0 = nodes;
        for at in &self.0 {
            cluster.kill_node(*at);
        }
        Ok(installed("kill -9", &self.0, led, cluster))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        self.0.drain(..).try_for_each(|at| cluster.start_node(at))
    }
}

/// `SIGSTOP`, continued when it heals: leases and elections go on around it.
#[derive(Default)]
pub struct Pause(Vec<usize>);

impl Nemesis for Pause {
    fn strike(&mut self, cluster: &mut Cluster, dice: &mut ChaCha8Rng) -> anyhow::Result<Outcome> {
        let nodes = victims(Victims::Dice, cluster, dice);
        let led = led(&nodes, cluster);
        self.0 = nodes;
        signal(cluster, &self.0, "STOP")?;
        Ok(installed("SIGSTOP", &self.0, led, cluster))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        signal(cluster, &std::mem::take(&mut self.0), "CONT")
    }
}

fn signal(cluster: &Cluster, nodes: &[usize], name: &str) -> anyhow::Result<()> {
    let mut processes = nodes
        .iter()
        .filter_map(|at| cluster.nodes[*at].process.as_ref());
    processes.try_for_each(|p| p.signal(name))
}

/// Wall clocks that jump, of a minority of a cluster that has more than one node: a single node
/// has nobody to compare its clock with, and says so.
#[derive(Default)]
pub struct Clock(Vec<usize>);

impl Nemesis for Clock {
    fn strike(&mut self, cluster: &mut Cluster, dice: &mut ChaCha8Rng) -> anyhow::Result<Outcome> {
        let places = &cluster.layout.clusters;
        let several: Vec<String> = places
            .iter()
            .filter(|c| c.nodes.len() > 2)
            .map(|c| c.name.clone())
            .collect();
        if several.is_empty() {
            return Ok(Outcome::Skipped {
                why: "no cluster has three nodes".into(),
            });
        }
        let of = &several[dice.random_range(0..several.len())];
        let node = one(&cluster.members(of), dice);
        let far = [2, 6, 30, 60, 600, 3600][dice.random_range(0..6)];
        let offset = if dice.random_bool(0.5) { far } else { -far };
        self.0 = node.into_iter().collect();
        let led = led(&self.0, cluster);
        for at in &self.0 {
            cluster.set_clock(*at, offset)?;
        }
        Ok(installed(
            format!("wall clock {offset:+} s"),
            &self.0,
            led,
            cluster,
        ))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        self.0.drain(..).try_for_each(|at| cluster.set_clock(at, 0))
    }
}

/// A custodian freezes everything; its operator thaws it.
#[derive(Default)]
pub struct Freeze(Option<String>);

impl Nemesis for Freeze {
    fn strike(&mut self, cluster: &mut Cluster, dice: &mut ChaCha8Rng) -> anyhow::Result<Outcome> {
        let custodians: Vec<String> = cluster.layout.clusters[1..]
            .iter()
            .map(|c| c.name.clone())
            .collect();
        let name = custodians[dice.random_range(0..custodians.len())].clone();
        let nodes = cluster.members(&name);
        let led = led(&nodes, cluster);
        self.0 = Some(name.clone());
        operate(cluster, &name, "freeze")?;
        Ok(installed(
            format!("{name} froze everything"),
            &nodes,
            led,
            cluster,
        ))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        match self.0.take() {
            None => Ok(()),
            Some(name) => operate(cluster, &name, "thaw"),
        }
    }
}

fn operate(cluster: &Cluster, custodian: &str, what: &str) -> anyhow::Result<()> {
    let quorate = binary("quorate")?;
    let (program, dir) = (
        crate::machine::text(&quorate)?,
        crate::machine::text(&cluster.dir)?,
    );
    let mut last = Ok(());
    // It may have no leader at this moment.
    for _ in 0..10 {
        let args = [
            "--deployment",
            dir,
            "custodian",
            what,
            custodian,
            "--reason",
            "chaos",
        ];
        match crate::machine::run(program, &args) {
            Ok(_) => return Ok(()),
            Err(e) => last = Err(e),
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    last
}
