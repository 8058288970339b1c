use std::path::Path;
use std::time::Instant;

use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;
use gust_protocol::with_hint_line;
use tempfile::TempDir;

use super::*;
use crate::config::StatementKept;
use crate::history::record::tests::{done, events, meta, recorded};
use crate::history::record::{Outcome, StatementEnd, StatementMeta};
use crate::history::{HistoryWriter, SCHEMA, schema};

/// Bytes that a test's history has at most.
const BYTES_MAX: u64 = 64 << 20;

fn store(path: &Path) -> Store {
    Store { path: path.to_owned(), bytes_max: BYTES_MAX }
}

/// Makes a store in a folder that does not exist yet.
fn fresh() -> (TempDir, Store) {
    let folder = TempDir::new().expect("a temporary folder");
    let store = store(&folder.path().join("state/gust/history.db"));
    (folder, store)
}

fn day(number: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + chrono::Duration::days(20_000 + number)
}

fn plain(id: &str, started: DateTime<Utc>) -> Record {
    let meta = StatementMeta { started, ..meta(id, "SELECT 1", &[("team", "ads")]) };
    recorded(&meta, &events(id), &done(), StatementKept::Text)
}

async fn write(store: &Store, record: &Record) {
    store.write(record, DateTime::UNIX_EPOCH, &CancellationToken::new()).await.expect("recorded");
}

/// Runs SQL and draws its rows as a table.
async fn ask(store: &Store, sql: &str) -> datafusion::common::Result<String> {
    let context = SessionContext::new();
    let catalog = context.catalog("datafusion").expect("the default catalog");
    catalog.register_schema(SCHEMA, schema(store, None, &HistoryWriter::default())?)?;
    Ok(pretty_format_batches(&context.sql(sql).await?.collect().await?)?.to_string())
}

#[tokio::test]
async fn a_user_sees_the_rows_of_his_own_statements() {
    let (_folder, store) = fresh();
    for (id, user) in [("q1", Some("ada")), ("q2", Some("bob")), ("q3", None)] {
        let meta = StatementMeta { user: user.map(str::to_owned), ..meta(id, "SELECT 1", &[]) };
        write(&store, &recorded(&meta, &events(id), &done(), StatementKept::Text)).await;
    }
    for (user, ids) in [(None, "q1,q2,q3"), (Some("ada"), "q1"), (Some("eve"), ""), (Some(""), "")] {
        let context = SessionContext::new();
        let catalog = context.catalog("datafusion").expect("the default catalog");
        catalog
            .register_schema(SCHEMA, schema(&store, user, &HistoryWriter::default()).expect("tables"))
            .expect("registered");
        for (table, id) in [("queries", "id"), ("fragments", "query_id"), ("cost_lines", "query_id")] {
            let sql = format!("SELECT DISTINCT {id} FROM gust.{table} ORDER BY {id}");
            let rows = context.sql(&sql).await.expect("SQL").collect().await.expect("rows");
            let rows = pretty_format_batches(&rows).expect("text").to_string();
            let seen: Vec<&str> = rows
                .lines()
                .skip(3)
                .filter_map(|line| line.strip_prefix("| "))
                .map(|id| id.trim_matches(['|', ' ']))
                .collect();
            assert_eq!(seen.join(","), ids, "{table} of {user:?}");
        }
    }
}

async fn count(store: &Store, table: &str) -> i64 {
    let text = ask(store, &format!("SELECT count(*) AS n FROM gust.{table}")).await.expect("rows");
    text.lines().nth(3).expect("a row").trim_matches(['|', ' ']).parse().expect("a number")
}

async fn sqlite(path: &Path, statements: &[&str]) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = options.connect().await.expect("a file of SQLite's");
    for sql in statements {
        sqlx::query(sql).execute(&mut connection).await.expect("done");
    }
    connection
}

