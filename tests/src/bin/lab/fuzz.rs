//! Many damaged Parquet files: a session's answer to each, and the memory that reading takes.
//!
//! The file that is being read stays in the cache folder. If it ends the program, it can be found there.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use gust_engine::config::Target;
use gust_tests::fuzz::{FileOutcome, damaged, files, read};
use gust_tests::query::session;

use super::{Bound, Outcome};

/// Memory of the whole program, with the decoders' buffers for files of some kilobytes.
const PEAK_MIB_MAX: f64 = 512.0;

pub(crate) async fn measure(seeds: u64, only: Option<u64>, cache: &Path) -> anyhow::Result<Outcome> {
    fragment_fn::quiet_caught_panics();
    let folder = cache.join("fuzz");
    std::fs::create_dir_all(&folder)?;
    let files = files();
    let sessions = [Target::Local, Target::InProcess].map(|target| session(target, 2, "bootstrap"));
    let (mut rows, mut wrong, mut refused) = (0, Vec::new(), BTreeMap::new());
    let (started, mut slowest) = (Instant::now(), 0.0_f64);
    let seeds = only.map_or(0..seeds, |seed| seed..seed + 1);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let (name, damage, bytes) = damaged(&files, seed);
        let reading = Instant::now();
        // Each seed is read on one of the two targets. A single seed is read on both.
        for session in sessions
            .iter()
            .skip(if only.is_some() { 0 } else { seed as usize % 2 })
            .take(1 + usize::from(only.is_some()))
        {
            match read(session, &folder, seed, &bytes).await {
                FileOutcome::Rows(_) => rows += 1,
                FileOutcome::Refused(why) => {
                    *refused.entry(format!("{damage:?}")).or_insert(0_u64) += 1;
                    if only.is_some() {
                        wrong.push(format!("(refused, as it should) seed {seed}, {damage:?} of {name}: {why}"));
                    }
                }
                FileOutcome::Wrong(how) => wrong.push(format!("seed {seed}, {damage:?} of {name}: {how}")),
            }
        }
        slowest = slowest.max(reading.elapsed().as_secs_f64());
    }
    for session in &sessions {
        session.close().await;
    }
    let all_refused: u64 = refused.values().sum();
    let mut table = vec![format!(
        "{count} damaged files in {:.1} s: {rows} gave rows, {all_refused} were refused by name, {} were neither",
        started.elapsed().as_secs_f64(),
        wrong.len()
    )];
    table.push(format!(
        "refused: {}",
        refused.iter().map(|(how, n)| format!("{how} {n}")).collect::<Vec<_>>().join(", ")
    ));
    table.extend(wrong.iter().take(50).cloned());
    let bounds = vec![
        bound("neither rows nor a typed error", wrong.len() as f64, 0.0, "files"),
        bound("peak memory", peak_mib()?, PEAK_MIB_MAX, "MiB"),
        bound("slowest file", slowest, 10.0, "s"),
    ];
    let samples = serde_json::json!({ "seeds": count, "rows": rows, "refused": refused, "wrong": wrong });
    let validity = vec![("a fifth of the damage was seen".to_owned(), only.is_some() || all_refused * 5 >= count)];
    Ok(Outcome { name: "fuzz", table, samples, bounds, validity })
}

fn bound(what: &str, measured: f64, aim: f64, unit: &'static str) -> Bound {
    Bound { what: what.to_owned(), measured, aim, worst: aim, unit }
}

/// Returns the most memory that this program has held.
fn peak_mib() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
