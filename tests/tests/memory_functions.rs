//! Operators in functions with too little memory, and groups of functions in a coordinator's memory that they do not fit: the same rows or a typed error.

use gust_engine::error::ErrorKind;
use gust_tests::pressure::{Data, MemoryOutcome, PARTS, RunSettings, Short, Tally, queries};
use gust_tests::rollup::{PLACES, Rollup, RollupPlace};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_rows_or_a_typed_error_in_functions() {
    let data = Data::make().await;
    let (mut tally, mut wrong) = (Tally::default(), Vec::new());
    for (index, query) in queries().iter().enumerate() {
        let short = Short::Functions { copies: index % 3 == 2 };
        let run_settings = RunSettings { short, partitions: [2, 3, 8][index % 3], part: 1, views: index % 4 < 2 };
        let plenty = data.plenty(query, run_settings).await.unwrap_or_else(|error| panic!("{}: {error}", query.name));
        for part in [PARTS[index % 2], PARTS[2 + index % 2]] {
            match data.under(query, RunSettings { part, ..run_settings }, &plenty).await {
                Ok(outcome) => tally.add(outcome),
                Err(why) => wrong.push(why),
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tally} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    // The limits were felt, and many runs still ended well.
    assert!(tally.count(MemoryOutcome::Spilled) >= 10, "{tally}");
    assert!(tally.count(MemoryOutcome::Refused) >= 20, "{tally}");
}

/// `lab rollup` has two million rows with 500,000 groups in 256 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn ranks_over_grouping_sets_pass_with_functions_where_they_pass_locally() {
    let rollup = Rollup::make(100_000, 25_000).await;
    assert!(rollup.rows() >= 1_001, "{}", rollup.rows());
    for place in PLACES {
        for run in 0..3 {
            let what = format!("{place:?}, run {run}");
            let report = rollup.run(place, 20 << 20).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(report.fell_back, None, "{what}");
            assert_eq!(report.fragments_adopted > 0, place != RollupPlace::Local, "{what}: {report:?}");
        }
    }
    let error = rollup.run(RollupPlace::Local, 100_000).await.map(drop).expect_err("it cannot fit");
    assert_eq!(error.kind(), ErrorKind::Resources, "{error}");
}
