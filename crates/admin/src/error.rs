//! What goes wrong, as callers see it: one table of stable codes.
//!
//! Every error carries a [`proto::ErrorDetail`] in `grpc-status-details-bin`, with all mistakes and
//! with what to do next, so that a program need not read sentences.

use ballast_core::{
    cluster::{NotConfirmed, ProposeError},
    config::{Mistake, Mistakes},
    state::Refusal,
};
use ballast_proto::{admin::v1 as proto, google_rpc};
use prost::{Message as _, Name as _};
use tonic::{Code, Status};

/// Stable codes. Each has a page in the manual: cause, effect on traffic, remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The document is not right.
    InvalidConfig,
    /// A field of the request is not right.
    InvalidRequest,
    /// Another revision is in force.
    RevisionConflict,
    /// The object was changed since its etag was read.
    EtagConflict,
    /// What is named does not exist.
    NotFound,
    /// The name is taken.
    NameTaken,
    /// The state does not allow it.
    Precondition,
    /// No leader could be reached; nothing was changed.
    NoQuorum,
    /// Sent, but not confirmed; it may have happened.
    OutcomeUnknown,
    /// Too much is queued here; nothing was changed.
    Overloaded,
    /// This node is going down.
    Stopping,
    /// The state could not be confirmed with a quorum.
    NotConfirmed,
    /// No certificate.
    NoCertificate,
    /// The role is too low.
    NotAllowed,
    /// A node that is not a member.
    NotAMember,
    /// A join token that is not good.
    BadToken,
    /// This node has no cluster yet.
    NoCluster,
    /// A table is full.
    TableFull,
    /// Another node could not do its part.
    NodeFailed,
    /// Ballast's own fault.
    Internal,
    /// A certificate that was revoked.
    Revoked,
    /// A watch was to begin before what the history still has.
    HistoryForgotten,
    /// A certificate that has ended since it was shown.
    Ended,
}

impl ErrorCode {
    /// The code as text, the gRPC code, and what to do about it in general. The one table.
    const fn row(self) -> (&'static str, Code, &'static str) {
        match self {
            Self::InvalidConfig => (
                "BALLAST-A001",
                Code::InvalidArgument,
                "correct the document; `ballastctl validate -f FILE` checks it without applying",
            ),
            Self::InvalidRequest => ("BALLAST-A002", Code::InvalidArgument, ""),
            Self::RevisionConflict => (
                "BALLAST-A003",
                Code::Aborted,
                "fetch what is in force with `ballastctl export`, make the change again and apply it with the new revision",
            ),
            Self::EtagConflict => {
                ("BALLAST-A004", Code::Aborted, "read it again and decide whether the change is still wanted")
            }
            Self::NotFound => ("BALLAST-A005", Code::NotFound, ""),
            Self::NameTaken => (
                "BALLAST-A006",
                Code::AlreadyExists,
                "choose another name or remove the node that has it with `ballastctl node remove`",
            ),
            Self::Precondition => ("BALLAST-A007", Code::FailedPrecondition, ""),
            Self::NoQuorum => (
                "BALLAST-A008",
                Code::Unavailable,
                "look at `ballastctl cluster status --consistency stale` and bring a majority of the voters back",
            ),
            Self::OutcomeUnknown => (
                "BALLAST-A009",
                Code::DeadlineExceeded,
                "look before you repeat it; repeating it with the same request id is safe for `apply` and `rollback`",
            ),
            Self::Overloaded => ("BALLAST-A010", Code::ResourceExhausted, "try again in a moment"),
            Self::Stopping => ("BALLAST-A011", Code::Unavailable, "ask another node"),
            Self::NotConfirmed => (
                "BALLAST-A012",
                Code::Unavailable,
                "try again in a moment; if it stays so, bring a majority of the voters back; `--consistency stale` shows what this node knows",
            ),
            Self::NoCertificate => (
                "BALLAST-A013",
                Code::Unauthenticated,
                "use a context with a client certificate, or the unix socket as root on a node",
            ),
            Self::NotAllowed => {
                ("BALLAST-A014", Code::PermissionDenied, "ask an administrator for a certificate with that role")
            }
            Self::NotAMember => (
                "BALLAST-A015",
                Code::PermissionDenied,
                "a node that was removed joins again as a new one, with an empty data directory and a new token",
            ),
            Self::BadToken => {
                ("BALLAST-A016", Code::PermissionDenied, "make a new token with `ballastctl node join-token`")
            }
            Self::NoCluster => (
                "BALLAST-A017",
                Code::FailedPrecondition,
                "begin a cluster with `ballastd init` or join one with `ballastd join`",
            ),
            Self::TableFull => (
                "BALLAST-A018",
                Code::ResourceExhausted,
                "raise `entries_max` of the service's table, or delete bindings",
            ),
            Self::NodeFailed => ("BALLAST-A019", Code::Unavailable, "look at `ballastctl cluster status`"),
            Self::Internal => {
                ("BALLAST-A020", Code::Internal, "this is a fault of Ballast: keep the node's log and report it")
            }
            Self::Revoked => ("BALLAST-A022", Code::Unauthenticated, "ask an administrator for a new certificate"),
            Self::HistoryForgotten => (
                "BALLAST-A021",
                Code::OutOfRange,
                "list what is kept (`ballastctl events`, `ballastctl history`), then watch from the index above, or \
                 from now on by leaving --since out",
            ),
            Self::Ended => ("BALLAST-A023", Code::Unauthenticated, "ask an administrator for a new certificate"),
        }
    }

