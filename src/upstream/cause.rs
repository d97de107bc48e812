//! Why the app gave no answer, in words, and how often that is said.
//!
//! Owns the texts of causes and the pause between lines about them; never what a client sees.

use super::UpstreamError;
use http::Method;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One log line per kind of failure in this time.
const NEWS_PAUSE: Duration = Duration::from_secs(10);
/// Bytes of a cause in a line; longer ones are cut.
const CAUSE_BYTES_MAX: usize = 256;

/// A failure with its cause, as people need to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Which failure it is for the client.
    pub error: UpstreamError,
    /// What went wrong; a few words without a full stop, never a secret.
    pub cause: String,
    /// Whether the request may be made once more.
    pub repeat: Repeat,
}

/// Whether a request that a closed connection left unanswered may be made once more, if its method
/// allows it at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It was answered in part, or refused for a reason.
    Never,
    /// Nothing came back: not on a connection that the app has promised to keep.
    Unpromised,
    /// Nothing of it has left.
    Unsent,
}

impl Failure {
    pub(super) fn new(error: UpstreamError, cause: impl Into<String>) -> Self {
        let mut cause = cause.into();
        cause.truncate(cause.floor_char_boundary(CAUSE_BYTES_MAX));
        Self {
            error,
            cause,
            repeat: Repeat::Never,
        }
    }

    /// Whether the request, one with this `method`, may be made once more after it failed on a connection
    /// that had idled, and that the app had `promised` to keep, or not.
    pub(super) fn may_repeat(&self, method: &Method, promised: bool) -> bool {
        let repeat = match self.repeat {
            Repeat::Never => false,
            Repeat::Unpromised => !promised,
            Repeat::Unsent => true,
        };
        repeat && method.is_idempotent()
    }

    /// A TCP or Unix connect that failed.
    pub(super) fn connect(error: &std::io::Error, to: &str) -> Self {
        let cause = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => format!("{to} refused the connection"),
            std::io::ErrorKind::NotFound => format!("{to} does not exist"),
            _ => format!("{to} cannot be reached: {error}"),
        };
        Self::new(UpstreamError::Connect, cause)
    }

    /// A TLS greeting with `host` that failed.
    pub(super) fn tls(error: &std::io::Error, host: &str) -> Self {
        use rustls::CertificateError as Certificate;
        let known = error.get_ref().and_then(|inner| inner.downcast_ref());
        let cause = match known {
            Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
                Certificate::UnknownIssuer => {
                    "its certificate is not from an authority that this system trusts".to_owned()
                }
                Certificate::Expired | Certificate::ExpiredContext { .. } => {
                    "its certificate has expired".to_owned()
                }
                Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                    "its certificate is not valid yet".to_owned()
                }
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                    format!("its certificate is for another name than `{host}`")
                }
                other => format!("its certificate is refused: {other}"),
            },
            _ => format!("TLS with `{host}` failed: {error}"),
        };
        Self::new(UpstreamError::Tls, cause)
    }
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Protocol("unasked-304") => Self::new(
                error,
                "it answered 304 to a request without conditions (unasked-304)",
            ),
            UpstreamError::Protocol(word) => {
                Self::new(error, format!("its answer breaks HTTP ({word})"))
            }
            _ => Self::new(error, error.word()),
        }
    }
}

/// What was said of the app's failures, over all workers.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Whether the last thing said was a failure: one load while all is well.
    failing: AtomicBool,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    last: Option<Failure>,
    /// When each kind was told; there are as many as [`UpstreamError`] has words.
    at: HashMap<&'static str, Instant>,
}

impl News {
    /// Tells a failure of the app, if it is news.
    pub(super) fn failed(&self, failure: &Failure) {
        if failure.error.is_app_failure() && self.is_news(failure, Instant::now()) {
            tracing::warn!(
                "error.type" = failure.error.word(),
                cause = failure.cause,
                "the app gave no usable answer"
            );
        }
    }

    /// The app answered: the next failure is a change.
    pub(super) fn answered(&self) {
        if self.failing.load(Ordering::Relaxed) {
            self.failing.store(false, Ordering::Relaxed);
            self.said().last = None;
        }
    }

    /// Not the same as the last one, and its kind not told a moment ago.
    fn is_news(&self, failure: &Failure, now: Instant) -> bool {
        let kind = failure.error.word();
        let mut said = self.said();
        let recent = |at: &Instant| now.saturating_duration_since(*at) < NEWS_PAUSE;
        if said.last.as_ref() == Some(failure) || said.at.get(kind).is_some_and(recent) {
            return false;
        }
        said.at.insert(kind, now);
        said.last = Some(failure.clone());
        self.failing.store(true, Ordering::Relaxed);
        true
    }

    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::CertificateError;
    use std::io::{Error, ErrorKind};

    #[test]
    fn a_cause_is_told_once_until_it_changes_and_each_kind_once_in_ten_seconds() {
        let news = News::default();
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let refused = Failure::new(UpstreamError::Connect, "refused");
        let unknown = Failure::new(UpstreamError::Connect, "not found");
        let slow = Failure::new(UpstreamError::Timeout, "slow");
        assert!(news.is_news(&refused, at(0)));
        assert!(!news.is_news(&refused, at(60)), "nothing has changed");
        assert!(news.is_news(&slow, at(60)));
        assert!(news.is_news(&unknown, at(61)), "another cause");
        assert!(
            !news.is_news(&refused, at(62)),
            "the kind was told just now"
        );
        assert!(news.is_news(&refused, at(71)), "put off, not lost");
        news.answered();
        assert!(
            !news.is_news(&refused, at(72)),
            "an app that comes and goes"
        );
        assert!(news.is_news(&refused, at(82)), "it had been well between");
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said() {
        for (error, words) in [
            (CertificateError::UnknownIssuer, "authority"),
            (CertificateError::Expired, "expired"),
            (CertificateError::NotValidForName, "another name than `app`"),
        ] {
            let error = rustls::Error::InvalidCertificate(error);
            let error = Error::new(ErrorKind::InvalidData, error);
            let failure = Failure::tls(&error, "app");
            assert!(failure.cause.contains(words), "{failure:?}");
        }
        let refused = Failure::connect(&ErrorKind::ConnectionRefused.into(), "app:3000");
        assert_eq!(refused.cause, "app:3000 refused the connection");
    }
}
