//! Exchanges between functions: every query here ends in functions of a second stage, on any number of fragments, lanes and partitions, with the rows
//! of DataFusion alone.

use std::path::Path;

use gust_engine::config::{Config, JoinPlace, Prefer, ShufflePlace, Target};
use gust_engine::model::Way;
use gust_engine::model::measured::Measured;
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::compare::{Rule, compare};
use gust_tests::duckdb;
use gust_tests::query::{assert_partly_remote, plain, run};
use tempfile::TempDir;

use crate::estimate::{calibrated, functions_pay, picked, quote};
use crate::plans::explain;

/// Statements that write a table's files.
const DATA: [(&str, &str); 5] = [
    // Keys have NULLs and come in all files; `s` has short texts and long ones.
    (
        "a",
        "SELECT CASE WHEN value % 11 = 0 THEN NULL ELSE value % 97 END AS k, value AS v, \
         CASE WHEN value % 3 = 0 THEN 'short' ELSE 'a text of more than twelve bytes' END || CAST(value % 5 AS VARCHAR) AS s, \
         CAST(value % 50 AS DECIMAL(10, 2)) AS d, \
         CASE value % 4 WHEN 0 THEN 0.0 WHEN 1 THEN -0.0 WHEN 2 THEN 'NaN'::double ELSE value % 7 END AS f \
         FROM generate_series({from}, {to})",
    ),
    // A key that matches nowhere, twice a NULL, and keys of another width.
    (
        "b",
        "SELECT CASE WHEN value % 13 = 0 THEN NULL ELSE value END AS k, value % 3 AS n, \
         arrow_cast(CASE WHEN value % 2 = 0 THEN 'short' ELSE 'a text of more than twelve bytes' END || CAST(value % 7 AS VARCHAR), 'Dictionary(Int32, Utf8)') AS s, \
         CAST(value AS DECIMAL(12, 4)) AS d, CASE WHEN value % 5 = 0 THEN 'NaN'::double ELSE value % 9 END AS f \
         FROM generate_series({from}, {to})",
    ),
    ("few", "SELECT value % 2 AS k, value AS v FROM generate_series({from}, {to})"),
    ("one", "SELECT value % 40 AS k, value AS v FROM generate_series({from}, {to})"),
    ("none", "SELECT value AS k, 'x' AS s, value AS v FROM generate_series({from}, {to}) WHERE value < 0"),
];

/// Tables in a folder of their own.
pub(crate) struct Lake {
    pub(crate) setup: Vec<String>,
    folder: TempDir,
}

impl Lake {
    /// Makes the tables of [`DATA`], of four files each, but for one.
    pub(crate) async fn new() -> Self {
        let mut lake = Self { setup: Vec::new(), folder: TempDir::new().expect("a folder") };
        for (table, rows) in DATA {
            lake.add(table, rows, if table == "one" { 1 } else { 4 }, 300).await;
        }
        lake
    }

    /// Adds a table of so many files and rows a file. `rows` is a statement over `{from}` and `{to}`.
    pub(crate) async fn add(&mut self, table: &str, rows: &str, files: usize, rows_each: usize) {
        let folder = self.folder.path().join(table);
        std::fs::create_dir_all(&folder).expect("made");
        for file in 0..files {
            let (from, to) = (file * rows_each, (file + 1) * rows_each - 1);
            let rows = rows.replace("{from}", &from.to_string()).replace("{to}", &to.to_string());
            let path = folder.join(format!("{file}.parquet"));
            let group_rows = rows_each.div_ceil(5).next_power_of_two();
            let options = format!("OPTIONS ('format.max_row_group_size' '{group_rows}')");
            plain(&[], &format!("COPY ({rows}) TO '{}' {options}", path.display())).await;
        }
        self.setup.push(table_statement(table, &folder));
    }

    /// Returns the folder that holds a folder of each table's name.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) async fn session(&self, config: Config) -> Session {
        let session = Session::new(config).expect("a session");
        for statement in &self.setup {
            run(&session, statement).await.expect("setup");
        }
        session
    }
}

fn table_statement(table: &str, folder: &Path) -> String {
    format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{}/'", folder.display())
}

