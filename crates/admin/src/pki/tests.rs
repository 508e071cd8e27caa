use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ballast_core::ids::NodeId;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Cluster {
    authority: Authority,
}

impl Cluster {
    fn new() -> Self {
        Self { authority: Authority::create(&new_cluster_id(), SystemTime::now()).unwrap() }
    }

    fn node(&self, id: u64) -> Credentials {
        self.node_at(id, SystemTime::now())
    }

    fn node_at(&self, id: u64, now: SystemTime) -> Credentials {
        self.authority.issue_node(NodeId::new(id), &Key::generate().unwrap(), now).unwrap()
    }

    fn user(&self, role: UserRole) -> Credentials {
        self.authority.issue_user(&"anna".parse().unwrap(), role, SystemTime::now(), DAY).unwrap()
    }

    fn name(&self, node: Option<NodeId>) -> rustls_pki_types::ServerName<'static> {
        server_name(self.authority.cluster_id(), node)
    }
}

/// Shakes hands in memory. The identity that the server saw, or the first error of either side.
fn check(
    client: ClientConfig,
    server: ServerConfig,
    name: rustls_pki_types::ServerName<'static>,
    cluster_id: &str,
) -> Result<Option<Identity>, String> {
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().map_err(|e| format!("server: {e}"))?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().map_err(|e| format!("client: {e}"))?;
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() {
            assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
            let peer = server.peer_certificates().and_then(|chain| chain.first());
            return Ok(peer.map(|certificate| identity_of(certificate, cluster_id).unwrap()));
        }
    }
    Err("the handshake does not end".to_owned())
}

fn refused(result: Result<Option<Identity>, String>, by: &str) {
    match result {
        Ok(identity) => panic!("was let in as {identity:?}"),
        Err(error) => assert!(error.starts_with(by), "{error}"),
    }
}

#[test]
fn nodes_of_one_cluster_know_each_other() {
    let cluster = Cluster::new();
    let seen = check(
        node_client(&cluster.node(2)).unwrap(),
        node_server(&cluster.node(1)).unwrap(),
        cluster.name(Some(NodeId::new(1))),
        cluster.authority.cluster_id(),
    );
    assert_eq!(seen, Ok(Some(Identity::Node(NodeId::new(2)))));
}

#[test]
fn a_node_is_not_taken_for_another() {
    let cluster = Cluster::new();
    let result = check(
        node_client(&cluster.node(2)).unwrap(),
        node_server(&cluster.node(1)).unwrap(),
        cluster.name(Some(NodeId::new(3))),
        cluster.authority.cluster_id(),
    );
    refused(result, "client: invalid peer certificate");
}

#[test]
fn a_user_does_not_pass_for_a_node() {
    let cluster = Cluster::new();
    let id = cluster.authority.cluster_id();
    let admin = || user_client(&cluster.user(UserRole::Admin)).unwrap();
    refused(check(admin(), node_server(&cluster.node(1)).unwrap(), cluster.name(None), id), "server:");
    let seen = check(admin(), admin_server(&cluster.node(1)).unwrap(), cluster.name(None), id);
    assert_eq!(seen, Ok(Some(Identity::User { name: "anna".parse().unwrap(), role: UserRole::Admin })));
    let impostor = admin_server(&cluster.user(UserRole::Admin)).unwrap();
    refused(check(node_client(&cluster.node(2)).unwrap(), impostor, cluster.name(None), id), "client:");
}

#[test]
fn another_clusters_certificates_are_refused_both_ways() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let id = ours.authority.cluster_id();
    for server in [node_server, admin_server] {
        let server = || server(&ours.node(1)).unwrap();
        // A stranger that checks nothing of the server is still refused by it.
        let mut stranger = joining_client(ours.authority.pin()).unwrap();
        let shown = theirs.node(2);
        stranger.client_auth_cert_resolver = node_client(&shown).unwrap().client_auth_cert_resolver;
        refused(check(stranger, server(), ours.name(None), id), "server:");
        // And we refuse a stranger as server, whatever name it is asked for.
        refused(check(node_client(&shown).unwrap(), server(), ours.name(None), id), "client:");
        refused(check(node_client(&shown).unwrap(), server(), theirs.name(None), id), "client:");
    }
}

