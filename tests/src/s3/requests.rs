//! Requests to a server with their identities, in the order in which it answered.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use s3s::{S3Request, S3Result};

/// Bound on the log's length. No measurement sends so many requests to one server; they take about 250 MB of memory.
const REQUESTS_MAX: usize = 1_000_000;

/// Status of a request whose client went away before the server, shaped, could answer.
pub const GONE: u16 = 499;

/// Verb of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// Request that was properly signed and understood, or that a shaped server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub operation: Operation,
    /// Key of the object, or prefix of the listing.
    pub key: String,
    /// Access key that the request was signed with.
    pub identity: String,
    /// Range of the object's bytes that were to travel, in either direction; `0..0` where none were.
    pub bytes: Range<u64>,
    /// HTTP status with which the server refused, or [`GONE`]; `None` where it served.
    pub refused: Option<u16>,
}

/// Requests of one client, summed up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    pub requests: BTreeMap<Operation, u64>,
    /// Refused requests, by their status. They are counted in `requests`, too.
    pub refused: BTreeMap<u16, u64>,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

/// Sums up requests by identity.
pub fn accounts(requests: &[Request]) -> BTreeMap<String, Account> {
    let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
    for Request { operation, identity, bytes, refused, .. } in requests {
        let account = accounts.entry(identity.clone()).or_default();
        *account.requests.entry(*operation).or_default() += 1;
        if let Some(status) = refused {
            *account.refused.entry(*status).or_default() += 1;
        }
        let side = if *operation == Operation::Get { &mut account.bytes_read } else { &mut account.bytes_written };
        *side += bytes.end - bytes.start;
    }
    accounts
}

#[derive(Debug, Default)]
pub(super) struct RequestLog {
    requests: Mutex<Vec<Request>>,
}

impl RequestLog {
    /// Notes a request by its answer, and returns the answer.
    pub(super) fn note<T>(
        &self,
        operation: Operation,
        asked: RequestedKey,
        answer: S3Result<(Range<u64>, T)>,
    ) -> S3Result<T> {
        let (bytes, refused) = match &answer {
            Ok((bytes, _)) => (bytes.clone(), None),
            Err(error) => {
                let status = error.status_code().or_else(|| error.code().status_code());
                (0..0, Some(status.map_or(500, |status| status.as_u16())))
            }
        };
        self.push(Request { operation, key: asked.key, identity: asked.identity, bytes, refused });
        answer.map(|(_, output)| output)
    }

    pub(super) fn push(&self, request: Request) {
        let mut requests = self.lock();
        assert!(requests.len() < REQUESTS_MAX, "{REQUESTS_MAX} requests were noted: take them more often");
        requests.push(request);
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

/// Key of a request, and the identity that asks for it.
pub(super) struct RequestedKey {
    key: String,
    identity: String,
}

/// Returns the key, and the identity that asks for it.
pub(super) fn asked<T>(key: &str, request: &S3Request<T>) -> RequestedKey {
    let identity = request.credentials.as_ref().map(|keys| keys.access_key.clone()).unwrap_or_default();
    RequestedKey { key: key.to_owned(), identity }
}
