//! A statement's events as spans.
//!
//! ```text
//!  the client's span ─► statement ─┬► plan (each time that it was planned)
//!                                  ├► stage N ─► attempt (each one, also those that failed)
//!                                  └► read (a result of functions, by the coordinator)
//! ```
//!
//! What happens at one moment is an event of the statement's span. No span has a text of a client's: neither the statement's nor an
//! error's. The trace of a statement without a client's span has the statement's id.

use std::time::Duration;

use gust_engine::history::StatementEnd;
use gust_engine::report::Report;
use gust_engine::session::{EndedStatement, TraceParent};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use serde_json::Value;
use uuid::Uuid;

use crate::timeline::{Mark, Timeline, Work};

/// Most spans of a statement, the statement's own and its stages' first, and most events of its own span.
const SPANS_MAX: usize = 10_000;
const EVENTS_MAX: usize = 100;

/// Facts whose texts are told: words of our own. Any other text may be a client's.
const WORDS: [&str; 3] = ["cause", "outcome", "place"];

/// Flags of a span: sampled, and what is known of its parent's place.
const SAMPLED: u32 = 1;
const PARENT_IS_KNOWN: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// Facts of a statement that its report has.
pub(super) fn facts(report: &Report, ended: &StatementEnd) -> Vec<KeyValue> {
    let count = |number: usize| Any::IntValue(i64::try_from(number).unwrap_or(i64::MAX));
    let mut facts = vec![
        named("gust.outcome", Any::StringValue(ended.outcome.name().to_owned())),
        named("gust.rows", Any::IntValue(i64::try_from(report.rows).unwrap_or(i64::MAX))),
        named("gust.stages", count(report.stages)),
        named("gust.fragments", count(report.fragments)),
        named("gust.attempts", count(report.attempts)),
        named("gust.attempts_wasted", count(report.attempts_wasted)),
    ];
    if let Some(cost) = &report.cost {
        let dollars = |nano_dollars: u64| Any::DoubleValue(nano_dollars as f64 / 1e9);
        facts.push(named("gust.dollars", dollars(cost.known.nano_dollars())));
        facts.push(named("gust.dollars_at_most", dollars(cost.at_most.nano_dollars())));
    }
    for (key, text) in [("error.type", report.failed_kind), ("db.response.status_code", report.failed_sqlstate)] {
        facts.extend(text.map(|text| named(key, Any::StringValue(text.to_owned()))));
    }
    facts
}

/// Draws the spans of a statement that began so many nanoseconds after 1970.
pub(super) fn spans(statement: EndedStatement, facts: Vec<KeyValue>, began_ns: u64) -> Vec<Span> {
    let EndedStatement { id, user, events, trace_parent } = statement;
    let timeline = Timeline::of(&events.snapshot(), true);
    let mut drawing = Drawing::new(&id, trace_parent.as_ref(), began_ns);
    let is_failed = facts.iter().any(|fact| fact.key == "error.type");
    let mut attributes = vec![
        named("db.system.name", Any::StringValue("gust".to_owned())),
        named("gust.query_id", Any::StringValue(id)),
    ];
    attributes.extend(user.map(|user| named("user.name", Any::StringValue(user))));
    attributes.extend(facts);
    let of_client = trace_parent.map(|parent| parent.span.to_vec()).unwrap_or_default();
    let root = drawing.add(&of_client, "statement", [Duration::ZERO, timeline.end], attributes);
    for Work { from, to, about, .. } in timeline.planning {
        drawing.add(&root, "plan", [from, to], attributes_of(&about));
    }
    let mut attempts = Vec::new();
    for (stage, all) in timeline.stages {
        let from = all.iter().map(|work| work.from).min().unwrap_or_default();
        let to = all.iter().map(|work| work.to).max().unwrap_or_default();
        let number = vec![named("gust.stage", Any::IntValue(i64::from(stage)))];
        attempts.push((drawing.add(&root, &format!("stage {stage}"), [from, to], number), all));
    }
    for (stage, all) in attempts {
        for work in all {
            let work = work.with_figures();
            let mut attributes = attributes_of(&work.about);
            let steps = work.steps().into_iter().flatten();
            attributes.extend(
                steps.map(|(step, time)| named(&format!("gust.seconds_{step}"), Any::DoubleValue(time.as_secs_f64()))),
            );
            let is_failed = work.about["outcome"] == "failed";
            drawing.add(&stage, "attempt", [work.from, work.to], attributes);
            drawing.last(SpanKind::Client, is_failed);
        }
    }
    for Work { from, to, about, .. } in timeline.reads {
        drawing.add(&root, "read", [from, to], attributes_of(&about));
    }
    drawing.finished(timeline.marks, is_failed)
}

