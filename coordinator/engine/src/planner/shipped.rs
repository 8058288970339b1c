//! Footers that travel with fragments, so that a function asks for data at once. Pure.
//!
//! The session has read the footers of bare Parquet when it made the table. A fragment brings along the parts that it needs of them.
//! Other footers are read by the function: those of Iceberg, which no session reads, and those that the session keeps no more.

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_expr::utils::collect_columns;
use fragment_fn::{NeededColumns, WHOLE_FILE_BYTES_MAX, project};
use gust_protocol::{Base64, ColumnMatching};

use super::passes::units::{Unit, footer, start_of};
use crate::tables::facts::FileFacts;

/// Bytes of footers in one fragment, before base64.
const FOOTERS_BYTES_MAX: usize = 192 << 10;

/// Length of a column of a row group in a footer that travels, about, without its pages and of each of them.
const CHUNK_BYTES: usize = 150;
const PAGE_BYTES: usize = 24;

/// Returns the columns that a scan needs of its files. None where they are not matched by name.
pub(super) fn needed_columns(scan: &FileScanConfig, matching: &ColumnMatching) -> Option<NeededColumns> {
    if *matching != ColumnMatching::Name {
        return None;
    }
    let (fields, source) = (scan.file_schema().fields(), scan.file_source());
    let projected = source.projection().map_or_else(|| (0..fields.len()).collect(), |p| p.column_indices());
    let read = projected.iter().filter_map(|index| fields.get(*index)).map(|field| field.name().clone()).collect();
    let compared = source.filter().map(|filter| collect_columns(&filter)).unwrap_or_default();
    Some(NeededColumns { read, compared: compared.iter().map(|column| column.name().to_owned()).collect() })
}

/// Returns true if the footer of a file travels where the session has it. A small file comes whole with its own. A file without a
/// version might change and still be taken for the one whose footer travelled.
pub(super) fn travels(file: &PartitionedFile) -> bool {
    let is_bare = file.extensions.get::<FileFacts>().is_none();
    is_bare && file.object_meta.e_tag.is_some() && file.object_meta.size > WHOLE_FILE_BYTES_MAX
}

/// Makes the footers of a fragment's units. None stands for those that functions read themselves: footers that the session does not
/// have, and the longest of those that would be too long together.
pub(super) fn footers(units: &[&Unit], columns: &NeededColumns, footers: &FileMetadataCache) -> Vec<Option<Base64>> {
    let mut shipped: Vec<_> = units.iter().map(|unit| of_unit(unit, columns, footers)).collect();
    for stays in staying(&shipped.iter().map(length).collect::<Vec<_>>()) {
        shipped[stays] = None;
    }
    shipped
}

/// Returns the positions of those among footers of a fragment, by their lengths, that are too long to travel with the others.
pub(super) fn staying(lengths: &[usize]) -> Vec<usize> {
    let mut bytes: usize = lengths.iter().sum();
    if bytes <= FOOTERS_BYTES_MAX {
        return Vec::new();
    }
    let mut longest_last: Vec<usize> = (0..lengths.len()).collect();
    longest_last.sort_by_key(|unit| lengths[*unit]);
    let mut staying = Vec::new();
    while bytes > FOOTERS_BYTES_MAX
        && let Some(longest) = longest_last.pop()
    {
        bytes -= lengths[longest];
        staying.push(longest);
    }
    staying
}

/// Returns about the length of a row group of `chunks` columns in a footer that travels, with the places of `pages` pages of each.
pub(super) fn group_bytes(chunks: usize, pages: usize) -> usize {
    chunks * (CHUNK_BYTES + pages * PAGE_BYTES)
}

fn length(footer: &Option<Base64>) -> usize {
    footer.as_ref().map_or(0, |footer| footer.0.len())
}

fn of_unit(Unit { file, .. }: &Unit, columns: &NeededColumns, footers: &FileMetadataCache) -> Option<Base64> {
    let read = footers.get(&file.object_meta.location)?;
    if !travels(file) || read.meta.e_tag != file.object_meta.e_tag {
        return None;
    }
    let footer = footer(file, footers)?;
    let is_mine = |start: u64| {
        let start = i64::try_from(start).unwrap_or(i64::MAX);
        file.range.as_ref().is_none_or(|range| (range.start..range.end).contains(&start))
    };
    let groups = footer.row_groups().iter().enumerate();
    let mine: Vec<usize> = groups.filter(|(_, group)| is_mine(start_of(group))).map(|(index, _)| index).collect();
    match project(&footer, columns, &mine) {
        Ok(bytes) => Some(Base64(bytes)),
        Err(error) => {
            tracing::debug!(file = %file.object_meta.location, %error, "the footer does not travel");
            None
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, RecordBatch};
    use datafusion::datasource::physical_plan::parquet::metadata::CachedParquetMetaData;
    use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
    use datafusion::execution::cache::default_cache::DefaultCache;
    use object_store::path::Path;
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::ParquetMetaDataReader;

    use super::*;

    /// Makes a unit of a file of 1 MiB with this many columns, whose footer becomes known.
    pub(in crate::planner) fn unit(columns: usize, known: &FileMetadataCache) -> Unit {
        let one: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let rows = (0..columns).map(|column| (format!("c{column}"), Arc::clone(&one)));
        let rows = RecordBatch::try_from_iter(rows).expect("columns");
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).expect("a writer");
        writer.write(&rows).expect("written");
        let bytes = writer.into_inner().expect("a file");
        let footer = ParquetMetaDataReader::new().parse_and_finish(&bytes::Bytes::from(bytes)).expect("a footer");
        let mut file = PartitionedFile::new(format!("t/{columns}.parquet"), 1 << 20);
        file.object_meta.e_tag = Some("one".to_owned());
        let footer = Arc::new(CachedParquetMetaData::new(Arc::new(footer)));
        known.put(&file.object_meta.location, CachedFileMetadataEntry::new(file.object_meta.clone(), footer));
        Unit { file, weight_bytes: 1, leaf: 0 }
    }

    pub(in crate::planner) fn known() -> DefaultCache<Path, CachedFileMetadataEntry> {
        DefaultCache::new(64 << 20)
    }

    #[track_caller]
    fn check(units: &[Unit], known: &FileMetadataCache, expect: &[bool]) {
        let needed =
            NeededColumns { read: (0..4_000).map(|column| format!("c{column}")).collect(), ..Default::default() };
        let shipped = footers(&units.iter().collect::<Vec<_>>(), &needed, known);
        assert_eq!(shipped.iter().map(Option::is_some).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn the_longest_footers_stay_behind() {
        let known = known();
        check(&[unit(300, &known), unit(4_000, &known), unit(10, &known)], &known, &[true, false, true]);
        check(&[unit(1, &known)], &known, &[true]);
        check(&[], &known, &[]);
    }

    #[test]
    fn only_known_footers_of_this_version_of_a_bare_file_travel() {
        let known = known();
        let unit = unit(2, &known);
        let changed = |change: fn(&mut PartitionedFile)| {
            let mut unit = unit.clone();
            change(&mut unit.file);
            unit
        };
        let units = [
            changed(|_| {}),
            changed(|file| file.object_meta.e_tag = Some("other".to_owned())),
            changed(|file| file.object_meta.e_tag = None),
            changed(|file| file.object_meta.location = Path::from("t/unknown.parquet")),
            changed(|file| drop(file.extensions.insert(FileFacts::default()))),
            changed(|file| file.object_meta.size = WHOLE_FILE_BYTES_MAX),
        ];
        check(&units, &known, &[true, false, false, false, false, false]);
    }
}
