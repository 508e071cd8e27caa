//! An HTTP check as bytes: the request to send, and what the answer means.
//!
//! The check is its own tiny client, and not the proxy's, so that a mistake in one cannot hide from
//! the other. It reads no more than it needs: without `body_contains` the status line decides.
//!
//! Not here: connecting and waiting (`ballast-proxy`'s prober).

use std::net::SocketAddr;

use memchr::memmem;

use super::Observation;
use crate::config::HttpCheck;

/// How much of a body is looked at.
const BODY_BYTES_MAX: usize = 16 << 10;
/// Longest head that is waited for.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How much of a response is worth reading: head, body, and the framing of chunks around it.
/// [`judge`] decides at the latest when it is given this much.
pub const RESPONSE_BYTES_MAX: usize = HEAD_BYTES_MAX + 4 * BODY_BYTES_MAX;

/// The request to send to `backend`. The connection is closed after it.
pub fn request(check: &HttpCheck, backend: SocketAddr) -> Vec<u8> {
    let host = check.host.clone().unwrap_or_else(|| backend.to_string());
    format!(
        "{} {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ballast-check/1\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        check.method, check.path
    )
    .into_bytes()
}

/// What is known of the answer so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Read on.
    More,
    /// Done; the connection can be closed.
    Done(Observation),
}

/// Judges what was read so far, all of it each time. `ended` says that nothing more will come.
pub fn judge(check: &HttpCheck, response: &[u8], ended: bool) -> Judgement {
    match try_judge(check, response, ended) {
        Ok(Some(detail)) => Judgement::Done(Observation { ok: true, detail }),
        Ok(None) if ended => {
            fail(if response.is_empty() { "closed without an answer" } else { "closed within the answer" })
        }
        Ok(None) if response.len() >= RESPONSE_BYTES_MAX => fail("the answer is too long"),
        Ok(None) => Judgement::More,
        Err(detail) => fail(&detail),
    }
}

fn fail(detail: &str) -> Judgement {
    Judgement::Done(Observation { ok: false, detail: detail.to_owned() })
}

/// `Some` when the check is passed, `None` when more is needed, an error when it is failed.
fn try_judge(check: &HttpCheck, response: &[u8], ended: bool) -> Result<Option<String>, String> {
    let mut rest = response;
    let (status, head) = loop {
        let Some(status) = status(rest)? else { return Ok(None) };
        // Interim responses come before the final one (RFC 9110, section 15.2).
        if status >= 200 && check.body_contains.is_none() {
            return expected(check, status).map(Some);
        }
        let Some(end) = memmem::find(rest, b"\r\n\r\n") else {
            return if rest.len() > HEAD_BYTES_MAX { Err("the head is too long".to_owned()) } else { Ok(None) };
        };
        let (head, after) = rest.split_at(end + 4);
        rest = after;
        if status >= 200 {
            break (status, head);
        }
        if status == 101 {
            return Err("http 101 to a request that asked for no upgrade".to_owned());
        }
    };
    let passed = expected(check, status)?;
    let Some(wanted) = &check.body_contains else { return Ok(Some(passed)) };
    let body = body(head, rest)?;
    let looked_at = &body.bytes[..body.bytes.len().min(BODY_BYTES_MAX)];
    if memmem::find(looked_at, wanted.as_bytes()).is_some() {
        return Ok(Some(format!("{passed}, body matches")));
    }
    if body.complete || ended || body.bytes.len() >= BODY_BYTES_MAX {
        return Err(format!("http {status}, but the body does not contain {wanted:?}"));
    }
    Ok(None)
}

fn expected(check: &HttpCheck, status: u16) -> Result<String, String> {
    let words = format!("http {status}");
    if check.expect.iter().any(|range| range.contains(status)) { Ok(words) } else { Err(words) }
}

