//! Functions of lambdas: `reduce`, `zip_with`, `map_filter` and `transform_values`.
//!
//! A lambda sees a column of elements at a time. `reduce` has as many columns as the longest array has elements: the first
//! elements of all rows, then the second ones of the rows that have one, and so on.

use std::cmp::Reverse;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, UInt32Array, new_empty_array, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast, cast_with_options, concat, take, take_arrays};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, HigherOrderFunctionArgs, HigherOrderReturnFieldArgs, HigherOrderSignature, HigherOrderUDF,
    HigherOrderUDFImpl, LambdaArgument, LambdaParametersProgress, ValueOrLambda, Volatility,
};

use super::super::CALL_RESULT_BYTES_MAX;
use crate::Advised;
use ValueOrLambda::{Lambda, Value};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Of {
    /// `reduce(array, state, (state, element) -> state, state -> result)`
    Reduce,
    /// `zip_with(array, array, (a, b) -> element)`: the shorter one goes on with NULLs.
    ZipWith,
    /// `map_filter(map, (key, value) -> condition)`
    MapFilter,
    /// `transform_values(map, (key, value) -> value)`
    TransformValues,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LambdaFunction {
    of: Of,
    signature: HigherOrderSignature,
}

pub(super) fn all() -> impl Iterator<Item = HigherOrderUDF> {
    [Of::Reduce, Of::ZipWith, Of::MapFilter, Of::TransformValues].into_iter().map(|of| {
        let arguments = match of {
            Of::Reduce => vec![Value(()), Value(()), Lambda(()), Lambda(())],
            Of::ZipWith => vec![Value(()), Value(()), Lambda(())],
            Of::MapFilter | Of::TransformValues => vec![Value(()), Lambda(())],
        };
        let signature = HigherOrderSignature::exact(arguments, Volatility::Immutable);
        HigherOrderUDF::new_from_impl(LambdaFunction { of, signature })
    })
}

fn nullable(of: &DataType) -> FieldRef {
    Arc::new(Field::new("", of.clone(), true))
}

fn list_of(of: &DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(of.clone(), true)))
}

/// Returns the type of an array's elements.
fn element(of: &DataType) -> Result<&DataType> {
    match of {
        DataType::List(field) => Ok(field.data_type()),
        other => plan_err!("an array is expected, and {other} is given"),
    }
}

/// Returns the types of a map's keys and values.
fn key_and_value(of: &DataType) -> Result<(&DataType, &DataType)> {
    if let DataType::Map(entries, _) = of
        && let DataType::Struct(fields) = entries.data_type()
        && let [key, value] = fields.as_ref()
    {
        return Ok((key.data_type(), value.data_type()));
    }
    plan_err!("a map is expected, and {of} is given")
}

/// Returns the type of a map with other values.
fn with_values(map: &DataType, value: &DataType) -> Result<DataType> {
    let (DataType::Map(entries, ordered), (key, _)) = (map, key_and_value(map)?) else {
        return plan_err!("a map is expected, and {map} is given");
    };
    let fields = vec![Field::new("key", key.clone(), false), Field::new("value", value.clone(), true)];
    let entries = entries.as_ref().clone().with_data_type(DataType::Struct(fields.into()));
    Ok(DataType::Map(Arc::new(entries), *ordered))
}

/// Returns true where a value of `made` becomes one of `state` unchanged, or is too large for it, which is an error.
fn fits(made: &DataType, state: &DataType) -> bool {
    let is_text = |of: &DataType| matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match (made, state) {
        (DataType::Null, _)
        | (DataType::Decimal128(_, 0), DataType::Int64)
        | (DataType::Float32, DataType::Float64) => true,
        (DataType::Decimal128(_, made), DataType::Decimal128(_, state)) => made <= state,
        (DataType::Decimal128(..), DataType::Float64) => true,
        (made, DataType::Decimal128(..) | DataType::Float64) if made.is_integer() => true,
        _ => made == state || made.is_integer() && state.is_integer() || is_text(made) && is_text(state),
    }
}

