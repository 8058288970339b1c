//! Work of a query's functions, by stage. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use gust_protocol::{FragmentId, Usage};
use serde::Serialize;

use super::StorageUse;
use crate::events::{AttemptOutcome, QueryEvent};
use crate::money::Money;

/// Work of one stage's attempts, also of those whose result was not used. The figures of all stages sum up to the report's.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StageWork {
    pub stage: u32,
    pub fragments: usize,
    /// Fragments whose rows came from a function and were used.
    pub fragments_adopted: usize,
    pub attempts: usize,
    /// Attempts whose result was not used.
    pub attempts_wasted: usize,
    pub storage: StorageUse,
    /// Time in which the attempts ran their plans, in seconds, summed up: computing, and waiting for bytes. Each attempt runs
    /// its lanes side by side.
    pub execute_seconds: f64,
    /// Times of the adopted fragments. None where there is none.
    pub fragment_seconds: Option<FragmentSeconds>,
    /// Rows of the adopted results, also of those that went to other functions.
    pub rows: u64,
    /// Bytes of the adopted results, without those that are in objects for other functions.
    pub result_bytes: u64,
    /// Rows for functions of another stage. None where they went to the coordinator, or were not there when the query ended.
    pub parts: Option<StageParts>,
    /// Partitions of the rows that it reads of which several lanes had parts. None where each lane had whole ones.
    pub split: Option<StageSplit>,
    /// Fragments that ran out of memory, and of which each partition became a fragment.
    pub fragments_taken_apart: usize,
    /// Build sides of joins whose rows all fragments got, and their encoded bytes, each build side once.
    pub broadcasts: usize,
    pub broadcast_bytes: u64,
    /// Stage in whose place it ran. None where it was planned to run.
    pub in_place_of: Option<ReplacedStage>,
    /// Most memory that a function's pool had at a time.
    pub memory_peak_bytes: u64,
    pub spilled_bytes: u64,
    /// Money for the attempts. None where they are not priced.
    pub cost: Option<StageCost>,
}

/// Times of a stage's adopted fragments, in seconds: from the start of a fragment's first attempt to the end of the one that was used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FragmentSeconds {
    pub slowest: f64,
    /// The middle one, or the shorter of two.
    pub median: f64,
}

/// Rows that a stage left for functions of another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StageParts {
    pub partitions: u64,
    /// Objects of the exchange that hold them.
    pub objects: u64,
    /// Encoded bytes, also of rows that came with responses.
    pub bytes: u64,
}

/// Stage over exchanges that another has taken the place of, because the build sides of its joins were small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReplacedStage {
    pub stage: u32,
    /// Encoded bytes of the rows that were sent for the build sides.
    pub build_bytes: u64,
    /// Bytes in memory that the build sides were expected to have. None where no statistics told.
    pub build_bytes_expected: Option<u64>,
}

/// Partitions that were split because they are much larger than others, or than a function should read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StageSplit {
    pub partitions: u64,
    /// Parts of all of them.
    pub parts: u64,
    /// Encoded bytes of all of them.
    pub bytes: u64,
    /// Encoded bytes of the middle one of all partitions.
    pub median_bytes: u64,
}

/// Money for the attempts of a stage. Sums over stages are those of all attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StageCost {
    /// Money that is reported or metered.
    pub known: Money,
    /// The same with the bounded amounts at their bounds.
    pub at_most: Money,
}

/// Fold of events into the work of stages.
#[derive(Default)]
pub(super) struct StageFold<'a> {
    stages: BTreeMap<u32, StageWork>,
    /// Start of each fragment's first attempt, until one is adopted.
    begun: BTreeMap<&'a FragmentId, Duration>,
    /// Ends of attempts.
    ended: BTreeMap<(&'a FragmentId, u32), Duration>,
    /// Seconds of the adopted fragments, by stage.
    seconds: BTreeMap<u32, Vec<f64>>,
}

