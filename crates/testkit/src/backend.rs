//! A shop's application server: says who it is, keeps a basket for each session, and can be told
//! to misbehave. With a session store it writes baskets there as well and finds those of sessions
//! that another backend began, so that a visitor who must change its backend keeps its session.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::resp::{Answer, Connection};

/// How a backend behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Serves.
    Ok,
    /// Answers 503 to everything, health checks included.
    Failing,
    /// Accepts and never answers.
    BlackHole,
    /// Promises 1000 bytes, sends 10 and closes.
    ClosesMidBody,
    /// Answers with bytes that are not HTTP.
    Garbage,
    /// Answers health checks, and anything else when it is in another mode.
    Held,
}

/// A running backend. Stops when dropped.
pub struct Backend {
    name: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    accepting: Option<thread::JoinHandle<()>>,
}

struct Shared {
    name: String,
    /// Where baskets are kept beside this process' memory.
    store: Option<SocketAddr>,
    mode: Mutex<Mode>,
    mode_changed: Condvar,
    held: AtomicU64,
    stop: AtomicBool,
    requests: AtomicU64,
    next_session: AtomicU64,
    baskets: Mutex<HashMap<String, (u64, Instant)>>,
    open: Mutex<Vec<TcpStream>>,
}

impl Backend {
    /// Starts a backend on an ephemeral loopback port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(name: &str) -> io::Result<Self> {
        Self::start_at(name, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts a backend at an address, say that of one that was stopped.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start_at(name: &str, address: SocketAddr) -> io::Result<Self> {
        Self::start_with(name, address, None)
    }

    /// Starts a backend that keeps its baskets in a session store, too.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start_with(name: &str, address: SocketAddr, store: Option<SocketAddr>) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind(address)?);
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            store,
            mode: Mutex::new(Mode::Ok),
            mode_changed: Condvar::new(),
            held: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            next_session: AtomicU64::new(1),
            baskets: Mutex::default(),
            open: Mutex::default(),
        });
        let (served, listening) = (Arc::clone(&shared), Arc::clone(&listener));
        let accepting =
            thread::Builder::new().name(format!("backend {name}")).spawn(move || accept(&listening, &served))?;
        Ok(Self { name: name.to_owned(), address, shared, listener, accepting: Some(accepting) })
    }

    /// Its name, which it also tells in `X-Backend`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests answered so far, health checks not counted.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Requests that [`Mode::Held`] keeps waiting.
    pub fn held(&self) -> u64 {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// Changes how it behaves from the next request on.
    pub fn set_mode(&self, mode: Mode) {
        *self.shared.mode.lock().expect("no panic while held") = mode;
        self.shared.mode_changed.notify_all();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.set_mode(Mode::Failing);
        // Wakes the accepting thread, which sees the flag, in whatever network it listens.
        let _ = SockRef::from(&*self.listener).shutdown(std::net::Shutdown::Both);
        // Whoever connects is refused from here on.
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for stream in self.shared.open.lock().expect("no panic while held").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// A visitor that was away for longer may have been with another backend meanwhile: its basket is looked up anew.
const BASKET_LIFE: Duration = Duration::from_secs(1);

/// How long one word with the session store may take. A VIP that is taken over in between is reached with the next try.
const STORE_PATIENCE: Duration = Duration::from_millis(500);
/// Tries before the visitor is told that its basket is not to be had; together longer than a VIP is away.
const STORE_TRIES: usize = 4;

impl Shared {
    /// What is in a session's basket, after putting one more in.
    fn basket(&self, session: &str, buy: bool) -> io::Result<u64> {
        let now = Instant::now();
        let store = {
            let mut baskets = self.baskets.lock().expect("no panic while held");
            let Some(store) = self.store else {
                let (basket, _) = baskets.entry(session.to_owned()).or_insert((0, now));
                *basket += u64::from(buy);
                return Ok(*basket);
            };
            match baskets.get_mut(session) {
                Some((basket, at)) if !buy && now.duration_since(*at) < BASKET_LIFE => {
                    *at = now;
                    return Ok(*basket);
                }
                _ => store,
            }
        };
        let key = format!("shop:basket:{session}");
        let word = if buy { "INCR" } else { "GET" };
        let basket = ask_store(store, &[word, &key])?;
        let mut baskets = self.baskets.lock().expect("no panic while held");
        let (remembered, at) = baskets.entry(session.to_owned()).or_insert((basket, now));
        // Baskets only grow, and answers of the store may overtake each other here.
        *remembered = basket.max(*remembered);
        *at = now;
        Ok(*remembered)
    }

    /// How to behave to a request, which is kept waiting for it if need be.
    fn mode_for(&self, path: &str) -> Mode {
        let mode = self.mode.lock().expect("no panic while held");
        if *mode != Mode::Held || path.starts_with("/healthz") {
            return *mode;
        }
        self.held.fetch_add(1, Ordering::Relaxed);
        let mode = self.mode_changed.wait_while(mode, |mode| *mode == Mode::Held).expect("no panic while held");
        self.held.fetch_sub(1, Ordering::Relaxed);
        *mode
    }
}

/// An address where connecting takes for ever: somebody listens there, accepts nobody, and the
/// kernel's queue is full, so that it drops whatever arrives.
pub struct Deaf {
    listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Deaf {
    /// Finds a port on loopback and fills its queue.
    ///
    /// # Errors
    /// When no port can be bound, or the kernel takes every connection.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        // SAFETY: listen(2) takes no pointers; a second call only sets the length of the queue.
        if unsafe { libc::listen(listener.as_raw_fd(), 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let address = listener.local_addr()?;
        let mut queue = Vec::new();
        // The kernel takes one more than it was told, and may round up.
        while queue.len() < 64 {
            match TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
                Ok(stream) => queue.push(stream),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(Self { listener, _queue: queue }),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the kernel takes every connection"))
    }

    /// Where nobody gets through.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        let _ = thread::Builder::new().stack_size(128 << 10).spawn(move || {
            // A copy is kept to end it from outside, so that dropping it does not close it.
            let whole = stream.try_clone();
            let _ = serve(stream, &shared);
            if let Ok(whole) = whole {
                let _ = whole.shutdown(std::net::Shutdown::Both);
            }
        });
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    {
        let mut open = shared.open.lock().expect("no panic while held");
        open.retain(|s| s.peer_addr().is_ok());
        open.push(stream.try_clone()?);
    }
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || shared.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut words = line.split(' ');
        let method = words.next().unwrap_or("").to_owned();
        let path = words.next().unwrap_or("").to_owned();
        let mut length = 0;
        let mut chunked = false;
        let mut session = None;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 {
                return Ok(());
            }
            let header = header.trim_end();
            if header.is_empty() {
                break;
            }
            let Some((name, value)) = header.split_once(':') else { continue };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap_or(0),
                "transfer-encoding" => chunked = true,
                "cookie" => {
                    session = value
                        .split(';')
                        .filter_map(|pair| pair.trim().split_once('='))
                        .find(|(name, _)| *name == "SHOPID")
                        .map(|(_, value)| value.to_owned());
                }
                _ => {}
            }
        }
        let body = if chunked { read_chunked(&mut reader)? } else { read_exactly(&mut reader, length)? };
        match shared.mode_for(&path) {
            Mode::BlackHole => {
                // Holds the connection until somebody closes it.
                let mut rest = Vec::new();
                reader.read_to_end(&mut rest)?;
                return Ok(());
            }
            Mode::Garbage => {
                reader.get_mut().write_all(b"\x00\x01\x02 this is not HTTP\r\n\r\n")?;
                return Ok(());
            }
            Mode::ClosesMidBody => {
                reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789")?;
                return Ok(());
            }
            Mode::Failing => {
                reader.get_mut().write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")?;
            }
            Mode::Ok | Mode::Held => answer(&mut reader, shared, &method, &path, session, &body)?,
        }
    }
}

