//! CSV and JSON files that DuckDB writes, packed and not: Gust reads the rows that DuckDB reads, and says that the coordinator does.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use gust_engine::config::{Config, Target};
use gust_engine::model::{Place, Reason};
use gust_tests::asks::lines;
use gust_tests::cloud;
use gust_tests::compare::read_arrow_file;
use gust_tests::python;
use gust_tests::query::{run, session};
use gust_tests::s3::S3Server;
use gust_tests::s3::identity::{COORDINATOR, access_key};
use object_store::ObjectStoreExt;
use object_store::path::Path as Key;

/// Rows with quotes, breaks in values, NULLs, and types that both infer.
const ROWS: &str = "SELECT i AS id, 'n' || (i % 7) || CASE WHEN i % 11 = 0 THEN ', \"q\"' || chr(10) || 'x' ELSE '' END AS name, \
     CASE WHEN i % 5 <> 0 THEN CAST(i AS DOUBLE) / 4 END AS x, CAST(DATE '2024-01-01' + CAST(i % 400 AS INT) AS DATE) AS d, \
     i % 3 = 0 AS b, TIMESTAMP '2024-01-01 00:00:00' + INTERVAL 1 SECOND * i AS ts FROM range(3000) AS t(i)";

/// Files, with DuckDB's options for them.
const FILES: [(&str, &str); 8] = [
    ("a.csv", "FORMAT csv"),
    ("b.csv.gz", "FORMAT csv, COMPRESSION gzip"),
    ("c.csv.zst", "FORMAT csv, COMPRESSION zstd"),
    ("d.tsv", "FORMAT csv, DELIMITER '\t'"),
    ("e.json", "FORMAT json"),
    ("f.json.gz", "FORMAT json, COMPRESSION gzip"),
    ("g.json", "FORMAT json, ARRAY true"),
    ("h.json.zst", "FORMAT json, ARRAY true, COMPRESSION zstd"),
];

#[tokio::test(flavor = "multi_thread")]
async fn text_has_the_rows_that_duckdb_reads() {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = tempfile::Builder::new().prefix("text-").tempdir_in(cache).expect("a temporary folder");
    std::fs::create_dir(folder.path().join("t")).expect("a folder");
    let writes: Vec<String> = FILES.iter().map(|(file, how)| format!("COPY ({ROWS}) TO 't/{file}' ({how})")).collect();
    let asks: Vec<String> = FILES
        .iter()
        .flat_map(|(file, _)| {
            [
                format!(
                    "SELECT count(*), sum(id), count(x), min(CAST(d AS DATE)), max(CAST(ts AS TIMESTAMP)), count(DISTINCT name), \
                     sum(CASE WHEN b THEN 1 ELSE 0 END) FROM 't/{file}'"
                ),
                format!("SELECT id, name, x, CAST(d AS DATE) AS d, b FROM 't/{file}' WHERE id % 97 = 0 ORDER BY id"),
            ]
        })
        .collect();
    let queries: Vec<&String> = writes.iter().chain(&asks).collect();
    if !python::duckdb_answers(cache, folder.path(), &[(); 0], &queries).expect("DuckDB answers") {
        return;
    }
    for target in [Target::Local, Target::InProcess] {
        let session = session(target, 3, env!("CARGO_BIN_EXE_bootstrap_under_test"));
        for (number, ask) in asks.iter().enumerate() {
            let sql = ask.replace("'t/", &format!("'{}/t/", folder.path().display()));
            let (rows, report) = run(&session, &sql).await.unwrap_or_else(|error| panic!("{ask}: {error}"));
            let judge = folder.path().join("answers").join(format!("{}.arrow", writes.len() + number));
            let judge = read_arrow_file(&judge).unwrap_or_else(|error| panic!("{ask}: {error}"));
            assert_eq!(lines(&rows, "NULL"), lines(&judge, "NULL"), "{ask} on {target:?}");
            let decision = report.decision.expect("a decision");
            assert_eq!(decision.place, Place::Local, "{ask}");
            let is_told =
                matches!(&decision.reason, Reason::NoParquet(formats) if ["CSV", "JSON"].contains(&formats.as_str()));
            assert!(is_told || target == Target::Local, "{decision}");
        }
        session.close().await;
    }
}