pub(crate) fn config(target: Target, functions_max: u32, partitions: Option<u32>, cores: u32) -> Config {
    let mut config = Config {
        on: target,
        functions_max,
        shuffle: ShufflePlace::Hash,
        shuffle_partitions: partitions,
        ..Config::default()
    };
    config.process.cores = cores;
    config.process.program = Some(env!("CARGO_BIN_EXE_bootstrap_under_test").into());
    config
}

/// Queries, and the exchanges that each needs at least.
const QUERIES: [(&str, usize); 37] = [
    // Groups.
    ("SELECT k, count(*), sum(v), min(s) FROM a GROUP BY k", 1),
    ("SELECT s, f, avg(v), count(DISTINCT k) FROM a GROUP BY s, f", 1),
    ("SELECT DISTINCT k, s FROM a", 1),
    ("SELECT k, sum(v) AS n FROM a GROUP BY k HAVING count(*) > 3 ORDER BY n DESC, k LIMIT 7", 1),
    ("SELECT count(*), max(n) FROM (SELECT k, count(*) AS n FROM a GROUP BY k)", 1),
    ("SELECT k, s, count(*) FROM a GROUP BY ROLLUP (k, s)", 1),
    // Fifteen of sixteen partitions are empty, or all.
    ("SELECT k, count(*) FROM few GROUP BY k", 1),
    ("SELECT count(*), max(n) FROM (SELECT k, count(*) AS n FROM a WHERE v < 0 GROUP BY k)", 1),
    ("SELECT k, count(*) FROM a WHERE v < 0 GROUP BY k", 1),
    // Joins of every type. NULL meets NULL where a set operation says so.
    ("SELECT a.v, b.n FROM a JOIN b USING (k)", 2),
    ("SELECT a.v, b.n FROM a LEFT JOIN b ON a.k = b.k", 2),
    ("SELECT a.v, b.k FROM a RIGHT JOIN b ON a.k = b.k", 2),
    ("SELECT a.v, b.k FROM a FULL JOIN b ON a.k = b.k", 2),
    ("SELECT a.v, b.k FROM a FULL JOIN b ON a.k = b.k AND a.v > b.n * 100", 2),
    ("SELECT v FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k)", 2),
    ("SELECT v FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k)", 2),
    ("SELECT v FROM a WHERE k IN (SELECT k FROM b) OR v < 5", 2),
    ("SELECT k FROM a INTERSECT SELECT k FROM b", 2),
    ("SELECT k FROM a EXCEPT SELECT k FROM b WHERE n = 1", 2),
    // The same value in another type has another hash: plans cast, and the keys are hashed as they are cast.
    ("SELECT count(*), sum(a.v) FROM a JOIN b ON a.s = b.s", 0),
    ("SELECT count(*), sum(a.v) FROM a JOIN b ON a.d = b.d", 2),
    ("SELECT count(*), sum(a.v) FROM a JOIN b ON a.f = b.f", 2),
    ("SELECT count(*), sum(a.v) FROM a JOIN b ON a.k = b.k AND a.s = b.s", 0),
    ("SELECT count(*), sum(x.v) FROM a AS x JOIN a AS y ON x.k = y.k AND x.s = y.s", 2),
    // A grouping set without keys has a row, also over nothing. No function may be there to make it, so the coordinator does.
    ("SELECT c, count(*) FROM (SELECT k, count(*) AS c FROM a WHERE v < 0 GROUP BY k) GROUP BY ROLLUP (c)", 0),
    ("SELECT a.k, count(*) FROM a JOIN none ON a.k = none.k AND a.v < 0 GROUP BY CUBE (a.k)", 0),
    // So it has where files have no rows, and then functions make it.
    ("SELECT k, count(*), sum(v) FROM none GROUP BY ROLLUP (k)", 1),
    ("SELECT k, s, count(*) FROM none GROUP BY GROUPING SETS ((k, s), (), ())", 1),
    ("SELECT k, count(*) FROM a WHERE v < 0 GROUP BY CUBE (k)", 1),
    // One side has no rows, or has them in one file.
    ("SELECT count(*), max(a.v) FROM a JOIN none ON a.k = none.k", 2),
    ("SELECT a.k, count(none.v) FROM a LEFT JOIN none ON a.k = none.k GROUP BY a.k", 2),
    ("SELECT x.k, count(*) FROM one AS x JOIN one AS y ON x.k = y.k GROUP BY x.k", 2),
    // Windows.
    ("SELECT k, v, rank() OVER (PARTITION BY k ORDER BY v DESC) FROM a", 1),
    ("SELECT k, sum(v) OVER (PARTITION BY k, s), count(*) OVER (PARTITION BY s ORDER BY v) FROM a", 1),
    // Stages below stages.
    ("SELECT n, count(*), sum(v) FROM (SELECT a.v, b.n FROM a JOIN b ON a.k = b.k) GROUP BY n", 3),
    ("SELECT few.k, count(*) FROM a JOIN b ON a.k = b.k JOIN few ON few.v = a.v GROUP BY few.k", 4),
    ("SELECT c, count(*) FROM (SELECT k, count(*) AS c FROM a GROUP BY k) GROUP BY c", 2),
];

