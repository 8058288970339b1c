//! Prediction, from a footer, of the ranges that DataFusion's opener will ask for.
//!
//! It does what `opener/mod.rs` of datafusion-datasource-parquet 55.2 does between a footer and the decoder, by the same
//! functions: expressions in terms of the file, row groups by range and statistics, then pages. Where the two may differ, more
//! is predicted than is read, or a column is left to demand.
//!
//! Non-goals: what Bloom filters rule out, and columns that are read only where a filter keeps rows.

mod columns;
mod meaning;
#[cfg(test)]
pub(super) mod tests;

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result, not_impl_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{
    ParquetAccessPlan, ParquetRowSelection, RowGroupAccess, RowGroupAccessPlanFilter,
};
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use parquet::arrow::parquet_column;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};

use super::spec::ScanSpec;
use crate::columns::{FileConstants, with_constants};
use crate::deletes::FileDeletes;
use meaning::FileMeaning;
pub(super) use meaning::Schemas;

impl PrunedFile {
    /// Returns true where no row group is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.row_group_indexes().is_empty()
    }
}

/// Row groups of a file that will be read, in the order in which they are read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct FileLayout {
    pub(super) units: Vec<UnitLayout>,
    /// Ranges of the Bloom filters that are read before the first row group. They may rule out any of these.
    pub(super) filters: Vec<Range<u64>>,
    /// None where the opener may choose fewer rows.
    pub(super) pruned: Option<PrunedFile>,
}

/// Rows of a file that no filter has ruled out: the opener needs to prune nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PrunedFile {
    pub(crate) rows: ParquetAccessPlan,
    /// Schema that the decoder gives, where the opener would change the file's own to it. With that it need not decode the file's own.
    pub(crate) coerced: Option<SchemaRef>,
    /// Row groups of the part that is read, of which no row is left.
    pub(crate) row_groups_left_out: usize,
}

/// One row group of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnitLayout {
    pub(super) row_group: usize,
    pub(super) rows: u64,
    /// Ranges of column chunks, or of runs of their pages.
    pub(super) ranges: Vec<Range<u64>>,
}

/// Predicts what is read of `file`. A row group of which it is not sure is in the layout.
///
/// # Errors
/// Files that cannot be read as the table, or whose order cannot be predicted. They are read on demand.
pub(super) fn layout(
    spec: &ScanSpec,
    known: &mut Schemas,
    file: &PartitionedFile,
    footer: &Arc<ParquetMetaData>,
) -> Result<FileLayout> {
    if file.extensions.get::<FileDeletes>().is_some_and(FileDeletes::deletes_most) {
        return not_impl_err!("its readers know which few pages are left");
    }
    let footer = match file.extensions.get::<FileConstants>() {
        Some(constants) => with_constants(Arc::clone(footer), constants),
        None => Arc::clone(footer),
    };
    let meaning = known.of(spec, file, &footer)?;
    let Chosen { rows: chosen, of } = chosen(spec, meaning, file, &footer)?;
    let BloomFilters { filters, has_any } = bloom_filters(spec, meaning, &chosen, &footer);
    let selected = selected(meaning, chosen, &footer);
    let units = units(spec, meaning, file, &selected, &footer);
    if spec.is_reordered && units.len() > 1 {
        return Err(DataFusionError::NotImplemented("the order of sorted row groups is not predicted".to_owned()));
    }
    let is_narrowed = file.extensions.contains::<FileDeletes>() || file.extensions.contains::<ParquetRowSelection>();
    // Statistics of a table's metadata may rule out a file whose own say nothing.
    let may_know_more = file.has_statistics() && !meaning.knows_statistics(&footer);
    let is_all =
        !has_any && !is_narrowed && !may_know_more && spec.limit(file).is_none() && spec.row_filter().is_none();
    let pruned = is_all.then(|| PrunedFile {
        row_groups_left_out: of.saturating_sub(selected.row_group_index_iter().count()),
        rows: selected,
        coerced: meaning.coerced.clone(),
    });
    Ok(FileLayout { units, filters, pruned })
}

