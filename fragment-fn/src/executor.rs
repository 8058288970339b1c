//! Execution of one fragment: its plan is decoded, its inputs are bound, and its rows are written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chrono::DateTime;
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::execution::TaskContext;
use datafusion::execution::cache::cache_manager::CacheManagerConfig;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::StreamExt;
use gust_protocol::exchange::{COMPRESSION, ResultTarget, ResultWriter, result_path};
use gust_protocol::{
    FragmentError, FragmentErrorKind, FragmentResult, Input, InvokeRequest, LeafId, Output, PlanRef, ScanUnit, Usage,
    functions, plan,
};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use crate::ahead::{AheadAccount, ReadAhead, attach};
use crate::classify::{classify, classify_exchange, classify_write};
use crate::columns::FileConstants;
use crate::environment::Environment;
use crate::footer::{ShippedFooter, read_shipped};
use crate::hedging::HedgedStore;
use crate::late::LateColumns;
use crate::memory::PeakPool;
use crate::metering::{Counters, CountingStore};
use crate::pace::Pace;
use crate::scan::ScanReader;

/// Longest plan in the exchange, in bytes: it is read whole.
const PLAN_BYTES_MAX: u64 = 64 << 20;

/// Meter of one attempt. It can be read at any moment, also when the attempt is given up.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) counters: Arc<Counters>,
    memory: Arc<PeakPool>,
    ahead: Arc<AheadAccount>,
    usage: std::sync::Mutex<Usage>,
}

impl Meter {
    pub(crate) fn new(request: &InvokeRequest) -> Self {
        let memory_bytes_max = usize::try_from(request.fragment.limits.memory_bytes_max).unwrap_or(usize::MAX);
        Self {
            counters: Arc::default(),
            memory: PeakPool::new(memory_bytes_max),
            ahead: Arc::default(),
            usage: std::sync::Mutex::default(),
        }
    }

    fn note(&self, change: impl FnOnce(&mut Usage)) {
        change(&mut self.usage.lock().expect("no holder panics"));
    }

    pub(crate) fn usage(&self) -> Usage {
        let mut usage = *self.usage.lock().expect("no holder panics");
        usage.requests = self.counters.requests();
        usage.bytes_read = self.counters.bytes_read();
        usage.bytes_written = self.counters.bytes_written();
        usage.memory_peak_bytes = self.memory.peak_bytes();
        usage.ahead = self.ahead.usage();
        usage.spans.waited_us = self.ahead.waited_us();
        usage
    }
}

/// Runs the fragment to its end. Dropping the future cancels it.
pub(crate) async fn execute(
    environment: &Environment,
    request: &InvokeRequest,
    meter: &Meter,
) -> Result<FragmentResult, FragmentError> {
    let started = Instant::now();
    let stores = connect_stores(environment, request, meter)?;
    let context = task_context(environment, request, meter, &stores).map_err(|e| classify(&e))?;
    let encoded = plan_bytes(environment, request, &stores).await?;
    let ahead = read_ahead(environment, request, meter);
    let plan = decode(environment, request, &encoded, &context, &stores, &meter.ahead, ahead.as_ref())
        .map_err(|e| FragmentError::new(FragmentErrorKind::PlanDecode, e.strip_backtrace()))?;
    meter.note(|usage| usage.spans.decode_us = micros(started));
    run(request, meter, &context, plan, &stores, ahead).await
}

/// Opens the reading ahead of an attempt; None if it is turned off.
fn read_ahead(environment: &Environment, request: &InvokeRequest, meter: &Meter) -> Option<ReadAhead> {
    let bounds = request.fragment.limits.ahead;
    if bounds.is_off() {
        return None;
    }
    let pool: Arc<dyn MemoryPool> = Arc::clone(&meter.memory) as _;
    let ahead = environment.reading.query(bounds, &pool, Arc::clone(&meter.ahead));
    meter.memory.yields(ahead.giver());
    Some(ahead)
}

