//! W3C trace context in and out, and spans over OTLP where `OTEL_*` asks for them.
//!
//! Without OTLP a [`Span`] is an empty option and nothing here allocates. `tracestate` is the
//! proxy's to pass on untouched.

use http::{HeaderMap, HeaderName, Method, StatusCode};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags,
    TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{IdGenerator, SdkTracer};
use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Bytes of a path or other text in a span; longer ones are cut.
const TEXT_BYTES_MAX: usize = 1_024;

/// The trace that a request belongs to (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Never zero.
    pub trace_id: u128,
    /// Our span, the parent of the app's.
    pub span_id: u64,
    /// The caller's span, zero if none.
    pub parent_id: u64,
    /// The sampled flag.
    pub sampled: bool,
}

impl TraceContext {
    /// Continues the caller's `traceparent`, or begins a trace where there is none or a broken one.
    ///
    /// A trace that begins here counts as sampled: with the flag at zero an app that follows its
    /// parent would no longer trace anything once larder stands before it.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let span_id = random_nonzero();
        match Traceparent::from_headers(headers) {
            Some(caller) => Self {
                trace_id: caller.trace_id,
                span_id,
                parent_id: caller.parent_id,
                sampled: caller.sampled,
            },
            None => Self {
                trace_id: u128::from(random_nonzero()) << 64 | u128::from(random_nonzero()),
                span_id,
                parent_id: 0,
                sampled: true,
            },
        }
    }

    /// The `traceparent` to send to the app.
    #[must_use]
    pub fn traceparent(&self) -> String {
        let mut text = Vec::with_capacity(55);
        text.extend_from_slice(b"00-");
        text.extend_from_slice(&self.trace_id_digits());
        text.push(b'-');
        let span: [u8; 16] = digits(self.span_id.into());
        text.extend_from_slice(&span);
        text.extend_from_slice(if self.sampled { b"-01" } else { b"-00" });
        String::from_utf8(text).unwrap_or_default()
    }

    /// The trace id as 32 hexadecimal digits, for logs and error bodies.
    #[must_use]
    pub fn trace_id_hex(&self) -> String {
        String::from_utf8_lossy(&self.trace_id_digits()).into_owned()
    }

    /// The same as it stands on the wire.
    #[must_use]
    pub fn trace_id_digits(&self) -> [u8; 32] {
        digits(self.trace_id)
    }
}

/// The lowest `N` hexadecimal digits.
fn digits<const N: usize>(number: u128) -> [u8; N] {
    let bytes = number.to_be_bytes();
    std::array::from_fn(|at| {
        let at = at + 2 * bytes.len() - N;
        let half = bytes[at / 2] >> (4 * (1 - at % 2));
        b"0123456789abcdef"[usize::from(half & 15)]
    })
}

/// Exports spans, or does nothing at no cost when OTLP is not configured.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Tracing>>);

#[derive(Debug)]
struct Tracing {
    tracer: SdkTracer,
    sampling: Sampling,
}

/// A span that ends when dropped; empty unless this trace is exported.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Live>>);

#[derive(Debug)]
struct Live {
    span: opentelemetry_sdk::trace::Span,
    tracing: Arc<Tracing>,
}

impl Traces {
    /// Spans go to `tracer`, whose ids must come from [`OurIds`].
    pub(super) fn new(tracer: SdkTracer, sampling: Sampling) -> Self {
        Self(Some(Arc::new(Tracing { tracer, sampling })))
    }

    /// Whether spans go anywhere.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The trace of a request, with the sampling decision made: what the proxy uses.
    #[must_use]
    pub fn context(&self, headers: &HeaderMap) -> TraceContext {
        let mut context = TraceContext::from_headers(headers);
        if let Some(tracing) = &self.0 {
            let parent = (context.parent_id != 0).then_some(context.sampled);
            context.sampled = tracing.sampling.decide(context.trace_id, parent);
        }
        context
    }

    /// The server span of a request. Attributes are OTel's stable HTTP names.
    #[must_use]
    pub fn request(&self, context: &TraceContext, method: &Method, path: &str) -> Span {
        let Some(tracing) = self.0.as_ref().filter(|_| context.sampled) else {
            return Span(None);
        };
        let parent = match context.parent_id {
            0 => Context::new(),
            parent_id => remote(context.trace_id, parent_id),
        };
        let builder = SpanBuilder::from_name(method.to_string())
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("http.request.method", method.to_string()),
                KeyValue::new("url.path", cut(path).to_owned()),
            ]);
        let span = OurIds::with(context.trace_id, context.span_id, || {
            tracing.tracer.build_with_context(builder, &parent)
        });
        Span(Some(Box::new(Live {
            span,
            tracing: Arc::clone(tracing),
        })))
    }
}

