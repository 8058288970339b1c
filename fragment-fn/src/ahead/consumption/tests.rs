use datafusion::prelude::SessionConfig;

use super::super::layout::tests::tables;
use super::*;

#[tokio::test]
async fn readings_follow_the_plan() {
    use Begins::{AtOnce, WhenPolled};
    use Consumption::{All, Growing, OnDemand, Rows};
    let tables = tables(SessionConfig::new().with_target_partitions(2)).await;
    for (sql, expect) in [
        ("SELECT k FROM t", vec![(All, AtOnce)]),
        ("SELECT k FROM t WHERE v > 1", vec![(All, AtOnce)]),
        ("SELECT k FROM t LIMIT 10", vec![(Rows(10), AtOnce)]),
        ("SELECT k FROM t LIMIT 10 OFFSET 5", vec![(Rows(15), AtOnce)]),
        ("SELECT k + 1 FROM (SELECT * FROM t LIMIT 30) LIMIT 10", vec![(Rows(10), AtOnce)]),
        ("SELECT k FROM t WHERE v > 1 LIMIT 10", vec![(Growing, AtOnce)]),
        ("SELECT sum(v) FROM t", vec![(All, AtOnce)]),
        ("SELECT sum(k) FROM (SELECT k FROM t LIMIT 10)", vec![(Rows(10), AtOnce)]),
        ("SELECT t, sum(v) FROM t GROUP BY t LIMIT 2", vec![(All, AtOnce)]),
        ("SELECT DISTINCT t FROM t LIMIT 2", vec![(Growing, AtOnce)]),
        ("SELECT k FROM t ORDER BY v", vec![(All, AtOnce)]),
        ("SELECT k FROM t ORDER BY v LIMIT 3", vec![(Growing, AtOnce)]),
        ("SELECT sum(v) OVER (ORDER BY k) FROM t", vec![(All, AtOnce)]),
        ("SELECT t.k FROM t JOIN h ON t.k = h.k", vec![(All, AtOnce), (All, WhenPolled)]),
        ("SELECT t.k FROM t JOIN h ON t.k = h.k LIMIT 5", vec![(All, AtOnce), (Growing, WhenPolled)]),
        ("SELECT t.k FROM t JOIN h ON t.k < h.k", vec![(All, AtOnce), (All, WhenPolled)]),
        ("SELECT t.k FROM t, h", vec![(All, AtOnce), (All, WhenPolled)]),
        // A build side below a probe side is not polled before that, either.
        (
            "SELECT t.k + d.k FROM t, (SELECT h.k FROM h, t) d",
            vec![(All, AtOnce), (All, WhenPolled), (All, WhenPolled)],
        ),
        ("SELECT k FROM t UNION ALL SELECT k FROM h", vec![(All, AtOnce), (All, AtOnce)]),
        ("SELECT k FROM (SELECT k FROM t UNION ALL SELECT k FROM h) LIMIT 3", vec![(Rows(3), AtOnce); 2]),
        (
            "WITH RECURSIVE r AS (SELECT k FROM t UNION ALL SELECT r.k + 1 FROM r JOIN h ON r.k = h.k) SELECT k FROM r",
            vec![(All, AtOnce), (OnDemand, AtOnce)],
        ),
    ] {
        let plan = tables.plan(sql).await;
        let readings = readings(&plan);
        let found: Vec<_> = readings.iter().map(|reading| (reading.consumption, reading.begins)).collect();
        let shown = datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string();
        assert_eq!(found, expect, "{sql}\n{shown}");
        assert_eq!(found.len(), gust_protocol::plan::scans(&plan).len(), "{sql}");
    }
}

#[tokio::test]
async fn build_sides_and_subqueries_come_first() {
    let tables = tables(SessionConfig::new().with_target_partitions(2)).await;
    let ranks = |plan| readings(&plan).iter().map(|reading| reading.rank).collect::<Vec<_>>();
    let joins = tables.plan("SELECT a.k FROM t a JOIN h b ON a.k = b.k JOIN t c ON b.v = c.v").await;
    assert_eq!(ranks(joins), [0, 1, 2]);
    // The subquery is a later child of its node, and runs first.
    let subquery = tables.plan("SELECT k FROM t WHERE v > (SELECT avg(v) FROM h)").await;
    assert_eq!(readings(&subquery)[0].begins, Begins::WhenPolled);
    assert_eq!(readings(&subquery)[1].begins, Begins::AtOnce);
    assert_eq!(ranks(subquery), [1, 0]);
}
