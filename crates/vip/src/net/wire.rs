//! The byte layout of rtnetlink: messages and their attributes.
//!
//! Written here because this crate needs six message kinds and a handful of attributes, and because
//! what it must never do is fail on an attribute that a newer kernel adds: unknown ones are skipped.

/// Header of every message: length, kind, flags, sequence, sender.
const HEADER_BYTES: usize = 16;

/// Messages and attributes begin at multiples of this.
const ALIGN: usize = 4;

/// The kind's upper bits say nested and byte order.
const ATTRIBUTE_KIND_MASK: u16 = 0x3fff;

/// A message to the kernel.
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A message of `kind` that carries the kind's fixed header.
    pub fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        pad(&mut bytes);
        Self { bytes }
    }

    /// With one more attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, payload: &[u8]) -> Self {
        let length = (ALIGN + payload.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        pad(&mut self.bytes);
        self
    }

    /// The bytes to send under this sequence number.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
}

/// A message from the kernel.
pub(crate) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind a fixed header of this size.
    pub fn attributes(&self, fixed_bytes: usize) -> Attributes<'a> {
        attributes(self.payload.get(fixed_bytes.next_multiple_of(ALIGN)..).unwrap_or(&[]))
    }
}

/// The messages in what one read returned. Ends at the first that is not whole.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = read_u32(bytes, 0)? as usize;
        let payload = bytes.get(HEADER_BYTES..length)?;
        let message =
            Message { kind: read_u16(bytes, 4)?, flags: read_u16(bytes, 6)?, sequence: read_u32(bytes, 8)?, payload };
        bytes = bytes.get(length.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        Some(message)
    })
}

/// Attributes in a row.
pub(crate) struct Attributes<'a>(&'a [u8]);

/// The attributes in `bytes`. Ends at the first that is not whole.
pub(crate) fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = read_u16(self.0, 0)? as usize;
        let kind = read_u16(self.0, 2)? & ATTRIBUTE_KIND_MASK;
        let payload = self.0.get(ALIGN..length)?;
        self.0 = self.0.get(length.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        Some((kind, payload))
    }
}

pub(crate) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut bytes = Request::new(20, 0x305, &[1, 2, 3, 4, 5]).with(3, b"eth0\0").with(1, &[9; 6]).finish(7);
        bytes.extend(Request::new(3, 2, &[]).finish(8));
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].flags, read[0].sequence), (20, 0x305, 7));
        let attributes: Vec<_> = read[0].attributes(5).collect();
        assert_eq!(attributes, vec![(3, &b"eth0\0"[..]), (1, &[9; 6][..])]);
        assert_eq!((read[1].kind, read[1].sequence, read[1].payload.len()), (3, 8, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                for (_, payload) in message.attributes(8) {
                    attributes(payload).count();
                }
            }
        }
    }
}
