//! `x = ANY (…)` and `x < ALL (…)`, three-valued as SQL has them.
//!
//! DataFusion 55.2 forgets NULLs in arrays: `1 > ANY (ARRAY[0, NULL])` is right, but where nothing is found it says FALSE for NULL, and
//! `= ANY (SELECT …)` has no plan in a SELECT list, where IN has one. So:
//!
//! ```text
//!  x = ANY (SELECT …), x <> ALL (SELECT …)   x IN (…), x NOT IN (…)
//!  x < ANY (ARRAY[a, b])                     x < a OR x < b, and AND for ALL; IN and NOT IN where those mean the same
//!  x < ANY (l)                               CASE WHEN x < array_max(l) THEN TRUE
//!                                                 WHEN l IS NULL OR cardinality(l) > 0 AND (x IS NULL OR l has NULL) THEN NULL ELSE FALSE END
//! ```
//!
//! Take this out when the rows of `quantified` in `tests/cases/meaning.toml` are right without it.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// Comparisons that are written out; longer arrays are looked at as a whole.
const WRITTEN_OUT_MAX: usize = 100;

/// What `expr` means; itself where it is no such comparison, or one that DataFusion does right.
///
/// # Errors
/// An operator that is no comparison.
pub(super) fn meant(expr: Expr) -> Result<Expr, String> {
    let (left, op, right, is_any) = match expr {
        Expr::AnyOp { left, compare_op, right, .. } => (left, compare_op, right, true),
        Expr::AllOp { left, compare_op, right } => (left, compare_op, right, false),
        other => return Ok(other),
    };
    let is_in = matches!((&op, is_any), (BinaryOperator::Eq, true) | (BinaryOperator::NotEq, false));
    match *right {
        Expr::Subquery(subquery) if is_in => Ok(Expr::InSubquery { expr: left, subquery, negated: !is_any }),
        Expr::Subquery(subquery) if is_any => {
            Ok(Expr::AnyOp { left, compare_op: op, right: Box::new(Expr::Subquery(subquery)), is_some: false })
        }
        Expr::Subquery(subquery) => Ok(Expr::AllOp { left, compare_op: op, right: Box::new(Expr::Subquery(subquery)) }),
        Expr::Array(array) if is_in && !array.elem.is_empty() => {
            Ok(Expr::Nested(Box::new(Expr::InList { expr: left, list: array.elem, negated: !is_any })))
        }
        Expr::Array(array) if (1..=WRITTEN_OUT_MAX).contains(&array.elem.len()) => {
            let compared = array.elem.into_iter().map(|element| Expr::BinaryOp {
                left: Box::new(Expr::Nested(left.clone())),
                op: op.clone(),
                right: Box::new(Expr::Nested(Box::new(element))),
            });
            let join = if is_any { BinaryOperator::Or } else { BinaryOperator::And };
            let all =
                compared.reduce(|a, b| Expr::BinaryOp { left: Box::new(a), op: join.clone(), right: Box::new(b) });
            Ok(Expr::Nested(Box::new(all.expect("not empty"))))
        }
        list => of_list(&left, &op, &list, is_any),
    }
}

/// A comparison with the values of a list that only its rows tell.
fn of_list(value: &Expr, op: &BinaryOperator, list: &Expr, is_any: bool) -> Result<Expr, String> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    let (least, most) = ("array_min(list.l)", "array_max(list.l)");
    let certain = match (op, is_any) {
        (Eq, true) => "array_has(list.l, value.v)".to_owned(),
        (NotEq, false) => "NOT array_has(list.l, value.v)".to_owned(),
        (NotEq, true) => format!("(value.v <> {least} OR value.v <> {most})"),
        (Eq, false) => format!("(value.v = {least} AND value.v = {most})"),
        (Lt | LtEq, true) | (Gt | GtEq, false) => format!("value.v {op} {most}"),
        (Gt | GtEq, true) | (Lt | LtEq, false) => format!("value.v {op} {least}"),
        _ => return Err(format!("{op} with ANY or ALL is not supported\nhint: compare by =, <>, <, <=, > or >=")),
    };
    // ANY is sure once one is found, ALL once one is missing.
    let (certain, found) = if is_any { (certain, true) } else { (format!("NOT ({certain})"), false) };
    let text = format!(
        "(CASE WHEN {certain} THEN {found} WHEN list.l IS NULL OR cardinality(list.l) > 0 AND \
         (value.v IS NULL OR array_position(list.l, NULL) IS NOT NULL) THEN NULL ELSE {} END)",
        !found
    )
    .replace("value.v", &format!("({value})"))
    .replace("list.l", &format!("({list})"));
    let parsed =
        Parser::new(&GenericDialect {}).with_recursion_limit(super::limits::PARSER_DEPTH_MAX).try_with_sql(&text);
    parsed.and_then(|mut parser| parser.parse_expr()).map_err(|error| error.to_string())
}
