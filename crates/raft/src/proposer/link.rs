//! Keeps frames moving to whoever leads.

use std::{
    future::pending,
    sync::Arc,
    time::{self, Duration},
};

use ballast_core::{
    ids::NodeId,
    state::{Entry, Frame, Origin, codec},
    time::LogTime,
};
use ballast_proto::cluster::v1::{self as pb, leader_client::LeaderClient};
use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{FRAMES_IN_FLIGHT, Flight, Inlet, Merger, Proposals, flight::Departing};
use crate::peers::{MESSAGE_BYTES_MAX, Peers, Traffic};

/// Time to open a stream to the leader, connecting included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before a leader is tried again. Long enough not to busy a node that is starting, short
/// beside an election.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// With frames in flight and none landing for this long, all are sent again. A stream that broke
/// is noticed earlier; this is for a leader that took frames and lost them.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What a link needs.
pub(crate) struct LinkOptions {
    pub(crate) origin: Origin,
    pub(crate) queue: Arc<Proposals>,
    pub(crate) flight: Arc<Flight>,
    pub(crate) merger: Arc<Merger>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) leader: watch::Receiver<Option<NodeId>>,
}

/// Sends frames to each leader in turn. Ends when the member's leader watch closes.
pub(crate) async fn run(options: LinkOptions) {
    let mut link = options;
    loop {
        let Some(leader) = *link.leader.borrow_and_update() else {
            if link.leader.changed().await.is_err() {
                return;
            }
            continue;
        };
        let ended = if leader == link.origin.node { link.lead().await } else { link.follow(leader).await };
        tracing::debug!(%leader, ?ended, "the link to the leader ended");
        if matches!(ended, Ended::Unreadable) {
            // There is less to refuse each time, and the rest need not wait.
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY_PAUSE) => {}
            changed = link.leader.changed() => if changed.is_err() { return },
        }
    }
}

/// Why frames stopped moving.
#[derive(Debug)]
enum Ended {
    /// Could not be opened, or broke.
    Broken,
    /// The other side does not propose our frames.
    Refused,
    /// The same, because of a command that it cannot read and is not sent again.
    Unreadable,
    /// Another node leads, or none.
    LeaderChanged,
    /// Nothing landed.
    Stalled,
    /// The state was replaced under our frames.
    Jumped,
}

enum Sink {
    Here(Inlet),
    There(mpsc::Sender<pb::Frame>),
}

impl LinkOptions {
    async fn lead(&mut self) -> Ended {
        let (inlet, mut refusals) = self.merger.open();
        let refusal = async move { refusals.recv().await.map(pb::FrameRefused::from) };
        self.serve(self.origin.node, Sink::Here(inlet), refusal).await
    }

    async fn follow(&mut self, leader: NodeId) -> Ended {
        let (frames, outbound) = mpsc::channel(FRAMES_IN_FLIGHT + 1);
        let request = self.peers.request(leader, ReceiverStream::new(outbound));
        let mut client =
            LeaderClient::new(self.peers.channel(leader, Traffic::Leader)).max_encoding_message_size(MESSAGE_BYTES_MAX);
        // Both arms are cancel-safe: no frame is handed in before the stream is open, and the leader is looked at again.
        let opened = tokio::select! {
            opened = timeout(OPEN_TIMEOUT, client.propose(request)) => opened,
            // Whoever led before may not answer any more.
            _ = self.leader.wait_for(|now| *now != Some(leader)) => return Ended::LeaderChanged,
        };
        let mut replies = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(%leader, %status, "cannot open a stream of proposals");
                return Ended::Broken;
            }
            Err(_) => return Ended::Broken,
        };
        let refusal = async move { replies.message().await.ok().flatten() };
        self.serve(leader, Sink::There(frames), refusal).await
    }

    async fn serve(
        &mut self,
        leader: NodeId,
        sink: Sink,
        refusal: impl Future<Output = Option<pb::FrameRefused>>,
    ) -> Ended {
        tokio::pin!(refusal);
        self.flight.begin_link();
        let mut stall_at = Instant::now() + STALL_TIMEOUT;
        loop {
            while let Some(departing) = self.flight.next(&self.queue, time::Instant::now()) {
                if self.flight.len() == 1 {
                    stall_at = Instant::now() + STALL_TIMEOUT;
                }
                if !sink.send(self.origin, departing).await {
                    return Ended::Broken;
                }
            }
            let flying = self.flight.len();
            // Every arm is only woken or read here, nothing is lost when another one wins.
            tokio::select! {
                () = self.flight.landed.notified() => stall_at = Instant::now() + STALL_TIMEOUT,
                () = wait_if(flying < FRAMES_IN_FLIGHT, self.queue.wake.notified()) => {}
                () = self.flight.jumped.notified() => return Ended::Jumped,
                () = wait_if(flying > 0, sleep_until(stall_at)) => return Ended::Stalled,
                refused = &mut refusal => {
                    let Some(refused) = refused else { return Ended::Broken };
                    tracing::debug!(%leader, reason = refused.reason, "the leader does not propose our frames");
                    self.flight.refused(refused.from_seq, refused.certain);
                    if let Some(place) = refused.unreadable {
                        self.flight.unreadable(refused.from_seq, place as usize, leader);
                        return Ended::Unreadable;
                    }
                    return Ended::Refused;
                }
                changed = self.leader.changed() => {
                    if changed.is_err() || *self.leader.borrow() != Some(leader) {
                        return Ended::LeaderChanged;
                    }
                }
            }
        }
    }
}

