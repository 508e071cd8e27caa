//! Patterns of `KEYS`, `MATCH` and `PSUBSCRIBE`: `*`, `?`, `[a-z]`, `[^a]` and `\` as Redis reads them
//! (`stringmatchlen`).
//!
//! A pattern is read once, and each of its parts then looks at a byte in one step, however long a class is. What stands
//! between two stars is searched from where the one before it was found, and never again: bytes that are meant as they
//! are in time that grows with the text alone (`memmem`), others at one place after the other. That can take as many
//! steps as there are parts times bytes, so steps are counted while a pattern is matched, and whoever asks says how many
//! there may be.

use std::ops::Range;

use memchr::{memchr, memmem};

/// A pattern that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What stands before the first star, between stars, and behind the last one: one alone if there is no star.
    segments: Box<[Segment]>,
    /// Bytes of all segments that are nothing else.
    literals: Box<[u8]>,
    /// Parts of all others.
    parts: Box<[Part]>,
    /// Bytes of the shortest text that can fit.
    len_min: usize,
}

/// What has no star in it: where its parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Range<usize>),
    Mixed(Range<usize>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Any byte.
    Any,
    /// This byte.
    Byte(u8),
    /// One of these: a bit for each byte.
    Class(Box<[u64; 4]>),
}

/// What beginning a search costs, beside a step for each byte.
const SEARCH: u64 = 32;

/// Bytes that are compared in one step.
const COMPARED: usize = 8;

impl Pattern {
    /// Reads a pattern. Every text is one.
    pub fn new(mut text: &[u8]) -> Self {
        let mut reading = Reading::default();
        loop {
            let (part, rest) = match text {
                [] => return reading.end(),
                [b'*', rest @ ..] => {
                    // Redis looks at the second of two stars only where there is nothing left of the text.
                    let stars = rest.iter().take_while(|byte| **byte == b'*').count();
                    text = &rest[stars..];
                    reading.end_segment();
                    continue;
                }
                [b'?', rest @ ..] => (Part::Any, rest),
                [b'[', rest @ ..] => class(rest),
                [b'\\', literal, rest @ ..] => (Part::Byte(*literal), rest),
                [literal, rest @ ..] => (Part::Byte(*literal), rest),
            };
            reading.segment.push(part);
            text = rest;
        }
    }

    /// The most bytes of memory that a pattern of so many bytes is read into, beside itself.
    pub const fn bytes_max(length: usize) -> usize {
        // A class takes two bytes of text, unless it ends with the text. What is between two stars has room for its segment
        // in what these three bytes are counted as.
        length * size_of::<Part>() + length.div_ceil(2) * size_of::<[u64; 4]>() + 2 * size_of::<Segment>()
    }

