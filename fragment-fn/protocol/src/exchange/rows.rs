//! Rows of bytes that were verified, decoded as they are asked for.
//!
//! ```text
//!  bytes ─► message │ message │ … ─► decoder ─► batches       a buffer of its own for each message, of the same memory
//! ```
//!
//! Columns that are not compressed point into the bytes, and an operator counts the whole buffer of each. So a message is a buffer, and not all bytes
//! together. Checksums are the callers' work. Lengths that promise more than there is are errors all the same.

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

/// Rows of a verified result. One batch is decoded ahead.
#[derive(Debug)]
pub struct ResultRows {
    encoded: Bytes,
    /// Bytes behind the encoded ones that end the stream.
    end: Bytes,
    /// Rest of the message that is decoded.
    message: Buffer,
    decoder: StreamDecoder,
    next: Option<RecordBatch>,
}

impl ResultRows {
    pub(super) fn open(id: &FragmentId, bytes: Bytes, schema: &Schema) -> Result<Self, ExchangeError> {
        let rows = Self::of_stream(bytes)?;
        if rows.has_types_of(schema) { Ok(rows) } else { Err(ExchangeError::Schema { fragment: id.clone() }) }
    }

    /// Opens a stream whose bytes were verified.
    pub(crate) fn of_stream(bytes: Bytes) -> Result<Self, ExchangeError> {
        Self::with_decoder(StreamDecoder::new(), bytes, Bytes::new())
    }

    /// Opens regions ([`crate::parts`]) of rows with this schema, whose bytes were verified.
    pub(crate) fn of_messages(schema: &Schema, bytes: Bytes) -> Result<Self, ExchangeError> {
        let mut decoder = StreamDecoder::new();
        decoder.decode(&mut Buffer::from(schema_message(schema)?))?;
        // The decoder takes a message without a body only when more bytes come: an end does.
        Self::with_decoder(decoder, bytes, Bytes::from_static(&END))
    }

    fn with_decoder(decoder: StreamDecoder, encoded: Bytes, end: Bytes) -> Result<Self, ExchangeError> {
        let mut rows = Self { encoded, end, message: Buffer::default(), decoder, next: None };
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
            self.message = Buffer::from(self.encoded.split_to(bytes));
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
    use crate::parts::encode_messages;

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

    #[test]
    fn rows_that_are_not_compressed_are_not_copied() {
        let encoded = encoded();
        let memory = encoded.as_ptr_range();
        for batch in decoded(encoded.clone()).expect("messages") {
            let numbers = batch.column(0).to_data().buffers()[0].as_ptr();
            assert!(memory.contains(&numbers), "{numbers:?} outside {memory:?}");
        }
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
