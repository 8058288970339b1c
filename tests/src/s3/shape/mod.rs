//! The time and the troubles of a cloud, put around the server's answers.
//!
//! ```text
//!  request ─▶ question ─▶ latency ─▶ limits ─▶ faults ─▶ line (upload) ─▶ s3s ─▶ line (body, whole or cut) ─▶
//!             verb, key   quantiles  a prefix  seeded     one pipe for each identity
//! ```
//!
//! Data and rates are scaled by ONE factor, so that a laptop can serve many pipes for as long as a cloud would. Latencies
//! and request rates are not scaled: they are overheads, and their number does not shrink with the data. A request's latency
//! and fault are drawn from the seed, from the question that it asks, and from how often that was asked before. They are
//! the same in every run, in whatever order requests come.

mod body;
mod faults;
mod latency;
mod limits;
mod pipe;
mod question;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request as HttpRequest;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use s3s::service::S3Service;
use serde::Deserialize;
use tokio::time::Instant;

pub use faults::{Befallen, Faults, StorageFault};
pub use latency::Latency;
pub use limits::RequestLimits;
pub use pipe::{Bucket, Pipe};

use super::connection::Breaker;
use super::requests::{GONE, Operation, Request, RequestLog};
use body::{BodyEnd, shaped};
use limits::Limiter;
use question::RequestHead;

/// Behaviour of the server. An absent part costs nothing.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    pub seed: u64,
    /// Bytes that one byte here stands for. The pipes below are given in full size.
    pub scale: f64,
    /// Pipe of each identity.
    pub pipe: Option<Pipe>,
    pub latency: Option<Latency>,
    pub limits: Option<RequestLimits>,
    #[serde(default)]
    pub faults: Faults,
}

/// Shape in use.
pub(super) struct Shaper {
    shape: Shape,
    /// Requests that faults befall. None for all.
    befallen: Option<Befallen>,
    started: Instant,
    log: Arc<RequestLog>,
    state: Mutex<State>,
}

struct State {
    lines: BTreeMap<String, Arc<IdentityPipe>>,
    limiter: Option<Limiter>,
    /// Times that each question was asked, by its hash.
    asked: HashMap<u64, u64>,
    fired: BTreeMap<StorageFault, u64>,
}

/// Pipe of one identity, with the bytes that went through it.
struct IdentityPipe {
    bucket: Option<Mutex<Bucket>>,
    started: Instant,
    piece_bytes: u64,
    passed_bytes: Mutex<u64>,
}

/// Latency and fault of a request.
struct DrawnTrouble {
    latency: Duration,
    fault: Option<StorageFault>,
    /// Place where a body is cut, as a share of its length.
    cut: f64,
}

impl Shaper {
    pub(super) fn new(shape: Shape, befallen: Option<Befallen>, log: Arc<RequestLog>) -> Self {
        let state = State {
            lines: BTreeMap::new(),
            limiter: shape.limits.map(Limiter::new),
            asked: HashMap::new(),
            fired: BTreeMap::new(),
        };
        Self { shape, befallen, started: Instant::now(), log, state: Mutex::new(state) }
    }

    /// Returns how often each fault has befallen a request so far.
    pub(super) fn fired(&self) -> BTreeMap<StorageFault, u64> {
        self.lock().fired.clone()
    }

    /// Returns the bytes that went through the pipe of each identity, both ways.
    pub(super) fn passed_bytes(&self) -> BTreeMap<String, u64> {
        let state = self.lock();
        state.lines.iter().map(|(identity, line)| (identity.clone(), *lock(&line.passed_bytes))).collect()
    }

