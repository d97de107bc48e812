//! One connection to one Redis server, shared by many callers: commands go out together, replies come
//! back in order.
//!
//! A command is appended to what is to be sent, and the [`driver`](super::driver) is woken once; it runs
//! after all that is ready now, so that the commands of one turn of the runtime leave in one write.
//! There is no task, no channel and no timer a command. Nothing here decides whether Redis is asked,
//! and nothing here is logged.

use super::Outage;
use super::driver::Driver;
use super::resp::Reply;
use super::script::Script;
use super::waiters::{Answer, Place, Waiters};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// While so many bytes wait behind those that are being written, no further command is taken: a
/// connection holds at most twice these and the longest command.
pub const OUT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A connection that more wait on is not preferred for being about to write.
const GATHERED_MAX: usize = 256;

/// A live connection that many callers share; dropped by the last, it closes.
pub struct Link(Arc<Wire>);

impl Link {
    /// Takes a connection over; its driver runs on the current runtime. `changed` is told when it
    /// ends.
    #[must_use]
    pub fn new<S>(stream: S, changed: Arc<Notify>) -> Arc<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let wire = Arc::new(Wire {
            state: Mutex::default(),
            pulse: Pulse::default(),
            epoch: Instant::now(),
            changed,
        });
        tokio::spawn(Driver::new(stream, Arc::clone(&wire)));
        Arc::new(Self(wire))
    }

    /// Sends what `write` appends, to which `replies` will come (at least one). Several are one
    /// answer, an array. Where nothing has come by `until`, that is [`Outage::Timeout`].
    ///
    /// Nothing waits: [`Outage::Saturated`] where too much is under way already, and why the
    /// connection ended where it has. `now` is now.
    pub fn send(
        self: &Arc<Self>,
        replies: u32,
        (now, until): (Instant, Instant),
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Pending, Outage> {
        let wire = &self.0;
        let mut state = wire.state();
        if let Some(outage) = state.ended {
            return Err(outage);
        }
        if state.out.len() >= OUT_BYTES_MAX {
            return Err(Outage::Saturated);
        }
        let place = (state.waiters)
            .enter(replies, until)
            .ok_or(Outage::Saturated)?;
        write(&mut state.out);
        wire.pulse.gathering.store(true, Relaxed);
        wire.set_waiting(&state);
        if state.waiters.waiting() == 1 {
            wire.pulse.busy_since.store(wire.micros(now), Relaxed);
        }
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(Pending {
            link: Arc::clone(self),
            place: Some(place),
        })
    }

    /// One command and its reply within `deadline`.
    pub async fn reply(
        self: &Arc<Self>,
        command: &redis::Cmd,
        deadline: Duration,
    ) -> Result<Reply, Outage> {
        let now = Instant::now();
        let pending = self.send(1, (now, now + deadline), |out| {
            command.write_packed_command(out);
        })?;
        Ok(pending.await?.reply)
    }

    /// Several commands in one write and all their replies within `deadline`; error replies stay in
    /// their places.
    pub async fn commands(
        self: &Arc<Self>,
        pipeline: &redis::Pipeline,
        deadline: Duration,
    ) -> Result<Vec<Reply>, Outage> {
        let now = Instant::now();
        let count = u32::try_from(pipeline.len()).map_err(|_| Outage::Saturated)?;
        let pending = self.send(count, (now, now + deadline), |out| {
            let each = pipeline.cmd_iter();
            each.for_each(|command| command.write_packed_command(out));
        })?;
        Ok(match pending.await?.reply {
            Reply::Array(replies) if count > 1 => replies,
            reply => vec![reply],
        })
    }

    /// A script by its digest within `deadline`, loaded where the server does not have it.
    pub async fn script(
        self: &Arc<Self>,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
        deadline: Duration,
    ) -> Result<Reply, Outage> {
        let now = Instant::now();
        let times = (now, now + deadline);
        let pending = self.send(1, times, |out| script.write_call(out, keys, args))?;
        let reply = pending.await?.reply;
        if !Script::is_missing(&reply) {
            return Ok(reply);
        }
        let pending = self.send(2, times, |out| {
            script.write_load(out);
            script.write_call(out, keys, args);
        })?;
        Ok(Script::called(pending.await?.reply))
    }

    /// From now on all that comes is told here and nowhere else: for a connection that subscribes. Where
    /// so many messages wait that nobody reads, it ends. To be called while nothing is under way.
    #[must_use]
    pub fn listen(&self, messages: usize) -> mpsc::Receiver<Reply> {
        let (heard, hears) = mpsc::channel(messages);
        self.0.state().heard = Some(heard);
        hears
    }

    /// Sends what has no reply of its own, on a connection that listens.
    pub fn say(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Outage> {
        let mut state = self.0.state();
        if let Some(outage) = state.ended {
            return Err(outage);
        }
        write(&mut state.out);
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(())
    }

    /// Commands that wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.pulse.waiting.load(Relaxed)
    }

    /// How long commands have waited without a single byte coming back.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let pulse = &self.0.pulse;
        let since = pulse
            .last_read
            .load(Relaxed)
            .max(pulse.busy_since.load(Relaxed));
        Duration::from_micros(self.0.micros(Instant::now()).saturating_sub(since))
    }

    /// Replies so far.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.0.pulse.answers.load(Relaxed)
    }

    /// Whether another command would leave in the same write as those before it, with not too many.
    #[must_use]
    pub fn is_gathering(&self) -> bool {
        self.0.pulse.gathering.load(Relaxed) && self.waiting() < GATHERED_MAX
    }

    /// Whether it can take no more commands.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.0.pulse.dead.load(Relaxed)
    }

    /// Ends it; whoever waits on it is answered so at once.
    pub fn end(&self, outage: Outage) {
        self.0.end(outage);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.0.end(Outage::Connection);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("dead", &self.is_dead())
            .field("waiting", &self.waiting())
            .finish()
    }
}

