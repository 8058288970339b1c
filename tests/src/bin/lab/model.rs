//! Published queries at scale factor 1000 in virtual time, from microbenchmarks alone; then ours on the same bytes: scans, and queries with stages over stages.
//!
//! Nothing is fitted to a query's time. If the model is off by more than the workload allows, the table says so, and its seconds and cents are too low.
//! A staged query is the graph of its plan (`tests/tests/snapshots/tpch_*.snap`, "Shuffle, Hash" without the groups that follow): scans, exchanges and joins of rows that
//! stand for as many bytes as were measured.

use std::sync::Arc;
use std::time::Duration;

use gust_engine::config::Config;
use gust_engine::events::{AttemptOutcome, QueryEvent};
use gust_engine::model::{EnvironmentRamp, Latency, Pipe, TimeModel};
use gust_engine::planner::DigestBounds;
use gust_engine::planner::passes::pack::Packing;
use gust_engine::scheduler::{SchedulerSettings, SpeculationPolicy};
use gust_tests::fleet::{
    FaultPlan, Graph, GraphStep, PartsReading, Platform, QueryOutcome, SentShares, SimulatedQuery, World, WorldOutcome,
    run_virtually,
};
use gust_tests::stats::median;
use serde_json::json;

use super::workload::{Figures, Model, Prices, StagedQuery};
use super::{Bound, Outcome, on_all_cores};

const MIB: u64 = 1 << 20;

/// Time that our coordinator adds per fragment (`lab fanout`), in the model that packs.
const FRAGMENT_OVERHEAD: Duration = Duration::from_micros(20);

pub fn measure(model: &Model, fleet: &Platform, prices: &Prices) -> Outcome {
    let mut table = vec!["query                            functions  seconds    cents  requests".to_owned()];
    let (mut samples, mut bounds, mut all_right) = (Vec::new(), Vec::new(), true);
    let published = [("q6", q6(model), model.published.q6), ("q12", q12(model), model.published.q12)];
    for (name, phases, published) in published {
        let runs = on_all_cores(model.runs, |seed| theirs(fleet, seed).run(&phases, prices));
        all_right &= runs.iter().all(|run| run.1);
        let figures: Vec<Figures> = runs.into_iter().map(|run| run.0).collect();
        let modelled = middle(&figures);
        let error = |of: fn(&Figures) -> f64| of(&modelled) / of(&published) - 1.0;
        let off = error(|figures| figures.seconds);
        table.push(line(&format!("{name} published"), &published));
        table.push(line(&format!("{name} modelled"), &modelled));
        table.push(format!(
            "  error: functions {:+.0} %, seconds {:+.0} %, cents {:+.0} %, requests {:+.1} %{}",
            100.0 * error(|figures| figures.functions),
            100.0 * off,
            100.0 * error(|figures| figures.cents),
            100.0 * error(|figures| figures.requests),
            if off.abs() > model.error_max { "; too far off: no modelled cents are a claim" } else { "" },
        ));
        samples.push(json!({ "query": name, "published": published, "modelled": figures }));
        bounds.push(Bound {
            what: format!("error of {name}'s seconds"),
            measured: off.abs(),
            aim: model.error_max,
            // A missed aim is a finding, not a failure.
            worst: f64::INFINITY,
            unit: "of all",
        });
    }
    for (name, bytes) in ours_of(model) {
        for (temperature, warm) in [("cold", 0), ("warm", model.our_functions_max)] {
            let scan = |bytes: &Vec<u64>| ours(model, fleet, bytes, Graph::default());
            let queries = vec![bytes.iter().map(scan).collect::<Vec<_>>()];
            let runs = on_all_cores(model.runs, |seed| our_setup(model, fleet, warm, seed).run(&queries, prices));
            all_right &= runs.iter().all(|run| run.1);
            let figures: Vec<Figures> = runs.into_iter().map(|run| run.0).collect();
            table.push(line(&format!("{name}, gust, {temperature}, modelled"), &middle(&figures)));
            samples.push(json!({ "query": name, "gust": temperature, "modelled": figures }));
        }
    }
    for query in &model.staged {
        table.extend(query.published.iter().map(|published| line(&format!("{} published", query.name), published)));
        for (temperature, warm) in [("cold", 0), ("warm", model.our_functions_max)] {
            let runs = on_all_cores(model.runs, |seed| staged(model, fleet, prices, query, warm, seed));
            all_right &= runs.iter().all(|run| run.is_right);
            let figures: Vec<Figures> = runs.iter().map(|run| run.figures).collect();
            table.push(line(&format!("{}, our stages, {temperature}, modelled", query.name), &middle(&figures)));
            table.extend(runs.first().map(StagedRun::line));
            samples.push(json!({ "query": query.name, "stages": temperature, "modelled": figures }));
        }
    }
    for bytes in &model.ramp_bytes {
        for clones in &model.ramp_clones {
            let ended = ramp(model, fleet, *clones, *bytes);
            all_right &= ended.1;
            let (outcome, served) = (&ended.0.queries[0], &ended.0.served);
            let (seconds, functions) = (outcome.took.as_secs_f64(), model.ramp_functions);
            table.push(format!(
                "{functions} fragments of {} MiB, cold, {clones} clones: {seconds:>5.1} s, {} environments, {} throttled, modelled",
                bytes / MIB,
                served.cold,
                served.throttled
            ));
            samples.push(json!({ "bytes": bytes, "clones": clones, "seconds": seconds, "cold": served.cold }));
        }
    }
    Outcome {
        name: "model",
        table,
        samples: json!(samples),
        bounds,
        validity: vec![("every modelled query had the right rows".to_owned(), all_right)],
    }
}

