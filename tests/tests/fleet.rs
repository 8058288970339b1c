//! Queries under faults, in virtual time and with real processes: CI's share of `lab faults`, and the proof that it would
//! notice.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use gust_tests::chaos;
use gust_tests::fleet::{Adoption, Fault, Trial, trial};

/// Runs seeds on both cores, in a time of their own.
fn trials(seeds: std::ops::Range<u64>, adoption: Adoption) -> Vec<(u64, Trial)> {
    let middle = u64::midpoint(seeds.start, seeds.end);
    let run = |seeds: std::ops::Range<u64>| seeds.map(|seed| (seed, trial(seed, adoption))).collect::<Vec<_>>();
    thread::scope(|scope| {
        let second = scope.spawn(|| run(middle..seeds.end));
        let mut all = run(seeds.start..middle);
        all.extend(second.join().expect("a trial never panics"));
        all
    })
}

#[test]
fn every_query_is_right_or_fails_as_it_may() {
    let trials = trials(0..300, Adoption::On);
    let mut fired: BTreeMap<Fault, u64> = BTreeMap::new();
    for (seed, trial) in &trials {
        assert!(trial.broken.is_empty(), "{:?}\nreproduce it with: lab faults --seed {seed}", trial.broken);
        trial.fired.iter().for_each(|(fault, times)| *fired.entry(*fault).or_default() += times);
    }
    for fault in Fault::ALL {
        assert!(fired.get(&fault).is_some_and(|times| *times >= 10), "{fault:?} fired too rarely: {fired:?}");
    }
    let right: usize = trials.iter().map(|(_, trial)| trial.queries_right).sum();
    let failed: usize = trials.iter().flat_map(|(_, trial)| trial.queries_failed.values()).sum();
    assert!(right > 2 * failed, "most queries survive: {right} right, {failed} failed");
    assert!(trials.iter().any(|(_, trial)| trial.second_attempts > 0), "some fragments were slow");
}

#[test]
fn without_adoption_the_suite_fails() {
    let trials = trials(0..60, Adoption::Off);
    let wrong = |trial: &Trial| trial.broken.iter().any(|what| what.contains("wrong rows"));
    let noticed = trials.iter().filter(|(_, trial)| wrong(trial)).count();
    assert!(noticed >= 5, "only {noticed} of 60 seeds had wrong rows");
}

#[test]
fn one_seed_is_one_history() {
    for seed in [1, 2, 3, 5, 8] {
        let (once, again) = (trial(seed, Adoption::On), trial(seed, Adoption::On));
        assert_eq!(once.history, again.history, "seed {seed}");
    }
    assert_ne!(trial(1, Adoption::On).history, trial(2, Adoption::On).history);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_processes_keep_the_promise() {
    let faulty = Path::new(env!("CARGO_BIN_EXE_faulty_bootstrap"));
    let bench = chaos::Bench::new(faulty, Path::new(env!("CARGO_TARGET_TMPDIR"))).await.unwrap();
    let (mut fired, mut right) = (0, 0);
    for seed in 0..20 {
        let trial = bench.trial(seed).await.unwrap();
        assert!(
            trial.broken.is_empty(),
            "{:?}\nof {}\nreproduce it with: lab faults --process-seed {seed}",
            trial.broken,
            trial.sql
        );
        fired += trial.fired.values().sum::<u64>();
        right += usize::from(trial.error.is_none());
    }
    assert!(fired >= 5, "only {fired} faults fired");
    assert!(right >= 15, "only {right} of 20 queries survived");
}
