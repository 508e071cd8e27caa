//! What runs on a simulated machine: a member as `ballastd` starts it, on a simulated disk and network.

use std::{collections::BTreeMap, future::pending, sync::Arc};

use ballast_core::{
    cluster::BoxFuture,
    ids::{Boot, NodeId},
};
use ballast_raft::{Blocking, Ground, Member, MemberFailure, MemberOptions, StartError};
use ballast_storage::snapshot::SnapshotFolder;
use parking_lot::Mutex;
use tokio::time::sleep;
use turmoil::net::TcpListener;

use crate::{
    clock,
    random::Random,
    site::{Condition, Site, host},
    trace::happened,
    watch::Watcher,
    wire::{PORT, SimConnect, believe, incoming},
};

/// Does work with files on the spot, after a pause in which the node may lose its power.
struct SlowHands(Mutex<Random>);

impl Blocking for SlowHands {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let pause = {
            let mut random = self.0.lock();
            if random.once_in(10) { random.millis(20, 300) } else { random.millis(0, 5) }
        };
        Box::pin(async move {
            sleep(pause).await;
            work();
        })
    }
}

/// One life of a machine, until its power is gone. A failure of its member is noted, and ends it soon.
///
/// # Errors
/// When the simulation itself is wrong.
pub async fn live(site: Arc<Site>, number: usize) -> turmoil::Result {
    let (id, life, ground, seeds) = {
        let mut inner = site.lock();
        let seeds: BTreeMap<NodeId, String> =
            inner.seats.iter().enumerate().map(|(other, seat)| (seat.id, address(other))).collect();
        let seat = &mut inner.seats[number];
        seat.life += 1;
        let hands = SlowHands(Mutex::new(Random::new(u64::from(seat.life) << 8 | number as u64)));
        let ground = Ground {
            log: Box::new(seat.disk.log()),
            snapshots: SnapshotFolder::open(&std::path::PathBuf::from(host(number)).join("snapshots"))?,
            blocking: Arc::new(hands),
        };
        (seat.id, seat.life, ground, seeds)
    };
    happened!("n{number} starts, life {life}");
    let mut options = MemberOptions::new("sim", id, Boot(site.draw()), host(number));
    options.bounds = site.bounds;
    options.seeds = seeds;
    options.wall_clock = clock::wall(number);
    let watcher = Arc::new(Watcher::new(number, life, Arc::clone(&site.seen)));
    let member =
        Member::start_on(ground, options, Arc::new(SimConnect::new(number, Arc::clone(&site.seen))), watcher).await;
    let member = match member {
        Ok(member) => member,
        // It lost power between writing that down and ending.
        Err(StartError::Condemned(why)) if why == MemberFailure::Removed.to_string() => {
            site.lock().seats[number].condition = Condition::Failed(MemberFailure::Removed);
            return pending().await;
        }
        Err(error) => {
            let mut why = error.to_string();
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
            while let Some(inner) = cause {
                why = format!("{why}: {inner}");
                cause = inner.source();
            }
            site.seen.lock().wrong(format!("n{number} does not start: {why}"));
            return pending().await;
        }
    };
    if number == 0 && life == 1 {
        member.found().await?;
    }
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let server = tonic::transport::Server::builder()
        .layer(tonic::service::InterceptorLayer::new(believe))
        .add_routes(member.service())
        .serve_with_incoming(incoming(number, listener));
    let server = tokio::spawn(server);
    {
        let mut inner = site.lock();
        let seat = &mut inner.seats[number];
        seat.handle = Some(member.handle());
        seat.condition = Condition::Up;
    }
    let failure = member.failed().await;
    happened!("n{number} stops: {failure}");
    server.abort();
    let expected = match &failure {
        MemberFailure::Storage(_) => site.lock().seats[number].disk_may_fail,
        MemberFailure::Removed => true,
        MemberFailure::Internal(_) | MemberFailure::Diverged(_) | MemberFailure::Reverted { .. } => false,
    };
    if !expected {
        site.seen.lock().wrong(format!("n{number} stopped: {failure}"));
    }
    {
        let mut inner = site.lock();
        let seat = &mut inner.seats[number];
        seat.handle = None;
        seat.condition = Condition::Failed(failure);
    }
    pending().await
}

/// Where the node on a machine is.
pub fn address(number: usize) -> String {
    format!("{}:{PORT}", host(number))
}
