//! `"$path"`, Athena's and Trino's hidden column with the file of a row.
//!
//! ```text
//!  SELECT "$path" FROM t     SELECT __gust_path_0 AS "$path" FROM (SELECT *, 's3://b/' || input_file_name() AS __gust_path_0 FROM t) AS t
//!  SELECT * FROM t WHERE …   SELECT * EXCLUDE (__gust_path_0) FROM (…) AS t WHERE …
//! ```
//!
//! [`tables`] lists the tables that may have it. [`write()`] gives it to those of each SELECT that names it, as a column beside
//! theirs that the planner pushes into the scan. Each has a name of its own, so that no other scope, wildcard or NATURAL JOIN takes it for
//! one of its columns. Beside other tables it is called by its table. Non-goals: tables that are not files of one store, and those
//! whose name has several parts and no alias.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, Join, ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
    SetExpr, TableAlias, TableFactor, TableWithJoins, Value, Visit, Visitor, VisitorMut,
};

use super::limits::folded_name;
use super::template::query;
use super::walk::{walk, walk_mut};
use super::with_scopes::WithScopes;
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
    found.tables
}

/// Ends at the column.
struct Asks;

impl Visitor for Asks {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if is_path(expr) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Tables in FROM that no query in WITH hides.
#[derive(Default)]
struct Found {
    tables: Vec<ObjectName>,
    with: WithScopes,
}

impl Visitor for Found {
    type Break = Infallible;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Infallible> {
        self.with.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Infallible> {
        self.with.leave();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Infallible> {
        for relation in relations(select) {
            if let TableFactor::Table { name, args: None, .. } = relation
                && !self.tables.contains(name)
                && !self.with.hides(name)
            {
                self.tables.push(name.clone());
            }
        }
        ControlFlow::Continue(())
    }
}

/// Lists what stands in FROM, also inside the brackets of joins.
fn relations(select: &Select) -> Vec<&TableFactor> {
    fn add<'a>(of: &'a TableWithJoins, found: &mut Vec<&'a TableFactor>) {
        for relation in std::iter::once(&of.relation).chain(of.joins.iter().map(|join| &join.relation)) {
            match relation {
                TableFactor::NestedJoin { table_with_joins, alias: None } => add(table_with_joins, found),
                other => found.push(other),
            }
        }
    }
    let mut found = Vec::new();
    select.from.iter().for_each(|from| add(from, &mut found));
    found
}

/// Gives the column to the tables of each SELECT that names it, or whose table a subquery names. `stores` has the beginnings of the
/// paths of tables that are files of one store.
///
/// # Errors
/// A refusal of a name that does not tell its table.
pub(crate) fn write(statement: &mut EngineStatement, stores: &HashMap<ObjectName, String>) -> Result<(), Refusal> {
    let Some(statement) = inner_mut(statement).filter(|_| !stores.is_empty()) else { return Ok(()) };
    let mut writer = Writer { stores, given: 0, with: WithScopes::default(), queries: Vec::new(), scopes: Vec::new() };
    match walk_mut(statement, &mut writer) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// Table in FROM by the name that it is called by, and its column if it has got one.
struct Called {
    name: String,
    column: Option<String>,
}

/// Tables of a SELECT.
#[derive(Default)]
struct Scope {
    tables: Vec<Called>,
    /// True if a bare name is that of the one table.
    is_one: bool,
    /// Texts of items that have no name and ask for the column.
    texts: Vec<Option<String>>,
    /// True if an item has the column's name.
    is_shown: bool,
}

struct Writer<'a> {
    stores: &'a HashMap<ObjectName, String>,
    /// Number of tables that have got the column so far.
    given: usize,
    with: WithScopes,
    queries: Vec<Around>,
    /// For each SELECT around, and for the SELECT of each ORDER BY around.
    scopes: Vec<Scope>,
}

/// Query around.
#[derive(Default)]
struct Around {
    /// True if its ORDER BY names the column.
    is_ordered_by: bool,
    /// True once its SELECT is written: ORDER BY knows its tables, too.
    is_written: bool,
}

impl VisitorMut for Writer<'_> {
    type Break = Refusal;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
        self.with.enter(query);
        self.queries.push(Around { is_ordered_by: names(&query.order_by), is_written: false });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Refusal> {
        self.with.leave();
        if self.queries.pop().is_some_and(|query| query.is_written) {
            self.scopes.pop();
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Refusal> {
        let mut is_wanted = names(&select.distinct)
            || names(&select.projection)
            || names(&select.selection)
            || names(&select.group_by)
            || names(&select.having)
            || names(&select.qualify)
            || names(&select.named_window)
            || relations(select)
                .iter()
                .any(|relation| matches!(relation, TableFactor::UNNEST { .. }) && names(*relation))
            || joins(select).iter().any(|join| names(&join.join_operator));
        if let Some(query) = self.queries.last_mut() {
            is_wanted |= query.is_ordered_by;
            // An earlier SELECT of a UNION is over.
            if std::mem::take(&mut query.is_written) {
                self.scopes.pop();
            }
        }
        let mut scope = Scope { texts: select.projection.iter().map(text_of).collect(), ..Scope::default() };
        scope.is_shown = select.projection.iter().any(is_shown);
        let mut others = 0;
        for relation in relations_mut(select) {
            let TableFactor::Table { name, alias, args: None, .. } = &*relation else {
                let is_of_rows = matches!(relation, TableFactor::UNNEST { .. });
                others += usize::from(!is_of_rows);
                if let Some(alias) = alias_of(relation) {
                    scope.tables.push(Called { name: alias, column: None });
                }
                continue;
            };
            let parts: Vec<&Ident> = name.0.iter().filter_map(|part| part.as_ident()).collect();
            let called = alias.as_ref().map(|alias| &alias.name).or(parts.last().copied()).cloned();
            // A name of several parts would be another one for those who call the table by it.
            let is_plain = alias.is_some() || parts.len() == 1;
            let store = self.stores.get(name).filter(|_| is_plain && is_wanted && !self.with.hides(name));
            let (Some(called), Some(store)) = (called, store) else {
                others += 1;
                scope.tables.extend(called_by(relation));
                continue;
            };
            let column = format!("__gust_path_{}", self.given);
            self.given += 1;
            scope.tables.push(Called { name: folded_name(&called), column: Some(column.clone()) });
            *relation = with_path(relation, store, called, &column);
        }
        let given: Vec<&Called> = scope.tables.iter().filter(|table| table.column.is_some()).collect();
        scope.is_one = given.len() == 1 && others == 0;
        if !given.is_empty() {
            select.projection.iter_mut().for_each(|item| without_path(item, &given));
        }
        self.scopes.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Refusal> {
        let texts = self.scopes.last_mut().map(|scope| std::mem::take(&mut scope.texts)).unwrap_or_default();
        for (item, text) in select.projection.iter_mut().zip(texts) {
            let (SelectItem::UnnamedExpr(expr), Some(text)) = (&*item, text) else { continue };
            if !is_path(expr) && expr.to_string() != text {
                let expr = expr.clone();
                *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', text) };
            }
        }
        // The scope stays for ORDER BY.
        if let Some(query) = self.queries.last_mut() {
            query.is_written = true;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        let called = match &*expr {
            Expr::Identifier(name) if name.value == PATH => None,
            Expr::CompoundIdentifier(parts) if is_path(expr) && parts.len() == 2 => Some(folded_name(&parts[0])),
            _ => return ControlFlow::Continue(()),
        };
        let Some(innermost) = self.scopes.last() else { return ControlFlow::Continue(()) };
        let is_order_by = self.queries.last().is_some_and(|query| query.is_written);
        let has_some = innermost.tables.iter().any(|table| table.column.is_some());
        let found = match &called {
            Some(name) => {
                let mut tables = self.scopes.iter().rev().flat_map(|scope| &scope.tables);
                tables.find(|table| table.name == *name)
            }
            // ORDER BY knows the columns of the result by their names.
            None if is_order_by && innermost.is_shown => None,
            None if has_some && !innermost.is_one => {
                let refusal = Refusal::new("\"$path\" does not tell its table", "name the table: t.\"$path\"");
                return ControlFlow::Break(refusal);
            }
            None => innermost.tables.iter().find(|table| table.column.is_some()),
        };
        if let Some(column) = found.and_then(|table| table.column.as_ref()) {
            *expr = Expr::Identifier(Ident::new(column));
        }
        ControlFlow::Continue(())
    }
}

/// Tells if a part of a statement names the column.
fn names(part: &impl Visit) -> bool {
    walk(part, &mut Asks).is_break()
}

fn relations_mut(select: &mut Select) -> Vec<&mut TableFactor> {
    fn add<'a>(of: &'a mut TableWithJoins, found: &mut Vec<&'a mut TableFactor>) {
        let joined = of.joins.iter_mut().map(|join| &mut join.relation);
        for relation in std::iter::once(&mut of.relation).chain(joined) {
            match relation {
                TableFactor::NestedJoin { table_with_joins, alias: None } => add(table_with_joins, found),
                other => found.push(other),
            }
        }
    }
    let mut found = Vec::new();
    select.from.iter_mut().for_each(|from| add(from, &mut found));
    found
}

/// Lists the joins in FROM, also those in brackets.
fn joins(select: &Select) -> Vec<&Join> {
    fn add<'a>(of: &'a TableWithJoins, found: &mut Vec<&'a Join>) {
        for relation in std::iter::once(&of.relation).chain(of.joins.iter().map(|join| &join.relation)) {
            if let TableFactor::NestedJoin { table_with_joins, .. } = relation {
                add(table_with_joins, found);
            }
        }
        found.extend(&of.joins);
    }
    let mut found = Vec::new();
    select.from.iter().for_each(|from| add(from, &mut found));
    found
}

/// Returns a table without the column, by its name or its alias.
fn called_by(table: &TableFactor) -> Option<Called> {
    let TableFactor::Table { name, alias, .. } = table else { return None };
    let last = name.0.last().and_then(|part| part.as_ident());
    let name = alias.as_ref().map(|alias| &alias.name).or(last).map(folded_name)?;
    Some(Called { name, column: None })
}

fn alias_of(relation: &TableFactor) -> Option<String> {
    match relation {
        TableFactor::Table { .. } => called_by(relation).map(|called| called.name),
        TableFactor::Derived { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::Function { alias, .. } => alias.as_ref().map(|alias| folded_name(&alias.name)),
        _ => None,
    }
}

/// Returns a table with the column, under the name that the table is called by.
fn with_path(table: &TableFactor, store: &str, called: Ident, column: &str) -> TableFactor {
    let store = Expr::Value(Value::SingleQuotedString(store.to_owned()).into());
    let mut subquery = query("SELECT *, ($1 || input_file_name()) AS path FROM t", &[store]);
    if let SetExpr::Select(select) = subquery.body.as_mut() {
        if let Some(from) = select.from.first_mut() {
            from.relation = table.clone();
        }
        if let Some(SelectItem::ExprWithAlias { alias, .. }) = select.projection.last_mut() {
            *alias = Ident::new(column);
        }
    }
    let alias = TableAlias { explicit: true, name: called, columns: Vec::new(), at: None };
    TableFactor::Derived { lateral: false, subquery: Box::new(subquery), alias: Some(alias), sample: None }
}

/// Tells if an item is the column, or has its name.
fn is_shown(item: &SelectItem) -> bool {
    match item {
        SelectItem::UnnamedExpr(expr) => is_path(expr),
        SelectItem::ExprWithAlias { alias, .. } => alias.value == PATH,
        _ => false,
    }
}

/// Returns the name of an item that has none and asks for the column.
fn text_of(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(expr) if is_path(expr) => Some(PATH.to_owned()),
        SelectItem::UnnamedExpr(expr) => walk(expr, &mut Asks).is_break().then(|| expr.to_string()),
        _ => None,
    }
}

/// Leaves the columns out of a wildcard that stands for tables that have got them.
fn without_path(item: &mut SelectItem, given: &[&Called]) {
    let (options, table) = match item {
        SelectItem::Wildcard(options) => (options, None),
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
            (options, name.0.last().and_then(|part| part.as_ident()).map(folded_name))
        }
        _ => return,
    };
    let of = given.iter().filter(|called| table.as_ref().is_none_or(|table| called.name == *table));
    let columns: Vec<ObjectName> =
        of.filter_map(|called| Some(ObjectName::from(Ident::new(called.column.as_ref()?)))).collect();
    if columns.is_empty() {
        return;
    }
    let mut left_out = match options.opt_exclude.take() {
        Some(ExcludeSelectItem::Multiple(left_out)) => left_out,
        Some(ExcludeSelectItem::Single(left_out)) => vec![left_out],
        None => Vec::new(),
    };
    left_out.extend(columns);
    options.opt_exclude = Some(ExcludeSelectItem::Multiple(left_out));
}

fn is_path(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(name) => name.value == PATH,
        Expr::CompoundIdentifier(parts) => parts.last().is_some_and(|name| name.value == PATH),
        _ => false,
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
        let written = statement.to_string();
        parsed(&written);
        Ok(written)
    }

