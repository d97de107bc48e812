//! Who waits for which reply of one connection: replies come in the order of the commands.
//!
//! Whoever gives up leaves the line in step: the reply is still expected, and nobody gets it. It owns
//! no socket and no clock, and wakes nobody by itself: it hands out whom to wake.

use super::Outage;
use super::resp::Reply;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use tokio::time::Instant;

/// Commands (pipelines counted as one) that may be under way on one connection at a time, those that
/// nobody waits for any more included.
pub const WAITING_MAX: usize = 1_024;

/// Nobody's place.
const NOBODY: u32 = u32::MAX;

/// What came of a command.
#[derive(Debug)]
pub struct Answer {
    /// The reply; a pipeline's are in an array.
    pub reply: Reply,
    /// When it came in.
    pub at: Instant,
}

/// A place to wait at, to be given back by [`Waiters::leave`] or by taking what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

/// The line of those who wait.
#[derive(Debug, Default)]
pub struct Waiters {
    places: Vec<At>,
    free: Vec<u32>,
    /// In the order of the commands.
    expected: VecDeque<Expected>,
    /// Number of the first in `expected` since the connection began.
    first: u64,
    /// Replies of the first in `expected` so far, where more than one is.
    replies: Vec<Reply>,
    waiting: usize,
    /// Nobody who waits has to be told before this that it took too long.
    earliest: Option<Instant>,
}

/// What is at a place.
#[derive(Debug)]
enum At {
    Free,
    Waiting {
        waker: Option<Waker>,
        until: Instant,
        number: u64,
    },
    Answered(Answer),
    Failed(Outage),
}

/// Replies that will come.
#[derive(Debug)]
struct Expected {
    place: u32,
    missing: u32,
}

