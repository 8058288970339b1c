//! What a scan asks of a table's metadata, and the files that it gets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::predicate::Predicate;
use crate::prune::PruneReason;
use crate::scalar::Scalar;
use crate::types::{Transform, Type};

/// Most partitions that are named to a person.
const PARTITIONS_NAMED_MAX: usize = 8;

/// Next step for deletes that cannot be applied.
pub(crate) const COMPACT: &str = "compact the table so that its data files are rewritten without deleted rows";

/// Question of a scan to its table.
#[derive(Debug, Clone, Copy)]
pub struct ScanRequest<'a> {
    pub predicate: &'a Predicate,
    /// Ids of the fields whose counts and bounds are wanted: `Table::leaf_ids` gives those of a column.
    pub columns: &'a BTreeSet<i32>,
    /// Ids of the fields that scans of the statement which are planned elsewhere ask for. Manifests are decoded for both together.
    pub also: &'a BTreeSet<i32>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct FilePlan {
    /// Files to read, in the order of the manifests.
    pub files: Vec<ScanFile>,
    /// Delete files that apply to one of the files at least.
    pub deletes: Vec<DeleteFile>,
    /// Sets of delete files that apply to the same data files, each once.
    pub delete_sets: Vec<DeleteSet>,
    pub route: Route,
    /// Values of the partitions of [`Self::route`], in its order.
    pub parted_by: Vec<Box<[PartedBy]>>,
    pub pruning: Pruning,
}

/// Partitions that the files of a plan lie in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// True where the predicate gives the values of every partition field, of all specs that the files have.
    pub is_pinned: bool,
    pub partitions: Vec<PartitionHit>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionHit {
    pub spec_id: i32,
    /// Values by the fields' names, `region=eu, id_bucket=3`. Empty for files that no field parts.
    pub text: String,
    pub files: u64,
}

/// Value of a partition field: all rows of the partition's files have it in the column, transformed. Fields of other transforms, and values that
/// cannot be read, are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct PartedBy {
    /// Id of the column.
    pub source_id: i32,
    /// Identity, bucket or truncate.
    pub transform: Transform,
    /// Type of the column.
    pub source_type: Type,
    /// `None` is NULL.
    pub value: Option<Scalar>,
}

/// Delete file that applies to files of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct DeleteFile {
    pub path: FilePath,
    pub size_bytes: u64,
    /// Rows of the file; bits of a vector.
    pub record_count: u64,
    pub content: DeleteContent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteContent {
    /// Paths of data files and positions of their rows.
    Positions,
    /// Bitmap of one data file's rows, at these bytes of the file.
    Vector { offset: u64, bytes: u64 },
    /// Values of these columns. Rows with them are deleted from the files that name the scope and have a smaller number.
    Equality { ids: Box<[i32]>, scope: u32, sequence_number: i64 },
}

/// Deletes of a data file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileDeletes {
    /// Position of its vector in `FilePlan::deletes`.
    pub vector: Option<u32>,
    /// Position of its other deletes in `FilePlan::delete_sets`.
    pub set: Option<u32>,
}

/// Deletes that data files share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct DeleteSet {
    /// Positions of position delete files in `FilePlan::deletes`, ascending.
    pub positions: Box<[u32]>,
    /// Scopes of equality deletes, of which those with a number above the file's apply.
    pub equality: Box<[u32]>,
}

impl DeleteFile {
    /// Lists the fields that an equality delete compares.
    pub fn equality_ids(&self) -> &[i32] {
        match &self.content {
            DeleteContent::Equality { ids, .. } => ids,
            DeleteContent::Positions | DeleteContent::Vector { .. } => &[],
        }
    }
}

impl FilePlan {
    /// Returns the memory that it holds, in bytes, about.
    pub fn held_bytes(&self) -> usize {
        let column = |facts: &ColumnFacts| {
            let bounds = [&facts.lower, &facts.upper].into_iter().flatten();
            size_of::<ColumnFacts>() + bounds.map(Scalar::heap_bytes).sum::<usize>()
        };
        let file = |file: &ScanFile| {
            size_of::<ScanFile>()
                + file.path.name.len()
                + size_of_val(&*file.split_offsets)
                + size_of_val(&*file.column_bytes)
                + file.columns.iter().map(column).sum::<usize>()
        };
        let delete =
            |file: &DeleteFile| size_of::<DeleteFile>() + file.path.name.len() + size_of_val(file.equality_ids());
        let set = |set: &DeleteSet| size_of_val(&*set.positions) + size_of_val(&*set.equality);
        let partition = |hit: &PartitionHit| size_of::<PartitionHit>() + hit.text.len();
        let value = |value: &PartedBy| size_of::<PartedBy>() + value.value.as_ref().map_or(0, Scalar::heap_bytes);
        self.files.iter().map(file).sum::<usize>()
            + self.deletes.iter().map(delete).sum::<usize>()
            + self.delete_sets.iter().map(set).sum::<usize>()
            + self.route.partitions.iter().map(partition).sum::<usize>()
            + self.parted_by.iter().flatten().map(value).sum::<usize>()
    }

