//! Where DOUBLE and DECIMAL meet, both are DOUBLE, as in PostgreSQL, DuckDB and Trino.
//!
//! DataFusion 55.2 makes DECIMAL(30, 15) of a double that is compared or united with a decimal: 1e-20 is then nought, and NaN, an infinity
//! or 1e20 an error. Here the decimals become doubles before it looks for a common type: in comparisons, BETWEEN, IN, CASE, joins, set
//! operations, arrays, `coalesce`, `nullif`, `greatest` and `least`. Constants that have a decimal's digits (`price > 9.99 + 0.01`) stay with the
//! decimals, which files are pruned by and which lose nothing then.
//!
//! Take this out when the rows of `doubles` in `tests/cases/meaning.toml` are right without it.

use std::cell::Cell;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Case, InList, InSubquery, ScalarFunction, SetComparison};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, BinaryExpr, Expr, ExprSchemable, Join, JoinConstraint, LogicalPlan, Operator, Projection, Subquery, Union,
    cast,
};
use datafusion::optimizer::AnalyzerRule;

/// Functions whose arguments get one type.
const UNITING: [&str; 6] = ["coalesce", "nullif", "nvl", "greatest", "least", "make_array"];

/// Constants between these have few enough digits on both sides of the point.
const USUAL: std::ops::Range<f64> = 1e-12..1e15;

#[derive(Debug)]
pub(super) struct Doubles;

impl AnalyzerRule for Doubles {
    fn name(&self) -> &str {
        "gust_doubles"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changed = Cell::new(false);
        plan.transform_up_with_subqueries(|plan| {
            let met = Met { schema: merge_schema(&plan.inputs()) };
            let rewritten = super::map_named(plan, |expr| expr.transform_up(|expr| met.within(expr)))?;
            let rewritten = rewritten.transform_data(|plan| met.of_node(plan))?;
            changed.set(changed.get() || rewritten.transformed);
            // A column that is a double now is one in all nodes above.
            if changed.get() { rewritten.map_data(LogicalPlan::recompute_schema) } else { Ok(rewritten) }
        })
        .data()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Double,
    Decimal,
    Other,
}

/// The columns that a node's expressions are over.
struct Met {
    schema: DFSchema,
}

impl Met {
    fn kind(&self, expr: &Expr) -> Kind {
        match expr.get_type(&self.schema) {
            Ok(of) if of.is_floating() && !is_usual(expr) => Kind::Double,
            Ok(of) if of.is_decimal() => Kind::Decimal,
            _ => Kind::Other,
        }
    }

    /// Makes doubles of the decimals among `exprs` where there is a double, and says whether it did.
    fn unite<'a>(&self, exprs: impl IntoIterator<Item = &'a mut Expr>) -> bool {
        let mut exprs: Vec<(Kind, &mut Expr)> = exprs.into_iter().map(|expr| (self.kind(expr), expr)).collect();
        if !exprs.iter().any(|(kind, _)| *kind == Kind::Double) {
            return false;
        }
        let mut any = false;
        for (_, expr) in exprs.iter_mut().filter(|(kind, _)| *kind == Kind::Decimal) {
            **expr = cast(std::mem::take(*expr), DataType::Float64);
            any = true;
        }
        any
    }

