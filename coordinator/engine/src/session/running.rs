//! Statements on their way in one process, as `gust.running` shows them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::cost::{PriceError, Tariff};
use crate::events::{EventLog, QueryEvent, StampedEvent};
use crate::history::StatementMeta;
use crate::model::Place;
use crate::money::Money;
use crate::report::Report;

/// Statements by their ids, which begin with the time.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<BTreeMap<String, Statement>>);

#[derive(Debug, Clone)]
struct Statement {
    meta: StatementMeta,
    /// True if others may see its text.
    shows_text: bool,
    events: EventLog,
}

/// Entry of a statement. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Listed {
    running: Arc<Running>,
    id: String,
}

/// A statement at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Snapshot {
    pub id: String,
    pub user: Option<String>,
    pub started: DateTime<Utc>,
    pub elapsed: Duration,
    /// Text; None where the history keeps none.
    pub statement: Option<String>,
    pub state: &'static str,
    /// Bytes that its plan is expected to hold beyond those of which it is sure; None where it needs no more.
    pub memory_bytes_foreseen: Option<u64>,
    /// Place; None until it is decided.
    pub place: Option<&'static str>,
    pub fragments: u64,
    /// Fragments whose rows are used.
    pub fragments_done: u64,
    pub attempts: u64,
    /// Money that is booked; None without prices.
    pub dollars: Option<Money>,
}

/// States of a statement.
const PLANNING: &str = "planning";
const WAITING_FOR_MEMORY: &str = "waiting_for_memory";
const RUNNING: &str = "running";

/// Statements that wait for memory, and the bytes for which they wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryWaits {
    pub statements: usize,
    pub bytes: u64,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Statement>> {
        self.0.lock().expect("no holder panics")
    }

    /// Lists a statement, as long as the entry lives.
    pub fn list(self: &Arc<Self>, meta: StatementMeta, shows_text: bool, events: EventLog) -> Listed {
        let id = meta.id.clone();
        self.lock().insert(id.clone(), Statement { meta, shows_text, events });
        Listed { running: Arc::clone(self), id }
    }

    /// Returns the waits for memory of all statements.
    pub fn memory_waits(&self) -> MemoryWaits {
        let statements = self.lock();
        let waits = statements.values().filter_map(|statement| statement.events.waits_for_bytes());
        waits.fold(MemoryWaits::default(), |sum, bytes| MemoryWaits {
            statements: sum.statements + 1,
            bytes: sum.bytes.saturating_add(bytes),
        })
    }

    /// Returns the statements of a user, or of all users, the oldest first.
    pub fn snapshots(&self, of_user: Option<&str>, tariff: Result<&Tariff, &PriceError>) -> Vec<Snapshot> {
        let is_shown = |statement: &&Statement| of_user.is_none_or(|user| statement.meta.user.as_deref() == Some(user));
        let shown: Vec<Statement> = self.lock().values().filter(is_shown).cloned().collect();
        shown.into_iter().map(|statement| snapshot(statement, tariff)).collect()
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.running.lock().remove(&self.id);
    }
}

fn snapshot(Statement { meta, shows_text, events }: Statement, tariff: Result<&Tariff, &PriceError>) -> Snapshot {
    let (elapsed, waits, events) = (events.elapsed(), events.waits_for_bytes().is_some(), events.snapshot());
    let (mut place, mut fragments, mut fragments_done, mut attempts) = (None, 0, 0, 0);
    let mut memory_bytes_foreseen = None;
    // One that was taken over has events of earlier coordinators before its plan.
    let is_planned =
        events.iter().any(|stamped| matches!(stamped.event, QueryEvent::Planned { .. } | QueryEvent::Begun));
    let state = match (waits, is_planned) {
        (true, _) => WAITING_FOR_MEMORY,
        (false, false) => PLANNING,
        (false, true) => RUNNING,
    };
    for StampedEvent { event, .. } in &events {
        match event {
            QueryEvent::MemoryWanted { bytes } => memory_bytes_foreseen = Some(*bytes),
            QueryEvent::Planned { decision } => {
                place = Some(match decision.place {
                    Place::Local => "local",
                    Place::Functions => "functions",
                });
            }
            QueryEvent::FellBack { .. } => place = Some("local"),
            QueryEvent::StageStarted { fragments: more, .. } => fragments += u64::from(*more),
            QueryEvent::AttemptStarted { .. } => attempts += 1,
            QueryEvent::FragmentAdopted { .. } => fragments_done += 1,
            _ => {}
        }
    }
    let dollars = Report::priced(&events, tariff).cost.map(|cost| cost.known);
    let StatementMeta { id, started, user, statement, .. } = meta;
    let statement = shows_text.then_some(statement);
    Snapshot {
        id,
        user,
        started,
        elapsed,
        statement,
        state,
        memory_bytes_foreseen,
        place,
        fragments,
        fragments_done,
        attempts,
        dollars,
    }
}

