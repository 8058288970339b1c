//! Settings of the engine that differ from its defaults, each with its reason. SET changes them for a session as any other.

use datafusion::common::config::{ConfigNonZeroUsize, ConfigOptions};

/// What each sort sets aside for merging what it spilled, by DataFusion's default.
const SORT_RESERVATION_BYTES: usize = 10 << 20;

/// Sorts that are to find their reservation at the same time, whatever the size of the pool.
const SORTS_AT_ONCE: usize = 64;

/// Fits the settings to a memory pool of `memory_bytes_max`.
pub(super) fn settings(options: &mut ConfigOptions, memory_bytes_max: usize) {
    options.catalog.information_schema = true;
    // Else a large CSV file is cut at line breaks, also at those within quotes, and what is read begins in the middle of a value.
    // DataFusion 55.2's default; no report of it is known. Take it out when a cut of its own looks at quotes.
    options.catalog.newlines_in_values = true;
    // A folder is read with its sub-folders, as Athena and Spark (recursively) read it.
    options.execution.listing_table_ignore_subdirectory = false;
    // Errors then tell where in the text they are.
    options.sql_parser.collect_spans = true;
    options.execution.sort_spill_reservation_bytes = SORT_RESERVATION_BYTES.min(memory_bytes_max / SORTS_AT_ONCE);
    // A repartition that spills hangs in DataFusion 55.2 where two of its inputs have a file open each (apache/datafusion 24883). With
    // this size every batch is a file of its own, which is closed before anybody waits for it. It can go with a DataFusion that has
    // 24891; a test reminds whoever raises the version.
    if let Ok(one) = ConfigNonZeroUsize::try_new(1) {
        options.execution.max_spill_file_size_bytes = one;
    }
    // DataFusion 55.2 says of `b IS TRUE` that it is never NULL while it plans words, and that it may be while it plans operators, and forgets
    // the metadata of a column under NOT; it then refuses to group by either. Types are held against the result's when it is written.
    // It can go when `grouping_by_a_condition_is_refused_by_datafusion_alone` fails.
    options.execution.skip_physical_aggregate_schema_check = true;
    // In DataFusion 55.2 the filter that min and max hand to a scan forgets aggregates that it cannot bound or not yet, so that
    // `min(a), min(b + 1)` misses rows (apache/datafusion 24816). It can go when `min_and_max_still_miss_rows_in_datafusion` fails.
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
}

#[cfg(test)]
mod tests {
    use datafusion::common::Result;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

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
