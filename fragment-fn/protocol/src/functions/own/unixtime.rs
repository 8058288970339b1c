//! `from_unixtime` of a float or a decimal, which keeps its milliseconds, as in Trino. DataFusion 55.2 cuts it off at the point.

use std::sync::Arc;

use arrow::array::{AsArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, TimeUnit};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::super::forwarding::named_as_stock;
use super::typed::coerced;

/// DataFusion's function for integers; the result of a fraction has milliseconds.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct FromUnixtime {
    stock: Arc<ScalarUDF>,
    signature: Signature,
}

impl FromUnixtime {
    pub(super) fn new(stock: Arc<ScalarUDF>) -> Self {
        Self { stock, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for FromUnixtime {
    named_as_stock!();

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        match arg_types {
            [of] if of.is_floating() || of.is_decimal() => Ok(vec![DataType::Float64]),
            _ => coerced(&self.stock, arg_types),
        }
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.stock.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        match args.arg_fields {
            [of] if of.data_type() == &DataType::Float64 => {
                let milliseconds = DataType::Timestamp(TimeUnit::Millisecond, None);
                Ok(Arc::new(Field::new(self.name(), milliseconds, true)))
            }
            _ => self.stock.return_field_from_args(args),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if args.args[0].data_type() != DataType::Float64 {
            return self.stock.invoke_with_args(args);
        }
        let seconds = args.args[0].to_array(args.number_rows)?;
        let milliseconds = seconds.as_primitive::<Float64Type>().try_unary(|seconds| {
            let milliseconds = (seconds * 1000.0).round();
            // The bounds of a BIGINT are powers of two, which a double has exactly.
            match (i64::MIN as f64..i64::MAX as f64).contains(&milliseconds) {
                true => Ok(milliseconds as i64),
                false => exec_err!("from_unixtime: {seconds} is no number of seconds that a timestamp can have"),
            }
        });
        let milliseconds: TimestampMillisecondArray = milliseconds?;
        Ok(ColumnarValue::Array(Arc::new(milliseconds)))
    }
}
