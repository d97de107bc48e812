//! What has been purged, and whether it hits an entry: pure, bounded, no clock and no I/O.

use super::pattern::{Matcher, beginning};
use super::{LogId, Position, Purge, Scope, Since, Subject, Verdict};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// Purges remembered here; the oldest beyond that become "everything older is stale".
pub const PURGES_MAX: usize = 100_000;
/// Patterns among them. Each is tried on every older entry that is looked up, so there are few: one more
/// makes the oldest a purge of the prefix that it begins with, or of everything older.
pub const BANS_MAX: usize = 256;
/// After so long in the log a pattern is given up: no older entry can live in Redis still, and one in
/// memory is stale.
pub const BAN_LIFE: Duration = super::STREAM_TTL;

/// The latest purge of one scope and strength.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    local: u64,
    log: LogId,
    /// The local number of a purge that the log does not have yet; 0 if none. Until it has it, no
    /// entry from Redis can prove to be newer.
    pending: u64,
}

impl Mark {
    fn hits(&self, since: Since) -> bool {
        match since {
            Since::Local(local) => self.local > local,
            Since::Log(log) => self.pending != 0 || self.log > log,
        }
    }

    fn raise(&mut self, local: u64, log: Option<LogId>) {
        self.local = self.local.max(local);
        match log {
            Some(log) => self.log = self.log.max(log),
            None => self.pending = local,
        }
    }

    fn confirm(&mut self, local: u64, log: LogId) {
        self.log = self.log.max(log);
        if self.pending == local {
            self.pending = 0;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.local = self.local.max(other.local);
        self.log = self.log.max(other.log);
        self.pending = self.pending.max(other.pending);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    soft: Mark,
    hard: Mark,
}

impl Marks {
    fn verdict(&self, since: Since) -> Verdict {
        if self.hard.hits(since) {
            Verdict::Hard
        } else if self.soft.hits(since) {
            Verdict::Soft
        } else {
            Verdict::Valid
        }
    }

    fn merge(&mut self, other: &Self) {
        self.soft.merge(&other.soft);
        self.hard.merge(&other.hard);
    }

    fn of(&mut self, soft: bool) -> &mut Mark {
        if soft { &mut self.soft } else { &mut self.hard }
    }
}

/// A purge by a pattern.
#[derive(Debug)]
struct Ban {
    scope: Scope,
    matcher: Matcher,
    marks: Marks,
}

/// What has been purged, as far as this process knows: pure, bounded, and as quick with a hundred
/// thousand purges as with one.
#[derive(Debug, Default)]
pub struct Table {
    tags: HashMap<Box<str>, Marks>,
    urls: HashMap<Box<str>, Marks>,
    prefixes: HashMap<Box<str>, Marks>,
    /// Lengths of the prefixes and how many have each.
    prefix_lengths: BTreeMap<usize, usize>,
    /// Patterns, oldest first.
    bans: Vec<Ban>,
    all: Marks,
    /// Everything older than this is stale: what was forgotten, and what a lost log may have held.
    floor: Mark,
    order: VecDeque<(u64, Scope)>,
    local: u64,
    log: LogId,
}

impl Table {
    /// The place up to which purges are known here.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position {
            log: self.log,
            local: self.local,
        }
    }

    /// Applies a purge: with its place in the log, or without while it is only known here. Returns
    /// its local number.
    pub fn apply(&mut self, purge: &Purge, log: Option<LogId>) -> u64 {
        self.local += 1;
        let local = self.local;
        self.log = self.log.max(log.unwrap_or_default());
        self.give_up_old_bans();
        self.marks(&purge.scope).of(purge.soft).raise(local, log);
        if purge.scope != Scope::All {
            self.order.push_back((local, purge.scope.clone()));
        }
        while self.order.len() > PURGES_MAX {
            self.forget_oldest();
        }
        local
    }

    /// Draws a line between what was stored before and after: the local number of no purge.
    pub fn advance(&mut self) -> u64 {
        self.local += 1;
        self.local
    }

