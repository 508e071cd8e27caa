//! What the figures were measured on and with.

use std::{collections::BTreeMap, fmt, fs, process::Command};

use ballast_testkit::cluster;
use serde::Serialize;

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub virtual_machine: bool,
    pub memory_mib: u64,
    pub kernel: String,
    /// What else ran on it at the beginning.
    pub load_average: String,
}

impl Machine {
    /// Looks.
    pub fn look() -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let kib = field(&meminfo, "MemTotal").and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
        Self {
            processor: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            virtual_machine: field(&cpuinfo, "flags").is_some_and(|f| f.split(' ').any(|flag| flag == "hypervisor")),
            memory_mib: kib.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.virtual_machine { " (virtual)" } else { "" };
        write!(
            f,
            "{} cores of {}{kind}, {} MiB, Linux {}, load average {}",
            self.cores, self.processor, self.memory_mib, self.kernel, self.load_average
        )
    }
}

/// Value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().filter_map(|line| line.split_once(':')).find(|(n, _)| n.trim() == name).map(|(_, value)| value.trim())
}

/// Versions of all programs that are there.
pub fn versions() -> BTreeMap<&'static str, String> {
    let first_line = |program: &str, argument| {
        let output = Command::new(program).arg(argument).output().ok()?;
        // keepalived speaks on standard error.
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        Some(String::from_utf8_lossy(&text).lines().next()?.trim().to_owned())
    };
    let ballastd = cluster::bin_dir().map(|folder| folder.join("ballastd").display().to_string());
    [("keepalived", Ok("keepalived".to_owned())), ("haproxy", Ok("haproxy".to_owned())), ("ballast", ballastd)]
        .into_iter()
        .filter_map(|(name, program)| {
            let argument = if name == "haproxy" { "-v" } else { "--version" };
            Some((name, first_line(&program.ok()?, argument)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_looked_at() {
        let machine = Machine::look();
        assert!(machine.cores > 0 && machine.memory_mib > 0 && !machine.kernel.is_empty());
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 49\nmodel name\t: Some CPU @ 2 GHz\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(field(text, "name"), None);
    }
}
