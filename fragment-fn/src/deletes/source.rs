//! A file source around DataFusion's that lets no deleted row through.
//!
//! Beside the scan's own source there are sources with columns behind those that the scan asks for ([`super::behind`]). They serve the
//! files of which rows are dropped after the decoder. They know no limit, and do not sort row groups by their statistics.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{and, filter_record_batch};
use arrow::datatypes::Int64Type;
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::DisplayFormatType;
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::ObjectStore;

use super::behind::{Behind, Places, Widened, WidenedFiles, with_keys};
use super::equality::FileKeys;
use super::positions::Deleted;
use super::selection::{Runs, left, selection};
use super::{DeletesApplied, FileDeletes};
use crate::ahead::AheadAccount;
use crate::forwarding::forwarding_to;
use crate::late::Decides;

/// Copies of a selection that DataFusion's opener makes, with the first.
const SELECTION_COPIES: usize = 3;

/// Deletes of a scan's files.
pub(crate) struct ScanDeletes {
    has_any: bool,
    /// Sources for files of which rows are dropped after the decoder.
    widened: BTreeMap<Behind, Widened>,
}

impl ScanDeletes {
    /// Finds the deletes of a Parquet scan, before another source is put around its own.
    ///
    /// # Errors
    /// A scan with [`FileDeletes`] whose files are not Parquet, and keys that the table's columns do not have.
    pub(crate) fn of(scan: &FileScanConfig) -> Result<Self> {
        let Some(ids) = key_ids(scan) else { return Ok(Self { has_any: false, widened: BTreeMap::new() }) };
        let Some(parquet) = scan.file_source().downcast_ref::<ParquetSource>() else {
            return plan_err!("the scan is not of Parquet files");
        };
        let mut widened = BTreeMap::new();
        for (keys, number) in [(false, true), (true, false), (true, true)] {
            let has_partitions = !parquet.table_schema().table_partition_cols().is_empty();
            if keys && ids.is_empty() || number && has_partitions {
                continue;
            }
            let ids = if keys { ids.clone() } else { BTreeSet::new() };
            widened.insert(Behind { keys, number }, Widened::new(parquet, &ids, number)?);
        }
        Ok(Self { has_any: true, widened })
    }

    /// Makes the scan leave out deleted rows. `account` is told of the waits for delete files.
    pub(crate) fn left_out(
        self,
        scan: FileScanConfig,
        decides: Decides,
        account: &Arc<AheadAccount>,
    ) -> FileScanConfig {
        if !self.has_any {
            return scan;
        }
        let files = scan.file_groups.iter().flat_map(FileGroup::iter);
        files.filter_map(|file| file.extensions.get::<FileDeletes>()).for_each(FileDeletes::announce);
        let mut widened = self.widened;
        if decides == Decides::Rows {
            // It needs to know each deleted row.
            widened.retain(|behind, _| !behind.number);
        }
        let (plain, account) = (Arc::clone(scan.file_source()), Arc::clone(account));
        let source = Arc::new(Deleting { plain, widened, account });
        FileScanConfigBuilder::from(scan).with_source(source).build()
    }
}

/// Returns what is read of files to which keys apply. None where keys apply to none.
///
/// # Errors
/// Keys that the table's columns do not have.
pub(crate) fn projection_with_keys(scan: &FileScanConfig, plain: &ParquetSource) -> Result<Option<ProjectionExprs>> {
    match key_ids(scan) {
        Some(ids) if !ids.is_empty() => Ok(Some(ProjectionExprs::new(with_keys(plain, &ids)?.0))),
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

struct Deleting {
    plain: Arc<dyn FileSource>,
    widened: BTreeMap<Behind, Widened>,
    account: Arc<AheadAccount>,
}

impl FileSource for Deleting {
    forwarding_to!(plain);

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let plain = self.plain.create_morselizer(Arc::clone(&store), scan, partition)?.into();
        let files =
            |(behind, widened): (&Behind, &Widened)| Ok((*behind, widened.files(Arc::clone(&store), scan, partition)?));
        let widened = self.widened.iter().map(files).collect::<Result<BTreeMap<_, _>>>()?;
        Ok(Box::new(DeletingFiles { plain, widened: Arc::new(widened), account: Arc::clone(&self.account) }))
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        let sized = |(behind, widened): (&Behind, &Widened)| (*behind, widened.with_batch_size(batch_size));
        let widened = self.widened.iter().map(sized).collect();
        let account = Arc::clone(&self.account);
        Arc::new(Self { plain: self.plain.with_batch_size(batch_size), widened, account })
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.plain.fmt_extra(kind, f)
    }
}

#[derive(Debug)]
struct DeletingFiles {
    plain: Arc<dyn Morselizer>,
    widened: Arc<BTreeMap<Behind, WidenedFiles>>,
    account: Arc<AheadAccount>,
}

impl Morselizer for DeletingFiles {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let Some(deletes) = file.extensions.get_arc::<FileDeletes>() else { return self.plain.plan_file(file) };
        let (plain, widened, account) = (Arc::clone(&self.plain), Arc::clone(&self.widened), Arc::clone(&self.account));
        Ok(Box::new(Loading { deletes, file, plain, widened, account }))
    }
}