    /// Names the partitions that were hit.
    pub(crate) fn name_partitions(&mut self) {
        if self.route.is_pinned {
            let hits = &self.route.partitions;
            self.pruning.partitions_hit = hits.len() as u64;
            self.pruning.partitions = hits.iter().take(PARTITIONS_NAMED_MAX).cloned().collect();
        }
    }

    /// Counts the delete files.
    pub(crate) fn count_deletes(&mut self) {
        for file in &self.deletes {
            let deletes = &mut self.pruning.deletes;
            let (count, bytes) = match file.content {
                DeleteContent::Positions => (&mut deletes.positions, file.size_bytes),
                DeleteContent::Vector { bytes, .. } => (&mut deletes.vectors, bytes),
                DeleteContent::Equality { .. } => (&mut deletes.equality, file.size_bytes),
            };
            *count += 1;
            deletes.bytes = deletes.bytes.saturating_add(bytes);
        }
    }
}

impl FileDeletes {
    pub fn is_empty(&self) -> bool {
        self.vector.is_none() && self.set.is_none()
    }
}

impl DeleteSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.positions.is_empty() && self.equality.is_empty()
    }
}

/// Data file that a scan has to read.
#[derive(Debug, Clone, PartialEq)]
pub struct ScanFile {
    pub path: FilePath,
    pub size_bytes: u64,
    pub record_count: u64,
    /// Number of the commit that its rows belong to.
    pub sequence_number: i64,
    /// Position in `Route::partitions`.
    pub partition: u32,
    /// Values that all rows share in the identity partition columns of the file's own spec, without NULLs. Files that were
    /// imported may hold these columns nowhere else.
    pub identity_values: Arc<[IdentityValue]>,
    /// Offsets at which row groups start, ascending. Empty when unknown.
    pub split_offsets: Box<[u64]>,
    /// Bytes on disk of the columns that were asked for, as the writer recorded them, ascending by id. Others are summed with
    /// their neighbours, under the id of the first.
    pub column_bytes: Box<[(i32, u64)]>,
    /// Metrics of the columns that were asked for, ascending by id. A column without any is absent.
    pub columns: Box<[ColumnFacts]>,
    pub deletes: FileDeletes,
}

impl ScanFile {
    /// Drops the metrics of other columns.
    pub(crate) fn keep_columns(&mut self, ids: &BTreeSet<i32>) {
        self.columns = self.columns.iter().filter(|column| ids.contains(&column.id)).cloned().collect();
    }

    /// Returns the metrics of a column.
    pub fn column(&self, id: i32) -> Option<&ColumnFacts> {
        let found = self.columns.binary_search_by_key(&id, |column| column.id).ok()?;
        self.columns.get(found)
    }
}

/// Path of a file as its manifest spells it, absolute: for `Location::parse`. Files of one folder share its text.
#[derive(Debug, Clone)]
pub struct FilePath {
    pub(crate) folder: Arc<str>,
    pub(crate) name: Box<str>,
}

impl PartialEq for FilePath {
    fn eq(&self, other: &Self) -> bool {
        let parts = |path: &FilePath| path.folder.len() + path.name.len();
        parts(self) == parts(other) && self.bytes().eq(other.bytes())
    }
}

impl FilePath {
    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.folder.bytes().chain(self.name.bytes())
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.folder, self.name)
    }
}

/// Metrics of a column in a file. What the writer did not record is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ColumnFacts {
    pub id: i32,
    /// Count of values, NULL and NaN included.
    pub values: Option<u64>,
    pub nulls: Option<u64>,
    pub nans: Option<u64>,
    /// Lower bound of the values that are neither NULL nor NaN. A bound may be cut.
    pub lower: Option<Scalar>,
    /// Upper bound of the same values.
    pub upper: Option<Scalar>,
}

/// Savings by metadata. Only live data files are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruning {
    pub manifests_total: u64,
    pub manifests_read: u64,
    pub files_total: u64,
    pub files_kept: u64,
    /// Bytes of all files. `None` where unread manifests hide them and the snapshot's summary does not tell.
    pub bytes_total: Option<u64>,
    pub bytes_kept: u64,
    /// Partitions that the files lie in, where the predicate gives the values of all of their fields: the first
    /// [`PARTITIONS_NAMED_MAX`] of `partitions_hit`.
    #[serde(default)]
    pub partitions: Vec<PartitionHit>,
    #[serde(default)]
    pub partitions_hit: u64,
    /// One entry a reason, in the order of first use. A file counts for the first reason that excluded it.
    pub by_reason: Vec<Pruned>,
    #[serde(default)]
    pub deletes: DeleteCounts,
}

