//! AWS Lambda Runtime API (2018-06-01) on loopback.
//!
//! ```text
//!  child ── GET  …/invocation/next ───────────► RuntimeReport::Ready, then waits for a PendingInvocation
//!  child ── POST …/invocation/{id}/response ──► RuntimeReport::Answered | RuntimeReport::TooLarge (413, as on AWS)
//!  child ── POST …/invocation/{id}/error ─────► RuntimeReport::Failed
//!  child ── POST …/init/error ────────────────► RuntimeReport::InitFailed
//! ```
//!
//! Each child has its own base URL with a random part that no other user of the machine can guess. The part identifies
//! the child. It also keeps other users from reading requests, which carry credentials.
//!
//! Non-goals: extensions, response streaming, SnapStart.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use gust_protocol::wire::PAYLOAD_BYTES_MAX;
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Bytes of an oversized body that are read and thrown away, so that the child sees the refusal instead of a broken
/// pipe.
const DISCARDED_BYTES_MAX: usize = 256 << 20;

/// Length at which reports of failures are cut.
const REPORT_BYTES_MAX: usize = 64 << 10;

/// Reports that a child can make before its mailbox is read.
const REPORTS_MAX: usize = 16;

/// Invocation for a child.
#[derive(Debug)]
pub(super) struct PendingInvocation {
    pub payload: Bytes,
    /// Time at which the platform stops the invocation.
    pub deadline: SystemTime,
}

/// Report of a child to the Runtime API.
#[derive(Debug)]
pub(super) enum RuntimeReport {
    /// The child waits for an invocation.
    Ready,
    Answered(Bytes),
    /// The child's answer was refused, because it was longer than [`PAYLOAD_BYTES_MAX`].
    TooLarge,
    /// The child could not answer, in its words.
    Failed(String),
    /// The child could not start, in its words.
    InitFailed(String),
}

/// Server of the API. Dropping it closes the port.
#[derive(Debug)]
pub(super) struct RuntimeApi {
    address: SocketAddr,
    endpoints: Endpoints,
    server: JoinHandle<()>,
}

/// Endpoints by the children's base paths.
type Endpoints = Arc<Mutex<HashMap<String, Arc<Endpoint>>>>;

/// The child's side.
#[derive(Debug)]
struct Endpoint {
    work: AsyncMutex<mpsc::Receiver<PendingInvocation>>,
    reports: mpsc::Sender<RuntimeReport>,
    /// Invocation that the child has taken and not answered yet.
    current: Mutex<Option<String>>,
}

/// The invoker's side of one child. Dropping it closes the child's base URL.
#[derive(Debug)]
pub(super) struct Mailbox {
    token: String,
    endpoints: Endpoints,
    work: mpsc::Sender<PendingInvocation>,
    reports: mpsc::Receiver<RuntimeReport>,
}

