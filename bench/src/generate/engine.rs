//! The generator's loop: connections, requests in flight, and the counts.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Mode, Options, Report, arrivals::Arrivals, request::Request};
use crate::{
    poll::{Epoll, Events, Ready, now_nanos},
    process,
    response::{Progress, ResponseReader},
    stats::Histogram,
};

/// Failures in a row after which there is nobody to measure.
const HOPELESS: u64 = 2000;
/// Idle connections that are being opened at once; more would overflow a listener's backlog.
const OPENING_MAX: usize = 128;

/// A run of the generator.
pub struct Engine<'a> {
    options: &'a Options,
    epoll: Epoll,
    connections: Vec<Connection>,
    /// Connections that wait for an arrival (open loop).
    unused: VecDeque<usize>,
    /// Arrivals that wait for a connection (open loop).
    queue: VecDeque<u64>,
    request: Request,
    /// Requests that may still be started.
    left: u64,
    opened: u32,
    tally: Tally,
    failed_in_a_row: u64,
    buffer: Box<[u8]>,
}

#[derive(Default)]
struct Connection {
    stream: Option<TcpStream>,
    connected: bool,
    /// Distinguishes this stream's events from those of streams before it.
    generation: u32,
    /// When the request in flight arrived.
    busy: Option<u64>,
    request: Vec<u8>,
    sent: usize,
    response: ResponseReader,
}

#[derive(Default)]
struct Tally {
    latencies: Histogram,
    done: u64,
    refused: u64,
    failed: u64,
    reconnects: u64,
    bytes: u64,
}

/// What was so when the window opened.
struct Window {
    from: u64,
    cpu: u64,
    own: u64,
}

impl<'a> Engine<'a> {
    /// Prepares a run; nothing is sent yet.
    pub fn new(options: &'a Options) -> Result<Self> {
        ensure!(options.connections > 0, "at least one connection is needed");
        let idle = options.mode == Mode::Idle;
        Ok(Self {
            options,
            epoll: Epoll::new()?,
            connections: (0..options.connections).map(|_| Connection::default()).collect(),
            unused: VecDeque::new(),
            queue: VecDeque::new(),
            request: Request::new(options),
            left: if idle { options.connections as u64 } else { options.requests.unwrap_or(u64::MAX) },
            opened: std::process::id(),
            tally: Tally::default(),
            failed_in_a_row: 0,
            buffer: vec![0; 256 << 10].into(),
        })
    }

    /// Runs to the end of the window.
    pub fn run(&mut self) -> Result<Report> {
        let bounded = self.left != u64::MAX;
        let started = now_nanos();
        let nanos = |seconds: f64| (seconds * 1e9) as u64;
        let opens = started + if bounded { 0 } else { nanos(self.options.warm_up) };
        let mut closes = opens + nanos(self.options.secs);
        let mut arrivals = self.options.rate.map(|rate| Arrivals::new(started, rate, u64::from(self.opened)));
        let mut window = if bounded { Some(self.open_window()?) } else { None };

        if arrivals.is_some() {
            self.unused.extend(0..self.connections.len());
        } else {
            let first = if self.options.mode == Mode::Idle { OPENING_MAX } else { usize::MAX };
            for index in 0..self.connections.len().min(first) {
                self.start(index, now_nanos())?;
            }
        }
        let mut events = Events::with_capacity(512);
        loop {
            let now = now_nanos();
            if window.is_none() && now >= opens {
                let opened = self.open_window()?;
                closes = opened.from + nanos(self.options.secs);
                window = Some(opened);
            }
            if now >= closes || (bounded && self.finished()) {
                break;
            }
            let mut wait = Duration::from_millis(5);
            if let Some(arrivals) = &mut arrivals {
                while let Some(at) = arrivals.due(now) {
                    match self.unused.pop_front() {
                        Some(index) => self.start(index, at)?,
                        None => self.queue.push_back(at),
                    }
                }
                wait = wait.min(Duration::from_nanos(arrivals.next().saturating_sub(now_nanos())));
            }
            self.epoll.wait(&mut events, Some(wait))?;
            let mut at = 0;
            while let Some(ready) = events.get(at) {
                at += 1;
                self.on_ready(ready)?;
            }
            ensure!(
                self.failed_in_a_row < HOPELESS,
                "{HOPELESS} requests in a row failed at {:?}",
                self.options.addresses
            );
        }
        if bounded && !self.finished() {
            bail!("{} requests were not over after {} s", self.tally.over(), self.options.secs);
        }
        self.report(&window.context("the window never opened")?)
    }

    /// Connections that neither side has closed.
    pub fn count_open(&mut self) -> Result<usize> {
        let mut events = Events::with_capacity(512);
        loop {
            self.epoll.wait(&mut events, Some(Duration::ZERO))?;
            let mut at = 0;
            while let Some(ready) = events.get(at) {
                at += 1;
                self.on_ready(ready)?;
            }
            if at == 0 {
                return Ok(self.connections.iter().filter(|c| c.connected).count());
            }
        }
    }

