//! Requests to storage, and their bytes, that scan units take, as far as metadata tells. Pure, and no pass: for estimates only.
//!
//! It mirrors the reads of fragments (`fragment-fn/src/{scan,footer,pinned}.rs` and DataFusion's opener). A file's end comes once, with its
//! footer, unless it was kept or travels with the fragment. Then come each row group's projected columns, neighbours with one request. Bytes that the file's end has brought
//! along are not asked for again. Row groups and pages that their own statistics will rule out count as read: only the reader sees these
//! statistics.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use fragment_fn::{BRIDGE_BYTES, WHOLE_FILE_BYTES_MAX, footer_guess};
use object_store::ObjectMeta;
use object_store::path::Path;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};

use crate::model::load::Reads;
use crate::planner::passes::units::{ProjectedColumns, Unit, footer, start_of};
use crate::planner::shipped::{group_bytes, staying, travels};
use crate::tables::facts::{FileFacts, store_of};

/// Reader of a file.
#[derive(Clone, Copy)]
pub enum Reader<'a> {
    /// A function whose environment has kept the footers of some files.
    Function(&'a dyn Fn(&ObjectMeta) -> bool),
    /// The coordinator, in the same way; its session keeps footers of bare Parquet.
    Coordinator,
}

/// Files of one scan, each looked up once for all of the scan's fragments.
pub struct ScannedFiles<'a> {
    columns: ProjectedColumns,
    is_remote: bool,
    footers: &'a FileMetadataCache,
    by_place: HashMap<(u16, Path), ScannedFile>,
}

struct ScannedFile {
    is_footer_known: bool,
    layout: Layout,
}

impl<'a> ScannedFiles<'a> {
    pub fn of(scan: &FileScanConfig, footers: &'a FileMetadataCache) -> Self {
        let is_remote = !scan.object_store_url.as_str().starts_with("file:");
        Self { columns: ProjectedColumns::of(scan), is_remote, footers, by_place: HashMap::new() }
    }

    /// Counts what one attempt, or the coordinator, asks for to read these units of the scan, without their deletes.
    pub fn reads<'u>(&mut self, units: impl IntoIterator<Item = &'u Unit>, reader: Reader<'_>) -> Reads {
        let units: Vec<&Unit> = units.into_iter().collect();
        let mut by_file: BTreeMap<(u16, &str), Vec<&PartitionedFile>> = BTreeMap::new();
        let files: Vec<&PartitionedFile> = units.iter().map(|unit| &unit.file).collect();
        for file in &files {
            by_file.entry((store_of(file), file.object_meta.location.as_ref())).or_default().push(file);
        }
        let lengths: Vec<usize> = match reader {
            Reader::Function(_) => files.iter().map(|file| self.file(file).footer_bytes(file)).collect(),
            Reader::Coordinator => Vec::new(),
        };
        let place = |file: &'u PartitionedFile| (store_of(file), &file.object_meta.location);
        let staying: BTreeSet<(u16, &Path)> = staying(&lengths).into_iter().map(|unit| place(files[unit])).collect();
        let of_file = |files: &Vec<&PartitionedFile>| match files.as_slice() {
            [file, ..] => {
                let ScannedFile { is_footer_known, layout } = self.file(file);
                let is_at_hand = match reader {
                    Reader::Coordinator => *is_footer_known,
                    Reader::Function(_) => {
                        *is_footer_known && !staying.contains(&(store_of(file), &file.object_meta.location))
                    }
                };
                let end = FileEnd::of(file, is_at_hand, reader);
                files.iter().map(|unit| layout.reads(unit, end.start)).sum::<Reads>()
                    + Reads { guessed_files: layout.is_guessed.into(), ..end.reads }
            }
            [] => Reads::default(),
        };
        let reads = by_file.values().map(of_file).sum::<Reads>();
        Reads { is_remote: self.is_remote, ..reads }
    }

    fn file(&mut self, file: &PartitionedFile) -> &ScannedFile {
        let Self { columns, footers, by_place, .. } = self;
        by_place.entry((store_of(file), file.object_meta.location.clone())).or_insert_with(|| {
            let known = footer(file, *footers);
            ScannedFile { is_footer_known: known.is_some(), layout: Layout::of(file, known.as_deref(), columns) }
        })
    }
}

