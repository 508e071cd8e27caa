//! A voter that goes for good, and a new node that comes in its place: what is to be done next, from what is seen.
//!
//! The steps of it are an operator's: remove, empty the data directory, join with a token, promote. Each of them may be in vain
//! while other faults go on, and is done again. What was half done when it failed is never gone on with: a node whose joining
//! failed is removed by its name, whether it is there or not, and joins anew. One node goes at a time, so that a majority of the
//! voters is there whenever nothing else is broken.
//!
//! Not here: doing any of it (`nemesis::membership`).

use super::Random;

/// How a voter goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It is removed while it runs, and has to find out and to end.
    Alive,
    /// It is drained before that.
    Drained,
    /// It is killed, and removed then.
    Dead,
    /// So, and is started again on what it had: it has to find out and to end.
    Returns,
    /// It is killed and its disk is lost before it is removed.
    Wiped,
}

/// As what the new node comes at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// As whatever the cluster makes of it, which is a voter.
    Voter,
    /// As a learner, who is promoted at the end of the fault.
    Learner,
    /// As a witness, who is removed at the end of the fault, when another node takes its place.
    Witness,
}

/// What is seen of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its daemon was started and has ended by itself.
    pub ended: bool,
    /// The last that it said was that it had been removed.
    pub says_removed: bool,
    /// Whether the errand that was last asked for went well; absent if none was.
    pub errand: Option<bool>,
    /// The fault is to be undone.
    pub over: bool,
    /// Nothing else is broken any more.
    pub healed: bool,
}

/// What takes its time, and may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// `ballastctl node drain`.
    Drain,
    /// `ballastctl node remove`; that there is none of that name is well, too.
    Remove {
        /// Although it answers and is not drained.
        force: bool,
    },
    /// `ballastd leave`.
    Leave,
    /// `ballastctl node join-token`, `ballastd join`.
    Join {
        /// As a witness.
        witness: bool,
    },
    /// `ballastctl node demote`.
    Demote,
    /// `ballastctl node promote`.
    Promote,
    /// Asks the others whether it is ready and votes.
    LookWhetherWhole,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing now.
    Wait,
    /// Kill its daemon, or reap it.
    Kill,
    /// Remove its data directory.
    Empty,
    /// Start its daemon.
    Start,
    /// See to that, and look again when it is done.
    Errand(Errand),
    /// It did what it must not.
    Broken(&'static str),
    /// It is whole.
    Done,
}

/// Looks after which a node that was removed, and that nothing keeps from finding out, has to have ended.
pub const LOOKS_MAX: u32 = 300;
/// Times that a new node may end by itself before it is taken for spoilt.
const ENDS_MAX: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    Draining,
    Killed,
    Wiped,
    Removing,
    Returning,
    /// With the looks so far at which nothing kept it.
    Ending(u32),
    Clear,
    Emptying,
    Joining,
    Joined,
    Started,
    Demoting,
    Holding,
    Promoting,
    Settling,
    Whole,
    /// It did what it must not, and is got rid of.
    Broken,
}

/// One node that goes and comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    exit: Exit,
    entry: Entry,
    /// Whether `ballastd leave` is run before its data are removed.
    tidy: bool,
    step: Step,
    refusals: u32,
    ends: u32,
}

impl Replacement {
    /// That of a fault.
    pub fn of(choice: u64) -> Self {
        let mut random = Random(choice);
        let exits = [Exit::Alive, Exit::Drained, Exit::Dead, Exit::Returns, Exit::Wiped];
        let exit = exits[random.below(5) as usize];
        let entry = [Entry::Voter, Entry::Voter, Entry::Learner, Entry::Witness][random.below(4) as usize];
        Self::new(exit, entry, random.below(2) == 0)
    }

    /// One that goes and comes so.
    pub fn new(exit: Exit, entry: Entry, tidy: bool) -> Self {
        Self { exit, entry, tidy, step: Step::Begin, refusals: 0, ends: 0 }
    }

