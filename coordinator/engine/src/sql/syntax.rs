//! Syntax of other engines that the parser reads and the engine does not. It is written as what it means.
//!
//! ```text
//!  SELECT TOP 2 a FROM t              SELECT a FROM t LIMIT 2
//!  a RLIKE b                          regexp_like(a, b)
//!  extract(DAY_OF_WEEK FROM a)        extract(ISODOW FROM a)
//!  SELECT a, b FROM t ORDER BY ALL    … ORDER BY 1, 2
//!  t SEMI JOIN u, t ANTI JOIN u       t LEFT SEMI JOIN u, t LEFT ANTI JOIN u
//!  FROM read_parquet('a/*.parquet')   FROM "a/*.parquet" AS read_parquet
//!  UNNEST(a) WITH ORDINALITY          UNNEST(a, generate_series(1, array_length(a)))
//!  t PIVOT (…), t UNPIVOT (…)         see `pivots`
//!  a -> b, CAST(json_extract(…) AS …) see `json`
//! ```
//!
//! Whole statements are in [`super::statements`].

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    DateTimeField, Expr, JoinOperator, LimitClause, OrderByExpr, OrderByKind, Query, Select, SelectItem, SetExpr,
    Spanned, Statement, TableFactor, Top, TopQuantity, UnaryOperator, Value, VisitorMut,
};

use super::limits::folded_name;
use super::template::{filled, template};
use super::walk::walk_mut;
use super::{Refusal, json, pivots, readers};

/// Rewrites a statement's syntax.
///
/// # Errors
/// A refusal of a form that cannot be written, by its name.
pub(super) fn rewrite(statement: &mut Statement) -> Result<(), Refusal> {
    match walk_mut(statement, &mut Rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = Refusal;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
        into_flow(top(query).and_then(|()| order_by_all(query)))
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Refusal> {
        // A query's own TOP is gone by now.
        if select.top.is_some() {
            let hint = "put this SELECT in brackets, and write LIMIT";
            return ControlFlow::Break(Refusal::new("TOP in a part of a UNION is not supported", hint));
        }
        for join in select.from.iter_mut().flat_map(|table| &mut table.joins) {
            join.join_operator = match std::mem::replace(&mut join.join_operator, JoinOperator::CrossApply) {
                JoinOperator::Semi(on) => JoinOperator::LeftSemi(on),
                JoinOperator::Anti(on) => JoinOperator::LeftAnti(on),
                other => other,
            };
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Refusal> {
        into_flow(readers::as_path(factor).and_then(|()| ordinality(factor)).and_then(|()| pivots::rewrite(factor)))
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        if let Expr::Extract { field, .. } = expr {
            part_of_time(field);
        }
        if let Err(refusal) = json::rewrite(expr) {
            return ControlFlow::Break(refusal);
        }
        if let Expr::RLike { negated, expr: value, pattern, .. } = expr {
            let arguments = [value.as_ref().clone(), pattern.as_ref().clone()];
            let like = filled(template("regexp_like($1, $2)"), &arguments, None, value.span());
            *expr = match negated {
                true => Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(like) })),
                false => like,
            };
        }
        ControlFlow::Continue(())
    }
}

/// Writes Trino's names of parts of a time as the engine's.
fn part_of_time(field: &mut DateTimeField) {
    let DateTimeField::Custom(name) = field else { return };
    *field = match folded_name(name).as_str() {
        "day_of_week" => DateTimeField::Isodow,
        "day_of_month" => DateTimeField::Day,
        "day_of_year" => DateTimeField::Doy,
        "year_of_week" | "yow" => DateTimeField::Isoyear,
        _ => return,
    };
}

fn into_flow(done: Result<(), Refusal>) -> ControlFlow<Refusal> {
    match done {
        Ok(()) => ControlFlow::Continue(()),
        Err(refusal) => ControlFlow::Break(refusal),
    }
}

/// Writes a query's TOP as LIMIT.
fn top(query: &mut Query) -> Result<(), Refusal> {
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(()) };
    let Some(Top { with_ties, percent, quantity }) = select.top.take() else { return Ok(()) };
    let limit = match quantity {
        Some(TopQuantity::Constant(rows)) => Expr::Value(Value::Number(rows.to_string(), false).into()),
        Some(TopQuantity::Expr(rows)) => rows,
        None => return Err(Refusal::new("TOP without a number is not supported", "write LIMIT n")),
    };
    if with_ties || percent {
        let hint = "use QUALIFY rank() OVER (ORDER BY ...) <= n";
        return Err(Refusal::new("TOP with PERCENT or TIES is not supported", hint));
    }
    if query.limit_clause.is_some() || query.fetch.is_some() {
        return Err(Refusal::new("a query has both TOP and LIMIT", "leave one of them out"));
    }
    query.limit_clause = Some(LimitClause::LimitOffset { limit: Some(limit), offset: None, limit_by: Vec::new() });
    Ok(())
}

