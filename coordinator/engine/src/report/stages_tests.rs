use gust_protocol::{AheadUsage, FragmentErrorKind, Requests, Spans};

use super::*;
use crate::attempt::Billing;
use crate::cost::Tariff;
use crate::events::{AttemptCause, StampedEvent};
use crate::report::Report;

const SECOND: Duration = Duration::from_secs(1);

fn id(stage: u32, index: u32) -> FragmentId {
    FragmentId { query: "q".to_owned(), stage, index }
}

fn usage(get: u64, bytes_read: u64, execute_us: u64) -> Usage {
    Usage {
        requests: Requests { get, ..Requests::default() },
        bytes_read,
        spans: Spans { execute_us, waited_us: execute_us / 2, ..Spans::default() },
        ahead: ahead(bytes_read, bytes_read),
        memory_peak_bytes: bytes_read,
        spilled_bytes: get,
        ..Usage::default()
    }
}

fn ahead(bytes: u64, peak_bytes: u64) -> AheadUsage {
    AheadUsage { bytes, gap_bytes: 1, peak_bytes, ..AheadUsage::default() }
}

fn done(usage: Usage) -> AttemptOutcome {
    AttemptOutcome::Done { usage, cold: None }
}

fn started(id: FragmentId, attempt: u32) -> QueryEvent {
    QueryEvent::AttemptStarted { id, attempt, cause: AttemptCause::First, time: Duration::ZERO }
}

fn ended(id: FragmentId, attempt: u32, outcome: AttemptOutcome, billing: Billing) -> QueryEvent {
    QueryEvent::AttemptEnded { id, attempt, outcome, billing, wall: Duration::ZERO }
}

fn adopted(id: FragmentId, attempt: u32) -> QueryEvent {
    QueryEvent::FragmentAdopted { id, attempt, rows: 3, result_bytes: 7, inline: true, read: Duration::ZERO }
}

const FREE: Billing = Billing::Metered { duration: Duration::ZERO, init: Duration::ZERO };

fn at(seconds: u32, event: QueryEvent) -> StampedEvent {
    StampedEvent { at: SECOND * seconds, event }
}

#[test]
fn all_attempts_count_for_their_stage() {
    let kind = FragmentErrorKind::StorageThrottled;
    let failed = |usage| AttemptOutcome::FragmentFailed { kind, message: String::new(), usage };
    let events: Vec<_> = [
        (2, 0, done(usage(1, 10, 500_000))),
        (0, 0, failed(usage(2, 20, 250_000))),
        (0, 1, done(usage(3, 30, 500_000))),
        (1, 0, AttemptOutcome::Cancelled),
    ]
    .into_iter()
    .flat_map(|(stage, attempt, outcome)| {
        [at(0, started(id(stage, 0), attempt)), at(0, ended(id(stage, 0), attempt, outcome, FREE))]
    })
    .collect();
    let report = Report::from_events(&events);
    let storage = |get, bytes_read, waited_seconds, attempts, peak_bytes| StorageUse {
        requests: Requests { get, ..Requests::default() },
        bytes_read,
        waited_seconds,
        ahead: AheadUsage { gap_bytes: attempts, ..ahead(bytes_read, peak_bytes) },
        ..StorageUse::default()
    };
    let stage = |stage, attempts| StageWork { stage, attempts, attempts_wasted: attempts, ..StageWork::default() };
    let expect = [
        StageWork {
            storage: storage(5, 50, 0.375, 2, 30),
            execute_seconds: 0.75,
            memory_peak_bytes: 30,
            spilled_bytes: 3,
            ..stage(0, 2)
        },
        stage(1, 1),
        StageWork {
            storage: storage(1, 10, 0.25, 1, 10),
            execute_seconds: 0.5,
            memory_peak_bytes: 10,
            spilled_bytes: 1,
            ..stage(2, 1)
        },
    ];
    assert_eq!(report.by_stage, expect);
    assert_eq!(report.functions, storage(6, 60, 0.625, 3, 30), "the sum of all stages");
    assert_eq!((report.memory_peak_bytes, report.spilled_bytes), (30, 4));
}

