//! What bytes are fed to, whoever made them up: random ones in the tests, those that a fuzzer looks for in `fuzz/`.
//!
//! Each of these panics when something is wrong.

use ballast_core::{
    ids::{Boot, LogIndex, NodeId},
    session::{Call, Class, Reply, Write, specs},
    state::{ApplyConfig, Author, Command, Entry, Frame, InitCluster, NodeInfo, Origin, Outcome, State, codec},
    time::LogTime,
};
use ballast_sessions::wire::{Bounds, Out, ProtocolError, Requests, Resp};
use bytes::{Bytes, BytesMut};

/// As few bytes as are worth it: what is refused as too large should be met often.
const REQUEST_MAX: usize = 64 << 10;
const ARGUMENTS_MAX: usize = 64;

/// Takes the first byte for how the rest arrives: however that is, it comes to the same requests.
pub fn parser(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else { return };
    let bounds = Bounds { request_max: REQUEST_MAX, arguments_max: ARGUMENTS_MAX, stranger: how & 1 == 1 };
    let whole = requests(bytes, bytes.len().max(1), bounds);
    let in_pieces = requests(bytes, usize::from(how >> 1) % 32 + 1, bounds);
    assert_eq!(whole, in_pieces, "{:?}", bytes.escape_ascii().to_string());
    for words in &whole.0 {
        assert!(!words.is_empty() && words.iter().map(Bytes::len).sum::<usize>() <= bytes.len());
        // Whatever it is, it is a command or refused.
        let _command = Call::parse(0, words.clone());
    }
}

fn requests(bytes: &[u8], piece: usize, bounds: Bounds) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    let (mut requests, mut buf, mut argv, mut all) = (Requests::default(), BytesMut::new(), Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        buf.extend_from_slice(piece);
        loop {
            match requests.next(&mut buf, &bounds, &mut argv) {
                Ok(true) => all.push(argv.clone()),
                Ok(false) => break,
                Err(error) => return (all, Some(error)),
            }
        }
    }
    (all, None)
}

/// Two replicas carry out the program that the bytes are. One of them hears of it through the log's bytes, and is replaced by
/// a snapshot of the other now and then. Both have to come to the same answers and the same keys.
pub fn commands(data: &[u8]) {
    let mut program = Program(data);
    let (mut first, mut second) = (Replica::new(), Replica::new());
    let mut time = 1_000_000;
    for number in 2.. {
        let Some(byte) = program.byte() else { break };
        time += u64::from(byte & 0x0f) * 100;
        if byte >= 0xfc {
            second.state = first.restored();
        }
        let calls: Vec<Call> = (0..=byte >> 6).filter_map(|_| program.call()).collect();
        let (writes, reads): (Vec<Call>, Vec<Call>) =
            calls.into_iter().filter(|call| call.class() != Class::Connection).partition(|c| c.class() == Class::Write);
        let command = if writes.is_empty() {
            Command::Tick
        } else {
            Command::Session(Box::new(Write { calls: writes, atomic: byte & 0x20 != 0, watched: Vec::new() }))
        };
        let frame = Frame { origin: Replica::ORIGIN, seq: number, commands: vec![command] };
        let entry = Entry { log_time: LogTime::from_millis(time), frames: vec![frame] };
        let heard = codec::decode_entry(&codec::encode_entry(&entry)).expect("what was written is read");
        let answers = first.apply(number, &entry);
        assert_eq!(answers, second.apply(number, &heard), "{entry:?}");
        first.answers(&reads, &second);
        assert_eq!(first.state.hash(), second.state.hash(), "{entry:?}");
    }
    let again = first.restored();
    assert_eq!((again.hash(), again.sessions().stats()), (first.state.hash(), first.state.sessions().stats()));
}

struct Replica {
    state: State,
}

impl Replica {
    const ORIGIN: Origin = Origin { node: NodeId::new(1), boot: Boot(7) };

    fn new() -> Self {
        let mut replica = Self { state: State::new() };
        let init = InitCluster {
            cluster_id: "c1".to_owned(),
            ca_certificate: "PEM".to_owned(),
            ca_key_sealed: vec![1],
            first_node: NodeInfo { name: "n1".to_owned(), ..NodeInfo::default() },
            first_node_key_fingerprint: [1; 32],
            table_secret: [9; 16].into(),
            cookie_secret: [8; 32].into(),
            lease_secret: [7; 32].into(),
        };
        // Little memory, so that it runs out and keys give way.
        let document = r#"{"version":1,"sessions":{"memory_max":"1MiB","eviction":"volatile-lru"}}"#;
        let document = ballast_core::config::decode_canonical(document).expect("a document").to_canonical_json();
        let configure = ApplyConfig {
            source: document.clone(),
            document,
            rules: ballast_core::config::rules::RULES,
            expect: None,
            request_id: String::new(),
            author: Author { name: "ann".to_owned(), message: String::new() },
        };
        let commands = vec![Command::InitCluster(Box::new(init)), Command::ApplyConfig(Box::new(configure))];
        let frame = Frame { origin: Self::ORIGIN, seq: 1, commands };
        let answers = replica.outcomes(1, &Entry { log_time: LogTime::from_millis(1_000_000), frames: vec![frame] });
        assert!(answers.iter().all(|answer| !matches!(answer, Outcome::Refused(_))), "{answers:?}");
        replica
    }

