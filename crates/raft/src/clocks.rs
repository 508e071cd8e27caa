//! What the wall clocks of the cluster say, as far as this node was told.
//!
//! Every call between nodes, and every answer to a heartbeat or a vote, carries the sender's wall
//! clock. So a leader knows the clocks of the majority that elected it from its first moment, and
//! hears them again with each heartbeat. A reading is carried on by `CLOCK_BOOTTIME`, and forgotten
//! after ten seconds. The time a message was on its way makes a clock seem that much behind, which
//! is milliseconds, and never ahead. Beside it goes what log time has reached by the sender's own
//! reckoning, for a node that leads after it was away.
//!
//! Not here: what log time makes of it (`proposer::log_clock`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ballast_clock::boot_now;
use ballast_core::{
    ids::NodeId,
    time::{BootNanos, LogTime},
};
use parking_lot::Mutex;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::proposer::{LogClock, slowest};

/// Metadata with the sender's wall clock, in decimal microseconds since the Unix epoch.
pub(crate) const CLOCK: &str = "ballast-clock";

/// Metadata with what log time has reached at the least, in decimal microseconds since the Unix epoch.
pub(crate) const LOG_CLOCK: &str = "ballast-log-clock";

/// How long a reading counts. Twice the longest time between two calls of a voter to the leader
/// (`duties::COMPARE_EVERY`, when entries take the place of heartbeats), and some; in so short a
/// time two machines' `CLOCK_BOOTTIME` drift apart by less than a millisecond.
const FRESH_NANOS: u64 = 10_000_000_000;

/// How long it is known how far this node's clock is off, after it was last compared.
const OFFSET_FRESH_NANOS: u64 = 15_000_000_000;

/// Microseconds since the Unix epoch, by somebody's wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WallTime(u64);

impl WallTime {
    pub(crate) const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    pub(crate) const fn as_micros(self) -> u64 {
        self.0
    }

    pub(crate) fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    const fn plus_nanos(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos / 1000))
    }

    /// By how much this is later than `other`, in microseconds; negative if it is earlier.
    fn ahead_of(self, other: Self) -> i64 {
        i64::try_from(i128::from(self.0) - i128::from(other.0)).unwrap_or(if self > other {
            i64::MAX
        } else {
            i64::MIN
        })
    }
}

impl From<LogTime> for WallTime {
    fn from(time: LogTime) -> Self {
        Self(time.as_millis().saturating_mul(1000))
    }
}

impl From<SystemTime> for WallTime {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

/// The latest time that the clocks of a majority of every voter set have reached, or `None` when
/// not enough of them are known.
///
/// With all clocks of an odd set known this is their median. With fewer known it is never later
/// than what a majority says, so that a minority of wrong clocks cannot move it into the future.
pub(crate) fn voters_time<'a>(
    sets: impl IntoIterator<Item = &'a BTreeSet<u64>>,
    reading: impl Fn(u64) -> Option<WallTime>,
) -> Option<WallTime> {
    let mut agreed: Option<WallTime> = None;
    for set in sets {
        let mut told: Vec<WallTime> = set.iter().filter_map(|voter| reading(*voter)).collect();
        told.sort_unstable_by(|a, b| b.cmp(a));
        let reached = *told.get(set.len() / 2)?;
        agreed = Some(agreed.map_or(reached, |agreed| agreed.min(reached)));
    }
    agreed
}

/// What a node told of its clocks.
#[derive(Clone, Copy, Debug)]
struct Heard {
    wall: WallTime,
    /// What log time has reached at the least.
    log: Option<WallTime>,
    at: BootNanos,
}

/// The clocks of the nodes.
#[derive(Debug)]
pub(crate) struct Clocks {
    me: NodeId,
    own: fn() -> SystemTime,
    log: Arc<Mutex<LogClock>>,
    heard: Mutex<BTreeMap<NodeId, Heard>>,
    /// By how many microseconds this node's clock is ahead of the voters', and when that was found.
    offset: Mutex<Option<(i64, BootNanos)>>,
}

impl Clocks {
    /// Knows no clock but those of `me`: its wall clock, which `own` reads, and its log clock.
    pub(crate) fn new(me: NodeId, own: fn() -> SystemTime, log: Arc<Mutex<LogClock>>) -> Self {
        Self { me, own, log, heard: Mutex::default(), offset: Mutex::default() }
    }

    /// This node's wall clock.
    pub(crate) fn own(&self) -> WallTime {
        (self.own)().into()
    }

    /// Puts this node's clocks into the metadata of a call or an answer.
    pub(crate) fn tell(&self, metadata: &mut MetadataMap) {
        metadata.insert(CLOCK, MetadataValue::<Ascii>::from(self.own().as_micros()));
        let log = self.log.lock().at_least(boot_now());
        if let Some(log) = log {
            metadata.insert(LOG_CLOCK, MetadataValue::<Ascii>::from(log.as_micros()));
        }
    }

