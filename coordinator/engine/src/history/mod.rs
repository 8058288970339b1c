//! The history of queries: a record of each in an SQLite file, and tables of it in SQL.
//!
//! ```text
//!  events, report ─► record (pure) ─► store ─► history.db ─► tables ─► gust.queries, gust.fragments, gust.cost_lines
//! ```
//!
//! The command line writes, and a session only reads. Nothing here makes a query fail, because its rows were given
//! before. Its report says why a record is missing.
//!
//! Non-goals: results, and statements that the user did not ask for (`--setup` files, `gust explain`).

mod columns;
mod error;
mod record;
mod store;
mod tables;

use std::time::Duration;

pub use error::{HistoryError, HistoryFault};
pub use record::{Outcome, Record, RecordInput, StatementEnd, StatementMeta, record};
pub use store::Store;
pub use tables::{SCHEMA, schema, table_names};

use crate::config::HistoryConfig;
use crate::error::QueryError;

/// Time that recording takes at most. A statement's rows are out by then, but its report waits.
pub const WRITE_MAX: Duration = Duration::from_secs(5);

/// Message for settings that have no place for a history.
pub const NO_PLACE: &str = "the history has no folder: neither XDG_STATE_HOME nor HOME is set";

/// Next step where there is no place for a history.
pub const NO_PLACE_HINT: &str = "set history.path, or history.enabled = false";

/// Writes the record of a statement, if the settings want one.
///
/// # Errors
/// The reason why there is no record.
pub async fn write(input: &RecordInput<'_>, settings: &HistoryConfig) -> Result<(), QueryError> {
    if !settings.enabled {
        return Ok(());
    }
    let Some(store) = Store::of(settings) else { return Err(QueryError::setup(NO_PLACE).with_hint(NO_PLACE_HINT)) };
    let record = record(input, settings.statement);
    let days = chrono::Duration::days(settings.retention_days.into());
    let oldest = input.meta.started.checked_sub_signed(days).unwrap_or(chrono::DateTime::<chrono::Utc>::MIN_UTC);
    let written = tokio::time::timeout(WRITE_MAX, store.write(&record, oldest)).await;
    written
        .unwrap_or_else(|_| Err(store.error(HistoryFault::Slow)))
        .map_err(|error| QueryError::setup(error.to_string()).with_default_hint(error.fault.hint()).with_source(error))
}
