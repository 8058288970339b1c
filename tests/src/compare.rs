//! Compares two results, and names the first cell in which they differ.
//!
//! A [`Rule`] sets the strictness. The project needs two: [`Rule::same_engine`] and [`Rule::other_engine`].
//! Batch boundaries, nullability and metadata never count. Not for large results: rows are
//! held as values, one by one.

use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::path::Path;

use anyhow::Context;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, TimeUnit};
use arrow_ipc::reader::FileReader;
use datafusion::common::ScalarValue;
use thiserror::Error;

/// Share of the larger of two floats by which they may differ: engines add up sums in different orders.
const FLOAT_RELATIVE: f64 = 1e-9;

/// Differences that are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Rows may come in any order. Both sides are sorted first.
    pub any_order: bool,
    /// `Utf8`, `LargeUtf8` and `Utf8View` are one type. The kinds of binary are one type. A dictionary has its values' type.
    pub any_encoding: bool,
    /// Numbers compare by value whatever their type, and timestamps without a zone whatever their unit. An integer is exact.
    /// Two decimals of one scale are exact. Two decimals of different scales may differ by one unit of the coarser scale,
    /// and so may a decimal and a float: one engine may round an average or a quotient where another cuts it off.
    pub any_number: bool,
}

impl Rule {
    /// Returns the rule for two results of one engine: types and order are exact, only floats may differ.
    pub fn same_engine() -> Self {
        Self { any_order: false, any_encoding: false, any_number: false }
    }

    /// Returns the rule for a result against another engine's.
    pub fn other_engine() -> Self {
        Self { any_order: false, any_encoding: true, any_number: true }
    }

    /// Returns the same rule for rows in any order.
    pub fn in_any_order(self) -> Self {
        Self { any_order: true, ..self }
    }
}

/// First difference of two results.
#[derive(Debug, Error, PartialEq)]
pub enum Difference {
    #[error("columns differ: expected {expected:?}, got {actual:?}")]
    Columns { expected: Vec<String>, actual: Vec<String> },
    #[error("column {column} differs in type: expected {expected}, got {actual}")]
    Type { column: String, expected: DataType, actual: DataType },
    #[error("row counts differ: expected {expected}, got {actual}")]
    RowCount { expected: usize, actual: usize },
    /// Rows are counted from 0. If the rule sorts, they are counted in sorted order.
    #[error(
        "row {row}, column {column}: expected {expected}, got {actual}\n  expected row: {expected_row}\n  actual row:   {actual_row}"
    )]
    Cell {
        row: usize,
        column: String,
        expected: Box<str>,
        actual: Box<str>,
        expected_row: Box<str>,
        actual_row: Box<str>,
    },
    #[error("cannot read a value of column {column}: {reason}")]
    Unreadable { column: String, reason: String },
}

/// Compares `actual` with `expected`. A side without batches has neither columns nor rows, and equals any side without rows.
///
/// # Errors
/// The first [`Difference`]. Columns come before types, types before the number of rows, and that before cells in row order.
pub fn compare(expected: &[RecordBatch], actual: &[RecordBatch], rule: Rule) -> Result<(), Difference> {
    let row_count = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    if let (Some(expected), Some(actual)) = (expected.first(), actual.first()) {
        compare_schemas(expected.schema_ref(), actual.schema_ref(), rule)?;
    }
    let counts = (row_count(expected), row_count(actual));
    if counts.0 != counts.1 {
        return Err(Difference::RowCount { expected: counts.0, actual: counts.1 });
    }
    if counts.0 == 0 {
        return Ok(());
    }

    let (schema, actual_schema) = (expected[0].schema(), actual[0].schema());
    let mut expected = read_rows(expected)?;
    let mut actual = read_rows(actual)?;
    if rule.any_order {
        // Columns that may differ a little come last, so that they do not decide which rows face each other.
        let may_differ =
            |index: &usize| is_inexact(schema.field(*index).data_type(), actual_schema.field(*index).data_type());
        let mut order: Vec<usize> = (0..schema.fields().len()).collect();
        order.sort_by_key(may_differ);
        let by_order = |a: &Vec<Value>, b: &Vec<Value>| {
            let mut orderings = order.iter().map(|index| a[*index].order(&b[*index]));
            orderings.find(|ordering| ordering.is_ne()).unwrap_or(Ordering::Equal)
        };
        expected.sort_by(by_order);
        actual.sort_by(by_order);
    }
    for (row, (expected, actual)) in expected.iter().zip(&actual).enumerate() {
        let differs = (0..expected.len()).find(|index| !expected[*index].is_same(&actual[*index], rule));
        if let Some(index) = differs {
            return Err(Difference::Cell {
                row,
                column: schema.field(index).name().clone(),
                expected: expected[index].to_string().into(),
                actual: actual[index].to_string().into(),
                expected_row: show(expected).into(),
                actual_row: show(actual).into(),
            });
        }
    }
    Ok(())
}

