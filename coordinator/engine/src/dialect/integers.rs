//! Integer arithmetic that fails where its result does not fit.
//!
//! DataFusion 55.2 wraps `+`, `-`, `*` and the sign of integers around (apache/datafusion#17539). The operator becomes
//! the checked function of [`gust_protocol::functions`], unless the operands' types rule an overflow out. So
//! `CAST(i AS BIGINT) + 1` of an INT stays as it is, and `b + 1` of a BIGINT does not. A chain of operators becomes few
//! calls, not one for each.
//!
//! Take this out when `SELECT 9223372036854775807 + b` over a BIGINT 1 is an error without it.

use std::ops::RangeInclusive;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, lit};
use datafusion::optimizer::AnalyzerRule;
use gust_protocol::functions::{self, IntegerChain, IntegerOp, OPERANDS_MAX};

#[derive(Debug)]
pub(super) struct CheckedIntegers;

impl AnalyzerRule for CheckedIntegers {
    fn name(&self) -> &str {
        "gust_integers"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            super::map_named(plan, |expr| expr.transform_up(|expr| checked(expr, &schema)))
        })
        .data()
    }
}

fn checked(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (operator, left, right) = match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => (op, left, right),
        Expr::Negative(of) => match type_of(&of, schema) {
            Ok(integer) if integer.is_signed_integer() && !matches!(*of, Expr::Literal(..)) => {
                (Operator::Minus, Box::new(lit(ScalarValue::new_zero(&integer)?)), of)
            }
            _ => return Ok(Transformed::no(Expr::Negative(of))),
        },
        other => return Ok(Transformed::no(other)),
    };
    let plain = |left, right| Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op: operator, right })));
    let Some(op) = IntegerOp::of(operator) else { return plain(left, right) };
    // An operator that cannot overflow is only taken into a chain that can: the chain stays one call.
    let in_chain = operands(&left).is_some_and(|count| count < OPERANDS_MAX);
    if !in_chain && matches!(op, IntegerOp::Divide | IntegerOp::Remainder) {
        return plain(left, right);
    }
    // A placeholder may have no type yet.
    let (Ok(left_type), Ok(right_type)) = (type_of(&left, schema), type_of(&right, schema)) else {
        return plain(left, right);
    };
    if left_type != right_type
        || !left_type.is_integer()
        || !in_chain && cannot_overflow(op, &left, &right, &left_type, schema)
    {
        return plain(left, right);
    }
    let Some(function) = functions::scalar_named(IntegerChain::NAME) else { return plain(left, right) };
    let mut args = match *left {
        Expr::ScalarFunction(chain) if in_chain => chain.args,
        first => vec![lit(""), first],
    };
    if let Expr::Literal(ScalarValue::Utf8(Some(signs)), _) = &mut args[0] {
        signs.push(op.sign());
    }
    args.push(*right);
    Ok(Transformed::yes(function.call(args)))
}

/// Counts the operands of a checked call. Another expression has None.
fn operands(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::ScalarFunction(call) if call.name() == IntegerChain::NAME => Some(call.args.len() - 1),
        _ => None,
    }
}

/// Returns the type of an expression. The planner's own way asks all operands of a call, and writes the name of each.
fn type_of(expr: &Expr, schema: &DFSchema) -> Result<DataType> {
    match expr {
        Expr::ScalarFunction(call) if operands(expr).is_some() => type_of(&call.args[1], schema),
        other => other.get_type(schema),
    }
}

/// Tells if no values of the operands make a result outside the type.
fn cannot_overflow(op: IntegerOp, left: &Expr, right: &Expr, integer: &DataType, schema: &DFSchema) -> bool {
    let (Some(left), Some(right), Some(all)) = (range(left, schema), range(right, schema), range_of(integer)) else {
        return false;
    };
    combined(op, &left, &right).is_some_and(|range| all.contains(range.start()) && all.contains(range.end()))
}

