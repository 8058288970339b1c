//! Whole statements of other engines, as statements or queries of the engine.
//!
//! ```text
//!  SHOW CATALOGS [LIKE 'a%']                              a query of their names
//!  SHOW SCHEMAS, DATABASES [IN c] [LIKE 'a%']             a query of information_schema
//!  SHOW TABLES IN s, IN c.s, LIKE 'a%'                    a query of information_schema
//!  SHOW FUNCTIONS [LIKE 'a%']                             a row for each name, those of other engines among them
//!  SET TIME ZONE 'UTC'                                    SET datafusion.execution.time_zone = 'UTC'
//!  CREATE TEMP VIEW, CREATE TEMP TABLE … AS               without TEMP: a session's views and tables end with it
//!  EXECUTE q USING 1, 2                                   EXECUTE q(1, 2)
//!  SHOW CREATE VIEW v                                     SHOW CREATE TABLE v
//! ```

use datafusion::sql::sqlparser::ast::{
    ContextModifier, CreateTableOptions, Expr, Ident, ObjectName, Set, ShowCreateObject, ShowStatementFilter,
    ShowStatementFilterPosition, ShowStatementOptions, Statement, Value, ValueWithSpan,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::Refusal;
use super::foreign::{self, Listed};
use super::limits::folded_name;
use super::template::{filled, query, template};

/// Rewrites a statement of another engine.
///
/// # Errors
/// A refusal of a form that cannot be written, with what to write instead.
pub(super) fn rewrite(statement: &mut Statement, catalogs: &[String]) -> Result<(), Refusal> {
    let shown = match statement {
        Statement::ShowCatalogs { show_options, .. } => {
            let name = filter(show_options, "catalog_name LIKE $1", "catalog_name ILIKE $1")?;
            refuse_place(show_options)?;
            // No catalog is asked.
            let rows = catalogs.iter().map(|name| format!("('{}')", name.replace('\'', "''"))).collect::<Vec<_>>();
            let names =
                format!("SELECT catalog_name FROM (VALUES {}) AS c(catalog_name) WHERE $1 ORDER BY 1", rows.join(", "));
            query(&names, &[name])
        }
        Statement::ShowSchemas { show_options, .. } | Statement::ShowDatabases { show_options, .. } => {
            let name = filter(show_options, "schema_name LIKE $1", "schema_name ILIKE $1")?;
            let place = match place(show_options).as_slice() {
                [] => truth(),
                [catalog] => equal("catalog_name = $1", catalog),
                _ => return Err(Refusal::new("SHOW SCHEMAS in a schema is not supported", "name a catalog")),
            };
            query(
                "SELECT DISTINCT schema_name FROM information_schema.schemata WHERE $1 AND $2 ORDER BY 1",
                &[name, place],
            )
        }
        Statement::ShowTables { show_options, .. } if has_filter(show_options) || has_place(show_options) => {
            let name = filter(show_options, "table_name LIKE $1", "table_name ILIKE $1")?;
            let (catalog, schema) = match place(show_options).as_slice() {
                [] => (truth(), truth()),
                [catalog] if catalogs.contains(catalog) => (equal("table_catalog = $1", catalog), truth()),
                [catalog, levels @ ..] if catalogs.contains(catalog) => {
                    (equal("table_catalog = $1", catalog), equal("table_schema = $1", &levels.join(".")))
                }
                levels => (truth(), equal("table_schema = $1", &levels.join("."))),
            };
            query(
                "SELECT * FROM information_schema.tables WHERE $1 AND $2 AND $3 ORDER BY 1, 2, 3",
                &[name, catalog, schema],
            )
        }
        Statement::ShowFunctions { filter } => {
            let name = match filter {
                Some(filter) => matching(filter, "name LIKE $1", "name ILIKE $1")?,
                None => truth(),
            };
            query(&functions(), &[name])
        }
        Statement::ShowColumns { show_options, .. } if has_filter(show_options) => {
            return Err(Refusal::new(
                "SHOW COLUMNS with LIKE or WHERE is not supported",
                "SELECT * FROM information_schema.columns WHERE table_name = 't' AND column_name LIKE 'a%'",
            ));
        }
        _ => return changed(statement),
    };
    *statement = Statement::Query(Box::new(shown));
    Ok(())
}

fn changed(statement: &mut Statement) -> Result<(), Refusal> {
    match statement {
        Statement::Set(Set::SetTimeZone { value, .. }) => {
            let Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(_), .. }) = value else {
                let hint = "name a zone: SET TIME ZONE 'Europe/Berlin'";
                return Err(Refusal::new(format!("SET TIME ZONE {value} is not supported"), hint));
            };
            let name = ["datafusion", "execution", "time_zone"].map(Ident::new);
            *statement = Statement::Set(Set::SingleAssignment {
                scope: None,
                hivevar: false,
                variable: ObjectName::from(name.to_vec()),
                values: vec![value.clone()],
            });
        }
        Statement::Set(Set::SingleAssignment { scope: Some(ContextModifier::Session), variable, .. }) => {
            let hint = "SHOW ALL lists the settings; SET name = value changes one";
            return Err(Refusal::new(format!("there is no session property `{variable}`"), hint));
        }
        Statement::CreateView(view) if view.materialized => {
            let hint = "CREATE TABLE AS keeps rows as long as the session; CREATE VIEW keeps the query";
            return Err(Refusal::new("CREATE MATERIALIZED VIEW is not supported", hint));
        }
        Statement::CreateView(view) if view.if_not_exists => {
            let hint = "CREATE OR REPLACE VIEW makes it in any case";
            return Err(Refusal::new("CREATE VIEW with IF NOT EXISTS is not supported", hint));
        }
        Statement::CreateView(view) => view.temporary = false,
        Statement::CreateTable(table) if !matches!(table.table_options, CreateTableOptions::None) => {
            let hint = "CREATE TABLE t AS SELECT ... keeps rows as long as the session, COPY (SELECT ...) TO 'rows.parquet' writes a file";
            return Err(Refusal::new("CREATE TABLE with options is not supported", hint));
        }
        Statement::CreateTable(table) if table.query.is_some() => table.temporary = false,
        Statement::Execute { parameters, has_parentheses, using, .. } if !using.is_empty() && parameters.is_empty() => {
            *parameters = std::mem::take(using).into_iter().map(|given| given.expr).collect();
            *has_parentheses = true;
        }
        Statement::ShowCreate { obj_type: kind @ ShowCreateObject::View, .. } => *kind = ShowCreateObject::Table,
        _ => {}
    }
    Ok(())
}

