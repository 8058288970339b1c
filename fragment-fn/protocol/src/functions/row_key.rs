//! `gust_row_key`: bytes that are equal and ordered as their values are. NULL stays NULL.
//!
//! The coordinator's `planner::rules::unsound` calls it where a sort-merge join has keys of types that DataFusion compares
//! wrongly.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use datafusion::common::utils::take_function_args;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct RowKey {
    signature: Signature,
}

impl RowKey {
    pub const NAME: &str = "gust_row_key";
}

impl Default for RowKey {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for RowKey {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [of] = take_function_args(Self::NAME, args.args)?;
        Ok(match of {
            ColumnarValue::Array(array) => ColumnarValue::Array(keys(&array)?),
            ColumnarValue::Scalar(scalar) => {
                ColumnarValue::Scalar(ScalarValue::try_from_array(&keys(&scalar.to_array()?)?, 0)?)
            }
        })
    }
}

fn keys(array: &ArrayRef) -> Result<ArrayRef> {
    let converter = RowConverter::new(vec![SortField::new(array.data_type().clone())])?;
    let rows = converter.convert_columns(std::slice::from_ref(array))?;
    let nulls = array.logical_nulls();
    let is_valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
    let keys = (0..array.len()).map(|row| is_valid(row).then(|| rows.row(row).data()));
    Ok(Arc::new(keys.collect::<BinaryArray>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Float64Array};

    #[test]
    fn keys_are_ordered_as_values_are() {
        let values: ArrayRef =
            Arc::new(Float64Array::from(vec![Some(-1.5), Some(0.0), Some(2.0), Some(f64::NAN), None]));
        let keys = keys(&values).unwrap();
        let keys: Vec<Option<&[u8]>> = keys.as_binary::<i32>().iter().collect();
        assert!(keys[..4].is_sorted_by(|a, b| a.is_some() && a < b), "{keys:?}");
        assert_eq!(keys[4], None);
    }
}
