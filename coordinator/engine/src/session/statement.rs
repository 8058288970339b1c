//! Parses SQL text to statements, and makes the logical plan of a statement. Hints of errors name a near table.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::information_schema::INFORMATION_SCHEMA;
use datafusion::common::{DataFusionError, ScalarValue, SchemaError, TableReference};
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::prelude::SQLOptions;
use datafusion::sql::parser::{
    CopyToStatement, DFParser, DFParserBuilder, ExplainStatement, Statement as EngineStatement,
};
use datafusion::sql::planner::object_name_to_table_reference;
use datafusion::sql::sqlparser::ast::{ObjectName, ObjectNamePart, Statement as SqlStatement};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::Token;
use fragment_fn::stack::on_big_stack;

use super::{Session, system};
pub use crate::config::{OWN_CATALOG, OWN_SCHEMA};
use crate::dialect::mark_merged_keys;
use crate::error::{ErrorKind, QueryError};
use crate::history;
use crate::nearest::nearest;
use crate::sql::limits::{PARSER_DEPTH_MAX, VIEW_DEPTH_MAX};
use crate::sql::{self, Known, Names, UniquelyNamed};
use crate::tables::broken::{BrokenTable, broken_table_error};
use crate::tables::folder::{FolderTable, check_format, is_path};
use crate::tables::iceberg::IcebergTable;

/// Most statements of one text.
const STATEMENTS_MAX: usize = 10_000;

/// Most tables that are searched for a near name.
const NAMES_MAX: usize = 10_000;

/// Returns the query of CREATE TABLE AS; None for any other statement.
pub(super) fn query_of_a_table(statement: &EngineStatement) -> Option<EngineStatement> {
    let EngineStatement::Statement(statement) = statement else { return None };
    let SqlStatement::CreateTable(create) = statement.as_ref() else { return None };
    let query = create.query.clone()?;
    Some(EngineStatement::Statement(Box::new(SqlStatement::Query(query))))
}

/// Statement with the mode in which it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub(super) sql: Box<EngineStatement>,
    pub(super) mode: StatementMode,
    /// Values of its parameters: the first is that of $1.
    pub(super) parameters: Vec<ScalarValue>,
    /// True if its rows are to stay in the exchange.
    pub(super) keeps_rows: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatementMode {
    /// Rows of the statement, or its change of the session.
    Rows,
    /// Cost of the rows: `EXPLAIN COST`.
    Cost,
    /// Cost of the rows in a dry run. A statement that only changes the session is run.
    CostOrChange,
}

/// SQLSTATE codes of PostgreSQL.
const SYNTAX: &str = "42601";
const NO_TABLE: &str = "42P01";
const NO_COLUMN: &str = "42703";

impl StatementMode {
    /// Returns true if the cost of `plan` is wanted, and not its rows or its change of the session.
    ///
    /// # Errors
    /// [`ErrorKind::Sql`] if the cost is wanted of a statement that has no estimate. EXPLAIN COST refuses all
    /// statements that change the session. A dry run refuses CREATE TABLE AS, for it reads data.
    pub(super) fn is_cost_of(self, plan: &LogicalPlan) -> Result<bool, QueryError> {
        let (LogicalPlan::Ddl(_) | LogicalPlan::Statement(_)) = plan else { return Ok(self != Self::Rows) };
        let runs_a_query = matches!(plan, LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(_)));
        match self {
            Self::Cost => {
                Err(QueryError::sql("EXPLAIN COST: this statement changes the session and has no cost of its own")
                    .with_hint("ask for the cost of a query, such as EXPLAIN COST SELECT ..."))
            }
            Self::CostOrChange if runs_a_query => {
                Err(QueryError::sql("a dry run does not run this statement, for it reads data")
                    .with_hint("ask for the cost of its query"))
            }
            Self::CostOrChange | Self::Rows => Ok(false),
        }
    }
}

impl Statement {
    /// Returns the same statement, to be estimated instead of run. A statement that only changes the session is still
    /// run. CREATE TABLE AS is refused when it is run.
    #[must_use]
    pub fn as_dry_run(self) -> Self {
        let mode = if self.mode == StatementMode::Rows { StatementMode::CostOrChange } else { self.mode };
        Self { mode, ..self }
    }
}

