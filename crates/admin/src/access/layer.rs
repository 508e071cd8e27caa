//! The one place that lets a call through or refuses it.

use std::{
    future::{Future, ready},
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use ballast_core::ids::NodeId;
use http::{Request, Response};
use parking_lot::Mutex;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    Caller, Connection, Peer,
    caller::deadline_of,
    roles::{Access, access_of},
};
use crate::{
    error::{self, ErrorCode},
    pki::{Identity, UserRole},
    refusals::Refusals,
};

/// Header in which a node that passes a call on names who made it. Believed of nodes only.
pub const ON_BEHALF_OF: &str = "ballast-on-behalf-of";

/// Says whether a node is a member and a user's certificate not revoked: what the certificate itself cannot say.
pub trait Members: Send + Sync + 'static {
    /// The node's name, if it is a member by what this node knows.
    fn name_of(&self, node: NodeId) -> Option<String>;

    /// This node's name.
    fn own_name(&self) -> String;

    /// Whether the certificate of a person or program with this fingerprint ([`crate::pki::fingerprint_of`]) was
    /// revoked, by what this node knows.
    fn is_revoked(&self, fingerprint: &[u8; 32]) -> bool;
}

/// Puts [`Guarded`] in front of all services.
#[derive(Clone)]
pub struct AccessLayer {
    members: Arc<dyn Members>,
    refusals: Arc<Mutex<Refusals>>,
}

impl AccessLayer {
    /// A layer that asks `members` about nodes.
    pub fn new(members: Arc<dyn Members>) -> Self {
        Self { members, refusals: Arc::default() }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, members: self.members.clone(), refusals: self.refusals.clone() }
    }
}

/// Services behind the table of roles.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    members: Arc<dyn Members>,
    refusals: Arc<Mutex<Refusals>>,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match admit(&request, &*self.members) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Box::pin(self.inner.call(request))
            }
            Err(status) => {
                let connection = request.extensions().get::<Connection>();
                // Who has no address is on this machine.
                let machine = connection.and_then(|connection| connection.remote);
                let machine = machine.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |remote| remote.ip());
                let untold = self.refusals.lock().refused(Instant::now(), machine, &kind_of(connection, &status));
                if let Some(untold) = untold {
                    let (method, reason) = (request.uri().path(), status.message());
                    tracing::warn!(%machine, method, reason, untold, "call refused");
                }
                Box::pin(ready(Ok(status.into_http())))
            }
        }
    }
}

/// The kind of a refusal: who was refused, and with which status. Its sentence holds the method, which the caller makes up.
fn kind_of(connection: Option<&Connection>, status: &Status) -> String {
    format!("{:?} {:?}", connection.map(|connection| &connection.peer), status.code())
}

fn admit(request: &Request<Body>, members: &dyn Members) -> Result<Caller, Status> {
    let method = request.uri().path();
    let access = access_of(method)
        .ok_or_else(|| Status::unimplemented(format!("{method} is not a method of this version of Ballast")))?;
    let connection = request
        .extensions()
        .get::<Connection>()
        .ok_or_else(|| Status::from(error::status(ErrorCode::Internal, "the connection is not known", method)))?;
    let caller = identify(connection, request, members)?;
    let allowed = match access {
        Access::Open => true,
        Access::Least(least) => caller.role.is_some_and(|role| role >= least),
        Access::Node => caller.node.is_some(),
    };
    if allowed { Ok(caller) } else { Err(refusal(method, access, &caller)) }
}

fn identify(connection: &Connection, request: &Request<Body>, members: &dyn Members) -> Result<Caller, Status> {
    let deadline = deadline_of(request.headers(), Instant::now());
    let caller = |name: String, role, node| Caller { name: name.into(), role, node, certificate: None, deadline };
    Ok(match &connection.peer {
        Peer::Nobody => caller("nobody".to_owned(), None, None),
        Peer::Root => caller(format!("root@{}", members.own_name()), Some(UserRole::Admin), None),
        Peer::Certified(Identity::User { name, role }) => {
            let certificate = connection.certificate;
            if let Some(certificate) = certificate {
                certificate.check(name.as_str(), |fingerprint| members.is_revoked(fingerprint))?;
            }
            Caller { certificate, ..caller(name.to_string(), Some(*role), None) }
        }
        Peer::Certified(Identity::Node(node)) => {
            let Some(name) = members.name_of(*node) else {
                return Err(error::status(
                    ErrorCode::NotAMember,
                    format!("node {node} is not a member of this cluster (any more)"),
                    request.uri().path(),
                )
                .into());
            };
            let behalf = request.headers().get(ON_BEHALF_OF).and_then(|value| value.to_str().ok());
            let name = behalf.map_or_else(|| format!("ballastd@{name}"), str::to_owned);
            caller(name, Some(UserRole::Admin), Some(*node))
        }
    })
}

