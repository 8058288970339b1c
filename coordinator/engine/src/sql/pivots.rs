//! PIVOT and UNPIVOT of a table, as the queries that they mean.
//!
//! ```text
//!  t PIVOT (sum(v) FOR k IN ('a', 'b'))   SELECT * EXCLUDE (k, v), sum(v) FILTER (WHERE k = 'a') AS "a", … FROM t GROUP BY ALL
//!  t UNPIVOT (v FOR k IN (a, b))          SELECT * FROM (SELECT * EXCLUDE (a, b), unnest(['a', 'b']) AS k, unnest([a, b]) AS v FROM t)
//!                                         WHERE v IS NOT NULL
//! ```
//!
//! Columns have DuckDB's names: the value's, with the aggregate's behind it where it has an alias or there are several.

use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Array, BinaryOperator, ExcludeSelectItem, Expr, ExprWithAlias, Function, GroupByExpr, Ident, NullInclusion,
    ObjectName, PivotValueSource, Query, SelectItem, SetExpr, TableFactor, TableWithJoins, Value, ValueWithSpan,
    Visitor, WildcardAdditionalOptions,
};

use super::Refusal;
use super::limits::folded_name;
use super::template::{filled, in_brackets, query, template};
use super::walk::walk;

/// Rewrites a table factor that is a PIVOT or an UNPIVOT.
///
/// # Errors
/// A refusal of a form whose columns are not known before rows are.
pub(super) fn rewrite(factor: &mut TableFactor) -> Result<(), Refusal> {
    let subquery = match factor {
        TableFactor::Pivot { table, aggregate_functions, value_column, value_source, default_on_null, .. } => {
            let values = match value_source {
                PivotValueSource::List(values) if default_on_null.is_none() => values,
                PivotValueSource::List(_) => {
                    return Err(Refusal::new("PIVOT with DEFAULT ON NULL is not supported", "use coalesce(...)"));
                }
                PivotValueSource::Any(_) | PivotValueSource::Subquery(_) => {
                    return Err(Refusal::new(
                        "PIVOT over values that are not written out is not supported",
                        "write the values: FOR k IN ('a', 'b')",
                    ));
                }
            };
            let [Expr::Identifier(key)] = value_column.as_slice() else {
                let hint = "name one column: FOR k IN ('a', 'b')";
                return Err(Refusal::new("PIVOT by several columns or an expression is not supported", hint));
            };
            pivoted(table.as_ref().clone(), aggregate_functions, key, values)?
        }
        TableFactor::Unpivot { table, value: Expr::Identifier(value), name, columns, null_inclusion, .. } => {
            let keeps_nulls = matches!(null_inclusion, Some(NullInclusion::IncludeNulls));
            unpivoted(table.as_ref().clone(), value, name, columns, keeps_nulls)?
        }
        TableFactor::Unpivot { .. } => {
            let hint = "name one column: UNPIVOT (x FOR k IN (a, b))";
            return Err(Refusal::new("UNPIVOT to several columns is not supported", hint));
        }
        _ => return Ok(()),
    };
    let (TableFactor::Pivot { alias, .. } | TableFactor::Unpivot { alias, .. }) = factor else { return Ok(()) };
    let alias = alias.take();
    *factor = TableFactor::Derived { lateral: false, subquery: Box::new(subquery), alias, sample: None };
    Ok(())
}

/// Returns `SELECT * EXCLUDE (…), … FROM table`.
fn all_but(excluded: Vec<Ident>, items: Vec<SelectItem>, table: TableFactor, grouped: bool) -> Query {
    let mut query = query("SELECT 1 FROM t", &[]);
    let SetExpr::Select(select) = query.body.as_mut() else { return query };
    let excluded = excluded.into_iter().map(ObjectName::from).collect();
    let options = WildcardAdditionalOptions {
        opt_exclude: Some(ExcludeSelectItem::Multiple(excluded)),
        ..WildcardAdditionalOptions::default()
    };
    select.projection = std::iter::once(SelectItem::Wildcard(options)).chain(items).collect();
    select.from = vec![TableWithJoins { relation: table, joins: Vec::new() }];
    if grouped {
        select.group_by = GroupByExpr::All(Vec::new());
    }
    query
}