    fn outcomes(&mut self, index: u64, entry: &Entry) -> Vec<Outcome> {
        let mut out = Vec::new();
        self.state.apply(LogIndex::new(index), entry, &mut out);
        drop(self.state.take_garbage());
        out.into_iter().flat_map(|frame| frame.outcomes).collect()
    }

    /// The answers to an entry, in both protocols.
    fn apply(&mut self, index: u64, entry: &Entry) -> Vec<Vec<u8>> {
        let outcomes = self.outcomes(index, entry);
        let sessions = outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Session(replies) => replies,
            _ => Vec::new(),
        });
        sessions.flatten().flat_map(|reply| in_bytes(&reply)).collect()
    }

    /// Both answer reads alike.
    fn answers(&self, reads: &[Call], other: &Self) {
        // `RANDOMKEY` and `HRANDFIELD` answer something else each time.
        for read in reads.iter().filter(|read| !read.spec().name.contains("rand")) {
            let ask = |of: &Self| {
                let mut replies = Vec::new();
                let read = of.state.sessions().read(None, std::slice::from_ref(read), &mut replies);
                assert!(read.is_ok() && replies.len() == 1, "nothing is due without an estimate");
                in_bytes(&replies[0])
            };
            assert_eq!(ask(self), ask(other), "{read:?}");
        }
    }

    /// As a node is that got a snapshot of it.
    fn restored(&self) -> State {
        let mut bytes = Vec::new();
        self.state.snapshot().write(&mut bytes).expect("memory takes all");
        State::read(&mut bytes.as_slice()).expect("what was written is read")
    }
}

fn in_bytes(reply: &Reply) -> [Vec<u8>; 2] {
    [Resp::Two, Resp::Three].map(|resp| {
        let mut bytes = Vec::new();
        Out::new(&mut bytes, resp).reply(reply);
        bytes
    })
}

/// Words that commands know, and keys that are met again.
const WORDS: [&[u8]; 48] = [
    b"a",
    b"b",
    b"h",
    b"s",
    b"n",
    b"field",
    b"member",
    b"0",
    b"1",
    b"-1",
    b"2",
    b"10",
    b"100",
    b"1000",
    b"3.5",
    b"-0.1",
    b"1e3",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"",
    b"*",
    b"?[a-z]*",
    b"[^",
    b"\\",
    b"ex",
    b"px",
    b"exat",
    b"pxat",
    b"nx",
    b"xx",
    b"gt",
    b"lt",
    b"get",
    b"keepttl",
    b"persist",
    b"count",
    b"match",
    b"type",
    b"string",
    b"db",
    b"replace",
    b"withvalues",
    b"async",
    b"help",
    b"encoding",
    b"usage",
    b"10000000",
    b"\0\xff\r\n",
];

/// A program in bytes.
struct Program<'b>(&'b [u8]);

impl Program<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// The next command; `None` at the end, and if its words are none.
    fn call(&mut self) -> Option<Call> {
        let (name, shape) = (self.byte()?, self.byte()?);
        let spec = specs().nth(usize::from(name) % specs().count())?;
        let mut argv: Vec<Bytes> = spec.name.split('|').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        // As many words as it takes at least, and some more.
        let least = usize::try_from(spec.arity.unsigned_abs()).unwrap_or(1).saturating_sub(argv.len());
        for _ in 0..least + usize::from(shape & 7) * usize::from(spec.arity < 0) {
            argv.push(self.word()?);
        }
        Call::parse(u16::from(shape >> 7), argv).ok()
    }

    fn word(&mut self) -> Option<Bytes> {
        Some(match usize::from(self.byte()?) {
            known if known < 4 * WORDS.len() => Bytes::from_static(WORDS[known % WORDS.len()]),
            // Long enough for the memory to run out.
            long if long >= 0xf8 => vec![b'v'; (long - 0xf7) << 13].into(),
            length => {
                let (word, rest) = self.0.split_at((length & 15).min(self.0.len()));
                self.0 = rest;
                Bytes::copy_from_slice(word)
            }
        })
    }
}
