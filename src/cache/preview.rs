//! What purges would hit, of what memory holds: looks, and changes nothing.
//!
//! Redis is never looked through for it: there is no telling how much it holds.

use super::memory::{Held, Memory, bytes_of};
use super::purge::{Purge, PurgeLog, Since, Table, Verdict};

/// Entries looked at, times purges: some seconds of one processor at most.
const LOOKS_MAX: usize = 8_000_000;
/// URLs shown of each purge.
pub const SAMPLE_MAX: usize = 10;

/// What purges would hit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// One for each purge, in their order.
    pub hits: Vec<Hits>,
    /// Entries that were looked at.
    pub looked_at: usize,
    /// Whether those were all in memory.
    pub complete: bool,
}

/// What one purge would hit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Entries.
    pub entries: u64,
    /// Bytes that they take in memory.
    pub bytes: u64,
    /// The URLs of some of them.
    pub urls: Vec<String>,
}

/// What each of `purges` would hit in `memory` that none before it has. Takes a while where much is held.
pub(super) fn preview(memory: &Memory, log: &PurgeLog, purges: &[Purge]) -> Preview {
    let tables = purges.iter().map(|purge| {
        let mut table = Table::default();
        table.apply(purge, None);
        // As it goes with the purge itself.
        purge.of_path().map(|of_path| table.apply(&of_path, None));
        table
    });
    let mut tables: Vec<(Table, Hits)> = tables.map(|table| (table, Hits::default())).collect();
    let most = LOOKS_MAX / purges.len().max(1);
    let mut preview = Preview {
        complete: true,
        ..Preview::default()
    };
    memory.each(|held| {
        let Held::Entry(entry) = held else {
            return true;
        };
        if preview.looked_at >= most {
            preview.complete = false;
            return false;
        }
        preview.looked_at += 1;
        let checked = Since::Local(entry.checked());
        if log.verdict(entry.subject(), checked) == Verdict::Hard {
            return true;
        }
        for (table, hits) in &mut tables {
            if table.verdict(entry.subject(), Since::Local(0)) != Verdict::Valid {
                hits.entries += 1;
                hits.bytes += bytes_of(entry);
                if hits.urls.len() < SAMPLE_MAX {
                    hits.urls.push(entry.url().to_owned());
                }
            }
        }
        true
    });
    preview.hits = tables.into_iter().map(|(_, hits)| hits).collect();
    preview
}

#[cfg(test)]
mod tests {
    use super::super::{Cache, Label, Scope, testing};
    use super::*;
    use crate::semantics::{Key, Timestamp};
    use std::sync::Arc;

    #[tokio::test]
    async fn it_tells_what_each_purge_hits_and_purges_nothing() {
        let cache = Cache::new(1 << 20, "test", 1 << 16);
        for (n, tags) in [(1, &["a"][..]), (2, &["a", "b"]), (3, &["c"])] {
            let label = Label {
                tags: tags.iter().map(|tag| (*tag).into()).collect(),
                ..testing::label(&format!("host/{n}"))
            };
            let entry = super::super::Entry::new(&testing::stored(b"body"), &label);
            let now = Timestamp::from_millis(1_000);
            cache.store(&Key::from_bytes([n; 16]), Arc::new(entry), now);
        }
        let purge = |scope| Purge { scope, soft: true };
        let asked = [
            purge(Scope::Tag("a".into())),
            purge(Scope::Url("/3".into())),
            purge(Scope::Tag("none".into())),
            purge(Scope::All),
        ];
        for _ in 0..2 {
            let preview = cache.would_hit(&asked);
            let entries: Vec<_> = preview.hits.iter().map(|hits| hits.entries).collect();
            assert_eq!(entries, [2, 1, 0, 3]);
            assert_eq!((preview.looked_at, preview.complete), (3, true));
            assert_eq!(preview.hits[1].urls, ["host/3"]);
        }
        // What is gone already is not hit once more.
        cache
            .purge(vec![Purge {
                scope: Scope::Tag("a".into()),
                soft: false,
            }])
            .await;
        assert_eq!(cache.would_hit(&asked[..1]).hits[0].entries, 0);
    }
}
