//! Moves the bytes of one connection: what callers want written, and what comes back to whom it is for.
//!
//! One task a connection. It reads into a buffer that it keeps, and the rest of a long string straight
//! to its place. It knows no command.

use super::Outage;
use super::link::Wire;
use super::resp::{Parser, Reply};
use crate::clock::Alarm;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Bytes read in one turn: whoever waited for them uses them, and gives their room back, before more is
/// read. Without that, large answers to many are all in memory at once, each in pages of its own.
pub const TURN_BYTES_MAX: usize = 256 * 1024;
/// Room for what is read at a time; longer than any line.
const READ_BYTES: usize = 64 * 1024;
/// Behind a string of so many bytes another such is likely: no more than its beginning is read to where
/// it has to be copied from.
const LONG_BYTES_MIN: usize = 64 * 1024;
/// Bytes read to find out what comes behind a long string.
const PEEK_BYTES: usize = 4 * 1024;
/// A buffer of commands larger than this is given back once it is written.
const OUT_BYTES_KEPT: usize = 64 * 1024;

/// Runs until its connection ends.
pub(super) struct Driver<S> {
    stream: S,
    wire: Arc<Wire>,
    parser: Parser,
    /// What came in and is not used yet lies in `used..came`.
    buffer: Box<[u8]>,
    used: usize,
    came: usize,
    /// Whether the last string was a long one.
    long: bool,
    /// What is being written, and how much of it is.
    writing: Vec<u8>,
    written: usize,
    /// Whether something was written that may not have left yet.
    unflushed: bool,
    alarm: Alarm,
    /// Whom to wake; empty between uses.
    wake: Vec<Waker>,
}

impl<S> Driver<S> {
    pub(super) fn new(stream: S, wire: Arc<Wire>) -> Self {
        Self {
            stream,
            wire,
            parser: Parser::default(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            used: 0,
            came: 0,
            long: false,
            writing: Vec::new(),
            written: 0,
            unflushed: false,
            alarm: Alarm::default(),
            wake: Vec::new(),
        }
    }
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.wire.end(Outage::Connection);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        match driver.turn(context) {
            Ok(()) => Poll::Pending,
            Err(outage) => {
                driver.wire.end(outage);
                Poll::Ready(())
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    fn turn(&mut self, context: &mut Context<'_>) -> Result<(), Outage> {
        let written = self.write(context);
        // A server that closes the connection may have said why.
        self.read(context)?;
        written?;
        self.expire(context);
        Ok(())
    }

    fn write(&mut self, context: &mut Context<'_>) -> Result<(), Outage> {
        loop {
            // What could not leave in an earlier turn goes first, and what came meanwhile right behind it.
            let left_over = self.written < self.writing.len();
            self.take_up(context)?;
            while self.written < self.writing.len() {
                let bytes = &self.writing[self.written..];
                match Pin::new(&mut self.stream).poll_write(context, bytes) {
                    Poll::Ready(Ok(count)) if count > 0 => self.written += count,
                    Poll::Ready(_) => return Err(Outage::Connection),
                    Poll::Pending => return Ok(()),
                }
                self.unflushed = true;
            }
            if !left_over {
                break;
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(context)
        {
            flushed.map_err(|_| Outage::Connection)?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Takes up what callers want written, once what was before has left. From now on they wake the driver.
    fn take_up(&mut self, context: &Context<'_>) -> Result<(), Outage> {
        let mut state = self.wire.state();
        if let Some(outage) = state.ended {
            return Err(outage);
        }
        match &mut state.driver {
            Some(waker) => waker.clone_from(context.waker()),
            None => state.driver = Some(context.waker().clone()),
        }
        if self.written == self.writing.len() && !state.out.is_empty() {
            self.writing.clear();
            self.written = 0;
            if self.writing.capacity() > OUT_BYTES_KEPT {
                self.writing = Vec::new();
            }
            std::mem::swap(&mut self.writing, &mut state.out);
            self.wire.has_gathered();
        }
        Ok(())
    }

    fn read(&mut self, context: &mut Context<'_>) -> Result<(), Outage> {
        let mut turn_bytes = 0;
        loop {
            if turn_bytes >= TURN_BYTES_MAX {
                context.waker().wake_by_ref();
                return Ok(());
            }
            match self.poll_read(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(count)) if count > 0 => turn_bytes += count,
                Poll::Ready(_) => return Err(Outage::Connection),
            }
            let handed_out = self.hand_out();
            self.wake.drain(..).for_each(Waker::wake);
            handed_out?;
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(mut room) = self.parser.room() {
            self.long |= room.limit() >= LONG_BYTES_MIN;
            return pin!(self.stream.read_buf(&mut room)).poll(context);
        }
        // What is left is part of a line, if anything.
        self.buffer.copy_within(self.used..self.came, 0);
        self.came -= self.used;
        self.used = 0;
        let end = if self.long {
            (self.came + PEEK_BYTES).min(READ_BYTES)
        } else {
            READ_BYTES
        };
        let mut room = ReadBuf::new(&mut self.buffer[self.came..end]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut room))?;
        let count = room.filled().len();
        self.came += count;
        Poll::Ready(Ok(count))
    }

    /// Gives the replies that are complete to whom they are for.
    fn hand_out(&mut self) -> Result<(), Outage> {
        let now = Instant::now();
        let mut input = &self.buffer[self.used..self.came];
        let mut state = self.wire.state();
        let mut replies = 0;
        let outcome = loop {
            match self.parser.read(&mut input) {
                Ok(None) => break Ok(()),
                Ok(Some(reply)) if state.heard.is_some() => {
                    let heard = state.heard.as_ref().map(|heard| heard.try_send(reply));
                    if heard.is_some_and(|heard| heard.is_err()) {
                        break Err(Outage::Saturated);
                    }
                }
                // Nobody waits for what the server says by itself.
                Ok(Some(Reply::Push(_))) => {}
                Ok(Some(reply)) => {
                    replies += 1;
                    if !state.waiters.answer(reply, now, &mut self.wake) {
                        break Err(Outage::Protocol);
                    }
                }
                Err(_) => break Err(Outage::Protocol),
            }
        };
        self.wire.read(&state, replies, now);
        drop(state);
        self.used = self.came - input.len();
        self.long &= self.parser.room().is_some() || replies > 0 && self.used == self.came;
        outcome
    }

    /// Tells those whose time is over. One timer for all who wait.
    fn expire(&mut self, context: &mut Context<'_>) {
        loop {
            let earliest = self.wire.state().waiters.earliest();
            let Some(earliest) = earliest else { return };
            if self.alarm.poll_over(context, earliest).is_pending() {
                return;
            }
            self.wire.expire(Instant::now(), &mut self.wake);
            self.wake.drain(..).for_each(Waker::wake);
        }
    }
}
