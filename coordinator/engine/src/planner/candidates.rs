//! The candidates of a query: the coordinator alone, and functions of each size with each packing. Each has a forecast.
//!
//! Planning is all that is done: metadata is read, data is not.

use std::ops::Add;
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::Usage;

use super::choose::{choose, compare, fan_outs};
use super::decide::loads;
use super::graph::{Placement, Stage};
use super::loads::operators::{OperatorsBeside, OverResults};
use super::loads::stages::{FunctionReaders, LocalReads, StageMaker, local_reads};
use super::passes::shuffle::StageRules;
use super::passes::stages::CutPlan;
use super::{PackedSize, Planner, distributed, footers, optimized};
use crate::config::{Prefer, ShufflePlace, SortPlace, Target};
use crate::cost::{PriceError, Tariff};
use crate::error::QueryError;
use crate::model::forecast::{Prices, locally, on_functions};
use crate::model::load::{LocalLoad, OperatorLoad, OwnUsage, StageLoad};
use crate::model::{Choice, FleetFacts, Forecast, FunctionSize, Place, Reason, WallTimes};
use crate::tables::pruning::PruningNotes;

/// A query as the coordinator would run it alone.
pub(super) struct LocalPlan {
    pub(super) state: SessionState,
    pub(super) optimized: LogicalPlan,
    pub(super) plan: Arc<dyn ExecutionPlan>,
    pub(super) reads: LocalReads,
    /// Usage of stores until the plan stood.
    planned: OwnUsage,
}

/// A query's plans, and its candidates.
pub(super) struct Candidates {
    pub(super) local: LocalPlan,
    /// The plans that stages are made from: first the one of the settings, then the one of scans alone, where it is another one. None where no function can be
    /// used.
    pub(super) distributed: Vec<Distributed>,
    /// The reason why no function can be used.
    pub(super) stays: Option<Reason>,
    /// Candidates, the local one first.
    pub(super) all: Vec<Candidate>,
    /// Requests and bytes of the coordinator's own until the plans for functions stand.
    planning: OwnUsage,
    pub(super) tariff: Tariff,
    /// The reason why `tariff` is another region's: it breaks ties between equal seconds, and is shown nowhere.
    pub(super) unpriced: Option<PriceError>,
    /// Notes on candidates and scans that are left out, with the reasons.
    pub(super) missing: Vec<String>,
}

/// One way and packing of a query.
pub(super) struct Candidate {
    pub(super) forecast: Forecast,
    /// None for the coordinator alone.
    pub(super) functions: Option<PackedPlan>,
}

/// A distributed plan, by its position, with functions and the packing for them.
#[derive(Clone)]
pub(super) struct PackedPlan {
    pub(super) plan: usize,
    pub(super) packed: PackedSize,
}

/// A distributed plan, cut, with the state, the rules and the fleet that it was made with.
pub(super) struct Distributed {
    pub(super) state: SessionState,
    pub(super) cut: CutPlan,
    pub(super) rules: StageRules,
    pub(super) facts: FleetFacts,
    /// Load of the scans that stay in the plan.
    pub(super) kept: LocalLoad,
    pub(super) operators: OperatorsBeside,
}

impl Distributed {
    /// Returns the work that stays on the coordinator beside these stages.
    pub(super) fn here(&self, stages: &[&StageLoad]) -> LocalLoad {
        let over = |over: &OverResults| {
            let results = stages.get(over.subtree).and_then(|load| load.results.expected);
            OperatorLoad::of(results.unwrap_or_default(), over.is_one_core)
        };
        let of_results = self.operators.over_results.iter().map(over);
        let operators = of_results.fold(self.operators.load + self.kept.operators, Add::add);
        LocalLoad { operators, ..self.kept }
    }
}

impl Candidates {
    /// Returns the seconds of both places: for functions those of `picked` where it is one of theirs, else of their fastest. None where there is
    /// one place.
    pub(super) fn times(&self, picked: &Forecast) -> Option<WallTimes> {
        let forecasts = || self.all.iter().map(|candidate| &candidate.forecast);
        let local = forecasts().find(|forecast| forecast.place == Place::Local)?;
        let fastest = || {
            let functions = forecasts().filter(|forecast| forecast.place == Place::Functions);
            functions.min_by(|a, b| compare(a, b, Prefer::Latency))
        };
        let functions = if picked.place == Place::Functions { Some(picked) } else { fastest() }?;
        Some(WallTimes {
            local_seconds: local.expected.seconds,
            functions_seconds: functions.expected.seconds,
            functions: functions.functions,
        })
    }
}

impl Planner {
    /// Chooses among the candidates that `--on` allows. None where nothing is to be compared, or none is allowed.
    pub(super) fn choose(&self, candidates: &Candidates) -> Option<Choice> {
        if !self.settings.compares() {
            return None;
        }
        let allowed: Vec<Forecast> = self.allowed(candidates).cloned().collect();
        choose(&allowed, self.settings.prefer, self.settings.deadline)
    }

