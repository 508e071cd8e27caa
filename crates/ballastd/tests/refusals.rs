//! What a node refuses, and that the refusal says what to do.

use std::fs;

use anyhow::{Result, ensure};
use ballast_testkit::cluster::{Cluster, Said};

fn refused(said: &Said, parts: &[&str]) -> Result<()> {
    ensure!(said.code != 0, "was not refused: {}", said.out);
    for part in parts {
        ensure!(said.err.contains(part), "{part:?} is not in:\n{}", said.err);
    }
    ensure!(!said.err.contains("panicked"), "{}", said.err);
    Ok(())
}

#[test]
fn a_join_needs_a_good_token_a_free_name_and_an_empty_directory() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let token = cluster.join_token()?;
    let second = cluster.prepare_node()?;

    refused(&cluster.daemon_says(second, &["join", "--token", "hello"])?, &["join token", "node join-token"])?;
    let mut damaged = token.clone();
    damaged.pop();
    refused(&cluster.daemon_says(second, &["join", "--token", &damaged])?, &["damaged"])?;

    // A node of the same name.
    let config = cluster.node(second).folder().join("ballastd.toml");
    let text = fs::read_to_string(&config)?;
    fs::write(&config, text.replace("name = \"node-2\"", "name = \"node-1\""))?;
    refused(&cluster.daemon_says(second, &["join", "--token", &token])?, &["node-1", "name"])?;
    fs::write(&config, text)?;

    // The refusal did not use the token up; joining does.
    cluster.daemon_once(second, &["join", "--token", &token])?;
    refused(&cluster.daemon_says(second, &["join", "--token", &token])?, &["already holds", "ballastd run"])?;
    refused(&cluster.daemon_says(second, &["init"])?, &["already holds"])?;
    let third = cluster.prepare_node()?;
    refused(&cluster.daemon_says(third, &["join", "--token", &token])?, &["token", "node join-token"])?;
    Ok(())
}

#[test]
fn a_token_of_another_cluster_is_refused_by_its_pin() -> Result<()> {
    let ours = Cluster::start(1)?;
    let mut theirs = Cluster::start(1)?;
    let stranger = theirs.prepare_node()?;
    // Their token, our cluster's address: the CA pin does not match whoever answers there.
    let token = ours.join_token()?;
    drop(ours);
    refused(&theirs.daemon_says(stranger, &["join", "--token", &token])?, &["could be reached"])?;
    Ok(())
}

#[test]
fn a_node_does_not_start_without_identity_with_another_name_or_twice() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let fresh = cluster.prepare_node()?;
    refused(&cluster.daemon_says(fresh, &["run"])?, &["ballastd init", "ballastd join"])?;
    refused(&cluster.daemon_says(0, &["run"])?, &["another ballastd", "data_dir"])?;

    cluster.kill(0);
    let config = cluster.node(0).folder().join("ballastd.toml");
    let text = fs::read_to_string(&config)?;
    fs::write(&config, text.replace("name = \"node-1\"", "name = \"other\""))?;
    refused(&cluster.daemon_says(0, &["run"])?, &["node-1", "other"])?;
    fs::write(&config, text.replace("workers", "wrokers"))?;
    refused(&cluster.daemon_says(0, &["run"])?, &["wrokers", "workers"])?;
    fs::write(&config, "not toml at all")?;
    refused(&cluster.daemon_says(0, &["run"])?, &["ballastd.toml"])?;
    Ok(())
}

#[test]
fn a_log_that_is_gone_stops_the_node_with_a_remedy() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    cluster.kill(0);
    fs::remove_dir_all(cluster.node(0).folder().join("data/log"))?;
    refused(&cluster.daemon_says(0, &["run"])?, &["is gone", "node remove", "join"])
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    cluster.kill(0);
    let _taken = std::net::TcpListener::bind(cluster.node(0).admin_address())?;
    refused(&cluster.daemon_says(0, &["run"])?, &[&cluster.node(0).admin_address().to_string(), "in use"])?;
    Ok(())
}

#[test]
fn a_flipped_bit_in_the_log_stops_the_node_with_a_remedy() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    cluster.kill(0);
    // Every file that holds records of the log, one byte each in its middle.
    let mut flipped = 0;
    let mut folders = vec![cluster.node(0).folder().join("data/log")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "log" || e == "sst") {
                let mut bytes = fs::read(&path)?;
                if let Some(end) = bytes.iter().rposition(|b| *b != 0) {
                    let middle = end / 2;
                    bytes[middle] ^= 0x10;
                    fs::write(&path, bytes)?;
                    flipped += 1;
                }
            }
        }
    }
    ensure!(flipped > 0, "found no log file to damage");
    refused(&cluster.daemon_says(0, &["run"])?, &["damaged", "Corruption", "join"])?;
    Ok(())
}
