//! Operators in functions with too little memory, and groups of functions in a coordinator's memory that they do not fit: the same rows or a typed error.

use std::collections::BTreeSet;
use std::sync::Arc;

use gust_engine::config::{Config, Target};
use gust_engine::cost::Item;
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::report::Report;
use gust_engine::session::{Engine, EngineOptions, SessionOptions};
use gust_tests::compare::{Rule, compare};
use gust_tests::pressure::{Data, MemoryOutcome, RunSettings, Short};
use gust_tests::query::{plain, run, run_with_events};
use gust_tests::rollup::{PLACES, Rollup, RollupPlace};
use gust_tests::sized::SizedFunctions;
use tempfile::TempDir;

use crate::shuffle_faults::wide;
use crate::shuffles::{Lake, config};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_rows_or_a_typed_error_in_functions() {
    let settings = |index: usize| {
        let short = Short::Functions { copies: index % 3 == 2 };
        RunSettings { short, partitions: [2, 3, 8][index % 3], part: 1, views: index % 4 < 2 }
    };
    let tally = Data::make().await.tally(settings).await;
    // The limits were felt, and many runs still ended well.
    assert!(tally.count(MemoryOutcome::Spilled) >= 10, "{tally}");
    // No join ends sorted here: a partition is one chunk of each producer, and a sort has to hold such chunks of both sides.
    let taken_apart = tally.count(MemoryOutcome::TakenApart);
    assert!(taken_apart > 0, "{tally}");
    assert!(tally.count(MemoryOutcome::Refused) + taken_apart >= 20, "{tally}");
}

/// Machines of a run.
#[derive(Debug, Clone, Copy)]
struct Machines {
    functions: u32,
    partitions: u32,
    function_memory: u64,
    memory: u64,
}

/// Runs a query with so much memory, and compares its rows with those of DataFusion alone.
async fn ended(lake: &Lake, sql: &str, machines: Machines) -> Result<Report, QueryError> {
    let Machines { functions, partitions, function_memory, memory } = machines;
    let config = config(Target::InProcess, functions, Some(partitions), 1);
    let session =
        lake.session(Config { function_memory_bytes: function_memory, memory_bytes_max: memory, ..config }).await;
    run(&session, "SET datafusion.execution.batch_size = 500").await.expect("set");
    let ended = run(&session, sql).await;
    session.close().await;
    let (rows, report) = ended?;
    compare(&plain(&lake.setup, sql).await, &rows, Rule::same_engine()).unwrap_or_else(|why| panic!("{sql}: {why}"));
    Ok(report)
}

const PLENTY: u64 = 1 << 30;

/// The build side has 64,000 rows of 88 bytes.
const JOINED: &str =
    "SELECT count(*), sum(length(x.s)), min(y.s) FROM wide AS x JOIN wide AS y ON x.k = y.k AND x.s >= y.s";

/// Each of two functions has eight partitions of the build side, and memory for some of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_fragment_that_runs_out_of_memory_goes_on_partition_by_partition() {
    let lake = wide().await;
    let machines = Machines { functions: 2, partitions: 16, function_memory: 3 << 20, memory: PLENTY };
    // Pieces of a fragment are sorted each by itself.
    let first = "SELECT x.k, x.s FROM wide AS x JOIN wide AS y ON x.k = y.k AND x.s >= y.s ORDER BY x.s, x.k LIMIT 200";
    let then = "SELECT h, count(*), min(s) FROM (SELECT x.half AS h, y.s FROM wide AS x JOIN wide AS y ON x.k = y.k AND x.s >= y.s) \
                GROUP BY h ORDER BY h";
    for sql in [JOINED, first, then] {
        let report = ended(&lake, sql, machines).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(report.fragments_taken_apart > 0, "{sql}: {report:?}");
        // Their own attempts had failed of it, and nothing else did.
        let failed: Vec<(&str, usize)> =
            report.attempts_failed.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        assert_eq!(failed, [("OutOfMemory", report.fragments_taken_apart)], "{sql}: {report:?}");
        assert_eq!(report.fragments_adopted, report.fragments, "{sql}: {report:?}");
        assert_eq!((&report.planned_again, &report.fell_back), (&None, &None), "{sql}: {report:?}");
        let words = "ran out of memory and went on partition by partition";
        assert!(report.to_string().contains(words), "{report}");
    }
}

