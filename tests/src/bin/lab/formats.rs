//! Results in every format, of more queries than a test has time for.

use std::ops::Range;
use std::path::Path;

use gust_engine::config::Target;
use gust_tests::formats::{Checked, check};
use serde_json::json;

use super::Outcome;
use super::tax::sibling;

pub async fn measure(seeds: Range<u64>, cache: &Path) -> anyhow::Result<Outcome> {
    let bootstrap = sibling("bootstrap_under_test")?;
    let targets = [Target::Local, Target::InProcess, Target::Processes];
    let checked = check(seeds.clone(), &targets, &bootstrap.to_string_lossy(), cache).await?;
    let Checked { results, remote, refused, skipped } = checked;
    if let Some(reason) = skipped {
        anyhow::bail!("Python reads the results and is not to be had: {reason}");
    }
    let queries = seeds.end - seeds.start;
    let line = format!(
        "{queries} queries: {results} results read back in five formats, {remote} of them from functions; {refused} queries refused"
    );
    let samples = json!({ "queries": queries, "results": results, "remote": remote, "refused": refused });
    let validity = vec![
        ("most queries run".to_owned(), (refused as u64) < queries / 2),
        ("functions had a part".to_owned(), remote > 0),
    ];
    Ok(Outcome { name: "formats", table: vec![line], samples, bounds: Vec::new(), validity })
}
