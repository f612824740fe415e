//! A nemesis that is somebody's program.

use super::{Nemesis, Outcome, installed};
use crate::cluster::Cluster;
use anyhow::ensure;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::path::PathBuf;
use std::process::Command;

/// Runs `PATH strike` and `PATH heal` inside, with the deployment in its environment:
/// `QUORATE_DEPLOYMENT`, `QUORATE_DICE` (a number), and `QUORATE_NODES`, a line for each node:
/// name, network namespace, process id (0: none), directory.
pub struct Script {
    path: PathBuf,
    dice: u64,
}

impl Script {
    /// The program at `path`.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(path: &str) -> anyhow::Result<Self> {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "no program at {}", path.display());
        Ok(Self {
            path: std::fs::canonicalize(path)?,
            dice: 0,
        })
    }

    fn run(&self, what: &str, cluster: &Cluster) -> anyhow::Result<String> {
        let line = |n: &crate::cluster::Node| {
            let pid = n
                .process
                .as_ref()
                .map_or(0, crate::machine::process::Process::pid);
            format!("{} {} {pid} {}\n", n.name, n.netns(), n.dir().display())
        };
        let out = Command::new(&self.path)
            .arg(what)
            .env("QUORATE_DEPLOYMENT", &cluster.dir)
            .env("QUORATE_DICE", self.dice.to_string())
            .env(
                "QUORATE_NODES",
                cluster.nodes.iter().map(line).collect::<String>(),
            )
            .output()?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        ensure!(
            out.status.success(),
            "{} {what}: {}: {}",
            self.path.display(),
            out.status,
            said(&out.stderr)
        );
        Ok(said(&out.stdout))
    }
}

impl Nemesis for Script {
    fn strike(&mut self, cluster: &mut Cluster, dice: &mut ChaCha8Rng) -> anyhow::Result<Outcome> {
        self.dice = dice.next_u64();
        let what = self.run("strike", cluster)?;
        Ok(installed(what, &[], Vec::new(), cluster))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        self.run("heal", cluster).map(|_| ())
    }
}
