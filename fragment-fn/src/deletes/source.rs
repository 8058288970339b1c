//! A file source around DataFusion's that lets no deleted row through.
//!
//! A scan with files of keys has a second source, whose projection has the key columns, too. It serves the files to which keys
//! apply. It knows no limit, because rows are dropped after it, and it does not sort row groups by their statistics.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{
    FileGroup, FileOpener, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_expr::projection::{ProjectionExpr, ProjectionExprs};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr};
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::ObjectStore;
use parquet::arrow::arrow_reader::RowSelector;

use super::equality::{FileKeys, KeyColumn};
use super::{DeletesApplied, FileDeletes};
use crate::ahead::AheadAccount;

/// Copies of a selection that DataFusion's opener makes, with the first.
const SELECTION_COPIES: usize = 3;

/// Deletes of a scan's files.
pub(crate) struct ScanDeletes {
    has_any: bool,
    widened: Option<Widened>,
}

impl ScanDeletes {
    /// Finds the deletes of a Parquet scan, before another source is put around its own.
    ///
    /// # Errors
    /// A scan with [`FileDeletes`] whose files are not Parquet, and keys that the table's columns do not have.
    pub(crate) fn of(scan: &FileScanConfig) -> Result<Self> {
        let Some(ids) = key_ids(scan) else { return Ok(Self { has_any: false, widened: None }) };
        let Some(parquet) = scan.file_source().downcast_ref::<ParquetSource>() else {
            return plan_err!("the scan is not of Parquet files");
        };
        let widened = if ids.is_empty() { None } else { Some(Widened::new(parquet, &ids)?) };
        Ok(Self { has_any: true, widened })
    }

    /// Makes the scan leave out deleted rows. `account` is told of the waits for delete files.
    pub(crate) fn left_out(self, scan: FileScanConfig, account: &Arc<AheadAccount>) -> FileScanConfig {
        if !self.has_any {
            return scan;
        }
        let (plain, account) = (Arc::clone(scan.file_source()), Arc::clone(account));
        let source = Arc::new(Deleting { plain, widened: self.widened, account });
        FileScanConfigBuilder::from(scan).with_source(source).build()
    }
}

/// Returns what is read of files to which keys apply. None where keys apply to none.
///
/// # Errors
/// Keys that the table's columns do not have.
pub(crate) fn with_keys(scan: &FileScanConfig, plain: &ParquetSource) -> Result<Option<ProjectionExprs>> {
    match key_ids(scan) {
        Some(ids) if !ids.is_empty() => Ok(Some(widened(plain, &ids)?.0)),
        _ => Ok(None),
    }
}

/// Returns the field ids of the keys that apply to files of a scan. None where no file has deletes.
fn key_ids(scan: &FileScanConfig) -> Option<BTreeSet<i32>> {
    let files = scan.file_groups.iter().flat_map(FileGroup::iter);
    let mut ids = None;
    for deletes in files.filter_map(|file| file.extensions.get::<FileDeletes>()) {
        ids.get_or_insert_with(BTreeSet::new).extend(deletes.key_ids());
    }
    ids
}

/// Puts the key columns behind the projection of a scan.
fn widened(plain: &ParquetSource, ids: &BTreeSet<i32>) -> Result<(ProjectionExprs, Places)> {
    let columns = plain.table_schema().table_schema();
    let mut projection: Vec<ProjectionExpr> =
        plain.projection().into_iter().flat_map(ProjectionExprs::iter).cloned().collect();
    let outputs = projection.len();
    let mut keys = BTreeMap::new();
    for id in ids {
        keys.insert(*id, projection.len());
        let key = KeyColumn::of(columns, *id)?.expr(columns)?;
        projection.push(ProjectionExpr::new(key, format!("\u{0}key {id}")));
    }
    Ok((ProjectionExprs::new(projection), Places { keys, outputs }))
}

struct Deleting {
    plain: Arc<dyn FileSource>,
    /// Source for files to which keys apply.
    widened: Option<Widened>,
    account: Arc<AheadAccount>,
}

/// Source whose batches have the key columns behind those that the scan asks for.
struct Widened {
    source: Arc<dyn FileSource>,
    places: Arc<Places>,
}

/// Columns of a widened batch.
#[derive(Debug)]
struct Places {
    /// Positions of the key columns, by their field ids.
    keys: BTreeMap<i32, usize>,
    /// Columns before them.
    outputs: usize,
}

impl Widened {
    fn new(plain: &ParquetSource, ids: &BTreeSet<i32>) -> Result<Self> {
        let (projection, places) = widened(plain, ids)?;
        let mut source = ParquetSource::new(plain.table_schema().clone())
            .with_table_parquet_options(plain.table_parquet_options().clone());
        if let Some(reader) = plain.parquet_file_reader_factory() {
            source = source.with_parquet_file_reader_factory(Arc::clone(reader));
        }
        if let Some(predicate) = plain.filter() {
            source = source.with_predicate(predicate);
        }
        let source = source.try_pushdown_projection(&projection)?;
        let Some(source) = source else { return internal_err!("a scan does not take its keys") };
        Ok(Self { source, places: Arc::new(places) })
    }
}

