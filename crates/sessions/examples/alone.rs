//! The server on a state machine in memory, without a log: what the wire and the keyspace alone cost. Nothing is
//! replicated or kept; for benches beside `redis-server --save "" --appendonly no`.
//!
//! `cargo run --release -p ballast-sessions --example alone -- 127.0.0.1:7000 [WORKERS]`

#[path = "../tests/support/mod.rs"]
mod support;

use ballast_core::config::SessionProtocol;
use ballast_sessions::{Place, Wanted};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let address = address.parse().expect("an address with a port");
    let workers = arguments.next().map_or(0, |workers| workers.parse().expect("a number"));
    let wanted = vec![Wanted { place: Place::Address(address), tls: false, protocol: SessionProtocol::Resp }];
    let ballast = support::Ballast::start_with(r#"{"memory_max":"4GiB"}"#, wanted, None, workers);
    println!("serving {}", ballast.address);
    loop {
        std::thread::park();
    }
}
