//! Who answered for the VIP, tick by tick, and what follows from it.
//!
//! An answer counts at the tick of the probe that it answers, if the kernel received it within
//! [`PROMPT_NANOS`] of that tick's first probe. Two nodes in one such tick may still be a change of
//! hands in the middle of it. Two nodes in two ticks in a row cannot: each then answered a probe
//! that was sent after the other had answered one. That, and nothing less, is called *dual*; a
//! single tick, or one in which an answer came that was slow, is told apart as *doubtful*. In IPv6 it is asked in some ticks only: there,
//! two such ticks in a row count, and the time between them.

use serde::{Deserialize, Serialize};

/// Time between ticks.
pub const TICK_NANOS: u64 = 1_000_000;
/// How soon after a tick's first probe its answers count. Probes and answers of a tick take about
/// 0.1 ms; a handover takes a datagram and a wake-up more.
pub const PROMPT_NANOS: u64 = 300_000;
/// Answers that come later than this are of a queue and not of an owner.
pub const LATE_NANOS: u64 = 100_000_000;

/// How an owner shows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It answers ARP.
    Arp,
    /// It answers neighbour solicitations.
    Ndp,
    /// It accepts connections.
    Syn,
    /// It accepts connections in IPv6.
    Syn6,
}

/// Nodes as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes(u8);

impl Nodes {
    /// Adds one.
    pub fn add(&mut self, node: usize) {
        self.0 |= 1 << node;
    }

    /// These and others.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |node| self.0 & (1 << node) != 0)
    }

    /// The one node, if it is one.
    pub fn single(self) -> Option<usize> {
        (self.count() == 1).then(|| self.0.trailing_zeros() as usize)
    }
}

/// One tick: when its probes left and who answered them. There are so many that one is stored as a row without names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub struct Tick {
    /// Monotonic time of its first probe; 0 when the observer missed it.
    pub sent_at: u64,
    /// Wall time of the same moment, for comparison with the kernel's stamps.
    pub sent_wall: u64,
    /// Who answered ARP.
    pub arp: Nodes,
    /// Whether it was asked in IPv6, too: neighbours were solicited, and sent a SYN.
    pub solicited: bool,
    /// Who answered the solicitation.
    pub ndp: Nodes,
    /// Who accepted a connection.
    pub syn: Nodes,
    /// Who accepted one in IPv6.
    pub syn6: Nodes,
    /// Who gave an answer then, in whatever way, to a question of before.
    pub late: Nodes,
}

/// The fields of a [`Tick`] in their order.
type Row = (u64, u64, Nodes, bool, Nodes, Nodes, Nodes, Nodes);

impl From<Tick> for Row {
    fn from(Tick { sent_at, sent_wall, arp, solicited, ndp, syn, syn6, late }: Tick) -> Self {
        (sent_at, sent_wall, arp, solicited, ndp, syn, syn6, late)
    }
}

impl From<Row> for Tick {
    fn from((sent_at, sent_wall, arp, solicited, ndp, syn, syn6, late): Row) -> Self {
        Self { sent_at, sent_wall, arp, solicited, ndp, syn, syn6, late }
    }
}

impl Tick {
    /// Who claimed the VIP in time, in any way.
    pub fn prompt(&self) -> Nodes {
        self.arp.and(self.ndp).and(self.syn).and(self.syn6)
    }

    fn of(&self, kind: Option<Kind>) -> Nodes {
        match kind {
            None => self.prompt(),
            Some(Kind::Arp) => self.arp,
            Some(Kind::Ndp) => self.ndp,
            Some(Kind::Syn) => self.syn,
            Some(Kind::Syn6) => self.syn6,
        }
    }
}

/// What the observer saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    ticks: Vec<Tick>,
    announcements: Vec<u64>,
}

/// Time with two or more nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dual {
    /// Beyond doubt.
    pub ms: f64,
    /// In single ticks, or with a late answer.
    pub doubtful_ms: f64,
}

