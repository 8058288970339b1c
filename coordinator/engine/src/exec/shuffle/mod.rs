//! Rows that functions leave for functions of another stage: which fragment reads which partitions of them.
//!
//! ```text
//!  producers' stage ─► every fragment adopted ─┬─► bytes of each partition ─► runs of partitions ─► fragments of the next stage
//!                       (a barrier)            └─► one attempt of each producer ─► slices that name it
//! ```
//!
//! A stage that makes few objects of many runs if the next stage would have to ask for too many. Else its rows are those below it.
//!
//! The producers of a join's build side may run before the others. If their rows turn out to be few, no other stage leaves rows ([`copies`]).
//!
//! The number of fragments is chosen when the sizes are known. Each has some neighbouring partitions, and each of its lanes some of these. A partition belongs to one
//! lane, the same one for all exchanges of the stage.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::physical_plan::ExecutionPlan;
use futures::future::{BoxFuture, try_join_all};
use futures::{FutureExt, TryStreamExt};
use gust_protocol::LostInput;
use gust_protocol::parts::PartsInput;

use super::RemoteFragmentExec;
use super::broadcast::{Begun, Joining};
use super::query::QueryContext;
use super::run::FragmentAnswer;
use crate::exchange::EXCHANGE_ACCESS;
use crate::planner::Stage;
use crate::planner::graph::{RowsOrder, StageShuffle};
use crate::planner::keys::{Came, has_no_row};
use produced::{Produced, Restored};

mod copies;
mod produced;

/// Most bytes of rows by partition that travel with responses, and then with requests, of all stages that one reads. One request may have them all, and a payload has 6 MB.
const PARTS_INLINE_BYTES_MAX: u64 = 1 << 20;

/// Encoded bytes that a fragment over exchanges should read at most: a Lambda function's burst is not used up yet.
const FRAGMENT_BYTES_MAX: u64 = 128 << 20;

/// Part of the coordinator's memory that the rows of one fragment may have where they are taken in order: they are held as a whole, those of two at a time.
const IN_ORDER_DIVISOR: u64 = 8;

/// Bytes of a function's memory for each encoded byte that it reads of other stages. Rows are twice as long when they are decoded, and a hash table has them and more.
const MEMORY_PER_FRAGMENT_BYTE: u64 = 8;

/// Most times that a fragment runs again because rows of other stages were lost and are there again, beside once for each of these stages. All rows that are gone are made
/// anew at once, but those with other bytes are found one stage after the other.
const RESTORES_MAX: usize = 4;

/// Returns the most bytes of one fragment's rows by partition that travel with its response.
pub(super) fn parts_inline_bytes_max(stage: &Stage, fragments: usize) -> u64 {
    PARTS_INLINE_BYTES_MAX / (fragments * stage.shuffle.siblings).max(1) as u64
}

/// Rows that a stage reads, and its fragments' parts of them.
pub(super) struct ReceivedParts {
    /// Rows by the numbers of the leaves of the stage's plan.
    produced: Vec<Produced>,
    /// Partitions of each fragment's lanes.
    fragments: Vec<Vec<Range<usize>>>,
    prefix: String,
}

impl std::fmt::Debug for ReceivedParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceivedParts").field("fragments", &self.fragments).finish_non_exhaustive()
    }
}

/// Bytes of a slice's place in a request: eight numbers, in Base64.
const SLICE_BYTES: u64 = 48;

/// Work of one fragment over exchanges.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PartsWork {
    /// Reads in the exchange.
    pub(super) reads: usize,
    /// Bytes of these.
    pub(super) bytes: u64,
    /// Bytes of rows that travel with the request.
    pub(super) inline_bytes: u64,
    /// Bytes of the request that name rows.
    pub(super) slice_bytes: u64,
}

