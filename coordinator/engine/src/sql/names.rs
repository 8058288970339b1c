//! Names of columns. A column of the result is shown by the text of its expression, as it was written: `count(*)`, `a + 1`.
//!
//! The engine refuses columns of one name: `SELECT a, a`, `SELECT x::int, x::text`, `SELECT ts::date … ORDER BY ts`.
//! The engine tells columns apart by names, and a cast has its argument's name (DataFusion 55.2: "Projections require
//! unique expression names"). Only statements that it has refused for that come here. They get
//! 1. casts with names of their own: `CASE WHEN k = k THEN x::int END`, which the optimizer takes away again;
//! 2. aliases of our own for columns of the result, and [`Names`] to show the columns' own names in their place;
//! 3. numbers behind equal names in inner queries and views: `a`, `a_1`, as in DuckDB.
//!
//! No column gets a name that an ORDER BY beside it could take for a column of the input.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, Ident, OrderByKind, Query, Select, SelectItem, SetExpr, Statement, Value, Visitor,
    VisitorMut,
};

use super::limits::folded_name;
use super::walk::{walk, walk_mut};

/// Names that are shown for the columns of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// Names for aliases of our own.
    aliases: HashMap<String, String>,
    /// Texts of the first columns, up to an item that stands for columns of an unknown number.
    first: Vec<Option<String>>,
    /// Texts of the last columns behind such items, the last one first. None if there is no such item.
    last: Option<Vec<Option<String>>>,
    /// Texts of all items, where none is a wildcard. They hold if each is one column, as the elements of a list are.
    each: Option<Vec<Option<String>>>,
}

impl Names {
    /// Takes the names of a query's columns from its text. Aliases and columns keep the engine's names. A cast of a column has the
    /// column's name, without its table.
    pub(crate) fn written(statement: &EngineStatement) -> Self {
        let EngineStatement::Statement(statement) = statement else { return Self::default() };
        let Statement::Query(query) = statement.as_ref() else { return Self::default() };
        let mut body = query.body.as_ref();
        let select = loop {
            body = match body {
                SetExpr::Select(select) => break select,
                SetExpr::SetOperation { left, .. } => left.as_ref(),
                SetExpr::Query(query) => query.body.as_ref(),
                _ => return Self::default(),
            };
        };
        let items = &select.projection;
        let known = |item: &&SelectItem| !is_of_many(item);
        let first: Vec<_> = items.iter().take_while(known).map(text_of).collect();
        let last = (first.len() < items.len()).then(|| items.iter().rev().take_while(known).map(text_of).collect());
        let is_wildcard =
            |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        let each = (!items.iter().any(is_wildcard)).then(|| items.iter().map(text_of).collect());
        Self { aliases: HashMap::new(), first, last, each }
    }

    /// Adds the names that are shown for aliases.
    pub(crate) fn with_aliases(self, Names { aliases, .. }: Names) -> Self {
        Self { aliases, ..self }
    }

    /// Returns the name to show for the column at a place, of so many columns. `name` is that of the plan.
    pub(crate) fn shown<'a>(&'a self, place: usize, columns: usize, name: &'a str) -> &'a str {
        let Self { aliases, first, last, each } = self;
        let fits = match last {
            None => first.len() == columns,
            Some(last) => first.len() + last.len() <= columns,
        };
        let text = match last {
            _ if each.as_ref().is_some_and(|each| each.len() == columns) => {
                each.as_ref().and_then(|each| each.get(place))
            }
            _ if !fits => None,
            Some(last) if place >= first.len() => {
                columns.checked_sub(place + 1).and_then(|from_end| last.get(from_end))
            }
            _ => first.get(place),
        };
        let text = text.and_then(|text| text.as_deref());
        text.or_else(|| aliases.get(name).map(String::as_str)).unwrap_or(name)
    }
}

/// Tells if a SELECT has an item that stands for columns of an unknown number.
pub(super) fn has_items_of_many(select: &Select) -> bool {
    select.projection.iter().any(is_of_many)
}

