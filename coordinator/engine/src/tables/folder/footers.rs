//! Facts that Parquet footers have for a folder's table. The session keeps footers, so that each is read once.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{Result, ScalarValue};
use datafusion::datasource::file_format::{FileFormat, FileMeta};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use fragment_fn::{PinnedFile, file_statistics, read_footer, repeated_name};
use object_store::{ObjectMeta, ObjectStore};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::basic::{ConvertedType, Type as PhysicalType};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics as ChunkStatistics;
use parquet::schema::types::ColumnDescriptor;
use tokio::sync::Semaphore;

use super::error::FolderError;

/// Reads the footer of a file and its columns.
///
/// # Errors
/// An error that names the file. A file that has two columns of one name is an error, too.
async fn footer(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
) -> Result<(Arc<ParquetMetaData>, Schema)> {
    let named = |error: datafusion::common::DataFusionError| error.context(format!("file `{}`", file.location));
    let footer = read(state, store, file).await.map_err(named)?;
    let told = footer.file_metadata();
    let own = parquet_to_arrow_schema(told.schema_descr(), told.key_value_metadata());
    let own = own.map_err(|error| named(error.into()))?;
    if let Some(column) = repeated_name(&own) {
        return Err(FolderError::TwoColumns { file: file.location.to_string(), column }.into());
    }
    Ok((footer, own))
}

/// Footers that a process reads at the same time for tables that it makes or plans. Statements do so side by side, and a store
/// asks whoever sends it a thousand requests at once to slow down.
static FOOTERS_AT_ONCE: Semaphore = Semaphore::const_new(128);

/// Reads the footer of a file as it was listed, or takes it from the session's cache.
async fn read(state: &dyn Session, store: &Arc<dyn ObjectStore>, file: &ObjectMeta) -> Result<Arc<ParquetMetaData>> {
    let _turn = FOOTERS_AT_ONCE.acquire().await.expect("it is never closed");
    let footers = state.runtime_env().cache_manager.get_file_metadata_cache();
    read_footer(&PinnedFile::new(Arc::clone(store), file.clone()), None, footers.as_ref()).await
}

/// Returns a file's columns as the format reads them.
///
/// # Errors
/// An error that names the file.
pub(super) async fn schema(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    format: &Arc<dyn FileFormat>,
    file: &ObjectMeta,
) -> Result<SchemaRef> {
    footer(state, store, file).await?;
    // The footer is in the session's cache now.
    let schema = format.infer_schema(state, store, std::slice::from_ref(file)).await;
    schema.map_err(|error| error.context(format!("file `{}`", file.location)))
}

/// Returns the names of the columns at the top that are bytes and that the file does not mark as text (UTF8).
///
/// # Errors
/// An error that names the file.
pub(super) async fn bytes(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
) -> Result<HashSet<String>> {
    let footer = read(state, store, file).await?;
    let columns = footer.file_metadata().schema_descr().columns();
    let is_bytes = |column: &&Arc<ColumnDescriptor>| {
        column.path().parts().len() == 1
            && column.physical_type() == PhysicalType::BYTE_ARRAY
            && column.converted_type() != ConvertedType::UTF8
    };
    Ok(columns.iter().filter(is_bytes).map(|column| column.name().to_owned()).collect())
}

/// Returns the statistics of a file under the table's columns, and the order by which all its rows are sorted.
///
/// # Errors
/// An error that names the file.
pub(super) async fn statistics(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    columns: &SchemaRef,
    file: &ObjectMeta,
) -> Result<FileMeta> {
    let (footer, own) = footer(state, store, file).await?;
    let statistics = file_statistics(&footer, columns)?;
    Ok(FileMeta::new(statistics).with_ordering(sorted(&footer, &own, columns)))
}

/// Returns the order by which all rows of a file are sorted. The file says it of each row group by itself. Several row
/// groups must say the same, and must also follow one another.
///
/// DataFusion 55.2 (`ordering_from_parquet_metadata`) takes the order of the first row group for all of them, and a
/// struct's field for the column of that name.
fn sorted(footer: &ParquetMetaData, own: &Schema, columns: &Schema) -> Option<LexOrdering> {
    let groups: Vec<&RowGroupMetaData> = footer.row_groups().iter().filter(|group| group.num_rows() > 0).collect();
    let said = groups.first()?.sorting_columns()?;
    if groups.iter().any(|group| group.sorting_columns() != Some(said)) {
        return None;
    }
    let leaves = footer.file_metadata().schema_descr();
    let order = said.iter().map_while(|column| {
        let leaf = leaves.columns().get(usize::try_from(column.column_idx).ok()?)?;
        let [name] = leaf.path().parts() else { return None };
        let (index, wanted) = columns.column_with_name(name)?;
        // A cast may change the order of values: '10' is before '9'.
        let is_kept = is_same_order(own.field_with_name(name).ok()?.data_type(), wanted.data_type());
        let options = SortOptions { descending: column.descending, nulls_first: column.nulls_first };
        is_kept.then(|| PhysicalSortExpr::new(Arc::new(Column::new(name, index)), options))
    });
    let mut order: Vec<PhysicalSortExpr> = order.collect();
    if groups.len() > 1 {
        let by = order.first()?;
        let name = by.expr.downcast_ref::<Column>()?.name();
        let ties = groups_share_values(footer, &groups, own, name, by.options.descending)?;
        // If a row group ends with the value that the next begins with, the columns after it may go back.
        order.truncate(if ties { 1 } else { usize::MAX });
    }
    LexOrdering::new(order)
}

/// Returns true if row groups that follow one another in a column without NULL share a value. Returns None if they do
/// not follow, or are not known to.
fn groups_share_values(
    footer: &ParquetMetaData,
    groups: &[&RowGroupMetaData],
    own: &Schema,
    name: &str,
    descending: bool,
) -> Option<bool> {
    let known = StatisticsConverter::try_new(name, own, footer.file_metadata().schema_descr()).ok()?;
    let leaf = known.parquet_column_index()?;
    if groups.iter().any(|group| group.column(leaf).statistics().and_then(ChunkStatistics::null_count_opt) != Some(0)) {
        return None;
    }
    let least = known.row_group_mins(groups.iter().copied()).ok()?;
    let most = known.row_group_maxes(groups.iter().copied()).ok()?;
    let (ends, begins) = if descending { (least, most) } else { (most, least) };
    let mut ties = false;
    for group in 1..groups.len() {
        let end = ScalarValue::try_from_array(&ends, group - 1).ok()?;
        let begin = ScalarValue::try_from_array(&begins, group).ok()?;
        if end.is_null() || begin.is_null() {
            return None;
        }
        match end.partial_cmp(&begin)? {
            Ordering::Equal => ties = true,
            Ordering::Less if !descending => {}
            Ordering::Greater if descending => {}
            _ => return None,
        }
    }
    Some(ties)
}

/// Tells if values in a file's order are in the column's order, too. Files do not say for floats where NaN and the
/// zeros are.
fn is_same_order(own: &DataType, wanted: &DataType) -> bool {
    let is_same = own == wanted && !own.is_floating();
    is_same || (own.is_string() && wanted.is_string()) || (own.is_integer() && wanted.is_integer())
}
