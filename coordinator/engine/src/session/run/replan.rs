//! Runs a query once more, as long as no row was seen: with joins that spill if its hash joins do not fit memory, or alike if rows between functions are lost, or as if for the first time if files have changed.
//!
//! ```text
//!  hash joins ──── memory is full ───► sort-merge joins, at the same place ──► rows, or an error that names the need
//!  hash joins in functions ─ memory of one is full ─► sort-merge joins in functions ─┐
//!  other functions ───────── memory of one is full ──────────────────────────────────┴─► functions of the next larger size, if there is one ─► …
//!  functions that read of functions
//!     └── rows are lost and not made anew ──► the same once more ──► rows, or an error that names what is lost
//!  files of earlier listings ──── the store has others by now ──► decided anew, by its own listings
//! ```
//!
//! Hash joins hold one of their sides and cannot spill (DataFusion 55.2). Sort-merge joins read sorted sides, and sorts
//! spill. They are slower, so they come second.
//!
//! Stages run anew, because their results went into the first run. They have more fragments, because a result is held
//! as a whole. The report counts both runs. A cap and the deadline hold for both together. The place stays the same,
//! unless the new plan cannot run on functions, or files have changed: other files may be many more.
//!
//! A fragment over rows of other functions has been tried partition by partition before (`exec/run.rs`).
//!
//! Non-goals: other operators of the coordinator that cannot spill, and rows that CREATE TABLE AS has kept already.

use std::sync::Arc;
use std::time::Duration;

use datafusion::common::config::ConfigNonZeroUsize;
use datafusion::common::tree_node::TreeNode;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;

use super::{RunningStatement, claimed};
use crate::error::QueryError;
use crate::events::QueryEvent;
use crate::model::Decision;
use crate::planner::{Again, FunctionsPlan, PlannedQuery};
use crate::tables::folder::Listings;

/// Bytes of memory for each row of a batch. Many batches are held at once, one for each run that is merged.
const ROW_BYTES: u64 = 64 << 10;
const BATCH_ROWS_MIN: usize = 256;

/// Number of fragments for each fragment of the first run.
const MORE_FRAGMENTS: usize = 8;

/// Bytes of memory for each partition of a plan with sort-merge joins. Every partition of a join sorts both sides at
/// once.
const PARTITION_BYTES: u64 = 128 << 20;

/// Longest wait for the memory of the first run. Its operators end when they next yield.
const RELEASE_MAX: Duration = Duration::from_secs(2);
const RELEASE_POLL: Duration = Duration::from_millis(5);

/// Query to plan again, with its first decision.
pub(super) struct Replan {
    logical: LogicalPlan,
    decision: Decision,
    /// Part of the first plan that ran on functions.
    functions: Option<FunctionsPlan>,
}

impl Replan {
    /// Returns None if a second plan would be the same: the first has no hash join and nothing on functions.
    pub(super) fn of(planned: &PlannedQuery, logical: &LogicalPlan) -> Option<Self> {
        let PlannedQuery { plan, decision, functions, .. } = planned;
        let replan = || Self { logical: logical.clone(), decision: decision.clone(), functions: functions.clone() };
        (has_hash_joins(plan) || functions.is_some()).then(replan)
    }
}

/// Returns true if functions do hash joins.
fn have_hash_joins(functions: &FunctionsPlan) -> bool {
    functions.stages.iter().any(|stage| has_hash_joins(&stage.plan))
}

fn has_hash_joins(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.exists(|node| Ok(node.is::<HashJoinExec>())).unwrap_or(false)
}

impl RunningStatement {
    /// Runs the query with sort-merge joins, after the coordinator's memory did not suffice. A query that cannot be
    /// planned again may still fall back; else it returns the error.
    pub(super) async fn replan_after(&mut self, error: QueryError) -> Result<(), QueryError> {
        let Some(replan) = self.replan.take().filter(|_| self.rows == 0) else {
            return Box::pin(self.fall_back(error)).await;
        };
        self.events.push(QueryEvent::Replanned { reason: error.message().to_owned() });
        self.sort_merge_joins = true;
        Box::pin(self.run_again(replan, Again::Finer { more: MORE_FRAGMENTS })).await
    }

    /// Runs the query once more after a function's memory did not suffice: with sort-merge joins where functions did hash joins, else on larger functions. A
    /// query for which there is neither may still fall back; else it returns the error.
    pub(super) async fn replan_functions_after(&mut self, error: QueryError) -> Result<(), QueryError> {
        let replan = self.replan.take().filter(|_| self.rows == 0);
        let functions = replan.as_ref().and_then(|replan| replan.functions.as_ref());
        let again = match functions {
            Some(functions) if !self.sort_merge_joins && have_hash_joins(functions) => Some(Again::Alike),
            // A cap counts on the first size's price, and another coordinator would go on with the first size.
            Some(functions) if self.cap.is_none() && self.work.is_none() => {
                functions.larger().map(|size| Again::Larger { memory_mb: size.memory_mb })
            }
            _ => None,
        };
        let Some((replan, again)) = replan.zip(again) else { return Box::pin(self.fall_back(error)).await };
        let reason = error.message().to_owned();
        self.events.push(match again {
            Again::Larger { memory_mb } => QueryEvent::Enlarged { memory_mb, reason },
            Again::Alike | Again::Finer { .. } => QueryEvent::Replanned { reason },
        });
        self.sort_merge_joins |= again == Again::Alike;
        Box::pin(self.run_again(replan, again)).await
    }

    /// Runs the query once more from its beginning, after rows between functions were lost and not made anew.
    pub(super) async fn restart_after(&mut self, error: QueryError) -> Result<(), QueryError> {
        let may_restart = self.rows == 0 && !self.restarted;
        let Some(replan) = self.replan.take().filter(|_| may_restart) else {
            return Box::pin(self.fall_back(error)).await;
        };
        self.events.push(QueryEvent::Restarted { reason: error.message().to_owned() });
        self.restarted = true;
        Box::pin(self.run_again(replan, Again::Alike)).await
    }

