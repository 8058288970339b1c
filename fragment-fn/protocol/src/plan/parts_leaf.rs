//! Leaf of a fragment's plan whose rows are those of other stages' fragments, by partition ([`crate::parts`]).
//!
//! ```text
//!  producers' objects ─► a ranged GET each, some at once ─► length and checksum ─► rows of one lane ─► PartsExec
//!                                          └─► wrong twice, or gone ─► LostInput
//! ```
//!
//! A lane is one partition of the plan. No row of a run of regions is seen before the whole run was verified. Bytes count in the memory pool from
//! before they are asked for until their last row has gone up. An operator that keeps a batch counts it, and keeps no other bytes of its run ([`ResultRows`]).

use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics, plan_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties};
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, try_unfold};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};

use crate::exchange::{ResultRows, result_path};
use crate::parts::{LaneSlices, PartsInput, Slice};
use crate::{FragmentId, LostInput};

/// Most reads of a lane that are under way at once.
const READS_AT_ONCE_MAX: usize = 8;

/// Most bytes that a lane asks for ahead of the rows that it gives.
const AHEAD_BYTES_MAX: u64 = 32 << 20;

/// Part of the pool that all lanes of a leaf may ask for ahead. Operators above them need memory, and have no way to get this back.
const AHEAD_DIVISOR: u64 = 16;

/// Leaf over rows that come by partition.
pub struct PartsExec {
    /// Position of its rows in [`crate::Fragment::parts`].
    input: u32,
    properties: Arc<PlanProperties>,
    /// Expected statistics, which do not travel.
    statistics: Arc<Statistics>,
    /// Rows of each lane. None until the leaf is in a function.
    lanes: Option<Arc<PartsLanes>>,
}

/// Slices of one leaf by lane, and their store.
pub struct PartsLanes {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    query: String,
    lanes: Vec<Vec<Slice>>,
}

impl PartsLanes {
    /// Takes the slices of a request apart. `store` is the exchange's.
    ///
    /// # Errors
    /// A phrase, where they make no sense.
    pub fn of(input: &PartsInput, query: &str, store: Arc<dyn ObjectStore>) -> Result<Self, String> {
        let lanes = input.lanes.iter().map(|lane| LaneSlices::decoded(lane).map(|lane| lane.slices));
        let lanes = lanes.collect::<Result<Vec<_>, _>>()?;
        match lanes.is_empty() {
            true => Err("a leaf has no lanes".to_owned()),
            false => Ok(Self { store, prefix: input.prefix.clone(), query: query.to_owned(), lanes }),
        }
    }

    /// Reads a slice, and verifies it. What is wrong is read once more: only a store's cache may have been wrong.
    #[expect(
        clippy::disallowed_methods,
        reason = "only after an error, to tell a short object from a store that is down"
    )]
    async fn read(&self, slice: &Slice) -> Result<Bytes> {
        if let Some(inline) = &slice.inline {
            return Ok(inline.clone());
        }
        let id = FragmentId { query: self.query.clone(), stage: slice.stage, index: slice.index };
        let path = result_path(&self.prefix, &id, slice.attempt);
        let range = slice.start..slice.start + slice.bytes;
        let mut reason = String::new();
        for _ in 0..2 {
            reason = match self.store.get_range(&path, range.clone()).await {
                Ok(bytes) if slice.holds(&bytes) => return Ok(bytes),
                Ok(bytes) if bytes.len() as u64 == slice.bytes => "the bytes do not match their checksum".to_owned(),
                Ok(bytes) => format!("{} of {} bytes are there", bytes.len(), slice.bytes),
                // S3 does not tell what is gone to somebody who may not list.
                Err(object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. }) => {
                    "the object is gone, or may not be read".to_owned()
                }
                Err(error) => match self.store.head(&path).await {
                    // A range behind an object's end is an error like any other.
                    Ok(object) if object.size < range.end => format!("the object has {} bytes", object.size),
                    Err(object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. }) => {
                        "the object is gone, or may not be read".to_owned()
                    }
                    _ => return Err(error.into()),
                },
            };
        }
        let Slice { stage, index, attempt, .. } = *slice;
        Err(DataFusionError::External(Box::new(LostInput { stage, index, attempt, reason })))
    }
}

impl PartsExec {
    /// Makes the leaf of rows that will come, in `partitions` partitions.
    pub fn new(input: u32, schema: SchemaRef, partitions: usize, statistics: Arc<Statistics>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { input, properties: Arc::new(properties), statistics, lanes: None }
    }

