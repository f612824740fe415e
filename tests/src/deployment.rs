//! A whole deployment of real `quorate-node` processes on loopback.
//!
//! Every process this module starts is ended when its [`Process`] is dropped,
//! by pid. Output goes to `node-N/process.log`, which a failing test prints.

use anyhow::{Context, bail};
use quorate_cli::people::Wallet;
use quorate_cli::people::account::log_in;
use quorate_node::embedded::layout::{Layout, NodeLayout, lay_out};
use quorate_node::embedded::topology::Topology;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest a freshly started deployment may take until every node is ready.
pub const READY_WAIT: Duration = Duration::from_secs(90);

/// One node: cluster and node id.
pub type NodeName = (String, u64);

/// A running `quorate-node`.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Its log file.
    pub log: PathBuf,
}

impl Process {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        // Already gone is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name (`TERM`, `STOP`, `CONT`).
    ///
    /// # Errors
    /// When `kill` cannot be run.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.pid().to_string())
            .status()?;
        anyhow::ensure!(status.success(), "kill -{name} {} failed", self.pid());
        Ok(())
    }

    /// Waits until it has ended and returns its exit code (`None` when a signal ended it).
    ///
    /// # Errors
    /// When it is still running after `limit`.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<Option<i32>> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > until {
                bail!("process {} still runs after {limit:?}", self.pid());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it is still running.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A deployment laid out in a directory, with the nodes that run.
#[derive(Debug)]
pub struct Deployment {
    /// Where everything is.
    pub layout: Layout,
    /// Running processes.
    pub running: BTreeMap<NodeName, Process>,
    /// Extra environment for new processes (failpoints, fake clocks).
    pub env: Vec<(String, String)>,
    /// Where logs go instead of the nodes' own directories, which may lose their disk.
    pub logs: Option<PathBuf>,
    /// Where new processes run with core files of any size allowed.
    pub cores: Option<PathBuf>,
}

/// A binary of this workspace, built beside the test that asks for it.
///
/// # Errors
/// When it is not there; the message says how to build it.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dirs = exe.ancestors().skip(1).take(3);
    for dir in dirs {
        let path = dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "{name} is not built beside {}; run `cargo build --workspace --all-targets` or `cargo test --workspace`",
        exe.display()
    )
}

impl Deployment {
    /// Lays `topology` out in `dir` without starting anything.
    ///
    /// # Errors
    /// As [`lay_out`].
    pub fn lay_out(topology: &Topology, dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            layout: lay_out(topology, dir)?,
            running: BTreeMap::new(),
            env: Vec::new(),
            logs: None,
            cores: None,
        })
    }

    /// Lays out, starts every node and waits until all are ready.
    ///
    /// # Errors
    /// When a node does not become ready; its log is in the message.
    pub fn start(topology: &Topology, dir: &Path) -> anyhow::Result<Self> {
        let mut deployment = Self::lay_out(topology, dir)?;
        deployment.start_all()?;
        deployment.wait_ready(READY_WAIT)?;
        Ok(deployment)
    }

    /// Logs a person in: the wallet is where `quorate --as NAME` finds it.
    ///
    /// # Errors
    /// When custodians do not take the account.
    pub async fn log_in(&self, name: &str) -> anyhow::Result<Wallet> {
        let dir = self.layout.dir.join("wallets").join(name);
        let (wallet, _) = log_in(&self.layout, &dir, name, None).await?;
        Ok(wallet)
    }

    /// Every node's name, home first.
    pub fn names(&self) -> Vec<NodeName> {
        let of = |c: &quorate_node::embedded::layout::ClusterLayout| {
            c.nodes
                .iter()
                .map(|n| (c.name.clone(), n.id))
                .collect::<Vec<_>>()
        };
        self.layout.clusters.iter().flat_map(of).collect()
    }

    /// A node's place.
    ///
    /// # Panics
    /// When the layout has no such node.
    pub fn node(&self, name: &NodeName) -> &NodeLayout {
        let cluster = self
            .layout
            .cluster(&name.0)
            .expect("a cluster of this layout");
        cluster
            .nodes
            .iter()
            .find(|n| n.id == name.1)
            .expect("a node of this cluster")
    }

    /// Starts every node that does not run.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        for name in self.names() {
            if !self.running.contains_key(&name) {
                self.start_node(&name)?;
            }
        }
        Ok(())
    }

    /// Where a node's output goes.
    pub fn log_of(&self, name: &NodeName) -> PathBuf {
        match &self.logs {
            Some(dir) => dir.join(format!("{}-{}.log", name.0, name.1)),
            None => self.node(name).config.with_file_name("process.log"),
        }
    }

    /// Starts one node.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_node(&mut self, name: &NodeName) -> anyhow::Result<()> {
        self.start_node_with(name, &[])
    }

    /// Starts one node with more in its environment.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_node_with(&mut self, name: &NodeName, env: &[(&str, &str)]) -> anyhow::Result<()> {
        let config = self.node(name).config.clone();
        let log = self.log_of(name);
        let out = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)?;
        let mut command = Command::new(binary("quorate-node")?);
        if let Some(dir) = &self.cores {
            command = Command::new("prlimit");
            command.arg("--core=unlimited").current_dir(dir);
            command.arg(binary("quorate-node")?);
        }
        let child = command
            .arg("--config")
            .arg(&config)
            .envs(self.env.iter().cloned())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("start {} {}", name.0, name.1))?;
        self.running.insert(name.clone(), Process { child, log });
        Ok(())
    }

    /// Ends one node as `kill -9` does.
    pub fn kill(&mut self, name: &NodeName) {
        self.running.remove(name);
    }

    /// Stops one node in order (`SIGTERM`).
    ///
    /// # Errors
    /// When it does not stop within 20 s or exits with another code than 0.
    pub fn stop(&mut self, name: &NodeName) -> anyhow::Result<()> {
        if let Some(mut process) = self.running.remove(name) {
            process.signal("TERM")?;
            let code = process.wait(Duration::from_secs(20))?;
            anyhow::ensure!(
                code == Some(0),
                "{name:?} stopped with {code:?}:\n{}",
                tail(&process.log)
            );
        }
        Ok(())
    }

    /// Waits until every running node is ready.
    ///
    /// # Errors
    /// When one is not, or has ended; its log is in the message.
    pub fn wait_ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + limit;
        for name in self.running.keys().cloned().collect::<Vec<_>>() {
            let health = self.node(&name).health;
            loop {
                if let Ok((200, _)) = http_get(&health.to_string(), "/readyz") {
                    break;
                }
                let Some(process) = self.running.get_mut(&name) else {
                    break;
                };
                if !process.running() {
                    bail!("{name:?} has ended:\n{}", tail(&process.log));
                }
                if Instant::now() > until {
                    let why = http_get(&health.to_string(), "/readyz");
                    bail!(
                        "{name:?} is not ready after {limit:?}: {why:?}\n{}",
                        tail(&process.log)
                    );
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A plain HTTP GET: status and body. For the health listener only.
///
/// # Errors
/// When the listener cannot be reached within two seconds.
pub fn http_get(addr: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let at = addr.parse()?;
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.take(64 << 20).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .context("no status line")?;
    let body = text
        .split_once("\r\n\r\n")
        .map(|(_, b)| b.to_owned())
        .unwrap_or_default();
    Ok((status, body))
}
