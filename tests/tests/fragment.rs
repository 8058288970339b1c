//! One fragment through the real handler: its requests to storage, and its failures.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use fragment_fn::{Environment, EnvironmentSettings, PinnedFile, handler, read_footer};
use gust_engine::exchange::EXCHANGE_ACCESS;
use gust_engine::exec::RemoteFragmentExec;
use gust_engine::planner::passes::pack::Packing;
use gust_engine::planner::passes::stages::plan_stages;
use gust_engine::planner::{DigestBounds, FunctionAccess};
use gust_protocol::version::{PROTOCOL_VERSION, fingerprint};
use gust_protocol::{
    AccessTable, AheadBounds, AheadUsage, Base64, Fragment, FragmentErrorKind as Kind, FragmentId, FragmentLimits,
    FragmentResponse, FragmentResult, InvokeRequest, ObjectRef, Output, PlanRef, ScanUnit, StoreAccess, StreamSummary,
    wire,
};
use gust_tests::cloud;
use gust_tests::parquet_files::footer;
use gust_tests::query::plain;
use gust_tests::s3::shape::Faults;
use gust_tests::s3::{Operation, S3Server, Shape, StorageFault};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tempfile::TempDir;

const MANY: &str = "SELECT value AS k, repeat(md5(CAST(value AS VARCHAR)), 5) AS v FROM generate_series(1, 200000)";

/// Writes a Parquet file on disk with row groups of 20,000 rows.
async fn parquet(folder: &TempDir, select: &str) -> PathBuf {
    let path = folder.path().join("a.parquet");
    let copy = format!(
        "COPY ({select}) TO '{}' STORED AS PARQUET OPTIONS ('format.max_row_group_size' '20000')",
        path.display()
    );
    plain(&[], &copy).await;
    path
}

/// Returns a request for a stage over one object as a store lists it. Its rows are sorted or not.
async fn request(store: Arc<dyn ObjectStore>, access: StoreAccess, key: &Key, sorted: bool) -> InvokeRequest {
    requested(store, access, key, sorted, KnownFooter::No).await
}

/// Tells if the planner has read the footer of the object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KnownFooter {
    Yes,
    No,
}

async fn requested(
    store: Arc<dyn ObjectStore>,
    access: StoreAccess,
    key: &Key,
    sorted: bool,
    known: KnownFooter,
) -> InvokeRequest {
    let meta: ObjectMeta = store.get_opts(key, head()).await.expect("it is there").meta;
    let schema = DFParquetMetadata::new(store.as_ref(), &meta).fetch_schema().await.expect("a footer");
    let source = Arc::new(ParquetSource::new(Arc::new(schema)));
    let url = ObjectStoreUrl::parse(&access.url).expect("a store");
    let groups = vec![FileGroup::new(vec![PartitionedFile::new_from_meta(meta.clone())]), FileGroup::default()];
    let scan = FileScanConfigBuilder::new(url, source).with_file_groups(groups).build();
    let mut plan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(scan);
    if sorted {
        plan = sort_by_last(plan);
    }
    let context = SessionContext::new();
    let footers = context.runtime_env().cache_manager.get_file_metadata_cache();
    if known == KnownFooter::Yes {
        read_footer(&PinnedFile::new(store, meta), None, footers.as_ref()).await.expect("a footer");
    }
    let packing = Packing {
        model: gust_engine::model::TimeModel::laptop(1),
        fragment_bytes_target: 1 << 30,
        functions_max: 1,
        functions: Some(1),
        lanes_max: 2,
        function_memory_bytes: 2 << 30,
        digest: DigestBounds::default(),
    };
    let reach = |_: &str| Ok(FunctionAccess::Through(access.clone()));
    let planned = plan_stages(&plan, &packing, footers.as_ref(), &reach, &RemoteFragmentExec::leaf);
    let stage = Arc::clone(&planned.expect("a plan").stages[0]);
    let local = StoreAccess { url: "file:///".to_owned(), options: Default::default() };
    InvokeRequest {
        version: PROTOCOL_VERSION,
        fingerprint: fingerprint().to_owned(),
        fragment: Fragment {
            id: FragmentId { query: "test".to_owned(), stage: 0, index: 0 },
            inputs: stage.inputs(0, footers.as_ref(), None).expect("inputs"),
            parts: Vec::new(),
            limits: FragmentLimits {
                memory_bytes_max: 1 << 30,
                temp_bytes_max: 1 << 30,
                bridge_bytes: 1 << 20,
                inline_bytes_max: 64 << 20,
                ahead: AheadBounds::default(),
                late_columns_percent_max: 0,
            },
        },
        attempt: 0,
        deadline_unix_ms: u64::MAX / 2,
        access: AccessTable(vec![local, access.clone()]),
        stage: stage
            .stage_plan(
                Output::Gather { access: EXCHANGE_ACCESS, prefix: "nowhere".to_owned() },
                Default::default(),
                Vec::new(),
            )
            .expect("a stage plan"),
    }
}