    /// As it is printed.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    const fn retryable(self) -> bool {
        matches!(self, Self::NoQuorum | Self::Overloaded | Self::Stopping | Self::NotConfirmed | Self::NodeFailed)
    }
}

/// An error on its way to a caller.
#[derive(Clone, Debug)]
pub struct ApiError {
    code: ErrorCode,
    message: String,
    // Boxed because results carry it everywhere and errors are rare.
    detail: Box<proto::ErrorDetail>,
}

/// An error with the table's code and remedy.
pub fn status(code: ErrorCode, message: impl Into<String>, subject: impl Into<String>) -> ApiError {
    let (text, _, remedy) = code.row();
    let detail = proto::ErrorDetail {
        code: text.to_owned(),
        subject: subject.into(),
        remedies: if remedy.is_empty() { Vec::new() } else { vec![remedy.to_owned()] },
        outcome_unknown: code == ErrorCode::OutcomeUnknown,
        retryable: code.retryable(),
        ..proto::ErrorDetail::default()
    };
    ApiError { code, message: message.into(), detail: Box::new(detail) }
}

/// The certificate that was shown is revoked.
pub fn revoked(name: &str) -> ApiError {
    status(ErrorCode::Revoked, format!("this certificate of {name} was revoked"), name)
}

/// The certificate that was shown has ended.
pub fn ended(name: &str) -> ApiError {
    status(ErrorCode::Ended, format!("this certificate of {name} has ended"), name)
}

/// What is named does not exist; `known` are the names that do.
pub fn not_found<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> ApiError {
    let error = status(ErrorCode::NotFound, format!("{what} {name:?} does not exist"), name);
    let known: Vec<_> = known.into_iter().take(20).collect();
    if known.is_empty() { error } else { error.remedy(format!("there are: {}", known.join(", "))) }
}

/// A field of a request is not right.
pub fn invalid(path: &str, problem: impl Into<String>, remedy: impl Into<String>) -> ApiError {
    let (problem, remedy) = (problem.into(), remedy.into());
    let mut error = status(ErrorCode::InvalidRequest, format!("{path}: {problem}"), path);
    if !remedy.is_empty() {
        error.detail.remedies.push(remedy);
    }
    error
}

/// The document is right by itself, and not for the cluster as it is now.
pub fn invalid_now(mistake: proto::Mistake) -> ApiError {
    let message = "1 mistake in the configuration; nothing was changed";
    let mut error = status(ErrorCode::InvalidConfig, message, "configuration");
    error.detail.mistakes.push(mistake);
    error
}

/// Bytes of mistakes, or of a difference, that an error carries. Details travel in a header, and HTTP/2 clients take 16 KiB of
/// headers at most, a third more in base64.
const DETAIL_BYTES_MAX: usize = 6 << 10;

/// Bytes of what somebody said of a change, beside a difference that is too large; as many as the history of changes keeps.
const SAID_BYTES_MAX: usize = 1 << 10;

