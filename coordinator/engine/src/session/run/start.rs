//! Plans a statement and starts it, or describes it.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::Schema;
use datafusion::logical_expr::{DdlStatement, LogicalPlan, ResetVariable, Statement as PlanStatement};
use datafusion::prelude::SessionConfig;
use futures::FutureExt;
use futures::future::BoxFuture;
use tracing::Instrument;
use uuid::Uuid;

use super::analyze::Analyzing;
use super::computing::Computing;
use super::kept::KeptRuns;
use super::{MemoryGate, RunningStatement, stream};
use crate::cap::{Cap, Purse};
use crate::error::QueryError;
use crate::events::{EventLog, QueryEvent};
use crate::exec::QueryContext;
use crate::model::{FunctionSize, ahead_bounds_here};
use crate::planner::explain::{self, ReadBounds};
use crate::resume::WorkLog;
use crate::scheduler::Clock;
use crate::session::catalogs::used;
use crate::session::defaults::sort_reservation_bytes;
use crate::session::parameters::bound;
use crate::session::plain::with_plain_types;
use crate::session::{Session, Statement};
use crate::sql::Names;
use crate::storage::Stores;
use crate::tables::folder::tables_only;

/// Statement before it is planned.
pub(in crate::session) struct NewStatement {
    pub id: String,
    pub events: EventLog,
    /// Session as the statement sees it, with stores and memory of its own.
    query: Session,
    session: Session,
    /// Purse of the budgets that its user shares.
    pub purse: Option<Arc<Purse>>,
    /// Log of its work, if another coordinator may go on with it.
    pub work: Option<Arc<WorkLog>>,
    /// Gate where it waits for memory once it is planned.
    pub gate: Option<Arc<dyn MemoryGate>>,
    /// Tasks that plan it and compute for it.
    pub computing: Computing,
}

impl NewStatement {
    /// Returns the stores that count the statement's reads.
    pub fn stores(&self) -> &Stores {
        &self.query.stores
    }

    pub fn run(self, statement: Statement) -> BoxFuture<'static, Result<RunningStatement, QueryError>> {
        Box::pin(async move {
            if let Some(purse) = &self.purse {
                purse.check().map_err(|over| QueryError::over_cap(over.into()))?;
            }
            let session = self.session.clone();
            // Time of an earlier coordinator is a part of it.
            let deadline = Instant::now() + session.timeout().saturating_sub(self.events.elapsed());
            let (span, timeout) = (self.events.span().clone(), session.timeout());
            let workers = session.engine.workers.clone();
            // Reads of planning are spent as it goes.
            let (query, purse, events) = (self.query.clone(), self.purse.clone(), self.events.clone());
            let over = Box::pin(async move { query.over_budget(purse, events).await });
            let computing = self.computing.clone();
            let starting = async move {
                let started = Box::pin(session.start(statement, self, deadline));
                let started = AssertUnwindSafe(started).catch_unwind().await;
                started.unwrap_or_else(|panic| Err(stream::panicked(&*panic)))
            };
            // Planning cannot be stopped. It counts until it has really ended.
            let starting = workers.run(computing.planning(Box::pin(starting.instrument(span))));
            let starting = Box::pin(tokio::time::timeout_at(deadline.into(), starting));
            tokio::select! {
                biased;
                started = starting => {
                    started.unwrap_or_else(|_| Err(QueryError::timed_out(timeout)))
                }
                over = over => Err(QueryError::over_cap(over.into())),
            }
        })
    }
}

