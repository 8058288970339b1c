//! An Iceberg table as a table of the engine.
//!
//! Files and deletes come from `gust-catalog`'s own plan, which the query's filters prune before any data is read. Columns are
//! matched by field id. The snapshot is the one that was current when the table was loaded.
//!
//! [`files`] makes DataFusion's files of the plan's, with their deletes, and [`mod@statistics`] what the planner may believe.

mod definition;
mod files;
mod statistics;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, TableReference, internal_datafusion_err, plan_err};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::{TableType, source_as_provider};
use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::logical_expr::{CreateExternalTable, Expr, LogicalPlan, TableProviderFilterPushDown, TableScan};
use datafusion::physical_plan::ExecutionPlan;
use fragment_fn::ScanReader;
use gust_catalog::{FilePlan, ScanRequest, Table, Version};
use object_store::path::Path;
use url::Url;

use super::facts::matching_of;
use super::metadata_table::{Facts, MetadataTable};
use super::predicate::predicate;
use super::pruning::PruningNotes;
use super::reading::FOOTERS_BYTES_MAX;
use super::schema::{arrow_schema, with_dropped};
use crate::config::IcebergConfig;
use crate::storage::Stores;
use files::{PlannedFiles, whole_bytes};
use statistics::statistics;

/// One snapshot of an Iceberg table.
#[derive(Debug)]
pub struct IcebergTable {
    table: Table,
    schema: SchemaRef,
    /// Catalog, namespace and name, where it has some.
    full_name: Option<[String; 3]>,
    /// Statement that would make the table.
    definition: OnceLock<String>,
    /// Ids of the columns that the scans of the latest statement read.
    asked: Mutex<BTreeSet<i32>>,
}

/// Tells the tables of a statement which columns its scans read of them, so that each manifest is decoded once for all scans.
pub fn tell_columns(plan: &LogicalPlan) {
    let mut asked: HashMap<(String, Option<i64>), BTreeSet<i32>> = HashMap::new();
    // A statement may have several providers of one table.
    let key = |table: &IcebergTable| (table.table.metadata_location().to_owned(), table.table.snapshot_id());
    for_each_scan(plan, |table, scan| {
        asked.entry(key(table)).or_default().extend(table.columns_read(scan.projection.as_ref()));
    });
    for_each_scan(plan, |table, _| {
        let columns = asked.get(&key(table)).cloned().unwrap_or_default();
        *table.asked.lock().unwrap_or_else(PoisonError::into_inner) = columns;
    });
}

fn for_each_scan(plan: &LogicalPlan, mut visit: impl FnMut(&IcebergTable, &TableScan)) {
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(table) = provider.downcast_ref::<IcebergTable>()
        {
            visit(table, scan);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(visited.is_ok(), "the visit never fails");
}

impl IcebergTable {
    /// # Errors
    /// Initial defaults that are no values.
    pub fn new(table: Table) -> Result<Self> {
        let schema = arrow_schema(&table)?;
        Ok(Self { table, schema, full_name: None, definition: OnceLock::new(), asked: Mutex::default() })
    }

    /// Makes the same table, with its name in its catalog.
    pub fn named(self, full_name: [String; 3]) -> Self {
        Self { full_name: Some(full_name), ..self }
    }

    /// Returns the snapshot that is read; None for a table without one.
    pub fn snapshot_id(&self) -> Option<i64> {
        self.table.snapshot_id()
    }

    /// Returns the table as it was at a version.
    ///
    /// # Errors
    /// Those of [`Table::at`].
    pub fn at(&self, version: &Version) -> Result<Self> {
        let table = Self::new(self.table.at(version).map_err(external)?)?;
        Ok(Self { full_name: self.full_name.clone(), ..table })
    }

    /// Returns a table of facts about this one.
    ///
    /// # Errors
    /// Those of [`MetadataTable::new`].
    pub fn facts(&self, facts: Facts) -> Result<MetadataTable> {
        MetadataTable::new(self.table.clone(), facts)
    }

    /// Makes the scan of a plan. Its columns are the table's, and behind them those that only deletes still know.
    ///
    /// The files are spread over groups, as many as there are cores. DataFusion's own listing makes as many. Of each the fields
    /// `columns` are read.
    fn scan_of(&self, plan: &FilePlan, columns: &BTreeSet<i32>, session: &dyn Session) -> Result<PlannedScan> {
        let settings = session.config();
        let trusts_bounds = settings.get_extension::<IcebergConfig>().is_none_or(|config| config.trust_bounds);
        let dropped = self.table.dropped_columns(&plan.deletes).map_err(external)?;
        let schema = with_dropped(&self.schema, &dropped);
        let PlannedFiles { files, url, stores } = PlannedFiles::of(&self.table, plan, &schema, session)?;
        let mut groups = vec![Vec::new(); settings.target_partitions().clamp(1, files.len().max(1))];
        let count = groups.len();
        let name = TableReference::bare(self.table.name());
        let is_local = url.as_str().starts_with("file:");
        for (position, mut file) in files.into_iter().enumerate() {
            if !is_local {
                file.metadata_size_hint = whole_bytes(&file, columns);
            }
            groups[position % count].push(file.with_table_reference(Some(name.clone())));
        }
        let mut options =
            TableParquetOptions { global: settings.options().execution.parquet.clone(), ..Default::default() };
        // Iceberg's times have microseconds, those of 96 bits nanoseconds.
        options.global.coerce_int96 = Some("us".to_owned());
        let source = ParquetSource::new(Arc::clone(&schema)).with_table_parquet_options(options);
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .with_statistics(statistics(&self.table, &schema, plan, trusts_bounds));
        let footers = Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(FOOTERS_BYTES_MAX));
        let reader = ScanReader::of_stores(stores, footers, matching_of(&schema)?);
        Ok(PlannedScan { config, reader })
    }

    /// Lists the field ids of a scan's columns. Those of its filters are among them.
    fn columns_read(&self, projection: Option<&Vec<usize>>) -> BTreeSet<i32> {
        let fields = self.table.schema().fields.iter().enumerate();
        let read = fields.filter(|(position, _)| projection.is_none_or(|columns| columns.contains(position)));
        read.map(|(_, field)| field.id).collect()
    }
}

