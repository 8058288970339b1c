//! Append-only stream of a query's events. The report, the progress bar, the cost and the history read it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gust_protocol::{FragmentErrorKind, FragmentId, Usage};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::Span;

use crate::attempt::{Billing, InvokeErrorKind};
use crate::error::QueryError;
use crate::model::{Decision, Quote};

/// An event of a query. Events stand in the order in which they happened.
#[derive(Debug, Clone)]
pub enum QueryEvent {
    /// The statement has a physical plan and a place to run.
    Planned {
        decision: Decision,
    },
    /// The statement has no plan to run by, and runs: the session is changed, or the text of an EXPLAIN is there.
    Begun,
    /// Only the cost of the statement was asked for.
    Quoted {
        quote: Box<Quote>,
    },
    /// The statement waits until so many bytes of memory are free, beyond those of which it is sure: its plan is expected to hold them.
    MemoryWanted {
        bytes: u64,
    },
    /// The statement has the bytes, and runs.
    MemoryClaimed {
        bytes: u64,
    },
    /// A stage was handed to the scheduler.
    StageStarted {
        stage: u32,
        fragments: u32,
        bytes_planned: u64,
    },
    /// A stage's plan goes through the exchange, because it is too large to travel with each fragment.
    PlanPublished {
        stage: u32,
        bytes: u64,
    },
    /// A stage's deletes go through the exchange, because many fragments would read the same files: vectors of data files, and lists of keys.
    DeletesPublished {
        stage: u32,
        bytes: u64,
        vectors: usize,
        keys: usize,
    },
    /// The rows of a build side are there, and all fragments of a stage get them for a join: with their requests, or through the exchange.
    RowsBroadcast {
        stage: u32,
        rows: u64,
        bytes: u64,
        inline: bool,
    },
    /// All rows of a stage are there, by partition, for functions of another stage: in so many objects of the exchange, or with responses.
    RowsParted {
        stage: u32,
        partitions: u64,
        objects: u64,
        bytes: u64,
    },
    /// Some partitions of the rows that a stage reads are much larger than the others, or than a function should read. Several lanes have parts of them.
    PartitionsSplit {
        stage: u32,
        partitions: u64,
        /// Parts of all of them.
        parts: u64,
        /// Bytes of all of them.
        bytes: u64,
        /// Bytes of the middle one of all partitions.
        median_bytes: u64,
    },
    /// A fragment over rows of other stages ran out of memory. Each of its partitions is a fragment of its own now.
    FragmentTakenApart {
        id: FragmentId,
        pieces: u32,
    },
    /// Rows of a fragment were lost after they had been adopted. Another attempt's rows take the place of those of attempt `lost`.
    RowsRestored {
        id: FragmentId,
        lost: u32,
        attempt: u32,
        result_bytes: u64,
    },
    /// Files or parts of files have none of the keys of a stage's build sides. They are left out before a function is invoked.
    KeysLeftOut {
        stage: u32,
        units: u64,
        /// Fragments that the stage has less.
        fragments: u64,
        /// Projected bytes of the units.
        bytes: u64,
    },
    /// The build sides of a stage's joins over exchanges are small. Stage `by` takes its place: it has copies of them, and the last exchange is never written.
    BuildsCopied {
        stage: u32,
        by: u32,
        /// Encoded bytes of the rows that were sent for the build sides.
        bytes: u64,
        /// Bytes in memory that the build sides were expected to have. None where no statistics told.
        bytes_expected: Option<u64>,
        /// Objects among these rows, which the coordinator has read, and their bytes.
        objects: u64,
        object_bytes: u64,
    },
    /// The build sides of a stage have more rows than functions should hold. The coordinator does its joins.
    JoinedHere {
        stage: u32,
    },
    /// An attempt starts. The event is booked BEFORE the invoker is called, so that a lost answer still leaves its
    /// line.
    AttemptStarted {
        id: FragmentId,
        attempt: u32,
        cause: AttemptCause,
        /// Time until its deadline.
        time: Duration,
    },
    AttemptEnded {
        id: FragmentId,
        attempt: u32,
        outcome: AttemptOutcome,
        billing: Billing,
        wall: Duration,
    },
    /// An attempt's rows are used. Each fragment has one such event.
    FragmentAdopted {
        id: FragmentId,
        attempt: u32,
        rows: u64,
        result_bytes: u64,
        inline: bool,
        read: Duration,
    },
    /// An earlier coordinator is gone, and this one goes on with its work. The events before are its attempts.
    TakenOver {
        /// Coordinators that had the query before.
        takeovers: u32,
    },
    /// `auto` gave up on functions, and the query ran locally.
    FellBack {
        reason: String,
        hint: Option<String>,
    },
    /// Memory, of the coordinator or of a function, did not suffice for hash joins. The query was planned again with joins that spill, and runs anew.
    Replanned {
        reason: String,
    },
    /// Memory of functions did not suffice. The query was planned again for functions of the next larger size, and runs anew.
    Enlarged {
        memory_mb: u32,
        reason: String,
    },
    /// Rows between functions were lost and not made anew, or files have changed since they were listed. The query runs anew.
    Restarted {
        reason: String,
    },
    /// Storage requests and bytes of the coordinator itself, counted at its stores, with its reads ahead and its waits.
    CoordinatorRead {
        usage: Usage,
        /// Part of it that is billed: nothing that went to files of this machine.
        billed: Usage,
    },
    Finished {
        rows: u64,
    },
    Failed {
        error: Box<QueryError>,
    },
}