/// File whose deletes are not read yet.
#[derive(Debug)]
struct Loading {
    deletes: Arc<FileDeletes>,
    file: PartitionedFile,
    plain: Arc<dyn Morselizer>,
    widened: Arc<BTreeMap<Behind, WidenedFiles>>,
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
        let reading = async { futures::try_join!(deletes.deleted(), deletes.keys()) };
        let (mut deleted, keys) = account.waited(reading).await?;
        let (mut behind, mut memory) = (Behind { keys: !keys.is_empty(), number: false }, None);
        if let Some(found) = &deleted {
            let rows = deletes.unit().rows;
            let runs = Runs::of(&found.rows);
            let numbered = Behind { number: true, ..behind };
            // The decoder skips a file of which all rows are deleted, however short it is.
            let is_left = found.rows.len() < rows;
            if is_left && runs.are_scattered(rows) && widened.contains_key(&numbered) {
                behind = numbered;
            }
            let skipped = runs.skipped(behind.number);
            if skipped.is_any {
                memory = Some(deletes.reserve(SELECTION_COPIES * skipped.bytes)?);
                let selection = selection(&found.rows, rows, skipped.run_rows_min);
                // The opener takes it when it plans the file.
                file.extensions.insert(ParquetRowSelection::new(selection));
            }
        }
        if !behind.number {
            deleted = None;
        }
        file.extensions.insert(DeletesApplied);
        let (inner, dropping) = match widened.get(&behind) {
            None if behind == Behind::default() => (plain.plan_file(file)?, None),
            None => return internal_err!("the scan does not read the columns by which its rows are deleted"),
            Some(own) => {
                let keys = FileKeys::new(keys, deletes.unit().sequence_number, &own.places.keys)?;
                (own.plan_file(file)?, Some(Dropping { keys, deleted, places: Arc::clone(&own.places) }))
            }
        };
        Ok(Box::new(Step { applied: Arc::new(Applied { dropping, _memory: memory }), inner }))
    }
}

/// Work on the rows of one file, and memory that is held meanwhile.
struct Applied {
    dropping: Option<Dropping>,
    _memory: Option<MemoryReservation>,
}

/// Deletes of one file that are applied to its decoded rows.
struct Dropping {
    keys: FileKeys,
    deleted: Option<Arc<Deleted>>,
    places: Arc<Places>,
}

impl Dropping {
    /// Drops deleted rows of a batch, and the columns behind those that the scan asks for.
    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let by_number = self.left(batch)?;
        let by_keys = self.keys.left(batch)?;
        let outputs: Vec<usize> = (0..self.places.outputs).collect();
        let outputs = batch.project(&outputs)?;
        let left = match (by_number, by_keys) {
            (None, None) => return Ok(outputs),
            (Some(left), None) | (None, Some(left)) => left,
            (Some(one), Some(other)) => and(&one, &other)?,
        };
        Ok(filter_record_batch(&outputs, &left)?)
    }

    /// Tells which rows have a number that is not deleted. None where all have.
    fn left(&self, batch: &RecordBatch) -> Result<Option<BooleanArray>> {
        let (Some(deleted), Some(number)) = (&self.deleted, self.places.number) else { return Ok(None) };
        let Some(numbers) = batch.column(number).as_primitive_opt::<Int64Type>() else {
            return internal_err!("the numbers of rows are no numbers");
        };
        Ok(left(&deleted.rows, numbers.values()))
    }
}

impl Debug for Applied {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applied").field("is_dropping", &self.dropping.is_some()).finish_non_exhaustive()
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
        let left = rows.map(move |batch| match &applied.dropping {
            Some(dropping) => dropping.apply(&batch?),
            None => batch,
        });
        left.boxed()
    }
}
