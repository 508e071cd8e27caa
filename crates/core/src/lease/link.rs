//! Who sent a datagram, to whom, and whether it was seen before.
//!
//! Every datagram carries a BLAKE3 keyed MAC under the cluster's lease key, over the cluster's id,
//! the receiver's id and all bytes, so that nobody else can make one and none can be turned on
//! another node or cluster.
//!
//! A recorded datagram must not work twice. Within a life of the sender a sequence number and a
//! window see to that. Across lives it is the pair (`to_boot`, `ack`): a datagram is believed only
//! if it names the receiver's present life, and an unknown life of the sender is adopted only once
//! it acknowledges something that the receiver sent *after* it first met an unknown life. What was
//! recorded earlier cannot.
//!
//! Not here: what the messages mean ([`super::engine`]).

use std::collections::BTreeMap;

use super::{
    datagram::{Malformed, Message, Reader},
    view::LeaseKeys,
};
use crate::ids::{Boot, NodeId};

/// First bytes of each datagram; the last is the version.
const MAGIC: [u8; 3] = [b'B', b'L', 6];
const HEADER_BYTES: usize = 3 + 5 * 8;
const MAC_BYTES: usize = 16;
/// Longest datagram that is looked at: a packet on Ethernet.
pub(super) const DATAGRAM_BYTES_MAX: usize = 1472;
/// What is left of it for the message.
const MESSAGE_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES - MAC_BYTES;

/// Seals and opens this node's datagrams.
pub(super) struct Links {
    node: NodeId,
    boot: Boot,
    /// The one that seals, then others that open.
    keys: [Option<[u8; 32]>; 3],
    cluster: String,
    /// The highest of all peers': a peer that comes anew is counted from there, should it remember this life.
    seq: u64,
    peers: BTreeMap<NodeId, Peer>,
}

/// What is known of a peer.
#[derive(Clone, Default)]
struct Peer {
    /// Of the last datagram for it. Counted for each peer alone, so that what others are told does not use up its window.
    seq: u64,
    /// The life that is believed.
    adopted: Option<(Boot, Window)>,
    /// Our sequence number when an unknown life first spoke; a new life must acknowledge one from then on.
    floor: Option<u64>,
}

/// A message's bytes, which are sealed for each of those that it is for.
pub(super) struct Encoded(Vec<u8>);

impl Encoded {
    pub(super) fn of(message: &Message) -> Self {
        let mut bytes = Vec::with_capacity(MESSAGE_BYTES_MAX);
        message.encode(&mut bytes);
        Self(bytes)
    }
}

/// What became of received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Authentic, for us, and new.
    Message { from: NodeId, boot: Boot, message: Message },
    /// Authentic, but not yet known to be new: answer with these bytes and do nothing else.
    Greet { to: NodeId, bytes: Vec<u8> },
    /// Not for us, not authentic, or seen before.
    Dropped(Dropped),
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Not a datagram of this protocol and version.
    Malformed,
    /// From a node that is not a member.
    Stranger,
    /// The MAC is wrong: other key, other cluster, other receiver, or changed on its way.
    Forged,
    /// Seen before, or too old to tell.
    Replayed,
}

impl Links {
    pub(super) fn new(node: NodeId, boot: Boot) -> Self {
        Self { node, boot, keys: [Some([0; 32]), None, None], cluster: String::new(), seq: 0, peers: BTreeMap::new() }
    }

    /// Takes over the keys and the members; who is no member is forgotten.
    pub(super) fn configure(&mut self, keys: &LeaseKeys, cluster: &str, nodes: impl Iterator<Item = NodeId>) {
        let [one, other] = keys.opens;
        self.keys = [Some(keys.seals), one, other]
            .map(|secret| secret.map(|secret| blake3::derive_key("ballast lease datagram v1", &secret)));
        cluster.clone_into(&mut self.cluster);
        let mut before = std::mem::take(&mut self.peers);
        let newcomer = Peer { seq: self.seq, ..Peer::default() };
        let mut known = |n: &NodeId| before.remove(n).unwrap_or_else(|| newcomer.clone());
        self.peers = nodes.filter(|n| *n != self.node).map(|n| (n, known(&n))).collect();
    }

