//! The outage as a client on this machine sees it.
//!
//! A connection is tried every few milliseconds, each on its own, so that one that hangs does not hide what the next
//! ones meet. It is closed as soon as it is there: what is measured is whether somebody answers for the address.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::view::OutageView;

/// Time between two connections.
const EVERY: Duration = Duration::from_millis(5);
/// One that takes longer counts as failed. Shorter than the kernel's first retry of a lost packet, which would hide an
/// outage behind a long connect.
const CONNECT_MAX: Duration = Duration::from_millis(900);
/// Connections that are being made at once: as many as fit into [`CONNECT_MAX`], and some.
const PENDING_MAX: usize = 256;
/// How long a listener has to answer before it counts as out of reach from here.
const REACH_MAX: Duration = Duration::from_secs(1);

/// One connection that was tried.
struct Tried {
    begun: Instant,
    ended: Instant,
    failure: Option<String>,
}

/// The first of these that can be reached from here.
pub(super) async fn reachable(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    for address in addresses {
        if let Ok(Ok(_)) = timeout(REACH_MAX, TcpStream::connect(address)).await {
            return Some(*address);
        }
    }
    None
}

/// Tries connections until `stop` says so, or its sender is gone.
pub(super) async fn measure(address: SocketAddr, mut stop: watch::Receiver<bool>) -> OutageView {
    let mut due = interval(EVERY);
    // Connections that were not tried because this machine was busy are not made up for: they would all meet one moment.
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pending = JoinSet::new();
    let mut tried = Vec::new();
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            _ = due.tick() => {
                if pending.len() < PENDING_MAX {
                    pending.spawn(connect(address));
                }
            }
            Some(Ok(done)) = pending.join_next(), if !pending.is_empty() => tried.push(done),
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    while let Some(done) = pending.join_next().await {
        tried.extend(done);
    }
    judge(address, tried)
}

async fn connect(address: SocketAddr) -> Tried {
    let begun = Instant::now();
    let failure = match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {CONNECT_MAX:?}")),
    };
    Tried { begun, ended: Instant::now(), failure }
}

fn judge(address: SocketAddr, mut tried: Vec<Tried>) -> OutageView {
    tried.sort_by_key(|tried| tried.begun);
    let first_failure = tried.iter().find_map(|tried| tried.failure.clone());
    let failed = tried.iter().filter(|tried| tried.failure.is_some()).count();
    let mut answered: Vec<Instant> =
        tried.iter().filter(|tried| tried.failure.is_none()).map(|tried| tried.ended).collect();
    answered.sort();
    let longest = answered.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    OutageView {
        address: address.to_string(),
        connects: tried.len() as u64,
        failed: failed as u64,
        first_failure,
        longest_gap_ms: longest.as_secs_f64() * 1e3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_between_connections_that_came_about() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let tried = |begun, ended, failure: Option<&str>| Tried {
            begun: at(begun),
            ended: at(ended),
            failure: failure.map(str::to_owned),
        };
        let address = "127.0.0.1:1".parse().expect("a literal");
        let outage = judge(
            address,
            vec![
                tried(0, 1, None),
                tried(5, 6, None),
                tried(10, 11, Some("refused")),
                tried(15, 40, None),
                tried(45, 46, None),
            ],
        );
        assert_eq!((outage.connects, outage.failed), (5, 1));
        assert_eq!(outage.first_failure.as_deref(), Some("refused"));
        assert!((outage.longest_gap_ms - 34.0).abs() < 0.01, "{}", outage.longest_gap_ms);
    }
}
