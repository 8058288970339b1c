//! Files and bytes that table metadata saved a query. Table providers note them while they plan, and EXPLAIN shows
//! them.

use std::sync::{Arc, Mutex};

use gust_catalog::Pruning;

/// Notes of one query, as an extension of its session. A provider adds one for each table that it plans files for.
#[derive(Debug, Clone, Default)]
pub struct PruningNotes(Arc<Mutex<Vec<(String, Pruning)>>>);

impl PruningNotes {
    pub fn note(&self, table: &str, pruning: Pruning) {
        self.0.lock().expect("no holder panics").push((table.to_owned(), pruning));
    }

    /// Returns the notes in the order in which the tables were planned, and clears them. A second planning notes again.
    pub fn take(&self) -> Vec<(String, Pruning)> {
        std::mem::take(&mut *self.0.lock().expect("no holder panics"))
    }
}
