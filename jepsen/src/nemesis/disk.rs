//! Faults of disks: power cuts, full ones, ones whose fsync fails, flipped bits.

use super::{Nemesis, Outcome, Victims, home_node, installed, led, victims};
use crate::cluster::{Cluster, IMAGE_MIB};
use crate::machine::image::flip;
use anyhow::Context;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest wait for a node to notice its disk, or to refuse to start on it.
const NOTICE_MAX: Duration = Duration::from_secs(10);

/// Power cuts: what is not durable is gone, the processes end; later there is power again.
#[derive(Default)]
pub struct Power(Vec<usize>, Victims);

impl Power {
    /// Of these nodes.
    pub fn of(which: Victims) -> Self {
        Self(Vec::new(), which)
    }
}

impl Nemesis for Power {
    fn strike(&mut self, cluster: &mut Cluster, dice: &mut ChaCha8Rng) -> anyhow::Result<Outcome> {
        let nodes = victims(self.1, cluster, dice);
        let led = led(&nodes, cluster);
        self.0 = nodes;
        let barrier = std::sync::Barrier::new(self.0.len());
        let cuts: Vec<anyhow::Result<()>> = std::thread::scope(|s| {
            let one = |at: &usize| {
                let image = &cluster.nodes[*at].image;
                let barrier = &barrier;
                s.spawn(move || {
                    barrier.wait();
                    image.cut()
                })
            };
            let all: Vec<_> = self.0.iter().map(one).collect();
            let join = |t: std::thread::ScopedJoinHandle<'_, _>| {
                t.join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("a cut panicked")))
            };
            all.into_iter().map(join).collect()
        });
        for at in &self.0 {
            cluster.kill_node(*at);
        }
        cuts.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
        Ok(installed("power cut", &self.0, led, cluster))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        for at in std::mem::take(&mut self.0) {
            cluster.nodes[at].image.restart()?;
            cluster.start_node(at)?;
        }
        Ok(())
    }
}

/// A full disk.
#[derive(Default)]
pub struct Full(Option<usize>);

impl Nemesis for Full {
    fn strike(&mut self, cluster: &mut Cluster, dice: &mut ChaCha8Rng) -> anyhow::Result<Outcome> {
        let Some(at) = home_node(cluster, dice) else {
            return Ok(no_node());
        };
        let led = led(&[at], cluster);
        self.0 = Some(at);
        let filled = cluster.nodes[at].image.fill()?;
        Ok(installed(
            format!("{filled} bytes of filler"),
            &[at],
            led,
            cluster,
        ))
    }

    fn hit(&mut self, cluster: &mut Cluster) -> Result<String, String> {
        stopped(self.0, cluster)
    }

    fn heal(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let Some(at) = self.0.take() else {
            return Ok(());
        };
        cluster.nodes[at].image.drain()?;
        start_if_ended(at, cluster)
    }
}

/// A disk that takes writes and then cannot make them durable, as a thin volume without room.
#[derive(Default)]
pub struct Fsync(Option<usize>);

impl Nemesis for Fsync {
    fn strike(&mut self, cluster: &mut Cluster, dice: &mut ChaCha8Rng) -> anyhow::Result<Outcome> {
        let Some(at) = home_node(cluster, dice) else {
            return Ok(no_node());
        };
        let led = led(&[at], cluster);
        self.0 = Some(at);
        cluster.nodes[at].image.starve()?;
        Ok(installed("no room behind the disk", &[at], led, cluster))
    }

    fn hit(&mut self, cluster: &mut Cluster) -> Result<String, String> {
        stopped(self.0, cluster)
    }

    /// What fsync refused may be anywhere or nowhere: as after a power cut.
    fn heal(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let Some(at) = self.0.take() else {
            return Ok(());
        };
        let ended = !cluster.nodes[at].running();
        cluster.nodes[at].image.feed(IMAGE_MIB)?;
        if ended {
            cluster.kill_node(at);
            cluster.nodes[at].image.restart()?;
            cluster.start_node(at)?;
        }
        Ok(())
    }
}

fn no_node() -> Outcome {
    Outcome::Skipped {
        why: "the home has no node".into(),
    }
}

/// A node that acknowledges nothing that is not durable stops when a write fails.
fn stopped(at: Option<usize>, cluster: &mut Cluster) -> Result<String, String> {
    let Some(at) = at else {
        return Err("nothing was done".into());
    };
    let node = &mut cluster.nodes[at];
    match node.process.as_mut().and_then(|p| p.ended()) {
        Some(code) => Ok(format!("the node stopped with {code:?}")),
        None => Err("the node never needed the disk".into()),
    }
}

fn start_if_ended(at: usize, cluster: &mut Cluster) -> anyhow::Result<()> {
    if cluster.nodes[at].running() {
        return Ok(());
    }
    cluster.kill_node(at);
    cluster.start_node(at)
}

/// One bit of a stopped node's data. A node that then refuses to start is right; the bit is
/// flipped back for it. One that starts may find it later: it may be missing at the end.
#[derive(Default)]
pub struct Bitflip(Option<(usize, PathBuf, u64, u8)>);

impl Nemesis for Bitflip {
    fn strike(&mut self, cluster: &mut Cluster, dice: &mut ChaCha8Rng) -> anyhow::Result<Outcome> {
        if let Some(node) = cluster.nodes.iter().find(|n| n.scarred) {
            return Ok(Outcome::Skipped {
                why: format!("{} is damaged already", node.name),
            });
        }
        let Some(at) = home_node(cluster, dice) else {
            return Ok(no_node());
        };
        let led = led(&[at], cluster);
        cluster.kill_node(at);
        let mut files = Vec::new();
        data_files(&cluster.nodes[at].dir().join("data"), &mut files)?;
        let total: u64 = files.iter().map(|(_, len)| len).sum();
        let mut offset = dice.random_range(0..total.max(1));
        let bit = dice.random_range(0..8);
        let place = files.into_iter().find(|(_, len)| {
            let here = offset < *len;
            if !here {
                offset -= len;
            }
            here
        });
        let (file, _) = place.context("the node has no data")?;
        flip(&file, offset, bit)?;
        let what = format!("bit {bit} at {offset} of {}", file.display());
        self.0 = Some((at, file, offset, bit));
        cluster.nodes[at].scarred = true;
        cluster.start_node(at)?;
        Ok(installed(what, &[at], led, cluster))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let Some((at, file, offset, bit)) = self.0.take() else {
            return Ok(());
        };
        let until = Instant::now() + NOTICE_MAX;
        while cluster.nodes[at].running()
            && crate::cluster::health::ready(cluster.nodes[at].place.health).is_err()
        {
            if Instant::now() > until {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        if !cluster.nodes[at].running() {
            cluster.kill_node(at);
            if file.exists() {
                flip(&file, offset, bit)?;
            }
            cluster.start_node(at)?;
        }
        Ok(())
    }
}

/// Files below `dir` with their sizes, in order of name.
fn data_files(dir: &Path, out: &mut Vec<(PathBuf, u64)>) -> anyhow::Result<()> {
    let mut entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let meta = entry.metadata()?;
        match meta.is_dir() {
            true => data_files(&entry.path(), out)?,
            false if meta.len() > 0 => out.push((entry.path(), meta.len())),
            false => {}
        }
    }
    Ok(())
}
