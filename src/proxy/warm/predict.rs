//! What is likely to be asked for next. Pure: uses come in with their time, pages to warm go out.
//!
//! Two tables, both bounded and both forgetting: which page followed which, of the same client within half
//! a minute (a Markov chain of first order), and how much a page is asked for in each hour of the day. A
//! client is a number that is made anew with each process and kept for half a minute; nobody's own pages
//! are looked at. Whether predictions come true is measured, and what it predicts badly it predicts less.

use crate::semantics::Timestamp;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Pages that are known.
const PAGES_MAX: usize = 8_192;
/// Pages that may follow one.
const NEXT_MAX: usize = 8;
/// Clients whose last page is remembered.
const CLIENTS_MAX: usize = 8_192;
/// What a client asks for within this time follows what it asked for before.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(30);
/// Counts of what follows lose half of their weight in this time.
const HALF_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// What has followed less often is no ground for a prediction.
const SUPPORT_MIN: f32 = 3.0;
/// What follows in less than this share of the cases is not predicted.
const LIKELY: f32 = 0.3;
/// Uses in an hour of the day, weighed by age, that a page needs to be warmed before that hour.
const HOURLY_MIN: f32 = 3.0;
/// Counts of an hour keep this share from one day to the next.
const DAY_WEIGHT: f32 = 0.7;
/// Pages that are warmed before an hour begins.
const HOURLY_MAX: usize = 100;
/// So long before an hour begins.
const BEFORE_HOUR: Duration = Duration::from_secs(120);
/// Predictions whose outcome is waited for.
const OPEN_MAX: usize = 4_096;
/// How long a prediction has to come true while it is not known how long its page is fresh.
const OPEN_FOR: Duration = Duration::from_secs(300);
/// No prediction is waited for any longer, however long its page is fresh.
const OPEN_FOR_MAX: Duration = Duration::from_secs(3_600);
/// What the budget allows is allowed in each such time.
const BUDGET_FOR: Duration = Duration::from_secs(60);
/// More predictions than that are never made in such a time.
const SPENT_MAX: usize = 10_000;
/// Weight of one outcome in the precision.
const OUTCOME_WEIGHT: f32 = 1.0 / 32.0;
/// While it predicts badly, it tries one in so many.
const TRY_ONE_IN: u64 = 16;

/// A page, as the tables know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Known {
    /// By `https`.
    pub tls: bool,
    /// `host/path?query`
    pub url: Arc<str>,
}

/// One use of a page.
#[derive(Clone, Debug)]
pub struct Use {
    /// A number for the client, of this process.
    pub client: u64,
    /// The page.
    pub page: Known,
    /// It was there, and fresh.
    pub is_hit: bool,
}

/// What may be spent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Pages a minute.
    pub per_minute: u32,
    /// Below this share of predictions that come true, hardly any is made.
    pub precision_min: f32,
}

/// How it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Record {
    /// Pages that were predicted.
    pub predicted: u64,
    /// Of them, asked for while what was fetched was fresh, and answered by it.
    pub came_true: u64,
    /// Of them, not.
    pub failed: u64,
    /// Share that comes true lately.
    pub precision: f32,
    /// It predicts too badly, and hardly does.
    pub turned_down: bool,
    /// Not predicted, since the budget was spent.
    pub over_budget: u64,
}

/// The tables.
#[derive(Debug)]
pub struct Predictor {
    budget: Budget,
    pages: HashMap<Known, Habits>,
    clients: HashMap<u64, (Known, Timestamp)>,
    /// What is not predicted again until its time is over.
    open: HashMap<Known, Open>,
    /// The same, in the order in which it ends.
    ends: BTreeSet<(Timestamp, Known)>,
    record: Record,
    /// When the predictions of the last [`BUDGET_FOR`] were made.
    spent: VecDeque<Timestamp>,
    tried: u64,
    /// The hour that was last prepared for.
    prepared: u64,
}

/// A page that was predicted.
#[derive(Clone, Copy, Debug)]
struct Open {
    made: Timestamp,
    end: Timestamp,
    /// It is waited for whether it comes true. Otherwise the prediction was for nothing: it is fresh until
    /// then, or cannot be stored.
    counts: bool,
}

