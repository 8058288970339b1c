//! Sizes of a plan's rows, as statistics tell them. For estimates and choices only.
//!
//! The number of groups is known where each key is a column whose distinct values somebody has counted. DataFusion takes groups of unknown number for as many as
//! there are rows.

use std::sync::Arc;

use datafusion::common::Statistics;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::memory::row_bytes;

/// Statistics of the operators of one plan, each computed once. The plan has to outlive them: operators are known by their places in memory.
#[derive(Default)]
pub struct Sizes(StatisticsContext);

impl Sizes {
    /// Returns the statistics of a plan's rows. None where an operator has none.
    pub fn of(&self, plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<Statistics>> {
        self.0.compute(plan.as_ref(), &StatisticsArgs::new()).ok()
    }

    /// Returns the rows that a plan is expected to put out. None where no statistics tell.
    pub fn rows(&self, plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
        self.of(plan)?.num_rows.get_value().map(|rows| *rows as u64)
    }

    /// Returns the bytes in memory of these rows.
    pub fn bytes(&self, plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
        Some(self.rows(plan)?.saturating_mul(row_bytes(&plan.schema()) as u64))
    }

    /// Returns the number of groups of an aggregate that sees the rows themselves, at most as many as there are rows. None where a key's distinct values are not
    /// counted.
    pub fn groups(&self, aggregate: &AggregateExec) -> Option<u64> {
        let input = self.of(aggregate.input())?;
        let keys = aggregate.group_expr();
        let mut groups: u64 = 0;
        for nulls in keys.groups() {
            let used = keys.expr().iter().zip(nulls).filter(|(_, is_null)| !**is_null);
            let used: Vec<_> = used.map(|((key, _), _)| Arc::clone(key)).collect();
            groups = groups.saturating_add(distinct_values(&used, &input)?);
        }
        let rows = input.num_rows.get_value().map(|rows| *rows as u64);
        Some(rows.map_or(groups, |rows| groups.min(rows)))
    }
}

/// Returns true if an aggregate sees the rows themselves, and not what other aggregates have made of them.
pub fn sees_rows(aggregate: &AggregateExec) -> bool {
    matches!(aggregate.mode(), AggregateMode::Partial | AggregateMode::Single | AggregateMode::SinglePartitioned)
}

/// Returns the aggregate that sees the rows which an aggregate groups. None where it is in another stage.
pub fn first_step(aggregate: &AggregateExec) -> Option<&AggregateExec> {
    if sees_rows(aggregate) {
        return Some(aggregate);
    }
    let mut below = std::iter::successors(Some(aggregate.input()), |node| match node.children().as_slice() {
        [child] => Some(*child),
        _ => None,
    });
    below.find_map(|node| node.downcast_ref::<AggregateExec>())
}

/// Returns the most distinct values of some columns together, NULL among them.
pub fn distinct_values(keys: &[Arc<dyn PhysicalExpr>], input: &Statistics) -> Option<u64> {
    keys.iter().try_fold(1, |product: u64, key| {
        let column = input.column_statistics.get(key.downcast_ref::<Column>()?.index())?;
        let values = *column.distinct_count.get_value()? as u64;
        let nulls = u64::from(column.null_count.get_value().is_some_and(|nulls| *nulls > 0));
        Some(product.saturating_mul((values + nulls).max(1)))
    })
}
