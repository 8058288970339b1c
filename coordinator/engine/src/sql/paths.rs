//! `"$path"`, Athena's and Trino's hidden column with the file of a row: a call of the engine's `input_file_name()`, behind the URL
//! of the table's store.
//!
//! It belongs to the one table in the FROM of its SELECT. [`tables`] lists the tables that may have it, [`write()`] puts the call
//! in its place. Where FROM has a query, it is a column of that query, if the query has such a column. Non-goals: several tables in one
//! FROM, and tables that are not files of one store.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, Query, Select, SelectItem, Spanned, TableFactor, Value, Visitor, VisitorMut,
};

use super::limits::folded_name;
use super::template::{filled, template};
use super::walk::{walk, walk_mut};
use super::{Refusal, inner, inner_mut};

/// Name of the column.
pub(crate) const PATH: &str = "$path";

/// Lists the tables of a statement that asks for the column.
pub(crate) fn tables(statement: &EngineStatement) -> Vec<ObjectName> {
    let Some(statement) = inner(statement).filter(|statement| walk(*statement, &mut Asks).is_break()) else {
        return Vec::new();
    };
    let mut found = Found::default();
    let ControlFlow::Continue(()) = walk(statement, &mut found);
    let Found { mut tables, queries } = found;
    let is_query = |name: &ObjectName| match name.0.as_slice() {
        [part] => part.as_ident().is_some_and(|part| queries.contains(&folded_name(part))),
        _ => false,
    };
    tables.retain(|name| !is_query(name));
    tables
}

/// Ends at the column.
struct Asks;

