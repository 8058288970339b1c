//! Every query of the suite of operators under memory limits, locally and in-process, with every number of partitions.

use gust_engine::config::Target;
use gust_tests::pressure::{Data, PARTS, RunSettings, Tally, queries};
use serde_json::json;

use super::workload::Operators;
use super::{Bound, Outcome};

pub async fn measure(operators: &Operators) -> anyhow::Result<Outcome> {
    let data = Data::make().await;
    let (mut tally, mut wrong) = (Tally::default(), Vec::new());
    for query in queries() {
        for target in [Target::Local, Target::InProcess] {
            for &partitions in &operators.partitions {
                for views in [true, false] {
                    let run_settings = RunSettings { target, partitions, part: 1, views };
                    let plenty = data.plenty(&query, run_settings).await?;
                    for part in PARTS.into_iter().cycle().take(PARTS.len() * operators.repeats) {
                        match data.under(&query, RunSettings { part, ..run_settings }, &plenty).await {
                            Ok(outcome) => tally.add(outcome),
                            Err(why) => wrong.push(why),
                        }
                    }
                }
            }
        }
    }
    let what = "runs that gave other rows than with plenty of memory, or no typed error".to_owned();
    let bound = Bound { what, measured: wrong.len() as f64, aim: 0.0, worst: 0.0, unit: "runs" };
    let mut table = vec![tally.to_string()];
    table.extend(wrong.iter().cloned());
    Ok(Outcome { name: "operators", table, samples: json!(wrong), bounds: vec![bound], validity: Vec::new() })
}
