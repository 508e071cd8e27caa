//! Connections that clients kept from one request to the next, and how they ended.
//!
//! A server may close such a connection cleanly between two requests at any time, and says so before with `Connection: close` where
//! it can. It may not reset one, nor close one on which a request is under way: the client does not know then whether that was
//! carried out. A client that sends it again hides that, so it writes down what became of the connection.
//!
//! Judged while all was well from the last answer on it to the answer that came on another one.

use serde::{Deserialize, Serialize};

use crate::time::Span;

/// How a kept connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It had been closed before the request was sent, as it may be.
    Closed,
    /// It was closed and the request was lost, which had been sent, or was being sent.
    ClosedAfter,
    /// It had been reset before the request was sent.
    Reset,
    /// It was reset and the request was lost, which had been sent, or was being sent.
    ResetAfter,
}

impl End {
    /// Whether a server may end one like that when nothing is wrong.
    pub fn is_clean(self) -> bool {
        match self {
            Self::Closed => true,
            Self::ClosedAfter | Self::Reset | Self::ResetAfter => false,
        }
    }
}

/// A kept connection that was no use to the next request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The request for which another one was opened.
    pub id: String,
    /// Where it was sent.
    pub via: String,
    /// From the last answer on the kept one until the client knew what became of the request.
    pub span: Span,
    /// How the kept one ended.
    pub end: End,
}

/// What became of the connections that a client kept.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Requests for which one was kept.
    pub requests: usize,
    /// Those that it was no use to.
    pub ended: Vec<Ended>,
}