impl ScannedFile {
    /// Returns about the length of a unit's footer, if it travels.
    fn footer_bytes(&self, unit: &PartitionedFile) -> usize {
        match self.is_footer_known && travels(unit) {
            true => self.layout.of_unit(unit).map(|group| group.footer_bytes).sum(),
            false => 0,
        }
    }
}

/// The part of a file that is read with its footer and kept.
struct FileEnd {
    reads: Reads,
    start: u64,
}

impl FileEnd {
    /// `is_at_hand` is true if the session has the footer, and if it travels to a function.
    fn of(file: &PartitionedFile, is_at_hand: bool, reader: Reader<'_>) -> Self {
        let size = file.object_meta.size;
        // The session keeps footers of bare Parquet, not the bytes beside them, and none of Iceberg's.
        let is_bare = file.extensions.get::<FileFacts>().is_none();
        match reader {
            Reader::Coordinator if is_bare && is_at_hand => Self { reads: Reads::default(), start: size },
            Reader::Function(keeps) if keeps(&file.object_meta) || (is_at_hand && travels(file)) => {
                Self { reads: Reads::default(), start: size }
            }
            Reader::Coordinator | Reader::Function(_) => {
                let is_small = size <= WHOLE_FILE_BYTES_MAX;
                let known = file.metadata_size_hint.map(|bytes| bytes as u64).filter(|_| !is_small);
                let bytes = size.min(known.unwrap_or(footer_guess(size)));
                let footers_max = if is_small || known.is_some() { 1 } else { 2 };
                Self { reads: Reads { footers: 1, footers_max, bytes, ..Reads::default() }, start: size - bytes }
            }
        }
    }
}

/// Places of the projected columns in a file's row groups.
struct Layout {
    row_groups: Vec<RowGroupLayout>,
    /// True if they lie in the order of their starts.
    is_in_order: bool,
    /// True if it is the footer's.
    is_exact: bool,
    is_guessed: bool,
}

/// Offset at which a row group begins, and the ranges of its projected chunks.
struct RowGroupLayout {
    start: u64,
    chunks: Vec<Range<u64>>,
    /// End of the last chunk.
    end: u64,
    /// About its length in a footer that travels.
    footer_bytes: usize,
    /// Requests for all chunks. Most often nothing of them is in memory.
    whole: Reads,
}

/// Bytes of one column of a file, in all of its row groups.
struct ColumnWidth {
    is_projected: bool,
    bytes: u64,
}

/// Requests for chunks of a row group, neighbours together.
struct Runs {
    count: u64,
    /// With the bytes between neighbours.
    bytes: u64,
}

