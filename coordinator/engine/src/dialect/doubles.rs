//! DOUBLE and DECIMAL meet as DOUBLE, as in PostgreSQL, DuckDB and Trino.
//!
//! DataFusion 55.2 makes DECIMAL(30, 15) of a double that is compared or united with a decimal. Then 1e-20 is nought,
//! and NaN, an infinity or 1e20 is an error. Here the decimals become doubles before DataFusion looks for a common
//! type: in comparisons, BETWEEN, IN, CASE, joins, set operations, VALUES, arrays and their functions, `coalesce`,
//! `nullif`, `greatest` and `least`, also inside lists, maps and structs. Constants that have a decimal's digits
//! (`price > 9.99 + 0.01`) stay with the decimals. They lose nothing there, and files are pruned by decimals. In the
//! same places points in time get one unit ([`time_units`]).
//!
//! The planner has given the rows of VALUES one type already, by casts. These are taken off again. A cast that the
//! statement has in a row stands twice there ([`crate::sql`]), so that it is kept.
//!
//! Take this out when the rows of `doubles` in `tests/cases/meaning.toml` are right without it.

use std::cell::Cell;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Case, Cast, InList, InSubquery, ScalarFunction, SetComparison};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, BinaryExpr, Expr, ExprSchemable, Join, JoinConstraint, LogicalPlan, LogicalPlanBuilder, Operator,
    Projection, Union, Values, cast, lit,
};
use datafusion::optimizer::AnalyzerRule;

use super::contents::has_decimals;
use super::time_units::{self, TypedExpr};

/// Functions whose arguments get one type.
const UNITING_FUNCTIONS: [&str; 6] = ["coalesce", "nullif", "nvl", "greatest", "least", "make_array"];

/// Beginning of the names of functions that take arrays and their elements.
const ARRAY_FUNCTIONS_PREFIX: &str = "array";

/// Sizes of constants that have few enough digits on both sides of the point.
const DECIMAL_CONSTANTS: std::ops::Range<f64> = 1e-12..1e15;

#[derive(Debug)]
pub(super) struct Doubles;

impl AnalyzerRule for Doubles {
    fn name(&self) -> &str {
        "gust_doubles"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changed = Cell::new(false);
        plan.transform_up_with_subqueries(|plan| {
            let met = NodeColumns { schema: merge_schema(&plan.inputs()) };
            let rewritten = super::map_named(plan, |expr| expr.transform_up(|expr| met.rewrite_expr(expr)))?;
            let rewritten = rewritten.transform_data(|plan| met.rewrite_node(plan))?;
            changed.set(changed.get() || rewritten.transformed);
            // A column that has become a double is one in all nodes above.
            if changed.get() { rewritten.map_data(LogicalPlan::recompute_schema) } else { Ok(rewritten) }
        })
        .data()
    }
}

/// A function that picks the part of a type that has to be equal among expressions.
type Part = fn(&DataType) -> &DataType;

/// Types that the columns of an input are cast to. A column without one stays as it is.
type ColumnCasts = Vec<Option<DataType>>;

/// Columns that a node's expressions are over.
struct NodeColumns {
    schema: DFSchema,
}

impl NodeColumns {
    /// Returns the type that an expression brings to others. A constant brings none if a decimal has its digits.
    fn kind(&self, expr: &Expr) -> DataType {
        if is_decimal_constant(expr) { DataType::Null } else { expr.get_type(&self.schema).unwrap_or(DataType::Null) }
    }