impl std::fmt::Display for Statement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cost = if self.mode == StatementMode::Cost { "EXPLAIN COST " } else { "" };
        let text = match &*self.sql {
            // The engine writes the file's name without its quotes.
            EngineStatement::CopyTo(copy) => {
                CopyToStatement { target: format!("'{}'", copy.target.replace('\'', "''")), ..copy.clone() }.to_string()
            }
            other => other.to_string(),
        };
        write!(f, "{cost}{}", sql::versions::shown(&text))
    }
}

/// Parses the statements of a text as DataFusion's own loop does, and `EXPLAIN COST` as well.
///
/// `EXPLAIN COST` has no other meaning. DataFusion takes the word after EXPLAIN for the beginning of a statement, and
/// none begins with COST.
fn statements(parser: &mut DFParser<'_>) -> Result<Vec<Statement>, DataFusionError> {
    let mut statements = Vec::new();
    loop {
        while parser.parser.consume_token(&Token::SemiColon) {}
        if parser.parser.peek_token_ref().token == Token::EOF {
            return Ok(statements);
        }
        let explains_cost = is(parser, 0, Keyword::EXPLAIN) && is(parser, 1, Keyword::COST);
        if explains_cost {
            parser.parser.next_token();
            parser.parser.next_token();
        }
        let mode = if explains_cost { StatementMode::Cost } else { StatementMode::Rows };
        let sql = Box::new(parser.parse_statement()?);
        statements.push(Statement { sql, mode, parameters: Vec::new(), keeps_rows: false });
        let next = parser.parser.peek_token();
        if ![Token::SemiColon, Token::EOF].contains(&next.token) {
            return parser.parser.expected("end of statement", next).map_err(Into::into);
        }
    }
}

/// Parses the statements of a text, and refuses one past a limit.
fn read(text: &str) -> Result<Vec<Statement>, QueryError> {
    let failed = |recursions: usize, error: DataFusionError| {
        let told = match error.find_root() {
            // Past its limit the parser takes CASE and NOT for names. Its error is then about the words after them.
            DataFusionError::SQL(parser, _)
                if matches!(**parser, ParserError::RecursionLimitExceeded) || recursions >= PARSER_DEPTH_MAX =>
            {
                QueryError::sql(format!(
                    "the statement is nested too deep, up to {recursions} levels: the parser recurses at most {PARSER_DEPTH_MAX}"
                ))
                .with_hint("name inner queries in a WITH clause, or compute parts in an inner query")
            }
            DataFusionError::SQL(parser, _) => {
                let message = parser.to_string();
                sql::without_tree(&message).map_or_else(|| QueryError::sql(message), QueryError::from)
            }
            _ => return QueryError::from_engine(error).with_sqlstate(SYNTAX),
        };
        told.with_sqlstate(SYNTAX).with_source(error)
    };
    let tokens = sql::tokens(text).map_err(|error| failed(0, error))?;
    let recursions = sql::limits::recursions(&tokens);
    let parser = DFParserBuilder::new(tokens).with_recursion_limit(PARSER_DEPTH_MAX).build();
    let statements = parser.and_then(|mut parser| statements(&mut parser));
    let mut statements = statements.map_err(|error| failed(recursions, error))?;
    for statement in &mut statements {
        sql::shape(&mut statement.sql)?;
    }
    Ok(statements)
}

/// Returns true if the token that is `ahead` tokens away is this keyword.
fn is(parser: &DFParser<'_>, ahead: usize, keyword: Keyword) -> bool {
    // A quoted word is a name.
    matches!(&parser.parser.peek_nth_token_ref(ahead).token, Token::Word(word) if word.keyword == keyword && word.quote_style.is_none())
}

impl Session {
    /// Splits a text at its semicolons into one statement or more.
    ///
    /// # Errors
    /// [`ErrorKind::Sql`] with line and column of the first word that does not fit, or with the limit that the text is
    /// past. A text without a statement is refused, too.
    pub fn parse(&self, sql: &str) -> Result<Vec<Statement>, QueryError> {
        // A tree is as deep as the text makes it until the limits are checked.
        let statements = on_big_stack(|| read(sql))?;
        if statements.is_empty() {
            return Err(QueryError::sql("there is no statement").with_hint("give SQL, or - to read it from stdin"));
        }
        if statements.len() > STATEMENTS_MAX {
            return Err(QueryError::sql(format!("{} statements; at most {STATEMENTS_MAX} are run", statements.len())));
        }
        Ok(statements)
    }

