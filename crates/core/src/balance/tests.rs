use proptest::prelude::*;

use super::*;
use crate::ids::{FarmId, ServiceId};
use crate::plan::AdminState;

fn backend(id: u32, weight: u32) -> BackendPlan {
    BackendPlan {
        id: BackendId::new(id),
        name: format!("b{id}").into(),
        address: "127.0.0.1:80".parse().expect("an address"),
        weight,
        backup: false,
        admin: AdminState::Ready,
        verdict: Verdict::Up,
        serves_since_ms: 0,
        connections_max: 0,
    }
}

fn service(balance: Balance, backends: Vec<BackendPlan>) -> ServicePlan {
    ServicePlan {
        id: ServiceId::new(1),
        farm: FarmId::new(1),
        name: "s".into(),
        matches: None,
        balance,
        persistence: None,
        health: None,
        backends,
        fallback: None,
        retries_max: 0,
        queue_timeout_ms: 0,
        slow_start_ms: 0,
        panic_threshold_percent: 0,
        redispatch: true,
    }
}

fn weights(balance: Balance, weights: &[u32]) -> ServicePlan {
    service(balance, weights.iter().zip(1..).map(|(weight, id)| backend(id, *weight)).collect())
}

const ALL: [Balance; 7] = [
    Balance::RoundRobin,
    Balance::WeightedRoundRobin,
    Balance::LeastConnections,
    Balance::WeightedLeastConnections,
    Balance::SourceHash,
    Balance::UriHash,
    Balance::RandomOfTwo,
];

fn ask(key: u64) -> Ask<'static> {
    Ask { key: HashKey::from_u64(key), exclude: &[], now_ms: 1_000_000 }
}

/// How often each backend is picked when nothing is in flight.
fn spread(plan: &ServicePlan, picks: u64) -> Vec<u64> {
    let mut balancer = Balancer::new(7);
    let mut counts = vec![0; plan.backends.len()];
    for key in 0..picks {
        match balancer.pick(plan, &[][..], &ask(rendezvous::mix(key))) {
            Pick::Backend(index) => counts[index] += 1,
            Pick::No(why) => panic!("{why:?}"),
        }
    }
    counts
}

/// What every algorithm says of a plan; they must agree about who may be picked at all.
fn check(plan: &ServicePlan, load: &[u32], exclude: &[u32], expected: Result<&[usize], NoPick>) {
    let exclude: Vec<BackendId> = exclude.iter().map(|id| BackendId::new(*id)).collect();
    for balance in ALL {
        let plan = ServicePlan { balance, ..plan.clone() };
        let mut balancer = Balancer::new(3);
        let mut seen = Vec::new();
        for key in 0..200 {
            let ask = Ask { exclude: &exclude, ..ask(rendezvous::mix(key)) };
            match (balancer.pick(&plan, load, &ask), expected) {
                (Pick::Backend(index), Ok(allowed)) => {
                    assert!(allowed.contains(&index), "{balance:?} picked {index}");
                    seen.push(index);
                }
                (Pick::No(why), Err(expected)) => assert_eq!(why, expected, "{balance:?}"),
                (pick, expected) => panic!("{balance:?}: {pick:?} where {expected:?} was due"),
            }
        }
        let spreads =
            !matches!(balance, Balance::LeastConnections | Balance::WeightedLeastConnections | Balance::RandomOfTwo);
        if let (Ok(allowed), true) = (expected, spreads || load.is_empty()) {
            for index in allowed {
                assert!(seen.contains(index), "{balance:?} never picked {index}");
            }
        }
    }
}

#[test]
fn weights_are_respected() {
    assert_eq!(spread(&weights(Balance::RoundRobin, &[1, 1000, 3]), 300), [100, 100, 100]);
    assert_eq!(spread(&weights(Balance::WeightedRoundRobin, &[100, 50, 25]), 700), [400, 200, 100]);
    assert_eq!(spread(&weights(Balance::WeightedLeastConnections, &[100, 50, 25]), 700), [400, 200, 100]);
    for balance in [Balance::SourceHash, Balance::UriHash, Balance::RandomOfTwo] {
        let counts = spread(&weights(balance, &[100, 50, 25, 25]), 100_000);
        // Random draws: six standard deviations of a binomial are below 1000 here. Idle backends
        // tie, so the first drawn of two is taken, which is drawn by weight.
        for (count, due) in counts.iter().zip([50_000_u64, 25_000, 12_500, 12_500]) {
            assert!(count.abs_diff(due) < 1000, "{balance:?}: {counts:?}");
        }
    }
}