    /// Whether all of `text` fits, whatever that takes: for texts and patterns of which one is short. As in Redis only
    /// the empty pattern fits the empty text; `KEYS` and `SCAN` themselves take a lone star for all there is.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.matches_within(text, &mut { u64::MAX }).unwrap_or(false)
    }

    /// As [`Self::matches`], in no more than `steps` of about a nanosecond, of which those are taken away that were done.
    /// `None` if there were too few of them; none are left then.
    pub fn matches_within(&self, text: &[u8], steps: &mut u64) -> Option<bool> {
        take(steps, 1)?;
        if text.len() < self.len_min {
            return Some(false);
        }
        let [head, rest @ ..] = &*self.segments else { return Some(text.is_empty()) };
        let [middle @ .., tail] = rest else {
            return Some(text.len() == head.len() && self.fits(head, text, steps)?);
        };
        if text.is_empty() {
            return Some(false);
        }
        // They do not overlap, because the text is not too short.
        let (begin, text) = text.split_at(head.len());
        let (mut text, end) = text.split_at(text.len() - tail.len());
        if !self.fits(head, begin, steps)? || !self.fits(tail, end, steps)? {
            return Some(false);
        }
        for segment in middle {
            let Some(at) = self.find(segment, text, steps)? else { return Some(false) };
            text = &text[at + segment.len()..];
        }
        Some(true)
    }

    /// Whether a text of a segment's length is one of it.
    fn fits(&self, segment: &Segment, text: &[u8], steps: &mut u64) -> Option<bool> {
        match segment {
            Segment::Literal(range) => {
                take(steps, (range.len() / COMPARED) as u64)?;
                Some(self.literals[range.clone()] == *text)
            }
            Segment::Mixed(range) => {
                for (part, byte) in self.parts[range.clone()].iter().zip(text) {
                    take(steps, 1)?;
                    if !part.fits(*byte) {
                        return Some(false);
                    }
                }
                Some(true)
            }
        }
    }

    /// Where a segment is first in a text, if it is.
    fn find(&self, segment: &Segment, text: &[u8], steps: &mut u64) -> Option<Option<usize>> {
        let Segment::Literal(range) = segment else {
            for (at, place) in text.windows(segment.len()).enumerate() {
                if self.fits(segment, place, steps)? {
                    return Some(Some(at));
                }
            }
            return Some(None);
        };
        take(steps, SEARCH)?;
        // As far as the steps go.
        let within = &text[..text.len().min(usize::try_from(*steps).unwrap_or(usize::MAX))];
        let found = match &self.literals[range.clone()] {
            [byte] => memchr(*byte, within),
            bytes => memmem::find(within, bytes),
        };
        if found.is_none() && within.len() < text.len() {
            *steps = 0;
            return None;
        }
        take(steps, found.map_or(within.len(), |at| at + range.len()) as u64)?;
        Some(found)
    }
}

/// Takes steps away, all of them if there are fewer.
fn take(steps: &mut u64, taken: u64) -> Option<()> {
    let left = steps.checked_sub(taken);
    *steps = left.unwrap_or(0);
    left.map(drop)
}

/// A pattern that is being read.
#[derive(Default)]
struct Reading {
    segments: Vec<Segment>,
    literals: Vec<u8>,
    parts: Vec<Part>,
    /// What was read since the last star.
    segment: Vec<Part>,
    len_min: usize,
}

impl Reading {
    fn end_segment(&mut self) {
        self.len_min += self.segment.len();
        let byte = |part: &Part| match part {
            Part::Byte(byte) => Some(*byte),
            Part::Any | Part::Class(_) => None,
        };
        let from = self.literals.len();
        if self.segment.iter().all(|part| byte(part).is_some()) {
            self.literals.extend(self.segment.drain(..).filter_map(|part| byte(&part)));
            self.segments.push(Segment::Literal(from..self.literals.len()));
        } else {
            let from = self.parts.len();
            self.parts.append(&mut self.segment);
            self.segments.push(Segment::Mixed(from..self.parts.len()));
        }
    }

    fn end(mut self) -> Pattern {
        self.end_segment();
        Pattern {
            segments: self.segments.into(),
            literals: self.literals.into(),
            parts: self.parts.into(),
            len_min: self.len_min,
        }
    }
}

impl Segment {
    /// Bytes of a text that it takes.
    fn len(&self) -> usize {
        let (Self::Literal(range) | Self::Mixed(range)) = self;
        range.len()
    }
}

