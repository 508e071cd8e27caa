//! People and programs that have certificates.

use std::time::SystemTime;

use ballast_proto::admin::v1 as proto;
use serde::Serialize;

use super::{ChangeView, Row, View, when};
use crate::output::{Cell, Paint, Style};

/// A certificate of a person or program.
#[derive(Clone, Debug, Serialize)]
pub struct UserView {
    /// Whose; empty when that is not known.
    pub name: String,
    /// `admin`, `operator` or `viewer`; empty when that is not known.
    pub role: String,
    /// SHA-256 of what the CA signed of the certificate, hexadecimal.
    pub fingerprint: String,
    /// When it ends.
    pub expire_time: Option<String>,
    /// Whether it has ended, by the clock of whoever asked.
    pub expired: bool,
    /// Whether nodes refuse it although it has not ended.
    pub revoked: bool,
    /// Who issued it; absent for one that was only ever revoked.
    pub issue_change: Option<ChangeView>,
    /// Who revoked it.
    pub revoke_change: Option<ChangeView>,
}

impl From<&proto::UserCertificate> for UserView {
    fn from(user: &proto::UserCertificate) -> Self {
        Self {
            name: user.name.clone(),
            role: user.role.clone(),
            fingerprint: user.fingerprint.clone(),
            expire_time: super::time(user.expire_time.as_ref()),
            expired: user
                .expire_time
                .and_then(|time| SystemTime::try_from(time).ok())
                .is_some_and(|end| end <= SystemTime::now()),
            revoked: user.revoked.is_some(),
            issue_change: user.issued.as_ref().map(ChangeView::from),
            revoke_change: user.revoked.as_ref().map(ChangeView::from),
        }
    }
}

impl Row for UserView {
    const NONE: &'static str = "no certificates of users";

    fn heads(wide: bool) -> &'static [&'static str] {
        if wide {
            &["USER", "ROLE", "STATE", "EXPIRES", "FINGERPRINT", "ISSUED BY", "REVOKED BY"]
        } else {
            &["USER", "ROLE", "STATE", "EXPIRES", "FINGERPRINT"]
        }
    }

    fn cells(&self, wide: bool) -> Vec<Cell> {
        let state = match (self.revoked, self.expired) {
            (true, _) => Cell::painted(Paint::Bad, "revoked"),
            (false, true) => Cell::painted(Paint::Bad, "expired"),
            (false, false) => Cell::painted(Paint::Good, "accepted"),
        };
        let name = if self.name.is_empty() { "(not known)" } else { &self.name };
        let digits = if wide { self.fingerprint.len() } else { 16 };
        let mut cells: Vec<Cell> = vec![
            name.to_owned().into(),
            self.role.clone().into(),
            state,
            when(self.expire_time.as_ref()).into(),
            self.fingerprint.chars().take(digits).collect::<String>().into(),
        ];
        if wide {
            let words = |change: &Option<ChangeView>| change.as_ref().map(ChangeView::words).unwrap_or_default();
            cells.extend([words(&self.issue_change).into(), words(&self.revoke_change).into()]);
        }
        cells
    }
}

/// A certificate was issued.
#[derive(Clone, Debug, Serialize)]
pub struct IssuedView {
    /// Whose.
    pub name: String,
    /// SHA-256 of what the CA signed of the certificate, hexadecimal.
    pub fingerprint: String,
    /// When it ends.
    pub expire_time: Option<String>,
    /// The file with the cluster's CA.
    pub ca_file: String,
    /// The file with the certificate.
    pub certificate_file: String,
    /// The file with the key. A secret.
    pub key_file: String,
}

impl IssuedView {
    /// What the node answered, and the files that it was kept in: CA, certificate, key.
    pub fn new(name: &str, response: &proto::IssueCertificateResponse, files: [String; 3]) -> Self {
        let [ca_file, certificate_file, key_file] = files;
        Self {
            name: name.to_owned(),
            fingerprint: response.fingerprint.clone(),
            expire_time: super::time(response.not_after.as_ref()),
            ca_file,
            certificate_file,
            key_file,
        }
    }
}

impl View for IssuedView {
    fn text(&self, _: Style) -> String {
        let Self { name, fingerprint, ca_file, certificate_file, key_file, .. } = self;
        format!(
            "certificate {} for {name} until {}\nuse it: ballastctl context add NAME --server https://HOST:PORT --ca {ca_file} \
             --cert {certificate_file} --cert-key {key_file}\n",
            fingerprint.chars().take(16).collect::<String>(),
            when(self.expire_time.as_ref())
        )
    }
}

/// Certificates were revoked.
#[derive(Clone, Debug, Serialize)]
pub struct RevokedView {
    /// True when nothing was changed.
    pub dry_run: bool,
    /// Index of the log entry; zero when nothing was changed.
    pub log_index: u64,
    /// Which.
    pub certificates: Vec<UserView>,
}

impl RevokedView {
    /// What the node answered.
    pub fn new(response: &proto::RevokeUserResponse, dry_run: bool) -> Self {
        let certificates = response.certificates.iter().map(UserView::from).collect();
        Self { dry_run, log_index: response.log_index, certificates }
    }
}

impl View for RevokedView {
    fn text(&self, _: Style) -> String {
        let what = if self.dry_run { "would be refused by every node" } else { "is refused by every node" };
        let line = |user: &UserView| {
            let name = if user.name.is_empty() { "nobody known" } else { &user.name };
            format!("certificate {} of {name} {what}\n", user.fingerprint.chars().take(16).collect::<String>())
        };
        self.certificates.iter().map(line).collect()
    }
}
