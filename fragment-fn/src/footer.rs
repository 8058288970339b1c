//! Reading of Parquet footers. Footers enter in this one way, on functions and on the coordinator.
//!
//! ```text
//!  tail of the file ─► length ─► Thrift walked ─► parsed ─► fits the file? ─► page index ─► only reliable statistics ─► cache
//! ```
//!
//! A footer is read at most once an environment, in one request with everything that lies near it. Bytes that cannot be a
//! footer are a [`FileFault`] that names the file, even where the parser would take them or panic.

mod check;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::physical_plan::parquet::metadata::CachedParquetMetaData;
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use object_store::ObjectMeta;
use parquet::DecodeResult;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder, ParquetMetaDataReader};

use crate::fault::FileFault;
use crate::panics::catch_panic;
use crate::pinned::PinnedFile;
use crate::statistics::without_unreliable;
use crate::thrift;
use check::check;

/// Bytes of a file's end that are read for a footer of unknown length.
///
/// Most footers with their page index are far smaller, and the pinned file keeps the surplus. 256 KiB take 3.3 ms of an S3
/// body at 75 MiB/s.
pub const FOOTER_GUESS_BYTES: usize = 256 << 10;

/// Widest spread of a page index in its file, in bytes. A wider index is not read: an index only saves reading.
const PAGE_INDEX_BYTES_MAX: u64 = 64 << 20;

/// Length of the footer's length and magic, the last bytes of the file.
const TAIL_BYTES: usize = 8;

/// Length of the magic at both ends and the footer's length.
const FILE_BYTES_MIN: u64 = 12;

/// Reads the footer of a file with its page index. Its statistics are such that they hold for all rows.
///
/// A footer in `footers` is not read again. `footer_bytes` is the length of footer and page index, if it is known.
///
/// # Errors
/// The store's own error, or a [`FileFault`].
pub async fn read_footer(
    file: &PinnedFile,
    footer_bytes: Option<usize>,
    footers: &FileMetadataCache,
) -> Result<Arc<ParquetMetaData>> {
    let object = file.object();
    if let Some(footer) = kept(object, footers) {
        return Ok(footer);
    }
    let fault = |reason: String| DataFusionError::from(FileFault::corrupt(&object.location, reason));
    let size = object.size;
    if size < FILE_BYTES_MIN {
        return Err(fault(format!("it has {size} bytes, which is too short for Parquet")));
    }
    // A small file is read whole with its footer.
    let guess = footer_bytes.filter(|_| size > FOOTER_GUESS_BYTES as u64).unwrap_or(FOOTER_GUESS_BYTES);
    let end = file.range(size.saturating_sub(guess.max(TAIL_BYTES) as u64)..size).await?;
    let begin = footer_begin(&end[end.len() - TAIL_BYTES..], size).map_err(|reason| match reason {
        FooterError::Encrypted => encrypted(object),
        FooterError::Other(reason) => fault(reason),
    })?;
    let metadata = file.range(begin..size - TAIL_BYTES as u64).await?;
    match thrift::footer(&metadata) {
        Ok(false) => {}
        Ok(true) => return Err(encrypted(object)),
        Err(reason) => return Err(fault(format!("its footer cannot be read: {reason}"))),
    }
    let unreadable = |reason: String| fault(format!("its footer cannot be read: {reason}"));
    let footer = parsed(|| ParquetMetaDataReader::decode_metadata(&metadata)).map_err(unreadable)?;
    check(&footer, size).map_err(fault)?;
    // Later readers of the columns may rely on a schema that can be read.
    let file_metadata = footer.file_metadata();
    parsed(|| parquet_to_arrow_schema(file_metadata.schema_descr(), file_metadata.key_value_metadata()).map(drop))
        .map_err(|reason| fault(format!("its columns cannot be read: {reason}")))?;
    let footer = match page_index_range(&footer) {
        Some(range) if range.end - range.start <= PAGE_INDEX_BYTES_MAX => {
            let index = file.range(range.clone()).await?;
            let index = || with_page_index(footer, size, range, index);
            catch_panic(index)
                .and_then(|index| index)
                .map_err(|e| fault(format!("its page index cannot be read: {e}")))?
        }
        _ => footer,
    };
    let footer = Arc::new(parsed(|| without_unreliable(footer)).map_err(unreadable)?);
    let entry = CachedFileMetadataEntry::new(object.clone(), Arc::new(CachedParquetMetaData::new(Arc::clone(&footer))));
    footers.put(&object.location, entry);
    Ok(footer)
}

