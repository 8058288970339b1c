//! The file of a history: SQLite with a rollback journal. It is one file, which may lie on any file system and can be
//! copied.
//!
//! A connection lives for one record, or for one reading. Readers take a page at a time, so that a slow reader makes
//! nobody wait. Writers and readers check the file's owner and version. Versions differ by columns alone: a writer adds
//! those that the file lacks, and a reader shows them as NULL.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::RecordBatch;
use chrono::{DateTime, Utc};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions, Connection, QueryBuilder, Row, Sqlite};
use tokio_util::sync::CancellationToken;

use super::columns::{COST_LINES, Column, FRAGMENTS, QUERIES, StoredValue, Table};
use super::error::{HistoryError, HistoryFault};
use super::record::Record;
use crate::config::HistoryConfig;

/// Version of the tables in the file.
pub(super) const VERSION: i64 = 2;
/// Earliest version that is known.
const VERSION_MIN: i64 = 1;
/// The text "gust", in the header of the file.
const APPLICATION_ID: i64 = 0x6775_7374;

/// Time to wait for other writers.
pub(super) const LOCK_WAIT_MAX: Duration = Duration::from_secs(2);
/// Old queries that go with each new one. They are more than one, so that all go in time, and few, so that a write
/// stays fast.
const REMOVED_MAX: i64 = 20;
/// Rows that are read at once.
const PAGE_ROWS: i64 = 1_000;
/// Values that one INSERT takes (sqlite.org/limits.html).
const VALUES_MAX: usize = 32_766;
/// Bytes of a page: SQLite's own default, which a file keeps.
const PAGE_BYTES: u64 = 4_096;

/// The file of a history. It may not exist.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    bytes_max: u64,
}

/// Rows that are read at once.
pub(super) struct Page {
    pub batch: RecordBatch,
    /// Number of the last row.
    pub last_row: i64,
}

impl Store {
    /// Makes a store. Returns None if the settings have no place for it.
    pub fn of(settings: &HistoryConfig) -> Option<Self> {
        settings.path.clone().map(|path| Self { path, bytes_max: settings.bytes_max })
    }

    pub fn error(&self, fault: HistoryFault) -> HistoryError {
        HistoryError { path: self.path.clone(), fault }
    }

    fn failed(&self, error: &sqlx::Error) -> HistoryError {
        self.error(HistoryFault::of(error, self.bytes_max))
    }

    /// Adds a record, and removes some queries that began before `oldest`. It does both or neither, and neither once it is given up.
    pub async fn write(
        &self,
        record: &Record,
        oldest: DateTime<Utc>,
        given_up: &CancellationToken,
    ) -> Result<(), HistoryError> {
        let path = self.path.clone();
        let made = tokio::task::spawn_blocking(move || make(&path)).await;
        let made = made.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        made.map_err(|error| self.error(HistoryFault::Unusable(error.to_string())))?;
        let mut connection = self.connect().await?;
        // SQLite waits for a lock that is taken at the beginning. It refuses one that is asked for later, without a
        // wait.
        let mut writing = connection.begin_with("BEGIN IMMEDIATE").await.map_err(|e| self.failed(&e))?;
        let version = self.version(&mut writing).await?;
        let written = async {
            match version {
                None => create(&mut writing).await?,
                Some(VERSION) => {}
                Some(_) => add_columns(&mut writing).await?,
            }
            remove_before(&mut writing, oldest).await?;
            insert(&mut writing, "queries", QUERIES, std::slice::from_ref(&record.query)).await?;
            insert(&mut writing, "fragments", FRAGMENTS, &record.attempts).await?;
            insert(&mut writing, "cost_lines", COST_LINES, &record.lines).await?;
            if given_up.is_cancelled() {
                return writing.rollback().await.map(|()| false);
            }
            writing.commit().await.map(|()| true)
        };
        if !written.await.map_err(|e| self.failed(&e))? {
            return Err(self.error(HistoryFault::Slow));
        }
        connection.close().await.map_err(|e| self.failed(&e))
    }

    /// Opens a connection to read with. Returns None if nothing has been recorded yet.
    pub(super) async fn open(&self) -> Result<Option<SqliteConnection>, HistoryError> {
        let exists = tokio::fs::try_exists(&self.path).await;
        if !exists.map_err(|error| self.error(HistoryFault::Unusable(error.to_string())))? {
            return Ok(None);
        }
        let mut connection = self.connect().await?;
        let version = self.version(&mut connection).await?;
        Ok(version.is_some().then_some(connection))
    }

    /// Reads the rows after a row's number, in the order in which they were written: all, or those of one user's statements.
    /// Returns None at the end.
    pub(super) async fn page(
        &self,
        connection: &mut SqliteConnection,
        table: &Table,
        of_user: Option<&str>,
        after: i64,
    ) -> Result<Option<Page>, HistoryError> {
        let name = table.name;
        let known = names(connection, name).await.map_err(|e| self.failed(&e))?;
        let selected = table.stored().map(|(name, _)| if known.contains(&name) { name } else { "NULL".to_owned() });
        let selected = selected.collect::<Vec<_>>().join(", ");
        let seen = match of_user {
            None => "",
            Some(_) if name == Table::all()[0].name => " AND \"user_name\" = ?",
            Some(_) => " AND query_id IN (SELECT id FROM queries WHERE \"user_name\" = ?)",
        };
        let sql = format!(
            "SELECT {selected}, rowid FROM {name} WHERE rowid > {after}{seen} ORDER BY rowid LIMIT {PAGE_ROWS}"
        );
        let query = of_user.into_iter().fold(sqlx::query(&sql), |query, user| query.bind(user.to_owned()));
        let rows = query.fetch_all(connection).await.map_err(|e| self.failed(&e))?;
        let Some(last) = rows.last() else { return Ok(None) };
        let last_row = last.try_get(table.columns.len()).map_err(|e| self.failed(&e))?;
        let batch = batch(table, &rows).map_err(|reason| self.error(HistoryFault::Damaged(reason)))?;
        Ok(Some(Page { batch, last_row }))
    }

