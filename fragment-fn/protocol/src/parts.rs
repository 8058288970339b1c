//! Rows of a producer, by partition: the exchange between functions.
//!
//! ```text
//!  producer: rows ─► hash or range of the key ─► region 0 │ region 1 │ … │ region P-1      one object, or the response itself
//!  consumer: one lane reads ──────────────────────────────┘──────────┘                  a run of regions, one ranged GET a producer
//! ```
//!
//! A region is dictionary batches and record batches, each an encapsulated Arrow IPC message. It has no schema and no end, so that regions can
//! follow one another in one reader, also those of several producers. Neighbouring regions have a checksum together, which is made of theirs.
//! A region without rows has no bytes.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::exchange::{COMPRESSION, ExchangeError, compact};
use crate::{AccessId, Base64, StreamSummary};

/// Most partitions of an exchange.
pub const PARTITIONS_MAX: usize = 4_096;

/// Summaries of a producer's regions, in the order of partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Regions(pub Vec<StreamSummary>);

/// Regions on the wire.
#[derive(Clone, PartialEq, Message)]
struct PackedRegions {
    #[prost(uint64, repeated, tag = "1")]
    bytes: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    rows: Vec<u64>,
    #[prost(fixed32, repeated, tag = "3")]
    crc32: Vec<u32>,
}

impl Regions {
    pub fn encode(&self) -> Base64 {
        let packed = PackedRegions {
            bytes: self.0.iter().map(|region| region.bytes).collect(),
            rows: self.0.iter().map(|region| region.rows).collect(),
            crc32: self.0.iter().map(|region| region.crc32).collect(),
        };
        Base64(packed.encode_to_vec().into())
    }

    /// # Errors
    /// A phrase, where the bytes are not those of [`Self::encode`].
    pub fn decode(encoded: &Base64) -> Result<Self, String> {
        let PackedRegions { bytes, rows, crc32 } =
            PackedRegions::decode(&*encoded.0).map_err(|error| format!("regions cannot be decoded: {error}"))?;
        if bytes.len() != rows.len() || bytes.len() != crc32.len() || bytes.len() > PARTITIONS_MAX {
            return Err(format!("regions of {} lengths, {} rows and {} sums", bytes.len(), rows.len(), crc32.len()));
        }
        let regions = bytes.into_iter().zip(rows).zip(crc32);
        Ok(Self(regions.map(|((bytes, rows), crc32)| StreamSummary { bytes, rows, crc32 }).collect()))
    }

    /// Returns the offset of a run of regions, and the summary of all of its bytes.
    pub fn run(&self, partitions: Range<usize>) -> (u64, StreamSummary) {
        let start = self.0.iter().take(partitions.start).map(|region| region.bytes).sum();
        (start, self.summary(partitions))
    }

    /// Returns the summary of all bytes of a run of regions.
    pub fn summary(&self, partitions: Range<usize>) -> StreamSummary {
        let run = self.0.iter().take(partitions.end).skip(partitions.start);
        run.fold(StreamSummary { bytes: 0, rows: 0, crc32: 0 }, |run, region| run.then(*region))
    }

    /// Returns the summary of all regions.
    pub fn whole(&self) -> StreamSummary {
        self.run(0..self.0.len()).1
    }
}

impl StreamSummary {
    /// Returns the summary of these bytes with others behind them.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        let mut crc32 = crc32fast::Hasher::new_with_initial_len(self.crc32, self.bytes);
        crc32.combine(&crc32fast::Hasher::new_with_initial_len(next.crc32, next.bytes));
        Self { bytes: self.bytes + next.bytes, rows: self.rows + next.rows, crc32: crc32.finalize() }
    }
}

/// Rows of one leaf of a fragment's plan, which producers have left in the exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsInput {
    pub access: AccessId,
    pub prefix: String,
    /// [`LaneSlices`] of each lane, encoded. A lane is one partition of the plan.
    pub lanes: Vec<Base64>,
}

/// Bytes that one lane reads, in their order.
#[derive(Clone, PartialEq, Message)]
pub struct LaneSlices {
    #[prost(message, repeated, tag = "1")]
    pub slices: Vec<Slice>,
}

