//! Start of a stage that needs rows of others: its build sides are gathered, and all of its fragments get their rows. Rows that go from functions to functions
//! are waited for, too ([`super::shuffle`]).
//!
//! ```text
//!  build sides ─► rows ─┬─ few ──────► Arrow IPC, in requests or in the exchange ─► the stage
//!                       └─ too many ─► the part of the stage that needs none ─► joins on the coordinator
//! ```
//!
//! Fragments start when all build sides are there. Files without any of their keys are left out before ([`super::keys`]). Nothing of a build side is read twice.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::stream::{EmptyRecordBatchStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use fragment_fn::own_bytes;
use futures::future::{BoxFuture, Shared, try_join, try_join_all};
use futures::{FutureExt, StreamExt, stream};
use gust_protocol::exchange::{StageObject, encode_stream};
use gust_protocol::{Base64, FragmentId, FragmentResult, ObjectRef, StreamSummary};
use object_store::ObjectStoreExt;
use tracing::Instrument;

use super::LatestRun;
use super::RemoteFragmentExec;
use super::answers::with_schema;
use super::keys::{narrowed, told};
use super::query::QueryContext;
use super::run::StageRun;
use super::shuffle::{Received, ReceivedParts, fragments_of, received};
use crate::events::QueryEvent;
use crate::exchange::{EXCHANGE_ACCESS, Exchange};
use crate::planner::Stage;
use crate::planner::passes::broadcast::above_alone;
use crate::scheduler::{AttemptNumbers, ExpectedFragments, FragmentFailure};

/// Part of a function's memory that all build sides may take, with their hash tables.
const FUNCTION_SHARE: u64 = 2;

/// Bytes of a hash table for each row: DataFusion 55.2 takes 17 for each of up to 16/7 of the rows.
const TABLE_ROW_BYTES: usize = 40;

/// A stage with joins, before its build sides are there, or one over exchanges, before their rows are there.
pub(super) struct Joining {
    pub(super) stage: Arc<Stage>,
    /// Subtree in whose place the stage stands, with marks over its build sides.
    pub(super) subtree: Arc<dyn ExecutionPlan>,
    pub(super) partitions: usize,
    pub(super) numbers: AttemptNumbers,
    /// Attempt numbers of the stage that may take its place.
    pub(super) stand_in_numbers: AttemptNumbers,
    /// Fragments that the query's cap counts on, wherever the joins are done.
    pub(super) expected: ExpectedFragments,
    pub(super) query: Arc<QueryContext>,
    pub(super) context: Arc<TaskContext>,
}

/// Place of the joins, once the build sides are there.
pub(super) enum JoiningPlace {
    /// Functions, with the answers of each partition.
    Functions(Mutex<LatestRun>),
    /// The coordinator: the plan has the joins, and the stage below them.
    Here(Arc<dyn ExecutionPlan>),
}

type Ready = Shared<BoxFuture<'static, Result<Arc<JoiningPlace>, Arc<DataFusionError>>>>;

/// One run of a stage with joins.
pub(super) struct JoiningRun {
    /// It ends when the build sides are there. Dropped before, it cancels them.
    ready: Ready,
    /// Partitions that have taken their rows.
    taken: Mutex<BTreeSet<usize>>,
}

