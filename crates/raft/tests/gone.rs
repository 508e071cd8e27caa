//! What counts of a node that was removed, or that is silent.

#[expect(dead_code, reason = "shared with the other tests, which use more of it")]
mod support;

use ballast_core::{
    ids::{BackendId, Boot, NodeId},
    plan::Verdict,
    state::{ApplyConfig, Author, Command, Entry, Frame, Origin, Outcome, State, codec},
    time::LogTime,
};
use ballast_proto::cluster::v1::{self as pb, leader_client::LeaderClient};
use ballast_raft::{Handle, Status};
use support::{Cluster, PATIENCE, propose, see, token};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, transport::Endpoint};

type Test = Result<(), Box<dyn std::error::Error>>;

/// Waits until the state of a node is as wanted.
async fn until(handle: &Handle, wanted: impl Fn(&State) -> bool) {
    let mut applied = handle.watch_applied();
    let seen = async {
        loop {
            applied.borrow_and_update();
            if handle.with_state(&wanted) {
                return;
            }
            applied.changed().await.expect("the member runs");
        }
    };
    timeout(PATIENCE, seen).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_open_stream_of_a_removed_node_is_closed_to_it() -> Test {
    let cluster = Cluster::of_one().await;
    let first = NodeId::new(1);
    let handle = cluster.handle(first);
    propose(&handle, token(2)).await?;
    let hash = handle.with_state(|state| state.join_tokens()[0].hash);
    let info = ballast_core::state::NodeInfo { name: "n2".to_owned(), ..Default::default() };
    let enrol = Command::EnrolNode { token_hash: hash, info, key_fingerprint: [2; 32] };
    let Outcome::Enrolled { node } = propose(&handle, enrol).await?.outcome else { return Err("not enrolled".into()) };

    let frame = |seq, command| {
        let frame = Frame { origin: Origin { node, boot: Boot(5) }, seq, commands: vec![command] };
        let entry = codec::encode_entry(&Entry { log_time: LogTime::default(), frames: vec![frame] });
        pb::Frame { seq, entry: entry.into(), traceparent: String::new() }
    };
    let (frames, outbound) = mpsc::channel(4);
    let mut request = Request::new(ReceiverStream::new(outbound));
    request.metadata_mut().insert("ballast-from", node.get().into());
    request.metadata_mut().insert("ballast-to", first.get().into());
    let server = Endpoint::from_shared(format!("http://{}", cluster.nodes[&first].address))?;
    let mut client = LeaderClient::new(server.connect().await?);
    let mut replies = client.propose(request).await?.into_inner();
    frames.send(frame(1, token(3))).await?;
    until(&handle, |state| state.join_tokens().len() == 2).await;

    propose(&handle, Command::RemoveNode { node, author: Author::default(), lease_secret: None, expect: None }).await?;
    frames.send(frame(2, token(4))).await?;
    let refused = timeout(PATIENCE, replies.message()).await?.expect_err("a removed node has no say");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(handle.with_state(|state| state.join_tokens().len()), 2);
    cluster.end().await;
    Ok(())
}

const DOCUMENT: &str = r#"{"version":1,"farms":[{"name":"shop",
    "listeners":[{"name":"http","address":"127.0.0.1","port":8080}],
    "services":[{"name":"web","health":{},"backends":[{"name":"a","address":"127.0.0.1:9000"}]}]}]}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_findings_of_a_silent_node_lapse_and_come_back_with_it() -> Test {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[]).await;
    let handle = cluster.handle(leader);
    let config = Command::ApplyConfig(Box::new(ApplyConfig {
        document: DOCUMENT.to_owned(),
        rules: ballast_core::config::rules::RULES,
        source: String::new(),
        expect: None,
        request_id: String::new(),
        author: Author::default(),
    }));
    assert!(matches!(propose(&handle, config).await?.outcome, Outcome::Applied { changed: true, .. }));
    let backend = BackendId::new(1);
    let report = |node, verdict| Command::ReportHealth { node, backend, verdict, detail: String::new() };
    let silent = cluster.ids().into_iter().find(|id| *id != leader).ok_or("a follower")?;
    for (node, verdict) in [(silent, Verdict::Up), (leader, Verdict::Down)] {
        assert_eq!(propose(&handle, report(node, verdict)).await?.outcome, Outcome::Done);
    }
    assert_eq!(handle.with_state(|state| state.verdict(backend)), Verdict::Up, "one of two is no majority");

    let address = cluster.nodes[&silent].address;
    cluster.stop(silent).await;
    until(&handle, |state| state.verdict(backend) == Verdict::Down).await;
    let found = |state: &State| state.reports(backend).map(|(node, _)| node).collect::<Vec<_>>();
    assert_eq!(handle.with_state(found), [leader], "only the dead node's finding lapsed");

    cluster.start_at(silent, address).await;
    let answers = |status: &Status| status.peers[&silent].silent_for.is_some_and(|silent| silent < PATIENCE / 20);
    see(&handle, answers).await;
    let back = cluster.handle(silent);
    assert_eq!(propose(&back, report(silent, Verdict::Up)).await?.outcome, Outcome::Done);
    assert_eq!(back.with_state(|state| state.reports(backend).count()), 2);
    // Longer than the leader looks twice: a node that answers keeps its findings.
    let mut ticks = back.watch_applied();
    let later = *ticks.borrow() + 3;
    timeout(PATIENCE, ticks.wait_for(|index| *index >= later)).await??;
    assert_eq!(back.with_state(|state| state.reports(backend).count()), 2);
    cluster.end().await;
    Ok(())
}
