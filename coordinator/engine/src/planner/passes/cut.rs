//! Pass 5: a plan is cut into the part that functions run and the part that the coordinator finishes.
//!
//! A fragment is the maximal subtree over one scan in which every partition can be computed without the others: filter,
//! projection, partial aggregate, per-partition sort and limit. An operator that needs several partitions is the boundary above it: a
//! hash repartition, a gather, a merge, a join. Where an exchange by hash is marked ([`super::shuffle`]), the operators above it are a fragment, too, and so are
//! those above scans that are aligned ([`super::aligned`]).
//! A sort by ranges is one with the operator that puts its partitions behind one another, and nothing above that.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, replace_children_if_necessary};
use gust_protocol::plan::file_scan;

use super::aligned::is_aligned;
use super::broadcast::{BroadcastExec, with_broadcasts};
use super::shuffle::{InOrderExec, is_keyed, with_shuffles};
use crate::planner::graph::is_parquet;

/// Replaces each maximal partition-local subtree by the result of `stage`. The rest of the plan stays as it is.
///
/// `stage` gets the subtree that the functions run, which has the schema and the partitions of the replaced one. Build sides that its
/// fragments get are cut before it, and stand under their marks.
pub fn cut(
    plan: &Arc<dyn ExecutionPlan>,
    stage: &mut dyn FnMut(Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if is_fragment(plan) {
        let fragment = over_cut_inputs(plan, stage)?;
        return stage(fragment);
    }
    let fetch = gathered_rows_max(plan);
    let mut children = Vec::new();
    for child in plan.children() {
        children.push(match fetch {
            Some(fetch) if is_fragment(child) && !child.is::<InOrderExec>() => {
                let fragment = over_cut_inputs(child, stage)?;
                stage(limited(&fragment, fetch))?
            }
            _ => cut(child, stage)?,
        });
    }
    if children.is_empty() {
        return Ok(Arc::clone(plan));
    }
    replace_children_if_necessary(Arc::clone(plan), children)
}

/// Cuts the inputs of a fragment: build sides, which are plans of the coordinator's with fragments of their own, and exchanges, each a stage
/// below which there may be others.
fn over_cut_inputs(
    fragment: &Arc<dyn ExecutionPlan>,
    stage: &mut dyn FnMut(Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let fragment = with_broadcasts(fragment, &mut |_, mark| Ok(Arc::new(mark.over(cut(mark.input(), stage)?))))?;
    with_shuffles(&fragment, &mut |_, mark| {
        let producer = over_cut_inputs(mark.input(), stage)?;
        Ok(Arc::new(mark.over(stage(producer)?)))
    })
}

/// Returns true if the whole tree under `plan` is one scan with partition-local operators above it, operators over exchanges between functions, or operators over
/// aligned scans. A join with a build side that every fragment gets is a partition-local operator.
pub(in crate::planner) fn is_fragment(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(scan) = file_scan(plan) {
        return is_parquet(scan);
    }
    if let Some(ranges) = plan.downcast_ref::<InOrderExec>() {
        return is_keyed(ranges.input());
    }
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        return is_keyed(plan) || is_aligned(plan) || (join.left().is::<BroadcastExec>() && is_fragment(join.right()));
    }
    let is_over_fragment = || match plan.children().as_slice() {
        // Lanes and fragments of a sort by ranges follow one another, which no operator above it would keep.
        [below] => is_partition_local(plan) && !below.is::<InOrderExec>() && is_fragment(below),
        _ => false,
    };
    is_keyed(plan) || is_aligned(plan) || is_over_fragment()
}

/// Returns true if an operator computes each partition without the others.
///
/// A partial sort does, too, but DataFusion 55.2 cannot encode it. It is left to the coordinator, over sorted stages.
pub(super) fn is_partition_local(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return *aggregate.mode() == AggregateMode::Partial;
    }
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        return sort.preserve_partitioning();
    }
    plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<UnnestExec>()
        || plan.is::<CooperativeExec>()
}

