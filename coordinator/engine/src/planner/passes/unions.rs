//! Pass 3: partition-local operators move from above a union into each of its branches.
//!
//! ```text
//!  operator ─► union ─┬─► scan a         union ─┬─► operator ─► scan a
//!                     └─► scan b    ─►          └─► operator ─► scan b
//! ```
//!
//! A union mixes no partitions, so that both plans give the same partitions. The cut then finds an operator over each scan:
//! functions send partial aggregates and first rows in place of all rows.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, replace_children_if_necessary};

use super::cut::{is_fragment, is_partition_local};

/// Moves operators into the branches of unions that have a branch for functions.
///
/// # Errors
/// DataFusion's, of an operator that cannot be rebuilt over a branch.
pub fn into_branches(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let moved = |node: Arc<dyn ExecutionPlan>| match union_under(&node) {
        Some(branches) if branches.iter().any(is_fragment) => {
            let over = |branch| replace_children_if_necessary(Arc::clone(&node), vec![branch]);
            let branches = branches.into_iter().map(over).collect::<Result<_>>()?;
            Ok(Transformed::yes(UnionExec::try_new(branches)?))
        }
        _ => Ok(Transformed::no(node)),
    };
    Arc::clone(plan).transform_up(moved).data()
}

/// Returns the branches of a union right below a partition-local operator.
fn union_under(node: &Arc<dyn ExecutionPlan>) -> Option<Vec<Arc<dyn ExecutionPlan>>> {
    let children = node.children();
    let [child] = children.as_slice() else { return None };
    let union = is_partition_local(node).then(|| child.downcast_ref::<UnionExec>()).flatten()?;
    Some(branches(union))
}

/// Lists the branches of a union, and those of unions right below it.
fn branches(union: &UnionExec) -> Vec<Arc<dyn ExecutionPlan>> {
    let of = |input: &Arc<dyn ExecutionPlan>| match input.downcast_ref::<UnionExec>() {
        Some(union) => branches(union),
        None => vec![Arc::clone(input)],
    };
    union.inputs().iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::passes::samples::{Sample, shape};

    /// Checks the distributed plan of a query.
    async fn check(sample: &Sample, sql: &str, expect: &[&str]) {
        let plan = into_branches(&sample.plan(sql).await).expect("a plan");
        assert_eq!(shape(&plan).lines().collect::<Vec<_>>(), expect, "{sql}");
    }

    #[tokio::test]
    async fn operators_move_into_each_branch() {
        let sample = Sample::new().await;
        let both = "(SELECT a, b FROM t UNION ALL SELECT b, a FROM t)";
        check(
            &sample,
            &format!("SELECT b, count(*) FROM {both} GROUP BY b"),
            &[
                "ProjectionExec",
                "  AggregateExec",
                "    RepartitionExec",
                "      UnionExec",
                "        AggregateExec",
                "          DataSourceExec",
                "        AggregateExec",
                "          DataSourceExec",
            ],
        )
        .await;
        check(
            &sample,
            &format!("SELECT a FROM {both} ORDER BY b LIMIT 3"),
            &[
                "ProjectionExec",
                "  SortPreservingMergeExec",
                "    UnionExec",
                "      SortExec",
                "        DataSourceExec",
                "      SortExec",
                "        DataSourceExec",
            ],
        )
        .await;
        // A branch that is no scan has the operator as well.
        check(
            &sample,
            "SELECT sum(a) FROM (SELECT a FROM t UNION ALL SELECT * FROM (VALUES (1), (2)) AS v(a))",
            &[
                "AggregateExec",
                "  CoalescePartitionsExec",
                "    UnionExec",
                "      AggregateExec",
                "        DataSourceExec",
                "      AggregateExec",
                "        ProjectionExec",
                "          DataSourceExec",
            ],
        )
        .await;
    }

    #[tokio::test]
    async fn unions_without_a_scan_stay_as_they_are() {
        let sample = Sample::new().await;
        let branch = "SELECT x.a FROM t AS x JOIN t AS y ON x.a = y.b";
        let plan = sample.plan(&format!("SELECT sum(a) FROM ({branch} UNION ALL {branch})")).await;
        assert_eq!(shape(&into_branches(&plan).expect("a plan")), shape(&plan));
    }
}
