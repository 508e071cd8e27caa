//! A response's head, as strictly as a request's: a backend is trusted with its answer, not with
//! where it ends.
//!
//! Not here: how it is passed on ([`super::forward`]).

use super::{
    fault::Fault,
    field::{self, Field, Known, Piece},
    request::{self, Framing, Method},
};

/// A response's head. Pieces are positions in the head it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead {
    /// Its status, 100 to 599.
    pub status: u16,
    /// The reason phrase, as it came.
    pub reason: Piece,
    /// The body that follows.
    pub framing: Framing,
    /// `Content-Length` of a response that has no body by rule (`HEAD`, 304): information, not framing.
    pub length_told: Option<u64>,
    /// The backend keeps the connection.
    pub keep_alive: bool,
    /// `Connection` names fields that must be dropped.
    pub connection_names_fields: bool,
    /// It has a `Date`.
    pub has_date: bool,
    /// The protocol of a 101.
    pub upgrade: Option<Piece>,
    /// A challenge is about the connection that it came on ([`field::is_about_connection`]).
    pub logs_in_connection: bool,
}

/// Parses the head of a response to a request of `method`.
///
/// # Errors
/// The first fault; the backend's answer cannot be used.
pub fn parse(head: &[u8], method: Method, fields_max: usize, fields: &mut Vec<Field>) -> Result<ResponseHead, Fault> {
    let lf = memchr::memchr(b'\n', head).ok_or(Fault::StartLine)?;
    let (http10, status, reason) = status_line(&head[..lf - 1])?;
    field::parse_fields(head, lf + 1, fields_max, fields)?;
    let mut response = ResponseHead {
        status,
        reason,
        framing: Framing::None,
        length_told: None,
        keep_alive: false,
        connection_names_fields: false,
        has_date: false,
        upgrade: None,
        logs_in_connection: false,
    };
    let (mut length, mut chunked, mut close, mut keep_alive, mut names) = (None, false, false, false, 0);
    for field in fields.iter() {
        let value = field.value.of(head);
        match field.known {
            Known::ContentLength => {
                let told = field::decimal(value).ok_or(Fault::ContentLength)?;
                if length.replace(told).is_some() {
                    return Err(Fault::ContentLength);
                }
            }
            Known::TransferEncoding => {
                if chunked {
                    return Err(Fault::TransferEncoding);
                }
                request::transfer_encoding(value)?;
                chunked = true;
            }
            Known::Connection => {
                for token in field::list(value) {
                    match token.len() {
                        5 if token.eq_ignore_ascii_case(b"close") => close = true,
                        10 if token.eq_ignore_ascii_case(b"keep-alive") => keep_alive = true,
                        7 if token.eq_ignore_ascii_case(b"upgrade") => {}
                        _ => names += 1,
                    }
                }
                if names > field::CONNECTION_NAMES_MAX {
                    return Err(Fault::ConnectionNamesTooMany);
                }
            }
            Known::Date => response.has_date = true,
            Known::Upgrade => response.upgrade = Some(field.value),
            Known::WwwAuthenticate => {
                response.logs_in_connection |= field::list(value).any(field::is_about_connection);
            }
            _ => {}
        }
    }
    response.connection_names_fields = names > 0;
    response.keep_alive = !close && (!http10 || keep_alive);
    let no_body = method == Method::Head || status < 200 || status == 204 || status == 304;
    response.framing = match (length, chunked) {
        (Some(_), true) => return Err(Fault::ConflictingFraming),
        (None, true) if http10 => return Err(Fault::TransferEncoding),
        _ if no_body => {
            if status >= 200 && status != 204 {
                response.length_told = length;
            }
            Framing::None
        }
        (None, true) => Framing::Chunked,
        (Some(length), false) => Framing::Length(length),
        (None, false) => Framing::Close,
    };
    Ok(response)
}

