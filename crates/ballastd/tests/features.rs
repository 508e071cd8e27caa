//! What a document can ask for, in clusters of real processes: each feature as an operator meets it.

use std::{collections::BTreeMap, fs, net::SocketAddr, thread};

use anyhow::{Context, Result, ensure};
use ballast_testkit::{
    backend::{Backend, Mode},
    client::{self, Client, Response},
    cluster::Cluster,
    newcomers, ports,
    shop::Shop,
    wait,
};

fn three_servers() -> Result<Vec<SocketAddr>> {
    (0..3).map(|_| ports::free_local()).collect()
}

/// Who answers so many clients that nobody knows, and how often.
fn ask_as_many(server: SocketAddr, clients: usize) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for _ in 0..clients {
        let answer = Client::new(server).get("/page")?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        *counts.entry(answer.header("x-backend").unwrap_or_default().to_owned()).or_default() += 1;
    }
    Ok(counts)
}

/// Waits until the cluster's verdict on a backend of the shop is this one.
fn wait_verdict(cluster: &Cluster, backend: &str, verdict: &str) -> Result<()> {
    wait::until(&format!("{backend} to be {verdict}"), || {
        let list = cluster.ctl_json(0, &["backend", "list"])?;
        let entry = list.as_array().into_iter().flatten().find(|entry| entry["name"] == backend);
        let found = entry.with_context(|| format!("no {backend} in {list}"))?["verdict"].clone();
        ensure!(found == verdict, "it is {found}");
        Ok(Some(()))
    })
}

fn reason(answer: &Response) -> (u16, &str) {
    (answer.status, answer.header("x-ballast-reason").unwrap_or_default())
}

#[test]
fn a_signed_cookie_names_the_backend_on_every_node() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let backends = [Backend::start("web1")?, Backend::start("web2")?, Backend::start("web3")?];
    let servers = three_servers()?;
    cluster.apply(0, &Shop::new(&backends).listen_on_each(&servers).signed_cookie().to_yaml())?;
    for server in &servers {
        client::wait_served(*server)?;
    }
    for _ in 0..6 {
        let mut client = Client::new(servers[0]);
        let first = client.get("/page")?.header("x-backend").unwrap_or_default().to_owned();
        let cookie = client.cookie("BALLAST").context("no cookie was set")?.to_owned();
        for server in servers.iter().cycle().take(9) {
            client.go_to(*server);
            let answer = client.get("/page")?;
            ensure!(answer.header("x-backend") == Some(&first), "{first} -> {}", answer.text());
        }
        ensure!(client.cookie("BALLAST") == Some(&cookie), "the cookie was set again although it was good");

        // One that was tampered with is as good as none: replaced, and the client is served.
        let mut forged = cookie.into_bytes();
        let last = forged.last_mut().context("an empty cookie")?;
        *last = if *last == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged)?;
        client.set_cookie("BALLAST", &forged);
        ensure!(client.get("/page")?.status == 200);
        ensure!(client.cookie("BALLAST") != Some(&forged), "a forged cookie was believed");
    }
    // Nothing of it is in the table.
    let bindings = cluster.ctl_json(0, &["bindings", "list", "--farm", "shop"])?;
    ensure!(bindings.as_array().is_none_or(Vec::is_empty), "{bindings}");
    Ok(())
}