fn inline(plan: &'static str) -> PlanRef {
    PlanRef::Inline(Base64(plan.into()))
}

fn object(path: &str) -> PlanRef {
    let object =
        ObjectRef { access: EXCHANGE_ACCESS, path: path.to_owned(), size_bytes: 7, etag: None, footer_bytes: None };
    PlanRef::Object { object, crc32: 0 }
}

/// Makes rows in the exchange that all fragments read.
fn shared(path: &str, size_bytes: u64) -> FragmentResult {
    let object =
        ObjectRef { access: EXCHANGE_ACCESS, path: path.to_owned(), size_bytes, etag: None, footer_bytes: None };
    FragmentResult::Object { object, part: StreamSummary { bytes: size_bytes, rows: 1, crc32: 0 } }
}

fn head() -> object_store::GetOptions {
    object_store::GetOptions { head: true, ..Default::default() }
}

fn sort_by_last(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    use datafusion::physical_expr::expressions::col;
    use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
    use datafusion::physical_plan::sorts::sort::SortExec;
    let by = col("v", &plan.schema()).expect("a column");
    let order = LexOrdering::new([PhysicalSortExpr::new_default(by)]).expect("one column");
    Arc::new(SortExec::new(order, plan).with_preserve_partitioning(true))
}

async fn answer(environment: &Arc<Environment>, request: &InvokeRequest, left: Duration) -> FragmentResponse {
    let payload = wire::encode_request(request).expect("plain data");
    let answer = handler::handle(environment, payload, SystemTime::now() + left).await;
    wire::decode_response(&answer).expect("a response")
}

fn environment() -> Arc<Environment> {
    Arc::new(Environment::new(EnvironmentSettings::default()))
}

const MINUTE: Duration = Duration::from_secs(60);

/// Bounds of reading ahead under which fragments read the same.
const AHEAD: [AheadBounds; 2] = [AheadBounds::OFF, AheadBounds { requests_max: 64, bytes_max: 128 << 20 }];

/// Checks what a function says of its reading ahead: nothing where it is turned off, else all bytes of the rows.
fn check_ahead(request: &InvokeRequest, response: &FragmentResponse, row_bytes: u64) {
    let ahead = response.usage.ahead;
    if request.fragment.limits.ahead.is_off() {
        assert_eq!(ahead, AheadUsage::default());
    } else {
        assert_eq!(ahead.taken_bytes + ahead.missed_bytes, row_bytes, "{ahead:?}");
        assert!(ahead.requests > 0 && ahead.missed_bytes < row_bytes, "{ahead:?}");
    }
}

/// By the server's own account a fragment sends no HEAD and no LIST. It reads the footer once an environment, and no byte twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_fragment_reads_no_byte_twice() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = parquet(&folder, MANY).await;
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a store");
    let key = Key::from("t/a.parquet");
    store.put(&key, std::fs::read(&path).expect("readable").into()).await.expect("put");
    let mut request = request(Arc::clone(&store), cloud::access(&server, "function"), &key, false).await;
    let lanes = match &request.fragment.inputs[0].1 {
        gust_protocol::Input::Scan(scan) => scan.lanes.len(),
    };
    assert_eq!(lanes, 1, "a file without a known footer is one unit");
    for ahead in AHEAD {
        request.fragment.limits.ahead = ahead;
        let environment = environment();
        let mut gets = Vec::new();
        for attempt in 0..2 {
            server.take_requests();
            let response = answer(&environment, &request, MINUTE).await;
            let asked = server.take_requests();
            assert_eq!(response.outcome.as_ref().map(|result| result.part().rows), Ok(200_000), "{response:?}");
            assert!(asked.iter().all(|request| request.operation == Operation::Get), "{asked:?}");
            let mut ranges: Vec<_> = asked.iter().map(|request| request.bytes.clone()).collect();
            ranges.sort_by_key(|range| range.start);
            for pair in ranges.windows(2) {
                assert!(pair[0].end <= pair[1].start, "attempt {attempt}: bytes were read twice: {ranges:?}");
            }
            assert_eq!(response.usage.requests.get, asked.len() as u64, "what was metered is what was asked");
            assert_eq!(response.usage.bytes_read, ranges.iter().map(|range| range.end - range.start).sum::<u64>());
            assert_eq!(response.usage.cold, attempt == 0);
            gets.push(asked.len());
        }
        assert!(gets[1] < gets[0], "the footer was read again: {gets:?} requests");
    }
}

