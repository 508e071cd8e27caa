//! Members together: electing, proposing from everywhere, losing nodes, coming back.

mod support;

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use ballast_core::{
    cluster::{Propose, ProposeError, ReadIndex},
    config::rules::RULES,
    ids::{LogIndex, NodeId},
    session::{Call, Reply, Write},
    state::{ApplyConfig, Author, Command, NodeAdmin, Outcome, Refusal},
};
use ballast_proto::cluster::v1::{ReadIndexRequest, leader_client::LeaderClient};
use ballast_raft::{LogBounds, MemberFailure, PeerNode, Role, StartError};
use bytes::Bytes;
use support::{Cluster, PATIENCE, propose, see, token};
use tonic::{Code, Request};

type Test = Result<(), Box<dyn std::error::Error>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_node_proposes_and_reads_its_own_write() -> Test {
    let cluster = Cluster::of(3).await;
    for (number, id) in (0..).zip(cluster.ids()) {
        let handle = cluster.handle(id);
        let applied = propose(&handle, token(number)).await?;
        assert_eq!(applied.outcome, Outcome::Done);
        assert!(handle.with_state(|state| state.applied()) >= applied.index);
        assert!(cluster.nodes[&id].recorder.applied.load(Ordering::Acquire) >= applied.index.get());
        // Another node that confirms has it too.
        for other in cluster.ids() {
            let other = cluster.handle(other);
            assert!(other.confirm(PATIENCE).await? >= applied.index);
            let known = other.with_state(|state| state.join_tokens().len());
            assert!(known >= 2 + 1 + usize::try_from(number)?, "{known}");
        }
        assert!(handle.last_log_index().load(Ordering::Acquire) >= applied.index.get());
    }
    cluster.converge().await;
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_changes_through_two_nodes_that_expect_the_same_one_is_refused() -> Test {
    let cluster = Cluster::of(3).await;
    let ids = cluster.ids();
    let (node, one, other) = (ids[0], cluster.handle(ids[1]), cluster.handle(ids[2]));
    for _ in 0..20 {
        one.confirm(PATIENCE).await?;
        let seen = one.with_state(|state| state.node(node).map(|node| node.seen())).ok_or("a member")?;
        // Whichever comes first changes something.
        let wanted = match seen.admin {
            NodeAdmin::Ready => [NodeAdmin::Promoted, NodeAdmin::Drain],
            NodeAdmin::Drain => [NodeAdmin::Ready, NodeAdmin::Promoted],
            NodeAdmin::Promoted | NodeAdmin::Demoted => [NodeAdmin::Ready, NodeAdmin::Drain],
        };
        let [first, second] = wanted.map(|admin| {
            let (author, expect) = (Author::default(), Some(Box::new(seen.clone())));
            Command::SetNode { node, admin, author, expect }
        });
        let (first, second) = tokio::join!(propose(&one, first), propose(&other, second));
        let outcomes = [first?.outcome, second?.outcome];
        let done = outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
        let refused = |outcome: &&Outcome| matches!(outcome, Outcome::Refused(Refusal::Changed { .. }));
        assert_eq!((done, outcomes.iter().filter(refused).count()), (1, 1), "{outcomes:?}");
    }
    cluster.converge().await;
    cluster.end().await;
    Ok(())
}

/// They are applied on a thread of their own, between others that are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_with_much_in_them_keep_their_place() -> Test {
    let cluster = Cluster::of(3).await;
    let mut waits = Vec::new();
    for (number, id) in (0..6).zip(cluster.ids().into_iter().cycle()) {
        let handle = cluster.handle(id);
        let fields = (0..20_000).flat_map(|field| [Bytes::from(format!("field{field}")), Bytes::from_static(b"value")]);
        let words = [Bytes::from_static(b"HSET"), Bytes::from(format!("key{}", number % 2))];
        let write = Write::one(Call::parse(0, words.into_iter().chain(fields).collect()).expect("a command"));
        let large = Command::Session(Box::new(write));
        // Both are queued before either is waited for.
        waits.push((handle.propose(large, PATIENCE), handle.propose(token(number), PATIENCE)));
    }
    let mut new = 0;
    for (large, small) in waits {
        let (large, small) = (large.await?, small.await?);
        let Outcome::Session(replies) = large.outcome else { panic!("{:?}", large.outcome) };
        let [Reply::Integer(fields)] = replies.as_slice() else { panic!("{replies:?}") };
        new += fields;
        assert_eq!(small.outcome, Outcome::Done);
        assert!(large.index <= small.index, "one node's commands keep their order");
    }
    assert_eq!(new, 40_000, "each field was new once");
    cluster.converge().await;
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_loss_of_the_leader_costs_an_election_and_nothing_else() -> Test {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[]).await;
    let others: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    cluster.faults.cut_off(leader);
    let waits: Vec<_> = (0..20).map(|n| cluster.handle(others[n as usize % 2]).propose(token(n), PATIENCE)).collect();
    for wait in waits {
        assert_eq!(wait.await?.outcome, Outcome::Done);
    }
    let next = cluster.leader(&[leader]).await;
    assert_ne!(next, leader);

    cluster.faults.heal();
    let applied = propose(&cluster.handle(leader), token(99)).await?;
    assert_eq!(applied.outcome, Outcome::Done);
    cluster.converge().await;
    // Each token was made once: the join tokens of nodes 2 and 3, 20 and the last one.
    assert_eq!(cluster.handle(leader).with_state(|state| state.join_tokens().len()), 23);
    cluster.stop(next).await;
    assert_ne!(cluster.leader(&[next]).await, next);
    cluster.end().await;
    Ok(())
}

