//! Statistics of a Parquet file that hold for all of its rows.
//!
//! A bound that does not hold makes wrong rows of right data: a row group is skipped, a maximum is answered without reading,
//! a value stands where another belongs. So statistics that do not hold are removed from a footer once, where it is read
//! ([`without_unreliable`]). The statistics of a whole file are computed here, too ([`file_statistics`]). Removed are:
//!
//! - the largest value of floats, their bloom filters and their page bounds: writers skip NaN, which the engine takes to be
//!   greater than any other value. The smallest value stays, as -0.0 where it is a zero; a smallest value of NaN goes;
//! - bounds in an order that is not the engine's: the deprecated fields of strings and of unsigned integers, INT96,
//!   intervals;
//! - bounds of another width than their type's, at which the reader panics, and a smallest value above the largest;
//! - all statistics of a nullable column whose nulls are not counted: the reader takes that for no nulls.
//!
//! This works around DataFusion 55.2, which believes a file's bounds even where a row group has none (apache/datafusion
//! 25226). It also works around parquet 59.3, whose converter heeds neither order nor NaN. `tests/tests/statistics.rs` says
//! when it can go.

mod file;

use parquet::basic::{ColumnOrder, LogicalType, SortOrder, Type};
use parquet::data_type::{
    BoolType, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, FloatType, Int32Type, Int64Type, Int96Type,
};
use parquet::errors::Result;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::schema::types::ColumnDescriptor;

pub use file::file_statistics;

/// Start of the name of a writer that, before its version 53.1, left out a null count of zero.
const LEAVES_OUT_ZERO_NULLS: &str = "parquet-rs version ";

/// Bounds of a column that can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeptBounds {
    Both,
    /// Only the smallest value: floats.
    Smallest,
    Neither,
}

/// Removes the statistics that do not hold for all rows from a footer.
///
/// # Errors
/// A footer whose parts do not fit together.
pub(crate) fn without_unreliable(metadata: ParquetMetaData) -> Result<ParquetMetaData> {
    let file = metadata.file_metadata();
    let zero_nulls_left_out = file.created_by().is_some_and(leaves_out_zero_nulls);
    let columns = file.schema_descr().columns().iter().enumerate();
    let bounds: Vec<KeptBounds> = columns.map(|(leaf, column)| bounds_of(column, file.column_order(leaf))).collect();
    let mut builder = metadata.into_builder();
    let mut groups = builder.take_row_groups();
    for group in &mut groups {
        for (column, bounds) in group.columns_mut().iter_mut().zip(&bounds) {
            if let Some(reliable) = chunk(column, *bounds, zero_nulls_left_out)? {
                *column = reliable;
            }
        }
    }
    let index = builder.take_column_index().map(|mut index| {
        for group in &mut index {
            for (column, bounds) in group.iter_mut().zip(&bounds) {
                if *bounds != KeptBounds::Both {
                    *column = ColumnIndexMetaData::NONE;
                }
            }
        }
        index
    });
    Ok(builder.set_row_groups(groups).set_column_index(index).build())
}

fn leaves_out_zero_nulls(writer: &str) -> bool {
    let mut version = writer.strip_prefix(LEAVES_OUT_ZERO_NULLS).unwrap_or_default().split('.').map(str::parse::<u32>);
    match (version.next(), version.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (53, 1),
        _ => false,
    }
}

fn bounds_of(column: &ColumnDescriptor, order: ColumnOrder) -> KeptBounds {
    if is_float(column) {
        return KeptBounds::Smallest;
    }
    match (order, sort_order(column)) {
        (ColumnOrder::UNKNOWN, _) | (_, SortOrder::UNDEFINED) => KeptBounds::Neither,
        _ if column.physical_type() == Type::INT96 => KeptBounds::Neither,
        _ => KeptBounds::Both,
    }
}

fn is_float(column: &ColumnDescriptor) -> bool {
    matches!(column.physical_type(), Type::FLOAT | Type::DOUBLE)
        || matches!(column.logical_type_ref(), Some(LogicalType::Float16))
}

fn sort_order(column: &ColumnDescriptor) -> SortOrder {
    ColumnOrder::sort_order_for_type(column.logical_type_ref(), column.converted_type(), column.physical_type())
}