#[cfg(test)]
mod tests {
    use gust_protocol::FragmentId;

    use super::*;
    use crate::attempt::Billing;
    use crate::events::{AttemptCause, AttemptOutcome};
    use crate::model::{Decision, Reason, Workload};

    #[test]
    fn statements_are_listed_while_they_run_for_those_who_may_see_them() {
        let running = Arc::new(Running::default());
        let prices = Tariff::of_tests();
        let meta = |id: &str, user: &str| StatementMeta {
            id: id.to_owned(),
            user: Some(user.to_owned()),
            statement: format!("SELECT '{id}'"),
            ..StatementMeta::default()
        };
        let log = EventLog::start();
        let one = running.list(meta("1", "ada"), true, log.clone());
        let without_plan = EventLog::start();
        let two = running.list(meta("2", "bob"), false, without_plan.clone());
        let ids = |user: Option<&str>| {
            let snapshots = running.snapshots(user, Ok(&prices));
            snapshots.into_iter().map(|it| (it.id, it.statement)).collect::<Vec<_>>()
        };
        let first = ("1".to_owned(), Some("SELECT '1'".to_owned()));
        assert_eq!(ids(None), [first.clone(), ("2".to_owned(), None)]);
        assert_eq!((ids(Some("ada")), ids(Some("eve")), ids(Some(""))), (vec![first], vec![], vec![]));
        let state = || {
            let snapshot = running.snapshots(Some("ada"), Ok(&prices)).remove(0);
            let MemoryWaits { statements, bytes } = running.memory_waits();
            (snapshot.state, snapshot.memory_bytes_foreseen, statements, bytes)
        };
        assert_eq!(state(), ("planning", None, 0, 0));
        log.push(QueryEvent::TakenOver { takeovers: 1 });
        assert_eq!(state(), ("planning", None, 0, 0));
        log.push(QueryEvent::MemoryWanted { bytes: 5 });
        assert_eq!(state(), ("waiting_for_memory", Some(5), 1, 5));
        log.push(QueryEvent::MemoryClaimed { bytes: 5 });
        let id = FragmentId { query: "1".to_owned(), stage: 0, index: 0 };
        log.push(QueryEvent::Planned { decision: Decision::local(Reason::Requested, Workload::default()) });
        assert_eq!(state(), ("running", Some(5), 0, 0));
        log.push(QueryEvent::StageStarted { stage: 0, fragments: 3, bytes_planned: 1 });
        log.push(QueryEvent::AttemptStarted {
            id: id.clone(),
            attempt: 0,
            cause: AttemptCause::First,
            time: Duration::ZERO,
        });
        let (outcome, second) = (AttemptOutcome::Cancelled, Duration::from_secs(1));
        let billing = Billing::Metered { duration: second, init: Duration::ZERO };
        log.push(QueryEvent::AttemptEnded { id, attempt: 0, outcome, billing, wall: second });
        let snapshot = running.snapshots(Some("ada"), Ok(&prices)).remove(0);
        assert_eq!((snapshot.place, snapshot.fragments, snapshot.fragments_done), (Some("local"), 3, 0));
        assert_eq!(snapshot.attempts, 1);
        assert_eq!(state(), ("running", Some(5), 0, 0));
        // It falls back, and another attempt ends meanwhile.
        log.push(QueryEvent::MemoryWanted { bytes: 7 });
        log.push(QueryEvent::Restarted { reason: String::new() });
        assert_eq!(state(), ("waiting_for_memory", Some(7), 1, 7));
        // 2 GB for a second at $0.0000166667, and an invocation.
        assert_eq!(snapshot.dollars.map(Money::nano_dollars), Some(33_333 + 200));
        drop(one);
        assert_eq!(ids(None), [("2".to_owned(), None)]);
        let state = || running.snapshots(None, Ok(&prices)).remove(0).state;
        assert_eq!(state(), "planning");
        without_plan.push(QueryEvent::Begun);
        assert_eq!(state(), "running");
        drop(two);
        assert_eq!(ids(None), []);
    }
}
