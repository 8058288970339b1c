use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use gust_protocol::version::PROTOCOL_VERSION;
use gust_protocol::{
    Base64, FragmentError, FragmentErrorKind, FragmentId, FragmentResponse, FragmentResult, Requests, StreamSummary,
    Usage,
};

use super::*;
use crate::attempt::{Billing, Invocation, InvokeError, InvokeErrorKind};

const SECOND: Duration = Duration::from_secs(1);

fn tariff() -> Tariff {
    Tariff { as_if: false, ..Tariff::of_tests() }
}

const fn nano(nano_dollars: u64) -> Money {
    Money::from_nano_dollars(nano_dollars)
}

/// Price of two gigabytes for a second in nano-dollars: 2 × 16,666.7.
const GB2_SECOND: f64 = 33_333.4;
const INVOCATION: u64 = 200;
const GET: u64 = 400;
const PUT: u64 = 5_000;

/// Price of an attempt of 3 s and the grace of one second, by hand.
const SHORTEST: u64 = 133_334 + INVOCATION;

fn request(expected: Duration) -> AttemptRequest {
    AttemptRequest { work: AttemptWork::default(), expected, time_max: 30 * SECOND, timed_out: 0 }
}

fn cap_of(limit: u64, fragments: u64) -> Arc<Cap> {
    Cap::new(nano(limit), tariff(), fragments, |_| Money::ZERO)
}

/// Money set aside: a read of each result, and two listings.
const fn aside(fragments: u64) -> u64 {
    fragments * GET + 2 * PUT
}

fn answered(billing: Billing, outcome: Result<FragmentResult, FragmentError>, usage: Usage) -> Invocation {
    let id = FragmentId { query: "q".to_owned(), stage: 0, index: 0 };
    let response = FragmentResponse { version: PROTOCOL_VERSION, id, attempt: 0, outcome, usage };
    Invocation { outcome: Ok(response), billing, cold: None, log_tail: String::new() }
}

fn failed(billing: Billing) -> Invocation {
    let error = InvokeError::new(InvokeErrorKind::Unavailable, "lost");
    Invocation { outcome: Err(error), billing, cold: None, log_tail: String::new() }
}

fn metered(duration: Duration) -> Billing {
    Billing::Metered { duration, init: Duration::ZERO }
}

fn spent(cap: &Cap) -> u64 {
    cap.spent(&cap.lock()).nano_dollars()
}

fn reserved(cap: &Cap) -> u64 {
    cap.lock().reserved.nano_dollars()
}

#[test]
fn the_worst_case_includes_the_grace_and_all_requests() {
    let cap = cap_of(1_000_000_000, 1);
    let work = AttemptWork { reads: 10, writes: 3, answer_bytes: 1 << 30 };
    let check = |time: Duration, seconds: f64| {
        let expect = (seconds * GB2_SECOND).round() as u64 + INVOCATION + 10 * GET + 3 * PUT;
        assert_eq!(cap.worst_case(time, &work).cost(&cap.tariff).nano_dollars(), expect, "{time:?}");
    };
    check(10 * SECOND, 11.0);
    // A start is billed even if the deadline came first.
    check(SECOND, 4.0);
    assert_eq!(cap.worst_case(SECOND, &AttemptWork::default()).cost(&cap.tariff).nano_dollars(), SHORTEST);
}

#[test]
fn a_fragments_requests_have_a_bound() {
    // Requests for four units of 64 MiB together: plan, footers, a read per MiB, a hedge. A result of 32 MiB goes in
    // parts of 8 MiB.
    let work = AttemptWork::of_fragment(4, 64 << 20, 7, 1 << 20);
    assert_eq!(work, AttemptWork { reads: 1 + 16 + 64 + 1, writes: 2 + 4, answer_bytes: 7 });
    assert_eq!(
        AttemptWork::of_fragment(1, 1, 0, 1 << 20),
        AttemptWork { reads: 1 + 4 + 1 + 1, writes: 1, answer_bytes: 0 }
    );
}

#[test]
fn affordable_time_costs_at_most_the_amount() {
    let cap = cap_of(1, 1);
    for (amount, work) in [(SHORTEST, 0), (200_000, 3), (385_867, 7), (50_000_000, 0), (50_000_001, 90)] {
        let work = AttemptWork { reads: work, writes: work, answer_bytes: 0 };
        let cost = |time| cap.worst_case(time, &work).cost(&cap.tariff).nano_dollars();
        match cap.affordable(nano(amount), &work) {
            Some(time) => {
                assert!(cost(time) <= amount, "{time:?} for {amount}");
                assert!(cost(time + time / 10_000 + 5 * SECOND / 1_000) > amount, "{time:?} for {amount}");
            }
            None => assert!(cost(TIME_MIN) + 67 > amount, "{amount} affords nothing"),
        }
    }
}

