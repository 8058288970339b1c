//! Queries in which engines with stages have given other rows, on each number of functions, lanes and partitions, with copies of build sides and with rows between
//! functions. Rows are those of a local run and those of DuckDB.
//!
//! One run in three is made, by turns; `TRAPS=all` makes all of them.

use std::path::Path;

use arrow::array::RecordBatch;
use gust_engine::config::{Config, JoinPlace, ShufflePlace, Target};
use gust_engine::error::ErrorKind;
use gust_engine::session::Session;
use gust_tests::compare::{Rule, compare};
use gust_tests::duckdb;
use gust_tests::query::{assert_partly_remote, run};

use crate::shuffles::{Lake, config};

/// Statements, and the number of exchanges that each has at least where functions send rows to one another.
const TRAPS: [(&str, usize); 44] = [
    // Rows of a build side without a match come once, and not once a function. The smaller side is the build side.
    ("SELECT a.v, s.k, s.n FROM a FULL JOIN (SELECT k, n FROM b WHERE k > 90 AND k < 110) s ON a.k = s.k", 2),
    ("SELECT s.k, count(a.v) FROM (SELECT k FROM b WHERE n = 1) s LEFT JOIN a ON a.k = s.k GROUP BY s.k", 2),
    ("SELECT k FROM b WHERE n = 2 AND NOT EXISTS (SELECT 1 FROM a WHERE a.k = b.k)", 2),
    ("SELECT k, n FROM b WHERE k < 150 AND (k IN (SELECT k FROM a) OR n = 1)", 2),
    (
        "SELECT k, n FROM b WHERE k < 150 AND (NOT EXISTS (SELECT 1 FROM a WHERE a.k = b.k AND a.v > b.n * 90) OR n = 1)",
        2,
    ),
    ("SELECT a.v, s.k FROM (SELECT k FROM b WHERE k < 100) s RIGHT JOIN a ON a.k = s.k AND a.v > 700", 2),
    // NOT IN: one NULL decides about all rows, and none at all lets NULL through.
    ("SELECT count(*), count(k) FROM a WHERE k NOT IN (SELECT k FROM b)", 0),
    ("SELECT count(*), count(k) FROM a WHERE k NOT IN (SELECT k FROM b WHERE k > 50)", 0),
    ("SELECT count(*), count(k) FROM a WHERE k NOT IN (SELECT k FROM none)", 0),
    ("SELECT count(*), count(k) FROM a WHERE v NOT IN (SELECT v FROM few WHERE v % 2 = 0)", 0),
    // Tables of one file have one partition each in a local plan, and no exchange.
    ("SELECT count(*), sum(x.v) FROM one AS x JOIN one AS y USING (k)", 2),
    ("SELECT x.k, max(y.v) FROM one AS x LEFT JOIN one AS y ON x.k = y.v GROUP BY x.k", 2),
    // NULL is NULL where a set operation says so.
    ("SELECT k FROM a INTERSECT SELECT k FROM b", 2),
    ("SELECT k, v % 3 FROM a EXCEPT SELECT k, n FROM b", 2),
    ("SELECT count(*) FROM a JOIN b ON a.k IS NOT DISTINCT FROM b.k", 2),
    // Equal keys of other types and encodings, zeros of both signs, NaN.
    ("SELECT count(*), sum(a.v) FROM a JOIN b ON a.s = b.s", 0),
    ("SELECT count(*), sum(a.v) FROM a JOIN b ON a.d = b.d", 2),
    ("SELECT count(*), sum(a.v) FROM a JOIN b ON a.f = b.f", 2),
    ("SELECT count(*), sum(a.v) FROM a JOIN b ON a.k = b.k AND a.s = b.s", 0),
    ("SELECT count(*), sum(x.v) FROM a AS x JOIN a AS y ON x.k = y.k AND x.s = y.s AND x.d = y.d", 2),
    ("SELECT f, count(*), min(v) FROM a GROUP BY f", 1),
    ("SELECT s, count(*) FROM b GROUP BY s", 0),
    ("SELECT count(*), sum(a.v) FROM a JOIN b ON a.f = b.f WHERE b.k < 20", 2),
    // A limited side is chosen once: each of its rows meets one row, whichever they are.
    ("SELECT count(*), count(DISTINCT few.v) FROM (SELECT v FROM one LIMIT 10) l JOIN few ON l.v = few.v", 0),
    ("SELECT few.v, l.v FROM (SELECT v FROM one ORDER BY v LIMIT 10 OFFSET 5) l JOIN few ON l.v = few.v", 0),
    ("SELECT count(*) FROM (SELECT DISTINCT v FROM (SELECT v FROM few LIMIT 1000))", 0),
    // Groups over unions of groups, and grouping sets over groups of the same keys.
    (
        "SELECT k, count(*), sum(n) FROM (SELECT k, count(*) AS n FROM a GROUP BY k UNION ALL SELECT k, count(*) AS n FROM b GROUP BY k) GROUP BY k",
        0,
    ),
    ("SELECT k, s, count(*), sum(n) FROM (SELECT k, s, count(*) AS n FROM a GROUP BY k, s) GROUP BY ROLLUP (k, s)", 0),
    ("SELECT k, count(*) FROM (SELECT k FROM a UNION ALL SELECT k FROM b) GROUP BY k", 0),
    ("SELECT k, count(DISTINCT s), count(DISTINCT v % 7) FROM a GROUP BY k", 0),
    ("SELECT k, s, sum(v), grouping(k), grouping(s) FROM a GROUP BY CUBE (k, s)", 1),
    // Partitions without rows.
    ("SELECT count(*), max(a.v) FROM a JOIN b USING (k) WHERE b.n = 77", 2),
    ("SELECT k, count(*) FROM a JOIN b USING (k) WHERE b.n = 77 GROUP BY k", 2),
    ("SELECT a.k, count(none.v) FROM a LEFT JOIN none ON a.k = none.k GROUP BY a.k", 2),
    (
        "SELECT few.k, count(*), sum(x.v) FROM few JOIN few AS x ON few.k = x.k AND few.v < 40 AND x.v < 40 GROUP BY few.k",
        2,
    ),
    ("SELECT v FROM few WHERE v > 1100 AND NOT EXISTS (SELECT 1 FROM none WHERE none.v = few.v)", 2),
    // Keys of one stage are not those of the next.
    (
        "SELECT n, count(*) FROM (SELECT k, count(*) AS n FROM (SELECT k, s FROM a GROUP BY k, s) GROUP BY k) GROUP BY n",
        2,
    ),
    ("SELECT b.n, a.s, sum(a.v) FROM a JOIN b ON a.k = b.k JOIN few ON few.v = a.v GROUP BY b.n, a.s", 2),
    // First rows of all, values of subqueries, turns of a recursion, ranks with ties.
    ("SELECT k, v FROM (SELECT k, max(v) AS v FROM a GROUP BY k) ORDER BY v DESC, k LIMIT 5", 1),
    ("SELECT k, sum(v) FROM a WHERE v > (SELECT avg(n) FROM b WHERE k < (SELECT max(k) FROM one)) GROUP BY k", 0),
    ("WITH r AS (SELECT k, sum(v) AS t FROM a GROUP BY k) SELECT k FROM r WHERE t = (SELECT max(t) FROM r)", 1),
    (
        "WITH RECURSIVE r AS (SELECT v FROM one WHERE v < 3 UNION ALL SELECT r.v + 100 FROM r JOIN few ON few.v = r.v + 100 AND r.v < 900) SELECT count(*), sum(v) FROM r",
        0,
    ),
    ("SELECT k, v, rank() OVER (PARTITION BY k ORDER BY v % 5), sum(v) OVER (PARTITION BY k) FROM a", 1),
    ("SELECT count(*), sum(a.v) FROM a JOIN b ON a.k < b.n AND a.v < 40", 0),
];