    /// Writes `"$path"` as the file of a row, where a table is of files.
    async fn write_paths(&self, statement: &mut EngineStatement) -> Result<(), QueryError> {
        let mut stores = HashMap::new();
        for name in sql::paths::tables(statement) {
            let Ok(reference) = object_name_to_table_reference(name.clone(), true) else { continue };
            // The planner's error says so where the table cannot be had.
            let Ok(Some(table)) = Box::pin(self.find_table(&reference)).await else { continue };
            let is_folder = table.schema().field_with_name(sql::paths::PATH).is_err();
            if let Some(folder) = table.downcast_ref::<FolderTable>().filter(|_| is_folder) {
                stores.insert(name, folder.store_url());
            }
        }
        Ok(sql::paths::write(statement, &stores)?)
    }

    /// Returns the logical plan of a statement that this session may run, and names to show for its columns.
    pub(super) async fn logical_plan(
        &self,
        mut statement: EngineStatement,
    ) -> Result<(LogicalPlan, Names), QueryError> {
        let state = self.context.state();
        let known = Known::of(&state).with_catalogs(self.catalog_names()).with_dialect(self.dialect());
        let calls = sql::WrittenCalls::of(&statement);
        let written = sql::prepare(&mut statement, &known)?;
        self.pin_versions(&mut statement)?;
        self.write_paths(&mut statement).await?;
        mark_merged_keys(&mut statement).map_err(sort_out)?;
        let references = match query_of_a_table(&statement) {
            // The table itself is not there yet.
            Some(query) => state.resolve_table_references(&query),
            None if matches!(statement, EngineStatement::CreateExternalTable(_)) => Ok(Vec::new()),
            None => state.resolve_table_references(&statement),
        };
        let describes = describes(&statement);
        Box::pin(self.list_names(&statement, references.as_deref().unwrap_or_default(), describes)).await?;
        let views = self.views(references.as_deref().unwrap_or_default()).await?;
        let weight = |name: &ObjectName| {
            let parts: Vec<_> =
                name.0.iter().filter_map(ObjectNamePart::as_ident).map(|part| part.value.as_str()).collect();
            views.get(&parts.join(".").to_lowercase()).copied().unwrap_or(1)
        };
        sql::check_relations(&statement, &weight)?;
        let planned = match state.statement_to_plan(statement.clone()).await {
            Err(error) if is_clash_of_names(&error) => match sql::unique(&statement) {
                Some(UniquelyNamed { statement, names }) => {
                    let names = written.with_aliases(names);
                    state.statement_to_plan(statement).await.map(|plan| (plan, names)).map_err(|_| error)
                }
                None => Err(error),
            },
            Err(error) => match sql::as_lists(&statement) {
                // The types of UNNEST's arguments are known by now.
                Some(statement) => match state.statement_to_plan(statement).await {
                    Ok(plan) => Ok((plan, written)),
                    Err(_) => Err(error),
                },
                None => Err(error),
            },
            Ok(plan) => Ok((plan, written)),
        };
        let (plan, names) = match planned {
            Ok((plan, names)) => match broken_table_error(&plan) {
                Some(error) => return Err(QueryError::from_engine(error)),
                None if describes => match Box::pin(self.unknown_table(&references.unwrap_or_default())).await {
                    Some(error) => return Err(error),
                    None => (plan, names),
                },
                None => (plan, names),
            },
            Err(error) => {
                let told = in_names_of(&calls, sort_out(error));
                if told.kind() != ErrorKind::Sql {
                    return Err(told);
                }
                let references = references.unwrap_or_default();
                if let Some(unknown) = Box::pin(self.unknown_table(&references)).await {
                    return Err(unknown);
                }
                return Err(Box::pin(self.iceberg_without_path(&references, told)).await);
            }
        };
        if let LogicalPlan::Ddl(DdlStatement::DropTable(drop)) = &plan {
            Box::pin(self.refuse_to_drop(&drop.name)).await?;
        }
        if let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(create)) = &plan {
            let known = check_format(&create.file_type, state.table_factories().keys());
            known.map_err(|error| QueryError::sql(error.to_string()).with_hint(error.hint()).with_source(error))?;
        }
        // Writes are refused because functions cannot write yet. Writes of the coordinator alone would mislead.
        SQLOptions::new().with_allow_dml(false).verify_plan(&plan).map_err(|e| {
            QueryError::sql(e.strip_backtrace()).with_hint("gust reads; write with another tool").with_source(e)
        })?;
        Ok((plan, names))
    }

    /// Counts the leaves in the plan of each view that is referred to, among the session's own views. The keys are the
    /// references in small letters.
    ///
    /// # Errors
    /// [`ErrorKind::Sql`] if a view's plan has more than [`VIEW_DEPTH_MAX`] levels.
    async fn views(&self, references: &[TableReference]) -> Result<HashMap<String, u64>, QueryError> {
        let mut views = HashMap::new();
        let Some(schema) = self.context.catalog(OWN_CATALOG).and_then(|catalog| catalog.schema(OWN_SCHEMA)) else {
            return Ok(views);
        };
        for reference in references {
            let name = reference.table();
            // The schema would list the files of a path.
            if is_path(name) || !schema.table_exist(name) {
                continue;
            }
            let Ok(Some(table)) = schema.table(name).await else { continue };
            let Some(plan) = table.get_logical_plan() else { continue };
            let (leaves, depth) = leaves_and_depth(&plan);
            if depth > VIEW_DEPTH_MAX {
                return Err(QueryError::sql(format!(
                    "the plan of view `{name}` is {depth} levels deep; at most {VIEW_DEPTH_MAX} are planned"
                ))
                .with_hint("keep its rows with CREATE TABLE AS"));
            }
            views.insert(reference.to_string().to_lowercase(), leaves);
        }
        Ok(views)
    }

    /// Returns the error of the first reference that has no table, or whose table cannot be loaded.
    async fn unknown_table(&self, references: &[TableReference]) -> Option<QueryError> {
        for reference in references {
            match self.find_table(reference).await {
                Ok(Some(table)) => {
                    if let Some(table) = table.downcast_ref::<BrokenTable>() {
                        return Some(QueryError::from_engine(table.error()));
                    }
                }
                // The name is a table function's.
                Ok(None) if self.context.state().table_functions().contains_key(reference.table()) => {}
                Ok(None) => return Some(self.not_found(reference).await),
                Err(error) => return Some(QueryError::from_engine(error)),
            }
        }
        None
    }

    /// Tells what to write in place of `"$path"` of an Iceberg table. Another error stays.
    async fn iceberg_without_path(&self, references: &[TableReference], told: QueryError) -> QueryError {
        if !told.message().starts_with("No field named ") || !told.message().contains("$path") {
            return told;
        }
        for reference in references {
            let Ok(Some(table)) = self.find_table(reference).await else { continue };
            let Some(table) = table.downcast_ref::<IcebergTable>() else { continue };
            let files = with_table(reference, &format!("{}$files", reference.table())).to_quoted_string();
            let data = format!("{}/data/", table.location().trim_end_matches('/'));
            return QueryError::sql(format!("\"$path\" of the Iceberg table `{reference}` is not supported"))
                .with_hint(format!(
                    "SELECT file_path, record_count FROM {files} has its files; FROM '{data}' has \"$path\", and deleted rows, too"
                ))
                .with_sqlstate(told.sqlstate())
                .with_source_of(&told);
        }
        told
    }

    /// Refuses to drop a table of an Iceberg catalog. DataFusion would report that the table does not exist.
    async fn refuse_to_drop(&self, reference: &TableReference) -> Result<(), QueryError> {
        let state = self.context.state();
        let defaults = &state.config_options().catalog;
        let resolved = reference.clone().resolve(&defaults.default_catalog, &defaults.default_schema);
        let is_there = matches!(self.find_table(reference).await, Ok(Some(_)));
        if is_there && self.config.catalogs.contains_key(&*resolved.catalog) {
            return Err(QueryError::sql(format!("table `{reference}` is in an Iceberg catalog"))
                .with_hint("gust reads; drop it with another tool"));
        }
        Ok(())
    }

    /// Returns the table of a reference; None if its catalog, its schema or the table itself is not known.
    async fn find_table(&self, reference: &TableReference) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let state = self.context.state();
        let defaults = &state.config_options().catalog;
        let resolved = reference.clone().resolve(&defaults.default_catalog, &defaults.default_schema);
        if &*resolved.schema == INFORMATION_SCHEMA {
            return state.schema_for_ref(reference.clone())?.table(&resolved.table).await;
        }
        let catalog = state.catalog_list().catalog(&resolved.catalog);
        let Some(schema) = catalog.and_then(|catalog| catalog.schema(&resolved.schema)) else { return Ok(None) };
        schema.table(&resolved.table).await
    }

    async fn not_found(&self, reference: &TableReference) -> QueryError {
        let named = with_table(reference, sql::versions::table_of(reference.table()));
        let reference = &named;
        self.note_ungranted(reference);
        let name = reference.table();
        let known = match reference.schema() {
            Some(history::SCHEMA) => system::table_names(&self.config),
            _ => self.table_names(),
        };
        let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
        // Those in memory come in another order each time, and the first of equally near names is told.
        known.sort_unstable();
        let near = match nearest(name, known.iter().copied()) {
            Some(near) => vec![near.to_owned()],
            None => Box::pin(self.near_table(reference)).await,
        };
        let hint = match near.as_slice() {
            [_, ..] => format!("did you mean `{}`?", near.join("` or `")),
            [] if known.is_empty() && self.config.catalogs.is_empty() => {
                "no table is known; use --catalog, --setup, or a path: FROM 'data/*.parquet'".to_owned()
            }
            [] => "SHOW TABLES lists what there is".to_owned(),
        };
        QueryError::sql(format!("there is no table `{reference}`")).with_hint(hint).with_sqlstate(NO_TABLE)
    }

    /// Lists the names of all catalogs: the session's own and those of the configuration.
    fn catalog_names(&self) -> Vec<String> {
        let configured = self.engine.catalogs.names().map(str::to_owned);
        std::iter::once(OWN_CATALOG.to_owned()).chain(configured).collect()
    }

    /// Lists the session's own tables and those that the statement has asked for, at most [`NAMES_MAX`]. The names have no schema,
    /// and the history's tables are left out.
    fn table_names(&self) -> Vec<String> {
        let catalogs = self.context.catalog_names().into_iter().filter_map(|name| self.context.catalog(&name));
        let schemas = catalogs.flat_map(|catalog| {
            let names = catalog.schema_names().into_iter().filter(|name| name != history::SCHEMA);
            names.filter_map(move |name| catalog.schema(&name))
        });
        schemas.flat_map(|schema| schema.table_names()).take(NAMES_MAX).collect()
    }
}

