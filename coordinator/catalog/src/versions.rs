//! Versions of a table: snapshots, branches, tags, and points in time.
//!
//! A snapshot, a tag and a time have the schema of their snapshot; a branch has the table's. A time goes by the log of current
//! snapshots, so that a version that was rolled back is found for the time in which it was the current one.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::error::{Error, Result};
use crate::metadata::{Snapshot, TableMetadata};
use crate::table::Table;

/// Names that a hint lists.
const NAMES_MAX: usize = 8;
/// Branch of the current snapshot.
const MAIN: &str = "main";

/// Version of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    Snapshot(i64),
    /// Branch or tag.
    Reference(String),
    /// Snapshot that was the current one at this time, in milliseconds since 1970.
    TimestampMs(i64),
}

impl Table {
    /// Returns the table as it was at a version.
    ///
    /// # Errors
    /// No version: it never was, or has expired. Unsupported: an encrypted snapshot, or a schema that cannot be read.
    pub fn at(&self, version: &Version) -> Result<Table> {
        let metadata = self.metadata();
        let (snapshot, own_schema) = match version {
            Version::Snapshot(id) => (self.snapshot(*id, || format!("snapshot {id}"))?, true),
            Version::Reference(name) => match metadata.references.get(name) {
                Some(reference) => {
                    let what = || format!("snapshot {}, to which `{name}` points", reference.snapshot);
                    (self.snapshot(reference.snapshot, what)?, !reference.is_branch)
                }
                // Tables of version 1 may list no branch.
                None if name == MAIN => return Ok(self.clone()),
                None => return Err(self.no_reference(name)),
            },
            Version::TimestampMs(at) => (self.snapshot_at(*at)?, true),
        };
        if snapshot.is_encrypted {
            return Err(self.encrypted(self.metadata_location()));
        }
        let mut pinned = TableMetadata::clone(metadata);
        pinned.snapshot = Some(snapshot.clone());
        if let (true, Some(id)) = (own_schema, snapshot.schema_id) {
            let place = pinned.schema_ids.iter().position(|known| *known == id);
            let place = place.ok_or_else(|| Error::Unsupported {
                table: self.name().to_owned(),
                feature: format!("schema {id}, of snapshot {}, which cannot be read", snapshot.id),
                next: "read a newer snapshot",
            })?;
            pinned.schemas[..=place].rotate_right(1);
            pinned.schema_ids[..=place].rotate_right(1);
        }
        Ok(self.with_metadata(Arc::new(pinned)))
    }

    fn snapshot(&self, id: i64, what: impl FnOnce() -> String) -> Result<&Snapshot> {
        let found = self.metadata().snapshots.iter().find(|snapshot| snapshot.id == id);
        found.ok_or_else(|| self.no_version(what()))
    }

    fn snapshot_at(&self, at: i64) -> Result<&Snapshot> {
        let metadata = self.metadata();
        let what = || format!("snapshot at or before {}", time(at));
        let entry = metadata.log.iter().rev().find(|entry| entry.timestamp_ms <= at);
        match entry {
            Some(entry) => self.snapshot(entry.snapshot, || {
                format!("snapshot {} any more, which was the current one at {}", entry.snapshot, time(at))
            }),
            None if metadata.log.is_empty() => {
                let before = metadata.snapshots.iter().filter(|snapshot| snapshot.timestamp_ms <= at);
                let newest = before.max_by_key(|snapshot| snapshot.timestamp_ms);
                newest.ok_or_else(|| self.no_version(what()))
            }
            None => Err(self.no_version(what())),
        }
    }

    /// Makes the error of a version that is not there. Its hint names the oldest that is left.
    fn no_version(&self, version: String) -> Error {
        let snapshots = &self.metadata().snapshots;
        let oldest = snapshots.iter().min_by_key(|snapshot| snapshot.timestamp_ms);
        let hint = match oldest {
            Some(Snapshot { id, timestamp_ms, .. }) => {
                format!("the oldest snapshot that is left is {id} of {}", time(*timestamp_ms))
            }
            None => "it has no snapshot yet".to_owned(),
        };
        Error::NoVersion { table: self.name().to_owned(), version, hint: Some(hint) }
    }

    fn no_reference(&self, name: &str) -> Error {
        let references = &self.metadata().references;
        let is_snapshot = |id: i64| self.metadata().snapshots.iter().any(|snapshot| snapshot.id == id);
        let names: Vec<&str> = references.keys().map(String::as_str).take(NAMES_MAX).collect();
        let hint = match name.parse() {
            Ok(id) if is_snapshot(id) => format!("write a snapshot without quotes: {id}"),
            _ if names.is_empty() => "it has no branch but main, and no tag".to_owned(),
            _ => format!("it has {}", names.join(", ")),
        };
        Error::NoVersion { table: self.name().to_owned(), version: format!("tag or branch `{name}`"), hint: Some(hint) }
    }
}

