//! Attempts of a query in its event log. Each is opened BEFORE it is invoked, and closed once, by its outcome or with
//! the query.

use std::collections::BTreeMap;
use std::sync::Mutex;

use gust_protocol::{FragmentId, FragmentResponse};
use tokio::time::Instant;

use crate::attempt::{Billing, Invocation, billed_max};
use crate::events::{AttemptCause, AttemptOutcome, EventLog, QueryEvent};

#[derive(Debug)]
pub(super) struct Ledger {
    events: EventLog,
    state: Mutex<LedgerState>,
}

#[derive(Debug, Default)]
struct LedgerState {
    open: BTreeMap<(FragmentId, u32), OpenAttempt>,
    is_closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct OpenAttempt {
    started: Instant,
    deadline: Instant,
}

impl Ledger {
    pub(super) fn new(events: EventLog) -> Self {
        Self { events, state: Mutex::default() }
    }

    pub(super) fn events(&self) -> &EventLog {
        &self.events
    }

    pub(super) fn open(&self, id: &FragmentId, attempt: u32, cause: AttemptCause, deadline: Instant) {
        let open = OpenAttempt { started: Instant::now(), deadline };
        let time = deadline.saturating_duration_since(open.started);
        let mut state = self.state.lock().expect("no holder panics");
        self.events.push(QueryEvent::AttemptStarted { id: id.clone(), attempt, cause, time });
        if state.is_closed {
            // The attempt's task was about to be dropped with its query.
            self.cancel(id.clone(), attempt, open);
        } else {
            state.open.insert((id.clone(), attempt), open);
        }
    }

    /// Books an attempt's outcome. Does nothing if the query has closed the ledger already.
    pub(super) fn close(&self, id: &FragmentId, attempt: u32, invocation: &Invocation) {
        let open = self.state.lock().expect("no holder panics").open.remove(&(id.clone(), attempt));
        let Some(OpenAttempt { started, .. }) = open else { return };
        let outcome = match &invocation.outcome {
            Ok(FragmentResponse { outcome: Ok(_), usage, .. }) => {
                AttemptOutcome::Done { usage: *usage, cold: invocation.cold }
            }
            Ok(FragmentResponse { outcome: Err(error), usage, .. }) => {
                AttemptOutcome::FragmentFailed { kind: error.kind, message: error.message.clone(), usage: *usage }
            }
            Err(error) => AttemptOutcome::InvokeFailed {
                kind: error.kind,
                message: error.message.clone(),
                log_tail: invocation.log_tail.clone(),
            },
        };
        let (id, billing, wall) = (id.clone(), invocation.billing, started.elapsed());
        self.events.push(QueryEvent::AttemptEnded { id, attempt, outcome, billing, wall });
    }

    /// Closes the ledger of a query that is over. Attempts that still run cannot be recalled, and are booked at the
    /// most that they can cost.
    pub(super) fn cancel_open(&self) {
        let mut state = self.state.lock().expect("no holder panics");
        state.is_closed = true;
        for ((id, attempt), open) in std::mem::take(&mut state.open) {
            self.cancel(id, attempt, open);
        }
    }

    fn cancel(&self, id: FragmentId, attempt: u32, OpenAttempt { started, deadline }: OpenAttempt) {
        let (outcome, wall) = (AttemptOutcome::Cancelled, started.elapsed());
        let billing = Billing::Bounded { at_most: billed_max(deadline.saturating_duration_since(started)) };
        self.events.push(QueryEvent::AttemptEnded { id, attempt, outcome, billing, wall });
    }
}
