//! Figures of the samples: medians over rounds, their geometric means over queries, and ratios of sides with their bounds. Pure.

use gust_tests::rounds::{Figures, Ratio};
use gust_tests::stats::{MedianInterval, median, median_interval};
use serde_json::json;

use super::side::{SIDES, SideKind};
use super::{Sample, Scenario, ScenarioRun};
use crate::workload::{Latency, Limits};
use crate::{Bound, Outcome};

const ROUNDS_MIN: usize = 5;
const QUERIES: usize = 22;
/// Prices of a GET or HEAD and of a LIST in nano-dollars: S3 Standard in us-east-1, as in the engine's price book.
const READ_NANO_DOLLARS: f64 = 400.0;
const LIST_NANO_DOLLARS: f64 = 5_000.0;

impl ScenarioRun {
    /// Returns a figure of a side, None if the side did not run.
    fn figures(&self, side: &str, of: impl Fn(&Sample) -> f64) -> Option<Figures> {
        let counted: Vec<&Sample> = self.samples.iter().filter(|s| s.side == side && s.round > 0).collect();
        let queries = counted.chunk_by(|a, b| a.query == b.query);
        let figures: Vec<Vec<f64>> = queries.map(|rounds| rounds.iter().map(|sample| of(sample)).collect()).collect();
        (!figures.is_empty()).then(|| Figures::new(figures))
    }

    fn seconds(&self, side: &str) -> Option<Figures> {
        self.figures(side, |sample| sample.seconds)
    }

    /// Returns the nano-dollars for a side's requests.
    fn request_money(&self, side: &str) -> Option<Figures> {
        let money = |sample: &Sample| {
            (sample.gets + sample.heads) as f64 * READ_NANO_DOLLARS + sample.lists as f64 * LIST_NANO_DOLLARS
        };
        self.figures(side, money)
    }

    /// Returns the fastest of the engines with their defaults.
    fn best_engine(&self) -> Option<(&'static str, Figures)> {
        let engines = SIDES.iter().filter(|side| side.kind == SideKind::Engine);
        let engines = engines.filter_map(|side| Some((side.name, self.seconds(side.name)?)));
        engines.min_by(|(_, a), (_, b)| a.geometric_mean().total_cmp(&b.geometric_mean()))
    }
}

pub(super) fn outcome(latency: &Latency, numbers: &[usize], runs: &[ScenarioRun]) -> Outcome {
    let (mut table, mut bounds, mut validity) = (Vec::new(), Vec::new(), Vec::new());
    validity.push((format!("all {QUERIES} queries"), numbers.len() == QUERIES));
    for run in runs {
        table.push(format!("{:?}, scale factor {}, {} rounds; seconds", run.scenario, latency.scale, run.rounds));
        table.extend(queries_table(run, numbers));
        table.push(String::new());
        table.extend(sides_table(run));
        table.push(String::new());
        for (bound, ratio) in judged(latency, run) {
            table.extend(ratio.map(|ratio| format!("{}: {ratio}", bound.what)));
            bounds.push(bound);
        }
        validity.extend(valid(latency, run));
    }
    Outcome { name: "latency", table, samples: json!(runs), bounds, validity }
}

/// Returns the medians of a query's seconds, for those who wait for the table.
pub(super) fn progress(query: usize, sides: impl Iterator<Item = &'static str>, samples: &[Sample]) -> String {
    let of_side = |side: &'static str| {
        let counted = samples.iter().filter(|sample| sample.side == side && sample.round > 0);
        let seconds: Vec<f64> = counted.map(|sample| sample.seconds).collect();
        format!("{side} {:.3}", median(&seconds))
    };
    format!("query {query}: {} s", sides.map(of_side).collect::<Vec<_>>().join(", "))
}