/// The same CA key, but the subject claims another cluster: chain is fine, identity is not.
#[test]
fn a_certificate_that_names_another_cluster_is_refused() {
    let cluster = Cluster::new();
    let node = cluster.node(1);
    let error = identity_of(&node.chain()[0], "another").unwrap_err();
    assert!(matches!(error, PkiError::Identity(IdentityError::OtherCluster { .. })), "{error}");
    let ca_as_node = identity_of(node.ca(), cluster.authority.cluster_id()).unwrap_err();
    assert!(matches!(ca_as_node, PkiError::Identity(_)), "{ca_as_node}");
}

#[test]
fn expired_certificates_are_refused_both_ways() {
    let cluster = Cluster::new();
    let id = cluster.authority.cluster_id();
    let long_ago = SystemTime::now() - CERTIFICATE_LIFE_NODE - DAY;
    let old = || cluster.node_at(7, long_ago);
    let fresh = || cluster.node(1);
    let name = || cluster.name(None);
    refused(check(node_client(&old()).unwrap(), node_server(&fresh()).unwrap(), name(), id), "server:");
    refused(check(node_client(&fresh()).unwrap(), node_server(&old()).unwrap(), name(), id), "client:");
    refused(check(node_client(&old()).unwrap(), admin_server(&fresh()).unwrap(), name(), id), "server:");
}

#[test]
fn nobody_comes_in_to_node_traffic_without_a_certificate() {
    let cluster = Cluster::new();
    let id = cluster.authority.cluster_id();
    let nobody = || joining_client(cluster.authority.pin()).unwrap();
    refused(check(nobody(), node_server(&cluster.node(1)).unwrap(), cluster.name(None), id), "server:");
    assert_eq!(check(nobody(), admin_server(&cluster.node(1)).unwrap(), cluster.name(None), id), Ok(None));
}

#[test]
fn a_joining_node_believes_only_the_pinned_ca() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let result = check(
        joining_client(theirs.authority.pin()).unwrap(),
        admin_server(&ours.node(1)).unwrap(),
        ours.name(None),
        ours.authority.cluster_id(),
    );
    refused(result, "client: invalid peer certificate: UnknownIssuer");
}

/// Someone who shows the right CA beside a certificate that it did not sign.
#[test]
fn showing_the_pinned_ca_is_not_being_signed_by_it() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let impostor = theirs.node(1);
    let mut server = admin_server(&impostor).unwrap();
    let chain = vec![impostor.chain()[0].clone(), ours.node(1).ca().clone()];
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&impostor.key()).unwrap();
    let certified = rustls::sign::CertifiedKey::new(chain, signing);
    server.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let result =
        check(joining_client(ours.authority.pin()).unwrap(), server, ours.name(None), ours.authority.cluster_id());
    refused(result, "client: invalid peer certificate");
}

#[test]
fn of_a_request_only_the_public_key_is_used() {
    let cluster = Cluster::new();
    let rogue = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["node-1.evil.ballast".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "node-1");
    params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "admin");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&rogue).unwrap().pem().unwrap();
    let request = Request::from_pem(&csr).unwrap();
    let leaf = cluster.authority.sign_node(NodeId::new(9), &request, SystemTime::now()).unwrap();
    let credentials = Credentials::new(&leaf, cluster.authority.certificate_pem(), &rogue.serialize_pem()).unwrap();
    assert_eq!(*credentials.identity(), Identity::Node(NodeId::new(9)));
    let der = credentials.chain()[0].clone();
    let parsed = identity::parse(&der).unwrap();
    assert!(!parsed.is_ca());
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert!(!names.value.general_names.iter().any(|name| name.to_string().contains("evil")));
    assert_eq!(names.value.general_names.len(), 3);
}

/// The order of the curve P-256 (SEC 2, section 2.4.2).
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
    0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// The same key and certificate with the CA's signature `(r, s)` replaced by `(r, n - s)`, which verifies as well and
