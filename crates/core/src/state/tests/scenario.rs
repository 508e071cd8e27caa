//! A state with a hand on its log.

use std::collections::BTreeMap;

use crate::{
    ids::{Boot, LogIndex, NodeId, Revision},
    state::*,
    time::LogTime,
};

/// Applies commands one entry at a time.
pub(crate) struct Scenario {
    pub(crate) state: State,
    pub(crate) now: LogTime,
    seq: u64,
}

pub(crate) fn author() -> Author {
    Author { name: "ann".to_owned(), message: "because".to_owned() }
}

pub(super) fn node_info(name: &str) -> NodeInfo {
    NodeInfo { name: name.to_owned(), ..NodeInfo::default() }
}

pub(super) fn origin() -> Origin {
    Origin { node: NodeId::new(1), boot: Boot(7) }
}

pub(super) fn init() -> Command {
    Command::InitCluster(Box::new(InitCluster {
        cluster_id: "c1".to_owned(),
        ca_certificate: "PEM".to_owned(),
        ca_key_sealed: vec![1, 2, 3],
        first_node: node_info("n1"),
        first_node_key_fingerprint: [1; 32],
        table_secret: [9; 16].into(),
        cookie_secret: [8; 32].into(),
        lease_secret: [7; 32].into(),
    }))
}

/// The canonical JSON of a document in which service `web` of farm `shop` has these backends, each
/// written `name` or `name:weight`, and a table with these extra settings.
pub(super) fn document(backends: &[&str], table: &str) -> String {
    let backends: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(n, backend)| {
            let (name, weight) = backend.split_once(':').unwrap_or((backend, "100"));
            format!(r#"{{"name":"{name}","address":"127.0.0.1:{}","weight":{weight}}}"#, 9000 + n)
        })
        .collect();
    format!(
        r#"{{"version":1,"vips":[{{"name":"v","addresses":["127.0.0.10"]}}],"farms":[{{"name":"shop",
        "listeners":[{{"name":"http","vip":"v","port":8080}}],
        "services":[{{"name":"web","backends":[{}],"health":{{}},
        "persistence":{{"table":{{"key":{{"header":"x-user"}}{table}}}}}}}]}}]}}"#,
        backends.join(",")
    )
}

pub(super) fn apply_config(document: String, request_id: &str, expect: Option<u64>) -> Command {
    Command::ApplyConfig(Box::new(ApplyConfig {
        source: format!("# as written\n{document}"),
        document,
        rules: crate::config::rules::RULES,
        expect: expect.map(Revision::new),
        request_id: request_id.to_owned(),
        author: author(),
    }))
}

impl Scenario {
    /// A state without an entry.
    pub(crate) fn empty() -> Self {
        Self { state: State::new(), now: LogTime::from_millis(1_000_000_000_000), seq: 0 }
    }

    /// A cluster of one without a configuration.
    pub(crate) fn founded() -> Self {
        let mut scenario = Self::empty();
        scenario.run(init());
        scenario
    }

    /// Applies a document that must be right.
    pub(crate) fn apply(&mut self, document: String) {
        let outcome = self.run(apply_config(document, "", None));
        assert!(matches!(outcome, Outcome::Applied { changed: true, .. }), "{outcome:?}");
    }

    /// A cluster of one with backends `a`, `b` and `c`.
    pub(crate) fn shop() -> Self {
        let mut scenario = Self::founded();
        scenario.apply(document(&["a", "b", "c"], ""));
        scenario
    }

    /// Makes an entry of one command and applies it.
    pub(crate) fn run(&mut self, command: Command) -> Outcome {
        let entry = self.entry(vec![command]);
        let mut out = Vec::new();
        self.state.apply(LogIndex::new(self.state.applied().get() + 1), &entry, &mut out);
        out.remove(0).outcomes.remove(0)
    }

    /// The next entry of this log.
    pub(crate) fn entry(&mut self, commands: Vec<Command>) -> Entry {
        self.seq += 1;
        let frame = Frame { origin: origin(), seq: self.seq, commands };
        Entry { log_time: self.now, frames: vec![frame] }
    }

    /// Lets log time pass.
    pub(crate) fn wait(&mut self, millis: u64) {
        self.now = self.now.plus_millis(millis);
        self.run(Command::Tick);
    }

    /// The same state, by way of a snapshot's bytes.
    pub(crate) fn reread(&self) -> State {
        let mut bytes = Vec::new();
        self.state.snapshot().write(&mut bytes).expect("a vector takes everything");
        State::read(&mut bytes.as_slice()).expect("what was written is read")
    }

    /// A node with labels.
    pub(crate) fn labelled(name: &str, labels: &[(&str, &str)]) -> NodeInfo {
        let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        NodeInfo { labels, ..node_info(name) }
    }
}