#[test]
fn requests_queue_for_a_full_backend_and_are_refused_in_time() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let backend = Backend::start("web1")?;
    let server = ports::free_local()?;
    let shop = Shop::new([&backend]).listen_on(server).backend("web1", "connections_max: 1");
    let hold = || {
        backend.set_mode(Mode::Held);
        let held = thread::spawn(move || Client::new(server).get("/held"));
        wait::until("the backend to be full", || Ok((backend.held() == 1).then_some(())))?;
        anyhow::Ok(held)
    };
    let finish = |held: thread::JoinHandle<std::io::Result<Response>>| {
        backend.set_mode(Mode::Ok);
        let answer = held.join().expect("the client does not panic")?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    };

    cluster.apply(0, &shop.clone().site("queue_timeout: 300ms").to_yaml())?;
    client::wait_served(server)?;
    let held = hold()?;
    let answer = Client::new(server).get("/waits")?;
    ensure!(reason(&answer) == (503, "queue_timeout"), "{:?}", reason(&answer));
    finish(held)?;

    cluster.apply(0, &shop.clone().site("queue_timeout: 0ms").to_yaml())?;
    let held = hold()?;
    let answer = Client::new(server).get("/does-not-wait")?;
    ensure!(reason(&answer) == (503, "queue_full"), "{:?}", reason(&answer));
    finish(held)?;

    // Whoever waits is served once there is room.
    cluster.apply(0, &shop.site("queue_timeout: 1m").to_yaml())?;
    let held = hold()?;
    let waiting: Vec<_> = (0..3).map(|_| thread::spawn(move || Client::new(server).get("/queued"))).collect();
    wait::until("three requests to wait", || {
        let metrics = cluster.metrics(0)?;
        let queued: f64 =
            metrics.iter().filter(|(name, _)| name.starts_with("ballast_queue_length")).map(|(_, value)| value).sum();
        Ok((queued >= 3.0).then_some(()))
    })?;
    finish(held)?;
    for waiting in waiting {
        let answer = waiting.join().expect("the client does not panic")?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    }
    Ok(())
}

#[test]
fn a_backend_that_came_back_gets_less_at_first() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let backends = [Backend::start("web1")?, Backend::start("web2")?];
    let server = ports::free_local()?;
    let shop = Shop::new(&backends).listen_on(server).checked().site("balance: weighted_round_robin");
    // Long enough that the whole test is its beginning.
    let slow = shop.clone().site("slow_start: 1h").to_yaml();
    cluster.apply(0, &slow)?;
    client::wait_served(server)?;

    let come_back = || {
        backends[0].set_mode(Mode::Failing);
        wait_verdict(&cluster, "web1", "down")?;
        // It stays away for as long as it takes to count, so that however slow the machine is it is much the younger then.
        wait::until("the other to serve all", || Ok((!ask_as_many(server, 200)?.contains_key("web1")).then_some(())))?;
        backends[0].set_mode(Mode::Ok);
        wait_verdict(&cluster, "web1", "up")
    };
    come_back()?;
    // Its share follows its age; the other's age is greater by the time that it was away.
    let slow_counts = ask_as_many(server, 200)?;
    let share = |counts: &BTreeMap<String, usize>| counts.get("web1").copied().unwrap_or(0);
    ensure!(share(&slow_counts) < 90, "with a slow start: {slow_counts:?}");

    cluster.apply(0, &shop.to_yaml())?;
    wait::until("equal shares", || {
        let counts = ask_as_many(server, 200)?;
        ensure!((95..=105).contains(&share(&counts)), "without a slow start: {counts:?}");
        Ok(Some(()))
    })
}

#[test]
fn a_backup_serves_only_while_no_other_backend_does() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let backends = [Backend::start("web1")?, Backend::start("spare")?];
    let server = ports::free_local()?;
    let shop = Shop::new(&backends).listen_on(server).checked().backend("spare", "backup: true");
    cluster.apply(0, &shop.to_yaml())?;
    client::wait_served(server)?;
    // What the data plane goes by follows the verdict, which may wait a moment for others.
    let all_by = |name: &str| {
        wait::until(&format!("{name} to serve all"), || {
            let counts = ask_as_many(server, 20)?;
            ensure!(counts.get(name) == Some(&20), "{counts:?}");
            Ok(Some(()))
        })
    };
    all_by("web1")?;
    backends[0].set_mode(Mode::Failing);
    wait_verdict(&cluster, "web1", "down")?;
    all_by("spare")?;
    backends[0].set_mode(Mode::Ok);
    wait_verdict(&cluster, "web1", "up")?;
    all_by("web1")
}

