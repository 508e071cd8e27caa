//! The metrics page and its reference say the same.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use ballast_testkit::{
    backend::Backend,
    client::{self, Client},
    cluster::Cluster,
    ports,
    resp::Connection,
    shop::Shop,
    wait,
};

/// Kind, labels and meaning of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    labels: String,
    help: String,
}

fn families(page: &str) -> BTreeMap<String, Family> {
    let mut all: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            name.clone_into(&mut current);
            all.entry(current.clone()).or_default().help = help.trim_end_matches('.').to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            all.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((_, labels)) = line.split_once('{')
            && let Some(family) = all.get_mut(&current)
            && family.labels.is_empty()
        {
            let labels = labels.split_once('}').map_or("", |(labels, _)| labels);
            let names = labels.split("\",").filter_map(|pair| pair.split_once('=')).map(|(name, _)| name);
            family.labels = names.filter(|name| *name != "le").collect::<Vec<_>>().join(", ");
        }
    }
    all
}

fn reference(families: &BTreeMap<String, Family>) -> String {
    let mut text = "# Metrics\n\nWhat `/metrics` of a node says, as OpenMetrics. A counter's series end in `_total`, a histogram's in \
                    `_bucket`, `_sum` and `_count`; durations are in\nseconds, sizes in bytes. A family without series is left out. \
                    Counters begin at zero with each start of the process, except those of the replicated state.\n\n\
                    | family | kind | labels | meaning |\n|---|---|---|---|\n"
        .to_owned();
    for (name, Family { kind, labels, help }) in families {
        writeln!(text, "| `{name}` | {kind} | {labels} | {help} |").expect("writing to a String does not fail");
    }
    text
}

/// Programs of the operator that do nothing.
const PROGRAMS: &str = "[vip.hook]\ncommand = [\"/bin/true\"]\n[vip.check]\ncommand = [\"/bin/true\"]\n";

/// Run with `BALLAST_ACCEPT=1` to write the reference anew.
#[test]
fn every_family_is_in_the_reference() -> Result<()> {
    let cluster = Cluster::start_with(3, PROGRAMS)?;
    let backends = [Backend::start("web1")?, Backend::start("web2")?];
    let vip = std::net::SocketAddr::from((ports::vip_address(), 8080));
    let shop = Shop::new(&backends).on_vip(vip).persistence_header("x-visitor").checked();
    let shop = shop.backend("web1", "connections_max: 1000");
    let more = "webhooks: [{ name: alarm, url: \"http://127.0.0.1:1/\" }]\nsessions: { vips: [{ vip: public, port: 6379 }, { vip: public, port: 6380, protocol: http }], protected: false }";
    cluster.apply(0, &shop.cluster(more).to_yaml())?;
    let owner = cluster.wait_owner("public")?;
    client::wait_served(vip)?;

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
    let accept = env::var_os("BALLAST_ACCEPT").is_some();
    let written =
        if accept { String::new() } else { fs::read_to_string(&path).context("docs/reference/metrics.md")? };
    let scrape = Client::new(cluster.node(owner).metrics_address());
    let mut scrape = scrape.host("localhost");
    // Some families come with the first check, request or comparison of clocks.
    let text = wait::until("the page and its reference to say the same", || {
        Client::new(vip).request("GET", "/", &[("x-visitor", "one")], b"")?;
        let mut sessions = Connection::open(std::net::SocketAddr::new(vip.ip(), 6379), Duration::from_secs(5))?;
        ensure!(sessions.call(&["SET", "k", "v", "EX", "100"])?.is_ok(), "the session store does not take a key yet");
        let mut over_http = Client::new(std::net::SocketAddr::new(vip.ip(), 6380));
        ensure!(over_http.get("/v1/sessions/0/k")?.status == 200, "the session store does not show a key yet");
        let page = scrape.get("/metrics")?;
        ensure!(page.status == 200, "metrics answered {}", page.status);
        let found = families(&page.text());
        ensure!(found.contains_key("ballast_clock_offset_seconds"), "clocks were not compared yet");
        ensure!(found.contains_key("ballast_vip_transitions"), "the VIP's gain was not counted yet");
        ensure!(found.contains_key("ballast_healthcheck_duration_seconds"), "nothing was checked yet");
        ensure!(found.contains_key("ballast_vip_hook_runs"), "the hook was not told of the VIP's gain yet");
        ensure!(found.contains_key("ballast_vip_check_runs"), "the node did not check itself yet");
        let text = reference(&found);
        if !accept && text != written {
            let differing: Vec<_> = text.lines().filter(|line| !written.contains(line)).collect();
            let gone: Vec<_> = written.lines().filter(|line| !text.contains(line)).collect();
            bail!("not in the reference: {differing:#?}\nonly in the reference: {gone:#?}");
        }
        Ok(Some(text))
    })?;
    if accept {
        fs::write(path, text)?;
    }
    Ok(())
}

#[test]
fn a_limit_is_told_beside_what_it_limits_where_there_is_one() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let backends = [Backend::start("web1")?, Backend::start("web2")?];
    let (web, store) = (ports::free_local()?, ports::free_local()?);
    let limits = "limits: { connections_max: 30 }";
    let sessions = format!("sessions: {{ listen: [\"{store}\"], memory_max: 2MiB, {limits} }}\n");
    let shop = Shop::new(&backends).listen_on(web).farm("limits: { connections_max: 70 }");
    let limited = shop
        .clone()
        .site("persistence: { table: { key: { header: x-visitor }, entries_max: 500 } }")
        .backend("web1", "connections_max: 8");
    cluster.apply(0, &(limited.to_yaml() + &sessions))?;
    client::wait_served(web)?;
    Client::new(web).request("GET", "/", &[("x-visitor", "one")], b"")?;
    let metrics = cluster.metrics(0)?;
    let limits = |metrics: &BTreeMap<String, f64>| -> Vec<(String, f64)> {
        let limits = metrics.iter().filter(|(series, _)| series.contains("_limit"));
        limits.map(|(series, value)| (series.clone(), *value)).collect()
    };
    let expected = [
        ("ballast_backend_connections_limit{farm=\"shop\",service=\"site\",backend=\"web1\"}", 8.0),
        ("ballast_bindings_limit{farm=\"shop\",service=\"site\"}", 500.0),
        ("ballast_listener_connections_limit{farm=\"shop\",listener=\"web\"}", 70.0),
        ("ballast_session_connections_limit", 30.0),
        ("ballast_session_memory_limit_bytes", 2_097_152.0),
    ]
    .map(|(series, value)| (series.to_owned(), value));
    ensure!(limits(&metrics) == expected, "{:#?}", limits(&metrics));
    for (limit, _) in &expected {
        let used = limit.replace("_limit", "");
        ensure!(metrics.contains_key(&used), "{limit} is there and {used} is not");
    }

    cluster.apply(0, &(shop.to_yaml() + &sessions))?;
    let left = limits(&cluster.metrics(0)?);
    ensure!(left == expected[2..], "{left:#?}");
    Ok(())
}
