//! A cast of a column with JSON reads the text inside the quotes, as a cast of the call itself does ([`crate::sql`] writes that one).
//!
//! ```text
//!  SELECT CAST(j AS BIGINT) FROM (SELECT json_extract(x, '$.a') AS j FROM t)   CAST(json_extract_scalar(j, '$') AS BIGINT)
//!  CAST(j AS BIGINT[])                                                         CAST(json_array_texts(j) AS BIGINT[])
//! ```
//!
//! JSON is a text here, so that the column is followed to the call that made it: through inner queries, WITH and views, up to a table.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result, internal_datafusion_err};
use datafusion::logical_expr::expr::{Alias, Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::{Expr, LogicalPlan, lit};
use datafusion::optimizer::AnalyzerRule;
use gust_protocol::functions::scalar_named;

use super::map_named;
use crate::sql::Refusal;

/// Functions whose result is JSON.
const JSON: [&str; 4] = ["gust_try_json_parse", "json_extract", "json_get", "json_parse"];

/// Rule that runs before types are coerced.
#[derive(Debug)]
pub(super) struct JsonCasts;

impl AnalyzerRule for JsonCasts {
    fn name(&self) -> &str {
        "gust_json_casts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(read_scalars)?.data)
    }
}

/// Tells if a call makes JSON.
pub(super) fn makes_json(call: &ScalarFunction) -> bool {
    JSON.contains(&call.name())
}

fn read_scalars(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let inputs: Vec<LogicalPlan> = plan.inputs().into_iter().cloned().collect();
    map_named(plan, |expr| {
        expr.transform_up(|part| {
            let (of, field) = match &part {
                Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => (expr.as_ref(), field),
                _ => return Ok(Transformed::no(part)),
            };
            let Expr::Column(column) = of else { return Ok(Transformed::no(part)) };
            if !inputs.iter().any(|input| is_json_column(column, input)) {
                return Ok(Transformed::no(part));
            }
            let field = Arc::clone(field);
            let json = Expr::Column(column.clone());
            let (reader, args) = match field.data_type() {
                DataType::List(item) if !item.data_type().is_nested() => ("json_array_texts", vec![json]),
                of if of.is_nested() => {
                    let hint = "json_extract_scalar(x, '$.list[0]') is one element, json_array_length(x) their number";
                    let message = "CAST of JSON to nested arrays, a map or a row is not supported";
                    return Err(Refusal::new(message, hint).into());
                }
                _ => ("json_extract_scalar", vec![json, lit("$")]),
            };
            let reader =
                scalar_named(reader).ok_or_else(|| internal_datafusion_err!("there is no function {reader}"))?;
            let expr = Box::new(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(reader), args)));
            Ok(Transformed::yes(match part {
                Expr::TryCast(_) => Expr::TryCast(TryCast { expr, field }),
                _ => Expr::Cast(Cast { expr, field }),
            }))
        })
    })
}

/// Tells if a column of a plan's result is JSON.
fn is_json_column(column: &Column, plan: &LogicalPlan) -> bool {
    let place = |schema: &DFSchema| schema.maybe_index_of_column(column);
    match plan {
        LogicalPlan::Projection(projection) => place(&projection.schema)
            .and_then(|place| projection.expr.get(place))
            .is_some_and(|expr| is_json(expr, &projection.input)),
        LogicalPlan::Aggregate(aggregate) => place(&aggregate.schema)
            .and_then(|place| aggregate.group_expr.get(place))
            .is_some_and(|expr| is_json(expr, &aggregate.input)),
        LogicalPlan::SubqueryAlias(alias) => place(&alias.schema).is_some_and(|place| {
            let inner = Column::from(alias.input.schema().qualified_field(place));
            is_json_column(&inner, &alias.input)
        }),
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Unnest(_) => {
            plan.inputs().into_iter().any(|input| place(input.schema()).is_some() && is_json_column(column, input))
        }
        LogicalPlan::Union(union) => place(&union.schema).is_some_and(|place| {
            let of = |input: &Arc<LogicalPlan>| Column::from(input.schema().qualified_field(place));
            union.inputs.iter().all(|input| is_json_column(&of(input), input))
        }),
        _ => false,
    }
}

fn is_json(expr: &Expr, input: &LogicalPlan) -> bool {
    match expr {
        Expr::Alias(Alias { expr, .. }) => is_json(expr, input),
        Expr::ScalarFunction(call) => makes_json(call),
        Expr::Column(column) => is_json_column(column, input),
        _ => false,
    }
}