    /// What is to be done next. Is asked again when that is done.
    pub fn next(&mut self, seen: Seen) -> Act {
        let well = seen.errand == Some(true);
        match self.step {
            Step::Begin => match self.exit {
                Exit::Alive => self.remove(),
                Exit::Drained => self.go(Step::Draining, Act::Errand(Errand::Drain)),
                Exit::Dead | Exit::Returns | Exit::Wiped => self.go(Step::Killed, Act::Kill),
            },
            Step::Killed if self.exit == Exit::Wiped => self.go(Step::Wiped, Act::Empty),
            Step::Draining | Step::Killed | Step::Wiped => self.remove(),
            Step::Removing if !well => {
                self.refusals += 1;
                self.remove()
            }
            Step::Removing => match self.exit {
                Exit::Alive | Exit::Drained => self.go(Step::Ending(0), Act::Wait),
                Exit::Returns => self.go(Step::Returning, Act::Start),
                Exit::Dead | Exit::Wiped => self.clear(),
            },
            Step::Returning => self.go(Step::Ending(0), Act::Wait),
            Step::Ending(looks) => self.ending(looks, seen),
            Step::Clear => self.clear(),
            Step::Emptying => self.go(Step::Joining, Act::Empty),
            Step::Joining => {
                let witness = self.entry == Entry::Witness;
                self.go(Step::Joined, Act::Errand(Errand::Join { witness }))
            }
            Step::Joined if !well => self.start_over(),
            Step::Joined => self.go(Step::Started, Act::Start),
            Step::Started => match self.entry {
                Entry::Voter => self.look(),
                Entry::Learner => self.go(Step::Demoting, Act::Errand(Errand::Demote)),
                Entry::Witness => self.go(Step::Holding, Act::Wait),
            },
            Step::Demoting | Step::Holding | Step::Promoting | Step::Settling | Step::Whole if seen.ended => {
                self.revive()
            }
            Step::Demoting if !well => Act::Errand(Errand::Demote),
            Step::Demoting => self.go(Step::Holding, Act::Wait),
            Step::Holding if !seen.over => Act::Wait,
            Step::Holding => match self.entry {
                // Its place is taken by an ordinary node.
                Entry::Witness => {
                    self.entry = Entry::Voter;
                    self.start_over()
                }
                Entry::Voter | Entry::Learner => self.go(Step::Promoting, Act::Errand(Errand::Promote)),
            },
            Step::Promoting if !well => Act::Errand(Errand::Promote),
            Step::Promoting => self.look(),
            Step::Settling if !well => self.look(),
            Step::Settling => self.go(Step::Whole, Act::Wait),
            Step::Broken => self.start_over(),
            Step::Whole if seen.over => Act::Done,
            Step::Whole => Act::Wait,
        }
    }

    fn go(&mut self, step: Step, act: Act) -> Act {
        self.step = step;
        act
    }

    fn remove(&mut self) -> Act {
        let force = self.exit != Exit::Drained || self.refusals > 0;
        self.go(Step::Removing, Act::Errand(Errand::Remove { force }))
    }

    fn look(&mut self) -> Act {
        self.go(Step::Settling, Act::Errand(Errand::LookWhetherWhole))
    }

    fn clear(&mut self) -> Act {
        match self.tidy {
            true => self.go(Step::Emptying, Act::Errand(Errand::Leave)),
            false => self.go(Step::Joining, Act::Empty),
        }
    }

    /// Nothing of it is believed any more.
    fn start_over(&mut self) -> Act {
        (self.exit, self.ends) = (Exit::Dead, 0);
        self.go(Step::Killed, Act::Kill)
    }

    /// It was removed and has to end by itself.
    fn ending(&mut self, looks: u32, seen: Seen) -> Act {
        match (seen.ended, seen.says_removed, seen.healed) {
            (true, true, _) => self.go(Step::Clear, Act::Kill),
            // Of something else that befell it: it is started again, as its supervisor would.
            (true, false, false) => Act::Start,
            (true, false, true) => {
                self.go(Step::Broken, Act::Broken("ended after its removal and does not say that it was removed"))
            }
            (false, _, true) if looks == LOOKS_MAX => self.go(Step::Broken, Act::Broken("was removed and goes on")),
            (false, _, true) => self.go(Step::Ending(looks + 1), Act::Wait),
            (false, _, false) => Act::Wait,
        }
    }

