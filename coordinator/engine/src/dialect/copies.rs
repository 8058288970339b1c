//! INTERSECT ALL and EXCEPT ALL count equal rows.
//!
//! DataFusion 55.2 plans both as a semi or an anti join on all columns. There one row of the right side matches any
//! number of equal ones of the left (apache/datafusion 12955, 12956). Here equal rows are numbered on both sides, and
//! the number is one more column to join by. The second copy on the left needs a second one on the right. A left side
//! that is DISTINCT has no second ones.
//!
//! Take this out when the rows of `copies` in `tests/cases/meaning.toml` are right without it.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::common::{Column, NullEquality, Result};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{
    Distinct, Expr, ExprFunctionExt, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Projection,
};
use datafusion::optimizer::AnalyzerRule;

/// Names of the columns that number equal rows, on the left and on the right.
const NUMBERS: [&str; 2] = ["__gust_copy", "__gust_copy_of"];

#[derive(Debug)]
pub(super) struct CountedCopies;

impl AnalyzerRule for CountedCopies {
    fn name(&self) -> &str {
        "gust_counted_copies"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Join(join) if is_all_set_operation(&join) => Ok(Transformed::yes(counted(join)?)),
            other => Ok(Transformed::no(other)),
        })
        .data()
    }
}

/// Tells if a join is one that DataFusion makes of INTERSECT ALL and EXCEPT ALL. No other SQL makes such a join with
/// NULLs equal.
fn is_all_set_operation(join: &Join) -> bool {
    let columns = join.left.schema().fields();
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && join.filter.is_none()
        && join.on.len() == columns.len()
        && !matches!(*join.left, LogicalPlan::Distinct(Distinct::All(_)))
        && columns.iter().all(|column| column.name() != NUMBERS[0])
}

fn counted(join: Join) -> Result<LogicalPlan> {
    let columns = columns_of(&join.left);
    let [left, right] = NUMBERS;
    let number = |name| Expr::Column(Column::from_name(name));
    let on = join.on.iter().cloned().chain([(number(left), number(right))]).collect();
    let (left, right) = (numbered(&join.left, left)?, numbered(&join.right, right)?);
    let joined = LogicalPlan::Join(Join { left, right, on, ..join }).recompute_schema()?;
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(joined))?))
}

/// Adds a column to a plan: the number of a row among those that are equal to it, from 1.
fn numbered(plan: &Arc<LogicalPlan>, name: &str) -> Result<Arc<LogicalPlan>> {
    let columns = columns_of(plan);
    let number = row_number().partition_by(columns.clone()).build()?;
    let numbered = LogicalPlanBuilder::from(plan.as_ref().clone()).window([number])?;
    let last = numbered.schema().fields().len() - 1;
    let number = Expr::Column(Column::from(numbered.schema().qualified_field(last))).alias(name);
    Ok(Arc::new(numbered.project(columns.into_iter().chain([number]))?.build()?))
}

pub(super) fn columns_of(plan: &LogicalPlan) -> Vec<Expr> {
    plan.schema().iter().map(|field| Expr::Column(Column::from(field))).collect()
}
