//! Who this node is: what `init` and `join` leave in the data directory and `run` finds there.
//!
//! | file | holds |
//! |---|---|
//! | `node.json` | format, cluster id, node id, name |
//! | `node.pem` | key, certificate and the CA's certificate of the node |
//! | `cluster.key` | key under which secrets in the log are sealed |
//! | `genesis.json` | first node only, until its first run: the beginning of the cluster |
//! | `admin/` | first node only: the first administrator's `ca.pem`, `admin.pem`, `admin.key`, to be taken elsewhere |
//! | `begun` | written when the log was first opened: from then on its absence is a loss |
//! | `lock` | held while a daemon uses the directory |
//! | `log/`, `snapshots/` | the replicated log and state |
//!
//! A directory belongs to one node of one cluster for ever: `init` and `join` refuse one that has
//! data, because a node that forgot what it voted for must join as a new one.

use std::{
    fs::{self, File, OpenOptions},
    os::{fd::AsRawFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use ballast_admin::pki::{self, Authority, ClusterKey, Credentials, Key, UserRole};
use ballast_core::{
    ids::NodeId,
    state::{InitCluster, NodeInfo, State, UserIdentity},
    time::LogTime,
};
use serde::{Deserialize, Serialize};

use crate::{bootstrap::Bootstrap, certificate::Certificate};

/// Format of `node.json`; a later one is refused.
const FORMAT: u32 = 1;

/// Name of the file that a daemon holds while it uses the directory.
const LOCK: &str = "lock";

/// Validity of the first administrator's certificate.
const ADMIN_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Who this node is.
pub struct Identity {
    /// Its id in the log.
    pub node: NodeId,
    /// The cluster.
    pub cluster_id: String,
    /// Its key and certificate.
    pub certificate: Arc<Certificate>,
    /// The key that opens secrets in the log.
    pub cluster_key: ClusterKey,
    /// The beginning of the cluster, while it is not in the log yet.
    pub genesis: Option<Genesis>,
    folder: PathBuf,
    _lock: File,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    format: u32,
    cluster_id: String,
    node_id: NodeId,
    name: String,
}

/// The beginning of a cluster.
#[derive(Clone)]
pub struct Genesis {
    /// The first entry.
    pub init: InitCluster,
    /// The certificate that `init` gave the first administrator.
    pub first_admin: Option<UserIdentity>,
}

/// [`Genesis`] in a form for disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GenesisFile {
    cluster_id: String,
    ca_certificate: String,
    ca_key_sealed: Vec<u8>,
    first_node: NodeInfo,
    first_node_key_fingerprint: [u8; 32],
    table_secret: [u8; 16],
    cookie_secret: [u8; 32],
    lease_secret: [u8; 32],
    #[serde(default)]
    first_admin: Option<UserIdentity>,
}

/// What enrolment brought.
pub struct Enrolled {
    /// Id assigned by the log.
    pub node: NodeId,
    /// Certificate, PEM.
    pub certificate: String,
    /// CA's certificate, PEM.
    pub ca: String,
    /// The cluster.
    pub cluster_id: String,
    /// Key that opens secrets in the log.
    pub cluster_key: ClusterKey,
}

/// Makes a cluster of one in an empty data directory, or in one where this failed half-way before: `node.json` is written
/// last, so what is there without it was made for a cluster that never began, and is replaced.
///
/// # Errors
/// When the directory has data, or cannot be written.
pub fn init(bootstrap: &Bootstrap) -> Result<String> {
    let (folder, _lock) = claim(bootstrap)?;
    let now = SystemTime::now();
    let cluster_id = pki::new_cluster_id();
    let authority = Authority::create(&cluster_id, now)?;
    let cluster_key = ClusterKey::generate();
    let key = Key::generate()?;
    let node = NodeId::new(1);
    let admin = authority.issue_user(&"admin".parse()?, UserRole::Admin, now, ADMIN_LIFE)?;
    let not_after = admin.validity()?.not_after.duration_since(SystemTime::UNIX_EPOCH)?;
    let genesis = GenesisFile {
        cluster_id: cluster_id.clone(),
        ca_certificate: authority.certificate_pem().to_owned(),
        ca_key_sealed: authority.seal_key(&cluster_key)?,
        first_node: bootstrap.node_info(crate::interfaces::mac),
        first_node_key_fingerprint: key.public().fingerprint(),
        table_secret: rand::random(),
        cookie_secret: rand::random(),
        lease_secret: rand::random(),
        first_admin: Some(UserIdentity {
            fingerprint: admin.fingerprint(),
            name: "admin".to_owned(),
            role: UserRole::Admin.to_string(),
            not_after: LogTime::from_millis(u64::try_from(not_after.as_millis())?),
        }),
    };
    let taken = folder.join("admin");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&taken)
        .with_context(|| format!("cannot create {}", taken.display()))?;
    pki::write_private(&taken.join("ca.pem"), admin.ca_pem().as_bytes())?;
    pki::write_private(&taken.join("admin.pem"), admin.certificate_pem().as_bytes())?;
    pki::write_private(&taken.join("admin.key"), admin.key_pem().as_bytes())?;
    authority.issue_node(node, &key, now)?.store(&folder.join("node.pem"))?;
    pki::write_private(&folder.join("cluster.key"), cluster_key.to_text().as_bytes())?;
    pki::write_private(&folder.join("genesis.json"), &serde_json::to_vec(&genesis)?)?;
    write_node(&folder, &cluster_id, node, &bootstrap.name)?;
    Ok(cluster_id)
}

