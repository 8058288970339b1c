//! Text of files that call it bytes, as Impala and old Hive write it: it is text if it is UTF-8, else an error.
//!
//! DataFusion 55.2 has parquet 59.3 read such a column as text where the table says so, and parquet looks only into columns that
//! the file itself calls text: any bytes would pass for text. So the scan reads bytes, and a cast in its projection, which looks, makes
//! text of them. `folders::columns::bytes_that_are_no_text` tells when this can go.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::projection::ProjectionExpr;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use object_store::ObjectStore;

use super::names::Format;
use super::{FolderTable, footers};

/// The table with bytes for the text of which a file has bytes; None where there is no such column.
///
/// # Errors
/// A footer's.
pub(super) async fn with_bytes(
    table: &FolderTable,
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    files: &[PartitionedFile],
) -> Result<Option<FolderTable>> {
    if table.kind != Format::Parquet || !table.bytes_may_be_text {
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

/// The rows of `plan` as `wanted`.
///
/// # Errors
/// What the engine says of a projection.
pub(super) fn checked(plan: Arc<dyn ExecutionPlan>, wanted: &SchemaRef) -> Result<Arc<dyn ExecutionPlan>> {
    let read = plan.schema();
    let columns = wanted.fields().iter().zip(read.fields()).enumerate().map(|(index, (wanted, read))| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(read.name(), index));
        let expr = if read.data_type() == wanted.data_type() {
            column
        } else {
            Arc::new(CastExpr::new(column, wanted.data_type().clone(), None))
        };
        ProjectionExpr { expr, alias: wanted.name().clone() }
    });
    let columns: Vec<ProjectionExpr> = columns.collect();
    let projection = ProjectionExec::try_new(columns, Arc::clone(&plan))?;
    // In the scan, so that what fails is told with its file.
    Ok(plan.try_swapping_with_projection(&projection)?.unwrap_or_else(|| Arc::new(projection)))
}
