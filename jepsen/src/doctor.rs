//! What this machine can do to a deployment. Every probe does the thing itself,
//! small, and undoes it; nothing is concluded from a version or a file's name.

use crate::machine::{run, text};
use anyhow::{Context, bail, ensure};
use serde::Serialize;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One capability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// Its name, as faults ask for it.
    pub name: &'static str,
    /// What it is for.
    pub used_for: &'static str,
    /// Whether it works here.
    pub works: bool,
    /// What the probe saw, or why not.
    pub detail: String,
}

/// The table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Kernel and processors.
    pub machine: String,
    /// Every capability.
    pub probes: Vec<Probe>,
    /// What earlier runs left behind.
    pub leftovers: Vec<String>,
}

type Look = fn(&Path) -> anyhow::Result<String>;

/// Name, use, probe.
const PROBES: &[(&str, &str, Look)] = &[
    ("root", "everything below", root),
    (
        "namespaces",
        "every run: network, mount and process namespaces of its own",
        namespaces,
    ),
    ("netns", "one network namespace for each node", netns),
    ("tun", "the switch: cuts, slow and lossy links", tun),
    ("loop", "one disk image for each node", loop_device),
    ("ext4-shutdown", "power cuts", ext4_shutdown),
    ("tmpfs-resize", "failing fsync", tmpfs_resize),
    ("faketime", "wall clocks that jump", faketime),
    ("freezer", "freezing whole process trees", freezer),
    ("veth", "not used by the harness itself", veth),
    ("bridge", "not used by the harness itself", bridge),
    ("nft-bridge", "not used by the harness itself", nft_bridge),
    (
        "fuse",
        "file systems that lie (LazyFS); none is built in",
        fuse,
    ),
    (
        "cgroup-cpu",
        "starving a node of processor time",
        cgroup_cpu,
    ),
    ("cgroup-memory", "a node's memory limit", cgroup_memory),
    ("cgroup-v2", "not used by the harness itself", cgroup_v2),
    ("ptrace", "stopping a node at a system call", ptrace),
];

/// Not by process id: each run is the first process of its own namespace.
fn scratch_name() -> String {
    format!("quorate-doctor-{:016x}", rand::random::<u64>())
}

/// Probes everything; `scratch` is a directory for small files.
///
/// # Errors
/// When `scratch` cannot be used. What does not work is in the report.
pub fn probe(scratch: &Path) -> anyhow::Result<Report> {
    let dir = scratch.join(scratch_name());
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let probes = PROBES.iter().map(|(name, used_for, look)| {
        let seen = look(&dir);
        Probe {
            name,
            used_for,
            works: seen.is_ok(),
            detail: seen.unwrap_or_else(|e| {
                format!("{e:#}")
                    .lines()
                    .next_back()
                    .unwrap_or_default()
                    .to_owned()
            }),
        }
    });
    let probes = probes.collect();
    std::fs::remove_dir_all(&dir)?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    Ok(Report {
        machine: format!("Linux {}, {processors} processors", kernel.trim()),
        probes,
        leftovers: crate::machine::inside::leftovers().unwrap_or_default(),
    })
}

impl Report {
    /// Which of `needed` do not work, each with the reason.
    pub fn missing(&self, needed: &[&str]) -> Vec<String> {
        let why = |name: &&str| match self.probes.iter().find(|p| p.name == *name) {
            Some(p) if p.works => None,
            Some(p) => Some(format!("{name}: {}", p.detail)),
            None => Some(format!("{name}: nothing probes it")),
        };
        needed.iter().filter_map(why).collect()
    }

    /// The table as people read it.
    pub fn table(&self) -> String {
        let mut out = format!("{}\n", self.machine);
        for p in &self.probes {
            let works = if p.works { "works" } else { "ABSENT" };
            out.push_str(&format!(
                "{:<14} {works:<7} {}\n{:22} {}\n",
                p.name, p.used_for, "", p.detail
            ));
        }
        for left in &self.leftovers {
            out.push_str(&format!("left behind: {left}\n"));
        }
        out
    }
}

/// Runs a line of shell in namespaces of its own: all that a run has.
fn unshared(script: &str) -> anyhow::Result<String> {
    within(
        &["--net", "--mount", "--pid", "--fork", "--mount-proc"],
        script,
    )
}