/// Row groups that are left, and the number of those among which they were chosen.
struct Chosen {
    rows: ParquetAccessPlan,
    of: usize,
}

/// Chooses row groups as the opener does.
fn chosen(spec: &ScanSpec, meaning: &FileMeaning, file: &PartitionedFile, footer: &ParquetMetaData) -> Result<Chosen> {
    let groups = footer.row_groups();
    let schema = footer.file_metadata().schema_descr();
    let metrics = &meaning.metrics;
    let mut chosen = RowGroupAccessPlanFilter::new(planned(file, groups)?);
    if let Some(range) = &file.range {
        chosen.prune_by_range(groups, range);
    }
    let of = chosen.remaining_row_group_count();
    if let Some(pruning) = &meaning.pruning
        && spec.options.pruning
    {
        chosen.prune_by_statistics(&meaning.physical, schema, groups, pruning, metrics);
    }
    if let (Some(limit), false) = (spec.limit(file), spec.preserve_order) {
        chosen.prune_by_limit(limit, groups, metrics);
    }
    Ok(Chosen { rows: chosen.build(), of })
}

/// Chooses rows of the row groups, by their pages.
fn selected(meaning: &FileMeaning, chosen: ParquetAccessPlan, footer: &ParquetMetaData) -> ParquetAccessPlan {
    let schema = footer.file_metadata().schema_descr();
    match &meaning.page_pruning {
        Some(pages) if !chosen.is_empty() => {
            pages.prune_plan_with_page_index(chosen, &meaning.physical, schema, footer, &meaning.metrics)
        }
        _ => chosen,
    }
}

/// Bloom filters of a file's columns that a predicate compares with literals.
#[derive(Default)]
struct BloomFilters {
    filters: Vec<Range<u64>>,
    /// There is one, with or without a known length.
    has_any: bool,
}

/// Lists the Bloom filters that the opener reads.
fn bloom_filters(
    spec: &ScanSpec,
    meaning: &FileMeaning,
    chosen: &ParquetAccessPlan,
    footer: &ParquetMetaData,
) -> BloomFilters {
    let Some(pruning) = meaning.pruning.as_ref().filter(|_| spec.options.bloom_filter_on_read) else {
        return BloomFilters::default();
    };
    let schema = footer.file_metadata().schema_descr();
    let leaf = |name: String| Some(parquet_column(schema, &meaning.physical, &name)?.0);
    let leaves: Vec<usize> = pruning.literal_columns().into_iter().filter_map(leaf).collect();
    let filter = |group: usize, leaf: usize| {
        let column = footer.row_group(group).column(leaf);
        // Without a length the reader guesses.
        let (start, bytes) = (column.bloom_filter_offset()?, column.bloom_filter_length()?);
        let start = u64::try_from(start).ok()?;
        Some(start..start.checked_add(u64::try_from(bytes).ok()?)?)
    };
    let groups = chosen.row_group_indexes();
    let of_group = |group: &usize| leaves.iter().map(|leaf| (*group, *leaf)).collect::<Vec<_>>();
    let columns: Vec<(usize, usize)> = groups.iter().flat_map(of_group).collect();
    BloomFilters {
        filters: columns.iter().filter_map(|(group, leaf)| filter(*group, *leaf)).collect(),
        has_any: columns
            .iter()
            .any(|(group, leaf)| footer.row_group(*group).column(*leaf).bloom_filter_offset().is_some()),
    }
}

/// Returns the row groups that the scan itself names.
fn planned(file: &PartitionedFile, groups: &[RowGroupMetaData]) -> Result<ParquetAccessPlan> {
    let invalid = || Err(DataFusionError::Plan(format!("the rows of `{}` are planned wrongly", file.path())));
    match (file.extensions.get::<ParquetAccessPlan>(), file.extensions.get::<ParquetRowSelection>()) {
        (Some(plan), None) if plan.len() == groups.len() => Ok(plan.clone()),
        (None, Some(rows)) => ParquetAccessPlan::try_new_from_overall_row_selection(rows.selection().clone(), groups),
        (None, None) => Ok(ParquetAccessPlan::new_all(groups.len())),
        _ => invalid(),
    }
}