/// A time between two questions in which the observer missed others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unasked {
    /// Monotonic time of the question before it.
    pub from: u64,
    /// That of the one after it.
    pub until: u64,
    /// Who answered the one before it, in time or late.
    pub before: Nodes,
    /// Who answered the one after it.
    pub after: Nodes,
}

impl Unasked {
    /// How long it is.
    pub fn ms(&self) -> f64 {
        ms(self.until - self.from)
    }

    /// Whether others answered after it than before it: nobody saw how they changed.
    pub fn hides_a_change(&self) -> bool {
        self.before.count() > 0 && self.after.count() > 0 && self.before != self.after
    }
}

/// What the wire showed at a time and had not shown before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Others answered the question that was asked then, and those up to the next change.
    Answers {
        /// Who answered ARP.
        arp: Nodes,
        /// Who answered the last solicitation.
        ndp: Nodes,
        /// Who accepted a connection.
        syn: Nodes,
        /// Who accepted the last one in IPv6.
        syn6: Nodes,
        /// Who answered late, in whatever way.
        late: Nodes,
    },
    /// Somebody announced the VIP without being asked.
    Announced,
    /// After the question that was asked then, the next ones were missed.
    Unasked {
        /// When the observer asked again.
        until: u64,
    },
}

impl History {
    /// Of ticks by number, and of the times of announcements.
    pub fn new(ticks: Vec<Tick>, announcements: Vec<u64>) -> Self {
        Self { ticks, announcements }
    }

    /// Ticks by number, up to the last one that was sent.
    pub fn ticks(&self) -> &[Tick] {
        let sent = self.ticks.iter().rposition(|tick| tick.sent_at != 0);
        &self.ticks[..sent.map_or(0, |last| last + 1)]
    }

    /// When somebody announced the VIP, by monotonic time.
    pub fn announced(&self) -> &[u64] {
        &self.announcements
    }

    fn sent(&self, from: u64, to: u64) -> impl Iterator<Item = &Tick> {
        self.ticks.iter().filter(move |tick| tick.sent_at != 0 && (from..to).contains(&tick.sent_at))
    }

    /// Time between `from` and `to` with two or more nodes, in any way or in one.
    pub fn dual(&self, kind: Option<Kind>, from: u64, to: u64) -> Dual {
        let ticks: Vec<&Tick> = self.sent(from, to).collect();
        let beyond_doubt = beyond_doubt(&ticks, kind);
        let mut dual = Dual::default();
        for (at, tick) in ticks.iter().enumerate() {
            // What the observer did not look at is not counted.
            let until = ticks.get(at + 1).map_or(tick.sent_at + TICK_NANOS, |next| next.sent_at);
            let ms = ms((until - tick.sent_at).min(2 * TICK_NANOS));
            if beyond_doubt[at] {
                dual.ms += ms;
            } else if tick.of(kind).count() > 1 || (kind.is_none() && tick.prompt().and(tick.late).count() > 1) {
                dual.doubtful_ms += ms;
            }
        }
        dual
    }

    /// Each time between `from` and `to` with two or more beyond doubt: from, to, and who.
    pub fn dual_spans(&self, from: u64, to: u64) -> Vec<(u64, u64, Vec<usize>)> {
        let ticks: Vec<&Tick> = self.sent(from, to).collect();
        let marks = beyond_doubt(&ticks, None);
        let mut spans: Vec<(u64, u64, Nodes)> = Vec::new();
        for (at, tick) in ticks.iter().enumerate().filter(|(at, _)| marks[*at]) {
            let now = tick.prompt();
            match spans.last_mut() {
                // Between two ticks that solicited, one of the two may have answered everything else.
                Some((_, until, who)) if at > 0 && marks[at - 1] && (now == *who || now.count() < 2) => {
                    *until = tick.sent_at;
                }
                _ => spans.push((tick.sent_at, tick.sent_at, now)),
            }
        }
        spans.into_iter().map(|(from, until, who)| (from, until, who.iter().collect())).collect()
    }

