use gust_engine::attempt::Billing;
use gust_engine::events::{AttemptCause, AttemptOutcome, EventLog, QueryEvent};
use gust_engine::history::Outcome;
use gust_engine::model::{Decision, Reason, Workload};
use gust_engine::session::TraceParent;
use gust_protocol::{FragmentId, Usage};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use serde_json::json;

use super::*;

const QUERY: &str = "019364f0c0de7000800000000000abcd";
const MS: u64 = 1_000_000;

/// Returns a statement that has ended: a plan, two fragments of one stage, a retry, and a result that was read.
async fn ended(trace_parent: Option<TraceParent>) -> EndedStatement {
    let log = EventLog::start();
    let id = |index: u32| FragmentId { query: QUERY.to_owned(), stage: 0, index };
    let started = |index: u32, attempt: u32| QueryEvent::AttemptStarted {
        id: id(index),
        attempt,
        cause: if attempt == 0 { AttemptCause::First } else { AttemptCause::Retry },
        time: Duration::from_secs(1),
    };
    let over = |index: u32, attempt: u32, outcome: AttemptOutcome, wall: u64| QueryEvent::AttemptEnded {
        id: id(index),
        attempt,
        outcome,
        billing: Billing::Metered { duration: Duration::from_millis(wall), init: Duration::ZERO },
        wall: Duration::from_millis(wall),
    };
    let done = || AttemptOutcome::Done { usage: Usage { bytes_read: 7, ..Usage::default() }, cold: None };
    let failed = AttemptOutcome::InvokeFailed {
        kind: gust_engine::attempt::InvokeErrorKind::Throttled,
        message: "secret".to_owned(),
        log_tail: "secret".to_owned(),
    };
    let read = Duration::from_millis(5);
    let decision = Decision::local(Reason::PlanNotSupported("secret".to_owned()), Workload::default());
    for (pause, event) in [
        (10, QueryEvent::Planned { decision }),
        (0, QueryEvent::StageStarted { stage: 0, fragments: 2, bytes_planned: 1 }),
        (0, started(0, 0)),
        (10, started(1, 0)),
        (10, over(1, 0, failed, 10)),
        (0, started(1, 1)),
        (20, over(0, 0, done(), 40)),
        (10, over(1, 1, done(), 30)),
        (10, QueryEvent::FragmentAdopted { id: id(1), attempt: 1, rows: 3, result_bytes: 9, inline: false, read }),
        (10, QueryEvent::FellBack { reason: "secret".to_owned(), hint: None }),
    ] {
        tokio::time::advance(Duration::from_millis(pause)).await;
        log.push(event);
    }
    EndedStatement { id: QUERY.to_owned(), user: Some("ada".to_owned()), events: log, trace_parent }
}

fn fact<'a>(span: &'a Span, key: &str) -> Option<&'a Any> {
    span.attributes.iter().find(|fact| fact.key == key)?.value.as_ref()?.value.as_ref()
}

