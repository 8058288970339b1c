//! Queries against a simulated platform, from their stage to their rows, in virtual time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use datafusion::common::Result as EngineResult;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning, PhysicalExpr, collect};
use datafusion::prelude::SessionConfig;
use fragment_fn::metering::{Counters, CountingStore};
use futures::TryStreamExt;
use futures::future::join_all;
use gust_engine::cap::Cap;
use gust_engine::config::{S3Config, ShufflePlace};
use gust_engine::cost::{Architecture, PriceBook, Tariff};
use gust_engine::error::QueryError;
use gust_engine::events::{EventLog, StampedEvent};
use gust_engine::exchange::Exchange;
use gust_engine::exec::{QueryContext, RemoteFragmentExec};
use gust_engine::fleet::{Breaker, Invoker};
use gust_engine::model::TimeModel;
use gust_engine::money::Money;
use gust_engine::planner::passes::pack::Packing;
use gust_engine::planner::passes::shuffle::{Shuffles, StageRules};
use gust_engine::planner::passes::stages::CutPlan;
use gust_engine::planner::{DistributedPlan, FunctionAccess};
use gust_engine::scheduler::{Clock, Scheduler, SchedulerSettings};
use gust_engine::storage::{StoreCredentials, Stores};
use gust_protocol::{AheadBounds, FragmentLimits, Requests, StoreAccess};
use object_store::memory::InMemory;
use object_store::{ObjectMeta, ObjectStore};
use tokio::time::{Instant, sleep, sleep_until};

use super::fragment_rows::{number, schema, sorted};
use super::invoker::PlatformUsage;
use super::parts::parts_alike;
use super::{FaultPlan, FragmentRows, PartsReading, Platform, SimInvoker};

/// Epoch of every world's clock.
const BEGINS: SystemTime = UNIX_EPOCH;
/// Time after the epoch at which every world begins.
const BEGINS_AFTER: Duration = Duration::from_secs(1_800_000_000);

/// Time after the last query's end by which everything that runs on has ended.
const QUIET_AFTER: Duration = Duration::from_secs(3_600);

/// Platform and scheduler, with the settings that their queries share.
#[derive(Debug, Clone)]
pub struct World {
    pub seed: u64,
    pub platform: Platform,
    pub faults: FaultPlan,
    pub settings: SchedulerSettings,
    pub model: TimeModel,
    /// Largest result that is answered inline. Larger ones go through the exchange; 0 sends all of them there.
    pub inline_bytes_max: u64,
    /// Rows of a fragment, at most.
    pub rows_max: u64,
    /// Environments that are warm from the start.
    pub warm: usize,
    pub reading: PartsReading,
}

/// Exchanges between functions in a query.
#[derive(Debug, Clone, Copy, Default)]
pub struct Graph {
    /// Number of exchanges, each below a stage of its own. A query without any has one stage.
    pub exchanges: usize,
    pub partitions: usize,
    /// True where rows are made anew that another attempt parts in another way. A test uses it to show that the trial would notice.
    pub restores_all: bool,
    /// True where one fragment is planned for each stage over an exchange, and functions have so little memory that each partition needs one.
    pub outgrows_plan: bool,
}

/// Query over some files.
#[derive(Debug, Clone)]
pub struct SimulatedQuery {
    pub begins: Duration,
    /// Time that the query may take.
    pub timeout: Duration,
    pub file_bytes: Vec<u64>,
    pub packing: Packing,
    pub graph: Graph,
    /// Money that the query may cost.
    pub cap: Option<Money>,
}

/// Result of a query.
#[derive(Debug)]
pub struct QueryOutcome {
    pub id: String,
    /// Fragments that scan.
    pub fragments: u32,
    /// Rows, sorted.
    pub rows: Result<Vec<(i64, i64)>, QueryError>,
    pub took: Duration,
    pub events: Vec<StampedEvent>,
    /// Requests by the coordinator.
    pub own: Requests,
}

/// Result of a world's queries, and its platform afterwards.
#[derive(Debug)]
pub struct WorldOutcome {
    pub queries: Vec<QueryOutcome>,
    pub served: PlatformUsage,
    /// Objects that zombies wrote after their query had been cleaned up, and that the exchange's collection found.
    pub late_objects: usize,
    /// Objects that were still there after the collection.
    pub orphans: usize,
    /// Functions that still ran after everything should have ended.
    pub running: usize,
}

