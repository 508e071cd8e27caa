//! Keys and values of the session store as text: any bytes, so that what is shown can be typed again.

use std::fmt::Write as _;

/// Bytes that were typed: text, with `\xNN` for what cannot be typed and `\\` for a backslash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed(pub Vec<u8>);

/// Reads what was typed.
pub fn typed(text: &str) -> Result<Typed, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escaped = &rest[at + 1..];
        rest = match escaped.as_bytes() {
            [b'\\', ..] => {
                bytes.push(b'\\');
                &escaped[1..]
            }
            [b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
                bytes.push(digit(*high) << 4 | digit(*low));
                &escaped[3..]
            }
            _ => return Err(r"a backslash is written \\, any other byte \xNN".to_owned()),
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(Typed(bytes))
}

/// Shows bytes as [`typed`] reads them. Nothing of it moves a terminal's cursor.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\\' => text.push_str(r"\\"),
                letter if letter.is_control() => escape(letter.encode_utf8(&mut [0; 4]).as_bytes(), &mut text),
                letter => text.push(letter),
            }
        }
        escape(chunk.invalid(), &mut text);
    }
    text
}

fn escape(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        // A string takes everything.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed() {
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [&b""[..], b"PHPREDIS_SESSION:abc", "sitzung:ä".as_bytes(), b"a\\x41\\", b"\x1b[2J\xff\n", &all] {
            assert_eq!(typed(&shown(bytes)).map(|typed| typed.0).as_deref(), Ok(bytes));
        }
        assert_eq!(shown("a\\\n\u{9b}ä\u{e9}".as_bytes()), r"a\\\x0a\xc2\x9bäé");
    }

    #[test]
    fn other_escapes_are_refused() {
        for text in [r"\", r"\n", r"\x4", r"\xg0", r"\x+1", r"a\é"] {
            assert!(typed(text).is_err(), "{text}");
        }
    }
}
