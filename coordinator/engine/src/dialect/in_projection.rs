//! `IN` and `EXISTS` over a subquery in a SELECT list.
//!
//! DataFusion 55.2 has no plan for them there (apache/datafusion 23022). A subquery that does not refer to the outer
//! query becomes a column of a left join, and facts about all its rows:
//!
//! ```text
//!  x IN (S)     input LEFT JOIN (SELECT DISTINCT s FROM S WHERE s IS NOT NULL) ON x = s, and then
//!               CASE WHEN s IS NOT NULL THEN TRUE
//!                    WHEN (SELECT count(*) FROM S WHERE s IS NULL) > 0
//!                      OR x IS NULL AND (SELECT count(*) FROM S) > 0 THEN NULL ELSE FALSE END
//!  x IN (S)     x = (S), where S has exactly one row
//!  EXISTS (S)   (SELECT count(*) FROM S) > 0
//! ```
//!
//! If S refers to the outer query, rows are counted for each outer row. IN counts three times: the rows that equal x,
//! those that are NULL, and all. DataFusion has a plan for such counts if S is chosen by equality of columns
//! (`s.a = outer.b`).
//!
//! Take this out when DataFusion alone plans `SELECT x IN (SELECT …)`. Non-goals: ANY and ALL that are no IN, and rows
//! that the outer query chooses otherwise. [`super::in_subquery`] refuses them.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::{Cast, Exists, InSubquery};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, JoinType, LogicalPlan, LogicalPlanBuilder, Operator, Projection, Subquery, lit,
    scalar_subquery, when,
};
use gust_protocol::functions::has_floats;

use super::in_subquery::{Outer, SubqueryParts, has_one_row, with_one_row};

/// Replaces the subqueries of a projection that it can do without.
pub(super) fn without_subqueries(projection: Projection) -> Result<Transformed<LogicalPlan>> {
    if !projection.expr.iter().any(|expr| expr.exists(|part| Ok(can_be_joined(part))).unwrap_or(false)) {
        return Ok(Transformed::no(LogicalPlan::Projection(projection)));
    }
    let Projection { expr: exprs, input, .. } = projection;
    let mut joined = JoinedInput { plan: Arc::unwrap_or_clone(input), joins: 0 };
    let mut columns = Vec::with_capacity(exprs.len());
    for expr in exprs {
        let (relation, name) = expr.qualified_name();
        let column = expr.unalias().transform_up(|part| joined.resolve(part)).data()?;
        columns.push(column.alias_qualified(relation, name));
    }
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(joined.plan))?)))
}

fn can_be_joined(expr: &Expr) -> bool {
    match expr {
        Expr::InSubquery(InSubquery { subquery, .. }) if !refers_outside(subquery) => true,
        Expr::InSubquery(InSubquery { expr, subquery, .. }) => {
            let rows = &subquery.subquery;
            let is_float = rows.schema().fields().first().is_some_and(|field| has_floats(field.data_type()));
            // A random value would be drawn anew for each count. DataFusion has no plan for two conditions, one over
            // a float's key.
            is_by_equality(rows) && (has_one_row(rows) || !expr.is_volatile() && !is_float)
        }
        Expr::Exists(Exists { subquery, .. }) => {
            has_one_row(&subquery.subquery) || !refers_outside(subquery) || is_by_equality(&subquery.subquery)
        }
        _ => false,
    }
}

fn refers_outside(subquery: &Subquery) -> bool {
    !subquery.subquery.all_out_ref_exprs().is_empty()
}

