//! The two system calls that the standard library has no name for.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`: linux/fs/ext4/ext4.h.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: neither journal nor data are flushed.
const NO_LOG_FLUSH: u32 = 2;
/// Longest name of an interface, its end included: linux/if.h.
const IFNAMSIZ: usize = 16;

/// Makes the file system mounted at `mount` drop what is not yet on its device,
/// and refuse everything from then on.
///
/// # Errors
/// As the kernel says; ext4 only.
pub fn cut_power(mount: &Path) -> io::Result<()> {
    let file = File::open(mount)?;
    let flags: u32 = NO_LOG_FLUSH;
    // SAFETY: the descriptor is open for the length of the call, and the kernel
    // reads one u32 through the pointer, which outlives the call.
    let r = unsafe { libc::ioctl(file.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &raw const flags) };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `struct ifreq`, as far as TUNSETIFF reads it: 40 bytes on 64-bit machines.
#[repr(C)]
struct IfReq {
    name: [u8; IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Makes the TUN interface `name` in this network namespace; reading the file
/// gives the packets sent into it, writing delivers packets out of it. The
/// interface ends with the file, in whatever namespace it is then.
///
/// # Errors
/// As the kernel says.
pub fn tun(name: &str) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    if name.len() >= IFNAMSIZ {
        return Err(io::Error::other(format!("{name} is too long a name")));
    }
    let mut request = IfReq {
        name: [0; IFNAMSIZ],
        flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the descriptor is open, and the kernel reads and writes 40 bytes
    // through the pointer, the size of the request, which outlives the call.
    let r = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if r == 0 {
        Ok(file)
    } else {
        Err(io::Error::last_os_error())
    }
}
