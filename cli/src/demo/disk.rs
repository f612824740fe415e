//! Looking for message texts where none may be: in the data directories.

use serde_json::Value;
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// Texts looked for.
const NEEDLES_MAX: usize = 400;
/// Shorter texts could stand somewhere by chance.
const NEEDLE_BYTES_MIN: usize = 24;
/// Bytes a needle is found by before the rest is compared.
const HEAD: usize = 8;

/// What a search saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Needles found, repetitions counted.
    pub hits: u64,
}

/// Long plain texts of an export, as their bytes stand in it.
pub fn needles(export: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    if let Ok(value) = serde_json::from_slice::<Value>(export) {
        collect(&value, &mut out);
    }
    // Escapes would look different in the file: only texts that stand there as they are.
    let heads = index(&out);
    let mut there = vec![false; out.len()];
    scan(export, &out, &heads, |n| there[n] = true);
    let mut there = there.into_iter();
    out.retain(|_| there.next() == Some(true));
    out
}

fn collect(value: &Value, out: &mut Vec<Vec<u8>>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get("text")
                && text.len() >= NEEDLE_BYTES_MIN
                && out.len() < NEEDLES_MAX
                && !out.iter().any(|n| n == text.as_bytes())
            {
                out.push(text.clone().into_bytes());
            }
            map.values().for_each(|v| collect(v, out));
        }
        Value::Array(all) => all.iter().for_each(|v| collect(v, out)),
        _ => {}
    }
}

fn index(needles: &[Vec<u8>]) -> HashMap<[u8; HEAD], Vec<usize>> {
    let mut out: HashMap<_, Vec<usize>> = HashMap::new();
    for (n, needle) in needles.iter().enumerate() {
        if let Some(head) = needle.first_chunk::<HEAD>() {
            out.entry(*head).or_default().push(n);
        }
    }
    out
}

fn scan(
    bytes: &[u8],
    needles: &[Vec<u8>],
    heads: &HashMap<[u8; HEAD], Vec<usize>>,
    mut hit: impl FnMut(usize),
) {
    for at in 0..bytes.len().saturating_sub(HEAD - 1) {
        let Some(head) = bytes[at..].first_chunk::<HEAD>() else {
            continue;
        };
        for n in heads.get(head).into_iter().flatten() {
            if bytes[at..].starts_with(&needles[*n]) {
                hit(*n);
            }
        }
    }
}

/// How many of the needles stand in `bytes`.
pub fn search_bytes(bytes: &[u8], needles: &[Vec<u8>]) -> usize {
    let mut there = vec![false; needles.len()];
    scan(bytes, needles, &index(needles), |n| there[n] = true);
    there.into_iter().filter(|t| *t).count()
}

/// Reads every file of every node's directory below `dir`.
///
/// # Errors
/// When a directory cannot be listed. Files that went away meanwhile are passed over.
pub fn search(dir: &Path, needles: &[Vec<u8>]) -> io::Result<Found> {
    let heads = index(needles);
    let mut found = Found::default();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                // What this client itself keeps is the reader's own.
                if path.file_name().is_some_and(|n| n != "client") {
                    todo.push(path);
                }
            } else if let Ok(bytes) = std::fs::read(&path) {
                found.files += 1;
                found.bytes += bytes.len() as u64;
                scan(&bytes, needles, &heads, |_| found.hits += 1);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_what_is_there() {
        let tmp = tempfile::tempdir().unwrap();
        let export =
            br#"{"messages":[{"text":"a text that is long enough to count"},{"text":"short"}]}"#;
        let needles = needles(export);
        assert_eq!(needles.len(), 1);
        assert_eq!(search_bytes(export, &needles), 1);
        std::fs::create_dir(tmp.path().join("node-1")).unwrap();
        std::fs::write(tmp.path().join("node-1/data"), b"\0\0sealed\0\0").unwrap();
        assert_eq!(search(tmp.path(), &needles).unwrap().hits, 0);
        std::fs::write(
            tmp.path().join("node-1/leak"),
            [b"xx".as_slice(), &needles[0], b"yy"].concat(),
        )
        .unwrap();
        let found = search(tmp.path(), &needles).unwrap();
        assert_eq!((found.hits, found.files), (1, 2));
    }
}
