//! Instants and spans of a run.
//!
//! All observers share one clock, `CLOCK_MONOTONIC` of the machine that runs the suite, counted from the start of the run, so
//! that what they say can be put in order.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant: nanoseconds of `CLOCK_MONOTONIC` since the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunTime(u64);

impl RunTime {
    /// The start of the run.
    pub const START: Self = Self(0);
    /// Later than everything that happens.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant so many nanoseconds after the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The instant so many milliseconds after the start.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Seconds since the start, for pictures and texts.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// That much later; [`RunTime::NEVER`] stays what it is.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }

    /// That much earlier, but not before the start.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        if self == Self::NEVER { self } else { Self(self.0.saturating_sub(nanos(span))) }
    }

    /// The time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for RunTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER { f.write_str("never") } else { write!(f, "{:.6} s", self.as_secs_f64()) }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// The time from one instant to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// Where it begins.
    pub from: RunTime,
    /// Where it ends; not before it begins.
    pub until: RunTime,
}

impl Span {
    /// From one instant to another. The second is moved up to the first if it is before it.
    pub fn new(from: RunTime, until: RunTime) -> Self {
        Self { from, until: until.max(from) }
    }

    /// How long it is.
    pub fn length(self) -> Duration {
        self.until.since(self.from)
    }

    /// Whether the two have an instant in common.
    pub fn touches(self, other: Self) -> bool {
        self.from <= other.until && other.from <= self.until
    }

    /// Whether the instant is in it.
    pub fn contains(self, at: RunTime) -> bool {
        self.from <= at && at <= self.until
    }

    /// What the two have in common.
    pub fn intersection(self, other: Self) -> Option<Self> {
        self.touches(other).then(|| Self { from: self.from.max(other.from), until: self.until.min(other.until) })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} .. {}", self.from, self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(from: u64, until: u64) -> Span {
        Span::new(RunTime::from_millis(from), RunTime::from_millis(until))
    }

    #[test]
    fn never_stays_never() {
        let second = Duration::from_secs(1);
        assert_eq!((RunTime::NEVER.after(second), RunTime::NEVER.before(second)), (RunTime::NEVER, RunTime::NEVER));
        assert_eq!(RunTime::START.before(second), RunTime::START);
    }

    #[test]
    fn spans_that_touch_have_an_instant_in_common() {
        assert_eq!(span(1, 5).intersection(span(5, 9)), Some(span(5, 5)));
        assert_eq!(span(1, 5).intersection(span(6, 9)), None);
        assert_eq!(span(5, 1), span(5, 5));
        assert_eq!(span(1, 5).length(), Duration::from_millis(4));
        assert!(span(1, 5).contains(RunTime::from_millis(5)) && !span(1, 5).contains(RunTime::from_millis(6)));
    }
}
