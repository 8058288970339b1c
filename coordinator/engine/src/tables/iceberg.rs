//! An Iceberg table as a table of the engine.
//!
//! Files come from `gust-catalog`'s own plan, which the query's filters prune before any data is read. Columns are
//! matched by field id. The snapshot is the one that was current when the table was loaded.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::stats::Precision;
use datafusion::common::{
    ColumnStatistics, DataFusionError, Result, ScalarValue, Statistics, TableReference, internal_datafusion_err,
    not_impl_err, plan_err,
};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{CreateExternalTable, Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use fragment_fn::{FileConstants, ScanReader};
use gust_catalog::{ColumnFacts, Field, IdentityValue, Location, Scalar, ScanFile, ScanRequest, Table, Type};
use gust_protocol::plan::encode_scalar;
use gust_protocol::{ColumnMatching, FieldIdRules};
use object_store::ObjectMeta;
use object_store::path::Path;
use url::Url;

use super::predicate::predicate;
use super::pruning::PruningNotes;
use super::reading::FOOTERS_BYTES_MAX;
use super::schema::{arrow_schema, engine_scalar, engine_value};
use crate::storage::Stores;
use crate::tables::facts::FileFacts;

/// One snapshot of an Iceberg table.
#[derive(Debug)]
pub struct IcebergTable {
    table: Table,
    schema: SchemaRef,
}

impl IcebergTable {
    pub fn new(table: Table) -> Self {
        Self { schema: arrow_schema(table.schema()), table }
    }

    /// Spreads the files over groups, as many as there are cores. DataFusion's own listing makes as many.
    fn scan_config(&self, files: &[ScanFile], session: &dyn Session) -> Result<FileScanConfigBuilder> {
        let settings = session.config();
        let mut store = ObjectStoreUrl::local_filesystem();
        let mut groups = vec![Vec::new(); settings.target_partitions().clamp(1, files.len().max(1))];
        let count = groups.len();
        let name = TableReference::bare(self.table.name());
        for (position, file) in files.iter().enumerate() {
            let location = Location::parse(&file.path.to_string()).map_err(external)?;
            let found = ObjectStoreUrl::parse(&location.store)?;
            if position > 0 && found != store {
                return not_impl_err!("table `{}` has data files in {store} and in {found}", self.table.name());
            }
            store = found;
            let file = partitioned_file(file, location)?.with_table_reference(Some(name.clone()));
            groups[position % count].push(file);
        }
        let groups = groups.into_iter().map(FileGroup::new).collect();
        let options =
            TableParquetOptions { global: settings.options().execution.parquet.clone(), ..Default::default() };
        let source = ParquetSource::new(Arc::clone(&self.schema)).with_table_parquet_options(options);
        Ok(FileScanConfigBuilder::new(store, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(self.statistics(files)))
    }

    /// Lists the field ids of a scan's columns. Those of its filters are among them.
    fn columns_read(&self, projection: Option<&Vec<usize>>) -> BTreeSet<i32> {
        let fields = self.table.schema().fields.iter().enumerate();
        let read = fields.filter(|(position, _)| projection.is_none_or(|columns| columns.contains(position)));
        read.map(|(_, field)| field.id).collect()
    }

    /// Sums the statistics of files. Counts of rows and NULLs are exact. Bounds may be truncated and are only hints.
    fn statistics(&self, files: &[ScanFile]) -> Statistics {
        let columns = self.table.schema().fields.iter().zip(self.schema.fields());
        let columns = columns.map(|(field, arrow)| column_statistics(field, arrow.data_type(), files));
        Statistics {
            num_rows: Precision::Exact(files.iter().map(|file| file.record_count as usize).sum()),
            total_byte_size: Precision::Inexact(files.iter().map(|file| file.size_bytes as usize).sum()),
            column_statistics: columns.collect(),
        }
    }
}

fn column_statistics<'a>(field: &Field, arrow: &DataType, files: &'a [ScanFile]) -> ColumnStatistics {
    // Iceberg's bounds leave NaN out, and NaN is the largest value to the engine.
    let is_float = matches!(field.ty, Type::Float | Type::Double);
    let facts = |file: &'a ScanFile| file.column(field.id);
    let bounded = files.iter().all(|file| !is_float || facts(file).and_then(|facts| facts.nans) == Some(0));
    let bound = |of: fn(&ColumnFacts) -> Option<&Scalar>, better: Ordering| {
        let mut found: Option<ScalarValue> = None;
        for file in files.iter().filter(|_| bounded) {
            let value = engine_scalar(of(facts(file)?)?, arrow)?;
            if found.as_ref().is_none_or(|held| value.partial_cmp(held) == Some(better)) {
                found = Some(value);
            }
        }
        found
    };
    let inexact = |value: Option<ScalarValue>| value.map_or(Precision::Absent, Precision::Inexact);
    // A count that cannot be right is not used.
    let nulls = |file: &'a ScanFile| {
        let facts = facts(file)?;
        let (nulls, values) = (facts.nulls?, facts.values.unwrap_or(file.record_count));
        (nulls <= values && values == file.record_count).then_some(nulls as usize)
    };
    let nulls: Option<usize> = files.iter().map(nulls).sum();
    let min = bound(|facts| facts.lower.as_ref(), Ordering::Less);
    let max = bound(|facts| facts.upper.as_ref(), Ordering::Greater);
    // DataFusion fails over bounds that a bad writer has turned round.
    let (min, max) = if min > max && max.is_some() { (None, None) } else { (min, max) };
    ColumnStatistics {
        null_count: nulls.map_or(Precision::Absent, Precision::Exact),
        min_value: inexact(min),
        max_value: inexact(max),
        ..ColumnStatistics::new_unknown()
    }
}