impl Layout {
    fn of(file: &PartitionedFile, footer: Option<&ParquetMetaData>, columns: &ProjectedColumns) -> Self {
        if let Some(footer) = footer {
            let chunks = |group| columns.chunks(group).map(|chunk| chunk.byte_range());
            let ranges = |group| chunks(group).map(|(start, bytes)| start..start + bytes).collect();
            let pages = |group: &RowGroupMetaData| match footer.offset_index() {
                // Most writers end a page after 20,000 rows at the latest.
                Some(_) => usize::try_from(group.num_rows() / 20_000).unwrap_or_default() + 1,
                None => 0,
            };
            let layout = |group| {
                let layout = RowGroupLayout::of(start_of(group), ranges(group), true);
                let footer_bytes = group_bytes(layout.chunks.len(), pages(group));
                RowGroupLayout { footer_bytes, ..layout }
            };
            return Self::of_row_groups(footer.row_groups().iter().map(layout).collect(), true, false);
        }
        let size = file.object_meta.size;
        let none = FileFacts::default();
        let FileFacts { column_bytes, split_offsets, .. } = file.extensions.get::<FileFacts>().unwrap_or(&none);
        let is_guessed = column_bytes.is_empty();
        // Writers put columns one after the other, in the order of their ids.
        let widths: Vec<ColumnWidth> = if is_guessed {
            let equal = |position| ColumnWidth { is_projected: columns.positions.contains(&position), bytes: 1 };
            (0..columns.of).map(equal).collect()
        } else {
            let known =
                |(id, bytes): (&i32, &u64)| ColumnWidth { is_projected: columns.ids.contains(id), bytes: *bytes };
            column_bytes.iter().map(known).collect()
        };
        let starts: &[u64] = if split_offsets.is_empty() { &[0] } else { split_offsets };
        let ends = starts.iter().skip(1).copied().chain([size]);
        let layout = |(start, end): (&u64, u64)| RowGroupLayout::of(*start, placed(&widths, *start..end), false);
        Self::of_row_groups(starts.iter().zip(ends).map(layout).collect(), false, is_guessed)
    }

    fn of_row_groups(row_groups: Vec<RowGroupLayout>, is_exact: bool, is_guessed: bool) -> Self {
        Self { is_in_order: row_groups.is_sorted_by_key(|group| group.start), row_groups, is_exact, is_guessed }
    }

    /// Counts the requests for the row groups of a unit, before the offset `end`: from there on the file is in memory.
    fn reads(&self, unit: &PartitionedFile, end: u64) -> Reads {
        self.of_unit(unit).map(|group| group.reads(end, self.is_exact)).sum()
    }

    /// Lists the row groups of a unit.
    fn of_unit(&self, unit: &PartitionedFile) -> impl Iterator<Item = &RowGroupLayout> {
        let start = |group: &RowGroupLayout| i64::try_from(group.start).unwrap_or(i64::MAX);
        let range = unit.range.as_ref().map(|range| range.start..range.end);
        let near = match &range {
            Some(range) if self.is_in_order => {
                let before = |offset| self.row_groups.partition_point(|group| start(group) < offset);
                self.row_groups.get(before(range.start)..before(range.end)).unwrap_or_default()
            }
            _ => &self.row_groups[..],
        };
        near.iter().filter(move |group| range.as_ref().is_none_or(|range| range.contains(&start(group))))
    }
}

impl RowGroupLayout {
    fn of(start: u64, chunks: Vec<Range<u64>>, is_exact: bool) -> Self {
        let end = chunks.iter().map(|chunk| chunk.end).max().unwrap_or_default();
        Self { start, end, whole: requests(&chunks, is_exact), chunks, footer_bytes: 0 }
    }

    /// Counts the requests for its chunks before the offset `end`.
    fn reads(&self, end: u64, is_exact: bool) -> Reads {
        if self.end < end {
            return self.whole;
        }
        let missing = self.chunks.iter().filter(|chunk| chunk.start < end);
        requests(&missing.map(|chunk| chunk.start..chunk.end.min(end)).collect::<Vec<_>>(), is_exact)
    }
}

/// Counts the requests for chunks of one row group.
fn requests(chunks: &[Range<u64>], is_exact: bool) -> Reads {
    let Runs { count: runs, bytes } = coalesced(chunks);
    let runs_max = if is_exact { runs } else { chunks.len() as u64 };
    Reads { row_groups: (runs > 0).into(), runs, runs_max, bytes, ..Reads::default() }
}

/// Lays projected columns of these widths over a row group's span, in proportion.
fn placed(widths: &[ColumnWidth], span: Range<u64>) -> Vec<Range<u64>> {
    let whole = widths.iter().map(|width| u128::from(width.bytes)).sum::<u128>().max(1);
    let length = u128::from(span.end.saturating_sub(span.start));
    let (mut before, mut placed) = (0_u128, Vec::new());
    for ColumnWidth { is_projected, bytes } in widths {
        let at = |width: u128| span.start + (length * width / whole) as u64;
        let chunk = at(before)..at(before + u128::from(*bytes));
        before += u128::from(*bytes);
        if *is_projected && !chunk.is_empty() {
            placed.push(chunk);
        }
    }
    placed
}

