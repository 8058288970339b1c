//! `gust_float_key`: a value whose bits are equal where SQL calls the values equal.
//!
//! −0.0 becomes 0.0 and every NaN the one positive NaN, also inside lists and structs. Engines compare, hash and sort floats
//! by their bits. Under this key there is one zero and one NaN, and NaN is the greatest value, as in DuckDB and PostgreSQL.
//! The coordinator's `dialect::float_keys` calls it where floats are grouped, joined, compared and ordered.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, make_array};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float16Type, Float32Type, Float64Type};
use datafusion::common::utils::take_function_args;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    ColumnarValue, ExpressionPlacement, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

type F16 = <Float16Type as ArrowPrimitiveType>::Native;

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct FloatKey {
    signature: Signature,
}

impl FloatKey {
    pub const NAME: &str = "gust_float_key";
}

impl Default for FloatKey {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for FloatKey {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let [of] = take_function_args(Self::NAME, arg_types)?;
        Ok(of.clone())
    }

    fn is_strict(&self) -> bool {
        true
    }

    /// Moves together with the struct field that it is called with: DataFusion 55.2 moves such a field alone, and then does not
    /// find it under the key.
    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        match args {
            [ExpressionPlacement::MoveTowardsLeafNodes] => ExpressionPlacement::MoveTowardsLeafNodes,
            _ => ExpressionPlacement::KeepInPlace,
        }
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        let [of] = take_function_args(Self::NAME, inputs)?;
        Interval::make_unbounded(&of.data_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [of] = take_function_args(Self::NAME, args.args)?;
        key(of)
    }
}

/// Makes the key of a value. A value whose type has no float is its own key.
pub(super) fn key(of: ColumnarValue) -> Result<ColumnarValue> {
    Ok(match of {
        ColumnarValue::Array(array) => ColumnarValue::Array(canonical(&array)?),
        ColumnarValue::Scalar(scalar) if has_floats(&scalar.data_type()) => {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&canonical(&scalar.to_array()?)?, 0)?)
        }
        scalar => scalar,
    })
}

/// Returns true where a value of this type is or contains a float.
pub fn has_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => has_floats(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_floats(field.data_type())),
        DataType::Dictionary(_, values) => has_floats(values),
        _ => false,
    }
}

fn canonical(array: &ArrayRef) -> Result<ArrayRef> {
    match array.data_type() {
        DataType::Float16 => Ok(floats::<Float16Type>(
            array,
            |v| is_odd(f64::from(v)),
            |v| if v.is_nan() { F16::NAN } else { F16::ZERO },
        )),
        DataType::Float32 => {
            Ok(floats::<Float32Type>(array, |v| is_odd(f64::from(v)), |v| if v.is_nan() { f32::NAN } else { 0.0 }))
        }
        DataType::Float64 => Ok(floats::<Float64Type>(array, is_odd, |v| if v.is_nan() { f64::NAN } else { 0.0 })),
        nested if has_floats(nested) => {
            let data = array.to_data();
            let children: Vec<ArrayRef> = data.child_data().iter().map(|child| make_array(child.clone())).collect();
            let canonical = children.iter().map(canonical).collect::<Result<Vec<_>>>()?;
            if children.iter().zip(&canonical).all(|(child, canonical)| Arc::ptr_eq(child, canonical)) {
                return Ok(Arc::clone(array));
            }
            let children = canonical.iter().map(|child| child.to_data()).collect();
            Ok(make_array(data.into_builder().child_data(children).build()?))
        }
        _ => Ok(Arc::clone(array)),
    }
}

/// Returns true for a zero or a NaN that may not be the canonical one.
fn is_odd(value: f64) -> bool {
    value.is_nan() || (value == 0.0 && value.is_sign_negative())
}

fn floats<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    is_odd: impl Fn(T::Native) -> bool,
    canonical: impl Fn(T::Native) -> T::Native,
) -> ArrayRef {
    let values: &PrimitiveArray<T> = array.as_primitive();
    // Most columns have none and stay as they are.
    if !values.values().iter().any(|value| is_odd(*value)) {
        return Arc::clone(array);
    }
    Arc::new(values.unary::<_, T>(|value| if is_odd(value) { canonical(value) } else { value }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float32Array, Float64Array, ListArray, StructArray};
    use arrow::datatypes::Field;

    fn bits(array: &ArrayRef) -> Vec<u64> {
        array.as_primitive::<Float64Type>().values().iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn there_is_one_zero_and_one_nan() {
        let odd = Float64Array::from(vec![-0.0, 0.0, -f64::NAN, f64::from_bits(0x7ff8_0000_0000_0001), -1.0]);
        let expect = [0.0, 0.0, f64::NAN, f64::NAN, -1.0].map(f64::to_bits);
        let floats: ArrayRef = Arc::new(odd);
        assert_eq!(bits(&canonical(&floats).unwrap()), expect);

        let field = Arc::new(Field::new("x", DataType::Float64, true));
        let inside: ArrayRef = Arc::new(StructArray::from(vec![(field, Arc::clone(&floats))]));
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>([
            Some(vec![Some(-0.0), None]),
            None,
            Some(vec![Some(-f64::NAN)]),
        ]));
        assert_eq!(bits(canonical(&inside).unwrap().as_struct().column(0)), expect);
        let lists = canonical(&lists).unwrap();
        assert_eq!(bits(&lists.as_list::<i32>().value(0))[0], 0.0_f64.to_bits());
        assert!(lists.is_null(1));

        let usual: ArrayRef = Arc::new(Float32Array::from(vec![Some(1.5), None]));
        assert!(Arc::ptr_eq(&canonical(&usual).unwrap(), &usual));
    }
}
