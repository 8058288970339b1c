//! The stage that may take the place of one with joins over exchanges: its build sides are copied, and the other side's rows are joined where they are scanned.
//!
//! ```text
//!  aggregate                          aggregate
//!    └─► join ─┬─► exchange ─► …  ─►    └─► join ─┬─► BroadcastExec ─► the same build side, of one partition
//!              └─► exchange ─► scan               └─► scan
//! ```
//!
//! The rows of the build side are counted before the other side begins (`exec/shuffle/copies.rs`). Only then is one of the two stages chosen. Every operator above the scan has to be
//! right by fragment: one that needs all rows of a key has lost its exchange.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, replace_children_if_necessary};

use super::{ShuffleExec, Shuffles, shuffles};
use crate::config::{BuildFirst, ShufflePlace};
use crate::planner::certain_work::is_join;
use crate::planner::passes::aligned::aligned_scans;
use crate::planner::passes::broadcast::{BroadcastExec, broadcasts, is_right_by_fragment};
use crate::planner::passes::cut::{is_fragment, is_partition_local};

/// Returns the subtree of the stage that takes the place of a stage over exchanges, should the build sides of its joins turn out to be small. None where there is none,
/// or where the rule leaves the exchanges as they are.
pub fn with_copies(stage: &Arc<dyn ExecutionPlan>, rule: Shuffles) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let sides = build_sides(stage);
    let is_wanted = match rule.build_first {
        BuildFirst::Always => true,
        BuildFirst::Auto => rule.place == ShufflePlace::Auto && sides.iter().any(is_guess),
        BuildFirst::Never => false,
    };
    if !is_wanted || sides.is_empty() || shuffles(stage).is_empty() {
        return Ok(None);
    }
    match stage.downcast_ref::<RepartitionExec>() {
        // Its rows go to functions of another stage, parted as before.
        Some(exchange) => over_copies(exchange.input())?.map(|below| rebuilt(stage, below)).transpose(),
        None => over_copies(stage),
    }
}

/// Lists the build sides of the joins that lie on the way from a stage's top to its last exchange, from the top.
pub fn build_sides(stage: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn ExecutionPlan>> {
    let (mut sides, mut node) = (Vec::new(), stage);
    while !node.is::<ShuffleExec>() {
        if let Some(join) = node.downcast_ref::<HashJoinExec>() {
            sides.push(Arc::clone(join.left()));
        }
        let Some(below) = node.children().pop() else { break };
        node = below;
    }
    sides
}

/// Makes a plan over the scan of its last exchange, with copies of all build sides. None where an operator would not be right.
fn over_copies(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(mark) = plan.downcast_ref::<ShuffleExec>() {
        return Ok(scanned(mark));
    }
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        if *join.partition_mode() != PartitionMode::Partitioned || !is_right_by_fragment(join) {
            return Ok(None);
        }
        let Some(below) = over_copies(join.right())? else { return Ok(None) };
        let build = Arc::new(CoalescePartitionsExec::new(Arc::clone(join.left())));
        let children: Vec<Arc<dyn ExecutionPlan>> = vec![Arc::new(BroadcastExec::new(build)), below];
        let join = join.builder().with_partition_mode(PartitionMode::CollectLeft).with_new_children(children)?;
        return join.build_exec().map(Some);
    }
    match plan.children().as_slice() {
        [below] if is_partition_local(plan) => over_copies(below)?.map(|below| rebuilt(plan, below)).transpose(),
        _ => Ok(None),
    }
}

fn rebuilt(plan: &Arc<dyn ExecutionPlan>, below: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    replace_children_if_necessary(Arc::clone(plan), vec![below])
}

