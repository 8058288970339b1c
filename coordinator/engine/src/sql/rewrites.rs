//! Clauses that the engine refuses, or gives another meaning, are written as what they mean.
//!
//! They are FROM without SELECT, FETCH FIRST, GROUP BY WITH ROLLUP, windows made from named windows, SIMILAR TO,
//! TABLESAMPLE, casts to texts of a length, ANY and ALL, and DISTINCT in the order of one of its expressions. `^` is
//! refused: it is a power in PostgreSQL and DuckDB, and exclusive or in the engine.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Distinct, Expr, Fetch, GroupByExpr, GroupByWithModifier, Ident, LimitClause, NamedWindowExpr,
    OrderByKind, Query, Select, SelectFlavor, SelectItem, SetExpr, TableFactor, Value, VisitorMut,
    WildcardAdditionalOptions, WindowSpec, WindowType,
};

use super::copies::CopiedBytes;
use super::limits::folded_name;
use super::walk::walk_mut;
use super::{Refusal, lengths, quantified, sample, similar};

#[derive(Default)]
pub(super) struct MeaningRewriter {
    pub(super) copies: CopiedBytes,
}

impl VisitorMut for MeaningRewriter {
    type Break = Refusal;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        let Some(Fetch { with_ties, percent, quantity }) = query.fetch.take() else { return ControlFlow::Continue(()) };
        if with_ties || percent {
            let hint = "use QUALIFY rank() OVER (ORDER BY ...) <= n";
            return ControlFlow::Break(Refusal::new("FETCH FIRST with TIES or PERCENT is not supported", hint));
        }
        let first = quantity.unwrap_or_else(|| Expr::Value(Value::Number("1".to_owned(), false).into()));
        match &mut query.limit_clause {
            None => {
                let limit = Some(first);
                query.limit_clause = Some(LimitClause::LimitOffset { limit, offset: None, limit_by: Vec::new() });
            }
            Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => *limit = Some(first),
            Some(_) => {
                return ControlFlow::Break(Refusal::new(
                    "a query has both LIMIT and FETCH FIRST",
                    "leave one of them out",
                ));
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        if select.flavor == SelectFlavor::FromFirstNoSelect {
            select.projection = vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())];
            select.flavor = SelectFlavor::Standard;
        }
        if let GroupByExpr::Expressions(keys, modifiers) = &mut select.group_by
            && let [modifier @ (GroupByWithModifier::Rollup | GroupByWithModifier::Cube)] = modifiers.as_slice()
        {
            let sets = std::mem::take(keys).into_iter().map(|key| vec![key]).collect();
            *keys = vec![if *modifier == GroupByWithModifier::Rollup { Expr::Rollup(sets) } else { Expr::Cube(sets) }];
            modifiers.clear();
        }
        select.projection.iter_mut().for_each(keep_name);
        ControlFlow::Continue(())
    }

    // Subqueries are visited before: their windows have names of their own.
    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        let mut over = NamedWindowMerger { named: defined(select)? };
        walk_mut(&mut select.projection, &mut over)?;
        walk_mut(&mut select.qualify, &mut over)
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        own_casts(query.body.as_mut());
        match query.body.as_mut() {
            SetExpr::Select(select) => {
                if let Some(OrderByKind::Expressions(order)) = query.order_by.as_mut().map(|by| &mut by.kind) {
                    order.iter_mut().for_each(|by| by_position(&mut by.expr, select));
                }
                walk_mut(&mut query.order_by, &mut NamedWindowMerger { named: defined(select)? })
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        match sample::sample(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(refusal) => ControlFlow::Break(refusal),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::BinaryOp { op: BinaryOperator::BitwiseXor, .. } = expr {
            let hint = "a power is power(a, b), an exclusive or is (a | b) - (a & b)";
            let what = "^ is not supported: it is a power in PostgreSQL and DuckDB, and an exclusive or in the engine and MySQL";
            return ControlFlow::Break(Refusal::new(what, hint));
        }
        if matches!(expr, Expr::Cast { .. } | Expr::AnyOp { .. } | Expr::AllOp { .. }) {
            let taken = std::mem::replace(expr, Expr::Value(Value::Null.into()));
            match quantified::written_out(lengths::without_length(taken), &mut self.copies) {
                Ok(written) => *expr = written,
                Err(refusal) => return ControlFlow::Break(refusal),
            }
        }
        if let Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } = expr {
            return match similar::with_backslashes(pattern, escape_char) {
                Ok(()) => ControlFlow::Continue(()),
                Err(refusal) => ControlFlow::Break(refusal),
            };
        }
        let Expr::SimilarTo { pattern, escape_char, .. } = expr else { return ControlFlow::Continue(()) };
        let escape = match escape_char.take().map(|escape| escape.value.into_string()) {
            // The backslash is PostgreSQL's default, too.
            None => Some('\\'),
            Some(Some(escape)) if escape.chars().count() <= 1 => escape.chars().next(),
            Some(_) => {
                let hint = "give one character, or '' for none";
                let what = "SIMILAR TO: the escape character is not one character";
                return ControlFlow::Break(Refusal::new(what, hint));
            }
        };
        match pattern.as_mut() {
            Expr::Value(value) => match &mut value.value {
                Value::Null => ControlFlow::Continue(()),
                Value::SingleQuotedString(text) => match similar::regex(text, escape) {
                    Ok(regex) => {
                        *text = regex;
                        ControlFlow::Continue(())
                    }
                    Err(refusal) => ControlFlow::Break(refusal),
                },
                _ => not_a_text(),
            },
            _ => not_a_text(),
        }
    }
}

