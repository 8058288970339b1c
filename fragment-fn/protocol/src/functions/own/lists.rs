//! Functions of lists: `slice` and `arrays_overlap`.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, LargeListArray, ListArray, UInt64Array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::{ArrowNativeType, DataType, Int64Type};
use datafusion::common::utils::take_function_args;
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::typed::{call, coerced, has_null, is_list, stock};
use crate::Advised;

/// Elements of one row: their first place among the elements of all rows, and their number.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    length: usize,
}

/// Returns the elements of a row; None for NULL.
fn span(lists: &ArrayRef, row: usize) -> Option<Span> {
    let between = |first: usize, end: usize| Some(Span { first, length: end - first });
    match lists.data_type() {
        _ if lists.is_null(row) => None,
        DataType::List(_) => {
            let offsets = lists.as_list::<i32>().value_offsets();
            between(offsets[row].as_usize(), offsets[row + 1].as_usize())
        }
        DataType::LargeList(_) => {
            let offsets = lists.as_list::<i64>().value_offsets();
            between(offsets[row].as_usize(), offsets[row + 1].as_usize())
        }
        DataType::FixedSizeList(..) => {
            let lists = lists.as_fixed_size_list();
            between(lists.value_offset(row).as_usize(), lists.value_offset(row + 1).as_usize())
        }
        _ => None,
    }
}

/// Returns the elements of all rows.
fn elements(lists: &ArrayRef) -> Result<&ArrayRef> {
    match lists.data_type() {
        DataType::List(_) => Ok(lists.as_list::<i32>().values()),
        DataType::LargeList(_) => Ok(lists.as_list::<i64>().values()),
        DataType::FixedSizeList(..) => Ok(lists.as_fixed_size_list().values()),
        other => plan_err!("a list is wanted, and {other} is given"),
    }
}

/// Makes lists of some of each row's elements, by their places among the elements of all rows.
fn lists_of<I: Iterator<Item = usize>>(
    lists: &ArrayRef,
    mut kept: impl FnMut(usize, Span) -> Result<Option<I>>,
) -> Result<ArrayRef> {
    let (mut all, mut lengths, mut valid) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..lists.len() {
        let places = span(lists, row).map(|span| kept(row, span)).transpose()?.flatten();
        valid.push(places.is_some());
        let before = all.len();
        all.extend(places.into_iter().flatten().map(|place| place as u64));
        lengths.push(all.len() - before);
    }
    let elements = take(elements(lists)?, &UInt64Array::from(all), None)?;
    let nulls = Some(NullBuffer::from(valid));
    Ok(match lists.data_type() {
        DataType::LargeList(item) => {
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(LargeListArray::try_new(Arc::clone(item), offsets, elements, nulls)?)
        }
        DataType::List(item) | DataType::FixedSizeList(item, _) => {
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(ListArray::try_new(Arc::clone(item), offsets, elements, nulls)?)
        }
        other => return plan_err!("a list is wanted, and {other} is given"),
    })
}

/// Returns the lists without their NULLs.
pub(super) fn without_nulls(lists: &ArrayRef) -> Result<ArrayRef> {
    let Some(nulls) = elements(lists)?.logical_nulls().filter(|nulls| nulls.null_count() > 0) else {
        return Ok(Arc::clone(lists));
    };
    lists_of(lists, |_, span| {
        let nulls = &nulls;
        Ok(Some((span.first..span.first + span.length).filter(move |place| nulls.is_valid(*place))))
    })
}

/// Casts the type of a list whose length is fixed to one whose length is not.
fn of_any_length(of: &DataType) -> DataType {
    match of {
        DataType::FixedSizeList(item, _) => DataType::List(Arc::clone(item)),
        other => other.clone(),
    }
}

/// `slice(array, start, length)`: so many elements from a place on, which counts from the end where it is negative.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Slice {
    signature: Signature,
}

const SLICE: &str = "slice(array, start, length)";

