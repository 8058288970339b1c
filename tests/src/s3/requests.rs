//! What a server was asked, in the order in which it answered.

use std::mem;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use s3s::S3Result;

/// More than a measurement asks of one server: a bound on the log's memory, about 200 MB.
const REQUESTS_MAX: usize = 1_000_000;

/// A verb of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Get,
    Head,
    Put,
    List,
    Copy,
    Delete,
    /// One request for many keys; its key is empty.
    DeleteMany,
    CreateMultipart,
    UploadPart,
    CompleteMultipart,
    AbortMultipart,
}

/// One request that was properly signed and understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub operation: Operation,
    /// The object's key, or a listing's prefix.
    pub key: String,
    /// The object's bytes that travelled, in either direction; `0..0` where none did.
    pub bytes: Range<u64>,
    /// The HTTP status with which the server refused; `None` where it served.
    pub refused: Option<u16>,
}

#[derive(Debug, Default)]
pub(super) struct RequestLog {
    requests: Mutex<Vec<Request>>,
}

impl RequestLog {
    /// Notes a request by its answer, and hands the answer on.
    pub(super) fn note<T>(&self, operation: Operation, key: String, answer: S3Result<(Range<u64>, T)>) -> S3Result<T> {
        let (bytes, refused) = match &answer {
            Ok((bytes, _)) => (bytes.clone(), None),
            Err(error) => {
                let status = error.status_code().or_else(|| error.code().status_code());
                (0..0, Some(status.map_or(500, |status| status.as_u16())))
            }
        };
        let mut requests = self.lock();
        assert!(requests.len() < REQUESTS_MAX, "{REQUESTS_MAX} requests were noted: take them more often");
        requests.push(Request { operation, key, bytes, refused });
        answer.map(|(_, output)| output)
    }

    pub(super) fn all(&self) -> Vec<Request> {
        self.lock().clone()
    }

    pub(super) fn take(&self) -> Vec<Request> {
        mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
