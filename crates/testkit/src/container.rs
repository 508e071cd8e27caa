//! A node's container, by way of Docker's command line: what befalls it, and what it says.
//!
//! Who starts it is the engine, which also starts it again when it ends by itself; how often is counted. A container that is off
//! the network has no address for its daemon, so it is started when it is back.
//!
//! Not here: which containers there are (`compose`).

use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    observer::Macs,
    operator::{self, Said},
};

/// How long the engine waits for one that was told to end, in seconds: longer than anybody who tells it has patience.
const STOP_SECONDS: &str = "600";

/// A container of a node.
#[derive(Debug)]
pub struct Container {
    name: String,
    service: String,
    network: String,
    address: Ipv4Addr,
    /// Where to tell its hardware address, and as whose.
    tell: Option<(Macs, usize)>,
    state: Mutex<State>,
    pid: AtomicU32,
    /// How often it ended by itself before it was last started by us.
    restarts: AtomicU32,
    /// How often it had before it was ours.
    restarts_before: u32,
    failed: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct State {
    connected: bool,
    /// It is to run when it is on the network again.
    waits: bool,
    /// It was started and not killed.
    wanted: bool,
}

/// What the engine knows of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether it has ended and is not about to be started again.
    pub ended: bool,
    /// Its last exit code.
    pub exit_code: i32,
    /// Its process id, if it runs.
    pub pid: Option<u32>,
    /// How often the engine has started it again since it was last started.
    pub restarts: u32,
    /// Its hardware address on the network, if it is there.
    pub mac: Option<[u8; 6]>,
}