/// Runs a line of shell in a network of its own. Mounts stay shared: a copy of them, however
/// short, would keep others' file systems alive.
fn alone_in_a_network(script: &str) -> anyhow::Result<String> {
    within(&["--net"], script)
}

fn within(namespaces: &[&str], script: &str) -> anyhow::Result<String> {
    let args = [namespaces, &["--", "sh", "-ec", script]].concat();
    let out = run("unshare", &args)?;
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn root(_: &Path) -> anyhow::Result<String> {
    let out = run("id", &["-u"])?;
    let id = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    ensure!(id == "0", "user id {id}; run it as root");
    Ok("user id 0".into())
}

fn namespaces(_: &Path) -> anyhow::Result<String> {
    let pid = unshared("echo $$")?;
    ensure!(pid == "1", "the first process inside has id {pid}");
    Ok("process 1 inside".into())
}

fn netns(_: &Path) -> anyhow::Result<String> {
    unshared(
        "mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; ip netns add probe; \
         nsenter --net=/run/netns/probe ip link set lo up; nsenter --net=/run/netns/probe ip -br link show lo",
    )
}

fn veth(_: &Path) -> anyhow::Result<String> {
    alone_in_a_network("ip link add name qva type veth peer name qvb; ip -br link show qva")
}

fn bridge(_: &Path) -> anyhow::Result<String> {
    alone_in_a_network("ip link add name qbr type bridge; ip -br link show qbr")
}

fn nft_bridge(_: &Path) -> anyhow::Result<String> {
    alone_in_a_network(
        "nft add table bridge probe; nft add chain bridge probe c '{ type filter hook forward priority 0 ; }'; nft list tables",
    )
}

fn tun(_: &Path) -> anyhow::Result<String> {
    let name = format!("qp{}", rand::random::<u32>() % 100_000);
    let file = crate::sys::tun(&name)?;
    run("ip", &["link", "show", &name])?;
    drop(file);
    Ok("made and ended with its file".into())
}

/// A small image, mounted; unmounted when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn image(dir: &Path, name: &str) -> anyhow::Result<(PathBuf, Mounted)> {
    let (file, at) = (dir.join(format!("{name}.img")), dir.join(name));
    std::fs::File::create(&file)?.set_len(16 << 20)?;
    std::fs::create_dir_all(&at)?;
    run("mkfs.ext4", &["-q", "-F", text(&file)?])?;
    run("mount", &["-o", "loop", text(&file)?, text(&at)?])?;
    Ok((file, Mounted(at)))
}

fn loop_device(dir: &Path) -> anyhow::Result<String> {
    let (_, at) = image(dir, "loop")?;
    std::fs::write(at.0.join("probe"), b"probe")?;
    Ok("an ext4 image was mounted and written to".into())
}

fn ext4_shutdown(dir: &Path) -> anyhow::Result<String> {
    let (file, at) = image(dir, "shutdown")?;
    let mut kept = std::fs::File::create(at.0.join("kept"))?;
    kept.write_all(b"kept")?;
    kept.sync_all()?;
    std::fs::File::open(&at.0)?.sync_all()?;
    std::fs::write(at.0.join("lost"), b"lost")?;
    drop(kept);
    crate::sys::cut_power(&at.0)?;
    run("umount", &[text(&at.0)?])?;
    let _ = Command::new("e2fsck").args(["-p", text(&file)?]).output();
    run("mount", &["-o", "loop", text(&file)?, text(&at.0)?])?;
    ensure!(
        std::fs::read(at.0.join("kept"))? == b"kept",
        "what was synced is gone"
    );
    ensure!(!at.0.join("lost").exists(), "what was not synced is there");
    Ok("synced data stayed, unsynced data went".into())
}

fn tmpfs_resize(dir: &Path) -> anyhow::Result<String> {
    let at = dir.join("tmpfs");
    std::fs::create_dir_all(&at)?;
    run(
        "mount",
        &["-t", "tmpfs", "-o", "size=4m", "tmpfs", text(&at)?],
    )?;
    let at = Mounted(at);
    run("mount", &["-o", "remount,size=1m", text(&at.0)?])?;
    match std::fs::write(at.0.join("big"), vec![0u8; 2 << 20]) {
        Err(e) if e.kind() == std::io::ErrorKind::StorageFull => {
            Ok("made smaller while mounted".into())
        }
        other => bail!("2 MiB in 1 MiB: {other:?}"),
    }
}

