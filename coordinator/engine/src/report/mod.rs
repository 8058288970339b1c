//! Facts about a query's run, folded from its events. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Formatter};
use std::time::Duration;

use gust_protocol::{AheadUsage, FragmentId, LateUsage, Requests, Usage, with_hint_line};
use humansize::{BINARY, format_size};
use serde::Serialize;

mod bill;
mod stages;
mod tariffs;
mod text;

pub use bill::{Athena, CostLine, CostReport, Waste, attempt_spent, price, spent_until_now};
pub use stages::{FragmentSeconds, ReplacedStage, StageCost, StageParts, StageSplit, StageWork};
pub use tariffs::AttemptTariffs;

use crate::cost::{PriceError, Tariff};
use crate::error::{Position, QueryError, continued};
use crate::events::{AttemptCause, AttemptOutcome, QueryEvent, StampedEvent};
use crate::model::{Decision, Quote};
use stages::StageFold;

/// Report on one statement. Times are in seconds, sizes in bytes. `docs/report.md` lists its fields for programs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Id of the statement, which the history and the functions' logs have, too. None where it did not get one, because its text is
    /// no SQL.
    pub id: Option<String>,
    /// Version of the program.
    pub version: Version,
    /// Decision on the place; None for statements without a plan, such as CREATE EXTERNAL TABLE.
    pub decision: Option<Decision>,
    /// Price that a statement would have. Only a statement that was not run has one.
    pub quote: Option<Box<Quote>>,
    /// Reason why the functions' work was given up and the query ran locally after all.
    pub fell_back: Option<String>,
    /// Next step after that failure.
    pub fell_back_hint: Option<String>,
    /// Reason why the query was planned again with sort-merge joins, and ran anew. Its other figures are of both runs.
    pub planned_again: Option<String>,
    /// Size of larger functions on which the query ran anew, and the reason. Its other figures are of all runs.
    pub enlarged: Option<String>,
    /// Loss of rows between functions after which the query ran anew. Its other figures are of both runs.
    pub restarted: Option<String>,
    /// Message of the error that ended the query.
    pub failed: Option<String>,
    /// Next step after that error.
    pub failed_hint: Option<String>,
    pub failed_kind: Option<&'static str>,
    /// PostgreSQL's code of that error.
    pub failed_sqlstate: Option<&'static str>,
    /// Place in the statement's text that the error is about, where it is known.
    pub failed_at: Option<Position>,
    pub stages: usize,
    pub fragments: usize,
    /// Fragments whose rows came from a function and were used.
    pub fragments_adopted: usize,
    /// Those among them whose rows an earlier coordinator had, which is gone.
    pub fragments_reused: usize,
    /// Coordinators that had the query before this one.
    pub takeovers: u32,
    pub attempts: usize,
    /// Attempts that were made because another had failed or was throttled.
    pub attempts_retried: usize,
    /// Attempts that were made because another was slow.
    pub attempts_speculative: usize,
    /// Attempts whose result was not used.
    pub attempts_wasted: usize,
    /// Time that attempts ran whose result was not used.
    pub wasted_seconds: f64,
    /// Attempts that did not succeed, by the kind of their end.
    pub attempts_failed: BTreeMap<String, usize>,
    pub cold_starts: usize,
    pub functions: StorageUse,
    /// Work of the functions by stage, in the order of stages.
    pub by_stage: Vec<StageWork>,
    pub coordinator: StorageUse,
    /// Bytes of all adopted results.
    pub result_bytes: u64,
    /// Adopted results that needed an object in the exchange.
    pub results_in_exchange: usize,
    /// Stages whose plan was too large to travel with each fragment.
    pub plans_in_exchange: usize,
    /// Stages whose deletes went through the exchange.
    pub deletes_in_exchange: usize,
    /// Data files among them whose deleted positions did.
    pub delete_vectors_in_exchange: usize,
    /// Lists of keys among them.
    pub delete_keys_in_exchange: usize,
    /// Build sides of joins whose rows all fragments of a stage got.
    pub broadcasts: usize,
    /// Encoded bytes of these rows, each build side once.
    pub broadcast_bytes: u64,
    /// Build sides whose rows went through the exchange.
    pub broadcasts_in_exchange: usize,
    /// Scan units that the keys of joins left out before a function was invoked.
    pub left_out_units: u64,
    /// Fragments that stages had less for that.
    pub left_out_fragments: u64,
    /// Projected bytes of these units.
    pub left_out_bytes: u64,
    /// Stages whose joins were done by the coordinator, because the build sides had too many rows.
    pub joined_here: usize,
    /// Stages over exchanges whose joins got copies of build sides that turned out to be small.
    pub builds_copied: usize,
    /// Stages whose rows went to functions of another stage.
    pub shuffles: usize,
    /// Encoded bytes of these rows.
    pub shuffle_bytes: u64,
    /// Objects of the exchange that hold them.
    pub shuffle_objects: u64,
    /// Fragments whose rows were lost on their way to other functions, and were made anew.
    pub shuffles_restored: usize,
    /// Partitions of such rows that were much larger than others, or than a function should read, and of which several lanes had parts.
    pub partitions_split: u64,
    /// Fragments over such rows that ran out of memory, and of which each partition became a fragment.
    pub fragments_taken_apart: usize,
    /// Rows that the functions sent.
    pub rows_from_functions: u64,
    /// Rows of the final result.
    pub rows: u64,
    pub memory_peak_bytes: u64,
    pub spilled_bytes: u64,
    /// Most memory that this process has had until now; None where the system does not tell it.
    pub process_memory_peak_bytes: Option<u64>,
    pub seconds: Phases,
    /// Cost in nano-dollars; None if it is not priced.
    pub cost: Option<CostReport>,
    /// Reason why there is no cost.
    pub cost_unknown: Option<String>,
    /// Next step towards a cost.
    pub cost_unknown_hint: Option<String>,
    /// Reason why the history has no record of the statement; None also if no record was wanted.
    pub history_not_recorded: Option<String>,
    /// True if it is not known yet whether the history has the statement, or if no record was wanted.
    #[serde(skip)]
    pub is_record_open: bool,
}

