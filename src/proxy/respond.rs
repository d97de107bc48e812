//! The one place where larder chooses a status code, and shapes the errors it makes.

use super::body::Body;
use crate::cache::PurgeOutcome;
use crate::config::settings::ErrorShape;
use crate::limit::{self, Decision};
use crate::purging::Record;
use crate::semantics::Timestamp;
use crate::semantics::line::{self, digits};
use crate::semantics::writing::{Fields, Value};
use crate::upstream::UpstreamError;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use std::borrow::Cow;
use std::sync::Arc;

/// How long a client is asked to wait when the app has too much to do, in seconds.
const OVERLOAD_WAIT_SECS: u64 = 1;

/// Room for the content of most problems, in bytes.
const CONTENT_BYTES: usize = 512;

/// Why larder answers by itself instead of passing an answer on; grouped by whose doing it is.
#[derive(Clone, Debug)]
pub enum Problem {
    /// Client: the request breaks HTTP; the words say how.
    BadRequest(&'static str),
    /// Client: CONNECT and TRACE are not for a sidecar.
    MethodNotAllowed,
    /// Client: a transfer coding that nobody here speaks.
    UnknownCoding,
    /// Client: an Expect that nobody here meets.
    ExpectationFailed,
    /// Client: the head is larger than is read.
    HeadTooLarge,
    /// Client: the target is longer than is read.
    TargetTooLong,
    /// Client: a host that is not served here (RFC 9110 §15.5.20).
    Misdirected,
    /// Client: only-if-cached, and nothing is (RFC 9111 §5.2.1.7).
    OnlyIfCached,
    /// Client: over a limit.
    Limited(Arc<Decision>),
    /// Client: it may not purge; the words say why.
    MayNotPurge(&'static str),
    /// Client: what it sent is no purge; the words say why.
    NotAPurge(&'static str),
    /// Client: more purges than are taken; seconds to wait.
    TooManyPurges(u64),
    /// Client: a message of this name is being carried out, and not yet done.
    PurgeUnderway,
    /// Operator: Redis is away and `limits.redis_down: deny`.
    LimitsUnavailable,
    /// Operator: the proxy is its own app.
    Loop,
    /// Operator: as many connections are tunnelled as may be.
    TooManyTunnels,
    /// App: it gave no usable answer.
    App(UpstreamError),
    /// App: the same, and what is stored must not be used without its word.
    Unconfirmed(UpstreamError),
    /// App: so many wait for one answer of it that one more may not.
    TooManyWait,
    /// larder: a fault of ours; it ended this request and nothing else.
    Internal,
}

impl Problem {
    /// The same, where something is stored that must not be used without the app's word.
    #[must_use]
    pub fn unconfirmed(self) -> Self {
        match self {
            Self::App(error) if error.is_app_failure() => Self::Unconfirmed(error),
            other => other,
        }
    }

    /// The status code.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            // Cut off from the app with a stale answer in hand: RFC 9111 §4.2.4, §5.2.2.2.
            Self::OnlyIfCached | Self::Unconfirmed(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Limited(_) | Self::TooManyPurges(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::MayNotPurge(_) => StatusCode::UNAUTHORIZED,
            Self::NotAPurge(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::LimitsUnavailable
            | Self::TooManyTunnels
            | Self::TooManyWait
            | Self::PurgeUnderway => StatusCode::SERVICE_UNAVAILABLE,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::App(error) => match error {
                UpstreamError::Timeout | UpstreamError::ConnectTimeout => {
                    StatusCode::GATEWAY_TIMEOUT
                }
                UpstreamError::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
                UpstreamError::ClientBody => StatusCode::BAD_REQUEST,
                UpstreamError::Connect
                | UpstreamError::Tls
                | UpstreamError::Reset
                | UpstreamError::Protocol(_) => StatusCode::BAD_GATEWAY,
            },
        }
    }

    /// The word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "BAD_REQUEST",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::UnknownCoding => "NOT_IMPLEMENTED",
            Self::ExpectationFailed => "EXPECTATION_FAILED",
            Self::HeadTooLarge => "HEADERS_TOO_LARGE",
            Self::TargetTooLong => "URI_TOO_LONG",
            Self::Misdirected => "MISDIRECTED",
            Self::OnlyIfCached => "NOT_CACHED",
            Self::Limited(_) => "RATE_LIMITED",
            Self::MayNotPurge(_) => "UNAUTHORIZED",
            Self::NotAPurge(_) => "NOT_A_PURGE",
            Self::TooManyPurges(_) => "TOO_MANY_PURGES",
            Self::PurgeUnderway => "PURGE_UNDERWAY",
            Self::LimitsUnavailable => "LIMITS_UNAVAILABLE",
            Self::Loop => "LOOP_DETECTED",
            Self::TooManyTunnels => "TOO_MANY_CONNECTIONS",
            Self::TooManyWait => "TOO_MANY_WAITING",
            Self::Internal => "INTERNAL_ERROR",
            Self::App(error) | Self::Unconfirmed(error) => match error {
                UpstreamError::Timeout | UpstreamError::ConnectTimeout => "UPSTREAM_TIMEOUT",
                UpstreamError::Overloaded => "UPSTREAM_OVERLOADED",
                UpstreamError::ClientBody => "BAD_REQUEST",
                UpstreamError::Connect | UpstreamError::Tls => "UPSTREAM_UNREACHABLE",
                UpstreamError::Reset | UpstreamError::Protocol(_) => "UPSTREAM_FAILED",
            },
        }
    }

    /// One sentence for people.
    #[must_use]
    pub fn message(&self) -> Cow<'static, str> {
        match self {
            Self::BadRequest(how) => {
                format!("The request cannot be forwarded safely: {how}.").into()
            }
            Self::MethodNotAllowed => "CONNECT and TRACE are not served here.".into(),
            Self::UnknownCoding => "Only the chunked transfer coding is understood.".into(),
            Self::ExpectationFailed => "Only 100-continue can be expected here.".into(),
            Self::HeadTooLarge => "The request's header fields are too large.".into(),
            Self::TargetTooLong => "The request's target is too long.".into(),
            Self::Misdirected => "This host is not served here.".into(),
            Self::OnlyIfCached => "Only a stored answer was asked for, and none is usable.".into(),
            Self::Limited(_) => "Too many requests".into(),
            Self::MayNotPurge(why) => format!("This may not purge: {why}.").into(),
            Self::NotAPurge(why) => format!("This is no purge: {why}.").into(),
            Self::TooManyPurges(_) => "More purges have come than are taken.".into(),
            Self::PurgeUnderway => "A message of this name is being carried out.".into(),
            Self::LimitsUnavailable => "Requests cannot be counted at the moment.".into(),
            Self::Loop => {
                "The proxy received its own request: its upstream leads back to itself.".into()
            }
            Self::TooManyTunnels => "Too many upgraded connections are open.".into(),
            Self::TooManyWait => "Too many requests wait for the same answer.".into(),
            Self::Internal => "The proxy failed at this request.".into(),
            Self::App(error) | Self::Unconfirmed(error) => match error {
                UpstreamError::Timeout => "The app did not answer in time.",
                UpstreamError::ConnectTimeout => "The app did not accept a connection in time.",
                UpstreamError::Overloaded => "The app has too many requests at the moment.",
                UpstreamError::ClientBody => "The request's body broke off.",
                UpstreamError::Connect => "The app cannot be reached.",
                UpstreamError::Tls => "No secure connection to the app could be made.",
                UpstreamError::Reset => "The app closed the connection without an answer.",
                UpstreamError::Protocol(_) => "The app's answer breaks HTTP.",
            }
            .into(),
        }
    }

    /// In how many seconds to try again, where we know.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Limited(decision) => limit::headers::retry_after(decision),
            Self::TooManyPurges(secs) => Some(*secs),
            Self::LimitsUnavailable
            | Self::TooManyTunnels
            | Self::TooManyWait
            | Self::PurgeUnderway
            | Self::App(UpstreamError::Overloaded) => Some(OVERLOAD_WAIT_SECS),
            _ => None,
        }
    }

    /// Whether nothing more may be read from this connection.
    const fn closes(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_)
                | Self::MethodNotAllowed
                | Self::UnknownCoding
                | Self::ExpectationFailed
                | Self::HeadTooLarge
                | Self::TargetTooLong
        )
    }

    /// The answer, in the shape the operator chose.
    #[must_use]
    pub fn answer(&self, shape: ErrorShape, now: Timestamp, trace_id: &str) -> Response<Body> {
        let content = self.content(shape, now, trace_id);
        let mut response = Response::new(Body::full(content));
        *response.status_mut() = self.status();
        self.fields(shape, response.headers_mut());
        response
    }

    /// The content of the answer.
    pub(super) fn content(&self, shape: ErrorShape, now: Timestamp, trace_id: &str) -> Vec<u8> {
        let mut content = Vec::with_capacity(CONTENT_BYTES);
        let mut put = |name: &str, value: Member<'_>| {
            content.push(if content.is_empty() { b'{' } else { b',' });
            for piece in ["\"", name, "\":"] {
                content.extend_from_slice(piece.as_bytes());
            }
            match value {
                Member::Word(word) => {
                    content.push(b'"');
                    content.extend_from_slice(word.as_bytes());
                    content.push(b'"');
                }
                Member::Number(number) => {
                    content.extend_from_slice(line::digits(number).as_bytes());
                }
                Member::Names(names) => push_names(&mut content, names),
            }
        };
        match shape {
            ErrorShape::Problem => self.write_problem(trace_id, &mut put),
            ErrorShape::Exodrive => self.write_exodrive(now, trace_id, &mut put),
        }
        content.push(b'}');
        if shape == ErrorShape::Exodrive {
            content.splice(..0, *b"{\"error\":");
            content.push(b'}');
        }
        content
    }

    /// Writes the fields of the answer; when to come back to a limit is among the limit's.
    pub(super) fn fields(&self, shape: ErrorShape, fields: &mut impl Fields) {
        let content_type = match shape {
            ErrorShape::Problem => "application/problem+json",
            ErrorShape::Exodrive => "application/json",
        };
        fields.put(CONTENT_TYPE, Value::Static(content_type));
        fields.put(CACHE_CONTROL, Value::Static("no-store"));
        if let Some(secs) = self.retry_after()
            && !matches!(self, Self::Limited(_))
        {
            fields.put(RETRY_AFTER, Value::Text(digits(secs).as_bytes()));
        }
        if matches!(self, Self::MethodNotAllowed) {
            fields.put(ALLOW, Value::Static(ALLOWED));
        }
        if matches!(self, Self::MayNotPurge(_)) {
            fields.put(WWW_AUTHENTICATE, Value::Static("Bearer realm=\"larder\""));
        }
        if self.closes() {
            fields.put(CONNECTION, Value::Static("close"));
        }
    }

    /// RFC 9457: the members of a problem, ours among them. A refusal names the policies it violates
    /// (draft-ietf-httpapi-ratelimit-headers).
    fn write_problem(&self, trace_id: &str, put: &mut impl FnMut(&str, Member<'_>)) {
        let status = self.status();
        let (kind, violated) = match self {
            Self::Limited(decision) => (QUOTA_EXCEEDED, Some(decision)),
            _ => ("about:blank", None),
        };
        put("type", Member::Word(kind));
        let title = status.canonical_reason().unwrap_or("Error");
        put("title", Member::Word(title));
        put("status", Member::Number(status.as_u16().into()));
        put("detail", Member::Word(&self.message()));
        put("code", Member::Word(self.code()));
        put("traceId", Member::Word(trace_id));
        if let Some(decision) = violated {
            put("violated-policies", Member::Names(decision));
        }
        if let Some(secs) = self.retry_after() {
            put("retryAfter", Member::Number(secs));
        }
    }

    /// What stands in `{"error": {…}}`, as ExoDrive's clients know it.
    fn write_exodrive(
        &self,
        now: Timestamp,
        trace_id: &str,
        put: &mut impl FnMut(&str, Member<'_>),
    ) {
        put("code", Member::Word(self.code()));
        put("message", Member::Word(&self.message()));
        put("timestamp", Member::Word(&now.rfc3339()));
        put("traceId", Member::Word(trace_id));
        if let Some(secs) = self.retry_after() {
            put("retryAfter", Member::Number(secs));
        }
    }
}

/// A member of the content of an answer.
enum Member<'a> {
    /// Words of ours: nothing in them has to be escaped (a test holds them to it).
    Word(&'a str),
    Number(u64),
    /// The names of the counters that refused.
    Names(&'a Decision),
}

/// A list of texts; names are the operator's, so that they are escaped (RFC 8259 §7).
fn push_names(content: &mut Vec<u8>, decision: &Decision) {
    content.push(b'[');
    for (at, state) in decision.refusals().enumerate() {
        if at > 0 {
            content.push(b',');
        }
        // Writing a text into memory cannot fail.
        let written = serde_json::to_writer(&mut *content, &*state.name);
        debug_assert!(written.is_ok());
    }
    content.push(b']');
}

/// Registered with IANA by draft-ietf-httpapi-ratelimit-headers.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// The methods that pass here.
const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The answer to an OPTIONS that must not be passed on to the app (RFC 9110 §7.6.2).
pub(super) fn options() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(ALLOWED));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The answer to a purge that was carried out: 200 when it holds everywhere, 202 when the others hear of
/// it later.
pub(super) fn purged(record: &Record) -> Response<Body> {
    let status = match record.outcome {
        PurgeOutcome::Queued => StatusCode::ACCEPTED,
        PurgeOutcome::Logged | PurgeOutcome::Local => StatusCode::OK,
    };
    let content = serde_json::json!({
        "purges": record.purges,
        "soft": record.soft == record.purges,
        "outcome": record.outcome.word(),
    });
    json(status, &content)
}

/// The answer to a message that purges nothing, and why: it came before, or is of no matter here.
pub(super) fn nothing_purged(outcome: &'static str) -> Response<Body> {
    json(
        StatusCode::OK,
        &serde_json::json!({ "purges": 0, "outcome": outcome }),
    )
}

fn json(status: StatusCode, content: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::full(format!("{content}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::State;
    use serde_json::json;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_millis(1_737_626_400_000);

    fn body(response: Response<Body>) -> serde_json::Value {
        let bytes = futures_executor(response.into_body());
        serde_json::from_slice(&bytes).unwrap()
    }

    fn futures_executor(body: Body) -> Vec<u8> {
        use http_body_util::BodyExt;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async { body.collect().await.unwrap().to_bytes().to_vec() })
    }

    fn refused() -> Problem {
        let state = State {
            name: "public".into(),
            quota: 60,
            window: Duration::from_secs(60),
            remaining: 0,
            reset: Duration::from_millis(59_001),
            refused: true,
        };
        Problem::Limited(Arc::new(Decision {
            admitted: false,
            unavailable: false,
            counted: crate::limit::Counted::Shared,
            repeated: false,
            states: vec![state],
        }))
    }

    #[test]
    fn exodrives_clients_find_their_own_shape() {
        let response = refused().answer(ErrorShape::Exodrive, NOW, "abc");
        assert_eq!(response.status(), 429);
        assert_eq!(
            body(response),
            json!({"error": {"code": "RATE_LIMITED", "message": "Too many requests",
                "timestamp": "2025-01-23T10:00:00Z", "traceId": "abc", "retryAfter": 60}})
        );
    }

    /// What is written without being escaped needs no escape.
    #[test]
    fn words_of_ours_stand_in_json_as_they_are() {
        let errors = [
            UpstreamError::Timeout,
            UpstreamError::Connect,
            UpstreamError::Protocol("it is \"odd\""),
            UpstreamError::Overloaded,
        ];
        let problems = errors.map(Problem::App).into_iter().chain([
            Problem::MethodNotAllowed,
            Problem::Loop,
            Problem::Internal,
            refused(),
        ]);
        for problem in problems {
            for shape in [ErrorShape::Problem, ErrorShape::Exodrive] {
                let content = problem.content(shape, NOW, "abc");
                let read: serde_json::Value = serde_json::from_slice(&content).unwrap();
                assert!(read.to_string().contains(problem.code()));
            }
        }
    }

    #[test]
    fn a_problem_names_the_policies_it_violates() {
        let response = refused().answer(ErrorShape::Problem, NOW, "abc");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(body(response)["violated-policies"], json!(["public"]));
    }

    #[test]
    fn a_slow_app_is_a_504_and_an_absent_one_a_502() {
        assert_eq!(Problem::App(UpstreamError::Timeout).status(), 504);
        assert_eq!(Problem::App(UpstreamError::Connect).status(), 502);
        assert_eq!(Problem::App(UpstreamError::Overloaded).status(), 503);
    }
}
