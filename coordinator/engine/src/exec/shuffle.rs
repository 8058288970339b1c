//! Rows that functions leave for functions of another stage: which fragment reads which partitions of them.
//!
//! ```text
//!  producers' stage ─► every fragment adopted ─┬─► bytes of each partition ─► runs of partitions ─► fragments of the next stage
//!                       (a barrier)            └─► one attempt of each producer ─► slices that name it
//! ```
//!
//! The number of fragments is chosen when the sizes are known. Each has some neighbouring partitions, and each of its lanes some of these. A partition belongs to one
//! lane, the same one for all exchanges of the stage.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result};
use datafusion::physical_plan::ExecutionPlan;
use futures::future::{BoxFuture, try_join_all};
use futures::{FutureExt, TryStreamExt};
use gust_protocol::parts::{LaneSlices, PartsInput, Regions, Slice};
use gust_protocol::{Base64, FragmentId, FragmentResult, LostInput, PartsPlace, StreamSummary};

use super::RemoteFragmentExec;
use super::broadcast::Joining;
use super::result_memory::ResultReservation;
use super::run::{FragmentAnswer, StageRun};
use crate::events::QueryEvent;
use crate::exchange::EXCHANGE_ACCESS;
use crate::planner::Stage;
use crate::planner::graph::StageShuffle;
use crate::scheduler::{AttemptResult, FragmentAttempts};

/// Most bytes of rows by partition that travel with responses, and then with requests, of all stages that one reads. One request may have them all, and a payload has 6 MB.
const PARTS_INLINE_BYTES_MAX: u64 = 1 << 20;

/// Returns the most bytes of one fragment's rows by partition that travel with its response.
pub(super) fn parts_inline_bytes_max(stage: &Stage, fragments: usize) -> u64 {
    PARTS_INLINE_BYTES_MAX / (fragments * stage.shuffle.siblings).max(1) as u64
}

/// Rows of one attempt, by partition.
struct PartedRows {
    attempt: u32,
    regions: Regions,
    /// The bytes, where they came with the response.
    inline: Option<Bytes>,
}

impl PartedRows {
    /// Takes an answer of a fragment apart, and verifies it. What is not as it says is refused, and the fragment runs again.
    async fn of(attempts: &mut FragmentAttempts, mut adopted: AttemptResult, partitions: usize) -> Result<Self> {
        loop {
            let reason = match Self::verified(adopted, partitions) {
                Ok(rows) => return Ok(rows),
                Err(reason) => reason,
            };
            let again = attempts.refuse(format!("rows by partition of fragment {}: {reason}: refused", attempts.id()));
            adopted = again.await.map_err(|failure| DataFusionError::External(Box::new(failure)))?;
        }
    }

    fn verified(AttemptResult { result, attempt }: AttemptResult, partitions: usize) -> Result<Self, String> {
        let FragmentResult::Parts { place, part, regions } = result else {
            return Err("they are not parted".to_owned());
        };
        let regions = Regions::decode(&regions)?;
        if regions.0.len() != partitions || regions.whole() != part {
            return Err(format!("{} partitions of {partitions}, or other sums than theirs", regions.0.len()));
        }
        let inline = match place {
            PartsPlace::Inline(Base64(bytes)) => Some(bytes),
            PartsPlace::Object(_) => None,
        };
        let holds = |bytes: &Bytes| bytes.len() as u64 == part.bytes && crc32fast::hash(bytes) == part.crc32;
        match inline.as_ref().is_none_or(holds) {
            true => Ok(Self { attempt, regions, inline }),
            false => Err("they do not match their checksum".to_owned()),
        }
    }
}

/// Fragment that leaves rows for others.
struct ProducedFragment {
    id: FragmentId,
    /// Rows of the one attempt that is read.
    rows: std::sync::Mutex<Arc<PartedRows>>,
    /// Attempts of the fragment, for other rows if these are lost.
    attempts: tokio::sync::Mutex<FragmentAttempts>,
    /// Memory of rows that came with the response.
    _held: ResultReservation,
}

impl ProducedFragment {
    fn rows(&self) -> Arc<PartedRows> {
        Arc::clone(&self.rows.lock().expect("no holder panics"))
    }
}

