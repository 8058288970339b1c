//! `CROSS JOIN UNNEST(t.list)`: the elements of each row's own list.
//!
//! DataFusion 55.2 plans a join with a subquery that refers to the row on the left, and cannot run it. The join is the
//! row's columns beside its elements:
//!
//! ```text
//!  Join                                       Projection: left.*, elements
//!    left                               ─►      Unnest
//!    Subquery                                     Projection: left.*, lists of the row
//!      Projection … Unnest                          left
//!        Projection: lists of the outer row
//!          one empty row
//! ```
//!
//! A row whose lists have no element goes away, or stays with NULLs in a LEFT JOIN. Any other subquery with a list of an
//! outer row in it is refused by name.
//!
//! Take this out when `SELECT * FROM t CROSS JOIN UNNEST(t.list) AS u(x)` runs without it.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, NullHandling, Result, ScalarValue, UnnestOptions};
use datafusion::logical_expr::{
    EmptyRelation, Expr, Filter, Join, LogicalPlan, LogicalPlanBuilder, Projection, Unnest,
};
use datafusion::optimizer::AnalyzerRule;

use crate::sql::Refusal;

/// Rule that runs before types are coerced.
#[derive(Debug)]
pub(super) struct LateralUnnest;

impl AnalyzerRule for LateralUnnest {
    fn name(&self) -> &str {
        "gust_lateral_unnest"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|plan| {
            let LogicalPlan::Join(join) = &plan else { return Ok(Transformed::no(plan)) };
            Ok(match unnested(join)? {
                Some(unnested) => Transformed::yes(unnested),
                None => Transformed::no(plan),
            })
        })?;
        let plan = match rewritten.transformed {
            // The nodes above may have columns now that can be NULL.
            true => {
                rewritten.data.transform_up_with_subqueries(|plan| Ok(Transformed::yes(plan.recompute_schema()?)))?.data
            }
            false => rewritten.data,
        };
        check(&plan)?;
        Ok(plan)
    }
}

/// Returns a join with the elements of its rows' lists without the join; None for another join.
fn unnested(join: &Join) -> Result<Option<LogicalPlan>> {
    let null_handling = match join.join_type {
        JoinType::Inner => NullHandling::Drop,
        JoinType::Left => NullHandling::PreserveAndExpandEmpty,
        _ => return Ok(None),
    };
    let filter = join.filter.as_ref().filter(|filter| !is_true(filter));
    if !join.on.is_empty() || join.join_type == JoinType::Left && filter.is_some() {
        return Ok(None);
    }
    let (alias, inner) = match join.right.as_ref() {
        LogicalPlan::SubqueryAlias(alias) => (Some(alias.alias.clone()), alias.input.as_ref()),
        other => (None, other),
    };
    let LogicalPlan::Subquery(subquery) = inner else { return Ok(None) };
    let Some(Elements { projections, unnest, lists }) = elements(&subquery.subquery) else { return Ok(None) };

    let left = join.left.schema();
    let columns = || left.columns().into_iter().map(Expr::Column);
    let mut arguments = Vec::with_capacity(lists.expr.len());
    for list in &lists.expr {
        let Some(list) = of_the_row(list, left)? else { return Ok(None) };
        arguments.push(list);
    }
    let input = LogicalPlanBuilder::from(join.left.as_ref().clone()).project(columns().chain(arguments))?.build()?;
    let options = UnnestOptions { null_handling, ..unnest.options.clone() };
    let rows = LogicalPlan::Unnest(Unnest::try_new(Arc::new(input), unnest.exec_columns.clone(), options)?);

    // Each projection's columns, as expressions of the elements.
    let mut known: HashMap<Column, Expr> =
        unnest.schema.columns().into_iter().map(|column| (column.clone(), Expr::Column(column))).collect();
    for projection in projections.iter().rev() {
        let mut next = HashMap::new();
        for (column, expr) in projection.schema.columns().into_iter().zip(&projection.expr) {
            let Some(expr) = of_the_row(expr, left)? else { return Ok(None) };
            let Some(expr) = of_elements(expr, &known, left)? else { return Ok(None) };
            next.insert(column, expr.unalias());
        }
        known = next;
    }
    let named = subquery.subquery.schema().columns().into_iter().map(|column| {
        let expr = known.get(&column).cloned()?;
        Some(match &alias {
            Some(alias) => expr.alias_qualified(Some(alias.clone()), column.name),
            None => expr.alias(column.name),
        })
    });
    let Some(named) = named.collect::<Option<Vec<Expr>>>() else { return Ok(None) };
    let rows = LogicalPlanBuilder::from(rows).project(columns().chain(named))?.build()?;
    Ok(Some(match filter {
        Some(filter) => LogicalPlan::Filter(Filter::try_new(filter.clone(), Arc::new(rows))?),
        None => rows,
    }))
}

