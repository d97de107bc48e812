//! What is asked: a request, who sends it, and what the app might say to it.
//!
//! One text form for the command line and the admin API: the query of `/v1/explain`.

use crate::identity::User;
use crate::route::target::decode_form;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use std::net::IpAddr;

/// Members of a question's query.
const PARTS_MAX: usize = 128;
/// Bytes of the URL that is asked about.
const URL_BYTES_MAX: usize = 8 * 1024;

/// A request that is asked about.
#[derive(Clone, Debug)]
pub struct Question {
    /// Its method.
    pub method: Method,
    /// Its URL, whole or from the path on.
    pub url: Uri,
    /// Its fields.
    pub headers: HeaderMap,
    /// Who sends it.
    pub sender: Sender,
    /// What the app would answer, where that is asked about too.
    pub answer: Option<AppAnswer>,
}

/// An answer of the app that is made up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
}

/// Who is supposed to send a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// A verified user of this id; none: whoever the fields say.
    pub user: Option<String>,
    /// The user's roles.
    pub roles: Vec<String>,
    /// The address that connects; none: 127.0.0.1.
    pub ip: Option<IpAddr>,
}

/// Why a text is no question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclear {
    /// A word for machines.
    pub code: &'static str,
    /// What is wrong.
    pub detail: String,
    /// What to write.
    pub fix: &'static str,
}

impl Unclear {
    fn new(code: &'static str, detail: impl Into<String>, fix: &'static str) -> Self {
        Self {
            code,
            detail: detail.into(),
            fix,
        }
    }
}

impl Question {
    /// Reads `url=…&method=…&as=…&header=Name: value&response=Name: value&status=200`, percent-encoded;
    /// `as`, `header` and `response` as often as needed.
    pub fn parse(query: &str) -> Result<Self, Unclear> {
        let parts: Vec<&str> = query.split('&').filter(|part| !part.is_empty()).collect();
        if parts.len() > PARTS_MAX {
            return Err(Unclear::new(
                "how-many",
                format!("A question has at most {PARTS_MAX} parameters."),
                "Leave out the fields that do not matter.",
            ));
        }
        let mut url = String::new();
        let mut question = Self {
            method: Method::GET,
            url: Uri::default(),
            headers: HeaderMap::new(),
            sender: Sender::default(),
            answer: None,
        };
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = decode_form(value);
            match name {
                "url" => url = value.into_owned(),
                "method" => {
                    question.method = Method::from_bytes(value.as_bytes()).map_err(|_| {
                        Unclear::new("bad-method", "`method` is not a method.", "Write GET.")
                    })?;
                }
                "as" if !question.sender.add(&value) => {
                    return Err(Unclear::new(
                        "bad-as",
                        "`as` names nobody.",
                        "Write user:u1, role:admin or ip:203.0.113.9.",
                    ));
                }
                "as" => {}
                "header" => {
                    let fix = "Write Accept-Language: de.";
                    let (name, value) = field("header", &value, fix)?;
                    question.headers.append(name, value);
                }
                "response" => {
                    let fix = "Write Cache-Control: max-age=60.";
                    let (name, value) = field("response", &value, fix)?;
                    let answer = question.answer.get_or_insert_default();
                    answer.headers.append(name, value);
                }
                "status" => {
                    question.answer.get_or_insert_default().status =
                        value.parse().map_err(|_| {
                            Unclear::new("bad-status", "`status` is not a status.", "Write 200.")
                        })?;
                }
                _ => {
                    return Err(Unclear::new(
                        "unknown-parameter",
                        "A question has url, method, as, header, response and status.",
                        "Encode & in the URL as %26.",
                    ));
                }
            }
        }
        let bare = url.split('#').next().unwrap_or_default();
        let fits = bare.len() <= URL_BYTES_MAX
            && ["/", "http://", "https://"]
                .iter()
                .any(|start| bare.starts_with(start));
        match bare.parse() {
            Ok(url) if fits => Ok(Self { url, ..question }),
            _ => Err(Unclear::new(
                "bad-url",
                format!(
                    "`url` is a path or a URL of at most {URL_BYTES_MAX} bytes, without blanks."
                ),
                "Write /api/fleet?page=2, or https://shop.example/api/fleet?page=2 for one host.",
            )),
        }
    }
}

fn field(what: &str, text: &str, fix: &'static str) -> Result<(HeaderName, HeaderValue), Unclear> {
    let read = || {
        let (name, value) = text.split_once(':')?;
        let name = HeaderName::try_from(name.trim()).ok()?;
        Some((name, HeaderValue::try_from(value.trim()).ok()?))
    };
    read().ok_or_else(|| Unclear::new("bad-header", format!("`{what}` is not a field."), fix))
}

impl Sender {
    /// Adds `user:ID`, `role:ROLE` (of an unnamed user, unless one is named) or `ip:ADDRESS`.
    /// Returns whether `text` is one of these.
    pub fn add(&mut self, text: &str) -> bool {
        match text.split_once(':') {
            Some(("user", id)) if !id.is_empty() => self.user = Some(id.to_owned()),
            Some(("role", role)) if !role.is_empty() => self.roles.push(role.to_owned()),
            Some(("ip", address)) => match address.parse() {
                Ok(address) => self.ip = Some(address),
                Err(_) => return false,
            },
            _ => return false,
        }
        true
    }

    pub(super) fn user(&self) -> Option<User> {
        (self.user.is_some() || !self.roles.is_empty()).then(|| User {
            id: self.user.as_deref().unwrap_or("somebody").into(),
            roles: self.roles.as_slice().into(),
        })
    }
}