impl Part {
    fn fits(&self, byte: u8) -> bool {
        match self {
            Self::Any => true,
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
    use proptest::prelude::*;

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

    /// Tries every place for every star.
    fn model(parts: &[Option<Part>], text: &[u8]) -> bool {
        match (parts, text) {
            ([], _) => text.is_empty(),
            ([None, rest @ ..], _) => (0..=text.len()).any(|at| model(rest, &text[at..])),
            ([Some(_), ..], []) => false,
            ([Some(part), rest @ ..], [byte, text @ ..]) => part.fits(*byte) && model(rest, text),
        }
    }

    fn parts() -> impl Strategy<Value = Vec<(String, Option<Part>)>> {
        let of = |bytes: &[u8]| {
            let mut bits = [0; 4];
            bytes.iter().for_each(|byte| bits[usize::from(byte >> 6)] |= 1 << (byte & 63));
            Some(Part::Class(Box::new(bits)))
        };
        let part = prop_oneof![
            3 => Just(("*".to_owned(), None)),
            6 => Just(("a".to_owned(), Some(Part::Byte(b'a')))),
            4 => Just(("b".to_owned(), Some(Part::Byte(b'b')))),
            1 => Just(("\\a".to_owned(), Some(Part::Byte(b'a')))),
            1 => Just(("?".to_owned(), Some(Part::Any))),
            1 => Just(("[bc]".to_owned(), of(b"bc"))),
            1 => Just(("[]".to_owned(), of(b""))),
        ];
        proptest::collection::vec(part, 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

        #[test]
        fn what_fits_is_what_fits_when_every_place_is_tried(parts in parts(), text in "[abc]{0,14}", steps in 0..400_u64) {
            let (words, parts): (Vec<String>, Vec<Option<Part>>) = parts.into_iter().unzip();
            let pattern = Pattern::new(words.concat().as_bytes());
            let expected = if text.is_empty() { parts.is_empty() } else { model(&parts, text.as_bytes()) };
            prop_assert_eq!(pattern.matches(text.as_bytes()), expected);
            let mut left = steps;
            match pattern.matches_within(text.as_bytes(), &mut left) {
                Some(fits) => prop_assert_eq!(fits, expected),
                None => prop_assert_eq!(left, 0),
            }
            prop_assert!(left < steps || steps == 0);
        }
    }

    /// Steps that a match takes, and what it comes to.
    fn steps(pattern: &str, text: &str, most: u64) -> (u64, Option<bool>) {
        let mut steps = most;
        let fits = Pattern::new(pattern.as_bytes()).matches_within(text.as_bytes(), &mut steps);
        (most - steps, fits)
    }

    #[test]
    fn bytes_between_stars_take_as_many_steps_as_the_text_has() {
        let text = "a".repeat(1 << 20);
        let no = |pattern: &str, text: &str| {
            let (steps, fits) = steps(pattern, text, u64::MAX);
            assert_eq!(fits, Some(false), "{pattern:.20}");
            steps
        };
        assert!(no(&("*".to_owned() + &"a".repeat(60_000) + "b*"), &text) <= (1 << 20) + 100);
        assert!(no(&("*".to_owned() + &"a".repeat(60_000) + "b"), &text) <= (1 << 20) + 100);
        assert!(no(&("a*".repeat(500) + "b*"), &text) <= (1 << 20) + 501 * (SEARCH + 1) + 100);
        assert!(no(&("[".to_owned() + &"x".repeat(60_000)), &text) < 3, "a class is looked at once");
        assert!(no(&("*[".to_owned() + &"x".repeat(60_000)), &text[..5000]) <= 10_002);
        assert!(no(&"a".repeat(60_000), &text[..5000]) <= 1, "what is too short is not looked at");
    }

    #[test]
    fn a_match_ends_where_its_steps_do() {
        let text = "a".repeat(100_000);
        let mixed = "*".to_owned() + &"a".repeat(1000) + "?b*";
        for (pattern, most) in [(&*mixed, 1_000_000), (&*mixed, 10), (&*mixed, 0), ("*b*", 50_000), ("a*", 0)] {
            assert_eq!(steps(pattern, &text, most), (most, None), "{pattern:.20}");
        }
        assert_eq!(steps("*b*", &(text.clone() + "b"), 200_000).1, Some(true));
        assert_eq!(steps("*ab*", &("ab".to_owned() + &text), 100).1, Some(true), "what is found early takes few");
    }

    #[test]
    fn a_pattern_takes_no_more_memory_than_it_is_counted_as() {
        for word in ["*", "?", "?*", "[]", "[]*", "a", "a*", "ab*", "\\a*?", "["] {
            for count in [0, 1, 2, 1000] {
                let text = word.repeat(count);
                let pattern = Pattern::new(text.as_bytes());
                let classes = pattern.parts.iter().filter(|part| matches!(part, Part::Class(_))).count();
                let bytes = size_of_val(&*pattern.segments)
                    + size_of_val(&*pattern.parts)
                    + pattern.literals.len()
                    + classes * size_of::<[u64; 4]>();
                assert!(bytes <= Pattern::bytes_max(text.len()), "{word} {count}: {bytes}");
            }
        }
    }
}
