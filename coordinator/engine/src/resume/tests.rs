use gust_protocol::{
    AccessTable, Base64, FragmentLimits, ObjectRef, Output, PlanRef, Requests, Scan, ScanUnit, StreamSummary,
};

use super::*;
use crate::report::Report;
use crate::storage::Stores;

fn result(bytes: usize) -> FragmentResult {
    let part = StreamSummary { bytes: bytes as u64, rows: 1, crc32: 7 };
    FragmentResult::Inline { part, bytes: Base64(vec![1; bytes].into()) }
}

fn stage() -> StagePlan {
    StagePlan {
        plan: PlanRef::Inline(Base64(b"plan".as_slice().into())),
        leaves: Vec::new(),
        scalars: Vec::new(),
        shared: Vec::new(),
        output: Output::Gather { access: 0, prefix: "x".to_owned() },
        options: Default::default(),
    }
}

fn fragment(index: u32) -> Fragment {
    let file = ObjectRef { access: 1, path: "a.parquet".to_owned(), size_bytes: 10, etag: None, footer_bytes: Some(3) };
    let unit = ScanUnit {
        file,
        range: None,
        partition_values: Vec::new(),
        constants: Vec::new(),
        footer: Some(Base64::default()),
        deletes: None,
    };
    let limits = FragmentLimits {
        memory_bytes_max: 1,
        temp_bytes_max: 1,
        bridge_bytes: 1,
        inline_bytes_max: 1,
        ahead: gust_protocol::AheadBounds::OFF,
        late_columns_percent_max: 0,
    };
    let scan = Scan { lanes: vec![vec![unit]], ..Scan::default() };
    let id = FragmentId { query: "q".to_owned(), stage: 0, index };
    Fragment { id, inputs: vec![(0, Input::Scan(scan))], parts: Vec::new(), limits }
}

fn digest(stage: &StagePlan, fragment: Fragment) -> Option<RequestDigest> {
    RequestDigest::of(&StageDigest::of(stage)?, fragment)
}

#[test]
fn a_request_is_the_same_if_it_makes_the_same_rows() {
    let of = digest(&stage(), fragment(0));
    let mut other = fragment(0);
    other.limits.inline_bytes_max = 99;
    let Input::Scan(scan) = &mut other.inputs[0].1;
    (scan.lanes[0][0].footer, scan.lanes[0][0].file.footer_bytes) = (None, None);
    assert_eq!(digest(&stage(), other.clone()), of, "footers and limits make no row");
    let Input::Scan(scan) = &mut other.inputs[0].1;
    scan.lanes[0][0].file.size_bytes = 11;
    assert_ne!(digest(&stage(), other.clone()), of, "another file");
    assert_ne!(digest(&stage(), fragment(1)), of, "another fragment");
    let mut planned = stage();
    planned.options.insert("datafusion.execution.time_zone".to_owned(), "+02:00".to_owned());
    assert_ne!(digest(&planned, fragment(0)), of, "another setting");
    assert_eq!(AccessTable::default().0.len(), 0, "credentials are no part of it");
}

/// Notes of a coordinator that began two attempts, of which one has ended.
fn notes(log: &WorkLog) -> Vec<WorkDone> {
    let stores = Stores::new(crate::config::Config::default().s3);
    let events = log.open_events(&stores);
    let (first, second) = (log.first_attempt(), Duration::from_secs(1));
    let id = |index| FragmentId { query: "q".to_owned(), stage: 0, index };
    for index in 0..2 {
        let cause = AttemptCause::First;
        events.push(QueryEvent::AttemptStarted { id: id(index), attempt: first, cause, time: 10 * second });
    }
    let mut notes: Vec<WorkDone> = log.take(1 << 20).into_iter().collect();
    let usage = Usage { requests: Requests { get: 3, ..Requests::default() }, ..Usage::default() };
    let outcome = AttemptOutcome::Done { usage, cold: Some(false) };
    let billing = Billing::Metered { duration: second, init: Duration::ZERO };
    events.push(QueryEvent::AttemptEnded { id: id(0), attempt: first, outcome, billing, wall: second });
    let request = digest(&stage(), fragment(0)).expect("JSON");
    log.note(request, &AttemptResult { result: result(5), attempt: first });
    notes.extend(log.take(1 << 20));
    assert_eq!(log.take(1 << 20), None, "there is nothing new");
    assert_eq!(notes.len(), 2);
    // Through a journal.
    notes.iter().map(|done| serde_json::from_slice(&serde_json::to_vec(done).expect("JSON")).expect("JSON")).collect()
}

#[test]
fn work_of_two_coordinators_is_inherited_with_its_bill() {
    let first = WorkLog::new("q".to_owned(), Inherited::default());
    let of_first = notes(&first);
    let second = WorkLog::new("q".to_owned(), Inherited::of("q", [of_first.clone()]));
    let of_second = notes(&second);
    let third = WorkLog::new("q".to_owned(), Inherited::of("q", [of_first, of_second]));
    assert_eq!((first.first_attempt(), second.first_attempt(), third.first_attempt()), (0, NUMBERS, 2 * NUMBERS));
    let events = third.open_events(&Stores::new(crate::config::Config::default().s3));
    let tariff = Tariff::of_tests();
    let report = Report::priced(&events.snapshot(), Ok(&tariff));
    assert_eq!((report.attempts, report.functions.requests.get, report.takeovers), (4, 6, 2));
    let cost = report.cost.expect("prices");
    // One second each of those that have ended, and 10 s and a second of grace of those that have not.
    let per_second = if cfg!(target_arch = "aarch64") { 26_667 } else { 33_333 };
    let expect = 2 * (per_second + 200) + 2 * (11 * per_second + 200);
    let seen = third.inherited_money(&tariff).nano_dollars();
    assert!(seen.abs_diff(expect) < 10_000, "{seen} for {expect}");
    assert!(cost.at_most.nano_dollars() >= seen && !cost.is_complete, "what began after the last note is not known");
    let request = digest(&stage(), fragment(0)).expect("JSON");
    let inherited = third.inherit(&request).expect("a result");
    assert_eq!((inherited.attempt, inherited.result), (NUMBERS, result(5)), "the newest one");
    assert!(third.inherit(&request).is_none(), "it is used once");
}

#[test]
fn results_are_noted_within_their_bound() {
    let log = WorkLog::new("q".to_owned(), Inherited::default());
    log.open_events(&Stores::new(crate::config::Config::default().s3));
    let large = result(RESULTS_BYTES_MAX / 4);
    for index in 0..6 {
        let request = digest(&stage(), fragment(index)).expect("JSON");
        log.note(request, &AttemptResult { result: large.clone(), attempt: 0 });
    }
    let mut counts = Vec::new();
    while let Some(done) = log.take(RESULTS_BYTES_MAX / 2) {
        counts.push(done.results.len());
    }
    assert_eq!(counts, [2, 2], "the others are made anew");
}
