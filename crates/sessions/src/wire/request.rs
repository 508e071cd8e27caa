//! Bytes to requests: an array of bulk strings, or a line.
//!
//! The position up to which bytes were looked at is kept, so that a request that arrives in many pieces is looked at once.
//! The words of a request share its bytes with the read buffer; nothing is copied but inline requests.

use std::ops::Range;

use ballast_core::session::parse_integer;
use bytes::{Bytes, BytesMut};

use super::inline;

/// Longest line of an inline request or a length, as in Redis (`PROTO_INLINE_MAX_SIZE`).
const LINE_MAX: usize = 64 * 1024;

/// Words that room is kept for between requests. Arbitrary: some kilobytes.
const WORDS_KEPT: usize = 256;

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of one request.
    pub request_max: usize,
    /// Words of one request.
    pub arguments_max: usize,
    /// The client has not said who it is: only what it takes to do so.
    pub stranger: bool,
}

impl Bounds {
    /// Words of one request of a client that is not known yet, as in Redis.
    const STRANGER_ARGUMENTS: usize = 10;
    /// Bytes of one word of it, as in Redis.
    const STRANGER_BULK: usize = 16 * 1024;
}

/// The bytes are no request. The text is Redis', except for bounds that Redis does not have. The connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// `*` without a number, or with too high a one.
    #[error("Protocol error: invalid multibulk length")]
    ArrayLength,
    /// `$` without a number, or with too high a one.
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    /// More words than a request may have.
    #[error("Protocol error: a request may have {0} words at most (sessions.limits.arguments_max)")]
    Words(usize),
    /// An array of something else than bulk strings.
    #[error("Protocol error: expected '$', got '{}'", char::from(*.0))]
    NotBulk(u8),
    /// No end of line where an array's length should end.
    #[error("Protocol error: too big mbulk count string")]
    ArrayLine,
    /// No end of line where a bulk string's length should end.
    #[error("Protocol error: too big bulk count string")]
    BulkLine,
    /// No end of line.
    #[error("Protocol error: too big inline request")]
    InlineLine,
    /// A quote that is not closed.
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
    /// Many words before the client has said who it is.
    #[error("Protocol error: unauthenticated multibulk length")]
    StrangerArray,
    /// A long word before the client has said who it is.
    #[error("Protocol error: unauthenticated bulk length")]
    StrangerBulk,
    /// More bytes than a request may have.
    #[error("Protocol error: a request may have {0} bytes (sessions.limits.request_max)")]
    RequestSize(usize),
}

/// Takes requests out of a read buffer.
#[derive(Debug, Default)]
pub struct Requests {
    /// Bytes of the buffer that were looked at. They belong to the request that is being read.
    at: usize,
    /// Words to come; zero between requests.
    left: usize,
    /// Length of the word that is being read, once it is known.
    bulk: Option<usize>,
    words: Vec<Range<usize>>,
}

impl Requests {
    /// Puts the words of the next request into `argv` and takes its bytes from `buf`. False if more bytes are needed.
    /// Requests without words are passed over, as in Redis.
    ///
    /// # Errors
    /// [`ProtocolError`]; what follows in `buf` cannot be understood.
    pub fn next(&mut self, buf: &mut BytesMut, bounds: &Bounds, argv: &mut Vec<Bytes>) -> Result<bool, ProtocolError> {
        argv.clear();
        loop {
            if self.left == 0 {
                match buf.first() {
                    None => return Ok(false),
                    Some(b'*') => {
                        let Some(length) = self.line(buf, ProtocolError::ArrayLine)? else { return Ok(false) };
                        let length = parse_integer(&buf[1..length]).ok_or(ProtocolError::ArrayLength)?;
                        if length > i64::from(i32::MAX) {
                            return Err(ProtocolError::ArrayLength);
                        }
                        if length > i64::try_from(bounds.arguments_max).unwrap_or(i64::MAX) {
                            return Err(ProtocolError::Words(bounds.arguments_max));
                        }
                        let Some(length) = usize::try_from(length).ok().filter(|length| *length > 0) else {
                            self.pass_over(buf);
                            continue;
                        };
                        if bounds.stranger && length > Bounds::STRANGER_ARGUMENTS {
                            return Err(ProtocolError::StrangerArray);
                        }
                        self.left = length;
                    }
                    Some(_) => {
                        let Some(end) = self.inline_end(buf)? else { return Ok(false) };
                        let words = inline::split(&buf[..end]).ok_or(ProtocolError::Quotes)?;
                        self.pass_over(buf);
                        if words.is_empty() {
                            continue;
                        }
                        argv.extend(words);
                        return Ok(true);
                    }
                }
            }
            if !self.array(buf, bounds)? {
                return Ok(false);
            }
            let request = buf.split_to(self.at).freeze();
            argv.extend(self.words.drain(..).map(|word| request.slice(word)));
            if self.words.capacity() > WORDS_KEPT {
                self.words = Vec::new();
            }
            self.at = 0;
            return Ok(true);
        }
    }

