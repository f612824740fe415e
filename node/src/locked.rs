//! Memory for data keys: locked, left out of core dumps, wiped when given back.
//!
//! One slab of pages holds every leased key of the process, so that one
//! `mlock` and one `madvise` cover them all and the number of keys is bounded by its size.
//! Where the system refuses (RLIMIT_MEMLOCK too low), the slab works all the
//! same and says so in `status`: refusing to serve would not make it safer.
//!
//! See mlock(2), madvise(2) (`MADV_DONTDUMP`, `MADV_WIPEONFORK`).
#![allow(unsafe_code)]

use quorate_engine::types::{DataKey, Secret};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroize;

const SLOT_BYTES: usize = 32;

/// Has the kernel write no core file of this process, whatever ends it: messages
/// pass through ordinary memory, and a core would keep some of them. Whether it agreed.
///
/// Undumpable as well as a limit of 0, for a `core_pattern` that is a pipe ignores
/// the limit; see prctl(2) (`PR_SET_DUMPABLE`), core(5).
pub fn leave_no_core() -> bool {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit is read from a value that outlives the call.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } == 0;
    // SAFETY: takes integers only.
    let undumpable = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } == 0;
    limited && undumpable
}

/// Pages of key slots.
pub struct LockedSlab {
    base: NonNull<u8>,
    bytes: usize,
    free: Mutex<Vec<usize>>,
    locked: bool,
}

// SAFETY: the pointer is to memory that this value alone owns until it is
// dropped; slots are handed out once each under the mutex, and a slot is only
// written before its `LockedKey` is shared and after the last reference is gone.
unsafe impl Send for LockedSlab {}
// SAFETY: as above; shared access only reads slots that are handed out.
unsafe impl Sync for LockedSlab {}

impl LockedSlab {
    /// Maps and locks room for `slots` keys.
    ///
    /// # Errors
    /// What the system said when there is no memory at all; not being allowed to lock is no error.
    pub fn new(slots: usize) -> std::io::Result<Arc<Self>> {
        let page = 4096;
        let bytes = (slots.max(1) * SLOT_BYTES).div_ceil(page) * page;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches
        // nothing that exists; the result is checked before use.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the range is exactly the mapping made above.
        let locked = unsafe { libc::mlock(base, bytes) } == 0;
        // SAFETY: as above; both pieces of advice only restrict where the pages' content may go.
        let dumped = unsafe {
            libc::madvise(base, bytes, libc::MADV_DONTDUMP)
                | libc::madvise(base, bytes, libc::MADV_WIPEONFORK)
        };
        if dumped != 0 {
            tracing::warn!("the kernel does not leave key memory out of core dumps");
        }
        let base = NonNull::new(base.cast()).ok_or_else(std::io::Error::last_os_error)?;
        Ok(Arc::new(Self {
            base,
            bytes,
            free: Mutex::new((0..bytes / SLOT_BYTES).rev().collect()),
            locked: locked && dumped == 0,
        }))
    }

    /// Whether the pages are locked and left out of core dumps.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// Takes a key over. `None` when all slots are in use.
    pub fn store(self: &Arc<Self>, key: DataKey) -> Option<LockedKey> {
        let slot = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()?;
        let out = LockedKey {
            slab: self.clone(),
            slot,
        };
        // SAFETY: the slot lies inside the mapping (it came from `free`), is
        // aligned for bytes, and is this value's alone until it is dropped.
        unsafe {
            std::ptr::copy_nonoverlapping(key.expose().as_ptr(), out.at().as_ptr(), SLOT_BYTES);
        }
        Some(out)
    }
}

impl Drop for LockedSlab {
    fn drop(&mut self) {
        // SAFETY: every slot's `LockedKey` holds an `Arc` to this slab, so none
        // is left; the range is exactly the mapping made in `new`.
        unsafe {
            std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes).zeroize();
            libc::munmap(self.base.as_ptr().cast(), self.bytes);
        }
    }
}

/// One key in locked memory; wiped when dropped.
pub struct LockedKey {
    slab: Arc<LockedSlab>,
    slot: usize,
}

impl LockedKey {
    fn at(&self) -> NonNull<u8> {
        // SAFETY: `slot` came from `free`, so the offset is inside the mapping.
        unsafe { self.slab.base.add(self.slot * SLOT_BYTES) }
    }

    /// A copy for a moment's use; it wipes itself.
    pub fn key(&self) -> DataKey {
        // SAFETY: written in `store`, not written again before this value is dropped.
        let bytes = unsafe { std::slice::from_raw_parts(self.at().as_ptr(), SLOT_BYTES) };
        DataKey(Secret::from_slice(bytes).expect("a slot has the length of a key"))
    }
}

impl Drop for LockedKey {
    fn drop(&mut self) {
        // SAFETY: this value is the slot's only owner and is going away.
        unsafe {
            std::slice::from_raw_parts_mut(self.at().as_ptr(), SLOT_BYTES).zeroize();
        }
        let mut free = self
            .slab
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.push(self.slot);
    }
}

impl std::fmt::Debug for LockedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockedKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_reused_and_wiped() {
        let slab = LockedSlab::new(1).unwrap();
        let max = slab.bytes / SLOT_BYTES;
        let key = |n: u8| DataKey(Secret::from_slice(&[n; 32]).unwrap());
        let mut held: Vec<LockedKey> = (0..max)
            .map(|n| slab.store(key(n as u8)).unwrap())
            .collect();
        assert!(slab.store(key(1)).is_none());
        for (n, k) in held.iter().enumerate() {
            assert_eq!(k.key().expose(), &[n as u8; 32]);
        }
        let last = held.pop().unwrap();
        let at = last.at();
        drop(last);
        // SAFETY: the slab still maps the slot, and nothing owns it now.
        let left = unsafe { std::slice::from_raw_parts(at.as_ptr(), SLOT_BYTES) };
        assert_eq!(left, [0; SLOT_BYTES]);
        assert!(slab.store(key(9)).is_some());
        assert_eq!(format!("{:?}", held[0]), "LockedKey(..)");
    }

    #[test]
    fn the_kernel_says_that_the_pages_are_locked() {
        let slab = LockedSlab::new(512).unwrap();
        let _held = slab.store(DataKey(Secret::from_slice(&[7; 32]).unwrap()));
        if !slab.is_locked() {
            return; // RLIMIT_MEMLOCK is too low here: `status` warns, nothing else to see.
        }
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{:x}-", slab.base.as_ptr() as usize);
        let area: Vec<&str> = smaps
            .lines()
            .skip_while(|l| !l.starts_with(&start))
            .take(30)
            .collect();
        let flags = area.iter().find(|l| l.starts_with("VmFlags:")).unwrap();
        assert!(flags.contains(" lo") && flags.contains(" dd"), "{flags}");
    }
}
