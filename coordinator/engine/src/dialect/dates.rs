//! A date and hours are a point in time.
//!
//! DataFusion 55.2 drops the part of a day: `DATE '2024-01-31' + INTERVAL '12' HOUR` is the date again. Here such a
//! date becomes its midnight, as in PostgreSQL and DuckDB. A date with a constant interval of whole days stays a date.
//!
//! Take this out when `SELECT DATE '2024-01-31' + INTERVAL '12' HOUR` has its twelve hours without it.

use arrow::datatypes::{DataType, IntervalDayTimeType, IntervalMonthDayNanoType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, cast};
use datafusion::optimizer::AnalyzerRule;

/// Rule that runs before types are coerced.
#[derive(Debug)]
pub(super) struct DatesAndHours;

impl AnalyzerRule for DatesAndHours {
    fn name(&self) -> &str {
        "gust_dates"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            super::map_named(plan, |expr| expr.transform_up(|expr| Ok(with_midnight(expr, &schema))))
        })?;
        if !rewritten.transformed {
            return Ok(rewritten.data);
        }
        // The nodes above have another type now.
        rewritten.data.transform_up_with_subqueries(|plan| Ok(Transformed::yes(plan.recompute_schema()?))).data()
    }
}

fn with_midnight(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) = expr else {
        return Transformed::no(expr);
    };
    let both = |left, right| Expr::BinaryExpr(BinaryExpr { left, op, right });
    if may_have_hours(&right, schema) && is_date(&left, schema) {
        return Transformed::yes(both(midnight(*left), right));
    }
    if op == Operator::Plus && may_have_hours(&left, schema) && is_date(&right, schema) {
        return Transformed::yes(both(left, midnight(*right)));
    }
    Transformed::no(both(left, right))
}

fn midnight(date: Expr) -> Box<Expr> {
    Box::new(cast(date, DataType::Timestamp(TimeUnit::Nanosecond, None)))
}

fn is_date(expr: &Expr, schema: &DFSchema) -> bool {
    matches!(expr.get_type(schema), Ok(DataType::Date32 | DataType::Date64))
}

/// Tells if an expression is an interval that is not known to have whole days.
fn may_have_hours(expr: &Expr, schema: &DFSchema) -> bool {
    match expr {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(value)), _) => {
            IntervalMonthDayNanoType::to_parts(*value).2 != 0
        }
        Expr::Literal(ScalarValue::IntervalDayTime(Some(value)), _) => IntervalDayTimeType::to_parts(*value).1 != 0,
        Expr::Negative(of) => may_have_hours(of, schema),
        _ => matches!(expr.get_type(schema), Ok(DataType::Interval(_))),
    }
}
