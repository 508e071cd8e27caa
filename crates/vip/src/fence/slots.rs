//! The kernel programs' array of deadlines, mapped into this process.
//!
//! A renewal is one store of eight bytes, which cannot block, fail or be late in a harmful way: deadlines are
//! absolute, so a store that was held up stores a time that has passed.
//!
//! A slot belongs to one VIP for the life of the process, even when the VIP is guarded no more: a writer that
//! looked its slot up and was stopped there must never open the gate of another VIP. Ids of VIPs are never given
//! twice, so a slot cannot come back with another meaning either.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use ballast_core::{ids::VipId, time::BootNanos};
use ballast_planted::Bug;

/// `struct slot` of `bpf/fence.bpf.c`.
#[repr(C)]
struct Slot {
    deadline: AtomicU64,
    keep_until: AtomicU64,
    forward_until: AtomicU64,
    /// Six bytes and padding, in the order in which they lie in a frame.
    forward_mac: AtomicU64,
    dropped: AtomicU64,
    kept: AtomicU64,
    forwarded: AtomicU64,
    pass_on_until: AtomicU64,
}

impl Slot {
    /// Sends nothing to anybody, and from now on what is sent to this node.
    fn lead_to(&self, [a, b, c, d, e, f]: [u8; 6]) {
        self.forward_until.store(0, Ordering::SeqCst);
        self.pass_on_until.store(0, Ordering::SeqCst);
        self.forward_mac.store(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]), Ordering::SeqCst);
    }
}

pub(super) const SLOT_BYTES: usize = size_of::<Slot>();

/// What the kernel counted for a VIP since this process took over the fence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FenceCounters {
    /// Packets that were not let through.
    pub dropped: u64,
    /// Packets that came in for connections kept after a move.
    pub kept: u64,
    /// Packets sent on to the node that the VIP came from or went to.
    pub forwarded: u64,
}

/// Shared by both halves of the fence.
pub(super) struct Slots {
    array: NonNull<Slot>,
    count: usize,
    /// Sorted by VIP; only grows.
    table: ArcSwap<Vec<(VipId, usize)>>,
}

// SAFETY: the mapping lives as long as the value, and everything in it is an atomic.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Maps the array behind the descriptor.
    pub(super) fn map(array: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at a place that the kernel chooses; the result is checked.
        let place = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * SLOT_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                array.as_raw_fd(),
                0,
            )
        };
        if place == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let array = NonNull::new(place.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { array, count, table: ArcSwap::default() })
    }

    /// The VIP's slot; it gets one if it has none. `None` when all are given away.
    pub(super) fn assign(&self, vip: VipId) -> Option<usize> {
        let table = self.table.load();
        let place = match table.binary_search_by_key(&vip, |(vip, _)| *vip) {
            Ok(place) => return Some(table[place].1),
            Err(place) => place,
        };
        let index = table.len();
        if index >= self.count {
            return None;
        }
        let mut grown = Vec::clone(&table);
        grown.insert(place, (vip, index));
        self.table.store(Arc::new(grown));
        if ballast_planted::is(Bug::FenceOpenAtStart) {
            self.set(vip, BootNanos::new(u64::MAX));
        }
        Some(index)
    }

    pub(super) fn set(&self, vip: VipId, until: BootNanos) {
        if let Some(slot) = self.slot(vip) {
            // A node that owns the VIP again keeps nothing beyond its lease: only a hand-over gives that right.
            if slot.keep_until.load(Ordering::Relaxed) != 0 {
                slot.keep_until.store(0, Ordering::Release);
            }
            slot.deadline.store(until.get(), Ordering::Release);
        }
    }

    pub(super) fn close(&self, vip: VipId) {
        if let Some(slot) = self.slot(vip) {
            slot.deadline.store(0, Ordering::SeqCst);
            slot.forward_until.store(0, Ordering::SeqCst);
            slot.pass_on_until.store(0, Ordering::SeqCst);
        }
    }

    pub(super) fn keep(&self, vip: VipId, until: BootNanos) {
        if let Some(slot) = self.slot(vip) {
            slot.keep_until.store(until.get(), Ordering::Release);
        }
    }

    pub(super) fn forward(&self, vip: VipId, mac: [u8; 6], until: BootNanos) {
        if let Some(slot) = self.slot(vip) {
            slot.lead_to(mac);
            slot.forward_until.store(until.get(), Ordering::Release);
        }
    }

    pub(super) fn pass_on(&self, vip: VipId, mac: [u8; 6], until: BootNanos) {
        if let Some(slot) = self.slot(vip) {
            slot.lead_to(mac);
            slot.pass_on_until.store(until.get(), Ordering::Release);
        }
    }

    /// Shuts everything about the VIP.
    pub(super) fn clear(&self, vip: VipId) {
        self.close(vip);
        self.keep(vip, BootNanos::new(0));
    }

    pub(super) fn counters(&self, vip: VipId) -> Option<FenceCounters> {
        self.slot(vip).map(|slot| FenceCounters {
            dropped: slot.dropped.load(Ordering::Relaxed),
            kept: slot.kept.load(Ordering::Relaxed),
            forwarded: slot.forwarded.load(Ordering::Relaxed),
        })
    }

    fn slot(&self, vip: VipId) -> Option<&Slot> {
        let table = self.table.load();
        let place = table.binary_search_by_key(&vip, |(vip, _)| *vip).ok()?;
        // SAFETY: indexes in the table are below the number of slots that are mapped.
        Some(unsafe { self.array.add(table[place].1).as_ref() })
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `map`, which nothing borrows any more.
        unsafe { libc::munmap(self.array.as_ptr().cast(), self.count * SLOT_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    fn slots(count: usize) -> (Slots, File) {
        let file = tempfile::tempfile().expect("a file to stand in for the kernel's array");
        file.set_len((count * SLOT_BYTES) as u64).expect("sized");
        (Slots::map(file.as_fd(), count).expect("mapped"), file)
    }

    #[test]
    fn a_slot_is_never_given_to_a_second_vip() {
        let (slots, _file) = slots(3);
        let given: Vec<_> = [7, 3, 7, 5, 9].map(|id| slots.assign(VipId::new(id))).into();
        assert_eq!(given, [Some(0), Some(1), Some(0), Some(2), None]);
    }

    #[test]
    fn a_deadline_is_stored_where_the_kernel_looks() {
        use std::os::unix::fs::FileExt;
        let (slots, file) = slots(2);
        slots.set(VipId::new(8), BootNanos::new(1)); // not guarded: goes nowhere
        slots.assign(VipId::new(9)).expect("room");
        slots.assign(VipId::new(8)).expect("room");
        slots.set(VipId::new(8), BootNanos::new(77));
        slots.forward(VipId::new(8), [1, 2, 3, 4, 5, 6], BootNanos::new(88));
        let mut bytes = [0; 2 * SLOT_BYTES];
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(bytes[..SLOT_BYTES], [0; SLOT_BYTES]);
        assert_eq!(bytes[SLOT_BYTES..][..8], 77_u64.to_ne_bytes());
        assert_eq!(bytes[SLOT_BYTES + 16..][..14], [&88_u64.to_ne_bytes()[..], &[1, 2, 3, 4, 5, 6]].concat());
        slots.close(VipId::new(8));
        slots.keep(VipId::new(8), BootNanos::new(99));
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(bytes[SLOT_BYTES..][..24], [0_u64, 99, 0].map(u64::to_ne_bytes).concat());
        slots.set(VipId::new(8), BootNanos::new(0));
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(bytes[SLOT_BYTES..][..24], [0; 24]);
    }
}
