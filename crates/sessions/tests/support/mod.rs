//! A cluster of one in memory, a server on it, a raw client, and a real Redis to compare with.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command as Process, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ballast_core::{
    cluster::{Applied, BoxFuture, NotConfirmed, Ownership, Propose, ProposeError, ReadIndex},
    config::SessionProtocol,
    ids::{Boot, LogIndex, NodeId, VipId},
    lease::VipGate,
    session::Sessions,
    state::{ApplyConfig, Author, Command, Entry, Frame, InitCluster, NodeInfo, Origin, Outcome, State},
    time::LogTime,
};
use ballast_sessions::{Certificates, LogClock, Place, Ports, Server, ServerOptions, Wanted};

/// What the fake cluster does with proposals and confirmations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Mood {
    Healthy,
    NoQuorum,
    Unknown,
    Overloaded,
    /// Whoever asks panics.
    Bug,
}

/// A cluster of one.
pub struct Cluster {
    state: Mutex<(State, u64)>,
    pub sessions: Arc<Sessions>,
    /// Milliseconds since the epoch; zero follows the wall clock.
    pub now_ms: AtomicU64,
    pub mood: Mutex<Mood>,
    /// Moods of the next proposals, before `mood` counts.
    pub next_moods: Mutex<Vec<Mood>>,
    pub proposals: AtomicU64,
    pub confirmations: AtomicU64,
    pub gate: Arc<VipGate>,
    pub slow: AtomicBool,
    /// What fails does so only after the whole deadline.
    pub patient: AtomicBool,
    /// Comes before the next proposal.
    pub overtaken_by: Mutex<Option<Command>>,
    /// Comes before the next proposal, on the thread of the worker that makes it.
    pub before_next: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// As much as an entry of the real log may hold.
const ENTRY_MAX: usize = 16 << 20;

const ORIGIN: Origin = Origin { node: NodeId::new(1), boot: Boot(7) };

impl Cluster {
    /// With this `sessions` part of the document, as JSON.
    pub fn new(sessions: &str) -> Arc<Self> {
        let state = State::new();
        let cluster = Self {
            sessions: state.sessions().clone(),
            state: Mutex::new((state, 0)),
            now_ms: AtomicU64::new(0),
            mood: Mutex::new(Mood::Healthy),
            next_moods: Mutex::default(),
            proposals: AtomicU64::new(0),
            confirmations: AtomicU64::new(0),
            gate: Arc::new(VipGate::closed()),
            slow: AtomicBool::new(false),
            patient: AtomicBool::new(false),
            overtaken_by: Mutex::default(),
            before_next: Mutex::default(),
        };
        cluster.apply(Command::InitCluster(Box::new(InitCluster {
            cluster_id: "c1".to_owned(),
            ca_certificate: "PEM".to_owned(),
            ca_key_sealed: vec![1],
            first_node: NodeInfo { name: "n1".to_owned(), ..NodeInfo::default() },
            first_node_key_fingerprint: [1; 32],
            table_secret: [9; 16].into(),
            cookie_secret: [8; 32].into(),
            lease_secret: [7; 32].into(),
        })));
        cluster.configure(sessions);
        Arc::new(cluster)
    }

    pub fn configure(&self, sessions: &str) {
        let document = format!(r#"{{"version":1,"sessions":{sessions}}}"#);
        let document = ballast_core::config::decode_canonical(&document).expect("a document").to_canonical_json();
        let outcome = self.apply(Command::ApplyConfig(Box::new(ApplyConfig {
            source: document.clone(),
            document,
            rules: ballast_core::config::rules::RULES,
            expect: None,
            request_id: String::new(),
            author: Author { name: "ann".to_owned(), message: String::new() },
        })));
        assert!(matches!(outcome.outcome, Outcome::Applied { .. }), "{outcome:?}");
    }

    /// Carries log time forward, as the leader does now and then.
    pub fn tick(&self) {
        self.apply(Command::Tick);
    }

    fn now(&self) -> LogTime {
        match self.now_ms.load(Ordering::SeqCst) {
            0 => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                LogTime::from_millis(now.as_millis() as u64)
            }
            fixed => LogTime::from_millis(fixed),
        }
    }

    fn apply(&self, command: Command) -> Applied {
        let mut state = self.state.lock().unwrap();
        let seq = state.1 + 1;
        state.1 = seq;
        let frame = Frame { origin: ORIGIN, seq, commands: vec![command] };
        let entry = Entry { log_time: self.now(), frames: vec![frame] };
        let (index, mut out) = (LogIndex::new(seq), Vec::new());
        state.0.apply(index, &entry, &mut out);
        Applied { index, outcome: out.remove(0).outcomes.remove(0) }
    }

    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }
}

struct AsPropose(Arc<Cluster>);

