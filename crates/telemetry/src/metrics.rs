//! The metrics page: families gathered at each scrape, written as OpenMetrics text.
//!
//! Nobody registers anything: whoever counts hands over [`Family`] values when asked, and what is
//! no longer there (a backend that was removed) is simply not handed over.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows. Name it without `_total`; the exposition adds it.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One metric with all its series.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    series: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Family {
    /// A counter without series yet.
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter, series: Vec::new() }
    }

    /// A gauge without series yet.
    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge, series: Vec::new() }
    }

    /// Adds a series.
    pub fn add(&mut self, labels: &[(&'static str, &str)], value: f64) {
        self.series.push((labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(), value));
    }

    /// Adds a series; for building in one expression.
    #[must_use]
    pub fn with(mut self, labels: &[(&'static str, &str)], value: f64) -> Self {
        self.add(labels, value);
        self
    }

    /// Whether it has no series.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }
}

/// Content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes families as OpenMetrics text.
pub fn render(families: Vec<Family>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Gathered(families)));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("writing to a String does not fail");
    page
}

#[derive(Debug)]
struct Gathered(Vec<Family>);

impl Collector for Gathered {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for family in self.0.iter().filter(|family| !family.is_empty()) {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            if let [(labels, value)] = family.series.as_slice()
                && labels.is_empty()
            {
                encode(family.kind, *value, metric)?;
                continue;
            }
            for (labels, value) in &family.series {
                encode(family.kind, *value, metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode(kind: Kind, value: f64, series: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(series),
        Kind::Gauge => ConstGauge::new(value).encode(series),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_counters_and_gauges_with_labels_and_skips_empty_families() {
        let page = render(vec![
            Family::counter("ballast_requests", "Requests answered")
                .with(&[("farm", "shop"), ("code_class", "2xx")], 3.0),
            Family::gauge("ballast_raft_term", "Raft term").with(&[], 7.0),
            Family::gauge("ballast_nothing", "Never seen"),
        ]);
        assert!(page.contains("ballast_requests_total{farm=\"shop\",code_class=\"2xx\"} 3.0"), "{page}");
        assert!(page.contains("# TYPE ballast_raft_term gauge"), "{page}");
        assert!(page.contains("ballast_raft_term 7.0"), "{page}");
        assert!(!page.contains("ballast_nothing"), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
}
