//! What `grpc.health.v1` says: whether the node is ready.
//!
//! Whoever asks `/readyz` has an answer made for it. Here the answer lies ready, and who watches is told when it changes:
//! so it is looked at every so often. It is about the node as a whole; none of its services is ready when that is not.
//!
//! Not here: what makes a node ready (`ballastd`).

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

/// How often it is looked at. Arbitrary: probes ask as seldom.
const LOOK: Duration = Duration::from_secs(1);

/// The node as a whole, among names of services.
const NODE: &str = "";

/// Says to `grpc.health.v1` whether the node is ready.
#[derive(Clone, Debug)]
pub struct Health(HealthReporter);

impl Health {
    /// Begins with a node that is ready.
    pub(super) fn new(reporter: HealthReporter) -> Self {
        Self(reporter)
    }

    /// Says whether the node is ready.
    pub async fn tell(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.0.set_service_status(NODE, status).await;
    }

    /// Says what `ready` says, and from `drain` on that the node is not. At `stop`, which comes after that, watches end.
    pub async fn keep_telling(mut self, ready: impl Fn() -> bool, drain: CancellationToken, stop: CancellationToken) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            // Both arms are cancel-safe.
            let now = tokio::select! { _ = ticks.tick() => ready(), () = drain.cancelled() => false };
            // Who watches hears of each time that it is told.
            if told.replace(now) != Some(now) {
                self.tell(now).await;
            }
            if !now && drain.is_cancelled() {
                break;
            }
        }
        stop.cancelled().await;
        self.0.clear_service_status(NODE).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tonic::Request;
    use tonic_health::{
        pb::{HealthCheckRequest, health_check_response::ServingStatus as Said, health_server::Health as _},
        server::HealthService,
    };

    use super::*;

    #[tokio::test]
    async fn who_watches_hears_that_the_node_is_ready_and_that_it_drains() {
        let reporter = HealthReporter::new();
        let service = HealthService::from_health_reporter(reporter.clone());
        let (health, drain, stop) = (Health::new(reporter), CancellationToken::new(), CancellationToken::new());
        health.tell(false).await;
        let request = Request::new(HealthCheckRequest { service: String::new() });
        let mut watched = service.watch(request).await.expect("it knows the node").into_inner();
        let mut told = async || watched.next().await.expect("it goes on").expect("no error").status();
        assert_eq!(told().await, Said::NotServing);
        let telling = tokio::spawn(health.keep_telling(|| true, drain.clone(), stop.clone()));
        assert_eq!(told().await, Said::Serving);
        drain.cancel();
        assert_eq!(told().await, Said::NotServing);
        stop.cancel();
        telling.await.expect("no panic");
        assert!(watched.next().await.is_none(), "it keeps nobody waiting");
    }
}
