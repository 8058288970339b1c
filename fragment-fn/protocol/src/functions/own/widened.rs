//! Functions of DataFusion's that are another function for arguments of some type.
//!
//! ```text
//!  length(list)        array_length(list)    DuckDB's and Trino's; DataFusion 55.2 counts the signs of the list's text
//!  reverse(list)       array_reverse(list)   Trino's; DataFusion turns the list's text round
//!  cardinality(list)   array_length(list)    Trino's; DataFusion counts the values of lists in the list
//!  to_hex(bytes)       capital digits        Trino's and DuckDB's; DataFusion takes integers only
//! ```
//!
//! Any other call is DataFusion's own.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::super::forwarding::named_as_stock;
use super::typed::{call, coerced, is_list, stock};
use crate::Advised;

/// Function that a name is for other types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Other {
    /// Number of a list's elements, as BIGINT.
    Length,
    /// Number of a list's elements, in the type of the stock function.
    Cardinality,
    Reverse,
    Hex,
}

impl Other {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "character_length" => Self::Length,
            "cardinality" => Self::Cardinality,
            "reverse" => Self::Reverse,
            "to_hex" => Self::Hex,
            _ => return None,
        })
    }

    fn takes(self, of: &DataType) -> bool {
        match self {
            Self::Hex => of.is_binary(),
            _ => is_list(of),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Widened {
    stock: Arc<ScalarUDF>,
    other: Other,
    signature: Signature,
}

impl Widened {
    pub(super) fn new(stock: Arc<ScalarUDF>, other: Other) -> Self {
        Self { stock, other, signature: Signature::user_defined(Volatility::Immutable) }
    }

    fn is_other(&self, types: &[DataType]) -> bool {
        matches!(types, [of] if self.other.takes(of))
    }
}

impl ScalarUDFImpl for Widened {
    named_as_stock!();

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        match self.other {
            _ if !self.is_other(arg_types) => {}
            Other::Length | Other::Cardinality => return coerced(stock("array_length")?, arg_types),
            Other::Reverse => return coerced(stock("array_reverse")?, arg_types),
            Other::Hex => return Ok(vec![DataType::Binary]),
        }
        if self.other == Other::Hex && arg_types.iter().any(DataType::is_string) {
            let hint = "md5(x) is hexadecimal already; encode(x, 'hex') writes the bytes of a text";
            return Err(Advised::new("to_hex takes a number or bytes, and a text is given", hint).into());
        }
        coerced(&self.stock, arg_types)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match self.other {
            _ if !self.is_other(arg_types) => self.stock.return_type(arg_types),
            Other::Length => Ok(DataType::Int64),
            Other::Cardinality => Ok(DataType::UInt64),
            Other::Reverse => Ok(arg_types[0].clone()),
            Other::Hex => Ok(DataType::Utf8),
        }
    }

    fn is_strict(&self) -> bool {
        self.stock.is_strict()
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match args.first() {
            Some(of) if !self.other.takes(&info.get_data_type(of)?) => self.stock.simplify(args, info),
            _ => Ok(ExprSimplifyResult::Original(args)),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let types: Vec<DataType> = args.args.iter().map(ColumnarValue::data_type).collect();
        if !self.is_other(&types) {
            return self.stock.invoke_with_args(args);
        }
        match self.other {
            Other::Cardinality => call(stock("array_length")?, args.args.clone(), &args),
            Other::Length => call(stock("array_length")?, args.args.clone(), &args)?.cast_to(&DataType::Int64, None),
            Other::Reverse => call(stock("array_reverse")?, args.args.clone(), &args),
            Other::Hex => hex(&args.args[0]),
        }
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        self.stock.evaluate_bounds(inputs)
    }
}

fn hex(bytes: &ColumnarValue) -> Result<ColumnarValue> {
    let rows = if let ColumnarValue::Array(array) = bytes { array.len() } else { 1 };
    let array = cast(&bytes.to_array(rows)?, &DataType::Binary)?;
    let texts = array.as_binary::<i32>().iter().map(|bytes| {
        bytes.map(|bytes| {
            bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
                let written = write!(text, "{byte:02X}");
                debug_assert!(written.is_ok(), "a String has room");
                text
            })
        })
    });
    let texts: StringArray = texts.collect();
    Ok(match bytes {
        ColumnarValue::Array(_) => ColumnarValue::Array(Arc::new(texts)),
        ColumnarValue::Scalar(_) => ColumnarValue::Scalar(ScalarValue::try_from_array(&texts, 0)?),
    })
}