#[tokio::test]
async fn a_record_is_read_in_sql() {
    let (_folder, store) = fresh();
    assert_eq!(count(&store, "queries").await, 0, "nothing was recorded yet");
    assert!(!store.path.exists(), "asking makes no file");
    write(&store, &recorded(&meta("q1", "SELECT 1", &[("team", "ads")]), &events("q1"), &done(), StatementKept::Text))
        .await;
    let failed = StatementEnd { outcome: Outcome::TimedOut, message: Some("too late".to_owned()) };
    let other = StatementMeta { user: None, tables: Vec::new(), ..meta("q2", "SELECT 2", &[]) };
    write(&store, &recorded(&other, &[], &failed, StatementKept::Hash)).await;

    let sql = "SELECT id, started, user_name, statement, labels['team'] AS team, labels, tables, place, outcome, as_if, rows, dollars, \
               dollars_at_most FROM gust.queries";
    let expect = "\
+----+-----------------------------+-----------+-----------+------+-------------+------------------------------+-----------+-----------+-------+------+-------------+-----------------+
| id | started                     | user_name | statement | team | labels      | tables                       | place     | outcome   | as_if | rows | dollars     | dollars_at_most |
+----+-----------------------------+-----------+-----------+------+-------------+------------------------------+-----------+-----------+-------+------+-------------+-----------------+
| q1 | 2026-11-21T12:30:00.000001Z | ada       | SELECT 1  | ads  | {team: ads} | [lake.tpch.lineitem, orders] | functions | done      | true  | 7    | 0.000042967 | 0.001043169     |
| q2 | 2026-11-21T12:30:00.000001Z |           |           |      | {}          | []                           |           | timed_out | true  | 0    | 0.000000000 | 0.000000000     |
+----+-----------------------------+-----------+-----------+------+-------------+------------------------------+-----------+-----------+-------+------+-------------+-----------------+";
    assert_eq!(ask(&store, sql).await.expect("rows"), expect);
    let sql = "SELECT query_id, sum(requests) AS requests, sum(rows) AS rows, count(*) FILTER (WHERE adopted) AS adopted, sum(dollars) AS d \
               FROM gust.fragments GROUP BY query_id";
    let expect = "\
+----------+----------+------+---------+-------------+
| query_id | requests | rows | adopted | d           |
+----------+----------+------+---------+-------------+
| q1       | 10       | 7    | 2       | 0.001041969 |
+----------+----------+------+---------+-------------+";
    assert_eq!(ask(&store, sql).await.expect("rows"), expect);
    let sql = "SELECT q.id, sum(l.dollars) = q.dollars_at_most AS agree FROM gust.queries q JOIN gust.cost_lines l ON l.query_id = q.id \
               WHERE q.labels['team'] = 'ads' GROUP BY q.id, q.dollars_at_most";
    assert!(ask(&store, sql).await.expect("rows").contains("| q1 | true"), "lines add up");
}

/// Earlier versions wrote NULL where a statement ended before its own requests were counted.
#[tokio::test]
async fn a_record_with_unknown_requests_is_read() {
    let (_folder, store) = fresh();
    write(&store, &plain("q", day(0))).await;
    let sql = "SELECT coordinator_requests AS requests, coordinator_bytes_read AS bytes FROM gust.queries";
    assert!(ask(&store, sql).await.expect("rows").contains("| 3        | 500   |"));
    let unknown = "UPDATE queries SET coordinator_requests = NULL, coordinator_bytes_read = NULL, coordinator_bytes_written = NULL";
    sqlite(&store.path, &[unknown]).await;
    assert!(ask(&store, sql).await.expect("rows").contains("|          |       |"));
}

#[tokio::test]
async fn a_history_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, store) = fresh();
    write(&store, &plain("q", day(0))).await;
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&store.path), mode(store.path.parent().expect("a folder"))), (0o600, 0o700));
    let left = std::fs::read_dir(store.path.parent().expect("a folder")).expect("readable").count();
    assert_eq!(left, 1, "one file, and nothing beside it");
}

