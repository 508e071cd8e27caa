//! One check: connect, and if asked for speak HTTP, within the check's time.

use std::{io, net::SocketAddr, os::fd::AsFd as _};

use ballast_core::{
    config::{Health, HttpCheck},
    health::{Judgement, Observation, judge, request},
};
use ballast_planted::Bug;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Bytes read at a time.
const READ_BYTES: usize = 4096;

/// Checks a backend once. Always comes back within the check's timeout.
pub(super) async fn check(backend: SocketAddr, health: &Health) -> Observation {
    let mut address = backend;
    if let Some(port) = health.port {
        address.set_port(port);
    }
    let outcome = timeout(health.timeout.duration(), attempt(address, backend, health.http.as_ref())).await;
    match outcome {
        Ok(Ok(observation)) => observation,
        Ok(Err((doing, error))) => Observation { ok: false, detail: format!("{doing}: {}", describe(&error)) },
        Err(_) => Observation { ok: false, detail: format!("no answer within {}", health.timeout) },
    }
}

async fn attempt(
    address: SocketAddr,
    backend: SocketAddr,
    http: Option<&HttpCheck>,
) -> Result<Observation, (&'static str, io::Error)> {
    let mut stream = TcpStream::connect(address).await.map_err(|e| ("connect", e))?;
    if ballast_planted::is(Bug::DescriptorLeaks) {
        std::mem::forget(stream.as_fd().try_clone_to_owned());
    }
    let Some(http) = http else {
        return Ok(Observation { ok: true, detail: "connected".to_owned() });
    };
    stream.write_all(&request(http, backend)).await.map_err(|e| ("send", e))?;
    let mut response = Vec::new();
    loop {
        response.reserve(READ_BYTES);
        let ended = match stream.read_buf(&mut response).await {
            Ok(count) => count == 0,
            // An answer that was cut short may still say enough.
            Err(error) if response.is_empty() => return Err(("receive", error)),
            Err(_) => true,
        };
        if let Judgement::Done(observation) = judge(http, &response, ended) {
            return Ok(observation);
        }
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::ConnectionReset => "reset".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use ballast_core::config::Span;
    use tokio::net::TcpListener;

    use super::*;

    async fn answers(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        });
        address
    }

    fn http() -> Health {
        Health { http: Some(HttpCheck::default()), timeout: Span::from_secs(20), ..Health::default() }
    }

    #[tokio::test]
    async fn judges_the_answer() {
        let address = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(check(address, &http()).await.ok);
        let address = answers(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
        let observation = check(address, &http()).await;
        assert!(!observation.ok && observation.detail.contains("503"), "{observation:?}");
        let address = answers(b"").await;
        assert!(!check(address, &http()).await.ok);
    }

    #[tokio::test]
    async fn says_why_it_could_not_connect() {
        let gone = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let address = gone.local_addr().expect("it is bound");
        drop(gone);
        let observation = check(address, &Health { http: None, ..http() }).await;
        assert_eq!(observation, Observation { ok: false, detail: "connect: refused".to_owned() });
    }

    #[tokio::test]
    async fn a_black_hole_fails_within_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let health = Health { timeout: Span::from_millis(50), ..http() };
        let observation = check(address, &health).await;
        assert!(!observation.ok && observation.detail.contains("50ms"), "{observation:?}");
        drop(listener);
    }
}