fn answer(
    reader: &mut BufReader<TcpStream>,
    shared: &Shared,
    method: &str,
    path: &str,
    session: Option<String>,
    body: &[u8],
) -> io::Result<()> {
    if path.starts_with("/healthz") {
        return reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let mut set_cookie = String::new();
    let session = match session {
        // Whoever logs in gets another id than the one that it came with, which somebody may have given it.
        _ if path.starts_with("/login") => {
            let number = shared.next_session.fetch_add(1, Ordering::Relaxed);
            let session = format!("{}-{}-{number}", shared.name, std::process::id());
            set_cookie = format!("Set-Cookie: SHOPID={session}; Path=/; HttpOnly\r\n");
            session
        }
        session => session.unwrap_or_default(),
    };
    let Ok(basket) = shared.basket(&session, path.starts_with("/buy")) else {
        return reader.get_mut().write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    };
    let text = if path.starts_with("/echo") {
        String::from_utf8_lossy(body).into_owned()
    } else {
        format!("backend={} session={session} basket={basket}\n", shared.name)
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Backend: {}\r\n{set_cookie}Content-Length: {}\r\n\r\n",
        shared.name,
        text.len()
    );
    let mut bytes = head.into_bytes();
    if method != "HEAD" {
        bytes.extend_from_slice(text.as_bytes());
    }
    reader.get_mut().write_all(&bytes)
}

/// Asks the session store for a number, on a connection of its own: one that was kept might lead to a node that is gone.
fn ask_store(store: SocketAddr, words: &[&str]) -> io::Result<u64> {
    let ask = || match Connection::open(store, STORE_PATIENCE)?.call(words)? {
        Answer::Integer(number) => u64::try_from(number).map_err(io::Error::other),
        Answer::Null => Ok(0),
        Answer::Bulk(text) => String::from_utf8_lossy(&text).parse().map_err(io::Error::other),
        other => Err(io::Error::other(format!("the session store said {other:?}"))),
    };
    let mut answer = ask();
    for _ in 1..STORE_TRIES {
        if answer.is_ok() {
            break;
        }
        answer = ask();
    }
    answer
}

fn read_exactly(reader: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(body)
}

fn read_chunked(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let chunk = read_exactly(reader, size)?;
        body.extend_from_slice(&chunk);
        let mut end = String::new();
        reader.read_line(&mut end)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    #[test]
    fn each_login_gives_another_id() {
        let backend = Backend::start("web1").expect("a port");
        let mut client = Client::new(backend.address());
        let mut id_after = |path: &str| {
            assert_eq!(client.get(path).expect("an answer").status, 200);
            client.cookie("SHOPID").map(str::to_owned)
        };
        let ids = ["/basket", "/login", "/basket", "/login"].map(&mut id_after);
        assert!(ids[0].is_none() && ids[1].is_some() && ids[1] == ids[2]);
        assert!(ids[3].is_some() && ids[3] != ids[1]);
    }
}
