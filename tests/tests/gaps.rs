//! Gaps between columns: read along where that costs less than a second request, by the model and the prices.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use gust_engine::config::{Config, CostConfig, Prefer, Target};
use gust_tests::cloud;
use gust_tests::parquet_files::{batch, file};
use gust_tests::query::{assert_remote, run};
use gust_tests::s3::{Operation, S3Server};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::file::properties::WriterProperties;

/// Rows of the one row group. A column has 1,024,000 bytes of values: less than the largest gap, which is 1 MiB. A request's part of the
/// latency, 32 ms / 64, is worth 1,000,000 bytes of the model's pipe.
const ROWS: i64 = 128_000;

#[tokio::test(flavor = "multi_thread")]
async fn gaps_are_read_along_where_that_is_cheaper() {
    let server = S3Server::start().expect("a server");
    let column = |factor: i64| Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| row * factor))) as ArrayRef;
    let rows = batch(vec![("a", column(1)), ("between", column(2)), ("b", column(3))]);
    let bytes = file(&[rows], WriterProperties::builder().set_dictionary_enabled(false).build());
    let size = bytes.len() as u64;
    let put = server.store().expect("a client").put(&Key::from("t/0.parquet"), PutPayload::from(bytes)).await;
    put.expect("put");
    let outside = CostConfig { coordinator_outside: Some(true), ..CostConfig::default() };
    let seconds = Some(Prefer::Latency);
    for on in [Target::Local, Target::InProcess] {
        for (what, change, is_bridged, told) in [
            ("money and seconds", Config::default(), true, "gaps up to 1 MiB"),
            ("seconds alone", Config { prefer: seconds, ..Config::default() }, false, "gaps up to 976.56 KiB"),
            ("without ahead", Config { read_ahead_requests_max: 0, ..Config::default() }, true, ""),
            // It makes bytes dear for the coordinator alone.
            ("outside", Config { cost: outside.clone(), ..Config::default() }, on != Target::Local, "gaps up to "),
        ] {
            let what = format!("{what} on {on:?}");
            let config = Config { on, functions_max: 1, ..change };
            let program = env!("CARGO_BIN_EXE_bootstrap_under_test");
            let session = cloud::session(&server, config, program.as_ref()).expect("a session");
            let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", server.url("t/"));
            run(&session, &create).await.expect("a table");
            let sql = "SELECT sum(a), sum(b) FROM t";
            let explained = session.explain(session.parse(sql).expect("SQL").remove(0)).await.expect("a plan");
            assert!(explained.contains(told), "{what}: {explained}");
            server.take_requests();
            let (rows, report) = run(&session, sql).await.expect("rows");
            let sum = ROWS * (ROWS - 1) / 2;
            let found = |column: usize| rows[0].column(column).as_primitive::<Int64Type>().value(0);
            assert_eq!((found(0), found(1)), (sum, 3 * sum), "{what}");
            let ahead = if on == Target::Local { report.coordinator.ahead } else { report.functions.ahead };
            if on != Target::Local {
                assert_remote(&report, &what);
            }
            let mut requests = server.take_requests();
            requests.retain(|request| request.operation == Operation::Get && request.bytes.end < size);
            let hedged = (report.coordinator.requests.hedged + report.functions.requests.hedged) as usize;
            let expect = if is_bridged { 1 } else { 2 };
            let is_expected = requests.len() >= expect && requests.len() <= expect + hedged;
            assert!(is_expected, "{what}: {requests:?}");
            assert_eq!(ahead.gap_bytes > 0, is_bridged, "{what}: {ahead:?}");
            session.close().await;
        }
    }
}