/// The votes of both that are left are needed, and wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_election_bears_disks_that_take_a_tenth_of_a_second_for_a_sync() -> Test {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[]).await;
    cluster.faults.delay_syncs(Duration::from_millis(105));
    cluster.faults.cut_off(leader);
    let next = cluster.leader(&[leader]).await;
    assert_eq!(propose(&cluster.handle(next), token(1)).await?.outcome, Outcome::Done);
    let others = cluster.ids().into_iter().filter(|id| *id != leader);
    assert!(others.map(|id| cluster.handle(id).slow_votes()).all(|slow| slow > 0));
    cluster.faults.heal();
    cluster.converge().await;
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_is_cut_off_and_comes_back_sends_again_and_nothing_is_applied_twice() -> Test {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[]).await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).ok_or("a follower")?;
    let handle = cluster.handle(follower);
    let mut waits = Vec::new();
    for round in 0..10 {
        waits.extend((0..40).map(|n| handle.propose(token(round * 40 + n), PATIENCE)));
        // In the middle of it, wherever that is.
        tokio::task::yield_now().await;
        cluster.faults.cut_off(follower);
        tokio::task::yield_now().await;
        cluster.faults.heal();
    }
    let mut refused = 0;
    for wait in waits {
        match wait.await {
            Ok(applied) => assert_eq!(applied.outcome, Outcome::Done, "a token that was made twice is refused"),
            Err(ProposeError::OutcomeUnknown { .. }) => refused += 1,
            Err(other) => return Err(other.into()),
        }
    }
    assert_eq!(refused, 0, "with a quorum and time, every outcome becomes known");
    cluster.converge().await;
    assert_eq!(handle.with_state(|state| state.join_tokens().len()), 402);
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_quorum_nothing_is_applied_and_the_errors_say_what_is_known() -> Test {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[]).await;
    let others: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    others.iter().for_each(|id| cluster.faults.cut_off(*id));

    let soon = Duration::from_secs(1);
    let alone = cluster.handle(leader);
    let before = LogIndex::new(alone.last_log_index().load(Ordering::Acquire));
    let sent = alone.propose(token(1), soon);
    see(&alone, |status| status.last_log > before).await;
    // The leader has that one in its log and waits for the others to have it, so the next one gets into no log.
    let handed_in = alone.propose(token(4), soon);
    let (sent, handed_in) = tokio::join!(sent, handed_in);
    assert!(matches!(sent, Err(ProposeError::OutcomeUnknown { .. })), "it was in the leader's log: {sent:?}");
    handed_in.expect_err("nobody has it");
    let handle = cluster.handle(others[0]);
    wait_quorum(&handle, false).await;
    wait_quorum(&alone, false).await;
    let before = handle.with_state(|state| state.applied());
    let unsent = handle.propose(token(2), soon).await;
    assert!(matches!(unsent, Err(ProposeError::NoQuorum { .. })), "{unsent:?}");
    let unread = handle.confirm(4 * soon).await;
    let Err(unread) = unread else { return Err("confirmed without a quorum".into()) };
    let lonely = alone.confirm(4 * soon).await.err().ok_or("confirmed without a quorum")?;
    for said in [unsent.expect_err("as above").to_string(), unread.to_string(), lonely.to_string()] {
        let remedy = ["bring them back", "see that it runs", "once a leader is elected"];
        assert!(remedy.iter().any(|remedy| said.contains(remedy)), "{said}");
        assert!(!said.contains(['{', '<', '"']) && !said.contains("Error"), "debug text: {said}");
    }
    assert_eq!(handle.with_state(|state| state.applied()), before);

    cluster.faults.heal();
    assert_eq!(propose(&handle, token(3)).await?.outcome, Outcome::Done);
    cluster.converge().await;
    let tokens = handle.with_state(|state| state.join_tokens().len());
    assert!((3..=4).contains(&tokens), "two of the joins, token 3, and perhaps token 1: {tokens}");
    let again = propose(&handle, token(2)).await?;
    assert_eq!(again.outcome, Outcome::Done, "what was never sent was never applied");
    // Comes after all that its node had on its way.
    let again = propose(&alone, token(4)).await?;
    assert_eq!(again.outcome, Outcome::Done, "what was in no log when its caller went is not sent again");
    for id in cluster.ids() {
        wait_quorum(&cluster.handle(id), true).await;
    }
    cluster.end().await;
    Ok(())
}

