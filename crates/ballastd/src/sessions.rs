//! The session store's server in this node: what it listens on, its certificates, its clock.
//!
//! Not here: the protocol (`ballast-sessions`), the keys (`ballast_core::session`).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use ballast_admin::{
    access,
    pki::{self, Identity, UserName, UserRole, identity_of},
};
use ballast_clock::boot_now;
use ballast_core::{
    cluster::Ownership,
    config::SessionProtocol,
    ids::{Revision, VipId},
    session::Sessions,
    state::State,
    time::LogTime,
};
use ballast_raft::Handle;
use ballast_sessions::{
    Certificates, Holder, ListenerState, LogClock, Place, Ports, Server, ServerOptions, Wanted, stats::Stats,
};
use ballast_vip::Gates;
use parking_lot::Mutex;
use rustls::{ServerConfig, pki_types::CertificateDer};

use crate::{
    bootstrap::{Sessions as Settings, SocketMode, VipDriver},
    certificate::Certificate,
    view::View,
};

/// The session store on this node.
pub struct NodeSessions {
    server: Server,
    keys: Arc<Sessions>,
    gates: Arc<Gates>,
    /// Listeners of this node alone.
    own: Vec<Wanted>,
    /// Addresses of VIPs are bound only while they are held: the driver shares them with other nodes of this machine.
    while_held: bool,
    listening: Mutex<Listening>,
}

/// What the server was told to listen on.
#[derive(Default)]
struct Listening {
    wanted: Vec<Wanted>,
    /// The revision that wants it.
    revision: Revision,
    /// The last revision of which each listener was seen to be bound, or to have failed.
    settled: Revision,
}

impl NodeSessions {
    /// Starts the server. It listens on nothing before [`NodeSessions::follow`].
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn start(
        settings: &Settings,
        driver: VipDriver,
        view: &Arc<View>,
        raft: &Handle,
        gates: &Arc<Gates>,
        certificate: &Certificate,
        cluster_id: &str,
    ) -> Result<Self> {
        let keys = raft.with_state(|state| Arc::clone(state.sessions()));
        let ports = Ports {
            sessions: Arc::clone(&keys),
            propose: Arc::new(raft.clone()),
            read_index: Arc::new(raft.clone()),
            ownership: Arc::clone(gates) as Arc<dyn Ownership>,
            clock: Arc::new(Clock { view: Arc::clone(view), raft: raft.clone() }),
            certificates: Some(Arc::new(NodeCertificates {
                config: certificate.server(pki::session_server)?,
                cluster_id: cluster_id.to_owned(),
                raft: raft.clone(),
            })),
        };
        let options = ServerOptions { workers: settings.workers, ..ServerOptions::default() };
        let server = Server::start(options, ports).context("cannot start the session store")?;
        let plain = |place, protocol| Wanted { place, tls: false, protocol };
        let at = |address: &SocketAddr, protocol| plain(Place::Address(*address), protocol);
        let addresses = settings.listen.iter().map(|address| at(address, SessionProtocol::Resp));
        let over_http = settings.http_listen.iter().map(|address| at(address, SessionProtocol::Http));
        let socket = settings.socket.iter().map(|path| {
            let mode = settings.socket_mode.map(|SocketMode(mode)| mode);
            plain(Place::Unix { path: path.clone(), mode }, SessionProtocol::Resp)
        });
        Ok(Self {
            server,
            keys,
            gates: Arc::clone(gates),
            own: addresses.chain(over_http).chain(socket).collect(),
            while_held: driver == VipDriver::Loopback,
            listening: Mutex::default(),
        })
    }

    /// Listens on what the document and `ballastd.toml` want. Call it when either or a VIP's owner has changed, and not before
    /// all that the log held when it was opened is applied; it costs little when nothing has changed.
    pub fn follow(&self, raft: &Handle) {
        let (settings, revision, mut wanted) = raft.with_state(|state| {
            let settings = self.keys.settings();
            let wanted = Wanted::of(&settings, |name| addresses(state, name));
            (settings, state.revision(), wanted)
        });
        if settings.enabled {
            wanted.extend(self.own.iter().cloned());
        }
        if self.while_held {
            let now = boot_now();
            wanted.retain(|wanted| match wanted.place {
                Place::Vip(vip, _) => self.gates.gate(vip).may_accept(now),
                Place::Address(_) | Place::Unix { .. } => true,
            });
        }
        let mut listening = self.listening.lock();
        if listening.wanted != wanted {
            self.server.listen(wanted.clone());
            listening.wanted = wanted;
        }
        listening.revision = revision;
    }

