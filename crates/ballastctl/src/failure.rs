//! What went wrong, in the form an operator can act on: what happened, what is wrong with what was
//! handed in, what to do next, and the exit code.
//!
//! One table ([`Exit::of`]) turns the API's status codes into exit codes, so that a script can rely
//! on them whatever the command.
//!
//! Not here: how it is printed (`output`).

use std::{error::Error, fmt, io};

use ballast_proto::{
    admin::v1::{self as proto, ErrorDetail},
    google_rpc,
};
use prost::Message as _;
use serde::Serialize;
use tonic::Code;

use crate::view::{DiffView, MistakeView};

/// How the program ends. The numbers are promised in [`crate::args::EXIT_CODES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Exit {
    /// Done; of `diff`: nothing differs.
    Done = 0,
    /// An error without a code of its own; of `diff`: something differs; of a check: something is wrong, the WARNING of monitoring.
    Error = 1,
    /// The command line is not right; of a check of the cluster: the CRITICAL of monitoring.
    Usage = 2,
    /// The configuration is not right; of a check of the cluster: nobody could be asked, the UNKNOWN of monitoring.
    Invalid = 3,
    /// The state is not what the command expects.
    Conflict = 4,
    /// What is named does not exist.
    NotFound = 5,
    /// No node answers, or there is no quorum. Nothing was changed.
    Unavailable = 6,
    /// It may have happened or not.
    Unknown = 7,
    /// Not allowed.
    Denied = 8,
    /// As `Error`, of `diff`, where 1 means that something differs.
    DiffError = 9,
}

impl Exit {
    /// The number for the shell.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The one table from what the API says to how the program ends.
    pub fn of(code: Code, detail: Option<&ErrorDetail>) -> Self {
        if detail.is_some_and(|detail| detail.outcome_unknown) {
            return Self::Unknown;
        }
        let has_mistakes = detail.is_some_and(|detail| !detail.mistakes.is_empty());
        match code {
            Code::Ok => Self::Done,
            Code::InvalidArgument if has_mistakes => Self::Invalid,
            Code::InvalidArgument | Code::OutOfRange => Self::Usage,
            Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition => Self::Conflict,
            Code::NotFound => Self::NotFound,
            Code::Unavailable | Code::ResourceExhausted => Self::Unavailable,
            Code::DeadlineExceeded | Code::Cancelled => Self::Unknown,
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied,
            Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented => Self::Error,
        }
    }
}

/// What the call was for: a read can be repeated, a change may have happened.
#[derive(Clone, Debug)]
pub enum Intent {
    /// Nothing was to be changed.
    Read,
    /// Something was to be changed, under this request id.
    Write {
        /// Under which it can be repeated without being done twice; empty when it has none.
        request_id: String,
    },
}

/// What went wrong.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    code: String,
    message: String,
    mistakes: Vec<MistakeView>,
    // Boxed because results carry it everywhere and conflicts are rare.
    conflict: Option<Box<DiffView>>,
    remedies: Vec<String>,
}

/// The form for programs.
#[derive(Serialize)]
struct Json<'a> {
    exit_code: u8,
    kind: Exit,
    code: &'a str,
    message: &'a str,
    mistakes: &'a [MistakeView],
    conflict: Option<&'a DiffView>,
    remedies: &'a [String],
}

