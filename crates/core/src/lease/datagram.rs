//! What lease datagrams say, and their bytes.
//!
//! Little-endian fields of fixed width behind a kind byte: a decoder of sixty lines has fewer
//! states than a general one, never allocates more than [`ENTRIES_MAX`] entries and fits every
//! message into one unfragmented packet. Whoever has more VIPs sends more packets.
//!
//! Not here: who sent it and whether to believe it ([`super::link`]).

use smallvec::SmallVec;

use crate::{
    ids::{Boot, LogIndex, NodeId, VipId},
    lease::Epoch,
};

/// Most entries in one message.
pub(super) const ENTRIES_MAX: usize = 96;

/// Most bytes that the entries of one message take, so that it fits into one packet, also on a tunnel.
const ENTRIES_BYTES_MAX: usize = 1280;

/// What one node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Nothing but "this is my life and yours".
    Hello,
    /// A round of questions to a voter.
    Ask(Ask),
    /// A voter's answer.
    Answer(Answer),
    /// The sender's gates are closed and stay so under these epochs.
    Release(Vec<Release>),
    /// Would you take these VIPs?
    Offer(Vec<Offer>),
    /// I would.
    Accept(Vec<Offer>),
}

/// A round of questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// Counts rounds within a life of the sender.
    pub round: u64,
    /// Membership that the sender counts majorities by.
    pub membership: LogIndex,
    /// How long the sender's rights last.
    pub right: u64,
    /// Age of the newest round that a majority answered, on the sender's clock.
    pub heard_age: u64,
    /// What it wants of each VIP.
    pub wants: Vec<Want>,
}

/// What a node wants of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub vip: VipId,
    /// The epoch it claims or renews; nothing if it only asks whether it could win.
    pub claim: Option<Epoch>,
    /// A release it has heard of, passed on in case the voter has not.
    pub released: Option<Holding>,
}

/// A VIP's lease in somebody's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    pub node: NodeId,
    pub boot: Boot,
    pub epoch: Epoch,
}

/// A voter's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The round it answers.
    pub round: u64,
    /// Newest membership in the voter's log.
    pub membership: LogIndex,
    /// Last entry in the voter's log.
    pub last: LogIndex,
    /// Last entry the voter has applied.
    pub applied: LogIndex,
    pub words: Vec<Word>,
}

/// A voter's word on one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub vip: VipId,
    pub stance: Stance,
}

/// What a voter says to a want. Lengths of time are on the voter's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    /// Promised to you under this epoch.
    Granted { epoch: Epoch },
    /// It could be yours.
    Free { highest: Epoch },
    /// It is promised to another.
    Taken { by: Holding, remaining: u64 },
    /// I have just started.
    Quiet { remaining: u64 },
    /// I know of a higher epoch.
    LowEpoch { highest: Epoch },
    /// You hear nobody.
    Deaf,
    /// You count by an older membership than I know.
    StaleMembership,
    /// Your right is longer than any in force.
    TooLong,
}

/// A lease given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Release {
    pub vip: VipId,
    pub epoch: Epoch,
    /// Who said it would take over, and may do so at once.
    pub successor: Option<NodeId>,
}

/// A lease offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub vip: VipId,
    pub epoch: Epoch,
}

/// The bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Message {
    /// Appends the message's bytes.
    ///
    /// # Panics
    /// With more than [`ENTRIES_MAX`] entries: the sender has to split ([`parts`]).
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello => out.push(0),
            Self::Ask(ask) => {
                out.push(1);
                put(out, ask.round);
                put(out, ask.membership.get());
                put(out, ask.right);
                put(out, ask.heard_age);
                put_all(out, &ask.wants);
            }
            Self::Answer(answer) => {
                out.push(2);
                put(out, answer.round);
                put(out, answer.membership.get());
                put(out, answer.last.get());
                put(out, answer.applied.get());
                put_words(out, &answer.words);
            }
            Self::Release(releases) => {
                out.push(3);
                put_all(out, releases);
            }
            Self::Offer(offers) | Self::Accept(offers) => {
                out.push(if matches!(self, Self::Offer(_)) { 4 } else { 5 });
                put_all(out, offers);
            }
        }
    }

    /// Reads a message that takes up all of `bytes`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let message = match reader.u8()? {
            0 => Self::Hello,
            1 => Self::Ask(Ask {
                round: reader.u64()?,
                membership: LogIndex::new(reader.u64()?),
                right: reader.u64()?,
                heard_age: reader.u64()?,
                wants: reader.all(|r| {
                    let vip = r.vip()?;
                    let flags = r.u8()?;
                    if flags > 3 {
                        return Err(Malformed);
                    }
                    let claim = if flags & 1 != 0 { Some(r.epoch()?) } else { None };
                    let released = if flags & 2 != 0 { Some(r.holding()?) } else { None };
                    Ok(Want { vip, claim, released })
                })?,
            }),
            2 => Self::Answer(Answer {
                round: reader.u64()?,
                membership: LogIndex::new(reader.u64()?),
                last: LogIndex::new(reader.u64()?),
                applied: LogIndex::new(reader.u64()?),
                words: reader.words()?,
            }),
            3 => Self::Release(reader.all(|r| {
                let (vip, epoch, successor) = (r.vip()?, r.epoch()?, r.u64()?);
                Ok(Release { vip, epoch, successor: (successor != 0).then_some(NodeId::new(successor)) })
            })?),
            4 => Self::Offer(reader.all(Reader::offer)?),
            5 => Self::Accept(reader.all(Reader::offer)?),
            _ => return Err(Malformed),
        };
        if reader.0.is_empty() { Ok(message) } else { Err(Malformed) }
    }
}

