//! Exchanges of which one partition has nearly all rows: functions share it where that gives each row of a join once, and rows are those of a local run and of a count by hand.

use gust_engine::config::{Config, Target};
use gust_engine::report::Report;
use gust_engine::session::Session;
use gust_tests::asks::lines;
use gust_tests::compare::{Rule, compare};
use gust_tests::query::{assert_remote, plain, run};

use crate::shuffles::{Lake, config};

/// 80,000 rows, of which nine tenths have the key 7. The others have 97 keys and NULL.
const HOT: &str = "SELECT CASE WHEN value % 10 < 9 THEN 7 WHEN value % 50 = 9 THEN NULL ELSE value % 97 END AS k, value AS v, \
                   (value * 7919) % 1000003 AS w FROM generate_series({from}, {to})";

/// Two rows of each key from 0 to 119, in four files.
const KEYS: &str = "SELECT value % 120 AS k, value AS n FROM generate_series({from}, {to})";

async fn lake() -> Lake {
    let mut lake = Lake::new().await;
    lake.add("hot", HOT, 4, 20_000).await;
    lake.add("keys", KEYS, 4, 60).await;
    lake
}

async fn session(lake: &Lake, lanes: u32, reads_max: Option<u64>) -> Session {
    let mut config = config(Target::InProcess, 6, Some(16), lanes);
    if let Some(reads_max) = reads_max {
        config = Config { shuffle_reads_max: reads_max, ..config };
    }
    lake.session(config).await
}