/// Writes `ORDER BY ALL` as the places of all columns. The parser takes ALL for a column's name.
fn order_by_all(query: &mut Query) -> Result<(), Refusal> {
    let Some(OrderByKind::Expressions(keys)) = query.order_by.as_mut().map(|by| &mut by.kind) else { return Ok(()) };
    let [OrderByExpr { expr: Expr::Identifier(all), .. }] = keys.as_slice() else { return Ok(()) };
    if all.quote_style.is_some() || !all.value.eq_ignore_ascii_case("all") {
        return Ok(());
    }
    let mut body = query.body.as_ref();
    let select = loop {
        body = match body {
            SetExpr::Select(select) => break select,
            SetExpr::SetOperation { left, .. } => left.as_ref(),
            SetExpr::Query(query) => query.body.as_ref(),
            _ => return Ok(()),
        };
    };
    let is_a_column = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => folded_name(alias) == "all",
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => folded_name(name) == "all",
        _ => false,
    };
    if select.projection.iter().any(is_a_column) {
        return Ok(());
    }
    if super::names::has_items_of_many(select) {
        let hint = "name the columns: ORDER BY a, b";
        return Err(Refusal::new("ORDER BY ALL with * is not supported", hint));
    }
    let key = keys.remove(0);
    keys.extend(
        (1..=select.projection.len()).map(|place| OrderByExpr {
            expr: Expr::Value(Value::Number(place.to_string(), false).into()),
            ..key.clone()
        }),
    );
    Ok(())
}

