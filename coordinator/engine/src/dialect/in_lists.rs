//! IN lists that the optimizer's simplifier does not let meet.
//!
//! DataFusion 55.2 makes one list of `x IN A AND x IN B` and of `x NOT IN A OR x NOT IN B`. It does so as if x were
//! never NULL and as if every item were a constant. The result is `true`, `false` or a shorter list for a row that has
//! NULL, and for an item that is a column or NULL (apache/datafusion#24258 corrects it, after 55.2). So if an expression
//! has more than one list, or may get them from `x = 1 OR x = 2`, each list and each comparison with a constant is
//! simplified by itself. The expression about them is simplified with names in their place.
//! ```text
//! (x = 1 OR x = 2) AND x NOT IN (3) ─► x IN (1, 2) AND NOT x IN (3) ─► l0 AND NOT l1 ─► the engine's rule ─► x IN (1, 2) AND x <> 3
//! ```
//!
//! Rewrites that are always right stay: lists under OR, and negated ones under AND, become one. Files are pruned as
//! before, because every condition prunes them.
//!
//! Take this out when `datafusion_alone_lets_lists_meet` fails.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result, ScalarValue, TableReference};
use datafusion::logical_expr::expr::{Cast, InList};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// Table whose columns stand for lists. They are outer columns, so that no plan has one of this name.
const LISTS: &str = "__gust_lists";

/// Runs `rule`, which simplifies a node's expressions, with their lists kept apart.
pub(super) fn simplified(
    rule: &dyn OptimizerRule,
    plan: LogicalPlan,
    config: &dyn OptimizerConfig,
) -> Result<Transformed<LogicalPlan>> {
    if !any_could_meet(&plan)? {
        return rule.rewrite(plan, config);
    }
    let schema = input_schema(&plan)?;
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(&schema))
        .with_config_options(config.options())
        .with_query_execution_start_time(config.query_execution_start_time())
        .build();
    // The rule, too, leaves the sides of a join's condition where they are.
    let simplifier = ExprSimplifier::new(context).with_canonicalize(!matches!(plan, LogicalPlan::Join(_)));
    let mut lists = Lists { schema, known: HashMap::new(), lists: vec![], simplifier, changed: Cell::new(false) };

    let names = NamePreserver::new(&plan);
    let mut hide = |expr: Expr| {
        if !could_meet(&expr)? {
            return Ok(Transformed::no(expr));
        }
        let name = names.save(&expr);
        Ok(Transformed::yes(name.restore(lists.with_names_for_lists(expr)?)))
    };
    let hidden = plan.map_expressions(|expr| match expr {
        Expr::GroupingSet(_) => expr.map_children(&mut hide),
        expr => hide(expr),
    })?;
    let simplified = rule.rewrite(hidden.data, config)?;
    let shown = simplified.data.map_expressions(|expr| lists.with_lists(expr))?;
    Ok(Transformed::new_transformed(shown.data, simplified.transformed || lists.changed.get()))
}