impl Visitor for Asks {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if path(expr).is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Tables in FROM, and names of queries in WITH, which hide tables.
#[derive(Default)]
struct Found {
    tables: Vec<ObjectName>,
    queries: BTreeSet<String>,
}

impl Visitor for Found {
    type Break = Infallible;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Infallible> {
        let named = query.with.iter().flat_map(|with| &with.cte_tables);
        self.queries.extend(named.map(|cte| folded_name(&cte.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Infallible> {
        for relation in relations(select) {
            if let TableFactor::Table { name, args: None, .. } = relation
                && !self.tables.contains(name)
            {
                self.tables.push(name.clone());
            }
        }
        ControlFlow::Continue(())
    }
}

fn relations(select: &Select) -> impl Iterator<Item = &TableFactor> {
    select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)))
}

/// Writes the column as a call. `stores` has the beginnings of the paths of tables that are files of one store.
///
/// # Errors
/// A refusal of the column of one of several tables.
pub(crate) fn write(statement: &mut EngineStatement, stores: &HashMap<ObjectName, String>) -> Result<(), Refusal> {
    let Some(statement) = inner_mut(statement).filter(|_| !stores.is_empty()) else { return Ok(()) };
    match walk_mut(statement, &mut Writer { stores, scopes: Vec::new() }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// Meaning of the column in a SELECT.
enum Scope {
    /// Column of what is in FROM, if there is one.
    Column,
    /// File of the one table, by its alias or its name. The texts of items keep their places.
    File { table: Option<String>, store: String, texts: Vec<Option<String>> },
    /// One of several tables may have it.
    Several,
}

struct Writer<'a> {
    stores: &'a HashMap<ObjectName, String>,
    scopes: Vec<Scope>,
}

impl VisitorMut for Writer<'_> {
    type Break = Refusal;

    // ORDER BY is the query's: it knows the columns of the result.
    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Refusal> {
        self.scopes.push(Scope::Column);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Refusal> {
        self.scopes.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Refusal> {
        let store = |relation: &TableFactor| match relation {
            TableFactor::Table { name, alias, .. } => {
                let store = self.stores.get(name)?.clone();
                let last = name.0.last().and_then(|part| part.as_ident());
                Some((alias.as_ref().map(|alias| &alias.name).or(last).map(folded_name), store))
            }
            _ => None,
        };
        let mut relations = relations(select);
        let scope = match (relations.next().map(store), relations.next().is_none()) {
            (Some(Some((table, store))), true) => {
                let texts = select.projection.iter().map(text_of).collect();
                Scope::File { table, store, texts }
            }
            (_, true) => Scope::Column,
            (_, false) => Scope::Several,
        };
        self.scopes.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Refusal> {
        let Some(Scope::File { texts, .. }) = self.scopes.pop() else { return ControlFlow::Continue(()) };
        for (item, text) in select.projection.iter_mut().zip(texts) {
            let (SelectItem::UnnamedExpr(expr), Some(text)) = (&*item, text) else { continue };
            let expr = expr.clone();
            *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', text) };
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        let Some(qualifier) = path(expr) else { return ControlFlow::Continue(()) };
        match self.scopes.last() {
            Some(Scope::File { table, store, .. }) if qualifier.is_none() || qualifier == *table => {
                let store = Expr::Value(Value::SingleQuotedString(store.clone()).into());
                *expr = filled(template("($1 || input_file_name())"), &[store], None, expr.span());
                ControlFlow::Continue(())
            }
            Some(Scope::Several) => ControlFlow::Break(Refusal::new(
                "\"$path\" of one of several tables in FROM is not supported",
                "give it a name in an inner query: FROM (SELECT *, \"$path\" AS file FROM t) AS t JOIN ...",
            )),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Returns the table by which the column is called, where an expression is the column.
fn path(expr: &Expr) -> Option<Option<String>> {
    match expr {
        Expr::Identifier(name) => (name.value == PATH).then_some(None),
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [.., table, name] => (name.value == PATH).then(|| Some(folded_name(table))),
            _ => None,
        },
        _ => None,
    }
}

/// Returns the name of an item that has none and asks for the column.
fn text_of(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(expr) if path(expr).is_some() => Some(PATH.to_owned()),
        SelectItem::UnnamedExpr(expr) => walk(expr, &mut Asks).is_break().then(|| expr.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parsed;

    fn written(sql: &str) -> Result<String, Refusal> {
        let mut statement = EngineStatement::Statement(Box::new(parsed(sql)));
        let tables = tables(&statement);
        let stores =
            tables.into_iter().filter(|name| name.to_string() != "plain").map(|name| (name, "s3://b/".to_owned()));
        write(&mut statement, &stores.collect())?;
        Ok(statement.to_string())
    }

    #[test]
    fn the_column_is_the_file_of_the_one_table() {
        for (sql, expect) in [
            ("SELECT \"$path\" FROM t", "SELECT ('s3://b/' || input_file_name()) AS \"$path\" FROM t"),
            (
                "SELECT lower(x.\"$path\"), id FROM t AS x WHERE \"$path\" LIKE '%a'",
                "SELECT lower(('s3://b/' || input_file_name())) AS \"lower(x.\"\"$path\"\")\", id FROM t AS x WHERE ('s3://b/' || input_file_name()) LIKE '%a'",
            ),
            (
                "SELECT t.\"$path\" AS p FROM t GROUP BY t.\"$path\"",
                "SELECT ('s3://b/' || input_file_name()) AS p FROM t GROUP BY ('s3://b/' || input_file_name())",
            ),
            // Columns of other names, of queries, and of tables that are no files.
            ("SELECT \"$paths\" FROM t", "SELECT \"$paths\" FROM t"),
            (
                "SELECT \"$path\" FROM (SELECT \"$path\" FROM t) AS q",
                "SELECT \"$path\" FROM (SELECT ('s3://b/' || input_file_name()) AS \"$path\" FROM t) AS q",
            ),
            ("SELECT \"$path\" FROM plain", "SELECT \"$path\" FROM plain"),
            (
                "SELECT id FROM t WHERE id = (SELECT y FROM plain ORDER BY \"$path\" LIMIT 1)",
                "SELECT id FROM t WHERE id = (SELECT y FROM plain ORDER BY \"$path\" LIMIT 1)",
            ),
            ("WITH t AS (SELECT 1) SELECT \"$path\" FROM t", "WITH t AS (SELECT 1) SELECT \"$path\" FROM t"),
        ] {
            assert_eq!(written(sql).as_deref(), Ok(expect), "{sql}");
        }
        let refusal = written("SELECT t.\"$path\" FROM t JOIN u ON t.id = u.id").expect_err("two tables");
        assert!(refusal.message.contains("several tables in FROM"), "{refusal:?}");
    }
}
