//! One check: connect, and if asked for speak HTTP, within the check's time.

use std::{io, net::SocketAddr};

use ballast_core::{
    config::{Health, HttpCheck},
    health::{Answer, Judgement, Observation, judge, request},
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
pub(super) async fn check(backend: SocketAddr, health: &Health) -> (Observation, Answer) {
    let mut address = backend;
    if let Some(port) = health.port {
        address.set_port(port);
    }
    let mut answer = Answer::Nothing;
    let attempt = attempt(address, backend, health.http.as_ref(), &mut answer);
    let observation = match timeout(health.timeout.duration(), attempt).await {
        Ok(Ok(observation)) => observation,
        Ok(Err((doing, error))) => Observation { ok: false, detail: format!("{doing}: {}", describe(&error)) },
        Err(_) => Observation { ok: false, detail: format!("no answer within {}", health.timeout) },
    };
    let answer = if observation.ok { Answer::Good } else { answer };
    (observation, answer)
}

/// Says in `answer` what has come from there so far, as if it were no good answer.
async fn attempt(
    address: SocketAddr,
    backend: SocketAddr,
    http: Option<&HttpCheck>,
    answer: &mut Answer,
) -> Result<Observation, (&'static str, io::Error)> {
    let connected = TcpStream::connect(address).await;
    *answer = connected.as_ref().map_or_else(unconnected, |_| Answer::Bad);
    let mut stream = connected.map_err(|e| ("connect", e))?;
    if ballast_planted::is(Bug::DescriptorLeaks) {
        // Not the connection's, which the backend would have to keep open as well.
        std::mem::forget(std::fs::File::open("/dev/null"));
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

/// What a connection that could not be made says of the other side.
pub(crate) fn unconnected(error: &io::Error) -> Answer {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => return Answer::Bad,
        _ => {}
    }
    // Descriptors, memory or ports that this node has no more of, or a firewall of its own.
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL | libc::EPERM) => {
            Answer::Unasked
        }
        _ => Answer::Nothing,
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
    use tokio::net::{TcpListener, TcpSocket};

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
        assert_eq!(check(address, &http()).await.1, Answer::Good);
        let address = answers(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
        let (observation, answer) = check(address, &http()).await;
        assert!(answer == Answer::Bad && observation.detail.contains("503"), "{observation:?}");
        let address = answers(b"").await;
        assert_eq!(check(address, &http()).await.1, Answer::Bad);
    }

    #[tokio::test]
    async fn says_why_it_could_not_connect() {
        // It does not listen, and as long as it is there nobody else does.
        let deaf = TcpSocket::new_v4().expect("a socket");
        deaf.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has ports");
        let address = deaf.local_addr().expect("it is bound");
        let found = check(address, &Health { http: None, ..http() }).await;
        assert_eq!(found, (Observation { ok: false, detail: "connect: refused".to_owned() }, Answer::Bad));
    }

    #[test]
    fn what_this_node_lacks_is_not_the_backends_fault() {
        for (code, answer) in [
            (libc::ECONNREFUSED, Answer::Bad),
            (libc::ECONNRESET, Answer::Bad),
            (libc::ETIMEDOUT, Answer::Nothing),
            (libc::EHOSTUNREACH, Answer::Nothing),
            (libc::ENETUNREACH, Answer::Nothing),
            // A firewall on the way, by ICMPv6.
            (libc::EACCES, Answer::Nothing),
            (libc::EMFILE, Answer::Unasked),
            (libc::ENOBUFS, Answer::Unasked),
            (libc::EADDRNOTAVAIL, Answer::Unasked),
            (libc::EPERM, Answer::Unasked),
        ] {
            assert_eq!(unconnected(&io::Error::from_raw_os_error(code)), answer, "{code}");
        }
    }

    #[tokio::test]
    async fn whoever_accepts_and_says_nothing_fails_within_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let health = Health { timeout: Span::from_millis(50), ..http() };
        let (observation, answer) = check(address, &health).await;
        assert!(!observation.ok && observation.detail.contains("50ms"), "{observation:?}");
        assert_eq!(answer, Answer::Bad, "its kernel has answered");
        drop(listener);
    }
}
