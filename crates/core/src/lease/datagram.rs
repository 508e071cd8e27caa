//! What lease datagrams say, and their bytes.
//!
//! Little-endian fields of fixed width behind a kind byte: a decoder of sixty lines has fewer
//! states than a general one, never allocates more than [`ENTRIES_MAX`] entries of a kind and fits every
//! message into one unfragmented packet. Whoever has more VIPs sends more packets.
//!
//! Not here: who sent it and whether to believe it ([`super::link`]).

use smallvec::SmallVec;

use super::{
    counting::{CountsBy, TOLD_MAX},
    scope::ScopeDigest,
    summary::{HeldDigest, SUMMARIES_MAX, Summary},
    voters::VoterSets,
};
use crate::{
    ids::{Boot, EntryId, LogIndex, NodeId, Term, VipId},
    lease::Epoch,
};

/// Most entries in one message.
pub(super) const ENTRIES_MAX: usize = 96;

/// Most bytes that the entries of one message take, so that it fits into one packet, also on a tunnel.
const ENTRIES_BYTES_MAX: usize = 1280;

/// Most voter sets that are told: Raft's configuration has one, or two while it is joint.
const SETS_MAX: usize = 2;

/// Most voters of one set that is told. The words of a voter that refuses are short, so that this fits beside them.
const VOTERS_MAX: usize = 31;

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
    Accept(Vec<Acceptance>),
}

/// A round of questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// Counts rounds within a life of the sender.
    pub round: u64,
    /// Memberships that the sender counts majorities by.
    pub counts_by: CountsBy,
    /// How long the sender's rights last.
    pub right: u64,
    /// Age of the newest round that a majority answered, on the sender's clock.
    pub heard_age: u64,
    /// It wants to be told in short what others hold, too.
    pub summaries: bool,
    /// What it wants of each VIP.
    pub wants: Vec<Want>,
}

/// What a node wants of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub vip: VipId,
    /// The addresses that the asker knows it by.
    pub scope: ScopeDigest,
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
    pub membership: EntryId,
    /// What it says of what the asker counts by.
    pub verdict: Verdict,
    /// Last entry in the voter's log.
    pub last: LogIndex,
    /// Last entry the voter has applied.
    pub applied: LogIndex,
    /// What it has promised to whom, if the asker wants to know it and counts by the newest membership.
    pub summaries: Vec<Summary>,
    pub words: Vec<Word>,
}

impl Answer {
    /// The same in as many messages as it takes for each to fit into one packet. There is always one.
    pub(super) fn parts(self) -> Vec<Self> {
        let mut parts: Vec<Self> = word_parts(&self.words, self.summaries.len() * SUMMARY_BYTES)
            .into_iter()
            .map(|words| Self { verdict: self.verdict.clone(), summaries: Vec::new(), words: words.to_vec(), ..self })
            .collect();
        parts[0].summaries = self.summaries;
        parts
    }
}

/// What a voter makes of the memberships that an asker counts by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They are enough.
    Enough,
    /// They are not: the voter knows of one with these voter sets.
    News(VoterSets),
    /// They are not, and the voter cannot tell the sets: it knows only that there are some, or they are too large.
    Stale,
}

impl Verdict {
    /// What to say of `sets`, as far as it fits.
    pub(super) fn news(sets: &VoterSets) -> Self {
        let fits = (1..=SETS_MAX).contains(&sets.each().len()) && sets.each().all(|set| set.len() <= VOTERS_MAX);
        if fits { Self::News(sets.clone()) } else { Self::Stale }
    }
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
    /// Promised to you under this epoch, with these addresses: all that were asked for, or those that you were promised
    /// before while others are promised to somebody else.
    Granted { epoch: Epoch, scope: ScopeDigest },
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
    /// You do not count by the newest membership that I know.
    StaleMembership,
    /// Your right is longer than any that I grant.
    TooLong { longest: u64 },
    /// I know the VIP by other addresses, or not at all: one of us has not applied the last change.
    OtherAddresses,
    /// An address of it is promised to another, as another VIP's or from when the VIP had it before.
    AddressTaken { remaining: u64 },
}

/// A lease given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The VIP.
    pub vip: VipId,
    /// Under this epoch.
    pub epoch: Epoch,
    /// Who said it would take over, and may do so at once.
    pub successor: Option<NodeId>,
}

/// A lease offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub vip: VipId,
    pub epoch: Epoch,
    /// The addresses that the owner knows it by: who knows it by others could not take it.
    pub scope: ScopeDigest,
    /// It is for a node that had rather not have it, too.
    pub to_reluctant: bool,
}

