//! The ways in: TCP beyond this machine, TLS, a Unix socket, a VIP.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use ballast_clock::boot_now;
use ballast_core::{config::SessionProtocol, ids::VipId, lease::LAST_WORDS, time::BootNanos};
use ballast_sessions::{Certificates, Holder, Place, Wanted};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
};
use support::{Ballast, Client, LOCAL};

const HOUR_NANOS: u64 = 3_600_000_000_000;

/// An address of this machine that is not loopback; nothing is sent to find it.
fn outside() -> Option<SocketAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| SocketAddr::new(address, 0))
}

fn at(place: Place, tls: bool) -> Vec<Wanted> {
    vec![Wanted { place, tls, protocol: SessionProtocol::Resp }]
}

#[test]
fn protected_mode_refuses_strangers_from_elsewhere_in_words() {
    let Some(outside) = outside() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let ballast = Ballast::start_at("{}", at(Place::Address(outside), false), None);
    let mut client = ballast.client();
    let told = String::from_utf8(client.rest()).unwrap();
    assert!(told.starts_with("-DENIED") && told.contains("sessions.protected") && told.ends_with("\r\n"), "{told}");
    ballast.cluster.configure(r#"{"protected":false}"#);
    // Who comes after the settings is served by them.
    assert_eq!(ballast.client().say("PING"), "+PONG\r\n");
    let users = r#"{"users":[{"name":"default","password_hash":"HASH"}]}"#.replace("HASH", &support::hash("pw"));
    let ballast = Ballast::start_at(&users, at(Place::Address(outside), false), None);
    let mut client = ballast.client();
    assert_eq!(client.say("PING"), "-NOAUTH Authentication required.\r\n");
    assert_eq!(client.say("AUTH pw"), "+OK\r\n");
    assert_eq!(client.say("PING"), "+PONG\r\n");
}

#[test]
fn a_unix_socket_serves_and_is_replaced_if_nobody_listens_on_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let ballast = Ballast::start_at("{}", at(Place::Unix { path: path.clone(), mode: Some(0o620) }, false), None);
    let mut client = Client::unix(&path);
    assert_eq!(client.say("SET a 1"), "+OK\r\n");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620, "whatever the umask is");
    assert_eq!(Client::unix(&path).say("GET a"), "$1\r\n1\r\n");
    drop(ballast);
    assert!(!path.exists());
}

#[test]
fn a_vip_is_served_while_it_is_held() {
    let ballast = Ballast::start_at("{}", at(Place::Vip(VipId::new(1), LOCAL), false), None);
    assert_ne!(ballast.client().say("PING"), "+PONG\r\n", "it is not held");
    ballast.cluster.gate.hold(1, BootNanos::new(u64::MAX));
    let mut client = ballast.client();
    assert_eq!(client.say("SET a 1"), "+OK\r\n");
    ballast.cluster.gate.close();
    client.send(b"SET a 2\r\n");
    assert_eq!(client.answer(), None, "what is not begun is not begun here");
    ballast.cluster.gate.hold(2, BootNanos::new(u64::MAX));
    assert_eq!(ballast.client().say("GET a"), "$1\r\n1\r\n");
}

#[test]
fn no_transaction_is_begun_where_its_vip_is_held_no_more() {
    let ballast = Ballast::start_at("{}", at(Place::Vip(VipId::new(1), LOCAL), false), None);
    let gate = &ballast.cluster.gate;
    gate.hold(1, BootNanos::new(u64::MAX));
    let (mut client, mut watcher) = (ballast.client(), ballast.client());
    for (words, answer) in [("SET a 1", "+OK\r\n"), ("MULTI", "+OK\r\n"), ("INCR a", "+QUEUED\r\n")] {
        assert_eq!(client.say(words), answer);
    }
    assert_eq!(watcher.say("PING"), "+PONG\r\n");
    let asked = || {
        let cluster = &ballast.cluster;
        [&cluster.proposals, &cluster.confirmations].map(|count| count.load(Ordering::SeqCst))
    };
    let before = asked();
    gate.close();
    client.send(b"EXEC\r\n");
    watcher.send(b"WATCH a\r\n");
    assert_eq!((client.answer(), watcher.answer()), (None, None));
    assert_eq!(asked(), before, "nobody is there to hear the answer");
    gate.hold(2, BootNanos::new(u64::MAX));
    assert_eq!(ballast.client().say("GET a"), "$1\r\n1\r\n");
}