fn units(
    spec: &ScanSpec,
    meaning: &FileMeaning,
    file: &PartitionedFile,
    access: &ParquetAccessPlan,
    footer: &ParquetMetaData,
) -> Vec<UnitLayout> {
    let filters_rows = spec.row_filter().is_some();
    // A limit counts rows that the decoder's own filter keeps.
    let mut rows_left = spec.limit(file).filter(|_| !filters_rows);
    let mut units = Vec::new();
    for (row_group, access) in access.inner().iter().enumerate() {
        let all = footer.row_group(row_group).num_rows() as usize;
        let mut selection = match access {
            RowGroupAccess::Skip => continue,
            RowGroupAccess::Scan => None,
            RowGroupAccess::Selection(selection) => Some(selection.clone()),
        };
        let mut rows = selection.as_ref().map_or(all, RowSelection::row_count);
        if let Some(left) = &mut rows_left {
            if *left == 0 {
                break;
            }
            if *left < rows && selection.is_none() {
                selection = Some(vec![RowSelector::select(*left), RowSelector::skip(all - *left)].into());
            }
            rows = rows.min(*left);
            *left -= rows;
        }
        // The cache of a row filter reads whole batches, so more pages than are selected.
        let selection = selection.filter(|_| !filters_rows);
        let of_keys = match meaning.late_keys.is_empty() {
            true => None,
            false => selection.as_ref().map(|selection| in_whole_batches(selection, all, spec.batch_rows)),
        };
        let chunks = meaning.leaves.iter().flat_map(|leaf| {
            let selection = if meaning.late_keys.contains(leaf) { &of_keys } else { &selection };
            ranges(footer, row_group, *leaf, selection.as_ref())
        });
        units.push(UnitLayout { row_group, rows: rows as u64, ranges: chunks.collect() });
    }
    units
}

/// Returns the batches of a row group in which rows are selected: a row filter keeps its columns by batches.
fn in_whole_batches(selection: &RowSelection, rows: usize, batch_rows: usize) -> RowSelection {
    let mut whole: Vec<Range<usize>> = Vec::new();
    let mut row = 0;
    for selector in selection.iter() {
        let end = row + selector.row_count;
        if !selector.skip && selector.row_count > 0 {
            let batches = row / batch_rows * batch_rows..end.next_multiple_of(batch_rows).min(rows);
            match whole.last_mut() {
                Some(last) if batches.start <= last.end => last.end = batches.end,
                _ => whole.push(batches),
            }
        }
        row = end;
    }
    RowSelection::from_consecutive_ranges(whole.into_iter(), rows)
}

/// Returns the range of a column chunk, or the ranges of its pages where these are clearly less.
fn ranges(
    footer: &ParquetMetaData,
    row_group: usize,
    leaf: usize,
    selection: Option<&RowSelection>,
) -> Vec<Range<u64>> {
    let (start, bytes) = footer.row_group(row_group).column(leaf).byte_range();
    let whole = start..start.saturating_add(bytes);
    let index = footer.offset_index().and_then(|index| index.get(row_group)?.get(leaf));
    let (Some(selection), Some(index)) = (selection, index) else { return vec![whole] };
    let pages = index.page_locations();
    let mut found: Vec<Range<u64>> = Vec::new();
    if let Some(first) = pages.first().and_then(|page| u64::try_from(page.offset).ok())
        && first > start
    {
        // The dictionary lies before the pages.
        found.push(start..first);
    }
    for page in selection.scan_ranges(pages) {
        match found.last_mut() {
            Some(last) if last.end == page.start => last.end = page.end,
            _ => found.push(page),
        }
    }
    let selected: u64 = found.iter().map(|range| range.end.saturating_sub(range.start)).sum();
    if selected.saturating_mul(4) <= bytes.saturating_mul(3) { found } else { vec![whole] }
}