    /// Makes doubles of the decimals among `exprs` if there are doubles. Returns true if it changed any.
    fn unite<'a>(&self, exprs: impl IntoIterator<Item = &'a mut Expr>) -> bool {
        let mut exprs: Vec<&mut Expr> = exprs.into_iter().collect();
        let type_of = |expr: &Expr| expr.get_type(&self.schema).unwrap_or(DataType::Null);
        let met: Vec<_> = exprs.iter().map(|expr| TypedExpr { data_type: type_of(expr), expr: Some(expr) }).collect();
        let units = time_units::united(&met);
        let any = units.iter().any(Option::is_some);
        for (expr, unit) in exprs.iter_mut().zip(units) {
            if let Some(unit) = unit {
                **expr = time_units::cast_to(std::mem::take(*expr), unit);
            }
        }
        self.unite_by(exprs, whole) || any
    }

    /// Does the same, but only a `part` of the types has to be equal.
    fn unite_by<'a>(&self, exprs: impl IntoIterator<Item = &'a mut Expr>, part: Part) -> bool {
        let mut exprs: Vec<(DataType, &mut Expr)> = exprs.into_iter().map(|expr| (self.kind(expr), expr)).collect();
        let kinds: Vec<DataType> = exprs.iter().map(|(of, _)| part(of).clone()).collect();
        let mut any = false;
        for (of, expr) in &mut exprs {
            if let Some(doubles) = doubled(of, part, &kinds.iter().collect::<Vec<_>>()) {
                **expr = cast(std::mem::take(*expr), doubles);
                any = true;
            }
        }
        any
    }

    fn rewrite_expr(&self, mut expr: Expr) -> Result<Transformed<Expr>> {
        let changed = match &mut expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if super::float_keys::is_comparison(*op) => {
                self.unite([left.as_mut(), right.as_mut()])
            }
            Expr::Between(Between { expr, low, high, .. }) => self.unite([expr.as_mut(), low.as_mut(), high.as_mut()]),
            Expr::InList(InList { expr, list, .. }) => self.unite([expr.as_mut()].into_iter().chain(list)),
            Expr::Case(Case { expr, when_then_expr, else_expr }) => {
                let (whens, thens): (Vec<&mut Expr>, Vec<&mut Expr>) =
                    when_then_expr.iter_mut().map(|(when, then)| (when.as_mut(), then.as_mut())).unzip();
                let compared = expr.is_some() && self.unite(expr.iter_mut().map(AsMut::as_mut).chain(whens));
                self.unite(thens.into_iter().chain(else_expr.iter_mut().map(AsMut::as_mut))) || compared
            }
            Expr::ScalarFunction(ScalarFunction { func, args }) if UNITING_FUNCTIONS.contains(&func.name()) => {
                self.unite(args)
            }
            // The first argument of nvl2 is a condition.
            Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "nvl2" => {
                self.unite(args.iter_mut().skip(1))
            }
            Expr::ScalarFunction(ScalarFunction { func, args }) if func.name().starts_with(ARRAY_FUNCTIONS_PREFIX) => {
                self.unite_by(args, element)
            }
            Expr::InSubquery(InSubquery { expr, subquery, .. })
            | Expr::SetComparison(SetComparison { expr, subquery, .. }) => {
                let (value, rows) = (self.kind(expr), kind_of(&subquery.subquery, 0));
                let own = TypedExpr { data_type: expr.get_type(&self.schema)?, expr: Some(expr.as_ref()) };
                let mut units = time_units::united(&[own, type_of(&subquery.subquery, 0)]).into_iter();
                let (own, theirs) = (units.next().flatten(), units.next().flatten());
                if let Some(unit) = own {
                    **expr = time_units::cast_to(std::mem::take(expr.as_mut()), unit);
                }
                if let Some(doubles) = doubled(&value, whole, &[&rows]) {
                    **expr = cast(std::mem::take(expr.as_mut()), doubles);
                }
                let doubles = theirs.or_else(|| doubled(&rows, whole, &[&value]));
                let changed = doubles.is_some() || value != self.kind(expr);
                if let Some(doubles) = doubles {
                    *subquery = subquery.with_plan(cast_columns(Arc::clone(&subquery.subquery), &[Some(doubles)])?);
                }
                changed
            }
            _ => false,
        };
        Ok(Transformed::new_transformed(expr, changed))
    }

    /// Unites the keys of a join, the columns of a UNION and the columns of VALUES.
    fn rewrite_node(&self, plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        match plan {
            LogicalPlan::Join(mut join) => {
                let changed =
                    join.on.iter_mut().filter_map(|(left, right)| self.unite([left, right]).then_some(())).count() > 0;
                // USING joins by columns alone. References to the merged column are resolved by now.
                let join_constraint = if changed { JoinConstraint::On } else { join.join_constraint };
                Ok(Transformed::new_transformed(LogicalPlan::Join(Join { join_constraint, ..join }), changed))
            }
            LogicalPlan::Union(union) => {
                let kinds: Vec<Vec<DataType>> = (0..union.schema.fields().len())
                    .map(|column| union.inputs.iter().map(|input| kind_of(input, column)).collect())
                    .collect();
                let types_of = |column: usize| union.inputs.iter().map(move |input| type_of(input, column));
                let units: Vec<Vec<Option<DataType>>> =
                    (0..kinds.len()).map(|column| time_units::united(&types_of(column).collect::<Vec<_>>())).collect();
                let doubles_of = |input: usize| -> ColumnCasts {
                    let of_column = |(kinds, units): (&Vec<DataType>, &Vec<Option<DataType>>)| {
                        let unit = units[input].clone();
                        unit.or_else(|| doubled(&kinds[input], whole, &kinds.iter().collect::<Vec<_>>()))
                    };
                    kinds.iter().zip(&units).map(of_column).collect()
                };
                let doubles: Vec<ColumnCasts> = (0..union.inputs.len()).map(doubles_of).collect();
                if doubles.iter().flatten().all(Option::is_none) {
                    return Ok(Transformed::no(LogicalPlan::Union(union)));
                }
                let inputs =
                    union.inputs.into_iter().zip(&doubles).map(|(input, doubles)| cast_columns(input, doubles));
                let inputs = inputs.collect::<Result<_>>()?;
                Ok(Transformed::yes(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)))
            }
            LogicalPlan::Values(values) => self.rewrite_values(values),
            other => Ok(Transformed::no(other)),
        }
    }

    /// Takes the planner's casts off the rows of VALUES, and makes a column doubles if one of its values is a
    /// double.
    fn rewrite_values(&self, values: Values) -> Result<Transformed<LogicalPlan>> {
        let types: Vec<&DataType> = values.schema.fields().iter().map(|field| field.data_type()).collect();
        if !types.iter().any(|of| has_decimals(of)) {
            return Ok(Transformed::no(LogicalPlan::Values(values)));
        }
        // A column without decimals stays as it is, because its casts may be the statement's.
        let as_written = |(expr, of): (&Expr, &&DataType)| match expr {
            expr if !has_decimals(of) => expr.clone(),
            Expr::Cast(Cast { expr: inner, field }) if field.data_type() == *of => inner.as_ref().clone(),
            Expr::Literal(value, _) if value.is_null() && value.data_type() == **of => lit(ScalarValue::Null),
            other => other.clone(),
        };
        let mut rows: Vec<Vec<Expr>> =
            values.values.iter().map(|row| row.iter().zip(&types).map(as_written).collect()).collect();
        let mut any = false;
        for column in 0..types.len() {
            any |= self.unite(rows.iter_mut().map(|row| &mut row[column]));
        }
        // A value in a row may have become a double before.
        any |= values
            .values
            .iter()
            .flatten()
            .zip(types.iter().cycle())
            .any(|(expr, of)| expr.get_type(&self.schema).is_ok_and(|own| own != **of));
        match any {
            true => Ok(Transformed::yes(LogicalPlanBuilder::values(rows)?.build()?)),
            false => Ok(Transformed::no(LogicalPlan::Values(values))),
        }
    }
}

