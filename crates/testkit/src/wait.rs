//! Waiting for a thing to become true, instead of for a time to pass.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Longest that any wait of a test lasts. Generous, because machines are shared; it is the end of
/// patience and not an expectation.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Ends all waits of this process. For a program whose user has interrupted it.
pub static CALLED_OFF: AtomicBool = AtomicBool::new(false);

/// Polls `probe` until it returns `Some`, at most [`PATIENCE`].
///
/// # Errors
/// Says `what` was waited for, and the last word of `probe`'s error if it returned one.
pub fn until<T>(what: &str, probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    within(PATIENCE, what, probe)
}

/// As [`until`], for so long at most; with zero it looks once.
///
/// # Errors
/// As [`until`].
pub fn within<T>(patience: Duration, what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    let mut last = String::new();
    loop {
        if CALLED_OFF.load(Ordering::Relaxed) {
            bail!("interrupted while waiting for {what}");
        }
        match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = format!("{error:#}"),
        }
        if started.elapsed() >= patience {
            bail!("gave up waiting for {what} after {patience:?}; last error: {last:?}");
        }
        // Between two looks at another process; nothing depends on its length.
        thread::sleep(Duration::from_millis(20));
    }
}
