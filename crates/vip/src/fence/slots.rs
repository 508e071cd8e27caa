//! The kernel programs' array of deadlines, mapped into this process.
//!
//! A renewal is one store of eight bytes, which cannot block, fail or be late in a harmful way: deadlines are
//! absolute, so a store that was held up stores a time that has passed.
//!
//! A slot stays with its VIP when the VIP is guarded no more, until all slots were given away. Then those of such VIPs are
//! given anew, once nobody uses a table any more that names them: a writer that looked its slot up and was stopped there
//! must never open the gate of another VIP, however long it was stopped.

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
use parking_lot::Mutex;

/// `struct slot` of `bpf/fence.bpf.c`.
#[repr(C)]
struct Slot {
    deadline: AtomicU64,
    keep_until: AtomicU64,
    back_until: AtomicU64,
    pass_on_until: AtomicU64,
    /// Six bytes and padding, in the order in which they lie in a frame.
    predecessor: AtomicU64,
    /// Likewise.
    successor: AtomicU64,
    reserved: [u64; 2],
    dropped: AtomicU64,
    kept: AtomicU64,
    forwarded: AtomicU64,
    reserved_too: [u64; 5],
}

impl Slot {
    fn clear(&self) {
        let Self {
            deadline,
            keep_until,
            back_until,
            pass_on_until,
            predecessor,
            successor,
            dropped,
            kept,
            forwarded,
            ..
        } = self;
        let until = [deadline, keep_until, back_until, pass_on_until];
        for field in until.into_iter().chain([predecessor, successor, dropped, kept, forwarded]) {
            field.store(0, Ordering::SeqCst);
        }
    }
}

/// Has what is sent on until a time go there.
fn lead([a, b, c, d, e, f]: [u8; 6], to: &AtomicU64, deadline: &AtomicU64, until: BootNanos) {
    // What is for the one before is sent to nobody.
    deadline.store(0, Ordering::SeqCst);
    to.store(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]), Ordering::SeqCst);
    deadline.store(until.get(), Ordering::Release);
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
    /// Sorted by VIP.
    table: ArcSwap<Table>,
    stock: Mutex<Stock>,
}

type Table = Vec<(VipId, usize)>;

/// For the half that assigns.
#[derive(Default)]
struct Stock {
    /// Slots from here on were never given away.
    fresh: usize,
    /// Given away before, and in the table no more.
    used: Vec<usize>,
    /// Earlier tables that a writer may still be using.
    earlier: Vec<Arc<Table>>,
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
        Ok(Self { array, count, table: ArcSwap::default(), stock: Mutex::default() })
    }

    /// The VIP's slot, if it has one.
    pub(super) fn index(&self, vip: VipId) -> Option<usize> {
        find(&self.table.load(), vip)
    }

    /// The VIP's slot; it gets one if it has none. `None` when all are given away to VIPs that are `guarded`, or somebody
    /// was using those that are not just now.
    pub(super) fn assign(&self, vip: VipId, guarded: impl Fn(VipId) -> bool) -> Option<usize> {
        if let Some(index) = self.index(vip) {
            return Some(index);
        }
        let mut stock = self.stock.lock();
        let index = self.take(&mut stock, guarded)?;
        let mut table = Table::clone(&self.table.load());
        let place = table.partition_point(|(known, _)| *known < vip);
        table.insert(place, (vip, index));
        self.replace(&mut stock, table);
        if ballast_planted::is(Bug::FenceOpenAtStart) {
            self.set(vip, BootNanos::new(u64::MAX));
        }
        Some(index)
    }

    /// A slot that nobody has.
    fn take(&self, stock: &mut Stock, guarded: impl Fn(VipId) -> bool) -> Option<usize> {
        if stock.fresh < self.count {
            stock.fresh += 1;
            return Some(stock.fresh - 1);
        }
        if stock.used.is_empty() {
            let (kept, left): (Table, Table) = self.table.load().iter().partition(|(vip, _)| guarded(*vip));
            if left.is_empty() {
                return None;
            }
            stock.used.extend(left.into_iter().map(|(_, index)| index));
            self.replace(stock, kept);
        }
        // The one that is in force names none of these.
        stock.earlier.retain_mut(|table| Arc::get_mut(table).is_none());
        let index = stock.earlier.is_empty().then(|| stock.used.pop())??;
        // What a writer did last, after it was closed.
        self.at(index).clear();
        Some(index)
    }

    fn replace(&self, stock: &mut Stock, table: Table) {
        stock.earlier.push(self.table.swap(Arc::new(table)));
        stock.earlier.retain_mut(|table| Arc::get_mut(table).is_none());
    }

    pub(super) fn set(&self, vip: VipId, until: BootNanos) {
        self.with(vip, |slot| {
            // A node that owns the VIP again keeps nothing beyond its lease: only a hand-over gives that right.
            if slot.keep_until.load(Ordering::Relaxed) != 0 {
                slot.keep_until.store(0, Ordering::Release);
            }
            slot.deadline.store(until.get(), Ordering::Release);
        });
    }

    pub(super) fn close(&self, vip: VipId) {
        self.with(vip, |slot| {
            slot.deadline.store(0, Ordering::SeqCst);
            slot.back_until.store(0, Ordering::SeqCst);
            slot.pass_on_until.store(0, Ordering::SeqCst);
        });
    }

    pub(super) fn keep(&self, vip: VipId, until: BootNanos) {
        self.with(vip, |slot| slot.keep_until.store(until.get(), Ordering::Release));
    }

    pub(super) fn send_back(&self, vip: VipId, predecessor: [u8; 6], until: BootNanos) {
        self.with(vip, |slot| lead(predecessor, &slot.predecessor, &slot.back_until, until));
    }

    pub(super) fn pass_on(&self, vip: VipId, successor: [u8; 6], until: BootNanos) {
        self.with(vip, |slot| lead(successor, &slot.successor, &slot.pass_on_until, until));
    }

    /// Sends nothing to anybody. Who was the last successor is still known.
    pub(super) fn forward_nothing(&self, vip: VipId) {
        self.with(vip, |slot| {
            slot.back_until.store(0, Ordering::SeqCst);
            slot.pass_on_until.store(0, Ordering::SeqCst);
        });
    }

    /// Shuts everything about the VIP.
    pub(super) fn clear(&self, vip: VipId) {
        self.close(vip);
        self.keep(vip, BootNanos::new(0));
    }

    pub(super) fn counters(&self, vip: VipId) -> Option<FenceCounters> {
        self.with(vip, |slot| FenceCounters {
            dropped: slot.dropped.load(Ordering::Relaxed),
            kept: slot.kept.load(Ordering::Relaxed),
            forwarded: slot.forwarded.load(Ordering::Relaxed),
        })
    }

    /// Does something with the VIP's slot, which is nobody else's as long as the table is in use here.
    fn with<T>(&self, vip: VipId, act: impl FnOnce(&Slot) -> T) -> Option<T> {
        let table = self.table.load();
        find(&table, vip).map(|index| act(self.at(index)))
    }

    fn at(&self, index: usize) -> &Slot {
        assert!(index < self.count, "slots are given away below the number that is mapped");
        // SAFETY: the mapping has so many slots and lives as long as this does.
        unsafe { self.array.add(index).as_ref() }
    }
}