/// Each node has its own opinion of a backend by what it met itself: checks are rare here, and one
/// failed request is enough.
#[test]
fn under_the_local_policy_each_node_goes_by_its_own_findings() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let backends = [Backend::start("web1")?, Backend::start("web2")?];
    let servers = three_servers()?;
    let shop = Shop::new(&backends).listen_on_each(&servers).site("balance: round_robin").site("retries_max: 0");
    let checks =
        |policy: &str| format!("health: {{ interval: 1h, rise: 1, fall: 1, passive_failures: 1, policy: {policy} }}");
    // Every node says once that all is well, and is then silent for the rest of the test.
    cluster.apply(0, &shop.clone().checked().to_yaml())?;
    wait::until("three nodes to find both backends up", || {
        let list = cluster.ctl_json(0, &["backend", "list"])?;
        let found = list.as_array().into_iter().flatten().flat_map(|b| b["reports"].as_array().into_iter().flatten());
        Ok((found.filter(|report| report["verdict"] == "up").count() == 6).then_some(()))
    })?;
    cluster.apply(0, &shop.clone().site(&checks("local")).to_yaml())?;
    for server in &servers {
        client::wait_served(*server)?;
    }

    backends[0].set_mode(Mode::Garbage);
    wait::until("the first node to meet the failing backend", || {
        Ok(Some(()).filter(|()| Client::new(servers[0]).get("/page").is_ok_and(|answer| answer.status == 502)))
    })?;
    backends[0].set_mode(Mode::Ok);
    wait::until("the first node to leave it", || {
        let counts = ask_as_many(servers[0], 20)?;
        Ok((!counts.contains_key("web1")).then_some(()))
    })?;
    for server in &servers[1..] {
        let counts = ask_as_many(*server, 20)?;
        ensure!(counts.len() == 2, "what one node met moved the clients of another: {counts:?}");
    }
    wait_verdict(&cluster, "web1", "up")?;

    // The same findings, judged by the majority: it serves on all nodes.
    cluster.apply(0, &shop.site(&checks("majority")).to_yaml())?;
    wait::until("the first node to use both", || Ok((ask_as_many(servers[0], 20)?.len() == 2).then_some(())))
}