    #[test]
    fn tables_of_a_select_that_names_the_column_have_it() {
        let of = |table: &str, called: &str, number: usize| {
            format!("(SELECT *, ('s3://b/' || input_file_name()) AS __gust_path_{number} FROM {table}) AS {called}")
        };
        let (t, u) = (of("t", "t", 0), of("u", "u", 1));
        for (sql, expect) in [
            ("SELECT \"$path\" FROM t", format!("SELECT __gust_path_0 AS \"$path\" FROM {t}")),
            (
                "SELECT lower(x.\"$path\") AS l, id FROM t AS x WHERE \"$path\" LIKE '%a'",
                format!(
                    "SELECT lower(__gust_path_0) AS l, id FROM {} WHERE __gust_path_0 LIKE '%a'",
                    of("t AS x", "x", 0)
                ),
            ),
            (
                "SELECT t.\"$path\" AS p FROM (t JOIN u ON t.id = u.id)",
                format!("SELECT __gust_path_0 AS p FROM ({t} JOIN {u} ON t.id = u.id)"),
            ),
            (
                "SELECT id, p FROM t CROSS JOIN UNNEST(split(\"$path\", '/')) AS w (p)",
                format!("SELECT id, p FROM {t} CROSS JOIN UNNEST(split(__gust_path_0, '/')) AS w (p)"),
            ),
            // A query of its table's name reads the table.
            (
                "WITH t AS (SELECT id, \"$path\" AS f FROM t) SELECT f FROM t",
                format!("WITH t AS (SELECT id, __gust_path_0 AS f FROM {t}) SELECT f FROM t"),
            ),
            ("SELECT id FROM t ORDER BY \"$path\"", format!("SELECT id FROM {t} ORDER BY __gust_path_0")),
            (
                "SELECT DISTINCT \"$path\" FROM t ORDER BY \"$path\"",
                format!("SELECT DISTINCT __gust_path_0 AS \"$path\" FROM {t} ORDER BY \"$path\""),
            ),
            (
                "SELECT * FROM t JOIN u ON t.id = u.id WHERE t.\"$path\" = 'a'",
                format!(
                    "SELECT * EXCLUDE (__gust_path_0, __gust_path_1) FROM {t} JOIN {u} ON t.id = u.id WHERE __gust_path_0 = 'a'"
                ),
            ),
            (
                "SELECT t.* EXCLUDE (a), plain.* FROM t, plain WHERE t.\"$path\" = b",
                format!("SELECT t.* EXCLUDE (a, __gust_path_0), plain.* FROM {t}, plain WHERE __gust_path_0 = b"),
            ),
            // A subquery's own table has none, and the outer one's is not taken.
            (
                "SELECT \"$path\" AS p FROM t WHERE EXISTS (SELECT 1 FROM plain WHERE \"$path\" = 'a')",
                format!("SELECT __gust_path_0 AS p FROM {t} WHERE EXISTS (SELECT 1 FROM plain WHERE \"$path\" = 'a')"),
            ),
            (
                "SELECT id FROM t WHERE EXISTS (SELECT 1 FROM plain WHERE y = t.\"$path\")",
                format!("SELECT id FROM {t} WHERE EXISTS (SELECT 1 FROM plain WHERE y = __gust_path_0)"),
            ),
            // The inner query alone names it, or a table of that name hides the outer one.
            (
                "SELECT \"$path\" FROM (SELECT \"$path\" FROM t) AS q",
                format!("SELECT \"$path\" FROM (SELECT __gust_path_0 AS \"$path\" FROM {t}) AS q"),
            ),
            // Columns of other names, tables that are no files, and names of several parts.
            ("SELECT \"$paths\" FROM t", "SELECT \"$paths\" FROM t".to_owned()),
            ("SELECT \"$path\" FROM plain", "SELECT \"$path\" FROM plain".to_owned()),
            ("SELECT \"$path\" FROM s.t", "SELECT \"$path\" FROM s.t".to_owned()),
            ("WITH t AS (SELECT 1) SELECT \"$path\" FROM t", "WITH t AS (SELECT 1) SELECT \"$path\" FROM t".to_owned()),
        ] {
            assert_eq!(written(sql).as_deref(), Ok(expect.as_str()), "{sql}");
        }
        for sql in [
            "SELECT \"$path\" FROM t, u",
            "SELECT 1 FROM t, plain ORDER BY \"$path\"",
            "WITH u AS (SELECT 1 AS a), t AS (SELECT \"$path\" FROM u, t) SELECT 1 FROM t",
        ] {
            let refusal = written(sql).expect_err(sql);
            assert_eq!(refusal.message, "\"$path\" does not tell its table", "{sql}");
        }
    }
}
