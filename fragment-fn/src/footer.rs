//! Reading of Parquet footers. Footers enter in this one way, on functions and on the coordinator.
//!
//! ```text
//!  tail of the file ─► length ─► Thrift walked ─► parsed ─► fits the file? ─► page index ─► only reliable statistics ─► cache
//! ```
//!
//! A footer is read at most once an environment, in one request with everything that lies near it. Bytes that cannot be a
//! footer are a [`FileFault`] that names the file, even where the parser would take them or panic.

mod check;
mod shipped;

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

pub(crate) use shipped::ShippedFooter;
pub use shipped::{NeededColumns, project, read_shipped};

/// Size up to which a file is read whole with its footer, in bytes. 256 KiB take 3.3 ms of an S3 body at 75 MiB/s.
pub const WHOLE_FILE_BYTES_MAX: u64 = 256 << 10;

/// Bytes of a file's end that are read at least for a footer of unknown length.
const FOOTER_GUESS_BYTES_MIN: u64 = 32 << 10;

/// Bytes of a file for each byte of its end that is read. Footer and page index together are at most 1/293 of TPC-H's files
/// above 1 MB (`gust demo` and `lab` at SF 0.1, 1 and 10, November 2026).
const FILE_BYTES_PER_GUESSED_BYTE: u64 = 256;

/// Most bytes before a footer that are read with it, where it is longer than was guessed. The page index lies there.
const PAGE_INDEX_GUESS_BYTES_MAX: u64 = 1 << 20;

/// Widest spread of a page index in its file, in bytes. A wider index is not read: an index only saves reading.
const PAGE_INDEX_BYTES_MAX: u64 = 64 << 20;

/// Length of the footer's length and magic, the last bytes of the file.
const TAIL_BYTES: usize = 8;

/// Length of the magic at both ends and the footer's length.
const FILE_BYTES_MIN: u64 = 12;

/// Returns the bytes of a file's end that are read for a footer of unknown length: all of a small file.
///
/// A guess that is too short costs one more request. One that is too long costs its bytes: 300 files of 4 MiB send 75 MiB less
/// than with 256 KiB each.
pub fn footer_guess(size_bytes: u64) -> u64 {
    if size_bytes <= WHOLE_FILE_BYTES_MAX {
        return size_bytes;
    }
    (size_bytes / FILE_BYTES_PER_GUESSED_BYTE).clamp(FOOTER_GUESS_BYTES_MIN, WHOLE_FILE_BYTES_MAX)
}

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
    let known = footer_bytes.filter(|_| size > WHOLE_FILE_BYTES_MAX).map(|bytes| bytes as u64);
    let guess = known.unwrap_or_else(|| footer_guess(size)).max(TAIL_BYTES as u64);
    let mut end = FileEnd::read(file, size.saturating_sub(guess)).await?;
    let refused = |error| match error {
        FooterError::Encrypted => encrypted(object),
        FooterError::Other(reason) => fault(reason),
    };
    let begin = footer_begin(&end.bytes[end.bytes.len() - TAIL_BYTES..], size).map_err(refused)?;
    if begin < end.start {
        // A page index is about twice as long as its footer (TPC-H's lineitem at SF 10: 228 and 119 KB).
        let before = (2 * (size - begin)).min(PAGE_INDEX_GUESS_BYTES_MAX);
        end = FileEnd::read(file, begin.saturating_sub(before)).await?;
    }
    let metadata = end.part(file, begin..size - TAIL_BYTES as u64).await?;
    let footer = decoded(&metadata, size).map_err(refused)?;
    let footer = match page_index_range(&footer) {
        Some(range) if range.end - range.start <= PAGE_INDEX_BYTES_MAX => {
            let index = end.part(file, range.clone()).await?;
            let index = || with_page_index(footer, size, range, index);
            catch_panic(index)
                .and_then(|index| index)
                .map_err(|e| fault(format!("its page index cannot be read: {e}")))?
        }
        _ => footer,
    };
    let footer = parsed(|| without_unreliable(footer)).map_err(|reason| fault(unreadable(&reason)))?;
    let footer = Arc::new(footer);
    let entry = CachedFileMetadataEntry::new(object.clone(), Arc::new(CachedParquetMetaData::new(Arc::clone(&footer))));
    footers.put(&object.location, entry);
    Ok(footer)
}

