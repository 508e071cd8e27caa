//! A small blocking HTTP/1.1 client that remembers cookies and tells exactly what went wrong.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// An HTTP client with one connection and a cookie jar.
pub struct Client {
    address: SocketAddr,
    host: String,
    timeout: Duration,
    connection: Option<BufReader<TcpStream>>,
    cookies: BTreeMap<String, String>,
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

    /// Sends a request, on the open connection if there is one. A kept connection that the server
    /// closed in the meantime is replaced once, if no byte of the answer had arrived.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Response> {
        let reused = self.connection.is_some();
        match self.attempt(method, path, headers, body) {
            Err(Failed { error, answered: false }) if reused && is_stale(&error) => {
                self.attempt(method, path, headers, body).map_err(|failed| failed.error)
            }
            result => result.map_err(|failed| failed.error),
        }
    }

    fn attempt(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response, Failed> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(self.timeout))?;
                stream.set_write_timeout(Some(self.timeout))?;
                BufReader::new(stream)
            }
        };
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
            self.connection = Some(connection);
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

/// Whether an error means that a kept connection was already gone.
fn is_stale(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | BrokenPipe | ConnectionReset | ConnectionAborted)
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
