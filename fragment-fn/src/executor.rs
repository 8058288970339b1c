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
use gust_protocol::exchange::{ResultTarget, result_path};
use gust_protocol::plan::PartsLanes;
use gust_protocol::{
    DeleteContent, FragmentError, FragmentErrorKind, FragmentResult, Input, InvokeRequest, LeafId, ScanUnit,
    UnitDeletes, Usage, functions, plan,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use url::Url;

use crate::ahead::{AheadAccount, ReadAhead, attach};
use crate::classify::classify;
use crate::columns::FileConstants;
use crate::deletes::{DeletePlan, DeleteReader, FileDeletes};
use crate::environment::Environment;
use crate::footer::{ShippedFooter, read_shipped};
use crate::hedging::HedgedStore;
use crate::held::with_held_rows;
use crate::late::LateColumns;
use crate::memory::PeakPool;
use crate::metering::Counters;
use crate::output::RowsWriter;
use crate::pace::Pace;
use crate::scan::{InStore, ScanReader};
use crate::stage_objects::{parts, plan_bytes, shared_rows};

/// Meter of one attempt. It can be read at any moment, also when the attempt is given up.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) counters: Arc<Counters>,
    /// Part of `counters` in the exchange.
    exchange: Arc<Counters>,
    pub(crate) memory: Arc<PeakPool>,
    ahead: Arc<AheadAccount>,
    usage: std::sync::Mutex<Usage>,
}

impl Meter {
    pub(crate) fn new(request: &InvokeRequest) -> Self {
        let memory_bytes_max = usize::try_from(request.fragment.limits.memory_bytes_max).unwrap_or(usize::MAX);
        let counters = Arc::<Counters>::default();
        Self {
            exchange: Arc::new(Counters::part_of(&counters)),
            counters,
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
        usage.exchange_bytes_read = self.exchange.bytes_read();
        usage.bytes_written = self.counters.bytes_written();
        usage.memory_peak_bytes = self.memory.peak_bytes();
        usage.ahead = self.ahead.usage();
        usage.late = self.ahead.late();
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
    let encoded = EncodedPlan { plan, shared, parts: parts(request, &stores)? };
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
    let (access, prefix) = request.stage.output.place();
    let exchange = Arc::clone(&store(stores, access)?.hedged);
    let path = result_path(prefix, &request.fragment.id, request.attempt);
    let target = ResultTarget { access, store: exchange, path };
    let inline_bytes_max = request.fragment.limits.inline_bytes_max;
    let (plan, mut writer) = RowsWriter::open(&request.stage.output, plan, context, inline_bytes_max, target)?;
    if let Some(ahead) = &ahead {
        ahead.start();
    }
    let produced = produce(meter, context, &plan, &mut writer, ahead).await;
    if let Err(error) = produced {
        writer.abort().await;
        return Err(error);
    }
    let writing = Instant::now();
    let spilled_bytes = spilled_bytes(&plan) + writer.spilled_bytes();
    let result = writer.finish().await?;
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
    writer: &mut RowsWriter,
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
        let (writing, rows) = (Instant::now(), batch.num_rows() as u64);
        writer.write(batch).await?;
        meter.note(|usage| {
            usage.rows_out += rows;
            usage.spans.write_us += micros(writing);
        });
    }
}

/// Store of the request's access table, as this attempt sees it.
pub(crate) struct AttemptStore {
    url: Url,
    /// URL as the request spells it.
    spelled: String,
    /// Client that counts, and that sends late reads again.
    pub(crate) hedged: Arc<dyn ObjectStore>,
    pace: Option<Arc<Pace>>,
    /// Number that tells stores apart in the environment's footer cache, which knows only keys.
    footer_cache_salt: u32,
}

pub(crate) fn store(stores: &[AttemptStore], access: u16) -> Result<&AttemptStore, FragmentError> {
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
    let exchange = request.stage.output.place().0;
    for (number, access) in (0..).zip(&request.access.0) {
        let client = environment.client(access).map_err(invalid)?;
        let pace = client.pace().cloned();
        let counters = if number == exchange { &meter.exchange } else { &meter.counters };
        let counted = client.counted(counters);
        let hedged = HedgedStore::wrap(counted, client.hedger, counters);
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
    parts: Vec<Arc<PartsLanes>>,
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
    let bridge_bytes = request.fragment.limits.bridge_bytes;
    let rows = plan::Rows { scalars: &request.stage.scalars, shared: &encoded.shared, parts: &encoded.parts };
    let plan = plan::decode(&encoded.plan, context, rows, &mut |leaf, scan| {
        let Input::Scan(input) = inputs.get(&leaf).ok_or_else(|| missing(leaf, "input"))?;
        let deletes = (!input.deletes.is_empty()).then(|| {
            let units: Vec<_> = input.lanes.iter().flatten().filter_map(|unit| unit_deletes(unit, stores)).collect();
            let table = Arc::clone(scan.file_schema());
            let planned = DeletePlan::new(input.table.clone(), input.deletes.clone(), input.delete_sets.clone());
            let reader = DeleteReader::new(Arc::clone(&hedged), planned, &units, table, context.memory_pool());
            Arc::new(reader.bridging(bridge_bytes).with_exchange(request.stage.output.place().0))
        });
        with_lanes(scan, &input.lanes, stores, deletes.as_ref())
    })?;
    let options = context.session_config().options();
    let late = LateColumns { kept_percent_max: request.fragment.limits.late_columns_percent_max };
    let attached = attach(plan, options, account, ahead, late, &mut |leaf, _| {
        let spec = request.stage.leaves.get(leaf as usize).ok_or_else(|| missing(leaf, "spec"))?;
        let (hedged, footers) = (Arc::clone(&hedged), Arc::clone(&environment.footers));
        // Reading ahead slows down by the store of the first file.
        let first = inputs.get(&leaf).and_then(|Input::Scan(input)| input.lanes.iter().flatten().next());
        let pace = first.and_then(|unit| stores.get(usize::from(unit.file.access))?.pace.clone());
        Ok(Some(ScanReader::of_stores(hedged, footers, spec.matching.clone()).bridging(bridge_bytes).paced(pace)))
    })?;
    with_held_rows(attached)
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
    use gust_protocol::{Base64, Scan};

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
