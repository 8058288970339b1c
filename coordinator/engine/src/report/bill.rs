//! Folds a query's events, with a tariff, into a report in money. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gust_protocol::{FragmentId, Requests};
use serde::Serialize;

use crate::attempt::Billing;
use crate::cost::{Architecture, Basis, Item, Quantities, Tariff, line_cost};
use crate::events::{AttemptCause, AttemptOutcome, QueryEvent, StampedEvent};
use crate::model::load::OwnUsage;
use crate::money::Money;
use crate::report::{AttemptTariffs, StageCost};

/// Bytes that Athena bills at least: ten megabytes. It bills by the megabyte (AWS, Athena pricing, November 2026).
const ATHENA_BYTES_MIN: u64 = 10 << 20;
const ATHENA_BYTES_STEP: u64 = 1 << 20;
const TB: u128 = 1 << 40;

/// Cost of a query. Amounts are in nano-dollars.
#[derive(Debug, Clone, Serialize)]
pub struct CostReport {
    pub region: String,
    pub prices_date: String,
    /// Warning about prices that are too old.
    pub prices_stale: Option<String>,
    pub architecture: Architecture,
    /// True if the functions were processes on this machine. Then the bill is never sent.
    pub as_if: bool,
    /// Money that is reported or metered.
    pub known: Money,
    /// Money that is known, and the bounded amounts at their bounds. Unknown lines come on top.
    pub at_most: Money,
    /// True if every line has an amount.
    pub is_complete: bool,
    pub lines: Vec<CostLine>,
    /// Part of all this that did not contribute to the result.
    pub waste: Waste,
    pub athena: Athena,
}

/// Amount of one kind of spending.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CostLine {
    #[serde(flatten)]
    pub item: Item,
    pub basis: Basis,
    pub quantity: f64,
    pub unit: &'static str,
    #[serde(rename = "nano_dollars")]
    pub cost: Option<Money>,
}

/// Spending that brought no row. No amount is a part of another. Bounded attempts count at their bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Waste {
    /// First attempts that failed.
    pub failed: Money,
    /// Retries that failed, too.
    pub retried: Money,
    /// Speculative attempts that were not used, and attempts that a speculative one made superfluous.
    pub speculative: Money,
    /// Attempts that still ran, or whose rows were still unread, when the query was over.
    pub cancelled: Money,
    /// Reads of used attempts and of the coordinator that were sent a second time.
    pub hedged: Money,
    pub total: Money,
}

/// Price that Athena has for the bytes that were used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Athena {
    pub bytes: u64,
    #[serde(rename = "nano_dollars")]
    pub cost: Money,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum WasteKind {
    Failed,
    Retried,
    Speculative,
    Cancelled,
    Hedged,
}

/// Folds a query's events so far.
///
/// An attempt whose memory size the platform did not tell has the size that was planned when it began.
pub fn price(events: &[StampedEvent], tariff: &Tariff) -> CostReport {
    let mut fold = BillFold::new(events, tariff);
    for StampedEvent { at, event } in events {
        fold.add(*at, event);
    }
    fold.report()
}

/// Returns the time at which the exchange is cleaned.
fn end_of(events: &[StampedEvent]) -> Duration {
    events.last().map_or(Duration::ZERO, |last| last.at)
}

/// Returns the money for the attempts of each stage.
///
/// Money is made of sums, and each line of a bill is rounded. So a stage has what the sum over the stages grows by with it, and the stages add up to
/// the bill.
pub(super) fn stage_costs(events: &[StampedEvent], tariff: &Tariff) -> BTreeMap<u32, StageCost> {
    let (tariffs, end) = (AttemptTariffs::of(events, tariff), end_of(events));
    let mut by_stage: BTreeMap<u32, Quantities> = BTreeMap::new();
    for StampedEvent { at, event } in events {
        if let QueryEvent::AttemptEnded { id, attempt, outcome, billing, .. } = event {
            let own = tariffs.of_attempt(id, *attempt);
            let spent = attempt_spent(outcome, *billing, end.saturating_sub(*at), own);
            by_stage.entry(id.stage).or_default().add_all(&spent);
        }
    }
    let (mut sum, mut before) = (Quantities::default(), StageCost::default());
    let mut cost = |(stage, spent): (u32, Quantities)| {
        sum.add_all(&spent);
        let known = |basis| matches!(basis, Basis::Reported | Basis::Metered);
        let lines = sum.iter().map(|(item, basis, quantity)| (basis, line_cost(item, basis, quantity, tariff)));
        let lines: Vec<(Basis, Money)> = lines.filter_map(|(basis, cost)| Some((basis, cost?))).collect();
        let after = StageCost {
            known: lines.iter().filter(|(basis, _)| known(*basis)).map(|(_, cost)| *cost).sum(),
            at_most: lines.iter().map(|(_, cost)| *cost).sum(),
        };
        let own = StageCost {
            known: after.known.saturating_sub(before.known),
            at_most: after.at_most.saturating_sub(before.at_most),
        };
        before = after;
        (stage, own)
    };
    by_stage.into_iter().map(&mut cost).collect()
}

