//! One server and many connections: at half of its measured capacity, above it and after that, beside a user who has most connections,
//! and beside idle ones.
//!
//! ```text
//!  alone ─► capacity (closed loop) ─► half ─► half, above, half in one loop ─► neighbours ─► idle connections
//!                                     (open loop: requests come when they are due, one of ten is large)
//! ```

use std::path::Path;

use gust_tests::query::plain;
use gust_tests::stats::{median, quantile};
use serde::Serialize;
use serde_json::json;

use load::{Answer, Load, Sample, Step, Traffic};
use process::ServerProcess;

use super::cpu::{Cpu, Shares};
use super::workload::Serve;
use super::{Bound, Outcome};

mod load;
mod process;

/// Connections that the server has beside those of the measurement.
const SPARE_CONNECTIONS: usize = 50;

/// Small answers of a load that may be slower than its bound.
const SLOW_SHARE: f64 = 0.01;

/// Requests of one load, with the server's memory meanwhile.
#[derive(Serialize)]
struct Phase {
    name: &'static str,
    seconds: f64,
    samples: Vec<Sample>,
    /// Resident bytes of the server, each quarter of a second.
    resident_bytes: Vec<u64>,
    cpu: Shares,
}

impl Phase {
    /// Returns the seconds of the small ones that have right rows, from when they were due.
    fn small(&self) -> Vec<f64> {
        let small = self.samples.iter().filter(|sample| !sample.is_large && sample.answer == Answer::Rows);
        small.map(Sample::seconds).collect()
    }

    fn p99(&self) -> f64 {
        quantile(&self.small(), 0.99)
    }

    fn count(&self, is_it: impl Fn(&Answer) -> bool) -> usize {
        self.samples.iter().filter(|sample| is_it(&sample.answer)).count()
    }

    /// Returns the growth of the server's memory from the second quarter of the load to the last one.
    fn growth(&self) -> f64 {
        let quarter = self.resident_bytes.len() / 4;
        let of = |from: usize| {
            let bytes = self.resident_bytes.iter().skip(from * quarter).take(quarter);
            median(&bytes.map(|bytes| *bytes as f64).collect::<Vec<_>>())
        };
        of(3) / of(1) - 1.0
    }
}

pub async fn measure(serve: &Serve, cache: &Path) -> anyhow::Result<Outcome> {
    let folder = tempfile::tempdir_in(cache)?;
    prepare(serve, folder.path()).await;
    let connections_max = serve.idle_connections + serve.connections + SPARE_CONNECTIONS;
    let server = ServerProcess::start(folder.path(), serve.users, connections_max)?;
    let lab = Measurement { serve, server: &server, expect: load::expected(&server, serve).await? };
    let everybody = |steps: Vec<Step>| Traffic {
        users: (0..serve.users).collect(),
        connections: serve.connections,
        steps,
        large_share: serve.large_share,
    };
    let one = |large_share: f64| Traffic { users: vec![0], connections: 1, steps: Vec::new(), large_share };

    // Footers are read, and files are in the system's cache.
    lab.phase("warm-up", vec![one(0.5)], serve.alone_seconds / 2.0).await?;
    let alone = lab.phase("small alone", vec![one(0.0)], serve.alone_seconds).await?;
    let large = lab.phase("large alone", vec![one(1.0)], serve.alone_seconds / 2.0).await?;
    let crowd = Traffic { connections: serve.capacity_connections, ..everybody(Vec::new()) };
    let full = lab.phase("capacity", vec![crowd], serve.capacity_seconds).await?;
    let capacity = full.count(|answer| *answer == Answer::Rows) as f64 / full.seconds;
    let at = |share: f64, seconds: f64| Step { seconds, per_second: share * capacity };
    let half = lab.phase("half", vec![everybody(vec![at(0.5, serve.half_seconds)])], serve.half_seconds).await?;
    // Refusals above capacity, and requests that still wait at its end, are in the same loop as what comes after.
    let steps = vec![at(0.5, serve.before_seconds), at(serve.above, serve.above_seconds), at(0.5, serve.after_seconds)];
    let seconds: f64 = steps.iter().map(|step| step.seconds).sum();
    let above = lab.phase("above and after", vec![everybody(steps)], seconds).await?;
    // Both users have their connections' part of half of the capacity.
    let of_user = |user: usize, connections: usize| Traffic {
        users: vec![user],
        connections,
        steps: vec![at(0.5 * connections as f64 / serve.connections as f64, serve.half_seconds)],
        large_share: serve.large_share,
    };
    let few = of_user(1, serve.connections - serve.neighbour_connections);
    let by_itself = lab.phase("one user", vec![few.clone()], serve.half_seconds).await?;
    let many = of_user(0, serve.neighbour_connections);
    let mut beside = lab.phase("beside another", vec![few, many], serve.half_seconds).await?;
    beside.samples.retain(|sample| sample.user == 1);
    let before = server.resident_bytes();
    let idle = load::idle(&server, serve.idle_connections).await?;
    let with_idle = lab.phase("with idle ones", vec![one(0.0)], serve.alone_seconds / 2.0).await?;
    let idle_bytes = server.resident_bytes().saturating_sub(before) as f64 / serve.idle_connections.max(1) as f64;
    let figures = Figures { capacity, idle_open: load::still_open(idle).await, idle_bytes };
    server.stop()?;
    Ok(outcome(serve, &[alone, large, full, half, above, by_itself, beside, with_idle], figures))
}