/// Reads the batches of an Arrow IPC file. A file without batches gives one without rows, so that its columns are known.
///
/// # Errors
/// When the file cannot be read.
pub fn read_arrow_file(path: &Path) -> anyhow::Result<Vec<RecordBatch>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let reader = FileReader::try_new(file, None).with_context(|| format!("cannot decode {}", path.display()))?;
    let empty = RecordBatch::new_empty(reader.schema());
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>()?;
    Ok(if batches.is_empty() { vec![empty] } else { batches })
}

fn compare_schemas(expected: &Schema, actual: &Schema, rule: Rule) -> Result<(), Difference> {
    let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    if names(expected) != names(actual) {
        return Err(Difference::Columns { expected: names(expected), actual: names(actual) });
    }
    for (expected, actual) in expected.fields().iter().zip(actual.fields()) {
        if plain_type(expected.data_type(), rule) != plain_type(actual.data_type(), rule) {
            return Err(Difference::Type {
                column: expected.name().clone(),
                expected: expected.data_type().clone(),
                actual: actual.data_type().clone(),
            });
        }
    }
    Ok(())
}

/// Returns one type for all types that the rule treats as the same.
fn plain_type(data_type: &DataType, rule: Rule) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) if rule.any_encoding => plain_type(values, rule),
        DataType::LargeUtf8 | DataType::Utf8View if rule.any_encoding => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView if rule.any_encoding => DataType::Binary,
        number if rule.any_number && number.is_numeric() => DataType::Float64,
        DataType::Timestamp(_, zone) if rule.any_number => DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()),
        other => other.clone(),
    }
}

/// Value of a cell. All encodings of one value are equal.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Null,
    Integer(i128),
    Decimal {
        unscaled: i128,
        scale: i8,
    },
    Float(f64),
    /// Nanoseconds since 1970, without a zone.
    Time(i128),
    Text(String),
    Bytes(Vec<u8>),
    /// Dates, times, timestamps with a zone, booleans and nested values.
    Other(ScalarValue),
}

impl Value {
    fn of(scalar: ScalarValue) -> Self {
        use ScalarValue::*;
        if scalar.is_null() {
            return Value::Null;
        }
        match scalar {
            Dictionary(_, value) => Value::of(*value),
            Int8(Some(value)) => Value::Integer(value.into()),
            Int16(Some(value)) => Value::Integer(value.into()),
            Int32(Some(value)) => Value::Integer(value.into()),
            Int64(Some(value)) => Value::Integer(value.into()),
            UInt8(Some(value)) => Value::Integer(value.into()),
            UInt16(Some(value)) => Value::Integer(value.into()),
            UInt32(Some(value)) => Value::Integer(value.into()),
            UInt64(Some(value)) => Value::Integer(value.into()),
            Decimal32(Some(unscaled), _, scale) => Value::Decimal { unscaled: unscaled.into(), scale },
            Decimal64(Some(unscaled), _, scale) => Value::Decimal { unscaled: unscaled.into(), scale },
            Decimal128(Some(unscaled), _, scale) => Value::Decimal { unscaled, scale },
            Float32(Some(value)) => Value::Float(value.into()),
            Float64(Some(value)) => Value::Float(value),
            TimestampSecond(Some(value), None) => Value::Time(i128::from(value) * 1_000_000_000),
            TimestampMillisecond(Some(value), None) => Value::Time(i128::from(value) * 1_000_000),
            TimestampMicrosecond(Some(value), None) => Value::Time(i128::from(value) * 1_000),
            TimestampNanosecond(Some(value), None) => Value::Time(value.into()),
            Utf8(Some(text)) | LargeUtf8(Some(text)) | Utf8View(Some(text)) => Value::Text(text),
            Binary(Some(bytes)) | LargeBinary(Some(bytes)) | BinaryView(Some(bytes)) => Value::Bytes(bytes),
            other => Value::Other(other),
        }
    }