/// What has bytes of its own in a message of many.
pub(super) trait Entry {
    fn encode(&self, out: &mut Vec<u8>);
}

impl Entry for Want {
    fn encode(&self, out: &mut Vec<u8>) {
        put_vip(out, self.vip);
        out.push(u8::from(self.claim.is_some()) | u8::from(self.released.is_some()) << 1);
        if let Some(epoch) = self.claim {
            put(out, epoch.get());
        }
        if let Some(released) = self.released {
            put_holding(out, released);
        }
    }
}

impl Entry for Release {
    fn encode(&self, out: &mut Vec<u8>) {
        put_vip(out, self.vip);
        put(out, self.epoch.get());
        put(out, self.successor.map_or(0, NodeId::get));
    }
}

impl Entry for Offer {
    fn encode(&self, out: &mut Vec<u8>) {
        put_vip(out, self.vip);
        put(out, self.epoch.get());
    }
}

/// The lives of nodes that words tell of, each written once: two hundred VIPs have few owners.
#[derive(Default)]
struct Holders(SmallVec<[(NodeId, Boot); 8]>);

impl Holders {
    /// Its place in the table, and whether it is new there.
    fn place(&mut self, by: Holding) -> (usize, bool) {
        let who = (by.node, by.boot);
        if let Some(known) = self.0.iter().position(|known| *known == who) {
            return (known, false);
        }
        self.0.push(who);
        (self.0.len() - 1, true)
    }
}

/// Bytes of a holder in the table of an answer.
const HOLDER_BYTES: usize = 16;

impl Word {
    /// Bytes without what it adds to the table of holders.
    fn bytes(&self) -> usize {
        let stance = match self.stance {
            Stance::Granted { .. } | Stance::Free { .. } | Stance::LowEpoch { .. } => 8,
            Stance::Taken { .. } => 1 + 8 + 4,
            Stance::Quiet { .. } => 4,
            Stance::Deaf | Stance::StaleMembership | Stance::TooLong => 0,
        };
        4 + 1 + stance
    }
}

/// As [`parts`], for the words of an answer.
pub(super) fn word_parts(words: &[Word]) -> Vec<&[Word]> {
    let (mut parts, mut holders) = (Vec::with_capacity(1), Holders::default());
    let (mut first, mut bytes) = (0, 0);
    for (position, word) in words.iter().enumerate() {
        let added = |holders: &mut Holders| {
            let new = matches!(word.stance, Stance::Taken { by, .. } if holders.place(by).1);
            word.bytes() + if new { HOLDER_BYTES } else { 0 }
        };
        bytes += added(&mut holders);
        if bytes > ENTRIES_BYTES_MAX || position - first == ENTRIES_MAX {
            parts.push(&words[first..position]);
            holders = Holders::default();
            (first, bytes) = (position, added(&mut holders));
        }
    }
    parts.push(&words[first..]);
    parts
}

/// Splits entries so that each part fits into one message. There is always one part, if only an empty one.
pub(super) fn parts<T: Entry>(entries: &[T]) -> Vec<&[T]> {
    let (mut parts, mut bytes) = (Vec::with_capacity(1), Vec::with_capacity(ENTRIES_BYTES_MAX));
    let mut first = 0;
    for (position, entry) in entries.iter().enumerate() {
        entry.encode(&mut bytes);
        if bytes.len() > ENTRIES_BYTES_MAX || position - first == ENTRIES_MAX {
            parts.push(&entries[first..position]);
            bytes.clear();
            entry.encode(&mut bytes);
            first = position;
        }
    }
    parts.push(&entries[first..]);
    parts
}

