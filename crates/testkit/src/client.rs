//! A small blocking HTTP/1.1 client that remembers cookies and tells exactly what went wrong.
//!
//! A kept connection may be gone when the next request comes, and a server may close one cleanly at any time between two
//! requests: the client opens another then, as browsers do. It tells that it did and how the old one had ended, because one
//! that was reset, or that took a request with it, is not what a server may do without need.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use socket2::SockRef;

/// An HTTP client with one connection and a cookie jar.
pub struct Client {
    address: SocketAddr,
    host: String,
    timeout: Duration,
    connection: Option<Kept>,
    cookies: BTreeMap<String, String>,
    asked_on: AskedOn,
}

/// A connection on which a request was answered, and when that was over.
struct Kept {
    connection: BufReader<TcpStream>,
    since: Instant,
}

/// What a request went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedOn {
    /// A connection that was opened for it, because none was kept.
    New,
    /// The kept one, whatever became of it.
    Kept,
    /// The kept one had ended, or ended before any byte of an answer came; then one that was opened for it.
    Another {
        /// What had become of the kept one.
        end: End,
        /// How long before the request the last answer on it had been read.
        idle: Duration,
    },
}

/// How a kept connection had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It had been closed before the request was sent.
    Closed,
    /// It was closed after the request had been sent, or while it was: nobody knows what became of that.
    ClosedAfter,
    /// It had been reset before the request was sent.
    Reset,
    /// It was reset after the request had been sent, or while it was: nobody knows what became of that.
    ResetAfter,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Response {
    /// First header field of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    /// A client of the server at `address`, without a connection yet.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            host: "shop.test".to_owned(),
            timeout: Duration::from_secs(10),
            connection: None,
            cookies: BTreeMap::new(),
            asked_on: AskedOn::New,
        }
    }

    /// Sends another `Host`.
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// Gives up on each read, write or connect after `timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Talks to another server from now on; cookies stay.
    pub fn go_to(&mut self, address: SocketAddr) {
        if self.address != address {
            self.address = address;
            self.connection = None;
        }
    }

    /// Closes the connection; the next request opens another.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    /// What the last request went on.
    pub fn asked_on(&self) -> AskedOn {
        self.asked_on
    }

    /// Value of a cookie.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.get(name).map(String::as_str)
    }

    /// Sets a cookie.
    pub fn set_cookie(&mut self, name: &str, value: &str) {
        self.cookies.insert(name.to_owned(), value.to_owned());
    }

    /// Sends a GET, on the open connection if there is one.
    ///
    /// # Errors
    /// Whatever the socket said, or `InvalidData` for an answer that is not HTTP.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.request("GET", path, &[], b"")
    }

    /// Sends GETs until one is answered with 200: an owner of a VIP that a busy machine keeps from its lease gives it up, and
    /// for a moment nobody answers.
    ///
    /// # Errors
    /// When none is in time.
    pub fn wait_get(&mut self, path: &str) -> anyhow::Result<Response> {
        crate::wait::until(&format!("an answer to {path}"), || {
            let answer = self.get(path)?;
            anyhow::ensure!(answer.status == 200, "status {} {}", answer.status, answer.text().trim());
            Ok(Some(answer))
        })
    }

    /// Sends a request, on the open connection if there is one. A kept connection that ended in the meantime is replaced once,
    /// if no byte of the answer had arrived; [`Client::asked_on`] tells.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Response> {
        self.asked_on = AskedOn::New;
        if let Some(Kept { connection, since }) = self.connection.take() {
            let idle = since.elapsed();
            let ended = match end_of(connection.get_ref()) {
                Some(end) => end,
                None => match self.attempt(connection, method, path, headers, body) {
                    Err(Failed { error, answered: false }) if let Some(end) = end_by(&error) => end,
                    result => {
                        self.asked_on = AskedOn::Kept;
                        return result.map_err(|failed| failed.error);
                    }
                },
            };
            self.asked_on = AskedOn::Another { end: ended, idle };
        }
        let connection = self.connect()?;
        self.attempt(connection, method, path, headers, body).map_err(|failed| failed.error)
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        Ok(BufReader::new(stream))
    }

    fn attempt(
        &mut self,
        mut connection: BufReader<TcpStream>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, Failed> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        if !self.cookies.is_empty() {
            let pairs: Vec<_> = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
            request += &format!("Cookie: {}\r\n", pairs.join("; "));
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        request += "\r\n";
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        connection.get_mut().write_all(&bytes)?;

        if connection.fill_buf()?.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let response =
            read_response(&mut connection, method == "HEAD").map_err(|error| Failed { error, answered: true })?;
        for (name, value) in &response.headers {
            if name == "set-cookie"
                && let Some((cookie, value)) = value.split(';').next().and_then(|pair| pair.split_once('='))
            {
                self.cookies.insert(cookie.trim().to_owned(), value.trim().to_owned());
            }
        }
        let close = response.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if !close {
            self.connection = Some(Kept { connection, since: Instant::now() });
        }
        Ok(response)
    }
}

/// A request without a whole answer.
struct Failed {
    error: io::Error,
    /// Whether some of the answer came.
    answered: bool,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { error, answered: false }
    }
}

/// Waits until a server answers a request with 200.
///
/// # Errors
/// When it does not in time.
pub fn wait_served(server: SocketAddr) -> anyhow::Result<Response> {
    crate::wait::until(&format!("{server} to serve"), || {
        let answer = Client::new(server).get("/healthz")?;
        anyhow::ensure!(answer.status == 200, "status {} {}", answer.status, answer.text().trim());
        Ok(Some(answer))
    })
}

