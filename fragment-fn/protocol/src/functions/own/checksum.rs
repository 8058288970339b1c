//! `checksum`: eight bytes that are equal for equal values, in whatever order they come.
//!
//! It compares tables that Gust reads: each value's bytes are hashed with xxHash64, and the hashes are added up, as Trino does.
//! Trino hashes other bytes of some types, so that its sums are others. A NULL counts as a value of its own, and no row is NULL.
//! A partial state is the sum.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef, UInt64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, ScalarValue, not_impl_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, ColumnarValue, Signature, Volatility};
use twox_hash::XxHash64;

use super::super::float_key;

/// First prime of xxHash64. It spreads the hashes before they are added up, and stands for a NULL.
const PRIME: u64 = 0x9E37_79B1_85EB_CA87;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Checksum {
    signature: Signature,
}

impl Default for Checksum {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for Checksum {
    fn name(&self) -> &'static str {
        "checksum"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "sum"), DataType::UInt64, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return not_impl_err!("checksum with DISTINCT is not supported");
        }
        let converter = RowConverter::new(vec![SortField::new(args.expr_fields[0].data_type().clone())])?;
        Ok(Box::new(Sum { converter, sum: None }))
    }

    fn supports_null_handling_clause(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Sum {
    converter: RowConverter,
    /// None before the first row.
    sum: Option<u64>,
}

impl Sum {
    fn add(&mut self, more: u64) {
        self.sum = Some(self.sum.unwrap_or_default().wrapping_add(more));
    }
}

impl Accumulator for Sum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = float_key::key(ColumnarValue::Array(Arc::clone(&values[0])))?.into_array(values[0].len())?;
        let nulls = values.logical_nulls();
        let rows = self.converter.convert_columns(std::slice::from_ref(&values))?;
        for (place, row) in rows.iter().enumerate() {
            let is_null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(place));
            self.add(if is_null { PRIME } else { XxHash64::oneshot(0, row.data()).wrapping_mul(PRIME) });
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        states[0].as_primitive::<UInt64Type>().iter().flatten().for_each(|sum| self.add(sum));
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::UInt64(self.sum)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Binary(self.sum.map(|sum| sum.to_le_bytes().to_vec())))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.converter.size()
    }
}
