//! `gust_merged_key`: mark of a name that means the merged key of `JOIN … USING`, until the planner knows the key.
//!
//! The coordinator's `dialect::using` writes it around unqualified keys, and `dialect::merged_keys` replaces it before
//! anything runs. It computes nothing: a call that is left over is an error.

use arrow::datatypes::DataType;
use datafusion::common::utils::take_function_args;
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct MergedKey {
    signature: Signature,
}

impl MergedKey {
    pub const NAME: &str = "gust_merged_key";
}

impl Default for MergedKey {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for MergedKey {
    fn name(&self) -> &str {
        Self::NAME
    }

    /// Returns the name of the key itself, so that columns are named as if the mark were not there.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [key] = take_function_args(Self::NAME, args)?;
        Ok(key.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let [key] = take_function_args(Self::NAME, arg_types)?;
        Ok(key.clone())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("the key of a USING join was not resolved")
    }
}