    /// A datagram for `to`.
    pub(super) fn seal(&mut self, to: NodeId, message: &Message) -> Vec<u8> {
        self.seal_encoded(to, &Encoded::of(message))
    }

    /// A datagram for `to` with what is encoded, perhaps for others as well.
    pub(super) fn seal_encoded(&mut self, to: NodeId, encoded: &Encoded) -> Vec<u8> {
        let (boot, ack) = match self.peers.get(&to).and_then(|peer| peer.adopted.as_ref()) {
            Some((boot, window)) => (*boot, window.top),
            None => (Boot(0), 0),
        };
        self.seal_for(to, boot, ack, encoded)
    }

    fn seal_for(&mut self, to: NodeId, to_boot: Boot, ack: u64, encoded: &Encoded) -> Vec<u8> {
        let seq = self.next_seq(to);
        self.seq = self.seq.max(seq);
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.seq = seq;
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + encoded.0.len() + MAC_BYTES);
        bytes.extend_from_slice(&MAGIC);
        for field in [self.node.get(), self.boot.0, seq, to_boot.0, ack] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&encoded.0);
        let mac = self.keys[0].as_ref().map_or([0; MAC_BYTES], |key| self.mac(key, to, &bytes));
        bytes.extend_from_slice(&mac);
        bytes
    }

    fn next_seq(&self, to: NodeId) -> u64 {
        self.peers.get(&to).map_or(self.seq, |peer| peer.seq) + 1
    }

    fn mac(&self, key: &[u8; 32], to: NodeId, bytes: &[u8]) -> [u8; MAC_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&(self.cluster.len() as u64).to_le_bytes());
        hasher.update(self.cluster.as_bytes());
        hasher.update(&to.get().to_le_bytes());
        hasher.update(bytes);
        let mut mac = [0; MAC_BYTES];
        hasher.finalize_xof().fill(&mut mac);
        mac
    }

    fn is_sealed(&self, key: &[u8; 32], signed: &[u8], mac: &[u8; MAC_BYTES]) -> bool {
        // Compared without a branch on the first difference, so that timing tells nothing of the MAC.
        self.mac(key, self.node, signed).iter().zip(mac).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
    }

    /// Judges received bytes.
    pub(super) fn open(&mut self, bytes: &[u8]) -> Opened {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return Opened::Dropped(Dropped::Malformed);
        }
        let Some((signed, mac)) = bytes.split_last_chunk::<MAC_BYTES>() else {
            return Opened::Dropped(Dropped::Malformed);
        };
        let Ok(Header { from, boot, seq, to_boot, ack }) = Header::read(signed) else {
            return Opened::Dropped(Dropped::Malformed);
        };
        if !self.peers.contains_key(&from) {
            return Opened::Dropped(Dropped::Stranger);
        }
        if !self.keys.iter().flatten().any(|key| self.is_sealed(key, signed, mac)) {
            return Opened::Dropped(Dropped::Forged);
        }
        let Ok(message) = Message::decode(&signed[HEADER_BYTES..]) else {
            return Opened::Dropped(Dropped::Malformed);
        };

        let next_seq = self.next_seq(from);
        let peer = self.peers.entry(from).or_default();
        if let Some((known, window)) = &mut peer.adopted
            && *known == boot
        {
            if to_boot == self.boot {
                let new = window.take(seq);
                return if new { Opened::Message { from, boot, message } } else { Opened::Dropped(Dropped::Replayed) };
            }
        } else {
            // A peer never met in this life of ours has nothing to replay but what it said to this
            // life, which harms nobody; after that a life must prove to be newer.
            let floor = *peer.floor.get_or_insert(if peer.adopted.is_none() { 0 } else { next_seq });
            if to_boot == self.boot && ack >= floor {
                let mut window = Window::default();
                window.take(seq);
                peer.adopted = Some((boot, window));
                peer.floor = None;
                return Opened::Message { from, boot, message };
            }
        }
        let bytes = self.seal_for(from, boot, seq, &Encoded::of(&Message::Hello));
        Opened::Greet { to: from, bytes }
    }
}

