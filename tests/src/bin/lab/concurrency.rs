//! Many users at once: on functions that they share, on a coordinator that has one pipe for all of them, and where `auto` sends them.

use std::time::Instant;

use futures::future::try_join_all;
use gust_engine::config::{Config, Target};
use gust_engine::session::Session;
use gust_tests::cloud;
use gust_tests::query::run_with_events;
use gust_tests::s3::{S3Server, Shape, accounts};
use gust_tests::stats::{median, quantile};
use serde::Serialize;
use serde_json::json;

use super::cloud_table::CloudTable;
use super::cpu::{Cpu, Shares};
use super::tax::sibling;
use super::workload::Concurrency;
use super::{Bound, Outcome};

/// Latencies and usage of all users together, in one place.
#[derive(Serialize)]
struct PlaceSample {
    place: &'static str,
    /// Seconds of each query, from its text to its last row.
    latencies: Vec<f64>,
    seconds: f64,
    cpu: Shares,
    requests: u64,
    bytes: u64,
    pipes: usize,
    /// Queries that functions have answered.
    on_functions: usize,
    all_as_asked: bool,
}

impl PlaceSample {
    fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }
}

pub async fn measure(
    concurrency: &Concurrency,
    shape: &Shape,
    data: &CloudTable,
    users: usize,
) -> anyhow::Result<Outcome> {
    let server = S3Server::start()?;
    let create = data.put(&server, "t").await?;
    let query = data.query(concurrency.columns);
    let mut sides = Vec::new();
    for (place, target) in [("functions", Target::Processes), ("local", Target::Local), ("auto", Target::Auto)] {
        let config = Config { on: target, functions_max: concurrency.functions, ..Config::default() };
        server.set_shape(None);
        let session = cloud::session(&server, config, &sibling("bootstrap_under_test")?)?;
        run_with_events(&session, &create).await?;
        // The first run starts every function and reads the footers.
        run_with_events(&session, &query).await?;
        server.set_shape(Some(shape.clone()));
        server.take_requests();
        let side = side(place, &session, &server, &query, users, concurrency.rounds).await;
        session.close().await;
        sides.push(side?);
    }
    Ok(outcome(concurrency, users, &sides))
}

async fn side(
    place: &'static str,
    session: &Session,
    server: &S3Server,
    query: &str,
    users: usize,
    rounds: usize,
) -> anyhow::Result<PlaceSample> {
    let cpu = Cpu::now()?;
    let started = Instant::now();
    let user = async || {
        let (mut latencies, mut remote, mut as_asked) = (Vec::new(), 0, true);
        for _ in 0..rounds {
            let asked = Instant::now();
            let (_, report, _) = run_with_events(session, query).await?;
            latencies.push(asked.elapsed().as_secs_f64());
            let is_remote = report.fragments > 0;
            remote += usize::from(is_remote);
            as_asked &= report.fragments_adopted == report.fragments
                && (place == "auto" || is_remote == (place == "functions"));
        }
        anyhow::Ok((latencies, remote, as_asked))
    };
    let answers = try_join_all((0..users).map(|_| user())).await?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = Cpu::now()?.shares_since(&cpu);
    let accounts = accounts(&server.take_requests());
    Ok(PlaceSample {
        place,
        all_as_asked: answers.iter().all(|(_, _, as_asked)| *as_asked),
        on_functions: answers.iter().map(|(_, remote, _)| remote).sum(),
        latencies: answers.into_iter().flat_map(|(latencies, _, _)| latencies).collect(),
        seconds,
        cpu,
        requests: accounts.values().flat_map(|account| account.requests.values()).sum(),
        bytes: server.passed_bytes().values().sum(),
        pipes: accounts.values().filter(|account| account.bytes_read > 0).count(),
    })
}

fn outcome(concurrency: &Concurrency, users: usize, sides: &[PlaceSample]) -> Outcome {
    let mut table = vec![
        format!("{users} users, {} queries each, one after the other", concurrency.rounds),
        "place      queries/s  remote  p50 s  p99 s  pipes  requests  MB read  CPU server clients machine".to_owned(),
    ];
    let mut validity = Vec::new();
    for side in sides {
        let PlaceSample { place, latencies, cpu, requests, bytes, pipes, on_functions, all_as_asked, .. } = side;
        table.push(format!(
            "{place:<9}  {:>9.2}  {on_functions:>6}  {:>5.2}  {:>5.2}  {pipes:>5}  {requests:>8}  {:>7.1}  {:>10.2} {:>7.2} {:>7.2}",
            side.per_second(),
            median(latencies),
            quantile(latencies, 0.99),
            *bytes as f64 / 1e6,
            cpu.server,
            cpu.clients,
            cpu.machine,
        ));
        let quiet =
            format!("{place}: server, clients and machine within {:.0} % CPU", 100.0 * concurrency.cpu_share_max);
        validity.push((quiet, cpu.most() <= concurrency.cpu_share_max));
        validity
            .push((format!("{place}: every query ran where it was to, and used each fragment once"), *all_as_asked));
    }
    let p99 = |place: &str| {
        let side = sides.iter().find(|side| side.place == place);
        side.map_or(f64::NAN, |side| quantile(&side.latencies, 0.99))
    };
    Outcome {
        name: "concurrency",
        table,
        samples: json!(sides),
        bounds: vec![
            Bound {
                what: "p99 on functions over p99 locally".to_owned(),
                measured: p99("functions") / p99("local"),
                aim: concurrency.aim_ratio,
                worst: concurrency.worst_ratio,
                unit: "",
            },
            Bound {
                what: "p99 by auto over the better of both".to_owned(),
                measured: p99("auto") / p99("functions").min(p99("local")),
                aim: concurrency.auto.aim,
                worst: concurrency.auto.worst,
                unit: "",
            },
        ],
        validity,
    }
}
