//! Refusal of pages that claim more memory than their bytes can need, before they are decoded.
//!
//! The Parquet reader reserves the memory that a page's header claims: the decompressed size, the number of a dictionary's
//! values and, for strings in delta encodings, the number of lengths. A few damaged bytes there ask for gigabytes, and
//! memory that the machine does not have ends the process. The decoder reports every other fault of a page.

use bytes::Bytes;
use parquet::basic::{CompressionCodec, Type};
use parquet::column::page::Page;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::SerializedPageReader;
use std::sync::Arc;

use crate::thrift::{self, PageHeader};

/// Largest decompressed size that is believed without a check, in bytes: it does no harm.
const HARMLESS_BYTES: i64 = 16 << 20;

/// Thrift's numbers of the two encodings that begin with lengths.
const DELTA_LENGTH_BYTE_ARRAY: i64 = 6;
const DELTA_BYTE_ARRAY: i64 = 7;

/// Checks the pages in `bytes`, which begin at a page of `column`.
///
/// # Errors
/// A text with the claim of a page and its limit.
pub(crate) fn check(column: &ColumnChunkMetaData, bytes: &Bytes) -> Result<(), String> {
    let mut rest = &bytes[..];
    let mut has_lengths = false;
    while !rest.is_empty() {
        let Ok(header) = thrift::page_header(rest) else { break };
        check_sizes(column, &header)?;
        has_lengths |= [DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY].contains(&header.encoding) && !header.is_dictionary;
        let page = usize::try_from(header.compressed_bytes).ok().and_then(|page| page.checked_add(header.bytes));
        let Some(next) = page.and_then(|page| rest.get(page..)) else { break };
        rest = next;
    }
    if has_lengths && matches!(column.column_type(), Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY) {
        check_lengths(column, bytes)?;
    }
    Ok(())
}

fn check_sizes(column: &ColumnChunkMetaData, header: &PageHeader) -> Result<(), String> {
    let claimed = header.uncompressed_bytes;
    let packed = header.compressed_bytes.saturating_mul(ratio_max(column.compression_codec()));
    let most = packed.min(column.uncompressed_size());
    if claimed > HARMLESS_BYTES && claimed > most {
        return Err(format!("a page claims {claimed} bytes, where at most {most} can be"));
    }
    if header.is_dictionary && header.values > values_max(column, claimed) {
        return Err(format!("a dictionary claims {} values in {claimed} bytes", header.values));
    }
    Ok(())
}

/// Returns how often a codec can repeat a byte at best: the longest copy over the fewest bytes that ask for it.
fn ratio_max(codec: CompressionCodec) -> i64 {
    match codec {
        CompressionCodec::UNCOMPRESSED => 1,
        CompressionCodec::SNAPPY => 32,
        CompressionCodec::LZ4 | CompressionCodec::LZ4_RAW => 256,
        CompressionCodec::GZIP => 1_040,
        // Four bytes make a block of 128 KiB.
        CompressionCodec::ZSTD => 1 << 15,
        _ => i64::MAX,
    }
}

/// Returns the most values in a dictionary of `bytes`. A dictionary is always encoded plain.
fn values_max(column: &ColumnChunkMetaData, bytes: i64) -> i64 {
    let width = match column.column_type() {
        Type::BOOLEAN => return bytes.saturating_mul(8),
        Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 => 12,
        Type::FIXED_LEN_BYTE_ARRAY => i64::from(column.column_descr().type_length()).max(1),
    };
    bytes / width
}

/// Decompresses pages of strings in delta encodings, and compares the lengths that they claim with their values.
fn check_lengths(column: &ColumnChunkMetaData, bytes: &Bytes) -> Result<(), String> {
    let alone = ColumnChunkMetaData::builder(column.column_descr_ptr())
        .set_compression_codec(column.compression_codec())
        .set_num_values(column.num_values())
        .set_data_page_offset(0)
        .set_total_compressed_size(bytes.len() as i64)
        .build();
    let Ok(pages) = alone.and_then(|alone| SerializedPageReader::new(Arc::new(bytes.clone()), &alone, 0, None)) else {
        return Ok(());
    };
    let leaf = column.column_descr();
    let levels = Levels { repeats: leaf.max_rep_level() > 0, is_optional: leaf.max_def_level() > 0 };
    for page in pages {
        let Ok(page) = page else { return Ok(()) };
        let values = u64::from(page.num_values());
        for lengths in claimed_lengths(&page, &levels).into_iter().flatten() {
            if lengths > values {
                return Err(format!("a page of {values} values claims {lengths} lengths"));
            }
        }
    }
    Ok(())
}

/// Levels that stand before the values of a column's pages.
struct Levels {
    repeats: bool,
    is_optional: bool,
}

/// Returns the counts that a page in a delta encoding claims: its lengths, or its prefixes and its suffixes.
fn claimed_lengths(page: &Page, levels: &Levels) -> [Option<u64>; 2] {
    let encoding = page.encoding() as i64;
    let values = match page {
        Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
            buf.get((*def_levels_byte_len as usize).saturating_add(*rep_levels_byte_len as usize)..)
        }
        Page::DataPage { buf, .. } => {
            let rest = if levels.repeats { after_levels(buf) } else { Some(&buf[..]) };
            rest.and_then(|rest| if levels.is_optional { after_levels(rest) } else { Some(rest) })
        }
        Page::DictionaryPage { .. } => None,
    };
    let Some(values) = values else { return [None, None] };
    match encoding {
        DELTA_LENGTH_BYTE_ARRAY => [count(values), None],
        DELTA_BYTE_ARRAY => [count(values), after_run(values).and_then(count)],
        _ => [None, None],
    }
}

/// Skips the levels of a page of the first version: a length, then the levels.
fn after_levels(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.get(u32::from_le_bytes(*length) as usize..)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Returns the count of numbers that a delta-packed run claims.
fn count(mut bytes: &[u8]) -> Option<u64> {
    varint(&mut bytes)?;
    varint(&mut bytes)?;
    varint(&mut bytes)
}

/// Returns the bytes after a delta-packed run.
fn after_run(mut bytes: &[u8]) -> Option<&[u8]> {
    let block = varint(&mut bytes)?;
    let per_block = varint(&mut bytes)?;
    let mut left = varint(&mut bytes)?.saturating_sub(1);
    varint(&mut bytes)?;
    let in_mini_block = block.checked_div(per_block).filter(|values| *values > 0)?;
    while left > 0 {
        varint(&mut bytes)?;
        let widths = bytes.get(..usize::try_from(per_block).ok()?)?;
        bytes = &bytes[widths.len()..];
        for width in widths {
            if left == 0 {
                break;
            }
            let packed = in_mini_block.checked_mul(u64::from(*width))?.div_ceil(8);
            bytes = bytes.get(usize::try_from(packed).ok()?..)?;
            left = left.saturating_sub(in_mini_block);
        }
    }
    Some(bytes)
}
