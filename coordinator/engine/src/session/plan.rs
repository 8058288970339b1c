//! One optimized logical plan, two physical plans, one decision.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use gust_catalog::Pruning;
use gust_protocol::Usage;
use gust_protocol::plan::file_scan;
use url::Url;

use super::Session;
use super::estimate::Survey;
use super::functions::Capacity;
use crate::config::Target;
use crate::error::{ErrorKind, QueryError};
use crate::exec::RemoteFragmentExec;
use crate::model::measured::Measured;
use crate::model::{Decision, Place, Reason, TimeModel, Workload, decide};
use crate::planner::passes::pack::Packing;
use crate::planner::passes::spread::SpreadScans;
use crate::planner::passes::units::units;
use crate::planner::stage::{Surroundings, is_parquet};
use crate::planner::{Planned, plan_stages_after};
use crate::tables::pruning::PruningNotes;

/// A query that is ready to run.
pub(crate) struct Ready {
    pub(crate) state: SessionState,
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    /// The stages of `plan`; none where it runs locally.
    pub(crate) planned: Option<Planned>,
    /// Which functions run them, and how they were packed.
    pub(super) capacity: Option<Capacity>,
    pub(super) packing: Option<Packing>,
    pub(crate) decision: Decision,
    /// What table metadata saved, by table.
    pub(crate) pruning: Vec<(String, Pruning)>,
}

impl Session {
    /// Plans a query for where it is decided to run; `before` is what the coordinator had read when the statement came.
    pub(super) async fn ready(&self, logical: &LogicalPlan, before: &Usage) -> Result<Ready, QueryError> {
        let mut state = self.context.state();
        let notes = PruningNotes::default();
        state.config_mut().set_extension(Arc::new(notes.clone()));
        let ready = match self.target() {
            Target::Local => self.ready_locally(state, logical).await,
            target if self.config.picks_by_estimate() => {
                Box::pin(self.ready_by_estimate(target, state, logical, &notes, before)).await
            }
            Target::Auto => self.ready_by_numbers(state, logical, &notes).await,
            target => Box::pin(self.ready_for(target, state, logical, &notes)).await,
        };
        Ok(Ready { pruning: notes.take(), ..ready? })
    }

    /// Stock planning, nothing else: `--on local` costs nothing.
    async fn ready_locally(&self, state: SessionState, logical: &LogicalPlan) -> Result<Ready, QueryError> {
        self.ready_here(state, logical, Decision::local(Reason::Requested, Workload::default())).await
    }

    /// A local plan, however it was decided.
    pub(super) async fn ready_here(
        &self,
        state: SessionState,
        logical: &LogicalPlan,
        decision: Decision,
    ) -> Result<Ready, QueryError> {
        let plan = state.create_physical_plan(logical).await.map_err(QueryError::from_engine)?;
        Ok(Ready::local(state, plan, decision))
    }

    /// The way that money or a deadline picks. Where there is nothing to pick from, all is as without.
    async fn ready_by_estimate(
        &self,
        target: Target,
        state: SessionState,
        logical: &LogicalPlan,
        notes: &PruningNotes,
        before: &Usage,
    ) -> Result<Ready, QueryError> {
        let survey = Box::pin(self.survey(state, logical, before, notes)).await?;
        let Some(choice) = self.choose(&survey) else {
            notes.take();
            let Survey { state, .. } = survey;
            return match target {
                Target::Auto => self.ready_by_numbers(state, logical, notes).await,
                target => Box::pin(self.ready_for(target, state, logical, notes)).await,
            };
        };
        let Survey { state, local, workload, distributed, mut ways, .. } = survey;
        let picked = ways.iter().position(|way| way.estimate == choice.picked);
        let capacity = picked.and_then(|picked| ways.swap_remove(picked).functions);
        let decision = Decision::chosen(choice, workload);
        let (Some((capacity, fan_out)), Some((state, plan))) = (capacity, distributed) else {
            return Ok(Ready::local(state, local, decision));
        };
        let packing = self.packing(&capacity, Some(fan_out));
        let planned = self.stages(&plan, packing).map_err(QueryError::from_engine)?;
        Ok(match nothing_travels(&planned) {
            Some(reason) => Ready::local(state, local, Decision::local(reason, workload)),
            None => Ready::on_functions(state, planned, (capacity, packing), decision),
        })
    }

