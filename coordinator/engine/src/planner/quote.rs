//! The forecasts of a query side by side, for EXPLAIN COST and `--dry-run`.
//!
//! Planning is all that is done: metadata is read, data is not.

use datafusion::common::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;

use super::Planner;
use super::candidates::unpriced;
use super::choose::{Dominance, PickedBy, beats, choose, compare};
use super::graph::Stage;
use crate::config::Prefer;
use crate::model::{Decision, Forecast, Quote, Reason, Way};
use crate::tables::pruning::PruningNotes;

impl Planner {
    /// Forecasts a query where it would run, with the other candidates that matter.
    ///
    /// # Errors
    /// The engine's, and a [`crate::error::QueryError`] in them where there are no prices.
    pub async fn quote(&self, state: SessionState, logical: &LogicalPlan) -> Result<(Decision, Quote)> {
        let local = self.local_plan(state.clone(), logical).await?;
        let functions = self.functions_for(&local).await?;
        let stays = match self.settings.is_for_seconds() {
            true => self.stays(&local, &functions)?,
            false => None,
        };
        let mut candidates = self.candidates(local, functions, &PruningNotes::default()).await?;
        if let Some(error) = candidates.unpriced.take() {
            return Err(unpriced(error));
        }
        let next = |picked: &Forecast| {
            let others = self.allowed(&candidates).filter(|other| !other.is_like(picked) && !beats(other, picked));
            others.min_by(|a, b| compare(a, b, Prefer::Latency)).cloned()
        };
        let local = candidates.all[0].forecast.clone();
        let (by, decision, picked, runner_up) = match (stays, self.choose(&candidates)) {
            (Some(decision), _) => {
                let runner_up = next(&local);
                // Here functions are known with their results, too.
                let estimate = decision.estimate.and_then(|_| candidates.times(&local));
                (PickedBy::Work, Decision { estimate, ..decision }, local, runner_up)
            }
            (None, Some(choice)) => {
                let (picked, runner_up) = (choice.picked.clone(), choice.runner_up.clone());
                (PickedBy::Comparison, self.decision(&candidates, choice), picked, runner_up)
            }
            (None, None) => {
                let planned = self.plan(state, logical).await?;
                let picked = match (&planned.functions, candidates.distributed.first()) {
                    (Some(functions), Some(on)) => {
                        let stages: Vec<&Stage> = functions.stages.iter().map(AsRef::as_ref).collect();
                        Self::forecast_on(on, &functions.packed.size, &stages, &candidates)
                    }
                    _ => local,
                };
                let runner_up = next(&picked);
                (PickedBy::Request, planned.decision, picked, runner_up)
            }
        };
        let mut shown = vec![candidates.all[0].forecast.clone(), picked.clone()];
        shown.extend(runner_up.clone());
        // The candidate that would be picked of each way that is not among these.
        let all: Vec<Forecast> = candidates.all.iter().map(|candidate| candidate.forecast.clone()).collect();
        let best = choose(&all, self.settings.prefer, self.settings.deadline).map(|choice| choice.ways);
        let is_shown = |way: Way| shown.iter().any(|forecast| forecast.way() == way);
        let others: Vec<Forecast> = best.unwrap_or_default().into_iter().filter(|best| !is_shown(best.way())).collect();
        shown.extend(others);
        let quote = Quote::new(shown, &picked, runner_up.as_ref(), &candidates.tariff);
        let guessed_files = candidates.local.reads.load.reads.guessed_files;
        let stays = candidates.stays.as_ref().filter(|reason| **reason != decision.reason);
        let hint = stays.and_then(Reason::hint).map(str::to_owned);
        let allowed: Vec<Forecast> = self.allowed(&candidates).cloned().collect();
        let better = Dominance::of(&picked, by, &allowed).map(|dominance| dominance.to_string());
        Ok((decision, Quote { missing: candidates.missing, hint, guessed_files, better, ..quote }))
    }
}
