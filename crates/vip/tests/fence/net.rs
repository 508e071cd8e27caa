//! Network namespaces of a test, and a wire that is looked at frame by frame.
//!
//! Everything that acts in a namespace does so on a thread that enters it and ends. Namespaces end with the value.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsRawFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::frames::{Path, Question, answers, ask};

/// Nothing here takes longer unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Says why a test is skipped. A failure if `BALLAST_REQUIRE_NETNS` is 1.
pub fn skip(why: &str) {
    let required = std::env::var_os("BALLAST_REQUIRE_NETNS").is_some_and(|value| value == "1");
    assert!(!required, "BALLAST_REQUIRE_NETNS is 1, and {why}");
    println!("skipped: {why}");
}

/// A network namespace.
pub struct Node {
    namespace: File,
}

impl Node {
    /// A new one; `None`, with a line that says so, where that is not allowed. See [`skip`].
    pub fn new() -> Option<Self> {
        let made = thread::spawn(|| {
            // SAFETY: takes a number; the thread ends right after.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        });
        match made.join().expect("the thread ends") {
            Ok(namespace) => {
                let node = Self { namespace };
                node.sh("ip link set lo up");
                Some(node)
            }
            Err(error) => {
                skip(&format!("no network namespace can be made here: {error}"));
                None
            }
        }
    }

    /// Runs something inside.
    pub fn inside<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: a descriptor of a namespace that is open.
                assert_eq!(unsafe { libc::setns(self.namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0, "enters");
                job()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command inside and returns what it printed. It has to succeed.
    pub fn sh(&self, command: &str) -> String {
        let (ok, output) = self.try_sh(command);
        assert!(ok, "{command}: {output}");
        output
    }

    /// Runs a command inside: whether it succeeded, and what it printed.
    pub fn try_sh(&self, command: &str) -> (bool, String) {
        let output = self.inside(|| Command::new("sh").arg("-c").arg(command).output().expect("sh runs"));
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// A cable from `eth` here to `eth` there, both up.
    pub fn cable(&self, here: &str, other: &Self, there: &str) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), other.namespace.as_raw_fd());
        self.sh(&format!("ip link add {here} type veth peer name {there} netns {path}"));
        self.sh(&format!("ip link set {here} up"));
        other.sh(&format!("ip link set {there} up"));
        // Until the kernel has seen to it, an end may drop what is sent.
        for (node, end) in [(self, here), (other, there)] {
            eventually("the cable carries", || node.sh(&format!("ip -o link show {end}")).contains("state UP"));
        }
    }

    pub fn index(&self, interface: &str) -> u32 {
        let name = std::ffi::CString::new(interface).expect("a name");
        // SAFETY: a string that ends with zero.
        let index = self.inside(|| unsafe { libc::if_nametoindex(name.as_ptr()) });
        assert_ne!(index, 0, "{interface} is there");
        index
    }

    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let text = self.sh(&format!("ip -o link show {interface}"));
        let mac = text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a MAC address");
        let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
        bytes.try_into().expect("six bytes")
    }

    /// A tap on an interface of this namespace.
    pub fn wire(&self, interface: &str) -> Wire {
        let index = self.index(interface);
        let socket = self.inside(|| {
            let all = i32::from((libc::ETH_P_ALL as u16).to_be());
            let socket = Socket::new(Domain::from(libc::AF_PACKET), Type::RAW, Some(Protocol::from(all)))
                .expect("packet socket");
            // SAFETY: an address of that family on this stack, with its length.
            let bound = unsafe {
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                address.sll_family = libc::AF_PACKET as u16;
                address.sll_protocol = all as u16;
                address.sll_ifindex = index as i32;
                libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32)
            };
            assert_eq!(bound, 0, "{}", io::Error::last_os_error());
            socket
        });
        pin();
        socket.set_recv_buffer_size(4 << 20).expect("buffer");
        Wire { socket, mac: self.mac(interface) }
    }
}

/// Sends and sees frames.
pub struct Wire {
    socket: Socket,
    pub mac: [u8; 6],
}

/// Keeps this thread on one processor: frames that it sends are then worked on in their order.
fn pin() {
    // SAFETY: a set of processors on this stack, which is valid when it is empty.
    unsafe {
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut one);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&one), &raw const one), 0);
    }
}

impl Wire {
    /// Asks, and says from which MAC addresses answers came. A question that `control` always answers goes last, so
    /// that silence is known without waiting for it.
    pub fn answerers(&self, path: Path, question: Question, frames: &[Vec<u8>], control: Path) -> Vec<[u8; 6]> {
        static NUMBER: AtomicU32 = AtomicU32::new(1000);
        let last = Question::Control(NUMBER.fetch_add(1, Ordering::Relaxed));
        frames.iter().chain(&ask(control, last)).for_each(|frame| self.send(frame));
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let frame = self.receive(until).expect("the node answers for its own address");
            if answers(&frame, path, question) {
                seen.push(frame[6..12].try_into().expect("six bytes"));
            }
            if answers(&frame, control, last) {
                return seen;
            }
        }
    }

    fn send(&self, frame: &[u8]) {
        (&self.socket).write_all(frame).expect("a frame is taken");
    }

    /// The next frame from somebody else, or `None` when there is none by `until`.
    pub fn receive(&self, until: Instant) -> Option<Vec<u8>> {
        let mut frame = vec![0; 2048];
        loop {
            let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.socket.set_read_timeout(Some(left)).expect("timeout set");
            match (&self.socket).read(&mut frame) {
                Ok(length) if frame.get(6..12) != Some(&self.mac) => return Some(frame[..length].to_vec()),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("reading the wire: {error}"),
            }
        }
    }
}

/// Asks again until it is so.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < until, "{what} did not happen");
        thread::yield_now();
    }
}