/// Text in an S3 bucket: by path, by pattern, by folder, and declared. The coordinator reads it, wherever functions run.
#[tokio::test(flavor = "multi_thread")]
async fn text_in_a_bucket_is_read_by_the_coordinator() {
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a store");
    let packed = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).expect("packed");
        encoder.finish().expect("packed")
    };
    for (key, bytes) in [
        ("t/csv/1.csv", b"id,name\n1,\"a, b\"\n2,\n".to_vec()),
        ("t/csv/2.csv.gz", packed("id,name\n3,c\n")),
        ("t/json/1.json", b"{\"id\": 1, \"of\": {\"x\": [1, 2]}}\n{\"id\": 2}\n".to_vec()),
        ("t/json/2.ndjson.gz", packed("{\"id\": 3, \"of\": {\"x\": []}}\n")),
        ("t/array.json", b"[{\"id\": 7}, {\"id\": 8}]".to_vec()),
        ("t/odd name.csv", b"id;n\n9;1.5\n".to_vec()),
    ] {
        store.put(&Key::from(key), bytes.into()).await.expect("put");
    }
    let url = |key: &str| server.url(&format!("t/{key}"));
    let declared = format!(
        "CREATE EXTERNAL TABLE odd (id BIGINT, n DECIMAL(9, 2)) STORED AS CSV LOCATION '{}' OPTIONS ('format.delimiter' ';', 'format.has_header' 'true')",
        url("odd name.csv")
    );
    let asks = [
        (format!("SELECT id, name FROM '{}' ORDER BY id", url("csv/1.csv")), vec!["1|a, b", "2|NULL"]),
        (format!("SELECT id, name FROM '{}' ORDER BY id", url("csv/2.csv.gz")), vec!["3|c"]),
        (format!("SELECT id, of['x'] FROM '{}' ORDER BY id", url("json/1.json")), vec!["1|[1, 2]", "2|NULL"]),
        (format!("SELECT count(*), sum(id) FROM '{}'", url("json/")), vec!["3|6"]),
        (format!("SELECT sum(id) FROM '{}'", url("array.json")), vec!["15"]),
        (
            format!("SELECT \"$path\", id FROM '{}' WHERE id > 1", url("csv/1.csv")),
            vec!["s3://gust-test/t/csv/1.csv|2"],
        ),
        ("SELECT id, n + 1 FROM odd".to_owned(), vec!["9|2.50"]),
    ];
    for on in [Target::Local, Target::Processes] {
        let config = Config { on, functions_max: 3, ..Config::default() };
        let session =
            cloud::session(&server, config, env!("CARGO_BIN_EXE_bootstrap_under_test").as_ref()).expect("a session");
        run(&session, &declared).await.expect("a table");
        server.take_requests();
        for (sql, expect) in &asks {
            let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{on:?}, {sql}: {error}"));
            assert_eq!(&lines(&rows, "NULL"), expect, "{on:?}, {sql}");
            assert_eq!((report.fragments, report.coordinator.requests.get > 0), (0, true), "{on:?}, {sql}: {report:?}");
        }
        let readers: BTreeSet<String> = server.take_requests().into_iter().map(|request| request.identity).collect();
        assert_eq!(readers, BTreeSet::from([access_key(COORDINATOR)]), "{on:?}");
        let missing = format!("SELECT * FROM '{}'", url("csv/none.csv"));
        let error = run(&session, &missing).await.map(|_| ()).expect_err("no file").to_string();
        assert!(error.contains("none.csv"), "{error}");
        session.close().await;
    }
}