/// Version of this program, as its crate has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Version(&'static str);

impl Default for Version {
    fn default() -> Self {
        Self(env!("CARGO_PKG_VERSION"))
    }
}

/// Requests and bytes of storage that one side asked for, and its waits for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StorageUse {
    pub requests: Requests,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Time for which compute waited for bytes of data files, in seconds, summed up over lanes.
    pub waited_seconds: f64,
    /// Reads of data files ahead of computing. Its unused bytes and its gaps are part of `bytes_read`.
    pub ahead: AheadUsage,
    /// Rows that the keys of joins decided about, where the other columns of a scan were decoded late.
    pub late: LateUsage,
}

impl StorageUse {
    fn add(&mut self, usage: &Usage) {
        self.requests += usage.requests;
        self.bytes_read += usage.bytes_read;
        self.bytes_written += usage.bytes_written;
        self.waited_seconds += usage.spans.waited_us as f64 / 1e6;
        self.ahead += usage.ahead;
        self.late += usage.late;
    }

    /// Writes for how long compute waited, and what was read and not used; None where it did not wait and all was used.
    pub(crate) fn waits_text(&self) -> Option<String> {
        let ahead = &self.ahead;
        let is_waited = self.waited_seconds >= WAITED_SECONDS_MIN;
        if !is_waited && ahead.unused_bytes() == 0 {
            return None;
        }
        let unused = [
            (ahead.unused_pruned_bytes, "pruned"),
            (ahead.unused_limit_bytes, "not needed"),
            (ahead.unused_cancelled_bytes, "cancelled"),
            (ahead.unused_given_back_bytes, "dropped for memory"),
            (ahead.gap_bytes, "in gaps"),
        ];
        let unused = unused.into_iter().filter(|(bytes, _)| *bytes > 0);
        let unused: Vec<_> = unused.map(|(bytes, why)| format!("{} {why}", format_size(bytes, BINARY))).collect();
        let waited = is_waited.then(|| format!("waited {:.3} s for bytes, over all lanes", self.waited_seconds));
        let unused = (!unused.is_empty()).then(|| format!("read and not used: {}", unused.join(", ")));
        Some(waited.into_iter().chain(unused).collect::<Vec<_>>().join("; "))
    }