#[derive(Debug, Default)]
struct Habits {
    next: Vec<(Known, f32)>,
    /// All that followed, those that found no place included.
    followed: f32,
    aged: Timestamp,
    hours: [f32; 24],
    /// The day that `hours` were last counted on.
    day: u64,
    used: Timestamp,
}

impl Predictor {
    /// One that knows nothing.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            pages: HashMap::new(),
            clients: HashMap::new(),
            open: HashMap::new(),
            ends: BTreeSet::new(),
            record: Record {
                precision: 1.0,
                ..Record::default()
            },
            spent: VecDeque::new(),
            tried: 0,
            prepared: 0,
        }
    }

    /// Takes up another budget.
    pub fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    /// How it does.
    #[must_use]
    pub fn record(&self) -> Record {
        self.record
    }

    /// Learns from a use at `now`. Gives what is likely to be asked for next, within the budget.
    pub fn used(&mut self, one: Use, now: Timestamp) -> Vec<Known> {
        self.settle(now);
        // Who did not find it was not helped: it was another variant, or is not there any more.
        if one.is_hit && self.open.get(&one.page).is_some_and(|open| open.counts) {
            self.shut(&one.page);
            self.record.came_true += 1;
            self.outcome(1.0);
        }
        self.learn(&one, now);
        let Some(habits) = self.pages.get_mut(&one.page) else {
            return Vec::new();
        };
        habits.age(now);
        let enough = |weight: f32| weight >= SUPPORT_MIN && weight >= habits.followed * LIKELY;
        let likely = habits.next.iter().filter(|next| enough(next.1));
        let likely: Vec<Known> = likely.map(|next| next.0.clone()).collect();
        self.afford(likely, now)
    }

    /// What is likely to be asked for in the hour that is about to begin; once for each hour.
    pub fn before_the_hour(&mut self, now: Timestamp) -> Vec<Known> {
        self.settle(now);
        let hour = (now + BEFORE_HOUR).as_secs() / 3_600;
        if hour == now.as_secs() / 3_600 || hour == self.prepared {
            return Vec::new();
        }
        self.prepared = hour;
        let (day, of_day) = (hour / 24, (hour % 24) as usize);
        let expected = |habits: &Habits| {
            // Days that have passed since count against it.
            let days = day.saturating_sub(habits.day).min(64) as i32;
            habits.hours[of_day] * DAY_WEIGHT.powi(days)
        };
        let weighed = self
            .pages
            .iter()
            .map(|(page, habits)| (expected(habits), page));
        let mut likely: Vec<_> = weighed
            .filter(|one| one.0 >= HOURLY_MIN * DAY_WEIGHT)
            .collect();
        likely.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.url.cmp(&b.1.url)));
        let likely: Vec<Known> = likely
            .into_iter()
            .take(HOURLY_MAX)
            .map(|one| one.1.clone())
            .collect();
        self.afford(likely, now)
    }

    fn learn(&mut self, one: &Use, now: Timestamp) {
        make_room(&mut self.pages, PAGES_MAX, &one.page, |habits| habits.used);
        let habits = self.pages.entry(one.page.clone()).or_default();
        habits.used = now;
        habits.count_hour(now);
        make_room(&mut self.clients, CLIENTS_MAX, &one.client, |last| last.1);
        let before = self.clients.insert(one.client, (one.page.clone(), now));
        let Some((before, at)) = before else { return };
        if before == one.page || now.since(at) > FOLLOWS_WITHIN {
            return;
        }
        if let Some(habits) = self.pages.get_mut(&before) {
            habits.followed_by(&one.page, now);
        }
    }

    /// Those that the budget allows; they are waited for from now on.
    fn afford(&mut self, likely: Vec<Known>, now: Timestamp) -> Vec<Known> {
        while self
            .spent
            .front()
            .is_some_and(|at| now.since(*at) >= BUDGET_FOR)
        {
            self.spent.pop_front();
        }
        let most = (self.budget.per_minute as usize).min(SPENT_MAX);
        let mut made = Vec::new();
        for page in likely {
            if self.open.contains_key(&page) {
                continue;
            }
            if self.record.turned_down {
                self.tried += 1;
                if !self.tried.is_multiple_of(TRY_ONE_IN) {
                    continue;
                }
            }
            if self.spent.len() >= most || self.open.len() >= OPEN_MAX {
                self.record.over_budget += 1;
                continue;
            }
            self.spent.push_back(now);
            self.record.predicted += 1;
            self.wait_for(&page, now, now + OPEN_FOR, true);
            made.push(page);
        }
        made
    }

    /// A page that was predicted has been stored, and is `fresh` for so long; zero: that is not known.
    pub fn stored(&mut self, page: &Known, fresh: Duration, now: Timestamp) {
        if let Some(open) = self.open.get(page).filter(|open| open.counts)
            && !fresh.is_zero()
        {
            self.wait_for(page, open.made, now + fresh.min(OPEN_FOR_MAX), true);
        }
    }

    /// A prediction was for what was there already, `fresh` for so long, or for nothing that could be warmed:
    /// it counts neither way, and is not made again in that time.
    pub fn in_vain(&mut self, page: &Known, fresh: Option<Duration>, now: Timestamp) {
        let Some(made) = self.open.get(page).filter(|open| open.counts) else {
            return;
        };
        let made = made.made;
        self.record.predicted -= 1;
        if fresh.is_some()
            && let Ok(at) = self.spent.binary_search(&made)
        {
            // The app was not asked, so that it may be asked for another.
            self.spent.remove(at);
        }
        let fresh = fresh.unwrap_or(OPEN_FOR);
        self.wait_for(page, made, now + fresh.min(OPEN_FOR_MAX), false);
    }

    fn wait_for(&mut self, page: &Known, made: Timestamp, end: Timestamp, counts: bool) {
        self.shut(page);
        self.ends.insert((end, page.clone()));
        self.open.insert(page.clone(), Open { made, end, counts });
    }

    fn shut(&mut self, page: &Known) {
        if let Some(open) = self.open.remove(page) {
            self.ends.remove(&(open.end, page.clone()));
        }
    }

    /// Ends predictions whose time is over.
    fn settle(&mut self, now: Timestamp) {
        while let Some((end, page)) = self.ends.first()
            && *end <= now
        {
            let page = page.clone();
            let counted = self.open.get(&page).is_some_and(|open| open.counts);
            self.shut(&page);
            if counted {
                self.record.failed += 1;
                self.outcome(0.0);
            }
        }
    }

    fn outcome(&mut self, share: f32) {
        let record = &mut self.record;
        record.precision += (share - record.precision) * OUTCOME_WEIGHT;
        record.turned_down = record.precision < self.budget.precision_min;
    }
}