impl Propose for AsPropose {
    fn propose(&self, command: Command, deadline: Duration) -> BoxFuture<'static, Result<Applied, ProposeError>> {
        self.0.proposals.fetch_add(1, Ordering::SeqCst);
        if let Command::Session(write) = &command {
            let bytes = write.calls.iter().flat_map(|call| &call.args).map(|arg| arg.len()).sum();
            if bytes > ENTRY_MAX {
                return Box::pin(async move { Err(ProposeError::TooLarge { bytes, bytes_max: ENTRY_MAX }) });
            }
        }
        let before = self.0.before_next.lock().unwrap().take();
        if let Some(before) = before {
            before();
        }
        if let Some(other) = self.0.overtaken_by.lock().unwrap().take() {
            self.0.apply(other);
        }
        let next = self.0.next_moods.lock().unwrap().pop();
        let result = match next.unwrap_or_else(|| self.0.mood()) {
            Mood::Healthy => Ok(self.0.apply(command)),
            Mood::NoQuorum => Err(ProposeError::NoQuorum { detail: "alone".to_owned() }),
            Mood::Unknown => {
                self.0.apply(command);
                Err(ProposeError::OutcomeUnknown { waited: deadline })
            }
            Mood::Overloaded => Err(ProposeError::Overloaded { queued: 9 }),
            Mood::Bug => std::panic::resume_unwind(Box::new("as the test wants")),
        };
        let slow = self.0.slow.load(Ordering::SeqCst);
        let patient = result.is_err() && self.0.patient.load(Ordering::SeqCst);
        Box::pin(async move {
            if patient {
                tokio::time::sleep(deadline).await;
            }
            if slow {
                // Lets others run in between, as a real log does.
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
            }
            result
        })
    }
}

impl ReadIndex for Cluster {
    fn confirm(&self, deadline: Duration) -> BoxFuture<'static, Result<LogIndex, NotConfirmed>> {
        self.confirmations.fetch_add(1, Ordering::SeqCst);
        let healthy = self.mood() == Mood::Healthy;
        let result = if healthy { Ok(LogIndex::new(1)) } else { Err(NotConfirmed { detail: "alone".to_owned() }) };
        let patient = self.patient.load(Ordering::SeqCst);
        Box::pin(async move {
            if !healthy && patient {
                tokio::time::sleep(deadline).await;
            }
            result
        })
    }
}

impl Ownership for Cluster {
    fn gate(&self, _: VipId) -> Arc<VipGate> {
        self.gate.clone()
    }
}

impl LogClock for Cluster {
    fn estimate(&self) -> LogTime {
        self.now()
    }
}

/// A server on a cluster of one.
pub struct Ballast {
    pub cluster: Arc<Cluster>,
    pub server: Server,
    pub address: SocketAddr,
    /// Connections that the test has panic.
    pub panics_wanted: u64,
}

pub const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

impl Ballast {
    pub fn start(sessions: &str) -> Self {
        Self::start_at(
            sessions,
            vec![Wanted { place: Place::Address(LOCAL), tls: false, protocol: SessionProtocol::Resp }],
            None,
        )
    }

    pub fn start_at(sessions: &str, wanted: Vec<Wanted>, certificates: Option<Arc<dyn Certificates>>) -> Self {
        Self::start_with(sessions, wanted, certificates, 2)
    }

    pub fn start_with(
        sessions: &str,
        wanted: Vec<Wanted>,
        certificates: Option<Arc<dyn Certificates>>,
        workers: usize,
    ) -> Self {
        Self::start_by(sessions, wanted, certificates, ServerOptions { workers, ..ServerOptions::default() })
    }

    pub fn start_by(
        sessions: &str,
        wanted: Vec<Wanted>,
        certificates: Option<Arc<dyn Certificates>>,
        options: ServerOptions,
    ) -> Self {
        let cluster = Cluster::new(sessions);
        let ports = Ports {
            sessions: cluster.sessions.clone(),
            propose: Arc::new(AsPropose(cluster.clone())),
            read_index: cluster.clone(),
            ownership: cluster.clone(),
            clock: cluster.clone(),
            certificates,
        };
        let server = Server::start(options, ports).expect("threads start");
        server.listen(wanted);
        server.settle();
        let bound = server.listeners().remove(0).bound.expect("bound");
        let address = bound.parse().unwrap_or(LOCAL);
        Self { cluster, server, address, panics_wanted: 0 }
    }

    pub fn client(&self) -> Client {
        Client::tcp(self.address)
    }
}

/// A panic of a connection ends its task and nothing else: a test that does not look for one would pass.
impl Drop for Ballast {
    fn drop(&mut self) {
        let panics = self.server.stats().totals.panics_total;
        if !std::thread::panicking() {
            assert_eq!(panics, self.panics_wanted, "connections panicked");
        }
    }
}

/// Speaks raw RESP.
pub struct Client {
    stream: Box<dyn Stream>,
    buf: Vec<u8>,
}

pub trait Stream: std::io::Read + std::io::Write + Send {}
impl<T: std::io::Read + std::io::Write + Send> Stream for T {}

/// Longer than anything takes that is not a failure.
const PATIENCE: Duration = Duration::from_secs(60);