/// The key of a node that is about to join, made once and kept: a second try with it gets the same id.
///
/// # Errors
/// When the directory has data of a node that joined already, or cannot be written.
pub fn joining_key(bootstrap: &Bootstrap) -> Result<(Key, File)> {
    let (folder, lock) = claim(bootstrap)?;
    let path = folder.join("joining.key");
    if let Ok(pem) = fs::read_to_string(&path) {
        return Ok((Key::from_pem(&pem)?, lock));
    }
    let key = Key::generate()?;
    pki::write_private(&path, key.to_pem().as_bytes())?;
    Ok((key, lock))
}

/// Keeps what enrolment brought. `node.json` is written last: without it the node has not joined. What an `init` left that
/// failed half-way is gone before: the node would make that cluster at its first run.
///
/// # Errors
/// When the directory cannot be written.
pub fn keep_enrolled(bootstrap: &Bootstrap, key: &Key, enrolled: &Enrolled) -> Result<()> {
    let folder = &bootstrap.data_dir;
    forget_genesis(folder)?;
    match fs::remove_dir_all(folder.join("admin")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context("remove admin/"),
        _ => {}
    }
    File::open(folder).and_then(|folder| folder.sync_all()).context("sync data_dir")?;
    Credentials::new(&enrolled.certificate, &enrolled.ca, &key.to_pem())?.store(&folder.join("node.pem"))?;
    pki::write_private(&folder.join("cluster.key"), enrolled.cluster_key.to_text().as_bytes())?;
    write_node(folder, &enrolled.cluster_id, enrolled.node, &bootstrap.name)?;
    fs::remove_file(folder.join("joining.key")).context("remove joining.key")?;
    Ok(())
}

impl Identity {
    /// Finds out who this node is, and holds the data directory until dropped.
    ///
    /// # Errors
    /// When the node was neither initialised nor joined, its name changed, its files are damaged, or another daemon
    /// uses the directory.
    pub fn load(bootstrap: &Bootstrap) -> Result<Self> {
        let folder = bootstrap.data_dir.clone();
        let path = folder.join("node.json");
        if !path.exists() {
            bail!(
                "{} holds no node yet; make a cluster with `ballastd init`, or enter one with `ballastd join --token ...`",
                folder.display()
            );
        }
        let lock = lock(&folder)?;
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let file: NodeFile = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is damaged; remove the node from the cluster, empty the directory and join again",
                path.display()
            )
        })?;
        ensure!(
            file.format == FORMAT,
            "{} has format {}, this version knows {FORMAT}; use the version of ballastd that wrote it or a newer one",
            path.display(),
            file.format
        );
        ensure!(
            file.name == bootstrap.name,
            "the data directory {} belongs to node {:?}, but the configuration names {:?}; correct `name` or `data_dir`",
            folder.display(),
            file.name,
            bootstrap.name
        );
        let pem = folder.join("node.pem");
        let credentials = Credentials::load(&pem)?;
        ensure!(
            credentials.cluster_id() == file.cluster_id,
            "node.pem belongs to cluster {}, node.json to {}; restore the file that was changed",
            credentials.cluster_id(),
            file.cluster_id
        );
        let key_path = folder.join("cluster.key");
        let cluster_key =
            fs::read_to_string(&key_path).with_context(|| format!("cannot read {}", key_path.display()))?;
        let cluster_key = ClusterKey::from_text(cluster_key.trim())?;
        let genesis = match fs::read(folder.join("genesis.json")) {
            Ok(bytes) => Some(read_genesis(&bytes)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context("cannot read genesis.json"),
        };
        if let Some(Genesis { init, .. }) = &genesis {
            ensure!(
                init.cluster_id == file.cluster_id,
                "{} belongs to cluster {}, which never began, and node.json to {}; remove the former",
                folder.join("genesis.json").display(),
                init.cluster_id,
                file.cluster_id
            );
        }
        let certificate = Certificate::new(file.node_id, pem, credentials, cluster_key.clone())?;
        Ok(Self {
            node: file.node_id,
            cluster_id: file.cluster_id,
            certificate: Arc::new(certificate),
            cluster_key,
            genesis,
            folder,
            _lock: lock,
        })
    }

    /// Refuses a directory whose log is gone: the node would have forgotten what it voted for and acknowledged, and
    /// could help to elect a leader that never heard of it.
    ///
    /// # Errors
    /// When the log was opened before and is not there any more.
    pub fn check_log(&self) -> Result<()> {
        check_log(&self.folder)
    }

    /// Notes that there is a log from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn log_begun(&self) -> Result<()> {
        let path = self.folder.join("begun");
        if !path.exists() {
            pki::write_private(&path, b"the log was opened\n")?;
        }
        Ok(())
    }

    /// Forgets the beginning of the cluster, which is in the log now.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn genesis_done(&self) -> Result<()> {
        forget_genesis(&self.folder)
    }
}