impl Span {
    /// A child: `limit`, `lookup`, `fetch`, `store`.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        let Some(live) = &self.0 else {
            return Self(None);
        };
        let kind = match name {
            "fetch" => SpanKind::Client,
            _ => SpanKind::Internal,
        };
        let parent = Context::new().with_remote_span_context(live.span.span_context().clone());
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        let span = live.tracing.tracer.build_with_context(builder, &parent);
        Self(Some(Box::new(Live {
            span,
            tracing: Arc::clone(&live.tracing),
        })))
    }

    /// Adds an attribute.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(live) = &mut self.0 {
            live.span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// Names the server span by its route, as OTel asks: `GET /api/cars/{id}`.
    pub fn route(&mut self, method: &Method, route: &str) {
        if let Some(live) = &mut self.0 {
            live.span.update_name(format!("{method} {}", cut(route)));
            let route = KeyValue::new("http.route", cut(route).to_owned());
            live.span.set_attribute(route);
        }
    }

    /// The status answered; a 5xx marks the span as failed.
    pub fn status(&mut self, status: StatusCode) {
        self.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            self.fail(status.as_str().to_owned());
        }
    }

    /// Marks the span as failed with this `error.type`.
    pub fn fail(&mut self, error_type: impl Into<Value>) {
        self.set("error.type", error_type);
        if let Some(live) = &mut self.0 {
            live.span.set_status(Status::error(""));
        }
    }

    /// Whether this span is exported; attributes that cost something to make are made only then.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.0.is_some()
    }
}

/// `OTEL_TRACES_SAMPLER` with its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampling {
    /// The caller's flag wins where there is a caller.
    parent_based: bool,
    /// Share of traces, 0.0 to 1.0.
    ratio: f64,
}

impl Sampling {
    /// The named sampler (`parentbased_always_on` by default), or an unknown name back.
    pub(super) fn parse(name: Option<&str>, argument: Option<&str>) -> Result<Self, String> {
        let name = name.unwrap_or("parentbased_always_on");
        let (parent_based, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, name),
        };
        let ratio = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => argument
                .and_then(|share| share.parse::<f64>().ok())
                .filter(|share| (0.0..=1.0).contains(share))
                .unwrap_or(1.0),
            _ => return Err(name.to_owned()),
        };
        Ok(Self {
            parent_based,
            ratio,
        })
    }

    fn decide(self, trace_id: u128, parent: Option<bool>) -> bool {
        match parent {
            Some(sampled) if self.parent_based => sampled,
            // The random low bits decide, so that every hop with this ratio decides alike.
            _ => ((trace_id as u64) >> 1) as f64 / ((1_u64 << 63) as f64) < self.ratio,
        }
    }
}

/// Gives the SDK the ids that the request already has; random ones to child spans.
#[derive(Debug)]
pub(super) struct OurIds;

thread_local! {
    static NEXT: Cell<Option<(u128, u64)>> = const { Cell::new(None) };
    static RANDOM: RefCell<fastrand::Rng> = RefCell::new(fastrand::Rng::with_seed(
        // The keys of RandomState come from the operating system; fastrand's own seed does not, and
        // two sidecars started together must not give the same ids.
        RandomState::new().hash_one(0_u8),
    ));
}

impl OurIds {
    fn with<T>(trace_id: u128, span_id: u64, build: impl FnOnce() -> T) -> T {
        NEXT.set(Some((trace_id, span_id)));
        let built = build();
        NEXT.set(None);
        built
    }
}

impl IdGenerator for OurIds {
    fn new_trace_id(&self) -> TraceId {
        let random = || u128::from(random_nonzero()) << 64 | u128::from(random_nonzero());
        TraceId::from(NEXT.get().map_or_else(random, |(trace_id, _)| trace_id))
    }

    fn new_span_id(&self) -> SpanId {
        SpanId::from(
            NEXT.get()
                .map_or_else(random_nonzero, |(_, span_id)| span_id),
        )
    }
}

fn random_nonzero() -> u64 {
    RANDOM.with_borrow_mut(|random| random.u64(1..))
}

