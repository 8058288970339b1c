//! A value that is computed and compared with an outer row, below an aggregate, becomes a column of its own.
//!
//! DataFusion 55.2 groups `SELECT count(*) FROM e WHERE CAST(e.ts AS DATE) = d.day` by `e.ts` and joins by the cast.
//! Then a day has a row for each of its points in time. Other computed values, like a float's key, it refuses. No
//! report is known. Here the value is computed below the filter, and the groups are of it.
//!
//! Take this out when the rows of "correlated casts" in `tests/cases/meaning.toml` are right without it.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{BinaryExpr, Expr, Filter, LogicalPlan, Operator, Projection};
use datafusion::optimizer::AnalyzerRule;

use super::copies::columns_of;

/// Beginning of a computed column's name, before its number.
const CAST: &str = "__gust_cast_";

/// Rule that runs after types are coerced, which adds casts, and after floats have got their keys.
#[derive(Debug)]
pub(super) struct CorrelatedCasts;

impl AnalyzerRule for CorrelatedCasts {
    fn name(&self) -> &str {
        "gust_correlated_casts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Aggregate(mut aggregate) if aggregate.input.contains_outer_reference() => {
                let filtered = aggregate.input.as_ref().clone().transform_up(computed)?;
                aggregate.input = Arc::new(filtered.data);
                Ok(Transformed::new_transformed(LogicalPlan::Aggregate(aggregate), filtered.transformed))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()
    }
}

/// Computes the values below a filter, which then compares columns.
fn computed(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Filter(Filter { predicate, input, .. }) = plan else { return Ok(Transformed::no(plan)) };
    let mut casts = Vec::new();
    let mut column_of = |cast: Expr| {
        let known = casts.iter().position(|known| *known == cast);
        let number = known.unwrap_or(casts.len());
        if known.is_none() {
            casts.push(cast);
        }
        Expr::Column(Column::from_name(format!("{CAST}{number}")))
    };
    let predicate = predicate.transform_up(|expr| match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right })
            if is_computed(&left) && right.contains_outer() =>
        {
            Ok(Transformed::yes(column_of(*left).eq(*right)))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right })
            if is_computed(&right) && left.contains_outer() =>
        {
            Ok(Transformed::yes((*left).eq(column_of(*right))))
        }
        other => Ok(Transformed::no(other)),
    })?;
    if !predicate.transformed {
        return Ok(Transformed::no(LogicalPlan::Filter(Filter::try_new(predicate.data, input)?)));
    }
    let columns = columns_of(&input);
    let casts = casts.into_iter().enumerate().map(|(number, cast)| cast.alias(format!("{CAST}{number}")));
    let below = Projection::try_new(columns.iter().cloned().chain(casts).collect(), input)?;
    let filter = Filter::try_new(predicate.data, Arc::new(LogicalPlan::Projection(below)))?;
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(LogicalPlan::Filter(filter)))?)))
}

/// Tells if a value is computed from columns of the inner query.
fn is_computed(expr: &Expr) -> bool {
    !matches!(expr, Expr::Column(_)) && expr.any_column_refs() && !expr.contains_outer() && !expr.is_volatile()
}
