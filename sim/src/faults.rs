//! What breaks, when and for how long.
//!
//! Faults come in rounds of one to three that overlap, then a calm. They are drawn when their time comes, so that a victim
//! can be the leader of that moment; all draws follow from the seed.

use std::time::Duration;

use ballast_raft::MemberFailure;
use turmoil::Sim;

use crate::{
    clock,
    random::Random,
    site::{Condition, Order, Phase, Site, host},
    trace::happened,
};

/// Kinds of faults that last.
#[derive(Clone, Debug)]
enum Fault {
    /// These machines are off; the flag says whether their power went, so that nobody hears that they are gone.
    Off { machines: Vec<usize>, power: bool },
    /// Traffic between machines is broken in some way.
    Network,
    /// Disks are slow.
    Disks(Vec<usize>),
    /// Messages take long.
    Latency,
}

/// One that is under way.
#[derive(Debug)]
struct Active {
    fault: Fault,
    until: Duration,
}

/// Breaks things.
pub struct Faults {
    random: Random,
    active: Vec<Active>,
    next: Duration,
    end: Duration,
    count: usize,
    usual_latency: Duration,
}

impl Faults {
    /// Breaks things for `lasting` once clients work.
    pub fn new(random: Random, lasting: Duration, usual_latency: Duration) -> Self {
        Self { random, active: Vec::new(), next: Duration::ZERO, end: lasting, count: 0, usual_latency }
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Called after every tick.
    pub fn tick(&mut self, sim: &mut Sim<'_>, site: &Site) {
        self.bury(sim, site);
        if site.phase() != Phase::Broken {
            return;
        }
        let now = clock::elapsed();
        if self.next.is_zero() {
            self.next = now + self.random.millis(200, 800);
            self.end += now;
        }
        let (over, active) = std::mem::take(&mut self.active).into_iter().partition(|active| now >= active.until);
        self.active = active;
        let over: Vec<Active> = over;
        over.into_iter().for_each(|active| self.undo(sim, site, &active.fault));
        if now >= self.end {
            std::mem::take(&mut self.active).into_iter().for_each(|active| self.undo(sim, site, &active.fault));
            self.heal_network(sim, site);
            self.start_all(sim, site);
            site.enter(Phase::Healed);
        } else if now >= self.next {
            let overlapping = self.random.within(1, 3);
            for _ in 0..overlapping {
                self.strike(sim, site, now);
            }
            let lasting = self.active.iter().map(|active| active.until).max().unwrap_or(now);
            let calm =
                if self.random.once_in(4) { self.random.millis(1000, 3000) } else { self.random.millis(50, 700) };
            // A round may begin before the last one is over.
            self.next = if self.random.once_in(3) { now + calm } else { lasting + calm };
        }
    }

    fn strike(&mut self, sim: &mut Sim<'_>, site: &Site, now: Duration) {
        let lasting = match self.random.below(4) {
            0 => self.random.millis(20, 200),
            1 | 2 => self.random.millis(200, 1500),
            _ => self.random.millis(1500, 5000),
        };
        self.count += 1;
        let fault = match self.random.below(20) {
            0..4 => {
                let machines = self.victims(site);
                self.switch_off(sim, site, machines)
            }
            4 => {
                let machines = self.up(site);
                self.switch_off(sim, site, machines)
            }
            5..11 => self.cut(sim, site),
            11 | 12 => {
                let machines = self.victims(site);
                // Some stall for longer than heartbeats, elections and streams wait.
                let (least, most) = if self.random.once_in(3) { (500_000, 3_000_000) } else { (20_000, 400_000) };
                happened!("slow disks: {machines:?}, up to {} ms", most / 1000);
                machines.iter().for_each(|number| site.lock().seats[*number].disk.set_speed(least, most));
                Some(Fault::Disks(machines))
            }
            13 => {
                let machines = self.victims(site);
                happened!("disks fail: {machines:?}");
                for number in machines {
                    let seat = &mut site.lock().seats[number];
                    seat.disk_may_fail = true;
                    seat.disk.fail();
                }
                None
            }
            14 => {
                let latency = self.random.millis(20, 150);
                happened!("messages take up to {latency:?}");
                sim.set_max_message_latency(latency);
                Some(Fault::Latency)
            }
            15 => {
                let number = self.victims(site).first().copied().unwrap_or(0);
                let error = self.random.within(0, 40_000) as i64 - 20_000;
                happened!("the wall clock of n{number} is off by {error} ms");
                clock::set_wall_error(number, error);
                None
            }
            other => {
                let order = match other {
                    16 => Order::Transfer,
                    17 if self.random.once_in(2) => Order::Snapshot(None),
                    17 => Order::Snapshot(self.victims(site).first().copied()),
                    18 => self.random.pick(&[Order::Join, Order::Remove, Order::Replace]).unwrap_or(Order::Join),
                    _ => self.random.pick(&[Order::Demote, Order::Transfer]).unwrap_or(Order::Demote),
                };
                site.lock().orders.push_back(order);
                None
            }
        };
        if let Some(fault) = fault {
            self.active.push(Active { fault, until: now + lasting });
        }
    }

    /// Machines that are on.
    fn up(&self, site: &Site) -> Vec<usize> {
        site.running().into_iter().map(|(number, _)| number).collect()
    }

    /// One or a few machines that are on, the leader among them as likely as not.
    fn victims(&mut self, site: &Site) -> Vec<usize> {
        let mut up = self.up(site);
        self.random.shuffle(&mut up);
        if self.random.once_in(2)
            && let Some((leader, _)) = site.leader()
        {
            up.retain(|number| *number != leader);
            up.insert(0, leader);
        }
        let count = if self.random.once_in(3) { self.random.within(1, (up.len() as u64 / 2).max(1)) } else { 1 };
        up.truncate(count as usize);
        up
    }

    fn switch_off(&mut self, sim: &mut Sim<'_>, site: &Site, machines: Vec<usize>) -> Option<Fault> {
        let power = self.random.once_in(2);
        for number in &machines {
            if power {
                self.between(sim, site, &[*number], |sim, a, b| sim.partition(a, b));
            }
            off(sim, site, *number, if power { "loses its power" } else { "is killed" });
        }
        (!machines.is_empty()).then_some(Fault::Off { machines, power })
    }

    /// Breaks the network between machines in one of many ways; one at a time.
    fn cut(&mut self, sim: &mut Sim<'_>, site: &Site) -> Option<Fault> {
        if self.active.iter().any(|active| matches!(active.fault, Fault::Network)) {
            return None;
        }
        let mut all = self.up(site);
        self.random.shuffle(&mut all);
        let some = self.victims(site);
        match self.random.below(7) {
            0 | 1 => {
                happened!("cut off: {some:?}");
                self.between(sim, site, &some, |sim, a, b| sim.partition(a, b));
            }
            2 => {
                happened!("held up: {some:?}");
                self.between(sim, site, &some, |sim, a, b| sim.hold(a, b));
            }
            3 => {
                happened!("nobody hears: {some:?}");
                self.between(sim, site, &some, |sim, a, b| sim.partition_oneway(a, b));
            }
            4 => {
                happened!("hears nobody: {some:?}");
                self.between(sim, site, &some, |sim, a, b| sim.partition_oneway(b, a));
            }
            5 => {
                let half = &all[..all.len().div_ceil(2)];
                happened!("halves: {half:?} of {all:?}");
                self.between(sim, site, half, |sim, a, b| sim.partition(a, b));
            }
            _ => {
                // Each hears its neighbours only; of three nodes, two lose each other.
                happened!("a ring: {all:?}");
                let count = all.len();
                for a in 0..count {
                    for b in a + 1..count {
                        let near = b - a == 1 || b - a == count - 1 && count > 3;
                        if !near {
                            sim.partition(host(all[a]), host(all[b]));
                        }
                    }
                }
            }
        }
        Some(Fault::Network)
    }

    /// Does something to every pair of one of `some` and one of the others.
    fn between(&self, sim: &mut Sim<'_>, site: &Site, some: &[usize], act: impl Fn(&mut Sim<'_>, String, String)) {
        for other in known(site) {
            if !some.contains(&other) {
                some.iter().for_each(|number| act(sim, host(*number), host(other)));
            }
        }
    }

