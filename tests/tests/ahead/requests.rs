//! Requests of a statement: each range once a scan, none that was not predicted, and few where few rows are wanted.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use gust_tests::parquet_files::{batch, file};
use gust_tests::s3::in_flight_max;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::file::properties::WriterProperties;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_range_is_asked_for_once_a_scan() {
    let lake = Lake::open(small()).await;
    lake.slow(5.0, Faults::default());
    let (mut read, mut missed, mut unused) = (0, 0, 0);
    for number in 1..=queries::COUNT {
        let Answer { usage, requests, report, .. } = lake.query(number).await;
        let hedged = hedged(&report);
        for (key, most) in most_reads_of_a_byte(&requests) {
            let table = TpchTable::ALL.into_iter().find(|table| key.starts_with(&format!("{}/", table.name())));
            let scans = table.map_or(1, |table| scans(number, table));
            assert!(
                most <= scans + hedged,
                "query {number}: {key} is read {most} times in {scans} scans; {hedged} hedges"
            );
        }
        assert_eq!(usage.again_bytes, 0, "query {number}: {usage:?}");
        // A reader may be faster than the requests ahead, on a busy machine and with small files.
        assert!(usage.missed_bytes * 4 <= usage.taken_bytes, "query {number}: {usage:?}");
        (read, missed) = (read + usage.taken_bytes, missed + usage.missed_bytes);
        unused += usage.unused_bytes();
    }
    assert!(read > 0 && missed * 50 <= read, "{missed} bytes were not predicted, {read} were");
    assert!(unused * 20 <= read + missed + unused, "{unused} bytes were not used, {read} were");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_with_filters_in_the_decoder() {
    for requests_max in [64, 0] {
        let lake = Lake::open(Config { read_ahead_requests_max: requests_max, ..local() }).await;
        for (pushdown, reorder) in [(true, false), (true, true), (false, true), (false, false)] {
            for (option, value) in [("pushdown_filters", pushdown), ("reorder_filters", reorder)] {
                run(&lake.session, &format!("SET datafusion.execution.parquet.{option} = {value}")).await.expect("set");
            }
            // Rows are compared each time.
            for number in [1, 4, 6, 12, 14, 19] {
                let Answer { usage, .. } = lake.query(number).await;
                let what = format!("query {number}, {requests_max} ahead, {pushdown} and {reorder}: {usage:?}");
                let is_ahead = requests_max > 0;
                assert_eq!((usage.taken_bytes > 0, usage.requests > 0), (is_ahead, is_ahead), "{what}");
                assert!(usage.missed_bytes == 0 || !is_ahead, "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_turns_reading_ahead_off() {
    for (requests_max, bytes_max) in [(0, 1 << 20), (64, 0)] {
        let off = Config { read_ahead_requests_max: requests_max, read_ahead_bytes_max: bytes_max, ..local() };
        let lake = Lake::open(off).await;
        let Answer { usage, .. } = lake.query(6).await;
        assert!(usage.gap_bytes > 0, "the columns do not lie side by side");
        assert_eq!(usage, AheadUsage { gap_bytes: usage.gap_bytes, ..AheadUsage::default() });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_reads_two_row_groups_a_lane() {
    let lanes = 2;
    let open = async |config: Config| {
        let lake = Lake::open(config).await;
        lake.slow(20.0, Faults::default());
        run(&lake.session, &format!("SET datafusion.execution.target_partitions = {lanes}")).await.expect("set");
        lake
    };
    let lake = Box::pin(open(local())).await;
    let folder = lake.tables.folder(TpchTable::LineItem);
    let sizes =
        std::fs::read_dir(folder).expect("files").map(|file| file.expect("a file").metadata().expect("it is").len());
    // Each file has several row groups of about one size.
    let sizes: Vec<u64> = sizes.collect();
    let lineitem_bytes: u64 = sizes.iter().sum();
    let group = sizes.iter().max().expect("a file") * tpch::ROW_GROUP_ROWS as u64 / 15_000;
    // A filter drops nobody knows how many rows: more is read ahead with each row group, until the rows are there.
    let (two, some) = (2 * lanes * group * 3 / 2, lineitem_bytes / 2);
    for (sql, most) in [
        ("SELECT * FROM lineitem LIMIT 10", two),
        ("SELECT l_orderkey, l_comment FROM lineitem LIMIT 10", two),
        ("SELECT * FROM lineitem WHERE l_quantity > 0 LIMIT 10", some),
        ("SELECT * FROM lineitem WHERE l_quantity < 40 AND l_comment <> '' LIMIT 10", some),
    ] {
        let Answer { rows, requests, .. } = lake.read(sql).await.expect("rows");
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 10);
        let read = bytes(&lake.row_reads(&requests, TpchTable::LineItem));
        assert!(read > 0 && read <= most, "{sql}: {read} bytes of {lineitem_bytes}, a row group has about {group}");
    }
    // A build side without rows, which the statistics do not tell: of the probe side only a first window is read, with a
    // GET a row group. Its row groups are too large for a 16th of what may be ahead.
    let lake = Box::pin(open(Config { read_ahead_bytes_max: 64 << 10, ..local() })).await;
    let sql = "SELECT count(*) FROM (SELECT * FROM region WHERE r_name = 'ATLANTIS') r \
               JOIN nation ON n_regionkey = r_regionkey JOIN customer ON c_nationkey = n_nationkey \
               JOIN orders ON o_custkey = c_custkey JOIN lineitem ON l_orderkey = o_orderkey";
    let window = 2 * lanes as usize;
    let all = lake.read("SELECT sum(l_orderkey) FROM lineitem").await.expect("rows").requests;
    let all = lake.row_reads(&all, TpchTable::LineItem).len();
    assert!(all > window, "{all} row groups");
    let read = lake.read(sql).await.expect("rows").requests;
    let read = lake.row_reads(&read, TpchTable::LineItem);
    assert!(read.len() <= window, "{} of {all} row groups for no row: {read:?}", read.len());
    // A sort of which the first rows are wanted prunes the rest by its filter. A join ends when it has its rows.
    for sql in [
        "SELECT * FROM lineitem ORDER BY l_orderkey, l_linenumber LIMIT 3",
        "SELECT * FROM lineitem WHERE l_suppkey IN (SELECT s_suppkey FROM supplier) LIMIT 10",
    ] {
        let read = lake.read(sql).await.expect("rows").requests;
        let read = bytes(&lake.row_reads(&read, TpchTable::LineItem));
        assert!(read > 0 && read < lineitem_bytes / 2, "{sql}: {read} of {lineitem_bytes} bytes");
    }
}

/// Bloom filters are read side by side, each once, and then only the row groups that they leave.
#[tokio::test(flavor = "multi_thread")]
async fn bloom_filters_are_read_ahead() {
    // More than 1 MiB lies between the filters of two row groups.
    const ROWS: i64 = 70_000;
    const GROUPS: i64 = 12;
    let server = S3Server::start().expect("a server");
    // Keys of each row group lie between those of all others.
    let group = |group: i64| {
        let keys = Int64Array::from_iter_values((0..ROWS).map(|row| row * GROUPS + group));
        let rest = Int64Array::from_iter_values((0..ROWS).map(|row| row * 7919 % 1_000_003));
        batch(vec![("k", Arc::new(keys) as ArrayRef), ("v", Arc::new(rest))])
    };
    let groups: Vec<RecordBatch> = (0..GROUPS).map(group).collect();
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_column_bloom_filter_enabled("k".into(), true)
        .set_column_bloom_filter_fpp("k".into(), 1e-6)
        .set_column_bloom_filter_max_ndv("k".into(), ROWS as u64);
    let bytes = file(&groups, properties.build());
    let all_bytes = bytes.len() as u64;
    let put = server.store().expect("a client").put(&Key::from("t/0.parquet"), PutPayload::from(bytes)).await;
    put.expect("put");
    slow(&server, 20.0, Faults::default());
    for (on, requests_max) in [(Target::Local, 64), (Target::Local, 0), (Target::InProcess, 64)] {
        let config = Config { on, functions_max: 1, read_ahead_requests_max: requests_max, ..local() };
        let program = env!("CARGO_BIN_EXE_bootstrap_under_test");
        let session = cloud::session(&server, config, program.as_ref()).expect("a session");
        let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", server.url("t/"));
        run(&session, &create).await.expect("a table");
        run(&session, "SET datafusion.execution.target_partitions = 2").await.expect("set");
        server.take_requests();
        let (rows, report) = run(&session, "SELECT k, v FROM t WHERE k = 60005").await.expect("rows");
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
        let mut requests = server.take_requests();
        requests.retain(|request| request.operation == Operation::Get && request.bytes.end < all_bytes);
        let what = format!("{on:?}, {requests_max} ahead: {requests:?}");
        let read = requests.iter().map(|request| request.bytes.end - request.bytes.start).sum::<u64>();
        assert!(read < all_bytes / 2, "{read} of {all_bytes} bytes, {what}");
        let at_once = in_flight_max(&requests).into_values().max().unwrap_or_default();
        assert_eq!(at_once > 2, requests_max > 0, "{at_once} at a time, {what}");
        let hedged = hedged(&report);
        assert!(most_reads_of_a_byte(&requests).into_values().all(|most| most <= 1 + hedged), "{what}");
        session.close().await;
    }
}