/// Writes the server's table.
async fn prepare(serve: &Serve, folder: &Path) {
    let rows = format!("SELECT value AS k, (value * 7919) % 100003 AS v FROM generate_series(1, {})", serve.rows);
    let to = folder.join("t/a.parquet");
    let options = format!("OPTIONS ('format.max_row_group_size' '{}')", serve.row_group_rows);
    plain(&[], &format!("COPY ({rows}) TO '{}' STORED AS PARQUET {options}", to.display())).await;
}

/// Figures beside those of the phases.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figures {
    /// Queries a second.
    capacity: f64,
    /// Idle connections that the server has kept.
    idle_open: usize,
    /// Bytes of the server's memory for each idle connection.
    idle_bytes: f64,
}

/// Server under measurement.
struct Measurement<'a> {
    serve: &'a Serve,
    server: &'a ServerProcess,
    expect: load::Expected,
}

impl Measurement<'_> {
    async fn phase(&self, name: &'static str, traffics: Vec<Traffic>, seconds: f64) -> anyhow::Result<Phase> {
        let cpu = Cpu::now()?;
        let load = Load { traffics, seconds, seed: self.serve.seed };
        let (samples, resident_bytes) = load.run(self.server, self.serve, &self.expect).await?;
        let cpu = Cpu::now()?.shares_since(&cpu);
        let phase = Phase { name, seconds, samples, resident_bytes, cpu };
        eprintln!("{}", phase.line());
        Ok(phase)
    }
}

impl Phase {
    fn line(&self) -> String {
        let (small, refused) = (self.small(), self.count(|answer| *answer == Answer::Refused));
        let rows = self.count(|answer| *answer == Answer::Rows);
        let others = self.samples.len() - rows - refused;
        let resident = self.resident_bytes.last().copied().unwrap_or_default() as f64 / 1e6;
        format!(
            "{:<15} {:>7.1} {:>9.1} {:>9.1} {:>8} {:>7} {:>6} {:>6.0} {:>8.2} {:>7.2}",
            self.name,
            rows as f64 / self.seconds,
            1e3 * median(&small),
            1e3 * quantile(&small, 0.99),
            rows,
            refused,
            others,
            resident,
            self.cpu.clients,
            self.cpu.others(),
        )
    }

    /// Returns the seconds from this moment of the load on after which no request is refused or fails any more, and no more small ones are
    /// slower than the bound than may be.
    fn normal_after(&self, moment: f64, slow_seconds: f64) -> f64 {
        let is_normal = |from: f64| {
            let later = || self.samples.iter().filter(|sample| sample.due >= moment + from);
            let small = || later().filter(|sample| !sample.is_large);
            let slow = small().filter(|sample| sample.seconds() > slow_seconds).count();
            later().all(|sample| sample.answer == Answer::Rows)
                && slow as f64 <= (SLOW_SHARE * small().count() as f64).ceil()
        };
        // The last second alone says nothing.
        (0..(self.seconds - moment) as u32).map(f64::from).find(|from| is_normal(*from)).unwrap_or(f64::INFINITY)
    }
}