    async fn ready_by_numbers(
        &self,
        state: SessionState,
        logical: &LogicalPlan,
        notes: &PruningNotes,
    ) -> Result<Ready, QueryError> {
        let optimized = state.optimize(logical).map_err(QueryError::from_engine)?;
        let planner = state.query_planner();
        let plan = planner.create_physical_plan(&optimized, &state).await.map_err(QueryError::from_engine)?;
        let workload = self.workload(&plan).map_err(QueryError::from_engine)?;
        let local = |reason| Decision::local(reason, workload);
        if workload.scans == 0 {
            // Nobody needs to ask what is deployed.
            return Ok(Ready::local(state, plan, local(Reason::NoScan)));
        }
        let (decision, capacity) = match self.functions.capacity().await {
            Ok(capacity) => (self.decide(Target::Auto, workload, Some(&capacity)), Some(capacity)),
            Err(error) => (local(Reason::Unavailable(error.to_string())), None),
        };
        let Some(capacity) = capacity.filter(|_| decision.place == Place::Functions) else {
            return Ok(Ready::local(state, plan, decision));
        };
        // Planning once more notes once more.
        notes.take();
        let packing = self.packing(&capacity, None);
        match self.distribute(&state, &optimized, packing, 0).await {
            Ok((distributed, planned)) => Ok(match nothing_travels(&planned) {
                Some(reason) => Ready::local(state, plan, local(reason)),
                None => Ready::on_functions(distributed, planned, (capacity, packing), decision),
            }),
            Err(DataFusionError::NotImplemented(why)) => {
                Ok(Ready::local(state, plan, local(Reason::PlanNotSupported(why))))
            }
            Err(error) => Err(QueryError::from_engine(error)),
        }
    }

    async fn ready_for(
        &self,
        target: Target,
        state: SessionState,
        logical: &LogicalPlan,
        notes: &PruningNotes,
    ) -> Result<Ready, QueryError> {
        let optimized = state.optimize(logical).map_err(QueryError::from_engine)?;
        let capacity = match self.functions.capacity().await {
            Ok(capacity) => capacity,
            Err(error) if error.kind() == ErrorKind::Functions && self.config.allow_fallback => {
                let mut ready = self.ready_locally(state, logical).await?;
                ready.decision.reason = Reason::Unavailable(error.to_string());
                return Ok(ready);
            }
            Err(error) => return Err(error),
        };
        let packing = self.packing(&capacity, None);
        match self.distribute(&state, &optimized, packing, 0).await {
            Ok((distributed, planned)) => {
                if let Some(reason) = nothing_travels(&planned) {
                    // Planning once more notes once more.
                    notes.take();
                    let mut ready = self.ready_locally(state, logical).await?;
                    ready.decision.reason = reason;
                    return Ok(ready);
                }
                let workload = Workload {
                    scans: planned.stages.len(),
                    units: planned.stages.iter().map(|stage| stage.units.len()).sum(),
                    bytes: planned.stages.iter().map(|stage| stage.weight_bytes()).sum(),
                };
                let decision = self.decide(target, workload, Some(&capacity));
                Ok(Ready::on_functions(distributed, planned, (capacity, packing), decision))
            }
            Err(DataFusionError::NotImplemented(why)) if self.config.allow_fallback => {
                let mut ready = self.ready_locally(state, logical).await?;
                ready.decision.reason = Reason::PlanNotSupported(why);
                Ok(ready)
            }
            Err(DataFusionError::NotImplemented(why)) => {
                Err(QueryError::functions(format!("functions cannot run this query: {why}"))
                    .with_hint("use --on local, or --allow-fallback"))
            }
            Err(error) => Err(QueryError::from_engine(error)),
        }
    }

    fn decide(&self, target: Target, workload: Workload, capacity: Option<&Capacity>) -> Decision {
        decide(target, workload, capacity.map(|capacity| capacity.fleet), &self.model(capacity))
    }

    /// How long things take here, with such functions: as it was calibrated, else as it was published.
    pub(super) fn model(&self, capacity: Option<&Capacity>) -> TimeModel {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kind = capacity.map(|capacity| self.functions.kind(capacity));
        let is_it = |measured: &&Measured| kind.as_ref().is_none_or(|kind| measured.functions == *kind);
        if let Some(measured) = self.measured.iter().find(is_it) {
            return measured.model(cores);
        }
        let function_cores = capacity.map_or(1.0, |capacity| capacity.cores);
        match self.functions.target() {
            Target::Lambda => TimeModel::lambda(cores, function_cores),
            _ => TimeModel { function_cores, ..TimeModel::laptop(cores) },
        }
    }

