//! What is to be warmed, in which order and how fast. Pure: `now` comes in, the next step goes out.
//!
//! All jobs share one budget: together they never have more pages under way, and never begin them faster,
//! than the one among them that may do most.

use super::brake::{Brake, TRICKLE_PAUSE};
use super::{Page, Warmed};
use crate::semantics::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// Jobs that are remembered, ended ones included.
pub const JOBS_MAX: usize = 64;
/// Pages that may wait, over all jobs.
pub const PAGES_MAX: usize = 100_000;
/// Pages of a job of which it is told one by one what became of them; the last so many.
pub const LINES_MAX: usize = 1_000;
/// Reasons that are counted apart, of a job; all others are one.
const REASONS_MAX: usize = 32;
/// Problems that are told, of a job.
const PROBLEMS_MAX: usize = 16;

/// Between two looks at how the app does.
pub const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How fast pages may be warmed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Pages under way at a time.
    pub concurrency: u32,
    /// Pages begun in a second.
    pub rate: f64,
}

impl Pace {
    /// Where nothing is said: four at a time, fifty a second.
    pub const DEFAULT: Self = Self {
        concurrency: 4,
        rate: 50.0,
    };

    fn pause(self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate.max(0.001))
    }
}

/// What a job is for; the first here come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// What was purged and is much asked for.
    Purge,
    /// Somebody asked for it at the admin port.
    Asked,
    /// A list of the configuration.
    List,
    /// A stored answer named it in `Link`.
    Link,
    /// It is likely to be asked for next.
    Predicted,
}

impl Cause {
    /// Whether there is one such job at all times, to which pages are added.
    const fn is_standing(self) -> bool {
        matches!(self, Self::Purge | Self::Link | Self::Predicted)
    }
}

/// What became of one page.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Its number within the job, from 1.
    pub number: u64,
    /// The page.
    pub url: String,
    /// [`Warmed::word`].
    pub outcome: &'static str,
    /// Why it is not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
    /// Seconds that it is fresh yet, where it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fresh_seconds: Option<u64>,
    /// Milliseconds that it took.
    pub took_ms: u64,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Progress {
    /// Its number.
    pub job: u64,
    /// What it is for.
    pub cause: Cause,
    /// Its name: what it warms.
    pub name: String,
    /// `running`, or `done`.
    pub state: &'static str,
    /// Pages in all, so far.
    pub pages: u64,
    /// Of them, done.
    pub done: u64,
    /// Fetched and stored.
    pub stored: u64,
    /// Fresh already.
    pub fresh: u64,
    /// Not stored, by reason.
    pub not_stored: BTreeMap<&'static str, u64>,
    /// Without an answer, by what failed.
    pub failed: BTreeMap<&'static str, u64>,
    /// What could not be read of the names of its pages, and why; the first so many.
    pub problems: Vec<String>,
    /// Pages for which there was no room, or that were given up.
    pub dropped: u64,
    /// Pages begun in a second at most.
    pub rate: f64,
    /// Pages done in a second, from its beginning to its end, or so far.
    pub achieved_rate: f64,
    /// Pages under way at a time at most.
    pub concurrency: u32,
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
}

#[derive(Debug)]
struct Job {
    progress: Progress,
    pace: Pace,
    waiting: VecDeque<Page>,
    running: u32,
    next: Option<Instant>,
    lines: VecDeque<Line>,
    /// Pages may still be added.
    open: bool,
    began: Instant,
}

impl Job {
    fn is_over(&self) -> bool {
        !self.open && self.waiting.is_empty() && self.running == 0
    }

    fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.running > 0
    }
}

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Warm this page of that job.
    Begin(u64, Page),
    /// Nothing before this moment, unless something is told.
    Until(Instant),
    /// Nothing until something is told.
    Rest,
}

/// All jobs.
#[derive(Debug, Default)]
pub struct Queue {
    jobs: BTreeMap<u64, Job>,
    last: u64,
    waiting: usize,
    running: u32,
    next: Option<Instant>,
    /// When the last page began.
    begun: Option<Instant>,
    /// What standing jobs have waiting, so that it waits once.
    known: HashSet<(bool, std::sync::Arc<str>, http::uri::PathAndQuery)>,
}

