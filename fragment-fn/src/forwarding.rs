//! Methods that a file source around another one leaves to it.

/// Writes the methods of `FileSource` that the source in a field answers, but those that make morsels and `fmt_extra`.
macro_rules! forwarding_to {
    ($inner:ident) => {
        fn create_file_opener(
            &self,
            store: std::sync::Arc<dyn object_store::ObjectStore>,
            scan: &datafusion::datasource::physical_plan::FileScanConfig,
            partition: usize,
        ) -> datafusion::common::Result<std::sync::Arc<dyn datafusion::datasource::physical_plan::FileOpener>> {
            self.$inner.create_file_opener(store, scan, partition)
        }

        fn table_schema(&self) -> &datafusion::datasource::table_schema::TableSchema {
            self.$inner.table_schema()
        }

        fn filter(&self) -> Option<std::sync::Arc<dyn datafusion::physical_plan::PhysicalExpr>> {
            self.$inner.filter()
        }

        fn projection(&self) -> Option<&datafusion::physical_expr::projection::ProjectionExprs> {
            self.$inner.projection()
        }

        fn metrics(&self) -> &datafusion::physical_plan::metrics::ExecutionPlanMetricsSet {
            self.$inner.metrics()
        }

        fn file_type(&self) -> &str {
            self.$inner.file_type()
        }

        fn reorder_files(
            &self,
            files: Vec<datafusion::datasource::listing::PartitionedFile>,
        ) -> Vec<datafusion::datasource::listing::PartitionedFile> {
            self.$inner.reorder_files(files)
        }

        fn apply_expressions(
            &self,
            apply: &mut dyn FnMut(
                &std::sync::Arc<dyn datafusion::physical_plan::PhysicalExpr>,
            ) -> datafusion::common::Result<datafusion::common::tree_node::TreeNodeRecursion>,
        ) -> datafusion::common::Result<datafusion::common::tree_node::TreeNodeRecursion> {
            self.$inner.apply_expressions(apply)
        }
    };
}
pub(crate) use forwarding_to;
