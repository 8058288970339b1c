//! The last files of a scan on the coordinator are shared by its streams, row group by row group.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use gust_engine::config::{Config, Target};
use gust_tests::asks::lines;
use gust_tests::cloud;
use gust_tests::iceberg::{DataFile, IcebergTable, field, parquet};
use gust_tests::query::run;
use gust_tests::s3::{Operation, S3Server};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::file::properties::WriterProperties;
use serde_json::json;

use crate::ahead::{hedged, most_reads_of_a_byte};

const FILES: i64 = 3;
const GROUPS: i64 = 6;
/// Rows of a row group, whose column has 560 kB: enough to be a part by itself.
const ROWS: i64 = 70_000;

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_the_last_files_have_all_rows_once() {
    let server = S3Server::start().expect("a server");
    let client = server.store().expect("a client");
    let (mut size, mut data) = (0, Vec::new());
    for number in 0..FILES {
        let first = number * GROUPS * ROWS;
        let keys = Arc::new(Int64Array::from_iter_values(first..first + GROUPS * ROWS));
        let properties = WriterProperties::builder().set_dictionary_enabled(false);
        let properties = properties.set_max_row_group_row_count(Some(ROWS as usize)).build();
        let bytes = parquet(&[field(1, "k", DataType::Int64)], vec![keys], properties).expect("a file");
        size = bytes.len();
        let path = format!("t/{number}.parquet");
        client.put(&Key::from(path.as_str()), PutPayload::from(bytes)).await.expect("put");
        data.push(DataFile::new(server.url(&path), size as u64, (GROUPS * ROWS) as u64));
    }
    // Its manifests do not say where row groups begin.
    let fields = json!([{"id": 1, "name": "k", "required": false, "type": "long"}]);
    let iceberg = IcebergTable { location: server.url("iceberg"), fields, data, ..IcebergTable::default() };
    for (path, bytes) in iceberg.metadata() {
        let key = path.strip_prefix(&server.url("")).expect("a path of the server").to_owned();
        client.put(&Key::from(key), PutPayload::from(bytes)).await.expect("put");
    }
    let all = FILES * GROUPS * ROWS;
    let tables = [("PARQUET", server.url("t/")), ("ICEBERG", iceberg.metadata_path())];
    for ((kind, location), requests_max) in tables.iter().flat_map(|table| [(table, 64), (table, 0)]) {
        let config = Config { on: Target::Local, read_ahead_requests_max: requests_max, ..Config::default() };
        let program = env!("CARGO_BIN_EXE_bootstrap_under_test");
        let session = cloud::session(&server, config, program.as_ref()).expect("a session");
        let create = format!("CREATE EXTERNAL TABLE t STORED AS {kind} LOCATION '{location}'");
        run(&session, &create).await.expect("a table");
        // With the second setting DataFusion has cut the files at any byte before.
        for (streams, cut_from) in [(2, 1 << 30), (3, 1 << 30), (2, 1), (1, 1)] {
            let what = format!("{kind}, {streams} streams, cut from {cut_from} bytes on, {requests_max} ahead");
            for setting in [
                format!("SET datafusion.execution.target_partitions = {streams}"),
                format!("SET datafusion.optimizer.repartition_file_min_size = {cut_from}"),
            ] {
                run(&session, &setting).await.expect("set");
            }
            for (condition, expect) in
                [("k >= 0", all), ("k % 7 = 1", (all + 5) / 7), ("k >= 1200000", all - 1_200_000)]
            {
                server.take_requests();
                let sql = format!("SELECT count(*), count(DISTINCT k) FROM t WHERE {condition}");
                let (rows, report) = run(&session, &sql).await.expect("rows");
                let found = |column: usize| rows[0].column(column).as_primitive::<Int64Type>().value(0);
                assert_eq!((found(0), found(1)), (expect, expect), "{what}: {sql}");
                let mut requests = server.take_requests();
                requests.retain(|request| request.operation == Operation::Get);
                for (key, reads) in most_reads_of_a_byte(&requests) {
                    assert!(reads <= 1 + hedged(&report), "{what}: {key} is read {reads} times");
                }
            }
            let analyzed = run(&session, "EXPLAIN ANALYZE SELECT max(k) FROM t WHERE k % 3 = 0").await.expect("rows").0;
            let text = lines(&analyzed, "NULL").join("\n");
            let is_cut = text.contains("t/2.parquet:") && !text.contains(&format!("t/2.parquet:0..{size}"));
            // Nobody knows the row groups of the Iceberg table.
            if *kind == "PARQUET" {
                assert_eq!(is_cut, streams > 1, "{what}: {text}");
            }
        }
        session.close().await;
    }
}
