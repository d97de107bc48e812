//! The content of a request that its key is made of: read before the store is asked, in bounded room
//! and time, and sent on byte for byte.
//!
//! Waits for the client alone, never for Redis or the app.

use super::Problem;
use crate::route::Content;
use crate::route::plan::CONTENT_BYTES_MAX;
use crate::upstream::{RequestBody, UpstreamError};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;

/// As much of a request's content as was read.
#[derive(Debug)]
pub(super) struct Reading {
    read: Bytes,
    trailers: Option<HeaderMap>,
    /// What is still to come: there is more than a key is made of.
    rest: Option<Incoming>,
}

impl Reading {
    /// Reads to the end, or until it is too much. A client that sends nothing for `patience` is given
    /// up; one that sends too slowly is cut off by its connection.
    pub async fn of(mut body: Incoming, patience: Duration) -> Result<Self, Problem> {
        let broken = || Problem::App(UpstreamError::ClientBody);
        let mut trailers = None;
        // What is announced as too large need not be looked at.
        if body.size_hint().lower() > CONTENT_BYTES_MAX as u64 {
            let (read, rest) = (Bytes::new(), Some(body));
            return Ok(Self {
                read,
                trailers,
                rest,
            });
        }
        let mut read = BytesMut::new();
        while read.len() <= CONTENT_BYTES_MAX {
            let frame = tokio::time::timeout(patience, body.frame()).await;
            let frame = match frame.map_err(|_| broken())? {
                Some(frame) => frame.map_err(|_| broken())?,
                None => {
                    let (read, rest) = (read.freeze(), None);
                    return Ok(Self {
                        read,
                        trailers,
                        rest,
                    });
                }
            };
            match frame.into_data() {
                Ok(data) => read.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Ok(Self {
            read: read.freeze(),
            trailers,
            rest: Some(body),
        })
    }

    /// What planning may know of it.
    pub fn content(&self) -> Content<'_> {
        match self.rest.is_some() || self.trailers.is_some() {
            true => Content::TooLarge,
            false => Content::Whole(&self.read),
        }
    }

    /// All that was read.
    pub fn bytes(&self) -> Bytes {
        self.read.clone()
    }

    /// The whole of it, for the app.
    pub fn into_body(self) -> RequestBody {
        RequestBody::begun(self.read, self.trailers, self.rest)
    }
}