fn remote(trace_id: u128, span_id: u64) -> Context {
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from(trace_id),
        SpanId::from(span_id),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    ))
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// A `traceparent` field (W3C Trace Context, level 1, §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Traceparent {
    trace_id: u128,
    parent_id: u64,
    sampled: bool,
}

impl Traceparent {
    /// Exactly one field is taken; two are as good as none.
    fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(TRACEPARENT).iter();
        let field = fields.next()?;
        if fields.next().is_some() {
            return None;
        }
        Self::parse(field.as_bytes())
    }

    fn parse(field: &[u8]) -> Option<Self> {
        let (head, rest) = field.split_at_checked(55)?;
        let version = hex(&head[..2])?;
        // Version 00 ends here; later ones may go on after a dash (§4.3). ff is forbidden.
        let whole = match version {
            0xff => false,
            0 => rest.is_empty(),
            _ => rest.first().is_none_or(|next| *next == b'-'),
        };
        let dashes = [2, 35, 52].iter().all(|at| head[*at] == b'-');
        if !whole || !dashes {
            return None;
        }
        let trace_id = hex(&head[3..35])?;
        let parent_id = u64::try_from(hex(&head[36..52])?).ok()?;
        let flags = hex(&head[53..55])?;
        (trace_id != 0 && parent_id != 0).then_some(Self {
            trace_id,
            parent_id,
            sampled: flags & 1 == 1,
        })
    }
}

/// Lower-case hexadecimal digits, at most 32.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn headers(fields: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append("traceparent", field.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_callers_trace_is_continued_with_a_span_of_our_own() {
        let context = TraceContext::from_headers(&headers(&[&format!("00-{TRACE}-{PARENT}-01")]));
        assert_eq!(context.trace_id_hex(), TRACE);
        assert_eq!(format!("{:016x}", context.parent_id), PARENT);
        assert!(context.sampled && context.span_id != context.parent_id);
        let out = context.traceparent();
        assert_eq!(out, format!("00-{TRACE}-{:016x}-01", context.span_id));
    }

    #[test]
    fn a_broken_traceparent_begins_a_new_trace() {
        for broken in [
            String::new(),
            format!("00-{TRACE}-{PARENT}"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("00-{TRACE}-{PARENT}-01 "),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("01-{TRACE}-{PARENT}-01.more"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00_{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-0x"),
        ] {
            let context = TraceContext::from_headers(&headers(&[&broken]));
            assert_eq!(context.parent_id, 0, "{broken}");
            assert!(context.trace_id != 0 && context.trace_id_hex() != TRACE);
        }
        let twice = format!("00-{TRACE}-{PARENT}-01");
        assert_eq!(
            TraceContext::from_headers(&headers(&[&twice, &twice])).parent_id,
            0
        );
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for field in ["01-T-P-00", "cc-T-P-01-what-the-future-will-be-like"] {
            let field = field.replace('T', TRACE).replace('P', PARENT);
            let context = TraceContext::from_headers(&headers(&[&field]));
            assert_eq!(context.trace_id_hex(), TRACE);
            assert!(context.traceparent().starts_with("00-"));
        }
    }

    proptest! {
        #[test]
        fn no_field_panics(field in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Traceparent::parse(&field);
        }
    }

    #[test]
    fn samplers_follow_their_names() {
        let sampler = |name, argument| Sampling::parse(name, argument).unwrap();
        let default = sampler(None, None);
        assert!(default.decide(1, None) && !default.decide(1, Some(false)));
        assert!(sampler(Some("always_on"), None).decide(1, Some(false)));
        assert!(!sampler(Some("always_off"), None).decide(1, Some(true)));
        let tenth = sampler(Some("parentbased_traceidratio"), Some("0.1"));
        let chosen = (0..10_000)
            .filter(|_| tenth.decide(u128::from(random_nonzero()), None))
            .count();
        assert!((800..1_200).contains(&chosen), "{chosen}");
        assert!(tenth.decide(u128::MAX, Some(true)));
        assert!(Sampling::parse(Some("jaeger_remote"), None).is_err());
    }

    #[test]
    fn without_otlp_a_span_is_nothing() {
        let traces = Traces::default();
        let context = traces.context(&HeaderMap::new());
        let mut span = traces.request(&context, &Method::GET, "/");
        span.set("cache", "hit");
        assert!(!span.is_live() && !span.child("lookup").is_live());
    }
}