impl Waiters {
    /// Expects `replies` (at least one) to a command that is sent now; `None` where too many are.
    pub fn enter(&mut self, replies: u32, until: Instant) -> Option<Place> {
        if self.expected.len() >= WAITING_MAX || self.places.len() - self.free.len() >= WAITING_MAX
        {
            return None;
        }
        let waiting = At::Waiting {
            waker: None,
            until,
            number: self.first + self.expected.len() as u64,
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = waiting;
                place
            }
            None => {
                self.places.push(waiting);
                (self.places.len() - 1) as u32
            }
        };
        self.expected.push_back(Expected {
            place,
            missing: replies.max(1),
        });
        self.waiting += 1;
        if self.earliest.is_none_or(|earliest| until < earliest) {
            self.earliest = Some(until);
        }
        Some(Place(place))
    }

    /// How many wait.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// When to look for those whose time is over; never later than the first of them.
    pub const fn earliest(&self) -> Option<Instant> {
        self.earliest
    }

    /// What came of the command; where nothing has, who asks is woken when something does.
    pub fn poll(
        &mut self,
        Place(place): Place,
        context: &Context<'_>,
    ) -> Poll<Result<Answer, Outage>> {
        let at = &mut self.places[place as usize];
        if let At::Waiting { waker, .. } = at {
            match waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        let at = std::mem::replace(at, At::Free);
        self.free.push(place);
        Poll::Ready(match at {
            At::Answered(answer) => Ok(answer),
            At::Failed(outage) => Err(outage),
            // Nobody asks twice.
            At::Free | At::Waiting { .. } => Err(Outage::Connection),
        })
    }

    /// Whoever waited there does not any more: the reply will be nobody's.
    pub fn leave(&mut self, Place(place): Place) {
        let at = std::mem::replace(&mut self.places[place as usize], At::Free);
        self.free.push(place);
        if let At::Waiting { number, .. } = at {
            self.give_up(number);
        }
    }

    /// The next reply has come. `false` where none was expected: the two sides are out of step.
    #[must_use]
    pub fn answer(&mut self, reply: Reply, at: Instant, wake: &mut Vec<Waker>) -> bool {
        let Some(expected) = self.expected.front_mut() else {
            return false;
        };
        let alone = expected.missing == 1 && self.replies.is_empty();
        expected.missing -= 1;
        if !alone {
            self.replies.push(reply);
            if expected.missing > 0 {
                return true;
            }
            let replies = std::mem::take(&mut self.replies);
            return self.finish(Reply::Array(replies), at, wake);
        }
        self.finish(reply, at, wake)
    }

    fn finish(&mut self, reply: Reply, at: Instant, wake: &mut Vec<Waker>) -> bool {
        let Some(expected) = self.expected.pop_front() else {
            return false;
        };
        self.first += 1;
        if let Some(place) = self.places.get_mut(expected.place as usize) {
            let answered = At::Answered(Answer { reply, at });
            if let At::Waiting {
                waker: Some(waker), ..
            } = std::mem::replace(place, answered)
            {
                wake.push(waker);
            }
            self.waiting -= 1;
        }
        true
    }

    /// Those whose time is over by `now` are told so; their replies will be nobody's.
    pub fn expire(&mut self, now: Instant, wake: &mut Vec<Waker>) {
        self.fail(Outage::Timeout, wake, |until| until <= now);
        let still = self.expected.iter().filter_map(|expected| {
            match self.places.get(expected.place as usize) {
                Some(At::Waiting { until, .. }) => Some(*until),
                _ => None,
            }
        });
        self.earliest = still.min();
    }

    /// The connection has ended: everybody who waits is told why.
    pub fn end(&mut self, outage: Outage, wake: &mut Vec<Waker>) {
        self.fail(outage, wake, |_| true);
        self.earliest = None;
    }

    fn fail(&mut self, outage: Outage, wake: &mut Vec<Waker>, whom: impl Fn(Instant) -> bool) {
        for expected in &mut self.expected {
            let Some(at) = self.places.get_mut(expected.place as usize) else {
                continue;
            };
            if let At::Waiting { waker, until, .. } = at
                && whom(*until)
            {
                wake.extend(waker.take());
                *at = At::Failed(outage);
                expected.place = NOBODY;
                self.waiting -= 1;
            }
        }
    }

    fn give_up(&mut self, number: u64) {
        let index = number.saturating_sub(self.first) as usize;
        if let Some(expected) = self.expected.get_mut(index) {
            expected.place = NOBODY;
            self.waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn poll(waiters: &mut Waiters, place: Place) -> Poll<Result<Reply, Outage>> {
        let polled = waiters.poll(place, &Context::from_waker(Waker::noop()));
        polled.map(|answer| answer.map(|answer| answer.reply))
    }

    fn answered(waiters: &mut Waiters, number: i64) -> usize {
        let mut wake = Vec::new();
        assert!(waiters.answer(Reply::Int(number), Instant::now(), &mut wake));
        wake.len()
    }

    #[tokio::test(start_paused = true)]
    async fn replies_go_to_those_who_asked_in_their_order() {
        let mut waiters = Waiters::default();
        let until = Instant::now() + Duration::from_secs(1);
        let one = waiters.enter(1, until).unwrap();
        let two = waiters.enter(2, until).unwrap();
        assert!(poll(&mut waiters, one).is_pending());
        assert!(poll(&mut waiters, two).is_pending());
        assert_eq!(answered(&mut waiters, 1), 1);
        assert_eq!(answered(&mut waiters, 2), 0);
        assert!(poll(&mut waiters, two).is_pending());
        assert_eq!(answered(&mut waiters, 3), 1);
        let both = Reply::Array(vec![Reply::Int(2), Reply::Int(3)]);
        assert_eq!(poll(&mut waiters, two), Poll::Ready(Ok(both)));
        assert_eq!(poll(&mut waiters, one), Poll::Ready(Ok(Reply::Int(1))));
        assert_eq!(waiters.waiting(), 0);
        let unasked = waiters.answer(Reply::Nil, until, &mut Vec::new());
        assert!(!unasked, "nobody expects it");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_leaves_the_line_in_step() {
        let mut waiters = Waiters::default();
        let until = Instant::now() + Duration::from_secs(1);
        let places: Vec<_> = (0..4)
            .map(|n| waiters.enter(n + 1, until).unwrap())
            .collect();
        waiters.leave(places[1]);
        waiters.leave(places[3]);
        assert_eq!(waiters.waiting(), 2);
        for number in 0..10 {
            assert_eq!(answered(&mut waiters, number), 0);
        }
        assert_eq!(
            poll(&mut waiters, places[0]),
            Poll::Ready(Ok(Reply::Int(0)))
        );
        let third = Reply::Array(vec![Reply::Int(3), Reply::Int(4), Reply::Int(5)]);
        assert_eq!(poll(&mut waiters, places[2]), Poll::Ready(Ok(third)));
        assert!(waiters.enter(1, until).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn those_whose_time_is_over_are_told_and_the_others_go_on_waiting() {
        let mut waiters = Waiters::default();
        let now = Instant::now();
        let late = waiters.enter(1, now + Duration::from_secs(2)).unwrap();
        let soon = waiters.enter(1, now + Duration::from_secs(1)).unwrap();
        assert_eq!(waiters.earliest(), Some(now + Duration::from_secs(1)));
        waiters.expire(now + Duration::from_secs(1), &mut Vec::new());
        assert_eq!(poll(&mut waiters, soon), Poll::Ready(Err(Outage::Timeout)));
        assert_eq!(waiters.earliest(), Some(now + Duration::from_secs(2)));
        assert_eq!(answered(&mut waiters, 1), 0);
        assert_eq!(answered(&mut waiters, 2), 0);
        assert_eq!(poll(&mut waiters, late), Poll::Ready(Ok(Reply::Int(1))));
        waiters.expire(now + Duration::from_secs(3), &mut Vec::new());
        assert_eq!(waiters.earliest(), None);
        let last = waiters.enter(1, now).unwrap();
        waiters.end(Outage::Stalled, &mut Vec::new());
        assert_eq!(poll(&mut waiters, last), Poll::Ready(Err(Outage::Stalled)));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_wait_and_no_more_whether_somebody_still_waits_for_it_or_not() {
        let mut waiters = Waiters::default();
        let until = Instant::now();
        for _ in 0..WAITING_MAX {
            let place = waiters.enter(1, until).unwrap();
            waiters.leave(place);
        }
        assert_eq!(waiters.enter(1, until), None);
        answered(&mut waiters, 1);
        let place = waiters.enter(1, until).unwrap();
        (0..WAITING_MAX).for_each(|_| assert_eq!(answered(&mut waiters, 1), 0));
        // Answered, but not fetched: the place is still taken.
        assert_eq!(waiters.places.len() - waiters.free.len(), 1);
        assert!(poll(&mut waiters, place).is_ready());
    }
}