    /// Makes the leaf over rows that are there, for a plan of the coordinator's.
    pub fn over(lanes: PartsLanes, schema: SchemaRef) -> Self {
        let unknown = Arc::new(Statistics::new_unknown(&schema));
        let leaf = Self::new(0, schema, lanes.lanes.len(), unknown);
        Self { lanes: Some(Arc::new(lanes)), ..leaf }
    }

    /// Returns the position of its rows in [`crate::Fragment::parts`].
    pub fn input(&self) -> u32 {
        self.input
    }

    /// Makes the leaf with its rows among `parts`. It has as many partitions as they have lanes.
    pub(super) fn with_lanes(&self, parts: &[Arc<PartsLanes>]) -> Result<Self> {
        let Some(lanes) = parts.get(self.input as usize) else {
            return plan_err!("the plan reads parts {}, the fragment has {}", self.input, parts.len());
        };
        let leaf = Self::new(self.input, self.schema(), lanes.lanes.len(), Arc::clone(&self.statistics));
        Ok(Self { lanes: Some(Arc::clone(lanes)), ..leaf })
    }
}

impl Debug for PartsExec {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartsExec").field("input", &self.input).finish_non_exhaustive()
    }
}

impl Debug for PartsLanes {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartsLanes").field("lanes", &self.lanes.len()).finish_non_exhaustive()
    }
}

impl DisplayAs for PartsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "PartsExec: parts={}", self.input)
    }
}

impl ExecutionPlan for PartsExec {
    fn name(&self) -> &'static str {
        "PartsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(lanes) = &self.lanes else {
            return plan_err!("parts {} were read where they did not come", self.input);
        };
        let Some(slices) = lanes.lanes.get(partition) else {
            return plan_err!("parts {} have no lane {partition}", self.input);
        };
        let reads = Reads {
            lanes: Arc::clone(lanes),
            left: slices.clone().into_iter(),
            next: None,
            under_way: FuturesOrdered::new(),
            bytes: 0,
            ahead_bytes_max: ahead_bytes_max(context.memory_pool().memory_limit(), lanes.lanes.len()),
            reservation: MemoryConsumer::new(format!("rows of other functions {}", self.input))
                .register(context.memory_pool()),
        };
        let schema = self.schema();
        let under = Arc::clone(&schema);
        let runs = try_unfold(reads, |mut reads| async move { Ok(reads.next().await?.map(|run| (run, reads))) });
        let batches =
            runs.map(move |run| run.and_then(|run| run.rows(&under)).map(futures::stream::iter)).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches.boxed())))
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        match args.partition() {
            None => Ok(Arc::clone(&self.statistics)),
            Some(_) => Ok(Arc::new(Statistics::new_unknown(&self.schema()))),
        }
    }
}

/// A run of regions that was verified, with the memory that its bytes have.
struct Run {
    bytes: Bytes,
    held: MemoryReservation,
}

impl Run {
    fn rows(self, schema: &SchemaRef) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
        let Self { bytes, held } = self;
        let schema = Arc::clone(schema);
        let rows =
            ResultRows::of_messages(&schema, bytes).map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(rows.map(move |batch| {
            // The bytes are held until the last batch has gone up.
            let _held = &held;
            let batch = batch.map_err(|error| DataFusionError::External(Box::new(error)))?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            Ok(RecordBatch::try_new_with_options(Arc::clone(&schema), batch.columns().to_vec(), &options)?)
        }))
    }
}

/// Reads of one lane, in the order of its slices.
struct Reads {
    lanes: Arc<PartsLanes>,
    left: std::vec::IntoIter<Slice>,
    /// Slice that waits for memory.
    next: Option<Slice>,
    under_way: FuturesOrdered<BoxFuture<'static, Result<Run>>>,
    /// Bytes of the reads that are under way.
    bytes: u64,
    /// Most bytes of several reads that are under way.
    ahead_bytes_max: u64,
    reservation: MemoryReservation,
}

/// Returns the most bytes that one of so many lanes asks for ahead.
fn ahead_bytes_max(limit: MemoryLimit, lanes: usize) -> u64 {
    match limit {
        MemoryLimit::Finite(bytes) => AHEAD_BYTES_MAX.min(bytes as u64 / AHEAD_DIVISOR / lanes.max(1) as u64),
        MemoryLimit::Infinite | MemoryLimit::Unknown => AHEAD_BYTES_MAX,
    }
}

