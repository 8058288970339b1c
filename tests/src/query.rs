//! Runs statements through a session, and asserts where a query was read by its report.

use arrow::array::RecordBatch;
use datafusion::prelude::SessionContext;
use gust_engine::config::{Config, Target};
use gust_engine::error::QueryError;
use gust_engine::events::StampedEvent;
use gust_engine::report::Report;
use gust_engine::session::{RunningStatement, Session};

/// Opens a session on `target`. Its functions, if they are processes, run `bootstrap`.
pub fn session(target: Target, functions_max: u32, bootstrap: &str) -> Session {
    let mut config = Config { on: target, functions_max, ..Config::default() };
    config.process.program = Some(bootstrap.into());
    Session::new(config).expect("a session with default settings")
}

/// Runs one text of statements and returns the rows and the report of the last.
pub async fn run(session: &Session, sql: &str) -> Result<(Vec<RecordBatch>, Report), QueryError> {
    let (rows, report, _) = run_with_events(session, sql).await?;
    Ok((rows, report))
}

/// Does the same, and returns also the events that the report was made from.
pub async fn run_with_events(
    session: &Session,
    sql: &str,
) -> Result<(Vec<RecordBatch>, Report, Vec<StampedEvent>), QueryError> {
    let mut last = None;
    for statement in session.parse(sql)? {
        let mut running = session.run(statement).await?;
        let rows = rows(&mut running).await;
        let events = running.finish().await.snapshot();
        last = Some((rows?, Report::from_events(&events), events));
    }
    Ok(last.expect("parse returns at least one statement"))
}

/// Reads the rows of a statement, which goes on until [`RunningStatement::finish`].
pub async fn rows(running: &mut RunningStatement) -> Result<Vec<RecordBatch>, QueryError> {
    let mut rows = Vec::new();
    while let Some(batch) = running.next().await? {
        rows.push(batch);
    }
    Ok(rows)
}

/// Runs a statement, after those of `setup`, through DataFusion alone: the judge has none of the project's settings.
pub async fn plain(setup: &[String], sql: &str) -> Vec<RecordBatch> {
    let context = SessionContext::new();
    for statement in setup {
        context.sql(statement).await.expect("setup").collect().await.expect("setup");
    }
    context.sql(sql).await.expect("plan").collect().await.expect("rows")
}

/// Fails unless every fragment of the report was adopted from a function, and nothing was done locally instead.
#[track_caller]
pub fn assert_remote(report: &Report, what: &str) {
    assert_eq!(report.fragments_adopted, report.fragments, "{what}: not every fragment was adopted: {report:?}");
    assert_partly_remote(report, what);
}

/// Does the same for a query that stops early and cancels the fragments that it does not need.
#[track_caller]
pub fn assert_partly_remote(report: &Report, what: &str) {
    assert!(report.fragments_adopted > 0, "{what}: no fragment was adopted: {report:?}");
    assert!(report.attempts_failed.keys().all(|kind| kind == "Cancelled"), "{what}: attempts failed: {report:?}");
    assert_eq!(report.fell_back, None, "{what}: fell back");
    let decision = report.decision.as_ref().expect("a decision");
    assert_eq!(decision.place, gust_engine::model::Place::Functions, "{what}: {decision}");
}
