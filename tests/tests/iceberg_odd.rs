//! Odd Iceberg tables, everywhere: evolved below the top, partitioned after the fact, with odd names, with NaN, with
//! columns that stand in the partition metadata only, and damaged ones.
//!
//! Whole tables are compared with PyIceberg's reading of them. Rows of queries stand here by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use gust_engine::config::{Config, S3Config, Secret, Target};
use gust_engine::error::ErrorKind;
use gust_engine::model::Place;
use gust_engine::session::Session;
use gust_tests::asks::{Reader, ask, lines};
use gust_tests::lake::Lake;
use gust_tests::query::run;
use gust_tests::s3::{S3Server, SECRET_ACCESS_KEY};
use serde_json::Value;
use tempfile::TempDir;

/// Tables that are read whole and compared with PyIceberg's rows.
const WHOLE: &[&str] = &[
    "nested",
    "partitioned_later",
    "by_nested",
    "imported",
    "named_0",
    "named_1",
    "named_2",
    "named_3",
    "named_4",
    "named_5",
    "named_6",
    "named_7",
    "named_8",
];

/// Statements and their rows. Cells are divided by `|`, rows by `;`.
const CASES: &[(&str, &str)] = &[
    // Fields are found by id, however deep they lie.
    ("SELECT id, m['k']['b'], m['k']['c'] FROM nested WHERE id IN (1, 4) ORDER BY id", "1|2|;4|20|30"),
    ("SELECT id, l[1]['b'], l[1]['c'] FROM nested WHERE l[1] IS NOT NULL ORDER BY id", "1|2|;4|20|30"),
    ("SELECT id, deep[1]['k']['b'] FROM nested WHERE deep IS NOT NULL ORDER BY id", "1|2;4|20"),
    (
        "SELECT id, st['text'], st['b'], st['inner']['y'], st['inner']['z'] FROM nested ORDER BY id",
        "1|two||4|;2||||;3||||;4|new|20|40|50",
    ),
    ("SELECT id FROM nested WHERE st['text'] = 'two'", "1"),
    ("SELECT id FROM nested WHERE st['inner']['y'] > 4", "4"),
    ("SELECT id FROM nested WHERE st['b'] IS NULL AND st IS NOT NULL ORDER BY id", "1;2"),
    (
        "SELECT id, promo['n'] + 1, promo['f'] FROM nested WHERE promo['n'] > 0 ORDER BY id",
        "1|8|1.5;4|1099511627777|1e300",
    ),
    ("SELECT id, lists['k'][1] FROM nested WHERE lists['k'] IS NOT NULL ORDER BY id", "1|1;4|1099511627776"),
    ("SELECT count(*), count(z), count(z['fresh']), sum(st['inner']['y']) FROM nested", "4|2|1|44"),
    (
        "SELECT e['b'], count(*) FROM (SELECT unnest(l) AS e FROM nested) GROUP BY 1 ORDER BY 1 NULLS LAST",
        "2|1;6|1;20|1;|1",
    ),
    // A column came later, and the table was then partitioned by it.
    ("SELECT id FROM partitioned_later WHERE r = 'eu'", "3"),
    ("SELECT id FROM partitioned_later WHERE r IS NULL ORDER BY id", "1;2;5"),
    ("SELECT id FROM partitioned_later WHERE r <> 'eu'", "4"),
    ("SELECT r, count(*) FROM partitioned_later GROUP BY r ORDER BY r", "eu|1;us|1;|3"),
    ("SELECT id, st['k'] FROM by_nested ORDER BY id", "1|x;2|y;3|"),
    ("SELECT id FROM by_nested WHERE st['k'] = 'y'", "2"),
    ("SELECT id FROM by_nested WHERE st IS NULL", "3"),
    // Values stand in the partition metadata only.
    (
        "SELECT id, region, day, n FROM imported WHERE id % 10 < 1 ORDER BY id",
        "10|us|2024-02-29|7;20|||;30||1969-12-31|-2147483648",
    ),
    ("SELECT id FROM imported WHERE region = 'us' ORDER BY id", "10;11"),
    ("SELECT id FROM imported WHERE region IS NULL ORDER BY id", "20;21"),
    ("SELECT id FROM imported WHERE region = '' AND n < 0 ORDER BY id", "30;31"),
    ("SELECT id FROM imported WHERE day > DATE '2024-01-01' ORDER BY id", "1;10;11"),
    (
        "SELECT region, count(*), min(n) FROM imported GROUP BY region ORDER BY region",
        "|2|-2147483648;eu|1|-1;us|2|7;|2|",
    ),
    ("SELECT count(region), count(day), count(s) FROM imported", "5|5|7"),
    // NaN is the largest number, and no bound includes it.
    ("SELECT id FROM nan WHERE x > 5 ORDER BY id", "11;20;21;51"),
    ("SELECT id FROM nan WHERE x >= 100 ORDER BY id", "11;20;21"),
    ("SELECT id FROM nan WHERE NOT (x <= 5) ORDER BY id", "11;20;21;51"),
    ("SELECT id FROM nan WHERE x <> 1 ORDER BY id", "1;11;20;21;30;31;41;50;51"),
    ("SELECT id FROM nan WHERE x = 'NaN'::DOUBLE ORDER BY id", "11;20;21"),
    ("SELECT id FROM nan WHERE x NOT IN (1, 2) ORDER BY id", "11;20;21;30;31;41;50;51"),
    ("SELECT id FROM nan WHERE x BETWEEN 2 AND 3 ORDER BY id", "1;41"),
    ("SELECT id FROM nan WHERE x < -1 ORDER BY id", "50"),
    ("SELECT id FROM nan WHERE f > CAST(5 AS REAL) ORDER BY id", "11;20;21;51"),
    ("SELECT count(*) FROM nan WHERE x > 1e308", "3"),
    ("SELECT id FROM nan WHERE x IS NULL", "40"),
    ("SELECT id FROM nan ORDER BY x DESC NULLS LAST, id LIMIT 1", "11"),
    // Filters are on partition fields with any name.
    ("SELECT id FROM named_0 WHERE \"é\" = 'y' ORDER BY id", "1;11"),
    ("SELECT id FROM named_1 WHERE \"a b\" IS NULL ORDER BY id", "2;12"),
    ("SELECT id FROM named_2 WHERE n >= 10 AND \"1st\" = 'x' ORDER BY id", "10;13"),
    ("SELECT id FROM named_4 WHERE \"日本\" IN ('x', 'z') AND n < 3", "0"),
    ("SELECT count(*) FROM named_8 WHERE \"💾\" = 'x'", "4"),
];

