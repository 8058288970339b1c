//! An S3 server inside the test process, on a loopback port of its own.
//!
//! It speaks the protocol through `s3s` (signatures, XML, ranges). It keeps objects as immutable files of a temporary
//! folder, so a request sees one object whole, with the ETag that belongs to its bytes, however many
//! writers there are. It notes every request with the identity that sent it, so a test can count a program's requests.
//! A [`Shape`] gives it the time and the troubles of a cloud.
//!
//! ```text
//!  object_store ──HTTP──▶ axum ─▶ shape ─▶ s3s ─▶ service (S3 verbs, notes) ─▶ objects (keys, ETags, conditions, files)
//! ```
//!
//! It keeps S3's strong consistency, `If-Match` and `If-None-Match` on reads and writes, ranges and suffix ranges,
//! multipart uploads with their 5 MiB minimum, and listings in key order with ETags, pages and delimiters. It does not have
//! more than one bucket, versions, ACLs, tags or checksums.

mod connection;
pub mod identity;
mod objects;
mod requests;
mod service;
pub mod shape;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use anyhow::Context;
use axum::extract::{ConnectInfo, Request as HttpRequest};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response as HttpResponse};
use gust_engine::config::{S3Config, Secret};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub use identity::Lent;
pub use requests::{Account, GONE, Operation, Repeated, Request, accounts, in_flight_max, repeated};
pub use shape::{Shape, StorageFault};

use connection::{Breaker, Connections};
use identity::{Identities, LentOnly};
use requests::{Arrived, RequestLog};
pub use service::Conditions;
use service::{CurrentConditions, Service};
use shape::{Befallen, Shaper};

/// The first bucket, which most tests use alone.
pub const BUCKET: &str = "gust-test";
/// All buckets: that one, and others for an exchange of several.
pub const BUCKETS: [&str; 3] = [BUCKET, "gust-test-2", "gust-test-3"];
/// Region that clients sign for; the server takes any.
pub const REGION: &str = "us-east-1";
/// Keys of a client without an identity of its own.
pub const ACCESS_KEY_ID: &str = "gust-test-key";
pub const SECRET_ACCESS_KEY: &str = "gust-test-secret";

/// Bytes of a refusal before the server quotes the request in it.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Threads of the server. It must answer while the test's own runtime is busy, and it shares the machine with that runtime.
const THREADS: usize = 2;
/// Name of these threads, by which their CPU time is told from that of others.
pub const THREAD_NAME: &str = "s3-server";

/// Shape at this moment; None is a server without one.
type CurrentShape = Arc<RwLock<Option<Arc<Shaper>>>>;
/// Number of requests whose answers have not begun.
type InFlight = Arc<AtomicUsize>;

/// Running server. Dropping it stops it and removes its objects.
pub struct S3Server {
    endpoint: String,
    requests: Arc<RequestLog>,
    shape: CurrentShape,
    in_flight: InFlight,
    lent: Lent,
    conditions: CurrentConditions,
    // It is dropped before the folder, whose files its tasks hold.
    runtime: Option<Runtime>,
    _folder: TempDir,
}

impl S3Server {
    /// Starts a server with an empty bucket.
    ///
    /// # Errors
    /// When no port, no thread or no temporary folder can be had.
    pub fn start() -> anyhow::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("gust-s3-").tempdir().context("cannot make a folder for objects")?;
        let requests = Arc::new(RequestLog::new());
        let conditions = CurrentConditions::default();
        let service = Service::new(folder.path(), Arc::clone(&requests), Arc::clone(&conditions));
        let mut service = S3ServiceBuilder::new(service);
        service.set_auth(Identities);
        let lent = Lent::default();
        service.set_access(LentOnly(lent.clone()));
        let service = service.build();

        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
        listener.set_nonblocking(true).context("cannot listen without blocking")?;
        let endpoint = format!("http://{}", listener.local_addr().context("the listener has no address")?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name(THREAD_NAME)
            .enable_all()
            .build()
            .context("cannot start the server's threads")?;
        let (shape, in_flight) = (CurrentShape::default(), InFlight::default());
        runtime.spawn(serve(listener, service, Arc::clone(&shape), Arc::clone(&in_flight)));
        Ok(Self { endpoint, requests, shape, in_flight, lent, conditions, runtime: Some(runtime), _folder: folder })
    }

    /// Sets the shape of later requests, with full buckets, or none. Requests that have begun keep theirs.
    pub fn set_shape(&self, shape: Option<Shape>) {
        let shaper = shape.map(|shape| Arc::new(Shaper::new(shape, None, Arc::clone(&self.requests))));
        *self.shape.write().unwrap_or_else(PoisonError::into_inner) = shaper;
    }

