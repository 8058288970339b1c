//! `IN` and `NOT IN` over a subquery with SQL's three values.
//!
//! `x IN (S)` is TRUE where a row of S equals x, else NULL where x or a row of S is NULL and S is not empty, else
//! FALSE. DataFusion 55.2 turns both into joins that ignore NULLs or the correlation: apache/datafusion#25336, #25347,
//! #25340, #25480, #8241. Where it errs, EXISTS is written before:
//!
//! ```text
//!  where NULL is as good as FALSE, below AND and OR of a WHERE:
//!    x IN (S)      stays
//!    x NOT IN (S)  stays where x is of the outer row, S is not correlated and nothing but ANDs are above it, else becomes
//!                  NOT EXISTS (S with s = x) AND NOT EXISTS (S with s IS NULL) AND (x IS NOT NULL OR NOT EXISTS (S))
//!  elsewhere in a WHERE:
//!    x IN (S)      CASE WHEN EXISTS (S with s = x) THEN TRUE
//!                       WHEN EXISTS (S with s IS NULL) OR x IS NULL AND EXISTS (S) THEN NULL ELSE FALSE END
//!  where S has exactly one row, an aggregate without GROUP BY:
//!    x IN (S)      x = (S), and so for x < ALL (S) and the like
//!    EXISTS (S)    TRUE
//! ```
//!
//! S has a name of its own in these. DataFusion takes an outer `t.x` for the inner one where both queries read a table
//! `t`, here and where it writes ANY and ALL with EXISTS itself. A correlated S cannot have a name, and is refused
//! where it has that column. S is read once where it stays, and up to three times elsewhere.
//!
//! A correlated S whose LIMIT, OFFSET or window comes after the correlation is refused: DataFusion would compute it
//! over all rows at once. Subqueries outside WHERE and HAVING are refused, too, because DataFusion has no join for
//! them. The exceptions are those of [`super::in_projection`].
//!
//! Take this out when the randomized test of `tests/tests/meaning.rs` passes without it.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Filter, LogicalPlan, Operator, Projection, SubqueryAlias, exists, lit, not,
    not_exists, when,
};
use datafusion::optimizer::AnalyzerRule;

use super::in_projection;
use crate::sql::Refusal;

#[derive(Debug)]
pub(super) struct InSubqueries;

impl AnalyzerRule for InSubqueries {
    fn name(&self) -> &str {
        "gust_in_subquery"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let plan = match plan {
                LogicalPlan::Projection(projection) => in_projection::without_subqueries(projection)?.data,
                other => other,
            };
            check(&plan)?;
            let LogicalPlan::Filter(Filter { predicate, input, .. }) = plan else { return Ok(Transformed::no(plan)) };
            let predicate = predicate.transform_up(compare_or_name)?.data;
            let predicate = Outer { input: &input }.condition(predicate, true)?.data;
            Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, input)?)))
        })
        .data()
    }
}

/// Rewrites a comparison with a subquery that has one row, and gives other subqueries of ANY and ALL a name.
fn compare_or_name(expr: Expr) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::SetComparison(SetComparison { expr, subquery, op, .. }) if has_one_row(&subquery.subquery) => {
            Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(expr, op, Box::new(Expr::ScalarSubquery(subquery)))))
        }
        Expr::SetComparison(SetComparison { expr, subquery, op, quantifier }) if !is_named(&subquery.subquery) => {
            let rows = named(&subquery.subquery, &expr)?;
            Transformed::yes(Expr::SetComparison(SetComparison {
                expr,
                subquery: subquery.with_plan(rows),
                op,
                quantifier,
            }))
        }
        Expr::Exists(Exists { subquery, negated }) if has_one_row(&subquery.subquery) => {
            Transformed::yes(lit(!negated))
        }
        other => Transformed::no(other),
    })
}

/// Name of S.
const ROWS: &str = "__gust_rows";

/// Name of the value of S.
const VALUE: &str = "__gust_value";

