//! Small files with keys and certificates: written whole or not at all,
//! secrets with mode 0600, read with a limit.

use ed25519_dalek::SigningKey;
use quorate_engine::types::{RootKey, Secret};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, Zeroizing};

/// No certificate, key or descriptor file is longer.
pub const FILE_BYTES_MAX: u64 = 256 << 10;

/// Why a key or certificate file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is there already; keys are never overwritten.
    #[error(
        "{path} exists; keys are never overwritten: choose another directory or move it away yourself"
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others may read a secret.
    #[error("{path}: mode {mode:o} lets others read a secret; run chmod 600 {path}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not what should stand in such a file.
    #[error("{path}: {what}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong; never the content.
        what: String,
    },
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> FileError + '_ {
    move |source| FileError::Io {
        path: path.to_owned(),
        source,
    }
}

fn content(path: &Path, what: impl Into<String>) -> FileError {
    FileError::Content {
        path: path.to_owned(),
        what: what.into(),
    }
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// 0600.
    Secret,
    /// 0644.
    Public,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Secret => 0o600,
            Self::Public => 0o644,
        }
    }
}

/// Makes a directory for keys, mode 0700, parents included.
///
/// # Errors
/// [`FileError::Io`].
pub fn make_dir(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(io_at(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_at(path))
}

/// Writes a new file and syncs it; refuses to overwrite.
///
/// # Errors
/// [`FileError::Exists`], [`FileError::Io`].
pub fn create(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(access.mode())
        .open(path)
        .map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => FileError::Exists {
                path: path.to_owned(),
            },
            _ => io_at(path)(e),
        })?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(io_at(path))
}

/// Replaces a file in one step (rotation): readers see the old or the new one, whole.
///
/// # Errors
/// [`FileError::Io`].
pub fn replace(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temp = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(access.mode())
            .open(&temp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temp, path)?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty());
        fs::File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(io_at(path))
}

/// Reads a small public file.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let len = fs::metadata(path).map_err(io_at(path))?.len();
    if len > FILE_BYTES_MAX {
        return Err(content(
            path,
            format!("{len} bytes, at most {FILE_BYTES_MAX}"),
        ));
    }
    fs::read(path).map_err(io_at(path))
}

/// Reads a small secret file; refuses one that others may read.
///
/// # Errors
/// [`FileError`].
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let mode = fs::metadata(path)
        .map_err(io_at(path))?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    read(path).map(Zeroizing::new)
}

/// Writes 32 secret bytes as one line of hex, mode 0600.
///
/// # Errors
/// [`FileError`].
pub fn create_secret32(path: &Path, secret: &Secret<32>) -> Result<(), FileError> {
    let mut text = Zeroizing::new([0u8; 65]);
    hex::encode_to_slice(secret.expose(), &mut text[..64]).expect("64 characters hold 32 bytes");
    text[64] = b'\n';
    create(path, text.as_ref(), Access::Secret)
}

/// Reads what [`create_secret32`] wrote.
///
/// # Errors
/// [`FileError`]; its message never shows the content.
pub fn read_secret32(path: &Path) -> Result<Secret<32>, FileError> {
    let text = read_secret(path)?;
    let mut bytes = [0u8; 32];
    if hex::decode_to_slice(text.trim_ascii(), &mut bytes).is_err() {
        bytes.zeroize();
        return Err(content(path, "not a key file: expected 64 hex characters"));
    }
    Ok(Secret::take(&mut bytes))
}

/// Reads a root key file, for the `key-file` provider.
///
/// # Errors
/// [`FileError`].
pub fn read_root_key(path: &Path) -> Result<RootKey, FileError> {
    read_secret32(path).map(RootKey)
}

/// Reads an Ed25519 signing key (identity, log, witness).
///
/// # Errors
/// [`FileError`].
pub fn read_signing_key(path: &Path) -> Result<SigningKey, FileError> {
    read_secret32(path).map(|s| SigningKey::from_bytes(s.expose()))
}

/// Writes an Ed25519 signing key, mode 0600.
///
/// # Errors
/// [`FileError`].
pub fn create_signing_key(path: &Path, key: &SigningKey) -> Result<(), FileError> {
    let mut seed = key.to_bytes();
    create_secret32(path, &Secret::take(&mut seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_private_never_overwritten_and_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        let key = Secret::<32>::from_slice(&[0xa7; 32]).unwrap();
        create_secret32(&path, &key).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(read_secret32(&path).unwrap().expose(), &[0xa7; 32]);
        assert!(matches!(
            create_secret32(&path, &key),
            Err(FileError::Exists { .. })
        ));

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let e = read_secret32(&path).unwrap_err().to_string();
        assert!(
            e.contains("640") && e.contains("chmod 600") && !e.contains("a7a7"),
            "{e}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();

        replace(&path, &[b'a'; 63], Access::Secret).unwrap();
        let e = read_secret32(&path).unwrap_err().to_string();
        assert!(e.contains("64 hex") && !e.contains("aaaa"), "{e}");
    }
}
