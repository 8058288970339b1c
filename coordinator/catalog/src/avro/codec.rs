//! Inflation of an Avro block, within [`BLOCK_BYTES_MAX`].

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};

use crate::avro::AvroFault;

/// Most bytes of one inflated block.
pub(crate) const BLOCK_BYTES_MAX: usize = 256 << 20;
/// Most bytes that deflate makes of one.
const DEFLATE_RATIO_MAX: usize = 1_032;
/// Snappy makes at most 64 bytes of three.
const SNAPPY_RATIO_MAX: usize = 22;
/// Bytes that a writer's zstd makes of one at most. The format has no such bound.
const ZSTANDARD_RATIO_MAX: usize = 4_096;
/// Bytes that any block of zstd may inflate to.
pub(crate) const ZSTANDARD_BYTES: usize = 16 << 20;
const CHECKSUM_BYTES: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Null,
    Deflate,
    Zstandard,
    Snappy,
}

impl Codec {
    /// Finds a codec by its name in a file's header.
    ///
    /// # Errors
    /// Codec fault: Avro's other codecs, and names that it does not know.
    pub(crate) fn by_name(name: &str) -> Result<Self, AvroFault> {
        match name {
            "null" | "" => Ok(Codec::Null),
            "deflate" => Ok(Codec::Deflate),
            "zstandard" => Ok(Codec::Zstandard),
            "snappy" => Ok(Codec::Snappy),
            other => Err(AvroFault::Codec(other.to_owned())),
        }
    }

    /// Inflates a block. The result lies in `buffer`, or is the block itself.
    pub(crate) fn inflate<'a>(self, block: &'a [u8], buffer: &'a mut Vec<u8>) -> Result<&'a [u8], AvroFault> {
        buffer.clear();
        match self {
            Codec::Null => return Ok(block),
            Codec::Deflate => inflate_deflate(block, buffer)?,
            Codec::Zstandard => inflate_zstandard(block, buffer)?,
            Codec::Snappy => inflate_snappy(block, buffer)?,
        }
        Ok(buffer)
    }
}

fn too_large(bound: usize) -> AvroFault {
    AvroFault::Invalid(format!("it claims more than {bound} bytes"))
}

fn inflate_deflate(block: &[u8], buffer: &mut Vec<u8>) -> Result<(), AvroFault> {
    let bound = block.len().saturating_mul(DEFLATE_RATIO_MAX).min(BLOCK_BYTES_MAX);
    let mut inflater = Decompress::new(false);
    buffer.reserve(block.len().saturating_mul(4).clamp(4 << 10, BLOCK_BYTES_MAX));
    loop {
        let read = usize::try_from(inflater.total_in()).unwrap_or(usize::MAX);
        let rest = block.get(read..).unwrap_or_default();
        let status = inflater
            .decompress_vec(rest, buffer, FlushDecompress::Finish)
            .map_err(|error| AvroFault::Invalid(format!("it does not inflate: {error}")))?;
        match status {
            Status::StreamEnd => return Ok(()),
            _ if buffer.len() > bound => return Err(too_large(bound)),
            _ if buffer.len() == buffer.capacity() => buffer.reserve(buffer.len().clamp(4 << 10, bound + 1)),
            _ => return Err(AvroFault::Invalid("its deflate stream ends early".to_owned())),
        }
    }
}

fn inflate_zstandard(block: &[u8], buffer: &mut Vec<u8>) -> Result<(), AvroFault> {
    let failed = |error| AvroFault::Invalid(format!("it does not inflate: {error}"));
    let decoder = zstd::stream::read::Decoder::with_buffer(block).map_err(failed)?;
    let bound = block.len().saturating_mul(ZSTANDARD_RATIO_MAX).clamp(ZSTANDARD_BYTES, BLOCK_BYTES_MAX);
    let read = decoder.take(bound as u64 + 1).read_to_end(buffer).map_err(failed)?;
    if read > bound { Err(too_large(bound)) } else { Ok(()) }
}

/// Inflates a raw snappy block, which a checksum of the inflated bytes follows.
fn inflate_snappy(block: &[u8], buffer: &mut Vec<u8>) -> Result<(), AvroFault> {
    let failed = |error: snap::Error| AvroFault::Invalid(format!("it does not inflate: {error}"));
    let (data, checksum) = block.split_last_chunk::<CHECKSUM_BYTES>().ok_or(AvroFault::Ends)?;
    let bytes = snap::raw::decompress_len(data).map_err(failed)?;
    let bound = data.len().saturating_mul(SNAPPY_RATIO_MAX).min(BLOCK_BYTES_MAX);
    if bytes > bound {
        return Err(too_large(bound));
    }
    buffer.resize(bytes, 0);
    snap::raw::Decoder::new().decompress(data, buffer).map_err(failed)?;
    match crc32fast::hash(buffer) == u32::from_be_bytes(*checksum) {
        true => Ok(()),
        false => Err(AvroFault::Invalid("its checksum is wrong".to_owned())),
    }
}
