//! What figures were measured on and with.

use std::{collections::BTreeMap, fmt, fs, path::Path, process::Command};

use serde::{Deserialize, Serialize};

use crate::{cluster, programs};

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Cores that may be used.
    pub cores: usize,
    /// Whether it is virtual: its cores, then, are shared with others.
    pub virtual_machine: bool,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// File system of the folder for temporary files.
    pub file_system: String,
}

impl Machine {
    /// Looks.
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        Self {
            processor: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            virtual_machine: field(&cpuinfo, "flags").is_some_and(|f| f.split(' ').any(|flag| flag == "hypervisor")),
            memory_mib: field(&meminfo, "MemTotal")
                .and_then(|v| v.split(' ').next()?.parse::<u64>().ok())
                .map_or(0, |kib| kib / 1024),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            file_system: mount_of(&mounts, &std::env::temp_dir()),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores of {}{}, {} MiB, Linux {}, files on {}",
            self.cores,
            self.processor,
            if self.virtual_machine { " (virtual)" } else { "" },
            self.memory_mib,
            self.kernel,
            self.file_system
        )
    }
}

/// Value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().filter_map(|line| line.split_once(':')).find(|(n, _)| n.trim() == name).map(|(_, value)| value.trim())
}

/// Type and device of the file system that holds `path`.
fn mount_of(mounts: &str, path: &Path) -> String {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (device, at, kind) = (words.next()?, words.next()?, words.next()?);
            path.starts_with(at).then_some((at.len(), format!("{kind} ({device})")))
        })
        // Of two mounts on the same place the later one is seen.
        .max_by_key(|(length, _)| *length)
        .map_or_else(|| "unknown".to_owned(), |(_, text)| text)
}

/// What else runs on it: processes that ran or waited, on average over one, five and fifteen minutes.
pub fn load_average() -> String {
    let read = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    read.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Ballast's name among versions.
const BALLAST: &str = "ballast";

/// Versions of Ballast and of those `peers` that are there; each is a program and the argument that makes it tell. Ballast's
/// has the revision of the checkout.
pub fn versions(peers: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut versions = program_versions(peers);
    if let (Some(version), Some(revision)) = (versions.get_mut(BALLAST), revision()) {
        *version += &format!(", commit {revision}");
    }
    versions
}

/// The same as the programs themselves have it, which do not know of commits.
pub fn program_versions(peers: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    for (name, argument) in peers {
        let version = programs::find(name).and_then(|program| programs::version(&program, argument));
        versions.extend(version.map(|v| ((*name).to_owned(), v)));
    }
    if let Ok(folder) = cluster::bin_dir() {
        let version = programs::version(&folder.join("ballastd"), "--version");
        versions.extend(version.map(|v| (BALLAST.to_owned(), v)));
    }
    versions
}

/// Of the checkout, with `-dirty` if there are changes; `None` where this is none.
pub fn revision() -> Option<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("git").arg("-C").arg(folder).args(["describe", "--always", "--dirty"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "processor\t: 0\nmodel\t\t: 49\nmodel name\t: Some CPU @ 2 GHz\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(field(text, "name"), None);
    }

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/deep xfs rw 0 0\n";
        assert_eq!(mount_of(mounts, Path::new("/tmp/x")), "tmpfs (tmpfs)");
        assert_eq!(mount_of(mounts, Path::new("/tmpx")), "ext4 (/dev/vda)");
        assert_eq!(mount_of(mounts, Path::new("/tmp/deep/er")), "xfs (/dev/vdb)");
        assert_eq!(mount_of("", Path::new("/")), "unknown");
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let machine = Machine::look();
        assert!(machine.cores > 0 && machine.memory_mib > 0 && !machine.kernel.is_empty());
    }
}