    /// Writes how many rows the keys of joins kept; None where no other columns were decoded late.
    pub(crate) fn late_text(&self) -> Option<String> {
        let LateUsage { rows, kept_rows, given_up } = self.late;
        let given_up = match given_up {
            0 => String::new(),
            times => format!("; given up {}", counted(times as usize, "time")),
        };
        (rows > 0).then(|| format!("{kept_rows} of {rows} rows kept by keys of joins{given_up}"))
    }
}

/// Shortest wait that is shown, in seconds: the last digit of the report's times.
const WAITED_SECONDS_MIN: f64 = 0.001;

/// Wall time by phase, in seconds. Phases follow each other, but reading overlaps with later invocations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Phases {
    /// Time from the text to the physical plan and the decision.
    pub plan: f64,
    /// Time from the first attempt's start to the last attempt's end.
    pub invoke: f64,
    /// Time to fetch and check results, summed. They are decoded later, as they are used.
    pub read: f64,
    /// Time from the last result that was read (or, without functions, from the plan) to the last row.
    pub finish: f64,
    pub total: f64,
}

impl Report {
    /// Folds a query's events, and prices them if there are prices.
    pub fn priced(events: &[StampedEvent], tariff: Result<&Tariff, &PriceError>) -> Self {
        let mut report = Self::from_events(events);
        match tariff {
            Ok(tariff) => {
                let mut of_stages = bill::stage_costs(events, tariff);
                report.by_stage.iter_mut().for_each(|work| work.cost = of_stages.remove(&work.stage));
                Self { cost: Some(price(events, tariff)), ..report }
            }
            Err(error) => Self { cost_unknown: Some(error.to_string()), cost_unknown_hint: error.hint(), ..report },
        }
    }

    /// Makes the report on a text of which nothing ran.
    pub fn refused(error: &QueryError) -> Self {
        let mut report = Self::default();
        report.fail(error);
        report
    }

    /// Folds a query's events.
    pub fn from_events(events: &[StampedEvent]) -> Self {
        let mut report = Self::default();
        let (mut times, mut stages) = (EventTimes::default(), StageFold::default());
        for StampedEvent { at, event } in events {
            times.total = *at;
            report.add(*at, event, &mut times);
            stages.add(*at, event);
        }
        let unused = || times.ended.iter().filter(|(attempt, _)| !times.used.contains(attempt));
        report.attempts_wasted = unused().count();
        report.wasted_seconds = unused().map(|(_, wall)| *wall).sum::<Duration>().as_secs_f64();
        report.by_stage = stages.stages(unused().map(|(attempt, _)| &attempt.fragment));
        report.seconds = times.phases();
        report
    }

