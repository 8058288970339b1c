//! A comparison of a date or a time with a number is refused.
//!
//! DataFusion 55.2 reads the number as days or units since 1970: `day > 5` is true for all days of this century. PostgreSQL, DuckDB and
//! Trino refuse it. Take this out when DataFusion does.

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;

use crate::sql::Refusal;

const HINT: &str =
    "compare it with DATE '2024-01-31' or TIMESTAMP '...'; extract(day FROM x) is a number, from_unixtime(n) a time";

/// Rule that runs before types are coerced.
#[derive(Debug)]
pub(super) struct TimesAsNumbers;

impl AnalyzerRule for TimesAsNumbers {
    fn name(&self) -> &str {
        "gust_times_as_numbers"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.apply_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            node.apply_expressions(|expr| {
                expr.apply(|part| match compared(part).into_iter().find_map(|(a, b)| time(a, b, &schema)) {
                    Some(what) => {
                        Err(Refusal::new(format!("{what} compared with a number is not supported"), HINT).into())
                    }
                    None => Ok(TreeNodeRecursion::Continue),
                })
            })
        })?;
        Ok(plan)
    }
}

/// Lists the pairs that an expression compares.
fn compared(expr: &Expr) -> Vec<(&Expr, &Expr)> {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom,
            right,
        }) => vec![(left, right)],
        Expr::Between(Between { expr, low, high, .. }) => vec![(expr, low), (expr, high)],
        Expr::InList(InList { expr, list, .. }) => list.iter().map(|value| (expr.as_ref(), value)).collect(),
        _ => Vec::new(),
    }
}

/// Returns the kind of the side that is a time, where the other is a number.
fn time(left: &Expr, right: &Expr, schema: &DFSchema) -> Option<&'static str> {
    let (left, right) = (left.get_type(schema).ok()?, right.get_type(schema).ok()?);
    let other = |time: &DataType, other: &DataType| kind(time).filter(|_| other.is_numeric());
    other(&left, &right).or_else(|| other(&right, &left))
}

fn kind(of: &DataType) -> Option<&'static str> {
    match of {
        DataType::Date32 | DataType::Date64 => Some("a date"),
        DataType::Timestamp(..) => Some("a timestamp"),
        DataType::Time32(_) | DataType::Time64(_) => Some("a time"),
        _ => None,
    }
}