    /// The purge with this local number now has a place in the log.
    pub fn confirm(&mut self, purge: &Purge, local: u64, log: LogId) {
        if purge.scope == Scope::All && !purge.soft {
            self.settle_before(local);
        }
        if self.floor.pending == local {
            self.floor.confirm(local, log);
        }
        if let Some(marks) = self.known(&purge.scope) {
            marks.of(purge.soft).confirm(local, log);
        }
        // A pattern may have become a prefix meanwhile.
        if let Some(prefix) = widened(&purge.scope)
            && let Some(marks) = self.known(&prefix)
            && marks.of(purge.soft).pending == local
        {
            marks.of(purge.soft).confirm(local, log);
        }
    }

    /// A purge of everything is in the log: what was purged before it, and is waiting for a place
    /// of its own still, needs none any more.
    fn settle_before(&mut self, local: u64) {
        let named = [&mut self.tags, &mut self.urls, &mut self.prefixes];
        let named = named.into_iter().flat_map(HashMap::values_mut);
        let marks = named.chain(self.bans.iter_mut().map(|ban| &mut ban.marks));
        let marks = marks.flat_map(|marks| [&mut marks.soft, &mut marks.hard]);
        for mark in marks.chain([&mut self.all.soft, &mut self.floor]) {
            if mark.pending < local {
                mark.pending = 0;
            }
        }
    }

    /// The log has been replayed up to here.
    pub fn replayed(&mut self, log: LogId) {
        self.log = self.log.max(log);
    }

    /// Every entry from Redis older than `log` is stale; with `memory`, so is everything held here.
    pub fn raise_floor(&mut self, log: LogId, memory: bool) {
        self.floor.log = self.floor.log.max(log);
        if memory {
            self.local += 1;
            self.floor.local = self.local;
        }
    }

    /// The place before which everything from Redis is stale.
    #[must_use]
    pub fn floor(&self) -> LogId {
        self.floor.log
    }

