//! The clocks of the data plane.
//!
//! The wall clock, for what is shown or sent (`Date`, logs, a cookie's end of life).
//!
//! Not here: the clock of leases and durations (`ballast-clock`), deadlines ([`crate::ticks`]).

use std::{
    cell::RefCell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Time since the Unix epoch, zero if the clock is set before it.
pub fn wall_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The wall clock once a tick: the `Date` field and seconds for cookies.
#[derive(Debug)]
pub struct Wall {
    inner: RefCell<(u64, [u8; 29])>,
}

impl Wall {
    /// Reads the clock.
    pub fn new() -> Self {
        let wall = Self { inner: RefCell::new((u64::MAX, [0; 29])) };
        wall.refresh();
        wall
    }

    /// Reads the clock again.
    pub fn refresh(&self) {
        let now = wall_now().as_secs();
        let mut inner = self.inner.borrow_mut();
        if inner.0 != now {
            *inner = (now, imf_fixdate(now));
        }
    }

    /// Seconds since the Unix epoch.
    pub fn secs(&self) -> u64 {
        self.inner.borrow().0
    }

    /// The `Date` field's value.
    pub fn date(&self) -> [u8; 29] {
        self.inner.borrow().1
    }
}

/// A `Date` (RFC 9110 section 5.6.7) from seconds since the Unix epoch.
fn imf_fixdate(secs: u64) -> [u8; 29] {
    let (year, month, day) = civil(secs / 86_400);
    let (hour, minute, second) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    // The epoch was a Thursday.
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(secs / 86_400 % 7) as usize];
    let name = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][month as usize - 1];
    let text = format!("{weekday}, {day:02} {name} {year:04} {hour:02}:{minute:02}:{second:02} GMT");
    let mut date = [b' '; 29];
    // Longer only from the year 10000 on.
    let length = text.len().min(date.len());
    date[..length].copy_from_slice(&text.as_bytes()[..length]);
    date
}

/// Year, month and day of a day since the Unix epoch (Hinnant's `civil_from_days`).
pub(crate) fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_known_instants() {
        for (secs, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(&imf_fixdate(secs)).unwrap(), text);
        }
    }
}
