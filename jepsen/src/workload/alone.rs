//! Two clients a node, which ask that node and no other: one for a page, by a key of its own, one to store something.
//!
//! What they are told while their node has no quorum is what is promised of that (`ballast_jepsen::without_quorum`). A store takes
//! seconds to refuse then; whoever asks for pages does not wait for it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::{
    time::Span,
    without_quorum::{Said, What},
};
use ballast_testkit::{
    client::Client,
    lab::Guests,
    resp::{Answer, Connection},
};

use super::{CONNECT, Clients, PATIENCE};
use crate::{clock::Clock, judge, site::VISITOR};

const A_PAGE_EVERY: Duration = Duration::from_millis(50);
const A_WRITE_EVERY: Duration = Duration::from_millis(200);

/// All that nodes said.
pub type Record = Arc<Mutex<Vec<Said>>>;

/// Lets them ask: `pages` and `stores` are those of the nodes.
///
/// # Errors
/// When the client network cannot be entered.
pub fn start(
    guests: &Guests,
    pages: &[SocketAddr],
    stores: &[SocketAddr],
    clock: Clock,
    record: &Record,
) -> Result<Clients> {
    let (pages, stores, record) = (pages.to_vec(), stores.to_vec(), Arc::clone(record));
    Clients::start(guests, 2 * pages.len(), move |number, stop| {
        let (node, asks_for_pages) = (number / 2, number.is_multiple_of(2));
        let (visitor, key) = (format!("alone-{node}"), format!("alone:{node}"));
        let (mut client, mut connection) = (Client::new(pages[node]).timeout(PATIENCE), None);
        for turn in 0.. {
            thread::sleep(if asks_for_pages { A_PAGE_EVERY } else { A_WRITE_EVERY });
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let begun = clock.now();
            let what = if asks_for_pages {
                page(&mut client, &visitor)
            } else {
                store(stores[node], &mut connection, &key, turn)
            };
            let said = Said { node: judge::name(node), span: Span::new(begun, clock.now()), what };
            record.lock().unwrap_or_else(PoisonError::into_inner).push(said);
        }
    })
}

fn page(client: &mut Client, visitor: &str) -> What {
    match client.request("GET", "/", &[(VISITOR, visitor)], b"") {
        Ok(answer) => match answer.header("x-backend") {
            Some(backend) if answer.status == 200 => What::Served(backend.to_owned()),
            _ => What::InVain(format!("{} {}", answer.status, answer.header("x-ballast-reason").unwrap_or_default())),
        },
        Err(error) => What::InVain(format!("{:?}", error.kind())),
    }
}

fn store(at: SocketAddr, connection: &mut Option<Connection>, key: &str, turn: u64) -> What {
    if connection.is_none() {
        *connection = Connection::open_within(CONNECT, at, PATIENCE).ok();
    }
    let Some(open) = connection else { return What::NotStored };
    match open.call(&["SET", key, &turn.to_string()]) {
        Ok(answer) if answer.is_ok() => What::Stored,
        Ok(Answer::Error(_)) => What::NotStored,
        Ok(_) | Err(_) => {
            // A late answer is not one to the next command.
            *connection = None;
            What::NotStored
        }
    }
}
