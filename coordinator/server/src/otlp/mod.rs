//! Traces of statements for an OpenTelemetry collector: OTLP over HTTP, in protobuf.
//!
//! ```text
//!  a statement ends ─► room? ─► queue ─► spans of many statements ─► POST /v1/traces
//!                        └► dropped and counted
//! ```
//!
//! No statement waits for the collector. Spans are drawn from the events after the statement's end, in the exporter's task.
//!
//! Non-goals: metrics and logs by OTLP, gRPC, and sampling: a client that does not sample its trace gets no spans.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use gust_engine::error::QueryError;
use gust_engine::history::StatementEnd;
use gust_engine::report::Report;
use gust_engine::session::EndedStatement;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response, StatusCode, Url, redirect};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::metrics::TraceCounts;

mod parent;
mod spans;

pub(crate) use parent::trace_parent;

/// Path below the configured URL.
const PATH: &str = "/v1/traces";

/// Attempts of all statements that wait for the exporter, and those that a statement counts as beside its own.
const ROOM: usize = 1 << 16;
const STATEMENT_WEIGHT: usize = 16;

/// Pause in which statements come together, and spans from which on they are sent.
const BATCH_PAUSE: Duration = Duration::from_millis(500);
const BATCH_SPANS: usize = 2_000;

/// Longest time of one request, most tries of one that may pass, and the pause between them.
const SEND_TIME_MAX: Duration = Duration::from_secs(5);
const TRIES_MAX: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Longest time of sending what is left at the server's end.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Most bytes of the collector's answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Collector that takes traces.
#[derive(Debug, Clone)]
pub(crate) struct Collector {
    url: Url,
    client: Client,
    /// Name of this process among the collector's others.
    instance: Uuid,
}

/// Reason why spans were not taken.
struct Unsent {
    why: String,
    /// True if another try may do better.
    may_pass: bool,
}

/// Statement whose trace is to be sent.
struct Told {
    statement: EndedStatement,
    facts: Vec<KeyValue>,
    began_ns: u64,
    _room: OwnedSemaphorePermit,
}

/// Queue of traces, and its exporter.
#[derive(Debug)]
pub(crate) struct Traces {
    collector: Collector,
    counts: TraceCounts,
    room: Arc<Semaphore>,
    queue: mpsc::UnboundedSender<Told>,
    closing: CancellationToken,
    exporter: Mutex<Option<JoinHandle<()>>>,
}

/// Task that sends traces, one request after the other.
struct Exporter {
    collector: Collector,
    counts: TraceCounts,
    queue: mpsc::UnboundedReceiver<Told>,
    closing: CancellationToken,
    /// True if the last request failed, so that the log has it once.
    is_failing: bool,
}

impl Collector {
    /// Reads the URL. Nothing is sent yet.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if it cannot be used.
    pub(crate) fn new(text: &str) -> Result<Self, QueryError> {
        let refused = |why: String| {
            QueryError::setup(format!("server.otlp: {why}")).with_hint("write `http://HOST:4318`, or with https")
        };
        let mut url: Url = text.parse().map_err(|error| refused(format!("it is no URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused("expected http:// or https://".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("a URL with a user is not taken".to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refused("a URL with a query is not taken".to_owned()));
        }
        let path = format!("{}{PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let host = url.host_str().unwrap_or_default();
        let is_here = host == "localhost"
            || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        // A proxy is not this machine.
        let client = if is_here { Client::builder().no_proxy() } else { Client::builder() };
        let client = client
            .timeout(SEND_TIME_MAX)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("gust/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self { url, client, instance: Uuid::new_v4() })
    }

    /// Makes the message of some spans.
    fn message(&self, spans: Vec<Span>) -> Bytes {
        let text = |key: &str, text: String| {
            let value = Some(AnyValue { value: Some(Any::StringValue(text)) });
            KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
        };
        let attributes = vec![
            text("service.name", "gust".to_owned()),
            text("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            text("service.instance.id", self.instance.to_string()),
        ];
        let scope = InstrumentationScope { name: "gust".to_owned(), ..InstrumentationScope::default() };
        let of_scope = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
        let of_process = ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![of_scope],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest { resource_spans: vec![of_process] }.encode_to_vec().into()
    }

    /// Sends a message.
    async fn send(&self, message: Bytes) -> Result<(), Unsent> {
        let unreached = |error: reqwest::Error| Unsent {
            why: gust_engine::error::with_causes(&error.without_url()),
            may_pass: true,
        };
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/x-protobuf");
        let response = request.body(message).send().await.map_err(unreached)?;
        let status = response.status();
        if !status.is_success() {
            let may_pass = matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT
            );
            return Err(Unsent { why: format!("it answers {status}"), may_pass });
        }
        match rejected(response).await.map_err(unreached)? {
            0 => Ok(()),
            count => Err(Unsent { why: format!("it rejects {count} spans"), may_pass: false }),
        }
    }
}

/// Returns the number of spans that an answer rejects. One that is no message, or too long, rejects none.
async fn rejected(mut response: Response) -> Result<i64, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Ok(0);
        }
        body.extend_from_slice(&chunk);
    }
    let answer = ExportTraceServiceResponse::decode(body.as_slice()).unwrap_or_default();
    Ok(answer.partial_success.map_or(0, |partly| partly.rejected_spans))
}

impl Traces {
    /// Starts the exporter.
    pub(crate) fn start(collector: Collector, counts: TraceCounts) -> Self {
        let (queue, told) = mpsc::unbounded_channel();
        let closing = CancellationToken::new();
        let exporter = Exporter {
            collector: collector.clone(),
            counts: counts.clone(),
            queue: told,
            closing: closing.clone(),
            is_failing: false,
        };
        let exporter = Mutex::new(Some(tokio::spawn(exporter.run())));
        Self { collector, counts, room: Arc::new(Semaphore::new(ROOM)), queue, closing, exporter }
    }

