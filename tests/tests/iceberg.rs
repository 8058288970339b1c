//! Iceberg tables that PyIceberg wrote, everywhere, against PyIceberg's own reading of them.

use std::fs;
use std::path::{Path, PathBuf};

use gust_engine::config::{Config, ConfigFile, Overrides, Target};
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::session::Session;
use gust_tests::asks::{FilesRead, Reader, ask, files_kept};
use gust_tests::compare::{Rule, compare, read_arrow_file};
use gust_tests::lake::Lake;
use gust_tests::query::run;

use FilesRead::{All, Fewer, Metadata, NoFile};

/// Queries in words that DuckDB and DataFusion understand alike. DuckDB answers them over PyIceberg's rows.
const CASES: &[(FilesRead, &str)] = &[
    // The table is pruned by column bounds.
    (All, "SELECT * FROM plain"),
    (Metadata, "SELECT count(*) AS c FROM plain"),
    // Bounds of these types are values. Those of others may be cut, or leave NaN out.
    (Metadata, BOUNDS),
    (All, "SELECT min(name) AS a FROM plain"),
    (All, "SELECT max(ratio) AS a FROM plain"),
    (All, "SELECT max(n) AS a FROM by_identity"),
    (Fewer, "SELECT min(id) AS a, max(id) AS b FROM plain WHERE id > 77"),
    (All, "SELECT max(id) AS a FROM plain WHERE n = 5"),
    (All, "SELECT min(id) AS a FROM (SELECT id FROM plain ORDER BY id DESC LIMIT 5)"),
    (All, "SELECT max(id + 1) AS a, min(CAST(n AS SMALLINT)) AS b FROM plain"),
    (
        Fewer,
        "SELECT min(id) AS a FROM (SELECT id FROM plain WHERE id < 40 UNION ALL SELECT id FROM plain WHERE id > 100)",
    ),
    (Fewer, "SELECT * FROM plain WHERE id < 40"),
    (Fewer, "SELECT * FROM plain WHERE id = 77"),
    (Fewer, "SELECT id, n FROM plain WHERE id BETWEEN 100 AND 200"),
    (Fewer, "SELECT id, name FROM plain WHERE id IN (1, 50)"),
    (Fewer, "SELECT count(*) AS c FROM plain WHERE NOT (id >= 40)"),
    (Fewer, "SELECT name, id FROM plain WHERE 80 <= id ORDER BY id DESC LIMIT 5"),
    (NoFile, "SELECT * FROM plain WHERE id > 1000"),
    (NoFile, "SELECT count(*) AS c FROM plain WHERE id < 0"),
    (NoFile, "SELECT id FROM plain WHERE n NOT IN (5, NULL)"),
    (All, "SELECT id FROM plain WHERE NOT (n = 5)"),
    (All, "SELECT id FROM plain WHERE n NOT IN (5, 10)"),
    (All, "SELECT id FROM plain WHERE name NOT LIKE 'al%'"),
    (All, "SELECT id FROM plain WHERE NOT (name LIKE 'al%' OR n > 0)"),
    (All, "SELECT id FROM plain WHERE NOT (starts_with(name, 'al'))"),
    (All, "SELECT id FROM plain WHERE abs(n) = 20"),
    (All, "SELECT id, ratio FROM plain WHERE ratio > 0.25"),
    (All, "SELECT id, price FROM plain WHERE price IS NOT NULL ORDER BY price DESC, id LIMIT 7"),
    (All, "SELECT kind, count(*) AS c, min(ts) AS first, max(price) AS most FROM plain GROUP BY kind"),
    // The table is partitioned by day and identity.
    (All, "SELECT * FROM by_day"),
    (Fewer, "SELECT * FROM by_day WHERE ts >= TIMESTAMP '1970-01-02 00:00:00'"),
    (Fewer, "SELECT * FROM by_day WHERE ts < TIMESTAMP '1970-01-01 00:00:00'"),
    (Fewer, "SELECT id FROM by_day WHERE ts = TIMESTAMP '1969-12-30 01:29:59.999995'"),
    (Fewer, "SELECT id FROM by_day WHERE ts IS NULL"),
    (Fewer, "SELECT * FROM by_day WHERE kind = 'red/blue'"),
    (Fewer, "SELECT * FROM by_day WHERE kind IN ('plain', 'a b%20')"),
    (Fewer, "SELECT id FROM by_day WHERE kind LIKE 'r%'"),
    (Fewer, "SELECT id FROM by_day WHERE kind IS NULL"),
    (Fewer, "SELECT id FROM by_day WHERE NOT (kind = 'plain')"),
    (Fewer, "SELECT count(*) AS c FROM by_day WHERE kind = 'plain' AND ts > TIMESTAMP '1969-12-31 12:00:00'"),
    (Fewer, "SELECT id, ts FROM by_day WHERE kind = 'plain' ORDER BY ts NULLS LAST, id LIMIT 5"),
    // The tables are partitioned by bucket.
    (Fewer, "SELECT * FROM by_bucket WHERE big = 3298534883328"),
    (Fewer, "SELECT id FROM by_bucket WHERE big IN (3298534883328, 1)"),
    (Fewer, "SELECT id FROM by_bucket WHERE name = 'é漢字'"),
    (Fewer, "SELECT id FROM by_bucket WHERE name IN ('alpha', '')"),
    (Fewer, "SELECT id FROM by_bucket WHERE name IS NULL"),
    (Fewer, "SELECT id, price FROM by_bucket_more WHERE price = CAST('6.25' AS DECIMAL(9, 2))"),
    (Fewer, "SELECT id, price FROM by_bucket_more WHERE price = 6.25"),
    (Fewer, "SELECT id FROM by_bucket_more WHERE ts = TIMESTAMP '1969-12-30 01:29:59.999995'"),
    // The tables are partitioned by truncated values.
    (Fewer, "SELECT id, name FROM by_truncate WHERE name LIKE 'al%'"),
    (Fewer, "SELECT id, name FROM by_truncate WHERE name LIKE 'alp%'"),
    (Fewer, "SELECT id, name FROM by_truncate WHERE name LIKE 'é%'"),
    (Fewer, "SELECT id, name FROM by_truncate WHERE name = 'alps'"),
    (Fewer, "SELECT id, n FROM by_truncate WHERE n < 0"),
    (Fewer, "SELECT id, n FROM by_truncate WHERE n BETWEEN -15 AND 5"),
    (Fewer, "SELECT id, n FROM by_truncate WHERE n >= 0 AND NOT (n > 10)"),
    (Fewer, "SELECT id, n FROM by_truncate WHERE n IN (-20, 20)"),
    (Fewer, "SELECT id FROM by_truncate WHERE n IS NULL"),
    (Fewer, "SELECT id FROM by_truncate_more WHERE price < CAST('-6.25' AS DECIMAL(9, 2))"),
    (Fewer, "SELECT id FROM by_truncate_more WHERE price > 10"),
    (Fewer, "SELECT id FROM by_truncate_more WHERE price IS NULL"),
    (Fewer, "SELECT id FROM by_truncate_more WHERE big <= -1099511627776"),
    // The table is partitioned by month and hour.
    (Fewer, "SELECT id FROM by_time WHERE day >= DATE '2024-02-01'"),
    (Fewer, "SELECT id FROM by_time WHERE day = '2024-01-29'"),
    (Fewer, "SELECT id FROM by_time WHERE day IS NULL"),
    (Fewer, "SELECT id, seen FROM by_time WHERE seen < '2024-02-29T23:00:00Z'"),
    // The tables are partitioned by integer, date and truth.
    (Fewer, "SELECT * FROM by_identity WHERE n = 5"),
    (Fewer, "SELECT id FROM by_identity WHERE n > 10 OR n < -15"),
    (Fewer, "SELECT id FROM by_identity WHERE n IS NULL"),
    (Fewer, "SELECT id FROM by_identity_more WHERE day IN (DATE '2024-02-01', DATE '2024-01-28')"),
    (Fewer, "SELECT id FROM by_identity_more WHERE ok"),
    (Fewer, "SELECT id FROM by_identity_more WHERE NOT ok"),
    (Fewer, "SELECT id FROM by_identity_more WHERE ok IS NULL"),
    // Columns are renamed, swapped, dropped and added again, added, and promoted.
    (All, "SELECT * FROM evolved"),
    (All, "SELECT theirs, fresh, id FROM evolved"),
    (All, "SELECT id, coalesce(gone, 'none') AS gone, extra + CAST(1 AS INT) AS next FROM evolved"),
    (All, "SELECT id, small FROM evolved ORDER BY small DESC LIMIT 12"),
    (Fewer, "SELECT id FROM evolved WHERE fresh = 'a3'"),
    (Fewer, "SELECT id, fresh FROM evolved WHERE fresh LIKE 'b%'"),
    (Fewer, "SELECT id, ours FROM evolved WHERE small = 3000"),
    (Fewer, "SELECT id FROM evolved WHERE small > 5000000000"),
    (Fewer, "SELECT id, theirs FROM evolved WHERE ours >= 'r3'"),
    (Fewer, "SELECT id FROM evolved WHERE ours = 'l3' OR theirs = 'l3'"),
    (Fewer, "SELECT id FROM evolved WHERE gone = 'gone3'"),
    (Fewer, "SELECT id, gone FROM evolved WHERE gone IS NULL"),
    (All, "SELECT count(*) AS c FROM evolved WHERE gone IS NOT NULL"),
    (All, "SELECT count(gone) AS c, count(extra) AS e, max(gone) AS last FROM evolved"),
    (All, "SELECT id FROM evolved WHERE extra IS NULL"),
    (All, "SELECT id FROM evolved WHERE NOT (extra = 15)"),
    // The table has two partition specs.
    (All, "SELECT * FROM respecified"),
    (Fewer, "SELECT * FROM respecified WHERE n = 1"),
    (Fewer, "SELECT * FROM respecified WHERE name = 'beta'"),
    (Fewer, "SELECT * FROM respecified WHERE n IS NULL"),
    // Rows are deleted by rewriting, or there never were any.
    (All, "SELECT * FROM rewritten"),
    (Metadata, "SELECT count(*) AS c FROM rewritten"),
    (Fewer, "SELECT * FROM rewritten WHERE id < 8"),
    (NoFile, "SELECT * FROM empty"),
    (Metadata, "SELECT count(*) AS c FROM empty"),
    (NoFile, "SELECT max(id) AS last FROM empty WHERE n = 3"),
    // The query reads two tables.
    (Fewer, "SELECT p.id, d.kind FROM plain p JOIN by_day d ON p.id = d.id WHERE d.kind = 'plain'"),
    // Keys of a join decide about rows of files that name them otherwise, lack them, or have them in their partition.
    (
        All,
        "SELECT e.id, e.fresh, e.ours FROM evolved e JOIN (SELECT theirs AS k FROM evolved GROUP BY theirs \
         HAVING max(id) % 3 = 0) x ON e.theirs = x.k",
    ),
    (
        All,
        "SELECT e.id, e.fresh, e.gone FROM evolved e JOIN (SELECT small AS k FROM evolved GROUP BY small \
         HAVING max(id) % 4 = 0) x ON e.small = x.k",
    ),
    (
        All,
        "SELECT e.id, e.fresh, e.extra FROM evolved e JOIN (SELECT extra AS k FROM evolved GROUP BY extra \
         HAVING max(id) % 2 = 0) x ON e.extra IS NOT DISTINCT FROM x.k",
    ),
    (
        All,
        "SELECT e.id, e.theirs FROM evolved e JOIN (SELECT gone AS k FROM evolved GROUP BY gone HAVING count(*) > 1) x \
         ON e.gone IS NOT DISTINCT FROM x.k",
    ),
    (
        All,
        "SELECT r.* FROM respecified r JOIN (SELECT n AS k FROM respecified GROUP BY n HAVING max(id) % 2 = 0) x \
         ON r.n = x.k",
    ),
    (
        All,
        "SELECT r.* FROM respecified r JOIN (SELECT name AS k FROM respecified GROUP BY name HAVING max(id) % 2 = 0) x \
         ON r.name IS NOT DISTINCT FROM x.k",
    ),
];

