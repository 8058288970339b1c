//! Facts about a scan from which its requests are predicted.

use std::collections::HashMap;
use std::fmt::{Display, Formatter};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use datafusion::common::config::{ConfigOptions, ParquetOptions};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileSource, ParquetSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_expr_adapter::PhysicalExprAdapterFactory;
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr};
use object_store::path::Path;

use super::units::Lanes;
use crate::deletes::{FileDeletes, projection_with_keys};
use crate::scan::InStore;

/// Facts about a Parquet scan.
#[derive(Debug)]
pub(super) struct ScanSpec {
    /// Files, each once. A position in it is the file's number.
    pub(super) files: Vec<PartitionedFile>,
    pub(super) lanes: Lanes,
    numbers: HashMap<FileKey, u32>,
    pub(super) table: TableSchema,
    projection: ProjectionExprs,
    /// Projection of files to which keys of deleted rows apply.
    keyed: Option<ProjectionExprs>,
    pub(super) predicate: Option<Arc<dyn PhysicalExpr>>,
    pub(super) adapter: Arc<dyn PhysicalExprAdapterFactory>,
    pub(super) options: ParquetOptions,
    /// Rows after which each stream ends.
    limit: Option<usize>,
    pub(super) preserve_order: bool,
    /// The row groups of a file are read in an order of their statistics.
    pub(super) is_reordered: bool,
    /// Columns by which the decoder may leave out rows of the others.
    pub(super) late_keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Rows of a batch.
    pub(super) batch_rows: usize,
}

/// File as a scan names it. A file may be cut into ranges.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FileKey {
    store: InStore,
    location: Path,
    size: u64,
    etag: Option<String>,
    range: Option<(i64, i64)>,
}

impl From<&PartitionedFile> for FileKey {
    fn from(file: &PartitionedFile) -> Self {
        Self {
            store: InStore::of(file),
            location: file.object_meta.location.clone(),
            size: file.object_meta.size,
            etag: file.object_meta.e_tag.clone(),
            range: file.range.as_ref().map(|range| (range.start, range.end)),
        }
    }
}

impl ScanSpec {
    /// Collects the facts. `adapter` matches the files' columns, `late_keys` are those of [`crate::late::keys`]. None where the
    /// scan's requests cannot be predicted.
    pub(super) fn of(
        scan: &FileScanConfig,
        adapter: Arc<dyn PhysicalExprAdapterFactory>,
        late_keys: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Option<Self> {
        let source = scan.file_source().downcast_ref::<ParquetSource>()?;
        if !is_predictable(source) {
            return None;
        }
        let options = source.table_parquet_options().global.clone();
        let table = source.table_schema().clone();
        let mut numbered = NumberedFiles::default();
        // The rules of `create_sibling_state` and `SharedWorkSource` in datafusion-datasource.
        let is_shared = !scan.preserve_order
            && scan.output_partitioning.is_none()
            && config.execution.enable_file_stream_work_stealing;
        let lanes = if is_shared {
            let files = scan.file_groups.iter().flat_map(FileGroup::iter).cloned().collect();
            let queue = numbered.add(source.reorder_files(files));
            Lanes::Shared { streams: scan.file_groups.len(), queue }
        } else {
            Lanes::Own(scan.file_groups.iter().map(|group| numbered.add(group.iter().cloned())).collect())
        };
        Some(Self {
            files: numbered.files,
            lanes,
            numbers: numbered.numbers,
            table,
            projection: source.projection()?.clone(),
            keyed: projection_with_keys(scan, source).ok()?,
            predicate: source.filter(),
            adapter,
            options,
            limit: scan.limit,
            preserve_order: scan.preserve_order,
            is_reordered: is_reordered(source),
            late_keys,
            batch_rows: config.execution.batch_size.get(),
        })
    }

    /// Returns the number of a file that DataFusion opens. None for a file that is not the scan's.
    pub(super) fn number(&self, file: &PartitionedFile) -> Option<u32> {
        self.numbers.get(&FileKey::from(file)).copied()
    }

    /// Returns what is read of a file.
    pub(super) fn projection(&self, is_keyed: bool) -> &ProjectionExprs {
        self.keyed.as_ref().filter(|_| is_keyed).unwrap_or(&self.projection)
    }

    /// Returns the rows after which a file's reader ends. A limit counts rows that deletes have left.
    pub(super) fn limit(&self, file: &PartitionedFile) -> Option<usize> {
        self.limit.filter(|_| !file.extensions.contains::<FileDeletes>())
    }

    /// Returns the predicate that the decoder itself evaluates. Its columns are read, too.
    pub(super) fn row_filter(&self) -> Option<&Arc<dyn PhysicalExpr>> {
        self.predicate.as_ref().filter(|_| self.options.pushdown_filters)
    }
}

/// Returns true for a file to which keys of deleted rows apply.
pub(super) fn is_keyed(file: &PartitionedFile) -> bool {
    file.extensions.get::<FileDeletes>().is_some_and(FileDeletes::has_keys)
}

/// Returns false for scans whose columns are not those of their files.
pub(super) fn is_predictable(source: &ParquetSource) -> bool {
    source.table_schema().virtual_columns().is_empty()
}

#[derive(Default)]
struct NumberedFiles {
    files: Vec<PartitionedFile>,
    numbers: HashMap<FileKey, u32>,
}

impl NumberedFiles {
    /// Numbers files, and returns the numbers of those that had none.
    fn add(&mut self, files: impl IntoIterator<Item = PartitionedFile>) -> Vec<u32> {
        let mut new = Vec::new();
        for file in files {
            let number = self.files.len() as u32;
            self.numbers.entry(FileKey::from(&file)).or_insert_with(|| {
                new.push(number);
                self.files.push(file);
                number
            });
        }
        new
    }
}

/// Returns true where the opener sorts a file's row groups. DataFusion 55.2 tells it only in its plan's text.
fn is_reordered(source: &ParquetSource) -> bool {
    struct Extra<'a>(&'a ParquetSource);
    impl Display for Extra<'_> {
        fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
            self.0.fmt_extra(DisplayFormatType::Default, f)
        }
    }
    let told = Extra(source).to_string();
    ["sort_order_for_reorder=", "reverse_row_groups="].iter().any(|sign| told.contains(sign))
}

/// Lists the scalar subqueries of a predicate that have no value yet.
pub(super) fn pending_subqueries(predicate: Option<&Arc<dyn PhysicalExpr>>) -> Vec<Arc<dyn PhysicalExpr>> {
    let mut pending = Vec::new();
    let visited = predicate.map(|predicate| {
        predicate.apply(|expr| {
            if expr.is::<ScalarSubqueryExpr>() && is_pending(expr) {
                pending.push(Arc::clone(expr));
            }
            Ok(TreeNodeRecursion::Continue)
        })
    });
    debug_assert!(visited.is_none_or(|visited| visited.is_ok()), "a visit that changes nothing cannot fail");
    pending
}

pub(super) fn is_pending(subquery: &Arc<dyn PhysicalExpr>) -> bool {
    subquery.evaluate(&RecordBatch::new_empty(Arc::new(Schema::empty()))).is_err()
}