impl QueryEvent {
    pub fn fell_back(error: &QueryError) -> Self {
        Self::FellBack { reason: error.message().to_owned(), hint: error.hint().map(str::to_owned) }
    }

    pub fn failed(error: &QueryError) -> Self {
        Self::Failed { error: Box::new(error.clone()) }
    }
}

/// Reason for an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptCause {
    First,
    /// Another attempt failed or was throttled.
    Retry,
    /// Another attempt is slow, and runs on.
    Speculative,
}

/// Outcome of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    Done {
        usage: Usage,
        cold: Option<bool>,
    },
    FragmentFailed {
        kind: FragmentErrorKind,
        message: String,
        usage: Usage,
    },
    InvokeFailed {
        kind: InvokeErrorKind,
        message: String,
        log_tail: String,
    },
    /// The query no longer needs the attempt.
    Cancelled,
}

/// An event and its time from the query's start.
#[derive(Debug, Clone)]
pub struct StampedEvent {
    pub at: Duration,
    pub event: QueryEvent,
}

/// A query's events. Cloning shares the log.
#[derive(Debug, Clone)]
pub struct EventLog {
    started: Instant,
    /// Span that all log lines of the query belong to, whichever task writes them.
    span: Span,
    events: Arc<Mutex<Vec<StampedEvent>>>,
    /// Bytes of memory for which the statement waits now; 0 where it does not. Each scrape of the metrics asks for it.
    wanted_bytes: Arc<AtomicU64>,
}

impl EventLog {
    /// Starts the log of a query. The current span becomes the query's.
    pub fn start() -> Self {
        Self { started: Instant::now(), span: Span::current(), events: Arc::default(), wanted_bytes: Arc::default() }
    }

    /// Starts the log of a query that has taken so much time before, with events from then.
    pub(crate) fn resumed(events: Vec<StampedEvent>, elapsed: Duration) -> Self {
        let now = Instant::now();
        let started = now.checked_sub(elapsed).unwrap_or(now);
        Self { started, span: Span::current(), events: Arc::new(Mutex::new(events)), wanted_bytes: Arc::default() }
    }

    /// Returns the number of all events so far.
    pub(crate) fn len(&self) -> usize {
        self.events.lock().expect("no holder panics").len()
    }

    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Returns the bytes of memory for which the statement waits now.
    pub(crate) fn waits_for_bytes(&self) -> Option<u64> {
        Some(self.wanted_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// Returns the time since the query's start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn push(&self, event: QueryEvent) {
        let at = self.elapsed();
        tracing::debug!(parent: &self.span, at_us = at.as_micros() as u64, ?event, "query event");
        let mut events = self.events.lock().expect("no holder panics");
        match event {
            QueryEvent::MemoryWanted { bytes } => self.wanted_bytes.store(bytes, Ordering::Relaxed),
            QueryEvent::MemoryClaimed { .. } | QueryEvent::Finished { .. } | QueryEvent::Failed { .. } => {
                self.wanted_bytes.store(0, Ordering::Relaxed);
            }
            // Functions may end while it waits.
            _ => {}
        }
        events.push(StampedEvent { at, event });
    }

    /// Returns all events so far.
    pub fn snapshot(&self) -> Vec<StampedEvent> {
        self.events.lock().expect("no holder panics").clone()
    }

    /// Returns the events from position `from` on. A follower asks for those that it has not seen yet.
    pub fn since(&self, from: usize) -> Vec<StampedEvent> {
        let events = self.events.lock().expect("no holder panics");
        events.get(from..).unwrap_or_default().to_vec()
    }
}