#[tokio::test]
async fn old_queries_go_with_their_attempts_and_lines() {
    let (_folder, store) = fresh();
    for number in 0..25 {
        write(&store, &plain(&format!("old{number}"), day(number))).await;
    }
    assert_eq!((count(&store, "queries").await, count(&store, "fragments").await), (25, 100));
    let oldest = day(24);
    store.write(&plain("new", day(100)), oldest, &CancellationToken::new()).await.expect("recorded");
    assert_eq!(count(&store, "queries").await, 25 - REMOVED_MAX + 1);
    store.write(&plain("newer", day(100)), oldest, &CancellationToken::new()).await.expect("recorded");
    let left = ask(&store, "SELECT id FROM gust.queries ORDER BY id").await.expect("rows");
    assert!(left.contains("| new   |\n| newer |\n| old24 |") && left.lines().count() == 7, "{left}");
    assert_eq!(count(&store, "fragments").await, 3 * 4, "fragments of queries that have gone");
    let strays = "SELECT count(*) AS n FROM gust.cost_lines WHERE query_id NOT IN (SELECT id FROM gust.queries)";
    assert!(ask(&store, strays).await.expect("rows").contains("| 0 |"));
}

#[tokio::test]
async fn many_attempts_are_written_and_read_in_pieces() {
    let (_folder, store) = fresh();
    let mut record = plain("q", day(0));
    let attempts = (0..5_000).flat_map(|attempt| {
        record.attempts.iter().take(1).map(move |first| {
            let mut further = first.clone();
            further.attempt = attempt;
            further
        })
    });
    record.attempts = attempts.collect();
    write(&store, &record).await;
    let sql =
        "SELECT count(*) AS n, count(DISTINCT attempt) AS d, sum(requests) AS r, sum(dollars) AS m FROM gust.fragments";
    let text = ask(&store, sql).await.expect("rows");
    // 39,200 nano-dollars each: see record_tests.rs.
    assert!(text.contains("| 5000 | 5000 | 50000 | 0.196000000 |"), "{text}");
}

#[tokio::test]
async fn writers_wait_for_each_other() {
    let (_folder, store) = fresh();
    let writers = (0..8).map(|number| {
        let (store, record) = (store.clone(), plain(&format!("q{number}"), day(0)));
        tokio::spawn(async move { store.write(&record, DateTime::UNIX_EPOCH, &CancellationToken::new()).await })
    });
    for written in futures::future::join_all(writers).await {
        written.expect("no panic").expect("recorded");
    }
    assert_eq!(count(&store, "queries").await, 8);
}

/// Checks that a history is neither written nor read, that both errors say why, and that the file stays as it was.
async fn refuses(store: &Store, expect: &[&str]) {
    let before = std::fs::read(&store.path).ok();
    let written = store
        .write(&plain("refused", day(0)), DateTime::UNIX_EPOCH, &CancellationToken::new())
        .await
        .expect_err("not recorded");
    let read = ask(store, "SELECT id FROM gust.queries").await.expect_err("not read");
    let read = fragment_fn::find::<HistoryError>(&read).expect("the history's own error");
    for text in [&written, read].map(|error| with_hint_line(error, error.fault.hint())) {
        assert!(text.contains(&store.path.display().to_string()), "{text}");
        for part in expect {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    }
    assert_eq!(std::fs::read(&store.path).ok(), before, "the file was changed");
}

/// A file of version 1 lacks the columns about waits. It is read as it is, and gets them with the next record.
#[tokio::test]
async fn a_file_of_an_earlier_version_stays_readable() {
    let (_folder, store) = fresh();
    write(&store, &plain("old", day(0))).await;
    let mut statements = vec!["PRAGMA user_version = 1".to_owned()];
    for table in ["queries", "fragments"] {
        for column in ["seconds_waited", "ahead_bytes", "unused_bytes", "gap_bytes"] {
            statements.push(format!("ALTER TABLE {table} DROP COLUMN {column}"));
        }
    }
    let statements: Vec<_> = statements.iter().map(String::as_str).collect();
    sqlite(&store.path, &statements).await.close().await.expect("closed");
    let sql = "SELECT id, rows, seconds_waited AS s, ahead_bytes AS a, unused_bytes AS u, gap_bytes AS g \
               FROM gust.queries ORDER BY started";
    let before = std::fs::read(&store.path).expect("readable");
    let text = ask(&store, sql).await.expect("rows");
    assert!(text.contains("| old | 7    |   |   |   |   |"), "{text}");
    assert_eq!(std::fs::read(&store.path).expect("readable"), before, "a reader changes nothing");
    write(&store, &plain("new", day(1))).await;
    let text = ask(&store, sql).await.expect("rows");
    for row in ["| old | 7    |      |     |    |    |", "| new | 7    | 0.75 | 160 | 16 | 80 |"] {
        assert!(text.contains(row), "`{row}` is not in:\n{text}");
    }
    let text = ask(&store, "SELECT count(*) AS n, count(ahead_bytes) AS a FROM gust.fragments").await.expect("rows");
    assert!(text.contains("| 8 | 2 |"), "{text}");
}

#[tokio::test]
async fn files_that_are_no_history_are_left_alone() {
    let (_folder, store) = fresh();
    write(&store, &plain("q", day(0))).await;
    sqlite(&store.path, &["PRAGMA user_version = 3"]).await;
    refuses(&store, &["written by a later gust (its version is 3, this gust knows 2)", "hint: use that gust"]).await;
    sqlite(&store.path, &["PRAGMA user_version = 0"]).await;
    refuses(&store, &["written by an earlier gust (its version is 0, this gust knows 2)", "hint: move it away"]).await;

    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("catalog.db");
    sqlite(&path, &["CREATE TABLE iceberg_tables (name TEXT)"]).await;
    refuses(&self::store(&path), &["belongs to another program", "hint: set history.path"]).await;

    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "what I have to do\n".repeat(1_000)).expect("written");
    refuses(&self::store(&path), &["is damaged, or no history", "hint: move it away"]).await;
}

