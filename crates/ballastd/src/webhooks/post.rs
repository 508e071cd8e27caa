//! One POST: connect, send, look at the status, close.
//!
//! Events are rare, so each has a connection of its own and none is kept. The answer's body is not read; a redirect is
//! an answer like any other that is not a success, because it would send what a cluster says of itself to a place that
//! no document names.

use std::{pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use aws_lc_rs::hmac;
use ballast_core::config::Endpoint;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{notice::Notice, secrets::sign};

/// Longest that one try may take, from the name's lookup to the status.
const TRY_MAX: Duration = Duration::from_secs(5);

/// What became of one try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The receiver has it.
    Taken,
    /// The receiver does not want it; another try would end in the same way.
    Refused(String),
    /// It may be taken later.
    Failed(String),
}

/// Sends to one place.
pub(super) struct Poster {
    endpoint: Endpoint,
    key: Option<hmac::Key>,
}

impl Poster {
    pub(super) fn new(endpoint: Endpoint, key: Option<hmac::Key>) -> Self {
        Self { endpoint, key }
    }

    /// Whether what it sends is signed.
    pub(super) const fn signs(&self) -> bool {
        self.key.is_some()
    }

    /// Tries once.
    pub(super) async fn post(&self, notice: &Notice) -> Sent {
        match timeout(TRY_MAX, self.exchange(notice)).await {
            Err(_) => Sent::Failed(format!("no answer within {TRY_MAX:?}")),
            Ok(Err(error)) => Sent::Failed(format!("{error:#}")),
            Ok(Ok(status)) => judge(status),
        }
    }

    async fn exchange(&self, notice: &Notice) -> Result<StatusCode> {
        let Endpoint { tls, host, port, .. } = &self.endpoint;
        let stream = TcpStream::connect((host.as_str(), *port)).await.context("cannot connect")?;
        if !*tls {
            return self.over(stream, notice).await;
        }
        let name = ServerName::try_from(host.clone()).context("no name for a certificate")?;
        let connector = TlsConnector::from(Arc::new(client_config()?));
        let stream = connector.connect(name, stream).await.context("TLS")?;
        self.over(stream, notice).await
    }

    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        notice: &Notice,
    ) -> Result<StatusCode> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("cannot send")?;
        let exchange = async {
            let response = sender.send_request(self.request(notice)?).await.context("no answer")?;
            anyhow::Ok(response.status())
        };
        // The connection is dropped with the answer's body unread. When it ends first, the answer may be there already.
        match select(pin!(exchange), pin!(connection)).await {
            Either::Left((status, _)) => status,
            Either::Right((_, exchange)) => exchange.await,
        }
    }

    fn request(&self, notice: &Notice) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.endpoint.target)
            .header(header::HOST, &self.endpoint.authority)
            .header(header::USER_AGENT, concat!("ballast/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .header("x-ballast-event-id", &notice.id);
        if let Some(key) = &self.key {
            request = request.header("x-ballast-signature", sign(key, notice.body.as_bytes()));
        }
        request.body(Full::new(Bytes::from(notice.body.clone()))).context("its URL cannot be asked for")
    }
}

/// What trusts the CAs of this machine. Read for each connection, so that a CA that is added counts at once.
fn client_config() -> Result<ClientConfig> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(|| "none are installed".to_owned(), ToString::to_string);
        anyhow::bail!("this machine has no CAs to judge the certificate by: {why}; install ca-certificates");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn judge(status: StatusCode) -> Sent {
    match status {
        status if status.is_success() => Sent::Taken,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY => {
            Sent::Failed(format!("status {status}"))
        }
        status if status.is_redirection() => Sent::Refused(format!("status {status}; redirects are not followed")),
        status if status.is_client_error() => Sent::Refused(format!("status {status}")),
        status => Sent::Failed(format!("status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::config::WebhookEvent;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers one request and gives back what it was.
    async fn exchange(answer: &'static str, key: Option<hmac::Key>) -> (Sent, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let url = format!("http://{}/alarm?x=1", listener.local_addr().expect("address"));
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut request = Vec::new();
            while !request.ends_with(b"{}") && stream.read_buf(&mut request).await.expect("read") > 0 {}
            stream.write_all(answer.as_bytes()).await.expect("written");
            String::from_utf8(request).expect("text")
        });
        let poster = Poster::new(Endpoint::parse(&url).expect("URL"), key);
        let notice = Notice { id: "7-0".to_owned(), event: WebhookEvent::Vip, body: "{}".to_owned() };
        let sent = poster.post(&notice).await;
        (sent, serving.await.expect("served"))
    }

    #[tokio::test]
    async fn an_event_is_posted_with_its_id_and_signature() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        let signature = sign(&key, b"{}");
        let (sent, request) = exchange("HTTP/1.1 204 No Content\r\n\r\n", Some(key)).await;
        assert_eq!(sent, Sent::Taken);
        assert!(request.starts_with("POST /alarm?x=1 HTTP/1.1\r\n"), "{request}");
        for part in ["content-type: application/json", "x-ballast-event-id: 7-0", &signature, "\r\n\r\n{}"] {
            assert!(request.contains(part), "{part}: {request}");
        }
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_what_does_not_is_not() {
        let unsigned = exchange("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", None).await;
        assert!(matches!(unsigned.0, Sent::Failed(_)) && !unsigned.1.contains("signature"), "{unsigned:?}");
        let (redirected, _) = exchange("HTTP/1.1 302 Found\r\nlocation: http://a/\r\n\r\n", None).await;
        assert!(matches!(&redirected, Sent::Refused(why) if why.contains("redirects")), "{redirected:?}");
        let (refused, _) = exchange("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", None).await;
        assert!(matches!(refused, Sent::Refused(_)), "{refused:?}");
        let (broken, _) = exchange("", None).await;
        assert!(matches!(broken, Sent::Failed(_)), "{broken:?}");
        let nobody = Poster::new(Endpoint::parse("http://127.0.0.1:1/").expect("URL"), None);
        let notice = Notice { id: String::new(), event: WebhookEvent::Vip, body: String::new() };
        assert!(matches!(nobody.post(&notice).await, Sent::Failed(_)));
    }

    #[test]
    fn the_cas_of_this_machine_are_found() {
        client_config().expect("CAs: install ca-certificates");
    }
}
