//! What a node refuses, and that the refusal says what to do.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use anyhow::{Result, ensure};
use ballast_testkit::{
    backend::Backend,
    client::{self, Client},
    cluster::{self, Cluster},
    ports,
    shop::Shop,
    wait,
};

#[test]
fn a_join_needs_a_good_token_a_free_name_and_an_empty_directory() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let token = cluster.join_token()?;
    let second = cluster.prepare_node()?;

    cluster.daemon_says(second, &["join", "--token", "hello"])?.refused(&["join token", "node join-token"])?;
    let mut damaged = token.clone();
    damaged.pop();
    cluster.daemon_says(second, &["join", "--token", &damaged])?.refused(&["damaged"])?;

    // A token and a file that do not agree on what the node is.
    let config = cluster.node(second).folder().join("ballastd.toml");
    let text = fs::read_to_string(&config)?;
    let for_a_witness = cluster.ctl_ok(0, &["node", "join-token", "--witness"])?;
    let said = cluster.daemon_says(second, &["join", "--token", for_a_witness.trim()])?;
    said.refused(&["role: the join token is for a witness", "write role = \"witness\"", "node join-token"])?;
    fs::write(&config, format!("role = \"witness\"\n{text}"))?;
    let said = cluster.daemon_says(second, &["join", "--token", &token])?;
    said.refused(&["role: the node's ballastd.toml says that it is a witness", "node join-token --witness"])?;

    // A node of the same name.
    fs::write(&config, text.replace("name = \"node-2\"", "name = \"node-1\""))?;
    cluster.daemon_says(second, &["join", "--token", &token])?.refused(&["node-1", "name"])?;
    fs::write(&config, text)?;

    // The refusal did not use the token up; joining does.
    cluster.daemon_once(second, &["join", "--token", &token])?;
    cluster.daemon_says(second, &["join", "--token", &token])?.refused(&["already holds", "ballastd run"])?;
    cluster.daemon_says(second, &["init"])?.refused(&["already holds"])?;
    let third = cluster.prepare_node()?;
    cluster.daemon_says(third, &["join", "--token", &token])?.refused(&["token", "node join-token"])?;
    Ok(())
}

#[test]
fn help_does_not_tell_the_token_that_is_in_the_environment() -> Result<()> {
    let mut command = Command::new(cluster::bin_dir()?.join("ballastd"));
    let output = command.args(["join", "--help"]).env("BALLAST_JOIN_TOKEN", "good-for-an-hour").output()?;
    let help = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && help.contains("BALLAST_JOIN_TOKEN"), "{help}");
    ensure!(!help.contains("good-for-an-hour"), "{help}");
    Ok(())
}

#[test]
fn a_node_whose_file_says_witness_afterwards_is_not_ready_and_holds_no_vip() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let backend = Backend::start("web1")?;
    let vip = std::net::SocketAddr::from((ports::vip_address(), 8080));
    cluster.apply(0, &Shop::new([&backend]).on_vip(vip).to_yaml())?;
    cluster.wait_owner("public")?;
    cluster.kill(0);
    cluster.edit(0, |text| format!("role = \"witness\"\n{text}"))?;
    cluster.spawn(0)?;
    let mut ready = Client::new(cluster.node(0).metrics_address()).host("localhost");
    wait::until("the node to say why it is not ready", || {
        let answer = ready.get("/readyz")?;
        ensure!(answer.status == 503 && answer.text().contains("says that it is a witness"), "{}", answer.text());
        Ok(Some(()))
    })?;
    wait::until("the node to be no candidate", || {
        let vips = cluster.ctl_json(0, &["vip", "list"])?;
        let (vip, standing) = (&vips[0], &vips[0]["standings"][0]);
        ensure!(standing["reason"] == "not_candidate" && vip["owner_name"].is_null(), "{vips}");
        Ok(Some(()))
    })
}

#[test]
fn a_token_of_another_cluster_is_refused_by_its_pin() -> Result<()> {
    let ours = Cluster::start(1)?;
    let mut theirs = Cluster::start(1)?;
    let stranger = theirs.prepare_node()?;
    // Their token, our cluster's address: the CA pin does not match whoever answers there.
    let token = ours.join_token()?;
    drop(ours);
    theirs.daemon_says(stranger, &["join", "--token", &token])?.refused(&["could be reached"])?;
    Ok(())
}