async fn check(lake: &Lake, session: &Session, sql: &str) -> Report {
    let (rows, report) = run(session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let expected = plain(&lake.setup, sql).await;
    let rule = Rule::same_engine();
    let rule = if sql.contains(" ORDER BY ") { rule } else { rule.in_any_order() };
    compare(&expected, &rows, rule).unwrap_or_else(|difference| panic!("{sql}: {difference}"));
    assert_remote(&report, sql);
    report
}

/// Joins and what stands above them, and whether functions may share the rows of the large partition.
const QUERIES: [(&str, bool); 17] = [
    ("SELECT count(*), sum(v), sum(w), sum(n) FROM hot JOIN keys ON hot.k = keys.k", true),
    ("SELECT count(*), sum(v), sum(w), sum(n) FROM keys JOIN hot ON hot.k = keys.k", true),
    // Rows of the hot side stay.
    ("SELECT count(*), sum(v), sum(n), count(n) FROM hot LEFT JOIN keys ON hot.k = keys.k AND v > n * 300", true),
    ("SELECT count(*), sum(v), sum(n), count(n) FROM keys RIGHT JOIN hot ON hot.k = keys.k AND v > n * 300", true),
    (
        "SELECT count(*), sum(v), sum(w) FROM hot WHERE EXISTS (SELECT 1 FROM keys WHERE keys.k = hot.k AND n > 100)",
        true,
    ),
    (
        "SELECT count(*), sum(v), sum(w) FROM hot WHERE NOT EXISTS (SELECT 1 FROM keys WHERE keys.k = hot.k AND n > 120)",
        true,
    ),
    (
        "SELECT count(*), sum(v), sum(w) FROM hot WHERE v < 100 OR EXISTS (SELECT 1 FROM keys WHERE keys.k = hot.k AND n > 120)",
        true,
    ),
    // Rows of the other side stay, or those of both: a row without a match would come once a lane.
    ("SELECT count(*), sum(v), sum(n), count(v) FROM hot RIGHT JOIN keys ON hot.k = keys.k AND v > n * 300", false),
    ("SELECT count(*), sum(v), sum(n), count(v) FROM hot FULL JOIN keys ON hot.k = keys.k AND v > n * 300", false),
    ("SELECT count(*), sum(n) FROM keys WHERE EXISTS (SELECT 1 FROM hot WHERE keys.k = hot.k AND v > n * 300)", false),
    (
        "SELECT count(*), sum(n) FROM keys WHERE NOT EXISTS (SELECT 1 FROM hot WHERE keys.k = hot.k AND v > n * 300)",
        false,
    ),
    // Groups and windows have all rows of a key in one lane.
    ("SELECT hot.k, count(*), sum(v), sum(n) FROM hot JOIN keys ON hot.k = keys.k GROUP BY hot.k", false),
    ("SELECT count(*), sum(r) FROM (SELECT rank() OVER (PARTITION BY k ORDER BY v) AS r FROM hot)", false),
    // Groups by another key are put together by another stage, or by the coordinator.
    ("SELECT n, count(*), sum(v) FROM hot JOIN keys ON hot.k = keys.k GROUP BY n", true),
    // Each function has the first rows of its part.
    ("SELECT v, w, n FROM hot JOIN keys ON hot.k = keys.k ORDER BY w, v, n LIMIT 300", true),
    // Above another join, whose sides are split alike.
    (
        "SELECT count(*), sum(hot.v), sum(y.n) FROM hot JOIN keys ON hot.k = keys.k JOIN keys AS y ON hot.k = y.k AND y.n < 120",
        true,
    ),
    ("SELECT count(*), sum(hot.v) FROM hot JOIN keys ON hot.k = keys.k LEFT JOIN keys AS y ON keys.n = y.n", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_large_partition_is_shared_where_each_row_comes_once() {
    let lake = lake().await;
    let session = session(&lake, 1, None).await;
    for (sql, may_split) in QUERIES {
        let report = check(&lake, &session, sql).await;
        assert_eq!(report.partitions_split > 0, may_split, "{sql}: {report:?}");
        for split in report.by_stage.iter().filter_map(|stage| stage.split) {
            assert!(split.parts >= 2 * split.partitions, "{sql}: {split:?}");
            assert!(split.bytes >= 4 * split.partitions * split.median_bytes, "{sql}: {split:?}");
        }
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_partitions_have_the_same_rows_in_two_lanes_of_combined_objects_and_by_sorted_rows() {
    let lake = lake().await;
    for (lanes, reads_max, setting) in [
        (2, None, "SET datafusion.optimizer.prefer_hash_join = true"),
        (1, Some(0), "SET datafusion.optimizer.prefer_hash_join = true"),
        (1, None, "SET datafusion.optimizer.prefer_hash_join = false"),
    ] {
        let session = session(&lake, lanes, reads_max).await;
        run(&session, setting).await.expect("set");
        let mut split = 0;
        for (sql, _) in QUERIES.iter().step_by(2) {
            split += check(&lake, &session, sql).await.partitions_split;
        }
        session.close().await;
        assert!(split > 0, "{lanes} {reads_max:?} {setting}");
    }
}

/// All keys of `hot` but NULL are in `keys`, twice each.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_shared_partition_are_those_that_were_counted_by_hand() {
    let lake = lake().await;
    let session = session(&lake, 1, None).await;
    // The key 7 is that of 90 values in a hundred, two have NULL, and eight have another.
    for (sql, expect) in [
        ("SELECT count(*), max(v) FROM hot JOIN keys ON hot.k = keys.k", "156800|79999"),
        ("SELECT count(*), max(v) FROM hot LEFT JOIN keys ON hot.k = keys.k", "158400|79999"),
        ("SELECT count(*), max(v) FROM hot WHERE EXISTS (SELECT 1 FROM keys WHERE keys.k = hot.k)", "78400|79999"),
        ("SELECT count(*), max(v) FROM hot WHERE NOT EXISTS (SELECT 1 FROM keys WHERE keys.k = hot.k)", "1600|79959"),
    ] {
        let (rows, report) = run(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(lines(&rows, "NULL"), [expect], "{sql}");
        assert!(report.partitions_split > 0, "{sql}: {report:?}");
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_analyze_tells_what_was_shared_and_why() {
    let lake = lake().await;
    let session = session(&lake, 1, None).await;
    let sql = "EXPLAIN ANALYZE SELECT count(*), sum(v), sum(w) FROM hot JOIN keys ON hot.k = keys.k";
    let (rows, _) = run(&session, sql).await.expect("rows");
    let text = lines(&rows, "NULL").join("\n");
    let told =
        text.lines().find(|line| line.contains("split        1 partition of ")).unwrap_or_else(|| panic!("{text}"));
    assert!(told.contains(" parts: the middle one of all has "), "{told}");
    session.close().await;
}
