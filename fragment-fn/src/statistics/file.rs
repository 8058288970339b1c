//! Statistics of a whole file, as the planner takes them.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Result, ScalarValue, Statistics};
use datafusion::datasource::file_format::parquet::apply_file_schema_type_coercions;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics as ChunkStatistics;

/// Computes the statistics of a file under a table's schema, without its partition columns. The footer must come from
/// [`crate::read_footer`].
///
/// A bound exists only where every row group has one. It is exact only where a row has that value for certain. A null count
/// exists only where every row group counts. Floats have no exact bounds, because bounds do not tell NaNs and zeros.
///
/// # Errors
/// A footer whose schema the engine does not know.
pub fn file_statistics(footer: &ParquetMetaData, schema: &SchemaRef) -> Result<Statistics> {
    // DataFusion's row counts and sizes are right.
    let mut statistics = DFParquetMetadata::statistics_from_parquet_metadata(footer, schema)?;
    let file = footer.file_metadata();
    let own = parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata())?;
    let own = apply_file_schema_type_coercions(schema, &own).unwrap_or(own);
    for (field, column) in schema.fields().iter().zip(&mut statistics.column_statistics) {
        let known = known(footer, &own, field.name(), field.data_type()).unwrap_or_default();
        *column = ColumnStatistics {
            byte_size: column.byte_size,
            distinct_count: column.distinct_count.to_inexact(),
            ..known
        };
    }
    Ok(statistics)
}

/// Computes the statistics of a column. None means that nothing is known.
fn known(footer: &ParquetMetaData, own: &Schema, name: &str, wanted: &DataType) -> Option<ColumnStatistics> {
    let rows = footer.row_groups().iter().map(|group| usize::try_from(group.num_rows()).ok()).sum::<Option<usize>>()?;
    let Some((_, field)) = own.column_with_name(name) else {
        // The column is read as NULL.
        return Some(ColumnStatistics { null_count: Precision::Exact(rows), ..ColumnStatistics::new_unknown() });
    };
    let groups: Vec<&RowGroupMetaData> = footer.row_groups().iter().filter(|group| group.num_rows() > 0).collect();
    let converter = StatisticsConverter::try_new(name, own, footer.file_metadata().schema_descr()).ok()?;
    let leaf = converter.parquet_column_index()?;
    let nulls = || groups.iter().map(|group| Some(group.column(leaf).statistics()?.null_count_opt().unwrap_or(0)));
    let null_count = nulls().sum::<Option<u64>>().and_then(|nulls| usize::try_from(nulls).ok());
    let all_null: Vec<bool> =
        groups.iter().zip(nulls()).map(|(group, nulls)| nulls == u64::try_from(group.num_rows()).ok()).collect();
    let is_float = field.data_type().is_floating();
    let bound = |values: ArrayRef, better: Ordering, is_exact: fn(&ChunkStatistics) -> bool| {
        let values = widened(&values, wanted)?;
        let exact: Vec<bool> =
            groups.iter().map(|group| group.column(leaf).statistics().is_some_and(is_exact) && !is_float).collect();
        outermost(&values, &all_null, &exact, better)
    };
    let least =
        bound(converter.row_group_mins(groups.iter().copied()).ok()?, Ordering::Less, ChunkStatistics::min_is_exact);
    let most = bound(
        converter.row_group_maxes(groups.iter().copied()).ok()?,
        Ordering::Greater,
        ChunkStatistics::max_is_exact,
    );
    Some(ColumnStatistics {
        null_count: null_count.map_or(Precision::Absent, Precision::Exact),
        min_value: least.unwrap_or(Precision::Absent),
        max_value: most.unwrap_or(Precision::Absent),
        ..ColumnStatistics::new_unknown()
    })
}

/// Casts bounds to the table's type, where every value of the file fits there and the order stays.
fn widened(values: &ArrayRef, wanted: &DataType) -> Option<ArrayRef> {
    let wanted = match wanted {
        DataType::Dictionary(_, of) => of,
        other => other,
    };
    let found = values.data_type();
    if found == wanted {
        return Some(Arc::clone(values));
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let widens = found.is_integer() && wanted.is_integer();
    widens.then(|| cast_with_options(values, wanted, &strict).ok()).flatten()
}

/// Returns the outermost bound of all row groups. None where a group with values lacks one, or where no group has one.
fn outermost(values: &ArrayRef, all_null: &[bool], exact: &[bool], better: Ordering) -> Option<Precision<ScalarValue>> {
    let mut held: Option<(ScalarValue, bool)> = None;
    for (group, (all_null, exact)) in all_null.iter().zip(exact).enumerate() {
        if values.is_null(group) {
            if *all_null {
                continue;
            }
            return None;
        }
        let value = ScalarValue::try_from_array(values, group).ok()?;
        let order = match &held {
            Some((held, _)) => value.partial_cmp(held)?,
            None => better,
        };
        match (&mut held, order) {
            // One group has this value for certain. The file then has it, too, even where another group's bound is cut to it.
            (Some((_, held_exact)), Ordering::Equal) => *held_exact |= exact,
            (held, order) if order == better => *held = Some((value, *exact)),
            _ => {}
        }
    }
    held.map(|(value, exact)| if exact { Precision::Exact(value) } else { Precision::Inexact(value) })
}
