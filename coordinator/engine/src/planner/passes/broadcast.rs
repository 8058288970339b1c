//! Pass 2: joins are marked that functions can do, because each of them can have the whole build side.
//!
//! ```text
//!  join ─┬─► build side          join ─┬─► BroadcastExec ─► build side, gathered by the coordinator
//!        └─► fragment       ─►         └─► fragment          the join is a part of the fragment
//! ```
//!
//! A fragment sees all rows of the build side and some of the other. Only joins are right then whose rows each come from one row of
//! the other side: a build row without a match would come once a fragment.

use std::fmt::Formatter;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Result, Statistics};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, replace_children_if_necessary,
};
use gust_protocol::plan::{ExchangeExec, PartsExec};

use super::cut::{is_fragment, is_partition_local};
use super::shuffle::{ShuffleExec, with_shuffles};
use crate::config::JoinPlace;
use crate::planner::forwarding::{over_one_input, rows_of_input};
use crate::planner::loads::memory::expected_bytes;

/// Least bytes in memory of the rows that a join is expected to see of its other side, for `auto`. Functions that join begin when the
/// build side is there, which costs about a quarter of a second: the coordinator takes in as much meanwhile.
const PROBE_BYTES_MIN: u64 = 64 << 20;

/// Rule of the joins that functions do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joins {
    pub place: JoinPlace,
    /// Most bytes in memory of all build sides of a fragment.
    pub bytes_max: u64,
    /// Least bytes in memory of the rows that a join is expected to see of its other side, for `auto`.
    pub probe_bytes_min: u64,
}

impl Joins {
    /// Rule by which all joins stay on the coordinator.
    pub const LOCAL: Self = Self { place: JoinPlace::Local, bytes_max: 0, probe_bytes_min: 0 };

    pub fn new(place: JoinPlace, bytes_max: u64) -> Self {
        Self { place, bytes_max, probe_bytes_min: PROBE_BYTES_MIN }
    }

    /// Returns true if functions do a join, should its other side be theirs.
    pub(super) fn takes(&self, join: &HashJoinExec) -> bool {
        if self.place == JoinPlace::Local || !is_right_by_fragment(join) {
            return false;
        }
        let build = expected_bytes(join.left());
        match self.place {
            JoinPlace::Local => false,
            JoinPlace::Broadcast => build.is_none_or(|bytes| bytes <= self.bytes_max),
            JoinPlace::Auto => {
                build.is_some_and(|bytes| bytes <= self.bytes_max)
                    && expected_bytes(join.right()).is_some_and(|bytes| bytes >= self.probe_bytes_min)
            }
        }
    }
}

/// Returns true if a join of all build rows with a part of the other side's rows gives this part's rows of the whole join.
pub(super) fn is_right_by_fragment(join: &HashJoinExec) -> bool {
    let by_other_side = matches!(
        join.join_type(),
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark
    );
    by_other_side && !join.null_aware
}

/// Returns true if a plan may become a fragment, before there are exchanges and marks in it.
pub(super) fn may_be_fragment(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        let gathered = *join.partition_mode() == PartitionMode::CollectLeft;
        return gathered && is_right_by_fragment(join) && may_be_fragment(join.right());
    }
    match plan.children().as_slice() {
        [] => is_fragment(plan),
        [below] => is_partition_local(plan) && may_be_fragment(below),
        _ => false,
    }
}

/// Rule that has the build sides of such joins gathered, before exchanges are put under joins.
#[derive(Debug)]
pub struct CollectBuilds(pub Joins);

impl PhysicalOptimizerRule for CollectBuilds {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| match node.downcast_ref::<HashJoinExec>() {
            Some(join)
                if *join.partition_mode() == PartitionMode::Partitioned
                    && may_be_fragment(join.right())
                    && self.0.takes(join) =>
            {
                Ok(Transformed::yes(join.builder().with_partition_mode(PartitionMode::CollectLeft).build_exec()?))
            }
            _ => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "collect_builds"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Marks the build sides of the joins that become parts of fragments.
///
/// # Errors
/// DataFusion's, of an operator that cannot be rebuilt.
pub fn marked(plan: &Arc<dyn ExecutionPlan>, joins: Joins) -> Result<Arc<dyn ExecutionPlan>> {
    if joins.place == JoinPlace::Local {
        return Ok(Arc::clone(plan));
    }
    let mark = |node: Arc<dyn ExecutionPlan>| {
        let Some(join) = node.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(node)) };
        let gathered = *join.partition_mode() == PartitionMode::CollectLeft
            && join.left().output_partitioning().partition_count() == 1;
        if !gathered || !is_fragment(join.right()) || !joins.takes(join) {
            return Ok(Transformed::no(node));
        }
        let build = BroadcastExec::new(Arc::clone(join.left()));
        // A fragment holds the build sides of all of its joins.
        let others = broadcasts(join.right()).into_iter().filter_map(|other| other.bytes);
        if others.chain(build.bytes).sum::<u64>() > joins.bytes_max {
            return Ok(Transformed::no(node));
        }
        let children = vec![Arc::new(build) as _, Arc::clone(join.right())];
        Ok(Transformed::yes(replace_children_if_necessary(Arc::clone(&node), children)?))
    };
    Arc::clone(plan).transform_up(mark).data()
}