impl Debug for JoiningRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoiningRun").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl JoiningRun {
    /// Starts the build sides, each a plan of one partition, and the stages that leave rows for this one.
    pub(super) fn start(
        joining: Joining,
        builds: &[Arc<dyn ExecutionPlan>],
        producers: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Self> {
        let streams = builds.iter().map(|build| match build.output_partitioning().partition_count() {
            1 => build.execute(0, Arc::clone(&joining.context)),
            more => Err(DataFusionError::Internal(format!("a build side has {more} partitions"))),
        });
        let streams = streams.collect::<Result<Vec<_>>>()?;
        // The plan's operators run in tasks of their own, which do not inherit the query's span.
        let span = joining.query.attempts.events().span().clone();
        let task = SpawnedTask::spawn(joining.place(streams, producers).instrument(span));
        let ready = async move {
            let ended = task.join_unwind().await.map_err(|error| DataFusionError::External(Box::new(error)));
            ended.and_then(|place| place).map(Arc::new).map_err(Arc::new)
        };
        Ok(Self { ready: ready.boxed().shared(), taken: Mutex::default() })
    }

    /// Notes that a partition takes its rows. Returns false if it has taken them before.
    pub(super) fn take(&self, partition: usize) -> bool {
        self.taken.lock().expect("no holder panics").insert(partition)
    }

    /// Waits for the build sides.
    ///
    /// # Errors
    /// The first error of a build side, for every partition.
    pub(super) async fn ready(&self) -> Result<Arc<JoiningPlace>> {
        self.ready.clone().await.map_err(DataFusionError::Shared)
    }
}