/// The status of the status line (RFC 9112, section 4), once the line is there.
fn status(response: &[u8]) -> Result<Option<u16>, String> {
    let not_http = || "the answer is not HTTP/1".to_owned();
    let start = b"HTTP/1.";
    let seen = response.len().min(start.len());
    if response[..seen] != start[..seen] {
        return Err(not_http());
    }
    let Some(end) = memchr::memchr(b'\n', response) else {
        return if response.len() > 1024 { Err(not_http()) } else { Ok(None) };
    };
    let line = response[..end].strip_suffix(b"\r").unwrap_or(&response[..end]);
    match line[start.len().min(line.len())..] {
        [b'0' | b'1', b' ', a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', ref reason @ ..]
            if reason.first().is_none_or(|b| *b == b' ') =>
        {
            Ok(Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')))
        }
        _ => Err(not_http()),
    }
}

/// A body as far as it is there.
struct Body {
    bytes: Vec<u8>,
    complete: bool,
}

fn body(head: &[u8], rest: &[u8]) -> Result<Body, String> {
    if field(head, b"transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked")) {
        return dechunk(rest);
    }
    let length =
        field(head, b"content-length").and_then(|value| std::str::from_utf8(value).ok()?.parse::<usize>().ok());
    let end = length.unwrap_or(usize::MAX).min(rest.len());
    Ok(Body { bytes: rest[..end].to_vec(), complete: length.is_some_and(|length| rest.len() >= length) })
}

/// The value of a header field, trimmed.
fn field<'h>(head: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    head.split(|b| *b == b'\n').skip(1).find_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        line[..colon].eq_ignore_ascii_case(name).then(|| line[colon + 1..].trim_ascii())
    })
}

