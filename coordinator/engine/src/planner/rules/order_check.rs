//! DataFusion's last check of a plan, which here also finds an order of expressions with functions.
//!
//! DataFusion 55.2 does not know that rows are in the order of `CASE WHEN length(s) < 1 THEN k ELSE 0 END`. It computes the range of an
//! order's expression, a function's range is of no type, and the comparison above it fails. Its check then refuses a plan that sorts by that very
//! expression right below (SanityCheckPlan; the kind of apache/datafusion 18327). Here an order also holds where the rows below are known
//! to be in it, word by word.
//!
//! Take this out when `datafusion_alone_refuses_it` fails.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

/// Name of DataFusion's rule.
pub(super) const CHECK: &str = "SanityCheckPlan";

/// DataFusion's check, which fails only if an order that it misses is not there.
#[derive(Debug)]
pub(super) struct OrderCheck(pub Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for OrderCheck {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        match self.0.optimize(Arc::clone(&plan), config) {
            Err(error) if error.to_string().contains("does not satisfy order requirements") && is_in_order(&plan)? => {
                Ok(plan)
            }
            checked => checked,
        }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// Returns true if each node's inputs are in the order that it needs.
fn is_in_order(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    for (child, required) in plan.children().into_iter().zip(plan.required_input_ordering()) {
        if !is_in_order(child)? {
            return Ok(false);
        }
        let Some(required) = required else { continue };
        let required = required.into_single();
        let properties = child.equivalence_properties();
        let is_this = properties.oeq_class().iter().any(|order| {
            order.len() >= required.len()
                && order.iter().zip(required.iter()).all(|(by, required)| {
                    by.expr.eq(&required.expr) && required.options.is_none_or(|options| options == by.options)
                })
        });
        if !is_this && !properties.ordering_satisfy_requirement(required)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use datafusion::datasource::MemTable;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;
    use crate::planner::rules::filter_names;

    /// Plans an order by a CASE over a function's value, of rows in two partitions.
    async fn planned(rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>) -> Result<usize> {
        let state = SessionStateBuilder::new_with_default_features()
            .with_config(SessionConfig::new().with_target_partitions(2))
            .with_physical_optimizer_rules(rules)
            .build();
        let context = SessionContext::new_with_state(state);
        let rows = context.sql("SELECT * FROM (VALUES ('a', 1), ('', 2)) AS t(s, k)").await?.collect().await?;
        let table = MemTable::try_new(rows[0].schema(), vec![rows.clone(), rows])?;
        context.register_table("t", Arc::new(table))?;
        let sql = "SELECT k FROM t ORDER BY CASE WHEN length(s) < 1 THEN k ELSE 0 END DESC, k";
        Ok(context.sql(sql).await?.collect().await?.iter().map(|batch| batch.num_rows()).sum())
    }

    #[tokio::test]
    async fn rows_can_be_in_the_order_of_a_case_over_a_function() {
        assert_eq!(planned(filter_names::rules()).await.expect("a plan"), 4);
    }

    /// Fails when DataFusion is corrected: then this file can go.
    #[tokio::test]
    async fn datafusion_alone_refuses_it() {
        let refused = planned(PhysicalOptimizer::new().rules).await.expect_err("refused");
        assert!(refused.to_string().contains(CHECK), "{refused}");
    }
}