fn make() -> Option<Lake> {
    Lake::make(Path::new(env!("CARGO_TARGET_TMPDIR")), "iceberg_odd_tables.py", |_| {})
}

async fn open(lake: &Lake, target: Target) -> Session {
    lake.through_catalog(target, 3, env!("CARGO_BIN_EXE_bootstrap_under_test")).await
}

/// Returns PyIceberg's rows of a table.
fn judged(lake: &Lake, table: &str) -> Vec<Value> {
    let text = fs::read_to_string(lake.path(&format!("rows/{table}.ndjson"))).expect("the judge's rows");
    text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

/// Returns the last file of a table's metadata or data whose name has this beginning and end.
fn file(lake: &Lake, table: &str, folder: &str, begin: &str, end: &str) -> PathBuf {
    let mut files = lake.files(table, folder);
    files.retain(|file| {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        name.starts_with(begin) && name.ends_with(end)
    });
    files.pop().unwrap_or_else(|| panic!("{table} has no {begin}*{end}"))
}

fn json(rows: &[RecordBatch]) -> Vec<Value> {
    let mut text = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut text);
    rows.iter().for_each(|batch| writer.write(batch).expect("plain types"));
    writer.finish().expect("written");
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("a row")).collect()
}

fn rows(batches: &[RecordBatch]) -> String {
    lines(batches, "").join(";")
}

