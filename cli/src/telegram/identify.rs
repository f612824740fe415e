//! Which import a file is: the first pass, hashed while it is read.
//!
//! The id is a keyed hash of the whole file (DESIGN 5: no unkeyed digest of
//! content leaves the client). It is also taken at the lengths where files of
//! earlier imports were cut short, so that the whole file goes on with them.

use super::import::{Observer, Plan};
use super::survey::{self, Survey, SurveyError};
use crate::exit::Failure;
use quorate_engine::types::Secret;
use std::io::Read;
use std::path::Path;

/// Hashes while reading, also at the lengths where earlier files were cut.
struct Hashing<'a, R> {
    inner: R,
    hash: blake3::Hasher,
    at: u64,
    of: u64,
    marks: &'a [(String, u64)],
    found: Option<String>,
    copy: u32,
    observer: &'a dyn Observer,
}

/// Import ids are this many hex characters, so that idempotency keys stay under 64.
const ID_CHARS: usize = 24;

fn id_of(hash: &blake3::Hasher, copy: u32) -> String {
    let hash = &hash.finalize().to_hex()[..ID_CHARS];
    match copy {
        0 => hash.to_owned(),
        copy => format!("{hash}-{copy}"),
    }
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(out)?;
        let mut rest = &out[..n];
        while let Some((id, mark)) = self
            .marks
            .first()
            .filter(|(_, m)| *m <= self.at + rest.len() as u64)
        {
            let (before, after) = rest.split_at((mark - self.at.min(*mark)) as usize);
            self.hash.update(before);
            self.at += before.len() as u64;
            if *id == id_of(&self.hash, self.copy) {
                self.found = Some(id.clone());
            }
            self.marks = &self.marks[1..];
            rest = after;
        }
        self.hash.update(rest);
        self.at += rest.len() as u64;
        self.observer.reading(self.at, self.of);
        Ok(n)
    }
}

/// Reads the file once: what is in it, the import's id, and the file's length. `cut` has
/// the ids and lengths of files that were cut short, shortest first.
///
/// # Errors
/// [`Failure`] when nothing can be imported from it.
pub fn survey_file(
    plan: &Plan,
    secret: &Secret<32>,
    cut: &[(String, u64)],
    observer: &dyn Observer,
) -> Result<(Survey, String, u64), Failure> {
    let file =
        std::fs::File::open(&plan.file).map_err(|e| Failure::file("open", &plan.file, &e))?;
    let meta = file
        .metadata()
        .map_err(|e| Failure::file("read", &plan.file, &e))?;
    if !meta.is_file() {
        return Err(Failure::usage(
            format!("{} is not a regular file", plan.file.display()),
            "give the result.json of an export; it is read twice, so a pipe will not do",
        ));
    }
    let hashing = Hashing {
        inner: file,
        hash: blake3::Hasher::new_keyed(&blake3::derive_key(
            "quorate 2026 import id",
            secret.expose(),
        )),
        at: 0,
        of: meta.len(),
        marks: cut,
        found: None,
        copy: plan.copy,
        observer,
    };
    let (survey, hashing) = survey::survey(hashing).map_err(|e| refuse(&plan.file, &e))?;
    let whole = id_of(&hashing.hash, plan.copy);
    let id = hashing.found.unwrap_or(whole);
    Ok((survey, id, hashing.at))
}

fn refuse(file: &Path, e: &SurveyError) -> Failure {
    let next = match e {
        SurveyError::Unreadable(_) => "check the disk the file is on",
        SurveyError::TooLarge(_) => "export fewer chats at a time",
        _ => {
            "give the result.json that Telegram Desktop wrote in the format \"Machine-readable JSON\""
        }
    };
    Failure::usage(format!("cannot import {}: {e}", file.display()), next)
}
