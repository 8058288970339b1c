//! Scheduler against an invoker with a script, under paused time.

mod attempts;
mod caps;
mod retries;
mod speculation;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;

use async_trait::async_trait;
use datafusion::common::DataFusionError;
use futures::FutureExt;
use futures::future::BoxFuture;
use gust_protocol::version::{PROTOCOL_VERSION, fingerprint};
use gust_protocol::{
    AccessTable, AheadBounds, Base64, Fragment, FragmentError, FragmentErrorKind, FragmentLimits, FragmentResponse,
    FragmentResult, InvokeRequest, Output, PlanRef, StagePlan, StreamSummary, Usage,
};

use super::*;
use crate::attempt::{Billing, Invocation, InvokeError, InvokeErrorKind};
use crate::cap::AttemptWork;
use crate::events::{AttemptCause, AttemptOutcome, QueryEvent};

const SECOND: Duration = Duration::from_secs(1);

/// Script of attempts: duration and outcome by fragment and number.
type Script = fn(u32, u32) -> (Duration, ScriptedOutcome);

#[derive(Debug, Clone, Copy)]
enum ScriptedOutcome {
    Done,
    Fragment(FragmentErrorKind),
    Invoke(InvokeErrorKind),
}

use ScriptedOutcome::Done;

struct Scripted {
    script: Script,
    clock: Clock,
    in_flight: AtomicU32,
    in_flight_peak: AtomicU32,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

#[async_trait]
impl Invoker for Scripted {
    async fn invoke(&self, request: InvokeRequest) -> Invocation {
        let InvokeRequest { fragment, attempt, deadline_unix_ms, .. } = request;
        let (takes, scripted) = (self.script)(fragment.id.index, attempt);
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.in_flight_peak.fetch_max(now, Ordering::Relaxed);
        let started = Instant::now();
        let ends = started + takes;
        let deadline = self.clock.moment(deadline_unix_ms);
        tokio::time::sleep_until(ends.min(deadline)).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let scripted = if ends > deadline { ScriptedOutcome::Invoke(InvokeErrorKind::TimedOut) } else { scripted };
        let part = StreamSummary { bytes: 0, rows: u64::from(attempt), crc32: 0 };
        let respond = |outcome| {
            let (id, usage) = (fragment.id.clone(), Usage::default());
            Ok(FragmentResponse { version: PROTOCOL_VERSION, id, attempt, outcome, usage })
        };
        let outcome = match scripted {
            Done => respond(Ok(FragmentResult::Inline { part, bytes: Base64::default() })),
            ScriptedOutcome::Fragment(kind) => respond(Err(FragmentError::new(kind, format!("{kind:?}")))),
            ScriptedOutcome::Invoke(kind) => Err(InvokeError::new(kind, format!("{kind:?}"))),
        };
        let billing = Billing::Metered { duration: started.elapsed(), init: Duration::ZERO };
        Invocation { outcome, billing, cold: None, log_tail: String::new() }
    }
}

/// A query of one stage, and its traces.
struct Query {
    scheduler: Scheduler,
    invoker: Arc<Scripted>,
    attempts: QueryAttempts,
    events: EventLog,
}

impl Query {
    fn new(in_flight_max: usize, deadline: Duration, script: Script) -> Self {
        Self::with_cap(in_flight_max, deadline, script, None)
    }

    fn with_cap(in_flight_max: usize, deadline: Duration, script: Script, cap: Option<Arc<Cap>>) -> Self {
        let clock = Clock::start();
        let (in_flight, in_flight_peak) = Default::default();
        let invoker = Arc::new(Scripted { script, clock, in_flight, in_flight_peak });
        let settings = SchedulerSettings::new(in_flight_max, 7);
        let scheduler = Scheduler::new(Arc::clone(&invoker) as _, Arc::default(), settings);
        let events = EventLog::start();
        let attempts = scheduler.query(events.clone(), clock, Instant::now() + deadline, cap);
        Self { scheduler, invoker, attempts, events }
    }

    async fn run(&self, fragments: u32) -> Vec<Result<u32, FragmentFailure>> {
        let stage = self.attempts.stage(vec![SECOND; fragments as usize]);
        let runs = (0..fragments).map(|index| {
            let mut fragment = fragment(&stage, index);
            async move { fragment.result().await.map(|adopted| adopted.attempt) }
        });
        futures::future::join_all(runs).await
    }

    fn causes(&self) -> Vec<(u32, u32, AttemptCause)> {
        let events = self.events.snapshot().into_iter();
        let started = events.filter_map(|stamped| match stamped.event {
            QueryEvent::AttemptStarted { id, attempt, cause, .. } => Some((id.index, attempt, cause)),
            _ => None,
        });
        started.collect()
    }

    fn ended(&self, wanted: impl Fn(&AttemptOutcome) -> bool) -> usize {
        let events = self.events.snapshot().into_iter();
        let is = |event: &QueryEvent| matches!(event, QueryEvent::AttemptEnded { outcome, .. } if wanted(outcome));
        events.filter(|stamped| is(&stamped.event)).count()
    }
}

fn fragment(stage: &StageAttempts, index: u32) -> FragmentAttempts {
    fragment_with(stage, index, || async { Ok(AccessTable::default()) }.boxed())
}

fn fragment_with(
    stage: &StageAttempts,
    index: u32,
    access: impl Fn() -> BoxFuture<'static, Result<AccessTable, DataFusionError>> + Send + Sync + 'static,
) -> FragmentAttempts {
    let id = FragmentId { query: "q".to_owned(), stage: 0, index };
    let limits = FragmentLimits {
        memory_bytes_max: 1,
        temp_bytes_max: 1,
        inline_bytes_max: 1,
        bridge_bytes: 1,
        ahead: AheadBounds::default(),
        late_columns_percent_max: 0,
    };
    let request = {
        let id = id.clone();
        move |AttemptStamp { attempt, deadline_unix_ms }, access| InvokeRequest {
            version: PROTOCOL_VERSION,
            fingerprint: fingerprint().to_owned(),
            fragment: Fragment { id: id.clone(), inputs: Vec::new(), parts: Vec::new(), limits },
            attempt,
            deadline_unix_ms,
            access,
            stage: StagePlan {
                plan: PlanRef::Inline(Base64::default()),
                leaves: Vec::new(),
                scalars: Vec::new(),
                shared: Vec::new(),
                output: Output::Gather { access: 0, prefix: String::new() },
                options: BTreeMap::new(),
            },
        }
    };
    stage.fragment(
        id,
        AttemptNumbers::new(index as usize + 1),
        FragmentNeeds { bytes: 1, work: AttemptWork::default() },
        AttemptRequests { access: Box::new(access), request: Box::new(request) },
    )
}