/// Removes statistics that do not hold from a column chunk. None where all of them hold.
fn chunk(
    column: &ColumnChunkMetaData,
    bounds: KeptBounds,
    zero_nulls_left_out: bool,
) -> Result<Option<ColumnChunkMetaData>> {
    let blind_filter = bounds == KeptBounds::Smallest && column.bloom_filter_offset().is_some();
    let reliable = column.statistics().map(|found| reliable(found, column, bounds, zero_nulls_left_out));
    let is_whole = reliable.as_ref().is_none_or(|reliable| reliable.as_ref() == column.statistics());
    if is_whole && !blind_filter {
        return Ok(None);
    }
    let mut builder = column.clone().into_builder();
    if blind_filter {
        builder = builder.set_bloom_filter_offset(None).set_bloom_filter_length(None);
    }
    builder = match reliable.flatten() {
        Some(reliable) => builder.set_statistics(reliable),
        None => builder.clear_statistics(),
    };
    builder.build().map(Some)
}

fn reliable(
    found: &Statistics,
    column: &ColumnChunkMetaData,
    bounds: KeptBounds,
    zero_nulls_left_out: bool,
) -> Option<Statistics> {
    let leaf = column.column_descr();
    let may_be_null = leaf.max_def_level() > 0;
    let nulls = match found.null_count_opt() {
        None if may_be_null && !zero_nulls_left_out => return None,
        None => Some(0),
        Some(nulls) if i64::try_from(nulls).is_ok_and(|nulls| nulls <= column.num_values()) => Some(nulls),
        Some(_) => return None,
    };
    let in_order = !found.is_min_max_deprecated() || is_signed_number(leaf);
    let may_hold = in_order && has_width(found, leaf) && !are_swapped(found, leaf);
    let keep = if may_hold { bounds } else { KeptBounds::Neither };
    Some(match found {
        Statistics::Boolean(found) => Statistics::Boolean(kept::<BoolType>(found, nulls, keep, |_| None)),
        Statistics::Int32(found) => Statistics::Int32(kept::<Int32Type>(found, nulls, keep, |_| None)),
        Statistics::Int64(found) => Statistics::Int64(kept::<Int64Type>(found, nulls, keep, |_| None)),
        Statistics::Int96(found) => Statistics::Int96(kept::<Int96Type>(found, nulls, keep, |_| None)),
        Statistics::Float(found) => Statistics::Float(kept::<FloatType>(found, nulls, keep, |least| {
            (!least.is_nan()).then_some(if *least == 0.0 { -0.0 } else { *least })
        })),
        Statistics::Double(found) => Statistics::Double(kept::<DoubleType>(found, nulls, keep, |least| {
            (!least.is_nan()).then_some(if *least == 0.0 { -0.0 } else { *least })
        })),
        Statistics::ByteArray(found) => Statistics::ByteArray(kept::<ByteArrayType>(found, nulls, keep, |_| None)),
        Statistics::FixedLenByteArray(found) => {
            Statistics::FixedLenByteArray(kept::<FixedLenByteArrayType>(found, nulls, keep, |least| {
                smallest_half(least.data()).map(|bits| bits.to_le_bytes().to_vec().into())
            }))
        }
    })
}

/// Makes the statistics with the bounds to keep. `smallest` corrects the smallest value of a float.
fn kept<D: DataType>(
    found: &ValueStatistics<D::T>,
    nulls: Option<u64>,
    keep: KeptBounds,
    smallest: impl FnOnce(&D::T) -> Option<D::T>,
) -> ValueStatistics<D::T> {
    let (min, max) = match keep {
        KeptBounds::Both => (found.min_opt().cloned(), found.max_opt().cloned()),
        KeptBounds::Smallest => (found.min_opt().and_then(smallest), None),
        KeptBounds::Neither => (None, None),
    };
    let is_exact = keep == KeptBounds::Both;
    ValueStatistics::new(min, max, found.distinct_count(), nulls, false)
        .with_min_is_exact(is_exact && found.min_is_exact())
        .with_max_is_exact(is_exact && found.max_is_exact())
}

/// Corrects the smallest value of floats of 16 bits. It is stored in little-endian bytes.
fn smallest_half(bytes: &[u8]) -> Option<u16> {
    const SIGN: u16 = 0x8000;
    const INFINITY: u16 = 0x7c00;
    let bits = u16::from_le_bytes(bytes.try_into().ok()?);
    match bits & !SIGN {
        0 => Some(SIGN),
        magnitude if magnitude > INFINITY => None,
        _ => Some(bits),
    }
}