/// Tells if the outer row chooses the rows of a plan by equality of columns alone. DataFusion can count by nothing
/// else.
fn is_by_equality(rows: &LogicalPlan) -> bool {
    let mut is = true;
    let visited = rows.apply(|node| {
        match node {
            LogicalPlan::Filter(filter) => {
                let conditions = split_conjunction(&filter.predicate);
                let mut outer = conditions.iter().filter(|condition| condition.contains_outer());
                is = is && outer.all(|condition| is_equality(condition, filter.input.schema()));
            }
            other => {
                other.apply_expressions(|expr| {
                    is = is && !expr.contains_outer();
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    is && visited.is_ok()
}

/// Tells if a column, or its cast, equals an expression of the outer row. Floats do not count: they are compared by a
/// key.
fn is_equality(condition: &Expr, schema: &DFSchema) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition else { return false };
    let is_column = |expr: &Expr| match expr {
        Expr::Cast(Cast { expr, .. }) => matches!(expr.as_ref(), Expr::Column(_)),
        other => matches!(other, Expr::Column(_)),
    };
    let is_float = |expr: &Expr| expr.get_type(schema).map_or(true, |of| has_floats(&of));
    let is_pair = |inner: &Expr, outer: &Expr| is_column(inner) && !outer.any_column_refs();
    (is_pair(left, right) || is_pair(right, left)) && !is_float(left) && !is_float(right)
}

/// Input of a projection, joined with the rows of its subqueries.
struct JoinedInput {
    plan: LogicalPlan,
    joins: usize,
}

impl JoinedInput {
    fn resolve(&mut self, expr: Expr) -> Result<Transformed<Expr>> {
        if !can_be_joined(&expr) {
            return Ok(Transformed::no(expr));
        }
        match expr {
            Expr::Exists(Exists { subquery, negated }) if has_one_row(&subquery.subquery) => {
                Ok(Transformed::yes(lit(!negated)))
            }
            Expr::Exists(Exists { subquery, negated }) => {
                let rows = counted(&subquery.subquery, None)?;
                Ok(Transformed::yes(if negated { rows.eq(lit(0_i64)) } else { rows.gt(lit(0_i64)) }))
            }
            Expr::InSubquery(of) if has_one_row(&of.subquery.subquery) => Ok(Transformed::yes(with_one_row(of))),
            Expr::InSubquery(within) if refers_outside(&within.subquery) => {
                Ok(Transformed::yes(counts(&within, &self.plan)?))
            }
            Expr::InSubquery(within) => Ok(Transformed::yes(self.join(within)?)),
            other => Ok(Transformed::no(other)),
        }
    }

    fn join(&mut self, InSubquery { expr, subquery, negated }: InSubquery) -> Result<Expr> {
        let rows = subquery.subquery;
        let value = Expr::Column(Column::from(rows.schema().qualified_field(0)));
        let found = Column::new(Some(format!("__gust_in_{}", self.joins)), "found");
        self.joins += 1;
        let list = LogicalPlanBuilder::from(rows.as_ref().clone())
            .filter(value.clone().is_not_null())?
            .project([value.clone().alias(found.name.clone())])?
            .distinct()?
            .alias(format!("__gust_in_{}", self.joins - 1))?
            .build()?;
        let input = std::mem::take(&mut self.plan);
        let on = expr.as_ref().clone().eq(Expr::Column(found.clone()));
        self.plan = LogicalPlanBuilder::from(input).join_on(list, JoinType::Left, [on])?.build()?;
        let has_null = counted(&rows, Some(value.is_null()))?.gt(lit(0_i64));
        let unknown = has_null.or(expr.is_null().and(counted(&rows, None)?.gt(lit(0_i64))));
        when(Expr::Column(found).is_not_null(), lit(!negated))
            .when(unknown, lit(ScalarValue::Boolean(None)))
            .otherwise(lit(negated))
    }
}

/// Writes IN by the counts of rows that S has for each row of `input`.
fn counts(of: &InSubquery, input: &LogicalPlan) -> Result<Expr> {
    let SubqueryParts { found, null, any } = Outer { input }.parts(of)?;
    let has = |rows| Ok::<_, DataFusionError>(counted(&rows, None)?.gt(lit(0_i64)));
    let unknown = has(null)?.or(of.expr.as_ref().clone().is_null().and(has(any)?));
    when(has(found)?, lit(!of.negated)).when(unknown, lit(ScalarValue::Boolean(None))).otherwise(lit(of.negated))
}

/// Counts the rows of a plan, or those that fulfil a condition.
fn counted(rows: &Arc<LogicalPlan>, condition: Option<Expr>) -> Result<Expr> {
    let mut plan = LogicalPlanBuilder::from(rows.as_ref().clone());
    if let Some(condition) = condition {
        plan = plan.filter(condition)?;
    }
    let counted = plan.aggregate(Vec::<Expr>::new(), [count(lit(1_i64))])?.build()?;
    Ok(scalar_subquery(Arc::new(counted)))
}
