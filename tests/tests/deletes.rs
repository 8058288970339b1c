//! Deletes of Iceberg tables on a server that counts requests: each delete file is read once a fragment, at any place.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;
use gust_engine::config::{Config, Target};
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::cloud;
use gust_tests::iceberg::{
    Committed, DataFile, Datum, DeleteFile, Deletes, IcebergTable, Part, field, parquet, positions, vector,
};
use gust_tests::odd_locations::put;
use gust_tests::query::{assert_remote, run};
use gust_tests::s3::{Operation, S3Server};
use parquet::file::properties::WriterProperties;
use serde_json::json;
use tempfile::TempDir;
use url::Url;

/// Rows of a data file, in three row groups.
pub(super) const ROWS: i64 = 30;

/// Writes files wherever their locations say.
pub(super) struct Places<'a>(pub(super) &'a S3Server);

impl Places<'_> {
    pub(super) async fn put(&self, location: &str, bytes: Vec<u8>) -> u64 {
        put(self.0, location, bytes).await.expect("put")
    }

    /// Writes a data file of the ids `first..first + ROWS`.
    pub(super) async fn data(&self, path: &str, first: i64) -> DataFile {
        self.long_data(path, first, ROWS).await
    }

    pub(super) async fn long_data(&self, path: &str, first: i64, rows: i64) -> DataFile {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + rows));
        let group = usize::try_from(rows / 3).expect("few rows");
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
        let bytes = parquet(&[field(1, "id", DataType::Int64)], vec![ids], properties).expect("a file");
        DataFile::new(path.to_owned(), self.put(path, bytes).await, rows as u64)
    }

    /// Writes a Puffin file with a vector for each data file.
    pub(super) async fn vectors(&self, path: &str, of: &[(&str, &[u64])]) -> Vec<DeleteFile> {
        let mut bytes = b"PFA1".to_vec();
        let mut deletes = Vec::new();
        for (of, positions) in of {
            let vector = vector(positions.iter().copied()).expect("a vector");
            let (offset, length) = (bytes.len() as u64, vector.len() as u64);
            bytes.extend(vector);
            let content = Deletes::Vector { of: (*of).to_owned(), offset, bytes: length };
            deletes.push(DeleteFile::new(path.to_owned(), 0, positions.len() as u64, content));
        }
        bytes.extend(b"a footer");
        let size_bytes = self.put(path, bytes).await;
        deletes.iter_mut().for_each(|file| file.size_bytes = size_bytes);
        deletes
    }

    pub(super) async fn positions(&self, path: &str, rows: &[(&str, i64)]) -> DeleteFile {
        // Texts in full, so that few rows make a large file.
        let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
        let size_bytes = self.put(path, positions(rows, properties).expect("a file")).await;
        DeleteFile::new(path.to_owned(), size_bytes, rows.len() as u64, Deletes::Positions)
    }

    /// Writes a file of keys, which are ids.
    pub(super) async fn keys(&self, path: &str, ids: &[i64]) -> DeleteFile {
        let keys: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
        let bytes = parquet(&[field(1, "id", DataType::Int64)], vec![keys], WriterProperties::default());
        let size_bytes = self.put(path, bytes.expect("a file")).await;
        let content = Deletes::Keys(vec![1]);
        DeleteFile::new(path.to_owned(), size_bytes, ids.len() as u64, content)
    }

    pub(super) async fn table(&self, location: &str, data: Vec<DataFile>, deletes: Vec<DeleteFile>) -> String {
        let fields = json!([{"id": 1, "name": "id", "required": false, "type": "long"}]);
        let table = IcebergTable { location: location.to_owned(), fields, data, deletes, ..IcebergTable::default() };
        for (path, bytes) in table.metadata() {
            self.put(&path, bytes).await;
        }
        table.metadata_path()
    }
}