impl Queue {
    /// A new job without pages; or, for causes of which there is one job at all times, that. Gives its
    /// number.
    pub fn open(
        &mut self,
        cause: Cause,
        name: String,
        pace: Pace,
        (now, moment): (Timestamp, Instant),
    ) -> u64 {
        if cause.is_standing()
            && let Some((id, job)) =
                (self.jobs.iter_mut()).find(|(_, job)| job.progress.cause == cause)
        {
            job.pace = pace;
            (job.progress.rate, job.progress.concurrency) = (pace.rate, pace.concurrency);
            return *id;
        }
        self.last += 1;
        let progress = Progress {
            job: self.last,
            cause,
            name,
            state: "running",
            pages: 0,
            done: 0,
            stored: 0,
            fresh: 0,
            not_stored: BTreeMap::new(),
            failed: BTreeMap::new(),
            problems: Vec::new(),
            dropped: 0,
            rate: pace.rate,
            achieved_rate: 0.0,
            concurrency: pace.concurrency,
            began_ms: now.as_millis(),
            ended_ms: None,
        };
        let job = Job {
            progress,
            pace,
            waiting: VecDeque::new(),
            running: 0,
            next: None,
            lines: VecDeque::new(),
            open: true,
            began: moment,
        };
        self.jobs.insert(self.last, job);
        while self.jobs.len() > JOBS_MAX {
            let over = self.jobs.iter().find(|(_, job)| job.is_over());
            // Were none over, the oldest would go all the same: what it has waiting goes with it.
            let Some(id) = over.or_else(|| self.jobs.iter().next()).map(|(id, _)| *id) else {
                break;
            };
            self.drop_job(id);
        }
        self.last
    }

