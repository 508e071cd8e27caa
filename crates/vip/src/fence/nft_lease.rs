//! Opening and closing VIPs in the nftables fence: elements with timeouts, sent as one nfnetlink batch.
//!
//! Each renewal is "add, delete, add with the timeout" in one transaction: the first addition makes the deletion
//! succeed, and an element whose timeout merely should change is left as it is by kernels before 6.12.
//! A timeout counts from when the kernel executes the batch, in ticks, so a margin is taken off, and what is left has
//! to be longer than a tick: an element whose timeout rounds to zero would stay for ever.
//!
//! The batch takes the lock of nftables, so it waits while somebody loads rules. Errors are collected
//! and counted; [`super::Fence::verify`] reports them.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use ballast_clock::boot_now;
use ballast_core::{ids::VipId, time::BootNanos};

use super::{
    netlink::{Messages, Received, Socket, attributes},
    nft_text::TABLE,
};
use crate::Closing;

/// Taken off each timeout for the way into the kernel and for its ticks (10 ms at 100 Hz).
const MARGIN_NANOS: u64 = 10_000_000;
/// A tick at 100 Hz, the slowest there is.
const TIMEOUT_MIN_MILLIS: u64 = 10;
/// Attributes have 16-bit lengths; an element takes at most 48 bytes.
const ELEMENTS_MAX: usize = 1024;

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const NFPROTO_NETDEV: u8 = 5;
pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
pub(super) const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
pub(super) const NFT_MSG_DELSETELEM: u16 = 14;
const NFTA_TABLE_NAME: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_DATA_VALUE: u16 = 1;

/// Shared by both halves of the nftables fence.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Which addresses a VIP has, sorted by VIP.
    pub addresses: ArcSwap<Vec<(VipId, IpAddr)>>,
    /// Renewals that the kernel refused.
    pub refused: AtomicU64,
    /// Why it refused the last one: an error number.
    pub refusal: AtomicI32,
}

/// The fast half.
pub(super) struct Renewals {
    socket: Socket,
    shared: Arc<Shared>,
    pending: Vec<(VipId, BootNanos)>,
    /// For which VIP an address was opened last. It may be another's or nobody's by now, and its element stays until it
    /// times out or is deleted.
    opened: BTreeMap<IpAddr, VipId>,
    batch: Messages,
    elements: Vec<Element>,
}

/// An address and for how long it may pass; zero closes it.
#[derive(Clone, Copy, Debug)]
struct Element {
    address: IpAddr,
    timeout_millis: u64,
}

impl Renewals {
    pub(super) fn open(shared: Arc<Shared>) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::open_nonblocking(libc::NETLINK_NETFILTER)?,
            shared,
            pending: Vec::with_capacity(64),
            opened: BTreeMap::new(),
            batch: Messages::with_capacity(16 << 10),
            elements: Vec::with_capacity(64),
        })
    }

    pub(super) fn set(&mut self, vip: VipId, until: BootNanos) {
        match self.pending.iter_mut().find(|(pending, _)| *pending == vip) {
            Some((_, pending)) => *pending = until,
            None => self.pending.push((vip, until)),
        }
    }

    pub(super) fn close(&mut self, vip: VipId) -> Closing {
        self.pending.retain(|(pending, _)| *pending != vip);
        self.elements.clear();
        self.collect(vip, 0);
        // What it has lost is open all the same, for what is left of the right that it was opened under.
        let Self { opened, elements, .. } = self;
        let lost =
            opened.iter().filter(|(address, of)| **of == vip && !elements.iter().any(|e| e.address == **address));
        let lost: Vec<IpAddr> = lost.map(|(address, _)| *address).collect();
        elements.extend(lost.into_iter().map(|address| Element { address, timeout_millis: 0 }));
        if !self.send() {
            return Closing::ByItself;
        }
        self.opened.retain(|_, of| *of != vip);
        Closing::Closed
    }

    pub(super) fn flush(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        self.elements.clear();
        let now = boot_now();
        for (vip, until) in pending.drain(..) {
            let from = self.elements.len();
            self.collect(vip, timeout_millis(until, now));
            // Recorded before it is sent, and not forgotten by a renewal that comes too late: it may be refused.
            let open = self.elements[from..].iter().filter(|element| element.timeout_millis > 0);
            self.opened.extend(open.map(|element| (element.address, vip)));
        }
        self.pending = pending;
        // A renewal that is refused ends by itself.
        self.send();
    }

    fn collect(&mut self, vip: VipId, timeout_millis: u64) {
        let addresses = self.shared.addresses.load();
        let from = addresses.partition_point(|(other, _)| *other < vip);
        let of_vip = addresses[from..].iter().take_while(|(other, _)| *other == vip);
        self.elements.extend(of_vip.map(|(_, address)| Element { address: *address, timeout_millis }));
    }

    /// Whether the kernel took it.
    fn send(&mut self) -> bool {
        if self.elements.is_empty() {
            return true;
        }
        encode(&mut self.batch, &self.elements);
        let mut verdict = self.socket.send(self.batch.bytes());
        // The kernel has worked on the batch by now. It refuses all of it with an error for each message.
        let drained = self.socket.drain(|message| {
            if verdict.is_ok()
                && let Some(Err(error)) = message.verdict()
            {
                verdict = Err(error);
            }
        });
        let taken = verdict.and(drained);
        if let Err(error) = &taken {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            self.shared.refusal.store(error.raw_os_error().unwrap_or(0), Ordering::Relaxed);
        }
        taken.is_ok()
    }
}

