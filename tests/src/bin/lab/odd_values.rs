//! Random statements over odd values, locally, in-process and through processes, against DuckDB.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use gust_tests::odd_values;
use serde_json::json;

use super::tax::sibling;
use super::workload::OddValues;
use super::{Bound, Outcome};

pub async fn measure(workload: &OddValues, range: Range<u64>, cache: &Path) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let seeds = range.end - range.start;
    let (bootstrap, at_once) = (sibling("bootstrap_under_test")?, workload.at_once);
    let queries = range.map(|seed| (seed, odd_values::query(seed))).collect();
    let judged = odd_values::judge(queries, at_once, &bootstrap, cache).await?;
    let seconds = started.elapsed().as_secs_f64();
    let failed = judged.failures.len();
    let dialect: usize = judged.dialect.values().sum();
    let mut table = vec![format!(
        "{} agree, {dialect} differ as the dialect does, {failed} fail: {} seeds in {seconds:.1} s; functions read the tables of {}",
        judged.agreed,
        judged.agreed + dialect + failed,
        judged.remote
    )];
    table.extend(judged.dialect.iter().map(|(reason, count)| format!("{count:>6}  {reason}")));
    table.extend(judged.failures.iter().cloned());
    Ok(Outcome {
        name: "odd-values",
        table,
        samples: json!({ "agreed": judged.agreed, "remote": judged.remote, "dialect": judged.dialect, "failures": judged.failures }),
        bounds: vec![Bound::failed_seeds(failed)],
        validity: vec![
            (format!("at least {} seeds", workload.seeds), seeds == 1 || seeds >= workload.seeds),
            ("nine of ten agree".to_owned(), seeds == 1 || judged.agreed * 10 >= (judged.agreed + dialect) * 9),
        ],
    })
}
