//! What passes the proxy is read by another implementation (hyper's server) as it was meant: same method, target,
//! host and body, and the next request begins where it should.

use std::{convert::Infallible, net::SocketAddr, sync::mpsc};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use proptest::prelude::*;

use crate::support::{Client, Site, backend, farm, service};

/// A server that answers with what it understood. Ends when dropped.
struct Hyper {
    address: SocketAddr,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

async fn tell(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let hosts = head.headers.get_all("host").iter().count();
    let host = head.headers.get("host").map(|h| h.to_str().unwrap_or("?").to_owned()).unwrap_or_default();
    let mine = head.headers.get("x-mine").map(|h| h.to_str().unwrap_or("?").to_owned()).unwrap_or_default();
    let told = match body.collect().await {
        Ok(body) => {
            format!("{} {} {hosts} {host} {mine} {}", head.method, head.uri, String::from_utf8_lossy(&body.to_bytes()))
        }
        Err(error) => format!("broken: {error}"),
    };
    Ok(Response::new(Full::new(Bytes::from(told))))
}

impl Hyper {
    fn start() -> Self {
        let (ready, address) = mpsc::channel();
        let (end, mut ended) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let stream = tokio::select! {
                        accepted = listener.accept() => accepted.unwrap().0,
                        _ = &mut ended => break,
                    };
                    tokio::spawn(async move {
                        let io = hyper_util::rt::TokioIo::new(stream);
                        // A broken connection shows in what the client gets.
                        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service_fn(tell)).await;
                    });
                }
            });
        });
        Self { address: address.recv().unwrap(), end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Hyper {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[derive(Clone, Debug)]
struct Sent {
    method: &'static str,
    target: String,
    mine: String,
    /// Lengths of chunks; `None` for Content-Length.
    chunks: Option<Vec<usize>>,
    body: String,
}

fn sent() -> impl Strategy<Value = Sent> {
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "PATCH", "PROPFIND"]);
    let chunks = prop::option::of(prop::collection::vec(1usize..40, 1..6));
    (method, "/[a-z0-9/._~%-]{0,20}(\\?[a-z=&]{0,10})?", "[!-~]([ -~]{0,20}[!-~])?", chunks, "[ -~]{0,120}")
        .prop_filter("percent signs must be encoded", |s| !s.1.contains('%'))
        .prop_map(|(method, target, mine, chunks, body)| Sent { method, target, mine, chunks, body })
}

impl Sent {
    fn wire(&self) -> String {
        let head =
            format!("{} {} HTTP/1.1\r\nHost: A.example:8080\r\nX-Mine: {}\r\n", self.method, self.target, self.mine);
        match &self.chunks {
            None => format!("{head}Content-Length: {}\r\n\r\n{}", self.body.len(), self.body),
            Some(sizes) => {
                let (mut wire, mut rest) = (format!("{head}Transfer-Encoding: chunked\r\n\r\n"), &self.body[..]);
                for size in sizes.iter().cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    let (now, later) = rest.split_at((*size).min(rest.len()));
                    wire += &format!("{:X};ext=1\r\n{now}\r\n", now.len());
                    rest = later;
                }
                wire + "0\r\nX-Trailer: t\r\n\r\n"
            }
        }
    }

    fn understood(&self) -> String {
        format!("{} {} 1 A.example:8080 {} {}", self.method, self.target, self.mine, self.body)
    }
}

#[test]
fn another_reader_agrees() {
    let server = Hyper::start();
    let site = Site::new(farm(vec![service(vec![backend(1, server.address)])]));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&prop::collection::vec(sent(), 1..5), |requests| {
            // All in one write, so that they follow each other in one buffer.
            let mut client = Client::connect(site.address());
            client.send(requests.iter().map(Sent::wire).collect::<String>());
            for request in &requests {
                let response = client.response();
                prop_assert_eq!(response.status, 200);
                prop_assert_eq!(response.text(), request.understood());
            }
            Ok(())
        })
        .unwrap();
}