/// Gives S a name under which no column of `value`, the outer one, is.
///
/// # Errors
/// An error for a correlated S that has a column of `value`.
fn named(rows: &Arc<LogicalPlan>, value: &Expr) -> Result<Arc<LogicalPlan>> {
    if refers_outside(rows) {
        let outer = value.column_refs();
        let mut is_inside = false;
        rows.apply(|node| {
            is_inside |= outer.iter().any(|column| node.schema().has_column(column));
            // Columns below a name are not visible above it.
            let is_name = matches!(node, LogicalPlan::SubqueryAlias(_));
            Ok(if is_name { TreeNodeRecursion::Jump } else { TreeNodeRecursion::Continue })
        })?;
        if is_inside {
            let what = "IN, ANY or ALL over a correlated subquery is not supported where both queries name one table";
            return Err(Refusal::new(what, "give the table in the subquery another name: FROM t AS u").into());
        }
        return with_own_name(rows);
    }
    Ok(Arc::new(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::clone(rows), ROWS)?)))
}

/// Renames the value of S where it is a cast column: DataFusion may put the column of that name beside it.
fn with_own_name(rows: &Arc<LogicalPlan>) -> Result<Arc<LogicalPlan>> {
    match rows.as_ref() {
        LogicalPlan::Projection(projection) if matches!(projection.expr.as_slice(), [Expr::Cast(_)]) => {
            let value = projection.expr.iter().map(|value| value.clone().alias(VALUE)).collect();
            Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(value, Arc::clone(&projection.input))?)))
        }
        _ => Ok(Arc::clone(rows)),
    }
}

fn is_named(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::SubqueryAlias(alias) if alias.alias.table() == ROWS)
}

