//! Runs a statement and follows it to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;
use futures::StreamExt;
use gust_protocol::Usage;
use uuid::Uuid;

use super::Session;
use super::error::QueryError;
use super::plan::Ready;
use crate::config::Target;
use crate::event::{AttemptOutcome, EventLog, QueryEvent};
use crate::exec::QueryContext;
use crate::explain;
use crate::scheduler::AttemptContext;

/// A statement on its way: its rows, and what happened so far.
pub struct Running {
    session: Session,
    id: String,
    schema: SchemaRef,
    stream: Option<SendableRecordBatchStream>,
    events: EventLog,
    before: Usage,
    deadline: Instant,
    rows: u64,
    is_silent: bool,
    /// What to run instead if functions fail before the first row.
    fallback: Option<LogicalPlan>,
}

impl Session {
    /// Plans a statement and starts it. Statements that only change the session have an empty result.
    pub async fn run(&self, statement: Statement) -> Result<Running, QueryError> {
        let deadline = Instant::now() + self.timeout();
        let events = EventLog::start();
        let started = tokio::time::timeout_at(deadline.into(), Box::pin(self.start(statement, events, deadline)));
        started.await.unwrap_or_else(|_| Err(QueryError::TimedOut(self.timeout())))
    }

    async fn start(&self, statement: Statement, events: EventLog, deadline: Instant) -> Result<Running, QueryError> {
        let before = self.coordinator_usage();
        let id = Uuid::now_v7().simple().to_string();
        let logical = self.logical_plan(statement).await?;
        let mut running = Running {
            session: self.clone(),
            id,
            schema: Arc::new(logical.schema().as_arrow().clone()),
            stream: None,
            events,
            before,
            deadline,
            rows: 0,
            is_silent: matches!(logical, LogicalPlan::Ddl(_) | LogicalPlan::Statement(_)),
            fallback: None,
        };
        match logical {
            LogicalPlan::Explain(explain) => {
                let text = self.explain_plan(&explain.plan).await?;
                running.stream = Some(explain::as_rows(&running.schema, &text).map_err(QueryError::from_engine)?);
            }
            LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => {
                let done = self.context.execute_logical_plan(logical).await.map_err(QueryError::from_engine)?;
                running.stream = Some(done.execute_stream().await.map_err(QueryError::from_engine)?);
            }
            query => running.begin(query).await?,
        }
        Ok(running)
    }

    /// How a statement would run, in words.
    pub async fn explain(&self, statement: Statement) -> Result<String, QueryError> {
        let logical = match self.logical_plan(statement).await? {
            LogicalPlan::Explain(explain) => Arc::unwrap_or_clone(explain.plan),
            logical => logical,
        };
        self.explain_plan(&logical).await
    }

    async fn explain_plan(&self, logical: &LogicalPlan) -> Result<String, QueryError> {
        let ready = self.ready(logical).await?;
        Ok(explain::explain(&ready, &self.config))
    }

    /// What the coordinator's own stores have been asked for since the session began.
    fn coordinator_usage(&self) -> Usage {
        let counters = self.stores.counters();
        Usage {
            requests: counters.requests(),
            bytes_read: counters.bytes_read(),
            bytes_written: counters.bytes_written(),
            ..Usage::default()
        }
    }