fn find(table: &Table, vip: VipId) -> Option<usize> {
    table.binary_search_by_key(&vip, |(vip, _)| *vip).ok().map(|place| table[place].1)
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

    /// The slots that these get while all of them are guarded.
    fn assign<const N: usize>(slots: &Slots, ids: [u32; N]) -> [Option<usize>; N] {
        ids.map(|id| slots.assign(VipId::new(id), |_| true))
    }

    #[test]
    fn a_slot_is_never_given_to_a_second_vip_that_is_guarded() {
        let (slots, _file) = slots(3);
        assert_eq!(assign(&slots, [7, 3, 7, 5, 9]), [Some(0), Some(1), Some(0), Some(2), None]);
    }

    #[test]
    fn a_slot_that_a_writer_may_be_using_is_not_given_anew() {
        let (slots, _file) = slots(2);
        assign(&slots, [3, 7]);
        // A writer has looked something up and is stopped.
        let writer = slots.table.load();
        let [three, seven, nine] = [3, 7, 9].map(VipId::new);
        let guarded = |vip| vip == three;
        assert_eq!(slots.assign(nine, guarded), None);
        slots.set(seven, BootNanos::new(66)); // guarded no more: goes nowhere
        // It goes on, by what it looked up.
        let slot = slots.at(find(&writer, seven).expect("was there"));
        slot.deadline.store(77, Ordering::Release);
        slot.dropped.store(5, Ordering::Relaxed);
        assert_eq!(slots.assign(nine, guarded), None);
        drop(writer);
        assert_eq!(slots.assign(nine, guarded), Some(1));
        assert_eq!(slots.at(1).deadline.load(Ordering::Relaxed), 0);
        assert_eq!(slots.counters(nine), Some(FenceCounters::default()));
        assert_eq!((slots.index(three), slots.index(seven)), (Some(0), None));
    }

    #[test]
    fn vips_may_come_and_go_for_ever() {
        let (slots, _file) = slots(2);
        for id in 0..100 {
            assert!(slots.assign(VipId::new(id), |vip| vip.get() + 1 == id).is_some(), "{id}");
        }
    }

    #[test]
    fn a_deadline_is_stored_where_the_kernel_looks() {
        use std::os::unix::fs::FileExt;
        let (slots, file) = slots(2);
        slots.set(VipId::new(8), BootNanos::new(1)); // not guarded: goes nowhere
        assert_eq!(assign(&slots, [9, 8]), [Some(0), Some(1)]);
        slots.set(VipId::new(8), BootNanos::new(77));
        slots.send_back(VipId::new(8), [1, 2, 3, 4, 5, 6], BootNanos::new(88));
        slots.pass_on(VipId::new(8), [7, 8, 9, 10, 11, 12], BootNanos::new(66));
        let mut bytes = [0; 2 * SLOT_BYTES];
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(bytes[..SLOT_BYTES], [0; SLOT_BYTES]);
        assert_eq!(bytes[SLOT_BYTES..][..8], 77_u64.to_ne_bytes());
        assert_eq!(bytes[SLOT_BYTES + 16..][..16], [88_u64, 66].map(u64::to_ne_bytes).concat());
        assert_eq!(bytes[SLOT_BYTES + 32..][..16], [1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12, 0, 0]);
        slots.forward_nothing(VipId::new(8));
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(bytes[SLOT_BYTES + 16..][..16], [0; 16]);
        // The owner takes nothing from who was its successor once.
        assert_eq!(bytes[SLOT_BYTES + 40..][..6], [7, 8, 9, 10, 11, 12]);
        slots.close(VipId::new(8));
        slots.keep(VipId::new(8), BootNanos::new(99));
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(bytes[SLOT_BYTES..][..24], [0_u64, 99, 0].map(u64::to_ne_bytes).concat());
        slots.set(VipId::new(8), BootNanos::new(0));
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(bytes[SLOT_BYTES..][..24], [0; 24]);
    }
}