impl ReceivedParts {
    /// Chooses the fragments of a stage. Each function has so much memory, and so has the coordinator.
    fn of(stage: &Stage, produced: Vec<Produced>, prefix: String, memory: Memory) -> Self {
        let StageShuffle { input_partitions, fragment_bytes_min, fragments_max, combining, .. } = stage.shuffle;
        // A join without a row at one side may have none at all: then nobody reads the other.
        let is_empty = |partition: usize, came: Came| {
            let Came::Parts(number) = came else { return false };
            produced.get(number).is_some_and(|produced| produced.weights[partition] == 0)
        };
        let bytes_of = |partition: usize| produced.iter().map(|produced| produced.weights[partition]).sum::<u64>();
        let weights: Vec<u64> = (0..input_partitions).map(bytes_of).collect();
        let may_have_rows = |partition: usize| !has_no_row(&stage.plan, &|came| is_empty(partition, came));
        // One that combines objects has no fragments by the plan where these were expected to be few.
        let planned = combining.map_or(stage.fragments.len(), |combining| combining.functions());
        let lanes = stage.fragments.first().map_or(1, |fragment| fragment.lanes.len());
        let here_max = match stage.order {
            RowsOrder::InOrder => memory.here / IN_ORDER_DIVISOR,
            RowsOrder::Any | RowsOrder::Merged => u64::MAX,
        };
        let bytes_max = FRAGMENT_BYTES_MAX.min(memory.function / MEMORY_PER_FRAGMENT_BYTE).min(here_max).max(1);
        let width =
            Width { planned, most: fragments_max.max(planned), lanes, bytes_min: fragment_bytes_min, bytes_max };
        let fragments = fragments(&weights, &may_have_rows, width);
        Self { produced, fragments, prefix }
    }

    /// Returns the rows as they are if they are one stage's.
    fn into_produced(mut self) -> Option<Produced> {
        self.produced.pop().filter(|_| self.produced.is_empty())
    }

    /// Returns the number of fragments: none where there are no rows.
    pub(super) fn fragments(&self) -> usize {
        self.fragments.len()
    }

    /// Returns the most times that one fragment runs again because rows were lost and are there again.
    pub(super) fn restores_max(&self) -> usize {
        RESTORES_MAX + self.produced.len()
    }

    /// Returns the rows of a fragment, by the numbers of the plan's leaves. They are those of the attempts that are read now.
    pub(super) fn inputs(&self, fragment: usize) -> Vec<PartsInput> {
        let input = |produced: &Produced| PartsInput {
            access: EXCHANGE_ACCESS,
            prefix: self.prefix.clone(),
            lanes: self.fragments[fragment].iter().map(|run| produced.slices(run).encoded()).collect(),
        };
        self.produced.iter().map(input).collect()
    }

    /// Returns the work of a fragment with its rows.
    pub(super) fn work(&self, fragment: usize) -> PartsWork {
        let mut work = PartsWork::default();
        for run in &self.fragments[fragment] {
            self.produced.iter().for_each(|produced| produced.add_work(run, &mut work));
        }
        work
    }

    /// Returns the encoded bytes of a fragment's rows.
    fn bytes_of(&self, fragment: usize) -> u64 {
        let partitions = self.fragments[fragment].iter().flat_map(Clone::clone);
        partitions.map(|partition| self.produced.iter().map(|produced| produced.weights[partition]).sum::<u64>()).sum()
    }

    /// Makes rows anew that are lost, if that gives the same rows. Others that are gone, too, are made anew with them. Returns false where it does not.
    ///
    /// # Errors
    /// The failure of a fragment.
    pub(super) fn restore<'a>(&'a self, lost: &'a LostInput, query: &'a QueryContext) -> BoxFuture<'a, Result<bool>> {
        async move {
            let Some(of) = self.produced.iter().find(|produced| produced.stage == lost.stage) else { return Ok(false) };
            match of.restore(lost, query).await? {
                Restored::Refused => return Ok(false),
                // Whoever did it has looked at the others as well.
                Restored::ByAnother => {}
                Restored::Now => {
                    let others = self.produced.iter().filter(|produced| produced.stage != lost.stage);
                    try_join_all(others.map(|produced| produced.restore_gone(query))).await?;
                }
            }
            Ok(true)
        }
        .boxed()
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

