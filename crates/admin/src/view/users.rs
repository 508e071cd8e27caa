//! Certificates of people.

use ballast_core::state::{Deed, State, UserCertificate};
use ballast_proto::admin::v1 as proto;

use super::{change, timestamp};
use crate::error::{self, ApiError};

/// Fewest digits by which a certificate may be named.
const DIGITS_MIN: usize = 8;

/// A fingerprint as it is shown.
pub fn fingerprint_text(fingerprint: &[u8; 32]) -> String {
    fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Certificates of people, newest first.
pub fn users(state: &State) -> Vec<proto::UserCertificate> {
    let mut users: Vec<_> = state.user_certificates().map(user).collect();
    users.reverse();
    users
}

fn user(known: &UserCertificate) -> proto::UserCertificate {
    let told = |deed: &Deed| change(deed.index, deed.at, &deed.author);
    proto::UserCertificate {
        name: known.user.name.clone(),
        role: known.user.role.clone(),
        fingerprint: fingerprint_text(&known.user.fingerprint),
        expire_time: Some(timestamp(known.user.not_after)),
        issued: known.issued.as_ref().map(told),
        revoked: known.revoked.as_ref().map(told),
    }
}

/// The certificates that a caller means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundUsers {
    /// All of this user, who has at least one.
    Named(String),
    /// The one with this fingerprint.
    One([u8; 32]),
}

/// The certificates that a caller means: all of a user, or the one whose fingerprint begins with these digits.
///
/// # Errors
/// `INVALID_ARGUMENT` when neither or both are named, `NOT_FOUND` when there is none, or several begin so.
pub fn find_users(state: &State, name: &str, digits: &str) -> Result<FoundUsers, ApiError> {
    let all = || state.user_certificates().map(|known| &known.user);
    match (name, digits) {
        ("", "") => Err(error::invalid("user", "no user and no fingerprint is named", "name one of them")),
        (name, "") => {
            if all().all(|user| user.name != name) {
                let known: std::collections::BTreeSet<_> = all().map(|user| user.name.as_str()).collect();
                return Err(error::not_found("a certificate of user", name, known));
            }
            Ok(FoundUsers::Named(name.to_owned()))
        }
        ("", digits) => {
            let digits: String = digits.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
            if digits.len() < DIGITS_MIN || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                let fix =
                    format!("write at least {DIGITS_MIN} hexadecimal digits, as `ballastctl user list` shows them");
                return Err(error::invalid("fingerprint", format!("{digits:?} names no certificate"), fix));
            }
            let begins = |fingerprint: &[u8; 32]| fingerprint_text(fingerprint).starts_with(&digits);
            let found: Vec<_> = all().map(|user| user.fingerprint).filter(begins).collect();
            match (&found[..], parse_fingerprint(&digits)) {
                ([one], _) => Ok(FoundUsers::One(*one)),
                // One that was never recorded can only be named in full.
                ([], Some(whole)) => Ok(FoundUsers::One(whole)),
                ([], None) => Err(error::not_found("certificate", &digits, [])
                    .remedy("one that is not in `ballastctl user list` has to be named by all 64 digits")),
                _ => Err(error::not_found("certificate", &digits, []).remedy("several begin so; write more digits")),
            }
        }
        _ => Err(error::invalid("user", "both a user and a fingerprint are named", "name one of them")),
    }
}

fn parse_fingerprint(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(bytes)
}
