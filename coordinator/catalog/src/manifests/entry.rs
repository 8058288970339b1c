//! Live entries of a manifest, packed.

use std::ops::Range;
use std::sync::Arc;

use crate::manifests::value::PartitionValue;
use crate::metadata::SpecPart;

/// Metric or number that the writer did not record.
pub(crate) const ABSENT: u64 = u64::MAX;

/// Decoded manifest. The parts of an entry lie in its vectors.
#[derive(Debug, Default)]
pub(crate) struct DecodedManifest {
    /// The spec's id and fields, as the manifest's header says them.
    pub(crate) spec_id: Option<i32>,
    pub(crate) spec: Option<Vec<SpecPart>>,
    /// Ids of the fields of its partition values, in their order.
    pub(crate) partition_ids: Vec<Option<i64>>,
    /// Ids of the columns whose metrics are kept, ascending.
    pub(crate) keep: Arc<[i32]>,
    pub(crate) entries: Vec<Entry>,
    pub(super) folders: Vec<Arc<str>>,
    pub(super) tuples: Vec<Box<[Option<PartitionValue>]>>,
    pub(super) metrics: Vec<Metrics>,
    pub(super) column_bytes: Vec<ColumnBytes>,
    pub(super) split_offsets: Vec<u64>,
    /// Names, bounds.
    pub(super) heap: Vec<u8>,
}

/// Place in one of the vectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

/// Place of bytes that are not there.
pub(super) const NOWHERE: Span = Span { start: u32::MAX, end: u32::MAX };

impl Span {
    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Data,
    PositionDeletes,
    EqualityDeletes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Parquet,
    Puffin,
    Avro,
    Orc,
    Other,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Format::Parquet => "parquet",
            Format::Puffin => "puffin",
            Format::Avro => "avro",
            Format::Orc => "orc",
            Format::Other => "other than Parquet",
        })
    }
}

/// Live entry of a manifest.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Position among all entries of the manifest, from 0.
    pub(crate) number: u64,
    pub(crate) is_added: bool,
    pub(crate) sequence_number: Option<i64>,
    pub(crate) content: Content,
    pub(crate) format: Format,
    pub(crate) is_encrypted: bool,
    pub(crate) record_count: u64,
    pub(crate) size_bytes: u64,
    /// Position of its partition values.
    pub(crate) tuple: u32,
    pub(super) folder: u32,
    pub(super) name: Span,
    pub(super) metrics: Span,
    pub(super) column_bytes: Span,
    pub(super) split_offsets: Span,
    /// Facts that only delete files have.
    pub(crate) delete: Option<Box<DeleteParts>>,
}

/// Parts of an entry of a delete file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeleteParts {
    /// The one data file that it is for.
    pub(crate) data_file: Option<Box<str>>,
    /// Place of a vector in its file.
    pub(crate) offset: Option<u64>,
    pub(crate) bytes: Option<u64>,
    /// Columns that an equality delete compares.
    pub(crate) equality_ids: Box<[i32]>,
}

/// Metrics of one column in a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metrics {
    pub(crate) id: i32,
    pub(crate) values: u64,
    pub(crate) nulls: u64,
    pub(crate) nans: u64,
    pub(super) lower: Span,
    pub(super) upper: Span,
}

impl Metrics {
    pub(super) fn none(id: i32) -> Self {
        Metrics { id, values: ABSENT, nulls: ABSENT, nans: ABSENT, lower: NOWHERE, upper: NOWHERE }
    }

