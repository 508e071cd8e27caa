//! The bytes of a request, with a place for a key.

use super::{Mode, Options};

/// Hexadecimal digits of a key: eight of its space, eight of its number.
const KEY_LENGTH: usize = 16;

/// A request that is written many times, with another key each time.
pub struct Request {
    bytes: Vec<u8>,
    /// Where the key is, if there is one.
    key_at: Option<usize>,
    space: u32,
    keys: u32,
    next: u32,
}

impl Request {
    /// The request that `options` describe.
    pub fn new(options: &Options) -> Self {
        let mut text = format!(
            "GET {} HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: ballast-bench\r\nAccept: */*\r\n",
            options.path
        );
        if options.mode == Mode::NewConnection {
            text += "Connection: close\r\n";
        }
        let mut key_at = None;
        if let Some(name) = &options.key_header {
            text += &format!("{name}: ");
            key_at = Some(text.len());
            text += &"0".repeat(KEY_LENGTH);
            text += "\r\n";
        }
        text += "\r\n";
        Self { bytes: text.into_bytes(), key_at, space: options.key_space, keys: options.keys, next: 0 }
    }

    /// Writes the next request to `to`, in place of what it holds.
    pub fn write(&mut self, to: &mut Vec<u8>) {
        if let Some(at) = self.key_at {
            let key = (u64::from(self.space) << 32) | u64::from(self.next);
            for (place, byte) in self.bytes[at..at + KEY_LENGTH].iter_mut().enumerate() {
                let digit = (key >> (4 * (KEY_LENGTH - 1 - place))) & 0xf;
                *byte = b"0123456789abcdef"[digit as usize];
            }
            self.next = self.next.wrapping_add(1);
            if self.keys > 0 {
                self.next %= self.keys;
            }
        }
        to.clear();
        to.extend_from_slice(&self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn check(arguments: &[&str], count: usize) -> Vec<String> {
        let line = ["x", "--address", "127.0.0.1:1"].into_iter().chain(arguments.iter().copied());
        let mut request = Request::new(&Line::parse_from(line).options);
        let mut bytes = Vec::new();
        (0..count)
            .map(|_| {
                request.write(&mut bytes);
                String::from_utf8(bytes.clone()).unwrap()
            })
            .collect()
    }

    #[test]
    fn each_request_has_its_own_key() {
        let all = check(&["--key-header", "X-Client", "--key-space", "10"], 3);
        assert!(all[0].ends_with("X-Client: 0000000a00000000\r\n\r\n"), "{}", all[0]);
        assert!(all[2].ends_with("X-Client: 0000000a00000002\r\n\r\n"), "{}", all[2]);
    }

    #[test]
    fn keys_come_round_again() {
        let all = check(&["--key-header", "X-Client", "--keys", "2"], 3);
        assert_ne!(all[0], all[1]);
        assert_eq!(all[0], all[2]);
    }

    #[test]
    fn a_new_connection_asks_to_be_closed_and_no_other() {
        assert!(check(&["--mode", "new-connection"], 1)[0].contains("\r\nConnection: close\r\n"));
        assert_eq!(
            check(&["--path", "/0"], 1)[0],
            "GET /0 HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: ballast-bench\r\nAccept: */*\r\n\r\n"
        );
    }
}