/// Writes a cast to a decimal twice in VALUES. `dialect::doubles` takes a single one off, since that could be the
/// engine's.
fn own_casts(body: &mut SetExpr) {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            own_casts(left);
            own_casts(right);
        }
        SetExpr::Values(values) => values.rows.iter_mut().flat_map(|row| row.iter_mut()).for_each(|expr| {
            let mut inner = &*expr;
            while let Expr::Nested(nested) = inner {
                inner = nested;
            }
            let Expr::Cast { kind, data_type, array, format, .. } = inner else { return };
            let name = data_type.to_string().to_ascii_uppercase();
            if ["DEC", "NUMERIC"].iter().any(|decimal| name.contains(decimal)) {
                let (kind, data_type, array, format) = (kind.clone(), data_type.clone(), *array, format.clone());
                let own = std::mem::replace(expr, Expr::Value(Value::Null.into()));
                *expr = Expr::Cast { kind, expr: Box::new(own), data_type, array, format };
            }
        }),
        _ => {}
    }
}

/// Keeps the name that the engine gives a column now, before the column is rewritten. A cast's name is its argument's.
fn keep_name(item: &mut SelectItem) {
    let SelectItem::UnnamedExpr(expr) = item else { return };
    let name = match &*expr {
        Expr::Cast { expr: of, .. } if lengths::has_length(expr) => match of.as_ref() {
            Expr::Identifier(name) => name.clone(),
            Expr::CompoundIdentifier(names) => names.last().expect("not empty").clone(),
            _ => Ident::with_quote('"', expr.to_string()),
        },
        Expr::AnyOp { .. } | Expr::AllOp { .. } => Ident::with_quote('"', expr.to_string()),
        _ => return,
    };
    let expr = std::mem::replace(expr, Expr::Value(Value::Null.into()));
    *item = SelectItem::ExprWithAlias { expr, alias: name };
}

/// Writes an ORDER BY expression that DISTINCT selects as its position. The engine looks for the expression's columns,
/// not for the expression.
fn by_position(by: &mut Expr, select: &Select) {
    if !matches!(select.distinct, Some(Distinct::Distinct)) || matches!(by, Expr::Identifier(_) | Expr::Value(_)) {
        return;
    }
    let text = by.to_string();
    for (position, item) in select.projection.iter().enumerate() {
        match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                if expr.to_string() == text {
                    *by = Expr::Value(Value::Number((position + 1).to_string(), false).into());
                    return;
                }
            }
            // The number of a wildcard's columns is not known here, so that positions after it are not.
            _ => return,
        }
    }
}

fn not_a_text() -> ControlFlow<Refusal> {
    let hint = "write the pattern out as a text, or use regexp_like";
    ControlFlow::Break(Refusal::new("SIMILAR TO with a pattern that is computed is not supported", hint))
}

/// Collects the windows that a SELECT defines, each written out. The engine ignores the definition of `w` in
/// `OVER (w ORDER BY a)`.
fn defined(select: &mut Select) -> ControlFlow<Refusal, HashMap<String, WindowSpec>> {
    let mut named: HashMap<String, WindowSpec> = HashMap::new();
    for definition in &mut select.named_window {
        let spec = match &mut definition.1 {
            NamedWindowExpr::WindowSpec(spec) => {
                merge(spec, &named)?;
                spec.clone()
            }
            NamedWindowExpr::NamedWindow(name) => match named.get(&folded_name(name)) {
                Some(spec) => spec.clone(),
                None => return ControlFlow::Break(undefined(&name.value)),
            },
        };
        definition.1 = NamedWindowExpr::WindowSpec(spec.clone());
        named.insert(folded_name(&definition.0), spec);
    }
    ControlFlow::Continue(named)
}

fn undefined(name: &str) -> Refusal {
    Refusal::new(format!("there is no window `{name}`"), format!("define it: WINDOW {name} AS (...)"))
}

struct NamedWindowMerger {
    named: HashMap<String, WindowSpec>,
}

