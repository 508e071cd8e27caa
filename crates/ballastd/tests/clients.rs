//! Programs that others wrote, with the client libraries that applications use, against three nodes.
//!
//! What they do is in `clients/`: each of these programs takes the nodes' addresses, and ends with a complaint when
//! Ballast is not what its library takes it for. One that is not installed is skipped, and says so.

#[path = "clients/kills.rs"]
mod kills;

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{resp::Answer, store, wait};

/// Events are published, for those that wait for the end of a key.
const DOCUMENT: &str = "version: 1\nsessions: { notify: Ex }\n";
/// The deadline decides how long a PHP request may be at work and so how long its lock has to last, which is what the others
/// wait for if it dies: `session_counter.php`.
const SHORT_DEADLINE: &str = "version: 1\nsessions: { notify: Ex, limits: { deadline: 500ms } }\n";

/// Whether a program runs and ends well. Tells the reader of a test's output if it does not.
fn installed(what: &str, package: &str, program: &str, arguments: &[&str]) -> bool {
    let probe = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let there = probe.is_ok_and(|output| output.status.success());
    if !there {
        println!("SKIPPED: {what} is not installed here (Debian: apt-get install {package})");
    }
    there
}

/// Debian's, for which Debian's packages are: another may come first in `PATH`.
fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

fn said(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Has a Python program that needs these modules work with a new cluster.
fn python_with_a_cluster(modules: &str, package: &str, program: &str) -> Result<()> {
    if !installed(modules, package, python(), &["-c", &format!("import {modules}")]) {
        return Ok(());
    }
    let (_cluster, addresses) = store::start(DOCUMENT)?;
    let mut command = Command::new(python());
    // `-B`: leaves no __pycache__ in the tree.
    command.arg("-B").arg(script(program)).args(addresses.iter().map(SocketAddr::to_string));
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{program}: {}", said(&output));
    Ok(())
}

#[test]
fn redis_py_finds_what_it_expects() -> Result<()> {
    python_with_a_cluster("redis.asyncio", "python3-redis", "redis_py.py")
}

#[test]
fn a_visitor_of_a_django_site_is_known_at_every_node() -> Result<()> {
    python_with_a_cluster("django, django_redis", "python3-django python3-django-redis", "django_sessions.py")
}

#[test]
fn a_visitor_of_a_flask_site_is_known_at_every_node() -> Result<()> {
    python_with_a_cluster("flask, flask_session, redis", "python3-flask-session python3-redis", "flask_sessions.py")
}

/// What `redis-cli` prints when it is given `input`.
fn redis_cli(address: SocketAddr, arguments: &[&str], input: &[u8]) -> Result<String> {
    let mut command = Command::new("redis-cli");
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    // Beside it, because it answers while it is still being given.
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output()
    })?;
    ensure!(output.status.success(), "redis-cli {arguments:?}: {}", said(&output));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn redis_cli_works_as_with_redis() -> Result<()> {
    if !installed("redis-cli", "redis-tools", "redis-cli", &["--version"]) {
        return Ok(());
    }
    let (_cluster, addresses) = store::start(DOCUMENT)?;
    let [first, second, third] = addresses[..] else { unreachable!("three nodes") };
    let say = |address, words: &[&str]| redis_cli(address, words, b"");
    assert_eq!(say(first, &["SET", "k", "v", "EX", "1000"])?, "OK\n");
    assert_eq!(say(second, &["GET", "k"])?, "v\n");
    assert_eq!(say(third, &["HSET", "h", "a", "1", "b", "2"])?, "2\n");
    assert_eq!(say(first, &["HGETALL", "h"])?, "a\n1\nb\n2\n");
    // In RESP3, which redis-cli asks for with HELLO, this is a map.
    assert_eq!(say(second, &["-3", "--json", "HGETALL", "h"])?.trim(), r#"{"a":"1","b":"2"}"#);
    assert_eq!(
        redis_cli(first, &[], b"MULTI\nSET n 1\nINCR n\nGET n\nEXEC\nINCR k\n")?.trim_end(),
        "OK\nQUEUED\nQUEUED\nQUEUED\nOK\n2\n2\nERR value is not an integer or out of range"
    );
    let mut bulk = String::new();
    for key in 0..5000 {
        let key = format!("bulk:{key}");
        bulk.push_str(&format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n$1\r\nv\r\n", key.len()));
    }
    let told = redis_cli(second, &["--pipe"], bulk.as_bytes())?;
    assert!(told.ends_with("errors: 0, replies: 5000\n"), "{told}");
    assert_eq!(say(third, &["DBSIZE"])?, "5003\n");
    let walked = say(first, &["--scan", "--pattern", "bulk:*"])?;
    let mut keys: Vec<_> = walked.lines().collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 5000);
    assert!(say(third, &["--bigkeys"])?.contains("5002 strings"));
    Ok(())
}

const WORKERS: usize = 8;

/// How often each PHP worker counts: `BALLAST_PHP_ROUNDS`, or 40. With 1250 they count to ten thousand while five leaders
/// die.
fn rounds() -> Result<usize> {
    match std::env::var("BALLAST_PHP_ROUNDS") {
        Ok(rounds) => Ok(rounds.parse()?),
        Err(_) => Ok(40),
    }
}

/// Where the count of the PHP workers' session is, once it is anywhere.
fn counted(address: SocketAddr) -> Result<Option<usize>> {
    let Answer::Bulk(session) = store::open(address)?.call(&["GET", "PHPREDIS_SESSION:shared"])? else {
        return Ok(None);
    };
    let session = String::from_utf8(session)?;
    let count = session.strip_prefix("count|i:").and_then(|rest| rest.split(';').next());
    Ok(Some(count.with_context(|| session.clone())?.parse()?))
}

#[test]
fn php_workers_lose_no_update_of_their_session_while_its_leader_dies() -> Result<()> {
    if !installed("PHP with phpredis", "php-cli php-redis", "php", &["-r", "exit(extension_loaded('redis') ? 0 : 1);"])
    {
        return Ok(());
    }
    let rounds = rounds()?;
    let total = WORKERS * rounds;
    let (mut cluster, addresses) = store::start(SHORT_DEADLINE)?;
    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        let mut command = Command::new("php");
        command.arg(script("session_counter.php")).args([worker.to_string(), rounds.to_string()]);
        command.args(addresses.iter().map(SocketAddr::to_string));
        workers.push(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
    }
    let deaths = (total / 2000).max(1);
    for death in 0..deaths {
        let leader = cluster.wait_leader()?;
        let other = addresses[(leader + 1) % 3];
        let reach = |part: usize| {
            wait::until("the workers", || Ok(counted(other)?.filter(|count| *count >= total * part / (2 * deaths + 1))))
        };
        reach(2 * death + 1)?;
        cluster.kill(leader);
        reach(2 * death + 2)?;
        cluster.spawn(leader)?;
        cluster.wait_ready(leader)?;
    }
    let mut failed = 0;
    for worker in workers {
        let output = worker.wait_with_output()?;
        ensure!(output.status.success(), "a worker: {}", said(&output));
        failed += String::from_utf8_lossy(&output.stdout).trim().parse::<usize>().with_context(|| said(&output))?;
    }
    println!("{total} counted, {deaths} leaders killed, {failed} requests failed and were made again");
    for address in addresses {
        let count = wait::until("the count", || counted(address))?;
        assert_eq!(count, total, "after {failed} failed requests, at {address}");
    }
    Ok(())
}