async fn run(
    request: &InvokeRequest,
    meter: &Meter,
    context: &Arc<TaskContext>,
    plan: Arc<dyn ExecutionPlan>,
    stores: &[AttemptStore],
    ahead: Option<ReadAhead>,
) -> Result<FragmentResult, FragmentError> {
    let Output::Gather { access, prefix } = &request.stage.output;
    let exchange = Arc::clone(&store(stores, *access)?.hedged);
    let path = result_path(prefix, &request.fragment.id, request.attempt);
    let target = ResultTarget { access: *access, store: exchange, path };
    let inline_bytes_max = request.fragment.limits.inline_bytes_max;
    let mut writer =
        ResultWriter::new(&plan.schema(), COMPRESSION, inline_bytes_max, target).map_err(|e| classify_write(&e))?;
    if let Some(ahead) = &ahead {
        ahead.start();
    }
    let produced = produce(meter, context, &plan, &mut writer, ahead).await;
    if let Err(error) = produced {
        writer.abort().await;
        return Err(error);
    }
    let writing = Instant::now();
    let result = writer.finish().await.map_err(|e| classify_write(&e))?;
    let spilled_bytes = spilled_bytes(&plan);
    meter.note(|usage| {
        usage.spans.write_us += micros(writing);
        usage.spilled_bytes = spilled_bytes;
    });
    Ok(result)
}

/// Runs the plan and writes its rows.
async fn produce(
    meter: &Meter,
    context: &Arc<TaskContext>,
    plan: &Arc<dyn ExecutionPlan>,
    writer: &mut ResultWriter,
    reading: Option<ReadAhead>,
) -> Result<(), FragmentError> {
    let mut batches = execute_stream(Arc::clone(plan), Arc::clone(context)).map_err(|e| classify(&e))?;
    // It is dropped before the stream.
    let ahead = reading;
    loop {
        let executing = Instant::now();
        let next = batches.next().await;
        meter.note(|usage| usage.spans.execute_us += micros(executing));
        let Some(batch) = next else {
            if let Some(ahead) = ahead {
                ahead.finish();
            }
            return Ok(());
        };
        let batch = batch.map_err(|e| classify(&e))?;
        let writing = Instant::now();
        writer.write(&batch).await.map_err(|e| classify_write(&e))?;
        meter.note(|usage| {
            usage.rows_out += batch.num_rows() as u64;
            usage.spans.write_us += micros(writing);
        });
    }
}

/// Store of the request's access table, as this attempt sees it.
struct AttemptStore {
    url: Url,
    /// Client that counts, and that sends late reads again.
    hedged: Arc<dyn ObjectStore>,
    pace: Option<Arc<Pace>>,
    /// Number that tells stores apart in the environment's footer cache, which knows only keys.
    footer_cache_salt: u32,
}

fn store(stores: &[AttemptStore], access: u16) -> Result<&AttemptStore, FragmentError> {
    let unknown = || format!("the request names store {access}, its access table has {}", stores.len());
    stores.get(usize::from(access)).ok_or_else(|| FragmentError::new(FragmentErrorKind::MalformedRequest, unknown()))
}

fn connect_stores(
    environment: &Environment,
    request: &InvokeRequest,
    meter: &Meter,
) -> Result<Vec<AttemptStore>, FragmentError> {
    let invalid = |e: String| FragmentError::new(FragmentErrorKind::MalformedRequest, e);
    let mut stores = Vec::with_capacity(request.access.0.len());
    for access in &request.access.0 {
        let client = environment.client(access).map_err(invalid)?;
        let pace = client.pace().cloned();
        let counted: Arc<dyn ObjectStore> = Arc::new(CountingStore::new(client.store, Arc::clone(&meter.counters)));
        let hedged = HedgedStore::wrap(counted, client.hedger, &meter.counters);
        let url = Url::parse(&access.url).map_err(|e| invalid(format!("store `{}`: {e}", access.url)))?;
        let footer_cache_salt =
            crc32fast::hash(format!("{}{:?}", access.url, access.options.get("aws_endpoint")).as_bytes());
        stores.push(AttemptStore { url, hedged, pace, footer_cache_salt });
    }
    Ok(stores)
}

