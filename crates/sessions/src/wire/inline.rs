//! A request that a person typed: words on a line, with quotes as Redis' own `sdssplitargs` has them.

use bytes::Bytes;

/// Splits a line into words. `None` if a quote is not closed or something follows it directly.
pub fn split(line: &[u8]) -> Option<Vec<Bytes>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let start = rest.iter().position(|byte| !is_space(*byte));
        let Some(start) = start else { return Some(words) };
        let (word, after) = word(&rest[start..])?;
        words.push(Bytes::from(word));
        rest = after;
    }
}

fn word(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    loop {
        match rest {
            [] => return Some((word, rest)),
            [byte, after @ ..] if is_space(*byte) => return Some((word, after)),
            [b'"', after @ ..] => return double_quoted(after, word),
            [b'\'', after @ ..] => return single_quoted(after, word),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn double_quoted(mut rest: &[u8], mut word: Vec<u8>) -> Option<(Vec<u8>, &[u8])> {
    loop {
        match rest {
            [] => return None,
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            [b'\\', byte, after @ ..] => {
                word.push(match byte {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            [b'"', after @ ..] => return ended(after, word),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn single_quoted(mut rest: &[u8], mut word: Vec<u8>) -> Option<(Vec<u8>, &[u8])> {
    loop {
        match rest {
            [] => return None,
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return ended(after, word),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

/// A closing quote ends the word; a space or nothing must follow.
fn ended(after: &[u8], word: Vec<u8>) -> Option<(Vec<u8>, &[u8])> {
    after.first().is_none_or(|byte| is_space(*byte)).then_some((word, after))
}

/// As C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_quotes() {
        let check = |line: &str, words: Option<&[&[u8]]>| {
            let got = split(line.as_bytes());
            let want = words.map(|words| words.iter().map(|word| Bytes::copy_from_slice(word)).collect::<Vec<_>>());
            assert_eq!(got, want, "{line}");
        };
        check("", Some(&[]));
        check("  GET  a\tb ", Some(&[b"GET", b"a", b"b"]));
        check(r#"set k "a b\x41\n\"""#, Some(&[b"set", b"k", b"a bA\n\""]));
        check(r"set k 'it\'s \n'", Some(&[b"set", b"k", br"it's \n"]));
        check(r#"pre"post" x"#, Some(&[b"prepost", b"x"]));
        check(r#""" ''"#, Some(&[b"", b""]));
        check(r#"get "a"#, None);
        check(r#"get "a"b"#, None);
        check("get 'a", None);
        check(r#"get "a\"#, None);
        check(r#"get "\xZZ""#, Some(&[b"get", b"xZZ"]));
    }
}
