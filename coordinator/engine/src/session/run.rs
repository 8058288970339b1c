//! Runs a statement and follows it to its end.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{CreateMemoryTable, DdlStatement, LogicalPlan};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use fragment_fn::{naming_files, panic_message};
use futures::{FutureExt, StreamExt};
use tracing::Instrument;
use uuid::Uuid;

use super::Session;
use super::classify::{ran_out_of_memory_here, ran_out_of_time};
use super::engine::CLEANING_MAX;
use super::statement::Statement;
use crate::cap::Cap;
use crate::config::Target;
use crate::error::{ErrorKind, QueryError};
use crate::events::{AttemptOutcome, EventLog, QueryEvent};
use crate::exec::QueryContext;
use crate::model::{Decision, FunctionSize, Reason, Workload};
use crate::planner::{OnFunctions, PackedSize, PlannedQuery, explain};
use crate::scheduler::{Clock, QueryAttempts};
use crate::sql::Names;
use crate::tables::folder::tables_only;
use replan::Replan;

mod create;
mod replan;

/// A statement on its way: its rows, and what happened so far.
pub struct RunningStatement {
    session: Session,
    id: String,
    schema: SchemaRef,
    names: Names,
    stream: Option<SendableRecordBatchStream>,
    events: EventLog,
    deadline: Instant,
    rows: u64,
    is_silent: bool,
    /// What to run instead if functions fail before the first row.
    fallback: Option<LogicalPlan>,
    /// What to plan again if memory does not suffice for hash joins before the first row.
    again: Option<Replan>,
    /// Whether it has been planned again.
    sort_merge_joins: bool,
    /// What all runs on functions share.
    lent: Option<Arc<QueryContext>>,
    /// None where it has no functions.
    attempts: Option<QueryAttempts>,
    /// None where it may cost what it likes.
    budget: Option<Arc<Cap>>,
    /// What the rows are for, where it is CREATE TABLE AS.
    creating: Option<CreateMemoryTable>,
}

impl Session {
    /// Plans a statement and starts it. Statements that only change the session have an empty result.
    pub async fn run(&self, statement: Statement) -> Result<RunningStatement, QueryError> {
        let deadline = Instant::now() + self.timeout();
        let (session, id) = (self.clone(), Uuid::now_v7().simple().to_string());
        let span = tracing::info_span!("query", id);
        let events = span.in_scope(EventLog::start);
        let starting = async move {
            let started = Box::pin(session.start(statement, id, events, deadline));
            let started = AssertUnwindSafe(started).catch_unwind().await;
            started.unwrap_or_else(|panic| Err(QueryError::in_words(ErrorKind::Data, panicked(&*panic))))
        };
        let starting = self.engine.workers.run(starting.instrument(span));
        let started = tokio::time::timeout_at(deadline.into(), starting).await;
        started.unwrap_or_else(|_| Err(QueryError::timed_out(self.timeout())))
    }

