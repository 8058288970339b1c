//! An Iceberg table as a table of the engine.
//!
//! Files come from `gust-catalog`'s own plan, pruned by the query's filters before any data is read; columns are matched by
//! field id. The snapshot is the one that was current when the table was loaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DataFusionError, Result, Statistics, not_impl_err, plan_err};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{CreateExternalTable, Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use fragment_fn::FieldIdMatching;
use gust_catalog::{DataFile, Location, Table};
use object_store::ObjectMeta;
use url::Url;

use super::planned::AsPlanned;
use super::predicate::predicate;
use super::pruning::PruningNotes;
use super::schema::{arrow_schema, engine_scalar};
use crate::planner::units::FileFacts;

/// One snapshot of an Iceberg table.
#[derive(Debug)]
pub struct IcebergTable {
    table: Table,
    schema: SchemaRef,
    required_ids: Vec<i32>,
}

impl IcebergTable {
    pub fn new(table: Table) -> Self {
        let required_ids = table.identity_partition_ids();
        Self { schema: arrow_schema(table.schema(), required_ids.clone()), table, required_ids }
    }

    /// One group a core, as DataFusion's own listing would make them.
    fn scan_config(&self, files: &[DataFile], session: &dyn Session) -> Result<FileScanConfigBuilder> {
        let settings = session.config();
        let mut store = ObjectStoreUrl::local_filesystem();
        let mut groups = vec![Vec::new(); settings.target_partitions().clamp(1, files.len().max(1))];
        let count = groups.len();
        for (position, file) in files.iter().enumerate() {
            let location = Location::parse(&file.path).map_err(external)?;
            let found = ObjectStoreUrl::parse(&location.store)?;
            if position > 0 && found != store {
                return not_impl_err!("table `{}` has data files in {store} and in {found}", self.table.name());
            }
            store = found;
            groups[position % count].push(self.partitioned_file(file, location));
        }
        let groups = groups.into_iter().map(FileGroup::new).collect();
        let options =
            TableParquetOptions { global: settings.options().execution.parquet.clone(), ..Default::default() };
        let readers = AsPlanned::new(session.runtime_env().object_store(&store)?);
        let source = ParquetSource::new(Arc::clone(&self.schema))
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(Arc::new(readers));
        let matching = FieldIdMatching { required_ids: self.required_ids.clone() };
        Ok(FileScanConfigBuilder::new(store, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(self.statistics(files))
            .with_expr_adapter(Some(Arc::new(matching))))
    }

    fn partitioned_file(&self, file: &DataFile, location: Location) -> PartitionedFile {
        let meta = ObjectMeta {
            location: location.path,
            // Iceberg's data files never change: neither a time nor an etag tells one version from another.
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: file.size_bytes,
            e_tag: None,
            version: None,
        };
        let mut planned = PartitionedFile::new_from_meta(meta);
        let split_offsets = file.split_offsets.clone();
        planned.extensions.insert(FileFacts { column_bytes: file.column_sizes.clone(), split_offsets });
        planned
    }

    /// Row counts are exact; bounds may be truncated and are only hints.
    fn statistics(&self, files: &[DataFile]) -> Statistics {
        let columns = self.table.schema().fields.iter().zip(self.schema.fields()).map(|(field, arrow)| {
            let bound = |of: fn(&DataFile) -> &BTreeMap<i32, gust_catalog::Scalar>, least: bool| {
                let mut found = None;
                for file in files {
                    let value = engine_scalar(of(file).get(&field.id)?, arrow.data_type())?;
                    let better = |held: &datafusion::common::ScalarValue| {
                        let order = value.partial_cmp(held);
                        order == Some(if least { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater })
                    };
                    if found.as_ref().is_none_or(better) {
                        found = Some(value);
                    }
                }
                found
            };
            let nulls: Option<u64> = files.iter().map(|file| file.null_counts.get(&field.id).copied()).sum();
            ColumnStatistics {
                null_count: nulls.map_or(Precision::Absent, |nulls| Precision::Exact(nulls as usize)),
                min_value: bound(|file| &file.lower_bounds, true).map_or(Precision::Absent, Precision::Inexact),
                max_value: bound(|file| &file.upper_bounds, false).map_or(Precision::Absent, Precision::Inexact),
                ..ColumnStatistics::new_unknown()
            }
        });
        Statistics {
            num_rows: Precision::Exact(files.iter().map(|file| file.record_count as usize).sum()),
            total_byte_size: Precision::Inexact(files.iter().map(|file| file.size_bytes as usize).sum()),
            column_statistics: columns.collect(),
        }
    }
}

fn external(error: gust_catalog::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[async_trait]
impl TableProvider for IcebergTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self.table.plan(&predicate(filters, self.table.schema())).await.map_err(external)?;
        if let Some(notes) = state.config().get_extension::<PruningNotes>() {
            notes.note(self.table.name(), plan.pruning);
        }
        let scan = self
            .scan_config(&plan.files, state)?
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }
}

/// `CREATE EXTERNAL TABLE … STORED AS ICEBERG LOCATION …`: a metadata file or a table folder.
#[derive(Debug)]
pub struct IcebergFactory {
    pub stores: super::stores::Stores,
}

#[async_trait]
impl TableProviderFactory for IcebergFactory {
    async fn create(&self, _: &dyn Session, command: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let [location] = command.locations.as_slice() else {
            return plan_err!("an Iceberg table has one location: its folder or a metadata file");
        };
        let location = absolute(location)?;
        let table = Table::open(&location, &self.stores.for_catalog()).await.map_err(external)?;
        Ok(Arc::new(IcebergTable::new(table)))
    }
}

/// A path relative to the current folder, made absolute; a URL as it is.
fn absolute(location: &str) -> Result<String> {
    if location.contains("://") || Url::parse(location).is_ok_and(|url| url.scheme() == "file") {
        return Ok(location.to_owned());
    }
    let path = std::path::absolute(location).map_err(DataFusionError::IoError)?;
    Ok(path.to_string_lossy().into_owned())
}