impl Joining {
    /// Gathers the build sides, and starts the stage where they are small enough.
    async fn place(
        self,
        builds: Vec<SendableRecordBatchStream>,
        producers: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<JoiningPlace> {
        let (gathered, received) = try_join(self.gather(&self.stage, builds), received(&self, &producers)).await?;
        let begun = match received {
            Received::Copied(begun) => *begun,
            Received::Parts(parts) => match self.begun(&self.stage, gathered).await? {
                Ok(begun) => Begun { parts, ..begun },
                Err(TooLarge { builds, held }) => {
                    self.query.attempts.events().push(QueryEvent::JoinedHere { stage: self.stage.index });
                    return self.here(builds, &held).map(JoiningPlace::Here);
                }
            },
        };
        begun.start(&self, self.partitions).map(|answers| JoiningPlace::Functions(Mutex::new(answers)))
    }

    /// Gathers the build sides of a stage, as long as functions can have them.
    pub(super) async fn gather(&self, stage: &Stage, builds: Vec<SendableRecordBatchStream>) -> Result<GatheredBuilds> {
        let in_memory = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let bounds = Bounds {
            bytes: AtomicUsize::new(0),
            bytes_max: in_memory(stage.broadcast_bytes_max),
            table_bytes: AtomicUsize::new(0),
            table_bytes_max: in_memory(self.query.limits.memory_bytes_max / FUNCTION_SHARE),
        };
        let held = MemoryConsumer::new(format!("build sides of stage {}", stage.index));
        let held = Arc::new(held.register(self.context.memory_pool()));
        let gathering = builds.into_iter().map(|build| gathered(build, &held, &bounds));
        let builds = try_join_all(gathering).await?;
        Ok(GatheredBuilds { builds, held, is_too_large: bounds.are_passed() })
    }

    /// Makes the start of a stage with its build sides, which are sent on their way. Files without their keys are left out. Returns build sides that functions should not have.
    ///
    /// # Errors
    /// Those of rows that cannot be encoded, of a key, and of the exchange.
    pub(super) async fn begun(
        &self,
        stage: &Arc<Stage>,
        GatheredBuilds { builds, held, is_too_large }: GatheredBuilds,
    ) -> Result<Result<Begun, TooLarge>> {
        let encoded = if is_too_large { None } else { Some(encoded(&builds)?) };
        let fits = |encoded: &Vec<Encoded>| {
            encoded.iter().map(|(part, _)| part.bytes).sum::<u64>() <= stage.broadcast_bytes_max
        };
        let Some(encoded) = encoded.filter(fits) else { return Ok(Err(TooLarge { builds, held })) };
        let footers = self.context.runtime_env().cache_manager.get_file_metadata_cache();
        let rows: Vec<&GatheredRows> = builds.iter().map(|build| &build.rows).collect();
        let narrowed = narrowed(stage, &rows, footers.as_ref()).await?;
        drop((builds, held));
        let stage = match narrowed {
            Some(narrowed) => {
                self.query.attempts.events().push(told(stage, &narrowed));
                Arc::new(narrowed)
            }
            None => Arc::clone(stage),
        };
        // Without fragments nobody needs them.
        let shared = if stage.fragments.is_empty() { Vec::new() } else { self.published(&stage, encoded).await? };
        Ok(Ok(Begun { stage, numbers: self.numbers.clone(), shared, parts: None }))
    }

    /// Makes the plan by which the coordinator joins. Rows of build sides that were gathered come first, then the others.
    fn here(&self, builds: Vec<Gathered>, held: &Arc<MemoryReservation>) -> Result<Arc<dyn ExecutionPlan>> {
        let missing =
            |what: &str| DataFusionError::Internal(format!("{what} of stage {} is missing", self.stage.index));
        let alone = self.stage.alone.as_ref().ok_or_else(|| missing("the plan without build sides"))?;
        self.query.attempts.expect_fragments(&self.expected, alone.fragments.len());
        let mut builds: Vec<Option<Gathered>> = builds.into_iter().map(Some).collect();
        let rows = |rows: &Arc<dyn ExecutionPlan>| {
            let (numbers, expected) = (self.stand_in_numbers.clone(), self.expected.clone());
            Arc::new(RemoteFragmentExec::numbered(Arc::clone(alone), rows, numbers, expected)) as Arc<dyn ExecutionPlan>
        };
        let plan = above_alone(&self.subtree, &rows, &mut |number, mark| {
            let build = builds.get_mut(number as usize).and_then(Option::take);
            let build = build.ok_or_else(|| missing("a build side"))?.stream(mark.schema(), held);
            let rows: Arc<dyn PartitionStream> =
                Arc::new(OnceStream { schema: mark.schema(), stream: Mutex::new(Some(build)) });
            Ok(Arc::new(StreamingTableExec::try_new(mark.schema(), vec![rows], None, [], false, None)?))
        })?;
        // Its operators may be those of an earlier run.
        reset_plan_states(plan)
    }

    /// Sends the build sides of a stage on their way. Long ones go through the exchange.
    async fn published(&self, stage: &Stage, encoded: Vec<Encoded>) -> Result<Vec<FragmentResult>> {
        let query = &self.query;
        let id = FragmentId { query: query.id.clone(), stage: stage.index, index: 0 };
        let mut room = stage.rows_inline_bytes_max();
        let mut shared = Vec::with_capacity(encoded.len());
        for (number, (part, bytes)) in (0..).zip(encoded) {
            let inline = part.bytes <= room;
            // The event comes before a write, so that the object is cleaned up if the query ends meanwhile.
            query.attempts.events().push(QueryEvent::RowsBroadcast {
                stage: stage.index,
                rows: part.rows,
                bytes: part.bytes,
                inline,
            });
            if inline {
                room -= part.bytes;
                shared.push(FragmentResult::Inline { part, bytes: Base64(bytes) });
                continue;
            }
            let Exchange { prefix, store, .. } = &query.exchange;
            let path = StageObject::Rows(number).path(prefix, &query.id, stage.index);
            store.put(&path, bytes.into()).await.map_err(|error| {
                DataFusionError::External(Box::new(FragmentFailure::unpublished(id.clone(), &path, error)))
            })?;
            let (path, size_bytes) = (path.to_string(), part.bytes);
            let object = ObjectRef { access: EXCHANGE_ACCESS, path, size_bytes, etag: None, footer_bytes: None };
            shared.push(FragmentResult::Object { object, part });
        }
        Ok(shared)
    }
}

/// A stage whose inputs are there.
pub(super) struct Begun {
    pub(super) stage: Arc<Stage>,
    /// Attempt numbers of its fragments.
    pub(super) numbers: AttemptNumbers,
    /// Rows that all fragments get.
    pub(super) shared: Vec<FragmentResult>,
    /// Rows of other stages. None where it reads files.
    pub(super) parts: Option<Arc<ReceivedParts>>,
}

impl Begun {
    /// Starts its fragments, whose answers go to so many partitions.
    ///
    /// # Errors
    /// Those of a plan that cannot be encoded.
    pub(super) fn start(self, joining: &Joining, partitions: usize) -> Result<LatestRun> {
        let Self { stage, numbers, shared, parts } = self;
        let Joining { expected, query, context, .. } = joining;
        // An earlier run may have had others.
        query.attempts.expect_fragments(expected, fragments_of(&stage, parts.as_deref()));
        StageRun::start(&stage, query, partitions, &numbers, context, shared, parts)
    }
}

/// The build sides of a stage, as far as they were gathered.
pub(super) struct GatheredBuilds {
    builds: Vec<Gathered>,
    held: Arc<MemoryReservation>,
    /// True if functions should not have them.
    is_too_large: bool,
}

/// Build sides that functions should not have.
pub(super) struct TooLarge {
    builds: Vec<Gathered>,
    held: Arc<MemoryReservation>,
}

/// Rows of a build side that have come.
pub(super) struct GatheredRows {
    pub(super) schema: SchemaRef,
    pub(super) batches: Vec<RecordBatch>,
}

/// A build side.
struct Gathered {
    rows: GatheredRows,
    /// Rows that did not fit. None where all did.
    rest: Option<SendableRecordBatchStream>,
}

impl Gathered {
    /// Returns all rows. They count as held until the last of the gathered ones has gone up.
    fn stream(self, schema: SchemaRef, held: &Arc<MemoryReservation>) -> SendableRecordBatchStream {
        let held = Arc::clone(held);
        let gathered = self.rows.batches.into_iter().map(move |batch| {
            let _held = &held;
            Ok(batch)
        });
        let rest = self.rest.unwrap_or_else(|| Box::pin(EmptyRecordBatchStream::new(Arc::clone(&schema))));
        Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter(gathered).chain(rest)))
    }
}

