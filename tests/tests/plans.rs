//! Output of EXPLAIN: the cuts of plans, the parts that functions run, the packing of files, and the first to run out of memory.
//!
//! Snapshots lie in `snapshots/`, with sizes, times, estimates and file lists redacted. A changed plan fails here. To
//! accept it, run `INSTA_UPDATE=always cargo test --release -p gust-tests plans::`, and look at the difference.

use std::path::Path;
use std::sync::Arc;

use gust::demo::tables::{CATALOG, ensure_tables};
use gust_engine::config::{CatalogConfig, Config, JoinPlace, ShufflePlace, Target};
use gust_engine::session::Session;
use gust_tests::query::{plain, run};
use gust_tests::tpch;
use tempfile::TempDir;

const TPCH: &[(&str, &str)] = &[
    ("aggregate", "SELECT l_returnflag, sum(l_quantity) FROM lineitem WHERE l_shipdate < date '1995-01-01' GROUP BY 1"),
    ("average", "SELECT avg(l_extendedprice), avg(CAST(l_tax AS DOUBLE)) FROM lineitem"),
    ("count_distinct", "SELECT l_shipmode, count(DISTINCT l_suppkey) FROM lineitem GROUP BY 1"),
    ("approx_distinct", "SELECT approx_distinct(l_orderkey) FROM lineitem WHERE l_quantity > 10"),
    ("top_k", "SELECT o_orderkey FROM orders ORDER BY o_totalprice DESC LIMIT 10"),
    ("limit", "SELECT l_comment FROM lineitem WHERE l_quantity > 5 LIMIT 20"),
    ("sort", "SELECT n_name FROM nation ORDER BY n_name"),
    ("join", "SELECT n_name, count(*) FROM supplier JOIN nation ON s_nationkey = n_nationkey GROUP BY 1"),
    (
        "semi_join",
        "SELECT c_name FROM customer WHERE c_custkey IN (SELECT o_custkey FROM orders WHERE o_totalprice > 4e5)",
    ),
    ("window", "SELECT o_orderkey, rank() OVER (PARTITION BY o_custkey ORDER BY o_totalprice) FROM orders"),
    ("union", "SELECT n_nationkey FROM nation UNION ALL SELECT s_suppkey FROM supplier WHERE s_acctbal > 0"),
    (
        "union_aggregate",
        "SELECT k % 2, count(*) FROM (SELECT n_nationkey AS k FROM nation UNION ALL SELECT s_suppkey FROM supplier) GROUP BY 1",
    ),
    ("scalar_subquery", "SELECT count(*) FROM orders WHERE o_totalprice > (SELECT avg(o_totalprice) FROM orders)"),
    ("no_scan", "SELECT 1 + 1"),
    ("from_statistics", "SELECT count(*) FROM lineitem"),
];

/// Opens a session whose plans do not depend on the machine's cores.
async fn session(config: Config) -> Session {
    let session = Session::new(config).expect("a session");
    run(&session, "SET datafusion.execution.target_partitions = 2").await.expect("a setting");
    session
}

fn config() -> Config {
    Config { on: Target::InProcess, functions_max: 3, memory_bytes_max: 2 << 30, ..Config::default() }
}

