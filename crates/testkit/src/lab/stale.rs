//! Names that tell whose a lab is, and the removal of labs whose process is gone.
//!
//! A name carries the process id and the time at which that process began, because ids come back.

use std::fs;

use anyhow::{Context, Result};

use super::{freezer, limits, namespace};

const MARK: &str = "ballast-lab";

/// What all names of a lab of this process begin with.
pub(super) fn prefix(number: u32) -> Result<String> {
    let pid = std::process::id();
    let began = began(pid).context("read /proc/self/stat")?;
    Ok(format!("{MARK}-{pid}-{began}-{number}-"))
}

/// Removes what dead processes left behind.
pub(super) fn sweep() {
    for group in freezer::remains(is_stale) {
        freezer::discard(group);
    }
    for entry in fs::read_dir(namespace::FOLDER).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_stale(&name) {
            if let Ok(of) = entry.metadata() {
                namespace::kill_all(&of);
            }
            namespace::remove(&name);
        }
    }
    // Their processes went with the namespaces.
    drop(limits::remains(is_stale));
}

fn is_stale(name: &str) -> bool {
    owner(name).is_some_and(|(pid, started)| began(pid) != Some(started))
}

/// Process id and time of its begin that a name carries.
fn owner(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(MARK)?.strip_prefix('-')?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// When a process began, in clock ticks since the machine did.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may hold anything; `starttime` is the 22nd.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_of_this_process_is_not_stale() {
        assert!(!is_stale(&format!("{}node1", prefix(3).unwrap())));
    }

    #[test]
    fn a_lab_of_a_process_that_is_gone_or_another_by_now_is_stale() {
        let pid = std::process::id();
        assert!(is_stale(&format!("{MARK}-{pid}-1-0-node1")));
        assert!(is_stale(&format!("{MARK}-4194305-77-0-node1")));
        assert!(!is_stale("ballast-other-1-2-3"));
        assert!(!is_stale("node1"));
    }
}
