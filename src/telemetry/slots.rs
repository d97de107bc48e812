//! A table that fills itself without locks: series never seen before claim a place, all others find
//! theirs. Never more than `N` places; what does not fit shares one more, the rest.

use std::sync::OnceLock;

/// `N` places (a power of two), found by hash and linear probing.
#[derive(Debug)]
pub(super) struct Slots<K, V, const N: usize> {
    places: Box<[Place<K, V>]>,
    rest: (K, V),
}

/// Empty until a series claims it, then never changed.
type Place<K, V> = OnceLock<Box<(K, V)>>;

impl<K, V: Default, const N: usize> Slots<K, V, N> {
    /// An empty table; `rest` is the key under which everything is kept that finds no place.
    pub(super) fn new(rest: K) -> Self {
        const { assert!(N.is_power_of_two()) };
        Self {
            places: (0..N).map(|_| OnceLock::new()).collect(),
            rest: (rest, V::default()),
        }
    }

    /// The value whose key satisfies `same`, a new one, or the rest's where every place is taken by
    /// others. Allocates only for a key never seen before.
    pub(super) fn find(&self, hash: u64, same: impl Fn(&K) -> bool, make: impl Fn() -> K) -> &V {
        let start = hash as usize;
        for step in 0..N {
            let place = &self.places[start.wrapping_add(step) & (N - 1)];
            // Two threads may race for an empty place; the loser sees the winner's key and goes on.
            let (key, value) = &**place.get_or_init(|| Box::new((make(), V::default())));
            if same(key) {
                return value;
            }
        }
        &self.rest.1
    }

    /// Everything kept, the rest last (usually still at its default).
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.places
            .iter()
            .filter_map(|place| place.get().map(|kept| (&kept.0, &kept.1)))
            .chain([(&self.rest.0, &self.rest.1)])
    }
}

/// FNV-1a: short names only, no need to withstand an attacker (names come from us or the YAML).
pub(super) fn hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_finds_what_it_knows_and_gives_the_rest_to_strangers() {
        use std::cell::Cell;
        let slots: Slots<u32, Cell<u32>, 4> = Slots::new(u32::MAX);
        let set = |key: u32, value: u32| {
            slots
                .find(u64::from(key * 7), |known| *known == key, || key)
                .set(value);
        };
        for key in 0..6 {
            set(key, key * 10);
        }
        let kept: Vec<_> = slots
            .iter()
            .map(|(key, value)| (*key, value.get()))
            .collect();
        assert_eq!(kept.len(), 5);
        for key in 0..4 {
            assert!(kept.contains(&(key, key * 10)));
        }
        assert!(
            kept.contains(&(u32::MAX, 50)),
            "the two others share the rest"
        );
    }
}
