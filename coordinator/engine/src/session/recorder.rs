//! Runs statements and records their outcomes in the history. A failure to record is told in the report. It fails no
//! statement.

use std::sync::{Arc, Mutex, MutexGuard};
use std::vec;

use chrono::Utc;
use futures::future::BoxFuture;
use tokio_util::task::TaskTracker;

use super::run::{MemoryGate, NewStatement};
use super::running::Listed;
use super::{RunningStatement, Session, Statement, TraceParent, text_of};
use crate::cap::Purse;
use crate::config::StatementKept;
use crate::error::QueryError;
use crate::events::{EventLog, QueryEvent, StampedEvent};
use crate::history::{Outcome, RecordInput, Recorded, StatementEnd, StatementMeta};
use crate::memory::machine;
use crate::model::load::OwnUsage;
use crate::money::Money;
use crate::report::Report;
use crate::resume::WorkLog;
use crate::storage::Stores;

/// Runs and records the statements of a session, one after the other.
pub struct Recorder {
    session: Session,
    open: Mutex<Option<OpenRecord>>,
    /// Tasks that plan and compute for the last statement.
    computing: Mutex<TaskTracker>,
    ended: Mutex<Option<EndedStatement>>,
}

/// A statement that has ended, for those who tell of it beside the history.
#[derive(Debug, Clone)]
pub struct EndedStatement {
    pub id: String,
    pub user: Option<String>,
    pub events: EventLog,
    /// Span of the client that asked.
    pub trace_parent: Option<TraceParent>,
}

struct OpenRecord {
    meta: StatementMeta,
    events: EventLog,
    /// Stores that count the statement's reads, even if it never runs or is never finished.
    stores: Stores,
    /// Purse that pays the statement's bill.
    purse: Option<Arc<Purse>>,
    /// Log of its work. What earlier coordinators have spent is paid.
    work: Option<Arc<WorkLog>>,
    _listed: Listed,
}

/// Statement that did not begin to run.
#[derive(Debug)]
pub struct Refused {
    /// Id of the statement, as the history has it.
    pub id: String,
    pub error: QueryError,
    pub report: Report,
}

/// Statements of a text, to be run one after the other.
pub struct Script<'a> {
    recorder: &'a Recorder,
    statements: vec::IntoIter<Statement>,
}

impl Recorder {
    pub fn new(session: Session) -> Self {
        Self { session, open: Mutex::default(), computing: Mutex::default(), ended: Mutex::default() }
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Takes the last statement that has ended. None if it was taken before, or another server has it now.
    pub fn take_ended(&self) -> Option<EndedStatement> {
        self.ended.lock().expect("no holder panics").take()
    }

    /// Returns the user that the history has for the statements.
    pub fn user(&self) -> Option<&str> {
        self.session.config().history.user.as_deref()
    }

    /// Returns the tasks that plan the last statement and compute its rows here. One whose rows are not wanted any more may go on for
    /// minutes.
    pub fn computing(&self) -> TaskTracker {
        self.computing.lock().expect("no holder panics").clone()
    }

    /// Returns a text's statements. In a dry run they are estimated instead of run.
    ///
    /// # Errors
    /// Those of [`Session::parse`].
    pub fn script(&self, text: &str, dry_run: bool) -> Result<Script<'_>, QueryError> {
        let mut statements = self.session.parse(text)?;
        if dry_run {
            statements = statements.into_iter().map(Statement::as_dry_run).collect();
        }
        Ok(Script { recorder: self, statements: statements.into_iter() })
    }

    /// Plans a statement and starts it. The caller reads its rows, and calls [`Recorder::finish`] even if reading
    /// fails.
    ///
    /// # Errors
    /// [`Refused`] if the statement does not begin to run. It is recorded already.
    pub async fn run(&self, statement: Statement) -> Result<RunningStatement, Box<Refused>> {
        self.run_noted(statement, None, None).await
    }

    /// Does the same with a log of the statement's work, which another coordinator may go on with, and a gate where it waits for memory
    /// once it is planned.
    ///
    /// # Errors
    /// Those of [`Recorder::run`].
    pub async fn run_noted(
        &self,
        statement: Statement,
        work: Option<Arc<WorkLog>>,
        gate: Option<Arc<dyn MemoryGate>>,
    ) -> Result<RunningStatement, Box<Refused>> {
        let mut new = self.begin(&statement, work);
        new.gate = gate;
        let id = new.id.clone();
        match new.run(statement).await {
            Ok(running) => Ok(running),
            Err(error) => {
                let report = self.refused(&error).await;
                Err(Box::new(Refused { id, error, report }))
            }
        }
    }

    /// Records a statement that is not run, with what earlier coordinators have spent on it. Without a statement the record has the text.
    /// Returns its report.
    pub async fn refuse(
        &self,
        statement: Option<&Statement>,
        text: &str,
        work: Arc<WorkLog>,
        error: &QueryError,
    ) -> Report {
        drop(match statement {
            Some(statement) => self.begin(statement, Some(work)),
            None => self.begin_text(text.to_owned(), Vec::new(), Some(work)),
        });
        self.refused(error).await
    }