/// Returns true where a type had the same order before its order was defined.
fn is_signed_number(leaf: &ColumnDescriptor) -> bool {
    match leaf.physical_type() {
        Type::BOOLEAN | Type::FLOAT | Type::DOUBLE => true,
        Type::INT32 | Type::INT64 => sort_order(leaf) == SortOrder::SIGNED,
        Type::INT96 | Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY => false,
    }
}

/// Returns true where the smallest value is larger than the largest.
fn are_swapped(found: &Statistics, leaf: &ColumnDescriptor) -> bool {
    let is_signed = sort_order(leaf) == SortOrder::SIGNED;
    match found {
        Statistics::Boolean(found) => swapped(found, |min, max| min > max),
        Statistics::Int32(found) if is_signed => swapped(found, |min, max| min > max),
        Statistics::Int32(found) => swapped(found, |min, max| min.cast_unsigned() > max.cast_unsigned()),
        Statistics::Int64(found) if is_signed => swapped(found, |min, max| min > max),
        Statistics::Int64(found) => swapped(found, |min, max| min.cast_unsigned() > max.cast_unsigned()),
        Statistics::Int96(_) => false,
        Statistics::Float(found) => swapped(found, |min, max| min > max),
        Statistics::Double(found) => swapped(found, |min, max| min > max),
        Statistics::ByteArray(found) => swapped(found, |min, max| is_more(min.data(), max.data(), is_signed)),
        Statistics::FixedLenByteArray(_) if is_float(leaf) => false,
        Statistics::FixedLenByteArray(found) => swapped(found, |min, max| is_more(min.data(), max.data(), is_signed)),
    }
}

fn swapped<T>(found: &ValueStatistics<T>, is_more: impl FnOnce(&T, &T) -> bool) -> bool {
    matches!((found.min_opt(), found.max_opt()), (Some(min), Some(max)) if is_more(min, max))
}

/// Compares two values as bytes, or as the integers of decimals, whose widths may differ.
fn is_more(a: &[u8], b: &[u8], is_signed: bool) -> bool {
    if !is_signed {
        return a > b;
    }
    let is_negative = |bytes: &[u8]| bytes.first().is_some_and(|byte| *byte >= 0x80);
    let wide = |bytes: &[u8]| {
        let mut wide = vec![if is_negative(bytes) { 0xff } else { 0 }; 32_usize.saturating_sub(bytes.len())];
        wide.extend_from_slice(bytes);
        wide
    };
    match (is_negative(a), is_negative(b)) {
        (false, true) => true,
        (true, false) => false,
        _ => wide(a) > wide(b),
    }
}