    /// Takes the clocks of `from` out of the metadata of its call or answer, if they are there.
    pub(crate) fn hear(&self, from: NodeId, metadata: &MetadataMap) {
        let told =
            |key| metadata.get(key).and_then(|value| value.to_str().ok()?.parse().ok()).map(WallTime::from_micros);
        if let Some(wall) = told(CLOCK) {
            self.note(from, Heard { wall, log: told(LOG_CLOCK), at: boot_now() });
        }
    }

    fn note(&self, from: NodeId, told: Heard) {
        let mut heard = self.heard.lock();
        heard.retain(|_, heard| told.at.since(heard.at) < FRESH_NANOS);
        heard.insert(from, told);
    }

    /// What log time has reached at `now` at the least, by what other nodes told lately.
    pub(crate) fn log_time_told(&self, now: BootNanos) -> Option<WallTime> {
        let heard = self.heard.lock();
        let fresh = heard.values().filter(|heard| now.since(heard.at) < FRESH_NANOS);
        fresh.filter_map(|heard| Some(slowest(heard.log?, now.since(heard.at)))).max()
    }

    /// The voters' time at `now`, see [`voters_time`].
    pub(crate) fn voters_time<'a>(
        &self,
        sets: impl IntoIterator<Item = &'a BTreeSet<u64>>,
        now: BootNanos,
    ) -> Option<WallTime> {
        let own = self.own();
        let heard = self.heard.lock();
        voters_time(sets, |voter| {
            if voter == self.me.get() {
                return Some(own);
            }
            let told = heard.get(&NodeId::new(voter))?;
            let age = now.since(told.at);
            (age < FRESH_NANOS).then(|| told.wall.plus_nanos(age))
        })
    }

    /// Keeps by how much `own` was ahead of the voters' time.
    pub(crate) fn compared(&self, own: WallTime, voters: WallTime) {
        *self.offset.lock() = Some((own.ahead_of(voters), boot_now()));
    }

    /// By how many microseconds this node's wall clock is ahead of the voters' time, if it was compared lately.
    pub(crate) fn offset_micros(&self) -> Option<i64> {
        let (offset, at) = (*self.offset.lock())?;
        (boot_now().since(at) < OFFSET_FRESH_NANOS).then_some(offset)
    }
}

/// A clock that is off by more than this is worth a word: certificates and people's logs go wrong.
const OFFSET_MAX_MICROS: u64 = 1_000_000;

/// So many looks in a row must find the clock off. One late message looks like a clock that is behind.
const LOOKS: u32 = 5;

/// Decides when to speak of a wrong clock: once, and again when it got another one.
#[derive(Debug, Default)]
pub(crate) struct OffsetAlarm {
    looks: u32,
    warned: Option<i64>,
}

/// What to say of this node's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OffsetNotice {
    /// It is off by so many microseconds (ahead if positive).
    Off(i64),
    /// It was off and is not any more.
    Right,
}

impl OffsetAlarm {
    /// Looks at an offset.
    pub(crate) fn look(&mut self, offset: i64) -> Option<OffsetNotice> {
        if offset.unsigned_abs() <= OFFSET_MAX_MICROS {
            self.looks = 0;
            // Only well below the bound, so that a clock beside it does not speak every minute.
            let right = offset.unsigned_abs() <= OFFSET_MAX_MICROS / 2;
            return (right && self.warned.take().is_some()).then_some(OffsetNotice::Right);
        }
        self.looks = (self.looks + 1).min(LOOKS);
        let changed = self
            .warned
            .is_none_or(|warned| offset.abs_diff(warned) > (warned.unsigned_abs() / 2).max(OFFSET_MAX_MICROS));
        if self.looks < LOOKS || !changed {
            return None;
        }
        self.warned = Some(offset);
        Some(OffsetNotice::Off(offset))
    }
}

