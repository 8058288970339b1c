//! Requests of many connections, each due at its time whether the earlier ones have been answered or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::body::Bytes;
use axum::http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::process::ServerProcess;
use crate::workload::Serve;

/// Pause between looks at the server's memory.
const LOOK: Duration = Duration::from_millis(250);

/// Longest time of one answer.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// Requests of some users.
#[derive(Debug, Clone)]
pub struct Traffic {
    pub users: Vec<usize>,
    pub connections: usize,
    /// Requests of all connections together, at random times. Without a step each connection asks as soon as it has its answer.
    pub steps: Vec<Step>,
    /// Share of large ones.
    pub large_share: f64,
}

/// Requests of an open loop at one rate.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub seconds: f64,
    pub per_second: f64,
}

/// Requests that are made at the same time.
pub struct Load {
    pub traffics: Vec<Traffic>,
    pub seconds: f64,
    pub seed: u64,
}

/// Answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Answer {
    Rows,
    /// The rows are not those of the same query at another time.
    Wrong,
    /// 429 with its kind and a time to wait.
    Refused,
    /// Another status, or a refusal without its kind.
    Failed,
    /// No answer, or half of one.
    Broken,
}

/// One request. Times are seconds from the load's beginning.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    pub user: usize,
    pub is_large: bool,
    pub due: f64,
    pub sent: f64,
    pub ended: f64,
    pub answer: Answer,
}

impl Sample {
    /// Returns the seconds of the request, with its wait for a free connection.
    pub fn seconds(&self) -> f64 {
        self.ended - self.due
    }
}

/// Rows of the small and of the large query.
#[derive(Debug)]
pub struct Expected {
    small: Bytes,
    large: Bytes,
}

/// Request that is due.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    is_large: bool,
}

/// Asks for both queries' rows.
///
/// # Errors
/// When the server does not answer.
pub async fn expected(server: &ServerProcess, serve: &Serve) -> anyhow::Result<Expected> {
    let mut connection = connect(server.address).await?;
    let mut rows = async |sql: &str| {
        let (status, _, body) = ask(&mut connection, &server.secrets[0], sql).await?;
        anyhow::ensure!(status == StatusCode::OK, "{sql}: {status}: {}", String::from_utf8_lossy(&body));
        anyhow::Ok(body)
    };
    Ok(Expected { small: rows(&serve.small).await?, large: rows(&serve.large).await? })
}

impl Load {
    /// Makes the requests. Returns them, and the server's memory meanwhile.
    ///
    /// # Errors
    /// When a connection cannot be had at the beginning.
    pub async fn run(
        &self,
        server: &ServerProcess,
        serve: &Serve,
        expect: &Expected,
    ) -> anyhow::Result<(Vec<Sample>, Vec<u64>)> {
        let mut work = JoinSet::new();
        let texts =
            Arc::new([(serve.small.clone(), expect.small.clone()), (serve.large.clone(), expect.large.clone())]);
        let mut clients = Vec::new();
        for (number, traffic) in self.traffics.iter().enumerate() {
            let seed = self.seed.wrapping_add(number as u64);
            let (sender, receiver) = mpsc::unbounded_channel();
            let receiver = Arc::new(Mutex::new(receiver));
            for connection in 0..traffic.connections {
                let user = traffic.users[connection % traffic.users.len()];
                let source = match traffic.steps.is_empty() {
                    false => Source::Queue(Arc::clone(&receiver)),
                    true => {
                        Source::Own(SmallRng::seed_from_u64(seed ^ ((connection as u64) << 32)), traffic.large_share)
                    }
                };
                clients.push(Client {
                    user,
                    secret: server.secrets[user].clone(),
                    address: server.address,
                    connection: connect(server.address).await?,
                    source,
                    texts: Arc::clone(&texts),
                });
            }
            if !traffic.steps.is_empty() {
                let (large_share, steps) = (traffic.large_share, traffic.steps.clone());
                work.spawn(async move {
                    offer(sender, SmallRng::seed_from_u64(seed), &steps, large_share).await;
                    Vec::new()
                });
            }
        }
        let begun = Instant::now();
        let until = begun + Duration::from_secs_f64(self.seconds);
        for client in clients {
            work.spawn(client.work(begun, until));
        }
        let (mut samples, mut resident) = (Vec::new(), Vec::new());
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                ended = work.join_next() => match ended {
                    Some(of_client) => samples.extend(of_client.context("a client")?),
                    None => break,
                },
                _ = looks.tick() => resident.push(server.resident_bytes()),
            }
        }
        samples.sort_by(|one, other| one.due.total_cmp(&other.due));
        Ok((samples, resident))
    }
}