fn forget_genesis(folder: &Path) -> Result<()> {
    match fs::remove_file(folder.join("genesis.json")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("remove genesis.json"),
        _ => Ok(()),
    }
}

/// Refuses a cluster key that does not open the secrets in the log: the node could let nobody in and renew no
/// certificate, and would say so only then. A state that names no cluster yet says nothing.
///
/// # Errors
/// When the key in `folder` is not this cluster's.
pub fn check_cluster_key(folder: &Path, key: &ClusterKey, state: &State) -> Result<()> {
    let Some(cluster) = state.cluster() else { return Ok(()) };
    Authority::open(&cluster.ca_certificate, &cluster.ca_key_sealed, key).map(drop).with_context(|| {
        format!(
            "{} does not open the secrets of cluster {}; restore the file, or remove this node with `ballastctl node \
             remove`, empty its data directory and join it again",
            folder.join("cluster.key").display(),
            cluster.id
        )
    })
}

/// A file system that was made anew for the log is not empty either; only the database's own file tells.
fn check_log(folder: &Path) -> Result<()> {
    let (log, database) = (folder.join("log"), folder.join("log/rocksdb/CURRENT"));
    let there = database
        .try_exists()
        .with_context(|| format!("cannot look at {}; check its owner and its disk", database.display()));
    ensure!(
        !folder.join("begun").exists() || there?,
        "the log in {} is gone; this node must not go on without what it promised. Remove it with `ballastctl node remove`, \
         empty its data directory and join it again",
        log.display()
    );
    Ok(())
}

fn read_genesis(bytes: &[u8]) -> Result<Genesis> {
    let file: GenesisFile =
        serde_json::from_slice(bytes).context("genesis.json is damaged; empty the directory and init again")?;
    let init = InitCluster {
        cluster_id: file.cluster_id,
        ca_certificate: file.ca_certificate,
        ca_key_sealed: file.ca_key_sealed,
        first_node: file.first_node,
        first_node_key_fingerprint: file.first_node_key_fingerprint,
        table_secret: file.table_secret.into(),
        cookie_secret: file.cookie_secret.into(),
        lease_secret: file.lease_secret.into(),
    };
    Ok(Genesis { init, first_admin: file.first_admin })
}

fn write_node(folder: &Path, cluster_id: &str, node: NodeId, name: &str) -> Result<()> {
    let file = NodeFile { format: FORMAT, cluster_id: cluster_id.to_owned(), node_id: node, name: name.to_owned() };
    pki::write_private(&folder.join("node.json"), &serde_json::to_vec_pretty(&file)?)?;
    Ok(())
}

/// Creates the data directory if need be, locks it, and refuses one that has a node or a log.
fn claim(bootstrap: &Bootstrap) -> Result<(PathBuf, File)> {
    let folder = bootstrap.data_dir.clone();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("cannot create data_dir {}", folder.display()))?;
    let lock = lock(&folder)?;
    if let Ok(text) = fs::read_to_string(folder.join("node.json")) {
        let known = serde_json::from_str::<NodeFile>(&text)
            .map_or_else(|_| "a node".to_owned(), |f| format!("node {:?} of cluster {}", f.name, f.cluster_id));
        bail!(
            "data_dir {} already holds {known}; a node is never initialised or joined twice. Start it with `ballastd run`, or \
             name another directory",
            folder.display()
        );
    }
    if folder.join("log").exists() {
        bail!("data_dir {} holds a log but no node.json; name an empty directory", folder.display());
    }
    Ok((folder, lock))
}

/// Holds the directory for as long as the file lives.
fn lock(folder: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(LOCK));
    hold(file.with_context(|| not_writable(folder))?, folder)
}

/// As [`lock`], without making the file where there is none: nobody uses such a directory, and who will may not be who asks.
///
/// # Errors
/// When a daemon uses the directory.
pub fn lock_if_used(folder: &Path) -> Result<Option<File>> {
    match OpenOptions::new().write(true).open(folder.join(LOCK)) {
        Ok(file) => hold(file, folder).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| not_writable(folder)),
    }
}

