//! One zero and one NaN: floats that SQL calls equal get equal bits where bits are compared.
//!
//! DataFusion 55.2 groups, joins, sorts and compares floats by their bits. It makes −0.0 to 0.0 in some places and not
//! in others (apache/datafusion#16254). A NaN with a sign, which x86 computes for 0.0 / 0.0, is another value than NaN
//! and the least of all. Here −0.0 = 0.0, NaN = NaN, and NaN is greater than all else, as in PostgreSQL and DuckDB.
//! Values go through `gust_float_key` in keys of GROUP BY, DISTINCT, joins, set operations, IN, PARTITION BY and ORDER
//! BY, in comparisons, and as arguments of DISTINCT aggregates and of aggregates that compare (`min`, `max`, `median`
//! and the like).
//!
//! A comparison with a constant stays as it is where it is right for every NaN (`x = 5.0`). For pruning, `x < 5.0`
//! stays beside the keyed one, and `x >= -0.0 AND x <= 0.0` beside the keyed `x = 0.0`. `x > 5.0` cannot be pruned by
//! Parquet's statistics, which do not count NaN. It can be pruned by Iceberg's, which do (`tables/predicate.rs`).
//! Functions that compare (`nullif`, `greatest`, those of arrays) make their own keys (`corrected` beside `float_key`).
//!
//! Take this out when the rows of `floats` in `tests/tests/meaning.rs` are right without it.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{
    AggregateFunction, Case, Cast, InList, InSubquery, ScalarFunction, SetComparison, Sort as SortExpr, TryCast,
};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, BinaryExpr, Distinct, DistinctOn, Expr, ExprSchemable, GroupingSet, Join, JoinConstraint, LogicalPlan,
    Operator, Projection, RecursiveQuery, Sort, Subquery, SubqueryAlias, lit,
};
use datafusion::optimizer::AnalyzerRule;
use gust_protocol::functions::{self, FloatKey, has_floats};

#[derive(Debug)]
pub(super) struct FloatKeys;

impl AnalyzerRule for FloatKeys {
    fn name(&self) -> &str {
        "gust_float_keys"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let keys = Keys { schema: merge_schema(&plan.inputs()) };
            let rewritten = super::map_named(plan, |expr| expr.transform_up(|expr| keys.rewrite_expr(expr)))?;
            rewritten.transform_data(|plan| keys.rewrite_node(plan))
        })
        .data()
    }
}

/// Columns that a node's expressions are over.
struct Keys {
    schema: DFSchema,
}

impl Keys {
    /// Rewrites the keys by which a node groups, joins or sorts.
    fn rewrite_node(&self, plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        match plan {
            LogicalPlan::Aggregate(aggregate)
                if aggregate.group_expr.iter().any(|expr| self.any_may_be_uncanonical(expr)) =>
            {
                super::map_named(LogicalPlan::Aggregate(aggregate), |expr| Ok(self.group(expr)))
            }
            LogicalPlan::Distinct(Distinct::All(input)) => self.distinct(input),
            LogicalPlan::Distinct(Distinct::On(on)) => {
                let on_expr = on.on_expr.into_iter().map(|expr| self.key(expr)).collect();
                let sort_expr = on.sort_expr.map(|order| self.order(order));
                Ok(Transformed::yes(LogicalPlan::Distinct(Distinct::On(DistinctOn { on_expr, sort_expr, ..on }))))
            }
            LogicalPlan::Join(join)
                if join
                    .on
                    .iter()
                    .any(|(left, right)| self.may_be_uncanonical(left) || self.may_be_uncanonical(right)) =>
            {
                let on = join.on.into_iter().map(|(left, right)| (self.key(left), self.key(right))).collect();
                // USING joins by columns alone. References to the merged column are resolved by now.
                let join_constraint = JoinConstraint::On;
                Ok(Transformed::yes(LogicalPlan::Join(Join { on, join_constraint, ..join })))
            }
            LogicalPlan::Sort(sort) if sort.expr.iter().any(|by| self.may_be_uncanonical(&by.expr)) => {
                Ok(Transformed::yes(LogicalPlan::Sort(Sort { expr: self.order(sort.expr), ..sort })))
            }
            LogicalPlan::RecursiveQuery(query) if query.is_distinct => {
                let (first, next) = (Self::keyed_rows(query.static_term)?, Self::keyed_rows(query.recursive_term)?);
                let changed = first.transformed || next.transformed;
                let query = RecursiveQuery { static_term: first.data, recursive_term: next.data, ..query };
                Ok(Transformed::new_transformed(LogicalPlan::RecursiveQuery(query), changed))
            }
            other => Ok(Transformed::no(other)),
        }
    }

