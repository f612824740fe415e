//! A deployment of the shipped binaries: one network namespace and one disk for each node.

pub mod health;
pub mod layout;
pub mod topology;

use crate::machine::image::Image;
use crate::machine::inside::{add_netns, command_in};
use crate::machine::process::{Process, binary, tail};
use crate::machine::run;
use crate::net::{MTU, Port, Rule, Switch};
use anyhow::{Context, bail, ensure};
use layout::{ClusterPlace, Layout, NodePlace};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How names of our network namespaces begin.
pub const NETNS_PREFIX: &str = "qj-";
/// The clients' port at the switch.
pub const CLIENTS_PORT: &str = "clients";
/// Longest a deployment may take until every node is ready.
pub const READY_MAX: Duration = Duration::from_secs(120);
/// A node's disk, in MiB. The file is sparse.
pub const IMAGE_MIB: u64 = 512;
/// Where a node looks for what is to be wrong with its clock.
const CLOCK_FILE: &str = "clock";
/// libfaketime for programs with threads.
pub const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// How a cluster is to be made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The topology's text.
    pub topology: String,
    /// The run's seed: of the switch.
    pub seed: u64,
    /// Links are as long as the table of round trips says.
    pub distances: bool,
    /// The home's images lie on tmpfs that can be starved.
    pub thin: bool,
    /// Nodes run with clocks that can be moved.
    pub clocks: bool,
    /// More in the environment of every node (mutants, failpoints, log levels).
    pub env: Vec<(String, String)>,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// `ae/1`.
    pub name: String,
    /// Its cluster.
    pub cluster: String,
    /// Jurisdiction: here the cluster's name.
    pub home: bool,
    /// Its place.
    pub place: NodePlace,
    /// Its port at the switch.
    pub port: usize,
    /// Its disk.
    pub image: Image,
    /// Its process, while it is to run.
    pub process: Option<Process>,
    /// Where its log is.
    pub log: PathBuf,
    /// Starts so far.
    pub starts: u32,
    /// Its disk was damaged on purpose: it may refuse to work, now or later.
    pub scarred: bool,
    netns: String,
    clock: Option<PathBuf>,
}

impl Node {
    /// Its directory, where the disk is mounted.
    pub fn dir(&self) -> &Path {
        // `config` is DIR/node-N/config.toml.
        self.place.config.parent().unwrap_or(Path::new("/"))
    }

    /// Its network namespace.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// Whether its process runs; one that ended by itself is noted by the caller.
    pub fn running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| p.ended().is_none())
    }
}

/// A running deployment.
pub struct Cluster {
    /// Where everything of it is.
    pub dir: PathBuf,
    /// Its layout.
    pub layout: Layout,
    /// Every node, the home's first.
    pub nodes: Vec<Node>,
    /// The network.
    pub switch: Switch,
    options: Options,
}

impl Cluster {
    /// Lays a deployment out in `dir`, starts it and logs somebody in. Must be called inside
    /// (see [`crate::machine::inside`]).
    ///
    /// # Errors
    /// When a tool fails or a node does not become ready; its log is in the message.
    pub fn start(options: Options, dir: &Path) -> anyhow::Result<Self> {
        let mut cluster = Self::lay_out(options, dir)?;
        for at in 0..cluster.nodes.len() {
            cluster.start_node(at)?;
        }
        cluster.wait_ready(READY_MAX)?;
        Ok(cluster)
    }

