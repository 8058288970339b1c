//! CSV and JSON files that DuckDB writes, packed and not: Gust reads the rows that DuckDB reads, and says that the coordinator does.

use std::path::Path;

use gust_engine::config::Target;
use gust_engine::model::{Place, Reason};
use gust_tests::asks::lines;
use gust_tests::compare::read_arrow_file;
use gust_tests::python::{self, Run};
use gust_tests::query::{run, session};

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
    std::fs::write(folder.path().join("queries.json"), serde_json::to_string(&queries).expect("text"))
        .expect("written");
    match python::run(cache, "duckdb_answers.py", &[folder.path()]).expect("DuckDB answers") {
        Run::Done { .. } => {}
        Run::Skipped { reason } => return eprintln!("skipped: {reason}"),
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