    /// Puts the trace of a statement into the queue. Without room it is dropped, and counted.
    pub(crate) fn tell(&self, statement: EndedStatement, report: &Report, ended: &StatementEnd) {
        if statement.trace_parent.as_ref().is_some_and(|parent| !parent.is_sampled) {
            return;
        }
        let weight = report.attempts.saturating_add(STATEMENT_WEIGHT).min(ROOM);
        let room = Arc::clone(&self.room).try_acquire_many_owned(u32::try_from(weight).unwrap_or(u32::MAX));
        let Ok(room) = room else {
            self.counts.dropped.inc();
            return;
        };
        let now_ns = u64::try_from(Utc::now().timestamp_nanos_opt().unwrap_or_default()).unwrap_or_default();
        let elapsed_ns = u64::try_from(statement.events.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (facts, began_ns) = (spans::facts(report, ended), now_ns.saturating_sub(elapsed_ns));
        if self.queue.send(Told { statement, facts, began_ns, _room: room }).is_err() {
            self.counts.dropped.inc();
        }
    }

    /// Sends a message without spans.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if the collector does not take it.
    pub(crate) async fn check(&self) -> Result<(), QueryError> {
        let sent = self.collector.send(Bytes::new()).await;
        sent.map_err(|Unsent { why, .. }| {
            QueryError::setup(format!("server.otlp: {}: {why}", self.collector.url))
                .with_hint("the collector's receiver of OTLP over HTTP is expected there")
        })
    }

    /// Sends what is left, for a while, and ends the exporter.
    pub(crate) async fn flush(&self) {
        self.closing.cancel();
        let exporter = self.exporter.lock().expect("no holder panics").take();
        if let Some(mut exporter) = exporter
            && tokio::time::timeout(FLUSH_MAX, &mut exporter).await.is_err()
        {
            exporter.abort();
            tracing::warn!("the collector has not taken the last traces in time");
        }
    }
}

impl Exporter {
    async fn run(mut self) {
        while let Some(first) = self.next().await {
            let (mut spans, mut statements) = (first.spans(), 1);
            while spans.len() < BATCH_SPANS
                && let Ok(more) = self.queue.try_recv()
            {
                spans.extend(more.spans());
                statements += 1;
            }
            self.export(spans, statements).await;
        }
    }

    /// Waits for a statement, and for others to come along. None if there is none, and none will come.
    async fn next(&mut self) -> Option<Told> {
        let first = tokio::select! {
            told = self.queue.recv() => told?,
            () = self.closing.cancelled() => return self.queue.try_recv().ok(),
        };
        self.pause(BATCH_PAUSE).await;
        Some(first)
    }

    /// Waits, or until the server ends.
    async fn pause(&self, time: Duration) {
        drop(tokio::time::timeout(time, self.closing.cancelled()).await);
    }

    async fn export(&mut self, spans: Vec<Span>, statements: u64) {
        let message = self.collector.message(spans);
        let mut tries = 0;
        let ended = loop {
            tries += 1;
            let sent = self.collector.send(message.clone()).await;
            // While it fails, others wait.
            let may_try = tries < TRIES_MAX && !self.is_failing && !self.closing.is_cancelled();
            match sent {
                Err(Unsent { may_pass: true, .. }) if may_try => self.pause(RETRY_PAUSE).await,
                ended => break ended,
            }
        };
        let was_failing = std::mem::replace(&mut self.is_failing, ended.is_err());
        match ended {
            Ok(()) => {
                self.counts.sent.inc_by(statements);
                if was_failing {
                    tracing::info!("the collector takes traces again");
                }
            }
            Err(Unsent { why, .. }) => {
                self.counts.dropped.inc_by(statements);
                if !was_failing {
                    let url = self.collector.url.as_str();
                    tracing::warn!(
                        url,
                        why,
                        "the collector does not take traces: they are dropped, and gust_traces_dropped_total counts their statements"
                    );
                }
            }
        }
    }
}

impl Told {
    fn spans(self) -> Vec<Span> {
        spans::spans(self.statement, self.facts, self.began_ns)
    }
}

#[cfg(test)]
mod tests;
