//! Rows that functions leave for functions of another stage: which fragment reads which partitions of them.
//!
//! ```text
//!  producers' stage ─► every fragment adopted ─┬─► bytes of each partition ─► runs of partitions ─► fragments of the next stage
//!                       (a barrier)            └─► one attempt of each producer ─► slices that name it
//! ```
//!
//! A stage that makes few objects of many runs if the next stage would have to ask for too many. Else its rows are those below it. Its functions read each object as often as there
//! are runs of partitions. So these are few, and where a run is long, several functions read it from other objects each.
//!
//! The producers of a join's build side may run before the others. If their rows turn out to be few, no other stage leaves rows ([`copies`]).
//!
//! The number of fragments is chosen when the sizes are known ([`crate::planner::lanes`]). Each has some neighbouring partitions, and each of its lanes some of these. A partition belongs to
//! one lane, the same one for all exchanges of the stage. Of one that is much larger than others several lanes have a part of one exchange's rows each, and all of the others',
//! where that gives each row once ([`skew`]).
//!
//! A fragment that runs out of memory is run again as one of each of its partitions.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::repartition::RepartitionExec;
use futures::future::{BoxFuture, try_join_all};
use futures::{FutureExt, TryStreamExt};
use gust_protocol::parts::PartsInput;
use gust_protocol::plan::PartsExec;
use gust_protocol::{LeafId, LostInput};

use super::RemoteFragmentExec;
use super::broadcast::{Begun, Joining};
use super::query::QueryContext;
use super::run::FragmentAnswer;
use crate::events::{EventLog, QueryEvent};
use crate::exchange::EXCHANGE_ACCESS;
use crate::planner::Stage;
use crate::planner::combining::Combiners;
use crate::planner::graph::{RowsOrder, StageShuffle};
use crate::planner::keys::{Came, has_no_row};
use crate::planner::lanes::{LaneParts, LeafPart, Width, fragment_bytes_max, fragments, in_groups, runs};
use crate::planner::passes::skew;
use produced::{Produced, Restored};

mod copies;
mod produced;

/// Most bytes of rows by partition that travel with responses, and then with requests, of all stages that one reads. One request may have them all, and a payload has 6 MB.
const PARTS_INLINE_BYTES_MAX: u64 = 1 << 20;

