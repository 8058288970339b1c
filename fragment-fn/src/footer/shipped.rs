//! A footer that travels with a fragment: the part of a file's footer that the fragment needs.
//!
//! ```text
//!  coordinator: footer of the file ─► columns and row groups of a unit ─► laid out as the end of a Parquet file ─► ScanUnit
//!  function:    ScanUnit ─► walked, parsed, compared with the file, only reliable statistics ─► in the place of the file's own
//! ```
//!
//! Places of pages are those in the data file. The places of the page index are those in the shipped bytes.
//! Non-goals: files whose columns are matched by field id, and a cache: the footer lacks columns.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::Schema;
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result};
use object_store::ObjectMeta;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema, parquet_to_arrow_schema};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataWriter,
    RowGroupMetaData,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::schema::types::{SchemaDescriptor, Type};

use super::{
    FILE_BYTES_MIN, FooterError, TAIL_BYTES, decoded, footer_begin, page_index_range, parsed, with_page_index,
};
use crate::panics::catch_panic;
use crate::statistics::without_unreliable;

/// Footer of a file that came with the fragment, among the extensions of its `PartitionedFile`.
#[derive(Debug, Clone)]
pub(crate) struct ShippedFooter(pub(crate) Arc<ParquetMetaData>);

/// Columns that a fragment needs of a file, by their names at the top.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NeededColumns {
    pub read: BTreeSet<String>,
    /// Columns that a filter compares. Their statistics and page bounds rule out row groups and pages.
    pub compared: BTreeSet<String>,
}

/// Encodes the part of `footer` that a reader of these columns needs for these row groups.
///
/// The file's first column stays in any case: readers find the place of a row group by it.
///
/// # Errors
/// A footer whose parts do not fit together, and one without columns.
pub fn project(footer: &ParquetMetaData, columns: &NeededColumns, row_groups: &[usize]) -> Result<Bytes, ParquetError> {
    let file = footer.file_metadata();
    let whole = file.schema_descr();
    if whole.num_columns() == 0 {
        return Err(ParquetError::General("the file has no columns".to_owned()));
    }
    let first = whole.get_column_root(0).name();
    let is_kept = |name: &str| name == first || columns.read.contains(name) || columns.compared.contains(name);
    let leaves: Vec<usize> =
        (0..whole.num_columns()).filter(|leaf| is_kept(whole.get_column_root(*leaf).name())).collect();
    let is_compared = |leaf: usize| columns.compared.contains(whole.get_column_root(leaf).name());

    let roots = whole.root_schema().get_fields().iter().filter(|root| is_kept(root.name())).cloned().collect();
    let root = Type::group_type_builder(whole.root_schema().name()).with_fields(roots).build()?;
    let schema = Arc::new(SchemaDescriptor::new(Arc::new(root)));
    let group = |index: &usize| {
        let group = footer.row_group(*index);
        let chunk = |leaf: &usize| chunk(group.column(*leaf), is_compared(*leaf));
        RowGroupMetaData::builder(Arc::clone(&schema))
            .set_num_rows(group.num_rows())
            .set_total_byte_size(group.total_byte_size())
            .set_column_metadata(leaves.iter().map(chunk).collect::<Result<_, _>>()?)
            .build()
    };
    let groups = row_groups.iter().map(group).collect::<Result<Vec<_>, _>>()?;
    let rows: i64 = groups.iter().map(RowGroupMetaData::num_rows).sum();

    let orders = file.column_orders().map(|orders| leaves.iter().map(|leaf| orders[*leaf]).collect());
    let created_by = file.created_by().map(str::to_owned);
    let key_values = arrow_schema(file, is_kept)?.map(|schema| vec![schema]);
    let projected = FileMetaData::new(file.version(), rows, created_by, key_values, Arc::clone(&schema), orders);
    // Without a filter no page is ruled out.
    let is_indexed = !columns.compared.is_empty() && footer.column_index().is_some();
    let bounds = footer.column_index().filter(|_| is_indexed).map(|index| {
        let of_leaf = |group: usize, leaf: usize| match is_compared(leaf) {
            true => index[group][leaf].clone(),
            false => ColumnIndexMetaData::NONE,
        };
        row_groups.iter().map(|group| leaves.iter().map(|leaf| of_leaf(*group, *leaf)).collect()).collect()
    });
    let places = footer.offset_index().filter(|_| is_indexed).map(|index| {
        row_groups.iter().map(|group| leaves.iter().map(|leaf| index[*group][*leaf].clone()).collect()).collect()
    });
    let projected = ParquetMetaDataBuilder::new(projected)
        .set_row_groups(groups)
        .set_column_index(bounds)
        .set_offset_index(places)
        .build();
    // The writer says of all columns that their order is defined. So bounds of another order go before.
    let projected = without_unreliable(projected)?;
    let mut bytes = Vec::new();
    ParquetMetaDataWriter::new(&mut bytes, &projected).finish()?;
    Ok(bytes.into())
}

