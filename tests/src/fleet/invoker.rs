//! An invoker whose functions exist in virtual time only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use gust_engine::attempt::{Billing, Invocation, InvokeError, InvokeErrorKind};
use gust_engine::fleet::Invoker;
use gust_engine::scheduler::Clock;
use gust_protocol::exchange::{COMPRESSION, ResultTarget, ResultWriter, result_path};
use gust_protocol::parts::Regions;
use gust_protocol::version::PROTOCOL_VERSION;
use gust_protocol::{
    Base64, Fragment, FragmentError, FragmentErrorKind, FragmentId, FragmentResponse, FragmentResult, InvokeRequest,
    ObjectRef, Output, PartsPlace, Requests, wire,
};
use object_store::{ObjectStore, ObjectStoreExt};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::fault::{Fault, FaultPlan};
use super::fragment_rows::{FragmentRows, number, schema, wrong_batches};
use super::parts::{PartsReading, parted, parts_alike, read, spoil};
use super::pipe::Burst;
use super::platform::Platform;
use super::shortage::Shortage;
use super::sizes::{Shares, Sizes};
use super::work::{Work, bytes_read};

/// Time after which the platform refuses an invocation.
const REFUSAL: Duration = Duration::from_millis(10);
/// Time from a function's deadline until the platform stops it.
const GRACE: Duration = Duration::from_secs(1);
/// Longest start of an environment (docs/estimates.md, "Caps").
const START_MAX: Duration = Duration::from_secs(3);
/// Milliseconds after which a second delivery or a zombie writes, at most.
const LATE_MAX_MS: u64 = 20_000;

/// Simulated platform, as the scheduler invokes it.
#[derive(Debug, Clone)]
pub struct SimInvoker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    seed: u64,
    platform: Platform,
    faults: FaultPlan,
    fragment_rows: FragmentRows,
    reading: PartsReading,
    exchange: Arc<dyn ObjectStore>,
    clock: Clock,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    running: usize,
    /// Warm environments, the most recently used last.
    idle: Vec<Burst>,
    /// Environments that may be started now.
    tokens: f64,
    tokens_at: Instant,
    served: PlatformUsage,
    sizes: Sizes,
    shortage: Shortage,
}

/// Usage of the platform, as its owner would see it on the bill.
#[derive(Debug, Clone, Default)]
pub struct PlatformUsage {
    pub invocations: u64,
    pub throttled: u64,
    pub cold: u64,
    pub running_peak: usize,
    /// Billed time times memory, cold starts included.
    pub gigabyte_seconds: f64,
    pub requests: Requests,
    /// Usage by query.
    pub bills: BTreeMap<String, QueryUsage>,
    /// Times that each fault fired.
    pub fired: BTreeMap<Fault, u64>,
    /// Objects of answered attempts that were written once more, with other rows.
    pub overwritten: Vec<Overwritten>,
}

/// Second write of an attempt's object.
#[derive(Debug, Clone)]
pub struct Overwritten {
    pub id: FragmentId,
    pub attempt: u32,
    pub unix_ms: u64,
}

/// Usage of one query's attempts, including those whose end the coordinator never heard of.
#[derive(Debug, Clone, Copy, Default)]
pub struct QueryUsage {
    pub invocations: u64,
    pub gigabyte_seconds: f64,
    pub requests: Requests,
}

/// Environment that an attempt has, with its burst.
struct Running {
    burst: Burst,
    is_cold: bool,
}

/// Begin of an attempt, as its answer is billed.
#[derive(Debug, Clone, Copy)]
struct Begun {
    /// Time from the call to the function's first instruction.
    start: Duration,
    at: Instant,
    /// Longest time that the attempt can be charged for.
    at_most: Duration,
    is_cold: bool,
}

/// Times at which an attempt can end.
#[derive(Debug, Clone, Copy)]
struct Ends {
    /// End of the work, or the deadline before it.
    regular: Instant,
    /// Moment before it at which a fault ends the attempt.
    early: Instant,
    deadline: Instant,
    /// True where the work takes longer than the deadline allows.
    is_late: bool,
}