    async fn connect(&self) -> Result<SqliteConnection, HistoryError> {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(LOCK_WAIT_MAX)
            .pragma("max_page_count", (self.bytes_max / PAGE_BYTES).max(1).to_string())
            .disable_statement_logging();
        options.connect().await.map_err(|e| self.failed(&e))
    }

    /// Returns the version of the file's tables; None if it has no tables yet.
    ///
    /// # Errors
    /// [`HistoryError`] for a file that is no history, or a history that this program does not know.
    async fn version(&self, connection: &mut SqliteConnection) -> Result<Option<i64>, HistoryError> {
        let header = async {
            let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
            let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
            let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(connection).await?;
            Ok((id, version, tables))
        };
        match header.await.map_err(|e| self.failed(&e))? {
            (0, 0, 0) => Ok(None),
            (APPLICATION_ID, found @ VERSION_MIN..=VERSION, _) => Ok(Some(found)),
            (APPLICATION_ID, found, _) if found > VERSION => {
                Err(self.error(HistoryFault::Newer { found, known: VERSION }))
            }
            (APPLICATION_ID, found, _) => Err(self.error(HistoryFault::Older { found, known: VERSION })),
            _ => Err(self.error(HistoryFault::Foreign)),
        }
    }
}

/// Makes the file and its folder if they are missing. Only their owner may read them, because statements may tell much.
fn make(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

async fn create(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    let tables = Table::all().map(|table| table.ddl());
    let others = [
        // Old queries are found by this index.
        "CREATE INDEX queries_by_start ON queries (started_us)".to_owned(),
        "CREATE INDEX fragments_by_query ON fragments (query_id)".to_owned(),
        "CREATE INDEX cost_lines_by_query ON cost_lines (query_id)".to_owned(),
        format!("PRAGMA application_id = {APPLICATION_ID}"),
        format!("PRAGMA user_version = {VERSION}"),
    ];
    for sql in tables.iter().chain(&others) {
        sqlx::query(sql).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Lists the columns that a table in the file has, in quotes.
async fn names(connection: &mut SqliteConnection, table: &str) -> sqlx::Result<BTreeSet<String>> {
    let sql = "SELECT '\"' || name || '\"' FROM pragma_table_info(?)";
    Ok(sqlx::query_scalar::<_, String>(sql).bind(table).fetch_all(connection).await?.into_iter().collect())
}

/// Adds the columns that a file of an earlier version lacks.
async fn add_columns(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    for table in Table::all() {
        let known = names(&mut *connection, table.name).await?;
        for (_, definition) in table.stored().filter(|(name, _)| !known.contains(name)) {
            let sql = format!("ALTER TABLE {} ADD COLUMN {definition}", table.name);
            sqlx::query(&sql).execute(&mut *connection).await?;
        }
    }
    sqlx::query(&format!("PRAGMA user_version = {VERSION}")).execute(connection).await.map(drop)
}

/// Removes old queries, and with each the rows that belong to it.
async fn remove_before(connection: &mut SqliteConnection, oldest: DateTime<Utc>) -> sqlx::Result<()> {
    let sql = "DELETE FROM queries WHERE rowid IN \
               (SELECT rowid FROM queries WHERE started_us < ? ORDER BY started_us LIMIT ?)";
    sqlx::query(sql).bind(oldest.timestamp_micros()).bind(REMOVED_MAX).execute(connection).await.map(drop)
}

async fn insert<R>(
    connection: &mut SqliteConnection,
    table: &str,
    columns: &[Column<R>],
    rows: &[R],
) -> sqlx::Result<()> {
    let names: Vec<String> = columns.iter().map(|column| column.kind.stored_name(column.name)).collect();
    for rows in rows.chunks(VALUES_MAX / columns.len()) {
        let mut insert = QueryBuilder::<Sqlite>::new(format!("INSERT INTO {table} ({}) ", names.join(", ")));
        insert.push_values(rows, |mut values, row| {
            for column in columns {
                match (column.value)(row) {
                    StoredValue::Null => values.push("NULL"),
                    StoredValue::Text(text) => values.push_bind(text),
                    StoredValue::Whole(number) => values.push_bind(number),
                    StoredValue::Real(number) => values.push_bind(number),
                };
            }
        });
        insert.build().persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Makes a batch of rows as SQL sees them. The error is the reason in words.
fn batch(table: &Table, rows: &[SqliteRow]) -> Result<RecordBatch, String> {
    let arrays = table.columns.iter().enumerate().map(|(index, column)| column.kind.array(rows, index));
    let arrays = arrays.collect::<sqlx::Result<Vec<_>>>().map_err(|error| error.to_string())?;
    RecordBatch::try_new(table.schema(), arrays).map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
