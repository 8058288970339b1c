//! Check that a footer fits its file. Every later step takes this for granted.

use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};

/// Compares a footer with the size of its file.
///
/// # Errors
/// A text that names the first part that does not fit.
pub(super) fn check(footer: &ParquetMetaData, size_bytes: u64) -> Result<(), String> {
    let mut rows = 0i64;
    for (index, group) in footer.row_groups().iter().enumerate() {
        check_group(group, footer.file_metadata().schema_descr().num_columns(), size_bytes)
            .map_err(|reason| format!("its row group {index} {reason}"))?;
        rows = rows.saturating_add(group.num_rows());
    }
    let claimed = footer.file_metadata().num_rows();
    if claimed != rows {
        return Err(format!("its footer claims {claimed} rows, its row groups {rows}"));
    }
    Ok(())
}

fn check_group(group: &RowGroupMetaData, leaves: usize, size_bytes: u64) -> Result<(), String> {
    if group.num_rows() < 0 {
        return Err(format!("claims {} rows", group.num_rows()));
    }
    if group.num_columns() != leaves {
        return Err(format!("has {} columns, its schema {leaves}", group.num_columns()));
    }
    for column in group.columns() {
        check_column(column, group.num_rows(), size_bytes)
            .map_err(|reason| format!("has a column `{}` {reason}", column.column_path().string()))?;
    }
    Ok(())
}

fn check_column(column: &ColumnChunkMetaData, rows: i64, size_bytes: u64) -> Result<(), String> {
    if let Some(path) = column.file_path() {
        return Err(format!("that lies in another file, `{path}`"));
    }
    let leaf = column.column_descr();
    if column.num_values() < 0 || leaf.max_rep_level() == 0 && column.num_values() != rows {
        return Err(format!("of {} values, where it has {rows} rows", column.num_values()));
    }
    if column.uncompressed_size() < 0 {
        return Err(format!("of {} bytes", column.uncompressed_size()));
    }
    let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
    let places = [
        (Some(start), Some(column.compressed_size())),
        (Some(column.data_page_offset()), Some(0)),
        (column.column_index_offset(), column.column_index_length().map(i64::from)),
        (column.offset_index_offset(), column.offset_index_length().map(i64::from)),
        (column.bloom_filter_offset(), column.bloom_filter_length().map(i64::from)),
    ];
    for (offset, bytes) in places {
        let Some(offset) = offset else { continue };
        let bytes = bytes.unwrap_or_default();
        let end = offset.checked_add(bytes).and_then(|end| u64::try_from(end).ok());
        if offset < 0 || bytes < 0 || end.is_none_or(|end| end > size_bytes) {
            return Err(format!("with {bytes} bytes at {offset}, which is not within the file's {size_bytes}"));
        }
    }
    Ok(())
}
