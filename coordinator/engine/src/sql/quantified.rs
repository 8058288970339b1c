//! `x = ANY (…)` and `x < ALL (…)` with SQL's three values.
//!
//! DataFusion 55.2 ignores NULLs in arrays. `1 > ANY (ARRAY[0, NULL])` is right, but a comparison that finds nothing is
//! FALSE instead of NULL. `= ANY (SELECT …)` has no plan in a SELECT list, but IN has one. So comparisons are
//! rewritten:
//!
//! ```text
//!  x = ANY (SELECT …), x <> ALL (SELECT …)   x IN (…), x NOT IN (…)
//!  x < ANY (ARRAY[a, b])                     x < a OR x < b, and AND for ALL; IN and NOT IN where those mean the same
//!  x < ANY (l)                               CASE WHEN x < array_max(l) THEN TRUE
//!                                                 WHEN l IS NULL OR cardinality(l) > 0 AND (x IS NULL OR l has NULL) THEN NULL ELSE FALSE END
//! ```
//!
//! Copies of an expression are bounded ([`CopiedBytes`]), since nested comparisons would multiply. A call that differs each
//! time would have another value in each copy.
//!
//! Take this out when the rows of `quantified` in `tests/cases/meaning.toml` are right without it.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Spanned};

use super::Refusal;
use super::balance::paired;
use super::copies::{Copied, CopiedBytes};
use super::template::{composed, filled};

/// Elements of an array that are compared one by one. A longer array is compared as a list.
const WRITTEN_OUT_MAX: usize = 100;

/// Rewrites a comparison with ANY or ALL. Any other expression, or one that DataFusion does right, stays as it is.
///
/// # Errors
/// A refusal of an operator that is no comparison, and for an operand that cannot be copied as often as needed.
pub(super) fn written_out(expr: Expr, copies: &mut CopiedBytes) -> Result<Expr, Refusal> {
    let (left, op, right, is_any) = match expr {
        Expr::AnyOp { left, compare_op, right, .. } => (left, compare_op, right, true),
        Expr::AllOp { left, compare_op, right } => (left, compare_op, right, false),
        other => return Ok(other),
    };
    copies.is_any_written = true;
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
            copies.add(&left, array.elem.len() - 1, Copied::Comparison)?;
            let compared = array.elem.into_iter().map(|element| Expr::BinaryOp {
                left: Box::new(Expr::Nested(left.clone())),
                op: op.clone(),
                right: Box::new(Expr::Nested(Box::new(element))),
            });
            let join = if is_any { BinaryOperator::Or } else { BinaryOperator::And };
            // Pairs keep the tree shallow.
            let all = paired(compared.collect(), |a, b| Expr::BinaryOp {
                left: Box::new(a),
                op: join.clone(),
                right: Box::new(b),
            });
            Ok(Expr::Nested(Box::new(all)))
        }
        list => {
            copies.add(&left, 2, Copied::Comparison)?;
            copies.add(&list, 4, Copied::Comparison)?;
            compared_with_list(&left, &op, &list, is_any)
        }
    }
}

/// Writes a comparison with a list whose values are known only in a row.
fn compared_with_list(value: &Expr, op: &BinaryOperator, list: &Expr, is_any: bool) -> Result<Expr, Refusal> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    let (least, most) = ("array_min($2)", "array_max($2)");
    let certain = match (op, is_any) {
        (Eq, true) => "array_has($2, $1)".to_owned(),
        (NotEq, false) => "NOT array_has($2, $1)".to_owned(),
        (NotEq, true) => format!("($1 <> {least} OR $1 <> {most})"),
        (Eq, false) => format!("($1 = {least} AND $1 = {most})"),
        (Lt | LtEq, true) | (Gt | GtEq, false) => format!("$1 {op} {most}"),
        (Gt | GtEq, true) | (Lt | LtEq, false) => format!("$1 {op} {least}"),
        _ => {
            let what = format!("{op} with ANY or ALL is not supported");
            return Err(Refusal::new(what, "compare by =, <>, <, <=, > or >="));
        }
    };
    // One element that compares true settles ANY, and one that compares false settles ALL.
    let (certain, found) = if is_any { (certain, true) } else { (format!("NOT ({certain})"), false) };
    let text = format!(
        "(CASE WHEN {certain} THEN {found} WHEN $2 IS NULL OR cardinality($2) > 0 AND \
         ($1 IS NULL OR array_position($2, NULL) IS NOT NULL) THEN NULL ELSE {} END)",
        !found
    );
    Ok(filled(composed(&text), &[value.clone(), list.clone()], None, value.span()))
}
