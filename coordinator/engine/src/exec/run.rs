//! Running stage: its fragments' tasks, until each has an answer ([`super::answers`]).

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use gust_protocol::exchange::writes_of;
use gust_protocol::version::{PROTOCOL_VERSION, fingerprint};
use gust_protocol::{Fragment, FragmentId, FragmentResult, Input, InvokeRequest, Output, PlanRef, StagePlan};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::answers::PartitionAnswers;
use super::digest::DeletesPublisher;
use super::publish::PlanPublisher;
use super::query::QueryContext;
use super::result_memory::{ResultMemory, ResultReservation};
use super::shuffle::{ReceivedParts, parts_inline_bytes_max};
use crate::cap::AttemptWork;
use crate::events::QueryEvent;
use crate::exchange::{EXCHANGE_ACCESS, kept_prefix};
use crate::planner::graph::RowsOrder;
use crate::planner::loads::memory::EXPANSION;
use crate::planner::{Stage, read_bytes};
use crate::resume::{RequestDigest, StageDigest};
use crate::scheduler::{
    AttemptNumbers, AttemptRequests, AttemptResult, AttemptStamp, FragmentAttempts, FragmentFailure, FragmentNeeds,
    StageAttempts,
};

/// Pieces of a fragment that run at the same time, as far as functions are free.
const PIECES_AT_ONCE: usize = 64;

/// Tasks of a stage. They are aborted when the last partition's answers are dropped.
#[derive(Debug)]
pub(super) struct StageRun {
    _tasks: JoinSet<()>,
}

/// Result of a fragment, and what another result needs.
#[derive(Debug)]
pub(super) struct FragmentAnswer {
    pub(super) adopted: AttemptResult,
    /// Attempts of the fragment, for another result if this one cannot be read.
    pub(super) attempts: FragmentAttempts,
    /// Memory of the encoded rows, if they are in the answer itself.
    pub(super) inline: ResultReservation,
    /// Rows of other stages that the fragment reads, for another result. None where it reads files.
    pub(super) received: Option<Arc<ReceivedParts>>,
}

/// Refuses the result of a fragment, and returns another one. Rows of other stages that are lost by then are made anew.
///
/// # Errors
/// The failure of the fragment, or of one whose rows it needs.
pub(super) async fn refused(
    attempts: &mut FragmentAttempts,
    reason: String,
    received: Option<&ReceivedParts>,
    query: &QueryContext,
) -> Result<AttemptResult> {
    let again = attempts.refuse(reason).await;
    with_inputs(again, attempts, received, query).await
}

/// Returns a result, or that of another attempt, for as long as rows of other stages are what is missing: they are made anew, where that gives the same rows.
///
/// # Errors
/// The failure of the fragment, or of one whose rows it needs.
pub(super) async fn with_inputs(
    mut result: Result<AttemptResult, FragmentFailure>,
    attempts: &mut FragmentAttempts,
    received: Option<&ReceivedParts>,
    query: &QueryContext,
) -> Result<AttemptResult> {
    let mut restored = 0;
    loop {
        let failure = match result {
            Ok(adopted) => return Ok(adopted),
            Err(failure) => failure,
        };
        if !is_restored(&failure, restored, received, query).await? {
            return Err(failed(failure));
        }
        restored += 1;
        result = attempts.result().await;
    }
}

/// Makes the rows anew whose loss a fragment has failed of, after so many times. Returns false where it has failed of something else, or too often, or
/// where another attempt would not give the same rows.
///
/// # Errors
/// The failure of a fragment whose rows were lost.
async fn is_restored(
    failure: &FragmentFailure,
    restored: usize,
    received: Option<&ReceivedParts>,
    query: &QueryContext,
) -> Result<bool> {
    let (Some(lost), Some(received)) = (failure.lost(), received) else { return Ok(false) };
    Ok(restored < received.restores_max() && received.restore(lost, query).await?)
}

