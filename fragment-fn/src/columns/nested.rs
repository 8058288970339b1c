//! Nested columns by field id: structs, lists and maps of a file become the table's current type.
//!
//! A [`ColumnShape`] is found once a file, from the ids on both sides, and [`ReshapedColumn`] applies it to each batch.
//! Buffers of leaves are shared, not copied, unless their type has changed. DataFusion 55.2 casts structs by name and, inside
//! maps and between kinds of lists, by position (`nested_struct.rs`, `cast_column`). After a field was dropped or renamed, values
//! would come from another field.
//!
//! An absent field has the partition's value, its initial default, or is NULL.

use std::fmt::{Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, GenericListArray, ListArray, MapArray, OffsetSizeTrait, RecordBatch, StructArray,
    new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_plan::PhysicalExpr;
use gust_protocol::Advised;

use super::{Constants, field_id, is_mapped};
use crate::fault::mismatch_err;
use crate::read_as::{column_cast_error, too_large, too_large_error};
use crate::struct_nulls::handed_down;

/// Way from a file's values to the table's type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum ColumnShape {
    /// The values are the same.
    Same,
    /// The file has another encoding, or a type that was promoted since.
    Cast,
    /// One shape for each of the table's fields.
    Struct(Vec<FieldShape>),
    /// Shape of the elements.
    List(Box<ColumnShape>),
    /// Shapes of the keys and of the values.
    Map(Box<ColumnShape>, Box<ColumnShape>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum FieldShape {
    /// Field of the file, by its name.
    Found { name: String, shape: ColumnShape },
    /// Value of all rows, in the field's type: the file has no such field.
    Absent(ScalarValue),
}

impl ColumnShape {
    /// Finds the shape from the ids of a table's field and of a file's. `path` names the field in messages.
    ///
    /// # Errors
    /// A schema mismatch that names the field: no id, another id where only one is possible, a required field that is
    /// absent, or a type that does not become the table's.
    pub(super) fn of(wanted: &Field, found: &Field, constants: &Constants, path: &str) -> Result<Self> {
        if wanted.data_type() == found.data_type() {
            return Ok(Self::Same);
        }
        match (wanted.data_type(), found.data_type()) {
            (DataType::Struct(wanted), DataType::Struct(found)) => {
                let field_shape = |wanted: &FieldRef| field_shape(wanted, found, constants, path);
                check_ids(found, path)?;
                Ok(Self::Struct(wanted.iter().map(field_shape).collect::<Result<_>>()?))
            }
            (DataType::List(wanted), found) if item(found).is_some() => {
                Ok(Self::List(Box::new(sole_shape(wanted, item(found), constants, path)?)))
            }
            (DataType::Map(wanted, _), DataType::Map(found, _)) => {
                let (wanted, found) = (entry(wanted, path)?, entry(found, path)?);
                let [key, value] = [0, 1].map(|i| sole_shape(&wanted[i], Some(&found[i]), constants, path));
                Ok(Self::Map(Box::new(key?), Box::new(value?)))
            }
            (to, from) if !to.is_nested() && !from.is_nested() && can_cast_types(from, to) => Ok(Self::Cast),
            (to, from) => mismatch_err!("`{path}` is {from} in a data file and {to} in the table"),
        }
    }

    /// Makes values of `wanted` from `found`.
    ///
    /// # Errors
    /// Values that the table's type cannot hold.
    pub(super) fn apply(&self, found: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
        Ok(match (self, wanted) {
            (Self::Same, _) => Arc::clone(found),
            (Self::Struct(shapes), DataType::Struct(fields)) => Arc::new(structs(shapes, found.as_struct(), fields)?),
            (Self::List(shape), DataType::List(item)) => Arc::new(list(shape, found, item)?),
            (Self::Map(key, value), DataType::Map(entries, sorted)) => {
                let DataType::Struct(fields) = entries.data_type() else { return cast(found, wanted) };
                let map = found.as_map();
                let keys = key.apply(map.keys(), fields[0].data_type())?;
                let values = value.apply(map.values(), fields[1].data_type())?;
                let made = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
                let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
                Arc::new(MapArray::try_new(Arc::clone(entries), offsets, made, nulls, *sorted)?)
            }
            _ => return cast(found, wanted),
        })
    }
}

fn field_shape(wanted: &FieldRef, found: &Fields, constants: &Constants, path: &str) -> Result<FieldShape> {
    let path = format!("{path}.{}", wanted.name());
    let Some(id) = field_id(wanted) else { return mismatch_err!("`{path}` has no Iceberg field id") };
    // The partition's value comes before the name mapping.
    let is_own = |field: &&FieldRef| field_id(field) == Some(id) && !(is_mapped(field) && constants.has(id));
    if let Some(field) = found.iter().find(is_own) {
        return Ok(FieldShape::Found {
            name: field.name().clone(),
            shape: ColumnShape::of(wanted, field, constants, &path)?,
        });
    }
    let value = constants.value(id, wanted)?;
    if value.is_null() && !wanted.is_nullable() {
        return mismatch_err!("a data file lacks the required field `{path}`");
    }
    Ok(FieldShape::Absent(value))
}

/// Refuses a struct without ids: its fields may be any, because names prove nothing. A single field without an id was dropped.
fn check_ids(found: &Fields, path: &str) -> Result<()> {
    match found.first() {
        Some(first) if found.iter().all(|field| field_id(field).is_none()) => {
            mismatch_err!("nested field `{path}.{}` of a data file has no Iceberg field id", first.name())
        }
        _ => Ok(()),
    }
}

/// Finds the shape of an element, a key or a value. There is exactly one, with or without its id.
fn sole_shape(wanted: &FieldRef, found: Option<&FieldRef>, constants: &Constants, path: &str) -> Result<ColumnShape> {
    let path = format!("{path}.{}", wanted.name());
    let Some(found) = found else { return mismatch_err!("a data file has no `{path}`") };
    if let (Some(wanted), Some(found)) = (field_id(wanted), field_id(found))
        && wanted != found
    {
        return mismatch_err!("`{path}` has field id {found} in a data file and {wanted} in the table");
    }
    ColumnShape::of(wanted, found, constants, &path)
}

fn item(list: &DataType) -> Option<&FieldRef> {
    match list {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => Some(item),
        _ => None,
    }
}

fn entry<'a>(entries: &'a Field, path: &str) -> Result<&'a Fields> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Ok(fields),
        other => mismatch_err!("the entries of map `{path}` are {other}"),
    }
}

