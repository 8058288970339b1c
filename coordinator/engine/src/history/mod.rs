//! The history of queries: a record of each in an SQLite file, and tables of it in SQL.
//!
//! ```text
//!  events, report ─► record (pure) ─► writer ─► store ─► history.db ─► tables ─► gust.queries, gust.fragments, gust.cost_lines
//! ```
//!
//! Recorders write, by the one writer of their process, and a session only reads. Nothing here makes a query fail, because its rows were given
//! before. Its report says why a record is missing.
//!
//! Non-goals: results, and statements that the user did not ask for (`--setup` files, `gust explain`).

mod columns;
mod error;
mod record;
mod store;
mod tables;
mod writer;

use std::time::Duration;

pub use error::{HistoryError, HistoryFault};
pub use record::{Outcome, Record, RecordInput, StatementEnd, StatementMeta, record};
pub use store::Store;
pub use tables::{SCHEMA, schema, table_names};
pub use writer::{HistoryWriter, LateRecord, Recorded};

/// Time that recording takes at most. A statement's rows are out by then, but its report waits.
pub const WRITE_MAX: Duration = Duration::from_secs(5);

/// Message for settings that have no place for a history.
pub const NO_PLACE: &str = "the history has no folder: neither XDG_STATE_HOME nor HOME is set";

/// Next step where there is no place for a history.
pub const NO_PLACE_HINT: &str = "set history.path, or history.enabled = false";
