//! A query's events, its progress and its dollars as JSON. Names and texts of this file are the API's, whatever the engine calls them.

use std::collections::BTreeMap;

use gust_engine::events::{AttemptCause, AttemptOutcome, QueryEvent, StampedEvent};
use gust_engine::money::Money;
use gust_engine::report::Report;
use gust_protocol::FragmentId;
use serde_json::{Value, json};

/// Writes an amount of dollars in decimals, exactly.
pub(crate) fn decimals(money: Money) -> String {
    let nano = money.nano_dollars();
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

/// Returns the dollars of a report: those that are known, and with the bounded amounts at their bounds.
pub(crate) fn dollars(report: &Report) -> Value {
    match &report.cost {
        Some(cost) => json!({
            "dollars": decimals(cost.known),
            "dollars_at_most": decimals(cost.at_most),
            "is_complete": cost.is_complete,
            "as_if": cost.as_if,
        }),
        None => json!({ "unknown": report.cost_unknown }),
    }
}

/// Returns the dollars that are booked while a statement runs. There is no bound: attempts under way and the coordinator's own reads
/// are booked when they end.
pub(super) fn so_far(report: &Report) -> Value {
    let mut told = dollars(report);
    if let Some(members) = told.as_object_mut().filter(|members| members.contains_key("dollars")) {
        members.remove("dollars_at_most");
        members.insert("is_complete".to_owned(), false.into());
    }
    told
}

/// Returns the place, and for each stage its fragments, its attempts and the adopted ones.
pub(super) fn progress(events: &[StampedEvent]) -> Value {
    #[derive(Default)]
    struct Stage {
        fragments: u32,
        attempts: u32,
        running: u32,
        adopted: u32,
        rows: u64,
    }
    let mut stages = BTreeMap::<u32, Stage>::new();
    let mut place = Value::Null;
    for StampedEvent { event, .. } in events {
        match event {
            QueryEvent::Planned { decision } => place = serde_json::to_value(decision).unwrap_or_default(),
            QueryEvent::StageStarted { stage, fragments, .. } => {
                stages.entry(*stage).or_default().fragments = *fragments;
            }
            QueryEvent::AttemptStarted { id, .. } => {
                let stage = stages.entry(id.stage).or_default();
                stage.attempts += 1;
                stage.running += 1;
            }
            QueryEvent::AttemptEnded { id, .. } => {
                let stage = stages.entry(id.stage).or_default();
                stage.running = stage.running.saturating_sub(1);
            }
            QueryEvent::FragmentAdopted { id, rows, .. } => {
                let stage = stages.entry(id.stage).or_default();
                stage.adopted += 1;
                stage.rows += rows;
            }
            _ => {}
        }
    }
    let stages = stages.into_iter().map(|(stage, Stage { fragments, attempts, running, adopted, rows })| {
        json!({ "stage": stage, "fragments": fragments, "attempts": attempts, "running": running, "adopted": adopted, "rows": rows })
    });
    json!({ "decision": place, "stages": stages.collect::<Vec<_>>() })
}

/// Returns an event with its number and its seconds from the query's start.
pub(crate) fn event(number: usize, StampedEvent { at, event }: &StampedEvent) -> Value {
    let attempt =
        |id: &FragmentId, attempt: &u32| json!({ "stage": id.stage, "fragment": id.index, "attempt": attempt });
    let (name, about) = match event {
        QueryEvent::Planned { decision } => ("planned", serde_json::to_value(decision).unwrap_or_default()),
        QueryEvent::Begun => ("begun", Value::Null),
        QueryEvent::Quoted { .. } => ("quoted", Value::Null),
        QueryEvent::StageStarted { stage, fragments, bytes_planned } => {
            ("stage-started", json!({ "stage": stage, "fragments": fragments, "bytes_planned": bytes_planned }))
        }
        QueryEvent::PlanPublished { stage, bytes } => ("plan-published", json!({ "stage": stage, "bytes": bytes })),
        QueryEvent::DeletesPublished { stage, bytes, vectors, keys } => {
            ("deletes-published", json!({ "stage": stage, "bytes": bytes, "vectors": vectors, "keys": keys }))
        }
        QueryEvent::RowsBroadcast { stage, rows, bytes, inline } => {
            ("rows-broadcast", json!({ "stage": stage, "rows": rows, "bytes": bytes, "inline": inline }))
        }
        QueryEvent::RowsParted { stage, partitions, objects, bytes } => {
            ("rows-parted", json!({ "stage": stage, "partitions": partitions, "objects": objects, "bytes": bytes }))
        }
        QueryEvent::PartitionsSplit { stage, partitions, parts, bytes, median_bytes } => {
            let sizes = json!({ "stage": stage, "partitions": partitions, "parts": parts, "bytes": bytes, "median_bytes": median_bytes });
            ("partitions-split", sizes)
        }
        QueryEvent::FragmentTakenApart { id, pieces } => {
            ("fragment-taken-apart", json!({ "stage": id.stage, "fragment": id.index, "pieces": pieces }))
        }
        QueryEvent::RowsRestored { id, lost, attempt: number, .. } => {
            let mut about = attempt(id, number);
            about["lost_attempt"] = (*lost).into();
            ("rows-restored", about)
        }
        QueryEvent::KeysLeftOut { stage, units, fragments, bytes } => {
            ("keys-left-out", json!({ "stage": stage, "units": units, "fragments": fragments, "bytes": bytes }))
        }
        QueryEvent::BuildsCopied { stage, by, bytes, bytes_expected, .. } => {
            let about = json!({ "stage": stage, "by": by, "bytes": bytes, "bytes_expected": bytes_expected });
            ("builds-copied", about)
        }
        QueryEvent::MemoryWanted { bytes } => ("memory-wanted", json!({ "bytes": bytes })),
        QueryEvent::MemoryClaimed { bytes } => ("memory-claimed", json!({ "bytes": bytes })),
        QueryEvent::JoinedHere { stage } => ("joined-here", json!({ "stage": stage })),
        QueryEvent::AttemptStarted { id, attempt: number, cause, .. } => {
            let mut about = attempt(id, number);
            about["cause"] = match cause {
                AttemptCause::First => "first",
                AttemptCause::Retry => "retry",
                AttemptCause::Speculative => "speculative",
            }
            .into();
            ("attempt-started", about)
        }
        QueryEvent::AttemptEnded { id, attempt: number, outcome, wall, .. } => {
            let mut about = attempt(id, number);
            about["seconds"] = wall.as_secs_f64().into();
            about["outcome"] = match outcome {
                AttemptOutcome::Done { .. } => "done",
                AttemptOutcome::FragmentFailed { .. } | AttemptOutcome::InvokeFailed { .. } => "failed",
                AttemptOutcome::Cancelled => "cancelled",
            }
            .into();
            ("attempt-ended", about)
        }
        QueryEvent::FragmentAdopted { id, attempt: number, rows, result_bytes, .. } => {
            let mut about = attempt(id, number);
            about["rows"] = (*rows).into();
            about["result_bytes"] = (*result_bytes).into();
            ("fragment-adopted", about)
        }
        QueryEvent::FellBack { reason, hint } => ("fell-back", json!({ "reason": reason, "hint": hint })),
        QueryEvent::TakenOver { takeovers } => ("taken-over", json!({ "takeovers": takeovers })),
        QueryEvent::Replanned { reason } => ("planned-again", json!({ "reason": reason })),
        QueryEvent::Enlarged { memory_mb, reason } => ("enlarged", json!({ "memory_mb": memory_mb, "reason": reason })),
        QueryEvent::Restarted { reason } => ("restarted", json!({ "reason": reason })),
        QueryEvent::CoordinatorRead { usage, .. } => ("coordinator-read", json!({ "bytes_read": usage.bytes_read })),
        QueryEvent::Finished { rows } => ("finished", json!({ "rows": rows })),
        QueryEvent::Failed { error } => ("failed", json!({ "message": error.message(), "hint": error.hint() })),
    };
    json!({ "number": number, "seconds": at.as_secs_f64(), "event": name, "about": about })
}