/// Makes 64,000 rows of ten fixed widths in 64 row groups. Sorts count the bytes of texts several times: batches share them.
async fn numbers() -> Lake {
    let mut lake = Lake::new().await;
    let doubles = of_doubles(|column| format!("sin(value + {column}) AS c{column}"));
    let rows = format!("SELECT value AS k, value % 2 AS half, {doubles} FROM generate_series({{from}}, {{to}})");
    lake.add("numbers", &rows, 16, 4_000).await;
    lake
}

/// Lists an expression of each column of doubles of [`numbers`].
fn of_doubles(expression: impl Fn(usize) -> String) -> String {
    (0..8).map(expression).collect::<Vec<_>>().join(", ")
}

/// All rows are in one partition, which is sorted where it is too large for a hash table.
#[tokio::test(flavor = "multi_thread")]
async fn a_hash_join_that_does_not_fit_one_function_is_done_there_by_sorted_rows() {
    let lake = numbers().await;
    let greatest = of_doubles(|column| format!("max(x.c{column} + y.c{column})"));
    let sql = format!("SELECT count(*), {greatest} FROM numbers AS x JOIN numbers AS y ON x.k = y.k");
    // The rows of each producer are a small part of a function's memory. A hash join needs more than 5.1 MB of rows. Two sorts spill, and merge beside each other.
    let machines = Machines { functions: 32, partitions: 1, function_memory: 4 << 20, memory: PLENTY };
    let report = ended(&lake, &sql, machines).await.expect("rows");
    let why = report.planned_again.as_deref().unwrap_or_else(|| panic!("not planned again: {report:?}"));
    assert!(why.contains("HashJoinInput"), "{why}");
    assert!(report.attempts_failed.get("OutOfMemory").is_some_and(|times| *times > 0), "{report:?}");
    // Both sides went to functions in both runs.
    assert_eq!((report.shuffles, report.fell_back.as_deref()), (4, None), "{report:?}");
    assert!(report.spilled_bytes > 0, "{report:?}");
}

/// Operators of DataFusion 55.2 that can neither spill nor be divided: the error names the operator and the setting.
#[tokio::test(flavor = "multi_thread")]
async fn memory_that_is_exhausted_names_the_operator_and_the_setting() {
    let (wide, numbers) = (wide().await, numbers().await);
    let machines = Machines { functions: 2, partitions: 16, function_memory: 2 << 20, memory: PLENTY };
    let medians = (0..24).map(|more| format!("median(k + {more})")).collect::<Vec<_>>().join(", ");
    let greatest = of_doubles(|column| format!("max(c{column})"));
    for (lake, sql, machines, operator, setting) in [
        // Half of the table is one partition of the window, which holds it twice. The sort below has room.
        (
            &numbers,
            format!("SELECT max(n), {greatest} FROM (SELECT *, sum(k) OVER (PARTITION BY half) AS n FROM numbers)"),
            Machines { functions: 32, function_memory: 4 << 20, ..machines },
            "WindowAggExec",
            "function_memory_bytes",
        ),
        (
            &wide,
            "SELECT count(DISTINCT s), count(DISTINCT k), sum(half) FROM wide".to_owned(),
            machines,
            "AggregateStream",
            "function_memory_bytes",
        ),
        (&wide, format!("SELECT {medians} FROM wide"), machines, "AggregateStream", "function_memory_bytes"),
        // The coordinator's: no function has a join without keys.
        (
            &wide,
            "SELECT count(*), min(x.s || y.s) FROM wide AS x CROSS JOIN wide AS y".to_owned(),
            Machines { functions: 8, function_memory: PLENTY, memory: 4 << 20, ..machines },
            "CrossJoinExec",
            "memory_bytes_max",
        ),
    ] {
        let error = ended(lake, &sql, machines).await.map(drop).expect_err("it does not fit");
        assert_eq!(error.kind(), ErrorKind::Resources, "{sql}: {error}");
        let message = error.to_string();
        assert!(message.contains(operator) && message.contains(setting), "{operator}, {setting}: {message}");
    }
}

