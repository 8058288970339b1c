//! Rows by partition in a simulated function. It reads with the project's own leaf of a plan. It parts rows by a number drawn from each row.

use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use bytes::Bytes;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::collect;
use fragment_fn::classify;
use futures::TryStreamExt;
use gust_protocol::exchange::{result_at, result_path};
use gust_protocol::parts::{LaneSlices, Regions, Slice, encode_messages};
use gust_protocol::plan::{self, PartsLanes};
use gust_protocol::{FragmentError, FragmentErrorKind, FragmentId, InvokeRequest, PlanRef, StreamSummary};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use rand::Rng;
use rand::rngs::SmallRng;

use super::fault::Fault;
use super::fragment_rows::{number, schema};

/// Way in which a simulated function reads rows of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartsReading {
    /// The function reads the attempts that its request names, and verifies them, as the project does.
    AsNamed,
    /// The function reads the newest object of each producer, unchecked. A test uses it to show that the trial would notice.
    Newest,
}

/// Returns the rows of a fragment over exchanges.
pub(super) async fn read(
    request: &InvokeRequest,
    store: &Arc<dyn ObjectStore>,
    reading: PartsReading,
) -> Result<Vec<RecordBatch>, FragmentError> {
    if reading == PartsReading::Newest {
        return Ok(newest(request, store).await);
    }
    let PlanRef::Inline(encoded) = &request.stage.plan else { unreachable!("the plan is small") };
    let malformed = |why: String| FragmentError::new(FragmentErrorKind::MalformedRequest, why);
    let query = &request.fragment.id.query;
    let lanes = request.fragment.parts.iter().map(|input| PartsLanes::of(input, query, Arc::clone(store)));
    let lanes = lanes.map(|lanes| lanes.map(Arc::new)).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
    let rows = plan::Rows { parts: &lanes, ..plan::Rows::default() };
    let context = Arc::new(TaskContext::default());
    let plan = plan::decode(&encoded.0, &context, rows, &mut |_, scan| Ok(scan.clone())).map_err(|e| classify(&e))?;
    // The coordinator asks for rows that go on by an exchange over them, which functions do not run.
    let plan = match request.stage.output {
        gust_protocol::Output::Parts { .. } => Arc::clone(plan.children()[0]),
        gust_protocol::Output::Gather { .. } => plan,
    };
    collect(plan, context).await.map_err(|error| classify(&error))
}

/// Lists the slices of objects that a request names: one read each.
pub(super) fn object_slices(request: &InvokeRequest) -> Vec<Slice> {
    slices(request).filter(|slice| slice.inline.is_none()).collect()
}

/// Spoils one object that an attempt is about to read. Returns false where it reads none.
pub(super) async fn spoil(
    request: &InvokeRequest,
    fault: Option<Fault>,
    store: &Arc<dyn ObjectStore>,
    random: &mut SmallRng,
) -> bool {
    let slices = object_slices(request);
    if slices.is_empty() {
        return false;
    }
    let (_, prefix) = request.stage.output.place();
    let path = |slice: usize| {
        let (stage, index, attempt) = (slices[slice].stage, slices[slice].index, slices[slice].attempt);
        result_path(prefix, &FragmentId { query: request.fragment.id.query.clone(), stage, index }, attempt)
    };
    let (spoiled, other) = (path(random.random_range(0..slices.len())), path(random.random_range(0..slices.len())));
    let bytes = |path: Path| async move { Some(store.get(&path).await.ok()?.bytes().await.expect("in memory")) };
    let (Some(own), Some(others)) = (bytes(spoiled.clone()).await, bytes(other).await) else { return false };
    let put = match fault {
        Some(Fault::TornInput) => own.slice(..own.len() / 2),
        Some(Fault::SwappedInput) if own != others => others,
        Some(Fault::SwappedInput) => return false,
        _ => {
            store.delete(&spoiled).await.expect("in memory");
            return true;
        }
    };
    store.put(&spoiled, put.into()).await.expect("in memory");
    true
}

/// Lists the slices that a request names.
pub(super) fn slices(request: &InvokeRequest) -> impl Iterator<Item = Slice> {
    let lanes = request.fragment.parts.iter().flat_map(|input| &input.lanes);
    lanes.flat_map(|lane| LaneSlices::decoded(lane).expect("the coordinator's own").slices)
}

async fn newest(request: &InvokeRequest, store: &Arc<dyn ObjectStore>) -> Vec<RecordBatch> {
    let (_, prefix) = request.stage.output.place();
    let objects: Vec<ObjectMeta> = store.list(None).try_collect().await.expect("in memory");
    let mut rows = Vec::new();
    for slice in slices(request) {
        let of_producer = |object: &&ObjectMeta| {
            result_at(prefix, &object.location).is_some_and(|key| {
                let id = &key.fragment;
                (id.query.as_str(), id.stage, id.index) == (&request.fragment.id.query, slice.stage, slice.index)
            })
        };
        let written = |object: &&ObjectMeta| object.e_tag.as_deref().and_then(|etag| etag.parse::<u64>().ok());
        let bytes = match (slice.inline, objects.iter().filter(of_producer).max_by_key(written)) {
            (Some(inline), _) => inline,
            (None, Some(object)) => {
                let all = store.get(&object.location).await.expect("in memory").bytes().await.expect("in memory");
                let end = (slice.start + slice.bytes).min(all.len() as u64) as usize;
                all.slice((slice.start as usize).min(end)..end)
            }
            (None, None) => Bytes::new(),
        };
        rows.extend(messages(&bytes));
    }
    rows
}

/// Decodes messages without a schema, as long as they make sense.
fn messages(bytes: &Bytes) -> Vec<RecordBatch> {
    let mut stream = StreamWriter::try_new(Vec::new(), &schema()).expect("a plain schema");
    let mut stream = std::mem::take(stream.get_mut());
    stream.extend_from_slice(bytes);
    StreamReader::try_new(Cursor::new(stream), None).into_iter().flatten().map_while(Result::ok).collect()
}

/// Returns true in worlds where each attempt of a stage over others parts its rows alike, as plans of joins do. In the others it does not, as with sums of floats.
pub(super) fn parts_alike(seed: u64) -> bool {
    number(seed, "parts alike").is_multiple_of(2)
}

/// Parts rows among some of so many partitions. Rows of one number are in one partition, for one salt.
pub(super) fn parted(batches: &[RecordBatch], partitions: usize, among: Range<usize>, salt: u64) -> (Bytes, Regions) {
    let (mut bytes, mut regions) = (Vec::new(), Vec::new());
    for partition in 0..partitions {
        let mut region = Vec::new();
        let mut rows = 0;
        for batch in batches {
            let values = batch.column(1).as_any().downcast_ref::<Int64Array>().expect("integers").values();
            let of_partition = |(_, value): &(u32, &i64)| {
                among.start + (number(salt, value) % among.len() as u64) as usize == partition
            };
            let positions: UInt32Array = (0..).zip(values).filter(of_partition).map(|(row, _)| row).collect();
            if !positions.is_empty() {
                let part = take_record_batch(batch, &positions).expect("rows of the batch");
                rows += part.num_rows() as u64;
                region.extend(encode_messages(&schema(), &[part]).expect("a plain schema"));
            }
        }
        regions.push(StreamSummary { bytes: region.len() as u64, rows, crc32: crc32fast::hash(&region) });
        bytes.extend(region);
    }
    (bytes.into(), Regions(regions))
}
