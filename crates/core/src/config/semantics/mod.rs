//! Checks for sense: what no schema can say.
//!
//! Each check names the path of what is wrong, so that its line is found in the text. Checks see
//! a whole document, in which placeholders may stand for parts that were refused already; the
//! report is silent about those.

mod listeners;
mod matching;
mod persistence;
mod places;
mod services;
mod sessions;
mod vips;
mod webhooks;
mod words;

use std::collections::HashMap;

use super::{
    ByteSize, Cluster, Document, Fallback, Farm, Limits, Span, Timeouts,
    structure::{Report, Step},
};

pub(super) use words::is_host;

/// Checks a whole document.
pub(super) fn check(document: &Document, report: &mut Report<'_>) {
    let checks = &mut Checks { report };
    let root = At::Root;
    cluster(&document.cluster, checks, &root.key("cluster"));
    let (owners, places) = listeners::check(document, checks);
    checks.names(&root.key("farms"), document.farms.iter().map(|farm| farm.name.as_str()));
    for (index, farm) in document.farms.iter().enumerate() {
        check_farm(farm, checks, &root.key("farms").index(index));
    }
    persistence::cookies_of_farms_apart(&document.farms, checks, &root.key("farms"));
    if let Some(sessions) = &document.sessions {
        sessions::check(sessions, &document.vips, &owners, &places, checks);
    }
}

/// A place in the document, built on the stack while checks go down.
#[derive(Clone, Copy)]
enum At<'p> {
    Root,
    Key(&'p At<'p>, &'static str),
    Index(&'p At<'p>, usize),
}

impl At<'_> {
    fn key(&self, key: &'static str) -> At<'_> {
        At::Key(self, key)
    }

    fn index(&self, index: usize) -> At<'_> {
        At::Index(self, index)
    }

    fn steps(&self) -> Vec<Step> {
        match self {
            At::Root => Vec::new(),
            At::Key(parent, key) => {
                let mut steps = parent.steps();
                steps.push(Step::Key((*key).to_owned()));
                steps
            }
            At::Index(parent, index) => {
                let mut steps = parent.steps();
                steps.push(Step::Index(*index));
                steps
            }
        }
    }
}

/// What all checks share.
struct Checks<'r, 't> {
    report: &'r mut Report<'t>,
}

impl Checks<'_, '_> {
    fn wrong(&mut self, at: &At<'_>, problem: impl Into<String>, fix: impl Into<String>) {
        self.report.nonsense(&at.steps(), problem.into(), fix.into());
    }

    /// Names of one list: well formed and unique.
    fn names<'n>(&mut self, list: &At<'_>, names: impl Iterator<Item = &'n str>) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (index, name) in names.enumerate() {
            let item = list.index(index);
            let at = item.key("name");
            self.name(&at, name);
            if let Some(first) = seen.insert(name, index) {
                let line = self.report.line_of(&list.index(first).steps());
                let place = if line > 0 { format!(" (line {line})") } else { String::new() };
                self.wrong(&at, format!("the name `{name}` is taken{place}"), "give each its own name");
            }
        }
    }

    /// One name: it appears in metrics, logs, commands and file names.
    fn name(&mut self, at: &At<'_>, name: &str) {
        if !words::is_name(name) {
            self.wrong(
                at,
                format!("`{}` cannot be a name", super::structure::shorten(name)),
                "use 1 to 63 of a-z, 0-9, dot, dash and underscore, beginning with a letter or a digit",
            );
        }
    }

    /// A span within bounds, both included.
    fn span(&mut self, at: &At<'_>, span: Span, min: Span, max: Span) {
        if span < min || span > max {
            self.wrong(at, format!("{span} is out of range"), format!("write {min} to {max}"));
        }
    }

    /// A size within bounds, both included.
    fn size(&mut self, at: &At<'_>, size: ByteSize, min: u64, max: u64) {
        if !(min..=max).contains(&size.as_bytes()) {
            let (min, max) = (ByteSize::from_bytes(min), ByteSize::from_bytes(max));
            self.wrong(at, format!("{size} is out of range"), format!("write {min} to {max}"));
        }
    }
}

