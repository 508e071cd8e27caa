//! A line of the access log, JSON.
//!
//! The request's part is written when its head is parsed, while the bytes are at hand; the rest
//! when it has ended. Control characters and non-ASCII bytes are escaped. Secrets are left out: of
//! header fields only the host is shown, of the target only the path, without its query.
//!
//! Timings follow HAProxy's: `tr` head received, `tw` waited for a backend (queue, binding), `tc`
//! connected, `td` first byte of the response, `ta` all of it; milliseconds with three digits.
//!
//! Not here: the way out ([`crate::accesslog`]).

use std::net::SocketAddr;

use super::{
    ending::{self, Ending},
    forwarded,
};

/// Longest path that is shown; the rest is cut.
const PATH_BYTES_MAX: usize = 1024;

/// What is known of a request when it has ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// Seconds and nanoseconds since the Unix epoch at which it ended.
    pub ended_at: std::time::Duration,
    /// This node's name.
    pub node: &'a str,
    /// The VIP's name; empty without.
    pub vip: &'a str,
    /// The farm's name.
    pub farm: &'a str,
    /// The listener's name.
    pub listener: &'a str,
    /// The service's name; empty if none was found.
    pub service: &'a str,
    /// The backend that answered, or was tried last.
    pub backend: Option<(u32, &'a str, SocketAddr)>,
    /// Whoever opened the connection.
    pub client: SocketAddr,
    /// The client behind trusted proxies.
    pub real_client: std::net::IpAddr,
    /// Status sent to the client; zero if none.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes sent to the client.
    pub bytes_out: u64,
    /// `tr`, `tw`, `tc`, `td`, `ta` in microseconds.
    pub timings_us: [u64; 5],
    /// Its id.
    pub request_id: &'a [u8],
    /// What became of its binding.
    pub binding: &'static str,
    /// Why it was re-homed; empty otherwise.
    pub binding_cause: &'static str,
    /// Why it went where it went.
    pub reason: &'static str,
    /// Attempts after the first.
    pub retries: u32,
    /// How it ended.
    pub ending: Ending,
}

/// Writes the request's part into an empty line.
pub fn begin(line: &mut Vec<u8>, method: &[u8], host: &[u8], path: &[u8], http10: bool) {
    line.extend_from_slice(b"{\"method\":\"");
    escape(line, method);
    line.extend_from_slice(b"\",\"host\":\"");
    escape(line, &host[..host.len().min(255)]);
    line.extend_from_slice(b"\",\"path\":\"");
    escape(line, &path[..path.len().min(PATH_BYTES_MAX)]);
    line.extend_from_slice(if http10 { b"\",\"protocol\":\"HTTP/1.0\"" } else { b"\",\"protocol\":\"HTTP/1.1\"" });
}

/// Completes a line.
pub fn end(line: &mut Vec<u8>, time: &mut TimeText, outcome: &Outcome<'_>) {
    if line.is_empty() {
        line.push(b'{');
    } else {
        line.push(b',');
    }
    line.extend_from_slice(b"\"time\":\"");
    time.write(line, outcome.ended_at);
    line.push(b'"');
    text(line, b",\"node\":\"", outcome.node.as_bytes());
    if !outcome.vip.is_empty() {
        text(line, b",\"vip\":\"", outcome.vip.as_bytes());
    }
    text(line, b",\"farm\":\"", outcome.farm.as_bytes());
    text(line, b",\"listener\":\"", outcome.listener.as_bytes());
    if !outcome.service.is_empty() {
        text(line, b",\"service\":\"", outcome.service.as_bytes());
    }
    if let Some((id, name, address)) = outcome.backend {
        text(line, b",\"backend\":\"", name.as_bytes());
        number(line, b",\"backend_id\":", u64::from(id));
        line.extend_from_slice(b",\"backend_address\":\"");
        write_socket(line, address);
        line.push(b'"');
    }
    line.extend_from_slice(b",\"client\":\"");
    write_socket(line, outcome.client);
    line.extend_from_slice(b"\",\"real_client\":\"");
    forwarded::write_address(line, outcome.real_client);
    line.push(b'"');
    number(line, b",\"status\":", u64::from(outcome.status));
    number(line, b",\"bytes_in\":", outcome.bytes_in);
    number(line, b",\"bytes_out\":", outcome.bytes_out);
    const TIMINGS: [&[u8]; 5] = [b",\"tr_ms\":", b",\"tw_ms\":", b",\"tc_ms\":", b",\"td_ms\":", b",\"ta_ms\":"];
    for (name, us) in TIMINGS.into_iter().zip(outcome.timings_us) {
        number(line, name, us / 1000);
        line.extend_from_slice(&[
            b'.',
            b'0' + (us / 100 % 10) as u8,
            b'0' + (us / 10 % 10) as u8,
            b'0' + (us % 10) as u8,
        ]);
    }
    text(line, b",\"request_id\":\"", outcome.request_id);
    text(line, b",\"binding\":\"", outcome.binding.as_bytes());
    if !outcome.binding_cause.is_empty() {
        text(line, b",\"binding_cause\":\"", outcome.binding_cause.as_bytes());
    }
    text(line, b",\"reason\":\"", outcome.reason.as_bytes());
    number(line, b",\"retries\":", u64::from(outcome.retries));
    line.extend_from_slice(b",\"ended\":\"");
    ending::write_code(line, outcome.ending);
    line.extend_from_slice(b"\"}\n");
}