/// Scan of a plan, before its columns are chosen.
struct PlannedScan {
    config: FileScanConfigBuilder,
    reader: ScanReader,
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

    /// Returns the statement of SHOW CREATE TABLE. None for a table without a name of its own.
    fn get_table_definition(&self) -> Option<&str> {
        let name = self.full_name.as_ref()?;
        Some(self.definition.get_or_init(|| definition::definition(name, &self.table)))
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
        let also = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let request = ScanRequest { predicate: &predicate, columns: &columns, also: &also };
        let plan = table.plan(&request).await.map_err(external)?;
        let scan = self.scan_of(&plan, &columns, state)?;
        // Only the table's own columns are seen.
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let (scan, reader) =
            (scan.config.with_projection_indices(Some(projection))?.with_limit(limit).build(), scan.reader);
        if let Some(notes) = state.config().get_extension::<PruningNotes>() {
            notes.note(self.table.name(), plan.pruning);
        }
        Ok(DataSourceExec::from_data_source(reader.attach(scan)?))
    }
}

/// Returns the stores of the query that plans. A table may be older than the query.
pub(super) fn stores_of(state: &dyn Session) -> Result<Arc<Stores>> {
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
        Ok(Arc::new(IcebergTable::new(table)?))
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

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::config::S3Config;

    #[tokio::test]
    async fn scans_of_one_statement_ask_for_their_columns_together() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("v1.metadata.json");
        let column =
            |id: i32, name: &str| format!(r#"{{"id": {id}, "name": "{name}", "required": false, "type": "int"}}"#);
        let columns = ["a", "b", "c", "d"].iter().zip(11..).map(|(name, id)| column(id, name)).collect::<Vec<_>>();
        let metadata = format!(
            r#"{{"format-version": 2, "location": "/t", "current-schema-id": 0,
            "schemas": [{{"schema-id": 0, "type": "struct", "fields": [{}]}}]}}"#,
            columns.join(", ")
        );
        std::fs::write(&file, metadata).expect("written");
        let stores = Stores::new(S3Config::default()).for_catalog();
        let context = SessionContext::new();
        for name in ["t", "again"] {
            let table = Table::open(file.to_str().expect("a path"), &stores).await.expect("a table");
            context.register_table(name, Arc::new(IcebergTable::new(table).expect("a table"))).expect("registered");
        }
        let asked = async |sql: &str| {
            let plan = context.sql(sql).await.expect("SQL").into_optimized_plan().expect("a plan");
            tell_columns(&plan);
            let provider = context.table_provider("t").await.expect("a table");
            let table = provider.downcast_ref::<IcebergTable>().expect("Iceberg");
            table.asked.lock().expect("no holder panics").iter().copied().collect::<Vec<_>>()
        };
        assert_eq!(asked("SELECT a FROM t WHERE b IN (SELECT c FROM again)").await, [11, 12, 13]);
        assert_eq!(asked("SELECT d FROM t").await, [14], "earlier statements do not count");
    }
}