#[tokio::test]
async fn a_damaged_history_is_refused() {
    let (_folder, store) = fresh();
    for number in 0..50 {
        write(&store, &plain(&format!("q{number}"), day(number))).await;
    }
    let mut bytes = std::fs::read(&store.path).expect("readable");
    // The first page stays. It has the header with the version, and the list of tables.
    for byte in &mut bytes[PAGE_BYTES as usize..] {
        *byte = 0xaa;
    }
    std::fs::write(&store.path, &bytes).expect("written");
    refuses(&store, &["is damaged, or no history", "hint: move it away"]).await;
}

#[tokio::test]
async fn a_locked_history_is_not_waited_for_long() {
    let (_folder, store) = fresh();
    write(&store, &plain("q", day(0))).await;
    let held = sqlite(&store.path, &["BEGIN EXCLUSIVE"]).await;
    let began = Instant::now();
    refuses(&store, &["is locked by another program, for 2 s or longer", "hint: end that program"]).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    held.close().await.expect("closed");
    write(&store, &plain("afterwards", day(0))).await;
    assert_eq!(count(&store, "queries").await, 2);
}

#[tokio::test]
async fn a_place_that_cannot_be_used_is_named() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("written");
    refuses(&store(&file.join("history.db")), &["cannot be opened", "hint: set history.path"]).await;
    refuses(&store(folder.path()), &["cannot be opened", "hint: set history.path"]).await;
}

#[tokio::test]
async fn a_full_history_keeps_what_it_has() {
    let (_folder, mut store) = fresh();
    store.bytes_max = 256 << 10;
    let long = "x".repeat(20_000);
    let mut recorded_count = 0;
    let error = loop {
        let id = format!("q{recorded_count}");
        let record = recorded(&meta(&id, &long, &[]), &events(&id), &done(), StatementKept::Text);
        match store.write(&record, DateTime::UNIX_EPOCH, &CancellationToken::new()).await {
            Ok(()) => recorded_count += 1,
            Err(error) => break with_hint_line(&error, error.fault.hint()),
        }
        assert!(recorded_count < 100, "it never fills");
    };
    assert!(error.contains("is full: it has reached history.bytes_max = 256 KiB, or its disk is full"), "{error}");
    assert!(error.contains("hint: raise history.bytes_max, lower history.retention_days"), "{error}");
    assert!((4..13).contains(&recorded_count), "{recorded_count} of 20 KB in 256 KiB");
    assert_eq!(count(&store, "queries").await, recorded_count);
    assert!(std::fs::metadata(&store.path).expect("it is there").len() <= 256 << 10);
    // Queries that are too old make room.
    store.write(&plain("new", day(10_000)), day(9_999), &CancellationToken::new()).await.expect("recorded");
    assert_eq!(count(&store, "queries").await, 1);
}
