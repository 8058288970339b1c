//! Random queries under random faults: right, or a typed error in time; never wrong rows, never an orphan.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use gust_tests::fleet::{Adoption, Fault, Trial, trial, trial_in_full};
use serde_json::json;

use super::workload::Faults;
use super::{Bound, Outcome};

/// Many seeds in virtual time, on all cores.
pub fn measure(faults: &Faults, seeds: u64, adoption: Adoption) -> Outcome {
    let started = Instant::now();
    let trials = trials(seeds, adoption);
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
    let mut table = vec![
        format!("{} passed, {} failed: {seeds} seeds in {seconds:.1} s", trials.len() - failed.len(), failed.len()),
        format!("queries: {right} right, {errors:?} as typed errors in time"),
        format!(
            "attempts: {attempts}, {} retries, {} speculative; {} objects came after their query was cleaned up, and were collected",
            sum(|trial| trial.retries),
            sum(|trial| trial.second_attempts),
            sum(|trial| trial.late_objects),
        ),
        format!("fired: {}", Fault::ALL.map(|fault| format!("{fault:?} {}", times(&fired, fault))).join(", ")),
    ];
    for (seed, trial) in failed.iter().take(10) {
        table.push(format!("seed {seed}: {}", trial.broken.join("; ")));
        table.push(format!("  reproduce it with: lab faults --seed {seed}"));
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
        bounds: vec![Bound {
            what: "failed seeds".to_owned(),
            measured: failed.len() as f64,
            aim: 0.0,
            worst: 0.0,
            unit: "seeds",
        }],
        validity: vec![
            ("every kind of fault fired".to_owned(), every_fault),
            (format!("at least {} seeds", faults.seeds), seeds >= faults.seeds),
        ],
    }
}

/// One seed with everything that happened.
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

fn times(fired: &BTreeMap<Fault, u64>, fault: Fault) -> u64 {
    fired.get(&fault).copied().unwrap_or_default()
}

fn trials(seeds: u64, adoption: Adoption) -> Vec<(u64, Trial)> {
    let next = AtomicU64::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return done;
            }
            done.push((seed, trial(seed, adoption)));
        }
    };
    let mut all: Vec<(u64, Trial)> = thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a trial never panics")).collect()
    });
    all.sort_by_key(|(seed, _)| *seed);
    all
}