fn status_line(line: &[u8]) -> Result<(bool, u16, Piece), Fault> {
    field::check_text(line)?;
    let http10 = match line.get(..9) {
        Some(b"HTTP/1.1 ") => false,
        Some(b"HTTP/1.0 ") => true,
        _ => return Err(Fault::StartLine),
    };
    let status = match line.get(9..12) {
        Some(digits) if digits.iter().all(u8::is_ascii_digit) => {
            digits.iter().fold(0u16, |n, d| n * 10 + u16::from(d - b'0'))
        }
        _ => return Err(Fault::Status),
    };
    if !(100..=599).contains(&status) {
        return Err(Fault::Status);
    }
    match line.get(12) {
        // RFC 9112 section 4 asks for the space even without a reason; many servers leave it out, and nothing hides there.
        None => Ok((http10, status, Piece::default())),
        Some(b' ') => Ok((http10, status, Piece::new(13..line.len()))),
        Some(_) => Err(Fault::Status),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str, method: Method) -> Result<ResponseHead, Fault> {
        parse(text.as_bytes(), method, 16, &mut Vec::new())
    }

    #[test]
    fn framing_follows_the_rules() {
        for (text, method, framing, told) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Get, Framing::Length(5), None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Head, Framing::None, Some(5)),
            ("HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n", Method::Get, Framing::Chunked, None),
            ("HTTP/1.1 200 OK\r\n\r\n", Method::Get, Framing::Close, None),
            ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", Method::Get, Framing::None, None),
            ("HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", Method::Get, Framing::None, Some(5)),
            ("HTTP/1.1 103 Hints\r\n\r\n", Method::Get, Framing::None, None),
        ] {
            let response = head(text, method).unwrap();
            assert_eq!((response.framing, response.length_told), (framing, told), "{text:?}");
        }
        assert!(!head("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", Method::Get).unwrap().keep_alive);
        assert!(head("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", Method::Get).unwrap().keep_alive);
    }

    #[test]
    fn a_challenge_about_the_connection_is_seen_among_others() {
        for (fields, expected) in [
            ("WWW-Authenticate: NTLM\r\n", true),
            ("WWW-Authenticate: Basic realm=\"a\"\r\nwww-authenticate: negotiate\r\n", true),
            ("WWW-Authenticate: Basic realm=\"a\", Negotiate\r\n", true),
            ("WWW-Authenticate: Basic realm=\"a\"\r\n", false),
            ("X-Authenticate: NTLM\r\n", false),
        ] {
            let text = format!("HTTP/1.1 401 No\r\n{fields}\r\n");
            assert_eq!(head(&text, Method::Get).unwrap().logs_in_connection, expected, "{fields:?}");
        }
    }

    #[test]
    fn faults_of_responses() {
        for (text, fault) in [
            ("HTTP/2 200 OK\r\n\r\n", Fault::StartLine),
            ("HTTP/1.2 200 OK\r\n\r\n", Fault::StartLine),
            ("garbage\r\n\r\n", Fault::StartLine),
            ("HTTP/1.1 20 OK\r\n\r\n", Fault::Status),
            ("HTTP/1.1 2000 OK\r\n\r\n", Fault::Status),
            ("HTTP/1.1 099 OK\r\n\r\n", Fault::Status),
            ("HTTP/1.1 600 OK\r\n\r\n", Fault::Status),
            ("HTTP/1.1 200 OK\0\r\n\r\n", Fault::ControlCharacter),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Fault::SpaceBeforeColon),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Fault::ObsFold),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Fault::ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::ConflictingFraming),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Fault::CodingUnknown),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::TransferEncoding),
        ] {
            assert_eq!(head(text, Method::Get).unwrap_err(), fault, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut text = text;
            text.extend_from_slice(b"\r\n\r\n");
            let mut scan = field::HeadScan::default();
            if let Ok(Some(end)) = scan.find_end(&text) {
                let _ = parse(&text[..end], Method::Get, 16, &mut Vec::new());
            }
        }
    }
}
