//! Choice of exchanges between functions by numbers, for `shuffle = "auto"`: a stage over exchanges pays where the coordinator would get many rows.
//!
//! Such a stage waits for all of the stage below it, and its rows are written and read once more. The coordinator takes in tens of megabytes meanwhile. So a size that no
//! statistic tells is no reason. The number of groups is known where each key is a column whose distinct values somebody has counted.

use std::sync::Arc;

use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::joins::{HashJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use humansize::{BINARY, format_size};

use crate::planner::loads::memory::{expected_bytes, row_bytes};
use crate::planner::loads::sizes::{Sizes, distinct_values, first_step, sees_rows};

/// Least distinct values of the keys of a window. All rows of one value meet in one function, whose memory does not count them.
const WINDOW_KEYS_MIN: u64 = 64;

/// Decision on a stage, with its reason.
pub(super) type Choice = Result<String, String>;

/// Chooses whether functions do a stage whose operators need all rows of a key. One operator with a reason is enough.
pub(super) fn choice(stage: &Arc<dyn ExecutionPlan>, bytes_min: u64) -> Choice {
    let mut choices = Vec::new();
    collect(stage, bytes_min, &mut choices);
    let first = choices.iter().position(Choice::is_ok).unwrap_or_default();
    if choices.is_empty() { Err("no operator needs all rows of a key".to_owned()) } else { choices.swap_remove(first) }
}

/// Chooses whether functions sort the rows of a plan by ranges.
pub(super) fn sort_choice(rows: &Arc<dyn ExecutionPlan>, bytes_min: u64) -> Choice {
    let Some(bytes) = known_bytes(rows) else { return Err("the size of its rows is not known".to_owned()) };
    match bytes >= bytes_min {
        true => Ok(format!("the sort has about {}, at least {}", size(bytes), size(bytes_min))),
        false => Err(format!("the sort has about {}, less than {}", size(bytes), size(bytes_min))),
    }
}

/// Returns true if both sides of a join are known to be large.
pub(super) fn joins_large_sides(join: &HashJoinExec, bytes_min: u64) -> bool {
    join_choice(join.left(), join.right(), bytes_min).is_ok()
}

fn collect(plan: &Arc<dyn ExecutionPlan>, bytes_min: u64, choices: &mut Vec<Choice>) {
    if plan.is::<RepartitionExec>() {
        return;
    }
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        choices.push(join_choice(join.left(), join.right(), bytes_min));
    } else if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>() {
        choices.push(join_choice(join.left(), join.right(), bytes_min));
    } else if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        if *aggregate.mode() != AggregateMode::Partial {
            choices.push(group_choice(aggregate, bytes_min));
        }
    } else if let Some(window) = plan.downcast_ref::<WindowAggExec>() {
        choices.push(window_choice(&window.partition_keys(), window.input(), bytes_min));
    } else if let Some(window) = plan.downcast_ref::<BoundedWindowAggExec>() {
        choices.push(window_choice(&window.partition_keys(), window.input(), bytes_min));
    }
    plan.children().into_iter().for_each(|child| collect(child, bytes_min, choices));
}

fn size(bytes: u64) -> String {
    format_size(bytes, BINARY)
}

fn join_choice(left: &Arc<dyn ExecutionPlan>, right: &Arc<dyn ExecutionPlan>, bytes_min: u64) -> Choice {
    let (Some(left), Some(right)) = (known_bytes(left), known_bytes(right)) else {
        return Err("the size of a side of the join is not known".to_owned());
    };
    let sides = format!("the join has about {} and {}", size(left), size(right));
    match left.min(right) >= bytes_min {
        true => Ok(format!("{sides}, both at least {}", size(bytes_min))),
        false => Err(format!("{sides}, one less than {}", size(bytes_min))),
    }
}

fn group_choice(aggregate: &AggregateExec, bytes_min: u64) -> Choice {
    let sizes = Sizes::default();
    let Some(groups) = first_step(aggregate).and_then(|first| sizes.groups(first)) else {
        return Err("the number of groups is not known".to_owned());
    };
    let bytes = groups.saturating_mul(row_bytes(&aggregate.schema()) as u64);
    let groups = format!("{groups} groups are expected, about {}", size(bytes));
    match bytes >= bytes_min {
        true => Ok(format!("{groups}, at least {}", size(bytes_min))),
        false => Err(format!("{groups}, less than {}", size(bytes_min))),
    }
}

fn window_choice(keys: &[Arc<dyn PhysicalExpr>], input: &Arc<dyn ExecutionPlan>, bytes_min: u64) -> Choice {
    let values = Sizes::default().of(input).and_then(|input| distinct_values(keys, &input));
    let (Some(bytes), Some(values)) = (known_bytes(input), values) else {
        return Err("the rows of a window, or the values of its keys, are not counted".to_owned());
    };
    let rows = format!("a window has about {} of rows and {values} values of its keys", size(bytes));
    match bytes >= bytes_min && values >= WINDOW_KEYS_MIN {
        true => Ok(format!("{rows}, at least {} and {WINDOW_KEYS_MIN}", size(bytes_min))),
        false => Err(format!("{rows}, less than {} or {WINDOW_KEYS_MIN}", size(bytes_min))),
    }
}

