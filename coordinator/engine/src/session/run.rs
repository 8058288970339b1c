//! Runs a statement and follows it to its end.
//!
//! ```text
//!  plan ([`start`]) ──► execute ([`stream`]) ──► rows ──► [`closing`]
//!    ▲                    │ functions fail, no row was seen: once more, locally
//!    └────────────────────┤ memory is full, or rows between functions are lost, and no row was seen: once more ([`replan`])
//!                         └ CREATE TABLE AS: the rows are a table's ([`create`]); EXPLAIN ANALYZE: they are dropped ([`analyze`])
//! ```

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{CreateMemoryTable, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use fragment_fn::ahead::AheadAccount;
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::Session;
use super::classify::{lost_rows, ran_out_of_memory_here, ran_out_of_memory_there, ran_out_of_time};
use super::copy::CopyTarget;
use crate::cap::{Cap, OverCap, Purse};
use crate::config::Target;
use crate::error::QueryError;
use crate::events::{EventLog, QueryEvent};
use crate::exec::QueryContext;
use crate::model::{Decision, Reason, Workload};
use crate::money::Money;
use crate::planner::loads::memory::unspillable_bytes;
use crate::planner::{FunctionsPlan, PackedSize, PlannedQuery};
use crate::resume::WorkLog;
use crate::scheduler::QueryAttempts;
use crate::sql::Names;
use crate::tables::folder::Listings;
use crate::tables::iceberg::ScanPlans;
use analyze::Analyzing;
use computing::Computing;
use kept::{KeptRuns, gathered};
use replan::Replan;
pub(super) use start::NewStatement;
use stream::Started;
pub(super) use turns::Turns;

mod analyze;
mod closing;
mod computing;
mod create;
mod interrupt;
mod kept;
mod replan;
mod start;
mod stream;
mod turns;

/// Memory that planned queries wait for, where several run side by side.
pub trait MemoryGate: Debug + Send + Sync {
    /// Waits until so many bytes are free beyond what each query is sure of. They are the query's own until the value is dropped.
    ///
    /// # Errors
    /// Too many wait already.
    fn claim(&self, bytes: u64) -> BoxFuture<'_, Result<ClaimedMemory, QueryError>>;
}

/// Memory that a query has claimed, until it is dropped.
pub type ClaimedMemory = Box<dyn Send + Sync>;

/// Statement on its way, with its rows and its events so far.
pub struct RunningStatement {
    session: Session,
    id: String,
    schema: SchemaRef,
    /// Columns of the first plan's rows.
    made: SchemaRef,
    names: Names,
    stream: Option<SendableRecordBatchStream>,
    events: EventLog,
    deadline: Instant,
    rows: u64,
    is_silent: bool,
    /// Query to run locally if functions fail before the first row.
    fallback: Option<LogicalPlan>,
    /// Listings that its plan was made before, and the query to plan anew if they have changed.
    unconfirmed: Option<Box<(Arc<Listings>, LogicalPlan)>>,
    /// Query to plan again with sort-merge joins if the coordinator's memory does not suffice before the first row.
    replan: Option<Replan>,
    /// True if it has been planned again with sort-merge joins.
    sort_merge_joins: bool,
    /// True if it has begun anew because rows between functions were lost.
    restarted: bool,
    /// Context that all runs on functions share.
    functions: Option<Arc<QueryContext>>,
    /// Attempts of its fragments, of each size of functions that it has used.
    attempts: Vec<ClosedAtEnd>,
    /// Cap of the query; None if its cost has no limit.
    cap: Option<Arc<Cap>>,
    /// Task that tells its budgets what it spends, also while nobody reads its rows.
    watched: Option<AbortOnDropHandle<()>>,
    /// Table that the rows are for, if it is CREATE TABLE AS.
    creating: Option<CreateMemoryTable>,
    /// Description of the run that stands for the rows, if it is EXPLAIN ANALYZE.
    analyzing: Option<Box<Analyzing>>,
    /// File that the rows are for, if it is COPY … TO and nobody has taken it on.
    copying: Option<CopyTarget>,
    /// True if its rows are to stay in the exchange.
    keeps_rows: bool,
    /// Objects in which functions leave its rows.
    kept: KeptRuns,
    /// Account of what the coordinator has read ahead for it, and waited for.
    ahead: Arc<AheadAccount>,
    /// Tasks that compute for it. They may outlive it.
    computing: Computing,
    /// Gate where it waits for memory once it is planned, and once it is planned for another place.
    gate: Option<Arc<dyn MemoryGate>>,
    /// Memory that its plan has claimed there.
    memory: Option<ClaimedMemory>,
    /// Purse of the budgets that its user shares.
    purse: Option<Arc<Purse>>,
    /// Log of its work, if another coordinator may go on with it.
    work: Option<Arc<WorkLog>>,
}

/// Attempts of a statement that are closed when it is dropped, by whichever way it ends.
struct ClosedAtEnd(QueryAttempts);

impl Drop for ClosedAtEnd {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl RunningStatement {
    /// Returns the statement's id, which its functions' log and the history have, too.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the columns of its rows. The plan that makes the rows gives their types, the statement their names. Two
    /// may have one name.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the file that the rows of a COPY are for, once. The caller writes it; nobody reads the rows before.
    pub fn take_copy_target(&mut self) -> Option<CopyTarget> {
        self.copying.take()
    }

    /// Returns true for a statement that has no rows to show: it only changes the session, or writes a file. A query has
    /// rows to show, even without columns.
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// Returns the account of what the coordinator reads ahead, and waits for. It is complete once the statement has finished.
    pub fn read_ahead_account(&self) -> Arc<AheadAccount> {
        Arc::clone(&self.ahead)
    }

    /// Returns the time at which the statement is stopped.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Ends the statement because its time has passed. Returns the error to report.
    pub fn timed_out(&mut self) -> QueryError {
        self.stream = None;
        self.failed(QueryError::timed_out(self.session.timeout()))
    }

    /// Ends the statement because its rows could not be written, for the reason that its report gives.
    pub fn not_written(&mut self, reason: &dyn std::fmt::Display) {
        self.stream = None;
        self.failed(QueryError::data(reason.to_string()));
    }

    /// Returns the next rows; None at the end.
    ///
    /// # Errors
    /// Any error of the query. The statement is then over, and [`RunningStatement::finish`] still has to be called.
    #[expect(clippy::should_implement_trait, reason = "it waits, as no Iterator does")]
    pub fn next(&mut self) -> BoxFuture<'_, Result<Option<RecordBatch>, QueryError>> {
        Box::pin(async move {
            let span = self.events.span().clone();
            let next = async {
                if let Some(target) = self.copying.take() {
                    self.stream = None;
                    let message = format!("COPY TO `{}`: no file is written here", target.path.display());
                    return Err(self.failed(QueryError::sql(message).with_hint("run it as a statement of its own")));
                }
                match self.creating.take() {
                    Some(create) => Box::pin(self.create(create)).await.map(|()| None),
                    None if self.analyzing.is_some() => Box::pin(self.analyze()).await,
                    None => self.next_batch().await,
                }
            };
            next.instrument(span).await
        })
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        if let Some(unconfirmed) = self.unconfirmed.take() {
            Box::pin(self.confirm(unconfirmed)).await?;
        }
        let Some(stream) = self.stream.as_mut() else { return Ok(None) };
        let next = tokio::select! {
            biased;
            over = passed(self.cap.clone()) => {
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
                self.rows += self.kept_rows();
                Ok(None)
            }
            Some(Err(error)) => {
                if ran_out_of_time(&error) {
                    return Err(self.timed_out());
                }
                self.stream = None;
                // Its operators may hold memory that another run needs.
                if let Some(analyzing) = &mut self.analyzing {
                    analyzing.forget_plan();
                }
                let (is_short, is_lost) = (ran_out_of_memory_here(&error), lost_rows(&error));
                let is_short_there = ran_out_of_memory_there(&error);
                let error = QueryError::from_engine(error);
                if is_short {
                    Box::pin(self.replan_after(error)).await?;
                } else if is_short_there {
                    Box::pin(self.replan_functions_after(error)).await?;
                } else if is_lost {
                    Box::pin(self.restart_after(error)).await?;
                } else {
                    Box::pin(self.fall_back(error)).await?;
                }
                Box::pin(self.next_batch()).await
            }
        }
    }

    /// Plans a query and starts it at the place that the planner chose.
    async fn begin(&mut self, logical: LogicalPlan) -> Result<(), QueryError> {
        let mut limits = self.session.limits(self.purse.as_ref());
        if let Some(limits) = &mut limits {
            let tariff = self.session.tariff_for_cap().await?;
            // Budgets have paid what an earlier coordinator held.
            let inherited = self.work.as_ref().map_or(Money::ZERO, |work| work.inherited_money(&tariff));
            limits.own = limits.own.saturating_sub(inherited);
        }
        let mut planner = self.session.planner();
        let mut state = self.session.context.state();
        if let Some(work) = &self.work {
            planner.settings.packed = work.packed();
            state.execution_props_mut().query_execution_start_time = work.now();
        }
        let listings = Listings::of(&state);
        // Work that another coordinator goes on with has no second plan.
        if self.work.is_none() {
            listings.hope();
        }
        let mut planned = planner.plan(state.clone(), &logical).await;
        // Functions, caps and errors are for files that are there.
        let is_soon = limits.is_some() || planned.as_ref().map_or(true, |planned| planned.functions.is_some());
        if is_soon && !listings.confirmed().await {
            listings.forget();
            planned = planner.plan(state, &logical).await;
        }
        let planned = planned.map_err(QueryError::from_engine)?;
        self.unconfirmed = (!is_soon).then(|| Box::new((listings, logical.clone())));
        if let Some(limits) = limits {
            let cap = self.session.open_cap(limits, &planned, self.events.clone()).await?;
            self.watched = self.purse.as_ref().map(|_| AbortOnDropHandle::new(tokio::spawn(Arc::clone(&cap).watch())));
            self.cap = Some(cap);
        }
        self.memory = claimed(self.gate.as_deref(), &self.session, &self.events, &planned.plan).await?;
        self.made = planned.plan.schema();
        if self.analyzing.is_none() {
            self.schema = shown(&self.made, &logical, &self.names);
        }
        Box::pin(self.start_planned(planned, logical)).await
    }

    /// Starts a query at the place that the planner chose.
    async fn start_planned(&mut self, planned: PlannedQuery, logical: LogicalPlan) -> Result<(), QueryError> {
        self.events.push(QueryEvent::Planned { decision: planned.decision.clone() });
        let remote = planned.functions.is_some();
        let may_fall_back = self.session.target() == Target::Auto || self.session.config.allow_fallback;
        self.replan = Replan::of(&planned, &logical);
        self.fallback = (remote && may_fall_back).then_some(logical);
        match self.execute(planned).await {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(())
            }
            Err(error) => Box::pin(self.fall_back(error)).await,
        }
    }

    async fn execute(&mut self, planned: PlannedQuery) -> Result<SendableRecordBatchStream, QueryError> {
        if let Some(analyzing) = &mut self.analyzing {
            analyzing.note_stages(&planned);
        }
        let PlannedQuery { state, mut plan, functions, .. } = planned;
        Listings::of(&state).forget();
        ScanPlans::forget(&state);
        let mut context = TaskContext::from(&state);
        if let Some(functions) = functions {
            self.session.engine.may_leave(&self.id);
            if let Some(work) = &self.work {
                work.is_packed(functions.packed_as());
            }
            let FunctionsPlan { stages, packed: PackedSize { size, .. }, at_once, .. } = functions;
            // Larger functions have a context of their own.
            let query = match self.functions.take().filter(|query| query.limits == size.limits) {
                Some(query) => query,
                None => {
                    let (cap, work) = (self.cap.clone(), self.work.clone());
                    let opening = self.session.query_context(&self.id, &size, &self.events, self.deadline, cap, work);
                    let query = Arc::new(opening.await?);
                    self.attempts.push(ClosedAtEnd(query.attempts.clone()));
                    query
                }
            };
            self.functions = Some(Arc::clone(&query));
            let files = stages.iter().flat_map(|stage| stage.files());
            self.session.engine.fleet.note_handout(&size, at_once, files);
            let config = context.session_config().clone().with_extension(query);
            context = context.with_session_config(config);
        }
        self.kept.give_up();
        if let Some(leaf) = gathered(&plan, &self.schema).filter(|_| self.keeps_rows) {
            plan = leaf.keeping(self.kept.begin());
        }
        let started = stream::start(&self.session.engine, plan, context, &self.ahead, &self.computing)?;
        Ok(self.rows_of(started))
    }

    /// Returns the rows of a plan that has begun.
    fn rows_of(&mut self, Started { rows, plan }: Started) -> SendableRecordBatchStream {
        if let Some(analyzing) = &mut self.analyzing {
            analyzing.note_plan(plan);
        }
        rows
    }

    /// Runs the statement locally instead, if that is allowed, may help, and no row has been seen yet. Else it returns
    /// the error.
    async fn fall_back(&mut self, error: QueryError) -> Result<(), QueryError> {
        let allowed = self.rows == 0 && error.may_succeed_locally();
        let Some(logical) = self.fallback.take().filter(|_| allowed) else { return Err(self.failed(error)) };
        self.events.push(QueryEvent::fell_back(&error));
        self.kept.give_up();
        self.released().await;
        self.memory = None;
        let (gate, events) = (self.gate.clone(), self.events.clone());
        let (session, state) = (self.session.clone(), self.session.planning_state(self.sort_merge_joins));
        let (query, ahead, computing) = (logical.clone(), Arc::clone(&self.ahead), self.computing.clone());
        let locally = async move {
            let decision = Decision::local(Reason::Requested, Workload::default());
            let planned = session.planner().here(state, &query, decision).await;
            let planned = planned.map_err(QueryError::from_engine)?;
            ScanPlans::forget(&planned.state);
            let memory = claimed(gate.as_deref(), &session, &events, &planned.plan).await?;
            let context = TaskContext::from(&planned.state);
            let started = stream::start(&session.engine, Arc::clone(&planned.plan), context, &ahead, &computing)?;
            Ok((planned, started, memory))
        };
        let (planned, started, memory) = self.planned_in_time(locally).await?;
        self.memory = memory;
        self.announced(&planned)?;
        if !self.sort_merge_joins {
            self.replan = Replan::of(&planned, &logical);
        }
        self.stream = Some(self.rows_of(started));
        Ok(())
    }

    /// Runs a second planning, until the deadline or the cap at most.
    async fn planned_in_time<T: Send + 'static>(
        &mut self,
        planning: impl Future<Output = Result<T, QueryError>> + Send + 'static,
    ) -> Result<T, QueryError> {
        let planning = self.session.engine.workers.run(planning);
        let planned = tokio::select! {
            biased;
            over = passed(self.cap.clone()) => return Err(self.failed(QueryError::over_cap(over))),
            planned = tokio::time::timeout_at(self.deadline.into(), planning) => planned,
        };
        match planned {
            Ok(planned) => planned.map_err(|error| self.failed(error)),
            Err(_) => Err(self.timed_out()),
        }
    }

    /// Checks that another plan of the query makes columns of the announced types.
    fn announced(&self, planned: &PlannedQuery) -> Result<(), QueryError> {
        same_columns(&self.made, &planned.plan.schema()).map_err(|error| self.failed(QueryError::from_engine(error)))
    }

    fn failed(&self, error: QueryError) -> QueryError {
        self.events.push(QueryEvent::failed(&error));
        error
    }
}

