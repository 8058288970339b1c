//! The key of `JOIN … USING`: the value of the side that has one.
//!
//! DataFusion 55.2 takes the left side's column for an unqualified key. That is NULL for rows that only the right side
//! has (apache/datafusion#22881). For `*` it takes the column of the table whose name comes first. `using` marks
//! unqualified keys in the text. Here the marks become the key of the join below them:
//!
//! ```text
//!  INNER, LEFT, SEMI, ANTI: l.k        RIGHT: r.k        FULL: coalesce(l.k, r.k)
//! ```
//!
//! A join on the left of another USING join counts with its merged key, also in the other's condition. The rule runs
//! before types are coerced.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, Join, JoinConstraint, JoinType, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;
use gust_protocol::functions::MergedKey;

#[derive(Debug)]
pub(super) struct MergedKeys;

impl AnalyzerRule for MergedKeys {
    fn name(&self) -> &str {
        "gust_merged_keys"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let resolved = plan.transform_up_with_subqueries(|plan| {
            let inputs: Vec<LogicalPlan> = plan.inputs().into_iter().cloned().collect();
            let resolved = super::map_named(plan, |expr| expr.transform_up(|expr| resolve(expr, &inputs)))?;
            // The nodes below may have another type now.
            resolved.map_data(LogicalPlan::recompute_schema)
        })?;
        resolved.data.transform_down_with_subqueries(join_on_merged).data()
    }
}

/// Replaces a mark whose column is in `inputs`.
fn resolve(expr: Expr, inputs: &[LogicalPlan]) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::ScalarFunction(ScalarFunction { func, mut args })
            if func.name() == MergedKey::NAME && args.len() == 1 =>
        {
            let key = args.remove(0);
            let merged = match &key {
                Expr::Column(column) => inputs.iter().find_map(|input| merged(input, column)),
                _ => None,
            };
            Transformed::yes(merged.unwrap_or(key))
        }
        other => Transformed::no(other),
    })
}

/// Finds the merged key that a column belongs to in the inputs of `plan`. Returns None for a column that is no key.
fn merged(plan: &LogicalPlan, column: &Column) -> Option<Expr> {
    match plan {
        LogicalPlan::Join(join) => {
            let is_key = |(left, right): &&(Expr, Expr)| [left, right].iter().any(|key| is_column(key, column));
            let pair = join.on.iter().find(is_key).filter(|_| join.join_constraint == JoinConstraint::Using);
            let Some((left, right)) = pair else {
                return merged(&join.left, column).or_else(|| merged(&join.right, column));
            };
            let (left, right) = (merged_side(&join.left, left), merged_side(&join.right, right));
            Some(match join.join_type {
                JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right,
                JoinType::Full => coalesce(vec![left, right]),
                JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left,
            })
        }
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Unnest(_) => plan.inputs().into_iter().find_map(|input| merged(input, column)),
        // The nodes below have other names.
        _ => None,
    }
}

fn is_column(expr: &Expr, column: &Column) -> bool {
    matches!(expr, Expr::Column(key) if key == column)
}

fn merged_side(side: &LogicalPlan, key: &Expr) -> Expr {
    match key {
        Expr::Column(column) => merged(side, column).unwrap_or_else(|| key.clone()),
        other => other.clone(),
    }
}

/// Gives a USING join over another USING join the merged keys.
fn join_on_merged(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Join(join) = plan else { return Ok(Transformed::no(plan)) };
    if join.join_constraint != JoinConstraint::Using {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    }
    let side = |(left, right): &(Expr, Expr)| (merged_side(&join.left, left), merged_side(&join.right, right));
    let on: Vec<(Expr, Expr)> = join.on.iter().map(side).collect();
    if on == join.on {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    }
    // USING joins by columns alone. The marks are resolved by now.
    Ok(Transformed::yes(LogicalPlan::Join(Join { on, join_constraint: JoinConstraint::On, ..join })))
}
