//! How Ballast tells what it does: logs, traces and metrics.
//!
//! Logs go to standard error, one line each, as text or JSON, and no thread that logs waits for
//! who reads them. Traces leave by OTLP when the standard `OTEL_*` environment variables ask for it
//! and cost nothing otherwise. Metrics are gathered when they are scraped, from counters that belong
//! to whoever counts.
//!
//! Not here: the access log (`ballast-proxy`), the audit history (it is replicated state).

mod lines;
pub mod log;
pub mod metrics;
pub mod trace;
