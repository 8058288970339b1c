//! Queries against a simulated platform, from their stage to their rows, in virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use datafusion::common::{DataFusionError, JoinType, NullEquality, Result as EngineResult};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::expressions::{Column, case, is_null};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::projection::ProjectionExec;
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
use gust_engine::planner::{DistributedPlan, FunctionAccess, Stage};
use gust_engine::scheduler::{Clock, Scheduler, SchedulerSettings};
use gust_engine::storage::{StoreCredentials, Stores};
use gust_protocol::{AheadBounds, FragmentLimits, Requests, StoreAccess};
use object_store::memory::InMemory;
use object_store::{ObjectMeta, ObjectStore};
use tokio::time::{Instant, sleep, sleep_until};

use super::fragment_rows::{ScanStage, number, schema, sorted};
use super::invoker::PlatformUsage;
use super::parts::parts_alike;
use super::sizes::{Share, Shares};
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

/// Stages over stages in a query.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Stages that read the rows of others, each those of the one before it; the first reads those of the scan. A query without any has one stage.
    pub steps: Vec<GraphStep>,
    /// Partitions of each exchange. None where they are chosen.
    pub partitions: Option<usize>,
    /// Most reads of one stage's rows by the next, beyond which functions between them combine objects. None where they never do.
    pub reads_max: Option<u64>,
    /// True where rows are made anew that another attempt parts in another way. A test uses it to show that the trial would notice.
    pub restores_all: bool,
    /// True where one fragment is planned for each stage over an exchange, and functions have so little memory that each partition needs one.
    pub outgrows_plan: bool,
    /// True where some functions run out of memory over several partitions, so that their fragments are taken apart.
    pub is_short_of_memory: bool,
}

/// Stage that reads the rows of others.
#[derive(Debug, Clone, Default)]
pub struct GraphStep {
    /// Bytes of the files of another table, whose rows are joined to those of the stage before. Empty where nothing is joined.
    pub joined: Vec<u64>,
    /// Sizes of the rows that it reads. None where rows have their own.
    pub sent: Option<SentShares>,
}

