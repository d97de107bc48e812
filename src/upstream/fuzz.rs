//! What `tests/fuzz` reaches of the strict look at answers, and of their reading. Nothing in larder uses
//! it.

use super::check::{self, Content};
use super::chunked::{Chunks, Step};
use super::head::Incoming;
use bytes::BytesMut;
use http::{HeaderMap, Method, Response};

/// The fields of an answer that is let in, repaired; whether it says where it ends, and whether its
/// connection may serve again.
pub fn checked(method: &Method, response: Response<()>) -> Option<(HeaderMap, bool, bool)> {
    let (mut parts, ()) = response.into_parts();
    let framing = check::head(method, false, &mut parts).ok()?;
    let _ = check::keep_alive_hint(&parts.headers);
    Some((
        parts.headers,
        framing.content.is_delimited(),
        framing.reusable,
    ))
}

/// The content of the answer to a GET that comes in these pieces, and how many bytes lie behind it;
/// `None`: it is refused, has not come whole, or ends with the connection.
pub fn answered<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<(Vec<u8>, usize)> {
    let (mut incoming, mut bytes, mut content) = (Incoming::default(), BytesMut::new(), Vec::new());
    let (mut chunks, mut expected, mut ended) = (Chunks::new(), None, false);
    for piece in pieces {
        bytes.extend_from_slice(piece);
        while expected.is_none() {
            let Some(mut head) = incoming.take(&mut bytes).ok()? else {
                break;
            };
            if head.status.is_informational() && head.status != 101 {
                continue;
            }
            expected = Some(check::head(&Method::GET, false, &mut head).ok()?.content);
        }
        while !ended {
            match expected {
                Some(Content::None) => ended = true,
                Some(Content::Rest) => return None,
                Some(Content::Length(length)) => match bytes.get(..usize::try_from(length).ok()?) {
                    Some(whole) => {
                        content.extend_from_slice(whole);
                        bytes = bytes.split_off(whole.len());
                        ended = true;
                    }
                    None => break,
                },
                Some(Content::Chunked) => match chunks.next(&mut bytes).ok()? {
                    Step::Data(piece) => content.extend_from_slice(&piece),
                    Step::Trailers(_) => {}
                    Step::End => ended = true,
                    Step::More => break,
                },
                None => break,
            }
        }
    }
    ended.then(|| (content, bytes.len()))
}
