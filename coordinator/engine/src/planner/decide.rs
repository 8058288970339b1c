//! Where a query is planned to run: as asked, by money or a deadline, or wherever it is expected to be faster.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use url::Url;

use super::candidates::Candidates;
use super::choose::{Prospect, faster, reason_to_stay};
use super::graph::{Placement, Stage, workload};
use super::loads::stages::{LocalReads, Readers, scan_loads, stage_loads};
use super::passes::pack::Packing;
use super::passes::stages::CutPlan;
use super::{PlannedQuery, Planner, distributed, footers, told};
use crate::config::Target;
use crate::error::{ErrorKind, QueryError};
use crate::model::attempts::{seconds_here, seconds_least, seconds_on_functions};
use crate::model::{Decision, FleetFacts, FunctionSize, Place, Reason, WallTimes, Workload};
use crate::tables::pruning::PruningNotes;

/// Functions that a query could run on.
#[derive(Clone, Copy)]
struct Functions<'a> {
    facts: &'a FleetFacts,
    size: &'a FunctionSize,
}

/// What stages, or scans, take on functions.
struct Remote {
    seconds: f64,
    fragments: usize,
}

impl Functions<'_> {
    fn times(&self, local_seconds: f64, remote: &Remote) -> WallTimes {
        let functions = remote.fragments.min(self.size.functions_max);
        WallTimes { local_seconds, functions_seconds: remote.seconds, functions }
    }
}

impl Planner {
    /// The candidate that money or a deadline picks; the default rules, where there is none to pick.
    pub(super) async fn by_estimate(
        &self,
        state: SessionState,
        logical: &LogicalPlan,
        notes: &PruningNotes,
    ) -> Result<PlannedQuery> {
        let candidates = Box::pin(self.candidates(state, logical, notes)).await?;
        let Some(choice) = self.choose(&candidates) else {
            // Planning again notes again.
            notes.take();
            let Candidates { state, .. } = candidates;
            return match self.settings.on {
                Target::Auto => self.faster(state, logical, notes).await,
                _ => Box::pin(self.as_asked(state, logical, notes)).await,
            };
        };
        let Candidates { state, local, workload, distributed, all, .. } = candidates;
        let picked = all.into_iter().find(|candidate| candidate.estimate == choice.picked);
        let decision = Decision::chosen(choice, workload);
        let (Some((size, packing)), Some(on)) = (picked.and_then(|picked| picked.functions), distributed) else {
            return Ok(PlannedQuery::here(state, local, decision));
        };
        let stages = on.cut.stages(0, &packing, footers(&state).as_ref());
        let plan = on.cut.with_leaves(stages, self.leaf)?;
        Ok(PlannedQuery::on_functions(on.state, plan, (&size, packing), decision))
    }

    /// What `auto` does without a preference: local, unless functions are expected to be faster.
    pub(super) async fn faster(
        &self,
        state: SessionState,
        logical: &LogicalPlan,
        notes: &PruningNotes,
    ) -> Result<PlannedQuery> {
        let optimized = state.optimize(logical)?;
        let plan = state.query_planner().create_physical_plan(&optimized, &state).await?;
        let LocalReads { workload, load, .. } = self.local_reads(&plan, footers(&state).as_ref())?;
        let here = |reason| Decision::local(reason, workload);
        if workload.scans == 0 {
            // Nobody needs to ask what is deployed.
            return Ok(PlannedQuery::here(state, plan, here(Reason::NoScan)));
        }
        let facts = match self.fleet.facts(false).await {
            Ok(facts) => facts,
            Err(error) => {
                return Ok(PlannedQuery::here(state, plan, here(Reason::Unavailable(error.to_string()))));
            }
        };
        let size = &facts.sizes[0];
        let prospect = Prospect {
            workload,
            is_healthy: facts.is_healthy,
            local_seconds: seconds_here(&load, &self.fleet.coordinator_model()),
            least_seconds: seconds_least(&load, &size.model),
        };
        if let Some(reason) = reason_to_stay(&prospect) {
            return Ok(PlannedQuery::here(state, plan, here(reason)));
        }
        let functions = Functions { facts: &facts, size };
        let packing = self.packing(size, None);
        let decided = |remote| {
            let times = functions.times(prospect.local_seconds, &remote);
            Decision::timed(faster(&times), workload, times)
        };
        // Without a plan for functions first: most queries are not worth one.
        let decision = decided(self.scans_on(functions, &state, &plan, &packing)?);
        if decision.place == Place::Local {
            return Ok(PlannedQuery::here(state, plan, decision));
        }
        // Planning again notes again.
        notes.take();
        let (distributing, distributed) = distributed(&state, &optimized).await?;
        let cut = match self.cut(&distributed)? {
            Placement::Functions(cut) => cut,
            Placement::Here(reason) => return Ok(PlannedQuery::here(state, plan, here(reason))),
        };
        let stages = cut.stages(0, &packing, footers(&state).as_ref());
        let decision = decided(self.stages_on(functions, &state, &cut, &stages)?);
        if decision.place == Place::Local {
            return Ok(PlannedQuery::here(state, plan, decision));
        }
        let plan = cut.with_leaves(stages, self.leaf)?;
        Ok(PlannedQuery::on_functions(distributing, plan, (size, packing), decision))
    }

