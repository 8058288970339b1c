//! Pass 1: every Parquet scan gets a fixed number of partitions, some perhaps empty.
//!
//! DataFusion gives a single small file a single partition and then plans no gather above it. A stage needs one, for its
//! fragments are many. The order in which files were written is forgotten: it holds within a file group only, and would bind a
//! fragment to a group. The rules put a sort where an order is needed. Scans that must keep their groups are left alone.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use gust_protocol::plan::file_scan;

use super::aligned::AlignJoins;
use super::broadcast::CollectBuilds;
use super::facts::TELLS_FACTS;
use super::shuffle::{PartitionJoins, StageRules};
use crate::planner::graph::is_parquet;

/// DataFusion's rule that makes one aggregate of a partial and a final one where nothing lies between them.
const COMBINES_AGGREGATES: &str = "CombinePartialFinalAggregate";

/// DataFusion's rule that picks the build sides of joins. Later rules put exchanges under joins.
const SELECTS_JOINS: &str = "join_selection";

/// The pass as a rule, to run before DataFusion's own.
#[derive(Debug)]
pub struct SpreadScans {
    /// Partitions of each scan, at least 2: one would be planned without a gather.
    pub partitions: usize,
}

impl PhysicalOptimizerRule for SpreadScans {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| match file_scan(&node) {
            Some(scan) if is_parquet(scan) && scan.output_partitioning.is_none() => {
                Ok(Transformed::yes(DataSourceExec::from_data_source(spread(scan, self.partitions)) as _))
            }
            _ => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "spread_scans"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Returns true if a scan's meaning depends on the groups of its files.
pub fn keeps_groups(scan: &FileScanConfig) -> bool {
    scan.output_partitioning.is_some() || scan.preserve_order
}

fn spread(scan: &FileScanConfig, partitions: usize) -> FileScanConfig {
    let mut groups = vec![Vec::new(); partitions];
    let files = scan.file_groups.iter().flat_map(|group| group.iter().cloned());
    for (position, file) in files.enumerate() {
        groups[position % partitions].push(file);
    }
    let groups = groups.into_iter().map(FileGroup::new).collect();
    FileScanConfigBuilder::from(scan.clone())
        .with_file_groups(groups)
        .with_output_ordering(Vec::new())
        .with_preserve_order(false)
        .build()
}

/// Makes the state that plans for functions. It has the session's rules without the one that undoes two-phase aggregates and the one for
/// parts of the plan ([`super::facts`]), [`SpreadScans`] before them, and [`CollectBuilds`], [`PartitionJoins`] and [`AlignJoins`] behind the one that picks the sides of joins. Scans stay as the first spreads them.
pub fn distributing(state: &SessionState, stages: StageRules) -> SessionState {
    let partitions = state.config().target_partitions().max(2);
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> = vec![Arc::new(SpreadScans { partitions })];
    for rule in state.physical_optimizers() {
        if ![COMBINES_AGGREGATES, TELLS_FACTS].contains(&rule.name()) {
            rules.push(Arc::clone(rule));
        }
        if rule.name() == SELECTS_JOINS {
            rules.push(Arc::new(CollectBuilds(stages.joins)));
            rules.push(Arc::new(PartitionJoins(stages)));
            rules.push(Arc::new(AlignJoins(stages.aligned)));
        }
    }
    let config = config(state.config().clone(), partitions);
    SessionStateBuilder::new_from_existing(state.clone())
        .with_config(config)
        .with_physical_optimizer_rules(rules)
        .build()
}

fn config(config: SessionConfig, partitions: usize) -> SessionConfig {
    // With a catalog of its own, the state would put an empty one in the place of the session's.
    let config = config.with_create_default_catalog_and_schema(false);
    let mut config = config.with_target_partitions(partitions).with_repartition_file_scans(false);
    let options = config.options_mut();
    // A round robin between a scan and its partial aggregate would send raw rows to the coordinator.
    options.optimizer.enable_round_robin_repartition = false;
    config
}

#[cfg(test)]
mod tests {
    use datafusion::physical_expr::Partitioning;

    use super::*;
    use crate::planner::passes::samples::{Sample, scan, shape};

    /// Checks the names of the files of each partition, after the pass.
    fn check(scan: FileScanConfig, partitions: usize, expect: &[&[&str]]) {
        let plan = DataSourceExec::from_data_source(scan) as Arc<dyn ExecutionPlan>;
        let spread = SpreadScans { partitions }.optimize(plan, &ConfigOptions::new()).expect("a plan");
        let scan = file_scan(&spread).expect("still a scan");
        let names = |group: &FileGroup| group.iter().map(|f| f.object_meta.location.to_string()).collect::<Vec<_>>();
        assert_eq!(scan.file_groups.iter().map(names).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn every_scan_gets_as_many_partitions_as_the_coordinator_has() {
        check(scan(&[&[1]]), 2, &[&["0"], &[]]);
        check(scan(&[&[1, 2, 3]]), 2, &[&["0", "2"], &["1"]]);
        check(scan(&[&[1], &[2], &[3], &[4]]), 2, &[&["0", "2"], &["1", "3"]]);
        check(scan(&[]), 2, &[&[], &[]]);
    }

    #[test]
    fn groups_that_mean_something_are_left_alone() {
        let grouped = FileScanConfigBuilder::from(scan(&[&[1, 2], &[3]]))
            .with_output_partitioning(Some(Partitioning::UnknownPartitioning(2)))
            .build();
        assert!(keeps_groups(&grouped));
        check(grouped, 3, &[&["0", "1"], &["2"]]);
    }

    #[tokio::test]
    async fn two_phases_and_a_gather_are_planned_for_a_single_file() {
        let plan = Sample::new().await.plan("SELECT sum(a) FROM t").await;
        let expect = "AggregateExec\n  CoalescePartitionsExec\n    AggregateExec\n      DataSourceExec";
        assert_eq!(shape(&plan), expect);
    }

    #[test]
    fn datafusion_still_has_the_rules_that_are_named() {
        let state = datafusion::prelude::SessionContext::new().state();
        for named in [COMBINES_AGGREGATES, SELECTS_JOINS, TELLS_FACTS] {
            assert!(state.physical_optimizers().iter().any(|rule| rule.name() == named), "{named}");
        }
        assert!(
            distributing(&state, StageRules::SCANS)
                .physical_optimizers()
                .iter()
                .all(|rule| rule.name() != COMBINES_AGGREGATES)
        );
    }
}
