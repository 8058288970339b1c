//! Runs statements and puts what became of them into the history. Whatever goes wrong with that is told, and is never a statement's
//! failure.

use std::sync::{Mutex, MutexGuard};
use std::vec;

use chrono::Utc;

use super::{RunningStatement, Session, Statement, text_of};
use crate::error::QueryError;
use crate::events::{EventLog, QueryEvent, StampedEvent};
use crate::history::{self, RecordInput, StatementEnd, StatementMeta};
use crate::report::Report;
use crate::storage::Stores;

/// Follows the statements of a session, one after the other.
pub struct Recorder {
    session: Session,
    open: Mutex<Option<OpenRecord>>,
}

struct OpenRecord {
    meta: StatementMeta,
    events: EventLog,
    /// Stores that count the statement's reads, also where it never runs or is never finished.
    stores: Stores,
}

/// A statement that did not begin to run.
#[derive(Debug)]
pub struct Refused {
    pub error: QueryError,
    pub report: Report,
}

/// The statements of a text, to be run one after the other.
pub struct Script<'a> {
    recorder: &'a Recorder,
    statements: vec::IntoIter<Statement>,
}

impl Recorder {
    pub fn new(session: Session) -> Self {
        Self { session, open: Mutex::default() }
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// A text's statements; in a dry run they are estimated instead of run.
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

    /// Plans a statement and starts it. Its rows are to be read, and [`Recorder::finish`] to be called whatever becomes of them.
    ///
    /// # Errors
    /// Where it is refused before it runs; that is recorded already.
    pub async fn run(&self, statement: Statement) -> Result<RunningStatement, Box<Refused>> {
        let history = &self.session.config().history;
        let new = self.session.new_statement();
        let meta = StatementMeta {
            id: new.id.clone(),
            started: Utc::now(),
            user: history.user.clone(),
            labels: history.labels.clone(),
            statement: text_of(&statement),
            tables: self.session.tables_of(&statement),
        };
        *self.open() = Some(OpenRecord { meta, events: new.events.clone(), stores: new.stores().clone() });
        match new.run(statement).await {
            Ok(running) => Ok(running),
            Err(error) => {
                let report = self.refused(&error).await;
                Err(Box::new(Refused { error, report }))
            }
        }
    }

    /// Ends a statement: its report, which says so where it could not be recorded.
    pub async fn finish(&self, running: RunningStatement, ended: &StatementEnd) -> Report {
        running.finish().await;
        self.end(ended).await
    }

    /// Whoever meta has gone, perhaps in the middle of a statement: its report.
    pub async fn interrupt(&self) -> Option<Report> {
        // Nothing is locked while it is recorded.
        let is_under_way = self.open().is_some();
        if is_under_way { Some(self.refused(&QueryError::interrupted()).await) } else { None }
    }

    async fn refused(&self, error: &QueryError) -> Report {
        if let Some(OpenRecord { events, stores, .. }) = self.open().as_ref() {
            let is_told = |stamped: &StampedEvent| matches!(stamped.event, QueryEvent::CoordinatorRead { .. });
            if !events.snapshot().iter().any(is_told) {
                events.push(QueryEvent::CoordinatorRead { usage: stores.usage() });
            }
            events.push(QueryEvent::Failed { message: error.message().to_owned() });
        }
        self.end(&error.into()).await
    }

    async fn end(&self, ended: &StatementEnd) -> Report {
        let open = self.open().take();
        let Some(OpenRecord { meta, events, .. }) = open else { return Report::default() };
        let events = events.snapshot();
        let tariff = self.session.tariff().await;
        let mut report = Report::priced(&events, tariff.as_ref());
        let input = RecordInput { meta: &meta, ended, events: &events, report: &report, tariff: tariff.as_ref().ok() };
        let written = history::write(&input, &self.session.config().history).await;
        report.history_not_recorded = written.err().map(|error| error.to_string());
        report
    }

    fn open(&self) -> MutexGuard<'_, Option<OpenRecord>> {
        self.open.lock().expect("no holder panics")
    }
}

impl Script<'_> {
    /// Starts the next statement; None after the last.
    ///
    /// # Errors
    /// Those of [`Recorder::run`]. The statements after it are not to be run.
    pub async fn next(&mut self) -> Result<Option<RunningStatement>, Box<Refused>> {
        match self.statements.next() {
            Some(statement) => Box::pin(self.recorder.run(statement)).await.map(Some),
            None => Ok(None),
        }
    }
}
