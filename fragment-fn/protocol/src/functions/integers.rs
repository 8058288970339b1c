//! `gust_integers('+-', a, b, c)`: integer arithmetic from left to right that fails where a result does not fit.
//!
//! DataFusion 55.2 wraps `+`, `-` and `*` of integers around (apache/datafusion#17539). Its physical expression can be told to
//! fail, but no setting does so, and the plan codec does not carry it. The coordinator's `dialect::integers` calls this
//! function where an overflow is possible.
//!
//! A chain is one call. DataFusion's planner takes n² steps to ask for the type of n calls inside each other
//! (`ExprSchemable::to_field` writes the name of each), and it asks at each of them.

use arrow::array::{ArrayRef, Datum};
use arrow::compute::kernels::numeric::{add, div, mul, rem, sub};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{ColumnarValue, Operator, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use datafusion::physical_expr_common::datum::apply;

use crate::Advised;

const NAME: &str = "gust_integers";

/// Most operands of one call. Each operand is held for a batch of rows.
pub const OPERANDS_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IntegerOp {
    Add,
    Subtract,
    Multiply,
    /// Division does not wrap in DataFusion. It may stand between operators that do.
    Divide,
    Remainder,
}

impl IntegerOp {
    const ALL: [(Self, Operator, char); 5] = [
        (Self::Add, Operator::Plus, '+'),
        (Self::Subtract, Operator::Minus, '-'),
        (Self::Multiply, Operator::Multiply, '*'),
        (Self::Divide, Operator::Divide, '/'),
        (Self::Remainder, Operator::Modulo, '%'),
    ];

    /// Returns the operation of an SQL operator. None where the operator is none of these.
    pub fn of(operator: Operator) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, of, _)| *of == operator).map(|(op, ..)| op)
    }

    /// Returns the operation's sign in the function's first argument.
    pub fn sign(self) -> char {
        let sign = Self::ALL.into_iter().find(|(op, ..)| *op == self).map(|(.., sign)| sign);
        sign.expect("all are listed")
    }

    fn of_signs(signs: &ScalarValue) -> Result<Vec<Self>> {
        let read = |sign| Self::ALL.into_iter().find(|(.., of)| *of == sign).map(|(op, ..)| op);
        let signs = signs.try_as_str().flatten().and_then(|text| text.chars().map(read).collect());
        signs.ok_or_else(|| DataFusionError::Internal(format!("{NAME}: the first argument is no list of operators")))
    }

    fn kernel(self) -> fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError> {
        match self {
            Self::Add => add,
            Self::Subtract => sub,
            Self::Multiply => mul,
            Self::Divide => div,
            Self::Remainder => rem,
        }
    }
}

/// Function over integers of one type, which is also its result's.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct IntegerChain {
    signature: Signature,
}

impl IntegerChain {
    pub const NAME: &str = NAME;
}

impl Default for IntegerChain {
    fn default() -> Self {
        Self { signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for IntegerChain {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [_, first, ..] => Ok(first.clone()),
            _ => plan_err!("{NAME}: no operands"),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        let [signs, first, others @ ..] = inputs else { return plan_err!("{NAME}: no operands") };
        let operands = || std::iter::once(first).chain(others);
        // DataFusion knows no bounds of most functions' results, and gives them the type NULL.
        let integer = operands().map(|operand| operand.data_type()).find(|of| !of.is_null()).unwrap_or(DataType::Null);
        if signs.lower() != signs.upper() || operands().any(|operand| operand.data_type() != integer) {
            return Interval::make_unbounded(&integer);
        }
        let ops = IntegerOp::of_signs(signs.lower())?;
        let mut bounds = (*first).clone();
        for (op, other) in ops.into_iter().zip(others) {
            bounds = match op {
                IntegerOp::Add => bounds.add(*other)?,
                IntegerOp::Subtract => bounds.sub(*other)?,
                IntegerOp::Multiply => bounds.mul(*other)?,
                IntegerOp::Divide | IntegerOp::Remainder => Interval::make_unbounded(&integer)?,
            };
        }
        Ok(bounds)
    }

    /// Keeps an order where the operators do: arithmetic that does not wrap is monotonic.
    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        let [signs, first, others @ ..] = inputs else { return plan_err!("{NAME}: no operands") };
        if signs.range.lower() != signs.range.upper() {
            return Ok(SortProperties::Unordered);
        }
        let ops = IntegerOp::of_signs(signs.range.lower())?.into_iter().zip(others);
        Ok(ops.fold(first.sort_properties, |order, (op, other)| match op {
            IntegerOp::Add => order.add(&other.sort_properties),
            IntegerOp::Subtract => order.sub(&other.sort_properties),
            IntegerOp::Multiply | IntegerOp::Divide | IntegerOp::Remainder => SortProperties::Unordered,
        }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let integer = args.return_field.data_type().clone();
        let mut args = args.args.into_iter();
        let (Some(ColumnarValue::Scalar(signs)), Some(first)) = (args.next(), args.next()) else {
            return plan_err!("{NAME}: its operators are not a constant");
        };
        let ops = IntegerOp::of_signs(&signs)?;
        if ops.len() != args.len() {
            return plan_err!("{NAME}: {} operators between {} operands", ops.len(), args.len() + 1);
        }
        let computed = ops.into_iter().zip(args).try_fold(first, |left, (op, right)| apply(&left, &right, op.kernel()));
        computed.map_err(|error| match error {
            DataFusionError::ArrowError(arrow, _) if matches!(*arrow, ArrowError::ArithmeticOverflow(_)) => {
                let hint = "CAST(... AS DECIMAL(38, 0)) on one side has room for it";
                Advised::new(format!("{integer} overflows: {arrow}"), hint).into()
            }
            other => other,
        })
    }
}
