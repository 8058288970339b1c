//! What Parquet footers tell a folder's table. Each is read once: the session keeps them.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{Result, Statistics};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::physical_plan::parquet::metadata::ordering_from_parquet_metadata;
use datafusion::parquet::arrow::parquet_to_arrow_schema;
use datafusion::parquet::basic::{ConvertedType, Type as PhysicalType};
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::parquet::schema::types::ColumnDescriptor;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_expr::expressions::Column;
use fragment_fn::{file_statistics, read_footer, repeated_name};
use object_store::{ObjectMeta, ObjectStore};

use super::error::FolderError;

/// The footer of a file whose columns have names of their own, and its columns.
///
/// # Errors
/// One that names the file.
async fn footer(
    state: &dyn Session,
    store: &dyn ObjectStore,
    file: &ObjectMeta,
) -> Result<(Arc<ParquetMetaData>, Schema)> {
    let footers = state.runtime_env().cache_manager.get_file_metadata_cache();
    let named = |error: datafusion::common::DataFusionError| error.context(format!("file `{}`", file.location));
    let footer = read_footer(store, file, None, footers.as_ref()).await.map_err(named)?;
    let told = footer.file_metadata();
    let own = parquet_to_arrow_schema(told.schema_descr(), told.key_value_metadata());
    let own = own.map_err(|error| named(error.into()))?;
    if let Some(column) = repeated_name(&own) {
        return Err(FolderError::TwoColumns { file: file.location.to_string(), column }.into());
    }
    Ok((footer, own))
}

/// A file's columns as the format reads them.
///
/// # Errors
/// One that names the file.
pub(super) async fn schema(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    format: &Arc<dyn FileFormat>,
    file: &ObjectMeta,
) -> Result<SchemaRef> {
    footer(state, store.as_ref(), file).await?;
    // From the footer that the session keeps.
    let schema = format.infer_schema(state, store, std::slice::from_ref(file)).await;
    schema.map_err(|error| error.context(format!("file `{}`", file.location)))
}

/// Names of the columns that a file calls neither text nor anything else: bytes.
///
/// # Errors
/// One that names the file.
pub(super) async fn bytes(state: &dyn Session, store: &dyn ObjectStore, file: &ObjectMeta) -> Result<HashSet<String>> {
    let footers = state.runtime_env().cache_manager.get_file_metadata_cache();
    let footer = read_footer(store, file, None, footers.as_ref()).await?;
    let columns = footer.file_metadata().schema_descr().columns();
    let is_bytes = |column: &&Arc<ColumnDescriptor>| {
        column.path().parts().len() == 1
            && column.physical_type() == PhysicalType::BYTE_ARRAY
            && column.converted_type() != ConvertedType::UTF8
    };
    Ok(columns.iter().filter(is_bytes).map(|column| column.name().to_owned()).collect())
}

/// What holds for all rows of a file, under the table's columns, and by what they are sorted.
///
/// # Errors
/// One that names the file.
pub(super) async fn statistics(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    columns: &SchemaRef,
    file: &ObjectMeta,
) -> Result<(Statistics, Option<LexOrdering>)> {
    let (footer, own) = footer(state, store.as_ref(), file).await?;
    let statistics = file_statistics(&footer, columns)?;
    // A cast may change the order of values: '10' is before '9'.
    let is_kept = |name: &str| {
        let types = (own.field_with_name(name), columns.field_with_name(name));
        matches!(types, (Ok(own), Ok(wanted)) if is_same_order(own.data_type(), wanted.data_type()))
    };
    let sorted = ordering_from_parquet_metadata(&footer, columns)?.and_then(|order| {
        let kept = order.into_iter().take_while(|sorted| {
            let column = sorted.expr.downcast_ref::<Column>();
            column.is_some_and(|column| is_kept(column.name()))
        });
        LexOrdering::new(kept)
    });
    Ok((statistics, sorted))
}

/// Whether values in a file's order are in the column's as well. Of floats nobody says where NaN and the zeros are.
fn is_same_order(own: &DataType, wanted: &DataType) -> bool {
    let is_same = own == wanted && !own.is_floating();
    is_same || (own.is_string() && wanted.is_string()) || (own.is_integer() && wanted.is_integer())
}
