//! Requests to a server with their identities, in the order in which it answered.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::Extensions;
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
    pub bucket: String,
    /// Key of the object, or prefix of the listing.
    pub key: String,
    /// Access key that the request was signed with.
    pub identity: String,
    /// Range of the object's bytes that were to travel, in either direction; `0..0` where none were.
    pub bytes: Range<u64>,
    /// HTTP status with which the server refused, or [`GONE`]; `None` where it served.
    pub refused: Option<u16>,
    /// Time from the request's arrival to the head of its answer, since the server's start.
    pub at: Range<Duration>,
}

/// Stretch of an object that was served more than once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeated {
    pub key: String,
    pub bytes: Range<u64>,
    pub times: usize,
}

/// Arrival of a request at the server. It travels with the request, because its answer may be held up before the log sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrived(pub(super) Instant);

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

impl Arrived {
    /// Returns the arrival that travels with a request.
    pub(super) fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or_else(|| Self(Instant::now()))
    }
}

/// Returns the most requests of each identity that waited for their answers' heads at a time.
pub fn in_flight_max(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut changes: BTreeMap<&str, Vec<(Duration, isize)>> = BTreeMap::new();
    for Request { identity, at, .. } in requests {
        changes.entry(identity).or_default().extend([(at.start, 1), (at.end, -1)]);
    }
    let most = |mut changes: Vec<(Duration, isize)>| {
        // The end comes first of two changes at once.
        changes.sort_unstable();
        let mut in_flight = 0;
        let counts = changes.into_iter().map(|(_, change)| {
            in_flight += change;
            in_flight
        });
        counts.max().unwrap_or_default().max(1).unsigned_abs()
    };
    changes.into_iter().map(|(identity, changes)| (identity.to_owned(), most(changes))).collect()
}

/// Returns the stretches of objects that more than one of the requests was served, in the order of keys and bytes.
pub fn repeated(requests: &[Request]) -> Vec<Repeated> {
    // Changes of the number of requests that were served a byte, by the byte.
    let mut edges: BTreeMap<&str, BTreeMap<u64, isize>> = BTreeMap::new();
    let served = |request: &&Request| request.operation == Operation::Get && request.refused.is_none();
    for Request { key, bytes, .. } in requests.iter().filter(served) {
        let edges = edges.entry(key).or_default();
        *edges.entry(bytes.start).or_default() += 1;
        *edges.entry(bytes.end).or_default() -= 1;
    }
    let mut repeated = Vec::new();
    for (key, edges) in edges {
        let (mut from, mut times) = (0, 0_isize);
        for (at, change) in edges.into_iter().filter(|(_, change)| *change != 0) {
            if times > 1 {
                repeated.push(Repeated { key: key.to_owned(), bytes: from..at, times: times.unsigned_abs() });
            }
            (from, times) = (at, times + change);
        }
    }
    repeated
}

#[derive(Debug)]
pub(super) struct RequestLog {
    started: Instant,
    requests: Mutex<Vec<Request>>,
}

impl RequestLog {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), requests: Mutex::default() }
    }

    /// Returns the time of a request that is answered now.
    pub(super) fn since(&self, Arrived(arrived): Arrived) -> Range<Duration> {
        arrived.saturating_duration_since(self.started)..self.started.elapsed()
    }

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
        let RequestedKey { bucket, key, identity, arrived } = asked;
        self.push(Request { operation, bucket, key, identity, bytes, refused, at: self.since(arrived) });
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

/// Bucket and key of a request, the identity that asks for it, and its arrival.
pub(super) struct RequestedKey {
    bucket: String,
    key: String,
    identity: String,
    arrived: Arrived,
}

/// Returns the bucket that a request's path names.
pub(super) fn bucket_of(path: &str) -> &str {
    path.trim_start_matches('/').split('/').next().unwrap_or_default()
}

/// Returns bucket and key, the identity that asks for it, and the arrival of the request.
pub(super) fn asked<T>(key: &str, request: &S3Request<T>) -> RequestedKey {
    let identity = request.credentials.as_ref().map(|keys| keys.access_key.clone()).unwrap_or_default();
    let bucket = bucket_of(request.uri.path()).to_owned();
    RequestedKey { bucket, key: key.to_owned(), identity, arrived: Arrived::of(&request.extensions) }
}
