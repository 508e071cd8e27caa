//! One run of a program: its environment, its output, its end.
//!
//! The program has a process group of its own, so that at the end of its time all that it started in it is killed
//! too. What a program leaves running after it ended by itself is left alone: it was meant to go on. Output is read
//! while it runs, line by line and bounded, because a full pipe would stop it.
//!
//! Starting a program reads its file, which takes for ever where a file system hangs. That is waited for beside the
//! runtime's workers and within the run's time. A program that waits for such a file system cannot be killed either. Who
//! asked for the run is given what is left of it then, and asks for no other meanwhile.

use std::{fmt, io, os::unix::process::ExitStatusExt as _, pin::pin, process::Stdio, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

/// Longest piece of a line that is told at once; a longer line is told in pieces.
const LINE_BYTES_MAX: u64 = 1024;
/// Lines of one stream of one run that are told. Arbitrary; a program that says more has a log of its own.
const LINES_MAX: usize = 100;
/// How long the rest of the output is waited for after the end: a process that was left running may hold the pipe.
const OUTPUT_GRACE: Duration = Duration::from_millis(250);
/// How long a killed program is waited for; one that waits for a dead disk takes for ever to be gone.
const REAP_MAX: Duration = Duration::from_secs(1);
/// Where programs are looked for by the program that is run, when ballastd itself was told nothing.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal that was not ours.
    Signalled(i32),
    /// It was killed because its time was over.
    TimedOut(Duration),
    /// It could not be started.
    NotStarted(String),
}

impl Ended {
    /// Whether it did what it should.
    pub const fn is_good(&self) -> bool {
        matches!(self, Self::Exited(0))
    }

    /// A short constant name, for metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Exited(0) => "ok",
            Self::Exited(_) | Self::Signalled(_) => "failed",
            Self::TimedOut(_) => "timeout",
            Self::NotStarted(_) => "not_started",
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Signalled(signal) => write!(f, "ended by signal {signal}"),
            Self::TimedOut(after) => write!(f, "killed after {after:?}"),
            Self::NotStarted(why) => write!(f, "could not be started: {why}"),
        }
    }
}

/// What is left of a program whose run is over: ends when nothing is. The program does not live longer where it is
/// dropped.
pub type Left = BoxFuture<'static, ()>;

/// Runs a program to its end, or to that of its time, and gives each line that it says to `told`. Returns how it ended,
/// and what is left of it then.
///
/// It sees `environment` and `PATH` and nothing else of ballastd's own environment, which may hold secrets.
///
/// # Cancel safety
/// A run that is dropped kills the program with all that it started, at once or when it has been started.
pub async fn run(
    command: &[String],
    environment: &[(&str, String)],
    longest: Duration,
    told: impl Fn(&str) + Sync,
) -> (Ended, Option<Left>) {
    let Some((program, arguments)) = command.split_first() else {
        return (Ended::NotStarted("no program is named".to_owned()), None);
    };
    let mut starting = Command::new(program);
    starting
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into()))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    run_what(move || starting.spawn(), longest, told).await
}

/// [`run`] of what `start` starts. `start` may block.
async fn run_what(
    start: impl FnOnce() -> io::Result<Child> + Send + 'static,
    longest: Duration,
    told: impl Fn(&str) + Sync,
) -> (Ended, Option<Left>) {
    let until = Instant::now() + longest;
    let mut starting = spawn_blocking(|| start().map(Started::of));
    let mut started = match timeout_at(until, &mut starting).await {
        Ok(Ok(Ok(started))) => started,
        Ok(Ok(Err(error))) => return (Ended::NotStarted(error.to_string()), None),
        Ok(Err(error)) => return (Ended::NotStarted(error.to_string()), None),
        Err(_) => {
            let left = async {
                if let Ok(Ok(started)) = starting.await {
                    started.end().await;
                }
            };
            return (Ended::TimedOut(longest), Some(Box::pin(left)));
        }
    };
    let (stdout, stderr) = (started.child.stdout.take(), started.child.stderr.take());
    let mut output = pin!(async { tokio::join!(lines(stdout, &told), lines(stderr, &told)) });
    let mut all_read = false;
    let ended = timeout_at(until, async {
        loop {
            // Waiting is cancel-safe; reading is not cancelled but polled on.
            tokio::select! {
                ended = started.child.wait() => return ended,
                _ = &mut output, if !all_read => all_read = true,
            }
        }
    })
    .await;
    let mut left = None;
    let ended = match ended {
        Ok(Ok(status)) => {
            started.group.release();
            match (status.code(), status.signal()) {
                (Some(code), _) => Ended::Exited(code),
                (None, signal) => Ended::Signalled(signal.unwrap_or_default()),
            }
        }
        Ok(Err(error)) => Ended::NotStarted(error.to_string()),
        Err(_) => {
            let mut end: Left = Box::pin(started.end());
            if timeout(REAP_MAX, &mut end).await.is_err() {
                left = Some(end);
            }
            Ended::TimedOut(longest)
        }
    };
    if !all_read {
        let _ = timeout(OUTPUT_GRACE, output).await;
    }
    (ended, left)
}

/// A program that was started. Dropped before it is waited for, it is killed with all that it started.
struct Started {
    /// Dropped first: its number is nobody else's only until the child is waited for.
    group: Group,
    child: Child,
}

impl Started {
    fn of(child: Child) -> Self {
        Self { group: Group::of(&child), child }
    }

    /// Kills it with all that it started, and waits until it is gone.
    async fn end(mut self) {
        self.group.kill();
        let _ = self.child.wait().await;
    }
}

