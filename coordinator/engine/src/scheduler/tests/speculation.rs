//! Second attempts beside slow ones: which wins, and what a failure beside another means.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_first_attempt_to_succeed_wins() {
    let started = Instant::now();
    let query = Query::new(16, 120 * SECOND, |index, attempt| match (index, attempt) {
        (7, 0) => (20 * SECOND, Done),
        _ => (SECOND, Done),
    });
    let results = query.run(8).await;
    assert_eq!(*results[7].as_ref().expect("the second attempt"), 1);
    assert!(started.elapsed() <= Duration::from_millis(2600), "{:?}", started.elapsed());
    assert_eq!(query.causes().last(), Some(&(7, 1, AttemptCause::Speculative)));
    // The slow attempt cannot be recalled. It keeps its slot, and is booked when it ends.
    assert_eq!(query.invoker.in_flight.load(Ordering::Relaxed), 1);
    assert_eq!(query.ended(|outcome| matches!(outcome, AttemptOutcome::Done { .. })), 8);
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(query.ended(|outcome| matches!(outcome, AttemptOutcome::Done { .. })), 9);
}

#[tokio::test(start_paused = true)]
async fn a_slow_fragment_gets_three_attempts_at_most() {
    let query = Query::new(200, 120 * SECOND, |index, attempt| match (index, attempt) {
        (99, 0 | 1) | (98, _) => (20 * SECOND, Done),
        _ => (SECOND, Done),
    });
    let results = query.run(100).await;
    assert_eq!((*results[99].as_ref().expect("the third"), *results[98].as_ref().expect("the first")), (2, 0));
    assert_eq!(query.causes().len(), 100 + 2 + 2, "{:?}", &query.causes()[100..]);
}

#[tokio::test(start_paused = true)]
async fn the_slow_attempt_may_win_after_all() {
    let query = Query::new(16, 120 * SECOND, |index, attempt| match (index, attempt) {
        (7, 0) => (3 * SECOND, Done),
        (7, _) => (SECOND, ScriptedOutcome::Invoke(InvokeErrorKind::Crashed)),
        _ => (SECOND, Done),
    });
    assert_eq!(*query.run(8).await[7].as_ref().expect("the first attempt"), 0);
    assert_eq!(query.causes().len(), 9);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_fails_beside_another_uses_up_no_retry() {
    let query = Query::new(16, 120 * SECOND, |index, attempt| match (index, attempt) {
        (7, 0) => (10 * SECOND, ScriptedOutcome::Invoke(InvokeErrorKind::Crashed)),
        (7, 1..4) => (SECOND, ScriptedOutcome::Invoke(InvokeErrorKind::Crashed)),
        _ => (SECOND, Done),
    });
    assert_eq!(*query.run(8).await[7].as_ref().expect("three retries after the first round"), 4);
    let causes: Vec<AttemptCause> = query.causes()[7..].iter().map(|(_, _, cause)| *cause).collect();
    let (first, second, retry) = (AttemptCause::First, AttemptCause::Speculative, AttemptCause::Retry);
    assert_eq!(causes, [first, second, retry, retry, retry]);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_ends_only_its_attempt_while_another_runs() {
    const PERMANENT: ScriptedOutcome = ScriptedOutcome::Fragment(FragmentErrorKind::Execution);
    // The second attempt at the slow fragment begins after 1.5 s.
    let query = Query::new(200, 120 * SECOND, |index, attempt| match (index, attempt) {
        (99, 0) => (3 * SECOND, Done),
        (99, _) => (SECOND, PERMANENT),
        _ => (SECOND, Done),
    });
    assert_eq!(*query.run(100).await[99].as_ref().expect("the first attempt"), 0);
    assert_eq!(query.causes()[100..], [(99, 1, AttemptCause::Speculative)], "a third attempt would fail, too");

    let query = Query::new(16, 120 * SECOND, |index, attempt| match (index, attempt) {
        (7, 0) => (2 * SECOND, PERMANENT),
        (7, _) => (SECOND, Done),
        _ => (SECOND, Done),
    });
    assert_eq!(*query.run(8).await[7].as_ref().expect("the second attempt"), 1);
    assert_eq!(query.causes().len(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_is_the_fragments_if_the_other_attempt_fails_too() {
    let started = Instant::now();
    let query = Query::new(16, 120 * SECOND, |index, attempt| match (index, attempt) {
        (7, 0) => (3 * SECOND, ScriptedOutcome::Invoke(InvokeErrorKind::Crashed)),
        (7, _) => (SECOND, ScriptedOutcome::Fragment(FragmentErrorKind::Execution)),
        _ => (SECOND, Done),
    });
    let failure = query.run(8).await.remove(7).expect_err("both fail");
    assert_eq!(failure.to_string(), "fragment q/0/7 failed after 2 attempts in 3.0 s: Execution");
    assert_eq!((started.elapsed().as_secs(), query.causes().len()), (3, 9), "no retry");
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_does_not_wait_for_an_attempt_that_hangs() {
    fn script(index: u32, attempt: u32, normal: Duration) -> (Duration, ScriptedOutcome) {
        match (index, attempt) {
            (7, 0) => (3600 * SECOND, Done),
            (7, _) => (SECOND / 2, ScriptedOutcome::Fragment(FragmentErrorKind::Execution)),
            _ => (normal, Done),
        }
    }
    // A second attempt begins after 1.5 normal times. It fails, and the first one has as long again.
    let scripts: [(Script, &str); 2] = [
        (|index, attempt| script(index, attempt, SECOND), "3.5"),
        // The deadline's own error would come first otherwise.
        (|index, attempt| script(index, attempt, 10 * SECOND), "19.0"),
    ];
    for (script, seconds) in scripts {
        let query = Query::new(16, 20 * SECOND, script);
        let failure = query.run(8).await.remove(7).expect_err("one hangs, one fails");
        assert_eq!(failure.to_string(), format!("fragment q/0/7 failed after 2 attempts in {seconds} s: Execution"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_takes_back_an_attempt_that_waits() {
    // Both slots are taken when the second attempt at a slow fragment asks for one.
    let query = Query::new(2, 120 * SECOND, |index, _| match index {
        6 => (4 * SECOND, ScriptedOutcome::Fragment(FragmentErrorKind::Execution)),
        7 => (6 * SECOND, Done),
        _ => (SECOND, Done),
    });
    let results = query.run(8).await;
    assert!(results[6].is_err() && results[7].is_ok(), "{results:?}");
    let attempts = query.causes().into_iter().filter(|(index, ..)| *index == 6);
    assert_eq!(attempts.collect::<Vec<_>>(), [(6, 0, AttemptCause::First)]);
}

#[tokio::test(start_paused = true)]
async fn a_function_that_hangs_is_replaced_in_time() {
    let started = Instant::now();
    let query = Query::new(1, 600 * SECOND, |_, attempt| match attempt {
        0 | 1 => (3600 * SECOND, Done),
        _ => (SECOND, Done),
    });
    assert_eq!(*query.run(1).await[0].as_ref().expect("the third attempt"), 2);
    assert!(started.elapsed() < 100 * SECOND, "30 s, then twice that: {:?}", started.elapsed());
    let failure = Query::new(1, 20 * SECOND, |_, _| (3600 * SECOND, Done)).run(1).await.remove(0);
    assert_eq!(failure.expect_err("the query has no more time").attempts, 1);
}