/// Run of regions of one producer.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Slice {
    #[prost(uint32, tag = "1")]
    pub stage: u32,
    #[prost(uint32, tag = "2")]
    pub index: u32,
    #[prost(uint32, tag = "3")]
    pub attempt: u32,
    /// Offset of the run in the producer's object.
    #[prost(uint64, tag = "4")]
    pub start: u64,
    #[prost(uint64, tag = "5")]
    pub bytes: u64,
    #[prost(uint64, tag = "6")]
    pub rows: u64,
    #[prost(fixed32, tag = "7")]
    pub crc32: u32,
    /// The bytes themselves, where the producer sent them with its response.
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub inline: Option<Bytes>,
}

impl LaneSlices {
    pub fn encoded(&self) -> Base64 {
        Base64(self.encode_to_vec().into())
    }

    /// # Errors
    /// A phrase, where the bytes are no slices, or a slice is not as long as it says.
    pub fn decoded(encoded: &Base64) -> Result<Self, String> {
        let lane = Self::decode(encoded.0.clone()).map_err(|error| format!("slices cannot be decoded: {error}"))?;
        let torn = |slice: &&Slice| {
            slice.start.checked_add(slice.bytes).is_none()
                || slice.inline.as_ref().is_some_and(|inline| !slice.holds(inline))
        };
        match lane.slices.iter().find(torn) {
            Some(slice) => Err(format!("a slice of {} bytes is not what was promised", slice.bytes)),
            None => Ok(lane),
        }
    }
}

impl Slice {
    /// Returns true if these are the slice's bytes.
    pub fn holds(&self, bytes: &Bytes) -> bool {
        bytes.len() as u64 == self.bytes && crc32fast::hash(bytes) == self.crc32
    }
}

/// Encodes batches as a part of a region.
///
/// # Errors
/// [`ExchangeError::Arrow`] for types that Arrow IPC does not know, and for batches of other types than the schema's.
pub fn encode_messages(schema: &Schema, batches: &[RecordBatch]) -> Result<Vec<u8>, ExchangeError> {
    let options = IpcWriteOptions::default().try_with_compression(COMPRESSION)?;
    let mut encoder = StreamWriter::try_new_with_options(Vec::new(), schema, options)?;
    // The schema has been written by now.
    encoder.get_mut().clear();
    for batch in batches {
        encoder.write(&compact(batch)?)?;
    }
    Ok(std::mem::take(encoder.get_mut()))
}

