//! A run's own namespaces.
//!
//! ```text
//!  quorate-jepsen run …            outside: waits, passes the exit code on
//!    └─ unshare --net --mount --pid
//!         └─ quorate-jepsen run …  inside: process 1, the switch, the clients, every node
//! ```
//!
//! When the inner process ends, for whatever reason, the kernel kills every
//! node, unmounts every image, frees the loop devices, and removes the network.
//! When the outer one is killed, the inner one sees its standard input end.

use anyhow::{Context, ensure};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Set for the process inside.
const INSIDE: &str = "QUORATE_JEPSEN_INSIDE";

/// Whether this is the process inside.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this program again with the same arguments in namespaces of its own; its exit code.
///
/// # Errors
/// When namespaces cannot be made.
pub async fn run_inside() -> anyhow::Result<u8> {
    let exe = std::env::current_exe().context("find this program")?;
    let mut child = tokio::process::Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork"])
        .args(["--kill-child=KILL", "--mount-proc", "--"])
        .arg(exe)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .stdin(Stdio::piped())
        .spawn()
        .context("start unshare (util-linux)")?;
    let hold = child.stdin.take();
    loop {
        tokio::select! {
            status = child.wait() => {
                drop(hold);
                let code = status?.code().and_then(|c| u8::try_from(c).ok());
                return Ok(code.unwrap_or(crate::verdict::EXIT_HARNESS_FAILED));
            }
            // The terminal sends it to the one inside, too, which then ends in order.
            _ = tokio::signal::ctrl_c() => {}
        }
    }
}

/// Prepares the namespaces from inside, and ends the process when the outer one is gone.
///
/// # Errors
/// When the machine refuses.
pub fn settle() -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name("outer".into())
        .spawn(|| {
            let mut byte = [0];
            while matches!(std::io::stdin().read(&mut byte), Ok(1)) {}
            std::process::exit(i32::from(crate::verdict::EXIT_HARNESS_FAILED));
        })
        .context("start a thread")?;
    super::run("ip", &["link", "set", "lo", "up"])?;
    let_go_of_others_disks()?;
    // Names of network namespaces stay inside.
    std::fs::create_dir_all("/run/netns").context("make /run/netns")?;
    super::run("mount", &["-t", "tmpfs", "tmpfs", "/run/netns"])?;
    Ok(())
}

/// A copy of a mount keeps its file system alive when its owner unmounts it: images of others on
/// this machine are unmounted in here, but not what this run is started from or writes to.
fn let_go_of_others_disks() -> anyhow::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let own: Vec<PathBuf> = std::env::args_os()
        .map(PathBuf::from)
        .chain(std::env::current_exe())
        .chain(std::env::current_dir())
        .chain([std::env::temp_dir()])
        .collect();
    for line in mounts.lines() {
        let mut parts = line.split(' ');
        let (Some(source), Some(at)) = (parts.next(), parts.next()) else {
            continue;
        };
        let needed = own.iter().any(|path| path.starts_with(at));
        if source.starts_with("/dev/loop") && !needed {
            // It may be gone already.
            let _ = super::run("umount", &["--lazy", at]);
        }
    }
    Ok(())
}

/// Makes a network namespace of that name with its loopback up.
///
/// # Errors
/// When the machine refuses.
pub fn add_netns(name: &str) -> anyhow::Result<()> {
    super::run("ip", &["netns", "add", name])?;
    super::run("ip", &["-n", name, "link", "set", "lo", "up"])?;
    Ok(())
}

/// A command to run in the network namespace of that name.
pub fn command_in(netns: &str, program: &std::path::Path) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{netns}"))
        .arg("--")
        .arg(program);
    command
}

/// What earlier runs left behind on this machine, in words. With namespaces of
/// their own nothing should be.
///
/// # Errors
/// When the machine cannot be looked at.
pub fn leftovers() -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let netns = Command::new("ip").args(["netns", "list"]).output();
    let netns = netns.context("run ip netns list")?;
    for line in String::from_utf8_lossy(&netns.stdout).lines() {
        if line.starts_with(crate::cluster::NETNS_PREFIX) {
            found.push(format!("network namespace {line}: ip netns delete it"));
        }
    }
    let loops = Command::new("losetup").arg("-a").output();
    let loops = loops.context("run losetup -a")?;
    ensure!(loops.status.success(), "losetup -a: {}", loops.status);
    for line in String::from_utf8_lossy(&loops.stdout).lines() {
        if line.contains(super::image::SUFFIX) {
            found.push(format!(
                "loop device {line}: losetup -d it, if no run is going on"
            ));
        }
    }
    Ok(found)
}
