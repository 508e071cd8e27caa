//! When to announce which VIP. Pure: fed the time, it gives frames.
//!
//! A neighbour learns from one frame, so the first is what a take-over waits for; the others are for
//! the case that it is lost, and for switches that learn late. Many VIPs gained at once get their
//! first frames before any gets its second, in batches with a pause between, so that neither the
//! link nor the lease thread is held up; a step whose time passed while others were served is left
//! out rather than sent late.
//!
//! Each frame says until when it may be sent: one that leaves after the lease could move neighbours
//! away from the next owner. Not here: the socket (`packet`), and who holds what.

use std::net::IpAddr;

use ballast_core::{ids::VipId, time::BootNanos};

use super::{Frame, Mac, frame::announcement};

const MILLI: u64 = 1_000_000;

/// After gaining. A loss of the first frames is repaired before anybody notices, a switch that was
/// still learning within a second.
const STEPS_NANOS: [u64; 7] = [0, MILLI, 3 * MILLI, 10 * MILLI, 50 * MILLI, 200 * MILLI, 1000 * MILLI];

/// RFC 5227 section 2.4 and 1.1, `DEFEND_INTERVAL`: who defends an address by force of habit announces it at most so often, or
/// two that do would answer each other for ever.
const DEFEND_NANOS: u64 = 10_000_000_000;

/// Frames in one batch: at 4 us each a quarter of a millisecond of the lease thread.
const FRAMES_PER_TURN_MAX: usize = 64;

/// Between full batches, and at least between two frames for one address however often it is asked
/// for.
const PAUSE_NANOS: u64 = MILLI;

/// A frame to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The VIP.
    pub vip: VipId,
    /// Index of the interface.
    pub interface: u32,
    /// What to send.
    pub frame: Frame,
    /// Not from then on.
    pub until: BootNanos,
}

/// The announcements of all VIPs held.
#[derive(Debug, Default)]
pub struct Announcer {
    series: Vec<Series>,
    resume_at: BootNanos,
}

/// The announcements of one address of a VIP.
#[derive(Debug)]
struct Series {
    vip: VipId,
    interface: u32,
    address: IpAddr,
    frame: Frame,
    until: BootNanos,
    started_at: BootNanos,
    /// The next of [`STEPS_NANOS`]; past the last when all are sent.
    step: usize,
    sent_at: Option<BootNanos>,
    /// When one frame more is due, because somebody else claimed the address.
    defence_at: Option<BootNanos>,
    defended_at: Option<BootNanos>,
}

impl Announcer {
    /// Nothing held. Does not allocate until more addresses are held at once.
    pub fn new(addresses_max: usize) -> Self {
        Self { series: Vec::with_capacity(addresses_max), resume_at: BootNanos::default() }
    }

    /// This node holds the VIP until then: begins to announce its addresses from an interface.
    /// Called again for a VIP held already, it begins anew (its interface may have come back with
    /// another index).
    pub fn hold(
        &mut self,
        now: BootNanos,
        vip: VipId,
        (interface, mac): (u32, Mac),
        addresses: &[IpAddr],
        until: BootNanos,
    ) {
        self.stop(vip);
        self.series.extend(addresses.iter().map(|&address| Series {
            vip,
            interface,
            address,
            frame: announcement(address, mac),
            until,
            started_at: now,
            step: 0,
            sent_at: None,
            defence_at: None,
            defended_at: None,
        }));
    }

    /// The lease was extended.
    pub fn renew(&mut self, vip: VipId, until: BootNanos) {
        for series in self.series.iter_mut().filter(|series| series.vip == vip) {
            series.until = until;
        }
    }

    /// Begins the series of a VIP anew, if it is held: somebody may have heard from another.
    pub fn announce_again(&mut self, now: BootNanos, vip: VipId) {
        for series in self.series.iter_mut().filter(|series| series.vip == vip) {
            series.begin_again(now);
        }
    }

    /// As [`Announcer::announce_again`] for every VIP held on this interface (its link came back), or
    /// on all (a peer came back).
    pub fn announce_all_again(&mut self, now: BootNanos, interface: Option<u32>) {
        let concerned = |series: &&mut Series| interface.is_none_or(|index| series.interface == index);
        for series in self.series.iter_mut().filter(concerned) {
            series.begin_again(now);
        }
    }

    /// Announces an address once, if it is held: somebody else claims it. At most once in ten seconds, and not while a series
    /// says so anyway.
    pub fn once(&mut self, now: BootNanos, address: IpAddr) {
        for series in self.series.iter_mut().filter(|series| series.address == address) {
            let lately = series.defended_at.is_some_and(|at| now.since(at) < DEFEND_NANOS);
            if !lately && series.step_at().is_none() {
                (series.defence_at, series.defended_at) = (Some(now), Some(now));
            }
        }
    }

