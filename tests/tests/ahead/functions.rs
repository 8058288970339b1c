//! Functions that read ahead, with one lane and with little memory.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use gust_tests::parquet_files::{batch, file};
use gust_tests::query::assert_remote;
use gust_tests::s3::in_flight_max;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::file::properties::WriterProperties;

use super::*;

/// Each function reads the ends of its files itself, and of the rest no byte twice. One function has one lane, which would
/// otherwise read one row group after the other, and does so where reading ahead is turned off.
#[tokio::test(flavor = "multi_thread")]
async fn functions_read_ahead() {
    for (on, functions_max, read_ahead_requests_max) in [
        (Target::InProcess, 1, 64),
        (Target::InProcess, 1, 0),
        (Target::InProcess, 4, 64),
        (Target::Processes, 1, 64),
        (Target::Processes, 1, 0),
        (Target::Processes, 4, 64),
    ] {
        let lake = Lake::open(Config { on, functions_max, read_ahead_requests_max, ..local() }).await;
        lake.slow(20.0, Faults::default());
        for number in [1, 6] {
            let Answer { mut requests, report, .. } = lake.query(number).await;
            let what = format!("query {number} on {functions_max} of {on:?}, {read_ahead_requests_max} requests ahead");
            assert_remote(&report, &what);
            let hedged = hedged(&report);
            let reads = lake.row_reads(&requests, TpchTable::LineItem);
            let at_once = in_flight_max(&reads).into_values().max().unwrap_or_default();
            let is_as_expected = functions_max > 1 || (at_once > 1) == (read_ahead_requests_max > 0);
            assert!(is_as_expected, "{what}: {at_once} of {} reads at a time", reads.len());
            let mut sizes = BTreeMap::new();
            for request in &requests {
                let size = sizes.entry(request.key.clone()).or_insert(0);
                *size = request.bytes.end.max(*size);
            }
            requests.retain(|request| request.bytes.end < sizes[&request.key]);
            assert!(!reads.is_empty(), "{what}");
            for (key, most) in most_reads_of_a_byte(&requests) {
                assert!(most <= 1 + hedged, "{what}: {key} is read {most} times; {hedged} hedges");
            }
        }
        lake.session.close().await;
    }
}

/// A row group that fills a function's memory is read when it is decoded, and nothing before. Narrow queries over the same
/// file are read ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_function_reads_wide_row_groups_on_demand() {
    const COLUMNS: usize = 1_000;
    const ROWS: usize = 12_800;
    let server = S3Server::start().expect("a server");
    let names: Vec<String> = (0..COLUMNS).map(|column| format!("c{column}")).collect();
    // Values that do not compress: 100 MB a row group.
    let value = |group: usize, column: usize, row: usize| {
        let seed = (group * COLUMNS * ROWS + column * ROWS + row) as u64;
        (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1) as i64
    };
    let group = |group: usize| {
        let column = |column: usize| Int64Array::from_iter_values((0..ROWS).map(|row| value(group, column, row)));
        let columns =
            names.iter().enumerate().map(|(index, name)| (name.as_str(), Arc::new(column(index)) as ArrayRef));
        batch(columns.collect())
    };
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let bytes = file(&[group(0), group(1)], properties);
    assert!(bytes.len() > 190 << 20, "{} bytes", bytes.len());
    let put = server.store().expect("a client").put(&Key::from("t/wide.parquet"), PutPayload::from(bytes)).await;
    put.expect("put");
    let config = Config { on: Target::InProcess, functions_max: 1, function_memory_bytes: 256 << 20, ..local() };
    let session =
        cloud::session(&server, config, env!("CARGO_BIN_EXE_bootstrap_under_test").as_ref()).expect("a session");
    let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", server.url("t/"));
    run(&session, &create).await.expect("a table");
    let most = |columns: &[usize]| {
        let all = columns.iter().flat_map(|column| (0..2 * ROWS).map(|row| value(row / ROWS, *column, row % ROWS)));
        all.max().expect("rows")
    };
    for (columns, is_ahead) in [((0..COLUMNS).collect::<Vec<_>>(), false), (vec![0, 500, 999], true)] {
        let all: Vec<&str> = columns.iter().map(|column| names[*column].as_str()).collect();
        server.take_requests();
        let sql = format!("SELECT max(greatest({})) FROM t", all.join(", "));
        let (rows, report) = run(&session, &sql).await.expect("rows");
        assert_remote(&report, "the scan is a function's");
        assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0), most(&columns));
        let ahead = report.functions.ahead;
        assert_eq!(ahead.requests > 0, is_ahead, "{ahead:?}");
        assert!(ahead.peak_bytes <= 32 << 20, "{ahead:?}");
        let hedged = hedged(&report);
        for (key, reads) in most_reads_of_a_byte(&server.take_requests()) {
            assert!(reads <= 1 + hedged, "{key} is read {reads} times");
        }
    }
    session.close().await;
}