/// Returns true where the bounds have the width of their type, or a width that its decimals can have.
fn has_width(found: &Statistics, leaf: &ColumnDescriptor) -> bool {
    let mut widths = [found.min_bytes_opt(), found.max_bytes_opt()].into_iter().flatten().map(<[u8]>::len);
    let is_decimal = sort_order(leaf) == SortOrder::SIGNED;
    let decimal_max = if leaf.type_precision() > 38 { 32 } else { 16 };
    match leaf.physical_type() {
        Type::FIXED_LEN_BYTE_ARRAY => {
            widths.all(|width| i32::try_from(width) == Ok(leaf.type_length()) && (!is_decimal || width <= decimal_max))
        }
        Type::BYTE_ARRAY if is_decimal => widths.all(|width| (1..=decimal_max).contains(&width)),
        // Writers that know no bounds leave both empty.
        Type::BYTE_ARRAY => found.max_bytes_opt().is_none_or(|max| !max.is_empty()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray};
    use datafusion::common::ScalarValue;
    use datafusion::common::stats::Precision;
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
    use parquet::file::properties::WriterProperties;

    use super::*;

    fn batch(floats: [f64; 2], numbers: [Option<i32>; 2], texts: [&str; 2]) -> RecordBatch {
        RecordBatch::try_from_iter([
            ("float", Arc::new(Float64Array::from(floats.to_vec())) as ArrayRef),
            ("number", Arc::new(Int32Array::from(numbers.to_vec()))),
            ("text", Arc::new(StringArray::from(texts.to_vec()))),
        ])
        .unwrap()
    }

    #[test]
    fn swapped_bounds_are_found_in_every_order() {
        for (a, b, is_signed, expect) in [
            (&[0x80][..], &[0x7f][..], false, true),
            (&[0x80], &[0x7f], true, false),
            (&[0x00, 0x80], &[0x7f], true, true),
            (&[0xff], &[0xff, 0x7f], true, true),
            (&[], &[0], false, false),
            (&[1], &[1], true, false),
        ] {
            assert_eq!(is_more(a, b, is_signed), expect, "{a:?} and {b:?}");
        }
    }

    /// Makes a footer of two row groups. Bounds of more than two bytes are cut.
    fn footer() -> (ParquetMetaData, RecordBatch) {
        let groups =
            [batch([7.0, f64::NAN], [Some(1), None], ["abc", "b"]), batch([0.0, 9.0], [None, None], ["a", "xyz"])];
        let properties =
            WriterProperties::builder().set_statistics_truncate_length(Some(2)).set_bloom_filter_enabled(true).build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, groups[0].schema(), Some(properties)).unwrap();
        for group in &groups {
            writer.write(group).unwrap();
            writer.flush().unwrap();
        }
        writer.close().unwrap();
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        reader.try_parse(&bytes::Bytes::from(bytes)).unwrap();
        (reader.finish().unwrap(), groups[0].clone())
    }

    #[test]
    fn floats_keep_their_smallest_value_alone() {
        let reliable = without_unreliable(footer().0).unwrap();
        let of = |group: usize, column: usize| reliable.row_group(group).column(column).clone();
        let Some(Statistics::Double(found)) = of(0, 0).statistics().cloned() else { panic!("doubles") };
        assert_eq!((found.min_opt(), found.max_opt(), found.null_count_opt()), (Some(&7.0), None, Some(0)));
        let Some(Statistics::Double(found)) = of(1, 0).statistics().cloned() else { panic!("doubles") };
        assert_eq!(found.min_opt().map(|least| least.to_bits()), Some((-0.0_f64).to_bits()));
        assert_eq!((of(0, 0).bloom_filter_offset(), of(0, 1).bloom_filter_offset().is_some()), (None, true));
        let index = reliable.column_index().unwrap();
        assert!(matches!(index[0], ref index if matches!(index[0], ColumnIndexMetaData::NONE)));
        assert!(matches!(index[0][1], ColumnIndexMetaData::INT32(_)));
        let Some(Statistics::Int32(found)) = of(0, 1).statistics().cloned() else { panic!("integers") };
        assert_eq!((found.min_opt(), found.max_opt(), found.null_count_opt()), (Some(&1), Some(&1), Some(1)));
    }

    #[test]
    fn a_missing_null_count_is_zero_only_for_old_writers() {
        for (writer, expect) in [
            ("parquet-rs version 52.2.0", true),
            ("parquet-rs version 53.0.0", true),
            ("parquet-rs version 53.1.0", false),
            ("parquet-rs version", false),
            ("parquet-mr version 1.8.1", false),
        ] {
            assert_eq!(leaves_out_zero_nulls(writer), expect, "{writer}");
        }
    }

    #[test]
    fn a_file_has_the_bounds_that_all_row_groups_have() {
        let (footer, rows) = footer();
        let found = file_statistics(&without_unreliable(footer).unwrap(), &rows.schema()).unwrap();
        assert_eq!(found.num_rows, Precision::Exact(4));
        let [float, number, text] = found.column_statistics.as_slice() else { panic!("three columns") };
        assert_eq!(float.max_value, Precision::Absent);
        assert_eq!(float.min_value, Precision::Inexact(ScalarValue::Float64(Some(-0.0))));
        // The bounds come from the other row group: this one has only NULLs.
        let one = Precision::Exact(ScalarValue::Int32(Some(1)));
        assert_eq!((&number.min_value, &number.max_value, number.null_count), (&one, &one, Precision::Exact(3)));
        assert_eq!(text.min_value, Precision::Exact(ScalarValue::Utf8(Some("a".to_owned()))));
        assert_eq!(text.max_value, Precision::Inexact(ScalarValue::Utf8(Some("xz".to_owned()))));
    }
}