/// The process group of a program that has not been waited for, so that its number is nobody else's.
struct Group(Option<i32>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()))
    }

    fn kill(&mut self) {
        if let Some(id) = self.0.take() {
            // SAFETY: takes numbers only. The group's first process was not waited for, so the number is still its.
            unsafe { libc::kill(-id, libc::SIGKILL) };
        }
    }

    fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn lines(source: Option<impl AsyncRead + Unpin>, told: &impl Fn(&str)) {
    let Some(source) = source else { return };
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    let mut count = 0;
    loop {
        line.clear();
        match (&mut source).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        match count {
            0..LINES_MAX => told(String::from_utf8_lossy(&line).trim_end()),
            LINES_MAX => told("(what it says further is left out)"),
            _ => {}
        }
        count += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use parking_lot::Mutex;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    async fn sh(script: &str, environment: &[(&str, String)], longest: Duration) -> (Ended, Vec<String>) {
        let said = Mutex::new(Vec::new());
        let command = ["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let (ended, left) = run(&command, environment, longest, |line| said.lock().push(line.to_owned())).await;
        assert!(left.is_none(), "it is gone");
        (ended, said.into_inner())
    }

    #[tokio::test]
    async fn status_and_output_come_back() {
        let environment = [("BALLAST_VIP", "web".to_owned())];
        let (ended, said) = sh("echo for $BALLAST_VIP $HOME; exit 3", &environment, LONG).await;
        assert_eq!((ended, said), (Ended::Exited(3), vec!["for web".to_owned()]));
        assert_eq!(sh("kill -9 $$", &[], LONG).await.0, Ended::Signalled(9));
        assert!(matches!(run(&["/nonexistent".to_owned()], &[], LONG, |_| {}).await, (Ended::NotStarted(_), None)));
    }

    #[tokio::test]
    async fn at_the_end_of_its_time_all_that_it_started_is_killed() {
        let mut short = Duration::from_millis(100);
        let below: i32 = loop {
            let (ended, said) = sh("sleep 100 & echo $!; wait", &[], short).await;
            assert_eq!(ended, Ended::TimedOut(short));
            if let Some(below) = said.first() {
                break below.parse().expect("a process id");
            }
            // It was killed before it had come so far.
            assert!(short < LONG, "it says nothing within {short:?}");
            short *= 2;
        };
        dead(below).await;
    }

    async fn dead(id: i32) {
        let begun = Instant::now();
        loop {
            // A zombie is as dead as none: who adopted it may be slow to reap it.
            let status = std::fs::read_to_string(format!("/proc/{id}/stat"));
            if status.map_or(true, |stat| stat.contains(") Z ")) {
                return;
            }
            assert!(begun.elapsed() < LONG, "process {id} still runs");
            tokio::task::yield_now().await;
        }
    }

    /// A start that blocks until it is told to go on, and then says what it started.
    fn hanging() -> (mpsc::Sender<()>, mpsc::Receiver<i32>, impl FnOnce() -> io::Result<Child> + Send + 'static) {
        let (go_on, gate) = mpsc::channel();
        let (tell, started) = mpsc::channel();
        let start = move || {
            gate.recv().expect("the test goes on");
            let child = Command::new("/bin/sleep").arg("1000").process_group(0).spawn()?;
            tell.send(child.id().expect("it runs").cast_signed()).expect("the test listens");
            Ok(child)
        };
        (go_on, started, start)
    }

    #[tokio::test]
    async fn a_start_that_hangs_holds_up_nobody_and_is_undone_when_it_comes_back() {
        let short = Duration::from_millis(20);
        // The only thread of the runtime is free meanwhile, or this would not come back.
        let (go_on, started, start) = hanging();
        let (ended, left) = run_what(start, short, |_| {}).await;
        assert_eq!(ended, Ended::TimedOut(short));
        let mut left = left.expect("it is still being started");
        assert!(futures_util::poll!(&mut left).is_pending(), "it is still being started");
        go_on.send(()).expect("it waits");
        left.await;
        dead(started.recv().expect("it was started")).await;

        // What is left may be dropped as well.
        let (go_on, started, start) = hanging();
        let (ended, left) = run_what(start, short, |_| {}).await;
        assert_eq!(ended, Ended::TimedOut(short));
        drop(left);
        go_on.send(()).expect("it waits");
        dead(started.recv().expect("it was started")).await;
    }

    #[tokio::test]
    async fn what_it_leaves_running_does_not_hold_us_up() {
        let begun = Instant::now();
        let (ended, said) = sh("sleep 30 & echo done", &[], LONG).await;
        assert_eq!((ended, said), (Ended::Exited(0), vec!["done".to_owned()]));
        assert!(begun.elapsed() < LONG);
    }

    #[tokio::test]
    async fn a_flood_of_output_neither_stops_it_nor_fills_the_log() {
        let (ended, said) = sh("yes | head -c 1000000", &[], LONG).await;
        assert_eq!(ended, Ended::Exited(0));
        assert_eq!(said.len(), LINES_MAX + 1);
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_killed_is_what_is_left() {
        let (tell, started) = mpsc::channel();
        // In the group of the tests and not in its own, it does not hear of the end of its time.
        let start = move || {
            let child = Command::new("/bin/sleep").arg("1000").spawn()?;
            tell.send(child.id().expect("it runs").cast_signed()).expect("the test listens");
            Ok(child)
        };
        let short = Duration::from_millis(20);
        let (ended, left) = run_what(start, short, |_| {}).await;
        assert_eq!(ended, Ended::TimedOut(short));
        let mut left = left.expect("it still runs");
        assert!(futures_util::poll!(&mut left).is_pending(), "it still runs");
        let id = started.recv().expect("it was started");
        // SAFETY: takes numbers only. The process was not waited for, so the number is still its.
        unsafe { libc::kill(id, libc::SIGKILL) };
        left.await;
    }
}