    /// Adds pages to a job; those that find no room are counted as dropped. Gives whether there would be
    /// room for more.
    pub fn add(&mut self, id: u64, pages: impl IntoIterator<Item = Page>) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else {
            return false;
        };
        let standing = job.progress.cause.is_standing();
        for page in pages {
            if standing && !(self.known).insert((page.tls, page.host.clone(), page.target.clone()))
            {
                continue;
            }
            if self.waiting >= PAGES_MAX || !job.open {
                job.progress.dropped += 1;
                continue;
            }
            self.waiting += 1;
            job.progress.pages += 1;
            job.waiting.push_back(page);
        }
        self.waiting < PAGES_MAX && job.open
    }

    /// Something that names pages of a job could not be read.
    pub fn problem(&mut self, id: u64, problem: String) {
        if let Some(job) = self.jobs.get_mut(&id) {
            let problems = &mut job.progress.problems;
            if problems.len() < PROBLEMS_MAX {
                problems.push(problem);
            }
        }
    }

    /// No more pages will be added.
    pub fn close(&mut self, id: u64, now: Timestamp) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.open = false;
            end(job, now);
        }
    }

    /// What a job has waiting is not warmed any more.
    pub fn give_up(&mut self, id: u64, now: Timestamp) {
        if let Some(job) = self.jobs.get_mut(&id) {
            self.waiting -= job.waiting.len();
            job.progress.dropped += job.waiting.len() as u64;
            job.waiting.clear();
            job.open = false;
            end(job, now);
        }
    }

    /// Whether this job still has anything to do. One that is not known any more has not.
    #[must_use]
    pub fn is_busy(&self, id: u64) -> bool {
        self.jobs.get(&id).is_some_and(|job| !job.is_over())
    }

    /// What to do next, as far as `brake` lets it.
    pub fn next(&mut self, brake: Brake, now: Instant) -> Step {
        if self.waiting == 0 {
            return Step::Rest;
        }
        let pace = self.pace();
        let (at_a_time, earliest) = match brake {
            Brake::Off(most) => (pace.concurrency.min(most.max(1)), self.next),
            Brake::Slow(_) => (1, self.begun.map(|begun| begun + TRICKLE_PAUSE)),
            Brake::Stop(_) => return Step::Until(now + LOOK_AGAIN),
        };
        if self.running >= at_a_time {
            return Step::Rest;
        }
        if let Some(next) = earliest.filter(|next| *next > now) {
            return Step::Until(next.min(now + LOOK_AGAIN));
        }
        let mut soonest: Option<Instant> = None;
        let mut order: Vec<(Cause, u64)> = (self.jobs.iter())
            .filter(|(_, job)| !job.waiting.is_empty() && job.running < job.pace.concurrency)
            .map(|(id, job)| (job.progress.cause, *id))
            .collect();
        order.sort_unstable();
        for (_, id) in order {
            let Some(job) = self.jobs.get_mut(&id) else {
                continue;
            };
            if let Some(next) = job.next.filter(|next| *next > now) {
                soonest = Some(soonest.map_or(next, |soonest| soonest.min(next)));
                continue;
            }
            let Some(page) = job.waiting.pop_front() else {
                continue;
            };
            if job.progress.cause.is_standing() {
                self.known
                    .remove(&(page.tls, page.host.clone(), page.target.clone()));
            }
            job.running += 1;
            job.next = Some(paced(job.next, now, job.pace.pause()));
            self.running += 1;
            self.waiting -= 1;
            self.next = Some(paced(self.next, now, pace.pause()));
            self.begun = Some(now);
            return Step::Begin(id, page);
        }
        soonest.map_or(Step::Rest, Step::Until)
    }

    /// A page that was begun is done. Gives what it was for.
    pub fn done(
        &mut self,
        id: u64,
        page: &Page,
        warmed: Warmed,
        took: Duration,
        (now, moment): (Timestamp, Instant),
    ) -> Option<Cause> {
        self.running = self.running.saturating_sub(1);
        let job = self.jobs.get_mut(&id)?;
        job.running = job.running.saturating_sub(1);
        let progress = &mut job.progress;
        progress.done += 1;
        let seconds = moment.duration_since(job.began).as_secs_f64();
        progress.achieved_rate = progress.done as f64 / seconds.max(1e-3);
        let mut fresh_seconds = None;
        match warmed {
            Warmed::Fresh(left) => {
                progress.fresh += 1;
                fresh_seconds = Some(left.as_secs());
            }
            Warmed::Stored(left) => {
                progress.stored += 1;
                fresh_seconds = Some(left.as_secs());
            }
            Warmed::NotStored(reason) => count(&mut progress.not_stored, reason.word()),
            Warmed::Failed(word) => count(&mut progress.failed, word),
        }
        if job.lines.len() == LINES_MAX {
            job.lines.pop_front();
        }
        job.lines.push_back(Line {
            number: progress.done,
            url: page.url(),
            outcome: warmed.word(),
            why: warmed.why(),
            fresh_seconds,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        end(job, now);
        Some(job.progress.cause)
    }

    /// How far every job is, the newest first.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        let jobs = self.jobs.values().rev();
        jobs.map(|job| job.progress.clone()).collect()
    }

    /// How far a job is, with what became of its pages from number `after` + 1 on.
    #[must_use]
    pub fn told(&self, id: u64, after: u64) -> Option<(Progress, Vec<Line>)> {
        let job = self.jobs.get(&id)?;
        let lines = job.lines.iter().filter(|line| line.number > after);
        Some((job.progress.clone(), lines.cloned().collect()))
    }

    /// Pages that wait, and that are under way.
    #[must_use]
    pub fn load(&self) -> (usize, u32) {
        (self.waiting, self.running)
    }

    /// What those jobs that have anything to do may do together.
    fn pace(&self) -> Pace {
        let busy = self.jobs.values().filter(|job| job.is_busy());
        busy.map(|job| job.pace)
            .reduce(|one, other| Pace {
                concurrency: one.concurrency.max(other.concurrency),
                rate: one.rate.max(other.rate),
            })
            .unwrap_or(Pace::DEFAULT)
    }

    fn drop_job(&mut self, id: u64) {
        if let Some(job) = self.jobs.remove(&id) {
            self.waiting -= job.waiting.len();
            if job.progress.cause.is_standing() {
                self.known.clear();
            }
        }
    }
}

fn end(job: &mut Job, now: Timestamp) {
    if job.is_over() && job.progress.ended_ms.is_none() {
        job.progress.state = "done";
        job.progress.ended_ms = Some(now.as_millis());
    }
}

