//! EXPLAIN ANALYZE: the query runs as it would by itself, and the figures of its stages sum up to its report.

use arrow::array::{AsArray, RecordBatch};
use gust_engine::config::{Config, JoinPlace, ShufflePlace, Target};
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::events::{QueryEvent, StampedEvent};
use gust_engine::money::Money;
use gust_engine::report::{Report, StageWork};
use gust_engine::session::Session;
use gust_tests::query::{assert_partly_remote, assert_remote, run, run_with_events};

use crate::shuffles::{Lake, config};

const JOIN: &str = "SELECT n, count(*), sum(v) FROM (SELECT a.v, b.n FROM a JOIN b ON a.k = b.k) GROUP BY n";

/// Description of a run, beside its report.
struct Analyzed {
    /// Bodies by their headings.
    rows: Vec<(String, String)>,
    report: Report,
}

impl Analyzed {
    async fn of(session: &Session, sql: &str) -> Result<Self, QueryError> {
        let (batches, _, events) = run_with_events(session, &format!("EXPLAIN ANALYZE {sql}")).await?;
        Ok(Self { rows: cells(&batches), report: priced(session, &events).await })
    }

    fn work(&self) -> &str {
        &self.rows[0].1
    }

    /// Returns the number that stands before `what` in each line that begins with `start`.
    fn numbers(&self, start: &str, what: &str) -> Vec<u64> {
        let lines = self.work().lines().filter(|line| line.starts_with(start));
        let number = |line: &str| line.split_once(what)?.0.rsplit(' ').next()?.parse().ok();
        lines.filter_map(number).collect()
    }
}

fn cells(batches: &[RecordBatch]) -> Vec<(String, String)> {
    let of_batch = |batch: &RecordBatch| {
        let [headings, bodies] = [0, 1].map(|column| batch.column(column).as_string::<i32>().clone());
        let rows = headings.iter().zip(&bodies);
        rows.filter_map(|(heading, body)| Some((heading?.to_owned(), body?.to_owned()))).collect::<Vec<_>>()
    };
    batches.iter().flat_map(of_batch).collect()
}

async fn priced(session: &Session, events: &[StampedEvent]) -> Report {
    let tariff = session.tariff().await.expect("prices");
    Report::priced(events, Ok(&tariff))
}