/// Tells if an item stands for columns of an unknown number: a wildcard, or the fields of a struct.
fn is_of_many(item: &SelectItem) -> bool {
    struct Unnested;
    impl Visitor for Unnested {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(function) if function.name.to_string().to_lowercase().starts_with("unnest") => {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => walk(expr, &mut Unnested).is_break(),
        _ => true,
    }
}

/// Returns the text of an item that has no name of its own.
fn text_of(item: &SelectItem) -> Option<String> {
    match item {
        // A field of a row reads like a column of a table.
        SelectItem::UnnamedExpr(Expr::Identifier(_)) => None,
        SelectItem::UnnamedExpr(expr) => Some(natural_name(expr).unwrap_or_else(|| expr.to_string())),
        _ => None,
    }
}

/// A statement whose columns have names that differ.
pub(crate) struct UniquelyNamed {
    pub(crate) statement: EngineStatement,
    /// Names that are shown in their place.
    pub(crate) names: Names,
}

/// Gives a statement's columns names that differ.
pub(crate) fn unique(statement: &EngineStatement) -> Option<UniquelyNamed> {
    let mut renamed = statement.clone();
    let sql = super::inner_mut(&mut renamed)?;
    let mut unique = UniqueNames { is_query: matches!(sql, Statement::Query(_)), ..UniqueNames::default() };
    let ControlFlow::Continue(()) = walk_mut(sql, &mut unique);
    Some(UniquelyNamed { statement: renamed, names: unique.names })
}

#[derive(Default)]
struct UniqueNames {
    /// True when the outermost query's columns are a result's, and not a view's or table's.
    is_query: bool,
    /// Names that the ORDER BYs around mention, the innermost last.
    ordered_by: Vec<HashSet<String>>,
    names: Names,
    /// Numbers of casts by their text. Equal casts stay equal.
    casts: HashMap<String, usize>,
}

impl VisitorMut for UniqueNames {
    type Break = std::convert::Infallible;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        let mut mentioned = HashSet::new();
        if let Some(OrderByKind::Expressions(keys)) = query.order_by.as_ref().map(|order_by| &order_by.kind) {
            let ControlFlow::Continue(()) = walk(keys, &mut Mentioned(&mut mentioned));
        }
        let is_result = self.is_query && self.ordered_by.is_empty();
        // The ORDER BY of a UNION knows its columns by name alone: an alias would take the name away.
        let is_free = matches!(query.body.as_ref(), SetExpr::Select(_)) || mentioned.is_empty();
        if let Some(select) = first_select(&mut query.body).filter(|_| is_result && is_free) {
            self.alias_result(select);
        }
        self.ordered_by.push(mentioned);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Self::Break> {
        self.ordered_by.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        let mentioned = self.ordered_by.last().cloned().unwrap_or_default();
        number_names(select, &mentioned);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if is_cast(expr) {
            let count = self.casts.len();
            let key = *self.casts.entry(expr.to_string()).or_insert(count);
            let cast = std::mem::replace(expr, number_literal(key));
            *expr = wrapped_in_case(cast, key);
        }
        ControlFlow::Continue(())
    }
}

impl UniqueNames {
    /// Gives aliases of our own to columns that their names do not tell apart.
    fn alias_result(&mut self, select: &mut Select) {
        let has_wildcard = select
            .projection
            .iter()
            .any(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
        let mut seen = HashSet::new();
        for item in &mut select.projection {
            let Some(name) = name_of(item) else { continue };
            let is_new = seen.insert(name.clone());
            if is_new && is_of_many(item) {
                continue;
            }
            let (expr, is_alias) = match item {
                SelectItem::UnnamedExpr(expr) => (expr, false),
                SelectItem::ExprWithAlias { expr, .. } => (expr, true),
                _ => continue,
            };
            if is_new && (is_alias || !has_wildcard && is_column(expr)) {
                continue;
            }
            let alias = format!("__gust_column_{}", self.names.aliases.len());
            let expr = std::mem::replace(expr, number_literal(0));
            *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', &alias) };
            self.names.aliases.insert(alias, name);
        }
    }
}

/// Gives aliases to the columns of an inner query. Other queries call them by their names, so that names stay where
/// they can.
fn number_names(select: &mut Select, mentioned: &HashSet<String>) {
    let mut taken: HashSet<String> = HashSet::new();
    for item in &mut select.projection {
        let Some(name) = name_of(item) else { continue };
        let is_of_many = is_of_many(item);
        let expr = match item {
            SelectItem::UnnamedExpr(expr) => expr,
            SelectItem::ExprWithAlias { expr, .. } if taken.contains(&name) => expr,
            _ => {
                taken.insert(name);
                continue;
            }
        };
        let renamed = !is_of_many && !is_column(expr);
        let unlike_input = |name: &String| !(taken.contains(name) || renamed && mentioned.contains(name));
        let numbered = (1..).map(|number| format!("{name}_{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(unlike_input);
        let free = free.expect("the numbers do not end");
        if free != name || renamed {
            let expr = std::mem::replace(expr, number_literal(0));
            *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', &free) };
        }
        taken.insert(free);
    }
}

/// Finds the SELECT that names a query's columns: the leftmost of a UNION.
fn first_select(set: &mut SetExpr) -> Option<&mut Select> {
    match set {
        SetExpr::Select(select) => Some(select),
        SetExpr::SetOperation { left, .. } => first_select(left),
        _ => None,
    }
}

fn name_of(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(expr) => Some(natural_name(expr).unwrap_or_else(|| expr.to_string())),
        SelectItem::ExprWithAlias { alias, .. } => Some(folded_name(alias)),
        _ => None,
    }
}

/// Returns a column's name, also through casts.
fn natural_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) => Some(folded_name(name)),
        Expr::CompoundIdentifier(names) => names.last().map(folded_name),
        Expr::Cast { expr, .. } | Expr::AtTimeZone { timestamp: expr, .. } | Expr::Nested(expr) => natural_name(expr),
        _ => None,
    }
}