/// Spans of one statement, the statement's own first.
struct Drawing {
    trace: Vec<u8>,
    state: String,
    has_client: bool,
    began_ns: u64,
    /// Number before the next span's id.
    id: u64,
    spans: Vec<Span>,
    left_out: usize,
}

impl Drawing {
    fn new(statement: &str, parent: Option<&TraceParent>, began_ns: u64) -> Self {
        let of_statement = || Uuid::parse_str(statement).unwrap_or_else(|_| Uuid::new_v4()).into_bytes();
        let trace = parent.map_or_else(of_statement, |parent| parent.trace).to_vec();
        let state = parent.map(|parent| parent.state.clone()).unwrap_or_default();
        // The ids of a statement's spans follow one another from a place at random.
        let (_, id) = Uuid::new_v4().as_u64_pair();
        Self { trace, state, has_client: parent.is_some(), began_ns, id, spans: Vec::new(), left_out: 0 }
    }

    fn at(&self, time: Duration) -> u64 {
        self.began_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Draws a span if there is room, and returns its id.
    fn add(&mut self, parent: &[u8], name: &str, [from, to]: [Duration; 2], attributes: Vec<KeyValue>) -> Vec<u8> {
        self.id = self.id.wrapping_add(1).max(1);
        let id = self.id.to_be_bytes().to_vec();
        if self.spans.len() >= SPANS_MAX {
            self.left_out += 1;
            return id;
        }
        let span = Span {
            trace_id: self.trace.clone(),
            span_id: id.clone(),
            parent_span_id: parent.to_vec(),
            trace_state: self.state.clone(),
            flags: SAMPLED | PARENT_IS_KNOWN,
            name: name.to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: self.at(from),
            end_time_unix_nano: self.at(to),
            attributes,
            ..Span::default()
        };
        self.spans.push(span);
        id
    }

    /// Completes the span that was drawn last.
    fn last(&mut self, kind: SpanKind, is_failed: bool) {
        if self.left_out == 0
            && let Some(span) = self.spans.last_mut()
        {
            span.kind = kind.into();
            span.status = is_failed.then(failed);
        }
    }

    fn finished(mut self, mut marks: Vec<Mark>, is_failed: bool) -> Vec<Span> {
        let dropped = marks.len().saturating_sub(EVENTS_MAX);
        marks.truncate(EVENTS_MAX);
        let event = |Mark { name, at, about }: Mark| Event {
            time_unix_nano: self.at(at),
            name,
            attributes: attributes_of(&about),
            ..Event::default()
        };
        let events = marks.into_iter().map(event).collect();
        if let Some(statement) = self.spans.first_mut() {
            statement.kind = SpanKind::Server.into();
            statement.status = is_failed.then(failed);
            statement.events = events;
            statement.dropped_events_count = u32::try_from(dropped).unwrap_or(u32::MAX);
            statement.flags |= if self.has_client { PARENT_IS_REMOTE } else { 0 };
            if self.left_out > 0 {
                let left_out = i64::try_from(self.left_out).unwrap_or(i64::MAX);
                statement.attributes.push(named("gust.spans_left_out", Any::IntValue(left_out)));
            }
        }
        self.spans
    }
}

fn failed() -> Status {
    Status { code: StatusCode::Error.into(), ..Status::default() }
}

fn named(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Returns numbers, flags and words of what is told of something. Other texts, lists and objects are left out.
pub(super) fn attributes_of(about: &Value) -> Vec<KeyValue> {
    let told = about.as_object().into_iter().flatten();
    told.filter_map(|(key, value)| {
        let value = match value {
            Value::Bool(flag) => Any::BoolValue(*flag),
            Value::String(word) if WORDS.contains(&key.as_str()) => Any::StringValue(word.clone()),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => Any::IntValue(whole),
                None => Any::DoubleValue(number.as_f64()?),
            },
            Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => return None,
        };
        Some(named(&format!("gust.{key}"), value))
    })
    .collect()
}