    async fn start(
        &self,
        statement: Statement,
        id: String,
        events: EventLog,
        deadline: Instant,
    ) -> Result<RunningStatement, QueryError> {
        let query = self.for_query();
        let Statement { sql, wanted } = statement;
        let (logical, names) = query.logical_plan(*sql).await?;
        let logical = query.executed(logical)?;
        let mut running = RunningStatement {
            session: query.clone(),
            id,
            schema: Arc::new(Schema::empty()),
            names,
            stream: None,
            events,
            deadline,
            rows: 0,
            is_silent: matches!(logical, LogicalPlan::Ddl(_) | LogicalPlan::Statement(_)),
            fallback: None,
            again: None,
            sort_merge_joins: false,
            lent: None,
            attempts: None,
            budget: None,
            creating: None,
        };
        if self.change_option(&logical)? || self.change_prepared(&logical)? {
            return Ok(running);
        }
        match logical {
            logical if wanted.is_cost_of(&logical)? => {
                let logical = match logical {
                    LogicalPlan::Explain(explain) => Arc::unwrap_or_clone(explain.plan),
                    logical => logical,
                };
                let planner = query.planner();
                let quoted = Box::pin(planner.quote(query.context.state(), &logical)).await;
                let (decision, quote) = quoted.map_err(QueryError::from_engine)?;
                running.schema = explain::cost_schema();
                running.stream = Some(explain::cost_rows(&quote).map_err(QueryError::from_engine)?);
                running.events.push(QueryEvent::Planned { decision });
                running.events.push(QueryEvent::Quoted { quote: Box::new(quote) });
            }
            LogicalPlan::Explain(explain) => {
                let text = query.explain_plan(&explain.plan).await?;
                running.schema = Arc::new(explain.schema.as_arrow().clone());
                running.stream = Some(explain::as_rows(&running.schema, &text).map_err(QueryError::from_engine)?);
            }
            LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) => {
                if query.is_to_create(&create).await? {
                    Box::pin(running.begin(create.input.as_ref().clone())).await?;
                    running.creating = Some(create);
                }
            }
            LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => {
                // Settings are the session's; what a table is made from is read by the query.
                let context = if matches!(logical, LogicalPlan::Ddl(_)) { &query.context } else { &self.context };
                let done = tables_only(context.execute_logical_plan(logical)).await;
                let done = done.map_err(QueryError::from_engine)?;
                // Has no rows, but an error where the engine has only parsed the statement.
                running.stream = Some(done.execute_stream().await.map_err(QueryError::from_engine)?);
            }
            query => Box::pin(running.begin(query)).await?,
        }
        Ok(running)
    }

    /// How a statement would run, in words.
    pub async fn explain(&self, statement: Statement) -> Result<String, QueryError> {
        let session = self.for_query();
        let explaining = async move {
            let (logical, _) = session.logical_plan(*statement.sql).await?;
            let logical = match session.executed(logical)? {
                LogicalPlan::Explain(explain) => Arc::unwrap_or_clone(explain.plan),
                logical => logical,
            };
            session.explain_plan(&logical).await
        };
        self.engine.workers.run(explaining).await
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
        Ok(explain::explain(&planned.map_err(QueryError::from_engine)?, &self.config))
    }

    async fn query_context(
        &self,
        id: &str,
        size: &FunctionSize,
        events: &EventLog,
        deadline: Instant,
        budget: Option<Arc<Cap>>,
    ) -> Result<QueryContext, QueryError> {
        let scheduler = self.engine.schedulers.of(&self.engine.fleet, size).await?;
        Ok(QueryContext {
            id: id.to_owned(),
            attempts: scheduler.query(events.clone(), Clock::start(), deadline.into(), budget),
            exchange: self.exchange().through(&self.stores).map_err(QueryError::from_engine)?,
            limits: size.limits,
            credentials: self.engine.fleet.credentials(&self.stores).await,
            options: function_options(self.context.state().config()),
        })
    }
}

/// Session settings that change what a function computes, where they differ from the defaults.
fn function_options(config: &SessionConfig) -> BTreeMap<String, String> {
    let defaults = SessionConfig::new();
    let default = |key: &str| defaults.options().entries().into_iter().find(|e| e.key == key).and_then(|e| e.value);
    let relevant = ["datafusion.execution.batch_size", "datafusion.execution.time_zone"];
    let entries = config.options().entries().into_iter().filter(|entry| relevant.contains(&entry.key.as_str()));
    entries.filter(|e| e.value != default(&e.key)).filter_map(|entry| Some((entry.key, entry.value?))).collect()
}

impl RunningStatement {
    /// Names the statement, in its functions' log and in the history.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The columns of its rows, as the plan that makes them declares them. Names may come twice.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether this is a statement that only changes the session, and has no rows to show. A query has, also without columns.
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// When the statement is stopped.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The statement is over: its time has passed.
    pub fn timed_out(&mut self) -> QueryError {
        self.stream = None;
        self.failed(QueryError::timed_out(self.session.timeout()))
    }

    /// The next rows; None at the end.
    ///
    /// # Errors
    /// After an error the statement is over; [`RunningStatement::finish`] still has to be called.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        let span = self.events.span().clone();
        let next = async {
            match self.creating.take() {
                Some(create) => Box::pin(self.create(create)).await.map(|()| None),
                None => self.next_batch().await,
            }
        };
        next.instrument(span).await
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        let Some(stream) = self.stream.as_mut() else { return Ok(None) };
        let budget = self.budget.clone();
        let over = async {
            match budget {
                Some(budget) => budget.passed().await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            biased;
            over = over => {
                self.stream = None;
                return Err(self.failed(QueryError::over_cap(over)));
            }
            next = tokio::time::timeout_at(self.deadline.into(), stream.next()) => next,
        };
        let Ok(next) = next else { return Err(self.timed_out()) };
        match next {
            Some(Ok(batch)) => {
                self.rows += batch.num_rows() as u64;
                Ok(Some(batch))
            }
            None => {
                self.stream = None;
                Ok(None)
            }
            Some(Err(error)) => {
                if ran_out_of_time(&error) {
                    return Err(self.timed_out());
                }
                self.stream = None;
                match ran_out_of_memory_here(&error) {
                    true => Box::pin(self.plan_again(QueryError::from_engine(error))).await?,
                    false => Box::pin(self.fall_back(QueryError::from_engine(error))).await?,
                }
                Box::pin(self.next_batch()).await
            }
        }
    }

