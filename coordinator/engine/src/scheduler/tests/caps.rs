//! Attempts under a query's cap.

use super::*;
use crate::cost::{Architecture, PriceBook, Tariff};
use crate::money::Money;

/// Cap for functions with 2 GB. The shortest attempt may take 3 s and a grace of one, which is 133,534 nano-dollars
/// with its invocation.
fn cap(nano_dollars: u64, fragments: u64) -> Option<Arc<Cap>> {
    let tariff = Tariff {
        book: PriceBook::of_region("us-east-1").expect("a book"),
        architecture: Architecture::X86,
        memory_mb: 2048,
        as_if: false,
        coordinator_hour: None,
        coordinator_outside: Some(false),
        stale: None,
    };
    Some(Cap::new(Money::from_nano_dollars(nano_dollars), tariff, fragments, |_| Money::ZERO))
}

fn is_over_cap(result: &Result<u32, FragmentFailure>) -> bool {
    matches!(result, Err(FragmentFailure { cause: FailureCause::Cap(_), .. }))
}

#[tokio::test(start_paused = true)]
async fn a_low_cap_runs_fewer_attempts_at_once() {
    // Each of the eight takes a second and 33,533 nano-dollars. The cap has room for two or three worst cases at once.
    let query = Query::with_cap(8, 60 * SECOND, |_, _| (SECOND, Done), cap(400_000, 8));
    let results = query.run(8).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(query.invoker.in_flight_peak.load(Ordering::Relaxed), 2);
    let rich = Query::with_cap(8, 60 * SECOND, |_, _| (SECOND, Done), cap(8 * 200_000, 8));
    assert!(rich.run(8).await.iter().all(Result::is_ok));
    assert_eq!(rich.invoker.in_flight_peak.load(Ordering::Relaxed), 8, "nobody waits");
}

#[tokio::test(start_paused = true)]
async fn no_attempt_starts_above_the_cap() {
    let query = Query::with_cap(8, 60 * SECOND, |_, _| (SECOND, Done), cap(250_000, 8));
    let results = query.run(8).await;
    let done = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(results.iter().filter(|result| is_over_cap(result)).count(), 8 - done, "{results:?}");
    assert_eq!(query.causes().len(), done);
    // The rest is less than the worst case of another attempt.
    let left = 250_000 - 13_200 - done as u64 * 33_533;
    assert!((100_000..133_534).contains(&left), "{done} done, {left} left");
}

#[tokio::test(start_paused = true)]
async fn the_cap_bounds_the_time_of_a_function_that_hangs() {
    let started = Instant::now();
    let query = Query::with_cap(1, 600 * SECOND, |_, _| (3600 * SECOND, Done), cap(180_000, 1));
    assert!(is_over_cap(&query.run(1).await[0]));
    assert!(started.elapsed() < 5 * SECOND, "{:?}", started.elapsed());
    assert_eq!(query.causes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn retries_wait_for_money_and_speculation_does_not() {
    let script: Script = |index, attempt| match (index, attempt) {
        (0, 0) => (SECOND / 2, ScriptedOutcome::Invoke(InvokeErrorKind::Crashed)),
        (7, 0) => (2800 * SECOND / 1000, Done),
        _ => (SECOND, Done),
    };
    // All eight begin. The retry of one has money only when others have ended.
    let query = Query::with_cap(16, 60 * SECOND, script, cap(8 * 133_534 + 13_200 + 10_000, 8));
    let results = query.run(8).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let retried = query.events.snapshot().into_iter().find_map(|stamped| match stamped.event {
        QueryEvent::AttemptStarted { cause: AttemptCause::Retry, .. } => Some(stamped.at),
        _ => None,
    });
    assert!(retried.expect("a retry") >= SECOND, "{retried:?}");
    // The slow one had no second attempt while the first ones' worst cases filled the cap.
    let poor = Query::with_cap(
        16,
        60 * SECOND,
        |index, _| match index {
            0..6 => (SECOND, Done),
            _ => (2800 * SECOND / 1000, Done),
        },
        cap(8 * 33_533 + 2 * 133_534 + 13_200, 8),
    );
    poor.run(8).await;
    assert!(poor.causes().iter().all(|(_, _, cause)| *cause != AttemptCause::Speculative), "{:?}", poor.causes());
}

#[tokio::test(start_paused = true)]
async fn a_cap_counts_on_the_fragments_of_a_stages_latest_run() {
    let cap = cap(1_000_000, 8);
    let query = Query::with_cap(8, 60 * SECOND, |_, _| (SECOND, Done), cap.clone());
    // One stage has four of the eight that are planned. The other one does not change.
    let expected = ExpectedFragments::new(4);
    for (fragments, all) in [(1, 5), (1, 5), (0, 4), (0, 4), (4, 8), (6, 10), (1, 5)] {
        query.attempts.expect_fragments(&expected.clone(), fragments);
        assert_eq!(cap.as_deref().map(Cap::fragments), Some(all), "{fragments}");
    }
}