#[test]
fn the_least_loaded_for_its_weight_is_picked() {
    let plan = weights(Balance::WeightedLeastConnections, &[100, 50, 100]);
    let mut balancer = Balancer::new(1);
    let mut pick = |load: &[u32]| balancer.pick(&plan, load, &ask(0));
    assert_eq!(pick(&[5, 2, 5]), Pick::Backend(1));
    assert_eq!(pick(&[4, 2, 3]), Pick::Backend(2));
    assert_eq!(pick(&[0, 1, 1]), Pick::Backend(0));
    let plan = weights(Balance::LeastConnections, &[1000, 1, 1000]);
    let mut balancer = Balancer::new(1);
    assert_eq!(balancer.pick(&plan, &[2, 1, 3][..], &ask(0)), Pick::Backend(1));
    let plan = weights(Balance::RandomOfTwo, &[1, 1]);
    assert_eq!(Balancer::new(1).pick(&plan, &[7, 6][..], &ask(0)), Pick::Backend(1), "both are drawn");
}

#[test]
fn who_may_be_picked() {
    let four = || (1..=4).map(|id| backend(id, 100)).collect::<Vec<_>>();
    let with = |change: &dyn Fn(&mut Vec<BackendPlan>)| {
        let mut backends = four();
        change(&mut backends);
        service(Balance::RoundRobin, backends)
    };
    check(&with(&|_| {}), &[], &[], Ok(&[0, 1, 2, 3]));
    check(&with(&|b| b.clear()), &[], &[], Err(NoPick::NoBackends));
    check(&with(&|b| b[0].verdict = Verdict::Down), &[], &[], Ok(&[1, 2, 3]));
    check(&with(&|b| b[0].verdict = Verdict::Unknown), &[], &[], Ok(&[0, 1, 2, 3]));
    check(&with(&|b| b[1].weight = 0), &[], &[], Ok(&[0, 2, 3]));
    check(&with(&|b| b[2].admin = AdminState::Drain), &[], &[], Ok(&[0, 1, 3]));
    check(&with(&|b| b[3].admin = AdminState::Maintenance), &[], &[], Ok(&[0, 1, 2]));
    check(&with(&|_| {}), &[], &[1, 2, 3], Ok(&[3]));
    check(&with(&|_| {}), &[], &[1, 2, 3, 4], Err(NoPick::AllExcluded));
    check(&with(&|b| b.iter_mut().for_each(|b| b.verdict = Verdict::Down)), &[], &[], Err(NoPick::AllDown));
    check(&with(&|b| b.iter_mut().for_each(|b| b.admin = AdminState::Drain)), &[], &[], Err(NoPick::AllDraining));
    check(&with(&|b| b.iter_mut().for_each(|b| b.weight = 0)), &[], &[], Err(NoPick::AllDraining));
}

#[test]
fn backups_stand_in_only_when_no_primary_is_left() {
    let mut plan = weights(Balance::RoundRobin, &[1, 1, 1, 1]);
    plan.backends[2].backup = true;
    plan.backends[3].backup = true;
    check(&plan, &[], &[], Ok(&[0, 1]));
    check(&plan, &[], &[1, 2], Ok(&[2, 3]));
    plan.backends[0].verdict = Verdict::Down;
    check(&plan, &[], &[], Ok(&[1]));
    plan.backends[1].admin = AdminState::Maintenance;
    check(&plan, &[], &[], Ok(&[2, 3]));
    plan.backends[1].admin = AdminState::Ready;
    plan.backends[1].connections_max = 5;
    check(&plan, &[0, 5, 0, 0], &[], Err(NoPick::AllAtLimit));
}