/// Returns a reference with another table's name.
pub(super) fn with_table(reference: &TableReference, table: &str) -> TableReference {
    match (reference.catalog(), reference.schema()) {
        (Some(catalog), Some(schema)) => TableReference::full(catalog, schema, table),
        (_, Some(schema)) => TableReference::partial(schema, table),
        _ => TableReference::bare(table),
    }
}

/// Returns a statement as the parser writes it, without options, which may hold secrets.
pub fn text_of(statement: &Statement) -> String {
    on_big_stack(|| {
        let sql = Box::new(without_options(&statement.sql));
        Statement { sql, mode: statement.mode, parameters: Vec::new(), keeps_rows: false }.to_string()
    })
}

fn without_options(statement: &EngineStatement) -> EngineStatement {
    match statement {
        EngineStatement::CopyTo(copy) => {
            EngineStatement::CopyTo(CopyToStatement { options: Vec::new(), ..copy.clone() })
        }
        EngineStatement::Explain(explain) => {
            let statement = Box::new(without_options(&explain.statement));
            EngineStatement::Explain(ExplainStatement { options: explain.options.clone(), statement })
        }
        // The parser writes no options of CREATE EXTERNAL TABLE.
        other => other.clone(),
    }
}

fn leaves_and_depth(plan: &LogicalPlan) -> (u64, usize) {
    let inputs = plan.inputs();
    let below = inputs.iter().map(|input| leaves_and_depth(input));
    let (leaves, depth) = below.fold((0, 0), |(leaves, depth), (more, deep)| (leaves + more, depth.max(deep)));
    (leaves.max(1), depth + 1)
}