    /// Whether an entry has been purged since.
    #[must_use]
    pub fn verdict<'a>(
        &self,
        subject: Subject<'a, impl IntoIterator<Item = &'a str>>,
        since: Since,
    ) -> Verdict {
        if self.floor.hits(since) {
            return Verdict::Hard;
        }
        let path_at = subject.url.find('/').unwrap_or(subject.url.len());
        let path = &subject.url[path_at..];
        let named = |marks: &HashMap<Box<str>, Marks>, name: &str| {
            marks
                .get(name)
                .map_or(Verdict::Valid, |marks| marks.verdict(since))
        };
        let mut verdict = self.all.verdict(since);
        if !self.tags.is_empty() {
            for tag in subject.tags {
                verdict = verdict.max(named(&self.tags, tag));
            }
        }
        if !self.urls.is_empty() {
            verdict = verdict.max(named(&self.urls, subject.url));
            verdict = verdict.max(named(&self.urls, path));
        }
        for length in self.prefix_lengths.keys() {
            for whole in [subject.url, path] {
                if let Some(prefix) = whole.get(..*length) {
                    verdict = verdict.max(named(&self.prefixes, prefix));
                }
            }
        }
        for ban in &self.bans {
            let said = ban.marks.verdict(since);
            // What is newer than the ban, or gone already, is not tried.
            if said > verdict && ban.matcher.hits(subject.url) {
                verdict = said;
            }
        }
        verdict
    }

    /// The marks of a pattern that is new here, or is purged again.
    fn ban(&mut self, scope: &Scope) -> &mut Marks {
        let known = self.bans.iter().position(|ban| ban.scope == *scope);
        let ban = match (known, Matcher::of(scope)) {
            (Some(known), _) => self.bans.remove(known),
            (None, Ok(Some(matcher))) => Ban {
                scope: scope.clone(),
                matcher,
                marks: Marks::default(),
            },
            // What cannot be understood may mean anything.
            (None, _) => return &mut self.all,
        };
        while self.bans.len() >= BANS_MAX {
            let oldest = self.bans.remove(0);
            self.widen(&oldest);
        }
        self.bans.push(ban);
        let at = self.bans.len() - 1;
        &mut self.bans[at].marks
    }

    /// A pattern hits from now on all that begins as it does, or all that is older.
    fn widen(&mut self, ban: &Ban) {
        match widened(&ban.scope) {
            Some(prefix) => {
                self.marks(&prefix).merge(&ban.marks);
                let local = ban.marks.soft.local.max(ban.marks.hard.local);
                self.order.push_back((local, prefix));
            }
            None => {
                self.floor.merge(&ban.marks.soft);
                self.floor.merge(&ban.marks.hard);
            }
        }
    }

    /// Patterns from long ago become a floor below which nothing lives any more.
    fn give_up_old_bans(&mut self) {
        let life = u64::try_from(BAN_LIFE.as_millis()).unwrap_or(u64::MAX);
        while let Some(Ban { marks, .. }) = self.bans.first() {
            let (soft, hard) = (marks.soft, marks.hard);
            let latest = soft.log.max(hard.log);
            let pends = soft.pending.max(hard.pending) != 0 || latest == LogId::default();
            if pends || self.log.0.saturating_sub(latest.0) < life {
                break;
            }
            self.bans.remove(0);
            self.floor.merge(&soft);
            self.floor.merge(&hard);
        }
    }

    fn marks(&mut self, scope: &Scope) -> &mut Marks {
        match scope {
            Scope::Tag(tag) => self.tags.entry(tag.as_str().into()).or_default(),
            Scope::Url(url) => self.urls.entry(url.as_str().into()).or_default(),
            Scope::Prefix(prefix) => {
                if !self.prefixes.contains_key(prefix.as_str()) {
                    *self.prefix_lengths.entry(prefix.len()).or_default() += 1;
                }
                self.prefixes.entry(prefix.as_str().into()).or_default()
            }
            Scope::Glob(_) | Scope::Regex(_) => self.ban(scope),
            Scope::All => &mut self.all,
        }
    }

    fn known(&mut self, scope: &Scope) -> Option<&mut Marks> {
        match scope {
            Scope::Tag(tag) => self.tags.get_mut(tag.as_str()),
            Scope::Url(url) => self.urls.get_mut(url.as_str()),
            Scope::Prefix(prefix) => self.prefixes.get_mut(prefix.as_str()),
            Scope::Glob(_) | Scope::Regex(_) => {
                let ban = self.bans.iter_mut().find(|ban| ban.scope == *scope);
                ban.map(|ban| &mut ban.marks)
            }
            Scope::All => Some(&mut self.all),
        }
    }

    fn forget_oldest(&mut self) {
        let Some((local, scope)) = self.order.pop_front() else {
            return;
        };
        let Some(marks) = self.known(&scope).copied() else {
            return;
        };
        if marks.soft.local.max(marks.hard.local) > local {
            return; // Purged again since; that one is further back in the order.
        }
        self.floor.merge(&marks.soft);
        self.floor.merge(&marks.hard);
        match &scope {
            Scope::Tag(tag) => drop(self.tags.remove(tag.as_str())),
            Scope::Url(url) => drop(self.urls.remove(url.as_str())),
            Scope::Prefix(prefix) => {
                self.prefixes.remove(prefix.as_str());
                if let Some(count) = self.prefix_lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        self.prefix_lengths.remove(&prefix.len());
                    }
                }
            }
            Scope::Glob(_) | Scope::Regex(_) => self.bans.retain(|ban| ban.scope != scope),
            Scope::All => {}
        }
    }
}

