//! Tiles as files, under the very paths of the standard.

use crate::exit::Failure;
use quorate_engine::audit::publish::{Published, Tile, TileSource, tiles_of};
use std::path::{Path, PathBuf};

/// A directory with one log's tiles. What lies there is checked like anything else.
#[derive(Clone, Debug)]
pub struct Shelf(PathBuf);

impl Shelf {
    /// In this directory; made when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(dir).map_err(|e| Failure::file("make", dir, &e))?;
        Ok(Self(dir.to_owned()))
    }

    fn path(&self, tile: &Tile) -> PathBuf {
        self.0.join(tile.to_string())
    }

    /// Whether a tile is here.
    pub fn has(&self, tile: &Tile) -> bool {
        self.path(tile).is_file()
    }

    /// Puts a tile here, whole or not at all.
    ///
    /// # Errors
    /// As the disk does.
    pub fn put(&self, tile: &Tile, bytes: &[u8]) -> Result<(), Failure> {
        self.write(&self.path(tile), bytes)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let failed = |e: &std::io::Error| Failure::file("write", path, e);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        std::fs::write(&part, bytes).map_err(|e| failed(&e))?;
        std::fs::rename(&part, path).map_err(|e| failed(&e))
    }

    /// The checkpoint that was believed the last time, as it was kept.
    ///
    /// # Errors
    /// When there is a file and it cannot be read.
    pub fn checkpoint(&self) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.0.join("checkpoint");
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Failure::file("read", &path, &e)),
        }
    }

    /// Keeps a checkpoint that was believed.
    ///
    /// # Errors
    /// As the disk does.
    pub fn keep_checkpoint(&self, note: &str) -> Result<(), Failure> {
        self.write(&self.0.join("checkpoint"), note.as_bytes())
    }

    /// All hashes of a tree, for proofs; tiles that are missing or malformed are left out.
    pub fn source(&self, size: u64) -> TileSource {
        let mut out = TileSource::new(size);
        for tile in tiles_of(size) {
            if let Ok(bytes) = self.tile(&tile) {
                // A proof that needs it will say that it is not there.
                let _ = out.add(tile, &bytes);
            }
        }
        out
    }
}

impl Published for Shelf {
    fn tile(&self, tile: &Tile) -> Result<Vec<u8>, String> {
        std::fs::read(self.path(tile)).map_err(|e| e.to_string())
    }
}