/// Runs a future in virtual time, which jumps ahead whenever all tasks wait.
pub fn run_virtually<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without input or output").block_on(future)
}

impl World {
    pub fn fragment_rows(&self) -> FragmentRows {
        FragmentRows { seed: self.seed, rows_max: self.rows_max }
    }

    /// Runs the queries of one phase together, and the phases one after the other.
    ///
    /// `decorate` may put another invoker between the scheduler and the platform.
    pub async fn run(
        &self,
        phases: &[Vec<SimulatedQuery>],
        decorate: impl FnOnce(SimInvoker, Arc<dyn ObjectStore>) -> Arc<dyn Invoker>,
    ) -> WorldOutcome {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let clock = Clock::starting_at(BEGINS + BEGINS_AFTER);
        let (platform, faults) = (self.platform.clone(), self.faults.clone());
        let invoker =
            SimInvoker::new(self.seed, platform, faults, self.fragment_rows(), self.reading, Arc::clone(&store), clock);
        invoker.warm_up(self.warm);
        let decorated = decorate(invoker.clone(), Arc::clone(&store));
        let scheduler = Scheduler::new(decorated, Arc::<Breaker>::default(), self.settings);
        let access = StoreAccess { url: "memory:///".to_owned(), options: Default::default() };
        let exchange = Exchange { access, prefix: "exchange".to_owned(), store: Arc::clone(&store) };
        let mut outcomes = Vec::new();
        for queries in phases {
            let (started, before) = (Instant::now(), outcomes.len());
            let runs = queries.iter().enumerate().map(|(index, query)| {
                let (scheduler, exchange) = (scheduler.clone(), exchange.clone());
                async move {
                    sleep_until(started + query.begins).await;
                    self.query(before + index, query, &scheduler, exchange, clock).await
                }
            });
            outcomes.extend(join_all(runs).await);
        }
        sleep(QUIET_AFTER).await;
        // Queries began in virtual time, but the store dates objects in real time: this moment is after both.
        let virtually = UNIX_EPOCH + Duration::from_millis(clock.unix_ms(Instant::now()));
        let now = SystemTime::now().max(virtually) + QUIET_AFTER;
        let late = exchange.leftovers(Duration::ZERO, Duration::ZERO, now).await.expect("in memory");
        exchange.remove(&late).await.expect("in memory");
        let left: Vec<ObjectMeta> = store.list(None).try_collect().await.expect("in memory");
        WorldOutcome {
            queries: outcomes,
            served: invoker.served(),
            late_objects: late.paths.len(),
            orphans: left.len(),
            running: invoker.running(),
        }
    }

    async fn query(
        &self,
        index: usize,
        query: &SimulatedQuery,
        scheduler: &Scheduler,
        exchange: Exchange,
        clock: Clock,
    ) -> QueryOutcome {
        let (started, events) = (Instant::now(), EventLog::start());
        let deadline = started + query.timeout;
        let id = self.query_id(index, clock);
        let planned = plan(query, self.model, parts_alike(self.seed)).expect("a plan of one scan");
        let fragments = planned.stages.first().map_or(0, |stage| stage.fragments.len() as u32);
        let all = planned.stages.iter().map(|stage| stage.fragments.len() as u32).sum();
        let own = Arc::<Counters>::default();
        let store = Arc::new(CountingStore::new(exchange.store, Arc::clone(&own)));
        let exchange = Exchange { store, ..exchange };
        let money = query.cap.map(|cap| self.budget(cap, all, Arc::clone(&own)));
        let context = Arc::new(QueryContext {
            id: id.clone(),
            attempts: scheduler.query(events.clone(), clock, deadline, money),
            exchange,
            credentials: StoreCredentials::Own,
            stores: Stores::new(S3Config::default()),
            limits: FragmentLimits {
                memory_bytes_max: if query.graph.outgrows_plan { 1 } else { 1 << 30 },
                temp_bytes_max: 1 << 30,
                bridge_bytes: 1 << 20,
                inline_bytes_max: self.inline_bytes_max,
                ahead: AheadBounds::default(),
            },
            options: Default::default(),
            work: None,
        });
        let config = SessionConfig::new().with_extension(Arc::clone(&context));
        let task = Arc::new(TaskContext::default().with_session_config(config));
        let ended = tokio::time::timeout_at(deadline, collect(planned.plan, task)).await;
        let rows = match ended {
            Ok(Ok(batches)) => Ok(sorted(batches)),
            Ok(Err(error)) => Err(QueryError::from_engine(error)),
            Err(_) => Err(QueryError::timed_out(query.timeout)),
        };
        let took = started.elapsed();
        // A session cleans up at once, too, and again when nothing of the query can write any more.
        context.attempts.close();
        context.exchange.clean(&id).await.expect("in memory");
        let events = events.snapshot();
        context.attempts.all_ended().await;
        context.exchange.clean(&id).await.expect("in memory");
        QueryOutcome { id, fragments, rows, took, events, own: own.requests() }
    }

