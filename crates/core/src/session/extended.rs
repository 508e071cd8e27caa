//! Numbers with a point, as Redis has them on x86-64: 80-bit extended precision, in whole numbers.
//!
//! `INCRBYFLOAT` and `HINCRBYFLOAT` add in C's `long double`. Machines differ in what that is, and replicas must not, so
//! the format of x86-64 is worked out here: a mantissa of 64 bits, rounded to the nearest, ties to even, and printed
//! with 17 digits after the point without trailing zeros. What is written hexadecimally is not read.

use std::ops::RangeInclusive;

use num_bigint::BigUint;

/// A number that is not infinite: sign, and mantissa times two to the power of the exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extended {
    negative: bool,
    /// With its highest bit set, or zero.
    mantissa: u64,
    exponent: i32,
}

/// What a text can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Number(Extended),
    Infinite,
}

/// Longest text that is read, as in Redis.
const TEXT_BYTES_MAX: usize = 5 * 1024;

/// Exponents of the greatest number and of the least, with the mantissa taken for a whole number.
const EXPONENT_MAX: i32 = 16_383 - 63;
const EXPONENT_MIN: i32 = -16_382 - 63;

/// Powers of ten that numbers are below: less is nothing, more is infinite, whatever their digits are. The least number is
/// 3.4e-4932, the greatest 1.2e4932.
const MAGNITUDES: RangeInclusive<i64> = -4931..=4933;

const DIGITS: u32 = 17;

/// What a text says, read and not worked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Digits without leading zeros, times ten to a power.
    Decimal {
        negative: bool,
        digits: Vec<u8>,
        power: i64,
    },
    Infinite,
}

impl Written {
    /// Reads a text; `None` if it is no number.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        if text.len() >= TEXT_BYTES_MAX {
            return None;
        }
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
            return Some(Self::Infinite);
        }
        let (digits, power) = decimal(rest)?;
        Some(Self::Decimal { negative, digits, power })
    }

    /// What [`Self::round`] takes, and what is done with the number after it, in units of about a nanosecond: what is
    /// multiplied and divided has as many digits as there are, and as many as the power says.
    pub(super) fn work(&self) -> u64 {
        match self {
            Self::Decimal { digits, power, .. } if !digits.is_empty() && is_within(digits, *power) => {
                let digits = digits.len() as u64 + power.unsigned_abs();
                digits * digits / DIGITS_SQUARED_PER_UNIT
            }
            Self::Decimal { .. } | Self::Infinite => 0,
        }
    }

    /// The number that it is; `None` if it is one that the format cannot hold.
    pub(super) fn round(self) -> Option<Parsed> {
        let Self::Decimal { negative, digits, power } = self else { return Some(Parsed::Infinite) };
        if digits.is_empty() {
            return Some(Parsed::Number(Extended { negative, mantissa: 0, exponent: 0 }));
        }
        if !is_within(&digits, power) {
            return None;
        }
        let digits = BigUint::parse_bytes(&digits, 10)?;
        let ten = |power: i64| BigUint::from(10_u8).pow(power.unsigned_abs() as u32);
        let number = match power {
            0.. => Extended::round(negative, digits * ten(power), 0, false)?,
            _ => {
                let divisor = ten(power);
                // So far that the quotient has more bits than the mantissa.
                let shift = (divisor.bits() + 66).saturating_sub(digits.bits());
                let shifted = digits << shift;
                let quotient = &shifted / &divisor;
                let inexact = &quotient * &divisor != shifted;
                Extended::round(negative, quotient, -(shift as i64), inexact)?
            }
        };
        (number.exponent >= EXPONENT_MIN).then_some(Parsed::Number(number))
    }
}

/// A number of 5000 digits takes a tenth of a millisecond or two.
const DIGITS_SQUARED_PER_UNIT: u64 = 128;

/// Whether the format may hold a number of these digits.
fn is_within(digits: &[u8], power: i64) -> bool {
    MAGNITUDES.contains(&(digits.len() as i64 + power))
}

impl Extended {
    /// The sum; `None` if it is infinite.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        if self.mantissa == 0 || other.mantissa == 0 {
            let sum = if self.mantissa == 0 { other } else { self };
            return Some(Self { negative: sum.negative && (sum.mantissa != 0 || self.negative), ..sum });
        }
        let (large, small) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        let distance = large.exponent - small.exponent;
        // Further away than this, the small one only says in which direction the large one is not exact.
        let (small_mantissa, distance) = if distance > 130 { (1, 130) } else { (small.mantissa, distance) };
        let base = large.exponent - distance;
        let (a, b) = (BigUint::from(large.mantissa) << distance, BigUint::from(small_mantissa));
        let (negative, sum) = match (large.negative == small.negative, a >= b) {
            (true, _) => (large.negative, a + b),
            (false, true) => (large.negative, a - b),
            (false, false) => (small.negative, b - a),
        };
        if sum == BigUint::ZERO {
            return Some(Self { negative: false, mantissa: 0, exponent: 0 });
        }
        Self::round(negative, sum, base.into(), false)
    }

    /// The nearest number to `value` times two to the power of `exponent`; `inexact` says that there is a little more.
    fn round(negative: bool, value: BigUint, exponent: i64, inexact: bool) -> Option<Self> {
        let bits = value.bits() as i64;
        let excess = bits - 64;
        let (mut mantissa, mut exponent) = match excess {
            ..=0 => (low_word(&(value << excess.unsigned_abs())), exponent + excess),
            _ => {
                let kept = low_word(&(&value >> excess));
                let rest = &value - (BigUint::from(kept) << excess);
                let half = BigUint::from(1_u8) << (excess - 1);
                let up = rest > half || rest == half && (inexact || kept & 1 == 1);
                if !up {
                    (kept, exponent + excess)
                } else {
                    match kept.checked_add(1) {
                        Some(mantissa) => (mantissa, exponent + excess),
                        None => (1 << 63, exponent + excess + 1),
                    }
                }
            }
        };
        if mantissa == 0 {
            (mantissa, exponent) = (0, 0);
        }
        let exponent = i32::try_from(exponent).ok().filter(|exponent| *exponent <= EXPONENT_MAX)?;
        Some(Self { negative, mantissa, exponent })
    }

    /// The text that Redis keeps of it.
    pub(super) fn to_text(self) -> String {
        let scaled = BigUint::from(self.mantissa) * BigUint::from(10_u8).pow(DIGITS);
        let whole = match self.exponent {
            0.. => scaled << self.exponent,
            _ => {
                let shift = self.exponent.unsigned_abs();
                let kept = &scaled >> shift;
                let rest = &scaled - (&kept << shift);
                let half = BigUint::from(1_u8) << (shift - 1);
                let odd = kept.bit(0);
                if rest > half || rest == half && odd { kept + 1_u8 } else { kept }
            }
        };
        let digits = format!("{:0>width$}", whole.to_string(), width = DIGITS as usize + 1);
        let (integer, fraction) = digits.split_at(digits.len() - DIGITS as usize);
        let fraction = fraction.trim_end_matches('0');
        let sign = if self.negative && whole != BigUint::ZERO { "-" } else { "" };
        if fraction.is_empty() { format!("{sign}{integer}") } else { format!("{sign}{integer}.{fraction}") }
    }
}