/// Two changes at a node that is cut off: of one the caller is told that nobody knows, of the other it goes away.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_nobody_waits_for_any_more_is_not_made_over_what_was_done_elsewhere_meanwhile() -> Test {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[]).await;
    let elsewhere = cluster.ids().into_iter().find(|id| *id != leader).ok_or("another node")?;
    let (alone, elsewhere) = (cluster.handle(leader), cluster.handle(elsewhere));
    let increment = || {
        let words = vec![Bytes::from_static(b"INCR"), Bytes::from_static(b"count")];
        Command::Session(Box::new(Write::one(Call::parse(0, words).expect("a command"))))
    };
    let counted = |count| Outcome::Session(vec![Reply::Integer(count)]);
    cluster.faults.cut_off(leader);
    let soon = Duration::from_secs(1);
    let told = alone.propose(increment(), soon);
    drop(alone.propose(increment(), soon));
    told.await.expect_err("the others have it not");

    assert_eq!(propose(&elsewhere, increment()).await?.outcome, counted(1));
    cluster.faults.heal();
    // Comes after all that its node had on its way.
    assert_eq!(propose(&alone, increment()).await?.outcome, counted(2));
    cluster.converge().await;
    cluster.end().await;
    Ok(())
}

/// Rules of a later release are such a thing. The node that proposes does not vote, so that it does not come to lead.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_leader_cannot_read_is_refused_and_holds_up_nothing_else() -> Test {
    let cluster = Cluster::of(4).await;
    let voters = cluster.handle(cluster.leader(&[]).await).status().voters;
    let learner = cluster.ids().into_iter().find(|id| !voters.contains(id)).ok_or("a learner")?;
    let handle = cluster.handle(learner);
    let later = Command::ApplyConfig(Box::new(ApplyConfig {
        document: r#"{"version":1}"#.to_owned(),
        rules: RULES + 1,
        source: String::new(),
        expect: None,
        request_id: String::new(),
        author: Author::default(),
    }));
    // All are queued before any is waited for.
    let before = handle.propose(token(1), PATIENCE);
    let refused = handle.propose(later, PATIENCE);
    let behind = handle.propose(token(2), PATIENCE);
    let told = refused.await.expect_err("no leader here knows these rules");
    assert!(matches!(told, ProposeError::Unreadable { .. }) && told.to_string().contains("earlier version"), "{told}");
    assert_eq!([before.await?.outcome, behind.await?.outcome], [Outcome::Done, Outcome::Done]);
    cluster.converge().await;
    cluster.end().await;
    Ok(())
}

