//! Values of parameters, as clients send them: rows, each of which is one run of the statement.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::server::PeekableFlightDataStream;
use datafusion::common::ScalarValue;
use futures::{StreamExt, TryStreamExt};
use gust_engine::error::QueryError;
use tonic::{Request, Status};

use super::status::{of_error, of_flight};

/// Most rows of parameters of one statement, and most bytes.
const ROWS_MAX: usize = 10_000;
const BYTES_MAX: usize = 16 << 20;

/// Longest time in which they arrive.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Describes parameters, $1 first.
pub(super) fn columns(types: &[DataType]) -> Schema {
    let fields = types.iter().enumerate();
    let fields = fields.map(|(index, data_type)| Field::new(format!("${}", index + 1), data_type.clone(), true));
    Schema::new(fields.collect::<Vec<_>>())
}

/// Reads all rows that a client sends; None if there is none.
pub(super) async fn read(request: Request<PeekableFlightDataStream>) -> Result<Option<RecordBatch>, Status> {
    let read = tokio::time::timeout(TIME_MAX, read_all(request)).await;
    read.unwrap_or_else(|_| Err(Status::deadline_exceeded("the parameters did not arrive in time")))
}

async fn read_all(request: Request<PeekableFlightDataStream>) -> Result<Option<RecordBatch>, Status> {
    let sent = request.into_inner().map_err(FlightError::from);
    let mut batches = FlightRecordBatchStream::new_from_flight_data(sent);
    let (mut rows, mut bytes, mut read) = (0, 0, Vec::new());
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(malformed)?;
        rows += batch.num_rows();
        if rows > ROWS_MAX {
            return Err(Status::invalid_argument(format!("more than {ROWS_MAX} rows of parameters")));
        }
        bytes += batch.get_array_memory_size();
        if bytes > BYTES_MAX {
            return Err(Status::invalid_argument(format!("more than {BYTES_MAX} bytes of parameters")));
        }
        read.push(batch);
    }
    let Some(first) = read.first() else { return Ok(None) };
    arrow::compute::concat_batches(&first.schema(), &read).map(Some).map_err(of_flight)
}

/// Makes the error of messages that are no rows.
fn malformed(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        error => Status::invalid_argument(format!("the parameters cannot be read: {error}")),
    }
}

/// Returns the values of a row: the first is that of `$1`.
pub(super) fn values(rows: &RecordBatch, row: usize) -> Result<Vec<ScalarValue>, Status> {
    let values = rows.columns().iter().map(|column| ScalarValue::try_from_array(column, row));
    values.collect::<Result<_, _>>().map_err(|error| of_error(&QueryError::from_engine(error)))
}

/// Returns the values of the only row; none if there are no parameters.
pub(super) fn only_values(rows: Option<&RecordBatch>) -> Result<Vec<ScalarValue>, Status> {
    match rows {
        None => Ok(Vec::new()),
        Some(rows) if rows.num_rows() == 1 => values(rows, 0),
        Some(rows) => {
            Err(Status::invalid_argument(format!("a query takes one row of parameters, and {} came", rows.num_rows())))
        }
    }
}