impl Habits {
    fn age(&mut self, now: Timestamp) {
        // Now and then is often enough, and spares arithmetic.
        let since = now.since(self.aged);
        if since > HALF_LIFE / 48 {
            let rest = (-since.as_secs_f32() / HALF_LIFE.as_secs_f32()).exp2();
            self.next.iter_mut().for_each(|next| next.1 *= rest);
            self.followed *= rest;
            self.aged = now;
        }
    }

    fn followed_by(&mut self, page: &Known, now: Timestamp) {
        self.age(now);
        self.followed += 1.0;
        if let Some(next) = self.next.iter_mut().find(|next| next.0 == *page) {
            next.1 += 1.0;
            return;
        }
        if self.next.len() == NEXT_MAX {
            let weights = self.next.iter().enumerate();
            let least = weights.min_by(|a, b| a.1.1.total_cmp(&b.1.1));
            let least = least.map_or(0, |(at, _)| at);
            self.next.swap_remove(least);
        }
        self.next.push((page.clone(), 1.0));
    }

    fn count_hour(&mut self, now: Timestamp) {
        let day = now.as_secs() / 86_400;
        let days = day.saturating_sub(self.day).min(64) as i32;
        if days > 0 {
            let rest = DAY_WEIGHT.powi(days);
            self.hours.iter_mut().for_each(|hour| *hour *= rest);
            self.day = day;
        }
        self.hours[(now.as_secs() / 3_600 % 24) as usize] += 1.0;
    }
}