fn refusal(method: &str, access: Access, caller: &Caller) -> Status {
    let name = method.rsplit_once('.').map_or(method, |(_, name)| name);
    match (access, caller.role) {
        (_, None) => error::status(
            ErrorCode::NoCertificate,
            format!("{name} needs a client certificate of this cluster"),
            method,
        ),
        (Access::Least(least), Some(role)) => error::status(
            ErrorCode::NotAllowed,
            format!("{name} needs the role {least}; {} has the role {role}", caller.name),
            method,
        ),
        (Access::Open | Access::Node, Some(_)) => {
            error::status(ErrorCode::NotAllowed, format!("{name} is for nodes only"), method)
        }
    }
    .into()
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        time::{Duration, SystemTime},
    };

    use tonic::Code;

    use super::*;
    use crate::{access::Certificate, error::ApiError};

    /// A cluster of one node that has revoked nothing.
    struct One;

    impl Members for One {
        fn name_of(&self, node: NodeId) -> Option<String> {
            (node == NodeId::new(1)).then(|| self.own_name())
        }

        fn own_name(&self) -> String {
            "node-1".to_owned()
        }

        fn is_revoked(&self, _: &[u8; 32]) -> bool {
            false
        }
    }

    fn request(connection: Connection) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/ballast.admin.v1.ConfigService/Get".parse().expect("a path");
        request.extensions_mut().insert(connection);
        request
    }

    #[test]
    fn refused_calls_are_told_of_once_and_the_others_are_counted() {
        let inner = |_: Request<Body>| ready(Ok::<_, Infallible>(Response::new(Body::empty())));
        let mut guarded = AccessLayer::new(Arc::new(One)).layer(tower::service_fn(inner));
        let stranger = Connection { peer: Peer::Nobody, certificate: None, remote: None };
        for _ in 0..3 {
            drop(guarded.call(request(stranger.clone())));
        }
        let (later, machine) = (Instant::now() + Duration::from_secs(10), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let kind = kind_of(Some(&stranger), &Status::unauthenticated(""));
        assert_eq!(guarded.refusals.lock().refused(later, machine, &kind), Some(2));
    }

    #[test]
    fn a_strangers_calls_are_of_one_kind_whatever_it_calls() {
        let kind = |method: &str, peer| {
            let mut request = request(Connection { peer, certificate: None, remote: None });
            *request.uri_mut() = method.parse().expect("a path");
            let refused = admit(&request, &One).expect_err("it is refused");
            kind_of(request.extensions().get(), &refused)
        };
        let stranger = |method| kind(method, Peer::Nobody);
        let eve = |name: &str| Identity::User { name: name.parse().expect("a name"), role: UserRole::Viewer };
        assert_eq!(stranger("/ballast.admin.v1.ConfigService/Get"), stranger("/ballast.admin.v1.VipService/Move"));
        assert_eq!(stranger("/made.up/One"), stranger("/made.up/Two"));
        assert_ne!(stranger("/ballast.admin.v1.ConfigService/Get"), stranger("/made.up/One"));
        let move_vip = |name| kind("/ballast.admin.v1.VipService/Move", Peer::Certified(eve(name)));
        assert_ne!(move_vip("eve"), move_vip("bob"), "somebody who is known is told of by name");
    }

    #[test]
    fn a_certificate_that_ends_on_an_open_connection_is_refused_unless_it_is_a_nodes() {
        let call = |peer, not_after| {
            let certificate = Some(Certificate { fingerprint: [7; 32], not_after });
            admit(&request(Connection { peer, certificate, remote: None }), &One)
        };
        let eve = || Peer::Certified(Identity::User { name: "eve".parse().expect("a name"), role: UserRole::Viewer });
        let node = Peer::Certified(Identity::Node(NodeId::new(1)));
        let (past, future) = (SystemTime::UNIX_EPOCH, SystemTime::now() + Duration::from_secs(24 * 3600));
        assert_eq!(&*call(eve(), future).expect("it is good").name, "eve");
        let refused = call(eve(), past).expect_err("it has ended");
        let detail = ApiError::detail_of(&refused).expect("a detail");
        assert_eq!((refused.code(), detail.code.as_str()), (Code::Unauthenticated, "BALLAST-A023"));
        assert_eq!(&*call(node, past).expect("nodes renew theirs and stay connected").name, "ballastd@node-1");
    }
}
