//! Last answers of a catalog for its tables, so that one that has not changed is not sent again.

use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::answer::StorageCredential;
use super::lent::held_bytes;
use crate::table::Table;

/// Most bytes of decoded metadata and credentials that are kept of one catalog.
const HELD_BYTES_MAX: usize = 32 << 20;
/// Bytes of an answer beside its metadata and credentials, about.
const OTHER_BYTES: usize = 1024;

/// Answer for a table.
#[derive(Clone)]
pub(super) struct Loaded {
    pub(super) etag: String,
    pub(super) table: Table,
    pub(super) lent: Arc<[StorageCredential]>,
}

impl Loaded {
    fn held_bytes(&self) -> usize {
        self.table.held_bytes() + held_bytes(&self.lent) + OTHER_BYTES
    }
}

/// Namespace and name of a table.
pub(super) type TableKey = (Vec<String>, String);

/// Last answers with an ETag, bounded by bytes. Those that were not asked for the longest go first.
pub(super) struct LoadedTables {
    bytes_max: usize,
    kept: Mutex<Kept>,
}

struct Kept {
    tables: LruCache<TableKey, Loaded>,
    held_bytes: usize,
}

impl Default for LoadedTables {
    fn default() -> Self {
        Self::new(HELD_BYTES_MAX)
    }
}

impl LoadedTables {
    fn new(bytes_max: usize) -> Self {
        LoadedTables { bytes_max, kept: Mutex::new(Kept { tables: LruCache::unbounded(), held_bytes: 0 }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &TableKey) -> Option<Loaded> {
        self.lock().tables.get(key).cloned()
    }

    /// Keeps an answer, and drops others to make room for it. One that is larger than all room is not kept.
    pub(super) fn keep(&self, key: TableKey, loaded: Loaded) {
        let mut kept = self.lock();
        let Kept { tables, held_bytes } = &mut *kept;
        if loaded.held_bytes() > self.bytes_max {
            *held_bytes -= tables.pop(&key).map_or(0, |before| before.held_bytes());
            return;
        }
        *held_bytes += loaded.held_bytes();
        if let Some((_, before)) = tables.push(key, loaded) {
            *held_bytes -= before.held_bytes();
        }
        while *held_bytes > self.bytes_max
            && let Some((_, oldest)) = tables.pop_lru()
        {
            *held_bytes -= oldest.held_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::local_stores;

    fn loaded(columns: usize) -> Loaded {
        let fields = (1..=columns)
            .map(|id| format!(r#"{{"id": {id}, "name": "column{id}", "required": false, "type": "int"}}"#));
        let fields = fields.collect::<Vec<_>>().join(", ");
        let metadata = format!(
            r#"{{"format-version": 2, "location": "file:///t", "current-schema-id": 0, "last-column-id": {columns},
            "schemas": [{{"schema-id": 0, "type": "struct", "fields": [{fields}]}}]}}"#
        );
        let table = Table::parse("a.t", "file:///t/v1.metadata.json", metadata.as_bytes(), &local_stores());
        Loaded { etag: "x".to_owned(), table: table.expect("metadata"), lent: Arc::new([]) }
    }

    #[test]
    fn answers_are_bounded_by_their_bytes() {
        let key = |name: &str| (vec!["a".to_owned()], name.to_owned());
        let (small, large) = (loaded(10), loaded(1000));
        assert!(large.held_bytes() > 20 * small.held_bytes(), "{} {}", large.held_bytes(), small.held_bytes());
        let tables = LoadedTables::new(3 * small.held_bytes());
        let names =
            || ["t0", "t1", "t2", "t3", "big"].into_iter().filter(|name| tables.lock().tables.contains(&key(name)));
        for name in ["t0", "t1", "t2", "t2"] {
            tables.keep(key(name), small.clone());
        }
        assert_eq!(names().collect::<Vec<_>>(), ["t0", "t1", "t2"]);
        assert!(tables.get(&key("t0")).is_some(), "it was asked for last");
        tables.keep(key("t3"), small.clone());
        assert_eq!(names().collect::<Vec<_>>(), ["t0", "t2", "t3"]);
        assert_eq!(tables.lock().held_bytes, 3 * small.held_bytes());
        tables.keep(key("big"), large);
        assert_eq!(names().collect::<Vec<_>>(), ["t0", "t2", "t3"], "there is no room for it");
    }
}
