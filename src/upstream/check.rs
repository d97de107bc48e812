//! One strict look at the head of every answer, whoever has read it: where its content ends, and whether
//! that could be read in two ways.

use super::UpstreamError;
use crate::semantics::{fields, line};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use std::time::Duration;

/// What the head says of the message's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    pub content: Content,
    /// The connection may serve again once both directions have ended.
    pub reusable: bool,
}

/// What of the message comes behind its head (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    None,
    /// So many bytes.
    Length(u64),
    Chunked,
    /// Whatever comes until the connection ends.
    Rest,
}

impl Content {
    /// Length or last chunk marks the end, so that a cut cannot pass for an end.
    pub const fn is_delimited(self) -> bool {
        !matches!(self, Self::Rest)
    }
}

/// Checks and repairs the head of an answer to `method`.
///
/// Errors: [`UpstreamError::Protocol`] where the client and we could disagree about the message.
pub(super) fn head(
    method: &Method,
    asked_upgrade: bool,
    head: &mut Parts,
) -> Result<Framing, UpstreamError> {
    if !(100..=599).contains(&head.status.as_u16()) {
        return Err(UpstreamError::Protocol("status"));
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS && !asked_upgrade {
        return Err(UpstreamError::Protocol("unasked-upgrade"));
    }
    // To see which of them are there costs less than to look each of them up.
    let (mut codings, mut lengths, mut connection) = (false, false, false);
    for name in head.headers.keys() {
        codings |= *name == TRANSFER_ENCODING;
        lengths |= *name == CONTENT_LENGTH;
        connection |= *name == CONNECTION;
    }
    let chunked = codings && transfer_coding(&head.headers)?;
    let length = match lengths {
        true => Some(content_length(&head.headers)?),
        false => None,
    };
    if chunked && length.is_some() {
        // Two ends for one message: whoever wrote this may be smuggling (RFC 9112 §6.1).
        return Err(UpstreamError::Protocol("length-and-chunked"));
    }
    if chunked && head.version == Version::HTTP_10 {
        // HTTP/1.0 knows no chunks (RFC 9112 §6.1).
        return Err(UpstreamError::Protocol("transfer-encoding"));
    }
    if let Some(length) = length {
        plain_length(&mut head.headers, length);
    }
    let bodiless = *method == Method::HEAD
        || head.status.is_informational()
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    let content = match length {
        _ if bodiless => Content::None,
        _ if chunked => Content::Chunked,
        Some(length) => Content::Length(length),
        None => Content::Rest,
    };
    // A 204 may not announce any (RFC 9110 §8.6): what comes after all would be taken for the next answer.
    let announces = chunked || length.is_some_and(|length| length > 0);
    let keep_alive = head.version == Version::HTTP_11
        && !(connection && fields::has_token(&head.headers, &CONNECTION, "close"))
        && head.status != StatusCode::SWITCHING_PROTOCOLS
        && !(head.status == StatusCode::NO_CONTENT && announces);
    Ok(Framing {
        content,
        reusable: content.is_delimited() && keep_alive,
    })
}

/// `005` and `3, 3` leave here as one plain number.
fn plain_length(headers: &mut HeaderMap, length: u64) {
    let digits = line::digits(length);
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let plain = lines.next().map(HeaderValue::as_bytes) == Some(digits.as_bytes());
    if !(plain && lines.next().is_none()) {
        headers.insert(CONTENT_LENGTH, digits.value());
    }
}

/// Whether it is `chunked` alone; whatever else is said there is refused.
fn transfer_coding(headers: &HeaderMap) -> Result<bool, UpstreamError> {
    let mut codings = fields::list(headers, &TRANSFER_ENCODING);
    match (codings.next(), codings.next()) {
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(UpstreamError::Protocol("transfer-encoding")),
    }
}

fn content_length(headers: &HeaderMap) -> Result<u64, UpstreamError> {
    let mut length = None;
    for member in fields::list(headers, &CONTENT_LENGTH) {
        let digits = member.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(member)
            .ok()
            .and_then(|text| text.parse().ok());
        match (digits, number, length) {
            (true, Some(number), None) => length = Some(number),
            (true, Some(number), Some(known)) if number == known => {}
            _ => return Err(UpstreamError::Protocol("content-length")),
        }
    }
    length.ok_or(UpstreamError::Protocol("content-length"))
}

/// A little less than what `Keep-Alive: timeout=N` promises.
pub(super) fn keep_alive_hint(headers: &HeaderMap) -> Option<Duration> {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    let secs: u64 = fields::list(headers, &KEEP_ALIVE).find_map(|member| {
        let member = std::str::from_utf8(member).ok()?;
        member.trim().strip_prefix("timeout=")?.trim().parse().ok()
    })?;
    Some(Duration::from_secs(secs.min(3_600)).saturating_sub(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;

    fn judge(fields: &[(&str, &str)]) -> Result<Framing, UpstreamError> {
        judged(fields).map(|(framing, _)| framing)
    }

    fn parts(fields: &[(&str, &str)]) -> Parts {
        let mut response = Response::builder();
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap().into_parts().0
    }

    fn judged(fields: &[(&str, &str)]) -> Result<(Framing, HeaderMap), UpstreamError> {
        let mut parts = parts(fields);
        head(&Method::GET, false, &mut parts).map(|framing| (framing, parts.headers))
    }

    #[test]
    fn a_message_with_two_ends_is_refused() {
        assert_eq!(
            judge(&[("transfer-encoding", "chunked"), ("content-length", "30")]),
            Err(UpstreamError::Protocol("length-and-chunked"))
        );
    }

    #[test]
    fn only_a_single_chunked_is_a_transfer_coding() {
        for bad in [
            "",
            "identity",
            "chunked, gzip",
            "chunked, chunked",
            "gzip, chunked",
        ] {
            assert!(judge(&[("transfer-encoding", bad)]).is_err(), "{bad}");
        }
        assert!(judge(&[("transfer-encoding", "Chunked")]).unwrap().reusable);
    }

    #[test]
    fn equal_lengths_become_one_and_differing_ones_are_refused() {
        assert!(judge(&[("content-length", "")]).is_err());
        let (framing, headers) = judged(&[("content-length", "3, 3")]).unwrap();
        assert_eq!(framing.content, Content::Length(3));
        assert_eq!(headers[CONTENT_LENGTH], "3");
        assert!(judge(&[("content-length", "3"), ("content-length", "4")]).is_err());
        assert!(judge(&[("content-length", "+3")]).is_err());
        assert!(judge(&[("content-length", "99999999999999999999")]).is_err());
    }

    #[test]
    fn whoever_announces_content_where_none_may_be_is_not_trusted_with_another_request() {
        for (status, fields, reusable) in [
            (204, &[("content-length", "5")][..], false),
            (204, &[("transfer-encoding", "chunked")], false),
            (204, &[("content-length", "0")], true),
            (204, &[], true),
            (304, &[("content-length", "5")], true),
            (304, &[("transfer-encoding", "chunked")], true),
        ] {
            let mut parts = parts(fields);
            parts.status = StatusCode::from_u16(status).unwrap();
            let framing = head(&Method::GET, false, &mut parts).unwrap();
            let expected = (Content::None, reusable);
            assert_eq!((framing.content, framing.reusable), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_body_that_ends_with_the_connection_is_not_delimited() {
        let framing = judge(&[]).unwrap();
        assert!(framing.content == Content::Rest && !framing.reusable);
    }

    #[test]
    fn the_apps_own_patience_is_kept_below() {
        let mut headers = HeaderMap::new();
        headers.insert("keep-alive", HeaderValue::from_static("timeout=5, max=100"));
        assert_eq!(keep_alive_hint(&headers), Some(Duration::from_secs(4)));
    }
}