    fn lay_out(options: Options, dir: &Path) -> anyhow::Result<Self> {
        let (disks, logs) = (dir.join("disks"), dir.join("logs"));
        for d in [&disks, &logs] {
            std::fs::create_dir_all(d).with_context(|| format!("make {}", d.display()))?;
        }
        let topology = dir.join("topology.toml");
        std::fs::write(&topology, topology::with_addresses(&options.topology)?)?;
        let deployment = dir.join("deployment");
        let quorate = binary("quorate")?;
        let args = ["deploy", "init", "--topology"];
        let out = std::process::Command::new(&quorate)
            .args(args)
            .arg(&topology)
            .arg(&deployment)
            .output()?;
        ensure!(
            out.status.success(),
            "quorate deploy init: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let layout = Layout::load(&deployment)?;
        let (ports, files) = ports(&layout)?;
        let switch = Switch::start(ports, files, options.seed)?;
        let mut nodes = Vec::new();
        for cluster in &layout.clusters {
            for place in &cluster.nodes {
                nodes.push(node(cluster, place, &switch, dir, &options)?);
            }
        }
        let cluster = Self {
            dir: deployment,
            layout,
            nodes,
            switch,
            options,
        };
        cluster.heal_links();
        Ok(cluster)
    }

    /// Starts a node that does not run.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_node(&mut self, at: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[at];
        ensure!(!node.running(), "{} runs already", node.name);
        let mut command = command_in(&node.netns, &binary("quorate-node")?);
        command.arg("--config").arg(&node.place.config);
        command.envs(self.options.env.iter().map(|(k, v)| (k, v)));
        if let Some(clock) = &node.clock {
            command
                .env("LD_PRELOAD", FAKETIME)
                .env("FAKETIME_TIMESTAMP_FILE", clock)
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        node.process = Some(Process::start(command, &node.log)?);
        node.starts += 1;
        Ok(())
    }

    /// Ends a node as `kill -9` does.
    pub fn kill_node(&mut self, at: usize) {
        self.nodes[at].process = None;
    }

    /// Sets how far a node's wall clock is off from now on, in seconds.
    ///
    /// # Errors
    /// When the deployment runs without movable clocks.
    pub fn set_clock(&self, at: usize, offset_s: i64) -> anyhow::Result<()> {
        let node = &self.nodes[at];
        let clock = node.clock.as_ref();
        let clock = clock.with_context(|| format!("{} has no movable clock", node.name))?;
        // Replaced as a whole: the node may read it at any time.
        let fresh = clock.with_extension("new");
        std::fs::write(&fresh, format!("{offset_s:+}s\n"))?;
        std::fs::rename(&fresh, clock)?;
        Ok(())
    }

    /// Waits until every node that is to run is ready.
    ///
    /// # Errors
    /// When one is not in time, or has ended; the end of its log is in the message.
    pub fn wait_ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + limit;
        for node in &mut self.nodes {
            while let Some(process) = &mut node.process {
                if let Some(code) = process.ended() {
                    if node.scarred {
                        break;
                    }
                    bail!(
                        "{} has ended with {code:?}:\n{}",
                        node.name,
                        tail(&node.log, 30)
                    );
                }
                match health::ready(node.place.health) {
                    Ok(()) => break,
                    Err(e) if Instant::now() > until => {
                        bail!(
                            "{} is not ready after {limit:?}: {e:#}\n{}",
                            node.name,
                            tail(&node.log, 30)
                        );
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        }
        Ok(())
    }

    /// Links as they are without faults.
    pub fn heal_links(&self) {
        let clusters: BTreeMap<usize, &str> = self
            .nodes
            .iter()
            .map(|n| (n.port, n.cluster.as_str()))
            .collect();
        let home = self.layout.clusters[0].name.as_str();
        self.switch.heal(|from, to| {
            let mut rule = Rule::default();
            if self.options.distances {
                // Clients live where the home is.
                let at = |p| clusters.get(&p).copied().unwrap_or(home);
                rule.delay_us = topology::round_trip_ms(at(from), at(to)) * 500;
            }
            rule
        });
    }

    /// Indexes of the home's nodes.
    pub fn home(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|i| self.nodes[*i].home)
            .collect()
    }

    /// Indexes of the nodes of the cluster of that name.
    pub fn members(&self, cluster: &str) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|i| self.nodes[*i].cluster == cluster)
            .collect()
    }

    /// Ports of nodes at the switch.
    pub fn ports(&self, nodes: &[usize]) -> Vec<usize> {
        nodes.iter().map(|i| self.nodes[*i].port).collect()
    }

    /// Raft groups that a node says it leads, by its metrics; none when it does not answer.
    pub fn leads(&self, at: usize) -> Vec<String> {
        let node = &self.nodes[at];
        let Ok((200, page)) = health::get(node.place.health, "/metrics") else {
            return Vec::new();
        };
        let leader = page
            .lines()
            .filter_map(|l| l.strip_prefix("quorate_raft_leader{"));
        leader
            .filter_map(|l| {
                let (labels, value) = l.split_once("} ")?;
                let own = value.parse::<f64>().ok()? as u64 == node.place.id;
                own.then(|| labels.to_owned())
            })
            .collect()
    }

    /// Logs somebody in with `quorate login`; the directory of the wallet.
    ///
    /// # Errors
    /// When custodians do not take the account.
    pub fn log_in(&self, name: &str) -> anyhow::Result<PathBuf> {
        let wallet = self.dir.join("wallets").join(name);
        let quorate = binary("quorate")?;
        let quorate = quorate
            .to_str()
            .context("the path of quorate is not UTF-8")?;
        let (dir, at) = (
            crate::machine::text(&self.dir)?,
            crate::machine::text(&wallet)?,
        );
        run(
            quorate,
            &["--deployment", dir, "--wallet", at, "login", "--name", name],
        )?;
        Ok(wallet)
    }

