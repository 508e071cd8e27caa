//! What lease datagrams say, and their bytes.
//!
//! Little-endian fields of fixed width behind a kind byte: a decoder of forty lines has fewer
//! states than a general one, never allocates more than [`ENTRIES_MAX`] entries and fits every
//! message into one unfragmented packet. Whoever has more VIPs sends more packets.
//!
//! Not here: who sent it and whether to believe it ([`super::link`]).

use crate::{
    ids::{Boot, LogIndex, NodeId, VipId},
    lease::Epoch,
};

/// Most entries in one message: 32 of the longest are below 1300 bytes.
pub(super) const ENTRIES_MAX: usize = 32;

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
    /// With more than [`ENTRIES_MAX`] entries: the sender has to split.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello => out.push(0),
            Self::Ask(ask) => {
                out.push(1);
                put(out, ask.round);
                put(out, ask.membership.get());
                put(out, ask.right);
                put(out, ask.heard_age);
                put_all(out, &ask.wants, |out, want| {
                    put_vip(out, want.vip);
                    out.push(u8::from(want.claim.is_some()) | u8::from(want.released.is_some()) << 1);
                    if let Some(epoch) = want.claim {
                        put(out, epoch.get());
                    }
                    if let Some(released) = want.released {
                        put_holding(out, released);
                    }
                });
            }
            Self::Answer(answer) => {
                out.push(2);
                put(out, answer.round);
                put(out, answer.membership.get());
                put(out, answer.last.get());
                put(out, answer.applied.get());
                put_all(out, &answer.words, |out, word| {
                    put_vip(out, word.vip);
                    put_stance(out, word.stance);
                });
            }
            Self::Release(releases) => {
                out.push(3);
                put_all(out, releases, |out, release| {
                    put_vip(out, release.vip);
                    put(out, release.epoch.get());
                    put(out, release.successor.map_or(0, NodeId::get));
                });
            }
            Self::Offer(offers) | Self::Accept(offers) => {
                out.push(if matches!(self, Self::Offer(_)) { 4 } else { 5 });
                put_all(out, offers, |out, offer| {
                    put_vip(out, offer.vip);
                    put(out, offer.epoch.get());
                });
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
                words: reader.all(|r| Ok(Word { vip: r.vip()?, stance: r.stance()? }))?,
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

fn put_stance(out: &mut Vec<u8>, stance: Stance) {
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
            put_holding(out, by);
            put(out, remaining);
        }
        Stance::Quiet { remaining } => {
            out.push(3);
            put(out, remaining);
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

fn put_all<T>(out: &mut Vec<u8>, items: &[T], each: impl Fn(&mut Vec<u8>, &T)) {
    assert!(items.len() <= ENTRIES_MAX, "{} entries in one lease datagram", items.len());
    out.push(items.len() as u8);
    for item in items {
        each(out, item);
    }
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

    fn stance(&mut self) -> Result<Stance, Malformed> {
        Ok(match self.u8()? {
            0 => Stance::Granted { epoch: self.epoch()? },
            1 => Stance::Free { highest: self.epoch()? },
            2 => Stance::Taken { by: self.holding()?, remaining: self.u64()? },
            3 => Stance::Quiet { remaining: self.u64()? },
            4 => Stance::LowEpoch { highest: self.epoch()? },
            5 => Stance::Deaf,
            6 => Stance::StaleMembership,
            7 => Stance::TooLong,
            _ => return Err(Malformed),
        })
    }

    fn all<T>(&mut self, each: impl Fn(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
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

    fn stance() -> impl Strategy<Value = Stance> {
        prop_oneof![
            any::<u64>().prop_map(|e| Stance::Granted { epoch: Epoch::new(e) }),
            any::<u64>().prop_map(|e| Stance::Free { highest: Epoch::new(e) }),
            (holding(), any::<u64>()).prop_map(|(by, remaining)| Stance::Taken { by, remaining }),
            any::<u64>().prop_map(|remaining| Stance::Quiet { remaining }),
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

    fn message() -> impl Strategy<Value = Message> {
        let want = (any::<u32>(), any::<Option<u64>>(), prop::option::of(holding()))
            .prop_map(|(v, claim, released)| Want { vip: VipId::new(v), claim: claim.map(Epoch::new), released });
        let ask = (any::<(u64, u64, u64, u64)>(), prop::collection::vec(want, 0..=ENTRIES_MAX)).prop_map(
            |((round, membership, right, heard_age), wants)| {
                Message::Ask(Ask { round, membership: LogIndex::new(membership), right, heard_age, wants })
            },
        );
        let word = (any::<u32>(), stance()).prop_map(|(v, stance)| Word { vip: VipId::new(v), stance });
        let answer = (any::<(u64, u64, u64, u64)>(), prop::collection::vec(word, 0..=ENTRIES_MAX)).prop_map(
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
            prop_assert!(bytes.len() < 1350, "{} bytes do not fit one packet", bytes.len());
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
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
