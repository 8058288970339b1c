//! Casts from a file's type to the table's whose errors name the column.
//!
//! DataFusion's adapter casts each column that a file has in another type. If a value does not fit, its error has the
//! value and no column. This module puts a [`ReadAs`] around those casts that can fail;
//! [`crate::file_errors`] adds the file's name. Filters are left alone: rows are filtered above the scan, and pruning by statistics sees through a cast, but not
//! through a [`ReadAs`].

use std::fmt::{Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Float64Type, Schema};
use arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, exec_err};
use datafusion::functions::core::getfield::GetFieldFunc;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_plan::PhysicalExpr;

use gust_protocol::Advised;
use gust_protocol::functions::has_floats;

use crate::classify::find;
use crate::fault::SchemaMismatch;

/// Puts the columns' names into the errors of casts to the table's types, in an expression over a file's columns.
///
/// `shown` gives a column's name in the table. Casts that the query asks for are left alone, except casts of bytes to text.
///
/// # Errors
/// An expression whose type is not known.
pub(crate) fn naming_columns(
    expr: Arc<dyn PhysicalExpr>,
    file: &Schema,
    table: &Schema,
    shown: impl Fn(&str) -> String,
) -> Result<Arc<dyn PhysicalExpr>> {
    if is_filter(expr.as_ref(), file)? {
        return Ok(expr);
    }
    let named = expr.transform_down(|expr| {
        let Some(cast) = expr.downcast_ref::<CastExpr>() else { return Ok(Transformed::no(expr)) };
        let (column, found) = (in_table(cast.expr().as_ref(), table, &shown), cast.expr().data_type(file)?);
        let wanted = cast.cast_type();
        let is_text = || is_bytes(&found) && wanted.is_string();
        let Some(column) = column.filter(|column| column.data_type == wanted || is_text()) else {
            return Ok(Transformed::no(expr));
        };
        if never_fails(&found, wanted) {
            return Ok(Transformed::no(expr));
        }
        let named = ReadAs { column: column.name, found, cast: expr };
        Ok(Transformed::new(Arc::new(named) as Arc<dyn PhysicalExpr>, true, TreeNodeRecursion::Jump))
    });
    named.data()
}

/// Wraps a cast of a table's column from the type that its reader found. Its errors name the column, and a number that is
/// too large is an error.
pub fn read_as(column: &str, found: &DataType, cast: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    Arc::new(ReadAs { column: column.to_owned(), found: found.clone(), cast })
}

fn is_filter(expr: &dyn PhysicalExpr, file: &Schema) -> Result<bool> {
    Ok(!expr.is::<Column>() && !expr.is::<CastExpr>() && expr.data_type(file)? == DataType::Boolean)
}

/// Column `a` of a table, or a struct's field `s.a`.
struct TableColumn<'a> {
    name: String,
    data_type: &'a DataType,
}

/// Finds the table's column, or the struct's field, that an expression reads.
fn in_table<'a>(
    expr: &dyn PhysicalExpr,
    table: &'a Schema,
    shown: &impl Fn(&str) -> String,
) -> Option<TableColumn<'a>> {
    if let Some(column) = expr.downcast_ref::<Column>() {
        let name = shown(column.name());
        let data_type = table.field_with_name(&name).ok()?.data_type();
        return Some(TableColumn { name, data_type });
    }
    // One kind of bytes becomes another.
    if let Some(cast) = expr.downcast_ref::<CastExpr>().filter(|cast| is_bytes(cast.cast_type())) {
        return in_table(cast.expr().as_ref(), table, shown);
    }
    let (source, keys) = ScalarFunctionExpr::try_downcast_func::<GetFieldFunc>(expr)?.args().split_first()?;
    let TableColumn { mut name, mut data_type } = in_table(source.as_ref(), table, shown)?;
    for key in keys {
        let key = key.downcast_ref::<Literal>()?.value().try_as_str().flatten()?;
        let DataType::Struct(fields) = data_type else { return None };
        data_type = fields.find(key)?.1.data_type();
        name = format!("{name}.{key}");
    }
    Some(TableColumn { name, data_type })
}

fn is_bytes(of: &DataType) -> bool {
    matches!(of, DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_))
}

/// Returns true where no cast from `found` to `wanted` fails.
fn never_fails(found: &DataType, wanted: &DataType) -> bool {
    let bits = |of: &DataType| of.primitive_width().unwrap_or(0) * 8;
    match (found, wanted) {
        (found, wanted) if found == wanted => true,
        (_, DataType::FixedSizeBinary(_)) => false,
        (found, wanted) if (found.is_string() && wanted.is_string()) || (is_bytes(found) && is_bytes(wanted)) => true,
        (found, wanted) if found.is_integer() && wanted.is_integer() => {
            let sign = usize::from(!found.is_signed_integer() && wanted.is_signed_integer());
            (found.is_signed_integer() == wanted.is_signed_integer() || sign == 1) && bits(found) + sign <= bits(wanted)
        }
        // A DOUBLE that is too large becomes infinite: `too_large` finds it.
        (found, DataType::Float32) => found.is_integer() || matches!(found, DataType::Float16 | DataType::Float32),
        (found, DataType::Float64) => found.is_integer() || found.is_floating(),
        _ => false,
    }
}

/// Cast of a column, or another expression that reads the column as the table's type.
#[derive(Debug, Clone, Eq)]
struct ReadAs {
    /// Name of the column in the table.
    column: String,
    found: DataType,
    cast: Arc<dyn PhysicalExpr>,
}

