//! Logs and traces.

use std::{
    env, io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::warn;
use tracing_subscriber::{EnvFilter, Layer, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::lines::Lines;

/// How long a process that ends waits for its last lines to be written: whoever reads them may have stalled.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Of this process, once it logs.
static LINES: OnceLock<Arc<Lines>> = OnceLock::new();

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and who says so.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Where it was set, for whoever has to correct it.
    pub said_by: &'static str,
    /// A filter in the syntax of `tracing`'s `EnvFilter`, for example `info,ballast_raft=debug`.
    pub text: String,
}

impl Filter {
    /// A word by itself is a level here. `EnvFilter` takes any other for the name of a target, whose lines are then the only
    /// ones: with `warning` nothing at all is logged.
    fn parse(&self) -> Result<EnvFilter, InitError> {
        let alone = |directive: &&str| !directive.is_empty() && !directive.contains(['=', '[']);
        let mut words = self.text.split(',').map(str::trim).filter(alone);
        if let Some(word) = words.find(|word| word.parse::<LevelFilter>().is_err()) {
            return Err(InitError::Level { said_by: self.said_by, word: word.to_owned() });
        }
        let understood = EnvFilter::try_new(&self.text);
        understood.map_err(|source| InitError::Filter { said_by: self.said_by, filter: self.text.clone(), source })
    }
}

/// How to log.
#[derive(Clone, Debug)]
pub struct Options {
    /// Form of the lines.
    pub format: Format,
    /// Which lines.
    pub filter: Filter,
    /// This node's name; the `service.instance.id` of traces.
    pub node: String,
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter is not in `EnvFilter`'s syntax.
    #[error(
        "{said_by}: {filter:?} is not understood; write a level or `target=level` pairs, as in `info,ballast_raft=debug`"
    )]
    Filter {
        /// Where it was set.
        said_by: &'static str,
        /// What was given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// A word is neither a level nor a pair.
    #[error("{said_by}: {word:?} is no level; use off, error, warn, info, debug or trace, or `target=level`")]
    Level {
        /// Where it was set.
        said_by: &'static str,
        /// The word.
        word: String,
    },
    /// The OTLP exporter could not be made.
    #[error("traces cannot be exported as the OTEL_* environment variables ask")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// There is no room for another thread.
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] io::Error),
    /// Something in this process logs already.
    #[error("logging was started twice")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Flushes what is not written or exported yet when it is dropped. Keep it until the process ends.
#[must_use = "traces end when this is dropped"]
pub struct Guard {
    traces: Option<SdkTracerProvider>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(traces) = self.traces.take() {
            // Nobody is left to be told that the last spans were lost.
            let _ = traces.shutdown();
        }
        flush();
    }
}

/// Waits for a moment until what was logged so far is written. For a process that ends at once.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.written_within(FLUSH_MAX);
    }
}

/// How many lines were dropped because whoever reads standard error was behind.
pub fn lines_dropped() -> u64 {
    LINES.get().map_or(0, |lines| lines.dropped())
}

/// Starts logging, and exporting traces if `OTEL_EXPORTER_OTLP_ENDPOINT` or
/// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set (and `OTEL_SDK_DISABLED` is not `true`).
///
/// # Errors
/// See [`InitError`].
pub fn init(options: &Options) -> Result<Guard, InitError> {
    let filter = options.filter.parse()?;
    let lines = Lines::start(io::stderr(), |lines| {
        warn!(lines, "log lines were dropped: whoever reads standard error was behind");
    });
    let lines = Arc::new(lines.map_err(InitError::Thread)?);
    let printed = tracing_subscriber::fmt::layer().with_writer(Arc::clone(&lines));
    let printed = match options.format {
        Format::Text => printed.with_ansi(false).boxed(),
        Format::Json => printed.json().flatten_event(true).boxed(),
    };
    let traces = if traces_wanted() { Some(provider(&options.node)?) } else { None };
    if traces.is_some() {
        crate::trace::exporting_begins();
    }
    let export = traces.as_ref().map(|traces| tracing_opentelemetry::layer().with_tracer(traces.tracer("ballast")));
    tracing_subscriber::registry().with(filter).with(printed).with(export).try_init()?;
    drop(LINES.set(lines));
    Ok(Guard { traces })
}

fn traces_wanted() -> bool {
    let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    (set("OTEL_EXPORTER_OTLP_ENDPOINT") || set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
        && env::var("OTEL_SDK_DISABLED").map_or(true, |value| !value.eq_ignore_ascii_case("true"))
}

fn provider(node: &str) -> Result<SdkTracerProvider, opentelemetry_otlp::ExporterBuildError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().build()?;
    let mut resource = Resource::builder();
    if env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("ballast");
    }
    let resource = resource
        .with_attribute(opentelemetry::KeyValue::new("service.instance.id", node.to_owned()))
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_by_name() {
        let parse = |text: &str| Filter { said_by: "log.level", text: text.to_owned() }.parse();
        for good in [
            "info",
            "WARN",
            "off",
            "info,openraft=error",
            "ballast_raft=debug",
            "info,ballast_raft[{index=1}]=trace",
            "",
        ] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in ["warning", "loud", "info,ballast_raft", "ballast_raft=loud"] {
            let said = parse(bad).expect_err(bad).to_string();
            assert!(said.starts_with("log.level: ") && said.contains("target=level"), "{said}");
        }
    }
}
