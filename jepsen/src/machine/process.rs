//! A node's process.

use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running process; it is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where its output goes.
    pub log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let out = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did: exit code, or `None` for a signal.
    pub fn ended(&mut self) -> Option<Option<i32>> {
        self.child.try_wait().ok().flatten().map(|s| s.code())
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // Already gone is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name (`TERM`, `STOP`, `CONT`).
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        super::run("kill", &[&format!("-{name}"), &self.pid().to_string()])?;
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<Option<i32>> {
        let until = Instant::now() + limit;
        loop {
            if let Some(code) = self.ended() {
                return Ok(code);
            }
            if Instant::now() > until {
                bail!("process {} still runs after {limit:?}", self.pid());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program of this project: beside this one, or in `QUORATE_BIN`.
///
/// # Errors
/// When it is not there; the message says how to get it.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("QUORATE_BIN") {
        let path = PathBuf::from(dir).join(name);
        anyhow::ensure!(
            path.is_file(),
            "{} is not there; QUORATE_BIN must name the directory with quorate and quorate-node",
            path.display()
        );
        return Ok(path);
    }
    let exe = std::env::current_exe()?;
    // Tests run from `deps`, one below.
    for dir in exe.ancestors().skip(1).take(2) {
        let path = dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "{name} is not beside {}; run `cargo build --workspace --bins`, or name its directory in QUORATE_BIN",
        exe.display()
    )
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
