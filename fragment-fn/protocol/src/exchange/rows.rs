//! Rows of bytes that were verified, decoded as they are asked for.
//!
//! ```text
//!  run of bytes ─► message │ message │ … ─► decoder ─► batches       a copy of each message, and the run is freed with the last of them
//!  run of bytes ─► message               ─► decoder ─► batches       the run itself, where one message has nearly all of it
//! ```
//!
//! Columns that are not compressed point into the bytes of their message, and an operator counts the whole buffer of each. So a message is a buffer, and not all bytes
//! together. An operator may keep one batch for long, and parts of one run cannot be freed. So what it counts and what it keeps are the same only if a message is copied out of
//! its run. Two such copies are there beside the run at most: the batch that goes up, and the one that is decoded ahead.
//!
//! Nothing is copied out of bytes that the caller keeps all the same, for that would free none of them.
//!
//! Checksums are the callers' work. Lengths that promise more than there is are errors all the same.

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::Schema;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::root_as_message;
use bytes::Bytes;

use super::ExchangeError;
use crate::FragmentId;
use crate::parts::schema_message;

/// End of a stream: a message without a length.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Part of a message's bytes that the rest of its run may have at most, for the message to stay where it is.
const REST_DIVISOR: usize = 8;

/// Rows of a verified result. One batch is decoded ahead.
#[derive(Debug)]
pub struct ResultRows {
    encoded: Bytes,
    /// Bytes of the run that its messages are copied out of. 0 where the caller keeps them.
    run_bytes: usize,
    /// Bytes behind the encoded ones that end the stream.
    end: Bytes,
    /// Rest of the message that is decoded.
    message: Buffer,
    decoder: StreamDecoder,
    next: Option<RecordBatch>,
}

impl ResultRows {
    pub(super) fn open(id: &FragmentId, bytes: Bytes, schema: &Schema) -> Result<Self, ExchangeError> {
        let run_bytes = bytes.len();
        let rows = Self::with_decoder(StreamDecoder::new(), bytes, run_bytes, Bytes::new())?;
        if rows.has_types_of(schema) { Ok(rows) } else { Err(ExchangeError::Schema { fragment: id.clone() }) }
    }

    /// Opens a stream whose bytes were verified. The caller keeps them for as long as there are rows.
    pub(crate) fn of_stream(bytes: Bytes) -> Result<Self, ExchangeError> {
        Self::with_decoder(StreamDecoder::new(), bytes, 0, Bytes::new())
    }

    /// Opens regions ([`crate::parts`]) of rows with this schema, whose bytes were verified.
    pub(crate) fn of_messages(schema: &Schema, bytes: Bytes) -> Result<Self, ExchangeError> {
        let mut decoder = StreamDecoder::new();
        decoder.decode(&mut Buffer::from(schema_message(schema)?))?;
        // The decoder takes a message without a body only when more bytes come: an end does.
        let run_bytes = bytes.len();
        Self::with_decoder(decoder, bytes, run_bytes, Bytes::from_static(&END))
    }

    fn with_decoder(
        decoder: StreamDecoder,
        encoded: Bytes,
        run_bytes: usize,
        end: Bytes,
    ) -> Result<Self, ExchangeError> {
        let mut rows = Self { encoded, run_bytes, end, message: Buffer::default(), decoder, next: None };
        rows.next = rows.decode()?;
        Ok(rows)
    }

    /// Returns true if the columns have the types of this schema's.
    pub(crate) fn has_types_of(&self, schema: &Schema) -> bool {
        self.decoder.schema().is_some_and(|found| {
            found.fields().len() == schema.fields().len()
                && found.fields().iter().zip(schema.fields()).all(|(f, s)| f.data_type() == s.data_type())
        })
    }

    fn decode(&mut self) -> Result<Option<RecordBatch>, ExchangeError> {
        loop {
            while !self.message.is_empty() {
                if let Some(batch) = self.decoder.decode(&mut self.message)? {
                    return Ok(Some(batch));
                }
            }
            if self.encoded.is_empty() {
                self.encoded = std::mem::take(&mut self.end);
            }
            if self.encoded.is_empty() {
                self.decoder.finish()?;
                return Ok(None);
            }
            let bytes = message_bytes(&self.encoded).unwrap_or_else(|| {
                // Bytes of an end would complete a message that is torn. The decoder says what is wrong with it.
                self.end.clear();
                self.encoded.len()
            });
            let message = self.encoded.split_to(bytes);
            let rest_bytes = self.run_bytes.saturating_sub(bytes);
            let stays = rest_bytes <= bytes / REST_DIVISOR;
            self.message = if stays { Buffer::from(message) } else { Buffer::from(&message[..]) };
        }
    }
}

/// Returns the length of the first message with its body. None where the bytes begin with no whole message.
fn message_bytes(encoded: &[u8]) -> Option<usize> {
    let (head_bytes, rest) = encoded.strip_prefix(&[0xff; 4])?.split_first_chunk::<4>()?;
    let head = rest.get(..usize::try_from(u32::from_le_bytes(*head_bytes)).ok()?)?;
    let body_bytes = usize::try_from(root_as_message(head).ok()?.bodyLength()).ok()?;
    let body_ends = head.len().checked_add(body_bytes)?;
    (body_ends <= rest.len()).then(|| encoded.len() - rest.len() + body_ends)
}

