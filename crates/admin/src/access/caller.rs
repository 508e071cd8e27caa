//! Who is at the other end of a connection, and who made a call.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ballast_core::{ids::NodeId, state::Author};
use rustls_pki_types::CertificateDer;
use tonic::{Request, Status};

use crate::{
    error::{self, ApiError, ErrorCode},
    pki::{Identity, PkiError, UserRole, Validity, fingerprint_of, steady_now},
};

/// Longest deadline of a call that is not a stream; also the one of a caller who names none.
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Deadline of a caller who names none.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);

/// Time that is kept back from the caller's deadline so that our answer, which says more than
/// "deadline exceeded", arrives before the caller gives up. Arbitrary: several round trips.
const DEADLINE_MARGIN: Duration = Duration::from_millis(100);

/// Who is at the other end, as the connection proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Somebody without a certificate.
    Nobody,
    /// A process on this machine that is root, or runs as the daemon does.
    Root,
    /// Somebody with a certificate of this cluster.
    Certified(Identity),
}

/// A certificate that was verified when it was shown: what tells whether it is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// See [`fingerprint_of`].
    pub fingerprint: [u8; 32],
    /// When it ends, by [`steady_now`].
    pub not_after: SystemTime,
}

impl Certificate {
    /// Reads it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(shown: &CertificateDer<'_>) -> Result<Self, PkiError> {
        Ok(Self { fingerprint: fingerprint_of(shown)?, not_after: Validity::of(shown)?.not_after })
    }

    /// Refuses the certificate of a person or program, by name, that has ended or was revoked since it was shown. The end is
    /// asked for too because a revocation is not remembered for ever.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`.
    pub fn check(&self, name: &str, is_revoked: impl FnOnce(&[u8; 32]) -> bool) -> Result<(), ApiError> {
        if steady_now() > self.not_after {
            return Err(error::ended(name));
        }
        if is_revoked(&self.fingerprint) { Err(error::revoked(name)) } else { Ok(()) }
    }
}

/// A connection. tonic puts it into the extensions of each request that arrives by it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who.
    pub peer: Peer,
    /// The certificate that was shown.
    pub certificate: Option<Certificate>,
    /// From where; `None` over the unix socket.
    pub remote: Option<SocketAddr>,
}

/// Who made a call: what the layer found out, for the services.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Name for the history.
    pub name: Arc<str>,
    /// What it may do; `None` for somebody who is not known.
    pub role: Option<UserRole>,
    /// Set when a node calls.
    pub node: Option<NodeId>,
    /// The certificate of a person or program.
    pub certificate: Option<Certificate>,
    /// When the answer must be there.
    pub deadline: Instant,
}

impl Caller {
    /// Takes the caller out of a request.
    ///
    /// # Errors
    /// `INTERNAL` when the request did not come through [`super::AccessLayer`].
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| error::status(ErrorCode::Internal, "the call did not pass the access layer", "").into())
    }

    /// As the author of a change.
    pub fn author(&self, message: &str) -> Author {
        Author { name: self.name.to_string(), message: message.to_owned() }
    }

    /// Time left until the answer must be there.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Reads `grpc-timeout` (up to 8 digits and a unit, gRPC over HTTP/2, "Timeout").
pub(super) fn deadline_of(headers: &http::HeaderMap, now: Instant) -> Instant {
    let wanted = headers.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse_timeout);
    let wanted = wanted.unwrap_or(DEADLINE_DEFAULT).min(DEADLINE_MAX);
    now + wanted.saturating_sub(DEADLINE_MARGIN.min(wanted / 10))
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: Option<&str>, millis: u64) {
        let mut headers = http::HeaderMap::new();
        if let Some(text) = text {
            headers.insert("grpc-timeout", text.parse().expect("a header value"));
        }
        let now = Instant::now();
        assert_eq!(deadline_of(&headers, now) - now, Duration::from_millis(millis), "{text:?}");
    }

    #[test]
    fn deadlines_are_read_bounded_and_leave_time_to_answer() {
        check(None, 9_900);
        check(Some("500m"), 450);
        check(Some("5S"), 4_900);
        check(Some("2H"), 59_900);
        check(Some("99999999H"), 59_900);
        for nonsense in ["", "5", "S", "-1S", "123456789S", "5x", "1.5S"] {
            check(Some(nonsense), 9_900);
        }
    }
}