/// Returns the footer of exactly this file, if it was read before.
pub(crate) fn kept(object: &ObjectMeta, footers: &FileMetadataCache) -> Option<Arc<ParquetMetaData>> {
    let cached = footers.get(&object.location)?;
    if !cached.is_valid_for(object) {
        return None;
    }
    Some(Arc::clone(cached.file_metadata.as_any().downcast_ref::<CachedParquetMetaData>()?.parquet_metadata()))
}

fn encrypted(object: &ObjectMeta) -> DataFusionError {
    FileFault::Unsupported {
        file: object.location.to_string(),
        reason: "it is encrypted, and encrypted Parquet is not read".to_owned(),
    }
    .into()
}

/// Runs a parser. Its error or panic becomes a text.
fn parsed<T>(parse: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    match catch_panic(parse) {
        Ok(parsed) => parsed.map_err(|error| error.to_string()),
        Err(panic) => Err(panic),
    }
}

enum FooterError {
    Encrypted,
    Other(String),
}

/// Finds the beginning of the footer from the file's last bytes.
fn footer_begin(tail: &[u8], size: u64) -> Result<u64, FooterError> {
    let (length, magic) = tail.split_at(TAIL_BYTES / 2);
    match magic {
        b"PAR1" => {}
        b"PARE" => return Err(FooterError::Encrypted),
        _ => return Err(FooterError::Other("it does not end as Parquet does".to_owned())),
    }
    let length = length.iter().rev().fold(0, |length, byte| length << 8 | u64::from(*byte));
    let begin = (size - TAIL_BYTES as u64).checked_sub(length);
    begin.ok_or_else(|| FooterError::Other(format!("its footer claims {length} bytes, the file has {size}")))
}

/// Returns the range from the first byte of the page index to its last.
fn page_index_range(footer: &ParquetMetaData) -> Option<Range<u64>> {
    let columns = footer.row_groups().iter().flat_map(|group| group.columns());
    let places = columns.flat_map(|column| {
        let index = (column.column_index_offset(), column.column_index_length());
        let offsets = (column.offset_index_offset(), column.offset_index_length());
        [index, offsets].into_iter().filter_map(|(offset, bytes)| {
            let (offset, bytes) = (u64::try_from(offset?).ok()?, u64::try_from(bytes?).ok()?);
            Some(offset..offset + bytes)
        })
    });
    places.reduce(|all, place| all.start.min(place.start)..all.end.max(place.end))
}

/// Adds the page index, whose bytes are `bytes`, to the footer.
fn with_page_index(
    footer: ParquetMetaData,
    size: u64,
    range: Range<u64>,
    bytes: Bytes,
) -> Result<ParquetMetaData, String> {
    for column in footer.row_groups().iter().flat_map(|group| group.columns()) {
        let index = (column.column_index_offset(), column.column_index_length());
        let offsets = (column.offset_index_offset(), column.offset_index_length());
        for (offset, length) in [index, offsets] {
            let (Some(offset), Some(length)) = (offset, length) else { continue };
            let place = (offset as u64 - range.start) as usize;
            let one = bytes.get(place..place + length as usize).ok_or("it is not where it should be")?;
            thrift::structure(one)?;
        }
    }
    let failed = |error: ParquetError| error.to_string();
    let mut decoder = ParquetMetaDataPushDecoder::try_new_with_metadata(size, footer)
        .map_err(failed)?
        .with_page_index_policy(PageIndexPolicy::Optional);
    decoder.push_range(range, bytes).map_err(failed)?;
    match decoder.try_decode().map_err(failed)? {
        DecodeResult::Data(footer) => Ok(footer),
        DecodeResult::NeedsData(_) | DecodeResult::Finished => Err("it is not where it should be".to_owned()),
    }
}
