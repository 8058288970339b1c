//! What a query would cost in each way that it could run: for EXPLAIN COST, and for picking one of them.
//!
//! Planning is all that is done: metadata is read, data is not.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::Usage;

use super::choose::{choose, compare, fan_outs};
use super::graph::{Placement, Stage};
use super::loads::memory::fragment_need;
use super::loads::results::results;
use super::loads::stages::{LocalReads, Readers, local_reads, stage_loads};
use super::passes::pack::Packing;
use super::passes::stages::CutPlan;
use super::{Planner, distributed, footers, told};
use crate::config::{Prefer, Target};
use crate::cost::{PriceError, Tariff};
use crate::error::{ErrorKind, QueryError};
use crate::model::forecast::{Prices, locally, on_functions};
use crate::model::load::LocalLoad;
use crate::model::{Choice, Decision, Estimate, FleetFacts, FunctionSize, Place, Quote, Reason, Workload};
use crate::tables::pruning::PruningNotes;

/// A query's plans, and the ways to run it.
pub(super) struct Candidates {
    pub(super) state: SessionState,
    pub(super) local: Arc<dyn ExecutionPlan>,
    pub(super) workload: Workload,
    /// What stages are made from; None where no function can be used.
    pub(super) distributed: Option<Distributed>,
    /// Locally first.
    pub(super) all: Vec<Candidate>,
    /// Requests and bytes of the coordinator's own until the plan for functions stands.
    planning: Usage,
    tariff: Tariff,
    guessed_files: u64,
    /// What is left out, and why.
    missing: Vec<String>,
}

/// One way to run a query.
pub(super) struct Candidate {
    pub(super) estimate: Estimate,
    /// Which functions, and how fragments are packed; None for the coordinator alone.
    pub(super) functions: Option<(FunctionSize, Packing)>,
}

/// The distributed plan, cut, and what it was made with.
pub(super) struct Distributed {
    pub(super) state: SessionState,
    pub(super) cut: CutPlan,
    facts: FleetFacts,
}

/// The coordinator's usage at two moments of planning.
struct Moments {
    /// When the statement's names were resolved.
    parsed: Usage,
    /// When there was a local plan.
    planned_here: Usage,
}

impl Planner {
    /// What a query is expected to cost where it would run, and what else there is.
    ///
    /// # Errors
    /// The engine's, and a [`QueryError`] in them where there are no prices.
    pub async fn quote(&self, state: SessionState, logical: &LogicalPlan) -> Result<(Decision, Quote)> {
        let candidates = self.candidates(state.clone(), logical, &PruningNotes::default()).await?;
        let (decision, picked, runner_up) = match self.choose(&candidates) {
            Some(choice) => {
                let (picked, runner_up) = (choice.picked.clone(), choice.runner_up.clone());
                (Decision::chosen(choice, candidates.workload), picked, runner_up)
            }
            None => {
                let planned = self.plan(state, logical).await?;
                let picked = match (&planned.functions, &candidates.distributed) {
                    (Some(functions), Some(on)) => {
                        let way = (&functions.size, functions.stages.as_slice());
                        self.estimate_on(&planned.state, on, way, &candidates)?
                    }
                    _ => candidates.all[0].estimate.clone(),
                };
                let others = self.allowed(&candidates).filter(|way| !way.is_like(&picked));
                let next = others.min_by(|a, b| compare(a, b, Prefer::Latency)).cloned();
                (planned.decision, picked, next)
            }
        };
        let of_functions =
            || candidates.all.iter().map(|way| &way.estimate).filter(|way| way.place == Place::Functions);
        let prefer = self.settings.prefer.unwrap_or(Prefer::Latency);
        let best = of_functions().min_by(|a, b| compare(a, b, prefer));
        let shows_functions =
            [Some(&picked), runner_up.as_ref()].into_iter().flatten().any(|w| w.place == Place::Functions);
        let mut ways = vec![candidates.all[0].estimate.clone(), picked.clone()];
        ways.extend(runner_up.clone());
        ways.extend(best.filter(|_| !shows_functions).cloned());
        // By now it is known what is deployed.
        let tariff = self.fleet.tariff().map_err(unpriced)?;
        let quote = Quote::new(ways, &picked, runner_up.as_ref(), &tariff);
        Ok((decision, Quote { missing: candidates.missing, guessed_files: candidates.guessed_files, ..quote }))
    }

