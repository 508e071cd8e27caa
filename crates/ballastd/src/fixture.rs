//! A replicated state for unit tests, with a hand on its log.

use ballast_core::{
    ids::{Boot, LogIndex, NodeId},
    state::{ApplyConfig, Author, Command, Entry, Frame, FrameOutcomes, InitCluster, NodeInfo, Origin, Outcome, State},
    time::LogTime,
};

/// Log time of the first entries.
pub const START: LogTime = LogTime::from_millis(1_000_000_000_000);

/// A cluster of one node with this document, at log time [`START`].
pub fn founded(document: &str) -> State {
    let mut state = State::new();
    let init = InitCluster {
        cluster_id: "c".to_owned(),
        ca_certificate: String::new(),
        ca_key_sealed: Vec::new(),
        first_node: NodeInfo { name: "n1".to_owned(), ..NodeInfo::default() },
        first_node_key_fingerprint: [1; 32],
        table_secret: [0; 16].into(),
        cookie_secret: [0; 32].into(),
        lease_secret: [0; 32].into(),
    };
    pass(&mut state, START, Command::InitCluster(Box::new(init)));
    configure(&mut state, START, document);
    state
}

/// Puts another document in force.
pub fn configure(state: &mut State, log_time: LogTime, document: &str) {
    let apply = ApplyConfig {
        source: document.to_owned(),
        document: document.to_owned(),
        rules: ballast_core::config::rules::RULES,
        expect: None,
        request_id: String::new(),
        author: Author::default(),
    };
    let (_, outcomes) = pass(state, log_time, Command::ApplyConfig(Box::new(apply)));
    assert!(matches!(outcomes[0].outcomes[0], Outcome::Applied { changed: true, .. }), "{outcomes:?}");
}

/// Applies an entry of one command at that log time. Returns what observers are told.
pub fn pass(state: &mut State, log_time: LogTime, command: Command) -> (Entry, Vec<FrameOutcomes>) {
    let index = state.applied().get() + 1;
    let origin = Origin { node: NodeId::new(1), boot: Boot(1) };
    let entry = Entry { log_time, frames: vec![Frame { origin, seq: index, commands: vec![command] }] };
    let mut outcomes = Vec::new();
    state.apply(LogIndex::new(index), &entry, &mut outcomes);
    (entry, outcomes)
}
