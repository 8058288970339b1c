//! Random tables with deletes against rows that are computed (`gust_tests::random_tables`), and delete files that were damaged.
//! `lab random-tables` checks many more.

use std::collections::BTreeSet;

use gust_tests::asks::lines;
use gust_tests::query::run;
use gust_tests::random_tables::{Random, Version, Way, check, sessions};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn random_tables_have_the_rows_that_their_deletes_leave() {
    let found = check(0..240, 2).await;
    let count = found.tables;
    assert!(found.failures.is_empty(), "{} of {count} tables:\n{}", found.failures.len(), found.failures.join("\n"));
    assert!(found.deleted_rows > 10 * count && found.remote > count * 2 / 3, "{found:?}");
    // Both kinds are digested, and where room is short some of both.
    let (all, parts) = (found.digested[&Way::Digests], found.digested[&Way::Parts]);
    let half = all.tables / 2;
    assert!(all.objects > half && all.vectors > half && all.keys > half, "{found:?}");
    assert!(parts.vectors > parts.tables / 50 && parts.keys > parts.tables / 20, "{found:?}");
    assert!(parts.vectors < all.vectors && parts.keys < all.keys, "{found:?}");
    // Metrics leave files out. Where nothing can be compared with them, a condition is at most known to be false.
    let (plain, unprunable) = (found.plain, found.unprunable);
    assert!(plain.left_out > plain.files / 10 && unprunable.left_out < unprunable.files / 100, "{found:?}");
}

/// A delete file that was cut or changed is a typed error, or deletes the same: no row comes back, none is lost, and nothing panics.
/// No checksum guards the values of Parquet's pages: of a flipped bit there the rows are the table's, and no more is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_delete_file_is_an_error_or_deletes_the_same() {
    let sessions = sessions();
    let (mut errors, mut same) = (0, 0);
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(500_000 + seed);
        let folder = TempDir::new().expect("a folder");
        let table = Random::new(folder.path(), &mut random);
        let (metadata, deletes) = table.write(folder.path(), &mut random);
        let left = table.lines(Version::Now, table.left(Version::Now).into_values());
        let all: BTreeSet<String> = table.lines(Version::Now, table.all().into_values()).into_iter().collect();
        let Some((number, path)) = deletes.iter().enumerate().collect::<Vec<_>>().choose(&mut random).copied() else {
            continue;
        };
        let is_vector = table.is_vector(number);
        let good = std::fs::read(path).expect("a delete file");
        for turn in 0..4 {
            let mut bytes = good.clone();
            match turn {
                0 => bytes.truncate(random.random_range(0..bytes.len())),
                1 => bytes.extend([0; 7]),
                _ => {
                    for _ in 0..random.random_range(1..4) {
                        let at = random.random_range(0..bytes.len());
                        bytes[at] ^= 1 << random.random_range(0..8);
                    }
                }
            }
            std::fs::write(path, &bytes).expect("written");
            for (way, session) in &sessions {
                let create = format!("CREATE EXTERNAL TABLE t STORED AS ICEBERG LOCATION '{metadata}'");
                run(session, &create).await.expect("a table");
                match run(session, &format!("{} ORDER BY c1", table.sql("t"))).await {
                    Ok((rows, _)) => {
                        let rows = lines(&rows, "NULL");
                        if is_vector || turn < 2 {
                            assert_eq!(rows, left, "seed {seed}, turn {turn}, {way:?}");
                        }
                        assert!(rows.iter().all(|row| all.contains(row)), "seed {seed}, turn {turn}: {rows:?}");
                        same += 1;
                    }
                    Err(error) => {
                        let text = error.to_string();
                        assert!(!text.contains("panicked") && !text.contains("internal error"), "seed {seed}: {text}");
                        errors += 1;
                    }
                }
                run(session, "DROP TABLE t").await.expect("dropped");
            }
        }
    }
    assert!(errors > 100 && same > 50, "{errors} errors, {same} the same");
    for (_, session) in sessions {
        session.close().await;
    }
}