impl StageRun {
    /// Hands every fragment to the scheduler. Fragment `i` belongs to partition `i % partitions`. All fragments get the rows `shared`. A stage over exchanges
    /// has as many fragments as `received` rows need.
    pub(super) fn start(
        stage: &Arc<Stage>,
        query: &Arc<QueryContext>,
        partitions: usize,
        numbers: &AttemptNumbers,
        context: &TaskContext,
        shared: Vec<FragmentResult>,
        received: Option<Arc<ReceivedParts>>,
    ) -> Result<Vec<Option<PartitionAnswers>>> {
        let (fragments, bytes_planned, expected) = match &received {
            Some(parts) => (parts.fragments(), parts.bytes(), parts.expected(stage)),
            None => (stage.fragments.len(), stage.weight_bytes(), stage.expected.clone()),
        };
        query.attempts.events().push(QueryEvent::StageStarted {
            stage: stage.index,
            fragments: fragments as u32,
            bytes_planned,
        });
        received.iter().for_each(|parts| parts.note_split(stage.index, query.attempts.events()));
        let prefix = &query.exchange.prefix;
        // The end of the query leaves them alone.
        let prefix = if stage.keeps_rows { kept_prefix(prefix) } else { prefix.clone() };
        let access = EXCHANGE_ACCESS;
        let output = match stage.shuffle.partitions {
            Some(partitions) => Output::Parts { access, prefix, partitions: partitions as u32 },
            None => Output::Gather { access, prefix },
        };
        let shared_work = SharedWork::of(&shared);
        let plan = PlanPublisher::new(stage.stage_plan(output, query.options.clone(), shared)?);
        let attempts = query.attempts.stage(expected);
        let memory = ResultMemory::new(stage.index, context.memory_pool());
        let stage_fragments = Arc::new(StageFragments {
            stage: Arc::clone(stage),
            query: Arc::clone(query),
            plan,
            digest: OnceLock::new(),
            deletes: DeletesPublisher::new(Arc::clone(stage)),
            attempts,
            numbers: numbers.clone(),
            footers: context.runtime_env().cache_manager.get_file_metadata_cache(),
            memory: Arc::clone(&memory),
            shared: shared_work,
            received,
            fragments,
        });
        let mut tasks = JoinSet::new();
        let mut channels: Vec<Vec<mpsc::Receiver<Result<FragmentAnswer>>>> =
            (0..partitions).map(|_| Vec::new()).collect();
        let per_partition = fragments.div_ceil(partitions.max(1)).max(1);
        let shared: Vec<_> = (0..partitions).map(|_| mpsc::channel(per_partition)).collect();
        let (senders, receivers): (Vec<_>, Vec<_>) = shared.into_iter().unzip();
        // The plan's operators run in tasks of their own, which do not inherit the query's span.
        let query_span = query.attempts.events().span();
        let is_sorted = stage.order != RowsOrder::Any;
        for index in 0..fragments {
            let sender = if is_sorted {
                let (sender, receiver) = mpsc::channel(1);
                channels[index % partitions].push(receiver);
                sender
            } else {
                senders[index % partitions].clone()
            };
            let fragments = Arc::clone(&stage_fragments);
            let running = async move {
                // Without an answer the rows of the fragment would be missing, unseen.
                if AssertUnwindSafe(fragments.run(index, &sender)).catch_unwind().await.is_err() {
                    let stage = fragments.stage.index;
                    let panicked = format!("the task of fragment {index} of stage {stage} panicked");
                    let _ = sender.send(Err(DataFusionError::Internal(panicked))).await;
                }
            };
            tasks.spawn(running.instrument(query_span.clone()));
        }
        if !is_sorted {
            channels = receivers.into_iter().map(|receiver| vec![receiver]).collect();
        }
        let run = Arc::new(StageRun { _tasks: tasks });
        let answers =
            |channels| Some(PartitionAnswers { channels, run: Arc::clone(&run), memory: Arc::clone(&memory) });
        Ok(channels.into_iter().map(answers).collect())
    }
}

/// Common parts of a stage's fragments.
struct StageFragments {
    stage: Arc<Stage>,
    query: Arc<QueryContext>,
    plan: PlanPublisher,
    /// Digest of the plan, if results may be another coordinator's.
    digest: OnceLock<Option<StageDigest>>,
    deletes: DeletesPublisher,
    attempts: StageAttempts,
    numbers: AttemptNumbers,
    /// Footers that the session has read.
    footers: Arc<FileMetadataCache>,
    memory: Arc<ResultMemory>,
    shared: SharedWork,
    /// Rows of other stages. None where the stage reads files.
    received: Option<Arc<ReceivedParts>>,
    /// Number of fragments.
    fragments: usize,
}

