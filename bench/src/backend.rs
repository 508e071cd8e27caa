//! The backend: one epoll loop that answers as cheaply as it can.
//!
//! The path picks the body (`/0`, `/100k`, `/10m`, anything else 1 KiB), `/login` sets a cookie,
//! and `x-backend` says which of its names answered. One process serves all names, each on its own
//! address, so that several backends do not compete for the generator's core.
//!
//! Not here: misbehaviour (`ballast_testkit::backend`), request bodies (no bench sends one).

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    rc::Rc,
};

use anyhow::{Context, Result};
use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    poll::{Epoll, Events, Ready},
    process,
};

/// What to serve.
#[derive(Args)]
pub struct Options {
    /// A name to serve under; may be given several times.
    #[arg(long = "name", required = true)]
    names: Vec<String>,
    /// Core to stay on.
    #[arg(long)]
    core: Option<usize>,
}

/// Serves until it is killed. Prints `NAME ADDRESS` for each name once it listens.
///
/// # Errors
/// When it cannot listen.
pub fn run(options: &Options) -> Result<()> {
    process::raise_open_files();
    if let Some(core) = options.core {
        process::pin(core).with_context(|| format!("stay on core {core}"))?;
    }
    let mut server = Server::listen(&options.names)?;
    for (name, address) in options.names.iter().zip(server.addresses()?) {
        println!("{name} {address}");
    }
    io::stdout().flush()?;
    loop {
        server.turn()?;
    }
}

struct Server {
    epoll: Epoll,
    events: Events,
    sites: Vec<Site>,
    /// By descriptor; the token of a connection is its place plus the number of sites.
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffer: Box<[u8]>,
}

/// One name and what it answers.
struct Site {
    listener: TcpListener,
    name: String,
    small: Rc<[u8]>,
    empty: Rc<[u8]>,
    large: Rc<[u8]>,
    huge: Rc<[u8]>,
    logins: u64,
}

struct Connection {
    stream: TcpStream,
    site: usize,
    /// Bytes of a request whose head is not whole.
    partial: Vec<u8>,
    out: VecDeque<Rc<[u8]>>,
    /// Bytes of `out`'s first answer that have left.
    sent: usize,
    close: bool,
}

impl Server {
    fn listen(names: &[String]) -> Result<Self> {
        let epoll = Epoll::new()?;
        let mut sites = Vec::new();
        for name in names {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            // Accepted sockets inherit it.
            socket.set_tcp_nodelay(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).context("bind a backend's port")?;
            socket.listen(4096)?;
            socket.set_nonblocking(true)?;
            let listener = TcpListener::from(socket);
            epoll.add_listener(&listener, sites.len() as u64)?;
            sites.push(Site::new(name, listener));
        }
        Ok(Self {
            epoll,
            events: Events::with_capacity(512),
            sites,
            connections: Vec::new(),
            free: Vec::new(),
            buffer: vec![0; 64 << 10].into(),
        })
    }

    fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sites.iter().map(|site| site.listener.local_addr()).collect()
    }

    fn turn(&mut self) -> io::Result<()> {
        self.epoll.wait(&mut self.events, None)?;
        let mut index = 0;
        while let Some(ready) = self.events.get(index) {
            index += 1;
            let token = ready.token as usize;
            match token.checked_sub(self.sites.len()) {
                None => self.accept(token),
                Some(place) => self.serve(place, ready),
            }
        }
        Ok(())
    }

    fn accept(&mut self, site: usize) {
        while let Ok((stream, _)) = self.sites[site].listener.accept() {
            let place = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let token = (place + self.sites.len()) as u64;
            if stream.set_nonblocking(true).and_then(|()| self.epoll.add(&stream, token)).is_err() {
                self.free.push(place);
                continue;
            }
            let (partial, out) = (Vec::new(), VecDeque::new());
            self.connections[place] = Some(Connection { stream, site, partial, out, sent: 0, close: false });
        }
    }

    fn serve(&mut self, place: usize, ready: Ready) {
        let Some(connection) = self.connections[place].as_mut() else { return };
        let site = &mut self.sites[connection.site];
        let mut alive = true;
        if ready.readable {
            alive = connection.read(site, &mut self.buffer, ready.closed);
        }
        if !connection.flush() || !alive {
            self.connections[place] = None;
            self.free.push(place);
        }
    }
}