/// Returns the type `of` with doubles for its decimals, if one of `others` has a float in that place. Otherwise returns
/// None.
///
/// `part` picks the part of `of` that the other types meet.
fn doubled(of: &DataType, part: Part, others: &[&DataType]) -> Option<DataType> {
    if part(of) != of {
        let inner = list_item(of)?;
        return Some(with_item(of, doubled(inner.data_type(), part, others)?));
    }
    match of {
        of if of.is_decimal() => others.iter().any(|other| other.is_floating()).then_some(DataType::Float64),
        DataType::Dictionary(_, values) => doubled(values, whole, others),
        DataType::Struct(fields) => {
            let others: Vec<&Fields> = others.iter().filter_map(|other| struct_fields(other)).collect();
            doubled_fields(fields, &others).map(DataType::Struct)
        }
        DataType::Map(entries, sorted) => {
            let fields = struct_fields(entries.data_type())?;
            let others = others.iter().filter_map(|other| match other {
                DataType::Map(entries, _) => struct_fields(entries.data_type()),
                _ => None,
            });
            let fields = doubled_fields(fields, &others.collect::<Vec<_>>())?;
            Some(DataType::Map(Arc::new(entries.as_ref().clone().with_data_type(DataType::Struct(fields))), *sorted))
        }
        _ => {
            let items: Vec<&DataType> =
                others.iter().filter_map(|other| list_item(other)).map(|item| item.data_type()).collect();
            Some(with_item(of, doubled(list_item(of)?.data_type(), whole, &items)?))
        }
    }
}

