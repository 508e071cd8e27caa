//! Random programs of all commands, the same bytes to a real Redis 7.0 and to a whole server; answers are compared.
//!
//! The clock stands still for both and is moved by the programs: Redis gets one that is preloaded (`support/clock.c`), the
//! cluster of one gets it as log time. Two connections on each side take turns, so that `WATCH` sees others' changes.
//!
//! A short run is part of `cargo test`. `BALLAST_DIFFERENTIAL=1000000` makes it as many commands,
//! `BALLAST_DIFFERENTIAL_SEED` replays a run. What may differ stands in [`answers::ALLOWED`], with the reasons.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod programs;

use std::{collections::BTreeMap, os::unix::fs::FileExt as _, sync::atomic::Ordering, time::Instant};

use answers::{Value, comparable};
use programs::Random;
use support::{Ballast, Client, Redis, encode};

/// 18 May 2033: later than anything that this test did not set itself.
const START_MS: u64 = 2_000_000_000_000;
/// Commands between two `FLUSHALL`s.
const PROGRAM: usize = 250;

/// Both sides of one connection.
struct Pair {
    ours: Client,
    theirs: Client,
    /// What is queued, once `MULTI` was said.
    queued: Option<Vec<Vec<Vec<u8>>>>,
}

impl Pair {
    /// Says each of these to both sides; returns the first difference.
    fn say(&mut self, commands: &[Vec<Vec<u8>>]) -> Result<(), (usize, String, String)> {
        let bytes: Vec<u8> =
            commands.iter().flat_map(|words| encode(&words.iter().map(Vec::as_slice).collect::<Vec<_>>())).collect();
        self.ours.send(&bytes);
        self.theirs.send(&bytes);
        let mut difference = None;
        for (at, words) in commands.iter().enumerate() {
            let ours = Value::parse(&self.ours.answer().expect("our side goes on"));
            let theirs = Value::parse(&self.theirs.answer().expect("their side goes on"));
            let shown = (ours.to_string(), theirs.to_string());
            let (ours, theirs) = self.comparable(words, ours, theirs);
            if ours != theirs && difference.is_none() {
                difference = Some((at, shown.0, shown.1));
            }
        }
        difference.map_or(Ok(()), Err)
    }

    /// What keys both sides have now, if that can be asked.
    fn keys(&mut self) -> String {
        let keys = |client: &mut Client| {
            let keys = Value::parse(&client.call(&[b"KEYS", b"*"]));
            answers::comparable(&[b"KEYS".to_vec()], keys.clone(), keys).0.to_string()
        };
        format!("{}\n          {}", keys(&mut self.ours), keys(&mut self.theirs))
    }

    fn comparable(&mut self, words: &[Vec<u8>], ours: Value, theirs: Value) -> (Value, Value) {
        let name = words[0].to_ascii_lowercase();
        match (&mut self.queued, name.as_slice()) {
            (None, b"multi") if theirs == Value::Simple("OK".into()) => self.queued = Some(Vec::new()),
            (Some(queued), _) if theirs == Value::Simple("QUEUED".into()) => queued.push(words.to_vec()),
            (Some(_), b"exec" | b"discard" | b"reset") => {
                let queued = self.queued.take().unwrap_or_default();
                return answers::comparable_exec(&queued, ours, theirs);
            }
            _ => {}
        }
        comparable(words, ours, theirs)
    }
}