    fn add(&mut self, at: Duration, event: &QueryEvent, times: &mut EventTimes) {
        match event {
            QueryEvent::Planned { decision } => {
                times.planned = at;
                self.decision = Some(decision.clone());
            }
            QueryEvent::Begun => times.planned = at,
            QueryEvent::Quoted { quote } => self.quote = Some(quote.clone()),
            QueryEvent::StageStarted { fragments, .. } => {
                self.stages += 1;
                self.fragments += *fragments as usize;
            }
            QueryEvent::PlanPublished { .. } => self.plans_in_exchange += 1,
            QueryEvent::DeletesPublished { vectors, keys, .. } => {
                self.deletes_in_exchange += 1;
                self.delete_vectors_in_exchange += vectors;
                self.delete_keys_in_exchange += keys;
            }
            QueryEvent::RowsBroadcast { bytes, inline, .. } => {
                self.broadcasts += 1;
                self.broadcast_bytes += bytes;
                self.broadcasts_in_exchange += usize::from(!inline);
            }
            QueryEvent::RowsParted { objects, bytes, .. } => {
                self.shuffles += 1;
                self.shuffle_bytes += bytes;
                self.shuffle_objects += objects;
            }
            QueryEvent::PartitionsSplit { partitions, .. } => self.partitions_split += partitions,
            QueryEvent::FragmentTakenApart { pieces, .. } => {
                self.fragments_taken_apart += 1;
                self.fragments = (self.fragments + *pieces as usize).saturating_sub(1);
            }
            QueryEvent::RowsRestored { id, lost, attempt, .. } => {
                self.shuffles_restored += 1;
                times.used.remove(&AttemptKey { fragment: id.clone(), attempt: *lost });
                times.used.insert(AttemptKey { fragment: id.clone(), attempt: *attempt });
            }
            QueryEvent::KeysLeftOut { units, fragments, bytes, .. } => {
                self.left_out_units += units;
                self.left_out_fragments += fragments;
                self.left_out_bytes += bytes;
            }
            QueryEvent::BuildsCopied { .. } => self.builds_copied += 1,
            QueryEvent::JoinedHere { .. } => self.joined_here += 1,
            QueryEvent::MemoryWanted { .. } | QueryEvent::MemoryClaimed { .. } => {}
            QueryEvent::AttemptStarted { cause, .. } => {
                self.attempts += 1;
                match cause {
                    AttemptCause::First => {}
                    AttemptCause::Retry => self.attempts_retried += 1,
                    AttemptCause::Speculative => self.attempts_speculative += 1,
                }
                times.first_attempt.get_or_insert(at);
            }
            QueryEvent::AttemptEnded { id, attempt, outcome, wall, .. } => {
                times.last_attempt = at;
                times.ended.insert(AttemptKey { fragment: id.clone(), attempt: *attempt }, *wall);
                self.end_attempt(outcome);
            }
            QueryEvent::FragmentAdopted { id, attempt, rows, result_bytes, inline, read } => {
                let key = AttemptKey { fragment: id.clone(), attempt: *attempt };
                self.fragments_adopted += 1;
                self.fragments_reused += usize::from(times.of_earlier.contains(&key));
                times.used.insert(key);
                self.rows_from_functions += rows;
                self.result_bytes += result_bytes;
                self.results_in_exchange += usize::from(!inline);
                times.read += *read;
                times.last_adoption = Some(at);
            }
            QueryEvent::TakenOver { takeovers } => {
                self.takeovers = *takeovers;
                times.of_earlier =
                    times.ended.keys().filter(|attempt| !times.used.contains(attempt)).cloned().collect();
            }
            QueryEvent::FellBack { reason, hint } => {
                (self.fell_back, self.fell_back_hint) = (Some(reason.clone()), hint.clone());
            }
            QueryEvent::Replanned { reason } => self.planned_again = Some(reason.clone()),
            QueryEvent::Enlarged { memory_mb, reason } => {
                self.enlarged = Some(format!("for functions of {memory_mb} MB: {}", first_line(reason)));
            }
            QueryEvent::Restarted { reason } => self.restarted = Some(reason.clone()),
            QueryEvent::CoordinatorRead { usage, .. } => self.coordinator.add(usage),
            QueryEvent::Finished { rows } => self.rows = *rows,
            QueryEvent::Failed { error } => self.fail(error),
        }
    }

    fn fail(&mut self, error: &QueryError) {
        self.failed = Some(error.message().to_owned());
        self.failed_hint = error.hint().map(str::to_owned);
        self.failed_kind = Some(error.kind().name());
        self.failed_sqlstate = Some(error.sqlstate());
        self.failed_at = error.position();
    }

