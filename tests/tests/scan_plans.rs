//! Each manifest of an Iceberg table and each list of them is decoded once in a statement, whatever the process keeps of it.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;
use gust_catalog::MetadataCache;
use gust_engine::config::{Config, Target};
use gust_engine::model::Place;
use gust_engine::session::{Engine, EngineOptions, Session, SessionOptions};
use gust_tests::asks::lines;
use gust_tests::iceberg::{Committed, DataFile, Datum, DeleteFile, Deletes, IcebergTable, Part, Past, field, parquet};
use gust_tests::query::run;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Manifests of the table: three of data, and one of deletes.
const MANIFESTS: u64 = 4;

fn put(path: &str, bytes: &[u8]) -> u64 {
    std::fs::create_dir_all(Path::new(path).parent().expect("a folder")).expect("made");
    std::fs::write(path, bytes).expect("written");
    bytes.len() as u64
}

/// Writes a table of the ids 0 to 29 and their squares, of which the ids 3 and 17 are deleted.
pub(crate) fn write(folder: &str) -> String {
    let longs = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let long = |id: i32, name: &str| field(id, name, DataType::Int64);
    let mut data = Vec::new();
    for (spec, first) in [0, 10, 20].into_iter().enumerate() {
        let ids: Vec<i64> = (first..first + 10).collect();
        let squares = ids.iter().map(|id| id * id).collect();
        let bytes =
            parquet(&[long(1, "id"), long(2, "square")], vec![longs(ids), longs(squares)], WriterProperties::default());
        let path = format!("{folder}/data/{spec}.parquet");
        let size = put(&path, &bytes.expect("a file"));
        let partition = if spec > 0 { vec![Datum::Long(first)] } else { Vec::new() };
        let committed = Committed { sequence_number: Some(1), spec, partition };
        data.push(DataFile { committed, ..DataFile::new(path, size, 10) });
    }
    let path = format!("{folder}/keys.parquet");
    let bytes = parquet(&[long(1, "id")], vec![longs(vec![3, 17])], WriterProperties::default()).expect("a file");
    let committed = Committed { sequence_number: Some(2), ..Committed::default() };
    let keys = DeleteFile::new(&*path, put(&path, &bytes), 2, Deletes::Keys(vec![1]));
    let deletes = vec![DeleteFile { committed, ..keys }];
    let column = |id: i32, name: &str| json!({"id": id, "name": name, "required": false, "type": "long"});
    let table = IcebergTable {
        location: folder.to_owned(),
        fields: json!([column(1, "id"), column(2, "square"), column(3, "first")]),
        specs: vec![Vec::new(), vec![Part::of_longs(3)], vec![Part::of_longs(3)]],
        data,
        deletes,
        by_commit: true,
        older: vec![json!([column(1, "id"), column(2, "square")])],
        past: Some(Past { commit: 1, schema: 0 }),
        ..IcebergTable::default()
    };
    for (path, bytes) in table.metadata() {
        put(&path, &bytes);
    }
    table.metadata_path()
}

