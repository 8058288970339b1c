//! A date or a time beside a number is refused: in comparisons, and where both would be values of one column.
//!
//! DataFusion 55.2 reads the number as days or units since 1970: `day > 5` is true for all days of this century. PostgreSQL, DuckDB and
//! Trino refuse it. Take this out when DataFusion does.

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::{Case, InList, InSubquery, ScalarFunction, SetComparison};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, Subquery};
use datafusion::optimizer::AnalyzerRule;

use crate::sql::Refusal;

const HINT: &str =
    "compare it with DATE '2024-01-31' or TIMESTAMP '...'; extract(day FROM x) is a number, from_unixtime(n) a time";

/// Functions that compare their arguments, or return one of them.
const OF_ONE_TYPE: [&str; 4] = ["coalesce", "greatest", "least", "nullif"];

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
            let of = |expr: &Expr| expr.get_type(&schema).ok();
            match node {
                LogicalPlan::Join(join) => {
                    for (left, right) in &join.on {
                        check(of(left).zip(of(right)), COMPARED)?;
                    }
                }
                LogicalPlan::Union(union) => {
                    let schemas: Vec<&DFSchema> = union.inputs.iter().map(|input| input.schema().as_ref()).collect();
                    for pair in schemas.windows(2) {
                        let columns = pair[0].fields().iter().zip(pair[1].fields());
                        for (one, other) in columns {
                            check(
                                Some((one.data_type().clone(), other.data_type().clone())),
                                "in one column of UNION with",
                            )?;
                        }
                    }
                }
                _ => {}
            }
            node.apply_expressions(|expr| {
                expr.apply(|part| {
                    for (pair, how) in pairs(part, &of) {
                        check(pair, how)?;
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        Ok(plan)
    }
}

const COMPARED: &str = "compared with";

/// Refuses a time and a number.
fn check(pair: Option<(DataType, DataType)>, how: &str) -> Result<()> {
    match pair.and_then(|(one, other)| time(&one, &other)) {
        Some(what) => Err(Refusal::new(format!("{what} {how} a number is not supported"), HINT).into()),
        None => Ok(()),
    }
}

type Pair = (Option<(DataType, DataType)>, &'static str);

/// Lists the pairs of types that an expression compares, or has as its value.
fn pairs(expr: &Expr, of: &impl Fn(&Expr) -> Option<DataType>) -> Vec<Pair> {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    let two = |one: &Expr, other: &Expr| of(one).zip(of(other));
    let compared = |one: &Expr, other: &Expr| (two(one, other), COMPARED);
    let first_of =
        |subquery: &Subquery| subquery.subquery.schema().fields().first().map(|field| field.data_type().clone());
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom,
            right,
        }) => vec![compared(left, right)],
        Expr::Between(Between { expr, low, high, .. }) => vec![compared(expr, low), compared(expr, high)],
        Expr::InList(InList { expr, list, .. }) => list.iter().map(|value| compared(expr, value)).collect(),
        Expr::InSubquery(InSubquery { expr, subquery, .. })
        | Expr::SetComparison(SetComparison { expr, subquery, .. }) => {
            vec![(of(expr).zip(first_of(subquery)), COMPARED)]
        }
        Expr::Case(Case { expr, when_then_expr, else_expr }) => {
            let whens = expr.iter().flat_map(|base| when_then_expr.iter().map(|(when, _)| compared(base, when)));
            let results: Vec<&Expr> =
                when_then_expr.iter().map(|(_, then)| then.as_ref()).chain(else_expr.as_deref()).collect();
            let results = results.windows(2).map(|pair| (two(pair[0], pair[1]), "in one CASE with"));
            whens.chain(results).collect()
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) if OF_ONE_TYPE.contains(&func.name()) => {
            args.windows(2).map(|pair| compared(&pair[0], &pair[1])).collect()
        }
        _ => Vec::new(),
    }
}

/// Returns the kind of the side that is a time, where the other is a number.
fn time(left: &DataType, right: &DataType) -> Option<&'static str> {
    let other = |time: &DataType, other: &DataType| kind(time).filter(|_| other.is_numeric());
    other(left, right).or_else(|| other(right, left))
}

fn kind(of: &DataType) -> Option<&'static str> {
    match of {
        DataType::Date32 | DataType::Date64 => Some("a date"),
        DataType::Timestamp(..) => Some("a timestamp"),
        DataType::Time32(_) | DataType::Time64(_) => Some("a time"),
        _ => None,
    }
}
