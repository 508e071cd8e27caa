//! What clients are told when the cluster cannot do what they ask.

use std::time::Duration;

use ballast_core::{
    cluster::{NotConfirmed, ProposeError},
    ids::NodeId,
    session::Reply,
};

/// Why a command could not be carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unavailable {
    /// Certainly not done: no leader, or not a majority.
    #[error("CLUSTERDOWN no quorum: {0}; nothing was changed, try again")]
    NoQuorum(String),
    /// Certainly not done: too much waits.
    #[error("OVERLOADED {0} changes wait on this node; nothing was changed, try again later")]
    Overloaded(usize),
    /// Not read: too many read long.
    #[error(
        "OVERLOADED this takes long, as do others that are under way on this node; nothing was changed, try again later"
    )]
    LongReads,
    /// Certainly not done: an entry of the log cannot hold it.
    #[error("ERR too large: the command takes {0} bytes in the log and {1} are possible; nothing was changed")]
    TooLarge(usize, usize),
    /// Certainly not done: the leader cannot read it.
    #[error(
        "ERR node {0} leads and runs an earlier version, which cannot read this command; nothing was changed, finish \
         upgrading all nodes and try again"
    )]
    Unreadable(NodeId),
    /// Certainly not done: going down.
    #[error("CLUSTERDOWN this node is stopping; nothing was changed, connect to another node")]
    Stopping,
    /// May or may not be done.
    #[error("UNKNOWN outcome unknown: the command was sent but not confirmed within {}; look before you repeat it", whole_ms(.0))]
    OutcomeUnknown(Duration),
    /// An answer that does not fit the question: a bug of ours.
    #[error("UNKNOWN outcome unknown: the cluster's answer does not fit the command; this is a bug of Ballast")]
    Misfit,
}

impl Unavailable {
    /// What a read is told whose tick of log time did not come back: it changed nothing, whatever became of the tick.
    pub fn of_tick(error: ProposeError) -> Self {
        match error {
            ProposeError::OutcomeUnknown { waited } => {
                Self::NoQuorum(format!("log time was not carried forward within {}", whole_ms(&waited)))
            }
            error => error.into(),
        }
    }

    /// As a client is told.
    pub fn reply(&self) -> Reply {
        Reply::Error(self.to_string().into())
    }
}

/// A time as people say it, without what timers are short of.
fn whole_ms(time: &Duration) -> String {
    format!("{:?}", Duration::from_millis((time.as_secs_f64() * 1000.0).round() as u64))
}

impl From<ProposeError> for Unavailable {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NoQuorum { detail } => Self::NoQuorum(detail),
            ProposeError::OutcomeUnknown { waited } => Self::OutcomeUnknown(waited),
            ProposeError::Overloaded { queued } => Self::Overloaded(queued),
            ProposeError::TooLarge { bytes, bytes_max } => Self::TooLarge(bytes, bytes_max),
            ProposeError::Unreadable { leader } => Self::Unreadable(leader),
            ProposeError::Stopping => Self::Stopping,
        }
    }
}

impl From<NotConfirmed> for Unavailable {
    fn from(error: NotConfirmed) -> Self {
        Self::NoQuorum(error.detail)
    }
}
