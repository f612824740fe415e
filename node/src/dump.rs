//! `quorate-node dump`: what lies in a stopped node's data directory.
//!
//! Structure only: sequences, groups, kinds, lengths, positions, row counts.
//! Never a value, so the output may go into a bug report. It changes
//! nothing, not even an unfinished tail.

use crate::raft::snapshot;
use crate::storage::{self, group_dir};
use crate::store::inspect::{self, Table};
use crate::wal;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Why a directory cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It is no data directory, or cannot be read.
    #[error("{path}: {source}; name the data directory of a stopped node")]
    Read {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Wal(#[from] wal::WalError),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(std::io::Error),
}

/// Row counts by table, one per line.
fn shown(tables: &BTreeMap<u8, Table>) -> String {
    tables
        .iter()
        .map(|(t, n)| {
            format!(
                "\n  table {t}: {} rows, {} bytes",
                n.rows,
                n.key_bytes + n.value_bytes
            )
        })
        .collect()
}

#[derive(Default)]
struct PerGroup {
    records: u64,
    entries: u64,
    bytes: u64,
    last: String,
}

/// Writes what `data` holds to `out`, every log record too when `records`.
///
/// # Errors
/// [`DumpError`]. Damage inside files is part of the output, not an error.
pub fn write(
    data: &Path,
    records: bool,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), DumpError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| DumpError::Read { path, source }
    };
    let format = data.join("FORMAT");
    let format = std::fs::read_to_string(&format).map_err(read(&format))?;
    let mut say = |text: String, value: serde_json::Value| {
        let line = if as_json { value.to_string() } else { text };
        writeln!(out, "{line}").map_err(DumpError::Output)
    };
    say(
        format!("format: {}", format.trim().replace('\n', " ")),
        json!({"format": format.trim()}),
    )?;
    let mut groups: BTreeMap<u32, PerGroup> = BTreeMap::new();
    let mut lines = Vec::new();
    let log = wal::dump::dump(&data.join("wal"), |record| {
        let g = groups.entry(record.group).or_default();
        g.records += 1;
        g.bytes += u64::from(record.len);
        g.entries += record.entries.len() as u64;
        if let Some((pos, ..)) = record.entries.last() {
            g.last = pos.to_string();
        }
        if records {
            lines.push(record.to_string());
        }
    })?;
    for segment in &log.segments {
        let damage = segment
            .invalid_at
            .map_or(String::new(), |at| format!(", invalid from byte {at}"));
        let text = format!(
            "segment {}: {} bytes{damage}",
            segment.path.display(),
            segment.len
        );
        say(
            text,
            json!({"segment": segment.path, "bytes": segment.len, "invalid_at": segment.invalid_at}),
        )?;
    }
    for line in lines {
        say(format!("  {line}"), json!({"record": line}))?;
    }
    for (group, g) in &groups {
        let text = format!(
            "group {group} in the log: {} records, {} entries, {} bytes, last {}",
            g.records, g.entries, g.bytes, g.last
        );
        say(
            text,
            json!({"group": group, "records": g.records, "entries": g.entries, "bytes": g.bytes, "last": g.last}),
        )?;
    }
    for group in storage::groups_in(data).map_err(read(data))? {
        let store = group_dir(data, group).join("state.redb");
        if store.exists() {
            let (state, tables) = match inspect::redb_file(&store) {
                Ok(h) => ("whole".to_owned(), h.tables),
                Err(e) => (format!("not readable: {e}"), BTreeMap::new()),
            };
            say(
                format!("store {}: {state}{}", store.display(), shown(&tables)),
                json!({"store": store, "state": state, "tables": tables}),
            )?;
        }
        let dir = group_dir(data, group).join("snapshots");
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let (state, rows) = match snapshot::Reader::open(&path) {
                Ok(reader) => match reader.verify() {
                    Ok(rows) => ("whole".to_owned(), Some(rows)),
                    Err(e) => (format!("damaged: {e}"), None),
                },
                Err(e) => (format!("not readable: {e}"), None),
            };
            let text = format!(
                "snapshot {}: {state}, {} rows",
                path.display(),
                rows.unwrap_or(0)
            );
            say(
                text,
                json!({"snapshot": path, "state": state, "rows": rows}),
            )?;
        }
    }
    Ok(())
}
