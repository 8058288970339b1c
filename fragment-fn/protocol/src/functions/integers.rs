//! `gust_add`, `gust_subtract`, `gust_multiply`: integer arithmetic that fails where the result does not fit.
//!
//! DataFusion 55.2 wraps `+`, `-` and `*` of integers around (apache/datafusion#17539); its physical expression can be told to fail,
//! but no setting does so and the plan codec does not carry it. The coordinator's `dialect::integers` puts these where an
//! overflow is possible.

use datafusion::arrow::array::{ArrayRef, Datum};
use datafusion::arrow::compute::kernels::numeric::{add, mul, sub};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use datafusion::common::utils::take_function_args;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{ColumnarValue, Operator, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use datafusion::physical_expr_common::datum::apply;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IntegerOp {
    Add,
    Subtract,
    Multiply,
}

impl IntegerOp {
    /// The operation that an operator of SQL is, where it is one of these.
    pub fn of(operator: Operator) -> Option<Self> {
        match operator {
            Operator::Plus => Some(Self::Add),
            Operator::Minus => Some(Self::Subtract),
            Operator::Multiply => Some(Self::Multiply),
            _ => None,
        }
    }

    pub fn operator(self) -> Operator {
        match self {
            Self::Add => Operator::Plus,
            Self::Subtract => Operator::Minus,
            Self::Multiply => Operator::Multiply,
        }
    }

    /// The function's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "gust_add",
            Self::Subtract => "gust_subtract",
            Self::Multiply => "gust_multiply",
        }
    }

    fn kernel(self) -> fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError> {
        match self {
            Self::Add => add,
            Self::Subtract => sub,
            Self::Multiply => mul,
        }
    }
}

/// Of two integers of one type; so is the result.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct CheckedInteger {
    op: IntegerOp,
    signature: Signature,
}

impl CheckedInteger {
    pub fn new(op: IntegerOp) -> Self {
        Self { op, signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for CheckedInteger {
    fn name(&self) -> &str {
        self.op.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let [left, _] = take_function_args(self.name(), arg_types)?;
        Ok(left.clone())
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        let [left, right] = take_function_args(self.name(), inputs)?;
        // Of most functions no bounds are known, and not even their type.
        match (left.data_type(), right.data_type()) {
            (DataType::Null, other) | (other, DataType::Null) => return Interval::make_unbounded(&other),
            (left, right) if left != right => return Interval::make_unbounded(&left),
            _ => {}
        }
        match self.op {
            IntegerOp::Add => left.add(*right),
            IntegerOp::Subtract => left.sub(*right),
            IntegerOp::Multiply => left.mul(*right),
        }
    }

    /// As the operator's own: what does not wrap keeps its order.
    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        let [left, right] = take_function_args(self.name(), inputs)?;
        Ok(match self.op {
            IntegerOp::Add => left.sort_properties.add(&right.sort_properties),
            IntegerOp::Subtract => left.sort_properties.sub(&right.sort_properties),
            IntegerOp::Multiply => SortProperties::Unordered,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let integer = args.return_field.data_type().clone();
        let [left, right] = take_function_args(self.name(), args.args)?;
        apply(&left, &right, self.op.kernel()).map_err(|error| match error {
            DataFusionError::ArrowError(arrow, _) if matches!(*arrow, ArrowError::ArithmeticOverflow(_)) => {
                DataFusionError::Execution(format!(
                    "{integer} overflows: {arrow}\nhint: CAST(... AS DECIMAL(38, 0)) on one side has room for it"
                ))
            }
            other => other,
        })
    }
}
