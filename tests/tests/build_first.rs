//! Joins of two large sides whose build side turns out to be small: every function gets a copy of it, and the rows of the other side are joined where they are scanned.

use std::path::Path;

use arrow::array::RecordBatch;
use gust::demo::queries;
use gust_engine::config::{BuildFirst, Config, JoinPlace, ShufflePlace, Target};
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::compare::{Rule, compare};
use gust_tests::query::{assert_partly_remote, assert_remote, plain, run};
use gust_tests::tpch;

use crate::plans::explain;
use crate::shuffles::{Lake, config};

/// Rows of a file.
const ROWS: usize = 10_000;

/// Rows of `wide` that its filter keeps, which DataFusion takes for a fifth of all.
const OPAQUE: &str = "w.v * 3 % 59999 = 3";

/// Makes the tables of other suites, with two large ones: `wide` has four files, and `fact` six.
async fn large() -> Lake {
    let mut lake = Lake::new().await;
    // Texts are as long as twelve digits that LZ4 makes little of.
    let rows = "SELECT value % 50000 AS k, value AS v, value % 7 AS n, \
                CAST(value * 7919 % 1000003 AS VARCHAR) || CAST(value * 104729 % 1000003 AS VARCHAR) AS t \
                FROM generate_series({from}, {to})";
    lake.add("wide", rows, 4, ROWS).await;
    lake.add("fact", rows, 6, ROWS).await;
    lake
}

/// Settings by which both sides are expected to be large, and few bytes to be small.
fn expecting(functions: u32, cores: u32, build_first: BuildFirst) -> Config {
    Config {
        shuffle: ShufflePlace::Auto,
        shuffle_bytes_min: 1,
        broadcast_bytes_max: 16 << 10,
        build_first,
        ..config(Target::InProcess, functions, Some(7), cores)
    }
}

