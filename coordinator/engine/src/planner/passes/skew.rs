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
    use super::*;

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
