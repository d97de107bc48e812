//! The memory tier: bounded in bytes, shared by all workers, certain and never waiting.
//!
//! It keeps what it is given until there is no room; whether an entry may still be used is not its
//! question.

use super::Entry;
use crate::cgroup;
use crate::semantics::Key;
use http::{HeaderMap, HeaderName};
use quick_cache::sync::Cache as Map;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes an entry takes beside its block: the struct, a place in the map (some of which are empty),
/// the heads of its allocations, and the count of those who share the block.
pub const ENTRY_OVERHEAD: u64 = (size_of::<Entry>() + 160) as u64;
/// Bytes a field of a Vary rule takes: its place in a table and in an index, and twice its name.
pub const RULE_FIELD_BYTES: u64 = 200;
/// Most variants of one key that are kept here; the oldest goes.
pub const VARIANTS_MAX: usize = 64;

/// The fields that the responses under one key vary on.
#[derive(Debug)]
pub struct VaryRule {
    /// A response head with nothing but the Vary field, as selecting reads it.
    pub head: HeaderMap,
    /// The field names.
    pub names: Vec<HeaderName>,
    /// Variants stored by this process, oldest first.
    pub variants: std::sync::Mutex<Vec<Key>>,
}

/// What lies under a key.
#[derive(Clone, Debug)]
pub enum Held {
    /// A response.
    Entry(Arc<Entry>),
    /// Responses under keys of their own, by these fields.
    Vary(Arc<VaryRule>),
}

/// Bytes kept for Vary rules where entries are not kept: they spare Redis a round trip each.
pub const RULES_BYTES: u64 = 1024 * 1024;

/// Above this share of the process's limit the tier gives room back, in percent.
const SHRINK_ABOVE_PERCENT: u64 = 90;
/// Up to this share it waits for what it has given back to show, in percent; above it gives back as
/// much as half of what it holds at a time.
const WAIT_BELOW_PERCENT: u64 = 95;
/// It gives back so much that this share is used, in percent.
const SHRINK_TO_PERCENT: u64 = 80;
/// Below this share it takes room again, in percent.
const GROW_BELOW_PERCENT: u64 = 75;
/// Of what it holds it gives back one part in so many at a time: what was freed shows only later.
const SHRINK_STEP: u64 = 4;
/// It grows by one part of its whole size in so many at a time.
const GROW_STEP: u64 = 64;
/// It never shrinks below one part of its whole size in so many.
const SHRINK_MOST: u64 = 64;

/// The bytes that the tier may hold from now on, of `most` that it may ever: it shrinks where the
/// process comes near its own limit, and grows again, slowly, where it is far from that. `before` is
/// what the process had at the last look.
#[must_use]
pub fn bound(
    most: u64,
    in_force: u64,
    held: u64,
    before: u64,
    process: Option<cgroup::Memory>,
) -> u64 {
    let Some(cgroup::Memory { used, limit }) = process else {
        return most;
    };
    let percent = |percent: u64| limit / 100 * percent;
    if used > percent(SHRINK_ABOVE_PERCENT) {
        if used <= before && used <= percent(WAIT_BELOW_PERCENT) {
            return in_force;
        }
        let held = held.min(in_force);
        let over = used - percent(SHRINK_TO_PERCENT);
        let at_once = match used > percent(WAIT_BELOW_PERCENT) {
            true => held / 2,
            false => held / SHRINK_STEP,
        };
        return held
            .saturating_sub(over.min(at_once))
            .clamp(most / SHRINK_MOST, most);
    }
    if used < percent(GROW_BELOW_PERCENT) {
        return in_force.saturating_add((most / GROW_STEP).max(1)).min(most);
    }
    in_force
}

/// The tier. With 0 bytes it holds no entries.
#[derive(Debug)]
pub struct Memory {
    keeps_entries: bool,
    /// Bytes that it may ever hold, and those that it may hold now.
    most: u64,
    in_force: AtomicU64,
    /// What the process had at the last look, in bytes.
    used: AtomicU64,
    map: Option<Map<Key, Held, Weight, DefaultHashBuilder, Evictions>>,
    evicted: Arc<AtomicU64>,
}