/// Names of the nodes that vote.
fn voters(cluster: &Cluster) -> Result<Vec<String>> {
    let status = cluster.ctl_json(0, &["cluster", "status"])?;
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let mut names: Vec<_> =
        nodes.filter(|n| n["voter"] == true).filter_map(|n| n["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    Ok(names)
}

#[test]
fn a_witness_votes_and_serves_nothing() -> Result<()> {
    let mut cluster = Cluster::start(2)?;
    let witness = cluster.prepare_node()?;
    cluster.edit(witness, |text| format!("role = \"witness\"\n{text}"))?;
    let token = cluster.ctl_ok(0, &["node", "join-token", "--witness"])?.trim().to_owned();
    cluster.daemon_once(witness, &["join", "--token", &token])?;
    cluster.spawn(witness)?;
    cluster.wait_ready(witness)?;
    cluster.wait_voters(3)?;

    let backend = Backend::start("web1")?;
    let servers = three_servers()?;
    let vip = SocketAddr::from((ports::vip_address(), 8080));
    let shop = Shop::new([&backend]).listen_on_each(&servers).on_vip(vip).persistence_header(newcomers::HEADER);
    cluster.apply(0, &shop.to_yaml())?;
    client::wait_served(vip)?;
    client::wait_served(servers[0])?;
    client::wait_served(servers[1])?;
    ensure!(Client::new(servers[witness]).get("/page").is_err(), "a witness listens for clients");

    // With its vote the last full node goes on: it owns the VIP and makes new bindings.
    let owner = cluster.wait_owner("public")?;
    ensure!(owner != witness, "a witness owns a VIP");
    cluster.kill(owner);
    let heir = cluster.wait_owner("public")?;
    ensure!(heir == 1 - owner, "{} owns the VIP", cluster.node(heir).name());
    wait::until("a new binding", || newcomers::ask(vip, "new").map(Some))?;
    // Alone it neither owns nor serves.
    cluster.kill(heir);
    wait::until("the VIP to be nobody's", || Ok(cluster.owner("public").is_none().then_some(())))?;
    ensure!(Client::new(vip).get("/page").is_err(), "somebody answers for the VIP");
    Ok(())
}

#[test]
fn a_drained_node_hands_its_vip_over_and_gets_one_again_once_enabled() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let backends = [Backend::start("web1")?, Backend::start("web2")?];
    let vip = SocketAddr::from((ports::vip_address(), 8080));
    cluster.apply(0, &Shop::new(&backends).on_vip(vip).learned_cookie("SHOPID").to_yaml())?;
    client::wait_served(vip)?;
    let mut client = Client::new(vip);
    let first = client.wait_get("/login")?.header("x-backend").unwrap_or_default().to_owned();

    let owner = cluster.wait_owner("public")?;
    let names = [cluster.node(owner).name(), cluster.node(1 - owner).name()];
    let drain = |name: &str, heir: usize| -> Result<()> {
        cluster.ctl_ok(0, &["node", "drain", name, "-m", "new memory"])?;
        wait::until(&format!("{name} to hand the VIP over"), || {
            Ok(cluster.owner("public").filter(|owner| *owner == heir))
        })?;
        // On loopback only the owner listens, so between two owners a new connection is refused.
        client::wait_served(vip)?;
        Ok(())
    };
    drain(names[0], 1 - owner)?;
    ensure!(client.wait_get("/basket")?.header("x-backend") == Some(&first), "the move sent the client elsewhere");
    let events = cluster.ctl_ok(0, &["events"])?;
    ensure!(events.contains("new memory"), "{events}");

    // It comes back without taking anything from the other, and is there when that one is drained.
    cluster.ctl_ok(0, &["node", "enable", names[0]])?;
    drain(names[1], owner)?;
    ensure!(client.wait_get("/basket")?.header("x-backend") == Some(&first), "the move sent the client elsewhere");
    cluster.ctl_ok(0, &["node", "enable", names[1]])?;
    Ok(())
}

#[test]
fn a_demoted_node_votes_no_more_until_it_is_promoted() -> Result<()> {
    let cluster = Cluster::start(4)?;
    let before = voters(&cluster)?;
    let learner = (0..4).find(|p| !before.contains(&cluster.node(*p).name().to_owned())).context("no learner")?;
    let (learner, demoted) = (cluster.node(learner).name(), before[2].clone());

    cluster.ctl_ok(0, &["node", "demote", &demoted])?;
    wait::until("the learner to take its place", || {
        let now = voters(&cluster)?;
        Ok((now.len() == 3 && now.iter().any(|n| n == learner) && !now.contains(&demoted)).then_some(()))
    })?;
    cluster.ctl_ok(0, &["node", "promote", &demoted])?;
    wait::until("it to vote again", || {
        let now = voters(&cluster)?;
        Ok((now.len() == 3 && now.contains(&demoted)).then_some(()))
    })
}

#[test]
fn a_renamed_access_log_is_opened_anew_by_sighup_which_ends_nobody() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let backend = Backend::start("web1")?;
    let server = ports::free_local()?;
    let shop = Shop::new([&backend]).listen_on(server);
    cluster.apply(0, &shop.to_yaml())?;
    client::wait_served(server)?;
    let (now, before) = (cluster.node(0).folder().join("access.log"), cluster.node(0).folder().join("access.log.1"));
    let lines_of = |path: &str| -> Result<usize> {
        let answer = Client::new(server).get(path)?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(cluster.node(0).access().unwrap_or_default().matches(path).count())
    };
    wait::until("a line of the first request", || Ok((lines_of("/before")? > 0).then_some(())))?;
    fs::rename(&now, &before)?;
    let pid = cluster.node(0).pid().context("it runs")?;
    // SAFETY: the process is a child of this one that was not waited for.
    ensure!(unsafe { libc::kill(i32::try_from(pid)?, libc::SIGHUP) } == 0, "the signal was not sent");
    wait::until("a line in the new file", || Ok((lines_of("/after")? > 0).then_some(())))?;
    let old = fs::read_to_string(&before)?;
    ensure!(old.contains("/before") && old.ends_with('\n'), "{old}");
    ensure!(cluster.node(0).pid() == Some(pid) && !cluster.has_ended(0), "it was ended");
    Ok(())
}
