//! One request's statements on their way to a sink of rows.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use futures::FutureExt;
use futures::future::BoxFuture;
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::history::StatementEnd;
use gust_engine::report::Report;
use gust_engine::resume::WorkLog;
use gust_engine::session::{Recorder, RunningStatement, Session, Statement};
use gust_output::{OutputError, StreamError, end_of};

use crate::door::{Base, Door, SessionWishes};
use crate::memory::{Claimant, Gate, MemoryWait};
use crate::tokens::Principal;

/// SQLSTATE codes of PostgreSQL.
const NOT_IN_THIS_FORMAT: &str = "0A000";
const SHUTTING_DOWN: &str = "57P01";
const NOT_LET_IN: &str = "28000";
pub(crate) const FAULT: &str = "XX000";
pub(crate) const TOO_MANY: &str = "53300";

/// Most statements of one request. Each has the whole time-out and the whole cap.
const STATEMENTS_MAX: usize = 100;

/// Statements of one request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) principal: Principal,
    pub(crate) sql: String,
    /// True if statements are estimated instead of run.
    pub(crate) dry_run: bool,
    /// True if the rows stay in the exchange, where clients read them by links.
    pub(crate) is_linked: bool,
    pub(crate) wishes: SessionWishes,
}

impl Asked {
    /// Gives a request the catalogs that there are now, also where a reload comes before its turn.
    #[must_use]
    pub(crate) fn admitted(mut self, base: Base) -> Self {
        self.wishes.base = Some(base);
        self
    }
}

/// End of a request whose statements all succeeded.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    /// Id of the last statement.
    pub(crate) id: String,
    /// True if the last statement has no rows to show.
    pub(crate) is_silent: bool,
    pub(crate) report: Box<Report>,
}

/// Failure of a statement.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// Id of the statement, if it has one.
    pub(crate) id: Option<String>,
    pub(crate) error: QueryError,
    /// Report of a statement that was recorded. What failed has its cost, too.
    pub(crate) report: Option<Box<Report>>,
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self { id: None, error, report: None }
    }
}

/// Taker of the rows of a request's last statement.
pub(crate) trait Sink: Send + Sync {
    /// Takes the rows, and returns their number.
    fn take(
        &mut self,
        running: &mut RunningStatement,
    ) -> impl Future<Output = Result<u64, StreamError<QueryError>>> + Send;

    /// Waits until nobody wants the rows any more.
    fn unwanted(&self) -> BoxFuture<'static, ()>;

    /// Returns the log of the statement's work, if another server may go on with it.
    fn work(&self) -> Option<Arc<WorkLog>> {
        None
    }

    /// Returns the statement's part of the claims of its connection, which may have several statements under way.
    fn claimant(&self) -> Option<Claimant> {
        None
    }

    /// Returns the place where the statement's waits for memory are shown.
    fn memory_wait(&self) -> MemoryWait {
        MemoryWait::default()
    }

