use super::*;
use crate::attempt::InvokeErrorKind;
use crate::cost::Architecture;
use crate::model::{Amounts, Choice, Decision, Forecast, Place, Reason, Workload};
use gust_protocol::Usage;

fn tariff() -> Tariff {
    Tariff::of_tests()
}

/// A builder of a query's events, which are a millisecond apart unless a test says otherwise.
#[derive(Default)]
struct Scenario {
    events: Vec<StampedEvent>,
}

const MS: Duration = Duration::from_millis(1);

fn id(index: u32) -> FragmentId {
    FragmentId { query: "q".to_owned(), stage: 0, index }
}

fn usage(get: u64, put: u64, bytes_read: u64, bytes_written: u64) -> Usage {
    Usage { requests: Requests { get, put, ..Requests::default() }, bytes_read, bytes_written, ..Usage::default() }
}

fn metered(duration_ms: u64, init_ms: u64) -> Billing {
    Billing::Metered { duration: Duration::from_millis(duration_ms), init: Duration::from_millis(init_ms) }
}

fn done(usage: Usage) -> AttemptOutcome {
    AttemptOutcome::Done { usage, cold: None }
}

fn lost(kind: InvokeErrorKind) -> AttemptOutcome {
    AttemptOutcome::InvokeFailed { kind, message: String::new(), log_tail: String::new() }
}

impl Scenario {
    fn at(mut self, at: Duration, event: QueryEvent) -> Self {
        self.events.push(StampedEvent { at, event });
        self
    }

    fn then(self, event: QueryEvent) -> Self {
        let at = self.events.last().map_or(Duration::ZERO, |last| last.at + MS);
        self.at(at, event)
    }

    fn attempt(self, index: u32, attempt: u32, cause: AttemptCause, outcome: AttemptOutcome, billing: Billing) -> Self {
        let ended = QueryEvent::AttemptEnded { id: id(index), attempt, outcome, billing, wall: MS };
        self.then(QueryEvent::AttemptStarted { id: id(index), attempt, cause, time: Duration::ZERO }).then(ended)
    }

    fn adopted(self, index: u32, attempt: u32, inline: bool, result_bytes: u64) -> Self {
        self.then(QueryEvent::FragmentAdopted { id: id(index), attempt, rows: 1, result_bytes, inline, read: MS })
    }

    fn price(&self, tariff: &Tariff) -> CostReport {
        price(&self.events, tariff)
    }
}

/// Returns lines as (name, basis, nano-dollars).
fn lines(report: &CostReport) -> Vec<(&'static str, Basis, Option<u64>)> {
    report.lines.iter().map(|line| (line.item.name(), line.basis, line.cost.map(Money::nano_dollars))).collect()
}