    fn end_attempt(&mut self, outcome: &AttemptOutcome) {
        let failed = match outcome {
            AttemptOutcome::Done { usage, cold } => {
                self.functions.add(usage);
                self.cold_starts += usize::from(cold.unwrap_or(false));
                self.memory_peak_bytes = self.memory_peak_bytes.max(usage.memory_peak_bytes);
                self.spilled_bytes += usage.spilled_bytes;
                return;
            }
            AttemptOutcome::FragmentFailed { kind, usage, .. } => {
                self.functions.add(usage);
                format!("{kind:?}")
            }
            AttemptOutcome::InvokeFailed { kind, .. } => format!("{kind:?}"),
            AttemptOutcome::Cancelled => "Cancelled".to_owned(),
        };
        *self.attempts_failed.entry(failed).or_default() += 1;
    }
}

/// An attempt of a query.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct AttemptKey {
    fragment: FragmentId,
    attempt: u32,
}

#[derive(Default)]
struct EventTimes {
    planned: Duration,
    first_attempt: Option<Duration>,
    last_attempt: Duration,
    /// Attempts that have ended, with the time that they ran.
    ended: BTreeMap<AttemptKey, Duration>,
    /// Attempts whose rows are used.
    used: BTreeSet<AttemptKey>,
    /// Attempts of an earlier coordinator.
    of_earlier: BTreeSet<AttemptKey>,
    read: Duration,
    last_adoption: Option<Duration>,
    total: Duration,
}

impl EventTimes {
    fn phases(&self) -> Phases {
        let invoke = self.first_attempt.map_or(Duration::ZERO, |first| self.last_attempt.saturating_sub(first));
        let finishing_since = self.last_adoption.unwrap_or(self.planned);
        Phases {
            plan: self.planned.as_secs_f64(),
            invoke: invoke.as_secs_f64(),
            read: self.read.as_secs_f64(),
            finish: self.total.saturating_sub(finishing_since).as_secs_f64(),
            total: self.total.as_secs_f64(),
        }
    }
}

