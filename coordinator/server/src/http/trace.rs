//! `/v1/statements/ID/trace`: a statement's events as a trace that Perfetto and `chrome://tracing` show.
//!
//! ```text
//!  coordinator ─► statement, planning, results that were read, what happened
//!  stage N     ─► attempts, each with its steps: invoke ─► decode ─► execute ─► write
//! ```
//!
//! Work that overlaps is on lanes beside each other. The format is Chrome's Trace Event Format, in microseconds from the statement's start.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use gust_engine::events::StampedEvent;
use serde_json::{Value, json};

use super::problem::Problem;
use super::statements::find;
use crate::door::Door;
use crate::timeline::{Mark, Timeline, Work};
use crate::tokens::Principal;

/// Most events that are drawn, the first ones.
const EVENTS_MAX: usize = 20_000;

/// Process of the trace that is the coordinator. Stages come after it.
const COORDINATOR: u32 = 0;

/// Returns a trace of the statement, for Perfetto.
///
/// An attempt that ran when the trace was made ends with it.
#[utoipa::path(
    get,
    path = "/v1/statements/{id}/trace",
    params(("id" = String, Path, description = "Id of a statement")),
    responses((status = 200, description = "Trace Event Format", content_type = "application/json", body = Object)),
)]
pub(super) async fn show(
    State(door): State<Arc<Door>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let state = find(&door, &principal, &id)?.state();
    let events = state.events(0, EVENTS_MAX);
    Ok(axum::Json(trace(&events, state.is_ended())).into_response())
}

/// Draws events. Of a statement that has ended, attempts are left out whose end is not there.
fn trace(events: &[(usize, StampedEvent)], is_ended: bool) -> Value {
    let Timeline { end, planning, stages, reads, marks } =
        Timeline::of(events.iter().map(|(_, stamped)| stamped), is_ended);
    let mut drawn = vec![
        named(COORDINATOR, "coordinator"),
        slice([COORDINATOR, 0], "statement", [Duration::ZERO, end], &json!({})),
    ];
    drawn.extend(
        planning.iter().map(|Work { name, from, to, about, .. }| slice([COORDINATOR, 0], name, [*from, *to], about)),
    );
    drawn.extend(marks.into_iter().map(|Mark { name, at, about }| {
        json!({ "ph": "i", "s": "p", "pid": COORDINATOR, "tid": 0, "ts": micros(at), "name": name, "args": about })
    }));
    draw(&mut drawn, COORDINATOR, 1, reads);
    for (stage, attempts) in stages {
        let process = stage.saturating_add(1);
        drawn.push(named(process, &format!("stage {stage}")));
        draw(&mut drawn, process, 0, attempts);
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": drawn })
}

/// Draws work, each on the first lane that is free then.
fn draw(drawn: &mut Vec<Value>, process: u32, first_lane: u32, mut all: Vec<Work>) {
    all.sort_by_key(|work| work.from);
    let mut busy_until = Vec::<Duration>::new();
    for work in all {
        let (from, to) = (work.from, work.to);
        let free = busy_until.iter().position(|until| *until <= from);
        let lane = free.unwrap_or(busy_until.len());
        match free {
            Some(lane) => busy_until[lane] = to,
            None => busy_until.push(to),
        }
        let track = [process, first_lane.saturating_add(u32::try_from(lane).unwrap_or(u32::MAX))];
        let work = work.with_figures();
        drawn.push(slice(track, &work.name, [from, to], &work.about));
        let mut at = from;
        for (step, time) in work.steps().into_iter().flatten() {
            let next = at.saturating_add(time).min(to);
            if next > at {
                drawn.push(slice(track, step, [at, next], &json!({})));
            }
            at = next;
        }
    }
}

fn named(process: u32, name: &str) -> Value {
    json!({ "ph": "M", "pid": process, "name": "process_name", "args": { "name": name } })
}

fn slice([process, lane]: [u32; 2], name: &str, [from, to]: [Duration; 2], about: &Value) -> Value {
    let time = micros(to.saturating_sub(from));
    json!({ "ph": "X", "pid": process, "tid": lane, "name": name, "ts": micros(from), "dur": time, "args": about })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use gust_engine::attempt::Billing;
    use gust_engine::events::{AttemptCause, AttemptOutcome, QueryEvent};
    use gust_protocol::{FragmentId, Spans, Usage};

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn started(at: u64, index: u32) -> StampedEvent {
        let id = FragmentId { query: "q".to_owned(), stage: 2, index };
        let event = QueryEvent::AttemptStarted { id, attempt: 0, cause: AttemptCause::First, time: MS(1) };
        StampedEvent { at: MS(at), event }
    }

    fn ended(at: u64, index: u32, wall: u64) -> StampedEvent {
        let id = FragmentId { query: "q".to_owned(), stage: 2, index };
        let spans = Spans { decode_us: 1_000, execute_us: 5_000, write_us: 2_000, total_us: 8_000, waited_us: 3_000 };
        let outcome = AttemptOutcome::Done { usage: Usage { spans, ..Usage::default() }, cold: None };
        let billing = Billing::Metered { duration: MS(wall), init: Duration::ZERO };
        let event = QueryEvent::AttemptEnded { id, attempt: 0, outcome, billing, wall: MS(wall) };
        StampedEvent { at: MS(at), event }
    }

    /// Returns the slices of a process: lane, name, start and length.
    fn slices(trace: &Value, process: u32) -> Vec<(u64, String, u64, u64)> {
        let all = trace["traceEvents"].as_array().expect("events").iter();
        let own = all.filter(|event| event["ph"] == "X" && event["pid"] == process);
        let number = |value: &Value| value.as_u64().expect("a number");
        own.map(|event| {
            let name = event["name"].as_str().expect("a name").to_owned();
            (number(&event["tid"]), name, number(&event["ts"]), number(&event["dur"]))
        })
        .collect()
    }

    #[test]
    fn attempts_that_overlap_are_on_lanes_of_their_stage() {
        let events =
            [started(10, 0), started(10, 1), ended(20, 0, 10), started(21, 2), ended(31, 2, 10), started(40, 3)];
        let events: Vec<(usize, StampedEvent)> = events.into_iter().enumerate().collect();
        let named = |lane: u64, name: &str, from: u64, time: u64| (lane, name.to_owned(), from, time);
        let first = vec![
            named(0, "fragment 0", 10_000, 10_000),
            named(0, "invoke", 10_000, 2_000),
            named(0, "decode", 12_000, 1_000),
            named(0, "execute", 13_000, 5_000),
            named(0, "write", 18_000, 2_000),
        ];
        let third = vec![
            named(0, "fragment 2", 21_000, 10_000),
            named(0, "invoke", 21_000, 2_000),
            named(0, "decode", 23_000, 1_000),
            named(0, "execute", 24_000, 5_000),
            named(0, "write", 29_000, 2_000),
        ];
        let running = trace(&events, false);
        let expect = [
            first.clone(),
            vec![named(1, "fragment 1", 10_000, 30_000)],
            third.clone(),
            vec![named(0, "fragment 3", 40_000, 0)],
        ];
        assert_eq!(slices(&running, 3), expect.concat());
        assert_eq!(slices(&running, COORDINATOR), [named(0, "statement", 0, 40_000)]);
        assert_eq!(slices(&trace(&events, true), 3), [first, third].concat(), "an end that is not kept is not made up");
        assert_eq!(slices(&trace(&[], false), COORDINATOR), [named(0, "statement", 0, 0)]);
    }
}