impl Failure {
    /// A failure in words.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: String::new(),
            message: message.into(),
            mistakes: Vec::new(),
            conflict: None,
            remedies: Vec::new(),
        }
    }

    /// A document that is not right.
    pub fn mistakes(mistakes: Vec<MistakeView>) -> Self {
        let message = match mistakes.iter().filter(|mistake| mistake.is_error()).count() {
            1 => "the configuration has a mistake".to_owned(),
            n => format!("the configuration has {n} mistakes"),
        };
        Self { mistakes, ..Self::new(Exit::Invalid, message) }
    }

    /// Says that there are more mistakes than are told.
    #[must_use]
    pub fn and_more(mut self, omitted: u32) -> Self {
        if omitted > 0 {
            let shown = self.mistakes.len();
            self.message = format!(
                "the configuration has {} mistakes or more; only the first {shown} are shown",
                shown + omitted as usize
            );
        }
        self
    }

    /// Adds something to do, best first.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.push(remedy.into());
        self
    }

    /// Says something better to do than a node can know.
    #[must_use]
    pub fn instead(self, remedies: Vec<String>) -> Self {
        Self { remedies, ..self }
    }

    /// Something that a system call or library refused.
    pub fn because(exit: Exit, what: impl fmt::Display, cause: &dyn Error) -> Self {
        Self::new(exit, format!("{what}: {}", chain(cause)))
    }

    /// What a node answered.
    pub fn of_status(status: &tonic::Status, intent: &Intent) -> Self {
        let detail = detail_of(status);
        let mut failure = Self::new(Exit::of(status.code(), detail.as_ref()), message_of(status));
        if let Some(detail) = detail {
            failure.code = detail.code;
            failure.mistakes = detail.mistakes.iter().map(MistakeView::from).collect();
            failure.conflict = detail.conflict.as_ref().map(|diff| Box::new(DiffView::from(diff)));
            failure.remedies = detail.remedies;
        }
        if let Some(problem) = certificate_problem(status) {
            return problem;
        }
        failure.after_a_break(status, intent);
        failure
    }

    /// A connection that broke in the middle says nothing about what became of a change.
    fn after_a_break(&mut self, status: &tonic::Status, intent: &Intent) {
        let broke = status.details().is_empty() && Error::source(status).is_some();
        if let Intent::Write { request_id } = intent {
            if broke && matches!(self.exit, Exit::Unavailable | Exit::Error) {
                self.exit = Exit::Unknown;
            }
            if self.exit == Exit::Unknown {
                self.remedies.push("look whether it happened: ballastctl history, ballastctl events".to_owned());
                if !request_id.is_empty() {
                    self.remedies.push(format!("or repeat it with --request-id {request_id}: then it happens once"));
                }
            }
        } else if broke && self.exit == Exit::Error {
            self.exit = Exit::Unavailable;
        } else if self.exit == Exit::Unknown {
            self.remedies.push("wait longer with --timeout, or ask another node with --server".to_owned());
            self.remedies.push("without a quorum add --consistency stale".to_owned());
        }
        if self.exit == Exit::Unavailable && self.remedies.is_empty() {
            self.remedies.push("ask another node with --server".to_owned());
            self.remedies.push("see who is there: ballastctl cluster status".to_owned());
        }
    }

    /// No answer before the deadline.
    pub fn timeout(waited: std::time::Duration, intent: &Intent) -> Self {
        Self::of_status(&tonic::Status::deadline_exceeded(format!("no answer within {waited:?}")), intent)
    }

    /// How the program ends.
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// The same for a command whose 1 means something else.
    #[must_use]
    pub fn of_diff(mut self) -> Self {
        if self.exit == Exit::Error {
            self.exit = Exit::DiffError;
        }
        self
    }

    /// Whether the reader of our output went away, which is no error.
    pub fn is_broken_pipe(&self) -> bool {
        self.exit == Exit::Done
    }

    /// Says in which file each mistake stands.
    #[must_use]
    pub fn locate(mut self, place: impl Fn(&mut MistakeView)) -> Self {
        self.mistakes.iter_mut().for_each(place);
        self
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The stable code, empty when there is none.
    pub fn stable_code(&self) -> &str {
        &self.code
    }

    /// What is wrong with what was handed in.
    pub fn mistake_list(&self) -> &[MistakeView] {
        &self.mistakes
    }

    /// For a conflict of revisions: what is in force and how it differs.
    pub fn conflict(&self) -> Option<&DiffView> {
        self.conflict.as_deref()
    }

    /// What to do, best first.
    pub fn remedies(&self) -> &[String] {
        &self.remedies
    }

    /// The form for programs, one line.
    pub fn to_json(&self) -> String {
        let json = Json {
            exit_code: self.exit.code(),
            kind: self.exit,
            code: &self.code,
            message: &self.message,
            mistakes: &self.mistakes,
            conflict: self.conflict(),
            remedies: &self.remedies,
        };
        serde_json::json!({ "error": json }).to_string()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::BrokenPipe { Exit::Done } else { Exit::Error };
        Self::because(exit, "cannot write the output", &error)
    }
}

/// What a node said beside the status code.
fn detail_of(status: &tonic::Status) -> Option<ErrorDetail> {
    let packed = google_rpc::Status::decode(status.details()).ok()?;
    packed
        .details
        .iter()
        .find(|any| any.type_url.ends_with("/ballast.admin.v1.ErrorDetail"))
        .and_then(|any| proto::ErrorDetail::decode(any.value.as_slice()).ok())
}

fn message_of(status: &tonic::Status) -> String {
    let words = match status.code() {
        Code::Cancelled if status.message() == "Timeout expired" => "no answer in time",
        Code::Unimplemented if status.message().is_empty() => {
            "the node does not know this command; it is of another version"
        }
        _ => status.message(),
    };
    let words = if words.is_empty() { status.code().description() } else { words };
    match Error::source(status) {
        Some(source) if !words.contains(&chain(source)) => format!("the connection broke: {words}: {}", chain(source)),
        _ => words.to_owned(),
    }
}

