//! The few file operations the log needs, as a trait.
//!
//! The real disk is one implementation; tests put another in its place that
//! counts and orders calls, forgets what was never synced, or fails an fsync.
//! Only what durability depends on is here: everything else is ordinary code.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file of the log.
pub trait DiskFile: Send + Sync {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// As the system reports them.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reads exactly `bytes.len()` bytes at `offset`.
    ///
    /// # Errors
    /// As the system reports them.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Makes the content durable (fdatasync).
    ///
    /// # Errors
    /// As the system reports them; after one, what is on disk is unknown.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or extends the file.
    ///
    /// # Errors
    /// As the system reports them.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The file's length in bytes.
    ///
    /// # Errors
    /// As the system reports them.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    ///
    /// # Errors
    /// As the system reports them.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A directory's worth of file operations.
pub trait Disk: Send + Sync {
    /// Creates `path` empty, or empties it.
    ///
    /// # Errors
    /// As the system reports them.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens `path` for reading and writing.
    ///
    /// # Errors
    /// As the system reports them.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Removes `path`.
    ///
    /// # Errors
    /// As the system reports them.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates the directory `dir` and those above it, if missing.
    ///
    /// # Errors
    /// As the system reports them.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes creations and removals in `dir` durable.
    ///
    /// # Errors
    /// As the system reports them.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// The files in `dir`.
    ///
    /// # Errors
    /// As the system reports them.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl DiskFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let f = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        Ok(Arc::new(f))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(
            OpenOptions::new().read(true).write(true).open(path)?,
        ))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        create_dir_durably(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut out = Vec::new();
        for e in std::fs::read_dir(dir)? {
            out.push(e?.path());
        }
        out.sort();
        Ok(out)
    }
}

/// Reads a whole file.
///
/// # Errors
/// As the system reports them.
pub fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0u8; len];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Creates `dir` and those above it, if missing, so that a power cut does not take them back.
///
/// # Errors
/// As the system reports them.
pub fn create_dir_durably(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(p) = parent {
        create_dir_durably(p)?;
    }
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