/// Returns true if an aggregate has a row over no rows, as `ROLLUP`, `CUBE` and `()` among grouping sets do. A partial aggregate makes this row, so that one has to run.
pub(in crate::planner) fn has_row_over_none(aggregate: &AggregateExec) -> bool {
    let groups = aggregate.group_expr();
    groups.has_grouping_set() && groups.groups().iter().any(|nulls| nulls.iter().all(|is_null| *is_null))
}

/// Returns true if a fragment has rows though it reads none.
pub(in crate::planner) fn has_rows_over_none(fragment: &Arc<dyn ExecutionPlan>) -> bool {
    fragment.downcast_ref::<AggregateExec>().is_some_and(has_row_over_none)
        || fragment.children().into_iter().any(has_rows_over_none)
}

/// Returns the most rows that a gather lets through: no partition has to send more.
fn gathered_rows_max(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    let gathers = plan.is::<CoalescePartitionsExec>() || plan.is::<SortPreservingMergeExec>();
    plan.fetch().filter(|_| gathers)
}

/// Limits `plan` to at most `fetch` rows a partition.
fn limited(plan: &Arc<dyn ExecutionPlan>, fetch: usize) -> Arc<dyn ExecutionPlan> {
    if plan.fetch().is_some_and(|own| own <= fetch) {
        return Arc::clone(plan);
    }
    // A sort with a fetch keeps only the first rows in memory. A limit above it would sort everything first.
    if plan.is::<SortExec>()
        && let Some(sort) = plan.with_fetch(Some(fetch))
    {
        return sort;
    }
    Arc::new(LocalLimitExec::new(Arc::clone(plan), fetch))
}

/// Returns true if each partition of `plan` comes in a declared order, which a stage must then keep.
pub fn is_sorted(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.output_ordering().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::passes::samples::{Sample, hole, shape};

    /// Checks the part of a query's plan that stays on the coordinator, and the parts that are cut off.
    async fn check(sample: &Sample, sql: &str, coordinator: &str, stages: &[&str]) {
        let mut found = Vec::new();
        let plan = cut(&sample.plan(sql).await, &mut |subtree| {
            found.push(shape(&subtree));
            Ok(hole(&subtree))
        });
        assert_eq!(
            (shape(&plan.expect("a plan")).as_str(), found),
            (coordinator, stages.iter().map(ToString::to_string).collect()),
            "{sql}"
        );
    }

    #[tokio::test]
    async fn the_largest_subtree_without_an_exchange_is_cut_off() {
        let sample = Sample::new().await;
        check(&sample, "SELECT a FROM t", "EmptyExec", &["DataSourceExec"]).await;
        check(
            &sample,
            "SELECT sum(a) FROM t WHERE b + 0 = 3",
            "AggregateExec\n  CoalescePartitionsExec\n    EmptyExec",
            &["AggregateExec\n  FilterExec\n    DataSourceExec"],
        )
        .await;
        check(
            &sample,
            "SELECT b, count(*) FROM t GROUP BY b",
            "ProjectionExec\n  AggregateExec\n    RepartitionExec\n      EmptyExec",
            &["AggregateExec\n  DataSourceExec"],
        )
        .await;
    }

    #[tokio::test]
    async fn no_partition_sends_more_rows_than_the_gather_lets_through() {
        let sample = Sample::new().await;
        check(
            &sample,
            "SELECT a FROM t LIMIT 3",
            "CoalescePartitionsExec\n  EmptyExec",
            // Here the scan itself stops.
            &["DataSourceExec"],
        )
        .await;
        check(
            &sample,
            "SELECT a FROM t ORDER BY b LIMIT 3",
            "ProjectionExec\n  SortPreservingMergeExec\n    EmptyExec",
            &["SortExec\n  DataSourceExec"],
        )
        .await;
    }

    #[tokio::test]
    async fn each_side_of_a_join_is_cut_off() {
        let sample = Sample::new().await;
        let sql = "SELECT x.a FROM t AS x JOIN t AS y ON x.a = y.b WHERE y.a > 3";
        let mut stages = 0;
        let plan = cut(&sample.plan(sql).await, &mut |subtree| {
            stages += 1;
            Ok(hole(&subtree))
        });
        assert_eq!((stages, shape(&plan.expect("a plan")).contains("DataSourceExec")), (2, false));
    }
}
