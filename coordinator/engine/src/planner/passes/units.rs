//! Pass 7: a scan's files become scan units, each a file or a run of its row groups, weighed by the bytes that the query reads.

use std::collections::{BTreeMap, HashSet};

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfig;
// `parquet` exports another type of this name, which no cache holds.
use datafusion::datasource::physical_plan::parquet::metadata::CachedParquetMetaData;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use fragment_fn::{FileDeletes, is_same_version};
use gust_protocol::LeafId;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};

use crate::tables::facts::FileFacts;

/// Bytes of a partition, in fragments' bytes, for which it has a fragment of its own.
const PINNED_FRAGMENTS: u64 = 4;

/// One data file or a run of its row groups.
#[derive(Debug, Clone)]
pub struct Unit {
    /// File, with its `range` set where it is a run of row groups.
    pub file: PartitionedFile,
    /// Compressed bytes of the projected columns: exact from a footer, else from the manifest, else a share of the size.
    pub weight_bytes: u64,
    /// Number of the scan that reads it, in the plan of its stage.
    pub leaf: LeafId,
}

/// One data file, with the row groups at which it can be cut.
#[derive(Debug, Clone)]
pub struct WeighedFile {
    pub(super) file: PartitionedFile,
    pub(super) row_groups: Vec<RowGroupSpan>,
}

impl WeighedFile {
    /// Sums up the compressed bytes of the projected columns.
    pub(super) fn weight_bytes(&self) -> u64 {
        self.row_groups.iter().map(|group| group.weight_bytes).sum()
    }
}

/// Start and weight of a row group.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowGroupSpan {
    pub(super) start: u64,
    pub(super) weight_bytes: u64,
}

/// Cuts each file into runs of row groups of at least `unit_bytes_min` bytes, which is a function of the bytes of all files.
pub fn units<'a>(
    scan: &FileScanConfig,
    files: impl IntoIterator<Item = &'a PartitionedFile>,
    footers: &FileMetadataCache,
    unit_bytes_min: impl Fn(u64) -> u64,
) -> Vec<Unit> {
    units_of(&weighed(scan, files, footers), unit_bytes_min)
}

/// Weighs the row groups of each file, which are the same for all packings.
pub fn weighed<'a>(
    scan: &FileScanConfig,
    files: impl IntoIterator<Item = &'a PartitionedFile>,
    footers: &FileMetadataCache,
) -> Vec<WeighedFile> {
    let columns = ProjectedColumns::of(scan);
    let weighed = |file| WeighedFile {
        file: with_footer_bytes(file, footers),
        row_groups: in_order(pieces(file, &columns, footers)),
    };
    files.into_iter().map(weighed).collect()
}

/// Returns the most fragments for files whose partitions a query's values fix: one each, and more where the largest has many times
/// the bytes of a fragment. None for other files.
pub fn pinned_fragments_max(files: &[WeighedFile], fragment_bytes: u64) -> Option<usize> {
    let mut weights: BTreeMap<u32, u64> = BTreeMap::new();
    for WeighedFile { file, row_groups } in files {
        let partition = file.extensions.get::<FileFacts>()?.partition?;
        *weights.entry(partition).or_default() += row_groups.iter().map(|group| group.weight_bytes).sum::<u64>();
    }
    let largest = weights.values().max()?;
    let each = largest.div_ceil(fragment_bytes.saturating_mul(PINNED_FRAGMENTS).max(1)).max(1);
    Some(weights.len().saturating_mul(usize::try_from(each).unwrap_or(usize::MAX)))
}

/// Cuts weighed files as [`units`] does.
pub fn units_of(files: &[WeighedFile], unit_bytes_min: impl Fn(u64) -> u64) -> Vec<Unit> {
    let total = files.iter().flat_map(|file| &file.row_groups).map(|group| group.weight_bytes).sum();
    let least = unit_bytes_min(total);
    files.iter().flat_map(|WeighedFile { file, row_groups }| runs(file, row_groups, least)).collect()
}

/// Adds the length of its footer and page index to a file whose footer was read before. The next reader need not guess it.
fn with_footer_bytes(file: &PartitionedFile, footers: &FileMetadataCache) -> PartitionedFile {
    let mut file = file.clone();
    if let Some(footer) = footer(&file, footers) {
        file.metadata_size_hint = footer_bytes(&footer, file.object_meta.size);
    }
    file
}