#[test]
fn a_cap_below_the_lower_bound_refuses_the_query() {
    // Compute is 3 × 2 GB × 1 ms = 100.0002, beside three invocations and two reads.
    assert_eq!(lower_bound(3, 2, &tariff()), nano(100 + 3 * INVOCATION + 2 * GET));
    let cap = cap_of(1_499, 3);
    let refused = cap.allow(lower_bound(3, 2, &tariff())).expect_err("a nano-dollar too little");
    assert_eq!(refused.to_string(), "not run: it costs at least $0.000001500, and the cap is $0.000001499");
    assert_eq!(refused.hint(), "allow more with --max-cost, or read less");
    cap.allow(nano(1_499)).expect("just enough");
    Cap::new(Money::ZERO, tariff(), 0, |_| Money::ZERO).allow(Money::ZERO).expect("what is free may run");
}

#[tokio::test(start_paused = true)]
async fn reservations_are_granted_in_order_within_the_cap() {
    let cap = cap_of(2 * SHORTEST + 1_000 + aside(4), 4);
    let first = cap.reserve(request(SECOND)).await.expect("there is money").begun();
    let second = cap.reserve(request(SECOND)).await.expect("there is money").begun();
    assert_eq!((reserved(&cap), first.time()), (2 * SHORTEST, TIME_MIN));
    let mut third = Box::pin(cap.reserve(request(SECOND)));
    let mut fourth = Box::pin(cap.reserve(request(SECOND)));
    assert!((&mut third).now_or_never().is_none() && (&mut fourth).now_or_never().is_none());
    assert!(cap.reserve_at_once(&request(SECOND)).is_none(), "others wait");
    // A tenth of a second costs a tenth.
    second.settle(&failed(metered(SECOND / 10)));
    assert!((&mut third).now_or_never().is_none(), "what is free is a little less than an attempt needs");
    assert_eq!(spent(&cap), 3_333 + INVOCATION);
    first.settle(&failed(metered(Duration::ZERO)));
    assert!((&mut fourth).now_or_never().is_none(), "it is the third's turn");
    let third = third.now_or_never().expect("its turn").expect("there is money");
    drop(third);
    let fourth = fourth.now_or_never().expect("its turn").expect("what the third did not use");
    assert_eq!(reserved(&cap), SHORTEST);
    assert_eq!(fourth.time(), TIME_MIN);
}

#[tokio::test(start_paused = true)]
async fn a_query_ends_when_no_attempt_can_make_room() {
    let cap = cap_of(SHORTEST + aside(64) + 33_000, 64);
    cap.fragment_done();
    let running = cap.reserve(request(SECOND)).await.expect("there is money").begun();
    let mut next = Box::pin(cap.reserve(request(SECOND)));
    assert!((&mut next).now_or_never().is_none());
    running.settle(&failed(metered(SECOND)));
    let refused = next.now_or_never().expect("nobody else will end").expect_err("no money");
    assert_eq!(
        refused.to_string(),
        "stopped at the cap of $0.0002021: $0.00003353 spent, 1 of 64 fragments done; the next attempt may cost $0.0001335"
    );
    assert_eq!(cap.passed().await, refused);
    let least = AttemptRequest { time_max: SECOND, ..request(Duration::ZERO) };
    assert_eq!(cap.reserve(least).await.expect_err("the query is over"), refused);
}

#[tokio::test(start_paused = true)]
async fn the_rest_is_shared_and_the_last_attempt_gets_it_all() {
    // There is ten times the money that four attempts need. Each gets a quarter of the rest, less as the rest shrinks.
    let cap = cap_of(40 * SHORTEST, 4);
    let times: Vec<Duration> = (0..4)
        .map(|_| {
            let granted = cap.reserve(request(SECOND)).now_or_never().expect("at once").expect("there is money");
            let time = granted.time();
            std::mem::forget(granted);
            time
        })
        .collect();
    assert_eq!(times[0], 30 * SECOND, "no more than is of use");
    assert!(times.is_sorted_by(|a, b| a >= b) && times[3] > 10 * SECOND, "{times:?}");
    // The money is for four seconds and the grace. The attempt should have 3 × 2 s, or at least 1.5 × 2 s.
    let cap = cap_of(133_334 + 33_334 + INVOCATION + aside(1), 1);
    let last = cap.reserve(request(2 * SECOND)).await.expect("nobody else needs it");
    assert!((3_990..=4_000).contains(&last.time().as_millis()), "{:?}", last.time());
    // An attempt after one that ran out of time would need 6 s.
    drop(last);
    let again = AttemptRequest { timed_out: 1, ..request(SECOND) };
    assert!((3_990..=4_000).contains(&cap.reserve(again).await.expect("all that there is").time().as_millis()));
}

