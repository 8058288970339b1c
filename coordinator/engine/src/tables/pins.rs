//! Snapshots of the tables that a query reads, so that another coordinator can read the same ones.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use datafusion::common::Result;
use gust_catalog::Version;

use super::iceberg::IcebergTable;

/// Snapshots by the full names of their tables.
pub type Snapshots = BTreeMap<String, i64>;

/// Snapshots that a query is to read, and those that it has read.
#[derive(Debug, Default)]
pub struct Pins {
    wanted: Snapshots,
    seen: Mutex<Snapshots>,
}

impl Pins {
    pub fn new(wanted: Snapshots) -> Self {
        Self { wanted, seen: Mutex::default() }
    }

    /// Returns the table at the snapshot that is wanted.
    ///
    /// # Errors
    /// The snapshot has expired: rows of another one would not be those of the query.
    pub fn pinned(&self, name: &str, table: IcebergTable) -> Result<IcebergTable> {
        let table = match self.wanted.get(name) {
            Some(id) if table.snapshot_id() != Some(*id) => {
                let why = format!("the query began with snapshot {id} of `{name}`, which cannot be read any more");
                table.at(&Version::Snapshot(*id)).map_err(|error| error.context(why))?
            }
            _ => table,
        };
        if let Some(id) = table.snapshot_id() {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), id);
        }
        Ok(table)
    }

    /// Returns the snapshots that were read.
    pub fn seen(&self) -> Snapshots {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use gust_catalog::Table;

    use super::*;
    use crate::config::S3Config;
    use crate::storage::Stores;

    #[tokio::test]
    async fn a_table_is_read_at_its_snapshot_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("v1.metadata.json");
        let snapshot = |id: i64| {
            format!(
                r#"{{"snapshot-id": {id}, "timestamp-ms": {id}, "schema-id": 0, "manifest-list": "/t/{id}.avro", "summary": {{"operation": "append"}}}}"#
            )
        };
        let metadata = format!(
            r#"{{"format-version": 2, "location": "/t", "current-schema-id": 0, "current-snapshot-id": 2,
            "schemas": [{{"schema-id": 0, "type": "struct", "fields": [{{"id": 1, "name": "a", "required": false, "type": "int"}}]}}],
            "snapshots": [{}, {}]}}"#,
            snapshot(1),
            snapshot(2)
        );
        std::fs::write(&file, metadata).expect("written");
        let stores = Stores::new(S3Config::default()).for_catalog();
        let table = Table::open(file.to_str().expect("a path"), &stores).await.expect("a table");
        let open = || IcebergTable::new(table.clone()).expect("a table");
        let pins = Pins::new(Snapshots::from([("l.s.old".to_owned(), 1), ("l.s.gone".to_owned(), 7)]));
        for (name, expect) in [("l.s.old", 1), ("l.s.new", 2)] {
            let pinned = pins.pinned(name, open()).expect("a table");
            assert_eq!(pinned.snapshot_id(), Some(expect), "{name}");
        }
        let error = pins.pinned("l.s.gone", open()).expect_err("it has expired").to_string();
        assert!(error.contains("snapshot 7 of `l.s.gone`"), "{error}");
        assert_eq!(pins.seen(), Snapshots::from([("l.s.new".to_owned(), 2), ("l.s.old".to_owned(), 1)]));
    }
}