impl Memory {
    /// Room for `bytes`, entries of up to `object_max` bytes included as far as that allows.
    #[must_use]
    pub fn new(bytes: u64, object_max: u64) -> Self {
        let evicted = Arc::new(AtomicU64::new(0));
        let keeps_entries = bytes > 0;
        let bytes = if keeps_entries { bytes } else { RULES_BYTES };
        // The room is split evenly among shards and nothing larger than a shard is kept, so there
        // are only as many shards as leave each room for a few of the largest objects.
        let shards = bytes / object_max.saturating_mul(4).max(1);
        let shards = usize::try_from(shards).unwrap_or(usize::MAX).clamp(1, 64);
        // The largest power of two that is not above, since the map rounds up.
        let shards = 1 << shards.ilog2();
        let items = usize::try_from(bytes / 4_096).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(items.clamp(64, 1 << 20))
            .weight_capacity(bytes)
            .build();
        let map = options.ok().map(|options| {
            Map::with_options(
                options,
                Weight,
                DefaultHashBuilder::default(),
                Evictions(Arc::clone(&evicted)),
            )
        });
        Self {
            keeps_entries,
            most: bytes,
            in_force: AtomicU64::new(bytes),
            used: AtomicU64::new(0),
            map,
            evicted,
        }
    }

    /// Takes or gives up room, as the memory of the process demands it; see [`bound`]. Returns the
    /// bound before and the one from now on, in bytes. Where there are entries, it is called now and
    /// then.
    pub fn fit(&self, process: Option<cgroup::Memory>) -> (u64, u64) {
        let before = self.in_force.load(Ordering::Relaxed);
        let used = process.map_or(0, |process| process.used);
        let used_before = self.used.swap(used, Ordering::Relaxed);
        let now = bound(self.most, before, self.bytes(), used_before, process);
        if now != before
            && let Some(map) = &self.map
        {
            map.set_capacity(now);
            self.in_force.store(now, Ordering::Relaxed);
        }
        (before, now)
    }

    /// Bytes that it may hold now.
    #[must_use]
    pub fn in_force(&self) -> u64 {
        self.in_force.load(Ordering::Relaxed)
    }

    /// Whether it keeps more than Vary rules.
    #[must_use]
    pub const fn keeps_entries(&self) -> bool {
        self.keeps_entries
    }

    /// What lies under `key`.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Held> {
        self.map.as_ref()?.get(key)
    }

    /// Shows what is held, one by one, until `look` says that it is enough. What comes or goes meanwhile
    /// may be among it, or not.
    pub fn each(&self, mut look: impl FnMut(&Held) -> bool) {
        for (_, held) in self.map.iter().flat_map(Map::iter) {
            if !look(&held) {
                return;
            }
        }
    }

    /// Puts `held` under `key`; returns whether there is a place for its kind.
    pub fn put(&self, key: Key, held: Held) -> bool {
        match &self.map {
            Some(map) if self.keeps_entries || matches!(held, Held::Vary(_)) => {
                map.insert(key, held);
                true
            }
            _ => false,
        }
    }

    /// Takes away what lies under `key`.
    pub fn remove(&self, key: &Key) {
        if let Some(map) = &self.map {
            map.remove(key);
        }
    }

    /// Takes away the entry under `key` if it is still this one.
    pub fn remove_this(&self, key: &Key, entry: &Arc<Entry>) {
        if let Some(map) = &self.map {
            map.remove_if(
                key,
                |held| matches!(held, Held::Entry(held) if Arc::ptr_eq(held, entry)),
            );
        }
    }

    /// How many entries and Vary rules are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.as_ref().map_or(0, Map::len)
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held, overheads included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.map.as_ref().map_or(0, Map::weight)
    }

    /// Entries that had to go for want of room.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Key, Held> for Weight {
    fn weight(&self, _: &Key, held: &Held) -> u64 {
        match held {
            Held::Entry(entry) => bytes_of(entry),
            // Weighed as if full, since its list of variants grows unseen.
            Held::Vary(rule) => {
                ENTRY_OVERHEAD
                    + rule.names.len() as u64 * RULE_FIELD_BYTES
                    + (VARIANTS_MAX * size_of::<Key>()) as u64
            }
        }
    }
}

