//! The thread that health checks run on.
//!
//! Thousands of backends can be asked about each second, by a document that nobody can take back on a node whose consensus does
//! not get to run. So checks have one thread, however many cores there are, and the kernel runs it behind all others of the
//! node: checks are late before heartbeats, elections, requests and the admin API are.

use std::{io, thread};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Below ordinary threads by so much. Arbitrary within that: a tenth of a core that others want as well, which is some
/// hundred checks a second.
const NICE: libc::c_int = 10;

/// Runs `work` to its end on a thread of its own, with a runtime of its own.
///
/// # Errors
/// The thread or its runtime could not be started.
///
/// # Cancel safety
/// Dropping the future ends the work, a moment later.
pub(super) async fn aside(work: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let (ended, end) = oneshot::channel();
    let dropped = CancellationToken::new();
    let _guard = dropped.clone().drop_guard();
    let run = move || {
        // Nobody hears it after the future was dropped.
        let _ = ended.send(run_here(async {
            // Neither is polled again.
            tokio::select! { () = work => {}, () = dropped.cancelled() => {} }
        }));
    };
    thread::Builder::new().name("health-checks".to_owned()).spawn(run)?;
    end.await.unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))
}

fn run_here(work: impl Future<Output = ()>) -> io::Result<()> {
    // SAFETY: takes a number only. On Linux it is for the calling thread. It cannot be refused, and checks run all the same.
    unsafe { libc::nice(NICE) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn niceness() -> libc::c_int {
        // SAFETY: takes numbers only; 0 names the calling thread.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[tokio::test]
    async fn work_runs_behind_others_and_ends_with_whoever_waits_for_it() {
        let here = niceness();
        let (tell, told) = oneshot::channel();
        aside(async move {
            let name = thread::current().name().map(str::to_owned);
            tell.send((name, niceness())).expect("the test listens");
        })
        .await
        .expect("starts");
        assert_eq!(told.await.expect("it ran"), (Some("health-checks".to_owned()), (here + NICE).min(19)));
        assert_eq!(niceness(), here, "nobody else is slowed down");

        let (begun, begins) = oneshot::channel();
        let (held, dropped) = oneshot::channel::<()>();
        let waiting = tokio::spawn(aside(async move {
            let _held = held;
            begun.send(()).expect("the test listens");
            std::future::pending::<()>().await;
        }));
        begins.await.expect("it runs");
        waiting.abort();
        assert!(dropped.await.is_err(), "it is not there any more");
    }
}
