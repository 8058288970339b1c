//! Statistics of a scan, from the metrics of its files.
//!
//! | fact | without deletes | vectors only | other deletes |
//! |---|---|---|---|
//! | rows | exact | as many, exact once the vectors were read ([`super::counted`]) | at most |
//! | NULLs | exact, where counts can be right | at most | at most |
//! | distinct values | a hint, where somebody has counted them | a hint | a hint |
//! | least and greatest value | exact for whole numbers, decimals and times, if bounds are trusted; else hints | hints | hints |
//!
//! Counts of distinct values are those of a Puffin file (`ANALYZE` of Trino and Spark), of this snapshot or one before it. The
//! table's metadata has them, so that the file is not read.
//!
//! The specification lets bounds be loose, but no writer cuts those of these types. `iceberg.trust_bounds` turns trust off.

use std::cmp::Ordering;

use arrow::datatypes::{DataType, Schema as ArrowSchema};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use gust_catalog::{DeleteContent, Field, FilePlan, Scalar, ScanFile, Table, Type};

use crate::tables::schema::engine_scalar;

/// Sums the statistics of a plan's files. `schema` may have more columns than the table, of which nothing is known.
pub(super) fn statistics(table: &Table, schema: &ArrowSchema, plan: &FilePlan, trusts_bounds: bool) -> Statistics {
    let fields = &table.schema().fields;
    let is_exact = plan.files.iter().all(|file| file.deletes.is_empty());
    let rows = rows(plan);
    let num_rows = if is_exact { Precision::Exact(rows) } else { Precision::Inexact(rows) };
    let distinct = table.distinct_counts();
    let columns = fields.iter().zip(schema.fields()).map(|(field, arrow)| {
        let column = column_statistics(field, arrow.data_type(), &plan.files, trusts_bounds);
        let column = if is_exact { column } else { column.to_inexact() };
        let counted = distinct.get(&field.id).map(|count| usize::try_from(*count).unwrap_or(usize::MAX));
        // Files that are left out leave fewer values.
        let counted = counted.map(|count| count.min(rows));
        ColumnStatistics { distinct_count: counted.map_or(Precision::Absent, Precision::Inexact), ..column }
    });
    let dropped = schema.fields().len().saturating_sub(fields.len());
    Statistics {
        num_rows,
        total_byte_size: Precision::Inexact(plan.files.iter().map(|file| file.size_bytes as usize).sum()),
        column_statistics: columns.chain((0..dropped).map(|_| ColumnStatistics::new_unknown())).collect(),
    }
}

/// Counts the rows, by manifests alone.
fn rows(plan: &FilePlan) -> usize {
    let mut rows = 0_u64;
    for file in &plan.files {
        let vector = file.deletes.vector.and_then(|vector| plan.deletes.get(vector as usize));
        let deleted = match vector {
            Some(vector) if matches!(vector.content, DeleteContent::Vector { .. }) => vector.record_count,
            _ => 0,
        };
        rows = rows.saturating_add(file.record_count.saturating_sub(deleted));
    }
    rows as usize
}

fn column_statistics(field: &Field, arrow: &DataType, files: &[ScanFile], trusts_bounds: bool) -> ColumnStatistics {
    let counts: Vec<FileColumn> = files.iter().map(|file| FileColumn::of(file, field, arrow)).collect();
    let nulls: Option<usize> = counts.iter().map(|column| column.nulls).sum();
    // A bound of each file that has a value makes one of the table.
    let bound = |of: fn(&FileColumn) -> &Option<ScalarValue>, better: Ordering| {
        let mut found: Option<&ScalarValue> = None;
        for value in counts.iter().filter(|column| !column.is_empty).map(of) {
            let value = value.as_ref()?;
            if found.is_none_or(|held| value.partial_cmp(held) == Some(better)) {
                found = Some(value);
            }
        }
        found.cloned()
    };
    let min = bound(|column| &column.lower, Ordering::Less);
    let max = bound(|column| &column.upper, Ordering::Greater);
    // DataFusion fails over bounds that a bad writer has turned round.
    let (min, max) = if min > max && max.is_some() { (None, None) } else { (min, max) };
    let are_values = trusts_bounds && field.ty.has_exact_bounds() && counts.iter().all(|column| column.is_sound);
    let told = |value: Option<ScalarValue>| match value {
        Some(value) if are_values => Precision::Exact(value),
        Some(value) => Precision::Inexact(value),
        None => Precision::Absent,
    };
    ColumnStatistics {
        null_count: nulls.map_or(Precision::Absent, Precision::Exact),
        min_value: told(min),
        max_value: told(max),
        ..ColumnStatistics::new_unknown()
    }
}

/// Facts of a column in a file.
struct FileColumn {
    /// Count of NULLs. None where it cannot be right or is not that of the rows.
    nulls: Option<usize>,
    lower: Option<ScalarValue>,
    upper: Option<ScalarValue>,
    /// True where the file has no value but NULLs.
    is_empty: bool,
    /// True where nothing speaks against the bounds, and both are there or there is no value.
    is_sound: bool,
}

impl FileColumn {
    fn of(file: &ScanFile, field: &Field, arrow: &DataType) -> Self {
        let unknown = FileColumn { nulls: None, lower: None, upper: None, is_empty: false, is_sound: false };
        if file.record_count == 0 {
            return FileColumn { nulls: Some(0), is_empty: true, is_sound: true, ..unknown };
        }
        let Some(facts) = file.column(field.id) else { return unknown };
        // Iceberg's bounds leave NaN out, and NaN is the largest value to the engine.
        let has_nans = matches!(field.ty, Type::Float | Type::Double) && facts.nans != Some(0);
        let bound = |value: &Option<Scalar>| value.as_ref().filter(|_| !has_nans).and_then(|v| engine_scalar(v, arrow));
        let (lower, upper) = (bound(&facts.lower), bound(&facts.upper));
        let values = facts.values.unwrap_or(file.record_count);
        let can_be = values == file.record_count && facts.nulls.is_none_or(|nulls| nulls <= values);
        // The file may hold others than the partition's values.
        let is_partition = file.identity_values.iter().any(|value| value.field_id == field.id);
        let is_empty = can_be && !is_partition && facts.nulls == Some(values) && lower.is_none() && upper.is_none();
        let has_both = lower.is_some() && upper.is_some() && lower <= upper;
        let nulls = facts.nulls.filter(|_| can_be && !is_partition).map(|nulls| nulls as usize);
        FileColumn { nulls, is_empty, is_sound: can_be && !is_partition && (has_both || is_empty), lower, upper }
    }
}
