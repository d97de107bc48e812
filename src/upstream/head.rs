//! Heads as HTTP/1.1 carries them (RFC 9112 §2 to §5): a request's on its way to the app, an answer's on
//! its way back.
//!
//! Never decides which fields go, and never whether an answer is let in.

use super::Interim;
use crate::semantics::writing::{is_text, line};
use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http::{Version, response};
use std::mem::MaybeUninit;

/// The largest response head that is read, in bytes.
pub(super) const HEAD_BYTES_MAX: usize = 256 * 1024;
/// Fields of one answer.
const FIELDS_MAX: usize = 100;
/// Fields that an answer may get on its way to the client: room for them is made once.
const SPARE_FIELDS: usize = 10;

/// A request, but for its content. Borrowed, since it may have to be sent twice.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a, F> {
    /// Its method.
    pub method: &'a Method,
    /// Path and query go to the app as they stand here.
    pub target: &'a Uri,
    /// Its fields.
    pub fields: &'a F,
    /// Where interim answers go, if anybody wants them.
    pub interim: Option<&'a Interim>,
    /// It asks for another protocol (RFC 9110 §7.8): the connection may be handed over.
    pub upgrade: bool,
}

/// The fields of a request, given one by one. What says where its content ends is made here, from the
/// content: it is never passed on, so that it cannot promise something else (RFC 9112 §6).
pub trait RequestFields {
    /// Calls `field` with each in turn.
    fn each(&self, field: impl FnMut(&HeaderName, Value<'_>));
}

/// A field's value.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// As it stands in a map.
    Held(&'a HeaderValue),
    /// Made for this request; what cannot stand in a field is left out.
    Made(&'a [u8]),
}

impl Value<'_> {
    /// What is written of it.
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Held(value) => Some(value.as_bytes()),
            Self::Made(bytes) => is_text(bytes).then_some(bytes),
        }
    }

    /// As a map holds it.
    #[must_use]
    pub fn field(self) -> Option<HeaderValue> {
        match self {
            Self::Held(value) => Some(value.clone()),
            Self::Made(bytes) => HeaderValue::from_bytes(bytes).ok(),
        }
    }
}

impl RequestFields for HeaderMap {
    fn each(&self, mut field: impl FnMut(&HeaderName, Value<'_>)) {
        for (name, value) in self {
            field(name, Value::Held(value));
        }
    }
}

impl<F: RequestFields> RequestHead<'_, F> {
    /// Writes the request with its `content` to the end of `out`.
    pub(super) fn write(&self, content: &[u8], out: &mut Vec<u8>) {
        let target = self.target.path_and_query();
        let target = target.map_or("/", |target| target.as_str());
        for piece in [self.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
        let mut promised = false;
        self.fields.each(|name, value| match value.bytes() {
            _ if *name == CONTENT_LENGTH => promised = true,
            Some(value) if *name != TRANSFER_ENCODING => line(out, name, value),
            _ => {}
        });
        if promised || !content.is_empty() {
            let length = crate::semantics::line::digits(content.len() as u64);
            line(out, &CONTENT_LENGTH, length.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(content);
    }

    /// The same for hyper. `length`: the content's, where it is known.
    pub(super) fn request<B>(&self, body: B, length: Option<u64>) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        let mut promised = false;
        let headers = request.headers_mut();
        self.fields.each(|name, value| match value.field() {
            _ if *name == CONTENT_LENGTH => promised = true,
            Some(value) if *name != TRANSFER_ENCODING => {
                headers.append(name, value);
            }
            _ => {}
        });
        match length {
            Some(0) if !promised => {}
            Some(length) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            // Without it hyper would drop the body of a GET.
            None => {
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        request
    }
}

/// What is wrong with a head; a few words for people.
pub(super) type Malformed = String;

/// An answer's head as it comes in.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// So many bytes hold no end of a head.
    searched: usize,
}

impl Incoming {
    /// Takes an answer's head off the front of `bytes`; `None`: more has to be read first.
    pub fn take(&mut self, bytes: &mut BytesMut) -> Result<Option<response::Parts>, Malformed> {
        if bytes.is_empty() {
            return Ok(None);
        }
        // What came piece by piece is not parsed with each of them.
        if self.searched > 0 && !ends(&bytes[self.searched.saturating_sub(3)..]) {
            return self.wait(bytes);
        }
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut head,
            bytes,
            &mut fields,
        );
        let length = match parsed.map_err(|error| error.to_string())? {
            httparse::Status::Complete(length) if length <= HEAD_BYTES_MAX => length,
            httparse::Status::Complete(_) => return Err("its head is too large".into()),
            httparse::Status::Partial => return self.wait(bytes),
        };
        self.searched = 0;
        let status = StatusCode::from_u16(head.code.unwrap_or_default());
        let status = status.map_err(|error| error.to_string())?;
        let version = match head.version {
            Some(1) => Version::HTTP_11,
            _ => Version::HTTP_10,
        };
        // Copied in one piece, so that its fields do not hold on to the connection's buffer.
        let copy = Bytes::copy_from_slice(&bytes[..length]);
        let mut headers = HeaderMap::with_capacity(head.headers.len() + SPARE_FIELDS);
        for field in head.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let from = field.value.as_ptr() as usize - bytes.as_ptr() as usize;
            let value = HeaderValue::from_maybe_shared(copy.slice(from..from + field.value.len()));
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err("invalid header".into());
            };
            headers.append(name, value);
        }
        bytes.advance(length);
        let (mut parts, ()) = Response::new(()).into_parts();
        (parts.status, parts.version, parts.headers) = (status, version, headers);
        Ok(Some(parts))
    }