impl HigherOrderUDFImpl for LambdaFunction {
    fn name(&self) -> &str {
        match self.of {
            Of::Reduce => "reduce",
            Of::ZipWith => "zip_with",
            Of::MapFilter => "map_filter",
            Of::TransformValues => "transform_values",
        }
    }

    fn signature(&self) -> &HigherOrderSignature {
        &self.signature
    }

    fn coerce_value_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let list = |of: &DataType| match of {
            DataType::List(field)
            | DataType::LargeList(field)
            | DataType::ListView(field)
            | DataType::LargeListView(field)
            | DataType::FixedSizeList(field, _) => Ok(DataType::List(Arc::clone(field))),
            DataType::Null => Ok(list_of(&DataType::Null)),
            other => plan_err!("{} takes an array, and {other} is given", self.name()),
        };
        match (self.of, arg_types) {
            (Of::Reduce, [_, DataType::Null]) => {
                let hint = "give it one: CAST(NULL AS BIGINT)";
                Err(Advised::new("reduce: the first state is a NULL without a type", hint).into())
            }
            (Of::Reduce, [of, state]) => Ok(vec![list(of)?, state.clone()]),
            (Of::ZipWith, [a, b]) => Ok(vec![list(a)?, list(b)?]),
            (Of::MapFilter | Of::TransformValues, [of]) => key_and_value(of).map(|_| vec![of.clone()]),
            _ => plan_err!("{} does not take {} values", self.name(), arg_types.len()),
        }
    }

    fn lambda_parameters(
        &self,
        _: usize,
        fields: &[ValueOrLambda<FieldRef, Option<FieldRef>>],
    ) -> Result<LambdaParametersProgress> {
        let parameters = match (self.of, fields) {
            (Of::Reduce, [Value(list), Value(state), ..]) => {
                let state = nullable(state.data_type());
                vec![vec![Arc::clone(&state), nullable(element(list.data_type())?)], vec![state]]
            }
            (Of::ZipWith, [Value(a), Value(b), ..]) => {
                vec![vec![nullable(element(a.data_type())?), nullable(element(b.data_type())?)]]
            }
            (Of::MapFilter | Of::TransformValues, [Value(map), ..]) => {
                let (key, value) = key_and_value(map.data_type())?;
                vec![vec![nullable(key), nullable(value)]]
            }
            _ => return plan_err!("{} takes values and then lambdas", self.name()),
        };
        Ok(LambdaParametersProgress::Complete(parameters))
    }

    fn return_field_from_args(&self, args: HigherOrderReturnFieldArgs<'_>) -> Result<FieldRef> {
        let of = match (self.of, args.arg_fields) {
            (Of::Reduce, [Value(_), Value(state), Lambda(merged), Lambda(finished)]) => {
                let (state, merged) = (state.data_type(), merged.data_type());
                if !fits(merged, state) {
                    let message = format!("reduce: the state begins as {state}, and its lambda makes {merged}");
                    let hint = "cast the first state to the type that the lambda makes, such as CAST(0 AS DOUBLE)";
                    return Err(Advised::new(message, hint).into());
                }
                finished.data_type().clone()
            }
            (Of::ZipWith, [Value(_), Value(_), Lambda(made)]) => list_of(made.data_type()),
            (Of::MapFilter, [Value(map), Lambda(kept)]) => match kept.data_type() {
                DataType::Boolean | DataType::Null => map.data_type().clone(),
                other => return plan_err!("map_filter: the lambda is a condition, and makes {other}"),
            },
            (Of::TransformValues, [Value(map), Lambda(made)]) => with_values(map.data_type(), made.data_type())?,
            _ => return plan_err!("{} takes values and then lambdas", self.name()),
        };
        Ok(nullable(&of))
    }

    fn invoke_with_args(&self, args: HigherOrderFunctionArgs) -> Result<ColumnarValue> {
        let (rows, result) = (args.number_rows, args.return_type());
        let array = match (self.of, args.args.as_slice()) {
            (Of::Reduce, [Value(list), Value(state), Lambda(merge), Lambda(finish)]) => {
                reduce(list.to_array(rows)?.as_list(), &state.to_array(rows)?, merge, finish, result)?
            }
            (Of::ZipWith, [Value(a), Value(b), Lambda(made)]) => {
                zip_with(a.to_array(rows)?.as_list(), b.to_array(rows)?.as_list(), made, result)?
            }
            (Of::MapFilter, [Value(map), Lambda(kept)]) => map_filter(map.to_array(rows)?.as_map(), kept)?,
            (Of::TransformValues, [Value(map), Lambda(made)]) => {
                transform_values(map.to_array(rows)?.as_map(), made, result)?
            }
            _ => return exec_err!("{} takes values and then lambdas", self.name()),
        };
        Ok(ColumnarValue::Array(array))
    }
}

