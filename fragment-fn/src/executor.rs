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
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::StreamExt;
use gust_protocol::exchange::{COMPRESSION, ResultTarget, ResultWriter, result_path};
use gust_protocol::{
    Base64, DeleteContent, FragmentError, FragmentErrorKind, FragmentResult, Input, InvokeRequest, LeafId, ObjectRef,
    Output, PlanRef, ScanUnit, UnitDeletes, Usage, functions, plan,
};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use crate::ahead::{AheadAccount, ReadAhead, attach};
use crate::classify::{classify, classify_exchange, classify_write};
use crate::columns::FileConstants;
use crate::deletes::{DeletePlan, DeleteReader, FileDeletes};
use crate::environment::Environment;
use crate::footer::{ShippedFooter, read_shipped};
use crate::hedging::HedgedStore;
use crate::late::LateColumns;
use crate::memory::PeakPool;
use crate::metering::{Counters, CountingStore};
use crate::pace::Pace;
use crate::scan::{InStore, ScanReader};

/// Longest plan in the exchange, in bytes: it is read whole.
const PLAN_BYTES_MAX: u64 = 64 << 20;

/// Most bytes of one stream of rows that all fragments of a stage read, encoded.
const SHARED_BYTES_MAX: u64 = 512 << 20;

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
    let (plan, shared) = futures::try_join!(
        plan_bytes(environment, request, &stores),
        shared_rows(environment, request, meter, &stores)
    )?;
    let encoded = EncodedPlan { plan, shared };
    let ahead = read_ahead(environment, request, meter);
    check_inputs(request)?;
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
    /// URL as the request spells it.
    spelled: String,
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
        stores.push(AttemptStore { url, spelled: access.url.clone(), hedged, pace, footer_cache_salt });
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
async fn shared_rows(
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

/// Checks that units name stores and delete files that the request has.
fn check_inputs(request: &InvokeRequest) -> Result<(), FragmentError> {
    let malformed = |reason: String| Err(FragmentError::new(FragmentErrorKind::MalformedRequest, reason));
    let stores = request.access.0.len();
    for (_, Input::Scan(scan)) in &request.fragment.inputs {
        let files =
            scan.lanes.iter().flatten().map(|unit| &unit.file).chain(scan.deletes.iter().map(|file| &file.file));
        for file in files {
            if usize::from(file.access) >= stores {
                return malformed(format!("the request names store {}, its access table has {stores}", file.access));
            }
        }
        let content = |file: &u32| scan.deletes.get(*file as usize).map(|file| &file.content);
        let is_vector = |file: &u32| matches!(content(file), Some(DeleteContent::Vector { .. }));
        let is_positions = |file: &u32| matches!(content(file), Some(DeleteContent::Positions));
        if !scan.delete_sets.iter().all(|set| set.positions.iter().all(is_positions)) {
            return malformed("a set names delete files that the request does not have".to_owned());
        }
        for unit in scan.lanes.iter().flatten() {
            let Some(deletes) = &unit.deletes else { continue };
            let is_set = |set: &u32| (*set as usize) < scan.delete_sets.len();
            if !deletes.vector.iter().all(is_vector) || !deletes.set.iter().all(is_set) {
                return malformed(format!("`{}` names delete files that the request does not have", unit.file.path));
            }
            if unit.footer.is_some() {
                // It has the unit's row groups only, but positions count those of the file.
                return malformed(format!("`{}` has deleted rows and a part of its footer", unit.file.path));
            }
        }
    }
    Ok(())
}

/// Plan of a stage and the rows that it reads, as they travel.
struct EncodedPlan {
    plan: Bytes,
    shared: Vec<Bytes>,
}

fn decode(
    environment: &Environment,
    request: &InvokeRequest,
    encoded: &EncodedPlan,
    context: &Arc<TaskContext>,
    stores: &[AttemptStore],
    account: &Arc<AheadAccount>,
    ahead: Option<&ReadAhead>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let inputs: BTreeMap<u32, &Input> = request.fragment.inputs.iter().map(|(leaf, input)| (*leaf, input)).collect();
    let missing = |leaf: LeafId, what: &str| DataFusionError::Plan(format!("leaf {leaf} of the plan has no {what}"));
    let hedged: Arc<[Arc<dyn ObjectStore>]> = stores.iter().map(|store| Arc::clone(&store.hedged)).collect();
    let plan = plan::decode(&encoded.plan, context, &request.stage.scalars, &encoded.shared, &mut |leaf, scan| {
        let Input::Scan(input) = inputs.get(&leaf).ok_or_else(|| missing(leaf, "input"))?;
        let deletes = (!input.deletes.is_empty()).then(|| {
            let units: Vec<_> = input.lanes.iter().flatten().filter_map(|unit| unit_deletes(unit, stores)).collect();
            let table = Arc::clone(scan.file_schema());
            let planned = DeletePlan::new(input.table.clone(), input.deletes.clone(), input.delete_sets.clone());
            let reader = DeleteReader::new(Arc::clone(&hedged), planned, &units, table, context.memory_pool());
            let Output::Gather { access, .. } = &request.stage.output;
            Arc::new(reader.with_exchange(*access))
        });
        with_lanes(scan, &input.lanes, stores, deletes.as_ref())
    })?;
    let options = context.session_config().options();
    attach(plan, options, account, ahead, LateColumns::NEVER, &mut |leaf, _| {
        let spec = request.stage.leaves.get(leaf as usize).ok_or_else(|| missing(leaf, "spec"))?;
        let (hedged, footers) = (Arc::clone(&hedged), Arc::clone(&environment.footers));
        // Reading ahead slows down by the store of the first file.
        let first = inputs.get(&leaf).and_then(|Input::Scan(input)| input.lanes.iter().flatten().next());
        let pace = first.and_then(|unit| stores.get(usize::from(unit.file.access))?.pace.clone());
        Ok(Some(ScanReader::of_stores(hedged, footers, spec.matching.clone()).paced(pace)))
    })
}

/// Puts this fragment's lanes, each a partition, into the placeholder `scan`.
fn with_lanes(
    scan: &FileScanConfig,
    lanes: &[Vec<ScanUnit>],
    stores: &[AttemptStore],
    deletes: Option<&Arc<DeleteReader>>,
) -> Result<FileScanConfig> {
    let file = |unit: &ScanUnit| partitioned_file(unit, stores, deletes);
    let group = |lane: &Vec<ScanUnit>| Ok(FileGroup::new(lane.iter().map(file).collect::<Result<_>>()?));
    Ok(plan::with_files(scan, lanes.iter().map(group).collect::<Result<_>>()?))
}

/// Returns the deletes of a unit, with the path of its data file written out.
fn unit_deletes(unit: &ScanUnit, stores: &[AttemptStore]) -> Option<UnitDeletes> {
    let mut deletes = unit.deletes.clone()?;
    if deletes.path.is_empty() {
        let url = stores.get(usize::from(unit.file.access)).map_or("", |store| store.spelled.as_str());
        deletes.path = format!("{url}{}", unit.file.path);
    }
    Some(deletes)
}

fn partitioned_file(
    unit: &ScanUnit,
    stores: &[AttemptStore],
    deletes: Option<&Arc<DeleteReader>>,
) -> Result<PartitionedFile> {
    let object = &unit.file;
    let store = store(stores, object.access).map_err(|error| DataFusionError::Plan(error.message))?;
    // The footer cache compares size and modification time. AttemptStore and etag stand in for the time.
    let identity = crc32fast::hash(object.etag.as_deref().unwrap_or_default().as_bytes());
    let version = i64::from(identity) << 16 | i64::from(store.footer_cache_salt & 0xffff);
    let mut file = PartitionedFile::new_from_meta(object_store::ObjectMeta {
        location: object_store::path::Path::parse(&object.path)?,
        last_modified: DateTime::from_timestamp_micros(version).unwrap_or_default(),
        size: object.size_bytes,
        e_tag: object.etag.clone(),
        version: None,
    });
    file.metadata_size_hint = object.footer_bytes.and_then(|bytes| usize::try_from(bytes).ok());
    file.extensions.insert(InStore(object.access));
    if let Some(own) = unit_deletes(unit, stores) {
        let reader = deletes.ok_or_else(|| DataFusionError::Plan(format!("`{}` names delete files", object.path)))?;
        file.extensions.insert(FileDeletes::new(Arc::clone(reader), own)?);
    }
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

#[cfg(test)]
mod tests {
    use gust_protocol::Scan;

    use super::*;

    #[test]
    fn a_request_that_names_what_it_does_not_have_is_malformed() {
        let golden = include_str!("../protocol/testdata/request.json");
        let check = |change: &dyn Fn(&mut Scan), expect: &str| {
            let mut request: InvokeRequest = serde_json::from_str(golden).expect("golden bytes");
            let Input::Scan(scan) = &mut request.fragment.inputs[0].1;
            scan.lanes[0][0].footer = None;
            change(scan);
            let error = check_inputs(&request).err();
            assert!(error.as_ref().is_none_or(|error| error.kind == FragmentErrorKind::MalformedRequest), "{error:?}");
            let message = error.map(|error| error.message).unwrap_or_default();
            assert!(message.contains(expect) && message.is_empty() == expect.is_empty(), "{message}");
        };
        let unit = |scan: &mut Scan, vector, set| {
            let deletes = scan.lanes[0][0].deletes.as_mut().expect("deletes");
            (deletes.vector, deletes.set) = (vector, set);
        };
        check(&|_| {}, "");
        check(&|scan| scan.lanes[0][0].file.access = 2, "names store 2, its access table has 2");
        check(&|scan| scan.deletes[0].file.access = 9, "names store 9");
        let unknown = "names delete files that the request does not have";
        check(&|scan| unit(scan, Some(3), None), unknown);
        check(&|scan| unit(scan, None, Some(2)), unknown);
        check(&|scan| scan.delete_sets[1].positions = vec![0, 4], unknown);
        // Delete files of another kind.
        check(&|scan| unit(scan, Some(0), None), unknown);
        check(&|scan| scan.delete_sets[0].positions = vec![2], unknown);
        check(&|scan| scan.lanes[0][0].footer = Some(Base64::default()), "a part of its footer");
    }
}
