//! Random statements over odd values against DuckDB. `lab odd-values` runs many more.

use std::path::Path;

use gust_tests::odd_values::{CALLS, Verdicts, judge, own_query, query};
use gust_tests::python::{PythonEnvironment, TESTS, environment};

const SEEDS: u64 = 300;

/// Differences of one reason that are allowed, however many statements agree.
const DIFFERENCES_MAX: usize = 15;

/// Statements around each of our functions.
const OF_EACH: u64 = 3;

/// Judges statements. None where DuckDB is missing.
async fn judged(seeds: Vec<(u64, gust_tests::odd_values::Query)>) -> Option<Verdicts> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if let PythonEnvironment::Missing(reason) = environment(cache, TESTS).expect("a folder") {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI does not skip: DuckDB is missing: {reason}");
        eprintln!("skipped: {reason}");
        return None;
    }
    let bootstrap = Path::new(env!("CARGO_BIN_EXE_bootstrap_under_test"));
    Some(Box::pin(judge(seeds, 2, bootstrap, cache)).await.expect("judged"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_function_of_ours_is_the_same_everywhere() {
    let seeds = 0..OF_EACH * CALLS.len() as u64;
    let count = seeds.end as usize;
    let Some(judged) = judged(seeds.map(|seed| (seed, own_query(seed))).collect()).await else { return };
    assert!(judged.failures.is_empty(), "{} fail:\n{}", judged.failures.len(), judged.failures.join("\n\n"));
    assert!(judged.agreed == count && judged.remote * 4 > count * 3, "{} of {count}, {}", judged.agreed, judged.remote);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_statements_over_odd_values_have_duckdbs_rows() {
    let Some(judged) = judged((0..SEEDS).map(|seed| (seed, query(seed))).collect()).await else { return };
    assert!(judged.failures.is_empty(), "{} fail:\n{}", judged.failures.len(), judged.failures.join("\n\n"));
    for (reason, count) in &judged.dialect {
        eprintln!("{count}: {reason}");
        assert!(*count <= DIFFERENCES_MAX, "{count} of {SEEDS} differ: {reason}");
    }
    // Most statements must be neither refused nor run without functions.
    assert!(judged.agreed > 270, "only {} agree: {:?}", judged.agreed, judged.dialect);
    assert!(judged.remote > 200, "only {} of {} were read by functions", judged.remote, judged.agreed);
}