    /// The VIP is held no longer.
    pub fn stop(&mut self, vip: VipId) {
        self.series.retain(|series| series.vip != vip);
    }

    /// Appends the frames to send now, at most [`FRAMES_PER_TURN_MAX`].
    pub fn due(&mut self, now: BootNanos, out: &mut Vec<Announcement>) {
        if self.next_deadline().is_none_or(|next| now < next) {
            return;
        }
        let mut left = FRAMES_PER_TURN_MAX;
        for step in 0..STEPS_NANOS.len() {
            for series in &mut self.series {
                // A defence goes out with the last steps: a VIP that is being gained comes first.
                let turn = series.step.min(STEPS_NANOS.len() - 1);
                if turn != step || series.due_at().is_none_or(|at| at > now) {
                    continue;
                }
                if left == 0 {
                    self.resume_at = now.plus(PAUSE_NANOS);
                    return;
                }
                if now < series.until {
                    left -= 1;
                    series.sent_at = Some(now);
                    let Series { vip, interface, frame, until, .. } = *series;
                    out.push(Announcement { vip, interface, frame, until });
                }
                series.skip_to_future(now);
            }
        }
    }

    /// When to call [`Announcer::due`] next.
    pub fn next_deadline(&self) -> Option<BootNanos> {
        let next = self.series.iter().filter_map(Series::due_at).min()?;
        Some(next.max(self.resume_at))
    }

    /// Whether the address is being held and announced.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.series.iter().any(|series| series.address == address)
    }
}

impl Series {
    fn due_at(&self) -> Option<BootNanos> {
        self.step_at().or(self.defence_at)
    }

    /// When the next frame of the series is due.
    fn step_at(&self) -> Option<BootNanos> {
        STEPS_NANOS.get(self.step).map(|&nanos| self.started_at.plus(nanos))
    }

    fn begin_again(&mut self, now: BootNanos) {
        let earliest = self.sent_at.map_or(now, |at| at.plus(PAUSE_NANOS));
        self.started_at = now.max(earliest);
        self.step = 0;
    }

