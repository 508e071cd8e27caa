//! Clients: they go to any node that runs, do one thing at a time, and write down what came of it.
//!
//! A client is not on a machine that breaks; it reaches every node whatever becomes of the network between nodes, as clients
//! of a load balancer do. What it was told counts, and so does when.

mod bindings;
mod config;
mod kept;
mod sessions;

use std::{sync::Arc, time::Duration};

use ballast_core::{
    cluster::{Applied, Propose, ProposeError, ReadIndex},
    session::{Call, Reply, Write},
    state::{Command, Outcome as Answer, State},
};
use ballast_jepsen::{
    durability::Addition,
    history::{Outcome, Recorder},
    models::{ConfigInput, ConfigOutput, SessionInput, SessionOutput},
    stickiness::Observation,
};
use ballast_raft::Handle;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::sleep};

pub(crate) use self::config::apply_first;
pub use self::kept::elements;
use crate::{
    random::Random,
    site::{Phase, Site},
};

/// How long a client waits for an answer.
pub const PATIENCE: Duration = Duration::from_millis(1500);

/// What all clients wrote down.
#[derive(Default)]
pub struct Records {
    /// Commands on keys.
    pub sessions: Recorder<SessionInput, SessionOutput>,
    /// Reads and writes of the configuration.
    pub config: Recorder<ConfigInput, ConfigOutput>,
    /// Which backend keys were bound to, as they were told.
    pub bindings: Mutex<Vec<Observation>>,
    /// Elements that were added to the set.
    pub additions: Mutex<Vec<Addition>>,
}

/// How many clients there are of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// Of the session store.
    pub sessions: usize,
    /// Operators who change the configuration.
    pub operators: usize,
    /// Visitors with bindings.
    pub visitors: usize,
    /// Longest pause between two commands of a client, in milliseconds.
    pub pause_millis: u64,
}

/// Lets clients work until the run is healed.
pub fn start(site: &Arc<Site>, records: &Arc<Records>, crowd: Crowd, random: &mut Random) -> Vec<JoinHandle<()>> {
    let mut clients = Vec::new();
    let used = Arc::new(Mutex::new(vec![0; sessions::KEYS as usize]));
    for number in 0..crowd.sessions {
        let client = Client::new(site, records, random, crowd.pause_millis);
        clients.push(tokio::spawn(sessions::work(client, number, Arc::clone(&used))));
    }
    for number in 0..crowd.operators {
        let client = Client::new(site, records, random, crowd.pause_millis * 8);
        clients.push(tokio::spawn(config::work(client, number)));
    }
    for _ in 0..crowd.visitors {
        clients.push(tokio::spawn(bindings::work(Client::new(site, records, random, crowd.pause_millis * 2))));
    }
    for number in 0..2 {
        let client = Client::new(site, records, random, crowd.pause_millis * 2);
        clients.push(tokio::spawn(kept::work(client, number)));
    }
    clients
}

/// A client and what it knows.
struct Client {
    site: Arc<Site>,
    records: Arc<Records>,
    random: Random,
    pause_millis: u64,
}

/// What a client was answered by the node that it went to.
enum Said<T> {
    Ok(T),
    Fail(String),
    Unknown(String),
}

/// The node that a client is at.
struct At {
    number: usize,
    life: u32,
    handle: Handle,
}

impl Client {
    fn new(site: &Arc<Site>, records: &Arc<Records>, random: &mut Random, pause_millis: u64) -> Self {
        Self { site: Arc::clone(site), records: Arc::clone(records), random: random.fork(), pause_millis }
    }

    /// Rests, and goes to a node; none when the day is over.
    async fn go(&mut self) -> Option<At> {
        loop {
            sleep(self.random.millis(1, self.pause_millis)).await;
            if self.site.phase() != Phase::Broken {
                return None;
            }
            if let Some((number, life, handle)) = self.site.any(&mut self.random) {
                return Some(At { number, life, handle });
            }
        }
    }

    /// Has a node propose a command. A node that dies meanwhile cannot say anything for certain.
    async fn propose(&self, at: &At, command: Command) -> Said<Applied> {
        match at.handle.propose(command, PATIENCE).await {
            Ok(applied) => Said::Ok(applied),
            Err(error @ ProposeError::OutcomeUnknown { .. }) => Said::Unknown(error.to_string()),
            Err(error) if self.site.lives(at.number, at.life) => Said::Fail(error.to_string()),
            Err(error) => Said::Unknown(format!("the node is gone: {error}")),
        }
    }

    /// Reads a node's state once it is confirmed.
    async fn read<T>(&self, at: &At, look: impl FnOnce(&State) -> T) -> Said<T> {
        match at.handle.confirm(PATIENCE).await {
            // What a dead process was still going to say, nobody hears.
            Ok(_) if self.site.lives(at.number, at.life) => Said::Ok(at.handle.with_state(look)),
            Ok(_) => Said::Fail("the node is gone".to_owned()),
            Err(error) => Said::Fail(error.to_string()),
        }
    }

    /// Carries out one command of the session store.
    async fn call(&self, at: &At, words: &[&str]) -> Said<Reply> {
        let call = call(words);
        let reads = matches!(words[0], "GET" | "SMEMBERS");
        if reads {
            return self.read(at, |state| read(state, &call)).await;
        }
        match self.propose(at, Command::Session(Box::new(Write::one(call)))).await {
            Said::Ok(Applied { outcome: Answer::Session(mut replies), .. }) => Said::Ok(replies.remove(0)),
            Said::Ok(Applied { outcome, .. }) => Said::Fail(format!("{outcome:?}")),
            Said::Fail(why) => Said::Fail(why),
            Said::Unknown(why) => Said::Unknown(why),
        }
    }
}

fn call(words: &[&str]) -> Call {
    let words = words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
    Call::parse(0, words).expect("workloads know the commands")
}

/// What a call that only reads is answered in this state.
fn read(state: &State, call: &Call) -> Reply {
    let mut replies = Vec::new();
    match state.sessions().read(None, std::slice::from_ref(call), &mut replies) {
        Ok(()) => replies.remove(0),
        Err(_) => Reply::error("ERR nothing is due without an estimate"),
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn outcome<T>(said: &Said<T>) -> Outcome<()> {
    match said {
        Said::Ok(_) => Outcome::Ok(()),
        Said::Fail(_) => Outcome::Fail,
        Said::Unknown(_) => Outcome::Unknown,
    }
}
