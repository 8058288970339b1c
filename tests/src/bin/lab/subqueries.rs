//! Random subqueries and USING joins against DuckDB, for more seeds than a test has time for.

use std::path::Path;

use gust_engine::config::Target;
use gust_tests::query::session;
use gust_tests::subqueries;
use serde_json::json;

use super::Outcome;
use super::tax::sibling;

/// Queries of one seed's tables.
const QUERIES: usize = 60;

pub async fn measure(seeds: u64, cache: &Path) -> anyhow::Result<Outcome> {
    let bootstrap = sibling("bootstrap_under_test")?;
    let mut total = subqueries::TrialOutcome::default();
    for seed in 0..seeds {
        let targets = [Target::Local, Target::InProcess, Target::Processes];
        let target = targets[usize::try_from(seed)? % targets.len()];
        let Some(trial) = subqueries::trial(cache, seed, QUERIES)? else {
            anyhow::bail!("DuckDB is the judge and is not to be had");
        };
        let session = session(target, 3, &bootstrap.to_string_lossy());
        let outcome = trial.run(&session).await;
        session.close().await;
        total.right += outcome.right;
        total.refused += outcome.refused;
        total.unjudged.extend(outcome.unjudged);
        total.wrong.extend(outcome.wrong.into_iter().map(|wrong| format!("seed {seed}, {target:?}: {wrong}")));
    }
    let subqueries::TrialOutcome { right, refused, unjudged, wrong } = total;
    let counts = format!("{right} right, {refused} refused, {} not judged, {} wrong", unjudged.len(), wrong.len());
    let mut table = vec![format!("{counts} of {seeds} seeds")];
    table.extend(wrong.iter().take(20).cloned());
    let samples = json!({ "right": right, "refused": refused, "wrong": wrong });
    let validity =
        vec![("no query is wrong".to_owned(), wrong.is_empty()), ("most are answered".to_owned(), right > refused)];
    Ok(Outcome { name: "subqueries", table, samples, bounds: Vec::new(), validity })
}
