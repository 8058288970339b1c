//! NULLs of structs, handed down to the fields below them.
//!
//! A file may have a required field below an optional struct. The Parquet reader gives such a field no NULLs of its own: where the
//! struct is NULL, the field has any value. DataFusion 55.2 takes `s['x']` without looking at `s` (apache/datafusion 25120), so
//! that a row would have the value of another. Here each column of such a file gets its structs' NULLs
//! as soon as it is read, and tables say that a field below an optional struct may be NULL.
//!
//! DataFusion then reads the whole struct where a statement names one of its fields: only of files with such a field.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait,
    RecordBatch, StructArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_plan::PhysicalExpr;

/// Makes adapters that hand NULLs down after those of another factory have matched the columns.
///
/// DataFusion adapts nothing where a table's columns are a file's: tables have to be made by [`with_optional_fields`].
#[derive(Debug)]
pub(crate) struct HandingDown(pub(crate) Arc<dyn PhysicalExprAdapterFactory>);

impl PhysicalExprAdapterFactory for HandingDown {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let hiding = physical.fields().iter().enumerate().filter(|(_, field)| hides_nulls(field, false));
        let columns: BTreeSet<usize> = hiding.map(|(index, _)| index).collect();
        let inner = self.0.create(logical, physical)?;
        Ok(if columns.is_empty() { inner } else { Arc::new(Adapter { inner, columns }) })
    }
}

#[derive(Debug)]
struct Adapter {
    inner: Arc<dyn PhysicalExprAdapter>,
    /// Columns of the file whose fields do not know that their struct is NULL.
    columns: BTreeSet<usize>,
}

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let handing_down = |expr: Arc<dyn PhysicalExpr>| {
            let column = expr.downcast_ref::<Column>().filter(|column| self.columns.contains(&column.index()));
            Ok(match column {
                Some(_) => Transformed::yes(Arc::new(NullsBelow(expr)) as Arc<dyn PhysicalExpr>),
                None => Transformed::no(expr),
            })
        };
        self.inner.rewrite(expr)?.transform_up(handing_down).data()
    }
}

/// Returns true where a required field lies below a struct that may be NULL. `below` says that one lies above `field`.
fn hides_nulls(field: &Field, below: bool) -> bool {
    match field.data_type() {
        DataType::Struct(fields) => {
            let below = below || field.is_nullable();
            fields.iter().any(|field| below && !field.is_nullable() || hides_nulls(field, below))
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => hides_nulls(item, false),
        DataType::Map(entries, _) => hides_nulls(entries, false),
        _ => false,
    }
}

/// Makes a table's field whose fields may be NULL where a struct above them may be.
pub fn with_optional_fields(field: &FieldRef) -> FieldRef {
    optional(field, false)
}

fn optional(field: &FieldRef, below: bool) -> FieldRef {
    let item = |item: &FieldRef| optional(item, false);
    let nullable = below || field.is_nullable();
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| optional(field, nullable)).collect()),
        DataType::List(of) => DataType::List(item(of)),
        DataType::LargeList(of) => DataType::LargeList(item(of)),
        DataType::FixedSizeList(of, size) => DataType::FixedSizeList(item(of), *size),
        DataType::Map(entries, sorted) => DataType::Map(item(entries), *sorted),
        same => same.clone(),
    };
    if nullable == field.is_nullable() && data_type == *field.data_type() {
        return Arc::clone(field);
    }
    Arc::new(field.as_ref().clone().with_data_type(data_type).with_nullable(nullable))
}

/// Makes values NULL where a struct is, at every depth. `above` are the NULLs of a struct that has `values` as a field.
///
/// # Errors
/// Arrow's own.
pub(crate) fn handed_down(values: &ArrayRef, above: Option<&NullBuffer>) -> Result<ArrayRef> {
    let nulls = || NullBuffer::union(values.nulls(), above);
    Ok(match values.data_type() {
        DataType::Struct(fields) => {
            let (own, nulls) = (values.as_struct(), nulls());
            let columns = own.columns().iter().map(|column| handed_down(column, nulls.as_ref()));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            Arc::new(StructArray::try_new_with_length(Fields::clone(fields), columns, nulls, own.len())?)
        }
        DataType::List(item) => Arc::new(list(values.as_list::<i32>(), item, nulls())?),
        DataType::LargeList(item) => Arc::new(list(values.as_list::<i64>(), item, nulls())?),
        DataType::FixedSizeList(item, size) => {
            let below = handed_down(values.as_fixed_size_list().values(), None)?;
            let length = values.len();
            Arc::new(FixedSizeListArray::try_new_with_length(Arc::clone(item), *size, below, nulls(), length)?)
        }
        DataType::Map(entries, sorted) => {
            let own = values.as_map();
            let below = handed_down(&(Arc::new(own.entries().clone()) as ArrayRef), None)?;
            let (offsets, below) = (own.offsets().clone(), below.as_struct().clone());
            Arc::new(MapArray::try_new(Arc::clone(entries), offsets, below, nulls(), *sorted)?)
        }
        _ => match above {
            Some(above) => nullif(values, &BooleanArray::new(!above.inner(), None))?,
            None => Arc::clone(values),
        },
    })
}

fn list<O: OffsetSizeTrait>(
    own: &GenericListArray<O>,
    item: &FieldRef,
    nulls: Option<NullBuffer>,
) -> Result<GenericListArray<O>> {
    let below = handed_down(own.values(), None)?;
    Ok(GenericListArray::try_new(Arc::clone(item), own.offsets().clone(), below, nulls)?)
}

/// Column of a file with the NULLs of its structs handed down.
#[derive(Debug, Clone, Eq)]
struct NullsBelow(Arc<dyn PhysicalExpr>);

impl PartialEq for NullsBelow {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq(&other.0)
    }
}

impl Hash for NullsBelow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Display for NullsBelow {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} WITH NULLS BELOW", self.0)
    }
}

impl PhysicalExpr for NullsBelow {
    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.0.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let values = self.0.evaluate(batch)?.into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(handed_down(&values, None)?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.0]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let Some(column) = children.pop() else { return exec_err!("a column with NULLs below has one child") };
        Ok(Arc::new(Self(column)))
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Display::fmt(self, f)
    }
}
