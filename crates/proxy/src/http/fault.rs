//! What can be wrong with a message, as values.
//!
//! A parser says *what* it found; which status that becomes on which side (400 towards a client,
//! 502 about a backend) is one table in [`super::ending`].
//!
//! Not here: answering.

/// A violation of HTTP's syntax or of a configured bound. Nothing of the kind is ever repaired:
/// two programs that repair differently are how requests get smuggled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A line feed that does not follow a carriage return (RFC 9112 section 2.2).
    BareLf,
    /// A carriage return that no line feed follows.
    BareCr,
    /// NUL or another control character.
    ControlCharacter,
    /// A line that begins with white space (RFC 9112 section 5.2).
    ObsFold,
    /// White space between field name and colon (RFC 9112 section 5.1).
    SpaceBeforeColon,
    /// A field name that is no token, or a line without a colon.
    FieldName,
    /// `Content-Length` or `Transfer-Encoding` spelt so that only some backends recognise it (`Content_Length`).
    AmbiguousFieldName,
    /// More fields than allowed.
    FieldsTooMany,
    /// `Connection` names more fields than anyone has.
    ConnectionNamesTooMany,
    /// A head longer than allowed.
    HeadTooLarge,
    /// A request target longer than allowed.
    TargetTooLong,
    /// The request or status line is not of the form the RFC gives.
    StartLine,
    /// The method is no token, or longer than any that exists.
    Method,
    /// The request target has none of the forms that its method allows.
    Target,
    /// A version this proxy does not speak.
    Version,
    /// No `Host`, several, one that is no host, or one that contradicts the target.
    Host,
    /// `Content-Length` repeated, or not a plain number.
    ContentLength,
    /// Both `Transfer-Encoding` and `Content-Length`.
    ConflictingFraming,
    /// `Transfer-Encoding` that is not exactly one `chunked`, or in an HTTP/1.0 message.
    TransferEncoding,
    /// `Transfer-Encoding` names a coding that is not implemented.
    CodingUnknown,
    /// A method that this proxy does not carry out (`CONNECT`).
    MethodRefused,
    /// `Expect` with anything but `100-continue`.
    Expectation,
    /// A status code outside 100 to 599.
    Status,
    /// A chunk size that is no plain hexadecimal number, or is too large.
    ChunkSize,
    /// Chunk extensions that are malformed or longer than allowed.
    ChunkExtension,
    /// Chunk data that does not end where its size said.
    ChunkEnd,
    /// A trailer section that is malformed or longer than allowed.
    Trailer,
    /// `Max-Forwards` that is no number.
    MaxForwards,
    /// A body longer than allowed.
    BodyTooLarge,
}

impl Fault {
    /// The stable code that appears in logs and in the body of an error answer.
    pub const fn code(self) -> &'static str {
        match self {
            Self::BareLf => "bare_lf",
            Self::BareCr => "bare_cr",
            Self::ControlCharacter => "control_character",
            Self::ObsFold => "obs_fold",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::FieldName => "field_name",
            Self::AmbiguousFieldName => "ambiguous_field_name",
            Self::FieldsTooMany => "fields_too_many",
            Self::ConnectionNamesTooMany => "connection_names_too_many",
            Self::HeadTooLarge => "head_too_large",
            Self::TargetTooLong => "target_too_long",
            Self::StartLine => "start_line",
            Self::Method => "method",
            Self::Target => "target",
            Self::Version => "version",
            Self::Host => "host",
            Self::ContentLength => "content_length",
            Self::ConflictingFraming => "conflicting_framing",
            Self::TransferEncoding => "transfer_encoding",
            Self::CodingUnknown => "coding_unknown",
            Self::MethodRefused => "method_refused",
            Self::Expectation => "expectation",
            Self::Status => "status",
            Self::ChunkSize => "chunk_size",
            Self::ChunkExtension => "chunk_extension",
            Self::ChunkEnd => "chunk_end",
            Self::Trailer => "trailer",
            Self::MaxForwards => "max_forwards",
            Self::BodyTooLarge => "body_too_large",
        }
    }

    /// The status a client gets when its request has this fault.
    pub const fn status(self) -> u16 {
        match self {
            Self::FieldsTooMany | Self::HeadTooLarge => 431,
            Self::TargetTooLong => 414,
            Self::Version => 505,
            Self::CodingUnknown | Self::MethodRefused => 501,
            Self::Expectation => 417,
            Self::BodyTooLarge => 413,
            Self::BareLf
            | Self::BareCr
            | Self::ControlCharacter
            | Self::ObsFold
            | Self::SpaceBeforeColon
            | Self::FieldName
            | Self::AmbiguousFieldName
            | Self::ConnectionNamesTooMany
            | Self::StartLine
            | Self::Method
            | Self::Target
            | Self::Host
            | Self::ContentLength
            | Self::ConflictingFraming
            | Self::TransferEncoding
            | Self::Status
            | Self::ChunkSize
            | Self::ChunkExtension
            | Self::ChunkEnd
            | Self::Trailer
            | Self::MaxForwards => 400,
        }
    }
}