    /// What the Parquet scans of a physical plan will read.
    pub(super) fn workload(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Workload> {
        let footers = self.context.runtime_env().cache_manager.get_file_metadata_cache();
        let mut workload = Workload::default();
        let fragment_bytes_target = self.config.fragment_bytes_target;
        plan.apply(|node| {
            if let Some(scan) = file_scan(node).filter(|scan| is_parquet(scan)) {
                let files = whole_files(scan);
                let units = units(scan, &files, footers.as_ref(), |_| fragment_bytes_target / 4);
                workload.scans += 1;
                workload.units += units.len();
                workload.bytes += units.iter().map(|unit| unit.weight_bytes).sum::<u64>();
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(workload)
    }

    /// The distributed physical plan and its stages, of a query that has had `earlier` stages.
    pub(super) async fn distribute(
        &self,
        state: &SessionState,
        optimized: &LogicalPlan,
        packing: Packing,
        earlier: u32,
    ) -> Result<(SessionState, Planned)> {
        let (state, plan) = distributed(state, optimized).await?;
        let planned = self.stages_after(earlier, &plan, packing)?;
        Ok((state, planned))
    }

    /// A distributed plan's stages. Reads nothing.
    pub(super) fn stages(&self, plan: &Arc<dyn ExecutionPlan>, packing: Packing) -> Result<Planned> {
        self.stages_after(0, plan, packing)
    }

    fn stages_after(&self, earlier: u32, plan: &Arc<dyn ExecutionPlan>, packing: Packing) -> Result<Planned> {
        let footers = self.context.runtime_env().cache_manager.get_file_metadata_cache();
        let access = |url: &str| {
            let url = Url::parse(url).map_err(|e| DataFusionError::External(Box::new(e)))?;
            if url.scheme() == "file" && self.functions.target() == Target::Lambda {
                let why = "functions on Lambda cannot read this machine's files; put the table into S3";
                return Err(DataFusionError::NotImplemented(why.to_owned()));
            }
            self.stores.access(&url)
        };
        plan_stages_after(
            earlier,
            plan,
            &Surroundings { packing, footers: footers.as_ref(), access: &access, leaf: &RemoteFragmentExec::leaf },
        )
    }
}

impl Ready {
    fn local(state: SessionState, plan: Arc<dyn ExecutionPlan>, decision: Decision) -> Self {
        Self { state, plan, planned: None, capacity: None, packing: None, decision, pruning: Vec::new() }
    }

    pub(super) fn on_functions(
        state: SessionState,
        planned: Planned,
        (capacity, packing): (Capacity, Packing),
        decision: Decision,
    ) -> Self {
        let (plan, capacity, packing) = (Arc::clone(&planned.plan), Some(capacity), Some(packing));
        let decision = decision.keeping(&planned.kept);
        Self { state, plan, planned: Some(planned), capacity, packing, decision, pruning: Vec::new() }
    }
}

/// Why a query stays on the coordinator whole, where it has scans and the plan of none arrives at functions as it is.
fn nothing_travels(planned: &Planned) -> Option<Reason> {
    let obstacle = planned.kept.first().filter(|_| planned.stages.is_empty())?;
    Some(Reason::NothingTravels(obstacle.clone()))
}

/// A scan's files, each once: local plans cut them anywhere.
pub(super) fn whole_files(scan: &FileScanConfig) -> Vec<PartitionedFile> {
    let mut files: Vec<_> = scan.file_groups.iter().flat_map(|group| group.iter()).cloned().collect();
    files.sort_by(|a, b| a.object_meta.location.cmp(&b.object_meta.location));
    files.dedup_by(|a, b| a.object_meta.location == b.object_meta.location);
    files
}

/// The physical plan from which stages are cut.
pub(super) async fn distributed(
    state: &SessionState,
    optimized: &LogicalPlan,
) -> Result<(SessionState, Arc<dyn ExecutionPlan>)> {
    let state = distributed_state(state);
    let plan = state.query_planner().create_physical_plan(optimized, &state).await?;
    Ok((state, plan))
}

/// The session's rules without the one that undoes two-phase aggregates, and scans that stay as the planner spreads them.
fn distributed_state(state: &SessionState) -> SessionState {
    let partitions = state.config().target_partitions().max(2);
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> = vec![Arc::new(SpreadScans { partitions })];
    let own = state.physical_optimizers().iter().cloned();
    rules.extend(own.filter(|rule| rule.name() != "CombinePartialFinalAggregate"));
    let config = distributed_config(state.config().clone(), partitions);
    SessionStateBuilder::new_from_existing(state.clone())
        .with_config(config)
        .with_physical_optimizer_rules(rules)
        .build()
}

fn distributed_config(config: SessionConfig, partitions: usize) -> SessionConfig {
    let mut config = config.with_target_partitions(partitions).with_repartition_file_scans(false);
    let options = config.options_mut();
    // A round robin between a scan and its partial aggregate would send raw rows to the coordinator.
    options.optimizer.enable_round_robin_repartition = false;
    // Such a filter is filled by the coordinator's build side while the fragments run elsewhere.
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    config
}
