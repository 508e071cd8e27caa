//! Whole numbers as Redis reads them from text.

use super::Reply;

/// The number that `text` is, written the one way there is: no sign but a minus, no leading zeros, no spaces.
pub fn parse(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.len() < 19 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The number of one of so many databases.
///
/// # Errors
/// What Redis answers.
pub fn parse_database(text: &[u8], databases: u16) -> Result<u16, Reply> {
    let number = parse(text).ok_or(Reply::error("ERR value is not an integer or out of range"))?;
    if i32::try_from(number).is_err() {
        return Err(Reply::error("ERR value is out of range, value must between -2147483648 and 2147483647"));
    }
    let known = u16::try_from(number).ok().filter(|number| *number < databases);
    known.ok_or(Reply::error("ERR DB index is out of range"))
}

/// A cursor, as `strtoul` reads it: a sign may stand before it, and nothing at all is zero.
pub(super) fn parse_cursor(text: &[u8]) -> Option<u64> {
    let (negative, digits) = match text {
        [] => return Some(0),
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(if negative { value.wrapping_neg() } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a Redis 7.0 with sixteen databases answered to `SELECT` and `COPY ... DB`.
    #[test]
    fn numbers_of_databases_are_refused_in_redis_own_words() {
        let no_integer = "ERR value is not an integer or out of range";
        let no_int = "ERR value is out of range, value must between -2147483648 and 2147483647";
        let unknown = "ERR DB index is out of range";
        for (text, refused) in [
            ("x", no_integer),
            ("9223372036854775808", no_integer),
            ("9223372036854775807", no_int),
            ("99999999999", no_int),
            ("2147483648", no_int),
            ("-2147483649", no_int),
            ("2147483647", unknown),
            ("-2147483648", unknown),
            ("-1", unknown),
            ("65536", unknown),
            ("16", unknown),
        ] {
            assert_eq!(parse_database(text.as_bytes(), 16), Err(Reply::error(refused)), "{text}");
        }
        assert_eq!([parse_database(b"0", 16), parse_database(b"15", 16)], [Ok(0), Ok(15)]);
    }

    #[test]
    fn only_the_canonical_form_is_a_number() {
        for (text, number) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("99999999999999999999999", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("1.0", None),
        ] {
            assert_eq!(parse(text.as_bytes()), number, "{text:?}");
        }
    }
}