/// Subquery that has the elements of lists of an outer row, and nothing else.
struct Elements<'a> {
    /// Projections above, the outermost first.
    projections: Vec<&'a Projection>,
    unnest: &'a Unnest,
    lists: &'a Projection,
}

fn elements(subquery: &LogicalPlan) -> Option<Elements<'_>> {
    let mut projections = Vec::new();
    let mut node = subquery;
    loop {
        match node {
            LogicalPlan::Projection(projection) => {
                projections.push(projection);
                node = &projection.input;
            }
            LogicalPlan::Unnest(unnest) => {
                let LogicalPlan::Projection(lists) = unnest.input.as_ref() else { return None };
                let LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: true, .. }) = lists.input.as_ref()
                else {
                    return None;
                };
                return Some(Elements { projections, unnest, lists });
            }
            _ => return None,
        }
    }
}

/// Writes an expression with columns of an outer row as one of the row itself; None if the row has not got one of them.
fn of_the_row(expr: &Expr, row: &DFSchema) -> Result<Option<Expr>> {
    let mut is_whole = true;
    let written = expr.clone().transform_up(|part| {
        Ok(match part {
            Expr::OuterReferenceColumn(_, column) => {
                is_whole &= row.has_column(&column);
                Transformed::yes(Expr::Column(column))
            }
            other => Transformed::no(other),
        })
    });
    Ok(Some(written.data()?).filter(|_| is_whole))
}

/// Puts the expressions of the elements in the place of their columns; None if a column is not known.
fn of_elements(expr: Expr, known: &HashMap<Column, Expr>, row: &DFSchema) -> Result<Option<Expr>> {
    let mut is_whole = true;
    let written = expr.transform_up(|part| {
        Ok(match part {
            Expr::Column(column) => match known.get(&column) {
                Some(expr) => Transformed::yes(expr.clone()),
                None => {
                    is_whole &= column.relation.is_some() && row.has_column(&column);
                    Transformed::no(Expr::Column(column))
                }
            },
            other => Transformed::no(other),
        })
    });
    Ok(Some(written.data()?).filter(|_| is_whole))
}

fn is_true(filter: &Expr) -> bool {
    matches!(filter, Expr::Literal(ScalarValue::Boolean(Some(true)), _))
}

/// Refuses lists of an outer row that are left.
fn check(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        let LogicalPlan::Unnest(unnest) = node else { return Ok(TreeNodeRecursion::Continue) };
        let mut is_of_outer_row = false;
        unnest.input.apply_expressions(|expr| {
            is_of_outer_row |= expr.contains_outer();
            Ok(TreeNodeRecursion::Continue)
        })?;
        if is_of_outer_row {
            let hint =
                "CROSS JOIN UNNEST(t.list) AS u(x) has a row for each element; array_has(t.list, x) looks for one";
            return Err(Refusal::new("LATERAL over more than an array's elements is not supported", hint).into());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}