/// An offer that would be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acceptance {
    pub vip: VipId,
    pub epoch: Epoch,
    /// If nobody else takes it: the sender can hold it and had rather not.
    pub reluctant: bool,
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
                put_counts_by(out, &ask.counts_by);
                put(out, ask.right);
                put(out, ask.heard_age);
                out.push(u8::from(ask.summaries));
                put_all(out, &ask.wants);
            }
            Self::Answer(answer) => {
                out.push(2);
                put(out, answer.round);
                put_entry(out, answer.membership);
                put_verdict(out, &answer.verdict);
                put(out, answer.last.get());
                put(out, answer.applied.get());
                put_summaries(out, &answer.summaries);
                put_words(out, &answer.words);
            }
            Self::Release(releases) => {
                out.push(3);
                put_all(out, releases);
            }
            Self::Offer(offers) => {
                out.push(4);
                put_all(out, offers);
            }
            Self::Accept(accepted) => {
                out.push(5);
                put_all(out, accepted);
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
                counts_by: reader.counts_by()?,
                right: reader.u64()?,
                heard_age: reader.u64()?,
                summaries: reader.bool()?,
                wants: reader.all(|r| {
                    let vip = r.vip()?;
                    let flags = r.u8()?;
                    if flags > 3 {
                        return Err(Malformed);
                    }
                    let scope = r.scope()?;
                    let claim = if flags & 1 != 0 { Some(r.epoch()?) } else { None };
                    let released = if flags & 2 != 0 { Some(r.holding()?) } else { None };
                    Ok(Want { vip, scope, claim, released })
                })?,
            }),
            2 => Self::Answer(Answer {
                round: reader.u64()?,
                membership: reader.entry()?,
                verdict: reader.verdict()?,
                last: LogIndex::new(reader.u64()?),
                applied: LogIndex::new(reader.u64()?),
                summaries: reader.up_to(SUMMARIES_MAX, Reader::summary)?,
                words: reader.words()?,
            }),
            3 => Self::Release(reader.all(|r| {
                let (vip, epoch, successor) = (r.vip()?, r.epoch()?, r.u64()?);
                Ok(Release { vip, epoch, successor: (successor != 0).then_some(NodeId::new(successor)) })
            })?),
            4 => Self::Offer(reader.all(Reader::offer)?),
            5 => Self::Accept(reader.all(Reader::acceptance)?),
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
        put(out, self.scope.get());
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
        put(out, self.scope.get());
        out.push(u8::from(self.to_reluctant));
    }
}