/// Rows of a stage, by partition.
pub(super) struct Produced {
    fragments: Vec<ProducedFragment>,
    partitions: usize,
    /// True if another attempt of a fragment gives the same rows to each partition.
    is_determinate: bool,
    /// Bytes of each partition.
    weights: Vec<u64>,
}

impl Produced {
    /// Takes one answer of each fragment of a stage.
    async fn of(stage: &Stage, partitions: usize, answers: Vec<FragmentAnswer>) -> Result<Self> {
        let (mut fragments, mut weights) = (Vec::with_capacity(answers.len()), vec![0; partitions]);
        for FragmentAnswer { adopted, mut attempts, inline: held } in answers {
            let id = attempts.id().clone();
            let rows = PartedRows::of(&mut attempts, adopted, partitions).await?;
            weights.iter_mut().zip(&rows.regions.0).for_each(|(weight, region)| *weight += region.bytes);
            let (rows, attempts) = (std::sync::Mutex::new(Arc::new(rows)), tokio::sync::Mutex::new(attempts));
            fragments.push(ProducedFragment { id, rows, attempts, _held: held });
        }
        fragments.sort_by_key(|fragment| fragment.id.index);
        Ok(Self { fragments, partitions, is_determinate: stage.shuffle.is_determinate, weights })
    }

    /// Returns the slices of a run of partitions. Producers without rows in it are left out.
    fn slices(&self, partitions: &Range<usize>) -> LaneSlices {
        let slices = self.fragments.iter().filter_map(|ProducedFragment { id, rows, .. }| {
            let rows = rows.lock().expect("no holder panics");
            let (start, StreamSummary { bytes, rows: count, crc32 }) = rows.regions.run(partitions.clone());
            let inline = rows.inline.as_ref().map(|inline| {
                let (start, end) = (start as usize, (start + bytes) as usize);
                inline.slice(start..end)
            });
            let (stage, index, attempt) = (id.stage, id.index, rows.attempt);
            (bytes > 0).then_some(Slice { stage, index, attempt, start, bytes, rows: count, crc32, inline })
        });
        LaneSlices { slices: slices.collect() }
    }

    /// Makes the rows of a fragment anew that are lost. Returns false if another attempt would part its rows in another way: then its rows and those that others have read
    /// would be of two answers.
    async fn restore(&self, lost: &LostInput) -> Result<bool> {
        let of = |fragment: &&ProducedFragment| fragment.id.stage == lost.stage && fragment.id.index == lost.index;
        let Some(fragment) = self.fragments.iter().find(of).filter(|_| self.is_determinate) else { return Ok(false) };
        let mut attempts = fragment.attempts.lock().await;
        // Another reader may have asked before.
        if fragment.rows().attempt == lost.attempt {
            let adopted = attempts.refuse(lost.to_string()).await;
            let adopted = adopted.map_err(|failure| DataFusionError::External(Box::new(failure)))?;
            let rows = PartedRows::of(&mut attempts, adopted, self.partitions).await?;
            *fragment.rows.lock().expect("no holder panics") = Arc::new(rows);
        }
        Ok(true)
    }
}

/// Rows that a stage reads, and its fragments' parts of them.
pub(super) struct ReceivedParts {
    /// Rows by the numbers of the leaves of the stage's plan.
    produced: Vec<Produced>,
    /// Partitions of each fragment's lanes.
    fragments: Vec<Vec<Range<usize>>>,
    prefix: String,
}

/// Work of one fragment over exchanges.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PartsWork {
    /// Reads in the exchange.
    pub(super) reads: usize,
    /// Bytes of these.
    pub(super) bytes: u64,
    /// Bytes that travel with the request.
    pub(super) inline_bytes: u64,
}

impl ReceivedParts {
    fn of(stage: &Stage, produced: Vec<Produced>, prefix: String) -> Self {
        let StageShuffle { input_partitions, fragment_bytes_min, .. } = stage.shuffle;
        let bytes_of = |partition: usize| produced.iter().map(|produced| produced.weights[partition]).sum();
        let weights: Vec<u64> = (0..input_partitions).map(bytes_of).collect();
        let lanes = stage.fragments.first().map_or(1, |fragment| fragment.lanes.len());
        let fragments = fragments(&weights, stage.fragments.len(), lanes, fragment_bytes_min);
        Self { produced, fragments, prefix }
    }

    /// Returns the number of fragments: none where there are no rows.
    pub(super) fn fragments(&self) -> usize {
        self.fragments.len()
    }

