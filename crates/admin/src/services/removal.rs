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
    /// Whether a request that names a node so may be this one again.
    fn is_of(&self, node: &str) -> bool {
        node == self.of || node == self.node.name || node == self.node.id.to_string()
    }

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
        let refused = match self.remove_as_found(caller, &request).await {
            Err(error) if error.code() == ErrorCode::NotFound => error,
            answer => return answer,
        };
        // Another try may have been on its way, and have come first.
        let sent = self.sent_removal(caller, &request)?;
        let answer = sent.and_then(|sent| self.read(|state| sent.answer(state, caller))).ok_or(refused)?;
        Ok(NodeChangeResponse { header: Some(self.header()), ..answer })
    }

    /// What was proposed under the id of a request that is no rehearsal.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when it was the removal of another node, or the id is too long.
    fn sent_removal(&self, caller: &Caller, request: &RemoveNodeRequest) -> Result<Option<Removal>, ApiError> {
        let sent = self.removals.find(caller, REMOVE_NODE, &request.request_id)?.filter(|_| !request.validate_only);
        if sent.as_ref().is_some_and(|sent| !sent.is_of(&request.node)) {
            let remedy = "leave it out, or give each removal one of its own";
            return Err(error::invalid("request_id", "it was given to the removal of another node", remedy));
        }
        Ok(sent)
    }

    async fn remove_as_found(
        &self,
        caller: &Caller,
        request: &RemoveNodeRequest,
    ) -> Result<NodeChangeResponse, ApiError> {
        if let Some(sent) = self.sent_removal(caller, request)? {
            let (header, answer) = self.read_at(caller, 0, |state| sent.answer(state, caller)).await?;
            if let Some(answer) = answer {
                return Ok(NodeChangeResponse { header: Some(header), ..answer });
            }
        }
        let (header, found) = self
            .read_at(caller, 0, |state| {
                let node = view::find_node_exactly(state, &request.node)?;
                Ok::<_, ApiError>((node.id, node.seen(), view::node(state, node)))
            })
            .await?;
        let (id, seen, before) = found?;
        // Another try may have come while this one waited.
        let sent = self.sent_removal(caller, request)?;
        if let Some(other) = sent.as_ref().map(|sent| sent.node.id).filter(|sent| *sent != id.get()) {
            // The one that was meant is gone, and another machine has its name.
            let name = &before.name;
            let problem = format!("it was given to the removal of node {other}, and {name} is another one, node {id}");
            let remedy = format!("to remove {name} as it is now, give that an id of its own");
            return Err(error::invalid("request_id", problem, remedy));
        }
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
        let proposed = self.propose(caller, command).await;
        let (index, _) = proposed.map_err(|error| view::overtaken(error, &request.etag, &before.name))?;
        Ok(NodeChangeResponse { header: Some(self.header()), node: Some(before), log_index: index.get(), notes })
    }
}
