//! Puts what is run into the history. Whatever goes wrong here is told, and is never the statement's failure.

use std::sync::{Mutex, MutexGuard};

use chrono::Utc;
use gust_engine::config::{self, Label};
use gust_engine::error::QueryError;
use gust_engine::events::{EventLog, QueryEvent};
use gust_engine::history::{self, Asked, Ended, Outcome, Story};
use gust_engine::report::Report;
use gust_engine::session::{Running, Session, Statement, text_of};
use uuid::Uuid;

use super::Stop;
use super::output::{OutputError, StreamError};

/// Follows the statements of a session, one after the other.
pub(crate) struct Recorder<'a> {
    session: &'a Session,
    asked: Asked,
    under_way: Mutex<Option<UnderWay>>,
}

struct UnderWay {
    asked: Asked,
    events: EventLog,
}

impl<'a> Recorder<'a> {
    /// `labels` stand above those of the settings.
    pub(crate) fn new(session: &'a Session, labels: &[Label]) -> Result<Self, Stop> {
        let settings = &session.config().history;
        let labels = config::labels(settings, labels);
        let labels = labels.map_err(|bad| Stop::usage(format!("--label: expected {bad}")))?;
        let asked = Asked { user: settings.user.clone(), labels, ..Asked::default() };
        Ok(Self { session, asked, under_way: Mutex::default() })
    }

    pub(crate) fn session(&self) -> &'a Session {
        self.session
    }

    /// A statement is about to be planned.
    pub(crate) fn begin(&self, statement: &Statement) {
        let asked = Asked {
            id: Uuid::now_v7().simple().to_string(),
            started: Utc::now(),
            statement: text_of(statement),
            tables: self.session.tables_of(statement),
            ..self.asked.clone()
        };
        *self.under_way() = Some(UnderWay { asked, events: EventLog::start() });
    }

    /// It runs.
    pub(crate) fn follow(&self, running: &Running) {
        if let Some(under_way) = self.under_way().as_mut() {
            running.id().clone_into(&mut under_way.asked.id);
            under_way.events = running.events().clone();
        }
    }

    /// It has ended: its report, which says so where it could not be recorded.
    pub(crate) async fn end(&self, ended: &Ended) -> Report {
        let under_way = self.under_way().take();
        let Some(UnderWay { asked, events }) = under_way else { return Report::default() };
        let events = events.snapshot();
        let tariff = self.session.tariff().await;
        let mut report = Report::priced(&events, tariff.as_ref());
        let story = Story { asked: &asked, ended, events: &events, report: &report, tariff: tariff.as_ref().ok() };
        let written = history::write(&story, &self.session.config().history).await;
        report.history_not_recorded = written.err();
        report
    }

    /// It was refused before it ran; nobody makes a report of that.
    pub(crate) async fn refuse(&self, error: &QueryError) {
        if let Some(under_way) = self.under_way().as_ref() {
            under_way.events.push(QueryEvent::Failed { message: error.to_string() });
        }
        warn(&self.end(&error.into()).await);
    }

    /// Whoever asked has gone, perhaps in the middle of a statement.
    pub(crate) async fn interrupt(&self) {
        if self.under_way().is_some() {
            self.refuse(&QueryError::interrupted()).await;
        }
    }

    fn under_way(&self) -> MutexGuard<'_, Option<UnderWay>> {
        self.under_way.lock().expect("no holder panics")
    }
}

/// Says what the history lacks where no report does.
pub(crate) fn warn(report: &Report) {
    if let Some(why) = &report.history_not_recorded {
        eprintln!("warning: not recorded in the history: {why}");
    }
}

/// The end of a statement whose rows were written, or not.
pub(crate) fn ended(written: &Result<u64, StreamError<QueryError>>) -> Ended {
    match written {
        Ok(_) => Ended { outcome: Outcome::Done, message: None },
        Err(StreamError::Query(error)) => error.into(),
        Err(StreamError::Output(error @ OutputError::ReaderGone)) => {
            Ended { outcome: Outcome::Cancelled, message: Some(error.to_string()) }
        }
        Err(StreamError::Output(error)) => Ended { outcome: Outcome::Failed, message: Some(error.to_string()) },
    }
}
