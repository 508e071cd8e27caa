//! The chunked coding, both ways.
//!
//! Incoming chunks are taken apart and never passed on: outgoing ones are written anew, so that
//! nothing hides in an extension and a reader behind us sees only framing of our own.
//!
//! Not here: moving bytes ([`super::flow`]).

use std::ops::Range;

use super::{
    fault::Fault,
    field::{self, Known},
};

/// Longest line of a size with its extensions. Real ones have at most a signature of 100 bytes.
const SIZE_LINE_BYTES_MAX: usize = 512;
/// Extensions of one body together; the bound that makes endless extensions end.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Trailer section.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Sixteen digits hold any 64-bit size; one less keeps it from overflowing.
const SIZE_DIGITS_MAX: usize = 15;

/// Takes a chunked body apart.
#[derive(Debug, Default)]
pub struct ChunkDecoder {
    state: State,
    extension_bytes: usize,
    trailer_bytes: usize,
    trailers: Vec<u8>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Finished,
}

/// What one step over the input made of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// `consumed` bytes are done with, `data` of them are body.
    Progress {
        /// Bytes of the input that are done with.
        consumed: usize,
        /// Those of them that are body; may be empty.
        data: Range<usize>,
    },
    /// The input ends inside a line.
    NeedMore,
    /// The body is complete; the rest of the input belongs to the next message.
    Finished,
}

impl ChunkDecoder {
    /// Takes the next piece off `input`.
    ///
    /// # Errors
    /// The body is malformed or exceeds a bound; the connection cannot be used further.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, Fault> {
        match self.state {
            State::Size => {
                let Some(line) = line(input, SIZE_LINE_BYTES_MAX, Fault::ChunkSize)? else { return Ok(Step::NeedMore) };
                let size = self.size(line)?;
                self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                Ok(Step::Progress { consumed: line.len() + 2, data: 0..0 })
            }
            State::Data(left) => {
                if input.is_empty() {
                    return Ok(Step::NeedMore);
                }
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let left = left - taken as u64;
                self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                Ok(Step::Progress { consumed: taken, data: 0..taken })
            }
            State::DataEnd => match input {
                [b'\r', b'\n', ..] => {
                    self.state = State::Size;
                    Ok(Step::Progress { consumed: 2, data: 0..0 })
                }
                [] | [b'\r'] => Ok(Step::NeedMore),
                _ => Err(Fault::ChunkEnd),
            },
            State::Trailers => {
                let Some(line) = line(input, TRAILER_BYTES_MAX, Fault::Trailer)? else { return Ok(Step::NeedMore) };
                let consumed = line.len() + 2;
                if line.is_empty() {
                    self.state = State::Finished;
                } else {
                    self.trailer(&input[..consumed])?;
                }
                Ok(Step::Progress { consumed, data: 0..0 })
            }
            State::Finished => Ok(Step::Finished),
        }
    }

    /// Whether the body is complete.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// The trailer lines that may be passed on, each with its line end.
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    fn size(&mut self, line: &[u8]) -> Result<u64, Fault> {
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        if digits == 0 || digits > SIZE_DIGITS_MAX {
            return Err(Fault::ChunkSize);
        }
        let extension = &line[digits..];
        match extension.first() {
            None => {}
            Some(b';') => {
                self.extension_bytes += extension.len();
                if self.extension_bytes > EXTENSION_BYTES_MAX {
                    return Err(Fault::ChunkExtension);
                }
                field::check_text(extension).map_err(|_| Fault::ChunkExtension)?;
            }
            Some(_) => return Err(Fault::ChunkSize),
        }
        let digit = |b: &u8| u64::from((*b as char).to_digit(16).unwrap_or(0));
        Ok(line[..digits].iter().fold(0, |size, b| size << 4 | digit(b)))
    }

    fn trailer(&mut self, line: &[u8]) -> Result<(), Fault> {
        self.trailer_bytes += line.len();
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(Fault::Trailer);
        }
        let mut head = Vec::with_capacity(line.len() + 2);
        head.extend_from_slice(line);
        head.extend_from_slice(b"\r\n");
        let mut fields = Vec::with_capacity(1);
        field::parse_fields(&head, 0, 1, &mut fields).map_err(|_| Fault::Trailer)?;
        // Framing, routing and identity never come in a trailer (RFC 9110 section 6.5.1).
        if fields.iter().all(|f| f.known == Known::Other) {
            self.trailers.extend_from_slice(line);
        }
        Ok(())
    }
}

/// A line of `input` without its end, `None` while it is incomplete.
fn line(input: &[u8], max: usize, too_long: Fault) -> Result<Option<&[u8]>, Fault> {
    match memchr::memchr(b'\n', &input[..input.len().min(max)]) {
        Some(0) => Err(Fault::BareLf),
        Some(lf) if input[lf - 1] == b'\r' => Ok(Some(&input[..lf - 1])),
        Some(_) => Err(Fault::BareLf),
        None if input.len() >= max => Err(too_long),
        None => Ok(None),
    }
}