/// Tells if an expression is a column. The engine's names of others may be equal although their texts differ:
/// `substring(s FROM 2)` and `substr(s, 2)`.
fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => true,
        Expr::Nested(inner) => is_column(inner),
        _ => false,
    }
}

fn is_cast(expr: &Expr) -> bool {
    matches!(expr, Expr::Cast { .. } | Expr::AtTimeZone { .. })
}

struct Mentioned<'a>(&'a mut HashSet<String>);

impl Visitor for Mentioned<'_> {
    type Break = std::convert::Infallible;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        if let Expr::Identifier(name) = expr {
            self.0.insert(folded_name(name));
        }
        ControlFlow::Continue(())
    }
}

fn number_literal(key: usize) -> Expr {
    Expr::Value(Value::Number(key.to_string(), false).into())
}

/// Wraps a cast into a CASE that has the same value and a name of its own.
fn wrapped_in_case(cast: Expr, key: usize) -> Expr {
    let condition = Expr::BinaryOp {
        left: Box::new(number_literal(key)),
        op: BinaryOperator::Eq,
        right: Box::new(number_literal(key)),
    };
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition, result: cast }],
        else_result: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parsed;

    #[test]
    fn columns_of_one_name_get_names_that_differ() {
        for (text, expect, shown) in [
            ("SELECT a, a FROM t", r#"SELECT a, a AS "__gust_column_0" FROM t"#, &["a"][..]),
            (
                "SELECT x::INT, x::TEXT FROM t",
                r#"SELECT CASE WHEN 0 = 0 THEN x::INT END AS "__gust_column_0", CASE WHEN 1 = 1 THEN x::TEXT END AS "__gust_column_1" FROM t"#,
                &["x", "x"],
            ),
            (
                "SELECT t.ts::DATE, count(*) FROM t ORDER BY ts",
                r#"SELECT CASE WHEN 0 = 0 THEN t.ts::DATE END AS "__gust_column_0", count(*) AS "__gust_column_1" FROM t ORDER BY ts"#,
                &["ts", "count(*)"],
            ),
            (
                "SELECT substring(a FROM 2), substr(a, 2) FROM t",
                r#"SELECT SUBSTRING(a FROM 2) AS "__gust_column_0", SUBSTR(a, 2) AS "__gust_column_1" FROM t"#,
                &["SUBSTRING(a FROM 2)", "SUBSTR(a, 2)"],
            ),
            (
                "SELECT * FROM (SELECT substring(a FROM 2), substr(a, 2), a FROM t) q",
                r#"SELECT * FROM (SELECT SUBSTRING(a FROM 2) AS "SUBSTRING(a FROM 2)", SUBSTR(a, 2) AS "SUBSTR(a, 2)", a FROM t) q"#,
                &[],
            ),
            ("SELECT a AS x, b AS x FROM t", r#"SELECT a AS x, b AS "__gust_column_0" FROM t"#, &["x"]),
            (
                "SELECT a::INT FROM t UNION SELECT 1 ORDER BY a",
                r#"SELECT CASE WHEN 0 = 0 THEN a::INT END AS "a_1" FROM t UNION SELECT 1 AS "1" ORDER BY a"#,
                &[],
            ),
            (
                "SELECT * FROM (SELECT a, a, x::INT FROM t) q",
                r#"SELECT * FROM (SELECT a, a AS "a_1", CASE WHEN 0 = 0 THEN x::INT END AS "x" FROM t) q"#,
                &[],
            ),
            (
                "SELECT * FROM (SELECT x::INT FROM t ORDER BY x LIMIT 1) q",
                r#"SELECT * FROM (SELECT CASE WHEN 0 = 0 THEN x::INT END AS "x_1" FROM t ORDER BY x LIMIT 1) q"#,
                &[],
            ),
            (
                "SELECT a, a FROM t UNION ALL SELECT b, b FROM u",
                r#"SELECT a, a AS "__gust_column_0" FROM t UNION ALL SELECT b, b AS "b_1" FROM u"#,
                &["a"],
            ),
        ] {
            let UniquelyNamed { statement, names } =
                unique(&EngineStatement::Statement(Box::new(parsed(text)))).expect("a query");
            assert_eq!(statement.to_string(), expect);
            let own = (0..shown.len()).map(|at| format!("__gust_column_{at}"));
            assert_eq!(own.map(|own| names.shown(0, 0, &own).to_owned()).collect::<Vec<_>>(), shown, "{text}");
            assert_eq!(names.shown(0, 0, "other"), "other");
        }
    }

    #[test]
    fn columns_are_shown_as_they_are_written() {
        for (text, expect) in [
            ("SELECT 1, count(*), a, a AS b, a + 1 FROM t", &["1", "count(*)", "2", "3", "a + 1"][..]),
            ("SELECT a::INT, t.a AT TIME ZONE 'UTC', CAST(1 AS INT)", &["a", "a", "CAST(1 AS INT)"]),
            ("SELECT s.a, unnest(b) FROM t", &["a", "unnest(b)"]),
            ("SELECT TRY_CAST(t.a AS INT), unnest(b) AS c FROM t", &["a", "1"]),
            ("SELECT 1, *, 2, t.*, 3 FROM t", &["1", "1", "2", "3", "4", "3"]),
            ("SELECT 1, unnest(a), 2", &["1", "1", "2", "2"]),
            ("SELECT 1, unnest(a), 2", &["1", "unnest(a)", "2"]),
            ("SELECT 1, *, 2 FROM t", &["0"]),
            ("SELECT 1, 2", &["0", "1", "2"]),
            ("SELECT 1 UNION SELECT 2", &["1"]),
            ("(SELECT -1) ORDER BY 1", &["-1"]),
            ("VALUES (1)", &["0"]),
            ("CREATE VIEW v AS SELECT 1", &["0"]),
        ] {
            let names = Names::written(&EngineStatement::Statement(Box::new(parsed(text))));
            let plan: Vec<String> = (0..expect.len()).map(|place| place.to_string()).collect();
            let shown = plan.iter().enumerate().map(|(place, name)| names.shown(place, plan.len(), name));
            assert_eq!(shown.collect::<Vec<_>>(), expect, "{text}");
        }
    }
}
