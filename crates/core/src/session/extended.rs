//! Numbers with a point, as Redis has them on x86-64: 80-bit extended precision, in whole numbers.
//!
//! `INCRBYFLOAT` and `HINCRBYFLOAT` add in C's `long double`. Machines differ in what that is, and replicas must not, so
//! the format of x86-64 is worked out here: a mantissa of 64 bits, rounded to the nearest, ties to even, and printed
//! with 17 digits after the point without trailing zeros. What is written hexadecimally is not read.

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

/// Powers of ten beyond this are infinite or nothing whatever the digits are.
const POWER_MAX: i64 = 2 * TEXT_BYTES_MAX as i64 + 5000;

const DIGITS: u32 = 17;

impl Extended {
    /// The number that a text is; `None` if it is none, or one that the format cannot hold.
    pub(super) fn parse(text: &[u8]) -> Option<Parsed> {
        if text.len() >= TEXT_BYTES_MAX {
            return None;
        }
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
            return Some(Parsed::Infinite);
        }
        let (digits, power) = decimal(rest)?;
        if digits == BigUint::ZERO {
            return Some(Parsed::Number(Self { negative, mantissa: 0, exponent: 0 }));
        }
        let ten = |power: i64| BigUint::from(10_u8).pow(power.unsigned_abs() as u32);
        if power.abs() > POWER_MAX {
            return None;
        }
        let number = match power {
            0.. => Self::round(negative, digits * ten(power), 0, false)?,
            _ => {
                let divisor = ten(power);
                // So far that the quotient has more bits than the mantissa.
                let shift = (divisor.bits() + 66).saturating_sub(digits.bits());
                let shifted = digits << shift;
                let quotient = &shifted / &divisor;
                let inexact = &quotient * &divisor != shifted;
                Self::round(negative, quotient, -(shift as i64), inexact)?
            }
        };
        (number.exponent >= EXPONENT_MIN).then_some(Parsed::Number(number))
    }

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

/// Digits and power of ten of an unsigned decimal number; `None` if it is not one.
fn decimal(text: &[u8]) -> Option<(BigUint, i64)> {
    let exponent_at = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (mantissa, exponent) = match exponent_at {
        None => (text, 0),
        Some(at) => (&text[..at], power(&text[at + 1..])?),
    };
    let (integer, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
        None => (mantissa, &[][..]),
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
    };
    let digits = [integer, fraction].concat();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some((BigUint::parse_bytes(&digits, 10)?, exponent - fraction.len() as i64))
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

    fn number(text: &str) -> Extended {
        match Extended::parse(text.as_bytes()) {
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
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Extended::parse(&[b'1'; TEXT_BYTES_MAX]), None);
        for text in ["inf", "-INF", "+Infinity"] {
            assert_eq!(Extended::parse(text.as_bytes()), Some(Parsed::Infinite), "{text:?}");
        }
        for text in ["0e99999999999999999999", "1.", ".5", "+3", "1E2", "000", "-0"] {
            assert!(matches!(Extended::parse(text.as_bytes()), Some(Parsed::Number(_))), "{text:?}");
        }
    }
}