impl Connection {
    /// Reads and answers what there is. False at the end of the stream.
    fn read(&mut self, site: &mut Site, buffer: &mut [u8], to_the_end: bool) -> bool {
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return false,
                Ok(count) => count,
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            };
            let bytes = &buffer[..count];
            if self.partial.is_empty() {
                let used = self.answer_heads(site, bytes);
                self.partial.extend_from_slice(&bytes[used..]);
            } else {
                let mut all = std::mem::take(&mut self.partial);
                all.extend_from_slice(bytes);
                let used = self.answer_heads(site, &all);
                all.drain(..used);
                self.partial = all;
            }
            if count < buffer.len() && !to_the_end {
                return true;
            }
        }
    }

    /// Queues an answer for each whole head; returns how many bytes those were.
    fn answer_heads(&mut self, site: &mut Site, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some(length) = head_length(&bytes[used..]) {
            let head = &bytes[used..used + length];
            self.close |= asks_to_close(head);
            self.out.push_back(site.answer(head));
            used += length;
        }
        used
    }

    /// Writes what the socket takes. False once the connection is to be closed.
    fn flush(&mut self) -> bool {
        while let Some(first) = self.out.front() {
            match self.stream.write(&first[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
            if self.sent == first.len() {
                self.out.pop_front();
                self.sent = 0;
            }
        }
        !self.close
    }
}

impl Site {
    fn new(name: &str, listener: TcpListener) -> Self {
        let answer = |length| answer(name, "", length).into();
        Self {
            listener,
            name: name.to_owned(),
            small: answer(1 << 10),
            empty: answer(0),
            large: answer(100 << 10),
            huge: answer(10 << 20),
            logins: 0,
        }
    }

    fn answer(&mut self, head: &[u8]) -> Rc<[u8]> {
        let path = head.split(|b| *b == b' ').nth(1).unwrap_or_default();
        match path {
            b"/0" => Rc::clone(&self.empty),
            b"/100k" => Rc::clone(&self.large),
            b"/10m" => Rc::clone(&self.huge),
            b"/login" => {
                self.logins += 1;
                let cookie = format!("set-cookie: SHOPID={}-{}; Path=/\r\n", self.name, self.logins);
                answer(&self.name, &cookie, 1 << 10).into()
            }
            _ => Rc::clone(&self.small),
        }
    }
}

fn answer(name: &str, extra: &str, length: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nserver: bench\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\ncontent-type: text/plain\r\n\
         cache-control: no-cache\r\nx-backend: {name}\r\n{extra}content-length: {length}\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + length, b'x');
    bytes
}

/// Length of the head at the beginning of `bytes`, with the empty line that ends it.
fn head_length(bytes: &[u8]) -> Option<usize> {
    // What nearly always comes is one whole head, which is found without a search.
    let search = if bytes.ends_with(b"\r\n\r\n") && bytes.len() < 4096 && lines_are_one_head(bytes) {
        return Some(bytes.len());
    } else {
        bytes
    };
    search.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

fn lines_are_one_head(bytes: &[u8]) -> bool {
    !bytes[..bytes.len() - 4].windows(4).any(|w| w == b"\r\n\r\n")
}

fn asks_to_close(head: &[u8]) -> bool {
    const CLOSE: &[u8] = b"connection: close";
    head.split(|b| *b == b'\n').any(|line| line.trim_ascii_end().eq_ignore_ascii_case(CLOSE))
}

/// A backend in a thread of its own, which ends with the test process.
#[cfg(test)]
pub fn in_thread(name: &'static str) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut server = Server::listen(&[name.to_owned()]).unwrap();
        tell.send(server.addresses().unwrap()[0]).unwrap();
        while server.turn().is_ok() {}
    });
    told.recv().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_one_by_one() {
        let one = b"GET /0 HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(head_length(one), Some(one.len()));
        assert_eq!(head_length(&one[..one.len() - 1]), None);
        let two = [&one[..], &one[..]].concat();
        assert_eq!(head_length(&two), Some(one.len()));
    }

    #[test]
    fn only_the_connection_field_closes() {
        assert!(asks_to_close(b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n"));
        assert!(!asks_to_close(b"GET / HTTP/1.1\r\nx-connection: close\r\nConnection: keep-alive\r\n\r\n"));
    }

    fn check(requests: &str, expected: usize) -> String {
        let mut stream = TcpStream::connect(in_thread("web1")).unwrap();
        stream.write_all(requests.as_bytes()).unwrap();
        let mut bytes = vec![0; expected];
        stream.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn pipelined_requests_are_answered_in_order_and_the_name_is_told() {
        let one = answer("web1", "", 0).len();
        let said = check("GET /0 HTTP/1.1\r\nHost: a\r\n\r\nGET /1k HTTP/1.1\r\nHost: a\r\n\r\n", one + 20);
        assert!(said.contains("x-backend: web1\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK"), "{said}");
    }

    #[test]
    fn a_large_body_arrives_whole() {
        let length = answer("web1", "", 10 << 20).len();
        assert!(check("GET /10m HTTP/1.1\r\nHost: a\r\n\r\n", length).ends_with("xxx"));
    }

    #[test]
    fn a_login_sets_a_cookie() {
        assert!(check("GET /login HTTP/1.1\r\n\r\n", 300).contains("set-cookie: SHOPID=web1-1; Path=/\r\n"));
    }
}