    fn undo(&mut self, sim: &mut Sim<'_>, site: &Site, fault: &Fault) {
        match fault {
            Fault::Off { machines, power } => {
                for number in machines {
                    if *power {
                        self.between(sim, site, &[*number], |sim, a, b| sim.release(a, b));
                    }
                    on(sim, site, *number);
                }
            }
            Fault::Network => self.heal_network(sim, site),
            Fault::Disks(machines) => {
                happened!("disks are fast again: {machines:?}");
                machines.iter().for_each(|number| site.lock().seats[*number].disk.set_speed(200, 4000));
            }
            Fault::Latency => {
                happened!("messages are fast again");
                sim.set_max_message_latency(self.usual_latency);
            }
        }
    }

    fn heal_network(&self, sim: &mut Sim<'_>, site: &Site) {
        happened!("the network is whole");
        let all = known(site);
        for a in &all {
            for b in all.iter().filter(|b| *b > a) {
                sim.release(host(*a), host(*b));
            }
        }
    }

    fn start_all(&self, sim: &mut Sim<'_>, site: &Site) {
        for number in known(site) {
            if site.lock().seats[number].condition == Condition::Down {
                on(sim, site, number);
            }
        }
    }

    /// Machines that are to be gone, and members that must not go on: their processes end. One whose disk failed is started again.
    fn bury(&mut self, sim: &mut Sim<'_>, site: &Site) {
        let doomed = std::mem::take(&mut site.lock().doomed);
        for number in doomed {
            off(sim, site, number, "is taken away");
            site.lock().seats[number].condition = Condition::Gone;
        }
        for number in known(site) {
            let condition = site.lock().seats[number].condition.clone();
            if let Condition::Failed(failure) = condition {
                off(sim, site, number, "ends");
                if failure == MemberFailure::Removed {
                    site.lock().seats[number].condition = Condition::Gone;
                    continue;
                }
                let healed = site.phase() != Phase::Broken;
                if healed {
                    on(sim, site, number);
                } else {
                    let until = clock::elapsed() + self.random.millis(50, 1000);
                    self.active.push(Active { fault: Fault::Off { machines: vec![number], power: false }, until });
                }
            }
        }
    }
}

/// Machines that were switched on at some time.
fn known(site: &Site) -> Vec<usize> {
    let inner = site.lock();
    (0..inner.seats.len()).filter(|number| !inner.wanted.contains(number)).collect()
}

fn off(sim: &mut Sim<'_>, site: &Site, number: usize, how: &str) {
    sim.crash(host(number));
    let mut inner = site.lock();
    let seat = &mut inner.seats[number];
    if seat.condition != Condition::Gone {
        seat.condition = Condition::Down;
    }
    let handle = seat.handle.take();
    let lost = seat.disk.lose_power();
    drop(inner);
    drop(handle);
    happened!("n{number} {how}, {lost} writes are lost");
}

fn on(sim: &mut Sim<'_>, site: &Site, number: usize) {
    {
        let mut inner = site.lock();
        let seat = &mut inner.seats[number];
        if seat.condition != Condition::Down {
            return;
        }
        seat.disk_may_fail = false;
    }
    sim.bounce(host(number));
}
