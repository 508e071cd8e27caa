//! Faults by the hundred, at random: never two owners, and an owner again soon after each.
//!
//! Faults do not overlap, and the next one waits until every node is well again: the promise is
//! about the loss of a minority, during which somebody else takes over. Kind, victim and length come from the seed; when
//! they strike within a lease is left to the machine.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    faults::Fault,
    kernel,
    observer::Observer,
    repetition,
    systems::{self, Kind, NODES, Site},
};

/// Faults that a node may suffer at any time, with any victim.
const FAULTS: [Fault; 11] = [
    Fault::PowerOff,
    Fault::LinkDown,
    Fault::NodeFrozen,
    Fault::DaemonKilled,
    Fault::DaemonFrozen,
    Fault::NodesCutOff,
    Fault::OwnerDeaf,
    Fault::OwnerNotHeard,
    Fault::OwnerIsolated,
    Fault::Loss30,
    Fault::PlannedMove,
];

impl Fault {
    /// Whether a majority that can speak is left while it lasts, so that nobody need be without an owner for longer than
    /// a take-over.
    fn leaves_a_majority(self) -> bool {
        self != Self::Loss30
    }
}

/// Settings of a soak.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub faults: u32,
    pub seed: u64,
}

/// Runs it on one system.
///
/// # Errors
/// After the last fault, when in any there were two owners, or none for longer than two leases while it lasted or after
/// its end; at once, when the system does not recover.
pub fn run(kind: &Kind, plan: Plan) -> Result<()> {
    let lease_ms = f64::from(kind.lease_ms().unwrap_or(200));
    let mut site = Site::start(kind.clone())?;
    let mut random = Random(plan.seed);
    let (mut broken, mut doubtful_ms, mut slowest_ms, mut nobody_ms) = (Vec::new(), 0.0, 0.0f64, 0.0f64);
    for number in 1..=plan.faults {
        crate::go_on()?;
        site.system.wait_well()?;
        let owner = repetition::wait_owner(&site)?;
        let fault = FAULTS[random.below(FAULTS.len() as u64) as usize];
        // Two of three hit the owner; an operator moves from where the VIP is.
        let anybody = random.below(3) == 0 && fault != Fault::PlannedMove;
        let victim = if anybody { random.below(NODES as u64) as usize } else { owner };
        let hold = Duration::from_millis(random.below(1200) + 20);

        let observer = Observer::start(&site.lab, systems::target(), Duration::from_secs(120))?;
        thread::sleep(Duration::from_millis(20));
        let began = kernel::now_nanos();
        let outcome = fault.begin(&mut site, victim).and_then(|()| {
            thread::sleep(hold);
            fault.end(&mut site, victim)
        });
        let ended = kernel::now_nanos();
        thread::sleep(Duration::from_millis(3 * lease_ms as u64));
        let history = observer.finish();
        outcome?;

        let dual = history.dual(None, began, u64::MAX);
        let owned = history.owned_after_ms(ended);
        doubtful_ms += dual.doubtful_ms;
        slowest_ms = slowest_ms.max(owned.unwrap_or(f64::INFINITY));
        let nobody = if fault.leaves_a_majority() { history.nobody_ms(began, ended) } else { 0.0 };
        nobody_ms = nobody_ms.max(nobody);
        let what = format!("fault {number}: {fault} of node {} for {hold:?}", victim + 1);
        if dual.ms > 0.0 {
            broken.push(format!("{what}: two owners for {:.1} ms", dual.ms));
        }
        if nobody > 2.0 * lease_ms {
            broken.push(format!("{what}: no owner for {nobody:.0} ms while it lasted"));
        }
        if owned.is_none_or(|after| after > 2.0 * lease_ms) {
            broken.push(format!(
                "{what}: {}",
                match owned {
                    Some(after) => format!("an owner only {after:.0} ms after its end"),
                    None => "no owner after its end".to_owned(),
                }
            ));
        }
        if number % 50 == 0 || !broken.is_empty() {
            println!(
                "{kind}: {number} of {} faults; broken promises {}; doubtful {doubtful_ms:.0} ms; owner at most {slowest_ms:.0} ms after the end; none for at most {nobody_ms:.0} ms in a fault",
                plan.faults,
                broken.len()
            );
        }
        ensure!(broken.len() < 20, "too much is broken:\n{}\n{}", broken.join("\n"), site.system.last_words());
    }
    ensure!(broken.is_empty(), "{kind}, seed {}: {} promises broken:\n{}", plan.seed, broken.len(), broken.join("\n"));
    println!(
        "{kind}: {} faults, never two owners, an owner at most {slowest_ms:.0} ms after each, none for at most {nobody_ms:.0} ms in one (seed {})",
        plan.faults, plan.seed
    );
    Ok(())
}

/// Numbers that a seed determines (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_faults() {
        let draw = |seed| {
            let mut random = Random(seed);
            (0..20).map(|_| random.below(11)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|value| *value < 11));
    }
}
