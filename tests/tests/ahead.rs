//! Reading ahead, seen from the store: what a statement asks for, how often, and what is left of it when it ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use gust::demo::queries;
use gust::demo::table::TpchTable;
use gust_engine::config::{Config, Target};
use gust_engine::error::QueryError;
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_protocol::{AheadBounds, AheadUsage};
use gust_tests::compare::{Rule, compare};
use gust_tests::parquet_files::{batch, file};
use gust_tests::query::{assert_remote, plain, rows, run};
use gust_tests::s3::shape::{Faults, Latency};
use gust_tests::s3::{GONE, Operation, Request, S3Server, Shape, StorageFault, in_flight_max};
use gust_tests::tpch::Tables;
use gust_tests::{cloud, tpch};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::file::properties::WriterProperties;

/// TPC-H on a server, and a session that knows the tables.
struct Lake {
    server: S3Server,
    session: Session,
    /// Statements by which DataFusion alone knows the same files.
    local: Vec<String>,
    tables: Tables,
}

/// Rows of a statement, with what was read ahead for it and what the server was asked.
struct Answer {
    rows: Vec<RecordBatch>,
    report: Report,
    usage: AheadUsage,
    requests: Vec<Request>,
}

impl Lake {
    async fn open(config: Config) -> Self {
        let server = S3Server::start().expect("a server");
        let tables = tpch::tables(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data");
        let url = server.url("");
        let store = server.store().expect("a client");
        let create = tables.upload(store.as_ref(), url.trim_end_matches('/')).await.expect("uploaded");
        let bootstrap = env!("CARGO_BIN_EXE_bootstrap_under_test");
        let session = cloud::session(&server, config, bootstrap.as_ref()).expect("a session");
        for statement in &create {
            run(&session, statement).await.expect("a table");
        }
        Self { server, session, local: tables.create_statements(), tables }
    }

    /// Lets every request wait for its first byte.
    fn slow(&self, ms: f64, faults: Faults) {
        slow(&self.server, ms, faults);
    }

    async fn read(&self, sql: &str) -> Result<Answer, QueryError> {
        self.server.take_requests();
        let statement = self.session.parse(sql)?.pop().expect("a statement");
        let mut running = self.session.run(statement).await?;
        let rows = rows(&mut running).await;
        let account = running.read_ahead_account();
        let report = Report::from_events(&running.finish().await.snapshot());
        let rows = rows?;
        self.is_clean(sql).await;
        // Requests that were aborted are noted, too.
        for _ in 0..100 {
            if self.server.in_flight() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Answer { rows, report, usage: account.usage(), requests: self.server.take_requests() })
    }

    /// Lists the GETs of a table's rows: all but those of the ends of its files, which hold their footers. One that was
    /// aborted counts, too.
    fn row_reads(&self, requests: &[Request], table: TpchTable) -> Vec<Request> {
        let files = std::fs::read_dir(self.tables.folder(table)).expect("files").map(|file| file.expect("a file"));
        let sizes: BTreeMap<String, u64> = files
            .map(|file| {
                let key = format!("{}/{}", table.name(), file.file_name().to_string_lossy());
                (key, file.metadata().expect("it is").len())
            })
            .collect();
        let is_read = |request: &&Request| {
            request.operation == Operation::Get && request.refused.is_none_or(|status| status == GONE)
        };
        let is_of_rows = |request: &&Request| sizes.get(&request.key).is_some_and(|size| request.bytes.end < *size);
        requests.iter().filter(is_read).filter(is_of_rows).cloned().collect()
    }

    /// Checks that nothing of a statement is left, after 100 ms at most.
    async fn is_clean(&self, what: &str) {
        let engine = self.session.engine();
        let left = || (engine.reading().held(), engine.memory().reserved_bytes());
        let none = (AheadBounds::OFF, 0);
        for _ in 0..10 {
            if left() == none {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(left(), none, "{what}");
    }

    /// Runs a TPC-H query, whose statements but the last prepare it, and compares its rows with DataFusion's.
    async fn query(&self, number: usize) -> Answer {
        let sql = queries::query(number);
        let what = format!("query {number}");
        let answer = self.read(sql).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let expected = plain(&self.local, sql).await;
        compare(&expected, &answer.rows, Rule::same_engine()).unwrap_or_else(|error| panic!("{what}: {error}"));
        answer
    }
}

pub(super) fn slow(server: &S3Server, ms: f64, faults: Faults) {
    let latency = Latency { least_ms: ms, longer_ms: vec![(0.5, ms * 1.1)], worst_ms: ms * 1.2 };
    let shape = Shape { seed: 7, scale: 1.0, pipe: None, latency: Some(latency), limits: None, faults };
    server.set_shape(Some(shape));
}

fn local() -> Config {
    Config { on: Target::Local, ..Config::default() }
}

/// Makes settings with as much room for small tables as the defaults have for those of scale factor 1.
fn small() -> Config {
    let share = (tpch::SCALE * 1024.0) as u64;
    let default = local();
    Config { read_ahead_bytes_max: default.read_ahead_bytes_max * share / 1024, ..default }
}

/// Returns, for each key that was read, how many served GETs cover one byte at most.
pub(super) fn most_reads_of_a_byte(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut edges: BTreeMap<String, Vec<(u64, i64)>> = BTreeMap::new();
    let served = |request: &&Request| request.operation == Operation::Get && request.refused.is_none();
    for Request { key, bytes, .. } in requests.iter().filter(served) {
        edges.entry(key.clone()).or_default().extend([(bytes.start, 1), (bytes.end, -1)]);
    }
    let most = edges.into_iter().map(|(key, mut edges)| {
        // Ends come before beginnings at the same place.
        edges.sort_unstable();
        let mut depth = 0;
        let depths = edges.into_iter().map(|(_, step)| {
            depth += step;
            depth
        });
        (key, depths.max().unwrap_or_default() as usize)
    });
    most.collect()
}

pub(super) fn bytes(requests: &[Request]) -> u64 {
    let reads = requests.iter().filter(|request| request.operation == Operation::Get);
    reads.map(|request| request.bytes.end - request.bytes.start).sum()
}

/// Counts the reads that were sent once more because they were late, as they are on a busy machine.
pub(super) fn hedged(report: &Report) -> usize {
    (report.coordinator.requests.hedged + report.functions.requests.hedged) as usize
}

/// Returns the times that a query's text names a table. A query with a view reads it wherever the view is named.
fn scans(number: usize, table: TpchTable) -> usize {
    let words = queries::query(number).split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let named = words.filter(|word| word.eq_ignore_ascii_case(table.name())).count();
    if number == 15 { 2 * named } else { named }
}

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

/// Without reading ahead each row group is waited for. A function has one lane, the coordinator two.
#[tokio::test(flavor = "multi_thread")]
async fn the_report_says_for_how_long_compute_waited() {
    for on in [Target::Local, Target::Processes] {
        let (mut waits, mut shares) = (Vec::new(), Vec::new());
        for read_ahead_requests_max in [0, 64] {
            let lake = Lake::open(Config { on, functions_max: 1, read_ahead_requests_max, ..local() }).await;
            run(&lake.session, "SET datafusion.execution.target_partitions = 2").await.expect("set");
            lake.slow(27.0, Faults::default());
            let Answer { report, requests, .. } = lake.query(6).await;
            let what = format!("{on:?}, {read_ahead_requests_max} requests ahead: {report}");
            let (waited, lanes_seconds) = match &report.by_stage[..] {
                [] => (report.coordinator.waited_seconds, 2.0 * report.seconds.finish),
                [stage] => (stage.storage.waited_seconds, stage.execute_seconds),
                more => panic!("{} stages", more.len()),
            };
            assert_eq!(report.by_stage.is_empty(), on == Target::Local, "{what}");
            assert!(waited <= lanes_seconds, "{what}");
            let reads = lake.row_reads(&requests, TpchTable::LineItem).len();
            assert!(read_ahead_requests_max > 0 || waited >= 0.027 * reads as f64, "{reads} reads, {what}");
            assert!(report.to_string().contains(&format!("waited {waited:.3} s for bytes, over all lanes")), "{what}");
            waits.push(waited);
            shares.push(waited / lanes_seconds);
            lake.session.close().await;
        }
        assert!(waits[1] < waits[0] / 2.0 && shares[1] < shares[0], "{on:?}: {waits:?} s, {shares:?} of the time");
    }
}

/// Bytes that the server sent are those that readers took, gaps, and what nobody took. Answers that were under way when their
/// requests were aborted may be among them.
#[tokio::test(flavor = "multi_thread")]
async fn unused_bytes_are_those_the_server_sent_for_nothing() {
    let lake = Lake::open(local()).await;
    lake.slow(5.0, Faults::default());
    run(&lake.session, "SET datafusion.execution.target_partitions = 2").await.expect("set");
    let limit = "SELECT * FROM lineitem LIMIT 10";
    let top_k = "SELECT l_orderkey, l_comment FROM lineitem ORDER BY l_orderkey, l_linenumber LIMIT 3";
    let without_rows = "SELECT count(*) FROM (SELECT * FROM region WHERE r_name = 'ATLANTIS') r \
                        JOIN nation ON n_regionkey = r_regionkey JOIN customer ON c_nationkey = n_nationkey";
    for sql in [limit, top_k, without_rows, queries::query(1), queries::query(3), queries::query(6)] {
        let Answer { usage, requests, report, .. } = lake.read(sql).await.expect("rows");
        assert_eq!(report.coordinator.ahead, usage, "{sql}");
        let sent = TpchTable::ALL.map(|table| bytes(&lake.row_reads(&requests, table))).into_iter().sum::<u64>();
        let seen = usage.taken_bytes + usage.missed_bytes + usage.gap_bytes + usage.unused_bytes();
        let hedged = report.coordinator.requests.hedged * (1 << 20);
        assert!(sent <= seen + usage.aborted_bytes + hedged, "{sql}: {sent} bytes, {usage:?}");
        // A reader that has its rows gives up the row group that it waits for.
        assert!(sql == limit || sent >= seen, "{sql}: {sent} bytes, {usage:?}");
        let of_no_row = usage.unused_limit_bytes + usage.aborted_bytes;
        assert!(sql != without_rows || of_no_row > 0, "{sql}: {usage:?}");
        assert_eq!((usage.unused_cancelled_bytes, usage.unused_given_back_bytes), (0, 0), "{sql}: {usage:?}");
        assert!(usage.bytes == 0 || usage.peak_bytes > 0, "{sql}: {usage:?}");
    }
    // A statement that is given up counts what was under way.
    lake.slow(50.0, Faults::default());
    let statement = lake.session.parse(queries::query(1)).expect("SQL").pop().expect("a statement");
    let mut running = lake.session.run(statement).await.expect("started");
    let _ = tokio::time::timeout(Duration::from_millis(20), running.next()).await;
    let usage = Report::from_events(&running.finish().await.snapshot()).coordinator.ahead;
    assert!(usage.aborted_bytes + usage.unused_cancelled_bytes > 0, "{usage:?}");
    assert_eq!((usage.unused_pruned_bytes, usage.unused_limit_bytes), (0, 0), "{usage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_how_scans_are_read() {
    let bounds = "ahead: 64 requests and 128 MiB at a time at most; gaps up to 1 MiB are read along";
    let all = "reading      lineitem: all, at once";
    let sum = "SELECT sum(l_quantity) FROM lineitem";
    let join = "SELECT count(*) FROM nation JOIN customer ON c_nationkey = n_nationkey";
    let (local, remote) = (Config { memory_bytes_max: 2 << 30, ..local() }, Target::InProcess);
    let off = Config { read_ahead_requests_max: 0, ..local.clone() };
    for (config, sql, expect) in [
        (&local, sum, vec![all, bounds]),
        (&local, join, vec!["reading      nation: all, at once", "reading      customer: all, when polled", bounds]),
        (&local, "SELECT * FROM lineitem LIMIT 10", vec!["reading      lineitem: enough for 10 rows, at once", bounds]),
        (
            &local,
            "SELECT o_orderkey FROM orders ORDER BY o_totalprice LIMIT 3",
            vec!["reading      orders: more as it goes, at once", bounds],
        ),
        (&off, sum, vec!["reading      lineitem: on demand (reading ahead is off)"]),
        (&Config { on: remote, functions_max: 3, ..local.clone() }, sum, vec![all, "ahead: "]),
    ] {
        let lake = Lake::open(config.clone()).await;
        let explained = lake.session.explain(lake.session.parse(sql).expect("SQL").remove(0)).await.expect("a plan");
        let is_said = |line: &&str| line.starts_with("reading ") || line.trim_start().starts_with("ahead: ");
        let said: Vec<&str> = explained.lines().filter(is_said).map(str::trim_start).collect();
        assert_eq!(said.len(), expect.len(), "{sql}:\n{explained}");
        for (said, expect) in said.iter().zip(expect) {
            assert!(said.starts_with(expect), "{sql}: {said}");
        }
        lake.session.close().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_statement_leaves_nothing() {
    let lake = Lake::open(local()).await;
    lake.slow(50.0, Faults::default());
    for (number, wait_ms) in [(1, 0), (1, 60), (5, 0), (5, 30), (21, 90), (9, 160)] {
        let statement = lake.session.parse(queries::query(number)).expect("SQL").pop().expect("a statement");
        let mut running = lake.session.run(statement).await.expect("started");
        let _ = tokio::time::timeout(Duration::from_millis(wait_ms), running.next()).await;
        drop(running);
        let what = format!("query {number} after {wait_ms} ms");
        lake.is_clean(&what).await;
        // The server sees that nobody waits when it answers.
        for _ in 0..100 {
            if lake.server.in_flight() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(lake.server.in_flight(), 0, "{what}");
        lake.server.take_requests();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(lake.server.take_requests().len(), 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_fail_no_query() {
    let lake = Lake::open(local()).await;
    for (faults, fault) in [
        (Faults { slow_down: 0.1, ..Faults::default() }, StorageFault::SlowDown),
        (Faults { reset: 0.1, ..Faults::default() }, StorageFault::Reset),
        (Faults { reset_in_body: 0.1, ..Faults::default() }, StorageFault::ResetInBody),
        (Faults { truncated: 0.05, ..Faults::default() }, StorageFault::Truncated),
    ] {
        lake.slow(1.0, faults);
        let mut failed = Vec::new();
        for number in [1, 3, 6, 14] {
            let expected = plain(&lake.local, queries::query(number)).await;
            match lake.read(queries::query(number)).await {
                Ok(Answer { rows, usage, .. }) => {
                    compare(&expected, &rows, Rule::same_engine()).expect("the rows");
                    // What failed was not taken, and was read once more.
                    let fates = usage.taken_bytes + usage.unused_bytes() + usage.aborted_bytes;
                    let asked = fates..=fates + usage.gap_bytes;
                    assert!(asked.contains(&usage.bytes), "{fault:?}, query {number}: {usage:?}");
                    assert!(usage.aborted_bytes == 0 || usage.missed_bytes > 0, "{fault:?}, query {number}: {usage:?}");
                }
                Err(error) => failed.push((number, error.to_string())),
            }
        }
        // A truncated body that a reader waits for fails it, as without reading ahead. Not each query waits for one.
        assert!(failed.is_empty() || fault == StorageFault::Truncated && failed.len() < 4, "{fault:?}: {failed:?}");
        assert!(lake.server.fired().contains_key(&fault), "{fault:?} did not fire");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_get_the_memory_that_they_need() {
    // Twice: without reading ahead the same memory suffices.
    for requests_max in [0, 64] {
        let config = Config {
            memory_bytes_max: 24 << 20,
            read_ahead_requests_max: requests_max,
            read_ahead_bytes_max: 24 << 20,
            ..local()
        };
        let lake = Lake::open(config).await;
        lake.slow(2.0, Faults::default());
        for number in [1, 3, 5, 9, 18] {
            lake.query(number).await;
        }
        let sql = "SELECT l_orderkey, l_comment FROM lineitem ORDER BY l_comment, l_orderkey, l_linenumber";
        let rows = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        let expected = plain(&lake.local, "SELECT l_orderkey FROM lineitem").await;
        assert_eq!(rows(&lake.read(sql).await.expect("rows").rows), rows(&expected));
        assert!(lake.session.engine().memory().peak_bytes() <= 24 << 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_side_by_side_share_the_budget() {
    for (requests_max, bytes_max) in [(4, 128 << 20), (64, 64 << 10)] {
        let config = Config { read_ahead_requests_max: requests_max, read_ahead_bytes_max: bytes_max, ..local() };
        let lake = Lake::open(config).await;
        lake.slow(2.0, Faults::default());
        let expected = plain(&lake.local, queries::query(3)).await;
        let answers = (0..8).map(|_| run(&lake.session, queries::query(3)));
        for answer in futures::future::join_all(answers).await {
            let (rows, _) = answer.expect("rows");
            compare(&expected, &rows, Rule::same_engine()).expect("the rows");
        }
        lake.is_clean("all have ended").await;
    }
}

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