fn line(name: &str, figures: &Figures) -> String {
    let Figures { functions, seconds, cents, requests } = figures;
    format!("{name:<34} {functions:>7.0}  {seconds:>7.2}  {cents:>7.2}  {requests:>8.0}")
}

fn middle(figures: &[Figures]) -> Figures {
    let of = |value: fn(&Figures) -> f64| median(&figures.iter().map(value).collect::<Vec<_>>());
    Figures {
        functions: of(|figures| figures.functions),
        seconds: of(|figures| figures.seconds),
        cents: of(|figures| figures.cents),
        requests: of(|figures| figures.requests),
    }
}

/// Returns the setup of the published functions: one request an input object, all results through the exchange, nothing twice.
fn theirs(fleet: &Platform, seed: u64) -> ModelSetup {
    let speculation = SpeculationPolicy::NEVER;
    ModelSetup {
        platform: Platform { footer_reads: 0, read_bytes: u64::MAX, hedged_after_ms: None, ..fleet.clone() },
        settings: SchedulerSettings { speculation, ..SchedulerSettings::new(fleet.concurrent_max, seed) },
        inline_bytes_max: 0,
        warm: 0,
    }
}

/// Returns Q6: five lineitem files a worker, and one worker that adds up.
fn q6(model: &Model) -> Vec<Vec<SimulatedQuery>> {
    let bytes = share(model.lineitem_bytes, model.q6_lineitem_share) / model.lineitem_files as u64;
    let workers = workers(model.lineitem_files, 5);
    vec![vec![stage(vec![bytes; model.lineitem_files], workers)], vec![stage(vec![1024; workers], 1)]]
}

/// Returns Q12: two scans that shuffle, a join, and one worker that adds up.
fn q12(model: &Model) -> Vec<Vec<SimulatedQuery>> {
    let scan = |bytes: u64, columns: f64, files: usize, each: usize| {
        stage(vec![share(bytes, columns) / files as u64; files], workers(files, each))
    };
    let lineitem = scan(model.lineitem_bytes, model.q12_lineitem_share, model.lineitem_files, 5);
    let orders = scan(model.orders_bytes, model.q12_orders_share, model.orders_files, 3);
    let producers = workers(model.lineitem_files, 5) + workers(model.orders_files, 3);
    let shuffled = share(model.lineitem_bytes, model.q12_lineitem_share * model.q12_lineitem_shuffled_share)
        + share(model.orders_bytes, model.q12_orders_share * model.q12_orders_shuffled_share);
    // A consumer reads its part of every producer's object.
    let parts = producers * model.q12_partitions;
    let join = stage(vec![shuffled / parts as u64; parts], model.q12_partitions);
    vec![vec![lineitem, orders], vec![join], vec![stage(vec![1024; model.q12_partitions], 1)]]
}

/// Returns the number of workers that the published generator plans for some files.
fn workers(files: usize, each: usize) -> usize {
    files / each + files % each
}

fn share(bytes: u64, share: f64) -> u64 {
    (bytes as f64 * share) as u64
}