fn any_could_meet(plan: &LogicalPlan) -> Result<bool> {
    let mut any = false;
    plan.apply_expressions(|expr| {
        any = any || could_meet(expr)?;
        Ok(if any { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(any)
}

/// Tells if an expression has two lists, or may get as many from comparisons with constants.
fn could_meet(expr: &Expr) -> Result<bool> {
    let (mut lists, mut equal, mut is_logic) = (0, 0, false);
    expr.apply(|expr| {
        match expr {
            expr if is_list(expr) => lists += 1,
            Expr::BinaryExpr(BinaryExpr { op: Operator::Eq | Operator::NotEq, .. }) => equal += 1,
            Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) | Expr::Not(_) | Expr::Case(_) => is_logic = true,
            _ => {}
        }
        Ok(if lists > 1 { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(lists > 1 || is_logic && lists + equal / 2 > 1)
}

/// Tells if an expression is a list, or one that the simplifier makes a list of: `s ~ '^(a|b)$'`,
/// `array_has([1, 2], x)`.
fn is_list(expr: &Expr) -> bool {
    match expr {
        Expr::InList(_) => true,
        Expr::BinaryExpr(BinaryExpr { op, .. }) => matches!(
            op,
            Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch
        ),
        Expr::ScalarFunction(call) => matches!(call.name(), "regexp_like" | "array_has"),
        _ => false,
    }
}

/// Returns the columns that a node's expressions are over. A table's filters are over all of its columns.
pub(super) fn input_schema(plan: &LogicalPlan) -> Result<DFSchemaRef> {
    Ok(Arc::new(match plan {
        LogicalPlan::TableScan(scan) => {
            DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?
        }
        plan => merge_schema(&plan.inputs()),
    }))
}

struct Lists {
    schema: DFSchemaRef,
    /// Numbers of lists. Equal lists have one number, so that the rule simplifies `a OR a AND b`.
    known: HashMap<Expr, usize>,
    lists: Vec<Expr>,
    simplifier: ExprSimplifier,
    /// True if lists were united or became simpler.
    changed: Cell<bool>,
}

impl Lists {
    /// Replaces each list of an expression by a name.
    fn with_names_for_lists(&mut self, expr: Expr) -> Result<Expr> {
        let united = expr.transform_up(|expr| Ok(united(expr)))?;
        self.changed.set(self.changed.get() || united.transformed);
        let hidden = united.data.transform_up(|expr| match expr {
            Expr::InList(of) if has_columns(&of.expr) && !of.list.is_empty() => {
                let mut seen = HashSet::new();
                let list = of.list.into_iter().filter(|item| seen.insert(item.clone())).collect();
                self.hide(Expr::InList(InList { list, negated: false, ..of }), of.negated)
            }
            expr if is_list(&expr) && !matches!(expr, Expr::InList(_)) => self.hide(expr, false),
            Expr::BinaryExpr(of) if is_compared(&of) => {
                let is_negated = of.op == Operator::NotEq;
                self.hide(Expr::BinaryExpr(BinaryExpr { op: Operator::Eq, ..of }), is_negated)
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(hidden.data)
    }

    fn hide(&mut self, list: Expr, is_negated: bool) -> Result<Transformed<Expr>> {
        let is_nullable = list.nullable(&self.schema).unwrap_or(true);
        let next = self.lists.len();
        let known = if list.is_volatile() { next } else { *self.known.entry(list.clone()).or_insert(next) };
        if known == next {
            self.lists.push(list);
        }
        let name = known.to_string();
        let field = Arc::new(Field::new(&name, DataType::Boolean, is_nullable));
        let hidden = Expr::OuterReferenceColumn(field, Column::new(Some(LISTS), name));
        Ok(Transformed::yes(if is_negated { Expr::Not(Box::new(hidden)) } else { hidden }))
    }

    /// Replaces the names of an expression by their lists, each simplified.
    fn with_lists(&self, expr: Expr) -> Result<Transformed<Expr>> {
        expr.transform_down(|expr| {
            let (list, is_negated) = match &expr {
                Expr::Not(inner) => (self.list(inner), true),
                other => (self.list(other), false),
            };
            let Some(list) = list else { return Ok(Transformed::no(expr)) };
            let list = match (list.clone(), is_negated) {
                (Expr::InList(of), true) => Expr::InList(InList { negated: true, ..of }),
                (Expr::BinaryExpr(of), true) if of.op == Operator::Eq => {
                    Expr::BinaryExpr(BinaryExpr { op: Operator::NotEq, ..of })
                }
                (list, true) => Expr::Not(Box::new(list)),
                (list, false) => list,
            };
            let simplified = self.simplifier.simplify_with_cycle_count_transformed(list)?.0;
            self.changed.set(self.changed.get() || simplified.transformed);
            // A list may have others inside.
            let shown = self.with_lists(simplified.data)?.data;
            Ok(Transformed::new(shown, true, TreeNodeRecursion::Jump))
        })
    }

    /// Returns the list that an expression stands for.
    fn list(&self, expr: &Expr) -> Option<&Expr> {
        match expr {
            Expr::OuterReferenceColumn(_, Column { relation: Some(TableReference::Bare { table }), name, .. })
                if table.as_ref() == LISTS =>
            {
                self.lists.get(name.parse::<usize>().ok()?)
            }
            _ => None,
        }
    }
}

/// Makes one list of `x = 1 OR x IN (2, 3)` and of `x <> 1 AND x NOT IN (2, 3)`. This is right for any x and any items.
fn united(expr: Expr) -> Transformed<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) = expr else {
        return Transformed::no(expr);
    };
    let is_negated = op == Operator::And;
    let is_one = match (listed(&left, is_negated), listed(&right, is_negated)) {
        (Some(left), Some(right)) => left == right,
        _ => false,
    };
    if !is_one {
        return Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }));
    }
    let (expr, mut list) = into_list(*left);
    let (_, more) = into_list(*right);
    list.extend(more);
    Transformed::yes(Expr::InList(InList { expr: Box::new(expr), list, negated: is_negated }))
}

/// Returns the column that a list, or a comparison that can become one, is about.
fn listed(expr: &Expr, is_negated: bool) -> Option<&Expr> {
    let compared = match expr {
        Expr::InList(of) if of.negated == is_negated && !of.list.is_empty() => of.expr.as_ref(),
        Expr::BinaryExpr(of) if is_compared(of) && (of.op == Operator::NotEq) == is_negated => sides(of)?.columns,
        _ => return None,
    };
    let is_column = match compared {
        Expr::Cast(Cast { expr, .. }) => matches!(**expr, Expr::Column(_)),
        other => matches!(other, Expr::Column(_)),
    };
    is_column.then_some(compared)
}

/// Takes an expression apart in which [`listed`] has found a column.
fn into_list(expr: Expr) -> (Expr, Vec<Expr>) {
    match expr {
        Expr::InList(InList { expr, list, .. }) => (*expr, list),
        Expr::BinaryExpr(BinaryExpr { left, right, .. }) if has_columns(&left) => (*left, vec![*right]),
        Expr::BinaryExpr(BinaryExpr { left, right, .. }) => (*right, vec![*left]),
        other => (other, vec![]),
    }
}

/// Tells if an expression with columns is compared with a constant. A comparison with NULL, true or false does not
/// count: the simplifier makes something else of it.
fn is_compared(of: &BinaryExpr) -> bool {
    let is_plain = |constant: &Expr| !matches!(constant, Expr::Literal(value, _) if value.is_null() || matches!(value, ScalarValue::Boolean(_)));
    matches!(of.op, Operator::Eq | Operator::NotEq) && sides(of).is_some_and(|sides| is_plain(sides.constant))
}

/// Sides of a comparison with a constant.
struct Sides<'a> {
    columns: &'a Expr,
    constant: &'a Expr,
}

fn sides(BinaryExpr { left, right, .. }: &BinaryExpr) -> Option<Sides<'_>> {
    match (has_columns(left), has_columns(right)) {
        (true, false) if !right.is_volatile() => Some(Sides { columns: left, constant: right }),
        (false, true) if !left.is_volatile() => Some(Sides { columns: right, constant: left }),
        _ => None,
    }
}

/// Tells if an expression cannot be computed while a query is planned.
fn has_columns(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Literal(..) => false,
        Expr::Cast(Cast { expr, .. }) => has_columns(expr),
        expr => expr
            .exists(|expr| {
                Ok(matches!(
                    expr,
                    Expr::Column(_)
                        | Expr::OuterReferenceColumn(..)
                        | Expr::ScalarSubquery(_)
                        | Expr::InSubquery(_)
                        | Expr::Exists(_)
                        | Expr::SetComparison(_)
                        | Expr::Placeholder(_)
                        | Expr::AggregateFunction(_)
                        | Expr::WindowFunction(_)
                        | Expr::Unnest(_)
                        | Expr::LambdaVariable(_)
                ))
            })
            .unwrap_or(true),
    }
}