impl<'a> StageFold<'a> {
    pub(super) fn add(&mut self, at: Duration, event: &'a QueryEvent) {
        match event {
            QueryEvent::StageStarted { stage, fragments, .. } => self.of(*stage).fragments += *fragments as usize,
            QueryEvent::RowsBroadcast { stage, bytes, .. } => {
                let stage = self.of(*stage);
                stage.broadcasts += 1;
                stage.broadcast_bytes += bytes;
            }
            QueryEvent::BuildsCopied { stage, by, bytes, bytes_expected, .. } => {
                let replaced =
                    ReplacedStage { stage: *stage, build_bytes: *bytes, build_bytes_expected: *bytes_expected };
                self.of(*by).in_place_of = Some(replaced);
            }
            QueryEvent::RowsParted { stage, partitions, objects, bytes } => {
                let parts = self.of(*stage).parts.get_or_insert_default();
                parts.partitions = *partitions;
                parts.objects += objects;
                parts.bytes += bytes;
            }
            QueryEvent::PartitionsSplit { stage, partitions, parts, bytes, median_bytes } => {
                let (partitions, parts, bytes, median_bytes) = (*partitions, *parts, *bytes, *median_bytes);
                self.of(*stage).split = Some(StageSplit { partitions, parts, bytes, median_bytes });
            }
            QueryEvent::FragmentTakenApart { id, pieces } => {
                let stage = self.of(id.stage);
                stage.fragments_taken_apart += 1;
                stage.fragments = (stage.fragments + *pieces as usize).saturating_sub(1);
            }
            QueryEvent::AttemptStarted { id, .. } => {
                self.of(id.stage).attempts += 1;
                self.begun.entry(id).or_insert(at);
            }
            QueryEvent::AttemptEnded { id, attempt, outcome, .. } => {
                self.ended.insert((id, *attempt), at);
                match outcome {
                    AttemptOutcome::Done { usage, .. } => {
                        let stage = self.of(id.stage);
                        stage.read(usage);
                        stage.memory_peak_bytes = stage.memory_peak_bytes.max(usage.memory_peak_bytes);
                        stage.spilled_bytes += usage.spilled_bytes;
                    }
                    AttemptOutcome::FragmentFailed { usage, .. } => self.of(id.stage).read(usage),
                    AttemptOutcome::InvokeFailed { .. } | AttemptOutcome::Cancelled => {}
                }
            }
            QueryEvent::FragmentAdopted { id, attempt, rows, result_bytes, .. } => {
                let stage = self.of(id.stage);
                stage.fragments_adopted += 1;
                stage.rows += rows;
                stage.result_bytes += result_bytes;
                // A recursive query runs a fragment again.
                if let Some((begun, ended)) = self.begun.remove(id).zip(self.ended.get(&(id, *attempt))) {
                    let seconds = ended.saturating_sub(begun).as_secs_f64();
                    self.seconds.entry(id.stage).or_default().push(seconds);
                }
            }
            _ => {}
        }
    }

    /// Returns the stages in their order. `wasted` has the fragment of each attempt without use.
    pub(super) fn stages<'b>(mut self, wasted: impl Iterator<Item = &'b FragmentId>) -> Vec<StageWork> {
        for id in wasted {
            self.of(id.stage).attempts_wasted += 1;
        }
        for (stage, mut seconds) in std::mem::take(&mut self.seconds) {
            seconds.sort_by(f64::total_cmp);
            let median = seconds.get(seconds.len().saturating_sub(1) / 2).copied();
            let times = seconds.last().copied().zip(median);
            self.of(stage).fragment_seconds = times.map(|(slowest, median)| FragmentSeconds { slowest, median });
        }
        self.stages.into_values().collect()
    }

    fn of(&mut self, stage: u32) -> &mut StageWork {
        self.stages.entry(stage).or_insert_with(|| StageWork { stage, ..StageWork::default() })
    }
}

impl StageWork {
    fn read(&mut self, usage: &Usage) {
        self.storage.add(usage);
        self.execute_seconds += usage.spans.execute_us as f64 / 1e6;
    }
}

#[cfg(test)]
#[path = "stages_tests.rs"]
mod tests;