fn stage(file_bytes: Vec<u64>, functions: usize) -> SimulatedQuery {
    let packing = Packing {
        fragment_bytes_target: 1,
        model: TimeModel::laptop(1),
        functions_max: functions,
        functions: Some(functions),
        lanes_max: 1,
        function_memory_bytes: 2 << 30,
        digest: DigestBounds::default(),
    };
    SimulatedQuery {
        begins: Duration::ZERO,
        timeout: Duration::from_secs(900),
        file_bytes,
        packing,
        graph: Graph::default(),
        cap: None,
    }
}

/// Platform and settings on which phases of queries run.
struct ModelSetup {
    platform: Platform,
    settings: SchedulerSettings,
    inline_bytes_max: u64,
    /// Environments that are warm from the start.
    warm: usize,
}

impl ModelSetup {
    /// Runs the phases. Returns their figures, and whether their rows were right.
    fn run(&self, phases: &[Vec<SimulatedQuery>], prices: &Prices) -> (Figures, bool) {
        let (ended, all_right) = self.world(phases);
        (figures(&ended, phases, prices), all_right)
    }

    fn world(&self, phases: &[Vec<SimulatedQuery>]) -> (WorldOutcome, bool) {
        let world = World {
            seed: self.settings.seed,
            platform: self.platform.clone(),
            faults: FaultPlan::default(),
            settings: self.settings,
            model: time_model(&self.platform),
            inline_bytes_max: self.inline_bytes_max,
            rows_max: 3,
            warm: self.warm,
            reading: PartsReading::AsNamed,
        };
        let ended = run_virtually(world.run(phases, |invoker, _| Arc::new(invoker)));
        let right = |query: &QueryOutcome| {
            query.rows.as_ref().is_ok_and(|rows| *rows == world.fragment_rows().rows(&query.id, &query.scans))
        };
        let all_right = ended.queries.iter().all(right);
        (ended, all_right)
    }
}

fn figures(ended: &WorldOutcome, phases: &[Vec<SimulatedQuery>], prices: &Prices) -> Figures {
    let mut outcomes = ended.queries.iter();
    let phase = |queries: &Vec<SimulatedQuery>| {
        let took = outcomes.by_ref().take(queries.len()).map(|query| query.took.as_secs_f64());
        took.fold(0.0, f64::max)
    };
    let seconds = phases.iter().map(phase).sum();
    let served = &ended.served;
    let (gets, puts) = (served.requests.get as f64, served.requests.put as f64);
    let dollars = served.gigabyte_seconds * prices.gigabyte_second
        + served.invocations as f64 / 1e6 * prices.million_invocations
        + gets / 1e3 * prices.thousand_gets
        + puts / 1e3 * prices.thousand_puts;
    Figures { functions: served.invocations as f64, seconds, cents: 100.0 * dollars, requests: gets + puts }
}

/// Returns the time model that the planner would have of the platform.
fn time_model(platform: &Platform) -> TimeModel {
    TimeModel {
        stage_overhead: Duration::from_millis(50),
        fragment_overhead: FRAGMENT_OVERHEAD,
        core_bytes_per_second: platform.core_bytes_per_second,
        pipe_bytes_per_second: 1.25e9,
        machine_pipe_bytes_per_second: 1.25e9,
        function_pipe: Pipe::LAMBDA,
        attempt_overhead: Duration::from_millis(50),
        read_latency: Latency::S3,
        reads_ahead: 0,
        function_reads_ahead: platform.reads_in_flight as usize,
        start: Duration::from_millis(250),
        cores: 8,
        function_cores: platform.cores,
    }
}

/// Returns the scans that we would run for the published queries, as files of projected columns.
fn ours_of(model: &Model) -> Vec<(&'static str, Vec<Vec<u64>>)> {
    let files = |bytes: u64, columns: f64, files: usize| vec![share(bytes, columns) / files as u64; files];
    let lineitem = |columns: f64| files(model.lineitem_bytes, columns, model.lineitem_files);
    let orders = files(model.orders_bytes, model.q12_orders_share, model.orders_files);
    vec![
        ("q6", vec![lineitem(model.q6_lineitem_share)]),
        ("q12's scans", vec![lineitem(model.q12_lineitem_share), orders]),
    ]
}

/// Returns our functions, of one core.
fn our_platform(model: &Model, fleet: &Platform) -> Platform {
    let cores = f64::from(model.our_memory_mb) / 1769.0;
    Platform { memory_mb: model.our_memory_mb, cores, ..fleet.clone() }
}

