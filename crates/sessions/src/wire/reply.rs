//! Answers to bytes, as RESP2 or RESP3.

use ballast_core::session::Reply;

/// The version of the protocol that a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resp {
    /// What a connection begins with.
    #[default]
    Two,
    /// After `HELLO 3`.
    Three,
}

impl Resp {
    /// As `HELLO` shows it.
    pub const fn number(self) -> i64 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

/// Writes answers to the end of a buffer.
#[derive(Debug)]
pub struct Out<'a> {
    buf: &'a mut Vec<u8>,
    resp: Resp,
}

impl<'a> Out<'a> {
    /// Answers go to the end of `buf`.
    pub fn new(buf: &'a mut Vec<u8>, resp: Resp) -> Self {
        Self { buf, resp }
    }

    /// Where in the buffer the next answer goes.
    pub fn end(&self) -> usize {
        self.buf.len()
    }

    /// The version that is spoken from now on.
    pub fn speak(&mut self, resp: Resp) {
        self.resp = resp;
    }

    /// An answer of the keyspace.
    pub fn reply(&mut self, reply: &Reply) {
        match reply {
            Reply::Null => self.null(),
            Reply::NullArray => self.null_array(),
            Reply::Simple(text) => self.simple(text),
            Reply::Integer(value) => self.integer(*value),
            Reply::Bulk(value) => self.bulk(value),
            Reply::Array(items) => {
                self.array(items.len());
                items.iter().for_each(|item| self.reply(item));
            }
            Reply::Map(pairs) => {
                self.map(pairs.len());
                for (key, value) in pairs {
                    self.reply(key);
                    self.reply(value);
                }
            }
            Reply::Pairs(pairs) => {
                let flat = self.resp == Resp::Two;
                self.array(if flat { pairs.len() * 2 } else { pairs.len() });
                for (key, value) in pairs {
                    if !flat {
                        self.array(2);
                    }
                    self.reply(key);
                    self.reply(value);
                }
            }
            Reply::Set(items) => {
                self.set(items.len());
                items.iter().for_each(|item| self.reply(item));
            }
            Reply::Error(text) => self.error(text),
        }
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.buf.extend_from_slice(b"+OK\r\n");
    }