/// Each value that is counted is held until a function has seen all of its rows: no step but larger functions helps.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_fits_no_function_goes_on_in_larger_ones() {
    let (lake, folder) = (wide().await, TempDir::new().expect("a folder"));
    // The next size is the smallest with more memory, wherever it stands.
    let functions = Arc::new(SizedFunctions::of(&[2, 1024, 512], 2, folder.path().to_owned()));
    let options = EngineOptions { functions: Some(Arc::clone(&functions) as _), ..EngineOptions::default() };
    let mut config = config(Target::InProcess, 2, Some(16), 1);
    config.cost.region = Some("us-east-1".to_owned());
    let engine = Engine::open(config, options).expect("an engine");
    let session = engine.session(SessionOptions::default()).expect("a session");
    for statement in &lake.setup {
        run(&session, statement).await.expect("setup");
    }
    let sql = "SELECT count(DISTINCT s), count(DISTINCT k), sum(half) FROM wide";
    let (rows, _, events) = run_with_events(&session, sql).await.expect("rows");
    let report = Report::priced(&events, session.tariff().await.as_ref());
    compare(&plain(&lake.setup, sql).await, &rows, Rule::same_engine()).expect("the same rows");
    let why = report.enlarged.as_deref().unwrap_or_else(|| panic!("not enlarged: {report:?}"));
    assert!(why.starts_with("for functions of 512 MB: "), "{why}");
    assert_eq!((&report.planned_again, &report.fell_back), (&None, &None), "{report:?}");
    // All attempts on the first size failed of it. All fragments of the second run are functions' of the next size, and none is of the largest.
    assert!(report.attempts_failed.get("OutOfMemory").is_some_and(|times| *times > 0), "{report:?}");
    assert_eq!(report.fragments_adopted, 2, "{report:?}");
    let attempts = [2, 512, 1024].map(|memory_mb| functions.attempts(memory_mb));
    assert!(attempts[0] > 0 && attempts[1] >= 2 && attempts[2] == 0, "{attempts:?}");
    // The platform tells no size, and each attempt has the price of its own.
    let cost = report.cost.as_ref().expect("prices");
    let sizes: BTreeSet<u32> = cost.lines.iter().filter_map(|line| computed(line.item)).collect();
    assert_eq!(sizes, BTreeSet::from([2, 512]), "{cost}");
    // A cap counts on the first size.
    run(&session, "SET gust.max_cost = 1").await.expect("set");
    let error = run(&session, sql).await.expect_err("it does not fit");
    assert_eq!(error.kind(), ErrorKind::Resources, "{error}");
    assert_eq!(functions.attempts(512), attempts[1], "{error}");
    engine.close().await;
}

/// Returns the memory of functions whose time a line has.
fn computed(item: Item) -> Option<u32> {
    match item {
        Item::Compute { memory_mb } => Some(memory_mb),
        _ => None,
    }
}

/// `lab rollup` has two million rows with 500,000 groups in 256 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn ranks_over_grouping_sets_pass_with_functions_where_they_pass_locally() {
    let rollup = Rollup::make(100_000, 25_000).await;
    assert!(rollup.rows() >= 1_001, "{}", rollup.rows());
    // With 20 MiB one local run of some 20 is refused where an aggregate puts its groups together.
    for place in PLACES {
        for run in 0..3 {
            let what = format!("{place:?}, run {run}");
            let report = rollup.run(place, 24 << 20).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(report.fell_back, None, "{what}");
            assert_eq!(report.fragments_adopted > 0, place != RollupPlace::Local, "{what}: {report:?}");
        }
    }
    let error = rollup.run(RollupPlace::Local, 100_000).await.map(drop).expect_err("it cannot fit");
    assert_eq!(error.kind(), ErrorKind::Resources, "{error}");
}
