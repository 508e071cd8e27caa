//! Whether the nodes that VIPs prefer are there.
//!
//! A node may join later than a document names it, so that is no mistake; a name that is mistyped looks the same and
//! leaves the VIP to the spread over all nodes without a word.

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
    /// What of a document's preferences is accepted and probably not what was meant.
    pub(super) fn doubtful_preferences(&self, document: &Document) -> Vec<Mistake> {
        self.read(|state| judge(&known(state), document))
    }
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
    let named = document.vips.iter().flat_map(|vip| vip.prefer.iter().enumerate().map(move |at| (vip, at)));
    let doubtful = named.filter_map(|(vip, (position, name))| {
        let problem = match nodes.iter().find(|node| node.name == *name) {
            None => format!("no node `{name}` is in the cluster; it counts once it joins"),
            Some(node) if node.witness => format!("`{name}` is a witness, which holds no VIP"),
            Some(_) => return None,
        };
        Some(Mistake {
            severity: Severity::Warning.into(),
            path: format!("vips[{}].prefer[{position}]", vip.name),
            problem,
            remedy: format!("of nodes that hold VIPs {there}"),
            ..Mistake::default()
        })
    });
    let mut doubtful: Vec<Mistake> = doubtful.collect();
    let more = doubtful.len().saturating_sub(WARNINGS_MAX);
    doubtful.truncate(WARNINGS_MAX);
    if more > 0 {
        doubtful.push(Mistake {
            severity: Severity::Warning.into(),
            path: "vips".to_owned(),
            problem: format!("{more} more nodes are preferred that are not there or hold no VIP"),
            remedy: format!("of nodes that hold VIPs {there}"),
            ..Mistake::default()
        });
    }
    doubtful
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
    fn very_many_are_counted() {
        let names: Vec<String> = (0..30).map(|number| format!("n{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let found = judge(&[], &document(&[("web", &names)]));
        assert_eq!(found.len(), WARNINGS_MAX + 1);
        let last = found.last().expect("there are some");
        assert!(last.problem.starts_with("10 more nodes") && last.remedy.ends_with("there are none yet"), "{last:?}");
    }
}