/// Part of the coordinator's memory that the rows of one fragment may have where they are taken in order: they are held as a whole, those of two at a time.
const IN_ORDER_DIVISOR: u64 = 8;

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
    /// Partitions from which the stage may make rows.
    wanted: Vec<bool>,
    /// Number of fragments with which the stage begins.
    begun: usize,
    /// Most fragments, with those into which fragments are taken apart.
    most: usize,
    /// Lanes of the fragments, and of those into which fragments were taken apart.
    fragments: Mutex<Vec<Arc<[LaneParts]>>>,
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
        let planned = stage.fragments.len();
        let lanes = stage.fragments.first().map_or(1, |fragment| fragment.lanes.len());
        let here_max = match stage.order {
            RowsOrder::InOrder => memory.here / IN_ORDER_DIVISOR,
            RowsOrder::Any | RowsOrder::Merged => u64::MAX,
        };
        let bytes_max = fragment_bytes_max(memory.function).min(here_max).max(1);
        // One that combines objects has no fragments by the plan where it was not expected to pay.
        let width = match combining {
            Some(combining) => combining.width(fragment_bytes_min, bytes_max),
            None => {
                let most = fragments_max.max(planned);
                Width { planned, most, lanes, bytes_min: fragment_bytes_min, bytes_max }
            }
        };
        let splittable = splittable(stage);
        let parts = |partition: usize, share: u64| {
            let own = |leaf: &LeafId| {
                let leaf = *leaf as usize;
                Some((produced.get(leaf)?.weights[partition], leaf))
            };
            let heaviest = splittable.iter().filter_map(own).max();
            let Some((own, leaf)) = heaviest else { return Vec::new() };
            let count = skew::parts(own, weights[partition], share);
            let by_producer = produced[leaf].bytes_by_producer(&(partition..partition + 1));
            let parts = runs(&by_producer, 0..by_producer.len(), count, &|producer| by_producer[producer] > 0);
            parts.into_iter().map(|producers| LeafPart { leaf, producers, is_group: false }).collect()
        };
        let fragments = fragments(&weights, &may_have_rows, &parts, width);
        let fragments = match (combining, produced.first()) {
            (Some(_), Some(rows)) => {
                let by_producer = |lane: &LaneParts| rows.bytes_by_producer(&lane.partitions);
                in_groups(fragments.concat(), &by_producer, bytes_max, fragments_max)
            }
            _ => fragments,
        };
        let wanted =
            (0..input_partitions).map(|partition| weights[partition] > 0 && may_have_rows(partition)).collect();
        let begun = fragments.len();
        let fragments = Mutex::new(fragments.into_iter().map(Arc::from).collect());
        Self { produced, wanted, begun, most: fragments_most(stage), fragments, prefix }
    }

    /// Returns the lanes of a fragment.
    fn lanes(&self, fragment: usize) -> Arc<[LaneParts]> {
        Arc::clone(&self.fragments.lock().expect("no holder panics")[fragment])
    }

    /// Takes a fragment apart: makes one of each of its partitions, in their order, and returns their numbers. There are none if it has one partition alone, or if
    /// there would be too many.
    pub(super) fn taken_apart(&self, fragment: usize) -> Range<usize> {
        let is_wanted = |lane: &LaneParts| self.wanted[lane.partitions.start];
        let each: Vec<LaneParts> = self.lanes(fragment).iter().flat_map(LaneParts::each).filter(is_wanted).collect();
        let mut fragments = self.fragments.lock().expect("no holder panics");
        let first = fragments.len();
        if each.len() > 1 && first + each.len() <= self.most {
            fragments.extend(each.into_iter().map(|lane| -> Arc<[LaneParts]> { Arc::from([lane]) }));
        }
        first..fragments.len()
    }

    /// Returns its functions as those that combine objects.
    fn combiners(&self) -> Combiners {
        let lanes: Vec<LaneParts> = (0..self.begun).flat_map(|fragment| self.lanes(fragment).to_vec()).collect();
        Combiners::of(&lanes)
    }

    /// Tells which partitions were split because they are large. Functions that combine objects may share one that is not.
    pub(super) fn note_split(&self, stage: u32, events: &EventLog) {
        let fragments = self.fragments.lock().expect("no holder panics").clone();
        let lanes = fragments.iter().flat_map(|lanes| lanes.iter());
        let split: Vec<usize> = lanes.filter(|lane| lane.is_split()).map(|lane| lane.partitions.start).collect();
        let partitions: BTreeSet<usize> = split.iter().copied().collect();
        if partitions.is_empty() {
            return;
        }
        let bytes_of = |partition: usize| self.produced.iter().map(|produced| produced.weights[partition]).sum::<u64>();
        let mut all: Vec<u64> = (0..self.wanted.len()).map(bytes_of).collect();
        let bytes: u64 = partitions.iter().map(|partition| all[*partition]).sum();
        all.sort_unstable();
        let median_bytes = all.get(all.len() / 2).copied().unwrap_or_default();
        let (partitions, parts) = (partitions.len() as u64, split.len() as u64);
        events.push(QueryEvent::PartitionsSplit { stage, partitions, parts, bytes, median_bytes });
    }

    /// Returns the rows as they are if they are one stage's.
    fn into_produced(mut self) -> Option<Produced> {
        self.produced.pop().filter(|_| self.produced.is_empty())
    }

    /// Returns the number of fragments with which the stage begins: none where there are no rows.
    pub(super) fn fragments(&self) -> usize {
        self.begun
    }

    /// Returns the most times that one fragment runs again because rows were lost and are there again.
    pub(super) fn restores_max(&self) -> usize {
        RESTORES_MAX + self.produced.len()
    }

    /// Returns the rows of a fragment, by the numbers of the plan's leaves. They are those of the attempts that are read now.
    pub(super) fn inputs(&self, fragment: usize) -> Vec<PartsInput> {
        let lanes = self.lanes(fragment);
        let input = |(leaf, produced): (usize, &Produced)| PartsInput {
            access: EXCHANGE_ACCESS,
            prefix: self.prefix.clone(),
            lanes: lanes.iter().map(|lane| produced.slices(lane, leaf).encoded()).collect(),
        };
        self.produced.iter().enumerate().map(input).collect()
    }

    /// Returns the work of a fragment with its rows.
    pub(super) fn work(&self, fragment: usize) -> PartsWork {
        let mut work = PartsWork::default();
        for lane in self.lanes(fragment).iter() {
            self.produced.iter().enumerate().for_each(|(leaf, produced)| produced.add_work(lane, leaf, &mut work));
        }
        work
    }

    /// Returns the encoded bytes of a fragment's rows.
    fn bytes_of(&self, fragment: usize) -> u64 {
        let lanes = self.lanes(fragment);
        let of_lane = |lane: &LaneParts| -> u64 {
            self.produced.iter().enumerate().map(|(leaf, produced)| produced.bytes_of(lane, leaf)).sum()
        };
        lanes.iter().map(of_lane).sum()
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
        (0..self.begun).map(|fragment| self.bytes_of(fragment)).sum()
    }

    /// Returns the times that fragments are expected to take.
    pub(super) fn expected(&self, stage: &Stage) -> Vec<Duration> {
        let time =
            |fragment: usize| stage.shuffle.model.fragment_time(self.bytes_of(fragment), self.lanes(fragment).len());
        (0..self.begun).map(time).collect()
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

/// Lists the leaves of a stage whose rows may be in several lanes, by their numbers. Fragments that are taken in order are of one range each.
fn splittable(stage: &Stage) -> Vec<LeafId> {
    // A root that says how rows are parted is not run.
    let root = stage.plan.downcast_ref::<RepartitionExec>().filter(|_| stage.shuffle.partitions.is_some());
    let plan = root.map_or(&stage.plan, RepartitionExec::input);
    match stage.order {
        RowsOrder::InOrder => Vec::new(),
        RowsOrder::Any | RowsOrder::Merged => {
            skew::splittable(plan, &mut |plan| plan.downcast_ref::<PartsExec>().map(PartsExec::input))
        }
    }
}

/// Returns the most fragments of a stage over exchanges, with those into which they may be taken apart.
pub(super) fn fragments_most(stage: &Stage) -> usize {
    let lanes = stage.fragments.first().map_or(1, |fragment| fragment.lanes.len());
    most_of(&stage.shuffle, stage.fragments.len(), lanes)
}

/// Returns the same of a stage of so many planned fragments, of so many lanes each.
fn most_of(shuffle: &StageShuffle, planned: usize, lanes: usize) -> usize {
    let StageShuffle { fragments_max, input_partitions, combining, .. } = *shuffle;
    // Lanes are those of the widest stage, half as many for partitions that are split, and one for what lies between them. Each is taken apart once.
    let begun = fragments_max.max(planned) * lanes * 3 / 2 + input_partitions;
    // Functions that share a run are taken apart into all of its partitions each. Runs of other lengths than the mean may be too many.
    let of_groups =
        combining.map_or(0, |combining| fragments_max * input_partitions.div_ceil(combining.runs_max().max(1)));
    begun + begun.max(of_groups)
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
            let is_wanted = |received: &Arc<ReceivedParts>| combining.pays(objects, received.combiners());
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
    use crate::model::TimeModel;
    use crate::planner::combining::Combining;

    #[test]
    fn fragments_are_taken_apart_as_long_as_there_are_not_too_many() {
        // Two have three partitions of which rows may come, and one has one.
        let fragments = [LaneParts::whole(0..4), LaneParts::whole(4..8), LaneParts::whole(8..9)];
        for (most, expect) in [(9, [3, 3, 0]), (8, [3, 0, 0]), (6, [3, 0, 0]), (5, [0, 0, 0])] {
            let fragments = fragments.clone().map(|lane| -> Arc<[LaneParts]> { Arc::from([lane]) });
            let received = ReceivedParts {
                produced: Vec::new(),
                wanted: (0..9).map(|partition| partition % 4 != 2).collect(),
                begun: fragments.len(),
                most,
                fragments: Mutex::new(fragments.to_vec()),
                prefix: String::new(),
            };
            let pieces = [0, 1, 2].map(|fragment| received.taken_apart(fragment));
            assert_eq!(pieces.clone().map(|pieces| pieces.len()), expect, "{most}");
            let alone = pieces.into_iter().flatten().all(|piece| received.lanes(piece)[0].partitions.len() == 1);
            assert!(
                alone && received.fragments.lock().expect("no holder panics").len() <= most,
                "{most}: {received:?}"
            );
        }
    }

    /// 240 functions share 16 runs of 16 partitions each.
    #[test]
    fn all_groups_of_runs_may_be_taken_apart() {
        let shuffle = StageShuffle {
            partitions: Some(256),
            producers: vec![0],
            reason: "".into(),
            is_determinate: true,
            siblings: 1,
            input_partitions: 256,
            fragment_bytes_min: 1,
            fragments_max: 240,
            model: TimeModel::laptop(1),
            combining: Some(Combining { readers: 256, reads_max: 0, expected: Combiners::default() }),
        };
        assert!(most_of(&shuffle, 16, 1) >= 240 + 240 * 16);
        let one_each = StageShuffle { combining: None, ..shuffle };
        assert_eq!(most_of(&one_each, 16, 1), 2 * (360 + 256));
    }
}
