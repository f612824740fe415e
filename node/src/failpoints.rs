//! Failpoints of test builds: `FAILPOINTS='home::before_write=2*off->panic'` ends
//! the process there as `kill -9` would, and says where.
//!
//! Only with the feature `failpoints`, which no shipped build has. The points
//! are `fail::fail_point!` at every durable step.

use std::io::Write;

/// Exit code of a process that a failpoint ended.
pub const EXIT_FAILPOINT: i32 = 77;

/// Takes `FAILPOINTS` from the environment. With any set, every panic ends the process at
/// once: a task that unwinds while the others go on is no crash.
pub fn set_up() {
    if std::env::var_os("FAILPOINTS").is_none() {
        return;
    }
    std::panic::set_hook(Box::new(|info| {
        let _ = writeln!(std::io::stderr(), "quorate-node: failpoint: {info}");
        std::process::exit(EXIT_FAILPOINT);
    }));
    // Left set up until the process ends.
    std::mem::forget(fail::FailScenario::setup());
}
