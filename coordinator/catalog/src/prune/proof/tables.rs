//! Proof over whole tables: random schemas, specs, deletes, manifests and predicates. A table is planned with and without its predicate,
//! and the rows that a reader finds by the plans are compared with those of the history that made it.
//!
//! The reader here has the rows of all files and follows a plan to the letter: files that it keeps, vectors and positions of a file,
//! keys by scopes and sequence numbers. The truth follows the specification's sentences, and knows no plan.

mod history;
mod reader;
mod written;

use super::*;
use crate::error::Error;
use crate::manifests::tests::Lake;
use history::History;

/// Tables of the test that always runs.
const TABLES: u64 = 300;
const PREDICATES: usize = 4;

/// Checks a table, and returns how many files predicates and deletes have left out.
async fn check(seed: u64) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let history = History::random(&mut rng);
    let lake = history.write(&mut rng).await;
    let mut pruned = 0;
    let (mut scans, mut plans) = (Vec::new(), Vec::new());
    for number in 0..PREDICATES {
        let predicate = match number {
            0 => Predicate::AlwaysTrue,
            _ => random_predicate(&history.a, 2, &mut rng),
        };
        let columns: Vec<i32> = history.ids.iter().copied().filter(|_| rng.random()).collect();
        let plan = lake.plan(&predicate, &columns).await;
        let plan = plan.unwrap_or_else(|error| panic!("seed {seed}: {}: {history:#?}", told(&error)));
        pruned += plan.pruning.files_total - plan.pruning.files_kept;
        for judge in Judge::all() {
            let matches = |row: &Row| judge.matches(&predicate, row) == Some(true);
            let (found, truth) = (history.read(&plan, &matches), history.truth(&matches));
            assert_eq!(found, truth, "seed {seed}: {predicate:?} of {history:#?}");
        }
        scans.push((predicate, columns.into_iter().collect()));
        plans.push(plan);
    }
    // Scans of one statement are planned together. Texts tell NaN from other values.
    let together = lake.afresh().plans(&scans).await.unwrap();
    assert_eq!(format!("{together:?}"), format!("{plans:?}"), "seed {seed}");
    damage(seed, &lake, &history, &mut rng).await;
    pruned
}

/// Damages one of the metadata files after another. Each gives a plan or an error that is no panic. A file that was cut gives the whole
/// plan or an error.
async fn damage(seed: u64, lake: &Lake, history: &History, rng: &mut StdRng) {
    let names = ["list".to_owned(), "m0".to_owned(), "m1".to_owned()];
    let all = lake.plan(&Predicate::AlwaysTrue, &history.ids).await;
    let all = format!("{:?}", all.unwrap_or_else(|error| panic!("seed {seed}: {}", told(&error))));
    for name in &names {
        let Some(whole) = lake.get(name).await else { continue };
        let mut damaged = whole.clone();
        let is_cut = rng.random_ratio(1, 3);
        // Blocks end behind sync markers.
        let ends = whole.windows(16).enumerate().filter(|(_, bytes)| *bytes == b"the sync marker!");
        let ends: Vec<usize> = ends.map(|(start, _)| start + 16).filter(|end| *end < whole.len()).collect();
        match is_cut {
            true if rng.random() => damaged.truncate(ends[rng.random_range(0..ends.len())]),
            true => damaged.truncate(rng.random_range(0..whole.len())),
            false => {
                for _ in 0..rng.random_range(1..4) {
                    let place = rng.random_range(0..damaged.len());
                    match rng.random_range(0..3) {
                        0 => damaged[place] ^= 1 << rng.random_range(0..8),
                        1 => damaged[place] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
                        _ => damaged.truncate(place.max(1)),
                    }
                }
            }
        }
        lake.put(name, damaged).await;
        let predicate = if is_cut { Predicate::AlwaysTrue } else { random_predicate(&history.a, 1, rng) };
        match lake.afresh().plan(&predicate, &history.ids).await {
            Ok(plan) => assert!(!is_cut || format!("{plan:?}") == all, "seed {seed}: {name} was cut unseen"),
            Err(error) => assert!(!told(&error).contains("panic"), "seed {seed}, {name}: {}", told(&error)),
        }
        lake.put(name, whole).await;
    }
}

fn told(error: &Error) -> String {
    match error {
        Error::Corrupt { source, .. } => format!("{error}: {source}"),
        other => other.to_string(),
    }
}

#[tokio::test]
async fn a_table_is_planned_with_all_of_its_rows() {
    let mut pruned = 0;
    for seed in 0..TABLES {
        pruned += check(seed).await;
    }
    assert!(pruned > TABLES, "pruned only {pruned} files");
}

/// `cargo test --release -p gust-catalog --lib -- --ignored many_tables`
#[tokio::test]
#[ignore = "ten thousand tables take minutes"]
async fn many_tables_are_planned_with_all_of_their_rows() {
    for seed in TABLES..TABLES + 10_000 {
        check(seed).await;
    }
}
