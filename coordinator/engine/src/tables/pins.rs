//! Snapshots of the tables that a query reads, so that another coordinator can read the same ones.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

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

    /// Returns the table at the snapshot that is wanted. One that has expired, or is not known, leaves the table as it is.
    pub fn pinned(&self, name: &str, table: IcebergTable) -> IcebergTable {
        let table = match self.wanted.get(name) {
            Some(id) if table.snapshot_id() != Some(*id) => table.at(&Version::Snapshot(*id)).unwrap_or(table),
            _ => table,
        };
        if let Some(id) = table.snapshot_id() {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), id);
        }
        table
    }

    /// Returns the snapshots that were read.
    pub fn seen(&self) -> Snapshots {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