/// Takes out what was used longest ago, an eighth of all, where there is no room for `key`.
fn make_room<K: Clone + Eq + std::hash::Hash, V>(
    table: &mut HashMap<K, V>,
    most: usize,
    key: &K,
    used: impl Fn(&V) -> Timestamp,
) {
    if table.len() < most || table.contains_key(key) {
        return;
    }
    let mut times: Vec<Timestamp> = table.values().map(&used).collect();
    let at = times.len() / 8;
    let (_, oldest, _) = times.select_nth_unstable(at);
    let oldest = *oldest;
    let mut left = at + 1;
    table.retain(|_, value| {
        let goes = left > 0 && used(value) <= oldest;
        left -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Timestamp = Timestamp::from_millis(1_764_000_000_000);
    const BUDGET: Budget = Budget {
        per_minute: 60,
        precision_min: 0.2,
    };

    fn page(path: &str) -> Known {
        Known {
            tls: false,
            url: format!("shop.example{path}").into(),
        }
    }

    fn visit(predictor: &mut Predictor, client: u64, path: &str, now: Timestamp) -> Vec<String> {
        let page = page(path);
        let is_hit = true;
        let next = predictor.used(
            Use {
                client,
                page,
                is_hit,
            },
            now,
        );
        next.iter().map(|next| next.url.to_string()).collect()
    }

    #[test]
    fn what_mostly_follows_is_predicted_and_what_seldom_does_is_not() {
        let mut predictor = Predictor::new(BUDGET);
        let mut now = START;
        for client in 0..10 {
            visit(&mut predictor, client, "/list", now);
            let next = if client < 7 { "/first" } else { "/other" };
            visit(&mut predictor, client, next, now + Duration::from_secs(5));
            now = now + Duration::from_secs(600);
        }
        let before = predictor.record();
        assert_eq!(
            visit(&mut predictor, 99, "/list", now),
            ["shop.example/first", "shop.example/other"]
        );
        // Not again while it is waited for.
        assert!(visit(&mut predictor, 98, "/list", now).is_empty());
        visit(&mut predictor, 99, "/first", now + Duration::from_secs(5));
        let record = predictor.record();
        assert_eq!(record.predicted - before.predicted, 2, "{record:?}");
        assert_eq!(record.came_true - before.came_true, 1, "{record:?}");
    }

    /// A predictor that predicts `/b` whenever `/a` is used.
    fn taught(now: &mut Timestamp) -> Predictor {
        let mut predictor = Predictor::new(BUDGET);
        for client in 0..10 {
            visit(&mut predictor, client, "/a", *now);
            visit(&mut predictor, client, "/b", *now);
            *now = *now + OPEN_FOR * 2;
        }
        predictor
    }

    #[test]
    fn what_is_fresh_already_spends_nothing_of_the_budget() {
        let mut now = START;
        let mut predictor = taught(&mut now);
        assert_eq!(visit(&mut predictor, 99, "/a", now), ["shop.example/b"]);
        predictor.in_vain(&page("/b"), Some(Duration::from_secs(90)), now);
        assert!(predictor.spent.is_empty());
        for client in 100..400 {
            assert!(visit(&mut predictor, client, "/a", now).is_empty());
        }
        assert_eq!(predictor.record().over_budget, 0);
        let later = now + Duration::from_secs(91);
        assert_eq!(visit(&mut predictor, 500, "/a", later), ["shop.example/b"]);
    }

    #[test]
    fn a_prediction_comes_true_only_while_its_page_is_fresh_and_is_found() {
        let mut now = START;
        let mut predictor = taught(&mut now);
        let before = predictor.record();
        let mut used_after = |seconds, is_hit| {
            assert_eq!(visit(&mut predictor, 99, "/a", now).len(), 1);
            predictor.stored(&page("/b"), Duration::from_secs(60), now);
            let one = Use {
                client: 99,
                page: page("/b"),
                is_hit,
            };
            predictor.used(one, now + Duration::from_secs(seconds));
            now = now + OPEN_FOR * 2;
            visit(&mut predictor, 98, "/c", now);
            let record = predictor.record();
            (
                record.came_true - before.came_true,
                record.failed - before.failed,
            )
        };
        assert_eq!(used_after(59, true), (1, 0));
        assert_eq!(used_after(61, true), (1, 1));
        assert_eq!(used_after(59, false), (1, 2));
    }

    #[test]
    fn what_comes_later_than_half_a_minute_follows_nothing() {
        let mut predictor = Predictor::new(BUDGET);
        let mut now = START;
        for client in 0..10 {
            visit(&mut predictor, client, "/a", now);
            visit(&mut predictor, client, "/b", now + Duration::from_secs(31));
            now = now + Duration::from_secs(60);
        }
        assert!(visit(&mut predictor, 99, "/a", now).is_empty());
    }

    #[test]
    fn what_is_predicted_badly_is_hardly_predicted_any_more() {
        let mut predictor = Predictor::new(BUDGET);
        let mut now = START;
        // They used to follow, and no longer do.
        for client in 0..400 {
            visit(&mut predictor, client, "/a", now);
            visit(&mut predictor, client, "/b", now);
        }
        now = now + OPEN_FOR * 2;
        let mut made = 0;
        for client in 1_000..1_400 {
            now = now + OPEN_FOR;
            made += visit(&mut predictor, client, "/a", now).len();
        }
        let record = predictor.record();
        assert!(record.turned_down && record.precision < 0.2, "{record:?}");
        assert!(made < 100, "{made}");
    }

    #[test]
    fn a_page_that_is_asked_for_at_the_same_hour_is_warmed_before_it() {
        let mut predictor = Predictor::new(BUDGET);
        let midnight = Timestamp::from_millis(START.as_millis() / 86_400_000 * 86_400_000);
        for day in 0..3 {
            let eight = midnight + Duration::from_secs(day * 86_400 + 8 * 3_600);
            for client in 0..5 {
                visit(
                    &mut predictor,
                    client,
                    "/report",
                    eight + Duration::from_secs(client * 60),
                );
            }
        }
        let day = midnight + Duration::from_secs(3 * 86_400);
        let at = |predictor: &mut Predictor, seconds| {
            predictor
                .before_the_hour(day + Duration::from_secs(seconds))
                .len()
        };
        assert_eq!(
            at(&mut predictor, 6 * 3_600 + 3_590),
            0,
            "an hour too early"
        );
        assert_eq!(at(&mut predictor, 7 * 3_600 + 3_000), 0, "not yet");
        assert_eq!(at(&mut predictor, 7 * 3_600 + 3_500), 1);
        assert_eq!(at(&mut predictor, 7 * 3_600 + 3_550), 0, "once");
    }

    proptest! {
        /// Whatever clients do: the budget holds in any sixty seconds, the tables stay within their bounds, and
        /// nothing comes true or fails that was not predicted.
        #[test]
        fn the_budget_and_the_bounds_hold(
            uses in prop::collection::vec((0_u64..20, 0_u8..12, 0_u64..40), 1..2_000),
            per_minute in 0_u32..5,
        ) {
            let mut predictor = Predictor::new(Budget { per_minute, precision_min: 0.0 });
            let mut now = START;
            let mut made: Vec<Timestamp> = Vec::new();
            for (client, path, pause) in uses {
                now = now + Duration::from_secs(pause);
                let next = visit(&mut predictor, client, &format!("/{path}"), now);
                made.extend(next.iter().map(|_| now));
                made.extend(predictor.before_the_hour(now).iter().map(|_| now));
                let lately = made.iter().filter(|at| now.since(**at) < BUDGET_FOR).count();
                prop_assert!(lately as u32 <= per_minute);
                let record = predictor.record();
                prop_assert!(record.came_true + record.failed <= record.predicted);
                prop_assert!((0.0..=1.0).contains(&record.precision));
                prop_assert!(predictor.pages.values().all(|habits| habits.next.len() <= NEXT_MAX));
            }
        }
    }

    #[test]
    fn tables_are_bounded() {
        let mut predictor = Predictor::new(BUDGET);
        for number in 0..20_000_u64 {
            let now = START + Duration::from_millis(number);
            visit(&mut predictor, number, &format!("/{number}"), now);
        }
        assert!(predictor.pages.len() <= PAGES_MAX && predictor.clients.len() <= CLIENTS_MAX);
        assert!(predictor.pages.contains_key(&page("/19999")));
    }
}