const MILLISECOND: Span = Span::from_millis(1);
const HOUR: Span = Span::from_secs(3600);
const DAY: Span = Span::from_secs(86_400);

fn cluster(cluster: &Cluster, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    if !matches!(cluster.voters, 3 | 5 | 7) {
        let problem = format!("a group of {} voters is not supported", cluster.voters);
        checks.wrong(
            &at.key("voters"),
            problem,
            "write 3, 5 or 7; every other node is a learner and serves all the same",
        );
    }
    checks.span(&at.key("lease"), cluster.lease, Span::from_millis(50), Span::from_secs(10));
    checks.span(&at.key("freshness"), cluster.freshness, Span::from_millis(10), Span::from_secs(1));
    checks.span(
        &at.key("replace_voter_after"),
        cluster.replace_voter_after,
        Span::from_secs(1),
        Span::from_secs(30 * 86_400),
    );
    webhooks::check(&cluster.webhooks, checks, &at.key("webhooks"));
}

fn check_farm(farm: &Farm, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    if farm.services.is_empty() && farm.fallback.is_none() {
        checks.wrong(
            &at.key("services"),
            "this farm has neither services nor a fallback: it could answer nothing",
            "add a service with backends, or a fallback",
        );
    }
    services::check(farm, checks, at);
    if let Some(fallback) = &farm.fallback {
        check_fallback(fallback, checks, &at.key("fallback"));
    }
    check_limits(&farm.limits, checks, &at.key("limits"));
    check_timeouts(&farm.timeouts, checks, &at.key("timeouts"));
}

/// Longest body of a fallback: it is carried by the log and held by every worker.
const FALLBACK_BYTES_MAX: usize = 256 << 10;

fn check_fallback(fallback: &Fallback, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    if matches!(fallback.status, 204 | 205 | 304) && !fallback.body.is_empty() {
        let problem = format!("an answer with status {} has no body", fallback.status);
        checks.wrong(&at.key("body"), problem, "write body: \"\", or another status");
    }
    if fallback.body.len() > FALLBACK_BYTES_MAX {
        let problem = format!("the body has {} bytes", fallback.body.len());
        checks.wrong(&at.key("body"), problem, format!("keep it below {FALLBACK_BYTES_MAX}"));
    }
    if !words::is_field_value(&fallback.content_type) || !fallback.content_type.contains('/') {
        checks.wrong(&at.key("content_type"), "not a media type", "write one like text/html; charset=utf-8");
    }
}

fn check_limits(limits: &Limits, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    let header = limits.header_bytes_max.as_bytes();
    if !(1 << 10..=1 << 20).contains(&header) {
        checks.wrong(
            &at.key("header_bytes_max"),
            format!("{} is out of range", limits.header_bytes_max),
            "write 1KiB to 1MiB",
        );
    }
    let uri = limits.uri_bytes_max.as_bytes();
    if uri < 64 || uri > header {
        checks.wrong(
            &at.key("uri_bytes_max"),
            format!("{} is out of range", limits.uri_bytes_max),
            format!("write 64B to {}, the size of a whole head (header_bytes_max)", limits.header_bytes_max),
        );
    }
    if limits.connections_per_source_max > limits.connections_max {
        checks.wrong(
            &at.key("connections_per_source_max"),
            format!("{} is more than connections_max ({})", limits.connections_per_source_max, limits.connections_max),
            "write less than connections_max, or 0 for no limit",
        );
    }
}

fn check_timeouts(timeouts: &Timeouts, checks: &mut Checks<'_, '_>, at: &At<'_>) {
    for (name, span) in [
        ("client_header", timeouts.client_header),
        ("client_body", timeouts.client_body),
        ("client_idle", timeouts.client_idle),
        ("connect", timeouts.connect),
        ("response_header", timeouts.response_header),
        ("between_bytes", timeouts.between_bytes),
        ("upstream_idle", timeouts.upstream_idle),
    ] {
        checks.span(&at.key(name), span, MILLISECOND, DAY);
    }
    checks.span(&at.key("tunnel_idle"), timeouts.tunnel_idle, MILLISECOND, Span::from_secs(30 * 86_400));
    checks.span(&at.key("drain"), timeouts.drain, Span::from_millis(0), DAY);
}