    fn wait<T>(&mut self, bytes: &[u8]) -> Result<Option<T>, Malformed> {
        self.searched = bytes.len();
        match self.searched > HEAD_BYTES_MAX {
            true => Err("its head is too large".into()),
            false => Ok(None),
        }
    }
}

/// Whether there is an empty line among `bytes`, as lenient as the parser is.
fn ends(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes)
        .any(|at| matches!(bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Option<(response::Parts, Vec<u8>)>, Malformed> {
        let (mut incoming, mut bytes) = (Incoming::default(), BytesMut::new());
        let mut head = None;
        for piece in pieces {
            bytes.extend_from_slice(piece);
            if head.is_none() {
                head = incoming.take(&mut bytes)?;
            }
        }
        Ok(head.map(|head| (head, bytes.to_vec())))
    }

    fn written(fields: &[(&'static str, &'static str)], content: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let head = RequestHead {
            method: &Method::GET,
            target: &Uri::from_static("http://a/b?c"),
            fields: &headers,
            interim: None,
            upgrade: false,
        };
        let mut out = Vec::new();
        head.write(content, &mut out);
        // hyper is told the same.
        let length = Some(content.len() as u64);
        let request = head.request((), length);
        let said = request
            .headers()
            .get(CONTENT_LENGTH)
            .map(HeaderValue::as_bytes);
        let text = String::from_utf8(out).unwrap();
        let line = said.map(|said| format!("content-length: {}", said.escape_ascii()));
        let lines = || {
            text.lines()
                .filter(|line| line.starts_with("content-length"))
        };
        assert_eq!(lines().next(), line.as_deref());
        assert!(lines().count() <= 1 && !request.headers().contains_key(TRANSFER_ENCODING));
        text
    }

    #[test]
    fn a_request_promises_no_other_content_than_is_sent() {
        let host = ("host", "a");
        assert_eq!(
            written(&[host], b""),
            "GET /b?c HTTP/1.1\r\nhost: a\r\n\r\n"
        );
        let lying = [host, ("content-length", "5"), ("content-length", "6")];
        let nothing = "GET /b?c HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(written(&lying, b""), nothing);
        let chunked = [host, ("transfer-encoding", "chunked")];
        let three = "GET /b?c HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(written(&chunked, b"abc"), three);
    }

    #[test]
    fn what_was_made_for_a_field_cannot_end_its_line() {
        struct Made;
        impl RequestFields for Made {
            fn each(&self, mut field: impl FnMut(&HeaderName, Value<'_>)) {
                let name = HeaderName::from_static("x");
                field(&name, Value::Made(b"a\r\nb: c"));
                field(&name, Value::Made("\u{fc}\t".as_bytes()));
            }
        }
        let head = RequestHead {
            method: &Method::GET,
            target: &Uri::from_static("/"),
            fields: &Made,
            interim: None,
            upgrade: false,
        };
        let mut out = Vec::new();
        head.write(b"", &mut out);
        assert_eq!(out, "GET / HTTP/1.1\r\nx: \u{fc}\t\r\n\r\n".as_bytes());
        assert_eq!(head.request((), Some(0)).headers().len(), 1);
    }

    #[test]
    fn a_head_is_read_as_leniently_as_hyper_reads_it() {
        let head = |text: &str| take([text.as_bytes()]).unwrap().unwrap().0;
        let plain = head("HTTP/1.1 200 OK\r\nX:  a b \r\nx: \r\n\r\n");
        assert_eq!(
            (plain.status, plain.version),
            (StatusCode::OK, Version::HTTP_11)
        );
        let values: Vec<_> = plain.headers.get_all("x").iter().collect();
        assert_eq!(values, ["a b", ""]);
        assert_eq!(head("HTTP/1.0 404 \n\n").version, Version::HTTP_10);
        assert_eq!(head("HTTP/1.1 299\r\n\r\n").status.as_u16(), 299);
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(FIELDS_MAX));
        assert_eq!(head(&many).headers.len(), FIELDS_MAX);
    }

    #[test]
    fn what_is_no_head_is_told() {
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "X: y\r\n".repeat(FIELDS_MAX + 1)
        );
        for bad in [
            "HTTP/1.2 200 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "<html>not HTTP at all",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: y\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX\r\n\r\n",
            &many,
        ] {
            assert!(take([bad.as_bytes()]).is_err(), "{bad:?}");
        }
        let large = format!(
            "HTTP/1.1 200 OK\r\nX: {}\r\n\r\n",
            "y".repeat(HEAD_BYTES_MAX)
        );
        assert!(take([large.as_bytes()]).is_err());
        assert!(take(large.as_bytes().chunks(8192)).is_err());
    }

    proptest! {
        #[test]
        fn cut_anywhere_it_is_the_same_and_nothing_behind_it_is_touched(
            fields in proptest::collection::vec(("[a-zA-Z-]{1,20}", "[ -~]{0,30}"), 0..20),
            end in "\r?\n",
            behind in proptest::collection::vec(any::<u8>(), 0..40),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let mut stream = format!("HTTP/1.1 200 OK{end}").into_bytes();
            for (name, value) in &fields {
                stream.extend_from_slice(format!("{name}: {value}{end}").as_bytes());
            }
            stream.extend_from_slice(end.as_bytes());
            for cut in 0..stream.len() {
                prop_assert!(take([&stream[..cut]]).unwrap().is_none(), "whole at {}", cut);
            }
            stream.extend_from_slice(&behind);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
            let (head, rest) = take(pieces).unwrap().unwrap();
            prop_assert_eq!(rest, behind);
            prop_assert_eq!(head.headers.len(), fields.len());
            for (name, value) in &fields {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                let mut values = head.headers.get_all(&name).iter();
                prop_assert!(values.any(|one| one == value.trim_matches(' ')));
            }
        }
    }
}
