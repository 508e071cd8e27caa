//! HAProxy with the features that Ballast has switched on.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use ballast_testkit::{ports, programs};

use super::{ballast, load::Backend, stage::Subject};
use crate::process::{self, Guarded};

/// How a peer is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// Its defaults.
    Defaults,
    /// What an expert sets for large bodies: 64 KiB buffers, and splice where there is any.
    LargeBodies,
}

/// Starts it; `None`, with a line that says so, when it is not installed.
///
/// # Errors
/// When it does not listen in time.
pub fn start(folder: &Path, backends: &[Backend], core: Option<usize>, tuning: Tuning) -> Result<Option<Subject>> {
    let Some(program) = programs::find_or_tell("haproxy", "haproxy") else { return Ok(None) };
    let name = match tuning {
        Tuning::Defaults => "haproxy",
        Tuning::LargeBodies => "haproxy_tuned",
    };
    let (plain, table) = (ports::free_local()?, ports::free_local()?);
    let file = folder.join(format!("{name}.cfg"));
    fs::write(&file, configuration(&folder.join(format!("{name}.ring")), plain, table, backends, tuning))?;
    let log = fs::File::create(folder.join(format!("{name}.log")))?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut process = process::on_core(core, || Guarded::spawn(&mut command))?.context("start haproxy")?;
    for address in [plain, table] {
        process.wait_listening(address).with_context(|| {
            format!("haproxy said: {}", fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default())
        })?;
    }
    Ok(Some(Subject::peer(name, process, plain, Some(table))))
}

fn configuration(ring: &Path, plain: SocketAddr, table: SocketAddr, backends: &[Backend], tuning: Tuning) -> String {
    let servers: String = backends.iter().map(|(name, address)| format!("    server {name} {address}\n")).collect();
    let (buffers, splice) = match tuning {
        Tuning::Defaults => ("", ""),
        Tuning::LargeBodies => ("    tune.bufsize 65536\n", "    option splice-auto\n"),
    };
    format!(
        "\
global
    nbthread 1
    maxconn 6000
{buffers}
ring access
    description \"access log\"
    format raw
    maxlen 1200
    size 8388608
    backing-file {ring}

defaults
    mode http
    log ring@access local0
    option httplog
    option forwardfor
    unique-id-format %[uuid()]
    unique-id-header X-Request-Id
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 600s
    http-reuse always
    balance roundrobin
{splice}
frontend plain
    bind {plain} backlog 4096
    default_backend plain

frontend table
    bind {table} backlog 4096
    default_backend table

backend plain
{servers}
backend table
    stick-table type string len 32 size 10m expire 4h
    stick on req.hdr({key})
{servers}",
        ring = ring.display(),
        key = ballast::KEY_HEADER,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxy_accepts_both_configurations() {
        let Some(program) = programs::find("haproxy") else { return };
        let folder = tempfile::tempdir().unwrap();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let backends = [("web1".to_owned(), address(3)), ("web2".to_owned(), address(4))];
        for tuning in [Tuning::Defaults, Tuning::LargeBodies] {
            let file = folder.path().join("haproxy.cfg");
            let text = configuration(&folder.path().join("ring"), address(1), address(2), &backends, tuning);
            fs::write(&file, text).unwrap();
            let output = Command::new(&program).arg("-c").arg("-f").arg(&file).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