/// Bytes of memory.
#[derive(Debug, Clone, Copy)]
struct Memory {
    /// Memory of each function.
    function: u64,
    /// Memory of the coordinator.
    here: u64,
}

/// Bounds of a stage's fragments.
#[derive(Debug, Clone, Copy)]
struct Width {
    /// Fragments by the plan.
    planned: usize,
    /// Most fragments.
    most: usize,
    lanes: usize,
    /// Bytes that a fragment has at least, unless there are fewer.
    bytes_min: u64,
    /// Bytes above which there are more fragments than planned.
    bytes_max: u64,
}

impl Width {
    fn fragments(&self, bytes: u64) -> usize {
        let of = |each: u64| usize::try_from(bytes.div_ceil(each.max(1))).unwrap_or(usize::MAX);
        of(self.bytes_min).min(self.planned).max(of(self.bytes_max)).clamp(1, self.most.max(1))
    }
}

/// Cuts partitions of these bytes into runs, one a lane. A run begins and ends with a partition that has bytes and whose join may have rows. Its other partitions
/// are read, too, so that all bytes count for its length.
fn fragments(weights: &[u64], may_have_rows: &dyn Fn(usize) -> bool, width: Width) -> Vec<Vec<Range<usize>>> {
    let total: u64 = weights.iter().sum();
    if total == 0 {
        return Vec::new();
    }
    let lanes = width.lanes;
    let runs = width.fragments(total) * lanes.max(1);
    let (mut ends, mut sum) = (vec![0; runs], 0_u128);
    for (partition, weight) in weights.iter().enumerate() {
        sum += u128::from(*weight);
        // A run ends with the partition by whose end it has its share.
        let full = (sum * runs as u128 / u128::from(total)) as usize;
        ends[..full.min(runs)].iter_mut().filter(|end| **end == 0).for_each(|end| *end = partition + 1);
    }
    let is_wanted = |partition: &usize| weights[*partition] > 0 && may_have_rows(*partition);
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let trimmed = |(start, end): (usize, &usize)| {
        let first = (start..*end).find(is_wanted)?;
        let end = (first..*end).rfind(is_wanted)? + 1;
        Some(first..end)
    };
    let cut: Vec<Range<usize>> = starts.zip(&ends).filter_map(trimmed).collect();
    cut.chunks(lanes.max(1)).map(<[Range<usize>]>::to_vec).collect()
}

/// Returns the number of fragments with which a stage begins.
pub(super) fn fragments_of(stage: &Stage, received: Option<&ReceivedParts>) -> usize {
    received.map_or(stage.fragments.len(), ReceivedParts::fragments)
}

/// Rows of other stages for a stage.
pub(super) enum Received {
    /// Rows by partition. None where there are no such stages.
    Parts(Option<Arc<ReceivedParts>>),
    /// Copies of all rows of the build sides of its joins, for the stage that takes its place.
    Copied(Box<Begun>),
}

/// Runs the stages that leave rows for another, each to its end. Those of build sides that may be small come first, and may be all.
pub(super) async fn received(joining: &Joining, producers: &[Arc<dyn ExecutionPlan>]) -> Result<Received> {
    let Some((last, others)) = producers.split_last() else { return Ok(Received::Parts(None)) };
    let produced = match &joining.stage.copies {
        Some(with_copies) => {
            let mut produced = all_produced(joining, others).await?;
            if let Some(begun) = copies::begun(joining, with_copies, &produced).await? {
                copies::leave_out(last, &joining.query);
                return Ok(Received::Copied(Box::new(begun)));
            }
            produced.extend(all_produced(joining, std::slice::from_ref(last)).await?);
            produced
        }
        None => all_produced(joining, producers).await?,
    };
    let prefix = joining.query.exchange.prefix.clone();
    let here = match joining.context.memory_pool().memory_limit() {
        MemoryLimit::Finite(bytes) => bytes as u64,
        MemoryLimit::Infinite | MemoryLimit::Unknown => u64::MAX,
    };
    let memory = Memory { function: joining.query.limits.memory_bytes_max, here };
    Ok(Received::Parts(Some(Arc::new(ReceivedParts::of(&joining.stage, produced, prefix, memory)))))
}