/// Waits until a node knows that it has a quorum, or has lost it.
async fn wait_quorum(handle: &ballast_raft::Handle, has: bool) {
    let known = async {
        while handle.has_quorum() != has {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, known).await.expect("noticed in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_restarts_with_its_data_and_all_at_once_lose_nothing() -> Test {
    let mut cluster = Cluster::of(3).await;
    for n in 0..50 {
        propose(&cluster.handle(NodeId::new(1)), token(n)).await?;
    }
    let addresses: Vec<_> = cluster.nodes.iter().map(|(id, node)| (*id, node.address)).collect();
    for (id, _) in &addresses {
        cluster.stop(*id).await;
    }
    for (id, address) in &addresses {
        cluster.start_at(*id, *address).await;
    }
    cluster.leader(&[]).await;
    cluster.converge().await;
    for id in cluster.ids() {
        assert_eq!(cluster.handle(id).with_state(|state| state.join_tokens().len()), 52);
    }
    assert_eq!(propose(&cluster.handle(addresses[2].0), token(77)).await?.outcome, Outcome::Done);
    cluster.end().await;
    Ok(())
}

/// Eight at a time: what is read at once for apply is bounded, and one entry may exceed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_that_starts_with_large_entries_holds_few_of_them_at_once() -> Test {
    let mut cluster = Cluster::of_one().await;
    let first = NodeId::new(1);
    let handle = cluster.handle(first);
    let value = Bytes::from(vec![b'v'; 1 << 20]);
    for _ in 0..40 {
        let words = vec![Bytes::from_static(b"SET"), Bytes::from_static(b"key"), value.clone()];
        let set = Command::Session(Box::new(Write::one(Call::parse(0, words).expect("a command"))));
        propose(&handle, set).await?;
    }
    let applied = handle.with_state(|state| state.applied());
    let address = cluster.nodes[&first].address;
    cluster.stop(first).await;
    cluster.faults.most_read();
    cluster.start_at(first, address).await;
    let most = cluster.faults.most_read();
    assert!(most >= 8 << 20, "{most} bytes: the log was not read");
    assert!(most < 10 << 20, "{most} bytes at once");
    // Before it runs.
    assert!(cluster.handle(first).with_state(|state| state.applied()) >= applied);
    cluster.leader(&[]).await;
    cluster.converge().await;
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_that_starts_says_what_its_log_holds_before_it_knows_what_is_committed() -> Test {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[]).await;
    let others: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    others.iter().for_each(|id| cluster.faults.cut_off(*id));
    let sent = cluster.handle(leader).propose(token(1), Duration::from_secs(1)).await;
    assert!(matches!(sent, Err(ProposeError::OutcomeUnknown { .. })), "{sent:?}");

    let before = cluster.handle(leader);
    let (address, running) = (cluster.nodes[&leader].address, before.status());
    cluster.stop(leader).await;
    let last_log = LogIndex::new(before.last_log_index().load(Ordering::Acquire));
    let applied = before.with_state(|state| state.applied());
    assert!(last_log > applied, "{last_log} is not beyond what is committed");

    cluster.start_at(leader, address).await;
    let again = cluster.handle(leader);
    let told = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&told);
    again.keep_marks(Arc::new(move |last, membership| *tell.lock().expect("nobody panics") = Some((last, membership))));
    let (last, membership) = told.lock().expect("nobody panics").expect("told at once");
    assert_eq!((last.index, membership), (last_log, running.membership));
    for status in [again.status(), again.watch_status().borrow().clone()] {
        // It hears nobody: it may have begun to ask for votes by now, and that is all.
        assert!(matches!(status.role, Role::Starting | Role::Follower | Role::Candidate), "{status:?}");
        assert_eq!((status.last_log, status.membership), (last_log, running.membership));
        assert_eq!((status.voter_sets, status.voters), (running.voter_sets.clone(), cluster.ids()));
    }
    cluster.faults.heal();
    cluster.leader(&[]).await;
    cluster.converge().await;
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_node_is_filled_by_a_snapshot_when_the_log_is_gone() -> Test {
    let mut cluster = Cluster::of_one().await;
    let first = NodeId::new(1);
    let address = cluster.nodes[&first].address;
    cluster.stop(first).await;
    cluster.bounds =
        LogBounds { snapshot_entries: 100, snapshot_pause: Duration::ZERO, kept_entries: 20, ..LogBounds::default() };
    cluster.start_at(first, address).await;
    let handle = cluster.handle(first);
    for n in 0..700 {
        propose(&handle, token(n)).await?;
    }
    let purged = see(&handle, |status| status.purged > LogIndex::new(200)).await;
    assert!(purged.snapshot >= purged.purged);

    let second = cluster.join(2).await;
    cluster.converge().await;
    see(&cluster.handle(second), |status| status.snapshot > LogIndex::new(200)).await;
    assert_eq!(cluster.nodes[&second].recorder.installed.load(Ordering::Acquire), 1);
    assert_eq!(cluster.handle(second).with_state(|state| state.join_tokens().len()), 701);

    // The snapshot and what came after it survive a restart of the node that was filled.
    assert_eq!(propose(&cluster.handle(second), token(9000)).await?.outcome, Outcome::Done);
    let address = cluster.nodes[&second].address;
    cluster.stop(second).await;
    cluster.start_at(second, address).await;
    cluster.converge().await;
    assert_eq!(cluster.handle(second).with_state(|state| state.join_tokens().len()), 702);

    // Not so that of its log: it would have forgotten what it voted for.
    cluster.stop(second).await;
    let log = cluster.data_dir(second).join("log");
    std::fs::remove_dir_all(&log)?;
    std::fs::create_dir_all(log.join("lost+found"))?;
    for _ in 0..2 {
        let refused = cluster.refusal(second).await;
        let StartError::Log(why) = refused else { return Err(refused.into()) };
        assert!(why.to_string().contains("made anew") && why.to_string().contains("join it again"), "{why}");
    }
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotten_snapshot_is_not_sent_but_written_anew() -> Test {
    let mut cluster = Cluster::of_one().await;
    let first = NodeId::new(1);
    let address = cluster.nodes[&first].address;
    cluster.stop(first).await;
    // Only written when asked for, and nothing is applied any more when it is.
    cluster.bounds = LogBounds { snapshot_entries: u64::MAX, kept_entries: 20, ..LogBounds::default() };
    cluster.start_at(first, address).await;
    let handle = cluster.handle(first);
    for n in 0..400 {
        propose(&handle, token(n)).await?;
    }
    assert!(handle.trigger_snapshot().await);
    see(&handle, |status| status.purged > LogIndex::new(100)).await;

    let files: Vec<_> =
        std::fs::read_dir(cluster.data_dir(first).join("snapshots"))?.collect::<Result<_, std::io::Error>>()?;
    let [file] = files.as_slice() else { panic!("{files:?}") };
    let mut bytes = std::fs::read(file.path())?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file.path(), bytes)?;

    let second = cluster.join(2).await;
    cluster.converge().await;
    assert_eq!(cluster.nodes[&second].recorder.installed.load(Ordering::Acquire), 1);
    assert_eq!(cluster.handle(second).with_state(|state| state.join_tokens().len()), 401);
    // The node whose it is starts from the new one.
    cluster.stop(first).await;
    cluster.start_at(first, address).await;
    cluster.converge().await;
    cluster.end().await;
    Ok(())
}

/// The node acknowledges all the time, only later and later.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_takes_entries_too_slowly_gets_a_snapshot_and_keeps_no_log_from_being_purged() -> Test {
    let mut cluster = Cluster::of_one().await;
    let first = NodeId::new(1);
    let address = cluster.nodes[&first].address;
    cluster.stop(first).await;
    cluster.bounds =
        LogBounds { snapshot_entries: 100, snapshot_pause: Duration::ZERO, kept_entries: 20, ..LogBounds::default() };
    cluster.start_at(first, address).await;
    let slow = cluster.join(2).await;
    let third = cluster.join(3).await;
    cluster.all_see(|status| status.voters.len() == 3 && status.voter_sets.len() == 1).await;
    let leader = cluster.leader(&[]).await;
    assert!(leader != slow && leader != third);
    let installed = |cluster: &Cluster| cluster.nodes[&slow].recorder.installed.load(Ordering::Acquire);
    let before = installed(&cluster);

    // Some tens of entries a second, and each append is acknowledged well before the leader would take it for lost.
    cluster.faults.slow_down(slow, 10_000);
    let handle = cluster.handle(leader);
    let mut number = 0;
    let held = async {
        loop {
            // The node was told what it does not have: no log can fill it any more.
            let acknowledged = cluster.handle(slow).status().last_log;
            if handle.status().purged > acknowledged {
                return Ok::<_, Box<dyn std::error::Error>>(());
            }
            propose(&handle, token(number)).await?;
            number += 1;
        }
    };
    tokio::time::timeout(PATIENCE, held).await??;
    cluster.faults.heal();
    cluster.converge().await;
    assert!(installed(&cluster) > before);
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_proposals_at_once_become_few_entries() -> Test {
    let cluster = Cluster::of(3).await;
    let before = cluster.handle(NodeId::new(1)).status().last_log.get();
    let ids = cluster.ids();
    let waits: Vec<_> =
        (0..6000u32).map(|n| cluster.handle(ids[n as usize % 3]).propose(Command::Tick, PATIENCE)).collect();
    for wait in waits {
        assert_eq!(wait.await?.outcome, Outcome::Done);
    }
    let entries = cluster.handle(NodeId::new(1)).status().last_log.get() - before;
    assert!(entries < 200, "{entries} entries for 6000 commands");
    cluster.converge().await;
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leadership_moves_on_request_and_on_shutdown() -> Test {
    let mut cluster = Cluster::of(3).await;
    let old = cluster.leader(&[]).await;
    let heir = cluster.ids().into_iter().find(|id| *id != old).ok_or("another")?;
    assert!(cluster.handle(old).transfer_leader(heir).await);
    see(&cluster.handle(heir), |status| status.role == Role::Leader).await;
    assert_eq!(propose(&cluster.handle(old), token(1)).await?.outcome, Outcome::Done);
    cluster.stop(heir).await;
    let last = cluster.leader(&[heir]).await;
    assert_eq!(propose(&cluster.handle(last), token(2)).await?.outcome, Outcome::Done);
    cluster.end().await;
    Ok(())
}

/// With it gone, the two that live could decide nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_leader_takes_no_vote_away_that_it_needs_because_one_died_before_it_led() -> Test {
    let mut cluster = Cluster::of(3).await;
    let old = cluster.leader(&[]).await;
    let [new, dead] = cluster.ids().into_iter().filter(|id| *id != old).collect::<Vec<_>>()[..] else {
        return Err("two others".into());
    };
    cluster.stop(dead).await;
    assert!(cluster.handle(old).transfer_leader(new).await);
    let handle = cluster.handle(new);
    see(&handle, |status| status.role == Role::Leader).await;
    let demote = Command::SetNode { node: old, admin: NodeAdmin::Demoted, author: Author::default(), expect: None };
    assert!(!matches!(propose(&handle, demote).await?.outcome, Outcome::Refused(_)));
    // Several looks at the membership, long before the silence of the dead one counts.
    for n in 0..20 {
        assert_eq!(propose(&handle, token(n)).await?.outcome, Outcome::Done);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(handle.status().voters.len(), 3);
    cluster.end().await;
    Ok(())
}

/// It answers heartbeats as before. The change would need its disk from the moment that it is in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_vote_is_taken_away_that_is_needed_because_the_disk_of_another_hangs() -> Test {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[]).await;
    let [hung, healthy] = cluster.ids().into_iter().filter(|id| *id != leader).collect::<Vec<_>>()[..] else {
        return Err("two others".into());
    };
    cluster.faults.hang_syncs(hung);
    let handle = cluster.handle(leader);
    // An entry a second: it lacks the first of these for three seconds.
    see(&handle, |status| status.peers.get(&hung).is_some_and(|peer| peer.lag >= 4)).await;
    let demote = Command::SetNode { node: healthy, admin: NodeAdmin::Demoted, author: Author::default(), expect: None };
    assert!(!matches!(propose(&handle, demote).await?.outcome, Outcome::Refused(_)));
    // So many looks at the membership, and more.
    for number in 0..4 {
        assert_eq!(propose(&handle, token(number)).await?.outcome, Outcome::Done);
        let applied = handle.status().applied;
        see(&handle, |status| status.applied > applied).await;
    }
    let status = handle.status();
    assert_eq!((status.voters.len(), status.voter_sets.len()), (3, 1), "{status:?}");

    // It is carried out once the disk takes entries again.
    cluster.faults.heal();
    see(&handle, |status| status.voter_sets.len() == 1 && !status.voters.contains(&healthy)).await;
    assert_eq!(propose(&handle, token(9)).await?.outcome, Outcome::Done);
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_removed_voter_is_replaced_by_a_learner() -> Test {
    let mut cluster = Cluster::of(4).await;
    let leader = cluster.leader(&[]).await;
    let status = see(&cluster.handle(leader), |status| status.learners.len() == 1).await;
    let learner = status.learners[0];
    let leaves = *status.voters.iter().find(|id| **id != leader).ok_or("a voter")?;
    let remove = Command::RemoveNode { node: leaves, author: Author::default(), lease_secret: None, expect: None };
    assert!(!matches!(propose(&cluster.handle(leader), remove).await?.outcome, Outcome::Refused(_)));
    see(&cluster.handle(leader), |status| {
        status.voters.len() == 3 && status.voters.contains(&learner) && status.learners.is_empty()
    })
    .await;
    cluster.stop(leaves).await;
    assert_eq!(propose(&cluster.handle(learner), token(5)).await?.outcome, Outcome::Done);
    cluster.end().await;
    Ok(())
}

/// Its successor knows of the removal before it has the vote, and hears it all the same when their connections break then.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_removed_node_that_alone_votes_is_heard_until_another_has_its_vote() -> Test {
    let mut cluster = Cluster::of_one().await;
    let leader = NodeId::new(1);
    let heir = cluster.join(2).await;
    see(&cluster.handle(leader), |status| status.learners.contains(&heir)).await;
    let set = |admin| Command::SetNode { node: heir, admin, author: Author::default(), expect: None };
    let remove = Command::RemoveNode { node: leader, author: Author::default(), lease_secret: None, expect: None };
    for command in [set(NodeAdmin::Demoted), remove] {
        assert!(!matches!(propose(&cluster.handle(leader), command).await?.outcome, Outcome::Refused(_)));
    }
    let removed = cluster.handle(leader).status().applied;
    see(&cluster.handle(heir), |status| status.applied >= removed).await;
    let connects = cluster.faults.connects(heir);
    cluster.faults.cut_off(heir);
    while cluster.faults.connects(heir) == connects {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.faults.heal();
    assert_eq!(propose(&cluster.handle(heir), set(NodeAdmin::Ready)).await?.outcome, Outcome::Done);
    see(&cluster.handle(heir), |status| status.role == Role::Leader && status.voters.len() == 1).await;
    cluster.stop(leader).await;
    assert_eq!(propose(&cluster.handle(heir), token(5)).await?.outcome, Outcome::Done);
    cluster.end().await;
    Ok(())
}

/// Neither can be let go without the other: two of the three voters are nodes no more, and end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_voters_that_are_removed_at_once_leave_one_that_decides() -> Test {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[]).await;
    let handle = cluster.handle(leader);
    let leave: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let remove = |node| Command::RemoveNode { node, author: Author::default(), lease_secret: None, expect: None };
    let (one, other) = tokio::join!(propose(&handle, remove(leave[0])), propose(&handle, remove(leave[1])));
    for removed in [one?, other?] {
        assert!(!matches!(removed.outcome, Outcome::Refused(_)));
    }
    see(&handle, |status| status.voters.len() == 1 && status.voters.contains(&leader)).await;
    for node in leave {
        cluster.stop(node).await;
    }
    assert_eq!(propose(&handle, token(5)).await?.outcome, Outcome::Done);
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_data_of_another_node_or_cluster_is_refused() -> Test {
    use std::sync::Arc;

    use ballast_core::ids::Boot;
    use ballast_raft::{Member, MemberOptions, TlsConnect};
    let mut cluster = Cluster::of_one().await;
    let first = NodeId::new(1);
    cluster.stop(first).await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let connect = Arc::new(TlsConnect::new(&tls, Arc::new(|_| "node.test".try_into().expect("a name"))));
    for (name, node) in [("other", 1), ("test", 2)] {
        let options = MemberOptions::new(name, NodeId::new(node), Boot(9), cluster.data_dir(first));
        let refused = Member::start(options, connect.clone(), Arc::new(support::Recorder::default()))
            .await
            .err()
            .ok_or("must be refused")?;
        assert!(matches!(refused, StartError::OtherOwner { .. }), "{refused}");
        assert!(refused.to_string().contains("node 1 of cluster test"), "{refused}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_old_copy_of_a_data_directory_is_recognised_and_its_node_does_not_go_on() -> Test {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[]).await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).ok_or("a follower")?;
    let address = cluster.nodes[&follower].address;
    let (folder, copy) = (cluster.data_dir(follower), tempfile::TempDir::new()?);
    cluster.stop(follower).await;
    copy_folder(&folder, copy.path())?;
    cluster.start_at(follower, address).await;
    for n in 0..20 {
        propose(&cluster.handle(follower), token(n)).await?;
    }
    cluster.stop(follower).await;
    std::fs::remove_dir_all(&folder)?;
    copy_folder(copy.path(), &folder)?;

    cluster.start_at(follower, address).await;
    let failure = cluster.failure(follower).await;
    assert!(matches!(failure, MemberFailure::Reverted { last, acknowledged } if last < acknowledged), "{failure}");
    assert!(failure.to_string().contains("old copy"), "{failure}");
    // It got nothing from the leader, and the others go on.
    assert!(cluster.handle(follower).status().last_log < cluster.handle(leader).status().last_log);
    assert_eq!(propose(&cluster.handle(leader), token(77)).await?.outcome, Outcome::Done);

    // Whoever starts it again, with no leader there that knows better, hears the same.
    cluster.stop(follower).await;
    assert_eq!(cluster.refusal(follower).await.to_string(), failure.to_string());
    // Elsewhere, with nothing of it there, it was never there.
    std::fs::remove_dir_all(&folder)?;
    cluster.start(follower).await;
    cluster.end().await;
    Ok(())
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_is_refused_unless_its_connection_was_proved_to_be_of_the_node_that_it_names() -> Test {
    let cluster = Cluster::of_one().await;
    let ask = |proved: Option<u64>| {
        let mut client = LeaderClient::new(cluster.service(NodeId::new(1)));
        let mut request = Request::new(tokio_stream::iter([ReadIndexRequest::default()]));
        for key in ["ballast-from", "ballast-to"] {
            request.metadata_mut().insert(key, 1_u64.into());
        }
        if let Some(proved) = proved {
            request.extensions_mut().insert(PeerNode(NodeId::new(proved)));
        }
        async move { client.read_index(request).await.map_err(|status| status.code()) }
    };
    assert_eq!(ask(None).await.err(), Some(Code::Unauthenticated));
    assert_eq!(ask(Some(2)).await.err(), Some(Code::PermissionDenied));
    assert!(ask(Some(1)).await.is_ok());
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_at_once_is_not_called_without_a_pause() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader(&[]).await;
    let dead = *cluster.ids().iter().find(|node| **node != leader).expect("three nodes");
    cluster.stop(dead).await;
    for number in 0..3 {
        propose(&cluster.handle(leader), token(number)).await.expect("two of three are there");
    }
    let (before, began) = (cluster.faults.connects(dead), Instant::now());
    let called = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let calls = cluster.faults.connects(dead) - before;
            if calls >= 5 {
                return calls;
            }
        }
    };
    let calls = tokio::time::timeout(PATIENCE, called).await.expect("it is called again");
    // A heartbeat each 40 ms, entries each 50 ms, and room for a machine that is busy.
    let took = began.elapsed();
    assert!(u128::from(calls) * 1000 < 150 * took.as_millis(), "{calls} calls in {took:?}");
    cluster.end().await;
}
