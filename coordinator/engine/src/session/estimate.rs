//! What a query would cost in each way that it could run: for EXPLAIN COST, and for picking one of them.
//!
//! Planning is all that is done: metadata is read, data is not.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::Usage;
use gust_protocol::plan::{file_scan, scans};
use object_store::ObjectMeta;

use super::Session;
use super::functions::Capacity;
use super::plan::{distributed, whole_files};
use super::run::difference;
use crate::config::{Prefer, Target};
use crate::cost::Tariff;
use crate::error::{ErrorKind, QueryError};
use crate::exchange::PLAN_INLINE_BYTES_MAX;
use crate::model::forecast::{Circumstances, locally, on_functions};
use crate::model::load::{FragmentLoad, LocalLoad, Reads, StageLoad, fragment_limits};
use crate::model::{Choice, Decision, Estimate, Place, Quote, Workload};
use crate::planner::choose::{choose, compare, fan_outs};
use crate::planner::loads::memory::fragment_need;
use crate::planner::loads::reads::{Reader, reads};
use crate::planner::loads::results::results;
use crate::planner::passes::units::units;
use crate::planner::stage::is_parquet;
use crate::planner::{Planned, Stage};
use crate::tables::pruning::PruningNotes;

/// What happens less often than this is left out of what a query costs at most.
const SELDOM: f64 = 0.01;

/// A query's plans, and the ways to run it.
pub(super) struct Survey {
    pub(super) state: SessionState,
    pub(super) local: Arc<dyn ExecutionPlan>,
    pub(super) workload: Workload,
    /// From which stages are cut; None where no function can be used.
    pub(super) distributed: Option<(SessionState, Arc<dyn ExecutionPlan>)>,
    /// Locally first.
    pub(super) ways: Vec<Way>,
    /// What was read to plan, for each place.
    planning: (Usage, Usage),
    tariff: Tariff,
    guessed_files: u64,
    /// What is left out, and why.
    missing: Vec<String>,
}

/// One way to run a query.
pub(super) struct Way {
    pub(super) estimate: Estimate,
    /// Which functions, and fragments a stage; None for the coordinator alone.
    pub(super) functions: Option<(Capacity, usize)>,
}

impl Session {
    /// What a query is expected to cost where it would run, and what else there is.
    pub(super) async fn quote(&self, logical: &LogicalPlan, before: &Usage) -> Result<(Decision, Quote), QueryError> {
        let survey = self.survey(self.context.state(), logical, before, &PruningNotes::default()).await?;
        let (decision, picked, runner_up) = match self.choose(&survey) {
            Some(choice) => {
                let (picked, runner_up) = (choice.picked.clone(), choice.runner_up.clone());
                (Decision::chosen(choice, survey.workload), picked, runner_up)
            }
            None => {
                let ready = self.ready(logical, before).await?;
                let picked = match (&ready.planned, &ready.capacity) {
                    (Some(planned), Some(capacity)) if ready.decision.place == Place::Functions => {
                        self.estimate_on(planned, capacity, &survey.tariff, &survey.planning.1)?
                    }
                    _ => survey.ways[0].estimate.clone(),
                };
                let others = self.allowed(&survey).filter(|way| !way.is_like(&picked));
                let next = others.min_by(|a, b| compare(a, b, Prefer::Latency)).cloned();
                (ready.decision, picked, next)
            }
        };
        let of_functions = || survey.ways.iter().map(|way| &way.estimate).filter(|way| way.place == Place::Functions);
        let prefer = self.config.prefer.unwrap_or(Prefer::Latency);
        let best = of_functions().min_by(|a, b| compare(a, b, prefer));
        let shows_functions =
            [Some(&picked), runner_up.as_ref()].into_iter().flatten().any(|w| w.place == Place::Functions);
        let mut ways = vec![survey.ways[0].estimate.clone(), picked.clone()];
        ways.extend(runner_up.clone());
        ways.extend(best.filter(|_| !shows_functions).cloned());
        // By now it is known what is deployed.
        let tariff = self.tariff().await.map_err(|error| QueryError::in_words(ErrorKind::Setup, error.to_string()))?;
        let quote = Quote::new(ways, &picked, runner_up.as_ref(), &tariff);
        Ok((decision, Quote { missing: survey.missing, guessed_files: survey.guessed_files, ..quote }))
    }

    /// What money or a deadline picks among the ways that `--on` allows; None where neither is asked for, or there is no such way.
    pub(super) fn choose(&self, survey: &Survey) -> Option<Choice> {
        if !self.config.picks_by_estimate() {
            return None;
        }
        let allowed: Vec<Estimate> = self.allowed(survey).cloned().collect();
        choose(&allowed, self.config.prefer, self.config.deadline)
    }

