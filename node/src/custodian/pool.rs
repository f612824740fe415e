//! Where shares are opened and sealed: off the threads that raft runs on,
//! as many at once as there are cores.

use tokio::sync::Semaphore;

/// A bounded place for work on secrets.
pub(super) struct Pool {
    slots: Semaphore,
}

/// Work up to this many shares, with the key agreement cached, is done in
/// place: it takes well under a millisecond, less than handing it over costs a
/// lone client.
pub(super) const INLINE_SHARES_MAX: usize = 16;

impl Pool {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            slots: Semaphore::new(cores),
        }
    }

    /// Runs `work`, in place when it is `small`.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        small: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        if small {
            return Ok(work());
        }
        let _slot = self
            .slots
            .acquire()
            .await
            .expect("the semaphore is never closed");
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| format!("work on shares ended badly: {e}"))
    }
}