    fn is_same(&self, other: &Value, rule: Rule) -> bool {
        match (self, other) {
            (Value::Float(a), Value::Float(b)) => floats_agree(*a, *b, 0.0),
            (a, b) if !rule.any_number => a == b,
            (Value::Decimal { unscaled: a, scale }, Value::Integer(b))
            | (Value::Integer(b), Value::Decimal { unscaled: a, scale }) => {
                units(*scale).and_then(|units| b.checked_mul(units)) == Some(*a)
            }
            (Value::Decimal { unscaled: a, scale: left }, Value::Decimal { unscaled: b, scale: right }) => {
                match left.cmp(right) {
                    Ordering::Equal => a == b,
                    Ordering::Less => decimals_agree(*a, *b, right - left),
                    Ordering::Greater => decimals_agree(*b, *a, left - right),
                }
            }
            (Value::Decimal { unscaled, scale }, Value::Float(float))
            | (Value::Float(float), Value::Decimal { unscaled, scale }) => {
                let unit = 10_f64.powi(-i32::from(*scale));
                floats_agree(*unscaled as f64 * unit, *float, unit)
            }
            (Value::Integer(integer), Value::Float(float)) | (Value::Float(float), Value::Integer(integer)) => {
                *integer as f64 == *float
            }
            (a, b) => a == b,
        }
    }

    /// Orders values for sorting. Both sides come in the same order wherever their values are exact.
    fn order(&self, other: &Value) -> Ordering {
        match (self, other) {
            (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
            (Value::Decimal { unscaled: a, .. }, Value::Decimal { unscaled: b, .. }) => a.cmp(b),
            // The sign of a zero or of NaN does not count.
            (Value::Float(a), Value::Float(b)) => {
                let plain = |value: f64| if value.is_nan() { f64::NAN } else { value + 0.0 };
                plain(*a).total_cmp(&plain(*b))
            }
            (Value::Time(a), Value::Time(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
            (Value::Other(a), Value::Other(b)) => a.partial_cmp(b).unwrap_or_else(|| a.to_string().cmp(&b.to_string())),
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) => Ordering::Less,
            (_, Value::Null) => Ordering::Greater,
            // A column's values are of one kind.
            _ => Ordering::Equal,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => write!(f, "NULL"),
            Value::Integer(value) => write!(f, "{value}"),
            Value::Decimal { unscaled, scale } => {
                let digits = usize::try_from(*scale).unwrap_or(0);
                let sign = if *unscaled < 0 { "-" } else { "" };
                let text = format!("{:0width$}", unscaled.unsigned_abs(), width = digits + 1);
                let (whole, part) = text.split_at(text.len() - digits);
                let point = if digits == 0 { "" } else { "." };
                write!(f, "{sign}{whole}{point}{part}")
            }
            Value::Float(value) => write!(f, "{value}"),
            Value::Time(nanoseconds) => write!(f, "{nanoseconds} ns since 1970"),
            Value::Text(text) => write!(f, "{text:?}"),
            Value::Bytes(bytes) => write!(f, "{bytes:02x?}"),
            Value::Other(value) => write!(f, "{value}"),
        }
    }
}

fn read_rows(batches: &[RecordBatch]) -> Result<Vec<Vec<Value>>, Difference> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().enumerate().map(|(index, column)| {
                ScalarValue::try_from_array(column, row).map(Value::of).map_err(|error| Difference::Unreadable {
                    column: batch.schema_ref().field(index).name().clone(),
                    reason: error.to_string(),
                })
            });
            rows.push(cells.collect::<Result<_, _>>()?);
        }
    }
    Ok(rows)
}

