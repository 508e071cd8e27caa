//! Random bytes for a few seconds, from a seed: `BALLAST_SEED`, and `BALLAST_FUZZ_SECONDS` for longer.
//!
//! A fuzzer that looks for what is new finds more: `fuzz/README.md`.

#[path = "entry.rs"]
mod entry;

use std::{
    env,
    panic::catch_unwind,
    time::{Duration, Instant},
};

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Seed(u64);

impl Seed {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn of_environment(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().expect("a whole number"))
}

/// Has `entry` take what `make` makes, until time is up. Says which seed it was that it did not take.
fn run(entry: fn(&[u8]), make: fn(&mut Seed) -> Vec<u8>) {
    let first = of_environment("BALLAST_SEED", 1);
    let until = Instant::now() + Duration::from_secs(of_environment("BALLAST_FUZZ_SECONDS", 3));
    let mut seed = first;
    while Instant::now() < until {
        let bytes = make(&mut Seed(seed));
        if catch_unwind(|| entry(&bytes)).is_err() {
            panic!("BALLAST_SEED={seed} is not taken: {}", bytes.escape_ascii());
        }
        seed += 1;
    }
    println!("{} programs, from seed {first}", seed - first);
    assert!(seed > first + 10, "hardly anything was tried");
}

/// Pieces of what is a request, put together anyhow.
fn anything_like_requests(seed: &mut Seed) -> Vec<u8> {
    const PIECES: [&[u8]; 24] = [
        b"*1\r\n",
        b"*2\r\n",
        b"*3\r\n",
        b"$3\r\nGET\r\n",
        b"$1\r\na\r\n",
        b"$0\r\n\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"$-1\r\n",
        b"PING\r\n",
        b"GET \"a b\"\r\n",
        b"'",
        b"\"\\x41",
        b"*",
        b"$",
        b"\r",
        b"\n",
        b"\r\n",
        b"10000\r\n",
        b"99999999999999999999",
        b"*64\r\n",
        b"*65\r\n",
        b"\0",
        b"$65537\r\n",
    ];
    let count = seed.below(24);
    let mut bytes = vec![seed.next() as u8];
    for _ in 0..count {
        match seed.below(8) {
            0 => bytes.push(seed.next() as u8),
            1 => bytes.extend(std::iter::repeat_n(b'0' + seed.below(10) as u8, seed.below(30) as usize)),
            2 if seed.below(50) == 0 => bytes.extend(std::iter::repeat_n(b'x', 70_000)),
            _ => bytes.extend_from_slice(PIECES[seed.below(24) as usize]),
        }
    }
    bytes
}

fn anything(seed: &mut Seed) -> Vec<u8> {
    (0..seed.below(600)).map(|_| seed.next() as u8).collect()
}

#[test]
fn however_bytes_arrive_they_are_the_same_requests() {
    run(entry::parser, anything_like_requests);
}

#[test]
fn whatever_is_asked_for_replicas_agree() {
    run(entry::commands, anything);
}