/// Encoded bytes of rows that functions send, for each byte that they read.
#[derive(Debug, Clone, Copy)]
pub struct SentShares {
    /// Share of the stage before.
    pub rows: f64,
    /// Share of the scan of the joined table.
    pub joined: f64,
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
    /// Time of its begin, in milliseconds since the Unix epoch.
    pub began_unix_ms: u64,
    /// Stages by the plan.
    pub stages: usize,
    pub scans: Vec<ScanStage>,
    /// Planned runs of partitions of each stage that combines objects, by its number.
    pub combining: BTreeMap<u32, u32>,
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
                let (scheduler, exchange, invoker) = (scheduler.clone(), exchange.clone(), &invoker);
                async move {
                    sleep_until(started + query.begins).await;
                    self.query(before + index, query, &scheduler, exchange, invoker, clock).await
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
        invoker: &SimInvoker,
        clock: Clock,
    ) -> QueryOutcome {
        let (started, events) = (Instant::now(), EventLog::start());
        let deadline = started + query.timeout;
        let id = self.query_id(index, clock);
        let planned = plan(query, self.model, parts_alike(self.seed)).expect("a plan of scans and joins");
        assert!(planned.kept_shuffles.is_empty(), "stages that functions do not run: {:?}", planned.kept_shuffles);
        let scans = planned.stages.iter().filter(|stage| !stage.is_over_parts());
        let scans = scans.map(|stage| ScanStage { stage: stage.index, fragments: stage.fragments.len() as u32 });
        let (scans, stages) = (scans.collect(), planned.stages.len());
        let runs = |stage: &Arc<Stage>| Some((stage.index, stage.shuffle.combining?.runs_max() as u32));
        let combining = planned.stages.iter().filter_map(runs).collect();
        let shares = shares(&query.graph, &planned.stages);
        if !shares.is_empty() {
            invoker.expect_sizes(&id, shares);
        }
        if query.graph.is_short_of_memory {
            invoker.expect_shortage(&id);
        }
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
                late_columns_percent_max: 0,
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
        let began_unix_ms = clock.unix_ms(started);
        QueryOutcome { id, began_unix_ms, stages, scans, combining, rows, took, events, own: own.requests() }
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
    let mut plan = scan(0, &query.file_bytes)?;
    for (table, GraphStep { joined, .. }) in (1..).zip(&query.graph.steps) {
        plan = by_value(plan)?;
        if !joined.is_empty() {
            plan = joined_rows(plan, by_value(scan(table, joined)?)?)?;
        }
    }
    if !query.graph.steps.is_empty() {
        plan = Arc::new(CoalescePartitionsExec::new(plan));
    }
    let reach =
        |url: &str| Ok(FunctionAccess::Through(StoreAccess { url: url.to_owned(), options: Default::default() }));
    let task = TaskContext::default();
    let footers = task.runtime_env().cache_manager.get_file_metadata_cache();
    let packing = Packing { model, ..query.packing };
    let shuffles = Shuffles {
        place: ShufflePlace::Hash,
        partitions: query.graph.partitions,
        reads_max: query.graph.reads_max.unwrap_or(u64::MAX),
        may_combine: query.graph.reads_max.is_some(),
        ..Shuffles::NONE
    };
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

/// Makes the scan of a table, by its number in the query.
fn scan(table: usize, file_bytes: &[u64]) -> EngineResult<Arc<dyn ExecutionPlan>> {
    let file =
        |(index, bytes): (usize, &u64)| PartitionedFile::new(format!("t{table}/part-{index:05}.parquet"), *bytes);
    let files: Vec<PartitionedFile> = file_bytes.iter().enumerate().map(file).collect();
    let groups = vec![FileGroup::new(files), FileGroup::default()];
    let source = Arc::new(ParquetSource::new(schema()));
    let url = ObjectStoreUrl::parse("s3://lake/")?;
    Ok(DataSourceExec::from_data_source(FileScanConfigBuilder::new(url, source).with_file_groups(groups).build()))
}

/// Returns the number of the table that a stage scans. None where it reads rows of other stages.
fn table_of(stage: &Stage) -> Option<usize> {
    let path = stage.units.first()?.file.object_meta.location.as_ref();
    path.strip_prefix('t')?.split_once('/')?.0.parse().ok()
}

fn value() -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new("value", 1))
}

/// Parts rows by their values.
fn by_value(rows: Arc<dyn ExecutionPlan>) -> EngineResult<Arc<dyn ExecutionPlan>> {
    Ok(Arc::new(RepartitionExec::try_new(rows, Partitioning::Hash(vec![value()], 2))?))
}

/// Joins rows by their values. No two are equal, so that each row of both sides must come once.
fn joined_rows(left: Arc<dyn ExecutionPlan>, right: Arc<dyn ExecutionPlan>) -> EngineResult<Arc<dyn ExecutionPlan>> {
    let (on, mode) = (vec![(value(), value())], PartitionMode::Partitioned);
    let nulls = NullEquality::NullEqualsNothing;
    let join = HashJoinExec::try_new(left, right, on, None, &JoinType::Full, None, mode, nulls, false)?;
    let column = |name: &str, at: usize| {
        let of = |at| Arc::new(Column::new(name, at)) as Arc<dyn PhysicalExpr>;
        let own = case(None, vec![(is_null(value())?, of(at + 2))], Some(of(at)))?;
        Ok::<_, DataFusionError>((own, name.to_owned()))
    };
    Ok(Arc::new(ProjectionExec::try_new([column("fragment", 0)?, column("value", 1)?], Arc::new(join))?))
}