/// Writes WITH ORDINALITY as a second list, of the elements' numbers.
fn ordinality(factor: &mut TableFactor) -> Result<(), Refusal> {
    let TableFactor::UNNEST { array_exprs, with_ordinality: with_ordinality @ true, .. } = factor else {
        return Ok(());
    };
    let [list] = array_exprs.as_slice() else {
        let hint = "number the elements of one list: UNNEST(a) WITH ORDINALITY AS u(x, n)";
        return Err(Refusal::new("WITH ORDINALITY of several lists is not supported", hint));
    };
    // The elements of lists in the list do not count.
    let numbers =
        filled(template("generate_series(1, array_length($1))"), std::slice::from_ref(list), None, list.span());
    array_exprs.push(numbers);
    *with_ordinality = false;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{parsed, statements};

    fn rewritten(text: &str) -> Result<String, Refusal> {
        let mut statement = parsed(text);
        statements::rewrite(&mut statement, &["c".to_owned()])?;
        rewrite(&mut statement)?;
        let written = statement.to_string();
        parsed(&written);
        Ok(written)
    }

    #[test]
    fn syntax_of_others_is_written_as_what_it_means() {
        for (text, expect) in [
            ("SELECT TOP 2 a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a LIMIT 2"),
            ("SELECT a FROM (SELECT TOP (1) a FROM t) q", "SELECT a FROM (SELECT a FROM t LIMIT 1) q"),
            (
                "SELECT a RLIKE 'b', a NOT REGEXP 'c' FROM t",
                "SELECT regexp_like(a, 'b'), (NOT regexp_like(a, 'c')) FROM t",
            ),
            (
                "SELECT extract(DAY_OF_WEEK FROM a), extract(dow FROM a) FROM t",
                "SELECT EXTRACT(ISODOW FROM a), EXTRACT(DOW FROM a) FROM t",
            ),
            ("SELECT a, b AS c FROM t ORDER BY ALL DESC", "SELECT a, b AS c FROM t ORDER BY 1 DESC, 2 DESC"),
            ("SELECT a AS \"all\", b FROM t ORDER BY all", "SELECT a AS \"all\", b FROM t ORDER BY all"),
            ("SELECT 1 FROM t SEMI JOIN u ON t.a = u.a", "SELECT 1 FROM t LEFT SEMI JOIN u ON t.a = u.a"),
            ("SELECT 1 FROM t ANTI JOIN u ON t.a = u.a", "SELECT 1 FROM t LEFT ANTI JOIN u ON t.a = u.a"),
            ("SELECT a FROM read_parquet('d/*.parquet')", "SELECT a FROM \"d/*.parquet\" AS read_parquet"),
            (
                "SELECT * FROM t CROSS JOIN UNNEST(t.a) WITH ORDINALITY AS u(x, n)",
                "SELECT * FROM t CROSS JOIN UNNEST(t.a, generate_series(1, array_length(t.a))) AS u (x, n)",
            ),
            (
                "SELECT a FROM read_csv('d.csv', header = true, delim => ',', AUTO_DETECT := TRUE) c",
                "SELECT a FROM \"d.csv\" c",
            ),
            ("SELECT a FROM read_csv('d.csv') c", "SELECT a FROM \"d.csv\" c"),
            (
                "SELECT * FROM t PIVOT (sum(v) FOR k IN ('a', 2 AS two)) AS p",
                "SELECT * FROM (SELECT * EXCLUDE (k, v), sum(v) FILTER (WHERE k = 'a') AS \"a\", sum(v) FILTER (WHERE k = 2) AS \"two\" FROM t GROUP BY ALL) AS p",
            ),
            (
                "SELECT * FROM t PIVOT (sum(v) AS s, count(*) FOR k IN ('a'))",
                "SELECT * FROM (SELECT * EXCLUDE (k, v), sum(v) FILTER (WHERE k = 'a') AS \"a_s\", count(*) FILTER (WHERE k = 'a') AS \"a_count(*)\" FROM t GROUP BY ALL)",
            ),
            (
                "SELECT * FROM t UNPIVOT (v FOR k IN (a, b AS 'B'))",
                "SELECT * FROM (SELECT * FROM (SELECT * EXCLUDE (a, b), unnest(ARRAY['a', 'B']) AS k, unnest(ARRAY[a, b]) AS v FROM t) WHERE v IS NOT NULL)",
            ),
            (
                "SELECT * FROM t UNPIVOT INCLUDE NULLS (v FOR k IN (a)) u",
                "SELECT * FROM (SELECT * EXCLUDE (a), unnest(ARRAY['a']) AS k, unnest(ARRAY[a]) AS v FROM t) u",
            ),
            ("SET TIME ZONE 'Europe/Berlin'", "SET datafusion.execution.time_zone = 'Europe/Berlin'"),
            ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", "CREATE OR REPLACE VIEW v AS SELECT 1"),
            ("CREATE TEMPORARY TABLE t AS SELECT 1", "CREATE TABLE t AS SELECT 1"),
            ("EXECUTE q USING 1, 'a'", "EXECUTE q(1, 'a')"),
            ("SHOW CREATE VIEW v", "SHOW CREATE TABLE v"),
            (
                "SHOW SCHEMAS LIKE 'p%'",
                "SELECT DISTINCT schema_name FROM information_schema.schemata WHERE schema_name LIKE 'p%' AND true ORDER BY 1",
            ),
            (
                "SHOW TABLES IN c.s LIKE 'p%'",
                "SELECT * FROM information_schema.tables WHERE (table_name LIKE 'p%') AND (table_catalog = 'c') AND (table_schema = 's') ORDER BY 1, 2, 3",
            ),
            (
                "SHOW TABLES IN a.b",
                "SELECT * FROM information_schema.tables WHERE (true) AND (true) AND (table_schema = 'a.b') ORDER BY 1, 2, 3",
            ),
            (
                "SHOW TABLES IN c",
                "SELECT * FROM information_schema.tables WHERE (true) AND (table_catalog = 'c') AND (true) ORDER BY 1, 2, 3",
            ),
            (
                "SHOW CATALOGS LIKE 'p%'",
                "SELECT catalog_name FROM (VALUES ('c')) AS c (catalog_name) WHERE catalog_name LIKE 'p%' ORDER BY 1",
            ),
            ("SHOW TABLES", "SHOW TABLES"),
        ] {
            let written = rewritten(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
            // Brackets around a condition may be more than are needed.
            let bare = |text: &str| text.replace(['(', ')'], "");
            assert_eq!(bare(&written), bare(expect), "{text}");
        }
    }

    #[test]
    fn forms_that_cannot_be_written_are_refused() {
        for (text, message, hint) in [
            ("SELECT TOP 2 PERCENT a FROM t", "TOP with PERCENT or TIES is not supported", "QUALIFY"),
            ("SELECT TOP 2 a FROM t LIMIT 1", "a query has both TOP and LIMIT", "leave one"),
            ("SELECT TOP 1 a FROM t UNION SELECT 2", "TOP in a part of a UNION is not supported", "LIMIT"),
            ("SELECT * FROM t ORDER BY ALL", "ORDER BY ALL with * is not supported", "ORDER BY a, b"),
            (
                "SELECT * FROM read_csv('a.csv', header = false, delim = ';', quote := '\"')",
                "read_csv: option `header` is not supported",
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'a.csv' OPTIONS ('format.has_header' 'false', 'format.delimiter' ';')",
            ),
            (
                "SELECT * FROM read_csv('a.csv', skip => 2)",
                "read_csv: option `skip` is not supported",
                "CREATE EXTERNAL TABLE",
            ),
            (
                "SELECT * FROM read_csv(['a.csv', 'b.csv'])",
                "read_csv of anything but one path is not supported",
                "UNION ALL",
            ),
            (
                "SELECT * FROM read_csv('a.csv', header)",
                "read_csv: `header` is no option with a value",
                "CREATE EXTERNAL TABLE",
            ),
            (
                "SELECT * FROM t PIVOT (sum(v) FOR k IN (ANY))",
                "PIVOT over values that are not written out is not supported",
                "write the values: FOR k IN ('a', 'b')",
            ),
            ("SET SESSION a = 1", "there is no session property `a`", "SHOW ALL"),
            ("SET TIME ZONE LOCAL", "SET TIME ZONE LOCAL is not supported", "name a zone"),
            ("SHOW COLUMNS FROM t LIKE 'a%'", "SHOW COLUMNS with LIKE or WHERE is not supported", "information_schema"),
        ] {
            let refusal = rewritten(text).expect_err(text);
            assert_eq!(refusal.message, message, "{text}");
            assert!(refusal.hint.as_deref().is_some_and(|given| given.contains(hint)), "{text}: {refusal:?}");
        }
    }
}