    /// A short word.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error, with its code. Line ends in it (of what the client sent) become spaces, as in Redis.
    pub fn error(&mut self, text: &[u8]) {
        self.buf.push(b'-');
        let start = self.buf.len();
        self.buf.extend_from_slice(text);
        for byte in &mut self.buf[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.buf.extend_from_slice(b"\r\n");
    }

    /// A number.
    pub fn integer(&mut self, value: i64) {
        self.buf.push(b':');
        if value < 0 {
            self.buf.push(b'-');
        }
        self.decimal(value.unsigned_abs());
        self.buf.extend_from_slice(b"\r\n");
    }

    /// A value.
    pub fn bulk(&mut self, value: &[u8]) {
        self.head(b'$', value.len());
        self.buf.extend_from_slice(value);
        self.buf.extend_from_slice(b"\r\n");
    }

    /// A value of so many bytes: they follow, and the end of a line after them.
    pub fn bulk_of(&mut self, length: usize) {
        self.head(b'$', length);
    }

    /// Text for people.
    pub fn verbatim(&mut self, text: &[u8]) {
        match self.resp {
            Resp::Two => self.bulk(text),
            Resp::Three => {
                self.head(b'=', text.len() + 4);
                self.buf.extend_from_slice(b"txt:");
                self.buf.extend_from_slice(text);
                self.buf.extend_from_slice(b"\r\n");
            }
        }
    }

    /// No value.
    pub fn null(&mut self) {
        let text: &[u8] = match self.resp {
            Resp::Two => b"$-1\r\n",
            Resp::Three => b"_\r\n",
        };
        self.buf.extend_from_slice(text);
    }

    /// No array.
    pub fn null_array(&mut self) {
        let text: &[u8] = match self.resp {
            Resp::Two => b"*-1\r\n",
            Resp::Three => b"_\r\n",
        };
        self.buf.extend_from_slice(text);
    }

    /// `items` answers follow.
    pub fn array(&mut self, items: usize) {
        self.head(b'*', items);
    }

    /// `pairs` of a key and a value follow.
    pub fn map(&mut self, pairs: usize) {
        match self.resp {
            Resp::Two => self.head(b'*', pairs * 2),
            Resp::Three => self.head(b'%', pairs),
        }
    }

    /// `items` members of a set follow.
    pub fn set(&mut self, items: usize) {
        match self.resp {
            Resp::Two => self.head(b'*', items),
            Resp::Three => self.head(b'~', items),
        }
    }

    /// `items` parts of something that was not asked for follow.
    pub fn push(&mut self, items: usize) {
        match self.resp {
            Resp::Two => self.head(b'*', items),
            Resp::Three => self.head(b'>', items),
        }
    }

    fn line(&mut self, mark: u8, text: &[u8]) {
        self.buf.push(mark);
        self.buf.extend_from_slice(text);
        self.buf.extend_from_slice(b"\r\n");
    }

    fn head(&mut self, mark: u8, length: usize) {
        self.buf.push(mark);
        self.decimal(length as u64);
        self.buf.extend_from_slice(b"\r\n");
    }

    fn decimal(&mut self, mut value: u64) {
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.buf.extend_from_slice(&digits[at..]);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use redis_protocol::{
        resp2::{decode::decode as decode2, types::OwnedFrame as Frame2},
        resp3::{decode::complete::decode as decode3, types::OwnedFrame as Frame3},
    };

    use super::*;

    fn written(reply: &Reply, resp: Resp) -> Vec<u8> {
        let mut buf = Vec::new();
        Out::new(&mut buf, resp).reply(reply);
        buf
    }

    #[test]
    fn each_kind_in_both_versions() {
        let check = |reply: Reply, two: &str, three: &str| {
            assert_eq!(String::from_utf8(written(&reply, Resp::Two)).unwrap(), two);
            assert_eq!(String::from_utf8(written(&reply, Resp::Three)).unwrap(), three);
        };
        let bulk = |text: &'static str| Reply::Bulk(Bytes::from_static(text.as_bytes()));
        check(Reply::OK, "+OK\r\n", "+OK\r\n");
        check(Reply::Null, "$-1\r\n", "_\r\n");
        check(Reply::NullArray, "*-1\r\n", "_\r\n");
        check(Reply::Integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n");
        check(bulk(""), "$0\r\n\r\n", "$0\r\n\r\n");
        check(Reply::error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n");
        check(Reply::Map(vec![(bulk("a"), Reply::Integer(1))]), "*2\r\n$1\r\na\r\n:1\r\n", "%1\r\n$1\r\na\r\n:1\r\n");
        check(Reply::Set(vec![bulk("a")]), "*1\r\n$1\r\na\r\n", "~1\r\n$1\r\na\r\n");
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let leaf = prop_oneof![
            Just(Reply::Null),
            Just(Reply::OK),
            any::<i64>().prop_map(Reply::Integer),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(|v| Reply::Bulk(v.into())),
            "[A-Z]{1,5} [ -~]{0,20}".prop_map(|text| Reply::Error(text.into())),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| prop::collection::vec(inner, 0..5).prop_map(Reply::Array))
    }

    fn frame2(reply: &Reply) -> Frame2 {
        match reply {
            Reply::Null | Reply::NullArray => Frame2::Null,
            Reply::Simple(text) => Frame2::SimpleString(text.as_bytes().to_vec()),
            Reply::Integer(value) => Frame2::Integer(*value),
            Reply::Bulk(value) => Frame2::BulkString(value.to_vec()),
            Reply::Error(text) => Frame2::Error(String::from_utf8(text.to_vec()).unwrap()),
            Reply::Array(items) => Frame2::Array(items.iter().map(frame2).collect()),
            other => unreachable!("not generated: {other:?}"),
        }
    }

    proptest! {
        #[test]
        fn the_other_opinion_reads_what_was_written(reply in replies()) {
            let bytes = written(&reply, Resp::Two);
            prop_assert_eq!(decode2(&bytes).unwrap(), Some((frame2(&reply), bytes.len())));
            let bytes = written(&reply, Resp::Three);
            let (frame, length): (Frame3, usize) = decode3(&bytes).unwrap().unwrap();
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!(matches!(frame, Frame3::Null), matches!(reply, Reply::Null));
        }
    }
}
