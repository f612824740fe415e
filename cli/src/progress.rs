//! Progress of long work: a bar on a terminal, lines elsewhere, events with `--json`.

use crate::output::Output;
use crate::telegram::import::Observer;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Least time between two lines or events.
const EVERY_MS: u64 = 2_000;
/// The same for the first pass of an import, which is quick.
const EVERY_READ_MS: u64 = 500;

enum Face {
    Bar(ProgressBar),
    Lines,
    Events(Output),
    Nothing,
}

/// Progress of one job, counted in messages.
pub struct Progress {
    face: Face,
    what: &'static str,
    messages: AtomicU64,
    bytes: AtomicU64,
    total: AtomicU64,
    total_bytes: AtomicU64,
    started: Instant,
    told: Mutex<Instant>,
}

impl Progress {
    /// For a job called `what` (`import`, `export`); `quiet` shows nothing.
    pub fn new(what: &'static str, output: Output, quiet: bool) -> Self {
        let face = match (quiet, output.json, std::io::stderr().is_terminal()) {
            (true, ..) => Face::Nothing,
            (_, true, _) => Face::Events(output),
            (_, _, true) => {
                let bar =
                    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
                let style =
                    "{msg} {wide_bar} {human_pos}/{human_len} messages, {per_sec}, {eta} left";
                // The template is a constant; were it wrong, the default would do.
                bar.set_style(
                    ProgressStyle::with_template(style)
                        .unwrap_or_else(|_| ProgressStyle::default_bar()),
                );
                bar.set_message(what);
                Face::Bar(bar)
            }
            _ => Face::Lines,
        };
        Self {
            face,
            what,
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            total: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            started: Instant::now(),
            told: Mutex::new(Instant::now()),
        }
    }

    fn due(&self, every_ms: u64) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.elapsed() >= Duration::from_millis(every_ms);
        if due {
            *told = Instant::now();
        }
        due
    }

    fn tell(&self) {
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let (done, total, bytes) = (get(&self.messages), get(&self.total), get(&self.bytes));
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let rate = done as f64 / seconds;
        let left = (total.saturating_sub(done)) as f64 / rate.max(0.001);
        match &self.face {
            Face::Lines => crate::output::remark(&format!(
                "{}: {done} of {total} messages, {:.1} of {:.1} MB, {rate:.0} messages/s, {left:.0} s left",
                self.what,
                bytes as f64 / 1e6,
                get(&self.total_bytes) as f64 / 1e6
            )),
            Face::Events(output) => {
                let event = json!({
                    "event": "progress", "job": self.what, "messages": done, "messages_total": total,
                    "bytes": bytes, "bytes_total": get(&self.total_bytes), "messages_per_second": rate,
                    "seconds_left": left, "seconds": seconds,
                });
                // A reader of events that went away does not stop the work.
                let _ = output.line(&event);
            }
            Face::Bar(_) | Face::Nothing => {}
        }
    }
}

impl Observer for Progress {
    fn reading(&self, bytes: u64, of: u64) {
        match &self.face {
            Face::Bar(bar) if self.due(EVERY_READ_MS) => {
                bar.set_message(format!("reading {}%", bytes * 100 / of.max(1)));
            }
            Face::Events(output) if self.due(EVERY_READ_MS) => {
                let _ = output.line(&json!({"event": "reading", "job": self.what, "bytes": bytes, "bytes_total": of}));
            }
            _ => {}
        }
    }
    fn begin(&self, messages: u64, bytes: u64) {
        self.total.store(messages, Ordering::Relaxed);
        self.total_bytes.store(bytes, Ordering::Relaxed);
        if let Face::Bar(bar) = &self.face {
            bar.set_message(self.what);
            bar.set_length(messages);
            bar.reset_eta();
        }
    }
    fn advance(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Face::Bar(bar) = &self.face {
            bar.inc(messages);
        } else if self.due(EVERY_MS) {
            self.tell();
        }
    }
    fn end(&self) {
        match &self.face {
            Face::Bar(bar) => bar.finish_and_clear(),
            _ => self.tell(),
        }
    }
}