    async fn query_context(&self, id: &str, events: &EventLog, deadline: Instant) -> Result<QueryContext, QueryError> {
        let target = match self.target() {
            Target::Auto => Target::Processes,
            target => target,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        Ok(QueryContext {
            id: id.to_owned(),
            scheduler: self.functions.scheduler(target).await?,
            attempts: AttemptContext { events: events.clone(), deadline: SystemTime::now() + left },
            exchange: self.functions.exchange().clone(),
            limits: self.functions.limits(),
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

impl Running {
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether this is a statement that only changes the session.
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
        self.failed(QueryError::TimedOut(self.session.timeout()))
    }

    /// The next rows; None at the end.
    ///
    /// # Errors
    /// After an error the statement is over; [`Running::finish`] still has to be called.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        let Some(stream) = self.stream.as_mut() else { return Ok(None) };
        let next = tokio::time::timeout_at(self.deadline.into(), stream.next()).await;
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
                self.stream = None;
                let error = self.failed(QueryError::from_engine(error));
                self.fall_back(error).await?;
                Box::pin(self.next()).await
            }
        }
    }

    /// Cleans up and closes the event log. To be called whether the statement succeeded, failed or was given up.
    pub async fn finish(mut self) -> EventLog {
        self.stream = None;
        let wrote = self.events.snapshot().into_iter().any(|stamped| match stamped.event {
            QueryEvent::FragmentAdopted { inline, .. } => !inline,
            QueryEvent::AttemptEnded { outcome, .. } => !matches!(outcome, AttemptOutcome::Done { .. }),
            _ => false,
        });
        if wrote && let Err(error) = self.session.functions.exchange().clean(&self.id).await {
            tracing::warn!(query = self.id, %error, "the exchange could not be cleaned");
        }
        let (now, before) = (self.session.coordinator_usage(), self.before);
        self.events.push(QueryEvent::CoordinatorRead { usage: difference(now, before) });
        self.events.push(QueryEvent::Finished { rows: self.rows });
        self.events
    }

    /// Starts a query where it is decided to run.
    async fn begin(&mut self, logical: LogicalPlan) -> Result<(), QueryError> {
        let ready = self.session.ready(&logical).await?;
        self.events.push(QueryEvent::Planned { decision: ready.decision.clone() });
        let remote = ready.planned.as_ref().is_some_and(|planned| !planned.stages.is_empty());
        let may_fall_back = self.session.target() == Target::Auto || self.session.config.allow_fallback;
        self.fallback = (remote && may_fall_back).then_some(logical);
        match self.execute(ready, remote).await {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(())
            }
            Err(error) => {
                let error = self.failed(error);
                self.fall_back(error).await
            }
        }
    }

    async fn execute(&self, ready: Ready, remote: bool) -> Result<SendableRecordBatchStream, QueryError> {
        let Ready { state, plan, .. } = ready;
        let mut context = TaskContext::from(&state);
        if remote {
            let query = self.session.query_context(&self.id, &self.events, self.deadline).await?;
            let config = context.session_config().clone().with_extension(Arc::new(query));
            context = context.with_session_config(config);
        }
        execute_stream(plan, Arc::new(context)).map_err(QueryError::from_engine)
    }

    /// Runs the statement locally instead, if that is allowed, can help and no row has been seen yet.
    async fn fall_back(&mut self, error: QueryError) -> Result<(), QueryError> {
        let allowed = self.rows == 0 && error.may_succeed_locally();
        let Some(logical) = self.fallback.take().filter(|_| allowed) else { return Err(error) };
        self.events.push(QueryEvent::FellBack { reason: error.to_string() });
        let state = self.session.context.state();
        let plan = state.create_physical_plan(&logical).await.map_err(QueryError::from_engine)?;
        let stream = execute_stream(plan, Arc::new(TaskContext::from(&state))).map_err(QueryError::from_engine)?;
        self.stream = Some(stream);
        Ok(())
    }

    fn failed(&self, error: QueryError) -> QueryError {
        self.events.push(QueryEvent::Failed { message: error.to_string() });
        error
    }
}

fn difference(now: Usage, before: Usage) -> Usage {
    let mut usage = now;
    usage.requests.get -= before.requests.get;
    usage.requests.head -= before.requests.head;
    usage.requests.list -= before.requests.list;
    usage.requests.put -= before.requests.put;
    usage.requests.delete -= before.requests.delete;
    usage.bytes_read -= before.bytes_read;
    usage.bytes_written -= before.bytes_written;
    usage
}