/// For how long an element may be there so that it is gone by `until`; zero if it must not be there.
fn timeout_millis(until: BootNanos, now: BootNanos) -> u64 {
    let millis = until.get().saturating_sub(now.get()).saturating_sub(MARGIN_NANOS) / 1_000_000;
    if millis < TIMEOUT_MIN_MILLIS { 0 } else { millis }
}

fn encode(batch: &mut Messages, elements: &[Element]) {
    in_transaction(batch, |batch| {
        let v4 = |element: &&Element| element.address.is_ipv4();
        for (set, wanted) in [("lease4", true), ("lease6", false)] {
            let all = || elements.iter().filter(move |element| v4(element) == wanted);
            set_elements(batch, NFT_MSG_NEWSETELEM, set, all(), false);
            set_elements(batch, NFT_MSG_DELSETELEM, set, all(), false);
            set_elements(batch, NFT_MSG_NEWSETELEM, set, all().filter(|element| element.timeout_millis > 0), true);
        }
    });
}

fn set_elements<'a>(
    batch: &mut Messages,
    kind: u16,
    set: &str,
    elements: impl Iterator<Item = &'a Element>,
    timed: bool,
) {
    let mut elements = elements.peekable();
    while elements.peek().is_some() {
        let create = if kind == NFT_MSG_NEWSETELEM { libc::NLM_F_CREATE } else { 0 };
        let message = begin(batch, kind, create as u16);
        batch.string(NFTA_SET_ELEM_LIST_TABLE, TABLE);
        batch.string(NFTA_SET_ELEM_LIST_SET, set);
        let list = batch.nest(NFTA_SET_ELEM_LIST_ELEMENTS);
        for element in elements.by_ref().take(ELEMENTS_MAX) {
            let entry = batch.nest(NFTA_LIST_ELEM);
            let key = batch.nest(NFTA_SET_ELEM_KEY);
            match element.address {
                IpAddr::V4(address) => batch.attribute(NFTA_DATA_VALUE, &address.octets()),
                IpAddr::V6(address) => batch.attribute(NFTA_DATA_VALUE, &address.octets()),
            }
            batch.end_nest(key);
            // Without one the element would be there for ever if the deletion that follows were lost.
            let timeout = if timed { element.timeout_millis } else { TIMEOUT_MIN_MILLIS };
            if kind == NFT_MSG_NEWSETELEM {
                batch.attribute(NFTA_SET_ELEM_TIMEOUT, &timeout.to_be_bytes());
            }
            batch.end_nest(entry);
        }
        batch.end_nest(list);
        batch.end(message);
    }
}

/// The addresses that the table in the kernel guards, whoever made it; nothing if there is none.
pub(super) fn guarded() -> io::Result<Option<Vec<IpAddr>>> {
    let mut socket = match Socket::open(libc::NETLINK_NETFILTER) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
        other => other?,
    };
    let mut addresses = Vec::new();
    for set in ["vip4", "vip6"] {
        let asked = socket.dump(
            NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM,
            |message| {
                message.body(&[NFPROTO_NETDEV, 0, 0, 0]);
                message.string(NFTA_SET_ELEM_LIST_TABLE, TABLE);
                message.string(NFTA_SET_ELEM_LIST_SET, set);
            },
            |message| Some(elements_of(message)),
        );
        match asked {
            // No table, no such set, no nftables or no family netdev.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL | libc::EAFNOSUPPORT)
                ) =>
            {
                return Ok(None);
            }
            other => addresses.extend(other?.into_iter().flatten()),
        }
    }
    Ok(Some(addresses))
}

