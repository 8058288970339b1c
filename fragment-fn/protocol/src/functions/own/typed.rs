//! Functions that are another one for each type of their arguments: `element_at`, `contains` and `typeof`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{cast, nullif};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit};
use datafusion::common::utils::take_function_args;
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_datafusion_err, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use super::super::forwarding::named_as_stock;
use super::super::scalar_named;
use super::lists::{ArraysOverlap, Slice};
use super::sequence::Sequence;
use crate::Advised;

pub(super) fn all() -> impl Iterator<Item = ScalarUDF> {
    let signature = || Signature::user_defined(Volatility::Immutable);
    [
        ScalarUDF::from(ElementAt { signature: signature(), is_tried: false }),
        ScalarUDF::from(Sequence::new()),
        ScalarUDF::from(Slice::new()),
        ScalarUDF::from(ArraysOverlap::new()),
        ScalarUDF::from(TypeOf { signature: signature() }),
    ]
    .into_iter()
}

/// Lists the forms that are NULL where they fail.
pub(super) fn tried() -> impl Iterator<Item = ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    [ScalarUDF::from(ElementAt { signature, is_tried: true }), ScalarUDF::from(Divisor::default())].into_iter()
}

pub(super) fn stock(name: &str) -> Result<&'static Arc<ScalarUDF>> {
    scalar_named(name).ok_or_else(|| exec_datafusion_err!("there is no function {name}"))
}

fn fields(types: &[DataType]) -> Vec<FieldRef> {
    types.iter().map(|of| Arc::new(Field::new("", of.clone(), true))).collect()
}

/// Returns the type of a call of another function.
pub(super) fn type_of(function: &ScalarUDF, types: &[DataType]) -> Result<DataType> {
    let scalars = vec![None; types.len()];
    let args = ReturnFieldArgs { arg_fields: &fields(types), scalar_arguments: &scalars };
    Ok(function.return_field_from_args(args)?.data_type().clone())
}

/// Calls another function in the place of `of`.
pub(super) fn call(function: &ScalarUDF, args: Vec<ColumnarValue>, of: &ScalarFunctionArgs) -> Result<ColumnarValue> {
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
pub(super) fn coerced(function: &ScalarUDF, types: &[DataType]) -> Result<Vec<DataType>> {
    let coerced = fields_with_udf(&fields(types), function)?;
    Ok(coerced.iter().map(|field| field.data_type().clone()).collect())
}

/// `element_at(array, place)` and `element_at(map, key)`: NULL where there is none.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ElementAt {
    signature: Signature,
    /// True if the element 0 is NULL, and no error.
    is_tried: bool,
}

const ELEMENT_AT: &str = "element_at";

impl ScalarUDFImpl for ElementAt {
    fn name(&self) -> &str {
        if self.is_tried { "gust_try_element_at" } else { ELEMENT_AT }
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
            DataType::Map(..) => {
                let types = coerced(stock("map_extract")?, arg_types)?;
                // 1.5 would find the key 1.
                match types.as_slice() {
                    [_, key] if key.is_integer() && !place.is_integer() && !place.is_null() => {
                        plan_err!("element_at(map, key): the keys are {key}, and {place} is given")
                    }
                    _ => Ok(types),
                }
            }
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
            Ok::<_, DataFusionError>(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(stock(name)?), args)))
        };
        let element = match info.get_data_type(of)? {
            DataType::List(_) | DataType::LargeList(_) => match place {
                Expr::Literal(ScalarValue::Int64(Some(0)), _) if self.is_tried => {
                    return Ok(ExprSimplifyResult::Original(args));
                }
                Expr::Literal(ScalarValue::Int64(Some(0)), _) => return Err(no_element_0()),
                Expr::Literal(..) => call("array_element", args)?,
                // Any row may ask for element 0.
                _ => return Ok(ExprSimplifyResult::Original(args)),
            },
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
            _ => {
                let places = cast(&args.args[1].to_array(args.number_rows)?, &DataType::Int64)?;
                let has_0 = places.as_primitive::<Int64Type>().iter().flatten().any(|place| place == 0);
                if has_0 && !self.is_tried {
                    return Err(no_element_0());
                }
                let places = if has_0 { without_zeros(&places)? } else { places };
                call(element, vec![args.args[0].clone(), ColumnarValue::Array(places)], &args)
            }
        }
    }
}

fn no_element_0() -> DataFusionError {
    Advised::new("an array has no element 0", "a[1] is the first element, a[-1] the last").into()
}

fn without_zeros(numbers: &ArrayRef) -> Result<ArrayRef> {
    let zero = ScalarValue::new_zero(numbers.data_type())?.to_scalar()?;
    Ok(nullif(numbers, &eq(numbers, &zero)?)?)
}

/// `gust_try_divisor(b, a)`: b, and NULL where `a / b` fails, which it does for a zero of whole numbers and decimals. A double is divided by zero.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Divisor {
    signature: Signature,
}

const DIVISOR: &str = "gust_try_divisor";

impl Default for Divisor {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Divisor {
    fn name(&self) -> &str {
        DIVISOR
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [_, _] = take_function_args(DIVISOR, arg_types)?;
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let [divisor, _] = take_function_args(DIVISOR, arg_types)?;
        Ok(divisor.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [divisor, divided] = take_function_args(DIVISOR, args.args)?;
        let is_exact = |of: &DataType| of.is_integer() || of.is_decimal();
        if !is_exact(&divisor.data_type()) || divided.data_type().is_floating() {
            return Ok(divisor);
        }
        Ok(ColumnarValue::Array(without_zeros(&divisor.to_array(rows)?)?))
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

pub(super) fn is_list(of: &DataType) -> bool {
    matches!(of, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..))
}

impl ScalarUDFImpl for Contains {
    named_as_stock!();

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
}

pub(super) fn has_null(list: &ArrayRef, row: usize) -> bool {
    let elements = match list.data_type() {
        DataType::List(_) => list.as_list::<i32>().value(row),
        DataType::LargeList(_) => list.as_list::<i64>().value(row),
        _ => list.as_fixed_size_list().value(row),
    };
    elements.logical_null_count() > 0
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
