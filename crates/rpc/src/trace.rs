//! One trace over several processes: the W3C `traceparent` in a header, and in a row.
//!
//! ```text
//!   span ──current()──▶ "00-<trace>-<span>-01" ──▶ header of a call, column of a task ──▶ continue_from(span, …)
//! ```
//!
//! Work that is stored and done later belongs to the trace of whoever asked for it, so that one trace covers a whole run (R-OPS-3).

use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub const HEADER: &str = "traceparent";

/// The trace context of the current span as `traceparent`, or nothing when traces are not collected.
pub fn current() -> Option<String> {
    of(&Span::current())
}

/// The trace context of `span`.
pub fn of(span: &Span) -> Option<String> {
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| {
        format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags() & TraceFlags::SAMPLED)
    })
}

/// Makes `span` a child of the span that `traceparent` names. A text that is none leaves the span as it is: a trace is a help for
/// people, and no call or task fails for the lack of it.
pub fn continue_from(span: &Span, traceparent: Option<&str>) {
    let Some(parent) = traceparent.and_then(parse) else { return };
    let context = opentelemetry::Context::new().with_remote_span_context(parent);
    // It fails only when no OpenTelemetry layer is installed, and then there is no trace to continue.
    let _ = span.set_parent(context);
}

pub(crate) fn inject(headers: &mut HeaderMap) {
    if let Some(value) = current().and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(HEADER, value);
    }
}

pub(crate) fn extract(headers: &HeaderMap) -> Option<&str> {
    headers.get(HEADER)?.to_str().ok()
}

fn parse(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = (version.len(), trace.len(), span.len(), flags.len());
    if lengths != (2, 32, 16, 2) || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_stored_context_continues_the_same_trace() {
        let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let first = tracing::info_span!("first");
            let stored = of(&first).unwrap();
            assert_eq!(stored.len(), 55, "{stored}");
            let second = tracing::info_span!("second");
            continue_from(&second, Some(&stored));
            let continued = of(&second).unwrap();
            assert_eq!(continued[3..35], stored[3..35], "another trace id");
            assert_ne!(continued[36..52], stored[36..52], "the same span id");
        });
    }

    #[test]
    fn nonsense_is_no_context() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(parse(good).is_some());
        for bad in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }
}