/// Claims the memory that a plan is expected to need beyond what its query has whatever others hold. The query has claimed none then: it would
/// wait for its own.
async fn claimed(
    gate: Option<&dyn MemoryGate>,
    session: &Session,
    events: &EventLog,
    plan: &Arc<dyn ExecutionPlan>,
) -> Result<Option<ClaimedMemory>, QueryError> {
    let bytes = unspillable_bytes(plan).saturating_sub(session.engine.memory.share_bytes() as u64);
    let Some(gate) = gate.filter(|_| bytes > 0) else { return Ok(None) };
    events.push(QueryEvent::MemoryWanted { bytes });
    let memory = gate.claim(bytes).await?;
    events.push(QueryEvent::MemoryClaimed { bytes });
    Ok(Some(memory))
}

/// Waits until a query has to end for want of money. One without a cap waits for ever.
async fn passed(cap: Option<Arc<Cap>>) -> OverCap {
    match cap {
        Some(cap) => cap.passed().await,
        None => std::future::pending().await,
    }
}

/// Returns the columns that a physical plan makes, under the names that the statement gives them.
pub(super) fn shown(made: &Schema, logical: &LogicalPlan, names: &Names) -> SchemaRef {
    let named = logical.schema().fields().iter().map(|field| Some(field.name()));
    let columns = made.fields().len();
    let fields =
        made.fields().iter().zip(named.chain(std::iter::repeat(None))).enumerate().map(|(place, (field, named))| {
            let name = names.shown(place, columns, named.unwrap_or(field.name()));
            Arc::new(field.as_ref().clone().with_name(name))
        });
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), made.metadata().clone()))
}

/// Checks that two plans of one query have columns of equal types. The first may have been announced already.
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
