//! A backend that tells through which node a request came.
//!
//! It answers every request with the last number of the address that the connection came from,
//! which is the node's, whatever balancer runs there. One thread serves all connections, so that
//! it costs little beside what is measured.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Result;

use super::{Host, Lab};

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1000;
/// Largest head of a request; whoever sends more is cut off.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How soon it notices that it shall end.
const LOOK_MS: i32 = 50;

/// A running responder. Stops when dropped.
pub struct Responder {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
    head: Vec<u8>,
}

impl Responder {
    /// Starts one on a host's address and a port.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn start(lab: &Lab, host: Host, port: u16) -> Result<Self> {
        let address = SocketAddr::from((host.ip(), port));
        let listener = lab.within(host, || TcpListener::bind(address))??;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::Builder::new().name(format!("responder {port}")).spawn(move || serve(&listener, &told))?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens, seen from within the lab.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool) {
    let mut connections: Vec<Connection> = Vec::new();
    let mut waited: Vec<libc::pollfd> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        waited.clear();
        let interest =
            |fd, wanted: bool| libc::pollfd { fd, events: if wanted { libc::POLLIN } else { 0 }, revents: 0 };
        waited.push(interest(listener.as_raw_fd(), connections.len() < CONNECTIONS_MAX));
        waited.extend(connections.iter().map(|c| interest(c.stream.as_raw_fd(), true)));
        // SAFETY: the pointer and length are of one vector that lives through the call.
        unsafe { libc::poll(waited.as_mut_ptr(), waited.len() as libc::nfds_t, LOOK_MS) };
        let mut looked = waited[1..].iter();
        connections.retain_mut(|connection| match looked.next() {
            Some(polled) if polled.revents != 0 => connection.answer_all().is_ok(),
            _ => true,
        });
        while connections.len() < CONNECTIONS_MAX
            && let Ok((stream, from)) = listener.accept()
        {
            connections.extend(Connection::of(stream, from));
        }
    }
}

impl Connection {
    fn of(stream: TcpStream, from: SocketAddr) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        stream.set_nodelay(true).ok()?;
        let number = match from.ip() {
            IpAddr::V4(ip) => u16::from(ip.octets()[3]),
            IpAddr::V6(ip) => ip.segments()[7],
        };
        let body = number.to_string();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
        Some(Self { stream, answer, head: Vec::new() })
    }

    /// Answers what has come in; requests have no body.
    fn answer_all(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.head.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if self.head.len() > HEAD_BYTES_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
        }
        while let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") {
            self.head.drain(..end + 4);
            // An answer is far smaller than a socket's buffer; a peer that does not read it is cut off.
            self.stream.write_all(&self.answer)?;
        }
        Ok(())
    }
}