    fn any_may_be_uncanonical(&self, group: &Expr) -> bool {
        match group {
            Expr::GroupingSet(sets) => sets.distinct_expr().iter().any(|expr| self.may_be_uncanonical(expr)),
            expr => self.may_be_uncanonical(expr),
        }
    }

    /// Replaces a grouping expression by its key. Aggregates beside it stay.
    fn group(&self, expr: Expr) -> Transformed<Expr> {
        match expr {
            Expr::AggregateFunction(_) => Transformed::no(expr),
            Expr::Alias(alias) if matches!(*alias.expr, Expr::AggregateFunction(_)) => {
                Transformed::no(Expr::Alias(alias))
            }
            Expr::GroupingSet(sets) => {
                let keys = |exprs: Vec<Expr>| exprs.into_iter().map(|expr| self.named_key(expr)).collect::<Vec<_>>();
                Transformed::yes(Expr::GroupingSet(match sets {
                    GroupingSet::Rollup(exprs) => GroupingSet::Rollup(keys(exprs)),
                    GroupingSet::Cube(exprs) => GroupingSet::Cube(keys(exprs)),
                    GroupingSet::GroupingSets(sets) => GroupingSet::GroupingSets(sets.into_iter().map(keys).collect()),
                }))
            }
            expr if self.may_be_uncanonical(&expr) => Transformed::yes(self.key(expr)),
            expr => Transformed::no(expr),
        }
    }

    fn named_key(&self, expr: Expr) -> Expr {
        if !self.may_be_uncanonical(&expr) {
            return expr;
        }
        let (relation, name) = expr.qualified_name();
        self.key(expr).alias_qualified(relation, name)
    }