    pub(super) fn allowed<'a>(&self, candidates: &'a Candidates) -> impl Iterator<Item = &'a Forecast> + use<'a> {
        let on = self.settings.on;
        candidates.all.iter().map(|candidate| &candidate.forecast).filter(move |candidate| match on {
            Target::Auto => true,
            Target::Local => candidate.place == Place::Local,
            _ => candidate.place == Place::Functions,
        })
    }

    /// Plans a query for the coordinator.
    pub(super) async fn local_plan(&self, state: SessionState, logical: &LogicalPlan) -> Result<LocalPlan> {
        let optimized = optimized(&state, logical)?;
        let plan = state.query_planner().create_physical_plan(&optimized, &state).await?;
        let reads = self.local_reads(&plan, footers(&state).as_ref())?;
        Ok(LocalPlan { state, optimized, plan, reads, planned: self.stores.own_usage() })
    }

    /// Plans a query for everywhere and estimates it.
    ///
    /// # Errors
    /// The engine's, and a [`QueryError`] in them where dollars or a deadline decide and there are no prices.
    pub(super) async fn candidates(
        &self,
        local: LocalPlan,
        functions: Placement<FleetFacts>,
        notes: &PruningNotes,
    ) -> Result<Candidates> {
        // By now it is known what is deployed.
        let (tariff, unpriced) = match self.fleet.tariff() {
            Ok(tariff) => (tariff, None),
            Err(error) if self.settings.needs_no_prices() => match self.fleet.tariff_elsewhere() {
                Ok(tariff) => (tariff, Some(error)),
                Err(_) => return Err(unpriced(error)),
            },
            Err(error) => return Err(unpriced(error)),
        };
        let LocalReads { load, others, .. } = local.reads;
        let prices = Prices { tariff: &tariff, planning: &local.planned };
        let here = locally(&load, &self.fleet.coordinator_model(), &prices);
        let mut candidates = Candidates {
            local,
            distributed: Vec::new(),
            stays: None,
            all: vec![Candidate { forecast: here, functions: None }],
            planning: OwnUsage::default(),
            tariff,
            unpriced,
            missing: Vec::new(),
        };
        if others > 0 {
            candidates.missing.push(format!("not included: {others} scans of files that are not Parquet"));
        }
        let placed = match functions {
            Placement::Functions(facts) => Box::pin(self.with_functions(&mut candidates, facts, notes)).await?,
            Placement::Here(reason) => Placement::Here(reason),
        };
        if let Placement::Here(reason) = placed {
            candidates.missing.push(match &reason {
                Reason::NothingTravels(obstacle) => format!("no functions: no stage can travel to them: {obstacle}"),
                Reason::Unavailable { message: why, .. } | Reason::PlanNotSupported(why) => {
                    format!("no functions: {why}")
                }
                reason => format!("no functions: {reason}"),
            });
            candidates.stays = Some(reason);
        }
        Ok(candidates)
    }

    /// Adds the candidates on functions, of all ways that the settings leave open. Returns the reason if there are none.
    async fn with_functions(
        &self,
        candidates: &mut Candidates,
        facts: FleetFacts,
        notes: &PruningNotes,
    ) -> Result<Placement<()>> {
        let begun = self.stores.own_usage();
        let rules = self.rules(&candidates.local.state, &facts);
        let on = match self.distributed_plan(&candidates.local, rules, facts, notes).await? {
            Placement::Functions(on) => on,
            Placement::Here(reason) => return Ok(Placement::Here(reason)),
        };
        if rules.shuffles.place == ShufflePlace::Auto || rules.shuffles.sort == SortPlace::Auto {
            let kept = on.cut.kept_shuffles().iter().map(|kept| format!("functions send one another no rows {kept}"));
            candidates.missing.extend(kept);
        }
        // Scans alone are another plan only where functions would do more.
        let only_scans = rules.only_scans().filter(|_| on.cut.is_staged());
        let mut plans = vec![on];
        if let Some(rules) = only_scans
            && let Placement::Functions(scans) =
                self.distributed_plan(&candidates.local, rules, plans[0].facts.clone(), notes).await?
        {
            plans.push(scans);
        }
        // The local plan has asked for the listings that all plans share. A run at a chosen place asks for them itself.
        let (ended, first) = (self.stores.own_usage(), candidates.local.planned);
        candidates.planning = OwnUsage {
            all: after(first.all, begun.all, ended.all),
            billed: after(first.billed, begun.billed, ended.billed),
        };
        let (mut tight, mut unknown_results) = (Vec::new(), 0);
        for (plan, on) in plans.iter().enumerate() {
            let Some(unknown) = self.packed_candidates(candidates, &mut tight, plan, on) else {
                let why = "nothing of the plan can be cut off for them";
                return Ok(Placement::Here(Reason::PlanNotSupported(why.to_owned())));
            };
            unknown_results = unknown_results.max(unknown);
        }
        if unknown_results > 0 {
            let sends = if unknown_results == 1 {
                "a stage sends".to_owned()
            } else {
                format!("{unknown_results} stages send")
            };
            candidates.missing.push(format!("how much {sends} is not known: it is expected to fit responses"));
        }
        // Fragments spill where memory is short anyway.
        if candidates.all.len() < 2 {
            candidates.all.append(&mut tight);
        }
        if !tight.is_empty() {
            let left_out =
                format!("left out: {} candidates whose fragments need more memory than functions have", tight.len());
            candidates.missing.push(left_out);
        }
        candidates.distributed = plans;
        Ok(Placement::Functions(()))
    }

    /// Plans a query for functions by these rules.
    async fn distributed_plan(
        &self,
        local: &LocalPlan,
        rules: StageRules,
        facts: FleetFacts,
        notes: &PruningNotes,
    ) -> Result<Placement<Distributed>> {
        // Planning again notes again.
        notes.take();
        let (state, plan) = Box::pin(distributed(&local.state, &local.optimized, rules)).await?;
        Ok(match self.cut(&plan, rules)? {
            Placement::Functions(cut) => Placement::Functions(self.with_fleet(state, cut, rules, facts)?),
            Placement::Here(reason) => Placement::Here(reason),
        })
    }

    /// Adds a plan's candidates, those that need more memory than functions have to `tight`. Returns the number of stages whose results have an unknown size; None
    /// if there is no stage.
    fn packed_candidates(
        &self,
        candidates: &mut Candidates,
        tight: &mut Vec<Candidate>,
        plan: usize,
        on: &Distributed,
    ) -> Option<usize> {
        let cached = footers(&on.state);
        let mut maker = StageMaker::of(&on.cut, cached.as_ref());
        let mut unknown_results = 0;
        for size in &on.facts.sizes {
            let readers = FunctionReaders { facts: &on.facts, size };
            let memory_bytes_max = self.settings.memory_bytes_max;
            let widest = self.packing(size, Some(size.functions_max));
            let mut of_widest = Some(maker.stages(0, &widest, memory_bytes_max, readers));
            let of_most = || of_widest.iter().flatten();
            unknown_results = of_most().filter(|stage| stage.load.results.expected.is_none()).count();
            let most = of_most().map(|stage| stage.fragments.len()).max().filter(|most| *most > 0)?;
            // None makes fragments of the size that pays.
            for fan_out in fan_outs(most.min(size.functions_max)).into_iter().map(Some).chain([None]) {
                let packing = self.packing(size, fan_out);
                let stages = of_widest.take_if(|_| packing == widest);
                let stages = stages.unwrap_or_else(|| maker.stages(0, &packing, memory_bytes_max, readers));
                let forecast = Self::forecast_on(on, size, &stages.iter().collect::<Vec<_>>(), candidates);
                let fits = maker.need_bytes(&stages) <= size.limits.memory_bytes_max;
                let into = if fits { &mut candidates.all } else { &mut *tight };
                // Stages that keep their groups have as many fragments whatever is asked for.
                if into.iter().all(|candidate: &Candidate| !candidate.forecast.is_like(&forecast)) {
                    let packed = PackedSize { size: size.clone(), packing };
                    into.push(Candidate { forecast, functions: Some(PackedPlan { plan, packed }) });
                }
            }
        }
        Some(unknown_results)
    }

    /// Forecasts stages on functions of one size.
    pub(super) fn forecast_on(
        on: &Distributed,
        size: &FunctionSize,
        stages: &[&Stage],
        candidates: &Candidates,
    ) -> Forecast {
        let tariff = size.tariff(&candidates.tariff);
        let prices = Prices { tariff: &tariff, planning: &candidates.planning };
        let loads = loads(stages.iter().copied());
        let (forecast, here) = (on_functions(&loads, &on.facts.machines(size), &prices), on.here(&loads));
        let forecast = Forecast { staged: on.cut.is_staged(), ..forecast };
        if here == LocalLoad::default() { forecast } else { forecast.and_here(&here, &size.model, &tariff) }
    }

    /// Sums up the scans that stay in a distributed plan.
    pub(super) fn kept_load(&self, cut: &CutPlan, footers: &FileMetadataCache) -> Result<LocalLoad> {
        let mut kept = LocalLoad::default();
        for subtree in cut.kept() {
            let LocalReads { load, .. } = self.local_reads(subtree, footers)?;
            kept = kept + load;
        }
        Ok(kept)
    }

    pub(super) fn local_reads(&self, plan: &Arc<dyn ExecutionPlan>, footers: &FileMetadataCache) -> Result<LocalReads> {
        let bridge_bytes = self.fleet.bridge_bytes_here(self.settings.prefer);
        local_reads(plan, footers, self.settings.fragment_bytes_target / 4, bridge_bytes)
    }
}

/// Returns the requests and bytes of `first` and those between two counts.
fn after(first: Usage, earlier: Usage, later: Usage) -> Usage {
    let mut requests = first.requests;
    requests += later.requests - earlier.requests;
    Usage { requests, bytes_read: first.bytes_read + later.bytes_read - earlier.bytes_read, ..Usage::default() }
}

pub(super) fn unpriced(error: PriceError) -> DataFusionError {
    QueryError::setup(error.to_string()).with_default_hint(error.hint()).with_source(error).into()
}
