//! What every service does: confirm a read, propose a change, name the caller.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ballast_core::{
    ids::{LogIndex, NodeId},
    state::{Command, Outcome, State},
};
use ballast_proto::admin::v1::{ReadConsistency, ResponseHeader};
use parking_lot::Mutex;

use super::{Parts, bench::Bench, removal::Removal, sessions::DeletedSession};
use crate::{
    access::{Caller, Members},
    error::{self, ApiError},
    node::read_state,
    view,
};

/// Longest that a read waits for a quorum. A leader is elected well within it.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Retries that are remembered. A client retries within seconds; this is minutes of writes.
const REQUESTS_MAX: usize = 4096;

/// Longest request id: a UUID has 36 bytes, and with [`REQUESTS_MAX`] this bounds what the ids take.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The services' common ground.
pub struct Shared {
    pub(super) parts: Parts,
    answered: Answered<(String, (LogIndex, Outcome))>,
    pub(super) deleted: Answered<DeletedSession>,
    pub(super) removals: Answered<Removal>,
    /// Reads documents.
    pub(super) parsing: Bench,
    /// Reads and compares old documents for watches, of which there may be many. They hold up each other, and nobody who
    /// waits for an answer.
    pub(super) telling: Arc<Bench>,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            answered: Answered::default(),
            deleted: Answered::default(),
            removals: Answered::default(),
            parsing: Bench::new(),
            telling: Arc::new(Bench::new()),
        }
    }

    /// Reads the state as it is here.
    pub(super) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read_state(&*self.parts.state, read)
    }

    /// Reads the state once it is as fresh as the caller wants it. The header belongs to the very
    /// state that was read.
    pub(super) async fn read_at<R>(
        &self,
        caller: &Caller,
        consistency: i32,
        read: impl FnOnce(&State) -> R,
    ) -> Result<(ResponseHeader, R), ApiError> {
        let used = self.confirm(caller, consistency).await?;
        let status = self.parts.operations.status();
        Ok(self
            .read(|state| (ResponseHeader { consistency: used.into(), ..view::header(state, &status) }, read(state))))
    }

    async fn confirm(&self, caller: &Caller, wanted: i32) -> Result<ReadConsistency, ApiError> {
        // A value that this version does not know asks for the strongest.
        let wanted = ReadConsistency::try_from(wanted).unwrap_or(ReadConsistency::Linearizable);
        if wanted == ReadConsistency::Stale {
            return Ok(wanted);
        }
        if wanted == ReadConsistency::LeaderLease {
            let freshness = self.read(view::freshness);
            if self.parts.operations.status().confirmed_age.is_some_and(|age| age <= freshness) {
                return Ok(wanted);
            }
        }
        self.parts.read_index.confirm(caller.remaining().min(CONFIRM_TIMEOUT)).await?;
        Ok(ReadConsistency::Linearizable)
    }

    /// A header for an answer that comes after a write; the state includes the write.
    pub(super) fn header(&self) -> ResponseHeader {
        let status = self.parts.operations.status();
        self.read(|state| view::header(state, &status))
    }

    /// Proposes a command. A refusal of the state machine is an error.
    pub(super) async fn propose(&self, caller: &Caller, command: Command) -> Result<(LogIndex, Outcome), ApiError> {
        let applied = self.parts.propose.propose(command, caller.remaining()).await?;
        match applied.outcome {
            Outcome::Refused(refusal) => Err(refusal.into()),
            outcome => Ok((applied.index, outcome)),
        }
    }

    /// Proposes a command that a retry with the same request id must not repeat.
    ///
    /// This node remembers what it answered; a retry at another node sets the same thing again,
    /// which changes nothing but the history, because these commands say what is wanted and not
    /// by how much to change it.
    pub(super) async fn propose_once(
        &self,
        caller: &Caller,
        method: &'static str,
        request_id: &str,
        command: Command,
    ) -> Result<LogIndex, ApiError> {
        Ok(self.outcome_once(caller, method, request_id, command).await?.0)
    }

    /// Whether a request that is no rehearsal was answered already: what it asks for was checked and done then, and its
    /// etag is from before that.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for an id that is too long.
    pub(super) fn was_answered(
        &self,
        caller: &Caller,
        method: &'static str,
        request_id: &str,
        rehearsal: bool,
    ) -> Result<bool, ApiError> {
        Ok(self.answered.find(caller, method, request_id)?.is_some() && !rehearsal)
    }

    /// As [`Self::propose_once`], with what the command came to.
    pub(super) async fn outcome_once(
        &self,
        caller: &Caller,
        method: &'static str,
        request_id: &str,
        command: Command,
    ) -> Result<(LogIndex, Outcome), ApiError> {
        let wanted = wanted(&command);
        match self.answered.find(caller, method, request_id)? {
            Some((before, answer)) if before == wanted => return Ok(answer),
            Some(_) => {
                let remedy = "use another id for each change, and the same one only to send a change again";
                return Err(error::invalid("request_id", "it came with another change before", remedy));
            }
            None => {}
        }
        let answer = self.propose(caller, command).await?;
        self.answered.keep(caller, method, request_id, (wanted, answer.clone()));
        Ok(answer)
    }
}

