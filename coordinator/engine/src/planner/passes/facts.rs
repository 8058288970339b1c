//! Pass 7: the joins, sorts and aggregates of one part of a plan tell the scans of that part what they learn while they run.
//!
//! ```text
//!  whole plan ─► without such filters ─► cut ─┬─► part of each stage ────► filters that begin and end in it
//!                                             └─► part of the coordinator ─► filters that begin and end in it
//! ```
//!
//! A filter from an operator on one machine to a scan on another would never get a value. So DataFusion's rule does not see the whole plan.
//! Joins of rows that other functions send have no scan in their part. Aligned joins have, and tell it where a function has one lane ([`Facts::told_alone`]).

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::physical_plan::FileGroup;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::plan::file_scan;

use crate::planner::rules::filter_names::telling_facts;

/// Name of DataFusion's rule.
pub(super) const TELLS_FACTS: &str = "FilterPushdown(Post)";

/// Operators that tell scans what they learn, by a session's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub joins: bool,
    pub sorts: bool,
    pub aggregates: bool,
}

impl Facts {
    /// No operator tells anything.
    pub const NONE: Self = Self { joins: false, sorts: false, aggregates: false };

    pub fn of(options: &ConfigOptions) -> Self {
        Self {
            joins: options.optimizer.enable_join_dynamic_filter_pushdown,
            sorts: options.optimizer.enable_topk_dynamic_filter_pushdown,
            aggregates: options.optimizer.enable_aggregate_dynamic_filter_pushdown,
        }
    }

    /// Makes a part of a plan in which operators tell its scans.
    ///
    /// # Errors
    /// DataFusion's, of an operator that cannot be rebuilt.
    pub fn told(self, part: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        if self == Self::NONE {
            return Ok(part);
        }
        let mut options = ConfigOptions::new();
        options.optimizer.enable_join_dynamic_filter_pushdown = self.joins;
        options.optimizer.enable_topk_dynamic_filter_pushdown = self.sorts;
        options.optimizer.enable_aggregate_dynamic_filter_pushdown = self.aggregates;
        telling_facts(part, &options)
    }

    /// Does the same for a part whose scans are read lane by lane, partition by partition of their files. DataFusion looks for a key in the partition that its
    /// own hash gives it, which is right where there is only one. So the part is told as if it had one lane; joins of several find that when they run, and tell nothing.
    ///
    /// # Errors
    /// DataFusion's, of an operator that cannot be rebuilt.
    pub fn told_alone(self, part: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let mut files = Vec::new();
        let alone = with_groups(part, &mut |groups| {
            files.push(groups);
            vec![FileGroup::default()]
        })?;
        let mut files = files.into_iter();
        with_groups(self.told(alone)?, &mut |_| files.next().unwrap_or_default())
    }
}

/// Changes the files of each scan, in the order of the plan.
fn with_groups(
    plan: Arc<dyn ExecutionPlan>,
    change: &mut dyn FnMut(Vec<FileGroup>) -> Vec<FileGroup>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let changed = plan.transform_down(|node| {
        let Some(scan) = file_scan(&node) else { return Ok(Transformed::no(node)) };
        let mut scan = scan.clone();
        scan.file_groups = change(std::mem::take(&mut scan.file_groups));
        Ok(Transformed::yes(DataSourceExec::from_data_source(scan) as Arc<dyn ExecutionPlan>))
    });
    changed.data()
}

#[cfg(test)]
mod tests {
    use datafusion::physical_plan::displayable;
    use gust_protocol::StoreAccess;

    use super::*;
    use crate::config::JoinPlace;
    use crate::planner::passes::broadcast::Joins;
    use crate::planner::passes::samples::Sample;
    use crate::planner::passes::shuffle::StageRules;
    use crate::planner::passes::stages::{CutPlan, FunctionAccess};

    const ALL: Facts = Facts { joins: true, sorts: true, aggregates: false };

    /// Checks for each stage of a query that its scan is told something.
    async fn check(sample: &Sample, joins: Joins, facts: Facts, sql: &str, expect: &[bool]) {
        let rules = StageRules { joins, facts, ..StageRules::SCANS };
        let through =
            |url: &str| Ok(FunctionAccess::Through(StoreAccess { url: url.to_owned(), options: Default::default() }));
        let cut = CutPlan::of(&sample.plan_by(rules, sql).await, rules, &through).expect("a plan");
        let cut = cut.on_functions().expect("it travels");
        let text = |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(false).to_string();
        let told: Vec<String> = cut.plans().map(text).collect();
        let found: Vec<bool> = told.iter().map(|plan| plan.contains("DynamicFilter")).collect();
        assert_eq!(found, expect, "{sql}: {told:#?}");
    }

    #[tokio::test]
    async fn filters_begin_and_end_in_one_part() {
        let sample = Sample::new().await;
        let broadcast = Joins::new(JoinPlace::Broadcast, 1 << 20);
        let join = "SELECT x.a FROM t AS x JOIN t AS y ON x.a = y.b WHERE y.a > 3";
        check(&sample, broadcast, ALL, join, &[false, true]).await;
        check(&sample, broadcast, Facts::NONE, join, &[false, false]).await;
        // The join is the coordinator's, and so is the sort above it.
        let top = "SELECT x.a FROM t AS x JOIN t AS y ON x.a = y.b WHERE y.a > 3 ORDER BY x.a LIMIT 3";
        check(&sample, Joins::LOCAL, ALL, top, &[false, false]).await;
        check(&sample, broadcast, Facts { joins: false, ..ALL }, top, &[false, true]).await;
        check(&sample, Joins::LOCAL, ALL, "SELECT a FROM t ORDER BY b LIMIT 3", &[true]).await;
        // Rows of the other side without a match stay.
        let right = "SELECT x.a, y.a FROM t AS x RIGHT JOIN t AS y ON x.a = y.b AND x.b > 2";
        check(&sample, broadcast, ALL, right, &[false, false]).await;
    }
}