fn show(row: &[Value]) -> String {
    row.iter().map(Value::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns whether values of these types may differ and yet count as the same.
fn is_inexact(expected: &DataType, actual: &DataType) -> bool {
    let scale = |data_type: &DataType| match data_type {
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => Some(*scale),
        _ => None,
    };
    let scales_differ = matches!((scale(expected), scale(actual)), (Some(a), Some(b)) if a != b);
    expected.is_floating() || actual.is_floating() || scales_differ
}

fn floats_agree(a: f64, b: f64, slack: f64) -> bool {
    let is_near = || (a - b).abs() <= slack + FLOAT_RELATIVE * a.abs().max(b.abs());
    // Without this check everything would be near to an infinity.
    a == b || (a.is_nan() && b.is_nan()) || (a.is_finite() && b.is_finite() && is_near())
}

/// Returns whether the values are within one unit of the coarser scale, which has `digits` fewer digits than the finer.
fn decimals_agree(coarser: i128, finer: i128, digits: i8) -> bool {
    let unit = units(digits);
    let distance = unit.and_then(|unit| coarser.checked_mul(unit)).and_then(|coarser| coarser.checked_sub(finer));
    matches!((unit, distance), (Some(unit), Some(distance)) if distance.unsigned_abs() <= unit.unsigned_abs())
}

/// Returns ten to the power of `scale`, unless it overflows.
fn units(scale: i8) -> Option<i128> {
    u32::try_from(scale).ok().and_then(|scale| 10_i128.checked_pow(scale))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, Decimal128Array, DictionaryArray, Float64Array, Int32Array, Int64Array, StringArray, StringViewArray,
    };
    use arrow::datatypes::Int32Type;

    use super::*;

    fn batch(columns: &[ArrayRef]) -> Vec<RecordBatch> {
        let named = columns.iter().enumerate().map(|(index, column)| (format!("c{index}"), Arc::clone(column)));
        vec![RecordBatch::try_from_iter(named).unwrap()]
    }

    fn ints(values: &[i64]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    fn floats(values: &[f64]) -> ArrayRef {
        Arc::new(Float64Array::from(values.to_vec()))
    }

    fn decimals(values: &[i128], scale: i8) -> ArrayRef {
        Arc::new(Decimal128Array::from(values.to_vec()).with_precision_and_scale(38, scale).unwrap())
    }

    const SAME: Rule = Rule { any_order: false, any_encoding: false, any_number: false };
    const OTHER: Rule = Rule { any_order: false, any_encoding: true, any_number: true };

    #[test]
    fn values_are_the_same_as_far_as_the_rule_allows() {
        let check = |expected: ArrayRef, actual: ArrayRef, rule: Rule, same: bool| {
            let result = compare(&batch(&[expected]), &batch(&[actual]), rule);
            assert_eq!(result.is_ok(), same, "{result:?}");
        };
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        let view: ArrayRef = Arc::new(StringViewArray::from(vec!["a"]));
        let dictionary: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::from_iter(["a"]));
        let short: ArrayRef = Arc::new(Int32Array::from(vec![7]));
        let null: ArrayRef = Arc::new(Int64Array::from(vec![None]));
        check(text.clone(), text.clone(), SAME, true);
        check(text.clone(), view.clone(), SAME, false);
        check(text.clone(), view, OTHER, true);
        check(dictionary, text.clone(), OTHER, true);
        check(text, short.clone(), OTHER, false);
        check(short.clone(), ints(&[7]), SAME, false);
        check(short.clone(), ints(&[7]), OTHER, true);
        check(short, ints(&[8]), OTHER, false);
        check(null.clone(), null.clone(), SAME, true);
        check(null, ints(&[0]), SAME, false);
        // Floats differ by one part in 10^9 at most. NaN equals NaN.
        check(floats(&[1e12]), floats(&[1e12 + 500.0]), SAME, true);
        check(floats(&[1e12]), floats(&[1e12 + 5000.0]), SAME, false);
        check(floats(&[f64::NAN]), floats(&[f64::NAN]), SAME, true);
        check(floats(&[f64::INFINITY]), floats(&[f64::INFINITY]), SAME, true);
        check(floats(&[f64::INFINITY]), floats(&[f64::NEG_INFINITY]), SAME, false);
        check(floats(&[f64::INFINITY]), floats(&[1.0]), SAME, false);
        check(floats(&[0.0]), floats(&[1e-300]), SAME, false);
        // Decimals of one scale are exact. Decimals of two scales differ by one unit of the coarser at most.
        check(decimals(&[100], 2), decimals(&[101], 2), OTHER, false);
        check(decimals(&[100], 2), decimals(&[1_009_999], 6), OTHER, true);
        check(decimals(&[100], 2), decimals(&[1_010_000], 6), OTHER, true);
        check(decimals(&[1_010_001], 6), decimals(&[100], 2), OTHER, false);
        check(decimals(&[100], 2), decimals(&[1_000_000], 6), SAME, false);
        check(decimals(&[1_333_333], 6), floats(&[4.0 / 3.0]), OTHER, true);
        check(decimals(&[1_333_330], 6), floats(&[4.0 / 3.0]), OTHER, false);
        // An integer is exact, whatever the other side's type.
        check(decimals(&[7], 0), ints(&[7]), OTHER, true);
        check(decimals(&[700], 2), ints(&[7]), OTHER, true);
        check(decimals(&[701], 2), ints(&[7]), OTHER, false);
        check(floats(&[7.1]), ints(&[7]), OTHER, false);
    }

    #[test]
    fn rows_in_any_order_are_sorted_before_they_are_compared() {
        let expected = batch(&[ints(&[1, 1, 2]), floats(&[0.1 + 0.2, 5.0, 7.0])]);
        let mut actual = batch(&[ints(&[2]), floats(&[7.0])]);
        actual.extend(batch(&[ints(&[1, 1]), floats(&[5.0, 0.3])]));
        assert!(compare(&expected, &actual, SAME).is_err());
        assert_eq!(compare(&expected, &actual, SAME.in_any_order()), Ok(()));
        let lost = batch(&[ints(&[1, 2, 2]), floats(&[0.3, 7.0, 7.0])]);
        assert!(compare(&expected, &lost, SAME.in_any_order()).is_err());
    }

    #[test]
    fn a_column_that_may_differ_does_not_decide_the_order_of_rows() {
        // Sorted by the floats, the second row of one side would face the first of the other.
        let expected = batch(&[floats(&[1.0, 1.0 + 1e-12]), ints(&[1, 2])]);
        let actual = batch(&[floats(&[1.0, 1.0 + 1e-12]), ints(&[2, 1])]);
        assert_eq!(compare(&expected, &actual, SAME.in_any_order()), Ok(()));
    }

    #[test]
    fn the_message_names_the_first_difference() {
        let check = |expected: &[RecordBatch], actual: &[RecordBatch], message: &str| {
            assert_eq!(compare(expected, actual, SAME).unwrap_err().to_string(), message);
        };
        let expected = batch(&[ints(&[1, 2]), decimals(&[5, -1234], 2)]);
        let message =
            "row 1, column c1: expected -12.34, got 12.34\n  expected row: 2, -12.34\n  actual row:   2, 12.34";
        check(&expected, &batch(&[ints(&[1, 2]), decimals(&[5, 1234], 2)]), message);
        check(&expected, &expected[..0], "row counts differ: expected 2, got 0");
        check(&expected, &batch(&[ints(&[1])]), r#"columns differ: expected ["c0", "c1"], got ["c0"]"#);
        let message = "column c1 differs in type: expected Decimal128(38, 2), got Int64";
        check(&expected, &batch(&[ints(&[1, 2]), ints(&[1, 2])]), message);
    }
}
