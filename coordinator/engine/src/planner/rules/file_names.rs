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
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use crate::sql::Refusal;

/// One of the last rules.
#[derive(Debug)]
pub struct FileNamesInScans;

impl PhysicalOptimizerRule for FileNamesInScans {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.apply(|node| {
            // A leaf is a scan.
            let mut is_above = false;
            if !node.children().is_empty() {
                node.apply_expressions(&mut |expr| {
                    is_above |= names_file(expr);
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
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

#[cfg(test)]
mod tests {
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// Plans a statement over a file of one column, `id`.
    async fn planned(sql: &str) -> Result<Arc<dyn ExecutionPlan>> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("t.parquet").display().to_string();
        let state = SessionStateBuilder::new().with_default_features();
        let state = state.with_physical_optimizer_rule(Arc::new(FileNamesInScans)).build();
        let context = SessionContext::new_with_state(state);
        let written = context.sql(&format!("COPY (SELECT 1 AS id) TO '{file}' STORED AS PARQUET")).await?;
        written.collect().await?;
        context.register_parquet("t", &file, datafusion::prelude::ParquetReadOptions::default()).await?;
        context.sql(sql).await?.create_physical_plan().await
    }

    #[tokio::test]
    async fn a_name_above_a_scan_is_refused_wherever_it_stands() {
        for above in [
            "SELECT input_file_name() FROM (SELECT DISTINCT id FROM t)",
            "SELECT id FROM (SELECT DISTINCT id FROM t) ORDER BY input_file_name()",
            "SELECT count(*) FROM (SELECT DISTINCT id FROM t) GROUP BY input_file_name()",
            "SELECT max(input_file_name()) FROM (SELECT DISTINCT id FROM t)",
            "SELECT sum(id) OVER (PARTITION BY input_file_name()) FROM (SELECT DISTINCT id FROM t)",
        ] {
            let error = planned(above).await.expect_err(above).to_string();
            assert!(error.contains("above other operators"), "{above}: {error}");
        }
        for below in ["SELECT input_file_name(), id FROM t", "SELECT id FROM t"] {
            planned(below).await.unwrap_or_else(|error| panic!("{below}: {error}"));
        }
    }
}