    /// Cleans up and closes the event log. To be called whether the statement succeeded, failed or was given up.
    ///
    /// What attempts that are still busy write later is removed when the session is closed.
    pub async fn finish(self) -> EventLog {
        let span = self.events.span().clone();
        self.end().instrument(span).await
    }

    async fn end(mut self) -> EventLog {
        self.stream = None;
        if let Some(attempts) = self.attempts.take() {
            attempts.close();
            clean_after(self.session.clone(), self.id.clone(), attempts, self.settled()).await;
        }
        self.events.push(QueryEvent::CoordinatorRead { usage: self.session.stores.usage() });
        self.events.push(QueryEvent::Finished { rows: self.rows });
        self.events
    }

    /// Whether no attempt can write any more, and whether none has written anything.
    fn settled(&self) -> (bool, bool) {
        let (mut started, mut ended, mut wrote_nothing, mut published) = (0, 0, 0, false);
        for stamped in self.events.snapshot() {
            match stamped.event {
                QueryEvent::PlanPublished { .. } => published = true,
                QueryEvent::AttemptStarted { .. } => started += 1,
                QueryEvent::AttemptEnded { outcome: AttemptOutcome::Cancelled, .. } => {}
                QueryEvent::AttemptEnded { outcome, .. } => {
                    ended += 1;
                    let nothing = matches!(outcome, AttemptOutcome::Done { usage, .. } if usage.bytes_written == 0);
                    wrote_nothing += usize::from(nothing);
                }
                _ => {}
            }
        }
        (ended == started, !published && wrote_nothing == started)
    }

    /// Starts a query where it is decided to run.
    async fn begin(&mut self, logical: LogicalPlan) -> Result<(), QueryError> {
        let cap = self.session.cost_max();
        if cap.is_some() {
            self.session.tariff_for_cap().await?;
        }
        let planned = self.session.planner().plan(self.session.context.state(), &logical).await;
        let ready = planned.map_err(QueryError::from_engine)?;
        if let Some(cap) = cap {
            self.budget = Some(self.session.budget(cap, &ready, self.events.clone()).await?);
        }
        self.events.push(QueryEvent::Planned { decision: ready.decision.clone() });
        let remote = ready.functions.is_some();
        let may_fall_back = self.session.target() == Target::Auto || self.session.config.allow_fallback;
        self.schema = shown(&ready.plan.schema(), &logical, &self.names);
        self.again = Replan::of(&ready, &logical);
        self.fallback = (remote && may_fall_back).then_some(logical);
        match self.execute(ready).await {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(())
            }
            Err(error) => Box::pin(self.fall_back(error)).await,
        }
    }

    async fn execute(&mut self, planned: PlannedQuery) -> Result<SendableRecordBatchStream, QueryError> {
        let PlannedQuery { state, plan, functions, .. } = planned;
        let mut context = TaskContext::from(&state);
        if let Some(OnFunctions { stages, packed: PackedSize { size, .. }, at_once, .. }) = functions {
            self.session.engine.may_leave(&self.id);
            let query = match self.lent.take() {
                Some(query) => query,
                None => {
                    let budget = self.budget.clone();
                    let lending = self.session.query_context(&self.id, &size, &self.events, self.deadline, budget);
                    Arc::new(lending.await?)
                }
            };
            self.lent = Some(Arc::clone(&query));
            self.attempts = Some(query.attempts.clone());
            let files = stages.iter().flat_map(|stage| stage.files());
            self.session.engine.fleet.hands_out(&size, at_once, files);
            let config = context.session_config().clone().with_extension(query);
            context = context.with_session_config(config);
        }
        start_stream(plan, context)
    }

    /// Runs the statement locally instead, if that is allowed, can help and no row has been seen yet.
    async fn fall_back(&mut self, error: QueryError) -> Result<(), QueryError> {
        let allowed = self.rows == 0 && error.may_succeed_locally();
        let Some(logical) = self.fallback.take().filter(|_| allowed) else { return Err(self.failed(error)) };
        self.events.push(QueryEvent::FellBack { reason: error.to_string() });
        self.released().await;
        let (session, state) = (self.session.clone(), self.session.planning_state(self.sort_merge_joins));
        let planned = logical.clone();
        let locally = async move {
            let decision = Decision::local(Reason::Requested, Workload::default());
            let ready = session.planner().here(state, &planned, decision).await;
            let ready = ready.map_err(QueryError::from_engine)?;
            let stream = start_stream(Arc::clone(&ready.plan), TaskContext::from(&ready.state))?;
            Ok((ready, stream))
        };
        let (ready, stream) = self.planned_in_time(locally).await?;
        self.announced(&ready)?;
        if !self.sort_merge_joins {
            self.again = Replan::of(&ready, &logical);
        }
        self.stream = Some(stream);
        Ok(())
    }

    /// Plans once more, until the deadline.
    async fn planned_in_time<T: Send + 'static>(
        &mut self,
        planning: impl Future<Output = Result<T, QueryError>> + Send + 'static,
    ) -> Result<T, QueryError> {
        let planning = self.session.engine.workers.run(planning);
        match tokio::time::timeout_at(self.deadline.into(), planning).await {
            Ok(planned) => planned.map_err(|error| self.failed(error)),
            Err(_) => Err(self.timed_out()),
        }
    }

    /// Another plan of the query makes the columns that were announced.
    fn announced(&self, ready: &PlannedQuery) -> Result<(), QueryError> {
        same_columns(&self.schema, &ready.plan.schema()).map_err(|error| self.failed(QueryError::from_engine(error)))
    }

    fn failed(&self, error: QueryError) -> QueryError {
        self.events.push(QueryEvent::Failed { message: error.to_string() });
        error
    }
}

