//! The same libraries, as `examples/sessions/README.md` has them configured, at a VIP while each node in turn is killed and
//! started again.
//!
//! The programs judge what they are told: whatever was acknowledged is there, and counters are what was acknowledged and at
//! most as much more as was left unanswered (`clients/told.py`).

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use ballast_testkit::{ports, resp::Connection, store, wait};

use super::{installed, python, script};

/// The password is `secret`.
const USER: &str = "{ name: shop, key_prefixes: [\"shop:\"], password_hash: \"$argon2id$v=19$m=19456,t=2,p=1$vJtZriT6SMmTqpUJbnpn3Q$YOJsL6PLjAfwHRA8z+cx+fyxM0U3GwzIHOmYB3tXp30\" }";

/// Steps between two faults: enough that each of them meets a client at work.
const STEPS: usize = 10;

/// Has a Python program that needs these modules work at a VIP, and kills and starts each node meanwhile.
fn python_under_kills(modules: &str, package: &str, program: &str, how: &[&str]) -> Result<()> {
    if !installed(modules, package, python(), &["-c", &format!("import {modules}")]) {
        return Ok(());
    }
    let (mut cluster, nodes) = store::start("version: 1\nsessions: {}\n")?;
    let vip = SocketAddr::new(ports::vip_address().into(), ports::free_local()?.port());
    cluster.apply(
        0,
        &format!(
            "version: 1\nvips: [{{ name: public, addresses: [{}] }}]\nsessions:\n  vips: [{{ vip: public, port: {} }}]\n  \
             users: [{USER}]\n",
            vip.ip(),
            vip.port()
        ),
    )?;
    for address in nodes.iter().chain([&vip]) {
        wait::until("a store that takes the user", || {
            let mut connection = Connection::open(*address, Duration::from_secs(20))?;
            Ok(connection.call(&["AUTH", "shop", "secret"])?.is_ok().then_some(()))
        })?;
    }

    let mut command = Command::new(python());
    // `-B`: leaves no __pycache__ in the tree.
    command.arg("-B").arg(script(program)).args(how).arg(vip.to_string());
    command.args(nodes.iter().map(SocketAddr::to_string));
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (output, mut errors) = (client.stdout.take().context("piped")?, client.stderr.take().context("piped")?);
    let (said, saying) = mpsc::channel();
    let listening =
        thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).try_for_each(|l| said.send(l)));
    let complaints = thread::spawn(move || {
        let mut text = String::new();
        let _whatever_came = errors.read_to_string(&mut text);
        text
    });
    // A client that has ended says no more.
    let steps = || (0..STEPS).try_for_each(|_| saying.recv_timeout(wait::PATIENCE).map(drop));

    let mut killed = || -> Result<()> {
        for node in 0..nodes.len() {
            steps().with_context(|| format!("before {} was killed", cluster.node(node).name()))?;
            cluster.kill(node);
            steps().with_context(|| format!("while {} was dead", cluster.node(node).name()))?;
            cluster.spawn(node)?;
            cluster.wait_ready(node)?;
        }
        Ok(steps()?)
    };
    let result = killed();
    if result.is_err() {
        let _may_have_ended = client.kill();
    }
    drop(client.stdin.take());
    let status = client.wait()?;
    let (_, complaint) = (listening.join(), complaints.join().unwrap_or_default());
    if let Err(error) = result {
        bail!("{program}: {error:#}\n{complaint}");
    }
    ensure!(status.success(), "{program}: {status}\n{complaint}");
    let summary = saying.iter().filter(|line| line != "step").last().unwrap_or_default();
    println!("{program} {how:?}: {summary}");
    Ok(())
}

#[test]
fn redis_py_loses_nothing_while_nodes_die() -> Result<()> {
    python_under_kills("redis", "python3-redis", "redis_py_kills.py", &["sync"])
}

#[test]
fn redis_py_with_asyncio_loses_nothing_while_nodes_die() -> Result<()> {
    python_under_kills("redis.asyncio", "python3-redis", "redis_py_kills.py", &["asyncio"])
}

#[test]
fn nobody_is_logged_out_of_a_django_site_while_nodes_die() -> Result<()> {
    python_under_kills("django, django_redis", "python3-django python3-django-redis", "django_kills.py", &[])
}

#[test]
fn nobody_is_logged_out_of_a_flask_site_while_nodes_die() -> Result<()> {
    python_under_kills("flask, flask_session, redis", "python3-flask-session python3-redis", "flask_kills.py", &[])
}