/// Opens a session that keeps this much of decoded metadata.
async fn open(on: Target, bytes_max: usize, metadata: &str) -> (Session, Arc<MetadataCache>) {
    let cache = Arc::new(MetadataCache::new(bytes_max));
    let options = EngineOptions { metadata: Arc::clone(&cache), ..EngineOptions::default() };
    let config = Config { on, functions_max: 3, ..Config::default() };
    let session =
        Engine::open(config, options).expect("an engine").session(SessionOptions::default()).expect("a session");
    for table in ["t", "u"] {
        let sql = format!("CREATE EXTERNAL TABLE {table} STORED AS ICEBERG LOCATION '{metadata}'");
        run(&session, &sql).await.expect("a table");
    }
    (session, cache)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_decodes_each_manifest_once() {
    let folder = TempDir::new().expect("a folder");
    let metadata = write(&folder.path().display().to_string());
    let sum = "SELECT count(*), sum(square) FROM t WHERE id >= 2";
    let asks = [
        (sum, "26|8256"),
        // One table under two names, with other columns and conditions.
        ("SELECT count(*), sum(t.square) FROM t JOIN u ON t.id = u.id WHERE t.square > 100 AND u.id < 25", "13|4226"),
        ("SELECT count(*) FROM t WHERE square > (SELECT avg(id) FROM u WHERE id < 20)", "25"),
        ("SELECT id FROM t WHERE id = 12 UNION ALL SELECT square FROM t WHERE id = 5 ORDER BY 1", "12,25"),
        // Two versions, which share the manifests of data.
        (
            "SELECT (SELECT count(*) FROM t FOR VERSION AS OF 7 WHERE id < 20), (SELECT count(id) FROM t WHERE square >= 9)",
            "20|25",
        ),
        (
            "SELECT o.id FROM t FOR VERSION AS OF 7 AS o LEFT JOIN t AS n ON n.id = o.id WHERE n.id IS NULL ORDER BY o.id",
            "3,17",
        ),
    ];
    for on in [Target::Local, Target::InProcess, Target::Auto] {
        let (session, cache) = open(on, 1, &metadata).await;
        let decoded = || (cache.decoded_manifests(), cache.decoded_lists());
        let since = |before: (u64, u64)| (decoded().0 - before.0, decoded().1 - before.1);
        for (sql, expect) in asks {
            // Each snapshot has a list.
            let once = (MANIFESTS, if sql.contains("FOR VERSION") { 2 } else { 1 });
            for _ in 0..2 {
                let before = decoded();
                let (rows, _) = run(&session, sql).await.expect("rows");
                assert_eq!(lines(&rows, "").join(","), expect, "{sql} on {on:?}");
                assert_eq!(since(before), once, "{sql} on {on:?}");
            }
            // Both places are planned.
            let before = decoded();
            let (_, report) = run(&session, &format!("EXPLAIN COST {sql}")).await.expect("an estimate");
            let forecasts = report.quote.expect("an estimate").forecasts;
            let has = |place| forecasts.iter().any(|forecast| forecast.place == place);
            assert!(has(Place::Local) && has(Place::Functions), "{sql} on {on:?}: {forecasts:?}");
            assert_eq!(since(before), once, "EXPLAIN COST {sql} on {on:?}");
        }
        assert_eq!(cache.held_bytes(), 0);
        session.close().await;
    }
    let (session, cache) = open(Target::Auto, 1 << 20, &metadata).await;
    for _ in 0..2 {
        run(&session, sum).await.expect("rows");
    }
    assert_eq!(cache.decoded_manifests(), MANIFESTS, "with room, statements share them");
    session.close().await;
    // A metadata table beside its table shares them, too, whichever comes first.
    for (sql, expect) in [
        ("SELECT count(*), (SELECT count(*) FROM t WHERE square > 80) FROM \"t$files\"", "4|20"),
        ("SELECT count(*), (SELECT count(*) FROM \"t$files\") FROM t WHERE square > 80", "20|4"),
    ] {
        let (session, cache) = open(Target::Auto, 1 << 20, &metadata).await;
        let (rows, _) = run(&session, sql).await.expect("rows");
        assert_eq!(lines(&rows, "").join(","), expect, "{sql}");
        assert_eq!((cache.decoded_manifests(), cache.decoded_lists()), (MANIFESTS, 1), "{sql}");
        session.close().await;
    }
}

/// Two versions of a table may be one snapshot under two schemas, in which a name is another column's.
#[tokio::test(flavor = "multi_thread")]
async fn versions_in_one_statement_have_their_own_columns() {
    let folder = TempDir::new().expect("a folder");
    let path = write(&folder.path().display().to_string());
    let mut metadata: Value = serde_json::from_slice(&std::fs::read(&path).expect("written")).expect("JSON");
    let mut swapped = metadata["schemas"][1].clone();
    swapped["schema-id"] = json!(2);
    swapped["fields"][0]["name"] = json!("square");
    swapped["fields"][1]["name"] = json!("id");
    metadata["schemas"].as_array_mut().expect("schemas").push(swapped);
    metadata["current-schema-id"] = json!(2);
    std::fs::write(&path, metadata.to_string()).expect("written");
    // The ids from 25 on are of the version, and the squares from 25 on of the table.
    let (version, now) =
        ("SELECT count(*) FROM t FOR VERSION AS OF 1 WHERE id >= 25", "SELECT count(*) FROM t WHERE id >= 25");
    for on in [Target::Local, Target::InProcess, Target::Auto] {
        for bytes_max in [1, 1 << 20] {
            let (session, cache) = open(on, bytes_max, &path).await;
            for (first, second, expect) in [(version, now, "5|24"), (now, version, "24|5")] {
                let before = cache.decoded_manifests();
                let (rows, _) = run(&session, &format!("SELECT ({first}), ({second})")).await.expect("rows");
                assert_eq!(lines(&rows, ""), [expect], "{first} beside {second} on {on:?}");
                let decoded = cache.decoded_manifests() - before;
                assert!(decoded == MANIFESTS || bytes_max > 1 && decoded == 0, "{decoded} manifests of {MANIFESTS}");
            }
            session.close().await;
        }
    }
}
