//! Exclusion of files that cannot hold a matching row, from metadata alone.
//!
//! ```text
//! Predicate ── bind ──▶ BoundPredicate ── project ──▶ RangePredicate     once a plan, once a partition spec
//!                                                     │
//!  manifest summary, partition values, ──▶ ValueRange ── RangePredicate::excluded ──▶ the PruneReason, or keep
//!  column bounds                                      once a manifest and a file
//! ```
//!
//! Contract: a file that holds a matching row is never excluded, whatever its metadata lacks.
//! No I/O and no iceberg types. It rewrites no predicate and does not tell whether all rows match.

mod bind;
mod range;
mod transform;

#[cfg(test)]
mod proof;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::predicate::CompareOp;
use crate::scalar::Scalar;
use crate::types::PartitionField;

pub(crate) use bind::{BoundPredicate, SpecField};
pub(crate) use range::{Nulls, ValueRange};

/// Reason why a file was excluded. EXPLAIN names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PruneReason {
    Partition(PartitionField),
    /// Bounds or counts of this column.
    Column(String),
    /// Predicate that is false for every row.
    Contradiction,
}

impl fmt::Display for PruneReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PruneReason::Partition(field) => write!(f, "{field}"),
            PruneReason::Column(column) => write!(f, "{column} bounds"),
            PruneReason::Contradiction => write!(f, "a condition that is never true"),
        }
    }
}

/// Condition on one value of a column or of a partition field. NULL meets none but `IsNull`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Condition {
    Compare(CompareOp, Scalar),
    /// Any of these values, in `Scalar::compare`'s order.
    In(Vec<Scalar>),
    StartsWith(String),
    IsNull,
    NotNull,
}

/// Predicate over numbered ranges: the fields of one partition spec, then the columns that it names.
#[derive(Debug)]
pub(crate) enum RangePredicate {
    Keep,
    Drop,
    And(Vec<RangePredicate>),
    Or(Vec<RangePredicate>),
    /// Implications of one condition for several ranges. A match needs all of them.
    Tests(Vec<RangeTest>),
}

#[derive(Debug)]
pub(crate) struct RangeTest {
    /// Index of the test's range.
    pub(crate) range: usize,
    pub(crate) condition: Condition,
    pub(crate) reason: PruneReason,
}

impl RangePredicate {
    /// Lists the ranges whose values a match has to have: those of equality and IN.
    pub(crate) fn pinned(&self) -> BTreeSet<usize> {
        let is_point =
            |condition: &Condition| matches!(condition, Condition::Compare(CompareOp::Eq, _) | Condition::In(_));
        match self {
            RangePredicate::Keep | RangePredicate::Drop => BTreeSet::new(),
            RangePredicate::And(children) => children.iter().flat_map(RangePredicate::pinned).collect(),
            RangePredicate::Or(children) => {
                let mut pinned = children.iter().map(RangePredicate::pinned);
                let first = pinned.next().unwrap_or_default();
                pinned.fold(first, |common, other| common.intersection(&other).copied().collect())
            }
            RangePredicate::Tests(tests) => {
                tests.iter().filter(|test| is_point(&test.condition)).map(|test| test.range).collect()
            }
        }
    }

    /// Returns the reason why no row within these ranges can match, or `None` where one might. An OR is
    /// booked to its first branch. Ranges beyond the slice are unknown.
    pub(crate) fn excluded(&self, ranges: &[ValueRange]) -> Option<&PruneReason> {
        match self {
            RangePredicate::Keep => None,
            RangePredicate::Drop => Some(&PruneReason::Contradiction),
            RangePredicate::And(children) => children.iter().find_map(|child| child.excluded(ranges)),
            RangePredicate::Or(children) => {
                let mut reason = &PruneReason::Contradiction;
                for (i, child) in children.iter().enumerate() {
                    let excluded = child.excluded(ranges)?;
                    if i == 0 {
                        reason = excluded;
                    }
                }
                Some(reason)
            }
            RangePredicate::Tests(tests) => tests
                .iter()
                .find(|test| {
                    let range = ranges.get(test.range);
                    range.is_some_and(|range| !range.admits(&test.condition))
                })
                .map(|test| &test.reason),
        }
    }
}
