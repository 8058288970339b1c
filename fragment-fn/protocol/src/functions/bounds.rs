//! Bounds of calls that make large values out of small numbers.
//!
//! `repeat('x', 10000000000)` allocates memory that no memory pool sees. Such a call's result is estimated from its
//! arguments, row by row, before the call. It is refused above [`CALL_RESULT_BYTES_MAX`] for one batch of rows. An estimate
//! may be larger than the result, but not smaller.

use arrow::array::{Array, ArrayRef, AsArray, GenericListArray, OffsetSizeTrait};
use arrow::compute::cast;
use arrow::compute::kernels::length::length;
use arrow::datatypes::IntervalUnit::MonthDayNano;
use arrow::datatypes::{DataType, Date32Type, Int64Type, IntervalMonthDayNanoType, TimeUnit};
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};

use crate::Advised;

/// Largest result of one call for one batch of rows, in bytes.
pub const CALL_RESULT_BYTES_MAX: u64 = 256 << 20;

const CHARACTER_BYTES_MAX: u128 = 4;
const SERIES_VALUE_BYTES: u128 = 8;
/// Length of a number or a point in time as text.
const VALUE_TEXT_BYTES: u128 = 32;
/// Longest usual replacement, and longest usual text. A batch of 8,192 rows makes 8 GiB of the two at most (a match at each
/// byte), and hardly ever that much.
const REPLACEMENT_BYTES: u128 = 64;
const MATCHED_BYTES: u128 = 16 << 10;
const HOUR_NS: i128 = 3_600_000_000_000;

/// Growth of a function's result with its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ResultGrowth {
    /// `repeat(text, times)`
    Repeated,
    /// `lpad(text, characters)`
    Padded,
    /// `replace(text, from, to)`
    Replaced,
    /// `range(start, stop, step)`
    Series,
    /// `array_repeat(value, times)`
    ArrayRepeated,
    /// `array_resize(list, length)`
    Resized,
    /// `array_to_string(list, delimiter)`
    Joined,
    /// `regexp_replace(text, pattern, replacement)`
    RegexpReplaced,
    /// `concat(text, text, …)`
    Concatenated,
    /// `concat_ws(separator, text, text, …)`
    Separated,
}

pub(super) fn growth_of(name: &str) -> Option<ResultGrowth> {
    Some(match name {
        "repeat" => ResultGrowth::Repeated,
        "lpad" | "rpad" => ResultGrowth::Padded,
        "replace" => ResultGrowth::Replaced,
        "range" | "generate_series" => ResultGrowth::Series,
        "array_repeat" => ResultGrowth::ArrayRepeated,
        "array_resize" => ResultGrowth::Resized,
        "array_to_string" => ResultGrowth::Joined,
        "regexp_replace" => ResultGrowth::RegexpReplaced,
        "concat" => ResultGrowth::Concatenated,
        "concat_ws" => ResultGrowth::Separated,
        _ => return None,
    })
}

/// Estimates a call's result.
///
/// # Errors
/// An execution error where the result would exceed [`CALL_RESULT_BYTES_MAX`].
pub(super) fn check(name: &str, growth: ResultGrowth, call: &ScalarFunctionArgs) -> Result<()> {
    let arrays = call.args.iter().any(|arg| matches!(arg, ColumnarValue::Array(_)));
    let rows = if arrays { call.number_rows } else { 1 };
    let of_row = estimate(growth, &call.args)?;
    let bytes = (0..rows).map(&of_row).fold(0u128, u128::saturating_add);
    if bytes > u128::from(CALL_RESULT_BYTES_MAX) {
        let what = format!(
            "`{name}` would make {bytes} bytes for {rows} rows at once; at most {CALL_RESULT_BYTES_MAX} are made"
        );
        let hint = "a smaller number; or fewer rows at once, by SET datafusion.execution.batch_size";
        return Err(Advised::new(what, hint).into());
    }
    Ok(())
}

type BytesByRow = Box<dyn Fn(usize) -> u128>;

