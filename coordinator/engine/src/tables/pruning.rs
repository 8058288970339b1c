//! What table metadata saved a query, noted by table providers while they plan and shown by EXPLAIN.

use std::sync::{Arc, Mutex};

use gust_catalog::Pruning;

/// A session extension of one query; providers note each table that they plan files for.
#[derive(Debug, Clone, Default)]
pub struct PruningNotes(Arc<Mutex<Vec<(String, Pruning)>>>);

impl PruningNotes {
    pub fn note(&self, table: &str, pruning: Pruning) {
        self.0.lock().expect("no holder panics").push((table.to_owned(), pruning));
    }

    /// Tables in the order in which they were planned. Clears the notes: planning again notes again.
    pub fn take(&self) -> Vec<(String, Pruning)> {
        std::mem::take(&mut *self.0.lock().expect("no holder panics"))
    }
}
