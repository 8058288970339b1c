//! The one append-only stream of what happened to a query. Report, progress bar and (later) cost and history read it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gust_protocol::{FragmentErrorKind, FragmentId, Usage};
use tokio::time::Instant;
use tracing::Span;

use crate::attempt::{Billing, InvokeErrorKind};
use crate::model::{Decision, Quote};

/// Something that happened, in the order in which it did.
#[derive(Debug, Clone)]
pub enum QueryEvent {
    /// The statement has a physical plan and a place to run.
    Planned {
        decision: Decision,
    },
    /// Only its cost was asked for.
    Quoted {
        quote: Box<Quote>,
    },
    /// A stage was handed to the scheduler.
    StageStarted {
        stage: u32,
        fragments: u32,
        bytes_planned: u64,
    },
    /// A stage's plan goes through the exchange, for it is too large to travel with each fragment.
    PlanPublished {
        stage: u32,
        bytes: u64,
    },
    /// Booked BEFORE the invoker is called: a lost answer still leaves its line.
    AttemptStarted {
        id: FragmentId,
        attempt: u32,
        cause: AttemptCause,
    },
    AttemptEnded {
        id: FragmentId,
        attempt: u32,
        outcome: AttemptOutcome,
        billing: Billing,
        wall: Duration,
    },
    /// The one attempt of a fragment whose rows are used.
    FragmentAdopted {
        id: FragmentId,
        attempt: u32,
        rows: u64,
        result_bytes: u64,
        inline: bool,
        read: Duration,
    },
    /// `auto` gave up on functions; the query ran locally.
    FellBack {
        reason: String,
    },
    /// Memory did not suffice for hash joins; the query was planned again with joins that spill, and runs anew.
    PlannedAgain {
        reason: String,
    },
    /// The coordinator's own storage requests and bytes, counted at its stores.
    CoordinatorRead {
        usage: Usage,
    },
    Finished {
        rows: u64,
    },
    Failed {
        message: String,
    },
}

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptCause {
    First,
    /// Another one failed or was throttled.
    Retry,
    /// Another one is slow, and runs on.
    Speculative,
}

/// How an attempt ended.
#[derive(Debug, Clone)]
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
    /// The query no longer needed it.
    Cancelled,
}

/// An event and when it happened, measured from the query's start.
#[derive(Debug, Clone)]
pub struct Stamped {
    pub at: Duration,
    pub event: QueryEvent,
}

/// A query's events. Cloning shares the log.
#[derive(Debug, Clone)]
pub struct EventLog {
    started: Instant,
    /// What is logged of the query, whoever logs it.
    span: Span,
    events: Arc<Mutex<Vec<Stamped>>>,
}

impl EventLog {
    /// A log of the query whose span this is called in.
    pub fn start() -> Self {
        Self { started: Instant::now(), span: Span::current(), events: Arc::default() }
    }

    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Since the query's start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn push(&self, event: QueryEvent) {
        let at = self.elapsed();
        tracing::debug!(parent: &self.span, at_us = at.as_micros() as u64, ?event, "query event");
        self.events.lock().expect("no holder panics").push(Stamped { at, event });
    }

    /// All events so far.
    pub fn snapshot(&self) -> Vec<Stamped> {
        self.events.lock().expect("no holder panics").clone()
    }

    /// The events from position `from` on: what a follower has not seen yet.
    pub fn since(&self, from: usize) -> Vec<Stamped> {
        let events = self.events.lock().expect("no holder panics");
        events.get(from..).unwrap_or_default().to_vec()
    }
}