impl FileSource for Deleting {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        self.plain.create_file_opener(store, scan, partition)
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let plain = self.plain.create_morselizer(Arc::clone(&store), scan, partition)?.into();
        let widened = match &self.widened {
            Some(Widened { source, places }) => {
                let mut unlimited = scan.clone();
                unlimited.limit = None;
                let files = source.create_morselizer(store, &unlimited, partition)?.into();
                Some(WidenedFiles { files, places: Arc::clone(places) })
            }
            None => None,
        };
        Ok(Box::new(DeletingFiles { plain, widened, account: Arc::clone(&self.account) }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.plain.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        let widened = self.widened.as_ref().map(|Widened { source, places }| Widened {
            source: source.with_batch_size(batch_size),
            places: Arc::clone(places),
        });
        let account = Arc::clone(&self.account);
        Arc::new(Self { plain: self.plain.with_batch_size(batch_size), widened, account })
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.plain.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.plain.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.plain.metrics()
    }

    fn file_type(&self) -> &str {
        self.plain.file_type()
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.plain.fmt_extra(kind, f)
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.plain.reorder_files(files)
    }

    fn apply_expressions(
        &self,
        apply: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.plain.apply_expressions(apply)
    }
}

#[derive(Debug)]
struct DeletingFiles {
    plain: Arc<dyn Morselizer>,
    widened: Option<WidenedFiles>,
    account: Arc<AheadAccount>,
}

#[derive(Debug, Clone)]
struct WidenedFiles {
    files: Arc<dyn Morselizer>,
    places: Arc<Places>,
}

impl Morselizer for DeletingFiles {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let Some(deletes) = file.extensions.get_arc::<FileDeletes>() else { return self.plain.plan_file(file) };
        let (plain, widened, account) = (Arc::clone(&self.plain), self.widened.clone(), Arc::clone(&self.account));
        Ok(Box::new(Loading { deletes, file, plain, widened, account }))
    }
}

/// File whose deletes are not read yet.
#[derive(Debug)]
struct Loading {
    deletes: Arc<FileDeletes>,
    file: PartitionedFile,
    plain: Arc<dyn Morselizer>,
    widened: Option<WidenedFiles>,
    account: Arc<AheadAccount>,
}

impl MorselPlanner for Loading {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        Ok(Some(MorselPlan::new().with_pending_planner(self.load())))
    }
}

impl Loading {
    /// Reads the file's deletes, and opens the file without the rows that they delete.
    async fn load(self: Box<Self>) -> Result<Box<dyn MorselPlanner>> {
        let Self { deletes, mut file, plain, widened, account } = *self;
        let reading = async { futures::try_join!(deletes.selection(), deletes.keys()) };
        let (selection, keys) = account.waited(reading).await?;
        let mut memory = None;
        if let Some(selection) = selection {
            let runs = selection.iter().count() * size_of::<RowSelector>();
            memory = Some(deletes.reserve(SELECTION_COPIES * runs)?);
            // The opener takes it when it plans the file.
            file.extensions.insert(ParquetRowSelection::new(selection));
        }
        file.extensions.insert(DeletesApplied);
        let (inner, keys) = match (keys.is_empty(), widened) {
            (true, _) => (plain.plan_file(file)?, None),
            (false, Some(WidenedFiles { files, places })) => {
                let number = deletes.unit().sequence_number;
                let keys = FileKeys::new(keys, number, &places.keys, places.outputs)?;
                (files.plan_file(file)?, Some(keys))
            }
            (false, None) => return internal_err!("the scan does not read the keys by which its rows are deleted"),
        };
        Ok(Box::new(Step { applied: Arc::new(Applied { keys, _memory: memory }), inner }))
    }
}

/// Work on the rows of one file, and memory that is held meanwhile.
struct Applied {
    keys: Option<FileKeys>,
    _memory: Option<MemoryReservation>,
}

impl Debug for Applied {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applied").field("keys", &self.keys.is_some()).finish_non_exhaustive()
    }
}

/// Step in the reading of one file whose deletes are read.
#[derive(Debug)]
struct Step<T> {
    applied: Arc<Applied>,
    inner: T,
}

impl MorselPlanner for Step<Box<dyn MorselPlanner>> {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let Self { applied, inner } = *self;
        let Some(mut plan) = inner.plan()? else { return Ok(None) };
        let planner = |inner| Box::new(Step { applied: Arc::clone(&applied), inner }) as Box<dyn MorselPlanner>;
        let morsel = |inner| Box::new(Step { applied: Arc::clone(&applied), inner }) as Box<dyn Morsel>;
        let mut wrapped = MorselPlan::new()
            .with_morsels(plan.take_morsels().into_iter().map(morsel).collect())
            .with_planners(plan.take_ready_planners().into_iter().map(planner).collect());
        if let Some(pending) = plan.take_pending_planner() {
            let applied = Arc::clone(&applied);
            wrapped.set_pending_planner(async move {
                let inner = pending.await?;
                Ok(Box::new(Step { applied, inner }) as Box<dyn MorselPlanner>)
            });
        }
        Ok(Some(wrapped))
    }
}

impl Morsel for Step<Box<dyn Morsel>> {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        let Self { applied, inner } = *self;
        let rows = inner.into_stream();
        let kept = rows.map(move |batch| match &applied.keys {
            Some(keys) => keys.apply(&batch?),
            None => batch,
        });
        kept.boxed()
    }
}
