//! Effect of stragglers on a query's tail, and of second attempts and hedged reads against them, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use gust_engine::config::Config;
use gust_engine::events::{AttemptCause, QueryEvent};
use gust_engine::model::TimeModel;
use gust_engine::planner::DigestBounds;
use gust_engine::planner::passes::pack::Packing;
use gust_engine::scheduler::{SchedulerSettings, SpeculationPolicy};
use gust_tests::fleet::{
    Fault, FaultPlan, Graph, GraphStep, PartsReading, Platform, QueryOutcome, SentShares, SimulatedQuery, World,
    run_virtually,
};
use serde_json::json;

use super::workload::{Tail, TailGraph};
use super::{Bound, Outcome, on_all_cores};

/// Measures against slow attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    name: &'static str,
    hedges: bool,
    speculates: bool,
}

const NEITHER: Policy = Policy { name: "neither", hedges: false, speculates: false };
const BOTH: Policy = Policy { name: "both", hedges: true, speculates: true };
const POLICIES: [Policy; 4] = [
    NEITHER,
    Policy { name: "hedged reads", hedges: true, speculates: false },
    Policy { name: "second attempts", hedges: false, speculates: true },
    BOTH,
];

pub fn measure(tail: &Tail, fleet: &Platform) -> Outcome {
    let heading =
        "fragments  stragglers  against them      p50 s  p99 s  p99/p50  p99/p50 of none  extra GB-s  second attempts";
    let mut table = vec![heading.to_owned()];
    let TailGraph { stages, fragments, p99_over_p50, extra_share } = tail.graph;
    let loads = tail.fragments.iter().map(|fragments| (1, *fragments)).chain([(stages, fragments)]);
    let (mut samples, mut judged, mut graph, mut all_right) = (Vec::new(), NOT_JUDGED, NOT_JUDGED, true);
    for (stages, fragments) in loads {
        let load = |stragglers, policy| Load { stages, fragments, stragglers, policy };
        let calm = Row::measure(tail, fleet, load(0.0, BOTH));
        table.push(calm.line("none", &calm, &calm));
        samples.push(json!({ "stages": stages, "fragments": fragments, "stragglers": 0, "seconds": calm.seconds }));
        all_right &= calm.all_right;
        let without = Row::measure(tail, fleet, load(tail.straggler_share, NEITHER));
        for policy in POLICIES {
            let row = Row::measure(tail, fleet, load(tail.straggler_share, policy));
            table.push(row.line("1 %", &calm, &without));
            all_right &= row.all_right;
            let figures = (row.at(0.99) / row.at(0.5), row.extra(&without));
            match (stages, policy == BOTH) {
                (1, true) if fragments == tail.judged_fragments => judged = figures,
                (2.., true) => graph = figures,
                _ => {}
            }
            let policy = policy.name;
            samples.push(json!({ "stages": stages, "fragments": fragments, "policy": policy, "seconds": row.seconds }));
        }
    }
    Outcome {
        name: "tail",
        table,
        samples: json!(samples),
        bounds: vec![
            Bound {
                what: format!("p99 over p50, {} fragments", tail.judged_fragments),
                measured: judged.0,
                aim: tail.aim_p99_over_p50,
                worst: tail.worst_p99_over_p50,
                unit: "times",
            },
            Bound {
                what: "extra GB-s".to_owned(),
                measured: judged.1,
                aim: tail.aim_extra_share,
                worst: tail.worst_extra_share,
                unit: "of all",
            },
            Bound {
                what: format!("p99 over p50, {stages} stages of {fragments} fragments"),
                measured: graph.0,
                aim: p99_over_p50.aim,
                worst: p99_over_p50.worst,
                unit: "times",
            },
            Bound {
                what: format!("extra GB-s, {stages} stages"),
                measured: graph.1,
                aim: extra_share.aim,
                worst: extra_share.worst,
                unit: "of all",
            },
        ],
        validity: vec![("every query had its fragments and the right rows".to_owned(), all_right)],
    }
}

/// Figures of a row that was not measured.
const NOT_JUDGED: (f64, f64) = (f64::NAN, f64::NAN);

/// Queries of one row of the table.
#[derive(Debug, Clone, Copy)]
struct Load {
    stages: usize,
    /// Fragments of each stage.
    fragments: usize,
    /// Share of attempts with a slow pipe.
    stragglers: f64,
    policy: Policy,
}

/// Many queries of one kind.
struct Row {
    load: Load,
    /// Seconds of each query, sorted.
    seconds: Vec<f64>,
    gigabyte_seconds: f64,
    second_attempts: u64,
    all_right: bool,
}

impl Row {
    fn measure(tail: &Tail, fleet: &Platform, load: Load) -> Self {
        let runs = on_all_cores(tail.queries, |seed| one(tail, fleet, load, seed));
        let mut seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        Self {
            load,
            seconds,
            gigabyte_seconds: runs.iter().map(|run| run.gigabyte_seconds).sum(),
            second_attempts: runs.iter().map(|run| run.second_attempts).sum(),
            all_right: runs.iter().all(|run| run.is_right),
        }
    }