    pub(super) async fn answer(&self, service: &S3Service, request: HttpRequest, breaker: &Breaker) -> HttpResponse {
        let question = RequestHead::of(&request);
        let fate = self.fate(&question);
        let waiting = Waiting { shaper: self, question: &question };
        tokio::time::sleep(fate.latency).await;
        std::mem::forget(waiting);
        let fault = self.befalls(&question, &fate);
        match fault {
            Some(StorageFault::SlowDown) => return self.refuse(&question, StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
            Some(StorageFault::InternalError) => {
                return self.refuse(&question, StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
            }
            Some(StorageFault::Reset) => {
                breaker.break_off();
                return StatusCode::OK.into_response();
            }
            Some(StorageFault::ResetInBody | StorageFault::Truncated) | None => {}
        }
        let line = self.line(&question.identity);
        line.pass(question.body_bytes).await;
        let mut response = super::call(service, request).await;
        let bytes = response.body().size_hint().exact().or_else(|| content_length(&response)).unwrap_or_default();
        if bytes == 0 || question.operation == Operation::Head {
            return response;
        }
        let cut = (bytes as f64 * fate.cut) as u64;
        let (end, length) = match fault {
            Some(StorageFault::ResetInBody) => (BodyEnd::Breaks(cut, breaker.clone()), bytes),
            Some(StorageFault::Truncated) => (BodyEnd::After(cut), cut),
            _ => (BodyEnd::Whole, bytes),
        };
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        response.map(|body| shaped(body, line, end))
    }

    /// Draws a request's fate. It is the same for the same question, asked the same number of times before.
    fn fate(&self, question: &RequestHead) -> DrawnTrouble {
        let mut state = self.lock();
        let nth = state.asked.entry(question.hash).or_default();
        *nth += 1;
        let seed = self.shape.seed ^ question.hash ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut rng = StdRng::seed_from_u64(seed);
        let latency = self.shape.latency.as_ref().map_or(0.0, |latency| latency.seconds(rng.random()));
        let may_befall = self.befallen.as_ref().is_none_or(|befallen| befallen.has(&question.identity, &question.key));
        let fault = self.shape.faults.draw(&mut rng).filter(|_| may_befall);
        DrawnTrouble { latency: Duration::from_secs_f64(latency), fault, cut: rng.random() }
    }

    /// Returns the fault that befalls the request, and counts it.
    fn befalls(&self, question: &RequestHead, fate: &DrawnTrouble) -> Option<StorageFault> {
        let mut state = self.lock();
        let now = self.started.elapsed();
        let limiter = state.limiter.as_mut();
        let place = format!("{}/{}", question.bucket, question.key);
        let throttled = limiter.is_some_and(|limiter| !limiter.takes(now, question.operation, &place));
        let reads = question.operation == Operation::Get;
        let fault = match fate.fault {
            _ if throttled => Some(StorageFault::SlowDown),
            Some(StorageFault::ResetInBody | StorageFault::Truncated) if !reads => None,
            fault => fault,
        };
        if let Some(fault) = fault {
            *state.fired.entry(fault).or_default() += 1;
        }
        fault
    }

    fn note_refusal(&self, question: &RequestHead, status: u16) {
        let RequestHead { operation, bucket, key, identity, arrived, .. } = question;
        let (bucket, key, identity) = (bucket.clone(), key.clone(), identity.clone());
        let (refused, at) = (Some(status), self.log.since(*arrived));
        self.log.push(Request { operation: *operation, bucket, key, identity, bytes: 0..0, refused, at });
    }

    fn refuse(&self, question: &RequestHead, status: StatusCode, code: &str) -> HttpResponse {
        self.note_refusal(question, status.as_u16());
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>as shaped</Message></Error>"
        );
        (status, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
    }

    fn line(&self, identity: &str) -> Arc<IdentityPipe> {
        let mut state = self.lock();
        let new = || Arc::new(IdentityPipe::new(&self.shape, self.started));
        Arc::clone(state.lines.entry(identity.to_owned()).or_insert_with(new))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Request before its answer. It is dropped if its client goes away.
struct Waiting<'a> {
    shaper: &'a Shaper,
    question: &'a RequestHead,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shaper.note_refusal(self.question, GONE);
    }
}

impl IdentityPipe {
    fn new(shape: &Shape, started: Instant) -> Self {
        let pipe = shape.pipe.map(|pipe| pipe.scaled(shape.scale));
        // About fifty pieces pass a second: they are fine enough for streams to share the pipe, and coarse enough to be cheap.
        let piece_bytes = pipe.map_or(u64::MAX, |pipe| ((pipe.refill_bytes_per_second / 50.0) as u64).max(1024));
        let bucket = pipe.map(|pipe| Mutex::new(Bucket::new(pipe)));
        Self { bucket, started, piece_bytes, passed_bytes: Mutex::default() }
    }

    fn piece_bytes(&self) -> u64 {
        self.piece_bytes
    }

    /// Returns when `bytes` have passed.
    async fn pass(&self, bytes: u64) {
        *lock(&self.passed_bytes) += bytes;
        if let Some(bucket) = self.bucket.as_ref().filter(|_| bytes > 0) {
            let passed = lock(bucket).pass(self.started.elapsed(), bytes);
            tokio::time::sleep_until(self.started + passed).await;
        }
    }
}

fn content_length(response: &axum::http::Response<Body>) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
