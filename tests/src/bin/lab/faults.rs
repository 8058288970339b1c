//! Random queries under random faults. They end right or with a typed error in time, never with wrong rows or an orphan.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use clap::ValueEnum;
use gust_tests::chaos;
use gust_tests::fleet::{Adoption, Fault, Trial, trial, trial_in_full};
use serde_json::json;

use super::tax::sibling;
use super::workload::Faults;
use super::{Bound, Outcome, on_all_cores};

/// Promise that is broken on purpose. Queries must then have wrong rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Planted {
    /// The coordinator takes the result that was written last, unchecked
    UncheckedResult,
    /// Functions read the newest rows of other functions, unchecked
    NewestAttempt,
    /// Lost rows are made anew that another attempt parts in another way
    UndeterminedRetry,
}

/// Returns the way in which results are taken.
pub fn adoption(planted: Option<Planted>) -> Adoption {
    match planted {
        None => Adoption::On,
        Some(Planted::UncheckedResult) => Adoption::Off,
        Some(Planted::NewestAttempt) => Adoption::NewestParts,
        Some(Planted::UndeterminedRetry) => Adoption::RestoresAll,
    }
}

/// Runs many seeds in virtual time, on all cores.
pub fn measure(faults: &Faults, seeds: u64, adoption: Adoption) -> Outcome {
    let started = Instant::now();
    let trials: Vec<(u64, Trial)> = on_all_cores(seeds, |seed| (seed, trial(seed, adoption)));
    let seconds = started.elapsed().as_secs_f64();
    let failed: Vec<(u64, &Trial)> =
        trials.iter().filter(|(_, trial)| !trial.broken.is_empty()).map(|(seed, trial)| (*seed, trial)).collect();
    let sum = |count: fn(&Trial) -> usize| trials.iter().map(|(_, trial)| count(trial)).sum::<usize>();
    let mut fired: BTreeMap<Fault, u64> = BTreeMap::new();
    let mut errors: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, trial) in &trials {
        trial.fired.iter().for_each(|(fault, times)| *fired.entry(*fault).or_default() += times);
        trial.queries_failed.iter().for_each(|(kind, times)| *errors.entry(kind).or_default() += times);
    }
    let right = sum(|trial| trial.queries_right);
    let attempts = sum(|trial| trial.attempts);
    let graphs = sum(|trial| trial.graphs);
    let mut table = vec![
        format!("{} passed, {} failed: {seeds} seeds in {seconds:.1} s", trials.len() - failed.len(), failed.len()),
        format!("queries: {right} right, {errors:?} as typed errors in time"),
        format!(
            "attempts: {attempts}, {} retries, {} speculative; {} objects came after their query was cleaned up, and were collected",
            sum(|trial| trial.retries),
            sum(|trial| trial.second_attempts),
            sum(|trial| trial.late_objects),
        ),
        format!(
            "graphs: {graphs} queries of three stages or more; rows of {} fragments made anew, {} of them where functions combine objects together, {} fragments taken apart, objects of {} overwritten after their adoption",
            sum(|trial| trial.restored),
            sum(|trial| trial.groups_restored),
            sum(|trial| trial.taken_apart),
            sum(|trial| trial.overwritten),
        ),
        format!("fired: {}", Fault::ALL.map(|fault| format!("{fault:?} {}", times(&fired, fault))).join(", ")),
    ];
    for (seed, trial) in failed.iter().take(10) {
        table.push(format!("seed {seed}: {}", trial.broken.join("; ")));
        table.push(format!("  reproduce it with: lab faults --seed {seed}"));
    }
    if adoption != Adoption::On {
        return planted(table, &failed, seeds);
    }
    let samples = json!({
        "seeds": seeds, "seconds": seconds, "right": right, "errors": errors, "attempts": attempts,
        "fired": fired.iter().map(|(fault, times)| (format!("{fault:?}"), *times)).collect::<BTreeMap<_, _>>(),
        "failed": failed.iter().map(|(seed, trial)| json!({ "seed": seed, "broken": trial.broken })).collect::<Vec<_>>(),
    });
    let every_fault = Fault::ALL.iter().all(|fault| times(&fired, *fault) > 0);
    Outcome {
        name: "faults",
        table,
        samples,
        bounds: vec![Bound::failed_seeds(failed.len())],
        validity: vec![
            ("every kind of fault fired".to_owned(), every_fault),
            ("each seed had a query of three stages".to_owned(), graphs as u64 >= seeds),
            (format!("at least {} seeds", faults.seeds), seeds >= faults.seeds),
        ],
    }
}