/// Runs stages that leave rows for another, side by side.
async fn all_produced(joining: &Joining, producers: &[Arc<dyn ExecutionPlan>]) -> Result<Vec<Produced>> {
    let produce = |producer: &Arc<dyn ExecutionPlan>| {
        let stage = producer
            .downcast_ref::<RemoteFragmentExec>()
            .ok_or_else(|| DataFusionError::Internal(format!("{} leaves no rows in the exchange", producer.name())))?;
        Ok::<_, DataFusionError>(produced(stage.joining_in(&joining.query, &joining.context), stage.producers.clone()))
    };
    try_join_all(producers.iter().map(produce).collect::<Result<Vec<_>>>()?).await
}

/// Runs one such stage, after those below it.
fn produced(joining: Joining, producers: Vec<Arc<dyn ExecutionPlan>>) -> BoxFuture<'static, Result<Produced>> {
    async move {
        let mut begun = match received(&joining, &producers).await? {
            Received::Copied(begun) => *begun,
            Received::Parts(parts) => {
                let (stage, numbers) = (Arc::clone(&joining.stage), joining.numbers.clone());
                Begun { stage, numbers, shared: Vec::new(), parts }
            }
        };
        let Joining { expected, query, context, .. } = &joining;
        let (stage, parts) = (Arc::clone(&begun.stage), &mut begun.parts);
        if let Some(combining) = stage.shuffle.combining {
            let objects = parts.iter().flat_map(|received| &received.produced).map(|rows| rows.objects().count).sum();
            let is_wanted = |received: &Arc<ReceivedParts>| combining.pays(objects, received.fragments());
            if let Some(rows) = parts.take_if(|received| !is_wanted(received)) {
                query.attempts.expect_fragments(expected, 0);
                let rows = Arc::into_inner(rows).and_then(ReceivedParts::into_produced);
                let lost =
                    || DataFusionError::Internal(format!("the rows below stage {} are others' as well", stage.index));
                return rows.ok_or_else(lost);
            }
        }
        let partitions = stage.shuffle.partitions.ok_or_else(|| {
            DataFusionError::Internal(format!("stage {} leaves no rows in the exchange", stage.index))
        })?;
        let parts = parts.clone();
        let answers = begun.start(&joining, 1)?.pop().flatten();
        let answers = answers.ok_or_else(|| DataFusionError::Internal("a stage has no answers".to_owned()))?;
        let answers: Vec<FragmentAnswer> = answers.answers().try_collect().await?;
        let produced = Produced::of(&stage, partitions, answers, parts, query, context.memory_pool()).await?;
        produced.note(query.attempts.events());
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
            let width = Width { planned: most, most, lanes, bytes_min, bytes_max: u64::MAX };
            let runs = fragments(weights, &|_| true, width);
            let ends = |lanes: &Vec<Range<usize>>| lanes.iter().map(|run| (run.start, run.end)).collect::<Vec<_>>();
            assert_eq!(runs.iter().map(ends).collect::<Vec<_>>(), expect, "{weights:?} {most} {lanes} {bytes_min}");
        }
        check(&[1, 1, 1, 1], 2, 1, 1, &[&[(0, 2)], &[(2, 4)]]);
        check(&[1, 1, 1, 1], 2, 2, 1, &[&[(0, 1), (1, 2)], &[(2, 3), (3, 4)]]);
        check(&[1, 1, 1, 1], 8, 1, 2, &[&[(0, 2)], &[(2, 4)]]);
        check(&[1, 1, 1, 1], 8, 1, 100, &[&[(0, 4)]]);
        check(&[9, 1, 1, 1], 2, 1, 1, &[&[(0, 1)], &[(1, 4)]]);
        check(&[1, 1, 1, 9], 2, 1, 1, &[&[(0, 4)]]);
        check(&[0, 0, 5, 0], 4, 1, 1, &[&[(2, 3)]]);
        check(&[5, 0, 0, 5], 4, 2, 1, &[&[(0, 1), (3, 4)]]);
        check(&[0, 0, 0], 4, 1, 1, &[]);
    }

    #[test]
    fn partitions_whose_join_has_no_row_are_trimmed_and_count() {
        #[track_caller]
        fn check(weights: &[u64], wanted: &[usize], lanes: usize, expect: &[&[(usize, usize)]]) {
            // A lane should read at most 10 bytes.
            let width = Width { planned: 1, most: 100, lanes, bytes_min: 1, bytes_max: 10 * lanes as u64 };
            let runs = fragments(weights, &|partition| wanted.contains(&partition), width);
            let ends = |lanes: &Vec<Range<usize>>| lanes.iter().map(|run| (run.start, run.end)).collect::<Vec<_>>();
            assert_eq!(runs.iter().map(ends).collect::<Vec<_>>(), expect, "{weights:?} {wanted:?} {lanes}");
        }
        // At the ends, and all.
        check(&[5, 5, 5, 5], &[1], 1, &[&[(1, 2)]]);
        check(&[5, 5, 5, 5], &[2], 1, &[&[(2, 3)]]);
        check(&[5, 5, 5, 5], &[], 1, &[]);
        // Between two that are wanted: what is read counts.
        check(&[1, 8, 1, 10], &[0, 2], 1, &[&[(0, 3)]]);
        check(&[1, 10, 10, 10, 10, 10, 1], &[0, 6], 1, &[&[(0, 1)], &[(6, 7)]]);
        check(&[1, 9, 10, 9, 1], &[0, 4], 2, &[&[(0, 1), (4, 5)]]);
        // One without bytes is not wanted.
        check(&[0, 5, 5, 0], &[0, 1, 2, 3], 1, &[&[(1, 3)]]);
    }

    #[test]
    fn a_stage_has_as_many_fragments_as_its_bytes_need() {
        // Planned are 4 of at most 100. A fragment should have 10 to 1,000 bytes.
        let width = Width { planned: 4, most: 100, lanes: 1, bytes_min: 10, bytes_max: 1_000 };
        for (bytes, expect) in
            [(1, 1), (10, 1), (25, 3), (40, 4), (4_000, 4), (4_001, 5), (50_000, 50), (100_001, 100), (u64::MAX, 100)]
        {
            assert_eq!(width.fragments(bytes), expect, "{bytes}");
        }
        // With a number of partitions all planned ones are used.
        assert_eq!(Width { bytes_min: 1, ..width }.fragments(25), 4);
    }

    #[test]
    fn every_partition_with_rows_is_in_one_run() {
        for seed in 0_u64..200 {
            let weights: Vec<u64> = (0..1 + seed % 17).map(|at| (seed * 31 + at * at * 7) % 5 * (at % 3)).collect();
            let may_have_rows = |at: usize| !(seed as usize + at * 5).is_multiple_of(4);
            for (most, lanes) in [(1, 1), (3, 1), (4, 2), (100, 3)] {
                let width = Width { planned: most, most, lanes, bytes_min: 1, bytes_max: u64::MAX };
                let runs: Vec<Range<usize>> = fragments(&weights, &may_have_rows, width).concat();
                let covered = |at: &usize| runs.iter().filter(|run| run.contains(at)).count();
                for (at, weight) in weights.iter().enumerate() {
                    let is_wanted = *weight > 0 && may_have_rows(at);
                    assert!(covered(&at) == 1 || (covered(&at) == 0 && !is_wanted), "{weights:?} {runs:?}");
                }
                assert!(runs.len() <= most * lanes);
            }
        }
    }
}
