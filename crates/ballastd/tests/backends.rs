//! Backends that misbehave: the client gets the right status, the access log says why.

use anyhow::{Context, Result, ensure};
use ballast_testkit::{
    backend::{Backend, Deaf, Mode},
    client::{self, Client},
    cluster::Cluster,
    ports,
    shop::Shop,
    wait,
};

/// Waits for the line of the access log about that path, and returns its status and how the request ended.
fn line_about(cluster: &Cluster, path: &str) -> Result<(u64, String)> {
    wait::until(&format!("the access log to tell of {path}"), || {
        let lines = cluster.node(0).access_log()?;
        let Some(line) = lines.iter().find(|line| line["path"] == path) else { return Ok(None) };
        let status = line["status"].as_u64().context("a status")?;
        Ok(Some((status, line["ended"].as_str().unwrap_or_default().to_owned())))
    })
}

#[test]
fn each_kind_of_failure_has_its_status_and_its_reason() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let server = ports::free_local()?;
    let backend = Backend::start("web1")?;
    let shop = Shop::new([&backend])
        .listen_on(server)
        // One request waits it out; all others are answered in time on a busy machine too.
        .farm("timeouts: { connect: 3s, response_header: 3s, between_bytes: 3s }")
        .site("retries_max: 0");
    cluster.apply(0, &shop.to_yaml())?;
    client::wait_served(server)?;

    for (mode, path, status, reason) in [
        (Mode::BlackHole, "/never-answers", 504, "backend_timeout"),
        (Mode::Garbage, "/garbage", 502, "response:"),
        (Mode::Failing, "/says-503-itself", 503, "done"),
    ] {
        backend.set_mode(mode);
        let answer = Client::new(server).get(path)?;
        ensure!(answer.status == status, "{path}: {} {}", answer.status, answer.text());
        let (logged, ended) = line_about(&cluster, path)?;
        ensure!(logged == u64::from(status) && ended.starts_with(reason), "{path}: {logged} {ended}");
        if mode != Mode::Failing {
            let told = answer.header("x-ballast-reason").unwrap_or_default();
            ensure!(told == ended, "the client was told {told:?}, the log {ended:?}");
        }
    }

    backend.set_mode(Mode::ClosesMidBody);
    ensure!(Client::new(server).get("/cut").is_err(), "a truncated body must not look whole");
    ensure!(line_about(&cluster, "/cut")? == (200, "truncated".to_owned()), "{:?}", line_about(&cluster, "/cut")?);

    backend.set_mode(Mode::Ok);
    ensure!(Client::new(server).get("/well-again")?.status == 200);
    drop(backend);
    let answer = Client::new(server).get("/refuses")?;
    ensure!(answer.status == 503, "{}", answer.status);
    ensure!(line_about(&cluster, "/refuses")? == (503, "connect_failed".to_owned()));
    Ok(())
}

#[test]
fn a_backend_that_takes_no_connection_is_given_up_in_time() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let server = ports::free_local()?;
    let deaf = Deaf::start()?;
    let shop = Shop::new([])
        .backend_at("web1", deaf.address())
        .listen_on(server)
        .farm("timeouts: { connect: 1s }")
        .site("retries_max: 1");
    cluster.apply(0, &shop.to_yaml())?;
    // The first answer shows that the listener is there.
    let answer = wait::until("the node to answer", || Client::new(server).get("/deaf").map(Some).map_err(Into::into))?;
    ensure!(answer.status == 503, "{} {}", answer.status, answer.text());
    ensure!(line_about(&cluster, "/deaf")? == (503, "connect_failed".to_owned()));

    // With another backend beside it, the client does not notice.
    let backend = Backend::start("web2")?;
    let shop = Shop::new([&backend])
        .backend_at("web1", deaf.address())
        .listen_on(server)
        .farm("timeouts: { connect: 1s }")
        .site("balance: round_robin");
    cluster.apply(0, &shop.to_yaml())?;
    for _ in 0..4 {
        let answer = Client::new(server).get("/x")?;
        ensure!(answer.header("x-backend") == Some("web2"), "{} {}", answer.status, answer.text());
    }
    Ok(())
}