/// Delete files that apply to a plan's data files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteCounts {
    pub vectors: u64,
    pub positions: u64,
    pub equality: u64,
    /// Bytes of them: of vectors those of the bitmaps alone.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    pub reason: PruneReason,
    /// Whole manifests that were not read. Their files are among `files`.
    pub manifests: u64,
    pub files: u64,
    /// Bytes of the files. `None` where unread manifests hide them.
    pub bytes: Option<u64>,
}

impl Pruning {
    /// Books a file that a reason excludes.
    pub(crate) fn book_file(&mut self, reason: &PruneReason, bytes: u64) {
        match self.by_reason.iter_mut().find(|known| known.reason == *reason) {
            Some(known) => {
                known.files += 1;
                known.bytes = known.bytes.map(|held| held.saturating_add(bytes));
            }
            None => {
                self.by_reason.push(Pruned { reason: reason.clone(), manifests: 0, files: 1, bytes: Some(bytes) });
            }
        }
    }

    pub(crate) fn book(&mut self, pruned: Pruned) {
        let known = self.by_reason.iter_mut().find(|known| known.reason == pruned.reason);
        match known {
            Some(known) => {
                known.manifests += pruned.manifests;
                known.files = known.files.saturating_add(pruned.files);
                known.bytes = known.bytes.zip(pruned.bytes).map(|(a, b)| a.saturating_add(b));
            }
            None => self.by_reason.push(pruned),
        }
    }

    /// Sets the bytes of all files, and with them the bytes of a reason that alone hides some.
    pub(crate) fn set_bytes_total(&mut self, summary_bytes: Option<u64>) {
        let pruned = self.by_reason.iter().filter_map(|pruned| pruned.bytes);
        let known = pruned.fold(self.bytes_kept, u64::saturating_add);
        let mut hiding = self.by_reason.iter_mut().filter(|p| p.bytes.is_none());
        let first = hiding.next();
        self.bytes_total = match first {
            None => Some(known),
            Some(_) => summary_bytes.filter(|bytes| *bytes >= known),
        };
        if let (Some(only), None) = (first, hiding.next()) {
            only.bytes = self.bytes_total.map(|total| total - known);
        }
    }
}

/// A data file to append. Maps are by field id, nested fields included. Counts count values; sizes are bytes on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// Path of the file, absolute.
    pub path: String,
    pub size_bytes: u64,
    pub record_count: u64,
    pub column_sizes: BTreeMap<i32, u64>,
    /// Counts of values, NULL and NaN included.
    pub value_counts: BTreeMap<i32, u64>,
    pub null_counts: BTreeMap<i32, u64>,
    pub nan_counts: BTreeMap<i32, u64>,
    /// Lower bounds of the values that are neither NULL nor NaN. A bound may be truncated.
    pub lower_bounds: BTreeMap<i32, Scalar>,
    /// Upper bounds of the same values.
    pub upper_bounds: BTreeMap<i32, Scalar>,
    /// Values of all partition fields.
    pub partition: Vec<PartitionValue>,
    /// Offsets at which row groups start, ascending. Empty when unknown.
    pub split_offsets: Vec<u64>,
}

/// Value of a partition field in a data file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartitionValue {
    /// Name of the field in its spec.
    pub name: String,
    /// `None` is NULL.
    pub value: Option<Scalar>,
}

/// Value that all rows of a data file share in a column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdentityValue {
    pub field_id: i32,
    /// `None` is a value that cannot be read.
    pub value: Option<Scalar>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_total_is_known_or_none() {
        let check = |by_reason: &[Option<u64>], summary, expect_total, expect: &[Option<u64>]| {
            let mut pruning = Pruning { bytes_kept: 10, ..Pruning::default() };
            for (i, bytes) in by_reason.iter().enumerate() {
                pruning.book(Pruned {
                    reason: PruneReason::Column(i.to_string()),
                    manifests: u64::from(bytes.is_none()),
                    files: 1,
                    bytes: *bytes,
                });
            }
            pruning.set_bytes_total(summary);
            let bytes: Vec<_> = pruning.by_reason.iter().map(|p| p.bytes).collect();
            assert_eq!((pruning.bytes_total, &bytes[..]), (expect_total, expect), "{by_reason:?}");
        };
        check(&[], None, Some(10), &[]);
        check(&[Some(5)], Some(99), Some(15), &[Some(5)]);
        check(&[Some(5), None], Some(99), Some(99), &[Some(5), Some(84)]);
        check(&[Some(5), None], None, None, &[Some(5), None]);
        check(&[None, None], Some(99), Some(99), &[None, None]);
        // This summary cannot be right.
        check(&[Some(5), None], Some(14), None, &[Some(5), None]);
    }
}
