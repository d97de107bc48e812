//! What the admin port says when it does not do what was asked (RFC 9457).

use super::{ALLOW, HeaderValue, Reply, StatusCode, reply};
use http::header::WWW_AUTHENTICATE;
use serde_json::json;

/// A refusal: what, why, and what to do instead. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// A word for programs.
    pub(super) code: &'static str,
    detail: String,
    fix: String,
    allow: Option<&'static str>,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            fix: fix.into(),
            allow: None,
        }
    }

    /// 405, with the methods that there are (RFC 9110 §15.5.6).
    pub(super) fn method(allow: &'static str) -> Self {
        Self {
            allow: Some(allow),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This path does not answer this method.",
                format!("Use {allow}."),
            )
        }
    }

    pub(super) fn reply(&self) -> Reply {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "fix": self.fix,
        });
        let mut reply = reply(self.status, "application/problem+json", format!("{body}\n"));
        if let Some(allow) = self.allow {
            reply
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"larder\"");
            reply.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        reply
    }
}