/// How a connection has ended on which nothing is under way; `None` while it has not.
fn end_of(stream: &TcpStream) -> Option<End> {
    let socket = SockRef::from(stream);
    socket.set_nonblocking(true).ok()?;
    let peeked = stream.peek(&mut [0]);
    let back = socket.set_nonblocking(false);
    match (peeked, back) {
        (Ok(0), _) => Some(End::Closed),
        (Err(error), _) if error.kind() != io::ErrorKind::WouldBlock => Some(End::Reset),
        // Bytes that nobody asked for are taken for the answer, as they would be if they came a moment later.
        (Ok(_) | Err(_), Ok(())) => None,
        (Ok(_) | Err(_), Err(_)) => Some(End::Reset),
    }
}

/// How a connection ended by this error, on which a request had been sent, or a part of it. What was closed before it was reset, as
/// a server's kernel does that gets a request for a connection that is no more, is told as closed: the error is `EPIPE` then.
fn end_by(error: &io::Error) -> Option<End> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | BrokenPipe => Some(End::ClosedAfter),
        ConnectionReset | ConnectionAborted => Some(End::ResetAfter),
        _ => None,
    }
}

fn read_response(connection: &mut BufReader<TcpStream>, head_only: bool) -> io::Result<Response> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    loop {
        let line = read_line(connection)?;
        let status: u16 =
            line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| invalid("no status line"))?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(connection)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("header line without colon"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let find = |wanted: &str| headers.iter().find(|(n, _)| n == wanted).map(|(_, v)| v.clone());
        let mut body = Vec::new();
        if head_only || status == 204 || status == 304 || status == 101 {
        } else if find("transfer-encoding").is_some() {
            loop {
                let size = read_line(connection)?;
                let size = usize::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16)
                    .map_err(|_| invalid("chunk size"))?;
                let start = body.len();
                body.resize(start + size, 0);
                connection.read_exact(&mut body[start..])?;
                while !read_line(connection)?.is_empty() {}
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = find("content-length") {
            body = vec![0; length.parse().map_err(|_| invalid("content-length"))?];
            connection.read_exact(&mut body)?;
        } else {
            connection.read_to_end(&mut body)?;
        }
        return Ok(Response { status, headers, body });
    }
}

fn read_line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = Vec::new();
    connection.read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "head is not text"))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd};

    use super::*;

    /// What a server does with a kept connection on which it gave an answer.
    #[derive(Clone, Copy, PartialEq)]
    enum Does {
        Stays,
        Closes,
        Resets,
        ClosesAfterTheRequest,
        ResetsAfterTheRequest,
    }

    /// Lets a client ask twice, and says what the second request went on.
    fn second(does: Does) -> AskedOn {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let mut client = Client::new(listener.local_addr().expect("it is bound"));
        let (ended, has_ended) = std::sync::mpsc::channel();
        let server = std::thread::spawn(move || {
            let mut first = BufReader::new(listener.accept().expect("a client").0);
            answer(&mut first);
            let resets = matches!(does, Does::Resets | Does::ResetsAfterTheRequest);
            if matches!(does, Does::ClosesAfterTheRequest | Does::ResetsAfterTheRequest) {
                ended.send(()).expect("somebody waits");
                read_head(&mut first);
            }
            if resets {
                SockRef::from(first.get_ref()).set_linger(Some(Duration::ZERO)).expect("a socket");
            }
            if does == Does::Stays {
                ended.send(()).expect("somebody waits");
            } else {
                drop(first);
                let _ = ended.send(());
                first = BufReader::new(listener.accept().expect("the client again").0);
            }
            answer(&mut first);
        });
        assert_eq!(client.get("/").expect("an answer").status, 200);
        assert_eq!(client.asked_on(), AskedOn::New);
        has_ended.recv().expect("the server says so");
        if matches!(does, Does::Closes | Does::Resets) {
            wait_readable(&client.connection.as_ref().expect("it was kept").connection);
        }
        assert_eq!(client.get("/").expect("an answer").status, 200);
        server.join().expect("it did not panic");
        client.asked_on()
    }

    /// Waits until a read would not wait, without reading: that would take the error with it.
    fn wait_readable(connection: &BufReader<TcpStream>) {
        let mut asked = libc::pollfd { fd: connection.get_ref().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: poll(2) reads and writes the one record that it is told of, which outlives the call.
        assert_eq!(unsafe { libc::poll(&raw mut asked, 1, -1) }, 1);
    }

    fn read_head(connection: &mut BufReader<TcpStream>) {
        while !read_line(connection).expect("a head").is_empty() {}
    }

    fn answer(connection: &mut BufReader<TcpStream>) {
        read_head(connection);
        connection.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("the client is there");
    }

    #[test]
    fn what_became_of_a_kept_connection_is_told() {
        let ends = |does| match second(does) {
            AskedOn::Another { end, .. } => Some(end),
            AskedOn::Kept => None,
            AskedOn::New => panic!("a connection was kept"),
        };
        assert_eq!(ends(Does::Stays), None);
        assert_eq!(ends(Does::Closes), Some(End::Closed));
        assert_eq!(ends(Does::Resets), Some(End::Reset));
        assert_eq!(ends(Does::ClosesAfterTheRequest), Some(End::ClosedAfter));
        assert_eq!(ends(Does::ResetsAfterTheRequest), Some(End::ResetAfter));
    }
}
