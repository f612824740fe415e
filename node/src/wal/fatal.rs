//! What happens when a durable write fails: the process stops, and says why.
//!
//! After a failed fsync the kernel may drop the dirty pages and report success
//! the next time (fsyncgate, 2018). Nothing can be concluded by trying again,
//! so nothing is tried: the node leaves, and its peers hold what it held.

use std::io::Write;
use std::sync::Arc;

/// Exit code of a process whose disk failed it (`EX_SOFTWARE` of sysexits.h).
pub const EXIT_DISK_FAILED: i32 = 70;

/// Called once with the reason when durability can no longer be promised.
#[derive(Clone)]
pub struct Fatal(Arc<dyn Fn(&str) + Send + Sync>);

impl Fatal {
    /// A handler of one's own. Tests record the reason instead of leaving.
    pub fn new(f: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(f))
    }

    /// Reports `reason`. With the default handler it does not return.
    pub fn report(&self, reason: &str) {
        (self.0)(reason);
    }
}

impl Default for Fatal {
    /// Logs the reason, writes it to standard error, and exits with
    /// [`EXIT_DISK_FAILED`]. Not an abort: a core file could hold leased keys.
    fn default() -> Self {
        Self::new(|reason| {
            tracing::error!(reason, "stopping: a durable write failed");
            let _ = writeln!(
                std::io::stderr(),
                "quorate-node: stopping: {reason}\n\
                 what was acknowledged is safe on the other nodes; check this node's disk and \
                 free space, then replace the node or restart it on a sound disk"
            );
            std::process::exit(EXIT_DISK_FAILED);
        })
    }
}

impl std::fmt::Debug for Fatal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fatal")
    }
}
