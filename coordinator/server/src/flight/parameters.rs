//! Values of parameters, as clients send them: rows, each of which is one run of the statement.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::sql::server::PeekableFlightDataStream;
use arrow_ipc::root_as_message;
use datafusion::common::ScalarValue;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use gust_engine::error::QueryError;
use tonic::{Request, Status};

use super::status::{of_error, of_flight};

/// Most rows of parameters of one statement, and most bytes.
const ROWS_MAX: usize = 10_000;
const BYTES_MAX: usize = 16 << 20;

/// Longest time in which they arrive.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Rows of values, and the bytes in which they came.
#[derive(Debug, Clone)]
pub(super) struct Values {
    pub(super) rows: RecordBatch,
    pub(super) bytes: usize,
}

/// Describes parameters, $1 first.
pub(super) fn columns(types: &[DataType]) -> Schema {
    let fields = types.iter().enumerate();
    let fields = fields.map(|(index, data_type)| Field::new(format!("${}", index + 1), data_type.clone(), true));
    Schema::new(fields.collect::<Vec<_>>())
}

/// Reads all rows that a client sends; None if there is none.
pub(super) async fn read(request: Request<PeekableFlightDataStream>) -> Result<Option<Values>, Status> {
    let read = tokio::time::timeout(TIME_MAX, read_all(request.into_inner())).await;
    read.unwrap_or_else(|_| Err(Status::deadline_exceeded("the parameters did not arrive in time")))
}

async fn read_all(mut sent: impl Stream<Item = Result<FlightData, Status>> + Unpin) -> Result<Option<Values>, Status> {
    let (mut bytes, mut messages) = (0, Vec::new());
    while let Some(message) = sent.next().await.transpose()? {
        bytes += message.data_header.len() + message.data_body.len();
        if bytes > BYTES_MAX {
            return Err(Status::invalid_argument(format!("more than {BYTES_MAX} bytes of parameters")));
        }
        check(&message)?;
        messages.push(Ok(message));
    }
    let decoding = async {
        let batches = FlightRecordBatchStream::new_from_flight_data(stream::iter(messages));
        batches.try_collect::<Vec<_>>().await
    };
    // Some decoders take a message at its word, and panic where it lies.
    let decoded = AssertUnwindSafe(decoding).catch_unwind().await;
    let read = decoded.map_err(|_| malformed("they are no rows"))?.map_err(malformed)?;
    let count: usize = read.iter().map(RecordBatch::num_rows).sum();
    if count > ROWS_MAX {
        return Err(Status::invalid_argument(format!("more than {ROWS_MAX} rows of parameters")));
    }
    let Some(first) = read.first() else { return Ok(None) };
    let rows = arrow::compute::concat_batches(&first.schema(), &read).map_err(of_flight)?;
    Ok(Some(Values { rows, bytes }))
}

/// Refuses a message that could grow when it is decoded.
fn check(message: &FlightData) -> Result<(), Status> {
    if message.data_header.is_empty() {
        return Ok(());
    }
    let header = root_as_message(&message.data_header).map_err(malformed)?;
    let batch = match header.header_as_dictionary_batch() {
        Some(dictionary) if dictionary.isDelta() => return Err(malformed("a dictionary that grows is not taken")),
        Some(dictionary) => dictionary.data(),
        None => header.header_as_record_batch(),
    };
    let Some(batch) = batch else { return Ok(()) };
    if batch.compression().is_some() {
        return Err(malformed("compressed messages are not taken"));
    }
    let most = ROWS_MAX as i64;
    let lengths = batch.nodes().into_iter().flatten().map(|node| node.length()).chain([batch.length()]);
    // Items of lists are more than rows. NULLs alone have no bytes.
    match lengths.min().unwrap_or_default() < 0 || batch.length() > most {
        true => Err(Status::invalid_argument(format!("more than {ROWS_MAX} rows of parameters"))),
        false => Ok(()),
    }
}

/// Makes the error of messages that are no rows.
fn malformed(error: impl Display) -> Status {
    Status::invalid_argument(format!("the parameters cannot be read: {error}"))
}