    /// Replaces the rows of one side of a recursive UNION by their keys: their bits tell them apart.
    fn keyed_rows(term: Arc<LogicalPlan>) -> Result<Transformed<Arc<LogicalPlan>>> {
        let keys = Keys { schema: term.schema().as_ref().clone() };
        let columns: Vec<Expr> = term.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
        if !columns.iter().any(|column| keys.may_be_uncanonical(column)) || has_keys(&term) {
            return Ok(Transformed::no(term));
        }
        let exprs = columns.into_iter().map(|column| keys.named_key(column)).collect();
        Ok(Transformed::yes(Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, term)?))))
    }

    fn distinct(&self, input: Arc<LogicalPlan>) -> Result<Transformed<LogicalPlan>> {
        let columns: Vec<Expr> = input.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
        if !columns.iter().any(|column| self.may_be_uncanonical(column)) || has_keys(&input) {
            return Ok(Transformed::no(LogicalPlan::Distinct(Distinct::All(input))));
        }
        let keys = columns.into_iter().map(|column| self.named_key(column)).collect();
        let input = LogicalPlan::Projection(Projection::try_new(keys, input)?);
        Ok(Transformed::yes(LogicalPlan::Distinct(Distinct::All(Arc::new(input)))))
    }

    fn order(&self, order: Vec<SortExpr>) -> Vec<SortExpr> {
        order.into_iter().map(|by| SortExpr { expr: self.key(by.expr), ..by }).collect()
    }

    /// Replaces the values that one expression compares.
    fn rewrite_expr(&self, expr: Expr) -> Result<Transformed<Expr>> {
        Ok(match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(op) => {
                return Ok(self.comparison(*left, op, *right));
            }
            Expr::Between(Between { expr, negated, low, high }) if self.may_be_uncanonical(&expr) => {
                let (least, most, both) = match negated {
                    false => (Operator::GtEq, Operator::LtEq, Operator::And),
                    true => (Operator::Lt, Operator::Gt, Operator::Or),
                };
                let low = self.comparison(expr.as_ref().clone(), least, *low).data;
                let high = self.comparison(*expr, most, *high).data;
                Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(low), both, Box::new(high))))
            }
            // A long list is looked up by its bits: a zero in it needs its key, too.
            Expr::InList(InList { expr, list, negated })
                if self.may_be_uncanonical(&expr)
                    && !list.iter().all(|item| is_constant_without_nan(item) && !is_zero(item)) =>
            {
                let list =
                    list.into_iter().map(|item| if is_zero(&item) { keyed(item) } else { self.key(item) }).collect();
                Transformed::yes(Expr::InList(InList { expr: Box::new(self.key(*expr)), list, negated }))
            }
            Expr::InSubquery(InSubquery { expr, subquery, negated }) if self.may_be_uncanonical(&expr) => {
                let (expr, subquery) = (Box::new(self.key(*expr)), with_keys(subquery)?);
                Transformed::yes(Expr::InSubquery(InSubquery { expr, subquery, negated }))
            }
            Expr::SetComparison(SetComparison { expr, subquery, op, quantifier }) if self.may_be_uncanonical(&expr) => {
                let (expr, subquery) = (Box::new(self.key(*expr)), with_keys(subquery)?);
                Transformed::yes(Expr::SetComparison(SetComparison { expr, subquery, op, quantifier }))
            }
            // Constants are looked up by their bits: a zero among them needs its key, too.
            Expr::Case(Case { expr: Some(of), when_then_expr, else_expr })
                if self.may_be_uncanonical(&of) || when_then_expr.iter().any(|(is, _)| self.is_float_zero(is)) =>
            {
                let key = |is: Expr| if self.is_float_zero(&is) { keyed(is) } else { self.key(is) };
                let when_then_expr = when_then_expr.into_iter().map(|(is, then)| (Box::new(key(*is)), then)).collect();
                Transformed::yes(Expr::Case(Case { expr: Some(Box::new(self.key(*of))), when_then_expr, else_expr }))
            }
            Expr::AggregateFunction(AggregateFunction { func, mut params }) => {
                if params.distinct || compares(func.name()) {
                    params.args = params.args.into_iter().map(|arg| self.key(arg)).collect();
                }
                params.order_by = self.order(params.order_by);
                Transformed::yes(Expr::AggregateFunction(AggregateFunction { func, params }))
            }
            Expr::WindowFunction(mut window) => {
                let is_compared = window.params.distinct || compares(window.fun.name());
                let params = &mut window.params;
                if is_compared {
                    params.args = std::mem::take(&mut params.args).into_iter().map(|arg| self.key(arg)).collect();
                }
                params.partition_by =
                    std::mem::take(&mut params.partition_by).into_iter().map(|by| self.key(by)).collect();
                params.order_by = self.order(std::mem::take(&mut params.order_by));
                Transformed::yes(Expr::WindowFunction(window))
            }
            other => Transformed::no(other),
        })
    }

    fn comparison(&self, left: Expr, op: Operator, right: Expr) -> Transformed<Expr> {
        let binary = |left, op, right| Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)));
        if !self.may_be_uncanonical(&left) && !self.may_be_uncanonical(&right) {
            return Transformed::no(binary(left, op, right));
        }
        if is_constant_without_nan(&left) && !is_constant_without_nan(&right) {
            return match op.swap() {
                Some(op) => self.comparison(right, op, left),
                None => Transformed::yes(binary(self.key(left), op, self.key(right))),
            };
        }
        match op {
            // The simplifier compares constants by their bits. It makes a list of four in an OR, which is looked up
            // by bits, too.
            Operator::Eq | Operator::NotEq if is_constant_without_nan(&right) && is_zero(&right) => {
                let is_surely = is_surely_zero(&right);
                let keyed = binary(self.key(left.clone()), op, keyed(right));
                Transformed::yes(match (op, self.zeros(&left)) {
                    (Operator::Eq, Some((low, high))) if is_surely => {
                        keyed.and(left.clone().gt_eq(low)).and(left.lt_eq(high))
                    }
                    _ => keyed,
                })
            }
            Operator::Eq | Operator::NotEq if is_constant_without_nan(&right) => {
                Transformed::no(binary(left, op, right))
            }
            Operator::Lt | Operator::LtEq if is_constant_without_nan(&right) => {
                let keyed = binary(self.key(left.clone()), op, right.clone());
                Transformed::yes(keyed.and(binary(left, op, right)))
            }
            _ => Transformed::yes(binary(self.key(left), op, self.key(right))),
        }
    }

    /// Tells if an expression has floats that may not be canonical. A value that differs each time it is computed
    /// must not be written twice: `random() < 0.1` beside its key would be true of one row in a hundred.
    fn may_be_uncanonical(&self, expr: &Expr) -> bool {
        if expr.is_volatile() {
            return false;
        }
        let of_floats = |expr: &Expr| expr.get_type(&self.schema).is_ok_and(|of| has_floats(&of));
        match expr {
            Expr::Alias(alias) => self.may_be_uncanonical(&alias.expr),
            // A float from an integer or a decimal is canonical.
            Expr::Cast(Cast { expr: from, .. }) | Expr::TryCast(TryCast { expr: from, .. }) => {
                of_floats(expr)
                    && from.get_type(&self.schema).is_ok_and(|from| !from.is_integer() && !from.is_decimal())
            }
            Expr::ScalarFunction(ScalarFunction { func, .. }) if func.name() == FloatKey::NAME => false,
            expr => of_floats(expr) && !is_constant_without_nan(expr),
        }
    }

    /// Returns the least and the greatest zero of a column's type, for pruning.
    fn zeros(&self, column: &Expr) -> Option<(Expr, Expr)> {
        match column.get_type(&self.schema).ok()? {
            DataType::Float32 => Some((lit(-0.0_f32), lit(0.0_f32))),
            DataType::Float64 => Some((lit(-0.0_f64), lit(0.0_f64))),
            _ => None,
        }
    }

    fn is_float_zero(&self, expr: &Expr) -> bool {
        is_zero(expr) && expr.get_type(&self.schema).is_ok_and(|of| has_floats(&of))
    }

    /// Returns the key of an expression, or the expression if it is canonical.
    fn key(&self, expr: Expr) -> Expr {
        if self.may_be_uncanonical(&expr) { keyed(expr) } else { expr }
    }
}