#[test]
fn a_fragment_takes_from_its_first_attempt_to_the_end_of_the_one_that_counts() {
    let fine = || done(Usage::default());
    let events = [
        at(0, QueryEvent::StageStarted { stage: 1, fragments: 4, bytes_planned: 0 }),
        at(0, QueryEvent::RowsBroadcast { stage: 1, rows: 1, bytes: 5, inline: true }),
        at(0, started(id(1, 0), 0)),
        at(1, started(id(1, 1), 0)),
        at(2, started(id(1, 2), 0)),
        at(2, started(id(1, 3), 0)),
        at(3, ended(id(1, 0), 0, fine(), FREE)),
        // The second attempt of a fragment counts, and the first one's end does not.
        at(4, ended(id(1, 1), 0, AttemptOutcome::Cancelled, FREE)),
        at(4, started(id(1, 1), 1)),
        at(9, ended(id(1, 1), 1, fine(), FREE)),
        at(3, ended(id(1, 2), 0, fine(), FREE)),
        // Rows are adopted long after their attempt.
        at(20, adopted(id(1, 0), 0)),
        at(20, adopted(id(1, 1), 1)),
        at(20, adopted(id(1, 2), 0)),
        at(20, QueryEvent::RowsParted { stage: 1, partitions: 16, objects: 3, bytes: 90 }),
        at(21, ended(id(1, 3), 0, AttemptOutcome::Cancelled, FREE)),
    ];
    let report = Report::from_events(&events);
    let expect = StageWork {
        stage: 1,
        fragments: 4,
        fragments_adopted: 3,
        attempts: 5,
        attempts_wasted: 2,
        fragment_seconds: Some(FragmentSeconds { slowest: 8.0, median: 3.0 }),
        rows: 9,
        result_bytes: 21,
        parts: Some(StageParts { partitions: 16, objects: 3, bytes: 90 }),
        broadcasts: 1,
        broadcast_bytes: 5,
        ..StageWork::default()
    };
    assert_eq!(report.by_stage, [expect]);
    assert_eq!((report.attempts_wasted, report.shuffle_bytes, report.broadcast_bytes), (2, 90, 5));
}

/// Each line of a bill is rounded once. So the stages of many small amounts are not priced one by one.
#[test]
fn money_of_stages_sums_up_to_the_bill() {
    let mut events = Vec::new();
    for stage in 0..50 {
        let billing = match stage % 3 {
            0 => Billing::Bounded { at_most: Duration::from_millis(u64::from(stage)) },
            _ => Billing::Metered { duration: Duration::from_millis(u64::from(7 * stage + 1)), init: Duration::ZERO },
        };
        let outcome = match stage % 3 {
            0 => AttemptOutcome::Cancelled,
            _ => done(Usage { bytes_written: u64::from(stage), ..usage(1, 1, 1) }),
        };
        events.push(at(stage, started(id(stage, 0), 0)));
        events.push(at(stage, ended(id(stage, 0), 0, outcome, billing)));
    }
    let read = Usage { requests: Requests { get: 2, ..Requests::default() }, ..Usage::default() };
    events.push(at(60, QueryEvent::CoordinatorRead { usage: read, billed: read }));
    let report = Report::priced(&events, Ok(&Tariff::of_tests()));
    let cost = report.cost.expect("a bill");
    let stages = || report.by_stage.iter().filter_map(|stage| stage.cost);
    assert_eq!(stages().count(), 50);
    let own = Money::from_nano_dollars(2 * 400);
    assert_eq!(stages().map(|cost| cost.known).sum::<Money>() + own, cost.known);
    assert_eq!(stages().map(|cost| cost.at_most).sum::<Money>() + own, cost.at_most);
    // 2 GB × 8 ms at 16,666.7 nano-dollars a GB-s, an invocation and a GET.
    assert_eq!(report.by_stage[1].cost.map(|cost| cost.known.nano_dollars()), Some(267 + 200 + 400));
    // 2 GB × 3 ms at most, and nothing for sure.
    let bounded = report.by_stage[3].cost.map(|cost| (cost.known, cost.at_most.nano_dollars()));
    assert_eq!(bounded, Some((Money::ZERO, 100 + 200)));
}