async fn with_tpch(config: Config) -> Session {
    let tables = tpch::tables(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("TPC-H data");
    let session = session(config).await;
    for statement in tables.create_statements() {
        run(&session, &statement).await.expect("setup");
    }
    session
}

pub(crate) async fn explain(session: &Session, sql: &str) -> String {
    let statement = session.parse(sql).expect("SQL").remove(0);
    session.explain(statement).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Compares an explained query with the snapshot of that name.
async fn check(session: &Session, name: &str, sql: &str) {
    let explained = explain(session, sql).await;
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(sql);
    // The memory that is held follows from sizes and is redacted. The memory that is allowed is a setting and stays.
    settings.add_filter(r"holds about [\d.]+ (B|[KMG]iB)", "holds about [size]");
    settings.add_filter(r"[\d.]+ (B|KiB|MiB)\b", "[size]");
    settings.add_filter(r"[\d.]+ s (local|on)", "[time] $1");
    settings.add_filter(r": \d+ % of", ": [share] of");
    settings.add_filter(r"file_groups=\{(\d+) groups?: \[.*?\]\}", "file_groups={$1}");
    settings.bind(|| insta::assert_snapshot!(name, explained));
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_over_tpch_are_those_of_the_snapshots() {
    let session = with_tpch(config()).await;
    for (name, sql) in TPCH {
        check(&session, name, sql).await;
    }
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_in_functions_are_those_of_the_snapshots() {
    let session = with_tpch(Config { join: JoinPlace::Broadcast, ..config() }).await;
    check(
        &session,
        "broadcast_star",
        "SELECT r_name, count(*) FROM supplier JOIN nation ON s_nationkey = n_nationkey JOIN region ON n_regionkey = r_regionkey GROUP BY 1",
    )
    .await;
    check(
        &session,
        "broadcast_semi",
        "SELECT o_orderkey FROM orders WHERE o_custkey IN (SELECT c_custkey FROM customer WHERE c_acctbal > 9000) ORDER BY o_totalprice DESC LIMIT 5",
    )
    .await;
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_between_functions_are_those_of_the_snapshots() {
    let session = with_tpch(Config { shuffle: ShufflePlace::Hash, ..config() }).await;
    check(
        &session,
        "shuffle_join",
        "SELECT o_orderpriority, count(*) FROM orders JOIN lineitem ON o_orderkey = l_orderkey GROUP BY 1",
    )
    .await;
    check(
        &session,
        "shuffle_kept",
        "SELECT k, count(*) FROM (SELECT n_nationkey AS k FROM nation UNION ALL SELECT s_suppkey FROM supplier) GROUP BY 1",
    )
    .await;
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_plan_is_that_of_the_snapshot() {
    let session = with_tpch(Config { on: Target::Local, ..config() }).await;
    check(&session, "local", TPCH[0].1).await;
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_over_partition_folders_is_that_of_the_snapshot() {
    let folder = TempDir::new().expect("a temporary folder");
    for (year, rows) in [(2022, 10), (2023, 2000), (2024, 3000)] {
        let copy = format!(
            "COPY (SELECT value AS k, value % 9 AS g FROM generate_series(1, {rows})) TO '{}/t/year={year}/a.parquet' STORED AS PARQUET",
            folder.path().display()
        );
        plain(&[], &copy).await;
    }
    let session = session(config()).await;
    let create = format!(
        "CREATE EXTERNAL TABLE t (k BIGINT, g BIGINT, year INT) STORED AS PARQUET PARTITIONED BY (year) LOCATION '{}/t/'",
        folder.path().display()
    );
    run(&session, &create).await.expect("setup");
    check(&session, "hive_partitions", "SELECT year, g, count(*) FROM t WHERE year >= 2023 AND g < 5 GROUP BY 1, 2")
        .await;
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_over_iceberg_is_that_of_the_snapshot() {
    let home = TempDir::new().expect("a temporary folder");
    let tables = ensure_tables(home.path(), 0.001, Arc::new(|_, _| {})).await.expect("the demo's tables");
    let catalog = CatalogConfig::sqlite(tables.database, tables.warehouse);
    let mut config = config();
    config.catalogs.insert(CATALOG.to_owned(), catalog);
    let session = session(config).await;
    session.use_catalog(CATALOG).await.expect("the catalog");
    let sql = "SELECT l_shipmode, max(l_tax) FROM lineitem WHERE l_shipdate > date '1997-06-01' GROUP BY 1";
    check(&session, "iceberg_table", sql).await;
    session.close().await;
}

/// Returns the line about the coordinator, the line about a fragment of the first stage, and the verdict.
async fn memory(config: Config, sql: &str) -> (String, String, String) {
    let session = Box::pin(with_tpch(config)).await;
    let explained = Box::pin(explain(&session, sql)).await;
    session.close().await;
    let line = |start: &str| {
        let found = explained.lines().find(|line| line.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("no `{start}` in:\n{explained}")).trim_start().to_owned()
    };
    (line("coordinator  "), line("a fragment holds"), line("memory  "))
}

/// Join that holds its build side: 25 nations of one BIGINT and one text, 25 * (8 + 32) bytes.
const JOIN: &str = "SELECT n_name, s_name FROM nation JOIN supplier ON n_nationkey = s_nationkey";

#[tokio::test(flavor = "multi_thread")]
async fn explain_tells_what_comes_closest_to_its_limit() {
    let (coordinator, fragment, verdict) = memory(config(), JOIN).await;
    assert!(coordinator.ends_with("holds about 1000 B of 2 GiB allowed, mostly in HashJoinExec"), "{coordinator}");
    assert!(fragment.contains("of 2 GiB allowed, mostly in decoding row groups"), "{fragment}");
    assert!(verdict.ends_with("comes closest to its limit: 0 % of 2 GiB"), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_tells_that_the_coordinator_runs_out_of_memory() {
    let (_, _, verdict) = memory(Config { memory_bytes_max: 400, ..config() }, JOIN).await;
    assert_eq!(verdict, "memory       the coordinator is expected to spill or to run out: 250 % of 400 B");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_tells_that_a_fragment_runs_out_of_memory() {
    // The second stage reads lineitem, the first one only nation.
    let sql = "SELECT n_name, l_comment FROM nation JOIN lineitem ON n_nationkey = l_linenumber";
    let config = Config { function_memory_bytes: 100_000, ..config() };
    let (_, fragment, verdict) = memory(config, sql).await;
    assert!(fragment.contains("of 97.66 KiB allowed, mostly in decoding row groups"), "{fragment}");
    assert!(
        verdict.starts_with("memory       a fragment of stage 1 is expected to spill or to run out: "),
        "{verdict}"
    );
    // A sort without a limit holds as much again as it decodes.
    let (_, fragment, _) = memory(config_of(40_000), "SELECT l_comment FROM lineitem ORDER BY l_comment").await;
    assert!(fragment.contains("SortExec"), "{fragment}");
}

fn config_of(function_memory_bytes: u64) -> Config {
    Config { function_memory_bytes, ..config() }
}
