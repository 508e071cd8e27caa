//! Every state of the quick setups, with all rules kept and with each broken.

use ballast_lease_model::{Danger, QUICK, Rule, Setup, search, shows, tell};

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

/// Breaks a rule and expects its danger, after exactly `steps`: one thread finds the shortest way.
fn needed(rule: Rule, steps: usize) {
    let property = rule.danger().property().expect("a rule that the model shows to be needed");
    let outcome = search(&shows(rule), Some(rule), 1);
    let path = outcome.violation(property).unwrap_or_else(|| panic!("{rule:?} is broken without being noticed"));
    assert_eq!(path.len() - 1, steps, "{rule:?}:\n{}", tell(path));
}

/// Breaks a rule and expects that nothing comes of it in any state.
fn not_seen_to_be_needed(rule: Rule) {
    assert_eq!(rule.danger(), Danger::None);
    let outcome = search(&shows(rule), Some(rule), 1);
    assert!(outcome.complete, "{rule:?} is needed after all; say so where it is listed");
}

#[test]
fn crashes_lead_to_no_second_owner() {
    holds("crashes", 700_000);
}

#[test]
fn releases_lead_to_no_second_owner() {
    holds("releases", 1_000_000);
}

#[test]
fn frozen_processes_lead_to_no_second_owner() {
    holds("freezes", 400_000);
}

#[test]
fn a_planned_move_leads_to_no_second_owner_and_takes_no_time() {
    holds("move", 400_000);
}

#[test]
fn a_membership_change_leads_to_no_second_owner() {
    holds("change", 1_000_000);
}

#[test]
fn crashes_in_a_membership_change_lead_to_no_second_owner() {
    holds("change-crash", 500_000);
}

#[test]
fn every_rule_on_time_and_clocks_is_needed() {
    needed(Rule::TimedFromAsking, 10);
    needed(Rule::DriftMargin, 9);
    needed(Rule::QuietAfterRestart, 9);
    needed(Rule::AbsoluteDeadline, 12);
    needed(Rule::ClosedAtStart, 5);
}

#[test]
fn every_rule_on_promises_releases_and_epochs_is_needed() {
    needed(Rule::DistinctVoters, 10);
    needed(Rule::OnePromise, 8);
    needed(Rule::ReleasedStaysReleased, 10);
    needed(Rule::CloseBeforeTelling, 11);
    needed(Rule::ReleaseFreesOwnPromise, 10);
    needed(Rule::EpochsOnlyGrow, 10);
}

#[test]
fn every_rule_on_memberships_is_needed() {
    needed(Rule::EveryVoterSet, 11);
    needed(Rule::RefuseStaleMembership, 14);
    needed(Rule::SettleAfterChange, 12);
    needed(Rule::HeldSetsCount, 11);
}

#[test]
fn every_rule_on_memberships_that_voters_tell_is_needed() {
    needed(Rule::CountTold, 16);
    needed(Rule::CountOwnBesideTold, 14);
    // `GrantsCountAsAsked` takes eight million states: `make model` looks at these.
}

#[test]
fn one_rule_is_not_seen_to_be_needed() {
    not_seen_to_be_needed(Rule::ResetAtStart);
}
