//! Parts of a request that may lie in the exchange: the plan, rows that all fragments of the stage read, and rows by partition of other stages.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use gust_protocol::parts::PartsInput;
use gust_protocol::plan::PartsLanes;
use gust_protocol::{Base64, FragmentError, FragmentErrorKind, FragmentResult, InvokeRequest, ObjectRef, PlanRef};
use object_store::ObjectStoreExt;

use crate::classify::{classify, classify_exchange};
use crate::environment::Environment;
use crate::executor::{AttemptStore, Meter, store};

/// Longest plan in the exchange, in bytes: it is read whole.
const PLAN_BYTES_MAX: u64 = 64 << 20;

/// Most bytes of one stream of rows that all fragments of a stage read, encoded.
const SHARED_BYTES_MAX: u64 = 512 << 20;

/// Returns the encoded plan: from the request, or from the exchange once an environment.
pub(crate) async fn plan_bytes(
    environment: &Environment,
    request: &InvokeRequest,
    stores: &[AttemptStore],
) -> Result<Bytes, FragmentError> {
    match &request.stage.plan {
        PlanRef::Inline(plan) => Ok(plan.0.clone()),
        PlanRef::Object { object, crc32 } => {
            let what = StageRead { what: "plan", bytes_max: PLAN_BYTES_MAX, object, crc32: *crc32 };
            stage_object(environment, request, stores, what).await
        }
    }
}

/// Returns the streams of rows that all fragments of the stage read, verified: from the request, or from the exchange once an
/// environment.
pub(crate) async fn shared_rows(
    environment: &Environment,
    request: &InvokeRequest,
    meter: &Meter,
    stores: &[AttemptStore],
) -> Result<Vec<Bytes>, FragmentError> {
    let streams = request.stage.shared.iter().enumerate();
    let streams = streams.map(|(number, rows)| shared_stream(environment, request, meter, stores, number, rows));
    futures::future::try_join_all(streams).await
}

/// Returns one of these streams.
async fn shared_stream(
    environment: &Environment,
    request: &InvokeRequest,
    meter: &Meter,
    stores: &[AttemptStore],
    number: usize,
    rows: &FragmentResult,
) -> Result<Bytes, FragmentError> {
    let part = rows.part();
    match rows {
        FragmentResult::Inline { bytes: Base64(bytes), .. } => {
            if bytes.len() as u64 != part.bytes || crc32fast::hash(bytes) != part.crc32 {
                let torn = format!("rows {number} of the request are not what was promised");
                return Err(FragmentError::new(FragmentErrorKind::MalformedRequest, torn));
            }
            Ok(bytes.clone())
        }
        FragmentResult::Parts { .. } => {
            let parted = format!("rows {number} of the request are parted");
            Err(FragmentError::new(FragmentErrorKind::MalformedRequest, parted))
        }
        FragmentResult::Object { object, .. } => {
            let what = StageRead { what: "rows", bytes_max: SHARED_BYTES_MAX, object, crc32: part.crc32 };
            // The plan's leaf reserves them as long as it needs them. Here it is known that there is room, before they are read.
            let pool: Arc<dyn MemoryPool> = Arc::clone(&meter.memory) as _;
            let room = MemoryConsumer::new("rows for joins").register(&pool);
            let bytes = usize::try_from(object.size_bytes.min(SHARED_BYTES_MAX)).unwrap_or(usize::MAX);
            room.try_grow(bytes).map_err(|error| classify(&error))?;
            stage_object(environment, request, stores, what).await
        }
    }
}

/// Object that all fragments of a stage read.
struct StageRead<'a> {
    what: &'static str,
    bytes_max: u64,
    object: &'a ObjectRef,
    crc32: u32,
}

/// Returns an object's bytes, verified. An environment reads it once.
async fn stage_object(
    environment: &Environment,
    request: &InvokeRequest,
    stores: &[AttemptStore],
    StageRead { what, bytes_max, object, crc32 }: StageRead<'_>,
) -> Result<Bytes, FragmentError> {
    let failed = |kind, reason: &dyn std::fmt::Display| {
        FragmentError::new(
            kind,
            format!("{what} of stage {} at `{}`: {reason}", request.fragment.id.stage, object.path),
        )
    };
    if object.size_bytes > bytes_max {
        return Err(failed(FragmentErrorKind::MalformedRequest, &format_args!("{} bytes long", object.size_bytes)));
    }
    if let Some(kept) = environment.stage_object(&object.path, crc32) {
        return Ok(kept);
    }
    let path = object_store::path::Path::parse(&object.path)
        .map_err(|error| failed(FragmentErrorKind::MalformedRequest, &error))?;
    let exchange = &store(stores, object.access)?.hedged;
    let read = async { exchange.get(&path).await?.bytes().await }.await;
    let bytes = read.map_err(|error| failed(classify_exchange(&error), &error))?;
    if bytes.len() as u64 != object.size_bytes || crc32fast::hash(&bytes) != crc32 {
        return Err(failed(FragmentErrorKind::Storage, &"not what the coordinator wrote"));
    }
    let memory_bytes_max = request.fragment.limits.memory_bytes_max;
    environment.keep_stage_object(&object.path, crc32, bytes.clone(), memory_bytes_max);
    Ok(bytes)
}

/// Takes the request's rows of other stages apart.
pub(crate) fn parts(request: &InvokeRequest, stores: &[AttemptStore]) -> Result<Vec<Arc<PartsLanes>>, FragmentError> {
    let malformed = |reason: String| FragmentError::new(FragmentErrorKind::MalformedRequest, reason);
    let of = |input: &PartsInput| {
        let exchange = Arc::clone(&store(stores, input.access)?.hedged);
        PartsLanes::of(input, &request.fragment.id.query, exchange).map(Arc::new).map_err(malformed)
    };
    request.fragment.parts.iter().map(of).collect()
}