    /// The newest revision whose listeners are bound, or failed to be.
    pub fn settled(&self) -> Revision {
        let mut listening = self.listening.lock();
        let states = self.server.listeners();
        let is_known = |wanted: &Wanted| states.iter().any(|state| state.wanted == *wanted);
        if listening.wanted.iter().all(is_known) && states.iter().all(|state| listening.wanted.contains(&state.wanted))
        {
            listening.settled = listening.revision;
        }
        listening.settled
    }

    /// The keys.
    pub fn keys(&self) -> &Arc<Sessions> {
        &self.keys
    }

    /// What the server counted.
    pub fn stats(&self) -> Stats {
        self.server.stats()
    }

    /// Listeners that cannot be bound, with the reason.
    pub fn failed(&self) -> Vec<(Wanted, String)> {
        let failed = |listener: ListenerState| Some((listener.wanted, listener.bound.err()?));
        self.server.listeners().into_iter().filter_map(failed).collect()
    }

    /// Takes no new connections and lets the others finish what they are at. Returns how many were left.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.server.drain(deadline).await
    }
}

fn addresses(state: &State, name: &str) -> Option<(VipId, Vec<IpAddr>)> {
    let (id, vip) = state.vips().find(|(_, vip)| vip.name == name)?;
    Some((id, vip.addresses.iter().map(|address| address.ip()).collect()))
}

/// This node's estimate of log time. One that is too late costs a tick; by one that is too early, clients would read what has
/// ended.
struct Clock {
    view: Arc<View>,
    raft: Handle,
}

impl LogClock for Clock {
    fn estimate(&self) -> LogTime {
        self.view.log_time_reckoned().max(self.raft.log_time_told().unwrap_or_default())
    }
}

/// The node's certificate, and who shows one of the cluster's CA.
struct NodeCertificates {
    config: Arc<ServerConfig>,
    cluster_id: String,
    raft: Handle,
}

impl Certificates for NodeCertificates {
    fn server_config(&self) -> Option<Arc<ServerConfig>> {
        Some(Arc::clone(&self.config))
    }

    fn holder(&self, certificate: &CertificateDer<'_>) -> Option<Holder> {
        holder_of(certificate, &self.cluster_id, |of| self.raft.with_state(|state| state.is_revoked(of)))
    }
}

/// The person or program whose certificate this is, while it has neither ended nor been revoked.
fn holder_of(
    certificate: &CertificateDer<'_>,
    cluster_id: &str,
    is_revoked: impl FnOnce(&[u8; 32]) -> bool,
) -> Option<Holder> {
    let Ok(Identity::User { name, role }) = identity_of(certificate, cluster_id) else { return None };
    let checked = access::Certificate::of(certificate).map(|shown| shown.check(name.as_str(), is_revoked));
    matches!(checked, Ok(Ok(()))).then(|| holder(&name, role))
}

/// A person or program, as the session store knows it. The admin API shows what is in sessions to admins alone, too.
fn holder(name: &UserName, role: UserRole) -> Holder {
    Holder { name: name.to_string(), role: role.as_str(), sees_sessions: role == UserRole::Admin }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use ballast_admin::pki::{Authority, CERTIFICATE_LIFE_USER, Credentials, Key};
    use ballast_core::ids::NodeId;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    #[test]
    fn a_certificate_names_its_holder_until_it_ends_or_is_revoked() {
        let now = SystemTime::now();
        let authority = Authority::create(&pki::new_cluster_id(), now).expect("a CA");
        let eve = "eve".parse().expect("a name");
        let issue = |at| authority.issue_user(&eve, UserRole::Viewer, at, CERTIFICATE_LIFE_USER).expect("credentials");
        let check = |credentials: &Credentials, is_revoked: bool, wanted: Option<&str>| {
            let pem = credentials.certificate_pem().as_bytes();
            let shown = CertificateDer::from_pem_slice(pem).expect("a certificate");
            let holder = holder_of(&shown, authority.cluster_id(), |_| is_revoked);
            assert_eq!(holder.map(|holder| holder.name).as_deref(), wanted);
        };
        check(&issue(now), false, Some("eve"));
        check(&issue(now), true, None);
        check(&issue(now - 2 * CERTIFICATE_LIFE_USER), false, None);
        let node = authority.issue_node(NodeId::new(1), &Key::generate().expect("a key"), now).expect("credentials");
        check(&node, false, None);
    }

    #[test]
    fn of_all_roles_only_an_admin_sees_sessions() {
        let name: UserName = "eve".parse().expect("a name");
        let roles = [UserRole::Viewer, UserRole::Operator, UserRole::Admin];
        assert_eq!(roles.map(|role| holder(&name, role).sees_sessions), [false, false, true]);
    }
}