/// The reply, or the outage that an error reply is.
pub fn taken(reply: Reply) -> Result<Reply, Outage> {
    match reply {
        Reply::Error(line) => Err(super::outage::of_line(&line)),
        reply => Ok(reply),
    }
}

/// A command under way. Dropped, it leaves the connection in step: its reply is read and thrown away.
#[derive(Debug)]
pub struct Pending {
    link: Arc<Link>,
    /// `None` once it was answered.
    place: Option<Place>,
}

impl Pending {
    /// What it is under way on.
    pub const fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

impl Future for Pending {
    type Output = Result<Answer, Outage>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(place) = self.place else {
            return Poll::Ready(Err(Outage::Connection));
        };
        let answer = self.link.0.state().waiters.poll(place, context);
        if answer.is_ready() {
            self.place = None;
        }
        answer
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let mut state = self.link.0.state();
            state.waiters.leave(place);
            self.link.0.set_waiting(&state);
        }
    }
}

/// What callers and driver share.
#[derive(Debug)]
pub(super) struct Wire {
    state: Mutex<State>,
    pulse: Pulse,
    epoch: Instant,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Who waits for what.
    pub waiters: Waiters,
    /// What is to be written.
    pub out: Vec<u8>,
    /// Wakes the driver; taken by the first who has something for it.
    pub driver: Option<Waker>,
    /// Why the connection takes no more commands.
    pub ended: Option<Outage>,
    /// Who is told all that comes, where nobody waits for a reply: see [`Link::listen`].
    pub heard: Option<mpsc::Sender<Reply>>,
}

/// What is seen of a connection from outside. Written under the lock, read without it.
#[derive(Debug, Default)]
struct Pulse {
    /// Microseconds since the connection began.
    last_read: AtomicU64,
    /// Microseconds since the connection began: when the first of those that wait began to.
    busy_since: AtomicU64,
    waiting: AtomicUsize,
    answers: AtomicU64,
    /// Commands are gathered that leave in one write.
    gathering: AtomicBool,
    dead: AtomicBool,
}

