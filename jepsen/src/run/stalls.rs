//! The harness's own stalls: a thread that should wake every few milliseconds
//! and says when it did not. On a loaded machine elections come from load, and
//! a run that had long stalls says so.

use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often it should wake.
const EVERY: Duration = Duration::from_millis(20);
/// A wake so much too late is a stall.
const LATE: Duration = Duration::from_millis(250);
/// Most that are kept.
const KEPT_MAX: usize = 200;

/// What it saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stalls {
    /// When, and how long, in milliseconds; the first 200.
    pub stalls: Vec<(u64, u64)>,
    /// How many in all.
    pub count: u64,
    /// The longest, in milliseconds.
    pub longest_ms: u64,
}

/// The thread that watches; it ends when this is dropped.
pub struct Watch {
    seen: Arc<Mutex<Stalls>>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    /// Begins; times are since `start`.
    pub fn begin(start: Instant) -> Self {
        let (seen, stop) = (
            Arc::<Mutex<Stalls>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (to, until) = (seen.clone(), stop.clone());
        let longest = AtomicU64::new(0);
        std::thread::spawn(move || {
            let mut last = Instant::now();
            while !until.load(Ordering::Relaxed) {
                std::thread::sleep(EVERY);
                let late = last.elapsed().saturating_sub(EVERY);
                last = Instant::now();
                if late < LATE {
                    continue;
                }
                let ms = late.as_millis() as u64;
                longest.fetch_max(ms, Ordering::Relaxed);
                let mut seen = to.lock().unwrap_or_else(PoisonError::into_inner);
                seen.count += 1;
                seen.longest_ms = longest.load(Ordering::Relaxed);
                if seen.stalls.len() < KEPT_MAX {
                    seen.stalls.push((start.elapsed().as_millis() as u64, ms));
                }
            }
        });
        Self { seen, stop }
    }

    /// What it saw so far.
    pub fn seen(&self) -> Stalls {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