    fn at(&self, share: f64) -> f64 {
        let last = self.seconds.len().saturating_sub(1);
        self.seconds.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
    }

    fn extra(&self, without: &Self) -> f64 {
        self.gigabyte_seconds / without.gigabyte_seconds - 1.0
    }

    fn line(&self, stragglers: &str, calm: &Self, without: &Self) -> String {
        let Load { stages, fragments, policy: Policy { name: policy, .. }, .. } = self.load;
        let fragments = if stages == 1 { fragments.to_string() } else { format!("{stages} × {fragments}") };
        let (p50, p99, extra) = (self.at(0.5), self.at(0.99), 100.0 * self.extra(without));
        let (ratio, of_calm) = (p99 / p50, p99 / calm.at(0.5));
        let attempts = self.second_attempts;
        format!(
            "{fragments:>9}  {stragglers:>10}  {policy:<16}  {p50:>5.2}  {p99:>5.2}  {ratio:>7.2}  {of_calm:>15.2}  {extra:>8.1} %  {attempts:>15}"
        )
    }
}

struct Run {
    seconds: f64,
    gigabyte_seconds: f64,
    second_attempts: u64,
    /// True if each stage had its fragments, and the rows are right.
    is_right: bool,
}

fn one(tail: &Tail, fleet: &Platform, load: Load, seed: u64) -> Run {
    let Load { stages, fragments, stragglers, policy } = load;
    let mut settings = SchedulerSettings::new(fragments, seed);
    if !policy.speculates {
        settings.speculation = SpeculationPolicy::NEVER;
    }
    let mut platform = fleet.clone();
    platform.hedged_after_ms = platform.hedged_after_ms.filter(|_| policy.hedges);
    let model = TimeModel { core_bytes_per_second: fleet.core_bytes_per_second, ..TimeModel::laptop(1) };
    let model = TimeModel { function_cores: fleet.cores, ..model };
    let world = World {
        seed,
        platform,
        faults: FaultPlan {
            chances: vec![(Fault::SlowPipe, stragglers)],
            slow_pipe_share: tail.straggler_pipe_share,
            ..FaultPlan::default()
        },
        settings,
        model,
        inline_bytes_max: 1 << 20,
        rows_max: 3,
        // Second attempts find a warm environment, too.
        warm: fragments + fragments.div_ceil(10),
        reading: PartsReading::AsNamed,
    };
    let packing = Packing {
        fragment_bytes_target: tail.fragment_bytes,
        model,
        functions_max: fragments,
        functions: Some(fragments),
        lanes_max: 1,
        function_memory_bytes: 2 << 30,
        digest: DigestBounds::default(),
    };
    let query = SimulatedQuery {
        // Bursts are full again by then.
        begins: Duration::from_secs(10),
        timeout: Duration::from_secs(600),
        file_bytes: vec![tail.fragment_bytes; fragments],
        packing,
        graph: graph(stages, fragments),
        cap: None,
    };
    let ended = run_virtually(world.run(&[vec![query]], |invoker, _| Arc::new(invoker)));
    let outcome = &ended.queries[0];
    let expect = world.fragment_rows().rows(&outcome.id, &outcome.scans);
    let is_right = outcome.rows.as_ref().is_ok_and(|rows| *rows == expect);
    Run {
        seconds: outcome.took.as_secs_f64(),
        gigabyte_seconds: ended.served.gigabyte_seconds,
        second_attempts: second_attempts(outcome),
        is_right: is_right && fragments_of(outcome) == vec![fragments as u32; stages],
    }
}

/// Returns stages one after the other, of which each function sends as much as it reads. A function reads one partition.
fn graph(stages: usize, fragments: usize) -> Graph {
    let sent = Some(SentShares { rows: 1.0, joined: 0.0 });
    let steps = vec![GraphStep { joined: Vec::new(), sent }; stages - 1];
    let reads_max = Some(Config::default().shuffle_reads_max);
    Graph { steps, partitions: Some(fragments), reads_max, ..Graph::default() }
}

fn second_attempts(outcome: &QueryOutcome) -> u64 {
    let is_second =
        |event: &QueryEvent| matches!(event, QueryEvent::AttemptStarted { cause: AttemptCause::Speculative, .. });
    outcome.events.iter().filter(|stamped| is_second(&stamped.event)).count() as u64
}

/// Lists the fragments of the stages that were run.
fn fragments_of(outcome: &QueryOutcome) -> Vec<u32> {
    let of_event = |event: &QueryEvent| match event {
        QueryEvent::StageStarted { fragments, .. } => Some(*fragments),
        _ => None,
    };
    outcome.events.iter().filter_map(|stamped| of_event(&stamped.event)).collect()
}
