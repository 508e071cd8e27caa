//! This node's certificate: what is shown of it, and how it is renewed.
//!
//! A node renews its certificate by itself, with the CA in its own state, which its cluster key opens. It asks nobody: a node
//! that is alone, or whose certificate has ended while it was off, so that nobody listens to it any more, renews like every
//! other. That gives it nothing it did not have; who may take part is decided by the members in the log, not by a date.
//!
//! The key stays: what it is worth, the cluster key beside it is worth more. The file is replaced in one step and durable before
//! the new certificate is shown, so that a node that ends at any moment finds one that is whole, and none older than it showed.
//!
//! Not here: when it is time (`pki::Renewal`), how long a certificate lasts (`pki::Authority`).

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use ballast_admin::pki::{self, Authority, ClusterKey, Credentials, Key, Renewal, Shown, Validity};
use ballast_core::{ids::NodeId, state::State};
use ballast_raft::Handle;
use parking_lot::Mutex;
use rustls::{ClientConfig, ServerConfig};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the wall clock is looked at, which may be set at any time.
const LOOK: Duration = Duration::from_secs(5);

/// The certificate of this node.
pub struct Certificate {
    node: NodeId,
    file: PathBuf,
    cluster_key: ClusterKey,
    shown: Arc<Shown>,
    ca: Validity,
    kept: Mutex<Kept>,
}

/// What is on disk, and what became of the last try to renew it.
struct Kept {
    credentials: Arc<Credentials>,
    validity: Validity,
    renewal: Renewal,
    failed: Option<String>,
}

/// What the state says about who may have a certificate, and of whom.
pub struct Facts {
    /// The CA's certificate and its sealed key.
    ca: Option<(String, Vec<u8>)>,
    is_member: bool,
}

impl Facts {
    /// About that node.
    pub fn of(state: &State, node: NodeId) -> Self {
        let ca = state.cluster().map(|cluster| (cluster.ca_certificate.clone(), cluster.ca_key_sealed.clone()));
        Self { ca, is_member: state.node(node).is_some() }
    }
}

impl Certificate {
    /// One that was read from `file`.
    ///
    /// # Errors
    /// When key and certificate do not belong together.
    pub fn new(node: NodeId, file: PathBuf, credentials: Credentials, cluster_key: ClusterKey) -> Result<Self> {
        let shown = Shown::new(&credentials)?;
        let (ca, validity) = (Validity::of(credentials.ca())?, credentials.validity()?);
        let kept = Kept { credentials: Arc::new(credentials), validity, renewal: Renewal::new(node), failed: None };
        Ok(Self { node, file, cluster_key, shown, ca, kept: Mutex::new(kept) })
    }

    /// A server that shows it, made with one of [`pki`]'s.
    ///
    /// # Errors
    /// As `make`.
    pub fn server(
        &self,
        make: impl FnOnce(&Credentials) -> Result<ServerConfig, pki::PkiError>,
    ) -> Result<Arc<ServerConfig>> {
        Ok(self.shown.server(make(&self.credentials())?))
    }

    /// A client that shows it, made with one of [`pki`]'s.
    ///
    /// # Errors
    /// As `make`.
    pub fn client(
        &self,
        make: impl FnOnce(&Credentials) -> Result<ClientConfig, pki::PkiError>,
    ) -> Result<Arc<ClientConfig>> {
        Ok(self.shown.client(make(&self.credentials())?))
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.kept.lock().validity.not_after
    }

    /// What is wrong with it, and what to do; nothing while it is good.
    pub fn problem(&self, now: SystemTime) -> Option<String> {
        let kept = self.kept.lock();
        let ended = kept.validity.not_after;
        (ended <= now).then(|| {
            let why = kept.failed.as_deref().unwrap_or("it is tried at once");
            format!("this node's certificate ended on {} and could not be renewed: {why}", pki::day_of(ended))
        })
    }

    /// Whether it is to be renewed now.
    pub fn is_due(&self, wall: SystemTime, steady: Instant) -> bool {
        let kept = self.kept.lock();
        kept.renewal.is_due(kept.validity, self.ca.not_after, wall, steady)
    }

    /// Renews it, and tells the log what came of it. Writes to the disk.
    pub fn renew(&self, facts: Facts, wall: SystemTime, steady: Instant) {
        let old = self.credentials();
        let renewed = self.make(&old, facts, wall);
        let mut kept = self.kept.lock();
        match renewed {
            Ok((credentials, validity)) => {
                (kept.credentials, kept.validity, kept.failed) = (Arc::new(credentials), validity, None);
                kept.renewal.succeeded();
                info!(ends = pki::day_of(validity.not_after), "this node's certificate was renewed");
            }
            Err(error) => {
                let error = format!("{error:#}");
                let (ends, pause) = (pki::day_of(kept.validity.not_after), kept.renewal.failed(steady));
                warn!(error, ends, again_in = ?pause, "this node's certificate cannot be renewed");
                kept.failed = Some(error);
            }
        }
    }

