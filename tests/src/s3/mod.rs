//! An S3 server inside the test process, on a loopback port of its own.
//!
//! It speaks the protocol through `s3s` (signatures, XML, ranges) and keeps objects as immutable files of a temporary
//! folder, so that what a request sees is one object whole, with the ETag that belongs to its bytes, however many
//! writers there are. Every request is noted, so that a test can read off the server what a program asked for.
//!
//! ```text
//!  object_store ──HTTP──▶ axum ─▶ s3s ─▶ service (S3 verbs, notes) ─▶ objects (keys, ETags, conditions, files)
//! ```
//!
//! Kept of S3: strong consistency, `If-Match` and `If-None-Match` on reads and writes, ranges and suffix ranges,
//! multipart uploads with their 5 MiB minimum, listings in key order with ETags, pages and delimiters. Not kept: more
//! than one bucket, versions, ACLs, tags, checksums, and the time that a cloud takes.

mod objects;
mod requests;
mod service;

use std::io;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::Request as HttpRequest;
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::serve::ListenerExt;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub use requests::{Operation, Request};

use requests::RequestLog;
use service::Service;

/// The only bucket.
pub const BUCKET: &str = "gust-test";
/// The region that clients sign for; the server takes any.
pub const REGION: &str = "us-east-1";
/// The only pair of keys that the server knows.
pub const ACCESS_KEY_ID: &str = "gust-test-key";
pub const SECRET_ACCESS_KEY: &str = "gust-test-secret";

/// Two threads: the server must answer while the test's own runtime is busy, and shares the machine with it.
const THREADS: usize = 2;

/// A running server; dropping it stops it and removes its objects.
pub struct S3Server {
    endpoint: String,
    requests: Arc<RequestLog>,
    // Dropped before the folder whose files its tasks hold.
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
        let requests = Arc::new(RequestLog::default());
        let mut service = S3ServiceBuilder::new(Service::new(folder.path(), Arc::clone(&requests)));
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
        let service = service.build();

        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
        listener.set_nonblocking(true).context("cannot listen without blocking")?;
        let endpoint = format!("http://{}", listener.local_addr().context("the listener has no address")?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("s3-server")
            .enable_all()
            .build()
            .context("cannot start the server's threads")?;
        runtime.spawn(serve(listener, service));
        Ok(Self { endpoint, requests, runtime: Some(runtime), _folder: folder })
    }

    /// `http://127.0.0.1:PORT`; buckets are in the path.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The URL of an object, `s3://gust-test/KEY`.
    pub fn url(&self, key: &str) -> String {
        format!("s3://{BUCKET}/{key}")
    }

    /// A client of the bucket, as a program would make one.
    ///
    /// # Errors
    /// When the client's TLS or HTTP set-up fails.
    pub fn store(&self) -> anyhow::Result<Arc<dyn ObjectStore>> {
        let builder = AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_region(REGION)
            .with_bucket_name(BUCKET)
            .with_access_key_id(ACCESS_KEY_ID)
            .with_secret_access_key(SECRET_ACCESS_KEY);
        Ok(Arc::new(builder.build()?))
    }

    /// Every request since the start, or since the last [`Self::take_requests`], in the order of their answers.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.all()
    }

    /// Returns [`Self::requests`] and forgets them.
    pub fn take_requests(&self) -> Vec<Request> {
        self.requests.take()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not the waiting kind: the owner may be a task of another runtime.
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: std::net::TcpListener, service: S3Service) -> io::Result<()> {
    // Small answers would wait for the client's delayed acknowledgement, 40 ms a request.
    let listener = TcpListener::from_std(listener)?.tap_io(|stream| drop(stream.set_nodelay(true)));
    let answer = move |request: HttpRequest| {
        let service = service.clone();
        async move { call(&service, request).await }
    };
    axum::serve(listener, axum::Router::new().fallback(answer)).await
}

async fn call(service: &S3Service, request: HttpRequest) -> HttpResponse {
    match service.call(request.map(s3s::Body::http_body_unsync)).await {
        Ok(response) => response.map(axum::body::Body::new),
        Err(error) => (axum::http::StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}")).into_response(),
    }
}
