//! Functions that are another one for each type of their arguments: `element_at`, `contains`, `sequence` and `typeof`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, IntervalMonthDayNano, TimeUnit};
use datafusion::common::utils::take_function_args;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};

use super::super::scalar_named;
use crate::Advised;

pub(super) fn all() -> impl Iterator<Item = ScalarUDF> {
    let signature = || Signature::user_defined(Volatility::Immutable);
    [
        ScalarUDF::from(ElementAt { signature: signature() }),
        ScalarUDF::from(Sequence { signature: signature() }),
        ScalarUDF::from(TypeOf { signature: signature() }),
    ]
    .into_iter()
}

fn stock(name: &str) -> Result<&'static Arc<ScalarUDF>> {
    scalar_named(name).ok_or_else(|| exec_datafusion_err!("there is no function {name}"))
}

fn fields(types: &[DataType]) -> Vec<FieldRef> {
    types.iter().map(|of| Arc::new(Field::new("", of.clone(), true))).collect()
}

/// Returns the type of a call of another function.
fn type_of(function: &ScalarUDF, types: &[DataType]) -> Result<DataType> {
    let scalars = vec![None; types.len()];
    let args = ReturnFieldArgs { arg_fields: &fields(types), scalar_arguments: &scalars };
    Ok(function.return_field_from_args(args)?.data_type().clone())
}

/// Calls another function in the place of `of`.
fn call(function: &ScalarUDF, args: Vec<ColumnarValue>, of: &ScalarFunctionArgs) -> Result<ColumnarValue> {
    let types: Vec<DataType> = args.iter().map(ColumnarValue::data_type).collect();
    let return_field = Arc::new(Field::new("", type_of(function, &types)?, true));
    function.invoke_with_args(ScalarFunctionArgs {
        args,
        arg_fields: fields(&types),
        number_rows: of.number_rows,
        return_field,
        config_options: Arc::clone(&of.config_options),
    })
}

/// Returns the types that another function casts its arguments to.
fn coerced(function: &ScalarUDF, types: &[DataType]) -> Result<Vec<DataType>> {
    let coerced = fields_with_udf(&fields(types), function)?;
    Ok(coerced.iter().map(|field| field.data_type().clone()).collect())
}

/// `element_at(array, place)` and `element_at(map, key)`: NULL where there is none.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ElementAt {
    signature: Signature,
}

const ELEMENT_AT: &str = "element_at";

impl ScalarUDFImpl for ElementAt {
    fn name(&self) -> &str {
        ELEMENT_AT
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [of, place] = take_function_args(ELEMENT_AT, arg_types)?;
        match of {
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)
                if !place.is_integer() && !place.is_null() =>
            {
                plan_err!("element_at(array, place): place is an integer, and {place} is given")
            }
            DataType::List(_) | DataType::LargeList(_) => Ok(vec![of.clone(), DataType::Int64]),
            DataType::FixedSizeList(field, _) => Ok(vec![DataType::List(Arc::clone(field)), DataType::Int64]),
            DataType::Map(..) => coerced(stock("map_extract")?, arg_types),
            DataType::Null => Ok(arg_types.to_vec()),
            other => plan_err!("element_at takes an array or a map, and {other} is given"),
        }
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let [of, _] = take_function_args(ELEMENT_AT, arg_types)?;
        match of {
            DataType::List(field) | DataType::LargeList(field) => Ok(field.data_type().clone()),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => Ok(fields[1].data_type().clone()),
                other => plan_err!("a map of {other}"),
            },
            _ => Ok(DataType::Null),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let [of, place] = args.as_slice() else { return Ok(ExprSimplifyResult::Original(args)) };
        let call = |name: &str, args: Vec<Expr>| {
            Ok::<_, datafusion::common::DataFusionError>(Expr::ScalarFunction(ScalarFunction::new_udf(
                Arc::clone(stock(name)?),
                args,
            )))
        };
        let element = match info.get_data_type(of)? {
            DataType::List(_) | DataType::LargeList(_) => {
                if matches!(place, Expr::Literal(ScalarValue::Int64(Some(0)), _)) {
                    let hint = "a[1] is the first element, a[-1] the last";
                    return Err(Advised::new("an array has no element 0", hint).into());
                }
                call("array_element", args)?
            }
            DataType::Map(..) => call("array_element", vec![call("map_extract", args)?, lit(1i64)])?,
            _ => return Ok(ExprSimplifyResult::Original(args)),
        };
        Ok(ExprSimplifyResult::Simplified(element))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let element = stock("array_element")?;
        match args.args[0].data_type() {
            DataType::Null => Ok(ColumnarValue::Scalar(ScalarValue::Null)),
            DataType::Map(..) => {
                let found = call(stock("map_extract")?, args.args.clone(), &args)?;
                call(element, vec![found, ColumnarValue::Scalar(ScalarValue::Int64(Some(1)))], &args)
            }
            _ => call(element, args.args.clone(), &args),
        }
    }
}

/// `contains(text, part)`, and `contains(array, value)`: NULL where the value may be a NULL of the array.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Contains {
    stock: Arc<ScalarUDF>,
    signature: Signature,
}