    /// In how many ticks between `from` and `to` anybody answered in time, in any way or in one.
    pub fn answered(&self, kind: Option<Kind>, from: u64, to: u64) -> usize {
        self.sent(from, to).filter(|tick| tick.of(kind).count() > 0).count()
    }

    /// When the last question between `from` and `to` was asked.
    pub fn last_question(&self, from: u64, to: u64) -> Option<u64> {
        self.sent(from, to).map(|tick| tick.sent_at).max()
    }

    /// Longest time between `from` and `to` in which nobody accepted connections.
    pub fn nobody_ms(&self, from: u64, to: u64) -> f64 {
        let (mut longest, mut since) = (0, None);
        for tick in self.sent(from, to) {
            if tick.syn.and(tick.late).count() == 0 {
                longest = longest.max(tick.sent_at - *since.get_or_insert(tick.sent_at));
            } else if let Some(since) = since.take() {
                longest = longest.max(tick.sent_at - since);
            }
        }
        ms(longest)
    }

    /// How long after `from` somebody accepted a connection, and went on to for ten ticks.
    pub fn owned_after_ms(&self, from: u64) -> Option<f64> {
        let (mut since, mut run) = (None, 0);
        for tick in self.sent(from, u64::MAX) {
            if tick.syn.and(tick.late).count() == 0 {
                (since, run) = (None, 0);
                continue;
            }
            let since = *since.get_or_insert(tick.sent_at);
            run += 1;
            if run == 10 {
                return Some(ms(since - from));
            }
        }
        None
    }

    /// The one node that answered in every way in all ticks of the last `nanos`.
    pub fn owner(&self, nanos: u64) -> Option<usize> {
        let end = self.ticks.iter().map(|tick| tick.sent_at).max()?;
        // The last tick's answers may not have been read.
        let mut ticks = self.sent(end.saturating_sub(nanos), end).peekable();
        let owner = ticks.peek()?.syn.single()?;
        ticks
            .all(|tick| [tick.syn, tick.arp].iter().all(|nodes| nodes.and(tick.late).single() == Some(owner)))
            .then_some(owner)
    }

    /// When which node alone accepted connections, from its first such tick to its last before another's or nobody's.
    pub fn owners(&self) -> Vec<(u64, u64, usize)> {
        let mut owners: Vec<(u64, u64, usize)> = Vec::new();
        let mut unbroken = false;
        for tick in self.sent(0, u64::MAX) {
            let Some(node) = tick.syn.single() else {
                unbroken = false;
                continue;
            };
            match owners.last_mut() {
                Some((_, until, owner)) if unbroken && *owner == node => *until = tick.sent_at,
                _ => owners.push((tick.sent_at, tick.sent_at, node)),
            }
            unbroken = true;
        }
        owners
    }

    /// Each time between two questions, asked between `from` and `to`, in which others were missed.
    pub fn unasked(&self, from: u64, to: u64) -> Vec<Unasked> {
        let is_asked = |tick: &Tick| tick.sent_at != 0 && (from..to).contains(&tick.sent_at);
        let asked: Vec<(usize, &Tick)> = self.ticks.iter().enumerate().filter(|(_, tick)| is_asked(tick)).collect();
        let missed = asked.windows(2).filter(|two| two[1].0 - two[0].0 > 1);
        let unasked = missed.map(|two| {
            let [before, after] = [two[0].1, two[1].1];
            let who = |tick: &Tick| tick.prompt().and(tick.late);
            Unasked { from: before.sent_at, until: after.sent_at, before: who(before), after: who(after) }
        });
        unasked.collect()
    }