impl Seen {
    /// Reads what `docker inspect` says of one container.
    ///
    /// # Errors
    /// When it is no such thing.
    pub fn parse(text: &str, network: &str) -> Result<Self> {
        let said: Value = serde_json::from_str(text).context("docker inspect")?;
        let one = said.get(0).context("docker inspect shows no container")?;
        let status = one["State"]["Status"].as_str().context("docker inspect shows no status")?;
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let mac = one["NetworkSettings"]["Networks"][network]["MacAddress"].as_str();
        Ok(Self {
            ended: matches!(status, "exited" | "dead" | "created"),
            exit_code: one["State"]["ExitCode"].as_i64().and_then(|code| i32::try_from(code).ok()).unwrap_or(-1),
            pid: number(&one["State"]["Pid"]).filter(|pid| *pid != 0),
            restarts: number(&one["RestartCount"]).unwrap_or_default(),
            mac: mac.and_then(parse_mac),
        })
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

impl Container {
    /// One that runs: the container of a service, with this address on a network. Its hardware address is told there.
    ///
    /// # Errors
    /// When the engine does not know it.
    pub fn running(
        name: &str,
        service: &str,
        network: &str,
        address: Ipv4Addr,
        tell: Option<(Macs, usize)>,
    ) -> Result<Self> {
        let seen = Seen::parse(&docker(&["inspect", name])?, network)?;
        let container = Self {
            name: name.to_owned(),
            service: service.to_owned(),
            network: network.to_owned(),
            address,
            tell,
            state: Mutex::new(State { connected: true, waits: false, wanted: true }),
            pid: AtomicU32::new(0),
            restarts: AtomicU32::new(0),
            restarts_before: seen.restarts,
            failed: Mutex::default(),
        };
        container.know(&seen);
        Ok(container)
    }

    /// Name of its service, which is the node's.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Starts it, or has it started when it is on the network again.
    ///
    /// # Errors
    /// What the engine said.
    pub fn start(&self) -> Result<()> {
        let mut state = self.state();
        state.wanted = true;
        state.waits = !state.connected;
        if state.waits { Ok(()) } else { self.launch() }
    }

    fn launch(&self) -> Result<()> {
        // The engine counts anew when it is told to start one.
        self.restarts.fetch_add(self.inspect()?.restarts, Ordering::Relaxed);
        docker(&["start", &self.name])?;
        self.look()
    }

    /// Kills it.
    pub fn kill(&self) {
        let mut state = self.state();
        (state.wanted, state.waits) = (false, false);
        self.note(docker(&["kill", &self.name]).map(drop));
    }

    /// Begins to tell it to end. What is returned ends when it has.
    pub(crate) fn tell(&self) -> Option<Child> {
        let mut state = self.state();
        (state.wanted, state.waits) = (false, false);
        let mut command = Command::new("docker");
        command.args(["stop", "-t", STOP_SECONDS, &self.name]);
        operator::die_with_parent(&mut command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.note(child.context("docker stop"))
    }

    /// Stops all of it in its tracks.
    pub fn pause(&self) {
        self.note(docker(&["pause", &self.name]).map(drop));
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.note(docker(&["unpause", &self.name]).map(drop));
    }

    /// Takes it off the network: its interface is gone.
    ///
    /// # Errors
    /// What the engine said.
    pub fn disconnect(&self) -> Result<()> {
        let mut state = self.state();
        docker(&["network", "disconnect", &self.network, &self.name])?;
        state.connected = false;
        Ok(())
    }

    /// Gives it a new interface with its old address.
    ///
    /// # Errors
    /// What the engine said.
    pub fn connect(&self) -> Result<()> {
        let mut state = self.state();
        let ip = self.address.to_string();
        docker(&["network", "connect", "--ip", &ip, "--alias", &self.service, &self.network, &self.name])?;
        state.connected = true;
        if std::mem::take(&mut state.waits) { self.launch() } else { self.look() }
    }

    /// Its exit code, if it has ended though it was to run, or was told to end.
    ///
    /// # Errors
    /// What the engine said.
    pub(crate) fn ended(&self) -> Result<Option<i32>> {
        if self.state().waits {
            return Ok(None);
        }
        let seen = self.inspect()?;
        Ok(seen.ended.then_some(seen.exit_code))
    }

    /// Id of its first process, as the engine counts them.
    pub fn pid(&self) -> Option<u32> {
        let pid = self.pid.load(Ordering::Relaxed);
        // The engine may have started it again.
        if pid == 0 || !Path::new(&format!("/proc/{pid}")).exists() {
            let _ = self.look();
        }
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// How often it ended by itself, so that the engine started it again.
    ///
    /// # Errors
    /// What the engine said.
    pub fn restarts(&self) -> Result<u32> {
        let all = self.restarts.load(Ordering::Relaxed) + self.inspect()?.restarts;
        Ok(all.saturating_sub(self.restarts_before))
    }

    /// What it has written so far: lines of the access log to standard output, all others to standard error.
    ///
    /// # Errors
    /// What the engine said.
    pub fn logs(&self) -> Result<Said> {
        run(&["logs", &self.name])
    }

    /// What the engine did not do as told.
    pub fn take_failed(&self) -> Vec<String> {
        std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn inspect(&self) -> Result<Seen> {
        Seen::parse(&docker(&["inspect", &self.name])?, &self.network)
    }

    /// Takes note of its process and of its hardware address.
    fn look(&self) -> Result<()> {
        self.know(&self.inspect()?);
        Ok(())
    }

    fn know(&self, seen: &Seen) {
        self.pid.store(seen.pid.unwrap_or_default(), Ordering::Relaxed);
        if let (Some((macs, node)), Some(mac)) = (&self.tell, seen.mac) {
            macs.set(*node, mac);
        }
    }

    fn note<T>(&self, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}")))
            .ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `docker`, which must succeed, and returns its output.
///
/// # Errors
/// What it said.
pub fn docker(arguments: &[&str]) -> Result<String> {
    let said = run(arguments)?;
    ensure!(said.code == 0, "docker {}: exit {}: {}", arguments.join(" "), said.code, said.err.trim());
    Ok(said.out)
}

fn run(arguments: &[&str]) -> Result<Said> {
    let mut command = Command::new("docker");
    command.args(arguments);
    operator::finish(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(state: &str, networks: &str) -> String {
        format!(
            r#"[{{"Id": "5c6e", "State": {state}, "RestartCount": 2, "NetworkSettings": {{"Networks": {networks}}}}}]"#
        )
    }

    #[test]
    fn one_that_runs_has_a_process_and_a_hardware_address() {
        let text = inspected(
            r#"{"Status": "running", "Paused": false, "Pid": 5350, "ExitCode": 0}"#,
            r#"{"shop_site": {"IPAddress": "172.30.88.13", "MacAddress": "02:42:ac:1e:58:0d"}}"#,
        );
        let mac = Some([2, 0x42, 0xac, 0x1e, 0x58, 0x0d]);
        let seen = Seen { ended: false, exit_code: 0, pid: Some(5350), restarts: 2, mac };
        assert_eq!(Seen::parse(&text, "shop_site").expect("well formed"), seen);
        assert_eq!(Seen::parse(&text, "another").expect("well formed").mac, None);
    }

    #[test]
    fn one_that_has_ended_or_is_off_the_network_has_neither() {
        let text = inspected(r#"{"Status": "exited", "Pid": 0, "ExitCode": 137}"#, "{}");
        let seen = Seen { ended: true, exit_code: 137, pid: None, restarts: 2, mac: None };
        assert_eq!(Seen::parse(&text, "shop_site").expect("well formed"), seen);
        let stopped = inspected(r#"{"Status": "exited"}"#, r#"{"shop_site": {"MacAddress": ""}}"#);
        assert_eq!(Seen::parse(&stopped, "shop_site").expect("well formed").mac, None);
    }

    #[test]
    fn one_that_the_engine_starts_again_has_not_ended() {
        for status in ["running", "paused", "restarting"] {
            let text = inspected(&format!(r#"{{"Status": "{status}"}}"#), "{}");
            assert!(!Seen::parse(&text, "shop_site").expect("well formed").ended, "{status}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "[]", "{}", r#"[{"State": {}}]"#, "no such container"] {
            assert!(Seen::parse(text, "shop_site").is_err(), "{text:?}");
        }
    }
}