/// Encodes the message that [`encode_messages`] leaves out, for a reader.
pub(crate) fn schema_message(schema: &Schema) -> Result<Vec<u8>, ExchangeError> {
    let mut encoder = StreamWriter::try_new(Vec::new(), schema)?;
    Ok(std::mem::take(encoder.get_mut()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, DictionaryArray, Int32Array, Int64Array, StringViewArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::Int32Type;

    use super::*;
    use crate::exchange::ResultRows;

    /// Makes rows whose dictionary differs from call to call.
    fn rows(from: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(from), None, Some(from + 2)]));
        let texts: ArrayRef = Arc::new(StringViewArray::from(vec!["one", "a text of more than twelve bytes", ""]));
        let words = [format!("w{from}"), format!("x{from}")];
        let words: DictionaryArray<Int32Type> = [0, 1, 0].iter().map(|at| words[*at].as_str()).collect();
        RecordBatch::try_from_iter([("n", numbers), ("t", texts), ("d", Arc::new(words) as _)]).expect("equal lengths")
    }

    fn summary(bytes: &[u8], rows: u64) -> StreamSummary {
        StreamSummary { bytes: bytes.len() as u64, rows, crc32: crc32fast::hash(bytes) }
    }

    /// Encodes three partitions, the second of which is empty.
    fn object() -> (Vec<u8>, Regions) {
        let schema = rows(0).schema();
        let regions = [&[rows(0), rows(10)][..], &[], &[rows(20)]]
            .map(|batches| encode_messages(&schema, batches).expect("plain"));
        let index = regions.iter().zip([6, 0, 3]).map(|(bytes, rows)| summary(bytes, rows)).collect();
        (regions.concat(), Regions(index))
    }

    fn decoded(bytes: &[u8]) -> RecordBatch {
        let schema = rows(0).schema();
        let rows = ResultRows::of_messages(&schema, Bytes::copy_from_slice(bytes)).expect("messages");
        let batches = rows.collect::<Result<Vec<_>, _>>().expect("batches");
        concat_batches(&schema, &batches).expect("one schema")
    }

    #[test]
    fn any_run_of_regions_is_read_with_one_checksum() {
        let (object, regions) = object();
        assert_eq!(regions.0[1], StreamSummary { bytes: 0, rows: 0, crc32: 0 });
        for (run, numbers) in [
            (0..1, vec![Some(0), None, Some(2), Some(10), None, Some(12)]),
            (1..2, vec![]),
            (1..3, vec![Some(20), None, Some(22)]),
            (0..3, vec![Some(0), None, Some(2), Some(10), None, Some(12), Some(20), None, Some(22)]),
        ] {
            let (start, part) = regions.run(run.clone());
            let bytes = &object[start as usize..(start + part.bytes) as usize];
            assert_eq!(part, summary(bytes, part.rows), "{run:?}");
            let rows = decoded(bytes);
            assert_eq!(rows.num_rows() as u64, part.rows);
            let found: &Int64Array = rows.column(0).as_primitive();
            assert_eq!(found.iter().collect::<Vec<_>>(), numbers, "{run:?}");
        }
        assert_eq!(regions.whole(), summary(&object, 9));
    }

    #[test]
    fn regions_of_several_producers_follow_one_another() {
        let (object, regions) = object();
        let last = regions.run(2..3).0 as usize;
        // The words of the second dictionary take the place of the first one's.
        let both = decoded(&[&object[last..], &object[..last]].concat());
        let words = arrow::compute::cast(both.column(2), &arrow::datatypes::DataType::Utf8).expect("text");
        let words: Vec<_> = words.as_string::<i32>().iter().flatten().collect();
        assert_eq!(words, ["w20", "x20", "w20", "w0", "x0", "w0", "w10", "x10", "w10"]);
    }

    #[test]
    fn the_bytes_of_an_object_are_those_of_the_golden_file() {
        let schema = Schema::new(vec![arrow::datatypes::Field::new("n", arrow::datatypes::DataType::Int32, true)]);
        let batch = |values: Vec<Option<i32>>| {
            RecordBatch::try_new(Arc::new(schema.clone()), vec![Arc::new(Int32Array::from(values))])
                .expect("one column")
        };
        let regions = [vec![batch(vec![Some(1), None])], vec![], vec![batch(vec![Some(3)])]];
        let bytes = regions.map(|batches| encode_messages(&schema, &batches).expect("plain"));
        let golden = include_bytes!("../testdata/parts.regions");
        assert_eq!(bytes.concat(), golden, "raise PROTOCOL_VERSION, and write the file anew");
        let index = Regions(bytes.iter().zip([2, 0, 1]).map(|(bytes, rows)| summary(bytes, rows)).collect());
        assert_eq!(Regions::decode(&index.encode()), Ok(index));
    }

    #[test]
    fn slices_and_regions_that_make_no_sense_are_refused() {
        let slice = |start, bytes, inline: Option<&'static [u8]>| Slice {
            stage: 1,
            index: 2,
            attempt: 3,
            start,
            bytes,
            rows: 1,
            crc32: crc32fast::hash(b"rows"),
            inline: inline.map(Bytes::from_static),
        };
        let check = |slice: Slice, holds: bool| {
            let lane = LaneSlices { slices: vec![slice] };
            assert_eq!(LaneSlices::decoded(&lane.encoded()).is_ok(), holds, "{lane:?}");
        };
        check(slice(7, 4, None), true);
        check(slice(7, 4, Some(b"rows")), true);
        check(slice(7, 4, Some(b"rowz")), false);
        check(slice(7, 5, Some(b"rows")), false);
        check(slice(u64::MAX, 4, None), false);
        assert!(LaneSlices::decoded(&Base64(Bytes::from_static(b"\xff"))).is_err());
        let uneven = PackedRegions { bytes: vec![1, 2], rows: vec![1], crc32: vec![3, 4] };
        assert!(Regions::decode(&Base64(uneven.encode_to_vec().into())).is_err());
    }
}