/// Puts neighbouring ranges together as the readers do.
fn coalesced(ranges: &[Range<u64>]) -> Runs {
    let mut order: Vec<&Range<u64>> = ranges.iter().collect();
    order.sort_by_key(|range| range.start);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for range in order {
        match runs.last_mut() {
            Some(run) if range.start.saturating_sub(run.end) <= BRIDGE_BYTES => run.end = run.end.max(range.end),
            _ => runs.push(range.clone()),
        }
    }
    Runs { count: runs.len() as u64, bytes: runs.iter().map(|run| run.end - run.start).sum() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::physical_plan::{FileScanConfigBuilder, ParquetSource};
    use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
    use datafusion::execution::cache::default_cache::DefaultCache;
    use datafusion::execution::object_store::ObjectStoreUrl;
    use gust_protocol::ColumnMatching;
    use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

    use crate::planner::shipped::{footers, needed_columns, tests as shipped};

    const MIB: u64 = 1 << 20;

    const COLD: Reader<'_> = Reader::Function(&|_| false);
    const WARM: Reader<'_> = Reader::Function(&|_| true);

    /// A scan of `projected` columns among four with the ids 1 to 4.
    fn scan(store: ObjectStoreUrl, projected: &[usize]) -> FileScanConfig {
        let field = |id: i32| {
            let metadata = [(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())].into();
            Field::new(format!("c{id}"), DataType::Int64, true).with_metadata(metadata)
        };
        let schema = Arc::new(Schema::new((1..=4).map(field).collect::<Vec<_>>()));
        FileScanConfigBuilder::new(store, Arc::new(ParquetSource::new(schema)))
            .with_projection_indices(Some(projected.to_vec()))
            .expect("columns of the table")
            .build()
    }

    fn file(size: u64, facts: Option<FileFacts>) -> PartitionedFile {
        let mut file = PartitionedFile::new("t/a.parquet", size);
        if let Some(facts) = facts {
            file.extensions.insert(facts);
        }
        file
    }

    fn facts(column_mib: [u64; 4], split_mib: &[u64]) -> Option<FileFacts> {
        let column_bytes = (1..).zip(column_mib).map(|(id, mib)| (id, mib * MIB)).collect();
        let split_offsets = split_mib.iter().map(|mib| mib * MIB).collect();
        Some(FileFacts { column_bytes, split_offsets, ..FileFacts::default() })
    }

    #[track_caller]
    fn check(reader: Reader<'_>, projected: &[usize], units: Vec<PartitionedFile>, expect: Reads) {
        let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
        let units: Vec<Unit> = units.into_iter().map(|file| Unit { file, weight_bytes: 0 }).collect();
        for (store, is_remote) in [("file://", false), ("s3://bucket", true)] {
            let scan = scan(ObjectStoreUrl::parse(store).expect("a URL"), projected);
            let found = ScannedFiles::of(&scan, &footers).reads(&units, reader);
            assert_eq!(found, Reads { is_remote, ..expect }, "{projected:?} {units:?}");
        }
    }

    #[test]
    fn neighbours_come_with_one_request_and_the_gap() {
        // Two row groups of 40 MiB, each 4, 0.5, 15.5 and 20 MiB of columns 1 to 4 (halves of the file's).
        let two = facts([8, 1, 31, 40], &[0, 40]);
        let guess = footer_guess(80 * MIB);
        let expect = |runs, runs_max, bytes| Reads {
            footers: 1,
            footers_max: 2,
            row_groups: 2,
            runs,
            runs_max,
            bytes: bytes + guess,
            ..Reads::default()
        };
        check(COLD, &[0], vec![file(80 * MIB, two.clone())], expect(2, 2, 8 * MIB));
        // Half a MiB apart: one request, which reads the gap too.
        check(COLD, &[0, 2], vec![file(80 * MIB, two.clone())], expect(2, 4, 40 * MIB));
        // 15.5 MiB apart. The last 256 KiB came with the footer.
        check(COLD, &[1, 3], vec![file(80 * MIB, two)], expect(4, 4, 41 * MIB - guess));
    }

    #[test]
    fn a_run_of_row_groups_is_read_alone_but_a_footer_once() {
        let three = facts([12, 12, 12, 12], &[0, 16, 32]);
        let first = file(48 * MIB, three.clone()).with_range(0, 16 << 20);
        let rest = file(48 * MIB, three).with_range(16 << 20, 48 << 20);
        let bytes = 12 * MIB + footer_guess(48 * MIB);
        let whole =
            Reads { footers: 1, footers_max: 2, row_groups: 3, runs: 3, runs_max: 3, bytes, ..Reads::default() };
        check(COLD, &[0], vec![first.clone(), rest], whole);
        let part = Reads { row_groups: 1, runs: 1, runs_max: 1, bytes: bytes - 8 * MIB, ..whole };
        check(COLD, &[0], vec![first], part);
    }

    #[test]
    fn a_small_file_comes_whole_with_its_footer() {
        let expect = Reads { footers: 1, footers_max: 1, bytes: 1000, guessed_files: 1, ..Reads::default() };
        for reader in [COLD, Reader::Coordinator] {
            check(reader, &[0, 1], vec![file(1000, None)], expect);
        }
    }

    #[test]
    fn a_known_footer_is_read_to_the_byte() {
        let mut known = file(80 * MIB, facts([20, 20, 20, 20], &[]));
        known.metadata_size_hint = Some(5000);
        let expect = Reads { footers: 1, footers_max: 1, bytes: 5000, ..Reads::default() };
        check(COLD, &[], vec![known.clone()], expect);
        let expect = Reads { row_groups: 1, runs: 1, runs_max: 1, bytes: 20 * MIB + 5000, ..expect };
        check(COLD, &[1], vec![known], expect);
    }

    #[test]
    fn a_kept_footer_is_not_read_again_and_brings_nothing_along() {
        let expect = Reads { row_groups: 1, runs: 1, runs_max: 1, bytes: 20 * MIB, ..Reads::default() };
        check(WARM, &[3], vec![file(80 * MIB, facts([20, 20, 20, 20], &[]))], expect);
        check(WARM, &[], vec![file(80 * MIB, facts([20, 20, 20, 20], &[]))], Reads::default());
    }

    #[test]
    fn footers_that_are_too_long_to_travel_are_read() {
        let known = shipped::known();
        let field = |column: usize| Field::new(format!("c{column}"), DataType::Int32, true);
        let schema = Arc::new(Schema::new((0..4_000).map(field).collect::<Vec<_>>()));
        let url = ObjectStoreUrl::parse("s3://bucket").expect("a URL");
        let scan = FileScanConfigBuilder::new(url, Arc::new(ParquetSource::new(schema))).build();
        let needed = needed_columns(&scan, &ColumnMatching::Name).expect("columns by name");
        for widths in [vec![1], vec![300, 4_000, 10], vec![900, 800, 5], vec![300, 300, 300]] {
            let units: Vec<Unit> = widths.iter().map(|columns| shipped::unit(*columns, &known)).collect();
            let travelling = footers(&units.iter().collect::<Vec<_>>(), &needed, &known);
            let staying = travelling.iter().filter(|footer| footer.is_none()).count() as u64;
            let reads = ScannedFiles::of(&scan, &known).reads(&units, COLD);
            // Units of the same file share its footer.
            assert_eq!(reads.footers.min(1), staying.min(1), "{widths:?}: {reads:?}");
            assert_eq!(ScannedFiles::of(&scan, &known).reads(&units, Reader::Coordinator).footers, 0, "{widths:?}");
        }
    }
}