/// Appends `data` as one chunk. Nothing is written for no data, which would end the body.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let mut digits = [0u8; 16];
    let mut at = digits.len();
    let mut size = data.len();
    while size > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[size & 15];
        size >>= 4;
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a chunked body with `trailers`.
pub fn write_end(out: &mut Vec<u8>, trailers: &[u8]) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Body, trailers and what was left over.
    type Decoded = (Vec<u8>, Vec<u8>, Vec<u8>);

    /// Feeds `input` in pieces of `piece` bytes.
    fn decode(input: &[u8], piece: usize) -> Result<Decoded, Fault> {
        let (mut decoder, mut body, mut buffer) = (ChunkDecoder::default(), Vec::new(), Vec::new());
        let mut pieces = input.chunks(piece);
        loop {
            match decoder.step(&buffer)? {
                Step::Progress { consumed, data } => {
                    body.extend_from_slice(&buffer[data]);
                    buffer.drain(..consumed);
                }
                Step::NeedMore => match pieces.next() {
                    Some(more) => buffer.extend_from_slice(more),
                    None => panic!("incomplete"),
                },
                Step::Finished => {
                    buffer.extend(pieces.flatten());
                    return Ok((body, decoder.trailers().to_vec(), buffer));
                }
            }
        }
    }

    #[test]
    fn bodies_come_out_whole_in_any_pieces() {
        let input = b"5\r\nhello\r\n00A;x=\"y\"\r\n, world!!!\r\n0\r\nX-Sum: 1\r\nContent-Length: 4\r\n\r\nGET";
        for piece in 1..input.len() {
            let (body, trailers, rest) = decode(input, piece).unwrap();
            assert_eq!(body, b"hello, world!!!");
            assert_eq!(trailers, b"X-Sum: 1\r\n");
            assert_eq!(rest, b"GET");
        }
    }

    #[test]
    fn faults_of_chunks() {
        for (input, fault) in [
            ("\r\n", Fault::ChunkSize),
            ("0x5\r\nhello\r\n", Fault::ChunkSize),
            ("+5\r\nhello\r\n", Fault::ChunkSize),
            ("-1\r\n", Fault::ChunkSize),
            (" 5\r\nhello\r\n", Fault::ChunkSize),
            ("5 \r\nhello\r\n", Fault::ChunkSize),
            ("5 ;a\r\nhello\r\n", Fault::ChunkSize),
            ("5\nhello\r\n", Fault::BareLf),
            ("g\r\n", Fault::ChunkSize),
            ("ffffffffffffffff\r\n", Fault::ChunkSize),
            ("00000000000000000005\r\nhello\r\n", Fault::ChunkSize),
            ("5\r\nhelloX\r\n", Fault::ChunkEnd),
            ("5\r\nhello\n", Fault::ChunkEnd),
            ("5\r\nhello\rX", Fault::ChunkEnd),
            ("5;a\rb\r\nhello\r\n", Fault::ChunkExtension),
            ("5;a\0b\r\nhello\r\n", Fault::ChunkExtension),
            ("0\r\nbad line\r\n\r\n", Fault::Trailer),
            ("0\r\na: b\n\r\n", Fault::BareLf),
            ("0\r\n a: b\r\n\r\n", Fault::Trailer),
        ] {
            assert_eq!(decode(input.as_bytes(), 64).unwrap_err(), fault, "{input:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let long = format!("1;{}\r\nx\r\n", "e".repeat(1000));
        assert_eq!(decode(long.as_bytes(), 64).unwrap_err(), Fault::ChunkSize);
        let many = format!("1;{}\r\nx\r\n", "e".repeat(400)).repeat(100);
        assert_eq!(decode(many.as_bytes(), 64).unwrap_err(), Fault::ChunkExtension);
        let trailers = format!("0\r\n{}\r\n", "a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n".repeat(400));
        assert_eq!(decode(trailers.as_bytes(), 64).unwrap_err(), Fault::Trailer);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8), piece in 1usize..50) {
            let mut wire = Vec::new();
            for part in &parts {
                write_chunk(&mut wire, part);
            }
            write_end(&mut wire, b"");
            let (body, _, rest) = decode(&wire, piece).unwrap();
            prop_assert_eq!(body, parts.concat());
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn garbage_never_panics(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = ChunkDecoder::default();
            let mut rest = &input[..];
            while let Ok(Step::Progress { consumed, data }) = decoder.step(rest) {
                prop_assert!(data.end <= consumed);
                rest = &rest[consumed..];
            }
        }
    }
}