impl Session {
    /// Plans a statement and starts it. A statement that only changes the session has an empty result.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::TimedOut`] if the start takes longer than the time-out, and the error of a statement
    /// that cannot be planned or started.
    pub fn run(&self, statement: Statement) -> BoxFuture<'static, Result<RunningStatement, QueryError>> {
        self.new_statement(None).run(statement)
    }

    /// Opens the log of a statement, whose work others may go on with, and the session's view that counts its reads.
    pub(in crate::session) fn new_statement(&self, work: Option<Arc<WorkLog>>) -> NewStatement {
        let id = work.as_ref().map_or_else(|| Uuid::now_v7().simple().to_string(), |work| work.id().to_owned());
        let span = tracing::info_span!("query", id);
        let query = self.for_query_of(work.as_ref().map(|work| work.pins()));
        let events = match &work {
            Some(work) => span.in_scope(|| work.open_events(&query.stores)),
            None => span.in_scope(EventLog::start),
        };
        let purse = self.budgets.as_ref().map(|budgets| Arc::new(budgets.purse()));
        let computing = Computing::new(self.engine.workers.turns());
        NewStatement { id, events, query, session: self.clone(), purse, work, gate: None, computing }
    }

    async fn start(
        &self,
        mut statement: Statement,
        new: NewStatement,
        deadline: Instant,
    ) -> Result<RunningStatement, QueryError> {
        let NewStatement { id, events, query, purse, work, gate, computing, .. } = new;
        let (mode, place) = (statement.mode, used(&statement.sql).cloned());
        if statement.is_copy() {
            self.engine.settings.check_copy()?;
        }
        let parameters = std::mem::take(&mut statement.parameters);
        let keeps_rows = statement.keeps_rows;
        let (sql, copying) = statement.without_copy()?;
        let (logical, names) = match &place {
            Some(_) => (change_of_session(), Names::default()),
            None => query.logical_plan(sql).await?,
        };
        let logical = bound(query.executed(logical)?, parameters)?;
        let mut running = RunningStatement {
            session: query.clone(),
            id,
            schema: Arc::new(Schema::empty()),
            made: Arc::new(Schema::empty()),
            names,
            stream: None,
            events,
            deadline,
            rows: 0,
            is_silent: copying.is_some() || matches!(logical, LogicalPlan::Ddl(_) | LogicalPlan::Statement(_)),
            fallback: None,
            unconfirmed: None,
            replan: None,
            restarted: false,
            sort_merge_joins: false,
            functions: None,
            attempts: Vec::new(),
            cap: None,
            watched: None,
            creating: None,
            analyzing: None,
            copying,
            keeps_rows: false,
            kept: KeptRuns::default(),
            ahead: Arc::default(),
            computing,
            gate,
            memory: None,
            purse,
            work,
        };
        if let Some(place) = place {
            mode.is_cost_of(&logical)?;
            Box::pin(self.use_place(&place)).await?;
            return Ok(running);
        }
        if self.change_option(&logical)? || self.change_prepared(&logical)? {
            return Ok(running);
        }
        match logical {
            logical if mode.is_cost_of(&logical)? => {
                let logical = explained(logical);
                let planner = query.planner();
                let quoted = Box::pin(planner.quote(query.context.state(), &logical)).await;
                let (decision, quote) = quoted.map_err(QueryError::from_engine)?;
                let quote = quote.under(query.cap());
                running.schema = explain::cost_schema();
                running.stream = Some(explain::cost_rows(&quote).map_err(QueryError::from_engine)?);
                running.events.push(QueryEvent::Planned { decision });
                running.events.push(QueryEvent::Quoted { quote: Box::new(quote) });
            }
            LogicalPlan::Explain(explain) => {
                let text = query.explain_plan(&explain.plan).await?;
                running.events.push(QueryEvent::Begun);
                running.schema = Arc::new(explain.schema.as_arrow().clone());
                running.stream = Some(explain::as_rows(&running.schema, &text).map_err(QueryError::from_engine)?);
            }
            LogicalPlan::Analyze(analyze) => {
                running.schema = Arc::new(analyze.schema.as_arrow().clone());
                let analyzing = Analyzing::of(analyze)?;
                let logical = analyzing.query();
                running.analyzing = Some(Box::new(analyzing));
                Box::pin(running.begin(logical)).await?;
            }
            LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) => {
                if query.is_to_create(&create).await? {
                    Box::pin(running.begin(create.input.as_ref().clone())).await?;
                    running.creating = Some(create);
                }
            }
            LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => {
                // Settings belong to the session. The query's context reads the files of a new table, so that its
                // stores count them.
                let context = if matches!(logical, LogicalPlan::Ddl(_)) { &query.context } else { &self.context };
                let made = match &logical {
                    LogicalPlan::Ddl(DdlStatement::CreateExternalTable(create)) => Some(create.name.clone()),
                    _ => None,
                };
                running.events.push(QueryEvent::Begun);
                let done = tables_only(context.execute_logical_plan(logical));
                let done = match (query.limits(running.purse.as_ref()), made) {
                    // The footers of a table's files are read now, and are paid for.
                    (Some(limits), Some(name)) => {
                        let cap = query.cap_of_own(limits, running.events.clone()).await?;
                        let done = tokio::select! {
                            biased;
                            over = cap.passed() => return Err(QueryError::over_cap(over)),
                            done = done => done,
                        };
                        // A table that took more money than it may is not there.
                        if let Some(over) = cap.passed().now_or_never() {
                            context.deregister_table(name).map_err(QueryError::from_engine)?;
                            return Err(QueryError::over_cap(over));
                        }
                        done
                    }
                    _ => done.await,
                };
                let done = done.map_err(QueryError::from_engine)?;
                // The stream has no rows. It fails for a statement that DataFusion parses and does not run.
                running.stream = Some(done.execute_stream().await.map_err(QueryError::from_engine)?);
            }
            query => {
                running.keeps_rows = keeps_rows;
                let query = if keeps_rows { with_plain_types(query).map_err(QueryError::from_engine)? } else { query };
                Box::pin(running.begin(query)).await?;
            }
        }
        Ok(running)
    }

    /// Describes in words how a statement would run.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] for a statement that changes the session, and the error of a statement that
    /// cannot be planned.
    pub fn explain(&self, statement: Statement) -> BoxFuture<'_, Result<String, QueryError>> {
        Box::pin(async move {
            let session = self.for_query();
            let explaining = async move {
                let (sql, _) = statement.without_copy()?;
                let (logical, _) = session.logical_plan(sql).await?;
                session.explain_plan(&explained(session.executed(logical)?)).await
            };
            self.engine.workers.run(explaining).await
        })
    }

    async fn explain_plan(&self, logical: &LogicalPlan) -> Result<String, QueryError> {
        let query = match logical {
            LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) => &create.input,
            LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => {
                let message = "EXPLAIN: this statement changes the session and has no plan";
                return Err(QueryError::sql(message).with_hint("explain a query"));
            }
            query => query,
        };
        let planned = self.planner().plan(self.context.state(), query).await;
        let here = ReadBounds {
            ahead: ahead_bounds_here(self.config.read_ahead(), self.memory_bytes_max()),
            bridge_bytes: self.engine.fleet.bridge_bytes_here(self.config.prefer),
        };
        Ok(explain::explain(&planned.map_err(QueryError::from_engine)?, &self.config, here))
    }

    pub(super) async fn query_context(
        &self,
        id: &str,
        size: &FunctionSize,
        events: &EventLog,
        deadline: Instant,
        cap: Option<Arc<Cap>>,
        work: Option<Arc<WorkLog>>,
    ) -> Result<QueryContext, QueryError> {
        let scheduler = self.engine.schedulers.for_size(&self.engine.fleet, size).await?;
        let first_attempt = work.as_ref().map_or(0, |work| work.first_attempt());
        Ok(QueryContext {
            id: id.to_owned(),
            attempts: scheduler.resumed_query(events.clone(), Clock::start(), deadline.into(), cap, first_attempt),
            exchange: self.exchange().through(&self.stores).map_err(QueryError::from_engine)?,
            limits: size.limits,
            credentials: self.engine.fleet.credentials(&self.stores).await,
            stores: self.stores.clone(),
            options: function_options(self.context.state().config(), size.limits.memory_bytes_max),
            work,
        })
    }
}

