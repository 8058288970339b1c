//! Parts of a plan that rules change. A rule rebuilds the plan that it goes through, so that it runs only if it has
//! such a part.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{NullEquality, Result};
use datafusion::logical_expr::expr::{BinaryExpr, Cast, TryCast, WindowFunctionDefinition};
use datafusion::logical_expr::{Expr, JoinConstraint, LogicalPlan, Operator};
use gust_protocol::functions::{self, MergedKey, has_floats};

use super::json_casts::makes_json;

/// Kinds of parts in a plan and its subqueries. A field may be true without such a part. It is never false with one.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Contents {
    /// Functions that have the name of one of ours.
    pub(super) other_functions: bool,
    /// Calls of scalar functions.
    pub(super) calls: bool,
    /// Calls that make JSON.
    pub(super) json: bool,
    /// Joins by USING, and marks of their keys.
    pub(super) merged_keys: bool,
    pub(super) unions: bool,
    /// Elements of lists as rows.
    pub(super) unnests: bool,
    /// Joins in which NULLs are equal.
    pub(super) set_joins: bool,
    pub(super) floats: bool,
    pub(super) decimals: bool,
    /// `+` or `-` of two operands.
    pub(super) sums: bool,
    /// `+`, `-`, `*`, `/`, `%` and signs.
    pub(super) arithmetic: bool,
    pub(super) subqueries: bool,
    pub(super) windows: bool,
    /// Dates, and points in time that are not of nanoseconds.
    pub(super) times: bool,
    /// Dates, times and points in time.
    pub(super) any_times: bool,
}

impl Contents {
    pub(super) fn of(plan: &LogicalPlan) -> Result<Self> {
        let mut contents = Self::default();
        plan.apply_with_subqueries(|node| {
            contents.add_node(node);
            node.apply_expressions(|expr| {
                expr.apply(|expr| {
                    contents.add_expr(expr);
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        Ok(contents)
    }

    fn add_node(&mut self, node: &LogicalPlan) {
        node.schema().fields().iter().for_each(|field| self.add_type(field.data_type()));
        match node {
            LogicalPlan::Union(_) => self.unions = true,
            LogicalPlan::Unnest(_) => self.unnests = true,
            LogicalPlan::Window(_) => self.windows = true,
            LogicalPlan::Join(join) => {
                self.merged_keys |= join.join_constraint == JoinConstraint::Using;
                self.set_joins |= join.null_equality == NullEquality::NullEqualsNull;
            }
            _ => {}
        }
    }

    fn add_expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Literal(value, _) => self.add_type(&value.data_type()),
            Expr::Cast(Cast { field, .. }) | Expr::TryCast(TryCast { field, .. }) => self.add_type(field.data_type()),
            Expr::BinaryExpr(BinaryExpr { op, .. }) => match op {
                Operator::Plus | Operator::Minus => (self.sums, self.arithmetic) = (true, true),
                Operator::Multiply | Operator::Divide | Operator::Modulo => self.arithmetic = true,
                _ => {}
            },
            Expr::Negative(_) => self.arithmetic = true,
            Expr::ScalarFunction(call) => {
                self.other_functions |= functions::scalar_named(call.name()).is_some_and(|own| *own != call.func);
                self.merged_keys |= call.name() == MergedKey::NAME;
                self.calls = true;
                self.json |= makes_json(call);
                // Its result, or a part of a nested argument, may have numbers that no column and no constant has.
                (self.floats, self.decimals, self.times, self.any_times) = (true, true, true, true);
            }
            Expr::AggregateFunction(call) => {
                self.other_functions |=
                    functions::aggregate_named(call.func.name()).is_some_and(|own| *own != call.func);
            }
            Expr::WindowFunction(call) => {
                if let WindowFunctionDefinition::AggregateUDF(func) = &call.fun {
                    self.other_functions |= functions::aggregate_named(func.name()).is_some_and(|own| own != func);
                }
            }
            Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) | Expr::ScalarSubquery(_) => {
                self.subqueries = true;
            }
            // Their types are not known yet.
            Expr::HigherOrderFunction(_) | Expr::Placeholder(_) | Expr::ScalarVariable(..) => {
                (self.floats, self.decimals, self.times, self.any_times) = (true, true, true, true);
            }
            _ => {}
        }
    }

    fn add_type(&mut self, of: &DataType) {
        self.floats |= has_floats(of);
        self.decimals |= has_decimals(of);
        self.any_times |= of.is_temporal();
        self.times |= match of {
            DataType::Timestamp(unit, _) => *unit != TimeUnit::Nanosecond,
            other => *other == DataType::Date32,
        };
    }
}

/// Tells if a type is a decimal, or holds one.
pub(super) fn has_decimals(of: &DataType) -> bool {
    match of {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => has_decimals(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_decimals(field.data_type())),
        DataType::Dictionary(_, values) => has_decimals(values),
        other => other.is_decimal(),
    }
}
