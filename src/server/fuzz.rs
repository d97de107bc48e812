//! What `tests/fuzz` reaches of the strict looks at requests. Nothing in larder uses it.

use super::{heads, strict};
use http::Request;

/// Whether the head of a request is let in; it is repaired on the way.
pub fn passes<B>(request: &mut Request<B>) -> bool {
    strict::check(request).is_ok()
}

/// Of each of the first `requests` requests of a connection whether its head raises no doubt, when the
/// bytes come in these pieces.
pub fn judged<'a>(pieces: impl Iterator<Item = &'a [u8]>, requests: usize) -> Vec<bool> {
    let (watch, mut heads) = (heads::Watch::default(), heads::Heads::new());
    pieces.for_each(|piece| heads.read(piece, &watch));
    (0..requests).map(|_| watch.judge().is_ok()).collect()
}

/// Where on a connection its heads are seen to begin, and whether each raises no doubt.
pub fn begun(stream: &[u8]) -> Vec<(usize, bool)> {
    let (watch, mut heads) = (heads::Watch::default(), heads::Heads::new());
    let mut starts = Vec::new();
    for at in 0..stream.len() {
        let before = heads.awaited();
        heads.read(&stream[at..=at], &watch);
        let begins = before != heads::Awaited::RestOfHead && before != heads::Awaited::Body;
        if begins && heads.awaited() == heads::Awaited::RestOfHead {
            starts.push(at);
        }
    }
    starts
        .into_iter()
        .map(|at| (at, watch.judge().is_ok()))
        .collect()
}