impl VisitorMut for NamedWindowMerger {
    type Break = Refusal;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Function(function) => match &mut function.over {
                Some(WindowType::WindowSpec(spec)) => merge(spec, &self.named),
                _ => ControlFlow::Continue(()),
            },
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Adds the named window's clauses to `spec`. A clause that both have is an error, as in the standard.
fn merge(spec: &mut WindowSpec, named: &HashMap<String, WindowSpec>) -> ControlFlow<Refusal> {
    let Some(name) = spec.window_name.take() else { return ControlFlow::Continue(()) };
    let Some(base) = named.get(&folded_name(&name)) else {
        return ControlFlow::Break(undefined(&name.value));
    };
    let twice = |what: &str| {
        let hint = "repeat the named window's words instead of its name";
        ControlFlow::Break(Refusal::new(format!("a window over `{}` cannot change its {what}", name.value), hint))
    };
    if !spec.partition_by.is_empty() {
        return twice("PARTITION BY");
    }
    if !spec.order_by.is_empty() && !base.order_by.is_empty() {
        return twice("ORDER BY");
    }
    if base.window_frame.is_some() {
        if spec.window_frame.is_some() || !spec.order_by.is_empty() {
            return twice("frame");
        }
        spec.window_frame.clone_from(&base.window_frame);
    }
    spec.partition_by.clone_from(&base.partition_by);
    if spec.order_by.is_empty() {
        spec.order_by.clone_from(&base.order_by);
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parsed;

    #[test]
    fn statements_are_written_as_they_are_meant() {
        for (text, expect) in [
            ("FROM t", "SELECT * FROM t"),
            ("SELECT a FROM (FROM t) x", "SELECT a FROM (SELECT * FROM t) x"),
            ("FROM t SELECT a", "FROM t SELECT a"),
            ("SELECT a FROM t FETCH FIRST 3 ROWS ONLY", "SELECT a FROM t LIMIT 3"),
            ("SELECT a FROM t OFFSET 2 ROWS FETCH NEXT ROW ONLY", "SELECT a FROM t LIMIT 1 OFFSET 2 ROWS"),
            ("SELECT a FROM t GROUP BY a, b WITH ROLLUP", "SELECT a FROM t GROUP BY ROLLUP (a, b)"),
            ("SELECT a FROM t GROUP BY a, b WITH CUBE", "SELECT a FROM t GROUP BY CUBE (a, b)"),
            ("SELECT a SIMILAR TO '%b' FROM t", "SELECT a SIMILAR TO '^(?s:.*b)$' FROM t"),
            ("SELECT a NOT SIMILAR TO '#%' ESCAPE '#'", "SELECT a NOT SIMILAR TO '^(?s:\\%)$'"),
            ("SELECT a SIMILAR TO NULL", "SELECT a SIMILAR TO NULL"),
            (
                "SELECT sum(a) OVER (w ORDER BY b) FROM t WINDOW w AS (PARTITION BY c)",
                "SELECT sum(a) OVER (PARTITION BY c ORDER BY b) FROM t WINDOW w AS (PARTITION BY c)",
            ),
            (
                "SELECT 1 + sum(a) OVER v FROM t WINDOW w AS (PARTITION BY c), v AS (w ORDER BY b), u AS v",
                "SELECT 1 + sum(a) OVER v FROM t WINDOW w AS (PARTITION BY c), v AS (PARTITION BY c ORDER BY b), u AS (PARTITION BY c ORDER BY b)",
            ),
            ("SELECT sum(a) OVER (PARTITION BY b) FROM t", "SELECT sum(a) OVER (PARTITION BY b) FROM t"),
            (
                "SELECT DISTINCT b, a::text FROM t ORDER BY a::text, b",
                "SELECT DISTINCT b, a::TEXT FROM t ORDER BY 2, b",
            ),
            (
                "SELECT DISTINCT a + 1 AS c FROM t ORDER BY a + 1 DESC",
                "SELECT DISTINCT a + 1 AS c FROM t ORDER BY 1 DESC",
            ),
            ("SELECT DISTINCT *, a + 1 FROM t ORDER BY a + 1", "SELECT DISTINCT *, a + 1 FROM t ORDER BY a + 1"),
            ("SELECT a + 1 FROM t ORDER BY a + 1", "SELECT a + 1 FROM t ORDER BY a + 1"),
            ("SELECT t.a::varchar(3) FROM t", "SELECT SUBSTRING(t.a::VARCHAR FROM 1 FOR 3) AS a FROM t"),
            (
                "SELECT TRY_CAST(a AS CHAR) = 'b' FROM t",
                "SELECT SUBSTRING(TRY_CAST(a AS VARCHAR) FROM 1 FOR 1) = 'b' FROM t",
            ),
            (
                "SELECT CAST(a AS VARCHAR), CAST(a AS CHAR(2)) AS b",
                "SELECT CAST(a AS VARCHAR), SUBSTRING(CAST(a AS VARCHAR) FROM 1 FOR 2) AS b",
            ),
            (
                "SELECT 1 UNION VALUES ((CAST(1 AS DECIMAL))), (CAST(1 AS INT))",
                "SELECT 1 UNION VALUES (CAST((CAST(1 AS DECIMAL)) AS DECIMAL)), (CAST(1 AS INT))",
            ),
            ("SELECT 1 WHERE a = ANY (SELECT b FROM t)", "SELECT 1 WHERE a IN (SELECT b FROM t)"),
            ("SELECT 1 WHERE a <> ALL (SELECT b FROM t)", "SELECT 1 WHERE a NOT IN (SELECT b FROM t)"),
            ("SELECT 1 WHERE a < ALL (SELECT b FROM t)", "SELECT 1 WHERE a < ALL(SELECT b FROM t)"),
            ("SELECT 1 WHERE a = SOME(ARRAY[1, b])", "SELECT 1 WHERE (a IN (1, b))"),
            ("SELECT 1 WHERE a <= ALL(ARRAY[1, b])", "SELECT 1 WHERE ((a) <= (1) AND (a) <= (b))"),
            (
                "SELECT a > ANY(l) FROM t",
                "SELECT (CASE WHEN a > array_min(l) THEN true WHEN l IS NULL OR cardinality(l) > 0 AND (a IS NULL OR array_position(l, NULL) IS NOT NULL) THEN NULL ELSE false END) AS \"a > ANY(l)\" FROM t",
            ),
        ] {
            let mut statement = parsed(text);
            assert_eq!(walk_mut(&mut statement, &mut MeaningRewriter::default()), ControlFlow::Continue(()), "{text}");
            assert_eq!(statement.to_string(), expect);
        }
        for (text, words) in [
            ("SELECT a FROM t FETCH FIRST 3 ROWS WITH TIES", "FETCH FIRST with TIES"),
            ("SELECT a FROM t FETCH FIRST 3 PERCENT ROWS ONLY", "PERCENT"),
            ("SELECT a FROM t LIMIT 1 FETCH FIRST ROW ONLY", "both LIMIT and FETCH"),
            ("SELECT 2 ^ a FROM t", "^ is not supported: it is a power in PostgreSQL"),
            (
                "SELECT 1 < ANY(ARRAY[1, 2]) + random() < ANY(ARRAY[0.1, 0.1]) FROM t",
                "of a volatile value is not supported",
            ),
            ("SELECT random() < ANY(l) FROM t", "of a volatile value is not supported"),
            ("SELECT (SELECT a FROM t LIMIT 1) > ALL(ARRAY[1, 2]) FROM t", "of a volatile value is not supported"),
            ("SELECT a SIMILAR TO b FROM t", "a pattern that is computed"),
            ("SELECT a SIMILAR TO 'x' ESCAPE 'ab' FROM t", "not one character"),
            ("SELECT sum(a) OVER (w ORDER BY a) FROM t", "there is no window `w`"),
            ("SELECT sum(a) OVER (w PARTITION BY a) FROM t WINDOW w AS (ORDER BY b)", "cannot change its PARTITION BY"),
            ("SELECT sum(a) OVER (w ORDER BY a) FROM t WINDOW w AS (ORDER BY b)", "cannot change its ORDER BY"),
        ] {
            let ControlFlow::Break(refused) = walk_mut(&mut parsed(text), &mut MeaningRewriter::default()) else {
                panic!("{text}")
            };
            assert!(refused.message.contains(words) && refused.hint.is_some(), "{refused:?}");
        }
    }

    #[test]
    fn written_out_comparisons_do_not_multiply() {
        let array = |element: &str| format!("(ARRAY[{}])", [element; 60].join(","));
        let long = (0..4).fold("x".to_owned(), |inside, _| format!("({inside} < ANY{})", array("true")));
        let lists = (0..40).fold("x".to_owned(), |inside, _| format!("({inside} = ANY(l))"));
        for text in [long, lists] {
            let mut statement = parsed(&format!("SELECT {text} FROM t"));
            let ControlFlow::Break(refused) = walk_mut(&mut statement, &mut MeaningRewriter::default()) else {
                panic!("{text}")
            };
            assert!(refused.message.contains("ANY and ALL are ") && refused.hint.is_some(), "{refused:?}");
        }
        // An expression that is not copied does not count: it is computed once.
        let once = (0..40).fold("x".to_owned(), |inside, _| format!("({inside} = ANY(ARRAY[true, random() < 1]))"));
        let mut statement = parsed(&format!("SELECT {once} FROM t"));
        assert_eq!(walk_mut(&mut statement, &mut MeaningRewriter::default()), ControlFlow::Continue(()));
    }
}