/// Writes words and their hint into the column that all of the report's words stand in.
fn in_report(words: impl Display, hint: Option<&str>) -> String {
    continued(with_hint_line(words, hint), 11)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Writes the number of requests, and of those that were reads sent a second time.
pub(crate) fn requests_text(requests: &Requests) -> String {
    let hedged = if requests.hedged > 0 { format!(" ({} hedged)", requests.hedged) } else { String::new() };
    format!("{} requests{hedged}", requests.total())
}

impl Display for Report {
    /// Writes a few lines for people. They leave out everything that did not happen.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let size = |bytes: u64| format_size(bytes, BINARY);
        if let Some(decision) = &self.decision {
            writeln!(f, "decision   {}", in_report(decision, decision.reason.hint()))?;
        }
        if let Some(quote) = &self.quote {
            writeln!(f, "{quote}")?;
        }
        if let Some(reason) = &self.fell_back {
            let reason = in_report(first_line(reason), self.fell_back_hint.as_deref());
            writeln!(f, "fell back  ran locally after functions failed: {reason}")?;
        }
        if let Some(reason) = &self.planned_again {
            let reason = first_line(reason);
            writeln!(f, "ran twice  planned again with sort-merge joins, for less memory: {reason}")?;
        }
        if let Some(reason) = &self.enlarged {
            writeln!(f, "ran twice  planned again {reason}")?;
        }
        if let Some(reason) = &self.restarted {
            writeln!(f, "ran twice  began anew, as rows between functions were lost: {}", first_line(reason))?;
        }
        if self.attempts > 0 {
            let (fragments, stages, attempts) = (self.fragments, self.stages, self.attempts);
            write!(f, "functions  {}", counted(fragments, "fragment"))?;
            write!(f, " in {}, {}", counted(stages, "stage"), counted(attempts, "attempt"))?;
            write!(f, ", {} adopted, {} cold", self.fragments_adopted, self.cold_starts)?;
            for (kind, count) in &self.attempts_failed {
                write!(f, ", {count} {}", text::in_words(kind))?;
            }
            writeln!(f)?;
            if self.attempts_wasted > 0 {
                let (retried, speculative, wasted) =
                    (self.attempts_retried, self.attempts_speculative, self.attempts_wasted);
                write!(f, "           {} wasted over {:.3} s", counted(wasted, "attempt"), self.wasted_seconds)?;
                writeln!(f, "; {retried} retried, {speculative} speculative")?;
            }
            let StorageUse { requests, bytes_read, .. } = &self.functions;
            write!(f, "           read {} in {}", size(*bytes_read), requests_text(requests))?;
            write!(f, ", sent {} rows in {}", self.rows_from_functions, size(self.result_bytes))?;
            write!(f, ", pool peak {}", size(self.memory_peak_bytes))?;
            if self.spilled_bytes > 0 {
                write!(f, ", spilled {}", size(self.spilled_bytes))?;
            }
            writeln!(f)?;
            if self.broadcasts > 0 {
                let bytes = size(self.broadcast_bytes);
                writeln!(f, "           got {} of joins, {bytes}", counted(self.broadcasts, "build side"))?;
            }
            if self.shuffles > 0 {
                let (stages, objects) =
                    (counted(self.shuffles, "stage"), counted(self.shuffle_objects as usize, "object"));
                write!(f, "           {stages} sent rows to functions, {} in {objects}", size(self.shuffle_bytes))?;
                match self.shuffles_restored {
                    0 => writeln!(f)?,
                    restored => writeln!(f, "; rows of {} were lost and made anew", counted(restored, "fragment"))?,
                }
            }
            if self.partitions_split > 0 {
                let partitions = counted(self.partitions_split as usize, "large partition");
                writeln!(f, "           several lanes shared the rows of {partitions}")?;
            }
            if self.fragments_taken_apart > 0 {
                let fragments = counted(self.fragments_taken_apart, "fragment");
                writeln!(f, "           {fragments} ran out of memory and went on partition by partition")?;
            }
            if self.left_out_units > 0 {
                let (units, bytes) = (counted(self.left_out_units as usize, "scan unit"), size(self.left_out_bytes));
                let fragments = counted(self.left_out_fragments as usize, "fragment");
                writeln!(f, "           keys of joins left out {units}, {bytes} of projected columns, {fragments}")?;
            }
            if self.builds_copied > 0 {
                let stages = counted(self.builds_copied, "stage");
                writeln!(f, "           joins of {stages} got copies of build sides, which turned out to be small")?;
            }
            if self.joined_here > 0 {
                let stages = counted(self.joined_here, "stage");
                writeln!(f, "           joins of {stages} were done here: more rows than broadcast_bytes_max allows")?;
            }
            if let Some(waits) = self.functions.waits_text() {
                writeln!(f, "           {waits}")?;
            }
        }
        let StorageUse { requests, bytes_read, .. } = &self.coordinator;
        writeln!(f, "here       read {} in {}, {} rows", size(*bytes_read), requests_text(requests), self.rows)?;
        if let Some(waits) = self.coordinator.waits_text() {
            writeln!(f, "           {waits}")?;
        }
        let Phases { plan, invoke, read, finish, total } = self.seconds;
        write!(f, "time       {total:.3} s: plan {plan:.3}")?;
        if self.attempts > 0 {
            write!(f, ", invoke {invoke:.3}, read {read:.3}")?;
        }
        write!(f, ", finish {finish:.3}")?;
        match (&self.cost, &self.cost_unknown) {
            (Some(cost), _) => write!(f, "\n{cost}")?,
            (None, Some(why)) => {
                write!(f, "\ncost       not known: {}", in_report(why, self.cost_unknown_hint.as_deref()))?;
            }
            (None, None) => {}
        }
        match &self.history_not_recorded {
            Some(why) => write!(f, "\nhistory    not recorded: {}", in_report(why, None)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
