//! Functions by name are those of the shared set, also where DataFusion's planner or a caller brought another of the
//! same name.
//!
//! The planner takes `a || b` of lists, `[1, 2]` and the like from DataFusion's crates, not from the session. A Lambda
//! function would look them up by name and find ours. Here they become ours before.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::expr::{AggregateFunction, ScalarFunction, WindowFunctionDefinition};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;
use gust_protocol::functions;

#[derive(Debug)]
pub(super) struct OwnFunctions;

impl AnalyzerRule for OwnFunctions {
    fn name(&self) -> &str {
        "gust_own_functions"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| super::map_named(plan, |expr| expr.transform_up(own))).data()
    }
}

fn own(expr: Expr) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) => match functions::scalar_named(func.name()) {
            Some(own) if *own != func => {
                Transformed::yes(Expr::ScalarFunction(ScalarFunction { func: Arc::clone(own), args }))
            }
            _ => Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })),
        },
        Expr::AggregateFunction(AggregateFunction { func, params }) => match functions::aggregate_named(func.name()) {
            Some(own) if *own != func => {
                Transformed::yes(Expr::AggregateFunction(AggregateFunction { func: Arc::clone(own), params }))
            }
            _ => Transformed::no(Expr::AggregateFunction(AggregateFunction { func, params })),
        },
        Expr::WindowFunction(mut window) => {
            let own = match &window.fun {
                WindowFunctionDefinition::AggregateUDF(func) => {
                    functions::aggregate_named(func.name()).filter(|own| *own != func)
                }
                WindowFunctionDefinition::WindowUDF(_) => None,
            };
            let Some(own) = own else { return Ok(Transformed::no(Expr::WindowFunction(window))) };
            window.fun = WindowFunctionDefinition::AggregateUDF(Arc::clone(own));
            Transformed::yes(Expr::WindowFunction(window))
        }
        other => Transformed::no(other),
    })
}
