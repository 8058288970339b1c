//! `sequence`: integers, dates and times from one to another.
//!
//! Integers, days and shorter steps are those of DataFusion's `generate_series`, which adds a step to the last value. Months are
//! counted from the first value here.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, Int64Builder, ListArray, ListBuilder, make_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, TimeUnit};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::super::bounds::{self, ResultGrowth};
use super::dates::{Clock, stepped, values};
use super::typed::{call, stock};
use crate::Advised;

/// `sequence(first, last[, step])`: all values from the first to the last. It falls where the last is less.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Sequence {
    signature: Signature,
}

impl Sequence {
    pub(super) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

const SEQUENCE: &str = "sequence(first, last[, step])";

impl ScalarUDFImpl for Sequence {
    fn name(&self) -> &str {
        "sequence"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [first, last, step @ ..] = arg_types else { return plan_err!("{SEQUENCE} takes two or three arguments") };
        let interval = DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano);
        let (of, by) = match (first, last) {
            (DataType::Timestamp(_, zone), _) | (_, DataType::Timestamp(_, zone)) => {
                (DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()), interval)
            }
            (DataType::Date32 | DataType::Date64, _) | (_, DataType::Date32 | DataType::Date64) => {
                (DataType::Date32, interval)
            }
            (first, last) if [first, last].iter().all(|of| of.is_integer() || of.is_null()) => {
                (DataType::Int64, DataType::Int64)
            }
            (first, _) => return plan_err!("{SEQUENCE} is of integers, dates or timestamps, and {first} is given"),
        };
        match step {
            [] if matches!(of, DataType::Timestamp(..)) => {
                plan_err!("{SEQUENCE} of timestamps has a step, such as INTERVAL '1' HOUR")
            }
            [] => Ok(vec![of.clone(), of]),
            [step] if by == DataType::Int64 && !step.is_integer() && !step.is_null() => {
                plan_err!("{SEQUENCE} of integers has a step that is an integer, and {step} is given")
            }
            [_] => Ok(vec![of.clone(), of, by]),
            _ => plan_err!("{SEQUENCE} takes two or three arguments"),
        }
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let of = arg_types.first().cloned().unwrap_or(DataType::Null);
        Ok(DataType::List(Arc::new(Field::new_list_field(of, true))))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut given = args.args.clone();
        if let [first, last] = given.as_slice() {
            let step = default_step(first, last, args.number_rows)?;
            given.push(step);
        }
        if given[2].data_type() == DataType::Int64 {
            check_steps(&given, args.number_rows)?;
        } else if has_months(&given[2], args.number_rows)? {
            bounds::check(
                "sequence",
                ResultGrowth::Series,
                &ScalarFunctionArgs { args: given.clone(), ..args.clone() },
            )?;
            let is_constant = given.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
            let lists = by_months(&given, if is_constant { 1 } else { args.number_rows })?;
            return Ok(match is_constant {
                true => ColumnarValue::Scalar(ScalarValue::try_from_array(&lists, 0)?),
                false => ColumnarValue::Array(lists),
            });
        }
        call(stock("generate_series")?, given, &args)
    }
}

/// Refuses a step that leads away from the last value.
fn check_steps(given: &[ColumnarValue], rows: usize) -> Result<()> {
    let numbers = given.iter().map(|arg| Ok(arg.to_array(rows)?.as_primitive::<Int64Type>().clone()));
    let numbers: Vec<Int64Array> = numbers.collect::<Result<_>>()?;
    let [first, last, step] = numbers.as_slice() else { return Ok(()) };
    let leads_away = |row: usize| {
        let is_known = [first, last, step].iter().all(|numbers| numbers.is_valid(row));
        let (first, last) = (first.value(row), last.value(row));
        is_known && (step.value(row) == 0 || first != last && (step.value(row) > 0) != (last > first))
    };
    match (0..rows).find(|row| leads_away(*row)) {
        None => Ok(()),
        Some(row) => {
            let message =
                format!("sequence from {} to {} has no step of {}", first.value(row), last.value(row), step.value(row));
            Err(Advised::new(message, "a step below 0 falls; generate_series has no values then").into())
        }
    }
}

fn has_months(step: &ColumnarValue, rows: usize) -> Result<bool> {
    let steps = step.to_array(rows)?;
    Ok(steps.as_primitive::<IntervalMonthDayNanoType>().iter().flatten().any(|step| step.months != 0))
}

/// Makes lists of times. Each is counted from the first, so that the last day of a month is followed by last days.
fn by_months(given: &[ColumnarValue], rows: usize) -> Result<ArrayRef> {
    let [first, last, steps] = given else { return exec_err!("{SEQUENCE} takes two or three arguments") };
    let (first, last, steps) = (first.to_array(rows)?, last.to_array(rows)?, steps.to_array(rows)?);
    let of = first.data_type().clone();
    let clock = Clock::of(&of)?;
    let (first, last) = (values(&first)?, values(&last)?);
    let steps = steps.as_primitive::<IntervalMonthDayNanoType>();
    let mut lists = ListBuilder::new(Int64Builder::new());
    for row in 0..rows {
        if first.is_null(row) || last.is_null(row) || steps.is_null(row) {
            lists.append(false);
            continue;
        }
        let (from, to, step) = (first.value(row), last.value(row), steps.value(row));
        let falls = to < from;
        let mut value = Some(from);
        let mut n = 0;
        while let Some(next) = value.filter(|value| if falls { *value >= to } else { *value <= to }) {
            lists.values().append_value(next);
            n += 1;
            value = stepped(&clock, from, n, step);
            if value.is_some_and(|value| value == next || (value < next) != falls) {
                let message = format!("sequence has no step of {step:?} from its first value to its last");
                return Err(Advised::new(message, "a step below 0 falls").into());
            }
        }
        lists.append(true);
    }
    let item = Arc::new(Field::new_list_field(of.clone(), true));
    let (_, offsets, numbers, nulls) = lists.finish().into_parts();
    let numbers = match of {
        DataType::Date32 => cast(&cast(&numbers, &DataType::Int32)?, &of)?,
        _ => make_array(numbers.to_data().into_builder().data_type(of).build()?),
    };
    Ok(Arc::new(ListArray::try_new(item, offsets, numbers, nulls)?))
}

/// Returns 1, or −1 where the last value is less.
fn default_step(first: &ColumnarValue, last: &ColumnarValue, rows: usize) -> Result<ColumnarValue> {
    let is_constant = matches!((first, last), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
    let rows = if is_constant { 1 } else { rows };
    let is_date = first.data_type() == DataType::Date32;
    let integers = |of: &ColumnarValue| {
        let array = of.to_array(rows)?;
        let array = if is_date { cast(&array, &DataType::Int32)? } else { array };
        Ok::<_, DataFusionError>(cast(&array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
    };
    let (first, last) = (integers(first)?, integers(last)?);
    let steps = (0..rows).map(|row| if last.value(row) < first.value(row) { -1 } else { 1 });
    let steps: ArrayRef = if is_date {
        let steps = steps.map(|days| Some(IntervalMonthDayNano::new(0, days, 0)));
        Arc::new(steps.collect::<arrow::array::IntervalMonthDayNanoArray>())
    } else {
        Arc::new(steps.map(|step| Some(i64::from(step))).collect::<Int64Array>())
    };
    Ok(match is_constant {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&steps, 0)?),
        false => ColumnarValue::Array(steps),
    })
}
