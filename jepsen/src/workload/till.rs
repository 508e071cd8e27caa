//! Buyers whose baskets are in the session store, and clients that send much and want it back.
//!
//! Both go over the VIP to a service of their own (`till`), whose backends keep baskets in the store that Ballast serves.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use ballast_jepsen::{baskets::Told, kept::Kept, says_why::Vain, time::Span, transfers::Transfer};
use ballast_testkit::{
    client::{Client, Response},
    lab::Guests,
};
use serde::{Deserialize, Serialize};

use super::{Clients, PATIENCE, bindings::got, note_kept};
use crate::{
    clock::Clock,
    plan::Random,
    proxied,
    site::{COOKIE, TILL_HOST, VIP_NAME},
};

const BUYERS: usize = 3;
const SENDERS: usize = 2;
/// After so many requests a buyer forgets its cookie and comes as a new one.
const VISIT: u64 = 200;

/// An answer, whatever it says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// By which the access log knows the request.
    pub id: String,
    /// Who had asked: one that has the cookies of all its answers.
    pub client: String,
    /// The backend that gave it, if it says so.
    pub backend: Option<String>,
    /// From when it was asked until the answer was there.
    pub span: Span,
}

/// What they saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Who was answered by whom.
    pub answers: Vec<Answer>,
    /// What buyers were told of their baskets.
    pub told: Vec<Told>,
    /// What came back as if it were whole.
    pub transfers: Vec<Transfer>,
    /// How many transfers were known to have failed.
    pub broken: usize,
    /// What was not answered with success.
    pub failed: Vec<Vain>,
    /// What became of the connections that they kept.
    pub kept: Kept,
}

/// Shared by them.
pub type Record = Arc<Mutex<Seen>>;

/// Lets them in.
///
/// # Errors
/// When the client network cannot be entered.
pub fn start(guests: &Guests, shop: SocketAddr, clock: Clock, seed: u64, record: &Record) -> Result<[Clients; 2]> {
    let buyers = {
        let record = Arc::clone(record);
        Clients::start(guests, BUYERS, move |number, stop| {
            let mut random = Random(seed ^ number as u64 ^ 0x7111);
            let (mut client, mut asked) = (fresh(shop), 0u64);
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20 + random.below(30)));
                asked += 1;
                if asked % VISIT == 0 {
                    client = fresh(shop);
                }
                let (id, who) = (format!("buyer{number}-{asked}"), format!("buyer{number}/{}", asked / VISIT));
                buy(&mut client, &id, &who, random.below(3) > 0, clock, &record);
            }
        })?
    };
    let record = Arc::clone(record);
    let senders = Clients::start(guests, SENDERS, move |number, stop| {
        let mut random = Random(seed ^ number as u64 ^ 0xb17e);
        let (mut client, mut asked) = (fresh(shop), 0u64);
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50 + random.below(100)));
            asked += 1;
            // From one that fits into a buffer to one that takes many.
            let length = 1 << (10 + random.below(10));
            let body: Vec<u8> = (0..length).map(|_| b'!' + random.below(90) as u8).collect();
            send(&mut client, &format!("sender{number}-{asked}"), &format!("sender{number}"), &body, clock, &record);
        }
    })?;
    Ok([buyers, senders])
}

fn fresh(shop: SocketAddr) -> Client {
    Client::new(shop).host(TILL_HOST).timeout(PATIENCE)
}

/// Logs in if need be, then buys something or looks.
fn buy(client: &mut Client, id: &str, who: &str, bought: bool, clock: Clock, record: &Record) {
    let known_as = client.cookie(COOKIE).map(str::to_owned);
    let known = known_as.is_some();
    let bought = bought && known;
    let path = match (known, bought) {
        (false, _) => "/login",
        (true, true) => "/buy",
        (true, false) => "/basket",
    };
    let from = clock.now();
    let answer = client.get(&proxied::path(path, id));
    let span = Span::new(from, clock.now());
    let mut seen = record.lock().unwrap_or_else(PoisonError::into_inner);
    note_kept(&mut seen.kept, client, id, VIP_NAME, span);
    seen.answers.extend(answer_to(who, id, span, &answer));
    match &answer {
        Ok(answer) if answer.status == 200 => {
            let text = answer.text();
            let field =
                |name: &str| text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            // One that has just logged in has asked for nobody's basket yet.
            if let (true, Some(session), Some(basket)) = (known, field("session"), field("basket")) {
                let (session, by) = (session.to_owned(), field("backend").unwrap_or_default().to_owned());
                let basket = basket.parse().unwrap_or(0);
                seen.told.push(Told { session, bought, basket, by, span });
            }
        }
        answer => seen.failed.push(vain(id, span, answer, known_as)),
    }
}

/// Sends a body and compares what comes back.
fn send(client: &mut Client, id: &str, who: &str, body: &[u8], clock: Clock, record: &Record) {
    let from = clock.now();
    let answer = client.request("POST", &proxied::path("/echo", id), &[], body);
    let span = Span::new(from, clock.now());
    let mut seen = record.lock().unwrap_or_else(PoisonError::into_inner);
    note_kept(&mut seen.kept, client, id, VIP_NAME, span);
    seen.answers.extend(answer_to(who, id, span, &answer));
    match &answer {
        Ok(answer) if answer.status == 200 => {
            seen.transfers.push(Transfer::compare(id.to_owned(), body, &answer.body, span));
        }
        answer => {
            seen.broken += 1;
            seen.failed.push(vain(id, span, answer, None));
        }
    }
}

fn answer_to(who: &str, id: &str, span: Span, answer: &io::Result<Response>) -> Option<Answer> {
    let backend = answer.as_ref().ok()?.header("x-backend").map(str::to_owned);
    Some(Answer { id: id.to_owned(), client: who.to_owned(), backend, span })
}

fn vain(id: &str, span: Span, answer: &io::Result<Response>, known_as: Option<String>) -> Vain {
    Vain { id: id.to_owned(), via: VIP_NAME.to_owned(), span, got: got(answer), known_as, before: None }
}