/// Returns true if the planner refuses a statement because two of its columns have one name.
///
/// DataFusion 55.2 has no kind for the first of these errors, so its text is compared.
fn is_clash_of_names(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::Plan(message) => message.contains("require unique expression names"),
        DataFusionError::SchemaError(kind, _) => matches!(
            **kind,
            SchemaError::DuplicateQualifiedField { .. }
                | SchemaError::DuplicateUnqualifiedField { .. }
                | SchemaError::AmbiguousReference { .. }
        ),
        _ => false,
    }
}

/// Returns true for a statement that describes a table without reading it.
fn describes(statement: &EngineStatement) -> bool {
    use datafusion::sql::sqlparser::ast::Statement;
    let EngineStatement::Statement(statement) = statement else { return false };
    matches!(**statement, Statement::ExplainTable { .. } | Statement::ShowColumns { .. } | Statement::ShowCreate { .. })
}

/// Makes the error of parsing or planning, with the position if DataFusion knows it.
fn sql_error(error: &DataFusionError) -> QueryError {
    let position = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| span.start);
    let at = position.map_or_else(String::new, |at| format!(" at Line: {}, Column: {}", at.line, at.column));
    let message = error.strip_backtrace();
    if let Some(refusal) = sql::without_tree(&message) {
        return QueryError::from(refusal);
    }
    let message = message.trim_start_matches("Error during planning: ").trim_start_matches("Schema error: ");
    // The first line is the message. Later lines list the valid names, and become the hint.
    let (first, rest) = message.split_once('\n').unwrap_or((message, ""));
    let told = QueryError::sql(format!("{}{at}", first.trim_end_matches('.')));
    let told = told.with_default_hint(sql::hint_of_column(first));
    let told = told.with_default_hint(Some(sql::few_fields(rest)).filter(|rest| !rest.is_empty()));
    match error.find_root() {
        DataFusionError::SQL(..) => told.with_sqlstate(SYNTAX),
        DataFusionError::SchemaError(kind, _) if matches!(**kind, SchemaError::FieldNotFound { .. }) => {
            told.with_sqlstate(NO_COLUMN)
        }
        _ => told,
    }
}

