//! Queries of every shape that a fragment can have, on every target, against DataFusion alone.

use arrow::array::RecordBatch;
use gust_engine::config::Target;
use gust_tests::compare::{Rule, compare};
use gust_tests::query::{assert_partly_remote, run};

use crate::tpch::{judged, open};

/// Queries with an order: their rows are compared in the order in which they come.
const ORDERED: &[&str] = &[
    // One file is read by more partitions than fragments; then many files are.
    "SELECT n_name FROM nation ORDER BY n_name",
    "SELECT n_name FROM nation ORDER BY n_nationkey DESC LIMIT 3",
    "SELECT l_orderkey, l_linenumber FROM lineitem ORDER BY l_extendedprice DESC, l_orderkey, l_linenumber",
    "SELECT l_orderkey, l_linenumber FROM lineitem ORDER BY l_extendedprice, l_orderkey, l_linenumber LIMIT 10 OFFSET 7",
    "SELECT l_orderkey FROM lineitem WHERE l_quantity < 0 ORDER BY l_orderkey",
    "SELECT o_orderkey, rank() OVER (PARTITION BY o_custkey ORDER BY o_totalprice, o_orderkey) r FROM orders ORDER BY 1, 2",
    "SELECT o_orderpriority, count(*) c FROM orders GROUP BY 1 HAVING count(*) > 10 ORDER BY 2 DESC, 1",
    "SELECT * FROM (SELECT n_nationkey k FROM nation UNION ALL SELECT s_suppkey FROM supplier) ORDER BY k LIMIT 40",
    "SELECT o_orderkey FROM orders WHERE o_totalprice > (SELECT avg(o_totalprice) FROM orders) ORDER BY 1 LIMIT 20",
    "SELECT c_custkey FROM customer WHERE c_custkey IN (SELECT o_custkey FROM orders WHERE o_totalprice > 400000) ORDER BY 1",
];

/// Queries without an order: any order will do.
const UNORDERED: &[&str] = &[
    "SELECT count(l_orderkey), sum(l_quantity), min(l_shipdate), max(l_comment), avg(l_tax) FROM lineitem",
    "SELECT count(*) FROM lineitem WHERE l_discount > 0.05",
    "SELECT l_shipmode, avg(l_quantity), avg(CAST(l_tax AS DOUBLE)), stddev(l_tax) FROM lineitem GROUP BY 1",
    "SELECT count(DISTINCT l_suppkey), count(DISTINCT l_partkey) FROM lineitem",
    "SELECT l_returnflag, count(DISTINCT l_suppkey), sum(l_quantity) FROM lineitem GROUP BY 1",
    "SELECT approx_distinct(l_orderkey) FROM lineitem WHERE l_quantity > 10",
    "SELECT median(l_extendedprice), approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY l_quantity) > 0 FROM lineitem WHERE l_tax > 0.01",
    "SELECT DISTINCT l_shipinstruct FROM lineitem",
    "SELECT l_comment FROM lineitem WHERE l_comment LIKE '%sleep%' AND upper(l_shipmode) = 'AIR'",
    "SELECT 1 AS one FROM nation WHERE n_regionkey = 2",
    "SELECT n_name, unnest(make_array(n_nationkey, n_regionkey)) u FROM nation WHERE n_nationkey > 3",
    "SELECT a.n_name, b.n_name FROM nation a, nation b WHERE a.n_regionkey = b.n_regionkey AND a.n_nationkey > b.n_nationkey + 1",
    "SELECT r_name, n_name FROM region LEFT JOIN nation ON r_regionkey = n_regionkey AND n_nationkey > 20",
    "WITH t AS (SELECT o_custkey k, sum(o_totalprice) s FROM orders WHERE o_orderkey > 5 GROUP BY 1) SELECT a.k FROM t a, t b WHERE a.s = b.s AND a.k > 1490",
    "SELECT sum(CASE WHEN l_shipdate IS NULL THEN 1 ELSE 0 END), bool_and(l_quantity > 0) FROM lineitem",
    "SELECT array_agg(n_name ORDER BY n_name) FROM nation WHERE n_regionkey < 2",
    "SELECT date_trunc('year', l_shipdate) y, count(*) FROM lineitem GROUP BY ROLLUP(y)",
];

/// Queries that may give any rows, but a fixed number of them.
const COUNTED: &[&str] =
    &["SELECT * FROM lineitem LIMIT 5", "SELECT l_orderkey FROM lineitem WHERE l_quantity > 5 LIMIT 1000 OFFSET 10"];

async fn check(target: Target, functions_max: u32) {
    let session = open(target, functions_max).await;
    let cases =
        [(ORDERED, Some(Rule::same_engine())), (UNORDERED, Some(Rule::same_engine().in_any_order())), (COUNTED, None)];
    for (queries, rule) in cases {
        for sql in queries {
            let what = format!("{target:?}, at most {functions_max} functions: {sql}");
            let (rows, report) = run(&session, sql).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            let expected = judged(sql).await;
            match rule {
                Some(rule) => {
                    compare(expected, &rows, rule).unwrap_or_else(|difference| panic!("{what}: {difference}"))
                }
                None => assert_eq!(count(&rows), count(expected), "{what}"),
            }
            if target != Target::Local {
                assert_partly_remote(&report, &what);
            }
        }
    }
    session.close().await;
}

fn count(rows: &[RecordBatch]) -> usize {
    rows.iter().map(RecordBatch::num_rows).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_has_datafusions_rows_on_one_function() {
    check(Target::InProcess, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_has_datafusions_rows_on_many_functions() {
    check(Target::InProcess, 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_has_datafusions_rows_on_three_processes() {
    check(Target::Processes, 3).await;
}
