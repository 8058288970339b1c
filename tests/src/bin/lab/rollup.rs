//! Ranks over a ROLLUP whose groups do not fit the coordinator's memory, again and again, here and with functions.

use std::time::Instant;

use gust_tests::rollup::{PLACES, Rollup};
use serde_json::json;

use super::{Bound, Outcome};

#[derive(clap::Args)]
pub struct Choice {
    #[arg(long, default_value_t = 2_000_000)]
    rows: u64,
    #[arg(long, default_value_t = 500_000)]
    groups: u64,
    /// Memory of the coordinator in MiB
    #[arg(long, default_value_t = 256)]
    mebibytes: u64,
    /// Runs at each place
    #[arg(long, default_value_t = 10)]
    runs: usize,
}

pub async fn measure(choice: &Choice) -> anyhow::Result<Outcome> {
    let rollup = Rollup::make(choice.rows, choice.groups).await;
    let mut table = vec!["place    run  seconds  outcome".to_owned()];
    let (mut failed, mut samples) = (0, Vec::new());
    for place in PLACES {
        let name = format!("{place:?}");
        for number in 0..choice.runs {
            let started = Instant::now();
            let outcome = match rollup.run(place, choice.mebibytes << 20).await {
                Ok(report) => match report.planned_again {
                    Some(why) => format!("right, planned again: {why}"),
                    None => "right".to_owned(),
                },
                Err(error) => {
                    failed += 1;
                    error.to_string()
                }
            };
            let seconds = started.elapsed().as_secs_f64();
            table.push(format!("{name:<8} {number:>3}  {seconds:>7.1}  {outcome}"));
            samples.push(json!({ "place": name, "seconds": seconds, "outcome": outcome }));
        }
    }
    let what = format!("runs of {} that failed, in {} MiB", PLACES.len() * choice.runs, choice.mebibytes);
    let bound = Bound { what, measured: f64::from(failed), aim: 0.0, worst: 0.0, unit: "runs" };
    Ok(Outcome { name: "rollup", table, samples: json!(samples), bounds: vec![bound], validity: Vec::new() })
}
