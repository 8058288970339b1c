//! Reading ahead of an Iceberg table in S3 whose columns were renamed, dropped and added: the rows of the table's own schema, with pruning.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use gust_engine::config::{Config, Target};
use gust_tests::cloud;
use gust_tests::iceberg::{DataFile, IcebergTable, field, parquet};
use gust_tests::query::{assert_remote, run};
use gust_tests::s3::shape::Faults;
use gust_tests::s3::{Operation, Request, S3Server};
use parquet::file::properties::WriterProperties;
use serde_json::json;

use super::{bytes, hedged, most_reads_of_a_byte, slow};
use crate::deletes::Places;

const FILES: i64 = 4;
const GROUPS: i64 = 3;
const GROUP_ROWS: i64 = 12_000;
const FILE_ROWS: i64 = GROUPS * GROUP_ROWS;

/// Row of the table: `id`, `price` (id 2, once called `amount`), `extra` (id 4, added). The column with the id 3 was dropped.
struct Row {
    id: i64,
    price: Option<i64>,
    extra: Option<i64>,
}

fn row(id: i64) -> Row {
    let file = id / FILE_ROWS;
    Row { id, price: (file != 3).then_some(id * 10), extra: (file == 2).then_some(-id) }
}

/// Field ids and names of a file's columns, in their order.
fn columns(file: i64) -> &'static [(i32, &'static str)] {
    match file {
        0 => &[(1, "id"), (2, "amount"), (3, "old")],
        // Names that other columns have now.
        1 => &[(3, "extra"), (2, "id"), (1, "price")],
        2 => &[(4, "extra"), (1, "id"), (2, "price")],
        _ => &[(3, "price"), (1, "id")],
    }
}

fn file(number: i64) -> Vec<u8> {
    let rows = || (number * FILE_ROWS..(number + 1) * FILE_ROWS).map(row);
    let values = |id: i32| -> ArrayRef {
        match id {
            1 => Arc::new(Int64Array::from_iter_values(rows().map(|row| row.id))),
            2 => Arc::new(Int64Array::from_iter(rows().map(|row| row.price))),
            4 => Arc::new(Int64Array::from_iter(rows().map(|row| row.extra))),
            _ => Arc::new(Int64Array::from_iter_values(rows().map(|_| 7))),
        }
    };
    let fields: Vec<_> = columns(number).iter().map(|(id, name)| field(*id, name, DataType::Int64)).collect();
    let columns = columns(number).iter().map(|(id, _)| values(*id)).collect();
    let properties = WriterProperties::builder().set_dictionary_enabled(false);
    let properties = properties.set_max_row_group_row_count(Some(GROUP_ROWS as usize)).build();
    parquet(&fields, columns, properties).expect("a file")
}

async fn write(server: &S3Server) -> String {
    let places = Places(server);
    let mut data = Vec::new();
    for number in 0..FILES {
        let path = server.url(&format!("t/data/{number}.parquet"));
        let size = places.put(&path, file(number)).await;
        data.push(DataFile::new(path, size, FILE_ROWS as u64));
    }
    let long = |id: i32, name: &str| json!({"id": id, "name": name, "required": false, "type": "long"});
    let fields = json!([long(1, "id"), long(2, "price"), long(4, "extra")]);
    let table = IcebergTable { location: server.url("t"), fields, data, ..IcebergTable::default() };
    for (path, bytes) in table.metadata() {
        places.put(&path, bytes).await;
    }
    table.metadata_path()
}

/// Conditions, as SQL and as they are meant.
type Condition = (&'static str, fn(&Row) -> bool);

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_those_of_their_ids() {
    let server = S3Server::start().expect("a server");
    let metadata = write(&server).await;
    let all: u64 = (0..FILES).map(|number| file(number).len() as u64).sum();
    slow(&server, 5.0, Faults::default());
    let conditions: [Condition; 6] = [
        ("id >= 0", |_| true),
        ("price >= 1000000", |row| row.price.is_some_and(|price| price >= 1_000_000)),
        ("price IS NULL", |row| row.price.is_none()),
        ("extra < -100000", |row| row.extra.is_some_and(|extra| extra < -100_000)),
        ("id < 100 OR price = 700000", |row| row.id < 100 || row.price == Some(700_000)),
        ("extra IS NULL AND id BETWEEN 30000 AND 80000", |row| {
            row.extra.is_none() && (30_000..=80_000).contains(&row.id)
        }),
    ];
    for (on, requests_max) in [(Target::Local, 64), (Target::Local, 0), (Target::InProcess, 64), (Target::InProcess, 0)]
    {
        let config = Config { on, functions_max: 2, read_ahead_requests_max: requests_max, ..Config::default() };
        let program = env!("CARGO_BIN_EXE_bootstrap_under_test");
        let session = cloud::session(&server, config, program.as_ref()).expect("a session");
        let create = format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'");
        run(&session, &create).await.expect("a table");
        for (condition, is_meant) in conditions {
            server.take_requests();
            let sql = format!("SELECT count(*), sum(id), sum(price), sum(extra) FROM t WHERE {condition}");
            let what = format!("{sql} on {on:?}, {requests_max} ahead");
            let (rows, report) = run(&session, &sql).await.expect("rows");
            let found: Vec<Option<i64>> = rows[0]
                .columns()
                .iter()
                .map(|column| column.is_valid(0).then(|| column.as_primitive::<Int64Type>().value(0)))
                .collect();
            let meant: Vec<Row> = (0..FILES * FILE_ROWS).map(row).filter(is_meant).collect();
            let sum = |value: fn(&Row) -> Option<i64>| meant.iter().filter_map(value).reduce(|a, b| a + b);
            let expect =
                [Some(meant.len() as i64), sum(|row| Some(row.id)), sum(|row| row.price), sum(|row| row.extra)];
            assert_eq!(found, expect, "{what}");
            let ahead = if on == Target::Local { report.coordinator.ahead } else { report.functions.ahead };
            if on != Target::Local {
                assert_remote(&report, &what);
            }
            assert_eq!((ahead.requests > 0, ahead.again_bytes), (requests_max > 0, 0), "{what}: {ahead:?}");
            let mut requests: Vec<Request> = server.take_requests();
            requests.retain(|request| request.operation == Operation::Get && request.key.ends_with(".parquet"));
            // Each function reads the ends of its files itself.
            let hedged = hedged(&report) + if on == Target::Local { 0 } else { 1 };
            for (key, reads) in most_reads_of_a_byte(&requests) {
                assert!(reads <= 1 + hedged, "{what}: {key} is read {reads} times");
            }
            if condition.starts_with("extra <") {
                // One file has the column, and the statistics of the others leave no row.
                assert!(bytes(&requests) < all * 2 / 3, "{what}: {} of {all} bytes", bytes(&requests));
            }
        }
        session.close().await;
    }
}
