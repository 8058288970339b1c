//! Leaves of a file that expressions over its columns read: the rules of `projection_read_plan.rs` in
//! datafusion-datasource-parquet 55.2, which are private there.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::nested_struct::requires_nested_struct_cast;
use datafusion::datasource::physical_plan::parquet::can_expr_be_pushed_down_with_schemas;
use datafusion::functions::core::getfield::GetFieldFunc;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_expr::utils::{collect_columns, split_conjunction};
use datafusion::physical_plan::PhysicalExpr;
use parquet::schema::types::SchemaDescriptor;

/// Returns the leaves that the decoder reads for a projection and for the filter that it evaluates itself. A column whose
/// leaves are not certain is left out.
pub(super) fn leaves(
    projection: &[Arc<dyn PhysicalExpr>],
    row_filter: Option<&Arc<dyn PhysicalExpr>>,
    file: &Schema,
    schema: &SchemaDescriptor,
) -> Vec<usize> {
    let mut read = ReadColumns::default();
    read.project(projection, file);
    for conjunct in row_filter.into_iter().flat_map(split_conjunction) {
        if can_expr_be_pushed_down_with_schemas(conjunct, file) {
            read.add(conjunct, file);
        }
    }
    (0..schema.num_columns()).filter(|leaf| read.has(*leaf, schema)).collect()
}

/// Columns by their positions in the file.
#[derive(Debug, Default)]
struct ReadColumns {
    whole: BTreeSet<usize>,
    parts: Vec<Part>,
    /// Structs that are cast to narrower ones: only the leaves of these are read.
    cast: BTreeSet<usize>,
}

/// Field below a struct.
#[derive(Debug)]
struct Part {
    column: usize,
    path: Vec<String>,
}

impl ReadColumns {
    fn project(&mut self, projection: &[Arc<dyn PhysicalExpr>], file: &Schema) {
        let columns: Vec<_> = projection.iter().flat_map(collect_columns).collect();
        let has_struct = |column: &Column| file.fields().get(column.index()).is_some_and(|f| has_struct(f.data_type()));
        if projection.iter().all(|expr| expr.is::<Column>()) || !columns.iter().any(has_struct) {
            self.whole.extend(columns.iter().map(Column::index));
            return;
        }
        projection.iter().for_each(|expr| self.add(expr, file));
    }

    fn add(&mut self, expr: &Arc<dyn PhysicalExpr>, file: &Schema) {
        let field = |column: &Column| file.fields().get(column.index()).map(|field| field.data_type());
        if let Some(column) = expr.downcast_ref::<Column>() {
            self.whole.insert(column.index());
            return;
        }
        if let Some(access) = ScalarFunctionExpr::try_downcast_func::<GetFieldFunc>(expr.as_ref())
            && let Some((column, keys)) = access.args().split_first()
            && let Some(column) = column.downcast_ref::<Column>()
            && !matches!(field(column), Some(DataType::Map(..)))
            && is_read_in_part(access.return_type())
        {
            let key = |key: &Arc<dyn PhysicalExpr>| {
                let literal = key.downcast_ref::<Literal>()?;
                literal.value().try_as_str().flatten().map(str::to_owned)
            };
            match keys.iter().map(key).collect() {
                Some(path) => self.parts.push(Part { column: column.index(), path }),
                None => _ = self.whole.insert(column.index()),
            }
            return;
        }
        if let Some(cast) = expr.downcast_ref::<CastExpr>()
            && let Some(column) = cast.expr().downcast_ref::<Column>()
            && let Some(own) = field(column)
            && requires_nested_struct_cast(own, cast.cast_type())
        {
            let read = if keeps_all(own, cast.cast_type()) { &mut self.whole } else { &mut self.cast };
            read.insert(column.index());
            return;
        }
        expr.children().into_iter().for_each(|child| self.add(child, file));
    }

    fn has(&self, leaf: usize, schema: &SchemaDescriptor) -> bool {
        let column = schema.get_column_root_idx(leaf);
        if self.whole.contains(&column) {
            return true;
        }
        let below = schema.column(leaf);
        let below = below.path().parts().get(1..).unwrap_or_default();
        let mut parts = self.parts.iter().filter(|part| part.column == column);
        match self.cast.contains(&column) {
            // Whoever casts a struct and takes a field of it reads all of it.
            true => parts.next().is_some(),
            false => parts.any(|part| below.starts_with(&part.path)),
        }
    }
}

/// Returns true where a cast drops no field of the structs in `found`.
fn keeps_all(found: &DataType, wanted: &DataType) -> bool {
    match (found, wanted) {
        (DataType::Struct(found), DataType::Struct(wanted)) => found.iter().all(|field| {
            wanted.find(field.name()).is_some_and(|(_, wanted)| keeps_all(field.data_type(), wanted.data_type()))
        }),
        (DataType::List(found), DataType::List(wanted)) | (DataType::LargeList(found), DataType::LargeList(wanted)) => {
            keeps_all(found.data_type(), wanted.data_type())
        }
        _ => true,
    }
}

fn is_read_in_part(field: &DataType) -> bool {
    let is_list = matches!(field, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..));
    is_list || !field.is_nested()
}

fn has_struct(of: &DataType) -> bool {
    match of {
        DataType::Dictionary(_, value) => has_struct(value),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            has_struct(item.data_type())
        }
        other => other.is_nested(),
    }
}
