//! The place of a query: as asked, or the candidate that meets a preference and a deadline best. `auto` prefers seconds.
//!
//! Most queries are not worth a plan for functions. If seconds alone decide, a query stays here as soon as it is known that no candidate on
//! functions is faster: by its work, by a round trip, by the seconds of its scans there.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use url::Url;

use super::candidates::{Candidates, Distributed, LocalPlan, PackedPlan};
use super::choose::{EarlyFigures, fan_outs, reason_to_stay};
use super::graph::{Placement, Stage, reason_without_parquet, workload};
use super::loads::stages::{FunctionReaders, LocalReads, LocalScans, StageMaker};
use super::passes::kept::keeps_some;
use super::passes::shuffle::StageRules;
use super::passes::stages::CutPlan;
use super::{PackedSize, PlannedQuery, Planner, PlannerSettings, distributed, footers, optimized};
use crate::config::{Prefer, Target};
use crate::error::{ErrorKind, QueryError};
use crate::fleet::Asking;
use crate::model::attempts::{seconds_here, seconds_least, seconds_on_functions};
use crate::model::load::{LocalLoad, StageLoad};
use crate::model::{Choice, Decision, FleetFacts, FunctionSize, PackedAs, Place, Reason, WallTimes, Workload};
use crate::tables::pruning::PruningNotes;

impl PlannerSettings {
    /// Returns true if candidates are compared.
    pub(super) fn compares(&self) -> bool {
        self.on.picks_by_estimate(self.prefer, self.deadline)
    }

    /// Returns true if the place is open, and seconds alone decide on it.
    pub(super) fn is_for_seconds(&self) -> bool {
        self.on == Target::Auto && self.needs_no_prices()
    }

    /// Returns true if seconds alone decide, on the place or on the number of functions.
    pub(super) fn needs_no_prices(&self) -> bool {
        self.deadline.is_none() && matches!(self.prefer, None | Some(Prefer::Latency))
    }
}

impl Planner {
    /// Plans the best candidate that the target allows, or as asked where it allows none.
    pub(super) async fn by_estimate(
        &self,
        state: SessionState,
        logical: &LogicalPlan,
        notes: &PruningNotes,
    ) -> Result<PlannedQuery> {
        let local = self.local_plan(state, logical).await?;
        let functions = self.functions_for(&local).await?;
        if self.settings.is_for_seconds()
            && let Some(decision) = self.stays(&local, &functions)?
        {
            return Ok(PlannedQuery::here(local.state, local.plan, decision));
        }
        let candidates = Box::pin(self.candidates(local, functions, notes)).await?;
        let Some(choice) = self.choose(&candidates) else {
            // Planning again notes again.
            notes.take();
            return Box::pin(self.as_asked(candidates.local.state, logical, notes)).await;
        };
        let picked = candidates.all.iter().find(|candidate| candidate.forecast == choice.picked);
        let picked = picked.and_then(|picked| picked.functions.clone());
        let decision = self.decision(&candidates, choice);
        let Candidates { local, mut distributed, .. } = candidates;
        let Some(PackedPlan { plan, packed }) = picked.filter(|picked| picked.plan < distributed.len()) else {
            return Ok(PlannedQuery::here(local.state, local.plan, decision));
        };
        let on = distributed.swap_remove(plan);
        let stages = self.stages(&on, &packed);
        self.on_functions(on, stages, packed, decision)
    }