/// Returns a query with our packing, of files of projected columns.
fn ours(model: &Model, fleet: &Platform, file_bytes: &[u64], graph: Graph) -> SimulatedQuery {
    let packing = Packing {
        fragment_bytes_target: 64 * MIB,
        model: time_model(&our_platform(model, fleet)),
        functions_max: model.our_functions_max,
        functions: None,
        lanes_max: 1,
        function_memory_bytes: 2 << 30,
        digest: DigestBounds::default(),
    };
    SimulatedQuery {
        begins: Duration::ZERO,
        timeout: Duration::from_secs(900),
        file_bytes: file_bytes.to_vec(),
        packing,
        graph,
        cap: None,
    }
}

/// Returns our setup. Results of the size that these queries have ride in the response.
fn our_setup(model: &Model, fleet: &Platform, warm: usize, seed: u64) -> ModelSetup {
    let platform = our_platform(model, fleet);
    let mut settings = SchedulerSettings::new(model.our_functions_max, seed);
    settings.limits.ramp = Some(EnvironmentRamp::lambda(platform.functions));
    ModelSetup { platform, settings, inline_bytes_max: 1 << 20, warm }
}

/// One run of a query with stages over stages.
struct StagedRun {
    figures: Figures,
    /// Number and fragments of each stage, in the order in which they began.
    stages: Vec<(u32, u32)>,
    /// Reads of rows between functions.
    reads: u64,
    is_right: bool,
}

impl StagedRun {
    fn line(&self) -> String {
        let stages: Vec<String> =
            self.stages.iter().map(|(stage, fragments)| format!("{stage}: {fragments}")).collect();
        format!(
            "  of these {} reads between functions; functions by stage in the first run: {}",
            self.reads,
            stages.join(", ")
        )
    }
}

/// Runs a query whose tables are joined one after the other, by functions that choose partitions and combine objects as ours do.
fn staged(model: &Model, fleet: &Platform, prices: &Prices, query: &StagedQuery, warm: usize, seed: u64) -> StagedRun {
    let files: Vec<Vec<u64>> =
        query.tables.iter().map(|table| vec![table.bytes / table.files as u64; table.files]).collect();
    // The first join reads the first table, and each other one the join before it.
    let first = query.tables.first().map(|table| table.sends);
    let before = first.into_iter().chain(query.joins_send.iter().copied());
    let joined = query.tables.iter().zip(&files).skip(1);
    let steps = before.zip(joined).map(|(rows, (table, files))| GraphStep {
        joined: files.clone(),
        sent: Some(SentShares { rows, joined: table.sends }),
    });
    let reads_max = Some(Config::default().shuffle_reads_max);
    let graph = Graph { steps: steps.collect(), reads_max, ..Graph::default() };
    let file_bytes = files.first().map(Vec::as_slice).unwrap_or_default();
    let phases = [vec![ours(model, fleet, file_bytes, graph)]];
    let (ended, is_right) = our_setup(model, fleet, warm, seed).world(&phases);
    let (mut stages, mut reads) = (Vec::new(), 0);
    for stamped in ended.queries.iter().flat_map(|outcome| &outcome.events) {
        match &stamped.event {
            QueryEvent::StageStarted { stage, fragments, .. } => stages.push((*stage, *fragments)),
            QueryEvent::AttemptEnded { id, outcome: AttemptOutcome::Done { usage, .. }, .. }
                if ended.queries.iter().flat_map(|query| &query.scans).all(|scan| scan.stage != id.stage) =>
            {
                reads += usage.requests.get;
            }
            _ => {}
        }
    }
    StagedRun { figures: figures(&ended, &phases, prices), stages, reads, is_right }
}

/// Runs many fragments on a platform without warm environments.
fn ramp(model: &Model, fleet: &Platform, clones: u32, bytes: u64) -> (WorldOutcome, bool) {
    let functions = model.ramp_functions;
    let platform = Platform { functions: clones, concurrent_max: functions, ..fleet.clone() };
    let mut settings = SchedulerSettings::new(functions, 1);
    settings.limits.ramp = Some(EnvironmentRamp::lambda(clones));
    let setup = ModelSetup { platform, settings, inline_bytes_max: 1 << 20, warm: 0 };
    setup.world(&[vec![stage(vec![bytes; functions], functions)]])
}