/// Returns the bytes from the begin of the page index, or the end of the data, to the end of the file. None where they are most of the file.
fn footer_bytes(footer: &ParquetMetaData, size: u64) -> Option<usize> {
    let columns = || footer.row_groups().iter().flat_map(RowGroupMetaData::columns);
    let index = columns().flat_map(|c| [c.column_index_offset(), c.offset_index_offset()]).flatten().min();
    let data_start = |c: &ColumnChunkMetaData| c.dictionary_page_offset().unwrap_or_else(|| c.data_page_offset());
    let data_end = columns().map(|c| data_start(c).saturating_add(c.compressed_size())).max();
    let begin = u64::try_from(index.or(data_end)?).ok()?;
    let bytes = size.checked_sub(begin).filter(|bytes| *bytes <= size / 2)?;
    usize::try_from(bytes).ok()
}

/// Projected columns of a scan, and their part of the table.
pub(in crate::planner) struct ProjectedColumns {
    names: HashSet<String>,
    pub(in crate::planner) ids: Vec<i32>,
    /// Positions among the table's columns.
    pub(in crate::planner) positions: Vec<usize>,
    /// Number of the table's columns.
    pub(in crate::planner) of: usize,
    share: f64,
}

impl ProjectedColumns {
    pub(in crate::planner) fn of(scan: &FileScanConfig) -> Self {
        let fields = scan.file_schema().fields();
        let projection = scan.file_source().projection();
        let projected = projection.map_or_else(|| (0..fields.len()).collect(), |p| p.column_indices());
        let share = projected.len() as f64 / fields.len().max(1) as f64;
        let columns = || projected.iter().filter_map(|index| fields.get(*index));
        Self {
            names: columns().map(|field| field.name().clone()).collect(),
            ids: columns().filter_map(|f| f.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()).collect(),
            of: fields.len(),
            positions: projected,
            share,
        }
    }

    /// Sums up the compressed bytes of the columns in a row group. Top-level columns are matched by name here: a weight may be a little off.
    fn bytes_in(&self, group: &RowGroupMetaData) -> u64 {
        self.chunks(group).map(|column| u64::try_from(column.compressed_size()).unwrap_or_default()).sum()
    }

    pub(in crate::planner) fn chunks<'a>(
        &self,
        group: &'a RowGroupMetaData,
    ) -> impl Iterator<Item = &'a ColumnChunkMetaData> {
        let is_mine =
            move |c: &&ColumnChunkMetaData| c.column_path().parts().first().is_some_and(|c| self.names.contains(c));
        group.columns().iter().filter(is_mine)
    }
}

fn pieces(file: &PartitionedFile, columns: &ProjectedColumns, footers: &FileMetadataCache) -> Vec<RowGroupSpan> {
    if is_deleted(file) {
        return vec![RowGroupSpan { start: 0, weight_bytes: 0 }];
    }
    if let Some(footer) = footer(file, footers) {
        let groups = footer.row_groups().iter();
        return groups
            .map(|group| RowGroupSpan { start: start_of(group), weight_bytes: columns.bytes_in(group) })
            .collect();
    }
    let size = file.object_meta.size;
    let facts = file.extensions.get::<FileFacts>();
    let weight_bytes = match facts {
        Some(facts) if !facts.column_bytes.is_empty() => {
            columns.ids.iter().filter_map(|id| facts.column_bytes.get(id)).sum()
        }
        _ => (size as f64 * columns.share) as u64,
    };
    let starts = facts.map(|facts| facts.split_offsets.as_slice()).unwrap_or_default();
    if starts.len() < 2 {
        return vec![RowGroupSpan { start: 0, weight_bytes }];
    }
    let ends = starts.iter().skip(1).copied().chain([size]);
    let spans: Vec<u64> = starts.iter().zip(ends).map(|(start, end)| end.saturating_sub(*start)).collect();
    let whole: u64 = spans.iter().sum::<u64>().max(1);
    let part = |span: u64| (u128::from(weight_bytes) * u128::from(span) / u128::from(whole)) as u64;
    starts.iter().zip(spans).map(|(start, span)| RowGroupSpan { start: *start, weight_bytes: part(span) }).collect()
}