/// Query that the bounds and counts in metadata answer.
const BOUNDS: &str = "SELECT min(id) AS a, max(id) AS b, min(n) AS c, max(big) AS d, min(ts) AS e, max(seen) AS f, max(day) AS g, \
    min(price) AS h, count(n) AS i, count(*) AS j FROM plain";

const PROGRAM: &str = env!("CARGO_BIN_EXE_bootstrap_under_test");

/// Makes the tables, and the judge's answers to [`CASES`].
fn make() -> Option<Lake> {
    Lake::make(Path::new(env!("CARGO_TARGET_TMPDIR")), "iceberg_tables.py", |folder| {
        let queries = folder.join("queries");
        fs::create_dir(&queries).expect("made");
        for (number, (_, sql)) in CASES.iter().enumerate() {
            fs::write(queries.join(format!("{number}.sql")), sql).expect("written");
        }
    })
}

async fn through_locations(lake: &Lake, target: Target) -> Session {
    let session = lake.session(target, 4, PROGRAM);
    for entry in fs::read_dir(lake.path("warehouse")).expect("readable") {
        let folder = entry.expect("readable").path();
        let name = folder.file_name().expect("a name").to_string_lossy();
        let create = format!("CREATE EXTERNAL TABLE {name} STORED AS ICEBERG LOCATION '{}'", folder.to_string_lossy());
        run(&session, &create).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    session
}

/// Returns the data files of an unpartitioned table, smallest first.
fn data_files(lake: &Lake, table: &str) -> Vec<PathBuf> {
    let mut files = lake.files(table, "data");
    files.sort_by_key(|file| fs::metadata(file).expect("readable").len());
    files
}

/// Runs every case: its rows are the judge's, and it reads the files that it should.
async fn check_cases(session: &Session, lake: &Lake, target: Target, opened: &str) {
    for (number, (reads, sql)) in CASES.iter().enumerate() {
        let what = format!("`{sql}` on {target:?} through {opened}");
        let read = if matches!(reads, NoFile | Metadata) { Reader::Nobody } else { Reader::Functions };
        let rows = ask(session, target, sql, read).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let expected = read_arrow_file(&lake.path(&format!("queries/{number}.arrow"))).expect("the judge's answer");
        let rule = Rule { any_order: !sql.contains("ORDER BY"), any_encoding: true, any_number: false };
        compare(&expected, &rows, rule).unwrap_or_else(|difference| panic!("{what}: {difference}"));
        let statement = session.parse(sql).expect("it has run").remove(0);
        let explained = session.explain(statement).await.expect("it has run");
        let (kept, total) = files_kept(&explained);
        assert!(reads.is(kept, total), "{what}: {kept} of {total} files are not {reads:?}:\n{explained}");
        let is_late = explained.contains("late columns where joins keep few rows of a scan, by ");
        assert!(is_late || target != Target::Local || !sql.contains(" JOIN "), "{what}:\n{explained}");
    }
}

/// Returns the error with which `sql` fails.
async fn failure(session: &Session, sql: &str, what: &str) -> QueryError {
    match run(session, sql).await {
        Ok((rows, _)) => panic!("{what}: `{sql}` gave {} batches", rows.len()),
        Err(error) => error,
    }
}

/// Checks that a file which is not the one in the table's metadata is an error that names it.
async fn check_damage(session: &Session, lake: &Lake, target: Target, opened: &str) {
    for (table, reason) in [("vanished", "not found"), ("overwritten", "planned"), ("shortened", "planned")] {
        let what = format!("{table} on {target:?} through {opened}");
        let damaged = lake.path(&format!("{table}.damaged"));
        let name = fs::read_to_string(damaged).expect("its name");
        for sql in [format!("SELECT * FROM {table}"), format!("SELECT max(name) AS last FROM {table} WHERE id > 0")] {
            let error = failure(session, &sql, &what).await;
            assert!(error.kind() == ErrorKind::Data, "{what}: {error:?}");
            let error = error.to_string();
            assert!(error.contains(&name), "{what}: `{name}` is not named: {error}");
            assert!(error.contains(reason) && error.contains("run the query again"), "{what}: {error}");
        }
    }
}

/// Removes one file, and puts the bytes of a larger and of a smaller one in the place of others.
fn damage(lake: &Lake) {
    let note = |table: &str, file: &Path| {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        fs::write(lake.path(&format!("{table}.damaged")), name).expect("written");
    };
    let files = data_files(lake, "vanished");
    fs::remove_file(&files[1]).expect("removed");
    note("vanished", &files[1]);
    let files = data_files(lake, "overwritten");
    fs::copy(&files[2], &files[1]).expect("copied");
    note("overwritten", &files[1]);
    let files = data_files(lake, "shortened");
    fs::copy(&files[0], &files[1]).expect("copied");
    note("shortened", &files[1]);
}

async fn check(target: Target) {
    let Some(lake) = make() else { return };
    damage(&lake);
    for (session, opened) in [
        (lake.through_catalog(target, 4, PROGRAM).await, "the catalog"),
        (through_locations(&lake, target).await, "locations"),
    ] {
        check_cases(&session, &lake, target, opened).await;
        check_damage(&session, &lake, target, opened).await;
        session.close().await;
    }
}

/// Values of all columns of a spec reach one fragment for each partition that can hold them, or the coordinator, and EXPLAIN names the
/// partitions.
async fn check_routes(target: Target) {
    let Some(lake) = make() else { return };
    let session = through_locations(&lake, target).await;
    let big = |times: i64| times * (1 << 39) - (1 << 41);
    let bucket = |values: &str| format!("by_bucket WHERE big {values} AND name = 'alpha'");
    for (from, most, partition) in [
        (bucket(&format!("= {}", big(6))), 1, "p0_big="),
        (bucket(&format!("IN ({}, {})", big(6), big(9))), 2, "p1_name="),
        ("by_truncate WHERE name = 'alpha' AND n = 5".to_owned(), 1, "p0_name=al, p1_n=0"),
        ("by_truncate WHERE name = 'alpha' AND n IN (5, 10)".to_owned(), 2, "p0_name=al, p1_n=10"),
        ("by_identity WHERE n = 5".to_owned(), 1, "p0_n=5"),
        ("by_identity WHERE n IN (5, -20)".to_owned(), 2, "p0_n=-20"),
        ("by_identity_more WHERE day = DATE '2024-01-30' AND ok = true".to_owned(), 1, "p0_day=2024-01-30, p1_ok=true"),
    ] {
        let sql = format!("SELECT id FROM {from}");
        let (rows, report) = run(&session, &sql).await.expect("rows");
        let found: usize = rows.iter().map(|batch| batch.num_rows()).sum();
        assert!(found > 0, "`{sql}` finds nothing");
        let least = usize::from(!matches!(target, Target::Auto | Target::Local));
        let fragments = report.fragments;
        assert!((least..=most).contains(&fragments), "`{sql}` on {target:?}: {fragments} fragments");
        let explained = session.explain(session.parse(&sql).expect("SQL").remove(0)).await.expect("a plan");
        assert!(explained.contains("; partitions ") && explained.contains(partition), "{explained}");
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_routed_to_their_partitions_in_process() {
    check_routes(Target::InProcess).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_routed_to_their_partitions_on_four_processes() {
    check_routes(Target::Processes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_routed_to_their_partitions_or_read_here() {
    check_routes(Target::Auto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_that_are_not_trusted_are_not_the_answer() {
    let Some(lake) = make() else { return };
    let text = format!("[process]\nprogram = '{PROGRAM}'\n[iceberg]\ntrust_bounds = false\n");
    let file = ConfigFile { path: lake.path("gust.toml"), text };
    let overrides = Overrides { on: Some(Target::InProcess), functions_max: Some(4), ..Overrides::default() };
    let config = Config::load(Some(&file), [], &overrides).expect("a configuration");
    let session = Session::new(config).expect("a session");
    let location = lake.path("warehouse/plain");
    let create = format!("CREATE EXTERNAL TABLE plain STORED AS ICEBERG LOCATION '{}'", location.display());
    run(&session, &create).await.expect("a table");
    let rows = ask(&session, Target::InProcess, BOUNDS, Reader::Functions).await.expect("rows");
    let number = CASES.iter().position(|(_, sql)| *sql == BOUNDS).expect("a case");
    let expected = read_arrow_file(&lake.path(&format!("queries/{number}.arrow"))).expect("the judge's answer");
    compare(&expected, &rows, Rule { any_order: true, any_encoding: true, any_number: false }).expect("alike");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_have_pyicebergs_rows_locally() {
    check(Target::Local).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_have_pyicebergs_rows_in_process() {
    check(Target::InProcess).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_have_pyicebergs_rows_on_four_processes() {
    check(Target::Processes).await;
}