impl SimInvoker {
    pub fn new(
        seed: u64,
        platform: Platform,
        faults: FaultPlan,
        fragment_rows: FragmentRows,
        reading: PartsReading,
        exchange: Arc<dyn ObjectStore>,
        clock: Clock,
    ) -> Self {
        let started = Instant::now();
        let tokens = f64::from(platform.functions * platform.ramp_burst);
        let state = Mutex::new(State {
            running: 0,
            idle: Vec::new(),
            tokens,
            tokens_at: started,
            served: PlatformUsage::default(),
            sizes: Sizes::default(),
            shortage: Shortage::default(),
        });
        Self {
            inner: Arc::new(Inner { seed, platform, faults, fragment_rows, reading, exchange, clock, started, state }),
        }
    }

    /// Makes environments that have spent the part of the burst that comes once.
    pub fn warm_up(&self, environments: usize) {
        let mut burst = Burst::full(&self.inner.platform.pipe);
        burst.carry(&self.inner.platform.pipe, self.inner.platform.pipe.once_bytes, 1.0);
        self.inner.lock().idle = vec![burst; environments];
    }

    /// Gives the rows that stages of a query send sizes of their own: see [`super::sizes`].
    pub(super) fn expect_sizes(&self, query: &str, shares: Shares) {
        self.inner.lock().sizes.expect(query, shares);
    }

    /// Gives the functions of a query little memory: see [`super::shortage`].
    pub(super) fn expect_shortage(&self, query: &str) {
        self.inner.lock().shortage.expect(query);
    }

    pub fn served(&self) -> PlatformUsage {
        self.inner.lock().served.clone()
    }

    /// Returns the number of functions that have not ended.
    pub fn running(&self) -> usize {
        self.inner.lock().running
    }
}

#[async_trait]
impl Invoker for SimInvoker {
    async fn invoke(&self, request: InvokeRequest) -> Invocation {
        let sent = wire::encode_request(&request).expect("a request is JSON");
        let request = wire::decode_request(&sent).expect("what was just encoded");
        let Some(running) = self.inner.start() else {
            sleep(REFUSAL).await;
            let refused = InvokeError::new(InvokeErrorKind::Throttled, "the platform starts no more for now");
            return unbilled(refused);
        };
        let (reply, answer) = oneshot::channel();
        tokio::spawn(Arc::clone(&self.inner).attempt(request, running, reply));
        answer.await.unwrap_or_else(|_| unbilled(InvokeError::new(InvokeErrorKind::Stopped, "the world has ended")))
    }
}