    pub(super) async fn as_asked(
        &self,
        state: SessionState,
        logical: &LogicalPlan,
        notes: &PruningNotes,
    ) -> Result<PlannedQuery> {
        let optimized = state.optimize(logical)?;
        let here = |reason| Decision::local(reason, Workload::default());
        let facts = match self.fleet.facts(true).await {
            Ok(facts) => facts,
            Err(error) if error.kind() == ErrorKind::Functions && self.settings.allow_fallback => {
                return self.here(state, logical, here(Reason::Unavailable(error.to_string()))).await;
            }
            Err(error) => return Err(told(error)),
        };
        let (distributing, plan) = distributed(&state, &optimized).await?;
        let cut = match self.cut(&plan)? {
            Placement::Functions(cut) => cut,
            Placement::Here(Reason::PlanNotSupported(why)) if !self.settings.allow_fallback => {
                return Err(told(
                    QueryError::functions(format!("functions cannot run this query: {why}"))
                        .with_hint("use --on local, or --allow-fallback"),
                ));
            }
            Placement::Here(reason) => {
                // Planning again notes again.
                notes.take();
                return self.here(state, logical, here(reason)).await;
            }
        };
        let size = &facts.sizes[0];
        let packing = self.packing(size, None);
        let stages = cut.stages(0, &packing, footers(&state).as_ref());
        let decision = match stages.is_empty() {
            true => here(Reason::NoScan),
            false => {
                let functions = Functions { facts: &facts, size };
                let LocalReads { load, .. } = self.local_reads(&plan, footers(&state).as_ref())?;
                let local_seconds = seconds_here(&load, &self.fleet.coordinator_model());
                let times = functions.times(local_seconds, &self.stages_on(functions, &state, &cut, &stages)?);
                let workload = workload(stages.iter().map(AsRef::as_ref));
                Decision::timed((Place::Functions, Reason::Requested), workload, times)
            }
        };
        let plan = cut.with_leaves(stages, self.leaf)?;
        Ok(PlannedQuery::on_functions(distributing, plan, (size, packing), decision))
    }

    /// What stages are expected to take, and after them what stays here.
    fn stages_on(
        &self,
        Functions { facts, size }: Functions<'_>,
        state: &SessionState,
        cut: &CutPlan,
        stages: &[Arc<Stage>],
    ) -> Result<Remote> {
        let footers = footers(state);
        let readers = Readers { facts, size, footers: footers.as_ref() };
        let loads = stage_loads(stages, self.settings.memory_bytes_max, readers)?;
        let kept = self.kept_load(cut, footers.as_ref())?;
        Ok(Remote {
            seconds: seconds_on_functions(&loads, kept.as_ref(), &facts.machines(size)),
            fragments: stages.iter().map(|stage| stage.fragments.len()).sum(),
        })
    }

    /// What the scans of a local plan would take at least.
    fn scans_on(
        &self,
        Functions { facts, size }: Functions<'_>,
        state: &SessionState,
        plan: &Arc<dyn ExecutionPlan>,
        packing: &Packing,
    ) -> Result<Remote> {
        let footers = footers(state);
        let readers = Readers { facts, size, footers: footers.as_ref() };
        // A store that functions do not reach is told when the plan is cut.
        let access = |url: &str| self.stores.access(&Url::parse(url).ok()?).ok();
        let url_of = |url: &str| access(url).map(|access| access.url).unwrap_or_default();
        let loads = scan_loads(plan, packing, &url_of, readers)?;
        Ok(Remote {
            seconds: seconds_on_functions(&loads, None, &facts.machines(size)),
            fragments: loads.iter().map(|load| load.fragments.len()).sum(),
        })
    }
}
