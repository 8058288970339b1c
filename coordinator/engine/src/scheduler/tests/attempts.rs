//! Attempts: their credentials, their end with the query, their numbers.

use super::*;

#[tokio::test(start_paused = true)]
async fn each_attempt_asks_for_credentials_once_it_has_its_slot() {
    let query = Query::new(1, 60 * SECOND, |_, attempt| match attempt {
        0 => (SECOND, ScriptedOutcome::Invoke(InvokeErrorKind::Crashed)),
        _ => (SECOND, Done),
    });
    let stage = query.attempts.stage(vec![SECOND; 2]);
    let (started, asked) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let runs = (0..2).map(|index| {
        let asked = Arc::clone(&asked);
        let mut fragment = fragment_with(&stage, index, move || {
            asked.lock().expect("no panic").push((index, started.elapsed().as_secs()));
            async { Ok(AccessTable::default()) }.boxed()
        });
        async move { fragment.result().await.map(|adopted| adopted.attempt) }
    });
    let ended = futures::future::join_all(runs).await;
    assert!(ended.iter().all(|attempt| attempt.as_ref().is_ok_and(|attempt| *attempt == 1)), "{ended:?}");
    // One slot: the other fragment asks when it is free, not when it stood in line.
    let mut asked = asked.lock().expect("no panic").clone();
    asked.sort_by_key(|(_, second)| *second);
    assert_eq!(asked.iter().map(|(_, second)| *second).collect::<Vec<_>>(), [0, 1, 2, 3], "{asked:?}");

    let query = Query::new(1, 60 * SECOND, |_, _| (SECOND, Done));
    let stage = query.attempts.stage(vec![SECOND]);
    let mut refused = fragment_with(&stage, 0, || {
        async { Err(DataFusionError::External("the catalog lends nothing".into())) }.boxed()
    });
    let failure = refused.result().await.expect_err("no credentials");
    assert_eq!((failure.attempts, query.causes().len()), (0, 0), "no attempt is booked");
    assert!(failure.to_string().contains("before its first attempt: External error: the catalog lends nothing"));
}

#[tokio::test(start_paused = true)]
async fn attempts_that_run_at_a_querys_end_are_cancelled() {
    let query = Query::new(4, 60 * SECOND, |_, _| (10 * SECOND, Done));
    let run = tokio::time::timeout(SECOND, query.run(8));
    assert!(run.await.is_err(), "given up");
    query.attempts.close();
    assert_eq!(query.ended(|outcome| matches!(outcome, AttemptOutcome::Cancelled)), 4);
    // Their deadlines are the first attempt's 30 s, and the grace is billed on top.
    for stamped in query.events.snapshot() {
        if let QueryEvent::AttemptEnded { billing, .. } = stamped.event {
            assert_eq!(billing, Billing::Bounded { at_most: 31 * SECOND });
        }
    }
    // The next query waits for the slots of the last one, because its functions still run.
    let started = Instant::now();
    let next = query.scheduler.query(EventLog::start(), Clock::start(), Instant::now() + 60 * SECOND, None);
    fragment(&next.stage(vec![SECOND]), 0).result().await.expect("done");
    assert!(started.elapsed() >= 18 * SECOND, "{:?}", started.elapsed());
    query.attempts.all_ended().await;
    assert_eq!(query.ended(|_| true), 4, "no attempt is closed twice");
    assert_eq!(query.invoker.in_flight_peak.load(Ordering::Relaxed), 4);
}

#[test]
fn no_run_of_a_stage_has_the_numbers_of_another() {
    let numbers = AttemptNumbers::new(2);
    let first_runs: Vec<_> = (0..100_000).map(|_| numbers.clone().next(1)).collect();
    assert_eq!(first_runs, (0..100_000).map(Some).collect::<Vec<_>>());
    assert_eq!((numbers.next(0), numbers.next(1), numbers.next(2)), (Some(0), Some(100_000), None));
    numbers.0[0].store(u32::MAX - 1, Ordering::Relaxed);
    assert_eq!((numbers.next(0), numbers.next(0), numbers.next(0)), (Some(u32::MAX - 1), None, None));
}
