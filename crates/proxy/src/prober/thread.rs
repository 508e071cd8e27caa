//! The thread that health checks run on.
//!
//! Thousands of backends can be asked about each second, by a document that nobody can take back on a node whose consensus does
//! not get to run. So checks have one thread, however many cores there are, of which the kernel gives it no more than it gives
//! others that want as much. Not less either: with a small share, a node that is busy with requests would find backends
//! down because it did not get to hear their answers in time.

use std::{io, thread};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_runs_on_a_thread_of_its_own_and_ends_with_whoever_waits_for_it() {
        let (tell, told) = oneshot::channel();
        aside(async move {
            tell.send(thread::current().name().map(str::to_owned)).expect("the test listens");
        })
        .await
        .expect("starts");
        assert_eq!(told.await.expect("it ran").as_deref(), Some("health-checks"));

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
