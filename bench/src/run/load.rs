//! Runs generator and backends as processes of their own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    generate::{Options, Report},
    process::Guarded,
};

/// Share of requests that may fail before a measurement is worth nothing.
const FAILED_SHARE_MAX: f64 = 0.001;

fn this_program() -> Result<Command> {
    Ok(Command::new(std::env::current_exe().context("find this program")?))
}

/// Sends requests in a process of its own and returns its report.
///
/// # Errors
/// When it fails, when more than one request in a thousand does, or when it does not end in time.
pub fn generate(options: &Options) -> Result<Report> {
    let mut command = this_program()?;
    command.args(options.to_arguments()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut generator = Guarded::spawn(&mut command).context("start the generator")?;
    let patience = Duration::from_secs_f64(options.warm_up + options.secs + 20.0);
    let status = generator.wait(patience).context("the generator does not end")?;
    let read = |stream: &mut dyn Read| -> Result<String> {
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let said = read(generator.child().stderr.as_mut().context("piped")?)?;
    ensure!(status.success(), "{}", said.trim());
    let report = read(generator.child().stdout.as_mut().context("piped")?)?;
    let report: Report =
        serde_json::from_str(&report).with_context(|| format!("the generator's report: {report:?}"))?;
    judge(&report)?;
    Ok(report)
}

fn judge(report: &Report) -> Result<()> {
    ensure!(report.done > 0, "no request was answered: {report:?}");
    let bad = report.failed + report.refused;
    ensure!(
        bad as f64 <= report.done as f64 * FAILED_SHARE_MAX,
        "{} requests failed and {} were refused beside {} answered",
        report.failed,
        report.refused,
        report.done
    );
    Ok(())
}

/// Connections that are held open after one request each.
pub struct Idle {
    generator: Guarded,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Idle {
    /// Opens them; returns when each has had its answer.
    ///
    /// # Errors
    /// When they cannot all be opened.
    pub fn open(options: &Options) -> Result<Self> {
        let mut command = this_program()?;
        command.args(options.to_arguments()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut generator = Guarded::spawn(&mut command).context("start the generator")?;
        let input = generator.child().stdin.take();
        let mut output = BufReader::new(generator.child().stdout.take().context("piped")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the generator could not open {} connections", options.connections);
        Ok(Self { generator, input, output })
    }

    /// Closes them; returns how many were still open.
    ///
    /// # Errors
    /// When the generator does not end in time.
    pub fn close(mut self) -> Result<usize> {
        drop(self.input.take());
        let mut report = String::new();
        self.output.read_line(&mut report)?;
        self.generator.wait(Duration::from_secs(10)).context("the generator does not end")?;
        Ok(serde_json::from_str::<Report>(&report)?.open)
    }
}

/// A backend's name and address.
pub type Backend = (String, SocketAddr);

/// The backends' process.
pub struct Backends {
    process: Guarded,
    list: Vec<Backend>,
}

impl Backends {
    /// Starts one process that serves `names`.
    ///
    /// # Errors
    /// When it does not say its addresses.
    pub fn start(names: &[&str], core: Option<usize>) -> Result<Self> {
        let mut command = this_program()?;
        command.arg("backend").args(names.iter().map(|n| format!("--name={n}")));
        command.args(core.map(|c| format!("--core={c}"))).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Guarded::spawn(&mut command).context("start the backends")?;
        let mut lines = BufReader::new(process.child().stdout.take().context("piped")?);
        let mut list = Vec::new();
        for _ in names {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            list.push(parse_backend(&line).with_context(|| format!("a backend said {line:?}"))?);
        }
        std::io::stdout().flush()?;
        Ok(Self { process, list })
    }

    /// The backends.
    pub fn list(&self) -> &[Backend] {
        &self.list
    }

    /// Their process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

fn parse_backend(line: &str) -> Option<Backend> {
    let (name, address) = line.trim().split_once(' ')?;
    Some((name.to_owned(), address.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_tells_its_name_and_address() {
        assert_eq!(parse_backend("web1 127.0.0.1:80\n"), Some(("web1".to_owned(), "127.0.0.1:80".parse().unwrap())));
        assert_eq!(parse_backend("web1\n"), None);
        assert_eq!(parse_backend(""), None);
    }

    #[test]
    fn failures_make_a_measurement_worthless() {
        let report = |done, failed, refused| {
            let text = format!(
                r#"{{"done":{done},"refused":{refused},"failed":{failed},"reconnects":0,"open":0,"seconds":1,"bytes":0,
                "p50_us":0,"p99_us":0,"p999_us":0,"max_us":0,"cpu_us":0,"own_cpu_us":0}}"#
            );
            judge(&serde_json::from_str(&text).unwrap())
        };
        assert!(report(1000, 0, 0).is_ok());
        assert!(report(1000, 1, 0).is_ok());
        assert!(report(1000, 1, 1).is_err());
        assert!(report(0, 0, 0).is_err());
    }
}