async fn open(server: &S3Server, on: Target, metadata: &str) -> Session {
    let config = Config { on, functions_max: 3, ..Config::default() };
    let bootstrap = env!("CARGO_BIN_EXE_bootstrap_under_test");
    let session = cloud::session(server, config, bootstrap.as_ref()).expect("a session");
    run(&session, &format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'")).await.expect("a table");
    session
}

/// Counts the GETs of each object whose key has this folder.
fn gets(server: &S3Server, folder: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in server.take_requests() {
        let name = request.key.rsplit('/').next().unwrap_or_default();
        if request.operation == Operation::Get && request.refused.is_none() && request.key.contains(folder) {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn each_delete_file_is_read_once_a_fragment() {
    let server = S3Server::start().expect("a server");
    let places = Places(&server);
    let data = |name: &str| server.url(&format!("t/data/{name}.parquet"));
    let names = [data("a"), data("b"), data("c"), data("d")];
    let mut files = Vec::new();
    for (name, first) in names.iter().zip((0..).step_by(100)) {
        files.push(places.data(name, first).await);
    }
    let [a, b, c, d] = names.each_ref().map(String::as_str);
    let mut deletes = places
        .vectors(&server.url("t/deletes/v.puffin"), &[(a, &[0, 1, 29]), (b, &(10..20).collect::<Vec<_>>())])
        .await;
    // The vector of `a` comes in place of its positions.
    let rows = [(a, 5), (c, 0), (c, 11), (d, 29)];
    deletes.push(places.positions(&server.url("t/deletes/p.parquet"), &rows).await);
    deletes.push(places.keys(&server.url("t/deletes/k.parquet"), &[2, 102, 202, 302]).await);
    let metadata = places.table(&server.url("t"), files, deletes).await;

    // Ids that are left: 3 and 1 of `a`, 10 and 1 of `b`, 2 and 1 of `c`, 1 and 1 of `d` are deleted.
    let left: i64 = 4 * ROWS - 20;
    for target in [Target::Local, Target::InProcess, Target::Processes] {
        let session = open(&server, target, &metadata).await;
        gets(&server, "");
        let (rows, report) =
            run(&session, "SELECT count(*), min(id), max(id), sum(id % 2) FROM t").await.expect("rows");
        assert_eq!(lines(&rows, ""), [format!("{left}|3|328|51")], "{target:?}");
        let counts = gets(&server, "deletes/");
        let readers = report.fragments.max(1);
        if target != Target::Local {
            assert_remote(&report, "deletes");
            assert_eq!(readers, 3, "{report:?}");
        }
        let count = |name: &str| counts.get(name).copied().unwrap_or_default();
        // A fragment may have a part of a file only.
        assert!((2..=readers + 1).contains(&count("v.puffin")), "{target:?}: {counts:?}");
        assert!((1..=readers).contains(&count("p.parquet")), "{target:?}: {counts:?}");
        assert_eq!(count("k.parquet"), readers, "{target:?}: {counts:?}");
        if target == Target::Local {
            assert_eq!((count("v.puffin"), count("p.parquet")), (2, 1), "{counts:?}");
        }
        // Files without deletes of a kind ask for nothing of it.
        let (rows, _) = run(&session, "SELECT id FROM t WHERE id BETWEEN 100 AND 125 ORDER BY id").await.expect("rows");
        let expect = (100..=125).filter(|id| !(110..120).contains(id) && *id != 102).map(|id| id.to_string());
        assert_eq!(lines(&rows, ""), expect.collect::<Vec<_>>(), "{target:?}");
        session.close().await;
    }
}

/// Rows of files with vectors alone are counted without reading a data file. Of a file without a row left only the footer is read.
#[tokio::test(flavor = "multi_thread")]
async fn vectors_alone_leave_the_number_of_rows_exact() {
    let server = S3Server::start().expect("a server");
    let places = Places(&server);
    let [a, b] = ["a", "b"].map(|name| server.url(&format!("t/data/{name}.parquet")));
    let files = vec![places.data(&a, 0).await, places.data(&b, 100).await];
    let all: Vec<u64> = (0..ROWS as u64).collect();
    let deletes = places.vectors(&server.url("t/deletes/v.puffin"), &[(&a, &[0, 7]), (&b, &all)]).await;
    let metadata = places.table(&server.url("t"), files, deletes).await;
    let session = open(&server, Target::Local, &metadata).await;
    gets(&server, "");
    let (rows, _) = run(&session, "SELECT count(*) FROM t").await.expect("rows");
    assert_eq!(lines(&rows, ""), ["28"]);
    let counts = gets(&server, "");
    assert!(counts["v.puffin"] == 2 && !counts.keys().any(|name| name.ends_with(".parquet")), "{counts:?}");
    // The number of these rows is not the table's: only the scan reads the vectors.
    let (rows, _) = run(&session, "SELECT count(*) FROM (SELECT 7 AS x FROM t LIMIT 100)").await.expect("rows");
    assert_eq!(lines(&rows, ""), ["28"]);
    assert_eq!(gets(&server, "")["v.puffin"], 2);
    // The least id was deleted. Of the file without a row left the vector and the footer are read.
    let (rows, _) = run(&session, "SELECT min(id), max(id), count(id) FROM t").await.expect("rows");
    assert_eq!(lines(&rows, ""), ["1|29|28"]);
    let counts = gets(&server, "");
    assert_eq!((counts["v.puffin"], counts["b.parquet"]), (2, 1), "{counts:?}");
    let statement = session.parse("SELECT id FROM t").expect("SQL").remove(0);
    let explained = session.explain(statement).await.expect("a plan");
    assert!(
        explained.contains("2 of 2 files") && explained.contains("; rows deleted by 2 deletion vectors, "),
        "{explained}"
    );
    session.close().await;
}

/// A manifest says that a file has ten rows, and a vector has ten positions. The file has more, which are not lost without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_says_too_few_rows_hides_none() {
    let server = S3Server::start().expect("a server");
    let places = Places(&server);
    let [a, b] = ["a", "b"].map(|name| server.url(&format!("t/data/{name}.parquet")));
    let understated = DataFile { rows: 10, ..places.data(&b, 100).await };
    let files = vec![places.data(&a, 0).await, understated];
    let deletes = places.vectors(&server.url("t/deletes/v.puffin"), &[(&b, &(0..10).collect::<Vec<_>>())]).await;
    let metadata = places.table(&server.url("t"), files, deletes).await;
    for target in [Target::Local, Target::InProcess, Target::Processes] {
        let session = open(&server, target, &metadata).await;
        for sql in ["SELECT sum(id) FROM t", "SELECT id FROM t WHERE id > 5", "SELECT count(id + 1) FROM t"] {
            let error = run(&session, sql).await.map(|_| ()).expect_err("rows of `b` would be lost").to_string();
            let says = "t/data/b.parquet`: it has 30 rows, its manifest says 10";
            assert!(error.contains(says), "{sql} on {target:?}: {error}");
        }
        session.close().await;
    }
}

/// One function reads no more than the estimate foretold: data, each delete file once, and the footer of a file without a row left.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_deletes_are_within_the_estimate() {
    let server = S3Server::start().expect("a server");
    let places = Places(&server);
    let [a, b, c] = ["a", "b", "c"].map(|name| server.url(&format!("t/data/{name}.parquet")));
    let files = vec![places.data(&a, 0).await, places.data(&b, 100).await, places.data(&c, 200).await];
    let all: Vec<u64> = (0..ROWS as u64).collect();
    let mut deletes = places.vectors(&server.url("t/deletes/v.puffin"), &[(&a, &[0, 7]), (&b, &all)]).await;
    deletes.push(places.positions(&server.url("t/deletes/p.parquet"), &[(&c, 3)]).await);
    deletes.push(places.keys(&server.url("t/deletes/k.parquet"), &[2, 202]).await);
    let metadata = places.table(&server.url("t"), files, deletes).await;
    let config = Config { on: Target::InProcess, functions_max: 1, ..Config::default() };
    let session = cloud::session(&server, config, env!("CARGO_BIN_EXE_bootstrap_under_test").as_ref());
    let session = session.expect("a session");
    run(&session, &format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'")).await.expect("a table");
    let sql = "SELECT sum(id) FROM t";
    let (_, asked) = run(&session, &format!("EXPLAIN COST {sql}")).await.expect("an estimate");
    let quote = asked.quote.expect("an estimate");
    gets(&server, "");
    let (rows, report) = run(&session, sql).await.expect("rows");
    let sum = (0..ROWS).chain(200..200 + ROWS).filter(|id| ![0, 7, 203, 2, 202].contains(id)).sum::<i64>();
    assert_eq!(lines(&rows, ""), [sum.to_string()]);
    assert_remote(&report, "one function");
    let counts = gets(&server, "t/");
    let read = |name: &str| counts.get(name).copied().unwrap_or_default();
    assert_eq!(["a.parquet", "b.parquet", "c.parquet"].map(read), [1, 1, 1], "{counts:?}");
    assert_eq!(["v.puffin", "p.parquet", "k.parquet"].map(read), [2, 1, 1], "{counts:?}");
    let expected = quote.forecasts[quote.picked].expected;
    let bytes = report.functions.bytes_read;
    assert!(bytes <= expected.bytes, "{bytes} bytes of {}", expected.bytes);
    let seen = report.functions.requests.total() + report.coordinator.requests.total();
    assert!(seen <= expected.requests, "{seen} requests of {}: {report:?}", expected.requests);
    session.close().await;
}

/// An imported file has its partition's value in no column. Its readers know it, also where they number rows to drop scattered ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_has_its_value_beside_scattered_deletes() {
    let server = S3Server::start().expect("a server");
    let places = Places(&server);
    let (path, deleted) = (server.url("t/data/a.parquet"), (0..ROWS as u64).step_by(3).collect::<Vec<_>>());
    let committed = Committed { sequence_number: Some(1), spec: 0, partition: vec![Datum::Long(7)] };
    let data = vec![DataFile { committed: committed.clone(), ..places.data(&path, 0).await }];
    let vector = places.vectors(&server.url("t/v.puffin"), &[(&path, &deleted)]).await.remove(0);
    let deletes = vec![DeleteFile { committed: Committed { sequence_number: Some(2), ..committed }, ..vector }];
    let column = |id: i32, name: &str| json!({"id": id, "name": name, "required": false, "type": "long"});
    let (location, fields) = (server.url("t"), json!([column(1, "id"), column(2, "p")]));
    let specs = vec![vec![Part::of_longs(2)]];
    let table = IcebergTable { location, fields, specs, data, deletes, ..IcebergTable::default() };
    for (path, bytes) in table.metadata() {
        places.put(&path, bytes).await;
    }
    let expect: Vec<String> = (0..ROWS).filter(|id| id % 3 > 0).map(|id| format!("{id}|7")).collect();
    for target in [Target::Local, Target::InProcess] {
        let session = open(&server, target, &table.metadata_path()).await;
        let (rows, _) = run(&session, "SELECT id, p FROM t ORDER BY id").await.expect("rows");
        assert_eq!(lines(&rows, ""), expect, "{target:?}");
        session.close().await;
    }
}

/// F11 and F13: files in several stores, and keys with an empty segment.
#[tokio::test(flavor = "multi_thread")]
async fn files_may_be_in_several_stores_and_below_empty_segments() {
    let server = S3Server::start().expect("a server");
    let places = Places(&server);
    let folder = TempDir::new().expect("a folder");
    let here = Url::from_directory_path(folder.path()).expect("an absolute path").to_string();
    let paths = [server.url("t//data/a b.parquet"), format!("{here}data/a b.parquet"), server.url("data/a b.parquet")];
    let mut files = Vec::new();
    for (path, first) in paths.iter().zip((0..).step_by(100)) {
        files.push(places.data(path, first).await);
    }
    let [a, b, c] = paths.each_ref().map(String::as_str);
    let mut deletes = places.vectors(&server.url("//v.puffin"), &[(a, &[0]), (b, &[1])]).await;
    deletes.push(places.positions(&format!("{here}p.parquet"), &[(b, 3), (c, 2)]).await);
    let metadata = places.table(&server.url("t//x"), files, deletes).await;
    let left = |id: i64| id % 100 < ROWS && ![0, 101, 202].contains(&id);
    let expect: Vec<String> = (0..300).filter(|id| left(*id)).map(|id| id.to_string()).collect();
    for target in [Target::Local, Target::InProcess, Target::Processes] {
        let session = open(&server, target, &metadata).await;
        for _ in 0..2 {
            let (rows, report) = run(&session, "SELECT id FROM t ORDER BY id").await.expect("rows");
            assert_eq!(lines(&rows, ""), expect, "{target:?}");
            if target != Target::Local {
                assert_remote(&report, "several stores");
            }
        }
        let listed = format!("CREATE EXTERNAL TABLE u STORED AS ICEBERG LOCATION '{}'", server.url("t//x"));
        let error = run(&session, &listed).await.map(|_| ()).expect_err("no list").to_string();
        assert!(error.contains("its name has an empty segment; pass the path of the metadata file"), "{error}");
        session.close().await;
    }
}
