//! Runs the query of an EXPLAIN ANALYZE as the query itself would run, and describes the run in its place. Its rows are counted and dropped.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::logical_expr::{Analyze, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;

use super::closing::own_reads;
use super::{ClosedAtEnd, RunningStatement};
use crate::error::QueryError;
use crate::events::StampedEvent;
use crate::planner::{PlannedQuery, Stage, analyzed};
use crate::report::Report;

/// EXPLAIN ANALYZE of a query under way.
pub(super) struct Analyzing {
    statement: Analyze,
    /// Plan of the coordinator that runs now, whose operators count. None until it has begun.
    plan: Option<Arc<dyn ExecutionPlan>>,
    /// Stages of all runs, and those that may take the places of others.
    stages: Vec<Arc<Stage>>,
}

impl Analyzing {
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] for a statement that changes the session.
    pub(super) fn of(statement: Analyze) -> Result<Self, QueryError> {
        if let LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) = statement.input.as_ref() {
            return Err(QueryError::sql("EXPLAIN ANALYZE: this statement changes the session and is not run")
                .with_hint("analyze a query, such as that of CREATE TABLE AS"));
        }
        Ok(Self { statement, plan: None, stages: Vec::new() })
    }

    /// Returns the query that runs.
    pub(super) fn query(&self) -> LogicalPlan {
        self.statement.input.as_ref().clone()
    }

    /// Notes the stages of a plan that is about to run.
    pub(super) fn note_stages(&mut self, planned: &PlannedQuery) {
        let each = planned.stages().iter();
        self.stages.extend(each.flat_map(|stage| std::iter::once(stage).chain(stage.stand_ins())).cloned());
    }

    /// Notes the plan whose streams run now.
    pub(super) fn note_plan(&mut self, plan: Arc<dyn ExecutionPlan>) {
        self.plan = Some(plan);
    }

    /// Lets go of a plan that has failed.
    pub(super) fn forget_plan(&mut self) {
        self.plan = None;
    }
}

impl RunningStatement {
    /// Runs the query to its end, and returns the description. The statement's end comes later: it cleans up, and notes all reads. So this
    /// may be given up at any time.
    pub(super) async fn analyze(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        loop {
            match self.next_batch().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    self.analyzing = None;
                    self.rows = 0;
                    return Err(error);
                }
            }
        }
        let Some(analyzing) = self.analyzing.take() else { return Ok(None) };
        let Analyzing { statement, plan, stages } = *analyzing;
        let options = self.session.context.state().config_options().explain.clone();
        // A plan may hold tasks of its stages. So it goes before the attempts are closed.
        let plans = plan.map(|plan| analyzed::plans(&plan, &statement, &options));
        // The rows were the query's.
        let rows = std::mem::take(&mut self.rows);
        for ClosedAtEnd(attempts) in &self.attempts {
            attempts.close();
        }
        let reads = own_reads(&self.session, &self.ahead).await;
        let tariff = self.session.tariff().await;
        let mut events = self.events.snapshot();
        events.push(StampedEvent { at: self.events.elapsed(), event: reads });
        let report = Report { rows, ..Report::priced(&events, tariff.as_ref()) };
        let work = analyzed::work(&report, &stages);
        let described: Vec<_> = std::iter::once(work).chain(plans.into_iter().flatten()).collect();
        let described = analyzed::rows(&self.schema, &described);
        let described = described.map_err(|error| self.failed(QueryError::from_engine(error)))?;
        self.rows = described.num_rows() as u64;
        Ok(Some(described))
    }
}