fn not_writable(folder: &Path) -> String {
    format!(
        "cannot write to data_dir {}; check that it is on a writable disk and belongs to the user that runs ballastd",
        folder.display()
    )
}

fn hold(file: File, folder: &Path) -> Result<File> {
    // SAFETY: flock(2) on a descriptor that is open for as long as `file` lives.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        bail!("another ballastd uses data_dir {}; each node needs its own", folder.display());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_gone_if_its_database_is_whatever_else_is_in_its_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let check = || check_log(folder.path()).map_err(|error| error.to_string());
        let database = folder.path().join("log/rocksdb");
        fs::create_dir_all(folder.path().join("log/lost+found")).expect("made");
        assert_eq!(check(), Ok(()), "it was never opened");
        fs::write(folder.path().join("begun"), "").expect("written");
        let gone = check().expect_err("it is gone");
        assert!(gone.contains("is gone") && gone.contains("join it again"), "{gone}");
        fs::create_dir(&database).expect("made");
        fs::write(database.join("CURRENT"), "").expect("written");
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn who_leaves_a_directory_makes_nothing_there_and_takes_nothing_from_a_daemon() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(lock_if_used(folder.path()).expect("nobody uses it").is_none());
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
        let _used = lock(folder.path()).expect("locked");
        let refused = lock_if_used(folder.path()).expect_err("it is used").to_string();
        assert!(refused.contains("another ballastd uses"), "{refused}");
    }

    fn node_in(at: &Path) -> Bootstrap {
        let text = format!(
            "name = \"node-1\"\ndata_dir = {at:?}\n[listen]\ncluster = \"127.0.0.1:7400\"\nadmin = \"127.0.0.1:7401\"\n"
        );
        Bootstrap::parse(&text, |_| None).expect("a node's file")
    }

    #[test]
    fn an_init_that_failed_half_way_can_be_repeated() {
        let folder = tempfile::tempdir().expect("a folder");
        let bootstrap = node_in(folder.path());
        // A file cannot take the place of a folder.
        let in_the_way = folder.path().join("genesis.json");
        fs::create_dir(&in_the_way).expect("made");
        init(&bootstrap).expect_err("genesis.json cannot be written");
        assert!(folder.path().join("admin/admin.key").exists(), "it failed half-way");
        fs::remove_dir(&in_the_way).expect("removed");
        let cluster = init(&bootstrap).expect("repeated");
        let admin = |name: &str| fs::read_to_string(folder.path().join("admin").join(name)).expect("written");
        let admin = Credentials::new(&admin("admin.pem"), &admin("ca.pem"), &admin("admin.key")).expect("they fit");
        let node = Identity::load(&bootstrap).expect("a node");
        assert_eq!((admin.cluster_id(), node.cluster_id.as_str()), (cluster.as_str(), cluster.as_str()));
    }

    #[test]
    fn a_join_after_an_init_that_failed_half_way_enters_the_one_cluster_and_makes_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let (bootstrap, genesis) = (node_in(folder.path()), folder.path().join("genesis.json"));
        // A file cannot take the place of a folder.
        let in_the_way = folder.path().join("node.json");
        fs::create_dir(&in_the_way).expect("made");
        init(&bootstrap).expect_err("node.json cannot be written");
        fs::remove_dir(&in_the_way).expect("removed");
        let stale = fs::read(&genesis).expect("it failed half-way");

        let (now, node) = (SystemTime::now(), NodeId::new(2));
        let authority = Authority::create(&pki::new_cluster_id(), now).expect("a CA");
        let (key, held) = joining_key(&bootstrap).expect("a key");
        let credentials = authority.issue_node(node, &key, now).expect("credentials");
        let enrolled = Enrolled {
            node,
            certificate: credentials.certificate_pem().to_owned(),
            ca: authority.certificate_pem().to_owned(),
            cluster_id: authority.cluster_id().to_owned(),
            cluster_key: ClusterKey::generate(),
        };
        keep_enrolled(&bootstrap, &key, &enrolled).expect("kept");
        drop(held);
        assert!(!genesis.exists() && !folder.path().join("admin").exists());
        let identity = Identity::load(&bootstrap).expect("a node");
        assert_eq!((identity.node, identity.cluster_id.as_str()), (node, authority.cluster_id()));
        assert!(identity.genesis.is_none());
        drop(identity);

        // As earlier versions left it.
        fs::write(&genesis, stale).expect("written");
        let refused = Identity::load(&bootstrap).map(drop).expect_err("it would make another cluster").to_string();
        assert!(refused.contains("genesis.json belongs to cluster") && refused.contains("remove"), "{refused}");
    }
}
