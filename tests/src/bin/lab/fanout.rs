//! Thousands of fragments through the real stage, scheduler and framing, to an invoker that does nothing else.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use fragment_fn::{Environment, EnvironmentSettings, handler};
use gust_engine::attempt::{Billing, Invocation};
use gust_engine::config::S3Config;
use gust_engine::events::EventLog;
use gust_engine::exchange::Exchange;
use gust_engine::exec::{QueryContext, RemoteFragmentExec};
use gust_engine::fleet::Invoker;
use gust_engine::model::TimeModel;
use gust_engine::planner::passes::pack::Packing;
use gust_engine::planner::passes::stages::plan_stages;
use gust_engine::planner::{DigestBounds, FunctionAccess};
use gust_engine::scheduler::{Clock, Scheduler, SchedulerSettings, SpeculationPolicy};
use gust_engine::storage::{StoreCredentials, Stores};
use gust_protocol::exchange::{ResultTarget, ResultWriter};
use gust_protocol::version::{PROTOCOL_VERSION, fingerprint};
use gust_protocol::{
    AccessTable, AheadBounds, Fragment, FragmentId, FragmentLimits, FragmentResponse, InvokeRequest, Output,
    StoreAccess, Usage, wire,
};
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use serde_json::json;

use super::workload::Fanout;
use super::{Bound, Outcome};
use gust_tests::stats::median;

pub async fn measure(fanout: &Fanout, fragments: usize, cache: &Path) -> anyhow::Result<Outcome> {
    let idle = resident_bytes()?;
    let framing = Arc::new(FramingInvoker { answer: one_row().await?, seen: AtomicUsize::new(0) });
    let started = Instant::now();
    let context = SessionContext::new();
    let planned = {
        let footers = context.runtime_env().cache_manager.get_file_metadata_cache();
        let reach =
            |url: &str| Ok(FunctionAccess::Through(StoreAccess { url: url.to_owned(), options: Default::default() }));
        let packing = Packing {
            fragment_bytes_target: 1,
            model: TimeModel::laptop(1),
            functions_max: fragments,
            functions: Some(fragments),
            lanes_max: 1,
            function_memory_bytes: 2 << 30,
            digest: DigestBounds::default(),
        };
        plan_stages(&scan(fragments)?, &packing, footers.as_ref(), &reach, &RemoteFragmentExec::leaf)?
    };
    let task = TaskContext::from(&context.state());
    let events = EventLog::start();
    let config = task.session_config().clone().with_extension(Arc::new(query(&framing, fanout.in_flight, events)));
    let rows = collect(planned.plan, Arc::new(task.with_session_config(config))).await?;
    let seconds = started.elapsed().as_secs_f64();
    let above = resident_peak_bytes()?.saturating_sub(idle);
    let rows: usize = rows.iter().map(RecordBatch::num_rows).sum();
    let executor_us = executor(fanout.executor_fragments, cache).await?;
    Ok(Outcome {
        name: "fanout",
        table: vec![
            format!("{fragments} fragments in {seconds:.2} s, {:.0} MB above idle", above as f64 / 1e6),
            format!("executor alone: {:.0} us a tiny fragment (median of {})", median(&executor_us), executor_us.len()),
        ],
        samples: json!({ "seconds": seconds, "bytes_above_idle": above, "executor_us": executor_us }),
        bounds: vec![
            Bound {
                what: format!("{fragments} fragments"),
                measured: seconds,
                aim: fanout.aim_seconds,
                worst: fanout.worst_seconds,
                unit: "s",
            },
            Bound {
                what: "memory above idle".to_owned(),
                measured: above as f64 / 1e6,
                aim: fanout.aim_bytes as f64 / 1e6,
                worst: fanout.worst_bytes as f64 / 1e6,
                unit: "MB",
            },
        ],
        validity: vec![
            ("every fragment was invoked once".to_owned(), framing.seen.load(Ordering::Relaxed) == fragments),
            ("every fragment's row arrived".to_owned(), rows == fragments),
        ],
    })
}

/// Invoker that decodes a request and encodes an answer, as any transport must.
#[derive(Debug)]
struct FramingInvoker {
    answer: gust_protocol::FragmentResult,
    seen: AtomicUsize,
}

#[async_trait]
impl Invoker for FramingInvoker {
    async fn invoke(&self, request: InvokeRequest) -> Invocation {
        let sent = wire::encode_request(&request).expect("plain data");
        let request = wire::decode_request(&sent).expect("what was just encoded");
        self.seen.fetch_add(1, Ordering::Relaxed);
        let response = FragmentResponse {
            version: PROTOCOL_VERSION,
            id: request.fragment.id,
            attempt: request.attempt,
            outcome: Ok(self.answer.clone()),
            usage: Usage::default(),
        };
        let answered = wire::encode_response(&response).expect("plain data");
        let response = wire::decode_response(&answered).expect("what was just encoded");
        tokio::task::yield_now().await;
        let billing = Billing::Metered { duration: Duration::ZERO, init: Duration::ZERO };
        Invocation { outcome: Ok(response), billing, cold: Some(false), log_tail: String::new() }
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true)]))
}

async fn one_row() -> anyhow::Result<gust_protocol::FragmentResult> {
    let target = ResultTarget { access: 0, store: Arc::new(InMemory::new()), path: StorePath::from("unused") };
    let mut writer = ResultWriter::new(&schema(), None, u64::MAX, target)?;
    writer.write(&RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(vec![1]))])?).await?;
    Ok(writer.finish().await?)
}