fn task_context(
    environment: &Environment,
    request: &InvokeRequest,
    meter: &Meter,
    stores: &[AttemptStore],
) -> Result<Arc<TaskContext>> {
    let mut config = SessionConfig::new();
    for (key, value) in &request.stage.options {
        config.options_mut().set(key, value)?;
    }
    let runtime = runtime(environment, request, meter)?;
    // DataFusion asks for a scan's store before it opens a file. Inputs come only by [`ScanReader`], so that store is empty.
    for store in stores {
        runtime.register_object_store(&store.url, Arc::new(InMemory::new()));
    }
    Ok(Arc::new(TaskContext::new(
        Some(request.fragment.id.to_string()),
        request.fragment.id.query.clone(),
        config,
        functions::scalar().into_iter().map(|f| (f.name().to_owned(), f)).collect(),
        functions::higher_order().into_iter().map(|f| (f.name().to_owned(), f)).collect(),
        functions::aggregate().into_iter().map(|f| (f.name().to_owned(), f)).collect(),
        functions::window().into_iter().map(|f| (f.name().to_owned(), f)).collect(),
        runtime,
    )))
}

fn runtime(environment: &Environment, request: &InvokeRequest, meter: &Meter) -> Result<Arc<RuntimeEnv>> {
    let folder = environment.settings.temp_folder.clone();
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::clone(&meter.memory) as _)
        .with_disk_manager_builder(
            DiskManagerBuilder::default()
                .with_mode(DiskManagerMode::Directories(vec![folder]))
                .with_max_temp_directory_size(request.fragment.limits.temp_bytes_max),
        )
        .with_cache_manager(
            CacheManagerConfig::default()
                .with_file_metadata_cache(Some(Arc::clone(&environment.footers)))
                .with_metadata_cache_limit(environment.settings.metadata_cache_bytes_max),
        )
        .build_arc()
}

/// Returns the encoded plan: from the request, or from the exchange once an environment.
async fn plan_bytes(
    environment: &Environment,
    request: &InvokeRequest,
    stores: &[AttemptStore],
) -> Result<Bytes, FragmentError> {
    let (object, crc32) = match &request.stage.plan {
        PlanRef::Inline(plan) => return Ok(plan.0.clone()),
        PlanRef::Object { object, crc32 } => (object, *crc32),
    };
    let failed = |kind, reason: &dyn std::fmt::Display| {
        FragmentError::new(kind, format!("plan of stage {} at `{}`: {reason}", request.fragment.id.stage, object.path))
    };
    if object.size_bytes > PLAN_BYTES_MAX {
        return Err(failed(FragmentErrorKind::MalformedRequest, &format_args!("{} bytes long", object.size_bytes)));
    }
    if let Some(plan) = environment.plan(&object.path, crc32) {
        return Ok(plan);
    }
    let path = object_store::path::Path::parse(&object.path)
        .map_err(|error| failed(FragmentErrorKind::MalformedRequest, &error))?;
    let exchange = &store(stores, object.access)?.hedged;
    let read = async { exchange.get(&path).await?.bytes().await }.await;
    let plan = read.map_err(|error| failed(classify_exchange(&error), &error))?;
    if plan.len() as u64 != object.size_bytes || crc32fast::hash(&plan) != crc32 {
        return Err(failed(FragmentErrorKind::Storage, &"not what the coordinator wrote"));
    }
    environment.keep_plan(&object.path, crc32, plan.clone());
    Ok(plan)
}