/// Returns the plan of an exchange's producers, if they scan and do nothing else that needs rows of others.
fn scanned(mark: &ShuffleExec) -> Option<Arc<dyn ExecutionPlan>> {
    let input = mark.input().downcast_ref::<RepartitionExec>()?.input();
    // One that makes few objects of many lies over the producers.
    if let Some(below) = input.downcast_ref::<ShuffleExec>() {
        return scanned(below);
    }
    let scans_only = shuffles(input).is_empty() && broadcasts(input).is_empty() && aligned_scans(input).is_empty();
    (is_fragment(input) && scans_only).then(|| Arc::clone(input))
}

/// Returns true if something decides about a plan's rows whose share no statistic counts.
fn is_guess(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<FilterExec>() || plan.is::<AggregateExec>() || is_join(plan) || plan.children().into_iter().any(is_guess)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::passes::cut::cut;
    use crate::planner::passes::samples::{Sample, shape};
    use crate::planner::passes::shuffle::{StageRules, shuffled};

    /// Returns the stages that may take the places of others.
    async fn found(rule: Shuffles, sql: &str) -> Vec<String> {
        let rules = StageRules { shuffles: rule, ..StageRules::SCANS };
        let plan = shuffled(&Sample::new().await.plan_by(rules, sql).await, rule).expect("a plan").plan;
        let mut found = Vec::new();
        cut(&plan, &mut |subtree| {
            found.extend(with_copies(&subtree, rule)?.map(|plan| shape(&plan)));
            Ok(subtree)
        })
        .expect("a plan");
        found
    }

    #[tokio::test]
    async fn joins_that_are_right_by_fragment_may_have_copies() {
        let hash = Shuffles { place: ShufflePlace::Hash, build_first: BuildFirst::Always, ..Shuffles::NONE };
        let inner = "SELECT x.b, y.b FROM t AS x JOIN t AS y ON x.a = y.a";
        for (sql, expect) in [
            (inner, 1),
            ("SELECT y.b FROM t AS x RIGHT JOIN t AS y ON x.a = y.a", 1),
            ("SELECT count(*) FROM t AS x JOIN t AS y ON x.a = y.a", 1),
            ("SELECT y.b, count(*) FROM t AS x JOIN t AS y ON x.a = y.a GROUP BY y.b", 1),
            // All rows of a key would have to meet.
            ("SELECT y.a, count(*) FROM t AS x JOIN t AS y ON x.a = y.a GROUP BY y.a", 0),
            ("SELECT x.b, y.b FROM t AS x FULL JOIN t AS y ON x.a = y.a", 0),
            ("SELECT b, count(*) FROM t GROUP BY b", 0),
        ] {
            assert_eq!(found(hash, sql).await.len(), expect, "{sql}");
        }
        let shape = found(hash, inner).await.concat();
        let seen: Vec<&str> = shape.lines().map(str::trim).filter(|name| *name != "ProjectionExec").collect();
        let build = ["CoalescePartitionsExec", "ShuffleExec", "RepartitionExec", "DataSourceExec"];
        assert_eq!(seen[..2], ["HashJoinExec", "BroadcastExec"], "{shape}");
        assert_eq!(seen[2..6], build, "{shape}");
        assert_eq!(seen[6..], ["DataSourceExec"], "{shape}");
    }

    #[tokio::test]
    async fn auto_asks_for_a_guess() {
        let auto = Shuffles { place: ShufflePlace::Auto, bytes_min: 1, ..Shuffles::NONE };
        let filtered = "SELECT x.b, y.b FROM (SELECT a, b FROM t WHERE b % 3 = 1) AS x JOIN t AS y ON x.a = y.a";
        for (rule, sql, expect) in [
            (auto, filtered, 1),
            (auto, "SELECT x.b, y.b FROM t AS x JOIN t AS y ON x.a = y.a", 0),
            (Shuffles { build_first: BuildFirst::Never, ..auto }, filtered, 0),
            (Shuffles { place: ShufflePlace::Hash, ..auto }, filtered, 0),
        ] {
            assert_eq!(found(rule, sql).await.len(), expect, "{rule:?} {sql}");
        }
    }
}