    /// Whether every replica of every cluster has come to the same state.
    ///
    /// # Errors
    /// When two replicas differ at the same applied index, or they are not level within `limit`.
    pub fn converged(&self, limit: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + limit;
        for cluster in &self.layout.clusters {
            let mut seen: BTreeMap<(u64, u64), (String, u64)> = BTreeMap::new();
            loop {
                let mut states = Vec::new();
                for node in &cluster.nodes {
                    let Ok(state) = health::state_hashes(node.health) else {
                        continue;
                    };
                    for (group, applied, hash) in &state {
                        let first = seen
                            .entry((*group, *applied))
                            .or_insert_with(|| (hash.clone(), node.id));
                        ensure!(
                            first.0 == *hash,
                            "{} group {group} at index {applied}: nodes {} and {} differ",
                            cluster.name,
                            first.1,
                            node.id
                        );
                    }
                    states.push(state);
                }
                if states.len() == cluster.nodes.len() && states.windows(2).all(|w| w[0] == w[1]) {
                    break;
                }
                ensure!(
                    Instant::now() < until,
                    "{} does not converge within {limit:?}: {states:?}",
                    cluster.name
                );
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(())
    }
}

/// Makes the ports of the switch: an interface for the clients here, and one in a new namespace
/// for each node.
fn ports(layout: &Layout) -> anyhow::Result<(Vec<Port>, Vec<std::fs::File>)> {
    let mut ports = vec![Port {
        name: CLIENTS_PORT.into(),
        address: topology::CLIENTS,
    }];
    let mut files = vec![interface("qj0", &topology::CLIENTS.to_string(), None)?];
    for cluster in &layout.clusters {
        for node in &cluster.nodes {
            let IpAddr::V4(address) = node.peer.ip() else {
                bail!("{} is not an IPv4 address", node.peer);
            };
            let netns = netns(cluster, node);
            add_netns(&netns)?;
            let name = format!("qj{}", ports.len());
            files.push(interface(&name, &address.to_string(), Some(&netns))?);
            ports.push(Port {
                name: format!("{}/{}", cluster.name, node.id),
                address,
            });
        }
    }
    Ok((ports, files))
}

fn netns(cluster: &ClusterPlace, node: &NodePlace) -> String {
    format!("{NETNS_PREFIX}{}-{}", cluster.name, node.id)
}

fn interface(name: &str, address: &str, netns: Option<&str>) -> anyhow::Result<std::fs::File> {
    let file = crate::sys::tun(name).with_context(|| format!("make the interface {name}"))?;
    if let Some(netns) = netns {
        run("ip", &["link", "set", name, "netns", netns])?;
    }
    let ip = |args: &[&str]| {
        let at = netns.map_or(Vec::new(), |n| vec!["-n", n]);
        run("ip", &[&at, args].concat())
    };
    let (mtu, address) = (MTU.to_string(), format!("{address}/16"));
    ip(&["addr", "add", &address, "dev", name])?;
    ip(&[
        "link",
        "set",
        name,
        "mtu",
        &mtu,
        "txqueuelen",
        "10000",
        "up",
    ])?;
    Ok(file)
}

fn node(
    cluster: &ClusterPlace,
    place: &NodePlace,
    switch: &Switch,
    dir: &Path,
    options: &Options,
) -> anyhow::Result<Node> {
    let name = format!("{}/{}", cluster.name, place.id);
    let plain = format!("{}-{}", cluster.name, place.id);
    let home = cluster.role == "home";
    let at = place
        .config
        .parent()
        .context("a configuration lies in a directory")?;
    let image = Image::over(
        at,
        &dir.join("disks"),
        &plain,
        IMAGE_MIB,
        options.thin && home,
    )?;
    let clock = options
        .clocks
        .then(|| dir.join(format!("{plain}.{CLOCK_FILE}")));
    if let Some(clock) = &clock {
        std::fs::write(clock, "+0s\n")?;
    }
    Ok(Node {
        port: switch.port(&name)?,
        cluster: cluster.name.clone(),
        home,
        place: place.clone(),
        image,
        process: None,
        log: dir.join("logs").join(format!("{plain}.log")),
        starts: 0,
        scarred: false,
        netns: netns(cluster, place),
        clock,
        name,
    })
}
