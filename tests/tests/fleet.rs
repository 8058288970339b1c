//! Queries under faults, in virtual time and with real processes: CI's share of `lab faults`, and tests that it would
//! notice a broken promise.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use std::thread;

use gust_tests::chaos;
use gust_tests::fleet::{
    Adoption, CapSlowdown, Enforcement, Fault, PieceEvents, Trial, capped_trial, trial, with_and_without,
};

/// Runs seeds on both cores. Returns the seeds with their results, in order.
fn on_both_cores<T: Send>(seeds: std::ops::Range<u64>, run: impl Fn(u64) -> T + Sync) -> Vec<(u64, T)> {
    let middle = u64::midpoint(seeds.start, seeds.end);
    let part = |seeds: std::ops::Range<u64>| seeds.map(|seed| (seed, run(seed))).collect::<Vec<_>>();
    thread::scope(|scope| {
        let second = scope.spawn(|| part(middle..seeds.end));
        let mut all = part(seeds.start..middle);
        all.extend(second.join().expect("a trial never panics"));
        all
    })
}

fn trials(seeds: std::ops::Range<u64>, adoption: Adoption) -> Vec<(u64, Trial)> {
    on_both_cores(seeds, |seed| trial(seed, adoption))
}

/// Trials in which all works as it should. Several tests look at them.
static TRIALS: LazyLock<Vec<(u64, Trial)>> = LazyLock::new(|| trials(0..300, Adoption::On));

/// Counts the seeds whose queries had wrong rows.
fn with_wrong_rows(trials: &[(u64, Trial)]) -> usize {
    let wrong = |trial: &Trial| trial.broken.iter().any(|what| what.contains("wrong rows"));
    trials.iter().filter(|(_, trial)| wrong(trial)).count()
}