impl Client {
    pub fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connects");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        Self::on(stream)
    }

    pub fn unix(path: &std::path::Path) -> Self {
        let stream = std::os::unix::net::UnixStream::connect(path).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self::on(stream)
    }

    pub fn on(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buf: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes it");
    }

    /// Whether the bytes could be sent: the server may have closed the connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Reads one whole answer, as bytes; `None` at the end.
    pub fn answer(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = answer_length(&self.buf) {
                return Some(self.buf.drain(..length).collect());
            }
            let mut piece = [0; 65536];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(read) => self.buf.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
                Err(error) => panic!("no answer: {error}; so far {:?}", String::from_utf8_lossy(&self.buf)),
            }
        }
    }

    /// So many answers, or those that come until the end.
    pub fn rest_or(&mut self, answers: usize) -> Vec<u8> {
        (0..answers).map_while(|_| self.answer()).flatten().collect()
    }

    /// Whatever comes until the end.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.buf);
        let _ = self.stream.read_to_end(&mut all);
        all
    }

    pub fn call(&mut self, words: &[&[u8]]) -> Vec<u8> {
        self.send(&encode(words));
        self.answer().unwrap_or_else(|| b"<end>".to_vec())
    }

    /// Words separated by spaces; the answer as text.
    pub fn say(&mut self, line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        String::from_utf8_lossy(&self.call(&words)).into_owned()
    }
}

/// A request.
pub fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Length of the answer at the start of `bytes`, if it is whole.
fn answer_length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || std::str::from_utf8(&bytes[1..line - 2]).ok()?.parse::<i64>().ok();
    let items = match bytes[0] {
        b'$' | b'=' => {
            let length = number()?;
            let whole = if length < 0 { line } else { line + length as usize + 2 };
            return (bytes.len() >= whole).then_some(whole);
        }
        b'*' | b'~' | b'>' => number()?.max(0),
        b'%' => number()? * 2,
        _ => 0,
    };
    let mut at = line;
    for _ in 0..items {
        at += answer_length(&bytes[at..])?;
    }
    Some(at)
}

/// A real Redis.
pub struct Redis {
    process: Child,
    pub path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Redis {
    /// `None`, and a word why, if it is not installed. `arguments` follow those that every test needs.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("redis.sock");
        let mut process = Process::new("redis-server");
        process
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&path)
            .args(arguments)
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stdin(Stdio::null());
        Self::come_up(process, directory, path)
    }

    /// One whose clock stands at `now_ms` and follows what is written to the file.
    pub fn start_with_clock(now_ms: u64) -> Option<(Self, std::fs::File)> {
        let directory = tempfile::tempdir().expect("a directory");
        let library = directory.path().join("clock.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
        let compiled = Process::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
        if !compiled.is_ok_and(|status| status.success()) {
            eprintln!("skipped: there is no C compiler (cc) to build the clock that redis-server gets");
            return None;
        }
        let clock = directory.path().join("clock");
        let mut page = [0; 4096];
        page[..8].copy_from_slice(&now_ms.to_le_bytes());
        std::fs::write(&clock, page).expect("a file");
        let file = std::fs::OpenOptions::new().write(true).open(&clock).expect("the file");
        let path = directory.path().join("redis.sock");
        let mut process = Process::new("redis-server");
        process
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&path)
            .env("LD_PRELOAD", &library)
            .env("CLOCK_FILE", &clock)
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stdin(Stdio::null());
        Self::come_up(process, directory, path).map(|redis| (redis, file))
    }

    /// Has it remove the keys whose lives are over.
    pub fn come_across_what_is_over(&self) {
        let mut client = self.client();
        for database in ["0", "1"] {
            client.call(&[b"SELECT", database.as_bytes()]);
            client.call(&[b"SCAN", b"0", b"COUNT", b"100000"]);
        }
    }

    fn come_up(mut process: Process, directory: tempfile::TempDir, path: PathBuf) -> Option<Self> {
        let process = match process.spawn() {
            Ok(process) => process,
            Err(error) => {
                eprintln!("skipped: redis-server 7.0 is not installed ({error}); apt-get install redis-server");
                return None;
            }
        };
        let redis = Self { process, path, _directory: directory };
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(&redis.path).is_err() {
            assert!(std::time::Instant::now() < deadline, "redis-server does not come up");
            std::thread::yield_now();
        }
        let mut client = redis.client();
        let version = client.say("INFO server");
        if !version.contains("redis_version:7.0.") && !version.starts_with("-NOAUTH") {
            eprintln!("skipped: the answers are those of Redis 7.0, and another version is installed");
            return None;
        }
        Some(redis)
    }

    pub fn client(&self) -> Client {
        Client::unix(&self.path)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A password's hash, a cheap one.
pub fn hash(password: &str) -> String {
    use argon2::password_hash::{PasswordHasher as _, SaltString};
    let params = argon2::Params::new(8, 1, 1, None).expect("valid");
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let salt = SaltString::from_b64("c2FsdHNhbHQ").expect("Base64");
    argon.hash_password(password.as_bytes(), &salt).expect("hashes").to_string()
}
