//! F11 and F13: tables whose files are in several stores, or below an empty segment. pyiceberg judges F11, and cannot name a file of F13.
//! `lab judges` asks DuckDB and ClickHouse, too.

use std::path::Path;

use gust_engine::config::{Config, Target};
use gust_tests::asks::lines;
use gust_tests::cloud;
use gust_tests::odd_locations::{judge, write};
use gust_tests::python::{PythonEnvironment, TESTS, environment};
use gust_tests::query::run;
use gust_tests::s3::S3Server;
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn odd_locations_have_their_rows_and_pyiceberg_agrees() {
    let server = S3Server::start().expect("a server");
    let folder = TempDir::new().expect("a folder");
    let tables = write(&server, folder.path()).await.expect("written");
    let session = cloud::session(
        &server,
        Config { on: Target::Local, ..Config::default() },
        env!("CARGO_BIN_EXE_bootstrap_under_test").as_ref(),
    );
    let session = session.expect("a session");
    for table in &tables {
        let create = format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{}'", table.metadata);
        run(&session, &create).await.expect("a table");
        let (rows, _) = run(&session, "SELECT id FROM t ORDER BY id").await.expect("rows");
        let ids: Vec<String> = table.ids.iter().map(i64::to_string).collect();
        assert_eq!(lines(&rows, ""), ids, "{}", table.name);
        run(&session, "DROP TABLE t").await.expect("dropped");
    }
    session.close().await;
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let python = match environment(cache, TESTS).expect("an environment") {
        PythonEnvironment::Ready(python) => python,
        PythonEnvironment::Missing(reason) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI does not skip: {reason}");
            eprintln!("skipped: {reason}");
            return;
        }
    };
    for table in &tables {
        let judged = judge(&python, &server, table, &["pyiceberg"]).expect("an answer").remove(0);
        match table.name {
            // Arrow's file systems have no name for such a key.
            "F13" => assert!(judged.error.contains("Empty path component in path"), "{judged:?}"),
            name => assert_eq!(judged.ids.as_ref(), Some(&table.ids), "{name}: {judged:?}"),
        }
    }
}
