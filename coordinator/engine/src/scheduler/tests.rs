//! Scheduler against an invoker with a script, under paused time.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;

use async_trait::async_trait;
use datafusion::common::DataFusionError;
use futures::FutureExt;
use futures::future::BoxFuture;
use gust_protocol::version::{PROTOCOL_VERSION, fingerprint};
use gust_protocol::{
    AccessTable, AheadBounds, Base64, Fragment, FragmentError, FragmentErrorKind, FragmentLimits, FragmentResponse,
    FragmentResult, InvokeRequest, Output, PlanRef, StagePlan, StreamSummary, Usage,
};

use super::*;
use crate::attempt::{Billing, Invocation, InvokeError, InvokeErrorKind};
use crate::cap::AttemptWork;
use crate::cost::{Architecture, PriceBook, Tariff};
use crate::events::{AttemptCause, AttemptOutcome, QueryEvent};
use crate::money::Money;

const SECOND: Duration = Duration::from_secs(1);

/// Script of attempts: duration and outcome by fragment and number.
type Script = fn(u32, u32) -> (Duration, ScriptedOutcome);

#[derive(Debug, Clone, Copy)]
enum ScriptedOutcome {
    Done,
    Fragment(FragmentErrorKind),
    Invoke(InvokeErrorKind),
}

use ScriptedOutcome::Done;

struct Scripted {
    script: Script,
    clock: Clock,
    in_flight: AtomicU32,
    in_flight_peak: AtomicU32,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

#[async_trait]
impl Invoker for Scripted {
    async fn invoke(&self, request: InvokeRequest) -> Invocation {
        let InvokeRequest { fragment, attempt, deadline_unix_ms, .. } = request;
        let (takes, scripted) = (self.script)(fragment.id.index, attempt);
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.in_flight_peak.fetch_max(now, Ordering::Relaxed);
        let started = Instant::now();
        let ends = started + takes;
        let deadline = self.clock.moment(deadline_unix_ms);
        tokio::time::sleep_until(ends.min(deadline)).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let scripted = if ends > deadline { ScriptedOutcome::Invoke(InvokeErrorKind::TimedOut) } else { scripted };
        let part = StreamSummary { bytes: 0, rows: u64::from(attempt), crc32: 0 };
        let respond = |outcome| {
            let (id, usage) = (fragment.id.clone(), Usage::default());
            Ok(FragmentResponse { version: PROTOCOL_VERSION, id, attempt, outcome, usage })
        };
        let outcome = match scripted {
            Done => respond(Ok(FragmentResult::Inline { part, bytes: Base64::default() })),
            ScriptedOutcome::Fragment(kind) => respond(Err(FragmentError::new(kind, format!("{kind:?}")))),
            ScriptedOutcome::Invoke(kind) => Err(InvokeError::new(kind, format!("{kind:?}"))),
        };
        let billing = Billing::Metered { duration: started.elapsed(), init: Duration::ZERO };
        Invocation { outcome, billing, cold: None, log_tail: String::new() }
    }
}

/// A query of one stage, and its traces.
struct Query {
    scheduler: Scheduler,
    invoker: Arc<Scripted>,
    attempts: QueryAttempts,
    events: EventLog,
}

impl Query {
    fn new(in_flight_max: usize, deadline: Duration, script: Script) -> Self {
        Self::with_cap(in_flight_max, deadline, script, None)
    }

    fn with_cap(in_flight_max: usize, deadline: Duration, script: Script, cap: Option<Arc<Cap>>) -> Self {
        let clock = Clock::start();
        let (in_flight, in_flight_peak) = Default::default();
        let invoker = Arc::new(Scripted { script, clock, in_flight, in_flight_peak });
        let settings = SchedulerSettings::new(in_flight_max, 7);
        let scheduler = Scheduler::new(Arc::clone(&invoker) as _, Arc::default(), settings);
        let events = EventLog::start();
        let attempts = scheduler.query(events.clone(), clock, Instant::now() + deadline, cap);
        Self { scheduler, invoker, attempts, events }
    }

    async fn run(&self, fragments: u32) -> Vec<Result<u32, FragmentFailure>> {
        let stage = self.attempts.stage(vec![SECOND; fragments as usize]);
        let runs = (0..fragments).map(|index| {
            let mut fragment = fragment(&stage, index);
            async move { fragment.result().await.map(|adopted| adopted.attempt) }
        });
        futures::future::join_all(runs).await
    }

    fn causes(&self) -> Vec<(u32, u32, AttemptCause)> {
        let events = self.events.snapshot().into_iter();
        let started = events.filter_map(|stamped| match stamped.event {
            QueryEvent::AttemptStarted { id, attempt, cause, .. } => Some((id.index, attempt, cause)),
            _ => None,
        });
        started.collect()
    }

    fn ended(&self, wanted: impl Fn(&AttemptOutcome) -> bool) -> usize {
        let events = self.events.snapshot().into_iter();
        let is = |event: &QueryEvent| matches!(event, QueryEvent::AttemptEnded { outcome, .. } if wanted(outcome));
        events.filter(|stamped| is(&stamped.event)).count()
    }
}

fn fragment(stage: &StageAttempts, index: u32) -> FragmentAttempts {
    fragment_with(stage, index, || async { Ok(AccessTable::default()) }.boxed())
}

fn fragment_with(
    stage: &StageAttempts,
    index: u32,
    access: impl Fn() -> BoxFuture<'static, Result<AccessTable, DataFusionError>> + Send + Sync + 'static,
) -> FragmentAttempts {
    let id = FragmentId { query: "q".to_owned(), stage: 0, index };
    let limits = FragmentLimits {
        memory_bytes_max: 1,
        temp_bytes_max: 1,
        inline_bytes_max: 1,
        bridge_bytes: 1,
        ahead: AheadBounds::default(),
        late_columns_percent_max: 0,
    };
    let request = {
        let id = id.clone();
        move |AttemptStamp { attempt, deadline_unix_ms }, access| InvokeRequest {
            version: PROTOCOL_VERSION,
            fingerprint: fingerprint().to_owned(),
            fragment: Fragment { id: id.clone(), inputs: Vec::new(), parts: Vec::new(), limits },
            attempt,
            deadline_unix_ms,
            access,
            stage: StagePlan {
                plan: PlanRef::Inline(Base64::default()),
                leaves: Vec::new(),
                scalars: Vec::new(),
                shared: Vec::new(),
                output: Output::Gather { access: 0, prefix: String::new() },
                options: BTreeMap::new(),
            },
        }
    };
    stage.fragment(
        id,
        AttemptNumbers::new(index as usize + 1),
        FragmentNeeds { bytes: 1, work: AttemptWork::default() },
        AttemptRequests { access: Box::new(access), request: Box::new(request) },
    )
}

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

#[test]
fn no_run_of_a_stage_has_the_numbers_of_another() {
    let numbers = AttemptNumbers::new(2);
    let first_runs: Vec<_> = (0..100_000).map(|_| numbers.clone().next(1)).collect();
    assert_eq!(first_runs, (0..100_000).map(Some).collect::<Vec<_>>());
    assert_eq!((numbers.next(0), numbers.next(1), numbers.next(2)), (Some(0), Some(100_000), None));
    numbers.0[0].store(u32::MAX - 1, Ordering::Relaxed);
    assert_eq!((numbers.next(0), numbers.next(0), numbers.next(0)), (Some(u32::MAX - 1), None, None));
}