    /// Plans for all functions of the target, or for the coordinator where nothing of the query can run there.
    pub(super) async fn as_asked(
        &self,
        state: SessionState,
        logical: &LogicalPlan,
        notes: &PruningNotes,
    ) -> Result<PlannedQuery> {
        let optimized = optimized(&state, logical)?;
        let here = |reason| Decision::local(reason, Workload::default());
        let facts = match self.functions().await? {
            Placement::Functions(facts) => facts,
            Placement::Here(reason) => return self.here(state, logical, here(reason)).await,
        };
        let rules = self.rules(&state, &facts);
        let only_scanned = self.settings.packed.is_some_and(|packed| packed.only_scans);
        let rules = rules.only_scans().filter(|_| only_scanned).unwrap_or(rules);
        let (distributing, plan) = distributed(&state, &optimized, rules).await?;
        let cut = match self.cut(&plan, rules)? {
            Placement::Functions(cut) => cut,
            Placement::Here(Reason::PlanNotSupported(why)) if !self.settings.allow_fallback => {
                return Err(QueryError::functions(format!("functions cannot run this query: {why}"))
                    .with_hint("use --on local, or --allow-fallback")
                    .into());
            }
            Placement::Here(reason) => {
                // Planning again notes again.
                notes.take();
                return self.here(state, logical, here(reason)).await;
            }
        };
        let LocalReads { load, .. } = self.local_reads(&plan, footers(&distributing).as_ref())?;
        let on = self.with_fleet(distributing, cut, rules, facts)?;
        let first = &on.facts.sizes[0];
        let packed_before = self.settings.packed.and_then(|PackedAs { memory_mb, functions, .. }| {
            let size = on.facts.sizes.iter().find(|size| size.memory_mb == memory_mb)?;
            Some((size, functions))
        });
        let (size, fan_out) = packed_before.unwrap_or((first, Some(first.functions_max)));
        let packed = PackedSize { packing: self.packing(size, fan_out), size: size.clone() };
        let reason = if packed_before.is_some() { Reason::TakenOver } else { Reason::Requested };
        let stages = self.stages(&on, &packed);
        let decision = match stages.is_empty() {
            true => here(reason_without_parquet(&plan)),
            false => {
                let local_seconds = seconds_here(&load, &self.fleet.coordinator_model());
                let (loads, machines) = (loads(&stages), on.facts.machines(&packed.size));
                let functions_seconds = seconds_on_functions(&loads, Some(&on.here(&loads)), &machines);
                let times = times(local_seconds, functions_seconds, &loads, &packed.size);
                Decision::timed(Place::Functions, reason, workload(&stages), times)
            }
        };
        self.on_functions(on, stages, packed, decision)
    }

    /// Asks for the functions that a query may use, which is planned for the coordinator by now. A query without scans does not ask.
    ///
    /// # Errors
    /// Those of [`Planner::functions`].
    pub(super) async fn functions_for(&self, local: &LocalPlan) -> Result<Placement<FleetFacts>> {
        match local.reads.workload.scans {
            0 => Ok(Placement::Here(reason_without_parquet(&local.plan))),
            _ => self.functions().await,
        }
    }

    /// Asks the fleet for the functions that a query may use. `auto` does not ask while the breaker advises against it.
    ///
    /// # Errors
    /// The fleet's, as [`at_hand`] tells.
    async fn functions(&self) -> Result<Placement<FleetFacts>> {
        let asking = if self.settings.on == Target::Auto { Asking::WhileHealthy } else { Asking::Always };
        let facts = self.fleet.facts(asking).await;
        at_hand(facts.map(|facts| self.fleet.bridging(facts, self.settings.prefer)), &self.settings)
    }

    /// Decides to stay here before there is a plan for functions. None where functions may be faster.
    ///
    /// # Errors
    /// The engine's.
    pub(super) fn stays(&self, local: &LocalPlan, functions: &Placement<FleetFacts>) -> Result<Option<Decision>> {
        if let Some(reason) = self.reason_to_stay(local, functions) {
            return Ok(Some(Decision::local(reason, local.reads.workload)));
        }
        match functions {
            Placement::Functions(facts) => self.stays_by_scans(local, facts),
            Placement::Here(_) => Ok(None),
        }
    }

    /// Returns the reason to stay here that needs no packing. None where functions may be faster.
    fn reason_to_stay(&self, local: &LocalPlan, functions: &Placement<FleetFacts>) -> Option<Reason> {
        let facts = match functions {
            Placement::Functions(facts) => facts,
            Placement::Here(reason) => return Some(reason.clone()),
        };
        let LocalReads { workload, ref load, .. } = local.reads;
        let least = facts.sizes.iter().map(|size| seconds_least(load, &size.model));
        reason_to_stay(&EarlyFigures {
            workload,
            local_seconds: seconds_here(load, &self.fleet.coordinator_model()),
            least_seconds: least.fold(f64::INFINITY, f64::min),
        })
    }