async fn check(target: Target) {
    let Some(lake) = make() else { return };
    let session = open(&lake, target).await;
    for table in WHOLE {
        let what = format!("{table} on {target:?}");
        let sql = format!("SELECT * FROM {table} ORDER BY id");
        let rows = ask(&session, target, &sql, Reader::Functions).await;
        let rows = rows.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(json(&rows), judged(&lake, table), "{what}");
    }
    for (sql, expect) in CASES {
        let what = format!("`{sql}` on {target:?}");
        let batches = ask(&session, target, sql, Reader::Functions).await;
        let batches = batches.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(rows(&batches), *expect, "{what}");
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_tables_have_pyicebergs_rows_locally() {
    check(Target::Local).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_tables_have_pyicebergs_rows_in_process() {
    check(Target::InProcess).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_tables_have_pyicebergs_rows_on_three_processes() {
    check(Target::Processes).await;
}

async fn failure(session: &Session, sql: &str) -> String {
    match run(session, sql).await {
        Ok((batches, _)) => panic!("`{sql}` gave {}", rows(&batches)),
        Err(error) if error.kind() == ErrorKind::Data => error.to_string(),
        Err(other) => panic!("`{sql}`: {other:?}"),
    }
}

/// Each message names the table and the file. No hint mentions endpoints, which no local file has.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_table_names_the_missing_file() {
    let Some(lake) = make() else { return };
    let mut gone = BTreeMap::new();
    for (table, folder, begin, end) in [
        ("no_metadata", "metadata", "", ".metadata.json"),
        ("no_list", "metadata", "snap-", ".avro"),
        ("no_data", "data", "", ".parquet"),
    ] {
        let file = file(&lake, table, folder, begin, end);
        gone.insert(table, file.file_name().expect("a name").to_string_lossy().into_owned());
        fs::remove_file(file).expect("removed");
    }
    // The older metadata file goes, too: a location would be opened by it.
    fs::remove_file(file(&lake, "no_metadata", "metadata", "", ".metadata.json")).expect("removed");
    let manifest = file(&lake, "no_manifest", "metadata", "", "-m0.avro");
    gone.insert("no_manifest", manifest.file_name().expect("a name").to_string_lossy().into_owned());
    fs::remove_file(manifest).expect("removed");
    let corrupt = file(&lake, "corrupt_metadata", "metadata", "", ".metadata.json");
    fs::write(&corrupt, "{\"format-version\": 2, ").expect("written");
    gone.insert("corrupt_metadata", corrupt.file_name().expect("a name").to_string_lossy().into_owned());
    let version = file(&lake, "version_9", "metadata", "", ".metadata.json");
    let text = fs::read_to_string(&version).expect("readable").replace("\"format-version\":2", "\"format-version\":9");
    fs::write(version, text).expect("written");
    gone.insert("version_9", "format version 9".to_owned());

    let session = open(&lake, Target::Local).await;
    let reasons = [
        ("no_metadata", "table t.no_metadata: its metadata file"),
        ("no_list", "table t.no_list: its manifest list"),
        ("no_manifest", "table t.no_manifest: its manifest"),
        ("no_data", "not found"),
        ("corrupt_metadata", "cannot read the metadata file of table t.corrupt_metadata"),
        ("version_9", "table t.version_9 has format version 9"),
    ];
    for (table, reason) in reasons {
        let message = failure(&session, &format!("SELECT id FROM {table}")).await;
        assert!(message.contains(reason) && message.contains(&gone[table]), "{table}: {message}");
        assert!(message.contains("\nhint: "), "{table}: {message}");
        assert!(!message.contains("endpoint") && !message.contains("there is no"), "{table}: {message}");
    }
    // Statements over a table that cannot be loaded at all fail alike.
    for sql in [
        "DESCRIBE no_metadata",
        "SHOW COLUMNS FROM no_metadata",
        "EXPLAIN SELECT 1 FROM no_metadata",
        "CREATE VIEW v AS SELECT * FROM no_metadata",
        "SELECT f.id FROM fine f WHERE EXISTS (SELECT 1 FROM no_metadata)",
    ] {
        let message = failure(&session, sql).await;
        assert!(message.contains("table t.no_metadata: its metadata file"), "{sql}: {message}");
    }
    let listed = rows(&run(&session, "SHOW TABLES").await.expect("a list").0);
    for table in ["fine", "no_metadata", "corrupt_metadata"] {
        assert!(listed.contains(table), "{table} is not in {listed}");
    }
    let columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'fine'";
    assert_eq!(rows(&run(&session, columns).await.expect("the others' columns").0), "id");
    assert_eq!(rows(&run(&session, "SELECT id FROM fine").await.expect("a row").0), "1");
    // A table that is opened by its location has messages of its own.
    let open = |location: &Path| {
        format!("CREATE EXTERNAL TABLE datafusion.public.x STORED AS ICEBERG LOCATION '{}'", location.display())
    };
    for (location, reason) in [
        (lake.path("warehouse/no_metadata"), "Iceberg table in"),
        (lake.path("warehouse/nowhere"), "expected metadata/*.metadata.json"),
        (lake.path("warehouse/fine/metadata/9.metadata.json"), "metadata file"),
        (lake.path("warehouse/version_9"), "format version 9"),
        (corrupt, "cannot read"),
    ] {
        let message = failure(&session, &open(&location)).await;
        assert!(message.contains(reason) && !message.contains("there is no such file"), "{message}");
    }
    for (sql, expect) in [
        ("CREATE VIEW x AS SELECT 1", "datafusion.public.x"),
        ("DROP TABLE fine", "table `fine` is in an Iceberg catalog"),
        ("DROP TABLE no_metadata", "table `no_metadata` is in an Iceberg catalog"),
    ] {
        let error = run(&session, sql).await.map(|_| ()).expect_err(sql).to_string();
        assert!(error.contains(expect), "{sql}: {error}");
    }
    let message = match run(&session, "SELECT * FROM nosuch").await {
        Err(error) if error.kind() == ErrorKind::Sql => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(message.contains("there is no table `nosuch`"), "{message}");
    session.close().await;
}

/// A scan whose plan would arrive changed stays on the coordinator. The decision says so, and the rows are right.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_cannot_be_sent_stays_on_the_coordinator() {
    let folder = TempDir::new().expect("a temporary folder");
    let written =
        |name: &str, select: &str| format!("COPY ({select}) TO '{}/{name}' STORED AS PARQUET", folder.path().display());
    let numbers = "SELECT value AS id, arrow_cast(value + 0.5, 'Float16') AS h FROM generate_series";
    let deep = |levels: usize| {
        let nested = (0..levels).fold("value".to_owned(), |below, _| format!("named_struct('s', {below})"));
        format!("SELECT value AS id, {nested} AS x FROM generate_series(0, 1)")
    };
    let setup = [
        written("h/0.parquet", &format!("{numbers}(0, 1)")),
        written("h/1.parquet", &format!("{numbers}(2, 3)")),
        written("x/0.parquet", &deep(34)),
        written("n/0.parquet", "SELECT value AS id FROM generate_series(0, 9)"),
    ];
    gust_tests::query::plain(&setup, "SELECT 1").await;
    let table = |name: &str| format!("'{}/{name}/'", folder.path().display());
    let cases = [
        (format!("SELECT id FROM {} WHERE h < 2 ORDER BY id", table("h")), "0;1", "Float16", false),
        (format!("SELECT id FROM {} WHERE x IS NOT NULL ORDER BY id", table("x")), "0;1", "decoded again", false),
        (
            format!("SELECT n.id FROM {} h JOIN {} n ON h.id = n.id WHERE h.h < 2 ORDER BY 1", table("h"), table("n")),
            "0;1",
            "a scan stays on the coordinator",
            true,
        ),
    ];
    for target in [Target::Local, Target::InProcess, Target::Processes] {
        let session = gust_tests::query::session(target, 2, env!("CARGO_BIN_EXE_bootstrap_under_test"));
        for (sql, expect, reason, partly) in &cases {
            let (batches, report) =
                run(&session, sql).await.unwrap_or_else(|error| panic!("{sql} on {target:?}: {error}"));
            assert_eq!(rows(&batches), *expect, "{sql} on {target:?}");
            let decision = report.decision.expect("a decision");
            if target == Target::Local {
                continue;
            }
            assert!(decision.to_string().contains(reason), "{decision}");
            assert_eq!(
                (decision.place == Place::Functions, report.fragments_adopted > 0),
                (*partly, *partly),
                "{decision}"
            );
            assert_eq!(report.fell_back, None);
            let explained = session.explain(session.parse(sql).expect("SQL").remove(0)).await.expect("it has run");
            assert!(explained.contains(reason), "{explained}");
        }
        session.close().await;
    }
}

/// A location in a bucket that is no table is an error with the bucket's reason and a hint.
#[tokio::test(flavor = "multi_thread")]
async fn a_location_in_s3_says_why_it_cannot_be_opened() {
    let server = S3Server::start().expect("a server");
    let session = |secret: &str, endpoint: &str| {
        let s3 = S3Config {
            endpoint: Some(endpoint.to_owned()),
            secret_access_key: Some(Secret::new(secret)),
            ..server.config()
        };
        Session::new(Config { on: Target::Local, s3, ..Config::default() }).expect("a session")
    };
    let cases = [
        (server.url("t"), SECRET_ACCESS_KEY, server.endpoint(), "expected metadata/*.metadata.json in it"),
        ("s3://nosuch/t".to_owned(), SECRET_ACCESS_KEY, server.endpoint(), "NoSuchBucket"),
        (server.url("t"), "another secret", server.endpoint(), "check the credentials and the bucket's policy"),
        (server.url("t"), SECRET_ACCESS_KEY, "http://127.0.0.1:1", "the endpoint, the region and the network"),
        ("gs://lake/t".to_owned(), SECRET_ACCESS_KEY, server.endpoint(), "cannot reach gs://lake/t"),
        ("gs://lake/t".to_owned(), SECRET_ACCESS_KEY, server.endpoint(), "hint: use a local path, file:// or s3://"),
    ];
    for (location, secret, endpoint, expect) in cases {
        let session = session(secret, endpoint);
        let create = format!("CREATE EXTERNAL TABLE x STORED AS ICEBERG LOCATION '{location}'");
        let message = failure(&session, &create).await;
        assert!(message.contains(expect), "`{expect}` is not in: {message}");
        session.close().await;
    }
}