/// What a change wants of what, whoever wants it and why: the same each time that it is sent.
fn wanted(command: &Command) -> String {
    match command {
        Command::SetNode { node, admin, .. } => format!("{node:?} {admin:?}"),
        Command::SetBackend { backend, admin, weight, .. } => format!("{backend:?} {admin:?} {weight:?}"),
        Command::MoveVip { vip, to, .. } => format!("{vip:?} {to:?}"),
        Command::SetBinding { service, key, to, pinned, .. } => format!("{service:?} {key:?} {to:?} {pinned}"),
        // Of others the method says it, or they are another command each time: a new secret.
        _ => String::new(),
    }
}

/// What this node answered to requests that may come again.
pub(super) struct Answered<T>(Mutex<VecDeque<(String, T)>>);

impl<T> Default for Answered<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Answered<T> {
    /// What the caller was answered to this request; nothing is known of one without an id.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for an id that is too long.
    pub(super) fn find(&self, caller: &Caller, method: &'static str, request_id: &str) -> Result<Option<T>, ApiError> {
        check_request_id(request_id)?;
        let Some(name) = name_of(caller, method, request_id) else { return Ok(None) };
        Ok(self.0.lock().iter().find(|(known, _)| *known == name).map(|(_, answer)| answer.clone()))
    }

    /// Keeps an answer, the oldest giving way. The id is one that was looked for.
    pub(super) fn keep(&self, caller: &Caller, method: &'static str, request_id: &str, answer: T) {
        let Some(name) = name_of(caller, method, request_id) else { return };
        let mut answered = self.0.lock();
        if answered.len() >= REQUESTS_MAX {
            answered.pop_front();
        }
        answered.push_back((name, answer));
    }
}

fn name_of(caller: &Caller, method: &'static str, request_id: &str) -> Option<String> {
    (!request_id.is_empty()).then(|| format!("{}\n{method}\n{request_id}", caller.name))
}

/// Refuses an id that is too long to be remembered.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub(super) fn check_request_id(id: &str) -> Result<(), ApiError> {
    if id.len() <= REQUEST_ID_BYTES_MAX {
        return Ok(());
    }
    let remedy = format!("use at most {REQUEST_ID_BYTES_MAX} bytes; a UUID does");
    Err(error::invalid("request_id", "it is too long", remedy))
}

impl Members for Shared {
    fn name_of(&self, node: NodeId) -> Option<String> {
        self.read(|state| view::node_name(state, node))
    }

    fn is_revoked(&self, fingerprint: &[u8; 32]) -> bool {
        self.read(|state| state.is_revoked(fingerprint))
    }

    fn own_name(&self) -> String {
        let node = self.parts.operations.status().node;
        self.name_of(node).unwrap_or_else(|| format!("node-{node}"))
    }
}
