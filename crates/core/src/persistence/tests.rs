//! Readers beside a writer, snapshots beside a writer, and the sweep.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::*;
use crate::{ids::BackendId, time::LogTime};

const SERVICE: ServiceId = ServiceId::new(1);
const NOW: LogTime = LogTime::from_millis(1_000_000_000_000);
/// So long before `NOW` that what was used then has ended.
const ENDED: LogTime = LogTime::from_millis(999_999_000_000);
const CONFIG: TableConfig = TableConfig { idle_ms: 60_000, absolute_ms: 0, entries_max: u64::MAX };

fn store() -> Store {
    let mut store = Store::default();
    store.configure(SERVICE, CONFIG, NOW);
    store
}

fn key(n: u32) -> KeyHash {
    KeyHash::of(&[0; 16], SERVICE, &n.to_le_bytes())
}

fn put(store: &mut Store, key: KeyHash, backend: u32, now: LogTime) {
    let record = fresh(BackendId::new(backend), Provenance::Created, false, now, backend);
    store.get_mut(SERVICE).expect("configured").put(key, Put { record, over_expired: false });
}

#[test]
fn readers_see_whole_bindings_while_entries_move() {
    let mut store = store();
    // All in one shard, so that each change moves neighbours of what is read.
    let crowded = |n: u32| KeyHash::from_u128(u128::from(n) << 90);
    for n in 0..400 {
        put(&mut store, crowded(n * 2), n + 1, NOW);
    }
    let tables = Arc::clone(store.tables());
    let stop = Arc::new(AtomicBool::new(false));
    let reader = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut reads = 0_u64;
            while !stop.load(Ordering::Relaxed) || reads < 400 {
                for n in 0..400 {
                    let view = tables.lookup(SERVICE, crowded(n * 2), NOW).expect("is never taken away");
                    assert_eq!(view.backend, BackendId::new(n + 1));
                    reads += 1;
                }
            }
        }
    });
    for round in 0..200 {
        // So few that the sweep takes them out in place.
        for n in (round % 20..400).step_by(20) {
            put(&mut store, crowded(n * 2 + 1), 999, ENDED);
        }
        assert_eq!(store.get_mut(SERVICE).expect("configured").expire_shard(0, NOW), 20);
    }
    stop.store(true, Ordering::Relaxed);
    reader.join().expect("the reader found each binding whole");
}

#[test]
fn a_snapshot_does_not_see_what_comes_after_it() {
    let mut store = store();
    for n in 0..5000 {
        put(&mut store, key(n), 1, NOW);
    }
    let before = store.heads();
    let snapshot = store.snapshot();
    for n in 2500..7500 {
        put(&mut store, key(n), 2, NOW);
    }
    let mut bytes = Vec::new();
    snapshot.write(&mut bytes).expect("a vector takes everything");
    let read = Store::read(&mut bytes.as_slice()).expect("what was written is read");
    assert_eq!(read.heads(), before);
    assert_eq!(read.get(SERVICE).map(table::TableWriter::len), Some(5000));
    assert_eq!(store.get(SERVICE).map(|table| table.len_of(BackendId::new(2))), Some(5000));
    assert_ne!(store.heads(), before);
}

#[test]
fn the_sweep_removes_what_ended_and_only_so_much_at_once() {
    let mut store = store();
    for n in 0..60_000 {
        put(&mut store, key(n), 1, NOW);
    }
    put(&mut store, key(60_000), 1, NOW.plus_millis(50_000));
    let len = |store: &Store| store.get(SERVICE).map_or(0, table::TableWriter::len);
    let sweep = |store: &mut Store, now: LogTime| store.sweep(LogTime::from_millis(now.as_millis() - 100), now);
    sweep(&mut store, NOW.plus_millis(64_000));
    assert_eq!(len(&store), 60_001, "ended bindings are kept for a moment");
    let mut now = NOW.plus_millis(66_000);
    let mut last = len(&store);
    for _ in 0..200 {
        now = now.plus_millis(100);
        sweep(&mut store, now);
        assert!(last - len(&store) < 21_000);
        last = len(&store);
    }
    assert_eq!(last, 1);
    assert!(store.array_bytes() < 20_000, "memory is given back");
}

#[test]
fn nothing_is_swept_right_after_a_leap_of_log_time() {
    let mut store = store();
    put(&mut store, key(1), 1, NOW);
    let len = |store: &Store| store.get(SERVICE).map_or(0, table::TableWriter::len);
    let mut now = NOW.plus_millis(1_000_000);
    store.sweep(NOW, now);
    let leapt = now;
    while len(&store) > 0 {
        store.sweep(now, now.plus_millis(100));
        now = now.plus_millis(100);
    }
    let kept = now.millis_since(leapt);
    assert!((5_000..20_000).contains(&kept), "{kept} ms");
}

#[test]
fn the_order_of_writes_leaves_no_trace_in_the_digest() {
    let (mut a, mut b) = (store(), store());
    for n in 0..3000 {
        put(&mut a, key(n), n + 1, NOW);
        put(&mut b, key(2999 - n), 7, NOW);
    }
    assert_ne!(a.heads(), b.heads());
    for n in 0..3000 {
        put(&mut b, key(n), n + 1, NOW);
    }
    assert_eq!(a.heads(), b.heads());
}

#[test]
fn sources_are_cut_to_their_prefix() {
    let of = |address: &str, ipv4_prefix, ipv6_prefix| {
        let client = address.parse().expect("an address");
        KeyHash::of_source(&[3; 16], SERVICE, client, SourcePrefix { ipv4_prefix, ipv6_prefix })
    };
    assert_eq!(of("192.0.2.1", 24, 64), of("192.0.2.200", 24, 64));
    assert_ne!(of("192.0.2.1", 24, 64), of("192.0.3.1", 24, 64));
    assert_eq!(of("192.0.2.1", 32, 64), of("::ffff:192.0.2.1", 32, 64));
    assert_eq!(of("2001:db8::1", 32, 64), of("2001:db8::2", 32, 64));
    assert_ne!(of("2001:db8::1", 32, 128), of("2001:db8::2", 32, 128));
    assert_eq!(of("192.0.2.1", 0, 0), of("1.1.1.1", 0, 0));
}