    /// All that the wire showed, in the order in which it did: of each question that was asked, who answered it.
    pub fn changes(&self) -> Vec<(u64, Change)> {
        let mut changes: Vec<(u64, Change)> = self.announcements.iter().map(|at| (*at, Change::Announced)).collect();
        let (mut last, mut ndp, mut syn6) = (None, Nodes::default(), Nodes::default());
        for tick in self.sent(0, u64::MAX) {
            if tick.solicited {
                (ndp, syn6) = (tick.ndp, tick.syn6);
            }
            let now = Change::Answers { arp: tick.arp, ndp, syn: tick.syn, syn6, late: tick.late };
            if last != Some(now) {
                changes.push((tick.sent_at, now));
                last = Some(now);
            }
        }
        let unasked = self.unasked(0, u64::MAX).into_iter();
        changes.extend(unasked.map(|time| (time.from, Change::Unasked { until: time.until })));
        changes.sort_by_key(|(at, _)| *at);
        changes
    }

    /// Announcements between `from` and `to`.
    pub fn announcements(&self, from: u64, to: u64) -> usize {
        self.announcements.iter().filter(|at| (from..to).contains(*at)).count()
    }

    /// Share of ticks between `from` and `to` that the observer missed.
    pub fn missed(&self, from: u64, to: u64) -> f64 {
        let wanted = to.saturating_sub(from) / TICK_NANOS;
        let had = self.sent(from, to).count() as f64;
        if wanted == 0 { 0.0 } else { (1.0 - had / wanted as f64).max(0.0) }
    }
}

/// The ticks in which two or more answered beyond doubt: two in a row, or two that solicited in a row and all between them.
fn beyond_doubt(ticks: &[&Tick], kind: Option<Kind>) -> Vec<bool> {
    let both = |at: usize| ticks[at].of(kind).count() > 1;
    let mut marks = vec![false; ticks.len()];
    for at in 1..ticks.len() {
        if both(at - 1) && both(at) {
            marks[at - 1..=at].fill(true);
        }
    }
    let solicited: Vec<usize> = (0..ticks.len()).filter(|at| ticks[*at].solicited).collect();
    for pair in solicited.windows(2) {
        if both(pair[0]) && both(pair[1]) {
            marks[pair[0]..=pair[1]].fill(true);
        }
    }
    marks
}

