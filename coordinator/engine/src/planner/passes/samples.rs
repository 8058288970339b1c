//! Plans for the passes' tests, of SQL over two small Parquet files.

use std::sync::Arc;

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, displayable};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use gust_protocol::functions;
use tempfile::TempDir;

use super::broadcast::Joins;
use super::shuffle::StageRules;
use super::spread::distributing;

/// A table `t` of two files with the columns `a` and `b`, for a coordinator of two partitions.
pub struct Sample {
    pub context: SessionContext,
    _folder: TempDir,
}

impl Sample {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let state = SessionStateBuilder::new()
            .with_config(SessionConfig::new().with_target_partitions(2))
            .with_default_features()
            .with_scalar_functions(functions::scalar())
            .with_aggregate_functions(functions::aggregate())
            .build();
        let context = SessionContext::new_with_state(state);
        for (name, from) in [("x", 0), ("y", 100)] {
            let path = folder.path().join(format!("{name}.parquet"));
            let sql = format!(
                "COPY (SELECT value + {from} AS a, value % 7 AS b FROM generate_series(1, 100)) TO '{}'",
                path.display()
            );
            context.sql(&sql).await.expect("SQL").collect().await.expect("written");
        }
        let path = folder.path().display().to_string();
        context.register_parquet("t", path, ParquetReadOptions::default()).await.expect("a table");
        Self { context, _folder: folder }
    }

    /// Makes the distributed plan of a query.
    pub async fn plan(&self, sql: &str) -> Arc<dyn ExecutionPlan> {
        self.plan_with(Joins::LOCAL, sql).await
    }

    /// Makes the distributed plan of a query whose joins are placed by `joins`.
    pub async fn plan_with(&self, joins: Joins, sql: &str) -> Arc<dyn ExecutionPlan> {
        self.plan_by(StageRules { joins, ..StageRules::SCANS }, sql).await
    }

    /// Makes the distributed plan of a query by these rules.
    pub async fn plan_by(&self, rules: StageRules, sql: &str) -> Arc<dyn ExecutionPlan> {
        let logical = self.context.sql(sql).await.expect("SQL").into_optimized_plan().expect("a plan");
        let state = distributing(&self.context.state(), rules);
        state.query_planner().create_physical_plan(&logical, &state).await.expect("a physical plan")
    }
}

/// Makes a Parquet scan of one column over groups of files of these sizes.
pub fn scan(groups: &[&[u64]]) -> FileScanConfig {
    use arrow::datatypes::{DataType, Field, Schema};
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let url = ObjectStoreUrl::local_filesystem();
    let mut files = 0..;
    let mut group = |sizes: &&[u64]| {
        let files = sizes.iter().zip(&mut files).map(|(size, number)| PartitionedFile::new(format!("{number}"), *size));
        FileGroup::new(files.collect())
    };
    let groups = groups.iter().map(&mut group).collect();
    FileScanConfigBuilder::new(url, Arc::new(ParquetSource::new(schema))).with_file_groups(groups).build()
}

/// Makes an operator in the place of a stage, with its schema and its partitions.
pub fn hole(subtree: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let partitions = subtree.output_partitioning().partition_count();
    Arc::new(EmptyExec::new(subtree.schema()).with_partitions(partitions))
}

/// Lists the names of a plan's operators, a level a line.
pub fn shape(plan: &Arc<dyn ExecutionPlan>) -> String {
    let text = displayable(plan.as_ref()).indent(false).to_string();
    let name = |line: &str| line.split(':').next().unwrap_or(line).trim_end().to_owned();
    text.lines().map(name).collect::<Vec<_>>().join("\n")
}
