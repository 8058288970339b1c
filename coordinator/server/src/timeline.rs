//! A statement's events as work that took a time: planning, attempts by stage, results that were read; and what happened beside it. The trace
//! for Perfetto and the spans of OTLP are drawn from it.

use std::collections::BTreeMap;
use std::time::Duration;

use gust_engine::events::{AttemptOutcome, QueryEvent, StampedEvent};
use gust_protocol::{Spans, Usage};
use serde_json::Value;

use crate::http::event;

/// Something that took a time. Times are from the statement's start.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) name: String,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    /// Facts about it by name, as the HTTP API has them.
    pub(crate) about: Value,
    pub(crate) usage: Option<Usage>,
}

/// Something that happened at one moment.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) at: Duration,
    pub(crate) about: Value,
}

/// All that a statement did.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    /// Time of the last event.
    pub(crate) end: Duration,
    /// Each time that it was planned.
    pub(crate) planning: Vec<Work>,
    /// Attempts by stage, in the order of their ends.
    pub(crate) stages: BTreeMap<u32, Vec<Work>>,
    /// Results of functions that the coordinator has read.
    pub(crate) reads: Vec<Work>,
    pub(crate) marks: Vec<Mark>,
}

impl Timeline {
    /// Sorts events. Of a statement that has ended, attempts are left out whose end is not there. Others end with the last event.
    pub(crate) fn of<'a>(events: impl IntoIterator<Item = &'a StampedEvent>, is_ended: bool) -> Self {
        let mut timeline = Self::default();
        let mut begun = BTreeMap::new();
        let mut planned_from = Duration::ZERO;
        for stamped in events {
            let at = stamped.at;
            timeline.end = at;
            let mut told = event(0, stamped);
            let (name, mut about) = (told["event"].as_str().unwrap_or_default().to_owned(), told["about"].take());
            match &stamped.event {
                QueryEvent::Planned { .. } => {
                    let name = "planning".to_owned();
                    timeline.planning.push(Work { name, from: planned_from, to: at, about, usage: None });
                }
                QueryEvent::AttemptStarted { id, attempt, .. } => {
                    begun.insert((id.stage, id.index, *attempt), (at, about));
                }
                QueryEvent::AttemptEnded { id, attempt, outcome, wall, .. } => {
                    let started = begun.remove(&(id.stage, id.index, *attempt));
                    about["cause"] =
                        started.map(|(_, mut about): (_, Value)| about["cause"].take()).unwrap_or_default();
                    let usage = match outcome {
                        AttemptOutcome::Done { usage, .. } | AttemptOutcome::FragmentFailed { usage, .. } => {
                            Some(*usage)
                        }
                        AttemptOutcome::InvokeFailed { .. } | AttemptOutcome::Cancelled => None,
                    };
                    let work = Work { name: fragment(id.index), from: at.saturating_sub(*wall), to: at, about, usage };
                    timeline.stages.entry(id.stage).or_default().push(work);
                }
                QueryEvent::FragmentAdopted { id, read, .. } if !read.is_zero() => {
                    let (name, from) = (format!("read {}/{}", id.stage, id.index), at.saturating_sub(*read));
                    timeline.reads.push(Work { name, from, to: at, about, usage: None });
                }
                other => {
                    if matches!(
                        other,
                        QueryEvent::FellBack { .. }
                            | QueryEvent::Replanned { .. }
                            | QueryEvent::Enlarged { .. }
                            | QueryEvent::Restarted { .. }
                    ) {
                        planned_from = at;
                    }
                    timeline.marks.push(Mark { name, at, about });
                }
            }
        }
        for ((stage, index, _), (from, about)) in begun.into_iter().filter(|_| !is_ended) {
            let work = Work { name: fragment(index), from, to: timeline.end, about, usage: None };
            timeline.stages.entry(stage).or_default().push(work);
        }
        timeline
    }
}

impl Work {
    /// Adds the figures of the function that did it.
    pub(crate) fn with_figures(mut self) -> Self {
        if let Some(Usage { bytes_read, bytes_written, memory_peak_bytes, spilled_bytes, cold, spans, .. }) = self.usage
        {
            self.about["bytes_read"] = bytes_read.into();
            self.about["bytes_written"] = bytes_written.into();
            self.about["memory_peak_bytes"] = memory_peak_bytes.into();
            self.about["spilled_bytes"] = spilled_bytes.into();
            self.about["cold"] = cold.into();
            self.about["seconds_waited"] = Duration::from_micros(spans.waited_us).as_secs_f64().into();
        }
        self
    }

    /// Returns the steps of an attempt. The way to the function and back, with its cold start, is told as a whole, before the others.
    pub(crate) fn steps(&self) -> Option<[(&'static str, Duration); 4]> {
        let Spans { decode_us, execute_us, write_us, total_us, .. } = self.usage?.spans;
        let [decode, execute, write, total] = [decode_us, execute_us, write_us, total_us].map(Duration::from_micros);
        let invoke = self.to.saturating_sub(self.from).saturating_sub(total);
        Some([("invoke", invoke), ("decode", decode), ("execute", execute), ("write", write)])
    }
}

fn fragment(index: u32) -> String {
    format!("fragment {index}")
}