fn truth() -> Expr {
    Expr::Value(Value::Boolean(true).into())
}

fn text(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).into())
}

fn equal(condition: &'static str, name: &str) -> Expr {
    filled(template(condition), &[text(name)], None, Span::empty())
}

fn has_filter(options: &ShowStatementOptions) -> bool {
    options.filter_position.is_some() || options.starts_with.is_some() || options.limit.is_some()
}

fn has_place(options: &ShowStatementOptions) -> bool {
    options.show_in.is_some()
}

/// Returns the parts of the name behind IN or FROM.
fn place(options: &ShowStatementOptions) -> Vec<String> {
    let name = options.show_in.as_ref().and_then(|place| place.parent_name.as_ref());
    let parts = name.into_iter().flat_map(|name| &name.0);
    parts.filter_map(|part| part.as_ident()).map(folded_name).collect()
}

fn refuse_place(options: &ShowStatementOptions) -> Result<(), Refusal> {
    match has_place(options) {
        true => Err(Refusal::new("SHOW CATALOGS in a place is not supported", "leave it out, or use LIKE")),
        false => Ok(()),
    }
}

/// Returns the condition that a SHOW statement has.
fn filter(options: &ShowStatementOptions, like: &'static str, ilike: &'static str) -> Result<Expr, Refusal> {
    if options.starts_with.is_some() || options.limit.is_some() || options.limit_from.is_some() {
        return Err(no_filter());
    }
    match &options.filter_position {
        None => Ok(truth()),
        Some(ShowStatementFilterPosition::Infix(filter) | ShowStatementFilterPosition::Suffix(filter)) => {
            matching(filter, like, ilike)
        }
    }
}

fn matching(filter: &ShowStatementFilter, like: &'static str, ilike: &'static str) -> Result<Expr, Refusal> {
    let (condition, pattern) = match filter {
        ShowStatementFilter::Like(pattern) | ShowStatementFilter::NoKeyword(pattern) => (like, pattern),
        ShowStatementFilter::ILike(pattern) => (ilike, pattern),
        ShowStatementFilter::Where(_) => return Err(no_filter()),
    };
    Ok(filled(template(condition), &[text(pattern)], None, Span::empty()))
}

fn no_filter() -> Refusal {
    Refusal::new("SHOW with WHERE, LIMIT or STARTS WITH is not supported", "use LIKE 'a%'")
}

/// Returns the template of SHOW FUNCTIONS. A name of another engine is left out where the engine has a function of it.
fn functions() -> String {
    let quoted = |text: &str| text.replace('\'', "''");
    let foreign = foreign::listed();
    let foreign = foreign
        .iter()
        .map(|Listed { name, calls, here }| format!("('{name}', '{}', 'is {}')", quoted(calls), quoted(here)));
    let foreign: Vec<String> = foreign.collect();
    format!(
        "SELECT name, kind, calls, description FROM ( \
           SELECT routine_name AS name, lower(min(function_type)) AS kind, min(syntax_example) AS calls, \
             min(description) AS description \
           FROM information_schema.routines WHERE routine_name NOT LIKE 'gust\\_%' GROUP BY routine_name \
           UNION ALL \
           SELECT column1, 'rewritten', column2, column3 FROM (VALUES {}) \
           WHERE column1 NOT IN (SELECT routine_name FROM information_schema.routines) \
         ) WHERE $1 ORDER BY name",
        foreign.join(", ")
    )
}