/// The bytes that `entry` takes up.
#[must_use]
pub fn bytes_of(entry: &Entry) -> u64 {
    ENTRY_OVERHEAD + entry.bytes() as u64
}

#[derive(Clone, Debug)]
struct Evictions(Arc<AtomicU64>);

impl Lifecycle<Key, Held> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Key, _: Held) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::testing::{entry, stored};
    use crate::semantics::Timestamp;

    fn held(body: usize) -> Held {
        Held::Entry(Arc::new(entry("h/a", &vec![b'x'; body])))
    }

    fn key(n: u64) -> Key {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        Key::from_bytes(bytes)
    }

    #[test]
    fn it_never_holds_more_bytes_than_it_may() {
        let memory = Memory::new(1 << 20, 64 << 10);
        for n in 0..2_000 {
            memory.put(key(n), held((n as usize * 37) % 8_000));
            assert!(memory.bytes() <= 1 << 20);
        }
        assert!(memory.len() > 100 && memory.evicted() > 100);
    }

    /// What this process has in memory, in bytes.
    #[cfg(target_os = "linux")]
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Fields as they come in: slices of the buffer that a head was read into.
    #[cfg(target_os = "linux")]
    fn read_in(n: u64) -> HeaderMap {
        let head = format!(
            "content-type: application/json\ndate: Sun, 06 Nov 1994 08:49:37 GMT\n\
             cache-control: public, max-age=600\netag: \"{n:016}\"\n\
             last-modified: Sun, 06 Nov 1994 08:49:37 GMT\nx-request: {n}"
        );
        let mut buffer = head.clone().into_bytes();
        buffer.resize(8_192, 0);
        let buffer = bytes::Bytes::from(buffer);
        let mut fields = HeaderMap::new();
        for line in head.lines() {
            let (name, value) = line.split_once(": ").unwrap();
            let value = buffer.slice_ref(&buffer[offset(&head, value)..][..value.len()]);
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            fields.append(name, http::HeaderValue::from_maybe_shared(value).unwrap());
        }
        fields.reserve(8);
        fields
    }

    #[cfg(target_os = "linux")]
    fn offset(whole: &str, part: &str) -> usize {
        part.as_ptr() as usize - whole.as_ptr() as usize
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_counted_is_what_it_takes() {
        const ENTRIES: u64 = 100_000;
        const ALONE: &str = "LARDER_TEST_ALONE";
        // In a process of its own: what other tests take and leave would be counted here.
        if std::env::var_os(ALONE).is_none() {
            let own = std::env::current_exe().unwrap();
            let name = "cache::memory::tests::what_is_counted_is_what_it_takes";
            let mut alone = std::process::Command::new(own);
            let ran = alone.args(["--exact", name]).env(ALONE, "1").output();
            let ran = ran.unwrap();
            let said = String::from_utf8_lossy(&ran.stdout);
            assert!(ran.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let cache = crate::cache::Cache::new(1 << 30, "test", 1 << 20);
        let before = resident();
        for n in 0..ENTRIES {
            let stored = crate::semantics::Stored {
                headers: read_in(n),
                ..stored(&[b'x'; 128])
            };
            let label = crate::cache::Label {
                url: format!("example.org/articles/{n}").into(),
                ..Default::default()
            };
            let entry = Entry::new(&stored, &label);
            // Somebody has asked for each of them.
            drop(entry.body());
            assert!(cache.store(&key(n), Arc::new(entry), Timestamp::default()));
        }
        let status = cache.status();
        assert_eq!(status.entries, 100_000);
        let taken = resident().saturating_sub(before) as f64;
        let ratio = taken / status.bytes as f64;
        let each = (taken / ENTRIES as f64, status.bytes / ENTRIES);
        assert!((0.6..1.25).contains(&ratio), "{ratio}: {each:?}");
    }

    #[test]
    fn the_largest_object_fits_however_the_room_is_split() {
        for bytes in [2 << 20, 8 << 20, 64 << 20] {
            let memory = Memory::new(bytes, 1 << 20);
            memory.put(key(1), held(1 << 20));
            assert!(memory.get(&key(1)).is_some(), "{bytes}");
        }
    }

    #[test]
    fn those_that_are_asked_for_once_do_not_drive_out_those_that_are_asked_for_often() {
        const HOT: u64 = 500;
        let memory = Memory::new(4 << 20, 64 << 10);
        let body = 1_000;
        for round in 0..4 {
            for n in 0..HOT {
                if memory.get(&key(n)).is_none() {
                    memory.put(key(n), held(body));
                }
            }
            assert!(memory.bytes() < 1 << 20, "{round}");
        }
        // A crawler: a hundred thousand pages, each once; readers go on meanwhile.
        let (mut asked, mut found) = (0, 0);
        for n in 0..100_000 {
            memory.put(key(1_000 + n), held(body));
            if n % 10 == 0 {
                asked += 1;
                found += u64::from(memory.get(&key(n / 10 % HOT)).is_some());
            }
        }
        let held = (0..HOT).filter(|n| memory.get(&key(*n)).is_some()).count();
        assert_eq!((found, held as u64), (asked, HOT), "of {asked} and {HOT}");
        assert!(memory.evicted() > 90_000);
    }

    #[test]
    fn it_shrinks_before_the_process_comes_to_its_limit_and_grows_again_slowly() {
        let process = |used| {
            Some(cgroup::Memory {
                used,
                limit: 1_000 << 20,
            })
        };
        let mib = |bytes: u64| bytes << 20;
        let after = |before, in_force, held, used| {
            let before = mib(before);
            bound(
                mib(640),
                mib(in_force),
                mib(held),
                before,
                process(mib(used)),
            ) >> 20
        };
        let bound = |in_force, held, used| after(0, in_force, held, used);
        // Up to nine tenths nothing happens.
        assert_eq!(bound(640, 600, 900), 640);
        // Then it gives back what the process has too much, and at most a quarter of what it holds.
        assert_eq!(bound(640, 600, 920), 480);
        assert_eq!(bound(640, 600, 1_000), 400);
        assert_eq!(bound(640, 100, 950), 75);
        assert_eq!(bound(12, 12, 1_000), 10, "never below a sixty-fourth");
        // What was given back takes a while to show; but not beyond nineteen twentieths.
        assert_eq!(after(930, 480, 480, 930), 480);
        assert_eq!(after(929, 480, 480, 930), 360);
        assert_eq!(after(960, 480, 480, 960), 320);
        assert_eq!(bound(480, 480, 890), 480);
        assert_eq!(bound(480, 480, 760), 480);
        assert_eq!(bound(480, 480, 740), 490);
        assert_eq!(bound(636, 480, 10), 640);
        assert_eq!(
            super::bound(640, 10, 10, 0, None),
            640,
            "without a limit it has all its room"
        );

        let memory = Memory::new(4 << 20, 64 << 10);
        for n in 0..4_000 {
            memory.put(key(n), held(1_000));
        }
        let full = memory.bytes();
        for _ in 0..3 {
            memory.fit(process(mib(990)));
            assert!(memory.bytes() <= memory.in_force());
        }
        assert!(memory.bytes() < full / 2, "{} of {full}", memory.bytes());
        let (mut looks, mut last) = (0, memory.in_force());
        while memory.in_force() < 4 << 20 {
            memory.fit(process(mib(100)));
            assert!(memory.in_force() > last);
            (looks, last) = (looks + 1, memory.in_force());
        }
        assert!((30..=64).contains(&looks), "{looks}");
    }

    #[test]
    fn without_room_it_holds_nothing() {
        let memory = Memory::new(0, 1 << 20);
        memory.put(key(1), held(1));
        assert!(memory.get(&key(1)).is_none() && memory.is_empty());
        let small = Memory::new(1 << 16, 1 << 20);
        small.put(key(1), held(1 << 20));
        assert!(small.get(&key(1)).is_none());
    }
}