/// Says it in the log.
pub(crate) fn announce(notice: OffsetNotice) {
    match notice {
        OffsetNotice::Off(offset) => {
            let by = Duration::from_micros(offset.unsigned_abs());
            let way = if offset > 0 { "ahead of" } else { "behind" };
            tracing::warn!(
                "this node's wall clock is {by:.1?} {way} the time that a majority of the voters has; is chronyd or \
                 ntpd running here? The cluster goes by the majority"
            );
        }
        OffsetNotice::Right => tracing::info!("this node's wall clock agrees with the voters' again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn of(told: &[(u64, u64)], voters: &[u64]) -> Option<u64> {
        let told: BTreeMap<u64, u64> = told.iter().copied().collect();
        let set: BTreeSet<u64> = voters.iter().copied().collect();
        voters_time([&set], |voter| told.get(&voter).copied().map(WallTime::from_micros)).map(WallTime::as_micros)
    }

    #[test]
    fn it_is_the_median_of_an_odd_set_and_never_later_than_a_majority() {
        assert_eq!(of(&[(1, 50)], &[1]), Some(50));
        assert_eq!(of(&[(1, 50), (2, 60), (3, 999)], &[1, 2, 3]), Some(60));
        assert_eq!(of(&[(1, 50), (2, 60), (3, 0)], &[1, 2, 3]), Some(50));
        assert_eq!(of(&[(1, 50), (3, 999)], &[1, 2, 3]), Some(50), "two of three: what both have reached");
        assert_eq!(of(&[(1, 50)], &[1, 2, 3]), None);
        assert_eq!(of(&[(1, 50), (2, 60), (9, 70)], &[1, 2, 3]), Some(50), "9 does not vote");
        assert_eq!(of(&[(1, 50), (2, 60)], &[1, 2]), Some(50));
        assert_eq!(of(&[(1, 1), (2, 2), (3, 3), (4, 4)], &[1, 2, 3, 4]), Some(2));
        assert_eq!(of(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)], &[1, 2, 3, 4, 5]), Some(3));
        assert_eq!(of(&[(1, 1)], &[]), None);
    }

    #[test]
    fn while_the_voters_change_both_sets_count() {
        let (old, new) = (BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5]));
        let all = |voter: u64| Some(WallTime::from_micros(voter));
        assert_eq!(voters_time([&old, &new], all), Some(WallTime::from_micros(2)));
        let old_only = |voter: u64| (voter <= 3).then(|| WallTime::from_micros(voter));
        assert_eq!(voters_time([&old, &new], old_only), None);
    }

    #[test]
    fn a_reading_is_carried_on_and_forgotten() {
        let wall = || UNIX_EPOCH + Duration::from_secs(1000);
        let clocks = Clocks::new(NodeId::new(1), wall, Arc::default());
        let (voters, at) = (BTreeSet::from([1, 2]), |seconds| BootNanos::new(seconds * SECOND));
        assert_eq!(clocks.voters_time([&voters], at(5)), None);
        let (wall, log) = (WallTime::from_micros(990_000_000), Some(WallTime::from_micros(980_000_000)));
        clocks.note(NodeId::new(2), Heard { wall, log, at: at(5) });
        assert_eq!(clocks.voters_time([&voters], at(5)), Some(WallTime::from_micros(990_000_000)));
        assert_eq!(clocks.voters_time([&voters], at(9)), Some(WallTime::from_micros(994_000_000)));
        assert_eq!(clocks.log_time_told(at(9)), Some(WallTime::from_micros(983_600_000)), "log time may be slow");
        assert_eq!(clocks.voters_time([&voters], at(15)), None);
        assert_eq!(clocks.log_time_told(at(15)), None);
    }

    #[test]
    fn a_clock_travels_in_the_metadata_and_nonsense_is_ignored() {
        let wall = || UNIX_EPOCH + Duration::from_secs(1000);
        let log = Arc::<Mutex<LogClock>>::default();
        let sender = Clocks::new(NodeId::new(1), wall, Arc::clone(&log));
        let receiver = Clocks::new(NodeId::new(2), wall, Arc::default());
        let mut metadata = MetadataMap::new();
        receiver.hear(NodeId::new(1), &metadata);
        metadata.insert(CLOCK, MetadataValue::from_static("noon"));
        receiver.hear(NodeId::new(1), &metadata);
        assert!(receiver.heard.lock().is_empty());
        sender.tell(&mut metadata);
        receiver.hear(NodeId::new(1), &metadata);
        assert_eq!(receiver.heard.lock()[&NodeId::new(1)].wall, WallTime::from_micros(1_000_000_000));
        assert_eq!(receiver.log_time_told(boot_now()), None, "the sender has applied nothing");
        log.lock().observe(boot_now(), LogTime::from_millis(999_000));
        sender.tell(&mut metadata);
        receiver.hear(NodeId::new(1), &metadata);
        assert!(receiver.log_time_told(boot_now()) >= Some(WallTime::from_micros(999_000_000)));
    }

    #[test]
    fn a_wrong_clock_is_spoken_of_once_and_again_when_it_changed() {
        let mut alarm = OffsetAlarm::default();
        let mut say = |offset: i64| (0..20).filter_map(|_| alarm.look(offset)).collect::<Vec<_>>();
        assert_eq!(say(900_000), []);
        assert_eq!(say(-3_000_000), [OffsetNotice::Off(-3_000_000)]);
        assert_eq!(say(-3_900_000), [], "nearly the same");
        assert_eq!(say(86_400_000_000), [OffsetNotice::Off(86_400_000_000)]);
        assert_eq!(say(800_000), [], "beside the bound");
        assert_eq!(say(1_000), [OffsetNotice::Right]);
        assert_eq!(say(1_000), []);
    }

    #[test]
    fn a_few_late_messages_are_not_a_wrong_clock() {
        let mut alarm = OffsetAlarm::default();
        for _ in 0..10 {
            for _ in 1..LOOKS {
                assert_eq!(alarm.look(5_000_000), None);
            }
            assert_eq!(alarm.look(0), None);
        }
    }
}