/// Lists the build sides that a fragment gets, in the order that numbers them.
pub fn broadcasts(fragment: &Arc<dyn ExecutionPlan>) -> Vec<Arc<BroadcastExec>> {
    let mut found = Vec::new();
    let visited = fragment.apply(|node| {
        // Operators below an exchange belong to another stage.
        if node.is::<ShuffleExec>() {
            return Ok(TreeNodeRecursion::Jump);
        }
        let Some(mark) = node.downcast_ref::<BroadcastExec>() else { return Ok(TreeNodeRecursion::Continue) };
        found.push(Arc::new(mark.clone()));
        Ok(TreeNodeRecursion::Jump)
    });
    debug_assert!(visited.is_ok(), "the visit never fails");
    found
}

/// Returns how deep marks lie under each other: so many stages are done before the fragment begins.
pub fn marks_deep(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let below = plan.children().into_iter().map(marks_deep).max().unwrap_or_default();
    below + usize::from(plan.is::<BroadcastExec>() || plan.is::<ShuffleExec>())
}

/// Maker of the plan that stands in the place of a build side, by its number.
pub type InPlaceOfBuild<'a> = dyn FnMut(u32, &BroadcastExec) -> Result<Arc<dyn ExecutionPlan>> + 'a;

/// Maker of the plan that stands in the place of the part of a fragment that needs no build side.
pub type InPlaceOfRows<'a> = dyn Fn(&Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> + 'a;

/// Replaces each build side that a fragment gets, by its number.
///
/// # Errors
/// Those of `replace`, and DataFusion's.
pub fn with_broadcasts(
    fragment: &Arc<dyn ExecutionPlan>,
    replace: &mut InPlaceOfBuild<'_>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut number = 0;
    let replaced = Arc::clone(fragment).transform_down(|node| {
        if node.is::<ShuffleExec>() {
            return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
        }
        let Some(mark) = node.downcast_ref::<BroadcastExec>() else { return Ok(Transformed::no(node)) };
        let replaced = replace(number, mark)?;
        number += 1;
        Ok(Transformed::new(replaced, true, TreeNodeRecursion::Jump))
    });
    replaced.data()
}

/// Makes the plan that a function runs: it has leaves in the place of build sides, and of exchanges that it reads.
pub fn with_leaves(fragment: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let fragment = with_broadcasts(fragment, &mut |number, mark| {
        Ok(Arc::new(ExchangeExec::new(number, mark.schema(), statistics(&mark.input))))
    })?;
    with_shuffles(&fragment, &mut |number, mark| {
        let partitions = mark.properties().output_partitioning().partition_count();
        Ok(Arc::new(PartsExec::new(number, mark.schema(), partitions, statistics(mark.input()))))
    })
}

fn statistics(plan: &Arc<dyn ExecutionPlan>) -> Arc<Statistics> {
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new());
    statistics.unwrap_or_else(|_| Arc::new(Statistics::new_unknown(&plan.schema())))
}

/// Makes the plan without marks.
pub fn unmarked(fragment: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    with_broadcasts(fragment, &mut |_, mark| Ok(Arc::clone(&mark.input)))
}

/// Returns the largest part of a fragment that needs no build side: the part below its lowest join.
pub fn alone(fragment: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match fragment.children().last() {
        Some(below) if !broadcasts(fragment).is_empty() => alone(below),
        _ => Arc::clone(fragment),
    }
}

/// Makes a plan of the operators that need build sides, for the coordinator: `rows` stands for the part that needs none.
///
/// # Errors
/// Those of `rows` and of `build`, and DataFusion's.
pub fn above_alone(
    fragment: &Arc<dyn ExecutionPlan>,
    rows: &InPlaceOfRows<'_>,
    build: &mut InPlaceOfBuild<'_>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let lowest = alone(fragment);
    let replaced = Arc::clone(fragment).transform_down(|node| {
        if node.is::<BroadcastExec>() {
            return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
        }
        match Arc::ptr_eq(&node, &lowest) {
            true => Ok(Transformed::new(rows(&node), true, TreeNodeRecursion::Jump)),
            false => Ok(Transformed::no(node)),
        }
    });
    with_broadcasts(&replaced.data()?, build)
}

/// Build side of a join that functions do. It gives its input's rows, so that a marked plan still runs on one node.
#[derive(Debug, Clone)]
pub struct BroadcastExec {
    input: Arc<dyn ExecutionPlan>,
    /// Bytes in memory that its rows are expected to have. None where no statistics tell.
    bytes: Option<u64>,
}