/// Work of each fragment with the rows that all get.
#[derive(Clone, Copy, Default)]
struct SharedWork {
    inline_bytes: u64,
    objects: usize,
    object_bytes: u64,
}

impl SharedWork {
    fn of(shared: &[FragmentResult]) -> Self {
        shared.iter().fold(Self::default(), |work, rows| match rows {
            FragmentResult::Inline { part, .. } => Self { inline_bytes: work.inline_bytes + part.bytes, ..work },
            FragmentResult::Object { part, .. } | FragmentResult::Parts { part, .. } => {
                Self { objects: work.objects + 1, object_bytes: work.object_bytes + part.bytes, ..work }
            }
        })
    }
}

/// Fragment before its first attempt.
struct OpenFragment {
    attempts: FragmentAttempts,
    /// Digest of its request, if its result may be another coordinator's.
    request: Option<RequestDigest>,
}

impl StageFragments {
    /// Runs a fragment and sends its answer. If it runs out of memory over several partitions of other stages' rows, each is a fragment of its own, and there are the answers of
    /// all of them, in their order.
    async fn run(&self, index: usize, sender: &mpsc::Sender<Result<FragmentAnswer>>) {
        let answer = self.answer(index).boxed().await;
        let pieces = match &answer {
            Err(error) => self.taken_apart(index, error),
            Ok(_) => 0..0,
        };
        // The receiver is gone if a LIMIT was reached.
        if pieces.is_empty() {
            let _ = sender.send(answer).await;
            return;
        }
        let pieces: Vec<BoxFuture<'_, _>> = pieces.map(|piece| self.answer(piece).boxed()).collect();
        let mut answers = stream::iter(pieces).buffered(PIECES_AT_ONCE);
        while let Some(answer) = answers.next().await {
            if sender.send(answer).await.is_err() {
                return;
            }
        }
    }

    /// Takes a fragment apart that has failed. Returns the numbers of its pieces: none if its failure is another, or if it has one partition alone.
    fn taken_apart(&self, index: usize, error: &DataFusionError) -> Range<usize> {
        // A producer that made lost rows anew may have run out of memory, too.
        let is_own =
            |failure: &&FragmentFailure| failure.id.stage == self.stage.index && failure.id.index as usize == index;
        let failure = fragment_fn::find::<FragmentFailure>(error).filter(is_own).filter(|it| it.ran_out_of_memory());
        let Some((failure, received)) = failure.zip(self.received.as_ref()) else { return 0..0 };
        let pieces = received.taken_apart(index);
        if !pieces.is_empty() {
            self.query.attempts.expect_pieces(pieces.len());
            let (id, pieces) = (failure.id.clone(), pieces.len() as u32);
            self.query.attempts.events().push(QueryEvent::FragmentTakenApart { id, pieces });
        }
        pieces
    }

    /// Runs a fragment. Rows of other stages that are lost are made anew, where that gives the same rows.
    async fn answer(&self, index: usize) -> Result<FragmentAnswer> {
        let mut restored = 0;
        loop {
            let OpenFragment { mut attempts, request } = self.attempts_of(index).await?;
            let work = self.query.work.as_ref().zip(request);
            let inherited = work.as_ref().and_then(|(work, request)| work.inherit(request));
            let result = match inherited {
                Some(inherited) => Ok(attempts.adopt(inherited)),
                None => {
                    let result = attempts.result().await;
                    if let (Some((work, request)), Ok(adopted)) = (work, &result) {
                        work.note(request, adopted);
                    }
                    result
                }
            };
            let failure = match result {
                Ok(adopted) => {
                    let inline = self.memory.hold(inline_bytes(&adopted.result))?;
                    let received = self.received.clone();
                    return Ok(FragmentAnswer { adopted, attempts, inline, received });
                }
                Err(failure) => failure,
            };
            if !is_restored(&failure, restored, self.received.as_deref(), &self.query).await? {
                return Err(failed(failure));
            }
            restored += 1;
        }
    }

