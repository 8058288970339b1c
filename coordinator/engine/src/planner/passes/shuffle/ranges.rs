//! Sorts without a limit: functions send rows to one another by ranges of the first key, and each sorts its own.
//!
//! ```text
//!  merge                      InOrderExec                      one stage of functions, each with some neighbouring ranges
//!    └─► sort         ─►        └─► sort
//!          └─► fragment               └─► ShuffleExec          rows in the exchange, by range
//!                                           └─► exchange by ranges ─► fragment
//! ```
//!
//! The coordinator puts the sorted rows of functions behind one another, and holds those of two at a time. A merge would hold those of all. Rows of equal first keys are in one
//! range, so that the other keys are a matter of one function.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning, replace_children_if_necessary};

use super::bounds::{Bounds, bounds};
use super::choice::{Choice, sort_choice};
use super::in_order::InOrderExec;
use super::mark::ShuffleExec;
use super::{Shuffles, keeps_order, why_not_sent, why_stays};
use crate::config::SortPlace;
use crate::planner::loads::memory::expected_bytes;
use crate::planner::passes::broadcast::{BroadcastExec, broadcasts};
use crate::planner::passes::pack::PARTITIONS_MAX;

/// Bytes in memory that a range should have, where its rows are few.
const RANGE_BYTES: u64 = 1 << 20;

/// Least ranges of a sort.
const RANGES_MIN: u64 = 64;

/// Ranges by bounds that are guessed. Many of them have no rows.
const RANGES_GUESSED: usize = 1_024;

/// Has functions do the sorts of a plan that are merged, where that is right and worth it. Reasons of the others go to `kept`.
///
/// # Errors
/// DataFusion's, of an operator that cannot be rebuilt.
pub(super) fn ranged(
    plan: &Arc<dyn ExecutionPlan>,
    rule: Shuffles,
    kept: &mut Vec<String>,
) -> Result<Arc<dyn ExecutionPlan>> {
    // Below marks no rows are merged.
    if plan.is::<ShuffleExec>() || plan.is::<BroadcastExec>() {
        return Ok(Arc::clone(plan));
    }
    if let Some((sort, columns)) = merged_sort(plan) {
        match in_ranges(sort, columns, rule)? {
            Ok(ranges) => return Ok(ranges),
            Err(why) => kept.push(format!("by ranges of [{}]: {why}", sort.expr().first())),
        }
    }
    let children = plan.children().into_iter().map(|child| ranged(child, rule, kept)).collect::<Result<Vec<_>>>()?;
    match children.is_empty() {
        true => Ok(Arc::clone(plan)),
        false => replace_children_if_necessary(Arc::clone(plan), children),
    }
}

/// Returns the sort whose partitions an operator merges, all of their rows, with the choice of its columns that may stand between the two.
fn merged_sort(plan: &Arc<dyn ExecutionPlan>) -> Option<(&SortExec, Option<&Arc<dyn ExecutionPlan>>)> {
    let merge = plan.downcast_ref::<SortPreservingMergeExec>()?;
    let columns = Some(merge.input()).filter(|input| input.is::<ProjectionExec>());
    let input = columns.map_or(merge.input(), |columns| columns.children()[0]);
    let sort = input.downcast_ref::<SortExec>()?;
    let is_whole = merge.fetch().is_none() && sort.fetch().is_none() && sort.preserve_partitioning();
    is_whole.then_some((sort, columns))
}

/// Makes the stage that sorts by ranges and chooses columns, or returns the reason to have none.
fn in_ranges(
    sort: &SortExec,
    columns: Option<&Arc<dyn ExecutionPlan>>,
    rule: Shuffles,
) -> Result<Result<Arc<dyn ExecutionPlan>, String>> {
    let input = sort.input();
    let joins = || (!broadcasts(input).is_empty()).then(|| "functions join its rows with copies of a side".to_owned());
    if let Some(why) = why_stays(input).or_else(joins).or_else(|| why_not_sent(&input.schema())) {
        return Ok(Err(why));
    }
    let reason = match choice(input, rule) {
        Ok(reason) => reason,
        Err(why) => return Ok(Err(why)),
    };
    let bounds = match bounds(input, sort.expr().first(), |is_guessed| wanted(input, rule, is_guessed)) {
        Ok(Bounds { is_guessed: true, .. }) if rule.sort == SortPlace::Auto => {
            return Ok(Err("the bounds of its first key would be guessed".to_owned()));
        }
        Ok(bounds) => bounds,
        Err(why) => return Ok(Err(why)),
    };
    let told = if bounds.is_guessed { "; bounds are guessed" } else { "" };
    let exchange = RepartitionExec::try_new(Arc::clone(input), Partitioning::Range(bounds.ranges))?;
    if keeps_order(&exchange) {
        return Ok(Err("its rows keep an order".to_owned()));
    }
    let mark = ShuffleExec::new(Arc::new(exchange)).because(&format!("{reason}{told}").into());
    let mark = if rule.may_combine { mark.combined()? } else { mark };
    let sorted = SortExec::new(sort.expr().clone(), Arc::new(mark)).with_preserve_partitioning(true);
    let sorted: Arc<dyn ExecutionPlan> = Arc::new(sorted);
    let rows = match columns {
        Some(columns) => replace_children_if_necessary(Arc::clone(columns), vec![sorted])?,
        None => sorted,
    };
    Ok(Ok(Arc::new(InOrderExec::new(rows))))
}

