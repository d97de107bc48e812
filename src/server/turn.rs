//! Whose turn it is on a client's HTTP/1 connection: what can be known, below hyper, of where hyper is
//! between reading a request and having sent its answer.
//!
//! Three have a part in it. The service knows when a request is asked and answered; the answer's
//! content is let go when hyper has written the last of it, if only into its buffer; and hyper flushes
//! the stream exactly when that buffer is empty, so that a flush that came to its end means that
//! nothing is left of what it wrote. All of them run in the connection's one task.
//!
//! It never looks at a byte. What the client has sent is [`super::heads`]'s to know. It says nothing of
//! HTTP/2, where many requests are answered at a time.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Waits for a head.
const LISTENING: u8 = 0;
/// Has a request, and no answer yet.
const ANSWERING: u8 = 1;
/// Has the answer, and not yet its end.
const SENDING: u8 = 2;

/// Where hyper is with one connection.
#[derive(Debug, Default)]
pub(super) struct Turn {
    phase: AtomicU8,
    /// hyper may hold bytes that the stream has not seen, or the stream some that it could not pass on.
    unflushed: AtomicBool,
}

impl Turn {
    /// hyper has handed a request over.
    pub(super) fn asked(&self) {
        self.phase.store(ANSWERING, Ordering::Relaxed);
    }

    /// hyper gets the answer: from now on it may write at any time.
    pub(super) fn answered(&self) {
        self.unflushed.store(true, Ordering::Relaxed);
        self.phase.store(SENDING, Ordering::Relaxed);
    }

    /// hyper has let go of the answer's content.
    pub(super) fn sent(&self) {
        let only = Ordering::Relaxed;
        let _ = self.phase.compare_exchange(SENDING, LISTENING, only, only);
    }

    /// hyper writes.
    pub(super) fn writes(&self) {
        self.unflushed.store(true, Ordering::Relaxed);
    }

    /// A flush has come to its end.
    pub(super) fn flushed(&self) {
        self.unflushed.store(false, Ordering::Relaxed);
    }

    /// A request is being answered, not a byte of the answer exists, and all before it has left: what
    /// is written to the stream now stands between two messages.
    pub(super) fn is_before_answer(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == ANSWERING && self.is_flushed()
    }

    /// The last answer has left, and no request is under way that hyper has handed over. Requests that
    /// hyper has read and not handed over yet are not known here.
    #[cfg_attr(not(test), expect(dead_code, reason = "for answers given below hyper"))]
    pub(super) fn is_between_messages(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == LISTENING && self.is_flushed()
    }

    fn is_flushed(&self) -> bool {
        !self.unflushed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a byte of ours may be written (before the answer, between messages).
    fn ours(turn: &Turn) -> (bool, bool) {
        (turn.is_before_answer(), turn.is_between_messages())
    }

    const NOBODY: (bool, bool) = (false, false);
    const BEFORE_ANSWER: (bool, bool) = (true, false);
    const BETWEEN: (bool, bool) = (false, true);

    #[test]
    fn a_request_after_another() {
        let turn = Turn::default();
        for _ in 0..2 {
            assert_eq!(ours(&turn), BETWEEN);
            turn.asked();
            assert_eq!(ours(&turn), BEFORE_ANSWER);
            turn.answered();
            assert_eq!(ours(&turn), NOBODY, "hyper has a head to write");
            turn.writes();
            turn.flushed();
            assert_eq!(ours(&turn), NOBODY, "there is more to come");
            turn.writes();
            turn.sent();
            assert_eq!(ours(&turn), NOBODY, "the end is not out");
            turn.flushed();
        }
    }

    #[test]
    fn an_answer_without_content_is_let_go_before_it_is_written() {
        let turn = Turn::default();
        turn.asked();
        turn.answered();
        turn.sent();
        assert_eq!(ours(&turn), NOBODY);
        turn.writes();
        assert_eq!(ours(&turn), NOBODY);
        turn.flushed();
        assert_eq!(ours(&turn), BETWEEN);
    }

    #[test]
    fn a_pipelined_request_is_asked_while_the_answer_before_it_is_still_in_the_buffer() {
        let turn = Turn::default();
        turn.asked();
        turn.answered();
        turn.writes();
        turn.sent();
        turn.asked();
        assert_eq!(ours(&turn), NOBODY);
        turn.writes();
        assert_eq!(ours(&turn), NOBODY, "the rest of the answer before");
        turn.flushed();
        assert_eq!(ours(&turn), BEFORE_ANSWER);
    }

    #[test]
    fn what_hyper_says_by_itself_goes_first() {
        let turn = Turn::default();
        turn.asked();
        turn.writes();
        assert_eq!(ours(&turn), NOBODY, "a 100 is on its way");
        turn.flushed();
        assert_eq!(ours(&turn), BEFORE_ANSWER);
    }

    #[test]
    fn content_that_is_let_go_late_ends_nothing_else() {
        let turn = Turn::default();
        turn.asked();
        turn.sent();
        assert_eq!(ours(&turn), BEFORE_ANSWER);
    }
}