impl RuntimeApi {
    /// Listens on a free loopback port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let endpoints = Endpoints::default();
        let router = Router::new()
            .route("/{token}/2018-06-01/runtime/invocation/next", get(next))
            .route("/{token}/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/{token}/2018-06-01/runtime/invocation/{id}/error", post(error))
            .route("/{token}/2018-06-01/runtime/init/error", post(init_error))
            .with_state(Arc::clone(&endpoints));
        let listener = listener.tap_io(|stream| {
            // Without it small answers can wait for the other side's delayed acknowledgement; slower, not wrong.
            let _ = stream.set_nodelay(true);
        });
        let server = tokio::spawn(async move {
            // The server never returns, because it retries failed accepts inside.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, endpoints, server })
    }

    /// Opens a base URL for one child. Returns the value of `AWS_LAMBDA_RUNTIME_API`, and the mailbox behind it.
    pub fn open(&self) -> (String, Mailbox) {
        let token = Uuid::new_v4().simple().to_string();
        let (work_sender, work) = mpsc::channel(1);
        let (report_sender, reports) = mpsc::channel(REPORTS_MAX);
        let endpoint = Endpoint { work: AsyncMutex::new(work), reports: report_sender, current: Mutex::default() };
        self.endpoints.lock().expect("no holder panics").insert(token.clone(), Arc::new(endpoint));
        let url = format!("http://{}/{token}", self.address);
        (url, Mailbox { token, endpoints: Arc::clone(&self.endpoints), work: work_sender, reports })
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Mailbox {
    /// Hands one invocation to a child that is [`RuntimeReport::Ready`].
    pub async fn send(&self, work: PendingInvocation) {
        // The send fails only if the base URL is closed, and this mailbox keeps it open.
        let _ = self.work.send(work).await;
    }

    /// Returns the child's next report. Cancel safe.
    pub async fn next_report(&mut self) -> RuntimeReport {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }

    /// Forgets reports that came between two invocations.
    pub fn clear(&mut self) {
        while self.reports.try_recv().is_ok() {}
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.endpoints.lock().expect("no holder panics").remove(&self.token);
    }
}

impl Endpoint {
    fn find(endpoints: &Endpoints, token: &str) -> Result<Arc<Self>, StatusCode> {
        endpoints.lock().expect("no holder panics").get(token).cloned().ok_or(StatusCode::FORBIDDEN)
    }

    async fn report(&self, report: RuntimeReport) -> Result<(), StatusCode> {
        self.reports.send(report).await.map_err(|_| StatusCode::GONE)
    }

    /// Ends the invocation `id`. Returns false if the child is not at it.
    fn complete(&self, id: &str) -> bool {
        self.current.lock().expect("no holder panics").take_if(|current| current == id).is_some()
    }
}

async fn next(State(endpoints): State<Endpoints>, Path(token): Path<String>) -> Result<Response, StatusCode> {
    let endpoint = Endpoint::find(&endpoints, &token)?;
    endpoint.report(RuntimeReport::Ready).await?;
    let PendingInvocation { payload, deadline } = endpoint.work.lock().await.recv().await.ok_or(StatusCode::GONE)?;
    let id = Uuid::new_v4();
    let deadline_ms = deadline.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("lambda-runtime-aws-request-id", id.to_string()),
        ("lambda-runtime-deadline-ms", deadline_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:local:000000000000:function:gust".to_owned()),
        ("lambda-runtime-trace-id", format!("Root=1-{:08x}-{:.24};Sampled=0", deadline_ms / 1_000, id.simple())),
    ];
    *endpoint.current.lock().expect("no holder panics") = Some(id.to_string());
    Ok((headers, payload).into_response())
}

async fn response(
    State(endpoints): State<Endpoints>,
    Path((token, id)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, StatusCode> {
    let endpoint = Endpoint::find(&endpoints, &token)?;
    // The body is read first, because an answer that breaks off has ended nothing.
    let body = read(body, PAYLOAD_BYTES_MAX, DISCARDED_BYTES_MAX).await?;
    if !endpoint.complete(&id) {
        return Err(StatusCode::BAD_REQUEST);
    }
    match body {
        Read::Whole(answer) => endpoint.report(RuntimeReport::Answered(answer)).await.map(|()| StatusCode::ACCEPTED),
        Read::Cut(_) => endpoint.report(RuntimeReport::TooLarge).await.and(Err(StatusCode::PAYLOAD_TOO_LARGE)),
    }
}

async fn error(
    State(endpoints): State<Endpoints>,
    Path((token, id)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, StatusCode> {
    let endpoint = Endpoint::find(&endpoints, &token)?;
    let report = report(body).await?;
    if !endpoint.complete(&id) {
        return Err(StatusCode::BAD_REQUEST);
    }
    endpoint.report(RuntimeReport::Failed(report)).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn init_error(
    State(endpoints): State<Endpoints>,
    Path(token): Path<String>,
    body: Body,
) -> Result<StatusCode, StatusCode> {
    let endpoint = Endpoint::find(&endpoints, &token)?;
    let report = report(body).await?;
    endpoint.report(RuntimeReport::InitFailed(report)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Returns a failure in the child's words: `errorMessage` of its report, or the report as it is.
async fn report(body: Body) -> Result<String, StatusCode> {
    let (Read::Whole(bytes) | Read::Cut(bytes)) = read(body, REPORT_BYTES_MAX, REPORT_BYTES_MAX).await?;
    let parsed: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
    let message = parsed.as_ref().and_then(|report| report.get("errorMessage")?.as_str()).map(str::to_owned);
    Ok(message.unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned()))
}

enum Read {
    Whole(Bytes),
    /// The first bytes of a longer body.
    Cut(Bytes),
}

/// Keeps up to `bytes_max` of a body. Reads on to its end, but not beyond `discarded_bytes_max`.
async fn read(body: Body, bytes_max: usize, discarded_bytes_max: usize) -> Result<Read, StatusCode> {
    let mut kept = BytesMut::new();
    let mut bytes: usize = 0;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| StatusCode::BAD_REQUEST)?;
        bytes = bytes.saturating_add(chunk.len());
        let room = bytes_max - kept.len();
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if bytes > bytes_max && bytes > discarded_bytes_max {
            break;
        }
    }
    let kept = kept.freeze();
    Ok(if bytes > bytes_max { Read::Cut(kept) } else { Read::Whole(kept) })
}
