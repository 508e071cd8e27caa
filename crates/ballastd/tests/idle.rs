//! Ten thousand connections that do nothing, at one node: what they take, and what others notice of them.
//!
//! As many as the machine's limit of descriptors allows, if that is less.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use ballast_testkit::{cluster::Cluster, kernel, ports, resp::Answer, store, wait};

const WANTED: u64 = 10_000;
/// What this process needs beside them.
const OTHERS: u64 = 200;
/// As a shell has it: the daemon takes what it may.
const SHELL: u64 = 1024;
/// Memory of the daemon for each. They take about half of it.
const BYTES_EACH: u64 = 12 << 10;
/// How many are opened before they are waited for: fewer than wait in the kernel's queue.
const BATCH: usize = 500;

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

fn open(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(wait::PATIENCE))?;
    Ok(stream)
}

/// Opens so many, each of which says a word and is answered.
fn open_many(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let begun = all.len();
        for _ in begun..count.min(begun + BATCH) {
            let mut stream = open(address)?;
            stream.write_all(b"PING\r\n")?;
            all.push(stream);
        }
        for stream in &mut all[begun..] {
            let mut answer = [0; 7];
            stream.read_exact(&mut answer)?;
            ensure!(answer == *b"+PONG\r\n", "{}", answer.escape_ascii());
        }
    }
    Ok(all)
}

#[test]
fn thousands_of_idle_connections_take_little_and_hold_up_nobody() -> Result<()> {
    kernel::limit_descriptors(SHELL)?;
    let cluster = Cluster::start(1)?;
    let may = kernel::limit_descriptors(WANTED + OTHERS)?;
    let count = may.min(WANTED + OTHERS) - OTHERS;
    if count < WANTED {
        println!("{count} connections instead of {WANTED}: this machine allows no more descriptors (ulimit -Hn)");
    }
    let address = ports::free_local()?;
    let document = |limits: &str| {
        format!("version: 1\nsessions: {{ listen: [\"{address}\"], limits: {{ connections_max: {count}{limits} }} }}\n")
    };
    cluster.apply(0, &document(""))?;
    let pid = cluster.node(0).pid().context("it runs")?;
    let mut busy = store::open(address)?;
    let before = resident(pid)?;
    let mut idle = open_many(address, usize::try_from(count)? - 1)?;
    let each = resident(pid)?.saturating_sub(before) / count;
    println!("{count} connections take {each} bytes each");
    ensure!(each < BYTES_EACH, "{each} bytes each");

    for round in 0..50 {
        assert!(busy.call(&["SET", "k", &round.to_string()])?.is_ok());
        assert_eq!(busy.call(&["GET", "k"])?, Answer::text(&round.to_string()));
    }
    // No more than are allowed; clients know the words, and the log says what to do.
    for _ in 0..3 {
        let mut told = String::new();
        open(address)?.read_to_string(&mut told)?;
        assert_eq!(told, "-ERR max number of clients reached\r\n");
    }
    let told = wait::until("the log to say what to do", || {
        let log = cluster.node(0).log()?;
        Ok(Some(log.matches("raise sessions.limits.connections_max").count()).filter(|told| *told > 0))
    })?;
    assert_eq!(told, 1, "it is said once");

    // Longer than whoever is at work is kept from it while this is applied.
    cluster.apply(0, &document(", idle_timeout: 5s"))?;
    for stream in &mut idle {
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        wait::until("an idle connection to be closed", || {
            // Whoever is at work stays.
            ensure!(busy.call(&["PING"])? == Answer::Simple("PONG".to_owned()));
            match stream.read(&mut [0]) {
                Ok(0) => Ok(Some(())),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Some(())),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
                other => bail!("{other:?}"),
            }
        })?;
    }
    drop(idle);
    assert_eq!(busy.call(&["GET", "k"])?, Answer::text("49"));
    let mut next = open_many(address, BATCH)?;
    // All of these are idle too.
    next.iter_mut().try_for_each(|stream| {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        ensure!(stream.read(&mut [0])? == 0);
        Ok(())
    })
}
