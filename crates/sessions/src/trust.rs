//! Whether a client that has not said who it is may be served in protected mode: it is on this machine, or has shown a
//! certificate that is still good, and of somebody who sees sessions in the cluster's administration as well.
//!
//! Not here: what users may do ([`crate::policy`]), what makes a certificate good ([`Certificates`]).

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use ballast_core::session::Reply;
use rustls::pki_types::CertificateDer;

use crate::{
    node::{Certificates, Holder},
    passwords::Source,
    policy::Policy,
};

/// Why protected mode keeps a client out, in the words that it is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// It comes from elsewhere, and has shown no certificate.
    #[error(
        "DENIED Ballast's session store has no users and is in protected mode: it serves only clients that come over \
         loopback, or over TLS with an admin's certificate of the cluster. Add users to the document (sessions.users), \
         or set sessions.protected to false if everybody who reaches this address may read and change every session."
    )]
    Stranger,
    /// It comes from elsewhere, and its certificate is of somebody who does not see sessions.
    #[error(
        "NOPERM Ballast's session store has no users, and the certificate of '{name}' has the role {role}: over TLS it \
         serves only admins then. Add a user '{name}' to the document (sessions.users), or come with an admin's \
         certificate."
    )]
    Role {
        /// Whose certificate it is.
        name: String,
        /// What it may do in the cluster.
        role: &'static str,
    },
}

impl NotAdmitted {
    /// As a client is told.
    pub fn reply(&self) -> Reply {
        Reply::Error(self.to_string().into())
    }
}

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
    holder: Holder,
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

    /// A certificate was shown, and verified by TLS. One that is not accepted counts as none.
    pub fn show(&mut self, certificate: &CertificateDer<'_>, certificates: Arc<dyn Certificates>, now_ms: u64) {
        let Some(holder) = certificates.holder(certificate) else { return };
        let certificate = certificate.clone().into_owned();
        self.shown = Some(Shown { certificate, certificates, holder, looked_ms: now_ms });
    }

    /// The name in the certificate that was shown.
    pub fn name(&self) -> Option<&str> {
        self.shown.as_ref().map(|shown| shown.holder.name.as_str())
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
        shown.certificates.holder(&shown.certificate).is_none()
    }

    /// What was shown counts no longer.
    pub fn forget(&mut self) {
        self.shown = None;
    }

    /// Lets the client be here, known or not.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admit(&self, policy: &Policy) -> Result<(), NotAdmitted> {
        if policy.has_users() || !policy.settings.protected || self.local {
            return Ok(());
        }
        match &self.shown {
            None => Err(NotAdmitted::Stranger),
            Some(Shown { holder, .. }) if holder.sees_sessions => Ok(()),
            Some(Shown { holder, .. }) => Err(NotAdmitted::Role { name: holder.name.clone(), role: holder.role }),
        }
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::{config::SessionUser, session::Settings, state::State};
    use rustls::ServerConfig;

    use super::*;

    /// Takes every certificate for this person's.
    struct Certified(Holder);

    impl Certificates for Certified {
        fn server_config(&self) -> Option<Arc<ServerConfig>> {
            None
        }

        fn holder(&self, _: &CertificateDer<'_>) -> Option<Holder> {
            Some(self.0.clone())
        }
    }

    fn came_from(address: [u8; 4], role: Option<&'static str>) -> Trust {
        let mut trust = Trust::new(Some(address.into()));
        if let Some(role) = role {
            let holder = Holder { name: "moodle".to_owned(), role, sees_sessions: role == "admin" };
            trust.show(&CertificateDer::from(vec![0]), Arc::new(Certified(holder)), 0);
        }
        trust
    }

    fn policy(change: impl FnOnce(&mut Settings)) -> Policy {
        let mut settings = (*State::new().sessions().settings()).clone();
        change(&mut settings);
        Policy::new(Arc::new(settings))
    }

    #[test]
    fn without_users_clients_from_elsewhere_need_the_certificate_of_somebody_who_sees_sessions() {
        const ELSEWHERE: [u8; 4] = [192, 0, 2, 1];
        let protected = policy(|_| {});
        assert_eq!(came_from(ELSEWHERE, None).admit(&protected), Err(NotAdmitted::Stranger));
        for role in ["viewer", "operator"] {
            let refused = NotAdmitted::Role { name: "moodle".to_owned(), role };
            let client = came_from(ELSEWHERE, Some(role));
            assert_eq!(client.admit(&protected), Err(refused));
            // What nobody needs a certificate for, none takes away.
            assert_eq!(came_from([127, 0, 0, 1], Some(role)).admit(&protected), Ok(()));
            assert_eq!(client.admit(&policy(|settings| settings.config.protected = false)), Ok(()));
            let user = SessionUser {
                name: "moodle".to_owned(),
                password_hash: None,
                key_prefixes: Vec::new(),
                databases: Vec::new(),
                read_only: false,
                reads: None,
            };
            assert_eq!(client.admit(&policy(|settings| settings.config.users = vec![user])), Ok(()));
        }
        assert_eq!(came_from(ELSEWHERE, Some("admin")).admit(&protected), Ok(()));
    }
}