    /// Bytes that it takes for itself.
    pub fn takes(&self) -> usize {
        self.words.capacity() * size_of::<Range<usize>>()
    }

    /// Whether a request has begun that is not complete.
    pub fn is_amid(&self, buf: &BytesMut) -> bool {
        self.left != 0 || !buf.is_empty()
    }

    /// Reads the words that are to come. False if more bytes are needed.
    fn array(&mut self, buf: &mut BytesMut, bounds: &Bounds) -> Result<bool, ProtocolError> {
        while self.left != 0 {
            let length = match self.bulk {
                Some(length) => length,
                None => {
                    let start = self.at;
                    match buf.get(start) {
                        None => return Ok(false),
                        Some(b'$') => {}
                        Some(other) => return Err(ProtocolError::NotBulk(*other)),
                    }
                    let Some(end) = self.line(buf, ProtocolError::BulkLine)? else { return Ok(false) };
                    let length = parse_integer(&buf[start + 1..end]).and_then(|length| usize::try_from(length).ok());
                    let length = length.filter(|length| *length <= bounds.request_max);
                    let length = length.ok_or(ProtocolError::BulkLength)?;
                    if bounds.stranger && length > Bounds::STRANGER_BULK {
                        return Err(ProtocolError::StrangerBulk);
                    }
                    if self.at.saturating_add(length) > bounds.request_max.saturating_add(LINE_MAX) {
                        return Err(ProtocolError::RequestSize(bounds.request_max));
                    }
                    self.bulk = Some(length);
                    length
                }
            };
            // Redis does not look at the two bytes after a bulk string either.
            if buf.len() - self.at < length + 2 {
                return Ok(false);
            }
            self.words.push(self.at..self.at + length);
            self.at += length + 2;
            self.bulk = None;
            self.left -= 1;
        }
        Ok(true)
    }

    /// The end of the line that starts at `self.at`, which is moved past it.
    fn line(&mut self, buf: &[u8], too_long: ProtocolError) -> Result<Option<usize>, ProtocolError> {
        let rest = &buf[self.at..];
        match memchr::memchr(b'\r', &rest[..rest.len().min(LINE_MAX)]) {
            Some(end) if end + 1 < rest.len() => {
                let end = self.at + end;
                self.at = end + 2;
                Ok(Some(end))
            }
            Some(_) => Ok(None),
            None if rest.len() >= LINE_MAX => Err(too_long),
            None => Ok(None),
        }
    }

    /// The end of an inline request, without its line end; `self.at` is moved past it.
    fn inline_end(&mut self, buf: &[u8]) -> Result<Option<usize>, ProtocolError> {
        match memchr::memchr(b'\n', buf) {
            Some(end) if end <= LINE_MAX => {
                self.at = end + 1;
                Ok(Some(if end > 0 && buf[end - 1] == b'\r' { end - 1 } else { end }))
            }
            None if buf.len() <= LINE_MAX => Ok(None),
            Some(_) | None => Err(ProtocolError::InlineLine),
        }
    }

    fn pass_over(&mut self, buf: &mut BytesMut) {
        let _ = buf.split_to(self.at);
        self.at = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { request_max: 1 << 20, arguments_max: 1024, stranger: false };

    /// Requests that come of `bytes` when they arrive in pieces of `piece` bytes.
    fn read(bytes: &[u8], piece: usize, bounds: Bounds) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
        let (mut requests, mut buf, mut all, mut argv) = (Requests::default(), BytesMut::new(), Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            buf.extend_from_slice(piece);
            loop {
                match requests.next(&mut buf, &bounds, &mut argv) {
                    Ok(true) => all.push(argv.clone()),
                    Ok(false) => break,
                    Err(error) => return (all, Some(error)),
                }
            }
        }
        (all, None)
    }

    fn check(bytes: &[u8], requests: &[&[&str]], error: Option<ProtocolError>) {
        let want: Vec<Vec<Bytes>> =
            requests.iter().map(|words| words.iter().map(|w| Bytes::copy_from_slice(w.as_bytes())).collect()).collect();
        // A byte at a time takes the square of the length of a line.
        let pieces: &[usize] = if bytes.len() > 1000 { &[4099] } else { &[1, 2, 3, 7] };
        for piece in pieces.iter().copied().chain([bytes.len().max(1)]) {
            assert_eq!(read(bytes, piece, BOUNDS), (want.clone(), error.clone()), "{bytes:?} by {piece}");
        }
    }