impl Entry for Acceptance {
    fn encode(&self, out: &mut Vec<u8>) {
        put_vip(out, self.vip);
        put(out, self.epoch.get());
        out.push(u8::from(self.reluctant));
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

/// Bytes of a summary.
const SUMMARY_BYTES: usize = 8 + 8 + 8 + 4;
const _: () = assert!(SUMMARIES_MAX * SUMMARY_BYTES <= ENTRIES_BYTES_MAX / 4 * 3);

impl Word {
    /// Bytes without what it adds to the table of holders.
    fn bytes(&self) -> usize {
        let stance = match self.stance {
            Stance::Granted { .. } => 8 + 8,
            Stance::Free { .. } | Stance::LowEpoch { .. } | Stance::TooLong { .. } => 8,
            Stance::Taken { .. } => 1 + 8 + 4,
            Stance::Quiet { .. } | Stance::AddressTaken { .. } => 4,
            Stance::Deaf | Stance::StaleMembership | Stance::OtherAddresses => 0,
        };
        4 + 1 + stance
    }

    /// Bytes with what it adds to the table of holders.
    fn added(&self, holders: &mut Holders) -> usize {
        let new = matches!(self.stance, Stance::Taken { by, .. } if holders.place(by).1);
        self.bytes() + if new { HOLDER_BYTES } else { 0 }
    }
}

/// As [`parts`], for the words of an answer, in the first of which so many bytes are taken.
fn word_parts(words: &[Word], taken: usize) -> Vec<&[Word]> {
    let (mut parts, mut holders) = (Vec::with_capacity(1), Holders::default());
    let (mut first, mut bytes) = (0, taken);
    for (position, word) in words.iter().enumerate() {
        bytes += word.added(&mut holders);
        if bytes > ENTRIES_BYTES_MAX || position - first == ENTRIES_MAX {
            parts.push(&words[first..position]);
            holders = Holders::default();
            (first, bytes) = (position, word.added(&mut holders));
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

fn put_entry(out: &mut Vec<u8>, entry: EntryId) {
    put(out, entry.term.get());
    put(out, entry.index.get());
}

fn put_counts_by(out: &mut Vec<u8>, by: &CountsBy) {
    put_entry(out, by.own);
    out.push(by.told.len() as u8);
    by.told.iter().for_each(|told| put_entry(out, *told));
}

/// The number of sets, none if the verdict has none to tell; then each with the number of its members.
fn put_verdict(out: &mut Vec<u8>, verdict: &Verdict) {
    match verdict {
        Verdict::Enough => out.push(0),
        Verdict::Stale => out.push(u8::MAX),
        Verdict::News(sets) => {
            out.push(sets.each().len() as u8);
            for set in sets.each() {
                out.push(set.len() as u8);
                set.iter().for_each(|voter| put(out, voter.get()));
            }
        }
    }
}

/// Lengths of time go in microseconds, rounded up: what is foretold is only when to ask again.
fn put_micros(out: &mut Vec<u8>, nanos: u64) {
    let micros = u32::try_from(nanos.div_ceil(1000)).unwrap_or(u32::MAX);
    out.extend_from_slice(&micros.to_le_bytes());
}

/// # Panics
/// With more than [`SUMMARIES_MAX`].
fn put_summaries(out: &mut Vec<u8>, summaries: &[Summary]) {
    assert!(summaries.len() <= SUMMARIES_MAX, "{} summaries in one lease datagram", summaries.len());
    out.push(summaries.len() as u8);
    for summary in summaries {
        put(out, summary.node.get());
        put(out, summary.boot.0);
        put(out, summary.held.get());
        put_micros(out, summary.remaining);
    }
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
        Stance::Granted { epoch, scope } => {
            out.push(0);
            put(out, epoch.get());
            put(out, scope.get());
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
        Stance::TooLong { longest } => {
            out.push(7);
            put(out, longest);
        }
        Stance::OtherAddresses => out.push(8),
        Stance::AddressTaken { remaining } => {
            out.push(9);
            put_micros(out, remaining);
        }
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

    fn entry(&mut self) -> Result<EntryId, Malformed> {
        Ok(EntryId { term: Term::new(self.u64()?), index: LogIndex::new(self.u64()?) })
    }

    fn counts_by(&mut self) -> Result<CountsBy, Malformed> {
        let own = self.entry()?;
        let told = self.up_to(TOLD_MAX, Self::entry)?.into();
        Ok(CountsBy { own, told })
    }

    /// Refuses sets that [`VoterSets`] would have put otherwise: one message has one encoding.
    fn verdict(&mut self) -> Result<Verdict, Malformed> {
        let count = match self.u8()? {
            0 => return Ok(Verdict::Enough),
            u8::MAX => return Ok(Verdict::Stale),
            count if usize::from(count) <= SETS_MAX => count,
            _ => return Err(Malformed),
        };
        let set = |reader: &mut Self| reader.up_to(VOTERS_MAX, |r| r.u64().map(NodeId::new));
        let told = (0..count).map(|_| set(self)).collect::<Result<Vec<Vec<NodeId>>, Malformed>>()?;
        let sets = VoterSets::new(told.iter().map(|set| set.iter().copied()));
        if sets.each().eq(told.iter().map(Vec::as_slice)) { Ok(Verdict::News(sets)) } else { Err(Malformed) }
    }

    fn holding(&mut self) -> Result<Holding, Malformed> {
        Ok(Holding { node: NodeId::new(self.u64()?), boot: Boot(self.u64()?), epoch: self.epoch()? })
    }

    fn summary(&mut self) -> Result<Summary, Malformed> {
        Ok(Summary {
            node: NodeId::new(self.u64()?),
            boot: Boot(self.u64()?),
            held: HeldDigest::new(self.u64()?),
            remaining: self.nanos()?,
        })
    }

    fn offer(&mut self) -> Result<Offer, Malformed> {
        let (vip, epoch, scope) = (self.vip()?, self.epoch()?, self.scope()?);
        Ok(Offer { vip, epoch, scope, to_reluctant: self.bool()? })
    }

    fn acceptance(&mut self) -> Result<Acceptance, Malformed> {
        Ok(Acceptance { vip: self.vip()?, epoch: self.epoch()?, reluctant: self.bool()? })
    }

    fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn scope(&mut self) -> Result<ScopeDigest, Malformed> {
        self.u64().map(ScopeDigest::new)
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
            0 => Stance::Granted { epoch: self.epoch()?, scope: self.scope()? },
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
            7 => Stance::TooLong { longest: self.u64()? },
            8 => Stance::OtherAddresses,
            9 => Stance::AddressTaken { remaining: self.nanos()? },
            _ => return Err(Malformed),
        })
    }

    fn all<T>(&mut self, each: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        self.up_to(ENTRIES_MAX, each)
    }

    fn up_to<T>(
        &mut self,
        most: usize,
        mut each: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = usize::from(self.u8()?);
        if count > most {
            return Err(Malformed);
        }
        (0..count).map(|_| each(self)).collect()
    }
}

#[cfg(test)]
mod tests;
