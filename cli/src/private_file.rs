//! Files that only their owner may read: keys, shares, results of orders.
//!
//! What `node` keeps its own keys with, and an answer for a person.

use crate::exit::{Exit, Failure};
use quorate_node::pki::files::{self, Access, FileError};
use std::path::Path;
use zeroize::Zeroizing;

/// Writes a new file with mode 0600 and syncs it; one that is there stays as it is.
///
/// # Errors
/// [`Failure`] that says what was being done (`doing`) to which file.
pub fn create(path: &Path, bytes: &[u8], doing: &str) -> Result<(), Failure> {
    files::create(path, bytes, Access::Secret).map_err(|e| failure(&e, doing, path))
}

/// Reads a file of at most 256 KiB. One that others may read is refused.
///
/// # Errors
/// As [`create`].
pub fn read(path: &Path, doing: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    files::read_secret(path).map_err(|e| failure(&e, doing, path))
}

fn failure(e: &FileError, doing: &str, path: &Path) -> Failure {
    match e {
        FileError::Io { source, .. } => Failure::file(doing, path, source),
        FileError::Mode { .. } => Failure::usage(
            format!("{}: others may read this file", path.display()),
            format!(
                "run chmod 600 {}; if anybody could have read it, replace what is in it",
                path.display()
            ),
        ),
        FileError::Exists { .. } => Failure::new(
            Exit::Failed,
            "file",
            format!("cannot {doing} {}: it exists", path.display()),
            "nothing is overwritten: name another file, or move that one away",
        ),
        FileError::Content { what, .. } => {
            Failure::usage(format!("{}: {what}", path.display()), "check the file")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_its_owner_reads_it_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create(&path, b"first", "write").unwrap();
        assert_eq!(read(&path, "read").unwrap().as_slice(), b"first");
        let again = create(&path, b"second", "write the key to").unwrap_err();
        assert!(again.what.contains("cannot write the key to"), "{again}");
        assert_eq!(read(&path, "read").unwrap().as_slice(), b"first");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let open = read(&path, "read").unwrap_err();
        assert_eq!(open.exit, Exit::Usage);
        assert!(open.next.contains("chmod 600"), "{open}");
        let gone = read(&dir.path().join("none"), "read the share").unwrap_err();
        assert!(gone.what.contains("cannot read the share"), "{gone}");
    }
}
