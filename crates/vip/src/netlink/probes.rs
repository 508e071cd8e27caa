//! Whether somebody who is no member answers for an address that is about to be put on the interface.
//!
//! Asked before the first time only: from then on whoever claims it is noticed while the VIP is held. A
//! member may answer, for it may own the VIP. Of a member with several interfaces on the link one MAC is known, and its kernel
//! answers on all of them: where a member answers, other answers count for nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ballast_core::time::BootNanos;

use crate::net::{Interface, Mac, probe_unless};

/// How long an answer may take. A neighbour on the link needs a millisecond; one that is asleep is not waited for.
const TIMEOUT: Duration = Duration::from_millis(150);
/// How soon an address that was taken is asked for again.
const AGAIN_NANOS: u64 = 3_000_000_000;

/// What is known of each address.
#[derive(Debug, Default)]
pub(super) struct Probes {
    free: BTreeSet<(String, IpAddr)>,
    taken: BTreeMap<(String, IpAddr), (Mac, BootNanos)>,
}

impl Probes {
    /// Asks for those of `wanted` that are not known to be free, and returns who has which. Blocks for some hundred
    /// milliseconds when there are new ones, unless there is reason to `give_up`: the rest is asked for by the next call.
    pub fn taken(
        &mut self,
        now: BootNanos,
        wanted: &[(&Interface, IpAddr)],
        is_member: impl Fn(Mac) -> bool,
        give_up: impl Fn() -> bool,
    ) -> BTreeMap<IpAddr, Mac> {
        let key = |(interface, address): &(&Interface, IpAddr)| (interface.name.clone(), *address);
        let keys: BTreeSet<_> = wanted.iter().map(key).collect();
        self.free.retain(|known| keys.contains(known));
        self.taken.retain(|known, _| keys.contains(known));
        let due: Vec<_> = wanted
            .iter()
            .filter(|want| !self.free.contains(&key(want)))
            .filter(|want| self.taken.get(&key(want)).is_none_or(|(_, at)| now.since(*at) >= AGAIN_NANOS))
            .copied()
            .collect();
        let mut by_interface: BTreeMap<u32, (&Interface, Vec<IpAddr>)> = BTreeMap::new();
        for (interface, address) in due {
            by_interface.entry(interface.index).or_insert((interface, Vec::new())).1.push(address);
        }
        for (interface, addresses) in by_interface.into_values() {
            // A link that cannot be asked (it is down) is asked by the next round again.
            let Ok(answers) = probe_unless(interface, &addresses, TIMEOUT, &is_member, &give_up) else { continue };
            let Some(answers) = answers else { break };
            for address in addresses {
                let key = (interface.name.clone(), address);
                match answers.get(&address) {
                    Some(mac) if !is_member(*mac) => {
                        self.taken.insert(key, (*mac, now));
                    }
                    _ => {
                        self.taken.remove(&key);
                        self.free.insert(key);
                    }
                }
            }
        }
        self.taken.iter().map(|((_, address), (mac, _))| (*address, *mac)).collect()
    }

    /// Whether `address` may be put on the interface as far as the link was asked.
    pub fn is_free(&self, interface: &str, address: IpAddr) -> bool {
        self.free.contains(&(interface.to_owned(), address))
    }

    /// What is ours already needs no asking.
    pub fn assume_free(&mut self, interface: &str, address: IpAddr) {
        self.free.insert((interface.to_owned(), address));
    }
}