/// Returns the medians of seconds, and where the local side's time went.
fn queries_table(run: &ScenarioRun, numbers: &[usize]) -> Vec<String> {
    let mut lines = vec!["query".to_owned()];
    lines.extend(numbers.iter().map(|number| format!("{number:>5}")));
    let mut column = |name: &str, cells: Vec<String>| {
        let width = cells.iter().map(String::len).max().unwrap_or_default().max(name.len());
        for (line, cell) in lines.iter_mut().zip([name.to_owned()].into_iter().chain(cells)) {
            line.push_str(&format!("  {cell:>width$}"));
        }
    };
    for process in &run.processes {
        let seconds = run.seconds(process.side).map(|figures| figures.medians()).unwrap_or_default();
        column(process.side, seconds.iter().map(|seconds| format!("{seconds:.3}")).collect());
    }
    let Some(local) = run.seconds("local") else { return lines };
    if let Some((name, best)) = run.best_engine() {
        let ratios = local.queries().zip(best.queries()).map(|(local, best)| {
            let pairs: Vec<f64> = local.iter().zip(best).map(|(local, best)| local / best).collect();
            let MedianInterval { median, low, high } = median_interval(&pairs);
            format!("{median:.2} [{low:.2}, {high:.2}]")
        });
        column(&format!("local/{name}"), ratios.collect());
    }
    let mut of_local = |name: &str, digits: usize, of: fn(&Sample) -> f64| {
        let medians = run.figures("local", of).map(|figures| figures.medians()).unwrap_or_default();
        column(name, medians.iter().map(|median| format!("{median:.digits$}")).collect());
    };
    of_local("GETs", 0, |sample| sample.gets as f64);
    of_local("MB", 1, |sample| sample.bytes_read as f64 / 1e6);
    of_local("unused %", 1, |sample| sample.unused_bytes as f64 * 100.0 / sample.bytes_read.max(1) as f64);
    of_local("in flight", 0, |sample| sample.in_flight_max as f64);
    of_local("waited s", 3, |sample| sample.waited_seconds);
    of_local("CPU s", 3, |sample| sample.cpu_seconds);
    lines
}

/// Returns each side's geometric mean, and the sums over all queries of its medians.
fn sides_table(run: &ScenarioRun) -> Vec<String> {
    let mut lines = vec![
        "side              geometric mean  set-up s   CPU s   GETs  LISTs  HEADs  MB read  again  in flight   GB-s  peak MiB  program".to_owned(),
    ];
    for process in &run.processes {
        let figures = |of: fn(&Sample) -> f64| run.figures(process.side, of);
        let total = |of: fn(&Sample) -> f64| figures(of).map_or(f64::NAN, |figures| figures.total());
        lines.push(format!(
            "{:<16}  {:>14.3}  {:>8.3}  {:>6.2}  {:>5.0}  {:>5.0}  {:>5.0}  {:>7.1}  {:>5.1}  {:>9.0}  {:>5.2}  {:>8}  {}",
            process.side,
            run.seconds(process.side).map_or(f64::NAN, |figures| figures.geometric_mean()),
            process.setup_seconds,
            total(|sample| sample.cpu_seconds),
            total(|sample| sample.gets as f64),
            total(|sample| sample.lists as f64),
            total(|sample| sample.heads as f64),
            total(|sample| sample.bytes_read as f64 / 1e6),
            total(|sample| sample.bytes_again as f64 / 1e6),
            figures(|sample| sample.in_flight_max as f64).map_or(f64::NAN, |figures| figures.most()),
            total(|sample| sample.gigabyte_seconds.unwrap_or_default()),
            process.peak_bytes >> 20,
            process.version,
        ));
    }
    lines
}