/// which anybody can make.
pub(crate) fn resigned(credentials: &Credentials) -> Credentials {
    let der = credentials.chain()[0].clone();
    let parsed = identity::parse(&der).unwrap();
    let (r, s) = integers(&parsed.signature_value.data);
    let mut padded = [0; 32];
    padded[32 - s.len()..].copy_from_slice(s);
    let mut negated = [0; 32];
    let mut borrow = 0;
    for at in (0..32).rev() {
        let difference = i16::from(P256_ORDER[at]) - i16::from(padded[at]) - borrow;
        borrow = i16::from(difference < 0);
        negated[at] = u8::try_from(difference + 256 * borrow).unwrap();
    }
    let mut signature = vec![0];
    signature.extend(tlv(0x30, &[integer(r), integer(&negated)].concat()));
    let algorithm = tlv(0x30, &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]);
    let parts = [parsed.tbs_certificate.as_ref(), &algorithm, &tlv(0x03, &signature)].concat();
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, tlv(0x30, &parts))
    );
    Credentials::new(&pem, credentials.ca_pem(), credentials.key_pem()).unwrap()
}

/// The two numbers of a DER `SEQUENCE`, without leading zeroes.
fn integers(sequence: &[u8]) -> (&[u8], &[u8]) {
    let strip = |number: &[u8]| number.iter().take_while(|byte| **byte == 0).count();
    let (first, rest) = sequence[4..].split_at(usize::from(sequence[3]));
    let second = &rest[2..];
    (&first[strip(first)..], &second[strip(second)..])
}

/// A DER `INTEGER` of these bytes, which are not negative.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeroes = bytes.iter().take_while(|byte| **byte == 0).count();
    let sign: &[u8] = if bytes[zeroes] >= 0x80 { &[0] } else { &[] };
    tlv(0x02, &[sign, &bytes[zeroes..]].concat())
}

/// A DER value of less than 128 bytes or more than 255.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => out.extend([&[0x82][..], &u16::try_from(length).unwrap().to_be_bytes()].concat()),
    }
    [out, value.to_vec()].concat()
}

#[test]
fn another_signature_on_the_same_certificate_does_not_change_its_fingerprint() {
    let cluster = Cluster::new();
    let anna = cluster.user(UserRole::Operator);
    let other = resigned(&anna);
    assert_ne!(anna.chain()[0], other.chain()[0]);
    let seen = check(
        user_client(&other).unwrap(),
        admin_server(&cluster.node(1)).unwrap(),
        cluster.name(None),
        cluster.authority.cluster_id(),
    );
    assert_eq!(seen.as_ref(), Ok(&Some(anna.identity().clone())), "it verifies");
    assert_eq!(other.fingerprint(), anna.fingerprint());
    assert_ne!(cluster.user(UserRole::Operator).fingerprint(), anna.fingerprint());
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let key = Key::generate().unwrap();
    let csr = key.request().unwrap();
    assert_eq!(Request::from_pem(&csr).unwrap().fingerprint(), key.public().fingerprint());
    let mut der = rustls_pki_types::CertificateSigningRequestDer::from(pem_body(&csr)).to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let forged = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &der)
    );
    for text in [forged.as_str(), "", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
    {
        assert!(matches!(Request::from_pem(text), Err(PkiError::BadRequest { .. })));
    }
}

fn pem_body(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    base64::Engine::decode(&base64::prelude::BASE64_STANDARD, body).unwrap()
}

#[test]
fn the_ca_opens_under_its_own_cluster_key_only() {
    let cluster = Cluster::new();
    let (key, other) = (ClusterKey::generate(), ClusterKey::generate());
    let sealed = cluster.authority.seal_key(&key).unwrap();
    assert!(!sealed.windows(7).any(|window| window == b"PRIVATE"));
    let pem = cluster.authority.certificate_pem();
    let opened = Authority::open(pem, &sealed, &key).unwrap();
    assert_eq!((opened.pin(), opened.cluster_id()), (cluster.authority.pin(), cluster.authority.cluster_id()));
    assert!(matches!(Authority::open(pem, &sealed, &other), Err(PkiError::Seal(SealError::WrongKey { .. }))));
    let mut changed = sealed.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert!(matches!(Authority::open(pem, &changed, &key), Err(PkiError::Seal(SealError::WrongKey { .. }))));
    for cut in [0, 1, 12, 13] {
        assert!(Authority::open(pem, &sealed[..cut], &key).is_err());
    }
    let elsewhere = Cluster::new();
    assert!(Authority::open(elsewhere.authority.certificate_pem(), &sealed, &key).is_err());
    assert!(key.open("another purpose", &sealed).is_err());
    assert_ne!(sealed, cluster.authority.seal_key(&key).unwrap(), "a nonce is never used twice");
}