/// Formats a time of milliseconds since 1970.
fn time(ms: i64) -> String {
    match DateTime::<Utc>::from_timestamp_millis(ms) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::Millis, true),
        None => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::storage::CatalogStores;

    fn table() -> Table {
        let field = |id: i32, name: &str| json!({"id": id, "name": name, "required": false, "type": "long"});
        let snapshot = |id: i64, ms: i64, schema: i64| {
            json!({"snapshot-id": id, "timestamp-ms": ms, "schema-id": schema, "manifest-list": format!("l{id}"),
                "summary": {"operation": "append"}})
        };
        let entry = |id: i64, ms: i64| json!({"snapshot-id": id, "timestamp-ms": ms});
        let metadata = json!({
            "format-version": 2, "location": "/t", "current-schema-id": 2,
            "schemas": [
                {"schema-id": 0, "type": "struct", "fields": [field(1, "a")]},
                {"schema-id": 1, "type": "struct", "fields": [field(1, "a"), field(2, "b")]},
                {"schema-id": 2, "type": "struct", "fields": [field(2, "c")]},
            ],
            "current-snapshot-id": 20,
            // Snapshot 10 has expired. 30 was rolled back to 20.
            "snapshots": [snapshot(20, 2000, 0), snapshot(30, 3000, 1), snapshot(40, 3500, 1)],
            "snapshot-log": [entry(10, 1000), entry(20, 2000), entry(30, 3000), entry(20, 4000)],
            "refs": {
                "main": {"snapshot-id": 20, "type": "branch"},
                "dev": {"snapshot-id": 40, "type": "branch"},
                "v1": {"snapshot-id": 30, "type": "tag"},
                "old": {"snapshot-id": 10, "type": "tag"},
            },
        });
        let stores = CatalogStores::new(|_| Err("no store is asked for".into()));
        Table::parse("a.t", "/t/metadata/v1.metadata.json", metadata.to_string().as_bytes(), &stores).expect("a table")
    }

    fn found(version: Version) -> Result<(i64, Vec<String>), (String, String)> {
        let pinned = table().at(&version);
        let pinned = pinned.map_err(|error| (error.to_string(), error.hint().unwrap_or_default().to_owned()))?;
        let names = pinned.schema().fields.iter().map(|field| field.name.clone()).collect();
        Ok((pinned.snapshot_id().expect("a snapshot"), names))
    }

    #[test]
    fn each_kind_of_version_has_its_snapshot_and_its_schema() {
        let check = |version: Version, snapshot: i64, columns: &[&str]| {
            let columns = columns.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(found(version.clone()), Ok((snapshot, columns)), "{version:?}");
        };
        let reference = |name: &str| Version::Reference(name.to_owned());
        check(Version::Snapshot(20), 20, &["a"]);
        check(Version::Snapshot(30), 30, &["a", "b"]);
        check(reference("v1"), 30, &["a", "b"]);
        check(reference("main"), 20, &["c"]);
        check(reference("dev"), 40, &["c"]);
        // The log decides: 30 was the current one before it was rolled back, and 40 never was.
        check(Version::TimestampMs(2000), 20, &["a"]);
        check(Version::TimestampMs(2999), 20, &["a"]);
        check(Version::TimestampMs(3999), 30, &["a", "b"]);
        check(Version::TimestampMs(4000), 20, &["a"]);
        check(Version::TimestampMs(i64::MAX), 20, &["a"]);
        assert_eq!(table().schema().fields.len(), 1, "the table itself has its own schema");
    }

    #[test]
    fn a_version_that_is_not_there_names_what_is_left() {
        const OLDEST: &str = "the oldest snapshot that is left is 20 of 1970-01-01T00:00:02.000Z";
        let check = |version: Version, message: &str, hint: &str| {
            assert_eq!(found(version), Err((format!("table a.t has no {message}"), hint.to_owned())));
        };
        let reference = |name: &str| Version::Reference(name.to_owned());
        check(Version::Snapshot(10), "snapshot 10", OLDEST);
        check(reference("old"), "snapshot 10, to which `old` points", OLDEST);
        check(reference("x"), "tag or branch `x`", "it has dev, main, old, v1");
        check(reference("30"), "tag or branch `30`", "write a snapshot without quotes: 30");
        check(Version::TimestampMs(999), "snapshot at or before 1970-01-01T00:00:00.999Z", OLDEST);
        check(
            Version::TimestampMs(1500),
            "snapshot 10 any more, which was the current one at 1970-01-01T00:00:01.500Z",
            OLDEST,
        );
    }
}