fn outcome(serve: &Serve, phases: &[Phase; 8], figures: Figures) -> Outcome {
    let [alone, _, _, half, above, by_itself, beside, with_idle] = phases;
    let heading = "load            rows/s    p50 ms    p99 ms     rows refused others RSS MB CPU both  others";
    let mut table = vec![
        format!(
            "{} connections of {} users; capacity {:.1} queries/s",
            serve.connections, serve.users, figures.capacity
        ),
        heading.to_owned(),
    ];
    table.extend(phases.iter().map(Phase::line));
    let later = above.resident_bytes.last().copied().unwrap_or_default() as f64;
    let before = half.resident_bytes.last().copied().unwrap_or_default() as f64;
    table.push(format!("memory after the load above capacity over that after half: {:.2}", later / before));
    table.push(format!("memory of an idle connection: {:.1} kB", figures.idle_bytes / 1e3));
    let refusals: Vec<f64> =
        above.samples.iter().filter(|it| it.answer == Answer::Refused).map(|it| it.ended - it.sent).collect();
    table.push(format!(
        "refusals above capacity: {}, p50 {:.1} ms, p99 {:.1} ms",
        refusals.len(),
        1e3 * median(&refusals),
        1e3 * quantile(&refusals, 0.99)
    ));
    let bound = |what: &str, measured: f64, limits: super::workload::Limits, unit: &'static str| Bound {
        what: what.to_owned(),
        measured,
        aim: limits.aim,
        worst: limits.worst,
        unit,
    };
    let no_rows = |phase: &Phase| phase.count(|answer| *answer != Answer::Rows) as f64;
    let none = super::workload::Limits { aim: 0.0, worst: 0.0 };
    let typed = |answer: &Answer| matches!(answer, Answer::Rows | Answer::Refused);
    let bounds = &serve.bounds;
    let slow = bounds.half.worst * alone.p99();
    let judged = vec![
        bound("p99 of small ones at half of the capacity over alone", half.p99() / alone.p99(), bounds.half, "times"),
        bound("requests without rows at half", no_rows(half), none, ""),
        bound(
            "answers above capacity that are no rows and no typed refusal",
            above.count(|it| !typed(it)) as f64,
            none,
            "",
        ),
        bound("slowest refusal", 1e3 * quantile(&refusals, 1.0), bounds.refusal_ms, "ms"),
        bound(
            "normal again after",
            above.normal_after(serve.before_seconds + serve.above_seconds, slow),
            bounds.normal_seconds,
            "s",
        ),
        bound("growth of memory at half", half.growth(), bounds.growth, "of all"),
        bound("p99 of a user beside another over by itself", beside.p99() / by_itself.p99(), bounds.neighbour, "times"),
        bound("idle connections that were closed", (serve.idle_connections - figures.idle_open) as f64, none, ""),
        bound("p99 with idle connections over alone", with_idle.p99() / alone.p99(), bounds.idle, "times"),
    ];
    let others = phases.iter().map(|phase| phase.cpu.others()).fold(0.0, f64::max);
    let late: Vec<f64> = half.samples.iter().map(|it| it.sent - it.due).collect();
    let validity = vec![
        (
            "every answer with rows has the right ones".to_owned(),
            phases.iter().all(|it| it.count(|a| *a == Answer::Wrong) == 0),
        ),
        ("above capacity some were refused".to_owned(), !refusals.is_empty()),
        (
            format!("at half 99 % of the requests left within {} ms", serve.late_ms_max),
            1e3 * quantile(&late, 0.99) <= serve.late_ms_max,
        ),
        (
            format!("other programs within {:.0} % of the machine", 100.0 * serve.others_share_max),
            others <= serve.others_share_max,
        ),
    ];
    Outcome { name: "serve", table, samples: json!({ "figures": figures, "phases": phases }), bounds: judged, validity }
}
