//! DataFusion's physical rules, with filters pushed down only where a column's name is unique.
//!
//! DataFusion 55.2 carries a filter into an input by the names of its columns (`FilterRemapper`, which takes the first of a name).
//! Above a join of tables that share names, a filter on one side's column thus becomes one on the
//! other side's. Rows are pruned that the query wants: `x JOIN y … JOIN z … WHERE z.id < 7` over three tables with an `id` had
//! none (apache/datafusion 25244 and 25296, corrected by 25259). The tests of this file run plain DataFusion, too. This file can go when that is
//! right.
//!
//! A join tells its sides apart by position, and finds the column of a side by its name. So a filter from above does not pass a join
//! over such an input; the join's own filter does not need to be found.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::{ExecutionPlan, replace_children_if_necessary};

use super::order_check;

type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// Lists DataFusion's rules in their order. The two that push filters down have a guard, and the last check has [`super::order_check`].
pub fn rules() -> Vec<Rule> {
    let guarded = |rule: Rule| match rule.name() {
        "FilterPushdown" | "FilterPushdown(Post)" => Arc::new(Guarded(rule)) as Rule,
        order_check::CHECK => Arc::new(order_check::OrderCheck(rule)) as Rule,
        _ => rule,
    };
    PhysicalOptimizer::new().rules.into_iter().map(guarded).collect()
}

/// Tells the scans of a plan what its joins, sorts with a limit and aggregates will learn, as the options say.
///
/// # Errors
/// DataFusion's, of an operator that cannot be rebuilt.
pub fn telling_facts(plan: Arc<dyn ExecutionPlan>, options: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
    Guarded(Arc::new(FilterPushdown::new_post_optimization())).optimize(plan, options)
}

/// Rule that pushes filters down, unless one would pass a node whose names do not tell its columns apart. Filters are still pushed
/// down below such a node.
#[derive(Debug)]
struct Guarded(Rule);

impl PhysicalOptimizerRule for Guarded {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        // Filters that stay in place cost time, and no rows.
        match self.below_shared_names(plan, config)? {
            Part::Clear(plan) => self.0.optimize(plan, config),
            Part::Done(plan) => Ok(plan),
        }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// Part of a plan, from a node down.
enum Part {
    /// No filter in it passes shared names. The rule was not applied yet.
    Clear(Arc<dyn ExecutionPlan>),
    /// The rule was applied wherever no filter passes shared names.
    Done(Arc<dyn ExecutionPlan>),
}

impl Guarded {
    /// Applies the rule to the largest parts in which no filter passes shared names, unless the whole is one.
    fn below_shared_names(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Part> {
        let children = plan.children().into_iter().map(|child| self.below_shared_names(Arc::clone(child), config));
        let children: Vec<Part> = children.collect::<Result<_>>()?;
        if children.iter().all(|part| matches!(part, Part::Clear(_))) {
            if !shares_names_with_input(&plan) {
                return Ok(Part::Clear(plan));
            }
            if children.len() > 1 {
                return Ok(Part::Done(self.0.optimize(plan, config)?));
            }
        }
        let children = children.into_iter().map(|part| match part {
            Part::Clear(child) => self.0.optimize(child, config),
            Part::Done(child) => Ok(child),
        });
        let children = children.collect::<Result<Vec<_>>>()?;
        Ok(Part::Done(replace_children_if_necessary(plan, children)?))
    }
}

/// Returns true if filters from above lose their column on the way into an input of the node.
fn shares_names_with_input(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let children = plan.children();
    let is_seen_from_above = children.len() == 1 && shares_names(plan);
    is_seen_from_above || children.into_iter().any(shares_names)
}

fn shares_names(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let schema = plan.schema();
    let mut seen = HashSet::new();
    schema.fields().iter().any(|field| !seen.insert(field.name().as_str()))
}

#[cfg(test)]
mod tests {
    use arrow::record_batch::RecordBatch;
    use datafusion::common::tree_node::TreeNode;
    use datafusion::dataframe::{DataFrame, DataFrameWriteOptions};
    use datafusion::execution::SessionStateBuilder;
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
    use tempfile::TempDir;

    use super::*;