/// Returns a column chunk without what a reader does not use.
fn chunk(column: &ColumnChunkMetaData, is_compared: bool) -> Result<ColumnChunkMetaData, ParquetError> {
    let builder = column
        .clone()
        .into_builder()
        .set_column_index_offset(None)
        .set_column_index_length(None)
        .set_offset_index_offset(None)
        .set_offset_index_length(None)
        .set_unencoded_byte_array_data_bytes(None)
        .set_repetition_level_histogram(None)
        .set_definition_level_histogram(None);
    match is_compared {
        true => builder.build(),
        false => builder.clear_statistics().set_bloom_filter_offset(None).set_bloom_filter_length(None).build(),
    }
}

/// Encodes the arrow schema of the kept columns, if the file has its own. A schema of all columns would not fit.
fn arrow_schema(file: &FileMetaData, is_kept: impl Fn(&str) -> bool) -> Result<Option<KeyValue>, ParquetError> {
    let Some(told) = file.key_value_metadata() else { return Ok(None) };
    if !told.iter().any(|told| told.key == ARROW_SCHEMA_META_KEY && told.value.is_some()) {
        return Ok(None);
    }
    let whole = parquet_to_arrow_schema(file.schema_descr(), Some(told))?;
    let kept: Vec<_> = whole.fields().iter().filter(|field| is_kept(field.name())).cloned().collect();
    Ok(Some(KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encode_arrow_schema(&Schema::new(kept)))))
}

/// Decodes a footer that [`project`] made of the footer of `object`.
///
/// # Errors
/// An error that names the file, for bytes that are no such footer.
pub fn read_shipped(bytes: &Bytes, object: &ObjectMeta) -> Result<Arc<ParquetMetaData>> {
    let failed = |reason: String| {
        DataFusionError::Plan(format!("the footer of `{}` that came with the fragment: {reason}", object.location))
    };
    read(bytes, object).map(Arc::new).map_err(failed)
}

fn read(bytes: &Bytes, object: &ObjectMeta) -> Result<ParquetMetaData, String> {
    let size = bytes.len() as u64;
    if size < FILE_BYTES_MIN {
        return Err(format!("it has {size} bytes"));
    }
    let refused = |error| match error {
        FooterError::Encrypted => "it is encrypted".to_owned(),
        FooterError::Other(reason) => reason,
    };
    let begin = footer_begin(&bytes[bytes.len() - TAIL_BYTES..], size).map_err(refused)?;
    // The page index lies in these bytes, everything else in the file.
    let footer = decoded(&bytes.slice(begin as usize..bytes.len() - TAIL_BYTES), object.size.max(size));
    let footer = footer.map_err(refused)?;
    let footer = match page_index_range(&footer) {
        Some(range) if range.end > begin => return Err("its page index is not where it should be".to_owned()),
        Some(range) => {
            let index = bytes.slice(range.start as usize..range.end as usize);
            catch_panic(|| with_page_index(footer, size, range, index)).and_then(|index| index)?
        }
        None => footer,
    };
    parsed(|| without_unreliable(footer))
}