    /// What money or a deadline picks among the ways that `--on` allows; None where neither is asked for, or there is no such way.
    pub(super) fn choose(&self, candidates: &Candidates) -> Option<Choice> {
        if !self.picks_by_estimate() {
            return None;
        }
        let allowed: Vec<Estimate> = self.allowed(candidates).cloned().collect();
        choose(&allowed, self.settings.prefer, self.settings.deadline)
    }

    fn allowed<'a>(&self, candidates: &'a Candidates) -> impl Iterator<Item = &'a Estimate> + use<'a> {
        let on = self.settings.on;
        candidates.all.iter().map(|way| &way.estimate).filter(move |way| match on {
            Target::Auto => true,
            Target::Local => way.place == Place::Local,
            _ => way.place == Place::Functions,
        })
    }

    /// Plans a query for everywhere and estimates it.
    pub(super) async fn candidates(
        &self,
        state: SessionState,
        logical: &LogicalPlan,
        notes: &PruningNotes,
    ) -> Result<Candidates> {
        let optimized = state.optimize(logical)?;
        let parsed = self.stores.usage();
        let local = state.query_planner().create_physical_plan(&optimized, &state).await?;
        let here = self.stores.usage();
        let tariff = self.fleet.tariff().map_err(unpriced)?;
        let LocalReads { workload, load, others } = self.local_reads(&local, footers(&state).as_ref())?;
        let prices = Prices { tariff: &tariff, planning: &here };
        let here = locally(&load, &self.fleet.coordinator_model(), &prices);
        let mut candidates = Candidates {
            workload,
            all: vec![Candidate { estimate: here, functions: None }],
            state,
            local,
            distributed: None,
            planning: Usage::default(),
            tariff,
            guessed_files: load.reads.guessed_files,
            missing: Vec::new(),
        };
        if others > 0 {
            candidates.missing.push(format!("not included: {others} scans of files that are not Parquet"));
        }
        if candidates.workload.scans == 0 {
            candidates.missing.push("no functions: the plan has no Parquet scan".to_owned());
            return Ok(candidates);
        }
        // Planning again notes again.
        notes.take();
        let moments = Moments { parsed, planned_here: self.stores.usage() };
        if let Placement::Here(reason) = self.with_functions(&mut candidates, &optimized, moments).await? {
            candidates.missing.push(match reason {
                Reason::NothingTravels(obstacle) => format!("no functions: no stage can travel to them: {obstacle}"),
                Reason::Unavailable(why) | Reason::PlanNotSupported(why) => format!("no functions: {why}"),
                reason => format!("no functions: {reason}"),
            });
        }
        Ok(candidates)
    }

    /// Adds what functions could do.
    async fn with_functions(
        &self,
        candidates: &mut Candidates,
        optimized: &LogicalPlan,
        moments: Moments,
    ) -> Result<Placement<()>> {
        let auto = self.settings.on == Target::Auto;
        let facts = match self.fleet.facts(!auto).await {
            Ok(facts) if auto && !facts.is_healthy => {
                return Ok(Placement::Here(Reason::NoneHealthy));
            }
            Ok(facts) => facts,
            Err(error) => return Ok(Placement::Here(Reason::Unavailable(error.to_string()))),
        };
        let (state, plan) = distributed(&candidates.state, optimized).await?;
        // `auto` has also planned locally by then; others have only resolved the statement's names.
        let first = if auto { moments.planned_here } else { moments.parsed };
        let mut planning = between(moments.planned_here, self.stores.usage());
        planning.requests += first.requests;
        planning.bytes_read += first.bytes_read;
        candidates.planning = planning;
        let cut = match self.cut(&plan)? {
            Placement::Functions(cut) => cut,
            Placement::Here(reason) => return Ok(Placement::Here(reason)),
        };
        let footers = footers(&state);
        let footers = footers.as_ref();
        let on = Distributed { state, cut, facts };
        let (mut tight, mut unknown_results) = (Vec::new(), 0);
        for size in &on.facts.sizes {
            let most = on.cut.stages(0, &self.packing(size, Some(size.functions_max)), footers);
            unknown_results = most.iter().filter(|stage| results(stage).expected.is_none()).count();
            let most = most.iter().map(|stage| stage.fragments.len()).max().unwrap_or_default();
            if most == 0 {
                let why = "nothing of the plan can be cut off for them";
                return Ok(Placement::Here(Reason::PlanNotSupported(why.to_owned())));
            }
            for fan_out in fan_outs(most.min(size.functions_max)) {
                let packing = self.packing(size, Some(fan_out));
                let stages = on.cut.stages(0, &packing, footers);
                let estimate = self.estimate_on(&on.state, &on, (size, &stages), candidates)?;
                let need = stages.iter().map(|stage| fragment_need(stage).bytes).max().unwrap_or_default();
                let fits = need <= size.limits.memory_bytes_max;
                let ways = if fits { &mut candidates.all } else { &mut tight };
                // Stages that keep their groups have as many fragments whatever is asked for.
                if ways.iter().all(|way: &Candidate| !way.estimate.is_like(&estimate)) {
                    ways.push(Candidate { estimate, functions: Some((size.clone(), packing)) });
                }
            }
        }
        if unknown_results > 0 {
            let sends = if unknown_results == 1 {
                "a stage sends".to_owned()
            } else {
                format!("{unknown_results} stages send")
            };
            candidates.missing.push(format!("how much {sends} is not known: it is expected to fit responses"));
        }
        // Where memory is short anyway, fragments spill.
        if candidates.all.len() < 2 {
            candidates.all.append(&mut tight);
        }
        if !tight.is_empty() {
            let left_out =
                format!("left out: {} ways whose fragments need more memory than functions have", tight.len());
            candidates.missing.push(left_out);
        }
        candidates.distributed = Some(on);
        Ok(Placement::Functions(()))
    }

    /// The estimate of stages on functions of one size.
    fn estimate_on(
        &self,
        state: &SessionState,
        on: &Distributed,
        (size, stages): (&FunctionSize, &[Arc<Stage>]),
        candidates: &Candidates,
    ) -> Result<Estimate> {
        let footers = footers(state);
        let readers = Readers { facts: &on.facts, size, footers: footers.as_ref() };
        let loads = stage_loads(stages, self.settings.memory_bytes_max, readers)?;
        let tariff = Tariff {
            memory_mb: size.memory_mb,
            architecture: size.architecture.unwrap_or(candidates.tariff.architecture),
            ..candidates.tariff.clone()
        };
        let prices = Prices { tariff: &tariff, planning: &candidates.planning };
        let estimate = on_functions(&loads, &on.facts.machines(size), &prices);
        Ok(match self.kept_load(&on.cut, footers.as_ref())? {
            Some(here) => estimate.and_here(&here, &size.model, &tariff),
            None => estimate,
        })
    }

    /// What the coordinator reads of a distributed plan itself.
    pub(super) fn kept_load(&self, cut: &CutPlan, footers: &FileMetadataCache) -> Result<Option<LocalLoad>> {
        let mut kept = None;
        for subtree in cut.kept() {
            let LocalReads { load, .. } = self.local_reads(subtree, footers)?;
            kept = Some(kept.unwrap_or_default() + load);
        }
        Ok(kept)
    }

    pub(super) fn local_reads(&self, plan: &Arc<dyn ExecutionPlan>, footers: &FileMetadataCache) -> Result<LocalReads> {
        local_reads(plan, footers, self.settings.fragment_bytes_target / 4)
    }
}

/// Requests and bytes between two counts.
fn between(earlier: Usage, later: Usage) -> Usage {
    Usage {
        requests: later.requests - earlier.requests,
        bytes_read: later.bytes_read - earlier.bytes_read,
        ..Usage::default()
    }
}

fn unpriced(error: PriceError) -> DataFusionError {
    told(QueryError::in_words(ErrorKind::Setup, error.to_string()))
}