/// Runs a query, and compares its rows with those of DataFusion alone.
async fn check(lake: &Lake, session: &Session, sql: &str, least: usize, what: &str) -> Report {
    let what = format!("{what}: {sql}");
    let (rows, report) = run(session, sql).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let expected = plain(&lake.setup, sql).await;
    let rule = Rule::same_engine().in_any_order();
    compare(&expected, &rows, rule).unwrap_or_else(|difference| panic!("{what}: {difference}"));
    assert_partly_remote(&report, &what);
    assert!(report.shuffles >= least, "{what}: {} exchanges: {report:?}", report.shuffles);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_duckdbs_on_three_functions_of_two_lanes() {
    let lake = Lake::new().await;
    let statements = QUERIES.map(|(sql, _)| sql);
    let judged = duckdb::answers(Path::new(env!("CARGO_TARGET_TMPDIR")), lake.folder.path(), &statements);
    let Some(judged) = judged.expect("DuckDB's rows") else { return };
    let session = lake.session(config(Target::InProcess, 3, Some(7), 2)).await;
    for (sql, expected) in statements.into_iter().zip(&judged) {
        let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_partly_remote(&report, sql);
        let rule = Rule::other_engine().in_any_order();
        let expected = duckdb::named_as(expected, &rows);
        compare(&expected, &rows, rule).unwrap_or_else(|difference| panic!("{sql}: {difference}"));
    }
    session.close().await;
}

async fn check_all(target: Target, functions_max: u32, partitions: Option<u32>, cores: u32) {
    Box::pin(check_all_by(config(target, functions_max, partitions, cores))).await;
}

/// Checks all queries. Returns the number of their exchanges.
async fn check_all_by(config: Config) -> usize {
    let lake = Lake::new().await;
    let (functions, cores) = (config.functions_max, config.process.cores);
    let (target, partitions) = (config.on, config.shuffle_partitions);
    let what = format!("{target:?}, {functions} functions of {cores} cores, {partitions:?} partitions");
    let session = lake.session(config).await;
    let mut shuffles = 0;
    for (sql, least) in QUERIES {
        shuffles += check(&lake, &session, sql, least, &what).await.shuffles;
    }
    session.close().await;
    shuffles
}

/// Functions between two stages make few objects of many: each exchange with rows is two.
#[tokio::test(flavor = "multi_thread")]
async fn combined_objects_have_the_same_rows() {
    let direct = || config(Target::InProcess, 4, Some(7), 2);
    let shuffles = Box::pin(check_all_by(direct())).await;
    let combined = Box::pin(check_all_by(Config { shuffle_reads_max: 0, ..direct() })).await;
    assert!(combined > shuffles * 3 / 2 && combined <= 2 * shuffles, "{combined} exchanges, {shuffles} without");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_combined_where_they_would_take_too_many_reads() {
    let lake = Lake::new().await;
    let groups = "SELECT k, max(v) AS m FROM a GROUP BY k";
    // Sixteen functions leave rows for sixteen, each in its response: there are no objects to combine.
    let config = Config { shuffle_reads_max: 200, ..config(Target::InProcess, 16, Some(16), 1) };
    let session = lake.session(config).await;
    assert_eq!(check(&lake, &session, groups, 1, "rows in responses").await.shuffles, 1);
    let explained = explain(&session, groups).await;
    let told =
        "about 4 fragments that make few objects of those of stage 0, where these would take more than 200 reads";
    assert!(explained.contains(told), "{explained}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grouping_set_without_keys_has_a_row_over_no_rows() {
    let lake = Lake::new().await;
    let session = lake.session(config(Target::InProcess, 3, Some(7), 1)).await;
    for (sql, expect) in [
        ("SELECT k, count(*), sum(v) FROM none GROUP BY ROLLUP (k)", &["NULL|0|NULL"][..]),
        ("SELECT k, count(*) FROM none GROUP BY GROUPING SETS ((k), (), ())", &["NULL|0", "NULL|0"]),
        ("SELECT count(*) FROM none GROUP BY GROUPING SETS (())", &["0"]),
        ("SELECT k, s, count(*) FROM none GROUP BY GROUPING SETS ((k), (s))", &[]),
        ("SELECT k, count(*) FROM a WHERE v < 0 GROUP BY CUBE (k)", &["NULL|0"]),
        ("SELECT c, count(*) FROM (SELECT k, count(*) AS c FROM none GROUP BY k) GROUP BY ROLLUP (c)", &["NULL|0"]),
        ("SELECT none.k, count(*) FROM few JOIN none ON few.k = none.k GROUP BY ROLLUP (none.k)", &["NULL|0"]),
    ] {
        let (rows, _) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(lines(&rows, "NULL"), expect, "{sql}");
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_has_functions_do_what_statistics_find_large() {
    let lake = Lake::new().await;
    let join = "SELECT n, count(*), sum(v) FROM (SELECT a.v, b.n FROM a JOIN b ON a.k = b.k) GROUP BY n";
    let groups = "SELECT k, count(*) FROM a GROUP BY k";
    for (bytes_min, sql, shuffles, told) in [
        // Both sides go to functions, which join and group. The coordinator puts the groups together.
        (
            1,
            join,
            2,
            &[
                "; the join has about",
                "both at least 1 B",
                "shuffle      none by hash of [",
                "the number of groups is not known",
            ][..],
        ),
        (1 << 40, join, 0, &["shuffle      none by hash of [n@0]: HashJoinExec below it stays on the coordinator"]),
        (1, groups, 0, &["shuffle      none by hash of [k@0]: the number of groups is not known"]),
    ] {
        let config = Config {
            shuffle: ShufflePlace::Auto,
            shuffle_bytes_min: bytes_min,
            join: JoinPlace::Local,
            ..config(Target::InProcess, 3, None, 1)
        };
        let session = lake.session(config).await;
        let report = check(&lake, &session, sql, shuffles, "auto").await;
        assert_eq!(report.shuffles, shuffles, "{sql}: {report:?}");
        let explained = explain(&session, sql).await;
        for told in told {
            assert!(explained.contains(told), "{told}: {explained}");
        }
        session.close().await;
    }
}

/// Change of a case's settings.
type Change<'a> = &'a dyn Fn(&mut Config);

/// A network by which the coordinator alone takes a second, of which the rows that are joined are a part. Functions wait for nothing but a round trip, and for
/// another one before they join.
#[tokio::test(flavor = "multi_thread")]
async fn auto_takes_the_best_of_three_ways() {
    let lake = Lake::new().await;
    let sql = "SELECT n, count(*), sum(v) FROM (SELECT a.v, b.n FROM a JOIN b ON a.k = b.k WHERE a.v % 10 < 3 AND b.k % 2 = 1) GROUP BY n";
    let expected = plain(&lake.setup, sql).await;
    let folder = TempDir::new().expect("a folder");
    let with = |stage_seconds: f64, pipe: f64, change: Change<'_>| {
        let measured = Measured {
            stage_seconds,
            pipe_bytes_per_second: pipe,
            function_pipe_first: 1e9,
            function_pipe: 1e9,
            ..functions_pay()
        };
        let (shuffle, join) = (ShufflePlace::Auto, JoinPlace::Local);
        let mut config = Config { shuffle, shuffle_bytes_min: 1, join, ..calibrated(&folder, 3, measured) };
        change(&mut config);
        config
    };
    // The narrower the pipe, the fewer gaps come with their columns.
    let mut pipe = 1e6;
    for _ in 0..3 {
        let session = lake.session(with(1.0, pipe, &|config| config.on = Target::Local)).await;
        pipe = quote(&session, sql).await.1.forecasts[0].expected.bytes as f64;
        session.close().await;
    }
    let none = |_: &mut Config| {};
    let asked = |prefer| move |config: &mut Config| (config.on, config.prefer) = (Target::Processes, Some(prefer));
    let hash = |config: &mut Config| {
        (config.on, config.prefer, config.shuffle) = (Target::Processes, Some(Prefer::Latency), ShufflePlace::Hash);
    };
    let cases: [(f64, Change<'_>, Way, usize); 7] = [
        (100.0, &none, Way::Local, 0),
        (0.5, &none, Way::Scans, 0),
        (0.001, &none, Way::Stages, 2),
        // Nobody said what the coordinator's machine costs.
        (0.001, &|config| config.prefer = Some(Prefer::Cost), Way::Local, 0),
        (0.5, &asked(Prefer::Latency), Way::Scans, 0),
        (0.001, &asked(Prefer::Latency), Way::Stages, 2),
        // A setting that asks for exchanges is not weighed. The groups, whose number is not known, have one, too.
        (0.5, &hash, Way::Stages, 3),
    ];
    for (stage_seconds, change, way, shuffles) in cases {
        let config = with(stage_seconds, pipe, change);
        let what = format!("{stage_seconds} s, {:?}, {:?}, {:?}", config.on, config.prefer, config.shuffle);
        let is_open = config.shuffle == ShufflePlace::Auto;
        let session = lake.session(config).await;
        let (_, quoted, _) = quote(&session, sql).await;
        assert_eq!(picked(&quoted).way(), way, "{what}: {quoted:?}");
        let shown = Way::ALL.map(|way| quoted.forecasts.iter().any(|forecast| forecast.way() == way));
        assert_eq!(shown, [true, is_open, true], "{what}: {quoted:?}");
        let explained = explain(&session, sql).await;
        assert_eq!(
            explained.contains("that join or group: $"),
            way != Way::Local || stage_seconds < 1.0,
            "{explained}"
        );
        let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        compare(&expected, &rows, Rule::same_engine().in_any_order()).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!(report.shuffles, shuffles, "{what}: {report:?}");
        match way {
            Way::Local => assert_eq!(report.attempts, 0, "{what}: {report:?}"),
            Way::Scans | Way::Stages => {
                assert_partly_remote(&report, &what);
            }
        }
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_does_not_travel_says_why_nothing_is_sent() {
    let lake = Lake::new().await;
    let session = lake.session(config(Target::InProcess, 3, Some(7), 1)).await;
    let half = "arrow_cast(v, 'Float16') > arrow_cast(2, 'Float16')";
    let one = |table: &str, filter: &str| format!("(SELECT k, count(*) AS n FROM {table} WHERE {filter} GROUP BY k)");
    let sql = format!("SELECT x.k, x.n, y.n FROM {} AS x CROSS JOIN {} AS y", one("a", half), one("b", "n > 0"));
    let explained = explain(&session, &sql).await;
    assert!(explained.contains("shuffle      none all of them: a stage cannot travel: "), "{explained}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_datafusions_on_one_function() {
    check_all(Target::InProcess, 1, Some(2), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_datafusions_on_two_functions_of_two_lanes() {
    check_all(Target::InProcess, 2, Some(7), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_datafusions_on_four_functions() {
    check_all(Target::InProcess, 4, Some(16), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_datafusions_with_chosen_partitions_in_processes() {
    check_all(Target::Processes, 3, None, 2).await;
}
