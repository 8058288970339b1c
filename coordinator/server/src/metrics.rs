//! Metrics for Prometheus, folded from the reports of statements, as the history is: they cannot disagree.
//!
//! No label has an id or a text of a client's, so that the number of series is bounded. Budgets have the names of the configuration,
//! and are shown to those who share them.

use std::sync::atomic::AtomicU64;

use gust_engine::cap::BudgetState;
use gust_engine::history::StatementEnd;
use gust_engine::report::Report;
use gust_engine::session::MemoryWaits;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Beginning of each metric's name.
const PREFIX: &str = "gust";

/// Media type of the text.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the classes of a statement's seconds.
const SECONDS: [f64; 12] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];

type Dollars = Counter<f64, AtomicU64>;

/// Dollars of each budget.
type BudgetDollars = Family<BudgetLabel, Gauge<f64, AtomicU64>>;

/// All metrics of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    statements: Family<OutcomeLabel, Counter>,
    errors: Family<KindLabel, Counter>,
    unpriced: Counter,
    unrecorded: Counter,
    seconds: Histogram,
    dollars: Dollars,
    dollars_wasted: Dollars,
    rows: Counter,
    fragments: Counter,
    attempts: Counter,
    attempts_wasted: Counter,
    cold_starts: Counter,
    bytes_read: Family<SideLabel, Counter>,
    requests: Family<SideLabel, Counter>,
    running: Gauge,
    waiting: Gauge,
    waiting_for_memory: Gauge,
    memory_waited_for: Gauge,
    kept: Gauge,
    pub(crate) traces: TraceCounts,
}

