//! Matching a data file's columns to an Iceberg table's by field id, never by name: after a rename the name is wrong.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, exec_err};
use datafusion::parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{DefaultPhysicalExprAdapter, PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_plan::PhysicalExpr;

/// Makes adapters for a table whose fields carry `PARQUET:field_id` metadata.
#[derive(Debug)]
pub struct FieldIdMatching {
    /// Ids whose absence from a file must not read as NULL.
    pub required_ids: Vec<i32>,
}

impl PhysicalExprAdapterFactory for FieldIdMatching {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let by_id: HashMap<i32, &FieldRef> =
            logical.fields().iter().filter_map(|field| Some((field_id(field)?, field))).collect();
        let mut fields = Vec::with_capacity(physical.fields().len());
        for field in physical.fields() {
            let Some(id) = field_id(field) else {
                return exec_err!(
                    "schema mismatch: column `{}` of a data file has no Iceberg field id; files imported without ids are not read yet",
                    field.name()
                );
            };
            fields.push(match by_id.get(&id) {
                Some(wanted) => {
                    check_nested(wanted, field)?;
                    // The table's own field where only the name differs, so that no cast is planned.
                    let same = wanted.data_type() == field.data_type() && wanted.is_nullable() == field.is_nullable();
                    if same { (*wanted).clone() } else { renamed(field, wanted.name(), wanted) }
                }
                // A column that the table no longer has: out of reach of every name in the table.
                None => renamed(field, &format!("\u{0}dropped {id}"), field),
            });
        }
        let found: Vec<i32> = physical.fields().iter().filter_map(|f| field_id(f)).collect();
        if let Some(id) = self.required_ids.iter().find(|id| !found.contains(id)) {
            return exec_err!(
                "schema mismatch: a data file lacks the column with Iceberg field id {id}, whose values stand in the partition metadata only; that is not read yet"
            );
        }
        let as_table = Arc::new(Schema::new_with_metadata(fields, physical.metadata().clone()));
        Ok(Arc::new(ByFieldId { inner: DefaultPhysicalExprAdapter::new(logical, as_table), physical }))
    }
}

/// Resolves columns under the table's names, then gives them the file's.
#[derive(Debug)]
struct ByFieldId {
    inner: DefaultPhysicalExprAdapter,
    physical: SchemaRef,
}

impl PhysicalExprAdapter for ByFieldId {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let resolved = self.inner.rewrite(expr)?;
        resolved
            .transform_up(|expr| {
                let Some(column) = expr.downcast_ref::<Column>() else { return Ok(Transformed::no(expr)) };
                let name = self.physical.field(column.index()).name();
                if name == column.name() {
                    return Ok(Transformed::no(expr));
                }
                Ok(Transformed::yes(Arc::new(Column::new(name, column.index())) as Arc<dyn PhysicalExpr>))
            })
            .data()
    }
}

/// The Iceberg id of a field, if it has one.
fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()
}

fn renamed(field: &FieldRef, name: &str, metadata_of: &Field) -> FieldRef {
    Arc::new(field.as_ref().clone().with_name(name).with_metadata(metadata_of.metadata().clone()))
}

/// Nested fields are matched by name below this point: refuse a file in which an id and its name have parted.
fn check_nested(wanted: &Field, found: &Field) -> Result<()> {
    let names = nested_names(found);
    for (id, name) in nested_names(wanted) {
        let moved = names.iter().any(|(other_id, other)| (*other_id == id) != (*other == name));
        if moved {
            return exec_err!(
                "schema mismatch: nested field `{name}` of column `{}` was renamed since a data file was written; that is not read yet",
                wanted.name()
            );
        }
    }
    Ok(())
}

/// Ids and dotted names of everything below a struct, list or map field.
fn nested_names(field: &Field) -> Vec<(i32, String)> {
    use datafusion::arrow::datatypes::DataType;
    let mut names = Vec::new();
    let mut open: Vec<(&Field, String)> = vec![(field, String::new())];
    while let Some((field, path)) = open.pop() {
        let children: Vec<&FieldRef> = match field.data_type() {
            DataType::Struct(fields) => fields.iter().collect(),
            DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => vec![item],
            _ => Vec::new(),
        };
        for child in children {
            let path = format!("{path}.{}", child.name());
            if let Some(id) = field_id(child) {
                names.push((id, path.clone()));
            }
            open.push((child, path));
        }
    }
    names
}
