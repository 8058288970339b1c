//! `IN` and `EXISTS` over a subquery in a SELECT list.
//!
//! DataFusion 55.2 has no plan for them there (apache/datafusion 23022). One that does not refer to the outer query is a column of a left join, and facts about
//! all its rows:
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
//! Take this out when DataFusion alone plans `SELECT x IN (SELECT …)`. Non-goals: what refers to the outer query;
//! [`super::in_subquery`] refuses it.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::{
    Expr, JoinType, LogicalPlan, LogicalPlanBuilder, Projection, lit, scalar_subquery, when,
};

use super::in_subquery::{has_one_row, with_one_row};

/// The projection without the subqueries that it can do without.
pub(super) fn without_subqueries(projection: Projection) -> Result<Transformed<LogicalPlan>> {
    if !projection.expr.iter().any(|expr| expr.exists(|part| Ok(is_ours(part))).unwrap_or(false)) {
        return Ok(Transformed::no(LogicalPlan::Projection(projection)));
    }
    let Projection { expr: exprs, input, .. } = projection;
    let mut joined = Joined { plan: Arc::unwrap_or_clone(input), joins: 0 };
    let mut columns = Vec::with_capacity(exprs.len());
    for expr in exprs {
        let (relation, name) = expr.qualified_name();
        let column = expr.unalias().transform_up(|part| joined.resolve(part)).data()?;
        columns.push(column.alias_qualified(relation, name));
    }
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(joined.plan))?)))
}

fn is_ours(expr: &Expr) -> bool {
    let (Expr::InSubquery(InSubquery { subquery, .. }) | Expr::Exists(Exists { subquery, .. })) = expr else {
        return false;
    };
    subquery.subquery.all_out_ref_exprs().is_empty()
}

/// What a projection reads, joined with what its subqueries find.
struct Joined {
    plan: LogicalPlan,
    joins: usize,
}

impl Joined {
    fn resolve(&mut self, expr: Expr) -> Result<Transformed<Expr>> {
        if !is_ours(&expr) {
            return Ok(Transformed::no(expr));
        }
        match expr {
            Expr::Exists(Exists { subquery, negated }) => {
                let rows = counted(&subquery.subquery, None)?;
                Ok(Transformed::yes(if negated { rows.eq(lit(0_i64)) } else { rows.gt(lit(0_i64)) }))
            }
            Expr::InSubquery(of) if has_one_row(&of.subquery.subquery) => Ok(Transformed::yes(with_one_row(of))),
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

/// How many rows of a plan there are, or fulfil a condition.
fn counted(rows: &Arc<LogicalPlan>, condition: Option<Expr>) -> Result<Expr> {
    let mut plan = LogicalPlanBuilder::from(rows.as_ref().clone());
    if let Some(condition) = condition {
        plan = plan.filter(condition)?;
    }
    let counted = plan.aggregate(Vec::<Expr>::new(), [count(lit(1_i64))])?.build()?;
    Ok(scalar_subquery(Arc::new(counted)))
}
