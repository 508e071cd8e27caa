//! The session store of a real cluster: any node, and what nodes that die and freeze leave of it.

use anyhow::{Result, ensure};
use ballast_testkit::{
    resp::{Answer, Connection},
    store, wait,
};

const PLAIN: &str = "version: 1\nsessions: {}\n";

#[test]
fn what_one_node_acknowledged_every_node_has() -> Result<()> {
    let (_cluster, addresses) = store::start(PLAIN)?;
    let mut nodes = addresses.iter().map(|address| store::open(*address)).collect::<Result<Vec<_>>>()?;
    for round in 0..30 {
        let (key, value) = (format!("k{}", round % 5), round.to_string());
        let set = nodes[round % 3].call(&["SET", &key, &value, "EX", "100"])?;
        assert!(set.is_ok(), "{set:?}");
        for node in &mut nodes {
            assert_eq!(node.call(&["GET", &key])?, Answer::text(&value), "round {round}");
        }
    }
    // A pipeline keeps its order across reads and writes.
    let pipeline: [&[&str]; 5] = [&["SET", "n", "1"], &["INCR", "n"], &["GET", "n"], &["DEL", "n"], &["EXISTS", "n"]];
    nodes[2].send(&pipeline)?;
    let answers = (0..5).map(|_| nodes[2].answer()).collect::<Result<Vec<_>, _>>()?;
    let expected = [
        Answer::Simple("OK".to_owned()),
        Answer::Integer(2),
        Answer::text("2"),
        Answer::Integer(1),
        Answer::Integer(0),
    ];
    assert_eq!(answers, expected);
    Ok(())
}

#[test]
fn a_key_ends_everywhere_at_once_and_is_never_seen_again() -> Result<()> {
    let (_cluster, addresses) = store::start(PLAIN)?;
    let mut nodes = addresses.iter().map(|address| store::open(*address)).collect::<Result<Vec<_>>>()?;
    for round in 0..10 {
        let key = format!("short{round}");
        assert!(nodes[round % 3].call(&["SET", &key, "v", "PX", "60"])?.is_ok());
        let mut gone = false;
        wait::until("the end of a key", || {
            for node in &mut nodes {
                let answer = node.call(&["GET", &key])?;
                ensure!(!gone || answer == Answer::Null, "{key} came back");
                gone = gone || answer == Answer::Null;
            }
            Ok(gone.then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn increments_through_all_nodes_count_exactly_while_nodes_die() -> Result<()> {
    let (mut cluster, addresses) = store::start(PLAIN)?;
    let (mut sure, mut unsure) = (0, 0);
    let mut connections: Vec<Option<Connection>> = addresses.iter().map(|_| None).collect();
    for round in 0..1500 {
        match round {
            300 | 900 => cluster.kill(cluster.wait_leader()?),
            600 | 1200 => {
                for node in 0..3 {
                    if !cluster.is_up(node) {
                        cluster.spawn(node)?;
                        cluster.wait_ready(node)?;
                    }
                }
            }
            _ => {}
        }
        let at = round % 3;
        if connections[at].is_none() {
            connections[at] = store::open(addresses[at]).ok();
        }
        let Some(connection) = &mut connections[at] else { continue };
        match connection.call(&["INCR", "counter"]) {
            Ok(Answer::Integer(_)) => sure += 1,
            // Certainly not carried out.
            Ok(Answer::Error(error)) if error.starts_with("CLUSTERDOWN") => {}
            Ok(Answer::Error(error)) => {
                assert!(error.starts_with("UNKNOWN"), "{error}");
                unsure += 1;
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => {
                connections[at] = None;
                unsure += 1;
            }
        }
    }
    let counted = wait::until("a count", || {
        for address in &addresses {
            let Ok(mut connection) = store::open(*address) else { continue };
            if let Ok(Answer::Bulk(value)) = connection.call(&["GET", "counter"]) {
                return Ok(Some(String::from_utf8(value)?.parse::<i64>()?));
            }
        }
        Ok(None)
    })?;
    assert!(sure > 500, "{sure} of 1500 were acknowledged");
    assert!((sure..=sure + unsure).contains(&counted), "{sure} acknowledged, {unsure} unknown, {counted} counted");
    Ok(())
}

#[test]
fn without_a_quorum_writes_and_reads_are_refused_in_time_and_stale_reads_are_a_choice() -> Result<()> {
    let (mut cluster, addresses) = store::start("version: 1\nsessions: { limits: { deadline: 500ms } }\n")?;
    let mut node = store::open(addresses[0])?;
    assert!(node.call(&["SET", "k", "v"])?.is_ok());
    cluster.kill(1);
    cluster.kill(2);
    // The one that is left may have led; until it knows better, what it sends is lost and not refused.
    wait::until("a refusal", || match node.call(&["SET", "k", "w"])? {
        Answer::Error(error) if error.starts_with("CLUSTERDOWN") => Ok(Some(())),
        Answer::Error(error) if error.starts_with("UNKNOWN") => Ok(None),
        other => anyhow::bail!("{other:?}"),
    })?;
    let read = node.call(&["GET", "k"])?;
    assert!(matches!(&read, Answer::Error(error) if error.starts_with("CLUSTERDOWN")), "{read:?}");
    assert!(node.call(&["READONLY"])?.is_ok());
    assert_eq!(node.call(&["GET", "k"])?, Answer::text("v"));
    Ok(())
}

#[test]
fn keys_outlive_all_nodes_and_come_back_from_snapshots() -> Result<()> {
    let (mut cluster, addresses) = store::start(PLAIN)?;
    let mut node = store::open(addresses[1])?;
    for key in 0..300 {
        assert!(node.call(&["SET", &format!("k{key}"), "v", "EX", "1000"])?.is_ok());
    }
    cluster.ctl_ok(0, &["cluster", "snapshot"])?;
    assert_eq!(node.call(&["HSET", "h", "a", "1", "b", "2"])?, Answer::Integer(2));
    cluster.kill_all();
    for at in 0..3 {
        cluster.spawn(at)?;
    }
    for at in 0..3 {
        cluster.wait_ready(at)?;
    }
    for address in addresses {
        let mut node = wait::until("the session store", || Ok(store::open(address).ok()))?;
        assert_eq!(node.call(&["DBSIZE"])?, Answer::Integer(301));
        assert_eq!(node.call(&["HGET", "h", "b"])?, Answer::text("2"));
    }
    Ok(())
}