#[test]
fn a_cluster_key_survives_its_text() {
    let key = ClusterKey::generate();
    assert!(ClusterKey::from_text(&key.to_text()).unwrap() == key);
    assert_eq!(ClusterKey::from_text("c2hvcnQ").unwrap_err(), SealError::NotAKey);
    assert_eq!(format!("{key:?}"), "ClusterKey(secret)");
    assert_ne!(key.derive("a", b"bc"), key.derive("ab", b"c"));
}

#[test]
fn credentials_survive_their_file_and_only_the_owner_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.pem");
    let cluster = Cluster::new();
    cluster.node(1).store(&path).unwrap();
    let second = cluster.node(2);
    second.store(&path).unwrap();
    let read = Credentials::load(&path).unwrap();
    assert_eq!(read.identity(), second.identity());
    assert_eq!(read.to_pem(), second.to_pem());
    assert_eq!(read.ca_pin().unwrap(), cluster.authority.pin());
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no scratch file is left");
    assert!(!format!("{read:?}").contains("PRIVATE"));

    assert!(matches!(Credentials::load(&folder.path().join("none")), Err(PkiError::File { action: "read", .. })));
    std::fs::write(&path, "not pem").unwrap();
    let error = Credentials::load(&path).unwrap_err().to_string();
    assert!(error.contains("there are 0 and 0"), "{error}");
    assert!(write_private(&folder.path().join("no/such/folder"), b"x").is_err());
}

/// Whatever its clock says, a node makes itself a certificate that the others take by theirs.
#[test]
fn a_nodes_certificate_begins_and_ends_within_the_cas() {
    let now = SystemTime::now();
    let cluster = Cluster::new();
    let id = cluster.authority.cluster_id();
    let ca = Validity::of(cluster.node(1).ca()).unwrap();
    let later = now + 1000 * DAY;
    let cases = [
        (now, now + CERTIFICATE_LIFE_NODE),
        (later, later + CERTIFICATE_LIFE_NODE),
        (now + 400_000 * DAY, ca.not_after),
    ];
    for (made, ends) in cases {
        let made = cluster.node_at(7, made);
        let validity = made.validity().unwrap();
        assert!(validity.not_after <= ends && validity.not_after + Duration::from_secs(2) > ends);
        assert!(validity.not_before == ca.not_before && validity.not_after <= ca.not_after);
        let seen = check(node_client(&made).unwrap(), node_server(&cluster.node(1)).unwrap(), cluster.name(None), id);
        assert_eq!(seen, Ok(Some(Identity::Node(NodeId::new(7)))));
    }
}

#[test]
fn a_renewed_certificate_is_shown_by_configurations_that_are_in_use() {
    let cluster = Cluster::new();
    let id = cluster.authority.cluster_id();
    let long_ago = SystemTime::now() - CERTIFICATE_LIFE_NODE - DAY;
    let (old, other) = (cluster.node_at(7, long_ago), cluster.node(1));
    let shown = Shown::new(&old).unwrap();
    let server = shown.server(node_server(&old).unwrap());
    let client = shown.client(node_client(&old).unwrap());
    let as_server = || {
        let name = cluster.name(Some(NodeId::new(7)));
        check(node_client(&other).unwrap(), ServerConfig::clone(&server), name, id)
    };
    let as_client = || {
        let name = cluster.name(Some(NodeId::new(1)));
        check(ClientConfig::clone(&client), node_server(&other).unwrap(), name, id)
    };
    refused(as_server(), "client:");
    refused(as_client(), "server:");
    // One whose key is another's is not taken, and changes nothing.
    let (fresh, stray) = (cluster.node(7), cluster.node(7));
    let torn = Credentials::new(fresh.certificate_pem(), fresh.ca_pem(), stray.key_pem()).unwrap();
    assert!(matches!(shown.replace(&torn), Err(PkiError::Tls(_))));
    refused(as_server(), "client:");
    shown.replace(&fresh).unwrap();
    assert_eq!(as_server(), Ok(Some(other.identity().clone())));
    assert_eq!(as_client(), Ok(Some(Identity::Node(NodeId::new(7)))));
}