    fn skip_to_future(&mut self, now: BootNanos) {
        self.defence_at = None;
        while self.step_at().is_some_and(|at| at <= now) {
            self.step += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: (u32, Mac) = (2, Mac::new([2, 0, 0, 0, 1, 1]));
    const FOR_EVER: BootNanos = BootNanos::new(u64::MAX);

    fn address(vip: u8) -> IpAddr {
        [10, 0, 0, vip].into()
    }

    fn hold(announcer: &mut Announcer, now: u64, vip: u8, until: BootNanos) {
        announcer.hold(BootNanos::new(now), VipId::new(vip.into()), LINK, &[address(vip)], until);
    }

    /// Runs until nothing is due before `end`; when each VIP was announced, in microseconds.
    fn run(announcer: &mut Announcer, end: u64) -> Vec<(u64, u32)> {
        let mut sent = Vec::new();
        while let Some(now) = announcer.next_deadline().filter(|now| now.get() < end) {
            let mut out = Vec::new();
            announcer.due(now, &mut out);
            sent.extend(out.iter().map(|announcement| (now.get() / 1000, announcement.vip.get())));
        }
        sent
    }

    fn times(sent: &[(u64, u32)], vip: u32) -> Vec<u64> {
        sent.iter().filter(|(_, of)| *of == vip).map(|(at, _)| *at).collect()
    }

    #[test]
    fn a_series_is_sent_after_gaining() {
        let mut announcer = Announcer::new(4);
        hold(&mut announcer, 0, 5, FOR_EVER);
        let sent = run(&mut announcer, u64::MAX);
        assert_eq!(times(&sent, 5), [0, 1_000, 3_000, 10_000, 50_000, 200_000, 1_000_000]);
        assert_eq!(announcer.next_deadline(), None);
        assert!(announcer.holds(address(5)) && !announcer.holds(address(6)));
    }

    #[test]
    fn nothing_is_sent_when_the_lease_is_over() {
        let mut announcer = Announcer::new(4);
        hold(&mut announcer, 0, 5, BootNanos::new(5 * MILLI));
        assert_eq!(times(&run(&mut announcer, 9 * MILLI), 5), [0, 1_000, 3_000]);
        announcer.renew(VipId::new(5), BootNanos::new(100 * MILLI));
        assert_eq!(times(&run(&mut announcer, u64::MAX), 5), [10_000, 50_000]);
    }

    #[test]
    fn frames_say_until_when_they_may_be_sent() {
        let mut announcer = Announcer::new(4);
        hold(&mut announcer, 0, 5, BootNanos::new(7));
        announcer.renew(VipId::new(5), BootNanos::new(9));
        let mut out = Vec::new();
        announcer.due(BootNanos::new(1), &mut out);
        let frame = announcement(address(5), LINK.1);
        assert_eq!(out, [Announcement { vip: VipId::new(5), interface: 2, frame, until: BootNanos::new(9) }]);
    }

    #[test]
    fn stopping_ends_a_series() {
        let mut announcer = Announcer::new(4);
        hold(&mut announcer, 0, 5, FOR_EVER);
        hold(&mut announcer, 0, 6, FOR_EVER);
        run(&mut announcer, 2 * MILLI);
        announcer.stop(VipId::new(5));
        announcer.announce_again(BootNanos::new(2 * MILLI), VipId::new(5));
        let sent = run(&mut announcer, u64::MAX);
        assert!(times(&sent, 5).is_empty() && times(&sent, 6).len() == 5);
    }

    #[test]
    fn a_series_begins_again_when_asked() {
        let mut announcer = Announcer::new(4);
        hold(&mut announcer, 0, 5, FOR_EVER);
        run(&mut announcer, 2 * MILLI);
        announcer.announce_again(BootNanos::new(2 * MILLI), VipId::new(5));
        assert_eq!(times(&run(&mut announcer, 6 * MILLI), 5), [2_000, 3_000, 5_000]);
        announcer.announce_all_again(BootNanos::new(100 * MILLI), Some(3));
        assert_eq!(times(&run(&mut announcer, 101 * MILLI), 5), [12_000, 52_000]);
        announcer.announce_all_again(BootNanos::new(101 * MILLI), Some(2));
        assert_eq!(times(&run(&mut announcer, 102 * MILLI), 5), [101_000]);
    }

    #[test]
    fn an_address_is_defended_by_one_frame_in_ten_seconds() {
        const SECOND: u64 = 1000 * MILLI;
        let mut announcer = Announcer::new(4);
        hold(&mut announcer, 0, 5, BootNanos::new(30 * SECOND));
        hold(&mut announcer, 0, 6, FOR_EVER);
        announcer.once(BootNanos::new(MILLI), address(5));
        assert_eq!(times(&run(&mut announcer, 2 * SECOND), 5).len(), STEPS_NANOS.len(), "the series says so");
        let mut sent = Vec::new();
        for second in 2..40 {
            announcer.once(BootNanos::new(second * SECOND), address(5));
            announcer.once(BootNanos::new(second * SECOND), address(7));
            sent.extend(run(&mut announcer, (second + 1) * SECOND));
        }
        assert_eq!(sent, [(2_000_000, 5), (12_000_000, 5), (22_000_000, 5)], "until the lease is over, and no other");
        announcer.announce_again(BootNanos::new(40 * SECOND), VipId::new(6));
        assert_eq!(times(&run(&mut announcer, 50 * SECOND), 6).len(), STEPS_NANOS.len());
    }

    #[test]
    fn asking_again_and_again_does_not_flood() {
        let mut announcer = Announcer::new(4);
        hold(&mut announcer, 0, 5, FOR_EVER);
        let mut out = Vec::new();
        for micros in 0..10_000 {
            announcer.announce_again(BootNanos::new(micros * 1000), VipId::new(5));
            announcer.due(BootNanos::new(micros * 1000), &mut out);
        }
        assert_eq!(out.len(), 10, "one a millisecond");
    }

    #[test]
    fn many_at_once_get_their_first_frame_first_in_bounded_batches() {
        let mut announcer = Announcer::new(200);
        for vip in 0..200 {
            hold(&mut announcer, 0, vip, FOR_EVER);
        }
        let mut firsts = Vec::new();
        let mut out = Vec::new();
        for milli in 0..4 {
            out.clear();
            announcer.due(BootNanos::new(milli * MILLI), &mut out);
            assert!(out.len() <= FRAMES_PER_TURN_MAX);
            firsts.extend(out.iter().map(|announcement| announcement.vip.get()));
        }
        firsts.truncate(200);
        assert_eq!(firsts, (0..200).collect::<Vec<_>>());
        let sent = run(&mut announcer, u64::MAX);
        assert!((0..200).all(|vip| times(&sent, vip).last().is_some_and(|last| *last >= 1_000_000)));
    }

    #[test]
    fn steps_missed_while_the_thread_slept_are_not_sent_late() {
        let mut announcer = Announcer::new(4);
        hold(&mut announcer, 0, 5, FOR_EVER);
        let mut out = Vec::new();
        announcer.due(BootNanos::new(20 * MILLI), &mut out);
        assert_eq!((out.len(), announcer.next_deadline()), (1, Some(BootNanos::new(50 * MILLI))));
    }
}