/// The document is not right: all mistakes at once, or as many as an error can carry.
pub fn invalid_config(mistakes: &Mistakes) -> ApiError {
    let mut error = status(ErrorCode::InvalidConfig, headline(mistakes), "configuration");
    let mut room = DETAIL_BYTES_MAX;
    error.detail.mistakes = mistakes_to_proto(mistakes);
    error.detail.mistakes.retain(|mistake| {
        let size = mistake.encoded_len();
        let fits = size <= room;
        room = if fits { room - size } else { 0 };
        fits
    });
    if error.detail.mistakes.len() < mistakes.iter().count() {
        error.detail.remedies.push("these are the first of them; `ballastctl validate -f` lists all".to_owned());
    }
    error
}

fn headline(mistakes: &Mistakes) -> String {
    match mistakes.iter().count() + mistakes.omitted() {
        1 => "1 mistake in the configuration; nothing was changed".to_owned(),
        count => format!("{count} mistakes in the configuration; nothing was changed"),
    }
}

/// Mistakes in the API's form.
pub fn mistakes_to_proto(mistakes: &Mistakes) -> Vec<proto::Mistake> {
    mistakes.iter().map(mistake_to_proto).collect()
}

fn mistake_to_proto(mistake: &Mistake) -> proto::Mistake {
    proto::Mistake {
        severity: proto::mistake::Severity::Error.into(),
        path: mistake.path.clone(),
        line: mistake.line,
        column: mistake.column,
        problem: mistake.problem.clone(),
        remedy: mistake.fix.clone(),
        code: String::new(),
        file: mistake.file.clone().unwrap_or_default(),
    }
}

impl ApiError {
    /// Adds something to do.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.detail.remedies.push(remedy.into());
        self
    }

    /// Adds what changed since, or as much of it as an error can carry.
    pub fn conflict(mut self, mut diff: proto::ConfigDiff) -> Self {
        if diff.encoded_len() > DETAIL_BYTES_MAX {
            shorten(&mut diff);
            let (from, to) = (diff.from_revision, diff.to_revision);
            self = self.remedy(match from {
                0 => format!("this is not all of it: `ballastctl export --revision {to}` shows it"),
                _ => format!("this is not all that changed: `ballastctl diff --from {from} --to {to}` shows it"),
            });
        }
        self.detail.conflict = Some(diff);
        self
    }

    /// The stable code.
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// The detail of a status that came from these services.
    pub fn detail_of(status: &Status) -> Option<proto::ErrorDetail> {
        let packed = google_rpc::Status::decode(status.details()).ok()?;
        let any = packed.details.into_iter().find(|any| any.type_url.ends_with(&proto::ErrorDetail::full_name()))?;
        proto::ErrorDetail::decode(any.value.as_slice()).ok()
    }
}

/// Leaves the texts out of a difference, which say the same as the changes in more words, and then the last changes.
fn shorten(diff: &mut proto::ConfigDiff) {
    diff.unified.clear();
    if let Some(by) = &mut diff.made_by {
        by.message.truncate(by.message.floor_char_boundary(SAID_BYTES_MAX));
    }
    let changes = std::mem::take(&mut diff.changes);
    let mut room = DETAIL_BYTES_MAX.saturating_sub(diff.encoded_len());
    let fits = |change: &proto::ConfigChange| {
        // Its number and its length stand before it.
        let size = change.encoded_len() + 4;
        let fits = size <= room;
        room = room.saturating_sub(size);
        fits
    };
    diff.changes = changes.into_iter().take_while(fits).collect();
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let (_, code, _) = error.code.row();
        let any = prost_types::Any { type_url: proto::ErrorDetail::type_url(), value: error.detail.encode_to_vec() };
        let packed = google_rpc::Status { code: code as i32, message: error.message.clone(), details: vec![any] };
        Self::with_details(code, error.message, packed.encode_to_vec().into())
    }
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        let code = match &error {
            ProposeError::NoQuorum { .. } => ErrorCode::NoQuorum,
            ProposeError::OutcomeUnknown { .. } => ErrorCode::OutcomeUnknown,
            ProposeError::Overloaded { .. } => ErrorCode::Overloaded,
            ProposeError::TooLarge { .. } => ErrorCode::InvalidRequest,
            ProposeError::Unreadable { .. } => ErrorCode::Precondition,
            ProposeError::Stopping => ErrorCode::Stopping,
        };
        status(code, error.to_string(), "")
    }
}

