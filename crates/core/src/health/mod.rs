//! What checks mean: the arithmetic between a probe's answer and a verdict.
//!
//! Each node feeds a [`Machine`] per backend with what its probes and its traffic saw, proposes the
//! transitions to the log, and the cluster's verdict follows from all nodes' reports by
//! [`verdict`]; what a node found that has fallen [`silent`] does not count. Going down is fast and
//! coming back is careful: a wrong "down" costs some capacity for a moment, a wrong "up" costs
//! requests.
//!
//! Not here: sockets and timers (`ballast-proxy`'s prober), the log's bookkeeping of reports
//! ([`crate::state`]), what a verdict does to traffic ([`crate::balance`]).

mod http;
mod lateness;
mod machine;
mod schedule;
mod silence;
mod unanswered;
mod verdict;

pub use http::{Judgement, RESPONSE_BYTES_MAX, judge, request};
pub use lateness::{Behind, Lateness, is_late};
pub use machine::{Machine, Observation, Transition};
pub use schedule::Schedule;
pub use silence::{SILENCE_MAX, silent};
pub use unanswered::{Answer, Check, Heard, Unanswered};
pub use verdict::verdict;