    /// Waits for the listings that the plan was made before. If the store has other files, the query begins anew.
    pub(super) async fn confirm(&mut self, unconfirmed: Box<(Arc<Listings>, LogicalPlan)>) -> Result<(), QueryError> {
        let (listings, logical) = *unconfirmed;
        let own = Arc::clone(&listings);
        if self.planned_in_time(async move { Ok(own.confirmed().await) }).await? {
            return Ok(());
        }
        let reason = "files of a table have changed since an earlier statement".to_owned();
        self.events.push(QueryEvent::Restarted { reason });
        self.stream = None;
        if let Some(analyzing) = &mut self.analyzing {
            analyzing.forget_plan();
        }
        self.released().await;
        self.memory = None;
        listings.forget();
        let (session, query) = (self.session.clone(), logical.clone());
        let (gate, events) = (self.gate.clone(), self.events.clone());
        let planning = Box::pin(async move {
            let planned = session.planner().plan(session.context.state(), &query).await;
            let planned = planned.map_err(QueryError::from_engine)?;
            let memory = claimed(gate.as_deref(), &session, &events, &planned.plan).await?;
            Ok((planned, memory))
        });
        let (planned, memory) = self.planned_in_time(planning).await?;
        self.memory = memory;
        self.announced(&planned)?;
        Box::pin(self.start_planned(planned, logical)).await
    }

    async fn run_again(&mut self, replan: Replan, again: Again) -> Result<(), QueryError> {
        self.released().await;
        self.memory = None;
        let (session, sort_merge_joins) = (self.session.clone(), self.sort_merge_joins);
        let (gate, events) = (self.gate.clone(), self.events.clone());
        let planning = async move {
            let Replan { logical, decision, functions } = replan;
            let (state, planner) = (session.planning_state(sort_merge_joins), session.planner());
            let planned = match &functions {
                Some(first) => planner.again(state, &logical, first, again, decision).await,
                None => planner.here(state, &logical, decision).await,
            };
            let planned = planned.map_err(QueryError::from_engine)?;
            // Memory may be short after a restart, too, and after sort-merge joins in functions there are larger functions.
            let may_again = matches!(again, Again::Alike | Again::Larger { .. });
            let replan = may_again.then(|| Replan::of(&planned, &logical)).flatten();
            let memory = claimed(gate.as_deref(), &session, &events, &planned.plan).await?;
            Ok((planned, replan, memory))
        };
        let (planned, replan, memory) = self.planned_in_time(planning).await?;
        self.memory = memory;
        self.announced(&planned)?;
        self.replan = replan;
        match self.execute(planned).await {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(())
            }
            Err(error) => Box::pin(self.fall_back(error)).await,
        }
    }

    /// Waits until the query holds no memory any more, for at most [`RELEASE_MAX`]. A run that was dropped ends in its
    /// own time.
    pub(super) fn released(&self) -> impl Future<Output = ()> + use<> {
        let pool = Arc::clone(&self.session.context.runtime_env().memory_pool);
        async move {
            let released = async {
                while pool.reserved() > 0 {
                    tokio::time::sleep(RELEASE_POLL).await;
                }
            };
            if tokio::time::timeout(RELEASE_MAX, released).await.is_err() {
                let reserved = pool.reserved();
                tracing::debug!(reserved, "memory of the first run is still held");
            }
        }
    }
}

impl super::Session {
    /// Returns the session's state. For joins that spill, it has only as many partitions and rows in a batch as memory
    /// has room for.
    pub(super) fn planning_state(&self, sort_merge_joins: bool) -> SessionState {
        let mut state = self.context.state();
        if sort_merge_joins {
            let memory_bytes_max = self.memory_bytes_max();
            let config = state.config_mut();
            let partitions = partitions(config.target_partitions(), memory_bytes_max);
            let options = config.options_mut();
            options.execution.target_partitions = partitions;
            // A sort that copies its batches into one needs more than it holds, at the moment when least is free.
            options.execution.sort_in_place_threshold_bytes = 0;
            let rows = batch_rows(options.execution.batch_size.get(), memory_bytes_max);
            if let Ok(rows) = ConfigNonZeroUsize::try_new(rows) {
                options.execution.batch_size = rows;
            }
            options.optimizer.prefer_hash_join = false;
            options.optimizer.repartition_joins = true;
        }
        state
    }
}

fn batch_rows(wanted: usize, memory_bytes_max: u64) -> usize {
    let room = usize::try_from(memory_bytes_max / ROW_BYTES).unwrap_or(usize::MAX);
    wanted.min(room.max(BATCH_ROWS_MIN))
}

/// Returns as many partitions as there is memory for, at least two. DataFusion plans no sort-merge joins for fewer.
fn partitions(wanted: usize, memory_bytes_max: u64) -> usize {
    let room = usize::try_from(memory_bytes_max / PARTITION_BYTES).unwrap_or(usize::MAX);
    wanted.min(room).max(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_have_room_to_sort() {
        assert_eq!(partitions(16, 512 << 20), 4);
        assert_eq!(partitions(16, 16 << 30), 16);
        assert_eq!(partitions(1, 16 << 30), 2);
        assert_eq!(partitions(8, 1 << 20), 2);
        assert_eq!(batch_rows(8192, 1 << 30), 8192);
        assert_eq!(batch_rows(8192, 64 << 20), 1024);
        assert_eq!(batch_rows(8192, 1 << 20), 256);
        assert_eq!(batch_rows(100, 1 << 20), 100);
    }
}