/// Returns the shares of the stages whose rows have sizes of their own. Objects are combined as they are.
fn shares(graph: &Graph, stages: &[Arc<Stage>]) -> Shares {
    // The stage of each step sends its rows by the next one.
    let mut steps = graph.steps.iter().skip(1);
    let share = |stage: &Arc<Stage>| {
        let keeps_partitions = stage.shuffle.combining.is_some();
        let of_read = match table_of(stage) {
            Some(0) => graph.steps.first()?.sent?.rows,
            Some(table) => graph.steps.get(table - 1)?.sent?.joined,
            None if keeps_partitions => graph.steps.first()?.sent.map(|_| 1.0)?,
            None => steps.next()?.sent?.rows,
        };
        Some((stage.index, Share { of_read, keeps_partitions }))
    };
    stages.iter().filter_map(share).collect()
}

#[cfg(test)]
mod tests {
    use gust_engine::events::{AttemptOutcome, QueryEvent};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::fleet::trial;

    /// Joins a table of so many files with one of four. Their rows are said to have 128 MiB and 256 MiB a file. Checks the functions of each stage, and the reads of the join.
    #[track_caller]
    fn check(files: usize, reads_max: Option<u64>, functions: &[u32], reads: u64) {
        let mut random = SmallRng::seed_from_u64(3);
        let mut world =
            World { faults: FaultPlan::default(), inline_bytes_max: 1 << 20, ..trial::world(3, &mut random) };
        world.platform = Platform { hedged_after_ms: None, concurrent_max: 100, ramp_burst: 100, ..world.platform };
        world.settings.speculation = gust_engine::scheduler::SpeculationPolicy::NEVER;
        let query = trial::query(&mut random);
        let packing = Packing { functions_max: 100, functions: Some(files), ..query.packing };
        let sent = Some(SentShares { rows: 2.0, joined: 4.0 });
        let steps = vec![GraphStep { joined: vec![64 << 20; 4], sent }];
        let graph = Graph { steps, reads_max, ..Graph::default() };
        let timeout = Duration::from_secs(6_000);
        let query = SimulatedQuery { timeout, file_bytes: vec![64 << 20; files], packing, graph, ..query };
        let ended = run_virtually(world.run(&[vec![query]], |invoker, _| Arc::new(invoker)));
        let outcome = &ended.queries[0];
        let expect = world.fragment_rows().rows(&outcome.id, &outcome.scans);
        assert_eq!(outcome.rows.as_ref().expect("no faults"), &expect);
        assert_eq!((ended.orphans, outcome.stages), (0, functions.len()));
        let mut found = vec![0; functions.len()];
        let mut of_join = 0;
        for stamped in &outcome.events {
            match &stamped.event {
                QueryEvent::StageStarted { stage, fragments, .. } => found[*stage as usize] = *fragments,
                QueryEvent::AttemptEnded { id, outcome: AttemptOutcome::Done { usage, .. }, .. }
                    if id.stage as usize == functions.len() - 1 =>
                {
                    of_join += usage.requests.get;
                }
                _ => {}
            }
        }
        assert_eq!((found.as_slice(), of_join), (functions, reads));
    }

    #[test]
    fn rows_that_stand_for_gigabytes_are_read_by_as_many_functions() {
        // 16 functions read 128 MiB each, of 12 objects.
        check(8, None, &[8, 4, 16], 16 * 12);
        // Three runs of partitions are combined, each by three functions. Two readers have partitions of two runs.
        check(8, Some(0), &[8, 9, 4, 9, 16], (16 + 2) * 2 * 3);
    }

    #[test]
    fn functions_share_runs_of_partitions_where_each_would_ask_for_too_many_objects() {
        // 64 functions combine 8 GiB: eight runs, of eight producers each. Were each a run, 64 of them would ask for as many objects as 64 readers do. The four objects of the
        // other side are read as they are.
        check(64, Some(1_000), &[64, 64, 4, 0, 72], 72 * (8 + 4));
        check(64, Some(4_096), &[64, 0, 4, 0, 72], 72 * (64 + 4));
    }
}