/// With footers that come along, the first request is for data, in a cold environment and in a warm one. A file that was changed
/// since is refused, and so is a footer that is not one.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_asks_for_no_footer_that_came_along() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = parquet(&folder, MANY).await;
    let server = S3Server::start().expect("a server");
    let store = server.store().expect("a store");
    let key = Key::from("t/a.parquet");
    let mut bytes = std::fs::read(&path).expect("readable");
    store.put(&key, bytes.clone().into()).await.expect("put");
    let footer = footer(&bytes);
    let chunks = footer.row_groups().iter().flat_map(|group| group.columns()).map(|chunk| chunk.byte_range());
    let data: Vec<_> = chunks.map(|(start, bytes)| start..start + bytes).collect();
    let data_end = data.iter().map(|range| range.end).max().expect("columns");
    let read: u64 = data.iter().map(|range| range.end - range.start).sum();
    for (sorted, ahead) in [false, true].into_iter().flat_map(|sorted| AHEAD.map(|ahead| (sorted, ahead))) {
        let access = cloud::access(&server, "function");
        let mut request = requested(Arc::clone(&store), access, &key, sorted, KnownFooter::Yes).await;
        request.fragment.limits.ahead = ahead;
        assert!(units(&request).all(|unit| unit.footer.is_some()) && units(&request).count() > 1);
        let environment = environment();
        for attempt in 0..2 {
            server.take_requests();
            let response = answer(&environment, &request, MINUTE).await;
            let asked = server.take_requests();
            assert_eq!(response.outcome.as_ref().map(|result| result.part().rows), Ok(200_000), "{response:?}");
            let is_data = |bytes: &std::ops::Range<u64>| bytes.end <= data_end && !bytes.is_empty();
            assert!(asked.iter().all(|r| r.operation == Operation::Get && is_data(&r.bytes)), "{attempt}: {asked:?}");
            assert_eq!(response.usage.bytes_read, read, "attempt {attempt}");
            check_ahead(&request, &response, read);
        }
    }
    let access = cloud::access(&server, "function");
    let request = requested(Arc::clone(&store), access, &key, false, KnownFooter::Yes).await;
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 3] = [
        ("cut", |footer| footer.truncate(20)),
        ("none", |footer| footer.clear()),
        ("of another length", |footer| {
            let length = footer.len() - 8;
            footer[length] ^= 0x55;
        }),
    ];
    for (what, damage) in damages {
        let mut request = request.clone();
        let gust_protocol::Input::Scan(scan) = &mut request.fragment.inputs[0].1;
        let footer = scan.lanes[0][0].footer.as_mut().expect("a footer");
        let mut damaged = footer.0.to_vec();
        damage(&mut damaged);
        footer.0 = damaged.into();
        let response = answer(&environment(), &request, MINUTE).await;
        let error = response.outcome.expect_err(what);
        assert_eq!(error.kind, Kind::PlanDecode, "{what}: {error:?}");
        assert!(error.message.contains("the footer of `t/a.parquet` that came with the fragment"), "{what}: {error}");
    }
    // The same length, but another version.
    bytes[10] ^= 1;
    store.put(&key, bytes.into()).await.expect("put");
    let response = answer(&environment(), &request, MINUTE).await;
    assert_eq!(response.outcome.expect_err("changed").kind, Kind::FileChanged);
}

fn units(request: &InvokeRequest) -> impl Iterator<Item = &ScanUnit> {
    let gust_protocol::Input::Scan(scan) = &request.fragment.inputs[0].1;
    scan.lanes.iter().flatten()
}

