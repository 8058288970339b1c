//! Columns of a file that declares none, from its first rows.

use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex};

use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::json::reader::{ValueIter, infer_json_schema_from_iterator};
use bytes::{Buf, Bytes};
use datafusion::common::{DataFusionError, Result, exec_datafusion_err};
use futures::TryStreamExt;
use tokio::runtime::Handle;

use super::fault::TextFault;
use super::options::Dialect;
use super::unpack::Parts;

/// Most MiB that a file's first rows may have.
const SAMPLE_MIB_MAX: u64 = 64;

/// Infers columns from the first `rows_max` rows of a text, which is JSON a line or CSV.
///
/// # Errors
/// [`TextFault`] with the file, and the errors of its parts.
pub(super) async fn columns(parts: Parts, file: String, dialect: Dialect, rows_max: usize) -> Result<Schema> {
    let failed = Arc::new(Mutex::new(None));
    let reader = PartReader {
        parts,
        part: Bytes::new(),
        bytes_left: SAMPLE_MIB_MAX << 20,
        runtime: Handle::current(),
        file: file.clone(),
        failed: Arc::clone(&failed),
    };
    // The inferring readers block, and read no more than they need.
    let inferring = tokio::task::spawn_blocking(move || match dialect {
        Dialect::Csv(csv) => {
            let inferred = csv.format(csv.has_header).infer_schema(reader, Some(rows_max));
            inferred.map(|(columns, _)| columns).map_err(|error| TextFault::Shape { file, reason: said(&error) })
        }
        Dialect::Json(_) => {
            let mut row = 0;
            let values = ValueIter::new(BufReader::new(reader), Some(rows_max)).inspect(|_| row += 1);
            let inferred = infer_json_schema_from_iterator(values);
            inferred.map_err(|error| TextFault::Row { file, row, reason: said(&error) })
        }
    });
    let inferred = inferred(inferring.await)?;
    match failed.lock().expect("no holder panics").take() {
        Some(error) => Err(error),
        None => Ok(inferred?),
    }
}

/// Passes a panic of the inferring thread on, as an error.
fn inferred<T>(joined: std::result::Result<T, tokio::task::JoinError>) -> Result<T> {
    joined.map_err(|error| exec_datafusion_err!("the columns cannot be inferred: {error}"))
}

/// Returns the words of a reader's error. A place inside of a line is its column alone.
fn said(error: &ArrowError) -> String {
    match error {
        ArrowError::CsvError(said) | ArrowError::JsonError(said) => said.replace(" at line 1 column ", " at column "),
        other => other.to_string(),
    }
}

/// Blocking reader of parts. It keeps their error, of which its callers would keep the words alone.
struct PartReader {
    parts: Parts,
    part: Bytes,
    bytes_left: u64,
    runtime: Handle,
    file: String,
    failed: Arc<Mutex<Option<DataFusionError>>>,
}

impl Read for PartReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            self.part = match self.runtime.block_on(self.parts.try_next()) {
                Ok(Some(part)) => part,
                Ok(None) => return Ok(0),
                Err(error) => return Err(self.fail(error)),
            };
            match self.bytes_left.checked_sub(self.part.len() as u64) {
                Some(left) => self.bytes_left = left,
                None => {
                    let long = TextFault::LongRows { file: self.file.clone(), mib: SAMPLE_MIB_MAX };
                    return Err(self.fail(long.into()));
                }
            }
        }
        let taken = into.len().min(self.part.len());
        self.part.copy_to_slice(&mut into[..taken]);
        Ok(taken)
    }
}

impl PartReader {
    fn fail(&self, error: DataFusionError) -> io::Error {
        let told = io::Error::other(error.to_string());
        *self.failed.lock().expect("no holder panics") = Some(error);
        told
    }
}
