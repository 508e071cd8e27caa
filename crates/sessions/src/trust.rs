//! Whether a client that has not said who it is may be served in protected mode: it is on this machine, or has shown a
//! certificate that is still good.
//!
//! Not here: what users may do ([`crate::policy`]), what makes a certificate good ([`Certificates`]).

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use ballast_core::session::Reply;
use rustls::pki_types::CertificateDer;

use crate::{node::Certificates, passwords::Source, policy::Policy};

/// Answer to clients that protected mode keeps out.
pub const DENIED: Reply = Reply::error(
    "DENIED Ballast's session store has no users and is in protected mode: it serves only clients that come over \
     loopback, or over TLS with a certificate of the cluster. Add users to the document (sessions.users), or set sessions.protected to false if \
     everybody who reaches this address may read and change every session.",
);

/// Answer to clients whose certificate was good when they came.
pub const LAPSED: Reply = Reply::error("DENIED the certificate that this client has shown is not accepted any more");

/// Answer to clients who are nobody any more: they had not logged in when there came to be users, or their user is gone.
pub const GONE: Reply = Reply::error(
    "NOAUTH the users of the session store were changed, and this connection is of none of them; log in anew",
);

/// What a refusal says.
pub fn words(refusal: &Reply) -> Cow<'_, str> {
    match refusal {
        Reply::Error(text) => String::from_utf8_lossy(text),
        _ => Cow::Borrowed(""),
    }
}

/// How often a certificate that was shown is looked at again.
const LOOK_MS: u64 = 1000;

/// How a client came.
pub struct Trust {
    source: Source,
    local: bool,
    shown: Option<Shown>,
}

struct Shown {
    certificate: CertificateDer<'static>,
    certificates: Arc<dyn Certificates>,
    looked_ms: u64,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local: {}, certificate: {}", self.local, self.shown.is_some())
    }
}

impl Trust {
    /// From this address; `None` means by a Unix socket.
    pub fn new(address: Option<IpAddr>) -> Self {
        let local = address.is_none_or(|address| address.to_canonical().is_loopback());
        Self { source: Source::of(address), local, shown: None }
    }

    /// Where its logins come from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// A certificate was shown, and verified by TLS. Returns the names that it gives, none if it is not accepted.
    pub fn show(
        &mut self,
        certificate: &CertificateDer<'_>,
        certificates: Arc<dyn Certificates>,
        now_ms: u64,
    ) -> Vec<String> {
        let names = certificates.names(certificate);
        if !names.is_empty() {
            self.shown = Some(Shown { certificate: certificate.clone().into_owned(), certificates, looked_ms: now_ms });
        }
        names
    }

    /// Whether the certificate has to be looked at now and then.
    pub fn may_lapse(&self) -> bool {
        self.shown.is_some()
    }

    /// Whether the certificate that was shown is not accepted any more. Looked at once a second.
    pub fn has_lapsed(&mut self, now_ms: u64) -> bool {
        let Some(shown) = &mut self.shown else { return false };
        if now_ms < shown.looked_ms + LOOK_MS {
            return false;
        }
        shown.looked_ms = now_ms;
        shown.certificates.names(&shown.certificate).is_empty()
    }

    /// What was shown counts no longer.
    pub fn forget(&mut self) {
        self.shown = None;
    }

    /// Whether the client is on this machine or has shown a certificate.
    pub fn is_trusted(&self) -> bool {
        self.local || self.shown.is_some()
    }

    /// Whether the client may be here, known or not.
    pub fn is_admitted(&self, policy: &Policy) -> bool {
        policy.has_users() || !policy.settings.protected || self.is_trusted()
    }
}