/// Does this for the fields of a struct. A field meets those of its name, or those of its place if the others have
/// other names: the engine pairs them so.
fn doubled_fields(fields: &Fields, others: &[&Fields]) -> Option<Fields> {
    let mut any = false;
    let made = fields.iter().enumerate().map(|(place, field)| {
        let met = |other: &&Fields| {
            let by_name = fields.iter().all(|field| other.find(field.name()).is_some());
            let met = if by_name { other.find(field.name()).map(|(_, met)| met) } else { other.get(place) };
            met.map(|met| met.data_type().clone())
        };
        let met: Vec<DataType> = others.iter().filter_map(met).collect();
        match doubled(field.data_type(), whole, &met.iter().collect::<Vec<_>>()) {
            Some(doubles) => {
                any = true;
                Arc::new(field.as_ref().clone().with_data_type(doubles))
            }
            None => Arc::clone(field),
        }
    });
    let made = made.collect();
    any.then_some(made)
}

fn struct_fields(of: &DataType) -> Option<&Fields> {
    match of {
        DataType::Struct(fields) => Some(fields),
        _ => None,
    }
}

fn list_item(of: &DataType) -> Option<&FieldRef> {
    match of {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => Some(item),
        _ => None,
    }
}

/// Returns a list type with another item.
fn with_item(list: &DataType, of: DataType) -> DataType {
    let item = |item: &FieldRef| -> Arc<Field> { Arc::new(item.as_ref().clone().with_data_type(of)) };
    match list {
        DataType::List(own) => DataType::List(item(own)),
        DataType::LargeList(own) => DataType::LargeList(item(own)),
        DataType::FixedSizeList(own, length) => DataType::FixedSizeList(item(own), *length),
        other => other.clone(),
    }
}

fn whole(of: &DataType) -> &DataType {
    of
}

/// Returns the type of the innermost elements of a list, or of lists of lists.
fn element(of: &DataType) -> &DataType {
    list_item(of).map_or(of, |item| element(item.data_type()))
}

/// Tells if an expression is a constant that a decimal has the digits for.
fn is_decimal_constant(expr: &Expr) -> bool {
    constant(expr).is_some_and(|value| value == 0.0 || DECIMAL_CONSTANTS.contains(&value.abs()))
}

/// Computes an expression of numbers alone (`0.06 + 0.01`). NULL counts as 0, because it fits any type.
fn constant(expr: &Expr) -> Option<f64> {
    match expr {
        Expr::Literal(value, _) if value.data_type().is_numeric() => match value.cast_to(&DataType::Float64) {
            Ok(ScalarValue::Float64(value)) => Some(value.unwrap_or_default()),
            _ => None,
        },
        Expr::Alias(alias) => constant(&alias.expr),
        Expr::Negative(of) => constant(of).map(|value| -value),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (left, right) = (constant(left)?, constant(right)?);
            match op {
                Operator::Plus => Some(left + right),
                Operator::Minus => Some(left - right),
                Operator::Multiply => Some(left * right),
                Operator::Divide => Some(left / right),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Returns the type of a plan's column, or none if the column is such a constant.
fn kind_of(plan: &LogicalPlan, column: usize) -> DataType {
    if let LogicalPlan::Projection(projection) = plan
        && projection.expr.get(column).is_some_and(is_decimal_constant)
    {
        return DataType::Null;
    }
    plan.schema().fields().get(column).map_or(DataType::Null, |field| field.data_type().clone())
}

/// Returns the type of a plan's column, and the expression if the column is computed.
fn type_of(plan: &LogicalPlan, column: usize) -> TypedExpr<'_> {
    let data_type = plan.schema().fields().get(column).map_or(DataType::Null, |field| field.data_type().clone());
    let expr = match plan {
        LogicalPlan::Projection(projection) => projection.expr.get(column).map(|expr| match expr {
            Expr::Alias(alias) => alias.expr.as_ref(),
            other => other,
        }),
        _ => None,
    };
    TypedExpr { data_type, expr }
}

/// Casts those columns of a plan that have a type in `doubles`.
fn cast_columns(plan: Arc<LogicalPlan>, doubles: &[Option<DataType>]) -> Result<Arc<LogicalPlan>> {
    let columns = plan.schema().iter().enumerate().map(|(at, (relation, field))| {
        let column = Expr::Column(Column::new(relation.cloned(), field.name()));
        match doubles.get(at).cloned().flatten() {
            Some(doubles) => cast(column, doubles).alias_qualified(relation.cloned(), field.name()),
            None => column,
        }
    });
    let columns: Vec<Expr> = columns.collect();
    Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(columns, plan)?)))
}