    /// Returns the rows of a fragment, by the numbers of the plan's leaves.
    pub(super) fn inputs(&self, fragment: usize) -> (Vec<PartsInput>, PartsWork) {
        let mut work = PartsWork::default();
        let mut lane = |produced: &Produced, partitions: &Range<usize>| {
            let lane = produced.slices(partitions);
            for slice in &lane.slices {
                match slice.inline {
                    Some(_) => work.inline_bytes += slice.bytes,
                    None => (work.reads, work.bytes) = (work.reads + 1, work.bytes + slice.bytes),
                }
            }
            lane.encoded()
        };
        let mut inputs = Vec::with_capacity(self.produced.len());
        for produced in &self.produced {
            let lanes = self.fragments[fragment].iter().map(|partitions| lane(produced, partitions)).collect();
            inputs.push(PartsInput { access: EXCHANGE_ACCESS, prefix: self.prefix.clone(), lanes });
        }
        (inputs, work)
    }

    /// Returns the encoded bytes of a fragment's rows.
    fn bytes_of(&self, fragment: usize) -> u64 {
        let partitions = self.fragments[fragment].iter().flat_map(Clone::clone);
        partitions.map(|partition| self.produced.iter().map(|produced| produced.weights[partition]).sum::<u64>()).sum()
    }