/// Returns a scan of as many distinct files as there are fragments. None of them is ever opened.
fn scan(fragments: usize) -> anyhow::Result<Arc<dyn ExecutionPlan>> {
    let file = |index: usize| PartitionedFile::new(format!("lab/part-{index:05}.parquet"), 1000 + index as u64);
    let groups = vec![FileGroup::new((0..fragments).map(file).collect()), FileGroup::default()];
    let source = Arc::new(ParquetSource::new(schema()));
    let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse("s3://lab/")?, source).with_file_groups(groups);
    Ok(DataSourceExec::from_data_source(config.build()))
}

fn query(framing: &Arc<FramingInvoker>, in_flight: usize, events: EventLog) -> QueryContext {
    let access = StoreAccess { url: "memory:///".to_owned(), options: Default::default() };
    // Without speculation each fragment is invoked once, however busy the machine is.
    let settings = SchedulerSettings { speculation: SpeculationPolicy::NEVER, ..SchedulerSettings::new(in_flight, 0) };
    let scheduler = Scheduler::new(Arc::clone(framing) as _, Arc::default(), settings);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(300);
    QueryContext {
        id: "lab".to_owned(),
        attempts: scheduler.query(events, Clock::start(), deadline, None),
        exchange: Exchange { access, prefix: "lab".to_owned(), store: Arc::new(InMemory::new()) },
        credentials: StoreCredentials::Own,
        stores: Stores::new(S3Config::default()),
        limits: FragmentLimits {
            memory_bytes_max: 1 << 30,
            temp_bytes_max: 1 << 30,
            bridge_bytes: 1 << 20,
            inline_bytes_max: 1 << 20,
            ahead: AheadBounds::default(),
            late_columns_percent_max: 0,
        },
        options: Default::default(),
        work: None,
    }
}

/// Runs tiny fragments through the warm handler, one after the other. Returns the microseconds of each.
async fn executor(count: usize, cache: &Path) -> anyhow::Result<Vec<f64>> {
    let path = std::path::absolute(cache.join("one-row.parquet"))?;
    let context = SessionContext::new();
    let copy = format!("COPY (SELECT CAST(1 AS BIGINT) AS v) TO '{}' STORED AS PARQUET", path.display());
    context.sql(&copy).await?.collect().await?;
    let size = std::fs::metadata(&path)?.len();
    let key = StorePath::from_absolute_path(&path)?;
    let groups = vec![FileGroup::new(vec![PartitionedFile::new(key.to_string(), size)])];
    let source = Arc::new(ParquetSource::new(schema()));
    let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source).with_file_groups(groups);
    let plan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config.build());
    let footers = context.runtime_env().cache_manager.get_file_metadata_cache();
    let reach =
        |url: &str| Ok(FunctionAccess::Through(StoreAccess { url: url.to_owned(), options: Default::default() }));
    let packing = Packing {
        fragment_bytes_target: 1 << 20,
        model: TimeModel::laptop(1),
        functions_max: 1,
        functions: None,
        lanes_max: 1,
        function_memory_bytes: 2 << 30,
        digest: DigestBounds::default(),
    };
    let planned = plan_stages(&plan, &packing, footers.as_ref(), &reach, &RemoteFragmentExec::leaf)?;
    let stage = &planned.stages[0];
    let environment = Arc::new(Environment::new(EnvironmentSettings::default()));
    let mut samples = Vec::with_capacity(count);
    for run in 0..count + 20 {
        let request = InvokeRequest {
            version: PROTOCOL_VERSION,
            fingerprint: fingerprint().to_owned(),
            fragment: Fragment {
                id: FragmentId { query: "lab".to_owned(), stage: 0, index: run as u32 },
                inputs: stage.inputs(0, footers.as_ref(), None)?,
                parts: Vec::new(),
                limits: FragmentLimits {
                    memory_bytes_max: 1 << 30,
                    temp_bytes_max: 1 << 30,
                    bridge_bytes: 1 << 20,
                    inline_bytes_max: 1 << 20,
                    ahead: AheadBounds::default(),
                    late_columns_percent_max: 0,
                },
            },
            attempt: 0,
            deadline_unix_ms: u64::MAX / 2,
            access: AccessTable(vec![stage.accesses[0].clone(), stage.accesses[0].clone()]),
            stage: stage.stage_plan(
                Output::Gather { access: 0, prefix: "lab".to_owned() },
                Default::default(),
                Vec::new(),
            )?,
        };
        let payload = wire::encode_request(&request)?;
        let started = Instant::now();
        let answer = handler::handle(&environment, payload, SystemTime::now() + Duration::from_secs(60)).await;
        let micros = started.elapsed().as_secs_f64() * 1e6;
        let response = wire::decode_response(&answer)?;
        anyhow::ensure!(response.outcome.is_ok(), "a tiny fragment failed: {:?}", response.outcome);
        if run >= 20 {
            samples.push(micros);
        }
    }
    Ok(samples)
}

fn resident_bytes() -> anyhow::Result<u64> {
    status_bytes("VmRSS:")
}

fn resident_peak_bytes() -> anyhow::Result<u64> {
    status_bytes("VmHWM:")
}

fn status_bytes(key: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| anyhow::anyhow!("/proc/self/status has no {key}"))
}
