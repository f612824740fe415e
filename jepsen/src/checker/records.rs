//! Facts that the harness writes down beside the history: one JSON object a
//! line in `records/NAME.jsonl`. Each checker that reads some says which and
//! defines their fields; unknown fields are refused, so that a slip in a name
//! is not taken for silence. Times are milliseconds since the run began.

use super::TestRecord;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Read};

/// Longest line, in bytes.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Most lines of one file.
const LINES_MAX: usize = 5_000_000;

/// All lines of one record; an error when there are none, because then nothing can be said.
pub(crate) fn read<T: DeserializeOwned>(test: &TestRecord, name: &str) -> Result<Vec<T>, String> {
    let file = format!("records/{name}.jsonl");
    let path = test.dir.join(&file);
    let from = std::fs::File::open(&path)
        .map_err(|e| format!("{file}: {e}: the run did not record it"))?;
    let mut from = BufReader::new(from);
    let mut out = Vec::new();
    for number in 1_usize.. {
        let mut line = Vec::new();
        let mut limited = from.by_ref().take(LINE_BYTES_MAX + 1);
        let read = limited
            .read_until(b'\n', &mut line)
            .map_err(|e| format!("{file}: {e}"))?;
        if read == 0 {
            break;
        }
        if read as u64 > LINE_BYTES_MAX || out.len() == LINES_MAX {
            return Err(format!("{file}:{number}: over the limit"));
        }
        out.push(serde_json::from_slice(&line).map_err(|e| format!("{file}:{number}: {e}"))?);
    }
    if out.is_empty() {
        return Err(format!("{file} is empty"));
    }
    Ok(out)
}