/// Takes elements by their places. No place is NULL where there are no elements.
fn taken(of: &ArrayRef, places: &UInt32Array) -> Result<ArrayRef> {
    match of.is_empty() {
        true => Ok(new_null_array(of.data_type(), places.len())),
        false => Ok(take(of, places, None)?),
    }
}

/// Returns the places of elements as Arrow's kernels want them. Lists have 32-bit offsets.
fn place(of: usize) -> u32 {
    u32::try_from(of).expect("a list of Arrow has fewer elements")
}

fn called(lambda: &LambdaArgument, parameters: &[ArrayRef], rows: &UInt32Array) -> Result<ArrayRef> {
    let given: Vec<_> = parameters.iter().map(|of| move || -> Result<ArrayRef> { Ok(Arc::clone(of)) }).collect();
    let given: Vec<_> = given.iter().map(|of| of as &dyn Fn() -> Result<ArrayRef>).collect();
    lambda.evaluate(&given, |captured| Ok(take_arrays(captured, rows, None)?))?.into_array(rows.len())
}

fn reduce(
    list: &ListArray,
    first: &ArrayRef,
    merge: &LambdaArgument,
    finish: &LambdaArgument,
    result: &DataType,
) -> Result<ArrayRef> {
    // Rows by falling length: those that still have elements are the first ones.
    let length = |row: u32| list.value_length(row as usize) as usize;
    let mut order: Vec<u32> = (0..list.len()).filter(|row| list.is_valid(*row)).map(place).collect();
    if order.is_empty() {
        return Ok(new_null_array(result, list.len()));
    }
    order.sort_by_key(|row| Reverse(length(*row)));
    let rows = UInt32Array::from(order.clone());
    let mut state = take(first, &rows, None)?;
    // States of rows that have ended, those of the longest rows last.
    let mut ended = Vec::new();
    for step in 0.. {
        let going = order.partition_point(|row| length(*row) > step);
        if going < state.len() {
            ended.push(state.slice(going, state.len() - going));
            state = state.slice(0, going);
        }
        if going == 0 {
            break;
        }
        let places = order[..going].iter().map(|row| place(list.value_offsets()[*row as usize] as usize + step));
        let element = take(list.values(), &UInt32Array::from_iter_values(places), None)?;
        let merged = called(merge, &[state, element], &rows.slice(0, going))?;
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        state = cast_with_options(&merged, first.data_type(), &strict)?;
        if state.get_array_memory_size() as u64 > CALL_RESULT_BYTES_MAX {
            let message = format!("reduce: states of more than {} MiB", CALL_RESULT_BYTES_MAX >> 20);
            return Err(Advised::new(message, "keep less in the state").into());
        }
    }
    ended.reverse();
    let states = concat(&ended.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
    let finished = called(finish, &[states], &rows)?;
    let mut places = vec![None; list.len()];
    order.iter().enumerate().for_each(|(at, row)| places[*row as usize] = Some(place(at)));
    Ok(take(&finished, &UInt32Array::from(places), None)?)
}

fn zip_with(a: &ListArray, b: &ListArray, lambda: &LambdaArgument, result: &DataType) -> Result<ArrayRef> {
    let DataType::List(field) = result else { return exec_err!("zip_with makes a list, and not {result}") };
    let nulls = NullBuffer::union(a.nulls(), b.nulls());
    let (mut rows, mut lengths) = (Vec::new(), Vec::with_capacity(a.len()));
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for row in 0..a.len() {
        let is_whole = nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        let [in_a, in_b] = [a, b].map(|list| if is_whole { list.value_length(row) as usize } else { 0 });
        let longest = in_a.max(in_b);
        lengths.push(longest);
        rows.extend(std::iter::repeat_n(place(row), longest));
        let places = |list: &ListArray, length: usize| {
            let first = list.value_offsets()[row] as usize;
            (0..longest).map(move |at| (at < length).then(|| place(first + at))).collect::<Vec<_>>()
        };
        of_a.extend(places(a, in_a));
        of_b.extend(places(b, in_b));
    }
    let made = match rows.is_empty() {
        true => new_empty_array(field.data_type()),
        false => {
            let parameters = [taken(a.values(), &of_a.into())?, taken(b.values(), &of_b.into())?];
            called(lambda, &parameters, &rows.into())?
        }
    };
    Ok(Arc::new(ListArray::try_new(Arc::clone(field), OffsetBuffer::from_lengths(lengths), made, nulls)?))
}

/// Entries of the maps of a column that are not NULL.
struct Entries {
    /// Row of each entry.
    rows: UInt32Array,
    entries: StructArray,
    lengths: Vec<usize>,
}

impl Entries {
    fn of(map: &MapArray) -> Result<Self> {
        let length = |row: usize| if map.is_valid(row) { map.value_length(row) as usize } else { 0 };
        let lengths: Vec<usize> = (0..map.len()).map(length).collect();
        let first = |row: usize| map.value_offsets()[row] as usize;
        let places = lengths.iter().enumerate().flat_map(|(row, length)| first(row)..first(row) + length);
        let rows = lengths.iter().enumerate().flat_map(|(row, length)| std::iter::repeat_n(place(row), *length));
        let entries: ArrayRef = Arc::new(map.entries().clone());
        let entries = taken(&entries, &UInt32Array::from_iter_values(places.map(place)))?.as_struct().clone();
        Ok(Self { rows: UInt32Array::from_iter_values(rows), entries, lengths })
    }
}

fn map_filter(map: &MapArray, lambda: &LambdaArgument) -> Result<ArrayRef> {
    let (DataType::Map(field, ordered), Entries { rows, entries, mut lengths }) = (map.data_type(), Entries::of(map)?)
    else {
        return exec_err!("map_filter of {}", map.data_type());
    };
    let kept = match rows.is_empty() {
        true => entries,
        false => {
            let kept = cast(&called(lambda, entries.columns(), &rows)?, &DataType::Boolean)?;
            let is_kept = |at: usize| kept.is_valid(at) && kept.as_boolean().value(at);
            (0..rows.len()).filter(|at| !is_kept(*at)).for_each(|at| lengths[rows.value(at) as usize] -= 1);
            let places = UInt32Array::from_iter_values((0..rows.len()).filter(|at| is_kept(*at)).map(place));
            take(&entries, &places, None)?.as_struct().clone()
        }
    };
    let (offsets, nulls) = (OffsetBuffer::from_lengths(lengths), map.nulls().cloned());
    Ok(Arc::new(MapArray::try_new(Arc::clone(field), offsets, kept, nulls, *ordered)?))
}

fn transform_values(map: &MapArray, lambda: &LambdaArgument, result: &DataType) -> Result<ArrayRef> {
    let (DataType::Map(field, ordered), (_, value)) = (result, key_and_value(result)?) else {
        return exec_err!("transform_values makes a map, and not {result}");
    };
    let DataType::Struct(fields) = field.data_type() else { return exec_err!("a map of {field}") };
    let Entries { rows, entries, lengths } = Entries::of(map)?;
    let values = match rows.is_empty() {
        true => new_empty_array(value),
        false => called(lambda, entries.columns(), &rows)?,
    };
    let entries = StructArray::try_new(fields.clone(), vec![Arc::clone(entries.column(0)), values], None)?;
    let (offsets, nulls) = (OffsetBuffer::from_lengths(lengths), map.nulls().cloned());
    Ok(Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *ordered)?))
}