    /// Makes three tables of 200 rows in row groups of ten, all with the columns `id` and `k`.
    async fn tables() -> TempDir {
        let folder = TempDir::new().expect("a temporary folder");
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().execution.parquet.max_row_group_size = 10;
        let context = SessionContext::new_with_config(config);
        for (name, k) in [("x", "199 - value"), ("y", "(value * 7 + 3) % 200"), ("z", "value")] {
            let select = format!("SELECT value AS id, {k} AS k FROM generate_series(0, 199)");
            let rows = context.sql(&select).await.expect("a plan");
            let path = folder.path().join(format!("{name}.parquet"));
            let written = rows.write_parquet(
                path.to_str().expect("text"),
                DataFrameWriteOptions::new().with_single_file_output(true),
                None,
            );
            written.await.expect("written");
        }
        folder
    }

    /// Plans `sql` with these rules.
    async fn planned(rules: Vec<Rule>, folder: &TempDir, sql: &str) -> DataFrame {
        let state = SessionStateBuilder::new_with_default_features()
            .with_config(SessionConfig::new().with_target_partitions(4))
            .with_physical_optimizer_rules(rules)
            .build();
        let context = SessionContext::new_with_state(state);
        for name in ["x", "y", "z"] {
            let path = folder.path().join(format!("{name}.parquet"));
            let path = path.to_str().expect("text");
            context.register_parquet(name, path, ParquetReadOptions::default()).await.expect("a table");
        }
        context.sql(sql).await.expect("a plan")
    }

    async fn count(rules: Vec<Rule>, folder: &TempDir, sql: &str) -> usize {
        let rows = planned(rules, folder, sql).await.collect().await.expect("rows");
        rows.iter().map(RecordBatch::num_rows).sum()
    }

    const THREE: &str = "SELECT x.id AS a, y.k AS b FROM x JOIN y ON x.k = y.k JOIN z ON y.id = z.k WHERE z.id < 7";

    /// The last join's key is a column of the first one, and passes the second one.
    const FOUR: [&str; 3] = [
        "SELECT f.id FROM x f JOIN y d ON f.k = d.k JOIN z o ON f.id = o.k JOIN z r ON d.id = r.k WHERE r.id < 7",
        "SELECT d.id FROM y d JOIN x f ON f.k = d.k JOIN z o ON d.id = o.k JOIN z r ON f.id = r.k WHERE r.id < 7",
        "SELECT f.id, d.id AS other FROM x f JOIN y d ON f.k = d.k JOIN z o ON f.id = o.id JOIN z r ON d.id = r.id WHERE r.id < 7",
    ];

    #[tokio::test]
    async fn a_join_of_tables_that_share_names_has_its_rows() {
        let folder = tables().await;
        for sql in FOUR.iter().chain([&THREE]) {
            assert_eq!(count(rules(), &folder, sql).await, 7, "{sql}");
        }
    }

    #[tokio::test]
    async fn joins_below_shared_names_tell_scans_their_keys() {
        let folder = tables().await;
        // Only the join's output has two columns `id`.
        let sql = "SELECT x.id AS a, y.id AS b FROM x JOIN y ON x.k = y.k WHERE x.id < 7";
        let plan = planned(rules(), &folder, sql).await.create_physical_plan().await.expect("a plan");
        let text = displayable(plan.as_ref()).indent(false).to_string();
        assert!(plan.exists(|node| Ok(shares_names_with_input(node))).expect("no error"), "{text}");
        assert!(text.contains("DynamicFilter"), "{text}");
        assert_eq!(count(rules(), &folder, sql).await, 7);
    }

    /// Fails when DataFusion is corrected: then this file can go.
    #[tokio::test]
    async fn datafusion_alone_loses_them() {
        let folder = tables().await;
        assert_ne!(count(PhysicalOptimizer::new().rules, &folder, THREE).await, 7);
        let mut lost = 0;
        for sql in FOUR {
            lost += usize::from(count(PhysicalOptimizer::new().rules, &folder, sql).await != 7);
        }
        assert!(lost > 0, "joins lose none");
    }

    /// The guard knows the rules by their names.
    #[test]
    fn both_rules_are_guarded() {
        let names: Vec<String> = PhysicalOptimizer::new().rules.iter().map(|rule| rule.name().to_owned()).collect();
        assert_eq!(names.iter().filter(|name| name.starts_with("FilterPushdown")).count(), 2, "{names:?}");
        assert!(names.iter().any(|name| name == "FilterPushdown"), "{names:?}");
        assert!(names.iter().any(|name| name == "FilterPushdown(Post)"), "{names:?}");
    }
}