#[test]
fn a_full_backend_is_passed_over() {
    let mut plan = weights(Balance::RoundRobin, &[1, 1, 1]);
    plan.backends[1].connections_max = 2;
    check(&plan, &[0, 2, 0], &[], Ok(&[0, 2]));
    check(&plan, &[0, 1, 0], &[], Ok(&[0, 1, 2]));
    plan.backends[0].connections_max = 2;
    check(&plan, &[2, 2, 0], &[3], Err(NoPick::AllAtLimit));
}

#[test]
fn who_is_waited_for_is_who_would_be_picked_if_there_were_room() {
    let mut plan = weights(Balance::RoundRobin, &[1, 1, 1, 1, 1]);
    plan.backends[1].verdict = Verdict::Down;
    plan.backends[4].backup = true;
    plan.backends.iter_mut().for_each(|backend| backend.connections_max = 1);
    let full = [1; 5];
    check(&plan, &full, &[], Err(NoPick::AllAtLimit));
    let of = |exclude: &[BackendId]| eligible(&plan, &full[..], &Ask { exclude, ..ask(0) }).collect::<Vec<_>>();
    assert_eq!(of(&[]), [0, 2, 3]);
    assert_eq!(of(&[BackendId::new(1)]), [2, 3]);
    assert_eq!(of(&[1, 3, 4].map(BackendId::new)), [4], "a backup, when nobody else is left");
}

#[test]
fn too_few_survivors_are_not_believed() {
    let mut plan = weights(Balance::RoundRobin, &[1, 1, 1, 1]);
    plan.panic_threshold_percent = 50;
    plan.backends[0].verdict = Verdict::Down;
    plan.backends[1].verdict = Verdict::Down;
    check(&plan, &[], &[], Ok(&[2, 3]));
    plan.backends[2].verdict = Verdict::Down;
    check(&plan, &[], &[], Ok(&[0, 1, 2, 3]));
    plan.backends[3].verdict = Verdict::Down;
    check(&plan, &[], &[], Ok(&[0, 1, 2, 3]));
    // With every primary down, a backup that is up is better than guessing.
    plan.backends[3] = BackendPlan { backup: true, verdict: Verdict::Up, ..plan.backends[3].clone() };
    check(&plan, &[], &[], Ok(&[3]));
}

#[test]
fn this_nodes_own_verdict_can_overrule() {
    struct Own;
    impl Load for Own {
        fn in_flight(&self, _: usize) -> u32 {
            0
        }
        fn verdict(&self, index: usize, _: Verdict) -> Verdict {
            if index == 1 { Verdict::Up } else { Verdict::Down }
        }
    }
    let plan = weights(Balance::WeightedLeastConnections, &[1, 1, 1]);
    assert_eq!(Balancer::new(1).pick(&plan, &Own, &ask(0)), Pick::Backend(1));
}

#[test]
fn a_backend_that_refuses_is_picked_only_where_there_is_no_other() {
    struct Refusing<'a>(&'a [usize]);
    impl Load for Refusing<'_> {
        fn in_flight(&self, index: usize) -> u32 {
            if self.refuses(index) { 0 } else { 5 }
        }
        fn refuses(&self, index: usize) -> bool {
            self.0.contains(&index)
        }
    }
    for balance in ALL {
        let mut plan = weights(balance, &[1, 1, 1, 1]);
        plan.backends[3].backup = true;
        let picked = |refusing: &[usize]| -> Vec<usize> {
            let mut balancer = Balancer::new(3);
            let mut picks = std::collections::BTreeSet::new();
            for key in 0..200 {
                match balancer.pick(&plan, &Refusing(refusing), &ask(rendezvous::mix(key))) {
                    Pick::Backend(index) => picks.insert(index),
                    Pick::No(why) => panic!("{why:?}"),
                };
            }
            picks.into_iter().collect()
        };
        assert_eq!(picked(&[0]), [1, 2], "{balance:?}");
        assert_eq!(picked(&[0, 2]), [1], "{balance:?}");
        assert_eq!(picked(&[0, 1, 2]), [0, 1, 2], "{balance:?}: backups are for when primaries are down");
    }
}

