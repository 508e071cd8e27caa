//! `/livez`, `/readyz`, `/healthz`, `/metrics`, `/version`: plain HTTP for probes and scrapers.
//!
//! Loopback by default, because nobody who asks is asked who they are; nothing here changes anything.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Connections at once; a probe that finds no place is refused and comes again.
const CONNECTIONS_MAX: usize = 64;

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
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
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
            let service = service_fn(move |request| {
                let status = Arc::clone(&status);
                async move { Ok::<_, Infallible>(answer(&request, status.as_ref())) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(5))
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                result = connection => if let Err(error) = result { debug!(%error, "probe connection ended"); },
                () = stop.cancelled() => {}
            }
        });
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