    fn finished(&self) -> bool {
        let wanted = match self.options.mode {
            Mode::Idle => self.connections.len() as u64,
            Mode::KeepAlive | Mode::NewConnection => self.options.requests.unwrap_or(u64::MAX),
        };
        self.tally.over() >= wanted
    }

    fn open_window(&mut self) -> Result<Window> {
        self.tally = Tally::default();
        Ok(Window {
            cpu: process::cpu_nanos(&self.options.pids).context("CPU time of the proxy")?,
            own: process::cpu_nanos(&[std::process::id()])?,
            from: now_nanos(),
        })
    }

    fn report(&self, window: &Window) -> Result<Report> {
        let seconds = (now_nanos() - window.from) as f64 / 1e9;
        let cpu = process::cpu_nanos(&self.options.pids).context("CPU time of the proxy")? - window.cpu;
        let own = process::cpu_nanos(&[std::process::id()])? - window.own;
        let tally = &self.tally;
        Ok(Report {
            done: tally.done,
            refused: tally.refused,
            failed: tally.failed,
            reconnects: tally.reconnects,
            open: self.connections.iter().filter(|c| c.connected).count(),
            seconds,
            bytes: tally.bytes,
            p50_us: tally.latencies.quantile_us(0.5),
            p99_us: tally.latencies.quantile_us(0.99),
            p999_us: tally.latencies.quantile_us(0.999),
            max_us: tally.latencies.max_us(),
            cpu_us: cpu as f64 / 1000.0,
            own_cpu_us: own as f64 / 1000.0,
        })
    }

    /// Sends the next request on a connection, which is opened if it is not. `at` is when it arrived.
    fn start(&mut self, index: usize, at: u64) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        let connection = &mut self.connections[index];
        connection.busy = Some(at);
        self.request.write(&mut connection.request);
        connection.sent = 0;
        connection.response.reset();
        if connection.stream.is_none() {
            return self.connect(index);
        }
        self.flush(index);
        Ok(())
    }

    fn connect(&mut self, index: usize) -> Result<()> {
        let address = self.options.addresses[index % self.options.addresses.len()];
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if address.ip().is_loopback() && address.is_ipv4() && self.options.mode != Mode::KeepAlive {
            self.opened = self.opened.wrapping_add(1);
            spread_source(&socket, self.opened)?;
        }
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error).with_context(|| format!("connect to {address}")),
        }
        let stream = TcpStream::from(socket);
        let connection = &mut self.connections[index];
        connection.generation = connection.generation.wrapping_add(1);
        connection.connected = false;
        self.epoll.add(&stream, u64::from(connection.generation) << 32 | index as u64)?;
        connection.stream = Some(stream);
        Ok(())
    }

    fn on_ready(&mut self, ready: Ready) -> Result<()> {
        let (index, generation) = ((ready.token & 0xffff_ffff) as usize, (ready.token >> 32) as u32);
        let connection = &mut self.connections[index];
        if connection.generation != generation || connection.stream.is_none() {
            return Ok(());
        }
        if ready.writable {
            connection.connected = true;
            self.flush(index);
        }
        if ready.readable { self.receive(index, generation, ready.closed) } else { Ok(()) }
    }

    /// Writes what the socket takes. A broken connection is noticed by reading.
    fn flush(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(stream) = connection.stream.as_mut().filter(|_| connection.connected) else { return };
        while connection.busy.is_some() && connection.sent < connection.request.len() {
            match stream.write(&connection.request[connection.sent..]) {
                Ok(count) => connection.sent += count,
                Err(_) => return,
            }
        }
    }

    fn receive(&mut self, index: usize, generation: u32, to_the_end: bool) -> Result<()> {
        loop {
            let connection = &mut self.connections[index];
            let Some(stream) = connection.stream.as_mut().filter(|_| connection.generation == generation) else {
                return Ok(());
            };
            let count = match stream.read(&mut self.buffer) {
                Ok(0) => return self.lost(index),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return self.lost(index),
            };
            if connection.busy.is_none() {
                return self.lost(index);
            }
            self.tally.bytes += count as u64;
            match connection.response.feed(&self.buffer[..count]) {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => self.answered(index)?,
                Err(_) => return self.lost(index),
            }
            if count < self.buffer.len() && !to_the_end {
                return Ok(());
            }
        }
    }

    fn answered(&mut self, index: usize) -> Result<()> {
        let now = now_nanos();
        let connection = &mut self.connections[index];
        if let Some(at) = connection.busy.take() {
            self.tally.latencies.record(now.saturating_sub(at));
        }
        if connection.response.status() == 200 {
            self.tally.done += 1;
            self.failed_in_a_row = 0;
        } else {
            self.tally.refused += 1;
            self.failed_in_a_row += 1;
        }
        if connection.response.closes() || self.options.mode == Mode::NewConnection {
            if self.options.mode != Mode::NewConnection {
                self.tally.reconnects += 1;
            }
            connection.stream = None;
            connection.connected = false;
        }
        self.next(index, now)
    }

    /// The connection broke, or what it brought was no answer.
    fn lost(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        connection.stream = None;
        connection.connected = false;
        if connection.busy.take().is_none() {
            self.tally.reconnects += 1;
            return Ok(());
        }
        self.tally.failed += 1;
        self.failed_in_a_row += 1;
        self.next(index, now_nanos())
    }

    /// Gives a connection its next request.
    fn next(&mut self, index: usize, now: u64) -> Result<()> {
        if self.options.mode == Mode::Idle {
            let fresh = self.connections.len() - self.left as usize;
            return self.start(fresh, now);
        }
        if self.options.rate.is_none() {
            return self.start(index, now);
        }
        match self.queue.pop_front() {
            Some(at) => self.start(index, at),
            None => {
                self.unused.push_back(index);
                Ok(())
            }
        }
    }
}