impl From<NotConfirmed> for ApiError {
    fn from(error: NotConfirmed) -> Self {
        status(ErrorCode::NotConfirmed, error.to_string(), "")
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::RevisionConflict { .. } => ErrorCode::RevisionConflict,
            Refusal::Changed { .. } => ErrorCode::EtagConflict,
            Refusal::NotFound { .. } => ErrorCode::NotFound,
            Refusal::Invalid { .. } => ErrorCode::InvalidRequest,
            Refusal::NameTaken { .. } => ErrorCode::NameTaken,
            Refusal::TokenUnknown | Refusal::TokenExpired => ErrorCode::BadToken,
            Refusal::Busy => ErrorCode::Overloaded,
            Refusal::TableFull => ErrorCode::TableFull,
            Refusal::NotEligible | Refusal::AlreadyInitialised => ErrorCode::Precondition,
        };
        status(code, refusal.to_string(), "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_detail_on_the_way() {
        let mistakes = ballast_core::config::parse("version: 1\nfarmz: []\nvips: 3\n").expect_err("two mistakes");
        let sent = Status::from(invalid_config(&mistakes));
        assert_eq!(sent.code(), Code::InvalidArgument);
        let detail = ApiError::detail_of(&sent).expect("a detail");
        assert_eq!(detail.code, "BALLAST-A001");
        let places: Vec<_> = detail.mistakes.iter().map(|mistake| mistake.line).collect();
        assert_eq!(places, [2, 3]);
        assert!(detail.mistakes.iter().all(|mistake| !mistake.problem.is_empty()));
    }

    fn change(path: &str, after: &str) -> proto::ConfigChange {
        proto::ConfigChange { path: path.to_owned(), after: after.to_owned(), ..proto::ConfigChange::default() }
    }

    /// A conflict as it arrives, and what there is to do.
    fn told(unified: &str, changes: Vec<proto::ConfigChange>, message: &str) -> (proto::ConfigDiff, Vec<String>) {
        let by = proto::Change { author: "bob".to_owned(), message: message.to_owned(), ..proto::Change::default() };
        let diff = proto::ConfigDiff {
            from_revision: 5,
            to_revision: 7,
            changes,
            unified: unified.to_owned(),
            made_by: Some(by),
        };
        let sent = Status::from(status(ErrorCode::RevisionConflict, "words", "").conflict(diff));
        assert!(sent.details().len() < 8 << 10, "{}", sent.details().len());
        let detail = ApiError::detail_of(&sent).expect("a detail");
        (detail.conflict.expect("a difference"), detail.remedies)
    }

    #[test]
    fn a_conflict_tells_as_much_of_the_difference_as_fits() {
        let few = || (0..20).map(|n| change(&format!("farms[{n}]"), "1")).collect::<Vec<_>>();
        let (small, remedies) = told("-a\n+b\n", few(), "why");
        assert_eq!((small.unified.as_str(), &small.changes), ("-a\n+b\n", &few()));
        assert!(remedies.iter().all(|remedy| !remedy.contains("ballastctl diff")), "{remedies:?}");

        let see = "`ballastctl diff --from 5 --to 7`";
        let long = "ä".repeat(100_000);
        for (unified, changes, message, left) in [
            (long.as_str(), few(), "why", 20),
            ("", (0..2000).map(|n| change(&format!("farms[{n}]"), "12345678")).collect(), "why", 200),
            ("", vec![change("first", "1"), change("farms[shop]", &long), change("last", "1")], "why", 1),
            ("", few(), long.as_str(), 20),
        ] {
            let (cut, remedies) = told(unified, changes.clone(), message);
            assert_eq!((cut.from_revision, cut.to_revision, cut.unified.as_str()), (5, 7, ""));
            let by = cut.made_by.expect("who");
            assert!(by.author == "bob" && message.starts_with(&by.message) && !by.message.is_empty());
            assert!(cut.changes.len() >= left && changes.starts_with(&cut.changes), "{} changes", cut.changes.len());
            assert!(remedies.last().is_some_and(|remedy| remedy.contains(see)), "{remedies:?}");
        }
    }

    #[test]
    fn only_an_unknown_outcome_says_so() {
        let unknown = ProposeError::OutcomeUnknown { waited: std::time::Duration::from_secs(1) };
        let detail = ApiError::detail_of(&Status::from(ApiError::from(unknown))).expect("a detail");
        assert!(detail.outcome_unknown && !detail.retryable);
        let none = ProposeError::NoQuorum { detail: "nobody answers".to_owned() };
        let detail = ApiError::detail_of(&Status::from(ApiError::from(none))).expect("a detail");
        assert!(!detail.outcome_unknown && detail.retryable);
    }
}
