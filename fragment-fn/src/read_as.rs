//! Casts from a file's type to the table's whose errors name the column.
//!
//! An adapter of DataFusion's casts each column that a file has in another type; where a value does not fit, its error has the value
//! and no column. This puts a [`ReadAs`] around those casts that can fail; the file's name comes with [`crate::blame`].
//! Filters are left alone: rows are filtered above the scan, and pruning by statistics sees through a cast, not through this.

use std::fmt::{Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, Float64Type, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, exec_datafusion_err, exec_err};
use datafusion::functions::core::getfield::GetFieldFunc;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_plan::PhysicalExpr;

use crate::classify::find;

/// An expression over a file's columns, with the columns' names in the errors of casts to the table's types. `shown` is a column's
/// name in the table. Casts that the query asks for are left alone, but those of bytes to text.
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
        let Some((column, _)) = column.filter(|(_, own)| *own == wanted || is_text()) else {
            return Ok(Transformed::no(expr));
        };
        if never_fails(&found, wanted) {
            return Ok(Transformed::no(expr));
        }
        let named = ReadAs { column, found, cast: expr };
        Ok(Transformed::new(Arc::new(named) as Arc<dyn PhysicalExpr>, true, TreeNodeRecursion::Jump))
    });
    named.data()
}

fn is_filter(expr: &dyn PhysicalExpr, file: &Schema) -> Result<bool> {
    Ok(!expr.is::<Column>() && !expr.is::<CastExpr>() && expr.data_type(file)? == DataType::Boolean)
}

/// `a`, or `s.a` of a struct's field, and its type in the table.
fn in_table<'a>(
    expr: &dyn PhysicalExpr,
    table: &'a Schema,
    shown: &impl Fn(&str) -> String,
) -> Option<(String, &'a DataType)> {
    if let Some(column) = expr.downcast_ref::<Column>() {
        let name = shown(column.name());
        let own = table.field_with_name(&name).ok()?.data_type();
        return Some((name, own));
    }
    // From one kind of bytes to another.
    if let Some(cast) = expr.downcast_ref::<CastExpr>().filter(|cast| is_bytes(cast.cast_type())) {
        return in_table(cast.expr().as_ref(), table, shown);
    }
    let (source, keys) = ScalarFunctionExpr::try_downcast_func::<GetFieldFunc>(expr)?.args().split_first()?;
    let (mut name, mut own) = in_table(source.as_ref(), table, shown)?;
    for key in keys {
        let key = key.downcast_ref::<Literal>()?.value().try_as_str().flatten()?;
        let DataType::Struct(fields) = own else { return None };
        own = fields.find(key)?.1.data_type();
        name = format!("{name}.{key}");
    }
    Some((name, own))
}

fn is_bytes(of: &DataType) -> bool {
    matches!(of, DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_))
}

/// Whether the one type holds all values of the other.
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
        // A greater one becomes infinite, see `grown_infinite`.
        (found, DataType::Float32) => found.is_integer() || matches!(found, DataType::Float16 | DataType::Float32),
        (found, DataType::Float64) => found.is_integer() || found.is_floating(),
        _ => false,
    }
}

/// A column's cast, or what reads it as another type in another way.
#[derive(Debug, Clone, Eq)]
struct ReadAs {
    /// As the table names it.
    column: String,
    found: DataType,
    cast: Arc<dyn PhysicalExpr>,
}

/// What is told of a column's value that does not become the table's.
pub(crate) fn unread(column: &str, found: &DataType, wanted: &DataType, error: &DataFusionError) -> DataFusionError {
    let reason = match find::<ArrowError>(error) {
        Some(
            ArrowError::CastError(reason) | ArrowError::InvalidArgumentError(reason) | ArrowError::ComputeError(reason),
        ) => reason.clone(),
        _ => error.strip_backtrace(),
    };
    exec_datafusion_err!(
        "schema mismatch: column `{column}` is {found} in the file and cannot be read as {wanted}: {reason}"
    )
}

/// A finite number that a cast to a narrower float made infinite, which arrow calls no error.
fn grown_infinite(found: &ColumnarValue, read: &ColumnarValue, rows: usize) -> Result<Option<f64>> {
    let doubles = |value: &ColumnarValue| Ok::<_, DataFusionError>(cast(&value.to_array(rows)?, &DataType::Float64)?);
    let (found, read) = (doubles(found)?, doubles(read)?);
    let (found, read) = (found.as_primitive::<Float64Type>(), read.as_primitive::<Float64Type>());
    let mut both = found.iter().zip(read).filter_map(|(found, read)| Some((found?, read?)));
    Ok(both.find(|(found, read)| found.is_finite() && read.is_infinite()).map(|(found, _)| found))
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
        let told = |error| {
            let wanted = self.cast.data_type(batch.schema_ref());
            wanted.map_or_else(|error| error, |wanted| unread(&self.column, &self.found, &wanted, &error))
        };
        let read = self.cast.evaluate(batch).map_err(told)?;
        if let [of_file] = self.cast.children()[..]
            && self.found.is_numeric()
            && read.data_type().is_floating()
            && let Some(value) = grown_infinite(&of_file.evaluate(batch)?, &read, batch.num_rows())?
        {
            return Err(told(ArrowError::CastError(format!("{value:e} is too large")).into()));
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
    fn only_casts_that_can_fail_are_looked_at() {
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