fn ms(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOLICITED_EVERY: usize = 3;

    /// A history with a tick each millisecond from 1 ms on. Each word is a tick: the nodes that
    /// answered in every way; `x` for a tick that was missed; after `/`, who answered late.
    fn history(text: &str) -> History {
        let ticks = text.split(' ').enumerate().map(|(number, word)| {
            let mut tick = Tick::default();
            let (prompt, late) = word.split_once('/').unwrap_or((word, ""));
            for digit in prompt.chars().filter_map(|c| c.to_digit(10)) {
                for nodes in [&mut tick.arp, &mut tick.ndp, &mut tick.syn, &mut tick.syn6] {
                    nodes.add(digit as usize);
                }
            }
            for digit in late.chars().filter_map(|c| c.to_digit(10)) {
                tick.late.add(digit as usize);
            }
            tick.solicited = number.is_multiple_of(SOLICITED_EVERY);
            if !tick.solicited {
                (tick.ndp, tick.syn6) = (Nodes::default(), Nodes::default());
            }
            tick.sent_at = if word == "x" { 0 } else { (number as u64 + 1) * TICK_NANOS };
            tick
        });
        History::new(ticks.collect(), Vec::new())
    }

    fn dual(text: &str) -> (f64, f64) {
        let dual = history(text).dual(None, 0, u64::MAX);
        (dual.ms, dual.doubtful_ms)
    }

    #[test]
    fn two_nodes_in_a_row_of_ticks_are_dual() {
        assert_eq!(dual("0 0 01 01 01 1"), (3.0, 0.0));
        assert_eq!(dual("01 01"), (2.0, 0.0));
    }

    #[test]
    fn what_was_seen_is_stored_in_rows_up_to_the_last_question() {
        let one = history("0 01/1 x 2 x x");
        let rows: Vec<String> =
            one.ticks().iter().map(|tick| serde_json::to_string(tick).expect("numbers are JSON")).collect();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[1], "[2000000,0,3,false,0,3,0,2]");
        let read = rows.iter().map(|row| serde_json::from_str(row).expect("a row"));
        assert_eq!(read.collect::<Vec<Tick>>(), one.ticks());
    }

    #[test]
    fn answers_are_counted_by_their_kind() {
        let mut one = history("0 0/1 - /0");
        one.ticks[2].syn.add(0);
        let answered = |kind| one.answered(kind, 0, u64::MAX);
        let each = [Kind::Arp, Kind::Ndp, Kind::Syn, Kind::Syn6].map(|kind| answered(Some(kind)));
        assert_eq!((answered(None), each), (3, [2, 1, 3, 1]));
    }

    #[test]
    fn it_is_told_who_was_dual_and_when() {
        let ms = |number: u64| number * TICK_NANOS;
        let spans = history("0 01 01 01 12 12 1 01 1").dual_spans(0, u64::MAX);
        assert_eq!(spans, [(ms(2), ms(4), vec![0, 1]), (ms(5), ms(6), vec![1, 2])]);
    }

    #[test]
    fn owners_follow_each_other() {
        let ms = |number: u64| number * TICK_NANOS;
        assert_eq!(history("0 0 01 1 1 - 1").owners(), [(ms(1), ms(2), 0), (ms(4), ms(5), 1), (ms(7), ms(7), 1)]);
    }

    #[test]
    fn what_the_wire_showed_is_told_once_and_in_order() {
        let ms = |number: u64| number * TICK_NANOS;
        let of = |nodes: &[usize]| {
            let mut all = Nodes::default();
            nodes.iter().for_each(|node| all.add(*node));
            all
        };
        let answers = |ipv4: &[usize], ipv6: &[usize], late: &[usize]| Change::Answers {
            arp: of(ipv4),
            ndp: of(ipv6),
            syn: of(ipv4),
            syn6: of(ipv6),
            late: of(late),
        };
        let mut one = history("0 0 x x 01/2 01/2 1 1");
        one.announcements = vec![ms(4), ms(7)];
        let expected = [
            (ms(1), answers(&[0], &[0], &[])),
            (ms(2), Change::Unasked { until: ms(5) }),
            (ms(4), Change::Announced),
            (ms(5), answers(&[0, 1], &[0], &[2])),
            (ms(7), Change::Announced),
            (ms(7), answers(&[1], &[1], &[])),
        ];
        assert_eq!(one.changes(), expected);
        let unasked = one.unasked(0, u64::MAX);
        assert_eq!(unasked, [Unasked { from: ms(2), until: ms(5), before: of(&[0]), after: of(&[0, 1, 2]) }]);
        assert!(one.unasked(ms(3), u64::MAX).is_empty());
    }

    #[test]
    fn a_change_that_nobody_saw_is_between_two_that_answer() {
        let hides = |text: &str| {
            let unasked = history(text).unasked(0, u64::MAX);
            unasked.iter().map(|time| (time.ms(), time.hides_a_change())).collect::<Vec<_>>()
        };
        assert_eq!(hides("0 x x 1 x 1 1 x /0"), [(3.0, true), (2.0, false), (2.0, true)]);
        assert_eq!(hides("0 x - 1 x -"), [(2.0, false), (2.0, false)]);
        assert!(hides("0 1 - x").is_empty());
    }

    #[test]
    fn a_change_of_hands_within_a_tick_is_not_dual() {
        assert_eq!(dual("0 0 01 1 1"), (0.0, 1.0));
        assert_eq!(dual("0 0 1 1 1"), (0.0, 0.0));
    }

    #[test]
    fn a_late_answer_is_doubtful() {
        assert_eq!(dual("0 0 1/0 1/0 1"), (0.0, 2.0));
    }

    #[test]
    fn ticks_that_were_missed_count_for_no_more_than_one() {
        assert_eq!(dual("01 x x x x 01 0"), (3.0, 0.0));
    }

    #[test]
    fn one_node_for_arp_and_another_for_connections_are_two() {
        let mut one = history("- - -");
        for tick in &mut one.ticks {
            tick.arp.add(0);
            tick.syn.add(1);
        }
        assert_eq!(one.dual(None, 0, u64::MAX).ms, 3.0);
        assert_eq!(one.dual(Some(Kind::Arp), 0, u64::MAX).ms, 0.0);
    }

    #[test]
    fn a_second_one_that_answers_in_one_way_of_ipv6_only_is_found() {
        for kind in [Kind::Ndp, Kind::Syn6] {
            let second = |answers: &[usize]| {
                let mut one = history("0 0 0 0 0 0 0 0 0 0");
                for at in answers {
                    let tick = &mut one.ticks[*at];
                    let nodes = if kind == Kind::Ndp { &mut tick.ndp } else { &mut tick.syn6 };
                    nodes.add(1);
                }
                let dual = one.dual(None, 0, u64::MAX);
                (dual.ms, dual.doubtful_ms, one.dual(Some(kind), 0, u64::MAX).ms)
            };
            assert_eq!(second(&[3, 6]), (4.0, 0.0, 4.0));
            assert_eq!(second(&[0, 3, 6, 9]), (10.0, 0.0, 10.0));
            // Once may be a change of hands.
            assert_eq!(second(&[3]), (0.0, 1.0, 0.0));
            assert_eq!(second(&[0, 6]), (0.0, 2.0, 0.0));
        }
    }

    #[test]
    fn only_the_window_counts() {
        let history = history("01 01 01 0 - - 0 0");
        assert_eq!(history.dual(None, 3 * TICK_NANOS, u64::MAX).ms, 0.0);
        assert_eq!(history.dual(None, 0, 3 * TICK_NANOS).ms, 2.0);
        assert_eq!(history.nobody_ms(0, 5 * TICK_NANOS), 0.0);
    }

    #[test]
    fn nobody_is_the_longest_gap_between_answers() {
        assert_eq!(history("0 - - 1 - - - - 1").nobody_ms(0, u64::MAX), 4.0);
        assert_eq!(history("0 0 0").nobody_ms(0, u64::MAX), 0.0);
        assert_eq!(history("0 - - -").nobody_ms(0, u64::MAX), 2.0);
        assert_eq!(history("0 /0 0").nobody_ms(0, u64::MAX), 0.0);
    }

    #[test]
    fn owned_means_that_it_lasts() {
        assert_eq!(history("- - 1 - - 1 1 1 1 1 1 1 1 1 1 1").owned_after_ms(TICK_NANOS), Some(5.0));
        assert_eq!(history("1 1 1").owned_after_ms(TICK_NANOS), None);
    }

    #[test]
    fn the_owner_is_the_only_one_in_every_way() {
        assert_eq!(history("1 0 0 0 0").owner(3 * TICK_NANOS), Some(0));
        assert_eq!(history("1 0 01 0 0").owner(3 * TICK_NANOS), None);
        assert_eq!(history("0 0 - 0 0").owner(3 * TICK_NANOS), None);
        assert_eq!(history("-").owner(TICK_NANOS), None);
    }

    #[test]
    fn missed_ticks_are_told() {
        assert_eq!(history("0 x x 0").missed(TICK_NANOS, 5 * TICK_NANOS), 0.5);
        assert_eq!(history("0 0 0 0").missed(TICK_NANOS, 5 * TICK_NANOS), 0.0);
        let last = |text: &str| history(text).last_question(0, 4 * TICK_NANOS);
        assert_eq!(["0 - x 0", "x"].map(last), [Some(2 * TICK_NANOS), None]);
    }
}