#[tokio::test(start_paused = true)]
async fn spans_are_those_of_the_events() {
    let report = Report { failed_kind: Some("data"), ..Report::default() };
    let end = StatementEnd { outcome: Outcome::Failed, message: Some("secret".to_owned()) };
    let parent = TraceParent { trace: [7; 16], span: [9; 8], is_sampled: true, state: "a=1".to_owned() };
    for parent in [None, Some(parent)] {
        let drawn = spans::spans(ended(parent.clone()).await, spans::facts(&report, &end), 1_000 * MS);
        let told: Vec<_> = drawn
            .iter()
            .map(|span| {
                let of = drawn.iter().position(|it| it.span_id == span.parent_span_id);
                let times = [span.start_time_unix_nano, span.end_time_unix_nano].map(|at| (at - 1_000 * MS) / MS);
                (span.name.as_str(), of, times, span.status.as_ref().map(|status| status.code))
            })
            .collect();
        let error = Some(SpanStatus::Error as i32);
        let expect = [
            ("statement", None, [0, 80], error),
            ("plan", Some(0), [0, 10], None),
            ("stage 0", Some(0), [10, 60], None),
            // In the order of their ends.
            ("attempt", Some(2), [20, 30], error),
            ("attempt", Some(2), [10, 50], None),
            ("attempt", Some(2), [30, 60], None),
            ("read", Some(0), [65, 70], None),
        ];
        assert_eq!(told, expect);
        let (trace, of_client) = match &parent {
            Some(parent) => (parent.trace, parent.span.to_vec()),
            None => (Uuid::parse_str(QUERY).expect("an id").into_bytes(), Vec::new()),
        };
        assert!(drawn.iter().all(|span| span.trace_id == trace && span.span_id.len() == 8), "{drawn:?}");
        assert_eq!((&drawn[0].parent_span_id, drawn[0].kind), (&of_client, SpanKind::Server as i32));
        assert_eq!(drawn[0].trace_state, if parent.is_some() { "a=1" } else { "" });
        assert_eq!(drawn[0].flags, if parent.is_some() { 0x301 } else { 0x101 });
        let text = |text: &str| Some(Any::StringValue(text.to_owned()));
        assert_eq!(fact(&drawn[0], "gust.query_id").cloned(), text(QUERY));
        assert_eq!(fact(&drawn[0], "user.name").cloned(), text("ada"));
        assert_eq!(fact(&drawn[0], "error.type").cloned(), text("data"));
        assert_eq!(fact(&drawn[1], "gust.place").cloned(), text("local"));
        assert_eq!(fact(&drawn[5], "gust.cause").cloned(), text("retry"));
        assert_eq!(fact(&drawn[5], "gust.bytes_read"), Some(&Any::IntValue(7)));
        assert!(matches!(fact(&drawn[5], "gust.seconds_invoke"), Some(Any::DoubleValue(_))), "{:?}", drawn[5]);
        let events: Vec<_> = drawn[0].events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(events, ["stage-started", "fell-back"]);
        assert!(!format!("{drawn:?}").contains("secret"), "a text of an error is told: {drawn:?}");
    }
}

#[test]
fn texts_are_told_where_they_are_words_of_our_own() {
    let about = json!({
        "place": "local", "cause": "retry", "outcome": "done", "rows": 3, "seconds": 0.5, "cold": true,
        "message": "secret", "table": "secret", "plan_not_supported": "secret", "kept": ["secret"], "workload": { "of": "secret" },
    });
    let mut told: Vec<String> = spans::attributes_of(&about).into_iter().map(|told| told.key).collect();
    told.sort();
    assert_eq!(told, ["cause", "cold", "outcome", "place", "rows", "seconds"].map(|key| format!("gust.{key}")));
}

/// A statement is never held up: what has no room is dropped, and so is what nobody samples.
#[tokio::test]
async fn the_queue_is_bounded() {
    // Nothing answers there: each batch is dropped at once.
    let (collector, counts) = (Collector::new("http://127.0.0.1:1").expect("a URL"), TraceCounts::default());
    let traces = Traces::start(collector, counts.clone());
    let report = Report { attempts: ROOM / 4, ..Report::default() };
    let end = StatementEnd { outcome: Outcome::Done, message: None };
    let tell = |trace_parent| {
        let id = QUERY.to_owned();
        traces.tell(EndedStatement { id, user: None, events: EventLog::start(), trace_parent }, &report, &end);
    };
    tell(Some(TraceParent { trace: [7; 16], span: [9; 8], is_sampled: false, state: String::new() }));
    // The exporter has no turn before the first wait.
    for _ in 0..5 {
        tell(None);
    }
    assert_eq!((counts.sent.get(), counts.dropped.get()), (0, 2), "three have room, with what each counts beside");
    traces.flush().await;
    assert_eq!((counts.sent.get(), counts.dropped.get()), (0, 5));
    tell(None);
    assert_eq!(counts.dropped.get(), 6, "the exporter has ended");
}

#[test]
fn a_url_is_one_of_http() {
    let shown = |text: &str| Collector::new(text).map(|collector| collector.url.to_string());
    for (text, expect) in [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://otlp.example/tenant/", "https://otlp.example/tenant/v1/traces"),
    ] {
        assert_eq!(shown(text).expect(text), expect);
    }
    for (text, words) in [
        ("127.0.0.1:4318", "it is no URL"),
        ("localhost:4318", "expected http:// or https://"),
        ("grpc://127.0.0.1:4317", "expected http:// or https://"),
        ("http://ada:secret@otlp.example", "a URL with a user"),
        ("http://otlp.example/?key=secret", "a URL with a query"),
        ("", "it is no URL"),
    ] {
        let refused = shown(text).expect_err(text);
        assert!(refused.message().contains(words) && !refused.message().contains("secret"), "{text}: {refused}");
    }
}