fn faketime(_: &Path) -> anyhow::Result<String> {
    let lib = crate::cluster::FAKETIME;
    ensure!(
        Path::new(lib).exists(),
        "{lib} is not there; install libfaketime"
    );
    let out = Command::new("date")
        .args(["-u", "+%Y"])
        .env("LD_PRELOAD", lib)
        .env("FAKETIME", "@2001-01-01 00:00:00")
        .output()?;
    let year = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    ensure!(year == "2001", "date says {year}, it was told 2001");
    Ok("date believed another year".into())
}

/// Makes a cgroup below a v1 controller and removes it.
fn cgroup(controller: &str, file: &str, value: &str) -> anyhow::Result<String> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let at = mounts.lines().find_map(|l| {
        let mut parts = l.split(' ');
        let (at, kind, options) = (parts.nth(1)?, parts.next()?, parts.next()?);
        (kind == "cgroup" && options.split(',').any(|o| o == controller)).then(|| at.to_owned())
    });
    let at = PathBuf::from(at.with_context(|| format!("no cgroup v1 hierarchy has {controller}"))?);
    let own = at.join(scratch_name());
    std::fs::create_dir(&own)?;
    let written = std::fs::write(own.join(file), value);
    std::fs::remove_dir(&own)?;
    written.with_context(|| format!("write {value} to {file}"))?;
    Ok(format!("v1 at {}", at.display()))
}

fn freezer(_: &Path) -> anyhow::Result<String> {
    cgroup("freezer", "freezer.state", "THAWED")
}

fn cgroup_cpu(_: &Path) -> anyhow::Result<String> {
    cgroup("cpu", "cpu.cfs_quota_us", "10000")
}

fn cgroup_memory(_: &Path) -> anyhow::Result<String> {
    cgroup("memory", "memory.limit_in_bytes", "33554432")
}

fn cgroup_v2(_: &Path) -> anyhow::Result<String> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let at = mounts
        .lines()
        .find(|l| l.split(' ').nth(2) == Some("cgroup2"));
    let at = at
        .and_then(|l| l.split(' ').nth(1))
        .context("no cgroup v2 hierarchy is mounted")?;
    let controllers = std::fs::read_to_string(Path::new(at).join("cgroup.controllers"))?;
    ensure!(
        controllers.split_whitespace().any(|c| c == "cpu"),
        "it has only: {}",
        controllers.trim()
    );
    Ok(format!("at {at}: {}", controllers.trim()))
}

fn fuse(_: &Path) -> anyhow::Result<String> {
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .context("open /dev/fuse")?;
    Ok("/dev/fuse opens".into())
}

fn ptrace(dir: &Path) -> anyhow::Result<String> {
    let log = dir.join("strace");
    let inject = "inject=fsync,fdatasync:error=EIO";
    let file = dir.join("traced");
    let out = Command::new("strace")
        .args(["-f", "-e", "trace=fsync,fdatasync", "-e", inject, "-o"])
        .arg(&log)
        .args(["dd", "if=/dev/zero", "bs=1", "count=1", "conv=fsync"])
        .arg(format!("of={}", file.display()))
        .output()
        .context("start strace; is it installed?")?;
    ensure!(!out.status.success(), "an fsync that was to fail succeeded");
    ensure!(
        std::fs::read_to_string(&log)?.contains("INJECTED"),
        "strace injected nothing"
    );
    Ok("strace made an fsync fail".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_reason() {
        let report = Report {
            machine: "test".into(),
            probes: vec![
                Probe {
                    name: "tun",
                    used_for: "",
                    works: true,
                    detail: "yes".into(),
                },
                Probe {
                    name: "loop",
                    used_for: "",
                    works: false,
                    detail: "no device".into(),
                },
            ],
            leftovers: Vec::new(),
        };
        assert!(report.missing(&["tun"]).is_empty());
        assert_eq!(report.missing(&["tun", "loop"]), ["loop: no device"]);
        assert_eq!(report.missing(&["moon"]), ["moon: nothing probes it"]);
    }

    #[test]
    fn every_fault_asks_for_things_that_are_probed() {
        for needed in crate::nemesis::NEMESES.iter().flat_map(|n| n.needs) {
            assert!(PROBES.iter().any(|(name, ..)| name == needed), "{needed}");
        }
    }
}
