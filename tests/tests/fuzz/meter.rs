//! Counts what the current thread allocates, so that "a hostile length must not
//! become an allocation" is something a test can see.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// One allocation above this ends the process after naming the iteration: the
/// machine should not have to swap before a test fails.
const ONE_ALLOCATION_BYTES_MAX: usize = 1 << 30;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static WHERE: Cell<(&'static str, u64)> = const { Cell::new(("", 0)) };
}

struct Meter;

#[global_allocator]
static METER: Meter = Meter;

fn grew(bytes: usize) {
    // Threads that are being torn down have no counters; they are not measured.
    let _ = NOW.try_with(|now| {
        now.set(now.get().saturating_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
    if bytes > ONE_ALLOCATION_BYTES_MAX {
        refuse(bytes);
    }
}

fn shrank(bytes: usize) {
    let _ = NOW.try_with(|now| now.set(now.get().saturating_sub(bytes)));
}

/// Says where, without allocating, and ends the process.
#[cold]
fn refuse(_bytes: usize) {
    use std::io::Write;
    let (target, iteration) = WHERE.try_with(Cell::get).unwrap_or(("?", 0));
    let mut text = [0u8; 128];
    let mut rest = &mut text[..];
    let _ = writeln!(
        rest,
        "fuzz: {target}, iteration {iteration}: asks for over 1 GiB at once"
    );
    let unused = rest.len();
    let used = text.len() - unused;
    let _ = std::io::stderr().write_all(&text[..used]);
    std::process::abort();
}

// SAFETY: every call is passed on unchanged to the system allocator, whose
// contract is the one required here; counting touches thread-local cells only,
// which are const-initialised and so never allocate.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        shrank(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        shrank(layout.size());
        grew(new);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, new) }
    }
}

/// Runs `f` and returns the most bytes it held at once beyond what was held before.
pub(crate) fn peak_of<T>(
    target: &'static str,
    iteration: u64,
    f: impl FnOnce() -> T,
) -> (T, usize) {
    WHERE.set((target, iteration));
    let before = NOW.get();
    PEAK.set(before);
    let out = f();
    (out, PEAK.get().saturating_sub(before))
}