/// A handshake that the node ended: TLS 1.3 tells the client only after it believes itself connected.
fn certificate_problem(status: &tonic::Status) -> Option<Failure> {
    let mut cause = Error::source(status);
    while let Some(error) = cause {
        let alert = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(rustls::Error::AlertReceived(alert)) = alert.and_then(|e| e.downcast_ref::<rustls::Error>()) {
            let message = format!("the node does not accept this client certificate ({alert:?})");
            return Some(
                Failure::new(Exit::Denied, message)
                    .remedy(
                        "use a certificate of this cluster that has not ended: --context, or --ca, --cert and --cert-key",
                    )
                    .remedy("on a node itself root needs none: --server unix:///var/lib/ballast/admin.sock"),
            );
        }
        cause = error.source();
    }
    None
}

/// The message of an error and of what caused it, each once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail() -> ErrorDetail {
        ErrorDetail { code: "BALLAST-C001".to_owned(), ..ErrorDetail::default() }
    }

    fn status(code: Code, detail: &ErrorDetail) -> tonic::Status {
        let any = prost_types::Any {
            type_url: "type.googleapis.com/ballast.admin.v1.ErrorDetail".to_owned(),
            value: detail.encode_to_vec(),
        };
        let packed = google_rpc::Status { code: code as i32, message: "words".to_owned(), details: vec![any] };
        tonic::Status::with_details(code, "words", packed.encode_to_vec().into())
    }

    #[test]
    fn every_status_has_its_exit_code() {
        let check = |code: Code, wanted: u8| assert_eq!(Exit::of(code, None).code(), wanted, "{code:?}");
        check(Code::Ok, 0);
        check(Code::Internal, 1);
        check(Code::InvalidArgument, 2);
        check(Code::Aborted, 4);
        check(Code::AlreadyExists, 4);
        check(Code::FailedPrecondition, 4);
        check(Code::NotFound, 5);
        check(Code::Unavailable, 6);
        check(Code::DeadlineExceeded, 7);
        check(Code::PermissionDenied, 8);
        check(Code::Unauthenticated, 8);
        let mistakes = ErrorDetail { mistakes: vec![proto::Mistake::default()], ..detail() };
        assert_eq!(Exit::of(Code::InvalidArgument, Some(&mistakes)).code(), 3);
        let unknown = ErrorDetail { outcome_unknown: true, ..detail() };
        assert_eq!(Exit::of(Code::Unavailable, Some(&unknown)).code(), 7);
    }

    #[test]
    fn details_of_a_status_are_read() {
        let sent = ErrorDetail { remedies: vec!["do this".to_owned()], ..detail() };
        let failure = Failure::of_status(&status(Code::NotFound, &sent), &Intent::Read);
        assert_eq!(failure.exit(), Exit::NotFound);
        assert_eq!(failure.stable_code(), "BALLAST-C001");
        assert_eq!(failure.remedies(), ["do this"]);
    }

    #[test]
    fn a_change_of_unknown_outcome_can_be_repeated_safely() {
        let sent = ErrorDetail { outcome_unknown: true, ..detail() };
        let intent = Intent::Write { request_id: "r-1".to_owned() };
        let failure = Failure::of_status(&status(Code::Unavailable, &sent), &intent);
        assert_eq!(failure.exit(), Exit::Unknown);
        assert!(failure.remedies().iter().any(|remedy| remedy.contains("--request-id r-1")), "{failure:?}");
    }

    #[test]
    fn a_question_that_nobody_answers_in_time_may_be_asked_without_a_quorum() {
        // As the connection's own deadline, the node's and ours end a call.
        let expired = tonic::Status::cancelled("Timeout expired");
        let late = status(Code::DeadlineExceeded, &detail());
        let ours = Failure::timeout(std::time::Duration::from_secs(1), &Intent::Read);
        for failure in [expired, late].iter().map(|status| Failure::of_status(status, &Intent::Read)).chain([ours]) {
            let told = failure.remedies().iter().filter(|remedy| remedy.contains("--consistency stale")).count();
            assert_eq!((failure.exit(), told), (Exit::Unknown, 1), "{failure:?}");
        }
        let change = Intent::Write { request_id: String::new() };
        let failure = Failure::of_status(&tonic::Status::cancelled("Timeout expired"), &change);
        assert!(!failure.remedies().iter().any(|remedy| remedy.contains("stale")), "{failure:?}");
    }

    #[test]
    fn an_error_of_diff_is_not_a_difference() {
        assert_eq!(Failure::new(Exit::Error, "x").of_diff().exit().code(), 9);
        assert_eq!(Failure::new(Exit::Unavailable, "x").of_diff().exit().code(), 6);
    }

    #[test]
    fn json_has_what_a_script_needs() {
        let json: serde_json::Value =
            serde_json::from_str(&Failure::new(Exit::Conflict, "no").to_json()).expect("JSON");
        assert_eq!(json["error"]["exit_code"], 4);
        assert_eq!(json["error"]["kind"], "conflict");
    }
}
