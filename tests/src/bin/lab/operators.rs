//! Every query of the suite of operators under memory limits, with every number of partitions: on the coordinator, alone and behind functions, and in functions that
//! join with copies of a build side or with rows by key.

use gust_engine::config::Target;
use gust_tests::pressure::{Data, PARTS, RunSettings, Short, Tally, queries};
use serde_json::json;

use super::workload::Operators;
use super::{Bound, Outcome};

const SHORT: [Short; 4] = [
    Short::Coordinator(Target::Local),
    Short::Coordinator(Target::InProcess),
    Short::Functions { copies: false },
    Short::Functions { copies: true },
];

pub async fn measure(operators: &Operators, in_functions: bool) -> anyhow::Result<Outcome> {
    let data = Data::make().await;
    let mut tallies = SHORT.map(|short| (short, Tally::default()));
    let mut wrong = Vec::new();
    for query in queries() {
        for (short, tally) in &mut tallies {
            if in_functions && matches!(short, Short::Coordinator(_)) {
                continue;
            }
            for &partitions in &operators.partitions {
                for views in [true, false] {
                    let run_settings = RunSettings { short: *short, partitions, part: 1, views };
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
    let mut table: Vec<String> = tallies.iter().map(|(short, tally)| format!("{short:?}: {tally}")).collect();
    table.extend(wrong.iter().cloned());
    Ok(Outcome { name: "operators", table, samples: json!(wrong), bounds: vec![bound], validity: Vec::new() })
}