    /// Runs a statement to its end and drops its rows. If it paid for reads, or failed, it is recorded and has a report.
    pub(super) async fn run_unshown(self: Arc<Self>, statement: Statement) -> (Option<Report>, Result<(), QueryError>) {
        let new = self.begin(&statement, None);
        let stores = new.stores().clone();
        let is_paid = || stores.billed_usage().requests.total() > 0;
        let mut running = match new.run(statement).await {
            Ok(running) => running,
            Err(error) => return (Some(self.refused(&error).await), Err(error)),
        };
        let ended = loop {
            match running.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        running.finish().await;
        let end = match &ended {
            Ok(()) => StatementEnd { outcome: Outcome::Done, message: None },
            Err(error) => error.into(),
        };
        if is_paid() || ended.is_err() {
            return (Some(self.end(&end).await), ended);
        }
        // Nothing is under way any more.
        drop(self.open().take());
        (None, ended)
    }

    /// Opens the record of a statement.
    fn begin(&self, statement: &Statement, work: Option<Arc<WorkLog>>) -> NewStatement {
        self.begin_text(text_of(statement), self.session.tables_of(statement), work)
    }

    fn begin_text(&self, statement: String, tables: Vec<String>, work: Option<Arc<WorkLog>>) -> NewStatement {
        let history = &self.session.config().history;
        let new = self.session.new_statement(work.clone());
        let meta = StatementMeta {
            id: new.id.clone(),
            started: Utc::now(),
            user: history.user.clone(),
            labels: history.labels.clone(),
            statement,
            tables,
        };
        let (events, stores, purse) = (new.events.clone(), new.stores().clone(), new.purse.clone());
        let shows_text = history.statement == StatementKept::Text;
        let listed = self.session.engine.running.list(meta.clone(), shows_text, events.clone());
        *self.computing.lock().expect("no holder panics") = new.computing.tasks.clone();
        *self.open() = Some(OpenRecord { meta, events, stores, purse, work, _listed: listed });
        new
    }

    /// Ends a statement and records it. Returns its report, which gives the reason if nothing could be recorded.
    pub async fn finish(&self, running: RunningStatement, ended: &StatementEnd) -> Report {
        running.finish().await;
        self.end(ended).await
    }

    /// Records a statement under way as cancelled, for its client has gone. Returns its report; None if no statement is
    /// under way.
    pub async fn interrupt(&self) -> Option<Report> {
        // The lock is released before the statement is recorded.
        let is_under_way = self.open().is_some();
        if is_under_way { Some(self.refused(&QueryError::interrupted()).await) } else { None }
    }

    async fn refused(&self, error: &QueryError) -> Report {
        if let Some(OpenRecord { events, stores, .. }) = self.open().as_ref() {
            let is_counted = |stamped: &StampedEvent| matches!(stamped.event, QueryEvent::CoordinatorRead { .. });
            // Reads of earlier coordinators are others.
            let events_until_now = events.snapshot();
            let is_own = |stamped: &&StampedEvent| !matches!(stamped.event, QueryEvent::TakenOver { .. });
            if !events_until_now.iter().rev().take_while(is_own).any(is_counted) {
                let OwnUsage { all: usage, billed } = stores.own_usage();
                events.push(QueryEvent::CoordinatorRead { usage, billed });
            }
            events.push(QueryEvent::failed(error));
        }
        self.end(&error.into()).await
    }

    fn end<'a>(&'a self, ended: &'a StatementEnd) -> BoxFuture<'a, Report> {
        Box::pin(async move {
            let open = self.open().take();
            let Some(OpenRecord { meta, events, purse, work, .. }) = open else { return Report::default() };
            let (log, events) = (events.clone(), events.snapshot());
            let tariff = self.session.tariff().await;
            let priced = Report::priced(&events, tariff.as_ref());
            if let Some(purse) = purse {
                let inherited = match (&work, &tariff) {
                    (Some(work), Ok(tariff)) => work.inherited_money(tariff),
                    _ => Money::ZERO,
                };
                purse.pay(priced.cost.as_ref().map(|cost| cost.at_most.saturating_sub(inherited)));
            }
            let process_memory_peak_bytes = machine::process_peak_bytes();
            let mut report = Report { id: Some(meta.id.clone()), process_memory_peak_bytes, ..priced };
            let input =
                RecordInput { meta: &meta, ended, events: &events, report: &report, tariff: tariff.as_ref().ok() };
            if work.is_some_and(|work| work.is_disowned()) {
                // The server that has it now records all of it.
                return report;
            }
            let written = self.session.engine.history.write(&input, &self.session.config().history).await;
            report.is_record_open = matches!(written, Ok(Recorded::Unknown));
            report.history_not_recorded = written.err().map(|error| error.to_string());
            let trace_parent = self.session.trace_parent.clone();
            let ended = EndedStatement { id: meta.id, user: meta.user, events: log, trace_parent };
            *self.ended.lock().expect("no holder panics") = Some(ended);
            report
        })
    }

    fn open(&self) -> MutexGuard<'_, Option<OpenRecord>> {
        self.open.lock().expect("no holder panics")
    }
}

impl Script<'_> {
    /// Tells if the statement that was started last is the last of all.
    pub fn is_at_end(&self) -> bool {
        self.statements.len() == 0
    }

    /// Starts the next statement. Returns None after the last.
    ///
    /// # Errors
    /// Those of [`Recorder::run`]. The caller runs none of the later statements.
    pub async fn next(&mut self) -> Result<Option<RunningStatement>, Box<Refused>> {
        match self.statements.next() {
            Some(statement) => Box::pin(self.recorder.run(statement)).await.map(Some),
            None => Ok(None),
        }
    }
}