#[test]
fn whoever_waits_on_a_vip_that_was_handed_over_is_told_while_its_end_gets_through() {
    // The only worker does one thing at a time: once it has answered the subscriber, it waits for what the other says next.
    let ballast = Ballast::start_with("{}", at(Place::Vip(VipId::new(1), LOCAL), false), None, 1);
    let gate = &ballast.cluster.gate;
    gate.hold(1, BootNanos::new(u64::MAX));
    let (mut idle, mut subscriber) = (ballast.client(), ballast.client());
    assert_eq!(idle.say("PING"), "+PONG\r\n");
    assert!(subscriber.say("SUBSCRIBE news").contains("subscribe"));
    // There is time enough to go on, and then less than saying goodbye takes.
    gate.hand_over(boot_now(), boot_now().plus(HOUR_NANOS));
    assert_eq!(idle.say("PING"), "+PONG\r\n");
    let told = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // It stays that moment until both are told.
        scope.spawn(|| {
            while !told.load(Ordering::Relaxed) {
                gate.hand_over(boot_now(), boot_now().plus(LAST_WORDS));
                std::thread::yield_now();
            }
        });
        let answers = (idle.answer(), subscriber.answer());
        told.store(true, Ordering::Relaxed);
        assert_eq!(answers, (None, None));
    });
}

#[test]
fn a_drain_serves_whom_the_kernel_took_before_a_vip_was_handed_over() {
    let ballast = Ballast::start_at("{}", at(Place::Vip(VipId::new(1), LOCAL), false), None);
    let gate = &ballast.cluster.gate;
    // As if it was handed over just now, until the late one is served.
    gate.hand_over(boot_now().plus(HOUR_NANOS), BootNanos::new(u64::MAX));
    std::thread::scope(|scope| {
        let draining = scope.spawn(|| drain(&ballast));
        let mut late = ballast.client();
        assert_eq!(late.say("PING"), "+PONG\r\n");
        assert!(!draining.is_finished(), "whoever is in the queue is waited for");
        gate.hand_over(boot_now(), BootNanos::new(u64::MAX));
        assert_eq!(late.answer(), None);
        assert_eq!(draining.join().unwrap(), 0);
    });
}

#[test]
fn a_drain_serves_whom_the_kernel_took_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.sock");
    let unix = Place::Unix { path: path.clone(), mode: Some(0o620) };
    for place in [Place::Address(LOCAL), unix.clone()] {
        let ballast = Ballast::start_with("{}", at(place.clone(), false), None, 1);
        let client = || if place == unix { Client::unix(&path) } else { ballast.client() };
        let (mut busy, (says_busy, is_busy), (go_on, goes_on)) = (client(), mpsc::channel(), mpsc::channel());
        *ballast.cluster.before_next.lock().unwrap() = Some(Box::new(move || {
            says_busy.send(()).unwrap();
            goes_on.recv().unwrap();
        }));
        busy.send(b"SET a 1\r\n");
        is_busy.recv().unwrap();
        // The only worker does one thing at a time, so these wait in the kernel's queue.
        let mut late = [client(), client()];
        late.iter_mut().for_each(|late| late.send(b"GET a\r\n"));
        std::thread::scope(|scope| {
            let draining = scope.spawn(|| drain(&ballast));
            while !ballast.server.listeners().is_empty() {
                std::thread::yield_now();
            }
            go_on.send(()).unwrap();
            assert_eq!(busy.answer().as_deref(), Some(&b"+OK\r\n"[..]), "{place}");
            for late in &mut late {
                assert_eq!(late.answer().as_deref(), Some(&b"$1\r\n1\r\n"[..]), "{place}");
            }
            assert_eq!(draining.join().unwrap(), 0);
        });
    }
}

