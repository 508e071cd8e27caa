//! One VIP as status pages show it.

use super::{
    Candidate, Context, Hold, is_unfit,
    leaving::{Leaving, Why, should_leave},
};
use crate::{
    ids::NodeId,
    lease::{Epoch, Fitness, view::Confirmed},
    time::BootNanos,
};

/// For status pages.
pub(in crate::lease) struct Look {
    pub holder: Option<NodeId>,
    pub epoch: Epoch,
    pub until: BootNanos,
    pub fresh: Option<(Confirmed, Confirmed)>,
    pub why: &'static str,
}

impl Candidate {
    /// For status pages.
    pub(in crate::lease) fn look(&self, ctx: &Context<'_>) -> Look {
        match &self.hold {
            Hold::Held { armed, until, fresh, since, leaving, covers, .. } => Look {
                holder: Some(ctx.node),
                epoch: *armed,
                until: *until,
                fresh: Some((*fresh, *since)),
                why: match leaving {
                    Leaving::Offering { why: Why::Unfit(_), .. } => "this node holds it and is giving it away",
                    Leaving::Offering { why: Why::Reluctant(_), .. } => "this node holds it and offers it to fit ones",
                    Leaving::Offering { why: Why::Better, .. } => {
                        "this node holds it and is handing it to a better one"
                    }
                    Leaving::Stays { .. } if covers.digest() != ctx.scope.digest() => {
                        "this node holds it and waits for a majority of voters to know its new addresses"
                    }
                    Leaving::Stays { .. } if matches!(ctx.fitness, Fitness::Reluctant(_)) => {
                        "this node holds it for want of a fit one"
                    }
                    Leaving::Stays { .. } if should_leave(ctx).is_some() => {
                        "this node holds it until the better one takes it"
                    }
                    Leaving::Stays { .. } => "this node holds it",
                },
            },
            _ => {
                let known = self.known.filter(|known| ctx.now < known.until);
                Look {
                    holder: known.map(|k| k.by.node),
                    epoch: known.map_or(self.highest, |k| k.by.epoch),
                    until: BootNanos::default(),
                    fresh: None,
                    why: match (&self.hold, known) {
                        (Hold::Claiming { .. }, _) => "this node is claiming it",
                        (_, Some(_)) => "another node holds it",
                        _ if is_unfit(ctx) => "nobody is known to hold it, and this node may not",
                        _ if ctx.now < ctx.settled_at => "this node has just started or the voters changed",
                        _ if !ctx.hears => "no majority of voters answers this node",
                        _ if self.is_known_otherwise(ctx) => {
                            "voters know it by other addresses or not at all; they or this node have not applied the last change"
                        }
                        _ => "nobody is known to hold it",
                    },
                }
            }
        }
    }
}
