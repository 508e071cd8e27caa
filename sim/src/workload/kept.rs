//! A set that only grows: in the end each node must have what was acknowledged, once, and nothing that was refused.

use ballast_core::{session::Reply, state::State};
use ballast_jepsen::durability::Addition;

use super::{Client, call, outcome, read, text};
use crate::trace::happened;

const SET: &str = "kept";

pub(super) async fn work(mut client: Client, number: usize) {
    let mut turn = 0;
    while let Some(at) = client.go().await {
        turn += 1;
        let element = format!("{number}:{turn}");
        // Noted at once, as unknown: the day may end before the answer.
        let place = {
            let mut additions = client.records.additions.lock();
            additions.push(Addition { element: element.clone(), outcome: ballast_jepsen::history::Outcome::Unknown });
            additions.len() - 1
        };
        let said = client.call(&at, &["SADD", SET, &element]).await;
        let outcome = outcome(&said);
        happened!("keeper {number} at n{}: {element} {outcome:?}", at.number);
        client.records.additions.lock()[place].outcome = outcome;
    }
}

/// What a node has.
pub fn elements(state: &State) -> Vec<String> {
    match read(state, &call(&["SMEMBERS", SET])) {
        Reply::Set(members) | Reply::Array(members) => members
            .iter()
            .map(|member| if let Reply::Bulk(bytes) = member { text(bytes) } else { String::new() })
            .collect(),
        _ => Vec::new(),
    }
}
