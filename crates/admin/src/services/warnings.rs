//! What of a document is accepted and probably not what was meant.
//!
//! - *A preferred node that is not there.* It may join later than a document names it, so that is no mistake; a name that
//!   is mistyped looks the same and leaves the VIP to the spread over all nodes without a word.
//! - *An address that is held and left out.* That is how one is taken out of use, and also what becomes of a file that
//!   was generated or merged in part.

use std::collections::BTreeSet;

use ballast_core::{
    config::Document,
    state::{NodeRole, State},
};
use ballast_proto::admin::v1::{Mistake, mistake::Severity};

use super::Shared;

/// Most warnings about one document. Arbitrary, and more than anybody reads.
const WARNINGS_MAX: usize = 20;

/// A member of the cluster, as far as it matters to a preference.
#[derive(Clone, Debug)]
struct Known {
    name: String,
    witness: bool,
}

impl Shared {
    /// What of a document is probably not what was meant, beside the one that is in force.
    pub(super) fn warnings(&self, document: &Document) -> Vec<Mistake> {
        self.read(|state| {
            let mut warnings = removals(&held(state), document);
            warnings.extend(judge(&known(state), document));
            warnings
        })
    }
}

/// A VIP that a node holds, as far as the log says.
#[derive(Clone, Debug)]
struct Held {
    name: String,
    addresses: Vec<String>,
    owner: String,
}

fn held(state: &State) -> Vec<Held> {
    let held = state.vips().filter_map(|(id, vip)| {
        let owner = state.tenures(id).next()?.owner?;
        let owner = state.node(owner).map_or_else(|| format!("node {owner}"), |node| node.info.name.clone());
        Some(Held { name: vip.name.clone(), addresses: vip.addresses.iter().map(ToString::to_string).collect(), owner })
    });
    held.collect()
}

/// Addresses that are held and that the document has no more.
fn removals(held: &[Held], document: &Document) -> Vec<Mistake> {
    let kept: BTreeSet<String> = document.vips.iter().flat_map(|vip| &vip.addresses).map(ToString::to_string).collect();
    let removed = held.iter().filter_map(|vip| {
        let gone: Vec<&str> = vip.addresses.iter().map(String::as_str).filter(|one| !kept.contains(*one)).collect();
        (!gone.is_empty()).then(|| {
            let problem = format!(
                "{} holds {} for VIP {}, which the document has no more: nobody answers for it once that is in force",
                vip.owner,
                gone.join(", "),
                vip.name
            );
            warning("vips", problem, "if clients still use it, put it back into the document, or: ballastctl rollback")
        })
    });
    bounded(removed.collect(), |more| {
        warning("vips", format!("{more} more VIPs that nodes hold lose addresses"), "ballastctl diff shows them")
    })
}

fn warning(path: impl Into<String>, problem: String, remedy: impl Into<String>) -> Mistake {
    let (path, remedy) = (path.into(), remedy.into());
    Mistake { severity: Severity::Warning.into(), path, problem, remedy, ..Mistake::default() }
}

/// At most [`WARNINGS_MAX`], and one that says how many more there are.
fn bounded(mut warnings: Vec<Mistake>, more: impl Fn(usize) -> Mistake) -> Vec<Mistake> {
    let left_out = warnings.len().saturating_sub(WARNINGS_MAX);
    warnings.truncate(WARNINGS_MAX);
    warnings.extend((left_out > 0).then(|| more(left_out)));
    warnings
}

fn known(state: &State) -> Vec<Known> {
    let known = |node: &ballast_core::state::Node| Known {
        name: node.info.name.clone(),
        witness: node.info.role == NodeRole::Witness,
    };
    state.nodes().map(known).collect()
}