/// One way to run the statements.
#[derive(Debug, Clone, Copy)]
struct Way {
    is_sent: bool,
    functions: u32,
    lanes: u32,
    partitions: u32,
}

impl Way {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for is_sent in [false, true] {
            for functions in [1, 2, 4] {
                for lanes in [1, 2] {
                    all.extend([2, 7, 16].map(|partitions| Self { is_sent, functions, lanes, partitions }));
                }
            }
        }
        all
    }

    async fn session(self, lake: &Lake) -> Session {
        let Self { is_sent, functions, lanes, partitions } = self;
        let (join, shuffle) = match is_sent {
            true => (JoinPlace::Local, ShufflePlace::Hash),
            false => (JoinPlace::Broadcast, ShufflePlace::Local),
        };
        let config = config(Target::InProcess, functions, Some(partitions), lanes);
        let session = lake.session(Config { join, shuffle, ..config }).await;
        let setting = format!("SET datafusion.execution.target_partitions = {partitions}");
        run(&session, &setting).await.expect("a setting");
        session
    }
}

/// Runs all statements on the coordinator alone, and has DuckDB judge their rows.
async fn expected(lake: &Lake) -> Vec<Vec<RecordBatch>> {
    let session = lake.session(Config { on: Target::Local, ..Config::default() }).await;
    let mut all = Vec::new();
    for (sql, _) in TRAPS {
        all.push(run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")).0);
    }
    session.close().await;
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let judged = duckdb::answers(cache, lake.folder(), &TRAPS.map(|(sql, _)| sql)).expect("DuckDB's rows");
    for ((sql, _), (judged, rows)) in TRAPS.iter().zip(judged.iter().flatten().zip(&all)) {
        let rule = Rule::other_engine().in_any_order();
        let same = compare(&duckdb::named_as(judged, rows), rows, rule);
        same.unwrap_or_else(|difference| panic!("{sql}, DuckDB: {difference}"));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn traps_have_the_rows_of_a_local_run() {
    let lake = Lake::new().await;
    let expected = expected(&lake).await;
    let is_all = std::env::var("TRAPS").is_ok_and(|which| which == "all");
    let (mut wrong, mut joined, mut runs) = (Vec::new(), 0, 0);
    for (turn, way) in Way::all().into_iter().enumerate() {
        let session = way.session(&lake).await;
        for (number, ((sql, exchanges), expected)) in TRAPS.iter().zip(&expected).enumerate() {
            // Turns of three go through the partitions first: each row of the grid has another of them.
            if !is_all && !(turn + turn / 3 + number).is_multiple_of(3) {
                continue;
            }
            runs += 1;
            let ran = run(&session, sql).await;
            let (rows, report) = match ran {
                Ok(ran) => ran,
                Err(error) => {
                    wrong.push(format!("{way:?}: {sql}: {error}"));
                    continue;
                }
            };
            if let Err(difference) = compare(expected, &rows, Rule::same_engine().in_any_order()) {
                wrong.push(format!("{way:?}: {sql}: {difference}"));
            }
            assert_partly_remote(&report, &format!("{way:?}: {sql}"));
            joined += usize::from(report.broadcasts > 0);
            let least = if way.is_sent { *exchanges } else { 0 };
            if report.shuffles < least {
                wrong.push(format!("{way:?}: {sql}: {} of {least} exchanges", report.shuffles));
            }
        }
        session.close().await;
    }
    assert!(wrong.is_empty(), "{} of {runs} runs are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(joined * 9 >= runs, "{joined} of {runs} runs had copies of a build side");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subquery_with_two_rows_is_an_error_everywhere() {
    let lake = Lake::new().await;
    for way in Way::all().into_iter().step_by(5) {
        let session = way.session(&lake).await;
        let sql = "SELECT k, count(*) FROM a WHERE v > (SELECT v FROM one WHERE v < 2) GROUP BY k";
        let error = run(&session, sql).await.map(drop).expect_err("two rows");
        assert_eq!(error.kind(), ErrorKind::Data, "{way:?}: {error}");
        session.close().await;
    }
}
