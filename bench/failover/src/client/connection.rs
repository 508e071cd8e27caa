//! One non-blocking connection to the VIP and the request on it.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

const ANSWER_BYTES_MAX: usize = 8 << 10;

/// A connection. Closed without leaving a trace in the client's port table.
pub struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    written: usize,
    answer: Vec<u8>,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Waiting,
    Answered { status: u16, node: u16 },
}

impl Connection {
    /// Begins to connect, for one request.
    ///
    /// # Errors
    /// When the address cannot be reached at all.
    pub fn open(vip: SocketAddr, connection: &str) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(vip), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        // A reset at the end instead of a minute of TIME_WAIT: ports would run out.
        socket.set_linger(Some(Duration::ZERO))?;
        match socket.connect(&vip.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let request = format!("GET / HTTP/1.1\r\nHost: vip\r\nConnection: {connection}\r\n\r\n").into_bytes();
        Ok(Self { stream: socket.into(), request, written: 0, answer: Vec::with_capacity(512) })
    }

    /// Sends the request once more, after it was answered.
    pub fn ask_again(&mut self) {
        self.written = 0;
        self.answer.clear();
    }

    /// What to wait for.
    pub fn interest(&self) -> libc::pollfd {
        let events = if self.written < self.request.len() { libc::POLLOUT } else { libc::POLLIN };
        libc::pollfd { fd: self.stream.as_raw_fd(), events, revents: 0 }
    }

    /// Writes and reads what can be.
    ///
    /// # Errors
    /// When the connection could not be made or is broken.
    pub fn go_on(&mut self) -> io::Result<Progress> {
        while self.written < self.request.len() {
            match self.stream.write(&self.request[self.written..]) {
                Ok(count) => self.written += count,
                // Not connected is what a socket says that still waits for its SYN to be answered.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(Progress::Waiting);
                }
                Err(error) => return Err(error),
            }
        }
        let mut bytes = [0; 2048];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.answer.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Waiting),
                Err(error) => return Err(error),
            }
            if let Some((status, node)) = parse(&self.answer)? {
                return Ok(Progress::Answered { status, node });
            }
            if self.answer.len() > ANSWER_BYTES_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
        }
    }
}

/// Status and body (the node's number) of an answer, once it is whole.
fn parse(answer: &[u8]) -> io::Result<Option<(u16, u16)>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let invalid = || io::Error::from(ErrorKind::InvalidData);
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| invalid())?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(invalid)?;
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    let body = &answer[end + 4..];
    // An error's body is of no interest, whatever its length.
    if status == 200 && body.len() < length.ok_or_else(invalid)? {
        return Ok(None);
    }
    let node = std::str::from_utf8(body).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(Some((status, node)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_it_is_whole() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nvia: x\r\n\r\n12";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(parse(whole).unwrap(), Some((200, 12)));
        assert_eq!(parse(b"HTTP/1.1 503 No\r\n\r\nwhatever").unwrap(), Some((503, 0)));
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n1").is_err());
        assert!(parse(b"nonsense\r\n\r\n").is_err());
    }
}