    fn within(&self, mut expr: Expr) -> Result<Transformed<Expr>> {
        let changed = match &mut expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if super::float_keys::is_comparison(*op) => {
                self.unite([left.as_mut(), right.as_mut()])
            }
            Expr::Between(Between { expr, low, high, .. }) => self.unite([expr.as_mut(), low.as_mut(), high.as_mut()]),
            Expr::InList(InList { expr, list, .. }) => self.unite([expr.as_mut()].into_iter().chain(list)),
            Expr::Case(Case { expr, when_then_expr, else_expr }) => {
                let (whens, thens): (Vec<&mut Expr>, Vec<&mut Expr>) =
                    when_then_expr.iter_mut().map(|(when, then)| (when.as_mut(), then.as_mut())).unzip();
                let compared = expr.is_some() && self.unite(expr.iter_mut().map(AsMut::as_mut).chain(whens));
                self.unite(thens.into_iter().chain(else_expr.iter_mut().map(AsMut::as_mut))) || compared
            }
            Expr::ScalarFunction(ScalarFunction { func, args }) if UNITING.contains(&func.name()) => self.unite(args),
            Expr::InSubquery(InSubquery { expr, subquery, .. })
            | Expr::SetComparison(SetComparison { expr, subquery, .. }) => {
                match (self.kind(expr), kind_of(&subquery.subquery, 0)) {
                    (Kind::Double, Kind::Decimal) => {
                        *subquery = of_doubles(subquery)?;
                        true
                    }
                    (Kind::Decimal, Kind::Double) => {
                        **expr = cast(std::mem::take(expr.as_mut()), DataType::Float64);
                        true
                    }
                    _ => false,
                }
            }
            _ => false,
        };
        Ok(Transformed::new_transformed(expr, changed))
    }

    /// Unites the keys of a join and the columns of a UNION.
    fn of_node(&self, plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        match plan {
            LogicalPlan::Join(mut join) => {
                let changed =
                    join.on.iter_mut().filter_map(|(left, right)| self.unite([left, right]).then_some(())).count() > 0;
                // USING joins by columns alone; references to the merged column are resolved by now.
                let join_constraint = if changed { JoinConstraint::On } else { join.join_constraint };
                Ok(Transformed::new_transformed(LogicalPlan::Join(Join { join_constraint, ..join }), changed))
            }
            LogicalPlan::Union(union) => {
                let columns = union.schema.fields().len();
                let kinds = |column: usize| union.inputs.iter().map(move |input| kind_of(input, column));
                let mixed: Vec<usize> = (0..columns)
                    .filter(|column| {
                        kinds(*column).any(|kind| kind == Kind::Double)
                            && kinds(*column).any(|kind| kind == Kind::Decimal)
                    })
                    .collect();
                if mixed.is_empty() {
                    return Ok(Transformed::no(LogicalPlan::Union(union)));
                }
                let inputs =
                    union.inputs.into_iter().map(|input| cast_columns(input, &mixed)).collect::<Result<_>>()?;
                Ok(Transformed::yes(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)))
            }
            other => Ok(Transformed::no(other)),
        }
    }
}

/// A constant that a decimal has the digits for.
fn is_usual(expr: &Expr) -> bool {
    constant(expr).is_some_and(|value| value == 0.0 || USUAL.contains(&value.abs()))
}

/// The value of an expression of numbers alone (`0.06 + 0.01`). NULL counts as 0: it has a place in any type.
fn constant(expr: &Expr) -> Option<f64> {
    match expr {
        Expr::Literal(value, _) if value.data_type().is_numeric() => match value.cast_to(&DataType::Float64) {
            Ok(ScalarValue::Float64(value)) => Some(value.unwrap_or_default()),
            _ => None,
        },
        Expr::Alias(alias) => constant(&alias.expr),
        Expr::Negative(of) => constant(of).map(|value| -value),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (left, right) = (constant(left)?, constant(right)?);
            match op {
                Operator::Plus => Some(left + right),
                Operator::Minus => Some(left - right),
                Operator::Multiply => Some(left * right),
                Operator::Divide => Some(left / right),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The kind of a plan's column. A column that is one usual constant is of neither kind.
fn kind_of(plan: &LogicalPlan, column: usize) -> Kind {
    if let LogicalPlan::Projection(projection) = plan
        && projection.expr.get(column).is_some_and(is_usual)
    {
        return Kind::Other;
    }
    match plan.schema().fields().get(column).map(|field| field.data_type()) {
        Some(of) if of.is_floating() => Kind::Double,
        Some(of) if of.is_decimal() => Kind::Decimal,
        _ => Kind::Other,
    }
}

/// A plan with those of its columns that are decimals as doubles.
fn cast_columns(plan: Arc<LogicalPlan>, which: &[usize]) -> Result<Arc<LogicalPlan>> {
    let columns = plan.schema().iter().enumerate().map(|(at, (relation, field))| {
        let column = Expr::Column(Column::new(relation.cloned(), field.name()));
        match which.contains(&at) && field.data_type().is_decimal() {
            true => cast(column, DataType::Float64).alias_qualified(relation.cloned(), field.name()),
            false => column,
        }
    });
    let columns: Vec<Expr> = columns.collect();
    Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(columns, plan)?)))
}

fn of_doubles(subquery: &Subquery) -> Result<Subquery> {
    Ok(subquery.with_plan(cast_columns(Arc::clone(&subquery.subquery), &[0])?))
}
