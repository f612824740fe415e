//! What the kernel sees: no acknowledgement without an fdatasync before it,
//! and many acknowledgements an fdatasync under load. By strace, where it is
//! installed; the log's own tests count the same through its file layer.

use std::process::Command;

struct Traced {
    acks: u64,
    log_syncs: u64,
    /// Acknowledgements that came before as many log syncs had finished.
    early: u64,
}

fn trace(groups: u32, in_flight: u32, appends: u32) -> Option<Traced> {
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "strace is not installed in CI"
        );
        eprintln!("SKIPPED system calls: strace is not installed");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let out = Command::new("strace")
        .args([
            "-f",
            "-y",
            "-e",
            "trace=write,fdatasync",
            "-e",
            "signal=none",
            "-s",
            "0",
            "-o",
        ])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_storage-writer"))
        .args([dir.path().join("data"), dir.path().join("acks")])
        .args([
            "memory",
            &groups.to_string(),
            &in_flight.to_string(),
            &appends.to_string(),
        ])
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let mut t = Traced {
        acks: 0,
        log_syncs: 0,
        early: 0,
    };
    let mut open = std::collections::BTreeSet::new();
    for line in std::fs::read_to_string(&trace).unwrap().lines() {
        let pid = line.split(' ').next().unwrap_or_default().to_owned();
        if line.contains("write(") && line.contains("/acks>") {
            t.acks += 1;
            t.early += u64::from(groups * in_flight == 1 && t.log_syncs < t.acks);
        } else if line.contains("fdatasync(") && line.contains(".wal>") {
            if line.contains("unfinished") {
                open.insert(pid);
            } else {
                t.log_syncs += 1;
            }
        } else if line.contains("fdatasync resumed") && open.remove(&pid) {
            t.log_syncs += 1;
        }
    }
    Some(t)
}

#[test]
fn one_writer_is_acknowledged_only_after_its_own_fdatasync() {
    if let Some(t) = trace(1, 1, 60) {
        assert_eq!(t.acks, 60);
        assert_eq!(
            t.early, 0,
            "{} of 60 acknowledgements came before their fdatasync",
            t.early
        );
    }
}

#[test]
fn sixty_four_appends_over_eight_groups_share_fdatasyncs() {
    if let Some(t) = trace(8, 8, 80) {
        assert_eq!(t.acks, 640);
        assert!(t.log_syncs > 0);
        let per_sync = t.acks as f64 / t.log_syncs as f64;
        assert!(
            per_sync >= 4.0,
            "{per_sync:.1} acknowledgements an fdatasync"
        );
    }
}
