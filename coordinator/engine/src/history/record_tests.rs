use gust_protocol::{AheadUsage, Requests};

use super::*;
use crate::attempt::InvokeErrorKind;
use crate::cost::Item;
use crate::error::QueryError;
use crate::history::columns::{COST_LINES, Column, FRAGMENTS, QUERIES, StoredValue};
use crate::model::{Amounts, Choice, Decision, Forecast, Place, Reason, Workload};

const MS: Duration = Duration::from_millis(1);

fn tariff() -> Tariff {
    Tariff::of_tests()
}

fn usage(get: u64, bytes_read: u64, rows_out: u64) -> Usage {
    Usage { requests: Requests { get, ..Requests::default() }, bytes_read, rows_out, ..Usage::default() }
}

/// Adds waits and reads ahead to a usage.
fn with_waits(mut usage: Usage, waited_us: u64, bytes: u64) -> Usage {
    usage.spans.waited_us = waited_us;
    let ahead =
        AheadUsage { bytes, gap_bytes: bytes / 2, unused_pruned_bytes: 7, unused_limit_bytes: 1, ..usage.ahead };
    Usage { ahead, ..usage }
}

pub(in crate::history) fn meta(id: &str, statement: &str, labels: &[(&str, &str)]) -> StatementMeta {
    StatementMeta {
        id: id.to_owned(),
        started: "2026-11-21T12:30:00.000001Z".parse().expect("a moment"),
        user: Some("ada".to_owned()),
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        statement: statement.to_owned(),
        tables: vec!["lake.tpch.lineitem".to_owned(), "orders".to_owned()],
    }
}

/// Makes the events of three fragments. One is done, one crashed and was tried again, one still runs at the end. Events
/// are a millisecond apart.
pub(in crate::history) fn events(query: &str) -> Vec<StampedEvent> {
    let id = |index| FragmentId { query: query.to_owned(), stage: 0, index };
    let decision = Decision {
        place: Place::Functions,
        reason: Reason::Requested,
        workload: Workload::default(),
        estimate: None,
        choice: None,
        kept: Vec::new(),
    };
    let begun =
        |index, attempt, cause| QueryEvent::AttemptStarted { id: id(index), attempt, cause, time: Duration::ZERO };
    let ended = |index, attempt, outcome, billing| QueryEvent::AttemptEnded {
        id: id(index),
        attempt,
        outcome,
        billing,
        wall: MS * 2,
    };
    let adopted = |index, attempt, rows| QueryEvent::FragmentAdopted {
        id: id(index),
        attempt,
        rows,
        result_bytes: 100,
        inline: true,
        read: MS,
    };
    let crashed = AttemptOutcome::InvokeFailed {
        kind: InvokeErrorKind::Crashed,
        message: String::new(),
        log_tail: String::new(),
    };
    let done = |usage, cold| AttemptOutcome::Done { usage, cold };
    let reported = Billing::Reported { duration: MS * 142, init: Duration::from_micros(74_530), memory_mb: 1024 };
    let events = [
        QueryEvent::Planned { decision },
        QueryEvent::StageStarted { stage: 0, fragments: 3, bytes_planned: 9 },
        begun(0, 0, AttemptCause::First),
        begun(1, 0, AttemptCause::First),
        ended(
            0,
            0,
            done(with_waits(usage(10, 1_000, 5), 250_000, 100), Some(true)),
            Billing::Metered { duration: MS * 1_000, init: MS * 50 },
        ),
        adopted(0, 0, 5),
        ended(1, 0, crashed, Billing::Bounded { at_most: MS * 30_000 }),
        begun(1, 1, AttemptCause::Retry),
        ended(1, 1, done(usage(0, 0, 2), None), reported),
        adopted(1, 1, 2),
        begun(2, 0, AttemptCause::First),
        QueryEvent::CoordinatorRead { usage: with_waits(usage(3, 500, 0), 500_000, 60), billed: usage(3, 500, 0) },
        QueryEvent::Finished { rows: 7 },
    ];
    (0..).zip(events).map(|(index, event)| StampedEvent { at: MS * index, event }).collect()
}

