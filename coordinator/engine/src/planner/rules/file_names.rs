//! Refuses a plan in which the name of a row's file is computed above the scan.
//!
//! A scan alone knows it: DataFusion 55.2 puts `input_file_name()` into scans, where its rules bring the projection there, and fails
//! anywhere else with the first row. `"$path"` is written as a projection right above its table ([`crate::sql::paths`]). A plan that has
//! lost this is told before its header is written.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use crate::sql::Refusal;

/// One of the last rules.
#[derive(Debug)]
pub struct FileNamesInScans;

impl PhysicalOptimizerRule for FileNamesInScans {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.apply(|node| {
            let is_above = match (node.downcast_ref::<ProjectionExec>(), node.downcast_ref::<FilterExec>()) {
                (Some(projection), _) => projection.expr().iter().any(|projected| names_file(&projected.expr)),
                (_, Some(filter)) => names_file(filter.predicate()),
                _ => false,
            };
            match is_above {
                true => Err(Refusal::new(
                    "the file of a row is not known above other operators than a scan",
                    "keep it for the session: CREATE TABLE x AS SELECT *, \"$path\" AS file FROM t",
                )
                .into()),
                false => Ok(TreeNodeRecursion::Continue),
            }
        })?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "file_names_in_scans"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn names_file(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let is_name = |part: &Arc<dyn PhysicalExpr>| {
        part.downcast_ref::<ScalarFunctionExpr>().is_some_and(|call| call.fun().name() == "input_file_name")
    };
    expr.exists(|part| Ok(is_name(part))).unwrap_or_default()
}