    /// Makes the attempts of a fragment, before the first of them.
    async fn attempts_of(&self, index: usize) -> Result<OpenFragment> {
        let Self {
            stage,
            query,
            plan,
            digest,
            deletes,
            attempts,
            numbers,
            footers,
            memory,
            shared,
            received,
            fragments,
        } = self;
        let id = FragmentId { query: query.id.clone(), stage: stage.index, index: index as u32 };
        let deletes = deletes.published(query, &id).await?;
        let inputs = stage.inputs(index, footers.as_ref(), deletes);
        let inputs = inputs.map_err(|error| failed(FragmentFailure::unplannable(id.clone(), error)))?;
        let named = inputs.iter().flat_map(|(_, Input::Scan(scan))| &scan.deletes);
        let (delete_files, delete_bytes) = (named.clone().count(), named.map(read_bytes).sum::<u64>());
        let plan = Arc::clone(plan.published(query, &id).await.map_err(failed)?);
        let mut limits = query.fragment_limits(*fragments, memory.bytes_max());
        if stage.shuffle.partitions.is_some() {
            limits.inline_bytes_max = limits.inline_bytes_max.min(parts_inline_bytes_max(stage, *fragments));
        }
        // The room of responses is shared out among the fragments with which the stage begins.
        if stage.keeps_rows || index >= *fragments {
            limits.inline_bytes_max = 0;
        }
        let parts_work = received.as_ref().map(|received| received.work(index)).unwrap_or_default();
        let plan_bytes = match &plan.plan {
            PlanRef::Inline(plan) => plan.0.len() as u64,
            PlanRef::Object { .. } => 0,
        };
        let parts_bytes = parts_work.inline_bytes + parts_work.slice_bytes;
        let bytes = limits.inline_bytes_max + plan_bytes + shared.inline_bytes + parts_bytes;
        let fragment = Fragment { id: id.clone(), inputs, parts: Vec::new(), limits };
        let of_request = query.work.as_ref().and_then(|_| {
            let parts = received.as_ref().map(|received| received.inputs(index)).unwrap_or_default();
            let of_stage = digest.get_or_init(|| StageDigest::of(&plan)).as_ref()?;
            RequestDigest::of(of_stage, Fragment { parts, ..fragment.clone() })
        });
        let received = received.clone();
        let access = {
            let (query, stage) = (Arc::clone(query), Arc::clone(stage));
            move || {
                let (query, stage) = (Arc::clone(&query), Arc::clone(&stage));
                // The exchange is the first: see [`EXCHANGE_ACCESS`].
                async move { query.access_table(&stage.accesses).await }.boxed()
            }
        };
        let request = move |AttemptStamp { attempt, deadline_unix_ms }, access| InvokeRequest {
            version: PROTOCOL_VERSION,
            fingerprint: fingerprint().to_owned(),
            // Lists of slices are long. Only those of running attempts are in memory.
            fragment: Fragment {
                parts: received.as_ref().map(|received| received.inputs(index)).unwrap_or_default(),
                ..fragment.clone()
            },
            attempt,
            deadline_unix_ms,
            access,
            stage: StagePlan::clone(&plan),
        };
        // A stage over exchanges has no units, and may have more fragments than planned.
        let units = stage.fragments.get(index).map_or(0, |packed| packed.units().count());
        let reads = units + delete_files + shared.objects + parts_work.reads;
        let weight_bytes = stage.data_weight_bytes(index)
            + delete_bytes
            + shared.object_bytes
            + parts_work.bytes
            + parts_work.inline_bytes;
        let mut work = AttemptWork::of_fragment(reads, weight_bytes, bytes, limits.bridge_bytes);
        if stage.shuffle.partitions.is_some() || stage.is_over_parts() || stage.keeps_rows {
            // All rows may go on, decoded and encoded anew.
            work.writes = work.writes.max(writes_of(weight_bytes.saturating_mul(EXPANSION)));
        }
        let requests = AttemptRequests { access: Box::new(access), request: Box::new(request) };
        let attempts = attempts.fragment(id, numbers.clone(), FragmentNeeds { bytes, work }, requests);
        Ok(OpenFragment { attempts, request: of_request })
    }
}

fn failed(failure: FragmentFailure) -> DataFusionError {
    DataFusionError::External(Box::new(failure))
}

pub(super) fn inline_bytes(result: &FragmentResult) -> usize {
    result.inline_bytes().unwrap_or_default()
}