#[test]
fn a_day_is_told_in_utc() {
    let at = |seconds| day_of(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(
        (at(0).as_str(), at(1_826_841_599).as_str(), at(1_826_841_600).as_str()),
        ("1970-01-01", "2027-11-21", "2027-11-22")
    );
}

#[test]
fn serial_numbers_differ_for_one_key() {
    let cluster = Cluster::new();
    let key = Key::generate().unwrap();
    let serials: BTreeSet<Vec<u8>> = (0..4)
        .map(|_| {
            let credentials = cluster.authority.issue_node(NodeId::new(1), &key, SystemTime::now()).unwrap();
            identity::parse(&credentials.chain()[0]).unwrap().raw_serial().to_vec()
        })
        .collect();
    assert_eq!(serials.len(), 4);
}

#[test]
fn names_that_the_history_uses_itself_are_not_given_out() {
    for good in ["anna", "ci-bot", "anna@example.org", "A.B_c"] {
        assert_eq!(good.parse::<UserName>().unwrap().as_str(), good);
    }
    for bad in ["", "root@node-1", "ballastd@node-1", "a b", "ä", "a\nb", &"x".repeat(65)] {
        assert!(bad.parse::<UserName>().is_err(), "{bad:?}");
    }
    assert!("owner".parse::<UserRole>().is_err());
    assert!(UserRole::Viewer < UserRole::Operator && UserRole::Operator < UserRole::Admin);
}

fn token() -> JoinToken {
    JoinToken {
        addresses: vec![
            "192.0.2.1:7443".to_owned(),
            "[2001:db8::1]:7443".to_owned(),
            "lb2.example.org:7443".to_owned(),
        ],
        pin: Cluster::new().authority.pin(),
        secret: TokenSecret::from_bytes([7; 32]),
    }
}

#[test]
fn a_token_survives_its_text() {
    let token = token();
    let text = token.to_text().unwrap();
    assert!(text.starts_with("blst1.") && !text.contains(char::is_whitespace));
    assert_eq!(format!("  {text}\n").parse(), Ok(token.clone()));
    assert!(!format!("{token:?}").contains("7, 7"), "a secret is not shown");
    for addresses in [vec![], vec!["a:1".to_owned(); 17], vec!["x".repeat(256)]] {
        assert_eq!(JoinToken { addresses, ..token.clone() }.to_text(), Err(TokenError::Addresses));
    }
}

#[test]
fn what_is_not_a_token_is_told_apart() {
    let text = token().to_text().unwrap();
    for cut in 0.."blst1.".len() {
        let error = text[..cut].parse::<JoinToken>().unwrap_err();
        assert!(matches!(error, TokenError::NotAToken | TokenError::Newer), "{cut}: {error}");
    }
    for cut in "blst1.".len()..text.len() {
        assert_eq!(text[..cut].parse::<JoinToken>(), Err(TokenError::Damaged), "{cut}");
    }
    for (at, _) in text.char_indices().skip("blst1.".len()) {
        let mut changed = text.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert_eq!(String::from_utf8(changed).unwrap().parse::<JoinToken>(), Err(TokenError::Damaged), "{at}");
    }
    assert_eq!(format!("{text}AAAA").parse::<JoinToken>(), Err(TokenError::Damaged));
    assert_eq!("blst2.AAAA".parse::<JoinToken>(), Err(TokenError::Newer));
    for garbage in ["", "K10abc::server:xyz", "blst1", "blst1 .AAAA"] {
        assert!(garbage.parse::<JoinToken>().is_err(), "{garbage:?}");
    }
}