    /// A new node ended by itself: it is started again, as its supervisor would, and replaced if that helps nothing.
    fn revive(&mut self) -> Act {
        self.ends += 1;
        if self.ends > ENDS_MAX { self.start_over() } else { Act::Start }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const EXITS: [Exit; 5] = [Exit::Alive, Exit::Drained, Exit::Dead, Exit::Returns, Exit::Wiped];
    const ENTRIES: [Entry; 3] = [Entry::Voter, Entry::Learner, Entry::Witness];

    /// A node and a cluster where each kind of errand fails as often as told before it goes well. Returns what was done.
    fn play(mut one: Replacement, failures: u32, over_at: usize) -> Vec<Act> {
        let mut acts = Vec::new();
        let mut failed = HashMap::new();
        let (mut runs, mut member, mut data, mut seen) = (true, true, true, Seen::default());
        while acts.last() != Some(&Act::Done) {
            assert!(acts.len() < 500, "{acts:?}");
            seen.over = acts.len() >= over_at;
            // One that is in the log no more ends.
            seen.ended = runs && data && !member;
            seen.says_removed = seen.ended;
            let act = one.next(std::mem::replace(&mut seen, Seen { healed: true, ..Seen::default() }));
            match act {
                Act::Wait | Act::Broken(_) => {}
                Act::Done => assert!(runs && member && data, "it is whole"),
                Act::Kill => runs = false,
                Act::Empty => {
                    assert!(!runs, "nobody removes data that a daemon uses");
                    data = false;
                }
                Act::Start => {
                    assert!(data, "there is nothing to start on: {acts:?}");
                    runs = true;
                }
                Act::Errand(errand) => {
                    let before = failed.entry(std::mem::discriminant(&errand)).or_insert(0);
                    let well = *before == failures;
                    *before = failures.min(*before + 1);
                    seen.errand = Some(well);
                    match errand {
                        Errand::Remove { .. } if well => member = false,
                        Errand::Join { .. } => {
                            assert!(!member && !data && !runs, "a node joins when it is gone: {acts:?}");
                            // One that fails may have been taken in, and have written half of what it needs.
                            (member, data) = (true, true);
                        }
                        _ => {}
                    }
                }
            }
            acts.push(act);
        }
        acts
    }

    fn count(acts: &[Act], is: impl Fn(&Act) -> bool) -> usize {
        acts.iter().filter(|act| is(act)).count()
    }

    #[test]
    fn whatever_fails_the_node_is_whole_in_the_end() {
        for (exit, entry, tidy) in EXITS
            .iter()
            .flat_map(|exit| ENTRIES.iter().flat_map(move |entry| [true, false].map(|tidy| (*exit, *entry, tidy))))
        {
            for (failures, over_at) in [(0, 0), (0, 40), (1, 10), (2, 3), (3, 60)] {
                let acts = play(Replacement::new(exit, entry, tidy), failures, over_at);
                assert_eq!(count(&acts, |act| matches!(act, Act::Broken(_))), 0, "{exit:?} {entry:?} {acts:?}");
            }
        }
    }

    #[test]
    fn a_witness_and_a_learner_come_before_the_voter() {
        let acts = play(Replacement::new(Exit::Dead, Entry::Witness, false), 0, 20);
        let joins: Vec<&Act> = acts.iter().filter(|act| matches!(act, Act::Errand(Errand::Join { .. }))).collect();
        let join = |witness| Act::Errand(Errand::Join { witness });
        assert_eq!(joins, [&join(true), &join(false)]);
        let acts = play(Replacement::new(Exit::Dead, Entry::Learner, false), 0, 20);
        assert_eq!(count(&acts, |act| *act == Act::Errand(Errand::Promote)), 1);
    }

    #[test]
    fn what_was_drained_is_removed_without_force_at_first() {
        let acts = play(Replacement::new(Exit::Drained, Entry::Voter, false), 0, 0);
        assert!(acts.contains(&Act::Errand(Errand::Remove { force: false })));
        let acts = play(Replacement::new(Exit::Wiped, Entry::Voter, false), 0, 0);
        assert_eq!(acts[..3], [Act::Kill, Act::Empty, Act::Errand(Errand::Remove { force: true })]);
    }

    #[test]
    fn one_that_goes_on_after_its_removal_is_broken_and_replaced_all_the_same() {
        let mut one = Replacement::new(Exit::Alive, Entry::Voter, false);
        one.next(Seen::default());
        let went = Seen { errand: Some(true), ..Seen::default() };
        assert_eq!(one.next(went), Act::Wait);
        let other_trouble = Seen { ended: true, ..Seen::default() };
        assert_eq!(one.next(other_trouble), Act::Start, "a disk that failed, say");
        let healed = Seen { healed: true, ..Seen::default() };
        let acts: Vec<Act> = (0..=LOOKS_MAX).map(|_| one.next(healed)).collect();
        assert!(acts[..acts.len() - 1].iter().all(|act| *act == Act::Wait));
        assert!(matches!(acts.last(), Some(Act::Broken(_))));
        assert_eq!(one.next(healed), Act::Kill);
    }

    #[test]
    fn every_way_comes_up() {
        let all: Vec<Replacement> = (0..500).map(Replacement::of).collect();
        for (exit, entry) in EXITS.iter().flat_map(|exit| ENTRIES.iter().map(move |entry| (*exit, *entry))) {
            assert!(all.iter().any(|one| one.exit == exit && one.entry == entry), "{exit:?} {entry:?}");
        }
    }
}