    fn allowed<'a>(&self, survey: &'a Survey) -> impl Iterator<Item = &'a Estimate> + use<'a> {
        let target = self.target();
        survey.ways.iter().map(|way| &way.estimate).filter(move |way| match target {
            Target::Auto => true,
            Target::Local => way.place == Place::Local,
            Target::InProcess | Target::Processes | Target::Lambda => way.place == Place::Functions,
        })
    }

    /// Plans a query for everywhere and estimates it.
    pub(super) async fn survey(
        &self,
        state: SessionState,
        logical: &LogicalPlan,
        before: &Usage,
        notes: &PruningNotes,
    ) -> Result<Survey, QueryError> {
        let optimized = state.optimize(logical).map_err(QueryError::from_engine)?;
        let parsed = self.coordinator_usage();
        let planner = state.query_planner();
        let local = planner.create_physical_plan(&optimized, &state).await.map_err(QueryError::from_engine)?;
        let planned_locally = difference(self.coordinator_usage(), *before);
        let tariff = self.tariff().await.map_err(|error| QueryError::in_words(ErrorKind::Setup, error.to_string()))?;
        let (load, others) = self.local_load(&local).map_err(QueryError::from_engine)?;
        let model = self.model(None);
        let alone = Circumstances {
            model: &model,
            functions_max: 0,
            shares_machine: false,
            warm: 0,
            lanes: 1,
            tariff: &tariff,
            planning: &planned_locally,
        };
        let mut survey = Survey {
            workload: self.workload(&local).map_err(QueryError::from_engine)?,
            ways: vec![Way { estimate: locally(&load, &alone), functions: None }],
            state,
            local,
            distributed: None,
            planning: (planned_locally, Usage::default()),
            tariff,
            guessed_files: load.reads.guessed_files,
            missing: Vec::new(),
        };
        if others > 0 {
            survey.missing.push(format!("not included: {others} scans of files that are not Parquet"));
        }
        if survey.workload.scans == 0 {
            survey.missing.push("no functions: the plan has no Parquet scan".to_owned());
            return Ok(survey);
        }
        // Planning once more notes once more.
        notes.take();
        let plan_began = self.coordinator_usage();
        match self.ways_on_functions(&mut survey, &optimized, (before, &parsed, &plan_began)).await {
            Ok(()) => {}
            Err(Unusable::Why(why)) => survey.missing.push(format!("no functions: {why}")),
            Err(Unusable::Failed(error)) => return Err(error),
        }
        Ok(survey)
    }

    async fn ways_on_functions(
        &self,
        survey: &mut Survey,
        optimized: &LogicalPlan,
        (before, parsed, plan_began): (&Usage, &Usage, &Usage),
    ) -> Result<(), Unusable> {
        let sizes = self.functions.sizes().await.map_err(|error| Unusable::Why(error.to_string()))?;
        if self.target() == Target::Auto && sizes.iter().any(|size| !size.fleet.healthy) {
            return Err(Unusable::Why("the last that was heard of them was not good".to_owned()));
        }
        let (state, plan) = distributed(&survey.state, optimized).await.map_err(Unusable::from)?;
        let mut planning = difference(self.coordinator_usage(), *plan_began);
        // `auto` has also planned locally by then; others have only resolved the statement's names.
        let first = if self.target() == Target::Auto { plan_began } else { parsed };
        let resolving = difference(*first, *before);
        planning.requests += resolving.requests;
        planning.bytes_read += resolving.bytes_read;
        survey.planning.1 = planning;
        let (mut tight, mut unknown_results) = (Vec::new(), 0);
        for capacity in sizes {
            let most = self.stages(&plan, self.packing(&capacity, Some(capacity.fleet.functions_max)))?;
            unknown_results = most.stages.iter().filter(|stage| results(stage).expected.is_none()).count();
            if let (Some(obstacle), true) = (most.kept.first(), most.stages.is_empty()) {
                return Err(Unusable::Why(format!("no stage can travel to them: {obstacle}")));
            }
            let most = most.stages.iter().map(|stage| stage.fragments.len()).max().unwrap_or_default();
            if most == 0 {
                return Err(Unusable::Why("nothing of the plan can be cut off for them".to_owned()));
            }
            for fan_out in fan_outs(most.min(capacity.fleet.functions_max)) {
                let planned = self.stages(&plan, self.packing(&capacity, Some(fan_out)))?;
                let estimate = self.estimate_on(&planned, &capacity, &survey.tariff, &planning)?;
                let need = planned.stages.iter().map(|stage| fragment_need(stage).bytes).max().unwrap_or_default();
                let fits = need <= capacity.limits.memory_bytes_max;
                let ways = if fits { &mut survey.ways } else { &mut tight };
                // Stages that keep their groups have as many fragments whatever is asked for.
                if ways.iter().all(|way: &Way| !way.estimate.is_like(&estimate)) {
                    ways.push(Way { estimate, functions: Some((capacity, fan_out)) });
                }
            }
        }
        if unknown_results > 0 {
            let sends = if unknown_results == 1 {
                "a stage sends".to_owned()
            } else {
                format!("{unknown_results} stages send")
            };
            survey.missing.push(format!("how much {sends} is not known: it is expected to fit responses"));
        }
        // Where memory is short anyway, fragments spill.
        if survey.ways.len() < 2 {
            survey.ways.append(&mut tight);
        }
        if !tight.is_empty() {
            let left_out =
                format!("left out: {} ways whose fragments need more memory than functions have", tight.len());
            survey.missing.push(left_out);
        }
        survey.distributed = Some((state, plan));
        Ok(())
    }

    /// A distributed plan's estimate on functions of one size.
    fn estimate_on(
        &self,
        planned: &Planned,
        capacity: &Capacity,
        tariff: &Tariff,
        planning: &Usage,
    ) -> Result<Estimate, QueryError> {
        let at_once = self.functions.at_once(planned, capacity);
        let loads = planned.stages.iter().map(|stage| self.stage_load(stage, capacity, at_once));
        let loads = loads.collect::<Result<Vec<_>>>().map_err(QueryError::from_engine)?;
        let on = Circumstances {
            model: &self.model(Some(capacity)),
            functions_max: capacity.fleet.functions_max,
            shares_machine: capacity.fleet.shares_machine,
            warm: self.functions.warm(capacity.memory_mb),
            lanes: capacity.lanes,
            tariff: &tariff_of(tariff, capacity),
            planning,
        };
        let estimate = on_functions(&loads, &on);
        if planned.kept.is_empty() {
            return Ok(estimate);
        }
        let (load, _) = self.local_load(&planned.plan).map_err(QueryError::from_engine)?;
        Ok(estimate.and_here(&load, &on))
    }

    fn stage_load(&self, stage: &Stage, capacity: &Capacity, at_once: usize) -> Result<StageLoad> {
        let scans = scans(&stage.plan);
        let [scan] = scans.as_slice() else {
            return Err(DataFusionError::Internal(format!("a fragment over {} scans", scans.len())));
        };
        let footers = self.context.runtime_env().cache_manager.get_file_metadata_cache();
        let fragments = {
            let (warmth, memory_mb) = (self.functions.warmth(), capacity.memory_mb);
            let misses = |file: &ObjectMeta| warmth.misses(memory_mb, at_once, &stage.access.url, file);
            // A platform may have ended any environment in between; processes stay.
            let missed_at_most = |file: &ObjectMeta| if capacity.fleet.shares_machine { misses(file) } else { 1.0 };
            let fragment = |(index, lanes): (usize, &Vec<Vec<usize>>)| {
                let reads = |keeps: &dyn Fn(&ObjectMeta) -> bool| {
                    let units = lanes.iter().flatten().map(|unit| &stage.units[*unit]);
                    reads(scan, units, footers.as_ref(), Reader::Function(keeps))
                };
                FragmentLoad {
                    weight_bytes: stage.fragment_weight_bytes(index),
                    lanes: lanes.len(),
                    reads: reads(&|file| misses(file) <= 0.5),
                    reads_at_most: reads(&|file| missed_at_most(file) <= SELDOM),
                }
            };
            stage.fragments.iter().enumerate().map(fragment).collect()
        };
        let memory = self.config.memory_bytes_max;
        Ok(StageLoad {
            fragments,
            results: results(stage),
            inline_bytes_max: fragment_limits(capacity.limits, stage.fragments.len(), memory).inline_bytes_max,
            publishes_plan: stage.plan_bytes() > PLAN_INLINE_BYTES_MAX,
        })
    }

    /// What a local plan reads of Parquet files, and how many other scans it has.
    fn local_load(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<(LocalLoad, usize)> {
        let footers = self.context.runtime_env().cache_manager.get_file_metadata_cache();
        let mut load = LocalLoad { weight_bytes: 0, reads: Reads::default() };
        let mut others = 0;
        plan.apply(|node| {
            match file_scan(node) {
                Some(scan) if is_parquet(scan) => {
                    let units = units(scan, &whole_files(scan), footers.as_ref(), |_| u64::MAX);
                    load.weight_bytes += units.iter().map(|unit| unit.weight_bytes).sum::<u64>();
                    load.reads = load.reads + reads(scan, &units, footers.as_ref(), Reader::Coordinator);
                }
                Some(_) => others += 1,
                None => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok((load, others))
    }
}

/// The prices of functions of one size.
fn tariff_of(tariff: &Tariff, capacity: &Capacity) -> Tariff {
    let Capacity { memory_mb, architecture, .. } = *capacity;
    Tariff { memory_mb, architecture: architecture.unwrap_or(tariff.architecture), ..tariff.clone() }
}

/// Why there is no way with functions.
enum Unusable {
    Why(String),
    Failed(QueryError),
}

impl From<DataFusionError> for Unusable {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::NotImplemented(why) => Self::Why(why),
            error => Self::Failed(QueryError::from_engine(error)),
        }
    }
}

impl From<QueryError> for Unusable {
    fn from(error: QueryError) -> Self {
        Self::Failed(error)
    }
}