/// Offers requests at random times (a Poisson process of one rate after the other) to whichever connection is free.
async fn offer(sender: mpsc::UnboundedSender<Due>, mut random: SmallRng, steps: &[Step], large_share: f64) {
    let (begun, mut end) = (Instant::now(), 0.0);
    for Step { seconds, per_second } in steps {
        let mut at = end;
        end += seconds;
        loop {
            at += -(1.0 - random.random::<f64>()).ln() / per_second;
            if at >= end {
                break;
            }
            let due = Due { at: begun + Duration::from_secs_f64(at), is_large: random.random_bool(large_share) };
            tokio::time::sleep_until(due.at).await;
            if sender.send(due).is_err() {
                return;
            }
        }
    }
}

/// Source of a connection's requests.
enum Source {
    /// Requests of all connections.
    Queue(Arc<Mutex<mpsc::UnboundedReceiver<Due>>>),
    /// The next one as soon as the last one is answered, with this share of large ones.
    Own(SmallRng, f64),
}

/// One connection of a user.
struct Client {
    user: usize,
    secret: String,
    address: SocketAddr,
    connection: SendRequest<Full<Bytes>>,
    source: Source,
    /// The small and the large query, with their rows.
    texts: Arc<[(String, Bytes); 2]>,
}

impl Client {
    async fn work(mut self, begun: Instant, until: Instant) -> Vec<Sample> {
        let mut samples = Vec::new();
        let since = |at: Instant| at.saturating_duration_since(begun).as_secs_f64();
        while let Some(Due { at, is_large }) = self.next(until).await {
            // The server closes a connection that says nothing for a while. A client finds that out before it sends.
            if self.connection.ready().await.is_err()
                && let Ok(anew) = connect(self.address).await
            {
                self.connection = anew;
            }
            let sent = Instant::now();
            let (sql, expect) = &self.texts[usize::from(is_large)];
            let asked = ask(&mut self.connection, &self.secret, sql);
            let answer = match tokio::time::timeout(ANSWER_MAX, asked).await {
                Ok(Ok((StatusCode::OK, _, body))) => {
                    if body == *expect {
                        Answer::Rows
                    } else {
                        Answer::Wrong
                    }
                }
                Ok(Ok((StatusCode::TOO_MANY_REQUESTS, has_time, body))) if has_time && is_busy(&body) => {
                    Answer::Refused
                }
                Ok(Ok(_)) => Answer::Failed,
                Ok(Err(_)) | Err(_) => Answer::Broken,
            };
            let (due, sent, ended) = (since(at), since(sent), since(Instant::now()));
            samples.push(Sample { user: self.user, is_large, due, sent, ended, answer });
            if answer == Answer::Broken
                && let Ok(anew) = connect(self.address).await
            {
                self.connection = anew;
            }
        }
        samples
    }

    async fn next(&mut self, until: Instant) -> Option<Due> {
        match &mut self.source {
            Source::Queue(queue) => queue.lock().await.recv().await,
            Source::Own(random, large_share) => {
                let due = Due { at: Instant::now(), is_large: random.random_bool(*large_share) };
                (due.at < until).then_some(due)
            }
        }
    }
}

fn is_busy(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|told| told["kind"] == "busy" && told["code"] == "53300")
}

async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    drop(tokio::spawn(connection));
    Ok(sender)
}

/// Sends SQL. Returns the status, whether there is a time after which to try again, and the body.
async fn ask(
    connection: &mut SendRequest<Full<Bytes>>,
    secret: &str,
    sql: &str,
) -> anyhow::Result<(StatusCode, bool, Bytes)> {
    connection.ready().await?;
    let request = Request::post("/v1/query")
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/sql")
        .header(header::AUTHORIZATION, format!("Bearer {secret}"))
        .body(Full::new(Bytes::copy_from_slice(sql.as_bytes())))?;
    let response = connection.send_request(request).await?;
    let (status, has_time) = (response.status(), response.headers().contains_key(header::RETRY_AFTER));
    Ok((status, has_time, response.into_body().collect().await?.to_bytes()))
}

/// Opens connections that have asked once, and say nothing then.
///
/// # Errors
/// When one cannot be had.
pub async fn idle(server: &ServerProcess, count: usize) -> anyhow::Result<Vec<SendRequest<Full<Bytes>>>> {
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        let mut connection = connect(server.address).await?;
        is_up(&mut connection).await?;
        connections.push(connection);
    }
    Ok(connections)
}

/// Counts the connections on which the server still answers.
pub async fn still_open(connections: Vec<SendRequest<Full<Bytes>>>) -> usize {
    let mut open = 0;
    for mut connection in connections {
        open += usize::from(is_up(&mut connection).await.is_ok());
    }
    open
}

async fn is_up(connection: &mut SendRequest<Full<Bytes>>) -> anyhow::Result<()> {
    connection.ready().await?;
    let request = Request::get("/v1/health").header(header::HOST, "localhost").body(Full::default())?;
    let response = connection.send_request(request).await?;
    anyhow::ensure!(response.status() == StatusCode::OK, "{}", response.status());
    response.into_body().collect().await?;
    Ok(())
}