/// Tells an error about a call in the names that were written.
fn in_names_of(calls: &sql::WrittenCalls, told: QueryError) -> QueryError {
    match calls.retold(told.message(), told.hint()) {
        Some(retold) => QueryError::new(told.kind(), retold.message)
            .with_default_hint(retold.hint)
            .with_sqlstate(told.sqlstate())
            .with_source_of(&told),
        None => told,
    }
}

/// Makes the error of planning. Planning reads listings and footers, too, so only the text's faults become SQL errors.
fn sort_out(error: DataFusionError) -> QueryError {
    if fragment_fn::find::<QueryError>(&error).is_some() {
        return QueryError::from_engine(error);
    }
    let told = sql_error(&error);
    let sorted = QueryError::from_engine(error);
    if sorted.kind() == ErrorKind::Sql { told.with_source_of(&sorted) } else { sorted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explain_cost_is_told_from_all_else() {
        #[track_caller]
        fn check(text: &str, expect: &[(&str, StatementMode)]) {
            let parsed = statements(&mut DFParserBuilder::new(text).build().expect("words")).expect("SQL");
            let seen: Vec<(String, StatementMode)> = parsed.iter().map(|one| (one.sql.to_string(), one.mode)).collect();
            let seen: Vec<(&str, StatementMode)> = seen.iter().map(|(sql, mode)| (sql.as_str(), *mode)).collect();
            assert_eq!(seen, expect, "{text}");
        }
        use StatementMode::{Cost, Rows};
        check("EXPLAIN COST SELECT 1", &[("SELECT 1", Cost)]);
        check(";; explain /* what? */ cost\n SELECT 1; SELECT 2;", &[("SELECT 1", Cost), ("SELECT 2", Rows)]);
        check("EXPLAIN SELECT cost FROM cost", &[("EXPLAIN SELECT cost FROM cost", Rows)]);
        check(
            "EXPLAIN COST WITH cost AS (SELECT 1) SELECT * FROM cost",
            &[("WITH cost AS (SELECT 1) SELECT * FROM cost", Cost)],
        );
        check("SELECT 1 AS explain; SELECT cost", &[("SELECT 1 AS explain", Rows), ("SELECT cost", Rows)]);
        check("", &[]);
        for bad in ["EXPLAIN COST", "EXPLAIN \"COST\" SELECT 1", "EXPLAIN COST SELECT 1 SELECT 2", "COST SELECT 1"] {
            let error = statements(&mut DFParserBuilder::new(bad).build().expect("words")).expect_err(bad);
            assert!(matches!(error.find_root(), DataFusionError::SQL(..)), "{bad}: {error}");
        }
    }

    #[test]
    fn a_dry_run_keeps_what_is_wanted_anyway() {
        let parse =
            |text: &str| statements(&mut DFParserBuilder::new(text).build().expect("words")).expect("SQL").remove(0);
        assert_eq!(parse("SELECT 1").as_dry_run().mode, StatementMode::CostOrChange);
        assert_eq!(parse("EXPLAIN COST SELECT 1").as_dry_run().to_string(), "EXPLAIN COST SELECT 1");
    }
}