fn drain(ballast: &Ballast) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(ballast.server.drain(Duration::from_secs(60)))
}

struct Pki {
    server: Arc<ServerConfig>,
    roots: RootCertStore,
    client: (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
}

fn pki() -> Pki {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    let mut roots = RootCertStore::empty();
    roots.add(ca_certificate.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots.clone())).allow_unauthenticated().build().unwrap();
    let (chain, key) = issue("localhost");
    let server = ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    Pki { server: Arc::new(server), roots, client: issue("moodle") }
}

#[derive(Clone)]
struct Fixed {
    config: Arc<ServerConfig>,
    /// Of whoever shows a certificate.
    role: &'static str,
    is_revoked: Arc<AtomicBool>,
}

impl Fixed {
    fn new(config: &Arc<ServerConfig>, role: &'static str) -> Self {
        Self { config: config.clone(), role, is_revoked: Arc::default() }
    }

    fn revoke(&self) {
        self.is_revoked.store(true, Ordering::SeqCst);
    }
}

impl Certificates for Fixed {
    fn server_config(&self) -> Option<Arc<ServerConfig>> {
        Some(self.config.clone())
    }

    fn holder(&self, _: &CertificateDer<'_>) -> Option<Holder> {
        let holder = || Holder { name: "moodle".to_owned(), role: self.role, sees_sessions: self.role == "admin" };
        (!self.is_revoked.load(Ordering::SeqCst)).then(holder)
    }
}

fn over_tls(address: SocketAddr, pki: &Pki, certified: bool) -> Client {
    let config = ClientConfig::builder().with_root_certificates(pki.roots.clone());
    let config = if certified {
        config.with_client_auth_cert(pki.client.0.clone(), pki.client.1.clone_key()).unwrap()
    } else {
        config.with_no_client_auth()
    };
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    Client::on(StreamOwned::new(connection, TcpStream::connect(address).unwrap()))
}

#[test]
fn protected_mode_trusts_certificates_that_are_good_and_only_as_long() {
    let Some(outside) = outside() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let pki = pki();
    let fixed = Fixed::new(&pki.server, "admin");
    let ballast = Ballast::start_at("{}", at(Place::Address(outside), true), Some(Arc::new(fixed.clone())));
    let denied = |client: &mut Client| {
        let told = String::from_utf8(client.rest()).unwrap();
        assert!(told.starts_with("-DENIED"), "{told}");
    };
    denied(&mut over_tls(ballast.address, &pki, false));
    let mut known = over_tls(ballast.address, &pki, true);
    assert_eq!(known.say("SET a 1"), "+OK\r\n");
    fixed.revoke();
    denied(&mut known);
    denied(&mut over_tls(ballast.address, &pki, true));
}