/// Returns the values of a row: the first is that of `$1`.
pub(super) fn values(rows: &RecordBatch, row: usize) -> Result<Vec<ScalarValue>, Status> {
    let values = rows.columns().iter().map(|column| ScalarValue::try_from_array(column, row));
    values.collect::<Result<_, _>>().map_err(|error| of_error(&QueryError::from_engine(error)))
}

/// Returns the values of the only row; none if there are no parameters.
pub(super) fn only_values(given: Option<&Values>) -> Result<Vec<ScalarValue>, Status> {
    match given {
        None => Ok(Vec::new()),
        Some(Values { rows, .. }) if rows.num_rows() == 1 => values(rows, 0),
        Some(Values { rows, .. }) => {
            Err(Status::invalid_argument(format!("a query takes one row of parameters, and {} came", rows.num_rows())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow_flight::utils::batches_to_flight_data;
    use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
    use arrow_ipc::{CompressionType, MetadataVersion};
    use tonic::Code;

    use super::*;

    fn batch(texts: &[&str]) -> RecordBatch {
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
        RecordBatch::try_from_iter([("a", texts), ("b", numbers)]).expect("rows")
    }

    fn messages(rows: &RecordBatch) -> Vec<FlightData> {
        batches_to_flight_data(&rows.schema(), vec![rows.clone()]).expect("messages")
    }

    async fn read(sent: Vec<FlightData>) -> Result<Option<Values>, Status> {
        read_all(stream::iter(sent.into_iter().map(Ok))).await
    }

    #[tokio::test]
    async fn values_are_counted_as_they_come() {
        let rows = batch(&["x", "yz"]);
        let read_back = read(messages(&rows)).await.expect("rows").expect("some");
        assert_eq!(read_back.rows, rows);
        assert!(read_back.bytes < 2_000, "{}", read_back.bytes);
        assert_eq!(values(&read_back.rows, 1).expect("values"), [ScalarValue::from("yz"), ScalarValue::from(1_i64)]);
        // One text of 9 MB fits, and two do not.
        let long = "x".repeat(9 << 20);
        assert!(read(messages(&batch(&[&long]))).await.is_ok());
        let refused = read(messages(&batch(&[&long, &long]))).await.expect_err("too long");
        assert!(refused.message().contains("bytes of parameters"), "{refused}");
        let many = vec!["x"; ROWS_MAX + 1];
        let refused = read(messages(&batch(&many))).await.expect_err("too many");
        assert!(refused.message().contains("rows of parameters"), "{refused}");
    }

    /// Each would abort the process, panic, or take gigabytes.
    #[tokio::test]
    async fn messages_that_lie_are_refused() {
        let rows = batch(&["some text that is longer than its compressed form, form, form, form, form"]);
        let options = IpcWriteOptions::try_new(8, false, MetadataVersion::V5).expect("options");
        let options = options.try_with_compression(Some(CompressionType::LZ4_FRAME)).expect("LZ4");
        let (_, packed) = IpcDataGenerator::default()
            .encode(&rows, &mut DictionaryTracker::new(false), &options, &mut IpcWriteContext::default())
            .expect("a message");
        let mut packed: FlightData = packed.into();
        let mut body = packed.data_body.to_vec();
        // The length of what is unpacked stands before it.
        body[..8].copy_from_slice(&(1_i64 << 46).to_le_bytes());
        packed.data_body = body.into();
        let [schema, plain] = <[FlightData; 2]>::try_from(messages(&rows)).expect("two messages");
        let cut = FlightData { data_body: plain.data_body.slice(..8), ..plain.clone() };
        let none = FlightData { data_header: vec![0xff; 64].into(), ..plain.clone() };
        for (name, message, words) in [
            ("compressed", packed, "compressed messages"),
            ("a body that is too short", cut, "cannot be read"),
            ("a header that is none", none, "cannot be read"),
        ] {
            let refused = read(vec![schema.clone(), message]).await.expect_err(name);
            assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused}");
            assert!(refused.message().contains(words), "{name}: {refused}");
        }
    }
}