/// Returns the bounds for which the sides ran. A ratio of summaries has an interval.
fn judged(latency: &Latency, run: &ScenarioRun) -> Vec<(Bound, Option<Ratio>)> {
    let limits = &latency.bounds;
    let bound = |what: String, measured, Limits { aim, worst }, unit| Bound { what, measured, aim, worst, unit };
    let ratio =
        |what: String, of: Option<Figures>, over: Option<Figures>, summary: fn(&Figures) -> f64, limits: Limits| {
            let ratio = of?.over(&over?, summary);
            Some((bound(what, ratio.value, limits, "times"), Some(ratio)))
        };
    let each = |what: &str, of: Option<Figures>, over: Option<Figures>, limits: Limits| {
        Some((bound(what.to_owned(), of?.most_over(&over?), limits, "times"), None))
    };
    let seconds = |side: &str| run.seconds(side);
    let over_best = |limits| {
        let (name, best) = run.best_engine()?;
        let what = format!("{:?}: local over {name}, geometric means", run.scenario);
        ratio(what, seconds("local"), Some(best), Figures::geometric_mean, limits)
    };
    let found = match run.scenario {
        Scenario::Latency => {
            let (now, before) = ("processes", "processes-before");
            let billed = |side| run.figures(side, |sample| sample.gigabyte_seconds.unwrap_or_default());
            let again = run.figures("local", |sample| if sample.hedged == 0 { sample.bytes_again as f64 } else { 0.0 });
            let nothing = Limits { aim: 0.0, worst: 0.0 };
            let unused = |side| {
                let unused = run.figures(side, |sample| sample.unused_bytes as f64)?.total();
                let share = unused / run.figures(side, |sample| sample.bytes_read as f64)?.total();
                let what = format!("bytes that {side} read ahead and did not use, over all that it read");
                Some((bound(what, share, limits.unused, "times"), None))
            };
            let requests = [("local", "local-before"), (now, before)].into_iter().flat_map(|(now, before)| {
                let read = |side| run.figures(side, |sample| sample.bytes_read as f64);
                let what = |of: &str| format!("the worst query's {of}, {now} over {before}");
                [
                    each(
                        &what("money for requests"),
                        run.request_money(now),
                        run.request_money(before),
                        limits.requests_each,
                    ),
                    each(&what("bytes read"), read(now), read(before), limits.requests_each),
                ]
            });
            let requests: Vec<_> = requests.collect();
            let mut found = vec![
                over_best(limits.local),
                ratio(
                    "functions over the earlier build's, geometric means".to_owned(),
                    seconds(now),
                    seconds(before),
                    Figures::geometric_mean,
                    limits.functions,
                ),
                ratio(
                    "functions over the earlier build's, GB-seconds".to_owned(),
                    billed(now),
                    billed(before),
                    Figures::total,
                    limits.functions_gigabyte_seconds,
                ),
                unused("local"),
                unused(now),
                again.map(|again| {
                    let what = "most bytes that local asked for again, without hedges".to_owned();
                    (bound(what, again.most(), nothing, "bytes"), None)
                }),
            ];
            found.extend(requests);
            found
        }
        Scenario::SmallFiles => vec![
            over_best(limits.small_files),
            ratio(
                "SmallFiles: local over polars-tuned, geometric means".to_owned(),
                seconds("local"),
                seconds("polars-tuned"),
                Figures::geometric_mean,
                limits.small_files_tuned,
            ),
        ],
        Scenario::Loopback => {
            let cpu = |side| run.figures(side, |sample| sample.cpu_seconds);
            let before = || seconds("local-before");
            vec![
                ratio(
                    "Loopback: local over the earlier build's, geometric means".to_owned(),
                    seconds("local"),
                    before(),
                    Figures::geometric_mean,
                    limits.loopback,
                ),
                each("Loopback: the worst query's seconds", seconds("local"), before(), limits.loopback_each),
                ratio(
                    "Loopback: processor time of local over stock, sums".to_owned(),
                    cpu("local"),
                    cpu("stock"),
                    Figures::total,
                    limits.cpu,
                ),
                each("Loopback: the worst query's processor time", cpu("local"), cpu("stock"), limits.cpu_each),
                ratio(
                    "Loopback: functions by statistics over local, geometric means".to_owned(),
                    seconds("processes-auto"),
                    seconds("local"),
                    Figures::geometric_mean,
                    limits.tax,
                ),
                each(
                    "Loopback: the worst query by functions by statistics",
                    seconds("processes-auto"),
                    seconds("local"),
                    limits.tax_each,
                ),
                ratio(
                    "Loopback: functions that exchange rows over local, geometric means".to_owned(),
                    seconds("processes-shuffle"),
                    seconds("local"),
                    Figures::geometric_mean,
                    limits.tax_shuffle,
                ),
            ]
        }
    };
    found.into_iter().flatten().collect()
}

fn valid(latency: &Latency, run: &ScenarioRun) -> Vec<(String, bool)> {
    let name = format!("{:?}", run.scenario);
    let wrong = run.samples.iter().find_map(|sample| {
        let difference = sample.difference.as_ref()?;
        Some(format!("; query {} by {}: {difference}", sample.query, sample.side))
    });
    let rows = format!("{name}: every run has DuckDB's rows{}", wrong.clone().unwrap_or_default());
    let others = format!("{name}: others have {:.3} of the machine, at most", run.others_share);
    let mut validity = vec![
        (rows, wrong.is_none()),
        (format!("{others} {}", latency.others_share_max), run.others_share <= latency.others_share_max),
    ];
    if run.samples.iter().any(|sample| sample.all_remote.is_some()) {
        let all_remote = run.samples.iter().all(|sample| sample.all_remote != Some(false));
        validity.push((format!("{name}: every fragment was a function's"), all_remote));
    }
    if run.scenario != Scenario::SmallFiles {
        validity.push((format!("{name}: at least {ROUNDS_MIN} rounds"), run.rounds >= ROUNDS_MIN));
    }
    validity
}
