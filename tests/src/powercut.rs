//! Power cuts for real: a file system in a file, cut off by the kernel.
//!
//! An ext4 image is mounted through a loop device; `EXT4_IOC_SHUTDOWN` with
//! "no log flush" then makes the kernel drop whatever was not yet synced, as a
//! power cut would, while the process under test meets EIO and leaves. After
//! unmounting, checking and mounting again only what had been durable is there.
//! Needs root and loop devices: [`missing`] says what is not there, and with
//! `CI=true` that is a failure instead of a skipped test.

use anyhow::{Context, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Longest that the images' backing directory is waited for when unmounting, in tries of 50 ms.
const UMOUNT_TRIES_MAX: u32 = 100;

/// What is missing for power cuts on this machine; `None` when nothing is.
pub fn missing() -> Option<String> {
    let id = Command::new("id").arg("-u").output().ok()?;
    if String::from_utf8_lossy(&id.stdout).trim() != "0" {
        return Some("not root".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no /dev/loop-control".into());
    }
    for tool in ["mkfs.ext4", "e2fsck", "losetup", "mount", "umount"] {
        if Command::new(tool).arg("--help").output().is_err() {
            return Some(format!("{tool} is not installed"));
        }
    }
    None
}

/// Whether a test that needs loop devices must be skipped; says so, and fails under `CI=true`.
///
/// # Panics
/// When something is missing and `CI=true`.
pub fn skipped(test: &str) -> bool {
    let Some(why) = missing() else { return false };
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test} cannot run in CI: {why}"
    );
    #[allow(clippy::print_stderr)]
    {
        eprintln!("SKIPPED {test}: {why}");
    }
    true
}

/// Runs a program; its output on failure is part of the error.
///
/// # Errors
/// When it cannot be started or does not succeed.
pub fn run(program: &str, args: &[&str]) -> anyhow::Result<Output> {
    let out = Command::new(program)
        .args(args)
        .output()
        .with_context(|| program.to_owned())?;
    ensure!(
        out.status.success(),
        "{program} {args:?}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(out)
}

fn text(p: &Path) -> anyhow::Result<&str> {
    p.to_str()
        .with_context(|| format!("{} is not UTF-8", p.display()))
}

/// An ext4 file system in a file.
pub struct Image {
    file: PathBuf,
    mount: PathBuf,
    mounted: bool,
}

impl Image {
    /// Makes an image of `size_mib` in `dir`, with or without a journal, and mounts it.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn create(dir: &Path, name: &str, size_mib: u64, journal: bool) -> anyhow::Result<Self> {
        let (file, mount) = (
            dir.join(format!("{name}.img")),
            dir.join(format!("{name}.mnt")),
        );
        std::fs::File::create(&file)?.set_len(size_mib << 20)?;
        std::fs::create_dir_all(&mount)?;
        let mut args = vec!["-q", "-F", "-E", "lazy_itable_init=1,nodiscard"];
        if !journal {
            args.extend(["-O", "^has_journal"]);
        }
        args.push(text(&file)?);
        run("mkfs.ext4", &args)?;
        let mut image = Self {
            file,
            mount,
            mounted: false,
        };
        image.mount()?;
        Ok(image)
    }

    /// Makes an image with a copy of what `place` holds, and mounts it there.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn over(
        place: &Path,
        dir: &Path,
        name: &str,
        size_mib: u64,
        journal: bool,
    ) -> anyhow::Result<Self> {
        let mut image = Self::create(dir, name, size_mib, journal)?;
        let from = place.join(".");
        run("cp", &["-a", text(&from)?, text(&image.mount)?])?;
        image.unmount()?;
        image.mount = place.to_owned();
        image.mount()?;
        Ok(image)
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.mount
    }

    /// Mounts it.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn mount(&mut self) -> anyhow::Result<()> {
        // A process that was just started in a mount namespace of its own may still hold the file
        // system whose power was cut; mounted again, it would be that very one.
        for _ in 0..UMOUNT_TRIES_MAX {
            run(
                "mount",
                &["-o", "loop", text(&self.file)?, text(&self.mount)?],
            )?;
            self.mounted = true;
            let read = std::fs::read_dir(&self.mount);
            if read.is_ok_and(|mut entries| entries.all(|entry| entry.is_ok())) {
                return Ok(());
            }
            self.unmount()?;
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        bail!("{} stays without power", self.mount.display())
    }

    /// Cuts the power: nothing that is not yet on the device gets there any more.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn cut(&self) -> anyhow::Result<()> {
        ioctl::shutdown_no_flush(&std::fs::File::open(&self.mount)?).context("EXT4_IOC_SHUTDOWN")
    }

    /// Unmounts it. The processes that used it must have ended.
    ///
    /// # Errors
    /// When it stays busy.
    pub fn unmount(&mut self) -> anyhow::Result<()> {
        for _ in 0..UMOUNT_TRIES_MAX {
            if run("umount", &[text(&self.mount)?]).is_ok() {
                self.mounted = false;
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        bail!("{} stays busy", self.mount.display())
    }

    /// Checks and repairs it, as the system does when it starts.
    ///
    /// # Errors
    /// When it cannot be repaired.
    pub fn check(&self) -> anyhow::Result<()> {
        let file = text(&self.file)?;
        for how in ["-p", "-y"] {
            let out = Command::new("e2fsck").args([how, file]).output()?;
            // 0: sound, 1: repaired, 2: repaired, "reboot". 4 and more: not yet.
            if out.status.code().is_some_and(|c| c < 4) {
                return Ok(());
            }
        }
        bail!("{file} cannot be repaired")
    }

    /// Everything that follows a cut: unmount, check, mount.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.check()?;
        self.mount()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(&self.mount).output();
        }
    }
}

/// A tmpfs, for images that promise more than there is behind them.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one of `size_mib` at `dir`, which is created.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn mount(dir: &Path, size_mib: u64) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size_mib}m"),
                "tmpfs",
                text(dir)?,
            ],
        )?;
        Ok(Self(dir.to_owned()))
    }

    /// Makes it larger.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn grow(&self, size_mib: u64) -> anyhow::Result<()> {
        run(
            "mount",
            &["-o", &format!("remount,size={size_mib}m"), text(&self.0)?],
        )?;
        Ok(())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[allow(unsafe_code)]
mod ioctl {
    //! The one system call that the standard library has no name for.
    use std::os::fd::AsRawFd;

    /// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`: linux/fs/ext4/ext4.h.
    const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
    /// `EXT4_GOING_FLAGS_NOLOGFLUSH`: neither journal nor data are flushed.
    const NO_LOG_FLUSH: u32 = 2;

    pub fn shutdown_no_flush(mount: &std::fs::File) -> std::io::Result<()> {
        let flags: u32 = NO_LOG_FLUSH;
        // SAFETY: the descriptor is open for the length of the call, and the
        // kernel reads one u32 through the pointer, which outlives the call.
        let r = unsafe { libc::ioctl(mount.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &raw const flags) };
        if r == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    }
}