/// Makes one piece of a file whose row groups do not lie in order: ranges cannot tell them apart.
fn in_order(pieces: Vec<RowGroupSpan>) -> Vec<RowGroupSpan> {
    if pieces.is_sorted_by(|a, b| a.start < b.start) {
        return pieces;
    }
    vec![RowGroupSpan { start: 0, weight_bytes: pieces.iter().map(|piece| piece.weight_bytes).sum() }]
}

/// Returns true for a file of which no row is left, by its table's metadata. Its footer is read, and nothing else.
pub(in crate::planner) fn is_deleted(file: &PartitionedFile) -> bool {
    file.extensions.get::<FileDeletes>().is_some_and(FileDeletes::deletes_all)
}

/// Looks up the footer of exactly this file. None if it was not read before.
pub fn footer(file: &PartitionedFile, footers: &FileMetadataCache) -> Option<std::sync::Arc<ParquetMetaData>> {
    let cached = footers.get(&file.object_meta.location)?;
    if !cached.is_valid_for(&file.object_meta) || !is_same_version(&cached.meta, &file.object_meta) {
        return None;
    }
    Some(cached.file_metadata.as_any().downcast_ref::<CachedParquetMetaData>()?.parquet_metadata().clone())
}

/// Returns the offset at which a row group begins for DataFusion, which compares it to a range; 0 for one without columns.
pub(in crate::planner) fn start_of(group: &RowGroupMetaData) -> u64 {
    let Some(first) = group.columns().first() else { return 0 };
    let offset = first.dictionary_page_offset().unwrap_or_else(|| first.data_page_offset());
    u64::try_from(offset).unwrap_or_default()
}

/// Puts neighbouring row groups together until they weigh enough. A file that is a part of itself stays within that.
pub(super) fn runs(file: &PartitionedFile, pieces: &[RowGroupSpan], unit_bytes_min: u64) -> Vec<Unit> {
    let mut runs: Vec<RowGroupSpan> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some(run) if run.weight_bytes < unit_bytes_min => run.weight_bytes += piece.weight_bytes,
            _ => runs.push(RowGroupSpan { start: piece.start, weight_bytes: piece.weight_bytes }),
        }
    }
    // A light rest joins the run before it.
    if let [.., _, last] = runs.as_slice()
        && last.weight_bytes < unit_bytes_min / 2
        && let Some(rest) = runs.pop()
        && let Some(run) = runs.last_mut()
    {
        run.weight_bytes += rest.weight_bytes;
    }
    let part = file.range.as_ref().map(|part| (part.start.unsigned_abs(), part.end.unsigned_abs()));
    let (begin, end) = part.unwrap_or((0, file.object_meta.size));
    let ends: Vec<u64> = runs.iter().skip(1).map(|run| run.start).chain([end]).collect();
    let whole = runs.len() < 2;
    let unit = |(position, (run, end)): (usize, (RowGroupSpan, u64))| {
        let start = if position == 0 { begin } else { run.start };
        let file = file.clone();
        let range = (i64::try_from(start), i64::try_from(end));
        let file = match range {
            (Ok(start), Ok(end)) if !whole => file.with_range(start, end),
            _ => file,
        };
        Unit { file, weight_bytes: run.weight_bytes, leaf: 0 }
    };
    runs.into_iter().zip(ends).enumerate().map(unit).collect()
}

#[cfg(test)]
mod tests {
    use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
    use datafusion::execution::cache::default_cache::DefaultCache;
    use object_store::path::Path;

    use super::*;
    use crate::planner::passes::samples::{Sample, scan};

