//! Rows from functions to functions when something goes wrong: lost objects, little memory, little money. Functions are real processes where rows are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use gust_engine::config::{Config, SortPlace, Target};
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::chaos::script;
use gust_tests::cloud;
use gust_tests::compare::{Rule, compare};
use gust_tests::lost_parts::{PartsFault, Spoiling};
use gust_tests::query::{assert_remote, plain, run};
use gust_tests::s3::{BUCKETS, Operation, S3Server};
use object_store::path::Path as Key;
use tempfile::TempDir;

use crate::shuffles::{Lake, config};

/// Session whose functions spoil rows once.
struct Spoiled {
    session: Session,
    server: S3Server,
    folder: TempDir,
}

/// Way of rows from stage to stage.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Reads beyond which objects are combined.
    reads_max: u64,
    buckets: usize,
    /// Memory of each function.
    memory_bytes: u64,
}

const DIRECT: Way = Way { reads_max: u64::MAX, buckets: 1, memory_bytes: 2 << 30 };

impl Spoiled {
    async fn new(lake: &Lake, spoiling: Spoiling, allow_fallback: bool) -> Self {
        Box::pin(Self::by(lake, spoiling, allow_fallback, DIRECT)).await
    }

    async fn by(lake: &Lake, spoiling: Spoiling, allow_fallback: bool, way: Way) -> Self {
        let (server, folder) = (S3Server::start().expect("a server"), TempDir::new().expect("a folder"));
        let mark = folder.path().join("mark");
        std::fs::create_dir(&mark).expect("made");
        let faulty = Path::new(env!("CARGO_BIN_EXE_faulty_bootstrap"));
        let program = script(folder.path(), faulty, &spoiling.mode(), &mark).expect("written");
        let exchange = Some(server.spread_url(way.buckets, "exchange"));
        // Another reader would have lost rows made anew before the refused one runs again.
        let partitions = if spoiling.fault == PartsFault::Refused { 1 } else { 16 };
        let config = config(Target::Processes, 6, Some(partitions), 1);
        let sort = SortPlace::Ranges;
        let (shuffle_reads_max, function_memory_bytes) = (way.reads_max, way.memory_bytes);
        let config = Config { exchange, allow_fallback, shuffle_reads_max, function_memory_bytes, sort, ..config };
        let session = lake.session(cloud::config(&server, config, &program)).await;
        Self { session, server, folder }
    }

    /// Lists the fragments whose objects were spoiled, by their stages. A fragment may have an object of each attempt.
    fn fired(&self) -> BTreeSet<(u32, u32)> {
        let path: PathBuf = self.folder.path().join("mark").join("fired");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let fragment = |line: &str| {
            let mut numbers = line.split(' ').filter_map(|number| number.parse().ok());
            Some((numbers.next()?, numbers.next()?))
        };
        text.lines().filter_map(fragment).collect()
    }

    async fn run(&self, lake: &Lake, sql: &str) -> Result<Report, QueryError> {
        let (rows, report) = run(&self.session, sql).await?;
        let expected = plain(&lake.setup, sql).await;
        let rule = Rule::same_engine();
        let rule = if sql.contains(" ORDER BY ") { rule } else { rule.in_any_order() };
        compare(&expected, &rows, rule).unwrap_or_else(|difference| panic!("{sql}: {difference}"));
        Ok(report)
    }

    /// Closes the session. Nothing of its queries is left in the exchange.
    async fn close(self) {
        self.session.close().await;
        for bucket in BUCKETS {
            let store = self.server.store_of(bucket).expect("a client");
            let left: Vec<_> = store.list(Some(&Key::from("exchange"))).try_collect().await.expect("a listing");
            assert!(left.is_empty(), "{bucket}: {left:?}");
        }
    }
}

/// Spoils rows of a stage, and checks that they are made anew.
async fn check_restored(fault: PartsFault, stage: u32, sql: &str) {
    check_restored_by(DIRECT, fault, stage, sql).await;
}