#[test]
fn the_same_answers_as_redis() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |n| n.parse().expect("a number"));
    let commands = number("BALLAST_DIFFERENTIAL", 10_000) as usize;
    let seed = number("BALLAST_DIFFERENTIAL_SEED", 1);
    let Some((redis, clock)) = Redis::start_with_clock(START_MS) else { return };
    let ballast = Ballast::start("{}");
    ballast.cluster.now_ms.store(START_MS, Ordering::SeqCst);
    redis.client().call(&[b"SCRIPT", b"LOAD", programs::RELEASE.as_bytes()]);
    let mut random = Random::new(seed);
    let mut now_ms = START_MS;
    let (mut said, mut programs, mut came_and_went, began) = (0, 0, 0, Instant::now());
    let mut differences: BTreeMap<String, (usize, String)> = BTreeMap::new();
    while said < commands {
        let pair = || Pair { ours: ballast.client(), theirs: redis.client(), queued: None };
        let mut pairs = [pair(), pair()];
        programs += 1;
        let mut history: Vec<String> = Vec::new();
        let resp = if random.one_in(3) { b"3".to_vec() } else { b"2".to_vec() };
        for pair in &mut pairs {
            let hello = [b"HELLO".to_vec(), resp.clone()];
            for client in [&mut pair.ours, &mut pair.theirs] {
                client.call(&hello.iter().map(Vec::as_slice).collect::<Vec<_>>());
            }
        }
        pairs[0].say(&[vec![b"FLUSHALL".to_vec()]]).expect("empty");
        let mut done = 0;

        while done < PROGRAM {
            let moved = random.one_in(12);
            if moved {
                // One more than a multiple of half a second, see `answers`.
                now_ms += 1 + [0, 500, 500, 1000, 1500, 10_000, 100_000][random.below(7)];
                now_ms += u64::from(now_ms.is_multiple_of(500));
                clock.write_all_at(&now_ms.to_le_bytes(), 0).expect("the clock is set");
                ballast.cluster.now_ms.store(now_ms, Ordering::SeqCst);
                history.push(format!("(the clock is at {now_ms})"));
                // Redis counts keys that are over until it has come across them.
                redis.come_across_what_is_over();
            }
            let mut batch: Vec<_> = (0..=random.below(12)).map(|_| programs::command(&mut random, now_ms)).collect();
            // Half of the time it is a read that finds out that log time must move on.
            if moved && random.one_in(2) && pairs.iter().all(|pair| pair.queued.is_none()) {
                batch.retain(|words| !is_without_key(&words[0]));
            } else {
                ballast.cluster.tick();
            }
            let who = random.below(2);
            let pair = &mut pairs[who];
            done += batch.len();
            said += batch.len();
            let shown = |words: &[Vec<u8>]| {
                words.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
            };
            history.extend(batch.iter().map(|words| format!("{}  ({who})", shown(words))));
            if let Err((at, ours, theirs)) = pair.say(&batch) {
                let words = &batch[at];
                if words[0].eq_ignore_ascii_case(b"exec") && theirs.ends_with("null") && ours.starts_with("*[") {
                    // See `answers`: the only way in which the two may part.
                    came_and_went += 1;
                    break;
                }
                let keys = pair.keys();
                let name = String::from_utf8_lossy(&words[0]).to_ascii_lowercase();
                history.truncate(history.len() - batch.len() + at);
                let text = format!(
                    "{}\n  ours:   {ours}\n  theirs: {theirs}\n  keys:   {keys}\n  before: {}",
                    shown(words),
                    related(&history, words).join("\n          ")
                );
                differences.entry(name).and_modify(|(count, _)| *count += 1).or_insert((1, text));
                break;
            }
        }
    }
    let took = began.elapsed();
    println!(
        "{said} commands in {programs} programs in {took:?}, seed {seed}; {came_and_went} watched keys came and went"
    );
    let shown: Vec<String> = differences.values().map(|(count, text)| format!("{count} times: {text}")).collect();
    assert!(came_and_went <= 5 + programs / 50, "WATCH: {came_and_went} of {programs}, seed {seed}");
    assert!(differences.is_empty(), "seed {seed}:\n{}", shown.join("\n"));
}

fn is_without_key(name: &[u8]) -> bool {
    matches!(name.to_ascii_lowercase().as_slice(), b"scan" | b"keys" | b"randomkey" | b"dbsize" | b"exec" | b"multi")
}

/// The last of the commands before that have to do with what `words` names.
fn related<'a>(history: &'a [String], words: &[Vec<u8>]) -> Vec<&'a str> {
    if words.len() == 1 {
        return history[history.len().saturating_sub(60)..].iter().map(String::as_str).collect();
    }
    let named: Vec<String> = words[1..].iter().map(|word| word.escape_ascii().to_string()).collect();
    let is_related = |line: &&String| {
        let mut said = line.split(' ');
        let name = said.next().unwrap_or_default().to_ascii_lowercase();
        let frames = ["(the", "multi", "exec", "discard", "select", "flushall", "flushdb", "reset", "watch"];
        frames.contains(&name.as_str()) || named.is_empty() || said.any(|word| named.iter().any(|named| named == word))
    };
    let lines: Vec<&str> = history.iter().filter(is_related).map(String::as_str).collect();
    lines[lines.len().saturating_sub(16)..].to_vec()
}