/// Makes the error of a column's value that does not become the table's type.
pub(crate) fn column_cast_error(
    column: &str,
    found: &DataType,
    wanted: &DataType,
    error: DataFusionError,
) -> DataFusionError {
    // The error has its own next step, so that the value is not at fault.
    if find::<Advised>(&error).is_some() {
        return error;
    }
    let reason = match find::<ArrowError>(&error) {
        Some(
            ArrowError::CastError(reason) | ArrowError::InvalidArgumentError(reason) | ArrowError::ComputeError(reason),
        ) => reason.clone(),
        _ => error.strip_backtrace(),
    };
    SchemaMismatch(format!("column `{column}` is {found} in the file and cannot be read as {wanted}: {reason}")).into()
}

/// Finds a finite number in `found` that is infinite as the narrower float in its place in `wanted`, also inside lists, maps
/// and structs. arrow does not call it an error.
pub(crate) fn too_large(found: &ArrayRef, wanted: &DataType) -> Result<Option<f64>> {
    let item = |list: &DataType| match list {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(item.data_type().clone())
        }
        _ => None,
    };
    match (found.data_type(), wanted) {
        (of, DataType::Float32 | DataType::Float16) if of.is_numeric() && !of.is_integer() && of != wanted => {
            let max = if *wanted == DataType::Float32 { f64::from(f32::MAX) } else { HALF_MAX };
            let doubles = cast(found, &DataType::Float64)?;
            let mut values = doubles.as_primitive::<Float64Type>().iter().flatten();
            // A number that is rounded to the greatest one fits.
            Ok(values.find(|value| value.is_finite() && value.abs() > max && narrow(*value, wanted).is_infinite()))
        }
        (DataType::Utf8View, DataType::Float32) => {
            let is_infinite = |text: &&str| text.to_ascii_lowercase().contains("inf");
            let texts = found.as_string_view().iter().flatten().filter(|text| !is_infinite(text));
            let mut values = texts.filter_map(|text| text.trim().parse::<f64>().ok());
            Ok(values.find(|value| narrow(*value, wanted).is_infinite()))
        }
        (DataType::Struct(own), DataType::Struct(fields)) => {
            let found = found.as_struct();
            for (place, field) in fields.iter().enumerate() {
                let place = own.find(field.name()).map_or(place, |(place, _)| place);
                let part = found.columns().get(place).map(|part| too_large(part, field.data_type())).transpose()?;
                if let Some(value) = part.flatten() {
                    return Ok(Some(value));
                }
            }
            Ok(None)
        }
        (DataType::Map(..), DataType::Map(entries, _)) => {
            let found: ArrayRef = Arc::new(found.as_map().entries().clone());
            too_large(&found, entries.data_type())
        }
        (of, wanted) => {
            let Some(wanted) = item(wanted) else { return Ok(None) };
            match of {
                DataType::List(_) => too_large(found.as_list::<i32>().values(), &wanted),
                DataType::LargeList(_) => too_large(found.as_list::<i64>().values(), &wanted),
                DataType::FixedSizeList(..) => too_large(found.as_fixed_size_list().values(), &wanted),
                _ => Ok(None),
            }
        }
    }
}

/// Greatest finite float of 16 bits.
const HALF_MAX: f64 = 65504.0;

fn narrow(value: f64, of: &DataType) -> f64 {
    match of {
        DataType::Float32 => f64::from(value as f32),
        // The limit is half a step above the greatest float.
        _ if value.abs() < HALF_MAX + 16.0 => value,
        _ => f64::INFINITY,
    }
}

/// Makes the error of such a number.
pub(crate) fn too_large_error(value: f64) -> DataFusionError {
    ArrowError::CastError(format!("{value:e} is too large")).into()
}

impl PartialEq for ReadAs {
    fn eq(&self, other: &Self) -> bool {
        self.column == other.column && self.cast.eq(&other.cast)
    }
}

impl Hash for ReadAs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.column.hash(state);
        self.cast.hash(state);
    }
}

impl Display for ReadAs {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Display::fmt(&self.cast, f)
    }
}

impl PhysicalExpr for ReadAs {
    fn return_field(&self, file: &Schema) -> Result<FieldRef> {
        self.cast.return_field(file)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let named = |error| {
            let wanted = self.cast.data_type(batch.schema_ref());
            wanted.map_or_else(|error| error, |wanted| column_cast_error(&self.column, &self.found, &wanted, error))
        };
        let read = self.cast.evaluate(batch).map_err(named)?;
        if let [of_file] = self.cast.children()[..]
            && has_floats(&read.data_type())
            && let Some(value) = too_large(&of_file.evaluate(batch)?.into_array(batch.num_rows())?, &read.data_type())?
        {
            return Err(named(too_large_error(value)));
        }
        Ok(read)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.cast]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let Some(cast) = children.pop() else {
            return exec_err!("a column that is read as another type has one child");
        };
        Ok(Arc::new(Self { cast, ..self.as_ref().clone() }))
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.cast.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use DataType::*;

    use super::*;

    #[test]
    fn only_casts_that_can_fail_are_wrapped() {
        for (found, wanted, expect) in [
            (Int32, Int64, true),
            (UInt32, Int64, true),
            (UInt64, Int64, false),
            (Int32, UInt64, false),
            (Int64, Int32, false),
            (Int64, Float64, true),
            (Float64, Float32, false),
            (Float32, Float64, true),
            (Int64, Float32, true),
            (Utf8, Utf8View, true),
            (Utf8, Int32, false),
            (Binary, Utf8View, false),
            (Decimal128(10, 2), Decimal128(12, 2), false),
        ] {
            assert_eq!(never_fails(&found, &wanted), expect, "{found} as {wanted}");
        }
    }
}