impl Sink {
    /// False when the other side is gone.
    async fn send(&self, origin: Origin, departing: Departing) -> bool {
        let Departing { seq, commands, bytes, trace } = departing;
        let frame = Frame { origin, seq, commands };
        match self {
            Self::Here(inlet) => {
                inlet.hand_in(frame, bytes, trace);
                true
            }
            Self::There(frames) => {
                // The leader stamps the time of the entry that this frame becomes part of.
                let entry = Entry { log_time: LogTime::default(), frames: vec![frame] };
                let entry = Bytes::from(codec::encode_entry(&entry));
                frames.send(pb::Frame { seq, entry, traceparent: trace.unwrap_or_default() }).await.is_ok()
            }
        }
    }
}

async fn wait_if(condition: bool, wait: impl Future<Output = ()>) {
    if condition {
        wait.await;
    } else {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        io,
        sync::atomic::{AtomicBool, Ordering},
        time::SystemTime,
    };

    use ballast_core::{cluster::BoxFuture, ids::Boot, state::Command};
    use ballast_proto::cluster::v1::leader_server::{Leader, LeaderServer};
    use futures_util::{StreamExt, stream};
    use parking_lot::Mutex;
    use tokio::{
        io::DuplexStream,
        sync::{Notify, oneshot},
    };
    use tonic::{Request, Response, Status, Streaming};

    use super::*;
    use crate::{
        clocks::Clocks,
        peers::{AddressBook, Connect, Connection},
    };

    const GONE: NodeId = NodeId::new(1);
    const NEXT: NodeId = NodeId::new(2);
    const OWN: NodeId = NodeId::new(3);

    /// Tells the number of the first frame that it gets.
    struct Hears(Mutex<Option<oneshot::Sender<u64>>>);

    type Nothing<T> = stream::Pending<Result<T, Status>>;

    #[tonic::async_trait]
    impl Leader for Hears {
        type ProposeStream = Nothing<pb::FrameRefused>;
        type ReadIndexStream = Nothing<pb::ReadIndexReply>;

        async fn propose(
            &self,
            request: Request<Streaming<pb::Frame>>,
        ) -> Result<Response<Self::ProposeStream>, Status> {
            let heard = self.0.lock().take();
            let mut frames = request.into_inner();
            tokio::spawn(async move {
                if let (Some(heard), Ok(Some(frame))) = (heard, frames.message().await) {
                    heard.send(frame.seq).expect("somebody waits for it");
                }
            });
            Ok(Response::new(stream::pending()))
        }

        async fn read_index(
            &self,
            _: Request<Streaming<pb::ReadIndexRequest>>,
        ) -> Result<Response<Self::ReadIndexStream>, Status> {
            Err(Status::unimplemented("it hears frames only"))
        }

        async fn compare_state(
            &self,
            _: Request<pb::CompareStateRequest>,
        ) -> Result<Response<pb::CompareStateReply>, Status> {
            Err(Status::unimplemented("it hears frames only"))
        }
    }

    /// Never connects to the node that is gone, and once to the next.
    struct Network {
        next: Mutex<Option<DuplexStream>>,
        tried: Notify,
        /// Nobody tries to connect to the node that is gone any more.
        given_up: Arc<AtomicBool>,
    }

    struct GivenUp(Arc<AtomicBool>);

    impl Drop for GivenUp {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    impl Connect for Network {
        fn connect(&self, node: NodeId, _: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
            if node == GONE {
                self.tried.notify_one();
                let trying = GivenUp(Arc::clone(&self.given_up));
                return Box::pin(async move {
                    pending::<()>().await;
                    drop(trying);
                    Err::<Box<dyn Connection>, _>(io::Error::from(io::ErrorKind::ConnectionRefused))
                });
            }
            let stream = self.next.lock().take().ok_or(io::Error::from(io::ErrorKind::ConnectionRefused));
            Box::pin(async { Ok(Box::new(stream?) as Box<dyn Connection>) })
        }
    }

    #[tokio::test]
    async fn frames_go_to_a_new_leader_while_the_old_one_cannot_be_reached() {
        let (here, there) = tokio::io::duplex(1 << 16);
        let (heard, hears) = oneshot::channel();
        let serving = tonic::transport::Server::builder()
            .add_service(LeaderServer::new(Hears(Mutex::new(Some(heard)))))
            .serve_with_incoming(stream::iter([Ok::<_, io::Error>(there)]).chain(stream::pending()));
        let serving = tokio::spawn(serving);
        let network =
            Arc::new(Network { next: Mutex::new(Some(here)), tried: Notify::new(), given_up: Arc::default() });
        let addresses = [GONE, NEXT].map(|node| (node, "there:1".to_owned()));
        let addresses = Arc::new(AddressBook::new(BTreeMap::from(addresses)));
        let clocks = Arc::new(Clocks::new(OWN, SystemTime::now, Arc::default()));
        let queue = Arc::new(Proposals::new(10));
        let (leader, leads) = watch::channel(Some(GONE));
        let link = tokio::spawn(run(LinkOptions {
            origin: Origin { node: OWN, boot: Boot(1) },
            queue: Arc::clone(&queue),
            flight: Arc::default(),
            merger: Arc::default(),
            peers: Arc::new(Peers::new(OWN, network.clone(), addresses, clocks)),
            leader: leads,
        }));
        let _waits = queue.propose(Command::Tick, Duration::from_secs(60), String::new);
        network.tried.notified().await;
        leader.send_replace(Some(NEXT));
        let seq = timeout(Duration::from_secs(20), hears).await.expect("in time").expect("a frame");
        assert_eq!(seq, 1);
        assert!(!network.given_up.load(Ordering::Acquire), "it waited for the connection to the old leader");
        link.abort();
        serving.abort();
    }
}
