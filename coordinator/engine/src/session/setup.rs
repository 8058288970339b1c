//! Statements that prepare a session, such as those of a set-up file.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::catalog::SchemaProvider;
use datafusion::common::DataFusionError;
use datafusion::sql::parser::Statement as EngineStatement;
use futures::{StreamExt, stream};

use super::statement::{OWN_CATALOG, OWN_SCHEMA};
use super::{Recorder, Session, Statement};
use crate::error::QueryError;
use crate::report::Report;

/// Tables that are made at the same time. Each waits for a listing, and then for its footers.
const TABLES_AT_ONCE: usize = 32;

/// Reports on the statements of a set-up file, and those that are under way.
#[derive(Default)]
pub struct SetUpLog {
    reports: Vec<Report>,
    under_way: Vec<Arc<Recorder>>,
}

impl SetUpLog {
    /// Takes the reports of the statements that have ended and paid for reads or failed.
    pub fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// Records the statements under way as cancelled, once nothing drives them any more. Their reports come after the others.
    pub async fn interrupt(&mut self) {
        for recorder in std::mem::take(&mut self.under_way) {
            self.reports.extend(recorder.interrupt().await);
        }
    }
}

/// Tables and views of a session, for other sessions of its engine. They may outlive it.
#[derive(Debug, Clone)]
pub struct OwnTables(Option<Arc<dyn SchemaProvider>>);

impl Session {
    /// Runs the statements of a text in their order, and drops their rows.
    ///
    /// CREATE EXTERNAL TABLEs that follow one another are run side by side, because they mostly wait for their stores. The history
    /// has those that paid for reads, and the one that failed.
    ///
    /// # Errors
    /// The error of the first statement that fails. Tables that are made side by side with it may be there.
    pub async fn set_up(&self, sql: &str) -> Result<(), QueryError> {
        self.set_up_reported(sql, &mut SetUpLog::default()).await
    }

    /// Does the same, and writes the log.
    ///
    /// # Errors
    /// Those of [`Session::set_up`].
    pub async fn set_up_reported(&self, sql: &str, log: &mut SetUpLog) -> Result<(), QueryError> {
        let mut statements = match self.parse(sql) {
            Ok(statements) => statements,
            Err(error) => {
                log.reports.push(Report::refused(&error));
                return Err(error);
            }
        };
        while !statements.is_empty() {
            let together = side_by_side(&statements);
            let running = statements.drain(..together);
            let running = running.map(|statement| {
                let recorder = Arc::new(Recorder::new(self.clone()));
                log.under_way.push(Arc::clone(&recorder));
                Box::pin(recorder.run_unshown(statement))
            });
            let running: Vec<_> = running.collect();
            let mut running = stream::iter(running).buffered(TABLES_AT_ONCE);
            while let Some((report, ended)) = running.next().await {
                log.reports.extend(report);
                if ended.is_err() {
                    log.under_way.clear();
                }
                ended?;
            }
            log.under_way.clear();
        }
        Ok(())
    }

    /// Returns the tables and views that the session has made and will make.
    pub fn own_tables(&self) -> OwnTables {
        OwnTables(self.catalogs.catalog(OWN_CATALOG).and_then(|own| own.schema(OWN_SCHEMA)))
    }

    /// Shows the tables and views of another session of the engine in this one, under their names, as far as they are granted. A view reads
    /// what it is over, whatever is granted of that. What either of them
    /// makes or drops from then on is its own.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] if a table cannot be shown.
    pub async fn show_tables(&self, of_other: &OwnTables) -> Result<(), QueryError> {
        let (OwnTables(Some(from)), OwnTables(Some(to))) = (of_other, self.own_tables()) else { return Ok(()) };
        let failed = |error: DataFusionError| QueryError::setup(error.strip_backtrace()).with_source(error);
        for name in from.table_names() {
            if !self.engine.catalogs.gives(OWN_CATALOG, OWN_SCHEMA, &name) {
                continue;
            }
            if let Some(table) = from.table(&name).await.map_err(failed)? {
                to.register_table(name, table).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Counts the statements at the beginning that may run side by side: CREATE EXTERNAL TABLEs of different names, else one.
fn side_by_side(statements: &[Statement]) -> usize {
    let mut names = HashSet::new();
    statements.iter().map_while(made_table).take_while(|name| names.insert(name.clone())).count().max(1)
}

/// Returns the name that CREATE EXTERNAL TABLE makes, in small letters and without its schema: too like rather than too different.
fn made_table(statement: &Statement) -> Option<String> {
    let EngineStatement::CreateExternalTable(create) = statement.sql.as_ref() else { return None };
    Some(create.name.0.last()?.as_ident()?.value.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Target};
    use crate::session::{Engine, EngineOptions, SessionOptions};

    #[tokio::test]
    async fn sessions_show_the_tables_of_one_and_keep_their_own() {
        let config = Config { on: Target::Local, ..Config::default() };
        let engine = Engine::open(config, EngineOptions::default()).expect("an engine");
        let session = || engine.session(SessionOptions::default()).expect("a session");
        let base = session();
        base.set_up("CREATE TABLE t AS SELECT 1 AS k; CREATE VIEW v AS SELECT k + 1 AS k FROM t")
            .await
            .expect("tables");
        let (one, other) = (session(), session());
        let shown = base.own_tables();
        drop(base);
        one.show_tables(&shown).await.expect("tables");
        other.show_tables(&shown).await.expect("tables");
        one.set_up("SELECT k FROM v; DROP TABLE t; CREATE TABLE own AS SELECT 2 AS k").await.expect("statements");
        one.set_up("SELECT * FROM t").await.expect_err("it was dropped");
        other.set_up("SELECT * FROM t; SELECT * FROM v").await.expect("it is still there");
        other.set_up("SELECT * FROM own").await.expect_err("another's table");
        engine.close().await;
    }

    #[tokio::test]
    async fn tables_of_different_names_are_made_side_by_side() {
        let session = Session::new(Config { on: Target::Local, ..Config::default() }).expect("a session");
        let check = |names: &str, expect: usize| {
            let create = |name: &str| match name {
                "SELECT" => "SELECT 1".to_owned(),
                name => format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION 'x/'"),
            };
            let text = names.split(' ').map(create).collect::<Vec<_>>().join("; ");
            assert_eq!(side_by_side(&session.parse(&text).expect("SQL")), expect, "{names}");
        };
        check("a b c", 3);
        check("a SELECT b", 1);
        check("a b SELECT", 2);
        check("SELECT a", 1);
        check("a a", 1);
        check("a b \"A\"", 2);
        check("a s.a", 1);
        session.close().await;
    }
}