fn choice(rows: &Arc<dyn ExecutionPlan>, rule: Shuffles) -> Choice {
    match rule.sort {
        SortPlace::Auto => sort_choice(rows, rule.bytes_min),
        SortPlace::Ranges => Ok("a setting asks for it".to_owned()),
        SortPlace::Local => Err("a setting asks for it".to_owned()),
    }
}

/// Returns the number of ranges of a sort. Neighbouring ones with few rows go to one function, by their true bytes: many ranges are a histogram.
fn wanted(rows: &Arc<dyn ExecutionPlan>, rule: Shuffles, is_guessed: bool) -> usize {
    let by_bytes = |bytes: u64| (bytes / RANGE_BYTES).clamp(RANGES_MIN, PARTITIONS_MAX as u64) as usize;
    let chosen = || match is_guessed {
        true => RANGES_GUESSED,
        false => expected_bytes(rows).map_or(PARTITIONS_MAX, by_bytes),
    };
    rule.partitions.unwrap_or_else(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ShufflePlace;
    use crate::planner::passes::cut::cut;
    use crate::planner::passes::samples::{Sample, hole, shape};
    use crate::planner::passes::shuffle::{StageRules, shuffled};

    const RANGES: Shuffles = Shuffles { sort: SortPlace::Ranges, partitions: Some(8), ..Shuffles::NONE };

    /// Checks the part of a query's plan that stays on the coordinator, and its stages. Returns the reasons of exchanges to stay.
    async fn check(sample: &Sample, rule: Shuffles, sql: &str, coordinator: &str, stages: &[&str]) -> Vec<String> {
        let plan = sample.plan_by(StageRules { shuffles: rule, ..StageRules::SCANS }, sql).await;
        let marked = shuffled(&plan, rule).expect("a plan");
        let mut found = Vec::new();
        let plan = cut(&marked.plan, &mut |subtree| {
            found.push(shape(&subtree));
            Ok(hole(&subtree))
        });
        let plan = shape(&plan.expect("a plan"));
        assert_eq!((plan.as_str(), found), (coordinator, stages.iter().map(ToString::to_string).collect()), "{sql}");
        marked.kept
    }

    #[tokio::test]
    async fn a_sort_is_a_stage_over_ranges() {
        let sample = Sample::new().await;
        let sorted = "InOrderExec\n  SortExec\n    ShuffleExec\n      EmptyExec";
        let scanned = "RepartitionExec\n  DataSourceExec";
        let chosen = "InOrderExec\n  ProjectionExec\n    SortExec\n      ShuffleExec\n        EmptyExec";
        for (sql, coordinator, sorted) in [
            ("SELECT a, b FROM t ORDER BY b DESC, a", "EmptyExec", sorted),
            ("SELECT b FROM t ORDER BY a", "ProjectionExec\n  EmptyExec", chosen),
            ("SELECT a FROM t ORDER BY a OFFSET 3", "GlobalLimitExec\n  EmptyExec", sorted),
        ] {
            let kept = check(&sample, RANGES, sql, coordinator, &[scanned, sorted]).await;
            assert!(kept.is_empty(), "{sql}: {kept:?}");
        }
        // A stage between the two makes few objects of many.
        let combined = Shuffles { may_combine: true, ..RANGES };
        let few = "RepartitionExec\n  ShuffleExec\n    EmptyExec";
        check(&sample, combined, "SELECT a FROM t ORDER BY a", "EmptyExec", &[scanned, few, sorted]).await;
        // The stage below reads the rows of another.
        let both = Shuffles { place: ShufflePlace::Hash, ..RANGES };
        let stages = [
            "RepartitionExec\n  AggregateExec\n    DataSourceExec",
            "RepartitionExec\n  AggregateExec\n    ShuffleExec\n      EmptyExec",
            sorted,
        ];
        check(&sample, both, "SELECT DISTINCT a FROM t ORDER BY a", "EmptyExec", &stages).await;
    }

    #[tokio::test]
    async fn other_sorts_are_merged() {
        let sample = Sample::new().await;
        let merged = "SortPreservingMergeExec\n  EmptyExec";
        let scanned = "SortExec\n  DataSourceExec";
        let auto = |bytes_min| Shuffles { sort: SortPlace::Auto, bytes_min, ..RANGES };
        // 200 rows of two numbers.
        let sql = "SELECT a, b FROM t ORDER BY a";
        let kept = check(&sample, auto(3_201), sql, merged, &[scanned]).await;
        assert!(kept[0].contains("by ranges of [a@0 ASC NULLS LAST]: the sort has about"), "{kept:?}");
        assert!(check(&sample, Shuffles::NONE, sql, merged, &[scanned]).await.is_empty());
        assert!(check(&sample, RANGES, "SELECT a FROM t ORDER BY a LIMIT 3", merged, &[scanned]).await.is_empty());
        let sorted = "InOrderExec\n  SortExec\n    ShuffleExec\n      EmptyExec";
        check(&sample, auto(3_200), sql, "EmptyExec", &["RepartitionExec\n  DataSourceExec", sorted]).await;
    }

    #[tokio::test]
    async fn ranges_have_some_mebibytes_and_are_many_where_bounds_are_guessed() {
        let sample = Sample::new().await;
        let rows = sample.plan("SELECT a FROM t").await;
        let open = Shuffles { partitions: None, ..RANGES };
        assert_eq!([(RANGES, false), (RANGES, true)].map(|(rule, guessed)| wanted(&rows, rule, guessed)), [8, 8]);
        assert_eq!([(open, false), (open, true)].map(|(rule, guessed)| wanted(&rows, rule, guessed)), [64, 1_024]);
    }
}
