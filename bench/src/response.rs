//! Reads the answers to requests, one after the other, from whatever pieces the socket gives.
//!
//! Only bodies with a Content-Length are understood, because only those are asked for: the
//! backend sends one, and a proxy that turned it into something else should be noticed.

/// What a piece brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The answer goes on.
    More,
    /// The answer is complete.
    Done,
}

/// The bytes are not the answer that was asked for; says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The answer being read.
#[derive(Default)]
pub struct ResponseReader {
    head: Vec<u8>,
    left: Option<u64>,
    status: u16,
    close: bool,
}

impl ResponseReader {
    /// Begins the next answer.
    pub fn reset(&mut self) {
        self.head.clear();
        self.left = None;
    }

    /// Status of the answer, once its head has been read.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The server will close the connection after this answer.
    pub fn closes(&self) -> bool {
        self.close
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, Malformed> {
        if let Some(left) = self.left {
            return self.body(left, bytes.len());
        }
        if self.head.is_empty() {
            return match self.parse(bytes)? {
                Some((length, body)) => self.body(body, bytes.len() - length),
                None => {
                    self.head.extend_from_slice(bytes);
                    Ok(Progress::More)
                }
            };
        }
        let mut head = std::mem::take(&mut self.head);
        head.extend_from_slice(bytes);
        let parsed = self.parse(&head)?;
        let length = head.len();
        self.head = head;
        match parsed {
            Some((end, body)) => self.body(body, length - end),
            None => Ok(Progress::More),
        }
    }

    fn body(&mut self, left: u64, came: usize) -> Result<Progress, Malformed> {
        let left = left.checked_sub(came as u64).ok_or(Malformed("bytes after the answer"))?;
        self.left = Some(left);
        Ok(if left == 0 { Progress::Done } else { Progress::More })
    }

    /// Length of the head and of the body that follows it, once the head is whole.
    fn parse(&mut self, bytes: &[u8]) -> Result<Option<(usize, u64)>, Malformed> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let Ok(status) = response.parse(bytes) else { return Err(Malformed("not an HTTP/1.1 head")) };
        let httparse::Status::Complete(end) = status else { return Ok(None) };
        self.status = response.code.unwrap_or(0);
        self.close = false;
        let mut length = None;
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                length = std::str::from_utf8(header.value).ok().and_then(|v| v.trim().parse().ok());
            } else if header.name.eq_ignore_ascii_case("connection") {
                self.close = header.value.eq_ignore_ascii_case(b"close");
            }
        }
        match length {
            Some(length) => Ok(Some((end, length))),
            None => Err(Malformed("no Content-Length")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nx-backend: web1\r\nContent-Length: 5\r\n\r\nhello";

    /// Feeds `bytes` in pieces of `size`; the last word counts.
    fn check(bytes: &[u8], size: usize) -> Result<Progress, Malformed> {
        let mut reader = ResponseReader::default();
        let mut last = Ok(Progress::More);
        for piece in bytes.chunks(size) {
            last = reader.feed(piece);
            last?;
        }
        last
    }

    #[test]
    fn an_answer_is_complete_however_it_is_cut() {
        for size in 1..=ANSWER.len() {
            assert_eq!(check(ANSWER, size), Ok(Progress::Done), "pieces of {size}");
            assert_eq!(check(&ANSWER[..ANSWER.len() - 1], size), Ok(Progress::More), "pieces of {size}");
        }
    }

    #[test]
    fn a_reader_is_used_again_and_sees_the_end_of_keep_alive() {
        let mut reader = ResponseReader::default();
        assert_eq!(reader.feed(ANSWER), Ok(Progress::Done));
        assert!(!reader.closes());
        reader.reset();
        assert_eq!(
            reader.feed(b"HTTP/1.1 503 No\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n"),
            Ok(Progress::Done)
        );
        assert_eq!(reader.status(), 503);
        assert!(reader.closes());
    }

    #[test]
    fn what_was_not_asked_for_is_noticed() {
        assert!(check(b"SSH-2.0-x\r\n\r\n", 64).is_err());
        assert!(check(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 64).is_err());
        assert!(check(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy", 64).is_err());
    }
}
