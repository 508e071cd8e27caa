//! Certificates of people and programs: to whom they were given, and which are no longer accepted.
//!
//! A certificate cannot be taken back, so the log says which ones every node refuses. It also says who was given one,
//! by whom and for how long: a key to the cluster must not be handed out without a trace.
//!
//! Not here: making certificates, and asking on each request (`ballast-admin`).

use serde::{Deserialize, Serialize};

use super::{
    At, Author, Outcome, State,
    events::{EventKind, Said, Subject},
    members::{invalid, not_found},
};
use crate::{ids::LogIndex, time::LogTime};

/// Certificates that are remembered. Arbitrary: each has an operator behind it.
const CERTIFICATES_MAX: usize = 10_000;

/// A certificate is remembered this long after its end, which clocks may disagree about.
const MEMORY_MS: u64 = 30 * DAY_MS;

/// Longest life of a certificate; one that was never recorded is refused for so long.
const LIFE_MS_MAX: u64 = 825 * DAY_MS;

const DAY_MS: u64 = 24 * 3_600_000;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserIdentity {
    /// SHA-256 of what the CA signed (the TBSCertificate). A signature can be changed into another valid one by
    /// anybody, so a hash of the whole would not identify the certificate.
    pub fingerprint: [u8; 32],
    /// Whose it is; empty when that is not known.
    pub name: String,
    /// `admin`, `operator` or `viewer`; empty when that is not known.
    pub role: String,
    /// When it ends.
    pub not_after: LogTime,
}

/// An entry that did something to a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deed {
    /// The entry.
    pub index: LogIndex,
    /// When.
    pub at: LogTime,
    /// Who and why.
    pub author: Author,
}

/// A certificate that the log knows of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserCertificate {
    /// What it says.
    pub user: UserIdentity,
    /// Who issued it; `None` for one that was only ever revoked.
    pub issued: Option<Deed>,
    /// Since when it is refused; `None` while it is accepted.
    pub revoked: Option<Deed>,
}

/// Certificates in the order in which the log heard of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Users(Vec<UserCertificate>);

impl Users {
    /// Left out of a state that has none, which so reads and hashes as it did before there were any.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, fingerprint: &[u8; 32]) -> Option<usize> {
        self.0.iter().position(|known| known.user.fingerprint == *fingerprint)
    }

    /// The certificates that bear one of these names.
    fn of(&self, names: &[String]) -> impl Iterator<Item = [u8; 32]> {
        self.0
            .iter()
            .map(|known| &known.user)
            .filter(move |user| names.contains(&user.name))
            .map(|user| user.fingerprint)
    }

    /// Forgets what ended long ago, and says whether one more fits.
    fn make_room(&mut self, now: LogTime) -> bool {
        self.0.retain(|known| known.user.not_after.plus_millis(MEMORY_MS) > now);
        self.0.len() < CERTIFICATES_MAX
    }
}

impl State {
    /// Certificates of people that the log knows of, oldest first.
    pub fn user_certificates(&self) -> impl Iterator<Item = &UserCertificate> {
        self.parts.members.users.0.iter()
    }

    /// Whether the certificate with this fingerprint (see [`UserIdentity`]) is refused.
    pub fn is_revoked(&self, fingerprint: &[u8; 32]) -> bool {
        let users = &self.parts.members.users;
        users.find(fingerprint).is_some_and(|at| users.0[at].revoked.is_some())
    }

    pub(super) fn issue_user(&mut self, at: At, user: &UserIdentity, author: &Author) -> Outcome {
        let users = &mut self.parts.members.edit().users;
        if users.find(&user.fingerprint).is_some() {
            return Outcome::Done;
        }
        if !users.make_room(at.now) {
            return too_many();
        }
        let issued = Some(deed(at, author));
        users.0.push(UserCertificate { user: user.clone(), issued, revoked: None });
        let what = format!(
            "certificate {} issued to {}, role {}, until {}",
            short(&user.fingerprint),
            user.name,
            user.role,
            day(user.not_after)
        );
        self.record(at, author, Said::new(EventKind::UserIssued, Subject::Cluster, what));
        Outcome::Done
    }

    pub(super) fn revoke_users(
        &mut self,
        at: At,
        fingerprints: &[[u8; 32]],
        names: &[String],
        author: &Author,
    ) -> Outcome {
        let users = &mut self.parts.members.edit().users;
        let fingerprints: Vec<_> = users.of(names).chain(fingerprints.iter().copied()).collect();
        if fingerprints.is_empty() {
            return not_found("certificate".to_owned());
        }
        let mut revoked = Vec::new();
        for fingerprint in &fingerprints {
            let known = match users.find(fingerprint) {
                Some(known) => known,
                None if !users.make_room(at.now) => return too_many(),
                None => {
                    // Made before issuing was recorded, or by somebody who has the CA's key.
                    let not_after = at.now.plus_millis(LIFE_MS_MAX);
                    let (name, role) = (String::new(), String::new());
                    let user = UserIdentity { fingerprint: *fingerprint, name, role, not_after };
                    users.0.push(UserCertificate { user, issued: None, revoked: None });
                    users.0.len() - 1
                }
            };
            let known = &mut users.0[known];
            if known.revoked.is_none() {
                known.revoked = Some(deed(at, author));
                let whose = if known.user.name.is_empty() { "nobody known" } else { &known.user.name };
                revoked.push(format!("certificate {} of {whose} revoked", short(fingerprint)));
            }
        }
        for what in revoked {
            self.record(at, author, Said::new(EventKind::UserRevoked, Subject::Cluster, what));
        }
        Outcome::Done
    }
}