#[tokio::test(start_paused = true)]
async fn fragments_that_never_start_have_no_share() {
    // Planned are 40 fragments, and 3 are enough: each of them gets more time.
    let time = async |fragments: u64| {
        let cap = cap_of(40 * SHORTEST + aside(40), 40);
        cap.expect_fragments(40, fragments);
        let granted = cap.reserve(request(SECOND)).await.expect("there is money");
        (granted.time(), cap.lock().set_aside.nano_dollars())
    };
    assert_eq!(time(40).await, (TIME_MIN, aside(40)));
    assert_eq!(time(3).await, (30 * SECOND, aside(3)));
    // More than planned share what there is.
    assert_eq!(time(41).await, (TIME_MIN, aside(41)));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_end_books_the_worst_case() {
    let work = AttemptWork { reads: 10, writes: 2, answer_bytes: 0 };
    let reserve = async || {
        let cap = cap_of(1_000_000_000, 1);
        let granted = cap.reserve(AttemptRequest { work, ..request(SECOND) }).await.expect("there is money");
        (cap, granted)
    };
    let usage = Usage { requests: Requests { get: 3, put: 1, ..Requests::default() }, ..Usage::default() };
    let rows =
        || Ok(FragmentResult::Inline { part: StreamSummary { bytes: 0, rows: 0, crc32: 0 }, bytes: Base64::default() });
    let broken = Err(FragmentError::new(FragmentErrorKind::Panic, "x"));
    let second = 33_333 + INVOCATION;
    let cases = [
        (answered(metered(SECOND), rows(), usage), second + 3 * GET + PUT),
        (answered(metered(SECOND), broken, usage), second + 3 * GET + PUT),
        (failed(metered(SECOND)), second + 10 * GET + 2 * PUT),
        (failed(Billing::Bounded { at_most: 2 * SECOND }), 66_667 + INVOCATION + 10 * GET + 2 * PUT),
        // The platform refused it.
        (failed(metered(Duration::ZERO)), 0),
    ];
    for (invocation, expect) in cases {
        let (cap, granted) = reserve().await;
        granted.begun().settle(&invocation);
        assert_eq!((spent(&cap), reserved(&cap)), (expect, 0), "{invocation:?}");
    }
    let (cap, granted) = reserve().await;
    drop(granted);
    assert_eq!((spent(&cap), reserved(&cap)), (0, 0), "it never began");
    let (cap, granted) = reserve().await;
    let worst_case = reserved(&cap);
    drop(granted.begun());
    assert_eq!((spent(&cap), reserved(&cap)), (worst_case, 0), "nobody knows what became of it");
}

#[tokio::test(start_paused = true)]
async fn the_coordinators_own_spending_ends_a_query() {
    let own = Arc::new(AtomicU64::new(0));
    let spends = Arc::clone(&own);
    let limit = 10 * SHORTEST;
    let cap = Cap::new(nano(limit), tariff(), 1, move |_| nano(spends.load(Ordering::Relaxed)));
    own.store(limit, Ordering::Relaxed);
    assert_eq!(cap.over(), None, "all of it, and no more");
    own.store(limit + 1, Ordering::Relaxed);
    let over = cap.passed().now_or_never().expect("at once").to_string();
    assert_eq!(over, "stopped at the cap of $0.001335: $0.001335 spent, 0 of 1 fragments done");
    // Reserved money may turn out to be too much, so a 25th of the cap is tolerated.
    own.store(0, Ordering::Relaxed);
    let _running = cap.reserve(request(SECOND)).await.expect("there is money");
    let open = reserved(&cap);
    own.store(limit + limit / 25 - open, Ordering::Relaxed);
    assert_eq!(cap.over(), None);
    own.store(limit + limit / 25 - open + 1, Ordering::Relaxed);
    assert!(cap.over().expect("over").to_string().contains(" more for what still runs, 0 of 1 fragments done"));
}

#[tokio::test(start_paused = true)]
async fn transfer_out_of_aws_is_paid_before_it_starts() {
    let outside = Tariff { coordinator_outside: Some(true), ..tariff() };
    let cap = Cap::new(nano(100_000_000), outside, 1, |_| Money::ZERO);
    // A GB costs 9 cents.
    let work = AttemptWork { answer_bytes: 1 << 29, ..AttemptWork::default() };
    let running =
        cap.reserve(AttemptRequest { work, time_max: 3 * SECOND, ..request(SECOND) }).await.expect("there is money");
    assert_eq!(reserved(&cap), 45_000_000 + SHORTEST);
    let part = StreamSummary { bytes: 1 << 20, rows: 1, crc32: 0 };
    let rows = Ok(FragmentResult::Inline { part, bytes: Base64::default() });
    running.begun().settle(&answered(metered(Duration::ZERO), rows, Usage::default()));
    assert_eq!(spent(&cap), 87_891, "a MiB of them");
    cap.pay_for_read(1 << 30).await.expect("there is money");
    assert_eq!(spent(&cap), 90_087_891);
    cap.pay_for_read(1 << 30).await.expect_err("there is not");
    let inside = cap_of(1, 1);
    inside.pay_for_read(1 << 40).await.expect("inside of AWS it costs nothing");
}