struct Header {
    from: NodeId,
    boot: Boot,
    seq: u64,
    to_boot: Boot,
    ack: u64,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        for expected in MAGIC {
            if reader.u8()? != expected {
                return Err(Malformed);
            }
        }
        Ok(Self {
            from: NodeId::new(reader.u64()?),
            boot: Boot(reader.u64()?),
            seq: reader.u64()?,
            to_boot: Boot(reader.u64()?),
            ack: reader.u64()?,
        })
    }
}

/// What a sealed datagram says, to whomever.
#[cfg(test)]
pub(super) fn said(bytes: &[u8]) -> Option<Message> {
    let (signed, _) = bytes.split_last_chunk::<MAC_BYTES>()?;
    Message::decode(signed.get(HEADER_BYTES..)?).ok()
}

/// The newest sequence number seen and which of the 127 before it were.
#[derive(Clone, Default)]
struct Window {
    top: u64,
    seen: u128,
}

impl Window {
    /// Marks `seq`; false if it was marked before or is too old to tell.
    fn take(&mut self, seq: u64) -> bool {
        if seq > self.top {
            let shift = u32::try_from(seq - self.top).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
            self.top = seq;
            return true;
        }
        let age = self.top - seq;
        if seq == 0 || age >= 128 || self.seen & (1 << age) != 0 {
            return false;
        }
        self.seen |= 1 << age;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    fn links(node: u64, boot: u64) -> Links {
        let mut links = Links::new(NodeId::new(node), Boot(boot));
        links.configure(&LeaseKeys::only(SECRET), "demo", [1, 2, 3].map(NodeId::new).into_iter());
        links
    }

    fn id(node: u64) -> NodeId {
        NodeId::new(node)
    }

    /// Delivers `bytes` and all greetings that follow from it; true if a message got through at once.
    fn deliver(from: &mut Links, to: &mut Links, bytes: &[u8]) -> bool {
        match to.open(bytes) {
            Opened::Message { .. } => true,
            Opened::Greet { bytes, .. } => {
                deliver(to, from, &bytes);
                false
            }
            Opened::Dropped(why) => panic!("{why:?}"),
        }
    }

    /// Lets two links talk until both believe each other.
    fn meet(a: &mut Links, b: &mut Links) {
        for _ in 0..2 {
            let bytes = a.seal(b.node, &Message::Hello);
            deliver(a, b, &bytes);
            let bytes = b.seal(a.node, &Message::Hello);
            deliver(b, a, &bytes);
        }
        let bytes = a.seal(b.node, &Message::Hello);
        assert!(deliver(a, b, &bytes));
        let bytes = b.seal(a.node, &Message::Hello);
        assert!(deliver(b, a, &bytes));
    }

    #[test]
    fn a_datagram_works_once_whatever_the_order() {
        let (mut a, mut b) = (links(1, 11), links(2, 22));
        meet(&mut a, &mut b);
        let sent: Vec<Vec<u8>> = (0..100).map(|_| a.seal(id(2), &Message::Hello)).collect();
        for bytes in sent.iter().rev() {
            assert!(matches!(b.open(bytes), Opened::Message { .. }));
        }
        for bytes in &sent {
            assert_eq!(b.open(bytes), Opened::Dropped(Dropped::Replayed));
        }
    }

    #[test]
    fn what_others_are_told_does_not_use_up_a_window() {
        let (mut a, mut b, mut c) = (links(1, 11), links(2, 22), links(3, 33));
        meet(&mut a, &mut b);
        meet(&mut a, &mut c);
        let late = a.seal(id(2), &Message::Hello);
        for _ in 0..200 {
            let bytes = a.seal(id(3), &Message::Hello);
            assert!(deliver(&mut a, &mut c, &bytes));
        }
        let newer = a.seal(id(2), &Message::Hello);
        assert!(deliver(&mut a, &mut b, &newer));
        assert!(deliver(&mut a, &mut b, &late), "overtaken by one, not by two hundred");
    }

    #[test]
    fn a_peer_that_was_forgotten_and_comes_back_is_not_taken_for_a_recording() {
        let (mut a, mut b) = (links(1, 11), links(2, 22));
        meet(&mut a, &mut b);
        a.configure(&LeaseKeys::only(SECRET), "demo", [id(3)].into_iter());
        a.configure(&LeaseKeys::only(SECRET), "demo", [id(2), id(3)].into_iter());
        meet(&mut a, &mut b);
    }

    #[test]
    fn strangers_other_receivers_clusters_and_changed_bytes_are_dropped() {
        let (mut a, mut b, mut c) = (links(1, 11), links(2, 22), links(3, 33));
        meet(&mut a, &mut b);
        meet(&mut a, &mut c);
        let bytes = a.seal(id(2), &Message::Hello);
        assert_eq!(c.open(&bytes), Opened::Dropped(Dropped::Forged), "meant for 2");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(matches!(b.open(&changed), Opened::Dropped(_)), "byte {at}");
        }
        assert_eq!(b.open(&bytes[..10]), Opened::Dropped(Dropped::Malformed));
        let mut older = bytes.clone();
        older[2] -= 1;
        assert_eq!(b.open(&older), Opened::Dropped(Dropped::Malformed), "of another release");
        let mut other = links(1, 11);
        other.configure(&LeaseKeys::only(SECRET), "other", [id(2)].into_iter());
        let bytes = other.seal(id(2), &Message::Hello);
        assert_eq!(b.open(&bytes), Opened::Dropped(Dropped::Forged));
        let mut stranger = links(9, 11);
        let bytes = stranger.seal(id(2), &Message::Hello);
        assert_eq!(b.open(&bytes), Opened::Dropped(Dropped::Stranger));
    }

