//! In a list of points in time each column is compared by itself.
//!
//! DataFusion 55.2 gives all of `z IN (y, TIMESTAMP '2024-02-29 12:34:56')` the unit of its constants, nanoseconds, which a column of a file
//! with the year 1 has none of, and fails. A constant that a column meets alone becomes one of the column's unit.
//!
//! Take this out when the rows of "time lists" in `tests/cases/meaning.toml` are right without it.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

/// Runs before types are coerced.
#[derive(Debug)]
pub(super) struct TimeLists;

impl AnalyzerRule for TimeLists {
    fn name(&self) -> &str {
        "gust_time_lists"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            super::map_named(plan, |expr| expr.transform_up(|expr| Ok(apart(expr, &schema))))
        })
        .data()
    }
}

/// Whether a list has columns beside constants.
pub(super) fn is_mixed(InList { list, .. }: &InList) -> bool {
    list.iter().any(Expr::any_column_refs) && !list.iter().all(Expr::any_column_refs)
}

/// `x IN (1, 2, a)` as `x IN (1, 2) OR x = a`, and `x NOT IN` as its opposite.
fn apart(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let is_time = |expr: &Expr| matches!(expr.get_type(schema), Ok(DataType::Timestamp(..)));
    match expr {
        Expr::InList(of) if is_mixed(&of) && is_time(&of.expr) && !of.expr.is_volatile() => {
            let InList { expr, list, negated } = of;
            let (columns, constants): (Vec<Expr>, Vec<Expr>) = list.into_iter().partition(Expr::any_column_refs);
            let rest = Expr::InList(InList { expr: expr.clone(), list: constants, negated });
            Transformed::yes(columns.into_iter().fold(rest, |all, column| match negated {
                true => all.and(expr.as_ref().clone().not_eq(column)),
                false => all.or(expr.as_ref().clone().eq(column)),
            }))
        }
        other => Transformed::no(other),
    }
}
