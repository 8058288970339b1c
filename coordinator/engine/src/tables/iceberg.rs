//! An Iceberg table as a table of the engine.
//!
//! Files and deletes come from `gust-catalog`'s own plan, which the query's filters prune before any data is read. Columns are
//! matched by field id. The snapshot is the one that was current when the table was loaded.
//!
//! [`plans`] has the plans of a statement's scans, [`again`] asks for fewer files once keys of a join are known, [`files`] makes DataFusion's files of a plan's, with their deletes,
//! [`mod@statistics`] what the planner may believe, and [`counted`] the number of rows that vectors leave.

mod again;
mod counted;
mod definition;
mod files;
mod plans;
mod statistics;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::{DataFusionError, Result, TableReference, internal_datafusion_err, plan_err};
use datafusion::datasource::TableType;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::logical_expr::{CreateExternalTable, Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use fragment_fn::ScanReader;
use gust_catalog::{FilePlan, Table, Version};
use object_store::path::Path;
use url::Url;

use super::boxed::{AskedScan, boxed_create, boxed_scan};
use super::facts::matching_of;
use super::grants::TableGrants;
use super::metadata_table::{Facts, MetadataTable};
use super::pruning::PruningNotes;
use super::reading::{BridgeBytes, FOOTERS_BYTES_MAX};
use super::schema::{arrow_schema, with_dropped};
use crate::config::IcebergConfig;
use crate::storage::Stores;
use files::{PlannedFiles, held_bytes, whole_bytes};
use plans::KeptPlan;
use statistics::statistics;

pub use again::AskedAgain;
pub use plans::ScanPlans;

/// One snapshot of an Iceberg table.
#[derive(Debug)]
pub struct IcebergTable {
    table: Table,
    schema: SchemaRef,
    /// Catalog, namespace and name, where it has some.
    full_name: Option<[String; 3]>,
    /// Statement that would make the table.
    definition: OnceLock<String>,
}

impl IcebergTable {
    /// # Errors
    /// Initial defaults that are no values.
    pub fn new(table: Table) -> Result<Self> {
        let schema = arrow_schema(&table)?;
        Ok(Self { table, schema, full_name: None, definition: OnceLock::new() })
    }

    /// Makes the same table, with its name in its catalog.
    pub fn named(self, full_name: [String; 3]) -> Self {
        Self { full_name: Some(full_name), ..self }
    }

    /// Returns the folder that its metadata names.
    pub fn location(&self) -> &str {
        self.table.location()
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

    /// Returns the table, read through the stores of the query that plans. It may be older than the query.
    fn at_hand(&self, session: &dyn Session) -> Result<Table> {
        Ok(self.table.with_stores(stores_of(session)?.for_catalog()))
    }

    /// Makes a plan ready for its scans. Its columns are the table's, and behind them those that only deletes still know.
    fn kept(&self, mut files: FilePlan, is_counted: bool, session: &dyn Session) -> Result<KeptPlan> {
        let trusts_bounds = session.config().get_extension::<IcebergConfig>().is_none_or(|config| config.trust_bounds);
        let dropped = self.table.dropped_columns(&files.deletes).map_err(external)?;
        let schema = with_dropped(&self.schema, &dropped);
        let statistics = statistics(&self.table, &schema, &files, trusts_bounds);
        files.files.iter_mut().for_each(|file| file.columns = Box::default());
        let mut kept = KeptPlan::new(files, schema, statistics, session)?;
        kept.is_counted = is_counted;
        Ok(kept)
    }

    /// Makes the scan of a plan.
    ///
    /// The files are spread over groups, as many as there are cores. DataFusion's own listing makes as many. Of each the fields
    /// `columns` are read.
    async fn scan_of(&self, plan: &KeptPlan, columns: &BTreeSet<i32>, session: &dyn Session) -> Result<PlannedScan> {
        let settings = session.config();
        let schema = &plan.schema;
        let planned = PlannedFiles::of(&self.table, &plan.files, schema, session)?;
        let PlannedFiles { files, url, stores, partitions_bytes } = planned;
        let held = MemoryConsumer::new("files of a scan").register(&session.runtime_env().memory_pool);
        held.try_grow(files.iter().map(held_bytes).sum::<usize>() + partitions_bytes)?;
        let is_counted = columns.is_empty() && plan.is_counted;
        let statistics = if is_counted { plan.counted(&files).await? } else { plan.statistics.clone() };
        let mut groups = vec![Vec::new(); settings.target_partitions().clamp(1, files.len().max(1))];
        let count = groups.len();
        let name = TableReference::bare(self.table.name());
        let is_local = url.as_str().starts_with("file:");
        let bridge_bytes = BridgeBytes::of(settings);
        let again = AskedAgain(Arc::new(self.at_hand(session)?));
        for (position, mut file) in files.into_iter().enumerate() {
            file.extensions.insert(again.clone());
            if !is_local {
                file.metadata_size_hint = whole_bytes(&file, columns, bridge_bytes);
            }
            groups[position % count].push(file.with_table_reference(Some(name.clone())));
        }
        let mut options =
            TableParquetOptions { global: settings.options().execution.parquet.clone(), ..Default::default() };
        // Iceberg's times have microseconds, those of 96 bits nanoseconds.
        options.global.coerce_int96 = Some("us".to_owned());
        let source = ParquetSource::new(Arc::clone(schema)).with_table_parquet_options(options);
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .with_statistics(statistics);
        let footers = Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(FOOTERS_BYTES_MAX));
        let reader = ScanReader::of_stores(stores, footers, matching_of(schema)?);
        ScanPlans::hold(session, held);
        Ok(PlannedScan { config, reader })
    }

    async fn planned(&self, asked: AskedScan<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let AskedScan { state, projection, filters, limit } = asked;
        let asked = plans::asked(&self.table, projection.map(Vec::as_slice), filters);
        let plan = ScanPlans::get(state, self, &asked).await?;
        let scan = self.scan_of(&plan, &asked.columns, state).await?;
        // Only the table's own columns are seen.
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let (scan, reader) =
            (scan.config.with_projection_indices(Some(projection))?.with_limit(limit).build(), scan.reader);
        if let Some(notes) = state.config().get_extension::<PruningNotes>() {
            notes.note(self.table.name(), plan.files.pruning.clone());
        }
        Ok(DataSourceExec::from_data_source(reader.attach(scan)?))
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

    boxed_scan!(IcebergTable, IcebergTable::planned);
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

impl TableProviderFactory for IcebergFactory {
    boxed_create!(make);
}

async fn make(state: &dyn Session, command: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
    let [location] = command.locations.as_slice() else {
        return plan_err!("an Iceberg table has one location: its folder or a metadata file");
    };
    let location = absolute(location)?;
    if let Some(grants) = state.config().get_extension::<TableGrants>() {
        grants.check_location(&location)?;
        return Err(grants.refused_iceberg().into());
    }
    let table = Table::open(&location, &stores_of(state)?.for_catalog()).await.map_err(external)?;
    Ok(Arc::new(IcebergTable::new(table)?))
}

/// Makes a path absolute from the current folder. A URL stays as it is.
fn absolute(location: &str) -> Result<String> {
    if location.contains("://") || Url::parse(location).is_ok_and(|url| url.scheme() == "file") {
        return Ok(location.to_owned());
    }
    let path = std::path::absolute(location).map_err(DataFusionError::IoError)?;
    Ok(path.to_string_lossy().into_owned())
}