async fn checked(expected: &[RecordBatch], session: &Session, sql: &str, what: &str) -> Report {
    let what = format!("{what}: {sql}");
    let (rows, report) = run(session, sql).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let same = compare(expected, &rows, Rule::same_engine().in_any_order());
    same.unwrap_or_else(|difference| panic!("{what}: {difference}"));
    assert_remote(&report, &what);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_side_that_is_small_after_all_is_copied_and_nothing_else_is_sent() {
    let lake = large().await;
    let groups =
        format!("SELECT f.n, count(*), sum(f.v) FROM wide w JOIN fact f ON w.k = f.k WHERE {OPAQUE} GROUP BY f.n");
    let all = "SELECT f.n, count(*), sum(f.v) FROM wide w JOIN fact f ON w.k = f.k WHERE w.v % 2 < 2 GROUP BY f.n";
    let none = "SELECT count(*), max(f.v) FROM wide w JOIN fact f ON w.k = f.k WHERE w.v * 3 % 59999 = -1";
    let alike = "SELECT f.n, count(*) FROM (SELECT v * 0 + 1 AS k FROM wide WHERE v % 2 < 2) w JOIN fact f ON w.k = f.k GROUP BY f.n";
    let mut rows_of = Vec::new();
    for sql in [&*groups, all, none, alike] {
        rows_of.push(plain(&lake.setup, sql).await);
    }
    for (functions, cores) in [(1, 1), (2, 2), (4, 1)] {
        let what = format!("{functions} functions of {cores} cores");
        let session = lake.session(expecting(functions, cores, BuildFirst::Auto)).await;
        let report = checked(&rows_of[0], &session, &groups, &what).await;
        // The build side is one exchange. No row of the other side is sent to functions.
        assert_eq!((report.builds_copied, report.shuffles, report.broadcasts), (1, 1, 1), "{what}: {report:?}");
        let replaced = report.by_stage.iter().find_map(|stage| stage.in_place_of).expect("a stage in another's place");
        let expected = replaced.build_bytes_expected.expect("statistics");
        assert!(replaced.build_bytes > 0 && expected > 50 * replaced.build_bytes, "{what}: {replaced:?}");
        assert!(expected > 16 << 10, "{what}: {replaced:?}");
        assert!(report.to_string().contains("joins of 1 stage got copies of build sides"), "{report}");
        // One that is as large as was expected goes the other way.
        let report = checked(&rows_of[1], &session, all, &what).await;
        assert_eq!((report.builds_copied, report.shuffles, report.broadcasts), (0, 2, 0), "{what}: {report:?}");
        // For one without rows no function scans the other side.
        let report = checked(&rows_of[2], &session, none, &what).await;
        assert_eq!((report.builds_copied, report.shuffles), (1, 1), "{what}: {report:?}");
        assert!(report.left_out_units > 0, "{what}: {report:?}");
        // Rows that are alike are few bytes until they are decoded. What was sent for them is read by functions then.
        let report = checked(&rows_of[3], &session, alike, &what).await;
        assert_eq!((report.builds_copied, report.shuffles, report.broadcasts), (0, 2, 0), "{what}: {report:?}");
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_the_exchange_are_copied_too() {
    let lake = large().await;
    let sql = "SELECT f.n, count(*), max(w.t), max(f.t) FROM wide w JOIN fact f ON w.k = f.k GROUP BY f.n";
    let expected = plain(&lake.setup, sql).await;
    let always = Config { build_first: BuildFirst::Always, ..config(Target::InProcess, 4, Some(16), 1) };
    let session = lake.session(always).await;
    let report = checked(&expected, &session, sql, "objects").await;
    // Groups are sent, too. They are few, and travel with responses.
    assert_eq!((report.builds_copied, report.shuffles, report.broadcasts), (1, 2, 1), "{report:?}");
    let objects = report.by_stage.iter().filter_map(|stage| stage.parts).map(|parts| parts.objects).collect::<Vec<_>>();
    assert_eq!(objects, [4, 0], "{report:?}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_tells_what_waits_and_what_has_taken_its_place() {
    let lake = large().await;
    // Functions read more of `fact` than of `wide`: else it does not wait.
    let sql =
        format!("SELECT f.n, count(*), sum(f.v) FROM wide w JOIN fact f ON w.k = f.k WHERE {OPAQUE} GROUP BY f.n");
    for (build_first, join, copied) in [
        (BuildFirst::Auto, JoinPlace::Auto, 1),
        (BuildFirst::Never, JoinPlace::Auto, 0),
        (BuildFirst::Always, JoinPlace::Local, 0),
    ] {
        let session = lake.session(Config { join, ..expecting(3, 1, build_first) }).await;
        let expected = plain(&lake.setup, &sql).await;
        let explained = explain(&session, &sql).await;
        let waits = "build first  stage 1 waits for stages 0: if the build sides have 16 KiB at most, stage 3 joins where it scans";
        assert_eq!(explained.contains(waits), copied == 1, "{explained}");
        let (rows, _) = run(&session, &format!("EXPLAIN ANALYZE {sql}")).await.expect("rows");
        let analyzed = lines(&rows, "NULL").join("\n");
        assert_eq!(
            analyzed.contains("build first  in the place of stage 2: build sides have"),
            copied == 1,
            "{analyzed}"
        );
        let report = checked(&expected, &session, &sql, "explained").await;
        assert_eq!((report.builds_copied, report.shuffles), (copied, 2 - copied), "{report:?}");
        session.close().await;
    }
}

/// Copies for a join whose build side is small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copies {
    /// Whichever side is built.
    Made,
    /// If the side is built whose rows need not stay, or whose other side is a scan: DataFusion chooses.
    OfOneSide,
    Never,
}

/// Joins, and the copies that are made of their small sides.
const JOINS: [(&str, Copies); 14] = [
    ("SELECT a.v, b.n FROM a JOIN b USING (k)", Copies::Made),
    ("SELECT n, count(*), sum(v) FROM (SELECT a.v, b.n FROM a JOIN b ON a.k = b.k) GROUP BY n", Copies::Made),
    ("SELECT DISTINCT a.s, b.n FROM a JOIN b ON a.k = b.k AND a.v > b.n", Copies::Made),
    ("SELECT a.v, b.n FROM b RIGHT JOIN a ON a.k = b.k", Copies::OfOneSide),
    ("SELECT v FROM a WHERE EXISTS (SELECT 1 FROM few WHERE few.k = a.k)", Copies::OfOneSide),
    ("SELECT v FROM a WHERE NOT EXISTS (SELECT 1 FROM few WHERE few.k = a.k)", Copies::OfOneSide),
    ("SELECT k FROM few INTERSECT SELECT k FROM a", Copies::OfOneSide),
    ("SELECT few.k, count(*) FROM a JOIN b ON a.k = b.k JOIN few ON few.v = a.v GROUP BY few.k", Copies::OfOneSide),
    (
        "SELECT a.k, a.v FROM (SELECT k, max(v) AS v FROM b JOIN few USING (k) GROUP BY k) g JOIN a ON a.k = g.k",
        Copies::OfOneSide,
    ),
    // A row without a match has to come once.
    ("SELECT a.v, b.n FROM a FULL JOIN b ON a.k = b.k", Copies::Never),
    // All rows of a key have to meet above the join.
    ("SELECT a.k, count(*) FROM a JOIN b ON a.k = b.k GROUP BY a.k", Copies::Never),
    ("SELECT a.k, row_number() OVER (PARTITION BY a.k ORDER BY a.v, b.n) FROM a JOIN b ON a.k = b.k", Copies::Never),
    ("SELECT v FROM a WHERE k NOT IN (SELECT k FROM few)", Copies::Never),
    ("SELECT k, count(*) FROM a GROUP BY k", Copies::Never),
];

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_made_for_the_joins_for_which_they_are_right() {
    let lake = Lake::new().await;
    let mut expected = Vec::new();
    for (sql, _) in JOINS {
        expected.push(plain(&lake.setup, sql).await);
    }
    for (functions, partitions, cores) in [(1, None, 1), (3, Some(7), 2)] {
        let always =
            Config { build_first: BuildFirst::Always, ..config(Target::InProcess, functions, partitions, cores) };
        // No build side has so few bytes as the second bound.
        for broadcast_bytes_max in [8 << 20, 64] {
            let what = format!("{functions} functions of {cores} cores, up to {broadcast_bytes_max} bytes");
            let session = lake.session(Config { broadcast_bytes_max, ..always.clone() }).await;
            let mut copied = 0;
            for ((sql, copies), expected) in JOINS.iter().zip(&expected) {
                let report = checked(expected, &session, sql, &what).await;
                let is_copied = report.builds_copied > 0;
                let determined = match copies {
                    Copies::Made => Some(broadcast_bytes_max > 64),
                    Copies::OfOneSide => None,
                    Copies::Never => Some(false),
                };
                assert!(determined.is_none_or(|expect| is_copied == expect), "{what}: {copies:?}: {sql}: {report:?}");
                copied += usize::from(is_copied);
            }
            session.close().await;
            let is_as_expected = if broadcast_bytes_max > 64 { copied >= 5 } else { copied == 0 };
            assert!(is_as_expected, "{what}: {copied} joins had copies");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_has_the_rows_of_a_local_run() {
    let tables = tpch::tables(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data");
    let always = Config { build_first: BuildFirst::Always, ..config(Target::InProcess, 3, Some(7), 1) };
    let mut sessions = Vec::new();
    for config in [Config { on: Target::Local, ..Config::default() }, always] {
        let session = Session::new(config).expect("a session");
        for statement in tables.create_statements() {
            run(&session, &statement).await.expect("a table");
        }
        sessions.push(session);
    }
    let [local, always] = &sessions[..] else { panic!("two sessions") };
    let mut copied = 0;
    for (number, sql) in (1..=queries::COUNT).map(|number| (number, queries::query(number))) {
        let (expected, _) = run(local, sql).await.unwrap_or_else(|error| panic!("query {number}: {error}"));
        let (rows, report) = run(always, sql).await.unwrap_or_else(|error| panic!("query {number}: {error}"));
        let same = compare(&expected, &rows, Rule::same_engine());
        same.unwrap_or_else(|difference| panic!("query {number}: {difference}"));
        assert_partly_remote(&report, sql);
        copied += usize::from(report.builds_copied > 0);
    }
    for session in &sessions {
        session.close().await;
    }
    assert!(copied >= 8, "{copied} queries had copies");
}
