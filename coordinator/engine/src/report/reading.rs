//! Reads of a query's functions, by stage.

use gust_protocol::Usage;
use serde::Serialize;

use super::StorageUse;

/// Reads of one stage's attempts, also of those whose result was not used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageReading {
    pub stage: u32,
    pub storage: StorageUse,
    /// Time in which the attempts ran their plans, in seconds, summed up: computing, and waiting for bytes. Each attempt runs
    /// its lanes side by side.
    pub execute_seconds: f64,
}

impl StageReading {
    /// Adds an attempt's usage to the reads of its stage. `readings` are in the order of stages.
    pub(super) fn add(readings: &mut Vec<Self>, stage: u32, usage: &Usage) {
        let place = readings.binary_search_by_key(&stage, |reading| reading.stage).unwrap_or_else(|place| {
            readings.insert(place, Self { stage, storage: StorageUse::default(), execute_seconds: 0.0 });
            place
        });
        readings[place].storage.add(usage);
        readings[place].execute_seconds += usage.spans.execute_us as f64 / 1e6;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gust_protocol::{AheadUsage, FragmentErrorKind, FragmentId, Requests, Spans};

    use crate::attempt::Billing;
    use crate::events::{AttemptOutcome, QueryEvent, StampedEvent};
    use crate::report::Report;

    use super::*;

    #[test]
    fn all_attempts_count_for_their_stage() {
        let ahead = |bytes, peak_bytes| AheadUsage { bytes, gap_bytes: 1, peak_bytes, ..AheadUsage::default() };
        let usage = |get, bytes_read, execute_us| Usage {
            requests: Requests { get, ..Requests::default() },
            bytes_read,
            spans: Spans { execute_us, waited_us: execute_us / 2, ..Spans::default() },
            ahead: ahead(bytes_read, bytes_read),
            ..Usage::default()
        };
        let done = |usage| AttemptOutcome::Done { usage, cold: None };
        let kind = FragmentErrorKind::StorageThrottled;
        let failed = |usage| AttemptOutcome::FragmentFailed { kind, message: String::new(), usage };
        let attempts = [
            (2, 0, done(usage(1, 10, 500_000))),
            (0, 0, failed(usage(2, 20, 250_000))),
            (0, 1, done(usage(3, 30, 500_000))),
            (1, 0, AttemptOutcome::Cancelled),
        ];
        let events: Vec<_> = attempts
            .into_iter()
            .map(|(stage, attempt, outcome)| {
                let id = FragmentId { query: "q".to_owned(), stage, index: 0 };
                let billing = Billing::Metered { duration: Duration::ZERO, init: Duration::ZERO };
                let event = QueryEvent::AttemptEnded { id, attempt, outcome, billing, wall: Duration::ZERO };
                StampedEvent { at: Duration::ZERO, event }
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
        let expect = [
            StageReading { stage: 0, storage: storage(5, 50, 0.375, 2, 30), execute_seconds: 0.75 },
            StageReading { stage: 2, storage: storage(1, 10, 0.25, 1, 10), execute_seconds: 0.5 },
        ];
        assert_eq!(report.reading, expect);
        assert_eq!(report.functions, storage(6, 60, 0.625, 3, 30), "the sum of all stages");
    }
}
