//! Traces that cross nodes, by W3C Trace Context (level 1): the header `traceparent`.
//!
//! Costs one atomic load wherever traces are not exported.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context as Task, Poll},
};

use http::{HeaderMap, Request, Response};
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header that carries a trace.
pub const TRACEPARENT: &str = "traceparent";

static EXPORTING: AtomicBool = AtomicBool::new(false);

pub(crate) fn exporting_begins() {
    EXPORTING.store(true, Ordering::Release);
}

/// Whether traces leave this process.
pub fn exporting() -> bool {
    EXPORTING.load(Ordering::Acquire)
}

/// The current span as the value of a `traceparent`; `None` outside of a trace that is exported.
pub fn current() -> Option<String> {
    if !exporting() {
        return None;
    }
    let context = Span::current().context();
    let span = context.span();
    let here = span.span_context();
    (here.is_valid() && here.is_sampled())
        .then(|| format!("00-{}-{}-{:02x}", here.trace_id(), here.span_id(), here.trace_flags().to_u8()))
}

/// Makes `span` the child of a span of another process. A malformed `traceparent` is as good as none.
pub fn continue_from(span: &Span, traceparent: &str) {
    if let Some(parent) = parse(traceparent) {
        // Only fails on a span that has ended or that nobody exports.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

/// Links `span` to a span of another process that it also works for.
pub fn link(span: &Span, traceparent: &str) {
    if let Some(other) = parse(traceparent) {
        span.add_link(other);
    }
}

fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Later versions may append fields, this one has four.
    if version == "ff" || version.len() != 2 || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let lower_hex = |text: &str, len| {
        text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    if !lower_hex(version, 2) || !lower_hex(trace, 32) || !lower_hex(span, 16) || !lower_hex(flags, 2) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        flags,
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

/// Makes a span of each gRPC call.
#[derive(Clone, Copy, Debug)]
pub struct TraceLayer {
    roots: bool,
}

impl TraceLayer {
    /// Each call has a span, be it part of a trace of its caller or the beginning of one.
    pub const fn all() -> Self {
        Self { roots: true }
    }

    /// Only calls that are part of a trace have a span: for traffic that is mostly heartbeats.
    pub const fn continued() -> Self {
        Self { roots: false }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced { inner, roots: self.roots }
    }
}

/// A service whose calls have spans.
#[derive(Clone, Debug)]
pub struct Traced<S> {
    inner: S,
    roots: bool,
}

impl<S, B, R> Service<Request<B>> for Traced<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(span) = span_of(request.uri().path(), request.headers(), self.roots) else {
            return Box::pin(self.inner.call(request));
        };
        let call = span.in_scope(|| self.inner.call(request));
        let outcome = span.clone();
        let call = async move {
            let answer = call.await;
            // An error has its status in the head of the answer; a success has none yet.
            let status = answer.as_ref().ok().and_then(|answer| answer.headers().get("grpc-status")?.to_str().ok());
            outcome.record("rpc.grpc.status_code", status.unwrap_or("0"));
            answer
        };
        Box::pin(call.instrument(span))
    }
}

/// The span of a call, named by the conventions for RPC spans of OpenTelemetry.
fn span_of(path: &str, headers: &HeaderMap, roots: bool) -> Option<Span> {
    if !exporting() {
        return None;
    }
    let parent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    if parent.is_none() && !roots {
        return None;
    }
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    let span = tracing::info_span!(
        "call",
        otel.name = path.trim_start_matches('/'),
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
    );
    if let Some(parent) = parent {
        continue_from(&span, parent);
    }
    Some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_by_the_letter() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = parse(good).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled() && context.is_remote());
        assert!(parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-later").is_some());
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