/// Statements by the fate of their traces. Clones share the counters.
#[derive(Debug, Clone, Default)]
pub(crate) struct TraceCounts {
    pub(crate) sent: Counter,
    pub(crate) dropped: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BudgetLabel {
    /// `user` or `group`.
    of: &'static str,
    name: String,
    /// `day` or `month`.
    period: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    /// Outcome, as the history names it.
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    /// Kind of error, as reports name it.
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideLabel {
    /// Reader of a store.
    side: &'static str,
}

/// Figures of the moment.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    pub(crate) running: usize,
    pub(crate) waiting: usize,
    pub(crate) for_memory: MemoryWaits,
    pub(crate) kept: usize,
    pub(crate) budgets: Vec<BudgetState>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let metrics = Self {
            statements: Family::default(),
            errors: Family::default(),
            unpriced: Counter::default(),
            unrecorded: Counter::default(),
            seconds: Histogram::new(SECONDS),
            dollars: Dollars::default(),
            dollars_wasted: Dollars::default(),
            rows: Counter::default(),
            fragments: Counter::default(),
            attempts: Counter::default(),
            attempts_wasted: Counter::default(),
            cold_starts: Counter::default(),
            bytes_read: Family::default(),
            requests: Family::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            waiting_for_memory: Gauge::default(),
            memory_waited_for: Gauge::default(),
            kept: Gauge::default(),
            traces: TraceCounts::default(),
            registry: Registry::default(),
        };
        let dollars = unit_of_dollars();
        registry.register("statements", "Statements that have ended", metrics.statements.clone());
        registry.register("errors", "Statements that failed, by the kind of error", metrics.errors.clone());
        registry.register("statements_unpriced", "Statements whose cost is not known", metrics.unpriced.clone());
        let unrecorded = "Statements without a record, because the history could not be written";
        registry.register("statements_unrecorded", unrecorded, metrics.unrecorded.clone());
        registry.register_with_unit("statement", "Time of statements", Unit::Seconds, metrics.seconds.clone());
        registry.register_with_unit("cost", "Known cost of statements", dollars.clone(), metrics.dollars.clone());
        registry.register_with_unit("waste", "Cost that brought no row", dollars, metrics.dollars_wasted.clone());
        registry.register("rows", "Rows of results", metrics.rows.clone());
        registry.register("fragments", "Fragments that statements were cut into", metrics.fragments.clone());
        registry.register("attempts", "Attempts of functions", metrics.attempts.clone());
        registry.register("attempts_wasted", "Attempts whose result was not used", metrics.attempts_wasted.clone());
        registry.register("cold_starts", "Attempts on functions that had to start", metrics.cold_starts.clone());
        registry.register_with_unit("read", "Bytes read from stores", Unit::Bytes, metrics.bytes_read.clone());
        registry.register("store_requests", "Requests to stores", metrics.requests.clone());
        let TraceCounts { sent, dropped } = &metrics.traces;
        registry.register("traces_sent", "Statements whose trace the collector has taken", sent.clone());
        registry.register("traces_dropped", "Statements whose trace the collector has not taken", dropped.clone());
        registry.register("queries_running", "Queries that run", metrics.running.clone());
        registry.register("queries_waiting", "Queries that wait for their turn", metrics.waiting.clone());
        let waits = "Queries among those that run which wait for memory";
        registry.register("queries_waiting_for_memory", waits, metrics.waiting_for_memory.clone());
        let bytes = "Memory that the plans of these queries are expected to hold beyond their shares";
        registry.register_with_unit("memory_waited_for", bytes, Unit::Bytes, metrics.memory_waited_for.clone());
        registry.register("statements_kept", "Submitted statements under way or kept", metrics.kept.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Counts a statement that has ended, as the history records it.
    pub(crate) fn count(&self, report: &Report, ended: &StatementEnd) {
        self.statements.get_or_create(&OutcomeLabel { outcome: ended.outcome.name() }).inc();
        if let Some(kind) = report.failed_kind {
            self.errors.get_or_create(&KindLabel { kind }).inc();
        }
        self.seconds.observe(report.seconds.total);
        match &report.cost {
            Some(cost) => {
                self.dollars.inc_by(cost.known.nano_dollars() as f64 / 1e9);
                self.dollars_wasted.inc_by(cost.waste.total.nano_dollars() as f64 / 1e9);
            }
            None => {
                self.unpriced.inc();
            }
        }
        if report.history_not_recorded.is_some() {
            self.count_unrecorded();
        }
        self.rows.inc_by(report.rows);
        self.fragments.inc_by(report.fragments as u64);
        self.attempts.inc_by(report.attempts as u64);
        self.attempts_wasted.inc_by(report.attempts_wasted as u64);
        self.cold_starts.inc_by(report.cold_starts as u64);
        for (side, usage) in [("coordinator", &report.coordinator), ("functions", &report.functions)] {
            let label = SideLabel { side };
            self.bytes_read.get_or_create(&label).inc_by(usage.bytes_read);
            self.requests.get_or_create(&label).inc_by(usage.requests.total());
        }
    }

    /// Counts a statement that was counted before, and has no record after all.
    pub(crate) fn count_unrecorded(&self) {
        self.unrecorded.inc();
    }

    /// Writes all metrics in Prometheus' format of text.
    pub(crate) fn text(&self, Moment { running, waiting, for_memory, kept, budgets }: Moment) -> String {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.running.set(number(running));
        self.waiting.set(number(waiting));
        self.waiting_for_memory.set(number(for_memory.statements));
        self.memory_waited_for.set(i64::try_from(for_memory.bytes).unwrap_or(i64::MAX));
        self.kept.set(number(kept));
        let mut text = String::new();
        // A text takes whatever is written to it.
        if let Err(error) = encode(&mut text, &self.registry).and_then(|()| encode(&mut text, &of_budgets(budgets))) {
            tracing::error!(%error, "the metrics cannot be written");
        }
        text
    }
}

fn unit_of_dollars() -> Unit {
    Unit::Other("dollars".to_owned())
}

/// Makes the metrics of some budgets. Others ask for others.
fn of_budgets(budgets: Vec<BudgetState>) -> Registry {
    let [limits, spendings, holdings] = [(); 3].map(|()| BudgetDollars::default());
    for BudgetState { config, spent, held, .. } in budgets {
        let (of, name, period) = (config.holder.kind(), config.holder.name().to_owned(), config.period.name());
        let label = BudgetLabel { of, name, period };
        for (family, money) in [(&limits, config.limit), (&spendings, spent), (&holdings, held)] {
            family.get_or_create(&label).set(money.nano_dollars() as f64 / 1e9);
        }
    }
    let mut registry = Registry::with_prefix(PREFIX);
    for (name, help, family) in [
        ("budget", "Dollars of a budget", limits),
        ("budget_spent", "Dollars that were spent of a budget in its day or month", spendings),
        ("budget_held", "Dollars of a budget that statements under way hold", holdings),
    ] {
        registry.register_with_unit(name, help, unit_of_dollars(), family);
    }
    registry
}