/// No retry inside the attempt gets through this store. The error's kind tells the scheduler to try again.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_trouble_is_worth_another_attempt() {
    let troubles = [
        (Kind::StorageThrottled, StorageFault::SlowDown, Faults { slow_down: 1.0, ..Faults::default() }),
        (Kind::Storage, StorageFault::InternalError, Faults { internal_error: 1.0, ..Faults::default() }),
        (Kind::Storage, StorageFault::Truncated, Faults { truncated: 1.0, ..Faults::default() }),
    ];
    let check = async |(kind, fault, faults): (Kind, StorageFault, Faults)| {
        let folder = TempDir::new().expect("a temporary folder");
        let path = parquet(&folder, MANY).await;
        let server = S3Server::start().expect("a server");
        let store = server.store().expect("a store");
        let key = Key::from("t/a.parquet");
        store.put(&key, std::fs::read(&path).expect("readable").into()).await.expect("put");
        let request = request(store, cloud::access(&server, "function"), &key, false).await;
        let shape = Shape { seed: 1, scale: 1.0, pipe: None, latency: None, limits: None, faults };
        server.set_shape(Some(shape));
        let response = answer(&environment(), &request, MINUTE).await;
        let error = response.outcome.expect_err("in trouble");
        assert_eq!((error.kind, error.kind.is_retryable()), (kind, true), "{error:?}");
        assert!(server.fired()[&fault] > 0);
    };
    futures::future::join_all(troubles.map(check)).await;
}

/// Faults between plan and read, and limits, each with the kind of its error.
#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_its_kind() {
    type Fault = fn(&Path, &mut InvokeRequest);
    let faults: [(Kind, &str, Fault); 13] = [
        (Kind::FileMissing, "a.parquet", |path, _| std::fs::remove_file(path).expect("removed")),
        (Kind::FileChanged, "a.parquet", |path, _| {
            let mut bytes = std::fs::read(path).expect("readable");
            bytes.push(0);
            std::fs::write(path, bytes).expect("written");
        }),
        (Kind::FileChanged, "bytes, ", |path, request| {
            // A file from an Iceberg manifest has no etag, only a size.
            let gust_protocol::Input::Scan(scan) = &mut request.fragment.inputs[0].1;
            scan.lanes.iter_mut().flatten().for_each(|unit| unit.file.etag = None);
            let mut bytes = std::fs::read(path).expect("readable");
            bytes.push(0);
            std::fs::write(path, bytes).expect("written");
        }),
        (Kind::OutOfMemory, "allocate", |_, request| request.fragment.limits.memory_bytes_max = 100_000),
        (Kind::DiskFull, "disk space", |_, request| {
            request.fragment.limits.memory_bytes_max = 24_000_000;
            request.fragment.limits.temp_bytes_max = 10_000;
        }),
        (Kind::VersionMismatch, "protocol", |_, request| request.version = 99),
        (Kind::VersionMismatch, "another engine", |_, request| request.fingerprint = "another engine".to_owned()),
        (Kind::PlanDecode, "", |_, request| request.stage.plan = inline("no plan")),
        (Kind::Storage, "plan of stage 0 at `nowhere/plan`", |_, request| request.stage.plan = object("nowhere/plan")),
        (Kind::MalformedRequest, "rows 0 of the request", |_, request| {
            let part = StreamSummary { bytes: 4, rows: 1, crc32: 1 };
            request.stage.shared = vec![FragmentResult::Inline { part, bytes: Base64("rows".into()) }];
        }),
        (Kind::Storage, "rows of stage 0 at `nowhere/rows-0`", |_, request| {
            request.stage.shared = vec![shared("nowhere/rows-0", 7)];
        }),
        (Kind::MalformedRequest, "bytes long", |_, request| {
            request.stage.shared = vec![shared("nowhere/rows-0", u64::MAX)];
        }),
        (Kind::MalformedRequest, "access table", |_, request| request.access.0.truncate(1)),
    ];
    for (kind, expect, fault) in faults {
        let folder = TempDir::new().expect("a temporary folder");
        let path = parquet(&folder, MANY).await;
        let access = StoreAccess { url: "file:///".to_owned(), options: Default::default() };
        let key = Key::from_absolute_path(&path).expect("absolute");
        let mut request = request(Arc::new(LocalFileSystem::new()), access, &key, true).await;
        fault(&path, &mut request);
        let response = answer(&environment(), &request, MINUTE).await;
        let error = response.outcome.expect_err(expect);
        assert_eq!(error.kind, kind, "{error:?}");
        assert!(error.message.contains(expect), "`{expect}` is not in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_earlier_deadline_counts() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = parquet(&folder, MANY).await;
    let access = StoreAccess { url: "file:///".to_owned(), options: Default::default() };
    let key = Key::from_absolute_path(&path).expect("absolute");
    let mut request = request(Arc::new(LocalFileSystem::new()), access, &key, true).await;
    let response = answer(&environment(), &request, Duration::ZERO).await;
    assert_eq!(response.outcome.expect_err("no time").kind, Kind::DeadlineExceeded);
    request.deadline_unix_ms = 1;
    let response = answer(&environment(), &request, MINUTE).await;
    assert_eq!(response.outcome.expect_err("no time").kind, Kind::DeadlineExceeded);
}
