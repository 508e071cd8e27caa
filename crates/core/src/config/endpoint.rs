//! Where a webhook is posted to: the few forms of a URL that are taken.
//!
//! No user and password (a document is read by many), no fragment (it means nothing to a server), no other scheme.

/// The parts of an `http` or `https` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Over TLS.
    pub tls: bool,
    /// Host name or address; IPv6 without its brackets.
    pub host: String,
    /// Port; the scheme's own when none is written.
    pub port: u16,
    /// Host as a `Host` field has it: brackets, and the port when it is not the scheme's own.
    pub authority: String,
    /// Path and query; `/` when none is written.
    pub target: String,
}

/// Longest URL that is taken.
const URL_BYTES_MAX: usize = 2048;

impl Endpoint {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it, in words that go on from `this URL`.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        if url.len() > URL_BYTES_MAX {
            return Err("is longer than 2048 bytes");
        }
        if !url.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("holds spaces or other characters that a URL writes with %");
        }
        let (tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err("does not begin with http:// or https://"),
        };
        if rest.contains('#') {
            return Err("has a fragment");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err("holds a user name");
        }
        let own = if tls { 443 } else { 80 };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or("has a bracket that is not closed")?;
                (host, after.strip_prefix(':').or((!after.is_empty()).then_some("")))
            }
            None => authority.rsplit_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let bracketed = authority.starts_with('[');
        let good = if bracketed { host.parse::<std::net::Ipv6Addr>().is_ok() } else { super::semantics::is_host(host) };
        if !good {
            return Err("names no host");
        }
        let port = match port {
            None => own,
            Some(text) => text.parse().ok().filter(|port| *port > 0).ok_or("has no port that could be one")?,
        };
        let shown = if bracketed { format!("[{host}]") } else { host.to_owned() };
        let target = match target {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            path => path.to_owned(),
        };
        let authority = if port == own { shown } else { format!("{shown}:{port}") };
        Ok(Self { tls, host: host.to_owned(), port, authority, target })
    }

    /// Scheme and authority: what a log may show. Many receivers know who is allowed to post by the path.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let parts = |url: &str| {
            let Endpoint { tls, host, port, authority, target } = Endpoint::parse(url).expect("a URL");
            (tls, host, port, authority, target)
        };
        let same = |tls, host: &str, port, authority: &str, target: &str| {
            (tls, host.to_owned(), port, authority.to_owned(), target.to_owned())
        };
        assert_eq!(parts("http://a.example"), same(false, "a.example", 80, "a.example", "/"));
        assert_eq!(parts("https://a:8443/x?y=z"), same(true, "a", 8443, "a:8443", "/x?y=z"));
        assert_eq!(parts("https://a:443?y"), same(true, "a", 443, "a", "/?y"));
        assert_eq!(parts("http://[fd00::1]:81/"), same(false, "fd00::1", 81, "[fd00::1]:81", "/"));
        assert_eq!(parts("http://10.0.0.1/x"), same(false, "10.0.0.1", 80, "10.0.0.1", "/x"));
    }

    #[test]
    fn what_a_log_may_show_has_no_path() {
        let check = |url: &str, origin: &str| assert_eq!(Endpoint::parse(url).expect("a URL").origin(), origin);
        check("https://hooks.example/services/T0/secret?token=x", "https://hooks.example");
        check("http://[fd00::1]:81/secret", "http://[fd00::1]:81");
    }

    #[test]
    fn what_is_no_place_to_post_to_is_refused() {
        for (url, why) in [
            ("ftp://a/", "does not begin"),
            ("a.example/x", "does not begin"),
            ("HTTP://a/", "does not begin"),
            ("http://", "names no host"),
            ("http:///x", "names no host"),
            ("http://a b/", "spaces"),
            ("http://me:secret@a/", "user name"),
            ("http://a/#x", "fragment"),
            ("http://a:0/", "port"),
            ("http://a:/", "port"),
            ("http://a:70000/", "port"),
            ("http://[fd00::1/", "bracket"),
            ("http://[fd00::1]x/", "port"),
            ("http://[10.0.0.1]/", "names no host"),
            ("http://-a/", "names no host"),
        ] {
            let found = Endpoint::parse(url).expect_err(url);
            assert!(found.contains(why), "{url}: {found}");
        }
        assert!(Endpoint::parse(&format!("http://a/{}", "x".repeat(URL_BYTES_MAX))).is_err());
    }
}