/// Fails unless the figures of the stages sum up to the report's.
#[track_caller]
fn assert_sums(report: &Report, what: &str) {
    let sum = |of: fn(&StageWork) -> u64| report.by_stage.iter().map(of).sum::<u64>();
    for (name, stages, all) in [
        ("fragments", sum(|work| work.fragments as u64), report.fragments as u64),
        ("adopted", sum(|work| work.fragments_adopted as u64), report.fragments_adopted as u64),
        ("attempts", sum(|work| work.attempts as u64), report.attempts as u64),
        ("wasted", sum(|work| work.attempts_wasted as u64), report.attempts_wasted as u64),
        ("rows", sum(|work| work.rows), report.rows_from_functions),
        ("result bytes", sum(|work| work.result_bytes), report.result_bytes),
        ("requests", sum(|work| work.storage.requests.total()), report.functions.requests.total()),
        ("bytes read", sum(|work| work.storage.bytes_read), report.functions.bytes_read),
        ("bytes written", sum(|work| work.storage.bytes_written), report.functions.bytes_written),
        ("spilled", sum(|work| work.spilled_bytes), report.spilled_bytes),
        ("broadcasts", sum(|work| work.broadcasts as u64), report.broadcasts as u64),
        ("shuffled", sum(|work| work.parts.map_or(0, |parts| parts.bytes)), report.shuffle_bytes),
        ("objects", sum(|work| work.parts.map_or(0, |parts| parts.objects)), report.shuffle_objects),
    ] {
        assert_eq!(stages, all, "{what}: {name}: {report:?}");
    }
    assert_eq!(report.by_stage.len(), report.stages, "{what}");
    let waited: f64 = report.by_stage.iter().map(|work| work.storage.waited_seconds).sum();
    assert!((waited - report.functions.waited_seconds).abs() < 1e-9, "{what}: {waited}");
    let bill = report.cost.as_ref().expect("a bill");
    let functions: Money = report.by_stage.iter().filter_map(|work| work.cost).map(|cost| cost.known).sum();
    assert!(functions > Money::ZERO && functions <= bill.known, "{what}: {functions} of {}", bill.known);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stages_of_an_exchange_sum_up_to_the_report() {
    let lake = Lake::new().await;
    for (target, functions, lanes) in [(Target::InProcess, 3, 2), (Target::Processes, 3, 2), (Target::InProcess, 1, 1)]
    {
        let config = config(target, functions, Some(7), lanes);
        let session = lake.session(Config { join: JoinPlace::Local, ..config }).await;
        let (rows, alone, events) = run_with_events(&session, JOIN).await.expect("rows");
        assert_remote(&alone, JOIN);
        assert_sums(&priced(&session, &events).await, "the query itself");
        let analyzed = Analyzed::of(&session, JOIN).await.expect("a description");
        let (report, work) = (&analyzed.report, analyzed.work());
        assert_remote(report, work);
        assert_sums(report, work);
        assert_eq!((report.shuffles, report.stages), (alone.shuffles, alone.stages));
        // The same plan at the same place gives the same rows. Several lanes share partitions by their encoded bytes, which depend on the order of rows.
        if (functions, lanes) == (1, 1) {
            let numbers = |report: &Report| (report.fragments, report.rows_from_functions);
            assert_eq!(numbers(report), numbers(&alone));
        }
        assert!(report.shuffles >= 2, "{report:?}");
        // The words say what the report has.
        let fragments = report.fragments as u64;
        assert_eq!(analyzed.numbers("stage ", " of ").iter().sum::<u64>(), fragments, "{work}");
        assert_eq!(analyzed.numbers("total ", " of "), [fragments], "{work}");
        let attempts = report.attempts as u64;
        assert_eq!(analyzed.numbers("stage ", " attempt").iter().sum::<u64>(), attempts, "{work}");
        assert_eq!(analyzed.numbers("total ", " attempt"), [attempts], "{work}");
        let sent = [analyzed.numbers("shuffle ", " rows,"), analyzed.numbers("gather ", " rows,")].concat();
        assert_eq!(sent.len(), report.stages, "each stage has one boundary: {work}");
        assert_eq!(sent.iter().sum::<u64>(), report.rows_from_functions, "{work}");
        let result: usize = rows.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(analyzed.numbers("here ", " rows;"), [result as u64], "{work}");
        for told in ["decision     functions", "by hash of [k@", "7 partitions for stage 2", "slowest fragment ", "; $"]
        {
            assert!(work.contains(told), "{told}: {work}");
        }
        let headings: Vec<_> = analyzed.rows.iter().map(|(heading, _)| heading.as_str()).collect();
        assert_eq!(headings, ["gust", "Plan with Metrics"]);
        assert!(analyzed.rows[1].1.contains("RemoteFragmentExec: stage=2"), "{}", analyzed.rows[1].1);
        assert!(analyzed.rows[1].1.contains("output_rows="), "{}", analyzed.rows[1].1);
        assert_eq!(report.rows, 2, "the rows are those of the description");
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_limits_and_local_plans_are_described() {
    let lake = Lake::new().await;
    let broadcast =
        Config { join: JoinPlace::Broadcast, shuffle: ShufflePlace::Local, ..config(Target::InProcess, 3, None, 1) };
    let session = lake.session(broadcast.clone()).await;
    let sql = "SELECT count(*) FROM a JOIN few ON a.v = few.v";
    let analyzed = Analyzed::of(&session, sql).await.expect("a description");
    assert_remote(&analyzed.report, sql);
    assert_sums(&analyzed.report, sql);
    assert_eq!(analyzed.report.broadcasts, 1);
    assert!(analyzed.work().contains("broadcast    got 1 build side, "), "{}", analyzed.work());
    // Fragments that are not needed are cancelled, and count.
    let analyzed = Analyzed::of(&session, "SELECT v FROM a LIMIT 1").await.expect("a description");
    assert_partly_remote(&analyzed.report, "a limit");
    assert_sums(&analyzed.report, "a limit");
    assert_eq!(analyzed.numbers("here ", " rows;"), [1], "{}", analyzed.work());
    // A prepared query has its parameters.
    run(&session, "PREPARE p AS SELECT max(v) FROM a WHERE v < $1").await.expect("prepared");
    let analyzed = Analyzed::of(&session, "EXECUTE p(5)").await.expect("a description");
    assert_remote(&analyzed.report, "EXECUTE");
    assert!(analyzed.work().contains("< 5"), "{}", analyzed.work());
    session.close().await;

    let session = lake.session(Config { on: Target::Local, ..broadcast }).await;
    let analyzed = Analyzed::of(&session, sql).await.expect("a description");
    assert_eq!((analyzed.report.attempts, analyzed.report.by_stage.len()), (0, 0));
    assert!(
        analyzed.work().starts_with("decision     local: asked for by --on\nhere         1 rows; read "),
        "{}",
        analyzed.work()
    );
    assert!(analyzed.rows[1].1.contains("HashJoinExec") && analyzed.rows[1].1.contains("build_input_rows="));
    let (batches, _) = run(&session, &format!("EXPLAIN ANALYZE VERBOSE {sql}")).await.expect("a description");
    let headings: Vec<_> = cells(&batches).into_iter().map(|(heading, _)| heading).collect();
    assert_eq!(headings, ["gust", "Plan with Metrics", "Plan with Full Metrics"]);
    let (batches, _) = run(&session, &format!("EXPLAIN ANALYZE FORMAT pgjson {sql}")).await.expect("a description");
    let plan: serde_json::Value = serde_json::from_str(&cells(&batches)[1].1).expect("JSON");
    assert!(plan.is_array(), "{plan}");
    // A dry run asks for the price of the query.
    let dry = session.parse(&format!("EXPLAIN COST EXPLAIN ANALYZE {sql}")).expect("SQL").remove(0);
    let mut running = session.run(dry).await.expect("a quote");
    let quote = running.next().await.expect("a quote").expect("rows");
    assert_eq!(quote.schema().field(0).name(), "place");
    running.finish().await;
    session.close().await;
}

/// A description may be given up at any time, so the statement's end alone cleans up and notes the reads.
#[tokio::test(flavor = "multi_thread")]
async fn reads_are_noted_once_at_the_end() {
    let lake = Lake::new().await;
    let session = lake.session(config(Target::InProcess, 3, Some(7), 1)).await;
    let noted = |events: &[StampedEvent]| {
        events.iter().filter(|stamped| matches!(stamped.event, QueryEvent::CoordinatorRead { .. })).count()
    };
    let statement = session.parse(&format!("EXPLAIN ANALYZE {JOIN}")).expect("SQL").remove(0);
    let mut running = session.run(statement).await.expect("it starts");
    assert!(running.next().await.expect("a description").is_some());
    assert_eq!(noted(&running.events().snapshot()), 0);
    assert_eq!(noted(&running.finish().await.snapshot()), 1);
    session.close().await;
}

/// Statements that fail by themselves fail in the same way, and nothing is run for one that cannot be described.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_fails_is_not_described() {
    let lake = Lake::new().await;
    let session = lake.session(config(Target::InProcess, 3, Some(7), 1)).await;
    let divided = "SELECT k, sum(100 / (v - 7)) FROM a GROUP BY k";
    let told = async |sql: &str| match run(&session, sql).await {
        Ok((rows, _)) => panic!("{sql}: {rows:?}"),
        Err(error) => error,
    };
    let (alone, analyzed) = (told(divided).await, told(&format!("EXPLAIN ANALYZE {divided}")).await);
    assert_eq!((analyzed.kind(), analyzed.sqlstate()), (alone.kind(), alone.sqlstate()), "{analyzed}");
    assert!(analyzed.message().contains("ivide by zero"), "{analyzed}");
    // The statement is over after its error.
    let statement = session.parse(&format!("EXPLAIN ANALYZE {divided}")).expect("SQL").remove(0);
    let mut running = session.run(statement).await.expect("it starts");
    running.next().await.expect_err("it fails");
    assert!(running.next().await.expect("nothing more").is_none());
    let report = Report::from_events(&running.finish().await.snapshot());
    assert!(report.failed.is_some() && report.attempts > 0, "{report:?}");
    for (sql, words) in [
        ("EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1 AS k", "changes the session"),
        ("EXPLAIN ANALYZE SET datafusion.execution.batch_size = 100", "changes the session"),
        ("EXPLAIN ANALYZE SELECT nothing FROM a", "nothing"),
    ] {
        let error = told(sql).await;
        assert_eq!(error.kind(), ErrorKind::Sql, "{sql}: {error}");
        assert!(error.message().contains(words), "{sql}: {error}");
    }
    told("SELECT * FROM t").await;
    // Caps hold: too little money refuses both, before an attempt.
    run(&session, "SET gust.max_cost = '0.0000001'").await.expect("set");
    for sql in [JOIN.to_owned(), format!("EXPLAIN ANALYZE {JOIN}")] {
        let error = told(&sql).await;
        assert_eq!(error.kind(), ErrorKind::CapReached, "{sql}: {error}");
    }
    session.close().await;
}