/// Estimates the bytes of each row.
fn estimate(growth: ResultGrowth, args: &[ColumnarValue]) -> Result<BytesByRow> {
    let number = |index: usize| args.get(index).map_or_else(|| Ok(constant(None)), integers);
    let text = |index: usize| args.get(index).map_or_else(|| Ok(constant(None)), text_bytes);
    Ok(match growth {
        ResultGrowth::Repeated => {
            let (text, times) = (text(0)?, number(1)?);
            Box::new(move |row| product(text(row), times(row)))
        }
        ResultGrowth::Padded => {
            let characters = number(1)?;
            Box::new(move |row| positive(characters(row)).saturating_mul(CHARACTER_BYTES_MAX))
        }
        ResultGrowth::Replaced => {
            let (text, from, to) = (text(0)?, text(1)?, text(2)?);
            Box::new(move |row| product(text(row), to(row)) / positive(from(row)).max(1) + positive(text(row)))
        }
        ResultGrowth::ArrayRepeated => {
            let (bytes, times) = (value_bytes(&args[0])?, number(1)?);
            Box::new(move |row| positive(times(row)).saturating_mul(bytes))
        }
        ResultGrowth::Resized => {
            let (bytes, length) = (value_bytes(args.get(2).unwrap_or(&args[0]))?, number(1)?);
            Box::new(move |row| positive(length(row)).saturating_mul(bytes))
        }
        ResultGrowth::Joined => {
            let (values, bytes, delimiter) = (values_of_row(&args[0])?, value_bytes(&args[0])?, text(1)?);
            Box::new(move |row| values * (positive(delimiter(row)) + VALUE_TEXT_BYTES) + bytes)
        }
        // The number of matches is unknown before the call. A short replacement in a short text is harmless at any number.
        ResultGrowth::RegexpReplaced => {
            let (text, replacement) = (text(0)?, text(2)?);
            Box::new(move |row| match (positive(replacement(row)), positive(text(row))) {
                (0..=1, _) | (0..=REPLACEMENT_BYTES, 0..=MATCHED_BYTES) => 0,
                (bytes, text) => (text + 1).saturating_mul(bytes),
            })
        }
        ResultGrowth::Concatenated | ResultGrowth::Separated => {
            let is_text = |arg: &&ColumnarValue| arg.data_type().is_string();
            let texts = args.iter().filter(is_text).map(text_bytes).collect::<Result<Vec<_>>>()?;
            // `concat_ws` puts its first argument between all others.
            let between = if growth == ResultGrowth::Separated { texts.len().saturating_sub(2) as u128 } else { 0 };
            Box::new(move |row| {
                let all = texts.iter().map(|text| positive(text(row))).fold(0u128, u128::saturating_add);
                let first = texts.first().map_or(0, |text| positive(text(row)));
                all.saturating_add(first.saturating_mul(between))
            })
        }
        ResultGrowth::Series => series(args)?,
    })
}

fn series(args: &[ColumnarValue]) -> Result<BytesByRow> {
    let (start, stop, step) = match args {
        [stop] => (constant(Some(0)), points(stop)?, constant(Some(1))),
        [start, stop] => (points(start)?, points(stop)?, constant(Some(1))),
        [start, stop, step, ..] => (points(start)?, points(stop)?, points(step)?),
        [] => return Ok(Box::new(|_| 0)),
    };
    Ok(Box::new(move |row| match (start(row), stop(row), step(row)) {
        (Some(start), Some(stop), Some(step)) if step != 0 && (stop >= start) == (step > 0) => {
            (start.abs_diff(stop) / step.unsigned_abs() + 1).saturating_mul(SERIES_VALUE_BYTES)
        }
        _ => 0,
    }))
}

type Numbers = Box<dyn Fn(usize) -> Option<i128>>;

fn constant(value: Option<i128>) -> Numbers {
    Box::new(move |_| value)
}

fn positive(value: Option<i128>) -> u128 {
    value.and_then(|value| u128::try_from(value).ok()).unwrap_or(0)
}