/// Chunked coding (RFC 9112, section 7.1), as far as it is there and as far as it is looked at.
fn dechunk(mut rest: &[u8]) -> Result<Body, String> {
    let broken = || "the body's chunks are broken".to_owned();
    let mut bytes = Vec::new();
    while bytes.len() < BODY_BYTES_MAX {
        let Some(end) = memchr::memchr(b'\n', rest) else { break };
        let line = rest[..end].trim_ascii();
        let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
        let size = std::str::from_utf8(&line[..digits]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let size = size.ok_or_else(broken)?;
        if size == 0 {
            return Ok(Body { bytes, complete: true });
        }
        let data = &rest[end + 1..];
        bytes.extend_from_slice(&data[..size.min(data.len())]);
        let Some(after) = size.checked_add(2).and_then(|next| data.get(next..)) else { break };
        if &data[size..size + 2] != b"\r\n" {
            return Err(broken());
        }
        rest = after;
    }
    Ok(Body { bytes, complete: false })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::StatusRange;

    fn check(body_contains: Option<&str>) -> HttpCheck {
        HttpCheck {
            expect: vec![StatusRange { first: 200, last: 299 }],
            body_contains: body_contains.map(str::to_owned),
            ..HttpCheck::default()
        }
    }

    /// `Ok` with the words of a passed check, `Err` with those of a failed one, `None` for more.
    fn verdict(check: &HttpCheck, response: &str, ended: bool) -> Option<Result<String, String>> {
        match judge(check, response.as_bytes(), ended) {
            Judgement::More => None,
            Judgement::Done(Observation { ok: true, detail }) => Some(Ok(detail)),
            Judgement::Done(Observation { ok: false, detail }) => Some(Err(detail)),
        }
    }

    fn passed(detail: &str) -> Option<Result<String, String>> {
        Some(Ok(detail.to_owned()))
    }

    fn failed(detail: &str) -> Option<Result<String, String>> {
        Some(Err(detail.to_owned()))
    }

    #[test]
    fn the_request_names_the_host() {
        let backend = "10.0.0.7:8080".parse().expect("an address");
        let text = |check: &HttpCheck| String::from_utf8(request(check, backend)).expect("ASCII");
        assert!(text(&check(None)).starts_with("GET / HTTP/1.1\r\nHost: 10.0.0.7:8080\r\n"));
        let named = HttpCheck {
            host: Some("shop.test".to_owned()),
            method: "HEAD".to_owned(),
            path: "/up?x".to_owned(),
            ..check(None)
        };
        assert!(text(&named).starts_with("HEAD /up?x HTTP/1.1\r\nHost: shop.test\r\n"));
        assert!(text(&named).ends_with("\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn the_status_decides() {
        let check = check(None);
        assert_eq!(verdict(&check, "HTTP/1.1 204 No Content\r\n", false), passed("http 204"));
        assert_eq!(verdict(&check, "HTTP/1.0 200\r\n", false), passed("http 200"));
        assert_eq!(verdict(&check, "HTTP/1.1 503 Down\r\n", false), failed("http 503"));
        assert_eq!(verdict(&check, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", false), passed("http 200"));
        assert_eq!(verdict(&check, "HTTP/1.1 20", false), None);
        assert_eq!(verdict(&check, "HTTP/1.1 20", true), failed("closed within the answer"));
        assert_eq!(verdict(&check, "", false), None);
        assert_eq!(verdict(&check, "", true), failed("closed without an answer"));
        for garbage in
            ["SSH-2.0-x\r\n", "HTTP/2 200\r\n", "HTTP/1.1 2000 x\r\n", "HTTP/1.1  200\r\n", "HTTP/1.1 099 x\r\n", "\n"]
        {
            assert_eq!(verdict(&check, garbage, false), failed("the answer is not HTTP/1"), "{garbage:?}");
        }
    }

    #[test]
    fn the_body_is_searched() {
        let check = check(Some("ready"));
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n";
        assert_eq!(verdict(&check, &format!("{head}is re"), false), None);
        assert_eq!(verdict(&check, &format!("{head}is ready"), false), passed("http 200, body matches"));
        let missing = failed("http 200, but the body does not contain \"ready\"");
        assert_eq!(verdict(&check, &format!("{head}is not r"), false), missing);
        assert_eq!(verdict(&check, "HTTP/1.1 200 OK\r\n\r\nno", true), missing);
        assert_eq!(verdict(&check, "HTTP/1.1 500 ready\r\n\r\nready", true), failed("http 500"));
        let late = format!("HTTP/1.1 200 OK\r\n\r\n{}ready", "x".repeat(16 << 10));
        assert_eq!(verdict(&check, &late, false), missing, "only the first 16 KiB count");
    }

    #[test]
    fn text_across_chunks_is_found() {
        let check = check(Some("ready"));
        let head = "HTTP/1.1 200 OK\r\nTRANSFER-encoding: chunked\r\n\r\n";
        assert_eq!(
            verdict(&check, &format!("{head}3\r\nxre\r\n4;e=1\r\nadyx\r\n"), false),
            passed("http 200, body matches")
        );
        assert_eq!(verdict(&check, &format!("{head}3\r\nxre\r\n4\r\na"), false), None);
        let missing = failed("http 200, but the body does not contain \"ready\"");
        assert_eq!(verdict(&check, &format!("{head}3\r\nxre\r\n0\r\n\r\n"), false), missing);
        assert_eq!(verdict(&check, &format!("{head}zz\r\n"), false), failed("the body's chunks are broken"));
        assert_eq!(verdict(&check, &format!("{head}1\r\nabc\r\n"), false), failed("the body's chunks are broken"));
        assert_eq!(verdict(&check, &format!("{head}ffffffffffffffff\r\nabc"), false), None);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in "(HTTP/1.1 [1-5]00 x\r\n(Transfer-Encoding: chunked\r\n|Content-Length: [0-9]{1,3}\r\n)?\r\n)?[0-9a-f\r\n;ready]{0,60}", cut in 0..200_usize) {
            let check = check(Some("ready"));
            let bytes = answer.as_bytes();
            let judged = judge(&check, &bytes[..cut.min(bytes.len())], false);
            prop_assert!(judge(&check, bytes, true) != Judgement::More);
            // What was decided early is what would have been decided later, unless the end itself decides.
            if let Judgement::Done(early) = judged {
                prop_assert_eq!(Judgement::Done(early), judge(&check, bytes, true));
            }
        }
    }
}