fn pivoted(
    table: TableFactor,
    aggregates: &[ExprWithAlias],
    key: &Ident,
    values: &[ExprWithAlias],
) -> Result<Query, Refusal> {
    let mut excluded = vec![key.clone()];
    let mut items = Vec::new();
    for aggregate in aggregates {
        let ControlFlow::Continue(()) = walk(&aggregate.expr, &mut Columns(&mut excluded));
    }
    for ExprWithAlias { expr: value, alias } in values {
        let label = match (alias, value) {
            (Some(alias), _) => folded_name(alias),
            (None, Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. })) => text.clone(),
            (None, value) => value.to_string(),
        };
        let is_value = Expr::BinaryOp {
            left: Box::new(Expr::Identifier(key.clone())),
            op: BinaryOperator::Eq,
            right: Box::new(in_brackets(value.clone())),
        };
        for ExprWithAlias { expr, alias } in aggregates {
            let Expr::Function(function) = expr else {
                let hint = "give an aggregate: PIVOT (sum(x) FOR k IN ('a', 'b'))";
                return Err(Refusal::new("PIVOT of anything but a call of an aggregate is not supported", hint));
            };
            let filter = match &function.filter {
                Some(own) => Expr::BinaryOp {
                    left: Box::new(in_brackets(own.as_ref().clone())),
                    op: BinaryOperator::And,
                    right: Box::new(is_value.clone()),
                },
                None => is_value.clone(),
            };
            let name = match alias {
                Some(alias) => format!("{label}_{}", folded_name(alias)),
                None if aggregates.len() > 1 => format!("{label}_{expr}"),
                None => label.clone(),
            };
            items.push(SelectItem::ExprWithAlias {
                expr: Expr::Function(Function { filter: Some(Box::new(filter)), ..function.clone() }),
                alias: Ident::with_quote('"', name),
            });
        }
    }
    Ok(all_but(excluded, items, table, true))
}

fn unpivoted(
    table: TableFactor,
    value: &Ident,
    name: &Ident,
    columns: &[ExprWithAlias],
    keeps_nulls: bool,
) -> Result<Query, Refusal> {
    let (mut excluded, mut labels) = (Vec::new(), Vec::new());
    for ExprWithAlias { expr, alias } in columns {
        let Expr::Identifier(column) = expr else {
            let hint = "name the columns: UNPIVOT (x FOR k IN (a, b))";
            return Err(Refusal::new("UNPIVOT of anything but columns is not supported", hint));
        };
        let label = alias.as_ref().map_or_else(|| folded_name(column), |alias| alias.value.clone());
        labels.push(Expr::Value(Value::SingleQuotedString(label).into()));
        excluded.push(column.clone());
    }
    let array = |elem: Vec<Expr>| Expr::Array(Array { elem, named: true });
    let values = array(excluded.iter().cloned().map(Expr::Identifier).collect());
    let unnested = |of: Expr, alias: &Ident| {
        let expr = filled(template("unnest($1)"), &[of], None, name.span);
        SelectItem::ExprWithAlias { expr, alias: alias.clone() }
    };
    let items = vec![unnested(array(labels), name), unnested(values, value)];
    let inner = all_but(excluded, items, table, false);
    if keeps_nulls {
        return Ok(inner);
    }
    let mut outer = query("SELECT * FROM (SELECT 1) WHERE $1 IS NOT NULL", &[Expr::Identifier(value.clone())]);
    if let SetExpr::Select(select) = outer.body.as_mut()
        && let Some(TableFactor::Derived { subquery, .. }) = select.from.first_mut().map(|from| &mut from.relation)
    {
        **subquery = inner;
    }
    Ok(outer)
}

/// Collects the columns of an aggregate's arguments.
struct Columns<'a>(&'a mut Vec<Ident>);

impl Visitor for Columns<'_> {
    type Break = Infallible;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Infallible> {
        let column = match expr {
            Expr::Identifier(name) => Some(name),
            Expr::CompoundIdentifier(names) => names.last(),
            _ => None,
        };
        if let Some(column) = column
            && self.0.iter().all(|known| folded_name(known) != folded_name(column))
        {
            self.0.push(column.clone());
        }
        ControlFlow::Continue(())
    }
}