async fn check_restored_by(way: Way, fault: PartsFault, stage: u32, sql: &str) {
    let lake = Lake::new().await;
    Box::pin(check_restored_of(&lake, way, fault, stage, sql)).await;
}

async fn check_restored_of(lake: &Lake, way: Way, fault: PartsFault, stage: u32, sql: &str) -> Report {
    let what = format!("{fault:?}, {way:?}: {sql}");
    let spoiled = Box::pin(Spoiled::by(lake, Spoiling { fault, stage: Some(stage) }, false, way)).await;
    let report = spoiled.run(lake, sql).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let fired = spoiled.fired();
    let is_one = !matches!(fault, PartsFault::AllGone | PartsFault::EverythingGone | PartsFault::Refused);
    assert!(if is_one { fired.len() == 1 } else { fired.len() > 4 }, "{what}: {fired:?}");
    let stages: BTreeSet<u32> = fired.iter().map(|(stage, _)| *stage).collect();
    // A stage over others is there only where it is spoiled.
    let expect = if fault == PartsFault::EverythingGone && stage == 2 { 3 } else { 1 };
    assert_eq!(stages.len(), expect, "{what}: {fired:?}");
    assert_eq!(report.shuffles_restored, fired.len(), "{what}: {report:?}");
    assert!(report.attempts_failed.get("InputLost").is_some_and(|times| *times > 0), "{what}: {report:?}");
    assert_eq!(report.fragments_adopted, report.fragments, "{what}: {report:?}");
    // Those that lost rows, and those whose rows were lost.
    assert!(report.attempts_wasted > fired.len(), "{what}: {report:?}");
    let told = (&report.fell_back, &report.restarted, report.shuffle_objects > 0);
    assert_eq!(told, (&None, &None, true), "{what}: {report:?}");
    let requests = spoiled.server.requests();
    let written: BTreeMap<&str, usize> =
        requests.iter().filter(|request| request.operation == Operation::Put).fold(BTreeMap::new(), |mut sums, put| {
            *sums.entry(put.bucket.as_str()).or_default() += 1;
            sums
        });
    let expect: Vec<&str> = BUCKETS[..way.buckets].to_vec();
    // A key's hash chooses the bucket: of eight objects one of three buckets may have none.
    let is_spread = written.len() >= way.buckets.min(2) && written.keys().all(|bucket| expect.contains(bucket));
    assert!(is_spread, "{what}: several buckets have objects: {written:?}");
    spoiled.close().await;
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_rows_are_made_anew() {
    for fault in PartsFault::ALL {
        check_restored(fault, 0, "SELECT k, count(*), sum(v), min(s) FROM a GROUP BY k").await;
    }
}

/// Stage 1 makes few objects of those of stage 0.
#[tokio::test(flavor = "multi_thread")]
async fn lost_rows_that_are_combined_are_made_anew() {
    for (fault, stage) in [(PartsFault::Gone, 0), (PartsFault::Gone, 1), (PartsFault::Flipped, 1)] {
        check_restored_by(
            Way { reads_max: 0, ..DIRECT },
            fault,
            stage,
            "SELECT k, count(*), sum(v), min(s) FROM a GROUP BY k",
        )
        .await;
    }
}

/// Six functions read at most three runs of partitions. Some 5 MB are more than so many functions of this memory should read.
#[tokio::test(flavor = "multi_thread")]
async fn lost_rows_that_functions_combine_together_are_made_anew() {
    let lake = wide().await;
    let way = Way { reads_max: 0, memory_bytes: 8 << 20, ..DIRECT };
    let sql = "SELECT count(*), sum(length(s)) FROM (SELECT DISTINCT k, s FROM wide)";
    let report = Box::pin(check_restored_of(&lake, way, PartsFault::Gone, 1, sql)).await;
    let combining = report.by_stage.iter().find(|work| work.stage == 1).expect("a stage that combines");
    let (fragments, taken_apart) = (combining.fragments, report.fragments_taken_apart);
    assert!(fragments > 3 && taken_apart == 0, "{fragments} fragments, {taken_apart} taken apart: {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_rows_in_several_buckets_are_made_anew() {
    for fault in [PartsFault::Gone, PartsFault::EverythingGone, PartsFault::Swapped] {
        check_restored_by(
            Way { buckets: 3, ..DIRECT },
            fault,
            0,
            "SELECT k, count(*), sum(v), min(s) FROM a GROUP BY k",
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_rows_of_ranges_are_made_anew() {
    let sql = "SELECT v, s FROM a ORDER BY v DESC";
    for fault in [PartsFault::Gone, PartsFault::Torn, PartsFault::Flipped] {
        check_restored(fault, 0, sql).await;
    }
    check_restored_by(Way { reads_max: 0, ..DIRECT }, PartsFault::Gone, 1, sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_rows_of_either_side_of_a_join_are_made_anew() {
    let join = "SELECT a.v, b.n FROM a FULL JOIN b ON a.k = b.k";
    check_restored(PartsFault::Torn, 0, join).await;
    check_restored(PartsFault::AllGone, 1, join).await;
}

/// A reader finds the wrong bytes of one stage at a time.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_rows_of_many_stages_are_made_anew() {
    let lake = Lake::new().await;
    let joins: String = (2..=6).map(|x| format!(" JOIN a AS x{x} ON x{x}.v = x{}.v", x - 1)).collect();
    let sql = format!("SELECT count(*), sum(x6.v) FROM a AS x1{joins}");
    let spoiled = Spoiled::new(&lake, Spoiling { fault: PartsFault::EachFlipped, stage: None }, false).await;
    let report = spoiled.run(&lake, &sql).await.expect("rows");
    let stages: BTreeSet<u32> = spoiled.fired().iter().map(|(stage, _)| *stage).collect();
    assert_eq!((stages.len(), spoiled.fired().len()), (6, 6), "one reader reads all of them: {:?}", spoiled.fired());
    assert_eq!((report.shuffles_restored, &report.restarted, &report.fell_back), (6, &None, &None), "{report:?}");
    assert_eq!(report.fragments_adopted, report.fragments, "{report:?}");
    spoiled.close().await;
}

/// A result that is refused comes from rows that are lost by then.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_refused_result_are_made_anew() {
    // The rows are for functions. Those for the coordinator are among the faults of [`lost_rows_are_made_anew`].
    let sql = "SELECT n, count(*), sum(v) FROM (SELECT a.v, b.n FROM a JOIN b ON a.k = b.k) GROUP BY n";
    check_restored(PartsFault::Refused, 0, sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_rows_of_a_stage_over_others_are_made_anew() {
    let sql = "SELECT n, count(*), sum(v) FROM (SELECT a.v, b.n FROM a JOIN b ON a.k = b.k) GROUP BY n";
    for fault in [PartsFault::Gone, PartsFault::Swapped, PartsFault::EverythingGone] {
        check_restored(fault, 2, sql).await;
    }
}

/// Spoils rows that another attempt might part in another way, of a query of so many stages. It begins anew once, as long as no row has gone out. Then it fails by
/// name, or runs here where that is allowed.
async fn check_restarted(stage: u32, stages: u32, sql: &str) {
    let lake = Lake::new().await;
    for fault in [PartsFault::Gone, PartsFault::Swapped] {
        let what = format!("{fault:?}: {sql}");
        let spoiled = Spoiled::new(&lake, Spoiling { fault, stage: Some(stage) }, false).await;
        let report = spoiled.run(&lake, sql).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let why = report.restarted.clone().unwrap_or_default();
        assert!(why.contains(&format!("of stage {stage}, attempt 0, are lost")), "{what}: {report:?}");
        assert_eq!((spoiled.fired().len(), report.shuffles_restored, &report.fell_back), (1, 0, &None), "{what}");
        // Readers of the first run failed. All rows are those of functions: nothing fell back.
        assert!(report.fragments_adopted > 0 && report.attempts_failed.contains_key("InputLost"), "{what}: {report:?}");
        assert!(
            report.to_string().contains("ran twice  began anew, as rows between functions were lost: "),
            "{report}"
        );
        spoiled.close().await;
    }
    // Rows are lost in both runs.
    for allow_fallback in [false, true] {
        let what = format!("in both runs, {allow_fallback}: {sql}");
        let spoiled = Spoiled::new(&lake, Spoiling { fault: PartsFault::Gone, stage: None }, allow_fallback).await;
        match spoiled.run(&lake, sql).await {
            Ok(report) => {
                let told = [&report.restarted, &report.fell_back].map(|why| why.clone().unwrap_or_default());
                assert!(allow_fallback && told.iter().all(|why| why.contains("are lost")), "{what}: {report:?}");
            }
            Err(error) => {
                assert_eq!((error.kind(), allow_fallback), (ErrorKind::Functions, false), "{what}: {error}");
                assert!(error.to_string().contains("are lost"), "{what}: {error}");
            }
        }
        // Stages of the second run have the next numbers.
        assert!(spoiled.fired().iter().any(|(stage, _)| *stage >= stages), "{what}: {:?}", spoiled.fired());
        spoiled.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_begins_anew_if_rows_of_a_volatile_stage_are_lost() {
    check_restarted(0, 2, "SELECT count(*) FROM (SELECT k, count(*) FROM a WHERE random() >= 0 GROUP BY k)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_begins_anew_if_rows_are_lost_whose_sums_have_another_rounding_each_time() {
    let sums = "SELECT k, sum(CAST(v AS DOUBLE)) AS s FROM a GROUP BY k";
    check_restarted(1, 3, &format!("SELECT count(*) FROM (SELECT s, count(*) FROM ({sums}) GROUP BY s)")).await;
}

/// Rows of texts that do not compress, of more bytes than a small function's memory.
const WIDE: &str = "SELECT value AS k, value % 2 AS half, md5(CAST(value AS VARCHAR)) || md5(CAST(-value AS VARCHAR)) AS s \
                    FROM generate_series({from}, {to})";

pub(crate) async fn wide() -> Lake {
    let mut lake = Lake::new().await;
    lake.add("wide", WIDE, 4, 16_000).await;
    lake
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_fit_memory_wait_in_a_file() {
    let lake = wide().await;
    let sql = "SELECT count(*), sum(length(wide.s)), min(wide.s), max(few.v) FROM wide JOIN few ON wide.k = few.v";
    let expected = plain(&lake.setup, sql).await;
    for memory in [64 << 20, 2 << 20] {
        let config = Config { function_memory_bytes: memory, ..config(Target::InProcess, 2, Some(32), 1) };
        let session = lake.session(config).await;
        let (rows, report) = run(&session, sql).await.expect("rows");
        session.close().await;
        compare(&expected, &rows, Rule::same_engine()).expect("the same rows");
        assert_remote(&report, sql);
        assert_eq!((report.shuffles, report.spilled_bytes > 0), (2, memory < 4 << 20), "{report:?}");
        assert!(report.memory_peak_bytes <= memory, "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_is_kept_over_stages() {
    let lake = Lake::new().await;
    let session = lake.session(config(Target::Processes, 4, None, 1)).await;
    let sql = "SELECT n, count(*), sum(v) FROM (SELECT a.v, b.n FROM a JOIN b ON a.k = b.k) GROUP BY n";
    let (_, free) = run(&session, sql).await.expect("rows");
    // Each stage over others was planned with four fragments, and one was enough.
    assert_eq!((free.stages, free.shuffles), (4, 3), "{free:?}");
    assert!(free.fragments <= 10, "{free:?}");
    run(&session, "SET gust.max_cost = 1").await.expect("set");
    let (rows, report) = run(&session, sql).await.expect("it costs less than a dollar");
    compare(&plain(&lake.setup, sql).await, &rows, Rule::same_engine().in_any_order()).expect("the same rows");
    assert_remote(&report, sql);
    run(&session, "SET gust.max_cost = '0.00002'").await.expect("set");
    let error = run(&session, sql).await.expect_err("it costs more");
    assert_eq!(error.kind(), ErrorKind::CapReached, "{error}");
    session.close().await;
}