/// Parses the bytes of a footer, and compares it with a file of `size` bytes. Later readers may rely on columns that can be
/// read.
fn decoded(metadata: &[u8], size: u64) -> Result<ParquetMetaData, FooterError> {
    match thrift::footer(metadata) {
        Ok(false) => {}
        Ok(true) => return Err(FooterError::Encrypted),
        Err(reason) => return Err(FooterError::Other(unreadable(reason))),
    }
    let footer = parsed(|| ParquetMetaDataReader::decode_metadata(metadata));
    let footer = footer.map_err(|reason| FooterError::Other(unreadable(&reason)))?;
    check(&footer, size).map_err(FooterError::Other)?;
    let told = footer.file_metadata();
    parsed(|| parquet_to_arrow_schema(told.schema_descr(), told.key_value_metadata()).map(drop))
        .map_err(|reason| FooterError::Other(format!("its columns cannot be read: {reason}")))?;
    Ok(footer)
}

fn unreadable(reason: &str) -> String {
    format!("its footer cannot be read: {reason}")
}

/// Bytes of a file's end, from the offset `start` on.
struct FileEnd {
    start: u64,
    bytes: Bytes,
}

impl FileEnd {
    async fn read(file: &PinnedFile, start: u64) -> Result<Self> {
        Ok(Self { start, bytes: file.range(start..file.object().size).await? })
    }

    /// Returns a part of the file. Only a part that begins before this end is asked for.
    async fn part(&self, file: &PinnedFile, range: Range<u64>) -> Result<Bytes> {
        match range.start.checked_sub(self.start) {
            Some(from) => Ok(self.bytes.slice(from as usize..(range.end - self.start) as usize)),
            None => Ok(file.range(range).await?),
        }
    }
}

/// Returns false for another version of an object. DataFusion's caches (55.2) compare size and time alone, and a store tells the time in
/// seconds.
pub fn is_same_version(kept: &ObjectMeta, object: &ObjectMeta) -> bool {
    match (&kept.e_tag, &object.e_tag) {
        (Some(kept), Some(own)) => kept == own,
        _ => true,
    }
}

/// Returns the footer of exactly this file, if it was read before.
pub(crate) fn kept(object: &ObjectMeta, footers: &FileMetadataCache) -> Option<Arc<ParquetMetaData>> {
    let cached = footers.get(&object.location)?;
    if !cached.is_valid_for(object) || !is_same_version(&cached.meta, object) {
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

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::execution::cache::default_cache::DefaultCache;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStoreExt, PutPayload};
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::metering::{Counters, CountingStore};

    #[test]
    fn a_guess_grows_with_its_file() {
        for (size, guess) in [(1_000, 1_000), (256 << 10, 256 << 10), ((256 << 10) + 1, 32 << 10)] {
            assert_eq!(footer_guess(size), guess, "{size} bytes");
        }
        for (size_mib, guess_kib) in [(1, 32), (8, 32), (16, 64), (64, 256), (1_000_000, 256)] {
            assert_eq!(footer_guess(size_mib << 20), guess_kib << 10, "{size_mib} MiB");
        }
    }

    /// Checks the requests for the footer of a file with this many columns of random numbers.
    async fn check(columns: usize, footer_bytes: Option<usize>, requests: u64) {
        let numbers = |column: usize| {
            let numbers =
                (0..4_000_i64).map(|row| (row + column as i64).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64));
            (format!("column_{column}"), Arc::new(Int64Array::from_iter_values(numbers)) as ArrayRef)
        };
        let rows = RecordBatch::try_from_iter((0..columns).map(numbers)).expect("columns");
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).expect("a writer");
        writer.write(&rows).expect("written");
        let bytes = writer.into_inner().expect("a file");
        let (store, counters) = (Arc::new(InMemory::new()), Arc::<Counters>::default());
        store.put(&Path::from("a"), PutPayload::from(bytes)).await.expect("put");
        let object = store.get(&Path::from("a")).await.expect("an object").meta;
        let file = PinnedFile::new(Arc::new(CountingStore::new(store, Arc::clone(&counters))), object);
        let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
        let footer = read_footer(&file, footer_bytes, &footers).await.expect("a footer");
        assert!(footer.column_index().is_some() && footer.offset_index().is_some(), "{columns} columns");
        assert_eq!(counters.requests().get, requests, "{columns} columns, {footer_bytes:?} bytes of footer");
    }

    #[tokio::test]
    async fn a_footer_takes_one_request_and_one_more_where_the_guess_is_too_short() {
        check(1, None, 1).await;
        check(20, None, 1).await;
        check(400, None, 2).await;
        check(400, Some(100), 2).await;
        check(400, Some(200_000), 1).await;
    }
}
