//! Every state of the quick setups, with all rules kept and with each broken.

use ballast_lease_model::{Danger, QUICK, Rule, Setup, search, tell};

fn setup(name: &str) -> &'static Setup {
    QUICK.iter().find(|setup| setup.name == name).expect("a quick setup")
}

/// Looks at every state with all rules kept, and expects at least `unique` of them.
fn holds(name: &str, unique: usize) {
    let outcome = search(setup(name), None, 1);
    for sighting in &outcome.sightings {
        match &sighting.path {
            Some(path) if sighting.must_hold => panic!("not \"{}\":\n{}", sighting.property, tell(path)),
            None if !sighting.must_hold => panic!("never \"{}\"", sighting.property),
            _ => {}
        }
    }
    assert!(outcome.complete, "the search ended before every state was looked at");
    assert!(outcome.unique >= unique, "only {} states: less happens than before", outcome.unique);
}

/// Breaks a rule and expects its danger within `steps`.
fn needed(rule: Rule, name: &str, steps: usize) {
    let property = rule.danger().property().expect("a rule that the model shows to be needed");
    let outcome = search(setup(name), Some(rule), 1);
    let path = outcome.violation(property).unwrap_or_else(|| panic!("{rule:?} is broken without being noticed"));
    assert!(path.len() - 1 <= steps, "{} steps:\n{}", path.len() - 1, tell(path));
}

/// Breaks a rule and expects that nothing comes of it in any state.
fn not_seen_to_be_needed(rule: Rule, name: &str) {
    assert_eq!(rule.danger(), Danger::None);
    let outcome = search(setup(name), Some(rule), 1);
    assert!(outcome.complete, "{rule:?} is needed after all; say so where it is listed");
}

#[test]
fn leases_have_one_owner() {
    holds("leases", 1);
}

#[test]
fn frozen_processes_have_one_owner() {
    holds("freezes", 1);
}

#[test]
fn a_planned_move_has_one_owner_and_takes_no_time() {
    holds("move", 1);
}

#[test]
fn a_membership_change_has_one_owner() {
    holds("change", 1);
}

#[test]
fn every_rule_on_time_and_clocks_is_needed() {
    needed(Rule::TimedFromAsking, "leases", 99);
    needed(Rule::DriftMargin, "leases", 99);
    needed(Rule::QuietAfterRestart, "leases", 99);
    needed(Rule::AbsoluteDeadline, "leases", 99);
    needed(Rule::ClosedAtStart, "leases", 99);
}

#[test]
fn every_rule_on_promises_and_epochs_is_needed() {
    needed(Rule::DistinctVoters, "leases", 99);
    needed(Rule::OnePromise, "leases", 99);
    needed(Rule::ReleasedStaysReleased, "leases", 99);
    needed(Rule::CloseBeforeTelling, "leases", 99);
    needed(Rule::ReleaseFreesOwnPromise, "leases", 99);
    needed(Rule::EpochsOnlyGrow, "leases", 99);
}

#[test]
fn every_rule_on_memberships_is_needed() {
    needed(Rule::EveryVoterSet, "change", 99);
    needed(Rule::RefuseStaleMembership, "change", 99);
    needed(Rule::SettleAfterChange, "change", 99);
}

#[test]
fn two_rules_are_for_what_the_model_does_not_see() {
    not_seen_to_be_needed(Rule::ResetAtStart, "leases");
    not_seen_to_be_needed(Rule::HeldSetsCount, "change");
}
