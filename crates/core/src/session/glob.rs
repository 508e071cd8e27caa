//! Patterns of `KEYS`, `MATCH` and `PSUBSCRIBE`: `*`, `?`, `[a-z]`, `[^a]` and `\` as Redis reads them
//! (`stringmatchlen`).
//!
//! A pattern is read once, and each of its parts then looks at a byte in one step, however long a class is. Only the last
//! star is ever tried again, which finds the same and takes at most parts times bytes steps, whatever somebody writes; the
//! steps are counted, for whoever has to stop somewhere.

/// A pattern that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Any bytes, none too.
    Star,
    /// Any byte.
    Any,
    /// This byte.
    Byte(u8),
    /// One of these: a bit for each byte.
    Class(Box<[u64; 4]>),
}

impl Pattern {
    /// Reads a pattern. Every text is one.
    pub fn new(mut text: &[u8]) -> Self {
        let mut parts = Vec::with_capacity(text.len());
        loop {
            let (part, rest) = match text {
                [] => return Self { parts },
                [b'*', rest @ ..] => {
                    text = rest;
                    // Redis looks at the second of two stars only where there is nothing left of the text.
                    parts.push(Part::Star);
                    continue;
                }
                [b'?', rest @ ..] => (Part::Any, rest),
                [b'[', rest @ ..] => class(rest),
                [b'\\', literal, rest @ ..] => (Part::Byte(*literal), rest),
                [literal, rest @ ..] => (Part::Byte(*literal), rest),
            };
            parts.push(part);
            text = rest;
        }
    }

    /// The most bytes of memory that a pattern of so many bytes is read into, beside itself.
    pub const fn bytes_max(length: usize) -> usize {
        // A class takes two bytes of text at least.
        length * size_of::<Part>() + length / 2 * size_of::<[u64; 4]>()
    }

    /// Whether all of `text` fits. As in Redis only the empty pattern fits the empty text; `KEYS` and `SCAN` themselves
    /// take a lone star for all there is.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.matches_counting(text, &mut 0)
    }

    /// As [`Self::matches`], and adds the steps that it took to `steps`.
    pub fn matches_counting(&self, text: &[u8], steps: &mut u64) -> bool {
        if text.is_empty() {
            return self.parts.is_empty();
        }
        let (mut p, mut t) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        loop {
            *steps += 1;
            let part = self.parts.get(p);
            if let Some(Part::Star) = part {
                p += 1;
                if p == self.parts.len() {
                    return true;
                }
                retry = Some((p, t));
                continue;
            }
            let fits = match (part, text.get(t)) {
                (None, None) => return true,
                // Where the text ends, starting later leaves still less of it.
                (Some(_), None) => return false,
                (None, Some(_)) => false,
                (Some(part), Some(byte)) => part.fits(*byte),
            };
            if fits {
                (p, t) = (p + 1, t + 1);
            } else {
                let Some((after_star, from)) = &mut retry else { return false };
                *from += 1;
                (p, t) = (*after_star, *from);
            }
        }
    }
}

impl Part {
    fn fits(&self, byte: u8) -> bool {
        match self {
            Self::Star | Self::Any => true,
            Self::Byte(literal) => *literal == byte,
            Self::Class(bits) => bits[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1,
        }
    }
}

/// A class of bytes, from behind its bracket on, and what follows it. One without a closing bracket goes on to the end.
fn class(mut text: &[u8]) -> (Part, &[u8]) {
    let not = text.first() == Some(&b'^');
    text = &text[usize::from(not)..];
    let mut bits = [0_u64; 4];
    let mut add = |byte: u8| bits[usize::from(byte >> 6)] |= 1 << (byte & 63);
    let rest = loop {
        text = match text {
            [] => break text,
            [b'\\', escaped, rest @ ..] => {
                add(*escaped);
                rest
            }
            [b']', rest @ ..] => break rest,
            [from, b'-', to, rest @ ..] => {
                (*from.min(to)..=*from.max(to)).for_each(&mut add);
                rest
            }
            [literal, rest @ ..] => {
                add(*literal);
                rest
            }
        };
    };
    if not {
        bits = bits.map(|word| !word);
    }
    (Part::Class(Box::new(bits)), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_redis_reads_them() {
        for (pattern, text, fits) in [
            ("*", "", false),
            ("**", "", false),
            ("", "", true),
            ("", "a", false),
            ("*", "a", true),
            ("**", "a", true),
            ("a*", "a", true),
            ("a**", "a", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("*b", "abc", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("?", "a", true),
            ("?", "ab", false),
            ("*?", "a", true),
            ("*??", "a", false),
            ("a?c", "abc", true),
            ("[abc]", "b", true),
            ("[^abc]", "b", false),
            ("[^abc]", "d", true),
            ("[^", "d", true),
            ("[", "a", false),
            ("[]", "a", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[a-c", "b", true),
            ("[a", "a", true),
            ("[a\\]]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("*.*", "a.b", true),
            ("sess:*:x", "sess:1:2:x", true),
            ("__key*__:*", "__keyevent@0__:expired", true),
        ] {
            assert_eq!(Pattern::new(pattern.as_bytes()).matches(text.as_bytes()), fits, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn whatever_is_written_takes_no_more_than_its_parts_times_the_text() {
        let steps = |pattern: &str, text: &str| {
            let mut steps = 0;
            assert!(!Pattern::new(pattern.as_bytes()).matches_counting(text.as_bytes(), &mut steps));
            steps
        };
        let text = "a".repeat(5000);
        assert!(steps(&("a*".repeat(500) + "b"), &text) < 1001 * 5001);
        assert!(steps(&("[".to_owned() + &"x".repeat(60_000)), &text) < 3, "a class is looked at once");
        assert!(steps(&("*[".to_owned() + &"x".repeat(60_000)), &text) <= 10_002);
    }
}