/// Tells if a planted fault was noticed.
fn planted(mut table: Vec<String>, failed: &[(u64, &Trial)], seeds: u64) -> Outcome {
    let is_wrong = |(_, trial): &&(u64, &Trial)| trial.broken.iter().any(|what| what.contains("wrong rows"));
    let wrong: Vec<u64> = failed.iter().filter(is_wrong).map(|(seed, _)| *seed).collect();
    table.push(format!("{} of {seeds} seeds had wrong rows, as they must", wrong.len()));
    Outcome {
        name: "faults",
        table,
        samples: json!({ "seeds": seeds, "wrong": wrong }),
        bounds: Vec::new(),
        validity: vec![("the planted fault was noticed".to_owned(), !wrong.is_empty())],
    }
}

/// Runs one seed, and shows everything that happened.
pub fn reproduce(seed: u64, adoption: Adoption) -> Outcome {
    let (mut table, trial) = trial_in_full(seed, adoption);
    let passed = trial.broken.is_empty();
    table.push(format!("seed {seed}: history {:016x}", trial.history));
    table.extend(trial.broken.iter().cloned());
    table.push(format!("{} passed, {} failed", u32::from(passed), u32::from(!passed)));
    Outcome {
        name: "faults",
        table,
        samples: json!({ "seed": seed, "broken": trial.broken }),
        bounds: Vec::new(),
        validity: vec![("what must hold held".to_owned(), passed)],
    }
}

/// Runs some seeds with real function processes, one after the other. `only` runs one of them, and shows its query and its end.
pub async fn with_processes(faults: &Faults, seeds: u64, only: Option<u64>, cache: &Path) -> anyhow::Result<Outcome> {
    let bench = chaos::Bench::new(&sibling("faulty_bootstrap")?, cache).await?;
    let started = Instant::now();
    let mut trials = Vec::new();
    for seed in only.map_or(0..seeds, |seed| seed..seed + 1) {
        trials.push((seed, Box::pin(bench.trial(seed)).await?));
    }
    let seconds = started.elapsed().as_secs_f64();
    let failed = trials.iter().filter(|(_, trial)| !trial.broken.is_empty()).count();
    let errors = trials.iter().filter(|(_, trial)| trial.error.is_some()).count();
    let attempts: usize = trials.iter().map(|(_, trial)| trial.attempts).sum();
    let mut fired: BTreeMap<String, u64> = chaos::fault_names().into_iter().map(|fault| (fault, 0)).collect();
    for (_, trial) in &trials {
        trial.fired.iter().for_each(|(fault, times)| *fired.entry(fault.clone()).or_default() += times);
    }
    let staged = trials.iter().filter(|(_, trial)| trial.stages >= 3).count();
    let restored: usize = trials.iter().map(|(_, trial)| trial.restored).sum();
    let restarted = trials.iter().filter(|(_, trial)| trial.restarted).count();
    let counts: Vec<String> = fired.iter().map(|(fault, times)| format!("{fault} {times}")).collect();
    let mut table = vec![
        format!(
            "{} passed, {failed} failed: {} seeds with real processes in {seconds:.1} s",
            trials.len() - failed,
            trials.len()
        ),
        format!(
            "queries: {} right, {errors} as typed errors in time; {attempts} attempts",
            trials.len() - failed - errors
        ),
        format!(
            "graphs: {staged} queries of three stages or more; rows of {restored} fragments made anew, {restarted} queries begun anew"
        ),
        format!("fired: {}", counts.join(", ")),
    ];
    for (seed, trial) in &trials {
        if only.is_some() {
            table.push(format!("{}\n{}", trial.sql, trial.error.as_deref().unwrap_or("right")));
        }
        if !trial.broken.is_empty() {
            table.push(format!("seed {seed}: {}\n  of {}", trial.broken.join("; "), trial.sql));
            table.push(format!("  reproduce it with: lab faults --process-seed {seed}"));
        }
    }
    Ok(Outcome {
        name: "faults",
        table,
        samples: json!({ "seeds": trials.len(), "seconds": seconds, "fired": fired, "failed": failed, "errors": errors }),
        bounds: vec![Bound::failed_seeds(failed)],
        validity: vec![
            ("every kind of fault fired".to_owned(), fired.values().all(|times| *times > 0)),
            ("lost rows were made anew".to_owned(), staged > 0 && restored > 0),
            (format!("at least {} seeds", faults.process_seeds), trials.len() as u64 >= faults.process_seeds),
        ],
    })
}

fn times(fired: &BTreeMap<Fault, u64>, fault: Fault) -> u64 {
    fired.get(&fault).copied().unwrap_or_default()
}
