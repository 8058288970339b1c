//! Folds a statement's events and report into its record. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gust_protocol::{FragmentId, Usage};
use sha2::{Digest, Sha256};

use crate::attempt::Billing;
use crate::config::StatementKept;
use crate::cost::Tariff;
use crate::events::{AttemptCause, AttemptOutcome, QueryEvent, StampedEvent};
use crate::money::Money;
use crate::report::{AttemptTariffs, CostLine, Report, attempt_spent};

/// Bytes of a statement that are kept. A longer one is cut, but its hash is that of all of it.
const STATEMENT_BYTES_MAX: usize = 64 << 10;
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// Facts about a statement that are known before it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatementMeta {
    pub id: String,
    pub started: DateTime<Utc>,
    pub user: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Statement as the parser writes it: without comments, with one white space and one case of keywords.
    pub statement: String,
    /// Tables that the statement names, sorted.
    pub tables: Vec<String>,
}

/// The end of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementEnd {
    pub outcome: Outcome,
    pub message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed,
    TimedOut,
    /// It would have cost more than its cap.
    CapReached,
    /// The client was gone before the end.
    Cancelled,
}

impl Outcome {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::CapReached => "cap_reached",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Parts that a record is made from.
#[derive(Debug, Clone, Copy)]
pub struct RecordInput<'a> {
    pub meta: &'a StatementMeta,
    pub ended: &'a StatementEnd,
    pub events: &'a [StampedEvent],
    /// Report that is folded from the same events.
    pub report: &'a Report,
    /// Prices; None if there are none.
    pub tariff: Option<&'a Tariff>,
}

/// A statement as the store keeps it.
#[derive(Debug, Clone)]
pub struct Record {
    pub(super) query: QueryRecord,
    pub(super) attempts: Vec<AttemptRecord>,
    pub(super) lines: Vec<LineRecord>,
}

#[derive(Debug, Clone)]
pub(super) struct QueryRecord {
    /// Facts before the run, without the statement's text.
    pub meta: StatementMeta,
    pub ended: StatementEnd,
    pub statement: Option<String>,
    pub statement_hash: String,
    pub report: Report,
}

#[derive(Debug, Clone)]
pub(super) struct AttemptRecord {
    pub id: FragmentId,
    pub attempt: u32,
    pub cause: AttemptCause,
    pub started: Duration,
    /// End of the attempt; None if it still ran when the statement was over.
    pub ended: Option<AttemptEndRecord>,
    /// Bytes of the result, if it was used.
    pub adopted_bytes: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct AttemptEndRecord {
    pub at: Duration,
    pub wall: Duration,
    /// `Done`, `Cancelled` or the kind of failure, as reports name it.
    pub outcome: String,
    pub cold: Option<bool>,
    /// Usage; None if the attempt never told it.
    pub usage: Option<Usage>,
    pub billing: Billing,
    /// Money that it cost, with bounded amounts at their bound; None without prices.
    pub cost: Option<Money>,
}

#[derive(Debug, Clone)]
pub(super) struct LineRecord {
    pub query: String,
    pub line: CostLine,
}

/// Folds a statement's events. If only the hash is kept, nothing else that could quote the text is kept.
pub fn record(input: &RecordInput<'_>, kept: StatementKept) -> Record {
    let RecordInput { meta, ended, events, report, tariff } = *input;
    let statement = (kept == StatementKept::Text).then(|| cut(&meta.statement, STATEMENT_BYTES_MAX));
    let message = ended.message.as_deref().filter(|_| kept == StatementKept::Text);
    let message = message.map(|text| cut(text.lines().next().unwrap_or_default(), MESSAGE_BYTES_MAX));
    let lines = report.cost.iter().flat_map(|cost| &cost.lines);
    Record {
        lines: lines.map(|line| LineRecord { query: meta.id.clone(), line: line.clone() }).collect(),
        attempts: attempts(events, tariff),
        query: QueryRecord {
            meta: StatementMeta { statement: String::new(), ..meta.clone() },
            ended: StatementEnd { message, ..*ended },
            statement,
            statement_hash: hash(&meta.statement),
            report: report.clone(),
        },
    }
}

/// Returns a statement's SHA-256 in hexadecimal digits.
fn hash(statement: &str) -> String {
    Sha256::digest(statement.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cut(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}

fn attempts(events: &[StampedEvent], tariff: Option<&Tariff>) -> Vec<AttemptRecord> {
    let tariffs = tariff.map(|tariff| AttemptTariffs::of(events, tariff));
    let over = events.last().map_or(Duration::ZERO, |last| last.at);
    let mut attempts: BTreeMap<(&FragmentId, u32), AttemptRecord> = BTreeMap::new();
    for StampedEvent { at, event } in events {
        match event {
            QueryEvent::AttemptStarted { id, attempt, cause, .. } => {
                let (id, key) = (id.clone(), (id, *attempt));
                let begun = AttemptRecord {
                    id,
                    attempt: *attempt,
                    cause: *cause,
                    started: *at,
                    ended: None,
                    adopted_bytes: None,
                };
                attempts.insert(key, begun);
            }
            QueryEvent::AttemptEnded { id, attempt, outcome, billing, wall } => {
                let Some(record) = attempts.get_mut(&(id, *attempt)) else { continue };
                let stored = over.saturating_sub(*at);
                let spent = |tariff: &Tariff| attempt_spent(outcome, *billing, stored, tariff).cost(tariff);
                let cost = tariffs.as_ref().map(|tariffs| spent(tariffs.of_attempt(id, *attempt)));
                let OutcomeColumns { outcome, cold, usage } = outcome_columns(outcome);
                record.ended =
                    Some(AttemptEndRecord { at: *at, wall: *wall, outcome, cold, usage, billing: *billing, cost });
            }
            QueryEvent::FragmentAdopted { id, attempt, result_bytes, .. } => {
                if let Some(record) = attempts.get_mut(&(id, *attempt)) {
                    record.adopted_bytes = Some(*result_bytes);
                }
            }
            QueryEvent::RowsRestored { id, lost, attempt, result_bytes } => {
                for (attempt, adopted_bytes) in [(lost, None), (attempt, Some(*result_bytes))] {
                    if let Some(record) = attempts.get_mut(&(id, *attempt)) {
                        record.adopted_bytes = adopted_bytes;
                    }
                }
            }
            _ => {}
        }
    }
    attempts.into_values().collect()
}

/// Columns that the outcome of an attempt fills.
struct OutcomeColumns {
    outcome: String,
    cold: Option<bool>,
    usage: Option<Usage>,
}

fn outcome_columns(outcome: &AttemptOutcome) -> OutcomeColumns {
    let (outcome, cold, usage) = match outcome {
        AttemptOutcome::Done { usage, cold } => ("Done".to_owned(), *cold, Some(*usage)),
        AttemptOutcome::FragmentFailed { kind, usage, .. } => (format!("{kind:?}"), None, Some(*usage)),
        AttemptOutcome::InvokeFailed { kind, .. } => (format!("{kind:?}"), None, None),
        AttemptOutcome::Cancelled => ("Cancelled".to_owned(), None, None),
    };
    OutcomeColumns { outcome, cold, usage }
}

#[cfg(test)]
#[path = "record_tests.rs"]
pub(super) mod tests;
