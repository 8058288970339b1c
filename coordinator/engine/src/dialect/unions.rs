//! A UNION of nested columns with field ids inside and others without.
//!
//! Iceberg's columns carry their field ids as metadata, lists and structs inside them, too. DataFusion 55.2 makes the
//! first input's type, with its ids, the type of a UNION. A list that is computed while planning loses its values' id
//! (`ScalarValue::try_from_array`), and the physical union then refuses inputs of two types. No node above a UNION
//! needs field ids. They are taken off where those of its inputs differ.
//!
//! No report of it is known (seen in 55.2). Take this out when `SELECT l FROM lists UNION ALL SELECT [9]` runs without
//! it (`lists and levels` in `tests/cases/wire.toml`).

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, Union, cast};
use datafusion::optimizer::AnalyzerRule;

#[derive(Debug)]
pub(super) struct UnmarkedUnions;

impl AnalyzerRule for UnmarkedUnions {
    fn name(&self) -> &str {
        "gust_unmarked_unions"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Union(union) if any_differs(&union) => {
                let inputs = union.inputs.into_iter().map(unmarked_input).collect::<Result<_>>()?;
                Ok(Transformed::yes(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()
    }
}

/// Tells if nested columns of the inputs have types that differ, and one of these types has metadata.
fn any_differs(union: &Union) -> bool {
    let Some((first, others)) = union.inputs.split_first() else { return false };
    others.iter().any(|other| {
        let columns = first.schema().fields().iter().zip(other.schema().fields());
        columns.into_iter().any(|(a, b)| {
            let (a, b) = (a.data_type(), b.data_type());
            a.is_nested() && a != b && (unmarked(a) != *a || unmarked(b) != *b)
        })
    })
}

fn unmarked_input(input: Arc<LogicalPlan>) -> Result<Arc<LogicalPlan>> {
    let columns = input.schema().iter().map(|(relation, field)| {
        let column = Expr::Column(Column::new(relation.cloned(), field.name()));
        let plain = unmarked(field.data_type());
        match plain == *field.data_type() {
            true => column,
            false => cast(column, plain).alias_qualified(relation.cloned(), field.name()),
        }
    });
    let columns: Vec<Expr> = columns.collect();
    Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(columns, input)?)))
}

/// Returns a type without the metadata of its fields.
fn unmarked(of: &DataType) -> DataType {
    let plain = |field: &FieldRef| Arc::new(Field::new(field.name(), unmarked(field.data_type()), field.is_nullable()));
    match of {
        DataType::List(field) => DataType::List(plain(field)),
        DataType::LargeList(field) => DataType::LargeList(plain(field)),
        DataType::FixedSizeList(field, length) => DataType::FixedSizeList(plain(field), *length),
        DataType::Map(field, sorted) => DataType::Map(plain(field), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain).collect()),
        other => other.clone(),
    }
}