impl Wire {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn micros(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX) / 1_000
    }

    /// What was gathered is about to leave.
    pub(super) fn has_gathered(&self) {
        self.pulse.gathering.store(false, Relaxed);
    }

    fn set_waiting(&self, state: &State) {
        self.pulse.waiting.store(state.waiters.waiting(), Relaxed);
    }

    /// Something came in, and with it so many replies.
    pub(super) fn read(&self, state: &State, replies: u64, now: Instant) {
        let pulse = &self.pulse;
        pulse.last_read.store(self.micros(now), Relaxed);
        let answers = pulse.answers.load(Relaxed);
        pulse.answers.store(answers.wrapping_add(replies), Relaxed);
        self.set_waiting(state);
    }

    /// Tells those whose time is over by `now`.
    pub(super) fn expire(&self, now: Instant, wake: &mut Vec<Waker>) {
        let mut state = self.state();
        state.waiters.expire(now, wake);
        self.set_waiting(&state);
    }

    /// The first reason stays.
    pub(super) fn end(&self, outage: Outage) {
        let mut wake = Vec::new();
        {
            let mut state = self.state();
            if state.ended.is_some() {
                return;
            }
            state.ended = Some(outage);
            state.heard = None;
            state.waiters.end(outage, &mut wake);
            wake.extend(state.driver.take());
            self.pulse.dead.store(true, Relaxed);
            self.set_waiting(&state);
        }
        wake.into_iter().for_each(Waker::wake);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_client::driver::TURN_BYTES_MAX;
    use std::future::poll_fn;
    use std::io;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

    const LONG: Duration = Duration::from_secs(5);

    /// A link, and the server's end of it.
    fn link() -> (Arc<Link>, DuplexStream) {
        let (ours, theirs) = duplex(1 << 20);
        (Link::new(ours, Arc::new(Notify::new())), theirs)
    }

    fn send(link: &Arc<Link>, word: &str, within: Duration) -> Pending {
        let now = Instant::now();
        link.send(1, (now, now + within), |out| {
            out.extend_from_slice(word.as_bytes());
        })
        .unwrap()
    }

    async fn reply(pending: Pending) -> Result<Reply, Outage> {
        pending.await.map(|answer| answer.reply)
    }

    async fn receive(server: &mut DuplexStream) -> String {
        let mut bytes = vec![0; 1 << 16];
        let count = server.read(&mut bytes).await.unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn commands_of_one_turn_leave_in_one_write_and_one_read_answers_them_all() {
        let (link, mut server) = link();
        let callers: Vec<_> = (0..64)
            .map(|n| {
                let link = Arc::clone(&link);
                tokio::spawn(
                    async move { reply(send(&link, "a", LONG)).await == Ok(Reply::Int(n)) },
                )
            })
            .collect();
        assert_eq!(receive(&mut server).await, "a".repeat(64));
        assert_eq!(link.waiting(), 64);
        let replies: String = (0..64).map(|n| format!(":{n}\r\n")).collect();
        server.write_all(replies.as_bytes()).await.unwrap();
        for caller in callers {
            assert!(caller.await.unwrap());
        }
        assert_eq!((link.waiting(), link.answers()), (0, 64));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_or_comes_to_its_deadline_leaves_the_others_in_step() {
        let (link, mut server) = link();
        let dropped = send(&link, "a", LONG);
        let late = send(&link, "b", Duration::from_millis(10));
        let patient = send(&link, "c", LONG);
        assert_eq!(receive(&mut server).await, "abc");
        drop(dropped);
        // Time goes on by itself while nothing else is to be done.
        assert_eq!(reply(late).await, Err(Outage::Timeout));
        assert_eq!(link.waiting(), 1);
        server.write_all(b":1\r\n$1\r\n2\r\n:3\r\n").await.unwrap();
        assert_eq!(reply(patient).await, Ok(Reply::Int(3)));
        let next = send(&link, "d", LONG);
        server.write_all(b":4\r\n").await.unwrap();
        assert_eq!(reply(next).await, Ok(Reply::Int(4)));
        assert!(!link.is_dead());
    }

    #[tokio::test(start_paused = true)]
    async fn errors_stay_in_their_places_and_a_push_in_between_is_nobodys() {
        let (link, mut server) = link();
        let mut pipeline = redis::pipe();
        pipeline.cmd("A").cmd("B").cmd("C");
        let answers = link.commands(&pipeline, LONG);
        let replies = async {
            assert_eq!(receive(&mut server).await.matches('*').count(), 3);
            let replies =
                b">2\r\n+invalidate\r\n$-1\r\n:1\r\n-ERR b\r\n>1\r\n+x\r\n*1\r\n*1\r\n:3\r\n";
            server.write_all(replies).await.unwrap();
        };
        let (answers, ()) = tokio::join!(answers, replies);
        let third = Reply::Array(vec![Reply::Array(vec![Reply::Int(3)])]);
        assert_eq!(
            answers,
            Ok(vec![Reply::Int(1), Reply::Error("ERR b".into()), third])
        );
        let mut alone = redis::pipe();
        let one = link.commands(alone.cmd("A"), LONG);
        server.write_all(b"*1\r\n:1\r\n").await.unwrap();
        let list = Reply::Array(vec![Reply::Int(1)]);
        assert_eq!(one.await, Ok(vec![list]), "a list is one reply");
    }

    #[tokio::test(start_paused = true)]
    async fn garbage_and_replies_that_nobody_asked_for_end_the_link() {
        for (garbage, first) in [
            ("HTTP/1.1 400 Bad Request\r\n\r\n", Err(Outage::Protocol)),
            ("$999999999\r\n", Err(Outage::Protocol)),
            (":1\r\n:2\r\n:3\r\n", Ok(Reply::Int(1))),
        ] {
            let (link, mut server) = link();
            let (one, two) = (send(&link, "a", LONG), send(&link, "b", LONG));
            server.write_all(garbage.as_bytes()).await.unwrap();
            assert_eq!(reply(one).await, first);
            let second = first.map(|_| Reply::Int(2));
            assert_eq!(reply(two).await, second);
            assert!(link.is_dead());
            let now = Instant::now();
            let refused = link.send(1, (now, now + LONG), |_| {});
            assert_eq!(refused.err(), Some(Outage::Protocol));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_ends_tells_everybody_why() {
        let (link, server) = link();
        let closed = send(&link, "a", LONG);
        drop(server);
        assert_eq!(reply(closed).await, Err(Outage::Connection));
        assert!(link.is_dead());
        let (link, mut server) = self::link();
        let stalled = send(&link, "a", LONG);
        link.end(Outage::Stalled);
        link.end(Outage::Connection);
        assert_eq!(reply(stalled).await, Err(Outage::Stalled));
        assert_eq!(receive(&mut server).await, "", "it is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_to_let_go_of_a_link_closes_it() {
        let (link, mut server) = link();
        let pending = send(&link, "a", LONG);
        drop(link);
        server.write_all(b":1\r\n").await.unwrap();
        assert_eq!(reply(pending).await, Ok(Reply::Int(1)));
        assert_eq!(receive(&mut server).await, "a");
        assert_eq!(receive(&mut server).await, "", "it is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_taken_than_may_wait_to_be_written() {
        let (link, _server) = link();
        let now = Instant::now();
        let large = |out: &mut Vec<u8>| out.resize(out.len() + OUT_BYTES_MAX, b'x');
        let _first = link.send(1, (now, now + LONG), large).unwrap();
        let refused = link.send(1, (now, now + LONG), large).err();
        assert_eq!(refused, Some(Outage::Saturated));
        assert!(!link.is_dead());
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_while_the_server_took_no_more_leaves_as_soon_as_it_does() {
        let (ours, mut server) = duplex(1_000);
        let link = Link::new(ours, Arc::new(Notify::new()));
        let _first = send(&link, &"a".repeat(1_500), LONG);
        tokio::task::yield_now().await;
        let _second = send(&link, "b", LONG);
        tokio::task::yield_now().await;
        // It answers nothing yet.
        let mut came = [0; 1_501];
        let reading = tokio::time::timeout(LONG / 2, server.read_exact(&mut came)).await;
        assert!(
            reading.is_ok(),
            "the second waits for the first one's reply"
        );
        assert_eq!(came.last(), Some(&b'b'));
    }

    #[tokio::test(start_paused = true)]
    async fn large_values_among_small_ones_arrive_whole() {
        let (link, mut server) = link();
        let lengths = [10, 300_000, 17_000, 0, 1_000_000, 70_000, 65_536, 5];
        let pending: Vec<_> = lengths.iter().map(|_| send(&link, "a", LONG)).collect();
        let sending = tokio::spawn(async move {
            for length in lengths {
                let head = format!("${length}\r\n");
                let value = vec![length as u8; length];
                let reply = [head.as_bytes(), &value, b"\r\n"].concat();
                for piece in reply.chunks(40_000) {
                    server.write_all(piece).await.unwrap();
                }
            }
            server
        });
        for (pending, length) in pending.into_iter().zip(lengths) {
            let Ok(Reply::Bulk(value)) = reply(pending).await else {
                panic!("a string");
            };
            assert_eq!(value, vec![length as u8; length]);
        }
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn a_long_answer_is_read_in_turns() {
        /// Sends without end, and never takes anything.
        struct Endless(Arc<AtomicUsize>);
        impl AsyncRead for Endless {
            fn poll_read(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let before = buffer.remaining();
                while buffer.remaining() > 0 {
                    let reply = b">1\r\n+x\r\n";
                    let at = self.0.load(Relaxed) % reply.len();
                    let count = buffer.remaining().min(reply.len() - at);
                    buffer.put_slice(&reply[at..at + count]);
                    self.0.fetch_add(count, Relaxed);
                }
                assert!(before > 0);
                Poll::Ready(Ok(()))
            }
        }
        impl AsyncWrite for Endless {
            fn poll_write(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &[u8],
            ) -> Poll<io::Result<usize>> {
                Poll::Pending
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        let came = Arc::new(AtomicUsize::new(0));
        let _link = Link::new(Endless(Arc::clone(&came)), Arc::new(Notify::new()));
        // A task that takes its turn between those of the driver.
        let mut turns = Vec::new();
        let watching = tokio::spawn(poll_fn(move |context| {
            turns.push(came.load(Relaxed));
            if turns.len() > 4 {
                return Poll::Ready(std::mem::take(&mut turns));
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        for turn in watching.await.unwrap().windows(2) {
            // Woken by itself, or the next turn never comes.
            let came = turn[1] - turn[0];
            assert!(
                (TURN_BYTES_MAX..2 * TURN_BYTES_MAX).contains(&came),
                "{came}"
            );
        }
    }
}
