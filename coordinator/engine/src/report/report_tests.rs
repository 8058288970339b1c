use std::collections::BTreeSet;

use super::*;
use crate::error::QueryError;
use crate::model::{Reason, Workload};

/// Makes the report of a query that fell back and failed, of which everything has two lines and a hint.
fn report() -> Report {
    let unavailable =
        Reason::Unavailable { message: "gone\nsince noon".to_owned(), hint: Some("deploy it".to_owned()) };
    let lost = QueryError::functions("fragment q/0/0 failed\nend of its stderr:\nno").with_hint("more memory");
    let failed = QueryError::data("a file is odd").with_hint("write it again");
    let events = [
        QueryEvent::Planned { decision: Decision::local(unavailable, Workload::default()) },
        QueryEvent::fell_back(&lost),
        QueryEvent::failed(&failed),
    ];
    let events = events.map(|event| StampedEvent { at: Duration::ZERO, event });
    let (region, near) = ("mars".to_owned(), ", but\none near".to_owned());
    let unpriced = PriceError::UnknownRegion { region, near, known: "earth".to_owned() };
    let report = Report::priced(&events, Err(&unpriced));
    Report { history_not_recorded: Some("full\nto the brim".to_owned()), ..report }
}

#[test]
fn ends_of_attempts_are_told_in_words() {
    for (kind, words) in [("Cancelled", "cancelled"), ("DiskFull", "disk full"), ("InputLost", "input lost")] {
        assert_eq!(text::in_words(kind), words);
    }
}

#[test]
fn hints_are_fields_beside_their_messages() {
    let report = serde_json::to_value(report()).expect("JSON");
    let check = |message: &str, hint: &str, expect: [&str; 2]| {
        assert_eq!([&report[message], &report[hint]], expect);
    };
    check("fell_back", "fell_back_hint", ["fragment q/0/0 failed\nend of its stderr:\nno", "more memory"]);
    check("failed", "failed_hint", ["a file is odd", "write it again"]);
    check(
        "cost_unknown",
        "cost_unknown_hint",
        [
            "there is no price book for region `mars`, but\none near",
            "known are earth; name a file of your own with `cost.prices`",
        ],
    );
    assert_eq!(report["decision"]["reason"]["unavailable"], "gone\nsince noon");
    assert_eq!(report["decision"]["hint"], "deploy it");
}

#[test]
fn waits_are_shown_where_there_were_some() {
    let check = |waited_us, ahead: AheadUsage, expect: Option<&str>| {
        let mut usage = Usage { ahead, ..Usage::default() };
        usage.spans.waited_us = waited_us;
        let events = [StampedEvent { at: Duration::ZERO, event: QueryEvent::CoordinatorRead { usage, billed: usage } }];
        let report = Report::from_events(&events).to_string();
        let mut lines = report.lines().skip_while(|line| !line.starts_with("here ")).skip(1);
        let line = lines.next().filter(|line| !line.starts_with("time "));
        assert_eq!(line, expect.map(|text| format!("           {text}")).as_deref(), "{report}");
    };
    let none = AheadUsage::default();
    check(0, none, None);
    check(999, AheadUsage { gap_bytes: 9, ..none }, None);
    check(1_000, none, Some("waited 0.001 s for bytes, over all lanes"));
    check(999, AheadUsage { unused_pruned_bytes: 3 << 20, ..none }, Some("read and not used: 3 MiB pruned"));
    let all = AheadUsage {
        bytes: 1 << 30,
        gap_bytes: 5 << 20,
        taken_bytes: 1 << 29,
        missed_bytes: 1,
        aborted_bytes: 2,
        unused_pruned_bytes: 1 << 20,
        unused_limit_bytes: 2 << 20,
        unused_cancelled_bytes: 3 << 20,
        unused_given_back_bytes: 4 << 20,
        ..none
    };
    let text = "waited 2.500 s for bytes, over all lanes; read and not used: 1 MiB pruned, 2 MiB not needed, \
                3 MiB cancelled, 4 MiB dropped for memory, 5 MiB in gaps";
    check(2_500_000, all, Some(text));
}

#[test]
fn lines_of_a_report_stand_in_their_column() {
    let expect = "\
decision   local: functions cannot be used: gone
           since noon
           hint: deploy it
fell back  ran locally after functions failed: fragment q/0/0 failed
           hint: more memory
here       read 0 B in 0 requests, 0 rows
time       0.000 s: plan 0.000, finish 0.000
cost       not known: there is no price book for region `mars`, but
           one near
           hint: known are earth; name a file of your own with `cost.prices`
history    not recorded: full
           to the brim";
    assert_eq!(report().to_string(), expect);
}

/// Collects the names of all fields in a report.
fn names<'a>(value: &'a serde_json::Value, into: &mut BTreeSet<&'a str>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                into.insert(name);
                names(value, into);
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| names(value, into)),
        _ => {}
    }
}

#[test]
fn the_page_for_programs_has_every_field() {
    let page = include_str!("../../../../docs/report.md");
    let usage = Usage { requests: Requests { get: 1, ..Requests::default() }, bytes_read: 1, ..Usage::default() };
    let id = FragmentId { query: "q".to_owned(), stage: 0, index: 0 };
    let outcome = AttemptOutcome::Done { usage, cold: None };
    let billing = crate::attempt::Billing::Metered { duration: Duration::from_secs(1), init: Duration::ZERO };
    let events = [
        QueryEvent::CoordinatorRead { usage, billed: usage },
        QueryEvent::AttemptStarted { id: id.clone(), attempt: 0, cause: AttemptCause::First, time: Duration::ZERO },
        QueryEvent::AttemptEnded { id, attempt: 0, outcome, billing, wall: Duration::ZERO },
    ];
    let events = events.map(|event| StampedEvent { at: Duration::from_secs(1), event });
    let priced = Report::priced(&events, Ok(&Tariff::of_tests()));
    let position = Some(Position { line: 1, column: 2 });
    let failed = Report { failed_at: position, cost: priced.cost, by_stage: priced.by_stage, ..report() };
    let failed = serde_json::to_value(failed).expect("JSON");
    let mut found = BTreeSet::new();
    names(&failed, &mut found);
    // The reason of a decision and the architecture have their own names.
    let is_told = |name: &&str| page.contains(&format!("`{name}`")) || *name == "unavailable";
    let missing: Vec<_> = found.into_iter().filter(|name| !is_told(name)).collect();
    assert!(missing.is_empty(), "docs/report.md lacks {missing:?}");
}

#[test]
fn an_error_has_its_kind_code_and_place() {
    let error = QueryError::sql("no such word at Line: 2, Column: 7").with_sqlstate("42601");
    let report = serde_json::to_value(Report::refused(&error)).expect("JSON");
    let fields = ["failed", "failed_kind", "failed_sqlstate", "id", "version"].map(|field| report[field].clone());
    assert_eq!(
        fields,
        [
            "no such word at Line: 2, Column: 7".into(),
            "sql".into(),
            "42601".into(),
            serde_json::Value::Null,
            env!("CARGO_PKG_VERSION").into()
        ]
    );
    assert_eq!(report["failed_at"], serde_json::json!({"line": 2, "column": 7}));
}
