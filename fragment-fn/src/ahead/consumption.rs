//! Readings of a plan: how much of each scan the plan will read, and when it begins.
//!
//! An operator that has to see all of its input (a sort, an aggregate, the build side of a join) reads it to the end.
//! Under a limit a scan gives some rows only, and a probe side is not read before its build side, or never. The walk goes
//! from the root down and hands each input what its operator will ask of it. Operators are told apart by their type: what
//! DataFusion says about emission is inherited, so that a join over a sorted build side looks like a sort.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::datasource::physical_plan::{FileScanConfig, ParquetSource};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::InputOrderMode;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::buffer::BufferExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec, SymmetricHashJoinExec,
};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::WindowAggExec;
use gust_protocol::plan::file_scan;

use super::spec::pending_subqueries;

/// Part of a scan's rows that its plan will read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consumption {
    All,
    /// Enough row groups for so many rows.
    Rows(u64),
    /// Unknown: more with every row group that is read.
    Growing,
    /// Nothing is read ahead.
    OnDemand,
}

/// Time at which a plan begins to read a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    AtOnce,
    /// The scan may never be polled, so that only a first window is read ahead until it is.
    WhenPolled,
}

/// Reading of one scan by its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub consumption: Consumption,
    pub begins: Begins,
    /// Position in the order in which the plan consumes its scans: build sides first.
    pub rank: usize,
}

/// Returns the readings of the plan's scans, in the order of [`gust_protocol::plan::scans`].
pub fn readings(plan: &Arc<dyn ExecutionPlan>) -> Vec<Reading> {
    let mut ranks = 0;
    visit(plan, Reading::ALL, &mut ranks)
}

impl Reading {
    const ALL: Self = Self { consumption: Consumption::All, begins: Begins::AtOnce, rank: 0 };

    /// Returns the reading of an input of which an operator reads everything, once it is polled itself.
    fn all(self) -> Self {
        Self { consumption: Consumption::All, ..self }
    }

    fn growing(self) -> Self {
        Self { consumption: Consumption::Growing, ..self }
    }

    /// Returns the reading of an input of which an operator drops rows, or makes rows of its own.
    fn of_other_rows(self) -> Self {
        match self.consumption {
            Consumption::Rows(_) => self.growing(),
            _ => self,
        }
    }

    /// Returns the reading of an input of which `rows` rows are asked for.
    fn of_rows(self, rows: usize) -> Self {
        let rows = rows as u64;
        let consumption = match self.consumption {
            Consumption::Rows(fewer) if fewer < rows => Consumption::Rows(fewer),
            _ => Consumption::Rows(rows),
        };
        Self { consumption, ..self }
    }

    fn when_polled(self) -> Self {
        Self { begins: Begins::WhenPolled, ..self }
    }
}

fn visit(node: &Arc<dyn ExecutionPlan>, reading: Reading, ranks: &mut usize) -> Vec<Reading> {
    if let Some(scan) = file_scan(node) {
        let rank = *ranks;
        *ranks += 1;
        return vec![Reading { rank, ..of_scan(scan, reading) }];
    }
    let children = node.children();
    let mut found: Vec<Vec<Reading>> = vec![Vec::new(); children.len()];
    for input in inputs(node, reading) {
        found[input.child] = visit(children[input.child], input.reading, ranks);
    }
    found.into_iter().flatten().collect()
}

fn of_scan(scan: &FileScanConfig, reading: Reading) -> Reading {
    if reading.consumption == Consumption::OnDemand {
        return reading;
    }
    let reading = scan.limit.map_or(reading, |rows| reading.of_rows(rows));
    let source = scan.file_source();
    let filters_rows = source
        .downcast_ref::<ParquetSource>()
        .is_some_and(|parquet| parquet.table_parquet_options().global.pushdown_filters && source.filter().is_some());
    let reading = if filters_rows { reading.of_other_rows() } else { reading };
    if pending_subqueries(source.filter().as_ref()).is_empty() { reading } else { reading.when_polled() }
}

/// Reading of an operator's input.
struct Input {
    child: usize,
    reading: Reading,
}

/// Lists the inputs of an operator that itself is read as `reading`, in the order in which it reads them.
fn inputs(node: &Arc<dyn ExecutionPlan>, reading: Reading) -> Vec<Input> {
    let count = node.children().len();
    let each = |reading: Reading| (0..count).map(|child| Input { child, reading }).collect();
    if reading.consumption == Consumption::OnDemand {
        return each(reading);
    }
    let reading = rows_asked(node).map_or(reading, |rows| reading.of_rows(rows));
    if node.is::<HashJoinExec>()
        || node.is::<NestedLoopJoinExec>()
        || node.is::<CrossJoinExec>()
        || node.is::<PiecewiseMergeJoinExec>()
    {
        let probe = reading.of_other_rows().when_polled();
        return vec![Input { child: 0, reading: reading.all() }, Input { child: 1, reading: probe }];
    }
    if node.is::<ScalarSubqueryExec>() {
        let subqueries = (1..count).map(|child| Input { child, reading: reading.all() });
        return subqueries.chain([Input { child: 0, reading }]).collect();
    }
    if node.is::<RecursiveQueryExec>() {
        let again = Reading { consumption: Consumption::OnDemand, ..reading };
        return vec![Input { child: 0, reading: reading.of_other_rows() }, Input { child: 1, reading: again }];
    }
    if let Some(sort) = node.downcast_ref::<SortExec>() {
        // The filter of a top-k prunes while it runs.
        return each(if sort.fetch().is_some() { reading.growing() } else { reading.all() });
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        let needs_all = *aggregate.input_order_mode() == InputOrderMode::Linear;
        return each(match aggregate.limit_options() {
            Some(_) => reading.growing(),
            None if needs_all => reading.all(),
            None => reading.of_other_rows(),
        });
    }
    if node.is::<WindowAggExec>() || node.is::<DataSinkExec>() {
        return each(reading.all());
    }
    if hands_rows_on(node) {
        return each(reading);
    }
    let is_known = node.is::<SortMergeJoinExec>() || node.is::<SymmetricHashJoinExec>() || node.is::<UnnestExec>();
    // Other operators with one input and its order work as they read: filters, windows, partial sorts.
    if is_known || node.maintains_input_order() == [true] {
        return each(reading.of_other_rows());
    }
    each(reading.growing())
}

/// Returns the rows that an operator gives at most and, of a limit with an offset, those that it skips.
fn rows_asked(node: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    match node.downcast_ref::<GlobalLimitExec>() {
        Some(limit) => Some(limit.fetch()?.saturating_add(limit.skip())),
        None => node.fetch(),
    }
}

/// Returns true for an operator that gives each row of its inputs once.
fn hands_rows_on(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<RepartitionExec>()
        || node.is::<CoalescePartitionsExec>()
        || node.is::<SortPreservingMergeExec>()
        || node.is::<UnionExec>()
        || node.is::<InterleaveExec>()
        || node.is::<CooperativeExec>()
        || node.is::<BufferExec>()
        || node.is::<GlobalLimitExec>()
        || node.is::<LocalLimitExec>()
        || (node.maintains_input_order() == [true] && matches!(node.cardinality_effect(), CardinalityEffect::Equal))
}