fn decode(
    environment: &Environment,
    request: &InvokeRequest,
    encoded: &[u8],
    context: &Arc<TaskContext>,
    stores: &[AttemptStore],
    account: &Arc<AheadAccount>,
    ahead: Option<&ReadAhead>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let inputs: BTreeMap<u32, &Input> = request.fragment.inputs.iter().map(|(leaf, input)| (*leaf, input)).collect();
    let missing = |leaf: LeafId, what: &str| DataFusionError::Plan(format!("leaf {leaf} of the plan has no {what}"));
    let lanes_of = |leaf: LeafId| {
        let Input::Scan(lanes) = inputs.get(&leaf).ok_or_else(|| missing(leaf, "input"))?;
        let access = lanes.iter().flatten().next().map_or(0, |unit| unit.file.access);
        let store = store(stores, access).map_err(|e| DataFusionError::Plan(e.message))?;
        Ok::<_, DataFusionError>((lanes, store))
    };
    let plan = plan::decode(encoded, context, &request.stage.scalars, &mut |leaf, scan| {
        let (lanes, store) = lanes_of(leaf)?;
        with_lanes(scan, lanes, store.footer_cache_salt)
    })?;
    let options = context.session_config().options();
    attach(plan, options, account, ahead, LateColumns::NEVER, &mut |leaf, _| {
        let (_, store) = lanes_of(leaf)?;
        let spec = request.stage.leaves.get(leaf as usize).ok_or_else(|| missing(leaf, "spec"))?;
        let (hedged, footers) = (Arc::clone(&store.hedged), Arc::clone(&environment.footers));
        Ok(Some(ScanReader::new(hedged, footers, spec.matching).paced(store.pace.clone())))
    })
}

/// Puts this fragment's lanes, each a partition, into the placeholder `scan`.
fn with_lanes(scan: &FileScanConfig, lanes: &[Vec<ScanUnit>], footer_cache_salt: u32) -> Result<FileScanConfig> {
    let groups = lanes
        .iter()
        .map(|lane| {
            Ok(FileGroup::new(
                lane.iter().map(|unit| partitioned_file(unit, footer_cache_salt)).collect::<Result<_>>()?,
            ))
        })
        .collect::<Result<_>>()?;
    Ok(plan::with_files(scan, groups))
}

fn partitioned_file(unit: &ScanUnit, footer_cache_salt: u32) -> Result<PartitionedFile> {
    let object = &unit.file;
    // The footer cache compares size and modification time. AttemptStore and etag stand in for the time.
    let identity = crc32fast::hash(object.etag.as_deref().unwrap_or_default().as_bytes());
    let version = i64::from(identity) << 16 | i64::from(footer_cache_salt & 0xffff);
    let mut file = PartitionedFile::new_from_meta(object_store::ObjectMeta {
        location: object_store::path::Path::parse(&object.path)?,
        last_modified: DateTime::from_timestamp_micros(version).unwrap_or_default(),
        size: object.size_bytes,
        e_tag: object.etag.clone(),
        version: None,
    });
    file.metadata_size_hint = object.footer_bytes.and_then(|bytes| usize::try_from(bytes).ok());
    if !unit.constants.is_empty() {
        file.extensions.insert(FileConstants(unit.constants.clone()));
    }
    if let Some(footer) = &unit.footer {
        file.extensions.insert(ShippedFooter(read_shipped(&footer.0, &file.object_meta)?));
    }
    for value in &unit.partition_values {
        file.partition_values.push(plan::decode_scalar(value)?);
    }
    Ok(match unit.range {
        Some((start, end)) => file.with_range(signed(start)?, signed(end)?),
        None => file,
    })
}

fn signed(offset: u64) -> Result<i64> {
    i64::try_from(offset).map_err(|e| DataFusionError::External(Box::new(e)))
}

/// Counts the bytes that all operators of a finished plan spilled.
fn spilled_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let own = plan.metrics().and_then(|metrics| metrics.spilled_bytes()).unwrap_or_default() as u64;
    own + plan.children().into_iter().map(spilled_bytes).sum::<u64>()
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
