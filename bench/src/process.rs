//! Other processes: their CPU time, their memory, the core they run on, and their end.

use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

/// On-CPU nanoseconds of processes, all threads, those that have ended included.
///
/// The process clock is the sum of what `/proc/<pid>/task/*/schedstat` says of each thread, and
/// it does not lose the threads that end between two looks.
///
/// # Errors
/// When a process is gone.
pub fn cpu_nanos(pids: &[u32]) -> io::Result<u64> {
    let mut sum = 0;
    for &pid in pids {
        let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `clock` and `time` are valid for writing; the clock is used only if it could be had.
        unsafe {
            let mut clock = 0;
            let error = libc::clock_getcpuclockid(pid, &raw mut clock);
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            if libc::clock_gettime(clock, &raw mut time) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        sum += time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    }
    Ok(sum)
}

/// A process and its descendants.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|c| c.parse().ok()).flat_map(tree));
    }
    all
}

/// Resident bytes of processes, pages shared with others in proportion.
///
/// # Errors
/// When a process is gone or its memory may not be seen.
pub fn resident_bytes(pids: &[u32]) -> io::Result<u64> {
    pids.iter().try_fold(0, |sum, pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        Ok(sum + kib_line(&text, "Pss:").ok_or_else(|| io::Error::other(format!("no Pss of process {pid}")))?)
    })
}

/// Memory of one process as its kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Resident bytes, pages shared with other processes in full.
    pub resident: u64,
    /// The most that was resident since the process began.
    pub peak: u64,
}

impl Memory {
    /// Memory of a process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Self::parse(&text).ok_or_else(|| io::Error::other(format!("no memory of process {pid}")))
    }

    fn parse(status: &str) -> Option<Self> {
        Some(Self { resident: kib_line(status, "VmRSS:")?, peak: kib_line(status, "VmHWM:")? })
    }
}

/// The value of a line like `VmRSS:  1884 kB`, in bytes.
fn kib_line(text: &str, name: &str) -> Option<u64> {
    let kib = text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Runs `work` on one core. What it starts stays there; the calling thread returns to where it was.
///
/// # Errors
/// When there is no such core, or it may not be used.
pub fn on_core<T>(core: Option<usize>, work: impl FnOnce() -> T) -> io::Result<T> {
    let Some(core) = core else { return Ok(work()) };
    // SAFETY: an all-zero set is an empty one; it lives through both calls and is written by the first.
    let before = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) != 0 {
            return Err(io::Error::last_os_error());
        }
        set
    };
    pin(core)?;
    let result = work();
    // SAFETY: `before` is what the kernel gave us above.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&before), &raw const before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Keeps the calling thread on one core.
///
/// # Errors
/// As [`on_core`].
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: an all-zero set is an empty one; CPU_SET checks the bound of `core` itself.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Open files that a run with many connections needs, on both sides of a proxy.
const OPEN_FILES: libc::rlim_t = 65_536;

/// Raises the limit of open files as far as it is needed and allowed. Children inherit it.
pub fn raise_open_files() {
    // SAFETY: `limit` is valid for reading and writing; a refusal leaves the limit as it was.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return;
        }
        let wanted = limit.rlim_max.max(OPEN_FILES);
        let more = libc::rlimit { rlim_cur: wanted, rlim_max: wanted };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const more) != 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// A child that is ended with us, however we end.
pub struct Guarded(Child);

impl Guarded {
    /// Starts `command`. Call it from the main thread: the kernel ends the child when the thread
    /// that started it ends.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        // SAFETY: prctl(PR_SET_PDEATHSIG) is async-signal-safe and touches only the child. SIGTERM and not
        // SIGKILL, because nginx's master must take its workers with it.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        command.spawn().map(Self)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The child itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Waits until it accepts connections at `address`, at most ten seconds.
    ///
    /// # Errors
    /// When it has ended, or does not listen in time.
    pub fn wait_listening(&mut self, address: SocketAddr) -> io::Result<()> {
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.0.try_wait()? {
                return Err(io::Error::other(format!("it ended before it listened at {address}: {status}")));
            }
            if Instant::now() >= until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("it does not listen at {address}")));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Waits for its end, at most `patience`.
    ///
    /// # Errors
    /// `TimedOut`; the child is then ended when this is dropped.
    pub fn wait(&mut self, patience: Duration) -> io::Result<std::process::ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Ok(pid) = libc::pid_t::try_from(self.0.id()) {
            // SAFETY: kill(2) takes no pointers; the child is not reaped yet, so the pid is still its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        if self.wait(Duration::from_secs(3)).is_err() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pss_is_read_in_bytes_and_not_mistaken_for_its_parts() {
        let text = "5581-7ffc ---p 00000000 00:00 0 [rollup]\nRss:  1884 kB\nPss:   414 kB\nPss_Dirty:  80 kB\n";
        assert_eq!(kib_line(text, "Pss:"), Some(414 * 1024));
        assert_eq!(kib_line("Rss: 1 kB\n", "Pss:"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "Name:\tballastd\nVmHWM:\t    9000 kB\nVmRSS:\t    5000 kB\nThreads:\t9\n";
        assert_eq!(Memory::parse(text), Some(Memory { resident: 5000 * 1024, peak: 9000 * 1024 }));
        assert_eq!(Memory::parse("Name:\tgone\n"), None);
        let mine = Memory::of(std::process::id()).unwrap();
        assert!(mine.resident > 0 && mine.peak >= mine.resident);
    }

    #[test]
    fn own_cpu_time_grows_with_work_and_includes_ended_threads() {
        let me = [std::process::id()];
        let before = cpu_nanos(&me).unwrap();
        thread::spawn(|| {
            let started = Instant::now();
            let mut x = 1u64;
            while started.elapsed() < Duration::from_millis(60) {
                x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005));
            }
        })
        .join()
        .unwrap();
        assert!(cpu_nanos(&me).unwrap() > before);
    }

    #[test]
    fn a_guarded_child_ends_when_dropped() {
        let child = Guarded::spawn(Command::new("sleep").arg("1000")).unwrap();
        let pid = child.id();
        assert!(tree(std::process::id()).contains(&pid));
        assert!(resident_bytes(&[pid]).unwrap() > 0);
        drop(child);
        assert!(cpu_nanos(&[pid]).is_err());
    }

    #[test]
    fn a_child_that_ends_is_not_waited_for() {
        let mut child = Guarded::spawn(&mut Command::new("false")).unwrap();
        // It does not listen, and as long as it is there nobody else does.
        let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        deaf.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = deaf.local_addr().unwrap().as_socket().unwrap();
        let error = child.wait_listening(address).unwrap_err();
        assert!(error.to_string().contains("ended before"), "{error}");
    }

    #[test]
    fn an_end_that_does_not_come_is_told() {
        let mut child = Guarded::spawn(Command::new("sleep").arg("1000")).unwrap();
        assert_eq!(child.wait(Duration::from_millis(1)).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