/// The prefix that hits all that a pattern hits; none where it may begin in any way.
fn widened(scope: &Scope) -> Option<Scope> {
    let Scope::Glob(glob) = scope else {
        return None;
    };
    let beginning = beginning(glob);
    beginning
        .contains('/')
        .then(|| Scope::Prefix(beginning.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, soft: bool) -> Purge {
        Purge {
            scope: Scope::Tag(name.to_owned()),
            soft,
        }
    }

    fn hard(scope: Scope) -> Purge {
        Purge { scope, soft: false }
    }

    fn verdict(table: &Table, tags: &[&str], url: &str, since: Since) -> Verdict {
        let tags = tags.iter().copied();
        table.verdict(Subject { tags, url }, since)
    }

    #[test]
    fn a_purge_hits_what_is_older_and_spares_what_is_newer() {
        let mut table = Table::default();
        let local = table.apply(&tag("car:42", false), Some((5, 0)));
        let of = |since| verdict(&table, &["fleet", "car:42"], "h/a", since);
        assert_eq!(of(Since::Local(local - 1)), Verdict::Hard);
        assert_eq!(of(Since::Local(local)), Verdict::Valid);
        assert_eq!(of(Since::Log((4, 9))), Verdict::Hard);
        assert_eq!(of(Since::Log((5, 0))), Verdict::Valid);
        assert_eq!(
            verdict(&table, &["fleet"], "h/a", Since::Local(0)),
            Verdict::Valid
        );
    }

    #[test]
    fn the_stronger_of_two_purges_counts() {
        let mut table = Table::default();
        table.apply(&tag("a", true), Some((1, 0)));
        assert_eq!(
            verdict(&table, &["a"], "h/", Since::Local(0)),
            Verdict::Soft
        );
        table.apply(&tag("b", false), Some((2, 0)));
        assert_eq!(
            verdict(&table, &["a", "b"], "h/", Since::Local(0)),
            Verdict::Hard
        );
    }

    #[test]
    fn urls_match_with_and_without_host_and_prefixes_by_their_beginning() {
        let mut table = Table::default();
        table.apply(&hard(Scope::Url("h/a?x=1".to_owned())), None);
        table.apply(&hard(Scope::Url("/b".to_owned())), None);
        table.apply(&hard(Scope::Prefix("/api/".to_owned())), None);
        let of = |url: &str| verdict(&table, &[], url, Since::Local(0));
        assert_eq!(of("h/a?x=1"), Verdict::Hard);
        assert_eq!(of("i/a?x=1"), Verdict::Valid);
        assert_eq!(of("h/a"), Verdict::Valid);
        assert_eq!(of("h/b"), Verdict::Hard);
        assert_eq!(of("i/b"), Verdict::Hard);
        assert_eq!(of("h/api/cars"), Verdict::Hard);
        assert_eq!(of("h/ap"), Verdict::Valid);
        assert_eq!(of("ü"), Verdict::Valid);
    }

    #[test]
    fn until_the_log_has_a_purge_no_entry_from_redis_can_be_newer() {
        let mut table = Table::default();
        let purge = tag("a", false);
        let local = table.apply(&purge, None);
        let of = |table: &Table, log| verdict(table, &["a"], "h/", Since::Log(log));
        assert_eq!(of(&table, (99, 0)), Verdict::Hard);
        // Another sidecar purged the same tag meanwhile: ours is still not in the log.
        table.apply(&purge, Some((50, 0)));
        assert_eq!(of(&table, (99, 0)), Verdict::Hard);
        table.confirm(&purge, local, (60, 0));
        assert_eq!(of(&table, (99, 0)), Verdict::Valid);
        assert_eq!(of(&table, (59, 0)), Verdict::Hard);
        // Nothing else is older for it.
        let other = verdict(&table, &["b"], "h/", Since::Log((0, 1)));
        assert_eq!(other, Verdict::Valid);
    }

    #[test]
    fn what_is_forgotten_becomes_a_floor() {
        let mut table = Table::default();
        for n in 0..=PURGES_MAX as u64 {
            table.apply(&tag(&format!("t{n}"), false), Some((n + 1, 0)));
        }
        assert_eq!(table.tags.len(), PURGES_MAX);
        // The first purge is forgotten; everything older than it is stale, whatever its tags.
        assert_eq!(
            verdict(&table, &[], "h/", Since::Log((0, 5))),
            Verdict::Hard
        );
        assert_eq!(
            verdict(&table, &[], "h/", Since::Log((1, 0))),
            Verdict::Valid
        );
        assert_eq!(verdict(&table, &[], "h/", Since::Local(0)), Verdict::Hard);
        assert_eq!(verdict(&table, &[], "h/", Since::Local(1)), Verdict::Valid);
    }

    #[test]
    fn the_same_tag_purged_again_and_again_takes_one_place() {
        let mut table = Table::default();
        for n in 0..PURGES_MAX as u64 + 10 {
            table.apply(&tag("a", false), Some((n + 1, 0)));
        }
        assert_eq!((table.tags.len(), table.floor.local), (1, 0));
        assert!(table.order.len() <= PURGES_MAX);
    }

    #[test]
    fn a_purge_of_everything_stands_for_those_that_never_got_a_place() {
        let mut table = Table::default();
        table.apply(&tag("a", false), None);
        let everything = hard(Scope::All);
        let local = table.apply(&everything, None);
        table.apply(&tag("b", false), None);
        table.confirm(&everything, local, (60, 0));
        let of = |tag, log| verdict(&table, &[tag], "h/", Since::Log(log));
        assert_eq!(of("a", (59, 0)), Verdict::Hard);
        assert_eq!(of("a", (60, 0)), Verdict::Valid);
        assert_eq!(of("b", (60, 0)), Verdict::Hard);
    }

    #[test]
    fn a_pattern_hits_what_is_older_and_costs_nothing_where_it_hits_something_newer() {
        let mut table = Table::default();
        let glob = Purge {
            scope: Scope::Glob("/api/cars/*/photos".to_owned()),
            soft: true,
        };
        table.apply(&glob, Some((5, 0)));
        table.apply(
            &hard(Scope::Regex(r"/api/cars/\d+$".to_owned())),
            Some((6, 0)),
        );
        let of = |url: &str, log| verdict(&table, &[], url, Since::Log(log));
        assert_eq!(of("h/api/cars/1/photos", (4, 0)), Verdict::Soft);
        assert_eq!(of("h/api/cars/1/photos", (5, 0)), Verdict::Valid);
        assert_eq!(of("h/api/cars/1", (5, 0)), Verdict::Hard);
        assert_eq!(of("h/api/cars/1", (6, 0)), Verdict::Valid);
        assert_eq!(of("h/api/cars/x", (0, 1)), Verdict::Valid);
    }

    #[test]
    fn one_pattern_too_many_makes_a_prefix_or_a_floor_of_the_oldest() {
        let mut table = Table::default();
        let glob = |n: u64| hard(Scope::Glob(format!("/a{n}/*/x")));
        let first = table.apply(&glob(0), None);
        table.apply(&hard(Scope::Regex("/zero".to_owned())), Some((2, 0)));
        for n in 1..BANS_MAX as u64 - 1 {
            table.apply(&glob(n), Some((n + 2, 0)));
        }
        let of = |table: &Table, url: &str, log| verdict(table, &[], url, Since::Log(log));
        assert_eq!(of(&table, "h/a0/1/y", (0, 1)), Verdict::Valid);
        table.apply(&glob(1_000), Some((1_000, 0)));
        // What was on its way into the log when it was widened is confirmed as what it is now.
        assert_eq!(of(&table, "h/a0/1/y", (99, 1)), Verdict::Hard);
        table.confirm(&glob(0), first, (1_001, 0));
        assert_eq!(of(&table, "h/a0/1/y", (1_001, 0)), Verdict::Valid);
        assert_eq!(of(&table, "h/a0/1/y", (1_000, 0)), Verdict::Hard);
        assert_eq!(of(&table, "h/b", (1, 9)), Verdict::Valid);
        table.apply(&glob(1_001), Some((1_002, 0)));
        assert_eq!(table.bans.len(), BANS_MAX);
        assert_eq!(of(&table, "h/b", (1, 9)), Verdict::Hard);
        assert_eq!(of(&table, "h/b", (2, 0)), Verdict::Valid);
    }

    #[test]
    fn a_pattern_is_given_up_once_nothing_older_can_live() {
        let mut table = Table::default();
        table.apply(&hard(Scope::Glob("/a/*".to_owned())), Some((5, 0)));
        table.apply(&tag("a", false), Some((6, 0)));
        assert_eq!(table.bans.len(), 1);
        let later = 7 + BAN_LIFE.as_millis() as u64;
        table.apply(&tag("a", false), Some((later, 0)));
        table.apply(&tag("a", false), Some((later + 1, 0)));
        assert!(table.bans.is_empty());
        assert_eq!(
            verdict(&table, &[], "h/b", Since::Log((4, 0))),
            Verdict::Hard
        );
        assert_eq!(
            verdict(&table, &[], "h/b", Since::Log((5, 0))),
            Verdict::Valid
        );
    }
}
