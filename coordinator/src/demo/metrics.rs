//! Metrics of a file from its Parquet footer, in the terms of an Iceberg manifest.
//!
//! They are plain data keyed by field id, so that a catalog can take them without naming a Parquet type. Schemas must be
//! flat, as the demo's tables are: a nested column is an error, never a wrong bound.

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::ParquetMetaData;

/// Metrics of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct FileMetrics {
    /// Columns by Iceberg field id.
    pub columns: BTreeMap<i32, ColumnMetrics>,
    /// Offsets at which row groups begin in the file, in bytes, ascending.
    pub split_offsets: Vec<u64>,
}

/// Metrics of one column of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnMetrics {
    /// Compressed bytes in the file, dictionary pages included.
    pub size_bytes: u64,
    /// Values, nulls included.
    pub values: u64,
    pub nulls: u64,
    /// Lower bound of the column's values. `None` where the footer has none. A long string's bounds are cut short in the
    /// safe direction, as Iceberg allows.
    pub lower: Option<ScalarValue>,
    /// Upper bound of the column's values.
    pub upper: Option<ScalarValue>,
}

/// Reads the metrics from a footer. `schema` is the Arrow schema that the file was written with.
///
/// # Errors
/// An internal error where the footer's columns are not those of the schema, or where a column has no field id.
pub fn file_metrics(footer: &ParquetMetaData, schema: &Schema) -> Result<FileMetrics, DataFusionError> {
    let descriptor = footer.file_metadata().schema_descr();
    if descriptor.num_columns() != schema.fields().len() {
        return Err(DataFusionError::Internal(format!(
            "a footer has {} columns where the schema has {}",
            descriptor.num_columns(),
            schema.fields().len()
        )));
    }
    let groups = footer.row_groups();
    let mut columns = BTreeMap::new();
    for (index, field) in schema.fields().iter().enumerate() {
        let info = descriptor.column(index).self_type().get_basic_info().clone();
        if !info.has_id() {
            return Err(DataFusionError::Internal(format!("column {} has no field id", field.name())));
        }
        let converter = StatisticsConverter::from_column_index(index, field, descriptor)?;
        let lowest = converter.row_group_mins(groups)?;
        let highest = converter.row_group_maxes(groups)?;
        let nulls = converter.row_group_null_counts(groups)?;
        let metrics = ColumnMetrics {
            size_bytes: groups.iter().map(|group| group.column(index).compressed_size() as u64).sum(),
            values: groups.iter().map(|group| group.num_rows() as u64).sum(),
            nulls: nulls.iter().flatten().sum(),
            lower: extreme(&scalars(&lowest)?, |candidate, best| candidate < best),
            upper: extreme(&scalars(&highest)?, |candidate, best| candidate > best),
        };
        columns.insert(info.id(), metrics);
    }
    let split_offsets = groups.iter().map(|group| group.column(0).byte_range().0).collect();
    Ok(FileMetrics { columns, split_offsets })
}

fn scalars(array: &dyn arrow::array::Array) -> Result<Vec<ScalarValue>, DataFusionError> {
    (0..array.len()).map(|row| ScalarValue::try_from_array(array, row)).collect()
}

/// Returns the most extreme value. `None` where any is unknown: a bound has to hold for the whole file.
fn extreme(values: &[ScalarValue], beats: impl Fn(&ScalarValue, &ScalarValue) -> bool) -> Option<ScalarValue> {
    let mut best = values.first()?;
    for value in values {
        if value.is_null() {
            return None;
        }
        if beats(value, best) {
            best = value;
        }
    }
    Some(best.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_group_leaves_the_file_without_a_bound() {
        let check = |values: &[Option<i32>], expect: Option<i32>| {
            let values: Vec<_> = values.iter().map(|value| ScalarValue::Int32(*value)).collect();
            let expect = expect.map(|value| ScalarValue::Int32(Some(value)));
            assert_eq!(extreme(&values, |candidate, best| candidate < best), expect);
        };
        check(&[Some(3), Some(1), Some(2)], Some(1));
        check(&[Some(3), None], None);
        check(&[None], None);
        check(&[], None);
    }
}
