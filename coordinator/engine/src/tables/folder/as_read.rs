//! Columns that a format's reader would change silently. They are read as another type, and a cast in the scan's
//! projection, which checks, makes the table's type of them.
//!
//! - Parquet: text that a file calls bytes, as Impala and old Hive write it. DataFusion 55.2 has parquet 59.3 read such
//!   a column as text if the table says so. Parquet checks only columns that the file itself calls text, so that any
//!   bytes would pass for text. `folders::columns::bytes_declared_as_text_are_read_or_refused` tells when this can go.
//! - CSV and JSON: a FLOAT that is too large would be infinite. Digits of a DECIMAL beyond its scale would be cut, but
//!   CAST rounds (arrow 59.3; no report is known). A DECIMAL is read with more digits than it has, so that the digits
//!   that are cut never decide its rounding. The case `numbers of text that a column cannot hold` tells when this can
//!   go.

use std::sync::Arc;

use arrow::datatypes::{DECIMAL256_MAX_PRECISION, DataType, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::projection::ProjectionExpr;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use object_store::ObjectStore;

use super::names::FileKind;
use super::{FolderTable, footers};

/// Digits of a DECIMAL that are read beyond its own.
const DIGITS_MORE: i8 = 20;

/// Returns the table as its files are read, or None if that is as it is declared.
///
/// # Errors
/// An error that names a file whose footer cannot be read.
pub(super) async fn as_read(
    table: &FolderTable,
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    files: &[PartitionedFile],
) -> Result<Option<FolderTable>> {
    match table.kind {
        FileKind::Csv | FileKind::Json => Ok(with_exact_numbers(table)),
        _ => with_bytes(table, state, store, files).await,
    }
}

fn with_exact_numbers(table: &FolderTable) -> Option<FolderTable> {
    let own = table.columns.file_schema();
    let read = |of: &DataType| match of {
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => {
            DataType::Decimal256(DECIMAL256_MAX_PRECISION, scale + DIGITS_MORE)
        }
        // A way by DOUBLE would round twice.
        DataType::Float32 if table.kind == FileKind::Csv => DataType::Utf8View,
        of => with_doubles(of),
    };
    let fields = own.fields().iter().map(|field| field.as_ref().clone().with_data_type(read(field.data_type())));
    let read = Schema::new_with_metadata(fields.collect::<Vec<_>>(), own.metadata().clone());
    (read != **own).then(|| table.with_columns(Arc::new(read)))
}

/// Returns a type with DOUBLE for each FLOAT in it.
fn with_doubles(of: &DataType) -> DataType {
    let field = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(with_doubles(field.data_type())));
    match of {
        DataType::Float32 => DataType::Float64,
        DataType::List(element) => DataType::List(field(element)),
        DataType::LargeList(element) => DataType::LargeList(field(element)),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        other => other.clone(),
    }
}

/// Gives a table bytes for those of its text columns that a file has as bytes.
async fn with_bytes(
    table: &FolderTable,
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    files: &[PartitionedFile],
) -> Result<Option<FolderTable>> {
    if table.kind != FileKind::Parquet || !table.bytes_may_be_text {
        return Ok(None);
    }
    let own = table.columns.file_schema();
    let mut found = vec![false; own.fields().len()];
    for file in files {
        let bytes = footers::bytes(state, store, &file.object_meta).await?;
        for (field, found) in own.fields().iter().zip(&mut found) {
            *found |= field.data_type().is_string() && bytes.contains(field.name());
        }
    }
    if !found.contains(&true) {
        return Ok(None);
    }
    let fields = own.fields().iter().zip(found).map(|(field, found)| {
        let field = field.as_ref().clone();
        if found { field.with_data_type(DataType::BinaryView) } else { field }
    });
    let columns = Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), own.metadata().clone()));
    Ok(Some(table.with_columns(columns)))
}

/// Casts the rows of `plan` to `wanted`.
///
/// # Errors
/// The engine's error for a projection.
pub(super) fn checked(plan: Arc<dyn ExecutionPlan>, wanted: &SchemaRef) -> Result<Arc<dyn ExecutionPlan>> {
    let read = plan.schema();
    let columns = wanted.fields().iter().zip(read.fields()).enumerate().map(|(index, (wanted, read))| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(read.name(), index));
        let expr = if read.data_type() == wanted.data_type() {
            column
        } else {
            let cast = Arc::new(CastExpr::new(column, wanted.data_type().clone(), None));
            // A reader of Parquet names the column by itself.
            let is_named = read.data_type() == &DataType::BinaryView;
            if is_named { cast } else { fragment_fn::read_as(wanted.name(), read.data_type(), cast) }
        };
        ProjectionExpr { expr, alias: wanted.name().clone() }
    });
    let columns: Vec<ProjectionExpr> = columns.collect();
    let projection = ProjectionExec::try_new(columns, Arc::clone(&plan))?;
    // The projection goes into the scan, so that an error names the file.
    Ok(plan.try_swapping_with_projection(&projection)?.unwrap_or_else(|| Arc::new(projection)))
}