    #[test]
    fn a_change_of_key_loses_nothing_and_leaves_the_old_one_behind() {
        let (mut a, mut b) = (links(1, 11), links(2, 22));
        meet(&mut a, &mut b);
        let nodes = || [1, 2, 3].map(NodeId::new).into_iter();
        let (old, new) = (SECRET, [8; 32]);
        let told = LeaseKeys { seals: old, opens: [Some(new), None] };
        let followed = LeaseKeys { seals: new, opens: [Some(old), None] };
        // Each step reaches one node before the other.
        for (first, second) in [(told, told), (followed, told), (followed, followed), (LeaseKeys::only(new), followed)]
        {
            a.configure(&first, "demo", nodes());
            b.configure(&second, "demo", nodes());
            let (there, back) = (a.seal(id(2), &Message::Hello), b.seal(id(1), &Message::Hello));
            assert!(deliver(&mut a, &mut b, &there));
            assert!(deliver(&mut b, &mut a, &back));
        }
        let mut removed = links(1, 11);
        let bytes = removed.seal(id(2), &Message::Hello);
        b.configure(&LeaseKeys::only(new), "demo", nodes());
        assert_eq!(b.open(&bytes), Opened::Dropped(Dropped::Forged));
    }

    #[test]
    fn an_earlier_life_is_not_believed_again() {
        let (mut a, mut b) = (links(1, 11), links(2, 22));
        meet(&mut a, &mut b);
        let old = a.seal(id(2), &Message::Release(vec![]));
        let mut reborn = links(1, 12);
        meet(&mut reborn, &mut b);
        assert!(matches!(b.open(&old), Opened::Greet { .. }), "challenged, not believed");
        assert!(matches!(b.open(&old), Opened::Greet { .. }));
        let fresh = reborn.seal(id(2), &Message::Hello);
        assert!(matches!(b.open(&fresh), Opened::Message { .. }), "the present life goes on");
        let mut b_reborn = links(2, 23);
        meet(&mut reborn, &mut b_reborn);
        let to_dead = a.seal(id(2), &Message::Release(vec![]));
        assert!(matches!(b_reborn.open(&to_dead), Opened::Greet { .. }));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_dropped(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..1600), sender in 0_u64..4) {
            let mut links = links(2, 22);
            proptest::prop_assert!(matches!(links.open(&bytes), Opened::Dropped(_)));
            // The same behind a header that looks right.
            let mut dressed = links.seal(id(3), &Message::Hello);
            dressed[3..11].copy_from_slice(&sender.to_le_bytes());
            dressed.truncate(HEADER_BYTES);
            dressed.extend_from_slice(&bytes);
            proptest::prop_assert!(matches!(links.open(&dressed), Opened::Dropped(_)));
        }
    }
}