    pub(super) fn is_none(&self) -> bool {
        let counts = [self.values, self.nulls, self.nans];
        counts == [ABSENT; 3] && self.lower == NOWHERE && self.upper == NOWHERE
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ColumnBytes {
    pub(crate) id: i32,
    pub(crate) bytes: u64,
}

/// Sums the bytes of neighbours that are not kept, under the id of the first: where the kept columns lie in a file depends on
/// them, but a table may have thousands. `columns` ascend by id.
pub(super) fn summed(columns: &[ColumnBytes], is_kept: impl Fn(i32) -> bool) -> impl Iterator<Item = ColumnBytes> {
    let runs = columns.chunk_by(move |a, b| !is_kept(a.id) && !is_kept(b.id));
    runs.filter_map(|run| {
        let bytes = run.iter().fold(0_u64, |sum, column| sum.saturating_add(column.bytes));
        Some(ColumnBytes { id: run.first()?.id, bytes })
    })
}

impl DecodedManifest {
    pub(crate) fn folder(&self, entry: &Entry) -> Arc<str> {
        self.folders.get(entry.folder as usize).map(Arc::clone).unwrap_or_default()
    }

    pub(crate) fn name(&self, entry: &Entry) -> &str {
        // The decoder has seen that it is text, and put it there.
        std::str::from_utf8(self.bytes(entry.name).unwrap_or_default()).unwrap_or_default()
    }

    /// Returns the whole path, for messages.
    pub(crate) fn path(&self, entry: &Entry) -> String {
        format!("{}{}", self.folder(entry), self.name(entry))
    }

    /// Returns partition values by their positions in the file's schema.
    pub(crate) fn tuple(&self, tuple: u32) -> &[Option<PartitionValue>] {
        self.tuples.get(tuple as usize).map_or(&[], |values| values)
    }

    pub(crate) fn tuples(&self) -> usize {
        self.tuples.len()
    }

    pub(crate) fn metrics(&self, entry: &Entry) -> &[Metrics] {
        self.metrics.get(entry.metrics.range()).unwrap_or_default()
    }

    pub(crate) fn lower(&self, metrics: &Metrics) -> Option<&[u8]> {
        self.bytes(metrics.lower)
    }

    pub(crate) fn upper(&self, metrics: &Metrics) -> Option<&[u8]> {
        self.bytes(metrics.upper)
    }

    /// Returns the bytes of columns, ascending by id. Neighbours that are not kept are summed.
    pub(crate) fn column_bytes(&self, entry: &Entry) -> &[ColumnBytes] {
        self.column_bytes.get(entry.column_bytes.range()).unwrap_or_default()
    }

    pub(crate) fn split_offsets(&self, entry: &Entry) -> &[u64] {
        self.split_offsets.get(entry.split_offsets.range()).unwrap_or_default()
    }

    fn bytes(&self, span: Span) -> Option<&[u8]> {
        self.heap.get(span.range())
    }

    /// Returns the memory that it holds, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        fn of<T>(items: &Vec<T>) -> usize {
            items.capacity() * size_of::<T>()
        }
        let folders: usize = self.folders.iter().map(|folder| folder.len()).sum();
        let tuple = |values: &[Option<PartitionValue>]| -> usize {
            let bytes = |value: &Option<PartitionValue>| match value {
                Some(PartitionValue::Bytes(bytes)) => bytes.len(),
                _ => 0,
            };
            values.iter().map(|value| size_of_val(value) + bytes(value)).sum()
        };
        let tuples: usize = self.tuples.iter().map(|values| tuple(values)).sum();
        let deletes = self.entries.iter().filter_map(|entry| entry.delete.as_ref());
        let delete = |parts: &DeleteParts| {
            size_of_val(parts) + parts.data_file.as_ref().map_or(0, |path| path.len()) + 4 * parts.equality_ids.len()
        };
        let deletes: usize = deletes.map(|parts| delete(parts)).sum();
        size_of::<Self>()
            + deletes
            + of(&self.entries)
            + of(&self.folders)
            + folders
            + of(&self.tuples)
            + tuples
            + of(&self.metrics)
            + of(&self.column_bytes)
            + of(&self.split_offsets)
            + self.heap.capacity()
    }

    /// Gives back the room that growing left.
    pub(super) fn shrink(&mut self) {
        self.entries.shrink_to_fit();
        self.tuples.shrink_to_fit();
        self.metrics.shrink_to_fit();
        self.column_bytes.shrink_to_fit();
        self.split_offsets.shrink_to_fit();
        self.heap.shrink_to_fit();
    }
}