fn product(a: Option<i128>, b: Option<i128>) -> u128 {
    positive(a).saturating_mul(positive(b))
}

fn array_of(arg: &ColumnarValue) -> Result<ArrayRef> {
    match arg {
        ColumnarValue::Array(array) => Ok(ArrayRef::clone(array)),
        ColumnarValue::Scalar(scalar) => scalar.to_array(),
    }
}

/// Reads `arg` by row, each value times `unit`. A scalar is the same in every row.
fn scaled(arg: &ColumnarValue, array: &ArrayRef, unit: i128) -> Result<Numbers> {
    let single = matches!(arg, ColumnarValue::Scalar(_));
    let numbers = cast(array, &DataType::Int64)?;
    let array = ArrayRef::clone(array);
    Ok(Box::new(move |row| {
        let row = if single { 0 } else { row };
        let numbers = numbers.as_primitive::<Int64Type>();
        match array.is_valid(row) {
            // A value that does not fit a BIGINT is large.
            true if numbers.is_null(row) => Some(i128::from(i64::MAX)),
            true => Some(i128::from(numbers.value(row)) * unit),
            false => None,
        }
    }))
}

fn integers(arg: &ColumnarValue) -> Result<Numbers> {
    scaled(arg, &array_of(arg)?, 1)
}

fn text_bytes(arg: &ColumnarValue) -> Result<Numbers> {
    let array = array_of(arg)?;
    if array.data_type().is_null() {
        return Ok(constant(None));
    }
    scaled(arg, &length(&array)?, 1)
}

/// Reads numbers as they are. Points in time and steps of time become nanoseconds; a step is never overestimated.
fn points(arg: &ColumnarValue) -> Result<Numbers> {
    let array = array_of(arg)?;
    match array.data_type() {
        DataType::Null => Ok(constant(None)),
        DataType::Date32 => scaled(arg, &cast(&array.as_primitive::<Date32Type>(), &DataType::Int32)?, 24 * HOUR_NS),
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => scaled(arg, &array, 1_000_000),
        DataType::Timestamp(TimeUnit::Second, _) => scaled(arg, &array, 1_000_000_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => scaled(arg, &array, 1_000),
        DataType::Interval(MonthDayNano) => {
            let single = matches!(arg, ColumnarValue::Scalar(_));
            Ok(Box::new(move |row| {
                let row = if single { 0 } else { row };
                let steps = array.as_primitive::<IntervalMonthDayNanoType>();
                let (months, days, ns) =
                    IntervalMonthDayNanoType::to_parts(steps.is_valid(row).then(|| steps.value(row))?);
                // A month has at least 28 days, a day at least 23 hours.
                Some((i128::from(months) * 28 + i128::from(days)) * 23 * HOUR_NS + i128::from(ns))
            }))
        }
        _ => scaled(arg, &array, 1),
    }
}

/// Counts the values in the lists of a row, on average. Lists in lists are counted by their values.
fn values_of_row(arg: &ColumnarValue) -> Result<u128> {
    fn of_lists<O: OffsetSizeTrait>(lists: &GenericListArray<O>) -> usize {
        let offsets = lists.value_offsets();
        let (first, end) = (offsets[0].as_usize(), offsets[lists.len()].as_usize());
        values(lists.values().slice(first, end - first).as_ref())
    }
    fn values(array: &dyn Array) -> usize {
        match array.data_type() {
            DataType::List(_) => of_lists(array.as_list::<i32>()),
            DataType::LargeList(_) => of_lists(array.as_list::<i64>()),
            DataType::FixedSizeList(..) => values(array.as_fixed_size_list().values().as_ref()),
            _ => array.len(),
        }
    }
    let array = array_of(arg)?;
    Ok((values(array.as_ref()) / array.len().max(1)) as u128)
}

/// Returns the bytes of one value, on average.
fn value_bytes(arg: &ColumnarValue) -> Result<u128> {
    let array = array_of(arg)?;
    let bytes = array.to_data().get_slice_memory_size()?;
    Ok((bytes / array.len().max(1)).max(1) as u128)
}