/// Returns the least and the greatest value that an expression can have.
fn range(expr: &Expr, schema: &DFSchema) -> Option<RangeInclusive<i128>> {
    match expr {
        Expr::Literal(value, _) => match value.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(Some(value)) => Some(i128::from(value)..=i128::from(value)),
            _ => None,
        },
        // A cast that does not fit is an error.
        Expr::Cast(Cast { expr, .. }) => range(expr, schema),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            combined(IntegerOp::of(*op)?, &range(left, schema)?, &range(right, schema)?)
        }
        Expr::Alias(alias) => range(&alias.expr, schema),
        other => range_of(&type_of(other, schema).ok()?),
    }
}

fn range_of(integer: &DataType) -> Option<RangeInclusive<i128>> {
    Some(match integer {
        DataType::Int8 => i8::MIN.into()..=i8::MAX.into(),
        DataType::Int16 => i16::MIN.into()..=i16::MAX.into(),
        DataType::Int32 => i32::MIN.into()..=i32::MAX.into(),
        DataType::Int64 => i64::MIN.into()..=i64::MAX.into(),
        DataType::UInt8 => 0..=u8::MAX.into(),
        DataType::UInt16 => 0..=u16::MAX.into(),
        DataType::UInt32 => 0..=u32::MAX.into(),
        DataType::UInt64 => 0..=u64::MAX.into(),
        _ => return None,
    })
}

fn combined(op: IntegerOp, a: &RangeInclusive<i128>, b: &RangeInclusive<i128>) -> Option<RangeInclusive<i128>> {
    let op = match op {
        IntegerOp::Add => i128::checked_add,
        IntegerOp::Subtract => i128::checked_sub,
        IntegerOp::Multiply => i128::checked_mul,
        IntegerOp::Divide | IntegerOp::Remainder => return None,
    };
    let ends = [(a.start(), b.start()), (a.start(), b.end()), (a.end(), b.start()), (a.end(), b.end())];
    let results = ends.map(|(a, b)| op(*a, *b));
    let results = results.into_iter().collect::<Option<Vec<i128>>>()?;
    Some(*results.iter().min()?..=*results.iter().max()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{Field, Schema};
    use datafusion::common::tree_node::TreeNodeRecursion;
    use datafusion::logical_expr::{cast, col};

    #[test]
    fn a_chain_is_few_calls() {
        let schema = DFSchema::try_from(Schema::new(vec![Field::new("b", DataType::Int64, true)])).unwrap();
        let rewritten = |expr: Expr| expr.transform_up(|expr| checked(expr, &schema)).data().unwrap();
        let b = || col("b");
        let mixed = rewritten((b() + b() - lit(3_i64)) / b() * b() % b() + b() * b());
        assert_eq!(
            mixed.to_string(),
            "gust_integers(Utf8(\"+-/*%+\"), b, b, Int64(3), b, b, b, gust_integers(Utf8(\"*\"), b, b))"
        );
        assert_eq!(rewritten(b() / b()).to_string(), "b / b");
        let long = rewritten((0..1000).fold(b(), |sum, _| sum + b()));
        let mut calls = 0;
        long.apply(|expr| {
            calls += usize::from(operands(expr).is_some());
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        assert_eq!(calls, 1000_usize.div_ceil(OPERANDS_MAX - 1));
    }

    #[test]
    fn only_operators_that_can_overflow_are_checked() {
        let fields = [("i", DataType::Int32), ("b", DataType::Int64), ("x", DataType::Float64)];
        let fields: Vec<Field> = fields.map(|(name, of)| Field::new(name, of, true)).into();
        let schema = DFSchema::try_from(Schema::new(fields)).unwrap();
        let wide = || cast(col("i"), DataType::Int64);
        let cases = [
            (wide() + lit(1_i64), false),
            (wide() * wide(), false),
            (wide() * wide() * lit(4_i64), true),
            (col("b") + lit(1_i64), true),
            (col("i") + col("i"), true),
            (-col("b"), true),
            (-wide(), false),
            (col("x") + col("x"), false),
            (lit(i64::MAX) + lit(1_i64), true),
            (lit(2_i64) + lit(3_i64), false),
        ];
        for (expr, expect) in cases {
            let text = expr.to_string();
            let rewritten = expr.transform_up(|expr| checked(expr, &schema)).data().unwrap().to_string();
            assert_eq!(rewritten.contains("gust_"), expect, "{text}: {rewritten}");
        }
    }
}