    /// Decides to stay here if functions read all scans more slowly than the coordinator, in each packing. Results would slow them down further.
    /// None also if only some scans can travel: functions for these, and the coordinator for the others, may be faster than either alone. Operators are the
    /// coordinator's, unless they have so much to do that functions may do a part of it.
    fn stays_by_scans(&self, local: &LocalPlan, facts: &FleetFacts) -> Result<Option<Decision>> {
        let operators = local.reads.load.operators;
        let moves = self.settings.stages.may_move(operators.all_bytes());
        let here = LocalLoad { operators, ..LocalLoad::default() };
        let here = (!moves).then_some(&here);
        let local_seconds = seconds_here(&local.reads.load, &self.fleet.coordinator_model());
        let mut fastest: Option<WallTimes> = None;
        let cached = footers(&local.state);
        // A store that functions do not reach is told when the distributed plan is cut.
        let access = |url: &str| self.stores.access(&Url::parse(url).ok()?).ok();
        let url_of = |url: &str| access(url).map(|access| access.url).unwrap_or_default();
        let mut scans = LocalScans::of(&local.plan, cached.as_ref(), &url_of)?;
        for size in &facts.sizes {
            let mut scans_on = |fan_out| scans.loads(&self.packing(size, fan_out), FunctionReaders { facts, size });
            let most = scans_on(Some(size.functions_max));
            let fan_outs = fan_outs(most.iter().map(|load| load.fragments.len()).max().unwrap_or_default());
            // The likely ones come first: one that is faster suffices.
            for fan_out in std::iter::once(None).chain(fan_outs.into_iter().rev().map(Some)) {
                let loads = scans_on(fan_out);
                let loads: Vec<&StageLoad> = loads.iter().collect();
                let seconds = seconds_on_functions(&loads, here, &facts.machines(size));
                if seconds < local_seconds {
                    return Ok(None);
                }
                if fastest.is_none_or(|fastest| seconds < fastest.functions_seconds) {
                    fastest = Some(times(local_seconds, seconds, &loads, size));
                }
            }
        }
        let workload = local.reads.workload;
        let stays = fastest.filter(|_| !keeps_some(&local.plan));
        Ok(stays.map(|times| Decision::timed(Place::Local, Reason::LocalFaster, workload, times)))
    }

    /// Puts a plan that is cut beside its fleet.
    pub(super) fn with_fleet(
        &self,
        state: SessionState,
        cut: CutPlan,
        rules: StageRules,
        facts: FleetFacts,
    ) -> Result<Distributed> {
        let kept = self.kept_load(&cut, footers(&state).as_ref())?;
        let operators = cut.operators_beside();
        Ok(Distributed { state, cut, rules, facts, kept, operators })
    }

    /// Makes the decision of a choice. If seconds decide and nothing can run on functions, that is the reason.
    pub(super) fn decision(&self, candidates: &Candidates, choice: Choice) -> Decision {
        let workload = candidates.local.reads.workload;
        match &candidates.stays {
            Some(reason) if self.settings.is_for_seconds() => Decision::local(reason.clone(), workload),
            _ => {
                let times = candidates.times(&choice.picked);
                let decision = Decision::chosen(choice, workload, times);
                if candidates.unpriced.is_some() { Decision { choice: None, ..decision } } else { decision }
            }
        }
    }

    /// Makes the stages of a packing, with their loads.
    fn stages(&self, on: &Distributed, PackedSize { size, packing }: &PackedSize) -> Vec<Stage> {
        let readers = FunctionReaders { facts: &on.facts, size };
        let footers = footers(&on.state);
        StageMaker::of(&on.cut, footers.as_ref()).stages(0, packing, self.settings.memory_bytes_max, readers)
    }