fn keyed(expr: Expr) -> Expr {
    match functions::scalar_named(FloatKey::NAME) {
        Some(function) => function.call(vec![expr]),
        None => expr,
    }
}

/// Tells if an expression is a constant zero of either sign, or a cast that may become one.
fn is_zero(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(ScalarValue::Float16(Some(value)), _) => f64::from(*value) == 0.0,
        Expr::Literal(ScalarValue::Float32(Some(value)), _) => *value == 0.0,
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => *value == 0.0,
        Expr::Literal(value, _) if value.data_type().is_numeric() => {
            ScalarValue::new_zero(&value.data_type()).is_ok_and(|zero| zero == *value)
        }
        Expr::Cast(Cast { expr, .. }) | Expr::Negative(expr) => {
            is_zero(expr) || !matches!(&**expr, Expr::Literal(value, _) if value.data_type().is_numeric())
        }
        _ => false,
    }
}

/// Tells if an expression is a constant zero, and not only a cast that may become one.
fn is_surely_zero(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(..) => is_zero(expr),
        Expr::Cast(Cast { expr, .. }) | Expr::Negative(expr) => is_surely_zero(expr),
        _ => false,
    }
}

/// Tells if an aggregate compares its argument.
fn compares(aggregate: &str) -> bool {
    matches!(aggregate, "min" | "max" | "approx_distinct" | "median" | "percentile_cont")
}

pub(super) fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// Tells if an expression is a constant that is no NaN. DataFusion compares a zero of either sign as one.
fn is_constant_without_nan(expr: &Expr) -> bool {
    let is_number = |value: &ScalarValue| match value {
        ScalarValue::Float16(Some(value)) => !f64::from(*value).is_nan(),
        ScalarValue::Float32(Some(value)) => !value.is_nan(),
        ScalarValue::Float64(Some(value)) => !value.is_nan(),
        other => other.is_null(),
    };
    match expr {
        Expr::Literal(value, _) => is_number(value) || value.data_type().is_integer(),
        Expr::Cast(Cast { expr, .. }) => {
            matches!(&**expr, Expr::Literal(value, _) if value.data_type().is_numeric() && !has_floats(&value.data_type()) || is_number(value))
        }
        Expr::Negative(expr) => is_constant_without_nan(expr),
        _ => false,
    }
}

/// Replaces the values of a list by their keys, for a subquery that is searched.
fn with_keys(subquery: Subquery) -> Result<Subquery> {
    let keys = Keys { schema: subquery.subquery.schema().as_ref().clone() };
    let column = Expr::Column(Column::from(subquery.subquery.schema().qualified_field(0)));
    if !keys.may_be_uncanonical(&column) || has_keys(&subquery.subquery) {
        return Ok(subquery);
    }
    if !subquery.subquery.all_out_ref_exprs().is_empty() {
        let projection = Projection::try_new(vec![keys.named_key(column)], Arc::clone(&subquery.subquery))?;
        return Ok(subquery.with_plan(Arc::new(LogicalPlan::Projection(projection))));
    }
    let name = column.name_for_alias()?;
    let projection = Projection::try_new(vec![keys.key(column).alias(name)], Arc::clone(&subquery.subquery))?;
    // With the name of the query's own table DataFusion would mistake the two, or say that there are two of them. A
    // correlated list cannot have another name, and mostly reads another table.
    let named = SubqueryAlias::try_new(Arc::new(LogicalPlan::Projection(projection)), LIST)?;
    Ok(subquery.with_plan(Arc::new(LogicalPlan::SubqueryAlias(named))))
}

/// Name of a list of keys.
const LIST: &str = "__gust_keys";

/// Tells if this rule has rewritten a plan before.
fn has_keys(plan: &LogicalPlan) -> bool {
    let is_key = |expr: &Expr| match expr {
        Expr::Alias(alias) => {
            matches!(&*alias.expr, Expr::ScalarFunction(ScalarFunction { func, .. }) if func.name() == FloatKey::NAME)
        }
        _ => false,
    };
    match plan {
        LogicalPlan::SubqueryAlias(alias) => alias.alias.table() == LIST,
        LogicalPlan::Projection(projection) => projection.expr.iter().any(is_key),
        _ => false,
    }
}