struct BillFold<'a> {
    tariff: &'a Tariff,
    tariffs: AttemptTariffs<'a>,
    /// Time at which the exchange is cleaned.
    end: Duration,
    adopted: BTreeSet<(&'a FragmentId, u32)>,
    /// Fragments with an attempt that was slow enough for a second one.
    doubled: BTreeSet<&'a FragmentId>,
    open: BTreeMap<(&'a FragmentId, u32), AttemptCause>,
    total: Quantities,
    waste: BTreeMap<WasteKind, Quantities>,
    /// Bytes of tables that used attempts read.
    table_bytes: u64,
    /// All reads and writes of the coordinator, and those that are billed.
    coordinator: OwnUsage,
    exchange_reads: u64,
    /// Bytes of results that the coordinator fetched.
    exchange_bytes: u64,
    /// Bytes of results that came in answers.
    inline_bytes: u64,
    invoked: u64,
    /// True if an attempt was begun.
    has_attempts: bool,
}

impl<'a> BillFold<'a> {
    fn new(events: &'a [StampedEvent], tariff: &'a Tariff) -> Self {
        let mut adopted = BTreeSet::new();
        for StampedEvent { event, .. } in events {
            match event {
                QueryEvent::FragmentAdopted { id, attempt, .. } => adopted.insert((id, *attempt)),
                QueryEvent::RowsRestored { id, lost, attempt, .. } => {
                    adopted.remove(&(id, *lost));
                    adopted.insert((id, *attempt))
                }
                _ => false,
            };
        }
        let doubled = events.iter().filter_map(|stamped| match &stamped.event {
            QueryEvent::AttemptStarted { id, cause: AttemptCause::Speculative, .. } => Some(id),
            _ => None,
        });
        Self {
            tariff,
            tariffs: AttemptTariffs::of(events, tariff),
            doubled: doubled.collect(),
            end: end_of(events),
            adopted,
            open: BTreeMap::new(),
            total: Quantities::default(),
            waste: BTreeMap::new(),
            table_bytes: 0,
            coordinator: OwnUsage::default(),
            exchange_reads: 0,
            exchange_bytes: 0,
            inline_bytes: 0,
            invoked: 0,
            has_attempts: false,
        }
    }

    fn add(&mut self, at: Duration, event: &'a QueryEvent) {
        match event {
            QueryEvent::AttemptStarted { id, attempt, cause, .. } => {
                self.has_attempts = true;
                self.open.insert((id, *attempt), *cause);
            }
            QueryEvent::AttemptEnded { id, attempt, outcome, billing, .. } => {
                let cause = self.open.remove(&(id, *attempt)).unwrap_or(AttemptCause::First);
                let own = self.tariffs.of_attempt(id, *attempt);
                let spent = attempt_spent(outcome, *billing, self.end.saturating_sub(at), own);
                self.invoked += u64::from(spent.iter().any(|(item, ..)| item == Item::Invocations));
                self.total.add_all(&spent);
                if !self.adopted.contains(&(id, *attempt)) {
                    let kind = self.waste_kind(id, cause, outcome);
                    self.waste.entry(kind).or_default().add_all(&spent);
                } else if let AttemptOutcome::Done { usage, .. } = outcome {
                    self.table_bytes += usage.bytes_read.saturating_sub(usage.exchange_bytes_read);
                    self.hedged(&usage.requests, Item::TableReads);
                }
            }
            QueryEvent::FragmentAdopted { result_bytes, inline: true, .. } => self.inline_bytes += result_bytes,
            QueryEvent::FragmentAdopted { result_bytes, inline: false, .. } => {
                self.exchange_reads += 1;
                self.exchange_bytes += result_bytes;
            }
            QueryEvent::BuildsCopied { objects, object_bytes, .. } => {
                self.exchange_reads += objects;
                self.exchange_bytes += object_bytes;
            }
            QueryEvent::CoordinatorRead { usage, billed } => {
                let OwnUsage { all, billed: own } = &mut self.coordinator;
                for (sum, more) in [(all, usage), (own, billed)] {
                    sum.requests += more.requests;
                    sum.bytes_read += more.bytes_read;
                }
                self.hedged(&usage.requests, Item::CoordinatorReads);
            }
            QueryEvent::TakenOver { takeovers } => {
                self.total.add(Item::LostCoordinators, Basis::Unknown, *takeovers);
            }
            QueryEvent::Planned { .. }
            | QueryEvent::Begun
            | QueryEvent::Quoted { .. }
            | QueryEvent::StageStarted { .. }
            | QueryEvent::PlanPublished { .. }
            | QueryEvent::DeletesPublished { .. }
            | QueryEvent::RowsBroadcast { .. }
            | QueryEvent::RowsParted { .. }
            | QueryEvent::PartitionsSplit { .. }
            | QueryEvent::FragmentTakenApart { .. }
            | QueryEvent::RowsRestored { .. }
            | QueryEvent::KeysLeftOut { .. }
            | QueryEvent::JoinedHere { .. }
            | QueryEvent::MemoryWanted { .. }
            | QueryEvent::MemoryClaimed { .. }
            | QueryEvent::FellBack { .. }
            | QueryEvent::Replanned { .. }
            | QueryEvent::Enlarged { .. }
            | QueryEvent::Restarted { .. }
            | QueryEvent::Finished { .. }
            | QueryEvent::Failed { .. } => {}
        }
    }

    /// Returns the kind of waste that an unused attempt is.
    fn waste_kind(&self, id: &FragmentId, cause: AttemptCause, outcome: &AttemptOutcome) -> WasteKind {
        let is_adopted = || self.adopted.range((id, 0)..=(id, u32::MAX)).next().is_some();
        match (outcome, cause) {
            (AttemptOutcome::Cancelled, _) => WasteKind::Cancelled,
            (_, AttemptCause::Speculative) => WasteKind::Speculative,
            (AttemptOutcome::Done { .. }, _) if !is_adopted() => WasteKind::Cancelled,
            (AttemptOutcome::Done { .. }, _) if self.doubled.contains(id) => WasteKind::Speculative,
            (_, AttemptCause::Retry) => WasteKind::Retried,
            // A result that could not be read as promised is a failure, too.
            (_, AttemptCause::First) => WasteKind::Failed,
        }
    }

    fn hedged(&mut self, requests: &Requests, item: Item) {
        self.waste.entry(WasteKind::Hedged).or_default().add(item, Basis::Metered, requests.hedged);
    }

    fn report(mut self) -> CostReport {
        self.add_coordinator();
        let Self { tariff, total, waste, open, .. } = &mut self;
        total.add(Item::OpenAttempts, Basis::Unknown, open.len() as u128);
        let lines: Vec<CostLine> = total
            .iter()
            .map(|(item, basis, quantity)| {
                let cost = line_cost(item, basis, quantity, tariff);
                let (quantity, unit) = item.shown(quantity);
                CostLine { item, basis, quantity, unit, cost }
            })
            .collect();
        let sum = |bases: &[Basis]| -> Money {
            lines.iter().filter(|line| bases.contains(&line.basis)).filter_map(|line| line.cost).sum()
        };
        let known = sum(&[Basis::Reported, Basis::Metered]);
        let at_most = known + sum(&[Basis::Bounded]);
        let wasted = |kind| waste.get(&kind).map_or(Money::ZERO, |spent| spent.cost(tariff));
        let mut waste = Waste {
            failed: wasted(WasteKind::Failed),
            retried: wasted(WasteKind::Retried),
            speculative: wasted(WasteKind::Speculative),
            cancelled: wasted(WasteKind::Cancelled),
            hedged: wasted(WasteKind::Hedged),
            total: Money::ZERO,
        };
        waste.total = waste.failed + waste.retried + waste.speculative + waste.cancelled + waste.hedged;
        let is_complete = lines.iter().all(|line| line.cost.is_some());
        let athena = athena(self.table_bytes + self.coordinator.all.bytes_read - self.exchange_bytes, self.tariff);
        let Tariff { book, architecture, as_if, stale, .. } = self.tariff;
        CostReport {
            region: book.region.clone(),
            prices_date: book.date.to_string(),
            prices_stale: stale.clone(),
            architecture: *architecture,
            as_if: *as_if,
            known,
            at_most,
            is_complete,
            lines,
            waste,
            athena,
        }
    }

    fn add_coordinator(&mut self) {
        let OwnUsage { all, billed } = self.coordinator;
        let Requests { get, head, list, put, .. } = billed.requests;
        // Reads of adopted results are among the coordinator's. The bill of a query that still runs may not have those yet.
        self.exchange_reads = self.exchange_reads.min(all.requests.get);
        self.exchange_bytes = self.exchange_bytes.min(all.bytes_read);
        // Results without a bill lie in a folder of this machine, and are priced as if they lay in S3.
        let (files, file_bytes) = match self.tariff.as_if {
            // With an exchange in S3 all that is billed are results.
            true if get > 0 && get == self.exchange_reads => (0, 0),
            true => (all.requests.get.saturating_sub(get), all.bytes_read.saturating_sub(billed.bytes_read)),
            false => (0, 0),
        };
        // The coordinator writes into the exchange alone, and lists it once to clean up.
        let (put, list) = match self.tariff.as_if && self.has_attempts {
            true => {
                (all.requests.put, list + all.requests.list.saturating_sub(list).min(u64::from(all.requests.put > 0)))
            }
            false => (put, list),
        };
        let results = self.exchange_reads - self.exchange_reads.min(files);
        let result_bytes = self.exchange_bytes.min(file_bytes);
        let total = &mut self.total;
        total.add(Item::ExchangeReads, Basis::Metered, self.exchange_reads);
        total.add(Item::Logs, Basis::Unknown, self.invoked);
        let requests = Requests { get: get.saturating_sub(results), head, list, put, ..Requests::default() };
        total.add_own(&requests, billed.bytes_read + result_bytes + self.inline_bytes, self.end, self.tariff);
    }
}

/// Returns the money that attempts and the coordinator's reads have cost, without its time. Bounded amounts count at their bound.
pub fn spent_until_now(events: &[StampedEvent], tariff: &Tariff) -> Money {
    let mut spent = Quantities::default();
    for StampedEvent { event, .. } in events {
        match event {
            QueryEvent::AttemptEnded { outcome, billing, .. } => {
                spent.add_all(&attempt_spent(outcome, *billing, Duration::ZERO, tariff));
            }
            QueryEvent::CoordinatorRead { billed, .. } => {
                spent.add_own(&billed.requests, billed.bytes_read, Duration::ZERO, tariff);
            }
            _ => {}
        }
    }
    spent.cost(tariff)
}

/// Returns the quantities that one attempt spent. Its result lies in the exchange for the time `stored`.
pub fn attempt_spent(outcome: &AttemptOutcome, billing: Billing, stored: Duration, tariff: &Tariff) -> Quantities {
    let mut spent = Quantities::default();
    spent.add_billing(billing, tariff);
    let was_started = spent != Quantities::default();
    match outcome {
        AttemptOutcome::Done { usage, .. } | AttemptOutcome::FragmentFailed { usage, .. } => {
            spent.add_usage(usage, stored);
        }
        AttemptOutcome::InvokeFailed { .. } | AttemptOutcome::Cancelled if was_started => {
            spent.add(Item::LostRequests, Basis::Unknown, 1_u128);
        }
        AttemptOutcome::InvokeFailed { .. } | AttemptOutcome::Cancelled => {}
    }
    spent
}

fn athena(bytes: u64, tariff: &Tariff) -> Athena {
    let billed = match bytes {
        0 => 0,
        bytes => bytes.max(ATHENA_BYTES_MIN).div_ceil(ATHENA_BYTES_STEP) * ATHENA_BYTES_STEP,
    };
    Athena { bytes, cost: tariff.book.athena.tb_scanned.of(billed.into(), TB) }
}

#[cfg(test)]
#[path = "bill_tests.rs"]
mod tests;