    fn on_functions(
        &self,
        on: Distributed,
        stages: Vec<Stage>,
        packed: PackedSize,
        decision: Decision,
    ) -> Result<PlannedQuery> {
        let plan = on.cut.with_leaves(stages.into_iter().map(Arc::new).collect(), self.leaf)?;
        PlannedQuery::on_functions(on.state, plan, packed, on.rules, on.facts, decision)
    }
}

/// Finds the functions that a query may use in the fleet's answer. It is `Here` where the query runs without them.
///
/// # Errors
/// The fleet's, where the target is functions: without `allow_fallback` any, with it those of other kinds than
/// [`ErrorKind::Functions`].
fn at_hand(asked: Result<FleetFacts, QueryError>, settings: &PlannerSettings) -> Result<Placement<FleetFacts>> {
    let PlannerSettings { on, allow_fallback, .. } = *settings;
    match asked {
        Ok(facts) if on == Target::Auto && !facts.is_healthy => Ok(Placement::Here(Reason::NoneHealthy)),
        Ok(facts) => Ok(Placement::Functions(facts)),
        Err(error)
            if matches!(on, Target::Auto | Target::Local) || allow_fallback && error.kind() == ErrorKind::Functions =>
        {
            let (message, hint) = (error.message().to_owned(), error.hint().map(str::to_owned));
            Ok(Placement::Here(Reason::Unavailable { message, hint }))
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the loads of stages, in their order.
pub(super) fn loads<'a>(stages: impl IntoIterator<Item = &'a Stage>) -> Vec<&'a StageLoad> {
    stages.into_iter().map(|stage| &stage.load).collect()
}

fn times(local_seconds: f64, functions_seconds: f64, loads: &[&StageLoad], size: &FunctionSize) -> WallTimes {
    let fragments: usize = loads.iter().map(|load| load.fragments.len()).sum();
    WallTimes { local_seconds, functions_seconds, functions: fragments.min(size.functions_max) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Billed;
    use crate::model::{PlatformTraits, WarmState};
    use crate::planner::DigestBounds;

    #[test]
    fn an_answer_of_the_fleet_means_one_thing_for_each_target() {
        let traits = PlatformTraits {
            name: "somewhere",
            shares_machine: false,
            kept_for: None,
            lends_credentials: false,
            billed: Billed::AsIf,
        };
        let facts = |is_healthy| FleetFacts {
            traits: traits.clone(),
            sizes: Vec::new(),
            is_healthy,
            warm: Arc::<WarmState>::default(),
        };
        let (healthy, ill) = (|| Ok(facts(true)), || Ok(facts(false)));
        let unreachable = || Err(QueryError::functions("nobody answers"));
        let no_setup = || Err(QueryError::setup("no account"));
        #[track_caller]
        fn check(asked: Result<FleetFacts, QueryError>, on: Target, allow_fallback: bool, expect: &str) {
            let settings = PlannerSettings {
                on,
                allow_fallback,
                prefer: None,
                deadline: None,
                fragment_bytes_target: 1,
                memory_bytes_max: 1,
                digest: DigestBounds::default(),
                stages: StageRules::SCANS,
                packed: None,
            };
            let seen = match at_hand(asked, &settings) {
                Ok(Placement::Functions(_)) => "functions".to_owned(),
                Ok(Placement::Here(reason)) => format!("here: {reason}"),
                Err(error) => format!("error: {}", error.strip_backtrace()),
            };
            assert!(seen.starts_with(expect), "{on:?} {allow_fallback}: {seen}, not {expect}");
        }
        check(healthy(), Target::Auto, false, "functions");
        check(ill(), Target::Auto, false, "here: no function is healthy");
        check(ill(), Target::Lambda, false, "functions");
        check(ill(), Target::Local, false, "functions");
        for on in [Target::Auto, Target::Local] {
            check(unreachable(), on, false, "here: functions cannot be used: nobody answers");
            check(no_setup(), on, false, "here: functions cannot be used: no account");
        }
        check(unreachable(), Target::Lambda, false, "error: External error: nobody answers");
        check(unreachable(), Target::Lambda, true, "here: functions cannot be used: nobody answers");
        check(no_setup(), Target::Lambda, true, "error: External error: no account");
    }
}