impl Slice {
    pub(super) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Slice {
    fn name(&self) -> &str {
        "slice"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [of, numbers @ ..] = arg_types else { return plan_err!("{SLICE} takes three arguments") };
        if numbers.len() != 2 {
            return plan_err!("{SLICE} takes three arguments");
        }
        if !is_list(of) && !of.is_null() {
            return plan_err!("{SLICE} takes an array, and {of} is given");
        }
        if let Some(other) = numbers.iter().find(|of| !of.is_integer() && !of.is_null()) {
            return plan_err!("{SLICE}: start and length are integers, and {other} is given");
        }
        Ok(vec![of_any_length(of), DataType::Int64, DataType::Int64])
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let [of, _, _] = take_function_args("slice", arg_types)?;
        Ok(of.clone())
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [lists, start, length] = take_function_args("slice", args.args)?;
        if lists.data_type().is_null() {
            return Ok(lists);
        }
        let numbers = |of: ColumnarValue| {
            Ok::<Int64Array, datafusion::common::DataFusionError>(
                cast(&of.into_array(rows)?, &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
            )
        };
        let (start, length) = (numbers(start)?, numbers(length)?);
        let sliced = lists_of(&lists.into_array(rows)?, |row, span| {
            if start.is_null(row) || length.is_null(row) {
                return Ok(None);
            }
            let places = places(span.length, start.value(row), length.value(row))?;
            Ok(Some(span.first + places.start..span.first + places.end))
        })?;
        Ok(ColumnarValue::Array(sliced))
    }
}

/// Returns the places from `start` on, counted from 0. A start before the first element has none, as in Trino.
fn places(elements: usize, start: i64, length: i64) -> Result<Range<usize>> {
    if start == 0 || length < 0 {
        let message = format!("slice has no start of {start} and length of {length}");
        return Err(Advised::new(message, "places are counted from 1, or by -1 from the end").into());
    }
    let size = |number: i64| usize::try_from(number.unsigned_abs()).unwrap_or(usize::MAX);
    let first = if start > 0 { Some(size(start) - 1) } else { elements.checked_sub(size(start)) };
    let Some(first) = first.filter(|first| *first < elements) else { return Ok(0..0) };
    Ok(first..first.saturating_add(size(length)).min(elements))
}

/// `arrays_overlap(a, b)`: NULL where a common element may be a NULL, as in Trino.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ArraysOverlap {
    signature: Signature,
}

impl ArraysOverlap {
    pub(super) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ArraysOverlap {
    fn name(&self) -> &str {
        "arrays_overlap"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        coerced(stock("array_has_any")?, arg_types)
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let any = call(stock("array_has_any")?, args.args.clone(), &args)?.into_array(rows)?;
        let any = any.as_boolean();
        let lists: Vec<ArrayRef> = args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<_>>()?;
        let is_null = |list: &ArrayRef, row: usize| list.logical_nulls().is_some_and(|nulls| nulls.is_null(row));
        let overlap = (0..rows).map(|row| {
            if lists.iter().any(|list| is_null(list, row)) {
                return None;
            }
            let lengths = lists.iter().map(|list| span(list, row).map_or(0, |span| span.length));
            let may_be = lengths.min() > Some(0) && lists.iter().any(|list| has_null(list, row));
            match any.is_valid(row) && any.value(row) {
                true => Some(true),
                false if may_be => None,
                false => Some(false),
            }
        });
        Ok(ColumnarValue::Array(Arc::new(overlap.collect::<BooleanArray>())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_trinos() {
        let slice = |start, length| places(3, start, length).expect("places");
        for (start, length, expect) in [
            (1, 2, 0..2),
            (2, 9, 1..3),
            (3, 0, 2..2),
            (4, 1, 0..0),
            (-1, 2, 2..3),
            (-3, 2, 0..2),
            (-4, 4, 0..0),
            (i64::MIN, i64::MAX, 0..0),
            (i64::MAX, i64::MAX, 0..0),
        ] {
            assert_eq!(slice(start, length), expect, "{start} {length}");
        }
        assert!(places(3, 0, 1).is_err());
        assert!(places(3, 1, -1).is_err());
    }
}