/// The columns that a physical plan makes, under the names that the statement gives them.
fn shown(made: &Schema, logical: &LogicalPlan, names: &Names) -> SchemaRef {
    let named = logical.schema().fields().iter().map(|field| Some(field.name()));
    let fields = made.fields().iter().zip(named.chain(std::iter::repeat(None))).map(|(field, named)| {
        let name = names.shown(named.unwrap_or(field.name()));
        Arc::new(field.as_ref().clone().with_name(name))
    });
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), made.metadata().clone()))
}

/// Two plans of one query have columns of equal types. The first may have been announced already.
fn same_columns(announced: &Schema, planned: &Schema) -> Result<(), DataFusionError> {
    let types = |schema: &Schema| schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>();
    let (announced, planned) = (types(announced), types(planned));
    if announced == planned {
        return Ok(());
    }
    Err(DataFusionError::Internal(format!(
        "the columns of the first plan are {announced:?}, of the second they are {planned:?}"
    )))
}

/// Removes what the attempts wrote: now, and again when the last of them can write no more.
async fn clean_after(session: Session, id: String, attempts: QueryAttempts, (all_ended, wrote_nothing): (bool, bool)) {
    let engine = session.engine.clone();
    let exchange = engine.exchange();
    // Without stores of the query's it is cleaned all the same.
    let exchange = exchange.through(&session.stores).unwrap_or_else(|_| exchange.clone());
    if !wrote_nothing {
        let (engine, query, exchange) = (engine.clone(), id.clone(), exchange.clone());
        let cleaning = session.engine.workers.run(async move { engine.clean(&query, &exchange).await });
        if tokio::time::timeout(CLEANING_MAX, cleaning).await.is_err() {
            tracing::warn!(query = id, "the exchange was not cleaned: every thread is busy");
        }
    }
    if all_ended {
        engine.has_settled(&id);
        return;
    }
    let workers = engine.workers.clone();
    let later = async move {
        attempts.ended().await;
        engine.clean(&id, &exchange).await;
        engine.has_settled(&id);
    };
    workers.handle().spawn(later.in_current_span());
}

/// Runs a plan in a task of its own: an operator that computes for minutes without a pause must not hold up a time-out.
fn start_stream(plan: Arc<dyn ExecutionPlan>, context: TaskContext) -> Result<SendableRecordBatchStream, QueryError> {
    let mut rows = RecordBatchReceiverStream::builder(plan.schema(), 2);
    let sender = rows.tx();
    let plan = naming_files(plan).map_err(QueryError::from_engine)?;
    let mut stream = execute_stream(plan, Arc::new(context)).map_err(QueryError::from_engine)?;
    let running = async move {
        while let Some(batch) = AssertUnwindSafe(stream.next())
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Some(Err(DataFusionError::Execution(panicked(&*panic)))))
        {
            // A stream that failed is over: some operators panic when they are asked again.
            let failed = batch.is_err();
            if sender.send(batch).await.is_err() || failed {
                break;
            }
        }
        Ok(())
    };
    rows.spawn(running.in_current_span());
    Ok(rows.build())
}

/// A fault of the program's, which ends the statement alone.
fn panicked(panic: &(dyn Any + Send)) -> String {
    let message = panic_message(panic);
    format!(
        "the engine panicked: {message}\nhint: this is a fault of gust's, not of the statement; a report of it is welcome"
    )
}