fn elements_of(message: Received<'_>) -> Vec<IpAddr> {
    let lists = attributes(message.body.get(4..).unwrap_or_default());
    let elements =
        lists.filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS).flat_map(|(_, list)| attributes(list));
    let address = |element| {
        let (_, key) = attributes(element).find(|(kind, _)| *kind == NFTA_SET_ELEM_KEY)?;
        let (_, value) = attributes(key).find(|(kind, _)| *kind == NFTA_DATA_VALUE)?;
        let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
    };
    elements.filter_map(|(_, element)| address(element)).collect()
}

/// Takes the table away, whoever made it; it is no error if there is none or if the kernel has no nftables.
pub(super) fn delete_table() -> io::Result<()> {
    let mut socket = match Socket::open_nonblocking(libc::NETLINK_NETFILTER) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(()),
        other => other?,
    };
    let mut batch = Messages::default();
    in_transaction(&mut batch, |batch| {
        for (kind, flags) in [(NFT_MSG_NEWTABLE, libc::NLM_F_CREATE), (NFT_MSG_DELTABLE, 0)] {
            let message = begin(batch, kind, flags as u16);
            batch.string(NFTA_TABLE_NAME, TABLE);
            batch.end(message);
        }
    });
    socket.send(batch.bytes())?;
    let mut verdict = Ok(());
    socket.drain(|message| {
        if let Some(Err(error)) = message.verdict() {
            verdict = Err(error);
        }
    })?;
    match verdict {
        // No nftables, or no family netdev: nothing can have been left.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::EAFNOSUPPORT)) => {
            Ok(())
        }
        other => other,
    }
}

fn in_transaction(batch: &mut Messages, fill: impl FnOnce(&mut Messages)) {
    batch.clear();
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    let mark = batch.begin(NFNL_MSG_BATCH_BEGIN, libc::NLM_F_REQUEST as u16, 0, &[0, 0, high, low]);
    batch.end(mark);
    fill(batch);
    let mark = batch.begin(NFNL_MSG_BATCH_END, libc::NLM_F_REQUEST as u16, 0, &[0, 0, high, low]);
    batch.end(mark);
}

fn begin(batch: &mut Messages, kind: u16, flags: u16) -> super::netlink::Mark {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
    batch.begin(kind, flags | libc::NLM_F_REQUEST as u16, 0, &[NFPROTO_NETDEV, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::{
        super::netlink::{attributes, messages},
        *,
    };

    #[test]
    fn a_timeout_ends_before_the_deadline_and_is_never_for_ever() {
        let now = BootNanos::new(1_000_000_000);
        for (left_micros, millis) in
            [(150_000, 140), (150_999, 140), (20_000, 10), (19_999, 0), (10_000, 0), (1, 0), (0, 0)]
        {
            assert_eq!(timeout_millis(now.plus(left_micros * 1000), now), millis, "{left_micros} us left");
        }
        assert_eq!(timeout_millis(BootNanos::new(0), now), 0);
    }

    #[test]
    fn a_batch_adds_deletes_and_adds_and_closes_by_deleting() {
        let element = |address: &str, timeout_millis| Element { address: address.parse().expect("ip"), timeout_millis };
        let mut batch = Messages::default();
        encode(&mut batch, &[element("10.0.0.5", 140), element("10.0.0.6", 0), element("2001:db8::5", 0)]);
        let mut read = Vec::new();
        for message in messages(batch.bytes()) {
            let lists = message.body.get(4..).into_iter().flat_map(attributes);
            let elements = lists.filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS);
            let timeouts = elements.flat_map(|(_, list)| attributes(list)).map(|(_, element)| {
                let timeout = attributes(element).find(|(kind, _)| *kind == NFTA_SET_ELEM_TIMEOUT);
                timeout.map(|(_, value)| u64::from_be_bytes(value.try_into().expect("eight bytes")))
            });
            read.push((message.kind, timeouts.collect::<Vec<_>>()));
        }
        let expected = [
            (16, vec![]),
            (0xa0c, vec![Some(10), Some(10)]),
            (0xa0e, vec![None, None]),
            (0xa0c, vec![Some(140)]),
            (0xa0c, vec![Some(10)]),
            (0xa0e, vec![None]),
            (17, vec![]),
        ];
        assert_eq!(read, expected);
    }
}
