//! Removal of a node.
//!
//! A retry finds nothing to remove. So what was proposed under a request's id is kept, and whether it came to be is read
//! in the history: the first answer may have been that nobody knows, or have reached nobody.
//!
//! Not here: who leaves the voters, and when (`ballast-raft`).

use ballast_core::{
    ids::NodeId,
    state::{Command, Event, EventKind, NodeAdmin, State, Subject},
};
use ballast_proto::admin::v1::{Node, NodeChangeResponse, RemoveNodeRequest};

use super::Shared;
use crate::{
    access::Caller,
    error::{self, ApiError, ErrorCode},
    pki::random_secret,
    view,
};

/// Names removals among requests that may come again.
const REMOVE_NODE: &str = "RemoveNode";

/// A removal that was proposed.
#[derive(Clone)]
pub(super) struct Removal {
    /// The node, as the request names it.
    of: String,
    /// As it was.
    node: Node,
    notes: Vec<String>,
}

impl Removal {
    /// The answer to it, once the log has that the caller removed the node.
    fn answer(&self, state: &State, caller: &Caller) -> Option<NodeChangeResponse> {
        let subject = Subject::Node(NodeId::new(self.node.id));
        let removed = |event: &&Event| event.kind == EventKind::NodeRemoved && event.subject == subject;
        let removed = state.events().find(removed)?;
        (removed.author.name == *caller.name).then(|| NodeChangeResponse {
            header: None,
            node: Some(self.node.clone()),
            log_index: removed.index.get(),
            notes: self.notes.clone(),
        })
    }
}

impl Shared {
    /// Removes a node for good.
    pub(super) async fn remove(
        &self,
        caller: &Caller,
        request: RemoveNodeRequest,
    ) -> Result<NodeChangeResponse, ApiError> {
        let sent = self.removals.find(caller, REMOVE_NODE, &request.request_id).filter(|_| !request.validate_only);
        if let Some(sent) = &sent {
            if sent.of != request.node {
                let remedy = "leave it out, or give each removal one of its own";
                return Err(error::invalid("request_id", "it was given to the removal of another node", remedy));
            }
            let (header, answer) = self.read_at(caller, 0, |state| sent.answer(state, caller)).await?;
            if let Some(answer) = answer {
                return Ok(NodeChangeResponse { header: Some(header), ..answer });
            }
        }
        let (header, found) = self
            .read_at(caller, 0, |state| {
                let node = view::find_node(state, &request.node)?;
                Ok::<_, ApiError>((node.id, node.seen(), view::node(state, node)))
            })
            .await?;
        let (id, seen, before) = found?;
        view::check_etag(&request.etag, &before.etag, &before.name)?;
        if seen.admin != NodeAdmin::Drain && !request.force && self.answers(&before).await {
            let message = format!("node {} answers and is not drained", before.name);
            return Err(error::status(ErrorCode::Precondition, message, &before.name)
                .remedy(format!("drain it first: `ballastctl node drain {}`", before.name))
                .remedy("or remove it all the same with --force"));
        }
        self.check_majority_without(id, &before.name).await?;
        let local = self.parts.operations.status();
        let mut notes = vec!["its id is never used again; to come back it joins as a new node".to_owned()];
        if local.voters.contains(&id) {
            notes.push("it is a voter; a learner takes its vote when there is one".to_owned());
        }
        if request.validate_only {
            return Ok(NodeChangeResponse { header: Some(header), node: Some(before), log_index: 0, notes });
        }
        if sent.is_none() {
            let removal = Removal { of: request.node.clone(), node: before.clone(), notes: notes.clone() };
            self.removals.keep(caller, REMOVE_NODE, &request.request_id, removal);
        }
        let lease_secret = Some(random_secret().into());
        let expect = (!request.etag.is_empty()).then(|| Box::new(seen));
        let command = Command::RemoveNode { node: id, author: caller.author(&request.message), lease_secret, expect };
        let answer = match self.propose(caller, command).await {
            Ok((index, _)) => NodeChangeResponse { header: None, node: Some(before), log_index: index.get(), notes },
            Err(error) => {
                // An earlier try may have been on its way still.
                let sent = sent.filter(|_| error.code() == ErrorCode::NotFound);
                let answer = sent.and_then(|sent| self.read(|state| sent.answer(state, caller)));
                answer.ok_or_else(|| view::overtaken(error, &request.etag, &before.name))?
            }
        };
        Ok(NodeChangeResponse { header: Some(self.header()), ..answer })
    }
}