fn structs(shapes: &[FieldShape], found: &StructArray, fields: &Fields) -> Result<StructArray> {
    let column = |(field_shape, field): (&FieldShape, &FieldRef)| match field_shape {
        FieldShape::Found { name, shape } => {
            let column = found.column_by_name(name);
            let column = column.ok_or_else(|| DataFusionError::Internal(format!("field `{name}` was not read")))?;
            shape.apply(column, field.data_type())
        }
        FieldShape::Absent(value) if value.is_null() => Ok(new_null_array(field.data_type(), found.len())),
        FieldShape::Absent(value) => handed_down(&value.to_array_of_size(found.len())?, found.nulls()),
    };
    let columns = shapes.iter().zip(fields).map(column).collect::<Result<_>>()?;
    Ok(StructArray::try_new_with_length(fields.clone(), columns, found.nulls().cloned(), found.len())?)
}

/// Makes the table's kind of list from any kind.
fn list(shape: &ColumnShape, found: &ArrayRef, item: &FieldRef) -> Result<ListArray> {
    match found.data_type() {
        DataType::List(_) => relisted(shape, found.as_list::<i32>(), item),
        DataType::LargeList(_) => relisted(shape, found.as_list::<i64>(), item),
        other => {
            let Some(own) = self::item(other) else { return exec_err!("`{other}` is no list") };
            relisted(shape, cast(found, &DataType::LargeList(Arc::clone(own)))?.as_list::<i64>(), item)
        }
    }
}

fn relisted<O: OffsetSizeTrait>(
    shape: &ColumnShape,
    found: &GenericListArray<O>,
    item: &FieldRef,
) -> Result<ListArray> {
    let offsets = found.value_offsets();
    let (first, last) = (offsets[0].as_usize(), offsets[found.len()].as_usize());
    if i32::try_from(last - first).is_err() {
        let what = format!("lists of {} values in one batch do not fit", last - first);
        return Err(Advised::new(what, "use a smaller batch size").into());
    }
    let values = shape.apply(&found.values().slice(first, last - first), item.data_type())?;
    let lengths = offsets.windows(2).map(|pair| pair[1].as_usize() - pair[0].as_usize());
    let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
    Ok(ListArray::try_new(Arc::clone(item), offsets, values, found.nulls().cloned())?)
}

fn cast(found: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    match too_large(found, wanted)? {
        Some(value) => Err(too_large_error(value)),
        None => Ok(cast_with_options(found, wanted, &CastOptions { safe: false, ..CastOptions::default() })?),
    }
}

/// Expression for a file's column, or a part of it, as the table's field.
#[derive(Debug, Clone, Eq)]
pub(super) struct ReshapedColumn {
    pub(super) found: Arc<dyn PhysicalExpr>,
    pub(super) field: FieldRef,
    pub(super) shape: ColumnShape,
}

impl PartialEq for ReshapedColumn {
    fn eq(&self, other: &Self) -> bool {
        self.found.eq(&other.found) && self.field == other.field && self.shape == other.shape
    }
}

impl Hash for ReshapedColumn {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.found.hash(state);
        self.field.hash(state);
        self.shape.hash(state);
    }
}

impl Display for ReshapedColumn {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} BY FIELD ID AS {}", self.found, self.field.name())
    }
}

impl PhysicalExpr for ReshapedColumn {
    fn return_field(&self, _: &Schema) -> Result<FieldRef> {
        Ok(Arc::clone(&self.field))
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let found = self.found.evaluate(batch)?.into_array(batch.num_rows())?;
        let (name, wanted) = (self.field.name(), self.field.data_type());
        let made =
            self.shape.apply(&found, wanted).map_err(|error| column_cast_error(name, found.data_type(), wanted, error));
        Ok(ColumnarValue::Array(made?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.found]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let Some(found) = children.pop() else { return exec_err!("a reshaped column has one child") };
        Ok(Arc::new(Self { found, field: Arc::clone(&self.field), shape: self.shape.clone() }))
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Display::fmt(self, f)
    }
}