/// Appends a field; `name` is all that stands before its value.
fn text(line: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    line.extend_from_slice(name);
    escape(line, value);
    line.push(b'"');
}

fn number(line: &mut Vec<u8>, name: &[u8], value: u64) {
    line.extend_from_slice(name);
    forwarded::write_number(line, value);
}

fn write_socket(line: &mut Vec<u8>, address: SocketAddr) {
    let v6 = address.ip().to_canonical().is_ipv6();
    if v6 {
        line.push(b'[');
    }
    forwarded::write_address(line, address.ip());
    if v6 {
        line.push(b']');
    }
    line.push(b':');
    forwarded::write_number(line, u64::from(address.port()));
}

/// Appends bytes as the inside of a JSON string. Bytes that are not ASCII become `\u00XX`, so that
/// the line is valid whatever a client sends.
fn escape(line: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.iter().all(|b| (0x20..0x7f).contains(b) && *b != b'"' && *b != b'\\') {
        line.extend_from_slice(bytes);
        return;
    }
    for byte in bytes {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
            0x20..0x7f => line.push(*byte),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                line.extend_from_slice(b"\\u00");
                line.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
}

/// RFC 3339 in UTC with microseconds. Everything down to the second is written once a second.
#[derive(Debug)]
pub struct TimeText {
    secs: u64,
    /// As far as the point before the microseconds.
    text: Vec<u8>,
}

impl Default for TimeText {
    fn default() -> Self {
        Self { secs: u64::MAX, text: Vec::new() }
    }
}

impl TimeText {
    /// Appends the time.
    pub fn write(&mut self, line: &mut Vec<u8>, since_epoch: std::time::Duration) {
        let secs = since_epoch.as_secs();
        if self.secs != secs {
            self.secs = secs;
            let (year, month, day) = crate::clock::civil(secs / 86_400);
            let (hour, minute, second) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
            self.text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.").into_bytes();
        }
        line.extend_from_slice(&self.text);
        let mut micros = since_epoch.subsec_micros();
        let mut digits = *b"000000Z";
        for digit in digits[..6].iter_mut().rev() {
            *digit += (micros % 10) as u8;
            micros /= 10;
        }
        line.extend_from_slice(&digits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json_whatever_came() {
        let mut line = Vec::new();
        begin(&mut line, b"GET", b"h\"ost", b"/a\\b\x01\xff", true);
        end(
            &mut line,
            &mut TimeText::default(),
            &Outcome {
                ended_at: std::time::Duration::new(784_111_777, 42_000),
                node: "n1",
                vip: "front",
                farm: "shop",
                listener: "web",
                service: "cart",
                backend: Some((7, "b1", "[2001:db8::1]:80".parse().unwrap())),
                client: "[::ffff:192.0.2.1]:1234".parse().unwrap(),
                real_client: [192, 0, 2, 9].into(),
                status: 200,
                bytes_in: 1,
                bytes_out: 2,
                timings_us: [1, 22, 333, 4444, 55_555],
                request_id: b"id",
                binding: "hit",
                binding_cause: "",
                reason: "table",
                retries: 0,
                ending: Ending::Request(super::super::fault::Fault::Host),
            },
        );
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["path"], "/a\\b\u{1}\u{ff}");
        assert_eq!(value["host"], "h\"ost");
        assert_eq!(value["time"], "1994-11-06T08:49:37.000042Z");
        assert_eq!(value["ta_ms"].to_string(), "55.555");
        assert_eq!(value["tr_ms"].to_string(), "0.001");
        assert_eq!(value["client"], "192.0.2.1:1234");
        assert_eq!(value["backend_address"], "[2001:db8::1]:80");
        assert_eq!(value["ended"], "request:host");
    }

    #[test]
    fn times_are_written_in_full() {
        let mut time = TimeText::default();
        for (secs, micros, expected) in [
            (784_111_777, 42, "1994-11-06T08:49:37.000042Z"),
            (784_111_777, 999_999, "1994-11-06T08:49:37.999999Z"),
            (784_111_778, 0, "1994-11-06T08:49:38.000000Z"),
            (0, 7, "1970-01-01T00:00:00.000007Z"),
        ] {
            let mut line = Vec::new();
            time.write(&mut line, std::time::Duration::new(secs, micros * 1000));
            assert_eq!(String::from_utf8(line).unwrap(), expected);
        }
    }
}
