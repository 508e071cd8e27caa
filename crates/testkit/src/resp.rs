//! A client of the session store that says what it sees: one connection, one command at a time, RESP2.
//!
//! For tests and for the chaos suite, where a client that reconnects, retries or pools by itself would hide what they
//! are about.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No value.
    Null,
    /// A word: `OK`.
    Simple(String),
    /// A number.
    Integer(i64),
    /// A value.
    Bulk(Vec<u8>),
    /// Several answers.
    Array(Vec<Answer>),
    /// What was refused and why, with its code: `CLUSTERDOWN ...`.
    Error(String),
}

impl Answer {
    /// A value as text.
    pub fn text(text: &str) -> Self {
        Self::Bulk(text.as_bytes().to_vec())
    }

    /// `OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Simple(word) if word == "OK")
    }
}

/// A connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects; every wait on it ends after `patience`.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        Self::open_within(patience, address, patience)
    }

    /// As [`Connection::open`], and gives up to connect after a time of its own.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_within(connect: Duration, address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, connect)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends one command and waits for its answer. After an error the connection is of no use, and whether the command
    /// was carried out is not known.
    ///
    /// # Errors
    /// The connection ended, nothing came in time, or what came is not RESP.
    pub fn call(&mut self, words: &[&str]) -> io::Result<Answer> {
        self.send(&[words])?;
        self.answer()
    }

    /// Sends commands in one piece, to be answered in their order.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn send(&mut self, commands: &[&[&str]]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for words in commands {
            write!(bytes, "*{}\r\n", words.len())?;
            for word in *words {
                write!(bytes, "${}\r\n{word}\r\n", word.len())?;
            }
        }
        self.stream.get_mut().write_all(&bytes)
    }

    /// Takes in the next answer.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "not an answer of RESP2");
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.strip_suffix(b"\r\n").ok_or_else(damaged)?;
        let (kind, rest) = line.split_first().ok_or_else(damaged)?;
        let text = || String::from_utf8_lossy(rest).into_owned();
        let number = || text().parse::<i64>().map_err(|_| damaged());
        Ok(match kind {
            b'+' => Answer::Simple(text()),
            b'-' => Answer::Error(text()),
            b':' => Answer::Integer(number()?),
            b'$' => match usize::try_from(number()?) {
                Err(_) => Answer::Null,
                Ok(length) => {
                    let mut value = vec![0; length + 2];
                    self.stream.read_exact(&mut value)?;
                    value.truncate(length);
                    Answer::Bulk(value)
                }
            },
            b'*' => match usize::try_from(number()?) {
                Err(_) => Answer::Null,
                Ok(count) => Answer::Array((0..count).map(|_| self.answer()).collect::<io::Result<_>>()?),
            },
            _ => return Err(damaged()),
        })
    }
}
