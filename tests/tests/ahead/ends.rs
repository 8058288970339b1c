//! Statements that are dropped, and stores that fail.

use gust_tests::s3::StorageFault;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_statement_leaves_nothing() {
    let lake = Lake::open(local()).await;
    lake.slow(50.0, Faults::default());
    for (number, wait_ms) in [(1, 0), (1, 60), (5, 0), (5, 30), (21, 90), (9, 160)] {
        let statement = lake.session.parse(queries::query(number)).expect("SQL").pop().expect("a statement");
        let mut running = lake.session.run(statement).await.expect("started");
        let _ = tokio::time::timeout(Duration::from_millis(wait_ms), running.next()).await;
        drop(running);
        let what = format!("query {number} after {wait_ms} ms");
        lake.is_clean(&what).await;
        lake.rests().await;
        assert_eq!(lake.server.in_flight(), 0, "{what}");
        lake.server.take_requests();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(lake.server.take_requests().len(), 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_fail_no_query() {
    let lake = Lake::open(local()).await;
    for (faults, fault) in [
        (Faults { slow_down: 0.1, ..Faults::default() }, StorageFault::SlowDown),
        (Faults { reset: 0.1, ..Faults::default() }, StorageFault::Reset),
        (Faults { reset_in_body: 0.1, ..Faults::default() }, StorageFault::ResetInBody),
        (Faults { truncated: 0.05, ..Faults::default() }, StorageFault::Truncated),
    ] {
        lake.slow(1.0, faults);
        let mut failed = Vec::new();
        for number in [1, 3, 6, 14] {
            let expected = plain(&lake.local, queries::query(number)).await;
            match lake.read(queries::query(number)).await {
                Ok(Answer { rows, usage, .. }) => {
                    compare(&expected, &rows, Rule::same_engine()).expect("the rows");
                    // A read that failed was not taken, and was sent once more.
                    let fates = usage.taken_bytes + usage.unused_bytes() + usage.aborted_bytes;
                    let asked = fates..=fates + usage.gap_bytes;
                    assert!(asked.contains(&usage.bytes), "{fault:?}, query {number}: {usage:?}");
                    assert!(usage.aborted_bytes == 0 || usage.missed_bytes > 0, "{fault:?}, query {number}: {usage:?}");
                }
                Err(error) => failed.push((number, error.to_string())),
            }
        }
        // A truncated body that a reader waits for fails it, as without reading ahead. Not each query waits for one.
        assert!(failed.is_empty() || fault == StorageFault::Truncated && failed.len() < 4, "{fault:?}: {failed:?}");
        assert!(lake.server.fired().contains_key(&fault), "{fault:?} did not fire");
    }
}