/// An Arrow IPC stream and its summary.
type Encoded = (StreamSummary, Bytes);

fn encoded(builds: &[Gathered]) -> Result<Vec<Encoded>> {
    let encoded = builds.iter().map(|build| encode_stream(&build.rows.schema, &build.rows.batches));
    encoded.collect::<Result<_, _>>().map_err(|error| DataFusionError::External(Box::new(error)))
}

/// Bytes of all build sides, and their bounds.
struct Bounds {
    bytes: AtomicUsize,
    bytes_max: usize,
    /// Bytes that functions need to join: the rows, a copy of them, and the hash table.
    table_bytes: AtomicUsize,
    table_bytes_max: usize,
}

impl Bounds {
    fn add(&self, bytes: usize, rows: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.table_bytes.fetch_add(2 * bytes + rows * TABLE_ROW_BYTES, Ordering::Relaxed);
    }

    fn are_passed(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.bytes_max
            || self.table_bytes.load(Ordering::Relaxed) > self.table_bytes_max
    }
}

/// Gathers a build side, as long as all build sides together are within their bounds.
async fn gathered(mut build: SendableRecordBatchStream, held: &MemoryReservation, bounds: &Bounds) -> Result<Gathered> {
    let mut rows = GatheredRows { schema: build.schema(), batches: Vec::new() };
    while let Some(batch) = build.next().await {
        let batch = with_schema(&rows.schema, &batch?)?;
        let own = own_bytes(&batch);
        held.try_grow(own)?;
        bounds.add(own, batch.num_rows());
        rows.batches.push(batch);
        if bounds.are_passed() {
            return Ok(Gathered { rows, rest: Some(build) });
        }
    }
    Ok(Gathered { rows, rest: None })
}

/// Stream that is run once.
struct OnceStream {
    schema: SchemaRef,
    stream: Mutex<Option<SendableRecordBatchStream>>,
}

impl Debug for OnceStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnceStream")
    }
}

impl PartitionStream for OnceStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let stream = self.stream.lock().expect("no holder panics").take();
        stream.unwrap_or_else(|| {
            let again = async { Err(DataFusionError::Internal("a build side was run twice".to_owned())) };
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream::once(again)))
        })
    }
}
