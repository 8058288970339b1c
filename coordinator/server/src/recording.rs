//! The history as the last statement found it. One that cannot be written is told once, and not with each statement.

use std::sync::atomic::{AtomicU64, Ordering};

/// Statements without a record since the last one that has one.
#[derive(Debug, Default)]
pub(crate) struct Recording(AtomicU64);

impl Recording {
    /// Hears of a statement that has ended: the reason why the history does not have it, if there is one.
    pub(crate) fn hear(&self, id: Option<&str>, unrecorded: Option<&str>) {
        match unrecorded {
            Some(why) if self.0.fetch_add(1, Ordering::Relaxed) == 0 => {
                tracing::warn!(
                    id,
                    "not recorded in the history: {why}; statements go on, and gust_statements_unrecorded_total counts those without a record"
                );
            }
            Some(_) => {}
            None => match self.0.swap(0, Ordering::Relaxed) {
                0 => {}
                count => tracing::warn!("the history is written again; {count} statements have no record"),
            },
        }
    }
}
