//! Work of operators that the bytes of scans do not have in them: bytes into joins, sorts and their merges, windows and aggregates, from statistics. For estimates
//! only.
//!
//! The rate of a core is measured with a scan, a filter and an aggregate of few groups, so that these cost nothing more. An operator above them takes the bytes into it,
//! as an exchange would encode them, at the same rate: so functions are estimated that read the rows of others. Rows whose number no statistic tells count for
//! nothing, here as in results.

use std::sync::Arc;

use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{Distribution, ExecutionPlan, ExecutionPlanProperties};
use gust_protocol::plan::{ExchangeExec, PartsExec};

use super::memory::row_bytes;
use super::results::compressed;
use super::sizes::{Sizes, first_step};
use crate::model::load::OperatorLoad;
use crate::planner::certain_work::is_join;
use crate::planner::passes::broadcast::broadcasts;
use crate::planner::passes::cut::is_fragment;
use crate::planner::passes::shuffle::shuffles;

/// Work of the coordinator's operators beside stages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperatorsBeside {
    /// Work on rows that other operators of the coordinator have made.
    pub load: OperatorLoad,
    /// Operators that take results of stages as they come. How many bytes these have depends on the packing.
    pub over_results: Vec<OverResults>,
}

/// An operator over the results of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverResults {
    /// Position of the stage's subtree among those that are cut off.
    pub subtree: usize,
    /// True if one core takes them all.
    pub is_one_core: bool,
}

/// Sums up the work of the operators of all fragments of a stage. A function merges its own lanes, which is little work.
pub fn operators_of_stage(plan: &Arc<dyn ExecutionPlan>) -> OperatorLoad {
    operators(plan.downcast_ref::<SortPreservingMergeExec>().map_or(plan, |merge| merge.input()))
}

/// Sums up the work of the operators of a plan that the coordinator runs alone.
pub fn operators(plan: &Arc<dyn ExecutionPlan>) -> OperatorLoad {
    let mut visit = Visit::default();
    visit.visit(plan);
    visit.found.load
}

/// Sums up the work of the operators that stay on the coordinator, of a marked plan. `kept` says of each subtree that could be cut off whether it stays, too: that
/// one's own work is left out.
pub fn operators_beside(plan: &Arc<dyn ExecutionPlan>, kept: &[bool]) -> OperatorsBeside {
    let mut visit = Visit { kept: Some(kept), ..Visit::default() };
    visit.visit(plan);
    visit.found
}

#[derive(Default)]
struct Visit<'a> {
    sizes: Sizes,
    /// Subtrees that stay, in the order in which they are cut. None if nothing is cut.
    kept: Option<&'a [bool]>,
    /// Number of subtrees so far.
    subtrees: usize,
    found: OperatorsBeside,
}

/// Rows that an operator gets.
struct Rows {
    /// True if they are no scan's own, as they are or filtered.
    are_made: bool,
    size: RowsSize,
}

/// Size of such rows.
enum RowsSize {
    /// The plan's statistics tell it.
    Told,
    /// Bytes in memory.
    Bytes(u64),
    /// Groups of unknown number are among them.
    Unknown,
    /// They are the results of stages, by the positions of their subtrees.
    Results(Vec<usize>),
}