    #[test]
    fn partitions_that_a_query_names_are_not_spread() {
        let check = |partitions: &[Option<u32>], weight_bytes: u64, expect: Option<usize>| {
            let file = |partition: &Option<u32>| {
                let mut file = PartitionedFile::new("a.parquet", 1_000);
                file.extensions.insert(FileFacts { partition: *partition, ..FileFacts::default() });
                WeighedFile { file, row_groups: vec![RowGroupSpan { start: 0, weight_bytes }] }
            };
            let files: Vec<_> = partitions.iter().map(file).collect();
            assert_eq!(pinned_fragments_max(&files, 10), expect, "{partitions:?} of {weight_bytes}");
        };
        check(&[], 1, None);
        check(&[Some(3), None], 1, None);
        check(&[Some(3), Some(3), Some(3), Some(3)], 10, Some(1));
        check(&[Some(3), Some(4), Some(3)], 10, Some(2));
        check(&[Some(3), Some(4), Some(3)], 41, Some(6));
    }

    /// A unit's file, range and weight.
    type Cut<'a> = (&'a str, Option<(i64, i64)>, u64);

    /// Checks the units of files of these sizes and row groups' starts.
    #[track_caller]
    fn check(files: &[(u64, &[u64])], unit_bytes_min: u64, expect: &[Cut<'_>]) {
        let file = |(number, (size, starts)): (usize, &(u64, &[u64]))| {
            let mut file = PartitionedFile::new(format!("{number}"), *size);
            file.extensions.insert(FileFacts { split_offsets: starts.to_vec(), ..FileFacts::default() });
            file
        };
        let files: Vec<PartitionedFile> = files.iter().enumerate().map(file).collect();
        let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
        let units = units(&scan(&[]), &files, &footers, |_| unit_bytes_min);
        let range = |unit: &Unit| unit.file.range.as_ref().map(|range| (range.start, range.end));
        let seen = units.iter().map(|unit| (unit.file.object_meta.location.as_ref(), range(unit), unit.weight_bytes));
        assert_eq!(seen.collect::<Vec<_>>(), expect, "{files:?}");
    }

    #[test]
    fn files_are_cut_at_row_groups_into_runs_that_weigh_enough() {
        let four: &[u64] = &[0, 100, 200, 300];
        check(
            &[(400, four)],
            100,
            &[
                ("0", Some((0, 100)), 100),
                ("0", Some((100, 200)), 100),
                ("0", Some((200, 300)), 100),
                ("0", Some((300, 400)), 100),
            ],
        );
        check(&[(400, four)], 150, &[("0", Some((0, 200)), 200), ("0", Some((200, 400)), 200)]);
        check(&[(400, four)], u64::MAX, &[("0", None, 400)]);
        // A light rest joins the run before it.
        check(
            &[(320, four)],
            100,
            &[("0", Some((0, 100)), 100), ("0", Some((100, 200)), 100), ("0", Some((200, 320)), 120)],
        );
        check(&[(90, &[]), (10, &[])], 1, &[("0", None, 90), ("1", None, 10)]);
    }

    #[test]
    fn row_groups_out_of_order_are_one_unit() {
        check(&[(300, &[0, 200, 100])], 1, &[("0", None, 300)]);
    }

    #[tokio::test]
    async fn a_read_footer_weighs_exactly_the_columns_of_the_query() {
        let sample = Sample::new().await;
        sample.context.sql("SELECT sum(a) FROM t").await.expect("SQL").collect().await.expect("rows");
        let footers = sample.context.runtime_env().cache_manager.get_file_metadata_cache();
        let mut weights = Vec::new();
        for columns in ["a", "b", "a, b"] {
            let plan = sample.plan(&format!("SELECT {columns} FROM t")).await;
            let scan = gust_protocol::plan::scans(&plan).remove(0);
            let files: Vec<PartitionedFile> = scan.file_groups.iter().flat_map(|group| group.iter().cloned()).collect();
            let units = units(&scan, &files, footers.as_ref(), |_| 1);
            let chunks = |file: &PartitionedFile| {
                let footer = footer(file, footers.as_ref()).expect("it was read");
                let columns = ProjectedColumns::of(&scan);
                footer.row_groups().iter().map(|group| columns.bytes_in(group)).sum::<u64>()
            };
            assert_eq!(
                units.iter().map(|unit| unit.weight_bytes).collect::<Vec<_>>(),
                files.iter().map(chunks).collect::<Vec<_>>()
            );
            weights.push(units.iter().map(|unit| unit.weight_bytes).sum::<u64>());
        }
        assert_eq!(weights[0] + weights[1], weights[2]);
        assert!(weights[0] > weights[1], "{weights:?}");
    }
}
