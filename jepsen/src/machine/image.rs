//! A node's disk: an ext4 file system in a file, over a loop device.

use super::{run, text};
use anyhow::{Context, bail, ensure};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How names of image files end.
pub const SUFFIX: &str = ".quorate.img";
/// Longest wait for a mount to become free, in tries of 50 ms.
const UMOUNT_TRIES_MAX: u32 = 100;
/// What is left free for a file system that is to be full.
const FULL_LEFT_KIB: u64 = 16;

/// An image mounted over a node's directory.
#[derive(Debug)]
pub struct Image {
    /// The file.
    pub file: PathBuf,
    /// Where it is mounted.
    pub mount: PathBuf,
    mounted: bool,
    /// The small tmpfs that the file lies on, where fsync is to fail.
    thin: Option<PathBuf>,
}

impl Image {
    /// Makes an image of `size_mib` in `dir` with what `place` holds, and mounts it
    /// there. A `thin` one lies on a tmpfs that can be made smaller than the image.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn over(
        place: &Path,
        dir: &Path,
        name: &str,
        size_mib: u64,
        thin: bool,
    ) -> anyhow::Result<Self> {
        let mut at = dir.to_owned();
        let mut backing = None;
        if thin {
            at = dir.join(format!("{name}.thin"));
            std::fs::create_dir_all(&at)?;
            let size = format!("size={}m", size_mib + 16);
            run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(&at)?])?;
            backing = Some(at.clone());
        }
        let file = at.join(format!("{name}{SUFFIX}"));
        std::fs::File::create(&file)?.set_len(size_mib << 20)?;
        let options = "lazy_itable_init=1,nodiscard";
        run("mkfs.ext4", &["-q", "-F", "-E", options, text(&file)?])?;
        let fresh = dir.join(format!("{name}.mnt"));
        std::fs::create_dir_all(&fresh)?;
        let mut image = Self {
            file,
            mount: fresh.clone(),
            mounted: false,
            thin: backing,
        };
        image.mount()?;
        run("cp", &["-a", text(&place.join("."))?, text(&fresh)?])?;
        image.unmount()?;
        std::fs::remove_dir(&fresh)?;
        image.mount = place.to_owned();
        image.mount()?;
        Ok(image)
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        let (file, mount) = (text(&self.file)?, text(&self.mount)?);
        run("mount", &["-o", "loop", file, mount])?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        let mut why = None;
        for _ in 0..UMOUNT_TRIES_MAX {
            match run("umount", &[text(&self.mount)?]) {
                Ok(_) => {
                    self.mounted = false;
                    return Ok(());
                }
                Err(e) => why = Some(e),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("{} stays busy: {why:?}", self.mount.display())
    }

    /// Cuts its power: what is not durable yet is gone.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn cut(&self) -> anyhow::Result<()> {
        crate::sys::cut_power(&self.mount)
            .with_context(|| format!("cut the power of {}", self.mount.display()))
    }

    /// Everything that follows a cut: unmount, check, mount. Its processes must have ended.
    ///
    /// # Errors
    /// When it stays busy or cannot be repaired.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        if self.mounted {
            self.unmount()?;
        }
        let file = text(&self.file)?;
        let sound = ["-p", "-y"].iter().any(|how| {
            let out = Command::new("e2fsck").args([how, file]).output();
            // 0: sound, 1 and 2: repaired.
            out.is_ok_and(|o| o.status.code().is_some_and(|c| c < 4))
        });
        ensure!(sound, "{file} cannot be repaired");
        self.mount()
    }

    /// Where the file lies that fills it.
    fn filler(&self) -> PathBuf {
        self.mount.join("filler.quorate-jepsen")
    }

    /// Fills it up: the next write that needs room fails.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn fill(&self) -> anyhow::Result<u64> {
        let mut file = std::fs::File::create(self.filler())?;
        let (mut size, mut filled) = (4 << 20, 0);
        let zeros = vec![0u8; size];
        while size >= (FULL_LEFT_KIB as usize) << 10 {
            match file.write_all(&zeros[..size]) {
                Ok(()) => filled += size as u64,
                Err(e) if e.kind() == std::io::ErrorKind::StorageFull => size /= 2,
                Err(e) => return Err(e.into()),
            }
        }
        // Delayed allocation: the blocks are taken now.
        let _ = file.sync_all();
        ensure!(filled > 0, "{} was full before", self.mount.display());
        Ok(filled)
    }

    /// Takes the filler away.
    ///
    /// # Errors
    /// As the disk does.
    pub fn drain(&self) -> anyhow::Result<()> {
        match std::fs::remove_file(self.filler()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Takes the room behind a thin image away: from now on writes to new blocks
    /// are accepted and fail when they are to be made durable.
    ///
    /// # Errors
    /// When it is not thin.
    pub fn starve(&self) -> anyhow::Result<()> {
        let at = self
            .thin
            .as_deref()
            .context("the image is not a thin one")?;
        // A tmpfs can shrink to what is used, not below; tell it by the pages used.
        let out = run("df", &["-k", "--output=used", text(at)?])?;
        let printed = String::from_utf8_lossy(&out.stdout).into_owned();
        let used: u64 = printed
            .lines()
            .nth(1)
            .and_then(|l| l.trim().parse().ok())
            .context("df printed no number")?;
        let size = format!("remount,size={}k", used + FULL_LEFT_KIB);
        run("mount", &["-o", &size, text(at)?])?;
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When it is not thin.
    pub fn feed(&self, size_mib: u64) -> anyhow::Result<()> {
        let at = self
            .thin
            .as_deref()
            .context("the image is not a thin one")?;
        let size = format!("remount,size={}m", size_mib + 16);
        run("mount", &["-o", &size, text(at)?])?;
        Ok(())
    }
}

/// Flips one bit of a file at `offset`; the byte before and after.
///
/// # Errors
/// As the disk does.
pub fn flip(file: &Path, offset: u64, bit: u8) -> anyhow::Result<(u8, u8)> {
    let mut f = std::fs::File::options().read(true).write(true).open(file)?;
    let mut byte = [0u8];
    f.seek(SeekFrom::Start(offset))?;
    f.read_exact(&mut byte)?;
    let before = byte[0];
    byte[0] ^= 1 << (bit % 8);
    f.seek(SeekFrom::Start(offset))?;
    f.write_all(&byte)?;
    f.sync_all()?;
    Ok((before, byte[0]))
}
