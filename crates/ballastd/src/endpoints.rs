//! `/livez`, `/readyz`, `/healthz`, `/metrics`, `/version`: plain HTTP for probes and scrapers.
//!
//! Loopback by default, because nobody who asks is asked who they are; nothing here changes anything.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Connections at once; a probe that finds no place is refused and comes again.
const CONNECTIONS_MAX: usize = 64;

/// How long a connection is used; afterwards the request that is under way is answered, and no other. Long enough that a
/// prober which keeps its connection seldom makes a new one.
const LIFE: Duration = Duration::from_secs(300);

/// How long the answer that is under way then may take. Longer than scrapers wait; who takes none of it keeps no place.
const LIFE_GRACE: Duration = Duration::from_secs(30);

/// What the endpoints say, asked at each request.
pub trait Status: Send + Sync + 'static {
    /// `Err` when the process is beyond help and should be restarted.
    fn live(&self) -> Result<(), String>;
    /// `Err` with one reason a line while this node should get no traffic.
    fn ready(&self) -> Result<(), Vec<String>>;
    /// The metrics page.
    fn metrics(&self) -> String;
}

/// Serves until `stop`. Connections still open then are dropped: probes repeat.
pub async fn serve(listener: TcpListener, status: Arc<dyn Status>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = tokio::select! {
            // Accepting is cancel-safe: a connection not yet returned stays in the kernel's queue.
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, mostly: the pause lets others close theirs.
                    debug!(%error, "accept failed on the metrics address");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = stop.cancelled() => return,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let status = Arc::clone(&status);
        let stop = stop.clone();
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = serve_one(stream, status, LIFE, LIFE_GRACE) => {},
                () = stop.cancelled() => {}
            }
        });
    }
}

/// Answers on one connection until the other side closes it, or `life` and at most `grace` after it are over.
async fn serve_one(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    status: Arc<dyn Status>,
    life: Duration,
    grace: Duration,
) {
    let service = service_fn(move |request| {
        let status = Arc::clone(&status);
        async move { Ok::<_, Infallible>(answer(&request, status.as_ref())) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = match timeout(life, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "probe connection ended");
    }
}

fn answer(request: &Request<Incoming>, status: &dyn Status) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".to_owned());
    }
    match request.uri().path() {
        "/livez" | "/healthz" => match status.live() {
            Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        "/readyz" => match status.ready() {
            Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
            Err(reasons) => text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, status.metrics());
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                header::HeaderValue::from_static(ballast_telemetry::metrics::CONTENT_TYPE),
            );
            response
        }
        "/version" => text(StatusCode::OK, concat!(env!("CARGO_PKG_VERSION"), "\n").to_owned()),
        _ => text(StatusCode::NOT_FOUND, "here are /livez, /readyz, /healthz, /metrics and /version\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Longer than anything here should take on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    struct Long;

    impl Status for Long {
        fn live(&self) -> Result<(), String> {
            Ok(())
        }

        fn ready(&self) -> Result<(), Vec<String>> {
            Ok(())
        }

        fn metrics(&self) -> String {
            "x".repeat(1 << 20)
        }
    }

    #[tokio::test]
    async fn who_takes_no_answer_does_not_keep_its_place() {
        let (mut client, server) = duplex(64);
        client.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
        let serving =
            tokio::spawn(serve_one(server, Arc::new(Long), Duration::from_millis(1), Duration::from_millis(1)));
        timeout(PATIENCE, serving).await.expect("it ends although nobody reads").expect("no panic");
    }

    #[tokio::test]
    async fn a_connection_whose_time_is_over_still_gets_the_answer_that_is_under_way() {
        let (mut client, server) = duplex(64);
        client.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
        let serving = tokio::spawn(serve_one(server, Arc::new(Long), Duration::from_millis(1), PATIENCE));
        let mut all = Vec::new();
        timeout(PATIENCE, client.read_to_end(&mut all)).await.expect("it ends by itself").expect("read");
        serving.await.expect("no panic");
        assert!(all.ends_with(&[b'x'; 1 << 16]) && all.len() > 1 << 20, "{} bytes", all.len());
    }
}