fn deed(at: At, author: &Author) -> Deed {
    Deed { index: at.index, at: at.now, author: author.clone() }
}

fn too_many() -> Outcome {
    invalid(format!("{CERTIFICATES_MAX} certificates are remembered already; give out longer lives less often"))
}

/// The beginning of a fingerprint, enough for people.
fn short(fingerprint: &[u8; 32]) -> String {
    fingerprint[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The day in UTC, as `2027-11-21`. Howard Hinnant's `civil_from_days`.
fn day(time: LogTime) -> String {
    let days = time.as_millis() / DAY_MS + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{
        Command,
        tests::{Scenario, author},
    };

    const MARK: [u8; 32] = [7; 32];

    fn issue(s: &Scenario, fingerprint: [u8; 32], days: u64) -> Command {
        let (name, role) = ("bob".to_owned(), "operator".to_owned());
        let not_after = s.now.plus_millis(days * DAY_MS);
        Command::IssueUser { user: Box::new(UserIdentity { fingerprint, name, role, not_after }), author: author() }
    }

    fn revoke(fingerprint: [u8; 32]) -> Command {
        Command::RevokeUsers { fingerprints: vec![fingerprint], names: Vec::new(), author: author() }
    }

    fn revoke_all_of(name: &str) -> Command {
        Command::RevokeUsers { fingerprints: Vec::new(), names: vec![name.to_owned()], author: author() }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, wanted) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_735_603_200, "2024-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(day(LogTime::from_millis(seconds * 1000)), wanted);
        }
    }

    #[test]
    fn the_history_says_who_was_given_a_certificate_and_who_took_it_away() {
        let mut s = Scenario::founded();
        let empty = s.reread().hash();
        assert_eq!(empty, s.state.hash());
        let command = issue(&s, MARK, 30);
        assert_eq!(s.run(command.clone()), Outcome::Done);
        assert_eq!(s.run(command), Outcome::Done, "a retry is not another certificate");
        assert!(!s.state.is_revoked(&MARK));
        assert_eq!(s.run(revoke(MARK)), Outcome::Done);
        assert_eq!(s.run(revoke(MARK)), Outcome::Done);
        assert!(s.state.is_revoked(&MARK) && s.reread().is_revoked(&MARK));
        let told: Vec<_> = s.state.events().take(2).map(|event| (event.kind, event.what.as_str())).collect();
        assert_eq!(told[0], (EventKind::UserRevoked, "certificate 0707070707070707 of bob revoked"));
        let issued = "certificate 0707070707070707 issued to bob, role operator, until 2001-10-09";
        assert_eq!(told[1], (EventKind::UserIssued, issued));
        let known = s.state.user_certificates().next().expect("it is known");
        assert_eq!(known.issued.as_ref().map(|deed| &deed.author), Some(&author()));
        assert_eq!(s.reread().hash(), s.state.hash());
    }

    #[test]
    fn all_certificates_that_somebody_has_when_it_is_applied_are_revoked_by_name() {
        let mut s = Scenario::founded();
        let asked = revoke_all_of("bob");
        assert_eq!(s.run(asked.clone()), not_found("certificate".to_owned()), "there is none yet");
        s.run(revoke([9; 32]));
        for fingerprint in [[1; 32], [2; 32]] {
            let command = issue(&s, fingerprint, 30);
            s.run(command);
        }
        let not_after = s.now.plus_millis(DAY_MS);
        let (name, role) = ("carol".to_owned(), "operator".to_owned());
        let carols = Box::new(UserIdentity { fingerprint: [3; 32], name, role, not_after });
        s.run(Command::IssueUser { user: carols, author: author() });
        assert_eq!(s.run(asked.clone()), Outcome::Done);
        assert_eq!([1, 2, 3].map(|n| s.state.is_revoked(&[n; 32])), [true, true, false]);
        let command = issue(&s, [4; 32], 30);
        s.run(command);
        assert!(!s.state.is_revoked(&[4; 32]), "one that is issued afterwards is accepted");
        assert_eq!(s.run(asked), Outcome::Done);
        assert!(s.state.is_revoked(&[4; 32]));
        assert_eq!(s.reread().hash(), s.state.hash());
    }

    #[test]
    fn a_revocation_without_names_is_written_and_read_as_before_there_were_any() {
        let before = revoke([1; 32]);
        let text = serde_json::to_string(&before).expect("JSON");
        assert!(!text.contains("names"), "{text}");
        assert_eq!(serde_json::from_str::<Command>(&text).expect("a command"), before);
    }

    #[test]
    fn a_certificate_that_was_never_recorded_can_be_revoked() {
        let mut s = Scenario::founded();
        assert_eq!(s.run(revoke([9; 32])), Outcome::Done);
        assert!(s.state.is_revoked(&[9; 32]));
        s.wait(LIFE_MS_MAX);
        let command = issue(&s, MARK, 1);
        s.run(command);
        assert!(s.state.is_revoked(&[9; 32]), "it may not have ended by every clock");
        s.wait(MEMORY_MS);
        let command = issue(&s, [1; 32], 1);
        s.run(command);
        assert_eq!(s.state.user_certificates().count(), 2, "what ended long ago is forgotten");
    }
}
