//! Rule by which the rows of one large partition may be in several lanes, for joins of files that are parted alike and for joins over exchanges. Pure.
//!
//! ```text
//!  partition 3 of a: parts 0, 1, 2      lane 4: part 0 of a, all of b
//!  partition 3 of b: whole         ─►   lane 5: part 1 of a, all of b      each row of the join comes once
//!                                       lane 6: part 2 of a, all of b
//! ```

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use gust_protocol::LeafId;

use super::cut::is_partition_local;

/// Shares of a lane that a partition has at least for it to be split.
pub const SHARES_MIN: u64 = 2;

/// Most parts of a partition.
const PARTS_MAX: u64 = 64;

/// Returns the number of parts of a partition of `total` bytes, of which one leaf has `own`. Each is read together with all rows of the other leaves, and
/// all of them are at most twice the partition's bytes. One is the whole partition.
pub fn parts(own: u64, total: u64, share: u64) -> usize {
    let wanted = own.div_ceil(share.max(1)).min(PARTS_MAX);
    let most = own.checked_div(total.saturating_sub(own)).map_or(wanted, |times| times.saturating_add(1));
    usize::try_from(wanted.min(most)).unwrap_or(1)
}

/// Lists the leaves whose rows may be in several lanes, each with all rows of the others: the plan's rows are then those of all lanes, each once. `leaf` numbers
/// the leaves as they are visited.
pub fn splittable(
    plan: &Arc<dyn ExecutionPlan>,
    leaf: &mut dyn FnMut(&Arc<dyn ExecutionPlan>) -> Option<LeafId>,
) -> Vec<LeafId> {
    if let Some(leaf) = leaf(plan) {
        return vec![leaf];
    }
    let mut below: Vec<Vec<LeafId>> = plan.children().into_iter().map(|child| splittable(child, leaf)).collect();
    let hash = plan.downcast_ref::<HashJoinExec>().map(|join| *join.join_type());
    let sorted = || plan.downcast_ref::<SortMergeJoinExec>().map(SortMergeJoinExec::join_type);
    match (hash.or_else(sorted), below.len()) {
        (Some(JoinType::Inner), _) => below.concat(),
        // A row of the other side without a match would come once a lane.
        (Some(JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark), 2) => {
            below.swap_remove(0)
        }
        (Some(JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark), 2) => {
            below.swap_remove(1)
        }
        // Groups and windows have all rows of a key in one lane.
        (None, 1) if is_partition_local(plan) || plan.is::<SortPreservingMergeExec>() => below.swap_remove(0),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::compute::SortOptions;
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::NullEquality;
    use datafusion::physical_expr::expressions::{Column, lit};
    use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
    use datafusion::physical_plan::PhysicalExpr;
    use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::filter::FilterExec;
    use datafusion::physical_plan::joins::PartitionMode;
    use datafusion::physical_plan::sorts::sort::SortExec;

    use super::*;

    type Plan = Arc<dyn ExecutionPlan>;

    fn leaf() -> Plan {
        Arc::new(EmptyExec::new(Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]))))
    }

    fn key() -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new("k", 0))
    }

    fn joined(left: Plan, right: Plan, join_type: JoinType) -> Plan {
        let (on, nulls, mode) = (vec![(key(), key())], NullEquality::NullEqualsNothing, PartitionMode::Partitioned);
        let join = HashJoinExec::try_new(left, right, on, None, &join_type, None, mode, nulls, false);
        Arc::new(join.expect("a join of equal keys"))
    }

    fn joined_sorted(left: Plan, right: Plan, join_type: JoinType) -> Plan {
        let (on, nulls, sorted) = (vec![(key(), key())], NullEquality::NullEqualsNothing, vec![SortOptions::default()]);
        let join = SortMergeJoinExec::try_new(left, right, on, None, join_type, sorted, nulls);
        Arc::new(join.expect("a join of equal keys"))
    }

    fn grouped(input: Plan, mode: AggregateMode) -> Plan {
        let (groups, schema) = (PhysicalGroupBy::new_single(vec![(key(), "k".to_owned())]), input.schema());
        Arc::new(AggregateExec::try_new(mode, groups, Vec::new(), Vec::new(), input, schema).expect("groups"))
    }

    fn sorted(input: Plan, preserve_partitioning: bool) -> Plan {
        Arc::new(SortExec::new(order(), input).with_preserve_partitioning(preserve_partitioning))
    }

    fn order() -> LexOrdering {
        LexOrdering::new([PhysicalSortExpr::new_default(key())]).expect("a key")
    }

    #[track_caller]
    fn check(plan: &Plan, expect: &[LeafId]) {
        let mut leaves = 0..;
        let found = splittable(plan, &mut |plan| if plan.is::<EmptyExec>() { leaves.next() } else { None });
        assert_eq!(found, expect, "{plan:?}");
    }

    #[test]
    fn a_side_is_split_whose_rows_come_once_however_often_the_other_is_read() {
        use JoinType::{Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
        for (join_types, expect) in [
            (&[Inner][..], &[0, 1][..]),
            (&[Left, LeftSemi, LeftAnti, LeftMark], &[0]),
            (&[Right, RightSemi, RightAnti, RightMark], &[1]),
            (&[Full], &[]),
        ] {
            for join_type in join_types {
                check(&joined(leaf(), leaf(), *join_type), expect);
                check(&joined_sorted(leaf(), leaf(), *join_type), expect);
            }
        }
        // Joins over joins: a leaf has to be on such a side of each.
        check(&joined(joined(leaf(), leaf(), Inner), leaf(), Inner), &[0, 1, 2]);
        check(&joined(joined(leaf(), leaf(), Inner), leaf(), Left), &[0, 1]);
        check(&joined(joined(leaf(), leaf(), Left), leaf(), Inner), &[0, 2]);
        check(&joined(leaf(), joined(leaf(), leaf(), Left), Right), &[1]);
        check(&joined(joined(leaf(), leaf(), Full), leaf(), Inner), &[2]);
        check(&joined_sorted(joined(leaf(), leaf(), Full), leaf(), Left), &[]);
    }

    #[test]
    fn operators_that_need_all_rows_of_a_key_split_nothing() {
        let join = || joined(leaf(), leaf(), JoinType::Inner);
        check(&leaf(), &[0]);
        check(&(Arc::new(FilterExec::try_new(lit(true), join()).expect("a filter")) as Plan), &[0, 1]);
        check(&grouped(join(), AggregateMode::Partial), &[0, 1]);
        check(&sorted(join(), true), &[0, 1]);
        check(&(Arc::new(SortPreservingMergeExec::new(order(), sorted(join(), true))) as Plan), &[0, 1]);
        // Their rows would be those of a part.
        check(&grouped(join(), AggregateMode::FinalPartitioned), &[]);
        check(&grouped(join(), AggregateMode::SinglePartitioned), &[]);
        check(&sorted(join(), false), &[]);
        check(&(Arc::new(CoalescePartitionsExec::new(join())) as Plan), &[]);
        // Beside such an operator the other side is split.
        check(&joined(grouped(leaf(), AggregateMode::FinalPartitioned), leaf(), JoinType::Inner), &[1]);
        check(&joined(grouped(leaf(), AggregateMode::FinalPartitioned), leaf(), JoinType::Left), &[]);
    }

    #[test]
    fn parts_read_at_most_twice_the_bytes() {
        // Alone, it is cut into shares, 64 at most.
        assert_eq!(parts(100, 100, 30), 4);
        assert_eq!(parts(100_000, 100_000, 1), 64);
        assert_eq!(parts(10, 10, 30), 1);
        // Others are read once a part.
        assert_eq!(parts(90, 100, 30), 3);
        assert_eq!(parts(60, 100, 10), 2);
        assert_eq!(parts(40, 100, 10), 1);
        for (own, others, share) in [(1_000, 1, 7), (1_000, 400, 3), (77, 76, 1), (5, 0, 2)] {
            let count = parts(own, own + others, share) as u64;
            assert!(own + count * others <= 2 * (own + others), "{own} {others} {share}: {count}");
        }
    }
}