/// The moment from which the next may begin. What was not used of the rate is not made up for.
fn paced(next: Option<Instant>, now: Instant, pause: Duration) -> Instant {
    // A timer rings up to a millisecond late: that much of the beat is kept.
    let beat = next.filter(|next| now.duration_since(*next) < Duration::from_millis(5));
    beat.unwrap_or(now) + pause
}

fn count(reasons: &mut BTreeMap<&'static str, u64>, word: &'static str) {
    let room = reasons.len() < REASONS_MAX || reasons.contains_key(word);
    *reasons
        .entry(if room { word } else { "other" })
        .or_default() += 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::Reason;
    use proptest::prelude::*;
    use std::sync::Arc;

    const EPOCH: Timestamp = Timestamp::from_millis(0);
    const STORED: Warmed = Warmed::Stored(Duration::from_secs(300));
    const GO: Brake = Brake::Off(u32::MAX);

    fn page(path: &str) -> Page {
        Page {
            tls: false,
            host: "shop.example".into(),
            target: path.parse().unwrap(),
            fields: Arc::default(),
            lasting: Duration::ZERO,
        }
    }

    fn job(queue: &mut Queue, cause: Cause, pages: usize, concurrency: u32, rate: f64) -> u64 {
        let id = queue.open(
            cause,
            "x".into(),
            Pace { concurrency, rate },
            (EPOCH, Instant::now()),
        );
        queue.add(
            id,
            (0..pages).map(|number| page(&format!("/{id}/{number}"))),
        );
        queue.close(id, EPOCH);
        id
    }

    #[test]
    fn a_job_ends_when_its_last_page_is_done_and_says_what_became_of_each() {
        let mut queue = Queue::default();
        let start = Instant::now();
        let id = job(&mut queue, Cause::List, 2, 1, 10.0);
        let first = match queue.next(GO, start) {
            Step::Begin(_, page) => page,
            other => panic!("{other:?}"),
        };
        // One at a time.
        assert_eq!(queue.next(GO, start), Step::Rest);
        queue.done(id, &first, STORED, Duration::from_millis(7), (EPOCH, start));
        // Ten a second.
        assert_eq!(
            queue.next(GO, start),
            Step::Until(start + Duration::from_millis(100))
        );
        let second = match queue.next(GO, start + Duration::from_millis(100)) {
            Step::Begin(_, page) => page,
            other => panic!("{other:?}"),
        };
        assert!(queue.is_busy(id));
        let why = Warmed::NotStored(Reason::SetCookie);
        queue.done(id, &second, why, Duration::ZERO, (EPOCH, Instant::now()));
        let (progress, lines) = queue.told(id, 1).unwrap();
        assert_eq!(
            (progress.state, progress.stored, progress.done),
            ("done", 1, 2)
        );
        assert_eq!(progress.not_stored["set-cookie"], 1);
        assert_eq!(lines.len(), 1);
        assert_eq!(
            (lines[0].url.as_str(), lines[0].why),
            ("http://shop.example/1/1", Some("set-cookie"))
        );
    }

    #[test]
    fn what_was_purged_goes_first_and_predictions_last() {
        let mut queue = Queue::default();
        let mut now = Instant::now();
        let predicted = job(&mut queue, Cause::Predicted, 1, 9, 1e6);
        let list = job(&mut queue, Cause::List, 1, 9, 1e6);
        let purge = job(&mut queue, Cause::Purge, 1, 9, 1e6);
        let mut order = Vec::new();
        while order.len() < 3 {
            now += Duration::from_millis(1);
            if let Step::Begin(id, _) = queue.next(GO, now) {
                order.push(id);
            }
        }
        assert_eq!(order, [purge, list, predicted]);
    }

    #[test]
    fn the_brake_stops_or_lets_one_through_in_a_while() {
        let mut queue = Queue::default();
        let start = Instant::now();
        let id = job(&mut queue, Cause::List, 10, 4, 1000.0);
        assert!(matches!(
            queue.next(Brake::Stop("users wait"), start),
            Step::Until(_)
        ));
        let Step::Begin(_, page) = queue.next(Brake::Slow("the app is slow"), start) else {
            panic!("nothing begins");
        };
        assert_eq!(
            queue.next(Brake::Slow("the app is slow"), start),
            Step::Rest
        );
        queue.done(id, &page, STORED, Duration::ZERO, (EPOCH, Instant::now()));
        let soon = start + Duration::from_millis(500);
        assert!(matches!(
            queue.next(Brake::Slow("the app is slow"), soon),
            Step::Until(_)
        ));
        let later = start + TRICKLE_PAUSE;
        assert!(matches!(
            queue.next(Brake::Slow("the app is slow"), later),
            Step::Begin(..)
        ));
    }

    #[test]
    fn a_page_waits_once_in_a_job_that_never_ends() {
        let mut queue = Queue::default();
        for _ in 0..3 {
            let id = queue.open(
                Cause::Link,
                "links".into(),
                Pace::DEFAULT,
                (EPOCH, Instant::now()),
            );
            queue.add(id, [page("/a"), page("/b")]);
        }
        assert_eq!((queue.load(), queue.progress().len()), ((2, 0), 1));
    }

    #[test]
    fn jobs_and_pages_are_bounded() {
        let mut queue = Queue::default();
        for _ in 0..JOBS_MAX * 2 {
            job(&mut queue, Cause::Asked, 0, 1, 1.0);
        }
        assert_eq!(queue.progress().len(), JOBS_MAX);
        let id = job(&mut queue, Cause::Asked, PAGES_MAX + 5, 1, 1.0);
        assert_eq!(queue.told(id, 0).unwrap().0.dropped, 5);
    }

    proptest! {
        /// However jobs come and pages end, what is under way and how fast it begins stays within the
        /// largest pace among the jobs, and each job within its own.
        #[test]
        fn the_budget_holds(
            jobs in prop::collection::vec((0_u32..30, 1_u32..6, 1_u32..200), 1..6),
            ends in prop::collection::vec(0_u64..40, 200),
        ) {
            let mut queue = Queue::default();
            let start = Instant::now();
            let most = jobs.iter().map(|job| job.1).max().unwrap();
            let fastest = f64::from(jobs.iter().map(|job| job.2).max().unwrap());
            let mut paces = BTreeMap::new();
            let mut left: u32 = 0;
            for (pages, concurrency, rate) in jobs {
                let id = job(&mut queue, Cause::List, pages as usize, concurrency, rate.into());
                paces.insert(id, (concurrency, f64::from(rate)));
                left += pages;
            }
            let mut now = start;
            let mut running: Vec<(u64, Page, Instant)> = Vec::new();
            let mut begun: Vec<(u64, Instant)> = Vec::new();
            let mut ends = ends.into_iter().cycle();
            while left > 0 {
                match queue.next(GO, now) {
                    Step::Begin(id, page) => {
                        left -= 1;
                        begun.push((id, now));
                        let end = now + Duration::from_millis(ends.next().unwrap());
                        running.push((id, page, end));
                        prop_assert!(running.len() as u32 <= most);
                        let own = running.iter().filter(|one| one.0 == id).count() as u32;
                        prop_assert!(own <= paces[&id].0);
                    }
                    step => {
                        let ended = running.iter().map(|one| one.2).min();
                        let until = match step { Step::Until(at) => Some(at), _ => None };
                        let next = [ended, until].into_iter().flatten().min();
                        prop_assert!(next.is_some(), "it rests although pages wait");
                        now = now.max(next.unwrap());
                        if let Some(at) = running.iter().position(|one| one.2 <= now) {
                            let (id, page, _) = running.swap_remove(at);
                            queue.done(id, &page, STORED, Duration::ZERO, (EPOCH, Instant::now()));
                        }
                    }
                }
            }
            for (of, rate) in std::iter::once((None, fastest)).chain(paces.iter().map(|(id, pace)| (Some(*id), pace.1))) {
                let times: Vec<_> = begun.iter().filter(|one| of.is_none_or(|of| of == one.0)).map(|one| one.1).collect();
                for (first, at) in times.iter().enumerate() {
                    let within = times[first..].iter().filter(|other| **other < *at + Duration::from_secs(1)).count();
                    prop_assert!(within as f64 <= rate + 1.0, "{within} within a second, {rate} allowed");
                }
            }
        }
    }
}
