//! SQL text to statements, and a statement to a logical plan with errors that name what is near.

use datafusion::common::{DataFusionError, TableReference};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SQLOptions;
use datafusion::sql::parser::{DFParserBuilder, Statement};

use super::Session;
use super::error::QueryError;
use crate::nearest::nearest;
use crate::tables::probe::{Probed, probe};

/// Most statements of one text.
const STATEMENTS_MAX: usize = 10_000;

/// Tables that are looked through for a near name.
const NAMES_MAX: usize = 10_000;

impl Session {
    /// Splits a text at its semicolons.
    ///
    /// # Errors
    /// [`QueryError::Sql`] with line and column of the first word that does not fit.
    pub fn parse(&self, sql: &str) -> Result<Vec<Statement>, QueryError> {
        let failed = |error: DataFusionError| {
            QueryError::Sql(match error.find_root() {
                DataFusionError::SQL(parser, _) => parser.to_string(),
                _ => error.strip_backtrace(),
            })
        };
        let statements = DFParserBuilder::new(sql).build().map_err(failed)?.parse_statements().map_err(failed)?;
        if statements.is_empty() {
            return Err(QueryError::Sql(
                "there is no statement\nhint: give SQL, or - to read it from stdin".to_owned(),
            ));
        }
        if statements.len() > STATEMENTS_MAX {
            return Err(QueryError::Sql(format!("{} statements; at most {STATEMENTS_MAX} are run", statements.len())));
        }
        Ok(statements.into_iter().collect())
    }

    /// The logical plan of a statement that this session may run.
    pub(super) async fn logical_plan(&self, statement: Statement) -> Result<LogicalPlan, QueryError> {
        let state = self.context.state();
        let references = state.resolve_table_references(&statement);
        let plan = match state.statement_to_plan(statement).await {
            Ok(plan) => plan,
            Err(error) => {
                let references = references.unwrap_or_default();
                let unknown = self.unknown_table(&references).await;
                return Err(unknown.unwrap_or_else(|| sort_out(error)));
            }
        };
        // Writes are not a thing of functions yet, and a half of them on the coordinator would only mislead.
        SQLOptions::new().with_allow_dml(false).verify_plan(&plan).map_err(|e| {
            QueryError::Sql(format!("{}\nhint: gust reads; write with another tool", e.strip_backtrace()))
        })?;
        Ok(plan)
    }

    /// The first reference that no table answers to, in words.
    async fn unknown_table(&self, references: &[TableReference]) -> Option<QueryError> {
        for reference in references {
            match self.context.table_provider(reference.clone()).await {
                Ok(_) => {}
                Err(error) if is_path(reference.table()) => {
                    return Some(self.name_culprit(error, &[reference.table().to_owned()]).await);
                }
                Err(error) if is_not_found(&error) => return Some(self.not_found(reference)),
                Err(error) => return Some(QueryError::from_engine(error)),
            }
        }
        None
    }

    fn not_found(&self, reference: &TableReference) -> QueryError {
        let name = reference.table();
        let known = self.table_names();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => {
                "no table is known; use --catalog, --setup, or a path: FROM 'data/*.parquet'".to_owned()
            }
            None => "SHOW TABLES lists what there is".to_owned(),
        };
        QueryError::Sql(format!("there is no table `{reference}`\nhint: {hint}"))
    }

    /// The engine's error about the files of a table, with the file that is to blame where one is.
    pub(super) async fn name_culprit(&self, error: DataFusionError, locations: &[String]) -> QueryError {
        for location in locations {
            match probe(&self.context.state(), location).await {
                Ok(Probed::Fine) => {}
                Ok(Probed::Nothing) => {
                    return QueryError::Data(format!(
                        "`{location}`: there is no such file, and no file matches it\nhint: check the path; a folder needs a slash at its end"
                    ));
                }
                Err(culprit) => return QueryError::from_engine(culprit),
            }
        }
        if locations.is_empty() {
            return QueryError::from_engine(error);
        }
        QueryError::from_engine(error.context(format!("table over {}", locations.join(", "))))
    }

    /// Names of the tables of all catalogs, without their schemas.
    fn table_names(&self) -> Vec<String> {
        let catalogs = self.context.catalog_names().into_iter().filter_map(|name| self.context.catalog(&name));
        let schemas = catalogs.flat_map(|catalog| {
            let names = catalog.schema_names();
            names.into_iter().filter_map(move |name| catalog.schema(&name))
        });
        schemas.flat_map(|schema| schema.table_names()).take(NAMES_MAX).collect()
    }
}

fn is_path(name: &str) -> bool {
    name.contains('/') || name.ends_with(".parquet")
}

fn is_not_found(error: &DataFusionError) -> bool {
    let text = error.to_string();
    text.contains("not found") || text.contains("No table") || text.contains("doesn't exist")
}

/// An error of parsing or planning, with the position where the engine knows it.
fn sql_error(error: &DataFusionError) -> QueryError {
    let position = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| span.start);
    let at = position.map_or_else(String::new, |at| format!(" at Line: {}, Column: {}", at.line, at.column));
    let message = error.strip_backtrace();
    let message = message.trim_start_matches("Error during planning: ").trim_start_matches("Schema error: ");
    // The first line is the message, what follows lists what there would have been.
    let (first, rest) = message.split_once('\n').unwrap_or((message, ""));
    let hint = if rest.is_empty() { String::new() } else { format!("\nhint: {rest}") };
    QueryError::Sql(format!("{}{at}{hint}", first.trim_end_matches('.')))
}

/// Planning reads listings and footers, too: only what is the text's fault is told as such.
fn sort_out(error: DataFusionError) -> QueryError {
    let told = sql_error(&error);
    match QueryError::from_engine(error) {
        QueryError::Sql(_) => told,
        other => other,
    }
}