    fn make(&self, old: &Credentials, facts: Facts, wall: SystemTime) -> Result<(Credentials, Validity)> {
        const REJOIN: &str =
            "remove it with `ballastctl node remove` on another node, empty its data directory and join it again";
        let (ca, sealed) = facts.ca.with_context(|| format!("its log does not hold the cluster's CA; {REJOIN}"))?;
        ensure!(facts.is_member, "the log does not name this node; it has not caught up, or was removed");
        let authority = Authority::open(&ca, &sealed, &self.cluster_key)
            .with_context(|| format!("cluster.key does not open the cluster's CA; restore the file, or {REJOIN}"))?;
        ensure!(
            authority.pin() == old.ca_pin()?,
            "node.pem is of another CA than the log; restore the file, or {REJOIN}"
        );
        let renewed = authority.issue_node(self.node, &Key::from_pem(old.key_pem())?, wall)?;
        let validity = renewed.validity()?;
        renewed.store(&self.file)?;
        self.shown.replace(&renewed)?;
        Ok((renewed, validity))
    }

    fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.kept.lock().credentials)
    }
}

/// Renews when it is time, until `ending`.
pub async fn keep_renewed(certificate: Arc<Certificate>, raft: Handle, ending: CancellationToken) {
    loop {
        if certificate.is_due(SystemTime::now(), Instant::now()) {
            let facts = raft.with_state(|state| Facts::of(state, raft.node()));
            let certificate = Arc::clone(&certificate);
            let renewing =
                tokio::task::spawn_blocking(move || certificate.renew(facts, SystemTime::now(), Instant::now()));
            // A panic in it ends the process, as everywhere.
            drop(renewing.await);
        }
        // Both arms are cancel-safe.
        tokio::select! { () = sleep(LOOK) => {}, () = ending.cancelled() => return }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    struct Made {
        certificate: Certificate,
        authority: Authority,
        cluster_key: ClusterKey,
        folder: tempfile::TempDir,
        at: SystemTime,
    }

    /// A node that was enrolled at a certain time.
    fn made() -> Made {
        let at = SystemTime::UNIX_EPOCH + 20_000 * DAY;
        let authority = Authority::create(&pki::new_cluster_id(), at).expect("a CA");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("node.pem");
        let node = NodeId::new(3);
        let key = Key::generate().expect("a key");
        authority.issue_node(node, &key, at).expect("a certificate").store(&file).expect("stored");
        let cluster_key = ClusterKey::generate();
        let certificate =
            Certificate::new(node, file.clone(), Credentials::load(&file).expect("there"), cluster_key.clone());
        Made { certificate: certificate.expect("good"), authority, cluster_key, folder, at }
    }

    impl Made {
        fn facts(&self) -> Facts {
            let sealed = self.authority.seal_key(&self.cluster_key).expect("sealed");
            Facts { ca: Some((self.authority.certificate_pem().to_owned(), sealed)), is_member: true }
        }

        fn on_disk(&self) -> Credentials {
            Credentials::load(&self.folder.path().join("node.pem")).expect("a good file")
        }
    }

    #[test]
    fn a_node_whose_certificate_ended_long_ago_makes_itself_another_with_its_old_key() {
        let made = made();
        let old = made.on_disk();
        let late = made.at + 1000 * DAY;
        assert!(!made.certificate.is_due(made.at, Instant::now()) && made.certificate.is_due(late, Instant::now()));
        assert_eq!(made.certificate.problem(made.at), None);
        let problem = made.certificate.problem(late).expect("it has ended");
        assert!(problem.starts_with("this node's certificate ended on 2025-10-04"), "{problem}");
        made.certificate.renew(made.facts(), late, Instant::now());
        assert_eq!(made.certificate.problem(late), None);
        assert!(!made.certificate.is_due(late, Instant::now()));
        let renewed = made.on_disk();
        assert_eq!(renewed.validity().expect("dates").not_after, made.certificate.not_after());
        assert_eq!(made.certificate.not_after(), late + pki::CERTIFICATE_LIFE_NODE);
        assert_eq!((renewed.key_pem(), renewed.identity()), (old.key_pem(), old.identity()));
    }

    #[test]
    fn what_is_in_the_way_of_a_renewal_is_told_until_it_succeeds() {
        let made = made();
        let late = made.at + 1000 * DAY;
        let (mut steady, old) = (Instant::now(), made.on_disk().to_pem());
        let sealed = made.authority.seal_key(&ClusterKey::generate()).expect("sealed");
        let stranger = Authority::create(&pki::new_cluster_id(), made.at).expect("a CA");
        let strange = (stranger.certificate_pem().to_owned(), stranger.seal_key(&made.cluster_key).expect("sealed"));
        for (facts, told) in [
            (Facts { ca: None, ..made.facts() }, "its log does not hold the cluster's CA; remove it with"),
            (Facts { is_member: false, ..made.facts() }, "the log does not name this node"),
            (Facts { ca: made.facts().ca.map(|(ca, _)| (ca, sealed.clone())), is_member: true }, "cluster.key"),
            (Facts { ca: Some(strange.clone()), is_member: true }, "of another CA"),
        ] {
            assert!(made.certificate.is_due(late, steady), "{told}");
            made.certificate.renew(facts, late, steady);
            let problem = made.certificate.problem(late).expect("still");
            assert!(problem.contains(told), "{problem}");
            assert!(!made.certificate.is_due(late, steady), "not without a pause");
            assert_eq!(made.on_disk().to_pem(), old);
            steady += Duration::from_secs(3600);
        }
        made.certificate.renew(made.facts(), late, steady);
        assert_eq!(made.certificate.problem(late), None);
    }
}
