//! What an operator was told of a client: that it is bound to another backend.
//!
//! From a second after the order was acknowledged each answer to the client is by that backend, through whatever node, until
//! something else may move it: another order, or backends that are broken or slow. What befalls nodes is no such thing: one that
//! cannot know what the client is bound to refuses to serve it in this farm.

use std::{collections::BTreeMap, time::Duration};

use ballast_jepsen::{
    says_why::Line,
    stickiness::{Cause, Reason},
    time::{RunTime, Span},
    verdict::Judgement,
};

use super::BACK_WITHIN;
use crate::{nemesis::Happened, plan::Kind, site::ADDRESS_FARM, workload::bindings::Served};

/// How long after an order was acknowledged all nodes go by it: a second, as with a drain.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// Why a client may be elsewhere that an operator moved. Of an order that was not acknowledged nobody knows when it is carried out.
pub(super) fn cause(fault: &Happened) -> Option<Cause> {
    let client = fault.victims.first().filter(|_| fault.kind == Kind::MoveClient)?;
    let until = match fault.acknowledged {
        Some(at) => at.after(KNOWN_WITHIN),
        None => fault.until.after(2 * BACK_WITHIN),
    };
    let span = Span::new(fault.from, until);
    Some(Cause {
        reason: Reason::Moved,
        farm: ADDRESS_FARM.to_owned(),
        client: Some(client.clone()),
        backend: None,
        span,
    })
}

/// Looks by whom clients were answered then. `away` has when backends were broken or slow; `lines` are those of the access logs.
pub(super) fn judge(
    mut judgement: Judgement,
    faults: &[Happened],
    served: &[Served],
    lines: &BTreeMap<&str, &Line>,
    away: &[Span],
) -> Judgement {
    let (mut moves, mut looked) = (0, 0);
    for (client, backend, window) in faults.iter().filter_map(|fault| order(fault, faults, away)) {
        moves += 1;
        let within = |one: &&Served| window.contains(one.invoked) && window.contains(one.completed);
        // A node that found no way there had another one serve the request, and says so.
        let bound = |one: &&Served| lines.get(one.id.as_str()).is_none_or(|line| line.binding != "unbound");
        for one in served.iter().filter(|one| one.visitor == client).filter(within).filter(bound) {
            looked += 1;
            if one.backend != backend {
                judgement.violated(format!(
                    "{client} was moved to {backend} a second before {} at the latest, and {} was answered by {} at {}",
                    window.from, one.id, one.backend, one.invoked
                ));
            }
        }
    }
    judgement.count("moves of clients", moves).count("answers after such moves", looked)
}

/// The client and the backend of an order that was carried out, and for how long it is known to hold.
fn order<'a>(fault: &'a Happened, faults: &[Happened], away: &[Span]) -> Option<(&'a str, &'a str, Span)> {
    let [client, backend] = &fault.victims[..] else { return None };
    if fault.kind != Kind::MoveClient || !fault.came_about {
        return None;
    }
    let known = fault.acknowledged?.after(KNOWN_WITHIN);
    let orders = faults.iter().filter(|other| other.kind == Kind::MoveClient && other.from > fault.from);
    let orders = orders.filter(|other| other.victims.first() == Some(client)).map(|other| other.from);
    let reasons = away.iter().filter(|away| away.until >= fault.from).map(|away| away.from);
    let until = orders.chain(reasons).min().unwrap_or(RunTime::NEVER);
    (known < until).then(|| (client.as_str(), backend.as_str(), Span::new(known, until)))
}

#[cfg(test)]
mod tests {
    use ballast_jepsen::verdict::{Promise, Ruling};

    use super::*;

    fn at(millis: u64) -> RunTime {
        RunTime::from_millis(millis)
    }

    /// An order that is acknowledged a tenth of a second after it is given.
    fn moves(from: u64, client: &str, backend: &str) -> Happened {
        Happened {
            kind: Kind::MoveClient,
            victims: [client, backend].map(str::to_owned).to_vec(),
            from: at(from),
            until: at(from + 500),
            whole_until: None,
            came_about: true,
            acknowledged: Some(at(from + 100)),
        }
    }

    fn served(from: u64, backend: &str) -> Served {
        let [id, visitor, backend] = ["7", "client", backend].map(str::to_owned);
        Served { id, visitor, before: None, backend, through: 0, invoked: at(from), completed: at(from + 10) }
    }

    fn ruled(faults: &[Happened], served: Served, binding: &str, away: &[Span]) -> Ruling {
        let [id, node, ended, binding, binding_cause] = ["7", "node-1", "done", binding, ""].map(str::to_owned);
        let line = Line { id, node, ended, binding, binding_cause, status: 200, took: String::new() };
        let lines = BTreeMap::from([("7", &line)]);
        judge(Judgement::new(Promise::Sticky), faults, &[served], &lines, away).ruling
    }

    #[test]
    fn a_client_that_is_not_where_an_operator_moved_it_is_found() {
        let order = [moves(10_000, "client", "web2")];
        assert_eq!(ruled(&order, served(11_200, "web1"), "hit", &[]), Ruling::Violated);
        assert_eq!(ruled(&order, served(11_200, "web2"), "hit", &[]), Ruling::Held);
        assert_eq!(ruled(&order, served(11_000, "web1"), "hit", &[]), Ruling::Held, "not all know of it");
        assert_eq!(ruled(&order, served(11_200, "web1"), "unbound", &[]), Ruling::Held, "it is told apart");
        let refused = [Happened { came_about: false, acknowledged: None, ..order[0].clone() }];
        assert_eq!(ruled(&refused, served(11_200, "web1"), "hit", &[]), Ruling::Held);
        let of_another = [moves(10_000, "backends", "web2")];
        assert_eq!(ruled(&of_another, served(11_200, "web1"), "hit", &[]), Ruling::Held);
    }

    #[test]
    fn an_order_holds_until_something_else_may_move_the_client() {
        let again = |client: &str| [moves(10_000, "client", "web2"), moves(20_000, client, "web1")];
        assert_eq!(ruled(&again("client"), served(20_050, "web1"), "hit", &[]), Ruling::Held);
        assert_eq!(ruled(&again("client"), served(19_000, "web1"), "hit", &[]), Ruling::Violated);
        assert_eq!(ruled(&again("client"), served(22_000, "web2"), "hit", &[]), Ruling::Violated);
        assert_eq!(ruled(&again("backends"), served(22_000, "web1"), "hit", &[]), Ruling::Violated);
        let order = [moves(10_000, "client", "web2")];
        let away = |from, until| [Span::new(at(from), at(until))];
        assert_eq!(ruled(&order, served(22_000, "web1"), "hit", &away(15_000, 16_000)), Ruling::Held);
        assert_eq!(ruled(&order, served(22_000, "web1"), "hit", &away(9_000, 10_050)), Ruling::Held);
        assert_eq!(ruled(&order, served(14_000, "web1"), "hit", &away(15_000, 16_000)), Ruling::Violated);
        assert_eq!(ruled(&order, served(22_000, "web1"), "hit", &away(8_000, 9_000)), Ruling::Violated);
    }

    #[test]
    fn an_order_is_a_reason_to_move_until_all_know_of_it() {
        let order = moves(10_000, "client", "web2");
        let until = |fault: &Happened| cause(fault).map(|cause| (cause.reason, cause.span.until));
        assert_eq!(until(&order), Some((Reason::Moved, at(11_100))));
        assert_eq!(until(&Happened { acknowledged: None, ..order.clone() }), Some((Reason::Moved, at(20_500))));
        assert_eq!(until(&Happened { kind: Kind::MoveVip, ..order }), None);
    }
}
