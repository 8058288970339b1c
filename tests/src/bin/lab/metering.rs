//! Cost of metering: nanoseconds an event × events, beside the CPU time of the query that they belong to.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fragment_fn::metering::{Counters, CountingStore};
use gust::demo::queries;
use gust_engine::cost::Tariff;
use gust_engine::events::{AttemptCause, EventLog, QueryEvent};
use gust_engine::report::Report;
use gust_protocol::FragmentId;
use gust_tests::query::{assert_remote, run_with_events, session};
use gust_tests::stats::median;
use gust_tests::tpch;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::json;

use super::cpu::Cpu;
use super::tax::sibling;
use super::workload::Metering;
use super::{Bound, Outcome};

pub async fn measure(metering: &Metering, cache: &Path) -> anyhow::Result<Outcome> {
    let event_ns = event_ns(metering.repeats);
    let request_ns = request_ns(metering.repeats).await?;
    let tables = tpch::tables_at(cache, metering.scale, metering.files, metering.row_group_rows)?;
    let bootstrap = sibling("bootstrap_under_test")?;
    let session =
        session(gust_engine::config::Target::Processes, metering.functions, bootstrap.to_str().unwrap_or_default());
    session.set_up(&tables.create_statements().join("; ")).await?;
    let tariff = session.tariff().await?;
    let mut table = vec!["query  events  requests  fold µs  metering µs  CPU ms  share".to_owned()];
    let (mut samples, mut worst) = (Vec::new(), 0.0_f64);
    for number in &metering.queries {
        let sql = queries::query(*number);
        // The first run starts the functions and reads the footers.
        run_with_events(&session, sql).await?;
        let cpu = Cpu::now()?;
        let mut runs = Vec::new();
        for _ in 0..metering.runs {
            let (_, report, events) = run_with_events(&session, sql).await?;
            assert_remote(&report, "a metered query");
            runs.push((report, events));
        }
        let cpu = Cpu::now()?.clients_since(&cpu).as_secs_f64() / metering.runs as f64;
        let (report, events) = &runs[0];
        let fold = fold_seconds(events, &tariff, metering.runs);
        let requests = report.functions.requests.total() + report.coordinator.requests.total();
        let seconds = 1e-9 * (event_ns * events.len() as f64 + request_ns * requests as f64) + fold;
        let share = seconds / cpu;
        worst = worst.max(share);
        table.push(format!(
            "{number:>5}  {:>6}  {requests:>8}  {:>7.1}  {:>11.1}  {:>6.1}  {:.4} %",
            events.len(),
            1e6 * fold,
            1e6 * seconds,
            1e3 * cpu,
            100.0 * share
        ));
        samples.push(json!({
            "query": number, "events": events.len(), "requests": requests, "fold_seconds": fold, "cpu_seconds": cpu,
        }));
    }
    session.close().await;
    table.insert(0, format!("an event {event_ns:.0} ns, a counted request {request_ns:.0} ns"));
    Ok(Outcome {
        name: "metering",
        table,
        samples: json!({ "event_ns": event_ns, "request_ns": request_ns, "queries": samples }),
        bounds: vec![Bound {
            what: "metering's share of a query's CPU time, worst query".to_owned(),
            measured: 100.0 * worst,
            aim: 100.0 * metering.aim_share,
            worst: 100.0 * metering.worst_share,
            unit: "%",
        }],
        validity: Vec::new(),
    })
}

/// Returns the nanoseconds to book one event, in a log of its own.
fn event_ns(repeats: usize) -> f64 {
    let id = FragmentId { query: "0123456789abcdef0123456789abcdef".to_owned(), stage: 0, index: 0 };
    let log = EventLog::start();
    let started = Instant::now();
    for attempt in 0..repeats as u32 {
        log.push(QueryEvent::AttemptStarted {
            id: id.clone(),
            attempt,
            cause: AttemptCause::First,
            time: Duration::ZERO,
        });
    }
    nanoseconds_each(started.elapsed(), repeats)
}

/// Returns the nanoseconds that counting adds to a read of one byte from memory.
async fn request_ns(repeats: usize) -> anyhow::Result<f64> {
    let plain: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let key = Key::from("a");
    plain.put(&key, "a".into()).await?;
    let counted: Arc<dyn ObjectStore> = Arc::new(CountingStore::new(Arc::clone(&plain), Arc::new(Counters::default())));
    let (mut without, mut with) = (Vec::new(), Vec::new());
    // The two stores take turns, so that both meet the same machine.
    for _ in 0..20 {
        for (store, seconds) in [(&plain, &mut without), (&counted, &mut with)] {
            let started = Instant::now();
            for _ in 0..repeats / 20 {
                store.get(&key).await?.bytes().await?;
            }
            seconds.push(nanoseconds_each(started.elapsed(), repeats / 20));
        }
    }
    Ok((median(&with) - median(&without)).max(0.0))
}

/// Returns the seconds to make a priced report of a query's events, median of `runs`.
fn fold_seconds(events: &[gust_engine::events::StampedEvent], tariff: &Tariff, runs: usize) -> f64 {
    let seconds = (0..runs).map(|_| {
        let started = Instant::now();
        std::hint::black_box(Report::priced(std::hint::black_box(events), Ok(tariff)));
        started.elapsed().as_secs_f64()
    });
    median(&seconds.collect::<Vec<_>>())
}

fn nanoseconds_each(took: Duration, repeats: usize) -> f64 {
    took.as_nanos() as f64 / repeats as f64
}
