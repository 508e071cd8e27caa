//! Patterns of `KEYS` and `MATCH`: `*`, `?`, `[a-z]`, `[^a]` and `\` as Redis reads them.
//!
//! Only the last star is ever tried again, which finds the same and takes at most pattern times text steps, whatever
//! somebody writes.

/// Whether all of `text` fits `pattern`.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if pattern == b"*" {
        return true;
    }
    if text.is_empty() {
        // Redis looks at no star then.
        return pattern.is_empty();
    }
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        let fits = match text.get(t) {
            None if p == pattern.len() => return true,
            None => None,
            Some(byte) => one(pattern, p, *byte),
        };
        match (fits, &mut retry) {
            (Some(next), _) => (p, t) = (next, t + 1),
            (None, Some((after_star, from))) if *from < text.len() => {
                *from += 1;
                (p, t) = (*after_star, *from);
            }
            (None, _) => return false,
        }
    }
}

/// Where the pattern goes on after its next part took `byte`; `None` if that does not fit.
fn one(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match pattern.get(at)? {
        b'?' => Some(at + 1),
        b'[' => class(pattern, at + 1, byte),
        b'\\' if at + 1 < pattern.len() => (pattern[at + 1] == byte).then_some(at + 2),
        literal => (*literal == byte).then_some(at + 1),
    }
}

/// A class of bytes, from behind its bracket on. One without a closing bracket goes on to the end.
fn class(pattern: &[u8], mut at: usize, byte: u8) -> Option<usize> {
    let not = pattern.get(at) == Some(&b'^');
    at += usize::from(not);
    let mut fits = false;
    let next = loop {
        match pattern[at.min(pattern.len())..] {
            [] => break pattern.len(),
            [b'\\', escaped, ..] => {
                fits |= escaped == byte;
                at += 2;
            }
            [b']', ..] => break at + 1,
            [from, b'-', to, ..] => {
                fits |= (from.min(to)..=from.max(to)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                fits |= literal == byte;
                at += 1;
            }
        }
    };
    (fits != not).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_redis_reads_them() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("**", "", false),
            ("", "", true),
            ("", "a", false),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("*b", "abc", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("?", "a", true),
            ("?", "ab", false),
            ("a?c", "abc", true),
            ("[abc]", "b", true),
            ("[^abc]", "b", false),
            ("[^abc]", "d", true),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[a-c", "b", true),
            ("[a\\]]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("*.*", "a.b", true),
            ("sess:*:x", "sess:1:2:x", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern:?} {text:?}");
        }
        let hostile = "a*".repeat(500) + "b";
        assert!(!matches(hostile.as_bytes(), "a".repeat(5000).as_bytes()));
    }
}