fn judge(nodes: &[Known], document: &Document) -> Vec<Mistake> {
    let takers: Vec<&str> = nodes.iter().filter(|node| !node.witness).map(|node| node.name.as_str()).collect();
    let there =
        if takers.is_empty() { "there are none yet".to_owned() } else { format!("there are {}", takers.join(", ")) };
    let remedy = format!("of nodes that hold VIPs {there}");
    let named = document.vips.iter().flat_map(|vip| vip.prefer.iter().enumerate().map(move |at| (vip, at)));
    let doubtful = named.filter_map(|(vip, (position, name))| {
        let problem = match nodes.iter().find(|node| node.name == *name) {
            None => format!("no node `{name}` is in the cluster; it counts once it joins"),
            Some(node) if node.witness => format!("`{name}` is a witness, which holds no VIP"),
            Some(_) => return None,
        };
        Some(warning(format!("vips[{}].prefer[{position}]", vip.name), problem, remedy.as_str()))
    });
    bounded(doubtful.collect(), |more| {
        let problem = format!("{more} more nodes are preferred that are not there or hold no VIP");
        warning("vips", problem, remedy.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(vips: &[(&str, &[&str])]) -> Document {
        let vip = |(name, prefer): &(&str, &[&str])| {
            format!(r#"{{"name":"{name}","addresses":["10.0.0.1"],"prefer":{prefer:?}}}"#)
        };
        let vips: Vec<String> = vips.iter().map(vip).collect();
        serde_json::from_str(&format!(r#"{{"version":1,"vips":[{}]}}"#, vips.join(","))).expect("a document")
    }

    fn check(vips: &[(&str, &[&str])], expected: &[&str]) {
        let of = |name: &str, witness| Known { name: name.to_owned(), witness };
        let nodes = [of("alpha", false), of("beta", false), of("judge", true)];
        let line = |mistake: &Mistake| format!("{}: {} ({})", mistake.path, mistake.problem, mistake.remedy);
        let found = judge(&nodes, &document(vips));
        assert!(found.iter().all(|mistake| mistake.severity() == Severity::Warning), "{found:?}");
        assert_eq!(found.iter().map(line).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_preferred_node_that_is_not_there_is_named_with_those_that_are() {
        check(&[("web", &["beta", "alpha"]), ("mail", &[])], &[]);
        check(
            &[("web", &["alpha"]), ("mail", &["beta", "alhpa", "judge"])],
            &[
                "vips[mail].prefer[1]: no node `alhpa` is in the cluster; it counts once it joins (of nodes that hold VIPs \
                 there are alpha, beta)",
                "vips[mail].prefer[2]: `judge` is a witness, which holds no VIP (of nodes that hold VIPs there are alpha, \
                 beta)",
            ],
        );
    }

    #[test]
    fn an_address_that_is_held_and_left_out_is_named_with_its_owner() {
        let held = |name: &str, addresses: &[&str]| Held {
            name: name.to_owned(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            owner: "node-1".to_owned(),
        };
        let problems = |held: &[Held], vips: &[(&str, &[&str])]| {
            let found = removals(held, &document(vips));
            assert!(found.iter().all(|mistake| mistake.severity() == Severity::Warning), "{found:?}");
            found.into_iter().map(|mistake| mistake.problem).collect::<Vec<_>>()
        };
        // Each VIP of these documents has 10.0.0.1.
        assert_eq!(problems(&[held("web", &["10.0.0.1"])], &[("renamed", &[])]), [""; 0], "its address is kept");
        let told = "node-1 holds 10.0.0.1 for VIP web, which the document has no more: nobody answers for it once that is \
                    in force";
        assert_eq!(problems(&[held("web", &["10.0.0.1"])], &[]), [told]);
        let told = "node-1 holds 10.0.0.2, fd00::2 for VIP web, which the document has no more: nobody answers for it once \
                    that is in force";
        assert_eq!(problems(&[held("web", &["10.0.0.1", "10.0.0.2", "fd00::2"])], &[("web", &[])]), [told]);
        let many: Vec<Held> = (0..30).map(|number| held(&format!("v{number}"), &["10.0.1.1"])).collect();
        let told = problems(&many, &[]);
        assert_eq!(told.len(), WARNINGS_MAX + 1);
        assert!(told[WARNINGS_MAX].starts_with("10 more VIPs"), "{told:?}");
    }

    #[test]
    fn very_many_are_counted() {
        let names: Vec<String> = (0..30).map(|number| format!("n{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let found = judge(&[], &document(&[("web", &names)]));
        assert_eq!(found.len(), WARNINGS_MAX + 1);
        let last = found.last().expect("there are some");
        assert!(last.problem.starts_with("10 more nodes") && last.remedy.ends_with("there are none yet"), "{last:?}");
    }
}