fn partitioned_file(file: &ScanFile, location: Location) -> Result<PartitionedFile> {
    let meta = ObjectMeta {
        location: location.path,
        // Iceberg's data files never change, so that neither a time nor an etag is needed to tell versions apart.
        last_modified: chrono::DateTime::UNIX_EPOCH,
        size: file.size_bytes,
        e_tag: None,
        version: None,
    };
    let mut planned = PartitionedFile::new_from_meta(meta);
    let column_bytes = file.column_bytes.iter().copied().collect();
    planned.extensions.insert(FileFacts { column_bytes, split_offsets: file.split_offsets.to_vec() });
    if !file.identity_values.is_empty() {
        let encode = |identity: &IdentityValue| {
            let value = identity.value.as_ref().map(engine_value);
            let value = value.as_ref().map(encode_scalar).transpose();
            Ok((identity.field_id, value.map_err(DataFusionError::Plan)?))
        };
        planned.extensions.insert(FileConstants(file.identity_values.iter().map(encode).collect::<Result<_>>()?));
    }
    Ok(planned)
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
        let table = self.table.with_stores(stores_of(state)?.for_catalog());
        let predicate = predicate(filters, self.table.schema());
        let columns = self.columns_read(projection);
        let plan = table.plan(&ScanRequest { predicate: &predicate, columns: &columns }).await.map_err(external)?;
        plan.refuse_deletes(table.name()).map_err(external)?;
        if let Some(notes) = state.config().get_extension::<PruningNotes>() {
            notes.note(self.table.name(), plan.pruning);
        }
        let scan = self
            .scan_config(&plan.files, state)?
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        let store = state.runtime_env().object_store(&scan.object_store_url)?;
        let footers = Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(FOOTERS_BYTES_MAX));
        let scan = ScanReader::new(store, footers, ColumnMatching::FieldId(FieldIdRules::default())).attach(scan)?;
        Ok(DataSourceExec::from_data_source(scan))
    }
}

/// Returns the stores of the query that plans. A table may be older than the query.
fn stores_of(state: &dyn Session) -> Result<Arc<Stores>> {
    let stores = state.config().get_extension::<Stores>();
    stores.ok_or_else(|| internal_datafusion_err!("the session has no stores for Iceberg tables"))
}

/// Factory of `CREATE EXTERNAL TABLE … STORED AS ICEBERG LOCATION …`. The location is a metadata file or a table
/// folder.
#[derive(Debug)]
pub struct IcebergFactory;

#[async_trait]
impl TableProviderFactory for IcebergFactory {
    async fn create(&self, state: &dyn Session, command: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let [location] = command.locations.as_slice() else {
            return plan_err!("an Iceberg table has one location: its folder or a metadata file");
        };
        let location = absolute(location)?;
        let table = Table::open(&location, &stores_of(state)?.for_catalog()).await.map_err(external)?;
        Ok(Arc::new(IcebergTable::new(table)))
    }
}

/// Makes a path absolute from the current folder. A URL stays as it is.
fn absolute(location: &str) -> Result<String> {
    if location.contains("://") || Url::parse(location).is_ok_and(|url| url.scheme() == "file") {
        return Ok(location.to_owned());
    }
    let path = std::path::absolute(location).map_err(DataFusionError::IoError)?;
    Ok(path.to_string_lossy().into_owned())
}