#[test]
fn a_plain_query_has_the_lines_reckoned_by_hand() {
    // 2 GB × 1.000 s run (2 GB-s) and 2 GB × 0.050 s of start; x86_64 at 16,666.7 nano-dollars a GB-s.
    let second = Duration::from_secs(1);
    let end = QueryEvent::AttemptEnded {
        id: id(0),
        attempt: 0,
        outcome: done(usage(10, 1, 100 << 20, 1 << 30)),
        billing: metered(1000, 50),
        wall: second,
    };
    let coordinator = Usage {
        requests: Requests { get: 3, head: 1, list: 1, put: 1, delete: 1, hedged: 0 },
        bytes_read: (1 << 30) + 500,
        ..Usage::default()
    };
    let events = Scenario::default()
        .then(QueryEvent::AttemptStarted { id: id(0), attempt: 0, cause: AttemptCause::First, time: Duration::ZERO })
        .at(second, end)
        .adopted(0, 0, false, 1 << 30)
        .at(second * 2, QueryEvent::CoordinatorRead { usage: coordinator, billed: coordinator })
        .at(second * 2, QueryEvent::Finished { rows: 1 });
    let report = events.price(&tariff());
    use Basis::{Metered, Unknown};
    let expect = [
        ("compute", Metered, Some(33_333)),        // 2 × 16,666.7 = 33,333.4
        ("start-up", Metered, Some(1_667)),        // 0.1 × 16,666.7 = 1,666.67
        ("invocations", Metered, Some(200)),       // $0.20 a million
        ("table reads", Metered, Some(4_000)),     // 10 × 400
        ("exchange writes", Metered, Some(5_000)), // 1 × 5,000
        ("exchange reads", Metered, Some(400)),
        ("the coordinator's reads", Metered, Some(1_200)), // 3 GETs and a HEAD, less the exchange's GET
        ("the coordinator's writes", Metered, Some(10_000)), // a LIST and a PUT; DELETE is free
        ("exchange storage", Metered, Some(9)),            // 1 GB × 1 s / 2,592,000 s × $0.023 = 8.87
        ("logs", Unknown, None),
        ("the coordinator's machine", Unknown, None),
    ];
    assert_eq!(lines(&report), expect);
    assert_eq!(report.known.nano_dollars(), 33_333 + 1_667 + 200 + 4_000 + 5_000 + 400 + 1_200 + 10_000 + 9);
    assert_eq!(report.at_most, report.known);
    assert_eq!(report.waste, Waste::default());
    assert!(!report.is_complete, "two lines have no amount");
    // 100 MiB and 500 bytes are 101 MiB: 101 × 2^20 / 2^40 × $5.
    assert_eq!((report.athena.bytes, report.athena.cost.nano_dollars()), ((100 << 20) + 500, 481_606));
}

#[test]
fn rows_that_were_lost_are_wasted_and_those_in_their_place_are_used() {
    let restored = QueryEvent::RowsRestored { id: id(0), lost: 0, attempt: 1, result_bytes: 0 };
    let read = |bytes_read, exchange_bytes_read| done(Usage { bytes_read, exchange_bytes_read, ..usage(1, 1, 0, 0) });
    let events = Scenario::default()
        .attempt(0, 0, AttemptCause::First, read(30 << 20, 0), metered(1000, 0))
        .adopted(0, 0, true, 0)
        .attempt(1, 0, AttemptCause::First, read(7 << 20, 7 << 20), metered(1000, 0))
        .attempt(0, 1, AttemptCause::Retry, read(30 << 20, 0), metered(3000, 0))
        .then(restored)
        .adopted(1, 0, false, 0);
    let report = events.price(&tariff());
    // The lost attempt: 2 GB-s, an invocation, a GET and a PUT.
    assert_eq!(report.waste.total.nano_dollars(), 33_333 + 200 + 400 + 5_000);
    assert_eq!(report.waste.failed, report.waste.total);
    // Athena reads the table once, and nothing of the exchange.
    assert_eq!(report.athena.bytes, 30 << 20);
    let told = crate::report::Report::from_events(&events.events);
    assert_eq!((told.shuffles_restored, told.attempts_wasted, told.fragments_adopted), (1, 1, 2));
}

#[test]
fn sums_are_made_before_they_are_rounded() {
    // 1 ms of 2 GB is 33.3334 nano-dollars; a thousand of them are 33,333, not 33,000. Begun milliseconds are billed.
    let mut events = Scenario::default();
    for index in 0..1000 {
        let billing = Billing::Metered { duration: Duration::from_micros(1 + u64::from(index)), init: Duration::ZERO };
        events = events.attempt(index, 0, AttemptCause::First, done(Usage::default()), billing);
        events = events.adopted(index, 0, true, 0);
    }
    assert_eq!(lines(&events.price(&tariff()))[0], ("compute", Basis::Metered, Some(33_333)));
}