    /// Opens a budget as a session on Lambda does.
    fn budget(&self, cap: Money, fragments: u32, own: Arc<Counters>) -> Arc<Cap> {
        let tariff = Tariff {
            book: PriceBook::of_region("us-east-1").expect("a book"),
            architecture: Architecture::X86,
            memory_mb: self.platform.memory_mb,
            as_if: false,
            coordinator_hour: None,
            coordinator_outside: Some(false),
            stale: None,
        };
        let spent = move |_| Money::from_nano_dollars(own.requests().get * 400 + own.requests().list * 5_000);
        Cap::new(cap, tariff, u64::from(fragments), spent)
    }

    /// Returns a UUIDv7 of the world's time and seed.
    fn query_id(&self, index: usize, clock: Clock) -> String {
        let random = number(self.seed, ("query", index));
        let (high, low) = (random >> 52, random & 0x0fff_ffff_ffff_ffff);
        format!("{:012x}7{high:03x}8{low:015x}", clock.unix_ms(Instant::now()))
    }
}

/// Plans a query. Attempts of a stage over others part their rows alike, or not.
fn plan(query: &SimulatedQuery, model: TimeModel, parts_alike: bool) -> EngineResult<DistributedPlan> {
    let file = |(index, bytes): (usize, &u64)| PartitionedFile::new(format!("t/part-{index:05}.parquet"), *bytes);
    let files: Vec<PartitionedFile> = query.file_bytes.iter().enumerate().map(file).collect();
    let groups = vec![FileGroup::new(files), FileGroup::default()];
    let source = Arc::new(ParquetSource::new(schema()));
    let url = ObjectStoreUrl::parse("s3://lake/")?;
    let scan: Arc<dyn ExecutionPlan> =
        DataSourceExec::from_data_source(FileScanConfigBuilder::new(url, source).with_file_groups(groups).build());
    let mut plan = scan;
    for _ in 0..query.graph.exchanges {
        let keys: Vec<Arc<dyn PhysicalExpr>> = vec![Arc::new(Column::new("value", 1))];
        plan = Arc::new(RepartitionExec::try_new(plan, Partitioning::Hash(keys, 2))?);
    }
    if query.graph.exchanges > 0 {
        plan = Arc::new(CoalescePartitionsExec::new(plan));
    }
    let reach =
        |url: &str| Ok(FunctionAccess::Through(StoreAccess { url: url.to_owned(), options: Default::default() }));
    let task = TaskContext::default();
    let footers = task.runtime_env().cache_manager.get_file_metadata_cache();
    let packing = Packing { model, ..query.packing };
    let shuffles = Shuffles { place: ShufflePlace::Hash, partitions: Some(query.graph.partitions), ..Shuffles::NONE };
    let cut = CutPlan::of(&plan, StageRules { shuffles, ..StageRules::SCANS }, &reach)?.on_functions()?;
    let mut stages = cut.packer(footers.as_ref()).stages(0, &packing);
    for stage in stages.iter_mut().filter(|stage| stage.is_over_parts()) {
        stage.shuffle.is_determinate = parts_alike || query.graph.restores_all;
        if query.graph.outgrows_plan {
            stage.fragments.truncate(1);
        }
    }
    cut.with_leaves(stages.into_iter().map(Arc::new).collect(), &RemoteFragmentExec::leaf)
}