fn unbilled(error: InvokeError) -> Invocation {
    let billing = Billing::Metered { duration: Duration::ZERO, init: Duration::ZERO };
    Invocation { outcome: Err(error), billing, cold: None, log_tail: String::new() }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Takes an environment for an attempt. None is the platform's refusal.
    fn start(&self) -> Option<Running> {
        let Platform { concurrent_max, ramp_burst, ramp_per_second, functions, .. } = self.platform;
        let mut state = self.lock();
        let clones = f64::from(functions);
        let refilled = state.tokens + state.tokens_at.elapsed().as_secs_f64() * ramp_per_second * clones;
        state.tokens = refilled.min(f64::from(ramp_burst) * clones);
        state.tokens_at = Instant::now();
        let is_storm = self.faults.is_storm(self.started);
        if is_storm {
            *state.served.fired.entry(Fault::ThrottleStorm).or_default() += 1;
        }
        let starts = state.idle.is_empty();
        if is_storm || state.running >= concurrent_max || (starts && state.tokens < 1.0) {
            state.served.throttled += 1;
            return None;
        }
        state.running += 1;
        state.served.invocations += 1;
        state.served.running_peak = state.served.running_peak.max(state.running);
        if let Some(burst) = state.idle.pop() {
            return Some(Running { burst, is_cold: false });
        }
        state.tokens -= 1.0;
        state.served.cold += 1;
        Some(Running { burst: Burst::full(&self.platform.pipe), is_cold: true })
    }

    async fn attempt(
        self: Arc<Self>,
        request: InvokeRequest,
        mut running: Running,
        reply: oneshot::Sender<Invocation>,
    ) {
        let (id, number_) = (request.fragment.id.clone(), request.attempt);
        let sent = Instant::now();
        let mut random = SmallRng::seed_from_u64(number(self.seed, (&id, number_)));
        let deadline = self.clock.moment(request.deadline_unix_ms);
        // Without an answer the coordinator knows only when the platform has stopped the function. A start is billed, too (AWS Lambda
        // pricing, November 2026), and may end behind the deadline. The rule is written down here again, to judge the engine's.
        let until_deadline = deadline.saturating_duration_since(sent);
        let at_most = if until_deadline < START_MAX { START_MAX + GRACE } else { until_deadline + GRACE };
        let start = if running.is_cold { &self.platform.cold_start_ms } else { &self.platform.warm_start_ms };
        let start = start.draw_ms(&mut random);
        sleep(start).await;
        let began = Instant::now();
        let begun = Begun { start, at: began, at_most, is_cold: running.is_cold };
        let fault = self.faults.draw(&mut random);
        let is_of_input = fault.is_some_and(Fault::is_of_input);
        let spoils = is_of_input && spoil(&request, fault, &self.exchange, &mut random).await;
        if let Some(fault) = fault.filter(|_| spoils || !is_of_input) {
            *self.lock().served.fired.entry(fault).or_default() += 1;
        }
        let rows = self.rows(&request).await;
        let rows = rows.and_then(|rows| self.lock().shortage.held(self.seed, &request, fault, rows));
        let pipe_share = if fault == Some(Fault::SlowPipe) { self.faults.slow_pipe_share } else { 1.0 };
        let sent = self.sent(&request, bytes_read(&request));
        let work = Work { platform: &self.platform, request: &request, sent, pipe_share };
        let (work, usage) = work.done(&mut running.burst, &mut random);
        // A function gives up by itself at its deadline, unless it hangs.
        let regular = (began + work).min(deadline);
        let early = began + regular.saturating_duration_since(began).mul_f64(random.random());
        let ends = Ends { regular, early, deadline, is_late: began + work > deadline };
        let mut reply = Some(reply);
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                sleep_until(early).await;
                let response = FragmentResponse {
                    version: PROTOCOL_VERSION,
                    id: id.clone(),
                    attempt: number_,
                    outcome: Err(error),
                    usage,
                };
                self.ended(running.burst, false, &id.query, usage.requests, began.elapsed());
                return self.answer(&mut reply, Ok(through_the_wire(response)), begun);
            }
        };
        let ended = match fault {
            Some(Fault::Crash) => {
                sleep_until(early).await;
                if random.random() {
                    self.write(&request, &rows).await;
                }
                Err(InvokeError::new(InvokeErrorKind::Crashed, "the function ended"))
            }
            Some(Fault::Kill) => {
                sleep_until(early).await;
                self.write_half(&request, &rows).await;
                Err(InvokeError::new(InvokeErrorKind::Crashed, "the function was killed"))
            }
            Some(Fault::Hang) => {
                sleep_until(deadline + GRACE).await;
                Err(InvokeError::new(InvokeErrorKind::TimedOut, "the function was stopped"))
            }
            Some(Fault::LateZombieWrite) => {
                sleep_until(early).await;
                let lost = InvokeError::new(InvokeErrorKind::Unavailable, "the connection was lost");
                self.answer(&mut reply, Err(lost), begun);
                sleep(Duration::from_millis(random.random_range(0..LATE_MAX_MS))).await;
                self.write(&request, &wrong_batches(&id, &rows)).await;
                Err(InvokeError::new(InvokeErrorKind::Unavailable, "nobody listens"))
            }
            Some(Fault::LostAnswer) => {
                sleep_until(regular).await;
                self.write(&request, &rows).await;
                Err(InvokeError::new(InvokeErrorKind::Unavailable, "the answer was lost"))
            }
            _ => Ok(self.answer_of(&request, rows, fault, ends, &mut random).await),
        };
        let outcome = ended.map(|outcome| {
            let (id, attempt) = (id.clone(), number_);
            through_the_wire(FragmentResponse { version: PROTOCOL_VERSION, id, attempt, outcome, usage })
        });
        let is_lost = matches!(fault, Some(Fault::Crash | Fault::Kill | Fault::Hang));
        let init = if running.is_cold { start } else { Duration::ZERO };
        // A write may take longer than the function lives: only its life is billed.
        let stopped = began.max(deadline + GRACE).min(Instant::now());
        let billed = init + stopped.saturating_duration_since(began);
        self.ended(running.burst, is_lost, &id.query, usage.requests, billed);
        self.answer(&mut reply, outcome, begun);
    }

    /// Plays a function that lives to answer, and returns its outcome.
    async fn answer_of(
        self: &Arc<Self>,
        request: &InvokeRequest,
        rows: Vec<RecordBatch>,
        fault: Option<Fault>,
        ends: Ends,
        random: &mut SmallRng,
    ) -> Result<FragmentResult, FragmentError> {
        let id = &request.fragment.id;
        let failed = |kind| Err(FragmentError::new(kind, format!("{kind:?}")));
        match fault {
            Some(Fault::TimeOut) => {
                sleep_until(ends.deadline).await;
                failed(FragmentErrorKind::DeadlineExceeded)
            }
            Some(Fault::Panic) => {
                sleep_until(ends.early).await;
                failed(FragmentErrorKind::Panic)
            }
            Some(Fault::SlowDown) => {
                sleep_until(ends.early).await;
                failed(FragmentErrorKind::StorageThrottled)
            }
            Some(Fault::Reset) => {
                sleep_until(ends.early).await;
                failed(FragmentErrorKind::Storage)
            }
            _ if ends.is_late => {
                sleep_until(ends.regular).await;
                failed(FragmentErrorKind::DeadlineExceeded)
            }
            Some(Fault::TruncatedResult) => {
                sleep_until(ends.regular).await;
                let result = self.write(request, &rows).await;
                Ok(self.damage(request, &rows, result, |bytes| bytes.slice(..bytes.len() / 2)).await)
            }
            Some(Fault::SwappedResult) => {
                sleep_until(ends.regular).await;
                let result = self.write(request, &rows).await;
                let other = FragmentId { index: id.index + 1, ..id.clone() };
                let other = self.encoded(request, &self.fragment_rows.batches(&other)).await;
                Ok(self.damage(request, &rows, result, |_| other).await)
            }
            Some(Fault::DuplicateDelivery) => {
                sleep_until(ends.regular).await;
                let result = self.write(request, &rows).await;
                let late = if random.random() { 0 } else { random.random_range(0..LATE_MAX_MS) };
                let (twin, request) = (Arc::clone(self), request.clone());
                tokio::spawn(async move {
                    sleep(Duration::from_millis(late)).await;
                    let written = twin.write(&request, &wrong_batches(&request.fragment.id, &rows)).await;
                    if written.inline_bytes().is_none() {
                        let unix_ms = twin.clock.unix_ms(Instant::now());
                        let (id, attempt) = (request.fragment.id, request.attempt);
                        twin.lock().served.overwritten.push(Overwritten { id, attempt, unix_ms });
                    }
                });
                Ok(result)
            }
            _ => {
                sleep_until(ends.regular).await;
                Ok(self.write(request, &rows).await)
            }
        }
    }

    /// Returns the rows of a fragment: those that are known of a scan, or those that others have sent.
    async fn rows(&self, request: &InvokeRequest) -> Result<Vec<RecordBatch>, FragmentError> {
        match request.fragment.parts.is_empty() {
            true => Ok(self.fragment_rows.batches(&request.fragment.id)),
            false => {
                let Fragment { id, parts, .. } = &request.fragment;
                let found = self.lock().sizes.found(&id.query, parts);
                let Some(parts) = found else { return read(request, &self.exchange, self.reading).await };
                let fragment = Fragment { parts, ..request.fragment.clone() };
                read(&InvokeRequest { fragment, ..request.clone() }, &self.exchange, self.reading).await
            }
        }
    }

    /// Returns the bytes of an object of rows for functions by a fragment's answer, if it read so many. None where its rows have their own size, or go out with the answer.
    fn sent(&self, request: &InvokeRequest, read: u64) -> Option<u64> {
        let Fragment { id, limits, .. } = &request.fragment;
        self.lock().sizes.sent(id, read).filter(|sent| *sent > limits.inline_bytes_max)
    }

    /// Returns the regions of a fragment's rows by its answer. None where they are as they are.
    fn told(&self, request: &InvokeRequest, regions: &Regions) -> Option<Regions> {
        let sent = self.sent(request, bytes_read(request))?;
        let mut state = self.lock();
        let partitions = state.sizes.partitions(request, regions.0.len());
        Some(state.sizes.told(&request.fragment.id, request.attempt, partitions, sent, regions.clone()))
    }

    /// Parts the rows of a fragment. None where they go to the coordinator.
    fn parted(&self, request: &InvokeRequest, batches: &[RecordBatch]) -> Option<(Bytes, Regions)> {
        let Output::Parts { partitions, .. } = request.stage.output else { return None };
        let among = self.lock().sizes.partitions(request, partitions as usize);
        Some(parted(batches, partitions as usize, among, self.salt(request)))
    }

    async fn write(&self, request: &InvokeRequest, batches: &[RecordBatch]) -> FragmentResult {
        let (access, prefix) = request.stage.output.place();
        let path = result_path(prefix, &request.fragment.id, request.attempt);
        let inline_bytes_max = request.fragment.limits.inline_bytes_max;
        if let Some((bytes, regions)) = self.parted(request, batches) {
            self.lock().shortage.note(&request.fragment.id, request.attempt, &regions);
            let told = self.told(request, &regions);
            let is_inline = told.is_none() && bytes.len() as u64 <= inline_bytes_max;
            let regions = told.unwrap_or(regions);
            let part = regions.whole();
            let place = match is_inline {
                true => PartsPlace::Inline(Base64(bytes)),
                false => {
                    self.exchange.put(&path, bytes.into()).await.expect("in memory");
                    let (path, size_bytes) = (path.to_string(), part.bytes);
                    PartsPlace::Object(ObjectRef { access, path, size_bytes, etag: None, footer_bytes: None })
                }
            };
            return FragmentResult::Parts { place, part, regions: regions.encode() };
        }
        let target = ResultTarget { access, store: Arc::clone(&self.exchange), path };
        let mut writer = ResultWriter::new(&schema(), COMPRESSION, inline_bytes_max, target).expect("a plain schema");
        for batch in batches {
            writer.write(batch).await.expect("in memory");
        }
        writer.finish().await.expect("in memory")
    }

    /// Returns the number by which rows are parted. Stages over others have one for each attempt, where these do not part alike.
    fn salt(&self, request: &InvokeRequest) -> u64 {
        match request.fragment.parts.is_empty() || parts_alike(self.seed) {
            true => self.seed,
            false => number(self.seed, (&request.fragment.id, request.attempt, "parted")),
        }
    }

    /// Encodes batches as the bytes of a result.
    async fn encoded(&self, request: &InvokeRequest, batches: &[RecordBatch]) -> Bytes {
        if let Some((bytes, _)) = self.parted(request, batches) {
            return bytes;
        }
        let path = object_store::path::Path::from("unused");
        let target = ResultTarget { access: 0, store: Arc::clone(&self.exchange), path };
        let mut writer = ResultWriter::new(&schema(), COMPRESSION, u64::MAX, target).expect("a plain schema");
        for batch in batches {
            writer.write(batch).await.expect("in memory");
        }
        match writer.finish().await.expect("in memory") {
            FragmentResult::Inline { bytes, .. } => bytes.0,
            FragmentResult::Object { .. } | FragmentResult::Parts { .. } => unreachable!("there is no bound"),
        }
    }

    /// Writes the half of an object that a function leaves when it is killed.
    async fn write_half(&self, request: &InvokeRequest, batches: &[RecordBatch]) {
        let (_, prefix) = request.stage.output.place();
        let path = result_path(prefix, &request.fragment.id, request.attempt);
        let whole = self.encoded(request, batches).await;
        self.exchange.put(&path, whole.slice(..whole.len() / 2).into()).await.expect("in memory");
    }

    /// Replaces the result's bytes, while the answer promises the old ones.
    async fn damage(
        &self,
        request: &InvokeRequest,
        batches: &[RecordBatch],
        result: FragmentResult,
        change: impl FnOnce(Bytes) -> Bytes,
    ) -> FragmentResult {
        match result {
            FragmentResult::Inline { part, bytes } => FragmentResult::Inline { part, bytes: Base64(change(bytes.0)) },
            FragmentResult::Parts { place: PartsPlace::Inline(bytes), part, regions } => {
                FragmentResult::Parts { place: PartsPlace::Inline(Base64(change(bytes.0))), part, regions }
            }
            FragmentResult::Object { ref object, .. }
            | FragmentResult::Parts { place: PartsPlace::Object(ref object), .. } => {
                let whole = self.encoded(request, batches).await;
                let path = object_store::path::Path::from(object.path.as_str());
                self.exchange.put(&path, change(whole).into()).await.expect("in memory");
                result
            }
        }
    }

    /// Books an attempt's end and keeps its environment, unless it is lost.
    fn ended(&self, burst: Burst, is_lost: bool, query: &str, requests: Requests, billed: Duration) {
        let mut state = self.lock();
        state.running -= 1;
        if !is_lost {
            state.idle.push(burst);
        }
        let gigabyte_seconds = whole_ms(billed).as_secs_f64() * f64::from(self.platform.memory_mb) / 1024.0;
        state.served.requests += requests;
        state.served.gigabyte_seconds += gigabyte_seconds;
        let bill = state.served.bills.entry(query.to_owned()).or_default();
        bill.invocations += 1;
        bill.requests += requests;
        bill.gigabyte_seconds += gigabyte_seconds;
    }

    fn answer(
        &self,
        reply: &mut Option<oneshot::Sender<Invocation>>,
        outcome: Result<FragmentResponse, InvokeError>,
        begun: Begun,
    ) {
        let Some(reply) = reply.take() else { return };
        let Begun { start, at, at_most, is_cold } = begun;
        let init = if is_cold { whole_ms(start) } else { Duration::ZERO };
        let duration = whole_ms(at.elapsed()) + init;
        let billing = match &outcome {
            Err(error) if error.kind == InvokeErrorKind::Unavailable => Billing::Bounded { at_most },
            _ => Billing::Reported { duration, init, memory_mb: self.platform.memory_mb },
        };
        // A query that is over listens no more.
        let _ = reply.send(Invocation { outcome, billing, cold: Some(is_cold), log_tail: String::new() });
    }
}

/// Rounds up to whole milliseconds, as AWS bills.
fn whole_ms(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX))
}

fn through_the_wire(response: FragmentResponse) -> FragmentResponse {
    let answered = wire::encode_response(&response).expect("a response is JSON");
    wire::decode_response(&answered).expect("what was just encoded")
}