#[test]
fn every_query_is_right_or_fails_as_it_may() {
    let trials = &*TRIALS;
    let mut fired: BTreeMap<Fault, u64> = BTreeMap::new();
    for (seed, trial) in trials {
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
    assert!(trials.iter().all(|(_, trial)| trial.graphs > 0), "each seed has a query of three stages");
    let overwritten: usize = trials.iter().map(|(_, trial)| trial.overwritten).sum();
    assert!(overwritten >= 5, "objects were overwritten {overwritten} times after their adoption");
}

#[test]
fn the_suite_notices_missing_adoption() {
    let noticed = with_wrong_rows(&trials(0..60, Adoption::Off));
    assert!(noticed >= 5, "only {noticed} of 60 seeds had wrong rows");
}

#[test]
fn lost_rows_of_functions_are_made_anew() {
    let trials = &*TRIALS;
    let restored: usize = trials.iter().map(|(_, trial)| trial.restored).sum();
    assert!(restored >= 50, "rows were made anew {restored} times");
    let unplanned: usize = trials.iter().map(|(_, trial)| trial.unplanned).sum();
    assert!(unplanned >= 100, "{unplanned} fragments ran beyond the planned ones");
    let of_groups: usize = trials.iter().map(|(_, trial)| trial.groups_restored).sum();
    assert!(of_groups > 0, "rows of functions that combine objects together were made anew {of_groups} times");
}

/// Every third query has functions without memory for several partitions.
#[test]
fn fragments_are_taken_apart_under_faults() {
    let taken_apart: Vec<&Trial> =
        TRIALS.iter().map(|(_, trial)| trial).filter(|trial| trial.taken_apart > 0).collect();
    let times: usize = taken_apart.iter().map(|trial| trial.taken_apart).sum();
    assert!(taken_apart.len() >= 10 && times >= 20, "{times} times, in {} seeds", taken_apart.len());
    let sum = |of: fn(&PieceEvents) -> usize| taken_apart.iter().map(|trial| of(&trial.of_pieces)).sum::<usize>();
    let (restored, without_input) = (sum(|of| of.restored), sum(|of| of.without_input));
    let (failed, second_attempts) = (sum(|of| of.failed), sum(|of| of.second_attempts));
    assert!(
        restored > 0 && without_input > 0 && failed > 0 && second_attempts > 0,
        "of them and their pieces: {restored} made anew, {without_input} without their rows, {failed} failed, {second_attempts} second attempts"
    );
}

#[test]
fn the_suite_notices_functions_that_read_the_newest_attempt() {
    let noticed = with_wrong_rows(&trials(0..100, Adoption::NewestParts));
    assert!(noticed >= 5, "only {noticed} of 100 seeds had wrong rows");
}

#[test]
fn the_suite_notices_rows_that_are_parted_in_two_ways() {
    let noticed = with_wrong_rows(&trials(0..300, Adoption::RestoresAll));
    assert!(noticed >= 3, "only {noticed} of 300 seeds had wrong rows");
}

#[test]
fn one_seed_is_one_history() {
    for seed in [1, 2, 3, 5, 8] {
        let (once, again) = (trial(seed, Adoption::On), trial(seed, Adoption::On));
        assert_eq!(once.history, again.history, "seed {seed}");
    }
    assert_ne!(trial(1, Adoption::On).history, trial(2, Adoption::On).history);
}

#[test]
fn a_thousand_queries_keep_their_caps_under_faults() {
    let trials = on_both_cores(0..1000, |seed| capped_trial(seed, Enforcement::On));
    for (seed, capped) in &trials {
        assert!(capped.trial.broken.is_empty(), "seed {seed}: {:?}", capped.trial.broken);
    }
    let right: usize = trials.iter().map(|(_, capped)| capped.trial.queries_right).sum();
    let stopped: usize = trials.iter().map(|(_, capped)| capped.stopped).sum();
    let failed: usize = trials.iter().flat_map(|(_, capped)| capped.trial.queries_failed.values()).sum();
    assert!(right >= 400 && stopped >= 200, "{right} right, {stopped} stopped, {} failed otherwise", failed - stopped);
    let close = trials.iter().filter(|(_, capped)| capped.share_max > 0.5).count();
    assert!(close >= 100, "only {close} seeds had a query that cost half of its cap");
}

#[test]
fn the_suite_notices_caps_that_are_not_kept() {
    let trials = on_both_cores(0..60, |seed| capped_trial(seed, Enforcement::Off));
    let over = |what: &String| what.contains("overshoot");
    let noticed = trials.iter().filter(|(_, capped)| capped.trial.broken.iter().any(over)).count();
    assert!(noticed >= 15, "only {noticed} of 60 seeds had a query above its cap");
}

#[test]
fn a_cap_that_suffices_costs_little_time() {
    for (times, slower_max) in [(2.0, 2.0), (10.0, 1.5)] {
        let CapSlowdown { dollars, without, with } = with_and_without(times);
        let slower = with.as_secs_f64() / without.as_secs_f64();
        assert!(slower <= slower_max, "{slower:.2} times as long under {times} times ${dollars:.6}: {with:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_on_real_processes_are_right_or_fail_as_they_may() {
    let faulty = Path::new(env!("CARGO_BIN_EXE_faulty_bootstrap"));
    let bench = chaos::Bench::new(faulty, Path::new(env!("CARGO_TARGET_TMPDIR"))).await.unwrap();
    let (mut fired, mut right, mut staged) = (0, 0, 0);
    for seed in 0..20 {
        let trial = Box::pin(bench.trial(seed)).await.unwrap();
        assert!(
            trial.broken.is_empty(),
            "{:?}\nof {}\nreproduce it with: lab faults --process-seed {seed}",
            trial.broken,
            trial.sql
        );
        fired += trial.fired.values().sum::<u64>();
        right += usize::from(trial.error.is_none());
        staged += usize::from(trial.stages >= 3);
    }
    assert!(staged >= 5, "only {staged} queries had three stages or more");
    assert!(fired >= 5, "only {fired} faults fired");
    assert!(right >= 15, "only {right} of 20 queries survived");
}