impl BroadcastExec {
    /// Makes the mark over a plan of one partition.
    pub fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        Self { bytes: expected_bytes(&input), input }
    }

    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    /// Returns the bytes in memory that its rows are expected to have. None where no statistics tell.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Makes the mark over another plan of the same rows.
    #[must_use]
    pub fn over(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        Self { input, bytes: self.bytes }
    }
}

impl DisplayAs for BroadcastExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "BroadcastExec")
    }
}

impl ExecutionPlan for BroadcastExec {
    over_one_input!(input, Self::over);
    rows_of_input!(input);

    fn child_stats_requests(&self, _: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(None)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::passes::cut::cut;
    use crate::planner::passes::samples::{Sample, hole, shape};

    const BROADCAST: Joins =
        Joins { place: JoinPlace::Broadcast, bytes_max: 1 << 20, probe_bytes_min: PROBE_BYTES_MIN };

    /// Returns the part of a query's plan that stays on the coordinator, and the parts that are cut off.
    async fn shapes(joins: Joins, sql: &str) -> (String, Vec<String>) {
        let sample = Sample::new().await;
        let plan = marked(&sample.plan_with(joins, sql).await, joins).expect("a plan");
        let mut found = Vec::new();
        let plan = cut(&plan, &mut |subtree| {
            found.push(shape(&with_leaves(&subtree).expect("a plan")));
            Ok(hole(&subtree))
        });
        (shape(&plan.expect("a plan")), found)
    }

    #[tokio::test]
    async fn a_join_is_a_part_of_its_fragment() {
        let sql = "SELECT x.b, count(*) FROM t AS x JOIN t AS y ON x.a = y.b WHERE y.a > 3 GROUP BY x.b";
        let (_, stages) = shapes(BROADCAST, sql).await;
        assert_eq!(stages.len(), 2, "{stages:?}");
        assert!(!stages[0].contains("HashJoinExec"), "{stages:?}");
        let expect = ["AggregateExec", "  HashJoinExec", "    ExchangeExec"];
        assert_eq!(stages[1].lines().take(3).collect::<Vec<_>>(), expect, "{stages:?}");
    }

    #[tokio::test]
    async fn a_fragment_has_several_joins() {
        let sql = "SELECT count(*) FROM t AS x JOIN t AS y ON x.a = y.a JOIN t AS z ON y.a = z.b";
        // Statistics pass through marks: else `auto` would not know the rows of the lower join.
        for joins in [BROADCAST, Joins { place: JoinPlace::Auto, probe_bytes_min: 1, ..BROADCAST }] {
            let (_, stages) = shapes(joins, sql).await;
            let joins: Vec<usize> = stages.iter().map(|stage| stage.matches("ExchangeExec").count()).collect();
            assert_eq!(joins.iter().sum::<usize>(), 2, "{stages:?}");
        }
    }

    #[tokio::test]
    async fn joins_that_would_be_wrong_or_are_not_wanted_stay() {
        let inner = "SELECT x.a FROM t AS x JOIN t AS y ON x.a = y.a";
        let few = Joins { bytes_max: 100, ..BROADCAST };
        for (joins, sql, expect) in [
            (BROADCAST, inner, true),
            (BROADCAST, "SELECT x.a, y.b FROM t AS x FULL JOIN t AS y ON x.a = y.a", false),
            (BROADCAST, "SELECT a FROM t WHERE a NOT IN (SELECT b FROM t)", false),
            (few, inner, false),
            (Joins { place: JoinPlace::Auto, ..BROADCAST }, inner, false),
            (Joins::LOCAL, inner, false),
        ] {
            let (here, stages) = shapes(joins, sql).await;
            assert_eq!(stages.iter().any(|stage| stage.contains("HashJoinExec")), expect, "{sql}: {stages:?}");
            assert_eq!(here.contains("HashJoinExec"), !expect, "{sql}: {here}");
        }
    }

    #[tokio::test]
    async fn a_marked_plan_has_a_way_back() {
        let sql = "SELECT x.b FROM t AS x JOIN t AS y ON x.a = y.a WHERE x.b > 2 ORDER BY x.b LIMIT 3";
        let sample = Sample::new().await;
        let plan = sample.plan_with(BROADCAST, sql).await;
        let marks = marked(&plan, BROADCAST).expect("a plan");
        assert_eq!(shape(&unmarked(&marks).expect("a plan")), shape(&plan));
        let mut fragments = Vec::new();
        let cut = cut(&marks, &mut |subtree| {
            fragments.push(Arc::clone(&subtree));
            Ok(hole(&subtree))
        });
        cut.expect("a plan");
        let fragment = fragments.pop().expect("a fragment");
        assert_eq!(broadcasts(&fragment).len(), 1);
        assert!(!shape(&alone(&fragment)).contains("HashJoinExec"));
        let here = above_alone(&fragment, &hole, &mut |_, mark| Ok(hole(mark.input()))).expect("a plan");
        let here = shape(&here);
        assert_eq!((here.matches("EmptyExec").count(), here.contains("DataSourceExec")), (2, false), "{here}");
    }
}