fn put(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_vip(out: &mut Vec<u8>, vip: VipId) {
    out.extend_from_slice(&vip.get().to_le_bytes());
}

fn put_holding(out: &mut Vec<u8>, holding: Holding) {
    put(out, holding.node.get());
    put(out, holding.boot.0);
    put(out, holding.epoch.get());
}

/// Lengths of time go in microseconds, rounded up: what is foretold is only when to ask again.
fn put_micros(out: &mut Vec<u8>, nanos: u64) {
    let micros = u32::try_from(nanos.div_ceil(1000)).unwrap_or(u32::MAX);
    out.extend_from_slice(&micros.to_le_bytes());
}

fn put_words(out: &mut Vec<u8>, words: &[Word]) {
    let mut holders = Holders::default();
    let mut body = Vec::with_capacity(words.iter().map(Word::bytes).sum());
    for word in words {
        put_vip(&mut body, word.vip);
        put_stance(&mut body, word.stance, &mut holders);
    }
    out.push(holders.0.len() as u8);
    for (node, boot) in holders.0 {
        put(out, node.get());
        put(out, boot.0);
    }
    out.push(count_of(words));
    out.extend_from_slice(&body);
}

fn put_stance(out: &mut Vec<u8>, stance: Stance, holders: &mut Holders) {
    match stance {
        Stance::Granted { epoch } => {
            out.push(0);
            put(out, epoch.get());
        }
        Stance::Free { highest } => {
            out.push(1);
            put(out, highest.get());
        }
        Stance::Taken { by, remaining } => {
            out.push(2);
            out.push(holders.place(by).0 as u8);
            put(out, by.epoch.get());
            put_micros(out, remaining);
        }
        Stance::Quiet { remaining } => {
            out.push(3);
            put_micros(out, remaining);
        }
        Stance::LowEpoch { highest } => {
            out.push(4);
            put(out, highest.get());
        }
        Stance::Deaf => out.push(5),
        Stance::StaleMembership => out.push(6),
        Stance::TooLong => out.push(7),
    }
}

/// The number of entries, as it stands before them.
fn count_of<T>(entries: &[T]) -> u8 {
    assert!(entries.len() <= ENTRIES_MAX, "{} entries in one lease datagram", entries.len());
    entries.len() as u8
}

fn put_all<T: Entry>(out: &mut Vec<u8>, entries: &[T]) {
    out.push(count_of(entries));
    entries.iter().for_each(|entry| entry.encode(out));
}

/// Takes fields off the front of a slice.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn vip(&mut self) -> Result<VipId, Malformed> {
        self.array().map(|bytes| VipId::new(u32::from_le_bytes(bytes)))
    }

    fn epoch(&mut self) -> Result<Epoch, Malformed> {
        self.u64().map(Epoch::new)
    }

    fn holding(&mut self) -> Result<Holding, Malformed> {
        Ok(Holding { node: NodeId::new(self.u64()?), boot: Boot(self.u64()?), epoch: self.epoch()? })
    }

    fn offer(&mut self) -> Result<Offer, Malformed> {
        Ok(Offer { vip: self.vip()?, epoch: self.epoch()? })
    }

    fn nanos(&mut self) -> Result<u64, Malformed> {
        self.array().map(|bytes| u64::from(u32::from_le_bytes(bytes)) * 1000)
    }

    /// Refuses a table of holders that [`put_words`] would not have made: one message has one encoding.
    fn words(&mut self) -> Result<Vec<Word>, Malformed> {
        let holders = self.all(|r| Ok((NodeId::new(r.u64()?), Boot(r.u64()?))))?;
        let mut told = Holders::default();
        let words = self.all(|r| Ok(Word { vip: r.vip()?, stance: r.stance(&holders, &mut told)? }))?;
        if told.0.as_slice() == holders { Ok(words) } else { Err(Malformed) }
    }

    fn stance(&mut self, holders: &[(NodeId, Boot)], told: &mut Holders) -> Result<Stance, Malformed> {
        Ok(match self.u8()? {
            0 => Stance::Granted { epoch: self.epoch()? },
            1 => Stance::Free { highest: self.epoch()? },
            2 => {
                let place = usize::from(self.u8()?);
                let (node, boot) = *holders.get(place).ok_or(Malformed)?;
                let by = Holding { node, boot, epoch: self.epoch()? };
                if told.place(by).0 != place {
                    return Err(Malformed);
                }
                Stance::Taken { by, remaining: self.nanos()? }
            }
            3 => Stance::Quiet { remaining: self.nanos()? },
            4 => Stance::LowEpoch { highest: self.epoch()? },
            5 => Stance::Deaf,
            6 => Stance::StaleMembership,
            7 => Stance::TooLong,
            _ => return Err(Malformed),
        })
    }

    fn all<T>(&mut self, mut each: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let count = usize::from(self.u8()?);
        if count > ENTRIES_MAX {
            return Err(Malformed);
        }
        (0..count).map(|_| each(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holding() -> impl Strategy<Value = Holding> {
        any::<(u64, u64, u64)>().prop_map(|(node, boot, epoch)| Holding {
            node: NodeId::new(node),
            boot: Boot(boot),
            epoch: Epoch::new(epoch),
        })
    }

    /// As far as microseconds in 32 bits reach.
    fn nanos() -> impl Strategy<Value = u64> {
        any::<u32>().prop_map(|micros| u64::from(micros) * 1000)
    }

    fn stance() -> impl Strategy<Value = Stance> {
        prop_oneof![
            any::<u64>().prop_map(|e| Stance::Granted { epoch: Epoch::new(e) }),
            any::<u64>().prop_map(|e| Stance::Free { highest: Epoch::new(e) }),
            (holding(), nanos()).prop_map(|(by, remaining)| Stance::Taken { by, remaining }),
            nanos().prop_map(|remaining| Stance::Quiet { remaining }),
            any::<u64>().prop_map(|e| Stance::LowEpoch { highest: Epoch::new(e) }),
            Just(Stance::Deaf),
            Just(Stance::StaleMembership),
            Just(Stance::TooLong),
        ]
    }

    fn offers() -> impl Strategy<Value = Vec<Offer>> {
        let offer = any::<(u32, u64)>().prop_map(|(v, e)| Offer { vip: VipId::new(v), epoch: Epoch::new(e) });
        prop::collection::vec(offer, 0..=ENTRIES_MAX)
    }

    fn word() -> impl Strategy<Value = Word> {
        (any::<u32>(), stance()).prop_map(|(v, stance)| Word { vip: VipId::new(v), stance })
    }

    fn message() -> impl Strategy<Value = Message> {
        let want = (any::<u32>(), any::<Option<u64>>(), prop::option::of(holding()))
            .prop_map(|(v, claim, released)| Want { vip: VipId::new(v), claim: claim.map(Epoch::new), released });
        let ask = (any::<(u64, u64, u64, u64)>(), prop::collection::vec(want, 0..=ENTRIES_MAX)).prop_map(
            |((round, membership, right, heard_age), wants)| {
                Message::Ask(Ask { round, membership: LogIndex::new(membership), right, heard_age, wants })
            },
        );
        let answer = (any::<(u64, u64, u64, u64)>(), prop::collection::vec(word(), 0..=ENTRIES_MAX)).prop_map(
            |((round, membership, last, applied), words)| {
                Message::Answer(Answer {
                    round,
                    membership: LogIndex::new(membership),
                    last: LogIndex::new(last),
                    applied: LogIndex::new(applied),
                    words,
                })
            },
        );
        let release = any::<(u32, u64, u64)>().prop_map(|(v, e, successor)| Release {
            vip: VipId::new(v),
            epoch: Epoch::new(e),
            successor: (successor != 0).then_some(NodeId::new(successor)),
        });
        prop_oneof![
            Just(Message::Hello),
            ask,
            answer,
            prop::collection::vec(release, 0..=ENTRIES_MAX).prop_map(Message::Release),
            offers().prop_map(Message::Offer),
            offers().prop_map(Message::Accept),
        ]
    }

    proptest! {
        #[test]
        fn a_message_survives_its_bytes(message in message()) {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
        }

        #[test]
        fn parts_are_all_that_there_is_in_its_order_and_each_fits_one_packet(
            words in prop::collection::vec(word(), 0..300),
        ) {
            let parts = word_parts(&words);
            prop_assert_eq!(parts.concat(), words.clone());
            prop_assert!(parts.iter().skip(1).all(|part| !part.is_empty()));
            for part in parts {
                let (none, words) = (LogIndex::new(0), part.to_vec());
                let answer = Answer { round: 0, membership: none, last: none, applied: none, words };
                let mut bytes = Vec::new();
                Message::Answer(answer).encode(&mut bytes);
                prop_assert!(bytes.len() < 1350, "{} bytes do not fit one packet", bytes.len());
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_malformed(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            if let Ok(message) = Message::decode(&bytes) {
                let mut again = Vec::new();
                message.encode(&mut again);
                prop_assert_eq!(again, bytes, "one message, one encoding");
            }
        }

        #[test]
        fn a_cut_or_changed_message_is_never_a_panic(message in message(), cut in any::<prop::sample::Index>(), flip in any::<u8>()) {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            let at = cut.index(bytes.len());
            prop_assert_eq!(Message::decode(&bytes[..at]), Err(Malformed));
            bytes[at] ^= flip;
            let _ = Message::decode(&bytes);
        }
    }
}