impl Contains {
    pub(super) fn new(stock: Arc<ScalarUDF>) -> Self {
        Self { stock, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

fn is_list(of: &DataType) -> bool {
    matches!(of, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..))
}

impl ScalarUDFImpl for Contains {
    fn name(&self) -> &str {
        self.stock.name()
    }

    fn aliases(&self) -> &[String] {
        self.stock.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        if arg_types.first().is_some_and(is_list) {
            return coerced(stock("array_has")?, arg_types);
        }
        coerced(&self.stock, arg_types)
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match args.first() {
            Some(of) if !is_list(&info.get_data_type(of)?) => self.stock.simplify(args, info),
            _ => Ok(ExprSimplifyResult::Original(args)),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if !is_list(&args.args[0].data_type()) {
            return self.stock.invoke_with_args(args);
        }
        let list = args.args[0].to_array(args.number_rows)?;
        let value = args.args[1].to_array(args.number_rows)?;
        let has = call(stock("array_has")?, args.args.clone(), &args)?.into_array(args.number_rows)?;
        let has = has.as_boolean();
        let found = (0..args.number_rows).map(|row| {
            let is_known = !list.is_null(row) && !value.is_null(row);
            match has.is_valid(row) && has.value(row) {
                true if is_known => Some(true),
                _ if !is_known || has_null(&list, row) => None,
                _ => Some(false),
            }
        });
        Ok(ColumnarValue::Array(Arc::new(found.collect::<BooleanArray>())))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.stock.documentation()
    }
}

fn has_null(list: &ArrayRef, row: usize) -> bool {
    let elements = match list.data_type() {
        DataType::List(_) => list.as_list::<i32>().value(row),
        DataType::LargeList(_) => list.as_list::<i64>().value(row),
        _ => list.as_fixed_size_list().value(row),
    };
    elements.logical_null_count() > 0
}

/// `sequence(first, last[, step])`: all values from the first to the last. It falls where the last is less.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Sequence {
    signature: Signature,
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
        call(stock("generate_series")?, given, &args)
    }
}

/// Returns 1, or −1 where the last value is less.
fn default_step(first: &ColumnarValue, last: &ColumnarValue, rows: usize) -> Result<ColumnarValue> {
    let is_constant = matches!((first, last), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
    let rows = if is_constant { 1 } else { rows };
    let is_date = first.data_type() == DataType::Date32;
    let integers = |of: &ColumnarValue| {
        let array = of.to_array(rows)?;
        let array = if is_date { cast(&array, &DataType::Int32)? } else { array };
        Ok::<_, datafusion::common::DataFusionError>(
            cast(&array, &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
        )
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

/// `typeof(x)`: the name of a type, in Trino's words.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TypeOf {
    signature: Signature,
}

impl ScalarUDFImpl for TypeOf {
    fn name(&self) -> &str {
        "typeof"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [of] = take_function_args("typeof", arg_types)?;
        Ok(vec![of.clone()])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match args.first() {
            Some(of) => Ok(ExprSimplifyResult::Simplified(lit(name_of(&info.get_data_type(of)?)))),
            None => Ok(ExprSimplifyResult::Original(args)),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(ScalarValue::from(name_of(&args.args[0].data_type()))))
    }
}

fn name_of(of: &DataType) -> String {
    let digits = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    match of {
        DataType::Null => "unknown".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 => "tinyint".to_owned(),
        DataType::Int16 | DataType::UInt8 => "smallint".to_owned(),
        DataType::Int32 | DataType::UInt16 => "integer".to_owned(),
        DataType::Int64 | DataType::UInt32 => "bigint".to_owned(),
        DataType::UInt64 => "decimal(20,0)".to_owned(),
        DataType::Float16 | DataType::Float32 => "real".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Decimal32(digits, scale) | DataType::Decimal64(digits, scale) => format!("decimal({digits},{scale})"),
        DataType::Decimal128(digits, scale) | DataType::Decimal256(digits, scale) => {
            format!("decimal({digits},{scale})")
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "varchar".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "varbinary".to_owned()
        }
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Time32(unit) | DataType::Time64(unit) => format!("time({})", digits(unit)),
        DataType::Timestamp(unit, None) => format!("timestamp({})", digits(unit)),
        DataType::Timestamp(unit, Some(_)) => format!("timestamp({}) with time zone", digits(unit)),
        DataType::Dictionary(_, of) => name_of(of),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            format!("array({})", name_of(field.data_type()))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!("map({}, {})", name_of(fields[0].data_type()), name_of(fields[1].data_type()))
            }
            other => name_of(other),
        },
        DataType::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|field| format!("{} {}", field.name(), name_of(field.data_type()))).collect();
            format!("row({})", fields.join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_trinos_names() {
        let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8View, true)));
        let row = DataType::Struct(vec![Field::new("a", DataType::Int64, true), Field::new("b", list, true)].into());
        assert_eq!(name_of(&row), "row(a bigint, b array(varchar))");
        assert_eq!(name_of(&DataType::Timestamp(TimeUnit::Microsecond, None)), "timestamp(6)");
    }
}
