//! `[vip.hook]` and `[vip.check]` of `ballastd.toml`.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use ballast_core::config::Span;
use serde::Deserialize;

/// Longest that either program may take: a hook that hangs for longer is not waited for by anybody.
const TIMEOUT_MAX: Span = Span::from_secs(600);
/// Shortest time between two checks: each starts a process.
const INTERVAL_MIN: Span = Span::from_millis(100);
const INTERVAL_MAX: Span = Span::from_secs(3600);

/// A program that is run once for each VIP that this node gains or loses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookSettings {
    /// The program, by its absolute path, and its arguments. No shell is involved.
    pub command: Vec<String>,
    /// It is killed, with all that it started, when it takes longer.
    #[serde(default = "hook_timeout")]
    pub timeout: Span,
}

fn hook_timeout() -> Span {
    Span::from_secs(10)
}

/// A program whose exit status says whether this node should hold VIPs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckSettings {
    /// The program, by its absolute path, and its arguments. No shell is involved.
    pub command: Vec<String>,
    /// Time from the beginning of one run to that of the next.
    #[serde(default = "check_interval")]
    pub interval: Span,
    /// It is killed, with all that it started, when it takes longer; that is a failure.
    #[serde(default = "check_timeout")]
    pub timeout: Span,
    /// Successes in a row after which a failed node counts as good again.
    #[serde(default = "check_rise")]
    pub rise: u32,
    /// Failures in a row after which the node counts as failed.
    #[serde(default = "check_fall")]
    pub fall: u32,
}

fn check_interval() -> Span {
    Span::from_secs(2)
}

fn check_timeout() -> Span {
    Span::from_secs(1)
}

fn check_rise() -> u32 {
    2
}

fn check_fall() -> u32 {
    3
}

impl HookSettings {
    /// Checks the values.
    ///
    /// # Errors
    /// The key, what is wrong and what would be right.
    pub fn check(&self) -> Result<(), String> {
        program("vip.hook.command", &self.command)?;
        span("vip.hook.timeout", self.timeout, Span::from_millis(1), TIMEOUT_MAX)
    }
}

impl CheckSettings {
    /// Checks the values.
    ///
    /// # Errors
    /// The key, what is wrong and what would be right.
    pub fn check(&self) -> Result<(), String> {
        program("vip.check.command", &self.command)?;
        span("vip.check.interval", self.interval, INTERVAL_MIN, INTERVAL_MAX)?;
        // One at a time: a check that is still running when the next is due says nothing about that moment.
        span("vip.check.timeout", self.timeout, Span::from_millis(1), self.interval)?;
        for (key, value) in [("rise", self.rise), ("fall", self.fall)] {
            if !(1..=100).contains(&value) {
                return Err(format!("vip.check.{key}: {value} is out of range; write 1 to 100"));
            }
        }
        Ok(())
    }

    /// Time from the beginning of one run to that of the next.
    pub fn every(&self) -> Duration {
        self.interval.duration()
    }
}

fn span(key: &str, value: Span, min: Span, max: Span) -> Result<(), String> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(format!("{key}: {value} is out of range; write {min} to {max}"))
}

fn program(key: &str, command: &[String]) -> Result<(), String> {
    let Some(program) = command.first().filter(|program| !program.is_empty()) else {
        return Err(format!("{key}: names no program; write a list such as [\"/usr/local/bin/on-vip\"]"));
    };
    if !Path::new(program).is_absolute() {
        return Err(format!(
            "{key}: {program:?} is no absolute path, and nothing says where to look for it; write one that begins with /"
        ));
    }
    if let Some(argument) = command.iter().find(|argument| argument.contains('\0')) {
        return Err(format!("{key}: {argument:?} holds a zero byte; take it out"));
    }
    let found =
        fs::metadata(program).map_err(|error| format!("{key}: cannot look at {program}: {error}; correct the path"))?;
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        return Err(format!("{key}: {program} cannot be executed; name a program, or `chmod +x {program}`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(text: &str) -> String {
        match toml::from_str::<HookSettings>(text) {
            Ok(settings) => settings.check().expect_err("it is not right"),
            Err(error) => error.to_string(),
        }
    }

    fn check(text: &str) -> String {
        match toml::from_str::<CheckSettings>(text) {
            Ok(settings) => settings.check().expect_err("it is not right"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_command_alone_is_enough() {
        let hook: HookSettings = toml::from_str("command = [\"/bin/sh\", \"-c\", \"true\"]").expect("settings");
        assert_eq!((hook.check(), hook.timeout), (Ok(()), Span::from_secs(10)));
        let check: CheckSettings = toml::from_str("command = [\"/bin/sh\"]").expect("settings");
        assert_eq!(check.check(), Ok(()));
        assert_eq!((check.interval, check.timeout), (Span::from_secs(2), Span::from_secs(1)));
        assert_eq!((check.rise, check.fall), (2, 3));
    }

    #[test]
    fn what_is_not_right_is_refused_with_key_and_remedy() {
        for (found, key, remedy) in [
            (hook("command = []"), "vip.hook.command", "write a list"),
            (hook("command = [\"on-vip\"]"), "vip.hook.command", "begins with /"),
            (hook("command = [\"/nonexistent/on-vip\"]"), "vip.hook.command", "correct the path"),
            (hook("command = [\"/etc/passwd\"]"), "vip.hook.command", "chmod +x"),
            (hook("command = [\"/bin/sh\"]\ntimeout = \"0s\""), "vip.hook.timeout", "write 1ms to 10m"),
            (hook("command = [\"/bin/sh\"]\ntimeout = 10"), "timeout", "string"),
            (hook("command = [\"/bin/sh\"]\ntime = \"1s\""), "time", "timeout"),
            (check("command = [\"/bin/sh\"]\ninterval = \"1ms\""), "vip.check.interval", "write 100ms to 1h"),
            (
                check("command = [\"/bin/sh\"]\ninterval = \"1s\"\ntimeout = \"2s\""),
                "vip.check.timeout",
                "write 1ms to 1s",
            ),
            (check("command = [\"/bin/sh\"]\nrise = 0"), "vip.check.rise", "write 1 to 100"),
            (check("command = [\"/bin/sh\"]\nfall = 101"), "vip.check.fall", "write 1 to 100"),
        ] {
            assert!(found.contains(key) && found.contains(remedy), "{key}, {remedy}: {found}");
        }
    }
}