#[test]
fn a_backend_at_its_limit_is_waited_for_where_the_others_refuse() {
    struct Seen<'a> {
        refusing: &'a [usize],
        connections: [u32; 3],
    }
    impl Load for Seen<'_> {
        fn in_flight(&self, index: usize) -> u32 {
            self.connections[index]
        }
        fn refuses(&self, index: usize) -> bool {
            self.refusing.contains(&index)
        }
    }
    for balance in ALL {
        let mut plan = weights(balance, &[1, 1, 1]);
        plan.backends.iter_mut().for_each(|backend| backend.connections_max = 5);
        let pick = |plan: &ServicePlan, refusing: &[usize], connections| {
            Balancer::new(3).pick(plan, &Seen { refusing, connections }, &ask(0))
        };
        assert_eq!(pick(&plan, &[1, 2], [5, 0, 0]), Pick::No(NoPick::AllAtLimit), "{balance:?}");
        assert_eq!(pick(&plan, &[1], [5, 0, 5]), Pick::No(NoPick::AllAtLimit), "{balance:?}");
        assert_eq!(pick(&plan, &[0, 1], [5, 0, 4]), Pick::Backend(2), "{balance:?}");
        assert_eq!(pick(&plan, &[0, 1, 2], [5, 0, 5]), Pick::Backend(1), "{balance:?}: that one refuses as well");
        // Whom to wait for is asked without limits.
        plan.backends.iter_mut().for_each(|backend| backend.connections_max = 0);
        assert_eq!(pick(&plan, &[1, 2], [5, 0, 0]), Pick::Backend(0), "{balance:?}");
    }
}

#[test]
fn a_returning_backend_is_warmed_up() {
    let mut plan = weights(Balance::WeightedRoundRobin, &[100, 100]);
    plan.slow_start_ms = 10_000;
    plan.backends[1].serves_since_ms = 1_000_000;
    let share = |now_ms: u64| {
        let mut balancer = Balancer::new(1);
        let picks = (0..1000).filter(|_| balancer.pick(&plan, &[][..], &Ask { now_ms, ..ask(0) }) == Pick::Backend(1));
        picks.count()
    };
    assert!(share(1_000_000) <= 1);
    assert_eq!(share(1_002_500), 200, "a quarter of the weight is a fifth of the requests");
    assert_eq!(share(1_010_000), 500);
    assert!(share(900_000) <= 1, "a clock that is behind log time is not a reason to rush");
}

#[test]
fn turns_outlive_plans() {
    let plan = weights(Balance::RoundRobin, &[1, 1, 1]);
    let mut balancer = Balancer::new(0);
    let mut picks = Vec::new();
    let mut pick = |plan: &ServicePlan| match balancer.pick(plan, &[][..], &ask(0)) {
        Pick::Backend(index) => picks.push(plan.backends[index].id.get()),
        Pick::No(why) => panic!("{why:?}"),
    };
    pick(&plan);
    pick(&plan);
    let mut turned = plan.clone();
    turned.backends.reverse();
    pick(&turned);
    picks.sort_unstable();
    assert_eq!(picks, [1, 2, 3], "another order of the list repeats nobody");
}

#[test]
fn workers_do_not_begin_with_the_same_backend() {
    let plan = weights(Balance::RoundRobin, &[1, 1, 1, 1]);
    let firsts: std::collections::BTreeSet<usize> = (0..32)
        .filter_map(|seed| match Balancer::new(seed).pick(&plan, &[][..], &ask(0)) {
            Pick::Backend(index) => Some(index),
            Pick::No(_) => None,
        })
        .collect();
    assert_eq!(firsts.len(), 4);
}

