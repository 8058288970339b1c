//! Plain types: those that every client reads. Some refuse views of texts and dictionaries (JDBC's driver before 19, arrow-js).

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};

/// Returns the plain type of a column's type. Everything in it may be NULL, but for the keys of a map.
pub fn plain_type(data_type: &DataType) -> DataType {
    // Plans may differ in NULL's permission and in metadata before and after they are made physical.
    let field =
        |field: &FieldRef| -> FieldRef { Arc::new(Field::new(field.name(), plain_type(field.data_type()), true)) };
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        // Flight's encoder writes large lists as lists, and some clients know no other.
        DataType::List(item) | DataType::ListView(item) | DataType::LargeList(item) | DataType::LargeListView(item) => {
            DataType::List(field(item))
        }
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(field(item), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect::<Fields>()),
        DataType::Map(entries, is_sorted) => DataType::Map(entry(entries), *is_sorted),
        other => other.clone(),
    }
}

/// Returns the entries of a map. They and their keys are never NULL.
fn entry(entries: &FieldRef) -> FieldRef {
    let DataType::Struct(parts) = entries.data_type() else { return Arc::clone(entries) };
    let parts = parts
        .iter()
        .enumerate()
        .map(|(index, part)| Arc::new(Field::new(part.name(), plain_type(part.data_type()), index > 0)));
    Arc::new(Field::new(entries.name(), DataType::Struct(parts.collect()), false))
}

/// Gives the rows of a query plain types, under the same names.
pub(super) fn with_plain_types(logical: LogicalPlan) -> Result<LogicalPlan> {
    let schema = Arc::clone(logical.schema());
    let mut is_plain = true;
    let columns: Vec<Expr> = schema
        .iter()
        .map(|(qualifier, field)| {
            let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
            match plain_type(field.data_type()) {
                plain if plain == *field.data_type() => column,
                plain => {
                    is_plain = false;
                    cast(column, plain).alias_qualified(qualifier.cloned(), field.name())
                }
            }
        })
        .collect();
    if is_plain { Ok(logical) } else { LogicalPlanBuilder::from(logical).project(columns)?.build() }
}