#[test]
fn without_users_a_certificate_opens_the_store_from_elsewhere_to_admins_alone() {
    let Some(outside) = outside() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let pki = pki();
    let protocols = [SessionProtocol::Resp, SessionProtocol::Http];
    for (role, sees) in [("viewer", false), ("operator", false), ("admin", true)] {
        let wanted = protocols.map(|protocol| Wanted { place: Place::Address(outside), tls: true, protocol }).to_vec();
        let ballast = Ballast::start_at("{}", wanted, Some(Arc::new(Fixed::new(&pki.server, role))));
        let [mut resp, mut http] = protocols.map(|protocol| {
            let listeners = ballast.server.listeners();
            let of = listeners.into_iter().find(|listener| listener.wanted.protocol == protocol);
            let address = of.and_then(|listener| listener.bound.ok()).expect("bound").parse().expect("an address");
            over_tls(address, &pki, true)
        });
        http.send(b"GET /v1/sessions/0/a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let over_http = String::from_utf8(http.rest()).unwrap();
        if sees {
            assert_eq!(resp.say("SET a 1"), "+OK\r\n");
            assert!(over_http.starts_with("HTTP/1.1 404 "), "{over_http}");
            continue;
        }
        let over_resp = String::from_utf8(resp.rest()).unwrap();
        assert!(over_resp.starts_with("-NOPERM ") && over_resp.ends_with("\r\n"), "{over_resp}");
        assert!(over_http.starts_with("HTTP/1.1 403 ") && over_http.contains(r#""code":"role""#), "{over_http}");
        for told in [over_resp, over_http] {
            assert!(["moodle", role, "sessions.users"].iter().all(|word| told.contains(word)), "{told}");
        }
    }
}

#[test]
fn a_viewer_from_elsewhere_is_served_while_there_is_a_user_of_its_name() {
    let Some(outside) = outside() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let pki = pki();
    let (users, certificates) = (r#"{"users":[{"name":"moodle"}]}"#, Arc::new(Fixed::new(&pki.server, "viewer")));
    let ballast = Ballast::start_at(users, at(Place::Address(outside), true), Some(certificates));
    let mut client = over_tls(ballast.address, &pki, true);
    assert_eq!(client.say("SET a 1"), "+OK\r\n", "the user of its name");
    ballast.cluster.configure("{}");
    let told = String::from_utf8(client.rest()).unwrap();
    assert!(told.starts_with("-NOPERM "), "{told}");
}

#[test]
fn protected_mode_is_asked_again_when_the_settings_change() {
    let Some(outside) = outside() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let users = r#"{"users":[{"name":"default","password_hash":"HASH"}]}"#.replace("HASH", &support::hash("pw"));
    for logs_in in [true, false] {
        let ballast = Ballast::start_at(&users, at(Place::Address(outside), false), None);
        let mut client = ballast.client();
        if logs_in {
            assert_eq!(client.say("AUTH pw"), "+OK\r\n");
            assert_eq!(client.say("SET a 1"), "+OK\r\n");
        } else {
            assert_eq!(client.say("PING"), "-NOAUTH Authentication required.\r\n");
        }
        ballast.cluster.configure("{}");
        let told = String::from_utf8(client.rest()).unwrap();
        assert!(told.starts_with("-DENIED"), "{told}");
    }
}

#[test]
fn tls_with_and_without_a_certificate() {
    let pki = pki();
    let users = r#"{"users":[{"name":"moodle","key_prefixes":["m:"]}]}"#;
    let certificates = Arc::new(Fixed::new(&pki.server, "viewer"));
    let ballast = Ballast::start_at(users, at(Place::Address(LOCAL), true), Some(certificates));
    let mut stranger = over_tls(ballast.address, &pki, false);
    assert_eq!(stranger.say("PING"), "-NOAUTH Authentication required.\r\n");
    assert!(stranger.say("AUTH moodle x").starts_with("-WRONGPASS"), "it has no password");
    let mut known = over_tls(ballast.address, &pki, true);
    assert_eq!(known.say("SET m:1 x"), "+OK\r\n");
    let value = vec![b'v'; 300_000];
    assert_eq!(known.call(&[b"SET", b"m:2", &value]), b"+OK\r\n");
    assert!(known.call(&[b"GET", b"m:2"]).len() > 300_000);
    assert!(known.say("SET n:1 x").starts_with("-NOPERM"));
    assert!(known.say("CLIENT INFO").contains("user=moodle"));
    assert_eq!(known.say("QUIT"), "+OK\r\n");
    assert_eq!(known.answer(), None);
    let mut plain = TcpStream::connect(ballast.address).unwrap();
    plain.write_all(b"PING\r\n").unwrap();
    let mut told = Vec::new();
    let _ = plain.read_to_end(&mut told);
    assert!(!told.starts_with(b"+PONG"));
}