proptest! {
    #[test]
    fn a_loss_moves_only_its_own_keys(
        weight in prop::collection::vec(1..1000_u32, 2..12),
        lost in any::<prop::sample::Index>(),
        keys in prop::collection::vec(any::<u64>(), 64),
    ) {
        let before = weights(Balance::SourceHash, &weight);
        let mut after = before.clone();
        let lost = lost.index(weight.len());
        after.backends[lost].verdict = Verdict::Down;
        for key in keys {
            let was = Balancer::new(1).pick(&before, &[][..], &ask(key));
            let is = Balancer::new(2).pick(&after, &[][..], &ask(key));
            prop_assert_ne!(is, Pick::Backend(lost));
            if was != Pick::Backend(lost) {
                prop_assert_eq!(was, is);
            }
        }
    }

    #[test]
    fn more_weight_only_attracts_keys(
        weight in prop::collection::vec(1..500_u32, 2..12),
        grown in any::<prop::sample::Index>(),
        keys in prop::collection::vec(any::<u64>(), 64),
    ) {
        let before = weights(Balance::UriHash, &weight);
        let mut after = before.clone();
        let grown = grown.index(weight.len());
        after.backends[grown].weight *= 2;
        for key in keys {
            let was = Balancer::new(1).pick(&before, &[][..], &ask(key));
            let is = Balancer::new(2).pick(&after, &[][..], &ask(key));
            prop_assert!(is == was || is == Pick::Backend(grown));
        }
    }

    /// What the log and the API say by eligibilities alone is what the balancer does.
    #[test]
    fn candidates_are_those_of_the_shared_rule(
        states in prop::collection::vec((0..3_u32, any::<bool>(), 0..3_u8, 0..3_u8), 0..10),
        threshold in 0..101_u8,
    ) {
        let mut plan = weights(Balance::RoundRobin, &vec![1; states.len()]);
        plan.panic_threshold_percent = threshold;
        for (backend, (weight, backup, admin, verdict)) in plan.backends.iter_mut().zip(states) {
            backend.weight = weight;
            backend.backup = backup;
            backend.admin = [AdminState::Ready, AdminState::Drain, AdminState::Maintenance][usize::from(admin)];
            backend.verdict = [Verdict::Unknown, Verdict::Up, Verdict::Down][usize::from(verdict)];
        }
        let panic = panics(threshold, plan.backends.iter().map(BackendPlan::eligibility));
        let of = |backup: bool| -> Vec<BackendId> {
            let takes = plan.backends.iter().filter(|b| b.backup == backup && b.eligibility().takes_new(panic));
            takes.map(|b| b.id).collect()
        };
        let expected = if of(false).is_empty() { of(true) } else { of(false) };
        prop_assert_eq!(candidates(&plan), expected);
    }

    #[test]
    fn a_pick_is_always_one_that_may_be_picked(
        states in prop::collection::vec((0..3_u32, any::<bool>(), 0..3_u8, 0..3_u8, 0..3_u32, 0..4_u32), 0..10),
        which in 0..7_usize,
        threshold in 0..101_u8,
        exclude in prop::collection::vec(1..10_u32, 0..4),
    ) {
        let mut plan = weights(ALL[which], &vec![1; states.len()]);
        plan.panic_threshold_percent = threshold;
        let mut load = Vec::new();
        for (backend, (weight, backup, admin, verdict, connections_max, in_flight)) in plan.backends.iter_mut().zip(states) {
            backend.weight = weight;
            backend.backup = backup;
            backend.admin = [AdminState::Ready, AdminState::Drain, AdminState::Maintenance][usize::from(admin)];
            backend.verdict = [Verdict::Unknown, Verdict::Up, Verdict::Down][usize::from(verdict)];
            backend.connections_max = connections_max;
            load.push(in_flight);
        }
        let exclude: Vec<BackendId> = exclude.into_iter().map(BackendId::new).collect();
        let full = |index: usize| plan.backends[index].connections_max > 0 && load[index] >= plan.backends[index].connections_max;
        let mut balancer = Balancer::new(5);
        for key in 0..20 {
            match balancer.pick(&plan, &load[..], &Ask { exclude: &exclude, ..ask(key) }) {
                Pick::Backend(index) => {
                    let backend = &plan.backends[index];
                    prop_assert!(backend.weight > 0 && backend.admin == AdminState::Ready && !exclude.contains(&backend.id));
                    prop_assert!(!full(index));
                    prop_assert!(backend.verdict != Verdict::Down || threshold > 0);
                }
                Pick::No(why) => {
                    let usable = (0..plan.backends.len()).filter(|index| {
                        let backend = &plan.backends[*index];
                        backend.eligibility().takes_new(false) && !backend.backup && !exclude.contains(&backend.id) && !full(*index)
                    });
                    prop_assert_eq!(usable.count(), 0, "{:?}", why);
                }
            }
        }
    }
}
