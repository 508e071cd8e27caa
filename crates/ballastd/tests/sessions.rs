//! The session store of a real cluster: any node, and what nodes that die and freeze leave of it.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    process::Command,
};

use anyhow::{Result, ensure};
use ballast_testkit::{
    client::{Client, Response},
    cluster::{Cluster, Said},
    ports,
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
                // Not an error, which the wait would try again.
                assert!(!gone || answer == Answer::Null, "{key} came back");
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
    // The deadline is short, and the first answer may be late.
    wait::until("a key", || Ok(node.call(&["SET", "k", "v"])?.is_ok().then_some(())))?;
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

const OVER_HTTP: &str =
    "version: 1\nsessions: { keyspaces: [{ name: shop, database: 0 }], limits: { value_max: 1KiB } }\n";

/// The code of a refusal.
fn refusal(answer: &Response) -> Result<(u16, String)> {
    ensure!(answer.header("content-type") == Some("application/problem+json"), "{answer:?}");
    let problem: serde_json::Value = serde_json::from_slice(&answer.body)?;
    Ok((answer.status, problem["code"].as_str().unwrap_or_default().to_owned()))
}

fn tag(answer: &Response) -> &str {
    answer.header("etag").unwrap_or("none")
}

#[test]
fn a_session_over_http_is_the_same_on_every_node() -> Result<()> {
    let (_cluster, places) = store::start_both(OVER_HTTP)?;
    let mut nodes: Vec<Client> = places.iter().map(|place| Client::new(place.http).host("localhost")).collect();
    let path = "/v1/sessions/shop/cart%3A1";
    let made = nodes[0].request("PUT", path, &[("TTL", "100"), ("If-None-Match", "*")], b"one")?;
    assert_eq!(made.status, 201, "{made:?}");
    for node in &mut nodes {
        let got = node.get(path)?;
        assert_eq!((got.status, got.text(), tag(&got)), (200, "one".to_owned(), tag(&made)));
        let left: u64 = got.header("ttl").unwrap_or_default().parse()?;
        assert!((1..=100).contains(&left), "{left} seconds are left");
        let head = node.request("HEAD", path, &[], b"")?;
        assert_eq!((head.status, head.header("content-length"), tag(&head)), (200, Some("3"), tag(&made)));
    }
    assert_eq!(store::open(places[2].resp)?.call(&["GET", "cart:1"])?, Answer::text("one"));
    let changed = nodes[1].request("PUT", path, &[("If-Match", tag(&made))], b"two")?;
    assert_eq!(changed.status, 204, "{changed:?}");
    let late = nodes[2].request("PUT", path, &[("If-Match", tag(&made))], b"three")?;
    assert_eq!(refusal(&late)?, (412, "changed".to_owned()));
    let again = nodes[0].request("PUT", path, &[("If-None-Match", "*")], b"three")?;
    assert_eq!(refusal(&again)?, (412, "changed".to_owned()));
    assert_eq!(nodes[0].request("GET", path, &[("If-None-Match", tag(&changed))], b"")?.status, 304);
    assert_eq!(nodes[2].request("DELETE", path, &[("If-Match", tag(&changed))], b"")?.status, 204);
    for node in &mut nodes {
        assert_eq!(refusal(&node.get(path)?)?, (404, "no_session".to_owned()));
    }

    for (method, fields, body, status, code) in [
        ("PUT", &[("TTL", "0")][..], "v", 400, "bad_ttl"),
        ("PUT", &[("TTL", "soon")], "v", 400, "bad_ttl"),
        ("PUT", &[("Content-Encoding", "gzip")], "v", 415, "encoded"),
        ("PUT", &[], &"v".repeat(1025), 413, "too_large"),
        ("POST", &[], "v", 405, "method"),
    ] {
        let answer = nodes[1].request(method, path, fields, body.as_bytes())?;
        assert_eq!(refusal(&answer)?, (status, code.to_owned()));
        assert_eq!(answer.header("allow").is_some(), status == 405);
    }
    assert_eq!(refusal(&nodes[1].get("/v1/sessions/shpo/a")?)?, (404, "no_keyspace".to_owned()));

    assert_eq!(nodes[0].request("PUT", path, &[("TTL", "1")], b"short")?.status, 201);
    let mut gone = false;
    wait::until("the end of a session", || {
        for node in &mut nodes {
            let status = node.get(path)?.status;
            assert!(!gone || status == 404, "the session came back");
            gone = gone || status == 404;
        }
        Ok(gone.then_some(()))
    })
}

#[test]
fn users_come_over_http_too_and_without_a_quorum_they_are_told_to_come_again() -> Result<()> {
    let (mut cluster, places) = store::start_both(OVER_HTTP)?;
    // Of the password `secret`.
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$vJtZriT6SMmTqpUJbnpn3Q$YOJsL6PLjAfwHRA8z+cx+fyxM0U3GwzIHOmYB3tXp30";
    let users = format!("users: [{{ name: shop, key_prefixes: [\"cart:\"], password_hash: \"{hash}\" }}]");
    cluster.apply(0, &OVER_HTTP.replace("sessions: { ", &format!("sessions: {{ {users}, ")))?;
    let mut nodes: Vec<Client> = places.iter().map(|place| Client::new(place.http).host("localhost")).collect();
    // `shop:secret` and `shop:wrong`.
    let (shop, wrong) = ("Basic c2hvcDpzZWNyZXQ=", "Basic c2hvcDp3cm9uZw==");
    let path = "/v1/sessions/shop/cart:1";
    for node in &mut nodes {
        wait::until("users", || Ok((node.get(path)?.status == 401).then_some(())))?;
        let stranger = node.get(path)?;
        assert!(stranger.header("www-authenticate").is_some_and(|how| how.starts_with("Basic ")), "{stranger:?}");
        let answer = node.request("GET", path, &[("Authorization", wrong)], b"")?;
        assert_eq!(refusal(&answer)?, (401, "wrong_password".to_owned()));
        assert!(matches!(node.request("PUT", path, &[("Authorization", shop)], b"v")?.status, 201 | 204));
        let answer = node.request("PUT", "/v1/sessions/shop/other", &[("Authorization", shop)], b"v")?;
        assert_eq!(refusal(&answer)?, (403, "denied".to_owned()));
    }
    // Who does not get in, and who is cut, is in the log.
    TcpStream::connect(places[0].resp)?.write_all(b"*1\r\n:1\r\n")?;
    wait::until("lines in the log", || {
        let log = cluster.node(0).log()?;
        let told = ["there is no such user, or the password is wrong", "cut: what it sent is no request"];
        Ok(told.iter().all(|line| log.contains(line)).then_some(()))
    })?;
    cluster.kill(1);
    cluster.kill(2);
    // The one that is left may have led; until it knows better, what it sends is lost and not refused.
    let refused = wait::until("a refusal", || {
        let answer = nodes[0].request("PUT", path, &[("Authorization", shop)], b"w")?;
        ensure!(matches!(answer.status, 503 | 504), "{answer:?}");
        Ok((answer.status == 503).then_some(answer))
    })?;
    assert_eq!((refusal(&refused)?, refused.header("retry-after")), ((503, "no_quorum".to_owned()), Some("1")));
    let read = nodes[0].request("GET", path, &[("Authorization", shop)], b"")?;
    assert_eq!(refusal(&read)?, (503, "no_quorum".to_owned()));
    Ok(())
}

#[test]
fn whoever_waits_for_a_document_hears_where_sessions_are_not_served() -> Result<()> {
    let (cluster, _) = store::start(PLAIN)?;
    // Nodes of one machine cannot all listen on one address.
    let (redis, https) = (ports::free_local()?, ports::free_local()?);
    let document = format!("version: 1\nsessions: {{ listen: [\"{redis}\"], http_tls_listen: [\"{https}\"] }}\n");
    let file = cluster.write("taken.yaml", &document)?;
    // A node that does not answer within half a second is left out; the same document again changes nothing.
    wait::until("two nodes to say that they cannot listen", || {
        let said = cluster.ctl(0, &["apply", "-f", &file, "--wait"])?;
        ensure!(said.code == 1, "{said:?}");
        for (address, kind) in [(redis, "redis"), (https, "http-tls")] {
            let told = |node: usize| {
                let name = cluster.node(node).name();
                said.err.contains(&format!(
                    "{name}: listener {address} of the session store ({kind}): Address already in use"
                ))
            };
            ensure!((0..3).filter(|node| told(*node)).count() == 2, "{said:?}");
        }
        Ok(Some(()))
    })?;
    wait::until("the state of the cluster to say so", || {
        let status = cluster.ctl_json(0, &["cluster", "status"])?;
        let problems: Vec<_> = status["problems"].as_array().into_iter().flatten().filter_map(|p| p.as_str()).collect();
        let wanted = format!("is not ready: the session store cannot listen on {redis}: Address already in use");
        ensure!(problems.iter().filter(|problem| problem.contains(&wanted)).count() == 2, "{problems:?}");
        Ok(Some(()))
    })?;
    // Whoever applies what can be served is not told of what was.
    cluster.apply(1, PLAIN)?;
    Ok(())
}

/// What curl gets of the first node with the CA of the cluster, told the name in the node's certificate.
fn curl(cluster: &Cluster, address: SocketAddr, arguments: &[&str]) -> Result<Said> {
    let name =
        format!("{}.ballast", cluster.ctl_json(0, &["cluster", "status"])?["cluster_id"].as_str().unwrap_or_default());
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--write-out", " %{http_code}"]);
    command.args(["--resolve", &format!("{name}:{}:{}", address.port(), address.ip())]).args(arguments);
    command.arg(format!("https://{name}:{}/v1/sessions/0/shop:1", address.port()));
    Ok(Said::from(&command.output()?))
}

#[test]
fn sessions_over_https_are_served_with_the_certificate_of_the_node() -> Result<()> {
    if !Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: curl is not installed here (Debian: apt-get install curl)");
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let address = ports::free_local()?;
    cluster.apply(0, &format!("version: 1\nsessions: {{ http_tls_listen: [\"{address}\"] }}\n"))?;
    let file = |name: &str| cluster.folder().join(name).display().to_string();
    cluster.ctl_ok(0, &["user", "issue", "shop", "--role", "viewer", "--out", &file("shop")])?;
    let ca = file("shop/ca.pem");
    let put = |more: &[&str]| curl(&cluster, address, &[more, &["-X", "PUT", "--data-binary", "cart=3"]].concat());
    let said = put(&["--cacert", &ca])?;
    assert_eq!((said.code, said.out.as_str()), (0, " 201"), "{said:?}");
    assert_eq!(put(&[])?.code, 60, "nobody else's CA vouches for it");
    let said = curl(&cluster, address, &["--cacert", &ca, "--tls-max", "1.2"])?;
    assert_eq!((said.code, said.out.as_str()), (0, "cart=3 200"), "{said:?}");

    // A user without a password is who shows its certificate.
    let users = "users: [{ name: shop, key_prefixes: [\"shop:\"] }]";
    cluster.apply(0, &format!("version: 1\nsessions: {{ {users}, http_tls_listen: [\"{address}\"] }}\n"))?;
    wait::until("users", || {
        let said = curl(&cluster, address, &["--cacert", &ca, "--output", "/dev/null"])?;
        ensure!((said.code, said.out.as_str()) == (0, " 401"), "{said:?}");
        Ok(Some(()))
    })?;
    let (certificate, key) = (file("shop/shop.pem"), file("shop/shop.key"));
    let shown = ["--cacert", &ca, "--cert", &certificate, "--key", &key];
    let said = curl(&cluster, address, &shown)?;
    assert_eq!((said.code, said.out.as_str()), (0, "cart=3 200"), "{said:?}");
    cluster.ctl_ok(0, &["user", "revoke", "shop"])?;
    wait::until("the certificate to be worth nothing", || {
        let said = curl(&cluster, address, &[&shown[..], &["--output", "/dev/null"]].concat())?;
        ensure!(said.out == " 401", "{said:?}");
        Ok(Some(()))
    })
}
