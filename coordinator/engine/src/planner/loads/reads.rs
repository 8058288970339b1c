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
use fragment_fn::{WHOLE_FILE_BYTES_MAX, footer_guess};
use object_store::ObjectMeta;
use object_store::path::Path;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};

use crate::model::load::Reads;
use crate::planner::passes::units::{ProjectedColumns, Unit, footer, is_deleted, start_of};
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
    /// Files by the largest gap that is read along, their stores and their paths.
    by_place: HashMap<(u64, u16, Path), ScannedFile>,
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

    /// Counts what one attempt, or the coordinator, asks for to read these units of the scan, without their deletes. Gaps of at most
    /// `bridge_bytes` are read along.
    pub fn reads<'u>(
        &mut self,
        units: impl IntoIterator<Item = &'u Unit>,
        reader: Reader<'_>,
        bridge_bytes: u64,
    ) -> Reads {
        let units: Vec<&Unit> = units.into_iter().collect();
        let mut by_file: BTreeMap<(u16, &str), Vec<&PartitionedFile>> = BTreeMap::new();
        let files: Vec<&PartitionedFile> = units.iter().map(|unit| &unit.file).collect();
        for file in &files {
            by_file.entry((store_of(file), file.object_meta.location.as_ref())).or_default().push(file);
        }
        let lengths: Vec<usize> = match reader {
            Reader::Function(_) => files.iter().map(|file| self.file(file, bridge_bytes).footer_bytes(file)).collect(),
            Reader::Coordinator => Vec::new(),
        };
        let place = |file: &'u PartitionedFile| (store_of(file), &file.object_meta.location);
        let staying: BTreeSet<(u16, &Path)> = staying(&lengths).into_iter().map(|unit| place(files[unit])).collect();
        let of_file = |files: &Vec<&PartitionedFile>| match files.as_slice() {
            [file, ..] => {
                let ScannedFile { is_footer_known, layout } = self.file(file, bridge_bytes);
                let is_at_hand = match reader {
                    Reader::Coordinator => *is_footer_known,
                    Reader::Function(_) => {
                        *is_footer_known && !staying.contains(&(store_of(file), &file.object_meta.location))
                    }
                };
                let end = FileEnd::of(file, is_at_hand, reader);
                files.iter().map(|unit| layout.reads(unit, end.start, bridge_bytes)).sum::<Reads>()
                    + Reads { guessed_files: layout.is_guessed.into(), ..end.reads }
            }
            [] => Reads::default(),
        };
        let reads = by_file.values().map(of_file).sum::<Reads>();
        Reads { is_remote: self.is_remote, ..reads }
    }

    fn file(&mut self, file: &PartitionedFile, bridge_bytes: u64) -> &ScannedFile {
        let Self { columns, footers, by_place, .. } = self;
        by_place.entry((bridge_bytes, store_of(file), file.object_meta.location.clone())).or_insert_with(|| {
            let known = footer(file, *footers);
            ScannedFile {
                is_footer_known: known.is_some(),
                layout: Layout::of(file, known.as_deref(), columns, bridge_bytes),
            }
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
    fn of(
        file: &PartitionedFile,
        footer: Option<&ParquetMetaData>,
        columns: &ProjectedColumns,
        bridge_bytes: u64,
    ) -> Self {
        if is_deleted(file) {
            return Self::of_row_groups(Vec::new(), true, false);
        }
        if let Some(footer) = footer {
            let chunks = |group| columns.chunks(group).map(|chunk| chunk.byte_range());
            let ranges = |group| chunks(group).map(|(start, bytes)| start..start + bytes).collect();
            let pages = |group: &RowGroupMetaData| match footer.offset_index() {
                // Most writers end a page after 20,000 rows at the latest.
                Some(_) => usize::try_from(group.num_rows() / 20_000).unwrap_or_default() + 1,
                None => 0,
            };
            let layout = |group| {
                let layout = RowGroupLayout::of(start_of(group), ranges(group), true, bridge_bytes);
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
        let layout =
            |(start, end): (&u64, u64)| RowGroupLayout::of(*start, placed(&widths, *start..end), false, bridge_bytes);
        Self::of_row_groups(starts.iter().zip(ends).map(layout).collect(), false, is_guessed)
    }

    fn of_row_groups(row_groups: Vec<RowGroupLayout>, is_exact: bool, is_guessed: bool) -> Self {
        Self { is_in_order: row_groups.is_sorted_by_key(|group| group.start), row_groups, is_exact, is_guessed }
    }

    /// Counts the requests for the row groups of a unit, before the offset `end`: from there on the file is in memory.
    fn reads(&self, unit: &PartitionedFile, end: u64, bridge_bytes: u64) -> Reads {
        self.of_unit(unit).map(|group| group.reads(end, self.is_exact, bridge_bytes)).sum()
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
    fn of(start: u64, chunks: Vec<Range<u64>>, is_exact: bool, bridge_bytes: u64) -> Self {
        let end = chunks.iter().map(|chunk| chunk.end).max().unwrap_or_default();
        Self { start, end, whole: requests(&chunks, is_exact, bridge_bytes), chunks, footer_bytes: 0 }
    }

    /// Counts the requests for its chunks before the offset `end`.
    fn reads(&self, end: u64, is_exact: bool, bridge_bytes: u64) -> Reads {
        if self.end < end {
            return self.whole;
        }
        let missing = self.chunks.iter().filter(|chunk| chunk.start < end);
        requests(&missing.map(|chunk| chunk.start..chunk.end.min(end)).collect::<Vec<_>>(), is_exact, bridge_bytes)
    }
}

/// Counts the requests for chunks of one row group.
fn requests(chunks: &[Range<u64>], is_exact: bool, bridge_bytes: u64) -> Reads {
    let Runs { count: runs, bytes } = coalesced(chunks, bridge_bytes);
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
fn coalesced(ranges: &[Range<u64>], bridge_bytes: u64) -> Runs {
    let mut order: Vec<&Range<u64>> = ranges.iter().collect();
    order.sort_by_key(|range| range.start);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for range in order {
        match runs.last_mut() {
            Some(run) if range.start.saturating_sub(run.end) <= bridge_bytes => run.end = run.end.max(range.end),
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

    use fragment_fn::BRIDGE_BYTES_MAX;

    use crate::cost::Tariff;
    use crate::model::{ReadPrices, TimeModel, bridge_bytes};
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
        let units: Vec<Unit> = units.into_iter().map(|file| Unit { file, weight_bytes: 0, leaf: 0 }).collect();
        for (store, is_remote) in [("file://", false), ("s3://bucket", true)] {
            let scan = scan(ObjectStoreUrl::parse(store).expect("a URL"), projected);
            let found = ScannedFiles::of(&scan, &footers).reads(&units, reader, MIB);
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
            let reads = ScannedFiles::of(&scan, &known).reads(&units, COLD, MIB);
            // Units of the same file share its footer.
            assert_eq!(reads.footers.min(1), staying.min(1), "{widths:?}: {reads:?}");
            let here = ScannedFiles::of(&scan, &known).reads(&units, Reader::Coordinator, MIB);
            assert_eq!(here.footers, 0, "{widths:?}");
        }
    }

    /// Compressed bytes of a row group's columns, and the number of row groups: TPC-H at scale factor 1, written by Gust's demo with 100,000 rows
    /// a row group.
    const TABLES: [(&str, u64, &[u64]); 6] = [
        (
            "lineitem",
            61,
            &[
                169_120, 456_642, 194_093, 18_657, 75_578, 500_381, 43_983, 40_601, 17_228, 11_365, 155_856, 155_704,
                155_892, 25_444, 37_942, 1_006_215,
            ],
        ),
        ("orders", 15, &[277_035, 389_203, 15_226, 564_106, 155_574, 34_148, 127_585, 187, 1_484_269]),
        ("customer", 2, &[296_621, 128_468, 2_276_941, 62_970, 834_320, 536_450, 34_171, 1_989_238]),
        ("part", 2, &[296_621, 1_100_738, 34_095, 63_001, 92_166, 75_473, 72_831, 136_797, 674_194]),
        ("partsupp", 8, &[178_862, 185_594, 198_487, 386_852, 3_088_751]),
        ("supplier", 1, &[27_892, 22_981, 237_460, 6_402, 92_513, 51_623, 192_930]),
    ];

    /// Columns that each of the 22 queries reads, by position.
    const QUERIES: [&[(&str, &[usize])]; 22] = [
        &[("lineitem", &[4, 5, 6, 7, 8, 9, 10])],
        &[("part", &[0, 2, 4, 5]), ("partsupp", &[0, 1, 3]), ("supplier", &[0, 1, 2, 3, 4, 5, 6])],
        &[("customer", &[0, 6]), ("orders", &[0, 1, 4, 7]), ("lineitem", &[0, 5, 6, 10])],
        &[("orders", &[0, 4, 5]), ("lineitem", &[0, 11, 12])],
        &[("customer", &[0, 3]), ("orders", &[0, 1, 4]), ("lineitem", &[0, 2, 5, 6]), ("supplier", &[0, 3])],
        &[("lineitem", &[4, 5, 6, 10])],
        &[("supplier", &[0, 3]), ("lineitem", &[0, 2, 5, 6, 10]), ("orders", &[0, 1]), ("customer", &[0, 3])],
        &[("part", &[0, 4]), ("lineitem", &[0, 1, 2, 5, 6]), ("orders", &[0, 1, 4]), ("customer", &[0, 3])],
        &[("part", &[0, 1]), ("lineitem", &[0, 1, 2, 4, 5, 6]), ("partsupp", &[0, 1, 3]), ("orders", &[0, 4])],
        &[("customer", &[0, 1, 2, 3, 4, 5, 7]), ("orders", &[0, 1, 4]), ("lineitem", &[0, 5, 6, 8])],
        &[("partsupp", &[0, 1, 2, 3]), ("supplier", &[0, 3])],
        &[("orders", &[0, 5]), ("lineitem", &[0, 10, 11, 12, 14])],
        &[("customer", &[0]), ("orders", &[0, 1, 8])],
        &[("lineitem", &[1, 5, 6, 10]), ("part", &[0, 4])],
        &[("lineitem", &[2, 5, 6, 10]), ("supplier", &[0, 1, 2, 4])],
        &[("partsupp", &[0, 1]), ("part", &[0, 3, 4, 5]), ("supplier", &[0, 6])],
        &[("lineitem", &[1, 4, 5]), ("part", &[0, 3, 6]), ("lineitem", &[1, 4])],
        &[("customer", &[0, 1]), ("orders", &[0, 1, 3, 4]), ("lineitem", &[0, 4])],
        &[("lineitem", &[1, 4, 5, 6, 13, 14]), ("part", &[0, 3, 5, 6])],
        &[("supplier", &[0, 1, 2, 3]), ("partsupp", &[0, 1, 2]), ("part", &[0, 1]), ("lineitem", &[1, 2, 4, 10])],
        &[("lineitem", &[0, 2, 11, 12]), ("orders", &[0, 2]), ("lineitem", &[0, 2])],
        &[("customer", &[0, 4, 5]), ("orders", &[1])],
    ];

    /// Sums up the requests of a query, with gaps up to `bridge_bytes` read along.
    fn runs_of(query: &[(&str, &[usize])], bridge_bytes: u64) -> Runs {
        let mut all = Runs { count: 0, bytes: 0 };
        for (table, columns) in query {
            let (_, row_groups, widths) = TABLES.iter().find(|(name, ..)| name == table).expect("a table");
            let start = |column: usize| widths[..column].iter().sum::<u64>();
            let chunks: Vec<_> = columns.iter().map(|column| start(*column)..start(column + 1)).collect();
            let Runs { count, bytes } = coalesced(&chunks, bridge_bytes);
            all = Runs { count: all.count + row_groups * count, bytes: all.bytes + row_groups * bytes };
        }
        all
    }

    #[test]
    fn no_query_costs_more_than_with_the_largest_gaps() {
        let model = TimeModel { reads_ahead: 64, function_reads_ahead: 64, ..TimeModel::lambda(2, 1.0) };
        let tariff = Tariff::of_tests();
        let of_size = |memory_mb| ReadPrices::of_function(&Tariff { memory_mb, ..tariff.clone() });
        let outside = Tariff { coordinator_outside: Some(true), ..tariff.clone() };
        let readers = [128, 1_769, 3_008, 10_240].map(|memory_mb| (model.function_read_seconds(), of_size(memory_mb)));
        let readers = readers.into_iter().chain([
            (model.read_seconds(), ReadPrices::of_coordinator(&tariff, 2)),
            (model.read_seconds(), ReadPrices::of_coordinator(&outside, 2)),
        ]);
        let mut cheaper = 0;
        for (seconds, prices) in readers {
            let gap = bridge_bytes(seconds, Some(prices), None);
            for (query, reads) in QUERIES.iter().enumerate() {
                let cost = |gap| {
                    let Runs { count, bytes } = runs_of(reads, gap);
                    let seconds = count as f64 * seconds.request + bytes as f64 * seconds.byte;
                    count as f64 * prices.request + bytes as f64 * prices.byte + seconds * prices.second
                };
                let (found, largest) = (cost(gap), cost(BRIDGE_BYTES_MAX));
                assert!(found <= largest * (1.0 + 1e-9), "query {}: {found} > {largest}, {gap}", query + 1);
                cheaper += u32::from(found < largest * 0.99);
            }
        }
        assert!(cheaper > 20, "{cheaper}");
    }
}
