//! Parquet files for tests, down to the fields of their footers.

use std::sync::Arc;

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Repetition, Type as Physical};
use parquet::file::metadata::{
    FileMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::Statistics;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{SchemaDescriptor, Type};

/// Writes a file with a row group for each batch.
pub fn file(groups: &[RecordBatch], properties: WriterProperties) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, groups[0].schema(), Some(properties)).expect("a writer");
    for group in groups {
        writer.write(group).expect("written");
        writer.flush().expect("written");
    }
    writer.close().expect("closed");
    bytes
}

/// Reads a file's footer, with its page indexes.
pub fn footer(file: &[u8]) -> ParquetMetaData {
    let bytes = bytes::Bytes::copy_from_slice(file);
    let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
    reader.try_parse(&bytes).expect("a footer");
    reader.finish().expect("a footer")
}

/// Returns the same data under a footer whose row groups `change` has changed. Page indexes are dropped.
pub fn with_groups(file: &[u8], change: impl Fn(usize, RowGroupMetaData) -> RowGroupMetaData) -> Vec<u8> {
    let before = footer(file);
    let chunks = before.row_groups().iter().flat_map(|group| group.columns());
    let filters = chunks.clone().filter_map(|chunk| Some((chunk.bloom_filter_offset()?, chunk.bloom_filter_length()?)));
    let filters = filters.map(|(offset, length)| offset as u64 + length as u64);
    let end = chunks.map(|chunk| chunk.byte_range()).map(|(start, length)| start + length).chain(filters).max();
    let mut builder = before.into_builder();
    let groups = builder.take_row_groups().into_iter().enumerate().map(|(index, group)| change(index, group)).collect();
    let after = builder.set_row_groups(groups).set_column_index(None).set_offset_index(None).build();
    let mut bytes = file[..end.unwrap_or(4) as usize].to_vec();
    ParquetMetaDataWriter::new(&mut bytes, &after).finish().expect("written");
    bytes
}

/// Returns the file with each chunk's statistics replaced by those of `change`, which gets the row group, the column and the old.
pub fn with_statistics(file: &[u8], change: impl Fn(usize, usize, &Statistics) -> Option<Statistics>) -> Vec<u8> {
    with_groups(file, |index, group| {
        let columns = group.columns().iter().enumerate().map(|(place, column)| {
            let changed = column.statistics().and_then(|statistics| change(index, place, statistics));
            let builder = column.clone().into_builder();
            let builder = builder.set_column_index_offset(None).set_column_index_length(None);
            let builder = builder.set_offset_index_offset(None).set_offset_index_length(None);
            let builder = match changed {
                Some(statistics) => builder.set_statistics(statistics),
                None => builder.clear_statistics(),
            };
            builder.build().expect("a chunk")
        });
        let columns = columns.collect();
        group.into_builder().set_column_metadata(columns).build().expect("a row group")
    })
}

/// Makes a batch of named columns, all nullable.
pub fn batch(columns: Vec<(&str, arrow::array::ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, Arc::clone(&column), true)),
    )
    .expect("columns of one length")
}

/// Returns a file of so many rows and no column.
pub fn without_columns(rows: i64) -> Vec<u8> {
    let schema = Type::group_type_builder("schema").build().expect("a schema");
    let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema)));
    let group = RowGroupMetaData::builder(Arc::clone(&schema)).set_num_rows(rows).build().expect("a row group");
    let file = FileMetaData::new(2, rows, None, None, schema, None);
    let mut bytes = b"PAR1".to_vec();
    ParquetMetaDataWriter::new(&mut bytes, &ParquetMetaData::new(file, vec![group])).finish().expect("written");
    bytes
}

/// Returns a file without rows. Its only column lies under so many groups, each inside the one before it.
pub fn nested(groups: usize) -> Vec<u8> {
    let leaf = Type::primitive_type_builder("leaf", Physical::INT32).with_repetition(Repetition::OPTIONAL).build();
    let group = |child: Type, name: &str| {
        let group = Type::group_type_builder(name).with_fields(vec![Arc::new(child)]);
        group.with_repetition(Repetition::OPTIONAL).build().expect("a group")
    };
    let schema = (0..groups).fold(leaf.expect("a leaf"), |child, _| group(child, "g"));
    let schema = Type::group_type_builder("schema").with_fields(vec![Arc::new(schema)]).build().expect("a schema");
    let mut bytes = Vec::new();
    let properties = Arc::new(WriterProperties::builder().build());
    let writer = SerializedFileWriter::new(&mut bytes, Arc::new(schema), properties).expect("a writer");
    writer.close().expect("closed");
    bytes
}