#[test]
fn a_node_does_not_start_without_identity_with_another_name_or_twice() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let fresh = cluster.prepare_node()?;
    cluster.daemon_says(fresh, &["run"])?.refused(&["ballastd init", "ballastd join"])?;
    cluster.daemon_says(0, &["run"])?.refused(&["another ballastd", "data_dir"])?;

    cluster.kill(0);
    let config = cluster.node(0).folder().join("ballastd.toml");
    let text = fs::read_to_string(&config)?;
    fs::write(&config, text.replace("name = \"node-1\"", "name = \"other\""))?;
    cluster.daemon_says(0, &["run"])?.refused(&["node-1", "other"])?;
    fs::write(&config, text.replace("workers", "wrokers"))?;
    cluster.daemon_says(0, &["run"])?.refused(&["wrokers", "workers"])?;
    fs::write(&config, "not toml at all")?;
    cluster.daemon_says(0, &["run"])?.refused(&["ballastd.toml"])?;
    Ok(())
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    cluster.kill(0);
    let config = cluster.node(0).config();
    let (place, text) = (config.display().to_string(), fs::read_to_string(&config)?);
    let says = |words: &[&str]| cluster.daemon_says(0, &["run"])?.refused(words);

    fs::write(&config, [text.as_bytes(), b"# caf\xe9\n"].concat())?;
    says(&[&place, &format!("line {}", text.lines().count() + 1), "UTF-8"])?;
    fs::write(&config, text.replace("workers = 1", "workers = \"many\""))?;
    says(&[&place, "workers = \"many\"", "invalid type", "line"])?;
    fs::remove_file(&config)?;
    says(&[&place, "cannot read", "--config", "No such file"])?;
    fs::create_dir(&config)?;
    says(&[&place, "cannot read", "Is a directory"])?;
    fs::remove_dir(&config)?;
    // For root everything is readable, so only others can try.
    fs::write(&config, &text)?;
    fs::set_permissions(&config, fs::Permissions::from_mode(0o000))?;
    if fs::read(&config).is_err() {
        says(&[&place, "cannot read", "Permission denied"])?;
    }
    Ok(())
}

#[test]
fn a_log_that_is_gone_stops_the_node_with_a_remedy() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    cluster.kill(0);
    fs::remove_dir_all(cluster.node(0).folder().join("data/log"))?;
    cluster.daemon_says(0, &["run"])?.refused(&["is gone", "node remove", "join"])
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    cluster.kill(0);
    let node = cluster.node(0);
    for (key, address) in
        [("cluster", node.cluster_address()), ("admin", node.admin_address()), ("metrics", node.metrics_address())]
    {
        let _taken = TcpListener::bind(address)?;
        let key = format!("listen.{key}");
        cluster.daemon_says(0, &["run"])?.refused(&[&address.to_string(), "in use", "stop whoever has it", &key])?;
    }
    let _taken = UdpSocket::bind(node.cluster_address())?;
    cluster.daemon_says(0, &["run"])?.refused(&["UDP", "in use", "listen.cluster"])
}

#[test]
fn a_listener_whose_port_is_in_use_is_told_and_bound_once_it_is_free() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let backend = Backend::start("web1")?;
    let server = ports::free_local()?;
    // A process that another test starts just now may have the look at the port still, until it is the program's.
    let taken = wait::until("the port", || Ok(TcpListener::bind(server).ok()))?;
    let file = cluster.write("shop.yaml", &Shop::new([&backend]).listen_on(server).to_yaml())?;
    let said = cluster.ctl(0, &["apply", "-f", &file, "--wait"])?;
    ensure!(said.code == 1, "exit {}: {}{}", said.code, said.out, said.err);
    said.refused(&["revision 1 is committed", &server.to_string(), "in use", "free the address"])?;
    let ready = || Client::new(cluster.node(0).metrics_address()).host("localhost").get("/readyz");
    let told = wait::until("the node to say that it is not ready", || {
        Ok(Some(ready()?).filter(|answer| answer.status == 503))
    })?;
    ensure!(told.text().contains(&server.to_string()) && told.text().contains("in use"), "{}", told.text());
    drop(taken);
    client::wait_served(server)?;
    cluster.wait_ready(0)
}

#[test]
fn a_vip_that_no_node_may_hold_is_told_by_whoever_waits_for_it() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let vip = |labels: &str| format!("version: 1\nvips:\n  - {{ name: web, addresses: [127.0.100.1]{labels} }}\n");
    let file = cluster.write("vips.yaml", &vip(", nodes: { zone: dmz }"))?;
    let said = cluster.ctl(0, &["apply", "-f", &file, "--wait"])?;
    ensure!(said.code == 1, "exit {}: {}{}", said.code, said.out, said.err);
    said.refused(&["revision 1 is committed", "VIP web: ", "is unfit: it is no candidate", "vip list -o wide"])?;
    // One that is held is waited for, and that is all.
    cluster.apply(0, &vip(""))?;
    ensure!(cluster.wait_owner("web")? == 0, "there is one node");
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
    cluster.daemon_says(0, &["run"])?.refused(&["damaged", "Corruption", "join"])?;
    Ok(())
}