impl Visit<'_> {
    /// Adds the work of a plan's operators, and describes its rows.
    fn visit(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Rows {
        if self.kept.is_some() && is_fragment(plan) {
            return self.subtree(plan);
        }
        let children = plan.children();
        let mut inputs: Vec<Rows> = children.iter().map(|child| self.visit(child)).collect();
        if !is_work(plan) {
            return match inputs.is_empty() {
                true => Rows { are_made: plan.is::<PartsExec>() || plan.is::<ExchangeExec>(), size: RowsSize::Told },
                false if plan.is::<UnionExec>() || plan.is::<InterleaveExec>() => together(inputs),
                false => inputs.swap_remove(0),
            };
        }
        let aggregate = plan.downcast_ref::<AggregateExec>();
        if aggregate.is_none() || inputs.iter().any(|rows| rows.are_made) {
            let needs = plan.input_distribution_requirements();
            for (position, (child, rows)) in children.into_iter().zip(&inputs).enumerate() {
                let is_one_core = plan.is::<SortPreservingMergeExec>()
                    || matches!(needs.child_distribution(position), Some(Distribution::SinglePartition));
                self.add(child, &rows.size, is_one_core);
            }
        }
        let is_unknown = inputs.iter().any(|rows| matches!(rows.size, RowsSize::Unknown));
        let size = match aggregate {
            Some(aggregate) => self.groups(aggregate, is_unknown),
            None if is_unknown => RowsSize::Unknown,
            None => RowsSize::Told,
        };
        Rows { are_made: true, size }
    }

    /// Describes the rows of a subtree that is cut off. Build sides of its joins are the coordinator's.
    fn subtree(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Rows {
        for mark in broadcasts(plan) {
            self.visit(mark.input());
        }
        for mark in shuffles(plan) {
            self.subtree(mark.input());
        }
        let position = self.subtrees;
        self.subtrees += 1;
        let is_kept = self.kept.and_then(|kept| kept.get(position)).is_none_or(|is_kept| *is_kept);
        let size = if is_kept { RowsSize::Told } else { RowsSize::Results(vec![position]) };
        Rows { are_made: true, size }
    }

    /// Describes the rows of an aggregate.
    fn groups(&self, aggregate: &AggregateExec, is_of_unknown: bool) -> RowsSize {
        if aggregate.group_expr().is_empty() {
            return RowsSize::Told;
        }
        let groups = match first_step(aggregate) {
            Some(first) => self.sizes.groups(first),
            None if is_of_unknown => None,
            None => return RowsSize::Told,
        };
        match (groups, aggregate.mode()) {
            (None, _) => RowsSize::Unknown,
            // Each partition may meet each group.
            (Some(groups), AggregateMode::Partial) => {
                let partitions = aggregate.input().output_partitioning().partition_count() as u64;
                let rows = self.sizes.rows(aggregate.input()).unwrap_or(u64::MAX);
                let rows = groups.saturating_mul(partitions).min(rows);
                RowsSize::Bytes(rows.saturating_mul(row_bytes(&aggregate.schema()) as u64))
            }
            (Some(_), _) => RowsSize::Told,
        }
    }

    /// Adds the work on an operator's input.
    fn add(&mut self, input: &Arc<dyn ExecutionPlan>, size: &RowsSize, is_one_core: bool) {
        let bytes = match size {
            RowsSize::Told => self.sizes.bytes(input).unwrap_or_default(),
            RowsSize::Bytes(bytes) => *bytes,
            RowsSize::Unknown => 0,
            RowsSize::Results(subtrees) => {
                let over = subtrees.iter().map(|subtree| OverResults { subtree: *subtree, is_one_core });
                self.found.over_results.extend(over);
                0
            }
        };
        self.found.load = self.found.load + OperatorLoad::of(compressed(bytes), is_one_core);
    }
}

/// Describes the rows of several inputs that are put together.
fn together(inputs: Vec<Rows>) -> Rows {
    let are_made = inputs.iter().any(|rows| rows.are_made);
    let mut results = Vec::new();
    let mut size = RowsSize::Told;
    for rows in inputs {
        match rows.size {
            RowsSize::Unknown => size = RowsSize::Unknown,
            RowsSize::Results(subtrees) => results.extend(subtrees),
            RowsSize::Told | RowsSize::Bytes(_) => {}
        }
    }
    Rows { are_made, size: if results.is_empty() { size } else { RowsSize::Results(results) } }
}

/// Returns true for an operator whose work the rows of a scan do not have in them. The first rows of a sort are found as they pass.
fn is_work(plan: &Arc<dyn ExecutionPlan>) -> bool {
    is_join(plan)
        || plan.is::<AggregateExec>()
        || plan.is::<WindowAggExec>()
        || plan.is::<BoundedWindowAggExec>()
        || ((plan.is::<SortExec>() || plan.is::<SortPreservingMergeExec>()) && plan.fetch().is_none())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::stats::Precision;
    use datafusion::common::{Result, Statistics};
    use datafusion::physical_expr::expressions::Column;
    use datafusion::physical_plan::aggregates::PhysicalGroupBy;
    use datafusion::physical_plan::repartition::RepartitionExec;
    use datafusion::physical_plan::{Partitioning, PhysicalExpr};
    use gust_protocol::StoreAccess;

    use super::*;
    use crate::config::{JoinPlace, ShufflePlace};
    use crate::planner::passes::broadcast::Joins;
    use crate::planner::passes::samples::Sample;
    use crate::planner::passes::shuffle::{Shuffles, StageRules};
    use crate::planner::passes::stages::{CutPlan, FunctionAccess};

    #[tokio::test]
    async fn bytes_into_operators_are_counted() {
        let sample = Sample::new().await;
        // 200 rows of two numbers.
        let rows = compressed(3_200);
        for (sql, bytes, one_core_bytes) in [
            ("SELECT a + b FROM t WHERE a > 3", 0, 0),
            // The rate of a core has the first aggregate in it. Its groups are not counted.
            ("SELECT b, count(*) FROM t GROUP BY b", 0, 0),
            // Two partitions are sorted, and merged.
            ("SELECT a, b FROM t ORDER BY b", rows, rows),
            ("SELECT a, b FROM t ORDER BY b LIMIT 7", 0, 0),
            ("SELECT a, b, sum(a) OVER (PARTITION BY b) FROM t", 2 * rows, 0),
            // One side is gathered.
            ("SELECT x.b, y.b FROM t AS x JOIN t AS y ON x.a = y.a", rows, rows),
        ] {
            let found = operators(&sample.plan(sql).await);
            assert_eq!(found, OperatorLoad { bytes, one_core_bytes }, "{sql}");
        }
    }

    /// Groups of counted keys come once from each partition, and no more than there are rows.
    #[test]
    fn counted_groups_are_counted_into_the_last_step() {
        for (distinct, rows_sent) in [(10, 200), (30, 1_000)] {
            let schema = Arc::new(Schema::new(["a", "b"].map(|name| Field::new(name, DataType::Int64, true)).to_vec()));
            let mut statistics = Statistics::new_unknown(&schema);
            statistics.num_rows = Precision::Inexact(1_000);
            for column in &mut statistics.column_statistics {
                column.distinct_count = Precision::Inexact(distinct);
            }
            let leaf = Arc::new(PartsExec::new(0, Arc::clone(&schema), 2, Arc::new(statistics)));
            let key = |name: &str, at| (Arc::new(Column::new(name, at)) as Arc<dyn PhysicalExpr>, name.to_owned());
            let keys = PhysicalGroupBy::new_single(vec![key("a", 0), key("b", 1)]);
            let grouped = |mode, keys: PhysicalGroupBy, input: Arc<dyn ExecutionPlan>| {
                let made = AggregateExec::try_new(mode, keys, Vec::new(), Vec::new(), input, Arc::clone(&schema));
                Arc::new(made.expect("an aggregate")) as Arc<dyn ExecutionPlan>
            };
            let partial = grouped(AggregateMode::Partial, keys.clone(), leaf);
            let by_key = Partitioning::Hash(vec![key("a", 0).0, key("b", 1).0], 2);
            let parted = Arc::new(RepartitionExec::try_new(partial, by_key).expect("an exchange"));
            let last = grouped(AggregateMode::FinalPartitioned, keys.as_final(), parted);
            let bytes = compressed(1_000 * 16) + compressed(rows_sent * 16);
            assert_eq!(operators(&last), OperatorLoad { bytes, one_core_bytes: 0 }, "{distinct}");
        }
    }

    #[tokio::test]
    async fn operators_beside_stages_take_their_results() {
        let sample = Sample::new().await;
        let copies = Joins { place: JoinPlace::Broadcast, bytes_max: 1 << 20, probe_bytes_min: 0 };
        let copies = StageRules { joins: copies, ..StageRules::SCANS };
        let hash = Shuffles { place: ShufflePlace::Hash, ..Shuffles::NONE };
        let hash = StageRules { shuffles: hash, ..StageRules::SCANS };
        let join = "SELECT x.b, y.b FROM t AS x JOIN t AS y ON x.a = y.a";
        let grouped = "SELECT x.b, count(*) FROM t AS x JOIN t AS y ON x.a = y.a GROUP BY x.b";
        let sorted = "SELECT * FROM (SELECT x.b AS m, y.b AS n FROM t AS x JOIN t AS y ON x.a = y.a) ORDER BY m";
        let over = |subtree, is_one_core| OverResults { subtree, is_one_core };
        for (rules, sql, over_results, has_others) in [
            (StageRules::SCANS, "SELECT a FROM t WHERE b > 3", vec![], false),
            (StageRules::SCANS, "SELECT b, count(*) FROM t GROUP BY b", vec![over(0, false)], false),
            (StageRules::SCANS, join, vec![over(0, true), over(1, false)], false),
            (StageRules::SCANS, sorted, vec![over(0, true), over(1, false)], true),
            // The build side is gathered, and not joined here.
            (copies, join, vec![], false),
            (copies, grouped, vec![over(1, false)], false),
            // Both sides go to functions, which join; and then to others, which group.
            (hash, grouped, vec![], false),
        ] {
            let plan = sample.plan_by(rules, sql).await;
            let reach = |url: &str| -> Result<FunctionAccess> {
                Ok(FunctionAccess::Through(StoreAccess { url: url.to_owned(), options: Default::default() }))
            };
            let cut = CutPlan::of(&plan, rules, &reach).expect("a plan").on_functions().expect("it travels");
            let found = cut.operators_beside();
            assert_eq!((found.over_results, found.load.all_bytes() > 0), (over_results, has_others), "{sql}");
            assert_eq!(cut.is_staged(), rules != StageRules::SCANS, "{sql}");
        }
    }
}