#[test]
fn a_price_depends_on_architecture_memory_and_the_reported_bill() {
    #[track_caller]
    fn check(architecture: Architecture, billing: Billing, expect: &[(&'static str, Basis, Option<u64>)]) {
        let tariff = Tariff { architecture, coordinator_hour: None, ..tariff() };
        let events = Scenario::default().attempt(0, 0, AttemptCause::First, done(Usage::default()), billing);
        let seen = lines(&events.price(&tariff));
        assert_eq!(&seen[..expect.len()], expect);
    }
    use Architecture::{Arm, X86};
    use Basis::{Bounded, Metered, Reported};
    let second = Duration::from_secs(1);
    check(Arm, metered(1000, 0), &[("compute", Metered, Some(26_667)), ("invocations", Metered, Some(200))]);
    // 1,024 MB, 142 ms billed of which 75 ms of start: 67 ms run.
    let reported = Billing::Reported {
        duration: Duration::from_millis(142),
        init: Duration::from_micros(74_530),
        memory_mb: 1024,
    };
    let expect =
        [("compute", Reported, Some(1_125)), ("start-up", Reported, Some(1_242)), ("invocations", Reported, Some(200))];
    check(X86, reported, &expect);
    let bounded = Billing::Bounded { at_most: second * 30 };
    check(X86, bounded, &[("compute", Bounded, Some(1_000_002)), ("invocations", Bounded, Some(200))]);
    // A throttle starts nothing and costs nothing.
    check(X86, metered(0, 0), &[("the coordinator's machine", Basis::Unknown, None)]);
}

#[test]
fn attempts_are_priced_by_the_size_with_which_they_began() {
    let planned = |memory_mb| {
        let picked = Forecast {
            place: Place::Functions,
            functions: 2,
            memory_mb: Some(memory_mb),
            fragments: 2,
            staged: false,
            expected: Amounts::default(),
            upper: Amounts::default(),
            not_included: Vec::new(),
        };
        let choice = Choice { picked, runner_up: None, ways: Vec::new(), reason: Reason::Requested };
        let decision = Decision::local(Reason::Requested, Workload::default());
        QueryEvent::Planned { decision: Decision { choice: Some(Box::new(choice)), ..decision } }
    };
    let second = Duration::from_secs(1);
    let begun = |index| QueryEvent::AttemptStarted {
        id: id(index),
        attempt: 0,
        cause: AttemptCause::First,
        time: Duration::ZERO,
    };
    let ended = |index, billing| QueryEvent::AttemptEnded {
        id: id(index),
        attempt: 0,
        outcome: done(Usage::default()),
        billing,
        wall: MS,
    };
    let of_size = |memory_mb, basis| {
        move |report: &CostReport| {
            let line = report.lines.iter().find(|line| line.item == Item::Compute { memory_mb } && line.basis == basis);
            line.and_then(|line| line.cost).map(Money::nano_dollars)
        }
    };
    use Basis::{Bounded, Metered, Reported};
    let events = Scenario::default()
        // An attempt of an earlier coordinator stands before the plan, which is like its own.
        .then(begun(0))
        .then(ended(0, metered(1000, 0)))
        .then(planned(512))
        .then(begun(1))
        .then(begun(2))
        .then(ended(1, metered(1000, 0)))
        .then(QueryEvent::Enlarged { memory_mb: 4096, reason: "no memory".to_owned() })
        // It has begun with the first size, whenever its end is heard of.
        .then(ended(2, Billing::Bounded { at_most: second }))
        .attempt(3, 0, AttemptCause::First, done(Usage::default()), metered(1000, 0))
        // The platform tells the size of this one.
        .attempt(
            4,
            0,
            AttemptCause::First,
            done(Usage::default()),
            Billing::Reported { duration: second, init: Duration::ZERO, memory_mb: 1024 },
        );
    let report = events.price(&tariff());
    // Half a GB-s has 8,333.35 nano-dollars.
    assert_eq!(of_size(512, Metered)(&report), Some(16_667));
    assert_eq!(of_size(512, Bounded)(&report), Some(8_333));
    assert_eq!(of_size(4096, Metered)(&report), Some(66_667));
    assert_eq!(of_size(1024, Reported)(&report), Some(16_667));
    let compute = report.lines.iter().filter(|line| matches!(line.item, Item::Compute { .. })).count();
    assert_eq!(compute, 4, "{:?}", lines(&report));
    // A decision without a choice is for the tariff's own size.
    let decision = Decision::local(Reason::Requested, Workload::default());
    let enlarged = Scenario::default()
        .then(QueryEvent::Planned { decision })
        .attempt(0, 0, AttemptCause::First, done(Usage::default()), metered(1000, 0))
        .then(QueryEvent::Enlarged { memory_mb: 4096, reason: "no memory".to_owned() })
        .attempt(1, 0, AttemptCause::First, done(Usage::default()), metered(1000, 0))
        .price(&tariff());
    assert_eq!(of_size(2048, Metered)(&enlarged), Some(33_333));
    assert_eq!(of_size(4096, Metered)(&enlarged), Some(66_667));
    // The stages add up to the bill.
    let of_stages: Money = stage_costs(&events.events, &tariff()).values().map(|stage| stage.at_most).sum();
    assert_eq!(of_stages, report.at_most);
}

#[test]
fn waste_is_told_by_its_cause() {
    let (first, retry, speculative) = (AttemptCause::First, AttemptCause::Retry, AttemptCause::Speculative);
    let crashed = || lost(InvokeErrorKind::Crashed);
    let hedged = Usage { requests: Requests { get: 2, hedged: 1, ..Requests::default() }, ..Usage::default() };
    let events = Scenario::default()
        // A crash, a failed retry, then the one that is used.
        .attempt(0, 0, first, crashed(), metered(1000, 0))
        .attempt(0, 1, retry, crashed(), metered(2000, 0))
        .attempt(0, 2, retry, done(Usage::default()), metered(1000, 0))
        .adopted(0, 2, true, 0)
        // The second attempt was faster than the first.
        .attempt(1, 1, speculative, done(hedged), metered(1000, 0))
        .attempt(1, 0, first, done(Usage::default()), metered(3000, 0))
        .adopted(1, 1, true, 0)
        // The query was over before its rows were needed.
        .attempt(2, 0, first, done(Usage::default()), metered(4000, 0))
        .attempt(3, 0, first, AttemptOutcome::Cancelled, Billing::Bounded { at_most: Duration::from_secs(30) });
    let report = events.price(&tariff());
    let nano = |amount: Money| amount.nano_dollars();
    let Waste { failed, retried, speculative, cancelled, hedged, total } = report.waste;
    assert_eq!(nano(failed), 33_333 + 200);
    assert_eq!(nano(retried), 66_667 + 200);
    assert_eq!(nano(speculative), 100_000 + 200);
    assert_eq!(nano(cancelled), 133_334 + 200 + 1_000_002 + 200);
    assert_eq!(nano(hedged), 400);
    assert_eq!(nano(total), [failed, retried, speculative, cancelled, hedged].map(nano).iter().sum::<u64>());
    assert_eq!(nano(report.at_most) - nano(report.known), 1_000_002 + 200);
    let unheard = report.lines.iter().find(|line| line.item == Item::LostRequests).expect("lost requests");
    assert_eq!((unheard.quantity, unheard.cost), (3.0, None), "two crashes and a cancelled one told nothing");
}

#[test]
fn a_query_under_way_has_attempts_without_an_amount() {
    let events = Scenario::default().then(QueryEvent::AttemptStarted {
        id: id(0),
        attempt: 0,
        cause: AttemptCause::First,
        time: Duration::ZERO,
    });
    let report = events.price(&tariff());
    assert!(lines(&report).contains(&("attempts that still run", Basis::Unknown, None)));
    assert!(!report.is_complete);
}

#[test]
fn a_machine_in_the_settings_is_priced_and_complete() {
    let tariff = Tariff {
        coordinator_hour: Some("0.36".parse().expect("a price")),
        coordinator_outside: Some(true),
        as_if: false,
        ..tariff()
    };
    let usage = Usage { bytes_read: 1 << 30, ..usage(1, 0, 1 << 30, 0) };
    let events = Scenario::default()
        .then(QueryEvent::CoordinatorRead { usage, billed: usage })
        .at(Duration::from_secs(10), QueryEvent::Finished { rows: 0 });
    let report = events.price(&tariff);
    use Basis::Metered;
    let expect = [
        ("the coordinator's reads", Metered, Some(400)),
        ("data transfer", Metered, Some(90_000_000)),
        ("the coordinator's machine", Metered, Some(1_000_000)),
    ];
    assert_eq!(lines(&report), expect);
    assert!(report.is_complete && !report.as_if);
    let nobody_said = Tariff { coordinator_outside: None, ..tariff };
    let told = lines(&events.price(&nobody_said));
    assert!(told.contains(&("data transfer", Basis::Unknown, None)), "{told:?}");
}

#[test]
fn files_of_this_machine_are_not_billed() {
    let none = Usage::default();
    let files = usage(8, 3, 1 << 30, 0);
    let sent = Tariff { as_if: false, coordinator_outside: Some(true), ..tariff() };
    for tariff in [sent.clone(), Tariff { as_if: true, ..sent.clone() }] {
        let events = Scenario::default().then(QueryEvent::CoordinatorRead { usage: files, billed: none });
        let report = events.price(&tariff);
        assert_eq!((report.at_most, report.athena.bytes), (Money::ZERO, 1 << 30), "{:?}", lines(&report));
    }
    // A result in a folder of this machine is priced as if it lay in S3, but no read of a table is.
    let events = Scenario::default()
        .attempt(0, 0, AttemptCause::First, done(usage(0, 0, 0, 0)), metered(1000, 0))
        .adopted(0, 0, false, 1 << 20)
        .then(QueryEvent::CoordinatorRead { usage: files, billed: usage(2, 0, 0, 0) });
    let report = events.price(&Tariff { as_if: true, ..sent });
    let of = |name: &str| lines(&report).iter().find(|line| line.0 == name).and_then(|line| line.2);
    assert_eq!((of("exchange reads"), of("the coordinator's reads")), (Some(400), Some(800)));
}

#[test]
fn athena_bills_ten_megabytes_at_least() {
    #[track_caller]
    fn check(bytes: u64, expect: u64) {
        let events = Scenario::default()
            .then(QueryEvent::CoordinatorRead { usage: usage(1, 0, bytes, 0), billed: usage(1, 0, bytes, 0) });
        assert_eq!(events.price(&tariff()).athena.cost.nano_dollars(), expect, "{bytes}");
    }
    check(0, 0);
    check(1, 47_684); // 10 × 2^20 / 2^40 × $5
    check(10 << 20, 47_684);
    check((10 << 20) + 1, 52_452);
    check(1 << 40, 5_000_000_000);
}

#[test]
fn the_text_names_bounded_wasted_and_unknown_amounts() {
    let events = Scenario::default()
        .attempt(0, 0, AttemptCause::First, lost(InvokeErrorKind::Crashed), metered(1000, 0))
        .attempt(0, 1, AttemptCause::Retry, done(usage(10, 0, 100, 0)), metered(1000, 0))
        .adopted(0, 1, true, 10)
        .attempt(1, 0, AttemptCause::First, AttemptOutcome::Cancelled, Billing::Bounded { at_most: MS });
    let stale = Tariff { stale: Some("the prices are old".to_owned()), coordinator_outside: None, ..tariff() };
    let text = events.price(&stale).to_string();
    let expect = "\
cost       $0.00007107 (as if on Lambda, us-east-1 on 2026-11-01, x86_64): compute $0.00006667, invocations $0.000000400, table reads $0.000004000
           and at most $0.000000233 for attempts whose end is not known
           wasted $0.00003377 of this: failed $0.00003353, cancelled $0.000000233
           not known: data transfer, logs, the coordinator's machine, requests of attempts that never answered
           Athena would take $0.00004768 for 100 B
           the prices are old";
    assert_eq!(text, expect);
}