    /// Sets the shape of later requests, whose faults befall some only.
    pub fn set_shape_for(&self, befallen: Befallen, shape: Shape) {
        let shaper = Shaper::new(shape, Some(befallen), Arc::clone(&self.requests));
        *self.shape.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(shaper));
    }

    /// Treats the conditions of later writes in this way.
    pub fn set_conditions(&self, conditions: Conditions) {
        *self.conditions.write().unwrap_or_else(PoisonError::into_inner) = conditions;
    }

    /// Returns how often each fault of the present shape befell a request.
    pub fn fired(&self) -> BTreeMap<StorageFault, u64> {
        current(&self.shape).map(|shaper| shaper.fired()).unwrap_or_default()
    }

    /// Returns the bytes that went through each identity's pipe under the present shape, both ways. They are fewer than those
    /// asked for where a body was cut or its reader went away.
    pub fn passed_bytes(&self) -> BTreeMap<String, u64> {
        current(&self.shape).map(|shaper| shaper.passed_bytes()).unwrap_or_default()
    }

    /// Returns the list of keys that are lent for some objects, for some time.
    pub fn lent(&self) -> &Lent {
        &self.lent
    }

    /// Returns `http://127.0.0.1:PORT`. Buckets are in the path.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the URL of an object, `s3://gust-test/KEY`.
    pub fn url(&self, key: &str) -> String {
        format!("s3://{BUCKET}/{key}")
    }

    /// Returns the URL of a key in the first so many buckets: an exchange that is spread over them.
    pub fn spread_url(&self, buckets: usize, key: &str) -> String {
        format!("s3://{}/{key}", BUCKETS[..buckets].join(","))
    }

    /// Returns the settings by which an engine's stores reach it.
    pub fn config(&self) -> S3Config {
        S3Config {
            endpoint: Some(self.endpoint.clone()),
            region: Some(REGION.to_owned()),
            allow_http: true,
            path_style: true,
            access_key_id: Some(ACCESS_KEY_ID.to_owned()),
            secret_access_key: Some(Secret::new(SECRET_ACCESS_KEY)),
            ..S3Config::default()
        }
    }

    /// Returns a client of the first bucket, as a program would make one.
    ///
    /// # Errors
    /// When the client's TLS or HTTP set-up fails.
    pub fn store(&self) -> anyhow::Result<Arc<dyn ObjectStore>> {
        self.store_of(BUCKET)
    }

    /// Returns a client of a bucket.
    ///
    /// # Errors
    /// Those of [`Self::store`].
    pub fn store_of(&self, bucket: &str) -> anyhow::Result<Arc<dyn ObjectStore>> {
        let builder = AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_region(REGION)
            .with_bucket_name(bucket)
            .with_access_key_id(ACCESS_KEY_ID)
            .with_secret_access_key(SECRET_ACCESS_KEY);
        Ok(Arc::new(builder.build()?))
    }

    /// Returns every request since the start, or since the last [`Self::take_requests`], in the order of their answers.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.all()
    }

    /// Returns the number of requests whose answers have not begun. Only when it is 0 are all requests so far noted.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns [`Self::requests`] and forgets them.
    pub fn take_requests(&self) -> Vec<Request> {
        self.requests.take()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // This does not wait, because the owner may be a task of another runtime.
            runtime.shutdown_background();
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    service: S3Service,
    shape: CurrentShape,
    in_flight: InFlight,
) -> io::Result<()> {
    let listener = Connections(TcpListener::from_std(listener)?);
    let answer = move |ConnectInfo(breaker): ConnectInfo<Breaker>, mut request: HttpRequest| {
        request.extensions_mut().insert(Arrived(Instant::now()));
        let (service, shaper, begun) = (service.clone(), current(&shape), Begun::new(&in_flight));
        async move {
            let _begun = begun;
            match shaper {
                Some(shaper) => shaper.answer(&service, request, &breaker).await,
                None => call(&service, request).await,
            }
        }
    };
    let router = axum::Router::new().fallback(answer);
    axum::serve(listener, router.into_make_service_with_connect_info::<Breaker>()).await
}

/// Request that has not been answered. It is dropped also where its client goes away.
struct Begun(InFlight);

impl Begun {
    fn new(in_flight: &InFlight) -> Self {
        in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(in_flight))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn current(shape: &CurrentShape) -> Option<Arc<Shaper>> {
    shape.read().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn call(service: &S3Service, request: HttpRequest) -> HttpResponse {
    let token = request.headers().get("x-amz-security-token").cloned();
    let response = match service.call(request.map(s3s::Body::http_body_unsync)).await {
        Ok(response) => response.map(axum::body::Body::new),
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}")).into_response(),
    };
    match token.as_ref().and_then(|token| token.to_str().ok()) {
        Some(token) if [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN].contains(&response.status()) => {
            quoting(response, token).await
        }
        _ => response,
    }
}

/// Quotes the session token in a refusal. S3 does so where the token has ended, and in the canonical request where the
/// signature is wrong.
async fn quoting(response: HttpResponse, token: &str) -> HttpResponse {
    let (mut parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let quoted =
        format!("<Token-0>{token}</Token-0><CanonicalRequest>x-amz-security-token:{token}</CanonicalRequest></Error>");
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    HttpResponse::from_parts(parts, String::from_utf8_lossy(&body).replace("</Error>", &quoted).into())
}