/// Refuses subqueries that DataFusion would compute over all rows at once, or not at all.
fn check(plan: &LogicalPlan) -> Result<()> {
    let is_filter = matches!(plan, LogicalPlan::Filter(_));
    plan.apply_expressions(|expr| {
        expr.apply(|expr| {
            let subquery = match expr {
                Expr::InSubquery(InSubquery { subquery, .. }) | Expr::Exists(Exists { subquery, .. }) => subquery,
                Expr::ScalarSubquery(subquery) => subquery,
                Expr::SetComparison(comparison) => &comparison.subquery,
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            let exists = matches!(expr, Expr::Exists(_));
            if !is_filter && !matches!(expr, Expr::ScalarSubquery(_)) {
                let what = if exists { "EXISTS" } else { "IN, ANY or ALL" };
                let what = format!(
                    "{what} over a subquery is supported in WHERE and HAVING; in SELECT only IN, NOT IN and EXISTS, uncorrelated or correlated by equality, without floats"
                );
                let hint = "LEFT JOIN the subquery's DISTINCT rows, and test whether a column of theirs IS NOT NULL";
                return Err(Refusal::new(what, hint).into());
            }
            subquery.subquery.apply(|node| {
                let (what, rewrite) = match node {
                    // EXISTS needs one row only, so that LIMIT changes nothing without OFFSET.
                    LogicalPlan::Limit(limit) if !exists || limit.skip.is_some() => ("LIMIT or OFFSET", "row_number()"),
                    LogicalPlan::Window(_) => ("a window function", "GROUP BY"),
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                if node.inputs().iter().any(|input| refers_outside(input)) {
                    let what = format!(
                        "{what} in a subquery, over rows that are chosen by the outer query, is not supported"
                    );
                    let hint = format!("join the outer query with the subquery, and use {rewrite} there");
                    return Err(Refusal::new(what, hint).into());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(())
}

fn refers_outside(plan: &LogicalPlan) -> bool {
    !plan.all_out_ref_exprs().is_empty()
}

/// Rows of a subquery by what they say about a value.
pub(super) struct SubqueryParts {
    /// Rows that equal the value.
    pub(super) found: Arc<LogicalPlan>,
    /// Rows that are NULL.
    pub(super) null: Arc<LogicalPlan>,
    /// All rows.
    pub(super) any: Arc<LogicalPlan>,
}

/// Rows that a condition is evaluated over.
pub(super) struct Outer<'a> {
    pub(super) input: &'a LogicalPlan,
}

impl Outer<'_> {
    /// Rewrites a condition under which NULL drops a row as FALSE does. `is_conjunct` says that it must be TRUE for
    /// a row to stay.
    fn condition(&self, expr: Expr, is_conjunct: bool) -> Result<Transformed<Expr>> {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                let is_conjunct = is_conjunct && op == Operator::And;
                let left = self.condition(*left, is_conjunct)?;
                let right = self.condition(*right, is_conjunct)?;
                let transformed = left.transformed || right.transformed;
                let both = BinaryExpr::new(Box::new(left.data), op, Box::new(right.data));
                Ok(Transformed::new_transformed(Expr::BinaryExpr(both), transformed))
            }
            Expr::Not(inner) => match *inner {
                Expr::Not(inner) => self.condition(*inner, is_conjunct),
                Expr::InSubquery(of) => {
                    self.condition(Expr::InSubquery(InSubquery { negated: !of.negated, ..of }), is_conjunct)
                }
                inner => self.three_valued(not(inner)),
            },
            Expr::InSubquery(of) if has_one_row(&of.subquery.subquery) => Ok(Transformed::yes(with_one_row(of))),
            Expr::InSubquery(of) if !of.negated => Ok(Transformed::no(Expr::InSubquery(of))),
            Expr::InSubquery(of) if is_conjunct && is_right_as_anti_join(&of) => {
                Ok(Transformed::no(Expr::InSubquery(of)))
            }
            Expr::InSubquery(of) => {
                let SubqueryParts { found, null, any } = self.parts(&of)?;
                let missing = not_exists(found).and(not_exists(null));
                Ok(Transformed::yes(missing.and(of.expr.is_not_null().or(not_exists(any)))))
            }
            other => self.three_valued(other),
        }
    }

    /// Rewrites each IN in an expression whose NULL may count.
    fn three_valued(&self, expr: Expr) -> Result<Transformed<Expr>> {
        expr.transform_up(|expr| match expr {
            Expr::InSubquery(of) if has_one_row(&of.subquery.subquery) => Ok(Transformed::yes(with_one_row(of))),
            Expr::InSubquery(of) => {
                let SubqueryParts { found, null, any } = self.parts(&of)?;
                let unknown = exists(null).or(of.expr.clone().is_null().and(exists(any)));
                let within = when(exists(found), lit(!of.negated))
                    .when(unknown, lit(ScalarValue::Boolean(None)))
                    .otherwise(lit(of.negated))?;
                Ok(Transformed::yes(within))
            }
            other => Ok(Transformed::no(other)),
        })
    }

    pub(super) fn parts(&self, of: &InSubquery) -> Result<SubqueryParts> {
        let rows = &named(&of.subquery.subquery, &of.expr)?;
        let column = Expr::Column(Column::from(rows.schema().qualified_field(0)));
        let value = self.as_outer_references(of.expr.as_ref().clone())?;
        let with = |condition| -> Result<Arc<LogicalPlan>> {
            Ok(Arc::new(LogicalPlan::Filter(Filter::try_new(condition, Arc::clone(rows))?)))
        };
        Ok(SubqueryParts {
            found: with(column.clone().eq(value))?,
            null: with(column.is_null())?,
            any: Arc::clone(rows),
        })
    }

    /// Names the columns of the outer row as a subquery names them.
    fn as_outer_references(&self, expr: Expr) -> Result<Expr> {
        let outside = |expr| match expr {
            Expr::Column(column) => {
                let (_, field) = Expr::Column(column.clone()).to_field(self.input.schema().as_ref())?;
                Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
            }
            other => Ok(Transformed::no(other)),
        };
        expr.transform_up(outside).data()
    }
}

/// Tells if DataFusion's null-aware anti join is right: it compares a value of the outer row with one list for all
/// rows.
fn is_right_as_anti_join(of: &InSubquery) -> bool {
    of.expr.any_column_refs() && !of.expr.contains_outer() && !refers_outside(&of.subquery.subquery)
}

/// Compares with a list of one row by `=`. DataFusion knows that a scalar subquery over no rows is NULL.
pub(super) fn with_one_row(of: InSubquery) -> Expr {
    let op = if of.negated { Operator::NotEq } else { Operator::Eq };
    Expr::BinaryExpr(BinaryExpr::new(of.expr, op, Box::new(Expr::ScalarSubquery(of.subquery))))
}

/// Tells if a plan has exactly one row, whatever it reads.
pub(super) fn has_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => has_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_one_row(&alias.input),
        LogicalPlan::Sort(sort) => sort.fetch.is_none() && has_one_row(&sort.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        _ => false,
    }
}
