//! Attempts that fail, are throttled, or have results that cannot be read.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_retryable_failure_is_tried_four_times() {
    let started = Instant::now();
    let query = Query::new(8, 60 * SECOND, |_, attempt| match attempt {
        0 => (Duration::ZERO, ScriptedOutcome::Invoke(InvokeErrorKind::Crashed)),
        _ => (Duration::ZERO, Done),
    });
    assert_eq!(query.run(1).await[0].as_ref().expect("the second attempt"), &1);
    assert!(started.elapsed() <= Duration::from_millis(110), "{:?}", started.elapsed());
    assert_eq!(query.causes(), [(0, 0, AttemptCause::First), (0, 1, AttemptCause::Retry)]);

    let started = Instant::now();
    let query =
        Query::new(8, 60 * SECOND, |_, _| (3 * SECOND, ScriptedOutcome::Fragment(FragmentErrorKind::StorageThrottled)));
    let failure = query.run(1).await.remove(0).expect_err("it never works");
    assert_eq!((failure.attempts, query.causes().len()), (4, 4));
    let elapsed = started.elapsed();
    assert!(elapsed == failure.elapsed && (12 * SECOND..13 * SECOND).contains(&elapsed), "{elapsed:?}");
    let told = format!("fragment q/0/0 failed after 4 attempts in {:.1} s: StorageThrottled", elapsed.as_secs_f64());
    assert_eq!(failure.to_string(), told);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_ends_the_fragment_at_once() {
    for outcome in
        [ScriptedOutcome::Fragment(FragmentErrorKind::Execution), ScriptedOutcome::Invoke(InvokeErrorKind::NotDeployed)]
    {
        let script: Script = match outcome {
            ScriptedOutcome::Fragment(_) => {
                |_, _| (Duration::ZERO, ScriptedOutcome::Fragment(FragmentErrorKind::Execution))
            }
            _ => |_, _| (Duration::ZERO, ScriptedOutcome::Invoke(InvokeErrorKind::NotDeployed)),
        };
        let query = Query::new(8, 60 * SECOND, script);
        assert_eq!(query.run(1).await.remove(0).expect_err("it never works").attempts, 1, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_retry_budget_bounds_a_query_that_fails_everywhere() {
    let query =
        Query::new(100, 60 * SECOND, |_, _| (Duration::ZERO, ScriptedOutcome::Invoke(InvokeErrorKind::Crashed)));
    let failures = query.run(100).await;
    assert!(failures.iter().all(Result::is_err));
    assert_eq!(query.causes().len(), 100 + 30, "a budget of 10 and a fifth of the fragments");
    let told = failures.into_iter().filter_map(Result::err).find(|failure| failure.retries_used_up);
    assert!(told.expect("some had no retry").to_string().contains("the query's retries are used up"));
}

#[tokio::test(start_paused = true)]
async fn throttles_are_no_failures_but_end_with_the_deadline() {
    let query = Query::new(64, 120 * SECOND, |_, attempt| match attempt {
        0..10 => (Duration::ZERO, ScriptedOutcome::Invoke(InvokeErrorKind::Throttled)),
        _ => (SECOND, Done),
    });
    let results = query.run(4).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let started = Instant::now();
    let query =
        Query::new(64, 20 * SECOND, |_, _| (Duration::ZERO, ScriptedOutcome::Invoke(InvokeErrorKind::Throttled)));
    let failure = query.run(1).await.remove(0).expect_err("it never works");
    assert!(matches!(&failure.cause, FailureCause::Invoke(error) if error.kind == InvokeErrorKind::Throttled));
    assert!(started.elapsed() <= 21 * SECOND, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn throttles_lower_the_attempts_in_flight() {
    // The platform takes 20 at a time, though it is asked for 200.
    static BUSY: AtomicU32 = AtomicU32::new(0);
    #[derive(Debug)]
    struct Small;
    #[async_trait]
    impl Invoker for Small {
        async fn invoke(&self, request: InvokeRequest) -> Invocation {
            let (id, attempt) = (request.fragment.id, request.attempt);
            let billing = Billing::Metered { duration: Duration::ZERO, init: Duration::ZERO };
            let invocation = |outcome| Invocation { outcome, billing, cold: None, log_tail: String::new() };
            if BUSY.fetch_add(1, Ordering::Relaxed) >= 20 {
                BUSY.fetch_sub(1, Ordering::Relaxed);
                return invocation(Err(InvokeError::new(InvokeErrorKind::Throttled, "429")));
            }
            tokio::time::sleep(SECOND).await;
            BUSY.fetch_sub(1, Ordering::Relaxed);
            let part = StreamSummary { bytes: 0, rows: 0, crc32: 0 };
            let outcome = Ok(FragmentResult::Inline { part, bytes: Base64::default() });
            let usage = Usage::default();
            invocation(Ok(FragmentResponse { version: PROTOCOL_VERSION, id, attempt, outcome, usage }))
        }
    }
    let events = EventLog::start();
    let scheduler = Scheduler::new(Arc::new(Small), Arc::default(), SchedulerSettings::new(200, 1));
    let attempts = scheduler.query(events.clone(), Clock::start(), Instant::now() + 300 * SECOND, None);
    let stage = attempts.stage(vec![SECOND; 400]);
    let started = Instant::now();
    let runs = (0..400).map(|index| {
        let mut fragment = fragment(&stage, index);
        async move { fragment.result().await.is_ok() }
    });
    assert!(futures::future::join_all(runs).await.into_iter().all(|is_ok| is_ok));
    let attempts = events.snapshot().iter().filter(|s| matches!(s.event, QueryEvent::AttemptStarted { .. })).count();
    assert!(started.elapsed() <= 40 * SECOND, "twice the best of 20 s: {:?}", started.elapsed());
    assert!(attempts <= 1600, "{attempts} attempts for 400 fragments");
}

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_read_is_made_again() {
    let query = Query::new(4, 60 * SECOND, |_, _| (SECOND, Done));
    let stage = query.attempts.stage(vec![SECOND]);
    let mut fragment = fragment(&stage, 0);
    let first = fragment.result().await.expect("done").attempt;
    let second = fragment.refuse("torn".to_owned()).await.expect("done").attempt;
    assert_eq!((first, second), (0, 1));
    let mut refused = 1;
    let failure = loop {
        refused += 1;
        match fragment.refuse(format!("torn {refused}")).await {
            Ok(_) => {}
            Err(failure) => break failure,
        }
    };
    assert_eq!((refused, failure.to_string().as_str()), (4, "fragment q/0/0 failed after 4 attempts in 4.4 s: torn 4"));
}