impl Iterator for ResultRows {
    type Item = Result<RecordBatch, ExchangeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let current = self.next.take()?;
        match self.decode() {
            Ok(next) => self.next = next,
            Err(error) => return Some(Err(error)),
        }
        Some(Ok(current))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, UInt32Array};
    use arrow::datatypes::{DataType, Field};

    use super::*;
    use crate::exchange::encode_stream;
    use crate::parts::encode_messages;

    fn id() -> FragmentId {
        FragmentId { query: "q".to_owned(), stage: 0, index: 0 }
    }

    fn schema() -> Schema {
        Schema::new(vec![Field::new("n", DataType::UInt32, false)])
    }

    /// Makes batches of numbers that no compression makes fewer bytes, so that columns point into the encoded ones.
    fn batches() -> Vec<RecordBatch> {
        let schema = Arc::new(schema());
        let batch = |from: u32| {
            let noise = (from..from + 1_000).map(|number| crc32fast::hash(&number.to_le_bytes()));
            let noise = UInt32Array::from_iter_values(noise);
            RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(noise)]).expect("a column")
        };
        (0..8).map(|number| batch(number * 1_000)).collect()
    }

    fn encoded() -> Bytes {
        encode_messages(&schema(), &batches()).expect("plain").into()
    }

    fn decoded(bytes: Bytes) -> Result<Vec<RecordBatch>, ExchangeError> {
        ResultRows::of_messages(&schema(), bytes)?.collect()
    }

    #[test]
    fn a_batch_counts_only_the_bytes_of_its_own_message() {
        let encoded = encoded();
        let read = decoded(encoded.clone()).expect("messages");
        assert_eq!(read, batches());
        let counted: Vec<usize> = read.iter().map(RecordBatch::get_array_memory_size).collect();
        assert!(counted.iter().all(|bytes| *bytes < encoded.len() / 4), "{counted:?} of {}", encoded.len());
    }

    /// Counts the batches whose column points into these bytes.
    fn within(memory: &Bytes, read: &[RecordBatch]) -> usize {
        let points_into = |batch: &&RecordBatch| {
            let numbers = batch.column(0).to_data().buffers()[0].as_ptr();
            memory.as_ptr_range().contains(&numbers)
        };
        read.iter().filter(points_into).count()
    }

    #[test]
    fn a_batch_that_is_kept_keeps_no_others() {
        let encoded = encoded();
        let read = decoded(encoded.clone()).expect("messages");
        assert_eq!((within(&encoded, &read), encoded.is_unique()), (0, true));
        let (_, stream) = encode_stream(&schema(), &batches()).expect("plain");
        let rows = ResultRows::open(&id(), stream.clone(), &schema()).expect("a stream");
        let read = rows.collect::<Result<Vec<_>, _>>().expect("messages");
        assert_eq!((within(&stream, &read), read), (0, batches()));
    }

    #[test]
    fn rows_that_are_not_compressed_are_not_copied_where_that_frees_nothing() {
        // One message is all of its run.
        let one = &batches()[..1];
        let encoded = Bytes::from(encode_messages(&schema(), one).expect("plain"));
        assert_eq!(within(&encoded, &decoded(encoded.clone()).expect("a message")), 1);
        // A stream has a schema and an end, too.
        let (_, stream) = encode_stream(&schema(), one).expect("plain");
        let rows = ResultRows::open(&id(), stream.clone(), &schema()).expect("a stream");
        assert_eq!(within(&stream, &rows.collect::<Result<Vec<_>, _>>().expect("a message")), 1);
        // The caller keeps the stream.
        let (_, stream) = encode_stream(&schema(), &batches()).expect("plain");
        let rows = ResultRows::of_stream(stream.clone()).expect("a stream");
        assert_eq!(within(&stream, &rows.collect::<Result<Vec<_>, _>>().expect("messages")), 8);
    }

    #[test]
    fn bytes_that_end_within_a_message_are_an_error() {
        let encoded = encoded();
        let first = message_bytes(&encoded).expect("a message");
        let second = first + message_bytes(&encoded[first..]).expect("another message");
        for (end, batches_read) in [(0, 0), (first, 1), (second, 2)] {
            assert_eq!(decoded(encoded.slice(..end)).expect("whole messages"), batches()[..batches_read]);
        }
        for end in (1..first).chain(first + 1..second) {
            decoded(encoded.slice(..end)).expect_err("a message that is torn");
        }
    }

    #[test]
    fn lengths_that_make_no_sense_are_errors() {
        let encoded = encoded();
        let first = message_bytes(&encoded).expect("a message");
        let head_bytes = u32::from_le_bytes(encoded[4..8].try_into().expect("four bytes")) as usize;
        let body_bytes = (first - 8 - head_bytes) as i64;
        // The head has the length of its body once.
        let body_length: Vec<usize> =
            (8..head_bytes).step_by(8).filter(|at| encoded[*at..at + 8] == body_bytes.to_le_bytes()).collect();
        let [at] = body_length.as_slice() else { panic!("{body_length:?}") };
        let rest = encoded.len() - first;
        for length in [-1, i64::MIN, i64::MAX, body_bytes + rest as i64 + 1] {
            let mut changed = encoded.to_vec();
            changed[*at..at + 8].copy_from_slice(&length.to_le_bytes());
            decoded(changed.into()).expect_err("a body of another length");
        }
        for length in [0, 1, encoded.len() as u32, u32::MAX] {
            let mut changed = encoded.to_vec();
            changed[4..8].copy_from_slice(&length.to_le_bytes());
            decoded(changed.into()).expect_err("a head of another length");
        }
    }
}
