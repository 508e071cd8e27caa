//! Where a node answers.

use std::{fmt, path::PathBuf, str::FromStr};

/// Address of a node's admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// A socket on this machine; root needs no certificate there.
    Unix(PathBuf),
    /// TLS with a client certificate.
    Https {
        /// Name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
}

impl Server {
    /// `host:port` as it is dialled; IPv6 in brackets.
    pub fn authority(host: &str, port: u16) -> String {
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str = "write unix:///path/admin.sock or https://host:port";
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            if path.starts_with('/') && path.len() > 1 {
                return Ok(Self::Unix(path.into()));
            }
            return Err(format!("a socket has an absolute path; {FORMS}"));
        }
        if text.starts_with("http://") {
            return Err(format!("the API is never spoken in the clear; {FORMS}"));
        }
        let Some(rest) = text.strip_prefix("https://") else {
            return Err(FORMS.to_owned());
        };
        let (host, port) =
            rest.trim_end_matches('/').rsplit_once(':').ok_or_else(|| format!("the port is missing; {FORMS}"))?;
        let port = port.parse().map_err(|_| format!("{port:?} is not a port; {FORMS}"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains(['/', '@', '[', ']']) {
            return Err(format!("{host:?} is not a host; {FORMS}"));
        }
        Ok(Self::Https { host: host.to_owned(), port })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Https { host, port } => write!(f, "https://{}", Self::authority(host, *port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["unix:///run/a.sock", "https://node-1:7421", "https://10.0.0.1:7421", "https://[2001:db8::1]:7421"]
        {
            assert_eq!(text.parse::<Server>().expect(text).to_string(), text);
        }
        assert_eq!("unix:/run/a.sock".parse(), Ok(Server::Unix("/run/a.sock".into())));
    }

    #[test]
    fn what_is_no_address_says_what_would_be() {
        for text in [
            "",
            "node-1",
            "node-1:7421",
            "http://node-1:7421",
            "unix://a.sock",
            "https://node-1",
            "https://:1",
            "https://a:b",
        ] {
            let error = text.parse::<Server>().expect_err(text);
            assert!(error.contains("write unix:///path/admin.sock or https://host:port"), "{text}: {error}");
        }
    }
}