    #[test]
    fn requests_whole_and_in_pieces() {
        check(b"*1\r\n$4\r\nPING\r\n", &[&["PING"]], None);
        check(b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n", &[&["GET", ""], &["PING"]], None);
        check(b"PING\r\nGET \"a b\"\n\r\n", &[&["PING"], &["GET", "a b"]], None);
        check(b"*0\r\n*-1\r\n*-5\r\nPING\r\n", &[&["PING"]], None);
        check(b"*2\r\n$3\r\nGET\r\n$5\r\nab", &[], None);
    }

    #[test]
    fn what_is_no_request_is_refused_before_it_costs_anything() {
        use ProtocolError as P;
        check(b"*1\r\n$2147483648\r\n", &[], Some(P::BulkLength));
        check(b"*1\r\n$-1\r\n", &[], Some(P::BulkLength));
        check(b"*1\r\n$x\r\n", &[], Some(P::BulkLength));
        check(b"*1\r\n$04\r\nPING\r\n", &[], Some(P::BulkLength));
        check(b"*1000000\r\n", &[], Some(P::Words(1024)));
        check(b"*2147483648\r\n", &[], Some(P::ArrayLength));
        check(b"*99999999999999999999\r\n", &[], Some(P::ArrayLength));
        check(b"*x\r\n", &[], Some(P::ArrayLength));
        check(b"*1\r\n:1\r\n", &[], Some(P::NotBulk(b':')));
        check(b"*1\r\n*1\r\n$4\r\nPING\r\n", &[], Some(P::NotBulk(b'*')));
        check(b"GET 'a\r\n", &[], Some(P::Quotes));
        check(&[b'a'; LINE_MAX + 1], &[], Some(P::InlineLine));
        check(&[b'*'; LINE_MAX], &[], Some(P::ArrayLine));
        check(&[b"*1\r\n".to_vec(), vec![b'$'; LINE_MAX]].concat(), &[], Some(P::BulkLine));
        let half = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1048577\r\n";
        check(half, &[], Some(P::BulkLength));
    }

    #[test]
    fn a_stranger_may_say_little() {
        let bounds = Bounds { stranger: true, ..BOUNDS };
        assert_eq!(read(b"*11\r\n", 64, bounds).1, Some(ProtocolError::StrangerArray));
        assert_eq!(read(b"*2\r\n$16385\r\n", 64, bounds).1, Some(ProtocolError::StrangerBulk));
        assert_eq!(read(b"*1\r\n$4\r\nPING\r\n", 64, bounds).0.len(), 1);
    }

    #[test]
    fn many_words_are_bounded_by_the_size_of_a_request() {
        let bounds = Bounds { request_max: 1000, arguments_max: 1 << 20, stranger: false };
        let mut bytes = b"*100000\r\n".to_vec();
        bytes.extend(b"$1\r\na\r\n".repeat(100_000));
        assert_eq!(read(&bytes, 4096, bounds).1, Some(ProtocolError::RequestSize(1000)));
    }

    #[test]
    fn many_words_take_no_memory_once_they_are_read() {
        let bounds = Bounds { request_max: 1 << 20, arguments_max: 1 << 20, stranger: false };
        let (mut requests, mut argv) = (Requests::default(), Vec::new());
        let mut buf = BytesMut::from(&b"*100000\r\n"[..]);
        buf.extend(b"$0\r\n\r\n".repeat(99_999));
        assert_eq!(requests.next(&mut buf, &bounds, &mut argv), Ok(false));
        assert!(requests.takes() >= 99_999 * size_of::<Range<usize>>(), "what has arrived is counted");
        buf.extend(b"$0\r\n\r\n");
        assert_eq!(requests.next(&mut buf, &bounds, &mut argv), Ok(true));
        assert_eq!(argv.len(), 100_000);
        assert!(requests.takes() <= WORDS_KEPT * size_of::<Range<usize>>());
    }

    fn bulk(words: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n", word.len()).bytes());
            bytes.extend(word);
            bytes.extend(b"\r\n");
        }
        bytes
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 0..6),
            piece in 1_usize..64,
        ) {
            let bytes: Vec<u8> = requests.iter().flat_map(|words| bulk(words)).collect();
            let (got, error) = read(&bytes, piece, BOUNDS);
            prop_assert_eq!(error, None);
            prop_assert_eq!(got, requests.into_iter().map(|r| r.into_iter().map(Bytes::from).collect::<Vec<_>>()).collect::<Vec<_>>());
        }

        #[test]
        fn the_other_opinion_agrees(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6)) {
            use redis_protocol::resp2::{decode::decode, types::OwnedFrame};
            let bytes = bulk(&words);
            let (frame, length) = decode(&bytes).unwrap().unwrap();
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!(frame, OwnedFrame::Array(words.into_iter().map(OwnedFrame::BulkString).collect()));
        }

        #[test]
        fn pieces_make_no_difference_whatever_the_bytes(
            bytes in prop::collection::vec(
                prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', Just(b'"'), any::<u8>()], 0..200),
            piece in 1_usize..32,
        ) {
            let whole = read(&bytes, bytes.len().max(1), BOUNDS);
            prop_assert_eq!(read(&bytes, piece, BOUNDS), whole);
        }
    }
}