impl Tally {
    fn over(&self) -> u64 {
        self.done + self.refused + self.failed
    }
}

/// Binds to one of many loopback addresses, so that ports in TIME_WAIT do not run out.
fn spread_source(socket: &Socket, count: u32) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    ensure!(result == 0, "IP_BIND_ADDRESS_NO_PORT: {}", io::Error::last_os_error());
    let ip = Ipv4Addr::new(127, 0, 1 + ((count >> 6) & 31) as u8, 1 + (count & 63) as u8);
    Ok(socket.bind(&SocketAddr::from((ip, 0)).into())?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::backend;

    fn check(shape: impl Fn(&mut Options)) -> Result<Report> {
        let mut options = Options { connections: 8, requests: Some(500), secs: 20.0, ..Options::to(&[]) };
        options.addresses = vec![backend::in_thread("web1"), backend::in_thread("web2")];
        shape(&mut options);
        Engine::new(&options)?.run()
    }

    #[test]
    fn each_request_gets_its_answer_on_kept_connections() {
        let report = check(|_| {}).unwrap();
        assert_eq!((report.done, report.failed, report.refused, report.reconnects), (500, 0, 0, 0));
        assert_eq!(report.open, 8);
        assert!(report.bytes > 500 * 1024 && report.p50_us > 0.0 && report.p50_us <= report.max_us);
    }

    #[test]
    fn each_request_gets_a_connection_of_its_own() {
        let report = check(|options| options.mode = Mode::NewConnection).unwrap();
        assert_eq!((report.done, report.failed, report.open), (500, 0, 0));
    }

    #[test]
    fn large_answers_are_read_to_their_end() {
        let report = check(|options| (options.path, options.requests) = ("/10m".to_owned(), Some(10))).unwrap();
        assert_eq!(report.done, 10);
        assert!(report.bytes > 10 * (10 << 20));
    }

    #[test]
    fn an_open_loop_keeps_its_rate() {
        let report = check(|options| (options.rate, options.requests) = (Some(5000.0), Some(1000))).unwrap();
        assert_eq!(report.done, 1000);
        // A thousand exponential gaps of 0.2 ms; a slow machine only makes it longer.
        assert!(report.seconds > 0.15, "{report:?}");
    }

    #[test]
    fn a_window_of_time_ends() {
        let report = check(|options| {
            // So long that something is done within it, however busy the machine is.
            (options.requests, options.warm_up, options.secs) = (None, 0.02, 2.0);
            options.pids = vec![std::process::id()];
        })
        .unwrap();
        assert!(report.done > 0 && report.seconds >= 2.0 && report.cpu_us > 0.0, "{report:?}");
    }

    #[test]
    fn idle_connections_stay_open_until_somebody_closes_them() {
        let addresses = vec![backend::in_thread("web1")];
        let options = Options { mode: Mode::Idle, connections: 300, secs: 20.0, ..Options::to(&addresses) };
        let mut engine = Engine::new(&options).unwrap();
        assert_eq!(engine.run().unwrap().done, 300);
        assert_eq!(engine.count_open().unwrap(), 300);
    }

    #[test]
    fn requests_that_do_not_fit_in_the_time_are_an_error() {
        let error = check(|options| (options.requests, options.secs) = (Some(u64::MAX - 1), 0.05)).unwrap_err();
        assert!(error.to_string().contains("were not over"), "{error}");
    }

    #[test]
    fn a_server_that_hangs_up_is_not_asked_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let error =
            check(|options| (options.addresses, options.requests) = (vec![address], Some(100_000))).unwrap_err();
        assert!(error.to_string().contains("in a row failed"), "{error}");
    }
}
