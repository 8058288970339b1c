//! Settings of the engine that differ from its defaults, each with its reason. SET changes them for a session like any
//! other.

use datafusion::common::config::{ConfigNonZeroUsize, ConfigOptions};

/// Bytes that each sort sets aside for merging its spilled runs, by DataFusion's default.
const SORT_RESERVATION_BYTES: usize = 10 << 20;

/// Sorts of a query that find their reservation at the same time, however small its memory is.
const SORTS_AT_ONCE: usize = 64;

/// Tables whose files are listed at the same time while a query is planned. DataFusion's default is the number of cores,
/// but a listing computes nothing: it waits for its store.
const LEAVES_AT_ONCE: usize = 32;

/// Fits the settings to queries that surely have `query_bytes_min` bytes of memory.
pub(super) fn settings(options: &mut ConfigOptions, query_bytes_min: usize) {
    options.catalog.information_schema = true;
    // Without this, by default, DataFusion 55.2 cuts a large CSV file at line breaks, even at those within quotes. A
    // part then begins in the middle of a value. No upstream report of it is known. The setting can go with a
    // DataFusion whose cuts heed quotes.
    options.catalog.newlines_in_values = true;
    // A folder is read with its sub-folders, as Athena and Spark (recursively) read it.
    options.execution.listing_table_ignore_subdirectory = false;
    // With spans, an error tells its place in the text.
    options.sql_parser.collect_spans = true;
    options.execution.planning_concurrency = LEAVES_AT_ONCE;
    options.execution.sort_spill_reservation_bytes = sort_reservation_bytes(query_bytes_min);
    // A repartition that spills hangs in DataFusion 55.2 if two of its inputs have a file open each (apache/datafusion
    // 24883). With this size every batch is a file of its own, which is closed before anything waits for it. The
    // setting can go with a DataFusion that has 24891. A test reminds of it when the version is raised.
    if let Ok(one) = ConfigNonZeroUsize::try_new(1) {
        options.execution.max_spill_file_size_bytes = one;
    }
    // DataFusion 55.2 contradicts itself on `b IS TRUE`. Its logical plan says that it is never NULL, its physical plan
    // that it may be. DataFusion also forgets the metadata of a column under NOT. It then refuses to group by either.
    // The plan's types are held against the result's when it is written. The setting can go when
    // `grouping_by_a_condition_is_refused_by_datafusion_alone` fails.
    options.execution.skip_physical_aggregate_schema_check = true;
    // In DataFusion 55.2 min and max hand a filter to a scan. The filter forgets aggregates that it cannot bound, or
    // cannot bound yet. `min(a), min(b + 1)` then misses rows (apache/datafusion 24816). The setting can go when
    // `min_and_max_still_miss_rows_in_datafusion` fails.
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
}

/// Returns the bytes that a sort sets aside for merging, where so many are sure.
pub(super) fn sort_reservation_bytes(bytes_min: usize) -> usize {
    SORT_RESERVATION_BYTES.min(bytes_min / SORTS_AT_ONCE)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
    use async_trait::async_trait;
    use datafusion::catalog::{Session, TableProvider};
    use datafusion::common::{Result, project_schema};
    use datafusion::datasource::TableType;
    use datafusion::logical_expr::Expr;
    use datafusion::physical_plan::ExecutionPlan;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::prelude::{SessionConfig, SessionContext};
    use tokio::sync::Barrier;

    use super::*;

    /// Table whose scans are planned once [`LEAVES_AT_ONCE`] of them have begun.
    #[derive(Debug)]
    struct Together(Barrier);

    #[async_trait]
    impl TableProvider for Together {
        fn schema(&self) -> SchemaRef {
            Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]))
        }

        fn table_type(&self) -> TableType {
            TableType::Base
        }

        async fn scan(
            &self,
            _: &dyn Session,
            projection: Option<&Vec<usize>>,
            _: &[Expr],
            _: Option<usize>,
        ) -> Result<Arc<dyn ExecutionPlan>> {
            self.0.wait().await;
            Ok(Arc::new(EmptyExec::new(project_schema(&self.schema(), projection)?)))
        }
    }

    #[tokio::test]
    async fn leaves_are_planned_side_by_side() {
        let mut config = SessionConfig::new();
        settings(config.options_mut(), 1 << 30);
        let context = SessionContext::new_with_config(config);
        context.register_table("t", Arc::new(Together(Barrier::new(LEAVES_AT_ONCE)))).expect("registered");
        let query = context.sql(&vec!["SELECT a FROM t"; LEAVES_AT_ONCE].join(" UNION ALL ")).await.expect("SQL");
        let planned = tokio::time::timeout(Duration::from_secs(60), query.create_physical_plan()).await;
        planned.expect("all leaves at once").expect("a plan");
    }

    #[test]
    fn many_sorts_fit_the_memory_that_a_query_surely_has() {
        for (query_bytes_min, expect) in [(64 << 30, 10 << 20), (640 << 20, 10 << 20), (6_400_000, 100_000)] {
            let mut options = ConfigOptions::new();
            settings(&mut options, query_bytes_min);
            assert_eq!(options.execution.sort_spill_reservation_bytes, expect, "{query_bytes_min}");
        }
    }

    async fn grouped(config: SessionConfig) -> Result<usize> {
        let context = SessionContext::new_with_config(config);
        let sql = "SELECT b IS TRUE AS g, count(DISTINCT a) FROM (VALUES (1, true), (2, NULL)) AS t(a, b) GROUP BY 1";
        Ok(context.sql(sql).await?.collect().await?.iter().map(|batch| batch.num_rows()).sum())
    }

    #[tokio::test]
    async fn grouping_by_a_condition_is_refused_by_datafusion_alone() {
        let refused = grouped(SessionConfig::new()).await.expect_err("refused");
        assert!(refused.to_string().contains("nullability"), "{refused}");
        let mut config = SessionConfig::new();
        settings(config.options_mut(), 1 << 30);
        assert_eq!(grouped(config).await.expect("rows"), 2);
    }
}