/// Returns the bytes in memory that a plan is expected to put out. None where no statistics tell, or where groups of unknown number are below it: they are taken for as
/// many as there are rows.
fn known_bytes(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    expected_bytes(plan).filter(|_| !has_unknown_groups(plan))
}

fn has_unknown_groups(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let is_unknown = |aggregate: &AggregateExec| {
        sees_rows(aggregate) && !aggregate.group_expr().is_empty() && Sizes::default().groups(aggregate).is_none()
    };
    plan.downcast_ref::<AggregateExec>().is_some_and(is_unknown) || plan.children().into_iter().any(has_unknown_groups)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::Statistics;
    use datafusion::common::stats::Precision;
    use datafusion::physical_expr::expressions::Column;
    use datafusion::physical_plan::aggregates::PhysicalGroupBy;
    use gust_protocol::plan::PartsExec;

    use super::*;
    use crate::config::ShufflePlace;
    use crate::planner::loads::results::compressed;
    use crate::planner::passes::samples::Sample;
    use crate::planner::passes::shuffle::{ShuffleExec, Shuffles, StageRules, shuffled, shuffles};
    use crate::planner::passes::unions::into_branches;

    /// Makes an aggregate that sees the rows of two keys, of which so many distinct values are counted.
    fn aggregate(rows: usize, distinct: [Option<usize>; 2], masks: &[[bool; 2]]) -> Arc<dyn ExecutionPlan> {
        let field = |name| Field::new(name, DataType::Int64, true);
        let schema = Arc::new(Schema::new(vec![field("a"), field("b")]));
        let mut statistics = Statistics::new_unknown(&schema);
        statistics.num_rows = Precision::Inexact(rows);
        for (column, distinct) in statistics.column_statistics.iter_mut().zip(distinct) {
            column.distinct_count = distinct.map_or(Precision::Absent, Precision::Inexact);
        }
        let leaf = Arc::new(PartsExec::new(0, Arc::clone(&schema), 1, Arc::new(statistics)));
        let key = |name: &str, at| (Arc::new(Column::new(name, at)) as Arc<dyn PhysicalExpr>, name.to_owned());
        let nulls = vec![
            (
                Arc::new(datafusion::physical_expr::expressions::Literal::new(
                    DataType::Int64.try_into().expect("a NULL")
                )) as _,
                "n".to_owned()
            );
            2
        ];
        let masks: Vec<Vec<bool>> = masks.iter().map(|mask| mask.to_vec()).collect();
        let has_sets = masks.len() > 1;
        let groups = PhysicalGroupBy::new(vec![key("a", 0), key("b", 1)], nulls, masks, has_sets);
        let mode = AggregateMode::SinglePartitioned;
        Arc::new(AggregateExec::try_new(mode, groups, Vec::new(), Vec::new(), leaf, schema).expect("an aggregate"))
    }

    #[test]
    fn groups_are_known_where_distinct_values_are_counted() {
        let both = &[[false, false]];
        let check = |plan: Arc<dyn ExecutionPlan>, expect: Result<&str, &str>| {
            let seen = choice(&plan, 1_600);
            assert_eq!(seen.as_deref().map_err(String::as_str), expect);
        };
        // A group of two numbers has 16 bytes.
        check(
            aggregate(1_000, [Some(10), Some(10)], both),
            Ok("100 groups are expected, about 1.56 KiB, at least 1.56 KiB"),
        );
        check(
            aggregate(1_000, [Some(9), Some(11)], both),
            Err("99 groups are expected, about 1.55 KiB, less than 1.56 KiB"),
        );
        // There are no more groups than rows.
        check(
            aggregate(50, [Some(10), Some(10)], both),
            Err("50 groups are expected, about 800 B, less than 1.56 KiB"),
        );
        check(aggregate(1_000, [Some(10), None], both), Err("the number of groups is not known"));
        // Each grouping set has its groups: 100 and 10, of 17 bytes with the number of the set.
        let sets = &[[false, false], [false, true]];
        check(
            aggregate(1_000, [Some(10), Some(10)], sets),
            Ok("110 groups are expected, about 1.83 KiB, at least 1.56 KiB"),
        );
    }

    #[tokio::test]
    async fn joins_of_two_large_sides_are_parted() {
        let sample = Sample::new().await;
        // 200 rows of two numbers.
        let join = "SELECT x.b, y.b FROM t AS x JOIN t AS y ON x.a = y.a";
        let grouped =
            "SELECT m, sum(n) FROM (SELECT x.b AS m, y.b AS n FROM t AS x JOIN t AS y ON x.a = y.a) GROUP BY m";
        for (sql, bytes_min, marks, kept) in [
            (join, 3_200, 2, None),
            (join, 3_201, 0, Some("")),
            // Functions join and group, and the coordinator puts the groups together.
            (grouped, 3_200, 2, Some("the number of groups is not known")),
            ("SELECT b, count(*) FROM t GROUP BY b", 1, 0, Some("the number of groups is not known")),
            // Groups of unknown number are no large side.
            (
                "SELECT x.n, y.n FROM (SELECT a, count(*) AS n FROM t GROUP BY a) AS x JOIN (SELECT a, count(*) AS n FROM t GROUP BY a) AS y ON x.a = y.a",
                1,
                0,
                Some("the number of groups is not known"),
            ),
            ("SELECT count(*) FROM t", 1, 0, None),
        ] {
            let rule = Shuffles { place: ShufflePlace::Auto, bytes_min, ..Shuffles::NONE };
            let rules = StageRules { shuffles: rule, ..StageRules::SCANS };
            let marked = shuffled(&sample.plan_by(rules, sql).await, rule).expect("a plan");
            let mut seen = 0;
            let mut plans = vec![Arc::clone(&marked.plan)];
            while let Some(plan) = plans.pop() {
                match plan.is::<ShuffleExec>() {
                    true => seen += shuffles(&plan).len(),
                    false => plans.extend(plan.children().into_iter().cloned()),
                }
            }
            let told = marked.kept.join("; ");
            assert_eq!(seen, marks, "{sql} with {bytes_min}: {told}");
            assert!(kept.is_none_or(|kept| told.contains(kept)), "{sql} with {bytes_min}: {told}");
        }
    }

    #[tokio::test]
    async fn exchanges_that_stay_have_a_reason() {
        let sample = Sample::new().await;
        for (sql, expect) in [
            (
                "SELECT a, count(*) FROM (SELECT a FROM t UNION ALL SELECT b FROM t) GROUP BY a",
                "UnionExec below it stays",
            ),
            (
                "SELECT arrow_cast(CAST(a AS VARCHAR), 'Dictionary(Int32, Utf8)') AS d, count(*) FROM t GROUP BY d",
                "a column has a dictionary",
            ),
        ] {
            let rule = Shuffles { place: ShufflePlace::Hash, ..Shuffles::NONE };
            let rules = StageRules { shuffles: rule, ..StageRules::SCANS };
            let plan = into_branches(&sample.plan_by(rules, sql).await).expect("a plan");
            let kept = shuffled(&plan, rule).expect("a plan").kept;
            assert!(kept.iter().any(|kept| kept.contains(expect)), "{sql}: {kept:?}");
        }
    }

    /// Functions that only scan are another way where a setting leaves it open, and none asks for more.
    #[test]
    fn settings_leave_ways_open() {
        use crate::config::{AlignedPlace, JoinPlace, SortPlace};
        use crate::planner::passes::broadcast::Joins;
        let local = (JoinPlace::Local, ShufflePlace::Local, SortPlace::Local, AlignedPlace::Local);
        let least = 64 << 20;
        for (settings, is_open, moves_from) in [
            (local, false, None),
            ((JoinPlace::Auto, local.1, local.2, local.3), true, Some(least)),
            ((JoinPlace::Auto, ShufflePlace::Auto, local.2, local.3), true, Some(1_000)),
            ((local.0, ShufflePlace::Auto, local.2, local.3), true, Some(1_000)),
            ((local.0, local.1, SortPlace::Auto, local.3), true, Some(1_000)),
            ((JoinPlace::Broadcast, ShufflePlace::Auto, local.2, local.3), false, Some(1)),
            ((JoinPlace::Auto, ShufflePlace::Hash, local.2, local.3), false, Some(1)),
            ((JoinPlace::Auto, local.1, SortPlace::Ranges, local.3), false, Some(1)),
            ((JoinPlace::Auto, local.1, local.2, AlignedPlace::Functions), false, Some(1)),
        ] {
            let (join, place, sort, aligned) = settings;
            let shuffles = Shuffles { place, sort, bytes_min: 1_000, ..Shuffles::NONE };
            let rules = StageRules { joins: Joins::new(join, 1), aligned, shuffles, ..StageRules::SCANS };
            assert_eq!(rules.only_scans(), is_open.then_some(StageRules::SCANS), "{settings:?}");
            // Bytes in memory are compared as they are encoded.
            let moves = |bytes: u64| rules.may_move(compressed(bytes));
            let found = moves_from.map(|bytes: u64| (moves(bytes.saturating_sub(10)), moves(bytes + 10)));
            assert!(found.is_none_or(|found| found == (false, true)), "{settings:?}: {found:?}");
            assert!(moves_from.is_some() || !rules.may_move(u64::MAX), "{settings:?}");
        }
    }
}