pub(in crate::history) fn recorded(
    meta: &StatementMeta,
    events: &[StampedEvent],
    ended: &StatementEnd,
    kept: StatementKept,
) -> Record {
    let tariff = tariff();
    let report = Report::priced(events, Ok(&tariff));
    record(&RecordInput { meta, ended, events, report: &report, tariff: Some(&tariff) }, kept)
}

pub(in crate::history) fn done() -> StatementEnd {
    StatementEnd { outcome: Outcome::Done, message: None }
}

#[track_caller]
fn check<R>(columns: &[Column<R>], row: &R, expect: &[(&str, StoredValue)]) {
    for (name, expect) in expect {
        assert_eq!(value_of(columns, row, name), *expect, "{name}");
    }
}

fn value_of<R>(columns: &[Column<R>], row: &R, name: &str) -> StoredValue {
    let column = columns.iter().find(|column| column.name == name).expect("a column");
    (column.value)(row)
}

fn text(text: &str) -> StoredValue {
    StoredValue::Text(text.to_owned())
}

#[test]
fn a_record_has_the_attempts_and_the_money_of_a_query() {
    let meta = meta("q", "SELECT 1", &[("team", "ads"), ("env", "prod")]);
    let Record { query, attempts, lines } = recorded(&meta, &events("q"), &done(), StatementKept::Text);
    let whole = StoredValue::Whole;
    let expect = [
        ("id", text("q")),
        // 2026-11-21T12:30:00Z is 1,795,264,200 s after 1970.
        ("started", whole(1_795_264_200_000_001)),
        ("user_name", text("ada")),
        ("statement", text("SELECT 1")),
        // printf 'SELECT 1' | sha256sum
        ("statement_hash", text("e004ebd5b5532a4b85984a62f8ad48a81aa3460c1ca07701f386135d72cdecf5")),
        ("labels", text(r#"{"env":"prod","team":"ads"}"#)),
        ("tables", text(r#"["lake.tpch.lineitem","orders"]"#)),
        ("place", text("functions")),
        ("reason", text("requested")),
        ("fell_back", whole(0)),
        ("outcome", text("done")),
        ("message", StoredValue::Null),
        ("fragments", whole(3)),
        ("attempts", whole(4)),
        ("attempts_retried", whole(1)),
        ("attempts_wasted", whole(1)),
        ("cold_starts", whole(1)),
        ("function_requests", whole(10)),
        ("function_bytes_read", whole(1_000)),
        ("coordinator_requests", whole(3)),
        ("coordinator_bytes_read", whole(500)),
        ("ahead_bytes", whole(160)),
        ("unused_bytes", whole(16)),
        ("gap_bytes", whole(80)),
        ("rows", whole(7)),
        ("result_bytes", whole(200)),
        ("seconds", StoredValue::Real(0.012)),
        ("seconds_wasted", StoredValue::Real(0.002)),
        ("seconds_waited", StoredValue::Real(0.75)),
        ("region", text("us-east-1")),
        ("as_if", whole(1)),
        // An attempt still runs.
        ("is_complete", whole(0)),
        // 33,333 + 1,667 and 1,125 + 1,242 (see price_tests.rs), three invocations less the bounded one, 10 and 3 GETs.
        ("dollars", whole(33_333 + 1_667 + 1_125 + 1_242 + 400 + 4_000 + 1_200)),
        ("dollars_at_most", whole(42_967 + 1_000_002 + 200)),
        ("dollars_wasted", whole(1_000_002 + 200)),
        ("athena_bytes", whole(1_500)),
        ("dollars_athena", whole(47_684)),
    ];
    check(QUERIES, &query, &expect);
    // 2 GB × 1.050 s and 1 GB × 0.142 s.
    let gb_seconds = value_of(QUERIES, &query, "gb_seconds");
    assert!(matches!(gb_seconds, StoredValue::Real(seconds) if (seconds - 2.242).abs() < 1e-9), "{gb_seconds:?}");

    let attempt_of = |index: usize| attempts.get(index).expect("an attempt");
    assert_eq!(attempts.len(), 4);
    let expect = [
        ("query_id", text("q")),
        ("stage", whole(0)),
        ("fragment", whole(0)),
        ("attempt", whole(0)),
        ("cause", text("first")),
        ("outcome", text("Done")),
        ("adopted", whole(1)),
        ("cold", whole(1)),
        ("seconds_started", StoredValue::Real(0.002)),
        ("seconds_ended", StoredValue::Real(0.004)),
        ("seconds_wall", StoredValue::Real(0.002)),
        ("seconds_waited", StoredValue::Real(0.25)),
        ("billed_ms", whole(1_050)),
        ("billing", text("metered")),
        ("requests", whole(10)),
        ("bytes_read", whole(1_000)),
        ("ahead_bytes", whole(100)),
        ("unused_bytes", whole(8)),
        ("gap_bytes", whole(50)),
        ("rows", whole(5)),
        ("result_bytes", whole(100)),
        ("dollars", whole(33_333 + 1_667 + 200 + 4_000)),
    ];
    check(FRAGMENTS, attempt_of(0), &expect);
    let expect = [
        ("fragment", whole(1)),
        ("outcome", text("Crashed")),
        ("adopted", whole(0)),
        ("billed_ms", whole(30_000)),
        ("billing", text("bounded")),
        // Its requests and rows are unknown, and not zero.
        ("requests", StoredValue::Null),
        ("seconds_waited", StoredValue::Null),
        ("ahead_bytes", StoredValue::Null),
        ("rows", StoredValue::Null),
        ("result_bytes", StoredValue::Null),
        ("dollars", whole(1_000_002 + 200)),
    ];
    check(FRAGMENTS, attempt_of(1), &expect);
    let expect = [
        ("attempt", whole(1)),
        ("cause", text("retry")),
        ("cold", StoredValue::Null),
        ("billed_ms", whole(142)),
        ("billing", text("reported")),
        ("requests", whole(0)),
        ("dollars", whole(1_125 + 1_242 + 200)),
    ];
    check(FRAGMENTS, attempt_of(2), &expect);
    let open = ["outcome", "seconds_ended", "billed_ms", "billing", "requests", "rows", "dollars", "result_bytes"];
    check(FRAGMENTS, attempt_of(3), &open.map(|name| (name, StoredValue::Null)));
    check(FRAGMENTS, attempt_of(3), &[("fragment", whole(2)), ("adopted", whole(0))]);

    let value_of = |line: &LineRecord, name: &str| value_of(COST_LINES, line, name);
    let items: Vec<(StoredValue, StoredValue)> =
        lines.iter().map(|line| (value_of(line, "item"), value_of(line, "basis"))).collect();
    assert!(items.contains(&(text("coordinator_reads"), text("metered"))), "{items:?}");
    assert!(items.contains(&(text("open_attempts"), text("unknown"))), "{items:?}");
    let compute = lines.iter().find(|line| value_of(line, "basis") == text("reported")).expect("a reported line");
    let expect = [("item", text("compute")), ("memory_mb", whole(1_024)), ("unit", text("GB-s"))];
    check(COST_LINES, compute, &expect);
    let amounts = lines.iter().map(|line| match value_of(line, "dollars") {
        StoredValue::Whole(nano) => nano,
        _ => 0,
    });
    assert_eq!(amounts.sum::<i64>(), 42_967 + 1_000_002 + 200, "the lines add up to the most that it cost");
}

#[test]
fn attempts_cost_what_functions_of_the_picked_size_cost() {
    let compute = |memory_mb| {
        let mut events = events("q");
        for stamped in &mut events {
            if let QueryEvent::Planned { decision } = &mut stamped.event {
                let picked = Forecast {
                    place: Place::Functions,
                    functions: 3,
                    memory_mb: Some(memory_mb),
                    fragments: 3,
                    staged: false,
                    expected: Amounts::default(),
                    upper: Amounts::default(),
                    not_included: Vec::new(),
                };
                decision.choice =
                    Some(Box::new(Choice { picked, runner_up: None, ways: Vec::new(), reason: Reason::Requested }));
            }
        }
        let record = recorded(&meta("q", "SELECT 1", &[]), &events, &done(), StatementKept::Text);
        match value_of(FRAGMENTS, &record.attempts[0], "dollars") {
            // Its invocation and ten GETs have no size.
            StoredValue::Whole(nano_dollars) => nano_dollars - 200 - 4_000,
            other => panic!("{other:?}"),
        }
    };
    let size = tariff().memory_mb;
    assert_eq!(compute(size), 33_333 + 1_667);
    assert!((compute(2 * size) - 2 * (33_333 + 1_667)).abs() <= 2, "twice the memory costs twice as much");
}

#[test]
fn only_the_hash_is_kept_of_a_text() {
    let secret = meta("q", "SELECT 'hunter2'", &[]);
    let failed = StatementEnd {
        outcome: Outcome::Failed,
        message: Some("cannot cast 'hunter2'\nend of its stderr:\nno".to_owned()),
    };
    let kept = recorded(&secret, &events("q"), &failed, StatementKept::Text);
    let expect = [("statement", text("SELECT 'hunter2'")), ("message", text("cannot cast 'hunter2'"))];
    check(QUERIES, &kept.query, &expect);
    let hashed = recorded(&secret, &events("q"), &failed, StatementKept::Hash);
    check(
        QUERIES,
        &hashed.query,
        &[("statement", StoredValue::Null), ("message", StoredValue::Null), ("outcome", text("failed"))],
    );
    let values: Vec<StoredValue> = QUERIES.iter().map(|column| (column.value)(&hashed.query)).collect();
    assert!(!format!("{values:?}{:?}", hashed.query.meta).contains("hunter2"), "{values:?}");
    assert_eq!(hashed.query.statement_hash, kept.query.statement_hash);
    assert_ne!(hashed.query.statement_hash, hash("SELECT 'hunter3'"));
}

#[test]
fn a_long_statement_is_cut_between_characters() {
    let long = format!("x{}", "é".repeat(STATEMENT_BYTES_MAX));
    let record = recorded(&meta("q", &long, &[]), &[], &done(), StatementKept::Text);
    let kept = record.query.statement.expect("the text");
    assert_eq!(kept.len(), STATEMENT_BYTES_MAX - 1);
    assert!(long.starts_with(&kept));
    assert_eq!(record.query.statement_hash, hash(&long), "the hash is of all of it");
}

#[test]
fn unknown_figures_are_null() {
    let read = QueryEvent::CoordinatorRead { usage: usage(2, 300, 0), billed: usage(2, 300, 0) };
    let interrupted = [read, QueryEvent::failed(&QueryError::interrupted())];
    let interrupted = interrupted.map(|event| StampedEvent { at: MS, event });
    let meta = meta("q", "SELECT 1", &[]);
    let cancelled = StatementEnd { outcome: Outcome::Cancelled, message: None };
    let record = recorded(&meta, &interrupted, &cancelled, StatementKept::Text);
    check(QUERIES, &record.query, &["place", "reason"].map(|name| (name, StoredValue::Null)));
    let own = [("coordinator_requests", StoredValue::Whole(2)), ("coordinator_bytes_read", StoredValue::Whole(300))];
    check(QUERIES, &record.query, &own);
    // The bill has the coordinator's reads. Its time has no price.
    check(QUERIES, &record.query, &[("outcome", text("cancelled")), ("is_complete", StoredValue::Whole(0))]);
    let without_amount = record.lines.iter().map(|record| &record.line).filter(|line| line.cost.is_none());
    assert_eq!(without_amount.map(|line| line.item).collect::<Vec<_>>(), [Item::Coordinator]);

    let report = Report::from_events(&interrupted);
    let input = RecordInput { meta: &meta, ended: &cancelled, events: &interrupted, report: &report, tariff: None };
    let unpriced = super::record(&input, StatementKept::Text);
    let money = ["dollars", "dollars_at_most", "dollars_wasted", "dollars_athena", "gb_seconds", "as_if", "region"];
    check(QUERIES, &unpriced.query, &money.map(|name| (name, StoredValue::Null)));
    assert!(unpriced.lines.is_empty());
}
