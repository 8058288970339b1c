//! Random statements over odd values against DuckDB. `lab odd-values` runs many more.

use std::path::Path;

use gust_tests::odd_values::judge;
use gust_tests::python::{PythonEnvironment, TESTS, environment};

const SEEDS: u64 = 300;

/// Differences of one reason that are allowed, however many statements agree.
const DIFFERENCES_MAX: usize = 15;

#[tokio::test(flavor = "multi_thread")]
async fn random_statements_over_odd_values_have_duckdbs_rows() {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if let PythonEnvironment::Missing(reason) = environment(cache, TESTS).expect("a folder") {
        assert!(std::env::var("CI").is_err(), "DuckDB is missing: {reason}");
        eprintln!("skipped: {reason}");
        return;
    }
    let judged =
        judge(0..SEEDS, 2, Path::new(env!("CARGO_BIN_EXE_bootstrap_under_test")), cache).await.expect("judged");
    assert!(judged.failures.is_empty(), "{} fail:\n{}", judged.failures.len(), judged.failures.join("\n\n"));
    for (reason, count) in &judged.dialect {
        eprintln!("{count}: {reason}");
        assert!(*count <= DIFFERENCES_MAX, "{count} of {SEEDS} differ: {reason}");
    }
    // Most statements must be neither refused nor run without functions.
    assert!(judged.agreed > 270, "only {} agree: {:?}", judged.agreed, judged.dialect);
    assert!(judged.remote > 200, "only {} of {} were read by functions", judged.remote, judged.agreed);
}