    /// Hears that the statement is about to end, before its objects are removed.
    fn ending(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Runs the statements of a request, until one fails or nobody wants the rows any more. Each is recorded.
pub(crate) async fn run(door: &Door, asked: Asked, sink: &mut impl Sink) -> Result<Done, Failure> {
    Box::pin(run_with(door, asked, Vec::new(), sink)).await
}

/// Does the same with values for the parameters of the last statement: the first is that of `$1`.
pub(crate) async fn run_with(
    door: &Door,
    asked: Asked,
    values: Vec<ScalarValue>,
    sink: &mut impl Sink,
) -> Result<Done, Failure> {
    let inherited = sink.work().filter(|work| work.is_inherited()).map(|work| (work, asked.clone()));
    let ended = Box::pin(run_all(door, asked, values, sink)).await;
    match (ended, inherited) {
        // Its last statement has not begun, and nobody else tells what it has cost.
        (Err(failure), Some((work, asked))) if !work.has_begun() => {
            sink.ending().await;
            Err(Box::pin(unrun(door, asked, work, failure.error)).await)
        }
        (ended, _) => ended,
    }
}

async fn run_all(door: &Door, asked: Asked, values: Vec<ScalarValue>, sink: &mut impl Sink) -> Result<Done, Failure> {
    let Asked { principal, sql, dry_run, is_linked, wishes } = asked;
    let session = tokio::select! {
        session = Box::pin(door.session(&principal, wishes)) => session?,
        gone = gone(door, &principal, sink.unwanted()) => return Err(gone.into()),
    };
    let mut statements = parsed(&session, sql).await?;
    if dry_run {
        statements = statements.into_iter().map(Statement::as_dry_run).collect();
    }
    if statements.len() > STATEMENTS_MAX {
        return Err(QueryError::sql(format!("a request has at most {STATEMENTS_MAX} statements")).into());
    }
    let recorder = Recorder::new(session);
    let mut last = statements.pop().ok_or_else(|| QueryError::sql("there is no statement"))?;
    if is_linked {
        last = last.with_kept_rows();
    }
    for statement in statements {
        let running = start(door, &principal, &recorder, statement, None, sink).await?;
        Box::pin(silently(door, &principal, &recorder, running, sink)).await?;
    }
    Box::pin(carry_out(door, &principal, &recorder, last.with_parameters(values), sink)).await
}

/// Ends a statement that is not run here. What earlier servers have spent on it is recorded, unless another server has it now.
pub(crate) async fn unrun(door: &Door, asked: Asked, work: Arc<WorkLog>, error: QueryError) -> Failure {
    if !work.is_inherited() || work.is_disowned() {
        return error.into();
    }
    let Asked { principal, sql, wishes, .. } = asked;
    let labels = wishes.labels.clone();
    let session = match Box::pin(door.session(&principal, wishes)).await {
        Ok(session) => Ok(session),
        // Its catalog may be gone, or its budget spent.
        Err(_) => door.plain_session(&principal, labels),
    };
    let session = match session {
        Ok(session) => session,
        Err(unopened) => {
            tracing::warn!(id = work.id(), "what earlier servers have spent is not recorded: {unopened}");
            return error.into();
        }
    };
    // A text that another version has read may be no SQL here.
    let last = parsed(&session, sql.clone()).await.ok().and_then(|mut statements| statements.pop());
    let recorder = Recorder::new(session);
    let report = recorder.refuse(last.as_ref(), &sql, work, &error).await;
    door.count(&recorder, &report, &StatementEnd::from(&error));
    Failure { id: report.id.clone(), error, report: Some(Box::new(report)) }
}

/// Returns the statements of a text. Parsing computes, and cannot be interrupted.
pub(crate) async fn parsed(session: &Session, sql: String) -> Result<Vec<Statement>, QueryError> {
    let session = session.clone();
    let parsed = tokio::task::spawn_blocking(move || session.parse(&sql)).await;
    parsed.map_err(|_| QueryError::sql("the parser panicked").with_sqlstate(FAULT))?
}

/// Runs one statement, until it fails or nobody wants the rows any more. It is recorded.
pub(crate) async fn carry_out(
    door: &Door,
    principal: &Principal,
    recorder: &Recorder,
    statement: Statement,
    sink: &mut impl Sink,
) -> Result<Done, Failure> {
    let work = sink.work();
    let mut running = start(door, principal, recorder, statement, work.clone(), sink).await?;
    let (id, is_silent) = (running.id().to_owned(), running.is_silent());
    let unwanted = sink.unwanted();
    let written = tokio::select! {
        // Costs until a panic are recorded, too.
        written = AssertUnwindSafe(Box::pin(sink.take(&mut running))).catch_unwind() => {
            written.unwrap_or_else(|_| Err(StreamError::Query(panicked())))
        }
        gone = gone(door, principal, unwanted) => Err(StreamError::Query(gone)),
    };
    sink.ending().await;
    let report = Box::new(finish(door, recorder, running, &end_of(&written), is_lost(work.as_ref())).await);
    match written {
        Ok(_) => Ok(Done { id, is_silent, report }),
        Err(StreamError::Query(error)) => Err(Failure { id: Some(id), error, report: Some(report) }),
        Err(StreamError::Output(error)) => Err(Failure { id: Some(id), error: of_output(error), report: Some(report) }),
    }
}

async fn start(
    door: &Door,
    principal: &Principal,
    recorder: &Recorder,
    statement: Statement,
    work: Option<Arc<WorkLog>>,
    sink: &mut impl Sink,
) -> Result<RunningStatement, Failure> {
    let user = recorder.user().unwrap_or_default();
    let gate = Gate::of(&door.memory, user, sink.claimant(), sink.memory_wait());
    let gone = tokio::select! {
        running = Box::pin(recorder.run_noted(statement, work.clone(), Some(gate))) => {
            return running.map_err(|refused| {
                door.count(recorder, &refused.report, &StatementEnd::from(&refused.error));
                hold_place(door, recorder);
                Failure { id: Some(refused.id), error: refused.error, report: Some(Box::new(refused.report)) }
            });
        }
        gone = gone(door, principal, sink.unwanted()) => gone,
    };
    // Whose statement it is has to be known before it is recorded.
    sink.ending().await;
    let report = recorder.interrupt().await.map(Box::new);
    if let Some(report) = report.as_ref().filter(|_| !is_lost(work.as_ref())) {
        door.count(recorder, report, &StatementEnd::from(&gone));
    }
    hold_place(door, recorder);
    let id = report.as_ref().and_then(|report| report.id.clone());
    Err(Failure { id, error: gone, report })
}

/// Ends a statement before the last one, which has no rows.
async fn silently(
    door: &Door,
    principal: &Principal,
    recorder: &Recorder,
    mut running: RunningStatement,
    sink: &impl Sink,
) -> Result<(), Failure> {
    let id = Some(running.id().to_owned());
    let ended = if running.is_silent() {
        tokio::select! {
            ended = AssertUnwindSafe(drained(&mut running)).catch_unwind() => {
                ended.unwrap_or_else(|_| Err(panicked()))
            }
            gone = gone(door, principal, sink.unwanted()) => Err(gone),
        }
    } else {
        Err(QueryError::sql("a statement before the last one has rows, and a request has one result")
            .with_hint("send each query by itself"))
    };
    let end = match &ended {
        Ok(()) => end_of(&Ok(0)),
        Err(error) => StatementEnd::from(error),
    };
    let report = finish(door, recorder, running, &end, false).await;
    ended.map_err(|error| Failure { id, error, report: Some(Box::new(report)) })
}

/// Tells if another server has the statement, and records and counts all of it.
fn is_lost(work: Option<&Arc<WorkLog>>) -> bool {
    work.is_some_and(|work| work.is_disowned())
}

/// Ends a statement, and records and counts it unless it is lost.
async fn finish(
    door: &Door,
    recorder: &Recorder,
    running: RunningStatement,
    end: &StatementEnd,
    is_lost: bool,
) -> Report {
    let report = recorder.finish(running, end).await;
    if !is_lost {
        door.count(recorder, &report, end);
    }
    hold_place(door, recorder);
    report
}

/// Holds a place for a statement that has ended, as long as it is planned or computed on: its right to run is given back before its threads
/// are.
fn hold_place(door: &Door, recorder: &Recorder) {
    let computing = recorder.computing();
    computing.close();
    if !computing.is_empty() {
        let overrun = door.admission.overrun(recorder.user().unwrap_or_default());
        drop(tokio::spawn(async move {
            computing.wait().await;
            drop(overrun);
        }));
    }
}

async fn drained(running: &mut RunningStatement) -> Result<(), QueryError> {
    while running.next().await?.is_some() {}
    Ok(())
}

/// Waits until nobody wants the rows any more, and returns the error of their statement.
pub(crate) async fn gone(door: &Door, principal: &Principal, unwanted: BoxFuture<'static, ()>) -> QueryError {
    tokio::select! {
        () = unwanted => QueryError::interrupted(),
        () = door.dismissed(principal) => dismissed(),
        () = door.stopping.cancelled() => {
            QueryError::new(ErrorKind::Interrupted, "the server shuts down").with_sqlstate(SHUTTING_DOWN)
        }
    }
}

/// Makes the error of a statement whose user is let in no more.
pub(crate) fn dismissed() -> QueryError {
    let message = "the user's token was taken back, or has expired";
    QueryError::new(ErrorKind::Interrupted, message).with_sqlstate(NOT_LET_IN)
}

/// Makes the error of a panic, whose message is on stderr.
pub(crate) fn panicked() -> QueryError {
    QueryError::sql("the statement panicked").with_sqlstate(FAULT)
}

/// Makes the error of rows that could not be written.
pub(crate) fn of_output(error: OutputError) -> QueryError {
    let (hint, is_of_format) = (error.hint(), matches!(error, OutputError::Encode(_)));
    let told = QueryError::data(error.to_string()).with_source(error);
    match hint {
        _ if is_of_format => {
            told.with_sqlstate(NOT_IN_THIS_FORMAT).with_hint("ask for another format with Accept, or cast the column")
        }
        Some(hint) => told.with_sqlstate(FAULT).with_hint(hint),
        None => told.with_sqlstate(FAULT),
    }
}

/// Work of a request in a task of its own, which the door waits for at its end.
pub(crate) fn spawn(door: &Arc<Door>, work: impl Future<Output = ()> + Send + 'static) {
    drop(door.tasks.spawn(work));
}

#[cfg(test)]
mod tests {
    use gust_engine::config::{Config, Target};
    use gust_engine::resume::Inherited;

    use super::*;
    use crate::door::Purpose;

    /// Sink that breaks over the first rows.
    struct Broken;

    impl Sink for Broken {
        async fn take(&mut self, _: &mut RunningStatement) -> Result<u64, StreamError<QueryError>> {
            panic!("it is broken")
        }

        fn unwanted(&self) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    /// Sink of a statement that another server has taken, which this one hears at its end.
    struct Lost(Arc<WorkLog>);

    impl Sink for Lost {
        async fn take(&mut self, _: &mut RunningStatement) -> Result<u64, StreamError<QueryError>> {
            std::future::pending().await
        }

        fn unwanted(&self) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }

        fn work(&self) -> Option<Arc<WorkLog>> {
            Some(Arc::clone(&self.0))
        }

        async fn ending(&mut self) {
            self.0.disown();
        }
    }

    async fn door(history: Option<&std::path::Path>) -> Door {
        let mut config = Config { on: Target::Local, ..Config::default() };
        config.history.enabled = history.is_some();
        config.history.path = history.map(|folder| folder.join("history.db"));
        Door::open(config, None, None, None, &[], Purpose::Serve).await.expect("a door")
    }

    fn asked(sql: &str) -> Asked {
        let (principal, wishes) = (Principal::default(), SessionWishes::default());
        Asked { principal, sql: sql.to_owned(), dry_run: false, is_linked: false, wishes }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_statement_of_another_server_is_neither_recorded_nor_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let door = door(Some(folder.path())).await;
        // It is lost before it is planned, while it is, or when its rows are wanted.
        for number in 0..20 {
            let mut lost = Lost(WorkLog::new(format!("{number:032}"), Inherited::default()));
            let failure = Box::pin(run(&door, asked("SELECT 1"), &mut lost)).await.expect_err("it is lost");
            assert_eq!(failure.error.kind(), ErrorKind::Interrupted);
        }
        let metrics = door.metrics_text(&Principal::default());
        assert!(!metrics.contains("gust_statements_total{"), "{metrics}");
        door.close().await;
        let recorded: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").collect();
        assert!(recorded.is_empty(), "{recorded:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_is_a_failure_with_its_report() {
        let door = door(None).await;
        let failure = Box::pin(run(&door, asked("SELECT 1"), &mut Broken)).await.expect_err("it panics");
        assert_eq!(failure.error.sqlstate(), FAULT);
        let report = failure.report.expect("what it has cost");
        assert!(report.id.is_some() && report.id == failure.id, "{:?}", report.id);
        let metrics = door.metrics_text(&Principal::default());
        assert!(metrics.contains("gust_statements_total{outcome=\"failed\"} 1"), "{metrics}");
        door.close().await;
    }
}