fn low_word(value: &BigUint) -> u64 {
    value.iter_u64_digits().next().unwrap_or(0)
}

/// Digits, without leading zeros, and power of ten of an unsigned decimal number; `None` if it is not one.
fn decimal(text: &[u8]) -> Option<(Vec<u8>, i64)> {
    let exponent_at = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (mantissa, exponent) = match exponent_at {
        None => (text, 0),
        Some(at) => (&text[..at], power(&text[at + 1..])?),
    };
    let (integer, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
        None => (mantissa, &[][..]),
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
    };
    let mut digits = [integer, fraction].concat();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    digits.drain(..digits.iter().take_while(|digit| **digit == b'0').count());
    Some((digits, exponent - fraction.len() as i64))
}

fn power(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"+").or(text.strip_prefix(b"-")).unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Beyond any sense, whatever its digits are.
    let value = std::str::from_utf8(digits).ok()?.parse().unwrap_or(i64::from(i32::MAX)).min(i64::from(i32::MAX));
    Some(if text[0] == b'-' { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Option<Parsed> {
        Written::read(text).and_then(Written::round)
    }

    fn number(text: &str) -> Extended {
        match parse(text.as_bytes()) {
            Some(Parsed::Number(number)) => number,
            other => panic!("{text}: {other:?}"),
        }
    }

    /// Each line is what a Redis 7.0 on x86-64 answered to `SET k <a>` and `INCRBYFLOAT k <b>`.
    #[test]
    fn sums_are_those_of_redis() {
        for line in include_str!("extended_sums.txt").lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            let [a, b, sum] = words[..] else { panic!("{line}") };
            let found = number(a).plus(number(b)).map(Extended::to_text);
            assert_eq!(found.as_deref().unwrap_or("infinite"), sum, "{line}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in
            ["", "-", ".", "e5", "1e", "1e+", "1 ", " 1", "1x", "0x10", "nan", "1.2.3", "--1", "1e5000", "1e-5000"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse(&[b'1'; TEXT_BYTES_MAX]), None);
        for text in ["inf", "-INF", "+Infinity"] {
            assert_eq!(parse(text.as_bytes()), Some(Parsed::Infinite), "{text:?}");
        }
        for text in ["0e99999999999999999999", "1.", ".5", "+3", "1E2", "000", "-0"] {
            assert!(matches!(parse(text.as_bytes()), Some(Parsed::Number(_))), "{text:?}");
        }
    }

    #[test]
    fn what_the_format_cannot_hold_is_refused_before_it_is_worked_out() {
        let zeros = "0".repeat(5000);
        for (text, holds) in [
            ("1.18973149535723176502e4932".to_owned(), true),
            ("1.1897314953572317651e4932".to_owned(), false),
            ("1e4932".to_owned(), true),
            ("9e4932".to_owned(), false),
            ("3.3621031431120935063e-4932".to_owned(), true),
            ("3.3621031431120935062e-4932".to_owned(), true),
            ("3.36210314311209350e-4932".to_owned(), false),
            ("1e-4931".to_owned(), true),
            ("1e-4932".to_owned(), false),
            (format!("1{zeros}e-4999"), true),
            (format!("0.{zeros}1e5000"), true),
            (format!("{zeros}1"), true),
        ] {
            assert_eq!(parse(text.as_bytes()).is_some(), holds, "{text:.40}");
        }
        for text in ["1e4933", "1e-4933", "1e15000", "123e-15000", "1e99999999999", "-1e-99999999999"] {
            let written = Written::read(text.as_bytes()).expect("a number");
            assert_eq!((written.work(), written.round()), (0, None), "{text}");
        }
        let work = |text: &str| Written::read(text.as_bytes()).expect("a number").work();
        assert_eq!((work("0"), work("-1.5"), work("inf"), work(&zeros), work("0e4000")), (0, 0, 0, 0, 0));
        assert!(work("3.14159265358979") < 16, "what people count with is nearly free");
        assert!([work("1e4932"), work("1e-4931"), work(&"1".repeat(4933))].iter().all(|work| *work > 100_000));
    }
}
