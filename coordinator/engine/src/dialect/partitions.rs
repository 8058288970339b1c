//! A window's computed PARTITION BY is computed once, below the window.
//!
//! DataFusion 55.2 plans `PARTITION BY length(s) > 1` with a sort that it does not recognize later, and fails ("Expects
//! PARTITION BY expression to be ordered"). The bounds of most functions have no type, and bounds of two types do not
//! compare. A random value is drawn once for the sort and once more for the window. No report of either is known.
//!
//! Take this out when the rows of "partitions" in `tests/cases/meaning.toml` are right without it.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, Window};
use datafusion::optimizer::AnalyzerRule;

use super::copies::columns_of;

/// Beginning of a computed column's name, before its number.
const PARTITION: &str = "__gust_partition_";

#[derive(Debug)]
pub(super) struct ComputedPartitions;

impl AnalyzerRule for ComputedPartitions {
    fn name(&self) -> &str {
        "gust_computed_partitions"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Window(window) => computed(window),
            other => Ok(Transformed::no(other)),
        })
        .data()
    }
}

fn computed(window: Window) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new_for_projection();
    let (mut window_expr, mut keys) = (vec![], Vec::<Expr>::new());
    for expr in &window.window_expr {
        let keyed = expr.clone().transform_down(|expr| {
            let Expr::WindowFunction(mut function) = expr else { return Ok(Transformed::no(expr)) };
            for by in function.params.partition_by.iter_mut().filter(|by| is_computed(by)) {
                let known = if by.is_volatile() { None } else { keys.iter().position(|key| key == by) };
                let column = Column::from_name(format!("{PARTITION}{}", known.unwrap_or(keys.len())));
                let key = std::mem::replace(by, Expr::Column(column));
                if known.is_none() {
                    keys.push(key);
                }
            }
            Ok(Transformed::new(Expr::WindowFunction(function), true, TreeNodeRecursion::Jump))
        })?;
        window_expr.push(names.save(expr).restore(keyed.data));
    }
    if keys.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Window(window)));
    }
    let keys = keys.into_iter().enumerate().map(|(number, key)| key.alias(format!("{PARTITION}{number}")));
    let below = columns_of(&window.input).into_iter().chain(keys).collect();
    let below = LogicalPlan::Projection(Projection::try_new(below, Arc::clone(&window.input))?);
    let keyed = LogicalPlan::Window(Window::try_new(window_expr, Arc::new(below))?);
    let above = columns_of(&LogicalPlan::Window(window));
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(above, Arc::new(keyed))?)))
}

fn is_computed(by: &Expr) -> bool {
    !matches!(by, Expr::Column(_) | Expr::Literal(..)) && !by.contains_outer()
}