impl Reads {
    /// Returns the next run. Others are read meanwhile, as long as there is memory.
    async fn next(&mut self) -> Result<Option<Run>> {
        loop {
            let Some(slice) = self.next.take().or_else(|| self.left.next()) else { break };
            let is_first = self.under_way.is_empty();
            let is_many = self.under_way.len() >= READS_AT_ONCE_MAX || self.bytes + slice.bytes > self.ahead_bytes_max;
            if is_many && !is_first {
                self.next = Some(slice);
                break;
            }
            let held = self.reservation.new_empty();
            match held.try_grow(usize::try_from(slice.bytes).unwrap_or(usize::MAX)) {
                Ok(()) => {}
                Err(full) if is_first => return Err(full),
                // Rows that are there make room first.
                Err(_) => {
                    self.next = Some(slice);
                    break;
                }
            }
            self.bytes += slice.bytes;
            let lanes = Arc::clone(&self.lanes);
            // A task of its own reads while rows of others go up. It is aborted with the lane.
            let read = SpawnedTask::spawn(async move { Ok(Run { bytes: lanes.read(&slice).await?, held }) });
            let run =
                async move { read.join_unwind().await.map_err(|error| DataFusionError::External(Box::new(error)))? };
            self.under_way.push_back(run.boxed());
        }
        let Some(run) = self.under_way.next().await else { return Ok(None) };
        let run = run?;
        self.bytes -= run.bytes.len() as u64;
        Ok(Some(run))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;
    use object_store::memory::InMemory;

    use super::*;
    use crate::StreamSummary;
    use crate::parts::{Regions, encode_messages};

    fn rows(numbers: &[i64]) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(numbers.to_vec())) as _)]).expect("a column")
    }

    /// Reads partitions `0..1` in one lane and `1..3` in another, of two producers whose objects `change` makes of what they have written.
    async fn read(change: impl Fn(Bytes) -> Option<Bytes>) -> Result<Vec<i64>> {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut lanes = [LaneSlices::default(), LaneSlices::default()];
        for (index, numbers) in [(0_u32, [1, 2, 3]), (1, [10, 20, 30])] {
            let chunks = numbers.map(|number| encode_messages(&rows(&[]).schema(), &[rows(&[number])]).expect("plain"));
            let summary =
                |chunk: &Vec<u8>| StreamSummary { bytes: chunk.len() as u64, rows: 1, crc32: crc32fast::hash(chunk) };
            let regions = Regions(chunks.iter().map(summary).collect());
            let id = FragmentId { query: "q".to_owned(), stage: 4, index };
            if let Some(object) = change(chunks.concat().into()) {
                store.put(&result_path("x", &id, 7), object.into()).await.expect("in memory");
            }
            for (lane, run) in lanes.iter_mut().zip([0..1, 1..3]) {
                let (start, StreamSummary { bytes, rows, crc32 }) = regions.run(run);
                lane.slices.push(Slice { stage: 4, index, attempt: 7, start, bytes, rows, crc32, inline: None });
            }
        }
        let lanes = lanes.iter().map(LaneSlices::encoded).collect();
        let input = PartsInput { access: 0, prefix: "x".to_owned(), lanes };
        let lanes = PartsLanes::of(&input, "q", store).map_err(DataFusionError::Plan)?;
        let unknown = Arc::new(Statistics::new_unknown(&rows(&[]).schema()));
        let leaf = PartsExec::new(0, rows(&[]).schema(), 1, unknown).with_lanes(&[Arc::new(lanes)])?;
        let batches = collect(Arc::new(leaf), SessionContext::new().task_ctx()).await?;
        let numbers = batches.iter().map(|batch| batch.column(0).to_data());
        let mut numbers: Vec<i64> = numbers.flat_map(|data| Int64Array::from(data).values().to_vec()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    #[tokio::test]
    async fn every_region_is_read_once() {
        assert_eq!(read(Some).await.expect("rows"), [1, 2, 3, 10, 20, 30]);
    }

    #[tokio::test]
    async fn torn_and_missing_objects_are_lost_inputs() {
        let check = async |change: &dyn Fn(Bytes) -> Option<Bytes>, expect: &str| {
            let error = read(change).await.expect_err(expect);
            let lost = error.find_root();
            let DataFusionError::External(lost) = lost else { panic!("{error}") };
            let lost = lost.downcast_ref::<LostInput>().expect("a lost input");
            assert_eq!((lost.stage, lost.attempt), (4, 7));
            assert!(lost.reason.contains(expect), "{lost}");
        };
        check(&|_| None, "gone").await;
        check(&|bytes| Some(bytes.slice(..bytes.len() - 1)), "bytes").await;
        check(&|bytes| Some(bytes.slice(..1)), "bytes").await;
        let flipped = |bytes: Bytes| {
            let mut bytes = bytes.to_vec();
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
            Some(bytes.into())
        };
        check(&flipped, "checksum").await;
    }
}