/// Returns the plan inside an EXPLAIN, or any other plan.
fn explained(logical: LogicalPlan) -> LogicalPlan {
    match logical {
        LogicalPlan::Explain(explain) => Arc::unwrap_or_clone(explain.plan),
        LogicalPlan::Analyze(analyze) => Arc::unwrap_or_clone(analyze.input),
        logical => logical,
    }
}

/// Makes a plan that stands for USE, which has none.
fn change_of_session() -> LogicalPlan {
    let variable = "datafusion.catalog.default_schema".to_owned();
    LogicalPlan::Statement(PlanStatement::ResetVariable(ResetVariable { variable }))
}

/// Returns session settings that change the result of a function, and what its sorts set aside of its memory, if they differ from the defaults.
fn function_options(config: &SessionConfig, memory_bytes: u64) -> BTreeMap<String, String> {
    let defaults = SessionConfig::new();
    let default = |key: &str| defaults.options().entries().into_iter().find(|e| e.key == key).and_then(|e| e.value);
    let relevant = ["datafusion.execution.batch_size", "datafusion.execution.time_zone"];
    let entries = config.options().entries().into_iter().filter(|entry| relevant.contains(&entry.key.as_str()));
    let entries = entries.filter_map(|entry| Some((entry.key, entry.value?)));
    let reserved = sort_reservation_bytes(usize::try_from(memory_bytes).unwrap_or(usize::MAX));
    let sorts = ("datafusion.execution.sort_spill_reservation_bytes".to_owned(), reserved.to_string());
    entries.chain([sorts]).filter(|(key, value)| Some(value) != default(key).as_ref()).collect()
}
