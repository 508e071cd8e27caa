//! A pick allocates nothing once its balancer has seen the plan.
//!
//! A test of its own program, because it counts what the program's allocator is asked for.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use ballast_core::{
    balance::{Ask, Balancer, HashKey, Pick},
    config::Balance,
    ids::{BackendId, FarmId, ServiceId},
    plan::{AdminState, BackendPlan, ServicePlan, Verdict},
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator unchanged; counting touches only a
// thread-local of a type without a destructor, which does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn service(balance: Balance) -> ServicePlan {
    let backend = |id: u32| BackendPlan {
        id: BackendId::new(id),
        name: format!("b{id}").into(),
        address: "127.0.0.1:80".parse().expect("an address"),
        weight: id,
        backup: id > 8,
        admin: AdminState::Ready,
        verdict: if id == 3 { Verdict::Down } else { Verdict::Up },
        serves_since_ms: 500,
        connections_max: 100,
    };
    ServicePlan {
        id: ServiceId::new(1),
        farm: FarmId::new(1),
        name: "s".into(),
        matches: None,
        balance,
        persistence: None,
        health: None,
        backends: (1..=10).map(backend).collect(),
        fallback: None,
        retries_max: 2,
        queue_timeout_ms: 0,
        slow_start_ms: 1000,
        panic_threshold_percent: 10,
        redispatch: true,
    }
}

#[test]
fn a_warm_pick_allocates_nothing() {
    for balance in [
        Balance::RoundRobin,
        Balance::WeightedRoundRobin,
        Balance::LeastConnections,
        Balance::WeightedLeastConnections,
        Balance::SourceHash,
        Balance::UriHash,
        Balance::RandomOfTwo,
    ] {
        let plan = service(balance);
        let load = [4_u32; 10];
        let exclude = [BackendId::new(5)];
        let mut balancer = Balancer::new(1);
        balancer.adopt(&plan);
        let before = ALLOCATIONS.with(Cell::get);
        let mut picked = 0;
        for now_ms in 0..1000 {
            let key = HashKey::of_bytes(b"0123456789abcdef", &u64::to_le_bytes(now_ms));
            let pick = balancer.pick(&plan, &load[..], &Ask { key, exclude: &exclude, now_ms });
            picked += u32::from(matches!(pick, Pick::Backend(_)));
        }
        let after = ALLOCATIONS.with(Cell::get);
        assert_eq!(picked, 1000);
        assert_eq!(after - before, 0, "{balance:?}");
    }
}