    /// Makes rows anew that are lost, if that gives the same rows.
    ///
    /// # Errors
    /// The failure of their fragment.
    pub(super) async fn restore(&self, lost: &LostInput) -> Result<bool> {
        for produced in &self.produced {
            if produced.restore(lost).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the bytes of all rows.
    pub(super) fn bytes(&self) -> u64 {
        (0..self.fragments.len()).map(|fragment| self.bytes_of(fragment)).sum()
    }

    /// Returns the times that fragments are expected to take.
    pub(super) fn expected(&self, stage: &Stage) -> Vec<Duration> {
        let time = |fragment: usize| {
            stage.shuffle.model.fragment_time(self.bytes_of(fragment), self.fragments[fragment].len())
        };
        (0..self.fragments.len()).map(time).collect()
    }
}

/// Cuts partitions of these bytes into runs, one a lane, for at most `fragments_max` fragments of `lanes` lanes. A fragment has `bytes_min` bytes, unless there are
/// fewer. No run is without bytes.
fn fragments(weights: &[u64], fragments_max: usize, lanes: usize, bytes_min: u64) -> Vec<Vec<Range<usize>>> {
    let total: u64 = weights.iter().sum();
    if total == 0 {
        return Vec::new();
    }
    let wanted = usize::try_from(total.div_ceil(bytes_min.max(1))).unwrap_or(usize::MAX);
    let runs = wanted.clamp(1, fragments_max.max(1)) * lanes.max(1);
    let (mut ends, mut sum) = (vec![0; runs], 0_u128);
    for (partition, weight) in weights.iter().enumerate() {
        sum += u128::from(*weight);
        // A run ends with the partition by whose end it has its share.
        let full = (sum * runs as u128 / u128::from(total)) as usize;
        ends[..full.min(runs)].iter_mut().filter(|end| **end == 0).for_each(|end| *end = partition + 1);
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let cut = starts.zip(&ends).map(|(start, end)| start..*end);
    let cut: Vec<Range<usize>> = cut.filter(|run| weights[run.clone()].iter().any(|weight| *weight > 0)).collect();
    cut.chunks(lanes.max(1)).map(<[Range<usize>]>::to_vec).collect()
}

/// Runs the stages that leave rows for another, each to its end. None where there are no such stages.
pub(super) async fn received(
    joining: &Joining,
    producers: &[Arc<dyn ExecutionPlan>],
) -> Result<Option<Arc<ReceivedParts>>> {
    if producers.is_empty() {
        return Ok(None);
    }
    let produce = |producer: &Arc<dyn ExecutionPlan>| {
        let stage = producer
            .downcast_ref::<RemoteFragmentExec>()
            .ok_or_else(|| DataFusionError::Internal(format!("{} leaves no rows in the exchange", producer.name())))?;
        Ok::<_, DataFusionError>(produced(stage.joining_in(&joining.query, &joining.context), stage.producers.clone()))
    };
    let producing = producers.iter().map(produce).collect::<Result<Vec<_>>>()?;
    let produced = try_join_all(producing).await?;
    let prefix = joining.query.exchange.prefix.clone();
    Ok(Some(Arc::new(ReceivedParts::of(&joining.stage, produced, prefix))))
}

/// Runs one such stage, after those below it.
fn produced(joining: Joining, producers: Vec<Arc<dyn ExecutionPlan>>) -> BoxFuture<'static, Result<Produced>> {
    async move {
        let received = received(&joining, &producers).await?;
        let Joining { stage, numbers, query, context, .. } = &joining;
        let partitions = stage.shuffle.partitions.ok_or_else(|| {
            DataFusionError::Internal(format!("stage {} leaves no rows in the exchange", stage.index))
        })?;
        let mut runs = StageRun::start(stage, query, 1, numbers, context, Vec::new(), received)?;
        let answers =
            runs.pop().flatten().ok_or_else(|| DataFusionError::Internal("a stage has no answers".to_owned()))?;
        let answers: Vec<FragmentAnswer> = answers.answers().try_collect().await?;
        let produced = Produced::of(stage, partitions, answers).await?;
        let (mut objects, mut bytes) = (0, 0);
        for fragment in &produced.fragments {
            let rows = fragment.rows();
            let StreamSummary { bytes: own, rows: count, .. } = rows.regions.whole();
            objects += u64::from(rows.inline.is_none());
            bytes += own;
            // The coordinator reads no object of it. Bytes that came with the response go out again.
            query.attempts.events().push(QueryEvent::FragmentAdopted {
                id: fragment.id.clone(),
                attempt: rows.attempt,
                rows: count,
                result_bytes: rows.inline.as_ref().map_or(0, |inline| inline.len() as u64),
                inline: true,
                read: Duration::ZERO,
            });
        }
        query.attempts.events().push(QueryEvent::RowsParted {
            stage: stage.index,
            partitions: partitions as u64,
            objects,
            bytes,
        });
        Ok(produced)
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_cut_into_runs_of_like_size() {
        #[track_caller]
        fn check(weights: &[u64], most: usize, lanes: usize, bytes_min: u64, expect: &[&[(usize, usize)]]) {
            let runs = fragments(weights, most, lanes, bytes_min);
            let ends = |lanes: &Vec<Range<usize>>| lanes.iter().map(|run| (run.start, run.end)).collect::<Vec<_>>();
            assert_eq!(runs.iter().map(ends).collect::<Vec<_>>(), expect, "{weights:?} {most} {lanes} {bytes_min}");
        }
        check(&[1, 1, 1, 1], 2, 1, 1, &[&[(0, 2)], &[(2, 4)]]);
        check(&[1, 1, 1, 1], 2, 2, 1, &[&[(0, 1), (1, 2)], &[(2, 3), (3, 4)]]);
        check(&[1, 1, 1, 1], 8, 1, 2, &[&[(0, 2)], &[(2, 4)]]);
        check(&[1, 1, 1, 1], 8, 1, 100, &[&[(0, 4)]]);
        check(&[9, 1, 1, 1], 2, 1, 1, &[&[(0, 1)], &[(1, 4)]]);
        check(&[1, 1, 1, 9], 2, 1, 1, &[&[(0, 4)]]);
        check(&[0, 0, 5, 0], 4, 1, 1, &[&[(0, 3)]]);
        check(&[5, 0, 0, 5], 4, 2, 1, &[&[(0, 1), (1, 4)]]);
        check(&[0, 0, 0], 4, 1, 1, &[]);
    }

    #[test]
    fn every_partition_with_rows_is_in_one_run() {
        for seed in 0_u64..200 {
            let weights: Vec<u64> = (0..1 + seed % 17).map(|at| (seed * 31 + at * at * 7) % 5 * (at % 3)).collect();
            for (most, lanes) in [(1, 1), (3, 1), (4, 2), (100, 3)] {
                let runs: Vec<Range<usize>> = fragments(&weights, most, lanes, 1).concat();
                let covered = |at: &usize| runs.iter().filter(|run| run.contains(at)).count();
                for (at, weight) in weights.iter().enumerate() {
                    assert!(covered(&at) == 1 || (covered(&at) == 0 && *weight == 0), "{weights:?} {runs:?}");
                }
                assert!(runs.len() <= most * lanes);
            }
        }
    }
}
