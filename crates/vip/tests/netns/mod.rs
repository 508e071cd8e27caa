//! Network namespaces for tests: each is a thread of its own, and ends with it, so nothing is left
//! behind however a test ends.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::Command,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

type Job = Box<dyn FnOnce() + Send>;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace with only a loopback interface, up.
pub struct Netns {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    path: String,
}

impl Netns {
    /// Nothing when the kernel does not let this user make one.
    pub fn new() -> Option<Self> {
        let (jobs, queue): (SyncSender<Job>, Receiver<Job>) = sync_channel(0);
        let (ready, is_ready) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            // SAFETY: takes flags only, and concerns the calling thread alone.
            let made = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
            // SAFETY: takes nothing.
            let thread = unsafe { libc::gettid() };
            let _ = ready.send(made.then(|| format!("/proc/{}/task/{thread}/ns/net", std::process::id())));
            if made {
                queue.iter().for_each(|job| job());
            }
        });
        let path = is_ready.recv().expect("the thread answers")?;
        let namespace = Self { jobs: Some(jobs), thread: Some(thread), path };
        namespace.ip("link set lo up");
        Some(namespace)
    }

    /// Runs `job` in the namespace; a panic in it is one here.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = sync_channel::<Result<T, Box<dyn Any + Send>>>(1);
        let job = Box::new(move || {
            let _ = done.send(catch_unwind(AssertUnwindSafe(job)));
        });
        self.jobs.as_ref().expect("open until dropped").send(job).expect("the thread runs until dropped");
        result.recv().expect("the job answers").unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// By which others name it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What an `ip` command prints.
    pub fn ip(&self, arguments: &str) -> String {
        let arguments = arguments.to_owned();
        self.run(move || {
            let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2 is installed");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "ip {arguments}: {error}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    /// Writes below /proc/sys/net.
    pub fn sysctl(&self, key: &str, value: &str) {
        let (path, value) = (format!("/proc/sys/net/{key}"), value.to_owned());
        self.run(move || std::fs::write(&path, value).expect("root may write it"));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A link with hosts on it. In each host's namespace its interface is `eth0`, host n (from 1) has
/// 10.0.0.n/24 and 2001:db8::n/64 and the MAC 02:00:00:00:00:0n. In `switch` there is a bridge with a
/// port `p<n>` for each.
pub struct Lan {
    pub switch: Netns,
    pub hosts: Vec<Netns>,
}

impl Lan {
    /// Nothing, and a line that says so, when the kernel refuses. A failure if `BALLAST_REQUIRE_NETNS` is 1.
    pub fn new(hosts: usize) -> Option<Self> {
        let made = (0..=hosts).map(|_| Netns::new()).collect::<Option<Vec<_>>>();
        let Some(mut namespaces) = made else {
            let required = std::env::var_os("BALLAST_REQUIRE_NETNS").is_some_and(|value| value == "1");
            assert!(!required, "BALLAST_REQUIRE_NETNS is 1, and this user may not make network namespaces");
            println!("skipped: this user may not make network namespaces");
            return None;
        };
        let switch = namespaces.pop().expect("one more than hosts");
        switch.ip("link add br0 type bridge mcast_snooping 0 forward_delay 0");
        switch.ip("link set br0 up");
        for (at, host) in namespaces.iter().enumerate() {
            let (n, path) = (at + 1, host.path());
            switch.ip(&format!("link add p{n} type veth peer name eth0 address 02:00:00:00:00:{n:02x} netns {path}"));
            switch.ip(&format!("link set p{n} master br0"));
            switch.ip(&format!("link set p{n} up"));
            host.sysctl("ipv6/conf/eth0/accept_dad", "0");
            host.ip(&format!("address add 10.0.0.{n}/24 dev eth0"));
            host.ip(&format!("address add 2001:db8::{n}/64 dev eth0 nodad"));
            host.ip("link set eth0 up");
        }
        let lan = Self { switch, hosts: namespaces };
        for (at, host) in lan.hosts.iter().enumerate() {
            eventually("the link is up", || host.run(|| ballast_vip::net::Interface::read("eth0").expect("there").up));
            lan.wait_port(&format!("p{}", at + 1));
        }
        Some(lan)
    }

    /// Waits until the bridge passes on what comes to the port, which it may learn of later than the host.
    pub fn wait_port(&self, port: &str) {
        let shown = || self.switch.ip(&format!("-d link show {port}"));
        eventually("the port forwards", || shown().contains("state forwarding"));
    }
}

/// Waits until it is so.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}
